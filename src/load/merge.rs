//! The streaming merge: sorted runs and the file that is there become the file that takes its place.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::delete::{Act, Wanted, rewrite};
use super::error::{Fault, LoadError};
use super::file::{Existing, Writer, Written};
use super::rows::{Held, Loaded, Sorter, System, key_hash, run_schema};
use super::spill::{RunFile, Runs, sorted};
use super::{Lake, blocking, put};
use crate::catalog::{Granularity, PartitionValue, Table};
use crate::state::Lease;
use crate::store::{Store, Version};

/// Most runs that are read at once: each costs a batch of 256 rows. More are merged into one run first.
const FAN_IN: usize = 16;

/// What a merge did to a partition.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merged {
    /// Whether the file was replaced; false when nothing in it would have changed.
    pub rewritten: bool,
    /// Rows that were not there.
    pub inserted: u64,
    /// Rows whose content changed, or that are alive again.
    pub updated: u64,
    /// Incoming rows that said nothing new.
    pub unchanged: u64,
    /// Rows that are gone: children missing from their parent's latest read, rows that moved to their dated partition.
    pub removed: u64,
    /// Incoming rows that were dropped because their record is known to be deleted.
    pub suppressed: u64,
    /// Rows in the file now, deleted ones included.
    pub rows: u64,
    /// Rows in the file now that are not deleted.
    pub living: u64,
    /// Size of the file now.
    pub bytes: u64,
    /// Version of the file now; none when there is no file.
    pub version: Option<Version>,
}

/// What is known to be deleted, and when (epoch ms): asked for every incoming row, so that a page read before a deletion
/// cannot bring the dead back. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Suppress {
    keys: Arc<HashMap<String, i64>>,
    parents: Arc<HashMap<String, i64>>,
}

impl Suppress {
    /// Nothing is deleted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
    /// `keys`: deleted rows by key. `parents`: deleted parents of a table of children, whose reads are dropped whole.
    #[must_use]
    pub fn new(keys: HashMap<String, i64>, parents: HashMap<String, i64>) -> Self {
        Self { keys: Arc::new(keys), parents: Arc::new(parents) }
    }
    /// Whether the row is of a record that was deleted after this version of it, or after it was seen.
    fn row(&self, rows: &Loaded, i: usize) -> bool {
        if self.parent(rows, i) {
            return true;
        }
        if self.keys.is_empty() {
            return false;
        }
        let Some(&deleted_ms) = self.keys.get(rows.keys.get(i).as_ref()) else { return false };
        let deleted = deleted_ms.saturating_mul(1000);
        match &rows.version {
            Some(version) => version.get(i).is_none_or(|v| v <= deleted),
            None => rows.synced.at(i) <= deleted,
        }
    }
    fn parent(&self, rows: &Loaded, i: usize) -> bool {
        if self.parents.is_empty() {
            return false;
        }
        let deleted = rows.parent(i).and_then(|p| self.parents.get(p.as_ref()).copied());
        deleted.is_some_and(|ms| rows.synced.at(i) <= ms.saturating_mul(1000))
    }
}

