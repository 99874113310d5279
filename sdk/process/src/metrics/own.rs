//! The figures of the process itself, by the names that Prometheus' own libraries give them, and of
//! its runtime. Read from `/proc`; what cannot be read is left out.

use std::fmt::Write;
use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use tokio::runtime::Handle;

/// Figures of the process at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    /// Time on a processor since it began, in ticks.
    cpu: Option<u64>,
    /// Ticks in a second.
    ticks: u64,
    /// When it began, in ticks since the machine did.
    began: Option<u64>,
    /// When the machine began, in seconds since 1970.
    booted: Option<u64>,
    /// Addresses in use, in bytes.
    virtual_memory: Option<u64>,
    /// Memory in use, in bytes.
    resident_memory: Option<u64>,
    threads: Option<u64>,
    descriptors: Option<u64>,
    descriptors_limit: Option<u64>,
    workers: u64,
    tasks: u64,
    queued: u64,
}

/// The figures as they are now. `/proc` is read beside the runtime's threads: a process with many
/// descriptors has a long list of them.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn own() -> Own {
    let read = tokio::task::spawn_blocking(Own::read).await;
    let metrics = Handle::current().metrics();
    Own {
        workers: metrics.num_workers() as u64,
        tasks: metrics.num_alive_tasks() as u64,
        queued: metrics.global_queue_depth() as u64,
        ..read.unwrap_or_default()
    }
}

impl Own {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let own = Self {
            ticks: clock_ticks_per_second(),
            booted: booted(&text("/proc/stat")),
            // The list that is being read has one of its own.
            descriptors: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|list| (list.count() as u64).saturating_sub(1)),
            descriptors_limit: descriptors_limit(&text("/proc/self/limits")),
            ..Self::default()
        };
        own.with_stat(&text("/proc/self/stat"), page_size() as u64)
    }

    /// Takes in `/proc/self/stat` (`proc_pid_stat(5)`).
    fn with_stat(self, stat: &str, page: u64) -> Self {
        // The program's name stands in brackets, and may have any character.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of these is the third of all.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Self {
            cpu: field(14).zip(field(15)).map(|(user, system)| user + system),
            threads: field(20),
            began: field(22),
            virtual_memory: field(23),
            resident_memory: field(24).map(|pages| pages * page),
            ..self
        }
    }

    /// As Prometheus text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(2_048);
        let seconds = |ticks: u64| {
            let (whole, rest) = (ticks / self.ticks.max(1), ticks % self.ticks.max(1));
            format!("{whole}.{:02}", rest * 100 / self.ticks.max(1))
        };
        let began = self.began.zip(self.booted);
        let began = began.map(|(ticks, booted)| seconds(ticks + booted * self.ticks));
        let plain = |value: Option<u64>| value.map(|value| value.to_string());
        let figures = [
            (
                "process_cpu_seconds_total",
                "counter",
                "Time on a processor, of the program and of the system for it.",
                self.cpu.map(seconds),
            ),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Memory in use.",
                plain(self.resident_memory),
            ),
            (
                "process_virtual_memory_bytes",
                "gauge",
                "Addresses in use.",
                plain(self.virtual_memory),
            ),
            (
                "process_open_fds",
                "gauge",
                "File descriptors in use.",
                plain(self.descriptors),
            ),
            (
                "process_max_fds",
                "gauge",
                "File descriptors that there may be.",
                plain(self.descriptors_limit),
            ),
            ("process_threads", "gauge", "Threads.", plain(self.threads)),
            (
                "process_start_time_seconds",
                "gauge",
                "When the process began, in seconds since 1970.",
                began,
            ),
            (
                "sidelane_runtime_workers",
                "gauge",
                "Threads that run tasks.",
                plain(Some(self.workers)),
            ),
            (
                "sidelane_runtime_tasks",
                "gauge",
                "Tasks that have not ended.",
                plain(Some(self.tasks)),
            ),
            (
                "sidelane_runtime_queued_tasks",
                "gauge",
                "Tasks that wait for any thread to run them.",
                plain(Some(self.queued)),
            ),
        ];
        for (name, kind, help, value) in figures {
            let Some(value) = value else { continue };
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            );
        }
        text
    }
}

/// When the machine began (`proc_stat(5)`).
fn booted(stat: &str) -> Option<u64> {
    let mut lines = stat.lines();
    let line = lines.find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// The softer of the two limits (`proc_pid_limits(5)`).
fn descriptors_limit(limits: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read_as_they_are_written() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 75 0 0 20 0 5 0 1000 8192 3 18446";
        let own = Own {
            ticks: 100,
            booted: booted("cpu 1 2\nbtime 1700000000\nprocesses 3\n"),
            descriptors_limit: descriptors_limit(
                "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n",
            ),
            ..Own::default()
        };
        let text = own.with_stat(stat, 4_096).text();
        for line in [
            "process_cpu_seconds_total 2.25",
            "process_resident_memory_bytes 12288",
            "process_virtual_memory_bytes 8192",
            "process_max_fds 1024",
            "process_threads 5",
            "process_start_time_seconds 1700000010.00",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(!text.contains("process_open_fds"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let own = Own::default().with_stat("", 4_096);
        assert_eq!((booted(""), descriptors_limit("")), (None, None));
        assert!(!own.text().contains("process_"), "{}", own.text());
    }

    #[tokio::test]
    async fn figures_follow_what_the_process_does() {
        let before = own().await;
        let files: Vec<_> = (0..50)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        let tasks: Vec<_> = (0..7)
            .map(|_| tokio::spawn(std::future::pending::<()>()))
            .collect();
        let after = own().await;
        // Other tests of this process open and close some, too.
        assert!(
            after.descriptors > before.descriptors.map(|it| it + 25),
            "{after:?}"
        );
        assert_eq!(after.tasks, before.tasks + 7);
        assert!(
            after.resident_memory > Some(0) && after.began > Some(0),
            "{after:?}"
        );
        drop(files);
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
