//! The vault: keys change without losing a grant, and what is sealed opens only where it belongs.

use std::sync::Arc;
use std::time::Duration;

use hirelake::auth::connect::Callback;
use hirelake::auth::rotate::{Holdings, Rotated};
use hirelake::auth::{Auth, Grant, Standing};
use hirelake::config::Config;
use hirelake::names::RunId;
use hirelake::report::ExitCode;
use hirelake::sandbox::{AccountSize, Action, Fault};
use hirelake::secret::Secret;
use hirelake::state::State;
use hirelake::sync::{self, Options, World};
use insta::assert_snapshot;

use crate::connect_flow::{hirelake, real_sandbox};
use crate::crash_recovery::mortal;
use crate::harness::{Bench, CLIENT, Setup, VAULT_KEY, fault, files, private, tenant};

const NEW_KEY: &str = "5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed";
const OLD: &str = "96f88271";
const HOUR: Duration = Duration::from_secs(3600);

async fn two() -> Bench {
    let accounts = vec![AccountSize::new("acme", 20), AccountSize::new("birch", 20)];
    let bench = Setup { accounts, ..Setup::default() }.start().await;
    bench.connect("acme").await;
    bench.connect("birch").await;
    bench
}

/// The same world under a new key, the old one beside it or not.
fn rekeyed(bench: &Bench, previous: bool) -> World {
    let dir = bench.dir.path();
    private(&dir.join("new.key"), NEW_KEY);
    let text = std::fs::read_to_string(dir.join("hirelake.toml")).unwrap();
    let keys = if previous {
        "key = { file = \"new.key\" }\nprevious = [{ file = \"gone.key\" }, { file = \"vault.key\" }]"
    } else {
        "key = { file = \"new.key\" }"
    };
    let file = dir.join("rekeyed.toml");
    std::fs::write(&file, text.replace("key = { file = \"vault.key\" }", keys)).unwrap();
    let config = Config::load_with(Some(&file), std::iter::empty()).unwrap();
    World { config: Arc::new(config), ..bench.world.clone() }
}

fn auth(world: &World) -> Arc<Auth> {
    let state = State::new(world.state.clone(), world.clock);
    Arc::new(Auth::new(world.config.clone(), state, world.clock, RunId::new()).unwrap())
}

async fn grant(bench: &Bench, name: &str) -> Grant {
    bench.state().grants(&tenant(name)).last::<Grant>().await.unwrap().unwrap().body
}

fn both() -> [hirelake::names::Tenant; 2] {
    [tenant("acme"), tenant("birch")]
}

/// Whether anything below the state was sealed with the first key.
fn old_text(bench: &Bench) -> Vec<std::path::PathBuf> {
    let mark = format!("\"{OLD}\"");
    let all = files(&bench.dir.path().join("state"));
    all.into_iter().filter(|(_, b)| String::from_utf8_lossy(b).contains(&mark)).map(|(p, _)| p).collect()
}

