//! The page on which customers connect by themselves, as a browser without scripts meets it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hirelake::auth::{Auth, Grant};
use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::connect::{self, ConnectError, Invite, Site};
use hirelake::names::RunId;
use hirelake::sandbox::{self, AccountSize, Action};
use hirelake::state::State;
use hirelake::store::Store;
use hirelake::sync::World;
use insta::assert_snapshot;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::connect_flow::hirelake;
use crate::harness::{Bench, CALLBACK, CLIENT, CLIENT_SECRET, NOW, VAULT_KEY, fault, tenant, write_config};

const DAY: Duration = Duration::from_secs(86_400);

/// A page that is served beside a sandbox.
struct Page {
    bench: Bench,
    listen: SocketAddr,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

/// What the configuration says beside the usual: lines of the app, and other sections.
#[derive(Default)]
struct Extra<'a> {
    app: &'a str,
    sections: &'a str,
    callbacks: &'a [&'a str],
}

/// Callbacks with `PORT` in place of the page's port.
async fn world(extra: Extra<'_>, clock: Clock) -> (Bench, SocketAddr) {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registered = if extra.callbacks.is_empty() { &["http://127.0.0.1:PORT/callback"] } else { extra.callbacks };
    let callbacks: Vec<String> = registered.iter().map(|c| c.replace("PORT", &listen.port().to_string())).collect();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let sandbox = sandbox::start(sandbox::Options {
        accounts: vec![AccountSize::new("acme", 20), AccountSize::new("birch", 20)],
        clients: vec![sandbox::Client {
            id: CLIENT.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: callbacks.clone(),
            scopes: hirelake::catalog::embedded().unwrap().oauth.scopes,
        }],
        clock,
        ..sandbox::Options::default()
    })
    .await
    .unwrap();
    let sections = format!("[connect]\nlisten = \"{listen}\"\n{}", extra.sections);
    let path = write_config(dir.path(), &sandbox.url(), "rate = { per_second = 1000.0, burst = 1000 }", &sections);
    let text = std::fs::read_to_string(&path).unwrap();
    let text =
        text.replace(&format!("{CALLBACK:?}"), &callbacks.iter().map(|c| format!("{c:?}, ")).collect::<String>());
    std::fs::write(&path, text.replace("[defaults]", &format!("{}\n[defaults]", extra.app))).unwrap();
    let config = Config::load_with(Some(&path), std::iter::empty()).unwrap();
    let world = World::open(Arc::new(config), clock).unwrap();
    (Bench { control: sandbox.control(), sandbox, world, dir }, listen)
}

async fn page_with(extra: Extra<'_>) -> Page {
    let (bench, listen) = world(extra, Clock::starting_at(NOW)).await;
    let stop = CancellationToken::new();
    let served = serve(&bench, listen, bench.state(), &stop).await;
    Page { bench, listen, stop, served }
}

async fn page() -> Page {
    page_with(Extra::default()).await
}

async fn serve(
    bench: &Bench,
    listen: SocketAddr,
    state: State,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let config = bench.world.config.clone();
    let auth = Arc::new(Auth::new(config.clone(), state.clone(), bench.world.clock, RunId::new()).unwrap());
    let site = Arc::new(Site::new(config, auth, state, listen, stop.clone()).unwrap());
    tokio::spawn(connect::serve(site, connect::listen(listen).await.unwrap()))
}

/// What a browser got.
struct Seen {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn location(&self) -> Url {
        self.header("location").parse().unwrap()
    }

