//! What every answer of the provider leads to: how often it is asked again, what the run ends with, what a person reads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use hirelake::config::Config;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Outcome, Report};
use hirelake::sandbox::{self, AccountSize, Action};
use hirelake::secret::Secret;
use hirelake::sync::{Options, World};
use tokio::net::TcpListener;

use crate::harness::{Bench, Setup, fault, plain, tenant};

const USERS: &str = "GET /v1/users$";

fn status(code: u16) -> Action {
    Action::Status { code, body: None, retry_after: None }
}

fn body(text: &str) -> Action {
    Action::Status { code: 200, body: Some(text.into()), retry_after: None }
}

fn only(resource: &str) -> Options {
    Options { resources: vec![resource.parse().unwrap()], ..Options::default() }
}

async fn connected(setup: Setup) -> Bench {
    let bench = setup.start().await;
    bench.connect("acme").await;
    bench
}

/// One sync of the users alone under this script: its report, and the requests that the provider saw.
async fn users(bench: &Bench, skip: u32, times: u32, action: Action) -> (Report, u64) {
    bench.control.clear_faults();
    bench.control.fault(fault(USERS, skip, times, action));
    bench.control.reset_stats();
    let report = bench.sync_with(only("users")).await;
    (report, requests(bench, "GET /v1/users"))
}

fn requests(bench: &Bench, route: &str) -> u64 {
    bench.control.stats().requests.get(route).copied().unwrap_or(0)
}

fn told(bench: &Bench, report: &Report) -> String {
    plain(&report.troubles().join("\n"), bench.dir.path())
}

fn took(report: &Report) -> Duration {
    report.ended.since(report.started)
}

