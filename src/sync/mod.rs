//! The whole job on one page: auth → plan → extract → transform → load → commit → report.
//!
//! Tenants run side by side, each under its lease and those of its parts; inside a tenant all resources run side by side behind
//! one gate, each with the grant that reads it, then the feeds of deletions, then the deletions themselves, then children of
//! parents that changed. Data is always durable before the commit that speaks of it.

mod blank;
mod children;
pub mod contents;
mod delete;
mod forecast;
mod group;
mod heal;
pub mod ledger;
pub mod quarantine;
mod verdict;
mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adopt::{self, Seen};
use crate::auth::known::{Known, is_unique};
use crate::auth::{Auth, AuthError, CredentialKind, Session};
use crate::catalog::{Act, ByDefault, Confidential, Mode, Resource, scopes};
use crate::clock::Timestamp;
use crate::config::{Config, ConfigError, Schema};
use crate::extract::{self, ExtractError};
use crate::http::{Allowance, Weather};
use crate::load::{self, Lake, LoadError, Suppress};
use crate::names::{ResourceName, RunId, Tenant};
use crate::plan::{self, Work};
use crate::report::{DriftCount, ExitCode, Failure, Outcome, Report, ResourceReport, TenantReport};
use crate::state::{Commit, CommitKind, Entry, Lease, State, StateError, Window};
use crate::store::StoreError;
use crate::transform::{Drift, Pseudonyms, Rules};

use children::Children;
pub use forecast::{Forecast, forecast, table as forecast_table};
use group::Group;
pub use verdict::{code, refusal, unanswered};
pub use world::World;

/// The provider's `Date` has whole seconds, so a bound taken from our own clock stays a second further back.
const DATE_STEP: Duration = Duration::from_secs(1);

/// Stands where a commit says under which privacy settings rows were written, when it was several.
const MIXED: &str = "mixed";
/// Places that a frozen resource's failure names; the report has all.
const FROZEN_TOLD: usize = 5;

/// How long a part is waited for that another run holds: a keepalive has it for seconds.
const PART_PATIENCE: Duration = Duration::from_secs(30);

/// Why a tenant, or one of its resources, was not synced.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tenant may not be asked for.
    #[error(transparent)]
    Auth(#[from] crate::auth::AuthError),
    /// A window could not be read.
    #[error(transparent)]
    Extract(#[from] crate::extract::ExtractError),
    /// Rows could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The lake or state could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record could not be sealed for the quarantine.
    #[error(transparent)]
    Vault(#[from] crate::auth::vault::VaultError),
    /// The table is cut otherwise than the configuration says.
    #[error(
        "table {resource} is cut by `{found}` and the configuration says `{wanted}`\nhint: `hirelake relay {resource}` lays it anew; or set [partitions] {resource} back to \"{found}\""
    )]
    Layout {
        /// The table.
        resource: ResourceName,
        /// As it is.
        found: String,
        /// As configured.
        wanted: String,
    },
    /// Nothing is there of what was committed.
    #[error(
        "none of the {files} files that were committed of tenant {tenant} are in the lake {lake}\nhint: is its volume mounted, and is `lake` right? Nothing was written. To build it anew there: `hirelake sync --full --tenant {tenant}`"
    )]
    LakeGone {
        /// The tenant.
        tenant: Tenant,
        /// The lake's URL or folder.
        lake: String,
        /// How many files.
        files: usize,
    },
    /// A resource that was named is not granted.
    #[error(
        "tenant {tenant}: {resource} needs the scope {scope}, which is not granted\nhint: add it to the app at the provider and connect the tenant again: `hirelake connect {tenant}`"
    )]
    NotGranted {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The scope.
        scope: String,
    },
    /// Confidential records are asked for, and their scope is not granted.
    #[error(
        "tenant {tenant}: confidential records of {resource} need the scope {scope}, which is not granted: only the others were read\nhint: add it to the app at the provider and connect the tenant again: `hirelake connect {tenant}`; or ask for them no longer (`confidential = false`)"
    )]
    Hidden {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The scope.
        scope: String,
    },
    /// More rows vanished at once than is believed.
    #[error(
        "tenant {tenant}: {absent} of {rows} rows of {resource} are missing from its listing, which is more than a fifth: nothing was deleted\nhint: if they were really deleted, run once with --allow-mass-delete; else the listing was wrong"
    )]
    MassDelete {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// Missing rows.
        absent: usize,
        /// Living rows.
        rows: usize,
    },
    /// More records than is believed were not found when their children were asked for.
    #[error(
        "tenant {tenant}: {absent} of {rows} rows of {resource} were not found (404) when their children were asked for, which is more than a fifth: none was deleted\nhint: if they were really deleted, run once with --allow-mass-delete; else the provider answered wrongly, and the next run asks again"
    )]
    Unfound {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// Those that were not found.
        absent: usize,
        /// Living rows.
        rows: usize,
    },
    /// Something the catalogue does not expect, where that is not allowed.
    #[error(
        "tenant {tenant}: {resource} drifted and its schema is frozen: {what}; nothing of that {unit} was committed\nhint: `hirelake catalog drift --tenant {tenant}` proposes the lines that adopt it; or set schema = \"warn\" for the tenant"
    )]
    Frozen {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// Places and types.
        what: String,
        /// `window` or `parent`.
        unit: &'static str,
    },
    /// A part of the tenant may not be asked for; the rest of the tenant is read.
    #[error("tenant {tenant}: what is read with the grant of its part {part} was not read")]
    Part {
        /// The tenant.
        tenant: Tenant,
        /// Its part.
        part: Tenant,
        /// Why.
        source: Box<SyncError>,
    },
    /// Some parents' children could not be read.
    #[error(
        "tenant {tenant}: the children of {failed} of {due} parents of {resource} could not be read\nhint: they stay due, and the next run asks again; the log says why each failed"
    )]
    Parents {
        /// The tenant.
        tenant: Tenant,
        /// The resource of children.
        resource: ResourceName,
        /// Parents that failed.
        failed: u64,
        /// Parents that were due.
        due: u64,
    },
    /// Rows of ours that do not make a batch: a bug.
    #[error("rows of {what} do not make a batch: {why}\nhint: this is a bug of hirelake; please report it")]
    Rows {
        /// Whose.
        what: String,
        /// Why.
        why: String,
    },
    /// A task died: a bug.
    #[error("a task of tenant {tenant} died\nhint: this is a bug of hirelake; please report it with the log")]
    Died {
        /// The tenant.
        tenant: Tenant,
    },
}

/// What a run is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Tenants; all when empty.
    pub tenants: Vec<Tenant>,
    /// Resources; all of each tenant's when empty.
    pub resources: Vec<ResourceName>,
    /// Load everything anew.
    pub full: bool,
    /// Read this window again by the update cursor.
    pub backfill: Option<Window>,
    /// Stop cleanly after this long.
    pub deadline: Option<Duration>,
    /// Stop cleanly after so many requests to the data API, retries included, of all tenants together.
    pub max_requests: Option<u64>,
    /// Believe that more than a fifth of a listing vanished.
    pub allow_mass_delete: bool,
    /// How long to wait for a tenant that another run holds.
    pub wait: Duration,
}

