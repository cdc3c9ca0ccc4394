//! A user's own resources, without a release: looked at, inferred, read.

use std::path::PathBuf;

use hirelake::catalog::{self, Column, ColumnType, Provider};
use hirelake::infer::{self, Ask};
use hirelake::report::ExitCode;
use hirelake::sandbox::Action;

use crate::cli::{code, connected, err, out, run};
use crate::harness::{Bench, Setup, fault, plain, tenant};
use crate::lake::of;

/// Two resources that no release knows: children of opportunities, and a listing.
const OWN: &str = r#"
[[resource]]
name = "own_notes"
about = "notes under another name"
path = "/opportunities/:id/notes"
scope = "notes:read:admin"
mode = "children"
from = "opportunities"
parent = "opportunity_id"
default = "granted"
partition = { column = "opportunity_created_at", label = "opportunity", granularity = "year" }
columns = [
  { name = "id", type = "text" },
  { name = "opportunity_id", type = "ref", from_parent = "id" },
  { name = "opportunity_created_at", type = "timestamp(lenient)", from_parent = "createdAt" },
  { name = "text", type = "text", sensitive = true },
]

[[resource]]
name = "own_stages"
about = "stages under another name"
path = "/stages"
scope = "stages:read:admin"
mode = "full"
columns = [{ name = "id", type = "text" }, { name = "label", type = "text", source = "text" }]
"#;

fn ask(path: &str) -> Ask {
    Ask {
        path: path.into(),
        tenant: tenant("acme"),
        name: None,
        children_of: None,
        records: None,
        query: Vec::new(),
        parents: 20,
    }
}

fn of_parents(path: &str, parents: &str) -> Ask {
    Ask { children_of: Some(parents.parse().unwrap()), ..ask(path) }
}

/// A world whose catalogue folder holds these files.
async fn with_files(mut setup: Setup, files: &[(&str, &str)], defaults: &str) -> (Bench, PathBuf) {
    // The configuration is written anew, so the folder can be filled first.
    setup.config = String::new();
    let defaults = format!("{}\n{defaults}", setup.defaults);
    let mut bench = setup.start().await;
    let folder = bench.dir.path().join("pipelines");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    bench.reconfigure(&defaults, "", &[("HIRELAKE_CATALOG", folder.to_str().unwrap())]);
    bench.connect("acme").await;
    (bench, folder)
}

#[tokio::test(start_paused = true)]
async fn a_resource_of_ones_own_is_looked_at_read_and_kept_right() {
    assert_eq!(catalog::lint_text("own.toml", OWN, None).unwrap()[0].mistakes, []);
    let resources = "resources = [\"opportunities\", \"notes\", \"stages\", \"own_notes\", \"own_stages\"]";
    let (bench, _) = with_files(Setup::new(40), &[("own.toml", OWN)], resources).await;
    bench.sync().await;
    let text = |rows: std::collections::BTreeMap<String, crate::lake::Row>| -> Vec<(String, String)> {
        rows.into_iter()
            .map(|(id, row)| (id, row.get("text").or(row.get("label")).cloned().unwrap_or_default()))
            .collect()
    };
    for (own, ours) in [("own_notes", "notes"), ("own_stages", "stages")] {
        let (own, ours) = (text(bench.table("acme", own).await), text(bench.table("acme", ours).await));
        assert!(own.len() > 3);
        assert_eq!(own, ours);
    }
    let added = bench.control.add_children("acme", "notes", 3, 1);
    bench.pass(std::time::Duration::from_secs(600)).await;
    let report = bench.sync().await;
    assert_eq!(of(&report, "own_notes").inserted, added.len() as u64);
    assert_eq!(text(bench.table("acme", "own_notes").await), text(bench.table("acme", "notes").await));
}

/// What hangs on the people themselves.
const OF_CONTACTS: &str = r#"
[[resource]]
name = "own_people"
about = "contacts, asked for one by one"
path = "/contacts/:id"
paging = { kind = "single" }
scope = "contact:read:admin"
mode = "children"
from = "contacts"
parent = "contact_id"
default = "granted"
partition = { label = "contact", granularity = "none" }
columns = [
  { name = "id", type = "text" },
  { name = "contact_id", type = "ref", from_parent = "id" },
  { name = "name", type = "text", sensitive = true },
  { name = "emails", type = "list<text>", sensitive = true },
]
"#;

