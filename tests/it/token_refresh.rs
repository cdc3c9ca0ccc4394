//! A grant lives through everything but the provider's own "invalid_grant".

use std::sync::Arc;
use std::time::Duration;

use hirelake::auth::{Grant, Standing};
use hirelake::config::Config;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::{AccountSize, Action, Fault};
use hirelake::status;
use hirelake::sync::{self, World};
use insta::assert_snapshot;

use crate::harness::{Bench, CLIENT_SECRET, Setup, tenant};

const HOUR: Duration = Duration::from_secs(3600);
const TOKEN: &str = "POST /oauth/token";

fn setup() -> Setup {
    Setup { accounts: vec![AccountSize::new("acme", 30)], ..Setup::default() }
}

/// A connected tenant whose access token has ended, the requests counted from now on.
async fn due(setup: Setup) -> Bench {
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.pass(HOUR).await;
    bench.control.reset_stats();
    bench
}

fn fail(bench: &Bench, times: u32, action: Action) {
    bench.control.fault(Fault { route: TOKEN.into(), account: None, skip: 0, times, action });
}

fn status(code: u16, body: Option<&str>, retry_after: Option<&str>) -> Action {
    Action::Status { code, body: body.map(Into::into), retry_after: retry_after.map(Into::into) }
}

async fn sync(bench: &Bench) -> Report {
    bench.sync_with(sync::Options::default()).await
}

/// Requests to the token endpoint and to the data API since the last call.
fn asked(bench: &Bench) -> (u64, u64) {
    let stats = bench.control.stats();
    bench.control.reset_stats();
    (stats.token_requests, stats.requests.iter().filter(|(r, _)| r.contains(" /v1/")).map(|(_, n)| n).sum())
}

async fn grant(bench: &Bench, name: &str) -> Grant {
    bench.state().grants(&tenant(name)).last::<Grant>().await.unwrap().unwrap().body
}

async fn health(bench: &Bench, name: &str) -> &'static str {
    status::read(&bench.world).await.unwrap()[&tenant(name)].grant.as_ref().unwrap().health
}

/// All that a person reads of the failures.
fn said(report: &Report) -> String {
    report.troubles().join("\n")
}

