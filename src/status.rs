//! How every tenant stands: grant, last run, tables; read from the state alone, without a request and without a key.
//!
//! A tenant whose state cannot be read is shown with its error and hides no other. [`troubles`] is the same for monitors:
//! what needs somebody, and the exit code that says whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use futures::StreamExt as _;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::auth::{CredentialKind, Grant, HARD_NOTICE, Standing};
use crate::catalog::scopes;
use crate::clock::Timestamp;
use crate::names::{ResourceName, Tenant};
use crate::report::{ExitCode, Failure};
use crate::state::{Commit, LeaseInfo, State, StateError};
use crate::sync::{LastRun, SyncError, World, code};

/// Tasks that read, and tenants that each of them reads at once: a thousand local tenants take well under a second.
const READERS: usize = 4;
const READ_AT_ONCE: usize = 8;
/// An idle deadline closer than this needs somebody: a weekly `keepalive` has failed for a month by then.
const IDLE_NOTICE: Duration = Duration::from_secs(14 * 86_400);
/// So long may a tenant be connected without a single sync.
const FIRST_SYNC: Duration = Duration::from_secs(86_400);

/// One tenant.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TenantStatus {
    /// The tenant it is a part of: it is synced with that one, and has no tables of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_of: Option<Tenant>,
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
    /// How its customer connects again, where that is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnect: Option<String>,
    /// A link to the connect page for its customer; only where one tenant is asked for, because whoever has it can use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Why its state cannot be read; then the rest is what could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<Failure>,
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
    /// Since when it is dead or uncertain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// First consent.
    pub connected_at: Timestamp,
    /// Last refresh.
    pub refreshed_at: Timestamp,
    /// When the access token ends; it is refreshed when it is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it dies if it is not used; none where nothing can die.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_deadline: Option<Timestamp>,
    /// When it dies whatever happens, as far as is known; none where nothing can die.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_deadline: Option<Timestamp>,
    /// Scopes that were granted; empty where that is not known.
    pub scopes: Vec<String>,
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
    /// Whether its first load is complete; of children: whether no parent that changed was left.
    pub complete: bool,
    /// Of children: changed parents that were left for the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parents_left: Option<u64>,
    /// Of children: when that parent was read whose read is the longest ago, as the last run left it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalest: Option<Timestamp>,
    /// The scope that a later consent left out: the table is no longer read, and falls behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

/// Something that needs somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Whose.
    pub tenant: Tenant,
    /// `reconnect`: its customer. `storage`: its state cannot be read. `partial`: whoever runs Hirelake should look.
    pub code: ExitCode,
    /// What is wrong.
    pub what: String,
    /// The sentence that fixes it.
    pub hint: String,
}

/// Reads how every tenant stands.
///
/// # Errors
///
/// When the tenants cannot be listed.
pub async fn read(world: &World) -> Result<BTreeMap<Tenant, TenantStatus>, StateError> {
    let tenants = world.tenants().await?;
    Ok(read_some(world, &tenants).await)
}

/// Reads how some tenants stand, a share of them on each thread.
pub async fn read_some(world: &World, tenants: &[Tenant]) -> BTreeMap<Tenant, TenantStatus> {
    let mut readers = JoinSet::new();
    for share in tenants.chunks(tenants.len().div_ceil(READERS).max(1)) {
        let (world, share) = (world.clone(), share.to_vec());
        readers.spawn(async move {
            let state = State::new(world.state.clone(), world.clock);
            let one = async |tenant: Tenant| (one(&world, &state, &tenant).await, tenant);
            futures::stream::iter(share).map(one).buffer_unordered(READ_AT_ONCE).collect::<Vec<_>>().await
        });
    }
    let shares = readers.join_all().await;
    shares.into_iter().flatten().map(|(status, tenant)| (tenant, status)).collect()
}

async fn one(world: &World, state: &State, tenant: &Tenant) -> TenantStatus {
    let part_of = world.config.tenant(tenant).part_of.clone();
    let mut status = TenantStatus { part_of, ..TenantStatus::default() };
    if let Err(error) = fill(world, state, tenant, &mut status).await {
        let error = SyncError::from(error);
        status.unreadable = Some(Failure::new(None, code(&error), &error));
    }
    let behind = status.tables.values().any(|t| t.lacks.is_some());
    if status.unreadable.is_none() && (behind || needs_consent(world, tenant, status.grant.as_ref())) {
        status.reconnect = Some(reconnect(world, tenant));
    }
    status
}

