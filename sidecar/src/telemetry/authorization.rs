//! The figures of who was kept out, and how much of it is noted in the log: a flood of refused calls
//! must not fill a disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sidelane_process::seldom::Lines;
use sidelane_proto::model::ServiceName;

use super::metrics::{heading, line};
use super::target::add;

/// Lines that may be written at once after a pause, of refusals and of dry runs each.
pub const AUDIT_BURST: u32 = 100;
/// The time after which there is room for one more: ten a second, day and night, are some 300 MB.
pub(super) const AUDIT_EVERY: Duration = Duration::from_millis(100);

/// The counters of one service that not everybody may call.
#[derive(Debug)]
pub struct AuthorizationCounters {
    denied: AtomicU64,
    would_deny: AtomicU64,
    lines: Arc<AuditLines>,
}

/// The lines of one sidecar. Dry runs have a share of their own, so that they hide no refusal.
#[derive(Debug)]
pub struct AuditLines {
    of_denied: Mutex<Lines>,
    of_would_deny: Mutex<Lines>,
    omitted: AtomicU64,
}

impl Default for AuditLines {
    fn default() -> Self {
        let lines = || Mutex::new(audit_lines());
        Self {
            of_denied: lines(),
            of_would_deny: lines(),
            omitted: AtomicU64::new(0),
        }
    }
}

const fn audit_lines() -> Lines {
    Lines::new(AUDIT_BURST, AUDIT_EVERY)
}

impl AuditLines {
    fn take(&self, lines: &Mutex<Lines>, now: Instant) -> Option<u64> {
        let room = lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(now);
        if room.is_none() {
            add(&self.omitted);
        }
        room
    }
}

impl AuthorizationCounters {
    /// Counters of a sidecar with these lines.
    #[must_use]
    pub fn new(lines: Arc<AuditLines>) -> Self {
        Self {
            denied: AtomicU64::new(0),
            would_deny: AtomicU64::new(0),
            lines,
        }
    }

    /// A call was refused. How many refusals were not noted before it, where this one may be.
    pub fn denied(&self, now: Instant) -> Option<u64> {
        add(&self.denied);
        self.lines.take(&self.lines.of_denied, now)
    }

    /// The same of one that a dry run let in.
    pub fn would_deny(&self, now: Instant) -> Option<u64> {
        add(&self.would_deny);
        self.lines.take(&self.lines.of_would_deny, now)
    }
}

/// All services as Prometheus text.
pub(super) fn render(
    text: &mut String,
    lines: &AuditLines,
    services: &[(ServiceName, Arc<AuthorizationCounters>)],
) {
    type Read = fn(&AuthorizationCounters) -> &AtomicU64;
    if services.is_empty() {
        return;
    }
    let figures: [(&str, &str, Read); 2] = [
        (
            "sidelane_authorization_denied_total",
            "Calls that were refused because their rule does not allow their caller.",
            |it| &it.denied,
        ),
        (
            "sidelane_authorization_would_deny_total",
            "Calls that a dry run let in, and that would be refused without it.",
            |it| &it.would_deny,
        ),
    ];
    for (name, help, read) in figures {
        heading(text, name, "counter", help);
        for (service, counters) in services {
            let labels = format!("service=\"{service}\"");
            line(text, name, &labels, read(counters).load(Ordering::Relaxed));
        }
    }
    let name = "sidelane_audit_omitted_total";
    let help = "Refusals that were not noted in the log, since there were too many.";
    heading(text, name, "counter", help);
    line(text, name, "", lines.omitted.load(Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_noted_up_to_its_bound_and_told_in_the_next_line() {
        let (mut lines, begun) = (audit_lines(), Instant::now());
        let mut flood = |at: Duration, calls: u32| {
            let each = (0..calls).map(|_| lines.take(begun + at));
            each.flatten().collect::<Vec<u64>>()
        };
        let first = flood(Duration::ZERO, 1_000);
        assert_eq!(first, [0; AUDIT_BURST as usize]);
        assert_eq!(flood(AUDIT_EVERY - Duration::from_nanos(1), 1_000), [0; 0]);
        // One more, which says what was left out.
        assert_eq!(flood(AUDIT_EVERY, 10), [1_900]);
        assert_eq!(flood(AUDIT_EVERY * 3, 10), [9, 0]);
        // After a pause there is room for as many as at first, and no more.
        let later = flood(Duration::from_secs(86_400), 1_000);
        assert_eq!(later.len(), AUDIT_BURST as usize);
        assert_eq!(later[0], 8);
    }

    #[test]
    fn an_hour_of_flood_writes_ten_lines_a_second() {
        let (mut lines, begun) = (audit_lines(), Instant::now());
        let calls = (0..3_600_u32 * 1_000).map(|ms| begun + Duration::from_millis(ms.into()));
        let written = calls.filter_map(|at| lines.take(at)).count();
        let most = AUDIT_BURST as usize + 3_600 * 10;
        assert!((most - 1..=most).contains(&written), "{written}");
    }

    #[test]
    fn dry_runs_hide_no_refusal() {
        let counters = AuthorizationCounters::new(Arc::default());
        let now = Instant::now();
        for _ in 0..500 {
            let _ = counters.would_deny(now);
        }
        assert_eq!(counters.denied(now), Some(0));
        assert_eq!(counters.lines.omitted.load(Ordering::Relaxed), 400);
    }
}