/// Merges `runs` into the partition `value` and replaces its file, unless nothing would change.
///
/// Between two versions of a row the newer `table.version` wins (null is oldest), then the one seen later, then the later
/// response; against the row that is there the incoming one wins a tie unless the former was first seen after it. Rows of
/// a parent are replaced by the parent's latest read; deleted ones, and those first seen after that read, stay.
///
/// A row that has left `__HIVE_DEFAULT_PARTITION__` is removed there after its dated file is in place: a crash between the
/// two leaves it twice until the same rows are merged again, which looks there again.
///
/// # Errors
///
/// [`LoadError`]; the partition is then as it was, or (after a failure to clean up the undated partition) complete, and
/// merging the same rows again is safe.
pub async fn merge(
    lake: &Lake,
    lease: &Lease,
    table: &Table,
    value: PartitionValue,
    runs: Runs,
    suppress: &Suppress,
) -> Result<Merged, LoadError> {
    let doing = "merge new rows into the partition";
    let path = lake.path(table, value);
    let at = lake.place(table, &path);
    let store_fault = |e| Fault::Store(e).at(&at, doing);
    let base = lake.store.open_file(&path).await.map_err(store_fault)?;
    let dated =
        matches!(table.layout.granularity, Granularity::Year | Granularity::Month) && value != PartitionValue::Null;
    let undated = if dated {
        lake.store.open_file(&lake.path(table, PartitionValue::Null)).await.map_err(store_fault)?
    } else {
        None
    };
    let (table_, suppress, store) = (table.clone(), suppress.clone(), lake.store.clone());
    let (base, outcome) = blocking(&at, doing, move || {
        let existing = base.as_ref().map(|b| Existing::open(&b.file, &table_)).transpose()?;
        let strays = match (&undated, &existing) {
            (Some(undated), _) => stray_keys(&Existing::open(&undated.file, &table_)?, &table_)?,
            (None, Some(existing)) if !dated => stray_keys(existing, &table_)?,
            _ => HashSet::new(),
        };
        let rules = Rules { table: &table_, suppress: &suppress, strays, in_place: !dated };
        let outcome = run(&rules, &store, existing.as_ref(), runs)?;
        Ok((base.map(|b| b.version.clone()), outcome))
    })
    .await?;
    let Outcome { tally, strays, written } = outcome;
    let (rewritten, rows, living, version) = match written {
        Some(w) => (true, w.rows, w.living, Some(put(lake, lease, &at, &path, w.staged, base.as_ref()).await?)),
        None => (false, tally.rows, tally.living, base),
    };
    if dated && !strays.is_empty() {
        let wanted = if table.by_parent { Wanted::parents(strays) } else { Wanted::keys(strays) };
        rewrite(lake, lease, table, PartitionValue::Null, &Arc::new(wanted), Act::Drop).await?;
    }
    Ok(Merged {
        rewritten,
        inserted: tally.inserted,
        updated: tally.updated,
        unchanged: tally.unchanged,
        removed: tally.removed,
        suppressed: tally.suppressed,
        rows,
        living,
        bytes: version.as_ref().map_or(0, |v| v.bytes),
        version,
    })
}

/// Hashes of the keys (children: of the parents) of rows without a partition time: a later row with the time takes their
/// place elsewhere. Nearly always none, and then nothing but statistics is read.
fn stray_keys(existing: &Existing, table: &Table) -> Result<HashSet<u64>, Fault> {
    let time = match (table.order.time, table.layout.column) {
        (Some(time), _) | (None, Some(time)) => time,
        (None, None) => return Ok(HashSet::new()),
    };
    let by = match (table.by_parent, table.order.parent) {
        (true, Some(parent)) => vec![parent],
        _ => table.order.key.clone(),
    };
    let none_null = existing.meta.metadata().row_groups().iter().all(|g| {
        let name = table.schema.field(time).name();
        let column = g.columns().iter().find(|c| c.column_path().parts() == [name.as_str()]);
        column.and_then(|c| c.statistics()).and_then(|s| s.null_count_opt()) == Some(0)
    });
    if none_null {
        return Ok(HashSet::new());
    }
    let mut columns = by.clone();
    columns.push(time);
    columns.sort_unstable();
    let reader = existing.read_some(table, &columns, None)?;
    let held = reader.held.clone();
    let mut strays = HashSet::new();
    for batch in reader {
        let batch = batch?;
        let (keys, time) = (held.keys(&batch, &by)?, held.column(&batch, time)?);
        strays.extend((0..batch.num_rows()).filter(|&i| time.is_null(i)).map(|i| keys.hash(i)));
    }
    Ok(strays)
}

