//! The commands; each is one call into one room.
//!
//! stdout is for data; everything else goes to stderr. `init` and what is one line stand here, the larger commands in a file
//! each.

mod catalog;
mod check;
mod connect;
mod disconnect;
mod heap;
mod keepalive;
mod registration;
mod sandbox;
mod status;
mod sync;
mod vault;
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::auth::AuthError;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, ConfigError};
use crate::demo;
use crate::infer::InferError;
use crate::names::{ResourceName, Tenant};
use crate::report::{ExitCode, Failure};
use crate::state::State;
use crate::store::StoreError;
use crate::sync::{SyncError, World};

/// Exit codes, as `--help` tells them.
const AFTER_HELP: &str = "Exit codes: 0 done, 2 usage or configuration, 3 partial, 4 a customer must reconnect, 5 busy, \
6 stopped and resumable, 7 lake or state, 8 provider, 1 a bug.";

/// Keeps OAuth grants of applicant-tracking systems alive and a Parquet lake of their data right.
#[derive(Debug, Parser)]
#[command(name = "hirelake", version, about, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Args {
    /// The configuration file [default: hirelake.toml, if it is there]
    #[arg(long, global = true, env = "HIRELAKE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines are written to stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged, such as `info` or `hirelake=debug` [default: info; on a terminal: warn]
    #[arg(long, global = true, env = "HIRELAKE_LOG", value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented configuration
    Init {
        /// Print it instead of writing hirelake.toml
        #[arg(long)]
        print: bool,
    },
    /// Connect a tenant: by consent in a browser, or with a credential you already have
    Connect(connect::Connect),
    /// Look at everything a sync relies on, and say what cures each trouble
    Check(check::Check),
    /// What a sync would read: windows, parents due, requests, minutes at the limit; asks nobody
    Plan(sync::Plan),
    /// Bring the lake up to date
    Sync(sync::Sync),
    /// How every tenant stands: grant, last run, rows, cursors; a verdict for monitors
    Status(status::Status),
    /// Refresh the grants that would die unused: for a weekly cron
    Keepalive(keepalive::Keepalive),
    /// Let a tenant go: revoke its grant, forget its tokens, and erase its lake if asked to
    Disconnect(disconnect::Disconnect),
    /// Read a tenant's lake back and judge it, or prove that a person was erased from it
    Verify(verify::Verify),
    /// What can be read: resources, scopes, modes; of one resource its columns
    Catalog(catalog::Catalog),
    /// Lay a table anew after its granularity was changed in the configuration
    Relay {
        /// The table
        resource: ResourceName,
    },
    /// The keys under which tokens are sealed
    #[command(subcommand)]
    Vault(vault::Vault),
    /// Run a pretend Lever on this machine
    Sandbox(sandbox::Sandbox),
    /// See the whole path in a minute: a pretend Lever, two tenants, two syncs
    Demo {
        /// Where everything goes
        #[arg(long, default_value = "hirelake-demo", value_name = "FOLDER")]
        dir: PathBuf,
        /// Opportunities of the larger tenant
        #[arg(long, default_value_t = 2_000, value_name = "N")]
        opportunities: usize,
    },
    /// Print a completion script for your shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let text = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    Timestamp::try_from(text).map_err(|_| "write it as 2026-01-31 or 2026-01-31T12:00:00Z".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "write it as 90s, 50m or 1h 30m".to_owned())
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A room failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// There is no connect page, or no link to it.
    #[error(transparent)]
    Page(#[from] crate::connect::ConnectError),
    /// The pretend server failed.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// Nothing could be inferred.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A file or stream of the command itself.
    #[error("{what} failed\nhint: {hint}")]
    Io {
        /// What was tried.
        what: String,
        /// What to do.
        hint: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The command cannot be done as it was given.
    #[error("{what}\nhint: {hint}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl From<ConfigError> for CliError {
    fn from(e: ConfigError) -> Self {
        Self::Sync(e.into())
    }
}
impl From<AuthError> for CliError {
    fn from(e: AuthError) -> Self {
        Self::Sync(e.into())
    }
}
impl From<StoreError> for CliError {
    fn from(e: StoreError) -> Self {
        Self::Sync(e.into())
    }
}
impl From<crate::state::StateError> for CliError {
    fn from(e: crate::state::StateError) -> Self {
        Self::Sync(e.into())
    }
}

/// What a failed command says and ends with.
#[must_use]
pub fn failure(error: &CliError) -> Failure {
    let code = match error {
        CliError::Sync(e) | CliError::Infer(InferError::Sync(e)) => crate::sync::code(e),
        CliError::Infer(InferError::Refused { .. }) => ExitCode::Partial,
        CliError::Infer(InferError::Unusable { .. }) => ExitCode::Configuration,
        CliError::Page(_) | CliError::Sandbox(_) | CliError::Usage { .. } => ExitCode::Configuration,
        CliError::Io { .. } => ExitCode::Storage,
    };
    Failure::new(None, code, error)
}

/// Does what the arguments say.
///
/// # Errors
///
/// [`CliError`], when the command could not be done; what happened to a tenant is in its exit code.
pub fn run(args: Args) -> Result<ExitCode, CliError> {
    logging(&args)?;
    // Those that hold rows; the others are done sooner than they would start again.
    if matches!(args.command, Command::Sync(_) | Command::Verify(_) | Command::Relay { .. } | Command::Demo { .. }) {
        heap::settle();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|source| CliError::Io {
        what: "starting".into(),
        hint: "the machine is out of threads or files",
        source,
    })?;
    runtime.block_on(command(args))
}

async fn command(args: Args) -> Result<ExitCode, CliError> {
    let load = || loaded(args.config.as_deref());
    let world = || -> Result<World, CliError> { Ok(World::open(load()?, Clock::system())?) };
    // Whoever writes makes sure first that what is written stays apart from what others write.
    let writable = async || -> Result<World, CliError> {
        let world = world()?;
        world.fit().await?;
        Ok(world)
    };
    match args.command {
        Command::Init { print } => init(args.config, print),
        Command::Connect(connect_args) if connect_args.guides().is_some() => {
            registration::guide(&*load()?, connect_args.guides().flatten())
        }
        Command::Connect(connect_args) => connect::connect(&writable().await?, connect_args).await,
        Command::Check(check_args) => check::check(args.config.as_deref(), check_args).await,
        Command::Plan(plan_args) => sync::plan(&world()?, plan_args).await,
        Command::Sync(sync_args) => sync::sync(world()?, sync_args).await,
        Command::Status(status_args) => status::status(&world()?, status_args).await,
        Command::Keepalive(keepalive_args) => keepalive::keepalive(writable().await?, keepalive_args).await,
        Command::Disconnect(disconnect_args) => disconnect::disconnect(&writable().await?, disconnect_args).await,
        Command::Verify(verify_args) => verify::verify(&world()?, verify_args).await,
        Command::Catalog(catalog_args) => catalog::catalog(args.config.as_deref(), catalog_args).await,
        Command::Relay { resource } => {
            let world = writable().await?;
            if world.config.provider.resource(resource.as_str()).is_none() {
                return Err(no_resource(&world.config, &resource));
            }
            for (tenant, done) in crate::sync::relay(&world, &resource).await? {
                print(&format!(
                    "{tenant}: {} rows, {} files before, {} now",
                    done.rows, done.files_before, done.files_after
                ))?;
            }
            Ok(ExitCode::Done)
        }
        Command::Vault(vault_args) => vault::vault(&writable().await?, vault_args).await,
        Command::Sandbox(sandbox_args) => sandbox::sandbox(sandbox_args).await,
        Command::Demo { dir, opportunities } => {
            let mut out = anstream::stdout();
            demo::run(&dir, opportunities, &mut out).await
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "hirelake", &mut std::io::stdout());
            Ok(ExitCode::Done)
        }
    }
}

