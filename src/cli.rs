//! The commands; each is one call into one room.
//!
//! stdout is for data; everything else goes to stderr.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::auth::connect::{Callback, Connected};
use crate::auth::{Auth, AuthError};
use crate::catalog;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, ConfigError};
use crate::demo;
use crate::names::{ResourceName, RunId, Tenant};
use crate::report::{ExitCode, Failure, Progress, Report};
use crate::sandbox;
use crate::secret::Secret;
use crate::state::{Lease, State, Window};
use crate::status;
use crate::store::StoreError;
use crate::sync::{self, SyncError, World};

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
    Connect(Connect),
    /// Bring the lake up to date
    Sync(Sync),
    /// How every tenant stands: grant, last run, rows, cursors
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What can be read: resources, scopes, modes; of one resource its columns
    Catalog {
        /// A resource
        resource: Option<ResourceName>,
    },
    /// Lay a table anew after its granularity was changed in the configuration
    Relay {
        /// The table
        resource: ResourceName,
    },
    /// Run a pretend Lever on this machine
    Sandbox(Sandbox),
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

#[derive(Debug, clap::Args)]
struct Connect {
    /// The tenant's name: it becomes `tenant=NAME` in the lake
    tenant: Tenant,
    /// Print the link and open no browser
    #[arg(long)]
    no_browser: bool,
    /// Read the address on which the browser ended from stdin, instead of waiting for it on the callback's port
    #[arg(long)]
    paste: bool,
    /// Store the refresh token in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["api_key_file", "no_browser", "paste"])]
    refresh_token_file: Option<PathBuf>,
    /// Store the API key in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_browser", "paste"])]
    api_key_file: Option<PathBuf>,
    /// Try a grant that was marked dead once more, without a new consent
    #[arg(long, conflicts_with_all = ["no_browser", "paste", "refresh_token_file", "api_key_file", "force"])]
    retry: bool,
    /// Replace the grant even when the consent is for another account
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Sync {
    /// Only this tenant; may be repeated
    #[arg(long, value_name = "TENANT")]
    tenant: Vec<Tenant>,
    /// Only this resource; may be repeated
    #[arg(long, value_name = "RESOURCE")]
    resource: Vec<ResourceName>,
    /// Load everything anew
    #[arg(long)]
    full: bool,
    /// Read again what changed since then (an RFC 3339 time or a date); the live cursor does not move
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "full")]
    from: Option<Timestamp>,
    /// … and before then [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "from")]
    to: Option<Timestamp>,
    /// Stop cleanly after this long, such as 50m; the next run goes on
    #[arg(long, value_name = "DURATION", value_parser = span)]
    deadline: Option<Duration>,
    /// Print what would be read, and read nothing
    #[arg(long)]
    dry_run: bool,
    /// Believe it when more than a fifth of a listing vanished
    #[arg(long)]
    allow_mass_delete: bool,
    /// Write the full report to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Sandbox {
    /// Where to listen; loopback only
    #[arg(long, default_value = "127.0.0.1:8913")]
    listen: std::net::SocketAddr,
    /// Everything is made from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// An account and its opportunities; may be repeated
    #[arg(long = "account", value_name = "NAME=N", value_parser = account, default_value = "acme=1000")]
    accounts: Vec<(String, usize)>,
    /// Requests a second of each account; 0 is unlimited
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Requests that the bucket holds
    #[arg(long, default_value_t = 20)]
    burst: u32,
    /// Milliseconds before each answer
    #[arg(long, default_value_t = 0, value_name = "MS")]
    latency_ms: u64,
    /// Seconds that an access token lives
    #[arg(long, default_value_t = 3600, value_name = "S")]
    token_life_s: u64,
    /// Callbacks that are registered
    #[arg(long, default_value = "http://localhost:8914/callback")]
    redirect_uri: Vec<String>,
}

fn account(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.split_once('=').ok_or("write it as acme=1000")?;
    Ok((name.to_owned(), n.parse().map_err(|_| "the number of opportunities is no number")?))
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
    /// The pretend server failed.
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
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
        CliError::Sync(e) => sync::code(e),
        CliError::Sandbox(_) | CliError::Usage { .. } => ExitCode::Configuration,
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
    logging(&args);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|source| CliError::Io {
        what: "starting".into(),
        hint: "the machine is out of threads or files",
        source,
    })?;
    runtime.block_on(command(args))
}

