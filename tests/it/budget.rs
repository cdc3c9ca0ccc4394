//! What a run will cost is told before it is spent, and a run spends no more than it is given.

use std::time::Duration;

use hirelake::report::{ExitCode, Outcome};
use hirelake::sync::{self, Forecast, Options};

use crate::harness::{Bench, Setup, tenant};
use crate::lake::of;

const DAY: Duration = Duration::from_secs(86_400);
const TABLES: &str = r#"resources = ["opportunities", "applications", "contacts", "users", "postings", "stages", "notes", "feedback", "resumes"]"#;

async fn bench(opportunities: usize, more: &str) -> Bench {
    let mut setup = Setup::new(opportunities);
    setup.defaults += &format!("\n{TABLES}\n{more}");
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench
}

async fn plan(bench: &Bench) -> Vec<Forecast> {
    sync::forecast(&bench.world, &Options::default()).await.unwrap()
}

fn asked(bench: &Bench) -> u64 {
    bench.control.stats().requests.iter().filter(|(r, _)| r.starts_with("GET /v1")).map(|(_, n)| n).sum()
}

fn planned(all: &[Forecast], table: &str) -> u64 {
    all.iter().filter(|f| f.resource.as_str() == table).map(|f| f.requests.unwrap()).sum()
}

#[tokio::test(start_paused = true)]
async fn a_plan_asks_nobody_and_says_what_the_run_then_costs() {
    let bench = bench(400, "reconcile = { nights = 10, active_nights = 5 }").await;
    let first = plan(&bench).await;
    assert!(first.iter().any(|f| f.requests.is_none()), "of a first load nothing is known, and that is said");
    assert!(sync::forecast_table(&first).contains('?'));
    bench.sync().await;
    // Days that are alike, so that there are habits to go by.
    for day in 0..4 {
        bench.pass(DAY).await;
        bench.control.edit("acme", 20, day);
        bench.pass(Duration::from_secs(600)).await;
        bench.sync().await;
    }
    bench.pass(DAY).await;
    bench.control.edit("acme", 20, 77);
    bench.pass(Duration::from_secs(600)).await;
    bench.control.reset_stats();
    let files = bench.file_times();
    let all = plan(&bench).await;
    assert_eq!(asked(&bench), 0, "a plan asks nobody");
    assert_eq!(bench.file_times(), files);
    let report = bench.sync().await;
    for table in ["users", "stages", "opportunities", "postings"] {
        assert_eq!(planned(&all, table), of(&report, table).requests, "{table}");
    }
    let notes = all.iter().find(|f| f.resource.as_str() == "notes").unwrap();
    let read = of(&report, "notes").parents.clone().unwrap();
    // A changed parent of those whose turn it is counts as changed in the end.
    assert!(notes.in_turn.unwrap().abs_diff(read.reconciled) <= 20, "{notes:?} {read:?}");
    for table in ["notes", "feedback", "resumes"] {
        let (said, was) = (planned(&all, table), of(&report, table).requests);
        assert!(said.abs_diff(was) * 4 <= was, "{table}: {said} planned, {was} made");
        assert!(all.iter().find(|f| f.resource.as_str() == table).unwrap().guess, "{table}: it is marked as a guess");
    }
    let bytes: u64 = all.iter().filter_map(|f| f.bytes).sum();
    let received: u64 = report.tenants.values().flat_map(|t| t.resources.values()).map(|r| r.bytes).sum();
    assert!(bytes.abs_diff(received) * 2 <= received, "{bytes} bytes planned, {received} received");
    let minutes: f64 = all.iter().filter_map(|f| f.minutes).sum();
    let requests: u64 = all.iter().filter_map(|f| f.requests).sum();
    assert!((minutes - requests as f64 / 1000.0 / 60.0).abs() < 1e-9, "at the tenant's own rate");
}

