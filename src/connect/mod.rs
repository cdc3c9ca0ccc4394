//! The page on which customers connect by themselves: an invitation's link, the provider's consent page, and back.
//!
//! Guarantees: a link opens for one tenant, until it expires, and once; an answer counts only in the browser that began, for it
//! alone has the sealed cookie with the `state`; nothing is kept in this process between two requests, so another one can go
//! on; an exchange that was begun is brought to its end, whoever hangs up; the grant is durable before a page says so. Pages
//! hold no script, nothing from elsewhere, and no secret; a log line has the tenant and one word. Knows no lake.

mod invite;
mod listen;
mod page;
mod words;

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as AxumState};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use maud::Markup;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

pub use invite::{Door, Invite, link};

use crate::auth::connect::{Callback, Connected, Invitation, PATIENCE};
use crate::auth::vault::{Sealed, VaultError};
use crate::auth::{Auth, AuthError};
use crate::clock::{Clock, Timestamp};
use crate::config::{App, Config, ConfigError};
use crate::names::{AppName, RunId, Tenant};
use crate::state::State;
use page::{Asked, Failure, Frame, Lacking};

/// How long a callback waits for a tenant that a sync holds. Proxies give an answer up after a minute.
pub(crate) const BUSY: Duration = Duration::from_secs(45);
/// Exchanges at once; each is two requests of a customer who has just pressed Accept.
const EXCHANGES: usize = 16;
/// How long connections are waited for when the server ends; exchanges are waited for in any case.
const GRACE: Duration = Duration::from_secs(10);
/// Largest body read: the one form that there is has no field.
const BODY_BYTES: usize = 4 << 10;
/// Longest address looked at: a token or a code with its state has a few hundred letters.
const ADDRESS_BYTES: usize = 8 << 10;
/// Largest cookie header looked at; browsers send 4 KiB a cookie.
const COOKIE_BYTES: usize = 16 << 10;
/// What is sealed for the page that says so.
const DONE: &str = "connect/done";

/// Why there is no page, or no link to it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// None of an app's callbacks leads to the page.
    #[error("app {app} has no callback on the connect page, such as {wanted}\nhint: {hint}")]
    Callback {
        /// The app.
        app: AppName,
        /// One that would.
        wanted: String,
        /// What to do.
        hint: String,
    },
    /// There is no app at all.
    #[error(
        "no app is configured, so nobody can connect\nhint: add an [apps.main] section with client_id and client_secret; `hirelake init` shows one"
    )]
    NoApp,
    /// The address cannot be listened on.
    #[error(
        "{addr} cannot be listened on ({why})\nhint: end the program that holds it, or choose another with --listen"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's word.
        why: String,
    },
    /// A link could not be sealed.
    #[error("the link could not be sealed: {0}")]
    Vault(#[from] VaultError),
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The page, its configuration checked.
#[derive(Debug)]
pub struct Site {
    config: Arc<Config>,
    auth: Arc<Auth>,
    state: State,
    clock: Clock,
    listen: SocketAddr,
    base_path: String,
    secure: bool,
    exchanges: TaskTracker,
    places: Semaphore,
    stop: CancellationToken,
}

/// What is kept of a consent that was begun, beside its own secrets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    invite: Invite,
}

/// What the last page says; it has an address of its own, so that the code leaves the browser's address bar and history.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    until: Timestamp,
    tenant: Tenant,
    scopes: Vec<String>,
    missing: Vec<String>,
}

/// An answer, not written yet.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: String,
    location: Option<String>,
    /// Cookies to set, each with its life in seconds; without text it is removed.
    cookies: Vec<(&'static str, Option<String>)>,
    /// Where the page's form may lead, through the provider's own redirects too.
    form: String,
}

impl Reply {
    fn page(status: StatusCode, markup: Markup) -> Self {
        Self {
            status,
            kind: "text/html; charset=utf-8",
            body: markup.into_string(),
            location: None,
            cookies: Vec::new(),
            form: String::new(),
        }
    }
    fn plain(kind: &'static str, body: &str) -> Self {
        Self { kind, body: body.to_owned(), ..Self::page(StatusCode::OK, maud::html! {}) }
    }
    fn to(location: String) -> Self {
        Self {
            status: StatusCode::SEE_OTHER,
            location: Some(location),
            ..Self::page(StatusCode::SEE_OTHER, maud::html! {})
        }
    }
    fn cookie(mut self, name: &'static str, value: Option<String>) -> Self {
        self.cookies.push((name, value));
        self
    }
}

/// The consent that a browser began.
const BEGUN_COOKIE: &str = "hirelake-connect";
/// What it ended with.
const DONE_COOKIE: &str = "hirelake-connected";

