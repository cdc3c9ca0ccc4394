//! `hirelake disconnect`: a tenant is let go.

use std::io::{BufRead as _, IsTerminal as _};

use super::{CliError, no_tenant, note, print};
use crate::auth::AuthError;
use crate::disconnect;
use crate::names::Tenant;
use crate::report::ExitCode;
use crate::state::State;
use crate::sync::{SyncError, World};

#[derive(Debug, clap::Args)]
pub(super) struct Disconnect {
    /// The tenant
    tenant: Tenant,
    /// Erase its part of the lake too, with what the state knows of its rows
    #[arg(long)]
    erase_lake: bool,
    /// Do not ask before erasing
    #[arg(long)]
    yes: bool,
}

pub(super) async fn disconnect(world: &World, args: Disconnect) -> Result<ExitCode, CliError> {
    let tenant = &args.tenant;
    if args.erase_lake {
        world.has_a_lake(tenant)?;
    }
    if args.erase_lake && !args.yes {
        sure(tenant, world.lake.url())?;
    }
    let done = match disconnect::run(world, tenant, args.erase_lake).await {
        Err(SyncError::Auth(AuthError::NotConnected { .. })) => {
            let state = State::new(world.state.clone(), world.clock);
            return Err(no_tenant(&world.config, &state, tenant).await);
        }
        done => done?,
    };
    for text in done.notes() {
        note(&text);
    }
    let whole = print(&done.to_string())?;
    // Who asked for an erasure must not take it for done.
    Ok(if done.erased.is_some_and(|e| e.uploads_left > 0) { ExitCode::Partial } else { whole })
}

/// Has the tenant's name typed; where nobody can type it, nothing is erased.
fn sure(tenant: &Tenant, lake: &str) -> Result<(), CliError> {
    let refused = |what: &str, hint: &str| Err(CliError::Usage { what: what.into(), hint: hint.into() });
    if !std::io::stdin().is_terminal() {
        return refused(
            "--erase-lake asks before it erases, and nobody is here to answer",
            "add --yes; nothing was touched",
        );
    }
    note(&format!("This erases every file of tenant={tenant} below {lake}, for good. Type {tenant} to go on:"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|source| CliError::Io {
        what: "reading the answer".into(),
        hint: "type it on one line",
        source,
    })?;
    if answer.trim() != tenant.as_str() {
        return refused("that is not the tenant's name", "nothing was touched");
    }
    Ok(())
}
