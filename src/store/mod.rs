//! A URL → an object store: create, list, read, replace, and where a local folder differs.
//!
//! Guarantees: [`Store::create`] makes an object only where there was none; [`Store::complete`] puts a whole file in place at
//! once, durably, and never a half; nothing is deleted but by [`Store::remove`]. What a conditional write is answered is not
//! believed: one whose answer was lost is sent again by the store's client and meets itself, so what stands there is looked
//! at first. Knows nothing of what the objects mean.
//!
//! `open.rs`: URLs, settings, credentials; `replace.rs`: files read and put in place, whole or in parts; `probe.rs`: whether a
//! store does what is relied on; `local.rs`: where a folder differs; `error.rs`: what it failed with.

mod error;
mod local;
mod open;
mod probe;
mod replace;

use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as OsError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use serde::{Deserialize, Serialize};

pub use error::{Cause, StoreError};
pub use open::{MULTIPART_ABOVE, Options, is_remote};
pub use probe::{PROBE, Probe, Step};
pub use replace::{Opened, Ready, Staged, UploadId};

use crate::clock::Timestamp;

/// The folder of a local store in which files wait that are not yet in place.
pub const STAGING: &str = "_staging";

/// Largest object read whole into memory by [`Store::get`]: state entries are kilobytes; anything larger is not one of ours.
const MAX_SMALL_OBJECT_BYTES: u64 = 64 << 20;
const TOO_LARGE: &str = "larger than any entry of the state";
/// An object may go between the listing and the reading; so often is the listing repeated.
const LOOKS: u32 = 5;
/// So often is a create sent again that met nothing and was refused, or whose answer did not come.
const CREATES: u32 = 3;
/// Longest that one small write may take, whatever is tried meanwhile: less than what is left of a lease when it begins.
const CALL: Duration = Duration::from_secs(70);
/// Name of the metadata in which a file on the network says who wrote it. Azure takes no hyphen in it.
const WRITER: &str = "hirelakewriter";

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
    /// Under which hold of a lease it was written, where the file says so: a later one has a higher number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
}

impl Version {
    /// Whether both are of the same content, as far as both say. Stores differ in the quotes around their tags, and a listing
    /// knows no generation.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        fn bare(tag: &Option<String>) -> Option<&str> {
            tag.as_deref().map(|t| t.trim_matches('"')).filter(|t| !t.is_empty())
        }
        match (bare(&self.e_tag), bare(&other.e_tag)) {
            (Some(a), Some(b)) => a == b && self.bytes == other.bytes,
            _ => match (&self.version, &other.version) {
                (Some(a), Some(b)) => a == b,
                _ => self.bytes == other.bytes,
            },
        }
    }

    fn of(meta: &object_store::ObjectMeta) -> Self {
        Self { e_tag: meta.e_tag.clone(), version: meta.version.clone(), bytes: meta.size, fence: None }
    }

    /// With what the file's metadata says of its writer.
    fn told(meta: &object_store::ObjectMeta, attributes: &Attributes) -> Self {
        let mark = attributes.get(&Attribute::Metadata(WRITER.into()));
        Self { fence: mark.and_then(|m| fence_of(m)), ..Self::of(meta) }
    }
}

/// `<run>/<fence>/<nonce>`.
fn fence_of(mark: &str) -> Option<u64> {
    mark.split('/').nth(1)?.parse().ok()
}

/// One object of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What tells its content from another.
    pub version: Version,
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

/// A place for objects. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    url: Arc<str>,
    place: Place,
    /// Whose staged files these are: the first part of their names.
    owner: Arc<str>,
    /// Which run writes.
    writer: Arc<str>,
    /// Whether only the owner of a folder may read what is written there.
    private: bool,
}

/// Where it is, and what only such a place has.
#[derive(Clone)]
enum Place {
    /// A folder.
    Local(Arc<FsPath>),
    /// On the network, or in memory as if it were.
    Remote(Arc<Remote>),
}

