//! A tenant is let go: its grant is revoked at the provider where that can be done, and its tokens are forgotten in any case.

use super::spool::Spool;
use super::{Auth, AuthError, CredentialKind, Grant, Standing, account, token};
use crate::config::Config;
use crate::names::Tenant;
use crate::state::{Claim, Lease, State};

/// What became of the grant at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The provider took it back.
    Done,
    /// Only the customer can delete an API key.
    ApiKey,
    /// It was left alone: another tenant is connected to the same account, and a provider may end both together.
    Shared {
        /// The other one.
        other: Tenant,
    },
    /// It could not be revoked; it may still be there.
    Not {
        /// Why.
        why: String,
    },
}

impl Auth {
    /// Revokes the tenant's newest grant at the provider. Best effort: the tokens are to be forgotten whatever comes of it.
    ///
    /// # Errors
    ///
    /// When the state cannot be read, or nothing is stored.
    pub async fn revoke(&self, tenant: &Tenant) -> Result<Revoked, AuthError> {
        let line = self.state.grants(tenant);
        // What an earlier run received and could not save is the newest there is.
        if let Err(error) = self.adopt(tenant, &line).await {
            tracing::warn!(%tenant, %error, "tokens that wait on this machine could not be looked at");
        }
        let entry = line.last::<Grant>().await?;
        let grant = entry.ok_or_else(|| AuthError::NotConnected { tenant: tenant.clone() })?.body;
        if grant.kind == CredentialKind::ApiKey {
            return Ok(Revoked::ApiKey);
        }
        let not = |why: String| Ok(Revoked::Not { why });
        let sentence = |e: &dyn std::error::Error| e.to_string().lines().next().unwrap_or_default().to_owned();
        let app = match self.config.app(tenant) {
            Ok(app) if app.client_id == grant.client_id && app.environment == grant.environment => app,
            Ok(app) => return not(format!("it is of another client than app {}", app.name)),
            Err(e) => return not(sentence(&e)),
        };
        if app.endpoints.revoke.is_none() {
            return not(format!("app {} has no address for it", app.name));
        }
        let refresh = match grant.tokens(&self.vault, tenant) {
            Ok(tokens) => tokens.and_then(|t| t.refresh),
            Err(e) => return not(sentence(&e)),
        };
        let Some(refresh) = refresh else { return not("there is no refresh token".into()) };
        // A provider may end everything that the app has of the account with it (reference 2.8), so not under another tenant.
        if let Some(account) = &grant.account {
            let claim = self.state.accounts(app.environment, account).last::<Claim>().await?;
            if let Some(other) = self.holder(claim.as_ref(), tenant, app.environment, account).await? {
                return Ok(Revoked::Shared { other });
            }
        }
        let secret = match app.secret() {
            Ok(secret) => secret,
            Err(e) => return not(sentence(&e)),
        };
        match token::revoke(&self.client, &self.token_gate(&app.name), app, &secret, &refresh).await {
            Ok(()) => Ok(Revoked::Done),
            // Dead already, which is what was wanted.
            Err(token::TokenError::InvalidGrant) => Ok(Revoked::Done),
            Err(e) => not(sentence(&e).replace("the token endpoint", "the endpoint for it")),
        }
    }
}

/// Forgets what waits on this machine, ends the tenant's line with a generation without tokens (with `forget_account`, without the
/// account too), overwrites what older entries hold, and gives the account back. Needs no key. `false` when it was ended already; what an interrupted forgetting left is forgotten then too.
///
/// # Errors
///
/// When the state cannot be read or written; running it again goes on.
pub async fn forget(
    config: &Config,
    state: &State,
    tenant: &Tenant,
    lease: &Lease,
    forget_account: bool,
) -> Result<bool, AuthError> {
    let line = state.grants(tenant);
    let last = line.last::<Grant>().await?.ok_or_else(|| AuthError::NotConnected { tenant: tenant.clone() })?;
    lease.ensure().await?;
    if let Some(spool) = Spool::of(config, state, tenant) {
        spool.clear().await;
    }
    let former = last.body.clone();
    let kept = former.account.clone().filter(|_| !forget_account);
    let (held, environment) = (former.account.clone(), former.environment);
    let mut end = Grant { sealed: None, expires_at: None, standing: Standing::Disconnected, account: kept, ..former };
    let ended = last.body == end;
    let newest = if ended {
        last
    } else {
        end.generation += 1;
        line.append(last.n, end).await?
    };
    line.forget_older(&newest).await?;
    if let Some(held) = held {
        account::release(state, tenant, environment, &held).await?;
    }
    Ok(!ended)
}
