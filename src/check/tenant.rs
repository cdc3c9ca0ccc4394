//! The tenants: whether the vault key opens their grants, and what the provider says to each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;

use super::{Check, Outcome, count};
use crate::auth::vault::VaultError;
use crate::auth::{Auth, AuthError, CredentialKind, Grant, Session, Standing};
use crate::catalog::{Mode, Resource, scopes};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::extract::{self, ExtractError};
use crate::http::{Asked, Cause, Symptom};
use crate::names::{RunId, Tenant};
use crate::report::ExitCode;
use crate::state::{Lease, State, StateError};
use crate::sync::SyncError;

/// A clock that is off by more than this is told: windows end behind the provider's clock, and tokens are judged by ours.
const SKEW_TOLD: Duration = Duration::from_secs(30);
/// A clock that is off by more than this fails: a token's margin is as long.
const SKEW_TOO_MUCH: Duration = Duration::from_secs(300);
/// Resources of one tenant that are asked for at once; its gate keeps the rate.
const AT_ONCE: usize = 4;
/// Entries of the state that are read at once.
const READ_AT_ONCE: usize = 16;
/// Tenants named in one sentence.
const NAMED: usize = 5;

/// Every tenant that there is, or those of `only`.
pub(super) async fn all(
    config: &Arc<Config>,
    state: &State,
    auth: Option<&Arc<Auth>>,
    clock: Clock,
    only: &[Tenant],
) -> Vec<Check> {
    let tenants = if only.is_empty() {
        match state.tenants().await {
            Ok(connected) => {
                let all: BTreeSet<Tenant> = config.named_tenants().cloned().chain(connected).collect();
                all.into_iter().collect()
            }
            Err(e) => return vec![Check::met("tenants", "all", &e.into())],
        }
    } else {
        only.to_vec()
    };
    let reading = tenants.into_iter().map(|tenant| async move {
        let grant = state.grants(&tenant).last::<Grant>().await.map(|e| e.map(|e| e.body));
        (tenant, grant)
    });
    let grants: Vec<_> = futures::stream::iter(reading).buffered(READ_AT_ONCE).collect().await;

    let mut checks = Vec::new();
    let any = grants.iter().any(|(_, g)| !matches!(g, Ok(None)));
    if !any && only.is_empty() {
        let what = "no tenant is connected yet, so neither grants nor the provider were tried";
        let hint = Some("`hirelake connect TENANT` connects one".to_owned());
        checks.push(Check { hint, ..Check::skipped("tenants", "all", what) });
    }
    let Some(auth) = auth else {
        if any {
            checks.push(Check::skipped("tenants", "all", "not looked at, because the vault key cannot be had"));
        }
        return checks;
    };
    let mut opened = Vec::new();
    let mut sealed = Sealed::default();
    for (tenant, grant) in grants {
        match grant {
            Ok(Some(grant)) => {
                if sealed.opens(auth, &tenant, &grant) {
                    opened.push((tenant, grant));
                }
            }
            Ok(None) if any || !only.is_empty() => {
                let error = AuthError::NotConnected { tenant: tenant.clone() };
                checks.push(Check::met("grant", tenant, &error.into()));
            }
            Ok(None) => {}
            Err(e) => checks.push(Check::met("grant", tenant, &e.into())),
        }
    }
    checks.extend(sealed.checks(auth, opened.len()));
    let doctor = Doctor { config, state, auth, clock };
    let looking: Vec<_> = opened.iter().map(|(tenant, grant)| doctor.tenant(tenant, grant)).collect();
    checks.extend(futures::stream::iter(looking).buffered(config.tenants_at_once).concat().await);
    checks
}

/// What does not open. A wrong key is one mistake, however many grants it leaves shut.
#[derive(Default)]
struct Sealed {
    wrong_key: BTreeMap<String, Vec<Tenant>>,
    damaged: Vec<Check>,
}

