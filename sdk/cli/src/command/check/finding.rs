//! What was found: whose it is, what is wrong, and what to do about it.

use serde_json::{Value, json};

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// Calls fail, or will.
    Problem,
    /// Somebody should look at it.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// How much it matters.
    pub(super) weight: Weight,
    /// What it is, for programs: one word, the same in every version.
    pub(super) kind: &'static str,
    /// Whose it is: a node, a service, a sidecar's address, or `control`.
    pub(super) subject: String,
    /// What is wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) advice: String,
}

impl Finding {
    /// Calls fail, or will.
    pub(super) fn problem(
        kind: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            weight: Weight::Problem,
            kind,
            subject: subject.into(),
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// The same, of what is no more than worth a look.
    pub(super) fn only_warns(self) -> Self {
        Self {
            weight: Weight::Warning,
            ..self
        }
    }

    /// One line for people.
    pub(super) fn text(&self) -> String {
        format!("{}: {}: {}", self.subject, self.what, self.advice)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "weight": match self.weight {
                Weight::Problem => "problem",
                Weight::Warning => "warning",
            },
            "subject": self.subject,
            "message": self.what,
            "advice": self.advice,
        })
    }
}

/// How far another clock is from ours, as the two times of a question and its answer bound it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offset {
    /// Milliseconds that the other one is ahead, as if it was read in the middle.
    ahead: i64,
    /// Milliseconds that this may be wrong, either way.
    within: i64,
}

/// Milliseconds of difference that are worth a look.
const NOTED: i64 = 30_000;
/// Milliseconds up to which certificates allow for clocks that differ.
const ALLOWED: i64 = 300_000;

impl Offset {
    /// Asked and answered by our clock, and read from theirs between; milliseconds since 1970.
    pub(super) fn between(asked: i64, answered: i64, theirs: i64) -> Self {
        let within = answered.saturating_sub(asked).max(0) / 2;
        Self {
            ahead: theirs.saturating_sub(asked.saturating_add(within)),
            within,
        }
    }

    /// What is wrong with it; `None` if it may as well be right.
    pub(super) fn finding(self, subject: &str) -> Option<Finding> {
        let least = self.ahead.saturating_abs().saturating_sub(self.within);
        if least <= NOTED {
            return None;
        }
        let seconds = self.ahead.saturating_abs() / 1_000;
        let side = if self.ahead > 0 { "ahead of" } else { "behind" };
        let finding = Finding::problem(
            "clock_skew",
            subject,
            format!("its clock is {seconds} s {side} this machine's"),
            "set the clocks of both by NTP; beyond 300 s certificates are refused as not_yet_valid or \
             expired",
        );
        Some(if least > ALLOWED {
            finding
        } else {
            finding.only_warns()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_judged_by_what_they_differ_at_least() {
        let found = |ahead: i64, took: i64| {
            let offset = Offset::between(1_000_000, 1_000_000 + took, 1_000_000 + took / 2 + ahead);
            offset.finding("orders-1").map(|it| (it.weight, it.text()))
        };
        assert_eq!(found(30_000, 0), None);
        assert_eq!(found(-31_000, 2_000), None);
        let (weight, text) = found(-31_002, 2_000).unwrap();
        assert_eq!(weight, Weight::Warning);
        assert!(
            text.starts_with("orders-1: its clock is 31 s behind this machine's: set the clocks"),
            "{text}"
        );
        let (weight, text) = found(300_001, 0).unwrap();
        assert_eq!(weight, Weight::Problem);
        assert!(text.contains("300 s ahead of"), "{text}");
        // A clock that says anything.
        assert!(found(i64::MAX / 2, 0).is_some());
        assert!(
            Offset::between(i64::MIN, i64::MAX, i64::MIN)
                .finding("n")
                .is_none()
        );
    }

    #[test]
    fn programs_are_told_all_of_it() {
        let finding = Finding::problem("node_away", "n", "is silent", "start it").only_warns();
        assert_eq!(
            finding.json(),
            json!({
                "kind": "node_away",
                "weight": "warning",
                "subject": "n",
                "message": "is silent",
                "advice": "start it",
            })
        );
    }
}
