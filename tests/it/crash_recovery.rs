//! Crashes by enumeration: every write after the n-th fails, for every n; the next run makes the lake what an undisturbed run
//! makes it.

use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hirelake::report::ExitCode;
use hirelake::sync::{self, Options, SyncError, World};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::harness::{Bench, Setup};
use crate::lake::{assert_same, copy_folder, everything};
use crate::real;

/// After so long a lease is over that nobody renews.
const TERM: Duration = Duration::from_secs(181);

/// A store whose writes fail when the budget that it shares is used up.
#[derive(Debug)]
struct Mortal {
    inner: Arc<dyn ObjectStore>,
    writes: Arc<AtomicUsize>,
    most: usize,
}

impl fmt::Display for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Mortal {
    fn write(&self) -> Result<()> {
        if self.writes.fetch_add(1, Ordering::SeqCst) < self.most {
            return Ok(());
        }
        Err(object_store::Error::Generic { store: "test", source: "the machine went down".into() })
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.write()?;
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.write()?;
        self.inner.put_multipart_opts(location, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.write() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        }
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.write()?;
        self.inner.copy_opts(from, to, options).await
    }
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.write()?;
        self.inner.rename_opts(from, to, options).await
    }
}

/// The same world, whose `most`-th write to lake and state together is its last; and the count of writes tried.
pub fn mortal(world: World, most: usize) -> (World, Arc<AtomicUsize>) {
    let writes = Arc::new(AtomicUsize::new(0));
    let wrap = |inner: Arc<dyn ObjectStore>| -> Arc<dyn ObjectStore> {
        Arc::new(Mortal { inner, writes: writes.clone(), most })
    };
    let world = World { lake: world.lake.clone().wrapped(wrap), state: world.state.clone().wrapped(wrap), ..world };
    (world, writes)
}

/// What a job says in the end: its verdict, and its troubles for people.
type Told = (ExitCode, String);

/// Does `job` once undisturbed, then once for each write that there is with everything after it failing; each time on a copy of
/// the bench's folders, done again to its end and compared. Gives the number of crashes.
async fn enumerate(bench: &Bench, job: impl AsyncFn(&World) -> std::result::Result<Told, SyncError>) -> usize {
    let start = bench.dir.path();
    let fresh = async || {
        let dir = tempfile::tempdir().unwrap();
        if real::url().is_some() {
            real::copy(&bench.world, &bench.elsewhere(dir.path())).await;
            return dir;
        }
        for part in ["lake", "state"] {
            copy_folder(&start.join(part), &dir.path().join(part));
        }
        dir
    };
    let healthy = async |folder: &FsPath, when: &str| {
        let (code, troubles) = job(&bench.elsewhere(folder)).await.unwrap();
        assert_eq!(code, ExitCode::Done, "{when}: {troubles}");
        everything(&bench.elsewhere(folder), "acme").await
    };
    let dir = fresh().await;
    let expected = healthy(dir.path(), "undisturbed").await;
    for most in (0..).step_by(real::every()) {
        let when = format!("after {most} writes");
        let dir = fresh().await;
        let (world, writes) = mortal(bench.elsewhere(dir.path()), most);
        let crashed = job(&world).await;
        drop(world);
        if writes.load(Ordering::SeqCst) <= most {
            assert_eq!(crashed.unwrap().0, ExitCode::Done);
            assert_same(&everything(&bench.elsewhere(dir.path()), "acme").await, &expected, &when);
            return most;
        }
        match crashed {
            // The last writes are notes about the run: its work is done.
            Ok((code, _)) => {
                assert!(matches!(code, ExitCode::Storage | ExitCode::Partial | ExitCode::Done), "{when}: {code:?}")
            }
            Err(e) => assert_eq!(sync::code(&e), ExitCode::Storage, "{when}: {e}"),
        }
        if real::url().is_some() {
            // Nothing shows there that the owner is dead but its silence.
            bench.pass(TERM).await;
        }
        let found = healthy(dir.path(), &when).await;
        assert_same(&found, &expected, &when);
        assert_eq!(staged(dir.path()), 0, "{when}: files left in staging");
    }
    unreachable!()
}

async fn synced(world: &World) -> std::result::Result<Told, SyncError> {
    let report = sync::run(world, &Options::default()).await?;
    Ok((report.code, report.troubles().join("\n")))
}

fn staged(dir: &FsPath) -> usize {
    std::fs::read_dir(dir.join("lake/_staging")).map_or(0, Iterator::count)
}

/// A part of the resources, one of each kind, so that there are not too many writes.
const SOME: &str = r#"resources = ["opportunities", "applications", "contacts", "users", "postings", "opportunities_deleted", "applications_deleted", "notes", "resumes"]"#;

