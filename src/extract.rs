//! A resource and a window → pages, pulled one by one.
//!
//! Guarantees: an error is never an empty page; a token is passed on verbatim and never twice; `hasNext` without a token is an
//! error; a stale token restarts the window once; pages are counted. Knows no rows: whoever pulls brings the decoder.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::{AuthError, CredentialKind, Session};
use crate::catalog::{Mode, Paging, Resource, TimeFilter};
use crate::clock::Timestamp;
use crate::http::{Answer, Asked, Budget, Cause, Judged, Meaning, Priority, Symptom, meaning};
use crate::names::{ResourceName, Tenant};
use crate::state::Window;

/// Confirmations go before the windows of a load, as listings do.
const FIRST: u32 = 1_000_000;
/// How far back a feed of deletions is peeked at: any window is as good, and a short one is cheap.
const PEEKED: Duration = Duration::from_secs(3600);
/// Pages of one window: a hundred million rows, far above any account's.
const MOST_PAGES: u64 = 1_000_000;
/// Pages of a listing that is read whole by every run, and whose keys are held at once: a million rows.
const MOST_PAGES_HELD: u64 = 10_000;
/// Pages in a row without a record: a filter may leave some empty, and a listing that has no end may leave them all.
const MOST_EMPTY: u32 = 500;
/// The longest page token: addresses are cut or refused somewhere above 8 KiB, and the longest seen has 400 bytes.
const TOKEN_BYTES: usize = 8 << 10;

/// Why a window could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The request did not come through, or the tenant may not be asked for.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// 403.
    #[error("tenant {tenant}: {resource} is not granted (403 on {path})\nhint: {hint}")]
    Forbidden {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The path below the API base.
        path: String,
        /// What to do.
        hint: String,
    },
    /// 403, because the app is of another environment than the host: nothing of the tenant can be read.
    #[error("tenant {tenant}: the provider refuses every token of this app (403)\nhint: {hint}")]
    WrongHost {
        /// The tenant.
        tenant: Tenant,
        /// What to do.
        hint: String,
    },
    /// 404.
    #[error("tenant {tenant}: {resource} is not there (404 on {path})\nhint: {hint}")]
    NotFound {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The path below the API base.
        path: String,
        /// What to do.
        hint: String,
    },
    /// Another refusal.
    #[error("tenant {tenant}: {resource} was refused with status {status} on {path}\nhint: {hint}")]
    Refused {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The path below the API base.
        path: String,
        /// The status.
        status: u16,
        /// What it is a symptom of.
        symptom: Symptom,
        /// What to do.
        hint: String,
    },
    /// The paging makes no sense.
    #[error(
        "tenant {tenant}: the pages of {resource} make no sense at page {page}: {why}\nhint: run again; what was read before this window is safe. If it stays, report it to the provider"
    )]
    Paging {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The page, from 1.
        page: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// One page as the decoder left it.
#[derive(Debug)]
pub struct Fetched<T> {
    /// What the decoder made of it.
    pub page: T,
    /// When it was complete.
    pub received: Timestamp,
    /// The provider's own clock then.
    pub date: Option<Timestamp>,
}

/// What a decoder says of a body.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The page.
    pub page: T,
    /// The token of the next one.
    pub next: Option<String>,
    /// Whether there is a next one.
    pub more: bool,
    /// Records that it holds, those included that could not be decoded.
    pub records: usize,
}

/// Where a listing stands. Every token is used once; a listing ends, or is an error.
#[derive(Debug)]
pub(crate) struct Offsets {
    next: Option<String>,
    /// Hashes: a token may be long, and they may be a million.
    seen: HashSet<u64>,
    pages: u64,
    most: u64,
    empty: u32,
}

impl Offsets {
    /// At the beginning.
    pub(crate) fn new(mode: &Mode) -> Self {
        let most = if *mode == Mode::Full { MOST_PAGES_HELD } else { MOST_PAGES };
        Self { next: None, seen: HashSet::new(), pages: 0, most, empty: 0 }
    }

