//! What an answer is made of: bytes that are there, or pieces that come. Of the second kind the
//! connection is told how it goes, since the bounds of an ordinary answer do not fit it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::page::NextPiece;

/// How long a connection with an answer of pieces may last: an hour of pieces, and a little for what
/// else it has carried, so that who sends them can say that they end.
pub const STREAM_AGE: Duration = Duration::from_secs(62 * 60);
/// How long a reader of one may take nothing of what is there for it. Then its connection is cut, so
/// that who never reads does not keep its place for an hour. It is seen by pieces that find no room, once
/// the kernel's buffers are full: ours has [`SEND_BUFFER`], and who has nothing to say is to fill them
/// now and then.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);
/// What the kernel holds for the reader of an answer of pieces, at most, in bytes (it takes as much again for
/// itself). By default it were megabytes.
pub const SEND_BUFFER: usize = 32 * 1024;

/// The body of an answer.
pub(super) enum AnswerBody {
    Whole(Full<Bytes>),
    Pieces(Pieces),
}

/// Pieces as they come.
pub(super) struct Pieces {
    pieces: NextPiece,
    end: oneshot::Receiver<()>,
    given: Given,
}

/// When a reader was given something after which it has not asked for more.
type Given = Arc<Mutex<Option<Instant>>>;

/// What a connection knows of the answer of pieces that goes on over it, if there is one.
#[derive(Debug, Default)]
pub(super) struct Going {
    going: Mutex<Option<(oneshot::Sender<()>, Given)>>,
    /// What it goes over, to be held to the bounds of such answers.
    socket: Option<Socket>,
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl Going {
    /// Answers go over this connection.
    pub(super) fn over(stream: &TcpStream) -> Self {
        Self {
            going: Mutex::default(),
            socket: SockRef::from(stream).try_clone().ok(),
        }
    }

    /// Begins one, whose reader may take nothing for so long.
    pub(super) fn begin(&self, pieces: NextPiece, stall: Duration) -> AnswerBody {
        if let Some(socket) = &self.socket
            && let Err(error) = bounded(socket, stall)
        {
            tracing::debug!(%error, "a reader that is away may keep its place for long");
        }
        let (ends, end) = oneshot::channel();
        let given = Given::default();
        *self.going() = Some((ends, Arc::clone(&given)));
        AnswerBody::Pieces(Pieces { pieces, end, given })
    }

    /// Has its reader left something lying for so long? `None` where there is no such answer.
    pub(super) fn stalled(&self, limit: Duration) -> Option<bool> {
        let going = self.going();
        let (_, given) = going.as_ref().filter(|(ends, _)| !ends.is_closed())?;
        let given = given.lock().unwrap_or_else(PoisonError::into_inner);
        Some(given.is_some_and(|at| at.elapsed() >= limit))
    }

    /// It ends after what was given out already.
    pub(super) fn end(&self) {
        let going = self.going().take();
        if let Some((ends, _)) = going {
            // It may have ended by itself.
            let _ = ends.send(());
        }
    }

    fn going(&self) -> MutexGuard<'_, Option<(oneshot::Sender<()>, Given)>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a machine that is gone, the kernel learns by what it does not acknowledge.
fn bounded(socket: &Socket, stall: Duration) -> io::Result<()> {
    socket.set_send_buffer_size(SEND_BUFFER)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stall))?;
    Ok(())
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Pieces(body) => body
                .poll(context)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

impl Pieces {
    /// The server asks for another piece when it has got rid of the one before.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let ended = Pin::new(&mut self.end).poll(context).is_ready();
        let next = match ended {
            true => Poll::Ready(None),
            false => (self.pieces)(context),
        };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        *given = matches!(next, Poll::Ready(Some(_))).then(Instant::now);
        next
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_goes_on_goes_over_a_bounded_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap());
        let (reader, accepted) = tokio::join!(reader, listener.accept());
        let (_reader, stream) = (reader.unwrap(), accepted.unwrap().0);
        let going = Going::over(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.send_buffer_size().unwrap() > 2 * SEND_BUFFER);
        going.begin(Box::new(|_| Poll::Pending), Duration::from_secs(7));
        // The kernel says what it takes for itself, too.
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(7))
        );
    }
}
