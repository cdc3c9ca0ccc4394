//! A customer connects: through the consent page, or with a credential that is already there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hirelake::auth::connect::{Callback, Connected, Invitation, Refused};
use hirelake::auth::{Auth, AuthError, CredentialKind, Grant};
use hirelake::clock::Clock;
use hirelake::config::Config;
use hirelake::disconnect;
use hirelake::names::RunId;
use hirelake::report::{ExitCode, Failure};
use hirelake::sandbox::{self, AccountSize, Action, Fault};
use hirelake::secret::Secret;
use hirelake::sync::{self, Options, World};
use insta::assert_snapshot;
use url::Url;

use crate::harness::{Bench, CALLBACK, CLIENT, CLIENT_SECRET, Setup, tenant, write_config};
use crate::program::{Program, program};

async fn bench() -> Bench {
    let accounts = vec![AccountSize::new("acme", 30), AccountSize::new("birch", 20)];
    Setup { accounts, ..Setup::default() }.start().await
}

/// Where the browser ends when `account` accepts, or nobody does.
pub async fn answer(link: &Url, account: Option<&str>) -> Url {
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let response = match account {
        Some(account) => {
            let mut link = link.clone();
            link.query_pairs_mut().append_pair("auto_accept", account);
            browser.get(link).send().await.unwrap()
        }
        None => {
            let page = browser.get(link.clone()).send().await.unwrap().text().await.unwrap();
            let (_, rest) = page.split_once("name=\"request\" value=\"").unwrap();
            let request = rest.split('"').next().unwrap();
            let decision = link.join("/authorize/decision").unwrap();
            browser.post(decision).form(&[("request", request), ("decision", "deny")]).send().await.unwrap()
        }
    };
    response.headers()["location"].to_str().unwrap().parse().unwrap()
}

async fn exchange(
    bench: &Bench,
    invitation: &Invitation,
    callback: Callback,
    force: bool,
) -> Result<Connected, AuthError> {
    let (acme, run) = (tenant("acme"), RunId::new());
    let lease = bench.state().lease(&acme, run).await.unwrap();
    let outcome = bench.auth(run).exchange(&acme, &lease, invitation, callback, force).await;
    lease.release().await.unwrap();
    outcome
}

async fn consent(bench: &Bench, account: &str, force: bool) -> Result<Connected, AuthError> {
    let invitation = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap();
    let back = answer(&invitation.link, Some(account)).await;
    exchange(bench, &invitation, Callback::from_url(&back), force).await
}

async fn seed(bench: &Bench, what: &str, kind: CredentialKind, force: bool) -> Result<Connected, AuthError> {
    let (acme, run, what) = (tenant("acme"), RunId::new(), Secret::new(what));
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    let auth = bench.auth(run);
    match kind {
        CredentialKind::OAuth => auth.seed_refresh_token(&acme, lease, what, force).await,
        CredentialKind::ApiKey => auth.seed_api_key(&acme, lease, what, force).await,
    }
}

/// A refresh token that was had elsewhere.
fn elsewhere(bench: &Bench, account: &str) -> String {
    let scopes = bench.world.config.scopes(&tenant("acme")).unwrap().joined();
    bench.control.grant(account, CLIENT, &scopes).unwrap().refresh_token.unwrap()
}

async fn grant(bench: &Bench) -> Option<Grant> {
    bench.state().grants(&tenant("acme")).last::<Grant>().await.unwrap().map(|e| e.body)
}

fn said(error: &AuthError) -> String {
    Failure::new(None, ExitCode::Reconnect, error).to_string()
}

