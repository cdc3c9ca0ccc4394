//! The vault's key is changed: everything that a former key sealed is sealed anew, then the old is swept.
//!
//! Guarantees: each tenant under its lease; the new is durable before the old is removed; interrupted anywhere it is done
//! again, and skips what is done. A former key opens the same refresh token as long as one entry holds it, so nothing that it
//! sealed is left: not in the line below the newest entry, not half written. Asks the provider nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use serde::Serialize;

use super::vault::{Sealed, VaultError};
use super::{Auth, AuthError, Grant, Standing};
use crate::names::Tenant;

/// What was done for one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// Whether its grant was sealed anew.
    pub grant: bool,
    /// Records in quarantine that were sealed anew.
    pub quarantined: u64,
    /// Old entries removed.
    pub swept: u64,
}

/// What one key sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Holdings {
    /// Tenants whose grant it sealed.
    pub grants: u64,
    /// Entries before the newest.
    pub older_entries: u64,
    /// Records in quarantine.
    pub quarantined: u64,
    /// Entries with the key of the pseudonyms.
    #[serde(skip_serializing_if = "is_zero")]
    pub pseudonyms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Auth {
    /// Every tenant that may have something sealed, besides `known` ones.
    ///
    /// # Errors
    ///
    /// When the state cannot be listed.
    pub async fn sealed_tenants(&self, known: Vec<Tenant>) -> Result<Vec<Tenant>, AuthError> {
        let mut all: BTreeSet<Tenant> = known.into_iter().collect();
        all.extend(self.state.quarantined_tenants().await?);
        Ok(all.into_iter().collect())
    }

    /// Seals anew what former keys sealed, several tenants side by side. A tenant that another run holds is left for the
    /// next time.
    pub async fn rotate(self: &Arc<Self>, tenants: &[Tenant]) -> BTreeMap<Tenant, Result<Rotated, AuthError>> {
        let one = |tenant: Tenant| {
            let auth = self.clone();
            async move {
                let done = auth.rotate_tenant(&tenant).await;
                (tenant, done)
            }
        };
        futures::stream::iter(tenants.to_vec()).map(one).buffer_unordered(self.config.tenants_at_once).collect().await
    }

    async fn rotate_tenant(&self, tenant: &Tenant) -> Result<Rotated, AuthError> {
        let lease = self.state.lease(tenant, self.run).await?;
        let done = tokio::select! {
            lost = lease.keep() => Err(lost.into()),
            done = async {
                let mut done = self.rotate_grant(tenant, &lease).await?;
                done.quarantined = self.rotate_quarantine(tenant, &lease).await?;
                Ok(done)
            } => done,
        };
        if let Err(error) = lease.release().await {
            tracing::warn!(%tenant, %error, "the lease could not be given back; it ends by itself");
        }
        done
    }

    fn is_old(&self, sealed: Option<&Sealed>) -> bool {
        sealed.is_some_and(|s| s.key != self.vault.key_id())
    }

    async fn rotate_grant(&self, tenant: &Tenant, lease: &crate::state::Lease) -> Result<Rotated, AuthError> {
        let vault = |source| AuthError::Vault { tenant: tenant.clone(), source };
        let line = self.state.grants(tenant);
        // What waits on this machine is sealed too, and is the next generation.
        self.adopt(tenant, &line).await?;
        let mut done = Rotated::default();
        let Some(last) = line.last::<Grant>().await? else { return Ok(done) };
        let old = |entry: &Option<Grant>| entry.as_ref().is_none_or(|g| self.is_old(g.sealed.as_ref()));
        if !line.all::<Grant>().await?.iter().any(|(_, entry)| old(entry)) {
            return Ok(done);
        }
        let mut newest = last;
        if self.is_old(newest.body.sealed.as_ref())
            && let Some(tokens) = newest.body.tokens(&self.vault, tenant).map_err(vault)?
        {
            let standing = match newest.body.standing {
                // Its run is gone, or the lease were not ours; whether it was answered is still not known.
                Standing::Refreshing { .. } => {
                    let why = "an earlier answer was lost".to_owned();
                    Standing::Uncertain { since: newest.at, why, refused: false }
                }
                standing => standing,
            };
            let mut grant = Grant { generation: newest.body.generation + 1, standing, ..newest.body };
            grant.seal(&self.vault, tenant, &tokens).map_err(vault)?;
            lease.ensure().await?;
            newest = line.append(newest.n, grant).await?;
            done.grant = true;
        }
        // The newest two entries always stay, so neither may be an old one.
        let second = line.all::<Grant>().await?.into_iter().nth(1);
        if second.is_some_and(|(_, entry)| old(&entry)) {
            lease.ensure().await?;
            newest = line.append(newest.n, newest.body).await?;
        }
        done.swept = line.drop_below(newest.n).await?;
        Ok(done)
    }

    async fn rotate_quarantine(&self, tenant: &Tenant, lease: &crate::state::Lease) -> Result<u64, AuthError> {
        let mut done = 0;
        for what in self.state.quarantined(tenant).await? {
            let Some(bytes) = self.state.read_quarantined(&what).await? else { continue };
            let Some(sealed) = parse(&bytes).filter(|s| self.is_old(Some(s))) else { continue };
            let vault = |source| AuthError::Vault { tenant: tenant.clone(), source };
            let plain = self.vault.open(&what.place, &sealed).map_err(vault)?;
            let sealed = self.vault.seal(&what.place, &plain).map_err(vault)?;
            let text = serde_json::to_vec(&sealed).map_err(|_| vault(VaultError::Sealing))?;
            lease.ensure().await?;
            self.state.replace_quarantined(&what, self.vault.key_id(), text.into()).await?;
            done += 1;
        }
        Ok(done)
    }

    /// What each key sealed, by the key's id; read without a lease.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub async fn holdings(&self, tenants: &[Tenant]) -> Result<BTreeMap<String, Holdings>, AuthError> {
        let mut all: BTreeMap<String, Holdings> = BTreeMap::new();
        for key in self.pseudonyms_sealed_with().await? {
            all.entry(key).or_default().pseudonyms += 1;
        }
        for tenant in tenants {
            for (i, (_, entry)) in self.state.grants(tenant).all::<Grant>().await?.into_iter().enumerate() {
                let Some(sealed) = entry.and_then(|g| g.sealed) else { continue };
                let key = all.entry(sealed.key).or_default();
                if i == 0 {
                    key.grants += 1;
                } else {
                    key.older_entries += 1;
                }
            }
            for what in self.state.quarantined(tenant).await? {
                if let Some(sealed) = self.state.read_quarantined(&what).await?.and_then(|b| parse(&b)) {
                    all.entry(sealed.key).or_default().quarantined += 1;
                }
            }
        }
        Ok(all)
    }
}

fn parse(bytes: &[u8]) -> Option<Sealed> {
    serde_json::from_slice(bytes).ok()
}
