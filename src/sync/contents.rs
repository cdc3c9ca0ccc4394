//! Documents: downloaded once into the lake's `files/`, each with a row of its table that tells of it.
//!
//! A document is durable before its row; whatever lies there without a living row that names it is swept, so that what is
//! deleted at the provider goes here too, whatever was cut in between.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::Int64Type;
use object_store::path::Path;
use sha2::{Digest as _, Sha256};

use super::ledger::Turn;
use super::{Done, SyncError, TenantRun};
use crate::catalog::{Content, Document, Resource};
use crate::extract::{self, ExtractError};
use crate::http::Priority;
use crate::load::{self, By, Deletion};
use crate::report::{Outcome, ResourceReport};
use crate::state::{Commit, CommitKind};
use crate::transform::{Decoder, Parent};

/// First folder of the documents in the lake.
pub const FOLDER: &str = "files";
/// Documents under way at once, each held whole: 64 MB at the most.
pub(super) const AT_ONCE: usize = 2;

/// What came of a parent's documents.
pub(super) struct Fetched {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    pub(super) rows: Vec<arrow::array::RecordBatch>,
    pub(super) end: Result<(), ExtractError>,
}

/// Columns of the parent that are needed beside those that rows are filled from.
pub(super) fn columns(content: &Content) -> impl Iterator<Item = &str> {
    content.documents.iter().filter_map(|d| d.when.as_deref()).chain(content.ext.as_deref())
}

/// Downloads what there is of a parent.
pub(super) async fn fetch(
    run: &Arc<TenantRun>,
    resource: &Resource,
    carrier: &Resource,
    content: &Content,
    turn: &Turn,
    urgent: Priority,
) -> Result<Fetched, SyncError> {
    let decoder = Decoder::of_children(resource, carrier);
    let above = turn.above(carrier).unwrap_or_default();
    let mut fetched = Fetched { requests: 0, bytes: 0, rows: Vec::new(), end: Ok(()) };
    for document in &content.documents {
        let there = document.when.as_deref().and_then(|w| turn.batch.column_by_name(w));
        if there.is_some_and(|c| c.is_null(turn.row as usize)) {
            continue;
        }
        let (requests, came) =
            extract::document(run.session_of(&resource.name), resource, &above, &turn.id, &document.query, urgent)
                .await;
        fetched.requests += requests;
        let came = match came {
            Ok(came) => came,
            Err(error) => {
                fetched.end = Err(error);
                return Ok(fetched);
            }
        };
        let parent = Parent { batch: &turn.batch, row: turn.row };
        let which = ("document", document.name.as_deref());
        let row = match came {
            extract::Document::Whole { body, content_type } => {
                fetched.bytes += body.len() as u64;
                let ext = content.ext.as_deref().and_then(|name| turn.text(name));
                let path = place(run, carrier, &above, &turn.id, document, ext.as_deref());
                let sha256: String = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
                let bytes = i64::try_from(body.len()).unwrap_or(i64::MAX);
                run.lease.ensure().await?;
                run.lake.store.put_document(&path, body).await?;
                let texts = [
                    which,
                    ("status", Some("stored")),
                    ("path", Some(path.as_ref())),
                    ("sha256", Some(sha256.as_str())),
                    ("content_type", content_type.as_deref()),
                ];
                decoder.made_row(parent, &texts, &[("bytes", Some(bytes))])
            }
            other => {
                let status = match other {
                    extract::Document::Unprocessable => "unprocessable",
                    extract::Document::TooLarge => "too_large",
                    _ => "missing",
                };
                decoder.made_row(parent, &[which, ("status", Some(status))], &[])
            }
        };
        let row = row.map_err(|e| SyncError::Rows { what: resource.name.to_string(), why: e.to_string() })?;
        fetched.rows.push(row);
    }
    Ok(fetched)
}

/// `files/lever/offers/tenant=acme/<opportunity>/<offer>-signed.pdf`. Ids and endings that would not be safe in a path are
/// replaced by their hash, or left out.
fn place(run: &TenantRun, carrier: &Resource, above: &str, id: &str, document: &Document, ext: Option<&str>) -> Path {
    let safe = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        match !text.is_empty() && text.len() <= 100 && text.bytes().all(plain) {
            true => text.to_owned(),
            false => Sha256::digest(text).iter().take(16).map(|b| format!("{b:02x}")).collect(),
        }
    };
    let mut name = safe(id);
    name.extend(document.name.as_deref().map(|d| format!("-{}", safe(d))));
    let ext = ext.map(|e| e.trim_start_matches('.').to_ascii_lowercase());
    let ext = ext.filter(|e| (1..=8).contains(&e.len()) && e.bytes().all(|b| b.is_ascii_alphanumeric()));
    name.extend(ext.map(|e| format!(".{e}")));
    folder(run, carrier).join(safe(above)).join(name)
}

fn folder(run: &TenantRun, carrier: &Resource) -> Path {
    Path::from(format!("{FOLDER}/{}/{}/tenant={}", run.config().provider.name, carrier.name, run.tenant))
}

