//! May we call for this tenant? Opens its grant, keeps it fresh, and wraps requests: token → send → on a 401 refresh once and
//! send once more.
//!
//! Guarantees: a refresh happens under the tenant's lease, one at a time in this process; an intent is durable before the
//! request and the new tokens are durable before they are used; only `invalid_grant` marks a grant dead; an error that may
//! have reached the provider costs at most one further request in this run and one in each later one. A refresh that was
//! begun is brought to its end even when the request that wanted it is given up; what it brought is on this machine before
//! the state is written, and the next run saves what this one could not. Where all tenants of an app are refused, the app is
//! suspected and nobody is marked dead. No token leaves this room but into a request's header.

mod account;
pub mod connect;
pub mod disconnect;
mod grant;
pub mod known;
pub mod probe;
mod pseudonym;
pub mod rotate;
mod spool;
mod token;
pub mod vault;

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use url::Url;

pub use grant::{CredentialKind, Grant, HARD_NOTICE, Standing, Tokens};
pub use token::TokenError;

use crate::catalog::{Endpoints, Rate, scopes};
use crate::clock::{Clock, Timestamp};
use crate::config::{App, Config, ConfigError, SecretSource};
use crate::http::{
    self, Allowance, Answer, Asked, Budget, Call, Client, Credential, Gate, HttpError, Judged, Method, Priority,
    Symptom, Weather,
};
use crate::names::{AppName, RunId, Tenant};
use crate::secret::Secret;
use crate::state::{Entry, Lease, Line, State, StateError};
use spool::Spool;
use vault::{Vault, VaultError};

/// What `fuzz` looks at of tokens that were taken.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct FuzzIssued {
    pub(crate) sendable: bool,
    pub(crate) life_s: u64,
    pub(crate) account: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) debug: String,
}

/// What is made of an answer of the token endpoint at the time 0; a refusal as it is told.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_token(status: u16, body: &[u8]) -> Result<FuzzIssued, String> {
    let answer = Answer {
        status,
        date: None,
        retry_after: None,
        content_type: None,
        body: bytes::Bytes::copy_from_slice(body),
        received: Timestamp::from_ms(0),
        attempts: 1,
    };
    let issued = token::judge(&answer).map_err(|e| format!("{e}\n{}", e.hint()))?;
    let visible = |s: &Secret| !s.expose().is_empty() && s.expose().bytes().all(|b| b.is_ascii_graphic());
    Ok(FuzzIssued {
        sendable: visible(&issued.access) && issued.refresh.as_ref().is_none_or(visible),
        life_s: issued.expires_at.since(Timestamp::from_ms(0)).as_secs(),
        account: issued.account.clone(),
        scopes: issued.scopes.clone(),
        debug: format!("{:?} {:?}", issued.access, issued.refresh),
    })
}

#[cfg(any(test, fuzzing))]
pub(crate) use connect::fuzz_invitation;

/// Attempts while the token endpoint cannot be reached at all: nothing was sent, so nothing can be lost by trying.
const UNREACHABLE_TRIES: u32 = 5;
/// Tenants of one app that may die in a row before the app itself is suspected.
const DEATHS_IN_A_ROW: usize = 3;
/// How long a request to the token endpoint may go on once the run is to stop: whoever sent SIGTERM kills after 20 s, and what
/// is received must be saved before.
const STOPPED: Duration = Duration::from_secs(12);

