//! `hirelake check`: the doctor.

use std::path::Path;
use std::sync::Arc;

use super::{CliError, print};
use crate::check::{self, Checkup, Subject};
use crate::clock::Clock;
use crate::config::Config;
use crate::names::Tenant;
use crate::report::ExitCode;
use crate::state::State;

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Look at this tenant and its app only; can be given more than once
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<Tenant>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn check(config: Option<&Path>, args: Check) -> Result<ExitCode, CliError> {
    // A configuration that cannot be read is told like all else that is wrong.
    let checkup = match Config::load(config) {
        Ok(config) => {
            let subject = Subject::open(Arc::new(config), Clock::system());
            if let Ok(store) = &subject.state {
                let state = State::new(store.clone(), subject.clock);
                super::known(&subject.config, &state, &args.tenants).await?;
            }
            tokio::select! {
                checkup = check::run(&subject, &args.tenants) => checkup,
                // A refresh that was begun is brought to its end.
                never = super::sync::signals(subject.stop.clone()) => match never {},
            }
        }
        Err(error) => Checkup::of_config_error(&error),
    };
    print(&if args.json { checkup.json() } else { checkup.table() })?;
    Ok(checkup.code)
}
