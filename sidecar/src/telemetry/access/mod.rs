//! The access log: one line of JSON for each call, when it has ended. A call that is logged gives a
//! record to a queue with a bound, and never waits: a thread of its own makes lines of records and
//! writes them, however slow the disk is. What finds no room, or no disk, is counted. Headers are
//! never in it.

mod file;
mod line;

pub(super) use line::{hex, milliseconds, written};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::guard::{Outcome, Traffic};
use super::metrics::{heading, line};
use super::target::{TargetCounters, add};
use super::trace::Context;
use file::Output;

/// Records that wait for the thread that writes them.
pub const QUEUE: usize = 8_192;
/// Bytes of a path that are logged; the rest is cut off, since they wait in memory.
pub const PATH_LIMIT: usize = 256;
/// Bytes of lines that are written at once.
const BATCH: usize = 64 * 1024;
/// How long a sidecar that ends waits until all is written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts to find room in the queue then.
const AGAIN: Duration = Duration::from_millis(10);

/// Which calls are logged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Which {
    /// Those that the callee did not answer with OK.
    Errors,
    /// This share, picked at random; 1 is all.
    Share(f64),
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The standard output.
    Stdout,
    /// A file, to which they are appended. It is opened anew where it was moved.
    File(PathBuf),
}

/// The log of a sidecar, or none.
#[derive(Debug, Clone, Default)]
pub struct AccessLog(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    which: Which,
    queue: SyncSender<Entry>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What is kept of a call that may be logged, for as long as it lives.
#[derive(Debug)]
pub struct Note {
    log: Arc<On>,
    path: String,
    peer: Option<String>,
}

/// A call that has ended.
#[derive(Debug)]
struct Record {
    path: String,
    peer: Option<String>,
    counters: Arc<TargetCounters>,
    ended: SystemTime,
    took: Duration,
    outcome: Outcome,
    traffic: Traffic,
    context: Option<Context>,
}

#[derive(Debug)]
enum Entry {
    Call(Record),
    /// All before it is to be written; then this is told.
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Begins to log these calls there.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread be had.
    pub fn start(which: Which, to: To) -> std::io::Result<Self> {
        let output = Output::open(to)?;
        let (queue, entries) = sync_channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&entries, output, &counted))?;
        Ok(Self(Some(Arc::new(On {
            which,
            queue,
            counters,
        }))))
    }

    /// Begins to follow a call of this path. `peer` is who makes it, where that is not the local app.
    #[inline]
    #[must_use]
    pub fn note(&self, path: &str, peer: Option<&str>) -> Option<Box<Note>> {
        let on = self.0.as_ref()?;
        if let Which::Share(share) = on.which
            && fastrand::f64() >= share
        {
            return None;
        }
        let end = (0..=PATH_LIMIT.min(path.len())).rev();
        let end = end.into_iter().find(|end| path.is_char_boundary(*end));
        Some(Box::new(Note {
            log: Arc::clone(on),
            path: path[..end.unwrap_or_default()].to_owned(),
            peer: peer.map(str::to_owned),
        }))
    }

    /// Waits until all that has ended is written, for at most 2 s.
    pub async fn flush(&self) {
        let Some(on) = &self.0 else { return };
        let flushed = async {
            let (told, written) = oneshot::channel();
            let mut entry = Entry::Flush(told);
            loop {
                match on.queue.try_send(entry) {
                    Ok(()) => break,
                    Err(TrySendError::Full(back)) => entry = back,
                    Err(TrySendError::Disconnected(_)) => return,
                }
                tokio::time::sleep(AGAIN).await;
            }
            let _ = written.await;
        };
        let _ = tokio::time::timeout(FLUSH_LIMIT, flushed).await;
    }

    /// What became of lines, as Prometheus text.
    pub(super) fn render(&self, text: &mut String) {
        let count = |read: fn(&Counters) -> &AtomicU64| {
            let counters = self.0.as_ref().map(|on| &on.counters);
            counters.map_or(0, |counters| read(counters).load(Ordering::Relaxed))
        };
        for (name, help, value) in [
            (
                "sidelane_access_log_lines_total",
                "Lines of the access log that were written.",
                count(|counters| &counters.written),
            ),
            (
                "sidelane_access_log_dropped_total",
                "Calls that are not in the access log, since too many waited to be written.",
                count(|counters| &counters.dropped),
            ),
            (
                "sidelane_access_log_failed_total",
                "Lines of the access log that could not be written.",
                count(|counters| &counters.failed),
            ),
        ] {
            heading(text, name, "counter", help);
            line(text, name, "", value);
        }
    }
}

impl Note {
    /// The call has ended.
    pub(super) fn ended(
        self,
        counters: &Arc<TargetCounters>,
        (outcome, took): (Outcome, Duration),
        traffic: Traffic,
        context: Option<Context>,
    ) {
        if self.log.which == Which::Errors && outcome == Outcome::Answered(0) {
            return;
        }
        let record = Record {
            path: self.path,
            peer: self.peer,
            counters: Arc::clone(counters),
            ended: SystemTime::now(),
            took,
            outcome,
            traffic,
            context,
        };
        if self.log.queue.try_send(Entry::Call(record)).is_err() {
            add(&self.log.counters.dropped);
        }
    }
}

