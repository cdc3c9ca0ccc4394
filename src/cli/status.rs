//! `hirelake status`: a table, one tenant in full, JSON, or a verdict for monitors.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{CliError, note, print, span};
use crate::auth::Auth;
use crate::connect;
use crate::names::{RunId, Tenant};
use crate::report::ExitCode;
use crate::state::State;
use crate::status::{self, TenantStatus};
use crate::sync::World;

/// The rules of `--check`, as `--help` tells them.
const AFTER_HELP: &str = "Exit codes: 0, or 3 when a tenant's state cannot be read. With --check: 4 when a customer must \
connect again (dead, past a deadline, never connected); else 7 when a tenant's state cannot be read; else 3 when somebody \
should look (uncertain; 14 days before the idle or 35 before the hard deadline; a scope of a named resource, or of a table that was read before, is missing; the \
last refresh or run failed; never synced within a day of connecting; behind --max-lag); else 0. Disconnected tenants are fine.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Status {
    /// One tenant, with everything that is known
    tenant: Option<Tenant>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Print only what needs somebody, and end with a code that says whom
    #[arg(long)]
    check: bool,
    /// With --check: a table whose cursor is further behind than this needs somebody
    #[arg(long, value_name = "DURATION", value_parser = span, requires = "check")]
    max_lag: Option<Duration>,
}

pub(super) async fn status(world: &World, args: Status) -> Result<ExitCode, CliError> {
    let mut all = match &args.tenant {
        None => status::read(world).await?,
        Some(tenant) => {
            let state = State::new(world.state.clone(), world.clock);
            super::known(&world.config, &state, std::slice::from_ref(tenant)).await?;
            status::read_some(world, std::slice::from_ref(tenant)).await
        }
    };
    if all.is_empty() {
        super::nobody(&world.config);
    }
    if args.check {
        return check(world, &all, &args);
    }
    if args.tenant.is_some() {
        // For one tenant only: whoever has a link can connect an account to it, so it does not go where all are listed.
        for (tenant, t) in all.iter_mut().filter(|(_, t)| t.reconnect.is_some()) {
            t.link = link(world, tenant);
        }
    }
    print(&match &args.tenant {
        _ if args.json => serde_json::to_string_pretty(&all).unwrap_or_default(),
        None => status::table(&all),
        Some(_) => all.iter().map(|(tenant, t)| status::full(world, tenant, t)).collect(),
    })?;
    for (tenant, failure) in all.iter().filter_map(|(tenant, t)| Some((tenant, t.unreadable.as_ref()?))) {
        note(&format!("error: {tenant}: {failure}"));
    }
    Ok(status::readable(&all))
}

fn check(world: &World, all: &BTreeMap<Tenant, TenantStatus>, args: &Status) -> Result<ExitCode, CliError> {
    let troubles = status::troubles(world, all, args.max_lag);
    if args.json {
        print(&serde_json::to_string_pretty(&troubles).unwrap_or_default())?;
    } else if troubles.is_empty() && !all.is_empty() {
        print(&format!("all well: {} {}", all.len(), if all.len() == 1 { "tenant" } else { "tenants" }))?;
    }
    for trouble in troubles.iter().filter(|_| !args.json) {
        print(&format!("{}: {}\nhint: {}", trouble.tenant, trouble.what, trouble.hint))?;
    }
    // A monitor that looks into an empty folder is no good news.
    Ok(if all.is_empty() { ExitCode::Configuration } else { status::verdict(&troubles) })
}

/// A link for the tenant's customer, where the connect page is known and the vault key can be had.
fn link(world: &World, tenant: &Tenant) -> Option<String> {
    world.config.connect.public_url.as_ref()?;
    let state = State::new(world.state.clone(), world.clock);
    let made = Auth::new(world.config.clone(), state, world.clock, RunId::new()).map_err(|e| e.to_string());
    let link = made.and_then(|auth| {
        let (config, connect) = (&world.config, &world.config.connect);
        connect::link(config, auth.vault(), connect.listen, world.clock.now(), tenant, connect.invite_life, false)
            .map_err(|e| e.to_string())
    });
    match link {
        Ok(link) => Some(link.into()),
        Err(why) => {
            note(&format!("note: no link can be made for {tenant}: {why}"));
            None
        }
    }
}
