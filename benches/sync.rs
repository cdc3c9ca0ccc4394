//! A whole sync, from the sandbox's socket to files in their place, without a rate limit. What varies is whether the lake is
//! empty or up to date, and over how many tenants the same records are spread.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up should stop")]

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use hirelake::auth::Auth;
use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::names::{RunId, Tenant};
use hirelake::report::ExitCode;
use hirelake::sandbox::{self, AccountSize};
use hirelake::secret::Secret;
use hirelake::state::State;
use hirelake::sync::{self, Options, World};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Opportunities of the account.
const OPPORTUNITIES: usize = 2_000;
/// Changed opportunities of an increment.
const CHANGED: usize = 20;

fn main() {
    divan::main();
}

/// A provider of its own, connected tenants and an empty lake.
struct Bench {
    sandbox: sandbox::Running,
    world: World,
    _dir: TempDir,
}

async fn bench(tenants: usize) -> Bench {
    let clock = Clock::system();
    let names: Vec<String> = (0..tenants).map(|i| format!("t{i:03}")).collect();
    let accounts = names.iter().map(|name| AccountSize::new(name, OPPORTUNITIES / tenants)).collect();
    let sandbox = sandbox::start(sandbox::Options { accounts, clock, ..sandbox::Options::default() }).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("client.secret"), "sandbox-secret").unwrap();
    let (url, path) = (sandbox.url(), dir.path().join("hirelake.toml"));
    let text = format!(
        r#"lake = "lake"
state = "state"
[vault]
key = {{ command = ["echo", "7777777777777777777777777777777777777777777777777777777777777777"] }}
[apps.main]
environment = "sandbox"
client_id = "sandbox-client"
client_secret = {{ file = "client.secret" }}
redirect_uris = ["http://127.0.0.1:8765/callback"]
api_base = "{url}/v1"
authorize = "{url}/authorize"
token = "{url}/oauth/token"
revoke = "{url}/oauth/revoke"
audience = "{url}/v1/"
[defaults]
rate = {{ per_second = 100000.0, burst = 100000 }}
[sync]
safety_lag = "0s"
"#
    );
    std::fs::write(&path, text).unwrap();
    let config = Arc::new(Config::load_with(Some(&path), std::iter::empty()).unwrap());
    let world = World::open(config.clone(), clock).unwrap();
    let state = State::new(world.state.clone(), clock);
    let run = RunId::new();
    let auth = Arc::new(Auth::new(config, state.clone(), clock, run).unwrap());
    for name in names {
        let tenant: Tenant = name.parse().unwrap();
        let lease = Arc::new(state.lease(&tenant, run).await.unwrap());
        let key = Secret::new(sandbox.control().api_key(&name).unwrap());
        auth.seed_api_key(&tenant, lease, key, false).await.unwrap();
    }
    Bench { sandbox, world, _dir: dir }
}

async fn sync_once(bench: Bench) -> Bench {
    let report = sync::run(&bench.world, &Options::default()).await.unwrap();
    assert_eq!(report.code, ExitCode::Done, "{}", report.troubles().join("\n"));
    bench
}

/// Everything there is, into an empty lake.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn first_load(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().unwrap();
    bencher
        .counter(ItemsCount::new(OPPORTUNITIES))
        .with_inputs(|| runtime.block_on(bench(1)))
        .bench_local_values(|bench| runtime.block_on(sync_once(bench)));
}

/// What changed since.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn increment(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().unwrap();
    bencher
        .counter(ItemsCount::new(CHANGED))
        .with_inputs(|| {
            let bench = runtime.block_on(async { sync_once(bench(1).await).await });
            bench.sandbox.control().edit("t000", CHANGED, 1);
            bench
        })
        .bench_local_values(|bench| runtime.block_on(sync_once(bench)));
}

/// The same records of so many tenants: what a tenant costs beside its rows.
#[divan::bench(args = [1, 10, 100], sample_count = 3, sample_size = 1)]
fn fleet(bencher: Bencher<'_, '_>, tenants: usize) {
    let runtime = Runtime::new().unwrap();
    bencher
        .counter(ItemsCount::new(OPPORTUNITIES))
        .with_inputs(|| runtime.block_on(bench(tenants)))
        .bench_local_values(|bench| runtime.block_on(sync_once(bench)));
}
