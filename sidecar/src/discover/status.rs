//! What the sidecar knows about its control stream: for `/readyz`, `/config`, metrics, and for
//! those who wait for an answer. A reader of this can see the last error, and never has to ask
//! control.

use std::time::SystemTime;

use sidelane_proto::model::{FieldError, Generation, RefusedRule, Version};

/// The control stream and the picture that came over it, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How the control stream is.
    pub state: State,
    /// The version held; `None` where nothing is.
    pub version: Option<Version>,
    /// Where the newest part of the picture came from.
    pub source: Source,
    /// When control last gave an update that was taken.
    pub updated: Option<SystemTime>,
    /// The newest update that was refused, until control has said something good of every service
    /// that was refused.
    pub refused_update: Option<RefusedUpdate>,
    /// How many pushed rules are held.
    pub rules: usize,
    /// The pushed rules that are refused, in the order of their services; of each the last good one
    /// stays.
    pub refused_rules: Vec<RefusedRule>,
    /// The generation that this node says it has.
    pub generation: Generation,
    /// The highest generation of this node that control has seen, as Welcome said.
    pub highest_generation: Option<Generation>,
    /// The version that this process has put on disk.
    pub saved: Option<Version>,
    /// Why the picture could not be kept on disk; `None` after it was.
    pub disk_error: Option<String>,
    /// Grows each time control has answered about services.
    pub answers: u64,
}

/// How the control stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not connected. Tried again, at most a few seconds apart.
    Connecting {
        /// What went wrong last; `None` while the first attempt is under way.
        last_error: Option<String>,
    },
    /// Taken in by control.
    Connected {
        /// The address, as it was configured.
        address: String,
        /// Since when.
        since: SystemTime,
        /// Control's build.
        build: String,
    },
    /// Control does not take this node in, and coming again would not help.
    Refused {
        /// The machine-readable reason.
        reason: String,
        /// For people.
        text: String,
    },
    /// A newer generation of this node is alive; this process must not come back.
    Superseded {
        /// The newer generation.
        generation: u64,
        /// For people.
        text: String,
    },
    /// Goodbye was said.
    Left,
}

/// Where a picture of the mesh came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// There is none yet.
    None,
    /// The file in the data folder: what was true when this sidecar last ran.
    Disk,
    /// The control plane.
    Control,
}

impl Source {
    /// The word for people and for `/config`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Disk => "disk",
            Self::Control => "control",
        }
    }
}

/// An update that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedUpdate {
    /// Its version, if that much could be read.
    pub version: Option<Version>,
    /// What is wrong with it.
    pub error: FieldError,
}

/// How often things happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Streams that were welcomed.
    pub connected: u64,
    /// Attempts and streams that failed.
    pub failed: u64,
    /// Updates taken.
    pub updates: u64,
    /// Updates refused.
    pub refused_updates: u64,
    /// Rules refused.
    pub refused_rules: u64,
    /// Subscriptions refused because too many are wanted already.
    pub refused_subscriptions: u64,
    /// Times that the picture was written to disk.
    pub saved: u64,
    /// Times that it could not be written.
    pub save_failures: u64,
}
