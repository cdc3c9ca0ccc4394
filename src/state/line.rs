//! One line of numbered, create-only entries, the newest listing first.
//!
//! Names are the number counted down from a fixed width, so that a listing in name order begins with the newest. Every entry
//! carries its writer's nonce, so no two are alike: by it `Store::create` knows one whose answer was lost from another writer's.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::clock::{Clock, Timestamp};
use crate::store::{Created, Entry as Object, Store};

/// Numbers run from 1 to this; 15 digits last for ever.
const LAST: u64 = 999_999_999_999_999;
/// How long an entry that is no longer the newest stays: long enough that an owner who slept cannot make an old number anew.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// An entry may be swept between the listing and the reading; so often is the listing repeated.
const LOOKS: u32 = 5;

/// One line of entries, such as the grants of one tenant.
#[derive(Debug, Clone)]
pub struct Line {
    store: Store,
    clock: Clock,
    prefix: Path,
}

/// What is made of the text of entry `n`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_entry<T: DeserializeOwned>(n: u64, text: &[u8]) -> Result<T, StateError> {
    Line::parse::<T>(&Path::from("fuzz/entry.json"), n, text).map(|entry| entry.body)
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<T> {
    /// Its number, from 1.
    pub n: u64,
    /// When its writer's clock said it was written.
    pub at: Timestamp,
    /// What it says.
    pub body: T,
}

#[derive(Serialize)]
struct WireOut<'a, T> {
    n: u64,
    nonce: uuid::Uuid,
    at: Timestamp,
    body: &'a T,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireIn<T> {
    n: u64,
    // Without one it is no entry.
    #[serde(rename = "nonce")]
    _nonce: uuid::Uuid,
    at: Timestamp,
    body: T,
}

impl Line {
    pub(super) fn new(store: Store, clock: Clock, prefix: Path) -> Self {
        Self { store, clock, prefix }
    }

    fn path(&self, n: u64) -> Path {
        self.prefix.clone().join(format!("{:015}.json", LAST.saturating_sub(n)))
    }

    /// The entries that stand, newest first, with their numbers.
    async fn listing(&self) -> Result<Vec<(u64, Object)>, StateError> {
        let mut found: Vec<(u64, Object)> = Vec::new();
        for object in self.store.list(&self.prefix).await? {
            // Anything else in the folder is not ours to judge.
            if let Some(n) = object.path.filename().and_then(number) {
                found.push((n, object));
            }
        }
        found.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        Ok(found)
    }

    async fn read<T: DeserializeOwned>(&self, path: &Path, n: u64) -> Result<Option<WireIn<T>>, StateError> {
        let Some(bytes) = self.store.get(path).await? else { return Ok(None) };
        Self::parse(path, n, &bytes).map(Some)
    }

    fn parse<T: DeserializeOwned>(path: &Path, n: u64, bytes: &[u8]) -> Result<WireIn<T>, StateError> {
        let corrupt = |why: String| StateError::Corrupt { path: path.to_string(), why };
        let entry: WireIn<T> = serde_json::from_slice(bytes).map_err(|e| {
            // The position and the kind say enough; serde's own sentence could quote a value.
            corrupt(format!("{} at line {}, column {}", kind(&e), e.line(), e.column()))
        })?;
        if entry.n != n {
            return Err(corrupt(format!("it says that it is number {}, its name says {n}", entry.n)));
        }
        Ok(entry)
    }

    /// The newest entry, `None` when the line is empty.
    ///
    /// # Errors
    ///
    /// [`StateError::Corrupt`] when it does not parse; it is never skipped.
    pub async fn last<T: DeserializeOwned>(&self) -> Result<Option<Entry<T>>, StateError> {
        let Some((path, bytes)) = self.store.first(&self.prefix, |name| number(name).is_some()).await? else {
            return Ok(None);
        };
        let n = path.filename().and_then(number).unwrap_or_default();
        let wire = Self::parse::<T>(&path, n, &bytes)?;
        Ok(Some(Entry { n: wire.n, at: wire.at, body: wire.body }))
    }

    /// The newest entry and when the store says that it was written.
    pub(super) async fn last_written<T: DeserializeOwned>(&self) -> Result<Option<(Entry<T>, Timestamp)>, StateError> {
        for _ in 0..LOOKS {
            let listing = self.listing().await?;
            let Some((n, object)) = listing.first() else { return Ok(None) };
            if let Some(wire) = self.read::<T>(&object.path, *n).await? {
                return Ok(Some((Entry { n: wire.n, at: wire.at, body: wire.body }, object.modified)));
            }
        }
        Err(StateError::Corrupt {
            path: self.prefix.to_string(),
            why: format!("its newest entry was listed {LOOKS} times and could not be read once"),
        })
    }

