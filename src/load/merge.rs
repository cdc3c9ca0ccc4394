//! The streaming merge: sorted runs and the file that is there become the file that takes its place.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::row::OwnedRow;

use super::delete::{Act, By, Wanted, rewrite};
use super::error::{Fault, LoadError};
use super::file::{Existing, Writer, Written};
use super::rows::{Held, Loaded, Sorter, System, key_hash, ordered, run_schema};
use super::spill::{RunFile, Runs};
use super::{Lake, blocking, is_dated, put};
use crate::catalog::{PartitionValue, Table};
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
    let base = lake.base(&path).await.map_err(store_fault)?;
    let dated = is_dated(table, value);
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
        let wanted = Wanted::any(table, By::parents_of(table), strays);
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

/// A file in the making: what it has so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) writer: Option<Writer>,
    last: Option<OwnedRow>,
    pub(super) tally: Tally,
}

/// Adds `runs` to a file in the making. What does not come after its last row is given back, as a run has it.
pub(super) fn append(
    (table, store, suppress): (&Table, &Store, &Suppress),
    sorter: &Sorter,
    runs: Runs,
    draft: &mut Draft,
) -> Result<Option<RecordBatch>, Fault> {
    let rules = Rules { table, suppress, strays: HashSet::new(), in_place: false };
    let runs = Inputs::new(table, sorter, runs)?;
    let mut drive = Drive::new(&rules, sorter, &runs, None, None)?;
    let before = std::mem::take(draft);
    (drive.after, drive.tally) = (before.last, before.tally);
    let mut output = Output { store, table, writer: before.writer };
    drive.go(Some(&mut output))?;
    let last = drive.last.map(|l| l.row().owned()).or(drive.after);
    *draft = Draft { writer: output.writer, last, tally: drive.tally };
    run_of(table, &drive.late)
}

/// Rows as a run has them.
fn run_of(table: &Table, rows: &[Spot]) -> Result<Option<RecordBatch>, Fault> {
    if rows.is_empty() {
        return Ok(None);
    }
    let batches: Vec<_> = rows.iter().map(|r| &r.rows.source.batch).collect();
    let picks: Vec<_> = rows.iter().enumerate().map(|(i, r)| (i, r.row)).collect();
    let mut columns = arrow::compute::interleave_record_batch(&batches, &picks)?.columns().to_vec();
    let numbers = |of: fn(&Spot) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>()) as ArrayRef;
    columns.extend([numbers(Spot::seq), numbers(Spot::kind)]);
    Ok(Some(RecordBatch::try_new(run_schema(table), columns)?))
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
pub(super) struct Tally {
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) unchanged: u64,
    pub(super) removed: u64,
    pub(super) suppressed: u64,
    pub(super) rows: u64,
    pub(super) living: u64,
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
    memory: Option<Memory>,
    files: Vec<RunFile>,
}

/// Rows that never left the memory: where they came, and their order.
#[derive(Clone)]
struct Memory {
    batches: Rc<[Rc<Loaded>]>,
    order: Rc<[(u32, u32)]>,
}

impl Memory {
    fn new(table: &Table, sorter: &Sorter, batches: Vec<RecordBatch>) -> Result<Self, Fault> {
        let held = Held::all(table);
        let batches = batches.into_iter().map(|b| Loaded::new(table, sorter, b, &held));
        let batches = batches.collect::<Result<Rc<[_]>, _>>()?;
        let rows: Vec<_> = batches.iter().map(|b| &b.rows).collect();
        let order = ordered(&rows, |b, i| batches.get(b).and_then(|b| b.seq.as_ref()).map_or(0, |s| s.at(i)));
        Ok(Self { batches, order: order.into() })
    }
    fn at(&self, n: usize) -> Option<(Rc<Loaded>, usize)> {
        let (batch, row) = *self.order.get(n)?;
        Some((Rc::clone(self.batches.get(batch as usize)?), row as usize))
    }
}

