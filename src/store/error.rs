//! What a store failed with, in words that quote neither a body nor an address of the store's own.

use std::path::PathBuf;

use object_store::Error as OsError;
use object_store::client::{HttpError, HttpErrorKind};

/// Where a store was asked for something and failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no store that this program speaks.
    #[error("{url:?} is not a usable store: {why}\nhint: {hint}")]
    BadUrl {
        /// As it was given; holds no credential (user names in URLs are refused before they get here).
        url: String,
        /// What is wrong with it.
        why: String,
        /// What to write instead.
        hint: &'static str,
    },
    /// A setting of the store cannot be used.
    #[error("the settings of the store {store} cannot be used: {why}\nhint: {hint}")]
    BadOption {
        /// The store's URL.
        store: String,
        /// What is wrong.
        why: String,
        /// What to write instead.
        hint: String,
    },
    /// Nothing was found that could sign a request.
    #[error("no credentials for {store}: {looked}\nhint: {hint}")]
    NoCredentials {
        /// The store's URL.
        store: String,
        /// Where they were looked for.
        looked: &'static str,
        /// Where to put them.
        hint: &'static str,
    },
    /// The store refused or could not be reached.
    #[error("{op} {path} in {store} failed\nhint: {}", source.hint(.op))]
    Failed {
        /// What was tried: `read`, `create`, `replace` …
        op: &'static str,
        /// The object.
        path: String,
        /// The store's URL.
        store: String,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// The operating system refused.
    #[error("{op} {path} failed\nhint: {}", io_hint(.source))]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The store answers, and not as one must that keeps two runs apart.
    #[error("the store {store} cannot be relied on: {why}\nhint: {}", unfit_hint(.replacing))]
    Unfit {
        /// The store's URL.
        store: String,
        /// What it did.
        why: &'static str,
        /// Whether only replacing is at fault, so that a lake there may be taken all the same.
        replacing: bool,
    },
    /// Another writer replaced the object in between.
    #[error(
        "{path} in {store} was replaced by another writer since it was read\nhint: nothing was lost; run the command again"
    )]
    Moved {
        /// The object.
        path: String,
        /// The store's URL.
        store: String,
    },
}

fn unfit_hint(replacing: &bool) -> &'static str {
    if *replacing {
        "use another store: a local folder, or one that honours conditional writes. For a lake (never for the state) `without_conditional_replace = true` in [store.lake] accepts it: then the leases alone keep two runs apart"
    } else {
        "use another store: a local folder, or one that honours conditional writes and lists what was just written; on this one two runs would write over each other"
    }
}

fn io_hint(e: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full; what was committed before is safe: free some space and run again, it resumes"
        }
        ErrorKind::PermissionDenied => {
            "this user may not write there; give it the folder, or run as the user who owns it"
        }
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only; what was committed before is safe",
        _ => RESUMES,
    }
}

const RESUMES: &str = "what was committed before is safe; when the cause is mended run again, it resumes";

/// Why a store failed, cut down to what may be shown: what a store answers can quote the request, and with it a credential.
#[derive(Debug)]
pub struct Cause {
    kind: Kind,
    text: String,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Io(std::io::ErrorKind),
    /// The credentials are known, and may not do that.
    Denied,
    /// The credentials are not accepted.
    Unauthenticated,
    NoBucket,
    WrongRegion,
    Unreachable,
    TimedOut,
    /// It answers, and cannot do it now.
    Busy,
    NotFound,
    Other,
}

impl Cause {
    /// Our own verdict on something that took too long.
    pub(super) fn timed_out(after: std::time::Duration) -> Self {
        Self { kind: Kind::TimedOut, text: format!("no answer within {} s", after.as_secs()) }
    }

    pub(super) fn of(e: &OsError) -> Self {
        let (mut io, mut http, mut deepest) = (None, None, String::new());
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
        let whole = e.to_string();
        while let Some(cause) = next {
            if let Some(found) = cause.downcast_ref::<std::io::Error>() {
                io = Some(found);
            }
            if let Some(found) = cause.downcast_ref::<HttpError>() {
                http = Some(found.kind());
            }
            deepest = cause.to_string();
            next = cause.source();
        }
        let status = status_of(&whole);
        if let Some(status) = status {
            let code = code_of(&whole);
            let text = match &code {
                Some(code) => format!("it answers {status}, {code}"),
                None => format!("it answers {status}"),
            };
            return Self { kind: kind_of(&status, code.as_deref()), text };
        }
        if let Some(kind) = http {
            let (kind, what) = match kind {
                HttpErrorKind::Connect => (Kind::Unreachable, "it cannot be reached"),
                HttpErrorKind::Timeout => (Kind::TimedOut, "it does not answer in time"),
                _ => (Kind::Unreachable, "the connection broke"),
            };
            // The deepest cause is the system's or the certificates' own sentence; one with an address is the client's.
            let said = (!deepest.contains("://")).then(|| cut(&deepest));
            return Self { kind, text: said.map_or_else(|| what.to_owned(), |s| format!("{what}: {s}")) };
        }
        if let Some(io) = io {
            return Self { kind: Kind::Io(io.kind()), text: io.to_string() };
        }
        let kind = match e {
            OsError::PermissionDenied { .. } => Kind::Denied,
            OsError::Unauthenticated { .. } => Kind::Unauthenticated,
            OsError::NotFound { .. } => Kind::NotFound,
            _ if whole.contains("redirect without LOCATION") => Kind::WrongRegion,
            _ => Kind::Other,
        };
        Self { kind, text: cut(&deepest) }
    }