/// Writes `runs` as a new file, with nothing there before. None when there are no rows.
pub(super) fn merge_into_nothing(
    table: &Table,
    store: &Store,
    runs: Runs,
    suppress: &Suppress,
) -> Result<Option<Written>, Fault> {
    let rules = Rules { table, suppress, strays: HashSet::new(), in_place: false };
    Ok(run(&rules, store, None, runs)?.written)
}

/// What decides between rows.
pub(super) struct Rules<'a> {
    table: &'a Table,
    suppress: &'a Suppress,
    /// Hashes of keys that have an undated row, here or in the undated partition.
    strays: HashSet<u64>,
    /// Whether undated rows are in this very file (a layout that is not by time).
    in_place: bool,
}

#[derive(Default)]
struct Tally {
    inserted: u64,
    updated: u64,
    unchanged: u64,
    removed: u64,
    suppressed: u64,
    rows: u64,
    living: u64,
}

struct Outcome {
    tally: Tally,
    strays: BTreeSet<String>,
    written: Option<Written>,
}

/// Judges first, reading only the columns that decide, as long as nothing changes; writes then.
fn run(rules: &Rules<'_>, store: &Store, existing: Option<&Existing>, runs: Runs) -> Result<Outcome, Fault> {
    let table = rules.table;
    let sorter = Sorter::new(table)?;
    let runs = Inputs::new(table, &sorter, runs)?;
    let short = existing.is_some_and(|e| e.columns < table.schema.fields().len());
    if let Some(existing) = existing.filter(|_| !short) {
        let system = System::of(table)?;
        let mut columns = vec![system.synced, system.deleted, system.hash];
        columns.extend(table.version);
        columns.extend(sorter.columns.iter().map(|(i, _)| *i));
        columns.sort_unstable();
        columns.dedup();
        let reader = existing.read_some(table, &columns, None)?;
        let mut drive = Drive::new(rules, &sorter, &runs, Some(reader.held.clone()), Some(Box::new(reader)))?;
        if drive.go(None)? {
            return Ok(Outcome { tally: drive.tally, strays: drive.found, written: None });
        }
    }
    let reader = existing.map(|e| e.read(table)).transpose()?;
    let held = reader.as_ref().map(|r| r.held.clone());
    let base = reader.map(|r| Box::new(r) as Batches<'_>);
    let mut drive = Drive::new(rules, &sorter, &runs, held, base)?;
    let mut output = Output { store, table, writer: None };
    if existing.is_some() {
        // An emptied partition stays as a file without rows, so that a glob goes on working.
        output.open()?;
    }
    drive.go(Some(&mut output))?;
    let written = output.writer.map(Writer::finish).transpose()?;
    Ok(Outcome { tally: drive.tally, strays: drive.found, written })
}

/// The new file, made when its first row comes.
struct Output<'a> {
    store: &'a Store,
    table: &'a Table,
    writer: Option<Writer>,
}

impl Output<'_> {
    fn open(&mut self) -> Result<&mut Writer, Fault> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::new(self.store, self.table)?,
        };
        Ok(self.writer.insert(writer))
    }
}

type Batches<'a> = Box<dyn Iterator<Item = Result<RecordBatch, Fault>> + 'a>;

/// The incoming runs, at most [`FAN_IN`] files and what is in memory; can be read more than once.
struct Inputs {
    memory: Vec<RecordBatch>,
    files: Vec<RunFile>,
}

