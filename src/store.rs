//! A URL → an object store: create, list, read, replace, and where a local folder differs.
//!
//! Guarantees: [`Store::create`] makes an object only where there was none; [`Store::replace`] puts a whole file in place at
//! once, durably, and never a half; nothing is deleted but by [`Store::remove`]. A local store stages files in `_staging/`
//! below its root and renames them (fsynced, folder fsynced); every other store gets one conditional PUT. Knows nothing of
//! what the objects mean.

use std::fmt;
use std::fs::File;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{
    Error as OsError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The folder of a local store in which files wait that are not yet in place.
pub const STAGING: &str = "_staging";

/// Writers that a probe lets race: enough that a store which only checks and then writes shows it, few enough to cost nothing.
const PROBE_RACERS: usize = 4;

/// Largest object read whole into memory by [`Store::get`]: state entries are kilobytes; anything larger is not one of ours.
const MAX_SMALL_OBJECT_BYTES: u64 = 64 << 20;
const TOO_LARGE: &str = "larger than any entry of the state";
/// An object may go between the listing and the reading; so often is the listing repeated.
const LOOKS: u32 = 5;

/// Where a store was asked for something and failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no store that this program speaks.
    #[error("{url:?} is not a usable store: {why}\nhint: {hint}")]
    BadUrl {
        /// As it was given; holds no credential (user names in URLs are refused before they get here).
        url: String,
        /// What is wrong with it.
        why: String,
        /// What to write instead.
        hint: &'static str,
    },
    /// The store refused or could not be reached.
    #[error("{op} {path} in {store} failed\nhint: {}", hint_for(.source))]
    Failed {
        /// What was tried: `read`, `create`, `replace` …
        op: &'static str,
        /// The object.
        path: String,
        /// The store's URL.
        store: String,
        /// The cause.
        #[source]
        source: OsError,
    },
    /// The operating system refused.
    #[error("{op} {path} failed\nhint: {}", io_hint(.source))]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The store answers, and not as one must that keeps two runs apart.
    #[error(
        "the store {store} cannot be relied on: {why}\nhint: use another store: a local folder, or one that honours conditional writes and lists what was just written; on this one two runs would write over each other"
    )]
    Unfit {
        /// The store's URL.
        store: String,
        /// What it did.
        why: &'static str,
    },
    /// Another writer replaced the object in between.
    #[error(
        "{path} in {store} was replaced by another writer since it was read\nhint: nothing was lost; run the command again"
    )]
    Moved {
        /// The object.
        path: String,
        /// The store's URL.
        store: String,
    },
}

fn io_hint(e: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full; what was committed before is safe: free some space and run again, it resumes"
        }
        ErrorKind::PermissionDenied => {
            "this user may not write there; give it the folder, or run as the user who owns it"
        }
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only; what was committed before is safe",
        _ => "what was committed before is safe; when the cause is mended run again, it resumes",
    }
}

fn hint_for(e: &OsError) -> &'static str {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(c) = cause {
        if let Some(io) = c.downcast_ref::<std::io::Error>() {
            return io_hint(io);
        }
        cause = c.source();
    }
    match e {
        OsError::PermissionDenied { .. } | OsError::Unauthenticated { .. } => {
            "the store denied it; check the credentials and their permissions"
        }
        _ => "what was committed before is safe; when the cause is mended run again, it resumes",
    }
}

/// What tells one content of an object from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The store's tag, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_tag: Option<String>,
    /// The store's generation, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Size in bytes.
    pub bytes: u64,
}

/// A seekable copy of an object: the file itself on a local store, a private download elsewhere.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading.
    pub file: File,
    /// The version that was read.
    pub version: Version,
    // Keeps a download alive, and removes it in the end.
    _scratch: Option<tempfile::TempPath>,
}

/// A new file that is not yet in place; removed when dropped unless [`Store::replace`] took it.
#[derive(Debug)]
pub struct Staged {
    file: tempfile::NamedTempFile,
}

impl Staged {
    /// Open for writing.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }
}

/// One object of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path below the store's root.
    pub path: Path,
    /// Size in bytes.
    pub bytes: u64,
    /// When the store says it was last written.
    pub modified: Timestamp,
}

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is there now.
    Done,
    /// Something was there already. It may be ours: a retried create that had succeeded is answered so too.
    Exists,
}

