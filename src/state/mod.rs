//! What is known: numbered, create-only entries in an object store; commits, leases and grants are lines of them.
//!
//! Guarantees: the newest entry is the whole truth of its line; making an entry is the fence, so two writers never both
//! believe that they won; an entry that does not parse stops the tenant and resets nothing. The same code runs on every
//! store. Knows nothing of what a grant or a page is.

mod account;
mod commit;
mod lease;
mod line;
mod upload;
mod window;

use bytes::Bytes;
use object_store::path::Path;

use crate::clock::{Clock, Timestamp};
use crate::names::{ResourceName, RunId, Tenant};
use crate::store::{Created, Store, StoreError};

/// Reports that are read however large they are, and bytes of reports beyond which no more are.
const FEW_REPORTS: usize = 30;
const REPORTS_BYTES: u64 = 256 << 20;

pub use account::Claim;
pub use commit::{Commit, CommitKind, Covered, Habits, ParentsRead, PartitionFigures};
pub use lease::{Lease, LeaseInfo};
pub use line::{Entry, Line};
pub use upload::Note;
pub use window::{Intervals, Window};
#[cfg(any(test, fuzzing))]
pub(crate) use {lease::fuzz_lease, line::fuzz_entry};

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store below failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry is there and makes no sense. Nothing is reset because of it.
    #[error(
        "state entry {path} cannot be read: {why}\nhint: the entry was changed or cut by something else than hirelake; restore it from a backup, or move it away so that the entry before it counts again (of a grant: its token may be used up, and then the tenant must connect again)"
    )]
    Corrupt {
        /// The object.
        path: String,
        /// What is wrong, without a value from it.
        why: String,
    },
    /// Another writer made the next entry first.
    #[error(
        "entry {n} of {line} was written by another run\nhint: nothing was lost; two runs met, run the command again"
    )]
    Lost {
        /// The line.
        line: String,
        /// The number that both wanted.
        n: u64,
    },
    /// Another run holds the tenant.
    #[error(
        "tenant {tenant} is busy: run {owner} on {host} holds it\nhint: {}", busy_hint(*.remaining_s)
    )]
    Busy {
        /// The tenant.
        tenant: Tenant,
        /// The run that holds it.
        owner: String,
        /// Where that run runs.
        host: String,
        /// Seconds until a dead owner's lease can be taken over; 0 when it is held by a process of this machine, with which it
        /// ends.
        remaining_s: u64,
    },
    /// Our own lease ran out or was taken over: nothing may be written any more.
    #[error(
        "the hold on tenant {tenant} was lost: {why}\nhint: the work up to the last commit is safe; run the command again, it resumes"
    )]
    LeaseLost {
        /// The tenant.
        tenant: Tenant,
        /// How.
        why: String,
    },
}

fn busy_hint(remaining_s: u64) -> String {
    match remaining_s {
        0 => "wait for that run to end; its hold ends with its process".to_owned(),
        s => format!("wait for that run to end; if it died, its hold ends by itself {s} s from now"),
    }
}

/// A record in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    path: Path,
    /// What it is sealed for.
    pub place: String,
    /// Of which resource it is.
    pub resource: String,
}

impl Quarantined {
    /// `quarantine/<tenant>/<resource>/<time>-<run>-<number>.sealed`, or with a mark before the end.
    fn at(path: Path) -> Option<Self> {
        let parts: Vec<String> = path.parts().map(|p| p.as_ref().to_owned()).collect();
        let [_, tenant, resource, name] = parts.as_slice() else { return None };
        let (_, rest) = name.strip_suffix(".sealed")?.split('.').next()?.split_once('-')?;
        let (run, seq) = rest.rsplit_once('-')?;
        let seq: u64 = seq.parse().ok()?;
        Some(Self { place: format!("quarantine/{tenant}/{resource}/{run}/{seq}"), resource: resource.clone(), path })
    }
}

/// The state of every tenant, in one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    store: Store,
    clock: Clock,
}

impl State {
    /// The state in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }
    /// Its store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }
    /// The commits of a tenant's resource.
    #[must_use]
    pub fn commits(&self, tenant: &Tenant, resource: &ResourceName) -> Line {
        self.line(&["commits", tenant.as_str(), resource.as_str()])
    }
    /// The grants of a tenant.
    #[must_use]
    pub fn grants(&self, tenant: &Tenant) -> Line {
        self.line(&["grants", tenant.as_str()])
    }
    /// Where the lake's layout is written down, once for all tenants.
    #[must_use]
    pub fn layout(&self, resource: &ResourceName) -> Line {
        self.line(&["layout", resource.as_str()])
    }
    /// The sealed key of the pseudonyms, one for all tenants.
    #[must_use]
    pub fn pseudonyms(&self) -> Line {
        self.line(&["pseudonyms"])
    }
    /// Which stores were found to do what is relied on, by what they are for.
    #[must_use]
    pub fn fitness(&self, role: &str) -> Line {
        self.line(&["stores", role])
    }
    /// The last run of each tenant.
    #[must_use]
    pub fn runs(&self, tenant: &Tenant) -> Line {
        self.line(&["runs", tenant.as_str()])
    }
    fn line(&self, parts: &[&str]) -> Line {
        Line::new(self.store.clone(), self.clock, Path::from_iter(parts.iter().copied()))
    }

