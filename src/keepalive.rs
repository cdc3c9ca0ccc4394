//! Grants near their idle limit are refreshed, all others left alone: for a weekly cron.
//!
//! Guarantees: who is due is decided from the newest grant entry alone, and once more under the tenant's lease; each due grant
//! costs one request, a doubtful one the one further request that is allowed; dead grants and API keys are not asked for; a
//! tenant that is held elsewhere is left to its holder; requests are spread, and cease in an outage. One tenant's trouble is
//! its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::auth::{Auth, AuthError, Grant, HARD_NOTICE, Standing};
use crate::clock::Timestamp;
use crate::names::{AppName, RunId, Tenant};
use crate::report::{ExitCode, Failure};
use crate::state::{Lease, State, StateError};
use crate::status;
use crate::sync::{SyncError, World, code};

/// Newest entries read at once: local ones wait for threads, those of a cloud for answers.
const LOOKS_AT_ONCE: usize = 32;
/// So many tenants of one app whose requests fail in a row by the provider's doing are an outage: the others are left alone.
/// Each that is asked in it costs minutes of patience, and may come out of it in doubt.
const OUTAGE: u32 = 5;

/// Tenants named in one sentence.
const NAMED: usize = 5;

/// What a run is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Tenants; all when empty.
    pub tenants: Vec<Tenant>,
    /// A grant is due when less than this is left until its idle deadline; the configuration's `before` unless given.
    pub within: Option<Duration>,
}

/// What became of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Fate {
    /// Its idle limit counts from now.
    Refreshed,
    /// Its idle limit is far.
    NotDue,
    /// An API key has no limit.
    ApiKey,
    /// Never connected, or disconnected.
    NotConnected,
    /// Another run holds it, and so keeps it alive.
    Busy {
        /// Who holds it.
        what: String,
    },
    /// The provider ended it, now or before.
    Dead(Failure),
    /// It is sealed with a vault key that is not at hand, due or not: nobody could keep it alive when its day comes.
    Shut(Failure),
    /// It could not be kept alive now.
    Failed(Failure),
    /// The run was stopped before its turn.
    Stopped,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// What became of it.
    pub fate: Fate,
    /// When the grant dies whatever happens, where that is soon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Timestamp>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its id.
    pub run: RunId,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Its verdict.
    pub code: ExitCode,
    /// Its tenants.
    pub tenants: BTreeMap<Tenant, Kept>,
}

/// The one line that ends stdout.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    run: RunId,
    code: ExitCode,
    exit: u8,
    seconds: f64,
    tenants: usize,
    refreshed: usize,
    not_due: usize,
    api_keys: usize,
    not_connected: usize,
    stopped: usize,
    busy: Vec<&'a Tenant>,
    dead: Vec<&'a Tenant>,
    failed: Vec<&'a Tenant>,
    ending: Vec<&'a Tenant>,
}

/// Keeps alive what is due.
///
/// # Errors
///
/// Only when nothing could begin: no vault key, no state. What happens to a tenant is in the outcome.
pub async fn run(world: &World, options: &Options) -> Result<Outcome, SyncError> {
    let (run, started) = (RunId::new(), world.clock.now());
    let state = State::new(world.state.clone(), world.clock);
    let named = !options.tenants.is_empty();
    let all = if named { options.tenants.clone() } else { world.tenants().await? };
    let auth = Auth::new(world.config.clone(), state.clone(), world.clock, run)?;
    let auth = Arc::new(auth.for_fleet(all.len() > 1, world.stop.clone()));
    let work = Work {
        within: options.within.unwrap_or(world.config.keepalive.before),
        world: world.clone(),
        state,
        auth,
        run,
        named,
    };

    let mut done = BTreeMap::new();
    let mut due: Vec<(Timestamp, Tenant)> = Vec::new();
    let mut looks = futures::stream::iter(all)
        .map(|tenant| async { (work.state.grants(&tenant).last::<Grant>().await, tenant) })
        .buffer_unordered(LOOKS_AT_ONCE);
    while let Some((found, tenant)) = looks.next().await {
        let grant = found.map(|entry| entry.map(|e| e.body));
        let ends = grant.as_ref().ok().and_then(|g| work.ends(g.as_ref()?));
        let fate = match work.judge(&tenant, grant) {
            Due::Not(fate) => fate,
            Due::At(deadline) => {
                due.push((deadline, tenant.clone()));
                Fate::Stopped
            }
        };
        done.insert(tenant, Kept { fate, ends });
    }
    drop(looks);
    // Most urgent last, where it is taken from: a run that is stopped has done what could not wait.
    due.sort_by(|a, b| b.cmp(a));
    let auth = work.auth.clone();
    for (tenant, fate) in refresh(Arc::new(work), due.into_iter().map(|(_, t)| t).collect()).await {
        if let Some(kept) = done.get_mut(&tenant) {
            kept.fate = fate;
        }
    }
    for (tenant, error) in auth.judge().await {
        if let Some(kept) = done.get_mut(&tenant) {
            // It was told that its customer must reconnect, before anybody knew of the others.
            kept.fate = fate(&error.into());
        }
    }
    let code = verdict(done.values().map(|k| &k.fate));
    Ok(Outcome { run, started, ended: world.clock.now(), code, tenants: done })
}