/// Whether a new consent would change something: there is none, it ends or has ended, or it lacks what was asked for by name.
fn needs_consent(world: &World, tenant: &Tenant, grant: Option<&GrantStatus>) -> bool {
    let Some(g) = grant else { return true };
    let now = world.clock.now();
    matches!(g.health, "dead" | "disconnected")
        || g.idle_deadline.is_some_and(|end| end <= now)
        || g.hard_deadline.is_some_and(|end| end <= now.plus(HARD_NOTICE))
        || (world.config.tenant(tenant).resources_named && !g.missing_scopes.is_empty())
}

async fn fill(world: &World, state: &State, tenant: &Tenant, to: &mut TenantStatus) -> Result<(), StateError> {
    let now = world.clock.now();
    to.grant = state.grants(tenant).last::<Grant>().await?.map(|g| grant(world, tenant, g.body));
    to.held_by = state.lease_info(tenant).await?;
    to.last_run = state.runs(tenant).last::<LastRun>().await?.map(|e| e.body);
    for resource in state.committed_resources(tenant).await? {
        let Some(commit) = state.commits(tenant, &resource).last::<Commit>().await? else { continue };
        let commit = commit.body;
        if commit.kind == crate::state::CommitKind::Erased {
            continue;
        }
        let cursor = commit.cursor().or(commit.covered.full);
        let status = TableStatus {
            rows: commit.living(),
            files: commit.partitions.len(),
            cursor,
            lag_s: cursor.map(|c| now.since(c).as_secs()),
            complete: match &commit.parents {
                Some(parents) => parents.left == 0,
                None => commit.load_done || commit.load_started.is_none(),
            },
            parents_left: commit.parents.as_ref().map(|p| p.left),
            stalest: commit.parents.as_ref().and_then(|p| p.stalest),
            lacks: lacks(world, tenant, to.grant.as_ref(), &resource),
        };
        to.tables.insert(resource, status);
    }
    Ok(())
}

/// The scope for want of which an enabled table is not read any more, as far as it is known what was granted.
fn lacks(world: &World, tenant: &Tenant, grant: Option<&GrantStatus>, table: &ResourceName) -> Option<String> {
    let granted = &grant.filter(|g| g.health != "disconnected" && !g.scopes.is_empty())?.scopes;
    let provider = &world.config.provider;
    let enabled = world.config.tenant(tenant).resources.contains(table);
    let resource = provider.resource(table.as_str()).filter(|_| enabled)?;
    scopes::lacking(provider, resource, |scope| scopes::opens(granted, scope)).map(str::to_owned)
}

fn grant(world: &World, tenant: &Tenant, g: Grant) -> GrantStatus {
    let facts = &world.config.provider.oauth;
    let (idle_deadline, hard_deadline) = (g.idle_deadline(facts), g.hard_deadline(facts));
    let (health, trouble, since) = match g.standing {
        Standing::Live { last_error } => ("live", last_error, None),
        Standing::Refreshing { .. } => {
            ("uncertain", Some("a refresh was begun and its end is not known".to_owned()), None)
        }
        Standing::Uncertain { why, since, .. } => ("uncertain", Some(why), Some(since)),
        Standing::Dead { why, since } => ("dead", Some(why), Some(since)),
        Standing::Disconnected => ("disconnected", None, None),
    };
    let needed = match health {
        "disconnected" => Vec::new(),
        _ if g.scopes.is_empty() => Vec::new(),
        _ => world.config.needed_scopes(tenant),
    };
    GrantStatus {
        kind: g.kind,
        health,
        trouble,
        since,
        connected_at: g.connected_at,
        refreshed_at: g.refreshed_at,
        expires_at: g.expires_at,
        idle_deadline,
        hard_deadline,
        missing_scopes: needed.into_iter().filter(|s| !scopes::opens(&g.scopes, s)).collect(),
        scopes: g.scopes,
    }
}

/// How the customer of a tenant connects again: what to run for a link that can be sent, or for a consent at hand.
#[must_use]
pub fn reconnect(world: &World, tenant: &Tenant) -> String {
    match world.config.connect.public_url {
        Some(_) => format!("hirelake connect invite {tenant}"),
        None => format!("hirelake connect {tenant}"),
    }
}

/// The verdict of a `status` that judges nothing but whether it could read.
#[must_use]
pub fn readable(all: &BTreeMap<Tenant, TenantStatus>) -> ExitCode {
    if all.values().any(|t| t.unreadable.is_some()) { ExitCode::Partial } else { ExitCode::Done }
}

