//! The lake held against the catalogue and the newest commits: every file opens with the catalogue's columns, is sorted, holds
//! what belongs there and as much as its commit says; no key stands twice; nothing lies there that no commit knows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::Int64Type;
use object_store::path::Path;
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash64;

use super::files::{self, Found};
use super::person::{scan, text};
use super::{Gathered, PIECE_BYTES, search};
use crate::catalog::{ColumnType, DELETED_AT, Resource, Table};
use crate::load::{FILE_NAME, Judged, Lake, judge as judge_partition, look};
use crate::names::{ResourceName, Tenant};
use crate::state::{Commit, State};
use crate::store::StoreError;
use crate::sync::{SyncError, World, layouts_agree, ledger, left_in_scratch};

const SYNC: &str = "run `hirelake sync`: a run that was killed between a file and its commit is mended by the next";
/// Documents lie below this folder.
const DOCUMENTS: &str = "files/";
const FULL: &str = "move the table's files away and run `hirelake sync --full` for the resource";

pub(super) async fn judge(world: &World, state: &State, tenant: &Tenant, all: &mut Gathered) -> Result<(), SyncError> {
    // Good files would be told as strangers.
    layouts_agree(&world.config, state).await?;
    let provider = &world.config.provider;
    let files = files::all(&world.lake, tenant).await?;
    let mut known: BTreeMap<ResourceName, Vec<&Found>> = BTreeMap::new();
    for file in &files {
        match file.resource(provider) {
            Some(resource) => known.entry(resource.name.clone()).or_default().push(file),
            // Documents are no tables.
            None if file.table.starts_with(DOCUMENTS) => {}
            None => {
                let hint = "if the catalogue once had the table, give the resource back or remove its folder; a sync does not touch it";
                all.find((&file.table, &file.rest, ""), 1, "a file of no table of the catalogue", hint);
            }
        }
    }
    for name in state.committed_resources(tenant).await? {
        known.entry(name).or_default();
    }
    let mut keys: BTreeMap<ResourceName, Vec<u64>> = BTreeMap::new();
    for (name, files) in &known {
        let commit = state.commits(tenant, name).last::<Commit>().await?.map(|c| c.body);
        let Some(resource) = provider.resource(name.as_str()) else {
            all.notes.insert(format!("the state has commits of {name}, which the catalogue does not have"));
            continue;
        };
        let table = Arc::new(world.config.table(resource)?);
        keys.insert(name.clone(), one_table(world, tenant, (resource, &table), files, commit.as_ref(), all).await);
    }
    for (name, files) in &known {
        if let Some(resource) = provider.resource(name.as_str()).filter(|_| !files.is_empty()) {
            loose_ends(world, files, resource, &keys, all).await;
        }
    }
    documents(world, &files, all).await?;
    ledgers(world, tenant, all).await?;
    let staged = world.lake.owned_by(tenant.as_str()).staged()?.len() + left_in_scratch(world, tenant)?.1.len();
    if staged > 0 {
        all.notes.insert(format!("unfinished files of a killed run, which the next sync removes: {staged}"));
    }
    uploads(world, tenant, state, all).await
}

/// Uploads in parts that no run ended: they hold room in a bucket that no listing shows.
async fn uploads(world: &World, tenant: &Tenant, state: &State, all: &mut Gathered) -> Result<(), SyncError> {
    for (_, upload) in state.uploads(tenant).await? {
        let ours = [&world.lake, &world.state].iter().any(|s| s.url() == upload.store);
        all.notes.insert(if ours {
            format!("an unfinished upload of {}, which the next sync ends", upload.path)
        } else {
            format!(
                "an unfinished upload of {} in {}, which is no longer configured: end it there by hand",
                upload.path, upload.store
            )
        });
    }
    Ok(())
}

