//! What the demo and its load generator say to each other, as lines of JSON: orders on the load
//! generator's standard input, news on its standard output. Times are microseconds of the wall
//! clock, which processes of one machine share.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::rules;

/// The wall clock, in microseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// What the demo wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// From now on, calls that end belong to the phase of this name. Answered by a progress that
    /// names the phase. `direct` says whether calls past the mesh are made, too.
    Phase {
        /// The phase.
        name: String,
        /// Are calls past the mesh made?
        direct: bool,
    },
    /// Answer with a report of what was counted so far.
    Interim,
    /// Begin no more calls, wait for those that are open, and answer with a report.
    Report,
    /// Go on after a report.
    Resume,
}

/// What the load generator has to say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum News {
    /// Several times a second.
    Progress(Progress),
    /// A call through the mesh failed.
    Failed(Failed),
    /// What was counted so far.
    Interim(Report),
    /// All of it.
    Report(Report),
}

/// How far the load generator has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The phase that calls belong to now.
    pub phase: String,
    /// Calls that have ended, in all phases, direct ones not counted.
    pub calls: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Answered calls in this phase, by node.
    pub nodes: BTreeMap<String, u64>,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    /// What kind of call.
    pub kind: Kind,
    /// The phase in which it ended.
    pub phase: String,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// The node that had begun to answer, if one had.
    pub node: Option<String>,
    /// The gRPC status by name, or what was wrong with the answer.
    pub status: String,
    /// The header `sidelane-error`, if the mesh made the failure.
    pub reason: Option<String>,
    /// Whether the mesh says that the call was not processed (`no`) or may have been (`maybe`).
    pub processed: Option<String>,
    /// The status's message.
    pub message: String,
}

/// Everything that was counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// In the order in which they were.
    pub phases: Vec<Phase>,
    /// Calls that were begun and had not ended when the wait for them was over.
    pub unfinished: u64,
    /// Calls that were not begun because too many were open.
    pub held_back: u64,
}

/// What was counted in one phase.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Phase {
    /// Its name.
    pub name: String,
    /// By kind of call, in the order of [`Kind::ALL`]; kinds without a call are left out.
    pub kinds: Vec<Counted>,
    /// Answered calls by node and then by lane, direct ones not counted.
    pub nodes: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What was counted of one kind of call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Which kind.
    pub kind: Kind,
    /// Calls that ended.
    pub calls: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Half of the answered calls took at most so many microseconds.
    pub p50: u64,
    /// 99 of 100 answered calls took at most so many microseconds.
    pub p99: u64,
    /// Bytes of content received.
    pub bytes: u64,
}

/// The kinds of calls that the load is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Unary, straight to an orders app.
    Direct,
    /// The same call through the mesh.
    Unary,
    /// Client-streaming.
    ClientStream,
    /// Server-streaming.
    ServerStream,
    /// Bidirectional.
    Bidirectional,
    /// A heartbeat.
    Heartbeat,
    /// Bulk data.
    Bulk,
}

impl Kind {
    /// All, in the order of the table.
    pub(super) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Unary,
        Self::ClientStream,
        Self::ServerStream,
        Self::Bidirectional,
        Self::Heartbeat,
        Self::Bulk,
    ];

    /// For tables.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Direct => "unary, direct",
            Self::Unary => "unary",
            Self::ClientStream => "client-streaming",
            Self::ServerStream => "server-streaming",
            Self::Bidirectional => "bidirectional",
            Self::Heartbeat => "heartbeat",
            Self::Bulk => "bulk stream",
        }
    }

    /// The method that is called.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Direct | Self::Unary => "/shop.v1.Orders/GetOrder",
            Self::ClientStream => "/shop.v1.Orders/ImportOrders",
            Self::ServerStream => "/shop.v1.Orders/WatchOrder",
            Self::Bidirectional => "/shop.v1.Inventory/Reserve",
            Self::Heartbeat => "/shop.v1.Heartbeat/Beat",
            Self::Bulk => "/shop.v1.OrderLog/Replicate",
        }
    }

    /// The lane in which the call must arrive; empty past the mesh.
    pub(super) fn lane(self) -> &'static str {
        if self == Self::Direct {
            return "";
        }
        let service = self.path().split('/').nth(1).unwrap_or_default();
        rules::lane_of(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_lane_of_its_rule() {
        let lanes: Vec<_> = Kind::ALL.iter().map(|kind| kind.lane()).collect();
        let general = "general";
        assert_eq!(
            lanes,
            [
                "",
                general,
                general,
                general,
                general,
                "gossip",
                "bifrost_data"
            ]
        );
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let order = Order::Phase {
            name: "calm".to_owned(),
            direct: true,
        };
        let line = serde_json::to_string(&order).unwrap();
        assert_eq!(line, r#"{"phase":{"name":"calm","direct":true}}"#);
        assert_eq!(
            serde_json::to_string(&Order::Report).unwrap(),
            r#""report""#
        );
        let line = serde_json::to_string(&News::Progress(Progress::default())).unwrap();
        assert!(matches!(
            serde_json::from_str(&line).unwrap(),
            News::Progress(progress) if progress.calls == 0
        ));
    }
}
