//! Which tenant holds an account at the provider, and which invitations were used.
//!
//! An account is a line of claims: of two tenants that connect it at once, one makes the next entry. An invitation that was
//! used is one create-only object, named by when it would have expired, so that it can be swept.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Line, State, StateError};
use crate::catalog::Environment;
use crate::clock::Timestamp;
use crate::names::Tenant;

/// How long after its expiry the mark of a used invitation stays: clocks of two hosts differ by less.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// Who holds an account; the newest entry is the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The account's id at the provider.
    pub account: String,
    /// The tenant that holds it; `None` when it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
}

#[derive(Serialize)]
struct Used<'a> {
    tenant: &'a Tenant,
    at: Timestamp,
}

impl State {
    /// The claims on an account. Its id comes from outside, so its digest names the folder.
    #[must_use]
    pub fn accounts(&self, environment: Environment, account: &str) -> Line {
        let digest: String = Sha256::digest(account).iter().take(16).map(|b| format!("{b:02x}")).collect();
        self.line(&["accounts", &environment.to_string(), &digest])
    }

    fn invite(expires: Timestamp, id: Uuid) -> Path {
        Path::from_iter(["invites".to_owned(), format!("{:015}-{id}.json", expires.ms())])
    }

    /// Whether an invitation was used.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub async fn invite_used(&self, expires: Timestamp, id: Uuid) -> Result<bool, StateError> {
        Ok(self.store().get(&Self::invite(expires, id)).await?.is_some())
    }

    /// Marks an invitation as used, and removes the marks of those that expired long ago.
    ///
    /// # Errors
    ///
    /// When the state cannot be written.
    pub async fn use_invite(&self, expires: Timestamp, id: Uuid, tenant: &Tenant) -> Result<(), StateError> {
        let path = Self::invite(expires, id);
        let body = serde_json::to_vec(&Used { tenant, at: self.clock().now() })
            .map_err(|_| StateError::Corrupt { path: path.to_string(), why: "it cannot be written as JSON".into() })?;
        self.store().create(&path, Bytes::from(body)).await?;
        let limit = self.clock().now().minus(KEEP);
        for entry in self.store().list(&Path::from("invites")).await? {
            let expired = entry.path.filename().and_then(|n| n.split('-').next()).and_then(|n| n.parse().ok());
            if expired.is_some_and(|ms| Timestamp::from_ms(ms) < limit) {
                self.store().remove(&entry.path).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;

    #[tokio::test(start_paused = true)]
    async fn a_used_invitation_is_known_until_a_day_after_its_expiry() {
        let now = Timestamp::from_ms(1_700_000_000_000);
        let state = State::new(Store::memory(), Clock::starting_at(now));
        let (acme, first, second) = ("acme".parse().unwrap(), Uuid::now_v7(), Uuid::now_v7());
        let expires = now.plus(Duration::from_secs(3600));
        assert!(!state.invite_used(expires, first).await.unwrap());
        state.use_invite(expires, first, &acme).await.unwrap();
        assert!(state.invite_used(expires, first).await.unwrap());
        assert!(!state.invite_used(expires, second).await.unwrap());
        tokio::time::advance(Duration::from_secs(24 * 3600)).await;
        state.use_invite(expires, second, &acme).await.unwrap();
        assert!(state.invite_used(expires, first).await.unwrap());
        tokio::time::advance(Duration::from_secs(2 * 3600)).await;
        let later = state.clock().now();
        state.use_invite(later, Uuid::now_v7(), &acme).await.unwrap();
        assert!(!state.invite_used(expires, first).await.unwrap());
    }
}
