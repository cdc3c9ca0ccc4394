//! What was deleted at the provider is deleted here, in the way that was asked for, and the dead stay dead.

use std::collections::BTreeMap;
use std::time::Duration;

use hirelake::catalog::OnDelete;
use hirelake::sync::Options;
use serde_json::{Value, json};

use crate::harness::{Bench, Setup};
use crate::lake::{of, rewritten};

const MINUTES: Duration = Duration::from_secs(600);

/// A lake after its first sync.
async fn loaded(opportunities: usize, on: OnDelete) -> Bench {
    let word = match on {
        OnDelete::Redact => "redact",
        OnDelete::Mark => "mark",
        OnDelete::Remove => "remove",
    };
    let mut setup = Setup::new(opportunities);
    setup.defaults += &format!("\non_delete = \"{word}\"");
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench
}

/// Opportunities by contact, those with an application first.
fn by_contact(bench: &Bench) -> BTreeMap<String, Vec<Value>> {
    let mut people: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for o in bench.control.dump("acme", "opportunities").unwrap() {
        if o["isAnonymized"] != true {
            people.entry(o["contact"].as_str().unwrap().into()).or_default().push(o);
        }
    }
    people.values_mut().for_each(|all| all.sort_by_key(|o| o["applications"] == json!([])));
    people
}

fn id(record: &Value) -> &str {
    record["id"].as_str().unwrap()
}

/// One person with one opportunity and an application, and one with two or more opportunities.
fn two_people(bench: &Bench) -> (Value, Vec<Value>) {
    let people = by_contact(bench);
    let single = people.values().find(|all| all.len() == 1 && all[0]["applications"] != json!([])).unwrap()[0].clone();
    let shared = people.values().find(|all| all.len() == 2 && all[0]["applications"] != json!([])).unwrap().clone();
    (single, shared)
}