/// What needs somebody, tenant by tenant. With `max_lag` also every table whose cursor is further behind than that.
///
/// A customer must connect again when the grant is dead, past a deadline, or was never given. Somebody of ours should look when
/// a grant is uncertain, could not be refreshed, is 14 days from its idle or 35 days from its hard deadline, or lacks a scope
/// of a resource that the configuration names, or of a table that was read before; when the newest run failed; when there was none within a day of connecting.
/// A tenant that was disconnected needs nobody.
#[must_use]
pub fn troubles(world: &World, all: &BTreeMap<Tenant, TenantStatus>, max_lag: Option<Duration>) -> Vec<Trouble> {
    let mut found = Vec::new();
    for (tenant, t) in all {
        let mut say = |code, what: String, hint: String| {
            found.push(Trouble { tenant: tenant.clone(), code, what, hint });
        };
        if let Some(failure) = &t.unreadable {
            say(failure.code, failure.what.clone(), failure.hint.clone().unwrap_or_default());
        } else {
            judge(world, tenant, t, max_lag, &mut say);
        }
    }
    found
}

fn judge(
    world: &World,
    tenant: &Tenant,
    t: &TenantStatus,
    max_lag: Option<Duration>,
    say: &mut dyn FnMut(ExitCode, String, String),
) {
    let now = world.clock.now();
    let again = || format!("a Super Admin of the customer must connect again: `{}`", reconnect(world, tenant));
    let Some(g) = &t.grant else {
        return say(
            ExitCode::Reconnect,
            "it was never connected".into(),
            format!("connect it: `{}`; or take it out of the configuration", reconnect(world, tenant)),
        );
    };
    let why = g.trouble.as_deref().unwrap_or_default();
    match g.health {
        "disconnected" => return,
        "dead" => {
            let since = g.since.map(day).unwrap_or_default();
            return say(ExitCode::Reconnect, format!("its grant is dead since {since}: {why}"), again());
        }
        // While a run holds it, that run is about to know.
        "uncertain" if t.held_by.is_none() => {
            say(
                ExitCode::Partial,
                format!("its grant is uncertain: {why}"),
                "the next run asks once more, which settles it: `hirelake keepalive`, or a sync".into(),
            );
        }
        "live" if g.trouble.is_some() => say(
            ExitCode::Partial,
            format!("its last refresh failed without harm: {why}"),
            "the next run tries again; `hirelake check` says what is wrong".into(),
        ),
        _ => {}
    }
    for (which, end, notice, hint) in [
        ("idle", g.idle_deadline, IDLE_NOTICE, "use it: `hirelake keepalive`, or a sync".to_owned()),
        (
            "hard",
            g.hard_deadline,
            HARD_NOTICE,
            format!("have the customer connect again before: `{}`", reconnect(world, tenant)),
        ),
    ] {
        let Some(end) = end else { continue };
        if end <= now {
            return say(ExitCode::Reconnect, format!("its {which} deadline passed on {}", day(end)), again());
        } else if end <= now.plus(notice) {
            say(ExitCode::Partial, format!("its {which} deadline is on {}", day(end)), hint);
        }
    }
    let config = world.config.tenant(tenant);
    if config.resources_named && !g.missing_scopes.is_empty() {
        say(
            ExitCode::Partial,
            format!("these scopes are needed and were not granted: {}", g.missing_scopes.join(" ")),
            format!(
                "register them for the app and connect again (`{}`), or leave their resources out",
                reconnect(world, tenant)
            ),
        );
    }
    let left: Vec<(&str, &str)> =
        t.tables.iter().filter_map(|(name, table)| Some((name.as_str(), table.lacks.as_deref()?))).collect();
    if !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|(name, _)| *name).collect();
        let lost: BTreeSet<&str> = left.iter().map(|(_, scope)| *scope).collect();
        say(
            ExitCode::Partial,
            format!("tables are no longer read and fall behind: {}", names.join(", ")),
            format!(
                "the newest consent left out {}: have the customer connect again (`{}`) with all scopes registered for the app, or leave these resources out",
                lost.into_iter().collect::<Vec<_>>().join(" "),
                reconnect(world, tenant)
            ),
        );
    }
    match &t.last_run {
        // A failure from before the newest consent is history.
        Some(LastRun { error: Some(error), ended, run, .. }) if *ended >= g.connected_at => {
            say(
                ExitCode::Partial,
                format!("its last run failed: {error}"),
                format!(
                    "its report, `reports/{run}.json` in the state, tells all of it; then `hirelake sync --tenant {tenant}`"
                ),
            );
        }
        // A part is read in its tenant's runs.
        None if config.part_of.is_none() && now.since(g.connected_at) > FIRST_SYNC => {
            say(ExitCode::Partial, "it was never synced".into(), format!("`hirelake sync --tenant {tenant}`"));
        }
        _ => {}
    }
    let Some(max) = max_lag else { return };
    let read = world.config.read_by(tenant);
    let behind: Vec<String> = (t.tables.iter())
        .filter(|(name, table)| {
            read.iter().any(|(r, _)| r.name == **name) && table.lag_s.is_some_and(|l| l > max.as_secs())
        })
        .map(|(name, table)| format!("{name} by {}", long(Duration::from_secs(table.lag_s.unwrap_or_default()))))
        .collect();
    if !behind.is_empty() {
        say(
            ExitCode::Partial,
            format!("its tables are behind: {}", behind.join(", ")),
            format!("`hirelake sync --tenant {tenant}`, and see why its runs do not finish or do not start"),
        );
    }
}