#[tokio::test(start_paused = true)]
async fn what_hangs_on_a_contact_goes_with_it() {
    assert_eq!(catalog::lint_text("own.toml", OF_CONTACTS, None).unwrap()[0].mistakes, []);
    let resources = "resources = [\"opportunities\", \"contacts\", \"own_people\", \"opportunities_deleted\"]";
    let (bench, _) = with_files(Setup::new(30), &[("own.toml", OF_CONTACTS)], resources).await;
    bench.sync().await;
    let all = bench.control.dump("acme", "opportunities").unwrap();
    // Of this person there is no other opportunity.
    let alone = |o: &&serde_json::Value| all.iter().filter(|p| p["contact"] == o["contact"]).count() == 1;
    let one = all.iter().filter(|o| o["name"] != "").find(alone).unwrap();
    let contact = one["contact"].as_str().unwrap();
    assert!(bench.table("acme", "own_people").await.contains_key(contact));
    // And of that one who is the same as somebody else.
    let two = all.iter().filter(|o| o["name"] != "" && o["contact"] != contact).find(alone).unwrap();
    let former = two["contact"].as_str().unwrap();
    let third = all.iter().find(|o| o["contact"] != contact && o["contact"] != former).unwrap();
    assert!(bench.table("acme", "own_people").await.contains_key(former));
    bench.control.delete_opportunity("acme", one["id"].as_str().unwrap());
    assert_eq!(bench.control.merge_contacts("acme", former, third["contact"].as_str().unwrap()).len(), 1);
    bench.pass(std::time::Duration::from_secs(600)).await;
    bench.sync().await;
    for (table, gone) in [("contacts", contact), ("own_people", contact), ("contacts", former), ("own_people", former)]
    {
        assert!(!bench.living("acme", table).await.contains_key(gone), "{table}");
    }
}

/// Types that say the same of what the sandbox sends, though one of them says more.
fn alike(inferred: &ColumnType, declared: &ColumnType) -> bool {
    match (inferred, declared) {
        (a, b) if a == b => true,
        (ColumnType::Json, _) | (_, ColumnType::Json) => true,
        (ColumnType::Text | ColumnType::Ref, ColumnType::Text | ColumnType::Ref) => true,
        (ColumnType::Int { .. }, ColumnType::Int { .. } | ColumnType::Float) => true,
        (ColumnType::Timestamp { .. }, ColumnType::Timestamp { .. }) => true,
        (ColumnType::List(a), ColumnType::List(b)) => alike(a, b),
        (ColumnType::Struct(a), ColumnType::Struct(b)) => {
            a.iter().all(|c| b.iter().find(|d| d.source == c.source).is_none_or(|d| alike(&c.ty, &d.ty)))
        }
        _ => false,
    }
}

