//! Grants near their idle limit are refreshed, and nobody else is asked for.

use std::sync::Arc;
use std::time::Duration;

use hirelake::auth::vault::Vault;
use hirelake::auth::{CredentialKind, Grant, Standing, Tokens};
use hirelake::catalog::Environment;
use hirelake::clock::Timestamp;
use hirelake::config::Config;
use hirelake::keepalive::{self, Fate, Options, Outcome};
use hirelake::names::RunId;
use hirelake::report::ExitCode;
use hirelake::sandbox::{AccountSize, Action, Fault};
use hirelake::secret::Secret;
use hirelake::status;
use hirelake::store::Store;
use hirelake::sync::World;
use insta::assert_snapshot;
use object_store::path::Path;

use crate::harness::{Bench, CLIENT, NOW, Setup, VAULT_KEY, private, tenant};

const DAY: Duration = Duration::from_secs(86_400);
const TOKEN: &str = "POST /oauth/token";

fn days(n: u32) -> Duration {
    DAY * n
}

/// A grant as a consent `connected` and a refresh `refreshed` days ago left it. Its tokens are the sandbox's own where it has an
/// account of that name, else nobody's.
fn grant(bench: &Bench, name: &str, connected: u32, refreshed: u32, standing: Standing) -> Grant {
    let scopes = "offline_access opportunities:read:admin";
    let issued = bench.control.grant(name, CLIENT, scopes);
    let (access, refresh) = issued.map_or((format!("canary-{name}"), None), |i| (i.access_token, i.refresh_token));
    let now = bench.world.clock.now();
    let mut grant = Grant {
        generation: 7,
        kind: CredentialKind::OAuth,
        client_id: CLIENT.into(),
        environment: Environment::Sandbox,
        sealed: None,
        scopes: scopes.split(' ').map(str::to_owned).collect(),
        account: None,
        seeds: Vec::new(),
        connected_at: now.minus(days(connected)),
        refreshed_at: now.minus(days(refreshed)),
        // Fresh as access tokens go: only the idle limit makes it due.
        expires_at: Some(now.plus(Duration::from_secs(3600))),
        standing,
    };
    let refresh = refresh.or_else(|| Some(format!("canary-refresh-{name}")));
    let tokens = Tokens { access: Secret::new(access), refresh: refresh.map(Secret::new) };
    let vault = Vault::new(&Secret::new(VAULT_KEY)).unwrap();
    grant.seal(&vault, &tenant(name), &tokens).unwrap();
    grant
}

async fn write(bench: &Bench, name: &str, grant: Grant) {
    bench.state().grants(&tenant(name)).append(0, grant).await.unwrap();
}

async fn newest(bench: &Bench, name: &str) -> Grant {
    bench.state().grants(&tenant(name)).last::<Grant>().await.unwrap().unwrap().body
}

fn live() -> Standing {
    Standing::Live { last_error: None }
}

async fn keep(bench: &Bench) -> Outcome {
    keepalive::run(&bench.world, &Options::default()).await.unwrap()
}

/// A world of these accounts, its state in memory.
async fn bench(names: &[&str], config: &str) -> Bench {
    let accounts = names.iter().map(|n| AccountSize::new(*n, 1)).collect();
    let mut bench = Setup { accounts, config: config.into(), ..Setup::default() }.start().await;
    bench.world.state = Store::memory();
    bench
}

