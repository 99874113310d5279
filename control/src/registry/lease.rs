//! Leases: from how long a node has been silent to what is held of it. Pure: the time comes in as
//! an argument, and the timers are in the registration source.

use std::time::{Duration, Instant};

/// The times of a lease, all derived from its length, so that a test can shorten them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    lease: Duration,
}

/// When a node was last heard of, and whether its stream is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// When it was last heard of. A broken stream does not renew it.
    pub heard: Instant,
    /// Its stream is open.
    pub connected: bool,
}

/// What is held of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Present,
    /// Its stream broke, or is open and silent.
    Suspect,
    /// It has been silent for the whole lease: gone.
    Ended,
}

impl Terms {
    /// The length of a lease where nothing else is configured.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
    /// A heartbeat is due three times in a lease of 10 s, with a second to spare.
    const HEARTBEATS: (u32, u32) = (3, 10);
    /// An open stream is suspect after two heartbeats were missed, and half of one more for a busy
    /// machine: 7.5 s of a lease of 10 s. A frozen process keeps its streams open, so silence is
    /// all there is to see.
    const SUSPECT: (u32, u32) = (3, 4);

    /// The times of a lease of this length.
    #[must_use]
    pub const fn new(lease: Duration) -> Self {
        Self { lease }
    }

    /// A node that is silent for so long is gone.
    #[must_use]
    pub const fn lease(self) -> Duration {
        self.lease
    }

    /// Both sides say something at least this often.
    #[must_use]
    pub fn heartbeat(self) -> Duration {
        self.lease * Self::HEARTBEATS.0 / Self::HEARTBEATS.1
    }

    /// A node with an open stream that is silent for so long is suspect.
    #[must_use]
    pub fn suspect_after(self) -> Duration {
        self.lease * Self::SUSPECT.0 / Self::SUSPECT.1
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LEASE)
    }
}

impl Lease {
    /// What is held of the node now.
    #[must_use]
    pub fn standing(&self, now: Instant, terms: Terms) -> Standing {
        let silent = now.saturating_duration_since(self.heard);
        if silent >= terms.lease() {
            Standing::Ended
        } else if !self.connected || silent >= terms.suspect_after() {
            Standing::Suspect
        } else {
            Standing::Present
        }
    }

    /// When its standing changes next, if nothing is heard.
    #[must_use]
    pub fn next_change(&self, now: Instant, terms: Terms) -> Instant {
        match self.standing(now, terms) {
            Standing::Present => self.heard + terms.suspect_after(),
            Standing::Suspect | Standing::Ended => self.heard + terms.lease(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_lease_of_ten_seconds() {
        let terms = Terms::default();
        assert_eq!(terms.lease(), Duration::from_secs(10));
        assert_eq!(terms.heartbeat(), Duration::from_secs(3));
        assert_eq!(terms.suspect_after(), Duration::from_millis(7_500));
    }

    #[test]
    fn silence_makes_suspect_and_then_ends() {
        let heard = Instant::now();
        let lease = Lease {
            heard,
            connected: true,
        };
        let terms = Terms::default();
        let after = |ms| heard + Duration::from_millis(ms);
        for (ms, standing) in [
            (0, Standing::Present),
            (7_499, Standing::Present),
            (7_500, Standing::Suspect),
            (9_999, Standing::Suspect),
            (10_000, Standing::Ended),
        ] {
            assert_eq!(lease.standing(after(ms), terms), standing, "after {ms} ms");
        }
        assert_eq!(lease.next_change(heard, terms), after(7_500));
        assert_eq!(lease.next_change(after(7_500), terms), after(10_000));
    }

    #[test]
    fn a_broken_stream_is_suspect_at_once_and_renews_nothing() {
        let heard = Instant::now();
        let lease = Lease {
            heard,
            connected: false,
        };
        let terms = Terms::default();
        assert_eq!(lease.standing(heard, terms), Standing::Suspect);
        assert_eq!(
            lease.next_change(heard, terms),
            heard + Duration::from_secs(10)
        );
    }
}
