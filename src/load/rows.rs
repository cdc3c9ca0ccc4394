//! Rows as the merge sees them: a batch, its rows in comparable form, and the few columns that decide.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, Rows, SortField};
use twox_hash::XxHash64;

use super::KEY_SEPARATOR;
use super::error::Fault;
use crate::catalog::{DELETED_AT, HASH, SYNCED_AT, Table};

/// Column of a spilled run: the place of the row's response in the run.
pub(super) const SEQ: &str = "__seq";
/// Column of a spilled run: 0 row, 1 "this parent was read", 2 bare id.
pub(super) const KIND: &str = "__kind";

/// A column of 64-bit numbers or microseconds, read without regard to which.
pub(super) struct I64s {
    values: ScalarBuffer<i64>,
    nulls: Option<NullBuffer>,
}

impl I64s {
    pub(super) fn new(array: &ArrayRef, name: &str) -> Result<Self, Fault> {
        let values = match array.data_type() {
            DataType::Int64 => array.as_primitive::<Int64Type>().values().clone(),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                array.as_primitive::<TimestampMicrosecondType>().values().clone()
            }
            other => return Err(Fault::Batch(format!("column {name} is {other}, not a number or a time"))),
        };
        Ok(Self { values, nulls: array.nulls().cloned() })
    }
    pub(super) fn get(&self, i: usize) -> Option<i64> {
        if self.nulls.as_ref().is_some_and(|n| n.is_null(i)) { None } else { self.values.get(i).copied() }
    }
    /// The value of a column that is never null.
    pub(super) fn at(&self, i: usize) -> i64 {
        self.get(i).unwrap_or_default()
    }
}

/// The text of a key, or of a parent's id: the parts joined with [`KEY_SEPARATOR`], a null part being empty.
pub(super) struct Keys(Vec<ArrayRef>);

impl Keys {
    pub(super) fn new(columns: Vec<ArrayRef>) -> Result<Self, Fault> {
        for c in &columns {
            match c.data_type() {
                DataType::Utf8 | DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _) => {}
                other => return Err(Fault::Batch(format!("a key cannot be of type {other}"))),
            }
        }
        Ok(Self(columns))
    }
    pub(super) fn get(&self, i: usize) -> Cow<'_, str> {
        match self.0.as_slice() {
            [one] => part(one, i),
            many => {
                let mut text = String::new();
                for (n, column) in many.iter().enumerate() {
                    if n > 0 {
                        text.push(KEY_SEPARATOR);
                    }
                    text.push_str(&part(column, i));
                }
                Cow::Owned(text)
            }
        }
    }
    /// Whether nothing of the key is there.
    pub(super) fn is_null(&self, i: usize) -> bool {
        self.0.iter().all(|c| c.is_null(i))
    }
    pub(super) fn hash(&self, i: usize) -> u64 {
        key_hash(&self.get(i))
    }
}

fn part(column: &ArrayRef, i: usize) -> Cow<'_, str> {
    if column.is_null(i) {
        return Cow::Borrowed("");
    }
    match column.data_type() {
        DataType::Utf8 => Cow::Borrowed(column.as_string::<i32>().value(i)),
        DataType::Int64 => Cow::Owned(column.as_primitive::<Int64Type>().value(i).to_string()),
        _ => Cow::Owned(column.as_primitive::<TimestampMicrosecondType>().value(i).to_string()),
    }
}

/// The hash that cuts a table into buckets. It must never change: it says in which file a row lives.
pub(super) fn key_hash(key: &str) -> u64 {
    XxHash64::oneshot(0, key.as_bytes())
}

/// Which columns of a table a batch holds, and where: table index → position in the batch.
#[derive(Clone)]
pub(super) struct Held {
    positions: Arc<[Option<usize>]>,
}

