//! Every way in which the provider can be in trouble, with what a run may spend on it: requests, seconds, memory.
//!
//! Each row ends in a right lake, or in an honest report (the exit code, and for each failure its tenant, what was tried and a
//! hint) after which the next healthy run makes the lake right. The budgets stand here and in `docs/faults.md`, which a test
//! compares. What a single answer leads to is in `requests`, `bad_input` and `token_refresh`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hirelake::catalog::Rate;
use hirelake::clock::{Clock, Timestamp};
use hirelake::config::Config;
use hirelake::http::{Budget, Call, Client, Gate, Judged, Method, Priority};
use hirelake::report::{ExitCode, Report};
use hirelake::sandbox::{AccountSize, Action, Fault};
use hirelake::sync::{LastRun, Options, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::{Bench, Setup, fault, tenant};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const TABLES: &str = "resources = [\"opportunities\", \"users\", \"postings\", \"stages\", \"archive_reasons\", \"sources\", \"tags\", \"notes\", \"offers\"]";

/// One row of the table: what happens, and what it may cost.
struct Row {
    name: &'static str,
    /// Lines of the script.
    faults: Vec<Fault>,
    /// When they begin after the run's start, and how long they last; for ever without.
    begins: Duration,
    lasts: Option<Duration>,
    /// What the run may end with.
    ends: &'static [ExitCode],
    /// Requests to the data API and seconds, at most.
    requests: u64,
    seconds: u64,
    /// Requests to the token endpoint, at most.
    tokens: u64,
}

/// What a row cost.
struct Cost {
    code: ExitCode,
    requests: u64,
    seconds: f64,
    tokens: u64,
}

impl Row {
    /// All calls of the data API, from the start and for ever.
    fn always(name: &'static str, action: Action) -> Self {
        Self {
            name,
            faults: vec![fault("GET /v1/", 0, 0, action)],
            begins: Duration::ZERO,
            lasts: None,
            ends: DONE,
            requests: 0,
            seconds: 0,
            tokens: 0,
        }
    }
    fn scripted(name: &'static str, faults: Vec<Fault>) -> Self {
        Self { faults, ..Self::always(name, Action::Reset) }
    }
    fn lasts(self, begins: Duration, lasts: Duration) -> Self {
        Self { begins, lasts: Some(lasts), ..self }
    }
    fn within(self, requests: u64, seconds: u64) -> Self {
        Self { requests, seconds, ..self }
    }
    fn tokens(self, tokens: u64) -> Self {
        Self { tokens, ..self }
    }
    fn ends(self, ends: &'static [ExitCode]) -> Self {
        Self { ends, ..self }
    }
    /// The row as the page has it, without what was measured.
    fn budget(&self) -> String {
        let ends: Vec<String> = self.ends.iter().map(|c| c.number().to_string()).collect();
        format!("| {} | {} | {} | {} | {} |", self.name, ends.join(" or "), self.requests, self.seconds, self.tokens)
    }
}

const DONE: &[ExitCode] = &[ExitCode::Done];
const OUT: &[ExitCode] = &[ExitCode::Provider];
/// What was read before the outage is done.
const PARTIAL: &[ExitCode] = &[ExitCode::Partial];
/// By chance one request may fail eight times.
const DONE_OR_PARTIAL: &[ExitCode] = &[ExitCode::Done, ExitCode::Partial];

fn status(code: u16, retry_after: Option<&str>) -> Action {
    Action::Status { code, body: None, retry_after: retry_after.map(str::to_owned) }
}

fn sometimes(action: Action) -> Action {
    Action::Sometimes { percent: 30, action: Box::new(action) }
}

/// Lever's own limits, 200 ms an answer, seven listings, one of three pages, and two tables of children.
fn setup(names: &[&str]) -> Setup {
    Setup {
        // Users have three pages.
        accounts: names.iter().map(|n| AccountSize { users: 250, ..AccountSize::new(*n, 60) }).collect(),
        latency: Duration::from_millis(200),
        defaults: TABLES.into(),
        refresh_leeway: MINUTE,
        ..Setup::default()
    }
}

async fn connected(setup: Setup, names: &[&str]) -> Bench {
    let bench = setup.start().await;
    for name in names {
        bench.connect(name).await;
    }
    bench.control.reset_stats();
    bench
}

/// Requests to the data API as the provider counted them.
fn counted(bench: &Bench) -> u64 {
    bench.control.stats().requests.iter().filter(|(r, _)| r.starts_with("GET /v1")).map(|(_, n)| n).sum()
}

fn seconds(report: &Report) -> f64 {
    report.ended.since(report.started).as_secs_f64()
}

/// Whoever reads the report knows what failed, and what to do.
fn assert_honest(name: &str, report: &Report) {
    let acme = &report.tenants[&tenant("acme")];
    assert_eq!(acme.failures.is_empty(), report.code == ExitCode::Done, "{name}: {:?}", acme.failures);
    for failure in &acme.failures {
        assert!(failure.hint.as_ref().is_some_and(|h| h.len() > 20), "{name}: {failure} has no hint");
        // The address or the tenant, and in a resource's own line its name.
        assert!(failure.what.contains("http") || failure.what.contains("acme"), "{name}: {failure}");
    }
    let said = report.troubles().join("\n");
    for failure in acme.failures.iter().filter_map(|f| f.resource.as_ref()) {
        assert!(said.contains(&format!("acme/{failure}")), "{name}: {said}");
    }
}

async fn run_row(row: &Row) -> Cost {
    let bench = connected(setup(&["acme"]), &["acme"]).await;
    let (control, faults, begins, lasts) = (bench.control.clone(), row.faults.clone(), row.begins, row.lasts);
    let script = tokio::spawn(async move {
        tokio::time::sleep(begins).await;
        faults.into_iter().for_each(|f| control.fault(f));
        match lasts {
            Some(lasts) => tokio::time::sleep(lasts).await,
            None => std::future::pending().await,
        }
        control.clear_faults();
    });
    let report = bench.sync_with(Options::default()).await;
    let cost = Cost {
        code: report.code,
        requests: report.tenants[&tenant("acme")].requests,
        seconds: seconds(&report),
        tokens: bench.control.stats().token_requests,
    };
    let name = row.name;
    assert_eq!(cost.requests, counted(&bench), "{name}: the report counts otherwise than the provider");
    assert!(row.ends.contains(&cost.code), "{name}: {:?}\n{}", cost.code, report.troubles().join("\n"));
    assert_honest(name, &report);
    assert!(cost.requests <= row.requests, "{name}: {} requests, {} are allowed", cost.requests, row.requests);
    assert!(cost.seconds <= row.seconds as f64, "{name}: {} s, {} are allowed", cost.seconds, row.seconds);
    assert!(cost.tokens <= row.tokens, "{name}: {} token requests, {} are allowed", cost.tokens, row.tokens);
    if cost.code != ExitCode::Done {
        script.abort();
        let _ = script.await;
        bench.control.clear_faults();
        bench.pass(MINUTE).await;
        if cost.code == ExitCode::Reconnect {
            bench.connect("acme").await;
        }
        bench.sync().await;
    } else {
        script.abort();
    }
    bench.assert_right("acme").await;
    cost
}

/// The table. Without trouble the same run makes 135 requests in 12 s.
fn rows() -> Vec<Row> {
    let expire = |route, skip| fault(route, skip, 1, Action::ExpireToken);
    vec![
        Row::scripted("no trouble", vec![]).within(150, 20),
        Row::always("every answer takes 5 s", Action::Delay { ms: 5_000 }).within(150, 60),
        Row::always("every answer takes 50 s", Action::Delay { ms: 50_000 }).within(150, 400),
        Row::always("30 % of connections are reset", sometimes(Action::Reset)).within(300, 180).ends(DONE_OR_PARTIAL),
        Row::always("30 % of replies are lost", sometimes(Action::ReplyLost)).within(300, 180).ends(DONE_OR_PARTIAL),
        Row::always("30 % of bodies end after 700 bytes", sometimes(Action::Truncate { bytes: 700 }))
            .within(300, 180)
            .ends(DONE_OR_PARTIAL),
        Row::always("every body drips, 1 KiB in 100 ms", Action::Drip { ms_per_chunk: 100 }).within(150, 40),
        Row::always("30 % are answered 502", sometimes(status(502, None))).within(300, 180).ends(DONE_OR_PARTIAL),
        Row::always("all are answered 502 for 4 minutes in mid-run", status(502, None))
            .lasts(Duration::from_secs(5), 4 * MINUTE)
            .within(220, 330),
        Row::always("30 % are answered 429", sometimes(status(429, None))).within(300, 400).ends(DONE_OR_PARTIAL),
        Row::always("all are answered 429 for 3 minutes", status(429, None))
            .lasts(Duration::ZERO, 3 * MINUTE)
            .within(220, 400),
        Row::always("all are answered 429 with Retry-After: 20 for 3 minutes", status(429, Some("20")))
            .lasts(Duration::ZERO, 3 * MINUTE)
            .within(220, 400),
        Row::always("all are answered 429 with Retry-After: 200 for ever", status(429, Some("200")))
            .within(40, 450)
            .ends(OUT),
        Row::always("all are answered 503 with Retry-After: 3600", status(503, Some("3600"))).within(15, 5).ends(OUT),
        Row::always("an outage of an hour from the start: 503", status(503, None))
            .lasts(Duration::ZERO, HOUR)
            .within(45, 400)
            .ends(OUT),
        Row::always("an outage of an hour in mid-run: 502", status(502, None))
            .lasts(Duration::from_secs(8), HOUR)
            .within(160, 400)
            .ends(PARTIAL),
        Row::always("an outage of an hour in mid-run: nobody answers", Action::Delay { ms: 3_600_000 })
            .lasts(Duration::from_secs(8), HOUR)
            .within(160, 600)
            .ends(PARTIAL),
        Row::always("an outage of an hour in mid-run: resets", Action::Reset)
            .lasts(Duration::from_secs(8), HOUR)
            .within(160, 400)
            .ends(PARTIAL),
        Row::always("a sign-in page in the provider's place", Action::Garbage).within(45, 400).ends(OUT),
        Row::scripted("the token ends between two pages", vec![expire("GET /v1/users", 1)]).within(160, 20).tokens(1),
        Row::scripted("the token ends among the children", vec![expire("GET /v1/opportunities/:id/notes", 20)])
            .within(170, 20)
            .tokens(1),
        Row::scripted(
            "the token ends among the children, and the refresh's reply is lost",
            vec![expire("GET /v1/opportunities/:id/notes", 20), fault("POST /oauth/token", 0, 1, Action::ReplyLost)],
        )
        .within(170, 30)
        .tokens(2),
        Row::scripted(
            "the token ends in mid-run, and the authorization server is down",
            vec![expire("GET /v1/users", 0), fault("POST /oauth/token", 0, 0, status(503, None))],
        )
        .within(40, 400)
        .tokens(2)
        .ends(PARTIAL),
        Row::scripted(
            "the customer removes the app in mid-run",
            vec![fault("GET /v1/users", 0, 1, Action::RevokeGrant)],
        )
        .within(40, 20)
        .tokens(1)
        .ends(&[ExitCode::Reconnect]),
        Row::scripted(
            "a listing of which no page is the last, all empty",
            vec![fault("GET /v1/users", 0, 0, Action::NeverLast { rows: 0, offset_bytes: 200 })],
        )
        .within(700, 200)
        .ends(PARTIAL),
        Row::scripted(
            "a listing whose offsets have a megabyte",
            vec![fault("GET /v1/users", 0, 0, Action::NeverLast { rows: 1, offset_bytes: 1 << 20 })],
        )
        .within(160, 30)
        .ends(PARTIAL),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_trouble_of_the_provider_ends_right_or_honestly_and_within_its_budget() {
    let mut table = String::from("| what | exit | requests | seconds | token requests |\n|---|---|---|---|---|\n");
    for row in rows() {
        let cost = run_row(&row).await;
        let (code, budget) = (cost.code.number(), &row);
        let _ = writeln!(
            table,
            "| {} | {code} | {} of {} | {:.0} of {} | {} of {} |",
            row.name, cost.requests, budget.requests, cost.seconds, budget.seconds, cost.tokens, budget.tokens
        );
        println!("{}", table.lines().last().unwrap());
    }
    println!("{table}");
}

/// The page says of each row what the test allows it.
#[test]
fn the_page_of_faults_has_every_row_with_its_budget() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md")).unwrap();
    let missing: Vec<String> = rows().iter().map(Row::budget).filter(|row| !page.contains(row)).collect();
    assert!(missing.is_empty(), "docs/faults.md lacks:\n{}", missing.join("\n"));
}

/// The same bench, its API at another address.
fn moved(mut bench: Bench, to: &str) -> (Bench, World) {
    let path = bench.dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let from = format!("api_base = \"{}/v1\"", bench.sandbox.url());
    assert!(text.contains(&from), "{text}");
    std::fs::write(&path, text.replace(&from, &format!("api_base = \"{to}/v1\""))).unwrap();
    let config = Arc::new(Config::load_with(Some(&path), std::iter::empty()).unwrap());
    let before = bench.world.clone();
    bench.world = World { config, ..before.clone() };
    (bench, before)
}

/// A listener that answers each connection as `with` does; how many came.
async fn listening<F>(with: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> (u16, Arc<AtomicU64>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, came) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counter = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(with(stream));
        }
    });
    (port, came)
}

