//! Consent, codes, tokens: the reference's section 2, with refresh-token rotation and reuse detection as Auth0 does them.
//!
//! Tokens are looked up, never decoded; their JWT shape and claims are for the client to see. What is not known is not
//! accepted, and a refresh token that was superseded takes its whole family with it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use maud::{DOCTYPE, Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;

use super::api;
use super::faults::Action;
use super::reply::Reply;
use super::{Client, Options, World, lock};
use crate::clock::Timestamp;

/// How long a code, or a consent page, can be used. The reference gives no number; ten minutes is Auth0's.
const CODE_LIFE: Duration = Duration::from_secs(600);
/// A refresh token dies after so long without use,
const IDLE_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// or so long after consent (the reference leaves open whether rotation restarts it; this is the strict reading).
const HARD_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// The documented audience of Lever's own sandbox, accepted beside ours.
const SANDBOX_AUDIENCE: &str = "https://api.sandbox.lever.co/v1/";
/// Most scopes a request may name.
const SCOPE_LIMIT: usize = 20;

/// Every documented scope for reading.
pub(super) const READ_SCOPES: &[&str] = &[
    "offline_access",
    "applications:read:admin",
    "archive_reasons:read:admin",
    "audit_events:read:admin",
    "confidential:access:admin",
    "contact:read:admin",
    "diversity_surveys:read:admin",
    "eeo_responses:read:admin",
    "eeo_responses_pii:read:admin",
    "feedback:read:admin",
    "feedback_templates:read:admin",
    "files:read:admin",
    "forms:read:admin",
    "form_templates:read:admin",
    "groups:read:admin",
    "interviews:read:admin",
    "notes:read:admin",
    "offers:read:admin",
    "opportunities:read:admin",
    "panels:read:admin",
    "permissions:read:admin",
    "postings:read:admin",
    "referrals:read:admin",
    "requisitions:read:admin",
    "requisition_fields:read:admin",
    "resumes:read:admin",
    "roles:read:admin",
    "sources:read:admin",
    "stages:read:admin",
    "tags:read:admin",
    "tasks:read:admin",
    "users:read:admin",
    "webhooks:read:admin",
];

/// What a token request gives; its `Debug` shows no token.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct IssuedGrant {
    /// Shaped like a JWT.
    pub access_token: String,
    /// Only with `offline_access`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// `Bearer`.
    pub token_type: &'static str,
    /// What was granted, separated by blanks.
    pub scope: String,
    /// Seconds.
    pub expires_in: u64,
}

impl fmt::Debug for IssuedGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expires_in = &self.expires_in;
        f.debug_struct("IssuedGrant")
            .field("scope", &self.scope)
            .field("expires_in", expires_in)
            .finish_non_exhaustive()
    }
}

/// Who asks, and what they may see.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) account: String,
    /// `None` for an API key, which may see everything.
    scopes: Option<Vec<String>>,
}

impl Caller {
    /// A write scope includes the matching read scope.
    pub(super) fn may(&self, scope: &str) -> bool {
        let Some(scopes) = &self.scopes else { return true };
        let write = scope.replace(":read:", ":write:");
        scopes.iter().any(|s| s == scope || *s == write)
    }
}

pub(super) struct OAuth {
    seed: u64,
    serial: u64,
    /// Names this sandbox's signing key in its tokens.
    key_id: String,
    audiences: Vec<String>,
    clients: Vec<Client>,
    account_ids: BTreeMap<String, Uuid>,
    api_keys: BTreeMap<String, String>,
    /// What a key may do, by account, as scopes; everything unless it stands here.
    permissions: BTreeMap<String, Vec<String>>,
    token_life: Duration,
    leeway: Duration,
    pending: HashMap<String, Pending>,
    codes: HashMap<String, Code>,
    families: Vec<Family>,
    access: HashMap<String, Access>,
    refresh: HashMap<String, usize>,
}

/// A consent page that waits for its answer.
#[derive(Clone)]
struct Pending {
    client_id: String,
    redirect_uri: String,
    state: String,
    scopes: Vec<String>,
    audience: String,
    /// PKCE's, where the client sent one; S256 only.
    challenge: Option<String>,
    until: Timestamp,
}

