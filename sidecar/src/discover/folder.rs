//! The data folder: what a sidecar keeps between two runs. One process at a time, files that only
//! its owner can read, and a file is replaced whole or not at all. All of it blocks, so it is
//! called before the runtime matters, or on its blocking pool.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder's mode: identities will live here, too.
const FOLDER_MODE: u32 = 0o700;
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
        let file = path.join("lock");
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
        let read = |file: File| {
            let mut bytes = Vec::new();
            file.take(limit).read_to_end(&mut bytes).map(|_| bytes)
        };
        match File::open(&path).and_then(read) {
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
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
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