/// One thing that a store must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Make an object.
    Create,
    /// Refuse to make it again.
    Recreate,
    /// Of several that make one object at once, let one win.
    Race,
    /// Put a file in an object's place.
    Replace,
    /// Replace a version that was read just now.
    ReplaceFresh,
    /// Refuse to replace a version that is no longer there.
    ReplaceStale,
    /// Give back what was written last.
    Read,
    /// List what was just written.
    List,
    /// Remove it.
    Remove,
}

impl Step {
    /// In the order in which they are tried.
    const ALL: [Self; 9] = [
        Self::Create,
        Self::Recreate,
        Self::Race,
        Self::Replace,
        Self::ReplaceFresh,
        Self::ReplaceStale,
        Self::Read,
        Self::List,
        Self::Remove,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Recreate => "no second create",
            Self::Race => "one winner of a race",
            Self::Replace => "replace",
            Self::ReplaceFresh => "replace the version read",
            Self::ReplaceStale => "not a stale one",
            Self::Read => "read back",
            Self::List => "list",
            Self::Remove => "remove",
        })
    }
}

/// What [`Store::probe`] found: the steps that went well, and the failure that ended them.
#[derive(Debug)]
pub struct Probe {
    /// In their order.
    pub passed: Vec<Step>,
    /// Where it ended, when it did not end well.
    pub failed: Option<(Step, StoreError)>,
}

impl Probe {
    /// # Errors
    ///
    /// What the store failed with.
    pub fn sound(self) -> Result<(), StoreError> {
        self.failed.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// A place for objects. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    url: Arc<str>,
    /// The folder, for a local store.
    root: Option<Arc<FsPath>>,
    /// Whose staged files these are: the first part of their names.
    owner: Arc<str>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

impl Store {
    /// Opens the store that `url` names: a path or `file://` URL (the folder is made when it is missing), or `memory://`.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadUrl`] for anything else, [`StoreError::Io`] when the folder cannot be made.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let path = match url.split_once("://") {
            None => PathBuf::from(url),
            Some(("file", _)) => {
                url::Url::parse(url).ok().and_then(|u| u.to_file_path().ok()).ok_or_else(|| StoreError::BadUrl {
                    url: url.into(),
                    why: "it is not an absolute file URL".into(),
                    hint: "write file:///srv/lake, or simply the path",
                })?
            }
            Some(("memory", _)) => return Ok(Self::memory()),
            Some((scheme, _)) => {
                return Err(StoreError::BadUrl {
                    url: format!("{scheme}://…"),
                    why: format!("no store of the kind `{scheme}` is built into this version"),
                    hint: "use a local path or a file:// URL",
                });
            }
        };
        if url.is_empty() {
            return Err(StoreError::BadUrl {
                url: url.into(),
                why: "it is empty".into(),
                hint: "write a path such as ./lake",
            });
        }
        let io = |op, source| StoreError::Io { op, path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(|e| io("make folder", e))?;
        let root = path.canonicalize().map_err(|e| io("find folder", e))?;
        let local = object_store::local::LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| StoreError::Failed { op: "open", path: String::new(), store: url.into(), source })?
            .with_fsync(true);
        Ok(Self { inner: Arc::new(local), url: url.into(), root: Some(root.into()), owner: "part".into() })
    }

