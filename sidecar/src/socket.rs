//! What a lane asks of its sockets. Both ends of a link do this, because a mark holds for one
//! direction only.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use crate::lane::LaneSettings;

/// A connection whose packets nobody acknowledges is given up after this long. Without it a
/// half-open connection lasts a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Marks a link's socket as its lane asks: one that is connected, or will be. `v6` tells of which
/// family it is.
///
/// # Errors
/// What the system refused.
pub fn mark(socket: &impl AsFd, v6: bool, settings: &LaneSettings) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let tos = u32::from(settings.dscp) << 2;
    if v6 {
        socket.set_tclass_v6(tos)?;
    }
    // Also on a v6 socket, which may carry v4 packets; one that cannot says so, and need not.
    let v4 = socket.set_tos_v4(tos);
    if !v6 {
        v4?;
    }
    // After the mark: setting that one overwrites the priority.
    socket.set_priority(settings.priority)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_notsent_lowat(settings.unsent)
}

#[cfg(test)]
mod tests {
    use sidelane_proto::model::Lane;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::lane::settings;

    #[tokio::test]
    async fn a_socket_carries_what_its_lane_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for lane in Lane::BUILT_IN {
            let stream = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let wanted = settings(lane);
            mark(&stream, false, &wanted).unwrap();
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tos_v4().unwrap(), u32::from(wanted.dscp) << 2);
            assert_carries(&stream, &wanted);
        }
    }

    #[tokio::test]
    #[ignore = "needs IPv6"]
    async fn so_does_one_of_ipv6_and_both_ends_of_a_listener_for_both() {
        let listener = TcpListener::bind("[::]:0").await.expect("IPv6");
        let port = listener.local_addr().unwrap().port();
        let wanted = settings(Lane::GOSSIP);
        let dialled = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.local_addr().unwrap().is_ipv6());
        mark(&dialled, false, &wanted).unwrap();
        mark(&accepted, true, &wanted).unwrap();
        let socket = SockRef::from(&accepted);
        // Its packets are of IPv4, and have that family's mark.
        assert_eq!(socket.tos_v4().unwrap(), u32::from(wanted.dscp) << 2);
        assert_eq!(socket.tclass_v6().unwrap(), u32::from(wanted.dscp) << 2);
        assert_carries(&accepted, &wanted);
        assert_carries(&dialled, &wanted);
    }

    fn assert_carries(stream: &TcpStream, wanted: &LaneSettings) {
        let socket = SockRef::from(stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.priority().unwrap(), wanted.priority);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), wanted.unsent);
    }
}
