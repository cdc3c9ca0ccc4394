//! RecordBatches → partitions, merged and replaced.
//!
//! Pages become sorted runs in a private [`Spill`]; the runs of a partition's finished windows are merged with the file that
//! is there into a new one, which takes its place at once ([`merge()`]). Guarantees: one row a key in one file a partition; a
//! reader sees the old file or the new one; the same rows in any order and any number of times give the same bytes; what
//! brings no change writes nothing; memory is bounded by constants, never by a table's size. Deletions ([`delete()`]),
//! changes of shape ([`bring_forward`]) and of layout ([`relay`]) go the same way.
//!
//! Knows no HTTP, no windows' meaning and no commits: the caller commits a window once [`Spill::unmerged_windows`] no
//! longer names it.

mod delete;
mod error;
mod file;
mod find;
mod grow;
mod hash;
mod judge;
mod look;
mod merge;
mod rows;
mod shape;
mod spill;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::path::Path;

pub use delete::{By, Deleted, Deletion, blank, delete};
pub use error::{LoadError, Place};
pub use find::{
    Figures, all_rows, column_map, figures, keys_of_parents, living_keys, living_rows, partition_values, read_table,
    select, still_referenced, unreferenced,
};
pub use grow::Growing;
pub use judge::{Judged, judge};
pub use look::{Bound, Look, look};
pub use merge::{Merged, Suppress, merge};
pub use shape::{Found, Relaid, bring_forward, layout_found, relay};
pub use spill::{Incoming, Overflow, PendingPartition, Response, Runs, Spill, Spilled, Ticket};

use crate::catalog::{Granularity, PartitionValue, Table};
use crate::names::Tenant;
use crate::state::Lease;
use crate::store::{Opened, Staged, Store, StoreError, UploadId, Version};
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
    /// What this run knows to be there, by path: what it put there, or looked at when it began. Clones share it.
    known: Arc<Mutex<HashMap<Path, Option<Version>>>>,
}

impl Lake {
    /// The part of `store` that is `tenant`'s.
    #[must_use]
    pub fn new(store: Store, tenant: Tenant, scratch: PathBuf) -> Self {
        Self { store, tenant, scratch, known: Arc::default() }
    }

    /// Says what is at `path` (`None`: nothing). From then on a file that is there and is another was put there by a run that
    /// lost its lease, and nothing is built on it.
    pub fn know(&self, path: Path, version: Option<Version>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(path, version);
    }

    /// Opens a file to make another from it.
    async fn base(&self, path: &Path) -> Result<Option<Opened>, StoreError> {
        let opened = self.store.open_file(path).await?;
        let known = self.known_at(path);
        let as_known = match (known, &opened) {
            (None, _) | (Some(None), None) => true,
            (Some(Some(known)), Some(found)) => known.same(&found.version),
            _ => false,
        };
        if as_known {
            return Ok(opened);
        }
        Err(StoreError::Moved { path: path.to_string(), store: self.store.url().to_owned() })
    }

    /// Whether there is no file and none is known to have been.
    async fn nothing_at(&self, path: &Path) -> Result<bool, StoreError> {
        let known = self.known_at(path).flatten();
        Ok(known.is_none() && self.store.version(path).await?.is_none())
    }

    fn known_at(&self, path: &Path) -> Option<Option<Version>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

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

/// Whether the partition is one of a time, so that its rows may have stood among the undated ones before.
fn is_dated(table: &Table, value: PartitionValue) -> bool {
    matches!(table.layout.granularity, Granularity::Year | Granularity::Month) && value != PartitionValue::Null
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

/// Puts a staged file in the place of `base`, which is what it was made from. The lease is asked right before what cannot be
/// taken back; an upload in parts is noted in the state, so that the next owner of the lease can end it.
async fn put(
    lake: &Lake,
    lease: &Lease,
    at: &Place,
    path: &Path,
    staged: Staged,
    base: Option<&Version>,
) -> Result<Version, LoadError> {
    let failed = |fault: Fault| fault.at(at, "put a partition's new file in place");
    lease.ensure().await.map_err(|e| failed(e.into()))?;
    let mut note = None;
    let noting = async |upload: &UploadId| {
        note = Some(lease.note_upload(upload).await?);
        Ok::<_, Fault>(())
    };
    let (run, fence) = lease.hold();
    let store = lake.store.written_by(&run.to_string(), fence);
    let ready = store.prepare(path, staged, base, noting).await.map_err(failed)?;
    // Sending parts takes its time; what is asked of the store from here on ends within the term.
    if ready.upload().is_some()
        && let Err(e) = lease.ensure().await
    {
        store.abandon(ready).await;
        return Err(failed(e.into()));
    }
    let version = store.complete(ready).await.map_err(|e| failed(e.into()))?;
    if store.root().is_none() {
        lake.know(path.clone(), Some(version.clone()));
    }
    // Of one that failed the note stays, and the next run ends it once more.
    if let Some(note) = note
        && let Err(error) = lease.forget_upload(note).await
    {
        tracing::debug!(%error, "the note of an upload that is complete stays until the next run");
    }
    Ok(version)
}
