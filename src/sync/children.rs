//! Children that are asked for parent by parent: those of parents that changed, then a night's share of the others.
//!
//! A parent is read whole before anything of it counts; its rows replace those that the lake has. Rows are merged in batches,
//! then the ledger that says when each parent was read, then the commit: a run that is killed reads a few parents again, and
//! none is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use tokio::task::JoinSet;

use super::contents;
use super::group::{figures, note};
use super::ledger::{Due, Ledger, Progress, Reads, Terms, Turn, Turns, Why, due, turns_of};
use super::{Done, SyncError, TenantRun, drift_counts, fail, frozen, mix, quarantine};
use crate::auth::AuthError;
use crate::catalog::{Mode, PartitionValue, Resource, Skip, Table};
use crate::clock::Timestamp;
use crate::extract::{Decoded, ExtractError, Pager};
use crate::http::{Cause, Priority};
use crate::load::{self, Lake, LoadError, Merged, Runs, Spill, Suppress, Ticket};
use crate::names::ResourceName;
use crate::report::{Failure, Outcome, ParentsReport, ResourceReport};
use crate::state::{Commit, CommitKind, Entry, Habits, PartitionFigures};
use crate::transform::{Decoder, Drift, Parent, Rejected};

/// Rows wait no longer than this to be merged: a killed run reads no more than this time's parents again. A merge costs the
/// partition and the ledger's, so it is rarer than that of windows, whose pages hold a hundred rows.
const FLUSH_EVERY: Duration = Duration::from_secs(120);
/// Rows and parents that are merged at once, however young.
const FLUSH_ROWS: u64 = 50_000;
/// Parents under way beyond those that fill the bucket: several resources share it, and each has its hiccups.
const SPARE: usize = 2;
/// Parents that fail one after the other, without one that does not, before the resource is given up for this run.
const FAILURES_IN_A_ROW: u64 = 5;
/// Refusals (403) without any answer by which the resource is taken for not granted; a single parent may be withheld.
const REFUSALS: usize = 3;
/// Pages of one parent: ten thousand children, which are held at once.
const MOST_PAGES: u64 = 100;
/// The window of the spill: a parent's rows come whole, so all of them may be merged.
const WINDOW: u32 = 0;

/// One resource of children, from plan to commit.
pub(super) struct Children {
    run: Arc<TenantRun>,
    resource: Arc<Resource>,
    carrier: Resource,
    carrier_table: Table,
    skip: Option<Skip>,
    table: Arc<Table>,
    suppress: Suppress,
    spill: Spill,
    ledger: Ledger,
    reads: Spill,
    last: Option<Entry<Commit>>,
    commit: Commit,
    report: ResourceReport,
    parents: ParentsReport,
    drift: Drift,
    failure: Option<Failure>,
    skipped: Option<String>,
    complete: bool,
    quarantined: u64,
    /// Failures since the last answer.
    failed_in_a_row: u64,
    /// Parents that were refused (403) before any was answered, and what was said of the last.
    refused: Vec<(Turn, Timestamp)>,
    refusal: Option<(String, String)>,
    /// Parents of which it was not told whether they are withheld.
    undecided: u64,
    /// Whether any parent was answered.
    answered: bool,
    /// Due parents that were not read yet.
    unread: u64,
    /// Of those that were read before.
    progress: Progress,
    /// Parents that drifted since one that did not, where the schema is frozen; and what the first showed.
    drifted_in_a_row: u64,
    frozen: Option<SyncError>,
}

/// What came of one parent.
struct Read {
    turn: Turn,
    requests: u64,
    bytes: u64,
    records: u64,
    rows: Vec<RecordBatch>,
    drift: Drift,
    rejected: Vec<Rejected>,
    seen_at: Option<Timestamp>,
    end: Result<(), ExtractError>,
}

struct Flushed {
    ledger: bool,
    value: PartitionValue,
    ticket: Ticket,
    merged: Merged,
}

