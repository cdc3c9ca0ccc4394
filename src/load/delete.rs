//! Deletions: rows are found by key through the bloom filters of every partition, and the partitions that hold one are
//! rewritten.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::nullif;

use super::error::{Fault, LoadError};
use super::file::{Existing, Writer};
use super::find::partitions;
use super::hash::hash_rows;
use super::merge::Merged;
use super::rows::{Held, I64s, Keys, Source, System};
use super::{Lake, blocking, put};
use crate::catalog::{OnDelete, PartitionValue, Table};
use crate::clock::Timestamp;
use crate::state::Lease;

/// A record that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Its key (or the parent's id); the parts of a composite one joined with [`KEY_SEPARATOR`](super::KEY_SEPARATOR).
    pub key: String,
    /// When.
    pub at: Timestamp,
}

/// By which column rows are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By<'a> {
    /// Their key.
    Key,
    /// Their parent's.
    Parent,
    /// Something that they refer to, in the column of that name.
    Reference(&'a str),
}

impl By<'_> {
    /// By their parents: a table that has one row of each has it by the parent's key.
    #[must_use]
    pub fn parents_of(table: &Table) -> Self {
        if table.by_parent { Self::Parent } else { Self::Key }
    }
}

/// What a deletion did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deleted {
    /// Rows that were redacted, marked or removed.
    pub rows: u64,
    /// Partitions whose rows had to be looked at, because a bloom filter did not rule them out.
    pub partitions_scanned: u64,
    /// Partitions that were rewritten, with the figures of their new file.
    pub rewritten: Vec<(PartitionValue, Merged)>,
}

/// Deletes rows, in the partitions of `hint` or in all of them.
///
/// A row that is deleted already stays as it is (`remove` takes it away), so this may be repeated. A row whose version (in
/// tables without one: whose first sight) is later than the deletion is alive again and is left.
///
/// # Errors
///
/// [`LoadError`]; partitions are rewritten one by one, and repeating the call completes the rest. [`LoadError::Batch`] for a
/// table without the column by which rows are looked for.
pub async fn delete(
    lake: &Lake,
    lease: &Lease,
    table: &Table,
    by: By<'_>,
    deletions: &[Deletion],
    on: OnDelete,
    hint: Option<&BTreeSet<PartitionValue>>,
) -> Result<Deleted, LoadError> {
    let act = match on {
        OnDelete::Redact => Act::Redact,
        OnDelete::Mark => Act::Mark,
        OnDelete::Remove => Act::Drop,
    };
    everywhere(lake, lease, table, Wanted::deletions(table, deletions, by), act, hint).await
}

/// Empties the sensitive columns of rows, whether marked as deleted or not: of people who were anonymized, each with the time at
/// which that was seen, which is from then on when the row was. Rows seen later are as the provider has them, and stay; so do
/// those that hold nothing sensitive.
///
/// # Errors
///
/// As [`delete`].
pub async fn blank(
    lake: &Lake,
    lease: &Lease,
    table: &Table,
    by: By<'_>,
    people: &[Deletion],
) -> Result<Deleted, LoadError> {
    everywhere(lake, lease, table, Wanted::deletions(table, people, by), Act::Blank, None).await
}

async fn everywhere(
    lake: &Lake,
    lease: &Lease,
    table: &Table,
    wanted: Wanted,
    act: Act,
    hint: Option<&BTreeSet<PartitionValue>>,
) -> Result<Deleted, LoadError> {
    let mut deleted = Deleted::default();
    if wanted.at.is_empty() {
        return Ok(deleted);
    }
    let wanted = Arc::new(wanted);
    for value in partitions(lake, table, "find the partitions of deleted rows").await? {
        if hint.is_some_and(|h| !h.contains(&value)) {
            continue;
        }
        let done = rewrite(lake, lease, table, value, &wanted, act).await?;
        deleted.partitions_scanned += u64::from(done.scanned);
        if done.figures.rewritten {
            deleted.rows += done.figures.updated + done.figures.removed;
            deleted.rewritten.push((value, done.figures));
        }
    }
    Ok(deleted)
}

/// What is done to a row that is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Redact,
    Mark,
    Drop,
    Blank,
}

/// Which rows are looked for, each with the time (µs) after which a row is alive again.
pub(super) struct Wanted {
    /// Table indices of the columns that are compared; `None` where the table has no such column.
    columns: Option<Vec<usize>>,
    at: HashMap<String, Option<i64>>,
}