    /// The token of the page that is next; none for the first.
    pub(crate) fn token(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// Begins anew. Pages that were read still count.
    fn restart(&mut self) {
        (self.next, self.empty) = (None, 0);
        self.seen.clear();
    }

    /// A page came. Whether there is another; an error when that makes no sense.
    pub(crate) fn advance(&mut self, next: Option<String>, more: bool, records: usize) -> Result<bool, &'static str> {
        self.pages += 1;
        if !more {
            return Ok(false);
        }
        let Some(token) = next.filter(|t| !t.is_empty()) else {
            return Err("it says that there is more and gives no token for it");
        };
        if token.len() > TOKEN_BYTES {
            return Err("a page token is longer than 8 KiB");
        }
        if !self.seen.insert(twox_hash::XxHash64::oneshot(0, token.as_bytes())) {
            return Err("a page token came a second time");
        }
        self.empty = if records == 0 { self.empty + 1 } else { 0 };
        if self.empty >= MOST_EMPTY {
            return Err("five hundred in a row held no record, and it says that there is more");
        }
        if self.pages >= self.most {
            return Err(if self.most == MOST_PAGES {
                "there are more than a million"
            } else {
                "there are more than ten thousand"
            });
        }
        self.next = Some(token);
        Ok(true)
    }
}

/// The filter and bounds of a window as query parameters: both bounds are inclusive at the provider, so a half-open window
/// sends its end as it is and de-duplication does the rest.
#[must_use]
pub fn bounds(filter: &TimeFilter, window: Window) -> Vec<(String, String)> {
    let mut query = Vec::new();
    if let Some(from) = window.from {
        query.push((filter.start.clone(), from.ms().max(0).to_string()));
    }
    query.push((filter.end.clone(), window.to.ms().max(0).to_string()));
    query
}

/// Pulls the pages of one listing.
#[derive(Debug)]
pub struct Pager<'a> {
    session: &'a Session,
    resource: &'a Resource,
    path: String,
    query: Vec<(String, String)>,
    offsets: Offsets,
    restarted: bool,
    done: bool,
    requests: u64,
    bytes: u64,
}

impl<'a> Pager<'a> {
    /// Pages of `resource` under `filter` parameters, with these of its expands.
    #[must_use]
    pub fn new(
        session: &'a Session,
        resource: &'a Resource,
        filter: Vec<(String, String)>,
        expands: &[String],
    ) -> Self {
        let mut query = resource.query.clone();
        query.extend(expands.iter().map(|e| ("expand".to_owned(), e.clone())));
        query.extend(filter);
        if let Paging::Token { limit_param, limit, .. } = &resource.paging {
            query.push((limit_param.clone(), limit.to_string()));
        }
        Self {
            session,
            resource,
            path: resource.path.clone(),
            query,
            offsets: Offsets::new(&resource.mode),
            // Keys that are made of contents count equal ones from the listing's start: what was read cannot be told from what
            // would be read again.
            restarted: resource.content_key.is_some(),
            done: false,
            requests: 0,
            bytes: 0,
        }
    }

    /// The same of one parent's children: `:id` in the path is its key, `:parent` that of its own parent.
    #[must_use]
    pub fn of_parent(mut self, above: &str, id: &str) -> Self {
        self.path = with_ids(&self.resource.path, above, id);
        self
    }

    /// Requests made so far, retries included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes of the bodies that were decoded.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next page; `None` after the last one. A body that `decode` refuses is asked for again within the budget; its
    /// sentence must not quote the body.
    ///
    /// # Errors
    ///
    /// [`ExtractError`].
    pub async fn next<T>(
        &mut self,
        priority: Priority,
        mut decode: impl FnMut(&[u8]) -> Result<Decoded<T>, String>,
    ) -> Result<Option<Fetched<T>>, ExtractError> {
        while !self.done {
            let mut query = self.query.clone();
            if let (Paging::Token { param, .. }, Some(token)) = (&self.resource.paging, self.offsets.token()) {
                // Verbatim: the client's encoder encodes it once more, as the provider wants it (reference 3.2).
                query.push((param.clone(), token.to_owned()));
            }
            let path = &self.path;
            let (mut attempts, mut bytes) = (1, 0);
            let answered = self
                .session
                .get(path, &query, priority, &Budget::PAGE, |answer: Answer| {
                    attempts = answer.attempts;
                    bytes += answer.body.len() as u64;
                    if meaning(answer.status) != Meaning::Fine {
                        return Judged::Take(Err(answer));
                    }
                    match decode(&answer.body) {
                        Ok(decoded) => Judged::Take(Ok((decoded, answer.received, answer.date))),
                        Err(why) => Judged::Again(why),
                    }
                })
                .await;
            self.bytes += bytes;
            self.requests += u64::from(match &answered {
                // It waited for a permit that did not come.
                Err(AuthError::Stopped { .. }) => 0,
                Err(AuthError::Http(e)) => e.attempt,
                _ => attempts,
            });
            let (decoded, received, date) = match answered? {
                Ok(good) => good,
                Err(answer) if answer.status == 400 && self.offsets.token().is_some() && !self.restarted => {
                    tracing::warn!(tenant = %self.session.tenant(), resource = %self.resource.name, page = self.offsets.pages + 1, "a page token went stale; the window begins anew");
                    self.restarted = true;
                    self.offsets.restart();
                    continue;
                }
                Err(answer) if answer.status == 400 && self.offsets.token().is_some() => {
                    return Err(self.senseless("a page token was refused again after the window had begun anew (400)"));
                }
                Err(answer) => return Err(self.refused(&answer)),
            };
            let more = decoded.more && self.resource.paging != Paging::Single;
            match self.offsets.advance(decoded.next, more, decoded.records) {
                Ok(more) => self.done = !more,
                Err(why) => return Err(self.senseless(why)),
            }
            return Ok(Some(Fetched { page: decoded.page, received, date }));
        }
        Ok(None)
    }

