//! A tenant connects: the authorization-code flow with a callback on this machine, or a seed.
//!
//! `state` is random and compared; the tokens are durable before anything is said to have worked. The page that customers
//! open by themselves is another room's (`connect`); it ends in [`Auth::exchange`] too.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State as AxumState};
use axum::http::StatusCode;
use axum::response::Html;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use url::Url;
use zeroize::Zeroizing;

use super::vault::{Sealed, VaultError};
use super::{Auth, AuthError, CredentialKind, Grant, Open, Standing, TokenError, Tokens, account, grant, token};
use crate::catalog::{Mode, is_loopback};
use crate::clock::Timestamp;
use crate::config::App;
use crate::http::{self, Answer, Budget, Judged, Priority};
use crate::names::{RunId, Tenant};
use crate::secret::Secret;
use crate::state::{Claim, Entry, Lease, StateError};

/// How long the consent may take before the callback is given up; what is kept of it in a browser dies then too.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What is kept of a consent is sealed for this place.
const UNDERWAY: &str = "connect/underway";
/// What the standards let an authorization server answer (RFC 6749, 4.1.2.1; OpenID Connect, 3.1.2.6).
const ERRORS: [&str; 11] = [
    "invalid_request",
    "unauthorized_client",
    "unsupported_response_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "interaction_required",
    "login_required",
    "account_selection_required",
    "consent_required",
    "request_not_supported",
];
/// Successors of one seed's file that may lie beside it.
const MOST_SUCCESSORS: u32 = 100;
/// How long between two looks at a tenant that is busy.
const LOOK: Duration = Duration::from_secs(2);

/// Why a tenant was not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The customer said no.
    Denied,
    /// The answer belongs to another request, or to another browser.
    StateMismatch,
    /// The answer has neither a code nor an error.
    NoCode,
    /// The provider refused the authorize request (its `error` is not `access_denied`).
    Request,
    /// The code was used, is expired, or is of another callback.
    CodeRefused,
    /// The client id or secret is wrong, or may not do this.
    Client,
    /// The token endpoint cannot be reached, or gave no answer that can be used.
    Unavailable,
    /// Nothing but the offline scope was granted: the audience is wrong.
    Audience,
    /// No refresh token came.
    NoRefreshToken,
    /// The tenant was connected to another account before.
    WrongAccount,
    /// Another tenant holds the account.
    AccountTaken,
    /// The lake holds rows, and whether the credential is of the same account cannot be told.
    AccountUnknown,
    /// An API key would take the place of a consent.
    OtherKind,
    /// A refresh token from elsewhere does not work.
    SeedRefused,
    /// There is no callback that can be used here.
    Callback,
    /// Nobody came back from the consent page.
    NobodyCame,
}

/// A consent link and the secrets that belong to its answer.
#[derive(Clone)]
pub struct Invitation {
    /// To be opened in a browser by a Super Admin of the customer.
    pub link: Url,
    /// The callback in it.
    pub redirect_uri: Url,
    state: Secret,
    /// Of PKCE, where the provider takes it.
    verifier: Option<Secret>,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The link holds the state.
        f.debug_struct("Invitation").field("link", &http::address(&self.link)).finish_non_exhaustive()
    }
}

/// [`Invitation`] as it is sealed; of the link nothing is kept but its address.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<'a, T> {
    until: Timestamp,
    link: String,
    redirect_uri: Url,
    state: Cow<'a, str>,
    verifier: Option<Cow<'a, str>>,
    with: T,
}

/// What the provider sent the browser back with.
#[derive(Clone, Default, Deserialize)]
pub struct Callback {
    /// The one-time code.
    pub code: Option<String>,
    /// What we sent.
    pub state: Option<String>,
    /// `access_denied` and others.
    pub error: Option<String>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback")
            .field("code", &self.code.is_some())
            .field("error", &self.error.is_some())
            .finish_non_exhaustive()
    }
}

/// What a connect did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// Scopes that the resources need and that were not granted.
    pub missing: Vec<String>,
    /// The account at the provider, where the token says.
    pub account: Option<String>,
}

