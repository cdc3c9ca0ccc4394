//! When the children of each parent were last read: a table of the state for each resource of children, merged like any other.
//!
//! From it and from the parents' own table follows which parents are due, so that nothing else has to be remembered: a parent
//! that changed after its children were read is due until they are read again, whatever crashed or was cut in between. It is
//! written after the rows it speaks of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use twox_hash::XxHash64;

use super::{SyncError, World};
use crate::catalog::{
    Column, ColumnType, Granularity, Partition, PartitionValue, Resource, SYNCED_AT, Skip, SkipIf, Table,
};
use crate::clock::Timestamp;
use crate::config::{Config, ConfigError, Reconcile};
use crate::load::{self, Lake};
use crate::names::{ResourceName, Tenant};
use crate::state::{ParentsRead, Window};

/// First folder of the ledgers in the state.
pub const FOLDER: &str = "ledgers";
/// A night is over after so long: a run that begins a little earlier than the last one takes its whole share all the same.
const NIGHT: Duration = Duration::from_secs(20 * 3600);
/// Runs that are closer take their part of a day's share.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The ledger of one resource of children.
pub(super) struct Ledger {
    pub(super) lake: Lake,
    pub(super) table: Arc<Table>,
}

/// When parents were read (µs), by the hash of their key: 16 bytes a parent, so that a million of them are 16 MB. Two of a
/// million share a hash once in tens of millions of accounts; the one is then read a reconcile later than it should.
pub(super) struct Reads(Vec<(u64, i64)>);

impl Reads {
    fn of(&self, hash: u64) -> Option<i64> {
        let at = self.0.partition_point(|(h, _)| *h < hash);
        self.0.get(at).filter(|(h, _)| *h == hash).map(|(_, us)| *us)
    }
    /// When the children of the parent of that key were read.
    pub(super) fn of_key(&self, key: &str) -> Option<i64> {
        self.of(hash(key))
    }
    /// Nothing was read.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }
}

fn hash(key: &str) -> u64 {
    XxHash64::oneshot(0, key.as_bytes())
}

impl Ledger {
    /// The ledger of `child`, whose parents are `carrier`'s rows. `scratch` is a private folder of the run.
    pub(super) fn new(
        world: &World,
        tenant: &Tenant,
        scratch: &std::path::Path,
        child: &Resource,
        carrier: &Resource,
    ) -> Result<Self, ConfigError> {
        let bad = |what: String| ConfigError::Invalid {
            place: format!("the ledger of {}", child.name),
            what,
            hint: "this is a bug of hirelake; please report it".into(),
        };
        let time = || ColumnType::Timestamp { lenient: false };
        let timed = carrier.partition.as_ref().is_some_and(|p| p.column.is_some());
        let partition = timed.then(|| Partition {
            column: Some("created_at".into()),
            label: "created".into(),
            granularity: Granularity::Year,
        });
        let columns = vec![
            Column::plain("id", ColumnType::Text),
            Column::plain("created_at", time()),
            Column::plain("read_at", time()),
        ];
        let resource = Resource::of_our_own(child.name.clone(), columns, partition);
        let name: ResourceName = FOLDER.parse().map_err(|e| bad(format!("{e}")))?;
        Ok(Self {
            lake: Lake::new(
                world.state.owned_by(tenant.as_str()),
                tenant.clone(),
                scratch.join(format!("{FOLDER}-{}", child.name)),
            ),
            table: Arc::new(Table::new(&name, &resource, None).map_err(bad)?),
        })
    }

    /// All of it.
    pub(super) async fn read(&self) -> Result<Reads, SyncError> {
        let mut all = Vec::new();
        for value in load::partition_values(&self.lake, &self.table).await? {
            for batch in load::living_rows(&self.lake, &self.table, value, &["id", "read_at"]).await? {
                let (ids, at) = (batch.column(0).as_string::<i32>(), times(batch.column(1)));
                all.extend((0..batch.num_rows()).map(|i| (hash(ids.value(i)), at.map_or(0, |a| a.value(i)))));
            }
        }
        // A parent may stand in two files for a moment, when it got its time of creation: the later read counts.
        all.sort_unstable_by_key(|(h, us)| (*h, std::cmp::Reverse(*us)));
        all.dedup_by_key(|(h, _)| *h);
        Ok(Reads(all))
    }

