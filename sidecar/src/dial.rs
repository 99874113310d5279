//! Opens the sockets of this sidecar's own: to peers, to the services beside it, to control, and
//! to whatever a call was meant for. All of them carry one mark, so that rules that redirect an
//! app's connections to the sidecar leave the sidecar's own alone.

use std::io;
use std::net::SocketAddr;
use std::sync::Once;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tracing::info;

/// The `SO_MARK` of every TCP socket that the sidecar opens, where it has the right to set one
/// (`CAP_NET_ADMIN`, or `CAP_NET_RAW` since Linux 5.17). Rules exempt it from redirection.
pub const SOCKET_MARK: u32 = 0x51de;

/// Connects to `address`. The mark is on the socket before its first packet leaves: rules look at
/// that one.
///
/// # Errors
/// What the system said.
pub async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    socket(address)?.connect(address).await
}

/// A marked socket that can connect to `address`, for those who have more to ask of it before.
///
/// # Errors
/// What the system said.
pub fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    mark(&socket);
    Ok(socket)
}

/// Connects to the first address of `host:port` that answers.
///
/// # Errors
/// What the resolver said, or the system of the last address.
pub async fn named(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in tokio::net::lookup_host(address).await? {
        match tcp(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Without the right to, a socket goes unmarked: redirection can exempt the sidecar by its user
/// instead.
fn mark(socket: &TcpSocket) {
    static TOLD: Once = Once::new();
    if let Err(error) = SockRef::from(socket).set_mark(SOCKET_MARK) {
        TOLD.call_once(|| {
            info!(
                %error,
                "sockets go without a mark (it takes CAP_NET_ADMIN): where connections are \
                 redirected to this sidecar, its own must be exempt by its user"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_marked_where_that_is_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let trial = TcpSocket::new_v4().unwrap();
        let expected = match SockRef::from(&trial).set_mark(SOCKET_MARK) {
            Ok(()) => SOCKET_MARK,
            Err(_) => 0,
        };
        for stream in [tcp(address).await, named(&address.to_string()).await] {
            assert_eq!(SockRef::from(&stream.unwrap()).mark().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_name_without_anybody_says_why() {
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let error = named(&closed.to_string()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
