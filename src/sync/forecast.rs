//! What a run would read, before a request is spent: from the last commits, the ledgers and the tables' own counts.
//!
//! Asks the provider nothing and writes nothing. Every figure that is more than arithmetic on what is known is marked as a
//! guess; what cannot even be guessed is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::ledger::{Ledger, Reads, Terms, Why, due, turns_of};
use super::{DATE_STEP, SyncError, World, lake_of, scratch, word};
use crate::auth::Grant;
use crate::catalog::{ByDefault, Mode, Paging, Resource, scopes};
use crate::clock::Timestamp;
use crate::names::{ResourceName, Tenant};
use crate::plan::{self, Wish, Work};
use crate::state::{Commit, CommitKind, State, Window};
use crate::sync::Options;

/// What would be read of one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// The tenant.
    pub tenant: Tenant,
    /// The resource.
    pub resource: ResourceName,
    /// `load`, `increment`, `listing`, `backfill`, `children` or `extracted`.
    pub mode: &'static str,
    /// What would be read, in words.
    pub window: String,
    /// Requests; `None` when nothing is known yet.
    pub requests: Option<u64>,
    /// Minutes that the requests take at the tenant's own limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Bytes that the provider would send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Of children: parents that changed, or were never read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<u64>,
    /// Of children: parents whose turn it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_turn: Option<u64>,
    /// Whether the figures are a guess, by what former runs met.
    pub guess: bool,
    /// Why it would not be read, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Forecast {
    fn new(tenant: &Tenant, resource: &Resource, mode: &'static str, window: String) -> Self {
        Self {
            tenant: tenant.clone(),
            resource: resource.name.clone(),
            mode,
            window,
            requests: None,
            minutes: None,
            bytes: None,
            changed: None,
            in_turn: None,
            guess: false,
            skipped: None,
        }
    }
}

/// Plans without a request and without a write. Scopes are those that the last grant had.
///
/// # Errors
///
/// When the state or the lake cannot be read.
pub async fn forecast(world: &World, options: &Options) -> Result<Vec<Forecast>, SyncError> {
    let state = State::new(world.state.clone(), world.clock);
    let tenants = world.meant(&options.tenants).await?;
    let bound = world.clock.now().minus(world.config.safety_lag + DATE_STEP);
    let mut all = Vec::new();
    for tenant in tenants {
        let mut grants = BTreeMap::new();
        for reader in std::iter::once(&tenant).chain(world.config.parts(&tenant)) {
            let granted = state.grants(reader).last::<Grant>().await?.map(|g| g.body.scopes);
            grants.insert(reader, granted.unwrap_or_default());
        }
        let config = world.config.tenant(&tenant);
        let begin = all.len();
        for (resource, reader) in world.config.read_by(&tenant) {
            let named = world.config.tenant(reader).resources_named || !options.resources.is_empty();
            let granted = &grants[reader];
            if !options.resources.is_empty() && !options.resources.contains(&resource.name) {
                continue;
            }
            let opens = |s: &str| scopes::opens(granted, s);
            if resource.default == ByDefault::Granted && !named && !resource.scope.as_deref().is_some_and(opens) {
                continue;
            }
            let may = |s: &str| granted.is_empty() || opens(s);
            let lacks = resource.scope.as_deref().filter(|s| !may(s));
            let last = state.commits(&tenant, &resource.name).last::<Commit>().await?.map(|e| e.body);
            let last = last.filter(|l| l.kind != CommitKind::Erased);
            let from = all.len();
            match &resource.mode {
                Mode::Extracted { from, .. } => {
                    let mut line = Forecast::new(&tenant, resource, "extracted", format!("with {from}"));
                    line.requests = Some(0);
                    all.push(line);
                }
                Mode::Children { .. } => {
                    all.push(children(world, &tenant, resource, last.as_ref(), options, bound, &state).await?);
                }
                _ => {
                    let mut wish = Wish { full: options.full, backfill: options.backfill };
                    let mut taken_out = Vec::new();
                    for (child, _) in world.config.read_by(&tenant) {
                        let of_it = matches!(&child.mode, Mode::Extracted { from, .. } if *from == resource.name);
                        if of_it && scopes::lacking(&world.config.provider, child, may).is_none() {
                            let written = state.commits(&tenant, &child.name).last::<Commit>().await?.is_some();
                            taken_out.push((&child.name, written));
                        }
                    }
                    let hidden = world.config.provider.confidential.as_ref().filter(|_| config.confidential);
                    let hidden = hidden.filter(|_| resource.confidential.is_some());
                    let confidential = hidden.is_some_and(|h| may(&h.scope));
                    let anew = plan::anew(last.as_ref(), taken_out.into_iter(), confidential);
                    wish.full |= anew.is_some() && wish.backfill.is_none();
                    let mut lines = listings(world, &tenant, resource, last.as_ref(), wish, bound);
                    if let (Some(why), Some(line)) = (anew, lines.first_mut()) {
                        line.window = format!("anew, because {why}: {}", line.window);
                    }
                    all.extend(lines);
                }
            }
            if let Some(scope) = lacks {
                for line in all.iter_mut().skip(from) {
                    (line.requests, line.bytes) = (Some(0), None);
                    line.skipped = Some(format!("not granted: it needs the scope {scope}"));
                }
            }
        }
        for line in all.iter_mut().skip(begin) {
            line.minutes = line.requests.map(|n| n as f64 / config.rate.per_second / 60.0);
        }
    }
    Ok(all)
}