/// Refreshes `due`, its last first, some at once and never faster than configured.
async fn refresh(work: Arc<Work>, mut due: Vec<Tenant>) -> Vec<(Tenant, Fate)> {
    let stop = work.world.stop.clone();
    let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / work.world.config.keepalive.per_second));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut running, mut names, mut done) = (JoinSet::new(), HashMap::new(), Vec::new());
    let mut outages: HashMap<Option<AppName>, u32> = HashMap::new();
    let app = |tenant: &Tenant| work.world.config.tenant(tenant).app.clone();
    loop {
        while let Some(tenant) = due.pop_if(|t| outages.get(&app(t)).is_some_and(|n| *n >= OUTAGE)) {
            done.push((tenant, left_alone()));
        }
        let room = running.len() < work.world.config.tenants_at_once && !due.is_empty() && !stop.is_cancelled();
        tokio::select! {
            _ = pace.tick(), if room => {
                let Some(tenant) = due.pop() else { continue };
                let (work, whose) = (work.clone(), tenant.clone());
                let task = running.spawn(async move { work.keep(&whose).await });
                names.insert(task.id(), tenant);
            }
            () = stop.cancelled(), if room => {}
            Some(joined) = running.join_next_with_id() => {
                let (id, fate) = match joined {
                    Ok((id, fate)) => (id, Some(fate)),
                    Err(died) => (died.id(), None),
                };
                let Some(tenant) = names.remove(&id) else { continue };
                let bug = || failed(&SyncError::Died { tenant: tenant.clone() });
                let fate = fate.unwrap_or_else(bug);
                match &fate {
                    Fate::Failed(f) if f.code == ExitCode::Provider => *outages.entry(app(&tenant)).or_default() += 1,
                    Fate::Refreshed | Fate::Dead(_) => drop(outages.insert(app(&tenant), 0)),
                    _ => {}
                }
                done.push((tenant, fate));
            }
            else => break,
        }
    }
    done.extend(due.into_iter().map(|tenant| (tenant, Fate::Stopped)));
    done
}

/// What every tenant's task shares.
struct Work {
    world: World,
    state: State,
    auth: Arc<Auth>,
    run: RunId,
    within: Duration,
    /// Whether somebody asked for these tenants by name.
    named: bool,
}

enum Due {
    /// Its idle deadline.
    At(Timestamp),
    Not(Fate),
}

impl Work {
    fn ends(&self, grant: &Grant) -> Option<Timestamp> {
        let end = grant.hard_deadline(&self.world.config.provider.oauth)?;
        (end <= self.world.clock.now().plus(HARD_NOTICE)).then_some(end)
    }