/// The configuration; what was mended in it is logged.
fn loaded(path: Option<&Path>) -> Result<Arc<Config>, CliError> {
    let config = Config::load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(Arc::new(config))
}

fn no_resource(config: &Config, name: &ResourceName) -> CliError {
    let near = crate::names::nearest(name.as_str(), config.provider.resources.iter().map(|r| r.name.as_str()));
    CliError::Usage {
        what: format!("there is no resource `{name}`"),
        hint: near.map_or_else(|| "`hirelake catalog` lists them".to_owned(), |n| format!("did you mean `{n}`?")),
    }
}

/// Refuses a name that is nobody's: neither in the configuration nor in the state. A state that cannot be read is told by whoever
/// needs it.
async fn known(config: &Config, state: &State, names: &[Tenant]) -> Result<(), CliError> {
    for name in names.iter().filter(|name| !config.named_tenants().any(|t| t == *name)) {
        let Ok(connected) = state.tenants().await else { return Ok(()) };
        if !connected.contains(name) && state.committed_resources(name).await.is_ok_and(|all| all.is_empty()) {
            return Err(no_tenant(config, state, name).await);
        }
    }
    Ok(())
}

async fn no_tenant(config: &Config, state: &State, name: &Tenant) -> CliError {
    let connected = state.tenants().await.unwrap_or_default();
    let others = config.named_tenants().chain(&connected).filter(|t| *t != name).map(Tenant::as_str);
    CliError::Usage {
        what: format!("tenant {name} was never connected"),
        hint: crate::names::nearest(name.as_str(), others).map_or_else(
            || "`hirelake status` lists those that were".to_owned(),
            |near| format!("did you mean `{near}`?"),
        ),
    }
}

