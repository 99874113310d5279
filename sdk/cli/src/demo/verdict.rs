//! Which failures were bound to happen and which were not. When a node is killed, the calls that
//! are open on it end, and the mesh says that they may have been processed; it must not send them
//! a second time. Every other failure of the demo is one too many. Pure: times come in as numbers.

use std::collections::BTreeMap;

use super::message::Failed;

/// How long after a process is gone a call may still be sent to it, in microseconds: the caller's
/// sidecar has to be given the processor to read that the connection is closed, and here it shares
/// two cores with a dozen others.
const NOTICE_LIMIT: u64 = 500_000;
/// What the mesh says of a call that was open on a connection that broke.
const BROKEN: &str = "PEER_RESET";

/// A node that was killed.
#[derive(Debug, Clone)]
pub(super) struct Killed {
    /// Its name.
    pub(super) node: String,
    /// When the signal was sent, in microseconds of the wall clock.
    pub(super) at: u64,
    /// When its processes were gone.
    pub(super) gone: u64,
}

impl Killed {
    /// Was this call open on the node when it was killed?
    pub(super) fn explains(&self, failed: &Failed) -> bool {
        let names_node =
            failed.node.as_ref() == Some(&self.node) || failed.message.contains(&self.node);
        failed.reason.as_deref() == Some(BROKEN)
            // The mesh must say that the call may have run: a call that cannot have is sent elsewhere.
            && failed.processed.as_deref() != Some("no")
            && names_node
            && failed.began <= self.gone + NOTICE_LIMIT
            && failed.ended >= self.at
    }
}

/// The failures of a run, told apart.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Those that a kill explains.
    pub(super) in_flight: Vec<Failed>,
    /// All others.
    pub(super) unexpected: Vec<Failed>,
}

impl Verdict {
    pub(super) fn of(failed: &[Failed], killed: Option<&Killed>) -> Self {
        let (in_flight, unexpected) = failed
            .iter()
            .cloned()
            .partition(|failed| killed.is_some_and(|killed| killed.explains(failed)));
        Self {
            in_flight,
            unexpected,
        }
    }
}

/// Failures that differ only in when they were, with their number, most first.
pub(super) fn alike(failed: &[Failed]) -> Vec<(u64, &Failed)> {
    let mut groups: BTreeMap<_, (u64, &Failed)> = BTreeMap::new();
    for one in failed {
        let key = (
            &one.phase,
            one.kind,
            &one.status,
            &one.reason,
            without_digits(&one.message),
        );
        groups.entry(key).or_insert((0, one)).0 += 1;
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    groups
}

/// Messages of the same kind differ in numbers of streams, ports and milliseconds. Digits that
/// belong to a name, as in `orders-2`, stay.
fn without_digits(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut in_name = false;
    for letter in message.chars() {
        if letter.is_ascii_digit() && !in_name {
            continue;
        }
        in_name = letter.is_alphanumeric() || letter == '-';
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::message::Kind;

    const SECOND: u64 = 1_000_000;

    fn failed(began: u64, ended: u64, reason: &str, message: &str) -> Failed {
        Failed {
            kind: Kind::Unary,
            phase: "killed".to_owned(),
            began,
            ended,
            node: None,
            status: "Unavailable".to_owned(),
            reason: Some(reason.to_owned()),
            processed: Some("maybe".to_owned()),
            message: message.to_owned(),
        }
    }

    fn killed() -> Killed {
        Killed {
            node: "orders-2".to_owned(),
            at: 10 * SECOND,
            gone: 10 * SECOND + 5_000,
        }
    }

    #[test]
    fn a_call_that_was_open_on_the_killed_node_is_explained() {
        let open = failed(
            9 * SECOND,
            10 * SECOND + 1,
            "PEER_RESET",
            "the link to orders-2 broke",
        );
        assert!(killed().explains(&open));
        let streaming = Failed {
            node: Some("orders-2".to_owned()),
            message: "broken".to_owned(),
            ..open
        };
        assert!(killed().explains(&streaming));
    }

    #[test]
    fn every_other_failure_is_unexpected() {
        let cases = [
            // Ended before the kill.
            failed(8 * SECOND, 9 * SECOND, "PEER_RESET", "orders-2"),
            // Begun long after it.
            failed(11 * SECOND, 11 * SECOND, "PEER_RESET", "orders-2"),
            // On another node.
            failed(9 * SECOND, 10 * SECOND + 1, "PEER_RESET", "orders-3"),
            // Never sent, so it should have gone elsewhere.
            failed(9 * SECOND, 10 * SECOND + 1, "CONNECT_FAILED", "orders-2"),
            Failed {
                processed: Some("no".to_owned()),
                ..failed(9 * SECOND, 10 * SECOND + 1, "PEER_RESET", "orders-2")
            },
            // Not made by the mesh.
            Failed {
                reason: None,
                ..failed(9 * SECOND, 10 * SECOND + 1, "", "orders-2")
            },
        ];
        for case in &cases {
            assert!(!killed().explains(case), "{case:?}");
        }
        let verdict = Verdict::of(&cases, Some(&killed()));
        assert_eq!(
            (verdict.in_flight.len(), verdict.unexpected.len()),
            (0, cases.len())
        );
        let open = [failed(
            9 * SECOND,
            10 * SECOND + 1,
            "PEER_RESET",
            "orders-2",
        )];
        assert_eq!(Verdict::of(&open, None).unexpected.len(), 1);
        assert_eq!(Verdict::of(&open, Some(&killed())).in_flight.len(), 1);
    }

    #[test]
    fn failures_that_differ_in_numbers_only_are_one_line() {
        let failures = [
            failed(1, 2, "PEER_RESET", "stream 5 to orders-2 broke"),
            failed(3, 4, "PEER_RESET", "stream 77 to orders-2 broke"),
            failed(3, 4, "PEER_RESET", "stream 8 to orders-3 broke"),
        ];
        let groups = alike(&failures);
        let counts: Vec<_> = groups.iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, [2, 1]);
    }
}