impl Inputs {
    fn new(table: &Table, sorter: &Sorter, mut runs: Runs) -> Result<Self, Fault> {
        let schema = run_schema(table);
        let memory = if runs.memory.is_empty() {
            Vec::new()
        } else {
            sorted(table, sorter, &runs.memory, &schema)?.collect::<Result<_, _>>()?
        };
        runs.memory.clear();
        let mut files = std::mem::take(&mut runs.files);
        let mut n = 0;
        while files.len() > FAN_IN {
            let some: Vec<_> = files.drain(..FAN_IN).collect();
            let path = runs.dir.join(format!("m{:06}-{n:06}.arrow", runs.ticket.number()));
            n += 1;
            files.push(RunFile::write(path, &schema, interleaved(table, sorter, &some)?)?);
        }
        Ok(Self { memory, files })
    }
    fn cursors<'a>(&'a self, table: &'a Table, sorter: &'a Sorter) -> Result<Vec<Cursor<'a>>, Fault> {
        let mut cursors = Vec::with_capacity(self.files.len() + 1);
        if !self.memory.is_empty() {
            let batches: Batches<'a> = Box::new(self.memory.iter().cloned().map(Ok));
            cursors.push(Cursor::new(table, sorter, Held::all(table), batches)?);
        }
        for file in &self.files {
            cursors.push(Cursor::new(table, sorter, Held::all(table), Box::new(file.read()?))?);
        }
        Ok(cursors)
    }
}

/// Several runs as one, in order; nothing is dropped.
fn interleaved<'a>(
    table: &'a Table,
    sorter: &'a Sorter,
    files: &[RunFile],
) -> Result<impl Iterator<Item = Result<RecordBatch, Fault>> + 'a, Fault> {
    let schema = run_schema(table);
    let mut heads: Vec<Whole<'a>> = Vec::with_capacity(files.len());
    for file in files {
        let mut head = Whole { batches: Box::new(file.read()?), rows: None, row: 0 };
        head.load(table, sorter)?;
        heads.push(head);
    }
    Ok(std::iter::from_fn(move || next_interleaved(table, sorter, &mut heads, &schema).transpose()))
}

/// A run that is read whole, auxiliary columns and all.
struct Whole<'a> {
    batches: Batches<'a>,
    rows: Option<(RecordBatch, arrow::row::Rows)>,
    row: usize,
}

impl Whole<'_> {
    fn load(&mut self, table: &Table, sorter: &Sorter) -> Result<(), Fault> {
        self.row = 0;
        self.rows = None;
        while let Some(batch) = self.batches.next().transpose()? {
            if batch.num_rows() > 0 {
                let rows = sorter.rows(&batch, &Held::all(table))?;
                self.rows = Some((batch, rows));
                break;
            }
        }
        Ok(())
    }
}

fn next_interleaved(
    table: &Table,
    sorter: &Sorter,
    heads: &mut [Whole<'_>],
    schema: &arrow::datatypes::SchemaRef,
) -> Result<Option<RecordBatch>, Fault> {
    // Single rows are slices; a chunk of them becomes one batch.
    let mut batches: Vec<RecordBatch> = Vec::new();
    let mut slots: Vec<Option<usize>> = vec![None; heads.len()];
    let mut picks = Vec::new();
    while picks.len() < 256 {
        let mut least: Option<usize> = None;
        for (i, head) in heads.iter().enumerate() {
            let Some((_, rows)) = &head.rows else { continue };
            let less = match least.and_then(|l| heads.get(l)) {
                Some(Whole { rows: Some((_, other)), row, .. }) => rows.row(head.row) < other.row(*row),
                _ => true,
            };
            if less {
                least = Some(i);
            }
        }
        let Some(i) = least else { break };
        let (Some(head), Some(slot)) = (heads.get_mut(i), slots.get_mut(i)) else { break };
        let Some((batch, rows)) = &head.rows else { break };
        let at = *slot.get_or_insert_with(|| {
            batches.push(batch.clone());
            batches.len() - 1
        });
        picks.push((at, head.row));
        head.row += 1;
        if head.row == rows.num_rows() {
            *slot = None;
            head.load(table, sorter)?;
        }
    }
    if picks.is_empty() {
        return Ok(None);
    }
    let batches: Vec<_> = batches.iter().collect();
    let batch = arrow::compute::interleave_record_batch(&batches, &picks)?;
    Ok(Some(RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?))
}

/// One sorted source and where it stands.
struct Cursor<'a> {
    table: &'a Table,
    sorter: &'a Sorter,
    held: Held,
    batches: Batches<'a>,
    head: Option<Rc<Loaded>>,
    row: usize,
}