impl Site {
    /// Checks that the page can be reached and the provider can send customers back to it.
    ///
    /// # Errors
    ///
    /// When that is so for no app.
    pub fn new(
        config: Arc<Config>,
        auth: Arc<Auth>,
        state: State,
        listen: SocketAddr,
        stop: CancellationToken,
    ) -> Result<Self, ConnectError> {
        let (mut base, mut refused) = (None, Vec::new());
        for app in config.apps.values() {
            match Door::of(&config, listen, app) {
                Ok(door) => base = base.or(Some(door.base)),
                Err(error) => refused.push(error),
            }
        }
        let Some(base) = base else { return Err(refused.into_iter().next().unwrap_or(ConnectError::NoApp)) };
        for error in refused {
            tracing::warn!("its customers cannot connect on the page: {error}");
        }
        Ok(Self {
            clock: state.clock(),
            config,
            auth,
            state,
            listen,
            base_path: base.path().to_owned(),
            secure: base.scheme() == "https",
            exchanges: TaskTracker::new(),
            places: Semaphore::new(EXCHANGES),
            stop,
        })
    }

    /// What links begin with.
    #[must_use]
    pub fn bases(&self) -> Vec<Url> {
        let doors = self.config.apps.values().filter_map(|app| Door::of(&self.config, self.listen, app).ok());
        let mut bases: Vec<Url> = doors.map(|d| d.base).collect();
        bases.sort();
        bases.dedup();
        bases
    }

    fn frame(&self, app: Option<&App>) -> Frame {
        let app = app.or_else(|| match self.config.apps.len() {
            1 => self.config.apps.values().next(),
            _ => None,
        });
        let provider = self.config.provider.name.as_str();
        let mut provider = provider.to_owned();
        if let Some(first) = provider.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Frame {
            app: app.map_or_else(|| "Hirelake".into(), |a| a.title.clone().unwrap_or_else(|| a.name.to_string())),
            provider,
            environment: app.map(|a| a.environment),
            base_path: self.base_path.clone(),
        }
    }

    fn cookie_name(&self, name: &str) -> String {
        // The prefix keeps a neighbour below the same domain from planting one.
        if self.secure { format!("__Host-{name}") } else { name.to_owned() }
    }

    fn cookie(&self, headers: &HeaderMap, name: &str) -> Option<String> {
        let name = self.cookie_name(name);
        let texts = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let mut pairs = texts.filter(|t| t.len() <= COOKIE_BYTES).flat_map(|t| t.split(';'));
        pairs.find_map(|pair| pair.trim().strip_prefix(name.as_str())?.strip_prefix('=').map(str::to_owned))
    }

    /// Every request comes by here.
    async fn answer(self: &Arc<Self>, head: &Parts) -> Reply {
        let (method, path, query) = (&head.method, head.uri.path(), head.uri.query().unwrap_or_default());
        if path.len() + query.len() > ADDRESS_BYTES {
            return self.failed(Failure::TooLarge, None, None);
        }
        let below = path.strip_prefix(self.base_path.as_str());
        let reads = method == Method::GET || method == Method::HEAD;
        let token = below.and_then(|p| p.strip_prefix("invite/"));
        match below {
            _ if token.is_none() && !reads => self.failed(Failure::Method, None, None),
            // Whatever path the proxy puts before it, for its own checks.
            _ if path == "/healthz" => Reply::plain("text/plain; charset=utf-8", "ok\n"),
            Some("healthz") => Reply::plain("text/plain; charset=utf-8", "ok\n"),
            Some("style.css") => Reply::plain("text/css; charset=utf-8", page::STYLE),
            Some("") => Reply::page(StatusCode::OK, page::home(&self.frame(None))),
            Some("connected") => self.say_connected(head),
            _ if let Some(token) = token => {
                if reads {
                    self.invitation(token).await
                } else if method == Method::POST {
                    self.begin(token, &head.headers).await
                } else {
                    self.failed(Failure::Method, None, None)
                }
            }
            _ if self.is_callback(path) => self.callback(head, query).await,
            _ => self.failed(Failure::NotFound, None, None),
        }
    }

    fn is_callback(&self, path: &str) -> bool {
        let mut doors = self.config.apps.values().filter_map(|app| Door::of(&self.config, self.listen, app).ok());
        doors.any(|door| door.callback.path() == path)
    }