/// Why a tenant cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Nothing is stored for it.
    #[error("tenant {tenant} is not connected\nhint: `hirelake connect {tenant}`")]
    NotConnected {
        /// The tenant.
        tenant: Tenant,
    },
    /// The provider said that the grant is gone.
    #[error(
        "the grant of tenant {tenant} is dead since {since}: {why}\nhint: a Super Admin of the customer must connect again: `hirelake connect {tenant}`"
    )]
    Dead {
        /// The tenant.
        tenant: Tenant,
        /// Since when.
        since: Timestamp,
        /// What the provider said.
        why: String,
    },
    /// A refresh failed.
    #[error("refreshing the grant of tenant {tenant} (app {app}) failed: {source}\nhint: {}", .source.hint())]
    Refresh {
        /// The tenant.
        tenant: Tenant,
        /// Its app.
        app: AppName,
        /// Why.
        source: TokenError,
    },
    /// Several tenants of the app were refused in a row, this one perhaps among them.
    #[error(
        "tenant {tenant} {}: {deaths} tenants of app {app} were refused in a row (invalid_grant), so the app itself is the likelier culprit\nhint: check client_id and environment of app {app} and whether it still exists at the provider; nobody was marked dead, and the next run asks again; if the app is right, the customers must connect again: `hirelake connect {tenant}`",
        if *.asked { "was refused" } else { "was left alone" }
    )]
    AppSuspected {
        /// The tenant.
        tenant: Tenant,
        /// Its app.
        app: AppName,
        /// How many were refused.
        deaths: usize,
        /// Whether this one was.
        asked: bool,
    },
    /// The run is to stop, so no refresh is begun, and nothing more is asked for.
    #[error("nothing more is asked for tenant {tenant}: the run is stopping\nhint: run again; it resumes")]
    Stopped {
        /// The tenant.
        tenant: Tenant,
    },
    /// What waits on this machine for the state cannot be read.
    #[error(
        "tokens of tenant {tenant} that wait to be saved in {path} cannot be read ({why})\nhint: they may be the only ones that still work: let this user read the file, or run the version that wrote it; `hirelake disconnect {tenant}` drops them"
    )]
    Unsaved {
        /// The tenant.
        tenant: Tenant,
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// A fresh token is refused.
    #[error("the provider refuses the {what} of tenant {tenant} on {address} (401)\nhint: {hint}")]
    Unauthorized {
        /// The tenant.
        tenant: Tenant,
        /// `access token` or `API key`.
        what: &'static str,
        /// Where.
        address: String,
        /// What to do.
        hint: String,
    },
    /// The stored grant belongs to another app.
    #[error(
        "tenant {tenant} connected under client {stored} ({stored_environment}), and its app is now client {configured} ({configured_environment})\nhint: correct client_id and environment of the app, or connect the tenant again; the stored grant was not touched"
    )]
    OtherApp {
        /// The tenant.
        tenant: Tenant,
        /// Client id of the grant.
        stored: String,
        /// Its environment.
        stored_environment: crate::catalog::Environment,
        /// Client id of the configuration.
        configured: String,
        /// Its environment.
        configured_environment: crate::catalog::Environment,
    },
    /// A part is connected to another account than its tenant.
    #[error(
        "tenant {part} is connected to another account than {whole}, of which it is a part\nhint: connect both to one account: `hirelake connect {part}` (with --force where it moves); nothing was read with it, or two accounts would be mixed"
    )]
    OtherAccount {
        /// The part.
        part: Tenant,
        /// Its tenant.
        whole: Tenant,
    },
    /// The sealed entry does not open.
    #[error("the grant of tenant {tenant} cannot be opened: {source}")]
    Vault {
        /// The tenant.
        tenant: Tenant,
        /// Why.
        source: VaultError,
    },
    /// The stored grant does not open with the keys at hand, so nothing is put in its place: what is sealed with a key that
    /// came here by mistake is lost with it.
    #[error(
        "the stored grant of tenant {tenant} does not open, so it was not replaced: {source}; where that key is lost for good, --force replaces the grant"
    )]
    Shut {
        /// The tenant.
        tenant: Tenant,
        /// Why.
        source: VaultError,
    },
    /// The key of the pseudonyms does not open.
    #[error("the key of the pseudonyms cannot be opened{}", pseudonyms_hint(.source))]
    Pseudonyms {
        /// Why.
        source: VaultError,
    },
    /// A request failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The consent went wrong.
    #[error("connecting tenant {tenant} failed: {why}\nhint: {hint}")]
    Connect {
        /// The tenant.
        tenant: Tenant,
        /// Which of the ways to fail it is.
        kind: connect::Refused,
        /// What happened.
        why: String,
        /// What to do.
        hint: String,
    },
}

/// The vault's own hint speaks of tenants and apps, of which this key knows nothing.
fn pseudonyms_hint(source: &VaultError) -> &'static str {
    match source {
        VaultError::Damaged => {
            "\nhint: restore `pseudonyms` of the state from a backup; a new key would give everybody other pseudonyms"
        }
        _ => "",
    }
}

/// What every tenant's session shares in one run.
#[derive(Debug)]
pub struct Auth {
    config: Arc<Config>,
    state: State,
    vault: Vault,
    client: Client,
    clock: Clock,
    run: RunId,
    /// Requests to the token endpoint, of all tenants together: a courtesy, its own limit is not known.
    token_gates: StdMutex<HashMap<AppName, Arc<Gate>>>,
    answers: StdMutex<HashMap<AppName, Answers>>,
    /// Several tenants may be refused side by side: whether that is their deaths is judged at the end.
    fleet: bool,
    /// Set when the run is to stop.
    stop: CancellationToken,
    /// What is refreshed, or may be, by tenant.
    flights: StdMutex<HashMap<Tenant, Arc<tokio::sync::Mutex<Current>>>>,
    /// What came of a seed that could not be stored.
    successor: StdMutex<Option<Secret>>,
    /// Requests that the run may make.
    allowance: Option<Arc<Allowance>>,
    /// What the tenants of a run know together of the provider being out; whoever only looks waits for no outage.
    weather: Option<Arc<Weather>>,
    /// What the lake holds of the tenant that is to be connected, where somebody looked.
    known: Option<known::Known>,
}

/// How an app's refreshes were answered in this run.
#[derive(Debug, Default)]
struct Answers {
    /// Tenants that worked before and were refused since the last success: each is evidence against the app.
    row: usize,
    /// Refused since the last success.
    held: Vec<Held>,
    /// Refused before a success, which shows that the app works.
    sure: Vec<Held>,
    /// Whether there was a success.
    alive: bool,
}

/// A tenant that was refused.
#[derive(Debug)]
struct Held {
    tenant: Tenant,
    /// Its entry that says so.
    n: u64,
    since: Timestamp,
    why: String,
    /// An earlier run was told the same, so it is no new evidence.
    again: bool,
}