impl Inputs {
    fn new(table: &Table, sorter: &Sorter, mut runs: Runs) -> Result<Self, Fault> {
        let memory = std::mem::take(&mut runs.memory);
        let memory = (!memory.is_empty()).then(|| Memory::new(table, sorter, memory)).transpose()?;
        let schema = run_schema(table);
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
        let mut cursors = Vec::with_capacity(self.files.len() + 2);
        if let Some(memory) = &self.memory {
            cursors.push(Cursor::new(Rest::Memory { rows: memory.clone(), next: 0 })?);
        }
        for file in &self.files {
            let batches: Batches<'a> = Box::new(file.read()?);
            cursors.push(Cursor::new(Rest::Stream { table, sorter, held: Held::all(table), batches })?);
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
    rest: Rest<'a>,
    head: Option<Spot>,
}

/// What a source holds beyond its head.
enum Rest<'a> {
    Memory { rows: Memory, next: usize },
    Stream { table: &'a Table, sorter: &'a Sorter, held: Held, batches: Batches<'a> },
}

impl<'a> Cursor<'a> {
    fn new(rest: Rest<'a>) -> Result<Self, Fault> {
        let mut cursor = Self { rest, head: None };
        cursor.advance()?;
        Ok(cursor)
    }
    fn advance(&mut self) -> Result<(), Fault> {
        match &mut self.rest {
            Rest::Memory { rows, next } => {
                self.head = rows.at(*next).map(|(rows, row)| Spot { rows, row });
                *next += 1;
            }
            Rest::Stream { table, sorter, held, batches } => {
                if let Some(head) = self.head.as_mut().filter(|h| h.row + 1 < h.rows.rows.num_rows()) {
                    head.row += 1;
                    return Ok(());
                }
                self.head = None;
                while let Some(batch) = batches.next().transpose()? {
                    if batch.num_rows() > 0 {
                        self.head = Some(Spot { rows: Loaded::new(table, sorter, batch, held)?, row: 0 });
                        break;
                    }
                }
            }
        }
        Ok(())
    }
    /// The row it stands at, if that is `lead`'s key; it then moves on.
    fn next_if(&mut self, lead: &Spot) -> Result<Option<Spot>, Fault> {
        let Some(spot) = self.head.as_ref().filter(|h| h.row() == lead.row()).cloned() else { return Ok(None) };
        self.advance()?;
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
    /// What orders it.
    fn row(&self) -> arrow::row::Row<'_> {
        self.rows.rows.row(self.row)
    }
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
    /// Incoming ones, and last the file that is there.
    sources: Vec<Cursor<'a>>,
    /// How many of them are incoming.
    inputs: usize,
    /// The source that goes first, and the least row of the others: runs of windows hardly overlap, so that one often goes
    /// first for long.
    ahead: Option<(usize, Option<Spot>)>,
    read: Option<Read>,
    tally: Tally,
    /// Keys (children: parents) with a time here and an undated row elsewhere.
    found: BTreeSet<String>,
    /// Of a file in the making: the last row that it had, those that do not come after it, and the last that did.
    after: Option<OwnedRow>,
    late: Vec<Spot>,
    last: Option<Spot>,
}

impl<'a> Drive<'a> {
    fn new(
        rules: &'a Rules<'a>,
        sorter: &'a Sorter,
        runs: &'a Inputs,
        held: Option<Held>,
        base: Option<Batches<'a>>,
    ) -> Result<Self, Fault> {
        let mut sources = runs.cursors(rules.table, sorter)?;
        let inputs = sources.len();
        if let (Some(held), Some(batches)) = (held, base) {
            sources.push(Cursor::new(Rest::Stream { table: rules.table, sorter, held, batches })?);
        }
        let (read, tally, found) = (None, Tally::default(), BTreeSet::new());
        let (after, late, last) = (None, Vec::new(), None);
        Ok(Self { rules, sources, inputs, ahead: None, read, tally, found, after, late, last })
    }

    /// Goes through everything. Without an output it stops at the first change and says false.
    fn go(&mut self, mut output: Option<&mut Output<'_>>) -> Result<bool, Fault> {
        while let Some((lead, only)) = self.least() {
            if self.after.as_ref().is_some_and(|after| lead.row() <= after.row()) {
                let inserted = self.tally.inserted;
                let row = self.settle(&lead, only)?;
                self.tally.inserted = inserted;
                self.late.extend(row);
                continue;
            }
            if let Some(row) = self.settle(&lead, only)? {
                self.tally.rows += 1;
                self.tally.living += u64::from(row.deleted().is_none());
                if let Some(output) = &mut output {
                    output.open()?.pick(&row.rows.source, row.row)?;
                }
            }
            if output.is_none() && self.tally.inserted + self.tally.updated + self.tally.removed > 0 {
                return Ok(false);
            }
            self.last = Some(lead);
        }
        Ok(true)
    }

    /// The least row of all sources, and its source when no other has that key.
    fn least(&mut self) -> Option<(Spot, Option<usize>)> {
        if let Some((i, bound)) = &self.ahead
            && let Some(head) = self.sources.get(*i).and_then(|s| s.head.as_ref())
            && bound.as_ref().is_none_or(|b| head.row() < b.row())
        {
            return Some((head.clone(), Some(*i)));
        }
        let mut first: Option<(usize, &Spot)> = None;
        let mut second: Option<&Spot> = None;
        for (i, head) in self.sources.iter().enumerate().filter_map(|(i, s)| Some((i, s.head.as_ref()?))) {
            match first {
                Some((_, least)) if head.row() >= least.row() => {
                    if second.is_none_or(|s| head.row() < s.row()) {
                        second = Some(head);
                    }
                }
                _ => {
                    second = first.map(|(_, f)| f);
                    first = Some((i, head));
                }
            }
        }
        let (i, least) = first?;
        let only = second.is_none_or(|s| least.row() < s.row()).then_some(i);
        let found = (least.clone(), only);
        self.ahead = Some((i, second.cloned()));
        Some(found)
    }

    /// Takes every row of `lead`'s key off the sources (`only`: off the one that has it); gives the one that stays.
    fn settle(&mut self, lead: &Spot, only: Option<usize>) -> Result<Option<Spot>, Fault> {
        let table = self.rules.table;
        let read = self.read.as_ref().filter(|r| lead.rows.parent(lead.row).is_some_and(|p| p == r.parent.as_str()));
        let mut marker: Option<Spot> = None;
        let mut new: Option<Spot> = None;
        // Something says that the row is still there, without saying what it looks like.
        let mut spoken_for = false;
        let mut old: Option<Spot> = None;
        let those = only.map_or(0..self.sources.len(), |i| i..i + 1);
        for (i, source) in self.sources.iter_mut().enumerate().skip(those.start).take(those.len()) {
            while let Some(spot) = source.next_if(lead)? {
                if i == self.inputs {
                    match old {
                        Some(_) => self.tally.removed += 1,
                        None => old = Some(spot),
                    }
                    continue;
                }
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