    /// Rows that say of parents when they were read.
    pub(super) fn rows(&self, reads: &[(String, Option<i64>, Timestamp)]) -> Result<RecordBatch, SyncError> {
        let ids: StringArray = reads.iter().map(|(id, ..)| Some(id.as_str())).collect();
        let utc = |values: TimestampMicrosecondArray| -> ArrayRef { Arc::new(values.with_timezone("UTC")) };
        let created: TimestampMicrosecondArray = reads.iter().map(|(_, created, _)| *created).collect();
        let at: TimestampMicrosecondArray = reads.iter().map(|(.., at)| Some(at.us())).collect();
        let extra: StringArray = reads.iter().map(|_| None::<&str>).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("_extra", Arc::new(extra)),
            ("id", Arc::new(ids)),
            ("created_at", utc(created)),
            ("read_at", utc(at)),
        ];
        RecordBatch::try_from_iter(columns)
            .map_err(|e| SyncError::Rows { what: format!("the ledger of {}", self.table.resource), why: e.to_string() })
    }
}

fn times(column: &ArrayRef) -> Option<&TimestampMicrosecondArray> {
    column.as_primitive_opt::<TimestampMicrosecondType>()
}

/// Why a parent is asked for its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Why {
    /// It changed after they were read, or they were never read.
    Changed,
    /// It is its turn.
    Reconcile,
}

/// Which parents are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// By the hash of their key.
    chosen: HashMap<u64, Why>,
    /// How many of each partition, changed ones first.
    pub(super) parts: Vec<(PartitionValue, [u64; 2])>,
    /// Living parents.
    pub(super) parents: u64,
    /// Those that are left out by a rule.
    pub(super) skipped: u64,
    /// When that parent was read (µs) whose read is the longest ago, of those that are not due.
    stalest: Option<i64>,
    /// Those that are due and were read before, until they are read.
    waiting: HashMap<u64, Waiting>,
    /// The shares of dormant and of active parents that did not change.
    shares: [Share; 2],
}

/// A parent that is due and was read before.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    read_us: i64,
    /// Where it is its turn: whether it is an active one.
    in_turn: Option<bool>,
}

/// A share of the parents that did not change.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    since: Option<Timestamp>,
    elapsed: Duration,
    /// Whether it is a night's, and not that of a part of a day.
    whole: bool,
    /// How many parents it is before it is rounded, and after.
    exact: f64,
    quota: u64,
    /// How many of them were read.
    taken: u64,
}

impl Share {
    fn new(since: Option<Timestamp>, now: Timestamp, of: usize, nights: u32) -> Self {
        let Some(since) = since else { return Self::default() };
        let elapsed = now.since(since);
        let whole = elapsed >= NIGHT;
        let part = if whole { 1.0 } else { elapsed.as_secs_f64() / DAY.as_secs_f64() };
        let exact = if nights == 0 { 0.0 } else { of as f64 * part / f64::from(nights) };
        // Rounded up, so that N shares are the whole; of a part of a day down, or an hourly run would read one each hour.
        let quota = if whole { exact.ceil() } else { exact } as u64;
        Self { since: Some(since), elapsed, whole, exact, quota, taken: 0 }
    }

    /// Up to when shares are read now: a share that was read in part is not taken a second time, and none is lost. `all`: whether
    /// everything was read that was due, which is what the first run reads.
    fn read_up_to(&self, now: Timestamp, all: bool) -> Option<Timestamp> {
        let Some(since) = self.since else { return all.then_some(now) };
        let left = 1.0 - (self.taken as f64 / self.exact.max(1.0)).min(1.0);
        Some(match (self.whole, self.quota) {
            (true, quota) if self.taken >= quota => now,
            // What is left of a night's share, however many nights were missed.
            (true, _) => now.minus(DAY.mul_f64(left)),
            (false, 0) => since,
            (false, _) => since.plus(self.elapsed.mul_f64((self.taken as f64 / self.exact).min(1.0))),
        })
    }
}

/// What a run has read of what was due.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// As [`Due::stalest`].
    settled: Option<i64>,
    waiting: HashMap<u64, Waiting>,
    shares: [Share; 2],
}

