//! The unprintable: text that masks itself in `Display` *and* `Debug`, and is wiped when dropped.
//!
//! Reading it is one greppable call, [`Secret::expose`]. It has no `Serialize`: a secret reaches a disk only sealed.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A token, client secret or key.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }
    /// The text itself. Never pass it to a log, an error, a URL or a `format!`.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_display_nor_debug_shows_it() {
        let s = Secret::new("canary-7f3a");
        assert_eq!(format!("{s} {s:?} {:?}", Some(&s)), "[secret] [secret] Some([secret])");
        assert_eq!(s.expose(), "canary-7f3a");
    }
}
