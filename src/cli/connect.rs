//! `hirelake connect`: by consent in a browser, or with a credential that is had already.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{CliError, note, print};
use crate::auth::Auth;
use crate::auth::connect::{Callback, Connected};
use crate::config;
use crate::names::{RunId, Tenant};
use crate::report::ExitCode;
use crate::secret::Secret;
use crate::state::{Lease, State};
use crate::sync::World;

/// How long a tenant that is busy is waited for: a code is said to live ten minutes.
const CODE_LIFE: Duration = Duration::from_secs(8 * 60);

#[derive(Debug, clap::Args)]
pub(super) struct Connect {
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

pub(super) async fn connect(world: &World, args: Connect) -> Result<ExitCode, CliError> {
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
        let lease = auth.patient_lease(tenant, CODE_LIFE).await?;
        let connected = auth.exchange(tenant, &lease, &invitation, callback, args.force).await;
        lease.release().await?;
        connected?
    };
    say_connected(tenant, &connected)
}

fn say_connected(tenant: &Tenant, connected: &Connected) -> Result<ExitCode, CliError> {
    if !connected.missing.is_empty() {
        note(&format!("These scopes are needed and were not granted: {}", connected.missing.join(" ")));
        note("hint: register them for the app at the provider and connect again, or leave their resources out");
    }
    print(&format!("{tenant} is connected"))
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
