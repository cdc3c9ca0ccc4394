//! The whole path in a minute: a pretend Lever on loopback, two tenants, two syncs, and what a person wants to see of them.
//!
//! Everything is in one folder, which is emptied first when an earlier demo made it; a folder that something else made is
//! refused. No account and no network are needed.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Auth;
use crate::auth::connect::Callback;
use crate::cli::CliError;
use crate::clock::Clock;
use crate::config::Config;
use crate::names::{RunId, Tenant};
use crate::report::{ExitCode, Report};
use crate::sandbox;
use crate::state::State;
use crate::sync::{self, Options, World};

/// What marks a folder as a demo's own.
const MARK: &str = ".hirelake-demo";
/// The larger and the smaller tenant.
const TENANTS: [&str; 2] = ["acme", "globex"];

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> CliError {
    let what = what.into();
    move |source| CliError::Io { what, hint: "check that this user may write there, or choose another --dir", source }
}

/// Runs the demo in `dir` and tells the story to `out`.
///
/// # Errors
///
/// [`CliError`]. A sync that fails is told, and its code is returned.
pub async fn run(dir: &Path, opportunities: usize, out: &mut impl Write) -> Result<ExitCode, CliError> {
    prepare(dir)?;
    let mut say = |text: &str| writeln!(out, "{text}").map_err(io("writing to stdout"));
    let sizes = [opportunities, opportunities.div_ceil(8)];
    let callback = "http://127.0.0.1:8914/callback";
    let clock = Clock::system();
    let running = sandbox::start(sandbox::Options {
        accounts: TENANTS.iter().zip(sizes).map(|(name, n)| sandbox::AccountSize::new(*name, n)).collect(),
        clients: vec![sandbox::Client {
            id: "demo-client".into(),
            secret: "demo-secret".into(),
            redirect_uris: vec![callback.into()],
            scopes: crate::catalog::embedded().map(|p| p.oauth.scopes).unwrap_or_default(),
        }],
        // As the provider's own bucket; the demo's lake is small enough to stay a matter of seconds.
        rate: Some(sandbox::Limit { per_second: 10.0, burst: 20 }),
        latency: Duration::from_millis(20),
        clock,
        ..sandbox::Options::default()
    })
    .await?;
    let control = running.control();
    let config = configure(dir, &running.url(), callback)?;
    let world = World::open(config, clock).map_err(sync::SyncError::from)?;
    say(&format!("A pretend Lever is at {}; everything else is in {}", running.url(), dir.display()))?;

    for name in TENANTS {
        let tenant: Tenant = name.parse().map_err(|_| usage("a demo tenant's name is refused"))?;
        connect(&world, &tenant).await?;
        say(&format!("connected tenant {tenant} through the consent page"))?;
    }

    say("\nFirst sync: everything there is")?;
    let first = sync::run(&world, &Options::default()).await?;
    tell(&first, &mut say)?;

    let edited = control.edit(TENANTS[0], 20, 7);
    let added = control.add(TENANTS[0], 5);
    let gone = control.edit(TENANTS[1], 1, 8);
    for id in &gone {
        control.delete_opportunity(TENANTS[1], id);
    }
    say(&format!(
        "\nAt the provider: {} opportunities of {} were edited and {} added; {} of {} was deleted",
        edited.len(),
        TENANTS[0],
        added.len(),
        gone.len(),
        TENANTS[1]
    ))?;
    // Nothing closer to the present than the safety lag is read, since writes show up late; the demo's lag is a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    say("\nSecond sync: only what changed")?;
    let second = sync::run(&world, &Options::default()).await?;
    tell(&second, &mut say)?;

    say("\nThe lake:")?;
    let lake = dir.join("lake");
    tree(&lake, &lake, &mut say)?;
    let requests = |r: &Report| r.tenants.values().map(|t| t.requests).sum::<u64>();
    say(&format!("\nRequests: {} in the first sync, {} in the second", requests(&first), requests(&second)))?;
    let glob = |table: &str| format!("{}/lever/{table}/**/*.parquet", lake.display());
    say(&format!(
        "\nTry next:\n  duckdb -c \"SELECT tenant, count(*) FROM read_parquet('{}') WHERE _deleted_at IS NULL GROUP BY ALL\"\n  duckdb -c \"SELECT p.text, count(*) FROM read_parquet('{}') a JOIN read_parquet('{}') p ON a.posting = p.id AND a.tenant = p.tenant GROUP BY ALL ORDER BY 2 DESC LIMIT 5\"\n  hirelake --config {} status",
        glob("opportunities"),
        glob("applications"),
        glob("postings"),
        dir.join("hirelake.toml").display(),
    ))?;
    running.shutdown().await;
    Ok(if first.code == ExitCode::Done { second.code } else { first.code })
}