/// Judges every partition of a table. Gives the hashes of its keys, in order.
async fn one_table(
    world: &World,
    tenant: &Tenant,
    (resource, table): (&Resource, &Arc<Table>),
    files: &[&Found],
    commit: Option<&Commit>,
    all: &mut Gathered,
) -> Vec<u64> {
    let name = format!("{}/{}", table.provider, table.resource);
    let lake = Lake::new(world.lake.clone(), tenant.clone(), world.config.scratch.clone());
    let mut keys: Vec<u64> = Vec::new();
    let mut there: BTreeSet<String> = BTreeSet::new();
    for file in files {
        let place = (name.as_str(), file.rest.as_str(), "");
        let value = table.layout.parse_folder(file.folder()).filter(|_| file.name() == FILE_NAME);
        let Some(value) = value else {
            let hint =
                "a sync did not put it there, or the table was cut otherwise: remove it, or `hirelake relay` the table";
            all.find(place, 1, format!("no file of a table cut by {}", table.layout.granularity), hint);
            continue;
        };
        there.insert(file.folder().to_owned());
        match judge_partition(&lake, table, &resource.key, value).await {
            Ok(None) => {}
            Ok(Some(judged)) => {
                all.searched.files += 1;
                all.searched.rows += judged.rows;
                one_partition(place, &judged, commit, file.folder(), all);
                keys.extend(judged.keys);
            }
            Err(error) => all.unreadable(place, &error),
        }
    }
    for (folder, figures) in commit.into_iter().flat_map(|c| &c.partitions) {
        if figures.version.is_some() && !there.contains(folder) {
            let what = "the newest commit speaks of a file that is not there";
            all.find((&name, folder, ""), figures.rows, what, "run `hirelake sync`: it reads again what was in it");
        }
    }
    keys.sort_unstable();
    let twice = keys.windows(2).filter(|w| w[0] == w[1]).count() as u64;
    if twice > 0 {
        all.find((&name, "", &resource.key.join(", ")), twice, "keys that stand more than once", FULL);
    }
    keys
}

fn one_partition(
    place: (&str, &str, &str),
    judged: &Judged,
    commit: Option<&Commit>,
    folder: &str,
    all: &mut Gathered,
) {
    if judged.unsorted > 0 {
        all.find(place, judged.unsorted, "rows that are not in the table's order", FULL);
    }
    if judged.misplaced > 0 {
        all.find(place, judged.misplaced, "rows that belong into another partition, or have no key", FULL);
    }
    if judged.lacks > 0 {
        all.notes.insert(format!(
            "{}: the catalogue has {} more columns than the files, which the next sync adds",
            place.0, judged.lacks
        ));
    }
    let Some(said) = commit.and_then(|c| c.partitions.get(folder)) else {
        all.find(place, judged.rows, "a file that no commit knows", SYNC);
        return;
    };
    let bytes = said.version.as_ref().map(|v| v.bytes);
    if (said.rows, said.living) != (judged.rows, judged.living) {
        let what = format!(
            "{} rows, {} of them living, where the newest commit says {} and {}",
            judged.rows, judged.living, said.rows, said.living
        );
        all.find(place, judged.rows.abs_diff(said.rows).max(judged.living.abs_diff(said.living)), what, SYNC);
    } else if bytes != Some(judged.version.bytes) {
        let what = "another size than the newest commit says: the file was replaced by something else";
        all.find(place, judged.version.bytes, what, SYNC);
    }
}

/// References that lead to no row: what they name was deleted before it was ever read, may not be seen, or is not read.
async fn loose_ends(
    world: &World,
    files: &[&Found],
    resource: &Resource,
    keys: &BTreeMap<ResourceName, Vec<u64>>,
    all: &mut Gathered,
) {
    let refs = resource.columns.iter().filter(|c| c.ty == ColumnType::Ref);
    for column in refs {
        let target = resource.target_of(column).filter(|t| keys.get(t).is_some_and(|k| !k.is_empty()));
        let Some(target) = target else { continue };
        let known = Arc::new(keys[&target].clone());
        let name = column.name.clone();
        let files: Vec<Found> = files.iter().map(|f| (*f).clone()).collect();
        let columns = [column.name.as_str(), DELETED_AT];
        let loose = scan(&world.lake, &world.config.provider, &files, resource, &columns, move |batch, i| {
            let living = batch.column_by_name(DELETED_AT).is_none_or(|c| c.is_null(i));
            let id = text(batch, &name, i).filter(|_| living)?;
            known.binary_search(&XxHash64::oneshot(0, id.as_bytes())).is_err().then_some(())
        });
        let loose = loose.await.len();
        if loose > 0 {
            let of = &resource.name;
            all.notes.insert(format!("living rows of {of} whose {} is no row of {target}: {loose}", column.name));
        }
    }
}

