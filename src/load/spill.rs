//! The private spill of one run and table: incoming rows, cut by partition and window, sorted, and kept until merged.
//!
//! A window that fails is dropped whole, so rows of two windows never share a run. Small increments never touch the disk:
//! rows are written out, the largest heap first, only when the buffer is full. Rows stay in the batches in which they came;
//! putting them in order moves numbers, not rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array, new_null_array};
use arrow::compute::{cast, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use super::error::{Fault, LoadError, Place};
use super::hash::hash_rows;
use super::rows::{Held, I64s, KIND, SEQ, Sorter, key_hash, ordered, retype, run_schema};
use crate::catalog::{DELETED_AT, Granularity, HASH, PartitionValue, SYNCED_AT, Table};
use crate::clock::Timestamp;

/// Bytes of one table's rows kept in memory, unless told otherwise: some ten tables are filled at once, and the promise is
/// 100 MB for all.
const BUFFER_BYTES: usize = 8 << 20;
/// Rows of one table kept in memory: short rows cost more in bookkeeping than in bytes.
const BUFFER_ROWS: usize = 32_768;
/// Rows of a batch in a run file: a merge holds one batch of each run.
const RUN_BATCH_ROWS: usize = 256;

/// What is being done, where an error says so.
const SPILLING: &str = "spill incoming rows";

/// Finished rows of a partition that wait to be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingPartition {
    /// Which partition.
    pub value: PartitionValue,
    /// Rows, repeated ones and markers counted.
    pub rows: u64,
    /// Bytes in memory and on disk.
    pub bytes: u64,
    /// The finished windows that they are of.
    pub windows: BTreeSet<u32>,
}

/// Names what [`Spill::take`] handed out, for [`Spill::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// Rows of one partition on their way into [`merge`](super::merge()). Dropping it removes the run files.
pub struct Runs {
    pub(super) ticket: Ticket,
    pub(super) dir: PathBuf,
    pub(super) memory: Vec<RecordBatch>,
    pub(super) files: Vec<RunFile>,
    rows: u64,
}

impl Runs {
    /// Rows that are in memory, of no spill.
    pub(super) fn of(memory: Vec<RecordBatch>, dir: PathBuf) -> Self {
        let rows = memory.iter().map(|b| b.num_rows() as u64).sum();
        Self { ticket: Ticket(u64::MAX), dir, memory, files: Vec::new(), rows }
    }
    /// To be given to [`Spill::settle`] when the merge has succeeded.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
    /// Rows, repeated ones and markers counted.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// The rows of a run and a table that are not in the lake yet.
pub struct Spill {
    table: Arc<Table>,
    dir: PathBuf,
    schema: SchemaRef,
    sorter: Arc<Sorter>,
    heaps: BTreeMap<(PartitionValue, u32), Heap>,
    finished: BTreeSet<u32>,
    taken: BTreeMap<Ticket, BTreeSet<u32>>,
    tickets: u64,
    files: u64,
    buffered_rows: usize,
    buffered_bytes: usize,
    full: bool,
    most_bytes: usize,
    pub(super) most_rows: usize,
}

/// So many rows of one response.
#[derive(Debug, Clone, Copy)]
pub struct Response {
    /// How many.
    pub rows: usize,
    /// The response's time.
    pub seen_at: Timestamp,
    /// Grows with the order of responses in the run, one number a response: rows of a parent belong to the marker of the same
    /// number.
    pub seq: u64,
}

/// Rows as the spill keeps them: complete, hashed, cut by partition. Made on any thread.
pub struct Incoming(Vec<(PartitionValue, RecordBatch)>);

impl Incoming {
    /// `responses`: which rows came with which, in their order.
    ///
    /// # Errors
    ///
    /// [`LoadError::Batch`] when the rows are not of the table's shape, or there are more or fewer of them than came.
    pub fn new(table: &Table, rows: &RecordBatch, responses: &[Response]) -> Result<Self, LoadError> {
        complete(table, rows, responses).map_err(|f| f.at(&place(table), SPILLING))
    }
}

/// Rows that are to leave the memory.
pub struct Overflow {
    heap: (PartitionValue, u32),
    path: PathBuf,
    table: Arc<Table>,
    sorter: Arc<Sorter>,
    schema: SchemaRef,
    memory: Vec<RecordBatch>,
}

/// Rows that have left it.
pub struct Spilled {
    heap: (PartitionValue, u32),
    file: RunFile,
}

impl Overflow {
    /// Puts them in order and writes them; blocks.
    ///
    /// # Errors
    ///
    /// [`LoadError::Io`] when the spill cannot be written.
    pub fn write(self) -> Result<Spilled, LoadError> {
        let table = self.table.clone();
        self.try_write().map_err(|f| f.at(&place(&table), SPILLING))
    }

