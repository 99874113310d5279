//! How this project picks a collector: the first by name does the work, and when it is gone the
//! next one does. None of Sidelane's own strategies means that.

use sidelane_sidecar::balance::{CallFacts, Choice, OwnStrategy};

/// The first by name.
pub struct Primary;

impl OwnStrategy for Primary {
    fn choose(&self, choices: &[Choice<'_>], _: &CallFacts) -> Option<usize> {
        let nodes = choices.iter().enumerate();
        let first = nodes.min_by_key(|(_, choice)| choice.endpoint.node.as_str());
        first.map(|(index, _)| index)
    }
}