impl Held {
    /// All of them, in order.
    pub(super) fn all(table: &Table) -> Self {
        Self { positions: (0..table.schema.fields().len()).map(Some).collect() }
    }
    /// Only `columns`, which are sorted table indices.
    pub(super) fn only(table: &Table, columns: &[usize]) -> Self {
        Self { positions: (0..table.schema.fields().len()).map(|i| columns.binary_search(&i).ok()).collect() }
    }
    pub(super) fn column<'a>(&self, batch: &'a RecordBatch, i: usize) -> Result<&'a ArrayRef, Fault> {
        let position = self.positions.get(i).copied().flatten();
        position
            .and_then(|p| batch.columns().get(p))
            .ok_or_else(|| Fault::Batch(format!("column {i} of the table is not in the batch")))
    }
    pub(super) fn keys(&self, batch: &RecordBatch, columns: &[usize]) -> Result<Keys, Fault> {
        Keys::new(columns.iter().map(|&i| self.column(batch, i).cloned()).collect::<Result<_, _>>()?)
    }
}

/// Table indices of the system columns.
#[derive(Clone, Copy)]
pub(super) struct System {
    pub(super) synced: usize,
    pub(super) deleted: usize,
    pub(super) hash: usize,
}

impl System {
    pub(super) fn of(table: &Table) -> Result<Self, Fault> {
        let index = |name: &str| table.schema.index_of(name).map_err(Fault::Arrow);
        Ok(Self { synced: index(SYNCED_AT)?, deleted: index(DELETED_AT)?, hash: index(HASH)? })
    }
}

/// What tells the order of two rows: (time, key) for records, (parent, key) for children.
///
/// Rows without a time come last, so that they are met when every dated row is known; a parent's marker, whose key is null,
/// comes before the parent's rows, so that they are met when the parent's latest read is known.
pub(super) struct Sorter {
    converter: RowConverter,
    pub(super) columns: Vec<(usize, SortOptions)>,
}

impl Sorter {
    pub(super) fn new(table: &Table) -> Result<Self, Fault> {
        let columns = order_columns(table);
        let fields = columns
            .iter()
            .map(|&(i, options)| SortField::new_with_options(table.schema.field(i).data_type().clone(), options))
            .collect();
        Ok(Self { converter: RowConverter::new(fields)?, columns })
    }
    pub(super) fn rows(&self, batch: &RecordBatch, held: &Held) -> Result<Rows, Fault> {
        let columns =
            self.columns.iter().map(|&(i, _)| held.column(batch, i).cloned()).collect::<Result<Vec<_>, _>>()?;
        Ok(self.converter.convert_columns(&columns)?)
    }
}

/// The rows of several batches, as (batch, row), in order; equal ones by what `seq` says of them, then as they came.
pub(super) fn ordered(batches: &[&Rows], seq: impl Fn(usize, usize) -> i64) -> Vec<(u32, u32)> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    // Nearly always the first bytes decide; then nothing else is touched.
    let mut all: Vec<(u128, u32, u32)> = Vec::with_capacity(batches.iter().map(|b| b.num_rows()).sum());
    for (b, rows) in batches.iter().enumerate() {
        all.extend(rows.iter().enumerate().map(|(i, row)| (beginning(row.as_ref()), number(b), number(i))));
    }
    let row = |b: u32, i: u32| batches.get(b as usize).map(|rows| rows.row(i as usize));
    all.sort_unstable_by(|&(a, ab, ai), &(b, bb, bi)| {
        a.cmp(&b)
            .then_with(|| row(ab, ai).cmp(&row(bb, bi)))
            .then_with(|| seq(ab as usize, ai as usize).cmp(&seq(bb as usize, bi as usize)))
            .then_with(|| (ab, ai).cmp(&(bb, bi)))
    });
    all.into_iter().map(|(_, b, i)| (b, i)).collect()
}

/// The first sixteen bytes as a number of the same order.
fn beginning(row: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let n = row.len().min(bytes.len());
    if let (Some(to), Some(from)) = (bytes.get_mut(..n), row.get(..n)) {
        to.copy_from_slice(from);
    }
    u128::from_be_bytes(bytes)
}

/// The columns of the order with their options, outermost first.
pub(super) fn order_columns(table: &Table) -> Vec<(usize, SortOptions)> {
    let last = SortOptions { descending: false, nulls_first: false };
    let first = SortOptions { descending: false, nulls_first: true };
    let outer = table.order.time.into_iter().chain(table.order.parent).map(|i| (i, last));
    let key = table.order.key.iter().map(|&i| (i, if table.by_parent { first } else { last }));
    outer.chain(key).collect()
}

/// A batch from which rows are taken for an output; remembers its place in the output's current chunk.
pub(super) struct Source {
    pub(super) batch: RecordBatch,
    pub(super) slot: Cell<(u64, usize)>,
}

