//! The real program, killed at random moments: the run after the last one makes the lake whole.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::sandbox::{self, AccountSize};
use hirelake::sync::World;

use crate::harness::{Bench, CALLBACK, CLIENT, CLIENT_SECRET, write_config};
use crate::lake::{assert_same, copy_folder, everything};

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

fn program(folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hirelake"));
    command.arg("--config").arg(folder.join("hirelake.toml")).arg("sync").env_clear();
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
    let child = program(folder);
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
    let start = |name: &str| {
        let folder = folder(name);
        copy_folder(&connected.join("state"), &folder.join("state"));
        folder
    };

    let whole = start("whole");
    let began = Instant::now();
    to_the_end(&whole, "undisturbed").await;
    let took = began.elapsed();
    let expected = everything(&world_in(&whole).await, "acme").await;
    assert_eq!(expected["opportunities"].len(), 600);

    let (mut killed, mut swept, mut load) = (0, 0, 0);
    while killed < LOADS * KILLS {
        load += 1;
        assert!(load <= 4 * LOADS, "seed {seed}: only {killed} were killed");
        let folder = start(&format!("load-{load}"));
        for kill in 0..KILLS {
            // Early and late, so that several runs of one load get somewhere.
            let after = Duration::from_millis(dice.below(took.as_millis() as u64));
            let mut child = program(&folder);
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
