//! Tells by its first bytes what a connection speaks. HTTP/2 with prior knowledge and HTTP CONNECT
//! are served on the outbound port; everything else gets an answer in its own protocol that says
//! what to do.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How an HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Methods of HTTP/1.1, as far as they begin differently.
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
];

/// How a URL begins that a proxy is asked for (RFC 9112 §3.2.2).
const SCHEME: &[u8] = b"http://";

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1, asking a proxy for a whole URL.
    Absolute,
    /// HTTP/1.1, asking for a tunnel.
    Connect,
    /// A TLS handshake.
    Tls,
    /// Nothing known.
    Garbage,
    /// It ended before it said anything.
    Nothing,
}

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub(super) struct Prefixed<Stream> {
    /// What was read.
    read: Vec<u8>,
    /// How much of it was given to those who read on.
    given: usize,
    stream: Stream,
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Prefixed<Stream> {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            read: Vec::new(),
            given: 0,
            stream,
        }
    }

    /// Reads until `wanted` bytes are there, or the stream ends. Returns what is there, `wanted`
    /// bytes at most.
    pub(super) async fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.read.len() < wanted {
            if self.read_at_most(wanted).await? == 0 {
                break;
            }
        }
        Ok(&self.read[..self.read.len().min(wanted)])
    }

    /// Takes off a head of HTTP/1, up to its blank line. What came behind it is still there.
    /// `None`: it is longer than `limit`.
    pub(super) async fn head(&mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        const BLANK: &[u8] = b"\r\n\r\n";
        let mut searched = 0_usize;
        loop {
            let from = searched.saturating_sub(BLANK.len() - 1);
            let found = self.read[from..]
                .windows(BLANK.len())
                .position(|window| window == BLANK);
            if let Some(found) = found {
                let rest = self.read.split_off(from + found + BLANK.len());
                return Ok(Some(std::mem::replace(&mut self.read, rest)));
            }
            searched = self.read.len();
            if searched >= limit {
                return Ok(None);
            }
            if self.read_at_most(limit).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads more, up to `limit` bytes in all; 0 at the stream's end.
    async fn read_at_most(&mut self, limit: usize) -> io::Result<usize> {
        let room = limit.saturating_sub(self.read.len()) as u64;
        (&mut self.stream).take(room).read_buf(&mut self.read).await
    }

    /// Forgets the first bytes: they were not for those who read on.
    pub(super) fn consume(&mut self) {
        self.given = self.read.len();
    }

    /// The stream itself.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Reads as little as it takes to know.
    pub(super) async fn spoken(&mut self) -> io::Result<Spoken> {
        for wanted in 1..=PREFACE.len() {
            let seen = self.peek(wanted).await?;
            if seen.len() < wanted {
                return Ok(if seen.is_empty() {
                    Spoken::Nothing
                } else {
                    Spoken::Garbage
                });
            }
            if let Some(spoken) = recognise(seen) {
                return Ok(spoken);
            }
        }
        Ok(Spoken::Http2)
    }

    /// Reads on in a request of HTTP/1.1, as little as it takes to know how it names its target:
    /// no request is shorter than that.
    pub(super) async fn form(&mut self) -> io::Result<Spoken> {
        let method = self.read.len();
        let seen = self.peek(method + SCHEME.len()).await?;
        let absolute = seen[method..].eq_ignore_ascii_case(SCHEME);
        Ok(if absolute {
            Spoken::Absolute
        } else {
            Spoken::Http1
        })
    }
}

/// `None`: more bytes are needed.
fn recognise(seen: &[u8]) -> Option<Spoken> {
    if PREFACE.starts_with(seen) {
        return (seen.len() == PREFACE.len()).then_some(Spoken::Http2);
    }
    if b"\x16\x03".starts_with(seen) {
        return (seen.len() >= 2).then_some(Spoken::Tls);
    }
    if seen.starts_with(b"\x16\x03") {
        return Some(Spoken::Tls);
    }
    if let Some(method) = METHODS.iter().find(|method| seen.starts_with(method)) {
        return Some(if *method == b"CONNECT " {
            Spoken::Connect
        } else {
            Spoken::Http1
        });
    }
    let begun = METHODS.iter().any(|method| method.starts_with(seen));
    (!begun).then_some(Spoken::Garbage)
}

/// Says in the connection's own protocol that it cannot be served, and ends it.
pub(super) async fn refuse<Stream: AsyncWrite + Unpin>(
    stream: &mut Stream,
    spoken: Spoken,
) -> io::Result<()> {
    let answer = match spoken {
        Spoken::Http1 => http1(
            "505 HTTP Version Not Supported",
            "This port speaks HTTP/2 with prior knowledge (h2c), as gRPC clients do. \
             Call it with a gRPC client, or with `curl --http2-prior-knowledge`. \
             The admin pages have a port of their own (--admin).\n",
        ),
        Spoken::Absolute => http1(
            "501 Not Implemented",
            "This sidecar is a proxy for gRPC, and for whatever goes through a tunnel (CONNECT), \
             not for plain HTTP. Name it in `grpc_proxy` (grpcio, grpc-js) or in `https_proxy`, \
             which ask for a tunnel, and not in `http_proxy`.\n",
        ),
        // A fatal alert `protocol_version` (RFC 8446 §6.2): TLS clients show it by name.
        Spoken::Tls => vec![0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46],
        Spoken::Garbage => goaway(b"this port speaks HTTP/2 with prior knowledge (h2c)"),
        Spoken::Http2 | Spoken::Connect | Spoken::Nothing => return Ok(()),
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// A whole answer of HTTP/1.1, the connection's last.
pub(super) fn http1(status: &str, text: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

/// Empty SETTINGS, then GOAWAY with `PROTOCOL_ERROR` and a text (RFC 9113 §6.5, §6.8).
pub(super) fn goaway(text: &[u8]) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The texts are constants of a few dozen bytes: one byte holds the length.
    let length = u8::try_from(8 + text.len()).unwrap_or(8);
    let text = &text[..usize::from(length) - 8];
    let mut answer = SETTINGS.to_vec();
    answer.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    answer.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    answer.extend(text);
    answer
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Prefixed<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.read.len() {
            let part = (self.read.len() - self.given).min(into.remaining());
            into.put_slice(&self.read[self.given..self.given + part]);
            self.given += part;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Prefixed<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn spoken(first: &[u8]) -> Spoken {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(first).await.unwrap();
        drop(client);
        Prefixed::new(server).spoken().await.unwrap()
    }

    #[tokio::test]
    async fn each_protocol_is_told_by_its_first_bytes() {
        assert_eq!(spoken(PREFACE).await, Spoken::Http2);
        assert_eq!(spoken(b"POST / HTTP/1.1\r\n").await, Spoken::Http1);
        assert_eq!(spoken(b"PUT / HTTP/1.1\r\n").await, Spoken::Http1);
        assert_eq!(spoken(b"CONNECT a:1 HTTP/1.1\r\n").await, Spoken::Connect);
        assert_eq!(spoken(b"\x16\x03\x01\x02\x00\x01").await, Spoken::Tls);
        assert_eq!(spoken(b"\x00\x01\x02").await, Spoken::Garbage);
        assert_eq!(spoken(b"PRI * HTTP/1.0\r\n").await, Spoken::Garbage);
        assert_eq!(spoken(b"PRI").await, Spoken::Garbage);
        assert_eq!(spoken(b"").await, Spoken::Nothing);
    }

    #[tokio::test]
    async fn a_request_for_a_whole_url_is_told_from_others() {
        let cases: [(&[u8], Spoken); 5] = [
            (b"GET http://a/ HTTP/1.1\r\n\r\n", Spoken::Absolute),
            (b"OPTIONS HTTP://a/ HTTP/1.1\r\n\r\n", Spoken::Absolute),
            (b"GET / HTTP/1.1\r\n\r\n", Spoken::Http1),
            (b"OPTIONS * HTTP/1.1\r\n\r\n", Spoken::Http1),
            (b"GET htt", Spoken::Http1),
        ];
        for (first, expected) in cases {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(first).await.unwrap();
            drop(client);
            let mut prefixed = Prefixed::new(server);
            assert_eq!(prefixed.spoken().await.unwrap(), Spoken::Http1);
            assert_eq!(prefixed.form().await.unwrap(), expected, "{first:?}");
        }
    }

    #[tokio::test]
    async fn a_head_is_taken_off_and_what_follows_is_not() {
        let head = b"CONNECT a:1 HTTP/1.1\r\nx: y\r\n\r\n";
        for at_once in [1, 3, 1000] {
            let (mut client, server) = tokio::io::duplex(at_once);
            let all = [head.as_slice(), b"PRI and more"].concat();
            let writing = tokio::spawn(async move { client.write_all(&all).await });
            let mut prefixed = Prefixed::new(server);
            assert_eq!(prefixed.spoken().await.unwrap(), Spoken::Connect);
            let taken = prefixed.head(head.len()).await.unwrap().unwrap();
            assert_eq!(taken, head);
            assert_eq!(prefixed.peek(3).await.unwrap(), b"PRI");
            let mut rest = String::new();
            prefixed.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "PRI and more");
            writing.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_or_ends_early_is_none() {
        let head = b"CONNECT a:1 HTTP/1.1\r\n\r\n";
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(head).await.unwrap();
        let mut prefixed = Prefixed::new(server);
        assert_eq!(prefixed.head(head.len() - 1).await.unwrap(), None);
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(&head[..10]).await.unwrap();
        drop(client);
        let error = Prefixed::new(server).head(100).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_was_looked_at_is_still_read() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(PREFACE).await.unwrap();
        client.write_all(b"rest").await.unwrap();
        drop(client);
        let mut prefixed = Prefixed::new(server);
        assert_eq!(prefixed.spoken().await.unwrap(), Spoken::Http2);
        let mut all = Vec::new();
        prefixed.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [PREFACE.as_slice(), b"rest"].concat());
    }
}