#[tokio::test(start_paused = true)]
async fn a_run_makes_no_more_requests_than_it_may_and_the_next_one_goes_on() {
    let whole = bench(150, "").await;
    whole.sync().await;
    let needed = asked(&whole);

    let bench = bench(150, "").await;
    let (mut runs, mut told) = (0, String::new());
    loop {
        runs += 1;
        bench.control.reset_stats();
        let report = bench.sync_with(Options { max_requests: Some(60), ..Options::default() }).await;
        let asked = asked(&bench);
        assert!(asked <= 60, "run {runs} asked {asked} times");
        // What was cut at the stop may never have reached the provider.
        assert!((asked..=60).contains(&report.tenants[&tenant("acme")].requests), "{asked}");
        told += &report.troubles().join("\n");
        if report.code == ExitCode::Done {
            break;
        }
        assert_eq!(report.code, ExitCode::Stopped, "{}", report.troubles().join("\n"));
        assert!(report.tenants[&tenant("acme")].failures.is_empty(), "{}", report.troubles().join("\n"));
        assert!(report.tenants[&tenant("acme")].resources.values().any(|r| r.outcome == Outcome::Stopped));
        assert!(runs < 40, "{needed} requests in one run, and no end after {runs}");
    }
    assert!(runs as u64 >= needed / 60, "{runs}");
    assert!(told.contains("all 60 requests of --max-requests are used up"), "{told}");
    assert!(told.contains("goes on with"), "{told}");
    bench.assert_right("acme").await;

    // A table whose turn does not come holds what it held, and the report says so.
    bench.pass(Duration::from_secs(86_400)).await;
    let report = bench.sync_with(Options { max_requests: Some(3), ..Options::default() }).await;
    let children = &report.tenants[&tenant("acme")].resources["notes"];
    assert_eq!(children.outcome, Outcome::Stopped);
    assert_eq!(children.rows, bench.commit("acme", "notes").await.living());
    assert!(children.rows > 100);
}

#[tokio::test(start_paused = true)]
async fn what_an_allowance_has_paid_for_is_not_thrown_away() {
    let mut setup = Setup { latency: Duration::from_millis(250), ..Setup::new(40) };
    setup.defaults += &format!("\n{TABLES}");
    let bench = setup.start().await;
    bench.connect("acme").await;
    let (mut runs, mut all) = (0, 0);
    loop {
        runs += 1;
        bench.control.reset_stats();
        let report = bench.sync_with(Options { max_requests: Some(12), ..Options::default() }).await;
        let of_acme = &report.tenants[&tenant("acme")];
        let of_tables: u64 = of_acme.resources.values().map(|r| r.requests).sum();
        // Nothing is asked for in vain, and each request stands with its table.
        assert_eq!((asked(&bench), of_tables), (of_acme.requests, of_acme.requests), "run {runs}\n{}", report.table());
        all += asked(&bench);
        if report.code == ExitCode::Done {
            break;
        }
        assert!(runs < 60, "{}", report.table());
    }
    // What each run begins with is asked for by each, and a window that has several pages is read in one run.
    let needed = 3 * 40 + 10;
    assert!(all <= needed + runs * 8, "{all} requests in {runs} runs");
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_knows_what_is_read_anew() {
    let mut setup = Setup::new(400);
    setup.defaults += "\nresources = [\"opportunities\", \"users\"]";
    let mut bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let more = "resources = [\"opportunities\", \"users\", \"applications\", \"contacts\"]";
    for (defaults, why) in [
        (format!("{}\n{more}", Setup::default().defaults), "a table taken out of it is new"),
        (format!("{}\n{more}\nconfidential = true", Setup::default().defaults), "confidential records are asked for"),
    ] {
        bench.reconfigure(&defaults, "", &[]);
        // What is new may want another scope.
        bench.connect("acme").await;
        bench.pass(Duration::from_secs(600)).await;
        let all = plan(&bench).await;
        let line = all.iter().find(|f| f.resource.as_str() == "opportunities").unwrap();
        assert_eq!(line.mode, "load", "{line:?}");
        assert!(line.window.starts_with(&format!("anew, because {why}")), "{line:?}");
        let report = bench.sync().await;
        let was = of(&report, "opportunities");
        assert_eq!(was.mode, "load");
        let said = line.requests.unwrap();
        assert!(said.abs_diff(was.requests) <= 4, "{said} planned, {} made", was.requests);
        bench.pass(Duration::from_secs(600)).await;
        let again = plan(&bench).await;
        assert_eq!(again.iter().find(|f| f.resource.as_str() == "opportunities").unwrap().mode, "increment");
    }
}