    /// A store that is gone with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self {
            inner: Arc::new(object_store::memory::InMemory::new()),
            url: "memory://".into(),
            root: None,
            owner: "part".into(),
        }
    }

    /// The same store behind `wrapper`: for tests that count, delay or stop what is written.
    #[must_use]
    pub fn wrapped(self, wrapper: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { inner: wrapper(self.inner), ..self }
    }

    /// The same store, its staged files marked as `owner`'s, so that whoever holds that owner's lease may sweep them.
    #[must_use]
    pub fn owned_by(&self, owner: &str) -> Self {
        Self { owner: owner.into(), ..self.clone() }
    }

    /// The URL as it was given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder of a local store.
    #[must_use]
    pub fn root(&self) -> Option<&FsPath> {
        self.root.as_deref()
    }

    fn failed(&self, op: &'static str, path: &Path, source: OsError) -> StoreError {
        match source {
            OsError::Precondition { .. } | OsError::AlreadyExists { .. } => {
                StoreError::Moved { path: path.to_string(), store: self.url.to_string() }
            }
            source => StoreError::Failed { op, path: path.to_string(), store: self.url.to_string(), source },
        }
    }

    /// Makes an object where there is none.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn create(&self, path: &Path, body: Bytes) -> Result<Created, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.inner.put_opts(path, PutPayload::from_bytes(body), options).await {
            Ok(_) => Ok(Created::Done),
            Err(OsError::AlreadyExists { .. } | OsError::Precondition { .. }) => Ok(Created::Exists),
            Err(e) => Err(self.failed("create", path, e)),
        }
    }

    /// Reads a small object whole; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or the object is larger than any of ours.
    pub async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let found = match self.inner.get(path).await {
            Ok(found) => found,
            Err(OsError::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(self.failed("read", path, e)),
        };
        if found.meta.size > MAX_SMALL_OBJECT_BYTES {
            let source = std::io::Error::new(std::io::ErrorKind::FileTooLarge, TOO_LARGE);
            return Err(StoreError::Io { op: "read", path: PathBuf::from(path.as_ref()), source });
        }
        found.bytes().await.map(Some).map_err(|e| self.failed("read", path, e))
    }

    /// The first by name of the objects right below `prefix` whose name `ours` takes, with what it holds. Locally this is one
    /// look into one folder: thousands of lines can be asked for their newest entry in a second.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or the object is larger than any of ours.
    pub async fn first(&self, prefix: &Path, ours: fn(&str) -> bool) -> Result<Option<(Path, Bytes)>, StoreError> {
        let Some(root) = &self.root else {
            // It may be swept between the listing and the reading.
            for _ in 0..LOOKS {
                let all = self.list(prefix).await?;
                let names = all.into_iter().map(|e| e.path).filter(|p| p.filename().is_some_and(ours));
                let Some(path) = names.min() else { return Ok(None) };
                if let Some(bytes) = self.get(&path).await? {
                    return Ok(Some((path, bytes)));
                }
            }
            let source =
                std::io::Error::other(format!("the newest was listed {LOOKS} times and could not be read once"));
            return Err(StoreError::Io { op: "read", path: PathBuf::from(prefix.as_ref()), source });
        };
        let folder = root.join(prefix.as_ref());
        let looked = tokio::task::spawn_blocking(move || first_of(&folder, ours)).await;
        let failed = |source| StoreError::Io { op: "read", path: root.join(prefix.as_ref()), source };
        let found = looked.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed)?;
        Ok(found.map(|(name, bytes)| (prefix.clone().join(name), bytes)))
    }

    /// Puts a document in the place of whatever is there, whole and at once; when it returns, a power cut does not take it back.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn put_document(&self, path: &Path, body: Bytes) -> Result<(), StoreError> {
        if self.root.is_none() {
            return self.overwrite(path, body).await;
        }
        let mut staged = self.stage()?;
        let place = staged.file.path().to_owned();
        let written = tokio::task::spawn_blocking(move || {
            std::io::Write::write_all(staged.file.as_file_mut(), &body).map(|()| staged)
        });
        let io = |source| StoreError::Io { op: "write", path: place, source };
        let staged = match written.await.map_err(std::io::Error::other) {
            Ok(Ok(staged)) => staged,
            Ok(Err(e)) | Err(e) => return Err(io(e)),
        };
        self.replace(path, staged, None).await.map(|_| ())
    }

    /// Puts a small object in the place of whatever is there, whole and at once: for what must be forgotten though its name
    /// has to stay taken. Nothing else of the state is ever written twice.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn overwrite(&self, path: &Path, body: Bytes) -> Result<(), StoreError> {
        let put = self.inner.put_opts(path, PutPayload::from_bytes(body), PutOptions::default()).await;
        put.map(|_| ()).map_err(|e| self.failed("overwrite", path, e))
    }

    /// When the store says that an object was last written; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn modified(&self, path: &Path) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.head(path).await {
            Ok(meta) => Ok(Some(Timestamp::from_ms(meta.last_modified.timestamp_millis()))),
            Err(OsError::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("look at", path, e)),
        }
    }

    /// Every object below `prefix`, in no order. Files that wait in `_staging/` are not among them.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn list(&self, prefix: &Path) -> Result<Vec<Entry>, StoreError> {
        let found: Vec<_> = self
            .inner
            .list(Some(prefix))
            .map_ok(|meta| Entry {
                path: meta.location,
                bytes: meta.size,
                modified: Timestamp::from_ms(meta.last_modified.timestamp_millis()),
            })
            .try_collect()
            .await
            .map_err(|e| self.failed("list", prefix, e))?;
        Ok(found.into_iter().filter(|e| !e.path.as_ref().starts_with(STAGING)).collect())
    }

    /// The names of the folders right below `prefix`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn folders(&self, prefix: &Path) -> Result<Vec<String>, StoreError> {
        if let Some(root) = &self.root {
            let folder = root.join(prefix.as_ref());
            let looked = tokio::task::spawn_blocking(move || folders_of(&folder)).await;
            let failed = |source| StoreError::Io { op: "list", path: root.join(prefix.as_ref()), source };
            return looked.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed);
        }
        let found = self.inner.list_with_delimiter(Some(prefix)).await.map_err(|e| self.failed("list", prefix, e))?;
        Ok(found.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect())
    }

    /// Opens an object as a seekable file; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or (elsewhere than locally) the private copy cannot be written.
    pub async fn open_file(&self, path: &Path) -> Result<Option<Opened>, StoreError> {
        if let Some(root) = &self.root {
            let full = root.join(path.as_ref());
            return match File::open(&full) {
                Ok(file) => {
                    let meta = file.metadata().map_err(|source| StoreError::Io { op: "open", path: full, source })?;
                    Ok(Some(Opened { version: local_version(&meta), file, _scratch: None }))
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(StoreError::Io { op: "open", path: full, source }),
            };
        }
        let found = match self.inner.get(path).await {
            Ok(found) => found,
            Err(OsError::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(self.failed("read", path, e)),
        };
        let version =
            Version { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone(), bytes: found.meta.size };
        let scratch = |source| StoreError::Io { op: "write a private copy", path: std::env::temp_dir(), source };
        let mut copy = tempfile::NamedTempFile::new().map_err(scratch)?;
        let mut parts = found.into_stream();
        while let Some(part) = parts.try_next().await.map_err(|e| self.failed("read", path, e))? {
            std::io::Write::write_all(copy.as_file_mut(), &part).map_err(scratch)?;
        }
        let (mut file, scratch_path) = copy.into_parts();
        std::io::Seek::rewind(&mut file).map_err(scratch)?;
        Ok(Some(Opened { file, version, _scratch: Some(scratch_path) }))
    }

    /// A new file to be written and then put in place.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn stage(&self) -> Result<Staged, StoreError> {
        let folder = match &self.root {
            Some(root) => root.join(STAGING),
            None => std::env::temp_dir(),
        };
        let io = |source| StoreError::Io { op: "make a file in", path: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{}.", self.owner);
        builder.prefix(&prefix).suffix(".parquet");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // A temporary file is private by default; a lake's files are for its readers, as far as the umask lets them.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        Ok(Staged { file: builder.tempfile_in(&folder).map_err(io)? })
    }

    /// Puts `staged` in the place of the version `base` (`None`: there was no file), whole and at once. When it returns, a
    /// power cut does not take it back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Moved`] when the store can tell that something else is there now; else when it cannot be written.
    pub async fn replace(&self, path: &Path, staged: Staged, base: Option<&Version>) -> Result<Version, StoreError> {
        let mut staged = staged;
        if self.root.is_some() {
            let source = staged.file.path().to_owned();
            let io = |op: &'static str| {
                let path = source.clone();
                move |source| StoreError::Io { op, path, source }
            };
            let file = staged.file.as_file().try_clone().map_err(io("open"))?;
            let meta = tokio::task::spawn_blocking(move || file.sync_all().and_then(|()| file.metadata()))
                .await
                .map_err(std::io::Error::other)
                .and_then(|r| r)
                .map_err(io("sync"))?;
            let name = source.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let from = Path::from_iter([STAGING, name]);
            self.inner.rename(&from, path).await.map_err(|e| self.failed("replace", path, e))?;
            // The name in `_staging/` is gone, so there is nothing left to remove.
            staged.file.disable_cleanup(true);
            return Ok(local_version(&meta));
        }
        let mut body = Vec::new();
        let file = staged.file();
        std::io::Seek::rewind(file)
            .and_then(|()| std::io::Read::read_to_end(file, &mut body))
            .map_err(|source| StoreError::Io { op: "read back", path: staged.file.path().to_owned(), source })?;
        let bytes = body.len() as u64;
        let mode = match base {
            None => PutMode::Create,
            Some(v) => PutMode::Update(UpdateVersion { e_tag: v.e_tag.clone(), version: v.version.clone() }),
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.inner.put_opts(path, PutPayload::from(body), options).await;
        let put = put.map_err(|e| self.failed("replace", path, e))?;
        Ok(Version { e_tag: put.e_tag, version: put.version, bytes })
    }

    /// Removes an object; fine when it is not there.
    ///
    /// # Errors
    ///
    /// When the store refuses.
    pub async fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.inner.delete(path).await {
            Ok(()) | Err(OsError::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("remove", path, e)),
        }
    }

    /// Tries on objects of its own, under `probes/`, whether the store does all that this program relies on, and removes them.
    /// It ends at the first step that fails. What a create is answered is believed as little as elsewhere: one whose answer
    /// was lost is sent again by the store's client, so the object is read back.
    pub async fn probe(&self) -> Probe {
        let folder = Path::from_iter(["probes".to_owned(), uuid::Uuid::now_v7().to_string()]);
        let mut passed = Vec::new();
        let failed = self.probe_steps(&folder, &mut passed).await.err();
        let left = self.list(&folder).await.unwrap_or_default();
        for object in left {
            if let Err(error) = self.remove(&object.path).await {
                tracing::debug!(%error, "an object of the probe was left behind");
            }
        }
        if let Some(root) = &self.root {
            // Folders that are empty now; one that holds anything is not removed.
            let _ = std::fs::remove_dir(root.join(folder.as_ref()));
            let _ = std::fs::remove_dir(root.join("probes"));
        }
        let due = Step::ALL.into_iter().find(|s| !passed.contains(s) && self.can_show(*s)).unwrap_or(Step::Remove);
        Probe { passed, failed: failed.map(|error| (due, error)) }
    }

    /// A local folder cannot tell one version from another; there the lock keeps runs apart.
    fn can_show(&self, step: Step) -> bool {
        step != Step::ReplaceStale || self.root.is_none()
    }

    async fn probe_steps(&self, folder: &Path, passed: &mut Vec<Step>) -> Result<(), StoreError> {
        let unfit = |why| Err(StoreError::Unfit { store: self.url.to_string(), why });
        let (made, raced, replaced) =
            (folder.clone().join("made"), folder.clone().join("raced"), folder.clone().join("replaced"));
        self.create(&made, "first".into()).await?;
        if self.get(&made).await?.as_deref() != Some(b"first") {
            return unfit("what was just created reads otherwise");
        }
        passed.push(Step::Create);

        let again = self.create(&made, "second".into()).await?;
        if again == Created::Done || self.get(&made).await?.as_deref() != Some(b"first") {
            return unfit("it ignores that an object may be created only where there is none");
        }
        passed.push(Step::Recreate);

        let racers = (0..PROBE_RACERS).map(|n| self.create(&raced, Bytes::from(format!("racer {n}"))));
        let ends = futures::future::try_join_all(racers).await?;
        // None at all is well: the winner's answer was lost, and its second try met its first.
        if ends.iter().filter(|end| **end == Created::Done).count() > 1 {
            return unfit("of several that create one object at once it lets more than one win");
        }
        passed.push(Step::Race);

        let old = self.probe_replace(&replaced, "one", None).await?;
        passed.push(Step::Replace);
        let fresh = self.probe_replace(&replaced, "two, longer", Some(&old)).await;
        if matches!(fresh, Err(StoreError::Moved { .. }))
            && self.get(&replaced).await?.as_deref() != Some(b"two, longer")
        {
            return unfit("it refuses to replace an object by the very version that it gave for it");
        }
        if !matches!(fresh, Err(StoreError::Moved { .. })) {
            fresh?;
        }
        passed.push(Step::ReplaceFresh);

        if self.can_show(Step::ReplaceStale) {
            let stale = self.probe_replace(&replaced, "three", Some(&old)).await;
            if !matches!(stale, Err(StoreError::Moved { .. })) {
                stale?;
                return unfit("it ignores that an object may be replaced only in the version that was read");
            }
            passed.push(Step::ReplaceStale);
        }
        if self.get(&replaced).await?.as_deref() != Some(b"two, longer") {
            return unfit("what was just replaced reads otherwise");
        }
        passed.push(Step::Read);

        let listed: Vec<Path> = self.list(folder).await?.into_iter().map(|e| e.path).collect();
        if [&made, &raced, &replaced].iter().any(|p| !listed.contains(p)) {
            return unfit("a listing lacks what was just written");
        }
        passed.push(Step::List);

        for path in [&made, &raced, &replaced] {
            self.remove(path).await?;
        }
        if self.get(&made).await?.is_some() || !self.list(folder).await?.is_empty() {
            return unfit("what was just removed is still there");
        }
        passed.push(Step::Remove);
        Ok(())
    }

    async fn probe_replace(&self, path: &Path, text: &str, base: Option<&Version>) -> Result<Version, StoreError> {
        let mut staged = self.stage()?;
        std::io::Write::write_all(staged.file(), text.as_bytes()).map_err(|source| StoreError::Io {
            op: "write",
            path: staged.file.path().to_owned(),
            source,
        })?;
        self.replace(path, staged, base).await
    }

    /// Removes what a killed create left half written right below `prefix` of a local store (`NAME#1`, which no listing
    /// shows): whoever calls knows that nobody writes there. Elsewhere a create leaves nothing.
    ///
    /// # Errors
    ///
    /// When one cannot be removed.
    pub fn remove_unfinished(&self, prefix: &Path) -> Result<(), StoreError> {
        let Some(root) = &self.root else { return Ok(()) };
        let folder = root.join(prefix.as_ref());
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.rsplit_once('#')).map(|(_, number)| number);
            if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|source| StoreError::Io { op: "remove", path, source })?;
            }
        }
        Ok(())
    }

    /// Removes the folders that are left of `prefix` once its objects are gone, locally.
    ///
    /// # Errors
    ///
    /// When they cannot be removed.
    pub fn remove_folder(&self, prefix: &Path) -> Result<(), StoreError> {
        let Some(root) = &self.root else { return Ok(()) };
        let folder = root.join(prefix.as_ref());
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Io { op: "remove", path: folder, source: e })
            }
            _ => Ok(()),
        }
    }

    /// Removes the staged files of this owner, which a killed run left: whoever calls holds the owner's lease, so none of
    /// them is being written. Returns how many. Nothing to do elsewhere than locally.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn sweep_staging(&self) -> Result<u64, StoreError> {
        Ok(self.staged()?.iter().map(|path| u64::from(std::fs::remove_file(path).is_ok())).sum())
    }

    /// The staged files of this owner; none elsewhere than locally.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn staged(&self) -> Result<Vec<PathBuf>, StoreError> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let folder = root.join(STAGING);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Io { op: "list", path: folder, source }),
        };
        // No name of a tenant holds a dot, so none begins another's files.
        let prefix = format!("{}.", self.owner);
        let ours = |e: &std::fs::DirEntry| {
            e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)) && e.file_type().is_ok_and(|t| t.is_file())
        };
        Ok(entries.flatten().filter(ours).map(|e| e.path()).collect())
    }
}

