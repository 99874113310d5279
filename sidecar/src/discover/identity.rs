//! Who this process is: a node id that stays, a generation that grows with each start, and an
//! instance id that is new each time. Made before anything is said to anybody. A generation is
//! never used before it is on the disk, else a crash could bring it back.

use std::io;
use std::path::PathBuf;

use sidelane_proto::model::{FieldError, Generation, InstanceId, NodeId};

use super::folder::{DataFolder, FolderError};

/// The file with the node id that was made.
const NODE_FILE: &str = "node";
/// The file with the newest generation used.
const GENERATION_FILE: &str = "generation";
/// A node id and a generation are shorter than this.
const FILE_LIMIT: u64 = 1024;
/// How much of a host's name goes into a node id: the rest of the limit is for the random part.
const HOST_PART_LIMIT: usize = 200;

/// Who this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's name.
    pub node: NodeId,
    /// Its generation.
    pub generation: Generation,
    /// This process.
    pub instance: InstanceId,
}

/// Why there is no node id.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The kept node id cannot be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The kept node id is not one.
    #[error("`{path}` holds no node id: {problem}; correct it, remove it, or give --node")]
    KeptNode {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        problem: Box<FieldError>,
    },
    /// A random name turned out malformed: cannot be, short of a defect.
    #[error("no name could be made for this process: {0}")]
    Made(#[from] FieldError),
}

/// Why the generation could not be kept as it should. The clock stands in for it: fine unless the
/// clock goes back before the next start.
#[derive(Debug, thiserror::Error)]
pub enum GenerationWarning {
    /// It cannot be read or written.
    #[error("{0}; the generation follows the clock alone until that is mended")]
    Folder(#[from] FolderError),
    /// The file holds something else.
    #[error("`{path}` holds no generation but `{found}`; it is ignored and replaced")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its content.
        found: String,
    },
}

impl NodeIdentity {
    /// Takes the node id that was given, or the one that was kept, or makes one and keeps it;
    /// the generation after the kept one, by the clock `unix_ms`; and a new instance id. What
    /// could not be kept is told, and is no reason to stop.
    ///
    /// # Errors
    /// The kept node id is unreadable. Another is not made: the kept one may be known to others.
    pub fn take(
        folder: Option<&DataFolder>,
        given: Option<NodeId>,
        unix_ms: u64,
    ) -> Result<(Self, Vec<GenerationWarning>), IdentityError> {
        let mut warnings = Vec::new();
        let node = match (given, folder) {
            (Some(node), _) => node,
            (None, None) => made_node()?,
            (None, Some(folder)) => match kept_node(folder)? {
                Some(node) => node,
                None => {
                    let node = made_node()?;
                    let kept = folder.replace(NODE_FILE, node.as_str().as_bytes());
                    warnings.extend(kept.err().map(GenerationWarning::Folder));
                    node
                }
            },
        };
        let generation = match folder {
            None => Generation::next(None, unix_ms),
            Some(folder) => {
                let (generation, problems) = next_generation(folder, unix_ms);
                warnings.extend(problems);
                generation
            }
        };
        let instance = InstanceId::new(&format!("{:016x}", fastrand::u64(..)))?;
        let identity = Self {
            node,
            generation,
            instance,
        };
        Ok((identity, warnings))
    }
}

/// Puts a generation on the disk.
pub(super) fn keep_generation(
    folder: &DataFolder,
    generation: Generation,
) -> Result<(), FolderError> {
    folder.replace(GENERATION_FILE, generation.to_string().as_bytes())
}

fn next_generation(folder: &DataFolder, unix_ms: u64) -> (Generation, Vec<GenerationWarning>) {
    let mut warnings = Vec::new();
    let kept = match folder.read(GENERATION_FILE, FILE_LIMIT) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            let kept = text.trim().parse().ok().and_then(Generation::new);
            if kept.is_none() {
                warnings.push(GenerationWarning::Malformed {
                    path: folder.file(GENERATION_FILE),
                    found: text.chars().take(32).collect(),
                });
            }
            kept
        }
        Ok(None) => None,
        Err(error) => {
            warnings.push(error.into());
            None
        }
    };
    let generation = Generation::next(kept, unix_ms);
    warnings.extend(keep_generation(folder, generation).err().map(Into::into));
    (generation, warnings)
}

fn kept_node(folder: &DataFolder) -> Result<Option<NodeId>, IdentityError> {
    let Some(bytes) = folder.read(NODE_FILE, FILE_LIMIT)? else {
        return Ok(None);
    };
    let kept = NodeId::new(String::from_utf8_lossy(&bytes).trim());
    kept.map(Some).map_err(|problem| IdentityError::KeptNode {
        path: folder.file(NODE_FILE),
        problem: Box::new(problem),
    })
}

fn made_node() -> Result<NodeId, FieldError> {
    let host = host_name().unwrap_or_default();
    NodeId::new(&node_name(&host, fastrand::u32(..)))
}

/// `<host>-<8 hex digits>`; `node` stands in for a host without a usable name.
pub(super) fn node_name(host: &str, random: u32) -> String {
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let host: String = host.chars().filter(plain).take(HOST_PART_LIMIT).collect();
    let host = if host.is_empty() { "node" } else { &host };
    format!("{host}-{random:08x}")
}

/// The host's name as Linux, or failing that the system's configuration, has it.
fn host_name() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .map(|name| name.trim().to_owned())
}