impl Auth {
    /// Fetches the vault key and makes the client.
    ///
    /// # Errors
    ///
    /// When the key cannot be had or used.
    pub fn new(config: Arc<Config>, state: State, clock: Clock, run: RunId) -> Result<Self, ConfigError> {
        let unusable = |source: &SecretSource, e: &VaultError| {
            let text = e.to_string();
            let (why, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
            ConfigError::Secret { what: format!("the vault key ({source})"), why: why.into(), hint: hint.into() }
        };
        let key = config.vault_key.fetch_private("the vault key")?;
        let mut vault = Vault::new(&key).map_err(|e| unusable(&config.vault_key, &e))?;
        for source in &config.vault_previous {
            match source.fetch_private("a previous vault key") {
                Ok(key) => vault.add_former(&key).map_err(|e| unusable(source, &e))?,
                // It may be gone for good reason; if something is sealed with it, that is said there.
                Err(error) => {
                    tracing::debug!(%error, "a previous vault key cannot be had");
                    vault.miss_former(format!("a previous one, {source}, cannot be had"));
                }
            }
        }
        let client = Client::new(clock).map_err(|e| ConfigError::Secret {
            what: "the machine's certificates".into(),
            why: e.to_string(),
            hint: "install ca-certificates, or set SSL_CERT_FILE".into(),
        })?;
        Ok(Self {
            config,
            state,
            vault,
            client,
            clock,
            run,
            token_gates: StdMutex::default(),
            answers: StdMutex::default(),
            fleet: false,
            stop: CancellationToken::new(),
            flights: StdMutex::default(),
            successor: StdMutex::default(),
            allowance: None,
            weather: None,
            known: None,
        })
    }

    /// The same for a run over several tenants, until `stop` is set. Whoever is refused is not marked dead before
    /// [`Auth::judge`]: an app that was changed or removed is answered `invalid_grant` for everybody.
    #[must_use]
    pub fn for_fleet(self, fleet: bool, stop: CancellationToken) -> Self {
        Self { fleet, stop, ..self }
    }

    /// The same for a run that may make no more requests to the data API than that.
    #[must_use]
    pub fn within(self, allowance: Option<Arc<Allowance>>) -> Self {
        Self { allowance, ..self }
    }

    /// The same for a run that waits some minutes for a provider that is out, once for all its requests and tenants: what they
    /// know of it together is `weather`.
    #[must_use]
    pub fn patient(self, weather: Arc<Weather>) -> Self {
        Self { weather: Some(weather), ..self }
    }

    /// Judges who was refused in this run: dead, or of an app that is suspected. Marks the dead, each under its lease; one
    /// that is busy is judged by its next run. Returns the others with what there is to say.
    pub async fn judge(&self) -> Vec<(Tenant, AuthError)> {
        let mut suspected = Vec::new();
        let all = std::mem::take(&mut *self.answers());
        for (app, answers) in all {
            let deaths = answers.held.len();
            let doubted = deaths >= DEATHS_IN_A_ROW;
            for held in answers.held {
                if doubted || (held.again && !answers.alive) {
                    let tenant = held.tenant;
                    let error =
                        AuthError::AppSuspected { tenant: tenant.clone(), app: app.clone(), deaths, asked: true };
                    suspected.push((tenant, error));
                } else {
                    self.bury(held).await;
                }
            }
            for held in answers.sure {
                self.bury(held).await;
            }
        }
        suspected
    }

    /// Marks a tenant dead if nothing happened to its grant since.
    async fn bury(&self, held: Held) {
        let tenant = &held.tenant;
        let mark = async {
            let lease = self.state.lease(tenant, self.run).await?;
            let marked = async {
                let line = self.state.grants(tenant);
                if let Some(last) = line.last::<Grant>().await?.filter(|l| l.n == held.n) {
                    let standing = Standing::Dead { since: held.since, why: held.why };
                    line.append(last.n, Grant { standing, ..last.body }).await?;
                }
                Ok(())
            }
            .await;
            lease.release().await.and(marked)
        };
        if let Err(error) = mark.await {
            tracing::warn!(%tenant, %error, "a dead grant could not be marked; its next run asks once more");
        }
    }

    /// The vault, for what else must be sealed.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Opens a tenant's session under its lease, refreshing the grant when less than the margin is left.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn open(self: &Arc<Self>, tenant: &Tenant, lease: Arc<Lease>) -> Result<Session, AuthError> {
        self.opened(tenant, lease, None, false).await
    }

    /// Opens the session of a part beside that of its tenant: they read one account, so they share its permits.
    ///
    /// # Errors
    ///
    /// As [`Auth::open`], and when the part is connected to another account: its rows would be mixed with the tenant's.
    pub async fn open_beside(
        self: &Arc<Self>,
        whole: &Session,
        part: &Tenant,
        lease: Arc<Lease>,
    ) -> Result<Session, AuthError> {
        let session = self.opened(part, lease, Some(whole.gate.clone()), false).await?;
        if let (Some(its), Some(account)) = (session.account().await, whole.account().await)
            && its != account
        {
            return Err(AuthError::OtherAccount { part: part.clone(), whole: whole.tenant().clone() });
        }
        Ok(session)
    }

