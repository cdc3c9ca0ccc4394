//! Records that could not be decoded: sealed in the state, and removed with whom they speak of.
//!
//! Deletions and anonymizations reach them: each sealed record is opened with the vault, and one that names who is gone, as
//! its id or anywhere else, is removed. What a record says is in nothing that is logged.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::{SyncError, TenantRun};
use crate::auth::vault::Sealed;
use crate::catalog::Resource;
use crate::clock::Timestamp;
use crate::load::Deletion;
use crate::names::ResourceName;
use crate::transform::Rejected;

/// A child as it is sealed: few have their parent's id in them, and an erasure must find them by it.
#[derive(serde::Serialize)]
struct OfParent<'a> {
    parent: &'a str,
    record: &'a RawValue,
}

/// Seals a record that could not be decoded, the `n`th of its resource in this run.
pub(super) async fn keep(
    run: &TenantRun,
    name: &ResourceName,
    n: u64,
    parent: Option<&str>,
    rejected: Rejected,
) -> Result<(), SyncError> {
    tracing::warn!(resource = %name, why = %rejected.why, "a record goes to quarantine");
    let place = format!("quarantine/{}/{name}/{}/{n}", run.tenant, run.run);
    // What is never written is not kept sealed either.
    let raw = match run.rules.get(name) {
        Some(rules) => rules.strip(&rejected.raw),
        None => rejected.raw,
    };
    let whole = parent.and_then(|parent| {
        let record = serde_json::from_slice(&raw).ok()?;
        serde_json::to_vec(&OfParent { parent, record }).ok()
    });
    let sealed = run.auth.vault().seal(&place, whole.as_deref().unwrap_or(&raw))?;
    let text = serde_json::to_vec(&sealed).unwrap_or_default();
    Ok(run.state.quarantine(&run.tenant, name, run.run, n, text.into()).await?)
}

/// Who is gone, and what of them may stay.
pub(super) enum Gone<'a> {
    /// Deleted rows of a resource: a record of it that changed after its deletion is alive again.
    Deleted(&'a Resource, &'a [Deletion]),
    /// Anonymized, by their ids: a record that says so of itself is blank, and stays.
    Anonymized(&'a Resource, &'a [String]),
}

impl Gone<'_> {
    fn ids(&self) -> BTreeMap<&str, Option<Timestamp>> {
        match self {
            Self::Deleted(_, deletions) => deletions.iter().map(|d| (d.key.as_str(), Some(d.at))).collect(),
            Self::Anonymized(_, ids) => ids.iter().map(|id| (id.as_str(), None)).collect(),
        }
    }

    /// Whether `record` (a record of `resource`) is one of those that may stay though it has the id.
    fn spares(&self, resource: &str, record: &Value, ids: &BTreeMap<&str, Option<Timestamp>>) -> bool {
        let (Self::Deleted(of, _) | Self::Anonymized(of, _)) = self;
        let wire = |name: Option<&str>| name.and_then(|n| of.column(n)).and_then(|c| record.get(&c.source));
        let own = wire(of.key.first().map(String::as_str)).and_then(Value::as_str).and_then(|id| ids.get(id));
        let Some(gone) = own.filter(|_| resource == of.name.as_str()) else { return false };
        match (self, gone) {
            (Self::Deleted(..), Some(at)) => {
                let version = wire(of.cursor_column()).and_then(Value::as_i64);
                version.is_some_and(|ms| ms > at.ms())
            }
            _ => wire(of.anonymized.as_deref()) == Some(&Value::Bool(true)),
        }
    }
}

/// Removes every record in quarantine that names who is gone. Nothing is opened when nobody is, or nothing is there.
pub(super) async fn forget(run: &TenantRun, gone: &Gone<'_>) -> Result<u64, SyncError> {
    let ids = gone.ids();
    if ids.is_empty() {
        return Ok(0);
    }
    let mut removed = 0;
    for what in run.state.quarantined(&run.tenant).await? {
        let Some(bytes) = run.state.read_quarantined(&what).await? else { continue };
        let sealed = serde_json::from_slice::<Sealed>(&bytes).ok();
        let Some(plain) = sealed.and_then(|s| run.auth.vault().open(&what.place, &s).ok()) else {
            tracing::warn!(
                resource = what.resource,
                "a record in quarantine does not open, so it is not known whether it names who is gone; \
                 it ends with its retention"
            );
            continue;
        };
        let names = match serde_json::from_slice::<Value>(&plain) {
            Ok(record) => names(&record, &|text| ids.contains_key(text)) && !gone.spares(&what.resource, &record, &ids),
            // Not even JSON: the id may stand anywhere in it.
            Err(_) => ids.keys().any(|id| plain.windows(id.len()).any(|w| w == id.as_bytes())),
        };
        if names {
            run.lease.ensure().await?;
            run.state.remove_quarantined(&what).await?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(removed, "records in quarantine went with whom they named");
    }
    Ok(removed)
}

/// Whether any text in `value` is one that `is` takes.
pub fn names(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(items) => items.iter().any(|v| names(v, is)),
        Value::Object(fields) => fields.values().any(|v| names(v, is)),
        _ => false,
    }
}