impl<'a> Cursor<'a> {
    fn new(table: &'a Table, sorter: &'a Sorter, held: Held, batches: Batches<'a>) -> Result<Self, Fault> {
        let mut cursor = Self { table, sorter, held, batches, head: None, row: 0 };
        cursor.load()?;
        Ok(cursor)
    }
    fn load(&mut self) -> Result<(), Fault> {
        self.row = 0;
        self.head = None;
        while let Some(batch) = self.batches.next().transpose()? {
            if batch.num_rows() > 0 {
                self.head = Some(Loaded::new(self.table, self.sorter, batch, &self.held)?);
                break;
            }
        }
        Ok(())
    }
    /// The row it stands at, if that is `lead`'s key; it then moves on.
    fn next_if(&mut self, lead: &Spot) -> Result<Option<Spot>, Fault> {
        let Some(head) = &self.head else { return Ok(None) };
        if head.rows.row(self.row) != lead.rows.rows.row(lead.row) {
            return Ok(None);
        }
        let spot = Spot { rows: Rc::clone(head), row: self.row };
        self.row += 1;
        if self.row == head.rows.num_rows() {
            self.load()?;
        }
        Ok(Some(spot))
    }
}

/// One row of a batch that is kept alive by it.
#[derive(Clone)]
struct Spot {
    rows: Rc<Loaded>,
    row: usize,
}

impl Spot {
    fn synced(&self) -> i64 {
        self.rows.synced.at(self.row)
    }
    fn deleted(&self) -> Option<i64> {
        self.rows.deleted.get(self.row)
    }
    fn version(&self) -> Option<i64> {
        self.rows.version.as_ref().and_then(|v| v.get(self.row))
    }
    fn seq(&self) -> i64 {
        self.rows.seq.as_ref().map_or(0, |s| s.at(self.row))
    }
    fn kind(&self) -> i64 {
        self.rows.kind.as_ref().map_or(0, |k| k.at(self.row))
    }
    fn hash(&self) -> i64 {
        self.rows.hash.at(self.row)
    }
    /// The order between incoming versions of a row. `None < Some`: a null version is the oldest.
    fn age(&self) -> (Option<i64>, i64, i64) {
        (self.version(), self.synced(), self.seq())
    }
    /// Whether this incoming row takes the place of `old`.
    fn beats(&self, old: &Self) -> bool {
        if old.deleted().is_some_and(|deleted| self.synced() <= deleted) {
            return false;
        }
        (self.version(), self.synced()) >= (old.version(), old.synced())
    }
}

/// The latest read of the parent that is being merged.
struct Read {
    parent: String,
    seen: i64,
    seq: i64,
}

/// The merge proper: groups equal keys and settles each.
struct Drive<'a> {
    rules: &'a Rules<'a>,
    inputs: Vec<Cursor<'a>>,
    base: Option<Cursor<'a>>,
    read: Option<Read>,
    tally: Tally,
    /// Keys (children: parents) with a time here and an undated row elsewhere.
    found: BTreeSet<String>,
}

impl<'a> Drive<'a> {
    fn new(
        rules: &'a Rules<'a>,
        sorter: &'a Sorter,
        runs: &'a Inputs,
        held: Option<Held>,
        base: Option<Batches<'a>>,
    ) -> Result<Self, Fault> {
        let base = match (held, base) {
            (Some(held), Some(base)) => Some(Cursor::new(rules.table, sorter, held, base)?),
            _ => None,
        };
        let inputs = runs.cursors(rules.table, sorter)?;
        Ok(Self { rules, inputs, base, read: None, tally: Tally::default(), found: BTreeSet::new() })
    }