    /// The page of a failure, and a line in the log.
    fn failed(&self, failure: Failure, invite: Option<&Invite>, error: Option<&AuthError>) -> Reply {
        let tenant = invite.map(|i| &i.tenant);
        match (tenant, error) {
            // What the team must look at; the error's own sentence has the hint, and no secret.
            (Some(tenant), Some(error)) if failure.is_ours() => {
                tracing::warn!(%tenant, outcome = failure.word(), %error, "a customer could not connect");
            }
            (Some(tenant), _) => tracing::info!(%tenant, outcome = failure.word(), "a customer did not connect"),
            (None, _) => tracing::info!(outcome = failure.word(), "a page was asked for in vain"),
        }
        let app = tenant.and_then(|t| self.config.app(t).ok());
        // A sealed link is made anew from what it says.
        let link = invite.and_then(|i| {
            let door = Door::of(&self.config, self.listen, app?).ok()?;
            Some(invite::below(&door.base, &format!("invite/{}", i.token(self.auth.vault()).ok()?)))
        });
        let markup = page::failure(&self.frame(app), failure, tenant.map(Tenant::as_str), link.as_ref());
        Reply::page(failure.status(), markup)
    }

    /// What a link stands for, if it can still be used.
    async fn invited(&self, token: &str) -> Result<(Invite, App, Door), Box<Reply>> {
        let failed =
            |failure, invite: Option<&Invite>, error: Option<&AuthError>| Box::new(self.failed(failure, invite, error));
        let Some(invite) = Invite::from_token(self.auth.vault(), token) else {
            return Err(failed(Failure::UnknownLink, None, None));
        };
        match self.state.invite_used(invite.expires, invite.id).await {
            Ok(true) => return Err(failed(Failure::Used, Some(&invite), None)),
            Ok(false) => {}
            Err(error) => return Err(failed(Failure::Internal, Some(&invite), Some(&error.into()))),
        }
        if invite.expires <= self.clock.now() {
            return Err(failed(Failure::Expired(invite.expires), Some(&invite), None));
        }
        let app = self.config.app(&invite.tenant).cloned();
        let app = app.map_err(|error| failed(Failure::Setup, Some(&invite), Some(&error.into())))?;
        match Door::of(&self.config, self.listen, &app) {
            Ok(door) => Ok((invite, app, door)),
            Err(error) => {
                tracing::warn!(tenant = %invite.tenant, %error, "its app cannot be connected on this page");
                Err(failed(Failure::Setup, Some(&invite), None))
            }
        }
    }

    /// The page behind a link.
    async fn invitation(&self, token: &str) -> Reply {
        let (invite, app, door) = match self.invited(token).await {
            Ok(found) => found,
            Err(reply) => return *reply,
        };
        let scopes = match self.config.scopes(&invite.tenant) {
            Ok(scopes) => scopes.list,
            Err(error) => return self.failed(Failure::Setup, Some(&invite), Some(&error.into())),
        };
        let asked = Asked {
            tenant: invite.tenant.as_str(),
            description: app.description.as_deref(),
            expires: invite.expires,
            scopes: &scopes,
            offline: &self.config.provider.oauth.offline_scope,
            host: app.endpoints.authorize.host_str().unwrap_or_default(),
            action: &format!("{}invite/{token}", door.base.path()),
        };
        let mut reply = Reply::page(StatusCode::OK, page::invitation(&self.frame(Some(&app)), &asked));
        // Browsers hold the form to this list through every redirect: the consent page may lead through other hosts of the
        // provider before it asks for anything.
        let hosts = app.endpoints.hosts.iter().map(|h| format!(" https://{h} https://*.{h}"));
        reply.form =
            format!("'self' {}{}", app.endpoints.authorize.origin().ascii_serialization(), hosts.collect::<String>());
        reply
    }

    /// The button was pressed: the consent's secrets go into the cookie, the browser to the provider.
    async fn begin(&self, token: &str, headers: &HeaderMap) -> Reply {
        // Said by every browser of today; one that says nothing is held by the cookie alone.
        let from = headers.get("sec-fetch-site").and_then(|v| v.to_str().ok());
        if from.is_some_and(|f| f != "same-origin" && f != "none") {
            return self.failed(Failure::OtherSite, None, None);
        }
        let (invite, _, door) = match self.invited(token).await {
            Ok(found) => found,
            Err(reply) => return *reply,
        };
        let begun = || -> Result<(Invitation, String), AuthError> {
            let invitation = self.auth.invite_to(&invite.tenant, &door.callback)?;
            let kept = self.auth.put_down(&invitation, &Begun { invite: invite.clone() });
            let kept = kept.map_err(|source| AuthError::Vault { tenant: invite.tenant.clone(), source })?;
            Ok((invitation, kept))
        };
        match begun() {
            Ok((invitation, kept)) => {
                tracing::info!(tenant = %invite.tenant, "a customer goes to the consent page");
                Reply::to(invitation.link.to_string()).cookie(BEGUN_COOKIE, Some(kept))
            }
            Err(error) => self.failed((&error).into(), Some(&invite), Some(&error)),
        }
    }

