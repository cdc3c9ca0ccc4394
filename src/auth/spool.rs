//! Tokens that were received and are not in the state yet, sealed, in the scratch folder of this machine.
//!
//! Guarantees: the room for them is taken before the token endpoint is asked, so that a disk that is full by then does not
//! cost the grant; they are durable before the state is written, and gone after; the next run on this machine saves them
//! before it asks anything. Holds nothing for a state that ends with the process. Knows nothing of leases: whoever calls
//! holds the tenant's.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::grant::Grant;
use crate::config::{Config, private_folder};
use crate::names::Tenant;
use crate::state::State;

/// Bytes taken beforehand: an entry with the longest tokens seen is a quarter of it.
const ROOM_BYTES: usize = 16 << 10;
/// Nothing that was written here is larger.
const MOST_BYTES: u64 = 1 << 20;

/// The place of one tenant's unsaved tokens.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    state: String,
    /// The room that was taken. Held open: in a folder that others may write to, a name is not to be trusted twice.
    room: Mutex<Option<File>>,
}

/// The next generation, and which refresh token it came of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unsaved {
    /// The state in which it belongs.
    state: String,
    /// Print of the refresh token that was used up for it.
    pub(super) after: String,
    /// The entry as it was to be.
    pub(super) grant: Grant,
}

impl Spool {
    /// The tenant's place; `None` for a state that is gone with the process, as the tokens may be.
    pub(super) fn of(config: &Config, state: &State, tenant: &Tenant) -> Option<Self> {
        let store = state.store();
        let state = match store.root() {
            Some(root) => root.to_string_lossy().into_owned(),
            None if store.url().starts_with("memory:") => return None,
            None => store.url().to_owned(),
        };
        // Another state has grants of its own, perhaps of a tenant of the same name.
        let digest = Sha256::digest(&state);
        let id: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        let path = config.scratch.join(format!("hirelake-unsaved-{id}-{tenant}.json"));
        Some(Self { path, state, room: Mutex::default() })
    }

    /// Takes the room. A failure is no reason not to ask: the state was written a moment ago.
    pub(super) async fn reserve(&self) {
        let room = vec![b' '; ROOM_BYTES];
        match self.blocking(move |path| anew(path, &room)).await {
            Ok(file) => *self.room() = Some(file),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "no room could be taken for tokens that cannot be saved");
            }
        }
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the next generation until the state has it. A failure is told, and the state is tried all the same.
    pub(super) async fn keep(&self, after: String, grant: &Grant) {
        let unsaved = Unsaved { state: self.state.clone(), after, grant: grant.clone() };
        let Ok(mut text) = serde_json::to_vec_pretty(&unsaved) else { return };
        text.resize(text.len().max(ROOM_BYTES), b' ');
        let room = self.room().take();
        let write = move |path: &Path| match room.map(|file| within(file, &text)) {
            Some(Ok(())) => Ok(()),
            _ => anew(path, &text).map(|_| ()),
        };
        if let Err(error) = self.blocking(write).await {
            tracing::warn!(%error, path = %self.path.display(), "new tokens could not be kept on this machine");
        }
    }

    /// What is kept. Room that was never used, or half written, is none; what cannot be read is no "none": asking then could
    /// use up the only token that still works.
    ///
    /// # Errors
    ///
    /// When something of ours is there and cannot be read or makes no sense.
    pub(super) async fn read(&self) -> io::Result<Option<Unsaved>> {
        let found = match self.blocking(ours).await? {
            Found::Text(text) => text,
            Found::Nothing => return Ok(None),
            Found::Stranger => {
                tracing::warn!(path = %self.path.display(), "something that is not ours is in the place of unsaved tokens; it is not looked at");
                return Ok(None);
            }
        };
        match serde_json::from_slice::<Unsaved>(&found) {
            Ok(unsaved) if unsaved.state == self.state => Ok(Some(unsaved)),
            Err(e) if e.is_data() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it was written by another version, or changed"))
            }
            _ => {
                self.clear().await;
                Ok(None)
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the room back.
    pub(super) async fn clear(&self) {
        self.room().take();
        match self.blocking(|path| std::fs::remove_file(path)).await {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "a file that is done with cannot be removed")
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || work(&path)).await.map_err(io::Error::other)?
    }
}

enum Found {
    Nothing,
    /// A link, a pipe, another user's file: in a folder that others may write to, anybody may have put it there.
    Stranger,
    Text(Vec<u8>),
}

/// Reads a file of our own.
fn ours(path: &Path) -> io::Result<Found> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        // Below a file there is nothing of ours, either: it is the folder that is wrong, and the sync says so.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(e) => return Err(e),
    };
    if !meta.is_file() || meta.len() > MOST_BYTES || !is_ours(&meta) {
        return Ok(Found::Stranger);
    }
    let mut text = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(Found::Text(text))
}

#[cfg(unix)]
fn is_ours(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // Where the system does not say who we are, nobody else is suspected.
    std::fs::metadata("/proc/self").map_or(true, |we| we.uid() == meta.uid())
}

#[cfg(not(unix))]
fn is_ours(_: &std::fs::Metadata) -> bool {
    true
}

/// Writes a file that only its owner may read, whole or not at all.
fn anew(path: &Path, text: &[u8]) -> io::Result<File> {
    // Nothing of somebody else's is written over: it may be root's, who ran this once.
    if matches!(ours(path)?, Found::Stranger) {
        return Err(io::Error::other("something that is not ours is in its place"));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let new = !folder.exists();
    private_folder(folder)?;
    // Its own name must be as durable as what it holds.
    if new && let Some(Ok(above)) = folder.parent().map(File::open) {
        above.sync_all()?;
    }
    let mut file = tempfile::Builder::new().prefix("hirelake-unsaved.").tempfile_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    let file = file.persist(path).map_err(|e| e.error)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// Writes into the room that was taken, which needs no more of the disk.
fn within(mut file: File, text: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_that_was_not_used_or_half_written_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool { path: dir.path().join("x.json"), state: "here".into(), room: Mutex::default() };
        assert!(spool.read().await.unwrap().is_none());
        for text in ["", "   ", "{\"state\": \"here\", \"after\": \"12"] {
            std::fs::write(&spool.path, text).unwrap();
            assert!(spool.read().await.unwrap().is_none(), "{text}");
            assert!(!spool.path.exists(), "{text}");
        }
        // What another version wrote may be the only token that works: it is neither dropped nor written over.
        std::fs::write(&spool.path, "{\"version\": 2}").unwrap();
        assert!(spool.read().await.is_err());
        assert!(spool.path.exists());
        std::fs::remove_file(&spool.path).unwrap();
        #[cfg(unix)]
        {
            // A link that somebody planted is not followed.
            std::os::unix::fs::symlink("/dev/zero", &spool.path).unwrap();
            assert!(spool.read().await.unwrap().is_none());
            std::fs::remove_file(&spool.path).unwrap();
        }
        #[cfg(unix)]
        {
            // Another user's file is neither read nor written over; only root can make one.
            let theirs = r#"{"state": "here", "after": "12"}"#;
            std::fs::write(&spool.path, theirs).unwrap();
            if std::os::unix::fs::chown(&spool.path, Some(65_534), None).is_ok() {
                assert!(spool.read().await.unwrap().is_none());
                spool.reserve().await;
                assert_eq!(std::fs::read_to_string(&spool.path).unwrap(), theirs);
            }
            std::fs::remove_file(&spool.path).unwrap();
        }
        spool.reserve().await;
        assert_eq!(std::fs::metadata(&spool.path).unwrap().len(), ROOM_BYTES as u64);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&spool.path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