fn listings(
    world: &World,
    tenant: &Tenant,
    resource: &Resource,
    last: Option<&Commit>,
    wish: Wish,
    bound: Timestamp,
) -> Vec<Forecast> {
    let page = match resource.paging {
        Paging::Token { limit, .. } => u64::from(limit),
        Paging::Single => u64::MAX,
    };
    let pages = |rows: u64| rows.div_ceil(page).max(1);
    let habits = last.and_then(|l| l.habits);
    // Rows that change in a time, as the last increments met them.
    let changes = |of: Duration| habits.map(|h| (h.rows_a_day * of.as_secs_f64() / 86_400.0).ceil() as u64);
    let length = |w: &Window| w.from.map_or(Duration::ZERO, |from| w.to.since(from));
    plan::due(resource, last, bound, world.config.overlap, wish)
        .iter()
        .map(|work| {
            let (window, requests, guess) = match work {
                Work::Load { gaps, .. } => {
                    let text = gaps.iter().map(Window::to_string).collect::<Vec<_>>().join(" ");
                    // As dense as what was read of it; of a load that has not begun nothing is known.
                    let covered: Duration =
                        last.map(|l| l.covered.created.windows().iter().map(length).sum()).unwrap_or_default();
                    let left: Duration = gaps.iter().map(length).sum();
                    let rows = last.map_or(0, Commit::rows);
                    let known = !covered.is_zero() && rows > 0 && gaps.iter().all(|g| g.from.is_some());
                    let rest = rows as f64 * left.as_secs_f64() / covered.as_secs_f64().max(1.0);
                    // Anew it is as large as it was.
                    let anew = rows > 0 && gaps.iter().any(|g| g.from.is_none());
                    let rows = if anew { Some(rows) } else { known.then_some(rest as u64) };
                    (text, rows.map(|rows| pages(rows) + gaps.len() as u64), true)
                }
                Work::Listing { .. } => ("everything".to_owned(), last.map(|l| pages(l.living())), last.is_none()),
                Work::Increment { window, reach } => {
                    let read = Window::new(*reach, window.to);
                    let whole = read.from.is_none().then(|| last.map_or(1, |l| pages(l.rows())));
                    let rows = changes(length(&read));
                    (read.to_string(), whole.or_else(|| rows.map(pages)).or(Some(1)), true)
                }
                Work::Backfill { window } => (window.to_string(), changes(length(window)).map(pages), true),
            };
            let mut line = Forecast::new(tenant, resource, word(work), window);
            (line.requests, line.guess) = (requests, guess);
            line.bytes = requests.zip(habits).map(|(n, h)| n * h.request_bytes);
            line
        })
        .collect()
}

