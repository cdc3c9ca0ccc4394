//! Anonymizations, applied to what the lake holds of these people beside their own records: tables that are not read any more,
//! or whose turn did not come. A table that was read since has what the provider still lists, and stays.
//!
//! Who is due stands in the commit of the listing with which they arrived, until all tables are done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::TimestampMicrosecondType;

use super::delete::{Touched, note, orphans};
use super::ledger::Ledger;
use super::{SyncError, TenantRun, contents};
use crate::catalog::{Mode, Resource, SYNCED_AT, Table};
use crate::clock::Timestamp;
use crate::load::{self, By, Deletion};
use crate::names::ResourceName;
use crate::state::{Commit, CommitKind};

/// Empties what is left of everybody who arrived anonymized since this was done last (of all of them in a full run).
pub(super) async fn everywhere(run: &Arc<TenantRun>) -> Result<Touched, SyncError> {
    let mut touched = Touched::new();
    // What a backfill brings is not committed with the tables that were read along.
    let due = run.options.full || run.anonymized.load(Ordering::Relaxed);
    if !due || run.options.backfill.is_some() {
        return Ok(touched);
    }
    let provider = &run.config().provider;
    for listing in provider.resources.iter().filter(|r| matches!(r.mode, Mode::Incremental { .. } | Mode::Full)) {
        let taken_out = |r: &&Resource| matches!(&r.mode, Mode::Extracted { from, .. } if *from == listing.name);
        let people = || std::iter::once(listing).chain(provider.resources.iter().filter(taken_out));
        if people().all(|p| p.anonymized.is_none()) {
            continue;
        }
        let Some(last) = run.commit_of(&listing.name).await?.filter(|c| c.body.kind != CommitKind::Erased) else {
            continue;
        };
        let since = match run.options.full && run.reads(&listing.name) {
            true => Some(Timestamp::from_ms(0)),
            false => last.body.anonymized_since,
        };
        let Some(since) = since else { continue };
        for people in people() {
            let who = arrived(run, people, since).await?;
            follow(run, people, &who, &last.body.along, &mut touched).await?;
        }
        // The newest one again: what was done just now may have written some.
        if let Some(last) = run.commit_of(&listing.name).await? {
            let commit = Commit { run: run.run, anonymized_since: None, backfilled: None, ..last.body };
            run.state.commits(&run.tenant, &listing.name).append(last.n, commit).await?;
        }
    }
    Ok(touched)
}

/// Who of a table is anonymized and was first seen so at `since` or later, and when that was.
async fn arrived(run: &TenantRun, people: &Resource, since: Timestamp) -> Result<Vec<Deletion>, SyncError> {
    let (Some(mark), [key]) = (people.anonymized.as_deref(), people.key.as_slice()) else { return Ok(Vec::new()) };
    let table = run.config().table(people)?;
    let mut who = Vec::new();
    for value in load::partition_values(&run.lake, &table).await? {
        for batch in load::living_rows(&run.lake, &table, value, &[key, mark, SYNCED_AT]).await? {
            let column = |name: &str| batch.column_by_name(name);
            let (Some(ids), Some(marks), Some(synced)) = (
                column(key).and_then(|c| c.as_string_opt::<i32>()),
                column(mark).and_then(|c| c.as_boolean_opt()),
                column(SYNCED_AT).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>()),
            ) else {
                continue;
            };
            let theirs = |i: &usize| marks.is_valid(*i) && marks.value(*i) && synced.value(*i) >= since.us();
            who.extend((0..batch.num_rows()).filter(theirs).map(|i| Deletion {
                key: ids.value(i).to_owned(),
                at: Timestamp::from_ms(synced.value(i).div_euclid(1000)),
            }));
        }
    }
    Ok(who)
}

/// Empties what hangs on `who`, rows of `parent`: `along` are the tables that were read with them.
async fn follow(
    run: &TenantRun,
    parent: &Resource,
    who: &[Deletion],
    along: &BTreeSet<ResourceName>,
    touched: &mut Touched,
) -> Result<(), SyncError> {
    if who.is_empty() {
        return Ok(());
    }
    let provider = &run.config().provider;
    let exists = async |r: &Resource| -> Result<bool, SyncError> {
        Ok(run.commit_of(&r.name).await?.is_some_and(|c| c.body.kind != CommitKind::Erased))
    };
    for child in provider.resources.iter().filter(|r| r.mode.parent() == Some(&parent.name)) {
        let parents = provider.resources.iter().any(|r| r.mode.parent() == Some(&child.name));
        let read_along = along.contains(&child.name);
        if read_along && !parents || !exists(child).await? {
            continue;
        }
        let table = run.config().table(child)?;
        let (by, theirs) = match &child.mode {
            Mode::Extracted { field, .. } if child.parent.is_none() => {
                let everybody = arrived(run, parent, Timestamp::from_ms(0)).await?.into_iter().map(|d| d.key).collect();
                let carrier = run.config().table(parent)?;
                (By::Key, orphans(run, parent, &carrier, field, who, Some(everybody)).await?)
            }
            _ => (By::parents_of(&table), who.to_vec()),
        };
        if parents {
            let below = match by {
                By::Parent => load::keys_of_parents(&run.lake, &table, &theirs).await?,
                _ => theirs.clone(),
            };
            Box::pin(follow(run, child, &below, along, touched)).await?;
        }
        let left = match &child.mode {
            _ if read_along => Vec::new(),
            Mode::Children { .. } => unread(run, child, parent, theirs).await?,
            _ => theirs,
        };
        empty(run, child, &table, by, &left, touched).await?;
        if child.content.is_some() && touched.contains_key(&child.name) {
            contents::documents_without_a_row(run, child, parent).await?;
        }
    }
    // What lists everybody's answers is as the provider has it, where it is read.
    for of_all in provider.resources.iter().filter(|r| !run.reads(&r.name)) {
        let Some(column) = of_all.names_whose(parent) else { continue };
        if exists(of_all).await? {
            let table = run.config().table(of_all)?;
            empty(run, of_all, &table, By::Reference(&column.name), who, touched).await?;
        }
    }
    Ok(())
}

async fn empty(
    run: &TenantRun,
    of: &Resource,
    table: &Table,
    by: By<'_>,
    who: &[Deletion],
    touched: &mut Touched,
) -> Result<(), SyncError> {
    let done = load::blank(&run.lake, &run.lease, table, by, who).await?;
    if done.rewritten.is_empty() { Ok(()) } else { note(run, of, table, done, touched).await }
}

/// Of `who`, those whose children were not read since.
async fn unread(
    run: &TenantRun,
    child: &Resource,
    parent: &Resource,
    who: Vec<Deletion>,
) -> Result<Vec<Deletion>, SyncError> {
    let reads = Ledger::new(&run.world, &run.tenant, &run.lake.scratch, child, parent)?.read().await?;
    Ok(who.into_iter().filter(|d| reads.of_key(&d.key).is_none_or(|us| us < d.at.us())).collect())
}
