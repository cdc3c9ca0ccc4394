//! `hirelake catalog`: what can be read; and the user's own part of it looked at, inferred, and kept up with what drifts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{CliError, no_resource, print, registration};
use crate::adopt::{self, Adoption};
use crate::catalog::{self, Finding, Linted};
use crate::clock::Clock;
use crate::config::Config;
use crate::infer::{self, Ask};
use crate::names::{AppName, ResourceName, Tenant};
use crate::report::ExitCode;
use crate::state::State;
use crate::sync::{SyncError, World};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Catalog {
    #[command(subcommand)]
    work: Option<Work>,
    /// A resource
    resource: Option<ResourceName>,
    /// The least scopes that open what is enabled, as the provider's registration form and consent page want them
    #[arg(long, conflicts_with = "resource")]
    scopes: bool,
    /// … of this app [default: all]
    #[arg(long, requires = "scopes")]
    app: Option<AppName>,
    /// … of everything that can be read, sensitive things included
    #[arg(long, requires = "scopes")]
    all: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Work {
    /// Look at catalogue files as if they lay in your catalogue folder: every mistake, and what is likely not meant
    Lint {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Ask a path for a page or two, and propose the resource that reads it
    Infer {
        /// Below the API base: `/things`, or `/opportunities/:id/things` with --children-of
        path: String,
        /// The tenant as whom to ask
        #[arg(long)]
        tenant: Tenant,
        /// What it is to be called [default: the last word of the path]
        #[arg(long)]
        name: Option<ResourceName>,
        /// The resource whose rows are the parents; `:id` in the path is their id
        #[arg(long, value_name = "RESOURCE")]
        children_of: Option<ResourceName>,
        /// Where the rows stand in a page, keys with dots between them; `.`: the page is the row [default: looked for]
        #[arg(long, value_name = "KEY")]
        records: Option<String>,
        /// A parameter of every request; can be given more than once
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        query: Vec<(String, String)>,
        /// Parents that are asked at most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        parents: u16,
    },
    /// The lines that would adopt what recent runs met and the catalogue does not expect
    Drift {
        /// What this tenant met; can be given more than once [default: all]
        #[arg(long = "tenant", value_name = "TENANT")]
        tenants: Vec<Tenant>,
        /// How many of the newest reports are looked at: a month of an hourly cron
        #[arg(long, value_name = "N", default_value_t = 750, value_parser = clap::value_parser!(u16).range(1..=1000))]
        reports: u16,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(k, _)| !k.is_empty()).ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn catalog(config: Option<&Path>, args: Catalog) -> Result<ExitCode, CliError> {
    match args.work {
        Some(Work::Lint { files }) => return lint(config, &files),
        Some(Work::Infer { path, tenant, name, children_of, records, query, parents }) => {
            let world = World::open(super::loaded(config)?, Clock::system())?;
            let ask = Ask { path, tenant, name, children_of, records, query, parents: parents.into() };
            let text = tokio::select! {
                text = infer::infer(&world, &ask) => text?,
                // A refresh that was begun is brought to its end.
                never = super::sync::signals(world.stop.clone()) => match never {},
            };
            return print(text.trim_end());
        }
        Some(Work::Drift { tenants, reports, json }) => {
            let world = World::open(super::loaded(config)?, Clock::system())?;
            return drift(&world, &tenants, reports.into(), json).await;
        }
        None => {}
    }
    if args.scopes {
        // Where scopes are too many, it is here that one learns what fits.
        let unchecked = || Config::load_with_scopes_unchecked(config, std::env::vars());
        let config = super::loaded(config).or_else(|_| unchecked().map(Arc::new))?;
        return registration::scopes(&config, args.app.as_ref(), args.all);
    }
    let config = super::loaded(config)?;
    match args.resource {
        None => print(&catalog::overview(&config.provider)),
        Some(name) => match config.provider.resource(name.as_str()) {
            Some(resource) => print(&catalog::describe(&config.provider, resource)),
            None => Err(no_resource(&config, &name)),
        },
    }
}

fn lint(config: Option<&Path>, files: &[PathBuf]) -> Result<ExitCode, CliError> {
    let folder = Config::catalog_folder(config)?;
    let linted = catalog::lint(files, folder.as_deref()).map_err(|e| SyncError::Config(e.into()))?;
    let failed = linted.iter().any(|l| !l.mistakes.is_empty());
    let text: Vec<String> = linted.iter().map(said).collect();
    print(text.join("\n").trim_end())?;
    Ok(if failed { ExitCode::Configuration } else { ExitCode::Done })
}

fn said(l: &Linted) -> String {
    let finding = |word: &str, f: &Finding| {
        let hint = f.hint.as_ref().map(|h| format!("hint: {h}\n")).unwrap_or_default();
        format!("{word}: {}: {}\n{hint}", f.place, f.message)
    };
    let mistakes: String = l.mistakes.iter().map(|f| finding("error", f)).collect();
    let warnings: String = l.warnings.iter().map(|f| finding("warning", f)).collect();
    if !l.mistakes.is_empty() {
        return format!("{}: {}\n{mistakes}{warnings}", l.file, count(l.mistakes.len(), "mistake"));
    }
    let mut all = vec![count(l.resources, "resource")];
    if l.extends > 0 {
        all.push(format!("{} extended", count(l.extends, "resource")));
    }
    all.push(count(l.columns, "column"));
    if !l.warnings.is_empty() {
        all.push(count(l.warnings.len(), "warning"));
    }
    let described: String = l.described.iter().map(|d| format!("\n{d}")).collect();
    format!("{}: ok, {}\n{warnings}{described}", l.file, all.join(", "))
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

async fn drift(world: &World, tenants: &[Tenant], reports: usize, as_json: bool) -> Result<ExitCode, CliError> {
    let state = State::new(world.state.clone(), world.clock);
    let (seen, read) = adopt::seen(&state, reports, tenants).await?;
    let adoptions = adopt::propose(&world.config.provider, &seen);
    let lines: Vec<String> = adoptions.iter().map(Adoption::text).collect();
    let lines = lines.join("\n");
    if as_json {
        let one = |a: &Adoption| {
            let columns: Vec<_> = (a.columns.iter())
                .map(|p| {
                    let c = &p.column;
                    json!({"name": c.name, "source": c.source, "type": c.ty.to_string(), "seen": p.note})
                })
                .collect();
            json!({"resource": a.resource, "columns": columns, "left": a.rest})
        };
        let all: Vec<_> = adoptions.iter().map(one).collect();
        return print(&json!({"reports": read, "adoptions": all, "toml": lines}).to_string());
    }
    let from = match read {
        0 => return print("# There is no report of a run in the state yet: `hirelake sync` leaves one."),
        1 => "the newest report".to_owned(),
        n => format!("the newest {n} reports"),
    };
    if adoptions.is_empty() {
        return print(&format!("# Nothing drifted, by {from}, that the catalogue does not know by now."));
    }
    let head = format!(
        "# What drifted, by {from}. A file of these lines in your catalogue folder adopts them: the next run brings every file\n\
         # forward; rows that were read before keep theirs in `_extra` until they are read again (`sync --full`). A column keeps\n\
         # its type and place for ever. All are marked sensitive, as `_extra` is: take it from what says nothing of a person.\n"
    );
    print(format!("{head}\n{lines}").trim_end())
}