impl Sealed {
    fn opens(&mut self, auth: &Auth, tenant: &Tenant, grant: &Grant) -> bool {
        match grant.tokens(auth.vault(), tenant) {
            Ok(_) => return true,
            Err(e @ VaultError::WrongKey { .. }) => {
                self.wrong_key.entry(e.to_string()).or_default().push(tenant.clone());
            }
            Err(source) => {
                let error = AuthError::Vault { tenant: tenant.clone(), source };
                self.damaged.push(Check::met("vault", tenant, &error.into()));
            }
        }
        false
    }

    fn checks(self, auth: &Auth, opened: usize) -> Vec<Check> {
        let mut checks = Vec::new();
        for (error, tenants) in self.wrong_key {
            let (what, hint) = error.split_once("\nhint: ").unwrap_or((&error, ""));
            let mut names: Vec<&str> = tenants.iter().take(NAMED).map(Tenant::as_str).collect();
            if tenants.len() > NAMED {
                names.push("…");
            }
            let what =
                format!("grants do not open, of {} ({}): {what}", count(tenants.len(), "tenant"), names.join(", "));
            checks.push(Check::fail("vault", "key", ExitCode::Configuration, what, hint));
        }
        if checks.is_empty() {
            let what = format!("the key {} opens the grants of {}", auth.vault().key_id(), count(opened, "tenant"));
            checks.push(Check::ok("vault", "key", what));
        }
        checks.extend(self.damaged);
        checks
    }
}

struct Doctor<'a> {
    config: &'a Arc<Config>,
    state: &'a State,
    auth: &'a Arc<Auth>,
    clock: Clock,
}

