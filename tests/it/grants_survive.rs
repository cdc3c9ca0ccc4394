//! A crash at every point of a refresh, two hosts, wrong clocks, full disks, lying stores: the grant lives, or is dead by the
//! provider's own word; and how many requests that cost the token endpoint.

use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hirelake::auth::{Auth, Grant, Standing};
use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::{AccountSize, Action};
use hirelake::secret::Secret;
use hirelake::state::State;
use hirelake::store::Store;
use hirelake::sync::{self, Options, World};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::harness::{Bench, CLIENT, CLIENT_SECRET, Setup, fault, tenant};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const TOKEN: &str = "POST /oauth/token";

/// The entries of a grant's line that one refresh writes, in their order.
const INTENT: usize = 0;
const SAVE: usize = 1;

/// What happens at one entry of the line.
#[derive(Debug, Clone)]
enum Mood {
    /// The machine goes down before it is written,
    DiesBefore,
    /// or right after.
    DiesAfter,
    /// Half of it is written, as a local store would leave it, and the machine goes down.
    DiesHalfWay,
    /// The disk is full from here on, for the grants.
    Full,
    /// It is written, and the store says that something was there already: its client had sent it twice.
    SaysExists,
    /// The machine sleeps so long before it is written, and with it all that it writes meanwhile,
    SleepsBefore(Duration),
    /// or after.
    SleepsAfter(Duration),
}

/// A store with a mood at the `at`-th entry that is written to a grant's line.
#[derive(Debug)]
struct Moody {
    inner: Arc<dyn ObjectStore>,
    at: usize,
    mood: Mood,
    root: Option<PathBuf>,
    written: AtomicUsize,
    dead: AtomicBool,
    awake: tokio::sync::watch::Sender<bool>,
}

impl fmt::Display for Moody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Moody {
    fn alive(&self) -> Result<()> {
        let gone = || Error::Generic { store: "test", source: "the machine went down".into() };
        if self.dead.load(Ordering::SeqCst) { Err(gone()) } else { Ok(()) }
    }

    fn die<T>(&self) -> Result<T> {
        self.dead.store(true, Ordering::SeqCst);
        Err(self.alive().unwrap_err())
    }

    async fn asleep(&self) {
        self.awake.subscribe().wait_for(|awake| *awake).await.unwrap();
    }

    async fn sleep(&self, time: Duration) {
        self.awake.send_replace(false);
        tokio::time::sleep(time).await;
        self.awake.send_replace(true);
    }
}

#[async_trait]
impl ObjectStore for Moody {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.alive()?;
        if !location.as_ref().starts_with("grants/") {
            self.asleep().await;
            return self.inner.put_opts(location, payload, options).await;
        }
        let n = self.written.fetch_add(1, Ordering::SeqCst);
        if n < self.at || (n > self.at && !matches!(self.mood, Mood::Full)) {
            return self.inner.put_opts(location, payload, options).await;
        }
        match self.mood {
            Mood::DiesBefore => self.die(),
            Mood::DiesAfter => {
                self.inner.put_opts(location, payload, options).await?;
                self.die()
            }
            Mood::DiesHalfWay => {
                let text = payload.iter().flat_map(|b| b.to_vec()).collect::<Vec<u8>>();
                let half = &text[..text.len() / 2];
                match &self.root {
                    Some(root) => std::fs::write(root.join(format!("{location}#1")), half).unwrap(),
                    None => drop(self.inner.put(location, half.to_vec().into()).await?),
                }
                self.die()
            }
            Mood::Full => {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                Err(Error::Generic { store: "test", source: source.into() })
            }
            Mood::SaysExists => {
                self.inner.put_opts(location, payload, options).await?;
                Err(Error::AlreadyExists { path: location.to_string(), source: "sent twice".into() })
            }
            Mood::SleepsBefore(time) => {
                self.sleep(time).await;
                self.inner.put_opts(location, payload, options).await
            }
            Mood::SleepsAfter(time) => {
                let put = self.inner.put_opts(location, payload, options).await;
                self.sleep(time).await;
                put
            }
        }
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        self.inner.put_multipart_opts(location, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.alive() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        }
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        }
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.alive()?;
        self.inner.rename_opts(from, to, options).await
    }
}

/// Where the state is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    /// In a folder: other runs of this machine meet its lock.
    Here,
    /// In a store without a lock, as of a cloud, and nothing of it is kept on this machine.
    Away,
}

