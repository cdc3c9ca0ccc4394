//! Privacy by column: what is dropped is written nowhere, pseudonyms are the same everywhere, and confidential records are read
//! only where that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hirelake::auth::Auth;
use hirelake::config::Config;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::Action;
use hirelake::state::State;
use hirelake::sync::{self, Options, World};
use serde_json::Value;

use crate::harness::{Bench, Setup, VAULT_KEY, fault, files, plain, private, tenant};
use crate::lake::{of, rewritten};

const MINUTES: Duration = Duration::from_secs(600);
const RATE: &str = "rate = { per_second = 1000.0, burst = 1000 }\n";
const PEOPLE: &str =
    "resources = [\"opportunities\", \"applications\", \"contacts\", \"notes\", \"files\", \"resumes\"]\n";

fn settings(lines: &str, privacy: &str) -> String {
    format!("{RATE}{lines}[defaults.privacy]\n{privacy}")
}

async fn connected(opportunities: usize, lines: &str, privacy: &str) -> Bench {
    let setup = Setup { defaults: settings(lines, privacy), ..Setup::new(opportunities) };
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench
}

fn full() -> Options {
    Options { full: true, ..Options::default() }
}

fn said(report: &Report) -> String {
    report.troubles().join("\n")
}

/// Every text of a value that is long enough to be told from chance, ids left out.
fn texts(value: &Value, all: &mut BTreeSet<String>) {
    let is_id = |text: &str| text.len() == 36 && text.matches('-').count() == 4;
    match value {
        Value::String(text) if text.chars().count() >= 6 && !is_id(text) => drop(all.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|v| texts(v, all)),
        Value::Object(fields) => fields.values().for_each(|v| texts(v, all)),
        _ => {}
    }
}

/// What the provider says of persons in these columns.
fn canaries(bench: &Bench, columns: &[(&str, &[&str])]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (table, fields) in columns {
        for record in bench.truth("acme", table).values() {
            fields.iter().for_each(|f| texts(&record[*f], &mut all));
        }
    }
    all
}

/// The same without what columns say that are kept: it is no trace of those that are not.
fn told_apart(bench: &Bench, columns: &[(&str, &[&str])]) -> BTreeSet<String> {
    let mut kept = String::new();
    for (table, _) in columns {
        let resource = bench.resource(table);
        for mut record in bench.truth("acme", table).into_values() {
            let fields = record.as_object_mut().unwrap();
            resource.columns.iter().filter(|c| c.sensitive).for_each(|c| drop(fields.remove(&c.source)));
            kept += &record.to_string();
        }
    }
    let mut all = canaries(bench, columns);
    all.retain(|text| !kept.contains(text.as_str()));
    all
}

/// Where these texts stand: in a decoded value of the lake, or in the bytes of any file of lake and state.
async fn found(bench: &Bench, canaries: &BTreeSet<String>) -> Vec<String> {
    let mut places = Vec::new();
    for (table, rows) in bench.everything("acme").await {
        for (column, value) in rows.iter().flatten() {
            if canaries.iter().any(|c| value.contains(c)) {
                places.push(format!("{table}.{column}"));
            }
        }
    }
    for (path, bytes) in files(bench.dir.path()) {
        let text = String::from_utf8_lossy(&bytes);
        if canaries.iter().any(|c| text.contains(c)) {
            places.push(path.display().to_string());
        }
    }
    places.sort();
    places.dedup();
    places
}

const OF_PERSONS: &[(&str, &[&str])] = &[
    ("opportunities", &["name", "emails", "links", "headline"]),
    ("applications", &["name", "email", "company", "comments", "customQuestions", "ipAddress"]),
    ("contacts", &["name", "emails", "headline"]),
    ("files", &["name", "downloadUrl"]),
    ("resumes", &["file", "parsedData"]),
];