struct Remote {
    parts: Arc<dyn MultipartStore>,
    /// Where the store's own paths begin: parts are not sent through what adds it elsewhere.
    prefix: Path,
    /// What tells it from another of the same URL.
    address: String,
    /// Larger files go in parts.
    above: u64,
    /// Whether an object can be replaced in the version that was read, and in no other.
    conditional: bool,
    storage_class: Option<String>,
    /// A private folder for what is read and written: files without names.
    scratch: PathBuf,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

impl Store {
    /// Opens the store that `url` names, with no settings: a path or `file://` URL (the folder is made when it is missing),
    /// `memory://`, or a bucket.
    ///
    /// # Errors
    ///
    /// As [`Store::connect`].
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::connect(url, &Options::default(), &std::env::temp_dir())
    }

    /// Opens the store that `url` names. `scratch` is a private folder for files of a store on the network.
    ///
    /// May take a second, when it has to be seen whether the machine has an identity of its own. Makes no request to a store.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadUrl`], [`StoreError::BadOption`] and [`StoreError::NoCredentials`] before anything is asked;
    /// [`StoreError::Io`] when a folder cannot be made.
    pub fn connect(url: &str, options: &Options, scratch: &FsPath) -> Result<Self, StoreError> {
        if let Some(remote) = open::remote(url, options, &open::environment())? {
            let place = Remote {
                parts: remote.parts,
                prefix: remote.prefix,
                address: remote.address,
                above: options.above(),
                conditional: !options.without_conditional_replace.unwrap_or(false),
                storage_class: options.storage_class.clone(),
                scratch: scratch.to_owned(),
            };
            return Ok(Self::new(remote.objects, url, Place::Remote(Arc::new(place))));
        }
        let path = match url.split_once("://") {
            None => PathBuf::from(url),
            Some(("memory", _)) => return Ok(Self::memory()),
            Some(_) => {
                url::Url::parse(url).ok().and_then(|u| u.to_file_path().ok()).ok_or_else(|| StoreError::BadUrl {
                    url: url.into(),
                    why: "it is not an absolute file URL".into(),
                    hint: "write file:///srv/lake, or simply the path",
                })?
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
        local::make_folder(&path).map_err(|e| io("make folder", e))?;
        let root = path.canonicalize().map_err(|e| io("find folder", e))?;
        let local = object_store::local::LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| StoreError::Failed {
                op: "open",
                path: String::new(),
                store: url.into(),
                source: Cause::of(&e),
            })?
            .with_fsync(true);
        Ok(Self::new(Arc::new(local), url, Place::Local(root.into())))
    }

    fn new(inner: Arc<dyn ObjectStore>, url: &str, place: Place) -> Self {
        Self { inner, url: url.into(), place, owner: "part".into(), writer: "nobody/0".into(), private: false }
    }

    /// A store that is gone with the process; it behaves as one on the network does.
    #[must_use]
    pub fn memory() -> Self {
        Self::memory_with(MULTIPART_ABOVE)
    }

    /// The same, which takes files above so many bytes in parts: for tests of both sizes.
    #[must_use]
    pub fn memory_with(above: u64) -> Self {
        let memory = Arc::new(object_store::memory::InMemory::new());
        let place = Remote {
            parts: memory.clone(),
            prefix: Path::default(),
            address: String::new(),
            above,
            conditional: true,
            storage_class: None,
            scratch: std::env::temp_dir(),
        };
        Self::new(memory, "memory://", Place::Remote(Arc::new(place)))
    }

    /// The same store behind `wrapper`: for tests that count, delay or stop what is written. Parts of large files pass it by.
    #[must_use]
    pub fn wrapped(self, wrapper: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { inner: wrapper(self.inner), ..self }
    }

    /// The same store; what is written to a folder can be read by its owner alone, whatever the umask.
    #[must_use]
    pub fn private(self) -> Self {
        Self { private: true, ..self }
    }

    /// Shuts a file of a private folder to others.
    fn shut(&self, path: &Path) -> Result<(), StoreError> {
        #[cfg(unix)]
        if let (true, Place::Local(root)) = (self.private, &self.place) {
            use std::os::unix::fs::PermissionsExt as _;
            let full = root.join(path.as_ref());
            return match std::fs::set_permissions(&full, std::fs::Permissions::from_mode(0o600)) {
                // It may be removed already: what was put there is gone, then.
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    Err(StoreError::Io { op: "shut to others", path: full, source })
                }
                _ => Ok(()),
            };
        }
        Ok(())
    }

