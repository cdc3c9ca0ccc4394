//! The hot loops, one at a time, for a tool that counts a process's instructions: what a run with the work has more than one
//! without it is the work's. `benches/counts.py` runs both.
//!
//! usage: counts WORKLOAD with|without, the workload being one of those of [`main`].

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench that cannot be set up should stop"
)]

use std::hint::black_box;

use hirelake::load::{Incoming, Response};
use hirelake::transform::{Decoder, Gathered, Gathering, Hint};

mod common;
use common::{Fixture, SEEN};

const ROWS: usize = 2_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let usage = "usage: counts WORKLOAD with|without";
    let (workload, with) = (args.next().expect(usage), args.next().expect(usage) == "with");
    let fixture = Fixture::new(ROWS);
    let decoder = Decoder::new(&fixture.resource, &[]);
    let bodies = Fixture::pages(&fixture.records);
    let decode = || -> Vec<Gathered> {
        let mut gathering = Gathering::new(&decoder, Hint::default());
        bodies.iter().for_each(|body| {
            gathering.page(body).unwrap();
        });
        gathering.take().unwrap()
    };
    let merge = |waiting| {
        if with {
            fixture.merge(waiting);
        }
    };
    match workload.as_str() {
        // JSON to columns.
        "decode" if with => drop(black_box(decode())),
        "decode" => {}
        // Hashed, completed, cut by partition.
        "prepare" => {
            for batch in decode().iter().filter(|_| with) {
                let response = Response { rows: batch.rows.num_rows(), seen_at: SEEN, seq: 1 };
                black_box(Incoming::new(&fixture.table, &batch.rows, &[response]).unwrap());
            }
        }
        // Put in order, encoded, compressed, written.
        "encode" => merge(fixture.first()),
        // A few rows of a file that is there.
        "upsert" => merge(fixture.increment(20, true)),
        // Nothing new: judged by keys and hashes.
        "unchanged" => merge(fixture.increment(ROWS, false)),
        other => panic!("no workload is called {other}"),
    }
}
