//! The token endpoint: exchange, refresh, and what its refusals mean (reference 2.2 to 2.6).

use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use crate::clock::Timestamp;
use crate::config::App;
use crate::http::{self, Answer, Budget, Call, Cause, Client, Gate, HttpError, Judged, Method, Priority};
use crate::secret::Secret;

/// Largest token answer read: five short fields and a JWT.
const BODY_BYTES: usize = 256 << 10;
/// Lifetime assumed where the answer does not say (reference 2.4: one hour).
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
/// Longest lifetime believed: a day is far above any provider's.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);

/// How long one request to the endpoint may take, from its sending to the end of its answer. It answers within a second; what
/// stands before it gives up, and says so, within 30 s. Short enough that a lease's term covers it and the saving.
pub(super) const POST: Duration = Duration::from_secs(45);

/// What the endpoint gave.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    pub(super) access: Secret,
    /// `None` when the answer lacks one: the old one stays.
    pub(super) refresh: Option<Secret>,
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Timestamp,
    pub(super) account: Option<String>,
}

/// Why it gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The refresh token or code is expired, revoked, used, or of another client.
    #[error("the provider says invalid_grant")]
    InvalidGrant,
    /// The client secret is wrong.
    #[error("the provider refuses the client secret")]
    WrongSecret,
    /// The client id is unknown there.
    #[error("the provider does not know this client id on this host")]
    UnknownClient,
    /// The client may not do this.
    #[error("the provider does not allow this client to do that")]
    ClientNotAllowed,
    /// A parameter is missing or wrong.
    #[error("the provider says that the request is malformed")]
    Malformed,
    /// Nothing reached the server.
    #[error("the token endpoint cannot be reached ({0})")]
    Unreachable(String),
    /// The server said "later" without doing anything.
    #[error("the token endpoint is throttling")]
    Throttled,
    /// The request may have been acted on, and no answer came.
    #[error("the token endpoint gave no usable answer ({0})")]
    Unanswered(String),
    /// Any other refusal.
    #[error("the token endpoint answers {0}")]
    Refused(u16),
}

impl TokenError {
    /// The sentence that fixes it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InvalidGrant => "a Super Admin of the customer must connect again: `hirelake connect TENANT`",
            Self::WrongSecret => "correct the app's client_secret; no grant was harmed",
            Self::UnknownClient => {
                "check client_id and environment: sandbox and production are separate apps; no grant was harmed"
            }
            Self::ClientNotAllowed => {
                "enable the authorization-code and refresh-token grants for this app at the provider; no grant was harmed"
            }
            Self::Malformed => "this is a bug: please report it with the version of hirelake; no grant was harmed",
            Self::Unreachable(_) => "check the network, DNS and proxy of this machine; no grant was harmed",
            Self::Throttled => "run again later; no grant was harmed",
            Self::Unanswered(_) => {
                "run again later: the next run asks once more, and the grant is kept until the provider says that it is gone"
            }
            Self::Refused(_) => "check the app's hosts and credentials; no grant was harmed",
        }
    }
}