    /// Makes entry `after + 1`. Old entries are swept on the way.
    ///
    /// # Errors
    ///
    /// [`StateError::Lost`] when another writer made it, or a newer one stands.
    pub async fn append<T: Serialize>(&self, after: u64, body: T) -> Result<Entry<T>, StateError> {
        let n = after + 1;
        let wire = WireOut { n, nonce: uuid::Uuid::now_v7(), at: self.clock.now(), body: &body };
        let text = text(&wire, &self.path(n))?;
        let lost = || StateError::Lost { line: self.prefix.to_string(), n };
        // By its nonce the store knows an entry of ours whose answer was lost.
        if self.store.create(&self.path(n), text).await? == Created::Exists {
            return Err(lost());
        }
        let listing = self.listing().await?;
        if listing.first().is_some_and(|(newest, _)| *newest > n) {
            return Err(lost());
        }
        self.sweep(&listing).await?;
        let at = wire.at;
        Ok(Entry { n, at, body })
    }

    /// Writes what `newest`, the line's newest entry, says over every older one, so that nothing of what they held stays.
    /// Their names stay taken: were they removed, a writer who slept could make an old number anew, with its secrets in it,
    /// and though the newest would still stand, what it wrote would lie there for ever. May be repeated.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written; what was not reached still holds what it held.
    pub async fn forget_older<T>(&self, newest: &Entry<T>) -> Result<u64, StateError>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        self.store.remove_unfinished(&self.prefix)?;
        let mut forgotten = 0;
        for (n, object) in self.listing().await?.into_iter().filter(|(n, _)| *n < newest.n) {
            if self.read::<T>(&object.path, n).await.is_ok_and(|e| e.is_none_or(|e| e.body == newest.body)) {
                continue;
            }
            let wire = WireOut { n, nonce: uuid::Uuid::now_v7(), at: newest.at, body: &newest.body };
            self.store.overwrite(&object.path, text(&wire, &object.path)?).await?;
            forgotten += 1;
        }
        Ok(forgotten)
    }

    /// Every entry that stands, newest first; `None` for one that does not parse. Only the newest is the truth: the others
    /// are what is left of it.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn all<T: DeserializeOwned>(&self) -> Result<Vec<(u64, Option<T>)>, StateError> {
        let mut all = Vec::new();
        for (n, object) in self.listing().await? {
            match self.read::<T>(&object.path, n).await {
                Ok(Some(wire)) => all.push((n, Some(wire.body))),
                Ok(None) => {}
                Err(StateError::Corrupt { .. }) => all.push((n, None)),
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Removes entries below the number `n` whatever their age, and what a killed create left half written, but never the
    /// newest two. An owner who slept and makes one of them anew finds the newer ones and has lost. Whoever calls holds the
    /// lease. Returns how many.
    ///
    /// # Errors
    ///
    /// When the store cannot be listed or written.
    pub async fn drop_below(&self, n: u64) -> Result<u64, StateError> {
        let mut dropped = 0;
        for (number, object) in self.listing().await?.iter().skip(2) {
            if *number < n {
                self.store.remove(&object.path).await?;
                dropped += 1;
            }
        }
        self.store.remove_unfinished(&self.prefix)?;
        Ok(dropped)
    }

    async fn sweep(&self, listing: &[(u64, Object)]) -> Result<(), StateError> {
        let Some((_, newest)) = listing.first() else { return Ok(()) };
        for (_, object) in listing.iter().skip(2) {
            // Both times are the store's own.
            if newest.modified.since(object.modified) > KEEP {
                self.store.remove(&object.path).await?;
            }
        }
        Ok(())
    }
}

/// The number of an entry by its name; `None` for a name that is not an entry's.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json").filter(|d| d.len() == 15 && d.bytes().all(|b| b.is_ascii_digit()))?;
    LAST.checked_sub(digits.parse().ok()?)
}

fn text<T: Serialize>(wire: &WireOut<'_, T>, path: &Path) -> Result<Bytes, StateError> {
    let corrupt = |e: serde_json::Error| StateError::Corrupt { path: path.to_string(), why: kind(&e).into() };
    let mut text = serde_json::to_vec_pretty(wire).map_err(corrupt)?;
    text.push(b'\n');
    Ok(text.into())
}

