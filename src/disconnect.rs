//! A tenant is let go: its grant revoked where that can be done, its tokens forgotten, its lake erased when asked to.
//!
//! Guarantees: all of it under the tenant's lease; whatever becomes of the revocation, no sealed token stays in the state;
//! an erasure that is cut anywhere is completed by running it again, and at no point does a commit cover rows that are gone.

use std::fmt;

use object_store::path::Path;

use crate::auth::disconnect::{Revoked, forget};
use crate::auth::{Auth, AuthError, Grant, Standing};
use crate::names::{RunId, Tenant};
use crate::state::{Commit, CommitKind, Lease, State};
use crate::store::Store;
use crate::sync::{SyncError, World, contents, ledger};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Whose.
    pub tenant: Tenant,
    /// What became of the grant at the provider; `None` when there was none to revoke.
    pub revoked: Option<Revoked>,
    /// Whether it was connected until now.
    pub was_connected: bool,
    /// What was erased, where that was asked for.
    pub erased: Option<Erased>,
    /// Its parts that are still connected.
    pub parts: Vec<Tenant>,
}

/// What an erasure removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Tables of the state whose commits cover nothing any more.
    pub tables: u64,
    /// Files of the lake.
    pub files: u64,
    /// Records that had been kept in quarantine.
    pub quarantined: u64,
    /// Uploads in parts that could not be ended, so that their parts hold rows still.
    pub uploads_left: u64,
}

/// Disconnects a tenant, and erases its part of the lake when `erase` says so. Doing it again is fine.
///
/// # Errors
///
/// When nothing is known of the tenant, another run holds it, or lake or state cannot be read or written.
pub async fn run(world: &World, tenant: &Tenant, erase: bool) -> Result<Done, SyncError> {
    let run = RunId::new();
    let state = State::new(world.state.clone(), world.clock);
    if erase {
        world.has_a_lake(tenant)?;
    }
    // A name that was mistyped makes no lease.
    let mut known = state.grants(tenant).last::<Grant>().await?.is_some();
    known |= erase && has_rows(world, &state, tenant).await?;
    if !known {
        return Err(AuthError::NotConnected { tenant: tenant.clone() }.into());
    }
    let lease = state.lease(tenant, run).await?;
    let done = held(world, &state, tenant, &lease, erase).await;
    if let Err(error) = lease.release().await {
        tracing::warn!(%tenant, %error, "the lease could not be given back; it ends by itself");
    }
    done
}

async fn held(world: &World, state: &State, tenant: &Tenant, lease: &Lease, erase: bool) -> Result<Done, SyncError> {
    let mut done =
        Done { tenant: tenant.clone(), revoked: None, was_connected: false, erased: None, parts: Vec::new() };
    if let Some(last) = state.grants(tenant).last::<Grant>().await? {
        if last.body.sealed.is_some() {
            // First at the provider, while there is something to revoke with: a run that is cut here can be repeated.
            done.revoked = Some(revoke(world, state, tenant, lease).await?);
        }
        done.was_connected = forget(&world.config, state, tenant, lease, false).await?;
    }
    if erase {
        done.erased = Some(erase_all(world, state, tenant, lease).await?);
        if state.grants(tenant).last::<Grant>().await?.is_some() {
            // Nothing is left that another account's rows could be mixed with, so any account may connect.
            forget(&world.config, state, tenant, lease, true).await?;
        }
    }
    for part in world.config.parts(tenant) {
        let last = state.grants(part).last::<Grant>().await?;
        if last.is_some_and(|l| l.body.standing != Standing::Disconnected) {
            done.parts.push(part.clone());
        }
    }
    Ok(done)
}

async fn revoke(world: &World, state: &State, tenant: &Tenant, lease: &Lease) -> Result<Revoked, SyncError> {
    lease.ensure().await?;
    match Auth::new(world.config.clone(), state.clone(), world.clock, RunId::new()) {
        Ok(auth) => Ok(auth.revoke(tenant).await?),
        // Who lost the key can still disconnect: nobody can use what it sealed.
        Err(e) => Ok(Revoked::Not { why: e.to_string().lines().next().unwrap_or_default().to_owned() }),
    }
}

/// The folders of a tenant's tables in the lake: every one below the provider's, whether or not the catalogue still has it.
async fn folders(world: &World, tenant: &Tenant) -> Result<Vec<Path>, SyncError> {
    let provider = world.config.provider.name.to_string();
    let tables = world.lake.folders(&Path::from(provider.as_str())).await?;
    let own = format!("tenant={tenant}");
    Ok(tables.iter().map(|table| Path::from_iter([provider.as_str(), table.as_str(), own.as_str()])).collect())
}

