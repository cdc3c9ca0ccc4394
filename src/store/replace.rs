//! Files read whole and put in place whole.
//!
//! A folder: written and fsynced in `_staging/`, renamed, the folder fsynced. A store on the network: one request, conditional
//! on the version that was read; above a size an upload in parts. Those cannot be completed conditionally, so
//! [`Store::prepare`] sends the parts and [`Store::complete`] looks once more at what it is to replace, right before: whoever
//! calls makes sure between the two that it still may.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{
    Error as OsError, GetOptions, GetRange, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    UpdateVersion,
};
use serde::{Deserialize, Serialize};

use super::{CREATES, Cause, Place, Remote, STAGING, Store, StoreError, Version, WRITER, local};

/// What is read or sent at once of a large file.
const PIECE: u64 = 8 << 20;
/// Pieces under way at once.
const PIECES_AT_ONCE: usize = 2;
/// S3 takes no more parts; beyond, parts grow.
const MOST_PARTS: u64 = 9_000;
/// A file that changes while it is read is begun again so often.
const READS: u32 = 4;

/// A seekable copy of an object: the file itself on a local store, a private download elsewhere.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading.
    pub file: File,
    /// The version that was read.
    pub version: Version,
}

/// A new file that is not yet in place; gone when dropped unless [`Store::complete`] took it.
#[derive(Debug)]
pub struct Staged {
    file: File,
    /// A local store's; elsewhere the file has no name, so that nothing is left of it whatever happens.
    name: Option<tempfile::TempPath>,
    folder: PathBuf,
}

impl Staged {
    /// Open for writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it is, for errors.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.name.as_ref().map_or_else(|| self.folder.clone(), |n| n.to_path_buf())
    }
}

/// An upload in parts that is under way: by this alone can it be given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadId {
    /// The URL of the store.
    pub store: String,
    /// What it will be, below the store's root.
    pub path: String,
    /// The store's name for it.
    pub id: String,
}

/// A file of which all is sent or on the disk, and which is not in place yet.
#[derive(Debug)]
pub struct Ready {
    path: Path,
    staged: Staged,
    base: Option<Version>,
    bytes: u64,
    mark: String,
    upload: Option<(UploadId, Vec<PartId>)>,
}

impl Ready {
    /// The upload in parts that [`Store::complete`] ends.
    #[must_use]
    pub fn upload(&self) -> Option<&UploadId> {
        self.upload.as_ref().map(|(id, _)| id)
    }
}

impl Store {
    /// Opens an object as a seekable file; `None` when it is not there. Elsewhere than locally it is read in pieces, into a file
    /// without a name in the scratch folder.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or (elsewhere than locally) the private copy cannot be written.
    pub async fn open_file(&self, path: &Path) -> Result<Option<Opened>, StoreError> {
        let remote = match &self.place {
            Place::Remote(remote) => remote,
            Place::Local(root) => {
                let full = root.join(path.as_ref());
                return match File::open(&full) {
                    Ok(file) => {
                        let meta =
                            file.metadata().map_err(|source| StoreError::Io { op: "open", path: full, source })?;
                        Ok(Some(Opened { version: local::version_of(&meta), file }))
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(StoreError::Io { op: "open", path: full, source }),
                };
            }
        };
        let mut last = None;
        for _ in 0..READS {
            match self.copy_of(remote, path).await {
                Ok(found) => return Ok(found),
                Err(e @ StoreError::Moved { .. }) => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| self.moved(path)))
    }

    async fn copy_of(&self, remote: &Remote, path: &Path) -> Result<Option<Opened>, StoreError> {
        let scratch = |source| StoreError::Io { op: "write a private copy in", path: remote.scratch.clone(), source };
        let get = async |range: std::ops::Range<u64>, tag: Option<String>| {
            let options = GetOptions { range: Some(GetRange::Bounded(range)), if_match: tag, ..GetOptions::default() };
            let got = self.inner.get_opts(path, options).await?;
            let version = Version::told(&got.meta, &got.attributes);
            Ok::<_, OsError>((version, got.bytes().await?))
        };
        let (version, first) = match get(0..PIECE, None).await {
            Ok(got) => got,
            Err(e) => return self.absent("read", path, &e).map(|()| None),
        };
        let mut file = scratch_file(remote).map_err(scratch)?;
        std::io::Write::write_all(&mut file, &first).map_err(scratch)?;
        drop(first);
        let pieces = (1..version.bytes.div_ceil(PIECE)).map(|n| {
            let (from, to) = (n * PIECE, ((n + 1) * PIECE).min(version.bytes));
            get(from..to, version.e_tag.clone())
        });
        let mut pieces = futures::stream::iter(pieces).buffered(PIECES_AT_ONCE);
        while let Some(piece) = pieces.next().await {
            let (found, piece) = piece.map_err(|e| match e {
                OsError::NotFound { .. } => self.moved(path),
                e => self.failed("read", path, &e),
            })?;
            // A store that ignores the condition shows it by what it gives.
            if !found.same(&version) {
                return Err(self.moved(path));
            }
            std::io::Write::write_all(&mut file, &piece).map_err(scratch)?;
        }
        drop(pieces);
        std::io::Seek::rewind(&mut file).map_err(scratch)?;
        Ok(Some(Opened { file, version }))
    }

    /// A new file to be written and then put in place.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub fn stage(&self) -> Result<Staged, StoreError> {
        let io = |folder: PathBuf| move |source| StoreError::Io { op: "make a file in", path: folder, source };
        match &self.place {
            Place::Remote(remote) => {
                let folder = remote.scratch.clone();
                Ok(Staged { file: scratch_file(remote).map_err(io(folder.clone()))?, name: None, folder })
            }
            Place::Local(root) => {
                let folder = root.join(STAGING);
                std::fs::create_dir_all(&folder).map_err(io(folder.clone()))?;
                let mut builder = tempfile::Builder::new();
                let prefix = format!("{}.", self.owner);
                builder.prefix(&prefix).suffix(".parquet");
                #[cfg(unix)]
                {
                    use std::os::unix::fs::PermissionsExt as _;
                    // A temporary file is private by default; a lake's files are for its readers, as far as the umask lets them.
                    let mode = if self.private { 0o600 } else { 0o666 };
                    builder.permissions(std::fs::Permissions::from_mode(mode));
                }
                let (file, name) = builder.tempfile_in(&folder).map_err(io(folder.clone()))?.into_parts();
                Ok(Staged { file, name: Some(name), folder })
            }
        }
    }