    /// The provider sent the browser back.
    async fn callback(self: &Arc<Self>, head: &Parts, query: &str) -> Reply {
        let kept = self.cookie(&head.headers, BEGUN_COOKIE);
        let Some((invitation, Begun { invite })) = kept.and_then(|k| self.auth.take_up::<Begun>(&k)) else {
            return self.failed(Failure::NoCookie, None, None).cookie(BEGUN_COOKIE, None);
        };
        // HEAD is no answer of a customer's: a code must not be used up by a look.
        if head.method == Method::HEAD {
            return Reply::plain("text/plain; charset=utf-8", "");
        }
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let mut address = invitation.redirect_uri.clone();
        address.set_query(None);
        address.query_pairs_mut().extend_pairs(pairs);
        let callback = Callback::from_url(&address);
        if let Err(error) = Auth::answered(&invite.tenant, &invitation, callback.clone()) {
            let failure = Failure::from(&error);
            let reply = self.failed(failure, Some(&invite), Some(&error));
            // Whoever lures a browser here with a guess must not end what is under way in it.
            return if failure == Failure::StateMismatch { reply } else { reply.cookie(BEGUN_COOKIE, None) };
        }
        // A task of its own: the browser may be closed, and a code that was exchanged must end in a grant.
        let (site, of) = (self.clone(), invite.clone());
        let exchange = self.exchanges.spawn(async move { site.exchange(&of, &invitation, callback).await });
        match exchange.await {
            Ok(Ok(connected)) => self.connected(&invite, connected),
            Ok(Err((failure, error))) => {
                let reply = self.failed(failure, Some(&invite), error.as_ref());
                if failure == Failure::Busy { reply } else { reply.cookie(BEGUN_COOKIE, None) }
            }
            Err(died) if died.is_panic() => std::panic::resume_unwind(died.into_panic()),
            Err(_) => self.failed(Failure::Internal, Some(&invite), None),
        }
    }

