//! The snapshot file: what is written is read, and each way to be wrong has its text.

use super::disk::{SNAPSHOT_FILE, load, save};
use super::*;

struct Kept {
    folder: DataFolder,
    directory: tempfile::TempDir,
    held: Held,
}

/// A folder in which a picture was saved.
fn kept() -> Kept {
    let directory = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(directory.path()).unwrap();
    let mut held = Held::default();
    let endpoints = vec![endpoint(&orders(), "a", 1), endpoint(&orders(), "b", 2)];
    held.apply(full(10, vec![state(&orders(), endpoints)]))
        .unwrap();
    save(&folder, &network(), &held).unwrap();
    Kept {
        folder,
        directory,
        held,
    }
}

impl Kept {
    /// The error after the file's bytes were changed, with the path taken out.
    fn spoiled(&self, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let path = self.directory.path().join(SNAPSHOT_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let error = load(&self.folder, &network()).unwrap_err().to_string();
        error.replace(path.to_str().unwrap(), "PATH")
    }
}

#[test]
fn a_picture_survives_the_disk() {
    let kept = kept();
    let loaded = load(&kept.folder, &network()).unwrap();
    assert_eq!(loaded, Some(kept.held));
}

#[test]
fn no_file_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(directory.path()).unwrap();
    assert_eq!(load(&folder, &network()).unwrap(), None);
    // Nothing is written before there is something to write.
    save(&folder, &network(), &Held::default()).unwrap();
    assert_eq!(load(&folder, &network()).unwrap(), None);
}

#[test]
fn a_torn_file_is_named_wherever_it_is_torn() {
    let kept = kept();
    let whole = std::fs::read(kept.folder.file(SNAPSHOT_FILE)).unwrap();
    for end in 0..whole.len() {
        let error = kept.spoiled(|bytes| *bytes = whole[..end].to_vec());
        let known = match end {
            0..8 => "`PATH` is not a snapshot of Sidelane;".to_owned(),
            8..56 => "`PATH` is torn: it ends within its header;".to_owned(),
            _ => format!(
                "`PATH` is torn: its body has {} bytes, {} were written;",
                end - 56,
                whole.len() - 56
            ),
        };
        let expected = format!("{known} it is ignored, and replaced at the next save");
        assert_eq!(error, expected, "{end}");
    }
}

#[test]
fn a_damaged_file_is_told_by_its_checksum() {
    for flipped in [12, 30, 60] {
        let error = kept().spoiled(|bytes| bytes[flipped] ^= 1);
        assert_eq!(
            error,
            "`PATH` is torn: its checksum does not match; it is ignored, and replaced at the next \
             save"
        );
    }
}

#[test]
fn a_file_that_is_something_else_is_foreign() {
    let error = kept().spoiled(|bytes| *bytes = b"PK\x03\x04 a zip file".to_vec());
    assert_eq!(
        error,
        "`PATH` is not a snapshot of Sidelane; it is ignored, and replaced at the next save"
    );
}

#[test]
fn a_picture_of_another_mesh_is_foreign() {
    let kept = kept();
    let other = Network::new("production").unwrap();
    let error = load(&kept.folder, &other).unwrap_err().to_string();
    let path = kept.folder.file(SNAPSHOT_FILE);
    assert_eq!(
        error,
        format!(
            "`{}` is a snapshot of network `test`, this sidecar is in `production`; it is \
             ignored, and replaced at the next save",
            path.display()
        )
    );
    save(&kept.folder, &other, &kept.held).unwrap();
    assert_eq!(load(&kept.folder, &other).unwrap(), Some(kept.held));
}

#[test]
fn a_newer_format_is_named() {
    let error = kept().spoiled(|bytes| bytes[9] = 2);
    assert_eq!(
        error,
        "`PATH` has format 2, this build reads up to 1; it is ignored, and replaced at the next \
         save"
    );
}

#[test]
fn a_whole_file_with_a_wrong_field_is_not_believed() {
    let kept = kept();
    let mut update = kept.held.to_wire().unwrap();
    update.services[0].endpoints[1].generation = 0;
    let bytes = disk::encode(&update, &network());
    let error = kept.spoiled(|file| *file = bytes);
    assert_eq!(
        error,
        "`PATH` is not valid: services[0].endpoints[1].generation is missing; it is ignored, and \
         replaced at the next save"
    );
}

#[test]
fn a_folder_that_cannot_be_read_is_an_error_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(directory.path()).unwrap();
    let path = folder.file(SNAPSHOT_FILE);
    std::fs::create_dir(&path).unwrap();
    let error = load(&folder, &network()).unwrap_err().to_string();
    let expected = format!(
        "`{}` cannot be read: it is no plain file; remove it; starting without a snapshot",
        path.display()
    );
    assert_eq!(error, expected);
}
