//! What push counts, for the metrics page. Each figure is a plain atomic: sessions add, the page
//! reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why a claim was refused: the closed set of reasons that a Refusal carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The first message did not come in time, or was no Hello.
    NoHello,
    /// A field of the Hello is wrong.
    InvalidHello,
    /// No version of the protocol is spoken by both.
    ProtocolMismatch,
    /// A newer generation of the node is known.
    StaleGeneration,
    /// Somebody else is this node, and alive.
    AlreadyExists,
    /// A bound of the control plane is reached.
    ControlFull,
    /// The control plane did not decide in time.
    Overloaded,
    /// The control plane is stopping.
    ShuttingDown,
    /// The certificate is not that of the node or identity that the Hello names.
    NotTheIdentity,
    /// The certificate was revoked since its connection was opened.
    Revoked,
}

impl RefusalReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoHello,
        Self::InvalidHello,
        Self::ProtocolMismatch,
        Self::StaleGeneration,
        Self::AlreadyExists,
        Self::ControlFull,
        Self::Overloaded,
        Self::ShuttingDown,
        Self::NotTheIdentity,
        Self::Revoked,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoHello => "NO_HELLO",
            Self::InvalidHello => "INVALID_HELLO",
            Self::ProtocolMismatch => "PROTOCOL_MISMATCH",
            Self::StaleGeneration => "STALE_GENERATION",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::ControlFull => "CONTROL_FULL",
            Self::Overloaded => "OVERLOADED",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::NotTheIdentity => "NOT_THE_IDENTITY",
            Self::Revoked => "REVOKED",
        }
    }

    /// Can it help to come again later, as one is? Others leave, control is replaced by a newer
    /// build; but a generation does not become newer, nor a wrong field right.
    #[must_use]
    pub const fn retry(self) -> bool {
        !matches!(self, Self::InvalidHello | Self::StaleGeneration)
    }
}

/// Figures of all sessions since the start.
#[derive(Debug, Default)]
pub struct Counters {
    updates: AtomicU64,
    coalesced: AtomicU64,
    acks: AtomicU64,
    ack_microseconds: AtomicU64,
    nacks: AtomicU64,
    rule_refusals: AtomicU64,
    refusals: [AtomicU64; RefusalReason::ALL.len()],
}

impl Counters {
    /// Updates sent.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Times that something changed for a session which had not answered the update before, and so
    /// was told of it with what else came.
    #[must_use]
    pub fn coalesced_changes(&self) -> u64 {
        self.coalesced.load(Ordering::Relaxed)
    }

    /// The time from an update to its answer, of all that were taken together.
    #[must_use]
    pub fn waited_for_acks(&self) -> Duration {
        Duration::from_micros(self.ack_microseconds.load(Ordering::Relaxed))
    }

    /// Updates taken.
    #[must_use]
    pub fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// Updates refused.
    #[must_use]
    pub fn nacks(&self) -> u64 {
        self.nacks.load(Ordering::Relaxed)
    }

    /// Rules refused, in updates that were taken.
    #[must_use]
    pub fn rule_refusals(&self) -> u64 {
        self.rule_refusals.load(Ordering::Relaxed)
    }

    /// Claims refused for this reason.
    #[must_use]
    pub fn refusals(&self, reason: RefusalReason) -> u64 {
        self.refusals[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn update(&self) {
        self.updates.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn coalesced(&self) {
        self.coalesced.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ack(&self, waited: Duration) {
        self.acks.fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.ack_microseconds
            .fetch_add(microseconds, Ordering::Relaxed);
    }

    pub(super) fn nack(&self) {
        self.nacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rules_refused(&self, count: usize) {
        self.rule_refusals
            .fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn refusal(&self, reason: RefusalReason) {
        self.refusals[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}
