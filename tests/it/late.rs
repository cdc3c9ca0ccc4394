//! A run that lost its hold on the tenant and wrote all the same, on a store that could not refuse it.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use futures::StreamExt as _;
use hirelake::disconnect;
use hirelake::report::{ExitCode, Report};
use hirelake::store::{MULTIPART_ABOVE, Store, StoreError, UploadId};
use hirelake::sync;
use hirelake::verify;
use object_store::path::Path;
use object_store::{AttributeValue, Attributes, GetOptions, ObjectStore, ObjectStoreExt as _, PutOptions};

use crate::bad_input::refusing;
use crate::harness::{Bench, Setup, tenant};

const TABLES: [&str; 6] = ["opportunities", "applications", "contacts", "notes", "users", "postings"];

/// A bench whose lake and state are as on the network, and the lake's own store below.
async fn away() -> (Bench, Arc<dyn ObjectStore>) {
    away_above(MULTIPART_ABOVE).await
}

/// The same, where files above so many bytes go in parts.
async fn away_above(bytes: u64) -> (Bench, Arc<dyn ObjectStore>) {
    let mut setup = Setup::new(60);
    setup.accounts[0].years = 3;
    let mut tables = TABLES.map(|t| format!("{t:?}")).join(", ");
    tables += r#", "opportunities_deleted""#;
    setup.defaults += &format!("\nresources = [{tables}]");
    let mut bench = setup.start().await;
    let mut below = None;
    bench.world.state = Store::memory();
    bench.world.lake = Store::memory_with(bytes).wrapped(|inner| {
        below = Some(inner.clone());
        inner
    });
    bench.connect("acme").await;
    (bench, below.unwrap())
}

/// A file as it is, with what its metadata says.
async fn taken(lake: &Arc<dyn ObjectStore>, path: &Path) -> (bytes::Bytes, Attributes) {
    let got = lake.get_opts(path, GetOptions::default()).await.unwrap();
    let attributes = got.attributes.clone();
    (got.bytes().await.unwrap(), attributes)
}

/// The same writer in the same hold, writing once more.
fn another(attributes: &Attributes) -> Attributes {
    let again = |value: &str| format!("{}/{}", value.rsplit_once('/').unwrap().0, uuid::Uuid::now_v7());
    attributes.iter().map(|(name, value)| (name.clone(), AttributeValue::from(again(value)))).collect()
}

async fn files(bench: &Bench) -> Vec<Path> {
    let listed = bench.world.lake.list(&Path::from("lever")).await.unwrap();
    listed.into_iter().map(|e| e.path).collect()
}

/// All files as they are.
async fn all_taken(bench: &Bench, below: &Arc<dyn ObjectStore>) -> Vec<(Path, bytes::Bytes, Attributes)> {
    let mut all = Vec::new();
    for path in files(bench).await {
        let (body, attributes) = taken(below, &path).await;
        all.push((path, body, attributes));
    }
    all
}

fn equal(bench: &Bench, found: &std::collections::BTreeMap<String, serde_json::Value>, table: &str) {
    assert_eq!(found, &bench.truth("acme", table), "{table}");
}

fn late(report: &Report) -> Vec<&String> {
    report.tenants.values().flat_map(|t| &t.notes).filter(|n| n.contains("had lost its hold")).collect()
}

