//! Files of the lake that are not as the newest commit left them, looked for when a run begins.
//!
//! Two things make such a file. A run that ended between a file and its commit: the file holds all that the commit speaks of
//! and more, and nothing needs to be done. And a run that had lost its hold on the tenant and did not know it, on a store that
//! could not refuse it (an upload in parts cannot be made conditional; some stores ignore conditions): what it wrote over is
//! gone. The two are told apart by the number of the hold under which a file was written, which stands in its metadata: an
//! older one than the commit's is late. What such a file should hold is read again, and what is known to be deleted is taken
//! out of it again.
//!
//! Locally a lock excludes all this. What is looked for there, too, are files that are gone: what they held is read again, unless
//! nothing of the lake is left. That is a folder that is not mounted, or another bucket, and not what anybody deleted file by file.

use std::collections::HashMap;

use super::ledger::Ledger;
use super::{SyncError, TenantRun, delete};
use crate::catalog::{Granularity, Mode, PartitionValue, Resource, Table};
use crate::clock::Timestamp;
use crate::load::{self, By, Deleted, Deletion};
use crate::names::ResourceName;
use crate::state::{Commit, CommitKind, Covered, Entry, Window};
use crate::store::Version;

/// Looks at every file that a commit speaks of. Returns what is to be told.
///
/// # Errors
///
/// [`SyncError::LakeGone`] where none of them is there; else when lake or state cannot be read or written.
pub(super) async fn heal(run: &TenantRun) -> Result<Vec<String>, SyncError> {
    let mut notes = Vec::new();
    // First that they are read again is durable, for every table, then what needs no reading: that touches other tables, whose
    // files are then of this run, and look as if they had never been late. A crash in between repeats the second.
    let (mut haunted, mut damaged, mut said) = (Vec::new(), Vec::new(), 0);
    for resource in &run.config().provider.resources {
        let Some(last) = run.commit_of(&resource.name).await? else { continue };
        if last.body.kind == CommitKind::Erased {
            continue;
        }
        let table = run.config().table(resource)?;
        let found = look(run, &table, &last.body).await?;
        said += found.said;
        if found.replaced.is_empty() && !last.body.unhealed {
            continue;
        }
        damaged.push((resource, table, found));
    }
    let gone: usize = damaged.iter().map(|(.., found)| found.gone).sum();
    if said > 0 && gone == said && !run.options.full {
        return Err(SyncError::LakeGone { tenant: run.tenant.clone(), lake: run.lake.store.place(), files: said });
    }
    for (resource, table, found) in damaged {
        let late = found.late.len();
        tracing::warn!(tenant = %run.tenant, resource = %resource.name, files = found.replaced.len(), late, "files are not as the newest commit left them");
        // Read once more: carriers were noted anew for what is taken out of them.
        if let Some(last) = run.commit_of(&resource.name).await?.filter(|_| late > 0) {
            reopen(run, resource, &table, last, &found).await?;
            let files = |n: usize| if n == 1 { "1 file was".to_owned() } else { format!("{n} files were") };
            let replaced = late - found.gone;
            if replaced > 0 {
                notes.push(format!(
                    "{}: {} replaced by a run that had lost its hold on the tenant; what they should hold is read again",
                    resource.name,
                    files(replaced)
                ));
            }
            if found.gone > 0 {
                notes.push(format!(
                    "{}: {} removed from the lake by something else; what they held is read again",
                    resource.name,
                    files(found.gone)
                ));
            }
        }
        haunted.push((resource, table));
    }
    for (resource, table) in haunted {
        take_out_the_dead(run, resource, &table).await?;
        if let Some(last) = run.commit_of(&resource.name).await?.filter(|l| l.body.unhealed) {
            let healed = Commit { run: run.run, unhealed: false, ..last.body };
            run.state.commits(&run.tenant, &resource.name).append(last.n, healed).await?;
        }
    }
    Ok(notes)
}

struct FoundFiles {
    /// Partitions whose file is another than the commit says, or that no commit knows.
    replaced: Vec<(PartitionValue, Option<Version>)>,
    /// Those of them that lack what the commit speaks of.
    late: Vec<PartitionValue>,
    /// How many of those are not there at all.
    gone: usize,
    /// Of how many files the commit speaks.
    said: usize,
}

async fn look(run: &TenantRun, table: &Table, commit: &Commit) -> Result<FoundFiles, SyncError> {
    let lake = &run.lake;
    let listed = lake.store.list(&lake.folder(table)).await?;
    let mut there: HashMap<_, _> = listed.into_iter().map(|e| (e.path, e.version)).collect();
    let mut found = FoundFiles { replaced: Vec::new(), late: Vec::new(), gone: 0, said: 0 };
    let local = lake.store.root().is_some();
    for (folder, figures) in &commit.partitions {
        if local {
            let Some(value) = table.layout.parse_folder(folder) else { continue };
            found.said += 1;
            if there.remove(&lake.path(table, value)).is_none() {
                found.gone += 1;
                found.late.push(value);
                found.replaced.push((value, None));
            }
            continue;
        }
        // A table that lies in another cut is told where its layout is looked at.
        let (Some(said), Some(value)) = (&figures.version, table.layout.parse_folder(folder)) else { continue };
        let path = lake.path(table, value);
        found.said += 1;
        let listed = there.remove(&path);
        if listed.as_ref().is_some_and(|v| v.same(said)) {
            lake.know(path, listed);
            continue;
        }
        let now = lake.store.version(&path).await?;
        let whole = now.as_ref().and_then(|v| v.fence).zip(said.fence).is_some_and(|(now, said)| now >= said);
        found.gone += usize::from(now.is_none());
        if !whole {
            found.late.push(value);
        }
        lake.know(path, now.clone());
        found.replaced.push((value, now));
    }
    if local {
        return Ok(found);
    }
    for (path, version) in there {
        let folder = path.prefix_match(&lake.folder(table)).map(|parts| {
            let parts: Vec<String> = parts.map(|p| p.as_ref().to_owned()).collect();
            parts[..parts.len().saturating_sub(1)].join("/")
        });
        let value = folder.and_then(|f| table.layout.parse_folder(&f));
        if let Some(value) = value.filter(|v| lake.path(table, *v) == path) {
            lake.know(path, Some(version.clone()));
            found.replaced.push((value, Some(version)));
        }
    }
    Ok(found)
}

