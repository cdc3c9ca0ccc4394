//! Uploads in parts that are under way: one that is noted can be ended by whoever holds the tenant's lease next.
//!
//! That fences, too: an owner that lost its lease and does not know it yet can no longer complete what was ended. And nothing
//! is left in a bucket that no listing shows and that is paid for.

use bytes::Bytes;
use object_store::path::Path;

use super::{Lease, State, StateError};
use crate::names::Tenant;
use crate::store::{Store, UploadId};

const FOLDER: &str = "uploads";

/// Where an upload is noted.
#[derive(Debug)]
pub struct Note(Path);

impl State {
    /// The uploads that are noted for a tenant, with their notes.
    ///
    /// # Errors
    ///
    /// When the state cannot be read, or a note does not parse.
    pub async fn uploads(&self, tenant: &Tenant) -> Result<Vec<(Note, UploadId)>, StateError> {
        let mut all = Vec::new();
        for entry in self.store().list(&Path::from_iter([FOLDER, tenant.as_str()])).await? {
            let Some(bytes) = self.store().get(&entry.path).await? else { continue };
            let upload = serde_json::from_slice(&bytes).map_err(|_| StateError::Corrupt {
                path: entry.path.to_string(),
                why: "it is no note of an upload".into(),
            })?;
            all.push((Note(entry.path), upload));
        }
        Ok(all)
    }
}

impl Lease {
    /// Notes an upload before its first part is sent.
    ///
    /// # Errors
    ///
    /// When the state cannot be written.
    pub async fn note_upload(&self, upload: &UploadId) -> Result<Note, StateError> {
        let name = format!("{}.json", uuid::Uuid::now_v7());
        let path = Path::from_iter([FOLDER, self.tenant().as_str(), name.as_str()]);
        let corrupt = |e: serde_json::Error| StateError::Corrupt { path: path.to_string(), why: e.to_string() };
        let text = serde_json::to_vec_pretty(upload).map_err(corrupt)?;
        self.store().create(&path, Bytes::from(text)).await?;
        Ok(Note(path))
    }

    /// Takes back a note: the upload is complete or ended.
    ///
    /// # Errors
    ///
    /// When the state cannot be written; the note is then taken back by the next run.
    pub async fn forget_upload(&self, note: Note) -> Result<(), StateError> {
        Ok(self.store().remove(&note.0).await?)
    }

    /// Ends the uploads that former owners left, in whichever of `stores` they are. Returns how many.
    ///
    /// # Errors
    ///
    /// When the state cannot be read or written.
    pub async fn end_uploads(&self, stores: &[&Store]) -> Result<u64, StateError> {
        let mut ended = 0;
        for (note, upload) in self.state().uploads(self.tenant()).await? {
            // One in a store that is no longer configured stays noted: `verify` tells of it.
            if let Some(store) = stores.iter().find(|s| s.url() == upload.store)
                && store.give_up(&upload).await
            {
                self.forget_upload(note).await?;
                ended += 1;
            }
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::names::RunId;
    use crate::store::StoreError;

    #[tokio::test]
    async fn the_next_owner_ends_what_the_last_one_left() {
        let (lake, store) = (Store::memory_with(0), Store::memory());
        let state = State::new(store, Clock::starting_at(Timestamp::from_ms(1_700_000_000_000)));
        let tenant: Tenant = "acme".parse().unwrap();
        let first = state.lease(&tenant, RunId::new()).await.unwrap();
        let mut staged = lake.stage().unwrap();
        std::io::Write::write_all(staged.file(), b"late").unwrap();
        let path = Path::from("x");
        let noting = async |upload: &UploadId| first.note_upload(upload).await.map(|_| ());
        let ready = lake.prepare(&path, staged, None, noting).await.unwrap();
        assert_eq!(state.uploads(&tenant).await.unwrap().len(), 1);
        first.release().await.unwrap();

        let second = state.lease(&tenant, RunId::new()).await.unwrap();
        assert_eq!(second.end_uploads(&[&lake]).await.unwrap(), 1);
        assert_eq!(second.end_uploads(&[&lake]).await.unwrap(), 0);
        assert!(matches!(lake.complete(ready).await, Err(StoreError::Failed { .. })));
        assert!(lake.version(&path).await.unwrap().is_none());
    }
}