fn kind(e: &serde_json::Error) -> &'static str {
    match e.classify() {
        serde_json::error::Category::Io => "it cannot be read",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => "it is JSON of another shape",
        serde_json::error::Category::Eof => "it is cut short",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(store: &Store) -> Line {
        Line::new(store.clone(), Clock::starting_at(Timestamp::from_ms(1_700_000_000_000)), Path::from("grants/acme"))
    }

    #[tokio::test]
    async fn the_newest_entry_is_the_whole_truth_and_lists_first() {
        let dir = tempfile::tempdir().unwrap();
        for store in [Store::open(dir.path().to_str().unwrap()).unwrap(), Store::memory()] {
            let line = line(&store);
            assert!(line.last::<String>().await.unwrap().is_none());
            for n in 0..3 {
                assert_eq!(line.append(n, format!("v{n}")).await.unwrap().n, n + 1);
            }
            let last = line.last::<String>().await.unwrap().unwrap();
            assert_eq!((last.n, last.body.as_str()), (3, "v2"));
            let mut names: Vec<_> =
                store.list(&Path::from("grants")).await.unwrap().iter().map(|e| e.path.to_string()).collect();
            names.sort();
            assert_eq!(names[0], "grants/acme/999999999999996.json");
        }
    }

    #[tokio::test]
    async fn one_of_two_writers_of_a_number_wins() {
        let store = Store::memory();
        let line = line(&store);
        let (a, b) = tokio::join!(line.append(0, "a"), line.append(0, "b"));
        assert_eq!(a.is_ok() as u8 + b.is_ok() as u8, 1);
        assert!(matches!(line.append(0, "c").await, Err(StateError::Lost { n: 1, .. })));
    }

    #[tokio::test]
    async fn an_old_number_made_anew_below_a_newer_one_is_a_loss() {
        let store = Store::memory();
        let line = line(&store);
        line.append(0, "one").await.unwrap();
        line.append(1, "two").await.unwrap();
        store.remove(&line.path(1)).await.unwrap();
        assert!(matches!(line.append(0, "late").await, Err(StateError::Lost { n: 1, .. })));
        assert_eq!(line.last::<String>().await.unwrap().unwrap().body, "two");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_gone_and_its_numbers_stay_taken() {
        let dir = tempfile::tempdir().unwrap();
        for store in [Store::open(dir.path().to_str().unwrap()).unwrap(), Store::memory()] {
            let line = line(&store);
            for n in 0..3 {
                line.append(n, format!("canary {n}")).await.unwrap();
            }
            // A cut entry holds its secret too.
            store.overwrite(&line.path(2), Bytes::from_static(b"{\"n\": 2, \"body\": \"canary")).await.unwrap();
            if let Some(root) = store.root() {
                std::fs::write(root.join("grants/acme/999999999999990.json#1"), "canary, half-written").unwrap();
            }
            let newest = line.append(3, "nothing".to_owned()).await.unwrap();
            assert_eq!(line.forget_older(&newest).await.unwrap(), 3);
            assert_eq!(line.forget_older(&newest).await.unwrap(), 0);
            for entry in store.list(&Path::from("grants")).await.unwrap() {
                let text = String::from_utf8(store.get(&entry.path).await.unwrap().unwrap().to_vec()).unwrap();
                assert!(!text.contains("canary"), "{text}");
            }
            for n in 0..4 {
                assert!(matches!(line.append(n, "late".to_owned()).await, Err(StateError::Lost { .. })));
            }
            assert_eq!(line.last::<String>().await.unwrap().unwrap().body, "nothing");
        }
        let left: Vec<_> = std::fs::read_dir(dir.path().join("grants/acme")).unwrap().flatten().collect();
        assert_eq!(left.len(), 4, "{left:?}");
    }

    #[tokio::test]
    async fn corrupt_is_not_empty() {
        let store = Store::memory();
        let line = line(&store);
        line.append(0, "good").await.unwrap();
        store.create(&line.path(2), Bytes::from_static(b"{\"n\": 2, \"canary")).await.unwrap();
        let error = line.last::<String>().await.unwrap_err();
        insta::assert_snapshot!(error, @r"
        state entry grants/acme/999999999999997.json cannot be read: it is cut short at line 1, column 16
        hint: the entry was changed or cut by something else than hirelake; restore it from a backup, or move it away so that the entry before it counts again (of a grant: its token may be used up, and then the tenant must connect again)
        ");
        store.create(&line.path(3), Bytes::from_static(b"{\"n\":9,\"nonce\":\"00000000-0000-0000-0000-000000000000\",\"at\":\"2026-01-01T00:00:00Z\",\"body\":\"x\"}")).await.unwrap();
        assert!(line.last::<String>().await.unwrap_err().to_string().contains("its name says 3"));
    }
}