type Unit = (bool, Arc<Table>, Suppress, PartitionValue, Runs);

impl Children {
    pub(super) async fn open(run: Arc<TenantRun>, resource: Resource, carrier: Resource) -> Result<Self, SyncError> {
        let Mode::Children { skip, .. } = &resource.mode else {
            return Err(SyncError::Died { tenant: run.tenant.clone() });
        };
        let table = Arc::new(run.config().table(&resource)?);
        let carrier_table = run.config().table(&carrier)?;
        let ledger = Ledger::new(&run.world, &run.tenant, &run.lake.scratch, &resource, &carrier)?;
        let last = run.commit_of(&resource.name).await?;
        let empty = || Commit::empty(run.run, CommitKind::Children, table.layout.granularity, table.fingerprint());
        let commit = last.as_ref().filter(|l| l.body.kind != CommitKind::Erased);
        let commit = commit.map_or_else(empty, |l| Commit {
            run: run.run,
            kind: CommitKind::Children,
            backfilled: None,
            ..l.body.clone()
        });
        let mut spill = Spill::new(table.clone(), run.lake.scratch.join(resource.name.as_str()))?;
        let mut reads = Spill::new(ledger.table.clone(), ledger.lake.scratch.clone())?;
        spill.finish(WINDOW);
        reads.finish(WINDOW);
        Ok(Self {
            suppress: run.suppressed(&resource).await?,
            skip: skip.clone(),
            report: ResourceReport { mode: resource.mode.word().into(), ..ResourceReport::default() },
            resource: Arc::new(resource),
            carrier,
            carrier_table,
            table,
            spill,
            ledger,
            reads,
            last,
            commit,
            parents: ParentsReport::default(),
            drift: Drift::default(),
            failure: None,
            skipped: None,
            complete: true,
            quarantined: 0,
            failed_in_a_row: 0,
            refused: Vec::new(),
            refusal: None,
            undecided: 0,
            answered: false,
            unread: 0,
            progress: Progress::default(),
            drifted_in_a_row: 0,
            frozen: None,
            run,
        })
    }

