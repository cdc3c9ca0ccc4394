//! How every tenant stands: grant, last run, tables; read from the state alone, without a request and without a key.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::auth::{CredentialKind, Grant, Standing};
use crate::catalog::scopes;
use crate::clock::Timestamp;
use crate::names::{ResourceName, Tenant};
use crate::state::{Commit, LeaseInfo, State, StateError};
use crate::sync::{LastRun, World};

/// One tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantStatus {
    /// Its credential; `None` when it was never connected.
    pub grant: Option<GrantStatus>,
    /// Its newest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<LastRun>,
    /// The run that holds it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<LeaseInfo>,
    /// Its tables.
    pub tables: BTreeMap<ResourceName, TableStatus>,
}

/// A credential's health.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GrantStatus {
    /// Which kind.
    pub kind: CredentialKind,
    /// `live`, `uncertain`, `dead` or `disconnected`.
    pub health: &'static str,
    /// What happened last, where something did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// First consent.
    pub connected_at: Timestamp,
    /// Last refresh.
    pub refreshed_at: Timestamp,
    /// When it dies if it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_deadline: Option<Timestamp>,
    /// When it dies whatever happens, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_deadline: Option<Timestamp>,
    /// Scopes that the resources need and that were not granted.
    pub missing_scopes: Vec<String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// Living rows.
    pub rows: u64,
    /// Files.
    pub files: usize,
    /// Where the next increment begins, or when the last complete listing began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Timestamp>,
    /// How far behind the present that is, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_s: Option<u64>,
    /// Whether its first load is complete.
    pub complete: bool,
}

/// Reads how every tenant stands.
///
/// # Errors
///
/// When the state cannot be read.
pub async fn read(world: &World) -> Result<BTreeMap<Tenant, TenantStatus>, StateError> {
    let state = State::new(world.state.clone(), world.clock);
    let now = world.clock.now();
    let mut all = BTreeMap::new();
    for tenant in world.tenants().await? {
        let grant = state.grants(&tenant).last::<Grant>().await?.map(|g| grant(world, &tenant, &g.body));
        let mut tables = BTreeMap::new();
        for resource in state.committed_resources(&tenant).await? {
            let Some(commit) = state.commits(&tenant, &resource).last::<Commit>().await? else { continue };
            let commit = commit.body;
            let cursor = commit.cursor().or(commit.covered.full);
            let status = TableStatus {
                rows: commit.living(),
                files: commit.partitions.len(),
                cursor,
                lag_s: cursor.map(|c| now.since(c).as_secs()),
                complete: commit.load_done || commit.load_started.is_none(),
            };
            tables.insert(resource, status);
        }
        let last_run = state.runs(&tenant).last::<LastRun>().await?.map(|e| e.body);
        let held_by = state.lease_info(&tenant).await?;
        all.insert(tenant, TenantStatus { grant, last_run, held_by, tables });
    }
    Ok(all)
}

fn grant(world: &World, tenant: &Tenant, g: &Grant) -> GrantStatus {
    let days = |n: u32| Duration::from_secs(u64::from(n) * 86_400);
    let facts = &world.config.provider.oauth;
    let oauth = g.kind == CredentialKind::OAuth;
    let (health, trouble) = match &g.standing {
        Standing::Live { last_error } => ("live", last_error.clone()),
        Standing::Refreshing { .. } => ("uncertain", Some("a refresh was begun and its end is not known".to_owned())),
        Standing::Uncertain { why, .. } => ("uncertain", Some(why.clone())),
        Standing::Dead { why, .. } => ("dead", Some(why.clone())),
        Standing::Disconnected => ("disconnected", None),
    };
    let needed = world.config.scopes(tenant).map(|s| s.list).unwrap_or_default();
    GrantStatus {
        kind: g.kind,
        health,
        trouble,
        connected_at: g.connected_at,
        refreshed_at: g.refreshed_at,
        idle_deadline: oauth.then(|| g.refreshed_at.plus(days(facts.idle_days))),
        hard_deadline: oauth.then(|| g.connected_at.plus(days(facts.hard_days))),
        missing_scopes: if g.scopes.is_empty() {
            Vec::new()
        } else {
            needed.into_iter().filter(|s| !scopes::opens(&g.scopes, s)).collect()
        },
    }
}

/// A table for people.
#[must_use]
pub fn table(all: &BTreeMap<Tenant, TenantStatus>) -> String {
    let day = |t: Timestamp| t.to_string().get(..16).unwrap_or_default().replace('T', " ");
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "tenant",
        "grant",
        "connected",
        "refreshed",
        "dies unused",
        "last run",
        "rows",
        "oldest cursor",
        "note",
    ]);
    for (tenant, t) in all {
        let g = t.grant.as_ref();
        let mut notes: Vec<String> = g.and_then(|g| g.trouble.clone()).into_iter().collect();
        if let Some(g) = g.filter(|g| !g.missing_scopes.is_empty()) {
            notes.push(format!("missing scopes: {}", g.missing_scopes.join(" ")));
        }
        if g.is_none_or(|g| g.health == "dead" || g.health == "disconnected") {
            notes.push(format!("hirelake connect {tenant}"));
        }
        let run = t
            .last_run
            .as_ref()
            .map_or_else(|| "never".to_owned(), |r| format!("{} {}", day(r.ended), if r.ok { "ok" } else { "failed" }));
        table.add_row([
            tenant.to_string(),
            g.map_or("none", |g| g.health).to_owned(),
            g.map(|g| day(g.connected_at)).unwrap_or_default(),
            g.map(|g| day(g.refreshed_at)).unwrap_or_default(),
            g.and_then(|g| g.idle_deadline).map(day).unwrap_or_default(),
            run,
            t.tables.values().map(|t| t.rows).sum::<u64>().to_string(),
            t.tables.values().filter_map(|t| t.cursor).min().map(day).unwrap_or_default(),
            notes.join("; "),
        ]);
    }
    table.trim_fmt()
}