impl Doctor<'_> {
    async fn tenant(&self, tenant: &Tenant, grant: &Grant) -> Vec<Check> {
        match &grant.standing {
            Standing::Dead { since, why } => {
                let error = AuthError::Dead { tenant: tenant.clone(), since: *since, why: why.clone() };
                return vec![Check::met("grant", tenant, &error.into())];
            }
            Standing::Disconnected => {
                let hint = Some(format!("`hirelake connect {tenant}` connects it again"));
                return vec![Check { hint, ..Check::skipped("grant", tenant, "it was disconnected") }];
            }
            _ => {}
        }
        let lease = match self.state.lease(tenant, RunId::new()).await {
            Ok(lease) => Arc::new(lease),
            Err(e @ StateError::Busy { .. }) => {
                let check = Check::met("grant", tenant, &e.into());
                return vec![Check { outcome: Outcome::Skipped, code: None, ..check }];
            }
            Err(e) => return vec![Check::met("grant", tenant, &e.into())],
        };
        let checks = tokio::select! {
            lost = lease.keep() => vec![Check::met("grant", tenant, &lost.into())],
            checks = self.held(tenant, lease.clone()) => checks,
        };
        self.auth.settled(tenant).await;
        if let Some(lease) = Arc::into_inner(lease)
            && let Err(error) = lease.release().await
        {
            tracing::warn!(%tenant, %error, "the lease could not be given back; it ends by itself");
        }
        checks
    }

    async fn held(&self, tenant: &Tenant, lease: Arc<Lease>) -> Vec<Check> {
        let session = match self.auth.open(tenant, lease).await {
            Ok(session) => session,
            Err(e) => return vec![Check::met("grant", tenant, &e.into())],
        };
        // A refresh may have made it another.
        let grant = match self.state.grants(tenant).last::<Grant>().await {
            Ok(Some(entry)) => entry.body,
            Ok(None) => {
                return vec![Check::met("grant", tenant, &AuthError::NotConnected { tenant: tenant.clone() }.into())];
            }
            Err(e) => return vec![Check::met("grant", tenant, &e.into())],
        };
        let kind = match grant.kind {
            CredentialKind::ApiKey => "API key",
            _ => "grant",
        };
        let what =
            format!("{kind} opened; connected {}, renewed {}", minute(grant.connected_at), minute(grant.refreshed_at));
        let mut checks = vec![Check::ok("grant", tenant, what)];
        if grant.kind == CredentialKind::OAuth {
            checks.extend(self.scopes(tenant, &grant));
        }
        let asked = self.resources(tenant, &session).await;
        // What the provider says of the grant beats what we know of it.
        checks.retain(|c| c.name != "grant" || !asked.iter().any(|a| a.name == "grant"));
        checks.extend(asked);
        checks.extend(self.skew(tenant, &session));
        checks
    }

    /// Granted scopes against needed ones.
    fn scopes(&self, tenant: &Tenant, grant: &Grant) -> Option<Check> {
        if let Err(e) = self.config.scopes(tenant) {
            return Some(Check::met("scopes", tenant, &e.into()));
        }
        if grant.scopes.is_empty() {
            return None;
        }
        let needed = self.config.needed_scopes(tenant);
        let offline = &self.config.provider.oauth.offline_scope;
        if needed.len() > 1 && grant.scopes.iter().all(|s| s == offline) {
            let hint = Symptom::OnlyOffline.hint(&Asked::default());
            let what = format!("nothing but `{offline}` was granted");
            return Some(Check::fail("scopes", tenant, ExitCode::Configuration, what, hint));
        }
        let missing: Vec<&str> =
            needed.iter().filter(|s| !scopes::opens(&grant.scopes, s)).map(String::as_str).collect();
        if missing.is_empty() {
            return Some(Check::ok(
                "scopes",
                tenant,
                format!("all {} that its resources need are granted", needed.len()),
            ));
        }
        let what = format!("needed and not granted: {}", missing.join(" "));
        let hint = format!(
            "they were missing from the consent: see that they are registered for the app at the provider, then let the customer connect again: `hirelake connect {tenant}`; or leave their resources out"
        );
        Some(self.unless_named(tenant, Check::fail("scopes", tenant, ExitCode::Partial, what, hint)))
    }

    /// What is not granted fails a sync only when somebody named it.
    fn unless_named(&self, tenant: &Tenant, check: Check) -> Check {
        if self.config.tenant(tenant).resources_named {
            return check;
        }
        Check { outcome: Outcome::Warn, code: None, ..check }
    }

    /// One cheap call for each resource that has a path of its own. The first is made alone: what is wrong with the app, the
    /// grant or the network is not asked for again.
    async fn resources(&self, tenant: &Tenant, session: &Session) -> Vec<Check> {
        let enabled = self.config.resources(tenant);
        let (mut checks, mut calls) = (Vec::new(), Vec::new());
        for r in &enabled {
            let target = format!("{tenant}/{}", r.name);
            // As a sync: what nobody named is read where its scope happens to be granted.
            let known = |s: &str| session.knows_scope(s);
            if !self.config.tenant(tenant).asks_for(r) && !r.scope.as_deref().is_some_and(known) {
                continue;
            }
            match r.scope.as_deref().filter(|s| !session.has_scope(s)) {
                Some(scope) => {
                    checks.push(Check::skipped(
                        "resource",
                        target,
                        format!("it needs the scope {scope}, which is not granted"),
                    ));
                }
                // Children have no listing that could be asked for a row.
                None if r.mode.parent().is_some() => {}
                None => calls.push((*r, along(session, &enabled, r))),
            }
        }
        let mut calls = calls.into_iter();
        let Some((first, expands)) = calls.next() else { return checks };
        let end = self.peek(session, first, &expands).await;
        let hopeless = match &end {
            Err(ExtractError::WrongHost { .. }) => true,
            // The limit is the account's: one that stays used up is so for all.
            Err(ExtractError::Auth(AuthError::Http(e))) => match e.cause {
                Cause::Status(status) => status == 429,
                Cause::Nonsense(_) => false,
                _ => true,
            },
            Err(ExtractError::Auth(_)) => true,
            _ => false,
        };
        if hopeless {
            checks.push(match end {
                Err(e @ (ExtractError::WrongHost { .. } | ExtractError::Auth(_))) if !is_http(&e) => {
                    Check::met("grant", tenant, &e.into())
                }
                end => self.resource(tenant, first, &expands, end),
            });
            let what = "not asked for, because what went wrong with the first concerns all";
            checks.extend(calls.map(|(r, _)| Check::skipped("resource", format!("{tenant}/{}", r.name), what)));
            return checks;
        }
        let rest = calls.map(|(r, expands)| async move {
            let end = self.peek(session, r, &expands).await;
            (r, expands, end)
        });
        let mut ends = vec![(first, expands, end)];
        ends.extend(futures::stream::iter(rest.collect::<Vec<_>>()).buffered(AT_ONCE).collect::<Vec<_>>().await);
        if ends.len() > 1 && ends.iter().all(|(.., end)| matches!(end, Err(ExtractError::NotFound { .. }))) {
            let base = &self.config.endpoints(tenant).api_base;
            let what = format!("none of its {} resources is there (404 on every path below {base})", ends.len());
            let hint = "the app's api_base is wrong: leave it out, or copy it from the provider's documentation, version included";
            checks.push(Check::fail("resource", tenant, ExitCode::Configuration, what, hint));
            return checks;
        }
        checks.extend(ends.into_iter().map(|(r, expands, end)| self.resource(tenant, r, &expands, end)));
        checks
    }

    /// Asks as a sync would; where that is refused, once more without what comes along, to say which of the two it was.
    async fn peek(&self, session: &Session, r: &Resource, expands: &[String]) -> Result<(), ExtractError> {
        let until = self.clock.now();
        let end = extract::peek(session, r, expands, until).await;
        if let Err(ExtractError::Forbidden { tenant, resource, path, .. }) = &end
            && !expands.is_empty()
            && extract::peek(session, r, &[], until).await.is_ok()
        {
            let hint = format!(
                "{resource} alone may be read, and not with what comes with it ({0}): give the key or the app the permission for {0}, or leave them out of the tenant's resources",
                expands.join(", ")
            );
            let (tenant, resource, path) = (tenant.clone(), resource.clone(), path.clone());
            return Err(ExtractError::Forbidden { tenant, resource, path, hint });
        }
        end
    }

    fn resource(&self, tenant: &Tenant, r: &Resource, expands: &[String], end: Result<(), ExtractError>) -> Check {
        let target = format!("{tenant}/{}", r.name);
        match end {
            Ok(()) if expands.is_empty() => Check::ok("resource", target, "answers"),
            Ok(()) => Check::ok("resource", target, format!("answers, with {}", expands.join(" and "))),
            Err(e @ ExtractError::Forbidden { .. }) => {
                self.unless_named(tenant, Check::met("resource", target, &SyncError::from(e)))
            }
            Err(e) => Check::met("resource", target, &e.into()),
        }
    }

    /// Our clock against the provider's, once it has answered.
    fn skew(&self, tenant: &Tenant, session: &Session) -> Option<Check> {
        let (ours, theirs) = (self.clock.now(), session.provider_now()?);
        let off = ours.since(theirs).max(theirs.since(ours));
        if off <= SKEW_TOLD {
            return Some(Check::ok("clock", tenant, "this machine's clock agrees with the provider's"));
        }
        let word = if ours > theirs { "ahead of" } else { "behind" };
        let what = format!("this machine's clock is {:.0} s {word} the provider's", off.as_secs_f64());
        let hint = "let the machine's clock be set from the network (NTP): lives of tokens are judged by it";
        Some(if off > SKEW_TOO_MUCH {
            Check::fail("clock", tenant, ExitCode::Configuration, what, hint)
        } else {
            Check::warn("clock", tenant, what, hint)
        })
    }
}

fn is_http(error: &ExtractError) -> bool {
    matches!(error, ExtractError::Auth(AuthError::Http(_)))
}

/// What a sync asks for in line with `r`'s records: the fields that other enabled resources are taken out of.
fn along(session: &Session, enabled: &[&Resource], r: &Resource) -> Vec<String> {
    let granted = |c: &Resource, field: &str| {
        let expand = r.expand.iter().find(|e| e.name == *field);
        let scope = c.scope.as_deref().or_else(|| expand.and_then(|e| e.scope.as_deref()));
        scope.is_none_or(|s| session.has_scope(s))
    };
    let fields = enabled.iter().filter_map(|c| match &c.mode {
        Mode::Extracted { from, field } if *from == r.name && granted(c, field) => Some(field.clone()),
        _ => None,
    });
    fields.collect()
}

fn minute(t: Timestamp) -> String {
    t.to_string().get(..16).unwrap_or_default().replace('T', " ")
}