    /// Reads whose turn it is, merges and commits.
    pub(super) async fn work(&mut self) -> Result<(), SyncError> {
        let run = self.run.clone();
        if self.last.is_some() && self.commit.schema != self.table.fingerprint() {
            load::bring_forward(&run.lake, &run.lease, &self.table).await?;
            self.commit.partitions = figures(&run.lake, &self.table).await?;
            self.commit.schema = self.table.fingerprint();
        }
        let privacy = run.privacy(std::iter::once(&self.resource.name));
        if self.commit.partitions.is_empty() {
            self.commit.privacy.clone_from(&privacy);
        } else {
            mix(&mut self.commit.privacy, &privacy);
        }
        // Without a commit nothing is in the lake, whatever a ledger that outlived it says.
        let empty = self.commit.parents.is_none() && self.commit.partitions.is_empty();
        let reads = if empty { Reads::none() } else { self.ledger.read().await? };
        let anew = if empty { None } else { self.full_since(&privacy) };
        let lost = match self.resource.content {
            Some(_) if !empty => contents::lost(&run, &self.resource, &self.carrier).await?,
            _ => BTreeSet::new(),
        };
        if !lost.is_empty() {
            let what = "documents that are not there any more, or not as they were, belong to so many parents, and are read again";
            self.report.notes.push(format!("{what}: {}", lost.len()));
        }
        let (carrier, carrier_table, skip) = (self.carrier.clone(), self.carrier_table.clone(), self.skip.clone());
        let last = self.commit.parents.clone();
        let now = run.world.clock.now();
        let terms = Terms {
            carrier: &carrier,
            table: &carrier_table,
            skip: skip.as_ref(),
            reconcile: turns_of(run.config(), &run.tenant, &self.resource),
            last: last.as_ref(),
            now,
            overlap: run.config().overlap,
            backfill: run.options.backfill,
            anew,
            lost,
        };
        let mut due = due(&run.lake, &terms, &reads).await?;
        drop(reads);
        self.announce(&due);
        let left = last.as_ref().map(|l| l.left).filter(|n| *n > 0 && run.options.backfill.is_none());
        if let Some(left) = left {
            self.report.notes.push(format!("goes on with {left} parents that were left by the last run"));
        }
        self.progress = due.progress();
        let mut columns: Vec<String> =
            Decoder::of_children(&self.resource, &carrier).parent_columns().map(str::to_owned).collect();
        let content = self.resource.content.as_ref();
        columns.extend(content.into_iter().flat_map(contents::columns).map(str::to_owned));
        columns.extend(carrier.parent.clone().filter(|_| content.is_some() || self.resource.path.contains(":parent")));
        let mut turns = Turns::new(due, &carrier, columns.iter().map(String::as_str));
        self.read(&mut turns, &terms).await?;
        if content_is_due(self) {
            let swept = contents::sweep(&run, &self.resource, &carrier).await?;
            self.report.deleted += swept.rows;
            for (value, m) in swept.rewritten {
                let figures = PartitionFigures { rows: m.rows, living: m.living, version: m.version };
                note(&mut self.commit.partitions, self.table.layout.folder(value), figures);
            }
            self.last = run.commit_of(&self.resource.name).await?;
        }

        self.parents.left = self.unread + self.parents.failed;
        self.parents.stalest = self.progress.stalest().map(|us| Timestamp::from_ms(us.div_euclid(1000)));
        let settled = self.parents.left == 0 && self.undecided == 0;
        let all = settled && self.complete && self.failure.is_none() && self.skipped.is_none();
        let mut read = last.unwrap_or_default();
        [read.reconciled, read.reconciled_active] = self.progress.read_up_to(now, all);
        read.full_since = anew.filter(|_| !all);
        if anew.is_some() && all {
            (read.reconciled, read.reconciled_active) = (Some(now), Some(now));
            self.commit.privacy.clone_from(&privacy);
            self.commit.privacy_of_load = None;
        }
        read.left = self.parents.left;
        read.stalest = self.parents.stalest;
        let parents_read = self.parents.changed + self.parents.reconciled;
        if parents_read >= 20 {
            read.milli_requests = self.report.requests * 1000 / parents_read;
        }
        if let Some(request_bytes) = self.report.bytes.checked_div(self.report.requests) {
            self.commit.habits = Some(Habits { rows_a_day: 0.0, request_bytes });
        }
        self.commit.load_done = self.parents.left == 0 && self.skipped.is_none();
        if run.options.backfill.is_none() && self.skipped.is_none() {
            self.commit.parents = Some(read);
        }
        if self.skipped.is_none() && self.failure.is_none() || !self.commit.partitions.is_empty() {
            self.write_commit().await?;
        }
        Ok(())
    }

    /// When the full read began that this run begins or goes on with. Rows of a former setting of privacy count for nothing in it.
    fn full_since(&mut self, privacy: &BTreeMap<ResourceName, String>) -> Option<Timestamp> {
        let run = self.run.clone();
        if run.options.backfill.is_some() {
            return None;
        }
        let began = self.commit.parents.as_ref().and_then(|p| p.full_since);
        let same = self.commit.privacy_of_load.as_ref() == Some(privacy);
        if let Some(began) = began.filter(|_| same) {
            self.report.notes.push(format!("goes on with the full read that began at {began}"));
            return Some(began);
        }
        if began.is_none() && !run.options.full {
            return None;
        }
        // By the provider's clock, like the times at which parents are read, and no later than the second that it would tell now.
        let now = run.provider_now().unwrap_or_else(|| run.world.clock.now());
        let began = Timestamp::from_ms(now.ms().div_euclid(1000) * 1000);
        self.commit.privacy_of_load = Some(privacy.clone());
        if let Some(parents) = &mut self.commit.parents {
            parents.full_since = Some(began);
        }
        Some(began)
    }

