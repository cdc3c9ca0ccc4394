//! One resource with what is taken out of it: windows read side by side, spilled, merged per partition, committed as they
//! finish.
//!
//! Fetching tasks decode their pages and send them over a short channel whose end is a message; this side keeps the spills,
//! merges off the async threads, one replacement after the other, and commits a window only when every row of it, in every
//! table, is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int8Type, TimestampMicrosecondType};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::quarantine::{self, Gone};
use super::{Chosen, Done, SyncError, TenantRun, delete, drift_counts, fail, frozen, mix};
use crate::auth::AuthError;
use crate::catalog::{Mode, OnDelete, PartitionValue, Resource, Table};
use crate::clock::Timestamp;
use crate::extract::{self, Decoded, ExtractError, Pager};
use crate::http::{Gate, Priority};
use crate::load::{
    self, By, Deletion, Growing, Incoming, KEY_SEPARATOR, Lake, LoadError, Merged, Response, Runs, Spill, Suppress,
    Ticket,
};
use crate::names::ResourceName;
use crate::plan::{self, Active, Filter, Order, Splitter, Wish, Work, certain};
use crate::report::{Failure, Outcome, ResourceReport};
use crate::state::{Commit, CommitKind, Entry, Habits, PartitionFigures, Window};
use crate::transform::{Decoder, Drift, Gathered, Gathering, Hint, KIND, KIND_READ, Rejected, Told};

/// Finished rows are merged at the latest after so long, or so many times as long as the last merge took: a killed run loses no more
/// than this and the windows under way.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
const REST: u32 = 10;
/// Finished rows that are merged at once, however young: a merge of this many pays for rewriting its partitions.
const FLUSH_ROWS: u64 = 200_000;
/// Chains beyond those that fill the bucket: with fewer, the last one would end alone; with more, windows are cut before
/// their neighbours show how dense they are. Found by the table in `plan`'s tests.
const SPARE_CHAINS: usize = 3;
/// A deadline presses when no more than this many pages fit before it beside those under way: a few windows.
const PRESSING_PAGES: u64 = 200;
/// Part of the time taken so far that a window may take, and pages that it may have in any case. Found by the test that loads at
/// several latencies.
const CHAIN_SHARE: f64 = 1.0 / 6.0;
const CHAIN_PAGES: u64 = 18;
/// Rows of a full page (reference 3.2: the limit is 1 to 100).
const PAGE_ROWS: u64 = 100;
/// Rows and bytes of responses that are made one batch: what is done once a batch costs little then, and a batch is still short.
/// Where cores have time there are many chains, and each holds less. (Rows: of all tables of a group together.)
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;
const IDLE_BATCH_ROWS: usize = 200;
/// Pages that wait between fetching and spilling: enough that neither waits for the other's hiccups.
const PAGES_WAITING: usize = 8;
/// Bytes of rows kept in memory, of all tables of a group: windows that end soon never touch the disk.
const BUFFER_BYTES: usize = 24 << 20;
/// Listings and feeds go before windows of a load: they are short, and others wait for their end.
const FIRST: Priority = Priority(1_000_000);
/// Absences up to this many are believed, whatever their share (DESIGN: more than 20 % and more than 20 rows are refused).
pub(super) const FEW_ABSENT: usize = 20;

/// A unit of reading.
#[derive(Debug, Clone)]
struct Job {
    id: u32,
    filter: Filter,
    /// What is asked for; `None` for a whole listing.
    read: Option<Window>,
    /// What counts as covered when it is done.
    cover: Window,
}

enum Message {
    /// A page came.
    Page {
        job: u32,
        records: usize,
        rejected: Vec<Rejected>,
        drift: Drift,
    },
    /// The rows of some pages.
    Rows {
        job: u32,
        ready: Result<Box<Ready>, SyncError>,
    },
    Finished {
        job: u32,
        requests: u64,
        bytes: u64,
        date: Option<Timestamp>,
    },
    Failed {
        job: u32,
        requests: u64,
        bytes: u64,
        error: ExtractError,
    },
    /// A page drifted, of a resource that is frozen.
    Drifted {
        job: u32,
        requests: u64,
        bytes: u64,
        drift: Drift,
    },
}

/// Rows as they will be written.
struct Ready {
    drift: Drift,
    /// The resource's own rows.
    rows: RecordBatch,
    /// Of the last response, and of the first.
    seen_at: Timestamp,
    first_seen_at: Timestamp,
    /// By the tables of the group, the resource's own first.
    tables: Vec<ReadyTable>,
}

struct ReadyTable {
    part: usize,
    incoming: Incoming,
    /// Rows that are records.
    records: u64,
    anonymized: Vec<String>,
}

/// What makes rows ready, in the tasks that fetch them: so that cores share the work.
struct Preparer {
    run: Arc<TenantRun>,
    tables: Vec<(Resource, Arc<Table>)>,
}

impl Preparer {
    /// `responses`: of all pages in their order.
    fn all_ready(
        &self,
        batches: Vec<Gathered>,
        mut responses: &[(Timestamp, u64)],
    ) -> Vec<Result<Box<Ready>, SyncError>> {
        let each = batches.into_iter().map(|gathered| {
            let (these, others) = responses.split_at(gathered.pages.len().min(responses.len()));
            responses = others;
            self.ready(gathered, these)
        });
        each.collect()
    }

    /// `responses`: time and number of those that the pages came with.
    fn ready(&self, gathered: Gathered, responses: &[(Timestamp, u64)]) -> Result<Box<Ready>, SyncError> {
        let mut tables = Vec::with_capacity(self.tables.len());
        let mut own = None;
        let Gathered { rows, extracted, pages, drift } = gathered;
        let theirs = extracted
            .into_iter()
            .enumerate()
            .filter_map(|(i, (name, rows))| Some((i + 1, self.tables.iter().position(|(r, _)| r.name == name)?, rows)));
        for (i, part, rows) in std::iter::once((0, 0, rows)).chain(theirs) {
            let Some((resource, table)) = self.tables.get(part) else { continue };
            let from = pages.iter().zip(responses).map(|(page, &(seen_at, seq))| Response {
                rows: page.get(i).copied().unwrap_or_default(),
                seen_at,
                seq,
            });
            // A marker says that a parent was read; it is no record.
            let kinds = rows.column_by_name(KIND).and_then(|k| k.as_primitive_opt::<Int8Type>());
            let markers = kinds.map_or(0, |kinds| kinds.iter().filter(|k| *k == Some(KIND_READ)).count());
            let records = (rows.num_rows() - markers) as u64;
            let anonymized = anonymized(resource, &rows).collect();
            let rows = self.run.private(&resource.name, rows)?;
            let incoming = Incoming::new(table, &rows, &from.collect::<Vec<_>>())?;
            tables.push(ReadyTable { part, incoming, records, anonymized });
            own.get_or_insert(rows);
        }
        let (Some(rows), Some((seen_at, _)), Some((first_seen_at, _))) =
            (own, responses.last(), responses.iter().min())
        else {
            return Err(SyncError::Rows { what: "a page".into(), why: "it has no table".into() });
        };
        Ok(Box::new(Ready { drift, rows, seen_at: *seen_at, first_seen_at: *first_seen_at, tables }))
    }
}

