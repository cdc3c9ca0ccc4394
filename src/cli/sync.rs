//! `hirelake sync`: the job, its progress and its verdict.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use super::{CliError, failure, moment, no_resource, note, print, span};
use crate::clock::Timestamp;
use crate::names::{ResourceName, Tenant};
use crate::report::{ExitCode, Progress, Report};
use crate::state::{State, Window};
use crate::sync::{self, World};

/// Which part of the work.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only this tenant; may be repeated
    #[arg(long, value_name = "TENANT")]
    tenant: Vec<Tenant>,
    /// Only this resource; may be repeated
    #[arg(long, value_name = "RESOURCE")]
    resource: Vec<ResourceName>,
}

impl Which {
    fn known(&self, world: &World) -> Result<(), CliError> {
        let unknown = self.resource.iter().find(|name| world.config.provider.resource(name.as_str()).is_none());
        unknown.map_or(Ok(()), |name| Err(no_resource(&world.config, name)))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Sync {
    #[command(flatten)]
    which: Which,
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
    /// Stop cleanly after so many requests, retries included, over all tenants; the next run goes on
    #[arg(long, value_name = "N")]
    max_requests: Option<u64>,
    /// Print what would be read, and read nothing (`hirelake plan` prints it as a table)
    #[arg(long)]
    dry_run: bool,
    /// Believe it when more than a fifth of a listing vanished
    #[arg(long)]
    allow_mass_delete: bool,
    /// Wait so long, such as 10m, for tenants that another run holds [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = span)]
    wait: Option<Duration>,
    /// Write the full report to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    #[command(flatten)]
    which: Which,
    /// As if everything were loaded anew
    #[arg(long)]
    full: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Says what a sync would read and what that costs.
pub(super) async fn plan(world: &World, args: Plan) -> Result<ExitCode, CliError> {
    args.which.known(world)?;
    super::known(&world.config, &State::new(world.state.clone(), world.clock), &args.which.tenant).await?;
    let options = sync::Options {
        tenants: args.which.tenant,
        resources: args.which.resource,
        full: args.full,
        ..sync::Options::default()
    };
    let all = sync::forecast(world, &options).await?;
    if all.is_empty() {
        super::nobody(&world.config);
    }
    if args.json {
        return print(&serde_json::to_string_pretty(&all).unwrap_or_default());
    }
    print(&sync::forecast_table(&all))
}

pub(super) async fn sync(world: World, args: Sync) -> Result<ExitCode, CliError> {
    args.which.known(&world)?;
    super::known(&world.config, &State::new(world.state.clone(), world.clock), &args.which.tenant).await?;
    let backfill = args.from.map(|from| Window::new(Some(from), args.to.unwrap_or_else(|| world.clock.now())));
    if backfill.is_some_and(|w| w.is_empty()) {
        return Err(CliError::Usage {
            what: "--from is not before --to".into(),
            hint: "give a window with something in it".into(),
        });
    }
    let options = sync::Options {
        tenants: args.which.tenant,
        resources: args.which.resource,
        full: args.full,
        backfill,
        deadline: args.deadline,
        max_requests: args.max_requests,
        allow_mass_delete: args.allow_mass_delete,
        wait: args.wait.unwrap_or_default(),
    };
    if args.dry_run {
        for p in sync::forecast(&world, &options).await? {
            print(&serde_json::to_string(&p).unwrap_or_default())?;
        }
        return Ok(ExitCode::Done);
    }
    if let Some(path) = &args.report {
        // Before anybody is asked: at the end of a night's run it is too late to say so.
        std::fs::File::options().append(true).create(true).open(path).map_err(|source| CliError::Io {
            what: format!("opening the report {}", path.display()),
            hint: "nothing was read yet: check that its folder is there, and that this user may write in it",
            source,
        })?;
    }
    world.fit().await?;
    let stop = world.stop.clone();
    let progress = world.progress.clone();
    let work = sync::run(&world, &options);
    tokio::pin!(work);
    let report = tokio::select! {
        report = &mut work => report?,
        () = watch(progress) => unreachable_watch()?,
        never = signals(stop) => match never {},
    };
    if report.tenants.is_empty() {
        super::nobody(&world.config);
    }
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

/// Waits for SIGTERM or Ctrl-C.
pub(super) async fn signal() {
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

/// Stops cleanly at the first signal; a second one, or 18 s, end the process at once with the same code.
pub(super) async fn signals(stop: tokio_util::sync::CancellationToken) -> std::convert::Infallible {
    signal().await;
    stop.cancel();
    note("stopping: what was begun is brought to a safe end; a second signal ends at once");
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
