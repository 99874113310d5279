//! What a process costs, as the operating system has accounted it (Linux, proc(5)): processor
//! time of all its threads, and resident memory. It reads before and after a round and never
//! during one.

use anyhow::{Context as _, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Linux counts `utime` and `stime` in `USER_HZ`, which is 100 a second on every architecture that
/// Rust has a tier 1 or 2 target for.
const TICK: Duration = Duration::from_millis(10);

/// The processor time of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ProcessorTime {
    /// User and system time of all threads, also of those that have ended.
    ticks: u64,
    /// Nanoseconds on a processor, for each live thread; empty where the kernel does not say.
    threads: BTreeMap<u32, u64>,
}

impl ProcessorTime {
    /// Reads it from `/proc`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks = ticks(&stat).with_context(|| format!("cannot understand {path}: {stat}"))?;
        Ok(Self {
            ticks,
            threads: threads(pid).unwrap_or_default(),
        })
    }

    /// What was used since an earlier reading. By thread, in nanoseconds, if all of the earlier
    /// threads are still there (the time of one that has ended is gone with it); otherwise by
    /// ticks of 10 ms.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let all_live = earlier
            .threads
            .keys()
            .all(|id| self.threads.contains_key(id));
        let nanoseconds = sum(&self.threads).saturating_sub(sum(&earlier.threads));
        if all_live && nanoseconds > 0 {
            return Duration::from_nanos(nanoseconds);
        }
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
}

fn sum(threads: &BTreeMap<u32, u64>) -> u64 {
    threads.values().sum()
}

fn threads(pid: u32) -> Option<BTreeMap<u32, u64>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let entry = entry.ok()?;
        let id = entry.file_name().to_str()?.parse().ok()?;
        // A thread may end between the listing and the reading: then it is simply not there.
        if let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) {
            threads.insert(id, running_nanoseconds(&text)?);
        }
    }
    Some(threads)
}

/// `utime` and `stime`, fields 14 and 15 of `/proc/PID/stat`. Field 2 is the name in parentheses
/// and may hold anything, so the count begins behind the last parenthesis, at field 3.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

/// The first field of `schedstat`: nanoseconds on a processor.
fn running_nanoseconds(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// A process's memory and threads at one moment, from `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Size {
    /// Resident memory now, in KiB.
    pub(crate) resident_kib: u64,
    /// The most it has ever been, in KiB.
    pub(crate) peak_kib: u64,
    /// Threads now.
    pub(crate) threads: u64,
}

impl Size {
    /// Reads it from `/proc`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&status).with_context(|| format!("no VmRSS, VmHWM and Threads in {path}"))
    }

    fn parse(status: &str) -> Option<Self> {
        let value = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line?.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Self {
            resident_kib: value("VmRSS")?,
            peak_kib: value("VmHWM")?,
            threads: value("Threads")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4242 (odd ) name (x)) S 1 4242 4242 0 -1 4194560 1190 0 0 0 731 269 5 6 20 \
                        0 3 0 100 200 300 18446744073709551615";
    const STATUS: &str = "Name:\tsidelane\nVmPeak:\t  999 kB\nVmHWM:\t   11520 kB\n\
                          VmRSS:\t   10240 kB\nRssAnon:\t 1 kB\nThreads:\t3\n";

    fn reading(ticks: u64, threads: &[(u32, u64)]) -> ProcessorTime {
        ProcessorTime {
            ticks,
            threads: threads.iter().copied().collect(),
        }
    }

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        assert_eq!(ticks(STAT), Some(1000));
        assert_eq!(ticks("no parenthesis"), None);
        assert_eq!(ticks("1 (short) S 1 2"), None);
    }

    #[test]
    fn schedstat_begins_with_the_time_on_a_processor() {
        assert_eq!(running_nanoseconds("123456789 42 7\n"), Some(123_456_789));
        assert_eq!(running_nanoseconds(""), None);
    }

    #[test]
    fn status_gives_memory_and_threads() {
        let size = Size {
            resident_kib: 10_240,
            peak_kib: 11_520,
            threads: 3,
        };
        assert_eq!(Size::parse(STATUS), Some(size));
        assert_eq!(Size::parse("Name:\tzombie\nThreads:\t1\n"), None);
    }

    #[test]
    fn nanoseconds_are_taken_while_all_threads_live() {
        let before = reading(10, &[(1, 1_000), (2, 500)]);
        let after = reading(99, &[(1, 4_000), (2, 600), (3, 50)]);
        assert_eq!(after.since(&before), Duration::from_nanos(3_150));
    }

    #[test]
    fn ticks_are_taken_when_a_thread_has_ended_or_nanoseconds_are_missing() {
        let after = reading(13, &[(1, 4_000)]);
        assert_eq!(
            after.since(&reading(10, &[(1, 1_000), (2, 9_000)])),
            3 * TICK
        );
        assert_eq!(reading(13, &[]).since(&reading(10, &[])), 3 * TICK);
        assert_eq!(
            reading(13, &[(1, 0)]).since(&reading(10, &[(1, 0)])),
            3 * TICK
        );
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        let before = ProcessorTime::of(pid).unwrap();
        let mut waste = 0_u64;
        while ProcessorTime::of(pid).unwrap().since(&before) < Duration::from_millis(20) {
            waste = std::hint::black_box(waste.wrapping_add(1));
        }
        let size = Size::of(pid).unwrap();
        assert!(
            size.resident_kib > 0 && size.peak_kib >= size.resident_kib,
            "{size:?}"
        );
        assert!(size.threads >= 1);
    }
}
