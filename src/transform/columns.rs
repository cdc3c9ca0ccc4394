//! JSON values straight into Arrow builders, by the declared type of each column.
//!
//! One visitor a value: it appends, or it appends null and hands the value to `_extra`. A builder cannot be truncated, so an
//! error means that every builder is filled up, finished and cut back to the pages before. Two passes share this code: the fast one reads a page as it comes;
//! the exact one reads a record alone, sees the exact text of every value, and so loses nothing and refuses less.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder as _, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListArray, NullBufferBuilder,
    StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef, Fields};
use arrow::error::ArrowError;
use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::RejectReason;
use super::drift::{Drift, DriftKind, Extra, push_string};
use crate::catalog::{Column, ColumnType};

/// Deepest nesting that is kept as text: below the limit of 128 at which common parsers, ours among them, refuse it again.
const MAX_DEPTH: usize = 120;

/// A column under construction.
pub(super) enum Col<'p> {
    Text(StringBuilder),
    Json(StringBuilder),
    /// Ids; with the number of the child table that takes the objects found in their place.
    Ref(StringBuilder, Option<usize>),
    Int(Int64Builder, Lenient),
    Float(Float64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder, Lenient),
    List(Box<ListCol<'p>>),
    Struct(Box<StructCol<'p>>),
}

/// Whether a numeric string is taken.
type Lenient = bool;

/// How large the builders of a table became: batches of one listing resemble each other, so that the next one's are made of that
/// size, and neither grow nor hold what they do not need.
#[derive(Debug, Default, Clone)]
pub(super) struct Sizes {
    /// Rows, then elements and bytes in the order of the columns; empty before the first batch.
    sizes: Vec<usize>,
}

impl Sizes {
    /// A table of `rows`.
    pub(super) fn of(rows: usize) -> Self {
        Self { sizes: vec![rows] }
    }
    /// How many rows; none before the first batch.
    pub(super) fn rows(&self) -> usize {
        self.sizes.first().copied().unwrap_or_default()
    }
    fn add(&mut self, size: usize) {
        self.sizes.push(size + size / 8);
    }
}

/// Hands out the sizes again, in the same order.
pub(super) struct Room<'a> {
    sizes: std::slice::Iter<'a, usize>,
    pub(super) rows: usize,
}

impl<'a> Room<'a> {
    /// Of tables like that one; without one of `rows` rows.
    pub(super) fn like(sizes: &'a Sizes, rows: usize) -> Self {
        let mut sizes = sizes.sizes.iter();
        let rows = sizes.next().copied().unwrap_or(rows);
        Self { sizes, rows }
    }
    fn next(&mut self, unknown: usize) -> usize {
        self.sizes.next().copied().unwrap_or(unknown)
    }
}

pub(super) struct ListCol<'p> {
    field: FieldRef,
    item: Col<'p>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

/// The fields of an object: a nested struct, or a whole row.
pub(super) struct StructCol<'p> {
    columns: &'p [Column],
    fields: Fields,
    pub(super) cols: Vec<Col<'p>>,
    nulls: NullBufferBuilder,
    /// For each column the number of the last object that had it: a duplicate must not append twice.
    seen: Vec<u32>,
    /// Objects begun, from 1.
    row: u32,
}

