//! Carries a connection that is no business of the mesh on to where it was meant to go, as bytes:
//! TLS, HTTP/1, a server that speaks first. What is read on one side is written to the other before
//! more is read, so a slow reader holds back its writer; a half that ends, ends alone.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use crate::onward::{Onward, OnwardError, Origin};

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

/// Carries it on until both halves have ended. `begun` is told when the destination has answered.
pub(super) async fn splice<Stream>(
    stream: &mut Stream,
    origin: &Origin,
    onward: &Onward,
    begun: impl FnOnce(),
) -> Result<(), SpliceError>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(source) = origin.looped {
        let address = origin.destination.to_string();
        return Err(OnwardError::Loop { address, source }.into());
    }
    let (mut other, _open) = onward.dial(&origin.destination).await?;
    begun();
    copy_bidirectional_with_sizes(stream, &mut other, BUFFER, BUFFER).await?;
    Ok(())
}
