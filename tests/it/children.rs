//! Children of opportunities and postings: read for parents that changed, and for the others in turn; nothing is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use hirelake::report::{ExitCode, Outcome, ParentsReport, Report};
use hirelake::sandbox::{Action, Control, Limit};
use hirelake::sync::Options;
use hirelake::verify;

use crate::harness::{Bench, Setup};
use crate::lake::of;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTES: Duration = Duration::from_secs(600);
const OF_OPPORTUNITIES: [&str; 10] =
    ["feedback", "files", "file_actions", "interviews", "notes", "offers", "panels", "referrals", "resumes", "forms"];

/// A sandbox whose tenants read these tables beside opportunities.
fn reading(opportunities: usize, children: &[&str], more: &str) -> Setup {
    let mut setup = Setup::new(opportunities);
    let all: Vec<String> =
        ["opportunities", "postings"].iter().chain(children).map(|name| format!("\"{name}\"")).collect();
    setup.defaults += &format!("\nresources = [{}]\n{more}", all.join(", "));
    setup
}

fn parents<'r>(report: &'r Report, table: &str) -> &'r ParentsReport {
    of(report, table).parents.as_ref().unwrap()
}

/// Requests by route, as the provider counted them.
fn asked(control: &Control, table: &str) -> u64 {
    control.stats().requests.get(&format!("GET /v1/opportunities/:id/{table}")).copied().unwrap_or(0)
}

async fn assert_children(bench: &Bench, tables: &[&str]) {
    for table in tables {
        bench.assert_table("acme", table).await;
    }
}

#[tokio::test(start_paused = true)]
async fn children_come_back_equal_after_a_load_edits_and_deletions() {
    let bench = reading(60, &OF_OPPORTUNITIES, "reconcile = { nights = 2, active_nights = 1 }").start().await;
    bench.connect("acme").await;
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    for table in OF_OPPORTUNITIES {
        assert!(of(&report, table).rows > 0, "{table} is empty, and so shows nothing");
        assert_eq!(parents(&report, table).changed, 60, "{table}");
        assert_eq!(of(&report, table).requests, asked(&bench.control, table), "{table}");
    }

    // What bumps the parent is there after the next sync.
    let control = &bench.control;
    for (i, table) in ["feedback", "files", "interviews", "notes", "resumes"].into_iter().enumerate() {
        assert_eq!(control.add_children("acme", table, 3, i as u64).len(), 3, "{table}");
    }
    bench.pass(MINUTES).await;
    control.reset_stats();
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    let changed = parents(&report, "notes").changed;
    assert!((3..=15).contains(&changed), "{changed} parents of 60 were to be asked");
    assert_eq!(changed, asked(control, "notes"), "and nobody else");
    assert_eq!(parents(&report, "notes").reconciled, 0, "minutes after the first load it is nobody's turn");

    // What does not is there when its parent's turn has come.
    for (i, table) in ["feedback", "offers", "forms", "referrals", "panels", "interviews"].into_iter().enumerate() {
        assert_eq!(control.edit_children("acme", table, 2, i as u64, Some(false)).len(), 2, "{table}");
    }
    for (i, table) in ["files", "interviews", "notes"].into_iter().enumerate() {
        assert_eq!(control.delete_children("acme", table, 2, i as u64, true).len(), 2, "{table}");
    }
    for night in 1..=2 {
        bench.pass(DAY).await;
        let report = bench.sync().await;
        let p = parents(&report, "notes");
        assert!(p.reconciled > 0 && p.reconciled < 60, "night {night}: {p:?}");
        assert!(report.ended.since(p.stalest.unwrap()) <= 2 * DAY + MINUTES, "{p:?}");
    }
    bench.assert_right("acme").await;

    // A run after that with nothing new writes nothing.
    bench.pass(MINUTES).await;
    let files = bench.file_times();
    bench.sync().await;
    assert_eq!(bench.file_times(), files);
}