    fn try_write(self) -> Result<Spilled, Fault> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let batches = sorted(&self.table, &self.sorter, self.memory)?;
        Ok(Spilled { heap: self.heap, file: RunFile::write(self.path, &self.schema, batches)? })
    }
}

/// Rows of one partition and one window.
#[derive(Default)]
struct Heap {
    memory: Vec<RecordBatch>,
    memory_rows: usize,
    memory_bytes: usize,
    files: Vec<RunFile>,
}

/// A sorted run on disk; removed when dropped.
pub(super) struct RunFile {
    path: PathBuf,
    rows: u64,
    bytes: u64,
}

impl Drop for RunFile {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later run.
        let _ = fs::remove_file(&self.path);
    }
}

impl Spill {
    /// An empty spill. `dir` is private to this run and table; it is made when the first rows are written out.
    ///
    /// # Errors
    ///
    /// [`LoadError::Arrow`] when the table's key cannot be ordered.
    pub fn new(table: Arc<Table>, dir: PathBuf) -> Result<Self, LoadError> {
        let sorter = Sorter::new(&table).map_err(|f| f.at(&place(&table), "order rows by their key"))?;
        Ok(Self {
            schema: run_schema(&table),
            sorter: Arc::new(sorter),
            table,
            dir,
            heaps: BTreeMap::new(),
            finished: BTreeSet::new(),
            taken: BTreeMap::new(),
            tickets: 0,
            files: 0,
            buffered_rows: 0,
            buffered_bytes: 0,
            full: false,
            most_bytes: BUFFER_BYTES,
            most_rows: BUFFER_ROWS,
        })
    }

    /// The same with room in memory for so many bytes.
    #[must_use]
    pub fn with_room(self, bytes: usize) -> Self {
        Self { most_bytes: bytes, ..self }
    }

    /// Adds one response's rows, and writes out what there is no room for. What [`Response`] says of the parameters holds here.
    ///
    /// # Errors
    ///
    /// [`LoadError::Batch`] when the rows are not of the table's shape, [`LoadError::Io`] when the spill cannot be written.
    pub fn add(&mut self, window: u32, rows: &RecordBatch, seen_at: Timestamp, seq: u64) -> Result<(), LoadError> {
        let response = Response { rows: rows.num_rows(), seen_at, seq };
        self.take_in(window, Incoming::new(&self.table, rows, &[response])?);
        self.write_out().map_err(|f| f.at(&place(&self.table), SPILLING))
    }

    fn write_out(&mut self) -> Result<(), Fault> {
        while let Some(overflow) = self.overflow() {
            let spilled = overflow.try_write()?;
            self.spilled(spilled);
        }
        Ok(())
    }

    /// Adds rows in memory: [`Spill::overflow`] is to be asked next.
    pub fn take_in(&mut self, window: u32, incoming: Incoming) {
        for (value, part) in incoming.0 {
            let heap = self.heaps.entry((value, window)).or_default();
            let bytes = part.get_array_memory_size();
            self.buffered_rows += part.num_rows();
            self.buffered_bytes += bytes;
            heap.memory_rows += part.num_rows();
            heap.memory_bytes += bytes;
            heap.memory.push(part);
        }
        self.full |= self.buffered_rows > self.most_rows || self.buffered_bytes > self.most_bytes;
    }

