//! What several benches need: opportunities in a partition of their own, and rows that wait to be merged into it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hirelake::catalog::{Granularity, PartitionValue, Resource, Table, embedded};
use hirelake::clock::{Clock, Timestamp};
use hirelake::load::{self, Lake, Spill, Suppress};
use hirelake::names::RunId;
use hirelake::sandbox::{self, AccountSize, Options};
use hirelake::state::{Lease, State};
use hirelake::store::Store;
use hirelake::transform::{Decoder, Gathering, Hint};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Rows of a page.
const PAGE: usize = 100;
/// When all was seen.
pub(crate) const SEEN: Timestamp = Timestamp::from_ms(1_781_510_400_000);

/// A partition that is there, and the records in it.
pub(crate) struct Fixture {
    runtime: Runtime,
    lease: Lease,
    pub(crate) resource: Resource,
    pub(crate) table: Arc<Table>,
    pub(crate) records: Vec<Value>,
    base: TempDir,
}

/// Rows that wait to be merged into the lake of that folder.
pub(crate) struct Waiting {
    lake: Lake,
    spill: Spill,
    /// Removed with the bench's iteration.
    _dir: Option<TempDir>,
}

impl Fixture {
    /// With so many rows.
    pub(crate) fn new(rows: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let provider = embedded().unwrap();
        let resource = provider.resource("opportunities").unwrap().clone();
        let table = Arc::new(Table::new(&provider.name, &resource, Some(Granularity::None)).unwrap());
        let (records, lease) = runtime.block_on(async {
            let accounts = vec![AccountSize::new("acme", rows)];
            let running = sandbox::start(Options { accounts, ..Options::default() }).await.unwrap();
            let state = State::new(Store::memory(), Clock::system());
            let lease = state.lease(&"acme".parse().unwrap(), RunId::new()).await.unwrap();
            (running.control().dump("acme", "opportunities").unwrap(), lease)
        });
        let base = tempfile::tempdir().unwrap();
        let fixture = Self { runtime, lease, resource, table, records, base };
        fixture.merge(fixture.spilled(fixture.base.path(), &fixture.records, 1));
        fixture
    }

    /// The bodies of the pages that hold those records.
    pub(crate) fn pages(records: &[Value]) -> Vec<Vec<u8>> {
        let pages = records.chunks(PAGE);
        pages.map(|page| json!({"data": page, "hasNext": false}).to_string().into_bytes()).collect()
    }

    fn spilled(&self, dir: &Path, records: &[Value], seq: u64) -> Waiting {
        let lake = Lake::new(
            Store::open(dir.join("lake").to_str().unwrap()).unwrap(),
            "acme".parse().unwrap(),
            dir.join("scratch"),
        );
        let mut spill = Spill::new(self.table.clone(), lake.scratch.clone()).unwrap();
        let decoder = Decoder::new(&self.resource, &[]);
        let mut gathering = Gathering::new(&decoder, Hint::default());
        for (i, page) in Self::pages(records).iter().enumerate() {
            gathering.page(page).unwrap();
            if i % 10 == 9 || (i + 1) * PAGE >= records.len() {
                for batch in gathering.take().unwrap() {
                    spill.add(1, &batch.rows, SEEN, seq).unwrap();
                }
            }
        }
        spill.finish(1);
        Waiting { lake, spill, _dir: None }
    }

    /// All records, waiting for a lake in which nothing is.
    pub(crate) fn first(&self) -> Waiting {
        let dir = tempfile::tempdir().unwrap();
        let waiting = self.spilled(dir.path(), &self.records, 1);
        Waiting { _dir: Some(dir), ..waiting }
    }

    /// A copy of the base with `k` rows, spread over it and (`change`) changed, waiting.
    pub(crate) fn increment(&self, k: usize, change: bool) -> Waiting {
        let dir = tempfile::tempdir().unwrap();
        for file in files(&self.base.path().join("lake")) {
            let copy = dir.path().join(file.strip_prefix(self.base.path()).unwrap());
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(&file, copy).unwrap();
        }
        let mut records: Vec<Value> = self.records.iter().step_by(self.records.len() / k).take(k).cloned().collect();
        for record in records.iter_mut().filter(|_| change) {
            record["headline"] = json!("changed");
            record["updatedAt"] = json!(1_900_000_000_000_i64);
        }
        let waiting = self.spilled(dir.path(), &records, 2);
        Waiting { _dir: Some(dir), ..waiting }
    }

    /// Merges what waits.
    pub(crate) fn merge(&self, mut waiting: Waiting) -> Waiting {
        let runs = waiting.spill.take(PartitionValue::Whole);
        let suppress = Suppress::none();
        let merging = load::merge(&waiting.lake, &self.lease, &self.table, PartitionValue::Whole, runs, &suppress);
        self.runtime.block_on(merging).unwrap();
        waiting
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}