    /// Uses a tenant's refresh token under its lease, however long its access token still lives: only that counts against the
    /// idle limit. An API key needs none and is left alone.
    ///
    /// # Errors
    ///
    /// As [`Auth::open`].
    pub async fn keep_alive(self: &Arc<Self>, tenant: &Tenant, lease: Arc<Lease>) -> Result<(), AuthError> {
        self.opened(tenant, lease, None, true).await.map(|_| ())
    }

    /// With `anew` the stored access token is taken for one that was refused; without a `gate` it gets one of its own.
    async fn opened(
        self: &Arc<Self>,
        tenant: &Tenant,
        lease: Arc<Lease>,
        gate: Option<Arc<Gate>>,
        anew: bool,
    ) -> Result<Session, AuthError> {
        let line = self.state.grants(tenant);
        self.adopt(tenant, &line).await?;
        let entry = self.stored(tenant, &line).await?;
        let app = match entry.body.kind {
            CredentialKind::OAuth => Some(self.config.app(tenant)?.clone()),
            CredentialKind::ApiKey => None,
        };
        let secret = app.as_ref().map(App::secret).transpose()?;
        let session = self.session(tenant, lease, app.zip(secret), gate, None);
        let refused = match anew && entry.body.kind == CredentialKind::OAuth {
            true => Some(session.keeper.unsealed(entry)?.tokens.access),
            false => None,
        };
        session.token(refused.as_ref()).await?;
        Ok(session)
    }

    fn session(
        self: &Arc<Self>,
        tenant: &Tenant,
        lease: Arc<Lease>,
        app: Option<(App, Secret)>,
        gate: Option<Arc<Gate>>,
        entry: Option<Open>,
    ) -> Session {
        let current = Current { entry, asked: 0, unsaved: None, refused: None };
        let current = Arc::new(tokio::sync::Mutex::new(current));
        self.flights().insert(tenant.clone(), current.clone());
        let line = self.state.grants(tenant);
        let spool = self.spool(tenant);
        let keeper = Keeper { auth: self.clone(), tenant: tenant.clone(), app, lease, line, spool, current };
        Session {
            keeper: Arc::new(keeper),
            gate: gate.unwrap_or_else(|| {
                let gate = Gate::new(self.clock, self.config.tenant(tenant).rate);
                Arc::new(gate.within(self.allowance.clone()).watching(self.weather.clone()))
            }),
            endpoints: self.config.endpoints(tenant).clone(),
            scopes: StdMutex::default(),
            date: StdMutex::default(),
        }
    }

    /// Waits until no refresh of the tenant is under way; its lease may be given back only then.
    pub async fn settled(&self, tenant: &Tenant) {
        let flight = self.flights().remove(tenant);
        if let Some(flight) = flight {
            drop(flight.lock().await);
        }
    }

    fn spool(&self, tenant: &Tenant) -> Option<Spool> {
        Spool::of(&self.config, &self.state, tenant)
    }

    /// Saves what an earlier run on this machine received and could not save, if it is what comes after the stored grant;
    /// whatever that one is thought to be: the stored token is used up, and this is its successor.
    async fn adopt(&self, tenant: &Tenant, line: &Line) -> Result<(), AuthError> {
        let Some(spool) = self.spool(tenant) else { return Ok(()) };
        let read = spool.read().await.map_err(|e| AuthError::Unsaved {
            tenant: tenant.clone(),
            path: spool.path().display().to_string(),
            why: e.to_string(),
        })?;
        let Some(unsaved) = read else { return Ok(()) };
        let vault = |source| AuthError::Vault { tenant: tenant.clone(), source };
        if let Some(last) = line.last::<Grant>().await? {
            let stored = last.body.tokens(&self.vault, tenant).map_err(vault)?;
            let same_app = |a: &Grant, b: &Grant| (&a.client_id, a.environment) == (&b.client_id, b.environment);
            let follows = stored.as_ref().and_then(Tokens::print).is_some_and(|p| p == unsaved.after);
            // What does not follow is not even opened: a newer grant must not wait for a key that is gone.
            let next = match unsaved.grant.tokens(&self.vault, tenant) {
                _ if !follows || !same_app(&last.body, &unsaved.grant) => None,
                Ok(next) => next,
                Err(source @ VaultError::Damaged) => {
                    tracing::warn!(%tenant, error = %source, "what waits on this machine is not what was put there; it is dropped");
                    None
                }
                // The tokens wait for their key.
                Err(source) => return Err(vault(source)),
            };
            if let Some((stored, next)) = stored.zip(next)
                && stored.refresh != next.refresh
            {
                let generation = last.body.generation + 1;
                let mut grant = Grant { generation, seeds: last.body.seeds.clone(), ..unsaved.grant };
                grant.seal(&self.vault, tenant, &next).map_err(vault)?;
                line.append(last.n, grant).await?;
                tracing::info!(%tenant, "tokens that an earlier run could not save are saved");
            }
        }
        spool.clear().await;
        Ok(())
    }