    /// What is to be written out now, the largest heap first; once the buffer is full, until it is half empty, so that many
    /// small heaps stay in memory. What it hands out must come back by [`Spill::spilled`] before anything else is asked.
    pub fn overflow(&mut self) -> Option<Overflow> {
        self.full &= self.buffered_rows > self.most_rows / 2 || self.buffered_bytes > self.most_bytes / 2;
        if !self.full {
            return None;
        }
        let largest = self.heaps.iter().filter(|(_, h)| h.memory_rows > 0);
        let (key, _) = largest.max_by_key(|(_, h)| (h.memory_bytes, h.memory_rows))?;
        let key = *key;
        let heap = self.heaps.get_mut(&key)?;
        let memory = std::mem::take(&mut heap.memory);
        self.buffered_rows -= std::mem::take(&mut heap.memory_rows);
        self.buffered_bytes -= std::mem::take(&mut heap.memory_bytes);
        let path = self.dir.join(format!("{:06}.arrow", self.files));
        self.files += 1;
        let (table, sorter, schema) = (self.table.clone(), self.sorter.clone(), self.schema.clone());
        Some(Overflow { heap: key, path, table, sorter, schema, memory })
    }

    /// Takes back what was written out.
    pub fn spilled(&mut self, spilled: Spilled) {
        self.heaps.entry(spilled.heap).or_default().files.push(spilled.file);
    }

    /// The window is complete: its rows may be merged.
    pub fn finish(&mut self, window: u32) {
        self.finished.insert(window);
    }

    /// The window is aborted: its rows are dropped.
    pub fn discard(&mut self, window: u32) {
        self.finished.remove(&window);
        let gone: Vec<_> = self.heaps.keys().filter(|(_, w)| *w == window).copied().collect();
        for key in gone {
            if let Some(heap) = self.heaps.remove(&key) {
                self.forget(&heap);
            }
        }
    }

    /// Partitions with rows of finished windows, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<PendingPartition> {
        let mut pending: BTreeMap<PartitionValue, PendingPartition> = BTreeMap::new();
        for (&(value, window), heap) in self.heaps.iter().filter(|((_, w), _)| self.finished.contains(w)) {
            let p =
                pending.entry(value).or_insert(PendingPartition { value, rows: 0, bytes: 0, windows: BTreeSet::new() });
            p.rows += heap.rows();
            p.bytes += heap.memory_bytes as u64 + heap.files.iter().map(|f| f.bytes).sum::<u64>();
            p.windows.insert(window);
        }
        pending.into_values().collect()
    }

    /// Hands out a partition's rows of finished windows, to be merged; rows of open windows stay.
    pub fn take(&mut self, value: PartitionValue) -> Runs {
        let finished = self.finished.clone();
        self.take_of(value, &finished)
    }

    /// Hands out a partition's rows of those windows.
    pub fn take_of(&mut self, value: PartitionValue, windows: &BTreeSet<u32>) -> Runs {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let keys: Vec<_> = self.heaps.keys().filter(|(v, w)| *v == value && windows.contains(w)).copied().collect();
        let mut runs = Runs { ticket, dir: self.dir.clone(), memory: Vec::new(), files: Vec::new(), rows: 0 };
        let mut windows = BTreeSet::new();
        for key in keys {
            if let Some(mut heap) = self.heaps.remove(&key) {
                self.forget(&heap);
                windows.insert(key.1);
                runs.rows += heap.rows();
                runs.memory.append(&mut heap.memory);
                runs.files.append(&mut heap.files);
            }
        }
        self.taken.insert(ticket, windows);
        runs
    }

    /// The rows of that ticket are in the lake.
    pub fn settle(&mut self, ticket: Ticket) {
        self.taken.remove(&ticket);
    }

    /// Windows, finished or not, with rows that are not in the lake yet. A finished window may be committed when it is not
    /// among them.
    #[must_use]
    pub fn unmerged_windows(&self) -> BTreeSet<u32> {
        self.heaps.keys().map(|(_, w)| *w).chain(self.taken.values().flatten().copied()).collect()
    }

    /// Bytes that are kept in memory.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    fn forget(&mut self, heap: &Heap) {
        self.buffered_rows -= heap.memory_rows;
        self.buffered_bytes -= heap.memory_bytes;
    }

    /// Adds rows that are complete, system columns and all, such as those of an existing file.
    pub(super) fn add_stored(&mut self, window: u32, rows: &RecordBatch, seq: u64) -> Result<(), Fault> {
        let kind = Arc::new(Int64Array::from_value(0, rows.num_rows()));
        let seq = Int64Array::from_value(seq.cast_signed(), rows.num_rows());
        self.take_in(window, cut(&self.table, &self.schema, rows.columns().to_vec(), Arc::new(seq), kind)?);
        self.write_out()
    }
}