/// Writes for as long as anybody may log.
fn write_all(entries: &Receiver<Entry>, mut output: Output, counters: &Counters) {
    let (mut batch, mut lines) = (Vec::new(), 0);
    while let Ok(first) = entries.recv() {
        let mut flushed = Vec::new();
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Call(record) => {
                    line::append(&mut batch, &record);
                    lines += 1;
                }
                Entry::Flush(told) => flushed.push(told),
            }
            next = (batch.len() < BATCH)
                .then(|| entries.try_recv().ok())
                .flatten();
        }
        let written = output.write(&batch);
        counters.written.fetch_add(written, Ordering::Relaxed);
        counters
            .failed
            .fetch_add(lines - written, Ordering::Relaxed);
        batch.clear();
        lines = 0;
        for told in flushed {
            // Whoever asked may not wait any more.
            let _ = told.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use sidelane_proto::model::{ConnectionClass, Lane, ServiceName};

    use super::super::{Direction, Metrics};
    use super::*;
    use crate::reason::Reason;

    async fn logged(which: Which, calls: &[Outcome]) -> Vec<serde_json::Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::start(which, To::File(path.clone())).unwrap();
        let metrics = Metrics::default().logging(log.clone());
        let name = ServiceName::new("a.A").unwrap();
        let way = (ConnectionClass::Internal, Lane::GENERAL);
        let counters = metrics.counters(&name, Direction::Inbound, way);
        for outcome in calls {
            let note = log.note("/a.A/Get", Some("caller"));
            let guard = metrics.call(&counters, Instant::now()).noted(note);
            guard.ended(*outcome);
        }
        log.flush().await;
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    const MIXED: [Outcome; 4] = [
        Outcome::Answered(0),
        Outcome::Answered(5),
        Outcome::Failed(Reason::NoEndpoint),
        Outcome::Cancelled,
    ];

    #[tokio::test]
    async fn every_call_has_a_line_that_says_how_it_ended() {
        let lines = logged(Which::Share(1.0), &MIXED).await;
        let of = |key: &str| {
            lines
                .iter()
                .map(|line| line[key].to_string())
                .collect::<Vec<_>>()
        };
        let ends = ["answered", "answered", "failed", "cancelled"].map(|it| format!("{it:?}"));
        assert_eq!(of("end"), ends);
        assert_eq!(of("status"), ["0", "5", "null", "null"]);
        assert_eq!(of("reason"), ["null", "null", "\"NO_ENDPOINT\"", "null"]);
        assert_eq!(of("path"), ["\"/a.A/Get\""; 4]);
        assert_eq!(of("peer"), ["\"caller\""; 4]);
    }

    #[tokio::test]
    async fn errors_alone_are_all_but_ok() {
        assert_eq!(logged(Which::Errors, &MIXED).await.len(), 3);
    }

    #[tokio::test]
    async fn a_share_is_about_so_many() {
        let many = [Outcome::Answered(0); 4_000];
        let lines = logged(Which::Share(0.25), &many).await.len();
        assert!((800..1_200).contains(&lines), "{lines}");
        assert_eq!(logged(Which::Share(0.0), &many).await.len(), 0);
    }

    #[test]
    fn a_queue_that_is_full_holds_nobody_up_and_is_counted() {
        let (queue, _entries) = sync_channel(2);
        let counters = Arc::new(Counters::default());
        let log = AccessLog(Some(Arc::new(On {
            which: Which::Share(1.0),
            queue,
            counters: Arc::clone(&counters),
        })));
        let metrics = Metrics::default().logging(log.clone());
        let name = ServiceName::new("a.A").unwrap();
        let way = (ConnectionClass::Internal, Lane::GENERAL);
        let target = metrics.counters(&name, Direction::Inbound, way);
        for _ in 0..5 {
            drop(
                metrics
                    .call(&target, Instant::now())
                    .noted(log.note("/a.A/Get", None)),
            );
        }
        assert_eq!(counters.dropped.load(Ordering::Relaxed), 3);
        assert!(
            metrics
                .render()
                .contains("sidelane_access_log_dropped_total 3\n")
        );
    }

    #[test]
    fn a_long_path_is_cut() {
        let (queue, _entries) = sync_channel(2);
        let log = AccessLog(Some(Arc::new(On {
            which: Which::Errors,
            queue,
            counters: Arc::default(),
        })));
        let path = format!("/{}", "ä".repeat(PATH_LIMIT));
        let note = log.note(&path, None).unwrap();
        assert_eq!(note.path.len(), PATH_LIMIT - 1);
        assert!(AccessLog::default().note("/a.A/Get", None).is_none());
    }
}
