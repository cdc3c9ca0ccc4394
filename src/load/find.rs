//! Reading a table back: rows of some keys, what is referred to, what is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, is_null, take_record_batch};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::delete::{By, Deletion, Wanted};
use super::error::{Fault, LoadError, Place};
use super::file::Existing;
use super::rows::{I64s, Keys, System};
use super::{FILE_NAME, Lake, blocking};
use crate::catalog::{PartitionValue, Table};
use crate::clock::Timestamp;
use crate::names::{ResourceName, Tenant};
use crate::store::Store;

/// What a partition's footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Which partition.
    pub value: PartitionValue,
    /// Its file.
    pub path: Path,
    /// Rows, deleted ones included.
    pub rows: u64,
    /// Rows that are not deleted.
    pub living: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// Every file of the table with the folder that it is in (empty for none), in the order of their paths.
pub(super) async fn files(lake: &Lake, table: &Table, doing: &'static str) -> Result<Vec<(String, Path)>, LoadError> {
    let folder = lake.folder(table);
    let at = lake.place(table, &folder);
    let entries = lake.store.list(&folder).await.map_err(|e| Fault::Store(e).at(&at, doing))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let Some(parts) = entry.path.prefix_match(&folder) else { continue };
        let parts: Vec<String> = parts.map(|p| p.as_ref().to_owned()).collect();
        // What is not called so is not ours.
        if let Some((_, folders)) = parts.split_last().filter(|(last, _)| *last == FILE_NAME) {
            files.insert(entry.path.to_string(), (folders.join("/"), entry.path));
        }
    }
    Ok(files.into_values().collect())
}

/// The partitions that exist, in order.
///
/// # Errors
///
/// [`LoadError::Layout`] when a file lies in a folder of another layout: its rows must not be overlooked.
pub(super) async fn partitions(
    lake: &Lake,
    table: &Table,
    doing: &'static str,
) -> Result<BTreeSet<PartitionValue>, LoadError> {
    let mut values = BTreeSet::new();
    for (folder, path) in files(lake, table, doing).await? {
        let value = table.layout.parse_folder(&folder).ok_or_else(|| LoadError::Layout {
            at: lake.place(table, &path),
            doing,
            expected: table.layout.granularity.to_string(),
        })?;
        values.insert(value);
    }
    Ok(values)
}