impl Progress {
    /// Notes that a parent was read.
    pub(super) fn read(&mut self, id: &str) {
        let was = self.waiting.remove(&hash(id));
        if let Some(active) = was.and_then(|w| w.in_turn) {
            self.shares[usize::from(active)].taken += 1;
        }
    }
    /// When that one was read (µs) whose read is the longest ago, of those that were ever read.
    pub(super) fn stalest(&self) -> Option<i64> {
        self.waiting.values().map(|w| w.read_us).chain(self.settled).min()
    }
    /// Up to when the shares of dormant and of active parents are read.
    pub(super) fn read_up_to(&self, now: Timestamp, all: bool) -> [Option<Timestamp>; 2] {
        self.shares.map(|share| share.read_up_to(now, all))
    }
}

impl Due {
    pub(super) fn count(&self, why: Why) -> u64 {
        self.parts.iter().map(|(_, n)| n[why as usize]).sum()
    }
    /// What is to be kept of it while parents are read.
    pub(super) fn progress(&mut self) -> Progress {
        Progress { settled: self.stalest, waiting: std::mem::take(&mut self.waiting), shares: self.shares }
    }
}

/// What decides which parents are due.
pub(super) struct Terms<'a> {
    pub(super) carrier: &'a Resource,
    pub(super) table: &'a Table,
    pub(super) skip: Option<&'a Skip>,
    pub(super) reconcile: Reconcile,
    /// What the last commit said.
    pub(super) last: Option<&'a ParentsRead>,
    pub(super) now: Timestamp,
    /// Writes show up late: a parent that changed so shortly before its children were read is read once more.
    pub(super) overlap: Duration,
    /// Only parents that changed in this window, whenever they were read.
    pub(super) backfill: Option<Window>,
    /// Everybody who was read before this: a full read that goes on.
    pub(super) anew: Option<Timestamp>,
    /// Those of which something is not in the lake any more.
    pub(super) lost: BTreeSet<String>,
}

/// How often a resource's parents have their turn. A document does not change under its id: it is downloaded once.
pub(super) fn turns_of(config: &Config, tenant: &Tenant, resource: &Resource) -> Reconcile {
    match resource.content {
        Some(_) => Reconcile { nights: 0, active_nights: 0 },
        None => config.tenant(tenant).reconcile,
    }
}

/// A parent that did not change since its children were read.
struct Settled {
    read_us: i64,
    hash: u64,
    part: u32,
    active: bool,
}

/// Goes through the parents' table and chooses: all that changed, and of the others those whose read is the longest ago, as
/// many as a night's share.
pub(super) async fn due(lake: &Lake, terms: &Terms<'_>, reads: &Reads) -> Result<Due, SyncError> {
    let mut due = Due::default();
    let mut settled: Vec<Settled> = Vec::new();
    let key = terms.carrier.key.first().map_or("id", String::as_str);
    let version = terms.table.version.map_or(SYNCED_AT, |i| terms.table.schema.field(i).name().as_str());
    let mut columns = vec![key, version];
    columns.extend(terms.carrier.dormant.as_deref());
    columns.extend(terms.skip.map(|s| s.column.as_str()));
    // What we saw ourselves shows up at once; the provider's own times of change may not.
    let overlap = terms.table.version.map_or(Duration::ZERO, |_| terms.overlap);
    let overlap_us = i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX);
    for value in load::partition_values(lake, terms.table).await?.into_iter().rev() {
        let mut changed = 0;
        let part = u32::try_from(due.parts.len()).unwrap_or(u32::MAX);
        for batch in load::living_rows(lake, terms.table, value, &columns).await? {
            let column = |name: &str| batch.column_by_name(name);
            let Some(ids) = column(key).and_then(|c| c.as_string_opt::<i32>()) else { continue };
            let versions = column(version).and_then(times);
            let dormant = terms.carrier.dormant.as_deref().and_then(column);
            let skip = terms.skip.and_then(|s| Some((s.is, column(&s.column)?)));
            due.parents += batch.num_rows() as u64;
            for i in 0..batch.num_rows() {
                let hash = hash(ids.value(i));
                let version = versions.filter(|v| !v.is_null(i)).map(|v| v.value(i));
                let read = reads.of(hash);
                // Who has rows from before the rule took hold is read once more, and then has none.
                let changed_since = |read: i64| version.is_some_and(|v| v.saturating_add(overlap_us) > read);
                let is_skipped = skip.is_some_and(|(is, column)| skips(is, column, i));
                if is_skipped && !read.is_some_and(changed_since) {
                    due.skipped += 1;
                    continue;
                }
                let wanted = match (terms.backfill, read) {
                    (None, Some(_)) if !terms.lost.is_empty() && terms.lost.contains(ids.value(i)) => true,
                    (Some(window), _) => {
                        version.is_some_and(|v| window.contains(Timestamp::from_ms(v.div_euclid(1000))))
                    }
                    (None, None) => true,
                    (None, Some(read)) => terms.anew.is_some_and(|since| read < since.us()) || changed_since(read),
                };
                match read {
                    _ if wanted => {
                        due.chosen.insert(hash, Why::Changed);
                        due.waiting.extend(read.map(|read_us| (hash, Waiting { read_us, in_turn: None })));
                        changed += 1;
                    }
                    Some(read_us) => {
                        let active = dormant.is_some_and(|d| d.is_null(i));
                        settled.push(Settled { read_us, hash, part, active });
                    }
                    None => {}
                }
            }
        }
        due.parts.push((value, [changed, 0]));
    }
    if terms.backfill.is_none() {
        share(&mut due, terms, &mut settled);
    }
    due.stalest = settled.iter().map(|s| s.read_us).min();
    Ok(due)
}

