//! The doctor: each known trouble ends in its own diagnosis, and nothing secret is in what it says.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use hirelake::auth::Grant;
use hirelake::check::{self, Checkup, Outcome, Subject};
use hirelake::config::Config;
use hirelake::names::RunId;
use hirelake::report::ExitCode;
use hirelake::sandbox::{self, AccountSize, Action};
use hirelake::secret::Secret;
use hirelake::store::Store;
use hirelake::sync::{self, Options, World};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
};
use serde_json::Value;

use crate::harness::{
    Bench, CALLBACK, CLIENT, CLIENT_SECRET, NOW, Setup, VAULT_KEY, fault, files, plain, private, tenant,
};

async fn connected() -> Bench {
    let bench = Setup::new(20).start().await;
    bench.connect("acme").await;
    bench
}

fn status(code: u16) -> Action {
    Action::Status { code, body: None, retry_after: None }
}

/// What the doctor looks at when these texts of the configuration are others.
fn with(bench: &Bench, changes: &[(&str, &str)]) -> Subject {
    let path = bench.dir.path().join("hirelake.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "the configuration has no {from}");
        text = text.replace(from, to);
    }
    let path = bench.dir.path().join("other.toml");
    std::fs::write(&path, text).unwrap();
    let config = Config::load_with(Some(&path), std::iter::empty()).unwrap();
    Subject::open(Arc::new(config), bench.world.clock)
}

async fn looked(bench: &Bench) -> Checkup {
    check::run(&(&bench.world).into(), &[]).await
}

/// The exit code and every row that is not well, as a person reads them.
fn told(bench: &Bench, checkup: &Checkup) -> String {
    let mut said = format!("exit {}\n", checkup.exit);
    for c in checkup.checks.iter().filter(|c| matches!(c.outcome, Outcome::Fail | Outcome::Warn)) {
        let word = if c.outcome == Outcome::Fail { "FAILED" } else { "WARNING" };
        said += &format!("{word} {} {}: {}\n  hint: {}\n", c.name, c.target, c.what, c.hint.as_deref().unwrap());
    }
    assert!(checkup.checks.iter().all(|c| (c.outcome == Outcome::Fail) == c.code.is_some()));
    assert_clean(bench, &format!("{}{}", checkup.json(), checkup.table()));
    // A probe's objects have names of their own.
    let parts = said.split("probes/").enumerate().map(|(i, p)| if i > 0 { &p[36..] } else { p });
    plain(&parts.collect::<Vec<_>>().join("probes/ID"), bench.dir.path())
}

/// No secret stands in it.
fn assert_clean(bench: &Bench, text: &str) {
    let keys = bench.control.api_key("acme");
    for canary in [CLIENT_SECRET, VAULT_KEY, "canary", "eyJ", "v1."].into_iter().chain(keys.as_deref()) {
        assert!(!text.contains(canary), "{canary} is told: {text}");
    }
}

fn rows(checkup: &Checkup, name: &str, outcome: Outcome) -> usize {
    checkup.checks.iter().filter(|c| c.name == name && c.outcome == outcome).count()
}

