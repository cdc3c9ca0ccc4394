//! Fields that nobody declared: kept and told, adopted by the next run, or the resource's failure.

use std::path::PathBuf;
use std::time::Duration;

use hirelake::adopt::{self, EVOLVED};
use hirelake::config::Config;
use hirelake::report::{ExitCode, Outcome};
use hirelake::sync::Options;
use serde_json::{Value, json};

use crate::cli::{code, connected, err, out, run};
use crate::harness::{Bench, Setup, write_config};
use crate::lake::of;

const MINUTES: Duration = Duration::from_secs(600);
const RATE: &str = "rate = { per_second = 1000.0, burst = 1000 }";

impl Bench {
    /// With this `schema`, and a folder for catalogue files.
    fn under(&mut self, schema: &str, more: &str) -> PathBuf {
        let folder = self.dir.path().join("pipelines");
        std::fs::create_dir_all(&folder).unwrap();
        let defaults = format!("{RATE}\nschema = \"{schema}\"\n{more}");
        self.reconfigure(&defaults, "", &[("HIRELAKE_CATALOG", folder.to_str().unwrap())]);
        folder
    }

    fn ids(&self, table: &str) -> Vec<String> {
        let all = self.control.dump("acme", table).unwrap();
        all.iter().map(|o| o["id"].as_str().unwrap().to_owned()).collect()
    }

    fn set(&self, table: &str, id: &str, field: &str, value: Value) {
        assert!(self.control.set_field("acme", table, id, field, value, true), "{table} {field}");
    }
}

#[tokio::test(start_paused = true)]
async fn evolving_tenants_have_the_column_in_the_next_run_in_every_file_and_for_all() {
    let mut setup = Setup::new(200);
    setup.accounts.push(hirelake::sandbox::AccountSize::new("globex", 40));
    let mut bench = setup.start().await;
    let folder = bench.under("evolve", "");
    bench.connect("acme").await;
    bench.connect("globex").await;
    bench.sync().await;
    assert!(!folder.join(EVOLVED).exists(), "nothing drifted");

    let (ids, users) = (bench.ids("opportunities"), bench.ids("users"));
    bench.set("opportunities", &ids[1], "favouriteColour", json!("green"));
    bench.set("opportunities", &ids[1], "nextStepAt", json!(1_790_000_000_000_i64));
    bench.set("opportunities", &ids[2], "score", json!(3));
    bench.set("opportunities", &ids[2], "headline", json!({"odd": true}));
    bench.set("users", &users[0], "desk", json!(12));
    let contact = bench.control.dump("acme", "opportunities").unwrap()[3]["contact"].as_str().unwrap().to_owned();
    bench.set("contacts", &contact, "pronouns", json!(["they"]));
    bench.set("opportunities", &ids[3], "favouriteColour", json!("blue"));
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    insta::assert_snapshot!(report.troubles().join("\n"), @"
    note: acme/opportunities: columns of the next run, in zz-evolved.toml: contacts.pronouns json, opportunities.favourite_colour text, opportunities.next_step_at timestamp(lenient), opportunities.score int
    note: acme/opportunities: fields that the catalogue does not expect, kept in _extra: undeclared /contact/pronouns array ×1, undeclared /favouriteColour string ×2, misfit /headline object ×1, undeclared /nextStepAt epoch ×1, undeclared /score integer ×1
    note: acme/users: columns of the next run, in zz-evolved.toml: users.desk int
    note: acme/users: fields that the catalogue does not expect, kept in _extra: undeclared /desk integer ×1
    ");
    let text = std::fs::read_to_string(folder.join(EVOLVED)).unwrap();
    insta::assert_snapshot!(text.lines().skip(5).collect::<Vec<_>>().join("\n"), @r#"
    [[extend]]
    name = "contacts"
    columns = [
      { name = "pronouns", type = "json", sensitive = true }, # array ×1
    ]

    [[extend]]
    name = "opportunities"
    columns = [
      { name = "favourite_colour", type = "text", sensitive = true }, # string ×2
      { name = "next_step_at", type = "timestamp(lenient)", sensitive = true }, # epoch ×1
      { name = "score", type = "int", sensitive = true }, # integer ×1
    ]

    [[extend]]
    name = "users"
    columns = [
      { name = "desk", type = "int", sensitive = true }, # integer ×1
    ]
    "#);

    // The next process knows them.
    bench.under("evolve", "");
    bench.set("opportunities", &ids[4], "favouriteColour", json!("red"));
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert_eq!(bench.table("acme", "opportunities").await[&ids[4]]["favourite_colour"], "red");
    for table in ["opportunities", "contacts", "users"] {
        let mut shapes = Vec::new();
        for tenant in ["acme", "globex"] {
            for batch in bench.batches(tenant, table).await {
                let shape: Vec<String> =
                    batch.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
                shapes.push(shape);
            }
        }
        shapes.dedup();
        assert_eq!(shapes.len(), 1, "{table}: one glob, one shape, whoever has the field");
    }
    bench.assert_right("acme").await;
    bench.assert_right("globex").await;
    let later = std::fs::read_to_string(folder.join(EVOLVED)).unwrap();
    assert_eq!(later, text, "what is there stays as it is");

    // Another type later is a misfit, kept and told; nothing is retyped.
    bench.set("opportunities", &ids[5], "score", json!("high"));
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "opportunities").drift[0].kind, "misfit");
    assert_eq!(std::fs::read_to_string(folder.join(EVOLVED)).unwrap(), text);
    // A load from the start brings what went to `_extra` into its column.
    bench.sync_with(Options { full: true, ..Options::default() }).await;
    assert_eq!(bench.table("acme", "opportunities").await[&ids[1]]["favourite_colour"], "green");
    bench.assert_right("acme").await;
}