/// Syncs tenants × resources.
///
/// # Errors
///
/// Only when nothing could begin: no vault key, no state. What happens to a tenant is in the report.
pub async fn run(world: &World, options: &Options) -> Result<Report, SyncError> {
    let (run, started) = (RunId::new(), world.clock.now());
    let state = State::new(world.state.clone(), world.clock);
    let mut tenants = world.meant(&options.tenants).await?;
    tenants.reverse();

    let stop = world.stop.child_token();
    let auth = Auth::new(world.config.clone(), state.clone(), world.clock, run)?;
    let allowance = options.max_requests.map(|n| Arc::new(Allowance::new(n, stop.clone())));
    let weather = Arc::new(Weather::default());
    let auth = auth.for_fleet(tenants.len() > 1, stop.clone()).within(allowance.clone());
    let auth = Arc::new(auth.patient(weather.clone()));
    let until = options.deadline.map(|d| world.clock.elapsed() + d);
    let alarm = options.deadline.map(tokio::time::sleep);
    let work = async {
        let mut running = JoinSet::new();
        let mut names = HashMap::new();
        let mut done = BTreeMap::new();
        loop {
            if stop.is_cancelled() {
                // No new work: not a lease, and above all no refresh that the end could cut.
                let left = tenants.drain(..).map(|t| (t, TenantReport { stopped: true, ..TenantReport::default() }));
                done.extend(left);
            }
            // Who waits for a provider that does not answer takes nobody's place; there are never more than twice as many.
            let at_once = world.config.tenants_at_once;
            while running.len() < at_once + weather.troubled().min(at_once) {
                let Some(tenant) = tenants.pop() else { break };
                let job = TenantJob {
                    signal: world.stop.clone(),
                    world: World { stop: stop.clone(), ..world.clone() },
                    options: options.clone(),
                    state: state.clone(),
                    auth: auth.clone(),
                    run,
                    tenant: tenant.clone(),
                    until,
                };
                let task = running.spawn(job.run());
                names.insert(task.id(), tenant);
            }
            let joined = tokio::select! {
                joined = running.join_next_with_id() => joined,
                () = weather.worsens() => continue,
            };
            let (id, report) = match joined {
                Some(Ok((id, report))) => (id, report),
                Some(Err(died)) => {
                    let tenant = names.get(&died.id()).cloned();
                    let failures = tenant.map(|tenant| fail(None, &SyncError::Died { tenant })).into_iter().collect();
                    (died.id(), TenantReport { failures, ..TenantReport::default() })
                }
                None => return done,
            };
            if let Some(tenant) = names.remove(&id) {
                done.insert(tenant, report);
            }
        }
    };
    tokio::pin!(work);
    let done = match alarm {
        None => work.await,
        Some(alarm) => tokio::select! {
            done = &mut work => done,
            () = alarm => {
                tracing::info!("the deadline has come; stopping cleanly");
                stop.cancel();
                work.await
            }
        },
    };
    let mut done = done;
    for (tenant, error) in auth.judge().await {
        let whole = world.config.whole(&tenant);
        if let Some(report) = done.get_mut(whole) {
            // It was told that the customer must reconnect, before anybody knew of the others.
            let told = format!("tenant {tenant} ");
            report.failures.retain(|f| f.code != ExitCode::Reconnect || !f.what.contains(&told));
            report.failures.push(fail(None, &error.into()));
            let runs = state.runs(whole);
            if let Ok(Some(last)) = runs.last::<LastRun>().await
                && last.body.run == run
            {
                let error = report.failures.first().map(|f| f.what.clone());
                if let Err(error) = remember(&state, whole, LastRun { error, ..last.body }).await {
                    tracing::warn!(tenant = %whole, %error, "the run could not be noted in the state");
                }
            }
        }
    }
    evolve(world, &mut done);
    let code = Report::verdict(&done);
    let stopped_at = allowance
        .filter(|a| a.is_used_up())
        .map(|_| format!("all {} requests of --max-requests are used up", options.max_requests.unwrap_or_default()));
    let report = Report {
        run,
        version: env!("CARGO_PKG_VERSION"),
        started,
        ended: world.clock.now(),
        code,
        stopped_at,
        tenants: done,
    };
    if let Err(error) = state.keep_report(run, report.json().into()).await {
        tracing::warn!(%error, "the report could not be kept in the state");
    }
    Ok(report)
}

/// What tenants met that the catalogue does not expect becomes columns of the next run, where they are configured so.
fn evolve(world: &World, done: &mut BTreeMap<Tenant, TenantReport>) {
    let evolves = |t: &Tenant| world.config.tenant(t).schema == Schema::Evolve;
    let Some(folder) = world.config.catalog.as_ref().filter(|_| done.keys().any(evolves)) else { return };
    let mut seen = Seen::default();
    for report in done.iter().filter(|(t, _)| evolves(t)).map(|(_, r)| r) {
        report.resources.iter().for_each(|(name, r)| seen.add(name, &r.drift));
    }
    let outcome = adopt::evolve(folder, &world.config.provider, &seen);
    if let Err(error) = &outcome {
        tracing::warn!(%error, "undeclared fields could not be adopted; they stay undeclared");
    }
    for (tenant, report) in done.iter_mut().filter(|(t, _)| evolves(t)) {
        for (name, r) in &mut report.resources {
            let met: Vec<&adopt::Adopted> = match &outcome {
                Ok(adopted) => adopted.iter().filter(|a| a.was_met(name, &r.drift)).collect(),
                Err(error) if seen.is_adoptable(&world.config.provider, name, &r.drift) => {
                    r.notes.push(format!("undeclared fields could not be adopted: {error}"));
                    continue;
                }
                Err(_) => continue,
            };
            if !met.is_empty() {
                let columns: Vec<String> = met.iter().map(ToString::to_string).collect();
                tracing::info!(%tenant, resource = %name, columns = columns.len(), "undeclared fields become columns of the next run");
                r.notes.push(format!("columns of the next run, in {}: {}", adopt::EVOLVED, columns.join(", ")));
            }
        }
    }
}

/// What the newest run of a tenant left for `status`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LastRun {
    /// The run.
    pub run: RunId,
    /// When it ended.
    pub ended: Timestamp,
    /// Whether nothing of the tenant failed.
    pub ok: bool,
    /// What failed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Requests made.
    pub requests: u64,
}

struct TenantJob {
    world: World,
    /// Set when the process is to end, which no request is waited for.
    signal: CancellationToken,
    options: Options,
    state: State,
    auth: Arc<Auth>,
    run: RunId,
    tenant: Tenant,
    until: Option<Duration>,
}

/// What all tasks of a tenant share.
struct TenantRun {
    world: World,
    /// Set when the process is to end.
    signal: CancellationToken,
    options: Options,
    state: State,
    auth: Arc<Auth>,
    run: RunId,
    tenant: Tenant,
    session: Arc<Session>,
    /// Of the parts that may be asked for; behind the same gate.
    parts: BTreeMap<Tenant, Session>,
    lease: Arc<Lease>,
    lake: Lake,
    /// What is done to rows before they are written, for tables of which anything is.
    rules: HashMap<ResourceName, Rules>,
    /// Nothing later is covered by this run.
    bound: Timestamp,
    /// The clock's reading at which the run is to stop.
    until: Option<Duration>,
    /// Order of responses.
    seq: AtomicU64,
    /// The tables that are read, once they are chosen.
    reads: OnceLock<BTreeSet<ResourceName>>,
    /// Whether somebody arrived anonymized, in this run or before one that was cut.
    anonymized: AtomicBool,
    /// Parents that a request for their children did not find, by their resource.
    gone: Mutex<BTreeMap<ResourceName, BTreeSet<String>>>,
}

