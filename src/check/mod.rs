//! The doctor: looks at all that a sync relies on, and says of each trouble what cures it.
//!
//! Guarantees: every check has an outcome and, where something is wrong, a hint; one that fails hides no other; tenants are
//! asked a few at once, each through its own gate and under its lease, and one that another run holds is left alone. Nothing
//! is written but probe objects (which are removed), a scratch folder that is not there yet, leases, and what a refresh must save. No token, secret, record or
//! answer of the provider is in what it says. Knows no rows and no windows.

mod app;
mod tenant;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use futures::StreamExt as _;
use serde::Serialize;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::http::Client;
use crate::names::{RunId, Tenant};
use crate::report::{ExitCode, Failure};
use crate::state::State;
use crate::store::{Probe, Store, StoreError};
use crate::sync::{self, SyncError, World};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well.
    Ok,
    /// A sync works, and somebody should look.
    Warn,
    /// A sync does not work, or not wholly.
    Fail,
    /// It could not be tried; what says why.
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "WARNING",
            Self::Fail => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `config`, `catalogue`, `lake`, `state`, `scratch`, `layout`, `app`, `client`, `consent`, `vault`, `tenants`, `grant`, `scopes`, `resource`
    /// or `clock`.
    pub name: &'static str,
    /// What was looked at: a file, a store's URL, an app, a tenant, a tenant's resource.
    pub target: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, in one sentence.
    pub what: String,
    /// The sentence that cures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code of a sync that meets this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ExitCode>,
}

impl Check {
    fn ok(name: &'static str, target: impl ToString, what: impl Into<String>) -> Self {
        Self { name, target: target.to_string(), outcome: Outcome::Ok, what: what.into(), hint: None, code: None }
    }
    fn skipped(name: &'static str, target: impl ToString, what: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::ok(name, target, what) }
    }
    fn warn(name: &'static str, target: impl ToString, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warn, hint: Some(hint.into()), ..Self::ok(name, target, what) }
    }
    fn fail(
        name: &'static str,
        target: impl ToString,
        code: ExitCode,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { outcome: Outcome::Fail, code: Some(code), ..Self::warn(name, target, what, hint) }
    }
    /// From an error and its chain; the hint is taken apart from the sentence.
    fn failed(
        name: &'static str,
        target: impl ToString,
        code: ExitCode,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let failure = Failure::new(None, code, error);
        Self { hint: failure.hint, ..Self::fail(name, target, code, failure.what, "") }
    }
    fn met(name: &'static str, target: impl ToString, error: &SyncError) -> Self {
        Self::failed(name, target, sync::code(error), error)
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkup {
    /// The version of the program.
    pub version: &'static str,
    /// The verdict: `done` when nothing failed; when all that failed failed alike, that; else `partial`.
    pub code: ExitCode,
    /// Its number.
    pub exit: u8,
    /// Every check, in the order in which a sync would meet its trouble.
    pub checks: Vec<Check>,
}

/// What is looked at. A store that cannot be opened is one of the things to tell.
#[derive(Debug)]
pub struct Subject {
    /// What a sync would do.
    pub config: Arc<Config>,
    /// Where Parquet goes.
    pub lake: Result<Store, StoreError>,
    /// Where the state is.
    pub state: Result<Store, StoreError>,
    /// What time it is.
    pub clock: Clock,
    /// When it is cancelled, no further refresh is begun.
    pub stop: CancellationToken,
}

impl Subject {
    /// Opens what the configuration names.
    #[must_use]
    pub fn open(config: Arc<Config>, clock: Clock) -> Self {
        let stop = CancellationToken::new();
        // A scratch folder that cannot be made is told by its own check.
        let scratch = config.scratch_folder().map_or_else(|_| std::env::temp_dir(), std::path::Path::to_owned);
        let lake = Store::connect(&config.lake, &config.lake_store, &scratch);
        let state = Store::connect(&config.state, &config.state_store, &scratch);
        Self { lake, state, config, clock, stop }
    }
}

impl From<&World> for Subject {
    fn from(world: &World) -> Self {
        Self {
            config: world.config.clone(),
            lake: Ok(world.lake.clone()),
            state: Ok(world.state.clone()),
            clock: world.clock,
            stop: world.stop.clone(),
        }
    }
}

impl Checkup {
    fn new(checks: Vec<Check>) -> Self {
        let codes: BTreeSet<ExitCode> =
            checks.iter().filter(|c| c.outcome == Outcome::Fail).filter_map(|c| c.code).collect();
        let mut alike = codes.iter();
        let code = match (alike.next(), alike.next()) {
            (None, _) => ExitCode::Done,
            (Some(only), None) => *only,
            // A bug is never hidden behind the rest.
            _ if codes.contains(&ExitCode::Bug) => ExitCode::Bug,
            _ => ExitCode::Partial,
        };
        Self { version: env!("CARGO_PKG_VERSION"), code, exit: code.number(), checks }
    }

    /// What there is to say when the configuration cannot be read: nothing else can be looked at.
    #[must_use]
    pub fn of_config_error(error: &ConfigError) -> Self {
        Self::new(vec![Check::failed("config", "configuration", ExitCode::Configuration, error)])
    }

    /// As JSON text.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// A table for people, then the hints, then the count.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        table.set_header(["", "check", "of", "found"]);
        for c in &self.checks {
            table.add_row([c.outcome.word(), c.name, &c.target, &c.what]);
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        for c in &self.checks {
            if let Some(hint) = &c.hint {
                text += &format!("\n{} {}\nhint: {hint}\n", c.name, c.target);
            }
        }
        let ended = |o: Outcome| self.checks.iter().filter(|c| c.outcome == o).count();
        text += &format!(
            "\n{} ok, {}, {} failed, {} skipped",
            ended(Outcome::Ok),
            count(ended(Outcome::Warn), "warning"),
            ended(Outcome::Fail),
            ended(Outcome::Skipped)
        );
        text
    }
}

/// Looks at everything, or of tenants and apps only at `tenants` and theirs.
pub async fn run(subject: &Subject, tenants: &[Tenant]) -> Checkup {
    let config = &subject.config;
    // A tenant is read with its parts' grants, too.
    let parts = tenants.iter().flat_map(|t| config.parts(t)).filter(|p| !tenants.contains(p)).cloned();
    let tenants: Vec<Tenant> = tenants.iter().cloned().chain(parts).collect();
    let tenants = tenants.as_slice();
    let mut checks = app::configuration(config);
    let (lake, state_checks) =
        futures::join!(store("lake", &config.lake, &subject.lake), store("state", &config.state, &subject.state));
    let scratch = scratch(config);
    let state_sound = state_checks.outcome == Outcome::Ok;
    checks.extend([lake, state_checks, scratch]);

    let client = Client::new(subject.clock);
    match &client {
        Ok(client) => {
            let apps = config.apps.values().filter(|a| {
                tenants.is_empty() || tenants.iter().any(|t| config.tenant(t).app.as_ref() == Some(&a.name))
            });
            // Buffered in a list: the futures borrow the configuration.
            let looking: Vec<_> = apps.map(|a| app::app(config, client, a)).collect();
            checks.extend(futures::stream::iter(looking).buffered(config.tenants_at_once).concat().await);
        }
        Err(e) => checks.push(Check::fail(
            "config",
            "certificates",
            ExitCode::Configuration,
            format!("the machine's certificates cannot be read: {e}"),
            "install ca-certificates, or set SSL_CERT_FILE",
        )),
    }

    // The key can be had, or not, whether or not the state can.
    let store = subject.state.as_ref().map_or_else(|_| Store::memory(), Store::clone);
    let state = State::new(store, subject.clock);
    let auth = match Auth::new(config.clone(), state.clone(), subject.clock, RunId::new()) {
        // Judged at the end, as a sync's are: an app that is refused for everybody has nobody marked dead.
        Ok(auth) => Some(Arc::new(auth.for_fleet(tenants.len() != 1, subject.stop.clone()))),
        Err(e) => {
            checks.push(Check::failed("vault", &config.vault_key, ExitCode::Configuration, &e));
            None
        }
    };
    if !state_sound {
        checks.push(Check::skipped("tenants", "all", "not looked at, because the state is not sound"));
        return Checkup::new(checks);
    }
    if let Err(error) = sync::layouts_agree(config, &state).await {
        checks.push(Check::failed("layout", "tables", sync::code(&error), &error));
    }
    checks.extend(tenant::all(config, &state, auth.as_ref(), subject.clock, tenants).await);
    if let Some(auth) = &auth {
        for (tenant, error) in auth.judge().await {
            let told = |c: &&mut Check| {
                c.target == tenant.as_str() && c.outcome == Outcome::Fail && c.code == Some(ExitCode::Reconnect)
            };
            // It was told that the customer must reconnect, before anybody knew of the others.
            if let Some(check) = checks.iter_mut().find(told) {
                *check = Check::met(check.name, &tenant, &error.into());
            }
        }
    }
    Checkup::new(checks)
}

/// Whether a store does what is relied on.
async fn store(name: &'static str, url: &str, store: &Result<Store, StoreError>) -> Check {
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            // What follows a scheme that is not ours may be anything, a password too.
            let target = url.split_once("://").map_or_else(|| url.to_owned(), |(scheme, _)| format!("{scheme}://…"));
            return Check::failed(name, target, ExitCode::Storage, error);
        }
    };
    let Probe { passed, failed } = store.probe().await;
    match failed {
        Some((step, error)) => {
            let check = Check::failed(name, store.url(), ExitCode::Storage, &error);
            Check { what: format!("at \"{step}\": {}", check.what), ..check }
        }
        None => {
            let steps: Vec<String> = passed.iter().map(ToString::to_string).collect();
            Check::ok(name, store.url(), steps.join(", "))
        }
    }
}

