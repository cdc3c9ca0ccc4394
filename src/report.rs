//! What happened, for people and for programs.
//!
//! A [`Report`] is the whole story of a run; [`Report::summary`] is the one compact JSON object that ends stdout; an
//! [`ExitCode`] is its verdict. [`Progress`] is what can be seen while it runs. No token, secret or record value is ever in
//! any of them: drift is told by place and type.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::names::{ResourceName, RunId, Tenant};

/// What the process ends with; part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCode {
    /// 0: done, also when nothing was new.
    Done,
    /// 1: a bug.
    Bug,
    /// 2: usage or configuration.
    Configuration,
    /// 3: some failed, others did not.
    Partial,
    /// 4: a customer must connect again.
    Reconnect,
    /// 5: another run holds the tenant.
    Busy,
    /// 6: stopped at a deadline or by a signal; resumable.
    Stopped,
    /// 7: the lake or the state cannot be reached or written.
    Storage,
    /// 8: the provider cannot be reached.
    Provider,
}

impl ExitCode {
    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bug => 1,
            Self::Configuration => 2,
            Self::Partial => 3,
            Self::Reconnect => 4,
            Self::Busy => 5,
            Self::Stopped => 6,
            Self::Storage => 7,
            Self::Provider => 8,
        }
    }
}

/// One failure, as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The resource, where one failed alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceName>,
    /// What was tried and what was met, causes included.
    pub what: String,
    /// The sentence that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Its verdict.
    pub code: ExitCode,
}

impl Failure {
    /// From an error and its chain; `hint:` lines are taken apart from the sentence.
    #[must_use]
    pub fn new(resource: Option<&ResourceName>, code: ExitCode, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut what: Vec<String> = Vec::new();
        let mut hint = None;
        let mut cause = Some(error);
        while let Some(e) = cause {
            let text = e.to_string();
            let (sentence, advice) = match text.split_once("\nhint: ") {
                Some((s, h)) => (s.to_owned(), Some(h.to_owned())),
                None => (text, None),
            };
            // A transparent wrapper says the same as its cause, and some sentences end with their cause.
            if !what.iter().any(|w| w.ends_with(&sentence)) {
                what.push(sentence);
            }
            hint = hint.or(advice);
            cause = e.source();
        }
        Self { resource: resource.cloned(), what: what.join(": "), hint, code }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// One kind of surprise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DriftCount {
    /// JSON Pointer into the record, `*` for any index.
    pub place: String,
    /// `undeclared` or `misfit`.
    pub kind: String,
    /// Type of the value found.
    pub found: String,
    /// How often.
    pub count: u64,
}

/// What became of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All that was due is done.
    #[default]
    Done,
    /// Not granted, and nobody named it.
    Skipped,
    /// Something failed; what was committed stands.
    Failed,
    /// Stopped before its end; the next run goes on.
    Stopped,
}

/// The parents of a resource of children.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ParentsReport {
    /// Living parents in the lake.
    pub living: u64,
    /// Read because they changed, or were never read.
    pub changed: u64,
    /// Read because it was their turn.
    pub reconciled: u64,
    /// Requests of those whose turn it was; they are among the resource's requests.
    pub reconcile_requests: u64,
    /// Left out by a rule of the catalogue.
    pub skipped: u64,
    /// Gone at the provider (404).
    pub gone: u64,
    /// Whose children were refused (403) while others' were not.
    pub withheld: u64,
    /// That could not be read; they stay due.
    pub failed: u64,
    /// Due and left for the next run, failed ones included.
    pub left: u64,
    /// When that parent was read whose read is the longest ago, of those that are not due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalest: Option<Timestamp>,
}