/// A table of the group: the resource's own is the first.
struct Part {
    resource: Resource,
    table: Arc<Table>,
    spill: Spill,
    suppress: Suppress,
    last: Option<Entry<Commit>>,
    partitions: BTreeMap<String, PartitionFigures>,
    touched: bool,
    report: ResourceReport,
    /// Who arrived anonymized, and when, and is not forgotten in the quarantine yet.
    anonymized: Vec<(String, Timestamp)>,
}

pub(super) struct Group {
    run: Arc<TenantRun>,
    chosen: Chosen,
    parts: Vec<Part>,
    /// The resource's next commit, as far as it is true already.
    commit: Commit,
    wish: Wish,
    /// The privacy settings under which rows are written now, by table.
    privacy: BTreeMap<ResourceName, String>,
    drift: Drift,
    failure: Option<Failure>,
    /// Why it cannot be read, where that is no failure: not granted, and nobody named it.
    skipped: Option<String>,
    /// When the load began that this run began.
    began: Option<Timestamp>,
    complete: bool,
    /// Keys of a listing, for its absences.
    present: BTreeSet<String>,
    deletions: Vec<Deletion>,
    quarantined: u64,
    next_job: u32,
    work: Arc<PageWork>,
}

/// How long a window may be, in pages: they come one after the other, so at a high latency a long window would be under way when
/// all others have ended. A load that has taken long will take long.
fn chain_pages(latency: Duration, elapsed: Duration) -> u64 {
    let fits = elapsed.as_secs_f64() * CHAIN_SHARE / latency.as_secs_f64().max(1e-6);
    (fits as u64).max(CHAIN_PAGES)
}

/// What a page takes of a core, smoothed, and how large batches become; and how many cores there are, which the system is asked
/// once.
#[derive(Debug)]
struct PageWork {
    us: AtomicU64,
    cores: f64,
    hint: Mutex<Hint>,
}

impl PageWork {
    fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { us: AtomicU64::new(0), cores: cores as f64, hint: Mutex::default() }
    }

    fn took(&self, time: Duration) {
        let new = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let old = self.us.load(Ordering::Relaxed);
        self.us.store(if old == 0 { new } else { (old * 7 + new) / 8 }, Ordering::Relaxed);
    }

    fn hint(&self) -> Hint {
        self.hint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn grew(&self, hint: Hint) {
        let mut known = self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        // The last batch of a window says nothing of full ones.
        if hint.rows() >= known.rows() / 4 * 3 {
            *known = hint;
        }
    }

    /// How many chains of pages are read at once: as many as fill the bucket, and some to spare. Where the bucket lets more
    /// through than there are cores to work on it, as many as hide the latency: more would only hold more windows open, and wait
    /// for each other, which looks like latency.
    fn chains(&self, gate: &Gate, spare: usize) -> usize {
        let by_bucket = gate.chains() + spare;
        if !self.is_the_limit(gate) {
            return by_bucket;
        }
        let latency = gate.pace().least.as_secs_f64();
        by_bucket.min((self.cores * (1.0 + latency / self.seconds())).ceil() as usize + 1)
    }

    /// Whether the cores have less time for a page than the bucket leaves.
    fn is_the_limit(&self, gate: &Gate) -> bool {
        gate.rate().per_second * self.seconds() >= self.cores
    }

    fn seconds(&self) -> f64 {
        self.us.load(Ordering::Relaxed) as f64 / 1e6
    }
}

struct Flushed {
    part: usize,
    value: PartitionValue,
    tickets: Vec<Ticket>,
    merged: Merged,
}

/// What came of a piece of work on the lake.
enum Written {
    /// These partitions are in place.
    Flushed(Vec<Flushed>),
    /// This one has more rows, and is not in place.
    Grown(Box<Growing>),
}

/// Rows of a load that can be written: nothing that belongs before them will come.
struct Ripe {
    value: PartitionValue,
    windows: BTreeSet<u32>,
    /// Nothing that belongs after them, either.
    whole: bool,
}

/// Where jobs come from.
enum Source {
    Fixed(Vec<Job>),
    Load(Splitter),
}

impl Group {
    pub(super) async fn open(run: Arc<TenantRun>, chosen: Chosen) -> Result<Self, SyncError> {
        let mut parts = Vec::new();
        let room = BUFFER_BYTES / (1 + chosen.extract.len());
        for resource in std::iter::once(&chosen.resource).chain(&chosen.extract) {
            let table = Arc::new(run.config().table(resource)?);
            let last = run.commit_of(&resource.name).await?;
            let spill = Spill::new(table.clone(), run.lake.scratch.join(resource.name.as_str()))?;
            let spill = spill.with_room(room);
            parts.push(Part {
                suppress: run.suppressed(resource).await?,
                partitions: last.as_ref().map(|l| l.body.partitions.clone()).unwrap_or_default(),
                report: ResourceReport { mode: resource.mode.word().into(), ..ResourceReport::default() },
                resource: resource.clone(),
                table,
                spill,
                last,
                touched: false,
                anonymized: Vec::new(),
            });
        }
        let table = &parts[0].table;
        let empty = || Commit::empty(run.run, CommitKind::Load, table.layout.granularity, table.fingerprint());
        let commit =
            parts[0].last.as_ref().map_or_else(empty, |l| Commit { run: run.run, backfilled: None, ..l.body.clone() });
        let mut wish = Wish { full: run.options.full, backfill: run.options.backfill };
        let taken_out = parts[1..].iter().map(|p| (&p.resource.name, p.last.is_some()));
        let anew = plan::anew(parts[0].last.as_ref().map(|l| &l.body), taken_out, chosen.confidential);
        if let Some(why) = anew.filter(|_| wish.backfill.is_none() && !wish.full) {
            wish.full = true;
            parts[0].report.notes.push(format!("read anew from the start, because {why}"));
        }
        let privacy = run.privacy(parts.iter().map(|p| &p.resource.name));
        let mut commit = commit;
        if parts.iter().all(|p| p.partitions.is_empty()) && commit.privacy_of_load.is_none() {
            commit.privacy.clone_from(&privacy);
        }
        Ok(Self {
            run,
            chosen,
            parts,
            privacy,
            commit,
            wish,
            drift: Drift::default(),
            failure: None,
            skipped: None,
            began: None,
            complete: true,
            present: BTreeSet::new(),
            deletions: Vec::new(),
            quarantined: 0,
            next_job: 0,
            work: Arc::new(PageWork::new()),
        })
    }