#[derive(Deserialize)]
struct Good {
    access_token: String,
    refresh_token: Option<String>,
    scope: Option<String>,
    expires_in: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Bad {
    error: Option<String>,
    error_description: Option<String>,
}

/// Waits for a permit, posts `form` once, and says what came of it. Whoever calls decides whether to post again.
pub(super) async fn post(
    client: &Client,
    gate: &Gate,
    app: &App,
    secret: &Secret,
    form: &[(&str, &str)],
) -> Result<Issued, TokenError> {
    permit(gate).await;
    post_paid(client, gate, app, secret, form).await
}

/// Waits for a permit of [`post_paid`].
pub(super) async fn permit(gate: &Gate) {
    // An app's gate watches for no outage, so it never says no: each grant's requests are counted one by one.
    let _ = gate.permit(Priority(u32::MAX)).await;
}

/// [`post`] by one who has the permit.
pub(super) async fn post_paid(
    client: &Client,
    gate: &Gate,
    app: &App,
    secret: &Secret,
    form: &[(&str, &str)],
) -> Result<Issued, TokenError> {
    let mut all = vec![("client_id", app.client_id.as_str()), ("client_secret", secret.expose())];
    all.extend_from_slice(form);
    let call = Call {
        elsewhere: false,
        method: Method::PostForm(&all),
        url: &app.endpoints.token,
        query: &[],
        credential: None,
        // A redirect would carry a refresh token elsewhere: none is followed.
        hosts: &[],
        priority: Priority(u32::MAX),
    };
    match tokio::time::timeout(POST, client.send_paid(gate, BODY_BYTES, &call)).await {
        Ok(answer) => judge(&answer.map_err(unsent)?),
        Err(_) => Err(TokenError::Unanswered(format!("nothing within {} s", POST.as_secs()))),
    }
}

/// Revokes a refresh token, and with it its grant (reference 2.8). An answer without a body is fine.
pub(super) async fn revoke(
    client: &Client,
    gate: &Gate,
    app: &App,
    secret: &Secret,
    token: &Secret,
) -> Result<(), TokenError> {
    let Some(url) = &app.endpoints.revoke else { return Err(TokenError::Refused(404)) };
    let form = [("client_id", app.client_id.as_str()), ("client_secret", secret.expose()), ("token", token.expose())];
    let call = Call {
        elsewhere: false,
        method: Method::PostForm(&form),
        url,
        query: &[],
        credential: None,
        hosts: &[],
        priority: Priority(u32::MAX),
    };
    // Revoking twice does no harm.
    let budget = Budget { attempts: 3, total: Duration::from_secs(60), body_bytes: BODY_BYTES, throttled: 0 };
    let judged = |answer: Answer| match answer.status {
        500.. => Judged::Again(format!("status {}", answer.status)),
        _ => Judged::Take(answer),
    };
    let answer = client.send(gate, &budget, &call, judged).await.map_err(unsent)?;
    if http::meaning(answer.status) == http::Meaning::Fine { Ok(()) } else { judge(&answer).map(|_| ()) }
}

fn unsent(e: HttpError) -> TokenError {
    match e.cause {
        Cause::Unreachable(why) => TokenError::Unreachable(why),
        Cause::Status(429) | Cause::PauseTooLong { status: 429, .. } => TokenError::Throttled,
        Cause::PlainHttp => TokenError::Refused(0),
        cause => TokenError::Unanswered(cause.to_string()),
    }
}

pub(super) fn judge(answer: &Answer) -> Result<Issued, TokenError> {
    if http::meaning(answer.status) == http::Meaning::Fine {
        let unusable = || TokenError::Unanswered("a success without an access token".into());
        let good: Good = serde_json::from_slice(&answer.body).map_err(|_| unusable())?;
        // What no header takes (RFC 6749: visible characters) could not be sent, and would be met as an error of the network.
        let visible = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic());
        if !visible(&good.access_token) || good.refresh_token.as_deref().is_some_and(|r| !r.is_empty() && !visible(r)) {
            return Err(unusable());
        }
        let seconds = good.expires_in.and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
        let life = seconds.map_or(DEFAULT_LIFE, Duration::from_secs).min(LONGEST_LIFE);
        return Ok(Issued {
            account: account(&good.access_token),
            access: Secret::new(good.access_token),
            refresh: good.refresh_token.filter(|r| !r.is_empty()).map(Secret::new),
            scopes: good.scope.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            expires_at: answer.received.plus(life),
        });
    }
    // Auth0 says 403 where the RFC says 400: the error string decides first (reference 2.6).
    let bad: Bad = serde_json::from_slice(&answer.body).unwrap_or(Bad { error: None, error_description: None });
    let described = |text: &str| bad.error_description.as_deref().is_some_and(|d| d.contains(text));
    Err(match (bad.error.as_deref(), answer.status) {
        (Some("invalid_grant"), 400 | 401 | 403) => TokenError::InvalidGrant,
        _ if described("ClientID not found") => TokenError::UnknownClient,
        (Some("access_denied"), 401) => TokenError::WrongSecret,
        (Some("invalid_client"), _) => TokenError::WrongSecret,
        (Some("unauthorized_client"), _) => TokenError::ClientNotAllowed,
        (Some("too_many_requests"), _) => TokenError::Throttled,
        (Some("invalid_request" | "unsupported_grant_type" | "invalid_scope"), _) => TokenError::Malformed,
        (_, 401) => TokenError::WrongSecret,
        (_, status) => TokenError::Refused(status),
    })
}

