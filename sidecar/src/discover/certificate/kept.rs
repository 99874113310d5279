//! The file in the data folder where a sidecar that was told to keeps its key and certificate, so
//! that it needs no other token after a restart.

use std::os::unix::fs::PermissionsExt;

use sidelane_identity::kept::{self, KeptError};
use sidelane_identity::{Identity, PrivateKey};
use sidelane_proto::model::NodeId;
use zeroize::Zeroizing;

use super::super::folder::{DataFolder, FolderError};

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
    let found = std::fs::metadata(&file).map_err(|source| FolderError::Read {
        path: file.clone(),
        source,
    })?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeepError::Permissions { path, mode });
    }
    let read = kept::from_text(node.as_str(), &bytes);
    read.map(Some)
        .map_err(|error| KeepError::Text { path, error })
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
