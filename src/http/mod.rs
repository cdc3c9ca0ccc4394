//! One polite request: permit → attempt → classify → wait.
//!
//! Guarantees: every attempt, retries included, pays a permit of the tenant's [`Gate`]; attempts *and* total time are bounded,
//! bodies too; `Retry-After` pauses the whole tenant; a redirect is followed by hand, inside the provider's hosts only, and a
//! credential never goes anywhere else; `https` only, but for loopback. No query, header or body ever stands in an error.
//! Knows no OAuth: who calls brings the header.

mod gate;
mod outage;
mod retry;
mod symptom;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

pub use gate::{Allowance, Gate, Pace, Priority};
pub use outage::Weather;
pub(crate) use symptom::says;
pub use symptom::{Asked, Symptom};

use crate::catalog::is_loopback;
use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

/// How long a connection may take: a data centre answers in milliseconds, a proxy in a second or two.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take: the provider's slowest listings take a few seconds.
const HEAD: Duration = Duration::from_secs(60);
/// How long a whole body may take: 10 MB at 1 Mbit/s.
const BODY: Duration = Duration::from_secs(90);
/// Redirects followed for one request: one move of a data centre, and one more.
const HOPS: u32 = 3;
/// Largest page looked at: a sign-in page with its styles in line.
const LOOK_BYTES: usize = 1 << 20;
/// Bodies up to this are read as they come: a page of the longest records has about two MiB.
const SMALL_BYTES: usize = 4 << 20;
/// What all larger bodies of a run hold together, in MiB: two pages of the largest size, whatever is sent to how many requests.
const LARGE_MIB: u32 = 128;
/// The longest `Retry-After` that is waited for; a longer one fails the request with its own words.
const LONGEST_PAUSE: Duration = Duration::from_secs(240);

/// Bounds of one request, retries included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Attempts, at least 1.
    pub attempts: u32,
    /// Time from the first attempt's permit until no further one is begun, waits included, but not those in the queue for
    /// permits: who waits behind the more urgent has done nothing yet. The last attempt has its own limits.
    pub total: Duration,
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Further attempts for answers of 429, within the same time.
    pub throttled: u32,
}

impl Budget {
    /// For pages of records: 100 records with the longest forms are a few MiB, 64 is ten times that; an outage of some minutes
    /// is survived.
    pub const PAGE: Self = Self { attempts: 8, total: Duration::from_secs(300), body_bytes: 64 << 20, throttled: 0 };
    /// For a document: fewer attempts than a page, because it is large and waits for the next run as well.
    pub const DOCUMENT: Self =
        Self { attempts: 3, total: Duration::from_secs(300), body_bytes: 32 << 20, throttled: 0 };
    /// For one row that the doctor asks for: a hiccup is survived, an outage is told at once. Being too fast is neither: beside
    /// a sync, or after one, it is waited for as a sync waits.
    pub const PEEK: Self = Self { attempts: 2, total: Duration::from_secs(60), body_bytes: 64 << 20, throttled: 4 };
}

/// What an `Authorization` header says.
#[derive(Debug, Clone)]
pub enum Credential {
    /// `Bearer TOKEN`.
    Bearer(Secret),
    /// `Basic base64(KEY:)`: an API key as the user, no password.
    ApiKey(Secret),
}

/// One request to be made.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// `GET` or `POST`.
    pub method: Method<'a>,
    /// Without a query.
    pub url: &'a Url,
    /// Parameters, encoded by the client: values go out exactly once encoded, whatever they look like.
    pub query: &'a [(String, String)],
    /// Who asks.
    pub credential: Option<&'a Credential>,
    /// Hosts to which a redirect may lead; without any, none is followed, not even to where it came from.
    pub hosts: &'a [String],
    /// Whether a redirect may lead anywhere, without the credential: documents lie in object storage. Over https, or from this
    /// machine to this machine.
    pub elsewhere: bool,
    /// Who gets the next permit first.
    pub priority: Priority,
}

/// What is done.
#[derive(Debug, Clone, Copy)]
pub enum Method<'a> {
    /// Read.
    Get,
    /// Send a form.
    PostForm(&'a [(&'a str, &'a str)]),
}