/// What was in `_extra` yesterday and is a column today is of the same person.
#[tokio::test(start_paused = true)]
async fn an_adopted_column_is_dropped_where_undeclared_fields_are() {
    let mut bench = Setup::new(30).start().await;
    let privacy = "[defaults.privacy]\nextra = \"drop\"\n";
    let folder = bench.under("evolve", privacy);
    bench.connect("acme").await;
    let ids = bench.ids("opportunities");
    for (field, value) in [("favouriteColour", json!("canary-green")), ("workEmail", json!("canary@work"))] {
        bench.set("opportunities", &ids[1], field, value);
    }
    let report = bench.sync().await;
    let said = report.troubles().join("\n");
    assert!(said.contains("does not expect, dropped, as the settings of privacy say: undeclared /favour"), "{said}");
    let text = std::fs::read_to_string(folder.join(EVOLVED)).unwrap();
    assert!(text.contains(r#"{ name = "work_email", type = "text", sensitive = true, class = "contact" }"#), "{text}");

    let again = async |bench: &mut Bench, privacy: &str| {
        bench.under("evolve", privacy);
        bench.sync_with(Options { full: true, ..Options::default() }).await;
        let row = bench.table("acme", "opportunities").await.remove(&ids[1]).unwrap();
        ["favourite_colour", "work_email"].map(|c| row.get(c).cloned().unwrap_or_default())
    };
    // The one is of no class and goes with what is undeclared; the other goes with its class, or as somebody says.
    assert_eq!(again(&mut bench, privacy).await, ["", "canary@work"]);
    assert_eq!(again(&mut bench, "[defaults.privacy]\ncontact = \"drop\"\n").await, ["canary-green", ""]);
    let both = format!("{privacy}contact = \"drop\"\n\"opportunities.favourite_colour\" = \"keep\"\n");
    assert_eq!(again(&mut bench, &both).await, ["canary-green", ""]);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_resource_commits_nothing_of_what_drifted() {
    let mut bench = Setup::new(100).start().await;
    bench.under("freeze", "");
    bench.connect("acme").await;
    let report = bench.sync().await;
    assert!(report.troubles().is_empty(), "{:?}", report.troubles());
    let before = (bench.commit("acme", "opportunities").await, bench.table("acme", "opportunities").await);

    let (ids, users) = (bench.ids("opportunities"), bench.ids("users"));
    bench.set("opportunities", &ids[1], "favouriteColour", json!("green"));
    bench.set("users", &users[0], "email", json!(5));
    bench.control.edit("acme", 5, 1);
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    let mut troubles = report.troubles();
    // Whoever is first.
    troubles.sort();
    insta::assert_snapshot!(troubles.join("\n"), @r#"
    error: acme/opportunities: tenant acme: opportunities drifted and its schema is frozen: undeclared /favouriteColour (string); nothing of that window was committed
    hint: `hirelake catalog drift --tenant acme` proposes the lines that adopt it; or set schema = "warn" for the tenant
    error: acme/users: tenant acme: users drifted and its schema is frozen: misfit /email (integer); nothing of that window was committed
    hint: `hirelake catalog drift --tenant acme` proposes the lines that adopt it; or set schema = "warn" for the tenant
    note: acme/opportunities: fields that the catalogue does not expect, whose records were not loaded: undeclared /favouriteColour string ×1
    note: acme/users: fields that the catalogue does not expect, whose records were not loaded: misfit /email integer ×1
    "#);
    assert_eq!(of(&report, "opportunities").outcome, Outcome::Failed);
    assert_eq!(of(&report, "stages").outcome, Outcome::Done, "others go on");
    let after = (bench.commit("acme", "opportunities").await, bench.table("acme", "opportunities").await);
    assert_eq!((after.0.covered, after.1), (before.0.covered, before.1), "neither rows nor cursor");
    assert_eq!(of(&report, "opportunities").drift.len(), 1, "it is told all the same");

    // Once it is adopted, or allowed, the next run makes up for it.
    bench.under("warn", "");
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_load_keeps_the_windows_that_did_not_drift() {
    let mut bench = Setup::new(6_000).start().await;
    bench.under("freeze", "resources = [\"opportunities\"]");
    bench.connect("acme").await;
    let ids = bench.ids("opportunities");
    bench.set("opportunities", &ids[3_000], "favouriteColour", json!("green"));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    let rows = bench.table("acme", "opportunities").await;
    assert!(rows.len() < 6_000 && !rows.contains_key(&ids[3_000]), "{}", rows.len());
    bench.under("warn", "resources = [\"opportunities\"]");
    bench.sync().await;
    assert_eq!(bench.table("acme", "opportunities").await.len(), 6_000);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_parent_stays_due_and_the_others_children_are_read() {
    let resources = "resources = [\"opportunities\", \"notes\"]";
    let mut bench = Setup::new(40).start().await;
    bench.under("freeze", resources);
    bench.connect("acme").await;
    let note = bench.control.children("acme", "notes").unwrap().remove(0);
    let id = note.record["id"].as_str().unwrap().to_owned();
    let fields = json!({"mood": "good"});
    assert!(bench.control.edit_child("acme", "notes", &note.parent_id, &id, fields.as_object(), Some(true)));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    insta::assert_snapshot!(report.troubles().join("\n").replace(&note.parent_id, "PARENT"), @r#"
    error: acme/notes: tenant acme: notes drifted and its schema is frozen: undeclared /mood (string); nothing of that parent was committed
    hint: `hirelake catalog drift --tenant acme` proposes the lines that adopt it; or set schema = "warn" for the tenant
    note: acme/notes: fields that the catalogue does not expect, whose records were not loaded: undeclared /mood string ×1
    "#);
    let parents = of(&report, "notes").parents.clone().unwrap();
    assert_eq!((parents.changed, parents.failed, parents.left), (39, 1, 1));
    let rows = bench.table("acme", "notes").await;
    assert!(!rows.is_empty() && rows.values().all(|r| r["opportunity_id"] != note.parent_id));

    bench.under("warn", resources);
    let report = bench.sync().await;
    assert_eq!(of(&report, "notes").parents.as_ref().unwrap().changed, 1, "it was due");
    bench.assert_table("acme", "notes").await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_written_costs_the_column_not_the_run() {
    let mut bench = Setup::new(30).start().await;
    let folder = bench.under("evolve", "");
    bench.connect("acme").await;
    bench.sync().await;
    let ids = bench.ids("opportunities");
    bench.set("opportunities", &ids[1], "favouriteColour", json!("green"));
    // In the way of the file.
    std::fs::create_dir(folder.join(EVOLVED)).unwrap();
    bench.pass(MINUTES).await;
    let report = bench.sync().await;
    let notes = of(&report, "opportunities").notes.join("\n");
    assert!(notes.contains("could not be adopted") && notes.contains(EVOLVED), "{notes}");
    bench.assert_right("acme").await;
    // What holds no catalogue together is not written either.
    std::fs::remove_dir(folder.join(EVOLVED)).unwrap();
    std::fs::write(folder.join(EVOLVED), "# mine\n[[extend]]\nname = \"user\"\ncolumns = []\n").unwrap();
    let (seen, read) = adopt::seen(&bench.state(), 10, &[]).await.unwrap();
    assert_eq!(read, 2);
    assert!(adopt::evolve(&folder, &bench.world.config.provider, &seen).is_err());
    assert!(std::fs::read_to_string(folder.join(EVOLVED)).unwrap().starts_with("# mine\n[[extend]]\nname = \"user\""));
}

#[test]
fn evolving_without_a_folder_is_a_mistake_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_config(dir.path(), "http://127.0.0.1:1", "schema = \"evolve\"", "");
    let e = Config::load_with(Some(&path), std::iter::empty()).unwrap_err().to_string();
    insta::assert_snapshot!(e.replace(&dir.path().display().to_string(), "DIR"), @r#"
    DIR/hirelake.toml:16:1: `schema = "evolve"` writes columns into a catalogue folder, and none is set
    hint: set `catalog = "pipelines"` (a folder that is there) at the top, or use "warn"
    "#);
    let path = write_config(dir.path(), "http://127.0.0.1:1", "schema = \"frozen\"", "");
    let e = Config::load_with(Some(&path), std::iter::empty()).unwrap_err().to_string();
    insta::assert_snapshot!(e.replace(&dir.path().display().to_string(), "DIR"), @"
    DIR/hirelake.toml:16:10: key `schema`: unknown variant `frozen`, expected one of `warn`, `evolve`, `freeze`
    hint: `hirelake init --print` shows every key with its meaning
    ");
}

#[tokio::test]
async fn the_command_proposes_what_adopts_what_drifted() {
    let bench = connected(30).await;
    let dir = bench.dir.path();
    let none = run(dir, &["catalog", "drift"]).await;
    assert_eq!(code(&none), 0);
    insta::assert_snapshot!(out(&none), @"# There is no report of a run in the state yet: `hirelake sync` leaves one.");
    assert_eq!(code(&run(dir, &["sync"]).await), 0);
    let nothing = run(dir, &["catalog", "drift"]).await;
    insta::assert_snapshot!(out(&nothing), @"# Nothing drifted, by the newest report, that the catalogue does not know by now.");
    let (ids, users) = (bench.ids("opportunities"), bench.ids("users"));
    bench.set("opportunities", &ids[1], "favouriteColour", json!("canary-green"));
    bench.set(
        "opportunities",
        &ids[1],
        "archived",
        json!({"reason": null, "archivedAt": 1_700_000_000_000_i64, "mood": "canary"}),
    );
    bench.set("users", &users[0], "desk", json!(12.5));
    bench.set("users", &users[0], "email", json!(["canary"]));
    assert_eq!(code(&run(dir, &["sync", "--full"]).await), 0);
    let drift = run(dir, &["catalog", "drift", "--tenant", "acme"]).await;
    assert_eq!(code(&drift), 0, "{}", err(&drift));
    insta::assert_snapshot!(out(&drift), @r#"
    # What drifted, by the newest 2 reports. A file of these lines in your catalogue folder adopts them: the next run brings every file
    # forward; rows that were read before keep theirs in `_extra` until they are read again (`sync --full`). A column keeps
    # its type and place for ever. All are marked sensitive, as `_extra` is: take it from what says nothing of a person.

    [[extend]]
    name = "opportunities"
    columns = [
      { name = "favourite_colour", type = "text", sensitive = true }, # string ×1
      # /archived/mood: string ×1; inside `archived`, whose fields are one type for ever, so it cannot be added there: it stays in `_extra`
    ]

    [[extend]]
    name = "users"
    columns = [
      { name = "desk", type = "float", sensitive = true }, # number ×1
      # /email: array ×1; declared in `email`: text, and a column keeps its type for ever: it stays in `_extra`, where `json_extract` finds it; a resource of your own, under another name, may declare `json`
    ]
    "#);
    let as_json = run(dir, &["catalog", "drift", "--json"]).await;
    let told: Value = serde_json::from_str(&out(&as_json)).unwrap();
    assert_eq!(told["adoptions"][0]["columns"][0]["name"], "favourite_colour");

    // What it proposes is taken as it is, and then there is nothing to propose.
    std::fs::create_dir(dir.join("mine")).unwrap();
    std::fs::write(dir.join("mine/drift.toml"), out(&drift)).unwrap();
    let linted = run(dir, &["catalog", "lint", "mine/drift.toml"]).await;
    assert_eq!(code(&linted), 0, "{}", out(&linted));
    let config = std::fs::read_to_string(dir.join("hirelake.toml")).unwrap();
    std::fs::write(dir.join("hirelake.toml"), format!("catalog = \"mine\"\n{config}")).unwrap();
    assert_eq!(code(&run(dir, &["sync"]).await), 0);
    let after = run(dir, &["catalog", "drift"]).await;
    assert!(!out(&after).contains("favourite_colour"), "{}", out(&after));
}
