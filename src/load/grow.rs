//! A partition that is written while its rows come: nothing is spilled, and nothing is left to be merged in the end.

use std::sync::Arc;

use arrow::array::RecordBatch;
use object_store::path::Path;

use super::error::{LoadError, Place};
use super::merge::{Draft, append};
use super::rows::Sorter;
use super::spill::{Runs, Ticket};
use super::{Fault, Lake, Merged, Suppress, blocking, is_dated, merge, put};
use crate::catalog::{PartitionValue, Table};
use crate::state::Lease;

/// What is being done, where an error says so.
const GROWING: &str = "write a new partition";

/// The new file of a partition of which nothing is there yet; it is in place once [`Growing::finish`] says so. Rows are to come
/// in the order of the table, a part after the other; those that do not are merged in the end.
pub struct Growing {
    lake: Lake,
    table: Arc<Table>,
    value: PartitionValue,
    suppress: Suppress,
    at: Place,
    path: Path,
    sorter: Sorter,
    draft: Draft,
    late: Vec<RecordBatch>,
    tickets: Vec<Ticket>,
}

impl Growing {
    /// A new file for the partition of a time; none when something is there, or among the undated rows: then rows are to be merged
    /// with it.
    ///
    /// # Errors
    ///
    /// [`LoadError`] when the store cannot be asked.
    pub async fn begin(
        lake: &Lake,
        table: Arc<Table>,
        value: PartitionValue,
        suppress: Suppress,
    ) -> Result<Option<Self>, LoadError> {
        let path = lake.path(&table, value);
        let at = lake.place(&table, &path);
        let failed = |fault: Fault| fault.at(&at, GROWING);
        if !is_dated(&table, value) {
            return Ok(None);
        }
        // A row that was there without a time moves into its partition, which a merge sees to.
        for there in [&path, &lake.path(&table, PartitionValue::Null)] {
            if !lake.nothing_at(there).await.map_err(|e| failed(e.into()))? {
                return Ok(None);
            }
        }
        let sorter = Sorter::new(&table).map_err(failed)?;
        Ok(Some(Self {
            lake: lake.clone(),
            table,
            value,
            suppress,
            at,
            path,
            sorter,
            draft: Draft::default(),
            late: Vec::new(),
            tickets: Vec::new(),
        }))
    }

    /// Which partition it is.
    #[must_use]
    pub fn value(&self) -> PartitionValue {
        self.value
    }

    /// What was added, to be given to [`Spill::settle`](super::Spill::settle) once the file is in place.
    #[must_use]
    pub fn tickets(&self) -> &[Ticket] {
        &self.tickets
    }

    /// Adds rows that come after those that were added.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing is in place then.
    pub async fn add(mut self, runs: Runs) -> Result<Self, LoadError> {
        let at = self.at.clone();
        blocking(&at, GROWING, move || {
            self.tickets.push(runs.ticket());
            let with = (self.table.as_ref(), &self.lake.store, &self.suppress);
            self.late.extend(append(with, &self.sorter, runs, &mut self.draft)?);
            Ok(self)
        })
        .await
    }

    /// Puts the file in place.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; the partition is then as it was, or has all rows but those that came late.
    pub async fn finish(mut self, lease: &Lease) -> Result<Merged, LoadError> {
        let Draft { writer, tally, .. } = std::mem::take(&mut self.draft);
        let mut merged = Merged {
            inserted: tally.inserted,
            suppressed: tally.suppressed,
            rows: tally.rows,
            living: tally.living,
            ..Merged::default()
        };
        if let Some(writer) = writer {
            let written = blocking(&self.at, GROWING, move || writer.finish()).await?;
            let version = put(&self.lake, lease, &self.at, &self.path, written.staged, None).await?;
            merged.rewritten = true;
            merged.bytes = version.bytes;
            merged.version = Some(version);
        }
        if self.late.is_empty() {
            return Ok(merged);
        }
        let runs = Runs::of(std::mem::take(&mut self.late), self.lake.scratch.clone());
        let then = merge(&self.lake, lease, &self.table, self.value, runs, &self.suppress).await?;
        Ok(Merged {
            rewritten: merged.rewritten || then.rewritten,
            inserted: merged.inserted + then.inserted,
            suppressed: merged.suppressed + then.suppressed,
            ..then
        })
    }
}
