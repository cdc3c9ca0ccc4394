//! A resource and a window → pages, pulled one by one.
//!
//! Guarantees: an error is never an empty page; a token is passed on verbatim and never twice; `hasNext` without a token is an
//! error; a stale token restarts the window once; pages are counted. Knows no rows: whoever pulls brings the decoder.

use std::collections::HashSet;

use crate::auth::{AuthError, Session};
use crate::catalog::{Paging, Resource, TimeFilter};
use crate::clock::Timestamp;
use crate::http::{Answer, Budget, Judged, Meaning, Priority, meaning};
use crate::names::{ResourceName, Tenant};
use crate::state::Window;

/// Confirmations go before the windows of a load, as listings do.
const FIRST: u32 = 1_000_000;
/// Pages of one window: a hundred million rows, far above any account's.
const MOST_PAGES: u64 = 1_000_000;

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
    #[error("tenant {tenant}: the provider refuses this app's tokens (403 on {path})\nhint: {hint}")]
    WrongHost {
        /// The tenant.
        tenant: Tenant,
        /// The path below the API base.
        path: String,
        /// What to do.
        hint: &'static str,
    },
    /// 404.
    #[error(
        "tenant {tenant}: {resource} is not there (404 on {path})\nhint: the account may not have this feature, or the path in the catalogue is wrong"
    )]
    NotFound {
        /// The tenant.
        tenant: Tenant,
        /// The resource.
        resource: ResourceName,
        /// The path below the API base.
        path: String,
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
        /// What to do.
        hint: &'static str,
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
    query: Vec<(String, String)>,
    next: Option<String>,
    seen: HashSet<String>,
    pages: u64,
    restarted: bool,
    done: bool,
    requests: u64,
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
            query,
            next: None,
            seen: HashSet::new(),
            pages: 0,
            restarted: false,
            done: false,
            requests: 0,
        }
    }

    /// Requests made so far, retries included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
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
            if let (Paging::Token { param, .. }, Some(token)) = (&self.resource.paging, &self.next) {
                // Verbatim: the client's encoder encodes it once more, as the provider wants it (reference 3.2).
                query.push((param.clone(), token.clone()));
            }
            let path = &self.resource.path;
            let mut attempts = 1;
            let answered = self
                .session
                .get(path, &query, priority, &Budget::PAGE, |answer: Answer| {
                    attempts = answer.attempts;
                    if meaning(answer.status) != Meaning::Fine {
                        return Judged::Take(Err(answer));
                    }
                    match decode(&answer.body) {
                        Ok(decoded) => Judged::Take(Ok((decoded, answer.received, answer.date))),
                        Err(why) => Judged::Again(why),
                    }
                })
                .await;
            self.requests += u64::from(match &answered {
                Err(AuthError::Http(e)) => e.attempt,
                _ => attempts,
            });
            let (decoded, received, date) = match answered? {
                Ok(good) => good,
                Err(answer) if answer.status == 400 && self.next.is_some() && !self.restarted => {
                    tracing::warn!(tenant = %self.session.tenant(), resource = %self.resource.name, page = self.pages + 1, "a page token went stale; the window begins anew");
                    self.restarted = true;
                    self.next = None;
                    self.seen.clear();
                    continue;
                }
                Err(answer) if answer.status == 400 && self.next.is_some() => {
                    return Err(self.senseless("a page token was refused again after the window had begun anew (400)"));
                }
                Err(answer) => return Err(self.refused(&answer)),
            };
            self.pages += 1;
            self.advance(decoded.next, decoded.more)?;
            return Ok(Some(Fetched { page: decoded.page, received, date }));
        }
        Ok(None)
    }

    fn advance(&mut self, next: Option<String>, more: bool) -> Result<(), ExtractError> {
        if !more || self.resource.paging == Paging::Single {
            self.done = true;
            return Ok(());
        }
        let Some(token) = next.filter(|t| !t.is_empty()) else {
            return Err(self.senseless("it says that there is more and gives no token for it"));
        };
        if !self.seen.insert(token.clone()) {
            return Err(self.senseless("a page token came a second time"));
        }
        if self.pages >= MOST_PAGES {
            return Err(self.senseless("there are more than a million"));
        }
        self.next = Some(token);
        Ok(())
    }

    fn senseless(&self, why: &'static str) -> ExtractError {
        let (tenant, resource) = (self.session.tenant().clone(), self.resource.name.clone());
        ExtractError::Paging { tenant, resource, page: self.pages, why }
    }

    fn refused(&self, answer: &Answer) -> ExtractError {
        refused(self.session.tenant(), self.resource, &self.resource.path, answer)
    }
}

/// What a refusal means. The body is only searched for the provider's known sentences (reference 2.7), never shown.
fn refused(tenant: &Tenant, resource: &Resource, path: &str, answer: &Answer) -> ExtractError {
    let (tenant, name, path) = (tenant.clone(), resource.name.clone(), path.to_owned());
    let says = |text: &str| answer.body.windows(text.len()).any(|w| w == text.as_bytes());
    match meaning(answer.status) {
        Meaning::Forbidden => {
            if says("Unable to find a signing key") {
                let hint = "the token is of the other environment: sandbox tokens do not work on production, nor the reverse; check the app's environment";
                return ExtractError::WrongHost { tenant, path, hint };
            }
            if says("ClientID not found") {
                let hint = "the client is unknown on this host; check the app's environment and hosts";
                return ExtractError::WrongHost { tenant, path, hint };
            }
            let hint = match &resource.scope {
                Some(scope) => format!(
                    "it needs the scope {scope}: add it to the app at the provider and let the customer connect again; or leave {name} out of the tenant's resources"
                ),
                None => format!("the account or key has no access to it; leave {name} out of the tenant's resources"),
            };
            ExtractError::Forbidden { tenant, resource: name, path, hint }
        }
        Meaning::NotFound => ExtractError::NotFound { tenant, resource: name, path },
        _ => {
            let hint = match answer.status {
                400 => {
                    "a parameter in the catalogue is not what the provider takes; if the catalogue is the embedded one, report it"
                }
                422 => "the provider could not process it; run again, and report it to the provider if it stays",
                _ => "the provider does not say why; run again, and report it if it stays",
            };
            ExtractError::Refused { tenant, resource: name, path, status: answer.status, hint }
        }
    }
}

/// Whether a single object is still there: its item path answers.
///
/// # Errors
///
/// When neither a success nor "not there" comes back.
pub async fn exists(session: &Session, resource: &Resource, item: &str, id: &str) -> Result<bool, ExtractError> {
    let encoded: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    let path = item.replace(":id", &encoded.replace('+', "%20"));
    let answer = session.get(&path, &[], Priority(FIRST), &Budget::PAGE, |answer: Answer| Judged::Take(answer)).await?;
    match meaning(answer.status) {
        Meaning::Fine => Ok(true),
        Meaning::NotFound => Ok(false),
        _ => Err(refused(session.tenant(), resource, &path, &answer)),
    }
}