/// One resource of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ResourceReport {
    /// How it ended.
    pub outcome: Outcome,
    /// How it was read: `load`, `increment`, `listing`, `backfill`, `extracted`.
    pub mode: String,
    /// Windows read to their end.
    pub windows: u64,
    /// Requests, retries included.
    pub requests: u64,
    /// Bytes of their answers, uncompressed.
    pub bytes: u64,
    /// Records received, repeated ones counted.
    pub records: u64,
    /// Rows that were not there before.
    pub inserted: u64,
    /// Rows whose content changed.
    pub updated: u64,
    /// Rows that said nothing new.
    pub unchanged: u64,
    /// Rows deleted (redacted, marked or removed).
    pub deleted: u64,
    /// Children that were gone from their parent.
    pub removed: u64,
    /// Rows that a tombstone kept out.
    pub suppressed: u64,
    /// Records that could not be decoded, in quarantine.
    pub quarantined: u64,
    /// Partition files that were replaced.
    pub partitions_rewritten: u64,
    /// Living rows in the lake now.
    pub rows: u64,
    /// Where the next increment begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Timestamp>,
    /// Of children: whose they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parents: Option<ParentsReport>,
    /// Whether its schema is frozen and it met surprises: what held them was not loaded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// Whether the settings of privacy drop what the catalogue does not expect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drops_extra: bool,
    /// Surprises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<DriftCount>,
    /// Why it was skipped, or what a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TenantReport {
    /// Requests to the data API, retries included.
    pub requests: u64,
    /// Answers 429.
    pub refused: u64,
    /// Its resources.
    pub resources: BTreeMap<ResourceName, ResourceReport>,
    /// What failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// What a person should know of the whole tenant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Tables with rows that were written under other privacy settings than today's.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub former_privacy: BTreeSet<ResourceName>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its id.
    pub run: RunId,
    /// The version of the program.
    pub version: &'static str,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Its verdict.
    pub code: ExitCode,
    /// Which bound stopped it, beside its deadline and signals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
    /// Its tenants.
    pub tenants: BTreeMap<Tenant, TenantReport>,
}

/// The one line that ends stdout.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    run: RunId,
    code: ExitCode,
    exit: u8,
    seconds: f64,
    tenants: usize,
    failed: Vec<&'a Tenant>,
    requests: u64,
    records: u64,
    inserted: u64,
    updated: u64,
    deleted: u64,
    quarantined: u64,
    partitions_rewritten: u64,
}

impl Report {
    /// The verdict over tenants: when all that failed failed alike, that; else partial.
    #[must_use]
    pub fn verdict(tenants: &BTreeMap<Tenant, TenantReport>) -> ExitCode {
        let mut codes: Vec<ExitCode> = Vec::new();
        let mut fine = 0;
        for t in tenants.values() {
            let mut own: Vec<ExitCode> = t.failures.iter().map(|f| f.code).collect();
            let parts_done = t.resources.values().any(|r| r.outcome == Outcome::Done);
            if own.is_empty() && t.stopped {
                own.push(ExitCode::Stopped);
            }
            if own.is_empty() {
                fine += 1;
            } else if parts_done
                && t.failures.iter().any(|f| f.resource.is_some())
                && own.iter().all(|c| *c != ExitCode::Stopped)
            {
                // Some of its resources failed and others did not.
                own.push(ExitCode::Partial);
            }
            codes.extend(own);
        }
        codes.sort_unstable();
        codes.dedup();
        match (codes.as_slice(), fine) {
            ([], _) => ExitCode::Done,
            ([only], 0) => *only,
            // A stop is the same for all, however many were done before it.
            ([ExitCode::Stopped], _) => ExitCode::Stopped,
            // A bug is never hidden behind the rest.
            (codes, _) if codes.contains(&ExitCode::Bug) => ExitCode::Bug,
            _ => ExitCode::Partial,
        }
    }

    /// One compact JSON object.
    #[must_use]
    pub fn summary(&self) -> String {
        let resources = || self.tenants.values().flat_map(|t| t.resources.values());
        let summary = Summary {
            run: self.run,
            code: self.code,
            exit: self.code.number(),
            seconds: self.ended.since(self.started).as_millis() as f64 / 1000.0,
            tenants: self.tenants.len(),
            failed: self.tenants.iter().filter(|(_, t)| !t.failures.is_empty()).map(|(n, _)| n).collect(),
            requests: self.tenants.values().map(|t| t.requests).sum(),
            records: resources().map(|r| r.records).sum(),
            inserted: resources().map(|r| r.inserted).sum(),
            updated: resources().map(|r| r.updated).sum(),
            deleted: resources().map(|r| r.deleted).sum(),
            quarantined: resources().map(|r| r.quarantined).sum(),
            partitions_rewritten: resources().map(|r| r.partitions_rewritten).sum(),
        };
        serde_json::to_string(&summary).unwrap_or_default()
    }