async fn command(args: Args) -> Result<ExitCode, CliError> {
    let load = || -> Result<Arc<Config>, CliError> {
        let config = Config::load(args.config.as_deref())?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Arc::new(config))
    };
    let world = || -> Result<World, CliError> { Ok(World::open(load()?, Clock::system())?) };
    match args.command {
        Command::Init { print } => init(args.config, print),
        Command::Connect(connect) => self::connect(&world()?, connect).await,
        Command::Sync(sync) => self::sync(world()?, sync).await,
        Command::Status { json } => {
            let all = status::read(&world()?).await?;
            if all.is_empty() {
                note("no tenant is connected yet\nhint: `hirelake connect TENANT` connects one");
            }
            let text = if json { serde_json::to_string_pretty(&all).unwrap_or_default() } else { status::table(&all) };
            print(&text)
        }
        Command::Catalog { resource } => {
            let config = load()?;
            match resource {
                None => print(&catalog::overview(&config.provider)),
                Some(name) => match config.provider.resource(name.as_str()) {
                    Some(resource) => print(&catalog::describe(&config.provider, resource)),
                    None => Err(no_resource(&config, &name)),
                },
            }
        }
        Command::Relay { resource } => {
            let world = world()?;
            if world.config.provider.resource(resource.as_str()).is_none() {
                return Err(no_resource(&world.config, &resource));
            }
            for (tenant, done) in sync::relay(&world, &resource).await? {
                print(&format!(
                    "{tenant}: {} rows, {} files before, {} now",
                    done.rows, done.files_before, done.files_after
                ))?;
            }
            Ok(ExitCode::Done)
        }
        Command::Sandbox(sandbox) => self::sandbox(sandbox).await,
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

fn no_resource(config: &Config, name: &ResourceName) -> CliError {
    let near = catalog::scopes::nearest(name.as_str(), config.provider.resources.iter().map(|r| r.name.as_str()));
    CliError::Usage {
        what: format!("there is no resource `{name}`"),
        hint: near.map_or_else(|| "`hirelake catalog` lists them".to_owned(), |n| format!("did you mean `{n}`?")),
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

fn logging(args: &Args) {
    let sync = matches!(args.command, Command::Sync(_));
    let default = if sync && !std::io::stderr().is_terminal() { "hirelake=info" } else { "hirelake=warn" };
    let filter = args.log.as_deref().unwrap_or(default);
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match args.log_format {
        LogFormat::Json => lines.json().with_current_span(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
    };
    // A second initialisation, in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter.and(filter_fn(is_ours_or_grave)))).try_init();
}

/// Whatever filter is asked for: below a warning only our own events are logged. Those of the crates below us may hold
/// addresses with their query, headers or bodies.
fn is_ours_or_grave(of: &tracing::Metadata<'_>) -> bool {
    *of.level() <= tracing::Level::WARN || of.target() == "hirelake" || of.target().starts_with("hirelake::")
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

async fn connect(world: &World, args: Connect) -> Result<ExitCode, CliError> {
    let state = State::new(world.state.clone(), world.clock);
    let run = RunId::new();
    let auth = Arc::new(Auth::new(world.config.clone(), state.clone(), world.clock, run)?);
    let tenant = &args.tenant;
    let seed = |path: &PathBuf, what: &str| -> Result<Secret, CliError> {
        Ok(config::SecretSource::File(path.clone()).fetch(what)?)
    };
    let release = async |lease: Arc<Lease>| {
        auth.settled(tenant).await;
        match Arc::into_inner(lease) {
            Some(lease) => lease.release().await,
            None => Ok(()),
        }
    };
    if args.retry {
        let lease = Arc::new(state.lease(tenant, run).await?);
        let retried = auth.retry(tenant, lease.clone()).await;
        auth.settled(tenant).await;
        release(lease).await?;
        retried?;
        return print(&format!("{tenant} is connected"));
    }
    let connected = if let Some(path) = &args.api_key_file {
        let key = seed(path, "the API key")?;
        let lease = Arc::new(state.lease(tenant, run).await?);
        let connected = auth.seed_api_key(tenant, lease.clone(), key, args.force).await;
        release(lease).await?;
        connected?
    } else if let Some(path) = &args.refresh_token_file {
        let token = seed(path, "the refresh token")?;
        let lease = Arc::new(state.lease(tenant, run).await?);
        let connected = auth.seed_refresh_token(tenant, lease.clone(), token, args.force).await;
        release(lease).await?;
        connected?
    } else {
        let invitation = auth.invite(tenant)?;
        let callback = if args.paste || invitation.redirect_uri.scheme() == "https" {
            note(&format!(
                "Open this link as a Super Admin of the customer:\n\n{}\n\nThen paste the address on which the browser ended:",
                invitation.link
            ));
            pasted()?
        } else {
            let show = || {
                if args.no_browser || open::that_detached(invitation.link.as_str()).is_err() {
                    note(&format!("Open this link as a Super Admin of the customer:\n\n{}\n", invitation.link));
                } else {
                    note(&format!("A browser was opened. If none appears, open this link:\n\n{}\n", invitation.link));
                }
            };
            auth.await_callback(tenant, &invitation, show).await?
        };
        let lease = patient_lease(&state, tenant, run).await?;
        let connected = auth.exchange(tenant, &lease, &invitation, callback, args.force).await;
        lease.release().await?;
        connected?
    };
    say_connected(tenant, &connected)
}

/// A consent was given and its code lives for minutes: a sync that holds the tenant is waited for, as long as the code lives.
async fn patient_lease(state: &State, tenant: &Tenant, run: RunId) -> Result<crate::state::Lease, CliError> {
    const TRIES: u32 = 120;
    for _ in 0..TRIES {
        match state.lease(tenant, run).await {
            Err(crate::state::StateError::Busy { .. }) => tokio::time::sleep(Duration::from_secs(4)).await,
            other => return Ok(other?),
        }
    }
    Ok(state.lease(tenant, run).await?)
}

fn say_connected(tenant: &Tenant, connected: &Connected) -> Result<ExitCode, CliError> {
    if !connected.missing.is_empty() {
        note(&format!("These scopes are needed and were not granted: {}", connected.missing.join(" ")));
        note("hint: register them for the app at the provider and connect again, or leave their resources out");
    }
    print(&format!("{tenant} is connected"))
}

fn note(text: &str) {
    anstream::eprintln!("{text}");
}

fn pasted() -> Result<Callback, CliError> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|source| CliError::Io {
        what: "reading the address".into(),
        hint: "paste one line",
        source,
    })?;
    let url = url::Url::parse(line.trim()).map_err(|_| CliError::Usage {
        what: "that is no address".into(),
        hint: "paste the whole address from the browser's address bar, beginning with https://".into(),
    })?;
    Ok(Callback::from_url(&url))
}

async fn sync(world: World, args: Sync) -> Result<ExitCode, CliError> {
    for name in &args.resource {
        if world.config.provider.resource(name.as_str()).is_none() {
            return Err(no_resource(&world.config, name));
        }
    }
    let backfill = args.from.map(|from| Window::new(Some(from), args.to.unwrap_or_else(|| world.clock.now())));
    if backfill.is_some_and(|w| w.is_empty()) {
        return Err(CliError::Usage {
            what: "--from is not before --to".into(),
            hint: "give a window with something in it".into(),
        });
    }
    let options = sync::Options {
        tenants: args.tenant,
        resources: args.resource,
        full: args.full,
        backfill,
        deadline: args.deadline,
        allow_mass_delete: args.allow_mass_delete,
    };
    if args.dry_run {
        for p in sync::preview(&world, &options).await? {
            print(&serde_json::to_string(&p).unwrap_or_default())?;
        }
        return Ok(ExitCode::Done);
    }
    let stop = world.stop.clone();
    let progress = world.progress.clone();
    let work = sync::run(&world, &options);
    tokio::pin!(work);
    let report = tokio::select! {
        report = &mut work => report?,
        () = watch(progress) => unreachable_watch()?,
        () = signals(stop) => unreachable_watch()?,
    };
    finish(&report, args.report.as_deref())
}

/// The watchers never end before the work does; should one, that is a bug and says so.
fn unreachable_watch() -> Result<Report, CliError> {
    Err(CliError::Usage {
        what: "a watcher of the run ended early".into(),
        hint: "this is a bug of hirelake; please report it".into(),
    })
}

fn finish(report: &Report, path: Option<&std::path::Path>) -> Result<ExitCode, CliError> {
    note(&report.table());
    for trouble in report.troubles() {
        note(&trouble);
    }
    // stdout first: whoever started the run waits for its verdict, whatever becomes of the file.
    print(&report.summary())?;
    if let Some(path) = path
        && let Err(source) = std::fs::write(path, report.json())
    {
        let failed = CliError::Io {
            what: format!("writing the report {}", path.display()),
            hint: "the sync itself is done; its report is in the state under reports/ too",
            source,
        };
        // A verdict that says more is not hidden behind the file.
        if report.code == ExitCode::Done {
            return Err(failed);
        }
        note(&format!("error: {}", failure(&failed)));
    }
    Ok(report.code)
}

/// Stops cleanly at the first signal; a second one, or 18 s, end the process at once with the same code.
async fn signals(stop: tokio_util::sync::CancellationToken) {
    async fn signal() {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
    signal().await;
    stop.cancel();
    note("stopping: what is finished is being committed; a second signal ends at once");
    tokio::select! {
        () = signal() => {}
        // Who sends SIGTERM kills after 20 or 30 s.
        () = tokio::time::sleep(Duration::from_secs(18)) => {}
    }
    std::process::exit(i32::from(ExitCode::Stopped.number()));
}

/// Shows what is going on: bars on a terminal, a line now and then elsewhere.
async fn watch(progress: Progress) {
    let bars = std::io::stderr().is_terminal().then(indicatif::MultiProgress::new);
    let mut shown = std::collections::BTreeMap::new();
    let mut last = progress.seen();
    let every = Duration::from_millis(if bars.is_some() { 150 } else { 10_000 });
    let began = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(every).await;
        let seen = progress.seen();
        for ((tenant, resource), under) in &seen {
            let rate = under.requests as f64 / began.elapsed().as_secs_f64().max(0.001);
            let text = format!(
                "{tenant}/{resource}: {} records, {} requests ({rate:.1}/s), {}",
                under.records, under.requests, under.doing
            );
            match &bars {
                Some(bars) => {
                    let bar = shown.entry((tenant.clone(), resource.clone())).or_insert_with(|| {
                        let style = indicatif::ProgressStyle::with_template("{spinner} {msg} {elapsed}");
                        bars.add(
                            indicatif::ProgressBar::new_spinner()
                                .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner())),
                        )
                    });
                    bar.set_message(text);
                    bar.tick();
                    if under.over {
                        bar.finish_and_clear();
                    }
                }
                None if last.get(&(tenant.clone(), resource.clone())) != Some(under) => {
                    tracing::info!(%tenant, %resource, records = under.records, requests = under.requests, doing = under.doing, "under way");
                }
                None => {}
            }
        }
        last = seen;
    }
}

async fn sandbox(args: Sandbox) -> Result<ExitCode, CliError> {
    let callbacks = args.redirect_uri.iter().map(|u| format!("{u:?}")).collect::<Vec<_>>().join(", ");
    let client = sandbox::Client {
        id: "sandbox-client".into(),
        secret: "sandbox-secret".into(),
        redirect_uris: args.redirect_uri,
        scopes: catalog::embedded().map(|p| p.oauth.scopes).unwrap_or_default(),
    };
    let running = sandbox::start(sandbox::Options {
        listen: args.listen,
        seed: args.seed,
        accounts: args.accounts.into_iter().map(|(name, n)| sandbox::AccountSize::new(name, n)).collect(),
        clients: vec![client],
        rate: (args.rate > 0.0).then_some(sandbox::Limit { per_second: args.rate, burst: args.burst }),
        latency: Duration::from_millis(args.latency_ms),
        token_life: Duration::from_secs(args.token_life_s),
        ..sandbox::Options::default()
    })
    .await?;
    let url = running.url();
    print(&format!(
        "# a pretend Lever is at {url}; end it with Ctrl-C. An app for hirelake.toml:\n\n[apps.main]\nenvironment   = \"sandbox\"\nclient_id     = \"sandbox-client\"\nclient_secret = {{ env = \"SANDBOX_SECRET\" }}   # sandbox-secret\nredirect_uris = [{callbacks}]\napi_base      = \"{url}/v1\"\nauthorize     = \"{url}/authorize\"\ntoken         = \"{url}/oauth/token\"\nrevoke        = \"{url}/oauth/revoke\"\naudience      = \"{url}/v1/\""
    ))?;
    tokio::select! {
        () = running.wait() => {}
        _ = tokio::signal::ctrl_c() => running.shutdown().await,
    }
    Ok(ExitCode::Done)
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
