//! One tenant an account: who holds it, taking it, giving it back.
//!
//! A claim is made before the grant that it is for is stored, so of two tenants that connect one account at once one is
//! refused. A claim whose grant never came (a crash in between) stands for its own tenant at once and for others after
//! [`UNFINISHED`]. Tenants that connected before there were claims are found by their grants. A tenant and its parts hold an
//! account together, whoever of them claimed it first.

use std::time::Duration;

use futures::{StreamExt as _, stream};

use super::connect::Refused;
use super::{Auth, AuthError, Grant, Standing};
use crate::catalog::Environment;
use crate::names::Tenant;
use crate::state::{Claim, Entry, Line, State, StateError};

/// How long a claim is believed without a grant that bears it out: an exchange takes minutes at most, and hosts' clocks differ.
const UNFINISHED: Duration = Duration::from_secs(3600);
/// Whoever loses the race for an entry looks again; more than a few at once are no accident.
const TRIES: u32 = 5;
/// Grants that are read at once when no claim says who holds an account.
const READS_AT_ONCE: usize = 32;

impl Auth {
    /// Makes sure that `tenant` holds the account.
    pub(super) async fn claim(
        &self,
        tenant: &Tenant,
        environment: Environment,
        account: &str,
        force: bool,
    ) -> Result<(), AuthError> {
        let line = self.state.accounts(environment, account);
        let mut tries = 0;
        loop {
            let last = line.last::<Claim>().await?;
            let kin = |holder: &Tenant| self.config.one_family(holder, tenant);
            if last.as_ref().is_some_and(|l| l.body.tenant.as_ref().is_some_and(kin)) {
                return Ok(());
            }
            let holder = self.holder(last.as_ref(), tenant, environment, account).await?;
            if let Some(holder) = holder.filter(|_| !force) {
                return Err(AuthError::Connect {
                    tenant: tenant.clone(),
                    kind: Refused::AccountTaken,
                    why: format!("the account is connected already, as tenant {holder}"),
                    hint: format!(
                        "two tenants on one account would load it twice: choose the right account on the consent page, or `hirelake disconnect {holder}` first; --force lets both stand"
                    ),
                });
            }
            match write(&line, last, account, Some(tenant)).await {
                Err(StateError::Lost { .. }) if tries < TRIES => tries += 1,
                written => return Ok(written?),
            }
        }
    }

    /// Which other tenant holds the account; its own parts, or that of which it is one, are no others.
    pub(super) async fn holder(
        &self,
        last: Option<&Entry<Claim>>,
        tenant: &Tenant,
        environment: Environment,
        account: &str,
    ) -> Result<Option<Tenant>, AuthError> {
        if let Some(entry) = last
            && let Some(holder) = entry.body.tenant.as_ref().filter(|h| !self.config.one_family(h, tenant))
        {
            let young = self.clock.now().since(entry.at) < UNFINISHED;
            if young || self.has_account(holder, environment, account).await {
                return Ok(Some(holder.clone()));
            }
        }
        let others = self.state.tenants().await?.into_iter().filter(|other| !self.config.one_family(other, tenant));
        let held = stream::iter(others)
            .map(|other| async move { self.has_account(&other, environment, account).await.then_some(other) })
            .buffer_unordered(READS_AT_ONCE)
            .filter_map(std::future::ready);
        Ok(std::pin::pin!(held).next().await)
    }

    async fn has_account(&self, tenant: &Tenant, environment: Environment, account: &str) -> bool {
        match self.state.grants(tenant).last::<Grant>().await {
            Ok(last) => last.is_some_and(|l| {
                l.body.environment == environment
                    && l.body.account.as_deref() == Some(account)
                    && l.body.standing != Standing::Disconnected
            }),
            Err(error) => {
                // One broken entry must not keep every other customer from connecting.
                tracing::warn!(%tenant, %error, "its grant cannot be read, so its account is not known");
                false
            }
        }
    }
}

/// Gives an account back, if it is the tenant's. For a disconnect, after its last generation is stored: until then the account
/// is held.
pub(super) async fn release(
    state: &State,
    tenant: &Tenant,
    environment: Environment,
    account: &str,
) -> Result<(), AuthError> {
    let line = state.accounts(environment, account);
    let mut tries = 0;
    loop {
        let last = line.last::<Claim>().await?;
        if last.as_ref().is_none_or(|l| l.body.tenant.as_ref() != Some(tenant)) {
            return Ok(());
        }
        match write(&line, last, account, None).await {
            Err(StateError::Lost { .. }) if tries < TRIES => tries += 1,
            written => return Ok(written?),
        }
    }
}

async fn write(
    line: &Line,
    last: Option<Entry<Claim>>,
    account: &str,
    tenant: Option<&Tenant>,
) -> Result<(), StateError> {
    let claim = Claim { account: account.to_owned(), tenant: tenant.cloned() };
    line.append(last.map_or(0, |l| l.n), claim).await.map(|_| ())
}
