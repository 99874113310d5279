//! Carries a connection that is no business of the mesh on to where it was meant to go, as bytes:
//! TLS, HTTP/1, a server that speaks first. What is read on one side is written to the other before
//! more is read, so a slow reader holds back its writer; a half that ends, ends alone.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixStream};

use super::sniff::Prefixed;
use crate::lane::settings;
use crate::onward::{Onward, OnwardError, Origin};
use crate::turns::Turns;
use sidelane_proto::model::Lane;

/// What is read at once, each way, in bytes: all that a splice holds, apart from the kernel.
pub(super) const BUFFER: usize = 16 * 1024;

/// How a splice ended that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpliceError {
    /// There is no connection onward.
    #[error("{0}")]
    Onward(#[from] OnwardError),
    /// One of the two sides broke.
    #[error("{0}")]
    Broken(#[from] io::Error),
}

/// A connection that can end so that nobody takes what came for all there is.
pub(super) trait Cut {
    /// Has the other side see a reset, where the transport knows one, when this is dropped; or the
    /// end of a whole stream again.
    fn cut(&self, cut: bool);
}

impl Cut for TcpStream {
    fn cut(&self, cut: bool) {
        // Where this fails, the connection is gone already.
        let _ = SockRef::from(self).set_linger(cut.then_some(Duration::ZERO));
    }
}

/// Unix sockets know no reset.
impl Cut for UnixStream {
    fn cut(&self, _: bool) {}
}

/// Nor do pipes within a process.
impl Cut for DuplexStream {
    fn cut(&self, _: bool) {}
}

impl<Stream: Cut + AsyncRead + AsyncWrite + Unpin> Cut for Prefixed<Stream> {
    fn cut(&self, cut: bool) {
        self.stream().cut(cut);
    }
}

/// Carries it on until both halves have ended. One that breaks, or is dropped before, is cut on both
/// sides: what was carried so far must not look whole. `begun` is told when the destination has answered.
pub(super) async fn splice<Stream>(
    stream: &mut Stream,
    origin: &Origin,
    onward: &Onward,
    begun: impl FnOnce(),
) -> Result<(), SpliceError>
where
    Stream: AsyncRead + AsyncWrite + Unpin + Cut,
{
    if let Some(source) = origin.looped {
        let address = origin.destination.to_string();
        return Err(OnwardError::Loop { address, source }.into());
    }
    let (mut other, _open) = onward.dial(&origin.destination).await?;
    begun();
    stream.cut(true);
    other.cut(true);
    let turn = settings(Lane::GENERAL).turn;
    let mut near = Turns::new(&mut *stream, turn, None);
    let mut far = Turns::new(&mut other, turn, None);
    copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await?;
    stream.cut(false);
    other.cut(false);
    Ok(())
}