/// An authorization code, used or dead within minutes.
struct Code {
    asked: Pending,
    account: String,
    until: Timestamp,
}

/// A grant and all refresh tokens that came of it.
struct Family {
    account: String,
    client_id: String,
    scopes: Vec<String>,
    audience: String,
    born: Timestamp,
    used: Timestamp,
    revoked: bool,
    current: String,
    /// The token before the current one, when it was superseded, and what was answered.
    before: Option<(String, Timestamp, IssuedGrant)>,
}

/// An access token: whose, and until when.
struct Access {
    family: usize,
    until: Timestamp,
}

/// The token endpoint's refusals.
struct Denied(u16, &'static str, &'static str);

const DEAD_GRANT: Denied = Denied(403, "invalid_grant", "Unknown or invalid refresh token.");
const DEAD_CODE: Denied = Denied(403, "invalid_grant", "Invalid authorization code");

impl OAuth {
    pub(super) fn new<'a>(
        options: &Options,
        addr: SocketAddr,
        accounts: impl Iterator<Item = (&'a str, Uuid)>,
    ) -> Self {
        let account_ids: BTreeMap<String, Uuid> = accounts.map(|(name, id)| (name.to_owned(), id)).collect();
        let key = |name: &String| digest(&[&options.seed.to_string(), "api key", name]);
        let api_keys = account_ids.keys().filter(|_| options.api_keys).map(|name| (name.clone(), key(name))).collect();
        Self {
            seed: options.seed,
            serial: 0,
            key_id: format!("sandbox-{}", &digest(&[&options.seed.to_string(), "kid"])[..8]),
            audiences: vec![
                format!("http://{addr}/v1/"),
                format!("http://localhost:{}/v1/", addr.port()),
                SANDBOX_AUDIENCE.into(),
            ],
            clients: options.clients.clone(),
            account_ids,
            api_keys,
            permissions: BTreeMap::new(),
            token_life: options.token_life,
            leeway: options.refresh_leeway,
            pending: HashMap::new(),
            codes: HashMap::new(),
            families: Vec::new(),
            access: HashMap::new(),
            refresh: HashMap::new(),
        }
    }

    /// The account's key, if keys are on.
    pub(super) fn api_key(&self, account: &str) -> Option<String> {
        self.api_keys.get(account).cloned()
    }

    /// The account's key may do no more than these scopes open, as one that was made with fewer permissions.
    pub(super) fn restrict_api_key(&mut self, account: &str, scopes: &str) {
        let scopes = scopes.split_whitespace().map(str::to_owned).collect();
        self.permissions.insert(account.to_owned(), scopes);
    }

