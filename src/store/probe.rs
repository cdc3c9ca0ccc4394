//! Whether a store does all that this program relies on, tried on objects of its own.

use std::fmt;

use bytes::Bytes;
use object_store::path::Path;
use serde::Serialize;

use super::{Created, Place, Store, StoreError, Version};

/// Which probe this is: a later one tries more, and stores are tried again.
pub const PROBE: u32 = 1;
/// Writers that a probe lets race: enough that a store which only checks and then writes shows it, few enough to cost little.
const RACERS: usize = 8;
/// So often do they race.
const RACES: usize = 2;

/// One thing that a store must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Make an object.
    Create,
    /// Refuse to make it again.
    Recreate,
    /// Of several that make one object at once, let one win.
    Race,
    /// Put a file in an object's place.
    Replace,
    /// Replace a version that was read just now.
    ReplaceFresh,
    /// Refuse to replace a version that is no longer there.
    ReplaceStale,
    /// Give back what was written last.
    Read,
    /// List what was just written.
    List,
    /// Remove it.
    Remove,
}

impl Step {
    /// In the order in which they are tried.
    const ALL: [Self; 9] = [
        Self::Create,
        Self::Recreate,
        Self::Race,
        Self::Replace,
        Self::ReplaceFresh,
        Self::ReplaceStale,
        Self::Read,
        Self::List,
        Self::Remove,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Recreate => "no second create",
            Self::Race => "one winner of a race",
            Self::Replace => "replace",
            Self::ReplaceFresh => "replace the version read",
            Self::ReplaceStale => "not a stale one",
            Self::Read => "read back",
            Self::List => "list",
            Self::Remove => "remove",
        })
    }
}

/// What [`Store::probe`] found: the steps that went well, and the failure that ended them.
#[derive(Debug)]
pub struct Probe {
    /// In their order.
    pub passed: Vec<Step>,
    /// Where it ended, when it did not end well.
    pub failed: Option<(Step, StoreError)>,
}

impl Probe {
    /// # Errors
    ///
    /// What the store failed with.
    pub fn sound(self) -> Result<(), StoreError> {
        self.failed.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Store {
    /// Tries on objects of its own, under `probes/`, whether the store does all that this program relies on, and removes them.
    /// It ends at the first step that fails. What a create is answered is believed as little as elsewhere: one whose answer
    /// was lost is sent again by the store's client, so the object is read back.
    pub async fn probe(&self) -> Probe {
        let folder = Path::from_iter(["probes".to_owned(), uuid::Uuid::now_v7().to_string()]);
        let mut passed = Vec::new();
        let failed = self.probe_steps(&folder, &mut passed).await.err();
        let left = self.list(&folder).await.unwrap_or_default();
        for object in left {
            if let Err(error) = self.remove(&object.path).await {
                tracing::debug!(%error, "an object of the probe was left behind");
            }
        }
        if let Some(root) = self.root() {
            // Folders that are empty now; one that holds anything is not removed.
            let _ = std::fs::remove_dir(root.join(folder.as_ref()));
            let _ = std::fs::remove_dir(root.join("probes"));
        }
        let due = Step::ALL.into_iter().find(|s| !passed.contains(s) && self.can_show(*s)).unwrap_or(Step::Remove);
        Probe { passed, failed: failed.map(|error| (due, error)) }
    }

    /// A local folder cannot tell one version from another, and some stores need not: there locks or leases keep runs apart.
    fn can_show(&self, step: Step) -> bool {
        step != Step::ReplaceStale || matches!(&self.place, Place::Remote(remote) if remote.conditional)
    }

    async fn probe_steps(&self, folder: &Path, passed: &mut Vec<Step>) -> Result<(), StoreError> {
        let unfit = |why| Err(StoreError::Unfit { store: self.url.to_string(), why, replacing: false });
        let unfit_to_replace = |why| Err(StoreError::Unfit { store: self.url.to_string(), why, replacing: true });
        let (made, replaced) = (folder.clone().join("made"), folder.clone().join("replaced"));
        self.create(&made, "first".into()).await?;
        if self.get(&made).await?.as_deref() != Some(b"first") {
            return unfit("what was just created reads otherwise");
        }
        passed.push(Step::Create);

        let again = self.create(&made, "second".into()).await?;
        if again == Created::Done || self.get(&made).await?.as_deref() != Some(b"first") {
            return unfit("it ignores that an object may be created only where there is none");
        }
        passed.push(Step::Recreate);

        for race in 0..RACES {
            let one = folder.clone().join(format!("raced-{race}"));
            let racers = (0..RACERS).map(|n| self.create(&one, Bytes::from(format!("racer {n}"))));
            let ends = futures::future::try_join_all(racers).await?;
            if ends.iter().filter(|end| **end == Created::Done).count() != 1 {
                return unfit("of several that create one object at once not exactly one wins");
            }
        }
        passed.push(Step::Race);

        let old = self.probe_replace(&replaced, "one", None).await?;
        passed.push(Step::Replace);
        let fresh = self.probe_replace(&replaced, "two, longer", Some(&old)).await;
        if matches!(fresh, Err(StoreError::Moved { .. }))
            && self.get(&replaced).await?.as_deref() != Some(b"two, longer")
        {
            return unfit_to_replace("it refuses to replace an object by the very version that it gave for it");
        }
        if !matches!(fresh, Err(StoreError::Moved { .. })) {
            fresh?;
        }
        passed.push(Step::ReplaceFresh);

        if self.can_show(Step::ReplaceStale) {
            let stale = self.probe_replace(&replaced, "three", Some(&old)).await;
            if !matches!(stale, Err(StoreError::Moved { .. })) {
                stale?;
                return unfit_to_replace("it ignores that an object may be replaced only in the version that was read");
            }
            passed.push(Step::ReplaceStale);
        }
        if self.get(&replaced).await?.as_deref() != Some(b"two, longer") {
            return unfit("what was just replaced reads otherwise");
        }
        passed.push(Step::Read);

        let listed: Vec<Path> = self.list(folder).await?.into_iter().map(|e| e.path).collect();
        if [&made, &replaced].iter().any(|p| !listed.contains(p)) || listed.len() != 2 + RACES {
            return unfit("a listing lacks what was just written");
        }
        // A folder is listed in any order, and never relied on.
        if self.root().is_none() && !listed.is_sorted() {
            return unfit("a listing is not in the order of the names");
        }
        passed.push(Step::List);

        for path in &listed {
            self.remove(path).await?;
        }
        if self.get(&made).await?.is_some() || !self.list(folder).await?.is_empty() {
            return unfit("what was just removed is still there");
        }
        passed.push(Step::Remove);
        Ok(())
    }

    async fn probe_replace(&self, path: &Path, text: &str, base: Option<&Version>) -> Result<Version, StoreError> {
        let mut staged = self.stage()?;
        let place = staged.place();
        std::io::Write::write_all(staged.file(), text.as_bytes()).map_err(|source| StoreError::Io {
            op: "write",
            path: place,
            source,
        })?;
        let ready = self.prepare(path, staged, base, async |_| Ok::<_, StoreError>(())).await?;
        self.complete(ready).await
    }
}