/// What a monitor gets: a customer is needed, else the state cannot be read, else somebody should look, else all is well.
#[must_use]
pub fn verdict(troubles: &[Trouble]) -> ExitCode {
    let has = |code| troubles.iter().any(|t| t.code == code);
    match () {
        () if troubles.is_empty() => ExitCode::Done,
        () if has(ExitCode::Reconnect) => ExitCode::Reconnect,
        () if has(ExitCode::Storage) => ExitCode::Storage,
        () => ExitCode::Partial,
    }
}

/// A moment's day.
pub(crate) fn day(t: Timestamp) -> String {
    t.to_string().get(..10).unwrap_or_default().to_owned()
}

fn minute(t: Timestamp) -> String {
    t.to_string().get(..16).unwrap_or_default().replace('T', " ")
}

/// A length of time in its largest unit.
fn long(d: Duration) -> String {
    let (n, unit) = match d.as_secs() {
        s @ ..120 => (s, "second"),
        s @ ..7_200 => (s / 60, "minute"),
        s @ ..172_800 => (s / 3_600, "hour"),
        s => (s / 86_400, "day"),
    };
    many(n, unit)
}

fn many(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A moment, and how far it is away.
fn seen_from(now: Timestamp, t: Timestamp) -> String {
    let away = if t > now { format!("in {}", long(t.since(now))) } else { format!("{} ago", long(now.since(t))) };
    format!("{} ({away})", minute(t))
}

fn kind(k: CredentialKind) -> &'static str {
    match k {
        CredentialKind::OAuth => "OAuth grant",
        CredentialKind::ApiKey => "API key",
    }
}

fn run_words(run: Option<&LastRun>) -> String {
    let Some(run) = run else { return "never".to_owned() };
    let ended = match (run.ok, &run.error) {
        (true, _) => "ok",
        (false, None) => "stopped",
        (false, Some(_)) => "failed",
    };
    format!("{} {ended}", minute(run.ended))
}

/// A table for people.
#[must_use]
pub fn table(all: &BTreeMap<Tenant, TenantStatus>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "tenant",
        "grant",
        "connected",
        "refreshed",
        "dies unused",
        "dies anyway",
        "last run",
        "rows",
        "oldest cursor",
        "note",
    ]);
    for (tenant, t) in all {
        let g = t.grant.as_ref();
        let mut notes: Vec<String> = t.part_of.iter().map(|whole| format!("part of {whole}")).collect();
        notes.extend(t.unreadable.iter().map(|f| f.what.clone()));
        notes.extend(g.and_then(|g| g.trouble.clone()));
        match g.map_or(&[][..], |g| &g.missing_scopes) {
            [] => {}
            few if few.len() <= 2 => notes.push(format!("missing scopes: {}", few.join(" "))),
            many => notes.push(format!("missing scopes: {} and {} more", many[0], many.len() - 1)),
        }
        notes.extend(t.reconnect.clone());
        let health = match g {
            _ if t.unreadable.is_some() && g.is_none() => "unreadable".to_owned(),
            None => "none".to_owned(),
            Some(g) if g.kind == CredentialKind::ApiKey => format!("{} (API key)", g.health),
            Some(g) => g.health.to_owned(),
        };
        table.add_row([
            tenant.to_string(),
            health,
            g.map(|g| day(g.connected_at)).unwrap_or_default(),
            g.map(|g| minute(g.refreshed_at)).unwrap_or_default(),
            g.and_then(|g| g.idle_deadline).map(day).unwrap_or_default(),
            g.and_then(|g| g.hard_deadline).map(day).unwrap_or_default(),
            if (t.unreadable.is_some() || t.part_of.is_some()) && t.last_run.is_none() {
                String::new()
            } else {
                run_words(t.last_run.as_ref())
            },
            t.tables.values().map(|t| t.rows).sum::<u64>().to_string(),
            t.tables.values().filter_map(|t| t.cursor).min().map(minute).unwrap_or_default(),
            notes.join("; "),
        ]);
    }
    table.trim_fmt()
}

