//! `hirelake sandbox`: a pretend Lever in this process.

use std::time::Duration;

use super::{CliError, print};
use crate::catalog;
use crate::report::ExitCode;
use crate::sandbox;

#[derive(Debug, clap::Args)]
pub(super) struct Sandbox {
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
    /// Seconds in which a superseded refresh token is answered with its successor again; 0: any reuse ends the grant
    #[arg(long, default_value_t = 0, value_name = "S")]
    refresh_leeway_s: u64,
    /// Lengthen opportunities to about so many bytes of JSON each; 0 leaves them as they are
    #[arg(long, default_value_t = 0, value_name = "N")]
    record_bytes: usize,
    /// Make all opportunities before it listens, so that no request waits for them
    #[arg(long)]
    warm: bool,
    /// Callbacks that are registered
    #[arg(long, default_value = "http://localhost:8914/callback")]
    redirect_uri: Vec<String>,
}

fn account(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.split_once('=').ok_or("write it as acme=1000")?;
    Ok((name.to_owned(), n.parse().map_err(|_| "the number of opportunities is no number")?))
}

pub(super) async fn sandbox(args: Sandbox) -> Result<ExitCode, CliError> {
    let callbacks = args.redirect_uri.iter().map(|u| format!("{u:?}")).collect::<Vec<_>>().join(", ");
    let client = sandbox::Client {
        id: "sandbox-client".into(),
        secret: "sandbox-secret".into(),
        redirect_uris: args.redirect_uri,
        scopes: catalog::embedded().map(|p| p.oauth.scopes).unwrap_or_default(),
    };
    let accounts = args.accounts.into_iter().map(|(name, n)| sandbox::AccountSize {
        record_bytes: args.record_bytes,
        ..sandbox::AccountSize::new(name, n)
    });
    let running = sandbox::start(sandbox::Options {
        listen: args.listen,
        seed: args.seed,
        accounts: accounts.collect(),
        warm: args.warm,
        clients: vec![client],
        rate: (args.rate > 0.0).then_some(sandbox::Limit { per_second: args.rate, burst: args.burst }),
        latency: Duration::from_millis(args.latency_ms),
        token_life: Duration::from_secs(args.token_life_s),
        refresh_leeway: Duration::from_secs(args.refresh_leeway_s),
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