    /// The same store, its staged files marked as `owner`'s, so that whoever holds that owner's lease may sweep them.
    #[must_use]
    pub fn owned_by(&self, owner: &str) -> Self {
        Self { owner: owner.into(), ..self.clone() }
    }

    /// The same store; files on the network say in their metadata that `run` put them there under the hold `fence`.
    #[must_use]
    pub fn written_by(&self, run: &str, fence: u64) -> Self {
        Self { writer: format!("{run}/{fence}").into(), ..self.clone() }
    }

    /// The URL as it was given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is, for people: the folder, or the URL.
    #[must_use]
    pub fn place(&self) -> String {
        self.root().map_or_else(|| self.url.to_string(), |root| root.display().to_string())
    }

    /// What tells a store on the network from another of the same URL: the endpoint, and Azure's account.
    #[must_use]
    pub fn address(&self) -> &str {
        match &self.place {
            Place::Remote(remote) => &remote.address,
            _ => "",
        }
    }

    /// Whether an object is replaced only in the version that was read: always, unless the configuration gave that up.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        !matches!(&self.place, Place::Remote(remote) if !remote.conditional)
    }

    /// The folder of a local store.
    #[must_use]
    pub fn root(&self) -> Option<&FsPath> {
        match &self.place {
            Place::Local(root) => Some(root),
            Place::Remote(_) => None,
        }
    }

    fn failed(&self, op: &'static str, path: &Path, source: &OsError) -> StoreError {
        match source {
            OsError::Precondition { .. } | OsError::AlreadyExists { .. } => self.moved(path),
            source => StoreError::Failed {
                op,
                path: path.to_string(),
                store: self.url.to_string(),
                source: Cause::of(source),
            },
        }
    }

    fn moved(&self, path: &Path) -> StoreError {
        StoreError::Moved { path: path.to_string(), store: self.url.to_string() }
    }

    /// An object that is not there is fine; a bucket that is not there is none.
    fn absent(&self, op: &'static str, path: &Path, e: &OsError) -> Result<(), StoreError> {
        if matches!(e, OsError::NotFound { .. }) && !Cause::of(e).no_bucket() {
            Ok(())
        } else {
            Err(self.failed(op, path, e))
        }
    }

    /// Bounds one small write: its lease must outlast it.
    async fn bounded<T>(
        &self,
        op: &'static str,
        path: &Path,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| {
            Err(StoreError::Failed {
                op,
                path: path.to_string(),
                store: self.url.to_string(),
                source: Cause::timed_out(CALL),
            })
        })
    }

    /// What is said with a file on the network: who writes it, by a mark that no other write has, and its storage class.
    fn attributes(&self, mark: &str) -> Attributes {
        let mut attributes = self.small(PutMode::Overwrite).attributes;
        attributes.insert(Attribute::Metadata(WRITER.into()), mark.to_owned().into());
        attributes
    }

    /// How a small object is put: with the storage class, where one is set.
    fn small(&self, mode: PutMode) -> PutOptions {
        let mut options = PutOptions { mode, ..PutOptions::default() };
        if let Place::Remote(remote) = &self.place
            && let Some(class) = &remote.storage_class
        {
            options.attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        options
    }

    /// Makes an object where there is none. `body` must be like no other that anyone writes there: it is by the body that a
    /// create is known as our own whose answer was lost.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn create(&self, path: &Path, body: Bytes) -> Result<Created, StoreError> {
        let created = self.bounded("create", path, self.create_once(path, &body)).await?;
        if created == Created::Done {
            self.shut(path)?;
        }
        Ok(created)
    }

    async fn create_once(&self, path: &Path, body: &Bytes) -> Result<Created, StoreError> {
        let mut attempt = 1;
        loop {
            let options = self.small(PutMode::Create);
            let failed = match self.inner.put_opts(path, PutPayload::from_bytes(body.clone()), options).await {
                Ok(_) => return Ok(Created::Done),
                // It is ours, perhaps; on S3 one that meets a delete is answered so, too, and there is nothing there.
                Err(OsError::AlreadyExists { .. } | OsError::Precondition { .. }) => None,
                Err(e) if self.root().is_some() => return Err(self.failed("create", path, &e)),
                Err(e) => Some(self.failed("create", path, &e)),
            };
            match (self.get(path).await, failed) {
                (Ok(Some(found)), _) if found == *body => return Ok(Created::Done),
                (Ok(Some(_)), _) => return Ok(Created::Exists),
                (Ok(None), Some(e)) if attempt == CREATES => return Err(e),
                (Ok(None), None) if attempt == CREATES => return Ok(Created::Exists),
                (Ok(None), _) => attempt += 1,
                (Err(_), Some(e)) => return Err(e),
                (Err(e), None) => return Err(e),
            }
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
            Err(e) => return self.absent("read", path, &e).map(|()| None),
        };
        if found.meta.size > MAX_SMALL_OBJECT_BYTES {
            let source = std::io::Error::new(std::io::ErrorKind::FileTooLarge, TOO_LARGE);
            return Err(StoreError::Io { op: "read", path: PathBuf::from(path.as_ref()), source });
        }
        found.bytes().await.map(Some).map_err(|e| self.failed("read", path, &e))
    }

    /// The first by name of the objects right below `prefix` whose name `ours` takes, with what it holds. Locally this is one
    /// look into one folder: thousands of lines can be asked for their newest entry in a second.
    ///
    /// # Errors
    ///
    /// When the store cannot be read, or the object is larger than any of ours.
    pub async fn first(&self, prefix: &Path, ours: fn(&str) -> bool) -> Result<Option<(Path, Bytes)>, StoreError> {
        let Place::Local(root) = &self.place else {
            // It may be swept between the listing and the reading.
            for _ in 0..LOOKS {
                // A listing is in the order of the names (the probe makes sure), so its first page is enough.
                let mut listing = self.inner.list(Some(prefix));
                let mut path = None;
                while let Some(meta) = listing.try_next().await.map_err(|e| self.failed("list", prefix, &e))? {
                    if meta.location.filename().is_some_and(ours) {
                        path = Some(meta.location);
                        break;
                    }
                }
                let Some(path) = path else { return Ok(None) };
                if let Some(bytes) = self.get(&path).await? {
                    return Ok(Some((path, bytes)));
                }
            }
            let source =
                std::io::Error::other(format!("the newest was listed {LOOKS} times and could not be read once"));
            return Err(StoreError::Io { op: "read", path: PathBuf::from(prefix.as_ref()), source });
        };
        let folder = root.join(prefix.as_ref());
        let looked = tokio::task::spawn_blocking(move || local::first_of(&folder, ours)).await;
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
        if self.root().is_none() {
            return self.overwrite(path, body).await;
        }
        let mut staged = self.stage()?;
        let place = staged.place();
        let written =
            tokio::task::spawn_blocking(move || std::io::Write::write_all(staged.file(), &body).map(|()| staged));
        let io = |source| StoreError::Io { op: "write", path: place, source };
        let staged = match written.await.map_err(std::io::Error::other) {
            Ok(Ok(staged)) => staged,
            Ok(Err(e)) | Err(e) => return Err(io(e)),
        };
        let ready = self.prepare(path, staged, None, async |_| Ok::<_, StoreError>(())).await?;
        self.complete(ready).await.map(|_| ())
    }

    /// Puts a small object in the place of whatever is there, whole and at once: for what must be forgotten though its name
    /// has to stay taken. Nothing else of the state is ever written twice.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn overwrite(&self, path: &Path, body: Bytes) -> Result<(), StoreError> {
        let put = async {
            let options = self.small(PutMode::Overwrite);
            let put = self.inner.put_opts(path, PutPayload::from_bytes(body), options).await;
            put.map(|_| ()).map_err(|e| self.failed("overwrite", path, &e))
        };
        self.bounded("overwrite", path, put).await?;
        self.shut(path)
    }

    /// When the store says that an object was last written; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn modified(&self, path: &Path) -> Result<Option<Timestamp>, StoreError> {
        match self.inner.head(path).await {
            Ok(meta) => Ok(Some(Timestamp::from_ms(meta.last_modified.timestamp_millis()))),
            Err(e) => self.absent("look at", path, &e).map(|()| None),
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
                version: Version::of(&meta),
                path: meta.location,
                bytes: meta.size,
                modified: Timestamp::from_ms(meta.last_modified.timestamp_millis()),
            })
            .try_collect()
            .await
            .map_err(|e| self.failed("list", prefix, &e))?;
        Ok(found.into_iter().filter(|e| !e.path.as_ref().starts_with(STAGING)).collect())
    }

    /// The names of the folders right below `prefix`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn folders(&self, prefix: &Path) -> Result<Vec<String>, StoreError> {
        if let Some(root) = self.root() {
            let folder = root.join(prefix.as_ref());
            let looked = tokio::task::spawn_blocking(move || local::folders_of(&folder)).await;
            let failed = |source| StoreError::Io { op: "list", path: root.join(prefix.as_ref()), source };
            return looked.map_err(|e| failed(std::io::Error::other(e)))?.map_err(failed);
        }
        let found = self.inner.list_with_delimiter(Some(prefix)).await.map_err(|e| self.failed("list", prefix, &e))?;
        Ok(found.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect())
    }

    /// Removes an object; fine when it is not there.
    ///
    /// # Errors
    ///
    /// When the store refuses.
    pub async fn remove(&self, path: &Path) -> Result<(), StoreError> {
        match self.inner.delete(path).await {
            Ok(()) => Ok(()),
            Err(e) => self.absent("remove", path, &e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::Ordering::SeqCst;

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

    async fn put(store: &Store, path: &Path, bytes: &[u8], base: Option<&Version>) -> Result<Version, StoreError> {
        let mut staged = store.stage()?;
        staged.file().write_all(bytes).unwrap();
        let ready = store.prepare(path, staged, base, async |_| Ok::<_, StoreError>(())).await?;
        store.complete(ready).await
    }

    async fn read(store: &Store, path: &Path) -> (Version, Vec<u8>) {
        let mut opened = store.open_file(path).await.unwrap().unwrap();
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut opened.file, &mut read).unwrap();
        (opened.version, read)
    }

    #[tokio::test]
    async fn replace_puts_a_whole_file_in_place_and_leaves_no_other() {
        let (dir, mut stores) = both();
        // Everything but the empty file goes in parts.
        stores.push(Store::memory_with(0));
        for store in stores {
            let path = Path::from("t/tenant=acme/data.parquet");
            let mut base = None;
            for text in ["first", "second, longer"] {
                let version = put(&store, &path, text.as_bytes(), base.as_ref()).await.unwrap();
                assert_eq!(version.bytes, text.len() as u64);
                assert_eq!(read(&store, &path).await, (version.clone(), text.as_bytes().to_vec()));
                // A folder is told apart more finely by us than by its listing.
                let listed = store.list(&Path::from("t")).await.unwrap().remove(0).version;
                assert!(store.root().is_some() || version.same(&listed));
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
    async fn a_large_file_goes_in_parts_and_comes_in_pieces() {
        let store = Store::memory_with(1 << 20);
        let path = Path::from("large");
        // Three parts, the last of them short.
        let body: Vec<u8> = (0..17_000_003_u32).flat_map(|n| n.to_le_bytes()).take(17_000_003).collect();
        let version = put(&store, &path, &body, None).await.unwrap();
        let (found, read) = read(&store, &path).await;
        assert_eq!(found, version);
        assert!(read == body);
    }

    #[tokio::test]
    async fn an_upload_that_was_given_up_can_no_longer_be_completed() {
        let store = Store::memory_with(0);
        let path = Path::from("x");
        let mut staged = store.stage().unwrap();
        staged.file().write_all(b"late").unwrap();
        let mut noted = None;
        let begun = async |upload: &UploadId| {
            noted = Some(upload.clone());
            Ok::<_, StoreError>(())
        };
        let ready = store.prepare(&path, staged, None, begun).await.unwrap();
        assert_eq!(ready.upload(), noted.as_ref());
        assert!(store.give_up(&noted.unwrap()).await);
        store.complete(ready).await.unwrap_err();
        assert!(store.open_file(&path).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_upload_is_not_completed_over_what_it_was_not_made_from() {
        let store = Store::memory_with(3);
        let path = Path::from("x");
        let base = put(&store, &path, b"one", None).await.unwrap();
        let mut staged = store.stage().unwrap();
        staged.file().write_all(b"made from one").unwrap();
        let ready = store.prepare(&path, staged, Some(&base), async |_| Ok::<_, StoreError>(())).await.unwrap();
        put(&store, &path, b"two", Some(&base)).await.unwrap();
        assert!(matches!(store.complete(ready).await, Err(StoreError::Moved { .. })));
        assert_eq!(read(&store, &path).await.1, b"two");
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
        let stale = put(&store, &path, b"one", None).await.unwrap();
        put(&store, &path, b"two", Some(&stale)).await.unwrap();
        let refused = put(&store, &path, b"three", Some(&stale)).await;
        assert!(matches!(refused, Err(StoreError::Moved { .. })), "{refused:?}");
    }

    /// A store that does what it is asked and does not say so: as its client then sees it after a second try.
    #[derive(Debug)]
    struct Mute {
        inner: Arc<dyn ObjectStore>,
        attributes: bool,
        left: std::sync::atomic::AtomicU32,
    }

    impl fmt::Display for Mute {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.inner.fmt(f)
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Mute {
        async fn put_opts(
            &self,
            path: &Path,
            payload: PutPayload,
            mut options: PutOptions,
        ) -> object_store::Result<object_store::PutResult> {
            if !self.attributes {
                options.attributes = Attributes::new();
            }
            let mode = options.mode.clone();
            let done = self.inner.put_opts(path, payload, options).await?;
            if self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err() {
                return Ok(done);
            }
            let (path, source) = (path.to_string(), "the answer was lost".into());
            Err(match mode {
                PutMode::Create => OsError::AlreadyExists { path, source },
                PutMode::Update(_) => OsError::Precondition { path, source },
                PutMode::Overwrite => OsError::Generic { store: "mute", source },
            })
        }
        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: object_store::PutMultipartOptions,
        ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
            self.inner.put_multipart_opts(path, options).await
        }
        async fn get_opts(
            &self,
            path: &Path,
            options: object_store::GetOptions,
        ) -> object_store::Result<object_store::GetResult> {
            self.inner.get_opts(path, options).await
        }
        fn delete_stream(
            &self,
            paths: futures::stream::BoxStream<'static, object_store::Result<Path>>,
        ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
            self.inner.delete_stream(paths)
        }
        fn list(
            &self,
            prefix: Option<&Path>,
        ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
            self.inner.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<object_store::ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }
        async fn copy_opts(
            &self,
            from: &Path,
            to: &Path,
            options: object_store::CopyOptions,
        ) -> object_store::Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_is_known_as_our_own() {
        // With the metadata that says who wrote it, and by the content on a store that keeps none.
        for attributes in [true, false] {
            let store = Store::memory()
                .wrapped(|inner| Arc::new(Mute { inner, attributes, left: std::sync::atomic::AtomicU32::new(3) }));
            assert_eq!(store.create(&Path::from("a"), "mine".into()).await.unwrap(), Created::Done);
            assert_eq!(store.create(&Path::from("a"), "another's".into()).await.unwrap(), Created::Exists);
            let path = Path::from("b");
            let one = put(&store, &path, b"one", None).await.unwrap();
            let two = put(&store, &path, b"two", Some(&one)).await.unwrap();
            assert_eq!(read(&store, &path).await, (two, b"two".to_vec()));
            assert!(matches!(put(&store, &path, b"three", Some(&one)).await, Err(StoreError::Moved { .. })));
        }
    }

    #[test]
    fn a_url_that_is_no_store_says_what_to_write() {
        insta::assert_snapshot!(Store::open("ftp://x/y").unwrap_err(), @r#"
        "ftp://…" is not a usable store: no store of the kind `ftp` is built in
        hint: use a path, file://, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
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