/// The rows with all columns of a run, cut by partition.
fn complete(table: &Table, rows: &RecordBatch, responses: &[Response]) -> Result<Incoming, Fault> {
    let n = rows.num_rows();
    let each = |of: fn(&Response) -> i64| -> Vec<i64> {
        responses.iter().flat_map(|r| std::iter::repeat_n(of(r), r.rows)).collect()
    };
    let (mut seen, seq) = (each(|r| r.seen_at.us()), each(|r| r.seq.cast_signed()));
    if seen.len() != n {
        return Err(Fault::Batch(format!("{n} rows, of which {} are said to have come", seen.len())));
    }
    if n == 0 {
        return Ok(Incoming(Vec::new()));
    }
    let mut hashed = Vec::with_capacity(table.schema.fields().len());
    for field in table.schema.fields() {
        if ![SYNCED_AT, DELETED_AT, HASH].contains(&field.name().as_str()) {
            let column = rows.column_by_name(field.name());
            let column = column.ok_or_else(|| Fault::Batch(format!("column `{}` is missing", field.name())))?;
            let column = retype(column, field.data_type()).ok_or_else(|| {
                Fault::Batch(format!("column `{}` is {}, not {}", field.name(), column.data_type(), field.data_type()))
            })?;
            hashed.push((field.name().as_str(), column));
        }
    }
    let mut hashes = Some(hash_rows(table, hashed.iter().map(|(name, c)| (*name, c)), n)?);
    let mut content = hashed.iter();
    let mut columns = Vec::with_capacity(table.schema.fields().len() + 2);
    for field in table.schema.fields() {
        columns.push(match field.name().as_str() {
            SYNCED_AT => {
                Arc::new(TimestampMicrosecondArray::from(std::mem::take(&mut seen)).with_timezone("UTC")) as ArrayRef
            }
            DELETED_AT => new_null_array(field.data_type(), n),
            HASH => Arc::new(Int64Array::from(hashes.take().unwrap_or_default())),
            _ => match content.next() {
                Some((_, column)) => Arc::clone(column),
                None => return Err(Fault::Batch("a column is missing".into())),
            },
        });
    }
    let kind = match rows.column_by_name("_kind") {
        Some(kind) => cast(kind, &DataType::Int64)?,
        None => Arc::new(Int64Array::from_value(0, n)),
    };
    cut(table, &run_schema(table), columns, Arc::new(Int64Array::from(seq)), kind)
}

fn cut(
    table: &Table,
    schema: &SchemaRef,
    mut columns: Vec<ArrayRef>,
    seq: ArrayRef,
    kind: ArrayRef,
) -> Result<Incoming, Fault> {
    let n = kind.len();
    columns.extend([seq, kind]);
    let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
    let mut parts = Vec::new();
    for (value, indices) in partitions(table, &batch)? {
        parts.push(match indices.len() == n {
            true => (value, batch.clone()),
            false => (value, take_record_batch(&batch, &UInt32Array::from(indices))?),
        });
    }
    Ok(Incoming(parts))
}

impl Heap {
    fn rows(&self) -> u64 {
        self.memory_rows as u64 + self.files.iter().map(|f| f.rows).sum::<u64>()
    }
}

impl RunFile {
    /// Writes batches that are in order already.
    pub(super) fn write(
        path: PathBuf,
        schema: &SchemaRef,
        batches: impl IntoIterator<Item = Result<RecordBatch, Fault>>,
    ) -> Result<Self, Fault> {
        let file = File::create_new(&path)?;
        // From here on the file is removed when anything fails.
        let mut run = Self { path, rows: 0, bytes: 0 };
        let mut writer = StreamWriter::try_new(BufWriter::new(file), schema)?;
        for batch in batches {
            let batch = batch?;
            run.rows += batch.num_rows() as u64;
            writer.write(&batch)?;
        }
        writer.finish()?;
        writer.get_mut().flush()?;
        run.bytes = fs::metadata(&run.path)?.len();
        Ok(run)
    }
    pub(super) fn read(&self) -> Result<impl Iterator<Item = Result<RecordBatch, Fault>> + use<>, Fault> {
        let reader = StreamReader::try_new(BufReader::new(File::open(&self.path)?), None)?;
        Ok(reader.map(|batch| batch.map_err(Fault::Arrow)))
    }
}