    /// Whom an `Authorization` header stands for.
    pub(super) fn caller(&self, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Reply> {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let no = |message| Err(api::refusal(401, "InvalidCredentials", message));
        match header.and_then(|text| text.split_once(' ')) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(key).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let key = pair.as_deref().and_then(|pair| pair.strip_suffix(':'));
                let account = self.api_keys.iter().find(|(_, known)| Some(known.as_str()) == key);
                account.map_or_else(
                    || no("The API key is not valid"),
                    |(account, _)| {
                        Ok(Caller { account: account.clone(), scopes: self.permissions.get(account).cloned() })
                    },
                )
            }
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => match self.access.get(token) {
                None if self.is_foreign(token) => {
                    let message = "Unable to find a signing key that matches the token's kid";
                    Err(api::refusal(403, "Forbidden", message))
                }
                None => no("The token is not valid"),
                Some(access) => match self.families.get(access.family) {
                    Some(family) if !family.revoked && now < access.until => {
                        Ok(Caller { account: family.account.clone(), scopes: Some(family.scopes.clone()) })
                    }
                    Some(family) if family.revoked => no("The token has been revoked"),
                    _ => no("The token has expired"),
                },
            },
            _ => no("No valid credentials were provided"),
        }
    }

    /// A token with another signing key than ours, as production tokens are on the real sandbox.
    fn is_foreign(&self, token: &str) -> bool {
        #[derive(Deserialize)]
        struct Head {
            kid: String,
        }
        let head = token.split('.').next().filter(|_| token.split('.').count() == 3);
        let head = head.and_then(|head| URL_SAFE_NO_PAD.decode(head).ok());
        let head: Option<Head> = head.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        head.is_some_and(|head| head.kid != self.key_id)
    }

    /// Opens a new family, as consent and code exchange do.
    pub(super) fn grant(
        &mut self,
        account: &str,
        client_id: &str,
        scopes: &str,
        now: Timestamp,
    ) -> Option<IssuedGrant> {
        let client = self.clients.iter().find(|client| client.id == client_id)?;
        if !self.account_ids.contains_key(account) {
            return None;
        }
        let asked: Vec<&str> = scopes.split_whitespace().collect();
        let scopes = registered(client, &asked);
        let audience = self.audiences.first().cloned().unwrap_or_default();
        Some(self.open(account.into(), client_id.into(), scopes, audience, now))
    }

    /// A new family and its first tokens.
    fn open(
        &mut self,
        account: String,
        client_id: String,
        scopes: Vec<String>,
        audience: String,
        now: Timestamp,
    ) -> IssuedGrant {
        let family = self.families.len();
        self.families.push(Family {
            account,
            client_id,
            scopes,
            audience,
            born: now,
            used: now,
            revoked: false,
            current: String::new(),
            before: None,
        });
        self.issue(family, now, true)
    }

    /// New tokens of a family; `rotate` is false when the current refresh token is to stay.
    fn issue(&mut self, n: usize, now: Timestamp, rotate: bool) -> IssuedGrant {
        self.serial += 1;
        let (seed, serial) = (self.seed.to_string(), self.serial.to_string());
        let until = now.plus(self.token_life);
        let family = &mut self.families[n];
        family.used = now;
        let offline = family.scopes.iter().any(|scope| scope == "offline_access");
        let refresh_token = (offline && rotate).then(|| format!("v1.{}", digest(&[&seed, "refresh", &serial])));
        if let Some(token) = &refresh_token {
            family.current.clone_from(token);
            self.refresh.insert(token.clone(), n);
        }
        let scope = family.scopes.join(" ");
        let claim = |name: &str| format!("https://oauth.lever.co/{name}");
        let account_id = self.account_ids.get(&family.account).map(Uuid::to_string);
        let payload = json!({
            claim("userId"): "00000000-0000-4000-8000-000000000001",
            claim("accountId"): account_id,
            claim("clientId"): family.client_id,
            "iss": "https://auth.lever.co/",
            "sub": "lever|sandbox-super-admin",
            "aud": family.audience,
            "iat": now.ms() / 1000,
            "exp": until.ms() / 1000,
            "azp": family.client_id,
            "scope": scope,
        });
        let head = json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let access_token = format!("{}.{}.{}", part(head), part(payload), digest(&[&seed, "access", &serial]));
        self.access.insert(access_token.clone(), Access { family: n, until });
        IssuedGrant { access_token, refresh_token, token_type: "Bearer", scope, expires_in: self.token_life.as_secs() }
    }

    /// `grant_type=authorization_code`.
    fn exchange(&mut self, form: &Form, now: Timestamp) -> Result<IssuedGrant, Denied> {
        let (code, redirect_uri) = (form.required("code")?, form.required("redirect_uri")?);
        // One-time also when something else is wrong with the request.
        let Some(code) = self.codes.remove(code) else { return Err(DEAD_CODE) };
        let fits =
            code.asked.client_id == form.get("client_id").unwrap_or("") && code.asked.redirect_uri == redirect_uri;
        if !fits || now >= code.until {
            return Err(DEAD_CODE);
        }
        let verified = form.get("code_verifier").map(digest_of);
        if code.asked.challenge != verified {
            return Err(Denied(403, "invalid_grant", "Failed to verify code verifier"));
        }
        Ok(self.open(code.account, code.asked.client_id, code.asked.scopes, code.asked.audience, now))
    }

    /// `grant_type=refresh_token`. With `keep` the token sent stays the current one.
    fn refresh(&mut self, form: &Form, keep: bool, now: Timestamp) -> Result<IssuedGrant, Denied> {
        let token = form.required("refresh_token")?;
        let Some(&n) = self.refresh.get(token) else { return Err(DEAD_GRANT) };
        let leeway = self.leeway;
        let family = &mut self.families[n];
        if family.revoked || family.client_id != form.get("client_id").unwrap_or("") {
            return Err(DEAD_GRANT);
        }
        if now.since(family.used) >= IDLE_LIFE || now.since(family.born) >= HARD_LIFE {
            return Err(DEAD_GRANT);
        }
        if family.current != token {
            return match &family.before {
                Some((old, at, answer)) if old == token && !leeway.is_zero() && now.since(*at) <= leeway => {
                    Ok(answer.clone())
                }
                _ => {
                    family.revoked = true;
                    Err(DEAD_GRANT)
                }
            };
        }
        let answer = self.issue(n, now, !keep);
        if !keep {
            self.families[n].before = Some((token.to_owned(), now, answer.clone()));
        }
        Ok(answer)
    }

    /// The client's id and secret; they come in the body, as documented, and in no header.
    fn authenticate(&self, form: &Form) -> Result<(), Denied> {
        let (id, secret) = (form.required("client_id")?, form.required("client_secret")?);
        match self.clients.iter().find(|client| client.id == id) {
            None => Err(Denied(403, "unauthorized_client", "ClientID not found")),
            Some(client) if client.secret != secret => Err(Denied(401, "access_denied", "Unauthorized")),
            Some(_) => Ok(()),
        }
    }

    /// Whose tokens a token request is about, as far as it can be known before it is answered.
    fn account_of(&self, form: &Form) -> Option<String> {
        let family = form.get("refresh_token").or(form.get("token")).and_then(|token| self.refresh.get(token));
        match (family, form.get("code")) {
            (Some(n), _) => Some(self.families[*n].account.clone()),
            (None, Some(code)) => self.codes.get(code).map(|code| code.account.clone()),
            _ => None,
        }
    }

    /// The customer removes the app: every family of the account ends.
    pub(super) fn revoke_account(&mut self, account: &str) {
        for family in self.families.iter_mut().filter(|family| family.account == account) {
            family.revoked = true;
        }
    }

    /// Access tokens end now; refresh tokens live on.
    pub(super) fn expire_access(&mut self, account: &str, now: Timestamp) {
        let families = &self.families;
        for access in self.access.values_mut().filter(|a| families[a.family].account == account) {
            access.until = access.until.min(now);
        }
    }

    /// A code for the account that consented.
    fn code(&mut self, asked: &Pending, account: &str, now: Timestamp) -> String {
        self.serial += 1;
        let code = digest(&[&self.seed.to_string(), "code", &self.serial.to_string()]);
        self.codes
            .insert(code.clone(), Code { asked: asked.clone(), account: account.into(), until: now.plus(CODE_LIFE) });
        code
    }
}

