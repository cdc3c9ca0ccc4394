//! Deletions of a feed, applied to the tables concerned: children first, the record last, so that a crash in between leaves
//! the record by which the rest is found again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::TimestampMicrosecondType;

use super::group::FEW_ABSENT;
use super::quarantine::{self, Gone};
use super::{SyncError, TenantRun, fail, group};
use crate::catalog::{Mode, Resource, Table};
use crate::clock::Timestamp;
use crate::extract;
use crate::load::{self, By, Deleted, Deletion};
use crate::names::ResourceName;
use crate::report::TenantReport;
use crate::state::{CommitKind, PartitionFigures};

/// What a feed did to each table.
pub(super) type Touched = BTreeMap<ResourceName, Deleted>;

/// Applies the deletions that `feed` announced.
pub(super) async fn apply(run: &TenantRun, feed: &Resource, deletions: &[Deletion]) -> Result<Touched, SyncError> {
    let mut touched = Touched::new();
    let Mode::Tombstones { of, .. } = &feed.mode else { return Ok(touched) };
    let Some(target) = run.config().provider.resource(of.as_str()) else { return Ok(touched) };
    // What could not be decoded is in no table, so it is looked for whatever the tables hold.
    if target.is_personal() {
        quarantine::forget(run, &Gone::Deleted(target, deletions)).await?;
    }
    if deletions.is_empty() || run.commit_of(of).await?.is_none() {
        return Ok(touched);
    }
    remove(run, target, deletions, &mut touched).await?;
    Ok(touched)
}

/// Deleted rows of a resource, and before them what belongs to them.
async fn remove(
    run: &TenantRun,
    target: &Resource,
    deletions: &[Deletion],
    touched: &mut Touched,
) -> Result<(), SyncError> {
    let (table, on) = (run.config().table(target)?, run.config().tenant(&run.tenant).on_delete);
    follow(run, target, deletions, touched).await?;
    let deleted = load::delete(&run.lake, &run.lease, &table, By::Key, deletions, on, None).await?;
    note(run, target, &table, deleted, touched).await
}

/// Records that a request for their children did not find, and that are looked for by their ids: those that are not there were
/// deleted, or merged into others, without a word in a feed. One whose children alone were not found stays due.
pub(super) async fn vanished(run: &TenantRun, report: &mut TenantReport) -> Result<Touched, SyncError> {
    let mut touched = Touched::new();
    let gone = std::mem::take(&mut *run.gone.lock().unwrap_or_else(PoisonError::into_inner));
    for (name, ids) in gone {
        let Some(resource) = run.config().provider.resource(name.as_str()) else { continue };
        let Some(item) = &resource.item else { continue };
        let rows = run.commit_of(&name).await?.map_or(0, |c| c.body.living());
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        if ids.len() > FEW_ABSENT && ids.len().saturating_mul(5) > rows && !run.options.allow_mass_delete {
            let (tenant, resource, absent) = (run.tenant.clone(), name.clone(), ids.len());
            report.failures.push(fail(Some(&name), &SyncError::Unfound { tenant, resource, absent, rows }));
            continue;
        }
        let mut deletions = Vec::new();
        let mut ids: Vec<String> = ids.into_iter().collect();
        if !run.sees_confidential(&name) {
            let hidden = hidden(run, resource, &ids).await?;
            ids.retain(|id| !hidden.contains(id));
        }
        for id in ids {
            if run.world.stop.is_cancelled() {
                break;
            }
            run.entry(report, &name).requests += 1;
            match extract::exists(run.session_of(&name), resource, item, &id).await {
                Ok(true) => {}
                Ok(false) => deletions.push(Deletion { key: id, at: run.world.clock.now() }),
                // It is due, and looked for again by the next run.
                Err(error) => {
                    tracing::warn!(resource = %name, %error, "a record that may be gone could not be looked for")
                }
            }
        }
        if deletions.is_empty() {
            continue;
        }
        if resource.is_personal() {
            quarantine::forget(run, &Gone::Deleted(resource, &deletions)).await?;
        }
        remove(run, resource, &deletions, &mut touched).await?;
    }
    Ok(touched)
}

/// Of these records, those that are confidential: whoever does not ask for such ones does not see them, and they are not gone.
pub(super) async fn hidden(
    run: &TenantRun,
    resource: &Resource,
    ids: &[String],
) -> Result<BTreeSet<String>, SyncError> {
    let mark = run.config().provider.confidential.as_ref().map(|c| c.mark.as_str());
    let (Some(column), [key]) = (&resource.confidential, resource.key.as_slice()) else { return Ok(BTreeSet::new()) };
    let table = run.config().table(resource)?;
    let rows = load::select(&run.lake, &table, &[key, column], &ids.iter().cloned().collect()).await?;
    let text = |name: &str| rows.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let (Some(ids), Some(marks)) = (text(key), text(column)) else { return Ok(BTreeSet::new()) };
    Ok(ids.iter().zip(marks).filter(|(_, m)| *m == mark).filter_map(|(id, _)| id.map(str::to_owned)).collect())
}

