//! No secret and no person ever stands in a log, a report, an error or the state.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use hirelake::auth::Grant;
use hirelake::auth::connect::Callback;
use hirelake::auth::vault::Vault;
use hirelake::check;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::{AccountSize, Action, Fault};
use hirelake::secret::Secret;
use hirelake::status;
use hirelake::sync::Options;
use hirelake::{disconnect, keepalive, verify};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use crate::connect_flow::{hirelake, real_sandbox};
use crate::harness::{Bench, CLIENT, CLIENT_SECRET, Setup, VAULT_KEY, files, tenant};

/// All that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What must not be seen, and what each is.
#[derive(Default)]
struct Canaries(BTreeMap<String, String>);

impl Canaries {
    fn add(&mut self, what: &str, text: &str) {
        assert!(text.len() >= 8, "{what} `{text}` could stand somewhere by chance");
        self.0.insert(text.to_owned(), what.to_owned());
    }

    fn assert_absent(&self, place: &str, bytes: &[u8]) {
        let bytes = String::from_utf8_lossy(bytes);
        for (text, what) in &self.0 {
            if let Some(at) = bytes.find(text) {
                let before: String = bytes[..at].chars().rev().take(300).collect();
                panic!("{what} stands in {place} behind: {}", before.chars().rev().collect::<String>());
            }
        }
    }

    /// Tokens of every generation that the state holds.
    async fn add_tokens(&mut self, bench: &Bench, name: &str) {
        let vault = Vault::new(&Secret::new(VAULT_KEY)).unwrap();
        let folder = bench.dir.path().join("state/grants").join(name);
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
            let grant: Grant = serde_json::from_value(entry["body"].clone()).unwrap();
            let Some(tokens) = grant.tokens(&vault, &tenant(name)).unwrap() else { continue };
            if !tokens.access.is_empty() {
                self.add("an access token", tokens.access.expose());
                // Its claims alone would say whose it is.
                if let Some(claims) = tokens.access.expose().split('.').nth(1) {
                    self.add("an access token's claims", claims);
                }
            }
            if let Some(refresh) = tokens.refresh {
                self.add("a refresh token", refresh.expose());
            }
        }
    }

    fn add_people(&mut self, bench: &Bench, name: &str) {
        let mut add = |what: &str, value: &Value| {
            if let Some(text) = value.as_str().filter(|t| t.len() >= 8) {
                self.add(what, text);
            }
        };
        for person in bench.control.dump(name, "opportunities").unwrap() {
            add("a name", &person["name"]);
            person["emails"].as_array().unwrap().iter().for_each(|e| add("an e-mail address", e));
            person["phones"].as_array().unwrap().iter().for_each(|p| add("a telephone number", &p["value"]));
        }
        bench.control.dump(name, "users").unwrap().iter().for_each(|u| add("a user's e-mail address", &u["email"]));
        assert!(self.0.len() > 100);
    }
}

fn fault(bench: &Bench, route: &str, skip: u32, times: u32, action: Action) {
    bench.control.fault(Fault { route: route.into(), account: Some("acme".into()), skip, times, action });
}

