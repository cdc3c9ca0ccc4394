//! A pretend Lever on a loopback socket: for the demo, the tests, the benches, and for users who wait for their app.
//!
//! Written from the reference alone and sharing no types with the client, so that it cannot share the client's mistakes:
//! of this crate it knows the clock and nothing else. It is as strict as the real thing is known or feared to be; where
//! the reference is silent it takes the reading that is harder for a client. Beyond Lever it has a script of faults and a
//! control endpoint (`/_control`, or [`Control`] inside the process) that changes what the accounts hold.
//!
//! Equal options, with a clock that starts at the same moment, give equal bytes. Everything runs on the caller's runtime,
//! also with its time paused, and ends when the last [`Running`] is dropped.

mod account;
mod api;
mod children;
mod control;
mod data;
mod eeo;
mod faults;
mod files;
mod limit;
mod oauth;
mod overlay;
mod paging;
mod posting;
mod reply;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::account::Account;
use self::faults::Script;
use self::files::Storage;
use self::limit::Bucket;
use self::oauth::OAuth;
use self::reply::Reply;
use crate::clock::Clock;

pub use self::control::{Control, Stats};
pub use self::faults::{Action, Fault};
pub use self::limit::Limit;
pub use self::oauth::IssuedGrant;
pub use self::overlay::{ChildRecord, Touched};

/// The largest request body read; a token request is under 10 KiB, a control request with a record in it a little more.
const REQUEST_BYTES: usize = 4 << 20;
/// How long [`Running::shutdown`] waits for connections to finish before it leaves them to the runtime.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// The pause after an accept that failed (out of file handles, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What to pretend.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; loopback only. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Other seeds, other people.
    pub seed: u64,
    /// The customers. Names must differ and may hold letters, digits, `-`, `_` and `.`.
    pub accounts: Vec<AccountSize>,
    /// The registered OAuth applications.
    pub clients: Vec<Client>,
    /// The rate limit of each account; none when `None`.
    pub rate: Option<Limit>,
    /// Waited before each reply of the data and token endpoints.
    pub latency: Duration,
    /// Life of an access token; whole seconds.
    pub token_life: Duration,
    /// Within it, the last superseded refresh token is answered with its successor again. Zero: any reuse revokes the family.
    pub refresh_leeway: Duration,
    /// The time, for tokens, records and the `Date` header.
    pub clock: Clock,
    /// Whether each account has an API key (see [`Control::api_key`]).
    pub api_keys: bool,
    /// Whether the texts of all opportunities are made before anybody asks.
    pub warm: bool,
}

/// An account and how much it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSize {
    /// The account's name here; also its web address.
    pub name: String,
    /// Opportunities in the default listing. One in a hundred more, and at least one, is confidential.
    pub opportunities: usize,
    /// Creation times are spread over so many years back.
    pub years: u32,
    /// Users, deactivated ones included; at least one.
    pub users: usize,
    /// Postings in the default listing; one more is confidential.
    pub postings: usize,
    /// Requisitions in the default listing; one more is confidential.
    pub requisitions: usize,
    /// Opportunities deleted before the sandbox started.
    pub deleted: usize,
    /// Opportunities are lengthened to about so many bytes each, as a plain listing shows them; 0 leaves them as they are.
    pub record_bytes: usize,
}

/// A registered OAuth application.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret.
    pub secret: String,
    /// The callbacks, matched exactly.
    pub redirect_uris: Vec<String>,
    /// The registered scopes; a request's others are dropped.
    pub scopes: Vec<String>,
}

/// Why the sandbox did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// It has no real authentication, so it is for this machine only.
    #[error(
        "the sandbox listens on loopback addresses only, not on {0}\nhint: it asks nobody who they are; give 127.0.0.1 and a port"
    )]
    NotLoopback(SocketAddr),
    /// The address is taken or not ours.
    #[error("could not listen on {addr}\nhint: is another one running there? `--listen 127.0.0.1:0` takes a free port")]
    Bind {
        /// What was asked for.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The options contradict themselves.
    #[error("sandbox options: {0}\nhint: `hirelake sandbox --help` shows what they take")]
    Options(String),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            accounts: vec![AccountSize::new("acme", 1_000)],
            clients: vec![Client::default()],
            rate: None,
            latency: Duration::ZERO,
            token_life: Duration::from_secs(3600),
            refresh_leeway: Duration::ZERO,
            clock: Clock::system(),
            api_keys: true,
            warm: false,
        }
    }
}

