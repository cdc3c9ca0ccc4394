//! How tables are cut into files and which columns they have: changed only on purpose, and never half.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hirelake::report::ExitCode;
use hirelake::sync::{self, Options};
use insta::assert_snapshot;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use crate::bad_input::slow;
use crate::harness::{Bench, Setup, tenant};
use crate::lake::{of, rewritten};

/// Folders of a table's files.
fn folders(bench: &Bench, table: &str) -> Vec<String> {
    let below = Path::new("lever").join(table).join("tenant=acme");
    let of = |p: &Path| p.strip_prefix(&below).ok().map(|p| p.parent().unwrap().display().to_string());
    bench.files().keys().filter_map(|p| of(p)).collect()
}

/// Everything but the order, which another cut changes.
async fn sorted(bench: &Bench) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (table, rows) in bench.everything("acme").await {
        all.extend(rows.iter().map(|r| format!("{table} {r:?}")));
    }
    all.sort();
    all
}

async fn loaded(partitions: &str) -> Bench {
    let mut setup = Setup::new(200);
    setup.config = format!("[partitions]\n{partitions}");
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench
}

#[tokio::test(start_paused = true)]
async fn another_cut_is_refused_until_the_table_is_laid_anew() {
    let defaults = Setup::default().defaults;
    let mut bench = loaded("").await;
    assert_eq!(folders(&bench, "opportunities").len(), 6);
    // A deleted row goes along, too.
    let gone = bench.control.dump("acme", "opportunities").unwrap()[5]["id"].as_str().unwrap().to_owned();
    bench.control.delete_opportunity("acme", &gone);
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    for (wanted, others, label, least) in [
        ("month", "none", "created_month=", 40),
        ("bucket(4)", "bucket(3)", "bucket=", 4),
        ("bucket(7)", "bucket(2)", "bucket=", 7),
        ("year", "year", "created_year=", 6),
    ] {
        let (times, before) = (bench.file_times(), sorted(&bench).await);
        let lines = format!("[partitions]\nopportunities = \"{wanted}\"\napplications = \"{others}\"");
        bench.reconfigure(&defaults, &lines, &[]);
        let only = Options { resources: vec!["opportunities".parse().unwrap()], ..Options::default() };
        let report = bench.sync_with(only).await;
        assert_eq!(report.code.number(), 2, "{wanted}");
        if wanted == "month" {
            let verified =
                hirelake::verify::run(&bench.world, &tenant("acme"), &hirelake::verify::Options::default()).await;
            assert!(verified.unwrap_err().to_string().contains("is cut by `year`"));
            let checked = hirelake::check::run(&(&bench.world).into(), &[]).await;
            let found = checked.checks.iter().find(|c| c.name == "layout").unwrap();
            assert!(
                found.what.contains("is cut by `year`") && checked.code == hirelake::report::ExitCode::Configuration
            );
            assert_snapshot!(report.troubles().join("\n"), @r#"
            error: acme: table opportunities is cut by `year` and the configuration says `month`
            hint: `hirelake relay opportunities` lays it anew; or set [partitions] opportunities back to "year"
            "#);
        }
        assert_eq!(bench.file_times(), times, "nothing was touched");
        for table in ["opportunities", "applications"] {
            let relaid = sync::relay(&bench.world, &table.parse().unwrap()).await.unwrap();
            assert_eq!(relaid.len(), 1, "{table}");
        }
        assert_eq!(sorted(&bench).await, before, "{wanted}");
        let found = folders(&bench, "opportunities");
        assert!(found.iter().all(|f| f.starts_with(label)) && found.len() >= least, "{found:?}");
        bench.pass(Duration::from_secs(60)).await;
        let report = bench.sync().await;
        assert_eq!(rewritten(&report), 0, "{}", report.table());
        bench.control.edit("acme", 10, 9);
        bench.control.add("acme", 2);
        bench.pass(Duration::from_secs(600)).await;
        bench.sync().await;
        bench.assert_right("acme").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_takes_longer_to_read_than_a_hold_lasts_is_laid_anew() {
    let defaults = Setup::default().defaults;
    let mut bench = Setup::new(60).start().await;
    bench.in_memory();
    bench.connect("acme").await;
    bench.sync().await;
    let (lake, state, before) = (bench.world.lake.clone(), bench.world.state.clone(), sorted(&bench).await);
    bench.reconfigure(&defaults, "[partitions]\nopportunities = \"month\"", &[]);
    bench.world.state = state;
    bench.world.lake = slow(&lake, Duration::from_secs(100));
    sync::relay(&bench.world, &"opportunities".parse().unwrap()).await.unwrap();
    bench.world.lake = lake;
    assert_eq!(sorted(&bench).await, before);
}

#[tokio::test(start_paused = true)]
async fn months_and_buckets_from_the_start() {
    let bench = loaded(
        "opportunities = \"month\"\napplications = \"bucket(3)\"\ncontacts = \"bucket(5)\"\nusers = \"bucket(2)\"",
    )
    .await;
    bench.assert_right("acme").await;
    let months = folders(&bench, "opportunities");
    assert!(months.len() > 40 && months.iter().all(|f| f.starts_with("created_month=20")), "{months:?}");
    assert_eq!(folders(&bench, "applications").len(), 3);
    assert_eq!(folders(&bench, "contacts").len(), 5);
    let control = &bench.control;
    control.edit("acme", 20, 2);
    control.add("acme", 3);
    let all = control.dump("acme", "opportunities").unwrap();
    for o in &all[..4] {
        control.delete_opportunity("acme", o["id"].as_str().unwrap());
    }
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").deleted, 4);
    bench.assert_right("acme").await;
    let times = bench.file_times();
    let report = bench.sync_with(Options { full: true, ..Options::default() }).await;
    assert_eq!((report.code, rewritten(&report)), (ExitCode::Done, 0), "{}", report.table());
    assert_eq!(bench.file_times(), times);
}

/// The distinct schemas of a table's files, by the names and types of their columns.
fn schemas(bench: &Bench, table: &str) -> Vec<Vec<String>> {
    let root = bench.dir.path().join("lake");
    let mut all = BTreeSet::new();
    for path in bench.files().into_keys().filter(|p| p.starts_with(format!("lever/{table}/"))) {
        let file = std::fs::File::open(root.join(path)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        all.insert(reader.schema().fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect());
    }
    all.into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_column_comes_into_every_file_at_once() {
    let defaults = Setup::default().defaults;
    let mut bench = loaded("").await;
    let catalog = bench.dir.path().join("catalog");
    std::fs::create_dir(&catalog).unwrap();
    std::fs::write(
        catalog.join("mine.toml"),
        r#"
        [[extend]]
        name = "opportunities"
        columns = [{ name = "favourite_colour", type = "text", sensitive = true }]
        [[extend]]
        name = "contacts"
        columns = [{ name = "pronouns", type = "list<text>" }]
        [[extend]]
        name = "users"
        columns = [{ name = "desk", type = "int" }]
        "#,
    )
    .unwrap();
    let ids: Vec<String> =
        bench.control.dump("acme", "opportunities").unwrap().iter().map(|o| o["id"].as_str().unwrap().into()).collect();
    bench.control.set_field("acme", "opportunities", &ids[3], "favouriteColour", json!("green"), true);
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").drift.len(), 1, "not declared yet");
    assert_eq!(bench.table("acme", "opportunities").await[&ids[3]]["_extra"], r#"{"/favouriteColour":"green"}"#);
    let before = schemas(&bench, "opportunities");
    assert_eq!(before.len(), 1);

    bench.reconfigure(&defaults, "", &[("HIRELAKE_CATALOG", catalog.to_str().unwrap())]);
    bench.control.set_field("acme", "opportunities", &ids[4], "favouriteColour", json!("blue"), true);
    bench.control.set_field(
        "acme",
        "contacts",
        bench.control.dump("acme", "opportunities").unwrap()[4]["contact"].as_str().unwrap(),
        "pronouns",
        json!(["they"]),
        true,
    );
    let user = bench.control.dump("acme", "users").unwrap()[0]["id"].as_str().unwrap().to_owned();
    bench.control.set_field("acme", "users", &user, "desk", json!(12), false);
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert!(of(&report, "opportunities").drift.is_empty());
    for (table, column) in
        [("opportunities", "favourite_colour: Utf8"), ("contacts", "pronouns: List"), ("users", "desk: Int64")]
    {
        let found = schemas(&bench, table);
        assert_eq!(found.len(), 1, "{table}: one glob, one shape");
        assert!(found[0].iter().any(|c| c.starts_with(column)), "{table}: {:?}", found[0]);
    }
    // What there was keeps its place.
    let after = &schemas(&bench, "opportunities")[0];
    let kept: Vec<_> = after.iter().filter(|c| !c.starts_with("favourite_colour")).cloned().collect();
    assert_eq!(kept, before[0]);
    let rows = bench.table("acme", "opportunities").await;
    assert_eq!(rows[&ids[4]]["favourite_colour"], "blue");
    bench.assert_right("acme").await;

    let times = bench.file_times();
    bench.sync().await;
    assert_eq!(bench.file_times(), times, "once is enough");
    // A load from the start brings what went to `_extra` into its column.
    let report = bench.sync_with(Options { full: true, ..Options::default() }).await;
    assert_eq!(report.code, ExitCode::Done);
    let row = &bench.table("acme", "opportunities").await[&ids[3]];
    assert_eq!((row.get("favourite_colour").map(String::as_str), row.get("_extra")), (Some("green"), None));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_no_folder_does_the_same() {
    let mut bench = Setup::new(200).start().await;
    bench.in_memory();
    bench.connect("acme").await;
    bench.sync().await;
    bench.assert_right("acme").await;
    let control = &bench.control;
    control.edit("acme", 20, 2);
    control.add("acme", 3);
    let all = control.dump("acme", "opportunities").unwrap();
    for o in &all[..4] {
        control.delete_opportunity("acme", o["id"].as_str().unwrap());
    }
    control.anonymize("acme", all[9]["id"].as_str().unwrap());
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").deleted, 4);
    bench.assert_right("acme").await;
    let report = bench.sync_with(Options { full: true, ..Options::default() }).await;
    assert_eq!((report.code, rewritten(&report)), (ExitCode::Done, 0), "{}", report.table());
    assert!(bench.files().is_empty(), "nothing went to the folder of the configuration");
}
