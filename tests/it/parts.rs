//! More than twenty scopes: a tenant's tables read with several grants of one account.

use std::path::Path;
use std::time::Duration;

use hirelake::auth::connect::Refused;
use hirelake::auth::{Auth, AuthError, Grant};
use hirelake::catalog::Mode;
use hirelake::check;
use hirelake::config::{Config, ConfigError};
use hirelake::disconnect;
use hirelake::keepalive;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Outcome, Report};
use hirelake::sandbox::{AccountSize, Limit};
use hirelake::secret::Secret;
use hirelake::status;
use hirelake::sync::{self, Options};
use insta::assert_snapshot;

use crate::harness::{Bench, CALLBACK, Setup, plain, tenant};
use crate::lake::of;
use crate::program::program;

const MINUTES: Duration = Duration::from_secs(600);
const DAY: Duration = Duration::from_secs(86_400);

/// The catalogue's resources as the program itself would split them, for the tenants `acme` and `acme_more`.
fn split() -> Vec<Vec<String>> {
    let provider = hirelake::catalog::embedded().unwrap();
    let all: Vec<_> = provider.resources.iter().collect();
    let shares = hirelake::catalog::scopes::split(&provider, &all);
    shares.iter().map(|s| s.resources.iter().map(|r| format!("\"{}\"", r.name)).collect()).collect()
}

/// `acme` with a part of another app, which reads these.
fn sections(own: &str, of_part: &str) -> String {
    format!(
        "[tenants.acme]\nresources = [{own}]\n[tenants.acme_more]\npart_of = \"acme\"\napp = \"second\"\nresources = [{of_part}]\n"
    )
}

fn setup(opportunities: usize, own: &str, of_part: &str) -> Setup {
    Setup { second: true, config: sections(own, of_part), ..Setup::new(opportunities) }
}

const OWN: &str = r#""opportunities", "applications", "contacts", "users", "postings", "feedback""#;
const OF_PART: &str = r#""stages", "tags", "notes", "offers", "eeo_responses""#;

async fn small() -> Bench {
    let accounts = vec![AccountSize::new("acme", 40), AccountSize::new("birch", 10)];
    let bench = Setup { accounts, ..setup(40, OWN, OF_PART) }.start().await;
    bench.connect("acme").await;
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    bench
}