    fn senseless(&self, why: &'static str) -> ExtractError {
        let (tenant, resource) = (self.session.tenant().clone(), self.resource.name.clone());
        ExtractError::Paging { tenant, resource, page: self.offsets.pages, why }
    }

    fn refused(&self, answer: &Answer) -> ExtractError {
        let expands: Vec<String> = self.query.iter().filter(|(k, _)| k == "expand").map(|(_, v)| v.clone()).collect();
        refused(self.session, self.resource, &self.path, &expands, answer)
    }
}

/// What a refusal means (reference 2.7 and 3.5).
fn refused(session: &Session, resource: &Resource, path: &str, expands: &[String], answer: &Answer) -> ExtractError {
    let symptom = Symptom::of(answer.status, &answer.body);
    let asked = Asked {
        resource: Some(resource.name.as_str()),
        scope: resource.scope.as_deref(),
        expands,
        api_key: session.kind() == CredentialKind::ApiKey,
        confidential: resource.query.iter().any(|(k, v)| k == "confidentiality" && v != "non-confidential"),
    };
    let hint = symptom.hint(&asked);
    let (tenant, resource, path) = (session.tenant().clone(), resource.name.clone(), path.to_owned());
    match symptom {
        Symptom::OtherEnvironment | Symptom::UnknownClient => ExtractError::WrongHost { tenant, hint },
        Symptom::NoAccess | Symptom::Withheld => ExtractError::Forbidden { tenant, resource, path, hint },
        Symptom::NotThere => ExtractError::NotFound { tenant, resource, path, hint },
        symptom => ExtractError::Refused { tenant, resource, path, status: answer.status, symptom, hint },
    }
}

/// Asks for one row of a listing as a sync would, `until` being its bound; says what the provider makes of it.
///
/// # Errors
///
/// As [`Pager::next`].
pub async fn peek(
    session: &Session,
    resource: &Resource,
    expands: &[String],
    until: Timestamp,
) -> Result<(), ExtractError> {
    let mut query = resource.query.clone();
    query.extend(expands.iter().map(|e| ("expand".to_owned(), e.clone())));
    if let Mode::Tombstones { cursor, .. } = &resource.mode {
        query.extend(bounds(cursor, Window::new(Some(until.minus(PEEKED)), until)));
    }
    if let Paging::Token { limit_param, .. } = &resource.paging {
        query.push((limit_param.clone(), "1".to_owned()));
    }
    let answered = session
        .get(&resource.path, &query, Priority(FIRST), &Budget::PEEK, |answer: Answer| {
            if meaning(answer.status) != Meaning::Fine {
                return Judged::Take(Err(answer));
            }
            // The shape of its records is the business of those who decode them.
            match serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body) {
                Ok(_) => Judged::Take(Ok(())),
                Err(_) => Judged::Again("the body is not JSON".into()),
            }
        })
        .await?;
    answered.map_err(|answer| refused(session, resource, &resource.path, expands, &answer))
}

/// A path with an id in the place of `:id`, encoded.
fn with_id(path: &str, id: &str) -> String {
    encoded(path, ":id", id)
}

fn with_ids(path: &str, above: &str, id: &str) -> String {
    with_id(&encoded(path, ":parent", above), id)
}

fn encoded(path: &str, place: &str, id: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    path.replace(place, &encoded.replace('+', "%20"))
}

/// What came of a download.
pub enum Document {
    /// It, whole.
    Whole {
        /// Its bytes.
        body: Bytes,
        /// What the provider says it is.
        content_type: Option<String>,
    },
    /// The provider has it and could not process it (422, reference 4.6).
    Unprocessable,
    /// There is none (404).
    Missing,
    /// Larger than is taken.
    TooLarge,
}