    /// Tenants that have, or had, a grant.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, StateError> {
        let mut names = self.store.folders(&Path::from("grants")).await?;
        names.sort();
        Ok(names.iter().filter_map(|n| n.parse().ok()).collect())
    }

    /// Resources of a tenant that have a commit.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub async fn committed_resources(&self, tenant: &Tenant) -> Result<Vec<ResourceName>, StateError> {
        let mut names = self.store.folders(&Path::from_iter(["commits", tenant.as_str()])).await?;
        names.sort();
        Ok(names.iter().filter_map(|n| n.parse().ok()).collect())
    }

    /// Keeps the full report of a run under `reports/`.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn keep_report(&self, run: RunId, body: Bytes) -> Result<(), StateError> {
        self.store.create(&Path::from_iter(["reports".to_owned(), format!("{run}.json")]), body).await?;
        Ok(())
    }

    /// Where the newest reports are, at most `most`, the newest first; beyond a few no more than can be read in a while.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn newest_reports(&self, most: usize) -> Result<Vec<Path>, StateError> {
        let mut found = self.store.list(&Path::from("reports")).await?;
        // Ids of runs sort by the time of their making.
        found.sort_by(|a, b| b.path.as_ref().cmp(a.path.as_ref()));
        let mut bytes = 0;
        let few = found.into_iter().take(most).enumerate().take_while(|(n, report)| {
            bytes += report.bytes;
            *n < FEW_REPORTS || bytes <= REPORTS_BYTES
        });
        Ok(few.map(|(_, report)| report.path).collect())
    }

    /// One of the [newest reports](State::newest_reports); `None` when it was removed since.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn report(&self, at: &Path) -> Result<Option<Bytes>, StateError> {
        Ok(self.store.get(at).await?)
    }

    /// Keeps something sealed under `quarantine/<tenant>/<resource>/`; its name begins with the time, for the retention.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn quarantine(
        &self,
        tenant: &Tenant,
        resource: &ResourceName,
        run: RunId,
        seq: u64,
        sealed: Bytes,
    ) -> Result<(), StateError> {
        let name = format!("{:015}-{run}-{seq:06}.sealed", self.clock.now().ms());
        let path = Path::from_iter(["quarantine", tenant.as_str(), resource.as_str(), &name]);
        match self.store.create(&path, sealed).await? {
            Created::Done | Created::Exists => Ok(()),
        }
    }

    /// Tenants of which something is in quarantine.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub async fn quarantined_tenants(&self) -> Result<Vec<Tenant>, StateError> {
        let names = self.store.folders(&Path::from("quarantine")).await?;
        Ok(names.iter().filter_map(|n| n.parse().ok()).collect())
    }

    /// What of a tenant is in quarantine.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed.
    pub async fn quarantined(&self, tenant: &Tenant) -> Result<Vec<Quarantined>, StateError> {
        let listed = self.store.list(&Path::from_iter(["quarantine", tenant.as_str()])).await?;
        Ok(listed.into_iter().filter_map(|entry| Quarantined::at(entry.path)).collect())
    }

    /// Reads one of them; `None` when its time is over.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn read_quarantined(&self, what: &Quarantined) -> Result<Option<Bytes>, StateError> {
        Ok(self.store.get(&what.path).await?)
    }

    /// Removes one of them; fine when its time is over.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn remove_quarantined(&self, what: &Quarantined) -> Result<(), StateError> {
        Ok(self.store.remove(&what.path).await?)
    }

    /// Puts `sealed` in the place of one of them, under a name with `mark` in it; done again it does nothing new.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub async fn replace_quarantined(&self, what: &Quarantined, mark: &str, sealed: Bytes) -> Result<(), StateError> {
        let name = what.path.filename().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        let mut parts: Vec<_> = what.path.parts().collect();
        parts.pop();
        let folder = Path::from_iter(parts);
        // Whole once it is there: a run that was interrupted here made it.
        self.store.create(&folder.clone().join(format!("{stem}.{mark}.sealed")), sealed).await?;
        self.store.remove(&what.path).await?;
        self.store.remove_unfinished(&folder)?;
        Ok(())
    }

    /// Removes what is kept in quarantine for longer than `keep`. Returns how many.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed or written.
    pub async fn sweep_quarantine(&self, tenant: &Tenant, keep: std::time::Duration) -> Result<u64, StateError> {
        let limit = self.clock.now().minus(keep);
        let mut removed = 0;
        for entry in self.store.list(&Path::from_iter(["quarantine", tenant.as_str()])).await? {
            let made = entry.path.filename().and_then(|n| n.split('-').next()).and_then(|n| n.parse().ok());
            if made.is_some_and(|ms| Timestamp::from_ms(ms) < limit) {
                self.store.remove(&entry.path).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}