async fn has_rows(world: &World, state: &State, tenant: &Tenant) -> Result<bool, SyncError> {
    if !state.committed_resources(tenant).await?.is_empty() {
        return Ok(true);
    }
    for folder in folders(world, tenant).await? {
        if !world.lake.list(&folder).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Commits first: once they cover nothing, files may go in any order and a run that comes in between reads everything anew.
/// Commits are ended, not removed, as grants are: a run elsewhere that lost its lease and does not know it yet could else make
/// an old number anew, and cover with it rows that are gone.
async fn erase_all(world: &World, state: &State, tenant: &Tenant, lease: &Lease) -> Result<Erased, SyncError> {
    let mut erased = Erased::default();
    for resource in state.committed_resources(tenant).await? {
        let line = state.commits(tenant, &resource);
        let Some(last) = line.last::<Commit>().await? else { continue };
        lease.ensure().await?;
        let newest = if last.body.kind == CommitKind::Erased {
            last
        } else {
            erased.tables += 1;
            let old = last.body;
            line.append(last.n, Commit::empty(old.run, CommitKind::Erased, old.granularity, old.schema)).await?
        };
        line.forget_older(&newest).await?;
    }
    // Ledgers next: while one says that a parent's children were read, nobody would read them again.
    let own = format!("tenant={tenant}");
    for table in world.state.folders(&Path::from(ledger::FOLDER)).await? {
        let folder = Path::from_iter([ledger::FOLDER, table.as_str(), own.as_str()]);
        remove_all(&world.state, &folder, lease).await?;
        world.state.remove_folder(&folder)?;
    }
    erased.uploads_left = end_uploads(world, state, tenant, lease).await?;
    for folder in folders(world, tenant).await? {
        erased.files += remove_all(&world.lake, &folder, lease).await?;
        world.lake.remove_folder(&folder)?;
    }
    let documents = Path::from_iter([contents::FOLDER, world.config.provider.name.as_str()]);
    for table in world.lake.folders(&documents).await? {
        let folder = documents.clone().join(table).join(own.as_str());
        erased.files += remove_all(&world.lake, &folder, lease).await?;
        world.lake.remove_folder(&folder)?;
    }
    world.lake.owned_by(tenant.as_str()).sweep_staging()?;
    world.state.owned_by(tenant.as_str()).sweep_staging()?;
    crate::sync::sweep_scratch(world, tenant)?;
    for (kind, count) in [("quarantine", Some(&mut erased.quarantined)), ("runs", None)] {
        let folder = Path::from_iter([kind, tenant.as_str()]);
        let removed = remove_all(&world.state, &folder, lease).await?;
        world.state.remove_folder(&folder)?;
        if let Some(count) = count {
            *count += removed;
        }
    }
    Ok(erased)
}

/// Ends what a killed run was sending in parts: no listing shows them, and nobody will sync the tenant any more. Returns how many
/// could not be ended.
async fn end_uploads(world: &World, state: &State, tenant: &Tenant, lease: &Lease) -> Result<u64, SyncError> {
    let mut left = 0;
    for (note, upload) in state.uploads(tenant).await? {
        lease.ensure().await?;
        let store = [&world.lake, &world.state].into_iter().find(|s| s.url() == upload.store);
        let Some(store) = store else {
            left += 1;
            continue;
        };
        if !store.give_up(&upload).await {
            left += 1;
            continue;
        }
        // Azure cannot end one: it keeps the parts for a week, or until the file is next put in place.
        let path = Path::from(upload.path.as_str());
        store.remove(&path).await?;
        store.create(&path, Vec::new().into()).await?;
        store.remove(&path).await?;
        lease.forget_upload(note).await?;
    }
    Ok(left)
}

async fn remove_all(store: &Store, folder: &Path, lease: &Lease) -> Result<u64, SyncError> {
    let mut removed = 0;
    for entry in store.list(folder).await? {
        lease.ensure().await?;
        store.remove(&entry.path).await?;
        removed += 1;
    }
    Ok(removed)
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = &self.tenant;
        if self.was_connected {
            write!(f, "{tenant} is disconnected: its tokens are forgotten")?;
        } else {
            write!(f, "{tenant} was disconnected already: it holds no tokens")?;
        }
        if self.revoked == Some(Revoked::Done) {
            f.write_str(", and the grant was revoked at the provider")?;
        }
        match &self.erased {
            None => write!(f, "; its lake is as it was"),
            Some(e) if *e == Erased::default() => write!(f, "; nothing of its lake was left to erase"),
            Some(e) => write!(f, "; its lake was erased: {} tables, {} files", e.tables, e.files),
        }
    }
}

impl Done {
    /// What somebody still has to do.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let by_hand = match &self.revoked {
            Some(Revoked::Not { why }) => format!(
                "note: the grant was not revoked at the provider: {why}\nhint: a Super Admin of the customer can remove the app in the settings of their account"
            ),
            Some(Revoked::ApiKey) => {
                "note: an API key cannot be revoked from here\nhint: the customer must delete the key in the settings of their account".to_owned()
            }
            Some(Revoked::Shared { other }) => format!(
                "note: the grant was not revoked at the provider, because tenant {other} is connected to the same account and its grant could end with this one\nhint: nothing more is to be done; `hirelake disconnect {other}` revokes it when that tenant goes too"
            ),
            Some(Revoked::Done) | None => String::new(),
        };
        let parts = self.parts.iter().map(|part| {
            format!("note: {part}, a part of it, is connected still and read by nobody now\nhint: `hirelake disconnect {part}`")
        });
        let left = self.erased.map_or(0, |e| e.uploads_left);
        let uploads = (left > 0).then(|| {
            format!(
                "note: uploads in parts that a killed run left and that could not be ended, so that their parts hold rows of the tenant still: {left}\nhint: `hirelake verify {}` names them; run this again, or end them in the bucket by hand",
                self.tenant
            )
        });
        std::iter::once(by_hand).filter(|text| !text.is_empty()).chain(uploads).chain(parts).collect()
    }
}
