//! The lake read back: judged, or searched for a person who was erased.
//!
//! Guarantees: nothing is written but the tenant's lease, under which it reads, so that nothing changes meanwhile; memory is
//! bounded (a hash of every key at most); what is found is told by place and count, and no value is in anything it says.
//! [`whole`](run) holds the lake against the catalogue and the newest commits. [`erased`](run) decodes every value of every
//! file that the tenant has in the lake, in tables that the catalogue no longer knows too, every footer, statistic and page
//! index, and every record in quarantine.

mod erased;
mod files;
mod person;
mod search;
mod whole;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

pub use search::Texts;

use crate::auth::{AuthError, Grant};
use crate::names::{RunId, Tenant};
use crate::report::{ExitCode, Failure};
use crate::state::State;
use crate::sync::{SyncError, World};

/// Bytes of a file that is no table that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// What is verified.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Ids of opportunities or contacts that were erased.
    pub erased: Vec<String>,
    /// What is known of them: no value may hold it.
    pub texts: Texts,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// `lever/notes`, `quarantine`, `scratch` …
    pub table: String,
    /// The rest of the path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub partition: String,
    /// The column, with dots into nested ones.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub column: String,
    /// What it is; never a value.
    pub what: String,
    /// How many rows (or records, or statistics).
    pub count: u64,
    /// What to do.
    pub hint: String,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Searched {
    /// Files of the lake.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Texts in statistics and page indexes.
    pub statistics: u64,
    /// Records in quarantine.
    pub quarantined: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whose lake.
    pub tenant: Tenant,
    /// The ids that were looked for; empty when the lake was judged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub erased: Vec<String>,
    /// Texts that were looked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub texts: usize,
    /// 0 when nothing was found, else 3.
    pub exit: u8,
    /// How much was looked at.
    pub searched: Searched,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What is gathered on the way.
#[derive(Debug, Default)]
struct Gathered {
    searched: Searched,
    findings: Vec<Finding>,
    notes: BTreeSet<String>,
}

impl Gathered {
    fn find(&mut self, place: (&str, &str, &str), count: u64, what: impl Into<String>, hint: impl Into<String>) {
        let (table, partition, column) = (place.0.to_owned(), place.1.to_owned(), place.2.to_owned());
        self.findings.push(Finding { table, partition, column, what: what.into(), count, hint: hint.into() });
    }
    fn unreadable(&mut self, place: (&str, &str, &str), error: &(dyn std::error::Error + 'static)) {
        let failure = Failure::new(None, ExitCode::Storage, error);
        let hint = failure.hint.unwrap_or_else(|| "mend or move the file away, and run `hirelake sync --full`".into());
        self.find(place, 1, format!("it cannot be read: {}", failure.what), hint);
    }
}

/// Judges a tenant's lake, or looks for who was erased.
///
/// # Errors
///
/// When nothing is known of the tenant, another run holds it, or lake or state cannot be read.
pub async fn run(world: &World, tenant: &Tenant, options: &Options) -> Result<Verdict, SyncError> {
    let state = State::new(world.state.clone(), world.clock);
    world.has_rows(tenant)?;
    // A name that was mistyped makes no lease.
    let known = state.grants(tenant).last::<Grant>().await?.is_some()
        || !state.committed_resources(tenant).await?.is_empty()
        || !files::folders(&world.lake, tenant).await?.is_empty();
    if !known {
        return Err(AuthError::NotConnected { tenant: tenant.clone() }.into());
    }
    let lease = state.lease(tenant, RunId::new()).await?;
    let mut all = Gathered::default();
    let search = !options.erased.is_empty() || !options.texts.is_empty();
    let done = tokio::select! {
        lost = lease.keep() => Err(lost.into()),
        done = async {
            if search {
                erased::search(world, &state, tenant, options, &mut all).await
            } else {
                whole::judge(world, &state, tenant, &mut all).await
            }
        } => done,
    };
    if let Err(error) = lease.release().await {
        tracing::warn!(%tenant, %error, "the lease could not be given back; it ends by itself");
    }
    done?;
    all.findings.sort();
    let code = if all.findings.is_empty() { ExitCode::Done } else { ExitCode::Partial };
    Ok(Verdict {
        tenant: tenant.clone(),
        erased: options.erased.clone(),
        texts: options.texts.len(),
        exit: code.number(),
        searched: all.searched,
        findings: all.findings,
        notes: all.notes.into_iter().collect(),
    })
}

impl Verdict {
    /// What the process ends with.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        if self.findings.is_empty() { ExitCode::Done } else { ExitCode::Partial }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        if !self.findings.is_empty() {
            let mut table = comfy_table::Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
            table.set_header(["table", "partition", "column", "count", "what"]);
            for f in &self.findings {
                table.add_row([&f.table, &f.partition, &f.column, &f.count.to_string(), &f.what]);
            }
            text += &table.trim_fmt();
            text.push_str("\n\n");
            let hints: BTreeSet<&str> = self.findings.iter().map(|f| f.hint.as_str()).collect();
            for hint in hints {
                let _ = writeln!(text, "hint: {hint}");
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        let s = &self.searched;
        let looked = format!(
            "looked at {} files, {} rows, {} texts in statistics, {} records in quarantine",
            s.files, s.rows, s.statistics, s.quarantined
        );
        let (tenant, n) = (&self.tenant, self.findings.len());
        let places = if n == 1 { "1 place".to_owned() } else { format!("{n} places") };
        let verdict = match (self.erased.is_empty() && self.texts == 0, n) {
            (true, 0) => format!("{tenant}: the lake is right"),
            (true, _) => format!("{tenant}: the lake is not right in {places}"),
            (false, 0) => format!("{tenant}: no personal data was found"),
            (false, _) => format!("{tenant}: personal data was found in {places}"),
        };
        let _ = write!(text, "{verdict}; {looked}");
        text
    }
}