async fn deleted_everywhere(on: OnDelete) {
    let bench = loaded(150, on).await;
    let (single, shared) = two_people(&bench);
    let contact = |o: &Value| o["contact"].as_str().unwrap().to_owned();
    let application = |o: &Value| o["applications"][0].as_str().unwrap().to_owned();
    let posting = id(&bench.control.dump("acme", "postings").unwrap()[0]).to_owned();
    bench.pass(MINUTES).await;
    for gone in [&single, &shared[0]] {
        assert!(bench.control.delete_opportunity("acme", id(gone)));
    }
    assert!(bench.control.delete_posting("acme", &posting));
    bench.pass(MINUTES).await;
    let before = bench.everything("acme").await;
    let report = bench.sync().await;
    bench.assert_right("acme").await;
    assert_eq!(of(&report, "opportunities").deleted, 2);
    assert_eq!(of(&report, "applications").deleted, 2);
    assert_eq!(of(&report, "contacts").deleted, 1, "the other person has a living opportunity");
    assert_eq!(of(&report, "postings").deleted, 1);

    // The person who still has an opportunity is there, untouched.
    let contacts = bench.table("acme", "contacts").await;
    let kept = &contacts[&contact(&shared[0])];
    assert!(kept.contains_key("name") && !kept.contains_key("_deleted_at"), "{kept:?}");

    for (table, key) in [
        ("opportunities", id(&single).to_owned()),
        ("opportunities", id(&shared[0]).to_owned()),
        ("applications", application(&single)),
        ("applications", application(&shared[0])),
        ("contacts", contact(&single)),
        ("postings", posting.clone()),
    ] {
        let rows = bench.table("acme", table).await;
        let old = before[table].iter().find(|r| r["id"] == key).unwrap();
        match on {
            OnDelete::Remove => assert!(!rows.contains_key(&key), "{table} {key}"),
            OnDelete::Mark => {
                let mut row = rows[&key].clone();
                assert!(row.remove("_deleted_at").unwrap().starts_with("2026-06-15T08:10"), "{table}");
                row.remove("_synced_at");
                assert_eq!(&row, old, "{table}: a marked row says what it said");
            }
            OnDelete::Redact => {
                let row = &rows[&key];
                assert!(row["_deleted_at"].starts_with("2026-06-15T08:10"), "{table}");
                let resource = bench.resource(table);
                for c in resource.columns.iter().filter(|c| c.sensitive) {
                    assert!(!row.contains_key(&c.name), "{table}.{} is still there", c.name);
                }
                assert!(!row.contains_key("_extra"));
                for c in resource.columns.iter().filter(|c| !c.sensitive) {
                    assert_eq!(row.get(&c.name), old.get(&c.name), "{table}.{}", c.name);
                }
            }
        }
    }

    // Saying it again changes nothing: the overlap reads the same tombstones once more.
    let files = bench.file_times();
    bench.pass(Duration::from_secs(60)).await;
    let report = bench.sync().await;
    assert!(of(&report, "opportunities_deleted").records >= 2, "the overlap was to show the tombstones again");
    assert_eq!(rewritten(&report), 0, "{}", report.table());
    assert_eq!(bench.file_times(), files);
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn deleted_rows_are_redacted() {
    deleted_everywhere(OnDelete::Redact).await;
}

#[tokio::test(start_paused = true)]
async fn deleted_rows_are_marked() {
    deleted_everywhere(OnDelete::Mark).await;
}

#[tokio::test(start_paused = true)]
async fn deleted_rows_are_removed() {
    deleted_everywhere(OnDelete::Remove).await;
}

#[tokio::test(start_paused = true)]
async fn a_contact_goes_with_its_last_opportunity() {
    for on in [OnDelete::Redact, OnDelete::Remove] {
        let bench = loaded(150, on).await;
        let (_, shared) = two_people(&bench);
        let contact = shared[0]["contact"].as_str().unwrap();
        for (i, gone) in shared.iter().enumerate() {
            bench.pass(MINUTES).await;
            assert!(bench.control.delete_opportunity("acme", id(gone)));
            bench.pass(MINUTES).await;
            bench.sync().await;
            let row = bench.table("acme", "contacts").await.get(contact).cloned();
            let lives = row.is_some_and(|r| r.contains_key("name"));
            assert_eq!(lives, i == 0, "{on:?}: after {} of {} are gone", i + 1, shared.len());
        }
        bench.assert_right("acme").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_application_goes_and_its_opportunity_stays() {
    for on in [OnDelete::Redact, OnDelete::Mark, OnDelete::Remove] {
        let bench = loaded(100, on).await;
        let (single, _) = two_people(&bench);
        let application = single["applications"][0].as_str().unwrap();
        bench.pass(MINUTES).await;
        assert!(bench.control.delete_application("acme", application));
        bench.pass(MINUTES).await;
        bench.sync().await;
        bench.assert_right("acme").await;
        let row = bench.table("acme", "applications").await.get(application).cloned();
        assert!(row.is_none_or(|r| r.contains_key("_deleted_at")), "{on:?}");
        assert!(!bench.table("acme", "opportunities").await[id(&single)].contains_key("_deleted_at"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_alive_again_is_alive_here_and_stays_so() {
    for on in [OnDelete::Redact, OnDelete::Mark, OnDelete::Remove] {
        let bench = loaded(100, on).await;
        let (single, _) = two_people(&bench);
        bench.pass(MINUTES).await;
        bench.control.delete_opportunity("acme", id(&single));
        bench.pass(MINUTES).await;
        bench.sync().await;
        bench.assert_right("acme").await;
        bench.control.restore_opportunity("acme", id(&single));
        // The tombstone is within reach of the overlap, and for ever within that of a load from the start.
        for options in [Options::default(), Options::default(), Options { full: true, ..Options::default() }] {
            bench.pass(Duration::from_secs(120)).await;
            let report = bench.sync_with(options).await;
            assert_eq!(report.code.number(), 0, "{}", report.troubles().join("\n"));
            bench.assert_right("acme").await;
            let row = &bench.table("acme", "contacts").await[single["contact"].as_str().unwrap()];
            assert!(row.contains_key("name") && !row.contains_key("_deleted_at"), "{on:?}: {row:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_version_of_a_dead_record_brings_nothing_back() {
    for on in [OnDelete::Redact, OnDelete::Remove] {
        let bench = loaded(100, on).await;
        let (single, _) = two_people(&bench);
        bench.pass(MINUTES).await;
        bench.control.delete_opportunity("acme", id(&single));
        bench.pass(MINUTES).await;
        bench.sync().await;
        let before = bench.everything("acme").await;
        // A replica that has not heard of the deletion lists the record as it was before it.
        bench.control.restore_opportunity("acme", id(&single));
        let stale = bench.world.clock.now().ms() - 1_150_000;
        bench.control.set_field("acme", "opportunities", id(&single), "updatedAt", json!(stale), false);
        for full in [false, true] {
            bench.pass(MINUTES).await;
            let report = bench.sync_with(Options { full, ..Options::default() }).await;
            assert_eq!(report.code.number(), 0);
            assert_eq!(of(&report, "opportunities").suppressed, u64::from(full), "{on:?}");
            let after = bench.everything("acme").await;
            assert_eq!(after["opportunities"], before["opportunities"], "{on:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_erased_person_is_nowhere_after_one_sync() {
    let bench = loaded(200, OnDelete::Redact).await;
    let (_, shared) = two_people(&bench);
    let contact = shared[0]["contact"].as_str().unwrap();
    let person = &bench.control.dump("acme", "contacts").unwrap().into_iter().find(|c| id(c) == contact).unwrap();
    let mut traces = vec![person["name"].as_str().unwrap().to_owned()];
    traces.extend(person["emails"].as_array().unwrap().iter().map(|e| e.as_str().unwrap().to_owned()));
    assert!(traces.len() > 1, "this person was to have a mail address");
    let found = |all: &BTreeMap<String, Vec<crate::lake::Row>>| {
        let mut places: Vec<String> = Vec::new();
        for (table, rows) in all {
            for row in rows {
                for (column, value) in row {
                    if traces.iter().any(|t| value.contains(t.as_str())) {
                        places.push(format!("{table}.{column} of {}", row["id"]));
                    }
                }
            }
        }
        places
    };
    // Somebody else may have the same name; the mail addresses are one person's.
    let before = found(&bench.everything("acme").await);
    assert!(before.len() >= 6, "{before:?}");
    bench.pass(MINUTES).await;
    assert!(bench.control.anonymize("acme", id(&shared[1])));
    bench.pass(MINUTES).await;
    bench.sync().await;
    bench.assert_right("acme").await;
    let ours: Vec<&str> = shared
        .iter()
        .flat_map(|o| [id(o), o["applications"][0].as_str().unwrap_or(contact)])
        .chain([contact])
        .collect();
    let after = found(&bench.everything("acme").await);
    let left: Vec<_> = after.iter().filter(|p| ours.iter().any(|id| p.ends_with(id))).collect();
    assert!(left.is_empty(), "{left:?}");
    // Nor in the file itself.
    for (path, bytes) in bench.files() {
        let mail = traces[1].as_bytes();
        assert!(!bytes.windows(mail.len()).any(|w| w == mail), "{}", path.display());
    }
}

#[tokio::test(start_paused = true)]
async fn a_contact_that_was_merged_into_another_goes() {
    for on in [OnDelete::Redact, OnDelete::Remove] {
        let bench = loaded(150, on).await;
        let (single, shared) = two_people(&bench);
        let (from, into) = (single["contact"].as_str().unwrap(), shared[0]["contact"].as_str().unwrap());
        bench.pass(MINUTES).await;
        assert_eq!(bench.control.merge_contacts("acme", from, into), [id(&single)]);
        bench.pass(MINUTES).await;
        let report = bench.sync().await;
        bench.assert_right("acme").await;
        assert_eq!(of(&report, "contacts").deleted, 1, "{}", report.table());
        let row = bench.table("acme", "contacts").await.get(from).cloned();
        assert!(row.is_none_or(|r| r.contains_key("_deleted_at") && !r.contains_key("name")), "{on:?}");

        // Erased later, the person is nowhere: the former contact is no longer reached by its opportunity.
        assert!(bench.control.delete_opportunity("acme", id(&single)));
        bench.pass(MINUTES).await;
        bench.sync().await;
        bench.assert_right("acme").await;
        assert_eq!(bench.table("acme", "contacts").await.get(into).map(|r| r.contains_key("name")), Some(true));
    }
}
