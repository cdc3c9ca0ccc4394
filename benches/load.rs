//! Merging an increment into a partition: k changed rows into a file of ten thousand. What varies is k.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up should stop")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use divan::Bencher;
use divan::counter::ItemsCount;
use hirelake::catalog::{Granularity, PartitionValue, Resource, Table, embedded};
use hirelake::clock::{Clock, Timestamp};
use hirelake::load::{self, Lake, Spill, Suppress};
use hirelake::names::RunId;
use hirelake::sandbox::{self, AccountSize, Options};
use hirelake::state::{Lease, State};
use hirelake::store::Store;
use hirelake::transform::Decoder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Rows of the partition.
const ROWS: usize = 10_000;
/// Rows of a page.
const PAGE: usize = 100;

fn main() {
    divan::main();
}

/// A partition that is there, and the records in it.
struct Fixture {
    runtime: Runtime,
    lease: Lease,
    resource: Resource,
    table: Arc<Table>,
    records: Vec<Value>,
    base: TempDir,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let provider = embedded().unwrap();
    let resource = provider.resource("opportunities").unwrap().clone();
    let table = Arc::new(Table::new(&provider.name, &resource, Some(Granularity::None)).unwrap());
    let (records, lease) = runtime.block_on(async {
        let accounts = vec![AccountSize::new("acme", ROWS)];
        let running = sandbox::start(Options { accounts, ..Options::default() }).await.unwrap();
        let state = State::new(Store::memory(), Clock::system());
        let lease = state.lease(&"acme".parse().unwrap(), RunId::new()).await.unwrap();
        (running.control().dump("acme", "opportunities").unwrap(), lease)
    });
    let base = tempfile::tempdir().unwrap();
    let fixture = Fixture { runtime, lease, resource, table, records, base };
    merge(&fixture, fixture.spilled(fixture.base.path(), &fixture.records, 1));
    fixture
});

/// Rows that wait to be merged into the lake of that folder.
struct Waiting {
    lake: Lake,
    spill: Spill,
    /// Removed with the bench's iteration.
    _dir: Option<TempDir>,
}

impl Fixture {
    fn spilled(&self, dir: &Path, records: &[Value], seq: u64) -> Waiting {
        let lake = Lake {
            store: Store::open(dir.join("lake").to_str().unwrap()).unwrap(),
            tenant: "acme".parse().unwrap(),
            scratch: dir.join("scratch"),
        };
        let mut spill = Spill::new(self.table.clone(), lake.scratch.clone()).unwrap();
        let mut decoder = Decoder::new(&self.resource, &[]);
        for page in records.chunks(PAGE) {
            let body = json!({"data": page, "hasNext": false}).to_string();
            let rows = decoder.page(body.as_bytes()).unwrap().rows;
            spill.add(1, &rows, Timestamp::from_ms(1_781_510_400_000), seq).unwrap();
        }
        spill.finish(1);
        Waiting { lake, spill, _dir: None }
    }

    /// A copy of the base with `k` rows, spread over it and changed, waiting.
    fn increment(&self, k: usize, change: bool) -> Waiting {
        let dir = tempfile::tempdir().unwrap();
        for file in files(&self.base.path().join("lake")) {
            let copy = dir.path().join(file.strip_prefix(self.base.path()).unwrap());
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(&file, copy).unwrap();
        }
        let mut records: Vec<Value> = self.records.iter().step_by(ROWS / k).take(k).cloned().collect();
        for record in records.iter_mut().filter(|_| change) {
            record["headline"] = json!("changed");
            record["updatedAt"] = json!(1_900_000_000_000_i64);
        }
        let waiting = self.spilled(dir.path(), &records, 2);
        Waiting { _dir: Some(dir), ..waiting }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

fn merge(fixture: &Fixture, mut waiting: Waiting) -> Waiting {
    let runs = waiting.spill.take(PartitionValue::Whole);
    let suppress = Suppress::none();
    let merging = load::merge(&waiting.lake, &fixture.lease, &fixture.table, PartitionValue::Whole, runs, &suppress);
    fixture.runtime.block_on(merging).unwrap();
    waiting
}

/// Rows that changed: the file is rewritten, so the work is that of its rows, not of k.
#[divan::bench(args = [1, 100, 10_000], sample_count = 10, sample_size = 1)]
fn changed(bencher: Bencher<'_, '_>, k: usize) {
    let fixture = &*FIXTURE;
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| fixture.increment(k, true))
        .bench_local_values(|waiting| merge(fixture, waiting));
}

/// Rows that say nothing new: they are recognised, and nothing is written.
#[divan::bench(args = [1, 100, 10_000], sample_count = 10, sample_size = 1)]
fn unchanged(bencher: Bencher<'_, '_>, k: usize) {
    let fixture = &*FIXTURE;
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| fixture.increment(k, false))
        .bench_local_values(|waiting| merge(fixture, waiting));
}
