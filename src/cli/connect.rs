//! `hirelake connect`: by consent in a browser, with a credential that is had already, or through the connect page.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{CliError, note, print};
use crate::auth::connect::{Callback, Connected};
use crate::auth::{Auth, CredentialKind};
use crate::config;
use crate::connect::Site;
use crate::names::{AppName, RunId, Tenant};
use crate::report::ExitCode;
use crate::secret::Secret;
use crate::state::{Lease, State};
use crate::sync::{self, World};

/// How long a tenant that is busy is waited for: a code is said to live ten minutes.
const CODE_LIFE: Duration = Duration::from_secs(8 * 60);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Connect {
    #[command(subcommand)]
    page: Option<Page>,
    /// The tenant's name: it becomes `tenant=NAME` in the lake
    #[arg(required = true)]
    tenant: Option<Tenant>,
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
    /// Replace the grant even with another account or kind of credential, or when it is sealed with a lost vault key
    #[arg(long)]
    force: bool,
}

/// What comes before a consent.
#[derive(Debug, clap::Subcommand)]
enum Page {
    /// Print what the provider's registration form asks about an app, and the steps until its first customer is connected
    Guide {
        /// The app [default: all]
        #[arg(long)]
        app: Option<AppName>,
    },
    /// Serve the page on which customers connect by themselves, until a signal ends it
    Serve {
        /// Where to listen; your proxy with TLS stands before it [default: [connect] listen, 127.0.0.1:8915]
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Print a link with which a customer connects one tenant, once
    Invite {
        /// The tenant's name: it becomes `tenant=NAME` in the lake
        tenant: Tenant,
        /// How long it can be used [default: [connect] invite_life, 7d]
        #[arg(long, value_name = "DURATION", value_parser = super::span)]
        expires: Option<Duration>,
        /// Let it replace the grant even with another account, or with one that another tenant holds
        #[arg(long)]
        force: bool,
    },
}

impl Connect {
    /// Whether it only tells what to register: that needs a configuration and nothing else.
    pub(super) fn guides(&self) -> Option<Option<&AppName>> {
        match &self.page {
            Some(Page::Guide { app }) => Some(app.as_ref()),
            _ => None,
        }
    }