impl TenantJob {
    #[tracing::instrument(name = "sync", skip_all, fields(tenant = %self.tenant, run = %self.run))]
    async fn run(self) -> TenantReport {
        let mut report = TenantReport::default();
        let tenant = self.tenant.clone();
        let lease = tokio::select! {
            taken = self.auth.patient_lease(&tenant, self.run, self.options.wait) => taken,
            () = self.world.stop.cancelled() => {
                report.stopped = true;
                return report;
            }
        };
        let lease = match lease {
            Ok(lease) => Arc::new(lease),
            Err(e) => {
                report.failures.push(fail(None, &e.into()));
                return report;
            }
        };
        let (state, run, clock, auth) = (self.state.clone(), self.run, self.world.clock, self.auth.clone());
        let (mut parts, mut unread) = (Vec::new(), Vec::new());
        tokio::select! {
            lost = lease.keep() => report.failures.push(fail(None, &lost.into())),
            () = async {
                (parts, unread) = self.parts().await;
            } => {}
        }
        if report.failures.is_empty() {
            tokio::select! {
                lost = lease.keep() => report.failures.push(fail(None, &lost.into())),
                never = keep_all(&parts) => match never {},
                outcome = self.held(lease.clone(), &parts, unread, &mut report) => {
                    if let Err(e) = outcome {
                        report.failures.push(fail(None, &e));
                    }
                }
            }
        }
        auth.settled(&tenant).await;
        for part in parts {
            auth.settled(part.tenant()).await;
            give_back(part).await;
        }
        for failure in &report.failures {
            tracing::error!(
                resource = failure.resource.as_ref().map(tracing::field::display),
                hint = failure.hint,
                "{}",
                failure.what
            );
        }
        let last = LastRun {
            run,
            ended: clock.now(),
            ok: report.failures.is_empty() && !report.stopped,
            error: report.failures.first().map(|f| f.what.clone()),
            requests: report.requests,
        };
        if let Err(error) = remember(&state, &tenant, last).await {
            tracing::warn!(%error, "the run could not be noted in the state");
        }
        give_back(lease).await;
        report
    }

    /// Takes the tenant's parts; gives those that could not be had with why.
    async fn parts(&self) -> (Vec<Arc<Lease>>, Vec<(Tenant, SyncError)>) {
        let (mut leases, mut unread) = (Vec::new(), Vec::new());
        for part in self.world.config.parts(&self.tenant) {
            let taken = tokio::select! {
                taken = self.auth.patient_lease(part, self.run, PART_PATIENCE) => taken.map_err(SyncError::from),
                () = self.world.stop.cancelled() => Err(AuthError::Stopped { tenant: part.clone() }.into()),
            };
            match taken {
                Ok(lease) => leases.push(Arc::new(lease)),
                Err(error) => unread.push((part.clone(), error)),
            }
        }
        (leases, unread)
    }

