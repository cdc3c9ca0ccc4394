//! A tenant's lease: while one run holds it, no other writes to the tenant's lake, state or grant.
//!
//! A lease is a line of entries: held, held again (the heartbeat), released. Its age is judged by the store's own times,
//! with a probe object written now, never by two hosts' clocks. Beside it, on a local store, stands an exclusive lock on a
//! file that is never renamed or removed: it ends with its process, so a killed run blocks nobody on the same machine.

use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Line, State, StateError};
use crate::names::{RunId, Tenant};
use crate::store::StoreError;

/// How long a lease holds without a heartbeat: a dead owner on another machine blocks a tenant no longer than this.
const TERM: Duration = Duration::from_secs(180);
/// How often the owner says that it lives: two beats may be lost.
const BEAT: Duration = Duration::from_secs(60);
/// What must be left of the term when a write begins: the longest that one write may take.
const WRITE: Duration = Duration::from_secs(75);

/// Silent for so long, an owner elsewhere is no longer shown as one: many times the term, so that no clock matters.
const LONG_GONE: Duration = Duration::from_secs(3600);
/// A lock that is found held is looked at once more after this long: `lease_info` may have had it for a moment.
const GLIMPSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Body {
    owner: RunId,
    host: String,
    pid: u32,
    term_s: u64,
    released: bool,
}

/// Who holds a tenant, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseInfo {
    /// The run.
    pub owner: RunId,
    /// Where it runs.
    pub host: String,
}

/// A held lease. Dropping it without [`Lease::release`] leaves it to expire (elsewhere than locally).
#[derive(Debug)]
pub struct Lease {
    tenant: Tenant,
    line: Line,
    state: State,
    body: Body,
    /// The number of its first entry: no two holds have the same, and a later one has a higher.
    fence: u64,
    inner: Mutex<Inner>,
    // The lock ends when the last handle is closed.
    _lock: Option<Arc<File>>,
}

#[derive(Debug)]
struct Inner {
    n: u64,
    /// The clock's reading from before the newest entry was sent: its term cannot have begun earlier.
    renewed: Duration,
    lost: bool,
}

/// What is made of the text of a lease's entry `n`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_lease(n: u64, text: &[u8]) -> Result<(), StateError> {
    super::fuzz_entry::<Body>(n, text).map(|_| ())
}

/// This machine since its last start: a process of the same boot that holds no lock is dead.
fn host() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let name = read("/proc/sys/kernel/hostname");
    let boot = read("/proc/sys/kernel/random/boot_id");
    let name = if name.is_empty() { std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".into()) } else { name };
    format!("{name}/{}", boot.get(..8).unwrap_or("0"))
}

impl State {
    fn leases(&self, tenant: &Tenant) -> Line {
        self.line(&["leases", tenant.as_str()])
    }

    /// Who holds the tenant now, as far as can be told without writing: an owner on this machine whose lock is free is gone,
    /// and so is one elsewhere that has not beaten for an hour (by its own clock and ours).
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub async fn lease_info(&self, tenant: &Tenant) -> Result<Option<LeaseInfo>, StateError> {
        let Some(last) = self.leases(tenant).last::<Body>().await?.filter(|l| !l.body.released) else {
            return Ok(None);
        };
        let here = last.body.host == host();
        let gone = if here && self.store().root().is_some() {
            // Let go at once; who takes the lease in this moment looks a second time.
            matches!(self.lock(tenant)?, Lock::Held(_))
        } else {
            self.clock().now().since(last.at) > LONG_GONE
        };
        Ok((!gone).then_some(LeaseInfo { owner: last.body.owner, host: last.body.host }))
    }

    /// Takes the tenant for `run`.
    ///
    /// # Errors
    ///
    /// [`StateError::Busy`] when another run holds it.
    pub async fn lease(&self, tenant: &Tenant, run: RunId) -> Result<Lease, StateError> {
        let line = self.leases(tenant);
        let busy = |body: Option<&Body>, remaining: Duration| StateError::Busy {
            tenant: tenant.clone(),
            owner: body.map_or_else(|| "unknown".into(), |b| b.owner.to_string()),
            host: body.map_or_else(|| "this machine".into(), |b| b.host.clone()),
            remaining_s: remaining.as_secs(),
        };
        let mut lock = self.lock(tenant)?;
        if matches!(lock, Lock::Busy) {
            tokio::time::sleep(GLIMPSE).await;
            lock = self.lock(tenant)?;
        }
        let lock = match lock {
            Lock::Held(lock) => Some(lock),
            Lock::Absent => None,
            Lock::Busy => {
                // Whoever holds the lock may not have written its entry yet.
                let last = line.last::<Body>().await?.filter(|l| !l.body.released);
                return Err(busy(last.as_ref().map(|l| &l.body), Duration::ZERO));
            }
        };
        let body = Body { owner: run, host: host(), pid: std::process::id(), term_s: TERM.as_secs(), released: false };
        let mut after = 0;
        if let Some((last, written)) = line.last_written::<Body>().await? {
            after = last.n;
            // With the lock in hand, an owner of the same boot of this machine is gone.
            let dead_here = lock.is_some() && last.body.host == body.host;
            if !last.body.released && !dead_here {
                let age = self.store_now(tenant).await?.since(written);
                // What an entry says is not believed without a limit: nobody is locked out for ever.
                let term = Duration::from_secs(last.body.term_s).min(LONG_GONE);
                if age <= term {
                    return Err(busy(Some(&last.body), term - age));
                }
                tracing::warn!(%tenant, owner = %last.body.owner, "taking over the lease of a run that no longer beats");
            }
        }
        let renewed = self.clock().elapsed_for_others();
        match line.append(after, body.clone()).await {
            Ok(entry) => Ok(Lease {
                tenant: tenant.clone(),
                line,
                state: self.clone(),
                body,
                fence: entry.n,
                inner: Mutex::new(Inner { n: entry.n, renewed, lost: false }),
                _lock: lock.map(Arc::new),
            }),
            Err(StateError::Lost { .. }) => {
                let last = line.last::<Body>().await?;
                Err(busy(last.as_ref().map(|l| &l.body), TERM))
            }
            Err(e) => Err(e),
        }
    }

