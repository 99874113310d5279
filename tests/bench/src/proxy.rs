//! The bare pass-through proxy, a process of its own; two in a row are the pair that is 1.0 in
//! every ratio. It is hyper's server on one side, hyper's client on the other, and the bodies
//! untouched between them: what any proxy on this stack must pay. It must never do less than
//! carry a call, nor anything more.

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

use crate::http2;

/// Serves until the listener fails; everything goes to `upstream`.
pub(crate) async fn serve(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            if let Err(error) = carry(stream, upstream).await {
                eprintln!("bare proxy: cannot reach {upstream}: {error}");
            }
        });
    }
}

/// One connection in, one connection out; the second ends when the first has. One upstream
/// connection shared by all was tried: the same within 3 %, and it would need to be re-dialled.
async fn carry(stream: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let sender = http2::connect::<Incoming>(upstream).await?;
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
