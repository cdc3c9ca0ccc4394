//! RecordBatches → partitions, merged and replaced.
//!
//! Pages become sorted runs in a private [`Spill`]; the runs of a partition's finished windows are merged with the file that
//! is there into a new one, which takes its place at once ([`merge()`]). Guarantees: one row a key in one file a partition; a
//! reader sees the old file or the new one; the same rows in any order and any number of times give the same bytes; what
//! brings no change writes nothing; memory is bounded by constants, never by a table's size. Deletions ([`delete_by_key`]),
//! changes of shape ([`bring_forward`]) and of layout ([`relay`]) go the same way.
//!
//! Knows no HTTP, no windows' meaning and no commits: the caller commits a window once [`Spill::unmerged_windows`] no
//! longer names it.

mod delete;
mod error;
mod file;
mod find;
mod hash;
mod judge;
mod look;
mod merge;
mod rows;
mod shape;
mod spill;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use object_store::path::Path;

pub use delete::{Deleted, Deletion, delete_by_key, delete_by_parent};
pub use error::{LoadError, Place};
pub use find::{
    Figures, all_rows, column_map, figures, keys_of_parents, living_keys, living_rows, partition_values, read_table,
    select, still_referenced, unreferenced,
};
pub use judge::{Judged, judge};
pub use look::{Bound, Look, look};
pub use merge::{Merged, Suppress, merge};
pub use shape::{Found, Relaid, bring_forward, layout_found, relay};
pub use spill::{PendingPartition, Runs, Spill, Ticket};

use crate::catalog::{PartitionValue, Table};
use crate::names::Tenant;
use crate::state::Lease;
use crate::store::{Staged, Store, Version};
use error::Fault;

/// Name of the one file of a partition.
pub const FILE_NAME: &str = "data.parquet";
/// What joins the parts of a composite key where it is spoken of as one text: the unit separator, which no id holds.
pub const KEY_SEPARATOR: char = '\u{1f}';

/// The part of a lake that belongs to one tenant.
#[derive(Clone)]
pub struct Lake {
    /// Where the files are.
    pub store: Store,
    /// Whose they are.
    pub tenant: Tenant,
    /// A private folder of this run for spilled rows; made when needed.
    pub scratch: PathBuf,
}

impl Lake {
    /// The folder of a table: `<provider>/<resource>/tenant=<tenant>`.
    #[must_use]
    pub fn folder(&self, table: &Table) -> Path {
        Path::from(format!("{}/{}/tenant={}", table.provider, table.resource, self.tenant))
    }
    /// The file of a partition.
    #[must_use]
    pub fn path(&self, table: &Table, value: PartitionValue) -> Path {
        let folder = table.layout.folder(value);
        let base = self.folder(table);
        if folder.is_empty() { base.join(FILE_NAME) } else { base.join(folder).join(FILE_NAME) }
    }
    fn place(&self, table: &Table, path: &Path) -> Place {
        let whole = self.folder(table);
        let inner = path.as_ref().strip_prefix(whole.as_ref()).unwrap_or(path.as_ref());
        Place {
            table: format!("{}/{}", table.provider, table.resource).into(),
            partition: format!("tenant={}{inner}", self.tenant).into(),
        }
    }
}

/// Runs `work` off the async threads. A panic in it is an error of this table, not the end of the process.
async fn blocking<T: Send + 'static>(
    at: &Place,
    doing: &'static str,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, LoadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|fault| fault.at(at, doing)),
        Err(_) => Err(LoadError::Died { at: at.clone(), doing }),
    }
}

/// Puts a staged file in the place of `base`, which is what it was made from. The lease is asked right before.
async fn put(
    lake: &Lake,
    lease: &Lease,
    at: &Place,
    path: &Path,
    staged: Staged,
    base: Option<&Version>,
) -> Result<Version, LoadError> {
    let doing = "put a partition's new file in place";
    lease.ensure().await.map_err(|e| Fault::Lease(e).at(at, doing))?;
    lake.store.replace(path, staged, base).await.map_err(|e| Fault::Store(e).at(at, doing))
}