async fn children(
    world: &World,
    tenant: &Tenant,
    resource: &Resource,
    last: Option<&Commit>,
    options: &Options,
    bound: Timestamp,
    state: &State,
) -> Result<Forecast, SyncError> {
    let Mode::Children { from, skip, .. } = &resource.mode else {
        return Ok(Forecast::new(tenant, resource, "children", String::new()));
    };
    let mut line = Forecast::new(tenant, resource, "children", format!("of {from} that changed, and of some in turn"));
    let Some(carrier) = world.config.provider.resource(from.as_str()) else { return Ok(line) };
    let scratch = scratch(world, tenant)?;
    let lake = lake_of(world, tenant, scratch.path());
    let table = world.config.table(carrier)?;
    let read = last.and_then(|l| l.parents.clone());
    let ledger = Ledger::new(world, tenant, scratch.path(), resource, carrier)?;
    let reads = if last.is_none() { Reads::none() } else { ledger.read().await? };
    let began = read.as_ref().and_then(|r| r.full_since).filter(|_| options.backfill.is_none());
    let anew = began.or_else(|| options.full.then(|| world.clock.now()));
    let terms = Terms {
        carrier,
        table: &table,
        skip: skip.as_ref(),
        reconcile: turns_of(&world.config, tenant, resource),
        last: read.as_ref(),
        now: world.clock.now(),
        overlap: world.config.overlap,
        backfill: options.backfill,
        anew,
        lost: BTreeSet::new(),
    };
    let due = due(&lake, &terms, &reads).await?;
    // Parents that this run's own increment will find changed are not in the lake yet.
    let parent = state.commits(tenant, &carrier.name).last::<Commit>().await?.map(|e| e.body);
    let since = parent.as_ref().and_then(Commit::cursor);
    let coming = parent
        .as_ref()
        .and_then(|p| p.habits)
        .zip(since)
        .map_or(0, |(h, since)| (h.rows_a_day * bound.since(since).as_secs_f64() / 86_400.0).ceil() as u64);
    let known = parent.is_some() && parent.as_ref().is_some_and(|p| p.load_done);
    let changed = due.count(Why::Changed) + coming;
    let in_turn = due.count(Why::Reconcile);
    let each = read.as_ref().map_or(1000, |r| r.milli_requests.max(1));
    if parent.is_none() {
        return Ok(line);
    }
    line.changed = Some(changed);
    line.in_turn = Some(in_turn);
    // What the parents' own increment will find is not known before it was read.
    let ahead = matches!(carrier.mode, crate::catalog::Mode::Incremental { .. });
    line.guess = ahead || coming > 0 || !known || each != 1000;
    line.requests = Some(((changed + in_turn) * each).div_ceil(1000));
    line.bytes = line.requests.zip(last.and_then(|l| l.habits)).map(|(n, h)| n * h.request_bytes);
    Ok(line)
}

/// The forecast as a person reads it; a guess has a tilde before it.
#[must_use]
pub fn table(all: &[Forecast]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["tenant", "resource", "mode", "requests", "minutes", "bytes", "parents due", "what"]);
    let number = |n: Option<String>, guess: bool| match n {
        Some(n) if guess => format!("~{n}"),
        Some(n) => n,
        None => "?".to_owned(),
    };
    for f in all {
        let parents = f.changed.zip(f.in_turn).map(|(c, t)| format!("{c} + {t} in turn")).unwrap_or_default();
        table.add_row([
            f.tenant.to_string(),
            f.resource.to_string(),
            if f.skipped.is_some() { "skipped".to_owned() } else { f.mode.to_owned() },
            number(f.requests.map(|n| n.to_string()), f.guess),
            number(f.minutes.map(|m| format!("{m:.1}")), f.guess),
            if f.requests == Some(0) { String::new() } else { number(f.bytes.map(bytes), true) },
            parents,
            f.skipped.clone().unwrap_or_else(|| f.window.clone()),
        ]);
    }
    let mut names: Vec<&Tenant> = all.iter().map(|f| &f.tenant).collect();
    names.dedup();
    for tenant in names {
        let own = || all.iter().filter(|f| f.tenant == *tenant);
        let unknown = own().any(|f| f.requests.is_none());
        let requests: u64 = own().filter_map(|f| f.requests).sum();
        let minutes: f64 = own().filter_map(|f| f.minutes).sum();
        let more = if unknown { " and what is not known yet" } else { "" };
        table.add_row([
            tenant.to_string(),
            "all".to_owned(),
            String::new(),
            number(Some(requests.to_string()), own().any(|f| f.guess)),
            number(Some(format!("{minutes:.1}")), own().any(|f| f.guess)),
            number(Some(bytes(own().filter_map(|f| f.bytes).sum())), true),
            String::new(),
            format!("at {} requests a second{more}", rate(all, tenant)),
        ]);
    }
    for column in 3..6 {
        if let Some(c) = table.column_mut(column) {
            c.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn rate(all: &[Forecast], tenant: &Tenant) -> String {
    let mut known = all.iter().filter(|f| f.tenant == *tenant);
    let rate = known.find_map(|f| {
        let (n, m) = (f.requests.filter(|n| *n > 0)?, f.minutes.filter(|m| *m > 0.0)?);
        Some(n as f64 / m / 60.0)
    });
    rate.map_or_else(|| "?".to_owned(), |r| format!("{r:.0}"))
}

fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.0} KB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