/// Downloads a document; `parent` and `id` stand for `:parent` and `:id` in the resource's path. Gives the requests made, too.
///
/// # Errors
///
/// When it could not be had, for another reason than those that [`Document`] names.
pub async fn document(
    session: &Session,
    resource: &Resource,
    parent: &str,
    id: &str,
    query: &[(String, String)],
    priority: Priority,
) -> (u64, Result<Document, ExtractError>) {
    let path = with_ids(&resource.path, parent, id);
    let mut attempts = 1;
    let answered = session
        .download(&path, query, priority, |answer: Answer| {
            attempts = answer.attempts;
            Judged::Take(answer)
        })
        .await;
    let document = match answered {
        Ok(answer) if answer.status == 422 => Ok(Document::Unprocessable),
        Ok(answer) => match meaning(answer.status) {
            Meaning::Fine => Ok(Document::Whole { body: answer.body, content_type: answer.content_type }),
            Meaning::NotFound => Ok(Document::Missing),
            _ => Err(refused(session, resource, &path, &[], &answer)),
        },
        Err(AuthError::Http(e)) => {
            attempts = e.attempt;
            match e.cause {
                Cause::TooLarge { .. } => Ok(Document::TooLarge),
                _ => Err(AuthError::Http(e).into()),
            }
        }
        Err(AuthError::Stopped { tenant }) => {
            attempts = 0;
            Err(AuthError::Stopped { tenant }.into())
        }
        Err(e) => Err(e.into()),
    };
    (u64::from(attempts), document)
}

/// Whether a single object is still there: its item path answers.
///
/// # Errors
///
/// When neither a success nor "not there" comes back.
pub async fn exists(session: &Session, resource: &Resource, item: &str, id: &str) -> Result<bool, ExtractError> {
    let path = with_id(item, id);
    let answer = session.get(&path, &[], Priority(FIRST), &Budget::PAGE, |answer: Answer| Judged::Take(answer)).await?;
    match meaning(answer.status) {
        Meaning::Fine => Ok(true),
        Meaning::NotFound => Ok(false),
        _ => Err(refused(session, resource, &path, &[], &answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of so many pages, each with an offset of its own.
    fn pages(mode: &Mode, pages: u64, records: usize) -> Result<bool, &'static str> {
        let mut offsets = Offsets::new(mode);
        let mut more = Ok(true);
        for n in 0..pages {
            more = offsets.advance(Some(format!("token {n}")), true, records);
            more?;
        }
        more
    }

    #[test]
    fn a_listing_that_never_ends_is_an_error() {
        let (held, window) = (Mode::Full, Mode::Incremental { cursor: filter(), load: None, bare: false });
        assert_eq!(pages(&held, MOST_PAGES_HELD - 1, 1), Ok(true));
        assert!(pages(&held, MOST_PAGES_HELD, 1).unwrap_err().contains("ten thousand"));
        assert_eq!(pages(&window, MOST_PAGES_HELD, 1), Ok(true));
        assert_eq!(pages(&window, u64::from(MOST_EMPTY) - 1, 0), Ok(true));
        assert!(pages(&window, u64::from(MOST_EMPTY), 0).unwrap_err().contains("five hundred"));
    }

    fn filter() -> TimeFilter {
        crate::catalog::embedded()
            .unwrap()
            .resources
            .iter()
            .find_map(|r| match &r.mode {
                Mode::Incremental { cursor, .. } => Some(cursor.clone()),
                _ => None,
            })
            .unwrap()
    }

    #[test]
    fn an_offset_is_used_once_and_is_no_longer_than_an_address() {
        let mut offsets = Offsets::new(&Mode::Full);
        assert_eq!(offsets.advance(Some("a".into()), true, 1), Ok(true));
        assert_eq!(offsets.token(), Some("a"));
        assert!(offsets.advance(Some("a".into()), true, 1).unwrap_err().contains("second time"));
        assert!(offsets.advance(Some("x".repeat(TOKEN_BYTES + 1)), true, 1).unwrap_err().contains("8 KiB"));
        for none in [None, Some(String::new())] {
            assert!(offsets.advance(none, true, 1).unwrap_err().contains("no token"));
        }
        assert_eq!(offsets.advance(Some("a".into()), false, 0), Ok(false));
        // A window that begins anew may meet them again.
        offsets.restart();
        assert_eq!(offsets.token(), None);
        assert_eq!(offsets.advance(Some("a".into()), true, 1), Ok(true));
    }
}