    fn announce(&mut self, due: &Due) {
        self.parents.living = due.parents;
        self.parents.skipped = due.skipped;
        self.unread = due.count(Why::Changed) + due.count(Why::Reconcile);
        tracing::debug!(
            resource = %self.resource.name,
            changed = due.count(Why::Changed),
            reconcile = due.count(Why::Reconcile),
            "parents are due"
        );
    }

    async fn read(&mut self, turns: &mut Turns, terms: &Terms<'_>) -> Result<(), SyncError> {
        let run = self.run.clone();
        let clock = run.world.clock;
        let mut reading: JoinSet<Result<Read, SyncError>> = JoinSet::new();
        let mut flushing: JoinSet<Result<Vec<Flushed>, LoadError>> = JoinSet::new();
        let mut flushed_at = clock.elapsed();
        let (mut halted, mut over) = (false, false);
        loop {
            let stopped = run.world.stop.is_cancelled();
            halted |= stopped || self.failure.is_some() || self.skipped.is_some();
            let at_once = match self.resource.content {
                Some(_) => contents::AT_ONCE,
                None => run.session.gate().chains() + SPARE,
            };
            while !halted && !over && reading.len() < at_once {
                match turns.next(&run.lake, terms).await? {
                    Some(turn) => {
                        reading.spawn(read_parent(run.clone(), self.resource.clone(), self.carrier.clone(), turn));
                    }
                    None => over = true,
                }
            }
            if run.drops() && !reading.is_empty() {
                // Whoever waits for a permit has cost nothing yet; what is on its way is asked for again.
                reading.abort_all();
                while reading.join_next().await.is_some() {}
            }
            let pending: u64 = [&self.spill, &self.reads].into_iter().flat_map(Spill::pending).map(|p| p.rows).sum();
            let old = clock.elapsed().saturating_sub(flushed_at) >= FLUSH_EVERY;
            if flushing.is_empty() && pending > 0 && (reading.is_empty() || old || pending >= FLUSH_ROWS) {
                flushed_at = clock.elapsed();
                flushing.spawn(flush(run.clone(), self.ledger.lake.clone(), self.take()));
            }
            if reading.is_empty() && !halted && over && !self.refused.is_empty() {
                self.judge_refusals()?;
                continue;
            }
            if reading.is_empty() && flushing.is_empty() && (halted || over) {
                self.complete &= over && self.unread == 0;
                return Ok(());
            }
            run.world.progress.update(&run.tenant, &self.resource.name, |u| {
                u.doing = match (reading.is_empty(), run.session.gate().pace().waiting) {
                    (true, _) => "merging",
                    (false, 0) => "reading",
                    (false, _) => "waiting for the rate limit",
                };
            });
            tokio::select! {
                Some(joined) = reading.join_next(), if !reading.is_empty() => {
                    let read = joined.map_err(|_| SyncError::Died { tenant: run.tenant.clone() })??;
                    self.came(read).await?;
                }
                Some(done) = flushing.join_next(), if !flushing.is_empty() => {
                    let done = done.map_err(|_| SyncError::Died { tenant: run.tenant.clone() })??;
                    self.settle(done);
                    self.write_commit().await?;
                }
                () = run.world.stop.cancelled(), if !halted => {}
                () = run.dropped(), if halted && !run.drops() => {}
                () = tokio::time::sleep(FLUSH_EVERY), if !reading.is_empty() => {}
            }
        }
    }