    /// What time the store says it is: an object is written, looked at and removed.
    async fn store_now(&self, tenant: &Tenant) -> Result<crate::clock::Timestamp, StateError> {
        let path = Path::from_iter(["probes".to_owned(), format!("{tenant}-{}", uuid::Uuid::now_v7())]);
        self.store().create(&path, Bytes::from_static(b"what time is it")).await?;
        let now = self.store().modified(&path).await?;
        self.store().remove(&path).await?;
        now.ok_or_else(|| StateError::Corrupt {
            path: path.to_string(),
            why: "a probe that was just written is gone".into(),
        })
    }

    fn lock(&self, tenant: &Tenant) -> Result<Lock, StateError> {
        let Some(root) = self.store().root() else { return Ok(Lock::Absent) };
        let folder = root.join("locks");
        let path = folder.join(format!("{tenant}.lock"));
        let io = |source| StoreError::Io { op: "lock", path: path.clone(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock::Held(file)),
            Err(TryLockError::WouldBlock) => Ok(Lock::Busy),
            Err(TryLockError::Error(e)) => Err(io(e).into()),
        }
    }
}

enum Lock {
    Held(File),
    Busy,
    /// Not a local store.
    Absent,
}

impl Lease {
    pub(super) fn state(&self) -> &State {
        &self.state
    }
    pub(super) fn store(&self) -> &crate::store::Store {
        self.state.store()
    }
    /// The run that holds it, and the number of this hold: what is written under it says so.
    #[must_use]
    pub fn hold(&self) -> (RunId, u64) {
        (self.body.owner, self.fence)
    }
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Makes sure that the rest of the term covers one write, with a beat if need be.
    ///
    /// # Errors
    ///
    /// [`StateError::LeaseLost`]: nothing may be written.
    pub async fn ensure(&self) -> Result<(), StateError> {
        self.ensure_for(Duration::ZERO).await
    }

    /// Makes sure that the rest of the term covers `before` and then one write, with a beat if need be.
    ///
    /// # Errors
    ///
    /// [`StateError::LeaseLost`]: nothing may be begun.
    pub async fn ensure_for(&self, before: Duration) -> Result<(), StateError> {
        let mut inner = self.inner.lock().await;
        self.check(&inner)?;
        let left = TERM.saturating_sub(self.state.clock().elapsed_for_others().saturating_sub(inner.renewed));
        if left < before + WRITE + BEAT / 2 {
            self.beat(&mut inner).await?;
        }
        Ok(())
    }

    /// Beats until the lease is lost or this future is dropped; run it beside the work.
    pub async fn keep(&self) -> StateError {
        loop {
            tokio::time::sleep(BEAT).await;
            let mut inner = self.inner.lock().await;
            match self.beat(&mut inner).await {
                Ok(()) => {}
                Err(e @ (StateError::LeaseLost { .. } | StateError::Corrupt { .. })) => return e,
                Err(e) => tracing::warn!(tenant = %self.tenant, error = %e, "a heartbeat failed; trying again"),
            }
        }
    }

    fn check(&self, inner: &Inner) -> Result<(), StateError> {
        let lost = |why: &str| StateError::LeaseLost { tenant: self.tenant.clone(), why: why.into() };
        if inner.lost {
            return Err(lost("another run took it over"));
        }
        // With the lock in hand nobody on this machine can take over; elsewhere the term is what counts.
        if self._lock.is_none() && self.state.clock().elapsed_for_others().saturating_sub(inner.renewed) > TERM {
            return Err(lost("its term ran out before a heartbeat could be written"));
        }
        Ok(())
    }

    async fn beat(&self, inner: &mut Inner) -> Result<(), StateError> {
        self.check(inner)?;
        let renewed = self.state.clock().elapsed_for_others();
        match self.line.append(inner.n, self.body.clone()).await {
            Ok(entry) => {
                inner.n = entry.n;
                inner.renewed = renewed;
                Ok(())
            }
            Err(StateError::Lost { .. }) if self.catch_up(inner).await? => Ok(()),
            Err(StateError::Lost { .. }) => {
                inner.lost = true;
                self.check(inner)
            }
            Err(e) => Err(e),
        }
    }

