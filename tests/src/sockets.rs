//! What the kernel knows of a TCP connection: its mark and its priority, as `ss --tos` shows them.
//! They are asked for over netlink (`sock_diag(7)`), which needs no rights, so that other
//! processes' sockets can be looked at, too. Linux only.

use std::io::{self, Read};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// `AF_NETLINK`, and its protocol `NETLINK_SOCK_DIAG` (`linux/netlink.h`).
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
/// The request's type, and the flag that makes it one (`linux/sock_diag.h`, `linux/netlink.h`).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
/// The answer that there is no such socket.
const NLMSG_ERROR: u16 = 2;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
/// Attributes of an answer (`linux/inet_diag.h`): the mark, and the class, which is the socket's
/// priority where no control group has set one. Asking for the v6 mark brings the class.
const INET_DIAG_TOS: u16 = 5;
const INET_DIAG_TCLASS: u16 = 6;
const INET_DIAG_CLASS_ID: u16 = 17;
/// The lengths of a netlink header, and of a socket's facts before their attributes.
const HEADER: usize = 16;
const FACTS: usize = 72;
/// The kernel answers at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How a socket's packets are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The type of service of every packet: the code point is above its two lowest bits.
    pub tos: u8,
    /// `SO_PRIORITY`.
    pub priority: u32,
}

/// The marks of the socket at `local` whose other end is `remote`, in whatever process.
///
/// # Errors
/// There is no such socket, or the kernel does not tell.
pub fn marks(local: SocketAddr, remote: SocketAddr) -> io::Result<Marks> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else {
        return Err(io::Error::other("only IPv4 sockets are asked for"));
    };
    let protocol = Some(Protocol::from(NETLINK_SOCK_DIAG));
    let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, protocol)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.send(&question(local, remote))?;
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer)?;
    read(&answer[..length])
        .ok_or_else(|| io::Error::other(format!("no marks of {local} to {remote}")))
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`.
fn question(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let mut body = vec![AF_INET, IPPROTO_TCP, 1 << (INET_DIAG_TOS - 1), 0];
    body[2] |= 1 << (INET_DIAG_TCLASS - 1);
    let every_state = u32::MAX;
    body.extend(every_state.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        body.extend(end.ip().octets());
        body.extend([0; 12]);
    }
    let any_interface = 0_u32;
    body.extend(any_interface.to_ne_bytes());
    let any_cookie = [0xFF; 8];
    body.extend(any_cookie);
    let length = u32::try_from(HEADER + body.len()).expect("72 bytes");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    let (sequence, port) = (1_u32, 0_u32);
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(port.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// `struct nlmsghdr`, `struct inet_diag_msg`, and attributes: length, type, value, padded to four.
fn read(answer: &[u8]) -> Option<Marks> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind == NLMSG_ERROR {
        return None;
    }
    let mut rest = answer.get(HEADER + FACTS..)?;
    let (mut tos, mut priority) = (None, None);
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([k0, k1]) {
            INET_DIAG_TOS => tos = value.first().copied(),
            INET_DIAG_CLASS_ID => priority = Some(u32::from_ne_bytes(value.try_into().ok()?)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Marks {
        tos: tos?,
        priority: priority?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;

    #[test]
    fn marks_are_read_from_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        socket.set_tos_v4(0xB8).unwrap();
        socket.set_priority(5).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let expected = Marks {
            tos: 0xB8,
            priority: 5,
        };
        assert_eq!(marks(local, remote).unwrap(), expected);
        let plain = Marks {
            tos: 0,
            priority: 0,
        };
        assert_eq!(marks(remote, local).unwrap(), plain);
    }

    #[test]
    fn a_socket_that_is_not_there_is_told() {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let error = marks(nobody, nobody).unwrap_err();
        assert_eq!(error.to_string(), "no marks of 127.0.0.1:1 to 127.0.0.1:1");
    }
}