/// An invitation that waits for this `state`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_invitation(state: &str) -> Option<Invitation> {
    let url: Url = "http://127.0.0.1:8914/callback".parse().ok()?;
    Some(Invitation { link: url.clone(), redirect_uri: url, state: Secret::new(state), verifier: None })
}

impl Callback {
    /// Reads the address that a browser ended on.
    #[must_use]
    pub fn from_url(url: &Url) -> Self {
        let get = |name: &str| url.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
        Self { code: get("code"), state: get("state"), error: get("error") }
    }
}

impl Auth {
    pub(super) fn connect_error(
        tenant: &Tenant,
        kind: Refused,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) -> AuthError {
        AuthError::Connect { tenant: tenant.clone(), kind, why: why.into(), hint: hint.into() }
    }

    /// The link for a tenant's consent, with the app's first callback.
    ///
    /// # Errors
    ///
    /// When the tenant has no app, the app no callback, or the scopes are too many.
    pub fn invite(&self, tenant: &Tenant) -> Result<Invitation, AuthError> {
        let app = self.config.app(tenant)?;
        let redirect_uri = app.redirect_uris.first().ok_or_else(|| {
            let hint = format!("add redirect_uris to [apps.{}], exactly as registered at the provider", app.name);
            Self::connect_error(tenant, Refused::Callback, format!("app {} has no callback address", app.name), hint)
        })?;
        self.invite_to(tenant, redirect_uri)
    }

