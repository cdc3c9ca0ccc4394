//! Small tables that are listed whole: nothing is rewritten without need, and what vanishes is asked after before it is
//! believed.

use std::time::Duration;

use hirelake::report::{ExitCode, Outcome};
use hirelake::sync::Options;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::harness::{Bench, Setup};
use crate::lake::{fault, listing, of, rewritten};

async fn loaded() -> Bench {
    let mut setup = Setup::new(60);
    setup.accounts[0].users = 60;
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.pass(Duration::from_secs(600)).await;
    bench.control.reset_stats();
    bench
}

fn rows(bench: &Bench, resource: &str) -> Vec<Value> {
    bench.control.dump("acme", resource).unwrap()
}

fn only(resource: &str) -> Options {
    Options { resources: vec![resource.parse().unwrap()], ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_says_the_same_rewrites_nothing() {
    let bench = loaded().await;
    let (files, times) = (bench.files(), bench.file_times());
    assert!(files.keys().any(|p| p.ends_with("users/tenant=acme/data.parquet")));
    let report = bench.sync().await;
    assert_eq!(of(&report, "users").unchanged, 60);
    assert_eq!(rewritten(&report), 0, "{}", report.table());
    assert!(bench.files() == files && bench.file_times() == times);
    assert_eq!(bench.requests("GET /v1/users/:id"), 0);
}

#[tokio::test(start_paused = true)]
async fn drifting_counts_rewrite_nothing() {
    let bench = loaded().await;
    let times = bench.file_times();
    bench.control.bump_source_counts("acme");
    let report = bench.sync().await;
    assert_eq!(of(&report, "sources").partitions_rewritten, 0);
    assert_eq!(bench.file_times(), times);
}

#[tokio::test(start_paused = true)]
async fn counts_come_along_when_a_row_is_written_anyway() {
    let bench = loaded().await;
    let tag = rows(&bench, "tags")[0]["text"].as_str().unwrap().to_owned();
    bench.control.set_field("acme", "tags", &tag, "count", json!(4321), false);
    bench.control.rename_tag("acme", &tag, "renamed");
    bench.pass(Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert_eq!((of(&report, "tags").inserted, of(&report, "tags").deleted), (1, 1));
    let tags = bench.table("acme", "tags").await;
    assert_eq!(tags["renamed"]["count"], "4321");
    assert!(tags[&tag].contains_key("_deleted_at"));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_user_who_is_gone_is_asked_for_once_and_deleted() {
    let bench = loaded().await;
    let user = rows(&bench, "users")[7]["id"].as_str().unwrap().to_owned();
    assert!(bench.control.remove_user("acme", &user));
    let report = bench.sync().await;
    assert_eq!(of(&report, "users").deleted, 1);
    assert_eq!(bench.requests("GET /v1/users/:id"), 1);
    assert!(bench.table("acme", "users").await[&user].contains_key("_deleted_at"));
    bench.assert_right("acme").await;
    // It is not asked for again.
    bench.sync().await;
    assert_eq!(bench.requests("GET /v1/users/:id"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_whom_the_listing_skipped_is_kept() {
    let bench = loaded().await;
    let mut users = rows(&bench, "users");
    let hidden = users.remove(3)["id"].as_str().unwrap().to_owned();
    bench.control.fault(fault("GET /v1/users$", 0, 1, listing(&users)));
    let times = bench.file_times();
    let report = bench.sync().await;
    assert_eq!(of(&report, "users").deleted, 0);
    assert_eq!(
        of(&report, "users").notes,
        ["rows that the listing skipped and that are still there by their id, so they were kept: 1"]
    );
    assert_eq!(bench.requests("GET /v1/users/:id"), 1);
    assert!(!bench.table("acme", "users").await[&hidden].contains_key("_deleted_at"));
    assert_eq!(bench.file_times(), times);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_fails_deletes_nobody() {
    let bench = loaded().await;
    let mut users = rows(&bench, "users");
    users.truncate(58);
    bench.control.fault(fault("GET /v1/users$", 0, 1, listing(&users)));
    bench.control.fault(fault(
        "GET /v1/users/:id",
        0,
        0,
        hirelake::sandbox::Action::Status { code: 403, body: None, retry_after: None },
    ));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    assert_eq!(of(&report, "users").outcome, Outcome::Failed);
    assert_eq!(bench.living("acme", "users").await.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_address_of_its_own_is_listed_a_second_time() {
    let bench = loaded().await;
    let mut sources = rows(&bench, "sources");
    let gone = sources.remove(2)["text"].as_str().unwrap().to_owned();
    // Missing once: a slip of the listing.
    bench.control.fault(fault("GET /v1/sources", 0, 1, listing(&sources)));
    let report = bench.sync().await;
    assert_eq!(of(&report, "sources").deleted, 0);
    assert_eq!(bench.requests("GET /v1/sources"), 2);
    assert!(!bench.table("acme", "sources").await[&gone].contains_key("_deleted_at"));
    // Missing twice: gone.
    bench.control.fault(fault("GET /v1/sources", 0, 2, listing(&sources)));
    let report = bench.sync().await;
    assert_eq!(of(&report, "sources").deleted, 1);
    assert_eq!(bench.requests("GET /v1/sources"), 4);
    assert!(bench.table("acme", "sources").await[&gone].contains_key("_deleted_at"));
    // And back: alive.
    bench.pass(Duration::from_secs(60)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn many_that_vanish_at_once_are_not_believed_unless_told_so() {
    let bench = loaded().await;
    let users = rows(&bench, "users");
    for user in &users[20..45] {
        bench.control.remove_user("acme", user["id"].as_str().unwrap());
    }
    let times = bench.file_times();
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code.number(), 3);
    assert_snapshot!(report.troubles().join("\n"), @r"
    error: acme/users: tenant acme: 25 of 60 rows of users are missing from its listing, which is more than a fifth: nothing was deleted
    hint: if they were really deleted, run once with --allow-mass-delete; else the listing was wrong
    ");
    assert_eq!(bench.requests("GET /v1/users/:id"), 0, "nobody is asked for");
    assert_eq!(bench.file_times(), times);
    assert_eq!(of(&report, "stages").outcome, Outcome::Done, "the others go on");
    let report = bench.sync_with(Options { allow_mass_delete: true, ..only("users") }).await;
    assert_eq!((report.code, of(&report, "users").deleted), (ExitCode::Done, 25));
    assert_eq!(bench.requests("GET /v1/users/:id"), 25);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_requisition_changes_without_its_time_changing() {
    let bench = loaded().await;
    let requisitions = rows(&bench, "requisitions");
    let some = requisitions.iter().find(|r| r["headcountHired"].is_i64()).unwrap();
    let (id, hired) = (some["id"].as_str().unwrap(), some["headcountHired"].as_i64().unwrap());
    bench.control.edit_requisition("acme", id, false);
    let report = bench.sync().await;
    assert_eq!(of(&report, "requisitions").updated, 1);
    assert_eq!(bench.table("acme", "requisitions").await[id]["headcount_hired"], (hired + 1).to_string());
    bench.assert_right("acme").await;
    bench.control.edit_requisition("acme", id, true);
    bench
        .control
        .remove_requisition("acme", requisitions.iter().rfind(|r| r["id"] != id).unwrap()["id"].as_str().unwrap());
    let report = bench.sync().await;
    assert_eq!((of(&report, "requisitions").updated, of(&report, "requisitions").deleted), (1, 1));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn users_who_were_deactivated_stay_and_say_so() {
    let bench = loaded().await;
    let users = rows(&bench, "users");
    let active = users.iter().find(|u| u["deactivatedAt"].is_null()).unwrap()["id"].as_str().unwrap();
    bench.control.deactivate_user("acme", active);
    let added = bench.control.add_user("acme").unwrap();
    let report = bench.sync().await;
    assert_eq!((of(&report, "users").updated, of(&report, "users").inserted, of(&report, "users").deleted), (1, 1, 0));
    let lake = bench.table("acme", "users").await;
    assert!(lake[active]["deactivated_at"].starts_with("2026-06-15T08:1"));
    assert!(lake.contains_key(&added));
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_backfill_says_nothing_about_listings() {
    let bench = loaded().await;
    let now = bench.world.clock.now();
    let window = hirelake::state::Window::new(Some(now.minus(Duration::from_secs(3600))), now);
    let report = bench.sync_with(Options { backfill: Some(window), ..Options::default() }).await;
    assert_eq!(report.code, ExitCode::Done, "{}", report.troubles().join("\n"));
    assert_eq!(bench.requests("GET /v1/users"), 0);
    assert_eq!(bench.requests("GET /v1/users/:id") + bench.requests("GET /v1/sources"), 0);
    bench.assert_right("acme").await;
}
