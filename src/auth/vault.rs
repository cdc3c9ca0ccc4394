//! The vault: seals what must not lie open on a disk, bound to the place where it belongs.
//!
//! XChaCha20-Poly1305 with a random nonce. The key's id stands beside the sealed text, so a wrong key is told from a damaged
//! entry; the place (tenant, generation, client, environment) is authenticated with it, so an entry copied to another place
//! does not open.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
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
        "it is sealed with the vault key {sealed_with}, and the key at hand is {have}\nhint: nothing is lost; give back the key with which the grants were stored"
    )]
    WrongKey {
        /// Id of the key that sealed it.
        sealed_with: String,
        /// Id of ours.
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

/// A key that seals and opens.
pub struct Vault {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("key", &self.id).finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault under `key`: 32 bytes as 64 hex digits or in base64.
    ///
    /// # Errors
    ///
    /// [`VaultError::BadKey`].
    pub fn new(key: &Secret) -> Result<Self, VaultError> {
        let bytes = Zeroizing::new(decode(key.expose()).ok_or(VaultError::BadKey)?);
        let array: [u8; 32] = bytes.as_slice().try_into().map_err(|_| VaultError::BadKey)?;
        let array = Zeroizing::new(array);
        let digest = Sha256::new().chain_update(b"hirelake vault key id").chain_update(array.as_slice()).finalize();
        let id = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Ok(Self { id, cipher: XChaCha20Poly1305::new(&Key::from(*array)) })
    }

    /// Id of the key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.id
    }

    /// Seals `plain` for `place`.
    ///
    /// # Errors
    ///
    /// [`VaultError::Sealing`].
    pub fn seal(&self, place: &str, plain: &[u8]) -> Result<Sealed, VaultError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload { msg: plain, aad: place.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Sealing)?;
        let mut text = nonce.to_vec();
        text.extend(sealed);
        Ok(Sealed { key: self.id.clone(), text: BASE64.encode(text) })
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    ///
    /// [`VaultError::WrongKey`] or [`VaultError::Damaged`].
    pub fn open(&self, place: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        if sealed.key != self.id {
            return Err(VaultError::WrongKey { sealed_with: sealed.key.clone(), have: self.id.clone() });
        }
        let bytes = BASE64.decode(&sealed.text).map_err(|_| VaultError::Damaged)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_BYTES).ok_or(VaultError::Damaged)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| VaultError::Damaged)?;
        let payload = Payload { msg: text, aad: place.as_bytes() };
        self.cipher.decrypt(&XNonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| VaultError::Damaged)
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
    fn a_key_is_32_bytes_in_hex_or_base64() {
        let hex = "07".repeat(32);
        assert_eq!(Vault::new(&Secret::new(hex)).unwrap().key_id(), vault(7).key_id());
        for bad in ["", "short", &"zz".repeat(32), &BASE64.encode([1; 16])] {
            assert_eq!(Vault::new(&Secret::new(bad)).unwrap_err(), VaultError::BadKey);
        }
    }
}