/// The settings of privacy leave out documents. Those that were downloaded before go with a full run, for which everything is as it
/// is set now; until then they are told.
pub(super) async fn left_out(run: &TenantRun, resource: &Resource, carrier: &Resource) -> Result<Done, SyncError> {
    let mode = resource.mode.word().into();
    let mut report = ResourceReport { outcome: Outcome::Skipped, mode, ..ResourceReport::default() };
    report.notes.push("not downloaded: the privacy settings leave out documents".to_owned());
    let privacy = run.privacy(std::iter::once(&resource.name));
    let last = run.commit_of(&resource.name).await?.filter(|c| c.body.kind != CommitKind::Erased);
    let mut former = last.is_some_and(|c| c.body.privacy != privacy);
    if former && run.options.full {
        let table = run.config().table(resource)?;
        let at = run.world.clock.now().max(run.provider_now().unwrap_or_default());
        let Some(column) = resource.parent.as_deref() else { return Ok(Done::skipped(resource, report, former)) };
        let mut parents = BTreeSet::new();
        for value in load::partition_values(&run.lake, &table).await? {
            for batch in load::all_rows(&run.lake, &table, value, &[column]).await? {
                parents.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
            }
        }
        let all: Vec<Deletion> = parents.into_iter().map(|key| Deletion { key, at }).collect();
        let emptied = load::blank(&run.lake, &run.lease, &table, By::Reference(column), &all).await?;
        super::delete::record(run, &resource.name, &table, &emptied).await?;
        let removed = documents_without_a_row(run, resource, carrier).await?;
        if let Some(last) = run.commit_of(&resource.name).await? {
            let commit = Commit { run: run.run, privacy, privacy_of_load: None, ..last.body };
            run.state.commits(&run.tenant, &resource.name).append(last.n, commit).await?;
        }
        report.notes.push(format!("documents that were downloaded before are removed: {removed}"));
        former = false;
    } else if former {
        report
            .notes
            .push("documents that were downloaded before stay in files/ until `hirelake sync --full`".to_owned());
    }
    Ok(Done::skipped(resource, report, former))
}

/// Removes rows whose parent is gone, then documents that no living row names. Gives the rows that were deleted.
pub(super) async fn sweep(
    run: &TenantRun,
    resource: &Resource,
    carrier: &Resource,
) -> Result<load::Deleted, SyncError> {
    let Some(column) = resource.parent.as_deref() else { return Ok(load::Deleted::default()) };
    let table = run.config().table(resource)?;
    let parents = load::living_keys(&run.lake, &run.config().table(carrier)?).await?;
    let mut orphans = BTreeSet::new();
    for value in load::partition_values(&run.lake, &table).await? {
        for batch in load::living_rows(&run.lake, &table, value, &[column]).await? {
            let ids = batch.column(0).as_string::<i32>();
            orphans.extend(ids.iter().flatten().filter(|id| !parents.contains(*id)).map(str::to_owned));
        }
    }
    let at = run.provider_now().unwrap_or_else(|| run.world.clock.now());
    let deletions: Vec<Deletion> = orphans.into_iter().map(|key| Deletion { key, at }).collect();
    let on = run.config().tenant(&run.tenant).on_delete;
    let deleted = load::delete(&run.lake, &run.lease, &table, By::parents_of(&table), &deletions, on, None).await?;
    super::delete::record(run, &resource.name, &table, &deleted).await?;
    documents_without_a_row(run, resource, carrier).await?;
    Ok(deleted)
}

/// Parents of which a document is not there any more, or is of another size than its row tells: it is downloaded again.
pub(super) async fn lost(
    run: &TenantRun,
    resource: &Resource,
    carrier: &Resource,
) -> Result<BTreeSet<String>, SyncError> {
    let mut lost = BTreeSet::new();
    let Some(column) = resource.parent.as_deref() else { return Ok(lost) };
    let found = run.lake.store.list(&folder(run, carrier)).await?;
    let there: HashMap<&str, u64> = found.iter().map(|e| (e.path.as_ref(), e.bytes)).collect();
    let table = run.config().table(resource)?;
    for value in load::partition_values(&run.lake, &table).await? {
        for batch in load::living_rows(&run.lake, &table, value, &[column, "path", "bytes"]).await? {
            let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
            let bytes = batch.column_by_name("bytes").and_then(|c| c.as_primitive_opt::<Int64Type>());
            let (Some(parents), Some(paths), Some(bytes)) = (text(column), text("path"), bytes) else { continue };
            let is_lost = |i: &usize| {
                let told = u64::try_from(bytes.value(*i)).ok();
                paths.is_valid(*i) && there.get(paths.value(*i)).copied() != told
            };
            lost.extend((0..batch.num_rows()).filter(is_lost).map(|i| parents.value(i).to_owned()));
        }
    }
    Ok(lost)
}

/// Removes documents that no row names: deleted rows keep the path only where they are merely marked.
pub(super) async fn documents_without_a_row(
    run: &TenantRun,
    resource: &Resource,
    carrier: &Resource,
) -> Result<u64, SyncError> {
    let found = run.lake.store.list(&folder(run, carrier)).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let table = run.config().table(resource)?;
    let mut named = BTreeSet::new();
    for value in load::partition_values(&run.lake, &table).await? {
        for batch in load::all_rows(&run.lake, &table, value, &["path"]).await? {
            named.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    let mut removed = 0;
    for entry in found.into_iter().filter(|e| !named.contains(e.path.as_ref())) {
        run.lease.ensure().await?;
        run.lake.store.remove(&entry.path).await?;
        removed += 1;
    }
    Ok(removed)
}