#[tokio::test(start_paused = true)]
async fn every_status_of_the_reference_has_its_outcome() {
    let bench = connected(Setup::new(20)).await;
    let mut said = String::new();
    for code in [400, 401, 403, 404, 422, 429, 500, 502, 503, 504] {
        let (report, asked) = users(&bench, 0, 0, status(code)).await;
        said += &format!("{code}: exit {}, {asked} requests\n{}\n\n", report.code.number(), told(&bench, &report));
        assert!(took(&report) < Duration::from_secs(330), "{code} took {:?}", took(&report));
        assert!(bench.files().is_empty(), "{code} left files behind");
    }
    insta::assert_snapshot!(said, @"
    400: exit 3, 1 requests
    error: acme/users: tenant acme: users was refused with status 400 on /users
    hint: a parameter in the catalogue is not what the provider takes; if the catalogue is the embedded one, report it

    401: exit 4, 2 requests
    error: acme/users: the provider refuses the access token of tenant acme on http://127.0.0.1:PORT/v1/users (401)
    hint: a fresh token is refused too: the app may have been removed in the customer's settings, or the API host is of another environment than the token host

    403: exit 3, 1 requests
    error: acme/users: tenant acme: users is not granted (403 on /users)
    hint: it needs the scope users:read:admin: add it to the app at the provider and let the customer connect again; or leave users out of the tenant's resources

    404: exit 3, 1 requests
    error: acme/users: tenant acme: users is not there (404 on /users)
    hint: the account may not have this feature, or the path in the catalogue is wrong; when every resource says so, the app's api_base is

    422: exit 3, 1 requests
    error: acme/users: tenant acme: users was refused with status 422 on /users
    hint: the provider could not process it; run again, and report it to the provider if it stays

    429: exit 8, 8 requests
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: status 429
    hint: something else may be using up the account's limit: lower `rate` in the configuration, or run again later; it resumes

    500: exit 8, 8 requests
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: status 500
    hint: the provider is in trouble; run again later, it resumes

    502: exit 8, 8 requests
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: status 502
    hint: a gateway before the provider gave up waiting for it, or a proxy of yours did; run again later, it resumes

    503: exit 8, 8 requests
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: status 503
    hint: the provider is down for maintenance; run again later, it resumes

    504: exit 8, 8 requests
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: status 504
    hint: a gateway before the provider gave up waiting for it, or a proxy of yours did; run again later, it resumes
    ");
    bench.control.clear_faults();
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_asked_for_again() {
    let bench = connected(Setup::new(20)).await;
    let passing = [
        status(408),
        status(429),
        status(500),
        status(502),
        status(503),
        status(504),
        Action::Reset,
        Action::ReplyLost,
        Action::Truncate { bytes: 0 },
        Action::Truncate { bytes: 700 },
        Action::Garbage,
        Action::Delay { ms: 61_000 },
        Action::Drip { ms_per_chunk: 60_000 },
        body(""),
        body("{\"data\": ["),
        body("{\"data\": 3, \"hasNext\": false}"),
        body("{\"message\": \"hello\"}"),
        body("null"),
    ];
    for action in passing {
        let (report, asked) = users(&bench, 0, 2, action.clone()).await;
        assert_eq!((report.code, asked), (ExitCode::Done, 3), "{action:?}: {}", told(&bench, &report));
        bench.assert_table("acme", "users").await;
        let users = &report.tenants.values().next().unwrap().resources["users"];
        assert_eq!((users.requests, users.records, users.deleted), (3, users.rows, 0), "{action:?}");
    }
    let (report, asked) = users(&bench, 0, 0, Action::Drip { ms_per_chunk: 5 }).await;
    assert_eq!((report.code, asked), (ExitCode::Done, 1), "a slow body that comes is no failure");
}

#[tokio::test(start_paused = true)]
async fn an_enormous_body_is_not_read_and_asked_for_again() {
    let bench = connected(Setup::new(20)).await;
    let (report, asked) = users(&bench, 0, 1, Action::Huge { bytes: 65 << 20 }).await;
    assert_eq!((report.code, asked), (ExitCode::Done, 2), "{}", told(&bench, &report));
    bench.assert_table("acme", "users").await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_ends_within_its_budget_and_says_what_it_was() {
    let bench = connected(Setup::new(20)).await;
    let mut said = String::new();
    let lasting = [
        Action::Reset,
        Action::Truncate { bytes: 700 },
        Action::Garbage,
        Action::Delay { ms: 61_000 },
        Action::Drip { ms_per_chunk: 60_000 },
        body("{\"data\": [{\"id\": \"canary-7\", \"name\": \"Ann"),
        body("{\"data\": \"canary-7\"}"),
        body("{\"error\": \"canary-7\"}"),
    ];
    for action in lasting {
        let (report, asked) = users(&bench, 0, 0, action.clone()).await;
        assert!(took(&report) < Duration::from_secs(420), "{action:?} took {:?}", took(&report));
        assert!(asked <= 8, "{action:?}: {asked} requests");
        let name = serde_json::to_value(&action).unwrap();
        let name = name["kind"].as_str().unwrap();
        let mut cause = told(&bench, &report);
        if let (Some(from), Some(to)) = (cause.find("was lost ("), cause.find("\nhint")) {
            // The system's own words depend on when it noticed.
            cause.replace_range(from + 8..to, "");
        }
        assert!(!report.json().contains("canary-7") && !cause.contains("canary-7"), "{cause}");
        said += &format!("{name}: exit {}\n{cause}\n\n", report.code.number());
        assert!(bench.files().is_empty(), "{action:?} left files behind");
    }
    insta::assert_snapshot!(said, @"
    reset: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: the answer was lost
    hint: the network or the provider is in trouble; run again later, it resumes

    truncate: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: the answer was lost
    hint: the network or the provider is in trouble; run again later, it resumes

    garbage: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: the answer makes no sense (the body is not JSON: a syntax error at line 1, column 1 of 57 bytes)
    hint: a proxy or a sign-in page may have answered in the provider's place: check the app's hosts; else run again later, it resumes

    delay: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 5 of 8 after N s: no answer within 60 s
    hint: the network or the provider is in trouble; run again later, it resumes

    drip: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 4 of 8 after N s: no whole body within 90 s
    hint: the network or the provider is in trouble; run again later, it resumes

    status: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: the answer makes no sense (the body is not JSON: it ends too early at line 1, column 41 of 41 bytes)
    hint: a proxy or a sign-in page may have answered in the provider's place: check the app's hosts; else run again later, it resumes

    status: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: the answer makes no sense (the body is not a page of a listing: `data` is neither an array nor an object)
    hint: a proxy or a sign-in page may have answered in the provider's place: check the app's hosts; else run again later, it resumes

    status: exit 8
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 8 of 8 after N s: the answer makes no sense (the body is not a page of a listing: it has no `data`)
    hint: a proxy or a sign-in page may have answered in the provider's place: check the app's hosts; else run again later, it resumes
    ");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_provider_asks_for_holds_the_whole_tenant() {
    let slow = || Setup { defaults: "rate = { per_second = 2.0, burst = 1 }".into(), ..Setup::new(20) };
    let date = httpdate::fmt_http_date(
        std::time::UNIX_EPOCH + Duration::from_millis(crate::harness::NOW.ms() as u64 + 125_000),
    );
    for retry_after in ["120".to_owned(), date] {
        let bench = connected(slow()).await;
        let pause = Action::Status { code: 429, body: None, retry_after: Some(retry_after.clone()) };
        bench.control.fault(fault("GET /v1/", 2, 1, pause));
        let (control, over) = (bench.control.clone(), tokio_util::sync::CancellationToken::new());
        let done = over.clone();
        // Any moment at which a request arrived, to the half second.
        let watch = tokio::spawn(async move {
            let (mut longest, mut still, mut last) = (0, 0, 0);
            while !done.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let seen: u64 = control.stats().requests.values().sum();
                still = if seen == last { still + 1 } else { 0 };
                longest = longest.max(still);
                last = seen;
            }
            longest
        });
        let report = bench.sync().await;
        over.cancel();
        let longest = watch.await.unwrap();
        // One request comes a half second otherwise.
        assert!((220..=280).contains(&longest), "{retry_after}: at most {longest} half seconds without a request");
        assert!(took(&report) >= Duration::from_secs(115), "{:?}", took(&report));
        assert_eq!(report.tenants.values().next().unwrap().refused, 1);
        bench.assert_right("acme").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_too_long_to_wait_for_is_told() {
    let bench = connected(Setup::new(20)).await;
    let pause = Action::Status { code: 503, body: None, retry_after: Some("86400".into()) };
    let (report, asked) = users(&bench, 0, 0, pause).await;
    assert_eq!((report.code, asked), (ExitCode::Provider, 1));
    assert!(took(&report) < Duration::from_secs(5));
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 8 after N s: the server answers 503 and asks for a pause of 86400 s
    hint: run again after that time; it resumes
    ");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_word_slows_the_tenant_down() {
    let time = async |refuse: bool| {
        let bench =
            connected(Setup { defaults: "rate = { per_second = 2.0, burst = 2 }".into(), ..Setup::new(20) }).await;
        if refuse {
            bench.control.fault(fault("GET /v1/", 0, 1, status(429)));
        }
        let report = bench.sync().await;
        bench.assert_right("acme").await;
        (took(&report), report.tenants.values().next().unwrap().refused)
    };
    let (calm, none) = time(false).await;
    let (slowed, one) = time(true).await;
    assert_eq!((none, one), (0, 1));
    assert!(slowed > calm.mul_f64(1.5), "{calm:?} without and {slowed:?} with a refusal");
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_the_run_in_time_and_the_next_one_is_right() {
    let bench = connected(Setup::new(60)).await;
    bench.control.fault(fault("GET /v1/", 0, 0, status(502)));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Provider, "{}", told(&bench, &report));
    assert!(took(&report) < Duration::from_secs(400), "{:?}", took(&report));
    let asked: u64 =
        bench.control.stats().requests.iter().filter(|(r, _)| r.starts_with("GET /v1")).map(|(_, n)| n).sum();
    // Seventeen listings, the first load in up to four windows, eight attempts each.
    assert!((8..=8 * 21).contains(&asked), "{asked} requests");
    assert_eq!(report.tenants.values().next().unwrap().requests, asked);
    assert!(bench.files().is_empty());
    let failures = &report.tenants.values().next().unwrap().failures;
    assert!(failures.iter().all(|f| f.hint.is_some()), "{failures:?}");

    bench.control.clear_faults();
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_not_there_is_told() {
    let bench = connected(Setup::new(20)).await;
    bench.sandbox.clone().shutdown().await;
    let report = bench.sync_with(only("users")).await;
    assert_eq!(report.code, ExitCode::Provider);
    assert!(took(&report) < Duration::from_secs(330), "{:?}", took(&report));
    let said = told(&bench, &report);
    let hint = "hint: check the network, DNS and proxy of this machine, then run again; it resumes";
    assert!(said.contains("no connection could be made (") && said.ends_with(hint), "{said}");
}

#[tokio::test(start_paused = true)]
async fn one_resource_that_fails_leaves_the_others_right() {
    let bench = connected(Setup::new(60)).await;
    for (code, exit) in [(404, 3), (500, 3), (422, 3)] {
        bench.control.clear_faults();
        bench.control.fault(fault("GET /v1/sources", 0, 0, status(code)));
        let report = bench.sync_with(Options::default()).await;
        assert_eq!(report.code.number(), exit, "{code}: {}", told(&bench, &report));
        let tenant = report.tenants.values().next().unwrap();
        for (name, r) in &tenant.resources {
            let expected = if name.as_str() == "sources" { Outcome::Failed } else { Outcome::Done };
            assert_eq!(r.outcome, expected, "{code}: {name}");
        }
        for table in
            ["opportunities", "applications", "contacts", "users", "postings", "stages", "tags", "requisitions"]
        {
            bench.assert_table("acme", table).await;
        }
        assert!(bench.living("acme", "sources").await.is_empty());
    }
    bench.control.clear_faults();
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_not_granted_is_skipped_unless_it_was_named() {
    let bench = connected(Setup::new(60)).await;
    bench.control.fault(fault("GET /v1/tags", 0, 0, status(403)));
    let report = bench.sync_with(Options::default()).await;
    let tenant = report.tenants.values().next().unwrap();
    assert_eq!(report.code, ExitCode::Done, "{}", told(&bench, &report));
    assert_eq!(tenant.resources["tags"].outcome, Outcome::Skipped);
    assert_eq!(requests(&bench, "GET /v1/tags"), 1, "what is not granted is not asked for twice");
    insta::assert_snapshot!(told(&bench, &report), @"note: acme/tags: not granted (403 on /tags): it needs the scope tags:read:admin: add it to the app at the provider and let the customer connect again; or leave tags out of the tenant's resources");
    for table in ["opportunities", "users", "postings", "sources"] {
        bench.assert_table("acme", table).await;
    }

    let named = bench.sync_with(only("tags")).await;
    assert_eq!(named.code, ExitCode::Partial);
    insta::assert_snapshot!(told(&bench, &named), @"
    error: acme/tags: tenant acme: tags is not granted (403 on /tags)
    hint: it needs the scope tags:read:admin: add it to the app at the provider and let the customer connect again; or leave tags out of the tenant's resources
    ");
}

#[tokio::test(start_paused = true)]
async fn a_known_symptom_has_its_own_hint() {
    let bench = connected(Setup::new(20)).await;
    let mut said = String::new();
    for text in ["Unable to find a signing key that matches abc", "ClientID not found"] {
        let body = format!("{{\"code\": \"Forbidden\", \"message\": \"{text}\"}}");
        let (report, _) = users(&bench, 0, 0, Action::Status { code: 403, body: Some(body), retry_after: None }).await;
        said += &format!("exit {}\n{}\n\n", report.code.number(), told(&bench, &report));
    }
    insta::assert_snapshot!(said, @"
    exit 2
    error: acme: tenant acme: the provider refuses every token of this app (403)
    hint: the token is of the other environment: sandbox tokens do not work on production, nor the reverse; check the app's environment, and that its api_base and token belong together

    exit 2
    error: acme: tenant acme: the provider refuses every token of this app (403)
    hint: the client is unknown on this host: sandbox and production are separate apps; check the app's client_id, environment and hosts
    ");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_inside_is_followed_with_the_credential() {
    let bench = connected(Setup::new(20)).await;
    for code in [301, 307] {
        let to = "/v1/users?includeDeactivated=true&limit=100".to_owned();
        let (report, asked) = users(&bench, 0, 1, Action::Redirect { to, code }).await;
        assert_eq!((report.code, asked), (ExitCode::Done, 2), "{}", told(&bench, &report));
        bench.assert_table("acme", "users").await;
    }
    let (report, asked) = users(&bench, 0, 0, Action::Redirect { to: "/v1/users".into(), code: 301 }).await;
    assert!(asked <= 4, "{asked} hops");
    insta::assert_snapshot!(format!("exit {}\n{}", report.code.number(), told(&bench, &report)), @"
    exit 2
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 8 after N s: its redirects lead nowhere
    hint: check the app's api_base: the provider sends every request elsewhere
    ");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_outside_is_never_followed() {
    let bench = connected(Setup::new(20)).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let mut said = String::new();
    for to in [
        format!("http://127.0.0.1:{port}/v1/users"),
        format!("http://localhost:{port}/v1/users"),
        format!("//127.0.0.1:{port}/v1/users"),
        "https://lever.co.evil.example/v1/users?token=canary-4".to_owned(),
    ] {
        let (report, asked) = users(&bench, 0, 0, Action::Redirect { to, code: 302 }).await;
        assert_eq!((report.code, asked), (ExitCode::Configuration, 1));
        said += &format!("{}\n", told(&bench, &report));
    }
    let came = tokio::time::timeout(Duration::from_secs(2), elsewhere.accept()).await;
    assert!(came.is_err(), "somebody called at the other address");
    assert!(!said.contains("canary-4"));
    insta::assert_snapshot!(said, @"
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 8 after N s: it was redirected to 127.0.0.1, which is not one of the provider's hosts
    hint: the credential was not sent there: check the app's api_base; if the provider has moved, add its new host to the app's `hosts`
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 8 after N s: it was redirected to localhost, which is not one of the provider's hosts
    hint: the credential was not sent there: check the app's api_base; if the provider has moved, add its new host to the app's `hosts`
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 8 after N s: it was redirected to 127.0.0.1, which is not one of the provider's hosts
    hint: the credential was not sent there: check the app's api_base; if the provider has moved, add its new host to the app's `hosts`
    error: acme/users: GET http://127.0.0.1:PORT/v1/users failed at attempt 1 of 8 after N s: it was redirected to lever.co.evil.example, which is not one of the provider's hosts
    hint: the credential was not sent there: check the app's api_base; if the provider has moved, add its new host to the app's `hosts`
    ");
}

/// The same bench, its app changed by these texts of the configuration.
fn changed(mut bench: Bench, changes: &[(String, String)]) -> Bench {
    let path = bench.dir.path().join("hirelake.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "the configuration has no {from}");
        text = text.replace(from, to);
    }
    std::fs::write(&path, text).unwrap();
    let config = Arc::new(Config::load_with(Some(&path), std::iter::empty()).unwrap());
    bench.world = World { config, ..bench.world.clone() };
    bench
}

/// Another pretend provider with the same people and keys.
async fn second(bench: &Bench, seed: u64) -> sandbox::Running {
    let accounts = vec![AccountSize::new("acme", 20)];
    let options = sandbox::Options { seed, accounts, clock: bench.world.clock, ..sandbox::Options::default() };
    sandbox::start(options).await.unwrap()
}

/// An API host that answers every listing with no rows, and keeps what it was sent as `Authorization`.
async fn listening() -> (u16, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = heard.clone();
    let router = axum::Router::new().fallback(move |headers: HeaderMap| async move {
        let sent = headers.get("authorization").map(|a| a.to_str().unwrap().to_owned());
        kept.lock().unwrap().push(sent.unwrap_or_default());
        (StatusCode::OK, "{\"data\": [], \"hasNext\": false}")
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (port, heard)
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_other_environment_is_the_tenants_failure_and_told_once() {
    let bench = connected(Setup::new(20)).await;
    let other = second(&bench, 7).await;
    let (before, after) = (bench.sandbox.url(), other.url());
    let bench = changed(bench, &[(format!("api_base = \"{before}"), format!("api_base = \"{after}"))]);
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Configuration);
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme: tenant acme: the provider refuses every token of this app (403)
    hint: the token is of the other environment: sandbox tokens do not work on production, nor the reverse; check the app's environment, and that its api_base and token belong together
    ");
    let resources = &report.tenants[&tenant("acme")].resources;
    assert!(resources.values().all(|r| r.outcome == Outcome::Failed && r.notes.is_empty()), "{resources:?}");
    assert!(bench.files().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_page_in_the_providers_place_is_no_missing_scope() {
    let bench = connected(Setup::new(20)).await;
    let page = Action::Status { code: 403, body: Some("<html>canary-7 sign in</html>".into()), retry_after: None };
    bench.control.fault(fault(USERS, 0, 0, page));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.tenants[&tenant("acme")].resources["users"].outcome, Outcome::Failed);
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme/users: tenant acme: users was refused with status 403 on /users
    hint: a page of HTML came where JSON is due: a proxy or a sign-in page answered in the provider's place; check the app's hosts and this machine's proxy
    ");
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_redirect_takes_the_credential_along_inside_and_nowhere_else() {
    let (port, heard) = listening().await;
    for code in [301, 302, 307, 308] {
        let bench = connected(Setup::new(20)).await;
        let to = format!("http://127.0.0.1:{port}/v1/users");
        let (report, asked) = users(&bench, 0, 0, Action::Redirect { to: to.clone(), code }).await;
        assert_eq!(
            (report.code, asked),
            (ExitCode::Configuration, 1),
            "{code}: the port is not one of the app's hosts"
        );
        assert_eq!(heard.lock().unwrap().len(), 0, "{code}");

        let callback = "redirect_uris".to_owned();
        let hosts = format!("hosts = [\"127.0.0.1:{port}\"]\nredirect_uris");
        let bench = changed(bench, &[(callback, hosts)]);
        let (report, asked) = users(&bench, 0, 0, Action::Redirect { to, code }).await;
        assert_eq!((report.code, asked), (ExitCode::Done, 1), "{code}: {}", told(&bench, &report));
        let sent = heard.lock().unwrap().drain(..).collect::<Vec<_>>();
        assert!(sent.len() == 1 && sent[0].starts_with("Bearer eyJ"), "{code}: the credential did not arrive");
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_was_moved_to_another_host_is_read_there() {
    let bench = Setup::new(20).start().await;
    // Its keys are those of the first, as a data centre's would be.
    let moved = second(&bench, 1).await;
    let hosts = format!("hosts = [\"{}\"]\nredirect_uris", moved.addr());
    let bench = changed(bench, &[("redirect_uris".to_owned(), hosts)]);
    let (run, acme, state) = (RunId::new(), tenant("acme"), bench.state());
    let lease = Arc::new(state.lease(&acme, run).await.unwrap());
    let key = Secret::new(bench.control.api_key("acme").unwrap());
    assert_eq!(moved.control().api_key("acme"), bench.control.api_key("acme"));
    bench.auth(run).seed_api_key(&acme, lease.clone(), key, false).await.unwrap();
    Arc::into_inner(lease).unwrap().release().await.unwrap();

    let to = format!("{}/v1/users?includeDeactivated=true&limit=100", moved.url());
    let (report, asked) = users(&bench, 0, 0, Action::Redirect { to, code: 301 }).await;
    assert_eq!((report.code, asked), (ExitCode::Done, 1), "{}", told(&bench, &report));
    assert_eq!(moved.control().stats().requests["GET /v1/users"], 1);
    bench.assert_table("acme", "users").await;

    // Configured there, nothing is asked of the first any more.
    let (before, after) = (bench.sandbox.url(), moved.url());
    let bench = changed(bench, &[(format!("api_base = \"{before}"), format!("api_base = \"{after}"))]);
    bench.control.reset_stats();
    bench.sync().await;
    assert!(bench.control.stats().requests.is_empty());
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn the_token_endpoint_is_never_redirected() {
    let bench = connected(Setup::new(20)).await;
    let (port, heard) = listening().await;
    let bench = changed(bench, &[("redirect_uris".into(), format!("hosts = [\"127.0.0.1:{port}\"]\nredirect_uris"))]);
    bench.pass(Duration::from_secs(3590)).await;
    // Each is an answer that may have been lost: the run asks once more, the next one once.
    for (to, most) in [(format!("http://127.0.0.1:{port}/oauth/token"), 2), ("/oauth/token".to_owned(), 1)] {
        bench.control.reset_stats();
        bench.control.clear_faults();
        bench.control.fault(fault("POST /oauth/token", 0, 0, Action::Redirect { to, code: 307 }));
        let report = bench.sync_with(only("users")).await;
        assert_ne!(report.code, ExitCode::Done);
        assert_eq!(requests(&bench, "POST /oauth/token"), most);
    }
    assert!(heard.lock().unwrap().is_empty(), "a refresh token was sent elsewhere");
    bench.control.clear_faults();
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_revoked_while_its_token_lived_is_told_once() {
    let bench = connected(Setup::new(20)).await;
    bench.control.revoke("acme");
    let report = bench.sync_with(Options::default()).await;
    assert_eq!((report.code, requests(&bench, "POST /oauth/token")), (ExitCode::Reconnect, 2));
    insta::assert_snapshot!(told(&bench, &report), @"
    error: acme: the grant of tenant acme is dead since 2026-06-15T08:00:00.000Z: the provider says invalid_grant
    hint: a Super Admin of the customer must connect again: `hirelake connect acme`
    ");
}
