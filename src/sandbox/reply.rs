//! What goes back, and how badly: a reply is made whole, then sent as the script of faults wants it.

use std::time::{Duration, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::stream::{self, StreamExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Wire;
use crate::clock::Timestamp;

/// The size of a dripped piece.
const DRIP_BYTES: usize = 1024;
/// How long a cut body waits before the connection breaks, so that what came before the cut is on its way.
const CUT_PAUSE: Duration = Duration::from_millis(2);

/// One answer.
pub(super) struct Reply {
    pub(super) status: u16,
    content_type: &'static str,
    body: Bytes,
    /// Headers that few replies have.
    rare: Vec<(HeaderName, String)>,
    pub(super) manner: Manner,
    pub(super) date_offset_s: i64,
}

/// How an answer leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Whole,
    /// The connection is reset in its place.
    Dropped,
    Cut(usize),
    Drip(Duration),
    /// For ever the same piece.
    Endless(Duration),
}

impl Reply {
    fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into(), rare: Vec::new(), manner: Manner::Whole, date_offset_s: 0 }
    }

    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json; charset=utf-8", body)
    }

    pub(super) fn html(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    /// A file.
    pub(super) fn bytes(content_type: &'static str, body: Vec<u8>) -> Self {
        Self::new(200, content_type, body)
    }

    /// `to` goes out verbatim.
    pub(super) fn redirect(status: u16, to: &str) -> Self {
        Self { rare: vec![(header::LOCATION, to.to_owned())], ..Self::new(status, "text/plain", "") }
    }

    /// No reply: the peer sees its connection reset. Its status is 0 in the statistics.
    pub(super) fn dropped() -> Self {
        Self { manner: Manner::Dropped, ..Self::new(0, "text/plain", "") }
    }

    /// The token endpoint's way of saying no.
    pub(super) fn oauth_error(status: u16, error: &str, description: &str) -> Self {
        Self::json(status, json!({"error": error, "error_description": description}).to_string())
    }

    /// What a status looks like when nobody said more about it.
    pub(super) fn of_status(status: u16, body: Option<&str>, retry_after: Option<&str>, of_data_api: bool) -> Self {
        let (code, message) = match status {
            400 => ("BadRequestError", "Invalid request"),
            401 => ("InvalidCredentials", "The token has expired"),
            403 => ("Forbidden", "The key you provided does not have access to this endpoint"),
            404 => ("ResourceNotFound", "The resource was not found"),
            429 => ("TooManyRequests", "Rate limit exceeded"),
            503 => ("ServiceUnavailable", "Down for maintenance"),
            _ => ("InternalServerError", "Something went wrong"),
        };
        let mut reply = match (body, status) {
            (Some(body), _) if body.starts_with('<') => Self::html(status, body.to_owned()),
            (Some(body), _) => Self::json(status, body.to_owned()),
            (None, 502 | 504) => Self::html(status, "<html><body>Bad gateway</body></html>"),
            (None, 429) if !of_data_api => Self::oauth_error(429, "too_many_requests", "Global limit has been reached"),
            (None, _) if !of_data_api => Self::oauth_error(status, "server_error", message),
            (None, _) => Self::json(status, json!({"code": code, "message": message}).to_string()),
        };
        reply.rare.extend(retry_after.map(|text| (header::RETRY_AFTER, text.to_owned())));
        reply
    }

    /// Well-formed, and far too much.
    pub(super) fn huge(bytes: usize) -> Self {
        let mut body = String::with_capacity(bytes + 64);
        body.push_str(r#"{"data":[],"hasNext":false,"padding":""#);
        body.extend(std::iter::repeat_n('x', bytes));
        body.push_str("\"}");
        Self::json(200, body)
    }

    /// The beginning of a body, and no end of it.
    pub(super) fn endless(pause: Duration) -> Self {
        Self { manner: Manner::Endless(pause), ..Self::json(200, "x".repeat(64 << 10)) }
    }

    /// The nth page of a listing that has no end.
    pub(super) fn never_last(n: u64, rows: usize, offset_bytes: usize) -> Self {
        let row = |i| json!({"id": format!("00000000-0000-4000-8000-{n:08x}{i:04x}"), "name": format!("row {i} of {n}"), "text": "x".repeat(40)});
        let rows: Vec<_> = (0..rows).map(row).collect();
        Self::json(200, json!({"data": rows, "next": format!("{n:020}{}", "x".repeat(offset_bytes.saturating_sub(20))), "hasNext": true}).to_string())
    }

    /// Puts the reply on the wire, or the wire out of order.
    pub(super) fn send(self, now: Timestamp, wire: &Wire, closing: &CancellationToken) -> Response {
        if self.manner == Manner::Dropped {
            wire.cut();
        }
        let length = self.body.len();
        let body = match self.manner {
            Manner::Cut(bytes) if bytes < length => cut(self.body.slice(..bytes)),
            Manner::Drip(pause) => drip(self.body, pause, closing.clone()),
            Manner::Endless(pause) => endless(self.body, pause, closing.clone()),
            _ => Body::from(self.body),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let headers = response.headers_mut();
        let seconds = (now.ms().div_euclid(1000) + self.date_offset_s).max(0);
        let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let usual = [
            (header::DATE, httpdate::fmt_http_date(date)),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::CONTENT_TYPE, self.content_type.to_owned()),
        ];
        let endless = matches!(self.manner, Manner::Endless(_));
        let usual = usual.into_iter().filter(|(name, _)| !endless || *name != header::CONTENT_LENGTH);
        for (name, text) in usual.chain(self.rare) {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
        headers.insert(header::SERVER, HeaderValue::from_static("lever-data-api"));
        headers.insert("x-lever-region", HeaderValue::from_static("global"));
        headers.insert("x-stream-path", HeaderValue::from_static("dapi"));
        response
    }
}

/// The beginning, then an error, upon which the server breaks the connection.
fn cut(beginning: Bytes) -> Body {
    let end = stream::once(async {
        tokio::time::sleep(CUT_PAUSE).await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    Body::from_stream(stream::iter([Ok(beginning)]).chain(end))
}

/// The whole body, piece by piece.
fn drip(body: Bytes, pause: Duration, closing: CancellationToken) -> Body {
    Body::from_stream(stream::unfold((body, closing), move |(mut body, closing)| async move {
        if body.is_empty() {
            return None;
        }
        tokio::select! {
            biased;
            () = closing.cancelled() => {
                Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)), (Bytes::new(), closing)))
            }
            () = tokio::time::sleep(pause) => {
                let piece = body.split_to(body.len().min(DRIP_BYTES));
                Some((Ok(piece), (body, closing)))
            }
        }
    }))
}

/// The same piece again and again, until the peer has enough or the sandbox closes.
fn endless(piece: Bytes, pause: Duration, closing: CancellationToken) -> Body {
    Body::from_stream(stream::unfold(closing, move |closing| {
        let piece = piece.clone();
        async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => None,
                () = tokio::time::sleep(pause) => Some((Ok::<_, std::io::Error>(piece), closing)),
            }
        }
    }))
}
