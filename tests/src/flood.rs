//! What an attacker sends: HTTP/2 frames by hand, many of them, each allowed or nearly so, that ask
//! for work and for nothing else. Bounded in count, and to an address that a test gives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::framed;
use crate::frames::{Frame, GOAWAY, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE};
use crate::wire::v1::VisitRequest;

/// DATA.
pub const DATA: u8 = 0;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// `RST_STREAM`.
pub const RST_STREAM: u8 = 3;
/// PING.
pub const PING: u8 = 6;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// On DATA and HEADERS: the stream's last.
pub const END_STREAM: u8 = 1;
/// On HEADERS and CONTINUATION: the headers end here.
pub const END_HEADERS: u8 = 4;
/// The method that users may call.
pub const VISIT: &str = "/sidelane.test.v1.Front/Visit";
/// What is told apart from the PINGs of a flood.
const LAST_PING: [u8; 8] = *b"the last";
/// Frames are written so many bytes at a time.
const PIECE: usize = 32 * 1024;
/// A write that takes longer has met a connection that reads no more.
const STUCK: Duration = Duration::from_secs(5);

/// A frame's bytes.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame below 16 MiB");
    let [_, high, middle, low] = length.to_be_bytes();
    let mut bytes = vec![high, middle, low, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call of this path, as HPACK has them without tables of its own (RFC 7541 §6).
#[must_use]
pub fn call(path: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: http`, and `:path` by its name.
    let mut block = vec![0x83, 0x86, 0x04];
    text(&mut block, path);
    for (name, value) in [
        (":authority", "front.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// A string that is not compressed (RFC 7541 §5.2), also a long one.
pub fn text(block: &mut Vec<u8>, text: &str) {
    let length = text.len();
    if length < 0x7F {
        block.push(u8::try_from(length).expect("it is short"));
    } else {
        block.push(0x7F);
        let mut rest = length - 0x7F;
        while rest >= 0x80 {
            block.push(u8::try_from(rest % 0x80).expect("it is below 128") | 0x80);
            rest /= 0x80;
        }
        block.push(u8::try_from(rest).expect("it is below 128"));
    }
    block.extend(text.as_bytes());
}

/// An attacker's connection.
pub struct Attacker {
    to: Box<dyn AsyncWrite + Send + Unpin>,
    reading: JoinHandle<()>,
    seen: Arc<Mutex<Ended>>,
}

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// The error code of its GOAWAY, if it sent one.
    pub goaway: Option<u32>,
    /// Streams that it reset.
    pub resets: u32,
    /// The error code of the first of them.
    pub reset: Option<u32>,
    /// Streams that it answered, counted by their heads and trailers.
    pub answers: u32,
    /// It has answered the PING by which [`Attacker::settled`] asks.
    pub settled: bool,
}

impl Attacker {
    /// Opens a connection as HTTP/2 wants it, with these settings.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Result<Self> {
        Self::after(&[], address, settings).await
    }

    /// The same, once these bytes were said.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn after(
        before: &[u8],
        address: SocketAddr,
        settings: &[(u16, u32)],
    ) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .context("nobody listens")?;
        stream.set_nodelay(true)?;
        Self::over(stream, before, settings).await
    }

    /// The same, on whatever carries bytes.
    ///
    /// # Errors
    /// Nobody takes them.
    pub async fn over<Stream>(
        stream: Stream,
        before: &[u8],
        settings: &[(u16, u32)],
    ) -> Result<Self>
    where
        Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut from, mut to) = tokio::io::split(stream);
        to.write_all(before).await?;
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        to.write_all(PREFACE).await?;
        to.write_all(&frame(SETTINGS, 0, 0, &payload)).await?;
        to.flush().await?;
        let seen = Arc::new(Mutex::new(Ended::default()));
        let noted = Arc::clone(&seen);
        let code = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        let reading = tokio::spawn(async move {
            while let Ok(frame) = Frame::read(&mut from).await {
                let mut ended = noted.lock().expect("nobody panics with it");
                match frame.kind {
                    GOAWAY if frame.payload.len() >= 8 => {
                        ended.goaway = Some(code(&frame.payload[4..8]));
                    }
                    RST_STREAM => {
                        ended.resets += 1;
                        ended.reset.get_or_insert(code(&frame.payload));
                    }
                    HEADERS => ended.answers += 1,
                    PING if frame.payload[..] == LAST_PING => ended.settled = true,
                    _ => {}
                }
            }
        });
        Ok(Self {
            to: Box::new(to),
            reading,
            seen,
        })
    }

    /// Sends these frames, as fast as they are taken. Returns how many were.
    pub async fn send(&mut self, frames: impl Iterator<Item = Vec<u8>>) -> usize {
        let (mut taken, mut held, mut piece) = (0, 0, Vec::with_capacity(2 * PIECE));
        for frame in frames {
            piece.extend(frame);
            held += 1;
            if piece.len() >= PIECE {
                if !self.write(&piece).await {
                    return taken;
                }
                taken += held;
                held = 0;
                piece.clear();
            }
        }
        if self.write(&piece).await {
            taken + held
        } else {
            taken
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = async {
            self.to.write_all(bytes).await?;
            self.to.flush().await
        };
        matches!(timeout(STUCK, written).await, Ok(Ok(())))
    }

    /// Waits until the other side has taken in all that was sent, or has ended the connection, and
    /// says what came until then and whether the connection still stands.
    ///
    /// # Panics
    /// If it does neither in time.
    pub async fn settled(&mut self, within: Duration) -> (Ended, bool) {
        let _ = self.write(&frame(PING, 0, 0, &LAST_PING)).await;
        let settled = async {
            while !self.seen().settled && !self.reading.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let settled = timeout(within, settled).await;
        settled.unwrap_or_else(|_| panic!("neither taken in nor ended: {:?}", self.seen()));
        (self.seen(), !self.reading.is_finished())
    }

    /// What came so far.
    #[must_use]
    pub fn seen(&self) -> Ended {
        *self.seen.lock().expect("nobody panics with it")
    }

    /// Waits until the other side has ended the connection, and says how; `None`: it has not.
    pub async fn ended(mut self, within: Duration) -> Option<Ended> {
        timeout(within, &mut self.reading).await.ok()?.ok()?;
        let seen = *self.seen.lock().expect("nobody panics with it");
        Some(seen)
    }
}

impl Drop for Attacker {
    /// Who goes reads no more either: the connection closes.
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A whole call of `Front.Visit` whose message, which is given back, has so many bytes of payload.
#[must_use]
pub fn visit(stream: u32, payload: usize) -> Vec<u8> {
    let bytes = vec![b'p'; payload];
    let message = VisitRequest {
        payload: bytes.into(),
    };
    let mut request = frame(HEADERS, END_HEADERS, stream, &call(VISIT));
    let message = framed(&message.encode_to_vec());
    request.extend(frame(DATA, END_STREAM, stream, &message));
    request
}

/// The headers of a call of this path, and those of each one after it on the same connection: all of
/// them in the table, which is six bytes.
fn twice(path: &str) -> (Vec<u8>, [u8; 6]) {
    let mut first = vec![0x83, 0x86, 0x44];
    text(&mut first, path);
    first.push(0x41);
    text(&mut first, "front.example");
    first.push(0x5F);
    text(&mut first, "application/grpc");
    first.push(0x40);
    text(&mut first, "te");
    text(&mut first, "trailers");
    (first, [0x83, 0x86, 0xC1, 0xC0, 0xBF, 0xBE])
}

/// Calls of this path, from a link's second stream on, each with this frame behind it.
fn each_with(
    path: &str,
    count: u32,
    (kind, payload): (u8, [u8; 4]),
) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    let (first, later) = twice(path);
    (0..count).map(move |number| {
        let stream = 2 * number + 3;
        let block = if number == 0 { &first[..] } else { &later };
        let mut bytes = frame(HEADERS, END_HEADERS, stream, block);
        bytes.extend(frame(kind, 0, stream, &payload));
        bytes
    })
}

/// Calls of this path that are given up at once.
pub fn rapid_reset(path: &str, count: u32) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    each_with(path, count, (RST_STREAM, [0, 0, 0, 8]))
}

/// Calls of this path with an error for which the other side must reset them: a window that grows
/// beyond what there is (RFC 9113 §6.9.1).
pub fn made_you_reset(path: &str, count: u32) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    each_with(path, count, (WINDOW_UPDATE, [0x7F, 0xFF, 0xFF, 0xFF]))
}

/// A call of this path, and DATA for streams before it that were never opened, each of which is to be
/// reset (RFC 9113 §5.1.1).
pub fn late_data(path: &str, count: u32) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    let opened = frame(HEADERS, END_HEADERS, 2 * count + 3, &call(path));
    let late = (0..count).map(|number| frame(DATA, 0, 2 * number + 3, b"d"));
    std::iter::once(opened).chain(late)
}

/// One call of this path whose headers never end, on a link's second stream.
pub fn continuation(path: &str, count: usize) -> impl Iterator<Item = Vec<u8>> {
    let begun = frame(HEADERS, 0, 3, &call(path));
    let mut field = vec![0];
    text(&mut field, "x");
    text(&mut field, "y");
    let more = frame(CONTINUATION, 0, 3, &field);
    std::iter::once(begun).chain(std::iter::repeat_n(more, count))
}

/// The same frame again and again.
pub fn same(frame: Vec<u8>, count: usize) -> impl Iterator<Item = Vec<u8>> {
    std::iter::repeat_n(frame, count)
}

/// Calls of this path whose headers are one entry of the table, named as often as a frame takes it: 16
/// KiB that unfold to 60 MiB.
pub fn hpack_bomb(path: &str, count: u32) -> impl Iterator<Item = Vec<u8>> {
    let path = path.to_owned();
    (0..count).map(move |number| {
        let mut block = call(&path);
        if number == 0 {
            // Literal, with a name of its own, kept in the table.
            block.push(0x40);
            text(&mut block, "x");
            text(&mut block, &"b".repeat(4_000));
        }
        block.resize(16 * 1024, 0xBE);
        frame(HEADERS, END_HEADERS, 2 * number + 3, &block)
    })
}

/// The frames of a call of this path that has 70 KiB of headers, which is more than anybody takes.
#[must_use]
pub fn oversize_headers(path: &str, stream: u32) -> Vec<u8> {
    const PIECE: usize = 16 * 1024;
    let mut block = call(path);
    block.push(0);
    text(&mut block, "x-large");
    text(&mut block, &"v".repeat(70 * 1024));
    let pieces = block.len().div_ceil(PIECE);
    let frames = block.chunks(PIECE).enumerate().map(|(index, piece)| {
        let kind = if index == 0 { HEADERS } else { CONTINUATION };
        let flags = if index + 1 == pieces { END_HEADERS } else { 0 };
        frame(kind, flags, stream, piece)
    });
    frames.collect::<Vec<_>>().concat()
}

/// A connection that begins with these bytes, and goes on with no others.
///
/// # Errors
/// Nobody listens.
pub async fn slow_preface(address: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    // Who is turned away may find out here.
    let _ = stream.write_all(bytes).await;
    Ok(stream)
}

/// Was it ended by the other side?
pub async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let read = async {
        let mut bytes = [0; 64];
        while let Ok(1..) = stream.read(&mut bytes).await {}
    };
    timeout(within, read).await.is_ok()
}
