//! Changes of a table's shape (new columns) and of its layout (another granularity).

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::path::Path;

use super::error::{Fault, LoadError};
use super::file::{Existing, LAYOUT_KEY, Writer};
use super::find::{figures, files, partitions};
use super::merge::{Suppress, merge_into_nothing};
use super::rows::Source;
use super::spill::Spill;
use super::{Lake, blocking, put};
use crate::catalog::{Granularity, Layout, PartitionValue, Table};
use crate::state::Lease;
use crate::store::Version;

/// Rewrites every file that lacks columns of the table, with nulls there, so that one glob never mixes shapes. Gives how
/// many files were rewritten.
///
/// # Errors
///
/// [`LoadError::Shape`] when a column of a file has another name, type or place in the table.
pub async fn bring_forward(lake: &Lake, lease: &Lease, table: &Table) -> Result<u64, LoadError> {
    let doing = "bring the partition's columns up to the catalogue's";
    let mut rewritten = 0;
    for value in partitions(lake, table, doing).await? {
        let path = lake.path(table, value);
        let at = lake.place(table, &path);
        let Some(base) = lake.base(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else {
            continue;
        };
        let (table_, store) = (table.clone(), lake.store.clone());
        let (base, written) = blocking(&at, doing, move || {
            let existing = Existing::open(&base.file, &table_)?;
            if existing.columns == table_.schema.fields().len() {
                return Ok((base.version.clone(), None));
            }
            let mut writer = Writer::new(&store, &table_)?;
            for batch in existing.read(&table_)? {
                let source = Source::new(batch?);
                for i in 0..source.batch.num_rows() {
                    writer.pick(&source, i)?;
                }
            }
            Ok((base.version.clone(), Some(writer.finish()?)))
        })
        .await?;
        if let Some(written) = written {
            put(lake, lease, &at, &path, written.staged, Some(&base)).await?;
            rewritten += 1;
        }
    }
    Ok(rewritten)
}

/// How the files of a table are found to be cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Granularities of the files; empty for a table without files, more than one while it is being re-laid.
    pub granularities: Vec<Granularity>,
    /// Folders that no granularity explains.
    pub strangers: Vec<String>,
    /// Files in all.
    pub files: u64,
}

impl Found {
    /// Whether the table may be written under `wanted`: it has no files, or all of them are cut that way.
    #[must_use]
    pub fn agrees(&self, wanted: Granularity) -> bool {
        self.strangers.is_empty() && self.granularities.iter().all(|g| *g == wanted)
    }
}

/// Looks how the table's files are cut, so that a changed configuration is refused before anything is written.
///
/// # Errors
///
/// [`LoadError`].
pub async fn layout_found(lake: &Lake, table: &Table) -> Result<Found, LoadError> {
    let doing = "look how the table is cut into files";
    let mut found = Found::default();
    for (folder, path) in files(lake, table, doing).await? {
        found.files += 1;
        let granularity = match kind_of(table, &folder) {
            // Only the footer knows into how many buckets it was cut.
            Some(Granularity::Bucket(_)) => buckets(lake, table, &path, doing).await?,
            other => other,
        };
        match granularity {
            Some(g) if !found.granularities.contains(&g) => found.granularities.push(g),
            Some(_) => {}
            None => found.strangers.push(folder),
        }
    }
    Ok(found)
}

/// The granularity that a folder's name tells; the number of buckets is not told by it.
fn kind_of(table: &Table, folder: &str) -> Option<Granularity> {
    [Granularity::None, Granularity::Year, Granularity::Month, Granularity::Bucket(u16::MAX)].into_iter().find(
        |&granularity| {
            Layout { label: table.layout.label.clone(), granularity, column: None }.parse_folder(folder).is_some()
        },
    )
}

async fn buckets(
    lake: &Lake,
    table: &Table,
    path: &Path,
    doing: &'static str,
) -> Result<Option<Granularity>, LoadError> {
    let at = lake.place(table, path);
    let Some(opened) = lake.store.open_file(path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else {
        return Ok(None);
    };
    let table = table.clone();
    blocking(&at, doing, move || {
        let existing = Existing::open(&opened.file, &table)?;
        Ok(existing.footer(LAYOUT_KEY).and_then(|text| text.parse().ok()))
    })
    .await
}

/// What a re-laying did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relaid {
    /// Files before.
    pub files_before: u64,
    /// Files now.
    pub files_after: u64,
    /// Rows now.
    pub rows: u64,
}