impl Wanted {
    fn deletions(table: &Table, deletions: &[Deletion], by: By<'_>) -> Self {
        let mut at: HashMap<String, Option<i64>> = HashMap::new();
        for d in deletions {
            let latest = at.entry(d.key.clone()).or_insert(Some(d.at.us()));
            *latest = (*latest).max(Some(d.at.us()));
        }
        Self { columns: Self::compared(table, by), at }
    }
    /// Rows of these, whatever their age.
    pub(super) fn any(table: &Table, by: By<'_>, ids: impl IntoIterator<Item = String>) -> Self {
        Self { columns: Self::compared(table, by), at: ids.into_iter().map(|k| (k, None)).collect() }
    }
    fn compared(table: &Table, by: By<'_>) -> Option<Vec<usize>> {
        match by {
            By::Key => Some(table.order.key.clone()),
            By::Parent => table.order.parent.map(|parent| vec![parent]),
            By::Reference(column) => table.schema.index_of(column).ok().map(|column| vec![column]),
        }
    }
    fn columns(&self) -> Result<&[usize], Fault> {
        self.columns.as_deref().ok_or_else(|| Fault::Batch("the table has no column to find these rows by".into()))
    }
    /// Row groups that may hold a wanted row.
    pub(super) fn groups(&self, existing: &Existing, table: &Table) -> Result<Vec<usize>, Fault> {
        match self.columns()? {
            [one] => existing.groups_with(table, *one, self.at.keys().map(String::as_str)),
            _ => Ok((0..existing.meta.metadata().num_row_groups()).collect()),
        }
    }
    pub(super) fn names(&self, keys: &Keys, i: usize) -> bool {
        self.at.contains_key(keys.get(i).as_ref())
    }
}

/// The columns of a batch that decide about a deletion.
struct Judged {
    keys: Keys,
    synced: I64s,
    deleted: I64s,
    version: Option<I64s>,
    /// Sensitive columns, where it counts whether they hold anything.
    sensitive: Vec<ArrayRef>,
}

impl Judged {
    fn columns(table: &Table, wanted: &Wanted, act: Act) -> Result<Vec<usize>, Fault> {
        let system = System::of(table)?;
        let mut columns = wanted.columns()?.to_vec();
        columns.extend([system.synced, system.deleted]);
        columns.extend(Self::sensitive(table, act));
        columns.extend(table.version);
        columns.sort_unstable();
        columns.dedup();
        Ok(columns)
    }
    fn sensitive(table: &Table, act: Act) -> &[usize] {
        if act == Act::Blank { &table.sensitive } else { &[] }
    }
    fn new(table: &Table, wanted: &Wanted, batch: &RecordBatch, held: &Held, act: Act) -> Result<Self, Fault> {
        let system = System::of(table)?;
        let number = |i: usize| I64s::new(held.column(batch, i)?, table.schema.field(i).name());
        Ok(Self {
            keys: held.keys(batch, wanted.columns()?)?,
            synced: number(system.synced)?,
            deleted: number(system.deleted)?,
            version: table.version.map(number).transpose()?,
            sensitive: Self::sensitive(table, act)
                .iter()
                .map(|&i| held.column(batch, i).cloned())
                .collect::<Result<_, _>>()?,
        })
    }
    /// The time of deletion (µs) if something is to be done to the row; zero for an unconditional removal.
    fn hit(&self, wanted: &Wanted, act: Act, i: usize) -> Option<i64> {
        let at = *wanted.at.get(self.keys.get(i).as_ref())?;
        if act == Act::Blank {
            let holds = || self.sensitive.iter().any(|c| c.is_valid(i));
            return at.filter(|at| self.synced.at(i) < *at && holds());
        }
        if act != Act::Drop && self.deleted.get(i).is_some() {
            return None;
        }
        let Some(at) = at else { return Some(0) };
        let alive_again = match &self.version {
            Some(version) => version.get(i).is_some_and(|v| v > at),
            None => self.synced.at(i) > at,
        };
        (!alive_again).then_some(at)
    }
}

/// What [`rewrite`] did to one partition.
pub(super) struct Rewritten {
    /// Whether rows were looked at.
    pub(super) scanned: bool,
    /// Figures of the file, when it was rewritten.
    pub(super) figures: Merged,
}

