//! What did not fit: counted for the report, kept for the row.

use std::collections::BTreeMap;
use std::fmt;

use super::columns::canonical;

/// Most distinct places that are counted apart; a provider that uses ids as keys would otherwise fill the report.
const MAX_PLACES: usize = 256;
/// Epoch milliseconds of 2005 to 2100: before, nobody recruited online; and hardly any other number is as large.
const EPOCH_MS: std::ops::Range<i64> = 1_104_537_600_000..4_102_444_800_000;
/// Longest key that is shown in a place.
const MAX_KEY_CHARS: usize = 64;

/// In which way a value surprised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriftKind {
    /// The catalogue does not know the field.
    Undeclared,
    /// The value is not of the declared type.
    Misfit,
}

impl fmt::Display for DriftKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undeclared => "undeclared",
            Self::Misfit => "misfit",
        })
    }
}

/// The type of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JsonType {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A whole number within 64 bits that is no [`JsonType::Epoch`].
    Integer,
    /// A whole number that is a time of this century in epoch milliseconds, from 2005 to 2100.
    Epoch,
    /// Any other number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl JsonType {
    /// The type of a JSON text, by its first byte.
    pub(super) fn of(json: &str) -> Self {
        match json.as_bytes().first() {
            Some(b'"') => Self::String,
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b't' | b'f') => Self::Bool,
            Some(b'n') | None => Self::Null,
            Some(_) => match canonical(json) {
                Some(n) if EPOCH_MS.contains(&n) => Self::Epoch,
                Some(_) => Self::Integer,
                None => Self::Number,
            },
        }
    }
}

impl fmt::Display for JsonType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Integer => "integer",
            Self::Epoch => "epoch",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        })
    }
}

/// Counts of surprises by place (a JSON Pointer into the record, `*` for any index), found type and kind. Never a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    counts: BTreeMap<(String, JsonType, DriftKind), u64>,
}

impl Drift {
    /// Whether all was as declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Each place with its count, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (&str, JsonType, DriftKind, u64)> {
        self.counts.iter().map(|((place, found, kind), n)| (place.as_str(), *found, *kind, *n))
    }

    /// Adds the counts of another page.
    pub fn merge(&mut self, other: Self) {
        for ((place, found, kind), n) in other.counts {
            self.add(place, found, kind, n);
        }
    }

    pub(super) fn add(&mut self, place: String, found: JsonType, kind: DriftKind, n: u64) {
        let mut key = (place, found, kind);
        if self.counts.len() >= MAX_PLACES && !self.counts.contains_key(&key) {
            key.0 = "/*".to_owned();
        }
        *self.counts.entry(key).or_default() += n;
    }
}

/// A value that no typed cell holds, on its way into `_extra`. The paths grow at their front while the decoder returns.
pub(super) struct Extra {
    /// JSON Pointer from the row.
    path: String,
    /// The same with `*` for indices, and long keys cut.
    place: String,
    json: String,
    /// Whether and how it counts.
    drift: Option<DriftKind>,
}

impl Extra {
    /// A value at the row's, field's or element's own place.
    pub(super) fn here(json: String, drift: Option<DriftKind>) -> Self {
        Self { path: String::new(), place: String::new(), json, drift }
    }

    /// A value below a key.
    pub(super) fn at(key: &str, json: String, drift: Option<DriftKind>) -> Self {
        let mut extra = Self::here(json, drift);
        extra.below_key(key);
        extra
    }

    pub(super) fn below_key(&mut self, key: &str) {
        let token = token(key);
        if key.chars().nth(MAX_KEY_CHARS).is_some() {
            let cut: String = key.chars().take(MAX_KEY_CHARS).chain(['…']).collect();
            self.place.insert_str(0, &self::token(&cut));
        } else {
            self.place.insert_str(0, &token);
        }
        self.path.insert_str(0, &token);
    }

    pub(super) fn below_index(&mut self, index: usize) {
        self.path.insert_str(0, &format!("/{index}"));
        self.place.insert_str(0, "/*");
    }

    /// Counts it under `prefix`, and writes it as a member of the `_extra` object.
    pub(super) fn put(self, prefix: &str, drift: &mut Drift, object: &mut String) {
        if let Some(kind) = self.drift {
            drift.add(format!("{prefix}{}", self.place), JsonType::of(&self.json), kind, 1);
        }
        object.push(if object.is_empty() { '{' } else { ',' });
        push_string(object, &self.path);
        object.push(':');
        object.push_str(&self.json);
    }
}

/// A reference token of JSON Pointer, with its slash.
pub(super) fn token(key: &str) -> String {
    let mut token = String::with_capacity(key.len() + 1);
    token.push('/');
    for c in key.chars() {
        match c {
            '~' => token.push_str("~0"),
            '/' => token.push_str("~1"),
            c => token.push(c),
        }
    }
    token
}

/// Appends `text` as a JSON string.
pub(super) fn push_string(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