impl<'p> Col<'p> {
    fn new(ty: &'p ColumnType, data: &DataType, child: Option<usize>, rows: usize, room: &mut Room<'_>) -> Self {
        let mut text = || StringBuilder::with_capacity(rows, room.next(rows * 32));
        match (ty, data) {
            (ColumnType::Text, _) => Self::Text(text()),
            (ColumnType::Json, _) => Self::Json(text()),
            (ColumnType::Ref, _) => Self::Ref(text(), child),
            (ColumnType::Int { lenient }, _) => Self::Int(Int64Builder::with_capacity(rows), *lenient),
            (ColumnType::Float, _) => Self::Float(Float64Builder::with_capacity(rows)),
            (ColumnType::Bool, _) => Self::Bool(BooleanBuilder::with_capacity(rows)),
            (ColumnType::Timestamp { lenient }, _) => {
                Self::Time(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC"), *lenient)
            }
            (ColumnType::List(item), DataType::List(field)) => {
                let items = room.next(rows);
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                Self::List(Box::new(ListCol {
                    item: Col::new(item, field.data_type(), child, items, room),
                    field: Arc::clone(field),
                    offsets,
                    nulls: NullBufferBuilder::new(rows),
                }))
            }
            (ColumnType::Struct(columns), DataType::Struct(fields)) => {
                Self::Struct(Box::new(StructCol::new(columns, fields, &[], rows, room)))
            }
            // The schema is made from the same types; were it ever not, the text loses nothing.
            (ColumnType::List(_) | ColumnType::Struct(_), _) => Self::Json(text()),
        }
    }

    pub(super) fn append_null(&mut self) {
        match self {
            Self::Text(b) | Self::Json(b) | Self::Ref(b, _) => b.append_null(),
            Self::Int(b, _) => b.append_null(),
            Self::Float(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Time(b, _) => b.append_null(),
            Self::List(l) => {
                l.offsets.push(l.offsets.last().copied().unwrap_or_default());
                l.nulls.append_null();
            }
            Self::Struct(s) => {
                s.cols.iter_mut().for_each(Col::append_null);
                s.nulls.append_null();
            }
        }
    }

    /// Appends an id, or null where the column cannot hold one.
    pub(super) fn append_id(&mut self, id: &str) {
        match self {
            Self::Text(b) | Self::Ref(b, _) => b.append_value(id),
            other => other.append_null(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(b) | Self::Json(b) | Self::Ref(b, _) => b.offsets_slice().len() - 1,
            Self::Int(b, _) => b.values_slice().len(),
            Self::Float(b) => b.values_slice().len(),
            Self::Bool(b) => b.len(),
            Self::Time(b, _) => b.values_slice().len(),
            Self::List(l) => l.offsets.len() - 1,
            Self::Struct(s) => s.nulls.len(),
        }
    }

    /// Cells of its longest part: an error in the middle of a record leaves them uneven.
    fn longest(&self) -> usize {
        match self {
            Self::Struct(s) => s.cols.iter().map(Col::longest).max().unwrap_or_default().max(s.nulls.len()),
            other => other.len(),
        }
    }

    /// Makes all its parts as long as that.
    fn pad(&mut self, rows: usize) {
        match self {
            Self::List(l) => {
                let items = l.item.longest();
                l.item.pad(items);
            }
            Self::Struct(s) => {
                s.cols.iter_mut().for_each(|c| c.pad(rows));
                s.nulls.append_n_nulls(rows - s.nulls.len());
                return;
            }
            _ => {}
        }
        while self.len() < rows {
            self.append_null();
        }
    }

    /// Whether the last value appended is one.
    pub(super) fn last_is_valid(&self) -> bool {
        let Some(last) = self.len().checked_sub(1) else { return false };
        let validity = match self {
            Self::Text(b) | Self::Json(b) | Self::Ref(b, _) => b.validity_slice(),
            Self::Int(b, _) => b.validity_slice(),
            Self::Float(b) => b.validity_slice(),
            Self::Bool(b) => b.validity_slice(),
            Self::Time(b, _) => b.validity_slice(),
            Self::List(l) => l.nulls.as_slice(),
            Self::Struct(s) => s.nulls.as_slice(),
        };
        validity.is_none_or(|bits| bits.get(last / 8).is_some_and(|byte| byte & (1 << (last % 8)) != 0))
    }

    /// The last text appended.
    fn last_text(&self) -> Option<&str> {
        let (Self::Text(b) | Self::Ref(b, _)) = self else { return None };
        let [.., from, to] = b.offsets_slice() else { return None };
        let bytes = b.values_slice().get(usize::try_from(*from).ok()?..usize::try_from(*to).ok()?)?;
        std::str::from_utf8(bytes).ok()
    }

    pub(super) fn finish(self, sizes: &mut Sizes) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(mut b) | Self::Json(mut b) | Self::Ref(mut b, _) => {
                sizes.add(b.values_slice().len());
                Arc::new(b.finish())
            }
            Self::Int(mut b, _) => Arc::new(b.finish()),
            Self::Float(mut b) => Arc::new(b.finish()),
            Self::Bool(mut b) => Arc::new(b.finish()),
            Self::Time(mut b, _) => Arc::new(b.finish()),
            Self::List(l) => {
                let mut l = *l;
                sizes.add(l.item.len());
                let values = l.item.finish(sizes)?;
                Arc::new(ListArray::try_new(l.field, OffsetBuffer::new(l.offsets.into()), values, l.nulls.finish())?)
            }
            Self::Struct(s) => {
                let mut s = *s;
                let arrays = s.cols.into_iter().map(|c| c.finish(sizes)).collect::<Result<Vec<_>, _>>()?;
                Arc::new(StructArray::try_new(s.fields, arrays, s.nulls.finish())?)
            }
        })
    }
}