    async fn held(
        self,
        lease: Arc<Lease>,
        leases: &[Arc<Lease>],
        mut unread: Vec<(Tenant, SyncError)>,
        report: &mut TenantReport,
    ) -> Result<(), SyncError> {
        let swept = self.world.lake.owned_by(self.tenant.as_str()).sweep_staging()?
            + self.world.state.owned_by(self.tenant.as_str()).sweep_staging()?;
        if swept > 0 {
            tracing::info!(swept, "removed staged files of a killed run");
        }
        let ended = lease.end_uploads(&[&self.world.lake, &self.world.state]).await?;
        if ended > 0 {
            tracing::info!(ended, "ended uploads in parts of a killed run");
        }
        if self.world.stop.is_cancelled() {
            report.stopped = true;
            return Ok(());
        }
        let session = match self.auth.open(&self.tenant, lease.clone()).await {
            Ok(session) => Arc::new(session),
            Err(AuthError::Stopped { .. }) => {
                report.stopped = true;
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let mut parts = BTreeMap::new();
        for lease in leases {
            let part = lease.tenant();
            match self.auth.open_beside(&session, part, lease.clone()).await {
                Ok(session) => drop(parts.insert(part.clone(), session)),
                Err(AuthError::Stopped { .. }) => {
                    report.stopped = true;
                    return Ok(());
                }
                Err(error) => unread.push((part.clone(), error.into())),
            }
        }
        let scratch = scratch(&self.world, &self.tenant)?;
        let lake = lake_of(&self.world, &self.tenant, scratch.path());
        let rules = rules(&self.world.config, &self.tenant, &self.auth).await?;
        let bound = self.world.clock.now().minus(self.world.config.safety_lag + DATE_STEP);
        let run = Arc::new(TenantRun {
            world: self.world,
            signal: self.signal,
            options: self.options,
            state: self.state,
            auth: self.auth,
            run: self.run,
            tenant: self.tenant,
            session: session.clone(),
            parts,
            lease,
            lake,
            rules,
            bound,
            until: self.until,
            seq: AtomicU64::new(0),
            reads: OnceLock::new(),
            anonymized: AtomicBool::new(false),
            gone: Mutex::default(),
        });
        report.notes.extend(heal::heal(&run).await?);
        let outcome = run.resources(report).await;
        run.tell_rows(report).await;
        let former = report.former_privacy.len();
        if former > 0 {
            let tables =
                if former == 1 { "1 table still holds".to_owned() } else { format!("{former} tables still hold") };
            report.notes.push(format!(
                "privacy was set otherwise before: {tables} rows of the former setting; `hirelake sync --tenant {} --full` rewrites them",
                run.tenant
            ));
        }
        if let Err(error) = run.state.sweep_quarantine(&run.tenant, run.world.config.quarantine_keep).await {
            tracing::warn!(%error, "the quarantine could not be swept; the next run tries again");
        }
        let pace = session.gate().pace();
        report.requests = pace.requests;
        report.refused = pace.refused;
        // Told last: what failed of the rest is judged without them.
        for (part, source) in unread {
            let error = SyncError::Part { tenant: run.tenant.clone(), part, source: Box::new(source) };
            report.failures.push(fail(None, &error));
        }
        outcome
    }
}

/// What a tenant's privacy settings do to each of its tables. The key of the pseudonyms is asked for only where there are any.
async fn rules(config: &Config, tenant: &Tenant, auth: &Auth) -> Result<HashMap<ResourceName, Rules>, SyncError> {
    let settings = &config.tenant(tenant).privacy;
    let all = &config.provider.resources;
    let rules = |r: &&Resource| Some((r.name.clone(), Rules::new(r, all, settings)?));
    let mut rules: HashMap<ResourceName, Rules> =
        config.read_by(tenant).into_iter().filter_map(|(r, _)| rules(&r)).collect();
    if rules.values().any(Rules::need_key) {
        let pseudonyms = Arc::new(Pseudonyms::new(&*auth.pseudonym_key().await?));
        rules = rules.into_iter().map(|(name, r)| (name, r.keyed(pseudonyms.clone()))).collect();
    }
    Ok(rules)
}

/// Look-ups by which a new credential's account is told from another: the first that both sides know decides.
const COMPARED: usize = 3;

/// What the lake holds of a tenant by which a new credential can be compared with it, without a request and without a lease:
/// complete look-ups, their ids being the account's own. A table that cannot be read is left out.
pub async fn known(world: &World, tenant: &Tenant) -> Known {
    let lake = lake_of(world, tenant, &world.config.scratch);
    let mut known = Known::default();
    for resource in world.config.provider.resources.iter().filter(|r| r.mode == Mode::Full && r.key.len() == 1) {
        // A key that is made from the content is no id, and a listing with bounds is not complete.
        if known.listings.len() == COMPARED || resource.content_key.is_some() || resource.span.is_some() {
            continue;
        }
        let Ok(table) = world.config.table(resource) else { continue };
        match load::living_keys(&lake, &table).await {
            Ok(ids) => {
                let ids: BTreeSet<String> = ids.into_iter().filter(|id| is_unique(id)).collect();
                if !ids.is_empty() {
                    known.listings.push((resource.clone(), ids));
                }
            }
            Err(error) => {
                tracing::warn!(%tenant, resource = %resource.name, %error, "its rows cannot be read, so nothing is compared with them");
            }
        }
    }
    known
}

/// Keeps the leases of parts. Whoever writes to the lake does so under the tenant's own, so losing one of these costs no more
/// than the part's next refresh, which is not begun without it.
async fn keep_all(parts: &[Arc<Lease>]) -> std::convert::Infallible {
    let keeping = parts.iter().map(|part| async {
        let lost = part.keep().await;
        tracing::warn!(part = %part.tenant(), error = %lost, "the lease of a part was lost");
    });
    futures::future::join_all(keeping).await;
    std::future::pending().await
}

async fn give_back(lease: Arc<Lease>) {
    match Arc::try_unwrap(lease) {
        Ok(lease) => {
            if let Err(error) = lease.release().await {
                tracing::warn!(%error, "the lease could not be given back; it ends by itself");
            }
        }
        Err(lease) => tracing::warn!(held = %lease.tenant(), "the lease is still in use; it ends by itself"),
    }
}

fn lake_of(world: &World, tenant: &Tenant, scratch: &std::path::Path) -> Lake {
    Lake::new(world.lake.owned_by(tenant.as_str()), tenant.clone(), scratch.to_owned())
}

/// A private folder for spilled rows, removed when dropped. Those that a killed run of this tenant left are removed first.
fn scratch(world: &World, tenant: &Tenant) -> Result<tempfile::TempDir, StoreError> {
    let parent = &world.config.scratch;
    let io = |op| move |source| StoreError::Io { op, path: parent.clone(), source };
    let prefix = sweep_scratch(world, tenant)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    // It holds rows, and may lie where every user of the machine looks: only its owner opens it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir_in(parent).map_err(io("make a private folder in"))
}

/// Makes sure that no table is cut otherwise than the configuration says, as the state remembers it.
///
/// # Errors
///
/// [`SyncError::Layout`] for the first that is; else when the state cannot be read.
pub(crate) async fn layouts_agree(config: &Config, state: &State) -> Result<(), SyncError> {
    for resource in &config.provider.resources {
        let table = config.table(resource)?;
        let wanted = table.layout.granularity;
        if let Some(found) = state.layout(&table.resource).last::<crate::catalog::Granularity>().await?
            && found.body != wanted
        {
            let (found, wanted) = (found.body.to_string(), wanted.to_string());
            return Err(SyncError::Layout { resource: table.resource, found, wanted });
        }
    }
    Ok(())
}

/// Removes the private folders that killed runs of this tenant left: whoever asks holds the lease, so nobody writes there.
/// Returns how their names begin.
///
/// # Errors
///
/// When the scratch folder cannot be read, or one of them not removed.
pub fn sweep_scratch(world: &World, tenant: &Tenant) -> Result<String, StoreError> {
    let (prefix, left) = left_in_scratch(world, tenant)?;
    for path in left {
        std::fs::remove_dir_all(&path).map_err(|source| StoreError::Io {
            op: "remove a killed run's folder",
            path,
            source,
        })?;
    }
    Ok(prefix)
}

/// How the names of this tenant's private folders begin, and those that there are: while nobody else holds the lease, killed
/// runs left them.
///
/// # Errors
///
/// When the scratch folder cannot be read.
pub fn left_in_scratch(world: &World, tenant: &Tenant) -> Result<(String, Vec<PathBuf>), StoreError> {
    let parent = &world.config.scratch;
    let io = |op| move |source| crate::store::StoreError::Io { op, path: parent.clone(), source };
    world.config.scratch_folder().map_err(io("make the scratch folder"))?;
    // Another state has other leases, so its folders are not ours to remove; a memory state has none but its own.
    let whose = match world.state.root() {
        Some(root) => root.to_string_lossy().into_owned(),
        None if crate::store::is_remote(world.state.url()) => world.state.url().to_owned(),
        None => RunId::new().to_string(),
    };
    let hash = twox_hash::XxHash64::oneshot(0, whose.as_bytes());
    let prefix = format!("hirelake-{hash:016x}-{tenant}.");
    let entries =
        std::fs::read_dir(parent).map_err(|source| StoreError::Io { op: "list", path: parent.clone(), source })?;
    let left = entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)));
    let left = left.map(|e| e.path()).collect();
    Ok((prefix, left))
}