/// Whether the scratch folder is there, or can be made, and takes a file.
fn scratch(config: &Config) -> Check {
    let (name, target) = ("scratch", config.scratch.display());
    let tried = config.scratch_folder().and_then(|folder| {
        let mut file = tempfile::Builder::new().prefix("hirelake-check.").tempfile_in(folder)?;
        std::io::Write::write_all(&mut file, b"hirelake")?;
        file.as_file().sync_all()?;
        file.close()
    });
    match tried {
        Ok(()) => Check::ok(name, target, "there, create, write, remove"),
        Err(e) => Check::fail(
            name,
            target,
            ExitCode::Storage,
            format!("it cannot be used ({e}): no sync can spill its rows, and new tokens have no second place"),
            "let `scratch` name a folder in which this user may write, on a disk with room",
        ),
    }
}

/// `1 app`, `2 apps`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_all_that_failed_failed_alike_that_is_the_code() {
        let exit = |codes: &[ExitCode]| {
            let failed = codes.iter().map(|code| Check::fail("grant", "acme", *code, "x", "y"));
            let fine =
                [Check::ok("config", "x", "x"), Check::warn("clock", "x", "x", "y"), Check::skipped("lake", "x", "x")];
            Checkup::new(fine.into_iter().chain(failed).collect()).exit
        };
        assert_eq!(exit(&[]), 0);
        assert_eq!(exit(&[ExitCode::Reconnect, ExitCode::Reconnect]), 4);
        assert_eq!(exit(&[ExitCode::Reconnect, ExitCode::Storage]), 3);
        assert_eq!(exit(&[ExitCode::Bug, ExitCode::Storage]), 1);
    }
}