/// The names of the folders in `folder`, without a look at what they hold.
fn folders_of(folder: &FsPath) -> std::io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string();
        // A link to a folder is one too.
        let kind = entry.file_type()?;
        if let Ok(name) = name
            && (kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()))
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The first by name of the files in `folder` whose name `ours` takes.
fn first_of(folder: &FsPath, ours: fn(&str) -> bool) -> std::io::Result<Option<(String, Bytes)>> {
    let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    for _ in 0..LOOKS {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut first: Option<String> = None;
        for entry in entries {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if ours(&name) && first.as_ref().is_none_or(|f| name < *f) {
                first = Some(name);
            }
        }
        let Some(name) = first else { return Ok(None) };
        let mut bytes = Vec::new();
        match File::open(folder.join(&name)) {
            Ok(file) => {
                std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_SMALL_OBJECT_BYTES + 1), &mut bytes)?;
                if bytes.len() as u64 > MAX_SMALL_OBJECT_BYTES {
                    return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, TOO_LARGE));
                }
                return Ok(Some((name, bytes.into())));
            }
            // It may be swept between the listing and the reading.
            Err(e) if absent(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Err(std::io::Error::other(format!("the newest was listed {LOOKS} times and could not be read once")))
}

fn local_version(meta: &std::fs::Metadata) -> Version {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        // As object_store builds its tags: a replaced file has another inode.
        let e_tag = format!("{:x}-{:x}-{:x}", meta.ino(), meta.mtime_nsec() + meta.mtime() * 1_000_000_000, meta.len());
        Version { e_tag: Some(e_tag), version: None, bytes: meta.len() }
    }
    #[cfg(not(unix))]
    Version { e_tag: None, version: None, bytes: meta.len() }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn both() -> (tempfile::TempDir, Vec<Store>) {
        let dir = tempfile::tempdir().unwrap();
        let local = Store::open(dir.path().to_str().unwrap()).unwrap();
        (dir, vec![local, Store::memory()])
    }

    #[tokio::test]
    async fn create_makes_an_object_only_where_there_is_none() {
        let (_dir, stores) = both();
        for store in stores {
            let path = Path::from("a/b.json");
            assert_eq!(store.create(&path, "one".into()).await.unwrap(), Created::Done);
            assert_eq!(store.create(&path, "two".into()).await.unwrap(), Created::Exists);
            assert_eq!(store.get(&path).await.unwrap().unwrap(), "one");
            assert!(store.get(&Path::from("a/c.json")).await.unwrap().is_none());
            assert_eq!(store.list(&Path::from("a")).await.unwrap().len(), 1);
            store.remove(&path).await.unwrap();
            store.remove(&path).await.unwrap();
            assert!(store.list(&Path::from("a")).await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn replace_puts_a_whole_file_in_place_and_leaves_no_other() {
        let (dir, stores) = both();
        for store in stores {
            let path = Path::from("t/tenant=acme/data.parquet");
            let mut base = None;
            for text in ["first", "second, longer"] {
                let mut staged = store.stage().unwrap();
                staged.file().write_all(text.as_bytes()).unwrap();
                let version = store.replace(&path, staged, base.as_ref()).await.unwrap();
                assert_eq!(version.bytes, text.len() as u64);
                let mut opened = store.open_file(&path).await.unwrap().unwrap();
                assert_eq!(opened.version, version);
                let mut read = String::new();
                std::io::Read::read_to_string(&mut opened.file, &mut read).unwrap();
                assert_eq!(read, text);
                base = Some(version);
            }
            let mut staged = store.stage().unwrap();
            staged.file().write_all(b"dropped").unwrap();
            drop(staged);
            assert_eq!(store.list(&Path::from("t")).await.unwrap().len(), 1);
        }
        assert_eq!(std::fs::read_dir(dir.path().join(STAGING)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_probe_finds_every_step_sound_and_leaves_nothing() {
        let (dir, stores) = both();
        for (store, steps) in stores.iter().zip([8, 9]) {
            let probe = store.probe().await;
            assert_eq!(probe.passed.len(), steps, "{probe:?}");
            probe.sound().unwrap();
            assert!(store.list(&Path::from("probes")).await.unwrap().is_empty());
        }
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [STAGING]);
    }

    #[tokio::test]
    async fn a_store_that_can_tell_refuses_to_replace_what_it_did_not_read() {
        let store = Store::memory();
        let path = Path::from("x");
        let stale = store.replace(&path, store.stage().unwrap(), None).await.unwrap();
        store.replace(&path, store.stage().unwrap(), Some(&stale)).await.unwrap();
        let refused = store.replace(&path, store.stage().unwrap(), Some(&stale)).await;
        assert!(matches!(refused, Err(StoreError::Moved { .. })), "{refused:?}");
    }

    #[test]
    fn a_url_that_is_no_store_says_what_to_write() {
        insta::assert_snapshot!(Store::open("ftp://x/y").unwrap_err(), @r#"
        "ftp://…" is not a usable store: no store of the kind `ftp` is built into this version
        hint: use a local path or a file:// URL
        "#);
        assert!(Store::open("").is_err());
        assert!(Store::open("file://relative").is_err());
    }

    #[test]
    fn an_owner_sweeps_its_own_leftovers_and_no_others() {
        let (dir, stores) = both();
        let left = dir.path().join(STAGING);
        std::fs::create_dir_all(&left).unwrap();
        for name in ["acme.x.parquet", "acme-eu.x.parquet"] {
            std::fs::write(left.join(name), "half").unwrap();
        }
        assert_eq!(stores[0].owned_by("acme").sweep_staging().unwrap(), 1);
        assert_eq!(stores[0].owned_by("acme").sweep_staging().unwrap(), 0);
        assert_eq!(stores[0].owned_by("acme-eu").sweep_staging().unwrap(), 1);
    }
}