    async fn stored(&self, tenant: &Tenant, line: &Line) -> Result<Entry<Grant>, AuthError> {
        let entry = line.last::<Grant>().await?.ok_or_else(|| AuthError::NotConnected { tenant: tenant.clone() })?;
        match &entry.body.standing {
            Standing::Disconnected => Err(AuthError::NotConnected { tenant: tenant.clone() }),
            Standing::Dead { since, why } => {
                Err(AuthError::Dead { tenant: tenant.clone(), since: *since, why: why.clone() })
            }
            _ => Ok(entry),
        }
    }

    /// The permits of an app's requests to the token endpoint: a courtesy, its own limit is not known. One an app, so that a
    /// pause which one is asked for holds no other.
    fn token_gate(&self, app: &AppName) -> Arc<Gate> {
        let mut gates = self.token_gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = || Arc::new(Gate::new(self.clock, Rate { per_second: 10.0, burst: 10 }));
        gates.entry(app.clone()).or_insert_with(gate).clone()
    }

    /// Lifts the mark of a dead grant, so that its tokens are tried once more; the provider has the last word.
    ///
    /// # Errors
    ///
    /// As [`Auth::open`].
    pub async fn retry(self: &Arc<Self>, tenant: &Tenant, lease: Arc<Lease>) -> Result<(), AuthError> {
        let line = self.state.grants(tenant);
        self.adopt(tenant, &line).await?;
        if let Some(last) = line.last::<Grant>().await?
            && let Standing::Dead { since, why } = &last.body.standing
        {
            let standing = Standing::Uncertain { since: *since, why: why.clone(), refused: false };
            line.append(last.n, Grant { standing, ..last.body }).await?;
        }
        self.open(tenant, lease).await.map(|_| ())
    }

    async fn try_save(&self, line: &Line, n: u64, grant: &Grant) -> Result<Entry<Grant>, StateError> {
        match line.append(n, grant.clone()).await {
            // An earlier try may have saved it, and failed only after that.
            Err(lost @ StateError::Lost { .. }) => match line.last::<Grant>().await? {
                Some(last) if last.body.generation == grant.generation && last.body.sealed == grant.sealed => Ok(last),
                _ => Err(lost),
            },
            saved => saved,
        }
    }