/// Everything about one tenant, line by line.
#[must_use]
pub fn full(world: &World, tenant: &Tenant, t: &TenantStatus) -> String {
    let now = world.clock.now();
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "{key:<23}{value}");
        }
    };
    let listed = |scopes: &[String], none: &str| if scopes.is_empty() { none.to_owned() } else { scopes.join(" ") };
    line("tenant", tenant.to_string());
    line("part of", t.part_of.as_ref().map(|whole| format!("{whole}, and read with it")).unwrap_or_default());
    if let Some(failure) = &t.unreadable {
        line("cannot be read", failure.to_string());
    }
    match &t.grant {
        None if t.unreadable.is_none() => line("credential", "none: it was never connected".into()),
        None => {}
        Some(g) => {
            let oauth = g.kind == CredentialKind::OAuth;
            let at = |t: Option<Timestamp>| t.map(|t| seen_from(now, t)).unwrap_or_default();
            line("credential", kind(g.kind).into());
            line(
                "health",
                g.since.map_or_else(|| g.health.into(), |s| format!("{} since {}", g.health, seen_from(now, s))),
            );
            line("connected", at(Some(g.connected_at)));
            line("last refresh", if oauth { at(Some(g.refreshed_at)) } else { String::new() });
            let alive = !matches!(g.health, "dead" | "disconnected");
            let over = if g.expires_at.is_some_and(|end| end <= now) { "; refreshed when it is needed" } else { "" };
            line(
                "access token ends",
                g.expires_at.filter(|_| alive).map(|end| seen_from(now, end) + over).unwrap_or_default(),
            );
            line("idle deadline", at(g.idle_deadline));
            line("hard deadline", at(g.hard_deadline));
            line(
                "scopes granted",
                if oauth { listed(&g.scopes, "not known") } else { "what the key may; not known".into() },
            );
            line("scopes missing", if oauth { listed(&g.missing_scopes, "none") } else { String::new() });
            line("last error", g.trouble.clone().unwrap_or_else(|| "none".into()));
        }
    }
    let runs = t.last_run.is_some() || t.part_of.is_none();
    line("last run", if runs { run_words(t.last_run.as_ref()) } else { String::new() });
    line("its error", t.last_run.as_ref().and_then(|r| r.error.clone()).unwrap_or_default());
    line("held by", t.held_by.as_ref().map(|h| format!("run {} on {}", h.owner, h.host)).unwrap_or_default());
    line("connect again", t.reconnect.clone().unwrap_or_default());
    line("or by this link", t.link.clone().unwrap_or_default());
    for (name, table) in &t.tables {
        let cursor = table.cursor.map(|c| format!(", as of {}", seen_from(now, c))).unwrap_or_default();
        let whole = match (&table.lacks, table.parents_left) {
            (Some(scope), _) => format!(", no longer read: {scope} is not granted"),
            (None, _) if table.complete => String::new(),
            (None, Some(left)) => format!(", {} left for the next run", many(left, "parent")),
            (None, None) => ", first load under way".to_owned(),
        };
        let oldest = table.stalest.map(|t| format!(", none older than {}", seen_from(now, t))).unwrap_or_default();
        line(
            name.as_str(),
            format!("{}, {}{cursor}{oldest}{whole}", many(table.rows, "row"), many(table.files as u64, "file")),
        );
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_who_is_needed_comes_before_a_state_that_cannot_be_read() {
        let trouble = |code| Trouble { tenant: "a".parse().unwrap(), code, what: String::new(), hint: String::new() };
        let verdict =
            |codes: &[ExitCode]| super::verdict(&codes.iter().map(|c| trouble(*c)).collect::<Vec<_>>()).number();
        assert_eq!(verdict(&[]), 0);
        assert_eq!(verdict(&[ExitCode::Partial]), 3);
        assert_eq!(verdict(&[ExitCode::Partial, ExitCode::Storage]), 7);
        assert_eq!(verdict(&[ExitCode::Storage, ExitCode::Reconnect, ExitCode::Partial]), 4);
    }

    #[test]
    fn a_moment_is_told_with_how_far_it_is_away() {
        let now = Timestamp::from_ms(1_781_510_400_000);
        let hour = Duration::from_secs(3_600);
        assert_eq!(seen_from(now, now.plus(hour)), "2026-06-15 09:00 (in 60 minutes)");
        assert_eq!(seen_from(now, now.minus(hour * 24 * 90)), "2026-03-17 08:00 (90 days ago)");
    }
}