    /// One parent was read, or could not be.
    async fn came(&mut self, read: Read) -> Result<(), SyncError> {
        self.report.requests += read.requests;
        self.report.bytes += read.bytes;
        if read.turn.why == Why::Reconcile {
            self.parents.reconcile_requests += read.requests;
        }
        let absent_is_empty = matches!(self.resource.mode, Mode::Children { absent_is_empty: true, .. });
        // A parent is done with when it was answered, its answer being "gone" or "not for you" included.
        let seen_at = read.seen_at.unwrap_or_else(|| self.run.world.clock.now());
        let replaces = match read.end {
            Ok(()) => true,
            Err(ExtractError::NotFound { .. }) if absent_is_empty => true,
            Err(ExtractError::NotFound { .. }) => {
                // Its deletion comes with the feed of deletions, or it is looked for by its id when all children were read.
                self.parents.gone += 1;
                self.run.gone(&self.carrier.name, &read.turn.id);
                (self.failed_in_a_row, self.answered) = (0, true);
                return self.leave(&read.turn, seen_at);
            }
            Err(ExtractError::Forbidden { path, hint, .. }) => return self.refused((read.turn, seen_at), path, hint),
            // The allowance is used up: the run is stopping, and this parent stays due.
            Err(ExtractError::Auth(AuthError::Stopped { .. })) => return Ok(()),
            Err(error) => return self.failed(error),
        };
        (self.failed_in_a_row, self.answered) = (0, true);
        for (turn, seen_at) in std::mem::take(&mut self.refused) {
            self.withhold(&turn, seen_at)?;
        }
        if self.run.is_frozen() && !read.drift.is_empty() {
            self.drifted(read.drift);
            return Ok(());
        }
        self.drifted_in_a_row = 0;
        self.report.records += read.records;
        self.drift.merge(read.drift);
        self.run.world.progress.update(&self.run.tenant, &self.resource.name, |u| {
            u.records += read.records;
            u.requests += read.requests;
        });
        if replaces {
            let seq = self.run.seq.fetch_add(1, Ordering::Relaxed);
            for rows in read.rows {
                self.spill.add(WINDOW, &self.run.private(&self.resource.name, rows)?, seen_at, seq)?;
            }
            // A record that could not be decoded is missing from the rows, not from the parent: nothing is taken for gone. But
            // of who was anonymized nothing older may stay: what could not be decoded is in quarantine, as it is now.
            if self.table.by_parent && (read.rejected.is_empty() || self.is_anonymized(&read.turn)) {
                let decoder = Decoder::of_children(&self.resource, &self.carrier);
                let parent = Parent { batch: &read.turn.batch, row: read.turn.row };
                let marker = decoder.read_marker(parent);
                let marker =
                    marker.map_err(|e| SyncError::Rows { what: self.resource.name.to_string(), why: e.to_string() })?;
                self.spill.add(WINDOW, &marker, seen_at, seq)?;
            }
        }
        for rejected in read.rejected {
            self.quarantined += 1;
            let parent = Some(read.turn.id.as_str());
            quarantine::keep(&self.run, &self.resource.name, self.quarantined, parent, rejected).await?;
        }
        self.done_with(&read.turn, seen_at)
    }

    /// Whether the parent says of itself that the person was taken out of it.
    fn is_anonymized(&self, turn: &Turn) -> bool {
        let marks = self.carrier.anonymized.as_deref().and_then(|c| turn.batch.column_by_name(c));
        let mark =
            marks.and_then(|c| c.as_boolean_opt()).map(|c| c.is_valid(turn.row as usize) && c.value(turn.row as usize));
        mark == Some(true)
    }

    /// A parent with something that the catalogue does not expect, where that is not allowed: it stays due.
    fn drifted(&mut self, drift: Drift) {
        self.parents.failed += 1;
        self.unread = self.unread.saturating_sub(1);
        self.drifted_in_a_row += 1;
        let error = frozen(&self.run, &self.resource.name, &drift, "parent");
        if self.drifted_in_a_row >= FAILURES_IN_A_ROW {
            // The others would likely drift, too: each costs a request.
            self.failure.get_or_insert_with(|| fail(Some(&self.resource.name), &error));
        }
        self.frozen.get_or_insert(error);
        self.drift.merge(drift);
    }

