//! The vault: seals what must not lie open on a disk, bound to the place where it belongs.
//!
//! XChaCha20-Poly1305 with a random nonce. The key's id stands beside the sealed text, so a wrong key is told from a damaged
//! entry, and what a former key sealed is still opened while the keys are changed (`rotate`); the place (tenant, generation, client, environment) is authenticated with it, so an entry copied to another place
//! does not open.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::secret::Secret;

const NONCE_BYTES: usize = 24;

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The key is not 32 bytes.
    #[error(
        "the vault key is not usable: it must be 32 bytes as 64 hex digits or base64\nhint: make one with `head -c 32 /dev/urandom | base64`"
    )]
    BadKey,
    /// Sealed under another key.
    #[error(
        "it is sealed with the vault key {sealed_with}, and the key at hand is {have}\nhint: nothing is lost; give back that key: as the key of [vault], or after a change of keys among its `previous`"
    )]
    WrongKey {
        /// Id of the key that sealed it.
        sealed_with: String,
        /// Ids of ours, and what there is to say of those that could not be had.
        have: String,
    },
    /// The right key does not open it here: changed, or copied from another place.
    #[error(
        "it does not open with its own key here: it was changed, or belongs to another tenant, app or generation\nhint: check that the app's client_id and environment are those under which the tenant connected; else restore the entry from a backup"
    )]
    Damaged,
    /// The machine has no random numbers.
    #[error("sealing failed")]
    Sealing,
}

/// Sealed text, safe to store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Id of the key.
    pub key: String,
    /// Nonce and ciphertext in base64.
    pub text: String,
}

impl Sealed {
    /// In the letters of a link or a cookie.
    #[must_use]
    pub fn to_token(&self) -> String {
        let text: String = self.text.trim_end_matches('=').replace('+', "-").replace('/', "_");
        format!("{}.{text}", self.key)
    }

    /// What [`Sealed::to_token`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        let (key, text) = token.split_once('.')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if key.is_empty() || text.is_empty() || !key.chars().chain(text.chars()).all(plain) {
            return None;
        }
        let padding = "=".repeat((4 - text.len() % 4) % 4);
        Some(Self { key: key.to_owned(), text: format!("{}{padding}", text.replace('-', "+").replace('_', "/")) })
    }
}

/// One key.
struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl Key {
    fn new(key: &Secret) -> Result<Self, VaultError> {
        let bytes = Zeroizing::new(decode(key.expose()).ok_or(VaultError::BadKey)?);
        let array: [u8; 32] = bytes.as_slice().try_into().map_err(|_| VaultError::BadKey)?;
        let array = Zeroizing::new(array);
        let digest = Sha256::new().chain_update(b"hirelake vault key id").chain_update(array.as_slice()).finalize();
        let id = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Ok(Self { id, cipher: XChaCha20Poly1305::new(&(*array).into()) })
    }
}

/// The keys: one that seals and opens, and former ones that only open.
pub struct Vault {
    key: Key,
    former: Vec<Key>,
    /// Former keys that could not be had, and why.
    missing: Vec<String>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("key", &self.key.id).finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault under `key`: 32 bytes as 64 hex digits or in base64.
    ///
    /// # Errors
    ///
    /// [`VaultError::BadKey`].
    pub fn new(key: &Secret) -> Result<Self, VaultError> {
        Ok(Self { key: Key::new(key)?, former: Vec::new(), missing: Vec::new() })
    }

    /// Adds a key that opens and seals nothing.
    ///
    /// # Errors
    ///
    /// [`VaultError::BadKey`].
    pub fn add_former(&mut self, key: &Secret) -> Result<(), VaultError> {
        self.former.push(Key::new(key)?);
        Ok(())
    }

    /// Notes a former key that cannot be had: that matters only when something turns up that it sealed.
    pub fn miss_former(&mut self, why: String) {
        self.missing.push(why);
    }

