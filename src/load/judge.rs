//! A partition read back and judged: does it open with the catalogue's columns, is it sorted, is every row where its time
//! (or its key) says? One pass, holding a hash of each row's key.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::row::OwnedRow;

use super::error::{Fault, LoadError};
use super::file::Existing;
use super::rows::{Held, Sorter, key_hash};
use super::spill::partitions;
use super::{Lake, blocking};
use crate::catalog::{PartitionValue, Table};
use crate::store::Version;

/// What was found in a partition's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Rows, deleted ones included.
    pub rows: u64,
    /// Rows that are not deleted, counted.
    pub living: u64,
    /// The file's version.
    pub version: Version,
    /// Columns of the table that it lacks; the next sync adds them.
    pub lacks: usize,
    /// Rows that do not come behind the one before them.
    pub unsorted: u64,
    /// Rows that belong into another partition, or have no key.
    pub misplaced: u64,
    /// A hash of each row's whole key, in the file's order.
    pub keys: Vec<u64>,
}

/// Reads a partition back; `None` when it has no file.
///
/// # Errors
///
/// [`LoadError`]: the file does not open, its columns are not the table's, or some of it cannot be decoded.
pub async fn judge(
    lake: &Lake,
    table: &Arc<Table>,
    key: &[String],
    value: PartitionValue,
) -> Result<Option<Judged>, LoadError> {
    let doing = "read the partition back";
    let path = lake.path(table, value);
    let at = lake.place(table, &path);
    let opened = lake.store.open_file(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))?;
    let Some(opened) = opened else { return Ok(None) };
    let table = Arc::clone(table);
    let mut whole = Vec::with_capacity(key.len());
    for name in key {
        whole.push(table.schema.index_of(name).map_err(|e| Fault::Arrow(e).at(&at, doing))?);
    }
    blocking(&at, doing, move || {
        let existing = Existing::open(&opened.file, &table)?;
        let mut judged = Judged {
            rows: 0,
            living: 0,
            version: opened.version.clone(),
            lacks: table.schema.fields().len().saturating_sub(existing.columns),
            unsorted: 0,
            misplaced: 0,
            keys: Vec::new(),
        };
        let (sorter, held) = (Sorter::new(&table)?, Held::all(&table));
        let deleted = super::rows::System::of(&table)?.deleted;
        let mut last: Option<OwnedRow> = None;
        for batch in existing.read(&table)? {
            let batch = batch?;
            let rows = sorter.rows(&batch, &held)?;
            for i in 0..batch.num_rows() {
                let row = rows.row(i);
                let behind = match (&last, i) {
                    (None, 0) => true,
                    (Some(last), 0) => last.row() < row,
                    _ => rows.row(i - 1) < row,
                };
                judged.unsorted += u64::from(!behind);
            }
            last = (batch.num_rows() > 0).then(|| rows.row(batch.num_rows() - 1).owned()).or(last);
            judged.rows += batch.num_rows() as u64;
            judged.living += batch.column(deleted).null_count() as u64;
            judged.misplaced += elsewhere(&table, &batch, value);
            let keys = held.keys(&batch, &whole)?;
            judged.keys.extend((0..batch.num_rows()).map(|i| key_hash(&keys.get(i))));
        }
        Ok(judged)
    })
    .await
    .map(Some)
}

/// Rows of a batch that belong into another partition than `value`; all of them when one has no key.
fn elsewhere(table: &Table, batch: &RecordBatch, value: PartitionValue) -> u64 {
    match partitions(table, batch) {
        Ok(split) => split.iter().filter(|(v, _)| **v != value).map(|(_, rows)| rows.len() as u64).sum(),
        Err(_) => batch.num_rows() as u64,
    }
}