#[tokio::test(start_paused = true)]
async fn children_go_with_their_parent_and_are_blank_when_it_is() {
    for on in ["redact", "remove"] {
        let bench = reading(60, &OF_OPPORTUNITIES, &format!("on_delete = \"{on}\"")).start().await;
        bench.connect("acme").await;
        bench.sync().await;
        let people = bench.control.dump("acme", "opportunities").unwrap();
        let has_all = |id: &str| {
            ["resumes", "notes"]
                .iter()
                .all(|t| bench.control.children("acme", t).unwrap().iter().any(|c| c.parent_id == id))
        };
        let two: Vec<String> = people
            .iter()
            .filter(|o| o["isAnonymized"] != true)
            .map(|o| o["id"].as_str().unwrap().to_owned())
            .filter(|id| has_all(id))
            .take(2)
            .collect();
        bench.pass(MINUTES).await;
        assert!(bench.control.delete_opportunity("acme", &two[0]));
        assert!(bench.control.anonymize("acme", &two[1]));
        bench.pass(MINUTES).await;
        let report = bench.sync().await;
        bench.assert_right("acme").await;
        assert!(of(&report, "notes").deleted > 0, "{}", report.table());
        assert_eq!(parents(&report, "notes").gone, 0, "a parent that is known to be deleted is not asked");
        for table in OF_OPPORTUNITIES {
            let resource = bench.resource(table);
            for row in bench.everything("acme").await.remove(table).unwrap_or_default() {
                if row.get("opportunity_id") != Some(&two[0]) {
                    continue;
                }
                assert_eq!(on, "redact", "{table}: {row:?}");
                assert!(row.contains_key("_deleted_at"), "{table}: {row:?}");
                for c in resource.columns.iter().filter(|c| c.sensitive) {
                    assert!(!row.contains_key(&c.name), "{table}.{} is still there", c.name);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn children_of_postings_and_answers_without_a_key_come_back_equal() {
    let tables = ["users", "posting_forms", "posting_users", "surveys_diversity", "eeo_responses", "eeo_responses_pii"];
    let bench = reading(80, &tables, "reconcile = { nights = 3, active_nights = 3 }").start().await;
    bench.connect("acme").await;
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    for table in tables {
        assert!(of(&report, table).rows > 0, "{table} is empty, and so shows nothing");
    }
    let posting = bench.control.dump("acme", "postings").unwrap()[0]["id"].as_str().unwrap().to_owned();
    assert!(bench.control.edit_posting_child("acme", "posting_apply", &posting, None));
    assert!(bench.control.edit_posting("acme", &posting));
    bench.control.add("acme", 5);
    bench.pass(MINUTES).await;
    bench.sync().await;
    bench.assert_right("acme").await;
    let gone = bench.control.dump("acme", "postings").unwrap()[1]["id"].as_str().unwrap().to_owned();
    let answered = bench.control.dump("acme", "eeo_responses_pii").unwrap();
    let person = answered[0]["opportunityId"].as_str().unwrap();
    assert!(bench.control.delete_posting("acme", &gone) && bench.control.delete_opportunity("acme", person));
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    assert!(
        of(&report, "posting_forms").deleted == 1 && of(&report, "eeo_responses").deleted >= 1,
        "{}",
        report.table()
    );
    // What changes without its parent has its turn.
    let posting = bench.control.dump("acme", "postings").unwrap()[2]["id"].as_str().unwrap().to_owned();
    assert!(bench.control.edit_posting_child("acme", "posting_users", &posting, None));
    for _ in 0..3 {
        bench.pass(DAY).await;
        bench.sync().await;
    }
    bench.assert_right("acme").await;
    bench.pass(MINUTES).await;
    let files = bench.file_times();
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert_eq!(bench.file_times(), files, "equal answers are not rewritten");
}

/// A night in which few parents changed costs what they cost, and a share of the rest that is counted apart.
async fn a_night(opportunities: usize, touched: usize) -> String {
    let children = ["feedback", "files", "interviews", "notes", "offers", "referrals", "resumes", "forms"];
    let mut setup = reading(opportunities, &children, "reconcile = { nights = 30, active_nights = 10 }");
    setup.defaults = setup.defaults.replace("rate = { per_second = 1000.0, burst = 1000 }", "");
    setup.rate = Some(Limit { per_second: 10.0, burst: 20 });
    let bench = setup.start().await;
    bench.connect("acme").await;
    let first = bench.sync().await;
    assert_children(&bench, &children).await;
    bench.pass(DAY).await;
    let edited = bench.control.edit("acme", touched, 7);
    assert_eq!(edited.len(), touched);
    bench.pass(MINUTES).await;
    bench.control.reset_stats();
    let report = bench.sync().await;
    assert_children(&bench, &children).await;
    let stats = bench.control.stats();
    let all: u64 = stats.requests.iter().filter(|(r, _)| r.starts_with("GET")).map(|(_, n)| n).sum();
    let reconcile: u64 = children.iter().map(|t| parents(&report, t).reconcile_requests).sum();
    let share: u64 = children.iter().map(|t| parents(&report, t).reconciled).sum();
    let most = children.len() as u64 * (opportunities as u64 / 10 + 1);
    let told = format!(
        "{opportunities} opportunities: first load {} requests; a night with {touched} changed: {all} requests, {reconcile} of them for {share} parents in turn (at most {most}); a full walk: {}",
        first.tenants.values().next().unwrap().requests,
        opportunities * children.len(),
    );
    assert!(all - reconcile <= (touched * children.len()) as u64 + 60, "{all} - {reconcile}");
    assert!(share <= most, "{share}");
    assert_eq!(stats.refused_429, 0);
    assert_eq!(report.tenants.values().next().unwrap().requests, all, "the report counts as the provider does");
    for table in children {
        assert_eq!(of(&report, table).requests, asked(&bench.control, table), "{table}");
    }
    told
}

#[tokio::test(start_paused = true)]
async fn a_night_costs_what_its_changed_parents_cost() {
    println!("{}", a_night(2_000, 50).await);
}

/// Once, by `make scale`: it takes minutes.
#[tokio::test(start_paused = true)]
#[ignore = "50,000 opportunities: `make scale`"]
async fn scale_a_night_of_fifty_thousand() {
    println!("{}", a_night(50_000, 500).await);
}

/// A first load under deadlines, run again and again, asks hardly more than one that has the time.
async fn under_deadlines(opportunities: usize, deadline: Duration) -> String {
    let children = ["feedback", "files", "interviews", "notes", "offers", "referrals", "resumes", "forms"];
    let start = async || {
        let mut setup = reading(opportunities, &children, "");
        setup.defaults = setup.defaults.replace("rate = { per_second = 1000.0, burst = 1000 }", "");
        setup.rate = Some(Limit { per_second: 10.0, burst: 20 });
        let bench = setup.start().await;
        bench.connect("acme").await;
        bench
    };
    let requests = |bench: &Bench| -> u64 {
        bench.control.stats().requests.iter().filter(|(r, _)| r.starts_with("GET")).map(|(_, n)| n).sum()
    };
    let whole = start().await;
    whole.sync().await;
    let bench = start().await;
    let mut runs = 0;
    loop {
        runs += 1;
        let report = bench.sync_with(Options { deadline: Some(deadline), ..Options::default() }).await;
        if report.code == ExitCode::Done {
            break;
        }
        assert_eq!(report.code, ExitCode::Stopped, "{}", report.troubles().join("\n"));
        assert!(report.ended.since(report.started) <= deadline + Duration::from_secs(20), "it ended in time");
        let told = report.troubles().join("\n");
        assert!(runs > 1 || told.contains("goes on there"), "{told}");
        assert!(runs < 100);
    }
    assert_children(&bench, &children).await;
    let (one, many) = (requests(&whole), requests(&bench));
    assert!(runs >= 3, "{runs}");
    assert!(many * 100 <= one * 101, "{many} against {one}");
    format!("{opportunities} opportunities: {one} requests in one run, {many} in {runs} runs of {deadline:?}")
}

#[tokio::test(start_paused = true)]
async fn a_load_under_deadlines_asks_hardly_more_than_one_that_has_the_time() {
    println!("{}", under_deadlines(2_000, MINUTES).await);
}

#[tokio::test(start_paused = true)]
#[ignore = "50,000 opportunities: `make scale`"]
async fn scale_a_load_under_deadlines_of_an_hour() {
    println!("{}", under_deadlines(50_000, Duration::from_secs(3600)).await);
}

#[tokio::test(start_paused = true)]
async fn edits_that_leave_the_parent_alone_are_in_the_lake_within_the_nights() {
    let nights = 7;
    let more = format!("reconcile = {{ nights = {nights}, active_nights = 3 }}");
    let bench = reading(90, &["feedback", "offers"], &more).start().await;
    bench.connect("acme").await;
    bench.sync().await;
    // Weeks in which something is edited every day. What a record said at the end of a day is there a week later.
    let mut days: Vec<BTreeMap<String, String>> = Vec::new();
    for night in 0..28_u64 {
        let mut today = BTreeMap::new();
        for table in ["feedback", "offers"] {
            for touched in bench.control.edit_children("acme", table, 4, night, Some(false)) {
                let of = |c: &hirelake::sandbox::ChildRecord| c.record["id"] == touched.id.as_str();
                let all = bench.control.children("acme", table).unwrap();
                let record = all.into_iter().find(of).unwrap().record;
                today.insert(touched.id, format!("{table} {}", crate::harness::without_nulls(&record)));
            }
        }
        days.push(today);
        bench.pass(DAY - MINUTES).await;
        let report = bench.sync().await;
        let share = parents(&report, "feedback").reconciled;
        assert!(share <= 90_u64.div_ceil(nights) + 30, "night {night}: {share}");
        bench.pass(MINUTES).await;
        let Some(old) = days.len().checked_sub(nights as usize) else { continue };
        let later: BTreeMap<&String, &String> = days[old + 1..].iter().flatten().collect();
        let mut lake = BTreeMap::new();
        for table in ["feedback", "offers"] {
            for (id, mut row) in bench.living("acme", table).await {
                row.as_object_mut().unwrap().remove("opportunityId");
                lake.insert(id, format!("{table} {row}"));
            }
        }
        for (id, said) in days[old].iter().filter(|(id, _)| !later.contains_key(id)) {
            assert_eq!(&lake[id], said, "night {night}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn documents_are_downloaded_once_and_go_with_what_they_belong_to() {
    let tables = ["files", "resumes", "offers", "file_contents", "resume_contents", "offer_contents"];
    let (acme, nothing) = (crate::harness::tenant("acme"), verify::Options::default());
    let bench = reading(60, &tables, "").start().await;
    bench.connect("acme").await;
    // A third of the documents lies elsewhere, where no credential may go.
    bench.control.redirect_downloads(Some(3));
    bench.sync().await;
    let stats = bench.control.stats();
    assert_eq!(stats.credentials_at_storage, 0, "a credential went to where documents lie");
    let documents = || -> BTreeMap<String, Vec<u8>> {
        let all = bench.files().into_iter().map(|(p, bytes)| (p.to_str().unwrap().to_owned(), bytes));
        all.filter(|(p, _)| p.starts_with("files/")).collect()
    };
    let rows = async |table: &str| bench.everything("acme").await.remove(table).unwrap_or_default();
    let mut stored = BTreeMap::new();
    for table in ["file_contents", "resume_contents", "offer_contents"] {
        for row in rows(table).await {
            match row["status"].as_str() {
                "stored" => drop(stored.insert(row["path"].clone(), row)),
                status => assert!(["unprocessable", "missing"].contains(&status), "{row:?}"),
            }
        }
    }
    let there = documents();
    assert!(there.len() > 30, "{}", there.len());
    assert_eq!(there.keys().collect::<Vec<_>>(), stored.keys().collect::<Vec<_>>());
    for (path, bytes) in &there {
        use sha2::Digest as _;
        let sha256: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(stored[path]["sha256"], sha256, "{path}");
        assert_eq!(stored[path]["bytes"], bytes.len().to_string(), "{path}");
    }
    assert_eq!(rows("file_contents").await.len(), rows("files").await.len(), "a row tells of each");

    // Once: the next run asks for none again.
    bench.pass(MINUTES).await;
    bench.control.reset_stats();
    let report = bench.sync().await;
    assert_eq!(of(&report, "file_contents").requests, 0, "{}", report.table());
    assert_eq!(documents(), there);

    // What is lost, cut or put there by somebody else is found, and comes back.
    let lake = bench.dir.path().join("lake");
    let (one, two) = (there.keys().next().unwrap(), there.keys().nth(1).unwrap());
    std::fs::remove_file(lake.join(one)).unwrap();
    std::fs::write(lake.join(two), "%PDF cut").unwrap();
    std::fs::write(lake.join(two).with_extension("odd"), "nobody's").unwrap();
    let judged = || verify::run(&bench.world, &acme, &nothing);
    let found = judged().await.unwrap().findings;
    let whats: Vec<&str> = found.iter().map(|f| f.what.as_str()).collect();
    for what in ["documents are not there", "documents are not what their rows tell", "a document that no row names"] {
        assert!(whats.contains(&what), "{what}: {whats:?}");
    }
    bench.pass(MINUTES).await;
    bench.control.reset_stats();
    bench.sync().await;
    assert_eq!(documents(), there);
    assert_eq!(judged().await.unwrap().findings, []);

    // Who is deleted has no document left, also where the run does not come to the documents.
    let hasty = bench.control.children("acme", "resumes").unwrap().remove(1).parent_id;
    bench.pass(MINUTES).await;
    assert!(bench.control.delete_opportunity("acme", &hasty));
    bench.control.edit("acme", 60, 7);
    bench.pass(MINUTES).await;
    let few = Options { max_requests: Some(14), ..Options::default() };
    let report = bench.sync_with(few).await;
    assert_eq!(of(&report, "resume_contents").outcome, Outcome::Stopped, "{}", report.table());
    assert!(there.keys().any(|p| p.contains(&hasty)) && !documents().keys().any(|p| p.contains(&hasty)));

    // A file that is deleted and a person who is: the documents go, whatever the rows do.
    let gone = bench.control.delete_children("acme", "files", 1, 5, true).remove(0);
    let person = bench.control.children("acme", "resumes").unwrap().remove(0).parent_id;
    bench.control.edit("acme", 60, 1);
    bench.pass(MINUTES).await;
    assert!(bench.control.delete_opportunity("acme", &person));
    bench.pass(MINUTES).await;
    bench.sync().await;
    let left = documents();
    assert!(!left.keys().any(|p| p.contains(&gone.id)), "{}", gone.id);
    assert!(!left.keys().any(|p| p.contains(&person)), "{person}");
    assert!(left.len() < there.len());
    for table in ["file_contents", "resume_contents", "offer_contents"] {
        for row in rows(table).await.iter().filter(|r| r.contains_key("_deleted_at")) {
            assert!(!row.contains_key("path") && !row.contains_key("sha256"), "{row:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_parent_that_fails_or_is_withheld_keeps_no_other_back() {
    use crate::harness::fault;
    use hirelake::sandbox::Action;
    let status = |code| Action::Status { code, body: None, retry_after: None };
    let bench = reading(40, &["notes"], "").start().await;
    bench.connect("acme").await;
    let route = "GET /v1/opportunities/:id/notes";

    bench.control.fault(fault(route, 7, 1, status(400)));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    let told = report.troubles().join("\n");
    assert!(told.contains("the children of 1 of 40 parents of notes could not be read"), "{told}");
    assert_eq!((parents(&report, "notes").changed, parents(&report, "notes").failed), (39, 1));
    bench.control.clear_faults();
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert_eq!(parents(&report, "notes").changed, 1, "only that one was still due");
    bench.assert_right("acme").await;

    // Refused alone it is withheld, and not asked for every night.
    bench.control.fault(fault(route, 7, 1, status(403)));
    bench.control.edit("acme", 40, 2);
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert_eq!((parents(&report, "notes").changed, parents(&report, "notes").withheld), (40, 1), "{}", report.table());
    bench.pass(MINUTES).await;
    assert_eq!(of(&bench.sync().await, "notes").requests, 0);

    // Refused everywhere the table is not granted: few are asked.
    let mut fresh = reading(40, &["feedback"], "").start().await;
    fresh.connect("acme").await;
    fresh.control.fault(fault("GET /v1/opportunities/:id/", 0, 0, status(403)));
    for named in [true, false] {
        if !named {
            // The same by the granted scopes, which nobody named.
            fresh.reconfigure(&Setup::default().defaults, "", &[]);
        }
        let report = fresh.sync_with(Options::default()).await;
        let asked = asked(&fresh.control, "feedback");
        assert!(asked <= 12, "{asked} were asked");
        if named {
            assert_eq!(report.code, ExitCode::Partial);
            assert!(report.troubles().join("\n").contains("feedback is not granted (403"), "{:?}", report.troubles());
        } else {
            assert_eq!(report.code, ExitCode::Done, "{:?}", report.troubles());
        }
    }
}

/// What was downloaded before somebody said that documents are not to be kept goes when everything is read anew.
#[tokio::test(start_paused = true)]
async fn documents_that_are_not_to_be_kept_go_with_a_full_run() {
    let tables = ["files", "file_contents"];
    let setup = reading(40, &tables, "");
    let defaults = format!("{}\n[defaults.privacy]\ndocuments = \"drop\"", setup.defaults);
    let mut bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let documents = |bench: &Bench| bench.files().into_keys().filter(|p| p.starts_with("files")).count();
    let before = documents(&bench);
    assert!(before > 10);
    bench.reconfigure(&defaults, "", &[]);
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    let notes = of(&report, "file_contents").notes.join("\n");
    assert!(notes.contains("stay in files/ until `hirelake sync --full`") && documents(&bench) == before, "{notes}");
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options { full: true, ..Options::default() }).await;
    let notes = of(&report, "file_contents").notes.join("\n");
    assert!(notes.contains(&format!("downloaded before are removed: {before}")) && documents(&bench) == 0, "{notes}");
    for row in bench.everything("acme").await.remove("file_contents").unwrap() {
        assert!(!row.contains_key("path") && !row.contains_key("sha256"), "{row:?}");
    }
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert!(!report.troubles().join("\n").contains("former setting"), "{}", report.troubles().join("\n"));
    // Wanted again, they come with a full run.
    bench.reconfigure(&reading(40, &tables, "").defaults, "", &[]);
    bench.pass(MINUTES).await;
    bench.sync_with(Options { full: true, ..Options::default() }).await;
    assert_eq!(documents(&bench), before);
}

/// A full read of children is begun once, whatever cuts it, and is gone on with.
#[tokio::test(start_paused = true)]
async fn a_full_read_that_is_cut_goes_on_until_everybody_was_read() {
    let bench = reading(60, &["notes"], "").start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.pass(MINUTES).await;
    let living = bench.control.dump("acme", "opportunities").unwrap().len() as u64;
    // Nobody's parent changes, so only a full read finds it.
    let notes = bench.control.children("acme", "notes").unwrap();
    for note in &notes {
        let said = serde_json::json!({ "fields": [{ "value": "rewritten" }] });
        let id = note.record["id"].as_str().unwrap();
        assert!(bench.control.edit_child("acme", "notes", &note.parent_id, id, said.as_object(), Some(false)));
    }
    let (mut asked, mut runs) = (0, 0);
    loop {
        bench.pass(MINUTES).await;
        // Only the first one asks for everything.
        let options = Options { full: runs == 0, max_requests: Some(30), ..Options::default() };
        let report = bench.sync_with(options).await;
        let notes = of(&report, "notes");
        asked += notes.requests;
        runs += 1;
        if runs > 1 && notes.requests > 0 {
            assert!(notes.notes.iter().any(|n| n.starts_with("goes on with the full read")), "{:?}", notes.notes);
        }
        if report.code == ExitCode::Done {
            break;
        }
        assert!(runs < 12, "{}", report.table());
    }
    assert!(runs > 2 && asked < living + 20, "{asked} requests for {living} parents in {runs} runs");
    bench.assert_right("acme").await;
    let rows = bench.living("acme", "notes").await;
    assert!(rows.values().all(|n| n["fields"].to_string().contains("rewritten")));
    // It is over.
    bench.pass(MINUTES).await;
    assert_eq!(of(&bench.sync().await, "notes").requests, 0);
}

/// An hourly cron reads a day's share in a day.
#[tokio::test(start_paused = true)]
async fn an_hourly_run_takes_its_hour_of_the_share() {
    let bench = reading(240, &["notes"], "reconcile = { nights = 5 }").start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let mut read = 0;
    for _ in 0..24 {
        bench.pass(Duration::from_secs(3600)).await;
        read += parents(&bench.sync().await, "notes").reconciled;
    }
    assert!((40..=52).contains(&read), "{read} of 240 in a day, at a fifth a night");
}

/// What was refused or not found may be there tomorrow: nothing of it counts as read.
#[tokio::test(start_paused = true)]
async fn a_refusal_or_a_404_loses_no_change() {
    let bench = reading(40, &["notes"], "reconcile = { nights = 0 }").start().await;
    bench.connect("acme").await;
    bench.sync().await;
    let note = bench.control.children("acme", "notes").unwrap().remove(0);
    let id = note.record["id"].as_str().unwrap();
    for (n, status) in [403, 404].into_iter().enumerate() {
        let said = serde_json::json!({ "fields": [{ "value": format!("changed {n}") }] });
        assert!(bench.control.edit_child("acme", "notes", &note.parent_id, id, said.as_object(), Some(true)));
        bench.pass(MINUTES).await;
        let action = Action::Status { code: status, body: None, retry_after: None };
        bench.control.fault(crate::lake::fault("GET /v1/opportunities/:id/notes", 0, 0, action));
        let report = bench.sync().await;
        assert_eq!(report.code, ExitCode::Done, "{}", report.troubles().join("\n"));
        let told = of(&report, "notes").notes.join("\n");
        assert!(told.contains(if status == 403 { "changed stay due" } else { "looked for by their ids: 1" }), "{told}");
        bench.control.clear_faults();
        bench.pass(MINUTES).await;
        bench.sync().await;
        let rows = bench.living("acme", "notes").await;
        assert!(rows[id]["fields"].to_string().contains(&format!("changed {n}")), "{status}: {}", rows[id]["fields"]);
    }

    // Who is not found by the own id either is gone, though no feed says so (merged into another, perhaps).
    bench.control.edit_child("acme", "notes", &note.parent_id, id, None, Some(true));
    bench.pass(MINUTES).await;
    let action = Action::Status { code: 404, body: None, retry_after: None };
    bench.control.fault(crate::lake::fault("GET /v1/opportunities/:id", 0, 0, action));
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").deleted, 1, "{}", report.table());
    assert!(!bench.living("acme", "notes").await.contains_key(id));
    assert!(!bench.living("acme", "opportunities").await.contains_key(&note.parent_id));
    assert_eq!(bench.living("acme", "opportunities").await.len(), 39);

    // That nobody is found any more is not believed, and nobody is looked for. (Whoever changes is alive again.)
    bench.control.edit("acme", 39, 3);
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    let told = report.troubles().join("\n");
    assert!(told.contains("39 of 40 rows of opportunities were not found (404)"), "{told}");
    assert_eq!((bench.living("acme", "opportunities").await.len(), of(&report, "opportunities").deleted), (40, 0));
    bench.control.clear_faults();
    bench.pass(MINUTES).await;
    bench.sync().await;
    bench.assert_table("acme", "notes").await;
}