fn gone(report: &Report) -> Vec<&String> {
    report.tenants.values().flat_map(|t| &t.notes).filter(|n| n.contains("removed from the lake")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_late_run_wrote_over_is_read_again_and_the_dead_stay_dead() {
    let (bench, below) = away().await;
    bench.sync().await;
    let old = all_taken(&bench, &below).await;
    let all = bench.control.dump("acme", "opportunities").unwrap();
    let id = |n: usize| all[n]["id"].as_str().unwrap();
    bench.control.edit("acme", 12, 5);
    bench.control.add("acme", 6);
    for n in 0..3 {
        assert!(bench.control.delete_opportunity("acme", id(n)));
    }
    bench.control.anonymize("acme", id(7));
    bench.control.add_user("acme");
    bench.pass(Duration::from_secs(86_400)).await;
    assert!(late(&bench.sync().await).is_empty());

    // All that the first run had put there comes once more, after everything.
    for (path, body, attributes) in old {
        let options = PutOptions { attributes, ..PutOptions::default() };
        below.put_opts(&path, body.into(), options).await.unwrap();
    }
    bench.pass(Duration::from_secs(600)).await;
    let mended = bench.sync().await;
    assert!(
        late(&mended).len() >= 4,
        "{:?}",
        mended.tenants["acme".parse::<hirelake::names::Tenant>().as_ref().unwrap()].notes
    );
    bench.pass(Duration::from_secs(600)).await;
    assert!(late(&bench.sync().await).is_empty(), "it is mended once and for all");
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }
}

#[tokio::test(start_paused = true)]
async fn mending_that_is_cut_anywhere_is_done_by_the_next_run() {
    let (bench, below) = away().await;
    bench.sync().await;
    let old = all_taken(&bench, &below).await;
    let all = bench.control.dump("acme", "opportunities").unwrap();
    for record in &all[..3] {
        assert!(bench.control.delete_opportunity("acme", record["id"].as_str().unwrap()));
    }
    bench.pass(Duration::from_secs(86_400)).await;
    bench.sync().await;

    // A file that is as it was is none of a late run's.
    let mut late = Vec::new();
    for (path, body, attributes) in old {
        if taken(&below, &path).await.0 != body {
            late.push((path, body, attributes));
        }
    }

    // Of some tables only: where the deletions are read again, or all opportunities, the dead go anyway.
    for tables in [&["opportunities"][..], &["notes"], &["opportunities", "notes"], &["contacts", "notes"]] {
        for writes in 0.. {
            for (path, body, attributes) in &late {
                if tables.iter().any(|t| path.as_ref().contains(&format!("/{t}/"))) {
                    let options = PutOptions { attributes: another(attributes), ..PutOptions::default() };
                    below.put_opts(path, body.clone().into(), options).await.unwrap();
                }
            }
            let left = Arc::new(AtomicI64::new(writes));
            let cut = sync::World {
                lake: refusing(&bench.world.lake, &left),
                state: refusing(&bench.world.state, &left),
                ..bench.world.clone()
            };
            let whole = sync::run(&cut, &sync::Options::default()).await.is_ok_and(|r| r.code == ExitCode::Done);
            bench.pass(Duration::from_secs(600)).await;
            bench.sync().await;
            for table in TABLES {
                let found = bench.living("acme", table).await;
                let truth = bench.truth("acme", table);
                let more: Vec<_> = found.keys().filter(|k| !truth.contains_key(*k)).collect();
                let less: Vec<_> = truth.keys().filter(|k| !found.contains_key(*k)).collect();
                assert!(
                    more.is_empty() && less.is_empty(),
                    "{table}; late {tables:?}, cut at write {writes}: {more:?} {less:?}"
                );
                assert_eq!(found, bench.truth("acme", table), "{table}; late {tables:?}, cut at write {writes}");
            }
            if whole {
                assert!(writes > 2, "{writes}");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_is_read_again() {
    let (bench, below) = away().await;
    bench.sync().await;
    for path in files(&bench).await {
        if ["/opportunities/", "/notes/"].iter().any(|t| path.as_ref().contains(t)) {
            below.delete(&path).await.unwrap();
        }
    }
    bench.pass(Duration::from_secs(600)).await;
    assert_eq!(gone(&bench.sync().await).len(), 2);
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_commit_did_not_come_any_more_is_no_late_one() {
    let (bench, _) = away().await;
    bench.sync().await;
    bench.control.edit("acme", 12, 5);
    bench.pass(Duration::from_secs(3600)).await;
    bench.sync().await;
    // As a run leaves it that ends between its files and their commits.
    for table in ["opportunities", "notes"] {
        let line = Path::from(format!("commits/acme/{table}"));
        let mut entries = bench.world.state.list(&line).await.unwrap();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        bench.world.state.remove(&entries[0].path).await.unwrap();
    }
    bench.pass(Duration::from_secs(3600)).await;
    let report = bench.sync().await;
    assert!(late(&report).is_empty());
    let requests = report.tenants[&tenant("acme")].requests;
    assert!(requests < 60, "{requests} requests: it was read anew");
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lake_whose_files_all_go_in_parts_is_right_and_leaves_no_upload() {
    let (bench, _) = away_above(0).await;
    bench.sync().await;
    bench.control.edit("acme", 12, 5);
    bench.control.add_user("acme");
    bench.pass(Duration::from_secs(3600)).await;
    bench.sync().await;
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }
    assert!(bench.state().uploads(&tenant("acme")).await.unwrap().is_empty());

    // What a killed run leaves, here and in a bucket that nobody uses any more.
    let mut staged = bench.world.lake.stage().unwrap();
    std::io::Write::write_all(staged.file(), b"late").unwrap();
    let begun = async |_: &UploadId| Ok::<_, StoreError>(());
    let ready = bench.world.lake.prepare(&Path::from("late"), staged, None, begun).await.unwrap();
    let ours = ready.upload().unwrap().clone();
    let theirs = UploadId { store: "s3://former/lake".into(), ..ours.clone() };
    for (n, upload) in [ours, theirs].iter().enumerate() {
        let note = serde_json::to_vec(upload).unwrap();
        bench.world.state.create(&Path::from(format!("uploads/acme/{n}.json")), note.into()).await.unwrap();
    }
    let told = async || {
        let options = verify::Options::default();
        let verdict = verify::run(&bench.world, &tenant("acme"), &options).await.unwrap();
        verdict.notes.iter().filter(|n| n.contains("unfinished upload")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(told().await.len(), 2);
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    let left = told().await;
    assert!(bench.world.lake.complete(ready).await.is_err(), "what was ended can be completed");
    assert!(left.len() == 1 && left[0].contains("s3://former/lake, which is no longer configured"), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn an_erased_lake_leaves_no_upload_that_could_be_completed() {
    let (bench, below) = away_above(0).await;
    bench.sync().await;
    // A killed run left one of a file that is there, and one of a file that never was.
    let mut killed = Vec::new();
    for path in [files(&bench).await[0].clone(), Path::from("lever/notes/tenant=acme/data.parquet")] {
        let mut staged = bench.world.lake.stage().unwrap();
        std::io::Write::write_all(staged.file(), b"rows of a person").unwrap();
        let begun = async |upload: &UploadId| {
            let note = Path::from(format!("uploads/acme/{}.json", upload.id.replace('/', "-")));
            bench.world.state.create(&note, serde_json::to_vec(upload).unwrap().into()).await.map(|_| ())
        };
        killed.push(bench.world.lake.prepare(&path, staged, None, begun).await.unwrap());
    }
    let former = UploadId { store: "s3://former/lake".into(), ..killed[0].upload().unwrap().clone() };
    let note = serde_json::to_vec(&former).unwrap();
    bench.world.state.create(&Path::from("uploads/acme/former.json"), note.into()).await.unwrap();
    assert_eq!(bench.state().uploads(&tenant("acme")).await.unwrap().len(), 3);

    let done = disconnect::run(&bench.world, &tenant("acme"), true).await.unwrap();
    assert_eq!(done.erased.unwrap().uploads_left, 1);
    insta::assert_snapshot!(done.notes().join("\n"), @"
    note: uploads in parts that a killed run left and that could not be ended, so that their parts hold rows of the tenant still: 1
    hint: `hirelake verify acme` names them; run this again, or end them in the bucket by hand
    ");
    let left = bench.state().uploads(&tenant("acme")).await.unwrap();
    assert!(left.len() == 1 && left[0].1.store == "s3://former/lake", "{left:?}");
    for ready in killed {
        assert!(bench.world.lake.complete(ready).await.is_err(), "what was ended can be completed");
    }
    assert!(below.list(None).collect::<Vec<_>>().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lake_that_is_not_there_is_not_filled_with_what_changed_since() {
    let tables = TABLES.map(|t| format!("{t:?}")).join(", ");
    let mut setup = Setup::new(60);
    setup.defaults += &format!("\nresources = [{tables}, \"opportunities_deleted\"]");
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let (lake, aside) = (bench.dir.path().join("lake"), bench.dir.path().join("aside"));
    std::fs::rename(&lake, &aside).unwrap();
    std::fs::create_dir(&lake).unwrap();
    bench.control.edit("acme", 7, 5);
    bench.pass(Duration::from_secs(3600)).await;
    let report = bench.sync_with(sync::Options::default()).await;
    assert_eq!(report.code, ExitCode::Storage);
    insta::assert_snapshot!(report.troubles().join("\n").replace(&bench.dir.path().display().to_string(), "DIR"), @"
    error: acme: none of the 24 files that were committed of tenant acme are in the lake DIR/lake
    hint: is its volume mounted, and is `lake` right? Nothing was written. To build it anew there: `hirelake sync --full --tenant acme`
    ");
    assert_eq!(std::fs::read_dir(&lake).unwrap().count(), 0);

    // It is mounted again: nothing was lost.
    std::fs::remove_dir(&lake).unwrap();
    std::fs::rename(&aside, &lake).unwrap();
    bench.pass(Duration::from_secs(3600)).await;
    bench.sync().await;
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }

    // Somebody removed some files.
    for path in bench.files().into_keys() {
        if path.starts_with("lever/notes") || path.starts_with("lever/users") {
            std::fs::remove_file(lake.join(path)).unwrap();
        }
    }
    bench.pass(Duration::from_secs(3600)).await;
    let report = bench.sync().await;
    assert_eq!(gone(&report).len(), 2, "{:?}", gone(&report));
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }

    // It is gone for good, and built anew.
    std::fs::remove_dir_all(&lake).unwrap();
    std::fs::create_dir(&lake).unwrap();
    let full = sync::Options { full: true, ..sync::Options::default() };
    assert_eq!(bench.sync_with(full).await.code, ExitCode::Done);
    for table in TABLES {
        equal(&bench, &bench.living("acme", table).await, table);
    }
}