/// Does `act` to the wanted rows of one partition; a partition without one is left alone, one that does not exist is fine.
pub(super) async fn rewrite(
    lake: &Lake,
    lease: &Lease,
    table: &Table,
    value: PartitionValue,
    wanted: &Arc<Wanted>,
    act: Act,
) -> Result<Rewritten, LoadError> {
    let doing = "delete rows of the partition";
    let path = lake.path(table, value);
    let at = lake.place(table, &path);
    let untouched = |scanned| Rewritten { scanned, figures: Merged::default() };
    let Some(base) = lake.base(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else {
        return Ok(untouched(false));
    };
    let (table_, wanted, store) = (table.clone(), Arc::clone(wanted), lake.store.clone());
    let (base, scanned, outcome) = blocking(&at, doing, move || {
        let existing = Existing::open(&base.file, &table_)?;
        let groups = wanted.groups(&existing, &table_)?;
        let scanned = !groups.is_empty();
        let mut hit = false;
        if scanned {
            let reader = existing.read_some(&table_, &Judged::columns(&table_, &wanted, act)?, Some(groups))?;
            let held = reader.held.clone();
            for batch in reader {
                let batch = batch?;
                let judged = Judged::new(&table_, &wanted, &batch, &held, act)?;
                if (0..batch.num_rows()).any(|i| judged.hit(&wanted, act, i).is_some()) {
                    hit = true;
                    break;
                }
            }
        }
        if !hit {
            return Ok((base.version.clone(), scanned, None));
        }
        let mut writer = Writer::new(&store, &table_)?;
        let mut touched = 0;
        let held = Held::all(&table_);
        for batch in existing.read(&table_)? {
            let batch = batch?;
            let judged = Judged::new(&table_, &wanted, &batch, &held, act)?;
            let hits: Vec<_> = (0..batch.num_rows()).map(|i| judged.hit(&wanted, act, i)).collect();
            let any = hits.iter().any(Option::is_some);
            let source =
                Source::new(if any && act != Act::Drop { changed(&table_, &batch, &hits, act)? } else { batch });
            for (i, hit) in hits.iter().enumerate() {
                touched += u64::from(hit.is_some());
                if hit.is_none() || act != Act::Drop {
                    writer.pick(&source, i)?;
                }
            }
        }
        Ok((base.version.clone(), scanned, Some((writer.finish()?, touched))))
    })
    .await?;
    let Some((written, touched)) = outcome else { return Ok(untouched(scanned)) };
    let version = put(lake, lease, &at, &path, written.staged, Some(&base)).await?;
    let (updated, removed) = if act == Act::Drop { (0, touched) } else { (touched, 0) };
    let figures = Merged {
        rewritten: true,
        updated,
        removed,
        rows: written.rows,
        living: written.living,
        bytes: version.bytes,
        version: Some(version),
        ..Merged::default()
    };
    Ok(Rewritten { scanned, figures })
}

/// `batch` with the rows that were hit marked or seen anew, and emptied where that is asked.
fn changed(table: &Table, batch: &RecordBatch, hits: &[Option<i64>], act: Act) -> Result<RecordBatch, Fault> {
    let system = System::of(table)?;
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    let mut set = |i: usize, column: ArrayRef| {
        if let Some(place) = columns.get_mut(i) {
            *place = column;
        }
    };
    let utc = |times: TimestampMicrosecondArray| -> ArrayRef { Arc::new(times.with_timezone("UTC")) };
    if act == Act::Blank {
        let synced = I64s::new(batch.column(system.synced), "_synced_at")?;
        let seen = |(i, hit): (usize, &Option<i64>)| Some(hit.map_or(synced.at(i), |at| at.max(synced.at(i))));
        set(system.synced, utc(hits.iter().enumerate().map(seen).collect()));
    } else {
        let deleted = I64s::new(batch.column(system.deleted), "_deleted_at")?;
        set(system.deleted, utc(hits.iter().enumerate().map(|(i, hit)| hit.or(deleted.get(i))).collect()));
    }
    if matches!(act, Act::Redact | Act::Blank) {
        let mask = BooleanArray::from_iter(hits.iter().map(|hit| Some(hit.is_some())));
        for &i in &table.sensitive {
            set(i, nullif(batch.column(i).as_ref(), &mask)?);
        }
        let fields = table.schema.fields().iter().map(|f| f.name().as_str());
        let hashes = hash_rows(table, fields.zip(&columns), batch.num_rows())?;
        let old = I64s::new(batch.column(system.hash), "_row_hash")?;
        let new = hits.iter().zip(hashes).enumerate().map(|(i, (hit, h))| if hit.is_some() { h } else { old.at(i) });
        if let Some(place) = columns.get_mut(system.hash) {
            *place = Arc::new(Int64Array::from_iter_values(new)) as ArrayRef;
        }
    }
    Ok(RecordBatch::try_new(Arc::clone(&table.schema), columns)?)
}
