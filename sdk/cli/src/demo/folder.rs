//! The folder in which a demo keeps its nodes' data and everybody's logs. It goes with the demo,
//! except when the demo has failed: then somebody will want to read the logs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Names that are tried; the first is free unless many demos run at once.
const ATTEMPTS: usize = 100;

/// A folder of one's own, removed when dropped.
pub(super) struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// Makes one where the operating system wants such folders.
    pub(super) fn make() -> io::Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let name = format!(
                "sidelane-demo-{}-{:04x}",
                std::process::id(),
                fastrand::u16(..)
            );
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, kept: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
                Err(error) => {
                    let message = format!("{}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), message));
                }
            }
        }
        Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AlreadyExists)))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It is to stay.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody is left to tell; the operating system clears this place now and then.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_with_its_owner_unless_kept() {
        let folder = Folder::make().unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("a.log"), "text").unwrap();
        drop(folder);
        assert!(!path.exists());

        let mut folder = Folder::make().unwrap();
        let path = folder.path().to_owned();
        folder.keep();
        drop(folder);
        assert!(path.is_dir());
        fs::remove_dir_all(path).unwrap();
    }
}
