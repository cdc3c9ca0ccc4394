//! The lake read back: judged, and searched for who was erased. What is found is told by place, never by value.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use hirelake::names::RunId;
use hirelake::report::ExitCode;
use hirelake::sandbox::AccountSize;
use hirelake::sync::SyncError;
use hirelake::verify::{self, Options, Verdict};
use insta::assert_snapshot;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::connect_flow::{hirelake, real_sandbox};
use crate::harness::{Bench, CLIENT, Setup, files, tenant};

const MINUTES: Duration = Duration::from_secs(600);
const TABLES: [&str; 15] = [
    "opportunities",
    "applications",
    "contacts",
    "postings",
    "users",
    "feedback",
    "files",
    "file_actions",
    "interviews",
    "notes",
    "offers",
    "panels",
    "referrals",
    "resumes",
    "forms",
];

/// A lake after its first sync, children and all.
async fn loaded(on: &str, more: &[&str]) -> Bench {
    let mut setup = Setup::new(90);
    let all: Vec<String> = TABLES.iter().chain(more).map(|name| format!("\"{name}\"")).collect();
    setup.defaults += &format!("\nresources = [{}]\non_delete = \"{on}\"", all.join(", "));
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.sync().await;
    bench
}

/// Somebody whose name and mail nobody else has, with one opportunity, an application and some children.
struct Somebody {
    opportunity: String,
    contact: String,
    application: String,
    name: String,
    mail: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// People of whom nobody else has the name, in the order of their ids.
fn people(bench: &Bench) -> Vec<Somebody> {
    let all = bench.control.dump("acme", "opportunities").unwrap();
    let mut names: BTreeMap<String, u32> = BTreeMap::new();
    let mut contacts: BTreeMap<String, u32> = BTreeMap::new();
    for o in &all {
        *names.entry(text(&o["name"]).to_lowercase()).or_default() += 1;
        *contacts.entry(text(&o["contact"])).or_default() += 1;
    }
    let users: Vec<String> = bench.control.dump("acme", "users").unwrap().iter().map(|u| u.to_string()).collect();
    let has = |table: &str, id: &str| bench.control.children("acme", table).unwrap().iter().any(|c| c.parent_id == id);
    let found = all.iter().filter(|o| {
        let (id, name) = (text(&o["id"]), text(&o["name"]));
        o["isAnonymized"] != true
            && o["applications"] != json!([])
            && o["emails"] != json!([])
            && names[&name.to_lowercase()] == 1
            && contacts[&text(&o["contact"])] == 1
            && !users.iter().any(|u| u.contains(&name))
            && ["notes", "resumes", "files"].iter().all(|t| has(t, &id))
    });
    let found: Vec<Somebody> = found
        .map(|o| Somebody {
            opportunity: text(&o["id"]),
            contact: text(&o["contact"]),
            application: text(&o["applications"][0]),
            name: text(&o["name"]),
            mail: text(&o["emails"][0]),
        })
        .collect();
    assert!(found.len() >= 3, "only {} people are fit for this", found.len());
    found
}

/// Runs it, and makes sure that no name and no address of anybody is in what it says.
async fn verified(bench: &Bench, erased: &[&str], texts: &[&str]) -> Verdict {
    let erased = erased.iter().map(|id| (*id).to_owned()).collect();
    let options = Options { erased, texts: texts.iter().collect() };
    let verdict = verify::run(&bench.world, &tenant("acme"), &options).await.unwrap();
    let said = format!("{}\n{}\n{verdict:?}\n{options:?}", verdict.table(), verdict.json());
    for o in bench.control.dump("acme", "opportunities").unwrap() {
        for value in [&o["name"], &o["emails"][0], &o["phones"][0]["value"]] {
            if let Some(value) = value.as_str().filter(|v| v.len() >= 6) {
                assert!(!said.contains(value), "a value is in what it says:\n{}", said.replace(value, "VALUE"));
            }
        }
    }
    assert_eq!(verdict.exit, verdict.code().number());
    verdict
}

fn places(verdict: &Verdict) -> Vec<String> {
    verdict.findings.iter().map(|f| format!("{}.{}: {}", f.table, f.column, f.what)).collect()
}

async fn assert_nowhere(bench: &Bench, who: &Somebody, when: &str) {
    for ids in [vec![&*who.opportunity], vec![&*who.contact], vec![&*who.opportunity, &*who.contact]] {
        let verdict = verified(bench, &ids, &[&who.name, &who.mail]).await;
        assert_eq!(verdict.findings, [], "{when}: {}", verdict.table());
        assert_eq!(verdict.code(), ExitCode::Done);
        assert!(verdict.searched.rows > 500 && verdict.searched.statistics > 100, "{:?}", verdict.searched);
    }
    let verdict = verified(bench, &[], &[]).await;
    assert_eq!(verdict.findings, [], "{when}: {}", verdict.table());
}

#[tokio::test(start_paused = true)]
async fn who_is_deleted_is_found_before_and_nowhere_after_one_sync() {
    for on in ["redact", "remove"] {
        let bench = loaded(on, &[]).await;
        let who = &people(&bench)[0];
        for id in [&who.opportunity, &who.contact] {
            let verdict = verified(&bench, &[id], &[]).await;
            assert_eq!(verdict.code(), ExitCode::Partial);
            for place in [
                "lever/opportunities.name",
                "lever/opportunities.emails",
                "lever/contacts.name",
                "lever/applications.email",
                "lever/notes.fields",
                "lever/resumes.parsed_data",
                "lever/files.name",
            ] {
                assert!(places(&verdict).iter().any(|p| p.starts_with(place)), "{place} of {:#?}", places(&verdict));
            }
            assert!(verdict.findings.iter().all(|f| f.count > 0 && !f.hint.is_empty()));
            // The name is no part of the rows' columns alone.
            let texts = verified(&bench, &[], &[&who.name.to_uppercase(), &who.mail]).await;
            assert!(
                places(&texts).contains(&"lever/opportunities.emails: values hold a text that was looked for".into())
            );
        }
        bench.pass(MINUTES).await;
        assert!(bench.control.delete_opportunity("acme", &who.opportunity));
        bench.pass(MINUTES).await;
        bench.sync().await;
        assert_nowhere(&bench, who, on).await;
        let verdict = verified(&bench, &[&who.opportunity], &[]).await;
        let rows_left = verdict.notes.iter().any(|n| n.starts_with("rows that belong to who was asked for"));
        assert_eq!(rows_left, on == "redact", "{:?}", verdict.notes);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_anonymized_is_nowhere_after_one_sync() {
    let bench = loaded("redact", &["eeo_responses_pii"]).await;
    let who = &people(&bench)[0];
    bench.pass(MINUTES).await;
    assert!(bench.control.anonymize("acme", &who.opportunity));
    // The opportunity alone is read again: what hangs on it does not wait for its turn.
    bench.pass(MINUTES).await;
    let named = hirelake::sync::Options { resources: vec!["opportunities".parse().unwrap()], ..Default::default() };
    assert_eq!(bench.sync_with(named).await.code, ExitCode::Done);
    assert_nowhere(&bench, who, "anonymized, and the opportunity read").await;
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert_nowhere(&bench, who, "anonymized").await;
    let verdict = verified(&bench, &[&who.opportunity], &[]).await;
    let note = "what the provider still lists of who was anonymized, read again since: ";
    assert!(
        verdict.notes.iter().any(|n| n.starts_with(note) && n.contains("lever/notes.fields")),
        "{:?}",
        verdict.notes
    );
}

/// Tables that were read once and are not any more: nobody asks for their rows again.
#[tokio::test(start_paused = true)]
async fn who_is_gone_goes_from_tables_that_are_read_no_more() {
    let contents = ["file_contents", "resume_contents"];
    let mut bench = loaded("redact", &[contents.as_slice(), &["eeo_responses_pii"]].concat()).await;
    let answers = bench.control.dump("acme", "eeo_responses_pii").unwrap();
    let mut all = people(&bench);
    all.sort_by_key(|who| !answers.iter().any(|a| a["opportunityId"] == who.opportunity));
    let (blank, dead, other) = (&all[0], &all[1], &all[2]);
    let documents = |bench: &Bench, who: &Somebody| {
        let lake = files(&bench.dir.path().join("lake"));
        lake.into_keys().filter(|p| p.starts_with("files") && p.to_string_lossy().contains(&who.opportunity)).count()
    };
    assert!(all[..3].iter().all(|who| documents(&bench, who) > 0));
    let said = places(&verified(&bench, &[&blank.opportunity], &[]).await);
    assert!(said.iter().any(|p| p.starts_with("lever/eeo_responses_pii.gender")), "{said:#?}");
    let of_other = places(&verified(&bench, &[&other.opportunity], &[]).await);
    let asked = |a: &&Value| all[..3].iter().all(|who| a["opportunityId"] != who.opportunity);
    let answer = answers.iter().find(asked).unwrap();
    assert!(bench.living("acme", "eeo_responses_pii").await.contains_key(&text(&answer["id"])));
    let fewer = "resources = [\"opportunities\", \"postings\", \"users\"]\non_delete = \"redact\"";
    bench.reconfigure(fewer, "", &[]);
    bench.pass(MINUTES).await;
    assert!(bench.control.anonymize("acme", &blank.opportunity));
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert_nowhere(&bench, blank, "anonymized").await;
    assert_eq!((documents(&bench, blank), documents(&bench, other) > 0), (0, true));
    let notes = &report.tenants[&tenant("acme")].resources["notes"].notes;
    assert!(notes.iter().any(|n| n.starts_with("rows of people who were anonymized")), "{notes:?}");

    bench.pass(MINUTES).await;
    for id in [&dead.opportunity, &text(&answer["opportunityId"])] {
        assert!(bench.control.delete_opportunity("acme", id));
    }
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert!(!bench.living("acme", "eeo_responses_pii").await.contains_key(&text(&answer["id"])));
    for who in [blank, dead] {
        assert_nowhere(&bench, who, "deleted").await;
    }
    assert_eq!((documents(&bench, dead), documents(&bench, other) > 0), (0, true));
    // Nobody else went with them, and nothing is written that is as it was.
    let said = places(&verified(&bench, &[&other.opportunity], &[]).await);
    assert!(said.iter().any(|p| p.starts_with("lever/notes.fields")) && said == of_other, "{said:#?}\n{of_other:#?}");
    let before = files(&bench.dir.path().join("lake"));
    bench.pass(MINUTES).await;
    bench.sync_with(hirelake::sync::Options { full: true, ..Default::default() }).await;
    let after = files(&bench.dir.path().join("lake"));
    let written: Vec<_> =
        before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).map(|(p, _)| p).collect();
    let read = ["opportunities", "postings", "users"];
    assert!(written.iter().all(|p| read.iter().any(|r| p.starts_with(format!("lever/{r}")))), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn marked_rows_keep_what_they_said_and_are_found() {
    let bench = loaded("mark", &[]).await;
    let who = &people(&bench)[0];
    bench.pass(MINUTES).await;
    bench.control.delete_opportunity("acme", &who.opportunity);
    bench.pass(MINUTES).await;
    bench.sync().await;
    let verdict = verified(&bench, &[&who.opportunity], &[]).await;
    assert!(places(&verdict).contains(&"lever/contacts.name: deleted rows of the person hold values".into()));
    assert!(verdict.findings[0].hint.contains("on_delete"));
}

impl Bench {
    /// The file of a table that holds a row with this text in that column.
    fn file_with(&self, table: &str, column: &str, value: &str) -> PathBuf {
        let lake = self.dir.path().join("lake");
        let of = format!("lever/{table}/");
        let mut found = files(&lake).into_keys().filter(|p| p.starts_with(&of)).map(|p| lake.join(p));
        found
            .find(|p| {
                let batch = read(p);
                let texts = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
                texts.iter().flatten().any(|t| t == value)
            })
            .unwrap()
    }
}

fn read(path: &std::path::Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().collect::<Result<_, _>>().unwrap();
    concat_batches(&schema, &batches).unwrap()
}

fn write(path: &std::path::Path, batch: &RecordBatch) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// The batch with another text in one cell.
fn with(batch: &RecordBatch, key: &str, column: &str, text: &str) -> RecordBatch {
    let ids = batch.column_by_name("id").unwrap().as_string::<i32>().clone();
    let old = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
    let new: StringArray =
        ids.iter().zip(old.iter()).map(|(id, o)| if id == Some(key) { Some(text) } else { o }).collect();
    let schema = batch.schema();
    let columns = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(f, c)| if f.name() == column { Arc::new(new.clone()) as ArrayRef } else { c.clone() });
    RecordBatch::try_new(batch.schema(), columns.collect()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_left_anywhere_is_found() {
    let bench = loaded("redact", &[]).await;
    let all = people(&bench);
    let (who, other) = (&all[0], &all[1]);
    let lake = bench.dir.path().join("lake");
    let old_note = {
        let notes = bench.control.children("acme", "notes").unwrap();
        text(&notes.iter().find(|c| c.parent_id == who.opportunity).unwrap().record["id"])
    };
    bench.pass(MINUTES).await;
    bench.control.delete_opportunity("acme", &who.opportunity);
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert_nowhere(&bench, who, "deleted").await;
    let found = |verdict: &Verdict, what: &str| {
        let of = |f: &&verify::Finding| format!("{}.{}: {}", f.table, f.column, f.what) == what;
        let all: Vec<_> = verdict.findings.iter().filter(of).map(|f| f.count).collect();
        assert_eq!(all.len(), 1, "{what} in {:#?}", places(verdict));
        assert_eq!(verdict.code(), ExitCode::Partial);
        all[0]
    };

    // A row written back by hand: a name, and a note of a dead parent.
    for (table, key, column, value) in [
        ("opportunities", &who.opportunity, "name", who.name.as_str()),
        ("notes", &old_note, "_extra", r#"{"/left":"something"}"#),
        ("contacts", &who.contact, "headline", "something"),
    ] {
        let path = bench.file_with(table, "id", key);
        let before = std::fs::read(&path).unwrap();
        write(&path, &with(&read(&path), key, column, value));
        for id in [&who.opportunity, &who.contact] {
            let verdict = verified(&bench, &[id], &[]).await;
            assert_eq!(found(&verdict, &format!("lever/{table}.{column}: deleted rows of the person hold values")), 1);
            assert_eq!(verdict.findings.len(), 1, "{:#?}", places(&verdict));
        }
        let judged = verified(&bench, &[], &[]).await;
        assert!(places(&judged)[0].contains("another size than the newest commit says"), "{:?}", places(&judged));
        std::fs::write(&path, before).unwrap();
    }
    assert_nowhere(&bench, who, "mended").await;

    // A statistic: of another row's name in the footer, a text that no row has.
    let path = bench.file_with("opportunities", "id", &who.opportunity);
    let before = std::fs::read(&path).unwrap();
    let batch = read(&path);
    let names = batch.column_by_name("name").unwrap().as_string::<i32>();
    let least = names.iter().flatten().min().unwrap().as_bytes().to_vec();
    let mut bytes = before.clone();
    let at = bytes.windows(least.len()).rposition(|w| w == least).unwrap();
    bytes[at..at + least.len()].fill(b'!');
    std::fs::write(&path, bytes).unwrap();
    let verdict = verified(&bench, &[&who.opportunity], &[]).await;
    found(&verdict, "lever/opportunities.name: statistics hold texts that no row has");
    assert_eq!(verdict.findings.len(), 1, "{:#?}", places(&verdict));
    let verdict = verified(&bench, &[], &["!!!!"]).await;
    found(&verdict, "lever/opportunities.name (statistics): values hold a text that was looked for");
    std::fs::write(&path, &before).unwrap();

    // A record in quarantine, of the person and of another resource that names them.
    let auth = bench.auth(RunId::new());
    for (n, record) in [json!({"id": who.opportunity, "name": who.name}), json!({"of": [{"contact": who.contact}]})]
        .into_iter()
        .chain([json!({"id": other.opportunity, "text": format!("like {}", who.name)})])
        .enumerate()
    {
        let (run, name) = (RunId::new(), "opportunities".parse().unwrap());
        let place = format!("quarantine/acme/opportunities/{run}/{n}");
        let sealed = auth.vault().seal(&place, record.to_string().as_bytes()).unwrap();
        let sealed = serde_json::to_vec(&sealed).unwrap();
        bench.state().quarantine(&tenant("acme"), &name, run, n as u64, sealed.into()).await.unwrap();
    }
    let says = "quarantine.: sealed records name the person or hold a text that was looked for";
    let in_opportunities = |v: &Verdict| v.findings.iter().find(|f| f.partition == "opportunities").map(|f| f.count);
    let verdict = verified(&bench, &[&who.contact, &who.opportunity], &[]).await;
    assert_eq!((found(&verdict, says), in_opportunities(&verdict)), (2, Some(2)));
    let verdict = verified(&bench, &[&who.opportunity], &[&who.name]).await;
    assert_eq!(found(&verdict, says), 3);
    std::fs::remove_dir_all(bench.dir.path().join("state/quarantine")).unwrap();

    // A table that the catalogue does not have, a file that is no table, and what a killed run left.
    let strange = lake.join("lever/old_notes/tenant=acme/data.parquet");
    let notes = bench.file_with("notes", "opportunity_id", &other.opportunity);
    write(&strange, &read(&notes));
    let verdict = verified(&bench, &[&other.opportunity], &[]).await;
    assert!(
        found(
            &verdict,
            "lever/old_notes.fields: rows that name the person, in a table that the catalogue does not have"
        ) > 0
    );
    std::fs::remove_dir_all(lake.join("lever/old_notes")).unwrap();
    let document = lake.join(format!("files/lever/tenant=acme/{}/cv.txt", who.opportunity));
    std::fs::create_dir_all(document.parent().unwrap()).unwrap();
    std::fs::write(&document, format!("about {}", who.name.to_uppercase())).unwrap();
    let verdict = verified(&bench, &[&who.opportunity], &[&who.name]).await;
    assert_eq!(found(&verdict, "files/lever.: a file that is called by an id of the person"), 1);
    assert_eq!(found(&verdict, "files/lever.: a file holds an id of the person or a text that was looked for"), 1);
    std::fs::remove_dir_all(lake.join("files")).unwrap();
    std::fs::create_dir_all(lake.join("_staging")).unwrap();
    std::fs::write(lake.join("_staging/acme.x1.parquet"), "PAR1").unwrap();
    std::fs::write(lake.join("_staging/acme-eu.x1.parquet"), "PAR1").unwrap();
    let verdict = verified(&bench, &[&who.opportunity], &[]).await;
    assert_eq!(found(&verdict, "lake/_staging.: unfinished files of a killed run, which may hold anything"), 1);
    std::fs::remove_dir_all(lake.join("_staging")).unwrap();

    // A file that cannot be read proves nothing.
    std::fs::write(&path, &before[..before.len() / 2]).unwrap();
    let verdict = verified(&bench, &[&who.opportunity], &[]).await;
    assert!(places(&verdict)[0].starts_with("lever/opportunities.: it cannot be read: "), "{:?}", places(&verdict));
    std::fs::write(&path, &before).unwrap();
    assert_nowhere(&bench, who, "mended again").await;
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_is_out_of_reach_and_named_and_found_by_texts() {
    let bench = loaded("redact", &[]).await;
    let all = people(&bench);
    let (who, other) = (&all[0], &all[1]);
    let says = json!([{"type": "note", "text": "Note", "value": format!("Much like \u{201c}{}\u{201d}!", who.name)}]);
    let fields = json!({ "fields": says });
    let notes = bench.control.children("acme", "notes").unwrap();
    let note = notes.iter().find(|c| c.parent_id == other.opportunity).unwrap();
    let edited = fields.as_object();
    assert!(bench.control.edit_child(
        "acme",
        "notes",
        &other.opportunity,
        note.record["id"].as_str().unwrap(),
        edited,
        Some(true)
    ));
    bench.pass(MINUTES).await;
    bench.control.delete_opportunity("acme", &who.opportunity);
    bench.pass(MINUTES).await;
    bench.sync().await;
    let verdict = verified(&bench, &[&who.opportunity], &[]).await;
    assert_eq!(verdict.findings, []);
    let note = "what other people wrote about someone in free text on other records is not looked for, unless texts are given (--texts FILE)";
    assert!(verdict.notes.contains(&note.to_owned()), "{:?}", verdict.notes);
    let verdict = verified(&bench, &[&who.opportunity], &[&who.name, &who.mail]).await;
    assert_eq!(places(&verdict), ["lever/notes.fields: values hold a text that was looked for"]);
    assert_eq!(verdict.findings[0].count, 1);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_nobody_has_and_a_contact_that_another_needs_are_told() {
    let bench = loaded("redact", &[]).await;
    let verdict = verified(&bench, &["1b0e1d6c-0000-4000-8000-000000000000"], &[]).await;
    assert_eq!(verdict.findings, []);
    let told = "no row has the id 1b0e1d6c-0000-4000-8000-000000000000: nothing of it is there";
    assert!(verdict.notes.contains(&told.to_owned()), "{:?}", verdict.notes);
    // Of two opportunities of one person one is deleted.
    let mut by_contact: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for o in bench.control.dump("acme", "opportunities").unwrap().iter().filter(|o| o["isAnonymized"] != true) {
        by_contact.entry(text(&o["contact"])).or_default().push(text(&o["id"]));
    }
    let (contact, two) = by_contact.into_iter().find(|(_, all)| all.len() == 2).unwrap();
    bench.pass(MINUTES).await;
    bench.control.delete_opportunity("acme", &two[0]);
    bench.pass(MINUTES).await;
    bench.sync().await;
    let verdict = verified(&bench, &[&two[0]], &[]).await;
    assert_eq!(verdict.findings, [], "{}", verdict.table());
    assert!(verdict.notes.iter().any(|n| n.starts_with("contacts that stay")), "{:?}", verdict.notes);
    let verdict = verified(&bench, &[&contact], &[]).await;
    assert!(verdict.findings.iter().any(|f| f.table == "lever/contacts"), "the person is still there");
    // A name that was mistyped is nobody's, and leaves no lease.
    let error = verify::run(&bench.world, &tenant("acne"), &Options::default()).await.unwrap_err();
    assert!(matches!(error, SyncError::Auth(_)), "{error}");
    assert!(!bench.dir.path().join("state/leases/acne").exists());
    // While another run holds it, it is busy.
    let lease = bench.state().lease(&tenant("acme"), RunId::new()).await.unwrap();
    let error = verify::run(&bench.world, &tenant("acme"), &Options::default()).await.unwrap_err();
    assert_eq!(hirelake::sync::code(&error), ExitCode::Busy);
    lease.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_opportunity_that_was_anonymized_keeps_nobody() {
    let mut bench = loaded("redact", &[]).await;
    let mut by_contact: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for o in bench.control.dump("acme", "opportunities").unwrap().iter().filter(|o| o["isAnonymized"] != true) {
        by_contact.entry(text(&o["contact"])).or_default().push(text(&o["id"]));
    }
    let (_, two) = by_contact.into_iter().find(|(_, all)| all.len() == 2).unwrap();
    // Contacts are read no more, and are put back as they were before a sync emptied them.
    let defaults = format!("{}\nresources = [\"opportunities\", \"applications\"]", Setup::default().defaults);
    bench.reconfigure(&defaults, "", &[]);
    bench.pass(MINUTES).await;
    two.iter().for_each(|id| assert!(bench.control.anonymize("acme", id)));
    bench.pass(MINUTES).await;
    let lake = bench.dir.path().join("lake");
    let before = files(&lake);
    bench.sync().await;
    let verdict = verified(&bench, &[&two[0]], &[]).await;
    assert_eq!(verdict.findings, [], "{}", verdict.table());
    for (path, bytes) in before.iter().filter(|(path, _)| path.starts_with("lever/contacts")) {
        std::fs::write(lake.join(path), bytes).unwrap();
    }
    let verdict = verified(&bench, &[&two[0]], &[]).await;
    assert!(verdict.findings.iter().any(|f| f.table == "lever/contacts"), "{}", verdict.table());
    // As its hint says.
    assert!(verdict.findings.iter().all(|f| f.hint.contains("`hirelake sync --full`")));
    bench.sync_with(hirelake::sync::Options { full: true, ..Default::default() }).await;
    let verdict = verified(&bench, &[&two[0]], &[]).await;
    assert_eq!(verdict.findings, [], "{}", verdict.table());
}

/// Nests so deep that a record with it cannot be decoded.
fn deep() -> Value {
    (0..122).fold(json!("within"), |inner, _| json!([inner]))
}

#[tokio::test(start_paused = true)]
async fn an_erasure_reaches_the_quarantine() {
    let bench = loaded("redact", &[]).await;
    let all = people(&bench);
    let (deleted, blank, other) = (&all[0], &all[1], &all[2]);
    // The person's record, and a child of theirs, which does not name its parent.
    bench.pass(MINUTES).await;
    for who in [deleted, blank, other] {
        let notes = bench.control.children("acme", "notes").unwrap();
        let note = notes.iter().find(|c| c.parent_id == who.opportunity).unwrap();
        let fields = json!({ "surprise": deep(), "fields": [] });
        let id = note.record["id"].as_str().unwrap();
        assert!(bench.control.edit_child("acme", "notes", &who.opportunity, id, fields.as_object(), Some(true)));
        assert!(bench.control.set_field("acme", "opportunities", &who.opportunity, "surprise", deep(), true));
    }
    bench.pass(MINUTES).await;
    // The opportunities cannot be decoded, so they are as old as before; their children are read when they can.
    bench.sync().await;
    for who in [deleted, blank, other] {
        assert!(bench.control.remove_field("acme", "opportunities", &who.opportunity, "surprise", true));
    }
    bench.pass(MINUTES).await;
    bench.sync().await;
    let kept = || files(&bench.dir.path().join("state/quarantine")).len();
    assert_eq!(kept(), 6, "three opportunities and three notes");
    let says = "quarantine.: sealed records name the person or hold a text that was looked for";
    for who in [deleted, blank, other] {
        let verdict = verified(&bench, &[&who.opportunity], &[]).await;
        assert_eq!(places(&verdict).iter().filter(|p| *p == says).count(), 2, "{:?}", places(&verdict));
    }
    // Longer than the overlap, within which a parent's children are read once more.
    bench.pass(6 * MINUTES).await;
    assert!(bench.control.delete_opportunity("acme", &deleted.opportunity));
    assert!(bench.control.anonymize("acme", &blank.opportunity));
    bench.pass(MINUTES).await;
    bench.sync().await;
    // The note of who was anonymized still cannot be decoded: it is there as the provider has it now.
    assert_eq!(kept(), 3, "the other person's two, and the anonymized one's note of today");
    for (who, left) in [(deleted, 0), (blank, 1), (other, 2)] {
        let verdict = verified(&bench, &[&who.opportunity], &[]).await;
        assert_eq!(places(&verdict).iter().filter(|p| *p == says).count(), left, "{:?}", places(&verdict));
    }
    let verdict = verified(&bench, &[&deleted.opportunity, &deleted.contact], &[&deleted.name, &deleted.mail]).await;
    assert_eq!(verdict.findings, [], "{}", verdict.table());
    let verdict = verified(&bench, &[], &[&blank.name, &blank.mail]).await;
    assert_eq!(verdict.findings, [], "{}", verdict.table());
    let _ = &other.application;
}

#[tokio::test(start_paused = true)]
async fn a_lake_is_judged() {
    let bench = loaded("redact", &[]).await;
    let who = &people(&bench)[0];
    let lake = bench.dir.path().join("lake");
    let right = verified(&bench, &[], &[]).await;
    assert_eq!(right.findings, [], "{}", right.table());
    assert!(right.searched.rows > 500 && right.table().starts_with("note: ") || right.notes.is_empty());
    let before = files(&bench.dir.path().join("state"));
    let path = bench.file_with("opportunities", "id", &who.opportunity);
    let (old, batch) = (std::fs::read(&path).unwrap(), read(&path));
    let last = batch.num_rows() - 1;
    let told = |v: &Verdict| v.findings.iter().map(|f| f.what.clone()).collect::<Vec<_>>();

    // Two rows changed places; one stands twice; one is missing.
    let order: arrow::array::UInt32Array = (0..=last).rev().map(|i| i as u32).collect();
    write(&path, &arrow::compute::take_record_batch(&batch, &order).unwrap());
    let verdict = verified(&bench, &[], &[]).await;
    assert!(told(&verdict).contains(&"rows that are not in the table's order".to_owned()), "{:?}", told(&verdict));
    write(&path, &concat_batches(&batch.schema(), [&batch, &batch.slice(last, 1)]).unwrap());
    let verdict = verified(&bench, &[], &[]).await;
    assert!(told(&verdict).contains(&"keys that stand more than once".to_owned()), "{:?}", told(&verdict));
    write(&path, &batch.slice(0, last));
    let verdict = verified(&bench, &[], &[]).await;
    assert!(told(&verdict)[0].contains("where the newest commit says"), "{:?}", told(&verdict));
    // Another year's folder; a file by another name; a folder of another cut; a table of nobody.
    let other = path.parent().unwrap().parent().unwrap().join("created_year=1999");
    for (place, what) in [
        (other.join("data.parquet"), "rows that belong into another partition, or have no key"),
        (path.with_file_name("part-0.parquet"), "no file of a table cut by year"),
        (lake.join("lever/opportunities/tenant=acme/data.parquet"), "no file of a table cut by year"),
        (lake.join("lever/strange/tenant=acme/data.parquet"), "a file of no table of the catalogue"),
    ] {
        std::fs::write(&path, &old).unwrap();
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, &old).unwrap();
        let verdict = verified(&bench, &[], &[]).await;
        assert!(told(&verdict).iter().any(|t| t == what), "{what} of {:?}", told(&verdict));
        assert_eq!(verdict.code(), ExitCode::Partial);
        std::fs::remove_file(&place).unwrap();
    }
    // Gone, damaged, of another shape.
    std::fs::remove_file(&path).unwrap();
    let verdict = verified(&bench, &[], &[]).await;
    assert_eq!(told(&verdict), ["the newest commit speaks of a file that is not there"]);
    std::fs::write(&path, &old[..old.len() - 9]).unwrap();
    assert!(told(&verified(&bench, &[], &[]).await).iter().any(|t| t.starts_with("it cannot be read: ")));
    write(&path, &batch.project(&(0..4).chain(5..batch.num_columns()).collect::<Vec<_>>()).unwrap());
    let verdict = verified(&bench, &[], &[]).await;
    assert!(verdict.findings[0].hint.contains("a column keeps its name"), "{:?}", verdict.findings[0]);
    std::fs::write(&path, &old).unwrap();
    // A ledger that cannot be read.
    let state = bench.dir.path().join("state");
    let ledger = files(&state).into_keys().find(|p| p.starts_with("ledgers/notes/tenant=acme")).unwrap();
    let kept = std::fs::read(state.join(&ledger)).unwrap();
    std::fs::write(state.join(&ledger), "no ledger").unwrap();
    let verdict = verified(&bench, &[], &[]).await;
    assert_eq!(verdict.findings[0].table, "ledgers/notes");
    std::fs::write(state.join(&ledger), kept).unwrap();

    assert_eq!(verified(&bench, &[], &[]).await.findings, []);
    // Nothing was written by all of that but leases.
    let changed: Vec<_> = files(&state).into_iter().filter(|(p, b)| before.get(p) != Some(b)).map(|(p, _)| p).collect();
    assert!(changed.iter().all(|p| p.starts_with("leases")), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_tells_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = real_sandbox(dir.path()).await;
    let control = sandbox.control();
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ");
    std::fs::write(dir.path().join("seed"), control.grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap())
        .unwrap();
    let run = |args: &[&str]| {
        let output = hirelake(dir.path(), args).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(run(&["connect", "acme", "--refresh-token-file", "seed"]).0, 0);
    assert_eq!(run(&["sync"]).0, 0);
    let (code, said, _) = run(&["verify", "acme"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("acme: the lake is right; looked at "), "{said}");
    let who = control.dump("acme", "opportunities").unwrap().into_iter().find(|o| o["isAnonymized"] != true).unwrap();
    let (id, name) = (text(&who["id"]), text(&who["name"]));
    let (code, said, _) = run(&["verify", "acme", "--erased", &id, "--json"]);
    assert_eq!(code, 3, "{said}");
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&json["tenant"], &json["erased"], &json["exit"]), (&json!("acme"), &json!([id]), &json!(3)));
    assert!(!said.contains(&name));
    std::fs::write(dir.path().join("who"), format!("{name}\n\n")).unwrap();
    let (code, said, _) = run(&["verify", "acme", "--texts", "who"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("lever/opportunities") && !said.contains(&name), "{said}");
    assert_eq!(run(&["verify", "acme", "--text", "nobody of that name"]).0, 0);
    let (code, _, said) = run(&["verify", "acne"]);
    assert_eq!(code, 2);
    assert_snapshot!(said, @"
    error: tenant acne was never connected
    hint: did you mean `acme`?
    ");
    std::fs::write(dir.path().join("who"), "\n").unwrap();
    assert_eq!(run(&["verify", "acme", "--texts", "who"]).0, 2, "nothing to look for is a mistake");
    sandbox.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn another_tenants_rows_are_not_looked_at() {
    let accounts = vec![AccountSize::new("acme", 40), AccountSize::new("acme-eu", 40)];
    let bench = Setup { accounts, ..Setup::default() }.start().await;
    bench.connect("acme").await;
    bench.connect("acme-eu").await;
    bench.sync().await;
    let who = bench
        .control
        .dump("acme-eu", "opportunities")
        .unwrap()
        .into_iter()
        .find(|o| o["isAnonymized"] != true)
        .unwrap();
    let verdict = verified(&bench, &[who["id"].as_str().unwrap()], &[]).await;
    assert_eq!(verdict.findings, []);
    assert!(verdict.notes.iter().any(|n| n.starts_with("no row has the id")));
}
