//! What only a folder has: names that can be looked at without their contents, and leftovers of a killed process.

use std::fs::File;
use std::path::{Path as FsPath, PathBuf};

use bytes::Bytes;
use object_store::path::Path;

use super::{LOOKS, MAX_SMALL_OBJECT_BYTES, STAGING, Store, StoreError, TOO_LARGE, Version};

impl Store {
    /// Removes what a killed create left half written right below `prefix` of a local store (`NAME#1`, which no listing
    /// shows): whoever calls knows that nobody writes there. Elsewhere a create leaves nothing.
    ///
    /// # Errors
    ///
    /// When one cannot be removed.
    pub fn remove_unfinished(&self, prefix: &Path) -> Result<(), StoreError> {
        let Some(root) = self.root() else { return Ok(()) };
        let folder = root.join(prefix.as_ref());
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.rsplit_once('#')).map(|(_, number)| number);
            if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|source| StoreError::Io { op: "remove", path, source })?;
            }
        }
        Ok(())
    }

    /// Removes the folders that are left of `prefix` once its objects are gone, locally.
    ///
    /// # Errors
    ///
    /// When they cannot be removed.
    pub fn remove_folder(&self, prefix: &Path) -> Result<(), StoreError> {
        let Some(root) = self.root() else { return Ok(()) };
        let folder = root.join(prefix.as_ref());
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Io { op: "remove", path: folder, source: e })
            }
            _ => Ok(()),
        }
    }

    /// Removes the staged files of this owner, which a killed run left: whoever calls holds the owner's lease, so none of
    /// them is being written. Returns how many. Nothing to do elsewhere than locally.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn sweep_staging(&self) -> Result<u64, StoreError> {
        Ok(self.staged()?.iter().map(|path| u64::from(std::fs::remove_file(path).is_ok())).sum())
    }

    /// The staged files of this owner; none elsewhere than locally.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn staged(&self) -> Result<Vec<PathBuf>, StoreError> {
        let Some(root) = self.root() else { return Ok(Vec::new()) };
        let folder = root.join(STAGING);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Io { op: "list", path: folder, source }),
        };
        // No name of a tenant holds a dot, so none begins another's files.
        let prefix = format!("{}.", self.owner);
        let ours = |e: &std::fs::DirEntry| {
            e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)) && e.file_type().is_ok_and(|t| t.is_file())
        };
        Ok(entries.flatten().filter(ours).map(|e| e.path()).collect())
    }
}

/// Makes a folder, and those above it, so that a power cut does not take them back with all that they hold by then.
pub(super) fn make_folder(folder: &FsPath) -> std::io::Result<()> {
    let missing: Vec<&FsPath> = folder.ancestors().take_while(|f| !f.as_os_str().is_empty() && !f.exists()).collect();
    std::fs::create_dir_all(folder)?;
    #[cfg(unix)]
    for new in missing {
        // Its name stands in the folder above it. One that may be written to and not opened cannot be synced.
        let above = new.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(FsPath::new("."));
        if let Ok(above) = File::open(above) {
            above.sync_all()?;
        }
    }
    Ok(())
}

/// The names of the folders in `folder`, without a look at what they hold.
pub(super) fn folders_of(folder: &FsPath) -> std::io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string();
        // A link to a folder is one too.
        let kind = entry.file_type()?;
        if let Ok(name) = name
            && (kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()))
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The first by name of the files in `folder` whose name `ours` takes.
pub(super) fn first_of(folder: &FsPath, ours: fn(&str) -> bool) -> std::io::Result<Option<(String, Bytes)>> {
    let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    for _ in 0..LOOKS {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut first: Option<String> = None;
        for entry in entries {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if ours(&name) && first.as_ref().is_none_or(|f| name < *f) {
                first = Some(name);
            }
        }
        let Some(name) = first else { return Ok(None) };
        let mut bytes = Vec::new();
        match File::open(folder.join(&name)) {
            Ok(file) => {
                std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_SMALL_OBJECT_BYTES + 1), &mut bytes)?;
                if bytes.len() as u64 > MAX_SMALL_OBJECT_BYTES {
                    return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, TOO_LARGE));
                }
                return Ok(Some((name, bytes.into())));
            }
            // It may be swept between the listing and the reading.
            Err(e) if absent(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Err(std::io::Error::other(format!("the newest was listed {LOOKS} times and could not be read once")))
}

pub(super) fn version_of(meta: &std::fs::Metadata) -> Version {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        // As object_store builds its tags: a replaced file has another inode.
        let e_tag = format!("{:x}-{:x}-{:x}", meta.ino(), meta.mtime_nsec() + meta.mtime() * 1_000_000_000, meta.len());
        Version { e_tag: Some(e_tag), version: None, bytes: meta.len(), fence: None }
    }
    #[cfg(not(unix))]
    Version { e_tag: None, version: None, bytes: meta.len(), fence: None }
}