fn setup() -> Setup {
    let mut setup = Setup::new(50);
    // What is tested is the lake: the grant outlives the test.
    setup.token_life = Duration::from_secs(90 * 86_400);
    setup.accounts[0].years = 2;
    setup.defaults += &format!("\n{SOME}");
    setup
}

#[tokio::test(start_paused = true)]
async fn a_first_load_that_crashes_anywhere_is_made_whole_by_the_next_run() {
    let bench = setup().start().await;
    bench.connect("acme").await;
    let crashes = enumerate(&bench, synced).await;
    assert!(crashes > 25, "only {crashes} writes");
}

#[tokio::test(start_paused = true)]
async fn an_increment_that_crashes_anywhere_is_made_whole_by_the_next_run() {
    let bench = setup().start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let control = &bench.control;
    control.edit("acme", 8, 3);
    control.add("acme", 2);
    let all = control.dump("acme", "opportunities").unwrap();
    for o in all.iter().take(3) {
        assert!(control.delete_opportunity("acme", o["id"].as_str().unwrap()));
    }
    control.anonymize("acme", all[10]["id"].as_str().unwrap());
    control.add_user("acme");
    control.edit_posting("acme", control.dump("acme", "postings").unwrap()[0]["id"].as_str().unwrap());
    bench.pass(Duration::from_secs(600)).await;
    let crashes = enumerate(&bench, synced).await;
    assert!(crashes > 20, "only {crashes} writes");
}

/// What follows in tables that nobody reads any more is found by no window that is read again.
#[tokio::test(start_paused = true)]
async fn an_erasure_of_tables_that_are_read_no_more_is_completed_by_the_next_run() {
    let mut bench = setup().start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let fewer = SOME.replace(", \"applications\", \"contacts\"", "").replace(", \"notes\", \"resumes\"", "");
    bench.reconfigure(&format!("{}\n{fewer}", Setup::default().defaults), "", &[]);
    let all = bench.control.dump("acme", "opportunities").unwrap();
    let has_notes = |o: &&serde_json::Value| {
        o["isAnonymized"] != true
            && bench.control.children("acme", "notes").unwrap().iter().any(|c| o["id"] == c.parent_id)
    };
    let id = |o: &serde_json::Value| o["id"].as_str().unwrap().to_owned();
    let two: Vec<String> = all.iter().filter(has_notes).take(2).map(id).collect();
    assert!(bench.control.anonymize("acme", &two[0]) && bench.control.delete_opportunity("acme", &two[1]));
    bench.pass(Duration::from_secs(600)).await;
    let crashes = enumerate(&bench, synced).await;
    assert!(crashes > 20, "only {crashes} writes");
    synced(&bench.world).await.unwrap();
    let notes = bench.table("acme", "notes").await;
    for who in &two {
        let theirs: Vec<_> = notes.values().filter(|n| n["opportunity_id"] == *who).collect();
        assert!(!theirs.is_empty() && theirs.iter().all(|n| !n.contains_key("fields")), "{theirs:?}");
    }
    assert!(notes.values().any(|n| n.contains_key("fields")));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_catalogue_that_crashes_anywhere_is_completed_by_the_next_run() {
    let mut bench = setup().start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let catalog = bench.dir.path().join("catalog");
    std::fs::create_dir(&catalog).unwrap();
    let extend =
        |name: &str| format!("[[extend]]\nname = \"{name}\"\ncolumns = [{{ name = \"more\", type = \"text\" }}]\n");
    std::fs::write(catalog.join("mine.toml"), ["opportunities", "applications", "contacts"].map(extend).concat())
        .unwrap();
    let defaults = format!("{}\n{SOME}", Setup::default().defaults);
    bench.reconfigure(&defaults, "", &[("HIRELAKE_CATALOG", catalog.to_str().unwrap())]);
    bench.pass(Duration::from_secs(600)).await;
    let crashes = enumerate(&bench, synced).await;
    assert!(crashes > 10, "only {crashes} writes");
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_relaying_crashes_anywhere_is_laid_anew_by_the_next_try() {
    let mut bench = setup().start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let defaults = format!("{}\n{SOME}", Setup::default().defaults);
    for (wanted, least) in [("bucket(2)", 5), ("bucket(3)", 6)] {
        bench.reconfigure(&defaults, &format!("[partitions]\nopportunities = \"{wanted}\""), &[]);
        let opportunities = "opportunities".parse().unwrap();
        let relay =
            async |world: &World| sync::relay(world, &opportunities).await.map(|_| (ExitCode::Done, String::new()));
        let crashes = enumerate(&bench, relay).await;
        assert!(crashes > least, "{wanted}: only {crashes} writes");
        relay(&bench.world).await.unwrap();
        assert_eq!(synced(&bench.world).await.unwrap().0, ExitCode::Done);
    }
}