    pub(super) fn resource(&self) -> &Resource {
        &self.chosen.resource
    }
    pub(super) fn last(&self) -> Option<&Commit> {
        self.parts[0].last.as_ref().map(|l| &l.body)
    }
    pub(super) fn wish(&self) -> Wish {
        self.wish
    }
    /// Whether everything that was begun was read to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.complete && self.failure.is_none()
    }
    /// Says that something due was left for the next run.
    pub(super) fn leave_the_rest(&mut self) {
        self.complete = false;
    }
    /// Whether every record could be decoded.
    pub(super) fn is_clean(&self) -> bool {
        self.quarantined == 0
    }
    pub(super) fn deletions(&self) -> Vec<Deletion> {
        self.deletions.clone()
    }
    /// Before anything is written: every file of today's shape.
    pub(super) async fn prepare(&mut self) -> Result<(), SyncError> {
        for i in 0..self.parts.len() {
            let part = &self.parts[i];
            if part.last.as_ref().is_some_and(|l| l.body.schema != part.table.fingerprint()) {
                let brought = load::bring_forward(&self.run.lake, &self.run.lease, &part.table).await?;
                let figures = figures(&self.run.lake, &part.table).await?;
                tracing::info!(resource = %part.resource.name, brought, "brought the table's files forward to the catalogue");
                let part = &mut self.parts[i];
                part.partitions = figures;
                part.touched = true;
                if i == 0 {
                    self.commit.schema = self.parts[0].table.fingerprint();
                }
            }
        }
        Ok(())
    }

    fn id(&mut self) -> u32 {
        self.next_job += 1;
        self.next_job
    }

    /// Reads what is due. `hold` leaves the commit to [`Group::commit_held`].
    pub(super) async fn read(&mut self, work: Work, hold: bool) -> Result<(), SyncError> {
        self.parts[0].report.mode = super::word(&work).into();
        let id = self.id();
        let anew = matches!(work, Work::Load { begins: true, .. } | Work::Listing { .. });
        if !anew {
            mix(&mut self.commit.privacy, &self.privacy);
            if let Some(load) = &mut self.commit.privacy_of_load {
                mix(load, &self.privacy);
            }
            // What changed while confidential records were not asked for is missing.
            self.commit.confidential &= self.chosen.confidential || self.chosen.resource.confidential.is_none();
        }
        let source = match work {
            Work::Load { started, gaps, begins } => {
                self.commit.kind = CommitKind::Load;
                if begins {
                    self.commit.privacy_of_load = Some(self.privacy.clone());
                    self.commit.confidential = self.chosen.confidential;
                    // Durable before the first window: the increments of later runs reach back to it.
                    self.began = Some(started);
                    self.commit.load_started = Some(started);
                    self.commit.load_done = false;
                    self.commit.covered = crate::state::Covered::default();
                    self.commit().await?;
                }
                if !begins {
                    self.parts[0].report.notes.push(format!("goes on with the load that began at {started}"));
                }
                // What earlier runs of this load read tells how dense the records are.
                let known = self.commit.covered.created.windows().last().map(|w| (*w, self.commit.rows()));
                Source::Load(Splitter::new(gaps, known))
            }
            Work::Listing { started } => {
                self.commit.kind = CommitKind::Listing;
                Source::Fixed(vec![Job { id, filter: Filter::Whole, read: None, cover: Window::new(None, started) }])
            }
            Work::Increment { window, reach } => {
                self.commit.kind = CommitKind::Increment;
                let read = Some(Window::new(reach, window.to));
                Source::Fixed(vec![Job { id, filter: Filter::Updated, read, cover: window }])
            }
            Work::Backfill { window } => {
                self.commit.kind = CommitKind::Backfill;
                self.commit.backfilled = Some(window);
                Source::Fixed(vec![Job { id, filter: Filter::Updated, read: Some(window), cover: window }])
            }
        };
        self.windows(source, hold).await
    }

    fn query(&self, job: &Job) -> (Vec<(String, String)>, Vec<String>) {
        let expands = self.chosen.expands.clone();
        let Some(read) = job.read else {
            // A listing that shows only the last days unless told otherwise is asked for all there ever was.
            let all = self.chosen.resource.span.as_ref().map(|s| {
                vec![(s.start.clone(), "0".to_owned()), (s.end.clone(), job.cover.to.ms().max(0).to_string())]
            });
            return (all.unwrap_or_default(), expands);
        };
        match (&self.chosen.resource.mode, job.filter) {
            (Mode::Incremental { load: Some(filter), .. }, Filter::Created) => (extract::bounds(filter, read), expands),
            (Mode::Incremental { cursor, bare, .. }, Filter::Updated) => {
                (extract::bounds(cursor, read), if *bare { Vec::new() } else { expands })
            }
            (Mode::Tombstones { cursor, .. }, Filter::Updated) => {
                // Both bounds always: one connector found them required, and the end perhaps exclusive (reference 4.4).
                let from = Some(read.from.unwrap_or(Timestamp::from_ms(0)));
                (extract::bounds(cursor, Window::new(from, read.to)), expands)
            }
            _ => (Vec::new(), expands),
        }
    }

    async fn windows(&mut self, mut source: Source, hold: bool) -> Result<(), SyncError> {
        let run = self.run.clone();
        let clock = run.world.clock;
        let gate = run.session.gate().clone();
        let (sender, mut inbox) = mpsc::channel::<Message>(PAGES_WAITING);
        let mut fetching: JoinSet<()> = JoinSet::new();
        let mut writing: JoinSet<Result<Written, LoadError>> = JoinSet::new();
        // The partition that is written while its windows come; and whether there may be one: nothing is there yet.
        let mut growing: Option<Box<Growing>> = None;
        let mut grows = self.growing_part().is_some_and(|p| p.partitions.is_empty());
        let mut active: BTreeMap<u32, (Job, Active, Arc<AtomicU32>)> = BTreeMap::new();
        // Read to their end and not committed yet, with what is certain of them.
        let mut finished: BTreeMap<u32, (Job, Window)> = BTreeMap::new();
        let began = clock.elapsed();
        let mut flushed_at = began;
        let (mut rest, mut merging_since) = (FLUSH_EVERY, began);
        let mut halted = false;
        // Whether a window or a merge has ended since it was last looked what is to be merged.
        let mut ended = false;
        loop {
            // New work, as much as keeps the bucket busy.
            halted |= run.world.stop.is_cancelled() || self.failure.is_some() || self.skipped.is_some();
            // More chains than the bucket needs: its permits go to the one with most left, so that all end together. When a
            // deadline comes first, as many as possible are to end before it instead: no more chains than the bucket needs,
            // windows no larger than there is time for, and the one with least left goes first.
            let left: u64 = match &source {
                Source::Load(splitter) => active.values().map(|(_, a, _)| u64::from(splitter.left(a, PAGE_ROWS))).sum(),
                Source::Fixed(_) => 0,
            };
            let mut room = run.pages_left().map(|pages| pages.saturating_sub(left));
            let hurry = room.is_some_and(|r| r < PRESSING_PAGES);
            let at_once = self.work.chains(&gate, if hurry { 0 } else { SPARE_CHAINS });
            // Where only the cores are waited for, they are spared the work of putting rows aside: windows come in the order in which
            // they are written, and no more of them than can wait in memory.
            let order = if grows && self.work.is_the_limit(&gate) { Order::Rising } else { Order::Falling };
            let waiting: usize = self.parts.iter().map(|p| p.spill.buffered_bytes()).sum();
            let crowded = order == Order::Rising && waiting > BUFFER_BYTES / 3 * 2;
            let at_once = if crowded { 1 } else { at_once };
            while !halted && active.len() < at_once {
                let share = room.map_or(u64::MAX, |r| r / (at_once - active.len()) as u64);
                if share == 0 && matches!(source, Source::Load(_)) {
                    break;
                }
                room = room.map(|r| r - share.min(r));
                let job = match &mut source {
                    Source::Fixed(jobs) => jobs.pop(),
                    Source::Load(splitter) => {
                        let seen: Vec<Active> = active.values().map(|(_, a, _)| *a).collect();
                        let most = chain_pages(gate.pace().latency, clock.elapsed().saturating_sub(began)).min(share);
                        splitter.next(&seen, most.saturating_mul(PAGE_ROWS), order).map(|window| {
                            self.next_job += 1;
                            Job { id: self.next_job, filter: Filter::Created, read: Some(window), cover: window }
                        })
                    }
                };
                let Some(job) = job else { break };
                let priority = Arc::new(AtomicU32::new(if job.filter == Filter::Created { 1 } else { FIRST.0 }));
                fetching.spawn(self.fetch(&job, priority.clone(), sender.clone()));
                active.insert(job.id, (job.clone(), Active { window: job.cover, rows: 0 }, priority));
            }
            if let Source::Load(splitter) = &source {
                for (_, a, priority) in active.values() {
                    let left = splitter.left(a, PAGE_ROWS);
                    priority.store(if hurry { FIRST.0.saturating_sub(left) } else { left }, Ordering::Relaxed);
                }
            }
            if halted && run.drops() && !active.is_empty() {
                // Drop what is under way; what is finished is still merged and committed.
                fetching.abort_all();
                for id in std::mem::take(&mut active).into_keys() {
                    self.parts.iter_mut().for_each(|p| p.spill.discard(id));
                }
                self.complete = false;
            }
            let idle = active.is_empty();
            let timely = clock.elapsed().saturating_sub(flushed_at) >= rest;
            if writing.is_empty() && !finished.is_empty() && (ended || idle || timely) {
                ended = false;
                let pending: u64 = self.parts.iter().flat_map(|p| p.spill.pending()).map(|p| p.rows).sum();
                let due = idle || pending >= FLUSH_ROWS || timely;
                merging_since = clock.elapsed();
                let open: Option<Vec<Window>> = match &source {
                    Source::Load(splitter) => Some(
                        splitter.gaps().iter().copied().chain(active.values().map(|(job, ..)| job.cover)).collect(),
                    ),
                    Source::Fixed(_) => None,
                };
                let ripe = open.as_ref().filter(|_| growing.is_some() || !due);
                let value = growing.as_ref().map(|g| g.value());
                let whole = |g: &Growing| open.as_ref().is_none_or(|open| is_whole(g.value(), open));
                if let Some(ripe) = ripe.and_then(|open| self.ripe(value, open, &finished)) {
                    self.write(ripe, &mut growing, &mut writing).await?;
                } else if let Some(grown) = growing.take_if(|g| due || whole(g)) {
                    flushed_at = merging_since;
                    // One that takes so long is merged with what comes later.
                    grows &= whole(&grown);
                    writing.spawn(finish(run.clone(), *grown));
                } else if due && pending > 0 {
                    flushed_at = merging_since;
                    writing.spawn(flush(run.clone(), self.take(|_| true)));
                } else if due {
                    self.cover(&mut finished, hold).await?;
                }
            }
            if idle && writing.is_empty() && finished.is_empty() {
                let more = match &source {
                    Source::Fixed(jobs) => !jobs.is_empty(),
                    Source::Load(splitter) => !splitter.is_done(),
                };
                self.complete &= !more;
                break;
            }
            run.world.progress.update(&run.tenant, &self.chosen.resource.name, |u| {
                u.doing = match (idle, gate.pace().waiting) {
                    (true, _) => "merging",
                    (false, 0) => "reading",
                    (false, _) => "waiting for the rate limit",
                };
            });
            tokio::select! {
                Some(message) = inbox.recv(), if !idle => match message {
                    Message::Page { job, records, rejected, drift } => {
                        if let Some((_, a, _)) = active.get_mut(&job) {
                            a.rows += records as u64;
                            self.parts[0].report.records += records as u64;
                            self.drift.merge(drift);
                            self.keep(rejected).await?;
                        }
                    }
                    Message::Rows { job, ready } => {
                        if active.contains_key(&job) {
                            self.rows(job, *ready?).await?;
                        }
                    }
                    Message::Finished { job, requests, bytes, date } => {
                        self.parts[0].report.requests += requests;
                        self.parts[0].report.bytes += bytes;
                        if let Some((job, a, _)) = active.remove(&job) {
                            self.parts.iter_mut().for_each(|p| p.spill.finish(job.id));
                            self.parts[0].report.windows += 1;
                            if let Source::Load(splitter) = &mut source {
                                splitter.finished(job.cover, a.rows);
                            }
                            self.met(&job, a.rows);
                            let sure = certain(job.cover, date, run.config().safety_lag);
                            finished.insert(job.id, (job, sure));
                            ended = true;
                        }
                    }
                    Message::Failed { job, requests, bytes, error } => {
                        self.parts[0].report.requests += requests;
                        self.parts[0].report.bytes += bytes;
                        active.remove(&job);
                        self.parts.iter_mut().for_each(|p| p.spill.discard(job));
                        self.complete = false;
                        // The first says why; no new window is begun, those under way may end.
                        match error {
                            // The allowance is used up: the run is stopping.
                            ExtractError::Auth(AuthError::Stopped { .. }) => {}
                            ExtractError::Forbidden { path, hint, resource, .. } if !run.is_named(run.reader(&resource)) => {
                                self.skipped.get_or_insert_with(|| format!("not granted (403 on {path}): {hint}"));
                            }
                            error if self.failure.is_none() => {
                                self.failure = Some(fail(Some(&self.chosen.resource.name), &error.into()));
                            }
                            _ => {}
                        }
                    }
                    Message::Drifted { job, requests, bytes, drift } => {
                        self.parts[0].report.requests += requests;
                        self.parts[0].report.bytes += bytes;
                        active.remove(&job);
                        self.parts.iter_mut().for_each(|p| p.spill.discard(job));
                        self.complete = false;
                        let name = &self.chosen.resource.name;
                        self.failure.get_or_insert_with(|| fail(Some(name), &frozen(&run, name, &drift, "window")));
                        self.drift.merge(drift);
                    }
                },
                Some(done) = writing.join_next(), if !writing.is_empty() => {
                    let done = done.map_err(|_| SyncError::Died { tenant: run.tenant.clone() })??;
                    ended = true;
                    match done {
                        Written::Flushed(done) => self.settle(done),
                        Written::Grown(grown) => {
                            growing = Some(grown);
                            continue;
                        }
                    }
                    // A small part of the time goes into writing what will be written again.
                    rest = FLUSH_EVERY.max(REST * clock.elapsed().saturating_sub(merging_since));
                    self.cover(&mut finished, hold).await?;
                }
                () = run.world.stop.cancelled(), if !halted => {}
                () = run.dropped(), if halted && !run.drops() => {}
                () = tokio::time::sleep(FLUSH_EVERY), if !idle => {}
                Some(joined) = fetching.join_next(), if !fetching.is_empty() => {
                    // Its last words are in the channel; without them it died.
                    if joined.is_err_and(|e| e.is_panic()) {
                        return Err(SyncError::Died { tenant: run.tenant.clone() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Remembers what an increment met, for the forecasts of later runs: an average that follows slowly.
    fn met(&mut self, job: &Job, rows: u64) {
        let report = &self.parts[0].report;
        let request_bytes = report.bytes / report.requests.max(1);
        let days = job.read.and_then(|w| Some(w.to.since(w.from?).as_secs_f64() / 86_400.0));
        let before = self.commit.habits;
        let rows_a_day = match (job.filter, days, before) {
            // Minutes say little of a day.
            (Filter::Updated, Some(days), _) if days < 1.0 / 48.0 => before.map(|h| h.rows_a_day),
            (Filter::Updated, Some(days), Some(h)) if h.rows_a_day > 0.0 => {
                Some(h.rows_a_day * 0.7 + rows as f64 / days * 0.3)
            }
            (Filter::Updated, Some(days), _) => Some(rows as f64 / days),
            _ => before.map(|h| h.rows_a_day),
        };
        self.commit.habits = Some(Habits { rows_a_day: rows_a_day.unwrap_or(0.0), request_bytes });
    }

    fn fetch(
        &self,
        job: &Job,
        priority: Arc<AtomicU32>,
        inbox: mpsc::Sender<Message>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let run = self.run.clone();
        let resource = self.chosen.resource.clone();
        let (filter, expands) = self.query(job);
        let job = job.id;
        let is_frozen = run.is_frozen();
        let tables = self.parts.iter().map(|p| (p.resource.clone(), p.table.clone())).collect();
        let preparer = Preparer { run: run.clone(), tables };
        let work = self.work.clone();
        async move {
            let extract: Vec<&Resource> = preparer.tables.iter().skip(1).map(|(r, _)| r).collect();
            let decoder = Decoder::new(&resource, &extract);
            let mut gathering = Gathering::new(&decoder, work.hint());
            let mut pager = Pager::new(run.session_of(&resource.name), &resource, filter, &expands);
            let gate = run.session.gate().clone();
            // Where each page is looked at, each is a batch of its own.
            let most_rows = || match resource.mode {
                Mode::Incremental { .. } if is_frozen => 0,
                Mode::Incremental { .. } if work.is_the_limit(&gate) => BATCH_ROWS / preparer.tables.len().max(1),
                Mode::Incremental { .. } => IDLE_BATCH_ROWS,
                _ => 0,
            };
            let (mut date, mut responses) = (None, Vec::new());
            let (mut decoding, mut bytes) = (Duration::ZERO, 0);
            loop {
                let urgent = Priority(priority.load(Ordering::Relaxed));
                let next = pager.next(urgent, |body| {
                    let began = Instant::now();
                    let mut told = gathering.page(body).map_err(|e| e.to_string())?;
                    decoding += began.elapsed();
                    bytes += body.len();
                    Ok(Decoded { next: told.next.take(), more: told.more, records: told.records, page: told })
                });
                let mut message = match next.await {
                    Ok(Some(fetched)) if is_frozen && !fetched.page.drift.is_empty() => {
                        let (requests, bytes) = (pager.requests(), pager.bytes());
                        Message::Drifted { job, requests, bytes, drift: fetched.page.drift }
                    }
                    Ok(Some(fetched)) => {
                        // The first answer's: nothing later than its clock is certain to be in the window.
                        date = date.or(fetched.date);
                        let Told { records, rejected, drift, .. } = fetched.page;
                        run.world.progress.update(&run.tenant, &resource.name, |u| {
                            u.records += records as u64;
                            u.requests += 1;
                        });
                        // By the provider's clock, which also says when something was deleted.
                        let seen_at = fetched.date.unwrap_or(fetched.received);
                        responses.push((seen_at, run.seq.fetch_add(1, Ordering::Relaxed)));
                        Message::Page { job, records, rejected, drift }
                    }
                    Ok(None) => Message::Finished { job, requests: pager.requests(), bytes: pager.bytes(), date },
                    Err(error) => Message::Failed { job, requests: pager.requests(), bytes: pager.bytes(), error },
                };
                let full = match &message {
                    Message::Page { .. } => gathering.rows() >= most_rows() || bytes >= BATCH_BYTES,
                    Message::Finished { .. } => !responses.is_empty(),
                    _ => false,
                };
                let mut rows = Vec::new();
                if full {
                    let began = Instant::now();
                    let mut drifted = Drift::default();
                    let batches = match gathering.take() {
                        Ok(batches) => {
                            batches.iter().filter(|_| is_frozen).for_each(|b| drifted.merge(b.drift.clone()));
                            preparer.all_ready(batches, &responses)
                        }
                        Err(e) => vec![Err(SyncError::Rows { what: "a page".into(), why: e.to_string() })],
                    };
                    let pages = u32::try_from(responses.len()).unwrap_or(u32::MAX);
                    work.took((std::mem::take(&mut decoding) + began.elapsed()) / pages.max(1));
                    work.grew(gathering.hint());
                    responses.clear();
                    bytes = 0;
                    if drifted.is_empty() {
                        rows.extend(batches.into_iter().map(|ready| Message::Rows { job, ready }));
                    } else {
                        let (requests, bytes) = (pager.requests(), pager.bytes());
                        message = Message::Drifted { job, requests, bytes, drift: drifted };
                    }
                }
                // What a page says of itself goes before its rows, and the end behind all.
                let goes_on = matches!(message, Message::Page { .. });
                let at = if goes_on { 0 } else { rows.len() };
                rows.insert(at, message);
                for message in rows {
                    if inbox.send(message).await.is_err() {
                        return;
                    }
                }
                if !goes_on {
                    return;
                }
            }
        }
    }

    async fn keep(&mut self, rejected: Vec<Rejected>) -> Result<(), SyncError> {
        for rejected in rejected {
            self.quarantined += 1;
            quarantine::keep(&self.run, &self.chosen.resource.name, self.quarantined, None, rejected).await?;
        }
        Ok(())
    }

    async fn rows(&mut self, job: u32, ready: Ready) -> Result<(), SyncError> {
        self.drift.merge(ready.drift);
        match &self.chosen.resource.mode {
            Mode::Full => self.present.extend(keys(&ready.rows, &self.chosen.resource.key)),
            Mode::Tombstones { cursor, .. } => {
                let at = ready
                    .rows
                    .column_by_name(&cursor.column)
                    .and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
                let ids = keys(&ready.rows, &self.chosen.resource.key);
                for (i, key) in ids.enumerate() {
                    // One without a usable time is a deletion all the same: it was one when it was seen.
                    let at = at.filter(|a| !a.is_null(i)).map(|a| Timestamp::from_ms(a.value(i).div_euclid(1000)));
                    self.deletions.push(Deletion { key, at: at.unwrap_or(ready.seen_at) });
                }
            }
            Mode::Incremental { .. } | Mode::Extracted { .. } | Mode::Children { .. } => {}
        }
        for table in ready.tables {
            let part = &mut self.parts[table.part];
            if table.part > 0 {
                part.report.records += table.records;
            }
            part.anonymized.extend(table.anonymized.into_iter().map(|id| (id, ready.first_seen_at)));
            part.spill.take_in(job, table.incoming);
            while let Some(overflow) = part.spill.overflow() {
                let written = tokio::task::spawn_blocking(|| overflow.write()).await;
                part.spill.spilled(written.map_err(|_| SyncError::Died { tenant: self.run.tenant.clone() })??);
            }
        }
        Ok(())
    }

    /// The table whose partitions can be written while the windows of a load come: they are cut by the same time. Of a resource from
    /// which others are taken there is none, for their rows would have to go first.
    fn growing_part(&self) -> Option<&Part> {
        let [part] = self.parts.as_slice() else { return None };
        let Mode::Incremental { load: Some(load), .. } = &part.resource.mode else { return None };
        let by = part.table.layout.column?;
        (part.table.schema.field(by).name() == &load.column).then_some(part)
    }

    /// Rows of a load that can be written while others are read: those of a partition that nothing more comes before, or, where
    /// there is a file, of one that nothing more will come of. `open` is what is still to be read, `growing` the partition that is
    /// being written.
    fn ripe(
        &self,
        growing: Option<PartitionValue>,
        open: &[Window],
        finished: &BTreeMap<u32, (Job, Window)>,
    ) -> Option<Ripe> {
        let part = self.growing_part()?;
        let pending = part.spill.pending().into_iter();
        pending.filter(|p| growing.is_none_or(|value| value == p.value)).find_map(|p| {
            let (from, to) = p.value.span()?;
            let read = read_up_to((from, to), open);
            let grows = growing.is_some() || !part.partitions.contains_key(&part.table.layout.folder(p.value));
            let within = |id: &u32| finished.get(id).is_some_and(|(job, _)| job.cover.to.min(to) <= read);
            let windows: BTreeSet<u32> = p.windows.into_iter().filter(within).collect();
            let ripe = Ripe { value: p.value, windows, whole: read == to };
            (!ripe.windows.is_empty() && (ripe.whole || grows)).then_some(ripe)
        })
    }

    /// Begins to write what is ripe.
    async fn write(
        &mut self,
        ripe: Ripe,
        growing: &mut Option<Box<Growing>>,
        writing: &mut JoinSet<Result<Written, LoadError>>,
    ) -> Result<(), SyncError> {
        let Ripe { value, windows, whole } = ripe;
        let run = self.run.clone();
        let part = &mut self.parts[0];
        let growing = match growing.take() {
            Some(growing) => Some(growing),
            None => {
                let begun = Growing::begin(&run.lake, part.table.clone(), value, part.suppress.clone());
                begun.await?.map(Box::new)
            }
        };
        match growing {
            Some(growing) => {
                let runs = part.spill.take_of(value, &windows);
                writing.spawn(async move { Ok(Written::Grown(Box::new(growing.add(runs).await?))) });
            }
            None if whole => {
                writing.spawn(flush(run, self.take(|v| v == value)));
            }
            // An earlier run left a file that no commit tells of: it is merged with when nothing more comes.
            None => {}
        }
        Ok(())
    }

    /// Takes finished rows out of the spills; children first, so that a parent is never in the lake before them.
    fn take(
        &mut self,
        wanted: impl Fn(PartitionValue) -> bool,
    ) -> Vec<(usize, Arc<Table>, Suppress, PartitionValue, Runs)> {
        let mut all = Vec::new();
        for i in (0..self.parts.len()).rev() {
            let part = &mut self.parts[i];
            for pending in part.spill.pending().into_iter().filter(|p| wanted(p.value)) {
                let runs = part.spill.take(pending.value);
                all.push((i, part.table.clone(), part.suppress.clone(), pending.value, runs));
            }
        }
        all
    }

    fn settle(&mut self, done: Vec<Flushed>) {
        for f in done {
            let part = &mut self.parts[f.part];
            f.tickets.into_iter().for_each(|t| part.spill.settle(t));
            let m = f.merged;
            part.report.inserted += m.inserted;
            part.report.updated += m.updated;
            part.report.unchanged += m.unchanged;
            part.report.removed += m.removed;
            part.report.suppressed += m.suppressed;
            part.report.partitions_rewritten += u64::from(m.rewritten);
            part.touched |= m.rewritten;
            let figures = PartitionFigures { rows: m.rows, living: m.living, version: m.version };
            note(&mut part.partitions, part.table.layout.folder(f.value), figures);
        }
    }

    /// Commits every finished window of which nothing is left in a spill.
    async fn cover(&mut self, finished: &mut BTreeMap<u32, (Job, Window)>, hold: bool) -> Result<(), SyncError> {
        let run = self.run.clone();
        let waiting: BTreeSet<u32> = self.parts.iter().flat_map(|p| p.spill.unmerged_windows()).collect();
        let ready: Vec<u32> = finished.keys().filter(|id| !waiting.contains(id)).copied().collect();
        if ready.is_empty() {
            return Ok(());
        }
        for id in ready {
            let Some((job, sure)) = finished.remove(&id) else { continue };
            if self.commit.kind == CommitKind::Backfill {
                continue;
            }
            match job.filter {
                Filter::Created => {
                    self.commit.covered.created.add(sure);
                    // When our clock is ahead of the provider's, the load began earlier by its clock than by ours, and the
                    // increments must reach back to that.
                    if let Some((began, theirs)) = self.began.zip(run.provider_now()) {
                        let started = began.minus(run.world.clock.now().since(theirs));
                        self.commit.load_started = self.commit.load_started.min(Some(started));
                    }
                }
                Filter::Updated => {
                    self.commit.covered.updated.add(sure);
                    // A feed has no other load.
                    if self.wish.full && matches!(self.chosen.resource.mode, Mode::Tombstones { .. }) {
                        self.commit.privacy.clone_from(&self.privacy);
                    }
                }
                Filter::Whole => {
                    self.commit.covered.full = Some(sure.to);
                    self.commit.privacy_of_load = Some(self.privacy.clone());
                    self.commit.confidential = self.chosen.confidential;
                    if matches!(self.chosen.resource.mode, Mode::Incremental { .. }) {
                        self.commit.load_started = Some(sure.to);
                        self.commit.covered.updated = crate::state::Intervals::default();
                    }
                    self.commit.load_done = true;
                }
            }
        }
        if let Some(started) = self.commit.load_started
            && !self.commit.load_done
        {
            self.commit.load_done = self.commit.covered.created.gaps(Window::new(None, started)).is_empty();
        }
        // A listing in every run is no load that could be unfinished.
        if (self.commit.load_done || self.chosen.resource.mode == Mode::Full)
            && let Some(privacy) = self.commit.privacy_of_load.take()
        {
            self.commit.privacy = privacy;
        }
        // Before the commit: what is covered is not read again, and a crash in between would leave them there.
        for part in &mut self.parts {
            let (ids, at): (Vec<String>, Vec<Timestamp>) = part.anonymized.drain(..).unzip();
            self.commit.anonymized_since = at.into_iter().chain(self.commit.anonymized_since).min();
            quarantine::forget(&run, &Gone::Anonymized(&part.resource, &ids)).await?;
        }
        if hold { Ok(()) } else { self.commit().await }
    }

    /// Commits what is true: the tables taken out first, then the resource with its cursor.
    async fn commit(&mut self) -> Result<(), SyncError> {
        let run = self.run.clone();
        run.lease.ensure().await?;
        self.commit.partitions.clone_from(&self.parts[0].partitions);
        if self.commit.kind != CommitKind::Backfill {
            self.commit.along = self.parts[1..].iter().map(|p| p.resource.name.clone()).collect();
        }
        for i in (0..self.parts.len()).rev() {
            let part = &mut self.parts[i];
            // A table that only a backfill wrote has no history yet: without a commit it is still known to be new.
            let new_still = part.last.is_none() && self.commit.kind == CommitKind::Backfill;
            if i > 0 && (new_still || !part.touched && part.last.is_some()) {
                continue;
            }
            let commit = if i == 0 {
                self.commit.clone()
            } else {
                let mut c =
                    Commit::empty(run.run, self.commit.kind, part.table.layout.granularity, part.table.fingerprint());
                c.partitions.clone_from(&part.partitions);
                c
            };
            let after = part.last.as_ref().map_or(0, |l| l.n);
            part.last = Some(run.state.commits(&run.tenant, &part.resource.name).append(after, commit).await?);
            part.touched = false;
        }
        Ok(())
    }

    /// The commit of a feed, once its deletions are applied.
    pub(super) async fn commit_held(&mut self) -> Result<(), SyncError> {
        self.commit().await
    }

    /// Rows that a complete listing no longer has: confirmed one by one, or by a second complete listing, then deleted.
    pub(super) async fn absences(&mut self) -> Result<(), SyncError> {
        let run = self.run.clone();
        let resource = self.chosen.resource.clone();
        let table = self.parts[0].table.clone();
        let living = load::living_keys(&run.lake, &table).await?;
        let mut absent: Vec<String> = living.difference(&self.present).cloned().collect();
        self.leave_hidden(&mut absent).await?;
        if absent.is_empty() {
            return Ok(());
        }
        // A record without a key is another one when anything of it changes: what counts is how many there are.
        let keyless = resource.content_key.is_some();
        let vanished = if keyless { living.len().saturating_sub(self.present.len()) } else { absent.len() };
        if vanished > FEW_ABSENT && vanished * 5 > living.len() && !run.options.allow_mass_delete {
            return Err(SyncError::MassDelete {
                tenant: run.tenant.clone(),
                resource: resource.name.clone(),
                absent: vanished,
                rows: living.len(),
            });
        }
        match &resource.item {
            // Nothing of a former record is left by which it could be asked for.
            _ if keyless => {}
            Some(item) => {
                let (mut gone, asked) = (Vec::new(), absent.len());
                for id in absent {
                    if run.world.stop.is_cancelled() {
                        self.complete = false;
                        break;
                    }
                    match extract::exists(run.session_of(&resource.name), &resource, item, &id).await {
                        Ok(true) => {}
                        Ok(false) => gone.push(id),
                        Err(ExtractError::Auth(AuthError::Stopped { .. })) => {
                            self.complete = false;
                            return Ok(());
                        }
                        Err(e) => return Err(e.into()),
                    }
                    self.parts[0].report.requests += 1;
                }
                let kept = asked - gone.len();
                if kept > 0 {
                    let note = format!(
                        "rows that the listing skipped and that are still there by their id, so they were kept: {kept}"
                    );
                    self.parts[0].report.notes.push(note);
                }
                absent = gone;
            }
            None => {
                let mut decoder = Decoder::new(&resource, &[]);
                let whole = Job { id: 0, filter: Filter::Whole, read: None, cover: Window::new(None, run.bound) };
                let mut pager = Pager::new(run.session_of(&resource.name), &resource, self.query(&whole).0, &[]);
                let mut again = BTreeSet::new();
                loop {
                    let next = pager.next(FIRST, |body| {
                        let mut page = decoder.page(body).map_err(|e| e.to_string())?;
                        Ok(Decoded { next: page.next.take(), more: page.more, records: page.records, page })
                    });
                    let next = match next.await {
                        Err(ExtractError::Auth(AuthError::Stopped { .. })) => {
                            self.complete = false;
                            return Ok(());
                        }
                        next => next?,
                    };
                    let Some(fetched) = next else { break };
                    again.extend(keys(&run.private(&resource.name, fetched.page.rows)?, &resource.key));
                    // What cannot be decoded cannot be told from what is missing.
                    let clear = fetched.page.rejected.is_empty() && !run.world.stop.is_cancelled();
                    if !clear {
                        self.complete = false;
                        return Ok(());
                    }
                }
                self.parts[0].report.requests += pager.requests();
                absent.retain(|id| !again.contains(id));
            }
        }
        let at = run.world.clock.now();
        let deletions: Vec<Deletion> = absent.into_iter().map(|key| Deletion { key, at }).collect();
        let on = if keyless { OnDelete::Remove } else { run.config().tenant(&run.tenant).on_delete };
        delete::follow(&run, &resource, &deletions, &mut BTreeMap::new()).await?;
        let deleted = load::delete(&run.lake, &run.lease, &table, By::Key, &deletions, on, None).await?;
        self.parts[0].report.deleted += deleted.rows;
        self.parts[0].report.partitions_rewritten += deleted.rewritten.len() as u64;
        if deleted.rewritten.is_empty() {
            return Ok(());
        }
        for (value, m) in &deleted.rewritten {
            let figures = PartitionFigures { rows: m.rows, living: m.living, version: m.version.clone() };
            note(&mut self.parts[0].partitions, table.layout.folder(*value), figures);
        }
        self.commit().await
    }

    /// Confidential rows are missing from a listing that does not ask for them, and stay.
    async fn leave_hidden(&self, absent: &mut Vec<String>) -> Result<(), SyncError> {
        if !self.chosen.confidential && !absent.is_empty() {
            let hidden = delete::hidden(&self.run, &self.chosen.resource, absent).await?;
            absent.retain(|id| !hidden.contains(id));
        }
        Ok(())
    }

    /// A record may come to refer to another shared thing than before (a contact that was merged into another): the former
    /// one goes when nothing living refers to it any more. Looked for only when records changed, or a late run brought former
    /// ones back.
    pub(super) async fn forget_orphans(&mut self) -> Result<(), SyncError> {
        let run = self.run.clone();
        let due = self.commit.orphans_due;
        if (self.parts[0].report.updated == 0 && !due) || !self.commit.load_done {
            return Ok(());
        }
        let carrier = self.parts[0].table.clone();
        let at = run.provider_now().unwrap_or_else(|| run.world.clock.now());
        let on = run.config().tenant(&run.tenant).on_delete;
        for i in 1..self.parts.len() {
            let part = &self.parts[i];
            let Mode::Extracted { field, .. } = &part.resource.mode else { continue };
            let column = self.chosen.resource.columns.iter().find(|c| c.source == *field);
            let Some(column) = column.filter(|_| part.resource.parent.is_none()) else { continue };
            let orphans = load::unreferenced(&run.lake, &part.table, &carrier, &column.name).await?;
            let deletions: Vec<Deletion> = orphans.into_iter().map(|key| Deletion { key, at }).collect();
            // Children are read after all listings, so nobody else writes to their tables now.
            delete::follow(&run, &part.resource, &deletions, &mut BTreeMap::new()).await?;
            let deleted = load::delete(&run.lake, &run.lease, &part.table, By::Key, &deletions, on, None).await?;
            if deleted.rewritten.is_empty() {
                continue;
            }
            let part = &mut self.parts[i];
            part.report.deleted += deleted.rows;
            part.report.partitions_rewritten += deleted.rewritten.len() as u64;
            part.touched = true;
            for (value, m) in deleted.rewritten {
                let figures = PartitionFigures { rows: m.rows, living: m.living, version: m.version };
                note(&mut part.partitions, part.table.layout.folder(value), figures);
            }
            self.commit().await?;
        }
        if due {
            self.commit.orphans_due = false;
            self.commit().await?;
        }
        Ok(())
    }

    /// The reports of all its tables.
    pub(super) fn end(mut self, error: Option<SyncError>) -> Vec<Done> {
        let name = self.chosen.resource.name.clone();
        self.run.anonymized.fetch_or(self.commit.anonymized_since.is_some(), Ordering::Relaxed);
        if let Some(e) = error {
            self.failure = Some(fail(Some(&name), &e));
        }
        self.run.world.progress.update(&self.run.tenant, &name, |u| u.over = true);
        let outcome = match (&self.failure, &self.skipped, self.complete) {
            (Some(_), _, _) => Outcome::Failed,
            (None, Some(_), _) => Outcome::Skipped,
            (None, None, true) => Outcome::Done,
            (None, None, false) => Outcome::Stopped,
        };
        self.parts[0].report.notes.extend(self.skipped.take());
        let mut failure = self.failure;
        // A load under way is on its way to bring every row to today's.
        let written = self.commit.privacy_of_load.as_ref().unwrap_or(&self.commit.privacy);
        let (run, drift) = (self.run, drift_counts(&self.drift));
        let mut all = Vec::new();
        for (i, part) in self.parts.into_iter().enumerate() {
            let mut report = part.report;
            report.outcome = outcome;
            report.rows = part.partitions.values().map(|p| p.living).sum();
            if i == 0 {
                report.quarantined = self.quarantined;
                report.frozen = run.is_frozen() && !drift.is_empty();
                report.drift.clone_from(&drift);
                report.drops_extra = run.drops_extra() && !drift.is_empty();
                report.cursor = part.last.as_ref().and_then(|l| l.body.cursor());
            }
            let failure = if i == 0 { failure.take() } else { None };
            let name = part.resource.name;
            let former = part.last.is_some() && written.get(&name) != self.privacy.get(&name);
            all.push(Done { resource: name, report, failure, former });
        }
        all
    }
}

async fn flush(
    run: Arc<TenantRun>,
    units: Vec<(usize, Arc<Table>, Suppress, PartitionValue, Runs)>,
) -> Result<Written, LoadError> {
    let mut done = Vec::with_capacity(units.len());
    for (part, table, suppress, value, runs) in units {
        let tickets = vec![runs.ticket()];
        let merged = load::merge(&run.lake, &run.lease, &table, value, runs, &suppress).await?;
        done.push(Flushed { part, value, tickets, merged });
    }
    Ok(Written::Flushed(done))
}

/// Puts a partition in place that was written while its windows came: of the group's own table.
async fn finish(run: Arc<TenantRun>, growing: Growing) -> Result<Written, LoadError> {
    let (value, tickets) = (growing.value(), growing.tickets().to_vec());
    let merged = growing.finish(&run.lease).await?;
    Ok(Written::Flushed(vec![Flushed { part: 0, value, tickets, merged }]))
}

/// Up to where a partition of that span is read, when `open` is what is still to be read.
fn read_up_to((from, to): (Timestamp, Timestamp), open: &[Window]) -> Timestamp {
    let within = open.iter().map(|w| w.intersect(&Window::new(Some(from), to))).filter(|w| !w.is_empty());
    within.map(|w| w.from.unwrap_or(from)).min().unwrap_or(to)
}

fn is_whole(value: PartitionValue, open: &[Window]) -> bool {
    value.span().is_none_or(|span| read_up_to(span, open) == span.1)
}

/// Writes a partition's figures down, or crosses it out when there is no file.
pub(super) fn note(partitions: &mut BTreeMap<String, PartitionFigures>, folder: String, figures: PartitionFigures) {
    if figures.version.is_none() && figures.rows == 0 {
        partitions.remove(&folder);
    } else {
        partitions.insert(folder, figures);
    }
}

/// The figures of a table as its files' footers have them.
pub(super) async fn figures(lake: &Lake, table: &Table) -> Result<BTreeMap<String, PartitionFigures>, SyncError> {
    let mut all = BTreeMap::new();
    for f in load::figures(lake, table).await? {
        let version = lake.store.version(&f.path).await?;
        all.insert(table.layout.folder(f.value), PartitionFigures { rows: f.rows, living: f.living, version });
    }
    Ok(all)
}

/// The keys of those rows that say of themselves that they are anonymized.
fn anonymized<'a>(resource: &'a Resource, rows: &'a RecordBatch) -> impl Iterator<Item = String> + 'a {
    let marks = resource.anonymized.as_deref().and_then(|c| rows.column_by_name(c)).and_then(|c| c.as_boolean_opt());
    let some = marks.filter(|marks| marks.has_true());
    let keyed = some.map(|marks| keys(rows, &resource.key).zip(marks.iter()));
    keyed.into_iter().flatten().filter_map(|(key, mark)| (mark == Some(true)).then_some(key))
}

/// The keys of a batch's rows, the parts of a composite one joined.
fn keys<'a>(rows: &'a RecordBatch, key: &'a [String]) -> impl Iterator<Item = String> + 'a {
    let columns: Vec<_> =
        key.iter().filter_map(|k| rows.column_by_name(k)).filter_map(|c| c.as_string_opt::<i32>()).collect();
    (0..rows.num_rows()).map(move |i| {
        let parts: Vec<&str> = columns.iter().map(|c| if c.is_null(i) { "" } else { c.value(i) }).collect();
        parts.join(&KEY_SEPARATOR.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_a_file_is_crossed_out() {
        let mut all = BTreeMap::new();
        let some = PartitionFigures {
            rows: 1,
            living: 1,
            version: Some(crate::store::Version { e_tag: None, version: None, bytes: 9, fence: None }),
        };
        note(&mut all, "created_year=2026".into(), some);
        assert_eq!(all.len(), 1);
        note(&mut all, "created_year=2026".into(), PartitionFigures { rows: 0, living: 0, version: None });
        assert!(all.is_empty());
    }
}