/// Commits that the windows concerned are not covered.
async fn reopen(
    run: &TenantRun,
    resource: &Resource,
    table: &Table,
    last: Entry<Commit>,
    found: &FoundFiles,
) -> Result<(), SyncError> {
    match &resource.mode {
        Mode::Children { from, .. } => {
            if let Some(carrier) = run.config().provider.resource(from.as_str()) {
                forget_reads(run, resource, carrier, &found.late).await?;
            }
        }
        // Read with what it is taken out of; whose windows those are is not known here.
        Mode::Extracted { from, .. } => {
            if let Some(parent) = run.commit_of(from).await? {
                // A deletion of a shared thing stands in no feed.
                let mut commit = Commit { run: run.run, orphans_due: true, ..parent.body.clone() };
                uncover(&mut commit, None);
                run.state.commits(&run.tenant, from).append(parent.n, commit).await?;
            }
        }
        Mode::Full | Mode::Incremental { .. } | Mode::Tombstones { .. } => {}
    }
    let mut commit = Commit { run: run.run, unhealed: true, backfilled: None, ..last.body };
    match &resource.mode {
        Mode::Incremental { load: Some(_), .. } => {
            let spans: Option<Vec<Window>> =
                found.late.iter().map(|v| v.span().map(|(from, to)| Window::new(Some(from), to))).collect();
            uncover(&mut commit, spans);
        }
        Mode::Incremental { load: None, .. } | Mode::Tombstones { .. } => uncover(&mut commit, None),
        // Read whole in every run; by their ledger; with their parent.
        Mode::Full | Mode::Children { .. } | Mode::Extracted { .. } => {}
    }
    if commit.kind == CommitKind::Backfill {
        commit.kind = CommitKind::Increment;
    }
    for value in &found.late {
        let now = found.replaced.iter().find(|(v, _)| v == value).and_then(|(_, now)| now.clone());
        let folder = table.layout.folder(*value);
        match now {
            None => drop(commit.partitions.remove(&folder)),
            Some(now) => {
                if let Some(figures) = commit.partitions.get_mut(&folder) {
                    // Under the hold that it had: what comes late once more is late again.
                    let fence = figures.version.as_ref().and_then(|said| said.fence);
                    figures.version = Some(Version { fence, ..now });
                }
            }
        }
    }
    run.state.commits(&run.tenant, &resource.name).append(last.n, commit).await?;
    Ok(())
}

/// Takes windows of a load off what is covered; all of it when it cannot be said which.
fn uncover(commit: &mut Commit, spans: Option<Vec<Window>>) {
    commit.load_done = false;
    match spans {
        Some(spans) if commit.load_started.is_some() => {
            for span in spans {
                commit.covered.created.cut(span);
            }
        }
        _ => commit.covered = Covered::default(),
    }
}

/// Takes the ledger of a table of children away where its parents are those of `late` partitions: they are due again.
async fn forget_reads(
    run: &TenantRun,
    child: &Resource,
    carrier: &Resource,
    late: &[PartitionValue],
) -> Result<(), SyncError> {
    let ledger = Ledger::new(&run.world, &run.tenant, &run.lake.scratch, child, carrier)?;
    let by_year = ledger.table.layout.granularity == Granularity::Year;
    let concerned = |value: &PartitionValue| match value {
        _ if !by_year => true,
        PartitionValue::Year(year) => late.iter().any(|v| match v {
            PartitionValue::Year(y) | PartitionValue::Month(y, _) => y == year,
            PartitionValue::Whole | PartitionValue::Bucket(_) => true,
            PartitionValue::Null => false,
        }),
        _ => late.iter().any(|v| !matches!(v, PartitionValue::Year(_) | PartitionValue::Month(..))),
    };
    for value in load::partition_values(&ledger.lake, &ledger.table).await?.into_iter().filter(concerned) {
        run.lease.ensure().await?;
        ledger.lake.store.remove(&ledger.lake.path(&ledger.table, value)).await?;
    }
    Ok(())
}

/// Deletes once more what is known to be deleted: a late file may hold it.
async fn take_out_the_dead(run: &TenantRun, resource: &Resource, table: &Table) -> Result<(), SyncError> {
    let on = run.config().tenant(&run.tenant).on_delete;
    let deletions = |map: HashMap<String, i64>| -> Vec<Deletion> {
        map.into_iter().map(|(key, ms)| Deletion { key, at: Timestamp::from_ms(ms) }).collect()
    };
    let [keys, parents] = run.dead(resource).await?.map(deletions);
    let record = async |deleted: &Deleted, of: &ResourceName| delete::record(run, of, table, deleted).await;
    if !keys.is_empty() {
        // Children first here, too: what belongs to a dead record is found by it, and dies when it died.
        delete::follow(run, resource, &keys, &mut delete::Touched::new()).await?;
        record(&load::delete(&run.lake, &run.lease, table, By::Key, &keys, on, None).await?, &resource.name).await?;
    }
    if !parents.is_empty() && table.by_parent {
        record(&load::delete(&run.lake, &run.lease, table, By::Parent, &parents, on, None).await?, &resource.name)
            .await?;
    }
    Ok(())
}
