//! The key of the pseudonyms: one for the whole state, made when it is first needed, sealed by the vault and never changed, so
//! that a text has the same pseudonym in every table, tenant and year.
//!
//! It is a line of entries; only a change of the vault's key writes a new one, with the same key in it.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::vault::{Sealed, VaultError};
use super::{Auth, AuthError};
use crate::state::{Entry, StateError};

/// What it is sealed for.
const PLACE: &str = "pseudonyms";
/// Times that another process may be faster.
const TRIES: usize = 5;

/// An entry of the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    sealed: Sealed,
}

fn unopened(source: VaultError) -> AuthError {
    AuthError::Pseudonyms { source }
}

impl Auth {
    /// The key of the pseudonyms, made now if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read, opened or kept.
    pub async fn pseudonym_key(&self) -> Result<Zeroizing<[u8; 32]>, AuthError> {
        let line = self.state.pseudonyms();
        for _ in 0..TRIES {
            if let Some(last) = line.last::<Kept>().await? {
                return self.opened_key(&last);
            }
            let key = Zeroizing::new(rand::random::<[u8; 32]>());
            let sealed = self.vault.seal(PLACE, key.as_slice()).map_err(unopened)?;
            match line.append(0, Kept { sealed }).await {
                Ok(_) => return Ok(key),
                // Another tenant's or another process's run was faster: its key counts.
                Err(StateError::Lost { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(StateError::Lost { line: PLACE.to_owned(), n: 1 }.into())
    }

    fn opened_key(&self, entry: &Entry<Kept>) -> Result<Zeroizing<[u8; 32]>, AuthError> {
        let key = self.vault.open(PLACE, &entry.body.sealed).map_err(unopened)?;
        key.as_slice().try_into().map(Zeroizing::new).map_err(|_| unopened(VaultError::Damaged))
    }

    /// Seals the key anew where a former key sealed it, and removes what that one sealed. Says whether there was anything to
    /// do. Several may do it at once: they write the same key.
    ///
    /// # Errors
    ///
    /// As [`Auth::pseudonym_key`].
    pub async fn rotate_pseudonyms(&self) -> Result<bool, AuthError> {
        let line = self.state.pseudonyms();
        let old = |kept: &Option<Kept>| kept.as_ref().is_none_or(|k| k.sealed.key != self.vault.key_id());
        let Some(mut newest) = line.last::<Kept>().await? else { return Ok(false) };
        if !line.all::<Kept>().await?.iter().any(|(_, kept)| old(kept)) {
            return Ok(false);
        }
        // The newest two entries always stay, so neither may be an old one.
        for _ in 0..2 {
            if line.all::<Kept>().await?.iter().take(2).any(|(_, kept)| old(kept)) {
                let key = self.opened_key(&newest)?;
                let sealed = self.vault.seal(PLACE, key.as_slice()).map_err(unopened)?;
                newest = line.append(newest.n, Kept { sealed }).await?;
            }
        }
        line.drop_below(newest.n).await?;
        Ok(true)
    }

    /// Ids of the keys that sealed it, an entry each.
    pub(super) async fn pseudonyms_sealed_with(&self) -> Result<Vec<String>, AuthError> {
        let all = self.state.pseudonyms().all::<Kept>().await?;
        Ok(all.into_iter().filter_map(|(_, kept)| Some(kept?.sealed.key)).collect())
    }
}