/// Re-lays this tenant's table into the layout of `table`, whatever granularity its files have now.
///
/// All new files are written first, in the private spill and in staging. Then they are put in place one by one, and only
/// then are the old ones removed one by one. From the first to the last of these renames and removals a reader finds two
/// layouts side by side: it may see a row twice or be refused by an engine that insists on one layout; it never misses a
/// row. A crash anywhere is mended by running it again: whatever files of both layouts are there are read together, and a
/// row that is in two of them is taken once. From one number of buckets to another it goes by way of a single file, since
/// the two layouts share their folders' names.
///
/// # Errors
///
/// [`LoadError`]; no row is lost, and running it again goes on. [`LoadError::Layout`] when a folder is of no layout.
pub async fn relay(lake: &Lake, lease: &Lease, table: &Table) -> Result<Relaid, LoadError> {
    let found = layout_found(lake, table).await?;
    let wanted = table.layout.granularity;
    if found.agrees(wanted) {
        let rows = figures(lake, table).await?.iter().map(|f| f.rows).sum();
        return Ok(Relaid { files_before: found.files, files_after: found.files, rows });
    }
    let other_buckets = found.granularities.iter().any(|g| matches!(g, Granularity::Bucket(_)) && *g != wanted);
    if other_buckets && matches!(wanted, Granularity::Bucket(_)) {
        let mut whole = table.clone();
        whole.layout.granularity = Granularity::None;
        whole.layout.column = None;
        step(lake, lease, &whole).await?;
    }
    let relaid = step(lake, lease, table).await?;
    Ok(Relaid { files_before: found.files, ..relaid })
}

/// One change to a layout whose folders' names no file of another layout has.
async fn step(lake: &Lake, lease: &Lease, new: &Table) -> Result<Relaid, LoadError> {
    let doing = "re-lay the table";
    let table = Arc::new(new.clone());
    let dir = lake.scratch.join(format!("relay-{}", new.resource));
    let mut spill = Spill::new(Arc::clone(&table), dir)?;
    let mut relaid = Relaid::default();
    let mut leftovers = Vec::new();
    for (seq, (folder, path)) in (0..).zip(files(lake, new, doing).await?) {
        relaid.files_before += 1;
        let at = lake.place(new, &path);
        if kind_of(new, &folder).is_none() {
            return Err(LoadError::Layout { at, doing, expected: new.layout.granularity.to_string() });
        }
        let Some(opened) = lake.store.open_file(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))? else {
            continue;
        };
        let table = Arc::clone(&table);
        spill = blocking(&at, doing, move || {
            for batch in Existing::open(&opened.file, &table)?.read(&table)? {
                spill.add_stored(0, &batch?, seq)?;
            }
            Ok(spill)
        })
        .await?;
        // Files of the new layout, left by a run that was killed, are replaced below.
        if new.layout.parse_folder(&folder).is_none() {
            leftovers.push((at, path));
        }
    }
    spill.finish(0);

    let mut ready = Vec::new();
    let values: BTreeSet<PartitionValue> = spill.pending().into_iter().map(|p| p.value).collect();
    for value in values {
        let path = lake.path(new, value);
        let at = lake.place(new, &path);
        let base: Option<Version> = lake.store.version(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))?;
        let runs = spill.take(value);
        let (table, store) = (new.clone(), lake.store.clone());
        let written = blocking(&at, doing, move || merge_into_nothing(&table, &store, runs, &Suppress::none())).await?;
        if let Some(written) = written {
            relaid.rows += written.rows;
            ready.push((at, path, written.staged, base));
        }
    }
    relaid.files_after = ready.len() as u64;
    for (at, path, staged, base) in ready {
        put(lake, lease, &at, &path, staged, base.as_ref()).await?;
    }
    for (at, path) in leftovers {
        lease.ensure().await.map_err(|e| Fault::Lease(e).at(&at, doing))?;
        lake.store.remove(&path).await.map_err(|e| Fault::Store(e).at(&at, doing))?;
    }
    Ok(relaid)
}