fn usage(what: &str) -> CliError {
    CliError::Usage { what: what.into(), hint: "this is a bug of hirelake; please report it".into() }
}

/// An empty folder of our own.
fn prepare(dir: &Path) -> Result<(), CliError> {
    let show = dir.display();
    if dir.exists() {
        let empty = dir.read_dir().map_err(io(format!("reading {show}")))?.next().is_none();
        if !empty && !dir.join(MARK).exists() {
            return Err(CliError::Usage {
                what: format!("{show} holds something that no demo made"),
                hint: "choose another --dir; nothing was touched".into(),
            });
        }
        std::fs::remove_dir_all(dir).map_err(io(format!("emptying {show}")))?;
    }
    std::fs::create_dir_all(dir).map_err(io(format!("making {show}")))?;
    std::fs::write(dir.join(MARK), "").map_err(io(format!("writing in {show}")))
}

fn configure(dir: &Path, url: &str, callback: &str) -> Result<Arc<Config>, CliError> {
    let key: [u8; 32] = rand::random();
    let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
    private(&dir.join("vault.key"), &hex)?;
    private(&dir.join("client.secret"), "demo-secret")?;
    let text = format!(
        r#"# Made by `hirelake demo`. The pretend Lever that it speaks of ended with the demo.
lake  = "lake"
state = "state"

[vault]
key = {{ file = "vault.key" }}

[apps.demo]
environment   = "sandbox"
client_id     = "demo-client"
client_secret = {{ file = "client.secret" }}
redirect_uris = ["{callback}"]
api_base      = "{url}/v1"
authorize     = "{url}/authorize"
token         = "{url}/oauth/token"
revoke        = "{url}/oauth/revoke"
audience      = "{url}/v1/"

[sync]
safety_lag = "1s"
overlap    = "10s"
"#
    );
    let path = dir.join("hirelake.toml");
    std::fs::write(&path, text).map_err(io(format!("writing {}", path.display())))?;
    Ok(Arc::new(Config::load_with(Some(&path), std::iter::empty())?))
}

/// Writes a file that only its owner may read.
fn private(path: &Path, text: &str) -> Result<(), CliError> {
    let mut options = std::fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(io(format!("making {}", path.display())))?;
    file.write_all(text.as_bytes()).map_err(io(format!("writing {}", path.display())))
}

/// The consent flow, with this program in the browser's place.
async fn connect(world: &World, tenant: &Tenant) -> Result<(), CliError> {
    let state = State::new(world.state.clone(), world.clock);
    let run = RunId::new();
    let auth = Auth::new(world.config.clone(), state.clone(), world.clock, run)?;
    let invitation = auth.invite(tenant)?;
    let mut link = invitation.link.clone();
    link.query_pairs_mut().append_pair("auto_accept", tenant.as_str());
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let answer = browser.map_err(|_| usage("a browser could not be pretended"))?.get(link).send().await;
    let location = answer.ok().and_then(|a| Some(a.headers().get("location")?.to_str().ok()?.to_owned()));
    let back = location
        .and_then(|l| url::Url::parse(&l).ok())
        .ok_or_else(|| usage("the consent page did not send the browser back"))?;
    let lease = state.lease(tenant, run).await?;
    auth.exchange(tenant, &lease, &invitation, Callback::from_url(&back), false).await?;
    lease.release().await?;
    Ok(())
}

fn tell(report: &Report, say: &mut impl FnMut(&str) -> Result<(), CliError>) -> Result<(), CliError> {
    say(&report.table())?;
    for trouble in report.troubles() {
        say(&trouble)?;
    }
    Ok(())
}

fn tree(root: &Path, folder: &Path, say: &mut impl FnMut(&str) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut entries: Vec<_> =
        folder.read_dir().map_err(io(format!("reading {}", folder.display())))?.filter_map(Result::ok).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != crate::store::STAGING) {
                tree(root, &path, say)?;
            }
        } else {
            let bytes = entry.metadata().map_or(0, |m| m.len());
            let shown = path.strip_prefix(root).unwrap_or(&path);
            say(&format!("  {:>9}  {}", format!("{} KB", bytes.div_ceil(1024)), shown.display()))?;
        }
    }
    Ok(())
}