/// Another pretend provider on the same clock.
async fn elsewhere(bench: &Bench, seed: u64, client: &str) -> sandbox::Running {
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes;
    sandbox::start(sandbox::Options {
        seed,
        accounts: vec![AccountSize::new("acme", 20)],
        clients: vec![sandbox::Client {
            id: client.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: vec![CALLBACK.into()],
            scopes,
        }],
        clock: bench.world.clock,
        ..sandbox::Options::default()
    })
    .await
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_healthy_world_is_told_so_in_few_requests() {
    let bench = connected().await;
    bench.control.reset_stats();
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Done, "{}", told(&bench, &checkup));
    insta::assert_snapshot!(plain(&checkup.table(), bench.dir.path()), @"
         check      of                                   found
     ok  config     DIR/hirelake.toml        1 app, 0 tenants named
     ok  catalogue  lever                                37 resources, 392 columns
     ok  lake       DIR/lake                 create, no second create, one winner of a race, replace, replace the version read, read back, list, remove
     ok  state      DIR/state                create, no second create, one winner of a race, replace, replace the version read, read back, list, remove
     ok  scratch    /tmp                                 there, create, write, remove
     ok  app        main                                 sandbox: http://127.0.0.1:PORT/v1, tokens from 127.0.0.1, 16 scopes, 1 callback
     ok  client     main                                 http://127.0.0.1:PORT/oauth/token knows the client and takes its secret
     ok  consent    main http://127.0.0.1:PORT/callback  the consent page takes client and callback; audience and scopes show only when a customer signs in
     ok  vault      key                                  the key 96f88271 opens the grants of 1 tenant
     ok  grant      acme                                 grant opened; connected 2026-06-15 08:00, renewed 2026-06-15 08:00
     ok  scopes     acme                                 all 16 that its resources need are granted
     ok  resource   acme/opportunities                   answers, with applications and contact
     ok  resource   acme/users                           answers
     ok  resource   acme/postings                        answers
     ok  resource   acme/stages                          answers
     ok  resource   acme/archive_reasons                 answers
     ok  resource   acme/sources                         answers
     ok  resource   acme/tags                            answers
     ok  resource   acme/requisitions                    answers
     ok  resource   acme/opportunities_deleted           answers
     ok  resource   acme/applications_deleted            answers
     ok  resource   acme/postings_deleted                answers
     ok  resource   acme/disposition_stages              answers
     ok  resource   acme/requisition_fields              answers
     ok  resource   acme/feedback_templates              answers
     ok  resource   acme/form_templates                  answers
     ok  resource   acme/audit_events                    answers
     ok  resource   acme/webhooks                        answers
     ok  clock      acme                                 this machine's clock agrees with the provider's

    29 ok, 0 warnings, 0 failed, 0 skipped
    ");
    let asked: u64 = bench.control.stats().requests.values().sum();
    assert_eq!(asked, 19, "one for each resource with a path of its own, one of the token endpoint, one of the page");
    // Nothing is left but the lease's line.
    let left: Vec<_> = files(&bench.dir.path().join("state")).into_keys().filter(|p| p.starts_with("probes")).collect();
    assert!(left.is_empty() && bench.files().is_empty(), "{left:?}");
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn each_symptom_that_the_provider_lists_has_its_own_diagnosis() {
    let mut said = String::new();
    let url = |bench: &Bench| bench.sandbox.url();

    let bench = connected().await;
    let undefined = with(&bench, &[(CALLBACK, "http://127.0.0.1:8914/callback/")]);
    said += &format!("redirect page says undefined\n{}\n", told(&bench, &check::run(&undefined, &[]).await));

    let secret = bench.dir.path().join("wrong.secret");
    std::fs::write(&secret, "canary-wrong-secret").unwrap();
    let wrong_secret = with(&bench, &[("client.secret", "wrong.secret")]);
    said += &format!("401 at the token URL\n{}\n", told(&bench, &check::run(&wrong_secret, &[]).await));

    let other = elsewhere(&bench, 7, "another-client").await;
    let wrong_api =
        with(&bench, &[(&format!("api_base = \"{}", url(&bench)), &format!("api_base = \"{}", other.url()))]);
    said += &format!("unable to find a signing key\n{}\n", told(&bench, &check::run(&wrong_api, &[]).await));
    let asked: u64 = other.control().stats().requests.values().sum();
    assert_eq!(asked, 1, "what is wrong with the app is not asked for again");

    let wrong_auth = with(
        &bench,
        &[
            (&format!("token = \"{}", url(&bench)), &format!("token = \"{}", other.url())),
            (&format!("authorize = \"{}", url(&bench)), &format!("authorize = \"{}", other.url())),
        ],
    );
    said += &format!("ClientID not found\n{}\n", told(&bench, &check::run(&wrong_auth, &[]).await));

    // The grant says so, and an answer says so although the grant does not.
    let consent = Setup::new(20).start().await;
    let grant =
        consent.control.grant("acme", CLIENT, "offline_access opportunities:read:admin users:read:admin").unwrap();
    seed(&consent, grant.refresh_token.unwrap()).await;
    said += &format!("scope missing from the consent\n{}\n", told(&consent, &looked(&consent).await));
    bench.control.fault(fault("GET /v1/tags", 0, 0, status(403)));
    said += &format!("no access to this endpoint\n{}\n", told(&bench, &looked(&bench).await));

    let audience = Setup::new(20).start().await;
    let grant = audience.control.grant("acme", CLIENT, "offline_access").unwrap();
    seed(&audience, grant.refresh_token.unwrap()).await;
    said += &format!("consent lists only offline_access\n{}", told(&audience, &looked(&audience).await));
    insta::assert_snapshot!(said, @r#"
    redirect page says undefined
    exit 2
    FAILED consent main http://127.0.0.1:PORT/callback/: the consent page does not take this callback ("undefined")
      hint: the callback must stand in the app's registration exactly as in redirect_uris, to the last slash; the customer's page says "undefined" until it does

    401 at the token URL
    exit 2
    FAILED client main: http://127.0.0.1:PORT/oauth/token: the provider refuses the client secret
      hint: correct the app's client_secret; no grant was harmed

    unable to find a signing key
    exit 2
    FAILED grant acme: tenant acme: the provider refuses every token of this app (403)
      hint: the token is of the other environment: sandbox tokens do not work on production, nor the reverse; check the app's environment, and that its api_base and token belong together

    ClientID not found
    exit 2
    FAILED client main: http://127.0.0.1:PORT/oauth/token: the provider does not know this client id on this host
      hint: check client_id and environment: sandbox and production are separate apps; no grant was harmed
    FAILED consent main http://127.0.0.1:PORT/callback: the consent page does not know the client ("ClientID not found")
      hint: the client is unknown on this host: sandbox and production are separate apps; check the app's client_id, environment and hosts

    scope missing from the consent
    exit 0
    WARNING scopes acme: needed and not granted: applications:read:admin contact:read:admin postings:read:admin stages:read:admin archive_reasons:read:admin sources:read:admin tags:read:admin requisitions:read:admin requisition_fields:read:admin feedback_templates:read:admin form_templates:read:admin audit_events:read:admin webhooks:read:admin
      hint: they were missing from the consent: see that they are registered for the app at the provider, then let the customer connect again: `hirelake connect acme`; or leave their resources out

    no access to this endpoint
    exit 0
    WARNING resource acme/tags: tenant acme: tags is not granted (403 on /tags)
      hint: it needs the scope tags:read:admin: add it to the app at the provider and let the customer connect again; or leave tags out of the tenant's resources

    consent lists only offline_access
    exit 2
    FAILED scopes acme: nothing but `offline_access` was granted
      hint: the audience is missing, wrong or without its final slash: check the app's audience and environment, then connect again
    "#);
}

async fn seed(bench: &Bench, token: String) {
    let (run, acme) = (RunId::new(), tenant("acme"));
    let auth = bench.auth(run);
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    auth.seed_refresh_token(&acme, lease.clone(), Secret::new(token), false).await.unwrap();
    auth.settled(&acme).await;
    Arc::into_inner(lease).unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consent_with_a_wrong_audience_is_seen_in_what_was_granted() {
    let bench = Setup::new(20).start().await;
    // Such a consent is refused today; the grant was had elsewhere.
    let (acme, run) = (tenant("acme"), RunId::new());
    let seed = bench.control.grant("acme", CLIENT, "offline_access").unwrap().refresh_token.unwrap();
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    bench.auth(run).seed_refresh_token(&acme, lease.clone(), Secret::new(seed), false).await.unwrap();
    Arc::into_inner(lease).unwrap().release().await.unwrap();
    let checkup = check::run(&(&bench.world).into(), &[]).await;
    assert_eq!(checkup.code, ExitCode::Configuration);
    let scopes = checkup.checks.iter().find(|c| c.name == "scopes").unwrap();
    assert!(scopes.hint.as_ref().unwrap().starts_with("the audience is missing, wrong or without its final slash"));
    assert_eq!(rows(&checkup, "resource", Outcome::Skipped), 19);
}

#[tokio::test(start_paused = true)]
async fn each_refusal_of_the_reference_has_its_own_diagnosis() {
    let bench = connected().await;
    let mut said = String::new();
    let html = |code| Action::Status { code, body: Some("<html>canary</html>".into()), retry_after: None };
    for action in [
        status(400),
        status(401),
        status(404),
        status(422),
        status(429),
        status(500),
        status(502),
        status(503),
        html(403),
        Action::Garbage,
        Action::Reset,
        Action::Delay { ms: 61_000 },
        Action::Redirect { to: "https://lever.co.evil.example/v1/?token=canary".into(), code: 301 },
        Action::Status { code: 403, body: Some("{\"message\": \"canary is an add-on\"}".into()), retry_after: None },
    ] {
        bench.control.clear_faults();
        bench.control.fault(fault("GET /v1/users$", 0, 0, action.clone()));
        let mut text = told(&bench, &looked(&bench).await);
        if let (Some(from), Some(to)) = (text.find("was lost ("), text.find("\n  hint")) {
            // The system's own words depend on when it noticed.
            text.replace_range(from + 8..to, "");
        }
        said += &format!("{}: {text}\n", serde_json::to_value(&action).unwrap());
    }
    insta::assert_snapshot!(said, @r#"
    {"body":null,"code":400,"kind":"status","retry_after":null}: exit 3
    FAILED resource acme/users: tenant acme: users was refused with status 400 on /users
      hint: a parameter in the catalogue is not what the provider takes; if the catalogue is the embedded one, report it

    {"body":null,"code":401,"kind":"status","retry_after":null}: exit 4
    FAILED resource acme/users: the provider refuses the access token of tenant acme on http://127.0.0.1:PORT/v1/users (401)
      hint: a fresh token is refused too: the app may have been removed in the customer's settings, or the API host is of another environment than the token host

    {"body":null,"code":404,"kind":"status","retry_after":null}: exit 3
    FAILED resource acme/users: tenant acme: users is not there (404 on /users)
      hint: the account may not have this feature, or the path in the catalogue is wrong; when every resource says so, the app's api_base is

    {"body":null,"code":422,"kind":"status","retry_after":null}: exit 3
    FAILED resource acme/users: tenant acme: users was refused with status 422 on /users
      hint: the provider could not process it; run again, and report it to the provider if it stays

    {"body":null,"code":429,"kind":"status","retry_after":null}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 6 of 6 after N s: status 429
      hint: something else may be using up the account's limit: lower `rate` in the configuration, or run again later; it resumes

    {"body":null,"code":500,"kind":"status","retry_after":null}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 2 of 2 after N s: status 500
      hint: the provider is in trouble; run again later, it resumes

    {"body":null,"code":502,"kind":"status","retry_after":null}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 2 of 2 after N s: status 502
      hint: a gateway before the provider gave up waiting for it, or a proxy of yours did; run again later, it resumes

    {"body":null,"code":503,"kind":"status","retry_after":null}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 2 of 2 after N s: status 503
      hint: the provider is down for maintenance; run again later, it resumes

    {"body":"<html>canary</html>","code":403,"kind":"status","retry_after":null}: exit 8
    FAILED resource acme/users: tenant acme: users was refused with status 403 on /users
      hint: a page of HTML came where JSON is due: a proxy or a sign-in page answered in the provider's place; check the app's hosts and this machine's proxy

    {"kind":"garbage"}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 2 of 2 after N s: the answer makes no sense (the body is not JSON)
      hint: a proxy or a sign-in page may have answered in the provider's place: check the app's hosts; else run again later, it resumes

    {"kind":"reset"}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 2 of 2 after N s: the answer was lost
      hint: the network or the provider is in trouble; run again later, it resumes

    {"kind":"delay","ms":61000}: exit 8
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 2 after N s: no answer within 60 s
      hint: the network or the provider is in trouble; run again later, it resumes

    {"code":301,"kind":"redirect","to":"https://lever.co.evil.example/v1/?token=canary"}: exit 2
    FAILED resource acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 2 after N s: it was redirected to lever.co.evil.example, which is not one of the provider's hosts
      hint: the credential was not sent there: check the app's api_base; if the provider has moved, add its new host to the app's `hosts`

    {"body":"{\"message\": \"canary is an add-on\"}","code":403,"kind":"status","retry_after":null}: exit 0
    WARNING resource acme/users: tenant acme: users is not granted (403 on /users)
      hint: the scope users:read:admin is missing, or the account's plan or settings do not open it (some features are paid add-ons): ask the customer, or leave users out of the tenant's resources
    "#);
}

#[tokio::test(start_paused = true)]
async fn an_api_base_that_is_wrong_is_told_once() {
    let bench = connected().await;
    let wrong = with(&bench, &[("/v1\"", "/v1/v1\"")]);
    insta::assert_snapshot!(told(&bench, &check::run(&wrong, &[]).await), @"
    exit 2
    FAILED resource acme: none of its 17 resources is there (404 on every path below http://127.0.0.1:PORT/v1/v1)
      hint: the app's api_base is wrong: leave it out, or copy it from the provider's documentation, version included
    ");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_not_there_is_asked_once() {
    let bench = connected().await;
    bench.sandbox.clone().shutdown().await;
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Provider, "{}", told(&bench, &checkup));
    assert_eq!((rows(&checkup, "resource", Outcome::Fail), rows(&checkup, "resource", Outcome::Skipped)), (1, 16));
    assert_eq!(rows(&checkup, "client", Outcome::Fail) + rows(&checkup, "consent", Outcome::Fail), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_told_from_a_damaged_entry_and_from_a_copied_one() {
    let setup =
        Setup { accounts: ["acme", "birch", "cedar"].map(|n| AccountSize::new(n, 10)).into(), ..Setup::default() };
    let bench = setup.start().await;
    for name in ["acme", "birch", "cedar"] {
        bench.connect(name).await;
    }
    private(&bench.dir.path().join("other.key"), &"00".repeat(32));
    let wrong_key = with(&bench, &[("vault.key", "other.key")]);
    let mut said = format!("wrong key\n{}\n", told(&bench, &check::run(&wrong_key, &[]).await));
    private(&bench.dir.path().join("other.key"), "canary");
    let no_key = with(&bench, &[("vault.key", "other.key")]);
    said += &format!("no key\n{}\n", told(&bench, &check::run(&no_key, &[]).await));

    // A byte of the sealed text is another; and birch's entry lies where cedar's belongs.
    let state = bench.state();
    let [acme, birch, cedar] = ["acme", "birch", "cedar"].map(|n| state.grants(&tenant(n)));
    let entry = acme.last::<Grant>().await.unwrap().unwrap();
    let mut damaged = entry.body.clone();
    let text = &mut damaged.sealed.as_mut().unwrap().text;
    let last = if text.starts_with('A') { "B" } else { "A" };
    text.replace_range(0..1, last);
    acme.append(entry.n, damaged).await.unwrap();
    let copied = birch.last::<Grant>().await.unwrap().unwrap().body;
    let n = cedar.last::<Grant>().await.unwrap().unwrap().n;
    cedar.append(n, copied).await.unwrap();
    let checkup = looked(&bench).await;
    said += &format!("damaged and copied\n{}", told(&bench, &checkup));
    assert!(
        checkup.checks.iter().any(|c| c.name == "resource" && c.target == "birch/users" && c.outcome == Outcome::Ok)
    );
    insta::assert_snapshot!(said, @"
    wrong key
    exit 2
    FAILED vault key: grants do not open, of 3 tenants (acme, birch, cedar): it is sealed with the vault key 96f88271, and the key at hand is 5e219909
      hint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`

    no key
    exit 2
    FAILED vault file DIR/other.key: the vault key (file DIR/other.key) cannot be had: the vault key is not usable: it must be 32 bytes as 64 hex digits or base64
      hint: make one with `head -c 32 /dev/urandom | base64`

    damaged and copied
    exit 2
    FAILED vault acme: the grant of tenant acme cannot be opened: it does not open with its own key here: it was changed, or belongs to another tenant, app or generation
      hint: check that the app's client_id and environment are those under which the tenant connected; else restore the entry from a backup
    FAILED vault cedar: the grant of tenant cedar cannot be opened: it does not open with its own key here: it was changed, or belongs to another tenant, app or generation
      hint: check that the app's client_id and environment are those under which the tenant connected; else restore the entry from a backup
    ");
}

#[tokio::test(start_paused = true)]
async fn a_dead_grant_is_told_and_not_tried_again() {
    let bench = connected().await;
    bench.control.revoke("acme");
    let mut said = told(&bench, &looked(&bench).await);
    bench.control.reset_stats();
    said += &told(&bench, &looked(&bench).await);
    let stats = bench.control.stats().requests;
    assert_eq!(stats["POST /oauth/token"], 1, "the app's own question");
    assert!(!stats.keys().any(|route| route.starts_with("GET /v1")));
    insta::assert_snapshot!(said, @"
    exit 4
    FAILED grant acme: the grant of tenant acme is dead since 2026-06-15T08:00:00.000Z: the provider says invalid_grant
      hint: a Super Admin of the customer must connect again: `hirelake connect acme`
    exit 4
    FAILED grant acme: the grant of tenant acme is dead since 2026-06-15T08:00:00.000Z: the provider says invalid_grant
      hint: a Super Admin of the customer must connect again: `hirelake connect acme`
    ");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_another_run_holds_is_left_alone() {
    let bench = connected().await;
    let held = bench.state().lease(&tenant("acme"), RunId::new()).await.unwrap();
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Done, "{}", told(&bench, &checkup));
    let grant = checkup.checks.iter().find(|c| c.name == "grant").unwrap();
    assert_eq!(grant.outcome, Outcome::Skipped);
    assert!(grant.what.starts_with("tenant acme is busy: run "), "{}", grant.what);
    assert_eq!(grant.hint.as_deref(), Some("wait for that run to end; its hold ends with its process"));
    held.release().await.unwrap();
    assert_eq!(rows(&looked(&bench).await, "resource", Outcome::Ok), 17);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_off_is_told() {
    let bench = connected().await;
    let mut said = String::new();
    for offset_s in [-29, 45, -400] {
        bench.control.clear_faults();
        bench.control.fault(fault("GET /v1/", 0, 0, Action::Date { offset_s }));
        said += &format!("{offset_s} s: {}", told(&bench, &looked(&bench).await));
    }
    insta::assert_snapshot!(said, @"
    -29 s: exit 0
    45 s: exit 0
    WARNING clock acme: this machine's clock is 45 s behind the provider's
      hint: let the machine's clock be set from the network (NTP): lives of tokens are judged by it
    -400 s: exit 2
    FAILED clock acme: this machine's clock is 400 s ahead of the provider's
      hint: let the machine's clock be set from the network (NTP): lives of tokens are judged by it
    ");
}

#[tokio::test(start_paused = true)]
async fn without_a_tenant_the_rest_is_looked_at() {
    let bench = Setup::new(20).start().await;
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Done);
    let tenants = checkup.checks.iter().find(|c| c.name == "tenants").unwrap();
    assert_eq!(tenants.outcome, Outcome::Skipped);
    assert_eq!(tenants.hint.as_deref(), Some("`hirelake connect TENANT` connects one"));
    assert_eq!(rows(&checkup, "lake", Outcome::Ok) + rows(&checkup, "client", Outcome::Ok), 2);
    // One that is named is missed.
    let named = check::run(&(&bench.world).into(), &[tenant("acme")]).await;
    assert_eq!(named.code, ExitCode::Reconnect);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_due_is_made_and_kept() {
    let bench = connected().await;
    bench.pass(Duration::from_secs(3590)).await;
    bench.control.reset_stats();
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Done, "{}", told(&bench, &checkup));
    assert_eq!(bench.control.stats().requests["POST /oauth/token"], 2, "the app's own question, and the refresh");
    let grant = bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().unwrap().body;
    assert_eq!(grant.generation, 2);
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_key_is_looked_at_like_a_grant() {
    let bench = Setup::new(20).start().await;
    let (run, acme) = (RunId::new(), tenant("acme"));
    let auth = bench.auth(run);
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    let key = bench.control.api_key("acme").unwrap();
    auth.seed_api_key(&acme, lease.clone(), Secret::new(key), false).await.unwrap();
    Arc::into_inner(lease).unwrap().release().await.unwrap();
    let checkup = looked(&bench).await;
    assert_eq!((checkup.code, rows(&checkup, "resource", Outcome::Ok)), (ExitCode::Done, 17));
    assert_eq!(rows(&checkup, "scopes", Outcome::Ok), 0, "what a key may is not known before it is tried");

    // The permission for what comes along is missing, not that for the opportunities.
    bench.control.fault(fault("GET /v1/opportunities$", 0, 1, status(403)));
    let mut said = told(&bench, &looked(&bench).await);
    bench.control.fault(fault("GET /v1/users$", 0, 0, status(403)));
    bench.control.fault(fault("GET /v1/tags$", 0, 0, status(401)));
    said += &told(&bench, &looked(&bench).await);
    insta::assert_snapshot!(said, @"
    exit 0
    WARNING resource acme/opportunities: tenant acme: opportunities is not granted (403 on /opportunities)
      hint: opportunities alone may be read, and not with what comes with it (applications, contact): give the key or the app the permission for applications, contact, or leave them out of the tenant's resources
    exit 4
    WARNING resource acme/users: tenant acme: users is not granted (403 on /users)
      hint: the API key lacks the permission for users; a key cannot be changed: make one that has it and store it with `hirelake connect TENANT --api-key-file FILE`, or leave users out of the tenant's resources
    FAILED resource acme/tags: the provider refuses the API key of tenant acme on http://127.0.0.1:PORT/v1/tags (401)
      hint: the key is wrong or was removed: `hirelake connect TENANT --api-key-file FILE` stores another
    ");
}

/// A store that does as it likes with what a put depends on.
#[derive(Debug)]
struct Odd {
    inner: Arc<dyn ObjectStore>,
    manner: Manner,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Every put overwrites.
    IgnoresAll,
    /// Creates are conditional, replacements are not.
    IgnoresVersions,
    /// It refuses every version, even its own.
    RefusesVersions,
    /// It looks first and writes then, so that a race has several winners.
    LooksFirst,
    /// Nothing can be written.
    ReadOnly,
    /// What was written is listed later.
    ListsLate,
    Full,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Odd {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let refused = |source: Box<dyn std::error::Error + Send + Sync>| {
            Err(object_store::Error::PermissionDenied { path: location.to_string(), source })
        };
        match (self.manner, &options.mode) {
            (Manner::ReadOnly, _) => return refused("the host says no".into()),
            (Manner::Full, _) => {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
                return Err(object_store::Error::Generic { store: "test", source });
            }
            (Manner::IgnoresAll, _) | (Manner::IgnoresVersions, PutMode::Update(_)) => {
                options.mode = PutMode::Overwrite;
            }
            (Manner::RefusesVersions, PutMode::Update(_)) => {
                let source = "canary".into();
                return Err(object_store::Error::Precondition { path: location.to_string(), source });
            }
            (Manner::LooksFirst, PutMode::Create) => {
                if self.inner.get_opts(location, GetOptions::default()).await.is_ok() {
                    let source = "canary".into();
                    return Err(object_store::Error::AlreadyExists { path: location.to_string(), source });
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                options.mode = PutMode::Overwrite;
            }
            _ => {}
        }
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }
    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if self.manner == Manner::ListsLate {
            return Box::pin(futures::stream::empty());
        }
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
    async fn rename_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: RenameOptions,
    ) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_relied_on_is_refused_with_the_reason() {
    let bench = connected().await;
    let mut said = String::new();
    for manner in [
        Manner::IgnoresAll,
        Manner::IgnoresVersions,
        Manner::RefusesVersions,
        Manner::LooksFirst,
        Manner::ReadOnly,
        Manner::Full,
        Manner::ListsLate,
    ] {
        let odd = || Store::memory().wrapped(|inner| Arc::new(Odd { inner, manner }));
        let lake = Subject { lake: Ok(odd()), ..Subject::from(&bench.world) };
        let checkup = check::run(&lake, &[]).await;
        said += &format!("{manner:?} {}", told(&bench, &checkup));
        // An unsound state is not worked with.
        let state = Subject { state: Ok(odd()), ..Subject::from(&bench.world) };
        let checkup = check::run(&state, &[]).await;
        assert_eq!((checkup.exit, rows(&checkup, "tenants", Outcome::Skipped)), (7, 1), "{manner:?}");
    }
    insta::assert_snapshot!(said, @r#"
    IgnoresAll exit 7
    FAILED lake memory://: at "no second create": the store memory:// cannot be relied on: it ignores that an object may be created only where there is none
      hint: use another store: a local folder, or one that honours conditional writes and lists what was just written; on this one two runs would write over each other
    IgnoresVersions exit 7
    FAILED lake memory://: at "not a stale one": the store memory:// cannot be relied on: it ignores that an object may be replaced only in the version that was read
      hint: use another store: a local folder, or one that honours conditional writes. For a lake (never for the state) `without_conditional_replace = true` in [store.lake] accepts it: then the leases alone keep two runs apart
    RefusesVersions exit 7
    FAILED lake memory://: at "replace the version read": the store memory:// cannot be relied on: it refuses to replace an object by the very version that it gave for it
      hint: use another store: a local folder, or one that honours conditional writes. For a lake (never for the state) `without_conditional_replace = true` in [store.lake] accepts it: then the leases alone keep two runs apart
    LooksFirst exit 7
    FAILED lake memory://: at "one winner of a race": the store memory:// cannot be relied on: of several that create one object at once not exactly one wins
      hint: use another store: a local folder, or one that honours conditional writes and lists what was just written; on this one two runs would write over each other
    ReadOnly exit 7
    FAILED lake memory://: at "create": create probes/ID/made in memory:// failed: the host says no
      hint: these credentials may not write there; docs/storage.md has the permissions that a run needs
    Full exit 7
    FAILED lake memory://: at "create": create probes/ID/made in memory:// failed: no storage space
      hint: the disk is full; what was committed before is safe: free some space and run again, it resumes
    ListsLate exit 7
    FAILED lake memory://: at "list": the store memory:// cannot be relied on: a listing lacks what was just written
      hint: use another store: a local folder, or one that honours conditional writes and lists what was just written; on this one two runs would write over each other
    "#);
}

#[tokio::test(start_paused = true)]
async fn a_file_where_a_folder_should_be_is_told_beside_all_else() {
    let bench = connected().await;
    std::fs::write(bench.dir.path().join("file"), "x").unwrap();
    let no_lake = with(&bench, &[("lake = \"lake\"", "lake = \"file\"")]);
    let checkup = check::run(&no_lake, &[]).await;
    assert_eq!(rows(&checkup, "resource", Outcome::Ok), 17);
    let mut said = told(&bench, &checkup);
    let no_state = with(&bench, &[("state = \"state\"", "state = \"ftp://me:canary@host/state\"")]);
    said += &told(&bench, &check::run(&no_state, &[]).await);
    insta::assert_snapshot!(said, @r#"
    exit 7
    FAILED lake DIR/file: make folder DIR/file failed: File exists (os error 17)
      hint: what was committed before is safe; when the cause is mended run again, it resumes
    exit 7
    FAILED state ftp://…: "ftp://…" is not a usable store: no store of the kind `ftp` is built in
      hint: use a path, file://, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    "#);
}

#[tokio::test(start_paused = true)]
async fn tenants_are_looked_at_apart() {
    let setup = Setup { accounts: ["acme", "birch"].map(|n| AccountSize::new(n, 10)).into(), ..Setup::default() };
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench.connect("birch").await;
    bench.control.revoke("acme");
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Reconnect);
    assert!(checkup.checks.iter().filter(|c| c.target.starts_with("birch")).all(|c| c.outcome == Outcome::Ok));
    let only = check::run(&(&bench.world).into(), &[tenant("birch")]).await;
    assert_eq!(only.code, ExitCode::Done);
    assert!(!only.checks.iter().any(|c| c.target.starts_with("acme")));
}

#[tokio::test(start_paused = true)]
async fn the_json_has_one_shape_and_no_secret() {
    let bench = connected().await;
    bench.control.fault(fault("GET /v1/tags", 0, 0, status(500)));
    let checkup = looked(&bench).await;
    told(&bench, &checkup);
    let json: Value = serde_json::from_str(&checkup.json()).unwrap();
    let (checks, head) = (json["checks"].as_array().unwrap(), &json);
    let keys: Vec<&String> = head.as_object().unwrap().keys().collect();
    let pick =
        |name: &str, outcome: &str| checks.iter().find(|c| c["name"] == name && c["outcome"] == outcome).unwrap();
    let text = format!(
        "{keys:?} {} {}\n{:#}\n{:#}",
        json["code"],
        json["exit"],
        pick("catalogue", "ok"),
        pick("resource", "fail")
    );
    insta::assert_snapshot!(plain(&text, bench.dir.path()), @r#"
    ["checks", "code", "exit", "version"] "provider" 8
    {
      "name": "catalogue",
      "outcome": "ok",
      "target": "lever",
      "what": "37 resources, 392 columns"
    }
    {
      "code": "provider",
      "hint": "the provider is in trouble; run again later, it resumes",
      "name": "resource",
      "outcome": "fail",
      "target": "acme/tags",
      "what": "GET http://127.0.0.1:PORT/v1/tags failed at attempt 2 of 2 after N s: status 500"
    }
    "#);
    assert_eq!(bench.world.clock.now().since(NOW).as_secs() / 3600, 0);
}

#[tokio::test]
async fn the_command_ends_with_the_verdict() {
    use crate::cli::{code, err, out, run};
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hirelake.toml"), "laek = \"x\"\n").unwrap();
    let broken = run(dir.path(), &["check"]).await;
    assert_eq!((code(&broken), err(&broken).as_str()), (2, ""));
    insta::assert_snapshot!(out(&broken).lines().map(str::trim_end).collect::<Vec<_>>().join("\n"), @"
             check   of             found
     FAILED  config  configuration  hirelake.toml:1:1: unknown field `laek`, expected one of `lake`, `state`, `store`, `scratch`, `catalog`, `vault`, `apps`, `defaults`, `tenants`, `partitions`, `sync`, `connect`, `keepalive`

    config configuration
    hint: did you mean `lake`?

    0 ok, 0 warnings, 1 failed, 0 skipped
    ");

    let bench = crate::cli::connected(10).await;
    let fine = run(bench.dir.path(), &["check", "--json"]).await;
    assert_eq!(code(&fine), 0, "{}", out(&fine));
    let json: Value = serde_json::from_str(&out(&fine)).unwrap();
    assert_eq!(json["code"], "done");
    std::fs::write(bench.dir.path().join("client.secret"), "canary-other").unwrap();
    let wrong = run(bench.dir.path(), &["check", "--tenant", "acme"]).await;
    assert_eq!(code(&wrong), 2);
    assert!(out(&wrong).contains("FAILED"), "{}", out(&wrong));
    assert_clean(&bench, &format!("{}{}{}", out(&fine), out(&wrong), err(&wrong)));
}

#[tokio::test(start_paused = true)]
async fn a_scratch_folder_that_is_not_there_is_made_and_one_that_cannot_be_is_told() {
    let bench = connected().await;
    let scratch = bench.dir.path().join("not/there/yet");
    let there = |to: &str| with(&bench, &[("state = \"state\"", &format!("state = \"state\"\nscratch = \"{to}\""))]);
    let subject = there("not/there/yet");
    // A refresh and a sync make it; the net under the tokens is spread from the first request on.
    let world = World { config: subject.config.clone(), ..bench.world.clone() };
    bench.pass(Duration::from_secs(3600)).await;
    let report = sync::run(&world, &Options::default()).await.unwrap();
    assert_eq!(report.code, ExitCode::Done, "{}", report.troubles().join("\n"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&scratch).unwrap().permissions().mode() & 0o777, 0o700);
    }
    std::fs::remove_dir_all(bench.dir.path().join("not")).unwrap();
    let checkup = check::run(&subject, &[]).await;
    assert_eq!((checkup.exit, rows(&checkup, "scratch", Outcome::Ok)), (0, 1), "{}", checkup.table());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "nothing is left in it");

    std::fs::write(bench.dir.path().join("a-file"), "").unwrap();
    let subject = there("a-file");
    let said = told(&bench, &check::run(&subject, &[]).await);
    insta::assert_snapshot!(said, @"
    exit 7
    FAILED scratch DIR/a-file: it cannot be used (File exists (os error 17)): no sync can spill its rows, and new tokens have no second place
      hint: let `scratch` name a folder in which this user may write, on a disk with room
    ");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_slower_than_the_burst_is_waited_for() {
    let rate = Some(sandbox::Limit { per_second: 1.0, burst: 3 });
    let bench = Setup { rate, ..Setup::new(20) }.start().await;
    bench.connect("acme").await;
    let checkup = looked(&bench).await;
    assert_eq!((checkup.exit, rows(&checkup, "resource", Outcome::Fail)), (0, 0), "{}", checkup.table());
    assert!(bench.control.stats().refused_429 > 0, "it met a 429");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_stays_used_up_is_told_once() {
    let bench = connected().await;
    bench.control.fault(fault("GET /v1/", 0, 0, status(429)));
    bench.control.reset_stats();
    let checkup = looked(&bench).await;
    assert_eq!(checkup.code, ExitCode::Provider, "{}", told(&bench, &checkup));
    assert_eq!((rows(&checkup, "resource", Outcome::Fail), rows(&checkup, "resource", Outcome::Ok)), (1, 0));
    let asked = bench.control.stats().requests;
    let data = asked.keys().filter(|route| route.starts_with("GET /v1/")).count();
    assert_eq!(data, 1, "nothing but the first was asked for: {asked:?}");
}
