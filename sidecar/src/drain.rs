//! The phases of a sidecar's end, as everybody sees them. Graceful first, then a deadline, then
//! force; who drives the phases is `app`.

use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not begun.
    Running,
    /// Peers are told to go elsewhere; calls of theirs that are open finish.
    Inbound,
    /// The local app is told, too.
    Outbound,
    /// What is still open is cut.
    Forced,
}

/// Sets the phase.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// Sees the phase.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<Phase>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Drain {
    /// Goes on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            *now = phase.max(*now);
            forward
        });
    }

    /// A view of the phases.
    #[must_use]
    pub fn subscribe(&self) -> Draining {
        Draining(self.0.subscribe())
    }
}

impl Draining {
    /// Waits until `phase` is reached. A sidecar that is gone has reached them all.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward() {
        let drain = Drain::default();
        let mut seen = drain.subscribe();
        drain.advance(Phase::Outbound);
        drain.advance(Phase::Inbound);
        assert_eq!(seen.phase(), Phase::Outbound);
        seen.reached(Phase::Inbound).await;
    }
}
