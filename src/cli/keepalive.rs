//! `hirelake keepalive`: grants near their idle limit are refreshed.

use std::time::Duration;

use super::sync::signals;
use super::{CliError, note, print, span};
use crate::keepalive::{self, Options};
use crate::names::Tenant;
use crate::report::ExitCode;
use crate::state::State;
use crate::sync::World;

#[derive(Debug, clap::Args)]
pub(super) struct Keepalive {
    /// Only this tenant; may be repeated
    #[arg(long, value_name = "TENANT")]
    tenant: Vec<Tenant>,
    /// Refresh what is closer than this to its idle deadline [default: `before` of the configuration, 45d]
    #[arg(long, value_name = "DURATION", value_parser = span)]
    within: Option<Duration>,
}

pub(super) async fn keepalive(world: World, args: Keepalive) -> Result<ExitCode, CliError> {
    super::known(&world.config, &State::new(world.state.clone(), world.clock), &args.tenant).await?;
    let options = Options { tenants: args.tenant, within: args.within };
    let work = keepalive::run(&world, &options);
    tokio::pin!(work);
    let outcome = tokio::select! {
        outcome = &mut work => outcome?,
        never = signals(world.stop.clone()) => match never {},
    };
    for line in outcome.lines(&world) {
        note(&line);
    }
    print(&outcome.summary())?;
    Ok(outcome.code)
}