#[tokio::test(start_paused = true)]
async fn a_dropped_value_is_in_no_file_of_lake_and_state() {
    // Shown to be found where it is kept, …
    let bench = connected(40, PEOPLE, "").await;
    bench.sync().await;
    let there = found(&bench, &told_apart(&bench, OF_PERSONS)).await;
    for column in ["opportunities.name", "applications.email", "contacts.emails", "resumes.parsed_data"] {
        assert!(there.contains(&column.to_owned()), "{column} is not in {there:?}");
    }
    assert!(there.iter().any(|p| p.ends_with("data.parquet")), "nor in a statistic: {there:?}");

    // … and nowhere where it is dropped, records that cannot be decoded included.
    let drop = "identity = \"drop\"\ncontact = \"drop\"\nfree_text = \"drop\"\nanswers = \"drop\"\ndocuments = \"drop\"\ntechnical = \"drop\"\nextra = \"drop\"\n";
    let bench = connected(40, PEOPLE, drop).await;
    bench.control.fault(fault("GET /v1/opportunities", 0, 1, Action::BadRow));
    bench.sync().await;
    bench.control.edit("acme", 5, 1);
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert!(of(&report, "opportunities").updated > 0);
    let canaries = told_apart(&bench, OF_PERSONS);
    assert!(canaries.len() > 200, "{}", canaries.len());
    assert_eq!(found(&bench, &canaries).await, Vec::<String>::new());
    for (table, rows) in bench.everything("acme").await {
        let resource = bench.resource(&table);
        for row in rows {
            assert!(!row.contains_key("_extra"), "{table}: {row:?}");
            for c in resource.columns.iter().filter(|c| c.sensitive) {
                assert!(!row.contains_key(&c.name), "{table}.{}", c.name);
            }
        }
    }
    assert_eq!(bench.table("acme", "opportunities").await.len(), bench.truth("acme", "opportunities").len());
    // The sealed ones hold no more than the rows.
    let auth = auth(&bench.world);
    for what in bench.state().quarantined(&tenant("acme")).await.unwrap() {
        let bytes = bench.state().read_quarantined(&what).await.unwrap().unwrap();
        let open = auth.vault().open(&what.place, &serde_json::from_slice(&bytes).unwrap()).unwrap();
        let open = String::from_utf8(open.to_vec()).unwrap();
        assert!(!open.contains("\"emails\"") && !open.contains("\"name\""), "a dropped field is sealed");
    }
}

fn auth(world: &World) -> Arc<Auth> {
    let state = State::new(world.state.clone(), world.clock);
    Arc::new(Auth::new(world.config.clone(), state, world.clock, RunId::new()).unwrap())
}

/// The pseudonyms of each person's mail addresses by the contact's id, as a table has them.
async fn mails(bench: &Bench, table: &str, key: &str) -> BTreeMap<String, String> {
    let rows = bench.table("acme", table).await.into_values();
    rows.filter_map(|r| Some((r.get(key)?.clone(), r.get("emails")?.clone()))).filter(|(_, m)| m != "[]").collect()
}

