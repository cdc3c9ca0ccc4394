//! Decoding a page of a hundred opportunities as the provider sends them, expanded. What varies is how well the page fits
//! the catalogue.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up should stop")]

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use hirelake::catalog::{Provider, embedded};
use hirelake::sandbox::{self, AccountSize, Options};
use hirelake::transform::Decoder;
use serde_json::{Value, json};

/// Records of a page.
const ROWS: usize = 100;

fn main() {
    divan::main();
}

/// The body of a page, each record changed by `change`.
fn page(change: impl Fn(usize, &mut Value)) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rows = runtime.block_on(async {
        let accounts = vec![AccountSize::new("acme", ROWS)];
        let running = sandbox::start(Options { accounts, ..Options::default() }).await.unwrap();
        running.control().dump("acme", "opportunities_expanded").unwrap()
    });
    rows.iter_mut().enumerate().for_each(|(i, row)| change(i, row));
    json!({"data": rows, "hasNext": false}).to_string().into_bytes()
}

fn decode(bencher: Bencher<'_, '_>, body: &[u8], extract: &[&str]) {
    let provider: Provider = embedded().unwrap();
    let extract: Vec<_> = extract.iter().map(|name| provider.resource(name).unwrap()).collect();
    let mut decoder = Decoder::new(provider.resource("opportunities").unwrap(), &extract);
    bencher
        .counter(ItemsCount::new(ROWS))
        .counter(BytesCount::new(body.len()))
        .bench_local(|| decoder.page(black_box(body)).unwrap());
}

const TAKEN_OUT: [&str; 2] = ["applications", "contacts"];

/// Every field is declared and fits.
#[divan::bench]
fn plain(bencher: Bencher<'_, '_>) {
    decode(bencher, &page(|_, _| {}), &TAKEN_OUT);
}

/// The same page into one table: the expanded objects are kept as they are.
#[divan::bench]
fn plain_not_taken_out(bencher: Bencher<'_, '_>) {
    decode(bencher, &page(|_, _| {}), &[]);
}

/// Each record has a field that the catalogue does not know, and one of another type.
#[divan::bench]
fn with_drift(bencher: Bencher<'_, '_>) {
    let body = page(|i, row| {
        row["aNewField"] = json!({"deep": [i, "text", null]});
        row["headline"] = json!(i);
    });
    decode(bencher, &body, &TAKEN_OUT);
}

/// One record has no key: the page is read again, record by record.
#[divan::bench]
fn with_a_bad_record(bencher: Bencher<'_, '_>) {
    let body = page(|i, row| {
        if i == ROWS / 2 {
            row["id"] = Value::Null;
        }
    });
    decode(bencher, &body, &TAKEN_OUT);
}