/// The world again, after its configuration was changed.
fn reload(bench: &Bench, change: impl FnOnce(String) -> String) -> World {
    let path = bench.dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
    let config = Config::load_with(Some(&path), std::iter::empty()).unwrap();
    World::open(Arc::new(config), bench.world.clock).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_when_less_than_the_margin_is_left() {
    let bench = setup().start().await;
    bench.connect("acme").await;
    asked(&bench);
    bench.pass(Duration::from_secs(54 * 60)).await;
    bench.sync().await;
    assert_eq!(asked(&bench).0, 0);
    bench.pass(Duration::from_secs(2 * 60)).await;
    bench.sync().await;
    assert_eq!(asked(&bench).0, 1);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_run_outlives_several_tokens() {
    let accounts = vec![AccountSize { users: 3000, ..AccountSize::new("acme", 30) }];
    let (latency, token_life) = (Duration::from_secs(40), Duration::from_secs(600));
    let bench = Setup { accounts, latency, token_life, ..Setup::default() }.start().await;
    bench.connect("acme").await;
    asked(&bench);
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    assert!(!bench.control.stats().statuses.contains_key(&401));
    // A token serves five of its ten minutes: the margin is the other five.
    let ran = report.ended.since(report.started).as_secs();
    let tokens = asked(&bench).0;
    assert!(tokens >= 3 && (ran / 400..=ran / 300).contains(&tokens), "{tokens} refreshes in {ran} s");
}

#[tokio::test(start_paused = true)]
async fn a_life_shorter_than_the_margin_does_not_cost_a_refresh_a_request() {
    let bench = Setup {
        token_life: Duration::from_secs(120),
        defaults: "rate = { per_second = 0.2, burst = 1 }".into(),
        ..setup()
    }
    .start()
    .await;
    bench.connect("acme").await;
    asked(&bench);
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    let (tokens, requests) = asked(&bench);
    let halves = report.ended.since(report.started).as_secs() / 60;
    assert!(requests >= 12 && tokens <= halves + 1, "{tokens} refreshes, {requests} requests, {halves} half lives");
}

#[tokio::test(start_paused = true)]
async fn many_that_are_refused_at_once_share_one_refresh() {
    let bench = Setup { latency: Duration::from_secs(2), ..Setup::new(400) }.start().await;
    bench.connect("acme").await;
    asked(&bench);
    // By our own clock the stored token is good for an hour.
    bench.control.expire_access_tokens("acme");
    bench.sync().await;
    assert!(bench.control.stats().statuses[&401] >= 5, "{:?}", bench.control.stats().statuses);
    assert_eq!(asked(&bench).0, 1);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ends_in_mid_run_is_refreshed_once_and_the_request_sent_once_more() {
    let bench = Setup::new(400).start().await;
    bench.connect("acme").await;
    asked(&bench);
    let undisturbed = {
        bench.sync().await;
        asked(&bench).1
    };
    let route = "GET /v1/".to_owned();
    bench.control.fault(Fault { route, account: None, skip: 7, times: 1, action: Action::ExpireToken });
    let full = sync::Options { full: true, ..sync::Options::default() };
    let report = bench.sync_with(full).await;
    assert_eq!(report.code, ExitCode::Done, "{}", said(&report));
    let refused = bench.control.stats().statuses[&401];
    let (tokens, requests) = asked(&bench);
    assert_eq!(tokens, 1);
    assert!(
        refused >= 1 && requests <= undisturbed + refused + 2,
        "{refused} refused; {requests} against {undisturbed}"
    );
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn every_run_goes_on_from_the_generation_before() {
    let bench = due(setup()).await;
    for n in 2..6 {
        bench.sync().await;
        assert_eq!(asked(&bench).0, 1, "a superseded token would have cost the whole family");
        assert_eq!(grant(&bench, "acme").await.generation, n);
        bench.pass(2 * HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_refresh_token_leaves_the_old_one() {
    let bench = due(setup()).await;
    fail(&bench, 1, Action::DropRefreshToken);
    for _ in 0..2 {
        bench.sync().await;
        assert_eq!(asked(&bench).0, 1);
        bench.pass(HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_grant_is_dead_and_left_alone_until_it_is_connected_again() {
    let bench = due(setup()).await;
    bench.control.revoke("acme");
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Reconnect, (1, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: the grant of tenant acme is dead since 2026-06-15T09:00:00.000Z: the provider says invalid_grant
    hint: a Super Admin of the customer must connect again: `hirelake connect acme`
    ");
    for _ in 0..2 {
        bench.pass(24 * HOUR).await;
        let report = sync(&bench).await;
        assert_eq!((report.code, asked(&bench)), (ExitCode::Reconnect, (0, 0)));
    }
    let table = status::table(&status::read(&bench.world).await.unwrap());
    assert_snapshot!(table.split_whitespace().collect::<Vec<_>>().join(" "), @"tenant grant connected refreshed dies unused dies anyway last run rows oldest cursor note acme dead 2026-06-15 2026-06-15 08:00 2026-06-17 09:00 failed 0 the provider says invalid_grant; hirelake connect acme");
    bench.connect("acme").await;
    assert_eq!(health(&bench, "acme").await, "live");
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_mark_can_be_lifted() {
    let bench = due(setup()).await;
    fail(&bench, 2, status(403, Some(r#"{"error":"invalid_grant"}"#), None));
    assert_eq!(sync(&bench).await.code, ExitCode::Reconnect);
    assert_eq!(health(&bench, "acme").await, "dead");
    asked(&bench);
    for expected in ["dead", "live"] {
        let run = RunId::new();
        let (auth, lease) = (bench.auth(run), Arc::new(bench.state().lease(&tenant("acme"), run).await.unwrap()));
        let retried = auth.retry(&tenant("acme"), lease.clone()).await;
        auth.settled(&tenant("acme")).await;
        Arc::into_inner(lease).unwrap().release().await.unwrap();
        assert_eq!((retried.is_ok(), health(&bench, "acme").await), (expected == "live", expected));
        assert_eq!(asked(&bench), (1, 0), "one request for one try");
    }
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_revoked_in_mid_run_costs_one_refresh() {
    let bench = Setup { latency: Duration::from_secs(1), ..Setup::new(400) }.start().await;
    bench.connect("acme").await;
    asked(&bench);
    let route = "GET /v1/".to_owned();
    bench.control.fault(Fault { route, account: None, skip: 3, times: 1, action: Action::RevokeGrant });
    let report = sync(&bench).await;
    assert!([ExitCode::Reconnect, ExitCode::Partial].contains(&report.code), "{}", said(&report));
    assert!(
        report.tenants[&tenant("acme")].failures.iter().all(|f| f.code == ExitCode::Reconnect),
        "{}",
        said(&report)
    );
    assert_eq!(asked(&bench).0, 1);
    assert_eq!(health(&bench, "acme").await, "dead");
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_once_more_and_with_leeway_nothing_is_lost() {
    let bench = due(Setup { refresh_leeway: HOUR, ..setup() }).await;
    fail(&bench, 1, Action::ReplyLost);
    bench.sync().await;
    assert_eq!(asked(&bench).0, 2);
    assert_eq!(health(&bench, "acme").await, "live");
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_without_leeway_ends_the_grant_after_two_requests() {
    let bench = due(setup()).await;
    fail(&bench, 1, Action::ReplyLost);
    assert_eq!(sync(&bench).await.code, ExitCode::Reconnect);
    assert_eq!(asked(&bench), (2, 0));
    assert_eq!(sync(&bench).await.code, ExitCode::Reconnect);
    assert_eq!(asked(&bench), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn two_lost_replies_leave_it_uncertain_and_the_next_run_asks_once() {
    for action in [Action::ReplyLost, Action::Reset] {
        let bench = due(Setup { refresh_leeway: 24 * HOUR, ..setup() }).await;
        fail(&bench, 2, action.clone());
        let report = sync(&bench).await;
        assert_eq!((report.code, asked(&bench)), (ExitCode::Provider, (2, 0)), "{action:?}");
        assert_eq!(health(&bench, "acme").await, "uncertain");
        bench.pass(Duration::from_secs(600)).await;
        bench.sync().await;
        assert_eq!(asked(&bench).0, 1);
        assert_eq!(health(&bench, "acme").await, "live");
        bench.assert_right("acme").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_intent_that_a_dead_run_left_is_asked_for_once() {
    for (lost, code) in [(None, ExitCode::Done), (Some(Action::Reset), ExitCode::Provider)] {
        let bench = due(setup()).await;
        let line = bench.state().grants(&tenant("acme"));
        let last = line.last::<Grant>().await.unwrap().unwrap();
        let standing = Standing::Refreshing { run: RunId::new() };
        line.append(last.n, Grant { standing, ..last.body }).await.unwrap();
        assert_eq!(health(&bench, "acme").await, "uncertain");
        if let Some(action) = lost {
            fail(&bench, 1, action);
        }
        let report = sync(&bench).await;
        assert_eq!((report.code, asked(&bench).0), (code, 1), "{}", said(&report));
        bench.sync().await;
        bench.assert_right("acme").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_stopped_while_it_refreshes_saves_what_it_gets() {
    let bench = due(Setup { latency: Duration::from_secs(10), ..setup() }).await;
    let deadline = Some(Duration::from_secs(5));
    sync::run(&bench.world, &sync::Options { deadline, ..sync::Options::default() }).await.unwrap();
    assert_eq!(health(&bench, "acme").await, "live");
    // Now in mid-run, where the tasks that wait for the token are aborted.
    bench.sync().await;
    bench.pass(Duration::from_secs(60)).await;
    bench.control.expire_access_tokens("acme");
    asked(&bench);
    let deadline = Some(Duration::from_secs(15));
    let report = sync::run(&bench.world, &sync::Options { deadline, ..sync::Options::default() }).await.unwrap();
    assert_eq!(report.code, ExitCode::Stopped, "{}", said(&report));
    assert_eq!((asked(&bench).0, health(&bench, "acme").await), (1, "live"));
    bench.sync().await;
    assert_eq!(asked(&bench).0, 0);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_token_endpoint_kills_no_grant() {
    let bench = due(setup()).await;
    fail(&bench, 0, status(503, None, None));
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Provider, (2, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: refreshing the grant of tenant acme (app main) failed: the token endpoint gave no usable answer (status 503)
    hint: run again later: the next run asks once more, and the grant is kept until the provider says that it is gone
    ");
    let Standing::Uncertain { since, .. } = grant(&bench, "acme").await.standing else { panic!("not uncertain") };
    for _ in 0..3 {
        bench.pass(24 * HOUR).await;
        assert_eq!(sync(&bench).await.code, ExitCode::Provider);
        assert_eq!(asked(&bench), (1, 0));
    }
    let Standing::Uncertain { since: later, .. } = grant(&bench, "acme").await.standing else {
        panic!("not uncertain")
    };
    assert_eq!(later, since, "how long it has been uncertain is told from the first time");
    bench.control.clear_faults();
    bench.sync().await;
    assert_eq!(asked(&bench).0, 1);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_throttles_is_waited_for() {
    let bench = due(setup()).await;
    fail(&bench, 2, status(429, None, Some("7")));
    let report = bench.sync().await;
    assert_eq!(asked(&bench).0, 3);
    assert!(report.ended.since(report.started) >= Duration::from_secs(14));

    bench.pass(HOUR).await;
    fail(&bench, 0, status(429, None, None));
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Provider, (5, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: refreshing the grant of tenant acme (app main) failed: the token endpoint is throttling
    hint: run again later; no grant was harmed
    ");
    assert_eq!(health(&bench, "acme").await, "live");
    bench.control.clear_faults();
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_is_not_there_is_tried_again_and_harms_nothing() {
    let bench = due(setup()).await;
    let url = format!("{}/oauth/token", bench.sandbox.url());
    let world = reload(&bench, |text| text.replace(&url, "http://127.0.0.1:1/oauth/token"));
    let report = sync::run(&world, &sync::Options::default()).await.unwrap();
    assert_eq!(report.code, ExitCode::Provider, "{}", said(&report));
    assert!(report.ended.since(report.started) >= Duration::from_secs(30));
    assert_eq!(health(&bench, "acme").await, "live");
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_client_secret_is_a_configuration_error_and_harms_nothing() {
    let bench = due(setup()).await;
    std::fs::write(bench.dir.path().join("client.secret"), "another").unwrap();
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Configuration, (1, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: refreshing the grant of tenant acme (app main) failed: the provider refuses the client secret
    hint: correct the app's client_secret; no grant was harmed
    ");
    std::fs::write(bench.dir.path().join("client.secret"), CLIENT_SECRET).unwrap();
    bench.sync().await;
    assert_eq!(health(&bench, "acme").await, "live");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_client_is_a_configuration_error_and_harms_nothing() {
    let bench = due(setup()).await;
    fail(&bench, 1, status(403, Some(r#"{"error":"access_denied","error_description":"ClientID not found"}"#), None));
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Configuration, (1, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: refreshing the grant of tenant acme (app main) failed: the provider does not know this client id on this host
    hint: check client_id and environment: sandbox and production are separate apps; no grant was harmed
    ");
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_of_another_app_is_not_touched() {
    let bench = due(setup()).await;
    let before = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap();
    let world = reload(&bench, |text| text.replace("client_id = \"test-client\"", "client_id = \"new-client\""));
    let report = sync::run(&world, &sync::Options::default()).await.unwrap();
    assert_eq!((report.code, asked(&bench)), (ExitCode::Configuration, (0, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: tenant acme connected under client test-client (sandbox), and its app is now client new-client (sandbox)
    hint: correct client_id and environment of the app, or connect the tenant again; the stored grant was not touched
    ");
    assert_eq!(bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap(), before);
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn another_vault_key_is_told_from_a_dead_grant() {
    let bench = due(setup()).await;
    std::fs::write(bench.dir.path().join("vault.key"), "11".repeat(32)).unwrap();
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Configuration, (0, 0)));
    assert_snapshot!(said(&report), @r"
    error: acme: the grant of tenant acme cannot be opened: it is sealed with the vault key 96f88271, and the key at hand is 0ef48032
    hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`
    ");
}

#[tokio::test(start_paused = true)]
async fn when_three_die_in_a_row_the_app_is_suspected_and_the_fourth_left_alone() {
    let names = ["a", "b", "c", "d"];
    let bench = Setup {
        accounts: names.iter().map(|n| AccountSize::new(*n, 20)).collect(),
        config: "tenants_at_once = 1".into(),
        ..Setup::default()
    }
    .start()
    .await;
    for name in names {
        bench.connect(name).await;
    }
    bench.pass(HOUR).await;
    asked(&bench);
    for name in &names[..3] {
        bench.control.revoke(name);
    }
    let before = grant(&bench, "d").await;
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench)), (ExitCode::Configuration, (3, 0)));
    assert_snapshot!(said(&report), @r"
    error: a: tenant a was refused: 3 tenants of app main were refused in a row (invalid_grant), so the app itself is the likelier culprit
    hint: check client_id and environment of app main and whether it still exists at the provider; nobody was marked dead, and the next run asks again; if the app is right, the customers must connect again: `hirelake connect a`
    error: b: tenant b was refused: 3 tenants of app main were refused in a row (invalid_grant), so the app itself is the likelier culprit
    hint: check client_id and environment of app main and whether it still exists at the provider; nobody was marked dead, and the next run asks again; if the app is right, the customers must connect again: `hirelake connect b`
    error: c: tenant c was refused: 3 tenants of app main were refused in a row (invalid_grant), so the app itself is the likelier culprit
    hint: check client_id and environment of app main and whether it still exists at the provider; nobody was marked dead, and the next run asks again; if the app is right, the customers must connect again: `hirelake connect c`
    error: d: tenant d was left alone: 3 tenants of app main were refused in a row (invalid_grant), so the app itself is the likelier culprit
    hint: check client_id and environment of app main and whether it still exists at the provider; nobody was marked dead, and the next run asks again; if the app is right, the customers must connect again: `hirelake connect d`
    ");
    assert_eq!(grant(&bench, "d").await, before);
    let all = status::read(&bench.world).await.unwrap();
    for name in &names[..3] {
        assert_eq!(health(&bench, name).await, "uncertain");
        // What `status` has of the run is the verdict, not what was thought in between.
        let last = all[&tenant(name)].last_run.as_ref().unwrap();
        let error = last.error.as_deref().unwrap();
        assert!(!last.ok && error.starts_with(&format!("tenant {name} was refused: 3 tenants of app main")), "{error}");
    }
    // The next run asks each once more and comes to the fourth, which works: so the others are dead.
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench).0), (ExitCode::Partial, 4));
    bench.assert_right("d").await;
    for name in &names[..3] {
        assert_eq!(health(&bench, name).await, "dead");
        assert_eq!(report.tenants[&tenant(name)].failures[0].code, ExitCode::Reconnect);
    }
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench).0), (ExitCode::Partial, 0));
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_refused_for_everybody_kills_nobody_and_heals_by_itself() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let accounts = names.iter().map(|n| AccountSize::new(*n, 5)).collect();
    let bench = Setup { accounts, ..Setup::default() }.start().await;
    for name in names {
        bench.connect(name).await;
    }
    bench.pass(HOUR).await;
    asked(&bench);
    fail(&bench, 0, status(403, Some(r#"{"error":"invalid_grant"}"#), None));
    for night in 0..4 {
        let report = sync(&bench).await;
        assert_eq!(report.code, ExitCode::Configuration, "{}", said(&report));
        // Side by side they are all asked before the first is answered; one by one it would be three.
        let (tokens, data) = asked(&bench);
        assert!(tokens <= 6 && data == 0, "night {night}: {tokens} requests to the token endpoint, {data} others");
        for name in names {
            assert_ne!(health(&bench, name).await, "dead", "night {night}: {name}");
        }
        bench.pass(24 * HOUR).await;
    }
    bench.control.clear_faults();
    bench.sync().await;
    assert_eq!(asked(&bench).0, 6);
    for name in names {
        bench.assert_right(name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_are_refused_beside_one_that_works_are_dead_after_the_run() {
    let names = ["a", "b", "c"];
    let accounts = names.iter().map(|n| AccountSize::new(*n, 5)).collect();
    let bench = Setup { accounts, config: "tenants_at_once = 1".into(), ..Setup::default() }.start().await;
    for name in names {
        bench.connect(name).await;
    }
    bench.pass(HOUR).await;
    asked(&bench);
    bench.control.revoke("a");
    bench.control.revoke("c");
    let report = sync(&bench).await;
    assert_eq!((report.code, asked(&bench).0), (ExitCode::Partial, 3));
    for (name, expected) in [("a", "dead"), ("b", "live"), ("c", "dead")] {
        assert_eq!(health(&bench, name).await, expected, "{name}");
    }
    assert!(bench.state().lease_info(&tenant("a")).await.unwrap().is_none());
    assert_eq!((sync(&bench).await.code, asked(&bench).0), (ExitCode::Partial, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_not_forgotten_over_the_next_refusal() {
    let bench = due(setup()).await;
    fail(&bench, 1, Action::ReplyLost);
    // Whatever is wrong with the second request, the first one may have used the token up.
    fail(&bench, 1, status(401, Some(r#"{"error":"access_denied","error_description":"Unauthorized"}"#), None));
    sync(&bench).await;
    assert_eq!(asked(&bench).0, 2);
    assert_eq!(health(&bench, "acme").await, "uncertain");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_asks_for_a_long_pause_may_have_passed_the_request_on() {
    let bench = due(setup()).await;
    fail(&bench, 0, status(504, None, Some("3600")));
    sync(&bench).await;
    assert_eq!(asked(&bench).0, 2, "one further request");
    assert_eq!(health(&bench, "acme").await, "uncertain");
    sync(&bench).await;
    assert_eq!(asked(&bench).0, 1, "one in each later run");
    bench.control.clear_faults();
    assert_eq!(sync(&bench).await.code, ExitCode::Done);
}

#[tokio::test(start_paused = true)]
async fn the_doctor_marks_nobody_dead_of_an_app_that_is_refused_for_everybody() {
    let names = ["acme", "birch", "cedar", "dogwood"];
    let accounts = names.iter().map(|n| AccountSize::new(*n, 5)).collect();
    let bench = Setup { accounts, ..Setup::default() }.start().await;
    for name in names {
        bench.connect(name).await;
    }
    bench.pass(HOUR).await;
    fail(&bench, 0, status(403, Some(r#"{"error":"invalid_grant"}"#), None));
    let checkup = hirelake::check::run(&(&bench.world).into(), &[]).await;
    assert_ne!(checkup.code, ExitCode::Done);
    bench.control.clear_faults();
    for name in names {
        assert_ne!(health(&bench, name).await, "dead", "{name}");
    }
    assert_eq!(sync(&bench).await.code, ExitCode::Done);
}
