//! What the state says about a tenant's credential: one cumulative line of entries, the tokens sealed in them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use sha2::{Digest as _, Sha256};

use super::vault::{Sealed, Vault, VaultError};
use crate::catalog::{Environment, OAuthFacts};
use crate::clock::Timestamp;
use crate::names::{RunId, Tenant};
use crate::secret::Secret;

/// Seeds remembered: a customer is connected anew once a year.
const SEEDS: usize = 16;

/// Which kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// OAuth authorization code, with a refresh token that rotates.
    OAuth,
    /// An API key of the customer's own.
    ApiKey,
}

/// How a grant stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Standing {
    /// It works, as far as is known.
    Live {
        /// What the last refresh met, when it failed without harm.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_error: Option<String>,
    },
    /// An intent: a refresh was begun. Found by another run it means that the answer may be lost.
    Refreshing {
        /// By whom.
        run: RunId,
    },
    /// A refresh may have reached the provider and its answer is not known.
    Uncertain {
        /// Since when.
        since: Timestamp,
        /// What was met.
        why: String,
        /// The provider said `invalid_grant` while it said so to all tenants of the app: the app is suspected, so this is
        /// no death yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refused: bool,
    },
    /// The provider said `invalid_grant`: the customer must connect again.
    Dead {
        /// Since when.
        since: Timestamp,
        /// What the provider said.
        why: String,
    },
    /// The tenant was disconnected.
    Disconnected,
}

/// One entry of a tenant's line; the newest is the whole truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Grows with every new set of tokens; never restarts.
    pub generation: u64,
    /// Which kind.
    pub kind: CredentialKind,
    /// The client under which the tenant connected; empty for API keys.
    pub client_id: String,
    /// The environment under which the tenant connected.
    pub environment: Environment,
    /// The tokens, sealed for this tenant, generation, client and environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// Scopes that the customer granted; empty when not known (API keys, a seed not yet refreshed).
    pub scopes: Vec<String>,
    /// The customer's account at the provider, where the token says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Prints of refresh tokens that were given as seeds: one that comes again is not tried again, because it is used up and
    /// would take the whole family with it. Those that were tried in vain begin with `in-vain/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<String>,
    /// First consent.
    pub connected_at: Timestamp,
    /// Last successful refresh (or the consent).
    pub refreshed_at: Timestamp,
    /// When the access token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How it stands.
    pub standing: Standing,
}

/// The tokens of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    /// Sent with requests; the API key for that kind. Empty in a seed that was never refreshed.
    pub access: Secret,
    /// Exchanged for the next generation.
    pub refresh: Option<Secret>,
}

impl Tokens {
    /// Tells one refresh token from another without saying it; `None` where there is none.
    pub(super) fn print(&self) -> Option<String> {
        self.refresh.as_ref().map(print)
    }
}

/// Tells one token from another without saying it: 64 bits of a hash of what nobody can guess.
pub(super) fn print(token: &Secret) -> String {
    let digest = Sha256::new().chain_update(b"hirelake token").chain_update(token.expose()).finalize();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// How a seed's print is kept when nothing came of it.
pub(super) fn in_vain(print: &str) -> String {
    format!("in-vain/{print}")
}

#[derive(Serialize, Deserialize)]
struct Plain<'a> {
    access: std::borrow::Cow<'a, str>,
    refresh: Option<std::borrow::Cow<'a, str>>,
}

/// Days before the hard limit from which it is announced: from day 330 of a year's grant.
pub const HARD_NOTICE: Duration = days(35);

const fn days(n: u32) -> Duration {
    Duration::from_secs(n as u64 * 86_400)
}

impl Grant {
    /// When it dies if it is not used; `None` where nothing can die.
    #[must_use]
    pub fn idle_deadline(&self, facts: &OAuthFacts) -> Option<Timestamp> {
        self.can_die().then(|| self.refreshed_at.plus(days(facts.idle_days)))
    }

    /// When it dies whatever happens, as far as is known; `None` where nothing can die. Whether the provider counts from the
    /// consent is not known: a grant that was refreshed after that day shows that it does not.
    #[must_use]
    pub fn hard_deadline(&self, facts: &OAuthFacts) -> Option<Timestamp> {
        let end = self.connected_at.plus(days(facts.hard_days));
        (self.can_die() && self.refreshed_at < end).then_some(end)
    }

    fn can_die(&self) -> bool {
        self.kind == CredentialKind::OAuth && !matches!(self.standing, Standing::Dead { .. } | Standing::Disconnected)
    }

    /// The same, knowing one seed more.
    pub(super) fn and_seed(mut self, print: &str) -> Self {
        if !self.seeds.iter().any(|s| s == print) {
            self.seeds.push(print.to_owned());
        }
        let surplus = self.seeds.len().saturating_sub(SEEDS);
        self.seeds.drain(..surplus);
        self
    }

    /// What its tokens are bound to.
    fn place(&self, tenant: &Tenant) -> String {
        format!("grants/{tenant}/{}/{}/{}", self.generation, self.environment, self.client_id)
    }

    /// Puts `tokens` into the entry, sealed for its generation.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn seal(&mut self, vault: &Vault, tenant: &Tenant, tokens: &Tokens) -> Result<(), VaultError> {
        let plain = Plain {
            access: tokens.access.expose().into(),
            refresh: tokens.refresh.as_ref().map(|r| r.expose().into()),
        };
        let text = Zeroizing::new(serde_json::to_vec(&plain).map_err(|_| VaultError::Sealing)?);
        self.sealed = Some(vault.seal(&self.place(tenant), &text)?);
        Ok(())
    }

    /// The tokens; `None` after a disconnect.
    ///
    /// # Errors
    ///
    /// When the key is another, or the entry does not belong here.
    pub fn tokens(&self, vault: &Vault, tenant: &Tenant) -> Result<Option<Tokens>, VaultError> {
        let Some(sealed) = &self.sealed else { return Ok(None) };
        let text = vault.open(&self.place(tenant), sealed)?;
        let plain: Plain<'_> = serde_json::from_slice(&text).map_err(|_| VaultError::Damaged)?;
        Ok(Some(Tokens {
            access: Secret::new(plain.access.into_owned()),
            refresh: plain.refresh.map(|r| Secret::new(r.into_owned())),
        }))
    }
}
