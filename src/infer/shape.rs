//! What the values of a field look like, over all records seen: counts of types, never a value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::catalog::{
    Class, Column, ColumnType, Names, Proposed, Provider, is_known_as_personal, is_personal, likely_class, may_be_time,
};

/// Structs inside each other that are proposed; what nests deeper is read more easily out of JSON.
const MOST_DEPTH: usize = 3;
/// Fields of an object beyond which its keys are likely ids.
const MOST_FIELDS: usize = 60;
/// Lists inside each other that a catalogue takes.
const MOST_LISTS: usize = 3;
/// Epoch milliseconds of 2005 to 2100.
const EPOCH_MS: std::ops::Range<i64> = 1_104_537_600_000..4_102_444_800_000;
/// Names of free text, which may say anything of anybody.
const FREE_TEXT: [&str; 12] = [
    "answer",
    "answers",
    "body",
    "content",
    "description",
    "fields",
    "location",
    "message",
    "subject",
    "summary",
    "text",
    "value",
];

/// A JSON value that keeps the order of its keys.
pub(super) enum Json {
    Null,
    Bool,
    Int(i64),
    Float,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
    /// The value under keys with dots between them; the value itself for `.`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').filter(|k| !k.is_empty()).try_fold(self, |at, key| at.get(key))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }
    fn visit_i64<E>(self, v: i64) -> Result<Json, E> {
        Ok(Json::Int(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Json, E> {
        Ok(i64::try_from(v).map_or(Json::Float, Json::Int))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Float)
    }
    fn visit_str<E>(self, v: &str) -> Result<Json, E> {
        Ok(Json::Text(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }
}

/// Counts of what a field held.
#[derive(Debug, Default)]
pub(super) struct Shape {
    nulls: u64,
    bools: u64,
    /// Whole numbers, times among them.
    ints: u64,
    epochs: u64,
    floats: u64,
    /// Strings, the next three among them.
    texts: u64,
    uuids: u64,
    digits: u64,
    epoch_digits: u64,
    dates: u64,
    lists: u64,
    pub(super) objects: u64,
    item: Option<Box<Shape>>,
    /// In the order in which they were first met.
    pub(super) fields: Vec<(String, Shape)>,
}

impl Shape {
    pub(super) fn add(&mut self, value: &Json) {
        match value {
            Json::Null => self.nulls += 1,
            Json::Bool => self.bools += 1,
            Json::Int(n) => {
                self.ints += 1;
                self.epochs += u64::from(EPOCH_MS.contains(n));
            }
            Json::Float => self.floats += 1,
            Json::Text(text) => {
                self.texts += 1;
                self.uuids += u64::from(is_uuid(text));
                let number = text.parse::<i64>().ok().filter(|n| n.to_string() == *text);
                self.digits += u64::from(number.is_some());
                self.epoch_digits += u64::from(number.is_some_and(|n| EPOCH_MS.contains(&n)));
                self.dates += u64::from(is_date(text));
            }
            Json::List(items) => {
                self.lists += 1;
                let shape = self.item.get_or_insert_default();
                items.iter().for_each(|i| shape.add(i));
            }
            Json::Object(fields) => {
                self.objects += 1;
                for (i, (key, value)) in fields.iter().enumerate() {
                    // The order of keys is stable, so it is likely the next one.
                    let there = match self.fields.get(i) {
                        Some((k, _)) if k == key => Some(i),
                        _ => self.fields.iter().position(|(k, _)| k == key),
                    };
                    let at = there.unwrap_or_else(|| {
                        self.fields.push((key.clone(), Self::default()));
                        self.fields.len() - 1
                    });
                    if let Some((_, shape)) = self.fields.get_mut(at) {
                        shape.add(value);
                    }
                }
            }
        }
    }

    fn values(&self) -> u64 {
        self.bools + self.ints + self.floats + self.texts + self.lists + self.objects
    }

    /// How often it was there.
    pub(super) fn count(&self) -> u64 {
        self.nulls + self.values()
    }

    /// Whether each of `of` records has it, with a value that can identify a row.
    pub(super) fn can_identify(&self, of: u64) -> bool {
        self.nulls == 0 && (self.texts == of || self.ints == of)
    }

    /// The type that takes all that was seen; `None` where there was no value to tell it by.
    pub(super) fn ty(&self, name: &str, is_key: bool) -> Option<ColumnType> {
        self.typed(name, is_key, 0, 0)
    }

    fn typed(&self, name: &str, is_key: bool, structs: usize, lists: usize) -> Option<ColumnType> {
        let all = self.values();
        let numbers = self.ints + self.floats;
        Some(match () {
            () if all == 0 => return None,
            () if self.bools == all => ColumnType::Bool,
            () if self.epochs + self.epoch_digits == all && may_be_time(name) => {
                ColumnType::Timestamp { lenient: true }
            }
            () if self.ints == all => ColumnType::Int { lenient: false },
            () if numbers == all => ColumnType::Float,
            () if self.ints > 0 && self.ints + self.digits == all => ColumnType::Int { lenient: true },
            () if self.uuids == all && !is_key => ColumnType::Ref,
            () if self.texts == all => ColumnType::Text,
            () if self.lists == all => {
                let item = self.item.as_ref()?;
                if lists + 1 >= MOST_LISTS && item.lists > 0 {
                    return Some(ColumnType::Json);
                }
                match item.typed(name, false, structs, lists + 1)? {
                    // A list of anything is anything.
                    ColumnType::Json => ColumnType::Json,
                    item => ColumnType::List(Box::new(item)),
                }
            }
            () if self.objects == all => self.object(structs)?,
            () => ColumnType::Json,
        })
    }

    fn object(&self, structs: usize) -> Option<ColumnType> {
        let keys_are_ids = self.fields.iter().any(|(k, _)| is_uuid(k)) || self.fields.len() > MOST_FIELDS;
        if structs >= MOST_DEPTH || keys_are_ids {
            return Some(ColumnType::Json);
        }
        let mut names = Names::default();
        let mut columns = Vec::new();
        for (wire, shape) in &self.fields {
            // Nothing can be added to a struct later, so one of whose fields the type is not known is taken as it comes.
            let ty = shape.typed(wire, false, structs + 1, 0).unwrap_or(ColumnType::Json);
            columns.push(Column { source: wire.clone(), ..Column::plain(&names.name(wire), ty) });
        }
        (!columns.is_empty()).then_some(ColumnType::Struct(columns))
    }

    /// What was seen, for a comment: counts and types.
    pub(super) fn said(&self, of: u64) -> String {
        let mut kinds = Vec::new();
        for (n, what) in [
            (self.bools, "bool"),
            (self.ints, "integer"),
            (self.floats, "fraction"),
            (self.texts, "string"),
            (self.lists, "array"),
            (self.objects, "object"),
        ] {
            if n > 0 {
                kinds.push(if n == self.values() { what.to_owned() } else { format!("{what} ×{n}") });
            }
        }
        let mut said = format!("in {} of {of}", self.count());
        if self.nulls > 0 {
            said += &format!(", null in {}", self.nulls);
        }
        if !kinds.is_empty() {
            said += &format!(": {}", kinds.join(", "));
        }
        if self.dates > 0 && self.dates == self.values() {
            said += " that is a date: there is no type for it but text";
        }
        if self.epochs > 0 && self.epochs == self.values() {
            said += " as large as epoch milliseconds";
        }
        said
    }

    /// Columns for the fields of records, and sentences about those that cannot have one yet.
    pub(super) fn columns(
        &self,
        provider: &Provider,
        names: &mut Names,
        keys: &[&str],
        skip: &[&str],
    ) -> (Vec<Proposed>, Vec<String>) {
        let (mut columns, mut rest) = (Vec::new(), Vec::new());
        for (wire, shape) in self.fields.iter().filter(|(w, _)| !skip.contains(&w.as_str())) {
            let is_key = keys.contains(&wire.as_str());
            let note = shape.said(self.objects);
            match shape.ty(wire, is_key) {
                Some(ty) => {
                    let sensitive = !is_key && (is_known_as_personal(provider, wire) || is_sensitive(wire, &ty));
                    let text = || is_free_text(wire).then_some(Class::FreeText);
                    let class = likely_class(provider, wire, &ty).or_else(text).filter(|_| sensitive);
                    let column = Column { sensitive, class, ..Column::plain(&names.name(wire), ty) };
                    let column = Column { source: wire.clone(), ..column };
                    columns.push(Proposed { column, note });
                }
                None => rest.push(format!("`{wire}` {note}: its type is not known, so it stays in `_extra` for now")),
            }
        }
        (columns, rest)
    }
}

fn is_free_text(name: &str) -> bool {
    FREE_TEXT.iter().any(|f| name.eq_ignore_ascii_case(f))
}

/// Whether a column likely holds something of a person.
fn is_sensitive(name: &str, ty: &ColumnType) -> bool {
    match ty {
        ColumnType::List(item) => is_sensitive(name, item),
        ColumnType::Struct(fields) => is_personal(name) || fields.iter().any(|f| is_sensitive(&f.source, &f.ty)),
        ColumnType::Json => true,
        ColumnType::Text => is_personal(name) || is_free_text(name),
        ColumnType::Int { .. } | ColumnType::Float => is_personal(name),
        ColumnType::Bool | ColumnType::Timestamp { .. } | ColumnType::Ref => false,
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// `2026-01-31`, alone or with a time behind it.
fn is_date(text: &str) -> bool {
    let b = text.as_bytes();
    let shaped = b.len() >= 10
        && b.iter().take(10).enumerate().all(|(i, b)| match i {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        });
    shaped && matches!(b.get(10), None | Some(b'T' | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_takes_all_that_was_seen_and_no_more() {
        let cases = [
            ("n", "[1, 2]"),
            ("n", "[1, 2.5, null]"),
            ("n", "[1, \"2\"]"),
            ("n", "[1, \"two\"]"),
            ("n", "[true, null]"),
            ("createdAt", "[1700000000000, \"1700000000001\"]"),
            ("createdAt", "[1700000000000, 5]"),
            ("size", "[1700000000000]"),
            ("owner", "[\"0a1b2c3d-0000-4000-8000-00000000000a\"]"),
            ("owner", "[\"0a1b2c3d-0000-4000-8000-00000000000a\", \"x\"]"),
            ("day", "[\"2026-01-31\"]"),
            ("nothing", "[null, null]"),
            ("empty", "[[], null]"),
            ("tags", "[[\"a\"], []]"),
            ("tags", "[[\"a\", 1]]"),
            ("deep", "[[[[[1]]]]]"),
            ("o", "[{\"a\": 1, \"Bc\": null}, {\"a\": 2, \"d\": {\"e\": true}}]"),
            ("o", "[{}]"),
            ("o", "[{\"a\": 1}, \"x\"]"),
            ("o", "[[{\"a\": 1}]]"),
            ("o", "[{\"a\": {\"b\": {\"c\": {\"d\": 1}}}}]"),
            ("o", "[{\"0a1b2c3d-0000-4000-8000-00000000000a\": 1}]"),
            ("big", "[18446744073709551615]"),
        ];
        let mut said = String::new();
        for (name, values) in cases {
            let mut shape = Shape::default();
            let Json::List(values_) = serde_json::from_str(values).unwrap() else { panic!() };
            values_.iter().for_each(|v| shape.add(v));
            let ty = shape.ty(name, false).map_or_else(|| "-".to_owned(), |t| t.to_string());
            said += &format!("{name} {values}: {ty} ({})\n", shape.said(values_.len() as u64));
        }
        insta::assert_snapshot!(said, @r#"
        n [1, 2]: int (in 2 of 2: integer)
        n [1, 2.5, null]: float (in 3 of 3, null in 1: integer ×1, fraction ×1)
        n [1, "2"]: int(lenient) (in 2 of 2: integer ×1, string ×1)
        n [1, "two"]: json (in 2 of 2: integer ×1, string ×1)
        n [true, null]: bool (in 2 of 2, null in 1: bool)
        createdAt [1700000000000, "1700000000001"]: timestamp(lenient) (in 2 of 2: integer ×1, string ×1)
        createdAt [1700000000000, 5]: int (in 2 of 2: integer)
        size [1700000000000]: int (in 1 of 1: integer as large as epoch milliseconds)
        owner ["0a1b2c3d-0000-4000-8000-00000000000a"]: ref (in 1 of 1: string)
        owner ["0a1b2c3d-0000-4000-8000-00000000000a", "x"]: text (in 2 of 2: string)
        day ["2026-01-31"]: text (in 1 of 1: string that is a date: there is no type for it but text)
        nothing [null, null]: - (in 2 of 2, null in 2)
        empty [[], null]: - (in 2 of 2, null in 1: array)
        tags [["a"], []]: list<text> (in 2 of 2: array)
        tags [["a", 1]]: json (in 1 of 1: array)
        deep [[[[[1]]]]]: json (in 1 of 1: array)
        o [{"a": 1, "Bc": null}, {"a": 2, "d": {"e": true}}]: struct<a: int, bc: json, d: struct<e: bool>> (in 2 of 2: object)
        o [{}]: - (in 1 of 1: object)
        o [{"a": 1}, "x"]: json (in 2 of 2: string ×1, object ×1)
        o [[{"a": 1}]]: list<struct<a: int>> (in 1 of 1: array)
        o [{"a": {"b": {"c": {"d": 1}}}}]: struct<a: struct<b: struct<c: json>>> (in 1 of 1: object)
        o [{"0a1b2c3d-0000-4000-8000-00000000000a": 1}]: json (in 1 of 1: object)
        big [18446744073709551615]: float (in 1 of 1: fraction)
        "#);
    }
}
