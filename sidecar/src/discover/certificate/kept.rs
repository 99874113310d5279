//! The file in the data folder where a sidecar that was told to keeps its key and certificate, so
//! that it needs no other token after a restart.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sidelane_identity::kept::{self, KeptError};
use sidelane_identity::{Identity, PrivateKey};
use sidelane_proto::model::NodeId;
use zeroize::Zeroizing;

use super::super::folder::{DataFolder, FolderError, LOCK_FILE};

/// The file's name in the data folder.
const IDENTITY_FILE: &str = "identity.pem";
/// The longest file that is read, in bytes: four certificates and sixteen roots of the longest kind.
const LIMIT: u64 = 1 << 20;

/// Why nothing is taken from the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(
        "{path} has mode {mode:03o}, so others may have read the private key in it: remove it, or \
         chmod 600 {path} if you know that nobody has"
    )]
    Permissions { path: String, mode: u32 },
    #[error(
        "{path} is user {owner}'s, so that user knows the private key in it: remove it, and give \
         another proof"
    )]
    Owner { path: String, owner: u32 },
    #[error("{path} is not used: {error}")]
    Text { path: String, error: KeptError },
}

/// What was kept, whether it holds still or not; `None` where nothing was.
pub(super) fn load(folder: &DataFolder, node: &NodeId) -> Result<Option<Identity>, KeepError> {
    let file = folder.file(IDENTITY_FILE);
    let Some(bytes) = folder.read(IDENTITY_FILE, LIMIT)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let path = file.display().to_string();
    let metadata = |path: &std::path::Path| {
        std::fs::symlink_metadata(path).map_err(|source| FolderError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let found = metadata(&file)?;
    let owner = found.uid();
    // Whoever owns the folder is who this process runs as: it holds the lock in it.
    if owner != metadata(&folder.file(LOCK_FILE))?.uid() {
        return Err(KeepError::Owner { path, owner });
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeepError::Permissions { path, mode });
    }
    let read = kept::from_text(node.as_str(), &bytes);
    read.map(Some)
        .map_err(|error| KeepError::Text { path, error })
}

/// Says in the file what is trusted now, if it holds this certificate: what was kept must not believe
/// a root that is gone, nor miss the one that signs.
pub(super) fn retrust(
    folder: &DataFolder,
    node: &NodeId,
    identity: &Identity,
) -> Result<(), KeepError> {
    let Some(bytes) = folder.read(IDENTITY_FILE, LIMIT)?.map(Zeroizing::new) else {
        return Ok(());
    };
    let text = kept::retrusted(node.as_str(), &bytes, identity);
    let text = text.map_err(|error| KeepError::Text {
        path: folder.file(IDENTITY_FILE).display().to_string(),
        error,
    })?;
    match text {
        Some(text) => Ok(folder.replace(IDENTITY_FILE, text.as_bytes())?),
        None => Ok(()),
    }
}

/// Keeps it, in place of what was kept before.
pub(super) fn store(
    folder: &DataFolder,
    node: &NodeId,
    identity: &Identity,
    key: &PrivateKey,
) -> Result<(), KeepError> {
    let text = kept::to_text(node.as_str(), identity, key);
    Ok(folder.replace(IDENTITY_FILE, text.as_bytes())?)
}
