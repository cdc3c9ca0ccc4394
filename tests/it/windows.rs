//! What is read when: a load that is interrupted goes on where it stopped, an increment begins where the last one ended, and
//! what a person asks for beside that disturbs neither.

use std::collections::BTreeSet;
use std::time::Duration;

use hirelake::catalog::Rate;
use hirelake::report::{ExitCode, Outcome};
use hirelake::sandbox::Action;
use hirelake::state::{CommitKind, Window};
use hirelake::sync::{self, Options};
use insta::assert_snapshot;
use serde_json::json;

use crate::harness::{Bench, Setup};
use crate::lake::{fault, of, rewritten};

const LISTING: &str = "GET /v1/opportunities";

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// At Lever's pace, so that a load takes time.
fn paced(opportunities: usize) -> Setup {
    let Rate { per_second, burst } = hirelake::catalog::embedded().unwrap().rate;
    let defaults = format!("rate = {{ per_second = {per_second:.1}, burst = {burst} }}");
    Setup { latency: Duration::from_millis(100), defaults, ..Setup::new(opportunities) }
}

async fn loaded(opportunities: usize) -> Bench {
    let bench = Setup::new(opportunities).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.pass(seconds(600)).await;
    bench.control.reset_stats();
    bench
}

#[tokio::test(start_paused = true)]
async fn the_start_of_a_load_is_kept_before_anything_is_read() {
    let bench = Setup::new(150).start().await;
    bench.connect("acme").await;
    bench.control.fault(fault(
        "GET /v1/opportunities$",
        0,
        0,
        Action::Status { code: 500, body: None, retry_after: None },
    ));
    let began = bench.world.clock.now();
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(of(&report, "opportunities").outcome, Outcome::Failed);
    assert_eq!(of(&report, "users").outcome, Outcome::Done);
    let started = bench.commit("acme", "opportunities").await.load_started.unwrap();
    assert_eq!(began.since(started), seconds(61), "the safety lag and a second before the run");

    bench.control.clear_faults();
    bench.pass(seconds(3600)).await;
    bench.control.edit("acme", 5, 1);
    bench.pass(seconds(600)).await;
    let began = bench.world.clock.now();
    bench.sync().await;
    let commit = bench.commit("acme", "opportunities").await;
    // Nothing of the load was covered, so it began again; by the provider's clock, whose Date has whole seconds.
    let again = commit.load_started.unwrap();
    assert!((seconds(61)..seconds(63)).contains(&began.since(again)), "{began} {again}");
    assert!(commit.load_done);
    bench.control.edit("acme", 5, 2);
    bench.pass(seconds(600)).await;
    bench.sync().await;
    let commit = bench.commit("acme", "opportunities").await;
    let increments: Vec<Window> = commit.covered.updated.windows().to_vec();
    assert_eq!((increments.len(), increments[0].from), (1, Some(again)));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_load_under_deadlines_reads_hardly_more_than_one_that_has_the_time() {
    let whole = paced(4_000).start().await;
    whole.connect("acme").await;
    whole.sync().await;
    let needed = whole.requests(LISTING);
    assert!(needed >= 40, "{needed}");

    let bench = paced(4_000).start().await;
    bench.connect("acme").await;
    let mut runs = 0;
    let mut started = BTreeSet::new();
    loop {
        let before = bench.world.clock.now();
        let options = Options { deadline: Some(seconds(3)), ..Options::default() };
        let report = bench.sync_with(options).await;
        runs += 1;
        started.insert(bench.commit("acme", "opportunities").await.load_started.unwrap());
        assert!(bench.world.clock.now().since(before) < seconds(5), "a deadline is kept");
        if report.code == ExitCode::Done {
            break;
        }
        assert_eq!(report.code.number(), 6, "{}", report.troubles().join("\n"));
        let stopped = |r: &hirelake::report::ResourceReport| r.outcome == Outcome::Stopped;
        assert!(report.tenants.values().all(|t| t.resources.values().any(stopped)), "{}", report.table());
        assert!(report.troubles().iter().all(|t| !t.starts_with("error")), "{:?}", report.troubles());
        assert!(runs < 20, "no progress");
        bench.pass(seconds(60)).await;
        bench.control.edit("acme", 3, runs);
    }
    assert!(runs > 1, "the deadline came too late to test anything");
    assert_eq!(started.len(), 1);
    let used = bench.requests(LISTING);
    // A run's increment is one request; what was under way at a deadline is read again.
    println!("{used} requests in {runs} runs, {needed} in one");
    assert!(used <= needed + 16 * runs, "{used} requests in {runs} runs, {needed} in one");
    bench.pass(seconds(120)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_window_that_fails_leaves_the_others_done() {
    let bench = paced(2_500).start().await;
    bench.connect("acme").await;
    // A few pages come through; then the provider is out for good.
    bench.control.fault(fault(
        "GET /v1/opportunities$",
        14,
        0,
        Action::Status { code: 500, body: None, retry_after: None },
    ));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(of(&report, "opportunities").outcome, Outcome::Failed);
    let rows = bench.living("acme", "opportunities").await.len();
    assert!(rows > 0 && rows < 2_500, "{rows}");
    let covered = bench.commit("acme", "opportunities").await.covered.created;
    assert!(!covered.is_empty());
    bench.control.clear_faults();
    bench.pass(seconds(600)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn an_increment_begins_where_the_last_ended_less_the_overlap() {
    let bench = loaded(60).await;
    let cursor = bench.commit("acme", "opportunities").await.cursor().unwrap();
    let all = sync::forecast(&bench.world, &Options::default()).await.unwrap();
    let lines: Vec<String> = all.iter().map(|p| format!("{} {} {}", p.resource, p.mode, p.window)).collect();
    assert_snapshot!(lines.join("\n"), @"
    opportunities increment [2026-06-15T07:48:59.000Z, 2026-06-15T08:08:59.000Z)
    applications extracted with opportunities
    contacts extracted with opportunities
    users listing everything
    postings increment [2026-06-15T07:48:59.000Z, 2026-06-15T08:08:59.000Z)
    stages listing everything
    archive_reasons listing everything
    sources listing everything
    tags listing everything
    requisitions listing everything
    opportunities_deleted increment [2026-06-15T07:48:59.000Z, 2026-06-15T08:08:59.000Z)
    applications_deleted increment [2026-06-15T07:48:59.000Z, 2026-06-15T08:08:59.000Z)
    postings_deleted increment [2026-06-15T07:48:59.000Z, 2026-06-15T08:08:59.000Z)
    disposition_stages listing everything
    requisition_fields listing everything
    feedback_templates listing everything
    form_templates listing everything
    audit_events increment [2026-06-15T07:48:59.000Z, 2026-06-15T08:08:59.000Z)
    webhooks listing everything
    posting_forms children of postings that changed, and of some in turn
    posting_users children of postings that changed, and of some in turn
    ");
    // Edits that showed up late: one that the overlap reaches, one that it does not.
    let ids: Vec<String> =
        bench.control.dump("acme", "opportunities").unwrap().iter().map(|o| o["id"].as_str().unwrap().into()).collect();
    for (id, ago) in [(&ids[0], 9), (&ids[1], 11)] {
        bench.control.set_field("acme", "opportunities", id, "headline", json!("late"), false);
        bench.control.set_field(
            "acme",
            "opportunities",
            id,
            "updatedAt",
            json!(cursor.minus(seconds(ago * 60)).ms()),
            false,
        );
    }
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").updated, 1);
    assert_eq!(bench.requests(LISTING), 1);
    let rows = bench.table("acme", "opportunities").await;
    assert_eq!(rows[&ids[0]]["headline"], "late");
    assert_ne!(rows[&ids[1]].get("headline").map(String::as_str), Some("late"));
    let next = bench.commit("acme", "opportunities").await.cursor().unwrap();
    assert_eq!(bench.world.clock.now().since(next).as_secs(), 61);
}

#[tokio::test(start_paused = true)]
async fn a_backfill_loads_its_window_and_moves_no_cursor() {
    let bench = loaded(80).await;
    let before = bench.commit("acme", "opportunities").await;
    // A silent change of an old record: no increment finds it.
    let all = bench.control.dump("acme", "opportunities").unwrap();
    let old = all.iter().filter(|o| o["updatedAt"].is_i64()).min_by_key(|o| o["updatedAt"].as_i64()).unwrap();
    let (id, updated) = (old["id"].as_str().unwrap(), old["updatedAt"].as_i64().unwrap());
    bench.control.set_field("acme", "opportunities", id, "headline", json!("silent"), false);
    bench.sync().await;
    assert_ne!(bench.table("acme", "opportunities").await[id].get("headline").map(String::as_str), Some("silent"));
    let cursors = |b: &hirelake::state::Commit| (b.cursor(), b.covered.clone(), b.load_started, b.load_done);
    let live = bench.commit("acme", "opportunities").await;
    assert!(live.cursor() > before.cursor());

    let from = hirelake::clock::Timestamp::from_ms(updated - 1_000);
    let window = Window::new(Some(from), hirelake::clock::Timestamp::from_ms(updated + 1_000));
    let report = bench.sync_with(Options { backfill: Some(window), ..Options::default() }).await;
    assert_eq!(report.code, ExitCode::Done);
    assert_eq!((of(&report, "opportunities").mode.as_str(), of(&report, "opportunities").updated), ("backfill", 1));
    assert_eq!(bench.table("acme", "opportunities").await[id]["headline"], "silent");
    let after = bench.commit("acme", "opportunities").await;
    assert_eq!((after.kind, after.backfilled), (CommitKind::Backfill, Some(window)));
    assert_eq!(cursors(&after), cursors(&live));
    // The next run is an ordinary one.
    bench.pass(seconds(600)).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").mode, "increment");
    assert_eq!(bench.commit("acme", "opportunities").await.backfilled, None);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_backfill_before_any_load_covers_nothing() {
    let bench = Setup::new(80).start().await;
    bench.connect("acme").await;
    let now = bench.world.clock.now();
    let window = Window::new(Some(now.minus(seconds(300 * 86_400))), now);
    let report = bench.sync_with(Options { backfill: Some(window), ..Options::default() }).await;
    assert_eq!(report.code, ExitCode::Done);
    assert!(!bench.living("acme", "opportunities").await.is_empty());
    bench.pass(seconds(600)).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").mode, "load");
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn everything_anew_rewrites_nothing_when_nothing_changed() {
    let bench = loaded(250).await;
    let times = bench.file_times();
    let report = bench.sync_with(Options { full: true, ..Options::default() }).await;
    assert_eq!(report.code, ExitCode::Done);
    assert_eq!((of(&report, "opportunities").mode.as_str(), of(&report, "opportunities").unchanged), ("load", 250));
    assert!(bench.requests(LISTING) >= 3);
    assert_eq!(rewritten(&report), 0, "{}", report.table());
    assert_eq!(bench.file_times(), times);
    bench.assert_right("acme").await;
    bench.pass(seconds(600)).await;
    assert_eq!(of(&bench.sync().await, "opportunities").mode, "increment");
}

#[tokio::test(start_paused = true)]
async fn records_without_a_time_of_change_are_loaded_and_kept() {
    let bench = loaded(300).await;
    let untouched: Vec<String> = bench
        .truth("acme", "opportunities")
        .into_iter()
        .filter_map(|(id, o)| o.get("updatedAt").is_none().then_some(id))
        .collect();
    assert!(untouched.len() > 20, "{}", untouched.len());
    bench.control.edit("acme", 20, 4);
    bench.pass(seconds(600)).await;
    bench.sync().await;
    let lake = bench.living("acme", "opportunities").await;
    assert!(untouched.iter().all(|id| lake.contains_key(id)));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_made_during_the_load_comes_with_the_next_run() {
    let bench = paced(2_000).start().await;
    bench.connect("acme").await;
    let control = bench.control.clone();
    let meanwhile = async {
        let mut ids = Vec::new();
        for i in 0..4 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            ids.extend(control.add("acme", 2));
            control.edit("acme", 10, i);
        }
        ids
    };
    let (report, added) = tokio::join!(bench.sync(), meanwhile);
    assert!(report.ended.since(report.started) > seconds(1), "the load was over before anything happened");
    assert_eq!(added.len(), 8);
    bench.pass(seconds(120)).await;
    bench.sync().await;
    let lake = bench.living("acme", "opportunities").await;
    assert!(added.iter().all(|id| lake.contains_key(id)));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_table_enabled_later_gets_its_history() {
    let defaults = Setup::default().defaults;
    let some = format!("{defaults}\nresources = [\"opportunities\", \"opportunities_deleted\", \"users\"]");
    let mut bench = Setup::new(150).start().await;
    bench.connect("acme").await;
    bench.reconfigure(&some, "", &[]);
    bench.sync().await;
    assert!(bench.batches("acme", "contacts").await.is_empty());
    assert_eq!(bench.living("acme", "opportunities").await.len(), 150);
    bench.pass(seconds(600)).await;
    bench.reconfigure(&defaults, "", &[]);
    // Not even a backfill in between makes it forget.
    let now = bench.world.clock.now();
    let window = Window::new(Some(now.minus(seconds(86_400))), now);
    bench.sync_with(Options { backfill: Some(window), ..Options::default() }).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").mode, "load");
    assert_snapshot!(report.troubles().join("\n"), @"note: acme/opportunities: read anew from the start, because a table taken out of it is new or was left out for a while");
    bench.assert_right("acme").await;
    bench.pass(seconds(600)).await;
    assert_eq!(of(&bench.sync().await, "opportunities").mode, "increment");
}

#[tokio::test(start_paused = true)]
async fn a_table_left_out_for_a_while_catches_up() {
    let defaults = Setup::default().defaults;
    let mut bench = Setup::new(120).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.pass(seconds(600)).await;
    bench.reconfigure(&format!("{defaults}\nresources = [\"opportunities\", \"contacts\"]"), "", &[]);
    bench.sync().await;
    // What changes now is seen by the opportunities' cursor, and by nobody for the applications.
    for o in bench.control.dump("acme", "opportunities").unwrap().iter().take(40) {
        bench.control.edit_application("acme", o["id"].as_str().unwrap());
    }
    bench.pass(seconds(600)).await;
    bench.sync().await;
    bench.pass(seconds(600)).await;
    bench.reconfigure(&defaults, "", &[]);
    assert_eq!(of(&bench.sync().await, "opportunities").mode, "load");
    bench.assert_right("acme").await;
    bench.pass(seconds(600)).await;
    assert_eq!(of(&bench.sync().await, "opportunities").mode, "increment");
}

#[tokio::test(start_paused = true)]
async fn a_load_of_a_table_enabled_later_survives_a_stop() {
    let mut bench = paced(2_000).start().await;
    let defaults = "rate = { per_second = 10.0, burst = 15 }";
    bench.connect("acme").await;
    bench.reconfigure(&format!("{defaults}\nresources = [\"opportunities\"]"), "", &[]);
    bench.sync().await;
    bench.reconfigure(defaults, "", &[]);
    bench.pass(seconds(600)).await;
    let report = bench.sync_with(Options { deadline: Some(seconds(2)), ..Options::default() }).await;
    assert_eq!(report.code.number(), 6);
    bench.pass(seconds(600)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_no_longer_wanted_is_left_alone() {
    let defaults = Setup::default().defaults;
    let mut bench = loaded(60).await;
    let before = bench.file_times();
    let gone = bench.control.dump("acme", "opportunities").unwrap()[0]["id"].as_str().unwrap().to_owned();
    bench.control.delete_opportunity("acme", &gone);
    bench.control.add("acme", 3);
    bench.control.add_user("acme");
    bench.reconfigure(&format!("{defaults}\nresources = [\"users\", \"stages\"]"), "", &[]);
    bench.pass(seconds(600)).await;
    let report = bench.sync().await;
    assert_eq!(report.tenants.values().next().unwrap().resources.len(), 2);
    let after = bench.file_times();
    let changed: Vec<_> =
        after.iter().filter(|(p, t)| before.get(*p) != Some(t)).map(|(p, _)| p.display().to_string()).collect();
    assert_eq!(changed, ["lever/users/tenant=acme/data.parquet"]);
    assert_eq!(after.len(), before.len());
    // Wanted again, it catches up.
    bench.reconfigure(&defaults, "", &[]);
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").mode, "increment");
    bench.assert_right("acme").await;
}