impl<'p> StructCol<'p> {
    /// Builders for `columns`; `children[i]` is the child table that takes the objects of column `i`.
    pub(super) fn new(
        columns: &'p [Column],
        fields: &Fields,
        children: &[Option<usize>],
        rows: usize,
        room: &mut Room<'_>,
    ) -> Self {
        let cols = columns
            .iter()
            .zip(fields)
            .enumerate()
            .map(|(i, (c, f))| Col::new(&c.ty, f.data_type(), children.get(i).copied().flatten(), rows, room))
            .collect();
        Self {
            columns,
            fields: fields.clone(),
            cols,
            nulls: NullBufferBuilder::new(rows),
            seen: vec![0; columns.len()],
            row: 0,
        }
    }
}

/// A table under construction.
pub(super) struct Rows<'p> {
    pub(super) fields: StructCol<'p>,
    pub(super) extra: StringBuilder,
    keys: &'p [usize],
    keep_extra: bool,
    pub(super) len: u32,
    /// Where its objects stand in the listing's records, for drift: empty, or `/applications/*`.
    prefix: &'p str,
    scratch: String,
}

impl<'p> Rows<'p> {
    pub(super) fn new(
        fields: StructCol<'p>,
        keys: &'p [usize],
        keep_extra: bool,
        prefix: &'p str,
        rows: usize,
    ) -> Self {
        let extra = StringBuilder::with_capacity(rows, 0);
        Self { fields, extra, keys, keep_extra, len: 0, prefix, scratch: String::new() }
    }

    /// Makes all columns of one length, after an error in the middle of a record.
    pub(super) fn pad(&mut self) {
        let cells = self.fields.cols.iter().map(Col::longest).chain([self.extra.len()]);
        let rows = cells.max().unwrap_or_default();
        self.fields.cols.iter_mut().for_each(|c| c.pad(rows));
        while self.extra.len() < rows {
            self.extra.append_null();
        }
    }

    /// A row that has nothing but an id in its key.
    fn append_id(&mut self, id: Option<&str>) {
        for (i, col) in self.fields.cols.iter_mut().enumerate() {
            match id {
                Some(id) if self.keys.contains(&i) => col.append_id(id),
                _ => col.append_null(),
            }
        }
        self.extra.append_null();
        self.len += 1;
    }

    /// Reads one object.
    pub(super) fn read<'de, A: MapAccess<'de>>(&mut self, ctx: &mut Ctx<'p>, map: A) -> Result<(), A::Error> {
        let mark = ctx.extras.len();
        let keep = std::mem::replace(&mut ctx.keep, self.keep_extra);
        read_object(&mut self.fields, ctx, map)?;
        ctx.keep = keep;
        if !self.keys.iter().all(|k| self.fields.cols.get(*k).is_some_and(Col::last_is_valid)) {
            return Err(ctx.refuse(RejectReason::KeyMissing));
        }
        if ctx.extras.len() == mark {
            self.extra.append_null();
        } else {
            self.scratch.clear();
            for extra in ctx.extras.drain(mark..) {
                extra.put(self.prefix, &mut ctx.drift, &mut self.scratch);
            }
            self.scratch.push('}');
            self.extra.append_value(&self.scratch);
        }
        self.len += 1;
        Ok(())
    }
}

/// A row taken out of a record.
pub(super) const ROW: i8 = 0;
/// The parent's field was read.
pub(super) const READ: i8 = 1;
/// An id stood in place of the object.
pub(super) const BARE: i8 = 2;

/// A table filled from the objects found in a column.
pub(super) struct Child<'p> {
    pub(super) rows: Rows<'p>,
    pub(super) by_parent: bool,
    /// For each row, that of the record it was found in.
    pub(super) parents: Vec<u32>,
    pub(super) kinds: Vec<i8>,
}

impl Child<'_> {
    fn came(&mut self, parent: u32, kind: i8) {
        self.parents.push(parent);
        self.kinds.push(kind);
    }
}

/// What a page collects beside the cells.
pub(super) struct Ctx<'p> {
    /// Whether values show their exact text.
    pub(super) exact: bool,
    /// Whether the row at hand keeps what does not fit.
    keep: bool,
    /// The record at hand.
    pub(super) row: u32,
    pub(super) extras: Vec<Extra>,
    /// `None` only while one is being filled.
    pub(super) children: Vec<Option<Box<Child<'p>>>>,
    pub(super) drift: Drift,
    /// Why the decoder gave up: serde's errors quote values, so their text is never used.
    pub(super) refused: Option<RejectReason>,
}