    fn done_with(&mut self, turn: &Turn, seen_at: Timestamp) -> Result<(), SyncError> {
        match turn.why {
            Why::Changed => self.parents.changed += 1,
            Why::Reconcile => self.parents.reconciled += 1,
        }
        self.unread = self.unread.saturating_sub(1);
        self.progress.read(&turn.id);
        // The clock may be the provider's, whose `Date` has whole seconds: that is the earlier, which is the safe side.
        let rows = self.ledger.rows(&[(turn.id.clone(), turn.created_us, seen_at)])?;
        self.reads.add(WINDOW, &rows, seen_at, self.run.seq.fetch_add(1, Ordering::Relaxed))?;
        Ok(())
    }

    /// 403: of a single parent (a confidential one, say), or of the resource; the next answer tells.
    fn refused(&mut self, read: (Turn, Timestamp), path: String, hint: String) -> Result<(), SyncError> {
        if self.answered {
            return self.withhold(&read.0, read.1);
        }
        self.refused.push(read);
        if self.refused.len() >= REFUSALS {
            self.forbidden(path, hint);
        } else {
            self.refusal = Some((path, hint));
        }
        Ok(())
    }

    fn withhold(&mut self, turn: &Turn, seen_at: Timestamp) -> Result<(), SyncError> {
        self.parents.withheld += 1;
        self.done_with(turn, seen_at)
    }

    /// Judges refusals that no answer followed. Where this resource was read before, they may be of single parents or of all: they
    /// stay due, until another parent's answer tells.
    fn judge_refusals(&mut self) -> Result<(), SyncError> {
        let refused = std::mem::take(&mut self.refused);
        let Some((path, hint)) = self.refusal.take().filter(|_| !refused.is_empty()) else { return Ok(()) };
        if self.commit.parents.is_none() {
            self.forbidden(path, hint);
            return Ok(());
        }
        self.undecided = refused.len() as u64;
        for (turn, seen_at) in refused {
            self.leave(&turn, seen_at)?;
        }
        let refused = self.undecided;
        self.report.notes.push(format!(
            "parents whose children were refused (403 on {path}), and no other was asked for: {refused}; those that changed stay due, and the next \
             answer tells whether they are withheld or the permission is gone"
        ));
        Ok(())
    }

    /// A parent of whose children nothing came: one that changed stays due, so that no change is lost. One whose turn it was has
    /// had it, or those that never answer would take every turn of all others.
    fn leave(&mut self, turn: &Turn, seen_at: Timestamp) -> Result<(), SyncError> {
        match turn.why {
            Why::Reconcile => self.done_with(turn, seen_at),
            Why::Changed => {
                self.unread = self.unread.saturating_sub(1);
                Ok(())
            }
        }
    }

    fn forbidden(&mut self, path: String, hint: String) {
        let reader = self.run.reader(&self.resource.name);
        if self.run.is_named(reader) {
            let (tenant, resource) = (reader.clone(), self.resource.name.clone());
            let error = ExtractError::Forbidden { tenant, resource, path, hint };
            self.failure.get_or_insert_with(|| fail(Some(&self.resource.name), &error.into()));
        } else {
            self.skipped.get_or_insert_with(|| format!("not granted (403 on {path}): {hint}"));
        }
    }

    fn failed(&mut self, error: ExtractError) -> Result<(), SyncError> {
        self.parents.failed += 1;
        self.unread = self.unread.saturating_sub(1);
        self.failed_in_a_row += 1;
        // What is wrong with the grant or the host is wrong for every parent.
        let hopeless = match &error {
            ExtractError::WrongHost { .. } => true,
            ExtractError::Auth(AuthError::Http(e)) => {
                matches!(e.cause, Cause::Outage { .. } | Cause::PauseTooLong { .. })
            }
            ExtractError::Auth(_) => true,
            _ => false,
        };
        if hopeless || self.failed_in_a_row >= FAILURES_IN_A_ROW {
            let failure = fail(Some(&self.resource.name), &error.into());
            self.failure.get_or_insert(failure);
        } else {
            tracing::warn!(resource = %self.resource.name, error = %error, "the children of a parent could not be read; it stays due");
        }
        Ok(())
    }