    fn refused(&self, app: &AppName, held: Held) {
        let mut answers = self.answers();
        let answers = answers.entry(app.clone()).or_default();
        answers.row += usize::from(!held.again);
        answers.held.push(held);
    }
    fn lived(&self, app: &AppName) {
        let mut answers = self.answers();
        let answers = answers.entry(app.clone()).or_default();
        answers.row = 0;
        answers.alive = true;
        answers.sure.append(&mut answers.held);
    }
    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<AppName, Answers>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Tenant, Arc<tokio::sync::Mutex<Current>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tenant that may be asked for. Shared by all its tasks.
#[derive(Debug)]
pub struct Session {
    keeper: Arc<Keeper>,
    gate: Arc<Gate>,
    endpoints: Endpoints,
    scopes: StdMutex<Vec<String>>,
    /// The provider's clock against ours: its `Date` and our time when it came.
    date: StdMutex<Option<(Timestamp, Timestamp)>>,
}

/// Keeps one tenant's grant fresh.
#[derive(Debug)]
struct Keeper {
    auth: Arc<Auth>,
    tenant: Tenant,
    app: Option<(App, Secret)>,
    lease: Arc<Lease>,
    line: Line,
    spool: Option<Spool>,
    /// Held while refreshing: single flight inside the process.
    current: Arc<tokio::sync::Mutex<Current>>,
}

#[derive(Debug)]
struct Current {
    entry: Option<Open>,
    /// Requests of this run that may have been acted on and were not answered.
    asked: u32,
    /// The next generation, received and not saved yet: the token before it is used up, so nothing is asked before this is
    /// durable.
    unsaved: Option<Open>,
    /// That the provider refused the grant in this run, since when and why: it is not asked again.
    refused: Option<(Timestamp, String)>,
}

#[derive(Debug, Clone)]
struct Open {
    n: u64,
    grant: Grant,
    tokens: Tokens,
}

impl Session {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.keeper.tenant
    }
    /// What it calls with.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        if self.keeper.app.is_some() { CredentialKind::OAuth } else { CredentialKind::ApiKey }
    }
    /// Its permits.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
    /// Its lease.
    #[must_use]
    pub fn lease(&self) -> &Arc<Lease> {
        &self.keeper.lease
    }

    /// Whether `scope` is granted, as far as is known: an API key's permissions are not, so everything is tried.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        let granted = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        granted.is_empty() || scopes::opens(&granted, scope)
    }

    /// Whether it is known that `scope` was granted.
    #[must_use]
    pub fn knows_scope(&self, scope: &str) -> bool {
        let granted = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes::opens(&granted, scope)
    }

    /// The account at the provider, where its token says; an API key does not.
    async fn account(&self) -> Option<String> {
        self.keeper.current.lock().await.entry.as_ref().and_then(|open| open.grant.account.clone())
    }

    /// The provider's time now, as its last answer's `Date` said; `None` before the first.
    #[must_use]
    pub fn provider_now(&self) -> Option<Timestamp> {
        let seen = *self.date.lock().unwrap_or_else(PoisonError::into_inner);
        seen.map(|(date, at)| date.plus(self.keeper.auth.clock.now().since(at)))
    }

    /// Reads `path` (below the API base) as the tenant. What `judge` gets is any answer that is neither "later" nor a 401
    /// that a refresh cures.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn get<T>(
        &self,
        path: &str,
        query: &[(String, String)],
        priority: Priority,
        budget: &Budget,
        judge: impl FnMut(Answer) -> Judged<T>,
    ) -> Result<T, AuthError> {
        self.ask(path, query, priority, budget, false, judge).await
    }

    /// The same for a document, which may lie elsewhere: a redirect is followed there, without the credential.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn download<T>(
        &self,
        path: &str,
        query: &[(String, String)],
        priority: Priority,
        judge: impl FnMut(Answer) -> Judged<T>,
    ) -> Result<T, AuthError> {
        self.ask(path, query, priority, &Budget::DOCUMENT, true, judge).await
    }

    async fn ask<T>(
        &self,
        path: &str,
        query: &[(String, String)],
        priority: Priority,
        budget: &Budget,
        elsewhere: bool,
        mut judge: impl FnMut(Answer) -> Judged<T>,
    ) -> Result<T, AuthError> {
        let mut url = self.endpoints.api_base.clone();
        url.set_path(&format!("{}{path}", self.endpoints.api_base.path().trim_end_matches('/')));
        let mut used = self.token(None).await?;
        for last in [false, true] {
            let credential = self.credential(&used);
            let call = Call {
                method: Method::Get,
                url: &url,
                query,
                credential: Some(&credential),
                hosts: &self.endpoints.hosts,
                elsewhere,
                priority,
            };
            let sent = self.keeper.auth.client.send(&self.gate, budget, &call, |answer: Answer| {
                if let Some(date) = answer.date {
                    *self.date.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, answer.received));
                }
                if http::meaning(answer.status) == http::Meaning::Unauthorized {
                    return Judged::Take(None);
                }
                match judge(answer) {
                    Judged::Take(value) => Judged::Take(Some(value)),
                    Judged::Again(why) => Judged::Again(why),
                }
            });
            let answered = match sent.await {
                Err(e) if e.cause == http::Cause::UsedUp => {
                    return Err(AuthError::Stopped { tenant: self.keeper.tenant.clone() });
                }
                answered => answered?,
            };
            match answered {
                Some(value) => return Ok(value),
                None if last || self.keeper.app.is_none() => break,
                None => used = self.token(Some(&used.tokens.access)).await?,
            }
        }
        Err(self.keeper.unauthorized(&url))
    }

    fn credential(&self, open: &Open) -> Credential {
        match open.grant.kind {
            CredentialKind::OAuth => Credential::Bearer(open.tokens.access.clone()),
            CredentialKind::ApiKey => Credential::ApiKey(open.tokens.access.clone()),
        }
    }

    /// A token that is good for a while. `refused` is one that the provider just answered with 401.
    async fn token(&self, refused: Option<&Secret>) -> Result<Open, AuthError> {
        let current = self.keeper.current.clone().lock_owned().await;
        if let Some(open) = current.entry.as_ref().filter(|o| self.keeper.fresh(o, refused)) {
            return Ok(open.clone());
        }
        let (keeper, refused) = (self.keeper.clone(), refused.cloned());
        // A task of its own: who asked may be given up (a deadline, a failure beside it), and half a refresh costs the
        // grant. `Auth::settled` waits for it.
        let renewal = async move { keeper.renew(current, refused.as_ref()).await }.in_current_span();
        let open = match tokio::spawn(renewal).await {
            Ok(outcome) => outcome?,
            Err(died) if died.is_panic() => std::panic::resume_unwind(died.into_panic()),
            // The runtime is ending, and so are we.
            Err(_) => std::future::pending().await,
        };
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&open.grant.scopes);
        Ok(open)
    }
}

impl Keeper {
    fn unauthorized(&self, url: &Url) -> AuthError {
        let api_key = self.app.is_none();
        let what = if api_key { "API key" } else { "access token" };
        let hint = Symptom::Unauthorized.hint(&Asked { api_key, ..Asked::default() });
        AuthError::Unauthorized { tenant: self.tenant.clone(), what, address: http::address(url), hint }
    }

    /// Whether the token has more life left than the margin. A margin above half of its whole life would have it
    /// refreshed for every request.
    fn fresh(&self, open: &Open, refused: Option<&Secret>) -> bool {
        let (grant, access) = (&open.grant, &open.tokens.access);
        let alive = grant.kind == CredentialKind::ApiKey
            || grant.expires_at.is_some_and(|end| {
                let margin = self.auth.config.refresh_margin.min(end.since(grant.refreshed_at) / 2);
                end > self.auth.clock.now().plus(margin)
            });
        alive && !access.is_empty() && refused.is_none_or(|r| r != access)
    }

