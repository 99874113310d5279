//! The bare pass-through proxy, a process of its own; two in a row are the pair that is 1.0 in
//! every ratio. It is hyper's server on one side, hyper's client on the other, and the bodies
//! untouched between them, with rustls on the way between the two where they are to prove who they
//! are: what any proxy on this stack must pay. It must never do less than carry a call, nor anything
//! more.

use anyhow::Result;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::http2;
use crate::tls::{self, Certificates, End};

/// Where this proxy speaks TLS.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    accept: Option<TlsAcceptor>,
    dial: Option<TlsConnector>,
}

impl Ends {
    /// As the callee's proxy with the certificates of the first folder, and as the caller's with
    /// those of the second; in the clear where there is none.
    pub(crate) fn new(accept: Option<&Path>, dial: Option<&Path>) -> Result<Self> {
        let accept = accept.map(|folder| Certificates::in_folder(folder).acceptor(End::Callee));
        let dial = dial.map(|folder| Certificates::in_folder(folder).connector(End::Caller));
        Ok(Self {
            accept: accept.transpose()?,
            dial: dial.transpose()?,
        })
    }
}

/// Serves until the listener fails; everything goes to `upstream`.
pub(crate) async fn serve(
    listener: TcpListener,
    upstream: SocketAddr,
    ends: Ends,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let ends = ends.clone();
        tokio::spawn(async move {
            if let Err(error) = accept(stream, upstream, ends).await {
                eprintln!("bare proxy: from or to {upstream}: {error}");
            }
        });
    }
}

async fn accept(stream: TcpStream, upstream: SocketAddr, ends: Ends) -> io::Result<()> {
    match ends.accept {
        None => carry(stream, upstream, ends.dial).await,
        Some(acceptor) => carry(acceptor.accept(stream).await?, upstream, ends.dial).await,
    }
}

/// One connection in, one connection out; the second ends when the first has. One upstream
/// connection shared by all was tried: the same within 3 %, and it would need to be re-dialled.
async fn carry<Stream>(
    stream: Stream,
    upstream: SocketAddr,
    dial: Option<TlsConnector>,
) -> io::Result<()>
where
    Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let onward = http2::dial(upstream).await?;
    let sender = match dial {
        None => http2::over::<Incoming, _>(onward).await?,
        Some(connector) => {
            let name = tls::name(End::Callee).map_err(io::Error::other)?;
            http2::over(connector.connect(name, onward).await?).await?
        }
    };
    // `send_request` needs `&mut`, so each call has its clone: two counted references, as small
    // as hyper lets it be. A failure upstream resets the stream, and the caller counts it.
    let service = service_fn(move |request: Request<Incoming>| {
        let mut sender = sender.clone();
        sender.send_request(request)
    });
    // A broken connection is the caller's to report: it counts the calls that failed.
    let _ = http2::server()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    Ok(())
}