    /// Takes what waits out of the spills, the rows before the ledger that speaks of them.
    fn take(&mut self) -> Vec<Unit> {
        let mut units = Vec::new();
        for p in self.spill.pending() {
            units.push((false, self.table.clone(), self.suppress.clone(), p.value, self.spill.take(p.value)));
        }
        for p in self.reads.pending() {
            units.push((true, self.ledger.table.clone(), Suppress::none(), p.value, self.reads.take(p.value)));
        }
        units
    }

    fn settle(&mut self, done: Vec<Flushed>) {
        for f in done {
            if f.ledger {
                self.reads.settle(f.ticket);
                continue;
            }
            self.spill.settle(f.ticket);
            let m = f.merged;
            self.report.inserted += m.inserted;
            self.report.updated += m.updated;
            self.report.unchanged += m.unchanged;
            self.report.removed += m.removed;
            self.report.suppressed += m.suppressed;
            self.report.partitions_rewritten += u64::from(m.rewritten);
            let figures = PartitionFigures { rows: m.rows, living: m.living, version: m.version };
            note(&mut self.commit.partitions, self.table.layout.folder(f.value), figures);
        }
    }

    async fn write_commit(&mut self) -> Result<(), SyncError> {
        let run = &self.run;
        if self.last.as_ref().is_some_and(|l| l.body == self.commit) {
            return Ok(());
        }
        run.lease.ensure().await?;
        let after = self.last.as_ref().map_or(0, |l| l.n);
        let line = run.state.commits(&run.tenant, &self.resource.name);
        self.last = Some(line.append(after, self.commit.clone()).await?);
        Ok(())
    }

    /// Its report.
    pub(super) fn end(mut self, error: Option<SyncError>) -> Vec<Done> {
        let name = self.resource.name.clone();
        if let Some(e) = error {
            self.failure = Some(fail(Some(&name), &e));
        }
        if let Some(e) = self.frozen.take()
            && self.failure.is_none()
        {
            self.failure = Some(fail(Some(&name), &e));
        }
        if self.failure.is_none() && self.parents.failed > 0 {
            let error = SyncError::Parents {
                tenant: self.run.tenant.clone(),
                resource: name.clone(),
                failed: self.parents.failed,
                due: self.parents.failed + self.parents.changed + self.parents.reconciled,
            };
            self.failure = Some(fail(Some(&name), &error));
        }
        self.run.world.progress.update(&self.run.tenant, &name, |u| u.over = true);
        self.report.outcome = match (&self.failure, &self.skipped, self.complete) {
            (Some(_), _, _) => Outcome::Failed,
            (None, Some(_), _) => Outcome::Skipped,
            (None, None, true) => Outcome::Done,
            (None, None, false) => Outcome::Stopped,
        };
        self.report.notes.extend(self.skipped.take());
        if self.parents.left > 0 && self.failure.is_none() && self.report.outcome != Outcome::Skipped {
            let what = match self.run.options.backfill {
                None => "parents left for the next run, which goes on there",
                Some(_) => "parents of that time that were not read; ask for it once more",
            };
            self.report.notes.push(format!("{what}: {}", self.parents.left));
        }
        if self.parents.gone > 0 {
            let what = "parents whose children were not found (404); where the catalogue knows how, they are looked for by their ids";
            self.report.notes.push(format!("{what}: {}", self.parents.gone));
        }
        if self.parents.withheld > 0 {
            self.report.notes.push(format!(
                "parents whose children are withheld (403; confidential ones, say): {}",
                self.parents.withheld
            ));
        }
        self.report.rows = self.commit.living();
        self.report.quarantined = self.quarantined;
        self.report.frozen = self.run.is_frozen() && !self.drift.is_empty();
        self.report.drift = drift_counts(&self.drift);
        self.report.drops_extra = self.run.drops_extra() && !self.drift.is_empty();
        self.report.parents = Some(self.parents);
        let now = self.run.privacy(std::iter::once(&name));
        // A full read under way is on its way to bring every row to today's.
        let written = self.commit.privacy_of_load.as_ref().unwrap_or(&self.commit.privacy);
        let former = self.last.is_some() && *written != now;
        vec![Done { resource: name, report: self.report, failure: self.failure, former }]
    }
}

