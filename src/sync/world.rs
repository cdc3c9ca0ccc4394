//! What a run works with: the configuration, both stores, the clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::SyncError;
use crate::auth::{Grant, Standing};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, shut_to_others};
use crate::names::Tenant;
use crate::report::Progress;
use crate::state::{State, StateError};
use crate::store::{self, Store, StoreError};

/// Newest grants read at once, to see who is connected.
const LOOKS_AT_ONCE: usize = 32;

/// That a store was tried and does what is relied on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Fitness {
    url: String,
    /// Its endpoint and the like: under one URL there may be several stores.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    address: String,
    /// Whether it was taken without conditional replacement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    without_conditional_replace: bool,
    /// Which of our probes it passed.
    probe: u32,
}

/// Everything from outside that a run works with.
#[derive(Debug, Clone)]
pub struct World {
    /// What to do.
    pub config: Arc<Config>,
    /// Where Parquet goes.
    pub lake: Store,
    /// Where the state is.
    pub state: Store,
    /// What time it is.
    pub clock: Clock,
    /// Set when the run is to stop cleanly.
    pub stop: CancellationToken,
    /// What can be seen meanwhile.
    pub progress: Progress,
}

impl World {
    /// Opens the stores that the configuration names.
    ///
    /// # Errors
    ///
    /// When one cannot be opened.
    pub fn open(config: Arc<Config>, clock: Clock) -> Result<Self, StoreError> {
        let scratch = config.scratch_folder().map_err(|source| StoreError::Io {
            op: "make the scratch folder",
            path: config.scratch.clone(),
            source,
        })?;
        let lake = Store::connect(&config.lake, &config.lake_store, scratch)?;
        let state = Store::connect(&config.state, &config.state_store, scratch)?.private();
        if let Some(root) = state.root()
            && let Err(error) = shut_to_others(root)
        {
            tracing::warn!(folder = %root.display(), %error, "the folder of the state could not be shut to others");
        }
        Ok(Self { config, lake, state, clock, stop: CancellationToken::new(), progress: Progress::default() })
    }

    /// Makes sure that both stores do all that is relied on, before anything is written to them. One that passed is noted in
    /// the state and not tried again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unfit`] for one that would not keep two runs apart; else when one cannot be read or written.
    pub async fn fit(&self) -> Result<(), SyncError> {
        let state = State::new(self.state.clone(), self.clock);
        for (role, store) in [("state", &self.state), ("lake", &self.lake)] {
            // Folders are what the system makes of them: `check` tries them.
            if !store::is_remote(store.url()) {
                continue;
            }
            let line = state.fitness(role);
            let fit = Fitness {
                url: store.url().to_owned(),
                address: store.address().to_owned(),
                without_conditional_replace: !store.is_conditional(),
                probe: store::PROBE,
            };
            let last = line.last::<Fitness>().await?;
            if last.as_ref().is_some_and(|l| l.body == fit) {
                continue;
            }
            store.probe().await.sound()?;
            match line.append(last.map_or(0, |l| l.n), fit).await {
                // Another run came to the same end.
                Ok(_) | Err(StateError::Lost { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The tenants to work for: all but those that were disconnected, and no parts, which are read with their tenants. One
    /// whose grant cannot be read is among them, so that somebody hears of it.
    ///
    /// # Errors
    ///
    /// When the state cannot be listed.
    pub async fn active_tenants(&self) -> Result<Vec<Tenant>, StateError> {
        let state = State::new(self.state.clone(), self.clock);
        let wholes = self.tenants().await?.into_iter().filter(|t| self.config.whole(t) == t);
        let looks = wholes.map(|tenant| async {
            let last = state.grants(&tenant).last::<Grant>().await;
            let gone = matches!(last, Ok(Some(entry)) if entry.body.standing == Standing::Disconnected);
            (!gone).then_some(tenant)
        });
        let looked: Vec<_> = futures::stream::iter(looks).buffered(LOOKS_AT_ONCE).collect().await;
        Ok(looked.into_iter().flatten().collect())
    }

    /// The tenants that are meant: those that were named, else all there is to work for.
    ///
    /// # Errors
    ///
    /// When one of them is a part, which is never read alone, or the state cannot be listed.
    pub async fn meant(&self, named: &[Tenant]) -> Result<Vec<Tenant>, SyncError> {
        for tenant in named {
            self.is_no_part(tenant, |whole| ConfigError::Invalid {
                place: format!("--tenant {tenant}"),
                what: format!("{tenant} is a part of {whole} and is read with it"),
                hint: format!("--tenant {whole}; with --resource it reads some tables only"),
            })?;
        }
        if named.is_empty() { Ok(self.active_tenants().await?) } else { Ok(named.to_vec()) }
    }

    /// Makes sure that a tenant is no part: what a part read lies in its tenant's lake.
    ///
    /// # Errors
    ///
    /// When it is one.
    pub fn has_a_lake(&self, tenant: &Tenant) -> Result<(), SyncError> {
        self.is_no_part(tenant, |whole| ConfigError::Invalid {
            place: "--erase-lake".into(),
            what: format!("{tenant} is a part of {whole} and has no lake of its own"),
            hint: format!(
                "`hirelake disconnect {tenant}` forgets its grant; what it read is erased with {whole}: `hirelake disconnect {whole} --erase-lake`"
            ),
        })
    }

    /// Makes sure that a tenant is no part, in whose name nothing could be found.
    ///
    /// # Errors
    ///
    /// When it is one.
    pub fn has_rows(&self, tenant: &Tenant) -> Result<(), SyncError> {
        self.is_no_part(tenant, |whole| ConfigError::Invalid {
            place: format!("verify {tenant}"),
            what: format!("{tenant} is a part of {whole}, in whose lake its rows are"),
            hint: format!("`hirelake verify {whole}`"),
        })
    }

    fn is_no_part(&self, tenant: &Tenant, told: impl FnOnce(&Tenant) -> ConfigError) -> Result<(), SyncError> {
        let whole = self.config.whole(tenant);
        if whole == tenant { Ok(()) } else { Err(told(whole).into()) }
    }

    /// The tenants that there are: connected ones and those that the file names.
    ///
    /// # Errors
    ///
    /// When the state cannot be listed.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StateError> {
        let mut all: BTreeSet<Tenant> = self.config.named_tenants().cloned().collect();
        all.extend(State::new(self.state.clone(), self.clock).tenants().await?);
        Ok(all.into_iter().collect())
    }
}
