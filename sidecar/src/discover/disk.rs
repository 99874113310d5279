//! The last good picture of the mesh on disk, from which a sidecar starts when control is away. A
//! file that is torn, foreign or from a newer build is named and ignored: it must never stop a
//! start, and never be believed.
//!
//! The file: 8 bytes of magic, the format's version (u16), the length of the network's name (u16)
//! and the name, the length of the body (u64), the SHA-256 of all before it and of the body, the
//! body (a `sidelane.control.v1.Update` of whole states). Numbers are big-endian.
//!
//! The update is `full` where the picture can be resumed from. One that is held after a refusal is
//! kept, too, because it is the newest there is to start from; but it is not of one version, so it
//! is kept without `full`, and whoever starts from it asks control for everything.

use std::path::PathBuf;

use prost::Message;
use sha2::{Digest, Sha256};
use sidelane_proto::model::{FieldError, Network, Update};
use sidelane_proto::wire::control::v1 as wire;

use super::folder::{DataFolder, FolderError};
use super::held::Held;

/// The file's name in the data folder.
pub const SNAPSHOT_FILE: &str = "snapshot";
/// The largest file that is written or read: what control can send in one message.
pub const SNAPSHOT_LIMIT: usize = 64 << 20;
const MAGIC: &[u8; 8] = b"SLNSNAP\n";
/// Version 1 is the first.
const FORMAT: u16 = 1;
const CHECKSUM_LENGTH: usize = 32;

/// Why a snapshot file was not used. Each ends with what becomes of the file.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is there and cannot be read.
    #[error("{0}; starting without a snapshot")]
    Folder(#[from] FolderError),
    /// Written only in part, or damaged since.
    #[error("`{path}` is torn: {detail}; it is ignored, and replaced at the next save")]
    Torn {
        /// The file.
        path: PathBuf,
        /// What does not add up.
        detail: String,
    },
    /// Not a snapshot at all.
    #[error("`{path}` is not a snapshot of Sidelane; it is ignored, and replaced at the next save")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A picture of another mesh.
    #[error(
        "`{path}` is a snapshot of network `{found}`, this sidecar is in `{own}`; it is ignored, \
         and replaced at the next save"
    )]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// Its network.
        found: String,
        /// Ours.
        own: Network,
    },
    /// Written by a newer build.
    #[error(
        "`{path}` has format {format}, this build reads up to {FORMAT}; it is ignored, and \
         replaced at the next save"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u16,
    },
    /// Whole, but what it says is not allowed.
    #[error("`{path}` is not valid: {problem}; it is ignored, and replaced at the next save")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        problem: Box<FieldError>,
    },
}

/// Why a snapshot was not written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The disk does not take it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// More than would be read again.
    #[error("the snapshot has {length} bytes, at most {SNAPSHOT_LIMIT} are kept on disk")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
}

/// Reads the last good picture; `None` if none was kept. Blocks.
///
/// # Errors
/// There is a file, and it cannot be used: to be logged, and then ignored.
pub fn load(folder: &DataFolder, network: &Network) -> Result<Option<Held>, SnapshotError> {
    let limit = SNAPSHOT_LIMIT as u64 + 1;
    match folder.read(SNAPSHOT_FILE, limit)? {
        Some(bytes) => decode(&bytes, network, folder.file(SNAPSHOT_FILE)).map(Some),
        None => Ok(None),
    }
}

/// Writes the picture, whole or not at all. Blocks. Nothing is written before the first update.
///
/// # Errors
/// The disk does not take it, or it is too large.
pub fn save(folder: &DataFolder, network: &Network, held: &Held) -> Result<(), SaveError> {
    let Some(update) = held.to_wire() else {
        return Ok(());
    };
    let bytes = encode(&update, network);
    if bytes.len() > SNAPSHOT_LIMIT {
        let length = bytes.len();
        return Err(SaveError::TooLarge { length });
    }
    Ok(folder.replace(SNAPSHOT_FILE, &bytes)?)
}

pub(super) fn encode(update: &wire::Update, network: &Network) -> Vec<u8> {
    seal(&update.encode_to_vec(), network)
}

fn seal(body: &[u8], network: &Network) -> Vec<u8> {
    let name = network.as_str().as_bytes();
    let mut bytes =
        Vec::with_capacity(MAGIC.len() + 12 + name.len() + CHECKSUM_LENGTH + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    // A network's name has at most 253 bytes, by its type.
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    let checksum = checksum(&bytes, body);
    bytes.extend_from_slice(&checksum);
    bytes.extend_from_slice(body);
    bytes
}

/// A file of a network with any body, whose checksum is right.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[must_use]
pub fn sealed(body: &[u8], network: &Network) -> Vec<u8> {
    seal(body, network)
}

/// Reads a file's bytes.
///
/// # Errors
/// As [`load`].
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn read(bytes: &[u8], own: &Network) -> Result<Held, SnapshotError> {
    decode(bytes, own, PathBuf::from(SNAPSHOT_FILE))
}

fn decode(bytes: &[u8], own: &Network, path: PathBuf) -> Result<Held, SnapshotError> {
    let Some(rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return Err(SnapshotError::Foreign { path });
    };
    let torn = |detail: &str| SnapshotError::Torn {
        path: path.clone(),
        detail: detail.to_owned(),
    };
    let header_ends = || torn("it ends within its header");
    let (format, rest) = rest.split_first_chunk().ok_or_else(header_ends)?;
    let format = u16::from_be_bytes(*format);
    if format > FORMAT {
        return Err(SnapshotError::NewerFormat { path, format });
    }
    let (length, rest) = rest.split_first_chunk().ok_or_else(header_ends)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (name, rest) = rest.split_at_checked(length).ok_or_else(header_ends)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(header_ends)?;
    let length = u64::from_be_bytes(*length);
    let header = &bytes[..bytes.len() - rest.len()];
    let (given, body) = rest
        .split_first_chunk::<CHECKSUM_LENGTH>()
        .ok_or_else(header_ends)?;
    if body.len() as u64 != length {
        let detail = format!("its body has {} bytes, {length} were written", body.len());
        return Err(torn(&detail));
    }
    if checksum(header, body) != *given {
        return Err(torn("its checksum does not match"));
    }
    if name != own.as_str().as_bytes() {
        return Err(SnapshotError::OtherNetwork {
            found: String::from_utf8_lossy(name).into_owned(),
            own: own.clone(),
            path,
        });
    }
    let update = wire::Update::decode(body)
        .map_err(|error| torn(&format!("its body is not an update ({error})")))?;
    let whole = update.full;
    let mut held = Held::default();
    Update::try_from(update)
        .and_then(|update| held.apply(update))
        .map_err(|problem| SnapshotError::Invalid {
            path,
            problem: Box::new(problem),
        })?;
    if !whole {
        held.refuse([]);
    }
    Ok(held)
}

fn checksum(header: &[u8], body: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut hash = Sha256::new();
    hash.update(header);
    hash.update(body);
    hash.finalize().into()
}
