//! Writing a partition anew, and merging an increment into it: k changed rows into a file of ten thousand. What varies is how many
//! rows come.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up should stop")]

use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;

mod common;
use common::Fixture;

/// Rows of the partition.
const ROWS: usize = 10_000;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| Fixture::new(ROWS));

fn main() {
    divan::main();
}

/// Rows that come into a lake where nothing is: put in order, encoded, written.
#[divan::bench(args = [100, 1_000, 10_000], sample_count = 10, sample_size = 1)]
fn encode(bencher: Bencher<'_, '_>, rows: usize) {
    let fixture = Fixture::new(rows);
    bencher
        .counter(ItemsCount::new(rows))
        .with_inputs(|| fixture.first())
        .bench_local_values(|waiting| fixture.merge(waiting));
}

/// Rows that changed: the file is rewritten, so the work is that of its rows, not of k.
#[divan::bench(args = [1, 100, 10_000], sample_count = 10, sample_size = 1)]
fn changed(bencher: Bencher<'_, '_>, k: usize) {
    let fixture = &*FIXTURE;
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| fixture.increment(k, true))
        .bench_local_values(|waiting| fixture.merge(waiting));
}

/// Rows that say nothing new: they are recognised, and nothing is written.
#[divan::bench(args = [1, 100, 10_000], sample_count = 10, sample_size = 1)]
fn unchanged(bencher: Bencher<'_, '_>, k: usize) {
    let fixture = &*FIXTURE;
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| fixture.increment(k, false))
        .bench_local_values(|waiting| fixture.merge(waiting));
}