    /// Goes through everything. Without an output it stops at the first change and says false.
    fn go(&mut self, mut output: Option<&mut Output<'_>>) -> Result<bool, Fault> {
        while let Some(lead) = self.least() {
            if let Some(row) = self.settle(&lead)? {
                self.tally.rows += 1;
                self.tally.living += u64::from(row.deleted().is_none());
                if let Some(output) = &mut output {
                    output.open()?.pick(&row.rows.source, row.row)?;
                }
            }
            if output.is_none() && self.tally.inserted + self.tally.updated + self.tally.removed > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn least(&self) -> Option<Spot> {
        let mut least: Option<(&Rc<Loaded>, usize)> = None;
        for cursor in self.inputs.iter().chain(&self.base) {
            let Some(head) = &cursor.head else { continue };
            if least.is_none_or(|(rows, row)| head.rows.row(cursor.row) < rows.rows.row(row)) {
                least = Some((head, cursor.row));
            }
        }
        least.map(|(rows, row)| Spot { rows: Rc::clone(rows), row })
    }

    /// Takes every row of `lead`'s key off the sources; gives the one that stays.
    fn settle(&mut self, lead: &Spot) -> Result<Option<Spot>, Fault> {
        let table = self.rules.table;
        let read = self.read.as_ref().filter(|r| lead.rows.parent(lead.row).is_some_and(|p| p == r.parent.as_str()));
        let mut marker: Option<Spot> = None;
        let mut new: Option<Spot> = None;
        // Something says that the row is still there, without saying what it looks like.
        let mut spoken_for = false;
        for input in &mut self.inputs {
            while let Some(spot) = input.next_if(lead)? {
                let best = if spot.kind() == 1 { &mut marker } else { &mut new };
                if spot.kind() == 1 && self.rules.suppress.parent(&spot.rows, spot.row)
                    || spot.kind() != 1 && self.rules.suppress.row(&spot.rows, spot.row)
                {
                    self.tally.suppressed += u64::from(spot.kind() == 0);
                    spoken_for = true;
                } else if spot.kind() != 1 && read.is_some_and(|r| r.seq != spot.seq()) {
                    // Of an earlier read of the parent: superseded.
                } else if spot.kind() == 2 {
                    spoken_for = true;
                } else if best.as_ref().is_none_or(|b| spot.age() > b.age()) {
                    *best = Some(spot);
                }
            }
        }
        let mut old: Option<Spot> = None;
        if let Some(base) = &mut self.base {
            while let Some(spot) = base.next_if(lead)? {
                if old.is_some() {
                    self.tally.removed += 1;
                } else {
                    old = Some(spot);
                }
            }
        }
        if let Some(marker) = marker {
            let parent = marker.rows.parent(marker.row).map(Cow::into_owned).unwrap_or_default();
            if self.rules.strays.contains(&key_hash(&parent)) {
                self.found.insert(parent.clone());
            }
            self.read = Some(Read { parent, seen: marker.synced(), seq: marker.seq() });
            return Ok(None);
        }
        if !self.rules.strays.is_empty() && !table.by_parent {
            if lead.rows.untimed(lead.row) {
                let key = lead.rows.keys.get(lead.row);
                if self.rules.in_place && self.found.contains(key.as_ref()) {
                    self.tally.removed += u64::from(old.is_some());
                    return Ok(None);
                }
            } else if new.is_some() && self.rules.strays.contains(&lead.rows.keys.hash(lead.row)) {
                self.found.insert(lead.rows.keys.get(lead.row).into_owned());
            }
        }
        Ok(match (new, old) {
            (None, None) => None,
            (Some(new), None) => {
                self.tally.inserted += 1;
                Some(new)
            }
            (None, Some(old)) => {
                let gone = read.is_some_and(|r| !spoken_for && old.deleted().is_none() && old.synced() <= r.seen);
                self.tally.removed += u64::from(gone);
                (!gone).then_some(old)
            }
            (Some(new), Some(old)) if !new.beats(&old) => Some(old),
            (Some(new), Some(old)) if new.hash() == old.hash() && old.deleted().is_none() => {
                self.tally.unchanged += 1;
                Some(old)
            }
            (Some(new), Some(_)) => {
                self.tally.updated += 1;
                Some(new)
            }
        })
    }
}