    pub(super) fn no_bucket(&self) -> bool {
        self.kind == Kind::NoBucket
    }

    fn hint(&self, op: &str) -> &'static str {
        match self.kind {
            Kind::Io(kind) => io_hint(&kind.into()),
            Kind::Denied => match op {
                "read" | "look at" | "list" => {
                    "these credentials may not read there; docs/storage.md has the permissions that a run needs"
                }
                "remove" => {
                    "these credentials may not delete there; docs/storage.md has the permissions that a run needs"
                }
                _ => "these credentials may not write there; docs/storage.md has the permissions that a run needs",
            },
            Kind::Unauthenticated => {
                "the store does not accept these credentials: the key is unknown, its secret is wrong, or they have expired"
            }
            Kind::NoBucket => "make the bucket first, or correct its name; hirelake makes none",
            Kind::WrongRegion => "the bucket is in another region: set AWS_REGION, or `region` in [store]",
            Kind::Unreachable => {
                "check the endpoint, the network, and the certificates (`ca_file` in [store]); what was committed before is safe, and running again resumes"
            }
            Kind::TimedOut | Kind::Busy => {
                "the store is overloaded or far away; what was committed before is safe: run again, it resumes"
            }
            Kind::NotFound | Kind::Other => RESUMES,
        }
    }
}

/// `503 Service Unavailable` out of the client's sentence.
fn status_of(text: &str) -> Option<String> {
    const MARKS: [&str; 2] = ["non-2xx status code: ", "Server returned error response"];
    let rest = MARKS.iter().find_map(|m| text.find(m).map(|at| &text[at + m.len()..]))?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    if number.len() != 3 {
        return text.contains(MARKS[1]).then(|| "200 with an error in its body".to_owned());
    }
    let words = rest[3..].chars().take_while(|c| c.is_ascii_alphabetic() || *c == ' ').take(40).collect::<String>();
    Some(format!("{number} {}", words.trim()).trim().to_owned())
}

/// `AccessDenied` out of the answer's XML.
fn code_of(text: &str) -> Option<String> {
    let rest = &text[text.find("<Code>")? + "<Code>".len()..];
    let code: String = rest.chars().take_while(char::is_ascii_alphanumeric).take(64).collect();
    (!code.is_empty()).then_some(code)
}

fn kind_of(status: &str, code: Option<&str>) -> Kind {
    match code {
        Some("NoSuchBucket" | "ContainerNotFound") => return Kind::NoBucket,
        Some(
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "AuthenticationFailed"
            | "TokenRefreshRequired"
            | "RequestTimeTooSkewed",
        ) => return Kind::Unauthenticated,
        Some("AuthorizationHeaderMalformed" | "PermanentRedirect") => return Kind::WrongRegion,
        _ => {}
    }
    match status.get(..3) {
        Some("401") => Kind::Unauthenticated,
        Some("403") => Kind::Denied,
        Some("404") => Kind::NotFound,
        Some("301" | "307" | "400") if code.is_none() => Kind::WrongRegion,
        Some("408" | "429") => Kind::Busy,
        Some(s) if s.starts_with('5') || s == "200" => Kind::Busy,
        _ => Kind::Other,
    }
}

/// One line, bounded, without what follows a question mark in an address: signatures stand there.
fn cut(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line: String = line.split('?').next().unwrap_or_default().chars().take(200).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> Cause {
        Cause::of(&OsError::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn what_a_store_answers_is_told_by_its_code_and_never_quoted() {
        let denied = cause(
            "Error performing PUT https://x/y?X-Amz-Signature=canary in 1.2s - Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><StringToSign>canary</StringToSign></Error>",
        );
        assert_eq!(denied.to_string(), "it answers 403 Forbidden, SignatureDoesNotMatch");
        assert!(denied.hint("create").starts_with("the store does not accept these credentials"));
        let storm = cause("Error after 5 retries - Server returned non-2xx status code: 503 Slow Down: canary");
        assert_eq!((storm.to_string().as_str(), storm.kind), ("it answers 503 Slow Down", Kind::Busy));
        let bucket = cause("Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>");
        assert!(bucket.no_bucket());
        assert_eq!(cause("cannot sign https://x/y?sig=canary").to_string(), "cannot sign https://x/y");
        assert_eq!(cause("Server returned error response: <Error>canary").kind, Kind::Busy);
    }
}