    /// The whole report as JSON text.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header([
            "tenant",
            "resource",
            "",
            "mode",
            "requests",
            "records",
            "new",
            "changed",
            "deleted",
            "rewritten",
            "rows",
        ]);
        for (tenant, t) in &self.tenants {
            for (resource, r) in &t.resources {
                let outcome = match r.outcome {
                    Outcome::Done => "ok",
                    Outcome::Skipped => "skipped",
                    Outcome::Failed => "FAILED",
                    Outcome::Stopped => "stopped",
                };
                let numbers = [
                    r.requests,
                    r.records,
                    r.inserted,
                    r.updated,
                    r.deleted + r.removed,
                    r.partitions_rewritten,
                    r.rows,
                ];
                let mut row = vec![tenant.to_string(), resource.to_string(), outcome.to_owned(), r.mode.clone()];
                row.extend(numbers.iter().map(u64::to_string));
                table.add_row(row);
            }
        }
        for column in 4..11 {
            if let Some(c) = table.column_mut(column) {
                c.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }

    /// Every failure and note, a paragraph each.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let mut all = Vec::new();
        all.extend(
            self.stopped_at.iter().map(|why| format!("note: stopped: {why}\nhint: run again; it goes on there")),
        );
        for (tenant, t) in &self.tenants {
            for (f, alike) in t.told_failures() {
                all.push(match &f.resource {
                    Some(r) => format!("error: {tenant}/{r}: {f}"),
                    None => format!("error: {tenant}: {f}"),
                });
                if !alike.is_empty() {
                    let names: Vec<String> = alike.iter().map(|r| format!("{tenant}/{r}")).collect();
                    all.push(format!("error: the same met {} more: {}", names.len(), names.join(", ")));
                }
            }
            all.extend(t.notes.iter().map(|n| format!("note: {tenant}: {n}")));
            for (resource, r) in &t.resources {
                all.extend(r.notes.iter().map(|n| format!("note: {tenant}/{resource}: {n}")));
                if r.quarantined > 0 {
                    all.push(format!(
                        "note: {tenant}/{resource}: {} records could not be decoded; they are sealed in quarantine",
                        r.quarantined
                    ));
                }
                if !r.drift.is_empty() {
                    let kinds: Vec<String> = r
                        .drift
                        .iter()
                        .take(5)
                        .map(|d| format!("{} {} {} ×{}", d.kind, d.place, d.found, d.count))
                        .collect();
                    let kept = match (r.frozen, r.drops_extra) {
                        (true, _) => "whose records were not loaded",
                        (false, true) => "dropped, as the settings of privacy say",
                        (false, false) => "kept in _extra",
                    };
                    all.push(format!(
                        "note: {tenant}/{resource}: fields that the catalogue does not expect, {kept}: {}",
                        kinds.join(", ")
                    ));
                }
            }
        }
        all
    }
}

impl TenantReport {
    /// The failures as people are told them, each with the further resources that met the same: when a provider answers nobody,
    /// twenty sentences say no more than one does. The report itself has them all.
    fn told_failures(&self) -> Vec<(&Failure, Vec<&ResourceName>)> {
        let mut told: Vec<(&Failure, Vec<&ResourceName>)> = Vec::new();
        for f in &self.failures {
            let alike = |of: &Failure| of.code == f.code && of.hint == f.hint && of.resource.is_some();
            match (&f.resource, told.iter_mut().find(|(of, _)| f.code == ExitCode::Provider && alike(of))) {
                (Some(name), Some((_, more))) => more.push(name),
                _ => told.push((f, Vec::new())),
            }
        }
        told
    }
}