impl<'p> Ctx<'p> {
    pub(super) fn new(exact: bool, children: Vec<Option<Box<Child<'p>>>>) -> Self {
        Self { exact, keep: true, row: 0, extras: Vec::new(), children, drift: Drift::default(), refused: None }
    }

    /// Forgets the record at hand and what its page has said so far.
    pub(super) fn forget(&mut self) {
        self.keep = true;
        self.extras.clear();
        self.drift = Drift::default();
        self.refused = None;
    }

    fn refuse<E: serde::de::Error>(&mut self, why: RejectReason) -> E {
        self.refused = Some(why);
        E::custom("refused")
    }

    /// Keeps a value that no cell holds.
    fn put_aside<E: serde::de::Error>(&mut self, json: String, drift: Option<DriftKind>) -> Result<(), E> {
        if self.keep {
            if too_deep(&json) {
                return Err(self.refuse(RejectReason::TooDeep));
            }
            self.extras.push(Extra::here(json, drift));
        }
        Ok(())
    }

    fn undeclared<E: serde::de::Error>(&mut self, key: &str, raw: &RawValue) -> Result<(), E> {
        if self.keep {
            if too_deep(raw.get()) {
                return Err(self.refuse(RejectReason::TooDeep));
            }
            self.extras.push(Extra::at(key, raw.get().to_owned(), Some(DriftKind::Undeclared)));
        }
        Ok(())
    }

    fn child(&mut self, k: Option<usize>) -> Option<&mut Child<'p>> {
        self.children.get_mut(k?)?.as_deref_mut()
    }

    /// Notes that the children of the record at hand were read.
    fn mark(&mut self, k: Option<usize>) {
        let parent = self.row;
        if let Some(child) = self.child(k).filter(|c| c.by_parent) {
            child.rows.append_id(None);
            child.came(parent, READ);
        }
    }

    /// Notes that an id stands where an object was asked for.
    fn bare(&mut self, k: Option<usize>, id: &str) {
        let parent = self.row;
        if let Some(child) = self.child(k).filter(|c| c.by_parent) {
            child.rows.append_id(Some(id));
            child.came(parent, BARE);
        }
    }
}

/// Whether text that is JSON nests deeper than can be read again.
fn too_deep(json: &str) -> bool {
    if json.len() <= 2 * MAX_DEPTH {
        return false;
    }
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for b in json.bytes() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

enum Key {
    Column(usize),
    Unknown(String),
}

/// Finds the column of a key, beginning with the one that came next the last time: the order of keys is stable.
struct KeySeed<'a> {
    columns: &'a [Column],
    hint: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Key, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Key;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        let (before, after) = self.columns.split_at(self.hint.min(self.columns.len()));
        let found = after
            .iter()
            .position(|c| c.source == key)
            .map(|i| i + before.len())
            .or_else(|| before.iter().position(|c| c.source == key));
        Ok(found.map_or_else(|| Key::Unknown(key.to_owned()), Key::Column))
    }
}

fn read_object<'de, 'p, A: MapAccess<'de>>(
    s: &mut StructCol<'p>,
    ctx: &mut Ctx<'p>,
    mut map: A,
) -> Result<(), A::Error> {
    s.row = s.row.wrapping_add(1);
    let (mut hint, mut filled) = (0, 0);
    while let Some(key) = map.next_key_seed(KeySeed { columns: s.columns, hint })? {
        match key {
            Key::Column(i) if s.seen[i] != s.row => {
                s.seen[i] = s.row;
                hint = i + 1;
                filled += 1;
                let mark = ctx.extras.len();
                let column = &s.columns[i];
                map.next_value_seed(Value { col: &mut s.cols[i], also: &column.also, ctx, whole: true })?;
                for extra in &mut ctx.extras[mark..] {
                    extra.below_key(&column.source);
                }
            }
            Key::Column(i) => ctx.undeclared(&s.columns[i].source, map.next_value()?)?,
            Key::Unknown(key) => ctx.undeclared(&key, map.next_value()?)?,
        }
    }
    if filled < s.cols.len() {
        for (col, seen) in s.cols.iter_mut().zip(&s.seen) {
            if *seen != s.row {
                col.append_null();
            }
        }
    }
    s.nulls.append_non_null();
    Ok(())
}