    /// The link for a tenant's consent that ends on one of the app's callbacks.
    ///
    /// # Errors
    ///
    /// When the tenant has no app, the callback is not one of its own, or the scopes are too many.
    pub fn invite_to(&self, tenant: &Tenant, redirect_uri: &Url) -> Result<Invitation, AuthError> {
        let app = self.config.app(tenant)?;
        if !app.redirect_uris.contains(redirect_uri) {
            let hint = format!("add it to redirect_uris of [apps.{}] and register it at the provider", app.name);
            let why = format!("app {} has no callback {}", app.name, http::address(redirect_uri));
            return Err(Self::connect_error(tenant, Refused::Callback, why, hint));
        }
        let scopes = self.config.scopes(tenant)?;
        let random: [u8; 24] = rand::random();
        let state: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let mut link = app.endpoints.authorize.clone();
        link.query_pairs_mut()
            .append_pair("client_id", &app.client_id)
            .append_pair("redirect_uri", redirect_uri.as_str())
            .append_pair("response_type", "code")
            .append_pair("state", &state)
            .append_pair("scope", &scopes.joined())
            .append_pair("audience", &app.endpoints.audience)
            .append_pair("prompt", "consent");
        let verifier = app.pkce.then(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        if let Some(verifier) = &verifier {
            let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
            link.query_pairs_mut()
                .append_pair("code_challenge", &challenge)
                .append_pair("code_challenge_method", "S256");
        }
        Ok(Invitation {
            link,
            redirect_uri: redirect_uri.clone(),
            state: Secret::new(state),
            verifier: verifier.map(Secret::new),
        })
    }

    /// Seals a consent that was begun, `with` what belongs to it, for as long as it may take: whoever holds the vault's key
    /// can finish it, after a restart too.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn put_down(&self, invitation: &Invitation, with: &impl Serialize) -> Result<String, VaultError> {
        let kept = Kept {
            until: self.clock.now().plus(PATIENCE),
            link: http::address(&invitation.link),
            redirect_uri: invitation.redirect_uri.clone(),
            state: invitation.state.expose().into(),
            verifier: invitation.verifier.as_ref().map(|v| v.expose().into()),
            with,
        };
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(|_| VaultError::Sealing)?);
        Ok(self.vault.seal(UNDERWAY, &text)?.to_token())
    }

    /// What [`Auth::put_down`] sealed; `None` when it is too old, was changed, or is something else.
    #[must_use]
    pub fn take_up<T: DeserializeOwned>(&self, token: &str) -> Option<(Invitation, T)> {
        let text = self.vault.open(UNDERWAY, &Sealed::from_token(token)?).ok()?;
        let kept: Kept<'_, T> = serde_json::from_slice(&text).ok()?;
        if kept.until <= self.clock.now() {
            return None;
        }
        let invitation = Invitation {
            link: kept.link.parse().ok()?,
            redirect_uri: kept.redirect_uri,
            state: Secret::new(kept.state.into_owned()),
            verifier: kept.verifier.map(|v| Secret::new(v.into_owned())),
        };
        Some((invitation, kept.with))
    }

    /// Takes the tenant for an exchange. A consent was given, and its code lives for minutes: a sync that holds the tenant is
    /// waited for, but no longer than `patience`.
    ///
    /// # Errors
    ///
    /// [`StateError::Busy`] when it is held all the time.
    pub async fn patient_lease(&self, tenant: &Tenant, run: RunId, patience: Duration) -> Result<Lease, StateError> {
        let began = self.clock.elapsed();
        loop {
            match self.state.lease(tenant, run).await {
                Err(StateError::Busy { .. }) if self.clock.elapsed().saturating_sub(began) + LOOK <= patience => {
                    tokio::time::sleep(LOOK).await;
                }
                taken => return taken,
            }
        }
    }

    /// Waits for the browser on the callback's own port of this machine. `listening` is called once it can come: only then
    /// may the link be shown.
    ///
    /// # Errors
    ///
    /// When the callback is not on this machine, its port is taken, or nobody came in time.
    pub async fn await_callback(
        &self,
        tenant: &Tenant,
        invitation: &Invitation,
        listening: impl FnOnce(),
    ) -> Result<Callback, AuthError> {
        let uri = &invitation.redirect_uri;
        if uri.scheme() != "http" || !is_loopback(uri) {
            return Err(Self::connect_error(
                tenant,
                Refused::Callback,
                format!("the callback {uri} is not on this machine over http"),
                "use --paste and give the address on which the browser ended",
            ));
        }
        let port = uri.port_or_known_default().unwrap_or(80);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.map_err(|e| {
            Self::connect_error(
                tenant,
                Refused::Callback,
                format!("port {port} of the callback cannot be listened on ({e})"),
                "end the program that holds it, or register another callback",
            )
        })?;
        listening();
        let (sender, mut arrived) = mpsc::channel(1);
        let expected = Arc::new(invitation.state.clone());
        let router = axum::Router::new().route(uri.path(), axum::routing::get(arrive)).with_state((sender, expected));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = axum::serve(listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let waiting = async {
            let callback = tokio::time::timeout(PATIENCE, arrived.recv()).await;
            let _ = stop.send(());
            callback
        };
        let (served, callback) = tokio::join!(async { server.await }, waiting);
        if let Err(e) = served {
            tracing::debug!(error = %e, "the callback server ended");
        }
        callback.ok().flatten().ok_or_else(|| {
            Self::connect_error(tenant, Refused::NobodyCame, "nobody came back from the consent page within 15 minutes", "run the command again when a Super Admin of the customer is at hand; a page that says \"undefined\" means that the callback is not registered exactly so")
        })
    }

    /// The code of an answer that is a yes to this invitation.
    ///
    /// # Errors
    ///
    /// When the state differs, the consent was denied, or the provider refused the request.
    pub fn answered(tenant: &Tenant, invitation: &Invitation, callback: Callback) -> Result<Secret, AuthError> {
        if callback.state.as_deref() != Some(invitation.state.expose()) {
            return Err(Self::connect_error(
                tenant,
                Refused::StateMismatch,
                "the answer does not belong to this request (its `state` differs)",
                "open the link that this command printed, in one browser, and only once",
            ));
        }
        match (callback.error.as_deref(), callback.code) {
            (Some("access_denied"), _) => Err(Self::connect_error(
                tenant,
                Refused::Denied,
                "the consent was denied",
                "a Super Admin of the customer must press Accept",
            )),
            (Some(error), _) => {
                // Only what the standard names is repeated: anything may stand there.
                let named = ERRORS.iter().find(|known| **known == error);
                let why = named.map_or_else(
                    || "the provider refused the request".to_owned(),
                    |e| format!("the provider refused the request ({e})"),
                );
                let (kind, hint) = match error {
                    "server_error" | "temporarily_unavailable" => {
                        (Refused::Unavailable, "the provider has trouble: try again later")
                    }
                    "invalid_scope" => (
                        Refused::Request,
                        "every scope must be registered for the app: `hirelake connect guide` prints them as the registration form wants them",
                    ),
                    _ => (
                        Refused::Request,
                        "compare client_id, redirect_uris, audience and scopes with the app's registration",
                    ),
                };
                Err(Self::connect_error(tenant, kind, why, hint))
            }
            (None, Some(code)) if !code.is_empty() => Ok(Secret::new(code)),
            (None, _) => {
                Err(Self::connect_error(tenant, Refused::NoCode, "the answer holds no code", "run the command again"))
            }
        }
    }

    /// Exchanges a callback's code and stores the grant. The lease is the tenant's.
    ///
    /// # Errors
    ///
    /// When the consent was denied, the state differs, the code is refused, or the account is another than before or is
    /// another tenant's. What was stored before is then untouched.
    pub async fn exchange(
        &self,
        tenant: &Tenant,
        lease: &Lease,
        invitation: &Invitation,
        callback: Callback,
        force: bool,
    ) -> Result<Connected, AuthError> {
        let code = Self::answered(tenant, invitation, callback)?;
        self.may_replace(tenant, CredentialKind::OAuth, force).await?;
        let app = self.config.app(tenant)?.clone();
        let secret = app.secret()?;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", invitation.redirect_uri.as_str()),
        ];
        form.extend(invitation.verifier.as_ref().map(|v| ("code_verifier", v.expose())));
        let issued =
            token::post(&self.client, &self.token_gate(&app.name), &app, &secret, &form).await.map_err(|e| {
                let (kind, hint) = match &e {
                    TokenError::InvalidGrant => (
                        Refused::CodeRefused,
                        "the code is used, expired or of another callback: run the command again",
                    ),
                    TokenError::Unreachable(_) | TokenError::Throttled => (Refused::Unavailable, e.hint()),
                    TokenError::Unanswered(_) => {
                        (Refused::Unavailable, "the code may be used up: run the command again")
                    }
                    TokenError::Malformed => (Refused::CodeRefused, e.hint()),
                    e => (Refused::Client, e.hint()),
                };
                Self::connect_error(tenant, kind, e.to_string(), hint)
            })?;
        let offline = &self.config.provider.oauth.offline_scope;
        // An answer may leave out what is as it was asked for (RFC 6749, 5.1).
        let asked = self.config.scopes(tenant)?.list;
        let scopes = if issued.scopes.is_empty() { asked.clone() } else { issued.scopes };
        if asked.iter().any(|s| s != offline) && scopes.iter().all(|s| s == offline) {
            return Err(Self::connect_error(
                tenant,
                Refused::Audience,
                format!("only `{offline}` was granted, so nothing could be read"),
                format!(
                    "the audience of app {} is wrong or lacks its final slash, or none of the scopes is registered for the app; correct it and connect again",
                    app.name
                ),
            ));
        }
        if issued.refresh.is_none() {
            return Err(Self::connect_error(
                tenant,
                Refused::NoRefreshToken,
                format!("the provider gave no refresh token; granted: {}", scopes.join(" ")),
                format!("register the scope `{offline}` for the app and connect again"),
            ));
        }
        let tokens = Tokens { access: issued.access, refresh: issued.refresh };
        let stored = self
            .store(
                tenant,
                lease,
                CredentialKind::OAuth,
                Some(&app),
                &tokens,
                scopes.clone(),
                issued.account.clone(),
                Some(issued.expires_at),
                None,
                force,
            )
            .await;
        if let Err(error) = stored {
            self.undo(tenant, &app, &secret, &tokens, issued.account.as_deref(), &error).await;
            return Err(error);
        }
        Ok(Connected { missing: self.missing(tenant, &scopes), scopes, account: issued.account })
    }

    /// A consent for the wrong account was given by mistake: its tokens are revoked, where nobody else can be harmed. A provider
    /// may revoke everything that the app has of the account, so an account that another tenant holds is left alone, and so is
    /// one whose holder is not known.
    async fn undo(
        &self,
        tenant: &Tenant,
        app: &App,
        secret: &Secret,
        tokens: &Tokens,
        account: Option<&str>,
        error: &AuthError,
    ) {
        let AuthError::Connect { kind: Refused::WrongAccount, .. } = error else { return };
        let (Some(account), Some(refresh)) = (account, &tokens.refresh) else { return };
        if app.endpoints.revoke.is_none() {
            return;
        }
        let claim = self.state.accounts(app.environment, account).last::<Claim>().await;
        let Ok(claim) = claim else { return };
        if !matches!(self.holder(claim.as_ref(), tenant, app.environment, account).await, Ok(None)) {
            return;
        }
        match token::revoke(&self.client, &self.token_gate(&app.name), app, secret, refresh).await {
            Ok(()) => tracing::info!(%tenant, "the tokens of the wrong account were revoked"),
            Err(error) => tracing::warn!(%tenant, %error, "the tokens of the wrong account could not be revoked"),
        }
    }

    /// Scopes that the tenant's resources need and `granted` does not open; none where it is not known what was granted.
    #[must_use]
    pub fn missing(&self, tenant: &Tenant, granted: &[String]) -> Vec<String> {
        let lacks = |scope: &String| !granted.is_empty() && !crate::catalog::scopes::opens(granted, scope);
        self.config.needed_scopes(tenant).into_iter().filter(lacks).collect()
    }

    /// Whether a new credential may take the place of the stored one, unless by `force`: not before that one opens, and an
    /// API key not in the place of a consent, which says more and whose refresh token would be lost. An entry that opens with
    /// no key, because it was damaged, is no hindrance: connecting anew is what cures it.
    ///
    /// # Errors
    ///
    /// [`AuthError::Shut`] under a key that did not seal what is stored; [`Refused::OtherKind`].
    pub async fn may_replace(&self, tenant: &Tenant, kind: CredentialKind, force: bool) -> Result<(), AuthError> {
        let Some(last) = self.state.grants(tenant).last::<Grant>().await?.filter(|_| !force) else { return Ok(()) };
        let grant = last.body;
        if let Err(source @ VaultError::WrongKey { .. }) = grant.tokens(&self.vault, tenant) {
            return Err(AuthError::Shut { tenant: tenant.clone(), source });
        }
        if (grant.kind, kind) == (CredentialKind::OAuth, CredentialKind::ApiKey)
            && grant.standing != Standing::Disconnected
        {
            return Err(Self::connect_error(
                tenant,
                Refused::OtherKind,
                "it is connected by a consent, and an API key would take its place",
                format!(
                    "an API key does not say of which account it is: make sure that it is of the same one, then use --force; or `hirelake disconnect {tenant}` first, which revokes the consent"
                ),
            ));
        }
        Ok(())
    }

    /// Redeems a refresh token that was had elsewhere, and stores what it brings; whatever goes wrong, the grant that is
    /// stored stays the newest. A seed that was given before is used up: trying it again would take its family, and perhaps
    /// the stored grant with it, so that one is opened instead.
    ///
    /// # Errors
    ///
    /// When the provider refuses it, or it is of another account than before; else as [`Auth::open`].
    pub async fn seed_refresh_token(
        self: &Arc<Self>,
        tenant: &Tenant,
        lease: Arc<Lease>,
        seed: Secret,
        force: bool,
    ) -> Result<Connected, AuthError> {
        self.may_replace(tenant, CredentialKind::OAuth, force).await?;
        let app = self.config.app(tenant)?.clone();
        let former = self.state.grants(tenant).last::<Grant>().await?;
        let print = grant::print(&seed);
        let lives = |g: &Grant| !matches!(g.standing, Standing::Dead { .. } | Standing::Disconnected);
        // By force too, while something works: the provider may end the family over a token that comes twice.
        let known = former.as_ref().filter(|f| !force || lives(&f.body)).map(|f| &f.body);
        if known.is_some_and(|g| g.seeds.contains(&grant::in_vain(&print))) {
            return Err(Self::connect_error(
                tenant,
                Refused::SeedRefused,
                "this refresh token was given before, in vain",
                "it is not tried again, because a used one could end all that came of it: get a new one from where it is from, or \
                 its successor, if the first try left one beside its file; the grant that was stored before is kept",
            ));
        }
        if known.is_some_and(|g| g.seeds.contains(&print)) {
            tracing::warn!(%tenant, "this refresh token was given before and is used up; the stored grant is kept");
            let open = self.open(tenant, lease).await?.token(None).await?;
            let missing = self.missing(tenant, &open.grant.scopes);
            return Ok(Connected { missing, scopes: open.grant.scopes, account: open.grant.account });
        }
        lease.ensure_for(2 * token::POST).await?;
        let secret = app.secret()?;
        let issued = match self.redeem(&app, &secret, &seed).await {
            Ok(issued) => issued,
            Err(TokenError::InvalidGrant) => {
                self.remember_seed(tenant, former, &print).await?;
                return Err(Self::connect_error(
                    tenant,
                    Refused::SeedRefused,
                    "the provider says invalid_grant to this refresh token",
                    "it was used, revoked, or is of another client; a grant that was stored before is kept",
                ));
            }
            Err(source) => {
                return Err(AuthError::Refresh { tenant: tenant.clone(), app: app.name.clone(), source });
            }
        };
        let (scopes, account) = (issued.scopes, issued.account);
        let tokens = Tokens { access: issued.access, refresh: issued.refresh.or(Some(seed)) };
        let (kind, expires_at) = (CredentialKind::OAuth, Some(issued.expires_at));
        let stored = self
            .store(
                tenant,
                &lease,
                kind,
                Some(&app),
                &tokens,
                scopes.clone(),
                account.clone(),
                expires_at,
                Some(&print),
                force,
            )
            .await;
        if let Err(error) = stored {
            // The seed is used up, and its successor is nowhere else: whoever gave the one gets the other back.
            *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = tokens.refresh;
            if let AuthError::Connect { .. } = error {
                self.remember_seed(tenant, former, &print).await?;
            }
            return Err(error);
        }
        Ok(Connected { missing: self.missing(tenant, &scopes), scopes, account })
    }

    /// Writes the refresh token that came of a seed and could not be stored into a file beside the seed's, once: it works in
    /// its place. `None` when there is none. The name is new each time: what is there may be a link, or an earlier successor
    /// that still works.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn keep_successor(&self, seed: &Path) -> io::Result<Option<PathBuf>> {
        let taken = self.successor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(successor) = taken else { return Ok(None) };
        for n in 1..=MOST_SUCCESSORS {
            let mut name = seed.as_os_str().to_owned();
            name.push(if n == 1 { ".successor".to_owned() } else { format!(".successor.{n}") });
            let mut options = std::fs::File::options();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = match options.open(&name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened?,
            };
            file.write_all(successor.expose().as_bytes())?;
            file.sync_all()?;
            return Ok(Some(name.into()));
        }
        Err(io::Error::other("there are too many successors beside it already"))
    }

    /// Exchanges a seed for its successor, again at once when the answer was lost (reference 2.5).
    async fn redeem(&self, app: &App, secret: &Secret, seed: &Secret) -> Result<token::Issued, TokenError> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", seed.expose())];
        let gate = self.token_gate(&app.name);
        match token::post(&self.client, &gate, app, secret, &form).await {
            Err(TokenError::Unanswered(_)) => token::post(&self.client, &gate, app, secret, &form).await,
            answered => answered,
        }
    }

    /// Notes on the stored grant that a seed was tried in vain: it is no more to be tried than one that was taken, and no more is
    /// it a success.
    async fn remember_seed(&self, tenant: &Tenant, former: Option<Entry<Grant>>, print: &str) -> Result<(), AuthError> {
        if let Some(former) = former {
            self.state.grants(tenant).append(former.n, former.body.and_seed(&grant::in_vain(print))).await?;
        }
        Ok(())
    }

    fn other_account(tenant: &Tenant) -> AuthError {
        Self::connect_error(
            tenant,
            Refused::WrongAccount,
            "the grant is of another account than the one this tenant was connected to",
            "choose the right account on the consent page, use another tenant name, or --force to replace it",
        )
    }

    fn of_another_account(part: &Tenant, whole: &Tenant) -> AuthError {
        Self::connect_error(
            part,
            Refused::WrongAccount,
            format!("the grant is of another account than that of {whole}, of which it is a part"),
            format!(
                "choose the account of {whole} on the consent page; a customer of its own has no part_of in its section"
            ),
        )
    }

    /// Makes sure that a tenant and its parts are of one account. Not even by force may they differ: their rows lie in one
    /// place. Who moves to another account by force leaves his parts behind; they are not read until they follow.
    async fn of_one_account(&self, tenant: &Tenant, account: &str, force: bool) -> Result<(), AuthError> {
        let whole = self.config.whole(tenant);
        let others = std::iter::once(whole).chain(self.config.parts(whole)).filter(|t| *t != tenant);
        for other in others {
            let Some(last) = self.state.grants(other).last::<Grant>().await? else { continue };
            let gone = last.body.standing == Standing::Disconnected;
            // Of a tenant that was let go the rows may still be there; of its parts none are kept apart.
            if last.body.account.as_deref().is_none_or(|a| a == account) || (gone && other != whole) {
                continue;
            }
            if other == whole {
                return Err(Self::of_another_account(tenant, whole));
            }
            if !force {
                return Err(Self::connect_error(
                    tenant,
                    Refused::WrongAccount,
                    format!("the grant is of another account than that of {other}"),
                    format!(
                        "choose the right account on the consent page; or `hirelake disconnect {other}` first, or --force, and then connect {other} to that account too"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Stores an API key after one cheap call with it.
    ///
    /// # Errors
    ///
    /// When the provider refuses the key; what was stored before stays.
    pub async fn seed_api_key(
        self: &Arc<Self>,
        tenant: &Tenant,
        lease: Arc<Lease>,
        key: Secret,
        force: bool,
    ) -> Result<Connected, AuthError> {
        self.may_replace(tenant, CredentialKind::ApiKey, force).await?;
        let tokens = Tokens { access: key, refresh: None };
        let listing = self.config.resources(tenant).into_iter().find(|r| r.mode == Mode::Full);
        if let Some(resource) = listing {
            let grant = self.first(CredentialKind::ApiKey, None, Vec::new(), None, None);
            let session =
                self.session(tenant, lease.clone(), None, None, Some(Open { n: 0, grant, tokens: tokens.clone() }));
            let query = [("limit".to_owned(), "1".to_owned())];
            let budget = Budget { attempts: 3, ..Budget::PAGE };
            session
                .get(&resource.path, &query, Priority(0), &budget, |answer: Answer| {
                    match http::meaning(answer.status) {
                        http::Meaning::Fine | http::Meaning::Forbidden => Judged::Take(()),
                        _ => Judged::Again(format!("status {}", answer.status)),
                    }
                })
                .await?;
        }
        self.store(tenant, &lease, CredentialKind::ApiKey, None, &tokens, Vec::new(), None, None, None, force).await?;
        Ok(Connected { scopes: Vec::new(), missing: Vec::new(), account: None })
    }

    /// A grant of this moment, not sealed yet.
    fn first(
        &self,
        kind: CredentialKind,
        app: Option<&App>,
        scopes: Vec<String>,
        account: Option<String>,
        expires_at: Option<Timestamp>,
    ) -> Grant {
        let now = self.clock.now();
        Grant {
            generation: 1,
            kind,
            client_id: app.map(|a| a.client_id.clone()).unwrap_or_default(),
            environment: app.map_or(crate::catalog::Environment::Production, |a| a.environment),
            sealed: None,
            scopes,
            account,
            seeds: Vec::new(),
            connected_at: now,
            refreshed_at: now,
            expires_at,
            standing: Standing::Live { last_error: None },
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call for the three ways to connect; each argument is a field of the entry"
    )]
    async fn store(
        &self,
        tenant: &Tenant,
        lease: &Lease,
        kind: CredentialKind,
        app: Option<&App>,
        tokens: &Tokens,
        scopes: Vec<String>,
        account: Option<String>,
        expires_at: Option<Timestamp>,
        seed: Option<&str>,
        force: bool,
    ) -> Result<(), AuthError> {
        lease.ensure().await?;
        let line = self.state.grants(tenant);
        let last = line.last::<Grant>().await?;
        if let Some((stored, new)) = last.as_ref().and_then(|l| l.body.account.as_ref()).zip(account.as_ref())
            && stored != new
            && !force
        {
            return Err(Self::other_account(tenant));
        }
        if let Some(account) = &account {
            self.of_one_account(tenant, account, force).await?;
        }
        if last.as_ref().and_then(|l| l.body.account.as_ref()).is_none() || account.is_none() {
            self.compare(tenant, last.as_ref().map(|l| &l.body), kind, tokens, force).await?;
            lease.ensure().await?;
        }
        // Claimed first: a crash in between leaves an account that this tenant can still connect.
        if let (Some(app), Some(account)) = (app, &account) {
            self.claim(tenant, app.environment, account, force).await?;
        }
        let (n, generation) = last.as_ref().map_or((0, 0), |l| (l.n, l.body.generation));
        let seeds = last.as_ref().map(|l| l.body.seeds.clone()).unwrap_or_default();
        let account = account.or_else(|| last.as_ref().and_then(|l| l.body.account.clone()));
        let first = self.first(kind, app, scopes, account, expires_at);
        let mut grant = Grant { generation: generation + 1, seeds, ..first };
        if let Some(print) = seed {
            grant = grant.and_seed(print);
        }
        grant
            .seal(&self.vault, tenant, tokens)
            .map_err(|source| AuthError::Vault { tenant: tenant.clone(), source })?;
        // What it was had for is used up: a store that fails for a moment must not cost it.
        let mut tries = 0;
        let entry = loop {
            match self.try_save(&line, n, &grant).await {
                Err(StateError::Store(error)) if tries < 3 => {
                    tries += 1;
                    tracing::warn!(%tenant, %error, tries, "a new grant could not be saved; trying again");
                    tokio::time::sleep(Duration::from_millis(200 << tries)).await;
                }
                saved => break saved?,
            }
        };
        tracing::info!(%tenant, generation = entry.body.generation, "a credential was stored");
        // The new grant stands; an account that is not given back is given back by its claim's age.
        if let Err(error) = self.release_former(tenant, last.map(|l| l.body).as_ref(), &entry.body).await {
            tracing::warn!(%tenant, %error, "the former account could not be given back");
        }
        Ok(())
    }

    /// Gives back the account from which a tenant was moved by force.
    async fn release_former(&self, tenant: &Tenant, former: Option<&Grant>, now: &Grant) -> Result<(), AuthError> {
        match former {
            Some(Grant { account: Some(account), environment, .. })
                if (now.account.as_ref(), now.environment) != (Some(account), *environment) =>
            {
                account::release(&self.state, tenant, *environment, account).await
            }
            _ => Ok(()),
        }
    }
}

type Waiting = (mpsc::Sender<Callback>, Arc<Secret>);

async fn arrive(
    AxumState((sender, expected)): AxumState<Waiting>,
    Query(callback): Query<Callback>,
) -> (StatusCode, Html<&'static str>) {
    // Whoever does not know the state does not end the waiting.
    if callback.state.as_deref() != Some(expected.expose()) {
        return (
            StatusCode::BAD_REQUEST,
            Html(
                "<!doctype html><title>Hirelake</title><p>This answer does not belong to the request under way. Open the link that the command printed.",
            ),
        );
    }
    let page = if callback.error.is_some() {
        "<!doctype html><title>Hirelake</title><p>Not connected. The terminal says why; you may close this page."
    } else {
        "<!doctype html><title>Hirelake</title><p>Thank you. The terminal says whether it worked; you may close this page."
    };
    let _ = sender.try_send(callback);
    (StatusCode::OK, Html(page))
}