/// A form body or a query; a name given twice counts as not given, as it is nowhere legal here.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(bytes: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(bytes).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(key, value)| key == name && !value.is_empty());
        let first = values.next()?;
        values.next().is_none().then_some(first.1.as_str())
    }

    fn required(&self, name: &'static str) -> Result<&str, Denied> {
        self.get(name).ok_or(Denied(400, "invalid_request", "Missing required parameter"))
    }
}

/// `POST /oauth/token`.
pub(super) async fn token(world: &World, headers: &HeaderMap, body: &[u8]) -> Reply {
    endpoint(world, "POST /oauth/token", headers, body, |world, form, action| {
        let now = world.clock.now();
        let mut oauth = lock(&world.oauth);
        oauth.authenticate(form)?;
        let drop_refresh = action == Some(&Action::DropRefreshToken);
        let mut grant = match form.required("grant_type")? {
            "authorization_code" => oauth.exchange(form, now)?,
            "refresh_token" => oauth.refresh(form, drop_refresh, now)?,
            _ => return Err(Denied(400, "unsupported_grant_type", "Unsupported grant type")),
        };
        if drop_refresh {
            grant.refresh_token = None;
        }
        Ok(json!(grant).to_string())
    })
    .await
}

/// `POST /oauth/revoke`: takes the family with it; an unknown token is no error (RFC 7009).
pub(super) async fn revoke(world: &World, headers: &HeaderMap, body: &[u8]) -> Reply {
    endpoint(world, "POST /oauth/revoke", headers, body, |world, form, _| {
        let mut oauth = lock(&world.oauth);
        oauth.authenticate(form)?;
        if let Some(n) = oauth.refresh.get(form.required("token")?).copied() {
            let family = &mut oauth.families[n];
            family.revoked |= Some(family.client_id.as_str()) == form.get("client_id");
        }
        Ok(String::new())
    })
    .await
}