    /// Whether a tenant's grant is due, and what it is if not.
    fn judge(&self, tenant: &Tenant, grant: Result<Option<Grant>, StateError>) -> Due {
        let absent = || match self.named {
            true => failed(&AuthError::NotConnected { tenant: tenant.clone() }.into()),
            false => Fate::NotConnected,
        };
        let grant = match grant {
            Ok(Some(grant)) => grant,
            Ok(None) => return Due::Not(absent()),
            Err(e) => return Due::Not(failed(&e.into())),
        };
        if !matches!(grant.standing, Standing::Dead { .. })
            && let Some(Err(error)) = grant.sealed.as_ref().map(|s| self.auth.vault().has_key_of(s))
        {
            return Due::Not(Fate::Shut(Failure::new(None, ExitCode::Configuration, &error)));
        }
        let Some(deadline) = grant.idle_deadline(&self.world.config.provider.oauth) else {
            return Due::Not(match &grant.standing {
                Standing::Dead { since, why } => {
                    fate(&AuthError::Dead { tenant: tenant.clone(), since: *since, why: why.clone() }.into())
                }
                Standing::Disconnected => absent(),
                _ => Fate::ApiKey,
            });
        };
        match grant.standing {
            // Whoever began that refresh is gone, or holds the lease: then nothing is asked.
            Standing::Uncertain { .. } | Standing::Refreshing { .. } => Due::At(deadline),
            _ if deadline <= self.world.clock.now().plus(self.within) => Due::At(deadline),
            _ => Due::Not(Fate::NotDue),
        }
    }

    #[tracing::instrument(name = "keepalive", skip_all, fields(%tenant, run = %self.run))]
    async fn keep(&self, tenant: &Tenant) -> Fate {
        let lease = match self.state.lease(tenant, self.run).await {
            Ok(lease) => Arc::new(lease),
            Err(e) => return fate(&e.into()),
        };
        let kept = tokio::select! {
            lost = lease.keep() => Err(lost.into()),
            kept = self.held(tenant, lease.clone()) => kept,
        };
        self.auth.settled(tenant).await;
        match Arc::try_unwrap(lease) {
            Ok(lease) => {
                if let Err(error) = lease.release().await {
                    tracing::warn!(%error, "the lease could not be given back; it ends by itself");
                }
            }
            Err(_) => tracing::warn!("the lease is still in use; it ends by itself"),
        }
        kept.unwrap_or_else(|e| fate(&e))
    }

    async fn held(&self, tenant: &Tenant, lease: Arc<Lease>) -> Result<Fate, SyncError> {
        // A sync may have refreshed it since.
        let grant = self.state.grants(tenant).last::<Grant>().await.map(|entry| entry.map(|e| e.body));
        if let Due::Not(fate) = self.judge(tenant, grant) {
            return Ok(fate);
        }
        self.auth.keep_alive(tenant, lease).await?;
        Ok(Fate::Refreshed)
    }
}

fn left_alone() -> Fate {
    Fate::Failed(Failure {
        resource: None,
        what: format!(
            "it was left for the next run: {OUTAGE} others of its app failed in a row by the provider's doing"
        ),
        hint: Some("run again when the provider is back; no grant was harmed".into()),
        code: ExitCode::Provider,
    })
}

fn failed(error: &SyncError) -> Fate {
    Fate::Failed(Failure::new(None, code(error), error))
}

fn fate(error: &SyncError) -> Fate {
    match error {
        SyncError::State(busy @ StateError::Busy { .. }) => {
            Fate::Busy { what: busy.to_string().lines().next().unwrap_or_default().to_owned() }
        }
        SyncError::Auth(AuthError::Stopped { .. }) => Fate::Stopped,
        SyncError::Auth(AuthError::Dead { .. }) => Fate::Dead(Failure::new(None, code(error), error)),
        error => failed(error),
    }
}

/// Only those that were to be asked for count, and those that nobody can open. Where all that failed failed alike, that is the code; dead grants alone are
/// always 4, however many others were kept: waiting mends nothing there.
fn verdict<'a>(fates: impl Iterator<Item = &'a Fate>) -> ExitCode {
    let (mut codes, mut fine, mut shut, mut open) = (Vec::new(), 0, 0, 0);
    for fate in fates {
        match fate {
            Fate::Refreshed => fine += 1,
            Fate::Shut(failure) => {
                codes.push(failure.code);
                shut += 1;
            }
            Fate::NotDue | Fate::ApiKey => open += 1,
            Fate::Dead(_) => codes.push(ExitCode::Reconnect),
            Fate::Failed(failure) => codes.push(failure.code),
            Fate::Stopped => codes.push(ExitCode::Stopped),
            Fate::NotConnected | Fate::Busy { .. } => {}
        }
    }
    // Of a key that is wrong for all, those that were not due are witnesses too.
    fine += if shut > 0 { open } else { 0 };
    codes.sort_unstable();
    codes.dedup();
    match (codes.as_slice(), fine) {
        ([], _) => ExitCode::Done,
        ([only], 0) | ([only @ (ExitCode::Reconnect | ExitCode::Stopped)], _) => *only,
        (codes, _) if codes.contains(&ExitCode::Bug) => ExitCode::Bug,
        _ => ExitCode::Partial,
    }
}