/// Moves a share of the settled parents to the due ones; those stay in `settled` that are not due.
fn share(due: &mut Due, terms: &Terms<'_>, settled: &mut Vec<Settled>) {
    let Reconcile { nights, active_nights } = terms.reconcile;
    let soon = if active_nights == 0 { nights } else { active_nights };
    let dormant = terms.last.and_then(|l| l.reconciled);
    let active = terms.last.and_then(|l| l.reconciled_active).or(dormant);
    let count = |active: bool| settled.iter().filter(|s| s.active == active).count();
    due.shares =
        [Share::new(dormant, terms.now, count(false), nights), Share::new(active, terms.now, count(true), soon)];
    settled.sort_unstable_by_key(|s| (s.read_us, s.hash));
    let mut left = due.shares.map(|share| share.quota);
    settled.retain(|s| {
        let left = &mut left[usize::from(s.active)];
        if *left == 0 {
            return true;
        }
        *left -= 1;
        due.chosen.insert(s.hash, Why::Reconcile);
        due.waiting.insert(s.hash, Waiting { read_us: s.read_us, in_turn: Some(s.active) });
        if let Some((_, n)) = due.parts.get_mut(s.part as usize) {
            n[1] += 1;
        }
        false
    });
}

fn skips(is: SkipIf, column: &ArrayRef, i: usize) -> bool {
    match is {
        SkipIf::Null => column.is_null(i),
        SkipIf::Empty => column.is_null(i) || column.as_list_opt::<i32>().is_some_and(|l| l.value_length(i) == 0),
    }
}

/// A parent whose turn has come: a row of a batch.
pub(super) struct Turn {
    pub(super) batch: RecordBatch,
    pub(super) row: u32,
    pub(super) id: String,
    /// Its partition time (µs).
    pub(super) created_us: Option<i64>,
    pub(super) why: Why,
}

impl Turn {
    /// What the parent has in a column of text.
    pub(super) fn text(&self, column: &str) -> Option<String> {
        let column = self.batch.column_by_name(column)?.as_string_opt::<i32>()?;
        let i = self.row as usize;
        column.is_valid(i).then(|| column.value(i).to_owned())
    }
    /// Whose child the parent is itself.
    pub(super) fn above(&self, carrier: &Resource) -> Option<String> {
        self.text(carrier.parent.as_deref()?)
    }
}

/// Hands out the due parents: those that changed first, the newest ones first. Holds a partition's keys and times.
pub(super) struct Turns {
    due: Due,
    columns: Vec<String>,
    why: Why,
    part: usize,
    rows: Vec<(RecordBatch, Vec<u32>)>,
}

