//! Tells by its first bytes what a connection speaks. Only HTTP/2 with prior knowledge is served
//! on the outbound port; everything else gets an answer in its own protocol that says what to do.

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

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1.1.
    Http1,
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
    prefix: [u8; PREFACE.len()],
    filled: usize,
    given: usize,
    stream: Stream,
}

impl<Stream: AsyncRead + AsyncWrite + Unpin> Prefixed<Stream> {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            prefix: [0; PREFACE.len()],
            filled: 0,
            given: 0,
            stream,
        }
    }

    /// Reads until `wanted` bytes are there, or the stream ends. Returns what is there.
    pub(super) async fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.filled < wanted {
            match self
                .stream
                .read(&mut self.prefix[self.filled..wanted])
                .await?
            {
                0 => break,
                read => self.filled += read,
            }
        }
        Ok(&self.prefix[..self.filled])
    }

    /// Forgets the first bytes: they were not for those who read on.
    pub(super) fn consume(&mut self) {
        self.given = self.filled;
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
        Spoken::Connect => http1(
            "501 Not Implemented",
            "This sidecar takes no tunnels. Dial this port itself with a gRPC client (h2c); \
             the path of the call names the service.\n",
        ),
        // A fatal alert `protocol_version` (RFC 8446 §6.2): TLS clients show it by name.
        Spoken::Tls => vec![0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46],
        Spoken::Garbage => goaway(b"this port speaks HTTP/2 with prior knowledge (h2c)"),
        Spoken::Http2 | Spoken::Nothing => return Ok(()),
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

fn http1(status: &str, text: &str) -> Vec<u8> {
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
        if self.given < self.filled {
            let part = (self.filled - self.given).min(into.remaining());
            into.put_slice(&self.prefix[self.given..self.given + part]);
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