    /// Whether it runs until it is ended, and its log lines are what there is to see.
    pub(super) fn serves(&self) -> bool {
        matches!(self.page, Some(Page::Serve { .. }))
    }
}

/// Longest life of a link: whoever finds it later must not be able to connect with it.
const LONGEST_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

pub(super) async fn connect(world: &World, args: Connect) -> Result<ExitCode, CliError> {
    match args.page {
        Some(Page::Serve { listen }) => return serve(world, listen).await,
        Some(Page::Guide { app }) => return super::registration::guide(&world.config, app.as_ref()),
        Some(Page::Invite { tenant, expires, force }) => return invite(world, &tenant, expires, force),
        None => {}
    }
    let state = State::new(world.state.clone(), world.clock);
    let run = RunId::new();
    let Some(tenant) = &args.tenant else {
        return Err(CliError::Usage { what: "no tenant was given".into(), hint: "`hirelake connect TENANT`".into() });
    };
    let auth = Auth::new(world.config.clone(), state.clone(), world.clock, run)?;
    let auth = Arc::new(auth.knowing(sync::known(world, tenant).await));
    let seed = |path: &PathBuf, what: &str| -> Result<Secret, CliError> {
        Ok(config::SecretSource::File(path.clone()).fetch(what)?)
    };
    // Before anybody is asked for a consent, or a seed is used up.
    if !args.retry {
        let kind = if args.api_key_file.is_some() { CredentialKind::ApiKey } else { CredentialKind::OAuth };
        auth.may_replace(tenant, kind, args.force).await?;
    }
    let release = async |lease: Arc<Lease>| {
        auth.settled(tenant).await;
        match Arc::into_inner(lease) {
            Some(lease) => lease.release().await,
            None => Ok(()),
        }
    };
    if args.retry {
        patiently();
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
        patiently();
        let lease = Arc::new(state.lease(tenant, run).await?);
        let connected = auth.seed_refresh_token(tenant, lease.clone(), token, args.force).await;
        let given_back = give_back(&auth, path);
        release(lease).await?;
        given_back?;
        connected?
    } else {
        // A consent that cannot be exchanged is wasted.
        world.config.app(tenant)?.secret()?;
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
        let lease = auth.patient_lease(tenant, run, CODE_LIFE).await?;
        patiently();
        let connected = auth.exchange(tenant, &lease, &invitation, callback, args.force).await;
        lease.release().await?;
        connected?
    };
    say_connected(tenant, &connected)
}

fn invite(world: &World, tenant: &Tenant, expires: Option<Duration>, force: bool) -> Result<ExitCode, CliError> {
    let life = expires.unwrap_or(world.config.connect.invite_life);
    if life.is_zero() || life > LONGEST_LIFE {
        return Err(CliError::Usage {
            what: format!("a link cannot live for {} days", life.as_secs_f64() / 86_400.0),
            hint: "give more than nothing and at most 90 days, such as --expires 7d".into(),
        });
    }
    let state = State::new(world.state.clone(), world.clock);
    let auth = Auth::new(world.config.clone(), state, world.clock, RunId::new())?;
    let (listen, now) = (world.config.connect.listen, world.clock.now());
    let link = crate::connect::link(&world.config, auth.vault(), listen, now, tenant, life, force)?;
    note(&format!("For a Super Admin of {tenant}; it works once, until {}:", now.plus(life)));
    if world.config.connect.public_url.is_none() {
        note("hint: it leads to this machine; set [connect] public_url to send it to a customer");
    }
    print(link.as_str())
}

async fn serve(world: &World, listen: Option<SocketAddr>) -> Result<ExitCode, CliError> {
    let listen = listen.unwrap_or(world.config.connect.listen);
    let state = State::new(world.state.clone(), world.clock);
    let auth = Arc::new(Auth::new(world.config.clone(), state.clone(), world.clock, RunId::new())?);
    let site = Arc::new(Site::new(world.config.clone(), auth, state, listen, world.stop.clone())?);
    let listener = crate::connect::listen(listen).await?;
    let bases: Vec<String> = site.bases().iter().map(|b| format!("{b}invite/…")).collect();
    note(&format!("listening on {listen}; links are {}; end it with Ctrl-C", bases.join(" and ")));
    let ended = async {
        super::sync::signal().await;
        world.stop.cancel();
        note("ending: a consent that is being stored is brought to its end; a second signal ends at once");
        super::sync::signal().await;
    };
    tokio::select! {
        () = crate::connect::serve(site, listener) => Ok(ExitCode::Done),
        () = ended => Ok(ExitCode::Stopped),
    }
}

fn say_connected(tenant: &Tenant, connected: &Connected) -> Result<ExitCode, CliError> {
    if !connected.missing.is_empty() {
        note(&format!("These scopes are needed and were not granted: {}", connected.missing.join(" ")));
        note("hint: register them for the app at the provider and connect again, or leave their resources out");
    }
    print(&format!("{tenant} is connected"))
}

/// From here on a signal waits for the tokens that may be under way; a second one ends at once.
fn patiently() {
    tokio::spawn(async {
        super::sync::signal().await;
        note("one moment: tokens are being exchanged and saved; a second signal ends at once");
        super::sync::signal().await;
        std::process::exit(i32::from(ExitCode::Stopped.number()));
    });
}

/// Keeps what came of a seed that could not be stored beside the seed, which is used up.
fn give_back(auth: &Auth, seed: &Path) -> Result<(), CliError> {
    let kept = auth.keep_successor(seed).map_err(|source| CliError::Io {
        what: format!("the refresh token in {} is used up, and keeping its successor beside it", seed.display()),
        hint: "a Super Admin of the customer must consent anew",
        source,
    })?;
    if let Some(path) = kept {
        note(&format!(
            "The refresh token in {} is used up; its successor is in {}: give that one the next time.",
            seed.display(),
            path.display()
        ));
    }
    Ok(())
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
