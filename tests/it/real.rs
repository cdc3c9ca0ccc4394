//! The same tests on a real store: with `HIRELAKE_TEST_STORE=s3://bucket/prefix` (or `gs://`, `az://`, and the usual variables
//! of the environment) lake and state of every test lie below a prefix of their own there, not in the test's folder.
//!
//! The tests' time is paused and a real server answers in real time. So every operation runs on a runtime of its own, inside
//! a blocking task, and while one of those is under way paused time stands still. What the store says of when an object was
//! written is put into the tests' time, or no term would ever end; the store's own times are what `tests/stores` is about.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use hirelake::clock::{Clock, Timestamp};
use hirelake::config::Config;
use hirelake::store::Store;
use hirelake::sync::World;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

static REAL: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// The URL below which tests put their lakes and states, where there is one.
pub fn url() -> Option<String> {
    std::env::var("HIRELAKE_TEST_STORE").ok().filter(|u| !u.is_empty())
}

/// Of the crashes that a test enumerates on a real store only each so-manieth is made: `HIRELAKE_TEST_EVERY`, 1 unless set.
pub fn every() -> usize {
    let said = std::env::var("HIRELAKE_TEST_EVERY").ok().filter(|_| url().is_some());
    said.map_or(1, |n| n.parse::<usize>().unwrap().max(1))
}

/// Where a part (`lake`, `state`) of the test in `folder` is: there, or under the folder's name in the store.
pub fn place(folder: &FsPath, part: &str) -> String {
    let Some(url) = url() else { return folder.join(part).to_str().unwrap().to_owned() };
    let names = folder.strip_prefix(std::env::temp_dir()).unwrap_or(folder).iter();
    let unique: Vec<_> = names.map(|n| n.to_str().unwrap().trim_start_matches('.')).filter(|n| *n != "/").collect();
    format!("{}/{}/{part}", url.trim_end_matches('/'), unique.join("-"))
}

/// The world of a configuration; on a real store every operation takes its real time.
pub fn open(config: Arc<Config>, clock: Clock) -> World {
    let world = World::open(config, clock).unwrap();
    if url().is_none() {
        return world;
    }
    let wrap = |store: Store| {
        let url = store.url().to_owned();
        store.wrapped(|inner| Arc::new(InRealTime { inner, url, clock }))
    };
    World { lake: wrap(world.lake.clone()), state: wrap(world.state.clone()), ..world }
}

/// Copies what lies in a part of `from` to the same part of `to`.
pub async fn copy(from: &World, to: &World) {
    for (from, to) in [(&from.lake, &to.lake), (&from.state, &to.state)] {
        let (from, to) = (inner(from), inner(to));
        let all: Vec<_> = from.list(None).try_collect().await.unwrap();
        for object in all {
            let got = from.get_opts(&object.location, GetOptions::default()).await.unwrap();
            // With what the metadata says of its writer: a file of nobody's would be taken for a late run's.
            let options = PutOptions { attributes: got.attributes.clone(), ..PutOptions::default() };
            let body = got.bytes().await.unwrap();
            to.put_opts(&object.location, body.into(), options).await.unwrap();
        }
    }
}

fn inner(store: &Store) -> Arc<dyn ObjectStore> {
    let mut found = None;
    drop(store.clone().wrapped(|inner| {
        found = Some(inner.clone());
        inner
    }));
    found.unwrap()
}

/// Every object of a store by its path, with its bytes and when the store says it was written. From any thread.
pub fn objects(store: &Store) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let inner = inner(store);
    let read = async move {
        let all: Vec<_> = inner.list(None).try_collect().await.unwrap();
        let mut found = BTreeMap::new();
        for object in all {
            let body = inner.get(&object.location).await.unwrap().bytes().await.unwrap().to_vec();
            found.insert(PathBuf::from(object.location.as_ref()), (body, object.last_modified.into()));
        }
        found
    };
    // The caller's thread may belong to a runtime, and that must not be waited on.
    std::thread::spawn(|| REAL.block_on(read)).join().unwrap()
}

#[derive(Debug)]
struct InRealTime {
    inner: Arc<dyn ObjectStore>,
    url: String,
    clock: Clock,
}

/// When each object was written, in the time of the test that wrote it. Prefixes are never used twice.
static WRITTEN: LazyLock<Mutex<BTreeMap<(String, Path), Timestamp>>> = LazyLock::new(Mutex::default);

impl InRealTime {
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        // Inside of such a task already there is no clock to be kept from running.
        if tokio::runtime::Handle::current().id() == REAL.handle().id() {
            return work.await;
        }
        tokio::task::spawn_blocking(move || REAL.block_on(work)).await.unwrap()
    }

    fn wrote(&self, path: &Path) {
        WRITTEN.lock().unwrap().insert((self.url.clone(), path.clone()), self.clock.now());
    }

    fn in_our_time(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = WRITTEN.lock().unwrap().get(&(self.url.clone(), meta.location.clone())).copied();
        if let Some(at) = written {
            meta.last_modified = (SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(at.ms() as u64)).into();
        }
        meta
    }
}

impl fmt::Display for InRealTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for InRealTime {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (inner, path) = (self.inner.clone(), location.clone());
        let put = self.run(async move { inner.put_opts(&path, payload, options).await }).await;
        if put.is_ok() {
            self.wrote(location);
        }
        put
    }
    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("no test on a real store has files that are so large")
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (inner, path) = (self.inner.clone(), location.clone());
        let got = self.run(async move {
            let mut got = inner.get_opts(&path, options).await?;
            let body: Vec<Bytes> = match got.payload {
                GetResultPayload::Stream(stream) => stream.try_collect().await?,
                other @ GetResultPayload::File(..) => panic!("a file on a store of the network: {other:?}"),
            };
            got.payload = GetResultPayload::Stream(futures::stream::iter(body.into_iter().map(Ok)).boxed());
            Ok(got)
        });
        got.await.map(|got| GetResult { meta: self.in_our_time(got.meta), ..got })
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = Self { inner: self.inner.clone(), url: self.url.clone(), clock: self.clock };
        let deleted = async move {
            let paths: Vec<_> = locations.collect().await;
            let inner = this.inner.clone();
            this.run(async move { inner.delete_stream(futures::stream::iter(paths).boxed()).collect::<Vec<_>>().await })
                .await
        };
        futures::stream::once(deleted).flat_map(futures::stream::iter).boxed()
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = Self { inner: self.inner.clone(), url: self.url.clone(), clock: self.clock };
        let prefix = prefix.cloned();
        let listed = async move {
            let inner = this.inner.clone();
            let all = this.run(async move { inner.list(prefix.as_ref()).collect::<Vec<_>>().await }).await;
            all.into_iter().map(|meta| meta.map(|m| this.in_our_time(m))).collect::<Vec<_>>()
        };
        futures::stream::once(listed).flat_map(futures::stream::iter).boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (inner, prefix) = (self.inner.clone(), prefix.cloned());
        let listed = self.run(async move { inner.list_with_delimiter(prefix.as_ref()).await }).await?;
        let objects = listed.objects.into_iter().map(|m| self.in_our_time(m)).collect();
        Ok(ListResult { objects, ..listed })
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (inner, from, target) = (self.inner.clone(), from.clone(), to.clone());
        self.run(async move { inner.copy_opts(&from, &target, options).await }).await?;
        self.wrote(to);
        Ok(())
    }
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (inner, from, target) = (self.inner.clone(), from.clone(), to.clone());
        self.run(async move { inner.rename_opts(&from, &target, options).await }).await?;
        self.wrote(to);
        Ok(())
    }
}