    /// Brings `staged` so far that [`Store::complete`] can put it in the place of the version `base` (`None`: there was no
    /// file) with one request. An upload in parts is told to `begun` before its first part, so that it can be given up when
    /// this process no longer can; what is made ready must be completed or abandoned.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or sent, or `begun` fails; an upload is then given up.
    pub async fn prepare<E: From<StoreError>>(
        &self,
        path: &Path,
        staged: Staged,
        base: Option<&Version>,
        begun: impl AsyncFnOnce(&UploadId) -> Result<(), E>,
    ) -> Result<Ready, E> {
        let io = |source| StoreError::Io { op: "read back", path: staged.place(), source };
        let bytes = staged.file.metadata().map_err(io)?.len();
        let mark = format!("{}/{}", self.writer, uuid::Uuid::now_v7());
        let mut ready = Ready { path: path.clone(), staged, base: base.cloned(), bytes, mark, upload: None };
        let Place::Remote(remote) = &self.place else { return Ok(ready) };
        if bytes <= remote.above {
            return Ok(ready);
        }
        let full = remote.full(path);
        let attributes = self.attributes(&ready.mark);
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let id = match remote.parts.create_multipart_opts(&full, options).await {
            // A store without metadata: who wrote it is then seen by the content.
            Err(OsError::NotSupported { .. } | OsError::NotImplemented { .. }) => {
                remote.parts.create_multipart(&full).await
            }
            made => made,
        };
        let id = id.map_err(|e| self.failed("begin to upload", path, &e))?;
        let upload = UploadId { store: self.url.to_string(), path: path.to_string(), id };
        let sent = match begun(&upload).await {
            Ok(()) => self.send_parts(remote, &full, &upload, &mut ready).await.map_err(E::from),
            Err(e) => Err(e),
        };
        match sent {
            Ok(parts) => {
                ready.upload = Some((upload, parts));
                Ok(ready)
            }
            Err(e) => {
                self.give_up(&upload).await;
                Err(e)
            }
        }
    }

    async fn send_parts(
        &self,
        remote: &Remote,
        full: &Path,
        upload: &UploadId,
        ready: &mut Ready,
    ) -> Result<Vec<PartId>, StoreError> {
        let piece = PIECE.max(ready.bytes.div_ceil(MOST_PARTS));
        let place = ready.staged.place();
        let io = |source| StoreError::Io { op: "read back", path: place.clone(), source };
        std::io::Seek::rewind(&mut ready.staged.file).map_err(io)?;
        let mut reader = ready.staged.file.try_clone().map_err(io)?;
        let count = ready.bytes.div_ceil(piece);
        // Read in their order, when a part's turn comes: no more than those under way are in memory.
        let (bytes, path) = (ready.bytes, &ready.path);
        let parts = futures::stream::iter(0..count).map(|n| {
            let mut part = vec![0; usize::try_from(piece.min(bytes - n * piece)).unwrap_or_default()];
            let read = std::io::Read::read_exact(&mut reader, &mut part).map_err(io);
            async move {
                read?;
                let index = usize::try_from(n).unwrap_or(usize::MAX);
                let put = remote.parts.put_part(full, &upload.id, index, PutPayload::from(part)).await;
                put.map_err(|e| self.failed("upload", path, &e))
            }
        });
        parts.buffered(PIECES_AT_ONCE).try_collect().await
    }