    /// Id of the key that seals.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key.id
    }

    /// Ids of the former keys at hand.
    pub fn former_ids(&self) -> impl Iterator<Item = &str> {
        self.former.iter().map(|k| k.id.as_str())
    }

    /// Whether a key that sealed this is at hand; nothing is opened.
    ///
    /// # Errors
    ///
    /// [`VaultError::WrongKey`].
    pub fn has_key_of(&self, sealed: &Sealed) -> Result<(), VaultError> {
        let keys = std::iter::once(&self.key).chain(&self.former);
        if keys.clone().any(|k| k.id == sealed.key) {
            return Ok(());
        }
        let mut have = keys.map(|k| k.id.as_str()).collect::<Vec<_>>().join(" and ");
        for why in &self.missing {
            have += &format!("; {why}");
        }
        Err(VaultError::WrongKey { sealed_with: sealed.key.clone(), have })
    }

    /// Seals `plain` for `place`.
    ///
    /// # Errors
    ///
    /// [`VaultError::Sealing`].
    pub fn seal(&self, place: &str, plain: &[u8]) -> Result<Sealed, VaultError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload { msg: plain, aad: place.as_bytes() };
        let sealed = self.key.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Sealing)?;
        let mut text = nonce.to_vec();
        text.extend(sealed);
        Ok(Sealed { key: self.key.id.clone(), text: BASE64.encode(text) })
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    ///
    /// [`VaultError::WrongKey`] or [`VaultError::Damaged`].
    pub fn open(&self, place: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.has_key_of(sealed)?;
        let mut fitting = std::iter::once(&self.key).chain(&self.former).filter(|k| k.id == sealed.key);
        let bytes = BASE64.decode(&sealed.text).map_err(|_| VaultError::Damaged)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_BYTES).ok_or(VaultError::Damaged)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| VaultError::Damaged)?;
        let payload = || Payload { msg: text, aad: place.as_bytes() };
        // An id is short: two keys may share one.
        let opened = fitting.find_map(|k| k.cipher.decrypt(&XNonce::from(nonce), payload()).ok());
        opened.map(Zeroizing::new).ok_or(VaultError::Damaged)
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() == 64 && text.is_ascii() {
        let hex: Option<Vec<u8>> =
            (0..32).map(|i| text.get(2 * i..2 * i + 2).and_then(|h| u8::from_str_radix(h, 16).ok())).collect();
        if hex.is_some() {
            return hex;
        }
    }
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(byte: u8) -> Vault {
        Vault::new(&Secret::new(BASE64.encode([byte; 32]))).unwrap()
    }

    #[test]
    fn it_opens_only_where_it_was_sealed_and_only_with_its_key() {
        let v = vault(7);
        let sealed = v.seal("grants/acme/1", b"canary").unwrap();
        assert_eq!(v.open("grants/acme/1", &sealed).unwrap().as_slice(), b"canary");
        assert_eq!(v.open("grants/acme/2", &sealed), Err(VaultError::Damaged));
        assert!(matches!(vault(8).open("grants/acme/1", &sealed), Err(VaultError::WrongKey { .. })));
        let mut cut = sealed.clone();
        cut.text.truncate(40);
        assert_eq!(v.open("grants/acme/1", &cut), Err(VaultError::Damaged));
        assert!(!serde_json::to_string(&sealed).unwrap().contains("canary"));
        assert_ne!(sealed, v.seal("grants/acme/1", b"canary").unwrap(), "a nonce is never used twice");
    }

    #[test]
    fn a_former_key_opens_and_seals_nothing() {
        let old = vault(7).seal("here", b"canary").unwrap();
        let mut v = vault(8);
        v.add_former(&Secret::new("07".repeat(32))).unwrap();
        assert_eq!(v.open("here", &old).unwrap().as_slice(), b"canary");
        assert_eq!(v.open("there", &old), Err(VaultError::Damaged));
        assert_eq!(v.seal("here", b"x").unwrap().key, vault(8).key_id());
        let mut v = vault(9);
        v.miss_former("file old.key cannot be read".into());
        let id = vault(7).key_id().to_owned();
        let error = v.open("here", &old).unwrap_err().to_string();
        let (have, _) = error.split_once("\nhint: ").unwrap();
        assert_eq!(
            have,
            format!(
                "it is sealed with the vault key {id}, and the key at hand is {}; file old.key cannot be read",
                v.key_id()
            )
        );
    }

    #[test]
    fn a_key_is_32_bytes_in_hex_or_base64() {
        let hex = "07".repeat(32);
        assert_eq!(Vault::new(&Secret::new(hex)).unwrap().key_id(), vault(7).key_id());
        for bad in ["", "short", &"zz".repeat(32), &BASE64.encode([1; 16])] {
            assert_eq!(Vault::new(&Secret::new(bad)).unwrap_err(), VaultError::BadKey);
        }
    }
}