impl Outcome {
    fn those(&self, which: impl Fn(&Kept) -> bool) -> Vec<&Tenant> {
        self.tenants.iter().filter(|(_, k)| which(k)).map(|(t, _)| t).collect()
    }

    /// One compact JSON object.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |fate: &Fate| self.those(|k| k.fate == *fate).len();
        let summary = Summary {
            run: self.run,
            code: self.code,
            exit: self.code.number(),
            seconds: self.ended.since(self.started).as_millis() as f64 / 1000.0,
            tenants: self.tenants.len(),
            refreshed: count(&Fate::Refreshed),
            not_due: count(&Fate::NotDue),
            api_keys: count(&Fate::ApiKey),
            not_connected: count(&Fate::NotConnected),
            stopped: count(&Fate::Stopped),
            busy: self.those(|k| matches!(k.fate, Fate::Busy { .. })),
            dead: self.those(|k| matches!(k.fate, Fate::Dead(_))),
            failed: self.those(|k| matches!(k.fate, Fate::Failed(_) | Fate::Shut(_))),
            ending: self.those(|k| k.ends.is_some()),
        };
        serde_json::to_string(&summary).unwrap_or_default()
    }

    /// What a person should know, a few lines for each tenant that is not simply well.
    #[must_use]
    pub fn lines(&self, world: &World) -> Vec<String> {
        let mut all = Vec::new();
        let mut shut: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (tenant, kept) in &self.tenants {
            match &kept.fate {
                Fate::Refreshed => all.push(format!("{tenant}: refreshed")),
                Fate::Busy { what } => all.push(format!("note: {what}, and keeps it alive")),
                Fate::Dead(failure) | Fate::Failed(failure) => all.push(format!("error: {tenant}: {failure}")),
                Fate::Stopped => all.push(format!("note: {tenant}: left for the next run")),
                // A wrong key is one mistake, however many grants it leaves shut.
                Fate::Shut(failure) => shut.entry(failure.to_string()).or_default().push(tenant.as_str()),
                Fate::NotDue | Fate::ApiKey | Fate::NotConnected => {}
            }
            if let Some(ends) = kept.ends {
                all.push(format!(
                    "note: {tenant}: its consent ends on {}, however often it is used\nhint: have the customer connect again before that day: {}",
                    status::day(ends),
                    status::reconnect(world, tenant)
                ));
            }
        }
        for (failure, tenants) in shut {
            let more = if tenants.len() > NAMED { ", …" } else { "" };
            let names = tenants[..tenants.len().min(NAMED)].join(", ");
            all.push(format!("error: the grants of {} tenants ({names}{more}) do not open: {failure}", tenants.len()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_grants_alone_are_4_and_the_rest_is_judged_among_those_that_were_due() {
        let failure = |code| Failure { resource: None, what: "x".into(), hint: None, code };
        let dead = || Fate::Dead(failure(ExitCode::Reconnect));
        let away = || Fate::Failed(failure(ExitCode::Provider));
        let verdict = |all: &[Fate]| verdict(all.iter()).number();
        assert_eq!(verdict(&[]), 0);
        assert_eq!(verdict(&[Fate::Refreshed, Fate::NotDue, Fate::Busy { what: "x".into() }]), 0);
        assert_eq!(verdict(&[dead(), Fate::Refreshed, Fate::NotDue]), 4);
        assert_eq!(verdict(&[away(), away(), Fate::NotDue, Fate::ApiKey]), 8);
        assert_eq!(verdict(&[away(), Fate::Refreshed]), 3);
        assert_eq!(verdict(&[away(), dead()]), 3);
        assert_eq!(verdict(&[Fate::Stopped, Fate::Refreshed]), 6);
        let shut = || Fate::Shut(failure(ExitCode::Configuration));
        assert_eq!(verdict(&[shut(), shut(), Fate::NotConnected]), 2);
        assert_eq!(verdict(&[shut(), Fate::NotDue]), 3);
        assert_eq!(verdict(&[shut(), dead()]), 3);
        assert_eq!(verdict(&[Fate::Failed(failure(ExitCode::Bug)), dead()]), 1);
    }
}