    async fn renew(&self, mut current: OwnedMutexGuard<Current>, refused: Option<&Secret>) -> Result<Open, AuthError> {
        if current.unsaved.is_some() {
            let open = self.save(&mut current).await?;
            self.give_back_room().await;
            current.entry = Some(open.clone());
            return Ok(open);
        }
        if let Some((since, why)) = &current.refused {
            return Err(AuthError::Dead { tenant: self.tenant.clone(), since: *since, why: why.clone() });
        }
        // Look again: a keepalive before our lease, or a reconnect, may have stored newer tokens.
        let entry = self.auth.stored(&self.tenant, &self.line).await?;
        let open = self.unsealed(entry)?;
        let settled = matches!(open.grant.standing, Standing::Live { .. });
        if settled && self.fresh(&open, refused) {
            current.entry = Some(open.clone());
            return Ok(open);
        }
        let refreshed = self.refresh(&mut current, open).await;
        if current.unsaved.is_none() {
            self.give_back_room().await;
        }
        let open = refreshed?;
        current.entry = Some(open.clone());
        Ok(open)
    }

    fn unsealed(&self, entry: Entry<Grant>) -> Result<Open, AuthError> {
        let grant = entry.body;
        if let Some((app, _)) = &self.app
            && (app.client_id != grant.client_id || app.environment != grant.environment)
        {
            return Err(AuthError::OtherApp {
                tenant: self.tenant.clone(),
                stored: grant.client_id,
                stored_environment: grant.environment,
                configured: app.client_id.clone(),
                configured_environment: app.environment,
            });
        }
        let vault = |source| AuthError::Vault { tenant: self.tenant.clone(), source };
        let tokens = grant.tokens(&self.auth.vault, &self.tenant).map_err(vault)?;
        let tokens = tokens.ok_or_else(|| AuthError::NotConnected { tenant: self.tenant.clone() })?;
        Ok(Open { n: entry.n, grant, tokens })
    }

    /// The refresh protocol, under the lease and the process's lock.
    async fn refresh(&self, current: &mut Current, mut open: Open) -> Result<Open, AuthError> {
        let Some((app, secret)) = &self.app else {
            return Err(self.unauthorized(&self.auth.config.endpoints(&self.tenant).api_base));
        };
        let Some(refresh) = open.tokens.refresh.clone() else {
            return Err(AuthError::Dead {
                tenant: self.tenant.clone(),
                since: open.grant.refreshed_at,
                why: format!(
                    "it has no refresh token; was `{}` granted?",
                    self.auth.config.provider.oauth.offline_scope
                ),
            });
        };
        // One that was refused while the app was suspected says nothing new about the app; but were it left alone too,
        // nobody would see that the app is right again.
        let again = matches!(open.grant.standing, Standing::Uncertain { refused: true, .. });
        let (row, deaths) = self.auth.answers().get(&app.name).map_or((0, 0), |a| (a.row, a.held.len()));
        if row >= DEATHS_IN_A_ROW && !again {
            let (tenant, app) = (self.tenant.clone(), app.name.clone());
            return Err(AuthError::AppSuspected { tenant, app, deaths, asked: false });
        }
        let failed = |source| AuthError::Refresh { tenant: self.tenant.clone(), app: app.name.clone(), source };
        // A lost answer, ours or of a run before us, leaves one further request.
        let now = self.auth.clock.now();
        let (earlier, since) = match &open.grant.standing {
            Standing::Uncertain { since, .. } => (true, *since),
            Standing::Refreshing { run } => (*run != self.auth.run, now),
            _ => (false, now),
        };
        let allowed = if earlier { 1 } else { 2 };
        // Whether any request, of an earlier run or of this one, may have been acted on without an answer.
        let mut doubtful = earlier;
        let mut unreachable = 0;
        loop {
            if current.asked >= allowed {
                let why = match &open.grant.standing {
                    Standing::Uncertain { why, .. } => why.clone(),
                    _ => "an earlier answer was lost".into(),
                };
                return Err(failed(TokenError::Unanswered(why)));
            }
            if self.auth.stop.is_cancelled() {
                return Err(AuthError::Stopped { tenant: self.tenant.clone() });
            }
            // First all that may take long; then the lease must cover the request and the saving, because whoever takes the
            // tenant over asks with the same token.
            let gate = self.auth.token_gate(&app.name);
            tokio::select! {
                biased;
                // A pause that the endpoint asked for may be long.
                () = self.auth.stop.cancelled() => return Err(AuthError::Stopped { tenant: self.tenant.clone() }),
                () = token::permit(&gate) => {}
            }
            if let Some(spool) = &self.spool {
                spool.reserve().await;
            }
            self.lease.ensure_for(token::POST).await?;
            let before = open.grant.standing.clone();
            open = self.stand(open, Standing::Refreshing { run: self.auth.run }).await?;
            // The intent's own writing may have taken long.
            self.lease.ensure_for(token::POST).await?;
            if self.auth.stop.is_cancelled() {
                self.stand(open, before).await?;
                return Err(AuthError::Stopped { tenant: self.tenant.clone() });
            }
            current.asked += 1;
            let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
            let stopped = async {
                self.auth.stop.cancelled().await;
                tokio::time::sleep(STOPPED).await;
            };
            let answer = tokio::select! {
                biased;
                answer = token::post_paid(&self.auth.client, &gate, app, secret, &form) => answer,
                () = stopped => Err(TokenError::Unanswered("the run was stopped before it came".into())),
            };
            let error = match answer {
                Ok(issued) => {
                    self.auth.lived(&app.name);
                    current.asked = 0;
                    return self.succeed(current, open, issued).await;
                }
                Err(error) => error,
            };
            tracing::warn!(tenant = %self.tenant, app = %app.name, %error, "a refresh failed");
            match &error {
                TokenError::InvalidGrant => {
                    let why = error.to_string();
                    current.refused = Some((now, why.clone()));
                    if self.auth.fleet {
                        let standing = Standing::Uncertain { since, why: why.clone(), refused: true };
                        let n = self.stand(open, standing).await?.n;
                        self.auth.refused(
                            &app.name,
                            Held { tenant: self.tenant.clone(), n, since: now, why: why.clone(), again },
                        );
                    } else {
                        self.stand(open, Standing::Dead { since: now, why: why.clone() }).await?;
                    }
                    return Err(AuthError::Dead { tenant: self.tenant.clone(), since: now, why });
                }
                TokenError::Unanswered(why) => {
                    doubtful = true;
                    let standing = Standing::Uncertain { since, why: why.clone(), refused: false };
                    open = self.stand(open, standing).await?;
                    if current.asked >= allowed {
                        return Err(failed(error));
                    }
                    self.pause(Duration::from_secs(1)).await;
                }
                TokenError::Unreachable(_) | TokenError::Throttled if unreachable + 1 < UNREACHABLE_TRIES => {
                    unreachable += 1;
                    current.asked -= 1;
                    self.pause(Duration::from_secs(1 << unreachable)).await;
                }
                _ => {
                    // Nothing was consumed; but what was uncertain before stays so.
                    current.asked -= 1;
                    let standing = if doubtful {
                        Standing::Uncertain { since, why: error.to_string(), refused: again }
                    } else {
                        Standing::Live { last_error: Some(error.to_string()) }
                    };
                    self.stand(open, standing).await?;
                    return Err(failed(error));
                }
            }
        }
    }

