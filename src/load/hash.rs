//! `_row_hash`: 64 bits of a row's content.
//!
//! The sum over a row's non-null columns of `xxh64(value, seed = xxh64(column name))`. A null adds nothing, so a column that
//! the catalogue gains changes no hash until it holds something; a sum knows no order, so the seed carries the name.
//! Lists mix each element's position into its seed and add their length, structs go down by field name: `[]`, `[null]` and
//! null differ. The hash is stored, so it must never change: fixed vectors in the tests hold it.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use twox_hash::XxHash64;

use super::error::Fault;
use crate::catalog::Table;

/// Spreads a list element's position over the seed's bits (the golden ratio's, as in splitmix64).
const POSITION: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of every row over the columns that `table` hashes; `columns` are given by name, others are ignored.
pub(super) fn hash_rows<'a>(
    table: &Table,
    columns: impl IntoIterator<Item = (&'a str, &'a ArrayRef)>,
    rows: usize,
) -> Result<Vec<i64>, Fault> {
    let unhashed: Vec<&str> = table.unhashed.iter().map(|&i| table.schema.field(i).name().as_str()).collect();
    let mut sums = vec![0u64; rows];
    for (name, array) in columns {
        if !unhashed.contains(&name) {
            add_column(&mut sums, array, xxh(0, name.as_bytes()))?;
        }
    }
    Ok(sums.into_iter().map(u64::cast_signed).collect())
}