impl AccountSize {
    /// An account of five years with so many opportunities, and the rest in proportion.
    #[must_use]
    pub fn new(name: impl Into<String>, opportunities: usize) -> Self {
        Self {
            name: name.into(),
            opportunities,
            years: 5,
            users: opportunities / 100 + 12,
            postings: opportunities / 150 + 8,
            requisitions: opportunities / 300 + 5,
            deleted: opportunities / 200 + 3,
            record_bytes: 0,
        }
    }
}

impl Default for Client {
    /// `sandbox-client` with the secret `sandbox-secret`, loopback callbacks on port 8765, and every read scope.
    fn default() -> Self {
        let callback = |host| format!("http://{host}:8765/callback");
        Self {
            id: "sandbox-client".into(),
            secret: "sandbox-secret".into(),
            redirect_uris: vec![callback("127.0.0.1"), callback("localhost")],
            scopes: oauth::READ_SCOPES.iter().map(|scope| (*scope).to_owned()).collect(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("redirect_uris", &self.redirect_uris)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// A sandbox at work. Clones are one sandbox; it stops when the last is dropped.
#[derive(Clone)]
pub struct Running(Arc<Server>);

struct Server {
    world: Arc<World>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// What every request sees.
struct World {
    addr: SocketAddr,
    clock: Clock,
    latency: Duration,
    limit: Option<Limit>,
    accounts: BTreeMap<String, Mutex<Account>>,
    buckets: Mutex<BTreeMap<String, Bucket>>,
    oauth: Mutex<OAuth>,
    script: Mutex<Script>,
    stats: Mutex<Stats>,
    storage: Mutex<Storage>,
    closing: CancellationToken,
}

/// Starts a sandbox on the current runtime.
///
/// # Errors
///
/// When the address is not loopback or cannot be bound, or the options contradict themselves.
pub async fn start(options: Options) -> Result<Running, SandboxError> {
    check(&options)?;
    let bound = TcpListener::bind(options.listen).await.and_then(|l| l.local_addr().map(|addr| (l, addr)));
    let (listener, addr) = bound.map_err(|source| SandboxError::Bind { addr: options.listen, source })?;
    let now = options.clock.now();
    let accounts: BTreeMap<String, Mutex<Account>> = options
        .accounts
        .iter()
        .map(|size| {
            let mut account = Account::new(options.seed, size, now.ms());
            if options.warm {
                account.warm();
            }
            (size.name.clone(), Mutex::new(account))
        })
        .collect();
    let oauth = OAuth::new(
        &options,
        addr,
        accounts.iter().map(|(name, account)| (name.as_str(), lock(account).maker.account_id)),
    );
    let world = Arc::new(World {
        addr,
        clock: options.clock,
        latency: options.latency,
        limit: options.rate,
        accounts,
        buckets: Mutex::default(),
        oauth: Mutex::new(oauth),
        script: Mutex::default(),
        stats: Mutex::default(),
        storage: Mutex::default(),
        closing: CancellationToken::new(),
    });
    let router = Router::new().fallback(handle).with_state(world.clone());
    let service = router.into_make_service_with_connect_info::<Wire>();
    let closed = world.closing.clone().cancelled_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // `Gate` retries what goes wrong in accepting, so serving never fails.
        let _ = axum::serve(Gate(listener), service).with_graceful_shutdown(closed).await;
    });
    Ok(Running(Arc::new(Server { world, tasks: tokio::sync::Mutex::new(tasks) })))
}

/// Whether the options make sense together.
fn check(options: &Options) -> Result<(), SandboxError> {
    if !options.listen.ip().is_loopback() {
        return Err(SandboxError::NotLoopback(options.listen));
    }
    let wrong = |text: String| Err(SandboxError::Options(text));
    let mut names: Vec<&str> = options.accounts.iter().map(|a| a.name.as_str()).collect();
    let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if let Some(name) = names.iter().find(|name| !plain(name)) {
        return wrong(format!("{name:?} is not a name for an account"));
    }
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return wrong(format!("two accounts are called {}", pair[0]));
    }
    // Serial numbers of added and of deleted records begin at 2^29.
    if options.accounts.iter().any(|a| a.opportunities > 50_000_000) {
        return wrong("an account holds at most 50,000,000 opportunities".into());
    }
    match options.rate {
        Some(Limit { per_second, burst }) if !per_second.is_finite() || per_second <= 0.0 || burst == 0 => {
            wrong("a rate limit needs a rate above zero and a burst of at least one".into())
        }
        _ => Ok(()),
    }
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.0.world.addr
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.world.url()
    }

    /// The hand that changes what the accounts hold and what goes wrong.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(self.0.world.clone())
    }