/// Every table that is read of the account equals the provider's own records; documents are counted.
async fn assert_whole(bench: &Bench) {
    for (resource, _) in bench.world.config.read_by(&tenant("acme")) {
        match resource.content {
            None => bench.assert_table("acme", resource.name.as_str()).await,
            Some(_) => {
                let from = resource.mode.parent().unwrap().as_str();
                let parents = bench.living("acme", from).await.len();
                assert!(parents > 0 && !bench.batches("acme", resource.name.as_str()).await.is_empty(), "{from}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_whole_catalogue_is_read_with_two_grants_behind_one_gate() {
    let shares = split();
    assert_eq!(shares.len(), 2);
    let mut setup = setup(50, &shares[0].join(", "), &shares[1].join(", "));
    setup.rate = Some(Limit { per_second: 10.0, burst: 20 });
    setup.latency = Duration::from_millis(100);
    setup.defaults = String::new();
    let bench = setup.start().await;
    let config = &bench.world.config;
    for name in ["acme", "acme_more"] {
        let scopes = config.scopes(&tenant(name)).unwrap().list;
        assert!((2..=20).contains(&scopes.len()), "{name}: {scopes:?}");
    }
    bench.connect("acme").await;
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    let report = bench.sync().await;
    assert_whole(&bench).await;
    let read = &report.tenants[&tenant("acme")];
    assert_eq!(report.tenants.len(), 1, "a part is no tenant of the report");
    assert_eq!(read.resources.len(), config.provider.resources.len(), "{}", report.table());

    // One bucket: the account's limit is never met, and is reached.
    let stats = bench.control.stats();
    let asked: u64 = stats.requests.iter().filter(|(route, _)| route.starts_with("GET /v1/")).map(|(_, n)| n).sum();
    assert_eq!((asked, read.refused), (read.requests, 0), "{:?}", stats.requests);
    let seconds = report.ended.since(report.started).as_secs_f64();
    assert!(read.requests as f64 / seconds > 8.0, "{} requests in {seconds} s", read.requests);

    // What changes is read with the grant that reads it, and what is deleted goes.
    let control = &bench.control;
    control.edit("acme", 5, 1);
    for table in ["feedback", "notes", "resumes", "interviews"] {
        assert_eq!(control.add_children("acme", table, 3, 1).len(), 3, "{table}");
    }
    let gone = control.dump("acme", "opportunities").unwrap()[7]["id"].as_str().unwrap().to_owned();
    assert!(control.delete_opportunity("acme", &gone));
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert_whole(&bench).await;

    // All that was written is acme's.
    let paths: Vec<String> = bench.files().into_keys().map(|p| p.display().to_string()).collect();
    assert!(paths.iter().all(|p| p.contains("tenant=acme/")), "{paths:?}");
    assert!(bench.state().committed_resources(&tenant("acme_more")).await.unwrap().is_empty());

    // Nothing new: nothing is written.
    bench.pass(MINUTES).await;
    let files = bench.file_times();
    bench.sync().await;
    assert_eq!(bench.file_times(), files);
}

fn outcomes(report: &Report) -> String {
    let read = &report.tenants[&tenant("acme")];
    let of = |outcome: Outcome| {
        let all = read.resources.iter().filter(|(_, r)| r.outcome == outcome);
        all.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
    };
    format!("done: {}\nfailed: {}\n{}", of(Outcome::Done), of(Outcome::Failed), report.troubles().join("\n"))
}

#[tokio::test(start_paused = true)]
async fn a_part_that_cannot_be_asked_for_fails_what_it_reads_and_nothing_else() {
    let bench = Setup { config: sections(OWN, OF_PART), second: true, ..Setup::new(40) }.start().await;
    bench.connect("acme").await;
    // Never connected.
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Reconnect);
    assert_snapshot!(outcomes(&report), @"
    done: applications applications_deleted contacts feedback opportunities opportunities_deleted postings postings_deleted users
    failed: eeo_responses notes offers stages tags
    error: acme: tenant acme: what is read with the grant of its part acme_more was not read: tenant acme_more is not connected
    hint: `hirelake connect acme_more`
    ");
    bench.assert_right("acme").await;

    // Connected, and read from the beginning.
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    bench.sync().await;
    assert_whole(&bench).await;

    // Held by another run.
    let held = bench.state().lease(&tenant("acme_more"), RunId::new()).await.unwrap();
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial, "acme itself is not busy");
    assert!(outcomes(&report).contains("acme_more is busy"), "{}", outcomes(&report));
    held.release().await.unwrap();

    // Disconnected; what it read stays.
    disconnect::run(&bench.world, &tenant("acme_more"), false).await.unwrap();
    bench.control.add("acme", 3);
    bench.pass(MINUTES).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Reconnect);
    bench.assert_right("acme").await;
    assert!(!bench.living("acme", "stages").await.is_empty());
    assert_eq!(of(&report, "feedback").outcome, Outcome::Done);
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    bench.pass(MINUTES).await;
    bench.sync().await;
    assert_whole(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_dies_is_told_by_its_name() {
    let bench = small().await;
    bench.sync().await;
    // The whole account's consents end, and acme alone is given anew.
    bench.control.revoke("acme");
    bench.connect("acme").await;
    bench.pass(Duration::from_secs(3600)).await;
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Reconnect);
    let said = outcomes(&report);
    assert!(said.contains("`hirelake connect acme_more`") && !said.contains("`hirelake connect acme`"), "{said}");
    bench.assert_right("acme").await;

    // The other way round nothing is read: the run, its lake and its commits are acme's.
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    bench.sync().await;
    disconnect::run(&bench.world, &tenant("acme"), false).await.unwrap();
    let report = bench.sync_with(Options { tenants: vec![tenant("acme")], ..Options::default() }).await;
    assert_eq!(report.code, ExitCode::Reconnect);
    assert!(report.tenants[&tenant("acme")].resources.is_empty());
    // And of all tenants it is not even tried: acme was let go.
    assert!(bench.sync().await.tenants.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_part_is_of_its_tenants_account_and_no_other() {
    let accounts = vec![AccountSize::new("acme", 20), AccountSize::new("birch", 10)];
    let bench = Setup { accounts, ..setup(20, OWN, OF_PART) }.start().await;
    bench.connect("acme").await;
    // Not even by force: their rows would lie in one place.
    let error = bench.connect_to("acme_more", "birch", false).await.unwrap_err();
    assert_snapshot!(error.to_string(), @"
    connecting tenant acme_more failed: the grant is of another account than that of acme, of which it is a part
    hint: choose the account of acme on the consent page; a customer of its own has no part_of in its section
    ");
    let error = bench.connect_to("acme_more", "birch", true).await.unwrap_err();
    assert!(matches!(&error, AuthError::Connect { kind: Refused::WrongAccount, .. }), "{error}");
    assert!(bench.state().grants(&tenant("acme_more")).last::<Grant>().await.unwrap().is_none());

    // The account is the family's, whoever came first; others are refused as ever.
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    bench.connect("acme").await;
    let taken = |e: AuthError| matches!(e, AuthError::Connect { kind: Refused::AccountTaken, .. });
    assert!(taken(bench.connect_to("other", "acme", false).await.unwrap_err()));
    disconnect::run(&bench.world, &tenant("acme"), false).await.unwrap();
    assert!(taken(bench.connect_to("other", "acme", false).await.unwrap_err()), "the part holds it");
    bench.connect("acme").await;

    // Acme moves by force; its part is left behind, and nothing of the former account is read any more.
    let error = bench.connect_to("acme", "birch", false).await.unwrap_err();
    assert!(matches!(&error, AuthError::Connect { kind: Refused::WrongAccount, .. }), "{error}");
    bench.connect_to("acme", "birch", true).await.unwrap();
    let report = bench.sync_with(Options::default()).await;
    assert_snapshot!(outcomes(&report), @"
    done: applications applications_deleted contacts feedback opportunities opportunities_deleted postings postings_deleted users
    failed: eeo_responses notes offers stages tags
    error: acme: tenant acme: what is read with the grant of its part acme_more was not read: tenant acme_more is connected to another account than acme, of which it is a part
    hint: connect both to one account: `hirelake connect acme_more` (with --force where it moves); nothing was read with it, or two accounts would be mixed
    ");
    // It follows, by force because it was another account's.
    bench.connect_to("acme_more", "birch", true).await.unwrap();
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_may_be_an_api_key() {
    let part = "\"audit_events\", \"eeo_responses\", \"surveys_diversity\", \"notes\"";
    let text = format!(
        "[tenants.acme]\napp = \"main\"\nresources = [{OWN}]\n[tenants.acme_key]\npart_of = \"acme\"\nresources = [{part}]\n"
    );
    let bench = Setup { config: text, ..Setup::new(30) }.start().await;
    assert_snapshot!(bench.world.config.app(&tenant("acme_key")).unwrap_err().to_string().replace(&bench.dir.path().display().to_string(), "DIR"), @"
    DIR/hirelake.toml: tenant acme_key has no app
    hint: a part without an app is read with an API key: `hirelake connect acme_key --api-key-file FILE`; or say which app in [tenants.acme_key]
    ");
    bench.connect("acme").await;
    let (key, run) = (Secret::new(bench.control.api_key("acme").unwrap()), RunId::new());
    let lease = std::sync::Arc::new(bench.state().lease(&tenant("acme_key"), run).await.unwrap());
    bench.auth(run).seed_api_key(&tenant("acme_key"), lease, key, false).await.unwrap();
    bench.sync().await;
    assert_whole(&bench).await;
    // It needs no scopes of the app.
    let config = &bench.world.config;
    assert!(!config.app_scopes(&config.apps["main"]).unwrap().joined().contains("notes"));
}

#[tokio::test(start_paused = true)]
async fn one_api_key_reads_more_than_an_app_may_and_is_no_part_of_any() {
    let all = split().concat().join(", ");
    let text = format!("[tenants.acme]\napi_key = true\nresources = [{all}]\n");
    let bench = Setup { config: text, ..Setup::new(20) }.start().await;
    let config = &bench.world.config;
    // The hosts are the app's; its scopes are those of everybody else.
    assert_eq!(config.endpoints(&tenant("acme")), config.endpoints(&tenant("birch")));
    assert!(!config.app_scopes(&config.apps["main"]).unwrap().joined().contains("offers"));
    let error = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap_err();
    assert_snapshot!(plain(&error.to_string(), bench.dir.path()), @"
    DIR/hirelake.toml: tenant acme has no app
    hint: it is read with an API key: `hirelake connect acme --api-key-file FILE`; or take `api_key = true` out of [tenants.acme] (or [defaults])
    ");
    let (key, run) = (Secret::new(bench.control.api_key("acme").unwrap()), RunId::new());
    let lease = std::sync::Arc::new(bench.state().lease(&tenant("acme"), run).await.unwrap());
    bench.auth(run).seed_api_key(&tenant("acme"), lease, key, false).await.unwrap();
    bench.sync().await;
    assert_whole(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_section_the_tenant_has_the_defaults_less_what_its_parts_name() {
    let part =
        "[tenants.acme_more]\npart_of = \"acme\"\napp = \"second\"\nresources = [\"tags\", \"sources\", \"notes\"]\n";
    let bench = Setup { config: part.into(), second: true, ..Setup::new(30) }.start().await;
    let config = &bench.world.config;
    let reads = |name: &str| config.tenant(&tenant(name)).resources.iter().map(|r| r.to_string()).collect::<Vec<_>>();
    assert!(!reads("acme").iter().any(|r| ["tags", "sources", "notes"].contains(&r.as_str())));
    assert!(reads("acme").contains(&"opportunities".to_owned()) && reads("other").contains(&"tags".to_owned()));
    assert_eq!(reads("acme_more"), ["sources", "tags", "notes"]);
    // The app that no part names is everybody else's.
    assert_eq!(config.app(&tenant("acme")).unwrap().name.as_str(), "main");
    bench.connect("acme").await;
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    let report = bench.sync().await;
    for table in ["opportunities", "users", "tags", "sources", "notes"] {
        assert_eq!(of(&report, table).outcome, Outcome::Done);
        bench.assert_table("acme", table).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_is_never_synced_alone_and_is_kept_and_shown_and_let_go_by_itself() {
    let bench = small().await;
    let part = tenant("acme_more");
    let alone = Options { tenants: vec![part.clone()], ..Options::default() };
    let error = sync::run(&bench.world, &alone).await.unwrap_err();
    assert_eq!(sync::code(&error), ExitCode::Configuration);
    assert_snapshot!(error.to_string(), @"
    --tenant acme_more: acme_more is a part of acme and is read with it
    hint: --tenant acme; with --resource it reads some tables only
    ");
    assert!(sync::forecast(&bench.world, &alone).await.is_err());
    let planned = sync::forecast(&bench.world, &Options::default()).await.unwrap();
    assert!(planned.iter().all(|p| p.tenant.as_str() == "acme" && p.skipped.is_none()));
    assert!(planned.iter().any(|p| p.resource.as_str() == "notes"));

    // Some tables only, whoever reads them.
    let some = |name: &str| Options { resources: vec![name.parse().unwrap()], ..Options::default() };
    let report = bench.sync_with(some("stages")).await;
    assert_eq!(outcomes(&report), "done: stages\nfailed: \n");
    bench.sync().await;

    // Nobody is needed, though the part has no run of its own.
    bench.pass(2 * DAY).await;
    bench.sync().await;
    let all = status::read(&bench.world).await.unwrap();
    assert!(status::troubles(&bench.world, &all, Some(DAY)).is_empty());
    assert_eq!(all[&part].part_of, Some(tenant("acme")));
    assert!(all[&part].tables.is_empty() && all[&tenant("acme")].tables.contains_key("notes"));
    assert_eq!(all[&part].grant.as_ref().unwrap().missing_scopes, Vec::<String>::new());
    assert_snapshot!(status::table(&all), @"
    tenant     grant  connected   refreshed         dies unused  dies anyway  last run             rows  oldest cursor     note
    acme       live   2026-06-15  2026-06-17 08:00  2026-09-15   2027-06-15   2026-06-17 08:00 ok  380   2026-06-17 07:58
    acme_more  live   2026-06-15  2026-06-17 08:00  2026-09-15   2027-06-15                        0                       part of acme
    ");
    let told = status::full(&bench.world, &part, &all[&part]);
    assert!(told.contains("part of                acme, and read with it") && !told.contains("never"), "{told}");
    // A table of the part that is behind is acme's trouble.
    bench.pass(3 * DAY).await;
    let all = status::read(&bench.world).await.unwrap();
    let behind = status::troubles(&bench.world, &all, Some(DAY));
    assert!(behind.len() == 1 && behind[0].what.contains("stages"), "{behind:?}");

    // The doctor looks at both.
    let told = check::run(&(&bench.world).into(), &[tenant("acme")]).await;
    assert_eq!(told.code, ExitCode::Done, "{}", told.table());
    assert!(told.checks.iter().any(|c| c.target == "acme_more/stages"), "{}", told.table());

    // Each grant has its own idle limit.
    bench.pass(60 * DAY).await;
    let kept = keepalive::run(&bench.world, &keepalive::Options::default()).await.unwrap();
    assert_eq!(kept.tenants.len(), 2);
    assert!(kept.tenants.values().all(|k| k.fate == keepalive::Fate::Refreshed), "{kept:?}");
    bench.sync().await;

    // Nothing is found in the name of a part, which would look as if nothing were there.
    let verified = hirelake::verify::run(&bench.world, &part, &hirelake::verify::Options::default()).await;
    assert_snapshot!(verified.unwrap_err().to_string(), @"
    verify acme_more: acme_more is a part of acme, in whose lake its rows are
    hint: `hirelake verify acme`
    ");

    // Letting the part go touches no row.
    let files = bench.files();
    assert_snapshot!(disconnect::run(&bench.world, &part, true).await.unwrap_err().to_string(), @"
    --erase-lake: acme_more is a part of acme and has no lake of its own
    hint: `hirelake disconnect acme_more` forgets its grant; what it read is erased with acme: `hirelake disconnect acme --erase-lake`
    ");
    let done = disconnect::run(&bench.world, &part, false).await.unwrap();
    assert_eq!(done.revoked, Some(hirelake::auth::disconnect::Revoked::Done), "acme's grant is another app's");
    assert_eq!(bench.files(), files);
    bench.connect_to("acme_more", "acme", false).await.unwrap();
    let done = disconnect::run(&bench.world, &tenant("acme"), true).await.unwrap();
    assert_snapshot!(done.notes().join("\n"), @"
    note: acme_more, a part of it, is connected still and read by nobody now
    hint: `hirelake disconnect acme_more`
    ");
    assert!(bench.files().is_empty());
}

#[tokio::test(start_paused = true)]
async fn consent_asks_each_for_what_it_reads() {
    let bench = small().await;
    let config = &bench.world.config;
    assert_eq!(
        config.scopes(&tenant("acme_more")).unwrap().joined(),
        "offline_access eeo_responses:read:admin notes:read:admin offers:read:admin stages:read:admin tags:read:admin"
    );
    assert!(!config.needed_scopes(&tenant("acme")).contains(&"notes:read:admin".to_owned()));
    let apps: Vec<String> = config.apps.values().map(|a| config.app_scopes(a).unwrap().joined()).collect();
    assert_eq!(apps[1], config.scopes(&tenant("acme_more")).unwrap().joined());
    assert!(config.guide(&config.apps["second"]).unwrap().contains(&apps[1]));
    let auth: std::sync::Arc<Auth> = bench.auth(RunId::new());
    let link = auth.invite(&tenant("acme_more")).unwrap().link;
    assert!(link.as_str().contains("client_id=second-client"));
}

const APPS: &str = "[apps.main]\nenvironment = \"production\"\nclient_id = \"c\"\nclient_secret = { env = \"X\" }\n\
    [apps.second]\nenvironment = \"production\"\nclient_id = \"d\"\nclient_secret = { env = \"Y\" }\n\
    [apps.pretend]\nenvironment = \"sandbox\"\nclient_id = \"e\"\nclient_secret = { env = \"Z\" }\n";

fn load(dir: &Path, text: &str) -> Result<Config, ConfigError> {
    let path = dir.join("hirelake.toml");
    std::fs::write(&path, text).unwrap();
    Config::load_with(Some(&path), std::iter::empty())
}

#[test]
fn what_makes_no_part_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let acme = "[tenants.acme]\napp = \"main\"\nresources = [\"opportunities\", \"tags\"]\n";
    let part = |lines: &str| format!("{acme}[tenants.more]\npart_of = \"acme\"\n{lines}");
    let said: Vec<String> = [
        "[defaults]\npart_of = \"acme\"\n".to_owned(),
        "[tenants.acme]\npart_of = \"acme\"\nresources = [\"tags\"]\n".to_owned(),
        part("resources = [\"users\"]\n[tenants.third]\npart_of = \"more\"\nresources = [\"stages\"]\n"),
        part("app = \"second\"\n"),
        part("app = \"second\"\nresources = [\"users\"]\non_delete = \"mark\"\n"),
        part("app = \"second\"\nresources = [\"users\"]\nrate = { per_second = 1.0, burst = 1 }\n"),
        part("app = \"second\"\nresources = [\"users\", \"tags\"]\n"),
        part(
            "app = \"second\"\nresources = [\"users\"]\n[tenants.third]\npart_of = \"acme\"\nresources = [\"users\"]\n",
        ),
        part("app = \"main\"\nresources = [\"users\"]\n"),
        part("app = \"pretend\"\nresources = [\"users\"]\n"),
        part("app = \"nobody\"\nresources = [\"users\"]\n"),
        part("app = \"second\"\nresources = [\"userz\"]\n"),
        part("app = \"second\"\nresources = [\"applications\"]\n"),
        part("app = \"second\"\nresources = [\"posting_forms\"]\n"),
    ]
    .iter()
    .map(|text| match load(dir.path(), &format!("{APPS}{text}")) {
        Ok(_) => format!("TAKEN: {text}"),
        Err(e) => plain(&e.to_string(), dir.path()),
    })
    .collect();
    assert_snapshot!(said.join("\n"), @r#"
    DIR/hirelake.toml:14:1: `part_of` is of one tenant and has no default
    hint: write it into the section of the part
    DIR/hirelake.toml:14:1: tenant acme is a part of itself
    hint: name the tenant whose account it reads a share of
    DIR/hirelake.toml:20:1: tenant third is a part of more, which is a part itself
    hint: write part_of = "acme"
    DIR/hirelake.toml:17:1: tenant more is a part of acme and names no resources
    hint: say what is read with its own grant: resources = ["notes", "offers"]
    DIR/hirelake.toml:20:1: tenant more is a part of acme and has no `on_delete` of its own
    hint: write it into [tenants.acme]: it is one account
    DIR/hirelake.toml:20:1: tenant more is a part of acme and has no `rate` of its own
    hint: write it into [tenants.acme]: it is one account
    DIR/hirelake.toml:19:24: `tags` is read by more and by acme, of one account
    hint: name it in one of the two: each table is read with one grant
    DIR/hirelake.toml:22:15: `users` is read by third and by more, of one account
    hint: name it in one of the two: each table is read with one grant
    DIR/hirelake.toml:18:1: more and acme are of one app, main, and an app has one grant of an account
    hint: give each an app of its own; or leave `app` out of the part, which is then read with an API key
    DIR/hirelake.toml:18:1: the apps main and pretend are of different environments, so they never see one account
    hint: one account is either of the sandbox or of production
    DIR/hirelake.toml:18:1: there is no app `nobody`
    hint: add a section [apps.nobody], or name one of: main, pretend, second
    DIR/hirelake.toml:19:15: there is no resource `userz`
    hint: did you mean `users`?
    DIR/hirelake.toml:19:15: `applications` comes with the records of `opportunities`, which is not among the resources
    hint: name the two together: they are the same requests, so one grant reads both
    DIR/hirelake.toml:19:15: `posting_forms` is read for each of `postings`, which is not among the resources
    hint: add "postings"
    "#);
    // Children of what another one reads are fine, either way.
    let text = format!("{APPS}{}", part("app = \"second\"\nresources = [\"notes\", \"postings\"]\n"));
    load(dir.path(), &text.replace("\"tags\"", "\"posting_forms\"")).unwrap();
}

/// The program's say over a configuration: exit code, stdout, stderr.
fn told(text: &str, args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hirelake.toml"), text).unwrap();
    let out = program(dir.path(), &[&["catalog", "--scopes"], args].concat()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!("exit {}\n{}\n---\n{}", out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn scopes_that_are_too_many_come_with_what_fits() {
    let app = format!(
        "[apps.main]\nenvironment = \"sandbox\"\nclient_id = \"c\"\nclient_secret = {{ env = \"X\" }}\nredirect_uris = [\"{CALLBACK}\"]\n"
    );
    let provider = hirelake::catalog::embedded().unwrap();
    let all: Vec<String> = provider.resources.iter().map(|r| format!("\"{}\"", r.name)).collect();
    let text = format!("{app}[tenants.acme]\nresources = [{}]\n", all.join(", "));
    // Refused by every other command, with the way to learn what fits.
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path(), &text).unwrap_err().to_string();
    assert_snapshot!(plain(&error, dir.path()), @"
    DIR/hirelake.toml: app main: 28 scopes are needed and lever allows 20 for one application
    hint: enable fewer resources, or split them over two apps of one tenant, or one app and an API key: `hirelake catalog --scopes` prints how (a tenant read with a key alone says `api_key = true`); needed are offline_access applications:read:admin archive_reasons:read:admin audit_events:read:admin contact:read:admin diversity_surveys:read:admin eeo_responses:read:admin eeo_responses_pii:read:admin feedback:read:admin feedback_templates:read:admin files:read:admin form_templates:read:admin forms:read:admin interviews:read:admin notes:read:admin offers:read:admin opportunities:read:admin panels:read:admin postings:read:admin referrals:read:admin requisition_fields:read:admin requisitions:read:admin resumes:read:admin sources:read:admin stages:read:admin tags:read:admin users:read:admin webhooks:read:admin
    ");
    let said = told(&text, &[]);
    assert_snapshot!(said, @r#"
    exit 2
    main	offline_access applications:read:admin archive_reasons:read:admin audit_events:read:admin contact:read:admin feedback:read:admin feedback_templates:read:admin files:read:admin form_templates:read:admin interviews:read:admin notes:read:admin opportunities:read:admin postings:read:admin requisition_fields:read:admin requisitions:read:admin sources:read:admin stages:read:admin tags:read:admin users:read:admin webhooks:read:admin
    second	offline_access diversity_surveys:read:admin eeo_responses:read:admin eeo_responses_pii:read:admin forms:read:admin offers:read:admin panels:read:admin referrals:read:admin resumes:read:admin
    ---
    error: hirelake.toml: app main: 28 scopes are needed and lever allows 20 for one application
    what fits is to read it with 2 apps, each within the limit:
    app main: 20 scopes: opportunities, applications, contacts, users, postings, stages, archive_reasons, sources, tags, requisitions, opportunities_deleted, applications_deleted, postings_deleted, disposition_stages, requisition_fields, feedback_templates, form_templates, audit_events, webhooks, feedback, files, file_actions, interviews, notes, posting_forms, posting_users, file_contents
    app second: 9 scopes: offers, panels, referrals, resumes, forms, eeo_responses, eeo_responses_pii, surveys_diversity, resume_contents, offer_contents


    In the configuration:

    [apps.second]
    environment   = "sandbox"
    client_id     = "your-second-client-id"
    client_secret = { env = "LEVER_SECOND_SECRET" }
    redirect_uris = ["http://127.0.0.1:8914/callback"]

    [tenants.acme]
    app       = "main"
    resources = ["opportunities", "applications", "contacts", "users", "postings", "stages",
      "archive_reasons", "sources", "tags", "requisitions", "disposition_stages", "requisition_fields",
      "feedback_templates", "form_templates", "audit_events", "webhooks", "feedback", "files",
      "file_actions", "interviews", "notes", "posting_forms", "posting_users", "file_contents"]

    [tenants.acme_more]
    part_of   = "acme"
    app       = "second"
    resources = ["offers", "panels", "referrals", "resumes", "forms", "eeo_responses",
      "eeo_responses_pii", "surveys_diversity", "resume_contents", "offer_contents"]

    Register second beside main (hosts that [apps.main] sets are set there too), then have the customer consent to each: `hirelake connect acme_more` after its tenant, for the same account.
    Or read the rest with an API key of the customer's own, whose permissions are not counted: leave [apps.second] and the `app` of the part out, and `hirelake connect acme_more --api-key-file FILE`.
    "#);

    // The lines that it proposes are taken as they are.
    let (_, toml) = said.split_once("In the configuration:\n\n").unwrap();
    let (toml, _) = toml.split_once("\n\nRegister").unwrap();
    let config = load(dir.path(), &format!("{app}{toml}\n")).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    let acme = tenant("acme");
    let read = config.read_by(&acme).into_iter();
    assert_eq!(
        read.map(|(r, _)| r.name.clone()).collect::<Vec<_>>(),
        provider.resources.iter().map(|r| r.name.clone()).collect::<Vec<_>>()
    );
    let of_part = config.resources(&"acme_more".parse().unwrap());
    assert!(of_part.iter().any(|r| matches!(r.mode, Mode::Children { .. })));

    // Of everything, whatever is enabled.
    let all = told(&format!("{app}[defaults]\nresources = [\"users\"]\n"), &["--all"]);
    assert!(all.starts_with("exit 0\nmain\toffline_access ") && all.contains("[tenants.NAME_more]"), "{all}");
}