/// Documents are swept when all was read; a sweep that is left out is made up for by the next run.
fn content_is_due(of: &Children) -> bool {
    of.resource.content.is_some() && of.complete && of.failure.is_none() && of.skipped.is_none() && of.last.is_some()
}

/// Everything of one parent.
async fn read_parent(
    run: Arc<TenantRun>,
    resource: Arc<Resource>,
    carrier: Resource,
    turn: Turn,
) -> Result<Read, SyncError> {
    let Some(content) = &resource.content else { return Ok(read_pages(run, resource, carrier, turn).await) };
    let urgent = Priority(0);
    let fetched = contents::fetch(&run, &resource, &carrier, content, &turn, urgent).await?;
    Ok(Read {
        requests: fetched.requests,
        bytes: fetched.bytes,
        records: fetched.rows.len() as u64,
        rows: fetched.rows,
        drift: Drift::default(),
        rejected: Vec::new(),
        seen_at: run.provider_now(),
        end: fetched.end,
        turn,
    })
}

/// Every page of one parent's children.
async fn read_pages(run: Arc<TenantRun>, resource: Arc<Resource>, carrier: Resource, turn: Turn) -> Read {
    let mut decoder = Decoder::of_children(&resource, &carrier);
    let above = turn.above(&carrier).unwrap_or_default();
    let mut pager = Pager::new(run.session_of(&resource.name), &resource, Vec::new(), &[]).of_parent(&above, &turn.id);
    // Changed ones go before those whose turn it merely is.
    let urgent = Priority(match turn.why {
        Why::Changed => 2,
        Why::Reconcile => 1,
    });
    let (mut records, mut rows, mut drift, mut rejected) = (0, Vec::new(), Drift::default(), Vec::new());
    let mut seen_at = None;
    let mut pages = 0;
    let end = loop {
        let next = pager.next(urgent, |body| {
            let parent = Parent { batch: &turn.batch, row: turn.row };
            let mut page = decoder.children_of(parent, body).map_err(|e| e.to_string())?;
            Ok(Decoded { next: page.next.take(), more: page.more, records: page.records, page })
        });
        match next.await {
            Ok(Some(fetched)) => {
                pages += 1;
                // The first answer's time: what changes after it is not certain to be in the later pages.
                seen_at = seen_at.or(fetched.date).or(Some(fetched.received));
                records += fetched.page.records as u64;
                drift.merge(fetched.page.drift);
                rejected.extend(fetched.page.rejected);
                if fetched.page.rows.num_rows() > 0 {
                    rows.push(fetched.page.rows);
                }
                if pages >= MOST_PAGES && fetched.page.more {
                    break Err(ExtractError::Paging {
                        tenant: run.tenant.clone(),
                        resource: resource.name.clone(),
                        page: pages,
                        why: "one parent has more than ten thousand children",
                    });
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    Read { requests: pager.requests(), bytes: pager.bytes(), records, rows, drift, rejected, seen_at, end, turn }
}

async fn flush(run: Arc<TenantRun>, ledgers: Lake, units: Vec<Unit>) -> Result<Vec<Flushed>, LoadError> {
    let mut done = Vec::with_capacity(units.len());
    for (ledger, table, suppress, value, runs) in units {
        let ticket = runs.ticket();
        let lake = if ledger { &ledgers } else { &run.lake };
        let merged = load::merge(lake, &run.lease, &table, value, runs, &suppress).await?;
        done.push(Flushed { ledger, value, ticket, merged });
    }
    Ok(done)
}