fn fate<'a>(outcome: &'a Outcome, name: &str) -> &'a Fate {
    &outcome.tenants[&tenant(name)].fate
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_exactly_those_that_are_due_are_asked_for_once() {
    let due: Vec<String> = (0..120).map(|i| format!("due-{i:03}")).collect();
    let special = ["dead-here", "dead-there", "uncertain", "begun", "busy", "corrupt", "healthy"];
    let names: Vec<&str> = due.iter().map(String::as_str).chain(special).collect();
    let bench = bench(&names, "").await;
    for (i, name) in due.iter().enumerate() {
        // From the first that is due to one that the provider is about to forget.
        write(&bench, name, grant(&bench, name, 200, 45 + (i % 45) as u32, live())).await;
    }
    for i in 0..753 {
        let name = format!("fresh-{i:03}");
        write(&bench, &name, grant(&bench, &name, 200, i % 45, live())).await;
    }
    for i in 0..100 {
        let name = format!("key-{i:03}");
        let key = Grant { kind: CredentialKind::ApiKey, ..grant(&bench, &name, 900, 900, live()) };
        write(&bench, &name, key).await;
    }
    for i in 0..20 {
        let name = format!("gone-{i:03}");
        let gone = Grant { sealed: None, ..grant(&bench, &name, 200, 80, Standing::Disconnected) };
        write(&bench, &name, gone).await;
    }
    let doubt = || Standing::Uncertain { since: NOW.minus(DAY), why: "an answer was lost".into(), refused: false };
    let mark = Standing::Dead { since: NOW.minus(DAY), why: "the provider says invalid_grant".into() };
    write(&bench, "dead-here", grant(&bench, "dead-here", 200, 80, mark)).await;
    write(&bench, "dead-there", grant(&bench, "dead-there", 200, 80, live())).await;
    write(&bench, "uncertain", grant(&bench, "uncertain", 200, 1, doubt())).await;
    write(&bench, "begun", grant(&bench, "begun", 200, 1, Standing::Refreshing { run: RunId::new() })).await;
    write(&bench, "busy", grant(&bench, "busy", 200, 80, live())).await;
    write(&bench, "healthy", grant(&bench, "healthy", 200, 1, live())).await;
    bench.control.revoke("dead-there");
    let cut = Path::from("grants/corrupt/999999999999998.json");
    bench.world.state.create(&cut, "{\"n\": 1, \"canary".into()).await.unwrap();
    let held = bench.state().lease(&tenant("busy"), RunId::new()).await.unwrap();
    assert_eq!(bench.world.tenants().await.unwrap().len(), 1000);
    bench.control.reset_stats();

    let outcome = keep(&bench).await;

    let stats = bench.control.stats();
    for name in &names {
        let asked = stats.per_account.get(*name).and_then(|routes| routes.get(TOKEN)).copied().unwrap_or(0);
        let expected = !["dead-here", "busy", "corrupt", "healthy"].contains(name);
        assert_eq!(asked, u64::from(expected), "{name}");
    }
    assert_eq!(stats.token_requests, 123, "the due ones, the two in doubt, and one that turned out to be dead");
    for name in due.iter().map(String::as_str).chain(["uncertain", "begun"]) {
        assert_eq!(fate(&outcome, name), &Fate::Refreshed, "{name}");
        let grant = newest(&bench, name).await;
        assert!(grant.refreshed_at >= NOW && grant.generation == 8 && grant.standing == live(), "{name}: {grant:?}");
    }
    assert!(
        matches!(fate(&outcome, "dead-there"), Fate::Dead(_)) && matches!(fate(&outcome, "dead-here"), Fate::Dead(_))
    );
    assert_eq!(outcome.code, ExitCode::Partial);
    let mut summary: serde_json::Value = serde_json::from_str(&outcome.summary()).unwrap();
    // Two a second: nobody is hammered.
    assert!(summary["seconds"].as_f64().unwrap() >= 60.0, "{summary}");
    summary["run"] = "RUN".into();
    summary["seconds"] = 0.into();
    assert_snapshot!(summary, @r#"{"api_keys":100,"busy":["busy"],"code":"partial","dead":["dead-here","dead-there"],"ending":[],"exit":3,"failed":["corrupt"],"not_connected":20,"not_due":754,"refreshed":122,"run":"RUN","seconds":0,"stopped":0,"tenants":1000}"#);
    let troubles: Vec<String> =
        outcome.lines(&bench.world).into_iter().filter(|l| !l.ends_with(": refreshed")).collect();
    let troubles = troubles.join("\n").replace(&held_words(&outcome), "RUN on HOST");
    assert_snapshot!(troubles, @r#"
    note: tenant busy is busy: run RUN on HOST holds it, and keeps it alive
    error: corrupt: state entry grants/corrupt/999999999999998.json cannot be read: it is cut short at line 1, column 16
    hint: the entry was changed or cut by something else than hirelake; restore it from a backup, or move it away so that the entry before it counts again (of a grant: its token may be used up, and then the tenant must connect again)
    error: dead-here: the grant of tenant dead-here is dead since 2026-06-14T08:00:00.000Z: the provider says invalid_grant
    hint: a Super Admin of the customer must connect again: `hirelake connect dead-here`
    error: dead-there: the grant of tenant dead-there is dead since 2026-06-15T08:00:09.500Z: the provider says invalid_grant
    hint: a Super Admin of the customer must connect again: `hirelake connect dead-there`
    "#);
    held.release().await.unwrap();

    // The one that was busy has its turn the next week.
    bench.control.reset_stats();
    bench.pass(days(7)).await;
    assert_eq!(fate(&keep(&bench).await, "busy"), &Fate::Refreshed);
}

/// The part of the busy tenant's sentence that differs from run to run.
fn held_words(outcome: &Outcome) -> String {
    let Fate::Busy { what } = fate(outcome, "busy") else { panic!("{:?}", fate(outcome, "busy")) };
    what.trim_start_matches("tenant busy is busy: run ").trim_end_matches(" holds it").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_only_kept_alive_lives_through_years_of_weeks_and_missed_ones() {
    let bench = bench(&["acme"], "").await;
    bench.connect("acme").await;
    bench.control.reset_stats();
    // Five weeks of every six the cron fails; the provider's year does end it.
    for week in 1..=51 {
        bench.pass(days(7)).await;
        if week % 6 == 0 {
            assert_eq!(keep(&bench).await.code, ExitCode::Done);
        }
    }
    assert!(bench.control.stats().token_requests <= 8, "{:?}", bench.control.stats());
    bench.pass(DAY).await;
    let outcome =
        keepalive::run(&bench.world, &Options { within: Some(days(90)), ..Options::default() }).await.unwrap();
    assert_eq!(fate(&outcome, "acme"), &Fate::Refreshed);
    assert_snapshot!(outcome.lines(&bench.world).join("\n"), @r#"
    acme: refreshed
    note: acme: its consent ends on 2027-06-15, however often it is used
    hint: have the customer connect again before that day: hirelake connect acme
    "#);
    bench.pass(days(8)).await;
    let outcome =
        keepalive::run(&bench.world, &Options { within: Some(days(90)), ..Options::default() }).await.unwrap();
    assert_eq!(outcome.code, ExitCode::Reconnect);
    assert_eq!(status::read(&bench.world).await.unwrap()[&tenant("acme")].grant.as_ref().unwrap().health, "dead");
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_with_8_and_harms_nothing_and_the_dead_alone_end_with_4() {
    let bench = bench(&["acme", "birch", "cedar"], "").await;
    for name in ["acme", "birch"] {
        write(&bench, name, grant(&bench, name, 200, 60, live())).await;
    }
    write(&bench, "cedar", grant(&bench, "cedar", 200, 1, live())).await;
    let away = Action::Status { code: 503, body: None, retry_after: None };
    bench.control.fault(Fault { route: TOKEN.into(), account: None, skip: 0, times: 0, action: away });
    assert_eq!(keep(&bench).await.code, ExitCode::Provider);
    bench.control.clear_faults();
    assert_eq!(keep(&bench).await.code, ExitCode::Done, "the doubt is settled by one request each");
    assert_eq!(newest(&bench, "acme").await.standing, live());

    bench.control.revoke("acme");
    bench.pass(days(50)).await;
    let first = keep(&bench).await;
    assert_eq!((first.code, fate(&first, "birch")), (ExitCode::Reconnect, &Fate::Refreshed));
    bench.control.reset_stats();
    assert_eq!(keep(&bench).await.code, ExitCode::Reconnect, "it is named again");
    assert_eq!(bench.control.stats().token_requests, 0, "and not asked for again");
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_most_of_the_fleet_is_left_alone_and_the_next_run_keeps_it_all() {
    let names: Vec<String> = (0..60).map(|i| format!("t{i:02}")).collect();
    let bench = bench(&names.iter().map(String::as_str).collect::<Vec<_>>(), "tenants_at_once = 4").await;
    for name in &names {
        write(&bench, name, grant(&bench, name, 200, 60, live())).await;
    }
    bench.control.reset_stats();
    let away = Action::Status { code: 503, body: None, retry_after: None };
    bench.control.fault(Fault { route: TOKEN.into(), account: None, skip: 0, times: 0, action: away });
    let outcome = keep(&bench).await;
    assert_eq!(outcome.code, ExitCode::Provider);
    let asked = bench.control.stats().per_account.len();
    assert!((5..=8).contains(&asked), "five in a row, and the three that were under way beside the last: {asked}");
    assert_eq!(
        outcome.tenants.values().filter(|k| matches!(&k.fate, Fate::Failed(f) if f.what.contains("was left"))).count(),
        60 - asked
    );
    bench.control.clear_faults();
    bench.control.reset_stats();
    assert_eq!(keep(&bench).await.code, ExitCode::Done);
    assert_eq!(bench.control.stats().token_requests, 60);
}

#[tokio::test(start_paused = true)]
async fn when_three_die_in_a_row_the_others_are_left_alone() {
    let names = ["a", "b", "c", "d", "e"];
    let bench = bench(&names, "tenants_at_once = 1").await;
    for name in names {
        write(&bench, name, grant(&bench, name, 200, 60, live())).await;
        bench.control.revoke(name);
    }
    bench.control.reset_stats();
    let outcome = keep(&bench).await;
    assert_eq!(bench.control.stats().token_requests, 3);
    // The app is the likelier culprit, so nobody is thought dead: not those that were refused, and not those left alone.
    assert_eq!(outcome.code, ExitCode::Configuration);
    for name in names {
        assert!(matches!(fate(&outcome, name), Fate::Failed(f) if f.what.contains("likelier culprit")), "{name}");
        assert!(!matches!(newest(&bench, name).await.standing, Standing::Dead { .. }), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_brings_what_was_begun_to_its_end_and_begins_nothing_new() {
    let names: Vec<String> = (0..40).map(|i| format!("t{i:02}")).collect();
    let bench = bench(&names.iter().map(String::as_str).collect::<Vec<_>>(), "").await;
    for (i, name) in names.iter().enumerate() {
        write(&bench, name, grant(&bench, name, 200, 88 - i as u32, live())).await;
    }
    bench.control.reset_stats();
    let stop = async {
        bench.pass(Duration::from_millis(4_900)).await;
        bench.world.stop.cancel();
    };
    let (outcome, ()) = tokio::join!(keep(&bench), stop);
    assert_eq!(outcome.code, ExitCode::Stopped);
    let refreshed = names.iter().filter(|n| fate(&outcome, n) == &Fate::Refreshed).count();
    assert_eq!(bench.control.stats().token_requests, refreshed as u64);
    assert!((1..=10).contains(&refreshed), "{refreshed} at two a second");
    // The most urgent came first.
    assert!(names[..refreshed].iter().all(|n| fate(&outcome, n) == &Fate::Refreshed));
    let world = World { stop: Default::default(), ..bench.world.clone() };
    assert_eq!(keepalive::run(&world, &Options::default()).await.unwrap().code, ExitCode::Done);
}

#[tokio::test(start_paused = true)]
async fn a_named_tenant_that_is_not_connected_is_a_failure_and_an_unnamed_one_is_not() {
    let bench = bench(&["acme"], "[tenants.never]\n").await;
    bench.connect("acme").await;
    assert_eq!(keep(&bench).await.code, ExitCode::Done);
    let named = Options { tenants: vec![tenant("never")], within: None };
    assert_eq!(keepalive::run(&bench.world, &named).await.unwrap().code, ExitCode::Reconnect);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_is_told_who_is_needed() {
    let bench =
        bench(&["acme"], "[tenants.never]\n[tenants.narrow]\nresources = [\"opportunities\", \"users\"]\n").await;
    let wrong = || Standing::Live { last_error: Some("the provider refuses the client secret".into()) };
    let doubt = Standing::Uncertain { since: NOW, why: "an answer was lost".into(), refused: false };
    let mark = Standing::Dead { since: NOW, why: "the provider says invalid_grant".into() };
    let gone = Grant { sealed: None, ..grant(&bench, "gone", 200, 80, Standing::Disconnected) };
    let key = Grant { kind: CredentialKind::ApiKey, scopes: vec![], ..grant(&bench, "key", 0, 0, live()) };
    for (name, grant) in [
        ("dead", grant(&bench, "dead", 0, 0, mark)),
        ("doubt", grant(&bench, "doubt", 0, 0, doubt)),
        ("gone", gone),
        ("hard", grant(&bench, "hard", 331, 1, live())),
        ("idle", grant(&bench, "idle", 77, 77, live())),
        ("key", key),
        ("narrow", grant(&bench, "narrow", 0, 0, live())),
        ("outlived", grant(&bench, "outlived", 400, 0, live())),
        ("past", grant(&bench, "past", 91, 91, live())),
        ("well", grant(&bench, "well", 0, 0, live())),
        ("wrong", grant(&bench, "wrong", 0, 0, wrong())),
    ] {
        write(&bench, name, grant).await;
    }
    bench.world.state.create(&Path::from("grants/cut/999999999999998.json"), "{".into()).await.unwrap();
    let all = status::read(&bench.world).await.unwrap();
    assert_eq!(status::readable(&all), ExitCode::Partial);
    let troubles = status::troubles(&bench.world, &all, None);
    let said: Vec<String> =
        troubles.iter().map(|t| format!("{} {}: {}\n  hint: {}", t.code.number(), t.tenant, t.what, t.hint)).collect();
    assert_snapshot!(said.join("\n"), @r#"
    7 cut: state entry grants/cut/999999999999998.json cannot be read: it is cut short at line 1, column 1
      hint: the entry was changed or cut by something else than hirelake; restore it from a backup, or move it away so that the entry before it counts again (of a grant: its token may be used up, and then the tenant must connect again)
    4 dead: its grant is dead since 2026-06-15: the provider says invalid_grant
      hint: a Super Admin of the customer must connect again: `hirelake connect dead`
    3 doubt: its grant is uncertain: an answer was lost
      hint: the next run asks once more, which settles it: `hirelake keepalive`, or a sync
    3 hard: its hard deadline is on 2026-07-19
      hint: have the customer connect again before: `hirelake connect hard`
    3 hard: it was never synced
      hint: `hirelake sync --tenant hard`
    3 idle: its idle deadline is on 2026-06-28
      hint: use it: `hirelake keepalive`, or a sync
    3 idle: it was never synced
      hint: `hirelake sync --tenant idle`
    3 narrow: these scopes are needed and were not granted: applications:read:admin contact:read:admin users:read:admin
      hint: register them for the app and connect again (`hirelake connect narrow`), or leave their resources out
    4 never: it was never connected
      hint: connect it: `hirelake connect never`; or take it out of the configuration
    3 outlived: it was never synced
      hint: `hirelake sync --tenant outlived`
    4 past: its idle deadline passed on 2026-06-14
      hint: a Super Admin of the customer must connect again: `hirelake connect past`
    3 wrong: its last refresh failed without harm: the provider refuses the client secret
      hint: the next run tries again; `hirelake check` says what is wrong
    "#);
    assert_eq!(status::verdict(&troubles), ExitCode::Reconnect);
    assert_snapshot!(status::table(&all), @"
    tenant    grant           connected   refreshed         dies unused  dies anyway  last run  rows  oldest cursor  note
    cut       unreadable                                                                        0                    state entry grants/cut/999999999999998.json cannot be read: it is cut short at line 1, column 1
    dead      dead            2026-06-15  2026-06-15 08:00                            never     0                    the provider says invalid_grant; missing scopes: applications:read:admin and 13 more; hirelake connect dead
    doubt     uncertain       2026-06-15  2026-06-15 08:00  2026-09-13   2027-06-15   never     0                    an answer was lost; missing scopes: applications:read:admin and 13 more
    gone      disconnected    2025-11-27  2026-03-27 08:00                            never     0                    hirelake connect gone
    hard      live            2025-07-19  2026-06-14 08:00  2026-09-12   2026-07-19   never     0                    missing scopes: applications:read:admin and 13 more; hirelake connect hard
    idle      live            2026-03-30  2026-03-30 08:00  2026-06-28   2027-03-30   never     0                    missing scopes: applications:read:admin and 13 more
    key       live (API key)  2026-06-15  2026-06-15 08:00                            never     0
    narrow    live            2026-06-15  2026-06-15 08:00  2026-09-13   2027-06-15   never     0                    missing scopes: applications:read:admin and 2 more; hirelake connect narrow
    never     none                                                                    never     0                    hirelake connect never
    outlived  live            2025-05-11  2026-06-15 08:00  2026-09-13                never     0                    missing scopes: applications:read:admin and 13 more
    past      live            2026-03-16  2026-03-16 08:00  2026-06-14   2027-03-16   never     0                    missing scopes: applications:read:admin and 13 more; hirelake connect past
    well      live            2026-06-15  2026-06-15 08:00  2026-09-13   2027-06-15   never     0                    missing scopes: applications:read:admin and 13 more
    wrong     live            2026-06-15  2026-06-15 08:00  2026-09-13   2027-06-15   never     0                    the provider refuses the client secret; missing scopes: applications:read:admin and 13 more
    ");
}

#[tokio::test(start_paused = true)]
async fn one_tenant_is_told_in_full() {
    let bench = Setup::new(30).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.pass(days(3)).await;
    let all = status::read(&bench.world).await.unwrap();
    let acme = &all[&tenant("acme")];
    assert_snapshot!(status::full(&bench.world, &tenant("acme"), acme), @"
    tenant                 acme
    credential             OAuth grant
    health                 live
    connected              2026-06-15 08:00 (3 days ago)
    last refresh           2026-06-15 08:00 (3 days ago)
    access token ends      2026-06-15 09:00 (2 days ago); refreshed when it is needed
    idle deadline          2026-09-13 08:00 (in 87 days)
    hard deadline          2027-06-15 08:00 (in 362 days)
    scopes granted         offline_access applications:read:admin archive_reasons:read:admin audit_events:read:admin contact:read:admin feedback_templates:read:admin form_templates:read:admin opportunities:read:admin postings:read:admin requisition_fields:read:admin requisitions:read:admin sources:read:admin stages:read:admin tags:read:admin users:read:admin webhooks:read:admin
    scopes missing         none
    last error             none
    last run               2026-06-15 08:00 ok
    applications           25 rows, 6 files
    applications_deleted   3 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    archive_reasons        5 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    audit_events           230 rows, 6 files, as of 2026-06-15 07:58 (3 days ago)
    contacts               28 rows, 1 file
    disposition_stages     9 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    feedback_templates     5 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    form_templates         3 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    opportunities          30 rows, 6 files, as of 2026-06-15 07:58 (3 days ago)
    opportunities_deleted  3 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    posting_forms          8 rows, 1 file
    posting_users          8 rows, 1 file
    postings               8 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    postings_deleted       3 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    requisition_fields     4 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    requisitions           5 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    sources                7 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    stages                 9 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    tags                   18 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    users                  12 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    webhooks               2 rows, 1 file, as of 2026-06-15 07:58 (3 days ago)
    ");
    // What lags is named, and only what the tenant reads.
    let troubles = status::troubles(&bench.world, &all, Some(days(2)));
    assert_eq!(troubles.len(), 1);
    assert!(
        troubles[0].what.starts_with("its tables are behind: applications_deleted by 3 days, archive_reasons"),
        "{}",
        troubles[0].what
    );
    assert_eq!(status::troubles(&bench.world, &all, Some(days(4))), []);
    bench.control.revoke("acme");
    bench.sync_with(hirelake::sync::Options::default()).await;
    let all = status::read(&bench.world).await.unwrap();
    assert_snapshot!(status::full(&bench.world, &tenant("acme"), &all[&tenant("acme")]).lines().filter(|l| !l.contains(" file")).collect::<Vec<_>>().join("\n"), @"
    tenant                 acme
    credential             OAuth grant
    health                 dead since 2026-06-18 08:00 (0 seconds ago)
    connected              2026-06-15 08:00 (3 days ago)
    last refresh           2026-06-15 08:00 (3 days ago)
    scopes granted         offline_access applications:read:admin archive_reasons:read:admin audit_events:read:admin contact:read:admin feedback_templates:read:admin form_templates:read:admin opportunities:read:admin postings:read:admin requisition_fields:read:admin requisitions:read:admin sources:read:admin stages:read:admin tags:read:admin users:read:admin webhooks:read:admin
    scopes missing         none
    last error             the provider says invalid_grant
    last run               2026-06-18 08:00 failed
    its error              the grant of tenant acme is dead since 2026-06-18T08:00:00.000Z: the provider says invalid_grant
    connect again          hirelake connect acme
    ");
    let _: Timestamp = acme.grant.as_ref().unwrap().expires_at.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wrong_vault_key_is_told_though_nothing_is_due() {
    let mut bench = bench(&["acme", "birch", "cedar"], "").await;
    for name in ["acme", "birch"] {
        write(&bench, name, grant(&bench, name, 0, 0, live())).await;
    }
    assert_eq!(keep(&bench).await.code, ExitCode::Done);
    let file = bench.dir.path().join("hirelake.toml");
    private(&bench.dir.path().join("vault.key"), &"5eed".repeat(16));
    let config = Config::load_with(Some(&file), std::iter::empty()).unwrap();
    bench.world.config = Arc::new(config);
    bench.control.reset_stats();
    let outcome = keep(&bench).await;
    assert_eq!(outcome.code, ExitCode::Configuration);
    assert_snapshot!(outcome.lines(&bench.world).join("\n"), @"
    error: the grants of 2 tenants (acme, birch) do not open: it is sealed with the vault key 96f88271, and the key at hand is f28f1656
    hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`
    ");
    assert!(outcome.summary().contains(r#""failed":["acme","birch"]"#), "{}", outcome.summary());
    // One that was connected since, under this key.
    bench.connect("cedar").await;
    assert_eq!(keep(&bench).await.code, ExitCode::Partial);
    assert_eq!(bench.control.stats().token_requests, 1, "only the consent");
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_scope_a_new_consent_left_out_is_told() {
    let bench = Setup::new(20).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let line = bench.state().grants(&tenant("acme"));
    let last = line.last::<Grant>().await.unwrap().unwrap();
    let left_out = ["users:read:admin", "applications:read:admin"];
    let scopes = last.body.scopes.iter().filter(|s| !left_out.contains(&s.as_str())).cloned().collect();
    line.append(last.n, Grant { scopes, ..last.body }).await.unwrap();
    bench.pass(Duration::from_secs(60)).await;

    let report = bench.sync().await;
    let notes = |table: &str| report.tenants[&tenant("acme")].resources[table].notes.join("; ");
    assert_snapshot!(notes("users"), @"not granted: it needs the scope users:read:admin; it was read before: its rows stay as they are, and fall behind until users:read:admin is granted again");
    assert!(notes("applications").ends_with("fall behind until applications:read:admin is granted again"));
    assert_eq!(notes("stages"), "");
    let all = status::read(&bench.world).await.unwrap();
    let troubles = status::troubles(&bench.world, &all, None);
    assert_eq!(status::verdict(&troubles), ExitCode::Partial);
    let said: Vec<_> = troubles.iter().map(|t| format!("{}\nhint: {}", t.what, t.hint)).collect();
    assert_snapshot!(said.join("\n"), @"
    tables are no longer read and fall behind: applications, applications_deleted, posting_users, users
    hint: the newest consent left out applications:read:admin users:read:admin: have the customer connect again (`hirelake connect acme`) with all scopes registered for the app, or leave these resources out
    ");
    assert_eq!(all[&tenant("acme")].reconnect.as_deref(), Some("hirelake connect acme"));
    // With it, all is well again.
    bench.connect("acme").await;
    bench.sync().await;
    bench.assert_right("acme").await;
    let all = status::read(&bench.world).await.unwrap();
    assert_eq!(status::troubles(&bench.world, &all, None), []);
}