/// How the provider takes a token that was used before.
const STRICT: Duration = Duration::ZERO;
const LENIENT: Duration = Duration::from_secs(3600);

/// The bench's world with a scratch folder of its own.
fn own_scratch(bench: &mut Bench) -> PathBuf {
    let scratch = bench.dir.path().join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let mut config = (*bench.world.config).clone();
    config.scratch.clone_from(&scratch);
    bench.world.config = Arc::new(config);
    scratch
}

async fn connected(place: Where, setup: Setup) -> Bench {
    let mut bench = Setup { accounts: vec![AccountSize::new("acme", 10)], ..setup }.start().await;
    own_scratch(&mut bench);
    if place == Where::Away {
        bench.world.state = Store::memory();
    }
    bench.connect("acme").await;
    bench
}

/// A connected tenant whose access token has ended, the requests counted from now on.
async fn due(place: Where, refresh_leeway: Duration) -> Bench {
    let bench = connected(place, Setup { refresh_leeway, ..Setup::default() }).await;
    bench.pass(HOUR).await;
    bench.control.reset_stats();
    bench
}

fn moody(bench: &Bench, at: usize, mood: Mood) -> World {
    let root = bench.world.state.root().map(FsPath::to_owned);
    let (written, dead) = (AtomicUsize::new(0), AtomicBool::new(false));
    let wrap = |inner| -> Arc<dyn ObjectStore> {
        Arc::new(Moody { inner, at, mood, root, written, dead, awake: tokio::sync::watch::Sender::new(true) })
    };
    World { state: bench.world.state.clone().wrapped(wrap), ..bench.world.clone() }
}

async fn report(world: &World) -> Report {
    sync::run(world, &Options::default()).await.unwrap()
}

/// A run, and what it asked the token endpoint.
async fn run(bench: &Bench, world: &World) -> (ExitCode, u64) {
    bench.control.reset_stats();
    let report = report(world).await;
    (report.code, bench.control.stats().token_requests)
}

async fn next(bench: &Bench) -> (ExitCode, u64) {
    run(bench, &bench.world).await
}

async fn standing(bench: &Bench) -> Standing {
    bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body.standing
}

