//! Invitations: a link that says for which tenant it is and until when, sealed, so that nobody can make or change one.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::ConnectError;
use crate::auth::vault::{Sealed, Vault, VaultError};
use crate::catalog::is_loopback;
use crate::clock::Timestamp;
use crate::config::{App, Config};
use crate::names::Tenant;

/// What an invitation is sealed for.
const PLACE: &str = "connect/invite";
/// Longest token that is looked at; ours have about 300 letters.
const MAX_LEN: usize = 1024;

/// Lets whoever holds it connect one tenant, once, until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Whom it connects.
    pub tenant: Tenant,
    /// Marked in the state when it was used.
    pub id: Uuid,
    /// Until when it can be used.
    pub expires: Timestamp,
    /// Whether another account than before may be connected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl Invite {
    /// A new one.
    #[must_use]
    pub fn new(tenant: Tenant, expires: Timestamp, force: bool) -> Self {
        Self { tenant, id: Uuid::now_v7(), expires, force }
    }

    /// The last part of its link.
    ///
    /// # Errors
    ///
    /// When sealing fails.
    pub fn token(&self, vault: &Vault) -> Result<String, VaultError> {
        let text = serde_json::to_vec(self).map_err(|_| VaultError::Sealing)?;
        Ok(vault.seal(PLACE, &text)?.to_token())
    }

    /// Reads a token; `None` when it is none of ours.
    #[must_use]
    pub fn from_token(vault: &Vault, token: &str) -> Option<Self> {
        if token.len() > MAX_LEN {
            return None;
        }
        let text = vault.open(PLACE, &Sealed::from_token(token)?).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// Where customers find the page, and where the provider sends them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// What every address of ours begins with; ends in a slash.
    pub base: Url,
    /// One of the app's registered callbacks, on the same origin.
    pub callback: Url,
}

impl Door {
    /// The door of an app: at the public address, or, where none is configured, on this machine.
    ///
    /// # Errors
    ///
    /// When none of the app's callbacks leads here.
    pub fn of(config: &Config, listen: SocketAddr, app: &App) -> Result<Self, ConnectError> {
        let no_callback = |wanted: &str, also: &str| ConnectError::Callback {
            app: app.name.clone(),
            wanted: wanted.to_owned(),
            hint: format!(
                "register {wanted} as a callback of app {0} at the provider and add it to redirect_uris of [apps.{0}]{also}",
                app.name
            ),
        };
        let door = match &config.connect.public_url {
            Some(base) => {
                let here = || app.redirect_uris.iter().filter(|uri| uri.origin() == base.origin());
                let callback = here().find(|uri| uri.path().starts_with(base.path())).or_else(|| here().next());
                let callback = callback.ok_or_else(|| no_callback(&format!("{base}callback"), ""))?;
                Self { base: base.clone(), callback: callback.clone() }
            }
            None => {
                let port = listen.port();
                let mut uris = app.redirect_uris.iter();
                let callback = uris
                    .find(|u| u.scheme() == "http" && is_loopback(u) && u.port_or_known_default() == Some(port))
                    .ok_or_else(|| {
                        let also = ", or set [connect] public_url to where customers reach the page";
                        no_callback(&format!("http://localhost:{port}/callback"), also)
                    })?;
                // The cookie is bound to the host's name, so the links bear the callback's.
                let mut base = callback.clone();
                base.set_path("/");
                base.set_query(None);
                base.set_fragment(None);
                Self { base, callback: callback.clone() }
            }
        };
        let below = door.callback.path().strip_prefix(door.base.path());
        let ours = |p: &str| ["", "healthz", "style.css", "connected"].contains(&p) || p.starts_with("invite/");
        // Proxies ask for this one whatever the base is.
        if below.is_some_and(ours) || door.callback.path() == "/healthz" {
            return Err(no_callback(
                &format!("{}callback", door.base),
                &format!(" in place of {}, which is a page of its own", door.callback),
            ));
        }
        Ok(door)
    }
}

/// The link to send to a customer.
///
/// # Errors
///
/// When the tenant has no app, its scopes are too many, or no callback of the app leads to the page.
pub fn link(
    config: &Config,
    vault: &Vault,
    listen: SocketAddr,
    now: Timestamp,
    tenant: &Tenant,
    life: Duration,
    force: bool,
) -> Result<Url, ConnectError> {
    config.scopes(tenant)?;
    let door = Door::of(config, listen, config.app(tenant)?)?;
    let token = Invite::new(tenant.clone(), now.plus(life), force).token(vault)?;
    Ok(below(&door.base, &format!("invite/{token}")))
}

/// An address of ours.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path()));
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn vault(byte: &str) -> Vault {
        Vault::new(&Secret::new(byte.repeat(32))).unwrap()
    }

    #[test]
    fn a_token_opens_as_it_was_made_and_no_other_does() {
        let vault = vault("07");
        let invite = Invite::new("acme".parse().unwrap(), Timestamp::from_ms(1_800_000_000_000), true);
        let token = invite.token(&vault).unwrap();
        assert_eq!(Invite::from_token(&vault, &token), Some(invite.clone()));
        assert!(token.len() < 400 && !token.contains("acme"), "{token}");
        assert_eq!(Invite::from_token(&super::tests::vault("08"), &token), None);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last letter's low bits are no part of the text.
            let same = changed.len() == token.len() && at + 1 == token.len();
            assert!(same || Invite::from_token(&vault, &changed).is_none(), "changed at {at}");
            assert!(Invite::from_token(&vault, &token[..at]).is_none(), "cut at {at}");
        }
        // What is sealed for something else is no invitation.
        let text = serde_json::to_vec(&invite).unwrap();
        assert_eq!(Invite::from_token(&vault, &vault.seal("connect/underway", &text).unwrap().to_token()), None);
        assert_eq!(Invite::from_token(&vault, &"A".repeat(100_000)), None);
    }
}