/// A configuration with another callback.
fn with_callback(bench: &Bench, callback: &str) -> Arc<Auth> {
    let path = bench.dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace(CALLBACK, callback);
    std::fs::write(&path, text).unwrap();
    let config = Config::load_with(Some(&path), std::iter::empty()).unwrap();
    Arc::new(Auth::new(Arc::new(config), bench.state(), bench.world.clock, RunId::new()).unwrap())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn state_of(link: &Url) -> String {
    link.query_pairs().find(|(k, _)| k == "state").unwrap().1.into_owned()
}

#[tokio::test(start_paused = true)]
async fn the_consent_link_asks_for_what_is_needed_and_no_more() {
    let bench = bench().await;
    let link = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap().link;
    let state = state_of(&link);
    assert_eq!(state.len(), 48);
    let text = link.as_str().replace(&state, "STATE").replace(&bench.sandbox.addr().port().to_string(), "PORT");
    assert_snapshot!(text.replace('&', "\n&").replace('+', "\n    +"), @"
    http://127.0.0.1:PORT/authorize?client_id=test-client
    &redirect_uri=http%3A%2F%2F127.0.0.1%3A8914%2Fcallback
    &response_type=code
    &state=STATE
    &scope=offline_access
        +applications%3Aread%3Aadmin
        +archive_reasons%3Aread%3Aadmin
        +audit_events%3Aread%3Aadmin
        +contact%3Aread%3Aadmin
        +feedback_templates%3Aread%3Aadmin
        +form_templates%3Aread%3Aadmin
        +opportunities%3Aread%3Aadmin
        +postings%3Aread%3Aadmin
        +requisition_fields%3Aread%3Aadmin
        +requisitions%3Aread%3Aadmin
        +sources%3Aread%3Aadmin
        +stages%3Aread%3Aadmin
        +tags%3Aread%3Aadmin
        +users%3Aread%3Aadmin
        +webhooks%3Aread%3Aadmin
    &audience=http%3A%2F%2F127.0.0.1%3APORT%2Fv1%2F
    &prompt=consent
    ");
    assert_ne!(state, state_of(&bench.auth(RunId::new()).invite(&tenant("acme")).unwrap().link));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_ours_or_not_a_yes_stores_nothing() {
    let bench = bench().await;
    let invitation = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap();
    let other = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap();
    let mut refused = Vec::new();
    let mut refuse = async |callback: Callback| {
        let error = exchange(&bench, &invitation, callback, true).await.unwrap_err();
        refused.push(said(&error));
    };
    refuse(Callback::from_url(&answer(&other.link, Some("acme")).await)).await;
    refuse(Callback { code: Some("code".into()), ..Callback::default() }).await;
    refuse(Callback::from_url(&answer(&invitation.link, None).await)).await;
    let state = Some(state_of(&invitation.link));
    refuse(Callback { state: state.clone(), error: Some("invalid_scope".into()), ..Callback::default() }).await;
    refuse(Callback { state: state.clone(), ..Callback::default() }).await;
    assert_eq!(bench.control.stats().token_requests, 0);
    refuse(Callback { state, code: Some("invented".into()), ..Callback::default() }).await;
    assert_snapshot!(refused.join("\n"), @r"
    connecting tenant acme failed: the answer does not belong to this request (its `state` differs)
    hint: open the link that this command printed, in one browser, and only once
    connecting tenant acme failed: the answer does not belong to this request (its `state` differs)
    hint: open the link that this command printed, in one browser, and only once
    connecting tenant acme failed: the consent was denied
    hint: a Super Admin of the customer must press Accept
    connecting tenant acme failed: the provider refused the request (invalid_scope)
    hint: every scope must be registered for the app: `hirelake connect guide` prints them as the registration form wants them
    connecting tenant acme failed: the answer holds no code
    hint: run the command again
    connecting tenant acme failed: the provider says invalid_grant
    hint: the code is used, expired or of another callback: run the command again
    ");
    assert!(grant(&bench).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_code_serves_once() {
    let bench = bench().await;
    let invitation = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap();
    let back = Callback::from_url(&answer(&invitation.link, Some("acme")).await);
    let connected = exchange(&bench, &invitation, back.clone(), false).await.unwrap();
    assert!(connected.missing.is_empty() && connected.account.is_some());
    let before = grant(&bench).await;
    assert_snapshot!(said(&exchange(&bench, &invitation, back, false).await.unwrap_err()), @r"
    connecting tenant acme failed: the provider says invalid_grant
    hint: the code is used, expired or of another callback: run the command again
    ");
    assert_eq!(grant(&bench).await, before);
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn another_account_is_refused_unless_forced() {
    let bench = bench().await;
    consent(&bench, "acme", false).await.unwrap();
    let before = grant(&bench).await.unwrap();
    assert_snapshot!(said(&consent(&bench, "birch", false).await.unwrap_err()), @r"
    connecting tenant acme failed: the grant is of another account than the one this tenant was connected to
    hint: choose the right account on the consent page, use another tenant name, or --force to replace it
    ");
    assert_eq!(grant(&bench).await.unwrap(), before);
    bench.sync().await;
    bench.assert_right("acme").await;
    // The same account may come again as often as it likes.
    consent(&bench, "acme", false).await.unwrap();
    consent(&bench, "birch", true).await.unwrap();
    let after = grant(&bench).await.unwrap();
    assert_eq!((before.generation, after.generation), (1, 3));
    assert_ne!(after.account, before.account);
}

#[tokio::test(start_paused = true)]
async fn scopes_that_were_not_granted_are_told() {
    let bench = bench().await;
    let invitation = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap();
    let pairs: Vec<(String, String)> = invitation.link.query_pairs().into_owned().collect();
    let mut link = invitation.link.clone();
    link.query_pairs_mut().clear().extend_pairs(pairs.iter().map(|(k, v)| match k.as_str() {
        "scope" => ("scope", "offline_access opportunities:read:admin stages:read:admin"),
        k => (k, v.as_str()),
    }));
    let back = Callback::from_url(&answer(&link, Some("acme")).await);
    let connected = exchange(&bench, &invitation, back, false).await.unwrap();
    assert_eq!(connected.scopes, ["offline_access", "opportunities:read:admin", "stages:read:admin"]);
    assert_snapshot!(connected.missing.join(" "), @"applications:read:admin contact:read:admin users:read:admin postings:read:admin archive_reasons:read:admin sources:read:admin tags:read:admin requisitions:read:admin requisition_fields:read:admin feedback_templates:read:admin form_templates:read:admin audit_events:read:admin webhooks:read:admin");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_audience_connects_nothing() {
    let bench = bench().await;
    consent(&bench, "acme", false).await.unwrap();
    let before = grant(&bench).await;
    let invitation = bench.auth(RunId::new()).invite(&tenant("acme")).unwrap();
    // The page then offers `offline_access` alone (reference 2.7).
    let pairs: Vec<(String, String)> =
        invitation.link.query_pairs().into_owned().filter(|(k, _)| k != "audience").collect();
    let mut link = invitation.link.clone();
    link.query_pairs_mut().clear().extend_pairs(pairs);
    let back = Callback::from_url(&answer(&link, Some("acme")).await);
    let error = exchange(&bench, &invitation, back, false).await.unwrap_err();
    assert!(matches!(error, AuthError::Connect { kind: Refused::Audience, .. }));
    assert_snapshot!(said(&error), @r"
    connecting tenant acme failed: only `offline_access` was granted, so nothing could be read
    hint: the audience of app main is wrong or lacks its final slash, or none of the scopes is registered for the app; correct it and connect again
    ");
    assert_eq!(grant(&bench).await, before);
    bench.sync().await;
}

/// Connects `name` to the account of another name.
async fn consent_as(bench: &Bench, name: &str, account: &str, force: bool) -> Result<Connected, AuthError> {
    let (name, run) = (tenant(name), RunId::new());
    let auth = bench.auth(run);
    let invitation = auth.invite(&name).unwrap();
    let back = answer(&invitation.link, Some(account)).await;
    let lease = bench.state().lease(&name, run).await.unwrap();
    let outcome = auth.exchange(&name, &lease, &invitation, Callback::from_url(&back), force).await;
    lease.release().await.unwrap();
    outcome
}

fn taken<T>(outcome: Result<T, AuthError>) -> bool {
    matches!(outcome, Err(AuthError::Connect { kind: Refused::AccountTaken, .. }))
}

#[tokio::test(start_paused = true)]
async fn two_tenants_on_one_account_are_refused_unless_forced() {
    let bench = bench().await;
    consent_as(&bench, "acme", "acme", false).await.unwrap();
    assert_snapshot!(said(&consent_as(&bench, "acme-eu", "acme", false).await.unwrap_err()), @r"
    connecting tenant acme-eu failed: the account is connected already, as tenant acme
    hint: two tenants on one account would load it twice: choose the right account on the consent page, or `hirelake disconnect acme` first; --force lets both stand
    ");
    assert!(bench.state().grants(&tenant("acme-eu")).last::<Grant>().await.unwrap().is_none());
    // What the refused consent issued was not revoked: a provider may end the other tenant's grant with it.
    bench.pass(Duration::from_secs(3600)).await;
    bench.sync().await;
    consent_as(&bench, "acme-eu", "acme", true).await.unwrap();
    assert!(taken(consent_as(&bench, "acme", "acme", false).await), "the newest claim counts");
    // A tenant that moves away gives its account back.
    consent_as(&bench, "acme-eu", "birch", true).await.unwrap();
    consent_as(&bench, "acme", "acme", false).await.unwrap();
    assert!(taken(consent_as(&bench, "third", "birch", false).await));
    // So does one that is let go.
    disconnect::run(&bench.world, &tenant("acme"), false).await.unwrap();
    consent_as(&bench, "third", "acme", false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_revokes_nothing_that_another_tenant_lives_by() {
    let bench = bench().await;
    consent_as(&bench, "acme", "acme", false).await.unwrap();
    consent_as(&bench, "acme-eu", "acme", true).await.unwrap();
    let done = disconnect::run(&bench.world, &tenant("acme"), false).await.unwrap();
    assert_snapshot!(format!("{done}\n{}", done.notes().join("\n")), @"
    acme is disconnected: its tokens are forgotten; its lake is as it was
    note: the grant was not revoked at the provider, because tenant acme-eu is connected to the same account and its grant could end with this one
    hint: nothing more is to be done; `hirelake disconnect acme-eu` revokes it when that tenant goes too
    ");
    // The other one refreshes and syncs as before, and keeps the account.
    bench.pass(Duration::from_secs(3600)).await;
    let only = Options { tenants: vec![tenant("acme-eu")], ..Options::default() };
    let report = bench.sync_with(only).await;
    assert_eq!(report.code, ExitCode::Done, "{}", report.troubles().join("\n"));
    assert!(taken(consent_as(&bench, "acme", "acme", false).await));
}

#[tokio::test(start_paused = true)]
async fn of_two_tenants_that_connect_one_account_at_once_one_is_refused() {
    let bench = bench().await;
    let (a, b) = tokio::join!(consent_as(&bench, "one", "acme", false), consent_as(&bench, "two", "acme", false));
    assert_eq!((a.is_ok() as u8) + (b.is_ok() as u8), 1, "{a:?} {b:?}");
    assert_eq!((taken(a) as u8) + (taken(b) as u8), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_grant_never_came_stands_for_its_own_tenant_at_once_and_for_others_after_an_hour() {
    let bench = bench().await;
    consent_as(&bench, "birch", "birch", false).await.unwrap();
    let connected = consent_as(&bench, "acme", "acme", false).await.unwrap();
    // A crash between the claim and the grant.
    std::fs::remove_dir_all(bench.dir.path().join("state/grants/acme")).unwrap();
    assert!(taken(consent_as(&bench, "other", "acme", false).await));
    consent_as(&bench, "acme", "acme", false).await.unwrap();
    std::fs::remove_dir_all(bench.dir.path().join("state/grants/acme")).unwrap();
    bench.pass(Duration::from_secs(3600)).await;
    assert_eq!(consent_as(&bench, "other", "acme", false).await.unwrap().account, connected.account);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_was_connected_before_there_were_claims_is_known_by_its_grant() {
    let bench = bench().await;
    consent_as(&bench, "acme", "acme", false).await.unwrap();
    std::fs::remove_dir_all(bench.dir.path().join("state/accounts")).unwrap();
    assert!(taken(consent_as(&bench, "other", "acme", false).await));
    consent_as(&bench, "acme", "acme", false).await.unwrap();
    assert!(taken(consent_as(&bench, "other", "acme", false).await));
}

#[tokio::test(start_paused = true)]
async fn a_seed_of_an_account_that_another_tenant_holds_is_refused() {
    let bench = bench().await;
    consent_as(&bench, "birch", "birch", false).await.unwrap();
    let error = seed(&bench, &elsewhere(&bench, "birch"), CredentialKind::OAuth, false).await.unwrap_err();
    assert!(taken::<()>(Err(error)));
    assert!(grant(&bench).await.is_none());
    seed(&bench, &elsewhere(&bench, "acme"), CredentialKind::OAuth, false).await.unwrap();
    assert!(taken(consent_as(&bench, "other", "acme", false).await), "a seed claims its account too");
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn the_tokens_of_a_wrong_account_are_revoked_where_nobody_else_can_be_harmed() {
    let bench = bench().await;
    let revoked = || bench.control.stats().requests.get("POST /oauth/revoke").copied().unwrap_or(0);
    consent(&bench, "acme", false).await.unwrap();
    consent(&bench, "birch", false).await.unwrap_err();
    assert_eq!(revoked(), 1);
    consent_as(&bench, "birch", "birch", false).await.unwrap();
    consent(&bench, "birch", false).await.unwrap_err();
    assert_eq!(revoked(), 1, "another tenant lives on this account");
}

#[tokio::test(start_paused = true)]
async fn with_pkce_a_code_without_its_verifier_is_worth_nothing() {
    let bench = bench().await;
    let path = bench.dir.path().join("hirelake.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("[defaults]", "pkce = true\n[defaults]");
    std::fs::write(&path, text).unwrap();
    let config = Config::load_with(Some(&path), std::iter::empty()).unwrap();
    let run = RunId::new();
    let auth = Arc::new(Auth::new(Arc::new(config), bench.state(), bench.world.clock, run).unwrap());
    let acme = tenant("acme");
    let lease = bench.state().lease(&acme, run).await.unwrap();
    let invitation = auth.invite(&acme).unwrap();
    let other = auth.invite(&acme).unwrap();
    let query: BTreeMap<String, String> = invitation.link.query_pairs().into_owned().collect();
    assert_eq!((query["code_challenge_method"].as_str(), query["code_challenge"].len()), ("S256", 43));
    // A code that was stolen and is brought to a consent of the thief's.
    let stolen = Callback::from_url(&answer(&invitation.link, Some("acme")).await);
    let swapped = Callback { state: Some(state_of(&other.link)), ..stolen };
    let error = auth.exchange(&acme, &lease, &other, swapped, false).await.unwrap_err();
    assert!(matches!(error, AuthError::Connect { kind: Refused::CodeRefused, .. }), "{error}");
    let back = Callback::from_url(&answer(&invitation.link, Some("acme")).await);
    auth.exchange(&acme, &lease, &invitation, back, false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consent_survives_in_sealed_text_for_a_quarter_of_an_hour() {
    let bench = bench().await;
    let (acme, run) = (tenant("acme"), RunId::new());
    let invitation = bench.auth(run).invite(&acme).unwrap();
    let text = bench.auth(run).put_down(&invitation, &"with it").unwrap();
    assert!(!text.contains(&state_of(&invitation.link)) && text.len() < 2000, "{text}");
    // Another process, with the same key.
    let auth = bench.auth(run);
    let (taken_up, with): (Invitation, String) = auth.take_up(&text).unwrap();
    assert_eq!(with, "with it");
    let back = Callback::from_url(&answer(&invitation.link, Some("acme")).await);
    let lease = bench.state().lease(&acme, run).await.unwrap();
    auth.exchange(&acme, &lease, &taken_up, back, false).await.unwrap();
    let swapped = text.replacen(&text[20..21], if &text[20..21] == "A" { "B" } else { "A" }, 1);
    for wrong in ["", ".", "a.b", "x", &text[1..], &text[..text.len() - 1], &swapped] {
        assert!(auth.take_up::<String>(wrong).is_none(), "{wrong}");
    }
    bench.pass(Duration::from_secs(15 * 60)).await;
    assert!(auth.take_up::<String>(&text).is_none());
}

#[tokio::test]
async fn the_callback_waits_for_the_one_who_knows_the_state() {
    let bench = bench().await;
    let port = free_port();
    let auth = with_callback(&bench, &format!("http://127.0.0.1:{port}/callback"));
    let acme = tenant("acme");
    let invitation = auth.invite(&acme).unwrap();
    let state = state_of(&invitation.link);
    let visitors = async {
        let get = async |query: &str| {
            let url = format!("http://127.0.0.1:{port}/callback?{query}");
            let answer = loop {
                match reqwest::get(&url).await {
                    Ok(answer) => break answer,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let mut seen =
            vec![get("code=evil").await, get("code=evil&state=guess").await, get("code=a&code=b&state=x").await];
        // A browser opens connections that it never uses.
        let idle = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        seen.push(get(&format!("code=good&state={state}")).await);
        (seen, idle)
    };
    let (callback, (seen, _idle)) = tokio::join!(auth.await_callback(&acme, &invitation, || ()), visitors);
    let callback = callback.unwrap();
    assert_eq!((callback.code.as_deref(), callback.state), (Some("good"), Some(state.clone())));
    assert_eq!(seen.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [400, 400, 400, 200]);
    assert!(seen.iter().all(|(_, page)| !page.contains("evil") && !page.contains(&state)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_cannot_come_is_said() {
    let bench = bench().await;
    let acme = tenant("acme");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let auth = with_callback(&bench, &format!("http://127.0.0.1:{port}/callback"));
    let mut refused = vec![said(&auth.await_callback(&acme, &auth.invite(&acme).unwrap(), || ()).await.unwrap_err())];
    drop(taken);
    refused.push(said(&auth.await_callback(&acme, &auth.invite(&acme).unwrap(), || ()).await.unwrap_err()));
    let mut away = auth.invite(&acme).unwrap();
    away.redirect_uri = "https://hire.example.com/callback".parse().unwrap();
    refused.push(said(&auth.await_callback(&acme, &away, || ()).await.unwrap_err()));
    assert_snapshot!(refused.join("\n").replace(&port.to_string(), "PORT"), @r#"
    connecting tenant acme failed: port PORT of the callback cannot be listened on (Address already in use (os error 98))
    hint: end the program that holds it, or register another callback
    connecting tenant acme failed: nobody came back from the consent page within 15 minutes
    hint: run the command again when a Super Admin of the customer is at hand; a page that says "undefined" means that the callback is not registered exactly so
    connecting tenant acme failed: the callback https://hire.example.com/callback is not on this machine over http
    hint: use --paste and give the address on which the browser ended
    "#);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_had_elsewhere_connects() {
    let bench = bench().await;
    let token = elsewhere(&bench, "acme");
    let connected = seed(&bench, &token, CredentialKind::OAuth, false).await.unwrap();
    assert!(connected.missing.is_empty() && connected.account.is_some());
    assert_eq!(bench.control.stats().token_requests, 1);
    bench.sync().await;
    bench.assert_right("acme").await;
    assert_eq!(bench.control.stats().token_requests, 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_seed_costs_no_grant_that_works() {
    let bench = bench().await;
    seed(&bench, "v1.invented", CredentialKind::OAuth, false).await.unwrap_err();
    consent(&bench, "acme", false).await.unwrap();
    let generation = grant(&bench).await.unwrap().generation;
    let error = seed(&bench, "v1.invented", CredentialKind::OAuth, false).await.unwrap_err();
    assert_snapshot!(said(&error), @r"
    connecting tenant acme failed: the provider says invalid_grant to this refresh token
    hint: it was used, revoked, or is of another client; a grant that was stored before is kept
    ");
    let stranger = elsewhere(&bench, "birch");
    assert_snapshot!(said(&seed(&bench, &stranger, CredentialKind::OAuth, false).await.unwrap_err()), @r"
    connecting tenant acme failed: the grant is of another account than the one this tenant was connected to
    hint: choose the right account on the consent page, use another tenant name, or --force to replace it
    ");
    let outage = Action::Status { code: 503, body: None, retry_after: None };
    bench.control.fault(Fault { route: "POST /oauth/token".into(), account: None, skip: 0, times: 2, action: outage });
    seed(&bench, &elsewhere(&bench, "acme"), CredentialKind::OAuth, false).await.unwrap_err();
    seed(&bench, "invented", CredentialKind::ApiKey, false).await.unwrap_err();
    assert!(grant(&bench).await.unwrap().generation == generation);
    bench.pass(Duration::from_secs(3600)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_seed_of_another_account_takes_the_place_of_a_dead_grant_only_by_force() {
    let bench = bench().await;
    consent(&bench, "acme", false).await.unwrap();
    bench.control.revoke("acme");
    assert_eq!(bench.sync_with(Options::default()).await.code, ExitCode::Reconnect);
    let stranger = elsewhere(&bench, "birch");
    seed(&bench, &stranger, CredentialKind::OAuth, false).await.unwrap_err();
    assert_eq!(bench.sync_with(Options::default()).await.code, ExitCode::Reconnect);
    let stranger = elsewhere(&bench, "birch");
    seed(&bench, &stranger, CredentialKind::OAuth, true).await.unwrap();
    bench.sync().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_key_syncs_end_to_end_without_a_token() {
    let bench = bench().await;
    assert_snapshot!(
        said(&seed(&bench, "invented", CredentialKind::ApiKey, false).await.unwrap_err())
            .replace(&bench.sandbox.addr().port().to_string(), "PORT"),
        @r"
        the provider refuses the API key of tenant acme on http://127.0.0.1:PORT/v1/users (401)
        hint: the key is wrong or was removed: `hirelake connect TENANT --api-key-file FILE` stores another
        "
    );
    assert!(grant(&bench).await.is_none(), "a key that is refused is not stored");
    let key = bench.control.api_key("acme").unwrap();
    seed(&bench, &key, CredentialKind::ApiKey, false).await.unwrap();
    bench.sync().await;
    bench.assert_right("acme").await;
    bench.pass(Duration::from_secs(90 * 86_400)).await;
    bench.control.edit("acme", 5, 1);
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    bench.assert_right("acme").await;
    assert_eq!(bench.control.stats().token_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn an_api_key_that_may_not_read_an_expand_reads_the_rest() {
    let bench = bench().await;
    let without =
        "opportunities:read:admin applications:read:admin users:read:admin postings:read:admin stages:read:admin";
    bench.control.restrict_api_key("acme", without);
    let key = bench.control.api_key("acme").unwrap();
    seed(&bench, &key, CredentialKind::ApiKey, false).await.unwrap();
    let report = bench.sync().await;
    for table in ["opportunities", "applications", "users", "postings", "stages"] {
        bench.assert_table("acme", table).await;
    }
    let told = report.troubles().join("\n");
    assert!(told.contains("acme/contacts: not granted: the API key may not read `contact` in opportunities"), "{told}");
    assert!(bench.living("acme", "contacts").await.is_empty());
    // Looked into until it is known what the key may read; then with the permission everything is read anew.
    bench.control.restrict_api_key("acme", &format!("{without} contact:read:admin"));
    bench.pass(Duration::from_secs(600)).await;
    bench.sync().await;
    bench.assert_table("acme", "contacts").await;
    bench.pass(Duration::from_secs(600)).await;
    bench.control.reset_stats();
    bench.sync().await;
    assert_eq!(bench.control.stats().requests["GET /v1/opportunities"], 1, "nothing is tried any more");
}

/// As the command connects: with what the lake holds at hand.
async fn seed_knowing(bench: &Bench, what: &str, kind: CredentialKind, force: bool) -> Result<Connected, AuthError> {
    let (acme, run, what) = (tenant("acme"), RunId::new(), Secret::new(what));
    let known = sync::known(&bench.world, &acme).await;
    let auth = Auth::new(bench.world.config.clone(), bench.state(), bench.world.clock, run).unwrap();
    let auth = Arc::new(auth.knowing(known));
    let lease = Arc::new(bench.state().lease(&acme, run).await.unwrap());
    match kind {
        CredentialKind::OAuth => auth.seed_refresh_token(&acme, lease, what, force).await,
        CredentialKind::ApiKey => auth.seed_api_key(&acme, lease, what, force).await,
    }
}

fn refused(outcome: Result<Connected, AuthError>) -> Option<Refused> {
    match outcome {
        Err(AuthError::Connect { kind, .. }) => Some(kind),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_key_takes_the_place_of_a_consent_only_by_force() {
    let bench = bench().await;
    consent(&bench, "acme", false).await.unwrap();
    bench.sync().await;
    let before = grant(&bench).await;
    bench.control.reset_stats();
    let key = bench.control.api_key("birch").unwrap();
    let error = seed_knowing(&bench, &key, CredentialKind::ApiKey, false).await.unwrap_err();
    assert_snapshot!(said(&error), @r"
    connecting tenant acme failed: it is connected by a consent, and an API key would take its place
    hint: an API key does not say of which account it is: make sure that it is of the same one, then use --force; or `hirelake disconnect acme` first, which revokes the consent
    ");
    assert_eq!(sync::code(&error.into()), ExitCode::Configuration);
    let key = bench.control.api_key("acme").unwrap();
    assert_eq!(refused(seed(&bench, &key, CredentialKind::ApiKey, false).await), Some(Refused::OtherKind));
    assert_eq!((grant(&bench).await, bench.control.stats().requests.len()), (before, 0));
    seed_knowing(&bench, &key, CredentialKind::ApiKey, true).await.unwrap();
    bench.sync().await;
    bench.assert_right("acme").await;
}

/// Whoever tries the same file again is not told that all is well.
#[tokio::test(start_paused = true)]
async fn a_seed_that_was_refused_is_refused_again_without_asking() {
    let bench = bench().await;
    bench.connect("acme").await;
    for asked in [true, false] {
        bench.control.reset_stats();
        let tried = seed(&bench, "no-token-of-anybody", CredentialKind::OAuth, false).await;
        assert_eq!(refused(tried), Some(Refused::SeedRefused));
        assert_eq!(!bench.control.stats().requests.is_empty(), asked);
    }
    bench.sync().await;
    bench.assert_right("acme").await;
}

#[tokio::test(start_paused = true)]
async fn a_credential_of_another_account_is_told_by_what_the_lake_holds() {
    use CredentialKind::{ApiKey, OAuth};
    let bench = bench().await;
    let key = |account: &str| bench.control.api_key(account).unwrap();
    seed_knowing(&bench, &key("birch"), ApiKey, false).await.unwrap();
    // Nothing was synced yet, so there is nothing to mix.
    seed_knowing(&bench, &key("acme"), ApiKey, false).await.unwrap();
    bench.sync().await;
    let before = grant(&bench).await.unwrap();
    assert_snapshot!(said(&seed_knowing(&bench, &key("birch"), ApiKey, false).await.unwrap_err()), @r"
    connecting tenant acme failed: none of the users that the new credential sees is in the lake, so it is of another account
    hint: give the credential of the right account, or use another tenant name; `hirelake disconnect acme --erase-lake` makes room for another account, and --force mixes both
    ");
    assert_eq!(
        refused(seed_knowing(&bench, &elsewhere(&bench, "birch"), OAuth, false).await),
        Some(Refused::WrongAccount)
    );
    // All but the note that the seed is used up.
    let after = grant(&bench).await.unwrap();
    assert_eq!((after.generation, after.sealed), (before.generation, before.sealed));
    // A key is rotated as before, by a comparison or without one.
    seed_knowing(&bench, &key("acme"), ApiKey, false).await.unwrap();
    seed(&bench, &key("acme"), ApiKey, false).await.unwrap();
    // Where nobody looked into the lake, as on the page, a consent in a key's place is not believed.
    assert_eq!(refused(consent(&bench, "acme", false).await), Some(Refused::AccountUnknown));
    seed_knowing(&bench, &elsewhere(&bench, "acme"), OAuth, false).await.unwrap();
    bench.sync().await;
    bench.assert_right("acme").await;

    // After it was let go its lake is still there.
    disconnect::run(&bench.world, &tenant("acme"), false).await.unwrap();
    assert_eq!(refused(seed_knowing(&bench, &key("birch"), ApiKey, false).await), Some(Refused::WrongAccount));
    // With a key that may list nothing there is nothing to compare.
    let no = Action::Status { code: 403, body: None, retry_after: None };
    bench.control.fault(Fault { route: "GET /v1/".into(), account: None, skip: 0, times: 0, action: no });
    assert_eq!(refused(seed_knowing(&bench, &key("acme"), ApiKey, false).await), Some(Refused::AccountUnknown));
    bench.control.clear_faults();
    seed_knowing(&bench, &key("acme"), ApiKey, false).await.unwrap();
    bench.sync().await;
    bench.assert_right("acme").await;
    disconnect::run(&bench.world, &tenant("acme"), true).await.unwrap();
    seed_knowing(&bench, &key("birch"), ApiKey, false).await.unwrap();
    bench.sync().await;
    assert_eq!(bench.living("acme", "users").await, bench.truth("birch", "users"));
}

/// A sandbox on the machine's own clock, for runs of the binary.
pub async fn real_sandbox(dir: &Path) -> sandbox::Running {
    let sandbox = sandbox::start(sandbox::Options {
        accounts: vec![AccountSize::new("acme", 30)],
        clients: vec![sandbox::Client {
            id: CLIENT.into(),
            secret: CLIENT_SECRET.into(),
            redirect_uris: vec![CALLBACK.into()],
            scopes: hirelake::catalog::embedded().unwrap().oauth.scopes,
        }],
        clock: Clock::system(),
        ..sandbox::Options::default()
    })
    .await
    .unwrap();
    write_config(dir, &sandbox.url(), "rate = { per_second = 1000.0, burst = 1000 }", "");
    sandbox
}

pub fn hirelake(dir: &Path, args: &[&str]) -> Program {
    program(dir, args)
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_connect_by_a_seed_and_by_a_pasted_address() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = real_sandbox(dir.path()).await;
    let control = sandbox.control();
    let file = dir.path().join("seed");
    let file = file.to_str().unwrap();
    let mut ways = Vec::new();

    std::fs::write(file, "nonsense\n").unwrap();
    let refused = hirelake(dir.path(), &["connect", "acme", "--api-key-file", file]).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");

    std::fs::write(file, format!("{}\n", control.api_key("acme").unwrap())).unwrap();
    let way = hirelake(dir.path(), &["connect", "acme", "--api-key-file", file]).output().unwrap();
    ways.push(stdout(&way));

    let granted = control.grant("acme", CLIENT, "offline_access opportunities:read:admin").unwrap();
    std::fs::write(file, granted.refresh_token.unwrap()).unwrap();
    let way = hirelake(dir.path(), &["connect", "acme", "--refresh-token-file", file]).output().unwrap();
    assert!(String::from_utf8_lossy(&way.stderr).contains("users:read:admin"), "missing scopes are told: {way:?}");
    ways.push(stdout(&way));

    let mut child = hirelake(dir.path(), &["connect", "acme", "--paste"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let link: Url = lines.map_while(Result::ok).find(|l| l.starts_with("http")).unwrap().parse().unwrap();
    let back = answer(&link, Some("acme")).await;
    writeln!(child.stdin.take().unwrap(), "  {back} ").unwrap();
    ways.push(stdout(&child.wait_with_output().unwrap()));
    assert_snapshot!(ways.concat(), @r"
    acme is connected
    acme is connected
    acme is connected
    ");

    let synced = hirelake(dir.path(), &["sync"]).output().unwrap();
    let summary: serde_json::Value = serde_json::from_str(stdout(&synced).lines().last().unwrap()).unwrap();
    assert_eq!((&summary["exit"], &summary["tenants"]), (&0.into(), &1.into()));
    let config = Config::load_with(Some(&dir.path().join("hirelake.toml")), std::iter::empty()).unwrap();
    let world = World::open(Arc::new(config), Clock::system()).unwrap();
    let status = hirelake::status::read(&world).await.unwrap();
    let acme = &status[&tenant("acme")];
    assert_eq!(acme.tables["opportunities"].rows as usize, control.dump("acme", "opportunities").unwrap().len());
    assert!(acme.held_by.is_none(), "every command gives its hold back");

    // A key says nothing about its account: it replaces no consent by itself, and nobody is asked for anything.
    std::fs::write(file, control.api_key("acme").unwrap()).unwrap();
    let refused = hirelake(dir.path(), &["connect", "acme", "--api-key-file", file]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");

    // A seed is used up before it is known whose it is: where it cannot be stored, its successor is not lost.
    let scopes = hirelake::catalog::embedded().unwrap().oauth.scopes.join(" ");
    std::fs::write(file, control.grant("acme", CLIENT, &scopes).unwrap().refresh_token.unwrap()).unwrap();
    let refused = hirelake(dir.path(), &["connect", "other", "--refresh-token-file", file]).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let successor = format!("{file}.successor");
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&successor), "{refused:?}");
    stdout(&hirelake(dir.path(), &["connect", "acme", "--refresh-token-file", &successor]).output().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&successor).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    sandbox.shutdown().await;
}