    /// Exchanges the code under the tenant's lease; then the link is used.
    async fn exchange(
        &self,
        invite: &Invite,
        invitation: &Invitation,
        callback: Callback,
    ) -> Result<Connected, (Failure, Option<AuthError>)> {
        let failed = |error: AuthError| (Failure::from(&error), Some(error));
        let tenant = &invite.tenant;
        let waiting = async {
            let place = self.places.acquire().await.ok();
            self.auth.patient_lease(tenant, RunId::new(), BUSY).await.map(|lease| (place, lease))
        };
        let (_place, lease) = tokio::select! {
            // Nothing was begun yet, so nothing is lost by ending.
            () = self.stop.cancelled() => return Err((Failure::Busy, None)),
            () = tokio::time::sleep(BUSY + Duration::from_secs(5)) => return Err((Failure::Busy, None)),
            lease = waiting => lease.map_err(|e| failed(e.into()))?,
        };
        let outcome = async {
            // Under the lease: of two browsers with one link, one connects.
            match self.state.invite_used(invite.expires, invite.id).await {
                Ok(true) => return Err((Failure::Used, None)),
                Ok(false) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let connected = self.auth.exchange(tenant, &lease, invitation, callback, invite.force).await;
            let connected = connected.map_err(failed)?;
            // The grant is safe; a link that could not be marked only works once more, for the same tenant.
            if let Err(error) = self.state.use_invite(invite.expires, invite.id, tenant).await {
                tracing::warn!(%tenant, %error, "the link could not be marked as used");
            }
            Ok(connected)
        }
        .await;
        if let Err(error) = lease.release().await {
            tracing::warn!(%tenant, %error, "the lease could not be given back; it ends by itself");
        }
        outcome
    }

    fn connected(&self, invite: &Invite, connected: Connected) -> Reply {
        let tenant = invite.tenant.clone();
        tracing::info!(%tenant, missing = connected.missing.len(), outcome = "connected", "a customer connected");
        let done = Done {
            until: self.clock.now().plus(PATIENCE),
            tenant,
            scopes: connected.scopes,
            missing: connected.missing,
        };
        let text = serde_json::to_vec(&done).unwrap_or_default();
        match self.auth.vault().seal(DONE, &text) {
            Ok(sealed) => Reply::to(format!("{}connected", self.base_path))
                .cookie(BEGUN_COOKIE, None)
                .cookie(DONE_COOKIE, Some(sealed.to_token())),
            Err(_) => self.page_connected(&done).cookie(BEGUN_COOKIE, None),
        }
    }

    fn say_connected(&self, head: &Parts) -> Reply {
        let done = self.cookie(&head.headers, DONE_COOKIE).and_then(|token| {
            let text = self.auth.vault().open(DONE, &Sealed::from_token(&token)?).ok()?;
            serde_json::from_slice::<Done>(&text).ok().filter(|d| d.until > self.clock.now())
        });
        match done {
            Some(done) => self.page_connected(&done),
            None => Reply::page(StatusCode::OK, page::home(&self.frame(None))),
        }
    }

    fn page_connected(&self, done: &Done) -> Reply {
        let resources = self.config.resources(&done.tenant);
        let lacking = done.missing.iter().map(|scope| {
            let needs = |s: &Option<String>| s.as_deref() == Some(scope.as_str());
            let open = resources.iter().filter(|r| needs(&r.scope) || r.expand.iter().any(|e| needs(&e.scope)));
            Lacking { scope: scope.clone(), tables: open.map(|r| r.name.as_str().replace('_', " ")).collect() }
        });
        let frame = self.frame(self.config.app(&done.tenant).ok());
        let offline = &self.config.provider.oauth.offline_scope;
        let lacking: Vec<Lacking> = lacking.collect();
        Reply::page(StatusCode::OK, page::connected(&frame, done.tenant.as_str(), &done.scopes, &lacking, offline))
    }

    fn send(&self, reply: Reply, head_only: bool) -> Response {
        let form = if reply.form.is_empty() { "'none'" } else { &reply.form };
        let policy = format!(
            "default-src 'none'; style-src 'self'; img-src data:; form-action {form}; base-uri 'none'; frame-ancestors 'none'"
        );
        let length = reply.body.len();
        let mut response = Response::new(if head_only { Body::empty() } else { Body::from(reply.body) });
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        let mut set = |name: header::HeaderName, value: &str| match HeaderValue::from_str(value) {
            Ok(value) => drop(headers.append(name, value)),
            Err(_) => tracing::warn!(%name, "a header cannot be sent as it is"),
        };
        set(header::CONTENT_TYPE, reply.kind);
        set(header::CONTENT_LENGTH, &length.to_string());
        set(header::CONTENT_SECURITY_POLICY, &policy);
        set(header::REFERRER_POLICY, "no-referrer");
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::X_FRAME_OPTIONS, "DENY");
        set(header::CACHE_CONTROL, "no-store");
        set(header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
        set(header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
        set(header::HeaderName::from_static("x-robots-tag"), "noindex, nofollow");
        set(header::CONNECTION, "close");
        if reply.status == StatusCode::METHOD_NOT_ALLOWED {
            set(header::ALLOW, "GET, HEAD, POST");
        }
        if reply.status == StatusCode::SERVICE_UNAVAILABLE {
            set(header::RETRY_AFTER, "120");
        }
        if let Some(location) = &reply.location {
            set(header::LOCATION, location);
        }
        let secure = if self.secure { "; Secure" } else { "" };
        for (name, value) in &reply.cookies {
            let life = if value.is_some() { PATIENCE.as_secs() } else { 0 };
            let (name, value) = (self.cookie_name(name), value.as_deref().unwrap_or_default());
            set(header::SET_COOKIE, &format!("{name}={value}; Path=/; Max-Age={life}; HttpOnly; SameSite=Lax{secure}"));
        }
        response
    }
}

async fn handle(AxumState(site): AxumState<Arc<Site>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let reply = match axum::body::to_bytes(body, BODY_BYTES).await {
        Ok(_) => site.answer(&head).await,
        Err(_) => site.failed(Failure::TooLarge, None, None),
    };
    site.send(reply, head.method == Method::HEAD)
}

/// Listens where the page is to be.
///
/// # Errors
///
/// When the address is taken or not ours.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, ConnectError> {
    TcpListener::bind(addr).await.map_err(|e| ConnectError::Listen { addr, why: e.to_string() })
}

/// Serves the page until the site's token is cancelled; an exchange that was begun is then brought to its end.
pub async fn serve(site: Arc<Site>, listener: TcpListener) {
    let router = Router::new().fallback(handle).with_state(site.clone());
    let server = axum::serve(listen::Bounded::new(listener), router)
        .with_graceful_shutdown(site.stop.clone().cancelled_owned())
        .into_future();
    let patience = async {
        site.stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => {
            if let Err(error) = served {
                tracing::warn!(%error, "the server ended");
            }
        }
        () = patience => {}
    }
    site.exchanges.close();
    site.exchanges.wait().await;
}