    /// Stops it, for all clones; requests in flight lose their connection.
    pub async fn shutdown(self) {
        self.0.world.closing.cancel();
        let mut tasks = self.0.tasks.lock().await;
        let ended = tokio::time::timeout(SHUTDOWN_GRACE, tasks.join_next()).await;
        if ended.is_err() {
            tasks.shutdown().await;
        }
    }

    /// Until somebody stops it.
    pub async fn wait(&self) {
        self.0.world.closing.cancelled().await;
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Running").field(&self.url()).finish()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.world.closing.cancel();
    }
}

impl World {
    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// One request of the account's bucket; false when it is empty.
    fn permit(&self, account: &str) -> bool {
        let Some(limit) = self.limit else { return true };
        let now = self.clock.elapsed();
        let mut buckets = lock(&self.buckets);
        let granted = buckets.entry(account.to_owned()).or_insert_with(|| Bucket::new(limit, now)).take(now);
        if !granted {
            lock(&self.stats).refused_429 += 1;
        }
        granted
    }
}

/// A panic while a lock was held is a bug of its own; what the lock guards stays readable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every request comes by here: it is answered, or cut off when the sandbox closes.
async fn handle(State(world): State<Arc<World>>, ConnectInfo(wire): ConnectInfo<Wire>, request: Request) -> Response {
    let counted = !request.uri().path().starts_with("/_control");
    let reply = tokio::select! {
        biased;
        () = world.closing.cancelled() => Reply::dropped(),
        reply = answer(&world, request) => reply,
    };
    if counted {
        lock(&world.stats).answered(reply.status);
    }
    reply.send(world.clock.now(), &wire, &world.closing)
}

/// Sends a request to the room that serves it.
async fn answer(world: &Arc<World>, request: Request) -> Reply {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, REQUEST_BYTES).await else {
        return Reply::of_status(413, None, None, true);
    };
    let (method, path) = (head.method.as_str(), head.uri.path());
    let query = head.uri.query().unwrap_or("");
    match (method, path) {
        (_, "/_control") => control::http(world, method, "", &head.headers, &body),
        (_, path) if path.starts_with("/_control/") => {
            control::http(world, method, path.trim_start_matches("/_control/"), &head.headers, &body)
        }
        ("GET", "/authorize") => oauth::authorize(world, query),
        ("POST", "/authorize/decision") => oauth::decide(world, &body),
        ("POST", "/oauth/token") => oauth::token(world, &head.headers, &body).await,
        ("POST", "/oauth/revoke") => oauth::revoke(world, &head.headers, &body).await,
        ("GET", path) if path.starts_with("/_storage/") => files::storage(world, path, query, &head.headers),
        _ => api::answer(world, method, path, query, &head.headers).await,
    }
}

/// The listener; its connections can be cut.
struct Gate(TcpListener);

/// A connection that breaks off when told to, as a reset in the middle of things does.
struct Connection {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
}

/// A handler's hold on the connection that its request came by.
#[derive(Clone)]
struct Wire(Arc<AtomicBool>);

impl Wire {
    /// The next write fails, and the peer sees a reset in place of an answer.
    fn cut(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Connected<IncomingStream<'_, Gate>> for Wire {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Self(stream.io().broken.clone())
    }
}

impl Listener for Gate {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    // Small answers must not wait for each other; without it they only come later.
                    let _ = stream.set_nodelay(true);
                    return (Connection { stream, broken: Arc::default() }, peer);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connection {
    /// Fails once the connection was cut.
    fn check(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Acquire) {
            // Closing then sends a reset; if the system declines, the peer sees an early end, which is as good.
            let _ = self.stream.set_zero_linger();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
