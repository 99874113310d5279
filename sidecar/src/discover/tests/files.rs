//! The data folder: nobody else's, one process's, and whole files only.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_folder_and_its_files_are_the_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/state");
    let folder = DataFolder::open(&path).unwrap();
    folder.replace("note", b"text").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.clone()), 0o700);
    assert_eq!(mode(path.join("lock")), 0o600);
    assert_eq!(mode(path.join("note")), 0o600);
}

#[test]
fn two_sidecars_cannot_have_one_folder() {
    let directory = tempfile::tempdir().unwrap();
    let first = DataFolder::open(directory.path()).unwrap();
    let error = DataFolder::open(directory.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the data folder `{}` is in use by another sidecar (process {}); give each its own \
             --data",
            directory.path().display(),
            std::process::id()
        )
    );
    drop(first);
    DataFolder::open(directory.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "").unwrap();
    let error = DataFolder::open(path.join("state")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the data folder `{}` cannot be made: Not a directory (os error 20); name another \
             with --data",
            path.join("state").display()
        )
    );
}

#[test]
fn a_file_is_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(directory.path()).unwrap();
    folder.replace("note", b"a long first text").unwrap();
    folder.replace("note", b"short").unwrap();
    assert_eq!(folder.read("note", 100).unwrap().unwrap(), b"short");
    // A draft left behind by a crash is in nobody's way.
    std::fs::write(directory.path().join("note.new"), "half").unwrap();
    assert_eq!(folder.read("note", 100).unwrap().unwrap(), b"short");
    folder.replace("note", b"next").unwrap();
    assert_eq!(folder.read("note", 100).unwrap().unwrap(), b"next");
}