impl Method<'_> {
    fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::PostForm(_) => "POST",
        }
    }
}

/// An answer that came whole.
#[derive(Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The provider's own clock (`Date`), where it says.
    pub date: Option<Timestamp>,
    /// What `Retry-After` asks for.
    pub retry_after: Option<Duration>,
    /// What the body is said to be.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
    /// When it was complete, by our clock.
    pub received: Timestamp,
    /// Attempts made, this one included.
    pub attempts: u32,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies are records or tokens.
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// A public page, as [`Client::look`] found it.
pub struct Looked {
    /// HTTP status.
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<Url>,
    /// The body.
    pub body: Bytes,
}

impl fmt::Debug for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A redirect's query may hold a code.
        f.debug_struct("Looked").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why a request failed. The address is without its query.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} {address} {}: {cause}\nhint: {}", tried(*.attempt, *.attempts, *.elapsed), .cause.hint())]
pub struct HttpError {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Scheme, host and path.
    pub address: String,
    /// The last attempt made, from 1; 0 when none was, because of an outage.
    pub attempt: u32,
    /// How many were allowed.
    pub attempts: u32,
    /// Since the request began.
    pub elapsed: Duration,
    /// What the last attempt met.
    pub cause: Cause,
}

fn tried(attempt: u32, attempts: u32, elapsed: Duration) -> String {
    match attempt {
        0 => "was not asked any more".to_owned(),
        n => format!("failed at attempt {n} of {attempts} after {:.1} s", elapsed.as_secs_f64()),
    }
}

/// What an attempt met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No connection came about, so the server saw nothing.
    #[error("no connection could be made ({0})")]
    Unreachable(String),
    /// The request was sent, or may have been, and no whole answer came.
    #[error("the answer was lost ({0})")]
    Lost(String),
    /// Too slow.
    #[error("no {part} within {limit_s} s")]
    TimedOut {
        /// `answer` or `whole body`.
        part: &'static str,
        /// The limit.
        limit_s: u64,
    },
    /// The body is larger than the budget allows.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// An answer that means "later".
    #[error("status {0}")]
    Status(u16),
    /// 200, but not what was asked for.
    #[error("the answer makes no sense ({0})")]
    Nonsense(String),
    /// A redirect out of the provider's hosts.
    #[error("it was redirected to {host}, which is not one of the provider's hosts")]
    RedirectOutside {
        /// Where to.
        host: String,
    },
    /// Too many redirects, or one without an address.
    #[error("its redirects lead nowhere")]
    RedirectLoop,
    /// Plain `http` to something that is not this machine.
    #[error("plain http is only used on this machine's own loopback address")]
    PlainHttp,
    /// The provider is out, and that is no longer waited for.
    #[error("the provider has answered no request for {seconds} s (the last one met: {met})")]
    Outage {
        /// For how long.
        seconds: u64,
        /// What the last request met.
        met: String,
    },
    /// The run's allowance is used up, and this would have been one more.
    #[error("the run's allowance of requests is used up")]
    UsedUp,
    /// The pause asked for is longer than we wait.
    #[error("the server answers {status} and asks for a pause of {seconds} s")]
    PauseTooLong {
        /// With which status.
        status: u16,
        /// How long.
        seconds: u64,
    },
}

