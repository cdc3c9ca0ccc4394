//! A tenant is let go, and comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hirelake::auth::disconnect::Revoked;
use hirelake::auth::{CredentialKind, Grant, Standing};
use hirelake::disconnect::{self, Done};
use hirelake::keepalive;
use hirelake::names::RunId;
use hirelake::report::ExitCode;
use hirelake::sandbox::{AccountSize, Action};
use hirelake::secret::Secret;
use hirelake::state::{State, StateError};
use hirelake::status;
use hirelake::store::Store;
use hirelake::sync::{Options, SyncError};
use insta::assert_snapshot;
use object_store::path::Path;

use crate::crash_recovery::mortal;
use crate::harness::{Bench, Setup, fault, files, tenant};

const REVOKE: &str = "POST /oauth/revoke";

async fn two() -> Bench {
    let accounts = vec![AccountSize::new("acme", 80), AccountSize::new("acme-eu", 40)];
    let bench = Setup { accounts, ..Setup::default() }.start().await;
    bench.connect("acme").await;
    bench.connect("acme-eu").await;
    // Several generations.
    for _ in 0..3 {
        bench.pass(Duration::from_secs(3600)).await;
        bench.sync().await;
    }
    bench.control.reset_stats();
    bench
}

async fn let_go(bench: &Bench, name: &str, erase: bool) -> Done {
    disconnect::run(&bench.world, &tenant(name), erase).await.unwrap()
}

fn revocations(bench: &Bench) -> u64 {
    bench.control.stats().requests.get(REVOKE).copied().unwrap_or(0)
}