/// What lies before the first byte of an answer: names, connections, certificates. Each is told as what it is.
#[tokio::test(start_paused = true)]
async fn who_cannot_be_reached_is_given_up_within_its_budget_and_told_why() {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/nobodys");
    let cert = CertificateDer::from_pem_file(format!("{key}.pem")).unwrap();
    let secret = PrivateKeyDer::from_pem_file(format!("{key}.key.pem")).unwrap();
    let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], secret).unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let (untrusted, _) = listening(move |stream| {
        let tls = tls.clone();
        async move {
            if let Ok(mut stream) = tls.accept(stream).await {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let (plain, _) = listening(|mut stream| async move {
        let mut some = [0; 1024];
        let _ = stream.read(&mut some).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let (silent, _) = listening(|stream| async move {
        tokio::time::sleep(2 * HOUR).await;
        drop(stream);
    })
    .await;
    // A port on which nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut table = String::new();
    for (name, to, word, budget) in [
        ("the name has no address", "https://nosuch.invalid".to_owned(), "dns", 400),
        ("nobody listens", format!("https://127.0.0.1:{closed}"), "refused", 400),
        ("a certificate that nobody trusts", format!("https://127.0.0.1:{untrusted}"), "certificate", 400),
        ("plain http on the port of https", format!("https://127.0.0.1:{plain}"), "", 400),
        ("a handshake that never ends", format!("https://127.0.0.1:{silent}"), "", 400),
    ] {
        let bench = connected(setup(&["acme"]), &["acme"]).await;
        let (mut bench, before) = moved(bench, &to);
        let report = bench.sync_with(Options::default()).await;
        let requests = report.tenants[&tenant("acme")].requests;
        let said = report.troubles().join("\n").to_lowercase();
        assert_eq!(report.code, ExitCode::Provider, "{name}: {said}");
        assert!(said.contains("no connection could be made") && said.contains(word), "{name}: {said}");
        assert_honest(name, &report);
        assert!(requests <= 60, "{name}: {requests} requests");
        assert!(seconds(&report) <= f64::from(budget), "{name}: {} s", seconds(&report));
        assert_eq!(counted(&bench), 0);
        let _ = writeln!(table, "| {name} | 8 | {requests} of 60 | {:.0} of {budget} |", seconds(&report));
        bench.world = before;
        bench.sync().await;
        bench.assert_right("acme").await;
    }
    println!("{table}");
}

/// How long each tenant's part took, by its own note in the state.
async fn times(bench: &Bench, names: &[&str], started: Timestamp) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for name in names {
        let last = bench.state().runs(&tenant(name)).last::<LastRun>().await.unwrap().unwrap();
        all.insert((*name).to_owned(), last.body.ended.since(started).as_secs_f64());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn one_tenants_trouble_costs_the_others_no_time() {
    let names = ["acme", "birch", "cedar"];
    let run = async |faults: Vec<Fault>| {
        let bench = connected(setup(&names), &names).await;
        for f in faults {
            bench.control.fault(Fault { account: Some("birch".into()), ..f });
        }
        let report = bench.sync_with(Options::default()).await;
        let times = times(&bench, &names, report.started).await;
        for name in ["acme", "cedar"] {
            assert!(report.tenants[&tenant(name)].failures.is_empty());
            bench.assert_right(name).await;
        }
        (times, report.code)
    };
    let (alone, code) = run(vec![]).await;
    assert_eq!(code, ExitCode::Done);
    let storms: Vec<(&str, Action)> = vec![
        ("latency", Action::Delay { ms: 5_000 }),
        ("hangs", Action::Delay { ms: 3_600_000 }),
        ("resets", Action::Reset),
        ("half bodies", Action::Truncate { bytes: 700 }),
        ("drips", Action::Drip { ms_per_chunk: 60_000 }),
        ("502", status(502, None)),
        ("429", status(429, None)),
        ("429 with a pause", status(429, Some("60"))),
        ("503 with a long pause", status(503, Some("3600"))),
        ("sign-in pages", Action::Garbage),
        ("ended tokens", Action::ExpireToken),
        ("endless bodies", Action::Endless { ms_per_chunk: 1_000 }),
    ];
    for (storm, action) in storms {
        let (times, _) = run(vec![fault("GET /v1/", 0, 0, action)]).await;
        println!(
            "| {storm} | acme {:.1} s | cedar {:.1} s | birch {:.0} s |",
            times["acme"], times["cedar"], times["birch"]
        );
        for name in ["acme", "cedar"] {
            let (time, alone) = (times[name], alone[name]);
            assert!(time <= alone * 1.05, "{storm}: {name} took {time} s, and {alone} s without the trouble of birch");
        }
    }
}

/// A fleet is not made to wait for an outage once a tenant.
#[tokio::test(start_paused = true)]
async fn an_outage_costs_a_fleet_its_patience_once() {
    let names: Vec<String> = (0..24).map(|i| format!("t{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut setup = setup(&names);
    setup.accounts = names.iter().map(|n| AccountSize::new(*n, 5)).collect();
    setup.config = "tenants_at_once = 2".into();
    let bench = connected(setup, &names).await;
    bench.control.fault(fault("GET /v1/", 0, 0, status(502, None)));
    let report = bench.sync_with(Options::default()).await;
    assert_eq!(report.code, ExitCode::Provider);
    // Five minutes for the first two, half a minute for each pair of the others: without the memory it would be an hour.
    assert!(seconds(&report) <= 900.0, "{} s", seconds(&report));
    let requests: u64 = report.tenants.values().map(|t| t.requests).sum();
    assert_eq!(requests, counted(&bench));
    assert!(requests <= 2 * 60 + 22 * 7, "{requests} requests");
    println!("| an outage of an hour, 24 tenants, two at once | 8 | {requests} | {:.0} |", seconds(&report));
    bench.control.clear_faults();
    bench.sync().await;
    for name in names {
        bench.assert_right(name).await;
    }
}

/// What one tenant met is no reason to make the next one wait: it asks once alone, and then as ever.
#[tokio::test(start_paused = true)]
async fn who_comes_after_a_tenant_in_trouble_loses_one_answer() {
    let names = ["birch", "cedar"];
    let run = async |trouble: bool| {
        let setup = Setup { config: "tenants_at_once = 1".into(), ..setup(&names) };
        let bench = connected(setup, &names).await;
        if trouble {
            let of_birch = Fault { account: Some("birch".into()), ..fault("GET /v1/", 0, 0, status(502, None)) };
            bench.control.fault(of_birch);
        }
        let report = bench.sync_with(Options::default()).await;
        let times = times(&bench, &names, report.started).await;
        bench.assert_right("cedar").await;
        assert_eq!(report.tenants[&tenant("birch")].failures.is_empty(), !trouble);
        times["cedar"] - times["birch"]
    };
    let (alone, after) = (run(false).await, run(true).await);
    assert!(after <= alone * 1.05, "{after} s after a tenant in trouble, and {alone} s after one that is in none");
}

/// A stop does not wait for an outage.
#[tokio::test(start_paused = true)]
async fn a_stop_in_an_outage_ends_the_run_at_once() {
    for (route, skip) in [("GET /v1/", 0), ("GET /v1/opportunities/:id/", 20)] {
        let bench = connected(setup(&["acme"]), &["acme"]).await;
        bench.control.fault(fault(route, skip, 0, status(502, None)));
        let options = Options { deadline: Some(MINUTE), ..Options::default() };
        let report = bench.sync_with(options).await;
        assert_eq!(report.code, ExitCode::Stopped, "{route}: {}", report.troubles().join("\n"));
        assert!((60.0..62.0).contains(&seconds(&report)), "{route}: {} s", seconds(&report));
        bench.control.clear_faults();
        bench.sync().await;
        bench.assert_right("acme").await;
    }
}

/// A request that waited long behind more urgent ones has its whole patience left.
#[tokio::test(start_paused = true)]
async fn time_in_the_queue_for_permits_is_not_time_of_the_request() {
    let (port, came) = listening(|mut stream| async move {
        let mut some = [0; 4096];
        while stream.read(&mut some).await.is_ok_and(|n| n > 0) {
            static ANSWERED: AtomicU64 = AtomicU64::new(0);
            let word = if ANSWERED.fetch_add(1, Ordering::Relaxed) == 0 { "502 Bad" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {word}\r\ncontent-length: 2\r\n\r\n{{}}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let clock = Clock::system();
    let client = Client::new(clock).unwrap();
    let gate = Gate::new(clock, Rate { per_second: 1.0, burst: 1 });
    let url = format!("http://127.0.0.1:{port}/v1/users").parse().unwrap();
    let call = Call {
        method: Method::Get,
        url: &url,
        query: &[],
        credential: None,
        hosts: &[],
        elsewhere: false,
        priority: Priority(0),
    };
    let urgent = async {
        for _ in 0..400 {
            gate.permit(Priority(9)).await.unwrap();
        }
    };
    let asked = client.send(&gate, &Budget::PAGE, &call, Judged::Take);
    let began = clock.elapsed();
    let (_, answer) = tokio::join!(urgent, asked);
    assert_eq!(answer.unwrap().attempts, 2);
    assert!(clock.elapsed() - began >= Budget::PAGE.total, "it did not wait long enough to show anything");
    assert_eq!(came.load(Ordering::Relaxed), 1);
}

/// What the program took at most, in MiB, and what it ended with. Its own process: a test's holds the sandbox too.
#[cfg(target_os = "linux")]
async fn peak(bench: &Bench, args: &[&str]) -> (i32, u64, String) {
    use std::process::Stdio;
    let mut args = args.to_vec();
    // A trace of every chunk would be what is measured.
    args.extend(["--log", "warn"]);
    let child =
        crate::program::program(bench.dir.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let mut most = 0;
    while !ended.is_finished() {
        // Gone between two looks, it has no status any more.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib =
            status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) / 1024);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ended = ended.await.unwrap();
    (ended.status.code().unwrap(), most, String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// So many MiB of zeros as gzip makes them: its format's shortest words, each for 258 bytes of what came before.
#[cfg(target_os = "linux")]
fn bomb(mib: usize) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], 0_u64, 0_u32);
    let mut put = |value: u64, n: u32, out: &mut Vec<u8>| {
        bits |= value << held;
        held += n;
        while held >= 8 {
            out.push((bits & 255) as u8);
            (bits, held) = (bits >> 8, held - 8);
        }
    };
    // The last block, with the fixed code; one literal zero (0x30); then lengths of 258 (0xc5, its bits turned) at distance 1.
    put(1, 1, &mut out);
    put(1, 2, &mut out);
    put(0b0000_1100, 8, &mut out);
    for _ in 0..(mib << 20) / 258 {
        put(0b1010_0011, 8, &mut out);
        put(0, 5, &mut out);
    }
    put(0, 7, &mut out);
    put(0, 8, &mut out);
    out
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_a_run_takes_no_more_memory_than_its_budget() {
    let mut table = String::new();
    let every = |times, action| vec![fault("GET /v1/", 0, times, action)];
    // Cut short at its end, so it is decoded before it is found to be no page.
    let cut = format!("{{\"data\":[{{\"id\":\"{}", "x".repeat(60 << 20));
    let cut = Action::Status { code: 200, body: Some(cut), retry_after: None };
    let users = |action| vec![fault("GET /v1/users", 0, 0, action)];
    let one = ["sync", "--resource", "users", "--deadline", "6s"];
    /// What happens, what the program is told, what it ends with, and the MiB that it may take.
    type Case<'a> = (&'a str, Vec<Fault>, &'a [&'a str], i32, u64);
    let rows: Vec<Case<'_>> = vec![
        ("no trouble", vec![], &["sync"], 0, 120),
        ("every listing at once answers with 60 MiB", every(12, cut), &["sync"], 0, 400),
        (
            "every listing at once answers without an end",
            every(12, Action::Endless { ms_per_chunk: 0 }),
            &["sync"],
            0,
            400,
        ),
        ("an endless drip", users(Action::Endless { ms_per_chunk: 50 }), &one, 6, 100),
        ("endless pages full of rows", users(Action::NeverLast { rows: 100, offset_bytes: 4_000 }), &one, 6, 250),
    ];
    for (name, faults, args, exit, most) in rows {
        let bench = crate::cli::connected(60).await;
        faults.into_iter().for_each(|f| bench.control.fault(f));
        let (code, mib, said) = peak(&bench, args).await;
        assert_eq!(code, exit, "{name}: {said}");
        assert!(mib > 0 && mib <= most, "{name}: {mib} MiB, {most} are allowed");
        let _ = writeln!(table, "| {name} | {code} | {mib} of {most} |");
        bench.control.clear_faults();
        let (code, _, said) = peak(&bench, &["sync"]).await;
        assert_eq!(code, 0, "{name}: {said}");
        bench.assert_right("acme").await;
    }

    let body: Arc<Vec<u8>> = Arc::new(bomb(2_000));
    let (port, came) = listening(move |mut stream| {
        let body = body.clone();
        async move {
            let mut some = [0; 4096];
            let _ = stream.read(&mut some).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    })
    .await;
    let (mut bench, before) = moved(crate::cli::connected(60).await, &format!("http://127.0.0.1:{port}"));
    let (code, mib, said) = peak(&bench, &one).await;
    assert_eq!(code, 6, "a bomb: {said}");
    assert!(came.load(Ordering::Relaxed) > 1 && mib <= 250, "a bomb: {mib} MiB");
    let _ = writeln!(table, "| 2,000 MiB of zeros, packed into 13 | {code} | {mib} of 250 |");
    bench.world = before;
    println!("| what | exit | MiB |\n|---|---|---|\n{table}");
}