/// What belongs to deleted rows of `parent` goes before them: what was taken out of them, their children, and theirs.
pub(super) async fn follow(
    run: &TenantRun,
    parent: &Resource,
    deletions: &[Deletion],
    touched: &mut Touched,
) -> Result<(), SyncError> {
    let provider = &run.config().provider;
    let on = run.config().tenant(&run.tenant).on_delete;
    let table = run.config().table(parent)?;
    for child in &provider.resources {
        if child.mode.parent() != Some(&parent.name) || run.commit_of(&child.name).await?.is_none() {
            continue;
        }
        let children = run.config().table(child)?;
        if provider.resources.iter().any(|r| r.mode.parent() == Some(&child.name)) && children.by_parent {
            let gone = load::keys_of_parents(&run.lake, &children, deletions).await?;
            Box::pin(follow(run, child, &gone, touched)).await?;
        }
        let (by, theirs) = match &child.mode {
            Mode::Extracted { field, .. } if child.parent.is_none() => {
                let shared = orphans(run, parent, &table, field, deletions, None).await?;
                quarantine::forget(run, &Gone::Deleted(child, &shared)).await?;
                Box::pin(follow(run, child, &shared, touched)).await?;
                (By::Key, Cow::Owned(shared))
            }
            _ => (By::parents_of(&children), Cow::Borrowed(deletions)),
        };
        let deleted = load::delete(&run.lake, &run.lease, &children, by, &theirs, on, None).await?;
        note(run, child, &children, deleted, touched).await?;
    }
    // A listing of everybody's answers tells by itself who is missing; nobody reads it any more where it was left out.
    for of_all in provider.resources.iter().filter(|r| !run.reads(&r.name)) {
        let Some(column) = of_all.names_whose(parent) else { continue };
        if run.commit_of(&of_all.name).await?.is_none() {
            continue;
        }
        let theirs = run.config().table(of_all)?;
        let by = By::Reference(&column.name);
        let deleted = load::delete(&run.lake, &run.lease, &theirs, by, deletions, on, None).await?;
        note(run, of_all, &theirs, deleted, touched).await?;
    }
    Ok(())
}

/// Notes what was done to a table, in its own line of commits and among what was touched.
pub(super) async fn note(
    run: &TenantRun,
    of: &Resource,
    table: &Table,
    done: Deleted,
    touched: &mut Touched,
) -> Result<(), SyncError> {
    record(run, &of.name, table, &done).await?;
    let so_far = touched.entry(of.name.clone()).or_default();
    so_far.rows += done.rows;
    so_far.partitions_scanned += done.partitions_scanned;
    so_far.rewritten.extend(done.rewritten);
    Ok(())
}

/// Shared things (contacts) to which only those records refer. `nobodies`: records that live on and keep nothing, where these
/// were anonymized and not deleted; a deleted record that changed since is alive again.
pub(super) async fn orphans(
    run: &TenantRun,
    target: &Resource,
    table: &Table,
    field: &str,
    deletions: &[Deletion],
    nobodies: Option<BTreeSet<String>>,
) -> Result<Vec<Deletion>, SyncError> {
    let Some(column) = target.columns.iter().find(|c| c.source == field) else { return Ok(Vec::new()) };
    let keys: BTreeSet<String> = deletions.iter().map(|d| d.key.clone()).collect();
    let at: BTreeMap<&str, i64> = deletions.iter().map(|d| (d.key.as_str(), d.at.us())).collect();
    let key = target.key[0].as_str();
    let version = table.version.filter(|_| nobodies.is_none()).map(|i| table.schema.field(i).name().clone());
    let mut columns = vec![key, column.name.as_str()];
    columns.extend(version.as_deref());
    let rows = load::select(&run.lake, table, &columns, &keys).await?;
    let text = |name: &str| rows.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).cloned();
    let (Some(ids), Some(refs)) = (text(key), text(&column.name)) else { return Ok(Vec::new()) };
    let versions = version
        .as_deref()
        .and_then(|v| rows.column_by_name(v))
        .and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let mut candidates: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut dead = nobodies.unwrap_or_default();
    for i in (0..rows.num_rows()).filter(|&i| !refs.is_null(i)) {
        let Some(deleted_us) = at.get(ids.value(i)) else { continue };
        // A record changed after its deletion is alive again.
        if versions.is_some_and(|v| !v.is_null(i) && v.value(i) > *deleted_us) {
            continue;
        }
        dead.insert(ids.value(i).to_owned());
        let when = Timestamp::from_ms(deleted_us.div_euclid(1000));
        let latest = candidates.entry(refs.value(i).to_owned()).or_insert(when);
        *latest = when.max(*latest);
    }
    let values: BTreeSet<String> = candidates.keys().cloned().collect();
    let living = load::still_referenced(&run.lake, table, &column.name, &values, &dead).await?;
    candidates.retain(|id, _| !living.contains(id));
    Ok(candidates.into_iter().map(|(key, at)| Deletion { key, at }).collect())
}

/// Notes a table's changed files in its own line of commits.
pub(super) async fn record(
    run: &TenantRun,
    resource: &ResourceName,
    table: &Table,
    deleted: &Deleted,
) -> Result<(), SyncError> {
    if deleted.rewritten.is_empty() {
        return Ok(());
    }
    let Some(last) = run.commit_of(resource).await? else { return Ok(()) };
    let mut commit = crate::state::Commit { run: run.run, ..last.body };
    if commit.kind == CommitKind::Backfill {
        commit.kind = CommitKind::Increment;
        commit.backfilled = None;
    }
    for (value, merged) in &deleted.rewritten {
        let figures = PartitionFigures { rows: merged.rows, living: merged.living, version: merged.version.clone() };
        group::note(&mut commit.partitions, table.layout.folder(*value), figures);
    }
    run.state.commits(&run.tenant, resource).append(last.n, commit).await?;
    Ok(())
}
