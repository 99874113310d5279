//! Where a connection was meant to go before the system redirected it here (Linux, netfilter's
//! REDIRECT). Nothing is sniffed: the system remembers, and is asked.

use std::net::{IpAddr, SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::onward::canonical;

/// `None` if the connection was meant for this listener: it was dialled. A system that follows no
/// connections has redirected none, and says so by an error.
pub(super) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let here = canonical(stream.local_addr().ok()?);
    let socket = SockRef::from(stream);
    let meant = match here.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let meant = canonical(meant.ok()?.as_socket()?);
    (meant != here).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_dialled_has_no_other_destination() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else {
                // A machine without IPv6.
                continue;
            };
            let to = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
            assert_eq!(original_destination(&accepted.unwrap().0), None);
            drop(client.unwrap());
        }
    }
}