/// The account id of a JWT's claims: told apart, never trusted for security.
fn account(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let claims = claims.as_object()?;
    let id = claims.iter().find(|(k, _)| k.ends_with("/accountId") || *k == "accountId")?.1.as_str()?;
    (id.len() <= 200 && !id.chars().any(char::is_control)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            content_type: None,
            status,
            date: None,
            retry_after: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
            received: Timestamp::from_ms(0),
            attempts: 1,
        }
    }

    #[test]
    fn the_error_string_decides_before_the_status() {
        let seen: Vec<String> = [
            (403, r#"{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}"#),
            (400, r#"{"error":"invalid_grant"}"#),
            (401, r#"{"error":"access_denied","error_description":"Unauthorized"}"#),
            (401, r#"{"error":"invalid_client"}"#),
            (403, r#"{"error":"unauthorized_client"}"#),
            (403, r#"{"error":"access_denied","error_description":"ClientID not found"}"#),
            (400, r#"{"error":"invalid_request"}"#),
            (403, "<html>canary</html>"),
            (404, ""),
            (200, "<html>canary</html>"),
            (200, r#"{"access_token":""}"#),
            (200, r#"{"access_token":"canary\nx"}"#),
            (200, r#"{"access_token":"x","refresh_token":"canary y"}"#),
        ]
        .into_iter()
        .map(|(status, body)| {
            let e = judge(&answer(status, body)).unwrap_err();
            format!("{status}: {e}\n  {}", e.hint())
        })
        .collect();
        insta::assert_snapshot!(seen.join("\n"), @r"
        403: the provider says invalid_grant
          a Super Admin of the customer must connect again: `hirelake connect TENANT`
        400: the provider says invalid_grant
          a Super Admin of the customer must connect again: `hirelake connect TENANT`
        401: the provider refuses the client secret
          correct the app's client_secret; no grant was harmed
        401: the provider refuses the client secret
          correct the app's client_secret; no grant was harmed
        403: the provider does not allow this client to do that
          enable the authorization-code and refresh-token grants for this app at the provider; no grant was harmed
        403: the provider does not know this client id on this host
          check client_id and environment: sandbox and production are separate apps; no grant was harmed
        400: the provider says that the request is malformed
          this is a bug: please report it with the version of hirelake; no grant was harmed
        403: the token endpoint answers 403
          check the app's hosts and credentials; no grant was harmed
        404: the token endpoint answers 404
          check the app's hosts and credentials; no grant was harmed
        200: the token endpoint gave no usable answer (a success without an access token)
          run again later: the next run asks once more, and the grant is kept until the provider says that it is gone
        200: the token endpoint gave no usable answer (a success without an access token)
          run again later: the next run asks once more, and the grant is kept until the provider says that it is gone
        200: the token endpoint gave no usable answer (a success without an access token)
          run again later: the next run asks once more, and the grant is kept until the provider says that it is gone
        200: the token endpoint gave no usable answer (a success without an access token)
          run again later: the next run asks once more, and the grant is kept until the provider says that it is gone
        ");
    }

    #[test]
    fn an_account_is_read_from_the_claims() {
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .encode(r#"{"https://oauth.lever.co/accountId":"acc-1","sub":"x"}"#);
        assert_eq!(account(&format!("h.{claims}.s")).as_deref(), Some("acc-1"));
        for odd in ["", "opaque", "a.b", "a.!!.c", "h.e30.s"] {
            assert_eq!(account(odd), None);
        }
    }

    #[test]
    fn a_lifetime_is_believed_within_reason() {
        let life = |v: &str| {
            judge(&answer(200, &format!(r#"{{"access_token":"x","expires_in":{v}}}"#))).unwrap().expires_at.ms()
        };
        assert_eq!(life("60"), 60_000);
        assert_eq!(life("\"60\""), 60_000);
        assert_eq!(life("null"), 3_600_000);
        assert_eq!(life("99999999999"), 86_400_000);
    }
}
