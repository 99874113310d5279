//! The store: what must survive a restart. Membership comes back as suspect, the version counter
//! never goes back, services stay known as seen, generations stay known as highest, rules stay
//! applied. The registry hands each version to [`WriteBehind`], which never makes it wait; where the
//! data goes is behind the trait [`Store`]. A store that fails is written to again later, and
//! control goes on without. Rules alone are on disk before anybody hears of them ([`Ahead`]): a
//! person waits for the answer, and what was answered must hold.

mod embedded;
mod format;
mod secret;
mod write_behind;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use sidelane_proto::model::{Generation, Network, PushedRule, ServiceName};

use crate::registry::{AppliedRule, NodeKey, NodeRecord};

pub use embedded::Embedded;
pub use secret::Secret;
pub use write_behind::{Ahead, PENDING_LIMIT, RETRY, StoreStatus, WriteBehind};

/// Where data is kept.
pub trait Store: Send {
    /// Makes all of it durable, or nothing. May block.
    ///
    /// # Errors
    /// What the disk says. The same writes are tried again later.
    fn commit(&mut self, writes: &Writes) -> Result<(), StoreError>;
}

/// What a store held when it was opened.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Which store it is; made at random, once.
    pub store_id: Arc<str>,
    /// Higher than every version that was ever published.
    pub version: u64,
    /// The nodes that were registered.
    pub nodes: Vec<Arc<NodeRecord>>,
    /// The highest generation of each node, those that left included.
    pub generations: Vec<(NodeKey, Generation)>,
    /// Services that were seen.
    pub services: Vec<(Network, ServiceName)>,
    /// Rules that are applied, and those that were taken back.
    pub rules: Vec<AppliedRule>,
    /// Of other rules, nothing is known before this version.
    pub rules_floor: u64,
    /// What the certificate authority kept.
    pub authority: Vec<(String, Secret)>,
}

/// What is to be written. Later writes of the same key replace earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// No version above this one was published.
    pub counter: Option<u64>,
    /// Nodes as they are; `None`: gone.
    pub nodes: HashMap<NodeKey, Option<Arc<NodeRecord>>>,
    /// Highest generations.
    pub generations: HashMap<NodeKey, Generation>,
    /// Services that were seen, and in which version first.
    pub services: HashMap<(Network, ServiceName), u64>,
    /// Rules, and the version that brought each; 0 where that is still to come.
    pub rules: HashMap<(Network, ServiceName), KeptRule>,
    /// What was taken back before this version is forgotten.
    pub rules_floor: Option<u64>,
    /// Of the certificate authority; `None`: gone.
    pub authority: HashMap<String, Option<Secret>>,
}

/// The version that brought it, and the rule; `None` where it was taken back.
pub type KeptRule = (u64, Option<Arc<PushedRule>>);

impl Writes {
    /// Is there nothing to write?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counter.is_none()
            && self.nodes.is_empty()
            && self.generations.is_empty()
            && self.services.is_empty()
            && self.rules.is_empty()
            && self.authority.is_empty()
    }

    /// Puts later writes on top of these.
    pub fn merge(&mut self, later: Self) {
        self.counter = later.counter.or(self.counter);
        self.nodes.extend(later.nodes);
        self.generations.extend(later.generations);
        self.services.extend(later.services);
        self.rules.extend(later.rules);
        self.rules_floor = later.rules_floor.or(self.rules_floor);
        self.authority.extend(later.authority);
    }
}

/// A store that cannot be opened, or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error(
        "the store {path} is in use by another control plane ({holder}); stop that one, or give \
         this one a folder of its own with --data"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The other process, as far as it said who it is.
        holder: String,
    },
    /// It was written by a newer program.
    #[error(
        "the store {path} has format {found}, and this build reads up to format {known}; start the \
         newer build that wrote it, or another folder with --data"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
    /// It is no store.
    #[error(
        "{path} is not a store of Sidelane's control plane, and is left as it is; move it away, or \
         choose another folder with --data"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is a store, and damaged.
    #[error(
        "the store {path} is damaged, and is left as it is: {reason}; restore it from a backup, or \
         move it away to start empty: sidecars then register again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Others may read it.
    #[error(
        "the store {path} can be read by other users (mode {mode:03o}), and what is in it, control's \
         private keys among it, is for one alone: forbid that with `chmod 600 {path}`"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The folder cannot be used.
    #[error("cannot use {path} as --data says: {reason}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        reason: std::io::Error,
    },
    /// It cannot be written.
    #[error("the store {path} cannot be written: {reason}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system or the database said.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
