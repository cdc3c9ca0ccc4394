//! The real program, killed at random moments: the run after the last one makes the lake whole, and the grant lives.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::sandbox::{self, AccountSize, Action};
use hirelake::sync::World;

use crate::harness::{Bench, CALLBACK, CLIENT, CLIENT_SECRET, fault, write_config};
use crate::lake::{assert_same, copy_folder, everything};
use crate::program::{Running, program};

const LOADS: u32 = 5;
const KILLS: u32 = 4;

/// Random enough, and the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn start(folder: &Path) -> Running {
    let mut command = program(folder, &["sync"]);
    // A folder of its own for spilled rows, so that leftovers show.
    let scratch = folder.join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    command.env("HIRELAKE_SCRATCH", &scratch);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn world_in(folder: &Path) -> World {
    let config = Config::load_with(Some(&folder.join("hirelake.toml")), std::iter::empty()).unwrap();
    World::open(Arc::new(config), Clock::system()).unwrap()
}

/// Runs the program to its end.
async fn to_the_end(folder: &Path, when: &str) {
    let child = start(folder);
    let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(out.status.code(), Some(0), "{when}: {}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_load_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let sandbox = sandbox::start(sandbox::Options {
        accounts: vec![AccountSize::new("acme", 600)],
        clients: vec![sandbox::Client {
            id: CLIENT.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: vec![CALLBACK.into()],
            scopes: hirelake::catalog::embedded().unwrap().oauth.scopes,
        }],
        latency: Duration::from_millis(30),
        ..sandbox::Options::default()
    })
    .await
    .unwrap();
    // Three quarters of a second of requests.
    let defaults = "rate = { per_second = 25.0, burst = 5 }";
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let folder = |name: &str| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        write_config(&folder, &sandbox.url(), defaults, "");
        folder
    };
    let connected = folder("connected");
    let bench = Bench {
        control: sandbox.control(),
        sandbox: sandbox.clone(),
        world: world_in(&connected).await,
        dir: dir.clone(),
    };
    bench.connect("acme").await;
    let begin = |name: &str| {
        let folder = folder(name);
        copy_folder(&connected.join("state"), &folder.join("state"));
        folder
    };

    let whole = begin("whole");
    let began = Instant::now();
    to_the_end(&whole, "undisturbed").await;
    let took = began.elapsed();
    let expected = everything(&world_in(&whole).await, "acme").await;
    assert_eq!(expected["opportunities"].len(), 600);

    let (mut killed, mut swept, mut load) = (0, 0, 0);
    while killed < LOADS * KILLS {
        load += 1;
        assert!(load <= 4 * LOADS, "seed {seed}: only {killed} were killed");
        let folder = begin(&format!("load-{load}"));
        for kill in 0..KILLS {
            // Early and late, so that several runs of one load get somewhere.
            let after = Duration::from_millis(dice.below(took.as_millis() as u64));
            let mut child = start(&folder);
            tokio::time::sleep(after).await;
            // SIGKILL.
            child.kill().unwrap();
            let status = child.wait().unwrap();
            killed += u32::from(status.code().is_none());
            swept += staged(&folder);
            assert!(status.code().is_none_or(|c| c == 0), "seed {seed}, load {load}, kill {kill}: {status}");
        }
        let when = format!("seed {seed}, load {load}");
        to_the_end(&folder, &when).await;
        assert_eq!(staged(&folder), 0, "{when}: files left in staging");
        assert_eq!(std::fs::read_dir(folder.join("scratch")).unwrap().count(), 0, "{when}: spilled rows left");
        assert_same(&everything(&world_in(&folder).await, "acme").await, &expected, &when);
    }
    println!("{killed} runs of {load} loads were killed, {swept} staged files were left behind and swept");
}

fn staged(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("lake/_staging")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_killed_again_and_again_while_it_waits_for_new_tokens_keeps_its_grant() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox::start(sandbox::Options {
        accounts: vec![AccountSize::new("acme", 20)],
        clients: vec![sandbox::Client {
            id: CLIENT.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: vec![CALLBACK.into()],
            scopes: hirelake::catalog::embedded().unwrap().oauth.scopes,
        }],
        refresh_leeway: Duration::from_secs(3600),
        ..sandbox::Options::default()
    })
    .await
    .unwrap();
    let control = sandbox.control();
    write_config(dir.path(), &sandbox.url(), "rate = { per_second = 1000.0, burst = 1000 }", "");
    let bench = Bench {
        control: control.clone(),
        sandbox: sandbox.clone(),
        world: world_in(dir.path()).await,
        dir: Arc::new(tempfile::tempdir().unwrap()),
    };
    bench.connect("acme").await;
    // Before the provider has done anything; and after, while the answer comes in pieces.
    for action in [Action::Delay { ms: 60_000 }, Action::Drip { ms_per_chunk: 60_000 }] {
        for kill in 0..4 {
            control.expire_access_tokens("acme");
            control.clear_faults();
            control.fault(fault("POST /oauth/token", 0, 0, action.clone()));
            control.reset_stats();
            let mut child = start(dir.path());
            let began = Instant::now();
            while control.stats().token_requests == 0 {
                assert!(began.elapsed() < Duration::from_secs(60), "{action:?}, kill {kill}: it did not ask");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // The first has just been sent, the last has surely arrived.
            tokio::time::sleep(Duration::from_millis(50 * kill)).await;
            child.kill().unwrap();
            assert!(child.wait().unwrap().code().is_none(), "{action:?}, kill {kill}: it ended before");
            assert_eq!(control.stats().token_requests, 1, "{action:?}, kill {kill}");
        }
        control.clear_faults();
        control.reset_stats();
        to_the_end(dir.path(), &format!("after {action:?}")).await;
        // One for what was lost; one more where what the leeway gives again has ended meanwhile.
        let asked = control.stats().token_requests;
        assert!((1..=2).contains(&asked), "{action:?}: {asked} requests");
        let left: Vec<_> = std::fs::read_dir(dir.path().join("scratch")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{action:?}: {left:?}");
        control.expire_access_tokens("acme");
        control.reset_stats();
        to_the_end(dir.path(), &format!("once more after {action:?}")).await;
        assert_eq!(control.stats().token_requests, 1, "{action:?}");
    }
}
