//! Keeps a user's connection from asking for work without asking for anything: HTTP/2 has frames
//! that cost their receiver something and carry nothing (PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`,
//! empty DATA, `RST_STREAM`), and no library below us counts them all. Here they are counted by their
//! nine-byte heads, against what comes back in time and by what was sent to the user. What was
//! counted too often is read no further.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::leaving::Leaving;

/// The connection's first bytes, before any frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// A frame's head, in bytes (RFC 9113 §4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Of a head's last four bytes, what names the stream.
const STREAM: u32 = 0x7FFF_FFFF;
/// On DATA and HEADERS: the stream's last.
const END_STREAM: u8 = 1;
/// On CONTINUATION: the headers' last.
const END_HEADERS: u8 = 4;

/// `WINDOW_UPDATE` frames that each call may bring beside those of the budget.
const WINDOWS_A_CALL: f64 = 4.0;

/// How many frames of a kind there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// At once.
    pub burst: f64,
    /// So many more each second.
    pub each_second: f64,
    /// One more for so many bytes that were sent to the user; 0 for none.
    pub bytes_each: f64,
}

/// What a connection may send of frames that carry nothing.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// `RST_STREAM`: calls given up (rapid reset, CVE-2023-44487).
    pub resets: Bound,
    /// `WINDOW_UPDATE`: who reads sends one for a piece of what it read.
    pub windows: Bound,
    /// PING, SETTINGS, PRIORITY, GOAWAY, empty DATA and CONTINUATION, and what is not known. Clients that
    /// measure their bandwidth send a PING with what they read.
    pub talk: Bound,
}

impl Budget {
    /// A user's. Ten thousand calls may be given up at once; who does that again and again is no
    /// caller.
    pub const USERS: Self = Self {
        resets: Bound {
            burst: 10_000.0,
            each_second: 1_000.0,
            bytes_each: 0.0,
        },
        windows: Bound {
            burst: 5_000.0,
            each_second: 500.0,
            bytes_each: 64.0,
        },
        talk: Bound {
            burst: 1_000.0,
            each_second: 100.0,
            bytes_each: 4096.0,
        },
    };
}

impl Bound {
    /// For `/config`.
    #[must_use]
    pub fn describe(&self) -> Value {
        json!({
            "at_once": self.burst,
            "each_second": self.each_second,
            "bytes_sent_for_one_more": self.bytes_each,
        })
    }
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// Calls given up.
    #[error("too many RST_STREAM frames")]
    Resets,
    /// Windows.
    #[error("too many WINDOW_UPDATE frames")]
    Windows,
    /// Frames that carry nothing.
    #[error("too many frames without content")]
    Talk,
}

/// A frame, as its head says.
#[derive(Debug, Clone, Copy)]
struct Seen {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads of frames in bytes, however they come.
#[derive(Debug)]
struct Heads {
    /// Bytes of the preface and of frames that are passed over.
    skip: usize,
    head: [u8; HEAD],
    known: usize,
}

impl Heads {
    /// After so many bytes.
    fn after(skip: usize) -> Self {
        Self {
            skip,
            head: [0; HEAD],
            known: 0,
        }
    }

    /// The next frame that begins in these bytes, which are taken up to there.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Seen> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                *bytes = &bytes[skipped..];
                continue;
            }
            let part = (HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + part].copy_from_slice(&bytes[..part]);
            self.known += part;
            *bytes = &bytes[part..];
            if self.known == HEAD {
                self.known = 0;
                let [high, middle, low, kind, flags, stream @ ..] = self.head;
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                return Some(Seen {
                    length: self.skip,
                    kind,
                    flags,
                    stream: u32::from_be_bytes(stream) & STREAM,
                });
            }
        }
        None
    }
}

/// Counts frames as their bytes come.
#[derive(Debug)]
pub struct Watch {
    budget: Budget,
    /// What is left of resets, windows and talk.
    left: [f64; 3],
    at: Instant,
    heads: Heads,
}