impl Cause {
    /// Whether the server may have acted on the request.
    #[must_use]
    pub fn may_have_reached(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::PlainHttp | Self::Outage { .. } | Self::UsedUp)
    }
    /// Whether another attempt makes sense.
    #[must_use]
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(why) => !is_distrust(why),
            Self::Lost(_) | Self::TimedOut { .. } | Self::TooLarge { .. } | Self::Status(_) | Self::Nonsense(_) => true,
            Self::RedirectOutside { .. }
            | Self::RedirectLoop
            | Self::PlainHttp
            | Self::Outage { .. }
            | Self::UsedUp
            | Self::PauseTooLong { .. } => false,
        }
    }
    /// The sentence that fixes it.
    #[must_use]
    pub fn hint(&self) -> Cow<'static, str> {
        let text = match self {
            Self::Status(status) => return Symptom::of(*status, &[]).hint(&Asked::default()).into(),
            Self::Unreachable(why) if is_distrust(why) => {
                "nothing was sent: something stands between this machine and the provider, or this machine's certificates are old; install ca-certificates, or name those of your proxy in SSL_CERT_FILE"
            }
            Self::Unreachable(_) => "check the network, DNS and proxy of this machine, then run again; it resumes",
            Self::Lost(_) | Self::TimedOut { .. } => {
                "the network or the provider is in trouble; run again later, it resumes"
            }
            Self::TooLarge { .. } | Self::Nonsense(_) => {
                "a proxy or a sign-in page may have answered in the provider's place: check the app's hosts; else run again later, it resumes"
            }
            Self::RedirectOutside { .. } => {
                "the credential was not sent there: check the app's api_base; if the provider has moved, add its new host to the app's `hosts`"
            }
            Self::RedirectLoop => "check the app's api_base: the provider sends every request elsewhere",
            Self::PlainHttp => "write the address with https://",
            Self::Outage { .. } => {
                "the provider, or the network before it, is down; what was read is safe: run again later, it resumes"
            }
            Self::UsedUp => "run again; it goes on there",
            Self::PauseTooLong { .. } => "run again after that time; it resumes",
        };
        text.into()
    }
}

/// Whether a connection failed because the server's certificate is not trusted: that does not pass by itself.
fn is_distrust(why: &str) -> bool {
    why.contains("invalid peer certificate")
}

/// What a status means for a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Done.
    Fine,
    /// Look at `Location`.
    Moved,
    /// Again, later.
    Later,
    /// The credential is missing, wrong or expired.
    Unauthorized,
    /// Not granted.
    Forbidden,
    /// Not there.
    NotFound,
    /// The request itself is at fault.
    Refused,
}

/// What the provider's statuses mean (reference 3.5).
#[must_use]
pub fn meaning(status: u16) -> Meaning {
    match status {
        200..=299 => Meaning::Fine,
        301 | 302 | 303 | 307 | 308 => Meaning::Moved,
        401 => Meaning::Unauthorized,
        403 => Meaning::Forbidden,
        404 | 410 => Meaning::NotFound,
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Meaning::Later,
        501 | 505..=599 => Meaning::Later,
        _ => Meaning::Refused,
    }
}

/// What the caller says of an answer.
#[derive(Debug)]
pub enum Judged<T> {
    /// It is good.
    Take(T),
    /// It makes no sense (such as HTML under a 200): try again within the budget. The sentence must not quote the body.
    Again(String),
}

/// Makes requests. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    clock: Clock,
    /// MiB that are left for large bodies.
    large: Arc<Semaphore>,
}