    /// Whether the newest entry is a beat of our own whose end we did not see, because the task that wrote it was given up.
    /// When it was written is not known, so the term is not thought renewed.
    async fn catch_up(&self, inner: &mut Inner) -> Result<bool, StateError> {
        let last = self.line.last::<Body>().await?;
        let ours = last.filter(|l| l.body.owner == self.body.owner && !l.body.released);
        if let Some(entry) = &ours {
            inner.n = entry.n;
        }
        Ok(ours.is_some())
    }

    /// Gives the tenant back.
    ///
    /// # Errors
    ///
    /// When the state cannot be written; the lease then ends by itself.
    pub async fn release(self) -> Result<(), StateError> {
        let mut inner = self.inner.lock().await;
        if inner.lost {
            return Ok(());
        }
        let released = Body { released: true, ..self.body.clone() };
        match self.line.append(inner.n, released.clone()).await {
            Ok(_) => Ok(()),
            Err(StateError::Lost { .. }) if self.catch_up(&mut inner).await? => {
                self.line.append(inner.n, released).await.map(|_| ())
            }
            Err(StateError::Lost { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::store::Store;

    fn state(store: &Store) -> State {
        State::new(store.clone(), Clock::starting_at(Timestamp::from_ms(1_700_000_000_000)))
    }

    #[tokio::test]
    async fn one_run_holds_a_tenant_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        for store in [Store::open(dir.path().to_str().unwrap()).unwrap(), Store::memory()] {
            let state = state(&store);
            let tenant = "acme".parse().unwrap();
            let run = RunId::new();
            let held = state.lease(&tenant, run).await.unwrap();
            held.ensure().await.unwrap();
            match state.lease(&tenant, RunId::new()).await.unwrap_err() {
                StateError::Busy { owner, .. } => assert_eq!(owner, run.to_string()),
                e => panic!("{e}"),
            }
            assert!(state.lease(&"other".parse().unwrap(), RunId::new()).await.is_ok());
            held.release().await.unwrap();
            state.lease(&tenant, RunId::new()).await.unwrap();
        }
    }

    /// What others see of it is the store's time, which goes on while a machine sleeps.
    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_longer_than_its_term_holds_nothing() {
        let store = Store::memory();
        let held = state(&store).lease(&"acme".parse().unwrap(), RunId::new()).await.unwrap();
        crate::clock::SLEPT.set(TERM / 2);
        held.ensure().await.unwrap();
        crate::clock::SLEPT.set(TERM * 2);
        let error = held.ensure().await.unwrap_err();
        assert!(matches!(&error, StateError::LeaseLost { why, .. } if why.contains("term ran out")), "{error}");
    }

    #[tokio::test]
    async fn on_one_machine_a_dead_owner_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_str().unwrap()).unwrap();
        let state = state(&store);
        let tenant: Tenant = "acme".parse().unwrap();
        let owner = RunId::new();
        let held = state.lease(&tenant, owner).await.unwrap();
        assert_eq!(state.lease_info(&tenant).await.unwrap().unwrap().owner, owner);
        drop(held);
        assert_eq!(state.lease_info(&tenant).await.unwrap(), None, "it died without a word, and its lock is free");
        state.lease(&tenant, RunId::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_beat_that_was_given_up_half_way_is_nobody_elses() {
        let state = state(&Store::memory());
        let tenant: Tenant = "acme".parse().unwrap();
        let lease = state.lease(&tenant, RunId::new()).await.unwrap();
        // The entry stands, and who wrote it did not live to see it.
        let beat_unseen = async |lease: &Lease| {
            let n = lease.inner.lock().await.n;
            lease.line.append(n, lease.body.clone()).await.unwrap();
        };
        beat_unseen(&lease).await;
        lease.beat(&mut *lease.inner.lock().await).await.unwrap();
        lease.beat(&mut *lease.inner.lock().await).await.unwrap();
        beat_unseen(&lease).await;
        lease.release().await.unwrap();
        state.lease(&tenant, RunId::new()).await.unwrap();
    }

    #[tokio::test]
    async fn elsewhere_a_dead_owner_is_waited_for_and_a_late_owner_writes_nothing() {
        let store = Store::memory();
        let state = state(&store);
        let tenant: Tenant = "acme".parse().unwrap();
        let late = state.lease(&tenant, RunId::new()).await.unwrap();
        assert!(matches!(state.lease(&tenant, RunId::new()).await, Err(StateError::Busy { .. })));
        // Another host, whose clock does not matter, takes over once the term is past by the store's times.
        let n = late.inner.lock().await.n;
        late.line.append(n, Body { owner: RunId::new(), ..late.body.clone() }).await.unwrap();
        late.inner.lock().await.renewed = Duration::ZERO;
        let inner = &mut *late.inner.lock().await;
        assert!(matches!(late.beat(inner).await, Err(StateError::LeaseLost { .. })));
        assert!(matches!(late.check(inner), Err(StateError::LeaseLost { .. })));
    }
}
