//! Pages: tokens passed on as they are, listings that move while they are read, rows that do not fit.

use std::time::Duration;

use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::{AccountSize, Action};
use hirelake::sync::Options;
use serde_json::json;

use crate::harness::{Bench, Setup, fault, files, plain};

const USERS: &str = "GET /v1/users$";

/// An account with three pages of users.
async fn bench() -> Bench {
    let size = AccountSize { users: 250, ..AccountSize::new("acme", 40) };
    let bench = Setup { accounts: vec![size], ..Setup::default() }.start().await;
    bench.connect("acme").await;
    bench
}

async fn users(bench: &Bench) -> (Report, u64) {
    bench.control.reset_stats();
    let report = bench.sync_with(Options { resources: vec!["users".parse().unwrap()], ..Options::default() }).await;
    (report, bench.control.stats().requests["GET /v1/users"])
}

fn told(bench: &Bench, report: &Report) -> String {
    plain(&report.troubles().join("\n"), bench.dir.path())
}

#[tokio::test(start_paused = true)]
async fn tokens_are_passed_on_as_they_are() {
    let bench = bench().await;
    let (report, asked) = users(&bench).await;
    assert_eq!((report.code, asked), (ExitCode::Done, 3), "{}", told(&bench, &report));
    assert_eq!(bench.control.stats().statuses.keys().copied().collect::<Vec<_>>(), [200]);
    bench.assert_table("acme", "users").await;
    assert_eq!(bench.living("acme", "users").await.len(), 250);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_repeats_or_lacks_ends_the_window_and_nothing_of_it_is_kept() {
    let bench = bench().await;
    let mut said = String::new();
    for (action, most) in [(Action::RepeatNext, 2), (Action::MissingNext, 1)] {
        bench.control.fault(fault(USERS, 0, 1, action));
        let (report, asked) = users(&bench).await;
        assert_eq!((report.code, asked), (ExitCode::Partial, most));
        assert!(bench.files().is_empty());
        said += &format!("{}\n", told(&bench, &report));
    }
    insta::assert_snapshot!(said, @"
    error: acme/users: tenant acme: the pages of users make no sense at page 2: a page token came a second time
    hint: run again; what was read before this window is safe. If it stays, report it to the provider
    error: acme/users: tenant acme: the pages of users make no sense at page 1: it says that there is more and gives no token for it
    hint: run again; what was read before this window is safe. If it stays, report it to the provider
    ");
    let (report, _) = users(&bench).await;
    assert_eq!(report.code, ExitCode::Done);
    bench.assert_table("acme", "users").await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_token_restarts_its_window_once() {
    let bench = bench().await;
    bench.control.fault(fault(USERS, 1, 1, Action::StaleOffset));
    let (report, asked) = users(&bench).await;
    assert_eq!((report.code, asked), (ExitCode::Done, 2 + 1 + 3), "{}", told(&bench, &report));
    bench.assert_table("acme", "users").await;
    assert_eq!(bench.living("acme", "users").await.len(), 250);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_always_stale_fail_their_window() {
    let bench = bench().await;
    bench.control.fault(fault(USERS, 0, 0, Action::StaleOffset));
    let (report, asked) = users(&bench).await;
    assert_eq!((report.code, asked), (ExitCode::Partial, 4));
    assert!(bench.files().is_empty());
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme/users: tenant acme: the pages of users make no sense at page 2: a page token was refused again after the window had begun anew (400)
    hint: run again; what was read before this window is safe. If it stays, report it to the provider
    ");
}

#[tokio::test(start_paused = true)]
async fn a_row_on_two_pages_is_one_row() {
    let bench = bench().await;
    bench.control.fault(fault(USERS, 0, 1, Action::DuplicateRow));
    let (report, _) = users(&bench).await;
    assert_eq!(report.code, ExitCode::Done);
    assert_eq!(report.tenants.values().next().unwrap().resources["users"].records, 251);
    bench.assert_table("acme", "users").await;
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_reorders_while_it_is_read_is_right_after_the_next_run() {
    let mut size = AccountSize::new("acme", 700);
    // All of them within a year: windows of several pages each.
    size.years = 1;
    let bench = Setup { accounts: vec![size], ..Setup::default() }.start().await;
    bench.connect("acme").await;
    bench.control.churn("acme", Some(1));
    bench.sync().await;
    assert!(bench.control.stats().requests["GET /v1/opportunities"] > 7);
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    bench.control.churn("acme", None);
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_decoded_is_sealed_and_counted_and_the_others_are_loaded() {
    // All within a year, so that the newest window has records.
    let size = AccountSize { years: 1, ..AccountSize::new("acme", 120) };
    let bench = Setup { accounts: vec![size], ..Setup::default() }.start().await;
    bench.connect("acme").await;
    for (table, route, action) in [
        ("users", USERS, Action::NoKey),
        ("postings", "GET /v1/postings$", Action::BadRow),
        ("opportunities", "GET /v1/opportunities$", Action::NoKey),
    ] {
        bench.control.fault(fault(route, 0, 1, action));
        let report = bench.sync_with(Options { resources: vec![table.parse().unwrap()], ..Options::default() }).await;
        assert_eq!(report.code, ExitCode::Done, "{}", told(&bench, &report));
        let r = &report.tenants.values().next().unwrap().resources[table];
        let (lake, truth) = (bench.living("acme", table).await, bench.truth("acme", table));
        assert_eq!((r.quarantined, lake.len() + 1), (1, truth.len()), "{table}");
        for (key, row) in &lake {
            assert_eq!(row, &truth[key], "{table}");
        }
        let said = told(&bench, &report);
        assert_eq!(said, format!("note: acme/{table}: 1 records could not be decoded; they are sealed in quarantine"));
    }
    // Sealed: nothing of a user's record can be read there.
    let sealed = files(&bench.dir.path().join("state/quarantine"));
    assert_eq!(sealed.len(), 3, "{:?}", sealed.keys());
    for (path, bytes) in &sealed {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("example.com") && !text.contains("createdAt"), "{} is readable", path.display());
    }
    // What a listing always brings comes back by itself; what only a change brings, with its next change.
    for opportunity in bench.truth("acme", "opportunities").keys() {
        bench.control.edit_application("acme", opportunity);
    }
    bench.pass(Duration::from_secs(600)).await;
    for posting in bench.truth("acme", "postings").keys() {
        bench.control.edit_posting("acme", posting);
    }
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_record_in_quarantine_is_not_taken_for_a_deleted_one() {
    let bench = bench().await;
    bench.sync().await;
    for (route, action) in
        [(USERS, Action::NoKey), ("GET /v1/stages$", Action::BadRow), ("GET /v1/tags$", Action::BadRow)]
    {
        bench.control.fault(fault(route, 0, 1, action));
    }
    let report = bench.sync().await;
    let tenant = report.tenants.values().next().unwrap();
    for table in ["users", "stages", "tags"] {
        let r = &tenant.resources[table];
        assert_eq!((r.quarantined, r.deleted), (1, 0), "{table}");
    }
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn surprises_are_kept_and_counted_by_type_and_never_told_by_value() {
    let bench = bench().await;
    let id = bench.truth("acme", "opportunities").keys().next().unwrap().clone();
    let user = bench.truth("acme", "users").keys().next().unwrap().clone();
    let set = |table: &str, id: &str, field: &str, value| {
        assert!(bench.control.set_field("acme", table, id, field, value, true))
    };
    set("opportunities", &id, "favouriteColour", json!("canary-blue"));
    set("opportunities", &id, "headline", json!({"now": "canary-struct"}));
    set("opportunities", &id, "snoozedUntil", json!("canary-soon"));
    set(
        "opportunities",
        &id,
        "archived",
        json!({"archivedAt": 1_700_000_000_000_i64, "reason": null, "mood": "canary-mood"}),
    );
    set("opportunities", &id, "tags", json!(["a", 5, {"b": "canary-tag"}]));
    set("users", &user, "email", json!(["canary-mail"]));
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    assert!(!report.json().contains("canary"), "{}", report.json());
    let tenant = report.tenants.values().next().unwrap();
    let drift: Vec<String> = tenant
        .resources
        .iter()
        .flat_map(|(name, r)| {
            r.drift.iter().map(move |d| format!("{name}: {} {} {} {}", d.kind, d.place, d.found, d.count))
        })
        .collect();
    insta::assert_snapshot!(drift.join("\n"), @"
    opportunities: undeclared /archived/mood string 1
    opportunities: undeclared /favouriteColour string 1
    opportunities: misfit /headline object 1
    opportunities: misfit /snoozedUntil string 1
    opportunities: misfit /tags/* integer 1
    opportunities: misfit /tags/* object 1
    users: misfit /email array 1
    ");
    insta::assert_snapshot!(told(&bench, &report), @"
    note: acme/opportunities: fields that the catalogue does not expect, kept in _extra: undeclared /archived/mood string ×1, undeclared /favouriteColour string ×1, misfit /headline object ×1, misfit /snoozedUntil string ×1, misfit /tags/* integer ×1
    note: acme/users: fields that the catalogue does not expect, kept in _extra: misfit /email array ×1
    ");
}
