//! How a call ended, and whether its answers were what they had to be: from one node, in the lane
//! of the rule, complete and in order. A wrong answer counts as a failure with its own status.

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::demo::message::Kind;

/// What was wrong with a call.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) node: Option<String>,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    pub(super) processed: Option<String>,
    pub(super) message: String,
}

/// What an answered call brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) node: String,
    pub(super) lane: String,
    pub(super) bytes: u64,
}

/// The answers of one call as they come in.
pub(super) struct Answers {
    kind: Kind,
    answered: Option<Answered>,
}

impl Answers {
    pub(super) fn to(kind: Kind) -> Self {
        Self {
            kind,
            answered: None,
        }
    }

    /// Takes one answer: who gave it, in which lane, and how much content it had.
    pub(super) fn take(&mut self, node: &str, lane: &str, bytes: usize) -> Result<(), Fault> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let answered = self.answered.get_or_insert_with(|| Answered {
            node: node.to_owned(),
            lane: lane.to_owned(),
            bytes: 0,
        });
        if answered.node != node {
            let message = format!("one call was answered by {} and by {node}", answered.node);
            return Err(self.wrong(message));
        }
        answered.bytes += bytes;
        if lane != self.kind.lane() {
            let (path, wanted) = (self.kind.path(), self.kind.lane());
            return Err(self.wrong(format!(
                "{path} arrived in lane {lane:?}, its rule says {wanted:?}"
            )));
        }
        Ok(())
    }

    /// Refuses an answer that is not what it has to be.
    pub(super) fn expect<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        found: &T,
        wanted: &T,
    ) -> Result<(), Fault> {
        if found == wanted {
            return Ok(());
        }
        Err(self.wrong(format!("{what} is {found:?}, expected {wanted:?}")))
    }

    /// The call has ended well.
    pub(super) fn end(mut self) -> Result<Answered, Fault> {
        match self.answered.take() {
            Some(answered) => Ok(answered),
            None => Err(self.wrong("the call ended well, but without an answer".to_owned())),
        }
    }

    /// The call has failed.
    pub(super) fn failed(&self, status: &Status) -> Fault {
        let reason = status.metadata().get("sidelane-error");
        let details = status.get_details_error_info();
        Fault {
            node: self.node(),
            status: format!("{:?}", status.code()),
            reason: reason
                .and_then(|reason| reason.to_str().ok())
                .map(str::to_owned),
            processed: details.and_then(|mut details| details.metadata.remove("processed")),
            message: status.message().to_owned(),
        }
    }

    /// The answers are wrong.
    fn wrong(&self, message: String) -> Fault {
        self.fault("wrong answer", message)
    }

    /// A failure that no gRPC status tells of.
    pub(super) fn fault(&self, status: &str, message: String) -> Fault {
        Fault {
            node: self.node(),
            status: status.to_owned(),
            reason: None,
            processed: None,
            message,
        }
    }

    fn node(&self) -> Option<String> {
        self.answered
            .as_ref()
            .map(|answered| answered.node.clone())
            .filter(|node| !node.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_add_up() {
        let mut answers = Answers::to(Kind::Bulk);
        for _ in 0..3 {
            answers.take("orders-1", "bifrost_data", 10).unwrap();
        }
        let answered = answers.end().unwrap();
        assert_eq!((answered.node.as_str(), answered.bytes), ("orders-1", 30));
    }

    #[test]
    fn the_wrong_lane_a_second_node_and_silence_are_faults() {
        let mut answers = Answers::to(Kind::Heartbeat);
        let fault = answers.take("orders-1", "general", 0).unwrap_err();
        assert_eq!(fault.status, "wrong answer");
        assert_eq!(
            fault.message,
            "/shop.v1.Heartbeat/Beat arrived in lane \"general\", its rule says \"gossip\""
        );

        let mut answers = Answers::to(Kind::Unary);
        answers.take("orders-1", "general", 0).unwrap();
        let fault = answers.take("orders-2", "general", 0).unwrap_err();
        assert_eq!(
            fault.message,
            "one call was answered by orders-1 and by orders-2"
        );
        assert_eq!(fault.node.as_deref(), Some("orders-1"));

        let fault = Answers::to(Kind::Unary).end().unwrap_err();
        assert_eq!(fault.message, "the call ended well, but without an answer");
    }

    #[test]
    fn a_failure_keeps_what_the_mesh_said() {
        let metadata = [("processed".to_owned(), "maybe".to_owned())];
        let details =
            tonic_types::ErrorDetails::with_error_info("PEER_RESET", "sidelane.dev", metadata);
        let mut status = Status::with_error_details(tonic::Code::Unavailable, "gone", details);
        let reason = "PEER_RESET".parse().unwrap();
        status.metadata_mut().insert("sidelane-error", reason);
        let fault = Answers::to(Kind::Unary).failed(&status);
        assert_eq!(fault.status, "Unavailable");
        assert_eq!(fault.reason.as_deref(), Some("PEER_RESET"));
        assert_eq!(fault.processed.as_deref(), Some("maybe"));
        assert_eq!(fault.message, "gone");
    }
}