async fn remember(state: &State, tenant: &Tenant, last: LastRun) -> Result<(), StateError> {
    let line = state.runs(tenant);
    let n = line.last::<LastRun>().await?.map_or(0, |e| e.n);
    match line.append(n, last).await {
        Ok(_) | Err(StateError::Lost { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

fn fail(resource: Option<&ResourceName>, error: &SyncError) -> Failure {
    // What is wrong with the app or the grant is wrong with every resource: it is the tenant's failure.
    let of_the_tenant = match error {
        SyncError::Extract(ExtractError::WrongHost { .. }) => true,
        SyncError::Extract(ExtractError::Auth(e)) => {
            matches!(e, AuthError::Dead { .. } | AuthError::NotConnected { .. } | AuthError::AppSuspected { .. })
        }
        _ => false,
    };
    Failure::new(resource.filter(|_| !of_the_tenant), code(error), error)
}

/// A resource with what is taken out of it, ready to be read.
struct Chosen {
    resource: Resource,
    extract: Vec<Resource>,
    expands: Vec<String>,
    /// Whether its listing is asked for confidential records too.
    confidential: bool,
}

impl TenantRun {
    /// Whether what is under way is dropped: not where only the allowance of requests is used up, for what is under way is paid.
    fn drops(&self) -> bool {
        self.world.stop.is_cancelled() && (self.signal.is_cancelled() || !self.session.gate().is_used_up())
    }

    /// Waits for the moment at which [`TenantRun::drops`] may have become true.
    async fn dropped(&self) {
        self.world.stop.cancelled().await;
        self.signal.cancelled().await;
    }

    fn config(&self) -> &Config {
        &self.world.config
    }

    /// Rows as the tenant's privacy settings let them be written.
    fn private(&self, name: &ResourceName, rows: RecordBatch) -> Result<RecordBatch, SyncError> {
        let Some(rules) = self.rules.get(name) else { return Ok(rows) };
        rules.apply(&rows).map_err(|e| SyncError::Rows { what: name.to_string(), why: e.to_string() })
    }

    /// Under which settings rows of these tables are written now, as commits remember it.
    fn privacy<'a>(&self, names: impl Iterator<Item = &'a ResourceName>) -> BTreeMap<ResourceName, String> {
        let prints = names.map(|name| (name.clone(), Rules::fingerprint(self.rules.get(name))));
        prints.filter(|(_, print)| !print.is_empty()).collect()
    }

    /// Whether anything that the catalogue does not expect is a failure.
    fn is_frozen(&self) -> bool {
        self.config().tenant(&self.tenant).schema == Schema::Freeze
    }

    /// Whether what the catalogue does not expect is written nowhere.
    fn drops_extra(&self) -> bool {
        self.config().tenant(&self.tenant).privacy.drop_extra
    }

    /// Whether somebody asked for what a grant reads by name, so that what is not granted is a failure.
    fn is_named(&self, reader: &Tenant) -> bool {
        self.config().tenant(reader).resources_named || !self.options.resources.is_empty()
    }

    /// Whose grant reads a resource.
    fn reader(&self, resource: &ResourceName) -> &Tenant {
        let reads = |part: &&Tenant| self.config().tenant(part).resources.contains(resource);
        self.config().parts(&self.tenant).find(reads).unwrap_or(&self.tenant)
    }

    /// The session with which a resource is read. What is not read in this run has none of its own.
    fn session_of(&self, resource: &ResourceName) -> &Session {
        self.parts.get(self.reader(resource)).unwrap_or(&self.session)
    }

    /// The provider's time now, whoever was told it; `None` before the first answer.
    fn provider_now(&self) -> Option<Timestamp> {
        let sessions = std::iter::once(&*self.session).chain(self.parts.values());
        sessions.filter_map(Session::provider_now).max()
    }

    /// Chooses what can be read: enabled, wished for, granted.
    fn choose(&self, report: &mut TenantReport) -> Vec<Chosen> {
        let enabled = self.config().read_by(&self.tenant);
        for name in self.options.resources.iter().filter(|n| !enabled.iter().any(|(r, _)| r.name == **n)) {
            let error = ConfigError::Invalid {
                place: format!("--resource {name}"),
                what: format!("tenant {} does not read {name}", self.tenant),
                hint: format!("add it to the resources of [tenants.{}] or of [defaults]", self.tenant),
            };
            report.failures.push(fail(Some(name), &error.into()));
        }
        // A table's rows come with their parent's, and its deletions with its feed: naming one means all of them.
        let by = |name: &ResourceName| self.options.resources.contains(name);
        let wished = |r: &Resource| {
            let child = |(c, _): &(&Resource, _)| {
                matches!(&c.mode, Mode::Extracted { from, .. } if *from == r.name) && by(&c.name)
            };
            let feed = matches!(&r.mode, Mode::Tombstones { of, .. } if by(of));
            self.options.resources.is_empty() || by(&r.name) || feed || enabled.iter().any(child)
        };
        let mut missing = |r: &Resource, reader: &Tenant, scope: &str| {
            let error = SyncError::NotGranted { tenant: reader.clone(), resource: r.name.clone(), scope: scope.into() };
            let entry = report.resources.entry(r.name.clone()).or_default();
            entry.mode = r.mode.word().into();
            if self.is_named(reader) {
                entry.outcome = Outcome::Failed;
                report.failures.push(fail(Some(&r.name), &error));
            } else {
                entry.outcome = Outcome::Skipped;
                entry.notes.push(format!("not granted: it needs the scope {scope}"));
            }
        };
        let mut chosen = Vec::new();
        let mut unread = Vec::new();
        for (r, reader) in enabled.iter().filter(|(r, _)| !matches!(r.mode, Mode::Extracted { .. }) && wished(r)) {
            let of_r = |c: &Resource| matches!(&c.mode, Mode::Extracted { from, .. } if *from == r.name);
            let session = match self.parts.get(*reader) {
                Some(session) => session,
                None if **reader == self.tenant => &self.session,
                None => {
                    unread.extend(enabled.iter().map(|(c, _)| *c).filter(|c| c.name == r.name || of_r(c)));
                    continue;
                }
            };
            // What nobody named and the consent did not ask for is read where it happens to be granted, and else not missed.
            let known = |s: &str| session.knows_scope(s);
            if !self.is_named(reader) && r.default == ByDefault::Granted && !r.scope.as_deref().is_some_and(known) {
                continue;
            }
            if let Some(scope) = r.scope.as_deref().filter(|s| !session.has_scope(s)) {
                missing(r, reader, scope);
                continue;
            }
            let mut extract = Vec::new();
            let mut expands = Vec::new();
            for (c, _) in &enabled {
                let Mode::Extracted { from, field } = &c.mode else { continue };
                if *from != r.name {
                    continue;
                }
                match scopes::lacking(&self.config().provider, c, |scope| session.has_scope(scope)) {
                    Some(scope) => missing(c, reader, scope),
                    None => {
                        extract.push((*c).clone());
                        expands.push(field.clone());
                    }
                }
            }
            chosen.push(Chosen { resource: (*r).clone(), extract, expands, confidential: false });
        }
        self.choose_hidden(&mut chosen, report);
        for r in unread {
            let entry = report.resources.entry(r.name.clone()).or_default();
            (entry.outcome, entry.mode) = (Outcome::Failed, r.mode.word().into());
        }
        chosen
    }

    /// Says of tables that were read before and are not any more, because a later consent left out their scope: nobody would
    /// miss what simply stays as it was.
    async fn fallen_behind(&self, report: &mut TenantReport) -> Result<(), SyncError> {
        for (r, _) in self.config().read_by(&self.tenant) {
            let session = self.session_of(&r.name);
            if !self.options.resources.is_empty() && !report.resources.contains_key(&r.name) {
                continue;
            }
            let lacking = scopes::lacking(&self.config().provider, r, |scope| session.has_scope(scope));
            let Some(scope) = lacking else { continue };
            if self.commit_of(&r.name).await?.is_none_or(|c| c.body.kind == CommitKind::Erased) {
                continue;
            }
            let entry = report.resources.entry(r.name.clone()).or_insert_with(|| ResourceReport {
                outcome: Outcome::Skipped,
                mode: r.mode.word().into(),
                ..ResourceReport::default()
            });
            entry.notes.push(format!(
                "it was read before: its rows stay as they are, and fall behind until {scope} is granted again"
            ));
        }
        Ok(())
    }

    /// Whether confidential records of a resource are asked for: that is wanted, and granted.
    fn sees_confidential(&self, of: &ResourceName) -> bool {
        let granted = |hidden: &Confidential| self.session_of(of).has_scope(&hidden.scope);
        self.config().tenant(&self.tenant).confidential
            && self.config().provider.confidential.as_ref().is_some_and(granted)
    }

    /// Asks for confidential records where that is wanted and granted.
    fn choose_hidden(&self, chosen: &mut [Chosen], report: &mut TenantReport) {
        let Some(hidden) = &self.config().provider.confidential else { return };
        if !self.config().tenant(&self.tenant).confidential {
            return;
        }
        for c in chosen.iter_mut().filter(|c| c.resource.confidential.is_some()) {
            let named = self.is_named(self.reader(&c.resource.name));
            if self.sees_confidential(&c.resource.name) {
                c.resource.query.push((hidden.param.clone(), hidden.value.clone()));
                c.confidential = true;
                continue;
            }
            let (tenant, resource, scope) = (self.tenant.clone(), c.resource.name.clone(), hidden.scope.clone());
            if named {
                let error = SyncError::Hidden { tenant, resource, scope };
                report.failures.push(fail(Some(&c.resource.name), &error));
            } else {
                let note = format!("without confidential records: they need the scope {scope}, which is not granted");
                report.resources.entry(resource).or_default().notes.push(note);
            }
        }
    }

    /// Pages that the rate lets through before the deadline; `None` without one.
    fn pages_left(&self) -> Option<u64> {
        let left = self.until?.saturating_sub(self.world.clock.elapsed());
        Some((left.as_secs_f64() * self.session.gate().rate().per_second) as u64)
    }

    async fn resources(self: &Arc<Self>, report: &mut TenantReport) -> Result<(), SyncError> {
        let chosen = self.choose(report);
        self.fallen_behind(report).await?;
        // Before anything is touched: the whole lake cuts each table one way, the configured one.
        let tables = || chosen.iter().flat_map(|c| std::iter::once(&c.resource).chain(&c.extract));
        futures::future::try_join_all(tables().map(|r| self.one_layout(r))).await?;
        let _ = self.reads.set(tables().map(|r| r.name.clone()).collect());
        let (children, chosen): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|c| matches!(c.resource.mode, Mode::Children { .. }));
        let (feeds, listings): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|c| matches!(c.resource.mode, Mode::Tombstones { .. }));

        // Listings, loads and feeds are read all at once: the gate is the bottleneck.
        let mut running = JoinSet::new();
        for c in listings {
            let run = self.clone();
            running.spawn(async move { run.one(c).await });
        }
        let mut announced = JoinSet::new();
        for c in feeds {
            let run = self.clone();
            announced.spawn(async move { run.announced(c).await });
        }
        self.gather(running, report).await?;
        // Deletions are applied after all listings, so that a page read earlier cannot bring the dead back, and one feed
        // after the other: two of them may concern the same table.
        while let Some(joined) = announced.join_next().await {
            let done = match joined.map_err(|_| SyncError::Died { tenant: self.tenant.clone() })? {
                Err(done) => vec![done],
                Ok((mut group, mut error)) => {
                    // Also when the run is to stop: it is local work, and nobody erased stays because loads take long.
                    if error.is_none() && group.is_complete() {
                        error = self.delete(&mut group, report).await.err();
                    }
                    group.end(error)
                }
            };
            self.note(done, report);
        }
        // Children last: by now it is known whose parents changed, and who is not asked for any more.
        self.all_children(children, report).await?;
        let vanished = delete::vanished(self, report).await?;
        self.count(vanished, |entry, rows| entry.deleted += rows, report).await?;
        let blanked = blank::everywhere(self).await?;
        let tell = |entry: &mut ResourceReport, rows| {
            entry.notes.push(format!("rows of people who were anonymized since it was read, emptied: {rows}"));
        };
        self.count(blanked, tell, report).await?;
        // What was deleted leaves no document behind, in tables that are not read any more or not read to their end either.
        let provider = &self.config().provider;
        let swept = |r: &Resource| report.resources.get(&r.name).is_some_and(|of| of.outcome == Outcome::Done);
        for r in provider.resources.iter().filter(|r| r.content.is_some() && !(self.reads(&r.name) && swept(r))) {
            let carrier = r.mode.parent().and_then(|p| provider.resource(p.as_str()));
            if let Some(carrier) = carrier
                && self.commit_of(&r.name).await?.is_some()
            {
                contents::documents_without_a_row(self, r, carrier).await?;
            }
        }
        Ok(())
    }

    /// Notes a parent that a request for its children did not find.
    fn gone(&self, of: &ResourceName, id: &str) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.entry(of.clone()).or_default().insert(id.to_owned());
    }

    /// What tables hold that were not opened, because they failed, were skipped or not reached: it stays, and to whoever reads
    /// the report no rows would be a table that is lost.
    async fn tell_rows(&self, report: &mut TenantReport) {
        let untold = report.resources.iter_mut().filter(|(_, r)| r.rows == 0 && r.outcome != Outcome::Done);
        for (name, entry) in untold {
            entry.rows = self.commit_of(name).await.ok().flatten().map_or(0, |c| c.body.living());
        }
    }

    /// Whether this run reads a table.
    fn reads(&self, name: &ResourceName) -> bool {
        self.reads.get().is_some_and(|reads| reads.contains(name))
    }

    /// Children of one generation side by side, those of children after their parents.
    async fn all_children(self: &Arc<Self>, mut left: Vec<Chosen>, report: &mut TenantReport) -> Result<(), SyncError> {
        while !left.is_empty() {
            let names: Vec<ResourceName> = left.iter().map(|c| c.resource.name.clone()).collect();
            let waits = |c: &Chosen| c.resource.mode.parent().is_some_and(|p| names.contains(p));
            let (later, now): (Vec<_>, Vec<_>) = left.into_iter().partition(waits);
            let mut running = JoinSet::new();
            for c in now {
                if self.is_hopeless(&c.resource, report).await? {
                    let mode = c.resource.mode.word().into();
                    let none = ResourceReport { outcome: Outcome::Failed, mode, ..ResourceReport::default() };
                    self.note(
                        vec![Done { resource: c.resource.name, report: none, failure: None, former: false }],
                        report,
                    );
                    continue;
                }
                let run = self.clone();
                running.spawn(async move { run.children(c).await });
            }
            self.gather(running, report).await?;
            left = later;
        }
        Ok(())
    }

    /// Whether children need not be tried: their parents could not be read just now, and either none is known from before, or
    /// what kept them from being read keeps every request from being answered. What is wrong with one grant is not with another.
    async fn is_hopeless(&self, resource: &Resource, report: &TenantReport) -> Result<bool, SyncError> {
        let Some(parent) = resource.mode.parent() else { return Ok(false) };
        let failed = report.resources.get(parent).is_some_and(|r| r.outcome == Outcome::Failed);
        let alike = self.reader(parent) == self.reader(&resource.name);
        let general = |f: &Failure| {
            (f.code == ExitCode::Provider || alike && f.code != ExitCode::Partial)
                && f.resource.as_ref().is_none_or(|r| r == parent)
        };
        Ok(failed && (report.failures.iter().any(general) || self.commit_of(parent).await?.is_none()))
    }

    async fn children(self: Arc<Self>, chosen: Chosen) -> Vec<Done> {
        let resource = chosen.resource;
        let carrier = resource.mode.parent().and_then(|p| self.config().provider.resource(p.as_str())).cloned();
        let Some(carrier) = carrier else { return Vec::new() };
        if self.world.stop.is_cancelled() {
            let mode = resource.mode.word().into();
            let report = ResourceReport { outcome: Outcome::Stopped, mode, ..ResourceReport::default() };
            return vec![Done { resource: resource.name, report, failure: None, former: false }];
        }
        // Without the path nobody would find a document, and none would be known to be wanted.
        let path = resource.column("path").filter(|_| resource.content.is_some());
        let (privacy, all) = (&self.config().tenant(&self.tenant).privacy, &self.config().provider.resources);
        if path.is_some_and(|c| privacy.act(all, &resource, c) != Act::Keep) {
            return match contents::left_out(&self, &resource, &carrier).await {
                Ok(done) => vec![done],
                Err(e) => vec![Done::failed(&resource, &e)],
            };
        }
        match Children::open(self, resource.clone(), carrier).await {
            Ok(mut children) => {
                let outcome = children.work().await;
                children.end(outcome.err())
            }
            Err(e) => vec![Done::failed(&resource, &e)],
        }
    }

    /// Applies a feed's deletions, and only then commits the feed.
    async fn delete(&self, feed: &mut Group, report: &mut TenantReport) -> Result<(), SyncError> {
        let deleted = delete::apply(self, feed.resource(), &feed.deletions()).await?;
        self.count(deleted, |entry, rows| entry.deleted += rows, report).await?;
        feed.commit_held().await
    }

    /// A table's entry in the report, also where nobody reads it.
    fn entry<'r>(&self, report: &'r mut TenantReport, name: &ResourceName) -> &'r mut ResourceReport {
        let mode = self.config().provider.resource(name.as_str()).map(|r| r.mode.word().to_owned());
        let of_its_own = || ResourceReport { mode: mode.unwrap_or_default(), ..ResourceReport::default() };
        report.resources.entry(name.clone()).or_insert_with(of_its_own)
    }

    /// Notes in the report what was done to tables beside reading them.
    async fn count(
        &self,
        touched: delete::Touched,
        add: impl Fn(&mut ResourceReport, u64),
        report: &mut TenantReport,
    ) -> Result<(), SyncError> {
        for (name, done) in touched {
            let living = self.commit_of(&name).await?.map(|c| c.body.living());
            let entry = self.entry(report, &name);
            add(entry, done.rows);
            entry.partitions_rewritten += done.rewritten.len() as u64;
            entry.rows = living.unwrap_or(entry.rows);
        }
        Ok(())
    }

    async fn gather(&self, mut running: JoinSet<Vec<Done>>, report: &mut TenantReport) -> Result<(), SyncError> {
        while let Some(joined) = running.join_next().await {
            let done = joined.map_err(|_| SyncError::Died { tenant: self.tenant.clone() })?;
            self.note(done, report);
        }
        Ok(())
    }

    fn note(&self, done: Vec<Done>, report: &mut TenantReport) {
        for done in done {
            report.stopped |= done.report.outcome == Outcome::Stopped;
            report.former_privacy.extend(done.former.then(|| done.resource.clone()));
            // The tenant's failure is met by each of its resources, and told once.
            report.failures.extend(done.failure.filter(|f| f.resource.is_some() || !report.failures.contains(f)));
            let mut new = done.report;
            // Rows that followed a deleted parent were counted before their own table's turn came.
            if let Some(before) = report.resources.remove(&done.resource) {
                new.deleted += before.deleted;
                new.partitions_rewritten += before.partitions_rewritten;
                new.notes.splice(0..0, before.notes);
            }
            report.resources.insert(done.resource, new);
        }
    }

    /// One resource with what is taken out of it, from plan to commit.
    async fn one(self: Arc<Self>, chosen: Chosen) -> Vec<Done> {
        let resource = chosen.resource.clone();
        let (chosen, mut dropped) = match self.expandable(chosen).await {
            Ok(expandable) => expandable,
            Err(e) => return vec![Done::failed(&resource, &e)],
        };
        let mut group = match Group::open(self.clone(), chosen).await {
            Ok(group) => group,
            Err(e) => return vec![Done::failed(&resource, &e)],
        };
        let outcome = self.work(&mut group).await;
        dropped.extend(group.end(outcome.err()));
        dropped
    }

    /// What an API key may do is not known, and one that lacks the permission behind an `expand` is refused the whole listing.
    /// So a key that has not read these tables before is tried with one row, and an expand that is refused is left out.
    async fn expandable(&self, mut chosen: Chosen) -> Result<(Chosen, Vec<Done>), SyncError> {
        let resource = chosen.resource.clone();
        let session = self.session_of(&resource.name);
        if chosen.expands.is_empty() || session.kind() != CredentialKind::ApiKey {
            return Ok((chosen, Vec::new()));
        }
        let last = self.commit_of(&resource.name).await?;
        if last.is_some_and(|l| chosen.extract.iter().all(|c| l.body.along.contains(&c.name))) {
            return Ok((chosen, Vec::new()));
        }
        let allowed = async |expands: &[String]| match extract::peek(session, &resource, expands, self.bound).await {
            Ok(()) => Ok(true),
            Err(ExtractError::Forbidden { .. }) => Ok(false),
            Err(e) => Err(e),
        };
        // What else goes wrong is met again, and told, by the listing itself.
        if !matches!(allowed(&chosen.expands).await, Ok(false)) || !matches!(allowed(&[]).await, Ok(true)) {
            return Ok((chosen, Vec::new()));
        }
        let mut dropped = Vec::new();
        for (c, expand) in std::mem::take(&mut chosen.extract).into_iter().zip(std::mem::take(&mut chosen.expands)) {
            if matches!(allowed(std::slice::from_ref(&expand)).await, Ok(true)) {
                chosen.extract.push(c);
                chosen.expands.push(expand);
                continue;
            }
            let mode = c.mode.word().into();
            let mut report = ResourceReport { outcome: Outcome::Skipped, mode, ..ResourceReport::default() };
            report.notes.push(format!("not granted: the API key may not read `{expand}` in {}", resource.name));
            let failure = self.is_named(self.reader(&resource.name)).then(|| {
                let scope = c.scope.clone().unwrap_or_default();
                let error = SyncError::NotGranted { tenant: self.tenant.clone(), resource: c.name.clone(), scope };
                fail(Some(&c.name), &error)
            });
            if failure.is_some() {
                report.outcome = Outcome::Failed;
            }
            dropped.push(Done { resource: c.name, report, failure, former: false });
        }
        Ok((chosen, dropped))
    }

    async fn work(&self, group: &mut Group) -> Result<(), SyncError> {
        group.prepare().await?;
        let overlap = self.config().overlap;
        let mut listed = false;
        for work in plan::due(group.resource(), group.last(), self.bound, overlap, group.wish()) {
            listed |= matches!(work, Work::Listing { .. });
            if self.world.stop.is_cancelled() {
                group.leave_the_rest();
                return Ok(());
            }
            group.read(work, false).await?;
        }
        // A backfill lists nothing, and from nothing nothing is missing; a record that could not be decoded is missing from
        // what was seen, not from the listing.
        if listed && group.resource().mode == Mode::Full && group.is_complete() && group.is_clean() {
            group.absences().await?;
        }
        if group.is_complete() {
            group.forget_orphans().await?;
        }
        Ok(())
    }

    /// A feed of deletions, read and kept in its own table; its commit waits until they are applied.
    async fn announced(self: Arc<Self>, chosen: Chosen) -> Result<(Group, Option<SyncError>), Done> {
        let resource = chosen.resource.clone();
        let mut group = Group::open(self.clone(), chosen).await.map_err(|e| Done::failed(&resource, &e))?;
        let outcome = async {
            group.prepare().await?;
            let overlap = self.config().overlap;
            for work in plan::due(group.resource(), group.last(), self.bound, overlap, group.wish()) {
                group.read(work, true).await?;
            }
            Ok(())
        }
        .await;
        Ok((group, outcome.err()))
    }

    async fn commit_of(&self, resource: &ResourceName) -> Result<Option<Entry<Commit>>, SyncError> {
        Ok(self.state.commits(&self.tenant, resource).last().await?)
    }

    /// What is known to be deleted of a resource's rows: by its own feed, and by that of the parent it is taken from.
    async fn suppressed(&self, resource: &Resource) -> Result<Suppress, SyncError> {
        let [keys, parents] = self.dead(resource).await?;
        Ok(Suppress::new(keys, parents))
    }

    /// The same as keys of the rows and of their parents, with the time (epoch ms).
    async fn dead(&self, resource: &Resource) -> Result<[HashMap<String, i64>; 2], SyncError> {
        let parent = match &resource.mode {
            Mode::Extracted { from, .. } if resource.parent.is_some() => Some(from),
            Mode::Children { from, .. } => Some(from),
            _ => None,
        };
        let mut maps = [HashMap::new(), HashMap::new()];
        for feed in &self.config().provider.resources {
            let Mode::Tombstones { of, cursor } = &feed.mode else { continue };
            let which = match () {
                () if *of == resource.name => 0,
                () if Some(of) == parent => 1,
                () => continue,
            };
            let table = self.config().table(feed)?;
            maps[which] = load::column_map(&self.lake, &table, &feed.key[0], &cursor.column).await?;
        }
        Ok(maps)
    }

    /// Makes sure that the whole lake cuts this table one way.
    async fn one_layout(&self, resource: &Resource) -> Result<(), SyncError> {
        let table = self.config().table(resource)?;
        let found = load::layout_found(&self.lake, &table).await?;
        if !found.agrees(table.layout.granularity) {
            let found: Vec<String> =
                found.granularities.iter().map(ToString::to_string).chain(found.strangers).collect();
            return Err(SyncError::Layout {
                resource: table.resource,
                found: found.join(", "),
                wanted: table.layout.granularity.to_string(),
            });
        }
        let line = self.state.layout(&table.resource);
        let wanted = table.layout.granularity;
        for _ in 0..3 {
            match line.last::<crate::catalog::Granularity>().await? {
                Some(found) if found.body == wanted => return Ok(()),
                Some(found) => {
                    return Err(SyncError::Layout {
                        resource: table.resource.clone(),
                        found: found.body.to_string(),
                        wanted: wanted.to_string(),
                    });
                }
                None => match line.append(0, wanted).await {
                    Ok(_) => return Ok(()),
                    // Another tenant's first run was faster: look what it wrote.
                    Err(StateError::Lost { .. }) => {}
                    Err(e) => return Err(e.into()),
                },
            }
        }
        Ok(())
    }
}