    async fn give_back_room(&self) {
        if let Some(spool) = &self.spool {
            spool.clear().await;
        }
    }

    /// Waits, but not when the run is to stop.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.auth.stop.cancelled() => {}
        }
    }

    async fn stand(&self, open: Open, standing: Standing) -> Result<Open, AuthError> {
        let grant = Grant { standing, ..open.grant };
        let entry = self.line.append(open.n, grant).await?;
        Ok(Open { n: entry.n, grant: entry.body, tokens: open.tokens })
    }

    /// Makes the next generation of what was issued, and saves it.
    async fn succeed(&self, current: &mut Current, open: Open, issued: token::Issued) -> Result<Open, AuthError> {
        let after = open.tokens.print();
        let tokens = Tokens { access: issued.access, refresh: issued.refresh.or(open.tokens.refresh) };
        let mut grant = Grant {
            generation: open.grant.generation + 1,
            refreshed_at: self.auth.clock.now(),
            expires_at: Some(issued.expires_at),
            standing: Standing::Live { last_error: None },
            ..open.grant
        };
        if !issued.scopes.is_empty() {
            grant.scopes = issued.scopes;
        }
        if issued.account.is_some() {
            grant.account = issued.account;
        }
        let vault = |source| AuthError::Vault { tenant: self.tenant.clone(), source };
        grant.seal(&self.auth.vault, &self.tenant, &tokens).map_err(vault)?;
        if let Some((spool, after)) = self.spool.as_ref().zip(after) {
            spool.keep(after, &grant).await;
        }
        current.unsaved = Some(Open { n: open.n, grant, tokens });
        self.save(current).await
    }

    /// Saves the next generation durably; only then may its access token be used. The old refresh token is used up, so a
    /// store that fails for a moment must not cost the grant.
    async fn save(&self, current: &mut Current) -> Result<Open, AuthError> {
        let Some(Open { n, grant, tokens }) = current.unsaved.clone() else {
            return Err(AuthError::NotConnected { tenant: self.tenant.clone() });
        };
        let mut tries = 0;
        let entry = loop {
            let failed = match self.auth.try_save(&self.line, n, &grant).await {
                Ok(entry) => break entry,
                Err(StateError::Store(e)) if tries < 5 => e,
                Err(e) => return Err(e.into()),
            };
            tries += 1;
            tracing::warn!(tenant = %self.tenant, error = %failed, tries, "new tokens could not be saved; trying again");
            tokio::time::sleep(Duration::from_millis(200 << tries)).await;
        };
        tracing::info!(tenant = %self.tenant, generation = grant.generation, "grant refreshed");
        current.unsaved = None;
        Ok(Open { n: entry.n, grant: entry.body, tokens })
    }
}
