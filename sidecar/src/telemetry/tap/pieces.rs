//! What a tap tells, as it is read: lines of JSON, a piece of some of them at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{Listening, Record, line};
use crate::telemetry::target::add;

/// How often it is looked whether calls found no room.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When nothing else is said for so long, [`NOTHING`] is: each side learns by it that the other one is gone.
pub(super) const QUIET: Duration = Duration::from_secs(5);
/// A line of nothing, of which terminals show one empty line. It is long since a reader that does not read is
/// seen by what finds no room: it fills what the kernels at both ends hold, some 100 KiB, in about half a
/// minute, where empty lines would take hours.
pub(super) const NOTHING: &[u8] = &{
    let mut line = [b'\r'; PIECE];
    line[PIECE - 1] = b'\n';
    line
};
/// About so many bytes go into one piece.
const PIECE: usize = 16 * 1024;

/// The lines of a tap.
pub struct Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send>>);

struct Telling {
    listening: Listening,
    node: Arc<str>,
    /// How it ends by itself.
    until: Option<Instant>,
    calls: u64,
    /// What was not told, and was said to be: too fast, and too many at once.
    dropped: [u64; 2],
    last: Instant,
    over: bool,
}

impl Listening {
    /// What it hears, from this node. `kept_back` says why headers are not told, where somebody asked
    /// for them.
    #[must_use]
    pub fn pieces(self, node: &str, kept_back: Option<&str>) -> Pieces {
        let now = Instant::now();
        let longest = self.tap.wish.longest;
        let told = match (self.tap.wish.headers, kept_back) {
            (true, _) => "told",
            (false, Some(why)) => why,
            (false, None) => "not asked for",
        };
        let begun = line::begun(node, told);
        let telling = Telling {
            listening: self,
            node: node.into(),
            until: longest.and_then(|longest| now.checked_add(longest)),
            calls: 0,
            dropped: [0; 2],
            last: now,
            over: false,
        };
        Pieces(Box::pin(unfold(
            (telling, Some(begun)),
            |(mut telling, begun)| async move {
                let piece = match begun {
                    Some(begun) => piece([begun]),
                    None => telling.next().await?,
                };
                telling.last = Instant::now();
                Some((piece, (telling, None)))
            },
        )))
    }
}

impl Pieces {
    /// The next one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.as_mut().poll_next(context)
    }
}

impl Telling {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        loop {
            let dropped = self.dropped();
            if !dropped.is_empty() {
                return Some(piece(dropped));
            }
            // However many calls wait.
            let now = Instant::now();
            if self.until.is_some_and(|until| now >= until) {
                return Some(self.end("time"));
            }
            let wish = &self.listening.tap.wish;
            if wish.limit.is_some_and(|limit| self.calls >= limit) {
                return Some(self.end("limit"));
            }
            let quiet = self.last + QUIET;
            let next = [Some(now + LOOK_EVERY), Some(quiet), self.until];
            let next = next.into_iter().flatten().min().unwrap_or(quiet);
            tokio::select! {
                biased;
                record = self.listening.records.recv() => return Some(self.calls(record?.as_ref())),
                () = sleep_until(next) => {}
            }
            if Instant::now() >= quiet {
                return Some(Bytes::from_static(NOTHING));
            }
        }
    }

    /// This call, and those that wait behind it, while they fit into a piece.
    fn calls(&mut self, first: &Record) -> Bytes {
        let mut text = Vec::new();
        self.append(&mut text, first);
        let limit = self.listening.tap.wish.limit;
        while text.len() < PIECE
            && limit.is_none_or(|limit| self.calls < limit)
            && let Ok(record) = self.listening.records.try_recv()
        {
            self.append(&mut text, &record);
        }
        text.into()
    }

    fn append(&mut self, text: &mut Vec<u8>, record: &Record) {
        let wish = &self.listening.tap.wish;
        let redaction = wish.headers.then_some(&wish.redaction);
        let call = line::call(&self.node, record, redaction);
        text.extend_from_slice(call.to_string().as_bytes());
        text.push(b'\n');
        self.calls += 1;
        add(&self.listening.hub.told);
    }

    /// What was dropped and not told yet.
    fn dropped(&mut self) -> Vec<Value> {
        let tap = &self.listening.tap;
        let all = [&tap.too_fast, &tap.too_many].map(|it| it.load(Ordering::Relaxed));
        let before = std::mem::replace(&mut self.dropped, all);
        let since = [all[0] - before[0], all[1] - before[1]];
        let whys = ["too fast", "too many open calls"].into_iter().zip(since);
        let some = whys.filter(|(_, since)| *since > 0);
        some.map(|(why, since)| line::dropped(&self.node, why, since))
            .collect()
    }

    fn end(&mut self, why: &str) -> Bytes {
        self.over = true;
        let dropped = self.dropped();
        let all = self.dropped.iter().sum();
        let ended = line::ended(&self.node, why, (self.calls, all));
        piece(dropped.into_iter().chain([ended]))
    }
}

fn piece(lines: impl IntoIterator<Item = Value>) -> Bytes {
    let lines: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
    lines.into()
}