impl Client {
    /// A client with nothing but a user agent.
    ///
    /// # Errors
    ///
    /// When the machine's certificates cannot be read.
    pub fn new(clock: Clock) -> Result<Self, reqwest::Error> {
        let inner = reqwest::Client::builder()
            .user_agent(concat!("hirelake/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(20))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { inner, clock, large: Arc::new(Semaphore::new(LARGE_MIB as usize)) })
    }

    /// The clock that stamps its answers.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Makes the request, again where that can help. An answer that means neither "later" nor "elsewhere" goes to `judge`,
    /// whatever its status.
    ///
    /// # Errors
    ///
    /// [`HttpError`] when the budget is spent, or trying again cannot help.
    pub async fn send<T>(
        &self,
        gate: &Gate,
        budget: &Budget,
        call: &Call<'_>,
        judge: impl FnMut(Answer) -> Judged<T>,
    ) -> Result<T, HttpError> {
        self.attempts(gate, budget, call, false, judge).await
    }

    /// Makes the request once, by one who waited for its permit before, so that nothing is waited for between what was made
    /// sure of and the sending.
    ///
    /// # Errors
    ///
    /// [`HttpError`], with what the attempt met.
    pub async fn send_paid(&self, gate: &Gate, body_bytes: usize, call: &Call<'_>) -> Result<Answer, HttpError> {
        let budget = Budget { attempts: 1, total: Duration::ZERO, body_bytes, throttled: 0 };
        self.attempts(gate, &budget, call, true, Judged::Take).await
    }

    async fn attempts<T>(
        &self,
        gate: &Gate,
        budget: &Budget,
        call: &Call<'_>,
        paid: bool,
        mut judge: impl FnMut(Answer) -> Judged<T>,
    ) -> Result<T, HttpError> {
        let began = self.clock.elapsed();
        let mut spent = Spent::default();
        let mut waits = retry::Waits::new(self.clock);
        let mut attempt = 0;
        let mut attempts = budget.attempts;
        let most = budget.attempts + budget.throttled;
        loop {
            attempt += 1;
            let under_way = gate.under_way();
            let (cause, retry_after) =
                match self.attempt(gate, budget, call, attempt, paid && attempt == 1, &mut spent).await {
                    Ok(answer) if meaning(answer.status) == Meaning::Later => {
                        (Cause::Status(answer.status), answer.retry_after)
                    }
                    Ok(answer) => match judge(answer) {
                        Judged::Take(value) => {
                            gate.lives();
                            return Ok(value);
                        }
                        Judged::Again(why) => (Cause::Nonsense(why), None),
                    },
                    Err(cause) => (cause, None),
                };
            drop(under_way);
            if cause == Cause::Status(429) {
                gate.refused();
                attempts = most.min(attempts + 1);
            }
            if !spent.sent && matches!(cause, Cause::Outage { .. } | Cause::PauseTooLong { .. } | Cause::UsedUp) {
                // It waited for a permit that did not come.
                attempt -= 1;
            }
            let elapsed = self.clock.elapsed().saturating_sub(began);
            let fail = |cause| HttpError {
                method: call.method.word(),
                address: address(call.url),
                attempt,
                attempts,
                elapsed,
                cause,
            };

            let wait = match retry_after {
                Some(pause) if pause > LONGEST_PAUSE => {
                    let status = if let Cause::Status(status) = cause { status } else { 0 };
                    let cause = Cause::PauseTooLong { status, seconds: pause.as_secs() };
                    gate.failed(&cause);
                    return Err(fail(cause));
                }
                Some(pause) => {
                    // The tenant pauses, not only this request.
                    let pause = retry::with_jitter(pause);
                    gate.pause(pause);
                    pause.max(waits.next(&cause))
                }
                None => waits.next(&cause),
            };
            // What lies elsewhere says nothing of the provider.
            if cause.is_transient() && !call.elsewhere {
                gate.failed(&cause);
            }
            if !cause.is_transient()
                || attempt >= attempts
                || elapsed.saturating_sub(spent.queued) + wait > budget.total
            {
                return Err(fail(cause));
            }
            tracing::debug!(method = call.method.word(), address = address(call.url), attempt, cause = %cause, wait_ms = wait.as_millis() as u64, "trying again");
            let _resting = gate.resting();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = gate.used_up() => return Err(fail(Cause::UsedUp)),
            }
        }
    }

    /// Looks at a public page once: no credential goes along, and no redirect is followed.
    ///
    /// # Errors
    ///
    /// [`HttpError`].
    pub async fn look(&self, gate: &Gate, url: &Url) -> Result<Looked, HttpError> {
        let began = self.clock.elapsed();
        let looked = async {
            if !is_safe(url) {
                return Err(Cause::PlainHttp);
            }
            gate.permit(Priority(0)).await?;
            let sent = tokio::time::timeout(HEAD, self.inner.get(url.clone()).send()).await;
            let response = sent
                .map_err(|_| Cause::TimedOut { part: "answer", limit_s: HEAD.as_secs() })?
                .map_err(|e| transport(&e))?;
            let status = response.status().as_u16();
            let location = response.headers().get(reqwest::header::LOCATION).and_then(|l| l.to_str().ok());
            let location = location.and_then(|l| url.join(l).ok());
            let body = tokio::time::timeout(BODY, self.read_body(response, LOOK_BYTES))
                .await
                .map_err(|_| Cause::TimedOut { part: "whole body", limit_s: BODY.as_secs() })??;
            Ok(Looked { status, location, body })
        };
        looked.await.map_err(|cause| HttpError {
            method: "GET",
            address: address(url),
            attempt: 1,
            attempts: 1,
            elapsed: self.clock.elapsed().saturating_sub(began),
            cause,
        })
    }

    async fn attempt(
        &self,
        gate: &Gate,
        budget: &Budget,
        call: &Call<'_>,
        attempts: u32,
        paid: bool,
        spent: &mut Spent,
    ) -> Result<Answer, Cause> {
        spent.sent = false;
        let mut url = call.url.clone();
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let mut outside = false;
        // Of all hops together.
        let mut left = HEAD + BODY;
        for hop in 0..=HOPS {
            if !is_safe(&url) {
                return Err(Cause::PlainHttp);
            }
            // The provider's limit is not that of whoever keeps its documents.
            if (hop > 0 || !paid) && !outside {
                let came = self.clock.elapsed();
                // What has its permit is brought to its end; what waits for one waits in vain.
                let permit = tokio::select! {
                    biased;
                    permit = gate.permit(call.priority) => permit,
                    () = gate.used_up() => Err(Cause::UsedUp),
                };
                spent.queued += self.clock.elapsed().saturating_sub(came);
                permit?;
            }
            spent.sent = true;
            let sent = self.clock.elapsed();
            let mut request = match call.method {
                Method::Get => self.inner.get(url.clone()),
                Method::PostForm(form) => self.inner.post(url.clone()).form(form),
            };
            let accept = if call.elsewhere { "*/*" } else { "application/json" };
            request = request.header(reqwest::header::ACCEPT, accept);
            request = match call.credential.filter(|_| !outside) {
                None => request,
                Some(Credential::Bearer(token)) => request.bearer_auth(token.expose()),
                Some(Credential::ApiKey(key)) => request.basic_auth(key.expose(), Some("")),
            };
            let timed_out = |part, limit: Duration| Cause::TimedOut { part, limit_s: limit.as_secs() };
            let head = HEAD.min(left);
            let response = tokio::time::timeout(head, request.send())
                .await
                .map_err(|_| timed_out("answer", head))?
                .map_err(|e| transport(&e))?;
            left = left.saturating_sub(self.clock.elapsed().saturating_sub(sent));
            let status = response.status().as_u16();
            if meaning(status) == Meaning::Moved {
                let location = response.headers().get(reqwest::header::LOCATION).and_then(|l| l.to_str().ok());
                let next = location.and_then(|l| url.join(l).ok()).ok_or(Cause::RedirectLoop)?;
                // Once outside, always outside: where a stranger sends us, the credential does not go.
                if call.elsewhere && (outside || !is_inside(&next, call.url, call.hosts)) {
                    if !is_safe(&next) || is_loopback(&next) && !is_loopback(call.url) {
                        return Err(Cause::PlainHttp);
                    }
                    tracing::debug!(
                        to = next.host_str(),
                        "following a redirect to where documents lie, without a credential"
                    );
                    (url, outside) = (next, true);
                    continue;
                }
                if call.hosts.is_empty() || !is_inside(&next, call.url, call.hosts) {
                    let host = next.host_str().unwrap_or("nowhere").chars().take(100).collect();
                    return Err(Cause::RedirectOutside { host });
                }
                tracing::info!(
                    from = url.host_str(),
                    to = next.host_str(),
                    "following a redirect inside the provider's hosts"
                );
                url = next;
                continue;
            }
            let date = header_date(response.headers(), reqwest::header::DATE);
            let retry_after = self.retry_after(response.headers());
            let content_type = response.headers().get(reqwest::header::CONTENT_TYPE);
            let content_type = content_type.and_then(|t| t.to_str().ok()).map(|t| t.chars().take(100).collect());
            let limit = BODY.min(left);
            let body = tokio::time::timeout(limit, self.read_body(response, budget.body_bytes))
                .await
                .map_err(|_| timed_out("whole body", limit))??;
            gate.answered(self.clock.elapsed().saturating_sub(sent));
            return Ok(Answer { status, date, retry_after, content_type, body, received: self.clock.now(), attempts });
        }
        Err(Cause::RedirectLoop)
    }

    /// Reads a body of at most `limit_bytes`. A large one waits until there is room for it among the other large ones: the
    /// memory of a run does not grow with the requests that are under way.
    async fn read_body(&self, mut response: reqwest::Response, limit_bytes: usize) -> Result<Bytes, Cause> {
        // Compressed bodies do not say how long they are.
        let said = response.content_length().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if said.is_some_and(|n| n > limit_bytes) {
            return Err(Cause::TooLarge { limit_bytes });
        }
        let mut body = BytesMut::with_capacity(said.unwrap_or(0).min(SMALL_BYTES));
        let mut room = None;
        loop {
            let Some(chunk) = response.chunk().await.map_err(|e| transport(&e))? else { break };
            if body.len() + chunk.len() > limit_bytes {
                return Err(Cause::TooLarge { limit_bytes });
            }
            if room.is_none() && body.len() + chunk.len() > SMALL_BYTES {
                let mib = said.unwrap_or(limit_bytes).div_ceil(1 << 20);
                let mib = u32::try_from(mib).unwrap_or(LARGE_MIB).min(LARGE_MIB);
                // Never closed.
                room = self.large.clone().acquire_many_owned(mib).await.ok();
                body.reserve(said.unwrap_or(0).saturating_sub(body.len()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(match room {
            None => body.freeze(),
            Some(room) => Bytes::from_owner(Held { body, _room: room }),
        })
    }

    fn retry_after(&self, headers: &reqwest::header::HeaderMap) -> Option<Duration> {
        let value = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(value).ok().map(Timestamp::from_system)?;
        // A date is the server's: compare it with the server's own clock where it tells.
        let now = header_date(headers, reqwest::header::DATE).unwrap_or_else(|| self.clock.now());
        Some(at.since(now))
    }
}

/// What a request spent.
#[derive(Debug, Default)]
struct Spent {
    /// Time in the queue for permits.
    queued: Duration,
    /// Whether anything of the newest attempt was sent.
    sent: bool,
}

/// A large body with its share of the room for such: given back when nobody holds the body any more.
struct Held {
    body: BytesMut,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Scheme, host and path: what may be printed of a URL.
#[must_use]
pub fn address(url: &Url) -> String {
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

/// Whether a redirect from `origin` to `next` stays with the provider: on one of its hosts, over https, on the usual port or
/// the one that was asked, and without a user name of its own. A loopback origin (the sandbox) may lead to itself, and to
/// another loopback port that `hosts` names as `127.0.0.1:PORT`.
fn is_inside(next: &Url, origin: &Url, hosts: &[String]) -> bool {
    let Some(host) = next.host_str() else { return false };
    if !next.username().is_empty() || next.password().is_some() {
        return false;
    }
    if is_loopback(origin) {
        let named = || is_loopback(next) && next.port().is_some_and(|p| hosts.contains(&format!("{host}:{p}")));
        return next.origin() == origin.origin() || (next.scheme() == origin.scheme() && named());
    }
    let port = next.port_or_known_default();
    next.scheme() == "https"
        && (port == Some(443) || port == origin.port_or_known_default())
        && hosts.iter().filter(|allowed| !allowed.is_empty()).any(|allowed| {
            host == allowed || host.strip_suffix(allowed.as_str()).is_some_and(|rest| rest.ends_with('.'))
        })
}

fn header_date(headers: &reqwest::header::HeaderMap, name: reqwest::header::HeaderName) -> Option<Timestamp> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok().map(Timestamp::from_system)
}

/// What a transport error was, in words that cannot hold a URL or a body.
fn transport(e: &reqwest::Error) -> Cause {
    let mut words = Vec::new();
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !words.contains(&text) && !text.contains("://") {
            words.push(text);
        }
        source = cause.source();
    }
    let words = if words.is_empty() { "connection closed".to_owned() } else { words.join(": ") };
    if e.is_connect() { Cause::Unreachable(words) } else { Cause::Lost(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_credential_follows_a_redirect_only_inside_the_providers_hosts() {
        let hosts = ["lever.co".to_owned(), "sandbox-lever.auth0.com".to_owned()];
        let origin = url("https://api.lever.co/v1/users");
        for (next, inside) in [
            ("https://api.eu.lever.co/v1/users", true),
            ("https://lever.co/", true),
            ("http://api.lever.co/v1/users", false),
            ("https://evil-lever.co/", false),
            ("https://lever.co.evil.example/", false),
            ("https://evil.example/lever.co", false),
            ("https://lever.co.evil.com/v1/users", false),
            ("https://evillever.co/", false),
            ("https://lever.co@evil.example/", false),
            ("https://me:pw@api.lever.co/", false),
            ("https://lever.co./", false),
            ("https://lever.co%2eevil.example/", false),
            ("https://evil.example#.lever.co/", false),
            ("https://evil.example\\.lever.co/", false),
            ("https://xn--lver-vpa.co/", false),
            ("https://API.LEVER.CO/v1/users", true),
            ("https://api.lever.co:443/v1/users", true),
            ("https://api.lever.co:8443/v1/users", false),
            ("ftp://api.lever.co/", false),
            ("data:text/plain,lever.co", false),
            ("https://127.0.0.1/", false),
            ("http://127.0.0.1/", false),
            ("https://x.auth0.com/", false),
        ] {
            assert_eq!(is_inside(&url(next), &origin, &hosts), inside, "{next}");
        }
        let sandbox = url("http://127.0.0.1:9000/v1/users");
        assert!(is_inside(&url("http://127.0.0.1:9000/v2"), &sandbox, &hosts));
        assert!(!is_inside(&url("http://127.0.0.1:9001/v1"), &sandbox, &hosts));
        assert!(!is_inside(&url("https://api.lever.co/v1"), &sandbox, &hosts));
        // Another port of this machine only where it was named, and nothing outside by naming it so.
        let named = ["127.0.0.1:9001".to_owned(), "evil.example:9001".to_owned()];
        assert!(is_inside(&url("http://127.0.0.1:9001/v1"), &sandbox, &named));
        for next in
            ["http://127.0.0.1:9002/", "http://localhost:9001/", "https://127.0.0.1:9001/", "http://evil.example:9001/"]
        {
            assert!(!is_inside(&url(next), &sandbox, &named), "{next}");
        }
        // A host that was left empty is nobody's.
        for hosts in [&[][..], &[String::new()]] {
            assert!(!is_inside(&url("https://evil.example./"), &origin, hosts));
            assert!(!is_inside(&url("https://api.lever.co/"), &origin, hosts));
        }
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for (text, safe) in [
            ("https://api.lever.co", true),
            ("http://api.lever.co", false),
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://localhost.evil.example", false),
            ("ftp://127.0.0.1", false),
        ] {
            assert_eq!(is_safe(&url(text)), safe, "{text}");
        }
    }

    #[test]
    fn an_address_has_no_query() {
        assert_eq!(address(&url("http://u:p@127.0.0.1:8/a/b?offset=canary#x")), "http://127.0.0.1:8/a/b");
    }

    #[test]
    fn every_status_has_a_meaning() {
        let all: Vec<_> =
            [200, 201, 204, 301, 308, 400, 401, 403, 404, 405, 408, 410, 422, 425, 429, 500, 501, 502, 503, 504, 520]
                .into_iter()
                .map(|s| format!("{s} {:?}", meaning(s)))
                .collect();
        insta::assert_snapshot!(all.join("\n"), @r"
        200 Fine
        201 Fine
        204 Fine
        301 Moved
        308 Moved
        400 Refused
        401 Unauthorized
        403 Forbidden
        404 NotFound
        405 Refused
        408 Later
        410 NotFound
        422 Refused
        425 Later
        429 Later
        500 Later
        501 Later
        502 Later
        503 Later
        504 Later
        520 Later
        ");
    }
}