impl Turns {
    /// `columns` are what else of a parent is wanted.
    pub(super) fn new<'a>(due: Due, carrier: &Resource, columns: impl Iterator<Item = &'a str>) -> Self {
        let mut wanted: Vec<String> = columns.map(str::to_owned).collect();
        wanted.extend(carrier.key.first().cloned());
        wanted.extend(carrier.partition.as_ref().and_then(|p| p.column.clone()));
        wanted.extend(carrier.anonymized.clone());
        wanted.sort_unstable();
        wanted.dedup();
        Self { due, columns: wanted, why: Why::Changed, part: 0, rows: Vec::new() }
    }

    pub(super) async fn next(&mut self, lake: &Lake, terms: &Terms<'_>) -> Result<Option<Turn>, SyncError> {
        let key = terms.carrier.key.first().map_or("id", String::as_str);
        loop {
            if let Some((batch, rows)) = self.rows.last_mut() {
                if let Some(row) = rows.pop() {
                    let (batch, i) = (batch.clone(), row as usize);
                    let id = batch.column_by_name(key).and_then(|c| c.as_string_opt::<i32>());
                    let Some(id) = id.map(|ids| ids.value(i).to_owned()) else { continue };
                    let time = terms.carrier.partition.as_ref().and_then(|p| p.column.as_deref());
                    let time = time.and_then(|t| batch.column_by_name(t)).and_then(times);
                    let created_us = time.filter(|t| !t.is_null(i)).map(|t| t.value(i));
                    return Ok(Some(Turn { id, created_us, why: self.why, batch, row }));
                }
                self.rows.pop();
                continue;
            }
            let Some(&(value, counts)) = self.due.parts.get(self.part) else {
                if self.why == Why::Reconcile {
                    return Ok(None);
                }
                (self.why, self.part) = (Why::Reconcile, 0);
                continue;
            };
            self.part += 1;
            if counts[self.why as usize] == 0 {
                continue;
            }
            let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
            for batch in load::living_rows(lake, terms.table, value, &columns).await? {
                let Some(ids) = batch.column_by_name(key).and_then(|c| c.as_string_opt::<i32>()) else { continue };
                let mine = |i: &usize| self.due.chosen.get(&hash(ids.value(*i))) == Some(&self.why);
                let rows: Vec<u32> = (0..batch.num_rows()).filter(mine).filter_map(|i| u32::try_from(i).ok()).collect();
                if !rows.is_empty() {
                    self.rows.push((batch, rows));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn terms<'a>(
        carrier: &'a Resource,
        table: &'a Table,
        last: Option<&'a ParentsRead>,
        now: i64,
        reconcile: Reconcile,
    ) -> Terms<'a> {
        let now = Timestamp::from_ms(now / 1000);
        Terms {
            carrier,
            table,
            skip: None,
            reconcile,
            last,
            now,
            overlap: Duration::ZERO,
            backfill: None,
            anew: None,
            lost: BTreeSet::new(),
        }
    }

    /// Shares are read up to that moment (µs).
    fn turned(us: i64) -> ParentsRead {
        ParentsRead { reconciled: Some(Timestamp::from_ms(us / 1000)), ..ParentsRead::default() }
    }

    /// Runs of any distance read a day's share in a day, and so do runs that are stopped again and again: none takes again what
    /// another took, and none is lost.
    #[test]
    fn whatever_runs_there_are_a_day_has_its_share_once() {
        let provider = crate::catalog::embedded().unwrap();
        let carrier = provider.resource("opportunities").unwrap();
        let table = Table::new(&provider.name, carrier, None).unwrap();
        let reconcile = Reconcile { nights: 30, active_nights: 10 };
        let total: usize = 1_500;
        let active = |i: usize| i.is_multiple_of(10);
        // Of dormant ones and of active ones a day.
        let share_of = [45, 15];
        for (runs_a_day, most) in [(1, usize::MAX), (24, usize::MAX), (144, usize::MAX), (6, 5), (24, 5), (2, 7)] {
            let mut read: Vec<i64> = vec![0; total];
            let mut last = turned(0);
            let days = 6;
            let (mut now, mut times) = (0, [0, 0]);
            for _ in 0..runs_a_day * days {
                now += DAY / runs_a_day;
                let mut due = Due { parts: vec![(PartitionValue::Whole, [0, 0])], ..Due::default() };
                let mut settled: Vec<Settled> = (read.iter().enumerate())
                    .map(|(i, r)| Settled { read_us: *r, hash: hash(&i.to_string()), part: 0, active: active(i) })
                    .collect();
                share(&mut due, &terms(carrier, &table, Some(&last), now, reconcile), &mut settled);
                let mut progress = due.progress();
                let mut left = most;
                for i in 0..total {
                    if left > 0 && due.chosen.contains_key(&hash(&i.to_string())) {
                        left -= 1;
                        read[i] = now;
                        times[usize::from(active(i))] += 1;
                        progress.read(&i.to_string());
                    }
                }
                let [dormant, active] = progress.read_up_to(Timestamp::from_ms(now / 1000), true);
                (last.reconciled, last.reconciled_active) = (dormant, active);
            }
            let said = format!("{runs_a_day} runs a day, {most} each: {times:?}");
            if most == usize::MAX {
                for (times, share) in times.iter().zip(share_of) {
                    assert!((share * (days - 1)..=share * days + 2).contains(times), "{said}");
                }
            } else {
                let (asked, due) = (times[0] + times[1], share_of.iter().sum::<i64>() * days);
                let may = most as i64 * runs_a_day * days;
                assert!(asked <= due && asked >= may.min(due) * 9 / 10, "{said}");
            }
        }
    }

    /// Nights of nothing but turns: whoever was read, whenever the share began, is read again within N nights, and no night
    /// reads more than its share.
    #[test]
    fn everybody_has_a_turn_within_the_nights_and_no_night_has_more_than_its_share() {
        let provider = crate::catalog::embedded().unwrap();
        let carrier = provider.resource("opportunities").unwrap();
        let table = Table::new(&provider.name, carrier, None).unwrap();
        for (total, nights, active_nights) in [(1_000, 30, 10), (7, 30, 30), (100, 7, 0), (31, 30, 1)] {
            let reconcile = Reconcile { nights, active_nights };
            // Read within one night, in the order of their numbers.
            let mut read: Vec<i64> = (0..total).map(|i| i * 1_000_000).collect();
            let active = |i: usize| i.is_multiple_of(5);
            for night in 1..=40_i64 {
                let now = night * DAY;
                let last = turned(now - DAY);
                let mut due = Due { parts: vec![(PartitionValue::Whole, [0, 0])], ..Due::default() };
                let mut settled: Vec<Settled> = (read.iter().enumerate())
                    .map(|(i, r)| Settled { read_us: *r, hash: i as u64, part: 0, active: active(i) })
                    .collect();
                share(&mut due, &terms(carrier, &table, Some(&last), now, reconcile), &mut settled);
                let soon = if active_nights == 0 { nights } else { active_nights };
                let actives = (0..read.len()).filter(|i| active(*i)).count() as u64;
                let most = (total as u64 - actives).div_ceil(u64::from(nights)) + actives.div_ceil(u64::from(soon));
                assert!(due.count(Why::Reconcile) <= most, "{total}/{nights}: {}", due.count(Why::Reconcile));
                for hash in due.chosen.keys() {
                    read[*hash as usize] = now;
                }
                for (i, r) in read.iter().enumerate() {
                    let limit = i64::from(if active(i) { soon } else { nights });
                    assert!(now - r <= limit * DAY, "{total}: {i} was not read for {} days", (now - r) / DAY);
                }
            }
        }
    }

    #[test]
    fn an_hour_has_its_part_of_the_share_and_zero_nights_have_none() {
        let provider = crate::catalog::embedded().unwrap();
        let carrier = provider.resource("opportunities").unwrap();
        let table = Table::new(&provider.name, carrier, None).unwrap();
        let taken = |elapsed_h: i64, reconcile: Reconcile| {
            let last = turned(0);
            let mut due = Due { parts: vec![(PartitionValue::Whole, [0, 0])], ..Due::default() };
            let mut settled: Vec<Settled> =
                (0..6_000).map(|i| Settled { read_us: 0, hash: i, part: 0, active: false }).collect();
            share(&mut due, &terms(carrier, &table, Some(&last), elapsed_h * DAY / 24, reconcile), &mut settled);
            let whole = due.shares[0].whole;
            (due.count(Why::Reconcile), whole)
        };
        let thirty = Reconcile { nights: 30, active_nights: 10 };
        assert_eq!(taken(1, thirty), (8, false));
        assert_eq!(taken(21, thirty), (200, true));
        assert_eq!(taken(240, thirty), (200, true), "nights that were missed are not made up at once");
        assert_eq!(taken(24, Reconcile { nights: 0, active_nights: 0 }), (0, true));
    }
}
