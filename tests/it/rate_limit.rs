//! The provider's rate limit is kept, and reached; and the next runs ask only for what changed.

use std::collections::BTreeSet;
use std::time::Duration;

use hirelake::sandbox::Limit;
use serde_json::json;

use crate::harness::{Bench, Setup};

/// The pages that the rows themselves ask for: a hundred rows each, rounded up for each listing.
fn asked_for(bench: &Bench) -> u64 {
    let acme = crate::harness::tenant("acme");
    let listings = bench.world.config.resources(&acme).into_iter().filter(|r| {
        r.mode.word() != "extracted"
            && (bench.world.config.tenant(&acme).asks_for(r) || r.name.as_str().starts_with("posting_"))
    });
    // Children are asked for one by one.
    let pages = |r: &hirelake::catalog::Resource, rows: usize| match r.mode.word() {
        "children" => rows,
        _ => rows.div_ceil(100),
    };
    listings.map(|r| pages(r, bench.truth("acme", r.name.as_str()).len()) as u64).sum()
}

/// Names of the partition files that differ, and of one table only.
fn rewritten(before: &Files, after: &Files, table: &str) -> BTreeSet<String> {
    let folder = format!("lever/{table}/");
    let name = |p: &std::path::PathBuf| p.to_string_lossy().into_owned();
    let changed = after.iter().filter(|(path, bytes)| before.get(*path) != Some(*bytes));
    changed.map(|(path, _)| name(path)).filter(|n| n.starts_with(&folder)).collect()
}

type Files = std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>;

/// A first load of 20,000 opportunities and these look-ups at that latency: no refusal, hardly a request more than the rows ask
/// for, and the bucket's own time with a twentieth and three round trips to spare (at a second a page: a quarter).
async fn load_at(latency_ms: u64, resources: &[&str]) -> Bench {
    let bench = Setup {
        rate: Some(Limit { per_second: 10.0, burst: 20 }),
        latency: Duration::from_millis(latency_ms),
        defaults: if resources.is_empty() { String::new() } else { format!("resources = {resources:?}") },
        ..Setup::new(20_000)
    }
    .start()
    .await;
    bench.connect("acme").await;
    bench.control.reset_stats();
    let began = bench.world.clock.elapsed();
    bench.sync().await;
    let seconds = (bench.world.clock.elapsed() - began).as_secs_f64();
    let stats = bench.control.stats();
    let requests: u64 = stats.requests.values().sum();
    let (asked, bucket) = (asked_for(&bench), (requests - 20) as f64 / 10.0);
    // At a second a page the last windows' own chains are longer than what is left of the bucket's time.
    let (spare, extra) = if latency_ms < 1000 { (1.05, 10) } else { (1.25, 20) };
    let most = spare * bucket + 3.0 * latency_ms as f64 / 1000.0;
    let told = format!(
        "at {latency_ms} ms: {requests} requests, the rows ask for {asked}; {seconds:.2} s, the bucket alone {bucket:.2} s, at most {most:.2} s; {} refusals",
        stats.refused_429
    );
    assert_eq!(stats.refused_429, 0, "{told}");
    assert!(requests <= asked + extra, "{told}");
    assert!(seconds <= most, "{told}");
    bench
}

#[tokio::test(start_paused = true)]
async fn the_bucket_is_all_that_a_load_waits_for_at_any_latency() {
    // The fewer listings go beside it, the less of the bucket is used while the first windows show how dense the records are.
    let few = ["opportunities", "users", "postings", "stages", "archive_reasons", "sources", "tags"];
    for latency_ms in [5, 100, 250, 1000] {
        load_at(latency_ms, &few).await;
        load_at(latency_ms, &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_of_20_000_is_as_fast_as_the_bucket_and_the_next_run_asks_for_200_changes_only() {
    let bench = load_at(250, &[]).await;

    // 200 changes, all of them in two of the years.
    let dump = bench.control.dump("acme", "opportunities").unwrap();
    let year = |o: &serde_json::Value| {
        let created = hirelake::clock::Timestamp::from_ms(o["createdAt"].as_i64().unwrap());
        created.to_string()[..4].to_owned()
    };
    let changed: Vec<_> = dump.iter().filter(|o| ["2022", "2025"].contains(&year(o).as_str())).take(200).collect();
    let years: BTreeSet<String> = changed
        .iter()
        .map(|o| format!("lever/opportunities/tenant=acme/created_year={}/data.parquet", year(o)))
        .collect();
    assert!(!years.is_empty() && changed.len() == 200);
    for o in &changed {
        assert!(bench.control.set_field(
            "acme",
            "opportunities",
            o["id"].as_str().unwrap(),
            "headline",
            json!("Changed"),
            true
        ));
    }
    bench.pass(Duration::from_secs(3600)).await;
    let before = bench.files();
    bench.control.reset_stats();
    let report = bench.sync().await;
    let after = bench.files();
    let stats = bench.control.stats();
    println!("second sync: {:?}", stats.requests);
    assert!(stats.requests["GET /v1/opportunities"] < 10, "{:?}", stats.requests);
    assert_eq!(report.tenants.values().next().unwrap().resources["opportunities"].updated, 200);
    assert_eq!(rewritten(&before, &after, "opportunities"), years);
    assert_eq!(rewritten(&before, &after, "applications"), BTreeSet::new());

    bench.pass(Duration::from_secs(3600)).await;
    let report = bench.sync().await;
    assert_eq!(bench.files(), after, "a run with nothing new rewrote a file");
    assert!(report.summary().contains(r#""partitions_rewritten":0"#), "{}", report.summary());
    println!("third sync: {}", report.summary());
    bench.assert_right("acme").await;
}