/// Notes that rows are written under `now` beside those that were written under `before`: such a table is under no one setting
/// until it is loaded anew.
fn mix(before: &mut BTreeMap<ResourceName, String>, now: &BTreeMap<ResourceName, String>) {
    let names: BTreeSet<ResourceName> = before.keys().chain(now.keys()).cloned().collect();
    for name in names {
        if before.get(&name) != now.get(&name) {
            before.insert(name, MIXED.to_owned());
        }
    }
}

/// What was met of a frozen resource, as its failure.
fn frozen(run: &TenantRun, resource: &ResourceName, drift: &Drift, unit: &'static str) -> SyncError {
    let all: Vec<String> = drift.iter().map(|(place, found, kind, _)| format!("{kind} {place} ({found})")).collect();
    let mut what = all.iter().take(FROZEN_TOLD).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > FROZEN_TOLD {
        what += &format!(" and {} more", all.len() - FROZEN_TOLD);
    }
    SyncError::Frozen { tenant: run.tenant.clone(), resource: resource.clone(), what, unit }
}

fn drift_counts(drift: &Drift) -> Vec<DriftCount> {
    let one = |(place, found, kind, count): (&str, crate::transform::JsonType, crate::transform::DriftKind, u64)| {
        DriftCount { place: place.into(), kind: kind.to_string(), found: found.to_string(), count }
    };
    drift.iter().map(one).collect()
}