/// The grant works: now, and when its token has ended once more; and nothing is left on this machine.
async fn assert_lives(bench: &Bench, when: &str) {
    assert_eq!(next(bench).await.0, ExitCode::Done, "{when}");
    bench.assert_right("acme").await;
    bench.pass(2 * HOUR).await;
    assert_eq!(next(bench).await, (ExitCode::Done, 1), "{when}");
    assert!(matches!(standing(bench).await, Standing::Live { .. }), "{when}");
    let left: Vec<_> = std::fs::read_dir(bench.dir.path().join("scratch")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{when}: {left:?}");
}

/// It is dead, its customer is told so, and nobody asks again.
async fn assert_dead(bench: &Bench, when: &str) {
    bench.control.reset_stats();
    let report = report(&bench.world).await;
    assert_eq!(report.code, ExitCode::Reconnect, "{when}");
    assert!(report.troubles().join("\n").contains("`hirelake connect acme`"), "{when}");
    assert_eq!(bench.control.stats().token_requests, 0, "{when}");
    bench.connect("acme").await;
    assert_lives(bench, when).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_request_is_sent_costs_one_request_of_the_next_run() {
    for place in [Where::Here, Where::Away] {
        for mood in [Mood::DiesBefore, Mood::DiesAfter, Mood::DiesHalfWay] {
            let when = format!("{place:?} {mood:?}");
            let bench = due(place, STRICT).await;
            assert_eq!(run(&bench, &moody(&bench, INTENT, mood.clone())).await, (ExitCode::Storage, 0), "{when}");
            restart(&bench, place).await;
            if place == Where::Away && matches!(mood, Mood::DiesHalfWay) {
                // No cloud leaves half an object; if something does, it is told and nothing is thought empty.
                assert_eq!(next(&bench).await, (ExitCode::Storage, 0), "{when}");
                remove_newest(&bench).await;
            }
            assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{when}");
            assert_lives(&bench, &when).await;
        }
    }
}

/// Half an hour after a crash: the dead run's lease is over.
async fn restart(bench: &Bench, place: Where) {
    bench.pass(HOUR / 2).await;
    if place == Where::Away {
        take_over(bench).await;
    }
}

/// Does what the hint of a corrupt entry says.
async fn remove_newest(bench: &Bench) {
    let mut all = bench.world.state.list(&Path::from("grants/acme")).await.unwrap();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    bench.world.state.remove(&all[0].path).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_request_which_the_provider_never_saw_costs_one_request_of_the_next_run() {
    for place in [Where::Here, Where::Away] {
        for leeway in [STRICT, LENIENT] {
            let when = format!("{place:?} {leeway:?}");
            let bench = due(place, leeway).await;
            bench.control.fault(fault(TOKEN, 0, 1, Action::Reset));
            assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesBefore)).await, (ExitCode::Storage, 1), "{when}");
            restart(&bench, place).await;
            assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{when}");
            assert_lives(&bench, &when).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_request_whose_reply_is_lost_lives_by_the_leeway_or_is_dead_after_one_more() {
    for place in [Where::Here, Where::Away] {
        for leeway in [STRICT, LENIENT] {
            let when = format!("{place:?} {leeway:?}");
            let bench = due(place, leeway).await;
            bench.control.fault(fault(TOKEN, 0, 1, Action::ReplyLost));
            assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesBefore)).await, (ExitCode::Storage, 1), "{when}");
            restart(&bench, place).await;
            if leeway.is_zero() {
                assert_eq!(next(&bench).await, (ExitCode::Reconnect, 1), "{when}");
                assert_dead(&bench, &when).await;
            } else {
                assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{when}");
                assert_lives(&bench, &when).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_reply_and_the_save_costs_nothing_on_this_machine() {
    for leeway in [STRICT, LENIENT] {
        for mood in [Mood::DiesBefore, Mood::DiesHalfWay] {
            let when = format!("{leeway:?} {mood:?}");
            let bench = due(Where::Here, leeway).await;
            assert_eq!(run(&bench, &moody(&bench, SAVE, mood)).await, (ExitCode::Storage, 1), "{when}");
            restart(&bench, Where::Here).await;
            assert_eq!(next(&bench).await, (ExitCode::Done, 0), "{when}");
            assert_lives(&bench, &when).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_reply_and_the_save_on_a_machine_that_is_gone_lives_by_the_leeway_or_is_dead_after_one_more()
 {
    for place in [Where::Here, Where::Away] {
        for leeway in [STRICT, LENIENT] {
            let when = format!("{place:?} {leeway:?}");
            let mut bench = due(place, leeway).await;
            assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesBefore)).await, (ExitCode::Storage, 1), "{when}");
            let scratch = own_scratch(&mut bench);
            std::fs::remove_dir_all(&scratch).unwrap();
            std::fs::create_dir(&scratch).unwrap();
            restart(&bench, place).await;
            if leeway.is_zero() {
                assert_eq!(next(&bench).await, (ExitCode::Reconnect, 1), "{when}");
                assert_dead(&bench, &when).await;
            } else {
                assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{when}");
                assert_lives(&bench, &when).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_right_after_the_save_costs_nothing() {
    for place in [Where::Here, Where::Away] {
        let bench = due(place, STRICT).await;
        assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesAfter)).await, (ExitCode::Storage, 1), "{place:?}");
        restart(&bench, place).await;
        assert_eq!(next(&bench).await, (ExitCode::Done, 0), "{place:?}");
        assert_lives(&bench, &format!("{place:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_wait_on_this_machine_beat_no_later_consent() {
    let bench = due(Where::Here, STRICT).await;
    assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesBefore)).await, (ExitCode::Storage, 1));
    bench.connect("acme").await;
    let account_before = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert_eq!(next(&bench).await, (ExitCode::Done, 0));
    let after = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert_eq!(after, account_before, "the consent is newer than what waited");
    assert_lives(&bench, "after a consent").await;
}

/// The file in which the tenant's tokens wait.
fn waiting(bench: &Bench) -> std::path::PathBuf {
    let files = std::fs::read_dir(&bench.world.config.scratch).unwrap().flatten().map(|e| e.path());
    let mut found = files.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("hirelake-unsaved-"));
    found.next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn tokens_that_wait_and_cannot_be_opened_hold_up_no_later_consent() {
    let bench = due(Where::Here, STRICT).await;
    assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesBefore)).await, (ExitCode::Storage, 1));
    // Sealed with a key that nobody has any more.
    let file = waiting(&bench);
    let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    kept["grant"]["sealed"]["key"] = "00000000".into();
    std::fs::write(&file, kept.to_string()).unwrap();
    // They follow the stored grant, so they wait for their key: nothing is asked with the token that they replace.
    assert_eq!(next(&bench).await, (ExitCode::Configuration, 0));
    assert!(file.exists());
    bench.connect("acme").await;
    assert_eq!(next(&bench).await, (ExitCode::Done, 0));
    assert!(!file.exists());
    assert_lives(&bench, "after a consent").await;
}

#[tokio::test(start_paused = true)]
async fn what_another_version_left_waiting_is_neither_dropped_nor_written_over() {
    let bench = due(Where::Here, STRICT).await;
    assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::DiesBefore)).await, (ExitCode::Storage, 1));
    let file = waiting(&bench);
    let kept = std::fs::read(&file).unwrap();
    let mut newer: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    newer["since"] = "a later version".into();
    let newer = newer.to_string();
    std::fs::write(&file, &newer).unwrap();
    assert_eq!(next(&bench).await, (ExitCode::Storage, 0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer);
    std::fs::write(&file, kept).unwrap();
    assert_eq!(next(&bench).await, (ExitCode::Done, 0));
    assert_lives(&bench, "by the version that wrote it").await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_endpoint_asks_for_a_pause_begins_no_request() {
    let bench = due(Where::Here, STRICT).await;
    let pause = Action::Status { code: 429, body: None, retry_after: Some("200".into()) };
    bench.control.fault(fault("POST /oauth/token", 0, 0, pause));
    bench.control.reset_stats();
    let world = World { stop: tokio_util::sync::CancellationToken::new(), ..bench.world.clone() };
    let stop = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.stop.cancel();
    };
    let (ended, ()) = tokio::join!(report(&world), stop);
    assert_eq!(ended.code, ExitCode::Stopped, "{:?}", ended.troubles());
    assert!(ended.ended.since(ended.started) < Duration::from_secs(18));
    assert_eq!(bench.control.stats().token_requests, 1);
    bench.control.clear_faults();
    bench.pass(Duration::from_secs(300)).await;
    assert_eq!(next(&bench).await, (ExitCode::Done, 1));
    assert_lives(&bench, "after the stop").await;
}

