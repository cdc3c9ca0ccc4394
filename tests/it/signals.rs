//! Ctrl-C and SIGTERM, each to the real program: what was begun with tokens is brought to its end, and what waits for a person
//! ends at once. Real time, real processes; short.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hirelake::auth::{Grant, Standing};
use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::sandbox::{self, AccountSize, Action};
use hirelake::sync::World;
use serde_json::Value;
use url::Url;

use crate::cli::{code, connected, err, out, run};
use crate::connect_flow::answer;
use crate::harness::{Bench, CALLBACK, CLIENT, CLIENT_SECRET, fault, tenant, write_config};
use crate::program::{Running, program};

const TOKEN: &str = "POST /oauth/token";

fn start(bench: &Bench, args: &[&str]) -> Running {
    let mut program = program(bench.dir.path(), args);
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the sandbox has seen a request.
async fn asked(bench: &Bench, route: &str) {
    let began = Instant::now();
    while !bench.control.stats().requests.contains_key(route) {
        assert!(began.elapsed() < Duration::from_secs(20), "{route} was not asked for");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn signal(child: &Running, which: &str) {
    assert!(Command::new("kill").args([which, &child.id().to_string()]).status().unwrap().success());
}

/// Waits for its end, which must come before whoever sent the signal kills.
async fn end(child: Running) -> Output {
    let began = Instant::now();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    ended
}

async fn grant(bench: &Bench, name: &str) -> Grant {
    bench.state().grants(&tenant(name)).last::<Grant>().await.unwrap().unwrap().body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_ends_at_the_second_signal_and_leaves_its_tenant_free() {
    let bench = connected(20).await;
    for which in ["-TERM", "-INT"] {
        bench.control.fault(fault("GET /v1/opportunities$", 0, 0, Action::Delay { ms: 30_000 }));
        bench.control.reset_stats();
        let mut child = start(&bench, &["check"]);
        asked(&bench, "GET /v1/opportunities").await;
        signal(&child, which);
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.any(|line| line.starts_with("stopping: ")), "{which}: the first signal was not heard");
        assert!(child.try_wait().unwrap().is_none());
        signal(&child, which);
        // Its log is read to the end, or the program could not write it.
        let rest = std::thread::spawn(move || said.count());
        let ended = end(child).await;
        rest.join().unwrap();
        assert_eq!(code(&ended), 6, "{which}: {}", err(&ended));
        bench.control.clear_faults();
        let again = run(bench.dir.path(), &["check"]).await;
        assert_eq!(code(&again), 0, "{which}: {}{}", out(&again), err(&again));
        assert!(!out(&again).contains("busy"), "{which}: {}", out(&again));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_is_stopped_while_its_code_is_exchanged_ends_in_a_grant() {
    let bench = connected(20).await;
    let before = grant(&bench, "acme").await;
    bench.control.fault(fault(TOKEN, 0, 0, Action::Delay { ms: 2_000 }));
    // A code, which is as good as used up.
    bench.control.reset_stats();
    let mut child = start(&bench, &["connect", "acme", "--paste"]);
    let link = printed_link(&mut child);
    let back = answer(&link, Some("acme")).await;
    writeln!(child.stdin.take().unwrap(), "{back}").unwrap();
    asked(&bench, TOKEN).await;
    signal(&child, "-INT");
    let ended = end(child).await;
    assert_eq!((code(&ended), out(&ended).trim()), (0, "acme is connected"));
    assert_eq!(grant(&bench, "acme").await.generation, before.generation + 1);
    bench.control.clear_faults();
    let synced = run(bench.dir.path(), &["sync"]).await;
    assert_eq!(code(&synced), 0, "{}", err(&synced));
}

/// The link that a `connect` under way printed; the rest of what it says is read and forgotten.
fn printed_link(child: &mut Running) -> Url {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let link = lines.by_ref().find(|l| l.starts_with("http")).unwrap().parse().unwrap();
    std::thread::spawn(move || lines.count());
    link
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_waits_for_its_customer_ends_at_once_and_holds_nothing() {
    let bench = connected(20).await;
    let before = grant(&bench, "acme").await;
    for (which, number) in [("-INT", 2), ("-TERM", 15)] {
        let mut child = start(&bench, &["connect", "acme", "--paste"]);
        printed_link(&mut child);
        signal(&child, which);
        let ended = end(child).await;
        assert_eq!((ended.status.code(), ended.status.signal()), (None, Some(number)), "{which}");
        assert_eq!(grant(&bench, "acme").await, before);
    }
    let synced = run(bench.dir.path(), &["sync"]).await;
    assert_eq!(code(&synced), 0, "{}", err(&synced));
}

/// Two connected tenants on real time, one of which is worked for at a time.
async fn two() -> Bench {
    let clock = Clock::system();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let sandbox = sandbox::start(sandbox::Options {
        accounts: ["acme", "birch"].map(|name| AccountSize::new(name, 5)).into(),
        clients: vec![sandbox::Client {
            id: CLIENT.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: vec![CALLBACK.into()],
            scopes: hirelake::catalog::embedded().unwrap().oauth.scopes,
        }],
        clock,
        ..sandbox::Options::default()
    })
    .await
    .unwrap();
    let file = write_config(dir.path(), &sandbox.url(), "", "tenants_at_once = 1");
    let config = Config::load_with(Some(&file), std::iter::empty()).unwrap();
    let world = World::open(Arc::new(config), clock).unwrap();
    let bench = Bench { control: sandbox.control(), sandbox, world, dir };
    bench.connect("acme").await;
    bench.connect("birch").await;
    bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_keepalive_saves_what_it_asked_for_and_begins_no_other() {
    let bench = two().await;
    let before = [grant(&bench, "acme").await.generation, grant(&bench, "birch").await.generation];
    bench.control.fault(fault(TOKEN, 0, 0, Action::Delay { ms: 2_000 }));
    bench.control.reset_stats();
    let child = start(&bench, &["keepalive", "--within", "90d"]);
    asked(&bench, TOKEN).await;
    signal(&child, "-TERM");
    let ended = end(child).await;
    assert_eq!(code(&ended), 6, "{}", err(&ended));
    let summary: Value = serde_json::from_str(out(&ended).lines().last().unwrap()).unwrap();
    assert_eq!((&summary["refreshed"], &summary["stopped"]), (&1.into(), &1.into()), "{summary}");
    assert_eq!(bench.control.stats().token_requests, 1);
    let after = [grant(&bench, "acme").await, grant(&bench, "birch").await];
    assert_eq!(after.iter().map(|g| g.generation).sum::<u64>(), before.iter().sum::<u64>() + 1);
    assert!(after.iter().all(|g| g.standing == Standing::Live { last_error: None }));
    bench.control.clear_faults();
    let rest = run(bench.dir.path(), &["keepalive", "--within", "90d"]).await;
    assert_eq!(code(&rest), 0, "{}", err(&rest));
}