    /// What a person reads, without the frame around it.
    fn says(&self) -> String {
        let main = self.text.split("<main>").nth(1).unwrap().split("</main>").next().unwrap();
        let (mut out, mut tag) = (String::new(), false);
        for c in main.chars() {
            match c {
                '<' => tag = true,
                '>' => {
                    tag = false;
                    out.push('\n');
                }
                c if !tag => out.push(c),
                _ => {}
            }
        }
        let out = out.replace("&amp;", "&").replace("&quot;", "\"");
        out.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

/// A browser: it keeps cookies and follows nothing by itself.
#[derive(Default)]
struct Browser {
    client: Option<reqwest::Client>,
    cookies: BTreeMap<String, String>,
    /// Everything that it was ever shown, but for the provider's pages.
    shown: String,
}

impl Browser {
    fn new() -> Self {
        let none = reqwest::redirect::Policy::none();
        Self { client: Some(reqwest::Client::builder().redirect(none).build().unwrap()), ..Self::default() }
    }

    async fn go(&mut self, method: Method, url: Url, headers: &[(&str, &str)]) -> Seen {
        let mut request = self.client.as_ref().unwrap().request(method, url);
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            request = request.header("cookie", format!("other=1; {}", cookies.join("; ")));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        for cookie in headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let text = response.text().await.unwrap();
        self.shown += &text;
        Seen { status, headers, text }
    }

    async fn get(&mut self, url: Url) -> Seen {
        self.go(Method::GET, url, &[]).await
    }

    /// Presses the button: where the consent page is.
    async fn press(&mut self, link: &Url) -> Url {
        let seen = self.go(Method::POST, link.clone(), &[("sec-fetch-site", "same-origin")]).await;
        assert_eq!(seen.status, StatusCode::SEE_OTHER, "{}", seen.text);
        seen.location()
    }

    /// Accepts for an account on the consent page: where the provider sends the browser.
    async fn accept(&mut self, mut consent: Url, account: &str) -> Url {
        consent.query_pairs_mut().append_pair("auto_accept", account);
        let none = reqwest::redirect::Policy::none();
        let other_site = reqwest::Client::builder().redirect(none).build().unwrap();
        let answer = other_site.get(consent).send().await.unwrap();
        answer.headers()["location"].to_str().unwrap().parse().unwrap()
    }

    async fn deny(&mut self, consent: Url) -> Url {
        let none = reqwest::redirect::Policy::none();
        let other_site = reqwest::Client::builder().redirect(none).build().unwrap();
        let page = other_site.get(consent.clone()).send().await.unwrap().text().await.unwrap();
        let (_, rest) = page.split_once("name=\"request\" value=\"").unwrap();
        let form = [("request", rest.split('"').next().unwrap()), ("decision", "deny")];
        let answer = other_site.post(consent.join("/authorize/decision").unwrap()).form(&form).send().await.unwrap();
        answer.headers()["location"].to_str().unwrap().parse().unwrap()
    }

    /// From the link to the last page.
    async fn connect(&mut self, link: &Url, account: &str) -> Seen {
        let consent = self.press(link).await;
        let back = self.accept(consent, account).await;
        let seen = self.get(back.clone()).await;
        if seen.status == StatusCode::SEE_OTHER {
            self.get(back.join(seen.header("location")).unwrap()).await
        } else {
            seen
        }
    }
}

impl Page {
    fn link_for(&self, name: &str, force: bool) -> Url {
        let (config, clock) = (&self.bench.world.config, self.bench.world.clock);
        let auth = self.bench.auth(RunId::new());
        let life = config.connect.invite_life;
        connect::link(config, auth.vault(), self.listen, clock.now(), &tenant(name), life, force).unwrap()
    }

    fn link(&self) -> Url {
        self.link_for("acme", false)
    }

    fn base(&self) -> Url {
        format!("http://{}/", self.listen).parse().unwrap()
    }

    async fn grant(&self, name: &str) -> Option<Grant> {
        self.bench.state().grants(&tenant(name)).last::<Grant>().await.unwrap().map(|e| e.body)
    }
}

fn token(link: &Url) -> String {
    link.path_segments().unwrap().next_back().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_customer_connects_by_a_link_and_the_sync_runs() {
    let page = page_with(Extra {
        app: "title = \"Acme Analytics\"\ndescription = \"Copies your hiring data to your own warehouse every night.\"",
        ..Extra::default()
    })
    .await;
    let (link, mut browser) = (page.link(), Browser::new());
    let seen = browser.get(link.clone()).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_snapshot!(seen.says(), @"
    Connect Lever to Acme Analytics
    Acme Analytics asks to read data of your Lever account. Nothing happens before you press the button below and accept on Lever's own page.
    Copies your hiring data to your own warehouse every night.
    Customer
    acme
    Environment
    Sandbox: Lever's test environment, no real data
    This link
    works once, until 22 June 2026, 08:00 UTC
    What Acme Analytics will be able to read
    Applications
    about people
    to which postings candidates applied, when, and how they came
    Archive reasons
    the list of reasons for which candidates are archived
    Audit events
    about people
    who changed what in your account, and when
    Contacts
    about people
    candidates' names, e-mail addresses, telephone numbers and locations
    Feedback templates
    the empty forms for feedback
    Form templates
    the empty profile forms
    Candidates and their opportunities
    about people
    names, how to reach them, stage, owner, tags, and the history of each
    Job postings
    titles, texts, teams, places, and their state
    Requisition fields
    which fields your requisitions have
    Requisitions
    open and filled positions, with headcount and pay range
    Sources
    the list of places from which candidates come
    Stages
    the steps of your hiring pipeline
    Tags
    the tags that candidates can have
    Users
    about people
    your own team in the account: names, e-mail addresses and roles
    Webhooks
    which of your systems are told of changes
    It may go on reading while you are away, so that the data stays up to date, until you end it.
    What it will not do
    Nothing in Lever is added, changed or deleted: only permissions to read are asked for.
    It never sees your password: you sign in on
    127.0.0.1
    .
    It does not last longer than you want: a Super Admin can remove the application in Lever's settings at any time.
    How it goes
    Press the button; you are taken to Lever.
    Sign in as a
    Super Admin
    of acme and accept. Lever asks for the consent of the whole organization, so nobody else can give it.
    You come back here and see whether it worked.
    Connect to Lever
    ");
    assert!(browser.cookies.is_empty(), "looking sets no cookie");
    let consent = browser.press(&link).await;
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), ["hirelake-connect"]);
    assert!(browser.cookies["hirelake-connect"].len() < 2000);
    let back = browser.accept(consent, "acme").await;
    let seen = browser.get(back.clone()).await;
    // The code leaves the address bar.
    assert_eq!((seen.status, seen.header("location")), (StatusCode::SEE_OTHER, "/connected"));
    assert!(page.grant("acme").await.is_some(), "the grant is durable before the page says so");
    let done = page.base().join("connected").unwrap();
    let seen = browser.get(done.clone()).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_snapshot!(seen.says(), @"
    ✓
    Done
    Lever is connected
    Thank you. The Lever account of
    acme
    is now connected to Acme Analytics. There is nothing more to do; you may close this page.
    What was granted
    Applications
    Archive reasons
    Audit events
    Contacts
    Feedback templates
    Form templates
    Candidates and their opportunities
    Job postings
    Requisition fields
    Requisitions
    Sources
    Stages
    Tags
    Users
    Webhooks
    To end it, remove the application in Lever's settings, or tell the team of Acme Analytics.
    ");
    // Looking at it again is no harm.
    assert_eq!(browser.get(done).await.says(), seen.says());
    page.bench.sync().await;
    page.bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_link_works_once_and_says_so_afterwards() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    let late = {
        // Another window of the same customer, which comes to the consent page before and to its end after.
        let mut other = Browser::new();
        let consent = other.press(&link).await;
        let back = other.accept(consent, "acme").await;
        (other, back)
    };
    assert!(browser.connect(&link, "acme").await.says().contains("Lever is connected"));
    let before = page.grant("acme").await;
    let seen = browser.get(link.clone()).await;
    assert_eq!(seen.status, StatusCode::GONE);
    assert_snapshot!(seen.says(), @r"
    !
    Nothing to do
    This link was used already
    An account was connected with it, and each link works once.
    If that was you, all is done and you may close this page. If it was not, tell the team that sent you the link.
    The same link cannot be used again.
    ");
    assert_eq!(browser.go(Method::POST, link, &[]).await.status, StatusCode::GONE);
    let (mut other, back) = late;
    assert_eq!(other.get(back).await.status, StatusCode::GONE);
    assert_eq!(page.grant("acme").await, before);
    assert_eq!(page.bench.control.stats().token_requests, 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_expires_and_a_consent_that_was_begun_in_time_ends_well() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    page.bench.pass(7 * DAY - Duration::from_secs(60)).await;
    assert_eq!(browser.get(link.clone()).await.status, StatusCode::OK);
    let consent = browser.press(&link).await;
    page.bench.pass(Duration::from_secs(60)).await;
    let seen = Browser::new().get(link.clone()).await;
    assert_eq!(seen.status, StatusCode::GONE);
    assert_snapshot!(seen.says(), @r"
    !
    Not connected
    This link has expired
    It could be used until 22 June 2026, 08:00 UTC.
    Ask the team that sent it for a new one.
    The same link cannot be used again.
    ");
    assert_eq!(Browser::new().go(Method::POST, link, &[]).await.status, StatusCode::GONE);
    let back = browser.accept(consent, "acme").await;
    assert_eq!(browser.get(back).await.status, StatusCode::SEE_OTHER);
    assert!(page.grant("acme").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_not_ours_opens_nothing() {
    let page = page().await;
    let token = token(&page.link());
    let mut browser = Browser::new();
    let cut = &token[..token.len() - 4];
    let swapped = format!("{}{}{}", &token[..30], if &token[30..31] == "A" { "B" } else { "A" }, &token[31..]);
    let elsewhere = hirelake::auth::vault::Vault::new(&hirelake::secret::Secret::new("07".repeat(32))).unwrap();
    let stranger = Invite::new(tenant("acme"), NOW.plus(DAY), true).token(&elsewhere).unwrap();
    let mut said = String::new();
    for wrong in ["", "x", "acme", "..%2f", cut, &swapped, &stranger, &format!("{token}/"), &"A".repeat(5000)] {
        let link: Url = format!("{}invite/{wrong}", page.base()).parse().unwrap();
        let seen = browser.get(link.clone()).await;
        assert_eq!(seen.status, StatusCode::NOT_FOUND, "{wrong}");
        said = seen.says();
        assert!(wrong.len() < 5 || !seen.text.contains(wrong));
        assert_eq!(browser.go(Method::POST, link, &[]).await.status, StatusCode::NOT_FOUND);
    }
    assert_snapshot!(said, @r"
    !
    Not connected
    This link is not known here
    It is incomplete or was changed; mail programs sometimes cut long links.
    Copy the whole link from the message, or ask the team that sent it for a new one.
    ");
    assert!(browser.cookies.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_only_in_the_browser_that_began() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    let consent = browser.press(&link).await;
    let back = browser.accept(consent.clone(), "acme").await;
    // Somebody else's browser, which never opened the link.
    let seen = Browser::new().get(back.clone()).await;
    assert_eq!(seen.status, StatusCode::BAD_REQUEST);
    assert_snapshot!(seen.says(), @r"
    !
    Not connected
    This browser did not begin here
    Lever's answer came to a browser in which the link was not opened, or later than 15 minutes after it; or this browser keeps no cookies.
    Open the link again, and finish on Lever's page in the same browser window.
    The same link can be used again.
    ");
    // Somebody else's browser, which began for itself: neither may finish the other's.
    let mut thief = Browser::new();
    let mine = thief.press(&link).await;
    let seen = thief.get(back.clone()).await;
    assert_eq!(seen.status, StatusCode::BAD_REQUEST);
    assert_snapshot!(seen.says().replace(&token(&link), "TOKEN"), @r"
    !
    Not connected
    This answer belongs to another attempt
    The link was opened again after the page of Lever that you answered, so that answer no longer counts.
    Close the other pages and open the link once more.
    The same link can be used again.
    Open the link again
    ");
    assert_eq!(page.bench.control.stats().token_requests, 0);
    // A lure ends nothing that is under way.
    let mine = thief.accept(mine, "acme").await;
    assert_eq!(thief.get(mine).await.status, StatusCode::SEE_OTHER);
    // A cookie of another key, or changed, is none.
    let mut changed = Browser::new();
    changed.press(&page.link_for("birch", false)).await;
    let cookie = changed.cookies.get_mut("hirelake-connect").unwrap();
    let swapped = if &cookie[40..41] == "A" { "B" } else { "A" };
    cookie.replace_range(40..41, swapped);
    assert_eq!(changed.get(back).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_consent_that_takes_too_long_is_begun_again() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    let consent = browser.press(&link).await;
    let back = browser.accept(consent, "acme").await;
    page.bench.pass(Duration::from_secs(15 * 60)).await;
    assert_eq!(browser.get(back).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(page.bench.control.stats().token_requests, 0);
    assert!(browser.connect(&link, "acme").await.says().contains("Lever is connected"));
}

#[tokio::test(start_paused = true)]
async fn each_way_to_fail_has_its_page_and_leaves_the_link_and_the_grant_as_they_were() {
    let page = page().await;
    let link = page.link();
    let mut said = Vec::new();
    let mut tell = |what: &str, seen: &Seen| said.push(format!("== {what}: {}\n{}", seen.status, seen.says()));
    let control = &page.bench.control;

    let mut browser = Browser::new();
    let consent = browser.press(&link).await;
    let back = browser.deny(consent).await;
    tell("denied", &browser.get(back.clone()).await);
    assert!(browser.cookies.is_empty(), "an answer that counted ends what was begun");

    let error = |back: &Url, error: &str| {
        let state = back.query_pairs().find(|(k, _)| k == "state").unwrap().1.into_owned();
        let mut url = back.clone();
        url.query_pairs_mut().clear().append_pair("error", error).append_pair("state", &state);
        url
    };
    for (what, code) in [("refused", "invalid_scope"), ("trouble", "server_error"), ("no word of ours", "<b>odd</b>")] {
        let consent = browser.press(&link).await;
        let back = browser.accept(consent, "acme").await;
        tell(what, &browser.get(error(&back, code)).await);
    }

    let consent = browser.press(&link).await;
    let mut back = browser.accept(consent.clone(), "acme").await;
    let state = back.query_pairs().find(|(k, _)| k == "state").unwrap().1.into_owned();
    back.query_pairs_mut().clear().append_pair("code", "canary-code-0a1b").append_pair("state", &state);
    let seen = browser.get(back).await;
    assert!(!seen.text.contains("canary-code-0a1b"));
    tell("another code", &seen);

    for (what, body) in
        [("wrong secret", r#"{"error":"access_denied","error_description":"Unauthorized"}"#), ("outage", "<html>")]
    {
        let code = if what == "outage" { 503 } else { 401 };
        control.fault(fault(
            "POST /oauth/token",
            0,
            0,
            Action::Status { code, body: Some(body.into()), retry_after: None },
        ));
        tell(what, &browser.connect(&link, "acme").await);
        control.clear_faults();
    }

    control.fault(fault("POST /oauth/token", 0, 0, Action::DropRefreshToken));
    tell("no refresh token", &browser.connect(&link, "acme").await);
    control.clear_faults();

    // The page of a wrong audience (reference 2.7).
    let consent = browser.press(&link).await;
    let pairs: Vec<(String, String)> = consent.query_pairs().into_owned().filter(|(k, _)| k != "audience").collect();
    let mut astray = consent.clone();
    astray.query_pairs_mut().clear().extend_pairs(pairs);
    let back = browser.accept(astray, "acme").await;
    tell("wrong audience", &browser.get(back).await);

    // A sync holds the tenant.
    let held = page.bench.state().lease(&tenant("acme"), RunId::new()).await.unwrap();
    let seen = browser.connect(&link, "acme").await;
    assert_eq!(seen.header("retry-after"), "120");
    tell("busy", &seen);
    held.release().await.unwrap();
    assert!(page.grant("acme").await.is_none());

    // After all that, the same link works.
    assert!(browser.connect(&link, "acme").await.says().contains("Lever is connected"));
    let before = page.grant("acme").await;
    tell("wrong account", &browser.connect(&page.link(), "birch").await);
    assert_eq!(page.grant("acme").await, before);
    let other = page.link_for("other", false);
    tell("account taken", &browser.connect(&other, "acme").await);
    assert!(page.grant("other").await.is_none());
    assert_snapshot!(said.join("\n"), @r"
    == denied: 403 Forbidden
    !
    Not connected
    Nothing was connected
    The request was not accepted on Lever's page.
    If that was a slip, open the link again and press Accept. Only a Super Admin can accept: if you are not one, pass the link on to a Super Admin of acme.
    The same link can be used again.
    Open the link again
    == refused: 502 Bad Gateway
    !
    Not connected
    The request was refused
    Lever did not take the request of this application, so nothing was connected.
    There is nothing that you can correct. Tell the team that sent you the link: the application's registration differs from its configuration.
    The same link can be used again.
    Open the link again
    == trouble: 503 Service Unavailable
    !
    Not connected
    The other side did not answer
    Lever did not answer as it should, so nothing was connected.
    Wait some minutes and open the link again.
    The same link can be used again.
    Open the link again
    == no word of ours: 502 Bad Gateway
    !
    Not connected
    The request was refused
    Lever did not take the request of this application, so nothing was connected.
    There is nothing that you can correct. Tell the team that sent you the link: the application's registration differs from its configuration.
    The same link can be used again.
    Open the link again
    == another code: 502 Bad Gateway
    !
    Not connected
    The consent could not be completed
    You accepted, but Lever no longer took the confirmation: it was used already or took too long.
    Open the link again and accept once more.
    The same link can be used again.
    Open the link again
    == wrong secret: 500 Internal Server Error
    !
    Not connected
    The application is not set up right
    It could not identify itself to Lever, or a part of its configuration is wrong. Nothing was connected.
    There is nothing that you can correct. Tell the team that sent you the link.
    The same link can be used again.
    Open the link again
    == outage: 503 Service Unavailable
    !
    Not connected
    The other side did not answer
    Lever did not answer as it should, so nothing was connected.
    Wait some minutes and open the link again.
    The same link can be used again.
    Open the link again
    == no refresh token: 500 Internal Server Error
    !
    Not connected
    The connection would not last
    Lever gave access for an hour only, so nothing was connected.
    There is nothing that you can correct. Tell the team that sent you the link: the application is not registered for offline access.
    The same link can be used again.
    Open the link again
    == wrong audience: 500 Internal Server Error
    !
    Not connected
    Nothing could be read
    Lever offered no permission to read anything, so nothing was connected.
    The application is not set up right, and there is nothing that you can correct. Tell the team that sent you the link: its audience or its registered scopes are wrong.
    The same link can be used again.
    Open the link again
    == busy: 503 Service Unavailable
    !
    Not connected
    Please try again in some minutes
    Data of acme is being read at this moment, so the new connection could not be stored.
    Wait some minutes and open the link again.
    The same link can be used again.
    Open the link again
    == wrong account: 409 Conflict
    !
    Not connected
    This is another account
    acme was connected to a different Lever account before. The account that you chose now was not connected, and the earlier connection is as it was.
    Open the link again and sign in to the right Lever account. If the account has really changed, ask the team for a link that allows it.
    The same link can be used again.
    Open the link again
    == account taken: 409 Conflict
    !
    Not connected
    This account is connected already
    This Lever account is connected under another name, and nothing was changed.
    If you have several Lever accounts, open the link again and sign in to the other one. Else tell the team that sent you the link.
    The same link can be used again.
    Open the link again
    ");
    assert!(!browser.shown.contains("odd</b>"));
    page.bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_with_force_takes_another_account() {
    let page = page().await;
    let mut browser = Browser::new();
    browser.connect(&page.link(), "acme").await;
    let before = page.grant("acme").await.unwrap();
    assert_eq!(browser.connect(&page.link(), "birch").await.status, StatusCode::CONFLICT);
    let seen = browser.connect(&page.link_for("acme", true), "birch").await;
    assert_eq!(seen.status, StatusCode::OK);
    assert_ne!(page.grant("acme").await.unwrap().account, before.account);
    assert_eq!(browser.connect(&page.link_for("other", false), "birch").await.status, StatusCode::CONFLICT);
    assert_eq!(browser.connect(&page.link_for("other", true), "birch").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn missing_scopes_are_named_with_the_tables_that_need_them() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    let consent = browser.press(&link).await;
    let pairs: Vec<(String, String)> = consent.query_pairs().into_owned().collect();
    let mut fewer = consent.clone();
    fewer.query_pairs_mut().clear().extend_pairs(pairs.iter().map(|(k, v)| match k.as_str() {
        "scope" => (k.as_str(), v.replace(" contact:read:admin", "").replace(" tags:read:admin", "")),
        k => (k, v.clone()),
    }));
    let back = browser.accept(fewer, "acme").await;
    browser.get(back).await;
    let seen = browser.get(page.base().join("connected").unwrap()).await;
    let says = seen.says();
    let (_, lacking) = says.split_once("Not granted").unwrap();
    assert_snapshot!(lacking.split("What was granted").next().unwrap().trim(), @r"
    These were asked for and not granted. Everything else works without them:
    Contacts
    (
    contact:read:admin
    ), needed for opportunities, contacts
    Tags
    (
    tags:read:admin
    ), needed for tags
    If they were meant to be read too, tell the team of main: the permissions must be registered for the application, and then connected again with a new link.
    ");
}

#[tokio::test(start_paused = true)]
async fn a_consent_goes_on_after_a_restart_and_through_another_replica() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    let consent = browser.press(&link).await;
    page.stop.cancel();
    page.served.await.unwrap();
    let stop = CancellationToken::new();
    let _served = serve(&page.bench, page.listen, page.bench.state(), &stop).await;
    let back = browser.accept(consent, "acme").await;
    assert_eq!(browser.get(back).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test(start_paused = true)]
async fn a_browser_that_is_closed_while_the_code_is_exchanged_loses_nothing() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    let consent = browser.press(&link).await;
    let back = browser.accept(consent, "acme").await;
    page.bench.control.fault(fault("POST /oauth/token", 0, 1, Action::Delay { ms: 5_000 }));
    let cookie = format!("hirelake-connect={}", browser.cookies["hirelake-connect"]);
    let request = reqwest::Client::new().get(back).header("cookie", cookie).timeout(Duration::from_secs(1)).send();
    assert!(request.await.unwrap_err().is_timeout());
    // Nor does the end of the server: it waits for what was begun.
    page.stop.cancel();
    page.served.await.unwrap();
    let state = page.bench.state();
    assert!(state.grants(&tenant("acme")).last::<Grant>().await.unwrap().is_some());
    assert!(state.lease_info(&tenant("acme")).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_cannot_be_saved_is_not_said_to_be() {
    let page = page().await;
    let (link, mut browser) = (page.link(), Browser::new());
    // In the grants' place stands a file: the disk takes no new entry there.
    std::fs::write(page.bench.dir.path().join("state/grants"), "").unwrap();
    let seen = browser.connect(&link, "acme").await;
    assert_eq!(seen.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_snapshot!(seen.says(), @r"
    !
    Not connected
    Something went wrong here
    The connection could not be stored. Nothing is wrong with your account.
    Try again later, or tell the team that sent you the link.
    The same link can be used again.
    Open the link again
    ");
    std::fs::remove_file(page.bench.dir.path().join("state/grants")).unwrap();
    // The account was claimed before; its own tenant can finish.
    assert_eq!(browser.connect(&link, "acme").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_the_headers_of_a_page_that_trusts_nobody() {
    let page = page_with(Extra { app: "hosts = [\"lever.co\"]", ..Extra::default() }).await;
    let (link, mut browser) = (page.link(), Browser::new());
    let at = |path: &str| page.base().join(path).unwrap();
    let mut policies = Vec::new();
    for (url, status) in [
        (page.base(), 200),
        (link.clone(), 200),
        (at("invite/x"), 404),
        (at("nowhere"), 404),
        (at("callback"), 400),
        (at("connected"), 200),
        (at("style.css"), 200),
        (at("healthz"), 200),
        (at(&format!("?{}", "x".repeat(9000))), 413),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let seen = browser.go(method.clone(), url.clone(), &[]).await;
            assert_eq!(seen.status, status, "{method} {}", url.path());
            assert_eq!(seen.text.is_empty(), method == Method::HEAD);
            let rest = [
                "referrer-policy",
                "x-content-type-options",
                "x-frame-options",
                "cache-control",
                "cross-origin-opener-policy",
                "connection",
            ];
            let rest: Vec<&str> = rest.iter().map(|h| seen.header(h)).collect();
            assert_eq!(rest, ["no-referrer", "nosniff", "DENY", "no-store", "same-origin", "close"]);
            policies.push(format!(
                "{:11} {}",
                url.path().split("invite/").next().unwrap(),
                seen.header("content-security-policy")
            ));
        }
    }
    policies.dedup();
    let port = page.bench.sandbox.addr().port().to_string();
    assert_snapshot!(policies.join("\n").replace(&port, "PORT"), @r"
    /           default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /           default-src 'none'; style-src 'self'; img-src data:; form-action 'self' http://127.0.0.1:PORT https://lever.co https://*.lever.co; base-uri 'none'; frame-ancestors 'none'
    /           default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /nowhere    default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /callback   default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /connected  default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /style.css  default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /healthz    default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    /           default-src 'none'; style-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'
    ");
    assert_eq!(browser.get(at("healthz")).await.text, "ok\n");
    for (method, url) in [(Method::POST, page.base()), (Method::PUT, link.clone()), (Method::DELETE, at("callback"))] {
        assert_eq!(browser.go(method, url, &[]).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    let seen = browser.go(Method::POST, link.clone(), &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!((seen.status, browser.cookies.len()), (StatusCode::FORBIDDEN, 0));
    let large = reqwest::Client::new().post(link.clone()).body("x".repeat(5000)).send().await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let seen = browser.go(Method::POST, link, &[]).await;
    let cookie = seen.header("set-cookie");
    assert!(cookie.ends_with("; Path=/; Max-Age=900; HttpOnly; SameSite=Lax"), "{cookie}");
    // Pages name nothing from elsewhere and hold no script.
    for foreign in ["<script", "http://", "https://", "src=", "onclick", "style=\""] {
        assert!(!browser.shown.contains(foreign), "a page has {foreign}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_shown_out_and_holds_up_no_end() {
    let page = page().await;
    let mut silent = tokio::net::TcpStream::connect(page.listen).await.unwrap();
    let began = page.bench.world.clock.elapsed();
    // Half a request, and nothing after it: the server ends the connection, not we.
    silent.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut left = Vec::new();
    let _ = silent.read_to_end(&mut left).await;
    let held = page.bench.world.clock.elapsed() - began;
    assert!(held <= Duration::from_secs(181), "{held:?}");
    let _silent = tokio::net::TcpStream::connect(page.listen).await.unwrap();
    assert_eq!(Browser::new().get(page.base()).await.status, StatusCode::OK);
    let began = page.bench.world.clock.elapsed();
    page.stop.cancel();
    page.served.await.unwrap();
    assert!(page.bench.world.clock.elapsed() - began <= Duration::from_secs(11));
}

/// The door of the only app under a configuration.
async fn door(callbacks: &[&str], sections: &str) -> Result<String, String> {
    let (bench, listen) = world(Extra { callbacks, sections, ..Extra::default() }, Clock::starting_at(NOW)).await;
    let config = &bench.world.config;
    let port = listen.port().to_string();
    let app = config.app(&tenant("acme")).unwrap();
    let door = connect::Door::of(config, listen, app).map(|d| format!("{} {}", d.base, d.callback));
    door.map(|d| d.replace(&port, "PORT")).map_err(|e: ConnectError| e.to_string().replace(&port, "PORT"))
}

#[tokio::test(start_paused = true)]
async fn of_several_callbacks_the_one_that_leads_here_is_taken() {
    let many = ["https://staging.example.com/cb", "http://localhost:PORT/cb", "https://hire.example.com/lever/cb"];
    let mut said = Vec::new();
    for (callbacks, sections) in [
        (&many[..], ""),
        (&many[..], "public_url = \"https://hire.example.com\""),
        (&many[..], "public_url = \"https://hire.example.com/lever\""),
        (&many[..], "public_url = \"https://staging.example.com/\""),
        (&many[..], "public_url = \"https://other.example.com/\""),
        (&many[..1], ""),
        (&["http://127.0.0.1:1/callback"], ""),
        (&["https://hire.example.com/healthz"], "public_url = \"https://hire.example.com\""),
    ] {
        said.push(match door(callbacks, sections).await {
            Ok(door) => door,
            Err(why) => why,
        });
    }
    assert_snapshot!(said.join("\n"), @r"
    http://localhost:PORT/ http://localhost:PORT/cb
    https://hire.example.com/ https://hire.example.com/lever/cb
    https://hire.example.com/lever/ https://hire.example.com/lever/cb
    https://staging.example.com/ https://staging.example.com/cb
    app main has no callback on the connect page, such as https://other.example.com/callback
    hint: register https://other.example.com/callback as a callback of app main at the provider and add it to redirect_uris of [apps.main]
    app main has no callback on the connect page, such as http://localhost:PORT/callback
    hint: register http://localhost:PORT/callback as a callback of app main at the provider and add it to redirect_uris of [apps.main], or set [connect] public_url to where customers reach the page
    app main has no callback on the connect page, such as http://localhost:PORT/callback
    hint: register http://localhost:PORT/callback as a callback of app main at the provider and add it to redirect_uris of [apps.main], or set [connect] public_url to where customers reach the page
    app main has no callback on the connect page, such as https://hire.example.com/callback
    hint: register https://hire.example.com/callback as a callback of app main at the provider and add it to redirect_uris of [apps.main] in place of https://hire.example.com/healthz, which is a page of its own
    ");
}

#[tokio::test(start_paused = true)]
async fn behind_a_proxy_with_tls_the_cookie_is_secure_and_paths_stay_below_the_public_address() {
    let page = page_with(Extra {
        callbacks: &["https://hire.example.com/lever/back", "http://127.0.0.1:PORT/callback"],
        sections: "public_url = \"https://hire.example.com/lever\"",
        ..Extra::default()
    })
    .await;
    let link = page.link();
    assert!(link.as_str().starts_with("https://hire.example.com/lever/invite/"), "{link}");
    let inside = |url: &Url| page.base().join(&url.as_str()["https://hire.example.com".len()..]).unwrap();
    let mut browser = Browser::new();
    let seen = browser.get(inside(&link)).await;
    assert!(seen.text.contains("\"/lever/style.css\"") && seen.text.contains("action=\"/lever/invite/"));
    let seen = browser.go(Method::POST, inside(&link), &[]).await;
    assert!(seen.header("set-cookie").starts_with("__Host-hirelake-connect="));
    assert!(seen.header("set-cookie").ends_with("; SameSite=Lax; Secure"));
    let back = browser.accept(seen.location(), "acme").await;
    assert!(back.as_str().starts_with("https://hire.example.com/lever/back?code="));
    let seen = browser.get(inside(&back)).await;
    assert_eq!((seen.status, seen.header("location")), (StatusCode::SEE_OTHER, "/lever/connected"));
    for (path, status) in [("lever/", 200), ("lever/healthz", 200), ("healthz", 200), ("", 404), ("callback", 404)] {
        assert_eq!(browser.get(page.base().join(path).unwrap()).await.status, status, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_page_shows_a_secret_or_who_else_is_connected() {
    let page = page().await;
    let mut browser = Browser::new();
    let consent = browser.press(&page.link_for("secret-customer", false)).await;
    let mut canaries = vec![CLIENT_SECRET.to_owned(), VAULT_KEY.to_owned(), "secret-customer".into()];
    canaries.extend(consent.query_pairs().find(|(k, _)| k == "state").map(|(_, v)| v.into_owned()));
    let back = browser.accept(consent, "acme").await;
    canaries.extend(back.query_pairs().find(|(k, _)| k == "code").map(|(_, v)| v.into_owned()));
    browser.get(back.clone()).await;
    let vault = hirelake::auth::vault::Vault::new(&hirelake::secret::Secret::new(VAULT_KEY)).unwrap();
    let name = tenant("secret-customer");
    let tokens = page.grant("secret-customer").await.unwrap().tokens(&vault, &name).unwrap().unwrap();
    canaries.push(tokens.access.expose().to_owned());
    canaries.push(tokens.refresh.unwrap().expose().to_owned());
    canaries.extend(browser.cookies.values().cloned());
    let mut others = Browser::new();
    others.get(page.base()).await;
    others.get(page.base().join("connected").unwrap()).await;
    others.get(back).await;
    assert_eq!(others.connect(&page.link(), "acme").await.status, StatusCode::CONFLICT);
    for canary in canaries {
        assert!(!others.shown.contains(&canary), "a page shows {canary}");
        assert!(canary == "secret-customer" || !browser.shown.contains(&canary), "a page shows {canary}");
    }
}

#[tokio::test(start_paused = true)]
async fn on_another_store_the_page_works_too() {
    let (bench, listen) = world(Extra::default(), Clock::starting_at(NOW)).await;
    let state = State::new(Store::memory(), bench.world.clock);
    let stop = CancellationToken::new();
    let served = serve(&bench, listen, state.clone(), &stop).await;
    let page = Page { bench, listen, stop, served };
    let mut browser = Browser::new();
    let link = page.link();
    assert_eq!(browser.connect(&link, "acme").await.status, StatusCode::OK);
    assert_eq!(browser.connect(&page.link_for("other", false), "acme").await.status, StatusCode::CONFLICT);
    assert_eq!(browser.get(link).await.status, StatusCode::GONE);
    assert!(state.grants(&tenant("acme")).last::<Grant>().await.unwrap().is_some());
}

/// Runs the binary to its end, on a thread of its own so that the sandbox goes on.
async fn run(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut command = hirelake(dir, args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_print_a_link_and_serve_it_until_a_signal() {
    let (bench, listen) = world(Extra::default(), Clock::system()).await;
    let dir = bench.dir.path();
    let mut child = hirelake(dir, &["connect", "serve", "--log", "trace"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let invite = run(dir, &["connect", "invite", "acme", "--expires", "2h"]).await;
    assert!(invite.status.success(), "{invite:?}");
    let said = String::from_utf8(invite.stdout).unwrap();
    assert_eq!(said.lines().count(), 1, "stdout has the link alone: {said}");
    let link: Url = said.trim().parse().unwrap();
    assert_eq!((link.host_str(), link.port()), (Some("127.0.0.1"), Some(listen.port())));
    for _ in 0..200 {
        match tokio::net::TcpStream::connect(listen).await {
            Ok(_) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    let mut browser = Browser::new();
    assert!(browser.connect(&link, "acme").await.says().contains("Lever is connected"));
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(killed.success());
    let output = tokio::task::spawn_blocking(move || {
        child.wait().unwrap();
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("a customer connected") && log.contains("tenant=acme"), "{log}");
    let sealed = browser.cookies.values().next().unwrap();
    for canary in [&token(&link), sealed, CLIENT_SECRET, VAULT_KEY, "code=", "state="] {
        assert!(!log.contains(canary), "the log holds {canary}: {log}");
    }

    let mut refused = Vec::new();
    for args in [
        &["connect", "invite", "acme", "--expires", "0s"][..],
        &["connect", "invite", "acme", "--expires", "400d"],
        &["connect", "invite", "Acme"],
        &["connect", "acme", "serve"],
        &["connect", "serve", "--listen", "127.0.0.1:1"],
    ] {
        let output = run(dir, args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?} {output:?}");
        refused.push(format!("$ {}\n{}", args.join(" "), String::from_utf8(output.stderr).unwrap().trim_end()));
    }
    assert_snapshot!(refused.join("\n"), @r#"
    $ connect invite acme --expires 0s
    error: a link cannot live for 0 days
    hint: give more than nothing and at most 90 days, such as --expires 7d
    $ connect invite acme --expires 400d
    error: a link cannot live for 400 days
    hint: give more than nothing and at most 90 days, such as --expires 7d
    $ connect invite Acme
    error: invalid value 'Acme' for '<TENANT>': tenant name "Acme" cannot be used: it does not begin with a lower-case letter or a digit
    hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`

    For more information, try '--help'.
    $ connect acme serve
    error: the subcommand 'serve' cannot be used with '<TENANT>'

    Usage: hirelake connect [OPTIONS] <TENANT>
           hirelake connect <COMMAND>

    For more information, try '--help'.
    $ connect serve --listen 127.0.0.1:1
    error: app main has no callback on the connect page, such as http://localhost:1/callback
    hint: register http://localhost:1/callback as a callback of app main at the provider and add it to redirect_uris of [apps.main], or set [connect] public_url to where customers reach the page
    "#);
    // A tenant may be called like a command where a command cannot stand.
    let page = run(dir, &["connect", "invite", "serve"]).await;
    assert!(page.status.success());
}