impl Watch {
    /// From a connection's first byte on.
    #[must_use]
    pub fn new(budget: Budget, now: Instant) -> Self {
        Self {
            budget,
            left: [budget.resets, budget.windows, budget.talk].map(|bound| bound.burst),
            at: now,
            heads: Heads::after(PREFACE),
        }
    }

    /// Takes in what was received. `reset` is told each stream that was given up.
    ///
    /// # Errors
    /// There was too much of something.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        now: Instant,
        mut reset: impl FnMut(u32),
    ) -> Result<(), Flood> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.gain(|bound| passed * bound.each_second);
        while let Some(seen) = self.heads.next(&mut bytes) {
            self.frame(seen)?;
            if seen.kind == RST_STREAM {
                reset(seen.stream);
            }
        }
        Ok(())
    }

    /// Takes in how many bytes were sent.
    pub fn wrote(&mut self, bytes: usize) {
        // A connection sends no 2^52 bytes at once.
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let bytes = bytes as f64;
        self.gain(|bound| {
            if bound.bytes_each > 0.0 {
                bytes / bound.bytes_each
            } else {
                0.0
            }
        });
    }

    fn gain(&mut self, gained: impl Fn(&Bound) -> f64) {
        let bounds = [self.budget.resets, self.budget.windows, self.budget.talk];
        for (left, bound) in self.left.iter_mut().zip(&bounds) {
            *left = (*left + gained(bound)).min(bound.burst);
        }
    }

    fn frame(&mut self, seen: Seen) -> Result<(), Flood> {
        let (empty, flags) = (seen.length == 0, seen.flags);
        let (place, flood) = match seen.kind {
            RST_STREAM => (0, Flood::Resets),
            WINDOW_UPDATE => (1, Flood::Windows),
            // A request, its end, or something in it.
            DATA if !empty || flags & END_STREAM != 0 => return Ok(()),
            CONTINUATION if !empty || flags & END_HEADERS != 0 => return Ok(()),
            HEADERS => {
                // Some clients open each call's windows anew.
                let most = self.budget.windows.burst;
                self.left[1] = (self.left[1] + WINDOWS_A_CALL).min(most);
                return Ok(());
            }
            _ => (2, Flood::Talk),
        };
        let left = &mut self.left[place];
        if *left < 1.0 {
            return Err(flood);
        }
        *left -= 1.0;
        Ok(())
    }
}

/// A byte stream whose frames are counted.
pub struct Calm<Stream> {
    stream: Stream,
    watch: Watch,
    flood: Arc<Noticed>,
    /// Frames that are sent.
    sent: Heads,
    leaving: Arc<Leaving>,
}

/// What was noticed on a connection, for whoever ends it.
#[derive(Debug, Default)]
pub struct Noticed {
    flood: std::sync::OnceLock<Flood>,
    notify: Notify,
}

impl Noticed {
    /// Waits until there is too much of something.
    pub async fn flood(&self) -> Flood {
        loop {
            let notified = self.notify.notified();
            if let Some(flood) = self.flood.get() {
                return *flood;
            }
            notified.await;
        }
    }
}

impl<Stream> Calm<Stream> {
    /// Counts against this budget, and tells which calls have left.
    #[must_use]
    pub fn new(stream: Stream, budget: Budget, flood: Arc<Noticed>, leaving: Arc<Leaving>) -> Self {
        Self {
            stream,
            watch: Watch::new(budget, Instant::now()),
            flood,
            sent: Heads::after(0),
            leaving,
        }
    }