/// One value on its way into a column.
struct Value<'a, 'p> {
    col: &'a mut Col<'p>,
    also: &'p [String],
    ctx: &'a mut Ctx<'p>,
    /// Whether it is all of the column's cell, not an element of its list.
    whole: bool,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        if let Col::Json(b) = self.col {
            let raw = <&RawValue>::deserialize(d)?;
            if raw.get() == "null" {
                b.append_null();
            } else if too_deep(raw.get()) {
                return Err(self.ctx.refuse(RejectReason::TooDeep));
            } else {
                b.append_value(raw.get());
            }
            return Ok(());
        }
        // A float always by its text: serde_json's own reading of it may miss the last bit, and the two passes must agree.
        if self.ctx.exact || matches!(self.col, Col::Float(_)) {
            return self.exact(<&RawValue>::deserialize(d)?);
        }
        d.deserialize_any(self)
    }
}

impl Value<'_, '_> {
    /// The exact pass: what the visitor would spoil is handled by its text.
    fn exact<E: serde::de::Error>(self, raw: &RawValue) -> Result<(), E> {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => {
                if let Some(n) = canonical(text) {
                    return self.visit_i64(n);
                }
                match (text.parse::<f64>(), &mut *self.col) {
                    (Ok(n), Col::Float(b))
                        if n.is_finite() && (text.contains(['.', 'e', 'E']) || exact_float(n, text)) =>
                    {
                        b.append_value(n);
                        Ok(())
                    }
                    _ => self.misfit(text.to_owned()),
                }
            }
            // A lone surrogate: correct JSON, but no text.
            Some(b'"') => match serde_json::from_str::<String>(text) {
                Ok(decoded) => self.visit_str(&decoded),
                Err(_) => self.misfit(text.to_owned()),
            },
            Some(b'{') if matches!(&*self.col, Col::Ref(_, Some(k)) if !self.ctx.has_key(*k, text)) => {
                self.misfit(text.to_owned())
            }
            _ => {
                let mut nested = serde_json::Deserializer::from_str(text);
                (&mut nested).deserialize_any(self).map_err(|_| E::custom("refused"))
            }
        }
    }

    /// Null in the cell, the value in `_extra`.
    fn misfit<E: serde::de::Error>(self, json: String) -> Result<(), E> {
        self.col.append_null();
        self.ctx.put_aside(json, Some(DriftKind::Misfit))
    }
}

impl Ctx<'_> {
    /// Whether an object has every key that the rows of a child table need.
    fn has_key(&self, k: usize, json: &str) -> bool {
        let Some(child) = self.children.get(k).and_then(Option::as_deref) else { return false };
        child.rows.keys.iter().all(|i| {
            let Some(column) = child.rows.fields.columns.get(*i) else { return false };
            let mut found = None;
            let mut de = serde_json::Deserializer::from_str(json);
            let read = (&mut de).deserialize_map(First { key: &column.source, found: &mut found });
            read.is_ok()
                && found.is_some_and(|raw: &RawValue| match column.ty {
                    ColumnType::Int { .. } => canonical(raw.get()).is_some(),
                    _ => raw.get().starts_with('"') && serde_json::from_str::<String>(raw.get()).is_ok(),
                })
        })
    }
}

/// The first value under a key.
struct First<'a, 'de> {
    key: &'a str,
    found: &'a mut Option<&'de RawValue>,
}

impl<'de> Visitor<'de> for First<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let raw: &'de RawValue = map.next_value()?;
            if key == self.key && self.found.is_none() {
                *self.found = Some(raw);
            }
        }
        Ok(())
    }
}

/// `-?[1-9][0-9]*|0` within 64 bits.
pub(super) fn canonical(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    match digits {
        [b'0'] => (text == "0").then_some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => text.parse().ok(),
        _ => None,
    }
}

/// Whether an integer of many digits is what its float says.
fn exact_float(n: f64, text: &str) -> bool {
    format!("{n:.0}") == text
}

/// Whether a float holds an integer exactly: every one up to 2^53 in size.
fn float_of(n: i64) -> Option<f64> {
    const LIMIT: u64 = 1 << 53;
    #[expect(clippy::cast_precision_loss, reason = "within 53 bits nothing is lost")]
    (n.unsigned_abs() <= LIMIT).then_some(n as f64)
}

fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    push_string(&mut json, text);
    json
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        if self.whole {
            match &*self.col {
                Col::Ref(_, k) => self.ctx.mark(*k),
                Col::List(l) => {
                    if let Col::Ref(_, k) = l.item {
                        self.ctx.mark(k);
                    }
                }
                _ => {}
            }
        }
        self.col.append_null();
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<(), E> {
        if let Col::Bool(b) = self.col {
            b.append_value(v);
            return Ok(());
        }
        self.misfit(v.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<(), E> {
        match &mut *self.col {
            Col::Int(b, _) => b.append_value(v),
            Col::Time(b, _) => match v.checked_mul(1000) {
                Some(us) => b.append_value(us),
                None => return self.misfit(v.to_string()),
            },
            Col::Float(b) => match float_of(v) {
                Some(f) => b.append_value(f),
                None => return self.misfit(v.to_string()),
            },
            _ => return self.misfit(v.to_string()),
        }
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<(), E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => self.misfit(v.to_string()),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        // A misfit in any case, whose text only the exact pass has.
        Err(E::custom("inexact"))
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<(), E> {
        match &mut *self.col {
            Col::Text(b) => b.append_value(v),
            Col::Ref(b, k) => {
                b.append_value(v);
                if self.whole {
                    self.ctx.mark(*k);
                }
                self.ctx.bare(*k, v);
            }
            Col::Int(b, true) if let Some(n) = canonical(v) => b.append_value(n),
            Col::Time(b, true) if let Some(us) = canonical(v).and_then(|n| n.checked_mul(1000)) => b.append_value(us),
            _ => {
                let drift = (!self.also.iter().any(|a| a == v)).then_some(DriftKind::Misfit);
                self.col.append_null();
                return self.ctx.put_aside(quoted(v), drift);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Value { col, also, ctx, .. } = self;
        let Col::List(list) = col else {
            let mut json = String::from("[");
            while let Some(raw) = seq.next_element::<&RawValue>()? {
                if json.len() > 1 {
                    json.push(',');
                }
                json.push_str(raw.get());
            }
            json.push(']');
            col.append_null();
            return ctx.put_aside(json, Some(DriftKind::Misfit));
        };
        if let Col::Ref(_, k) = list.item {
            ctx.mark(k);
        }
        let mut index = 0;
        loop {
            let mark = ctx.extras.len();
            let element = Value { col: &mut list.item, also, ctx, whole: false };
            if seq.next_element_seed(element)?.is_none() {
                break;
            }
            for extra in &mut ctx.extras[mark..] {
                extra.below_index(index);
            }
            index += 1;
        }
        let end = i32::try_from(list.item.len()).map_err(|_| A::Error::custom("too many elements"))?;
        list.offsets.push(end);
        list.nulls.append_non_null();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Value { col, ctx, whole, .. } = self;
        match col {
            Col::Struct(s) => read_object(s, ctx, map),
            Col::Ref(ids, Some(k)) => {
                let k = *k;
                if whole {
                    ctx.mark(Some(k));
                }
                let Some(mut child) = ctx.children.get_mut(k).and_then(Option::take) else {
                    return Err(A::Error::custom("a child inside itself"));
                };
                if let Err(e) = child.rows.read(ctx, map) {
                    ctx.children[k] = Some(child);
                    return Err(e);
                }
                child.came(ctx.row, ROW);
                let key = child.rows.keys.first().and_then(|i| child.rows.fields.cols.get(*i));
                ids.append_option(key.and_then(Col::last_text));
                ctx.children[k] = Some(child);
                Ok(())
            }
            other => {
                let (json, id) = collect(map)?;
                match (other, id) {
                    // An object that nobody asked for: the id is what the column is about, the rest is kept.
                    (Col::Ref(ids, None), Some(id)) => {
                        ids.append_value(id);
                        ctx.put_aside(json, Some(DriftKind::Undeclared))
                    }
                    (col, _) => {
                        col.append_null();
                        ctx.put_aside(json, Some(DriftKind::Misfit))
                    }
                }
            }
        }
    }
}

/// An object as text, its values untouched, and its `id` where that is a string.
fn collect<'de, A: MapAccess<'de>>(mut map: A) -> Result<(String, Option<String>), A::Error> {
    let mut json = String::from("{");
    let mut id = None;
    while let Some(key) = map.next_key::<String>()? {
        let raw: &RawValue = map.next_value()?;
        if json.len() > 1 {
            json.push(',');
        }
        push_string(&mut json, &key);
        json.push(':');
        json.push_str(raw.get());
        if key == "id" && id.is_none() {
            id = Some(serde_json::from_str::<String>(raw.get()).ok());
        }
    }
    json.push('}');
    Ok((json, id.flatten()))
}
