//! The output folder. A file that would not change is not touched, so that what is built from it
//! is not built again; one that an earlier build wrote and this one does not is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Errors};

/// The names of what the last build wrote, one a line.
const WRITTEN: &str = "sidelane_files.txt";

/// Makes the folder hold these files, and tells their paths.
pub(super) fn write(
    out: &Path,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeSet<PathBuf>, Errors> {
    let failed = |path: &Path, error: io::Error| {
        Errors::from(Error::new(format!(
            "{} cannot be written: {error}",
            path.display()
        )))
    };
    fs::create_dir_all(out).map_err(|error| failed(out, error))?;
    let list = out.join(WRITTEN);
    for name in fs::read_to_string(&list).unwrap_or_default().lines() {
        let path = out.join(name);
        if !files.contains_key(name) && path.exists() {
            fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        }
    }
    let mut written = BTreeSet::new();
    let mut names = String::new();
    for (name, content) in files {
        let path = out.join(name);
        change(&path, content).map_err(|error| failed(&path, error))?;
        names.push_str(name);
        names.push('\n');
        written.insert(path);
    }
    change(&list, names.as_bytes()).map_err(|error| failed(&list, error))?;
    Ok(written)
}

fn change(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::read(path) {
        Ok(before) if before == content => Ok(()),
        _ => fs::write(path, content),
    }
}
