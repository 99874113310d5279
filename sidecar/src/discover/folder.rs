//! The data folder: what a sidecar keeps between two runs. One process at a time, files that only
//! its owner can read, and a file is replaced whole or not at all. All of it blocks, so it is
//! called before the runtime matters, or on its blocking pool.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder's mode: identities will live here, too.
const FOLDER_MODE: u32 = 0o700;
/// The file that says whose the folder is at the moment.
pub(super) const LOCK_FILE: &str = "lock";
/// The mode of each file.
const FILE_MODE: u32 = 0o600;

/// A folder that this process has for itself.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// What is wrong with a data folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is not there and cannot be made.
    #[error("the data folder `{path}` cannot be made: {source}; name another with --data")]
    Create {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data folder `{path}` is in use by another sidecar ({holder}); give each its own --data"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it, as far as known.
        holder: String,
    },
    /// A file in it cannot be read.
    #[error("`{path}` cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file in it cannot be written.
    #[error("`{path}` cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DataFolder {
    /// Makes the folder if it is not there, and takes it for this process until the value is
    /// dropped (or the process ends, however it ends).
    ///
    /// # Errors
    /// The folder cannot be made or written, or another process has it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let path = path.into();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&path);
        if let Err(source) = made {
            return Err(FolderError::Create { path, source });
        }
        let file = path.join(LOCK_FILE);
        let failed = |source| FolderError::Write {
            path: file.clone(),
            source,
        };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&file)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut lock);
                return Err(FolderError::InUse { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // For the text of somebody else's error only, so a full disk does not matter here.
        let _ = lock
            .set_len(0)
            .and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where one of its files is.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file, at most `limit` bytes of it; `None` if there is no such file.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FolderError> {
        let path = self.file(name);
        let read = || {
            // What is opened there must not be waited for, nor lie elsewhere.
            let found = std::fs::symlink_metadata(&path)?;
            if !found.is_file() {
                return Err(io::Error::other("it is no plain file; remove it"));
            }
            // Grown at once, so that what may be a key is not copied on the way.
            let room = usize::try_from(found.len().min(limit)).unwrap_or_default();
            let mut bytes = Vec::with_capacity(room + 1);
            let read = File::open(&path)?.take(limit).read_to_end(&mut bytes);
            read.map(|_| bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FolderError::Read { path, source }),
        }
    }

    /// Replaces a file: whoever reads it, also after a power cut, finds the old content or the
    /// new one. Returns when the new one is on the disk.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), FolderError> {
        let path = self.file(name);
        let draft = self.file(&format!("{name}.new"));
        let write = || {
            // A draft that is there already may be a link to somewhere, or open to others.
            match std::fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)?;
            // The rename itself is on the disk only once the folder is.
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| FolderError::Write {
            path: path.clone(),
            source,
        })
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    // A process id has at most 10 digits.
    match lock.take(10).read_to_string(&mut text) {
        Ok(_) if !text.is_empty() => format!("process {text}"),
        _ => "process unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_link_in_the_drafts_place_is_not_followed_and_its_mode_is_ours() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(temporary.path().join("data")).unwrap();
        let bait = temporary.path().join("bait");
        std::fs::write(&bait, b"bait").unwrap();
        std::os::unix::fs::symlink(&bait, folder.file("a.new")).unwrap();
        folder.replace("a", b"one").unwrap();
        assert_eq!(std::fs::read(&bait).unwrap(), b"bait");
        std::fs::write(folder.file("b.new"), b"left").unwrap();
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(folder.file("b.new"), open).unwrap();
        folder.replace("b", b"two").unwrap();
        for name in ["a", "b"] {
            let found = std::fs::symlink_metadata(folder.file(name)).unwrap();
            assert!(found.is_file() && found.permissions().mode() & 0o777 == FILE_MODE);
        }
    }

    #[test]
    fn what_is_no_plain_file_is_refused_and_nobody_waits_for_it() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(temporary.path().join("data")).unwrap();
        std::fs::create_dir(folder.file("a")).unwrap();
        let elsewhere = temporary.path().join("elsewhere");
        std::fs::write(&elsewhere, b"x").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.file("b")).unwrap();
        let pipe = std::process::Command::new("mkfifo")
            .arg(folder.file("c"))
            .status();
        let pipes = pipe.is_ok_and(|made| made.success());
        for name in ["a", "b", "c"].into_iter().take(if pipes { 3 } else { 2 }) {
            let error = folder.read(name, 9).unwrap_err().to_string();
            assert!(error.contains("no plain file"), "{name}: {error}");
        }
    }
}