/// Opens each partition in turn and reads `columns` of it (only of `wanted` rows' row groups, where given); `each` gets the
/// batch, the wanted keys of it, and whether the row is living.
async fn scan<T: Send + 'static>(
    lake: &Lake,
    table: &Table,
    columns: &[usize],
    wanted: Option<Arc<Wanted>>,
    doing: &'static str,
    each: impl Fn(&Scanned, &mut Vec<T>) -> Result<(), Fault> + Clone + Send + 'static,
) -> Result<Vec<T>, LoadError> {
    let mut all = Vec::new();
    for value in partitions(lake, table, doing).await? {
        let path = lake.path(table, value);
        let at = lake.place(table, &path);
        let Some(opened) = lake.store.open_file(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else {
            continue;
        };
        let (table, columns, wanted, each) = (table.clone(), columns.to_vec(), wanted.clone(), each.clone());
        let mut some = blocking(&at, doing, move || {
            let existing = Existing::open(&opened.file, &table)?;
            let groups = wanted.as_ref().map(|w| w.groups(&existing, &table)).transpose()?;
            let mut found = Vec::new();
            if groups.as_ref().is_some_and(Vec::is_empty) {
                return Ok(found);
            }
            let deleted = System::of(&table)?.deleted;
            let mut read: Vec<usize> = columns;
            read.extend(&table.order.key);
            read.push(deleted);
            read.sort_unstable();
            read.dedup();
            let reader = existing.read_some(&table, &read, groups)?;
            let held = reader.held.clone();
            for batch in reader {
                let batch = batch?;
                let scanned = Scanned {
                    keys: held.keys(&batch, &table.order.key)?,
                    deleted: I64s::new(held.column(&batch, deleted)?, "_deleted_at")?,
                    batch,
                };
                each(&scanned, &mut found)?;
            }
            Ok(found)
        })
        .await?;
        all.append(&mut some);
    }
    Ok(all)
}

struct Scanned {
    batch: RecordBatch,
    keys: Keys,
    deleted: I64s,
}

impl Scanned {
    fn living(&self, i: usize) -> bool {
        self.deleted.get(i).is_none()
    }
    fn column(&self, name: &str) -> Result<&arrow::array::ArrayRef, Fault> {
        self.batch.column_by_name(name).ok_or_else(|| Fault::Batch(format!("the table has no column `{name}`")))
    }
}

fn index(lake: &Lake, table: &Table, name: &str, doing: &'static str) -> Result<usize, LoadError> {
    table.schema.index_of(name).map_err(|e| Fault::Arrow(e).at(&lake.place(table, &lake.folder(table)), doing))
}

/// The given columns of the rows of those keys, deleted rows included. Columns come in the table's order.
///
/// # Errors
///
/// [`LoadError`].
pub async fn select(
    lake: &Lake,
    table: &Table,
    columns: &[&str],
    keys: &BTreeSet<String>,
) -> Result<RecordBatch, LoadError> {
    let doing = "read rows by their keys";
    let mut wished: Vec<usize> = Vec::new();
    for name in columns {
        wished.push(index(lake, table, name, doing)?);
    }
    wished.sort_unstable();
    wished.dedup();
    let at = lake.place(table, &lake.folder(table));
    let schema = table.schema.project(&wished).map(Arc::new).map_err(|e| Fault::Arrow(e).at(&at, doing))?;
    let wanted = Arc::new(Wanted::any(table, By::Key, keys.iter().cloned()));
    let (out, test) = (Arc::clone(&schema), Arc::clone(&wanted));
    let batches = scan(lake, table, &wished, Some(wanted), doing, move |s, found| {
        let rows: Vec<u32> = (0..s.batch.num_rows())
            .filter(|&i| test.names(&s.keys, i))
            .map(|i| u32::try_from(i).unwrap_or(u32::MAX))
            .collect();
        if !rows.is_empty() {
            let some = take_record_batch(&s.batch, &UInt32Array::from(rows))?;
            let columns = out.fields().iter().filter_map(|f| some.column_by_name(f.name()).cloned()).collect();
            found.push(RecordBatch::try_new(Arc::clone(&out), columns)?);
        }
        Ok(())
    })
    .await?;
    concat_batches(&schema, &batches).map_err(|e| Fault::Arrow(e).at(&at, doing))
}

/// Which of `values` a living row's `column` holds, rows of `except_keys` aside.
///
/// # Errors
///
/// [`LoadError`].
pub async fn still_referenced(
    lake: &Lake,
    table: &Table,
    column: &str,
    values: &BTreeSet<String>,
    except_keys: &BTreeSet<String>,
) -> Result<BTreeSet<String>, LoadError> {
    if values.is_empty() {
        return Ok(BTreeSet::new());
    }
    let doing = "look for rows that refer to deleted ones";
    let i = index(lake, table, column, doing)?;
    let (name, values, except) = (column.to_owned(), values.clone(), except_keys.clone());
    let found = scan(lake, table, &[i], None, doing, move |s, found| {
        let refs = Keys::new(vec![Arc::clone(s.column(&name)?)])?;
        let mut seen = BTreeSet::new();
        for i in (0..s.batch.num_rows()).filter(|&i| s.living(i)) {
            let value = refs.get(i);
            if values.contains(value.as_ref()) && !except.contains(s.keys.get(i).as_ref()) {
                seen.insert(value.into_owned());
            }
        }
        found.extend(seen);
        Ok(())
    })
    .await?;
    Ok(found.into_iter().collect())
}

/// Keys of `table`'s living rows to which no living row of `from` refers in `column`. Of every reference only a hash is held:
/// of two that share one, one row is kept that should go, once in billions.
///
/// # Errors
///
/// [`LoadError`].
pub async fn unreferenced(
    lake: &Lake,
    table: &Table,
    from: &Table,
    column: &str,
) -> Result<BTreeSet<String>, LoadError> {
    let doing = "look for rows to which nothing refers";
    let (i, name) = (index(lake, from, column, doing)?, column.to_owned());
    let refs = scan(lake, from, &[i], None, doing, move |s, found| {
        let refs = Keys::new(vec![Arc::clone(s.column(&name)?)])?;
        found.extend((0..s.batch.num_rows()).filter(|&i| s.living(i)).map(|i| refs.hash(i)));
        Ok(())
    })
    .await?;
    let refs: Arc<HashSet<u64>> = Arc::new(refs.into_iter().collect());
    let found = scan(lake, table, &[], None, doing, move |s, found| {
        let orphan = |i: &usize| s.living(*i) && !refs.contains(&s.keys.hash(*i));
        found.extend((0..s.batch.num_rows()).filter(orphan).map(|i| s.keys.get(i).into_owned()));
        Ok(())
    })
    .await?;
    Ok(found.into_iter().collect())
}

/// The rows of deleted parents in a table of children, as deletions of their own.
///
/// # Errors
///
/// [`LoadError`].
pub async fn keys_of_parents(lake: &Lake, table: &Table, parents: &[Deletion]) -> Result<Vec<Deletion>, LoadError> {
    let doing = "look for the children of deleted parents";
    let Some(parent) = table.order.parent else { return Ok(Vec::new()) };
    let at: Arc<HashMap<String, Timestamp>> = Arc::new(parents.iter().map(|d| (d.key.clone(), d.at)).collect());
    let wanted = Arc::new(Wanted::any(table, By::Parent, at.keys().cloned()));
    let name = table.schema.field(parent).name().clone();
    scan(lake, table, &[parent], Some(wanted), doing, move |s, found| {
        let parents = Keys::new(vec![Arc::clone(s.column(&name)?)])?;
        for i in 0..s.batch.num_rows() {
            if let Some(at) = at.get(parents.get(i).as_ref()) {
                found.push(Deletion { key: s.keys.get(i).into_owned(), at: *at });
            }
        }
        Ok(())
    })
    .await
}

/// The partitions that exist, in order.
///
/// # Errors
///
/// [`LoadError`].
pub async fn partition_values(lake: &Lake, table: &Table) -> Result<BTreeSet<PartitionValue>, LoadError> {
    partitions(lake, table, "list the partitions").await
}

/// The given columns of one partition's living rows, in the file's order; none when there is no file. Columns come in the
/// table's order.
///
/// # Errors
///
/// [`LoadError`].
pub async fn living_rows(
    lake: &Lake,
    table: &Table,
    value: PartitionValue,
    columns: &[&str],
) -> Result<Vec<RecordBatch>, LoadError> {
    rows_of(lake, table, value, columns, true).await
}

/// The same of all rows, deleted ones included.
///
/// # Errors
///
/// [`LoadError`].
pub async fn all_rows(
    lake: &Lake,
    table: &Table,
    value: PartitionValue,
    columns: &[&str],
) -> Result<Vec<RecordBatch>, LoadError> {
    rows_of(lake, table, value, columns, false).await
}

async fn rows_of(
    lake: &Lake,
    table: &Table,
    value: PartitionValue,
    columns: &[&str],
    only_living: bool,
) -> Result<Vec<RecordBatch>, LoadError> {
    let doing = "read the rows of a partition";
    let path = lake.path(table, value);
    let at = lake.place(table, &path);
    let mut wished = Vec::with_capacity(columns.len());
    for name in columns {
        wished.push(index(lake, table, name, doing)?);
    }
    wished.sort_unstable();
    wished.dedup();
    let Some(opened) = lake.store.open_file(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else {
        return Ok(Vec::new());
    };
    let table = table.clone();
    blocking(&at, doing, move || {
        let existing = Existing::open(&opened.file, &table)?;
        let deleted = System::of(&table)?.deleted;
        let schema = Arc::new(table.schema.project(&wished)?);
        let mut read = wished.clone();
        read.push(deleted);
        read.sort_unstable();
        read.dedup();
        let reader = existing.read_some(&table, &read, None)?;
        let held = reader.held.clone();
        let mut all = Vec::new();
        for batch in reader {
            let batch = batch?;
            let living = is_null(held.column(&batch, deleted)?)?;
            let kept = wished.iter().map(|&i| held.column(&batch, i).cloned()).collect::<Result<Vec<_>, _>>()?;
            let kept = RecordBatch::try_new(Arc::clone(&schema), kept)?;
            let whole = !only_living || living.true_count() == kept.num_rows();
            all.push(if whole { kept } else { filter_record_batch(&kept, &living)? });
        }
        Ok(all)
    })
    .await
}

/// Keys of every living row. For tables of look-ups: all of them are held.
///
/// # Errors
///
/// [`LoadError`].
pub async fn living_keys(lake: &Lake, table: &Table) -> Result<BTreeSet<String>, LoadError> {
    let found = scan(lake, table, &[], None, "read the table's keys", |s, found| {
        found.extend((0..s.batch.num_rows()).filter(|&i| s.living(i)).map(|i| s.keys.get(i).into_owned()));
        Ok(())
    })
    .await?;
    Ok(found.into_iter().collect())
}

/// From the text column `key` to the latest time (epoch ms) in `ts_column`, over all rows that have both: of a table of
/// tombstones, what is deleted and when.
///
/// # Errors
///
/// [`LoadError`].
pub async fn column_map(
    lake: &Lake,
    table: &Table,
    key: &str,
    ts_column: &str,
) -> Result<HashMap<String, i64>, LoadError> {
    let doing = "read the tombstones";
    let columns = [index(lake, table, key, doing)?, index(lake, table, ts_column, doing)?];
    let (key, ts) = (key.to_owned(), ts_column.to_owned());
    let found = scan(lake, table, &columns, None, doing, move |s, found| {
        let column = s.column(&key)?;
        let (keys, times) = (Keys::new(vec![Arc::clone(column)])?, I64s::new(s.column(&ts)?, &ts)?);
        for i in (0..s.batch.num_rows()).filter(|&i| !column.is_null(i)) {
            if let Some(us) = times.get(i) {
                found.push((keys.get(i).into_owned(), us.div_euclid(1000)));
            }
        }
        Ok(())
    })
    .await?;
    let mut map = HashMap::with_capacity(found.len());
    for (key, ms) in found {
        let latest = map.entry(key).or_insert(ms);
        *latest = ms.max(*latest);
    }
    Ok(map)
}

/// Rows and bytes of every partition, from the footers.
///
/// # Errors
///
/// [`LoadError`].
pub async fn figures(lake: &Lake, table: &Table) -> Result<Vec<Figures>, LoadError> {
    let doing = "read the partition's footer";
    let mut all = Vec::new();
    for value in partitions(lake, table, doing).await? {
        let path = lake.path(table, value);
        let at = lake.place(table, &path);
        if let Some(opened) = lake.store.open_file(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? {
            let bytes = opened.version.bytes;
            let table = table.clone();
            let (rows, living) = blocking(&at, doing, move || {
                let file = Existing::open(&opened.file, &table)?;
                Ok((file.rows(), file.living()))
            })
            .await?;
            all.push(Figures { value, path, rows, living, bytes });
        }
    }
    Ok(all)
}

/// Every row of a tenant's table as its files have them, in the order of their paths. Holds all of it: for tests and for
/// `verify`.
///
/// # Errors
///
/// [`LoadError`].
pub async fn read_table(
    store: &Store,
    provider: &ResourceName,
    resource: &ResourceName,
    tenant: &Tenant,
) -> Result<Vec<RecordBatch>, LoadError> {
    let doing = "read the table";
    let folder = Path::from(format!("{provider}/{resource}/tenant={tenant}"));
    let at = |path: &Path| Place { table: format!("{provider}/{resource}").into(), partition: path.as_ref().into() };
    let mut paths: Vec<Path> = store
        .list(&folder)
        .await
        .map_err(|e| Fault::Store(e).at(&at(&folder), doing))?
        .into_iter()
        .map(|e| e.path)
        .filter(|p| p.filename() == Some(FILE_NAME))
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let at = at(&path);
        let Some(opened) = store.open_file(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else { continue };
        let mut batches = blocking(&at, doing, move || {
            let reader = ParquetRecordBatchReaderBuilder::try_new(opened.file.try_clone()?)?.build()?;
            Ok(reader.collect::<Result<Vec<_>, _>>()?)
        })
        .await?;
        all.append(&mut batches);
    }
    Ok(all)
}