fn all(report: &Report) -> String {
    format!("{}\n{}\n{}\n{}\n{report:?}", report.json(), report.summary(), report.table(), report.troubles().join("\n"))
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_written_anywhere_holds_a_secret_or_a_person() {
    let log = Log::default();
    let lines =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(log.clone());
    let _logging = tracing::subscriber::set_default(lines.finish());
    // With one subscriber alone, an event that another test's thread meets first is judged by that thread's, which is none, and
    // is then never logged here either.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());

    let accounts = vec![AccountSize::new("acme", 120), AccountSize::new("birch", 20)];
    let bench = Setup { accounts, refresh_leeway: Duration::from_secs(60), ..Setup::default() }.start().await;
    let mut canaries = Canaries::default();
    let mut said = String::new();
    canaries.add("the client secret", CLIENT_SECRET);
    canaries.add("the vault key", VAULT_KEY);
    canaries.add_people(&bench, "acme");

    // A consent, denied, misdirected and granted.
    let (acme, birch) = (tenant("acme"), tenant("birch"));
    let run = RunId::new();
    let auth = bench.auth(run);
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    let invitation = auth.invite(&acme).unwrap();
    let state = invitation.link.query_pairs().find(|(k, _)| k == "state").unwrap().1.into_owned();
    let mut link = invitation.link.clone();
    link.query_pairs_mut().append_pair("auto_accept", "acme");
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let back = browser.get(link).send().await.unwrap().headers()["location"].to_str().unwrap().parse().unwrap();
    let callback = Callback::from_url(&back);
    let code = callback.code.clone().unwrap();
    // The test's own browser is logged too, with the link and the code; it is not ours.
    log.0.lock().unwrap().clear();
    canaries.add("the state of a consent", &state);
    canaries.add("an authorization code", &code);
    let denied = Callback { error: Some(format!("access_denied {code}")), code: None, ..callback.clone() };
    let astray = Callback { state: Some("invented-state".into()), ..callback.clone() };
    for wrong in [denied, astray] {
        said += &format!("{wrong:?}");
        let error = auth.exchange(&acme, &lease, &invitation, wrong, false).await.unwrap_err();
        said += &format!("{error} {error:?}");
    }
    let connected = auth.exchange(&acme, &lease, &invitation, callback.clone(), false).await.unwrap();
    let again = auth.exchange(&acme, &lease, &invitation, callback.clone(), false).await.unwrap_err();
    let session = auth.open(&acme, lease.clone()).await.unwrap();
    said +=
        &format!("{connected:?} {again} {again:?} {invitation:?} {callback:?} {auth:?} {session:?} {:?}", bench.world);
    drop(session);
    Arc::into_inner(lease).unwrap().release().await.unwrap();
    canaries.add_tokens(&bench, "acme").await;

    // An API key, and one that is refused.
    let key = bench.control.api_key("birch").unwrap();
    canaries.add("an API key", &key);
    canaries.add("an API key as it is sent", &base64::engine::general_purpose::STANDARD.encode(format!("{key}:")));
    canaries.add("a wrong API key", "canary-wrong-key-91c2");
    let lease = Arc::new(bench.state().lease(&birch, run).await.unwrap());
    let error =
        auth.seed_api_key(&birch, lease.clone(), Secret::new("canary-wrong-key-91c2"), false).await.unwrap_err();
    said += &format!("{error} {error:?}");
    auth.seed_api_key(&birch, lease.clone(), Secret::new(key), false).await.unwrap();
    Arc::into_inner(lease).unwrap().release().await.unwrap();

    // A sync in which much goes wrong.
    let id = bench.control.dump("acme", "opportunities").unwrap()[3]["id"].as_str().unwrap().to_owned();
    let odd = serde_json::json!({"said": "canary-undeclared-value"});
    assert!(bench.control.set_field("acme", "opportunities", &id, "surprise", odd, false));
    assert!(bench.control.set_field(
        "acme",
        "opportunities",
        &id,
        "createdBy",
        serde_json::json!(["canary-misfit-value"]),
        false
    ));
    canaries.add("an undeclared value", "canary-undeclared-value");
    canaries.add("a value of another type", "canary-misfit-value");
    let busy = |code| Action::Status { code, body: None, retry_after: None };
    fault(&bench, "GET /v1/opportunities$", 0, 2, Action::NoKey);
    fault(&bench, "GET /v1/users", 0, 2, Action::BadRow);
    fault(&bench, "GET /v1/postings", 0, 1, Action::Truncate { bytes: 700 });
    fault(&bench, "GET /v1/postings", 0, 1, Action::Garbage);
    fault(&bench, "GET /v1/stages", 0, 1, busy(429));
    fault(&bench, "GET /v1/tags", 0, 1, Action::Redirect { to: "https://evil.example/?token=x".into(), code: 302 });
    fault(&bench, "GET /v1/requisitions", 0, 0, Action::Reset);
    fault(&bench, "GET /v1/sources", 0, 1, Action::ExpireToken);
    fault(&bench, "POST /oauth/token", 0, 1, Action::ReplyLost);
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Partial);
    said += &all(&report);
    assert!(!files(&bench.dir.path().join("state/quarantine")).is_empty(), "something was to be quarantined");
    canaries.add_tokens(&bench, "acme").await;
    bench.control.clear_faults();

    // Refreshes that fail in every way.
    let html = Action::Status { code: 403, body: Some(format!("<html>{CLIENT_SECRET}</html>")), retry_after: None };
    for action in
        [busy(503), busy(429), html, Action::Garbage, Action::Truncate { bytes: 90 }, Action::Huge { bytes: 400_000 }]
    {
        bench.pass(Duration::from_secs(3600)).await;
        fault(&bench, "POST /oauth/token", 0, 0, action);
        let report = bench.sync_with(Options { tenants: vec![acme.clone()], ..Options::default() }).await;
        assert_ne!(report.code, ExitCode::Done);
        said += &all(&report);
        bench.control.clear_faults();
    }
    bench.control.revoke("acme");
    let report = bench.sync_with(Options::default()).await;
    said += &all(&report);
    canaries.add_tokens(&bench, "acme").await;

    // A seed that is refused.
    let seed = "canary-seed-77aa";
    canaries.add("a seed", seed);
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    let error = auth.seed_refresh_token(&acme, lease, Secret::new(seed), false).await.unwrap_err();
    said += &format!("{error} {error:?}");

    let standing = status::read(&bench.world).await.unwrap();
    said += &format!("{}\n{}\n{standing:?}", status::table(&standing), serde_json::to_string(&standing).unwrap());
    for trouble in [None, Some(Action::Garbage), Some(Action::ExpireToken)] {
        bench.control.clear_faults();
        if let Some(action) = trouble {
            fault(&bench, "GET /v1", 0, 0, action);
        }
        let checkup = check::run(&(&bench.world).into(), &[]).await;
        said += &format!("{}\n{}\n{checkup:?}", checkup.table(), checkup.json());
    }
    bench.control.clear_faults();
    canaries.add_tokens(&bench, "acme").await;
    said += &format!("{:?}", bench.control.grant("acme", CLIENT, "offline_access"));

    // The lake read back, and searched for somebody.
    let somebody = bench.control.dump("acme", "opportunities").unwrap().remove(0);
    let texts: verify::Texts = [somebody["name"].as_str().unwrap()].into_iter().collect();
    let erased = verify::Options { erased: vec![somebody["id"].as_str().unwrap().to_owned()], texts };
    for options in [verify::Options::default(), erased] {
        let verdict = verify::run(&bench.world, &acme, &options).await.unwrap();
        said += &format!("{}\n{}\n{verdict:?}\n{options:?}", verdict.table(), verdict.json());
    }

    // A keepalive, everything about one tenant, and a disconnect whose revocation is refused.
    bench.connect("acme").await;
    canaries.add_tokens(&bench, "acme").await;
    let within = Some(Duration::from_secs(900 * 86_400));
    let kept = keepalive::run(&bench.world, &keepalive::Options { within, ..Default::default() }).await.unwrap();
    assert_eq!(kept.tenants[&acme].fate, keepalive::Fate::Refreshed);
    canaries.add_tokens(&bench, "acme").await;
    said += &format!("{kept:?}\n{}\n{}\n", kept.summary(), kept.lines(&bench.world).join("\n"));
    let standing = status::read(&bench.world).await.unwrap();
    let troubles = status::troubles(&bench.world, &standing, Some(Duration::ZERO));
    said += &format!("{}\n{troubles:?}\n", status::full(&bench.world, &acme, &standing[&acme]));
    let html = Action::Status { code: 403, body: Some(format!("<html>{CLIENT_SECRET}</html>")), retry_after: None };
    fault(&bench, "POST /oauth/revoke", 0, 0, html);
    for tenant in [&acme, &birch] {
        let done = disconnect::run(&bench.world, tenant, false).await.unwrap();
        assert_eq!(done.notes().len(), 1);
        said += &format!("{done} {done:?} {:?}", done.notes());
    }

    let generations = canaries.0.values().filter(|what| *what == "a refresh token").count();
    assert!(generations >= 2, "the sync was to refresh the grant");
    canaries.assert_absent("a report, a status or an error", said.as_bytes());
    let log = log.0.lock().unwrap();
    for target in ["hirelake::auth", "hirelake::http", "hyper_util"] {
        assert!(String::from_utf8_lossy(&log).contains(target), "nothing of {target} was logged");
    }
    canaries.assert_absent("the log", &log);
    for (path, bytes) in files(&bench.dir.path().join("state")) {
        canaries.assert_absent(&path.display().to_string(), &bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_filter_is_asked_for_the_crates_below_log_warnings_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = real_sandbox(dir.path()).await;
    let control = sandbox.control();
    let granted =
        control.grant("acme", CLIENT, &hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ")).unwrap();
    let seed = granted.refresh_token.unwrap();
    std::fs::write(dir.path().join("seed"), &seed).unwrap();
    let mut canaries = Canaries::default();
    canaries.add("the seed", &seed);
    canaries.add("the client secret", CLIENT_SECRET);
    canaries.add("the vault key", VAULT_KEY);
    let mut ours = 0;
    let trace = ["--log", "trace", "--log-format", "json"];
    for args in [["connect", "acme", "--refresh-token-file", "seed"].as_slice(), &["sync"]] {
        let output = hirelake(dir.path(), &[args, &trace].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        canaries.assert_absent("stderr", &output.stderr);
        for line in String::from_utf8(output.stderr).unwrap().lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            let (target, level) = (event["target"].as_str().unwrap(), event["level"].as_str().unwrap());
            let grave = ["WARN", "ERROR"].contains(&level);
            assert!(target.starts_with("hirelake") || grave, "{line}");
            ours += u32::from(target.starts_with("hirelake"));
        }
    }
    assert!(ours > 0, "our own events are still there");
    sandbox.shutdown().await;
}
