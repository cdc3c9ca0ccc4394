//! Offset tokens, exactly as the reference's 3.2 describes them.
//!
//! A token is a JSON array (the sort key of the next page's first record) that is *already* percent-encoded when it
//! stands in a body. A client that passes it through its query encoder sends it encoded twice; one decoding by us must
//! then give the very text that was issued. So a token that was decoded first, or pasted raw into the address, or sent
//! with other parameters than the page it came from, is simply not one that we issued.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// Tokens remembered for each account. A full walk of a million records issues 10,000; the rest is for walks side by side.
const ISSUED_LIMIT: usize = 100_000;

/// Where a listing stands: the sort key of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// `[stage rank, lastAdvancedAt]` for opportunities, one time or serial number for the rest.
    pub(super) numbers: Vec<i64>,
    pub(super) id: String,
}

impl Position {
    /// The text that goes into `next`.
    pub(super) fn token(&self) -> String {
        let mut parts: Vec<Value> = self.numbers.iter().map(|n| Value::from(*n)).collect();
        parts.push(Value::from(self.id.clone()));
        percent_encode(&Value::from(parts).to_string())
    }

    /// Reads a token as it looks after one decoding of the query.
    pub(super) fn from_token(token: &str) -> Option<Self> {
        let text = percent_decode(token)?;
        let mut parts: Vec<Value> = serde_json::from_str(&text).ok()?;
        let Some(Value::String(id)) = parts.pop() else { return None };
        let numbers = parts.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>()?;
        Some(Self { numbers, id })
    }
}

/// The tokens given out, each with the query that it belongs to.
#[derive(Default)]
pub(super) struct Issued {
    known: HashSet<u64>,
    oldest: VecDeque<u64>,
}

impl Issued {
    pub(super) fn remember(&mut self, query: &str, token: &str) {
        let key = fingerprint(query, token);
        if self.known.insert(key) {
            self.oldest.push_back(key);
            if self.oldest.len() > ISSUED_LIMIT
                && let Some(old) = self.oldest.pop_front()
            {
                self.known.remove(&old);
            }
        }
    }

    pub(super) fn knows(&self, query: &str, token: &str) -> bool {
        self.known.contains(&fingerprint(query, token))
    }
}

fn fingerprint(query: &str, token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (query, token).hash(&mut hasher);
    hasher.finish()
}

/// As JavaScript's `encodeURIComponent` does it.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// `None` when the text has anything that an encoder would have encoded.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok().filter(|decoded| percent_encode(decoded) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_looks_like_the_real_ones() {
        let id = "21ebe9f9-e946-4f85-8fb9-c0b0a0c93fe1".to_owned();
        let position = Position { numbers: vec![3, 1_491_435_120_000], id };
        let token = position.token();
        insta::assert_snapshot!(token, @"%5B3%2C1491435120000%2C%2221ebe9f9-e946-4f85-8fb9-c0b0a0c93fe1%22%5D");
        assert_eq!(Position::from_token(&token), Some(position));
    }

    #[test]
    fn a_token_survives_any_key() {
        for id in ["Área técnica", "50% \"off\", really", "", "a+b/c"] {
            let position = Position { numbers: vec![-4], id: id.into() };
            assert_eq!(Position::from_token(&position.token()), Some(position));
        }
        assert_eq!(Position::from_token("[3,\"x\"]"), None);
        assert_eq!(Position::from_token("%255B3%252C%2522x%2522%255D"), None);
    }

    #[test]
    fn a_token_belongs_to_its_query() {
        let mut issued = Issued::default();
        issued.remember("GET /v1/users?limit=2", "t");
        assert!(issued.knows("GET /v1/users?limit=2", "t"));
        assert!(!issued.knows("GET /v1/users?limit=3", "t"));
        assert!(!issued.knows("GET /v1/users?limit=2", "u"));
    }
}