/// What token and revoke endpoints share: counting, latency, faults, form-encoded bodies only.
async fn endpoint(
    world: &World,
    route: &'static str,
    headers: &HeaderMap,
    body: &[u8],
    work: impl FnOnce(&World, &Form, Option<&Action>) -> Result<String, Denied>,
) -> Reply {
    let form = Form::parse(body);
    let account = lock(&world.oauth).account_of(&form);
    lock(&world.stats).arrived(route, account.as_deref(), world.clock.now());
    tokio::time::sleep(world.latency).await;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_form = kind.split(';').next().is_some_and(|kind| kind.trim() == "application/x-www-form-urlencoded");
    api::with_faults(world, route, account.as_deref(), false, |action| {
        let done = if is_form {
            work(world, &form, action)
        } else {
            Err(Denied(400, "invalid_request", "The body must be application/x-www-form-urlencoded"))
        };
        match done {
            Ok(body) => Reply::json(200, body),
            Err(Denied(status, error, description)) => Reply::oauth_error(status, error, description),
        }
    })
    .await
}

/// `GET /authorize`: the consent page, or with `auto_accept=ACCOUNT` (ours, not Lever's) the redirect at once.
pub(super) fn authorize(world: &World, query: &str) -> Reply {
    let form = Form::parse(query.as_bytes());
    let now = world.clock.now();
    lock(&world.stats).arrived("GET /authorize", None, now);
    let mut oauth = lock(&world.oauth);
    let client = oauth.clients.iter().find(|client| Some(client.id.as_str()) == form.get("client_id"));
    let Some(client) = client else { return page(403, "Error", html! { p { "ClientID not found" } }) };
    let redirect_uri = form.get("redirect_uri").filter(|uri| client.redirect_uris.iter().any(|known| known == uri));
    // A redirect that is not registered shows as a page that says only this (reference 2.7).
    let Some(redirect_uri) = redirect_uri else { return page(400, "Error", html! { p { "undefined" } }) };
    let state = form.get("state").unwrap_or("");
    let refuse = |error: &str, why: &str| {
        Reply::redirect(302, &callback(redirect_uri, &[("error", error), ("error_description", why), ("state", state)]))
    };
    let asked: Vec<&str> = form.get("scope").map_or(vec![], |scope| scope.split(' ').collect());
    if form.get("response_type") != Some("code") {
        return refuse("unsupported_response_type", "response_type must be code");
    }
    if state.is_empty() {
        return refuse("invalid_request", "state is missing");
    }
    if asked.is_empty() || asked.iter().any(|scope| scope.is_empty() || scope.contains(',')) {
        return refuse("invalid_scope", "scopes are separated by exactly one space");
    }
    if asked.len() > SCOPE_LIMIT {
        return refuse("invalid_scope", "more than 20 scopes");
    }
    let challenge = form.get("code_challenge").map(str::to_owned);
    if challenge.is_some() && form.get("code_challenge_method") != Some("S256") {
        return refuse("invalid_request", "code_challenge_method must be S256");
    }
    let audience = form.get("audience").unwrap_or("").to_owned();
    let mut scopes = registered(client, &asked);
    if !oauth.audiences.contains(&audience) {
        scopes.retain(|scope| scope == "offline_access");
    }
    let pending = Pending {
        client_id: client.id.clone(),
        redirect_uri: redirect_uri.into(),
        state: state.into(),
        scopes,
        audience,
        challenge,
        until: now.plus(CODE_LIFE),
    };
    if let Some(account) = form.get("auto_accept") {
        if !oauth.account_ids.contains_key(account) {
            return page(400, "Error", html! { p { "There is no such account." } });
        }
        let code = oauth.code(&pending, account, now);
        return Reply::redirect(302, &callback(redirect_uri, &[("code", &code), ("state", state)]));
    }
    oauth.serial += 1;
    let request = digest(&[&oauth.seed.to_string(), "consent", &oauth.serial.to_string()]);
    let reply = consent(&request, &pending, oauth.account_ids.keys());
    oauth.pending.insert(request, pending);
    reply
}

