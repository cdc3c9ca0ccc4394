//! The room as a whole, on real files in a temporary folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path as FilePath;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::array::{ListBuilder, StringBuilder, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::catalog::{Column, ColumnType, EXTRA, Granularity, Mode, OnDelete, Partition, Resource, TimeFilter};
use crate::clock::Timestamp;

fn store(root: &FilePath) -> Store {
    Store::open(root.to_str().unwrap()).unwrap()
}
/// A lease in a memory store, whose futures are ready at once.
fn lease() -> Lease {
    use futures::FutureExt as _;
    let state = crate::state::State::new(Store::memory(), crate::clock::Clock::system());
    state.lease(&"acme".parse().unwrap(), crate::names::RunId::new()).now_or_never().unwrap().unwrap()
}

struct Fixture {
    dir: TempDir,
    lake: Lake,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::new(store(&dir.path().join("lake")), "acme".parse().unwrap(), dir.path().join("scratch"));
    Fixture { dir, lake }
}

impl Fixture {
    /// Every partition file by its path below the table's folder, with its bytes.
    fn files(&self, table: &Table) -> BTreeMap<String, Vec<u8>> {
        fn walk(dir: &FilePath, name: &str, out: &mut BTreeMap<String, Vec<u8>>) {
            let Ok(entries) = fs::read_dir(dir) else { return };
            for e in entries {
                let e = e.unwrap();
                let name = format!("{name}/{}", e.file_name().to_string_lossy());
                if e.path().is_dir() {
                    walk(&e.path(), &name, out);
                } else {
                    out.insert(name, fs::read(e.path()).unwrap());
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(&self.root(table), "", &mut out);
        out
    }
    fn root(&self, table: &Table) -> std::path::PathBuf {
        self.dir.path().join("lake").join(self.lake.folder(table).as_ref())
    }
    fn put_files(&self, table: &Table, files: &BTreeMap<String, Vec<u8>>) {
        let _ = fs::remove_dir_all(self.root(table));
        for (name, bytes) in files {
            let path = self.root(table).join(name.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

fn column(name: &str, ty: ColumnType) -> Column {
    Column { sensitive: name == "name", volatile: name == "count", ..Column::plain(name, ty) }
}

fn resource(name: &str, mode: Mode, parent: Option<&str>, partition: (&str, &str), columns: Vec<Column>) -> Resource {
    let partition =
        Partition { column: Some(partition.0.into()), label: partition.1.into(), granularity: Granularity::Year };
    let own = Resource::of_our_own(name.parse().unwrap(), columns, Some(partition));
    Resource { mode, parent: parent.map(Into::into), ..own }
}

fn records_with(granularity: Granularity, more: Vec<Column>) -> Table {
    let time = ColumnType::Timestamp { lenient: false };
    let mut columns = vec![
        column("id", ColumnType::Text),
        column("name", ColumnType::Text),
        column("count", ColumnType::Int { lenient: false }),
        column("tags", ColumnType::List(Box::new(ColumnType::Text))),
        column("created_at", time.clone()),
        column("updated_at", time),
    ];
    columns.extend(more);
    let cursor = TimeFilter { column: "updated_at".into(), start: "s".into(), end: "e".into() };
    let mode = Mode::Incremental { cursor, load: None, bare: false };
    let resource = resource("opportunities", mode, None, ("created_at", "created"), columns);
    Table::new(&"lever".parse().unwrap(), &resource, Some(granularity)).unwrap()
}

fn records(granularity: Granularity) -> Table {
    records_with(granularity, vec![])
}

fn children(granularity: Granularity) -> Table {
    let columns = vec![
        column("id", ColumnType::Text),
        column("opportunity_id", ColumnType::Text),
        column("name", ColumnType::Text),
        column("opportunity_created_at", ColumnType::Timestamp { lenient: false }),
    ];
    let mode = Mode::Extracted { from: "opportunities".parse().unwrap(), field: "applications".into() };
    let partition = ("opportunity_created_at", "opportunity");
    let resource = resource("applications", mode, Some("opportunity_id"), partition, columns);
    Table::new(&"lever".parse().unwrap(), &resource, Some(granularity)).unwrap()
}

/// 2023-06-15, and so many years later.
fn year(n: i64) -> i64 {
    1_686_787_200_000 + n * 31_557_600_000
}

#[derive(Clone, Debug)]
struct Row {
    id: String,
    name: String,
    created: Option<i64>,
    updated: Option<i64>,
}

fn row(id: &str, name: &str, created: impl Into<Option<i64>>, updated: impl Into<Option<i64>>) -> Row {
    Row { id: id.into(), name: name.into(), created: created.into(), updated: updated.into() }
}

fn times(ms: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(ms.map(|t| t.map(|t| t * 1000)).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect()).unwrap()
}

/// As the transform gives it: no system columns but `_extra`, list elements named as they like.
fn record_batch(rows: &[Row]) -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for r in rows {
        tags.values().append_value(&r.name);
        tags.values().append_null();
        tags.append(true);
    }
    batch_of(vec![
        (EXTRA, new_null_array(&DataType::Utf8, rows.len())),
        ("id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.id)))),
        ("name", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.name)))),
        ("count", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64))),
        ("tags", Arc::new(tags.finish())),
        ("created_at", times(rows.iter().map(|r| r.created))),
        ("updated_at", times(rows.iter().map(|r| r.updated))),
    ])
}

/// (parent, child, name, kind)
type Child = (String, Option<String>, String, i8);

fn child_batch(rows: &[(Child, Option<i64>)]) -> RecordBatch {
    let n = rows.len();
    batch_of(vec![
        (EXTRA, new_null_array(&DataType::Utf8, n)),
        ("id", Arc::new(rows.iter().map(|(r, _)| r.1.clone()).collect::<StringArray>())),
        ("opportunity_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|(r, _)| &r.0)))),
        ("name", Arc::new(StringArray::from_iter_values(rows.iter().map(|(r, _)| &r.2)))),
        ("opportunity_created_at", times(rows.iter().map(|(_, t)| *t))),
        ("_kind", Arc::new(rows.iter().map(|(r, _)| Some(r.3)).collect::<Int8Array>())),
    ])
}

fn spill(f: &Fixture, table: &Table) -> Spill {
    Spill::new(Arc::new(table.clone()), f.lake.scratch.join(table.resource.as_str())).unwrap()
}

async fn merge_all(
    f: &Fixture,
    table: &Table,
    spill: &mut Spill,
    suppress: &Suppress,
) -> BTreeMap<PartitionValue, Merged> {
    let mut done = BTreeMap::new();
    for p in spill.pending() {
        let runs = spill.take(p.value);
        let ticket = runs.ticket();
        assert!(p.windows.is_subset(&spill.unmerged_windows()), "taken is not merged");
        done.insert(p.value, merge(&f.lake, &lease(), table, p.value, runs, suppress).await.unwrap());
        spill.settle(ticket);
    }
    assert!(spill.pending().is_empty());
    done
}

/// 3,000 records of a year in six windows.
fn windows_of_a_year() -> Vec<Vec<Row>> {
    let rows: Vec<Row> = (0..3_000).map(|i| row(&format!("r{i:04}"), "n", year(0) + i * 60_000, 1_000 + i)).collect();
    rows.chunks(500).map(|w| w.iter().rev().cloned().collect()).collect()
}

#[tokio::test]
async fn a_partition_that_grows_is_the_one_that_is_merged_at_once() {
    let table = records(Granularity::Year);
    let value = PartitionValue::Year(2023);
    let windows = windows_of_a_year();
    // What comes late: one that is newer than what was written, and one that was not there.
    let late = [row("r0007", "renamed", year(0) + 7 * 60_000, 9_000), row("r9999", "n", year(0) + 30_000, 1)];
    let fill = |f: &Fixture| {
        let mut s = spill(f, &table);
        for (i, w) in windows.iter().enumerate() {
            s.add(i as u32, &record_batch(w), Timestamp::from_ms(5), i as u64).unwrap();
            s.finish(i as u32);
        }
        s.add(99, &record_batch(&late), Timestamp::from_ms(6), 99).unwrap();
        s.finish(99);
        s
    };
    let (once, grown) = (fixture(), fixture());
    let merged = merge_all(&once, &table, &mut fill(&once), &Suppress::none()).await[&value].clone();
    let mut s = fill(&grown);
    let begun = Growing::begin(&grown.lake, Arc::new(table.clone()), value, Suppress::none()).await.unwrap();
    let mut growing = begun.expect("nothing is there");
    for some in [BTreeSet::from([0]), BTreeSet::from([1, 2, 3]), BTreeSet::from([4, 5]), BTreeSet::from([99])] {
        growing = growing.add(s.take_of(value, &some)).await.unwrap();
        assert!(grown.files(&table).is_empty(), "nothing is in place before the end");
    }
    assert_eq!(s.unmerged_windows(), (0..6).chain([99]).collect(), "nothing of it may be committed yet");
    let tickets = growing.tickets().to_vec();
    let done = growing.finish(&lease()).await.unwrap();
    tickets.into_iter().for_each(|t| s.settle(t));
    assert!(s.unmerged_windows().is_empty());
    assert!(grown.files(&table) == once.files(&table), "the bytes differ");
    assert_eq!((done.rows, done.living, done.bytes), (merged.rows, merged.living, merged.bytes));
    assert_eq!((done.inserted, done.updated, merged.inserted), (3_001, 1, 3_001));
}

#[tokio::test]
async fn where_something_is_nothing_grows() {
    let table = records(Granularity::Year);
    let f = fixture();
    load(&f, &table, 1, &[row("a", "n", year(0), 1)]).await;
    let begin = async |value| {
        Growing::begin(&f.lake, Arc::new(table.clone()), value, Suppress::none()).await.unwrap().is_some()
    };
    assert!(!begin(PartitionValue::Year(2023)).await);
    assert!(begin(PartitionValue::Year(2024)).await);
    // A row without a time may be one of those that come.
    load(&f, &table, 1, &[row("b", "n", None, 1)]).await;
    assert!(!begin(PartitionValue::Year(2024)).await);
    assert!(!begin(PartitionValue::Null).await);
}

#[tokio::test]
async fn what_comes_twice_grows_once_and_who_is_deleted_not_at_all() {
    let table = records(Granularity::Year);
    let (f, value) = (fixture(), PartitionValue::Year(2023));
    let mut s = spill(&f, &table);
    let at = |id: &str, minute: i64| row(id, "n", year(0) + minute * 60_000, 1);
    // Both windows have what stands on their border.
    for (window, rows) in [[at("a", 0), at("b", 1)], [at("b", 1), at("c", 2)]].iter().enumerate() {
        s.add(window as u32, &record_batch(rows), Timestamp::from_ms(5), window as u64).unwrap();
        s.finish(window as u32);
    }
    let dead = Suppress::new(HashMap::from([("a".to_owned(), 7)]), HashMap::new());
    let mut growing = Growing::begin(&f.lake, Arc::new(table.clone()), value, dead).await.unwrap().unwrap();
    for window in [0, 1] {
        growing = growing.add(s.take_of(value, &BTreeSet::from([window]))).await.unwrap();
    }
    let done = growing.finish(&lease()).await.unwrap();
    assert_eq!((done.inserted, done.suppressed, done.unchanged, done.rows), (2, 1, 1, 2));
    assert_eq!(texts(&read(&f, &table).await, "id"), [Some("b".to_owned()), Some("c".to_owned())]);
}

#[tokio::test]
async fn a_growth_that_is_given_up_leaves_nothing() {
    let table = records(Granularity::Year);
    let (f, value) = (fixture(), PartitionValue::Year(2023));
    let mut s = spill(&f, &table);
    s.add(0, &record_batch(&[row("a", "n", year(0), 1)]), Timestamp::from_ms(5), 1).unwrap();
    s.finish(0);
    let growing = Growing::begin(&f.lake, Arc::new(table.clone()), value, Suppress::none()).await.unwrap().unwrap();
    let growing = growing.add(s.take(value)).await.unwrap();
    let staged = || fs::read_dir(f.dir.path().join("lake/_staging")).unwrap().count();
    assert_eq!(staged(), 1);
    drop(growing);
    assert_eq!(staged(), 0);
    assert!(f.files(&table).is_empty());
}

/// Loads one page of records seen at `seen`.
async fn load(f: &Fixture, table: &Table, seen: i64, rows: &[Row]) -> BTreeMap<PartitionValue, Merged> {
    let mut s = spill(f, table);
    s.add(0, &record_batch(rows), Timestamp::from_ms(seen), 1).unwrap();
    s.finish(0);
    merge_all(f, table, &mut s, &Suppress::none()).await
}

async fn read(f: &Fixture, table: &Table) -> Vec<RecordBatch> {
    read_table(&f.lake.store, &table.provider, &table.resource, &f.lake.tenant).await.unwrap()
}

fn texts(batches: &[RecordBatch], name: &str) -> Vec<Option<String>> {
    let columns = batches.iter().flat_map(|b| {
        b.column_by_name(name).unwrap().as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>()
    });
    columns.collect()
}

fn millis(batches: &[RecordBatch], name: &str) -> Vec<Option<i64>> {
    let one = |b: &RecordBatch| {
        let c = b.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>();
        c.iter().map(|v| v.map(|v| v / 1000)).collect::<Vec<_>>()
    };
    batches.iter().flat_map(one).collect()
}

fn hashes(batches: &[RecordBatch]) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|b| b.column_by_name("_row_hash").unwrap().as_primitive::<Int64Type>().values().to_vec())
        .collect()
}

/// id → (name, version, first seen, deleted)
type State = BTreeMap<String, (Option<String>, Option<i64>, i64, Option<i64>)>;

async fn state(f: &Fixture, table: &Table) -> State {
    let b = read(f, table).await;
    let version = if table.version.is_some() { millis(&b, "updated_at") } else { vec![None; texts(&b, "id").len()] };
    let rest = texts(&b, "name").into_iter().zip(version).zip(millis(&b, "_synced_at")).zip(millis(&b, "_deleted_at"));
    let mut state = State::new();
    for (id, (((name, version), synced), deleted)) in texts(&b, "id").into_iter().zip(rest) {
        let before = state.insert(id.unwrap(), (name, version, synced.unwrap(), deleted));
        assert!(before.is_none(), "one row a key");
    }
    state
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// window, seen, rows of (id, version, name)
type Page = (u32, i64, Vec<(u8, Option<i64>, u8)>);

fn pages() -> impl Strategy<Value = Vec<Page>> {
    let row = (0..12u8, prop::option::of(0..5i64), 0..3u8);
    prop::collection::vec((0..3u32, 0..8i64, prop::collection::vec(row, 0..7)), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Any pages in any windows over several merges, one window thrown away, some keys suppressed: as a plain map has it.
    #[test]
    fn an_upsert_is_what_a_plain_map_says(
        merges in prop::collection::vec(pages(), 1..4),
        discard in 0..4u32,
        dead in prop::collection::btree_map(0..12u8, 0..5i64, 0..3),
        small in any::<bool>(),
        granularity in prop::sample::select(vec![Granularity::Year, Granularity::None, Granularity::Bucket(3)]),
    ) {
        block_on(async {
            let f = fixture();
            let table = records(granularity);
            let id = |n: u8| format!("id-{n}");
            let created = |n: u8| (n % 4 != 3).then(|| year(i64::from(n % 4)));
            let suppress = Suppress::new(dead.iter().map(|(k, at)| (id(*k), *at)).collect(), HashMap::new());
            let mut model = State::new();
            let mut seq = 0;
            for pages in &merges {
                let mut spill = spill(&f, &table);
                if small {
                    spill.most_rows = 3;
                }
                let mut best: BTreeMap<String, (Option<i64>, i64, u64, u8)> = BTreeMap::new();
                for (window, seen, rows) in pages {
                    seq += 1;
                    let rows_of: Vec<_> = rows.iter().map(|(k, v, n)| row(&id(*k), &n.to_string(), created(*k), *v)).collect();
                    spill.add(*window, &record_batch(&rows_of), Timestamp::from_ms(*seen), seq).unwrap();
                    for (k, version, name) in rows {
                        let alive = dead.get(k).is_none_or(|at| version.is_some_and(|v| v > *at));
                        if alive && *window != discard {
                            let b = best.entry(id(*k)).or_insert((*version, *seen, seq, *name));
                            if (*version, *seen, seq) > (b.0, b.1, b.2) {
                                *b = (*version, *seen, seq, *name);
                            }
                        }
                    }
                }
                for window in 0..3 {
                    if window == discard { spill.discard(window) } else { spill.finish(window) }
                }
                merge_all(&f, &table, &mut spill, &suppress).await;
                assert!(spill.unmerged_windows().is_empty());
                for (id, (version, seen, _, name)) in best {
                    let name = Some(name.to_string());
                    let keep = model.get(&id).is_some_and(|(n, v, s, _)| (*v, *s) > (version, seen) || (n, v) == (&name, &version));
                    if !keep {
                        model.insert(id, (name, version, seen, None));
                    }
                }
            }
            assert_eq!(state(&f, &table).await, model);
            let left = fs::read_dir(f.lake.scratch.join("opportunities")).map_or(0, Iterator::count);
            assert_eq!(left, 0, "run files are removed");
        });
    }

    /// Reads of parents in any order over several merges: as a map of parents has it.
    #[test]
    fn children_are_replaced_by_parent(
        merges in prop::collection::vec(prop::collection::vec(
            (0..3u32, 0..8i64, prop::collection::btree_map(0..4u8, prop::collection::btree_map(0..4u8, (0..3u8, prop::bool::weighted(0.2)), 0..4), 1..3)),
            1..4), 1..4),
        small in any::<bool>(),
        granularity in prop::sample::select(vec![Granularity::Year, Granularity::None, Granularity::Bucket(2)]),
    ) {
        block_on(async {
            let f = fixture();
            let table = children(granularity);
            let mut model: BTreeMap<u8, BTreeMap<String, (String, i64)>> = BTreeMap::new();
            let mut seq = 0;
            for pages in &merges {
                let mut spill = spill(&f, &table);
                if small {
                    spill.most_rows = 2;
                }
                let mut latest = BTreeMap::new();
                for (window, seen, parents) in pages {
                    seq += 1;
                    let mut rows = Vec::new();
                    for (parent, kids) in parents {
                        let p = format!("p{parent}");
                        let time = (*parent != 3).then(|| year(i64::from(*parent)));
                        for (kid, (name, bare)) in kids {
                            let id = Some(format!("p{parent}-{kid}"));
                            rows.push(((p.clone(), id, name.to_string(), if *bare { 2 } else { 0 }), time));
                        }
                        rows.push(((p, None, String::new(), 1), time));
                        let l = latest.entry(*parent).or_insert((*seen, seq, kids));
                        if (*seen, seq) > (l.0, l.1) {
                            *l = (*seen, seq, kids);
                        }
                    }
                    spill.add(*window, &child_batch(&rows), Timestamp::from_ms(*seen), seq).unwrap();
                }
                (0..3).for_each(|w| spill.finish(w));
                merge_all(&f, &table, &mut spill, &Suppress::none()).await;
                for (parent, (seen, _, kids)) in latest {
                    let old = model.remove(&parent).unwrap_or_default();
                    // Rows first seen after this read cannot be judged by it.
                    let mut now: BTreeMap<_, _> = old.iter().filter(|(_, (_, synced))| *synced > seen).map(|(k, v)| (k.clone(), v.clone())).collect();
                    for (kid, (name, bare)) in kids {
                        let id = format!("p{parent}-{kid}");
                        let name = name.to_string();
                        match old.get(&id) {
                            Some(o) if *bare || o.1 > seen || o.0 == name => { now.insert(id, o.clone()); }
                            None if *bare => {}
                            _ => { now.insert(id, (name, seen)); }
                        }
                    }
                    model.insert(parent, now);
                }
            }
            let flat: BTreeMap<_, _> = model.into_values().flatten().collect();
            let found: BTreeMap<_, _> = state(&f, &table).await.into_iter().map(|(k, v)| (k, (v.0.unwrap(), v.2))).collect();
            assert_eq!(found, flat);
        });
    }
}

/// Rows over five partitions, more than a writer's chunk.
fn many() -> Vec<Row> {
    (0..2_600i64)
        .map(|i| {
            row(
                &format!("{:016x}", (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                &format!("n{}", i % 7),
                year(i % 2),
                i,
            )
        })
        .collect()
}

#[tokio::test]
async fn equal_rows_give_equal_bytes_however_they_arrive() {
    let table = records(Granularity::Year);
    let rows = many();
    let (at_once, in_pieces, twice) = (fixture(), fixture(), fixture());
    // One row a page, so that the volatile column, which is filled by the place on the page, is equal too.
    let pages = |s: &mut Spill, rows: &mut dyn Iterator<Item = &Row>| {
        for (n, row) in rows.enumerate() {
            let window = u32::try_from(n % 3).unwrap();
            let page = record_batch(std::slice::from_ref(row));
            s.add(window, &page, Timestamp::from_ms(9), n as u64).unwrap();
        }
        (0..3).for_each(|w| s.finish(w));
    };
    let mut s = spill(&at_once, &table);
    pages(&mut s, &mut rows.iter());
    merge_all(&at_once, &table, &mut s, &Suppress::none()).await;

    let mut s = spill(&in_pieces, &table);
    s.most_rows = 60;
    pages(&mut s, &mut rows.iter().rev());
    let runs = fs::read_dir(in_pieces.lake.scratch.join("opportunities")).unwrap().count();
    assert!(runs > 40, "more runs than are read at once");
    merge_all(&in_pieces, &table, &mut s, &Suppress::none()).await;

    for part in [&rows[..900], &rows[500..]] {
        let mut s = spill(&twice, &table);
        pages(&mut s, &mut part.iter());
        merge_all(&twice, &table, &mut s, &Suppress::none()).await;
    }

    let files = at_once.files(&table);
    let names: Vec<_> = files.keys().collect();
    assert_eq!(names, ["/created_year=2023/data.parquet", "/created_year=2024/data.parquet"]);
    assert!(in_pieces.files(&table) == files);
    assert!(twice.files(&table) == files);
}

#[tokio::test]
async fn a_file_is_sorted_and_says_so_and_holds_no_trace_of_the_run() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let f = fixture();
    let table = records(Granularity::None);
    load(&f, &table, 10, &many()).await;
    let b = read(&f, &table).await;
    let order: Vec<_> = millis(&b, "created_at").into_iter().zip(texts(&b, "id")).collect();
    assert!(order.is_sorted());
    let file = fs::File::open(f.root(&table).join(FILE_NAME)).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let meta = reader.metadata();
    let group = meta.row_group(0);
    let sorting: Vec<_> = group
        .sorting_columns()
        .unwrap()
        .iter()
        .map(|c| group.column(c.column_idx as usize).column_path().string())
        .collect();
    assert_eq!(sorting, ["created_at", "id"]);
    let bloomed: Vec<_> = group
        .columns()
        .iter()
        .filter(|c| c.bloom_filter_offset().is_some())
        .map(|c| c.column_path().string())
        .collect();
    assert_eq!(bloomed, ["id"]);
    let keys = meta.file_metadata().key_value_metadata().unwrap();
    let mut keys: Vec<_> = keys
        .iter()
        .filter(|k| k.key != "ARROW:schema")
        .map(|k| format!("{}={}", k.key, k.value.as_deref().unwrap()))
        .collect();
    keys.push(meta.file_metadata().created_by().unwrap().to_owned());
    insta::assert_snapshot!(keys.join("\n"), @r"
    hirelake.provider=lever
    hirelake.resource=opportunities
    hirelake.schema=c89d8d73ab36662c
    hirelake.layout=none
    hirelake
    ");
}

#[tokio::test]
async fn a_file_of_several_row_groups_is_merged_and_searched() {
    let f = fixture();
    let table = records(Granularity::None);
    let id = |i: u32| format!("{:08x}", i.wrapping_mul(0x9E37_79B9));
    let rows: Vec<_> = (0..17_000).map(|i| row(&id(i), "n", year(0), 1)).collect();
    let mut s = spill(&f, &table);
    for (n, page) in rows.chunks(1_000).enumerate() {
        s.add(0, &record_batch(page), Timestamp::from_ms(10), n as u64).unwrap();
        assert!(s.buffered_bytes() <= 8 << 20, "memory is bounded");
    }
    s.finish(0);
    merge_all(&f, &table, &mut s, &Suppress::none()).await;
    let last = rows.iter().map(|r| r.id.clone()).max().unwrap();
    let done = load(&f, &table, 20, &[row(&last, "changed", year(0), 2), row("ffffffffff", "new", year(0), 2)]).await;
    let merged = &done[&PartitionValue::Whole];
    assert_eq!((merged.inserted, merged.updated, merged.rows), (1, 1, 17_001));
    let gone = [Deletion { key: last.clone(), at: Timestamp::from_ms(50) }];
    let done = delete(&f.lake, &lease(), &table, By::Key, &gone, OnDelete::Remove, None).await.unwrap();
    assert_eq!((done.rows, done.rewritten[0].1.rows), (1, 17_000));
    let now = state(&f, &table).await;
    assert!(now.len() == 17_000 && !now.contains_key(&last));
}

#[tokio::test]
async fn the_work_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let f = fixture();
    let table = records(Granularity::Year);
    let (mut s, lease, none) = (spill(&f, &table), lease(), Suppress::none());
    is_send(&merge(&f.lake, &lease, &table, PartitionValue::Null, s.take(PartitionValue::Null), &none));
    is_send(&delete(&f.lake, &lease, &table, By::Key, &[], OnDelete::Mark, None));
    is_send(&relay(&f.lake, &lease, &table));
    is_send(&bring_forward(&f.lake, &lease, &table));
    is_send(&living_keys(&f.lake, &table));
    is_send(&s);
}

#[tokio::test]
async fn nothing_new_rewrites_nothing() {
    let f = fixture();
    let table = records(Granularity::Year);
    let rows = [row("a", "x", year(0), 5), row("b", "y", year(1), None), row("c", "z", year(1), 7)];
    let first = load(&f, &table, 10, &rows).await;
    assert!(first.values().all(|m| m.rewritten && m.inserted > 0));
    let again = load(&f, &table, 20, &rows).await;
    for (value, merged) in &again {
        assert!(!merged.rewritten);
        assert_eq!((merged.unchanged, merged.inserted, merged.updated), (first[value].inserted, 0, 0));
        assert_eq!(
            (&merged.version, merged.rows, merged.living),
            (&first[value].version, first[value].rows, first[value].living)
        );
    }
    // A changed row rewrites its own partition only, and the others keep the time of their first sight.
    let third = load(&f, &table, 30, &[rows[0].clone(), row("c", "changed", year(1), 8)]).await;
    assert_eq!(third.values().map(|m| m.rewritten).collect::<Vec<_>>(), [false, true]);
    let synced: Vec<_> = state(&f, &table).await.values().map(|v| v.2).collect();
    assert_eq!(synced, [10, 10, 30]);
}

#[tokio::test]
async fn a_deletion_in_its_three_modes() {
    let table = records(Granularity::Year);
    let rows = [row("a", "x", year(0), 5), row("b", "y", year(0), 5), row("c", "z", year(1), 5)];
    let gone = [
        Deletion { key: "b".into(), at: Timestamp::from_ms(50) },
        Deletion { key: "no such".into(), at: Timestamp::from_ms(50) },
    ];
    for on in [OnDelete::Redact, OnDelete::Mark, OnDelete::Remove] {
        let f = fixture();
        load(&f, &table, 10, &rows).await;
        let hash_before = hashes(&read(&f, &table).await);
        let done = delete(&f.lake, &lease(), &table, By::Key, &gone, on, None).await.unwrap();
        assert_eq!((done.rows, done.partitions_scanned), (1, 1), "the bloom filter rules out the other partition");
        assert_eq!(done.rewritten.len(), 1);
        let (value, figures) = &done.rewritten[0];
        assert_eq!((*value, figures.living), (PartitionValue::Year(2023), 1));
        let now = state(&f, &table).await;
        assert_eq!(now["a"], (Some("x".into()), Some(5), 10, None));
        let hash_now = hashes(&read(&f, &table).await);
        match on {
            OnDelete::Redact => {
                assert_eq!(now["b"], (None, Some(5), 10, Some(50)));
                assert_ne!(hash_now[1], hash_before[1]);
                assert_eq!((hash_now[0], hash_now[2]), (hash_before[0], hash_before[2]));
            }
            OnDelete::Mark => {
                assert_eq!((&now["b"], hash_now), (&(Some("y".into()), Some(5), 10, Some(50)), hash_before))
            }
            OnDelete::Remove => assert!(!now.contains_key("b")),
        }
        // Again: nothing is rewritten.
        let files = f.files(&table);
        let again = delete(&f.lake, &lease(), &table, By::Key, &gone, on, None).await.unwrap();
        assert_eq!((again.rows, again.rewritten.len()), (0, 0));
        assert_eq!(f.files(&table), files);
        // A page read before the deletion cannot bring it back; without the suppression only where no row is left to tell.
        let suppress = Suppress::new(HashMap::from([("b".into(), 50)]), HashMap::new());
        let mut s = spill(&f, &table);
        s.add(0, &record_batch(&rows), Timestamp::from_ms(60), 1).unwrap();
        s.finish(0);
        let merged = merge_all(&f, &table, &mut s, &suppress).await;
        assert_eq!(merged[&PartitionValue::Year(2023)].suppressed, 1);
        assert_eq!(f.files(&table), files);
        // A newer version is alive again, and repeating the deletion leaves it alive.
        let mut s = spill(&f, &table);
        s.add(0, &record_batch(&[row("b", "back", year(0), 51)]), Timestamp::from_ms(70), 1).unwrap();
        s.finish(0);
        merge_all(&f, &table, &mut s, &suppress).await;
        let third = delete(&f.lake, &lease(), &table, By::Key, &gone, on, None).await.unwrap();
        assert_eq!(third.rows, 0);
        assert_eq!(state(&f, &table).await["b"], (Some("back".into()), Some(51), 70, None));
    }
}

#[tokio::test]
async fn a_stale_page_does_not_revive_a_deleted_row() {
    let f = fixture();
    let table = records(Granularity::Year);
    let rows = [row("a", "x", year(0), 5)];
    load(&f, &table, 10, &rows).await;
    let gone = [Deletion { key: "a".into(), at: Timestamp::from_ms(50) }];
    delete(&f.lake, &lease(), &table, By::Key, &gone, OnDelete::Mark, None).await.unwrap();
    load(&f, &table, 50, &rows).await;
    assert_eq!(state(&f, &table).await["a"].3, Some(50), "seen before it was deleted");
    load(&f, &table, 51, &rows).await;
    assert_eq!(state(&f, &table).await["a"], (Some("x".into()), Some(5), 51, None), "seen after: it is back");
}

#[tokio::test]
async fn children_go_with_their_parent_and_deleted_ones_stay() {
    let f = fixture();
    let table = children(Granularity::Year);
    let kid = |p: &str, c: &str| ((p.to_owned(), Some(c.to_owned()), "n".to_owned(), 0), Some(year(0)));
    let mark = |p: &str| ((p.to_owned(), None, String::new(), 1), Some(year(0)));
    let page = [kid("p", "1"), kid("p", "2"), mark("p"), kid("q", "3"), mark("q")];
    let mut s = spill(&f, &table);
    s.add(0, &child_batch(&page), Timestamp::from_ms(10), 1).unwrap();
    s.finish(0);
    merge_all(&f, &table, &mut s, &Suppress::none()).await;
    let one = [Deletion { key: "2".into(), at: Timestamp::from_ms(20) }];
    delete(&f.lake, &lease(), &table, By::Key, &one, OnDelete::Redact, None).await.unwrap();
    // The parent's next read has neither: the living one is gone, the tombstone stays.
    let mut s = spill(&f, &table);
    s.add(0, &child_batch(&[mark("p")]), Timestamp::from_ms(30), 1).unwrap();
    s.finish(0);
    let merged = merge_all(&f, &table, &mut s, &Suppress::none()).await;
    assert_eq!(merged[&PartitionValue::Year(2023)].removed, 1);
    assert_eq!(state(&f, &table).await.into_keys().collect::<Vec<_>>(), ["2", "3"]);
    // A deleted parent's read is dropped whole.
    let suppress = Suppress::new(HashMap::new(), HashMap::from([("q".into(), 40)]));
    let mut s = spill(&f, &table);
    s.add(0, &child_batch(&[kid("q", "4"), mark("q")]), Timestamp::from_ms(40), 1).unwrap();
    s.finish(0);
    let merged = merge_all(&f, &table, &mut s, &suppress).await;
    assert_eq!(merged[&PartitionValue::Year(2023)].suppressed, 1);
    let parents = [Deletion { key: "q".into(), at: Timestamp::from_ms(40) }];
    let done = delete(&f.lake, &lease(), &table, By::Parent, &parents, OnDelete::Remove, None).await.unwrap();
    assert_eq!(done.rows, 1);
    assert_eq!(state(&f, &table).await.into_keys().collect::<Vec<_>>(), ["2"]);
}

#[tokio::test]
async fn an_emptied_partition_stays_readable() {
    let f = fixture();
    let table = records(Granularity::Year);
    load(&f, &table, 10, &[row("a", "x", year(0), 5)]).await;
    let gone = [Deletion { key: "a".into(), at: Timestamp::from_ms(50) }];
    delete(&f.lake, &lease(), &table, By::Key, &gone, OnDelete::Remove, None).await.unwrap();
    let all = figures(&f.lake, &table).await.unwrap();
    assert_eq!(all.iter().map(|f| (f.value, f.rows)).collect::<Vec<_>>(), [(PartitionValue::Year(2023), 0)]);
    assert!(state(&f, &table).await.is_empty());
}

#[tokio::test]
async fn a_row_leaves_the_undated_partition_when_its_time_comes() {
    let f = fixture();
    let table = records(Granularity::Year);
    load(&f, &table, 10, &[row("a", "x", None, 5), row("b", "y", None, 5), row("c", "z", year(0), 5)]).await;
    assert_eq!(figures(&f.lake, &table).await.unwrap().len(), 2);
    let before = f.files(&table);
    load(&f, &table, 20, &[row("a", "x", year(0), 6)]).await;
    assert_eq!(state(&f, &table).await.len(), 3);
    let rows: Vec<_> = figures(&f.lake, &table).await.unwrap().into_iter().map(|f| (f.value, f.rows)).collect();
    assert_eq!(rows, [(PartitionValue::Year(2023), 2), (PartitionValue::Null, 1)]);
    // A crash between the two writes leaves it twice; the same rows again mend it.
    let mut crashed = f.files(&table);
    let undated = "/created_year=__HIVE_DEFAULT_PARTITION__/data.parquet";
    crashed.insert(undated.into(), before[undated].clone());
    f.put_files(&table, &crashed);
    load(&f, &table, 30, &[row("a", "x", year(0), 6)]).await;
    assert_eq!(state(&f, &table).await.len(), 3);
    // Where undated rows share the file, the dated one takes the place at once.
    let f = fixture();
    let table = records(Granularity::None);
    load(&f, &table, 10, &[row("a", "x", None, 5), row("b", "y", None, 5)]).await;
    load(&f, &table, 20, &[row("a", "x", year(0), 6)]).await;
    assert_eq!(state(&f, &table).await["a"].2, 20);
}

#[tokio::test]
async fn children_leave_the_undated_partition_with_their_parent() {
    let f = fixture();
    let table = children(Granularity::Year);
    for (seen, time) in [(10, None), (20, Some(year(0)))] {
        let page = [
            (("p".to_owned(), Some("1".to_owned()), "n".to_owned(), 0), time),
            (("p".to_owned(), None, String::new(), 1), time),
        ];
        let mut s = spill(&f, &table);
        s.add(0, &child_batch(&page), Timestamp::from_ms(seen), 1).unwrap();
        s.finish(0);
        merge_all(&f, &table, &mut s, &Suppress::none()).await;
    }
    assert_eq!(state(&f, &table).await.len(), 1);
    let rows: Vec<_> = figures(&f.lake, &table).await.unwrap().into_iter().map(|f| (f.value, f.rows)).collect();
    assert_eq!(rows, [(PartitionValue::Year(2023), 1), (PartitionValue::Null, 0)]);
}

#[tokio::test]
async fn a_new_column_is_brought_to_every_file() {
    let f = fixture();
    let old = records(Granularity::Year);
    load(&f, &old, 10, &[row("a", "x", year(0), 5), row("b", "y", year(1), 5)]).await;
    let hash_before = hashes(&read(&f, &old).await);
    let new = records_with(Granularity::Year, vec![column("origin", ColumnType::Text)]);
    // Reading tolerates the old shape.
    let keys = BTreeSet::from(["a".to_owned()]);
    let some = select(&f.lake, &new, &["origin", "id"], &keys).await.unwrap();
    assert_eq!((some.num_rows(), some.column(1).null_count()), (1, 1));
    assert_eq!(bring_forward(&f.lake, &lease(), &new).await.unwrap(), 2);
    assert_eq!(bring_forward(&f.lake, &lease(), &new).await.unwrap(), 0);
    let now = read(&f, &new).await;
    assert!(now.iter().all(|b| b.schema().fields().len() == new.schema.fields().len()));
    assert_eq!(texts(&now, "origin"), [None, None]);
    assert_eq!(hashes(&now), hash_before, "a column of nulls changes no hash");
    // The other way round it is refused.
    insta::assert_snapshot!(bring_forward(&f.lake, &lease(), &old).await.unwrap_err(), @r"
    lever/opportunities (tenant=acme/created_year=2023/data.parquet): cannot bring the partition's columns up to the catalogue's: column 11 is (`origin`, text) in the file and (absent) in the catalogue
    hint: a column keeps its name, type and position for ever: put the catalogue's old column back and append the new one under a new name
    ");
    let mut odd = records(Granularity::Year);
    let mut fields: Vec<_> = odd.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields[6] = Field::new("count", DataType::Utf8, true);
    odd.schema = Arc::new(Schema::new(fields));
    insta::assert_snapshot!(bring_forward(&f.lake, &lease(), &odd).await.unwrap_err(), @r"
    lever/opportunities (tenant=acme/created_year=2023/data.parquet): cannot bring the partition's columns up to the catalogue's: column 7 is (`count`, int) in the file and (`count`, text) in the catalogue
    hint: a column keeps its name, type and position for ever: put the catalogue's old column back and append the new one under a new name
    ");
}

#[tokio::test]
async fn a_merge_reads_an_older_shape() {
    let f = fixture();
    load(&f, &records(Granularity::Year), 10, &[row("a", "x", year(0), 5), row("b", "y", year(0), 5)]).await;
    let new = records_with(Granularity::Year, vec![column("origin", ColumnType::Text)]);
    let mut page: Vec<(String, ArrayRef)> = Vec::new();
    let b = record_batch(&[row("b", "z", year(0), 6)]);
    for (field, c) in b.schema().fields().iter().zip(b.columns()) {
        page.push((field.name().clone(), Arc::clone(c)));
    }
    page.push(("origin".into(), Arc::new(StringArray::from(vec!["sourced"]))));
    let mut s = spill(&f, &new);
    s.add(0, &batch_of(page.iter().map(|(n, c)| (n.as_str(), Arc::clone(c))).collect()), Timestamp::from_ms(20), 1)
        .unwrap();
    s.finish(0);
    merge_all(&f, &new, &mut s, &Suppress::none()).await;
    let now = read(&f, &new).await;
    assert_eq!(texts(&now, "name"), [Some("x".into()), Some("z".into())]);
    assert_eq!(texts(&now, "origin"), [None, Some("sourced".into())]);
}

#[tokio::test]
async fn a_table_is_relaid_there_and_back() {
    let f = fixture();
    let path =
        [Granularity::Month, Granularity::None, Granularity::Bucket(4), Granularity::Bucket(3), Granularity::Year];
    let mut rows = many();
    rows.truncate(300);
    rows.push(row("undated", "x", None, 1));
    let mut old = records(Granularity::Year);
    load(&f, &old, 10, &rows).await;
    let (files, first) = (f.files(&old), state(&f, &old).await);
    for granularity in path {
        let new = records(granularity);
        assert!(!layout_found(&f.lake, &new).await.unwrap().agrees(granularity));
        let done = relay(&f.lake, &lease(), &new).await.unwrap();
        assert_eq!(done.rows, rows.len() as u64);
        let found = layout_found(&f.lake, &new).await.unwrap();
        assert_eq!((found.granularities, found.files), (vec![granularity], done.files_after));
        assert_eq!(state(&f, &new).await, first);
        if granularity != Granularity::None {
            assert!(f.files(&new).len() > 1, "{granularity} cuts it");
        }
        old = new;
    }
    assert_eq!(f.files(&old), files, "back to the same bytes");
}

#[tokio::test]
async fn a_relay_killed_anywhere_is_mended_by_the_next() {
    for (from, to) in [
        (Granularity::Year, Granularity::Bucket(3)),
        (Granularity::Bucket(3), Granularity::Year),
        (Granularity::None, Granularity::Month),
    ] {
        let f = fixture();
        let (old, new) = (records(from), records(to));
        let mut rows = many();
        rows.truncate(40);
        load(&f, &old, 10, &rows).await;
        let before = f.files(&old);
        relay(&f.lake, &lease(), &new).await.unwrap();
        let after = f.files(&new);
        for kept_new in 0..=after.len() {
            for kept_old in 0..=before.len() {
                // First the new ones are put, then the old ones are removed.
                if kept_new < after.len() && kept_old < before.len() {
                    continue;
                }
                let mut state: BTreeMap<_, _> = after.clone().into_iter().take(kept_new).collect();
                state.extend(before.clone().into_iter().rev().take(kept_old));
                f.put_files(&new, &state);
                relay(&f.lake, &lease(), &new).await.unwrap();
                assert_eq!(f.files(&new), after, "{from} to {to}, {kept_new} new, {kept_old} old");
            }
        }
    }
}

#[tokio::test]
async fn a_relay_between_buckets_killed_anywhere_is_mended_by_the_next() {
    let f = fixture();
    let (four, whole, three) =
        (records(Granularity::Bucket(4)), records(Granularity::None), records(Granularity::Bucket(3)));
    let mut rows = many();
    rows.truncate(40);
    load(&f, &four, 10, &rows).await;
    let first = f.files(&four);
    relay(&f.lake, &lease(), &whole).await.unwrap();
    let middle = f.files(&whole);
    relay(&f.lake, &lease(), &three).await.unwrap();
    let last = f.files(&three);
    let mut states = Vec::new();
    for kept in 0..=4 {
        states.push(first.clone().into_iter().take(kept).chain(middle.clone()).collect());
        states.push(last.clone().into_iter().take(kept).chain(middle.clone()).collect());
    }
    states.push(first);
    for state in states {
        f.put_files(&three, &state);
        relay(&f.lake, &lease(), &three).await.unwrap();
        assert_eq!(f.files(&three), last, "from {:?}", state.keys());
    }
}

#[tokio::test]
async fn a_changed_granularity_is_refused() {
    let f = fixture();
    load(&f, &records(Granularity::Year), 10, &[row("a", "x", year(0), 5)]).await;
    let month = records(Granularity::Month);
    let gone = [Deletion { key: "a".into(), at: Timestamp::from_ms(50) }];
    let refused = delete(&f.lake, &lease(), &month, By::Key, &gone, OnDelete::Mark, None).await.unwrap_err();
    insta::assert_snapshot!(refused, @r"
    lever/opportunities (tenant=acme/created_year=2023/data.parquet): cannot find the partitions of deleted rows: the folder is not of a table cut by month
    hint: set the granularity back, or run `hirelake relay` for the resource
    ");
}

#[tokio::test]
async fn rows_are_found_again() {
    let f = fixture();
    let table = records(Granularity::Year);
    load(&f, &table, 10, &[row("a", "x", year(0), 5), row("b", "y", year(1), 6), row("c", "y", year(1), None)]).await;
    let set = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<BTreeSet<_>>();
    let some = select(&f.lake, &table, &["name", "id"], &set(&["a", "c", "nobody"])).await.unwrap();
    assert_eq!(texts(std::slice::from_ref(&some), "id"), [Some("a".into()), Some("c".into())]);
    assert_eq!(some.num_columns(), 2);
    let gone = [Deletion { key: "b".into(), at: Timestamp::from_ms(50) }];
    let hint = BTreeSet::from([PartitionValue::Year(2023)]);
    let missed = delete(&f.lake, &lease(), &table, By::Key, &gone, OnDelete::Mark, Some(&hint)).await.unwrap();
    assert_eq!((missed.rows, missed.partitions_scanned), (0, 0));
    delete(&f.lake, &lease(), &table, By::Key, &gone, OnDelete::Mark, None).await.unwrap();
    assert_eq!(living_keys(&f.lake, &table).await.unwrap(), set(&["a", "c"]));
    let refs = |except: &[&str]| still_referenced_owned(&f.lake, &table, set(&["x", "y"]), set(except));
    assert_eq!(refs(&[]).await, set(&["x", "y"]));
    assert_eq!(refs(&["c"]).await, set(&["x"]), "b is deleted and c is excepted");
    let map = column_map(&f.lake, &table, "id", "updated_at").await.unwrap();
    assert_eq!(map, HashMap::from([("a".into(), 5), ("b".into(), 6)]));
}

async fn still_referenced_owned(
    lake: &Lake,
    table: &Table,
    values: BTreeSet<String>,
    except: BTreeSet<String>,
) -> BTreeSet<String> {
    still_referenced(lake, table, "name", &values, &except).await.unwrap()
}

#[tokio::test]
async fn open_windows_wait_and_discarded_ones_vanish() {
    let f = fixture();
    let table = records(Granularity::Year);
    let mut s = spill(&f, &table);
    s.most_rows = 4;
    for window in 0..3u32 {
        let rows: Vec<_> = (0..3).map(|i| row(&format!("{window}-{i}"), "x", year(i), 1)).collect();
        s.add(window, &record_batch(&rows), Timestamp::from_ms(10), u64::from(window)).unwrap();
    }
    assert!(s.pending().is_empty());
    assert_eq!(s.unmerged_windows(), BTreeSet::from([0, 1, 2]));
    s.finish(0);
    s.discard(2);
    let pending = s.pending();
    assert_eq!(
        pending.iter().map(|p| (p.value, p.rows)).collect::<Vec<_>>(),
        [(PartitionValue::Year(2023), 1), (PartitionValue::Year(2024), 1), (PartitionValue::Year(2025), 1)]
    );
    merge_all(&f, &table, &mut s, &Suppress::none()).await;
    assert_eq!(s.unmerged_windows(), BTreeSet::from([1]), "0 may be committed");
    s.finish(1);
    merge_all(&f, &table, &mut s, &Suppress::none()).await;
    assert_eq!(state(&f, &table).await.into_keys().collect::<Vec<_>>(), ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]);
    drop(s);
    assert_eq!(fs::read_dir(f.lake.scratch.join("opportunities")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_batch_of_another_shape_is_refused() {
    let f = fixture();
    let table = records(Granularity::Year);
    let mut s = spill(&f, &table);
    let short = record_batch(&[row("a", "x", year(0), 5)]).project(&[0, 1, 2]).unwrap();
    insta::assert_snapshot!(s.add(0, &short, Timestamp::from_ms(1), 1).unwrap_err(), @r"
    lever/opportunities: cannot spill incoming rows: column `count` is missing
    hint: this is a bug of hirelake; please report it
    ");
}

#[tokio::test]
async fn work_that_dies_is_an_error() {
    let at = Place { table: "lever/users".into(), partition: "tenant=acme/data.parquet".into() };
    let died = blocking::<()>(&at, "merge", || panic!("on purpose")).await.unwrap_err();
    assert!(matches!(died, LoadError::Died { .. }));
    let full = Fault::Io(std::io::ErrorKind::StorageFull.into()).at(&at, "write the spill");
    insta::assert_snapshot!(full, @r"
    lever/users (tenant=acme/data.parquet): cannot write the spill
    hint: the disk is full: free some space and run again; what was in place is unharmed
    ");
}

#[tokio::test]
async fn nothing_is_built_on_a_file_that_another_run_put_there() {
    let mut f = fixture();
    f.lake.store = Store::memory();
    let table = records(Granularity::None);
    load(&f, &table, 10, &[row("a", "x", year(0), 5)]).await;
    let path = f.lake.path(&table, PartitionValue::Whole);
    // Of equal size, so that only its version tells.
    let now = f.lake.store.version(&path).await.unwrap().unwrap();
    let body = f.lake.store.get(&path).await.unwrap().unwrap();
    f.lake.store.overwrite(&path, body).await.unwrap();
    assert!(!f.lake.store.version(&path).await.unwrap().unwrap().same(&now));
    let mut s = spill(&f, &table);
    s.add(0, &record_batch(&[row("b", "y", year(0), 6)]), Timestamp::from_ms(20), 1).unwrap();
    s.finish(0);
    let value = PartitionValue::Whole;
    let refused = merge(&f.lake, &lease(), &table, value, s.take(value), &Suppress::none()).await;
    let LoadError::Store { source, .. } = refused.unwrap_err() else { panic!() };
    assert!(matches!(*source, crate::store::StoreError::Moved { .. }), "{source}");
}