/// What came of one table.
struct Done {
    resource: ResourceName,
    report: ResourceReport,
    failure: Option<Failure>,
    /// Whether rows of it are written under other privacy settings than today's.
    former: bool,
}

impl Done {
    fn skipped(resource: &Resource, report: ResourceReport, former: bool) -> Self {
        Self { resource: resource.name.clone(), report, failure: None, former }
    }
    fn failed(resource: &Resource, error: &SyncError) -> Self {
        let mode = resource.mode.word().into();
        let report = ResourceReport { outcome: Outcome::Failed, mode, ..ResourceReport::default() };
        Self {
            resource: resource.name.clone(),
            report,
            failure: Some(fail(Some(&resource.name), error)),
            former: false,
        }
    }
}

fn word(work: &Work) -> &'static str {
    match work {
        Work::Load { .. } => "load",
        Work::Listing { .. } => "listing",
        Work::Increment { .. } => "increment",
        Work::Backfill { .. } => "backfill",
    }
}

/// Lays a table anew, for every tenant that has it, under the configured granularity.
///
/// # Errors
///
/// [`SyncError`]; running it again goes on where it stopped.
pub async fn relay(world: &World, name: &ResourceName) -> Result<BTreeMap<Tenant, load::Relaid>, SyncError> {
    let run = RunId::new();
    let state = State::new(world.state.clone(), world.clock);
    let resource = world.config.provider.resource(name.as_str()).ok_or_else(|| ConfigError::Invalid {
        place: "relay".into(),
        what: format!("there is no resource `{name}`"),
        hint: "`hirelake catalog` lists them".into(),
    })?;
    let new = world.config.table(resource)?;
    let line = state.layout(name);
    let Some(found) = line.last::<crate::catalog::Granularity>().await? else { return Ok(BTreeMap::new()) };
    let mut relaid = BTreeMap::new();
    for tenant in state.tenants().await? {
        let lease = state.lease(&tenant, run).await?;
        // All files of a table are read before the first is written: longer than a term.
        let done = tokio::select! {
            lost = lease.keep() => Err(lost.into()),
            done = relay_one(world, &state, &tenant, &lease, run, &new) => done,
        };
        if let Err(error) = lease.release().await {
            tracing::warn!(%tenant, %error, "the lease could not be given back; it ends by itself");
        }
        if let Some(done) = done? {
            relaid.insert(tenant, done);
        }
    }
    if found.body != new.layout.granularity {
        line.append(found.n, new.layout.granularity).await?;
    }
    Ok(relaid)
}

async fn relay_one(
    world: &World,
    state: &State,
    tenant: &Tenant,
    lease: &Lease,
    run: RunId,
    new: &crate::catalog::Table,
) -> Result<Option<load::Relaid>, SyncError> {
    let scratch = scratch(world, tenant)?;
    let lake = lake_of(world, tenant, scratch.path());
    lake.store.sweep_staging()?;
    let commits = state.commits(tenant, &new.resource);
    let Some(last) = commits.last::<Commit>().await? else { return Ok(None) };
    let done = load::relay(&lake, lease, new).await?;
    let mut commit =
        Commit { run, kind: crate::state::CommitKind::Relay, granularity: new.layout.granularity, ..last.body };
    commit.partitions = group::figures(&lake, new).await?;
    commits.append(last.n, commit).await?;
    Ok(Some(done))
}