fn print(text: &str) -> Result<ExitCode, CliError> {
    let failed =
        |source| CliError::Io { what: "writing to stdout".into(), hint: "the reader of the pipe went away", source };
    match writeln!(anstream::stdout(), "{text}") {
        // `hirelake catalog | head` has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::Done),
        written => written.map(|()| ExitCode::Done).map_err(failed),
    }
}

fn logging(args: &Args) -> Result<(), CliError> {
    // What a server did is to be seen wherever it runs; a sync has bars on a terminal.
    let told = match &args.command {
        Command::Connect(connect) => connect.serves(),
        Command::Sync(_) => !std::io::stderr().is_terminal(),
        _ => false,
    };
    let default = if told { "hirelake=info" } else { "hirelake=warn" };
    let filter = args.log.as_deref().unwrap_or(default);
    let filter = log_filter(filter)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match args.log_format {
        LogFormat::Json => lines.json().with_current_span(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
    };
    // A second initialisation, in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter.and(filter_fn(is_ours_or_grave)))).try_init();
    Ok(())
}

/// A filter of the log. A word that is no level would be taken for a module, and all else would be silent.
fn log_filter(text: &str) -> Result<tracing_subscriber::EnvFilter, CliError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let no_filter = |what: String, near: Option<&str>| CliError::Usage {
        what,
        hint: near.map_or_else(
            || "write a level (off, error, warn, info, debug, trace), or `hirelake=debug`".into(),
            |near| format!("did you mean `{near}`?"),
        ),
    };
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty() && !p.contains('[')) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let near = crate::names::nearest(level, LEVELS);
            return Err(no_filter(format!("--log (or HIRELAKE_LOG): `{level}` is no level"), near));
        }
    }
    tracing_subscriber::EnvFilter::try_new(text)
        .map_err(|_| no_filter(format!("--log (or HIRELAKE_LOG): `{text}` is no filter"), None))
}

/// Whatever filter is asked for: below a warning only our own events are logged. Those of the crates below us may hold
/// addresses with their query, headers or bodies.
fn is_ours_or_grave(of: &tracing::Metadata<'_>) -> bool {
    *of.level() <= tracing::Level::WARN || of.target() == "hirelake" || of.target().starts_with("hirelake::")
}

/// Nobody is connected; and perhaps the configuration is elsewhere.
fn nobody(config: &Config) {
    if config.path.exists() {
        note("no tenant is connected yet\nhint: `hirelake connect TENANT` connects one");
    } else {
        note(&format!(
            "no tenant is connected yet, and there is no {} here, so the defaults hold\nhint: --config FILE (or HIRELAKE_CONFIG) names the configuration, `hirelake init` writes one; `hirelake connect TENANT` connects a tenant",
            config.path.display()
        ));
    }
}

fn init(path: Option<PathBuf>, print_only: bool) -> Result<ExitCode, CliError> {
    if print_only {
        return print(config::TEMPLATE.trim_end());
    }
    let path = path.unwrap_or_else(|| config::DEFAULT_FILE.into());
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Usage {
            what: format!("{} is already there", path.display()),
            hint: "nothing was changed; remove it first, or print the template with --print".into(),
        },
        _ => CliError::Io {
            what: format!("writing {}", path.display()),
            hint: "check that this user may write there",
            source,
        },
    };
    let mut file = std::fs::File::options().write(true).create_new(true).open(&path).map_err(io)?;
    file.write_all(config::TEMPLATE.as_bytes()).map_err(io)?;
    print(&format!(
        "wrote {}; next: set the client id, the two secrets, then `hirelake connect TENANT`",
        path.display()
    ))
}

fn note(text: &str) {
    anstream::eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_moment_is_a_date_or_a_time() {
        assert_eq!(moment("2026-01-31").unwrap().to_string(), "2026-01-31T00:00:00.000Z");
        assert_eq!(moment("2026-01-31T12:00:00+01:00").unwrap().to_string(), "2026-01-31T11:00:00.000Z");
        assert!(moment("yesterday").is_err());
    }
}