fn parsed(text: &str) -> Provider {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.toml"), text).unwrap();
    catalog::load(Some(folder.path())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_inferred_of_known_paths_is_what_is_declared() {
    let resources = "resources = [\"opportunities\", \"postings\", \"users\", \"stages\", \"sources\", \"requisitions\", \"notes\", \
        \"interviews\", \"offers\", \"feedback\", \"posting_users\", \"requisition_fields\", \"audit_events\"]";
    let (bench, _) = with_files(Setup::new(60), &[], resources).await;
    bench.sync().await;
    let mut said = String::new();
    let listed = ["users", "stages", "sources", "requisitions", "postings", "opportunities", "requisition_fields"];
    let asks = listed.map(|name| (name, ask(&format!("/{name}"))));
    let wide = |ask: Ask| Ask { parents: 60, ..ask };
    let children = ["notes", "interviews", "offers", "feedback"]
        .map(|name| (name, wide(of_parents(&format!("/opportunities/:id/{name}"), "opportunities"))));
    let users = (
        "posting_users",
        Ask { name: Some("own_posting_users".parse().unwrap()), ..of_parents("/postings/:id/users", "postings") },
    );
    for (name, ask) in asks.into_iter().chain(children).chain([users]) {
        let text = infer::infer(&bench.world, &ask).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!text.contains("@example.com") && !text.contains("canary"));
        let provider = parsed(&text);
        let (own, declared) = (provider.resource(&format!("own_{name}")).unwrap(), bench.resource(name));
        let sources = |keys: &[String], r: &hirelake::catalog::Resource| {
            keys.iter().map(|k| r.column(k).unwrap().source.clone()).collect::<Vec<_>>()
        };
        assert_eq!(sources(&own.key, own), sources(&declared.key, declared), "{name}\n{text}");
        assert_eq!((&own.records, &own.paging), (&declared.records, &declared.paging), "{name}");
        assert_eq!((&own.scope, &own.parent), (&declared.scope, &declared.parent), "{name}");
        assert_eq!(own.mode.parent(), declared.mode.parent(), "{name}");
        if own.mode.parent().is_some() {
            assert_eq!(own.partition, declared.partition, "{name}");
        }
        let find = |c: &Column| declared.columns.iter().find(|d| d.source == c.source || d.name == c.name);
        for c in &own.columns {
            match find(c) {
                Some(d) if !alike(&c.ty, &d.ty) => said += &format!("{name}.{}: {} for {}\n", c.name, c.ty, d.ty),
                Some(d) if d.sensitive && !c.sensitive => said += &format!("{name}.{}: not sensitive\n", c.name),
                Some(_) => {}
                None => said += &format!("{name}.{}: {} is not declared\n", c.name, c.ty),
            }
        }
    }
    assert_eq!(said, "");
}

#[tokio::test(start_paused = true)]
async fn a_proposal_says_what_was_seen_and_no_value() {
    let (bench, _) = with_files(Setup::new(30), &[], "resources = [\"opportunities\", \"panels\", \"stages\"]").await;
    bench.sync().await;
    insta::assert_snapshot!(infer::infer(&bench.world, &ask("/stages")).await.unwrap(), @r#"
    # GET /stages: 9 records in 1 answer.
    # Look it over, say what it is in `about`, and try it: `hirelake catalog lint FILE`. Types are for ever once a lake has
    # the table; `sensitive` is what is blanked when a person is deleted, `class` what settings of privacy know it by: both
    # are only guessed here.
    # Read whole in every run: if the provider takes a filter on the time of change, `mode = "incremental"` costs less.
    [[resource]]
    name    = "own_stages"
    about   = "as inferred from /stages"
    path    = "/stages"
    scope   = "stages:read:admin"
    mode    = "full"
    key     = ["id"]
    default = "granted"
    columns = [
      { name = "id", type = "text" }, # in 9 of 9: string
      { name = "text", type = "text", sensitive = true, class = "free_text" }, # in 9 of 9: string
    ]
    "#);
    let text = infer::infer(&bench.world, &of_parents("/opportunities/:id/panels", "opportunities")).await.unwrap();
    insta::assert_snapshot!(text, @r#"
    # GET /opportunities/:id/panels: 13 records in 20 answers for 20 opportunities.
    # Look it over, say what it is in `about`, and try it: `hirelake catalog lint FILE`. Types are for ever once a lake has
    # the table; `sensitive` is what is blanked when a person is deleted, `class` what settings of privacy know it by: both
    # are only guessed here.
    [[resource]]
    name      = "own_panels"
    about     = "as inferred from /opportunities/:id/panels"
    path      = "/opportunities/:id/panels"
    scope     = "panels:read:admin"
    mode      = "children"
    from      = "opportunities"
    parent    = "opportunity_id"
    key       = ["id"]
    default   = "granted"
    partition = { column = "opportunity_created_at", label = "opportunity", granularity = "year" }
    columns = [
      { name = "id", type = "text" }, # in 13 of 13: string
      { name = "opportunity_id", type = "ref", from_parent = "id" }, # the parent's id
      { name = "opportunity_created_at", type = "timestamp(lenient)", from_parent = "createdAt" }, # the parent's created_at
      { name = "applications", type = "list<ref>" }, # in 13 of 13: array
      { name = "canceled_at", type = "timestamp(lenient)" }, # in 13 of 13, null in 12: integer as large as epoch milliseconds
      { name = "created_at", type = "timestamp(lenient)" }, # in 13 of 13: integer as large as epoch milliseconds
      { name = "end", type = "timestamp(lenient)" }, # in 13 of 13: integer as large as epoch milliseconds
      { name = "external_url", type = "text", sensitive = true, class = "contact" }, # in 13 of 13, null in 12: string
      { name = "externally_managed", type = "bool" }, # in 13 of 13: bool
      { name = "feedback_reminder", type = "text" }, # in 13 of 13: string
      { name = "interviews", type = "list<struct>", sensitive = true, class = "free_text", fields = [
        { name = "date", type = "timestamp(lenient)" },
        { name = "duration", type = "int" },
        { name = "feedback_reminder", type = "text" },
        { name = "feedback_template", type = "text" },
        { name = "id", type = "ref" },
        { name = "interviewers", type = "list<struct>", fields = [
          { name = "email", type = "text" },
          { name = "feedback_template", type = "text" },
          { name = "id", type = "ref" },
          { name = "name", type = "text" },
          { name = "response_status", type = "text" },
        ] },
        { name = "location", type = "text" },
        { name = "note", type = "text" },
        { name = "subject", type = "text" },
      ] }, # in 13 of 13: array
      { name = "note", type = "text", sensitive = true, class = "free_text" }, # in 13 of 13, null in 4: string
      { name = "stage", type = "text" }, # in 13 of 13: string
      { name = "start", type = "timestamp(lenient)" }, # in 13 of 13: integer as large as epoch milliseconds
      { name = "timezone", type = "text" }, # in 13 of 13: string
      { name = "user", type = "ref" }, # in 13 of 13: string
    ]
    "#);
}

#[tokio::test(start_paused = true)]
async fn what_is_inferred_can_be_read_at_once() {
    let (mut bench, folder) = with_files(Setup::new(30), &[], "resources = [\"opportunities\", \"forms\"]").await;
    bench.sync().await;
    let text = infer::infer(&bench.world, &of_parents("/opportunities/:id/forms", "opportunities")).await.unwrap();
    std::fs::write(folder.join("forms.toml"), &text).unwrap();
    let defaults =
        "rate = { per_second = 1000.0, burst = 1000 }\nresources = [\"opportunities\", \"forms\", \"own_forms\"]";
    bench.reconfigure(defaults, "", &[("HIRELAKE_CATALOG", folder.to_str().unwrap())]);
    bench.sync().await;
    let ids = |rows: std::collections::BTreeMap<String, crate::lake::Row>| rows.into_keys().collect::<Vec<_>>();
    let own = ids(bench.table("acme", "own_forms").await);
    assert!(own.len() > 3);
    assert_eq!(own, ids(bench.table("acme", "forms").await));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_inferred_is_told_with_its_cure() {
    let (bench, _) = with_files(Setup::new(10), &[], "resources = [\"opportunities\", \"stages\"]").await;
    let status = |code| Action::Status { code, body: None, retry_after: None };
    let mut said = String::new();
    for (asked, failing) in [
        (ask("stages"), None),
        (ask("/opportunities/:id/notes"), None),
        (of_parents("/opportunities/notes", "opportunities"), None),
        (of_parents("/opportunities/:id/notes", "opportunites"), None),
        (of_parents("/surveys/diversity/:id/answers", "surveys_diversity"), None),
        (of_parents("/opportunities/:id/notes", "opportunities"), None),
        (ask("/nowhere"), None),
        (ask("/users"), None),
        (ask("/stages"), Some(status(400))),
        (Ask { records: Some("rows".into()), ..ask("/stages") }, None),
        (Ask { tenant: tenant("nobody"), ..ask("/stages") }, None),
    ] {
        if let Some(action) = failing {
            bench.control.fault(fault("GET /v1/stages", 0, 9, action));
        }
        let e = infer::infer(&bench.world, &asked).await.unwrap_err();
        said += &format!("{}: {e}\n", asked.path);
        bench.control.clear_faults();
    }
    insta::assert_snapshot!(plain(&said, bench.dir.path()), @"
    stages: `stages` is no path such as `/users` or `/opportunities/:id/notes`
    hint: begin with `/`, below the API base; parameters are given with --query
    /opportunities/:id/notes: `/opportunities/:id/notes` is asked parent by parent, and whose parents is not said
    hint: add --children-of RESOURCE, such as --children-of opportunities
    /opportunities/notes: `/opportunities/notes` does not say where the parent's id stands
    hint: write `:id` once, as in `/opportunities/:id/things`
    /opportunities/:id/notes: there is no resource `opportunites`
    hint: did you mean `opportunities`?
    /surveys/diversity/:id/answers: `surveys_diversity` has no single key column of text, which children need
    hint: name another resource
    /opportunities/:id/notes: the lake has no opportunities of tenant acme
    hint: read them first: `hirelake sync --tenant acme --resource opportunities`
    /nowhere: GET /nowhere: it is not there (404)
    hint: the path is meant below http://127.0.0.1:PORT/v1: compare it with the provider's documentation
    /users: GET /users: the tenant may not read it (403)
    hint: find its scope in the provider's documentation, register it for the app, put it among the app's `scopes`, then `hirelake connect acme`; an API key needs the permission, and some features are paid ones
    /stages: GET /stages: the provider takes the request for malformed (400)
    hint: it may want a parameter: give it with --query KEY=VALUE, as its documentation says
    /stages: GET /stages answers, and has no records under `rows`
    hint: leave --records out, or name another key
    /stages: tenant nobody is not connected
    hint: `hirelake connect nobody`
    ");
    // Nothing is held afterwards, whatever went wrong.
    assert_eq!(bench.sync_with(hirelake::sync::Options::default()).await.code, ExitCode::Done);
}

#[tokio::test]
async fn the_command_looks_at_files_with_and_without_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "own.toml",
        "[[resource]]\nname = \"hooks\"\nabout = \"hooks\"\npath = \"/hooks\"\nmode = \"full\"\ncolumns = [{ name = \"id\", type = \"text\" }, { name = \"email\", type = \"text\" }]\n[[extend]]\nname = \"users\"\ncolumns = [{ name = \"desk\", type = \"int\" }]\n",
    );
    write(
        "bad.toml",
        "[[resource]]\nname = \"hooks\"\npath = \"hooks\"\nmode = \"ful\"\ncolumns = [{ name = \"id\", type = \"txt\" }]\n",
    );
    let fine = run(dir.path(), &["catalog", "lint", "own.toml"]).await;
    assert_eq!((code(&fine), err(&fine).as_str()), (0, ""));
    insta::assert_snapshot!(out(&fine), @"
    own.toml: ok, 1 resource, 1 resource extended, 3 columns, 1 warning
    warning: own.toml:6:53: resource `hooks`: column `email` looks like a person's and is not marked
    hint: add `sensitive = true`: it is blanked when the person is deleted

    lever/hooks: hooks

    read       GET /hooks, whole in every run
    page       100 records
    scope      none
    key        id
    partition  none
    default    on

    COLUMN  TYPE  SOURCE     WHAT
    id      text  id
    email   text  email
    ");
    let bad = run(dir.path(), &["catalog", "lint", "own.toml", "bad.toml", "nowhere.toml"]).await;
    assert_eq!((code(&bad), err(&bad).as_str()), (2, ""));
    insta::assert_snapshot!(out(&bad), @"
    bad.toml: 3 mistakes
    error: bad.toml:3:8: resource `hooks`: key `path`: expected a path such as `/users`, not `hooks`
    hint: begin with `/`; no `..`, no query, no slash at the end
    error: bad.toml:4:8: resource `hooks`: key `mode`: expected `incremental`, `full`, `tombstones`, `extracted` or `children`, not `ful`
    hint: did you mean `full`?
    error: bad.toml:5:34: column `id`: key `type`: unknown type `txt`; expected one of `text`, `int`, `int(lenient)`, `float`, `bool`, `timestamp`, `timestamp(lenient)`, `json`, `ref`, `struct` or `list<…>` of one
    hint: did you mean `text`?
    warning: bad.toml:2:8: resource `hooks`: own.toml has one of this name, which takes its place
    hint: files are read in the order of their names, and the last one counts: give one another name

    nowhere.toml: 1 mistake
    error: nowhere.toml: the file cannot be read: No such file or directory (os error 2)
    hint: check that it exists and that this user may read it

    own.toml: ok, 1 resource, 1 resource extended, 3 columns, 1 warning
    warning: own.toml:6:53: resource `hooks`: column `email` looks like a person's and is not marked
    hint: add `sensitive = true`: it is blanked when the person is deleted

    lever/hooks: hooks

    read       GET /hooks, whole in every run
    page       100 records
    scope      none
    key        id
    partition  none
    default    on

    COLUMN  TYPE  SOURCE     WHAT
    id      text  id
    email   text  email
    ");

    // A configuration whose catalogue is broken is the very case.
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    write("mine/a.toml", "[[extend]]\nname = \"users\"\ncolumns = [{ name = \"desk\", type = \"int\" }]\n");
    write("mine/b.toml", "[[extend]]\nname = \"user\"\ncolumns = []\n");
    write("hirelake.toml", "catalog = \"mine\"\n");
    let broken = run(dir.path(), &["catalog", "lint", "own.toml", "mine/a.toml"]).await;
    assert_eq!(code(&broken), 2);
    insta::assert_snapshot!(out(&broken), @"
    mine/a.toml: ok, 0 resources, 1 resource extended, 1 column

    mine/b.toml: 1 mistake
    error: mine/b.toml:2:8: key `name`: there is no resource `user` to extend
    hint: did you mean `users`?

    own.toml: 1 mistake
    error: own.toml:9:21: column `desk`: this name is there already
    hint: the resource has it itself, or another file adds it: remove it here
    warning: own.toml:6:53: resource `hooks`: column `email` looks like a person's and is not marked
    hint: add `sensitive = true`: it is blanked when the person is deleted
    ");
    let none = run(dir.path(), &["catalog", "lint"]).await;
    assert_eq!(code(&none), 2);
    // What there was is there.
    std::fs::remove_file(dir.path().join("mine/b.toml")).unwrap();
    assert!(out(&run(dir.path(), &["catalog", "users"]).await).contains("desk"));
    assert_eq!(code(&run(dir.path(), &["catalog"]).await), 0);
}

#[tokio::test]
async fn the_command_infers_what_then_passes() {
    let bench = connected(30).await;
    let dir = bench.dir.path();
    let inferred = run(dir, &["catalog", "infer", "/stages", "--tenant", "acme", "--name", "steps"]).await;
    assert_eq!(code(&inferred), 0, "{}", err(&inferred));
    std::fs::write(dir.join("steps.toml"), out(&inferred)).unwrap();
    let linted = run(dir, &["catalog", "lint", "steps.toml"]).await;
    assert_eq!(code(&linted), 0, "{}", out(&linted));
    assert!(out(&linted).starts_with("steps.toml: ok, 1 resource, 2 columns"), "{}", out(&linted));
    let refused = run(dir, &["catalog", "infer", "/opportunities/:id/notes", "--tenant", "acme"]).await;
    assert_eq!(code(&refused), 2);
    let nowhere = run(dir, &["catalog", "infer", "/nowhere", "--tenant", "acme"]).await;
    assert_eq!(code(&nowhere), 3);
}

/// The record of each note by itself: what hangs on children is found by two ids.
const OF_NOTES: &str = r#"
[[resource]]
name = "own_notes_whole"
about = "each note by itself"
path = "/opportunities/:parent/notes/:id"
paging = { kind = "single" }
scope = "notes:read:admin"
mode = "children"
from = "notes"
parent = "note_id"
key = ["id"]
partition = { label = "note", granularity = "none" }
columns = [
  { name = "id", type = "text" },
  { name = "note_id", type = "ref", from_parent = "id" },
  { name = "fields", type = "json", sensitive = true, class = "free_text" },
]
"#;

#[tokio::test(start_paused = true)]
async fn children_of_children_are_found_by_two_ids() {
    let wrong = OF_NOTES.replace("from = \"notes\"", "from = \"opportunities\"");
    let linted = catalog::lint_text("own.toml", &wrong, None).unwrap();
    assert_eq!(
        linted[0].mistakes[0].message,
        "resource `own_notes_whole`: key `path`: `opportunities` has no parent that `:parent` could be"
    );
    let resources = "resources = [\"opportunities\", \"notes\", \"own_notes_whole\"]";
    let (bench, _) = with_files(Setup::new(40), &[("own.toml", OF_NOTES)], resources).await;
    let report = bench.sync().await;
    let notes = bench.living("acme", "notes").await;
    let whole = bench.living("acme", "own_notes_whole").await;
    assert!(notes.len() > 20, "{}", notes.len());
    assert_eq!(notes.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    for (id, note) in &notes {
        assert_eq!(whole[id]["fields"], note["fields"]);
    }
    assert_eq!(report.tenants[&tenant("acme")].resources["own_notes_whole"].requests, notes.len() as u64);

    // A night asks for those of the notes that changed, and they go with whom they speak of.
    let rows = bench.table("acme", "notes").await;
    let (id, note) = rows.iter().next().unwrap();
    assert_eq!(bench.table("acme", "own_notes_whole").await[id]["note_id"], *id);
    let opportunity = note["opportunity_id"].as_str();
    bench.pass(std::time::Duration::from_secs(86_400)).await;
    let said = serde_json::json!({ "fields": [{ "value": "another" }] });
    assert!(bench.control.edit_child("acme", "notes", opportunity, id, said.as_object(), Some(true)));
    bench.pass(std::time::Duration::from_secs(600)).await;
    bench.sync().await;
    let whole = bench.living("acme", "own_notes_whole").await;
    assert!(whole[id]["fields"].to_string().contains("another"), "{}", whole[id]["fields"]);
    bench.control.delete_opportunity("acme", opportunity);
    bench.pass(std::time::Duration::from_secs(600)).await;
    bench.sync().await;
    assert!(!bench.living("acme", "own_notes_whole").await.contains_key(id));

    let ask =
        Ask { name: Some("own_again".parse().unwrap()), ..of_parents("/opportunities/:parent/notes/:id", "notes") };
    let text = infer::infer(&bench.world, &ask).await.unwrap();
    assert!(text.contains("path      = \"/opportunities/:parent/notes/:id\""), "{text}");
    assert!(text.contains("from      = \"notes\"") && text.contains("class = \"free_text\""), "{text}");
}

/// Notes of who has a tag; those who have none are not asked.
const OF_TAGGED: &str = r#"
[[resource]]
name = "own_tagged"
about = "notes of tagged people"
path = "/opportunities/:id/notes"
scope = "notes:read:admin"
mode = "children"
from = "opportunities"
parent = "opportunity_id"
key = ["id"]
partition = { label = "note", granularity = "none" }
skip = { column = "tags", is = "empty", evidence = "a rule of ours" }
columns = [
  { name = "id", type = "text" },
  { name = "opportunity_id", type = "ref", from_parent = "id" },
  { name = "fields", type = "json", sensitive = true, class = "free_text" },
]
"#;

#[tokio::test(start_paused = true)]
async fn who_comes_to_be_left_out_by_a_rule_is_read_once_more() {
    let resources = "resources = [\"opportunities\", \"own_tagged\"]\nreconcile = { nights = 0 }";
    let (bench, _) = with_files(Setup::new(40), &[("own.toml", OF_TAGGED)], resources).await;
    bench.sync().await;
    let of = |report: &hirelake::report::Report| report.tenants[&tenant("acme")].resources["own_tagged"].clone();
    let rows = bench.table("acme", "own_tagged").await;
    let (id, note) = rows.iter().next().unwrap();
    let opportunity = &note["opportunity_id"];
    bench.pass(std::time::Duration::from_secs(86_400)).await;
    let said = serde_json::json!({ "fields": [{ "value": "the last one" }] });
    assert!(bench.control.edit_child("acme", "notes", opportunity, id, said.as_object(), Some(true)));
    assert!(bench.control.set_field("acme", "opportunities", opportunity, "tags", serde_json::json!([]), true));
    bench.pass(std::time::Duration::from_secs(7200)).await;
    let once = of(&bench.sync().await).parents.unwrap();
    assert_eq!((once.changed, once.skipped), (1, 0));
    assert!(bench.table("acme", "own_tagged").await[id]["fields"].contains("the last one"));
    bench.pass(std::time::Duration::from_secs(600)).await;
    let last = of(&bench.sync().await).parents.unwrap();
    assert_eq!((last.changed, last.skipped), (0, 1));
}
