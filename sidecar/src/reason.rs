//! The machine-readable reasons of the public contract, for every failure that the mesh itself
//! makes. Below all stages, like `call`: stages name reasons, `respond` makes answers of them.

use tonic::Code;

/// May the callee have seen the call?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processed {
    /// No: it is safe to make it again.
    No,
    /// It may have run.
    Maybe,
}

/// Why the mesh failed a call: the machine-readable reasons of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No rule, and no endpoint ever seen.
    UnknownService,
    /// Known, but nobody can take it.
    NoEndpoint,
    /// The node that was named never offered it.
    UnknownNode,
    /// The node that was named has left.
    NodeGone,
    /// No more calls fit into the lane.
    LaneFull,
    /// Endpoints exist, but their rule differs from ours.
    RulesMismatch,
    /// The lane that was asked for is not allowed.
    LaneRefused,
    /// The rule says secure, the way is not.
    NotSecure,
    /// No gRPC call.
    NotGrpc,
    /// The call's time is over.
    Deadline,
    /// Not reachable from this listener.
    NotExposed,
    /// No connection could be made.
    ConnectFailed,
    /// The connection or the stream broke.
    PeerReset,
    /// Its way leads back to this sidecar.
    Loop,
    /// Every endpoint that could take it has failed too often to be asked now.
    BreakerOpen,
    /// More calls a second than its rule admits.
    RateLimited,
    /// More calls at once than its rule admits.
    Overloaded,
    /// It fails on purpose.
    FaultInjected,
    /// A message is larger than is taken there.
    MessageTooLarge,
    /// Its caller may not call it.
    NotAuthorized,
}

impl Reason {
    /// All reasons, for counters.
    pub const ALL: [Self; 20] = [
        Self::UnknownService,
        Self::NoEndpoint,
        Self::UnknownNode,
        Self::NodeGone,
        Self::LaneFull,
        Self::RulesMismatch,
        Self::LaneRefused,
        Self::NotSecure,
        Self::NotGrpc,
        Self::Deadline,
        Self::NotExposed,
        Self::ConnectFailed,
        Self::PeerReset,
        Self::Loop,
        Self::BreakerOpen,
        Self::RateLimited,
        Self::Overloaded,
        Self::FaultInjected,
        Self::MessageTooLarge,
        Self::NotAuthorized,
    ];

    /// The reason as it stands in `sidelane-error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownService => "UNKNOWN_SERVICE",
            Self::NoEndpoint => "NO_ENDPOINT",
            Self::UnknownNode => "UNKNOWN_NODE",
            Self::NodeGone => "NODE_GONE",
            Self::LaneFull => "LANE_FULL",
            Self::RulesMismatch => "RULES_MISMATCH",
            Self::LaneRefused => "LANE_REFUSED",
            Self::NotSecure => "NOT_SECURE",
            Self::NotGrpc => "NOT_GRPC",
            Self::Deadline => "DEADLINE",
            Self::NotExposed => "NOT_EXPOSED",
            Self::ConnectFailed => "CONNECT_FAILED",
            Self::PeerReset => "PEER_RESET",
            Self::Loop => "LOOP",
            Self::BreakerOpen => "BREAKER_OPEN",
            Self::RateLimited => "RATE_LIMITED",
            Self::Overloaded => "OVERLOADED",
            Self::FaultInjected => "FAULT_INJECTED",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::NotAuthorized => "NOT_AUTHORIZED",
        }
    }

    /// The gRPC status that goes with the reason.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::UnknownService | Self::NotExposed => Code::Unimplemented,
            Self::NoEndpoint
            | Self::NodeGone
            | Self::ConnectFailed
            | Self::PeerReset
            | Self::BreakerOpen => Code::Unavailable,
            Self::UnknownNode => Code::NotFound,
            Self::LaneFull | Self::RateLimited | Self::Overloaded | Self::MessageTooLarge => {
                Code::ResourceExhausted
            }
            Self::RulesMismatch | Self::NotSecure => Code::FailedPrecondition,
            Self::LaneRefused | Self::NotGrpc => Code::InvalidArgument,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Loop => Code::Internal,
            // Its rule says which; this is what it is where nobody does.
            Self::FaultInjected => Code::Unknown,
            Self::NotAuthorized => Code::PermissionDenied,
        }
    }

    /// The words on the call itself, which no other node is asked to overrule: what its rule means,
    /// that its time is over, which it is everywhere, and that its caller may not make it.
    pub const MEANT: [Self; 4] = [
        Self::RateLimited,
        Self::FaultInjected,
        Self::Deadline,
        Self::NotAuthorized,
    ];

    /// Is it one of [`Reason::MEANT`]? The call is made again only where its rule says so, as if the
    /// callee had said it; and one that its caller may not make never is.
    #[must_use]
    pub fn is_meant(self) -> bool {
        Self::MEANT.contains(&self)
    }
}