    /// Puts what is ready in place, whole and at once. When it returns, a power cut does not take it back. Ends within
    /// 70 seconds, as far as a store on the network is asked.
    ///
    /// # Errors
    ///
    /// [`StoreError::Moved`] when the store can tell that something else is there than `base`; else when it cannot be written.
    pub async fn complete(&self, ready: Ready) -> Result<Version, StoreError> {
        let path = ready.path.clone();
        match &self.place {
            Place::Local(_) => self.rename_into_place(ready).await,
            Place::Remote(remote) => {
                let upload = ready.upload.clone();
                let done = match &upload {
                    None => self.bounded("replace", &path, self.put_whole(remote, ready)).await,
                    Some((id, parts)) => {
                        let call = self.complete_upload(remote, &ready, id, parts.clone());
                        self.bounded("replace", &path, call).await
                    }
                };
                if let (Err(_), Some((id, _))) = (&done, &upload) {
                    self.give_up(id).await;
                }
                done
            }
        }
    }

    async fn rename_into_place(&self, ready: Ready) -> Result<Version, StoreError> {
        let Ready { path, mut staged, .. } = ready;
        let source = staged.place();
        let io = |op: &'static str| {
            let path = source.clone();
            move |source| StoreError::Io { op, path, source }
        };
        let file = staged.file.try_clone().map_err(io("open"))?;
        let meta = tokio::task::spawn_blocking(move || file.sync_all().and_then(|()| file.metadata()))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .map_err(io("sync"))?;
        let name = source.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let from = Path::from_iter([STAGING, name]);
        self.inner.rename(&from, &path).await.map_err(|e| self.failed("replace", &path, &e))?;
        // The name in `_staging/` is gone, so there is nothing left to remove.
        if let Some(name) = &mut staged.name {
            name.disable_cleanup(true);
        }
        Ok(local::version_of(&meta))
    }

    async fn put_whole(&self, remote: &Remote, ready: Ready) -> Result<Version, StoreError> {
        let Ready { path, mut staged, base, bytes, mark, .. } = ready;
        let place = staged.place();
        let mut body = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        std::io::Seek::rewind(&mut staged.file)
            .and_then(|()| std::io::Read::read_to_end(&mut staged.file, &mut body))
            .map_err(|source| StoreError::Io { op: "read back", path: place, source })?;
        drop(staged);
        let body = Bytes::from(body);
        let mode = match &base {
            None => PutMode::Create,
            Some(v) if remote.conditional => {
                PutMode::Update(UpdateVersion { e_tag: v.e_tag.clone(), version: v.version.clone() })
            }
            Some(v) => {
                // The store cannot tell; so it is looked at as late as can be, and the lease does the rest.
                if !self.version(&path).await?.is_some_and(|there| there.same(v)) {
                    return Err(self.moved(&path));
                }
                PutMode::Overwrite
            }
        };
        for attempt in 1.. {
            let options =
                PutOptions { mode: mode.clone(), attributes: self.attributes(&mark), ..PutOptions::default() };
            let error = match self.inner.put_opts(&path, PutPayload::from_bytes(body.clone()), options).await {
                Ok(put) => {
                    let fence = super::fence_of(&mark);
                    return Ok(Version { e_tag: put.e_tag, version: put.version, bytes, fence });
                }
                Err(e) => e,
            };
            // Perhaps it went well, and only the answer was lost.
            match self.mine(&path, &mark, bytes, async || Ok(self.inner.get(&path).await?.bytes().await? == body)).await
            {
                Ok(Mine::Yes(version)) => return Ok(version),
                // On S3 a create that meets a delete is refused, and there is nothing there.
                Ok(Mine::Nothing) if base.is_none() && attempt < CREATES => {}
                Ok(Mine::Nothing | Mine::No) if refused(&error) => return Err(self.moved(&path)),
                _ => return Err(self.failed("replace", &path, &error)),
            }
        }
        Err(self.moved(&path))
    }

    async fn complete_upload(
        &self,
        remote: &Remote,
        ready: &Ready,
        id: &UploadId,
        parts: Vec<PartId>,
    ) -> Result<Version, StoreError> {
        let path = &ready.path;
        let there = self.version(path).await?;
        let unmoved = match (&there, &ready.base) {
            (None, None) => true,
            (Some(there), Some(base)) => there.same(base),
            _ => false,
        };
        if !unmoved {
            return Err(self.moved(path));
        }
        let error = match remote.parts.complete_multipart(&remote.full(path), &id.id, parts).await {
            Ok(put) => {
                let fence = super::fence_of(&ready.mark);
                let version = Version { e_tag: put.e_tag, version: put.version, bytes: ready.bytes, fence };
                // Some give no tag here.
                return match version.e_tag.as_deref() {
                    Some(tag) if !tag.is_empty() => Ok(version),
                    _ => Ok(self.version(path).await?.unwrap_or(version)),
                };
            }
            Err(e) => e,
        };
        match self.mine(path, &ready.mark, ready.bytes, async || self.equal(path, ready).await).await {
            Ok(Mine::Yes(version)) => Ok(version),
            _ => Err(self.failed("replace", path, &error)),
        }
    }

    /// Gives up what is ready and will not be put in place.
    pub async fn abandon(&self, ready: Ready) {
        if let Some((upload, _)) = &ready.upload {
            self.give_up(upload).await;
        }
    }

    /// Ends an upload in parts, whoever began it: it can then no longer be completed. Where the store has no such thing (Azure)
    /// its parts go by themselves, after a week or when the file is next replaced. `false` when the store refused.
    pub async fn give_up(&self, upload: &UploadId) -> bool {
        let Place::Remote(remote) = &self.place else { return true };
        match remote.parts.abort_multipart(&remote.full(&Path::from(upload.path.as_str())), &upload.id).await {
            Ok(()) | Err(OsError::NotFound { .. }) => true,
            Err(e) => {
                tracing::debug!(path = %upload.path, error = %Cause::of(&e), "an upload could not be given up");
                false
            }
        }
    }

    /// The version that is there now.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn version(&self, path: &Path) -> Result<Option<Version>, StoreError> {
        if let Place::Local(root) = &self.place {
            let full = root.join(path.as_ref());
            return match std::fs::metadata(&full) {
                Ok(meta) => Ok(Some(local::version_of(&meta))),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(StoreError::Io { op: "look at", path: full, source }),
            };
        }
        match self.inner.get_opts(path, GetOptions { head: true, ..GetOptions::default() }).await {
            Ok(got) => Ok(Some(Version::told(&got.meta, &got.attributes))),
            Err(e) => self.absent("look at", path, &e).map(|()| None),
        }
    }

    /// Whether what is there is what was written with `mark`. A store that keeps no metadata shows it by the content, which
    /// `equal` compares.
    async fn mine(
        &self,
        path: &Path,
        mark: &str,
        bytes: u64,
        equal: impl AsyncFnOnce() -> Result<bool, OsError>,
    ) -> Result<Mine, OsError> {
        let got = match self.inner.get_opts(path, GetOptions { head: true, ..GetOptions::default() }).await {
            Ok(got) => got,
            Err(OsError::NotFound { .. }) => return Ok(Mine::Nothing),
            Err(e) => return Err(e),
        };
        let version = Version::told(&got.meta, &got.attributes);
        if version.bytes != bytes {
            return Ok(Mine::No);
        }
        let said = got.attributes.get(&object_store::Attribute::Metadata(WRITER.into()));
        let yes = match said {
            Some(writer) => writer.as_ref() == mark,
            None => equal().await?,
        };
        Ok(if yes { Mine::Yes(version) } else { Mine::No })
    }

    /// Whether what is there is what was sent, piece by piece.
    async fn equal(&self, path: &Path, ready: &Ready) -> Result<bool, OsError> {
        let io = |e: std::io::Error| OsError::Generic { store: "scratch", source: e.into() };
        let mut file = ready.staged.file.try_clone().map_err(io)?;
        std::io::Seek::rewind(&mut file).map_err(io)?;
        let mut stream = self.inner.get(path).await?.into_stream();
        let mut ours = Vec::new();
        while let Some(piece) = stream.try_next().await? {
            ours.resize(piece.len(), 0);
            std::io::Read::read_exact(&mut file, &mut ours).map_err(io)?;
            if ours != piece {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

enum Mine {
    Yes(Version),
    No,
    Nothing,
}

/// Whether the store says that what is there is not what was expected.
fn refused(e: &OsError) -> bool {
    matches!(e, OsError::Precondition { .. } | OsError::AlreadyExists { .. } | OsError::NotFound { .. })
}

impl Remote {
    fn full(&self, path: &Path) -> Path {
        self.prefix.parts().chain(path.parts()).collect()
    }
}

/// A private file without a name: whatever ends this process, nothing is left of it.
fn scratch_file(remote: &Remote) -> std::io::Result<File> {
    tempfile::tempfile_in(&remote.scratch)
}
