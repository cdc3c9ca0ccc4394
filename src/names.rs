//! Names that are safe in a path, a URL and a log line.
//!
//! A tenant or resource name becomes a folder of the lake and of the state, so it is parsed once, where it enters, and is a
//! type afterwards. Guarantees: lower case ASCII, no separators, no dots, at most [`MAX_LEN`] bytes, no two names that differ
//! only by case. Knows nothing of what the names stand for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest accepted name in bytes: with `tenant=` before it and any suffix behind, still below every file system's limit of 255.
pub const MAX_LEN: usize = 63;

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} name {name:?} cannot be used: {why}\nhint: use 1 to {MAX_LEN} of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`"
)]
pub struct BadName {
    what: &'static str,
    name: String,
    why: &'static str,
}

fn checked(what: &'static str, name: &str) -> Result<Box<str>, BadName> {
    let bad = |why| BadName { what, name: name.chars().take(80).collect(), why };
    let Some(first) = name.bytes().next() else { return Err(bad("it is empty")) };
    if name.len() > MAX_LEN {
        return Err(bad("it is too long"));
    }
    if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
        return Err(bad("it does not begin with a lower-case letter or a digit"));
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-') {
        return Err(bad("it holds a character that is unsafe in a path"));
    }
    Ok(name.into())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = BadName;
            fn from_str(name: &str) -> Result<Self, BadName> {
                checked($what, name).map(Self)
            }
        }
        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(name: String) -> Result<Self, BadName> {
                name.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// One customer account. Appears as `tenant=<name>` in the lake.
    Tenant,
    "tenant"
);
name_type!(
    /// A thing that the provider lists, such as `opportunities`. Names a table of the lake.
    ResourceName,
    "resource"
);
name_type!(
    /// One of our OAuth clients at a provider, as the configuration names it.
    AppName,
    "app"
);

/// The id of one run: a UUID of version 7, so that ids sort by the time of their making.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(uuid::Uuid);

impl RunId {
    /// A new id.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The closest of `known` to what a person wrote, when it is close enough to be meant.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (distance(text, k), k))
        .filter(|(d, k)| *d <= 2.max(k.len() / 4))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Levenshtein's distance; inputs are names of at most a few dozen bytes.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(up + 1).min(row[j] + 1);
            diagonal = up;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_unsafe_in_a_path_is_refused_where_it_enters() {
        for bad in ["", "..", ".", "a/b", "a\\b", "A", "-a", "_a", "a b", "a\0", "é", "tenant=x", "a.b", "a%2fb", "~"]
        {
            assert!(bad.parse::<Tenant>().is_err(), "{bad:?} was taken");
        }
        assert!("a".repeat(MAX_LEN + 1).parse::<Tenant>().is_err());
        for good in ["a", "acme-eu", "0x", "a_b", &"a".repeat(MAX_LEN)] {
            assert_eq!(good.parse::<Tenant>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        insta::assert_snapshot!("Acme EU/".parse::<Tenant>().unwrap_err(), @r#"
        tenant name "Acme EU/" cannot be used: it does not begin with a lower-case letter or a digit
        hint: use 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter or digit, such as `acme-eu`
        "#);
    }
}