/// Every document is there and is what its row tells, and each belongs to a row.
async fn documents(world: &World, files: &[Found], all: &mut Gathered) -> Result<(), SyncError> {
    let provider = &world.config.provider;
    let mut strangers: BTreeMap<&str, &Found> =
        files.iter().filter(|f| f.table.starts_with(DOCUMENTS)).map(|f| (f.path.as_ref(), f)).collect();
    for resource in provider.resources.iter().filter(|r| r.content.is_some()) {
        let columns = ["path", "bytes", "sha256"];
        let told = scan(&world.lake, provider, files, resource, &columns, |batch, i| {
            let bytes = batch.column_by_name("bytes").and_then(|c| c.as_primitive_opt::<Int64Type>());
            let bytes = bytes.filter(|b| b.is_valid(i)).and_then(|b| u64::try_from(b.value(i)).ok());
            Some((text(batch, "path", i)?, bytes, text(batch, "sha256", i)))
        });
        let (mut missing, mut other) = (0, 0);
        for (path, bytes, sha256) in told.await {
            let Some(opened) = world.lake.open_file(&Path::from(path.as_str())).await? else {
                missing += 1;
                continue;
            };
            strangers.remove(path.as_str());
            all.searched.files += 1;
            let hashed = tokio::task::spawn_blocking(move || hash_of(opened.file));
            let io = |source| StoreError::Io { op: "read", path: path.as_str().into(), source };
            let (length, hash) = hashed.await.map_err(|e| io(std::io::Error::other(e)))?.map_err(io)?;
            other += u64::from(bytes.is_some_and(|b| b != length) || sha256.is_some_and(|told| told != hash));
        }
        let table = format!("{}/{}", provider.name, resource.name);
        if missing > 0 {
            all.find(
                (&table, "", "path"),
                missing,
                "documents are not there",
                "run `hirelake sync`: it downloads them again",
            );
        }
        if other > 0 {
            let hint = "something else wrote there: remove these files, and `hirelake sync` downloads them again";
            all.find((&table, "", "sha256"), other, "documents are not what their rows tell", hint);
        }
    }
    for file in strangers.into_values() {
        let hint = "run `hirelake sync`: it removes documents that no row names";
        all.find((&file.table, &file.rest, ""), 1, "a document that no row names", hint);
    }
    Ok(())
}

/// Length and SHA-256 of a file.
fn hash_of(mut file: std::fs::File) -> std::io::Result<(u64, String)> {
    let (mut hash, mut length, mut piece) = (Sha256::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok((length, hash.finalize().iter().map(|b| format!("{b:02x}")).collect()));
        }
        hash.update(&piece[..n]);
        length += n as u64;
    }
}

/// The ledgers of children can be read to their end.
async fn ledgers(world: &World, tenant: &Tenant, all: &mut Gathered) -> Result<(), SyncError> {
    let own = format!("tenant={tenant}");
    for child in world.state.folders(&Path::from(ledger::FOLDER)).await? {
        let name = format!("{}/{child}", ledger::FOLDER);
        let folder = Path::from_iter([ledger::FOLDER, &child, &own]);
        for entry in world.state.list(&folder).await? {
            let read = look(&world.state, &entry.path, |l| {
                for column in ["id", "read_at"] {
                    l.schema().index_of(column)?;
                }
                for group in 0..l.groups() {
                    for batch in l.read(group, None)? {
                        let batch = batch?;
                        debug_assert!(batch.columns().iter().all(|c| search::is_known(c.data_type())));
                    }
                }
                Ok(())
            });
            if let Err(error) = read.await {
                let rest = entry.path.prefix_match(&folder).map(|p| Path::from_iter(p).to_string()).unwrap_or_default();
                all.unreadable((&name, &rest, ""), &error);
            }
        }
    }
    Ok(())
}