impl Source {
    pub(super) fn new(batch: RecordBatch) -> Self {
        Self { batch, slot: Cell::new((0, 0)) }
    }
}

/// A batch with everything that decides about its rows.
pub(super) struct Loaded {
    pub(super) source: Source,
    pub(super) rows: Rows,
    pub(super) synced: I64s,
    pub(super) deleted: I64s,
    pub(super) hash: I64s,
    pub(super) version: Option<I64s>,
    pub(super) seq: Option<I64s>,
    pub(super) kind: Option<I64s>,
    pub(super) time: Option<ArrayRef>,
    pub(super) keys: Keys,
    pub(super) parents: Option<Keys>,
}

impl Loaded {
    /// `batch` holds `held` of the table's columns, and behind them [`SEQ`] and [`KIND`] when it comes from a run.
    pub(super) fn new(table: &Table, sorter: &Sorter, batch: RecordBatch, held: &Held) -> Result<Rc<Self>, Fault> {
        let system = System::of(table)?;
        let number = |i: usize| I64s::new(held.column(&batch, i)?, table.schema.field(i).name());
        let extra = |name: &str| batch.column_by_name(name).map(|c| I64s::new(c, name)).transpose();
        let (seq, kind) = (extra(SEQ)?, extra(KIND)?);
        let parents = table.order.parent.map(|p| held.keys(&batch, &[p])).transpose()?;
        Ok(Rc::new(Self {
            rows: sorter.rows(&batch, held)?,
            synced: number(system.synced)?,
            deleted: number(system.deleted)?,
            hash: number(system.hash)?,
            version: table.version.map(number).transpose()?,
            time: table.order.time.map(|t| held.column(&batch, t).cloned()).transpose()?,
            keys: held.keys(&batch, &table.order.key)?,
            parents,
            source: Source::new(if seq.is_some() {
                batch.project(&(0..table.schema.fields().len()).collect::<Vec<_>>())?
            } else {
                batch
            }),
            seq,
            kind,
        }))
    }
    pub(super) fn parent(&self, i: usize) -> Option<Cow<'_, str>> {
        self.parents.as_ref().map(|p| p.get(i))
    }
    pub(super) fn untimed(&self, i: usize) -> bool {
        self.time.as_ref().is_some_and(|t| t.is_null(i))
    }
}

/// The schema of a spilled run.
pub(super) fn run_schema(table: &Table) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = table.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(SEQ, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(KIND, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// `array` as `to`, when they differ in field metadata and the names of list elements only.
pub(super) fn retype(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    if array.data_type() == to {
        return Some(Arc::clone(array));
    }
    match to {
        DataType::List(field) => {
            let list = array.as_list_opt::<i32>()?;
            let values = retype(list.values(), field.data_type())?;
            let list = ListArray::try_new(Arc::clone(field), list.offsets().clone(), values, list.nulls().cloned());
            Some(Arc::new(list.ok()?))
        }
        DataType::Struct(fields) => {
            let from = array.as_struct_opt()?;
            if from.num_columns() != fields.len()
                || !from.fields().iter().zip(fields).all(|(a, b)| a.name() == b.name())
            {
                return None;
            }
            let columns = from.columns().iter().zip(fields).map(|(c, f)| retype(c, f.data_type()));
            let whole = StructArray::try_new(fields.clone(), columns.collect::<Option<_>>()?, from.nulls().cloned());
            Some(Arc::new(whole.ok()?))
        }
        _ => None,
    }
}

/// The name of a type without metadata and without the names of list elements: two types that a reader takes for the same
/// have the same name.
pub(super) fn type_name(ty: &DataType) -> String {
    match ty {
        DataType::List(field) => format!("list<{}>", type_name(field.data_type())),
        DataType::Struct(fields) => {
            let inner: Vec<_> = fields.iter().map(|f| format!("{}: {}", f.name(), type_name(f.data_type()))).collect();
            format!("struct<{}>", inner.join(", "))
        }
        DataType::Utf8 => "text".into(),
        DataType::Int64 => "int".into(),
        DataType::Float64 => "float".into(),
        DataType::Boolean => "bool".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".into(),
        other => other.to_string(),
    }
}