/// `POST /authorize/decision`, the form of the consent page: `request`, `account`, `decision=accept|deny`.
pub(super) fn decide(world: &World, body: &[u8]) -> Reply {
    let form = Form::parse(body);
    let now = world.clock.now();
    lock(&world.stats).arrived("POST /authorize/decision", None, now);
    let mut oauth = lock(&world.oauth);
    let pending = form.get("request").and_then(|request| oauth.pending.remove(request));
    let Some(pending) = pending.filter(|pending| now < pending.until) else {
        return page(400, "Error", html! { p { "This page was answered already, or is too old. Start again." } });
    };
    let state = pending.state.as_str();
    let to = match (form.get("decision"), form.get("account")) {
        (Some("accept"), Some(account)) if oauth.account_ids.contains_key(account) => {
            let code = oauth.code(&pending, account, now);
            callback(&pending.redirect_uri, &[("code", &code), ("state", state)])
        }
        (Some("deny"), _) => {
            let why = "User did not authorize the request";
            callback(&pending.redirect_uri, &[("error", "access_denied"), ("error_description", why), ("state", state)])
        }
        _ => return page(400, "Error", html! { p { "Neither accepted for an account nor denied." } }),
    };
    Reply::redirect(302, &to)
}

/// The scopes that the client has, of those asked for; of a read and a write scope only the write one counts.
fn registered(client: &Client, asked: &[&str]) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in asked {
        let write = scope.replace(":read:", ":write:");
        let has = |name: &str| client.scopes.iter().any(|known| known == name);
        let doubled = write != *scope && asked.contains(&write.as_str()) && has(&write);
        if !doubled && (has(scope) || has(&write)) && !scopes.iter().any(|known| known == scope) {
            scopes.push((*scope).to_owned());
        }
    }
    scopes
}

/// The redirect with the answer in its query; empty values are left out.
fn callback(redirect_uri: &str, pairs: &[(&str, &str)]) -> String {
    Url::parse(redirect_uri).map_or_else(
        |_| redirect_uri.to_owned(),
        |mut url| {
            url.query_pairs_mut().extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
            url.into()
        },
    )
}

/// The consent page. A program answers it by posting the form's fields.
fn consent<'a>(request: &str, pending: &Pending, accounts: impl Iterator<Item = &'a String>) -> Reply {
    let body = html! {
        p { b { (pending.client_id) } " asks for access to your account:" }
        ul { @for scope in &pending.scopes { li title=(scope) { (words(scope)) } } }
        form method="post" action="/authorize/decision" {
            input type="hidden" name="request" value=(request);
            label { "Account " select name="account" {
                @for account in accounts { option value=(account) { (account) } }
            } }
            " "
            button name="decision" value="accept" { "Accept" }
            " "
            button name="decision" value="deny" { "Deny" }
        }
    };
    page(200, "Authorize access", body)
}

/// A scope as a customer reads it.
fn words(scope: &str) -> String {
    let parts: Vec<&str> = scope.split(':').collect();
    match parts.as_slice() {
        ["offline_access"] => "keep access while you are away (offline_access)".into(),
        [what, "read", _] => format!("read {}", what.replace('_', " ")),
        [what, "write", _] => format!("read and change {}", what.replace('_', " ")),
        [what, "access", _] => format!("see what is {what}"),
        _ => scope.into(),
    }
}

fn page(status: u16, title: &str, body: Markup) -> Reply {
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) " · Lever sandbox" } }
            body { h1 { (title) } (body) p { small { "This is Hirelake's sandbox, not Lever." } } }
        }
    };
    Reply::html(status, whole.into_string())
}

/// A verifier's challenge (RFC 7636, 4.2).
fn digest_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

/// Text that nobody guesses and everybody with the same seed gets again.
fn digest(parts: &[&str]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(parts.join("\0")))
}