#[tokio::test(start_paused = true)]
async fn two_hosts_at_once_make_one_request() {
    let bench = due(Where::Away, STRICT).await;
    // Their clocks differ by two minutes.
    let other = World {
        clock: Clock::starting_at(bench.world.clock.now().plus(Duration::from_secs(120))),
        ..bench.world.clone()
    };
    bench.control.reset_stats();
    let (a, b) = tokio::join!(report(&bench.world), report(&other));
    let mut codes = [a.code, b.code];
    codes.sort_unstable();
    assert_eq!(codes, [ExitCode::Done, ExitCode::Busy]);
    assert_eq!(bench.control.stats().token_requests, 1);
    assert_lives(&bench, "after both").await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_who_slept_while_another_took_over_asks_nothing() {
    // Longer than a lease's term; the other comes when it is past.
    let nap = Duration::from_secs(400);
    for (mood, when) in [(Mood::SleepsBefore(nap), "before the intent"), (Mood::SleepsAfter(nap), "after the intent")] {
        for early in [true, false] {
            let bench = due(Where::Away, STRICT).await;
            let sleeper = moody(&bench, INTENT, mood.clone());
            let (slept, other) = tokio::join!(report(&sleeper), async {
                // The term is judged by the store's own times, which are the machine's: they do not pass in a test.
                tokio::time::sleep(Duration::from_secs(if early { 200 } else { 390 })).await;
                take_over(&bench).await;
                report(&bench.world).await
            });
            assert_eq!(other.code, ExitCode::Done, "{when}: {}", other.troubles().join("\n"));
            // Either it found the other's entries, or it gave up waiting for the store.
            let told = matches!(slept.code, ExitCode::Busy | ExitCode::Storage);
            assert!(told, "{when}: {:?} {}", slept.code, slept.troubles().join("\n"));
            assert_eq!(bench.control.stats().token_requests, 1, "{when}");
            assert_lives(&bench, when).await;
        }
    }
}

/// What the end of a term does: the lease of whoever holds the tenant counts no more.
async fn take_over(bench: &Bench) {
    let line = Path::from("leases/acme");
    let mut all = bench.world.state.list(&line).await.unwrap();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    let text = bench.world.state.get(&all[0].path).await.unwrap().unwrap();
    let mut entry: serde_json::Value = serde_json::from_slice(&text).unwrap();
    entry["n"] = (entry["n"].as_u64().unwrap() + 1).into();
    entry["body"]["term_s"] = 0.into();
    let number: u64 = all[0].path.filename().unwrap().trim_end_matches(".json").parse().unwrap();
    let path = line.join(format!("{:015}.json", number - 1));
    bench.world.state.create(&path, entry.to_string().into()).await.unwrap();
    // By the store's times it is past when a millisecond is over.
    std::thread::sleep(Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_beside_a_running_sync_finds_it_busy_and_asks_nothing() {
    for place in [Where::Here, Where::Away] {
        let bench = connected(place, Setup { latency: Duration::from_secs(5), ..Setup::default() }).await;
        bench.pass(HOUR).await;
        bench.control.reset_stats();
        let (first, second) = tokio::join!(report(&bench.world), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let during_refresh = report(&bench.world).await.code;
            tokio::time::sleep(Duration::from_secs(4)).await;
            (during_refresh, report(&bench.world).await.code)
        });
        assert_eq!((first.code, second), (ExitCode::Done, (ExitCode::Busy, ExitCode::Busy)), "{place:?}");
        assert_eq!(bench.control.stats().token_requests, 1, "{place:?}");
        bench.assert_right("acme").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_an_hour_between_runs_costs_one_request_at_most() {
    for (offset_s, lived_min, expected) in [(3600_i64, 10, 1), (-3600, 10, 0), (-3600, 70, 1), (3600, 70, 1)] {
        let when = format!("{offset_s} s off after {lived_min} min");
        let bench = connected(Where::Here, Setup::default()).await;
        bench.pass(Duration::from_secs(lived_min * 60)).await;
        let now = bench.world.clock.now().ms() + offset_s * 1000;
        let off = World { clock: Clock::starting_at(hirelake::clock::Timestamp::from_ms(now)), ..bench.world.clone() };
        assert_eq!(run(&bench, &off).await, (ExitCode::Done, expected), "{when}");
        assert_eq!(run(&bench, &off).await, (ExitCode::Done, 0), "{when}: again");
        // And back again.
        let (code, asked) = next(&bench).await;
        assert!(code == ExitCode::Done && asked <= 1, "{when}: {code:?}, {asked} requests");
        assert_lives(&bench, &when).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_whose_clock_jumps_an_hour_in_mid_run_costs_one_request() {
    for offset_s in [3600, -3600] {
        let bench = due(Where::Here, STRICT).await;
        for route in [TOKEN, "GET /v1/"] {
            bench.control.fault(fault(route, 1, 0, Action::Date { offset_s }));
        }
        assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{offset_s}");
        assert_eq!(next(&bench).await, (ExitCode::Done, 0), "{offset_s}");
        bench.control.clear_faults();
        assert_eq!(next(&bench).await, (ExitCode::Done, 0), "{offset_s}");
        bench.pass(2 * HOUR).await;
        assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{offset_s}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_before_the_request_is_found_before_it() {
    for place in [Where::Here, Where::Away] {
        let bench = due(place, STRICT).await;
        for _ in 0..3 {
            assert_eq!(run(&bench, &moody(&bench, INTENT, Mood::Full)).await, (ExitCode::Storage, 0), "{place:?}");
            bench.pass(DAY).await;
        }
        assert_eq!(next(&bench).await, (ExitCode::Done, 1), "{place:?}");
        assert_lives(&bench, &format!("{place:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_at_the_save_costs_nothing_once_there_is_room() {
    let bench = due(Where::Here, STRICT).await;
    assert_eq!(run(&bench, &moody(&bench, SAVE, Mood::Full)).await, (ExitCode::Storage, 1));
    // Runs that still find it full ask nothing: what waits comes first.
    for _ in 0..3 {
        bench.pass(DAY).await;
        assert_eq!(run(&bench, &moody(&bench, INTENT, Mood::Full)).await, (ExitCode::Storage, 0));
    }
    // Its access token has ended by now: one request, with the token that was saved at last.
    assert_eq!(next(&bench).await, (ExitCode::Done, 1));
    assert_lives(&bench, "room again").await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_already_exists_to_its_own_create_is_seen_through() {
    for place in [Where::Here, Where::Away] {
        for at in [INTENT, SAVE] {
            let bench = due(place, STRICT).await;
            let world = moody(&bench, at, Mood::SaysExists);
            assert_eq!(run(&bench, &world).await, (ExitCode::Done, 1), "{place:?}, entry {at}");
            assert_lives(&bench, &format!("{place:?}, entry {at}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_seed_beats_no_stored_grant_and_is_not_tried_again() {
    let mut bench = Setup { accounts: vec![AccountSize::new("acme", 10)], ..Setup::default() }.start().await;
    own_scratch(&mut bench);
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ");
    let token = bench.control.grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap();
    let seed = async || {
        let run = RunId::new();
        let (auth, lease) = (bench.auth(run), Arc::new(bench.state().lease(&tenant("acme"), run).await.unwrap()));
        let seeded = auth.seed_refresh_token(&tenant("acme"), lease.clone(), Secret::new(token.clone()), false).await;
        auth.settled(&tenant("acme")).await;
        Arc::into_inner(lease).unwrap().release().await.unwrap();
        seeded.unwrap();
    };
    // The deployment gives the seed each night, as its environment still has it.
    for (night, expected) in [(0, 1), (1, 1), (2, 1), (3, 1)] {
        bench.control.reset_stats();
        seed().await;
        assert_eq!(next(&bench).await.0, ExitCode::Done, "night {night}");
        bench.control.reset_stats();
        bench.pass(DAY).await;
        seed().await;
        assert_eq!(bench.control.stats().token_requests, expected, "night {night}: a refresh of the stored grant");
    }
    let grant = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert!(grant.generation > 4 && matches!(grant.standing, Standing::Live { .. }), "{grant:?}");
    assert_lives(&bench, "after the seeds").await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_forty_nights_costs_one_request_a_night_and_no_grant() {
    let status = |code| Action::Status { code, body: None, retry_after: None };
    for action in
        [status(500), status(503), Action::Reset, Action::Garbage, Action::ReplyLost, Action::Delay { ms: 90_000 }]
    {
        // Where the work is done and its answer lost, the provider's leeway decides; here it is long.
        let bench = due(Where::Here, 60 * DAY).await;
        bench.control.fault(fault(TOKEN, 0, 0, action.clone()));
        for night in 0..40 {
            let expected = if night == 0 { 2 } else { 1 };
            assert_eq!(next(&bench).await, (ExitCode::Provider, expected), "{action:?}, night {night}");
            bench.pass(DAY).await;
        }
        bench.control.clear_faults();
        // Where it was done on the first night, the answer within the leeway is the first one: its access token is over.
        let done = action == Action::ReplyLost;
        assert_eq!(next(&bench).await, (ExitCode::Done, if done { 2 } else { 1 }), "{action:?}");
        assert_lives(&bench, &format!("{action:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_mistyped_client_secret_or_environment_costs_one_request_a_night_at_most_and_no_grant() {
    let bench = due(Where::Here, STRICT).await;
    let file = bench.dir.path().join("hirelake.toml");
    let right = std::fs::read_to_string(&file).unwrap();
    let mistakes: [(&str, String, u64); 3] = [
        ("client id", right.replace("client_id = \"test-client\"", "client_id = \"tset-client\""), 0),
        ("client secret", right.clone(), 1),
        ("environment", in_production(&right), 0),
    ];
    for (what, text, expected) in mistakes {
        std::fs::write(&file, text).unwrap();
        let secret = if what == "client secret" { "mistyped" } else { CLIENT_SECRET };
        std::fs::write(bench.dir.path().join("client.secret"), secret).unwrap();
        let mut config = Config::load_with(Some(&file), std::iter::empty()).unwrap();
        config.scratch.clone_from(&bench.world.config.scratch);
        let wrong = World { config: Arc::new(config), ..bench.world.clone() };
        for night in 0..3 {
            assert_eq!(run(&bench, &wrong).await, (ExitCode::Configuration, expected), "{what}, night {night}");
            bench.pass(DAY).await;
        }
        std::fs::write(bench.dir.path().join("client.secret"), CLIENT_SECRET).unwrap();
        assert_lives(&bench, what).await;
        bench.pass(HOUR).await;
    }
}

/// The same app, said to be of production: with the hosts that go with it, as they are checked.
fn in_production(text: &str) -> String {
    let hosts = ["api_base", "authorize", "token", "revoke", "audience", "redirect_uris"];
    let kept = text.lines().filter(|l| !hosts.iter().any(|h| l.starts_with(&format!("{h} ="))));
    kept.collect::<Vec<_>>().join("\n").replace("environment = \"sandbox\"", "environment = \"production\"")
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_a_request_under_way_some_seconds_and_begins_no_other() {
    let bench = connected(Where::Here, Setup { refresh_leeway: HOUR, ..Setup::default() }).await;
    bench.pass(HOUR).await;
    bench.control.fault(fault(TOKEN, 0, 1, Action::Delay { ms: 40_000 }));
    let began = bench.world.clock.elapsed();
    let deadline = Some(Duration::from_secs(5));
    bench.control.reset_stats();
    let report = sync::run(&bench.world, &Options { deadline, ..Options::default() }).await.unwrap();
    let took = bench.world.clock.elapsed() - began;
    assert_eq!(report.code, ExitCode::Stopped, "{}", report.troubles().join("\n"));
    assert!(took < Duration::from_secs(5 + 18), "{took:?}");
    assert_eq!(bench.control.stats().token_requests, 1);
    assert!(matches!(standing(&bench).await, Standing::Uncertain { .. }));
    assert_eq!(next(&bench).await, (ExitCode::Done, 1));
    assert_lives(&bench, "after the stop").await;
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_fails_or_crashes_anywhere_leaves_the_stored_grant_the_newest() {
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ");
    let status = Action::Status { code: 503, body: None, retry_after: None };
    let lost = [Action::ReplyLost, Action::Reset, status];
    let faults: Vec<_> = lost.into_iter().map(Some).chain([None]).collect();
    for (fault_of, mood) in faults.into_iter().flat_map(|f| [(f.clone(), None), (f, Some(Mood::DiesBefore))]) {
        let when = format!("{fault_of:?} {mood:?}");
        let bench = connected(Where::Here, Setup::default()).await;
        let before = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
        let token = Secret::new(bench.control.grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap());
        let world = mood.clone().map_or_else(|| bench.world.clone(), |mood| moody(&bench, INTENT, mood));
        if let Some(action) = &fault_of {
            bench.control.fault(fault(TOKEN, 0, 2, action.clone()));
        }
        bench.control.reset_stats();
        let run = RunId::new();
        let state = State::new(world.state.clone(), world.clock);
        let auth = Arc::new(Auth::new(world.config.clone(), state.clone(), world.clock, run).unwrap());
        let lease = Arc::new(state.lease(&tenant("acme"), run).await.unwrap());
        let seeded = auth.seed_refresh_token(&tenant("acme"), lease.clone(), token, false).await;
        assert_eq!(seeded.is_ok(), fault_of.is_none() && mood.is_none(), "{when}");
        let expected = if fault_of.is_some() { 2 } else { 1 };
        assert_eq!(bench.control.stats().token_requests, expected, "{when}");
        drop(lease);
        if seeded.is_err() {
            let after = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
            assert_eq!((after.generation, after.sealed), (before.generation, before.sealed), "{when}");
        }
        bench.control.clear_faults();
        assert_lives(&bench, &when).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_api_key_is_a_new_generation_and_a_wrong_one_leaves_the_old() {
    let mut bench = Setup { accounts: vec![AccountSize::new("acme", 10)], ..Setup::default() }.start().await;
    own_scratch(&mut bench);
    let seed = async |key: &str| {
        let run = RunId::new();
        let lease = Arc::new(bench.state().lease(&tenant("acme"), run).await.unwrap());
        let seeded = bench.auth(run).seed_api_key(&tenant("acme"), lease.clone(), Secret::new(key), false).await;
        Arc::into_inner(lease).unwrap().release().await.unwrap();
        seeded.is_ok()
    };
    let stored = async || bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap();
    let key = bench.control.api_key("acme").unwrap();
    for generation in 1..4 {
        assert!(seed(&key).await);
        let before = stored().await;
        assert_eq!(before.body.generation, generation);
        assert!(!seed("canary-wrong-key").await);
        assert_eq!(stored().await, before, "a key that is refused changes nothing");
        assert_eq!(next(&bench).await, (ExitCode::Done, 0));
    }
    bench.assert_right("acme").await;
}