/// All that the state holds below a folder, as text.
async fn text(state: &Store, below: &str) -> String {
    let mut all = String::new();
    for entry in state.list(&Path::from(below)).await.unwrap() {
        let bytes = state.get(&entry.path).await.unwrap().unwrap();
        all += &format!("{}\n{}\n", entry.path, String::from_utf8_lossy(&bytes));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_revokes_the_grant_and_no_sealed_token_stays() {
    let bench = two().await;
    let before = bench.files();
    assert!(text(&bench.world.state, "grants/acme").await.contains("sealed"));
    let generation = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body.generation;
    let done = let_go(&bench, "acme", false).await;
    assert_snapshot!(done, @"acme is disconnected: its tokens are forgotten, and the grant was revoked at the provider; its lake is as it was");
    assert_eq!((done.notes(), revocations(&bench)), (vec![], 1));

    let kept = text(&bench.world.state, "grants/acme").await;
    assert!(!kept.contains("sealed") && kept.contains("disconnected"), "{kept}");
    assert!(bench.files() == before, "the lake is as it was");
    let grant = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert_eq!((&grant.standing, grant.generation), (&Standing::Disconnected, generation + 1));
    assert!(grant.account.is_some(), "its lake is still that account's");
    // The other one, whose name begins alike, is as it was.
    assert!(text(&bench.world.state, "grants/acme-eu").await.contains("sealed"));

    // Again: it says so, and asks for nothing.
    assert_snapshot!(let_go(&bench, "acme", false).await, @"acme was disconnected already: it holds no tokens; its lake is as it was");
    assert_eq!(revocations(&bench), 1);

    // Nobody misses it: not a sync over all, not a keepalive, not a monitor.
    let report = bench.sync().await;
    assert_eq!(report.tenants.keys().map(|t| t.as_str()).collect::<Vec<_>>(), ["acme-eu"]);
    assert_eq!(keepalive::run(&bench.world, &keepalive::Options::default()).await.unwrap().code, ExitCode::Done);
    let all = status::read(&bench.world).await.unwrap();
    assert_eq!(status::troubles(&bench.world, &all, None), []);
    assert_eq!(all[&tenant("acme")].reconnect.as_deref(), Some("hirelake connect acme"));
    // But who names it is told.
    let named = Options { tenants: vec![tenant("acme")], ..Options::default() };
    assert_eq!(bench.sync_with(named).await.code, ExitCode::Reconnect);

    // It comes back, its lake goes on, and its numbers do not begin anew.
    bench.connect("acme").await;
    assert!(bench.control.edit("acme", 5, 1).len() == 5);
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert_eq!(report.tenants[&tenant("acme")].resources["opportunities"].mode, "increment");
    bench.assert_right("acme").await;
    let grant = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert!(grant.generation > generation + 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_forgotten_whatever_comes_of_the_revocation() {
    let bench = two().await;
    bench.control.fault(fault(REVOKE, 0, 0, Action::Status { code: 503, body: None, retry_after: None }));
    let done = let_go(&bench, "acme", false).await;
    assert!(matches!(done.revoked, Some(Revoked::Not { .. })));
    assert_snapshot!(format!("{done}\n{}", done.notes().join("\n")), @r#"
    acme is disconnected: its tokens are forgotten; its lake is as it was
    note: the grant was not revoked at the provider: the endpoint for it gave no usable answer (status 503)
    hint: a Super Admin of the customer can remove the app in the settings of their account
    "#);
    assert!(!text(&bench.world.state, "grants/acme").await.contains("sealed"));

    // Also when the key that sealed them is lost.
    std::fs::write(bench.dir.path().join("vault.key"), "no key at all").unwrap();
    let done = let_go(&bench, "acme-eu", false).await;
    assert_snapshot!(format!("{done}\n{}", done.notes().join("\n")).replace(bench.dir.path().to_str().unwrap(), "DIR"), @r#"
    acme-eu is disconnected: its tokens are forgotten; its lake is as it was
    note: the grant was not revoked at the provider: the vault key (file DIR/vault.key) cannot be had: the vault key is not usable: it must be 32 bytes as 64 hex digits or base64
    hint: a Super Admin of the customer can remove the app in the settings of their account
    "#);
    assert!(!text(&bench.world.state, "grants/acme-eu").await.contains("sealed"));
}

#[tokio::test(start_paused = true)]
async fn an_erased_tenant_is_nowhere_and_begins_anew_when_it_comes_back() {
    let bench = two().await;
    let lake = bench.dir.path().join("lake");
    // Former tables, and files that no catalogue knows, go too.
    for stray in
        ["lever/former/tenant=acme/data.parquet", "lever/users/tenant=acme/odd/notes.txt", "_staging/acme.x.parquet"]
    {
        let path = lake.join(stray);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "acme").unwrap();
    }
    let people: Vec<String> = bench.truth("acme", "opportunities").keys().cloned().collect();
    let quarantine = Path::from("quarantine/acme/users/000000000000001-x.sealed");
    bench.world.state.create(&quarantine, "sealed".into()).await.unwrap();
    let done = let_go(&bench, "acme", true).await;
    let erased = done.erased.unwrap();
    assert!(erased.files > 10 && erased.tables >= 10 && erased.quarantined == 1, "{erased:?}");

    let left: Vec<_> =
        files(&lake).into_keys().filter(|p| p.components().any(|c| c.as_os_str() == "tenant=acme")).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    assert!(!lake.join("_staging/acme.x.parquet").exists());
    assert!(!lake.join("lever/users/tenant=acme").exists() && lake.join("lever/users/tenant=acme-eu").exists());
    let state = text(&bench.world.state, "").await;
    assert!(people.iter().all(|p| !state.contains(p)));
    assert_eq!(text(&bench.world.state, "quarantine/acme").await + &text(&bench.world.state, "runs/acme").await, "");
    bench.assert_right("acme-eu").await;
    assert_snapshot!(let_go(&bench, "acme", true).await, @"acme was disconnected already: it holds no tokens; nothing of its lake was left to erase");
    assert!(status::read(&bench.world).await.unwrap()[&tenant("acme")].tables.is_empty());
    let grant = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert_eq!(grant.account, None, "with nothing left to mix, any account may connect");

    bench.connect("acme").await;
    let report = bench.sync().await;
    assert_eq!(report.tenants[&tenant("acme")].resources["opportunities"].mode, "load");
    bench.assert_right("acme").await;
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn an_erasure_that_is_cut_anywhere_is_completed_by_the_next_and_loses_no_row_of_a_sync_in_between() {
    let mut most = 0;
    loop {
        let bench = Setup { accounts: vec![AccountSize::new("acme", 12)], ..Setup::default() }.start().await;
        bench.connect("acme").await;
        bench.sync().await;
        let (world, writes) = mortal(bench.world.clone(), most);
        let cut = disconnect::run(&world, &tenant("acme"), true).await;
        drop(world);
        if cut.is_ok() && writes.load(Ordering::SeqCst) <= most {
            assert!(most > 30, "there are more writes than {most}");
            break;
        }
        if most % 2 == 0 {
            // The customer changes their mind before the erasure is repeated: nothing is covered that is gone.
            bench.connect("acme").await;
            bench.sync().await;
            bench.assert_right("acme").await;
        }
        let_go(&bench, "acme", true).await;
        assert!(bench.files().is_empty(), "after {most} writes: {:?}", bench.files().keys());
        assert!(!text(&bench.world.state, "grants/acme").await.contains("sealed"));
        most += 5;
    }
}

#[tokio::test(start_paused = true)]
async fn a_memory_store_is_erased_like_a_folder() {
    let mut bench = Setup::new(40).start().await;
    bench.world.state = Store::memory();
    bench.world.lake = Store::memory();
    bench.connect("acme").await;
    bench.sync().await;
    assert!(let_go(&bench, "acme", true).await.erased.unwrap().files > 5);
    assert!(bench.world.lake.list(&Path::from("lever")).await.unwrap().is_empty());
    assert!(!text(&bench.world.state, "").await.contains("\"sealed\""));
    bench.connect("acme").await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_tenant_and_an_unknown_one_are_refused_and_nothing_is_touched() {
    let bench = two().await;
    let held = bench.state().lease(&tenant("acme"), RunId::new()).await.unwrap();
    let before = text(&bench.world.state, "grants").await;
    let busy = disconnect::run(&bench.world, &tenant("acme"), true).await;
    assert!(matches!(busy, Err(SyncError::State(StateError::Busy { .. }))), "{busy:?}");
    assert!(disconnect::run(&bench.world, &tenant("akme"), true).await.is_err());
    assert!(text(&bench.world.state, "grants").await == before && revocations(&bench) == 0);
    assert!(!bench.dir.path().join("state/leases/akme").exists(), "a mistyped name makes nothing");
    held.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_api_key_is_rotated_by_seeding_it_again_kept_by_keepalive_and_forgotten_by_disconnect() {
    let bench =
        Setup { accounts: vec![AccountSize::new("acme", 20), AccountSize::new("birch", 20)], ..Setup::default() };
    let bench = bench.start().await;
    let seed = async |account: &str, force| {
        let (run, state) = (RunId::new(), State::new(bench.world.state.clone(), bench.world.clock));
        let lease = Arc::new(state.lease(&tenant("acme"), run).await.unwrap());
        let key = Secret::new(bench.control.api_key(account).unwrap());
        let auth = bench.auth(run);
        auth.seed_api_key(&tenant("acme"), lease.clone(), key, force).await.unwrap();
        auth.settled(&tenant("acme")).await;
        Arc::into_inner(lease).unwrap().release().await.unwrap();
        state.grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body
    };
    let first = seed("acme", false).await;
    bench.sync().await;
    bench.assert_right("acme").await;
    // Another key, which here is another account's, so that it can be seen which one is used.
    let second = seed("birch", true).await;
    assert_eq!((second.kind, second.generation), (CredentialKind::ApiKey, first.generation + 1));
    assert_ne!(second.sealed, first.sealed);
    bench.control.reset_stats();
    bench.sync().await;
    assert_eq!(
        bench.control.stats().per_account.keys().collect::<Vec<_>>(),
        ["birch"],
        "the old key is not used again"
    );

    let all = status::read(&bench.world).await.unwrap();
    assert!(status::table(&all).contains("live (API key)"), "{}", status::table(&all));
    let grant = all[&tenant("acme")].grant.as_ref().unwrap();
    assert_eq!((grant.idle_deadline, grant.hard_deadline), (None, None));
    bench.control.reset_stats();
    let within = Some(Duration::from_secs(900 * 86_400));
    let kept = keepalive::run(&bench.world, &keepalive::Options { within, ..Default::default() }).await.unwrap();
    assert_eq!((kept.code, &kept.tenants[&tenant("acme")].fate), (ExitCode::Done, &keepalive::Fate::ApiKey));

    let done = let_go(&bench, "acme", false).await;
    assert_eq!(bench.control.stats().requests.len(), 0, "neither asks the provider for anything");
    assert_snapshot!(format!("{done}\n{}", done.notes().join("\n")), @r#"
    acme is disconnected: its tokens are forgotten; its lake is as it was
    note: an API key cannot be revoked from here
    hint: the customer must delete the key in the settings of their account
    "#);
    assert!(!text(&bench.world.state, "grants/acme").await.contains("sealed"));
}