#[tokio::test(start_paused = true)]
async fn a_pseudonym_is_the_same_in_every_table_and_run_and_another_in_another_state() {
    let privacy = "contact = \"pseudonymize\"\nidentity = \"pseudonymize\"\n";
    let lines = "resources = [\"opportunities\", \"contacts\"]\n";
    let mut bench = connected(40, lines, privacy).await;
    bench.sync().await;
    let (people, contacts) = (mails(&bench, "opportunities", "contact").await, mails(&bench, "contacts", "id").await);
    assert!(people.len() > 20);
    assert_eq!(people, contacts, "tables are joined by them");
    let mut columns = canaries(&bench, &[("opportunities", &["name", "emails"]), ("contacts", &["name", "emails"])]);
    columns.retain(|c| c.contains(['@', ' ']));
    assert_eq!(found(&bench, &columns).await, Vec::<String>::new());

    // A run with nothing new rewrites nothing, and everything loaded anew looks the same.
    let before = bench.files();
    bench.pass(MINUTES).await;
    assert_eq!(rewritten(&bench.sync().await), 0);
    bench.sync_with(full()).await;
    assert_eq!(bench.files(), before);

    // The key is sealed, and survives a change of the vault's.
    let kept = files(&bench.dir.path().join("state/pseudonyms"));
    assert_eq!(kept.len(), 1);
    let old = auth(&bench.world).vault().key_id().to_owned();
    private(&bench.dir.path().join("new.key"), &VAULT_KEY.replace("c0ffee00", "5eed5eed"));
    let file = bench.dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    for (keys, rotate) in [
        ("key = { file = \"new.key\" }\nprevious = [{ file = \"vault.key\" }]", true),
        ("key = { file = \"new.key\" }", false),
    ] {
        std::fs::write(&file, text.replace("key = { file = \"vault.key\" }", keys)).unwrap();
        let config = Config::load_with(Some(&file), std::iter::empty()).unwrap();
        bench.world = World::open(Arc::new(config), bench.world.clock).unwrap();
        if rotate {
            let auth = auth(&bench.world);
            assert_eq!(auth.holdings(&[]).await.unwrap()[&old].pseudonyms, 1);
            assert!(auth.rotate_pseudonyms().await.unwrap());
            assert!(!auth.rotate_pseudonyms().await.unwrap(), "again it does nothing");
            assert_eq!(auth.holdings(&[]).await.unwrap().keys().collect::<Vec<_>>(), [auth.vault().key_id()]);
            for (name, done) in auth.rotate(&[tenant("acme")]).await {
                done.unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            for (path, bytes) in files(&bench.dir.path().join("state/pseudonyms")) {
                assert!(!String::from_utf8_lossy(&bytes).contains(&old), "{}", path.display());
            }
        }
        assert_eq!(bench.sync_with(full()).await.code, ExitCode::Done);
        assert_eq!(bench.files(), before);
    }

    let other = connected(40, lines, privacy).await;
    other.sync().await;
    let elsewhere = mails(&other, "contacts", "id").await;
    assert_eq!(elsewhere.keys().collect::<Vec<_>>(), contacts.keys().collect::<Vec<_>>(), "the same people");
    assert!(elsewhere.iter().all(|(id, mail)| contacts[id] != *mail), "under another key");
}

#[tokio::test(start_paused = true)]
async fn a_lost_vault_key_gives_nobody_other_pseudonyms() {
    let bench = connected(5, PEOPLE, "contact = \"pseudonymize\"\n").await;
    bench.sync().await;
    let entry = files(&bench.dir.path().join("state/pseudonyms")).into_keys().next().unwrap();
    let path = bench.dir.path().join("state/pseudonyms").join(entry);
    let text = std::fs::read_to_string(&path).unwrap();
    let before = bench.files();
    std::fs::write(&path, text.replace("\"text\": \"", "\"text\": \"AAAA")).unwrap();
    bench.control.edit("acme", 5, 1);
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Configuration);
    insta::assert_snapshot!(said(&report), @"
    error: acme: the key of the pseudonyms cannot be opened: it does not open with its own key here: it was changed, or belongs to another tenant, app or generation
    hint: restore `pseudonyms` of the state from a backup; a new key would give everybody other pseudonyms
    ");
    assert_eq!(bench.files(), before, "nothing is written");
}

#[tokio::test(start_paused = true)]
async fn secret_notes_keep_their_row_and_say_nothing() {
    let bench = connected(60, PEOPLE, "secret_notes = \"drop\"\n").await;
    bench.sync().await;
    let (mut hidden, mut open) = (BTreeSet::new(), 0);
    let lake = bench.table("acme", "notes").await;
    for (id, note) in bench.truth("acme", "notes") {
        let secret = note["secret"] == true;
        assert_eq!(lake[&id].contains_key("fields"), !secret && note.get("fields").is_some(), "{note}");
        if secret {
            texts(&note["fields"][0]["value"], &mut hidden);
        } else {
            open += 1;
        }
    }
    assert!(!hidden.is_empty() && open > 0, "else this shows nothing");
    let others = bench.truth("acme", "notes").into_values().filter(|n| n["secret"] != true);
    let others: String = others.map(|n| n.to_string()).collect();
    hidden.retain(|text| !others.contains(text.as_str()));
    assert_eq!(found(&bench, &hidden).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_changed_setting_is_told_until_everything_is_loaded_anew() {
    let lines =
        "resources = [\"opportunities\", \"applications\", \"contacts\", \"users\", \"requisitions\", \"files\"]\n";
    let mut bench = connected(40, lines, "").await;
    let report = bench.sync().await;
    assert!(!said(&report).contains("privacy"));
    let names = canaries(&bench, &[("opportunities", &["name"]), ("contacts", &["name"])]);
    assert!(!found(&bench, &names).await.is_empty());

    let drop = settings(lines, "identity = \"drop\"\nanswers = \"drop\"\ndocuments = \"drop\"\npay = \"drop\"\n");
    bench.reconfigure(&drop, "", &[]);
    bench.control.edit("acme", 3, 1);
    bench.pass(MINUTES).await;
    for _ in 0..2 {
        // Requisitions are listed whole in every run, so they are done already.
        let report = bench.sync().await;
        let note = said(&report);
        insta::allow_duplicates! {
            insta::assert_snapshot!(note.lines().find(|l| l.contains("privacy")).unwrap(), @"note: acme: privacy was set otherwise before: 4 tables still hold rows of the former setting; `hirelake sync --tenant acme --full` rewrites them");
        }
        assert!(bench.table("acme", "requisitions").await.values().all(|r| !r.contains_key("compensation_band")));
        bench.pass(MINUTES).await;
    }
    assert!(!found(&bench, &names).await.is_empty(), "rows that did not change keep their old form");

    let report = bench.sync_with(full()).await;
    assert_eq!(report.code, ExitCode::Done);
    assert!(!said(&report).contains("privacy"), "{}", said(&report));
    assert_eq!(found(&bench, &names).await, Vec::<String>::new());
    assert!(bench.table("acme", "files").await.values().all(|r| !r.contains_key("name")));
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert!(!said(&report).contains("privacy"));
    assert_eq!(rewritten(&report), 0);

    // Back again: what was dropped comes back with a full load, and with that alone.
    bench.reconfigure(&settings(lines, ""), "", &[]);
    bench.pass(MINUTES).await;
    assert!(said(&bench.sync().await).contains("4 tables still hold rows of the former setting"));
    bench.sync_with(full()).await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_full_load_that_is_stopped_goes_on_and_then_the_note_is_gone() {
    let lines = "resources = [\"opportunities\", \"contacts\"]\n";
    let slow = |privacy: &str| settings(lines, privacy).replace("1000.0", "5.0").replace("1000 }", "1 }");
    let setup = Setup { defaults: slow(""), ..Setup::new(1500) };
    let mut bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench.reconfigure(&slow("identity = \"drop\"\n"), "", &[]);
    bench.pass(MINUTES).await;
    let deadline = Some(Duration::from_secs(2));
    let stopped = bench.sync_with(Options { deadline, ..full() }).await;
    assert_eq!(stopped.code, ExitCode::Stopped);
    for _ in 0..20 {
        bench.pass(MINUTES).await;
        if bench.sync_with(Options { deadline, ..Options::default() }).await.code == ExitCode::Done {
            break;
        }
    }
    let report = bench.sync().await;
    assert!(!said(&report).contains("privacy"), "{}", said(&report));
    let names = canaries(&bench, &[("opportunities", &["name"])]);
    assert_eq!(found(&bench, &names).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_key_are_found_again_under_keys_that_give_nothing_away() {
    let lines = "resources = [\"eeo_responses\"]\n";
    let mut bench = connected(60, lines, "").await;
    bench.sync().await;
    let before = bench.everything("acme").await["eeo_responses"].len();
    assert!(before > 0);
    bench.reconfigure(&settings(lines, "protected = \"drop\"\n"), "", &[]);
    bench.pass(MINUTES).await;
    bench.sync().await;
    let rows = bench.everything("acme").await.remove("eeo_responses").unwrap();
    assert_eq!(rows.len(), before, "each is there once");
    for row in &rows {
        assert!(!row.contains_key("gender") && row["row_key"].len() == 32, "{row:?}");
    }
    bench.pass(MINUTES).await;
    assert_eq!(rewritten(&bench.sync().await), 0);
}

async fn hidden(bench: &Bench, table: &str) -> usize {
    let rows = bench.table("acme", table).await;
    rows.values().filter(|r| r.get("confidentiality").is_some_and(|c| c == "confidential")).count()
}

#[tokio::test(start_paused = true)]
async fn confidential_records_are_read_when_they_are_asked_for_and_old_ones_too() {
    let lines = "resources = [\"opportunities\", \"applications\", \"contacts\", \"postings\", \"requisitions\"]\n";
    let tables = ["opportunities", "postings", "requisitions"];
    let mut bench = connected(250, lines, "").await;
    bench.sync().await;
    for table in tables {
        assert_eq!(hidden(&bench, table).await, 0, "{table}");
    }
    let scopes = |bench: &Bench| bench.world.config.scopes(&tenant("acme")).unwrap().joined();
    assert!(!scopes(&bench).contains("confidential:access:admin"));

    // Asked for and not granted: told, and the others are read all the same.
    let wanted = settings(&format!("{lines}confidential = true\n"), "");
    bench.reconfigure(&wanted, "", &[]);
    assert!(scopes(&bench).contains("confidential:access:admin"));
    assert!(bench.world.config.needed_scopes(&tenant("acme")).contains(&"confidential:access:admin".to_owned()));
    bench.control.edit("acme", 4, 1);
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    insta::assert_snapshot!(said(&report).lines().take(2).collect::<Vec<_>>().join("\n"), @"
    error: acme/opportunities: tenant acme: confidential records of opportunities need the scope confidential:access:admin, which is not granted: only the others were read
    hint: add it to the app at the provider and connect the tenant again: `hirelake connect acme`; or ask for them no longer (`confidential = false`)
    ");
    bench.assert_right("acme").await;

    // Granted: the old ones come too.
    bench.connect("acme").await;
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert!(said(&report).contains("read anew from the start, because confidential records"), "{}", said(&report));
    assert_eq!((hidden(&bench, "opportunities").await, hidden(&bench, "postings").await), (3, 1));
    assert_eq!(hidden(&bench, "requisitions").await, 1);
    bench.pass(MINUTES).await;
    bench.control.reset_stats();
    let report = bench.sync().await;
    assert_eq!(rewritten(&report), 0, "{}", report.table());
    assert!(!said(&report).contains("anew"));
    assert!(bench.requests("GET /v1/opportunities") <= 2, "an increment is enough from now on");

    // No longer asked for: what is there stays, the listing that leaves it out notwithstanding.
    bench.reconfigure(&settings(lines, ""), "", &[]);
    for _ in 0..2 {
        bench.pass(MINUTES).await;
        let report = bench.sync().await;
        assert_eq!(of(&report, "requisitions").deleted, 0);
    }
    assert_eq!((hidden(&bench, "opportunities").await, hidden(&bench, "requisitions").await), (3, 1));
    // Asked for again: what changed meanwhile is caught up with.
    bench.reconfigure(&wanted, "", &[]);
    bench.pass(MINUTES).await;
    assert!(said(&bench.sync().await).contains("read anew from the start, because confidential records"));
}

#[tokio::test(start_paused = true)]
async fn without_resources_by_name_a_missing_scope_for_confidential_records_is_a_note() {
    let mut bench = connected(20, "", "").await;
    bench.sync().await;
    bench.reconfigure(&settings("confidential = true\n", ""), "", &[]);
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    let notes = said(&report);
    let notes: Vec<&str> = notes.lines().filter(|l| l.contains("confidential")).collect();
    insta::assert_snapshot!(notes.join("\n"), @"
    note: acme/opportunities: without confidential records: they need the scope confidential:access:admin, which is not granted
    note: acme/postings: without confidential records: they need the scope confidential:access:admin, which is not granted
    note: acme/requisitions: without confidential records: they need the scope confidential:access:admin, which is not granted
    ");
}

const APP: &str = "[apps.main]\nenvironment = \"sandbox\"\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n";

fn load(dir: &std::path::Path, text: &str, env: &[(&str, &str)]) -> Result<Config, hirelake::config::ConfigError> {
    let path = dir.join("hirelake.toml");
    std::fs::write(&path, text).unwrap();
    Config::load_with(Some(&path), env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

#[test]
fn a_mistake_in_the_settings_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = String::new();
    for text in [
        "[defaults.privacy]\ncontct = \"drop\"\n",
        "[defaults.privacy]\nsalaries = \"drop\"\n",
        "[defaults.privacy]\ncontact = \"erase\"\n",
        "[defaults.privacy]\ncontact = true\n",
        "[defaults.privacy]\nsecret_notes = \"pseudonymize\"\n",
        "[defaults.privacy]\nsecret_note = \"drop\"\n",
        "[defaults.privacy]\n\"opportunites.name\" = \"drop\"\n",
        "[defaults.privacy]\n\n\"opportunities.nam\" = \"drop\"\n",
        "[defaults.privacy]\nopportunities.nam = \"drop\"\n",
        "[tenants.acme.privacy]\n\"opportunities.id\" = \"drop\"\n",
        "[tenants.acme.privacy]\n\"opportunities.created_at\" = \"pseudonymize\"\n",
        "[tenants.acme]\nprivacy = { \"opportunities.contact\" = \"drop\" }\n",
        "[tenants.acme.privacy]\n\"notes.opportunity_id\" = \"pseudonymize\"\n",
        "[tenants.acme.privacy]\n\"opportunities.is_anonymized\" = \"drop\"\n",
        "[tenants.acme]\nconfidential = \"yes\"\n",
        &format!("{APP}[apps.main.privacy]\npayment = \"drop\"\n"),
    ] {
        match load(dir.path(), text, &[]) {
            Ok(_) => said += &format!("TAKEN: {text}\n"),
            Err(e) => said += &format!("{}\n", plain(&e.to_string(), dir.path())),
        }
    }
    let error = load(dir.path(), "", &[("HIRELAKE_DEFAULTS__PRIVACY__CONTCT", "drop")]).unwrap_err();
    said += &format!("{error}\n");
    insta::assert_snapshot!(said, @r#"
    DIR/hirelake.toml:2:1: there is no class of columns `contct`
    hint: did you mean `contact`?
    DIR/hirelake.toml:2:1: there is no class of columns `salaries`
    hint: there are identity, contact, free_text, answers, documents, pay, technical, protected, secret_notes, extra; one column is written "table.column"
    DIR/hirelake.toml:2:11: key `contact`: unknown variant `erase`, expected one of `keep`, `drop`, `pseudonymize`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:11: key `contact`: invalid type: boolean `true`, expected `keep`, `drop` or `pseudonymize`
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:2:1: `secret_notes` is a switch: it cannot be `pseudonymize`
    hint: say "keep" or "drop"
    DIR/hirelake.toml:2:1: there is no class of columns `secret_note`
    hint: did you mean `secret_notes`?
    DIR/hirelake.toml:2:2: there is no table `opportunites`
    hint: did you mean `opportunities`?
    DIR/hirelake.toml:3:16: `opportunities` has no column `nam`
    hint: did you mean `name`?
    DIR/hirelake.toml:2:15: `opportunities` has no column `nam`
    hint: did you mean `name`?
    DIR/hirelake.toml:2:16: `opportunities.id` can be neither dropped nor pseudonymized: it is the key, by which a row is found
    hint: leave it out, or do not read the table
    DIR/hirelake.toml:2:16: `opportunities.created_at` can be neither dropped nor pseudonymized: it says in which file a row lies
    hint: leave it out, or do not read the table
    DIR/hirelake.toml:2:28: `opportunities.contact` can be neither dropped nor pseudonymized: other tables' rows are found by it
    hint: leave it out, or do not read the table
    DIR/hirelake.toml:2:8: `notes.opportunity_id` can be neither dropped nor pseudonymized: it ties the row to its parent
    hint: leave it out, or do not read the table
    DIR/hirelake.toml:2:16: `opportunities.is_anonymized` can be neither dropped nor pseudonymized: it says who was anonymized, which their other rows follow
    hint: leave it out, or do not read the table
    DIR/hirelake.toml:2:16: key `confidential`: invalid type: a string, expected a boolean
    hint: `hirelake init --print` shows every key with its meaning
    DIR/hirelake.toml:6:1: there is no class of columns `payment`
    hint: there are identity, contact, free_text, answers, documents, pay, technical, protected, secret_notes, extra; one column is written "table.column"
    HIRELAKE_DEFAULTS__PRIVACY__CONTCT: there is no class of columns `contct`
    hint: did you mean `contact`?
    "#);
}

#[test]
fn a_tenants_word_counts_before_its_apps_and_that_before_the_defaults() {
    use hirelake::catalog::{Act, Class};
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "{APP}confidential = true\n[apps.main.privacy]\ncontact = \"pseudonymize\"\npay = \"drop\"\n\
         [defaults]\nconfidential = false\n[defaults.privacy]\ncontact = \"drop\"\nidentity = \"drop\"\nsecret_notes = \"drop\"\n\
         opportunities.name = \"keep\"\n\
         [tenants.acme]\nconfidential = false\n[tenants.acme.privacy]\npay = \"keep\"\nsecret_notes = \"keep\"\nextra = \"drop\"\n"
    );
    let config = load(dir.path(), &text, &[("HIRELAKE_DEFAULTS__PRIVACY__CONTACTS__NAME", "keep")]).unwrap();
    for (name, pay, secret, extra, hidden) in
        [("acme", Act::Keep, false, true, false), ("birch", Act::Drop, true, false, true)]
    {
        let of = config.tenant(&tenant(name));
        let classes = [Class::Contact, Class::Identity, Class::Pay].map(|c| of.privacy.classes[&c]);
        assert_eq!(classes, [Act::Pseudonymize, Act::Drop, pay], "{name}");
        assert_eq!((of.privacy.drop_secret, of.privacy.drop_extra, of.confidential), (secret, extra, hidden), "{name}");
        for table in ["opportunities", "contacts"] {
            let resource = config.provider.resource(table).unwrap();
            assert_eq!(
                of.privacy.act(&config.provider.resources, resource, resource.column("name").unwrap()),
                Act::Keep,
                "a column before its class"
            );
        }
    }
}

/// What a run over a state without settings leaves is what it always left.
#[tokio::test(start_paused = true)]
async fn without_settings_no_key_is_made() {
    let bench = connected(10, "", "").await;
    let report = sync::run(&bench.world, &Options::default()).await.unwrap();
    assert_eq!(report.code, ExitCode::Done);
    assert!(files(&bench.dir.path().join("state/pseudonyms")).is_empty());
    bench.assert_right("acme").await;
}