/// `batches` as one sorted run, in batches of [`RUN_BATCH_ROWS`].
pub(super) fn sorted(
    table: &Table,
    sorter: &Sorter,
    batches: Vec<RecordBatch>,
) -> Result<impl Iterator<Item = Result<RecordBatch, Fault>> + use<>, Fault> {
    let held = Held::all(table);
    let rows = batches.iter().map(|b| sorter.rows(b, &held)).collect::<Result<Vec<_>, _>>()?;
    let seqs = batches.iter().map(|b| b.column_by_name(SEQ).map(|c| I64s::new(c, SEQ)).transpose());
    let seqs = seqs.collect::<Result<Vec<_>, _>>()?;
    let order =
        ordered(&rows.iter().collect::<Vec<_>>(), |b, i| seqs.get(b).and_then(Option::as_ref).map_or(0, |s| s.at(i)));
    drop(rows);
    let mut next = 0;
    Ok(std::iter::from_fn(move || {
        let some: Vec<(usize, usize)> =
            order.iter().skip(next).take(RUN_BATCH_ROWS).map(|(b, i)| (*b as usize, *i as usize)).collect();
        next += some.len();
        let batches: Vec<_> = batches.iter().collect();
        (!some.is_empty()).then(|| interleave_record_batch(&batches, &some).map_err(Fault::Arrow))
    }))
}

/// Which rows of a batch go to which partition.
///
/// Buckets are cut by the key's hash, for children by the parent's, so that a parent's rows and its marker meet.
pub(super) fn partitions(table: &Table, batch: &RecordBatch) -> Result<BTreeMap<PartitionValue, Vec<u32>>, Fault> {
    let held = Held::all(table);
    let keys = held.keys(batch, &table.order.key)?;
    let parents = table.order.parent.map(|p| held.keys(batch, &[p])).transpose()?;
    let kind = batch.column_by_name(KIND).map(|c| I64s::new(c, KIND)).transpose()?;
    for i in 0..batch.num_rows() {
        let marker = kind.as_ref().is_some_and(|k| k.at(i) == 1);
        if marker != keys.is_null(i) {
            return Err(Fault::Batch(if marker { "a marker with a key" } else { "a row without its key" }.into()));
        }
    }
    let mut split: BTreeMap<PartitionValue, Vec<u32>> = BTreeMap::new();
    let mut add = |value, i: usize| split.entry(value).or_default().push(u32::try_from(i).unwrap_or(u32::MAX));
    match table.layout.granularity {
        Granularity::None => (0..batch.num_rows()).for_each(|i| add(PartitionValue::Whole, i)),
        Granularity::Bucket(n) => {
            for i in 0..batch.num_rows() {
                let hash = key_hash(&parents.as_ref().unwrap_or(&keys).get(i));
                let bucket = u16::try_from(hash % u64::from(n.max(1))).unwrap_or(0);
                add(PartitionValue::Bucket(bucket), i);
            }
        }
        Granularity::Year | Granularity::Month => {
            let column = table.layout.column.ok_or_else(|| Fault::Batch("the table has no partition time".into()))?;
            let times = I64s::new(held.column(batch, column)?, table.schema.field(column).name())?;
            // The calendar is asked once a day, not once a row.
            let mut days: HashMap<i64, PartitionValue> = HashMap::new();
            for i in 0..batch.num_rows() {
                let value = match times.get(i) {
                    None => PartitionValue::Null,
                    Some(us) => {
                        let day = us.div_euclid(86_400_000_000);
                        *days.entry(day).or_insert_with(|| table.layout.of_time(Some(us)))
                    }
                };
                add(value, i);
            }
        }
    }
    Ok(split)
}

fn place(table: &Table) -> Place {
    Place { table: format!("{}/{}", table.provider, table.resource).into(), partition: "".into() }
}