fn xxh(seed: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// A column, and the names below it: what does not depend on the row is asked for once.
enum Shape<'a> {
    Text(&'a StringArray),
    Number(&'a [i64]),
    Float(&'a [f64]),
    Bool(&'a BooleanArray),
    List { ends: &'a [i32], item: Box<Column<'a>> },
    Struct(Vec<(&'a str, Column<'a>)>),
}

struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    shape: Shape<'a>,
}

impl<'a> Column<'a> {
    fn new(array: &'a dyn Array) -> Result<Self, Fault> {
        let shape = match array.data_type() {
            DataType::Utf8 => Shape::Text(array.as_string::<i32>()),
            DataType::Int64 => Shape::Number(array.as_primitive::<Int64Type>().values()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Shape::Number(array.as_primitive::<TimestampMicrosecondType>().values())
            }
            DataType::Float64 => Shape::Float(array.as_primitive::<Float64Type>().values()),
            DataType::Boolean => Shape::Bool(array.as_boolean()),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Shape::List { ends: list.value_offsets(), item: Box::new(Self::new(list.values().as_ref())?) }
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().zip(array.as_struct().columns());
                let columns = columns.map(|(f, c)| Ok((f.name().as_str(), Self::new(c.as_ref())?)));
                Shape::Struct(columns.collect::<Result<_, Fault>>()?)
            }
            other => return Err(Fault::Batch(format!("a value of type {other} cannot be hashed"))),
        };
        Ok(Self { nulls: array.nulls(), shape })
    }

    fn is_null(&self, i: usize) -> bool {
        self.nulls.is_some_and(|n| n.is_null(i))
    }

    fn hash(&self, i: usize, seed: u64) -> u64 {
        if self.is_null(i) {
            return 0;
        }
        match &self.shape {
            Shape::Text(texts) => xxh(seed, texts.value(i).as_bytes()),
            Shape::Number(numbers) => xxh(seed, &numbers.get(i).copied().unwrap_or_default().to_le_bytes()),
            Shape::Float(floats) => xxh(seed, &floats.get(i).copied().unwrap_or_default().to_bits().to_le_bytes()),
            Shape::Bool(bools) => xxh(seed, &[u8::from(bools.value(i))]),
            Shape::List { ends, item } => {
                let (from, to) = match (ends.get(i), ends.get(i + 1)) {
                    (Some(&from), Some(&to)) => (from.cast_unsigned() as usize, to.cast_unsigned() as usize),
                    _ => (0, 0),
                };
                let mut sum = xxh(!seed, &((to - from) as u64).to_le_bytes());
                for (n, j) in (from..to).enumerate() {
                    let seed = seed.wrapping_add((n as u64 + 1).wrapping_mul(POSITION));
                    sum = sum.wrapping_add(item.hash(j, seed));
                }
                sum
            }
            Shape::Struct(columns) => {
                let mut sum = xxh(!seed, &[]);
                for (name, column) in columns.iter().filter(|(_, c)| !c.is_null(i)) {
                    sum = sum.wrapping_add(column.hash(i, xxh(seed, name.as_bytes())));
                }
                sum
            }
        }
    }
}

fn add_column(sums: &mut [u64], array: &ArrayRef, seed: u64) -> Result<(), Fault> {
    if array.null_count() == array.len() {
        return Ok(());
    }
    let column = Column::new(array.as_ref())?;
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = sum.wrapping_add(column.hash(i, seed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListArray, ListBuilder, StringBuilder, StructArray};
    use arrow::datatypes::{Field, Fields};

    use super::*;

    fn one(name: &str, array: ArrayRef) -> Vec<u64> {
        let mut sums = vec![0; array.len()];
        add_column(&mut sums, &array, xxh(0, name.as_bytes())).unwrap();
        sums
    }

    fn lists(values: &[Option<&[Option<&str>]>]) -> ArrayRef {
        let mut b = ListBuilder::new(StringBuilder::new());
        for v in values {
            v.unwrap_or_default().iter().for_each(|t| b.values().append_option(*t));
            b.append(v.is_some());
        }
        Arc::new(b.finish())
    }

    /// These numbers stand in lakes: a change of any rewrites every row of every tenant.
    #[test]
    fn the_hash_never_changes() {
        let fields = Fields::from(vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Int64, true)]);
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec![Some("x")])), Arc::new(Int64Array::from(vec![None]))];
        let vectors: Vec<u64> = [
            one("text", Arc::new(StringArray::from(vec!["", "Zoë"]))),
            one("int", Arc::new(Int64Array::from(vec![-1]))),
            one("float", Arc::new(Float64Array::from(vec![1.5]))),
            one("bool", Arc::new(BooleanArray::from(vec![true]))),
            one("time", Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![1_719_073_600_001_000]))),
            one("list", lists(&[Some(&[]), Some(&[Some("a"), None])])),
            one("struct", Arc::new(StructArray::new(fields, columns, None))),
        ]
        .concat();
        insta::assert_debug_snapshot!(vectors.iter().map(|v| format!("{v:016x}")).collect::<Vec<_>>(), @r#"
        [
            "d7e86341c552b4c7",
            "4e2cb0dbe8c004e2",
            "f407ae4c29ca6549",
            "d5e9dbbe256e2f94",
            "87aac8d25a329392",
            "3a2e9893886f5164",
            "202326dbd4b69e8c",
            "80d2cf925aba428e",
            "1cdb1c088c719fc9",
        ]
        "#);
    }

    #[test]
    fn null_empty_and_order_differ() {
        let h = one(
            "l",
            lists(&[None, Some(&[]), Some(&[None]), Some(&[Some("a"), Some("b")]), Some(&[Some("b"), Some("a")])]),
        );
        assert_eq!(h[0], 0, "a null adds nothing");
        let distinct: std::collections::HashSet<_> = h.iter().collect();
        assert_eq!(distinct.len(), h.len());
        assert_ne!(one("a", Arc::new(Int64Array::from(vec![1]))), one("b", Arc::new(Int64Array::from(vec![1]))));
    }

    #[test]
    fn a_slice_hashes_as_its_rows_do() {
        let list = lists(&[Some(&[Some("x")]), Some(&[Some("y"), Some("z")]), None]);
        let whole = one("l", Arc::clone(&list));
        let slice: ListArray = list.as_list::<i32>().slice(1, 2);
        assert_eq!(one("l", Arc::new(slice)), whole[1..]);
    }
}