    /// These bytes were sent.
    fn wrote(&mut self, mut bytes: &[u8]) {
        self.watch.wrote(bytes.len());
        while let Some(seen) = self.sent.next(&mut bytes) {
            let last = match seen.kind {
                DATA | HEADERS => seen.flags & END_STREAM != 0,
                kind => kind == RST_STREAM,
            };
            if last {
                self.leaving.left(seen.stream);
            }
        }
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Calm<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever was told of it ends the connection, and reads no more of it.
        if self.flood.flood.get().is_some() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let Self { watch, leaving, .. } = &mut *self;
        let read = &into.filled()[before..];
        if let Err(flood) = watch.read(read, Instant::now(), |stream| leaving.left(stream)) {
            into.set_filled(before);
            let _ = self.flood.flood.set(flood);
            self.flood.notify.notify_waiters();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Calm<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.wrote(&bytes[..wrote]);
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        let wrote = std::task::ready!(wrote)?;
        let mut left = wrote;
        for piece in bytes {
            let part = left.min(piece.len());
            self.wrote(&piece[..part]);
            left -= part;
            if left == 0 {
                break;
            }
        }
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        bytes.extend(payload);
        bytes
    }

    /// What 20,000 of these frames come to, at once.
    fn flooded(one: &[u8]) -> Option<(usize, Flood)> {
        let now = Instant::now();
        let mut watch = Watch::new(Budget::USERS, now);
        watch.read(&[0; PREFACE], now, |_| {}).unwrap();
        (0..20_000).find_map(|number| Some((number, watch.read(one, now, |_| {}).err()?)))
    }

    #[test]
    fn each_kind_of_flood_is_found_at_its_bound() {
        assert_eq!(
            flooded(&frame(3, 0, &[0; 4])),
            Some((10_000, Flood::Resets))
        );
        assert_eq!(
            flooded(&frame(8, 0, &[0; 4])),
            Some((5_000, Flood::Windows))
        );
        for talk in [
            frame(6, 0, &[0; 8]),
            frame(4, 0, &[]),
            frame(2, 0, &[0; 5]),
            frame(7, 0, &[0; 8]),
            frame(0, 0, &[]),
            frame(9, 0, &[]),
            frame(16, 0, b"u=1"),
            frame(200, 0, &[0; 100]),
        ] {
            assert_eq!(flooded(&talk), Some((1_000, Flood::Talk)), "{talk:?}");
        }
    }

    #[test]
    fn calls_are_no_flood_and_time_and_answers_give_room_again() {
        let call = [
            // As grpcio opens one.
            frame(8, 0, &[0; 4]),
            frame(8, 0, &[0; 4]),
            frame(1, 4, &[0x82; 20]),
            frame(8, 0, &[0; 4]),
            frame(0, 0, &[7; 100]),
            frame(0, 1, &[]),
        ];
        assert_eq!(flooded(&call.concat()), None);
        let now = Instant::now();
        let mut watch = Watch::new(Budget::USERS, now);
        watch.read(&[0; PREFACE], now, |_| {}).unwrap();
        let (ping, window) = (frame(6, 0, &[0; 8]), frame(8, 0, &[0; 4]));
        let pings = |watch: &mut Watch, now| {
            let taken = (0..20_000).take_while(|_| watch.read(&ping, now, |_| {}).is_ok());
            let taken = taken.count();
            // What follows the head that was refused. A connection would end there.
            watch.read(&[0; 8], now, |_| {}).unwrap();
            taken
        };
        assert_eq!(pings(&mut watch, now), 1_000);
        let later = now + Duration::from_secs(2);
        assert_eq!(pings(&mut watch, later), 200);
        watch.wrote(4096 * 50);
        assert_eq!(pings(&mut watch, later), 50);
        // Who reads a megabyte may say so with every 64 bytes of it.
        for _ in 0..1_000 {
            watch.wrote(1024);
            for _ in 0..16 {
                watch.read(&window, later, |_| {}).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn frames_are_counted_alike_however_their_bytes_come(
            kinds in prop::collection::vec((0_u8..12, 0_u8..8, 0_usize..30), 0..60),
            cuts in prop::collection::vec(1_usize..40, 1..6),
        ) {
            let now = Instant::now();
            let mut bytes = vec![0; PREFACE];
            for (kind, flags, length) in kinds {
                bytes.extend(frame(kind, flags, &vec![0xAA; length]));
            }
            let mut whole = Watch::new(Budget::USERS, now);
            whole.read(&bytes, now, |_| {}).unwrap();
            let mut cut = Watch::new(Budget::USERS, now);
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                cut.read(part, now, |_| {}).unwrap();
                rest = behind;
            }
            prop_assert_eq!(whole.left, cut.left);
            prop_assert_eq!((cut.heads.skip, cut.heads.known), (0, 0));
        }
    }
}
