//! What a lane asks of its sockets. Both ends of a link do this, because a mark holds for one
//! direction only.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::lane::LaneSettings;

/// A connection whose packets nobody acknowledges is given up after this long. Without it a
/// half-open connection lasts a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Marks a link's socket as its lane asks.
///
/// # Errors
/// What the system refused.
pub fn mark(stream: &TcpStream, settings: &LaneSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let tos = u32::from(settings.dscp) << 2;
    let v6 = stream.local_addr()?.is_ipv6();
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
    if let Some(bytes) = settings.unsent {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sidelane_proto::model::Lane;

    use super::*;
    use crate::lane::settings;

    #[tokio::test]
    async fn a_socket_carries_what_its_lane_asks() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for lane in Lane::BUILT_IN {
            let stream = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let wanted = settings(lane);
            mark(&stream, &wanted).unwrap();
            let socket = SockRef::from(&stream);
            assert_eq!(socket.tos_v4().unwrap(), u32::from(wanted.dscp) << 2);
            assert_eq!(socket.priority().unwrap(), wanted.priority);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
            if let Some(bytes) = wanted.unsent {
                assert_eq!(socket.tcp_notsent_lowat().unwrap(), bytes);
            }
        }
    }
}