/// Something in quarantine, and refreshes enough that the line has many entries.
async fn with_a_past(bench: &Bench) {
    bench.control.fault(Fault { account: Some("acme".into()), ..fault("GET /v1/users", 0, 1, Action::BadRow) });
    for _ in 0..3 {
        bench.sync_with(Options::default()).await;
        bench.pass(HOUR).await;
    }
    assert!(!files(&bench.dir.path().join("state/quarantine")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_changed_and_nothing_of_the_old_one_is_left() {
    let bench = two().await;
    with_a_past(&bench).await;
    let before = grant(&bench, "acme").await;
    // What a killed create leaves on a local store.
    std::fs::write(bench.dir.path().join("state/grants/acme/999999999999900.json#1"), format!("{{\"key\": \"{OLD}\""))
        .unwrap();
    let world = rekeyed(&bench, true);
    // Both keys are good before, …
    let report = sync::run(&world, &Options { tenants: vec![tenant("acme")], ..Options::default() }).await.unwrap();
    assert_eq!(report.code, ExitCode::Done, "{}", report.troubles().join("\n"));
    let after_sync = grant(&bench, "acme").await;
    assert_eq!(after_sync.generation, before.generation + 1);
    bench.control.reset_stats();

    let done = auth(&world).rotate(&both()).await;
    let acme = done[&tenant("acme")].as_ref().unwrap();
    assert!(
        !acme.grant && acme.quarantined > 0 && acme.swept > 0,
        "its grant was sealed anew by the refresh: {acme:?}"
    );
    assert!(done[&tenant("birch")].as_ref().unwrap().grant);
    assert_eq!(old_text(&bench), Vec::<std::path::PathBuf>::new());
    let holdings = auth(&world).holdings(&both()).await.unwrap();
    assert_eq!(holdings.keys().collect::<Vec<_>>(), [auth(&world).vault().key_id()]);
    // … again it does nothing, and the old one is not needed any more.
    for (name, again) in auth(&world).rotate(&both()).await {
        assert_eq!(again.unwrap(), Rotated::default(), "{name}");
    }
    assert_eq!(bench.control.stats().token_requests, 0, "the provider is not asked");
    let alone = rekeyed(&bench, false);
    for _ in 0..2 {
        assert_eq!(sync::run(&alone, &Options::default()).await.unwrap().code, ExitCode::Done);
        bench.pass(2 * HOUR).await;
    }
    bench.assert_right("acme").await;
    bench.assert_right("birch").await;
    let opened = bench.state().quarantined(&tenant("acme")).await.unwrap();
    for what in opened {
        let bytes = bench.state().read_quarantined(&what).await.unwrap().unwrap();
        assert!(auth(&alone).vault().open(&what.place, &serde_json::from_slice(&bytes).unwrap()).is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_interrupted_anywhere_loses_nothing_and_is_completed_by_the_next() {
    for most in 0.. {
        let bench = two().await;
        with_a_past(&bench).await;
        let world = rekeyed(&bench, true);
        let (dying, writes) = mortal(world.clone(), most);
        let interrupted = auth(&dying).rotate(&both()).await;
        let complete = interrupted.values().all(Result::is_ok);
        drop(dying);
        // Both keys at hand, each grant opens at every moment.
        for name in ["acme", "birch"] {
            let tokens = grant(&bench, name).await.tokens(auth(&world).vault(), &tenant(name)).unwrap();
            assert!(tokens.unwrap().refresh.is_some(), "after {most} writes");
        }
        for (name, done) in auth(&world).rotate(&both()).await {
            done.unwrap_or_else(|e| panic!("after {most} writes: {name}: {e}"));
        }
        assert_eq!(old_text(&bench), Vec::<std::path::PathBuf>::new(), "after {most} writes");
        let report = sync::run(&rekeyed(&bench, false), &Options::default()).await.unwrap();
        assert_eq!(report.code, ExitCode::Done, "after {most} writes: {}", report.troubles().join("\n"));
        if complete && writes.load(std::sync::atomic::Ordering::SeqCst) <= most {
            assert!(most > 10, "only {most} writes");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_uncertain_refresh_stays_so_and_a_busy_tenant_is_left_for_the_next_time() {
    let bench = two().await;
    let line = bench.state().grants(&tenant("acme"));
    let last = line.last::<Grant>().await.unwrap().unwrap();
    line.append(last.n, Grant { standing: Standing::Refreshing { run: RunId::new() }, ..last.body }).await.unwrap();
    let world = rekeyed(&bench, true);
    let held = bench.state().lease(&tenant("birch"), RunId::new()).await.unwrap();
    let done = auth(&world).rotate(&both()).await;
    assert!(done[&tenant("acme")].as_ref().unwrap().grant);
    assert!(matches!(grant(&bench, "acme").await.standing, Standing::Uncertain { .. }));
    let error = done[&tenant("birch")].as_ref().unwrap_err().to_string();
    assert!(error.starts_with("tenant birch is busy"), "{error}");
    held.release().await.unwrap();
    let holdings = auth(&world).holdings(&both()).await.unwrap();
    assert_eq!(holdings[OLD], Holdings { grants: 1, ..Holdings::default() });
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_at_hand_is_told_from_an_entry_that_was_changed() {
    let bench = two().await;
    let folder = bench.dir.path().join("state/grants/birch");
    let newest = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let text = std::fs::read_to_string(&newest).unwrap();
    let at = text.find("\"text\": \"").unwrap() + 60;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    std::fs::write(&newest, format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
    let mut said = String::new();
    for world in [rekeyed(&bench, false), rekeyed(&bench, true)] {
        for (name, done) in auth(&world).rotate(&both()).await {
            said += &format!("{name}: {}\n", done.map_or_else(|e| e.to_string(), |d| format!("{d:?}")));
        }
    }
    assert_snapshot!(said, @r"
    acme: the grant of tenant acme cannot be opened: it is sealed with the vault key 96f88271, and the key at hand is f28f1656
    hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`
    birch: the grant of tenant birch cannot be opened: it is sealed with the vault key 96f88271, and the key at hand is f28f1656
    hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`
    acme: Rotated { grant: true, quarantined: 0, swept: 1 }
    birch: the grant of tenant birch cannot be opened: it does not open with its own key here: it was changed, or belongs to another tenant, app or generation
    hint: check that the app's client_id and environment are those under which the tenant connected; else restore the entry from a backup
    ");
    assert_eq!(bench.control.stats().token_requests, 2, "only the two consents");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_copied_to_another_place_is_refused() {
    let bench = two().await;
    bench.pass(HOUR).await;
    bench.sync().await;
    let last = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap();
    let vault = auth(&bench.world);
    let opens = |grant: &Grant, name: &str| grant.tokens(vault.vault(), &tenant(name)).is_ok();
    assert!(opens(&last.body, "acme"));
    assert!(!opens(&last.body, "birch"), "another tenant");
    assert!(!opens(&Grant { generation: last.body.generation + 1, ..last.body.clone() }, "acme"), "another generation");
    assert!(!opens(&Grant { client_id: "other".into(), ..last.body.clone() }, "acme"), "another client");
    let environment = hirelake::catalog::Environment::Production;
    assert!(!opens(&Grant { environment, ..last.body.clone() }, "acme"), "another environment");

    // The whole way: the tenant's newest entry is a copy of another's.
    let line = bench.state().grants(&tenant("birch"));
    let birch = line.last::<Grant>().await.unwrap().unwrap();
    line.append(birch.n, last.body.clone()).await.unwrap();
    bench.control.reset_stats();
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    assert_snapshot!(report.tenants[&tenant("birch")].failures[0], @r"
    the grant of tenant birch cannot be opened: it does not open with its own key here: it was changed, or belongs to another tenant, app or generation
    hint: check that the app's client_id and environment are those under which the tenant connected; else restore the entry from a backup
    ");
    assert_eq!(bench.control.stats().token_requests, 0);
    // An old entry of its own, made the newest again, opens with its own number only.
    let line = bench.state().grants(&tenant("acme"));
    line.append(last.n, Grant { sealed: birch.body.sealed, ..last.body }).await.unwrap();
    assert_eq!(bench.sync_with(Options::default()).await.tenants[&tenant("acme")].failures.len(), 1);
    assert_eq!(bench.control.stats().token_requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_change_a_key_and_say_what_each_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = real_sandbox(dir.path()).await;
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ");
    let seed = sandbox.control().grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap();
    private(&dir.path().join("seed"), &seed);
    let run = |args: &[&str]| {
        let out = hirelake(dir.path(), args).output().unwrap();
        let told = [out.stdout, out.stderr].map(|b| String::from_utf8(b).unwrap()).concat();
        format!("{} {}", out.status.code().unwrap(), told.trim_end().replace(&dir.path().display().to_string(), "DIR"))
    };
    run(&["connect", "acme", "--refresh-token-file", "seed"]);
    let mut said = vec![run(&["vault", "status"])];
    private(&dir.path().join("new.key"), NEW_KEY);
    let file = dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let old = "key = { file = \"vault.key\" }";
    let print = "key = { command = [\"cat\", \"new.key\"] }";
    std::fs::write(&file, text.replace(old, print)).unwrap();
    said.push(run(&["vault", "rotate-key"]));
    std::fs::write(&file, text.replace(old, &format!("{print}\nprevious = [{{ file = \"vault.key\" }}]"))).unwrap();
    for args in [
        ["vault", "status"].as_slice(),
        &["vault", "rotate-key"],
        &["vault", "rotate-key"],
        &["vault", "status", "--json"],
    ] {
        said.push(run(args));
    }
    // The key in a file that everybody may read.
    std::fs::write(&file, &text).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(dir.path().join("vault.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    said.push(run(&["vault", "status"]));
    assert_snapshot!(said.join("\n"), @r#"
    0  key       is       grants  older entries  in quarantine
     96f88271  current  1       0              0
    2 some is still sealed with 96f88271: have it in `previous` and run this again
    error: the grant of tenant acme cannot be opened: it is sealed with the vault key 96f88271, and the key at hand is f28f1656
    hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`
    0  key       is        grants  older entries  in quarantine
     96f88271  previous  1       0              0
    0 acme: grant sealed anew; records in quarantine: 0; old entries removed: 1
    everything is sealed with f28f1656: `previous` may be taken out of [vault]
    0 everything is sealed with f28f1656: `previous` may be taken out of [vault]
    0 [
      {
        "is": "current",
        "key": "f28f1656",
        "sealed": {
          "grants": 1,
          "older_entries": 1,
          "quarantined": 0
        }
      }
    ]
    2 error: the vault key cannot be had: every user of this machine may open vault.key
    hint: `chmod 600 vault.key`; a group of its own may read it, with 640
    "#);
    for secret in [VAULT_KEY, NEW_KEY, &seed] {
        assert!(!said.concat().contains(secret));
    }
    sandbox.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn no_way_to_connect_replaces_a_grant_that_the_key_at_hand_does_not_open() {
    let bench = two().await;
    let acme = tenant("acme");
    let before = grant(&bench, "acme").await;
    let wrong = auth(&rekeyed(&bench, false));
    bench.control.reset_stats();
    let scopes = bench.world.config.scopes(&acme).unwrap().joined();
    let seed = bench.control.grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap();
    let key = bench.control.api_key("acme").unwrap();
    let consent = async |auth: &Arc<Auth>, force| {
        let invitation = auth.invite(&acme).unwrap();
        let mut link = invitation.link.clone();
        link.query_pairs_mut().append_pair("auto_accept", "acme");
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = browser.get(link).send().await.unwrap();
        let back = answer.headers()["location"].to_str().unwrap().parse().unwrap();
        let lease = bench.state().lease(&acme, RunId::new()).await.unwrap();
        let done = auth.exchange(&acme, &lease, &invitation, Callback::from_url(&back), force).await;
        lease.release().await.unwrap();
        done
    };
    let lease = Arc::new(bench.state().lease(&acme, RunId::new()).await.unwrap());
    let seeded = wrong.seed_refresh_token(&acme, lease.clone(), Secret::new(seed.clone()), false).await;
    let keyed = wrong.seed_api_key(&acme, lease.clone(), Secret::new(key), false).await;
    Arc::into_inner(lease).unwrap().release().await.unwrap();
    let refused = [seeded.unwrap_err(), keyed.unwrap_err(), consent(&wrong, false).await.unwrap_err()];
    let [told, also, and_also] = refused.each_ref().map(ToString::to_string);
    assert!(told == also && told == and_also);
    assert_snapshot!(told, @"
    the stored grant of tenant acme does not open, so it was not replaced: it is sealed with the vault key 96f88271, and the key at hand is f28f1656
    hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`; where that key is lost for good, --force replaces the grant
    ");
    assert!(refused.into_iter().all(|error| sync::code(&error.into()) == ExitCode::Configuration));
    // Nothing was used up for it: neither code nor seed.
    assert_eq!(bench.control.stats().token_requests, 0);
    assert_eq!(grant(&bench, "acme").await, before);
    bench.sync().await;

    // A key that is lost for good.
    consent(&wrong, true).await.unwrap();
    assert_eq!(grant(&bench, "acme").await.sealed.unwrap().key, wrong.vault().key_id());
    assert_eq!(grant(&bench, "birch").await.sealed.unwrap().key, OLD);
}