/// One resource under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Under {
    /// Records so far.
    pub records: u64,
    /// Requests so far.
    pub requests: u64,
    /// What it is doing, in a few words.
    pub doing: &'static str,
    /// Whether it is over.
    pub over: bool,
}

/// What can be seen of a run while it runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<BTreeMap<(Tenant, ResourceName), Under>>>);

impl Progress {
    /// Changes what is seen of a resource.
    pub fn update(&self, tenant: &Tenant, resource: &ResourceName, change: impl FnOnce(&mut Under)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry((tenant.clone(), resource.clone())).or_default());
    }
    /// All of it now.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<(Tenant, ResourceName), Under> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(codes: &[ExitCode]) -> TenantReport {
        let failures =
            codes.iter().map(|code| Failure { resource: None, what: "x".into(), hint: None, code: *code }).collect();
        TenantReport { failures, ..TenantReport::default() }
    }

    #[test]
    fn when_all_that_failed_failed_alike_that_is_the_code() {
        let verdict = |all: Vec<TenantReport>| {
            let tenants = all.into_iter().enumerate().map(|(i, t)| (format!("t{i}").parse().unwrap(), t)).collect();
            Report::verdict(&tenants).number()
        };
        let fine = TenantReport::default;
        let stopped = || TenantReport { stopped: true, ..fine() };
        assert_eq!(verdict(vec![]), 0);
        assert_eq!(verdict(vec![fine(), fine()]), 0);
        assert_eq!(verdict(vec![failing(&[ExitCode::Reconnect]), failing(&[ExitCode::Reconnect])]), 4);
        assert_eq!(verdict(vec![failing(&[ExitCode::Reconnect]), fine()]), 3);
        assert_eq!(verdict(vec![failing(&[ExitCode::Reconnect]), failing(&[ExitCode::Busy])]), 3);
        assert_eq!(verdict(vec![failing(&[ExitCode::Storage])]), 7);
        assert_eq!(verdict(vec![failing(&[ExitCode::Bug]), fine()]), 1);
        assert_eq!(verdict(vec![stopped(), fine()]), 6);
    }

    #[test]
    fn what_all_resources_met_of_a_provider_is_told_once() {
        let failure = |name: &str, code, hint: &str| Failure {
            resource: Some(name.parse().unwrap()),
            what: format!("GET {name} failed"),
            hint: Some(hint.into()),
            code,
        };
        let failures = vec![
            failure("users", ExitCode::Provider, "later"),
            failure("notes", ExitCode::Partial, "grant it"),
            failure("tags", ExitCode::Provider, "later"),
            failure("offers", ExitCode::Partial, "grant it"),
            failure("files", ExitCode::Provider, "another"),
            failure("stages", ExitCode::Provider, "later"),
        ];
        let tenant = TenantReport { failures, ..TenantReport::default() };
        let report = Report {
            run: RunId::new(),
            version: "0",
            started: Timestamp::from_ms(0),
            ended: Timestamp::from_ms(0),
            code: ExitCode::Partial,
            stopped_at: None,
            tenants: [("acme".parse().unwrap(), tenant)].into(),
        };
        insta::assert_snapshot!(report.troubles().join("\n"), @r"
        error: acme/users: GET users failed
        hint: later
        error: the same met 2 more: acme/tags, acme/stages
        error: acme/notes: GET notes failed
        hint: grant it
        error: acme/offers: GET offers failed
        hint: grant it
        error: acme/files: GET files failed
        hint: another
        ");
        assert_eq!(report.json().matches("failed").count(), 6);
    }

    #[test]
    fn a_failure_says_its_chain_once_and_its_hint_apart() {
        #[derive(Debug, thiserror::Error)]
        #[error("the outer\nhint: do this")]
        struct Outer(#[source] std::io::Error);
        let failure = Failure::new(None, ExitCode::Storage, &Outer(std::io::Error::other("the inner")));
        assert_eq!(failure.to_string(), "the outer: the inner\nhint: do this");
    }
}
