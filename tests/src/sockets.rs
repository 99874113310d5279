//! What the kernel knows of a TCP connection: its mark and its priority, as `ss --tos` shows them,
//! and what it holds that is not sent. They are asked for over netlink (`sock_diag(7)`), which needs no rights, so that other
//! processes' sockets can be looked at, too. Linux only.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
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
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Attributes of an answer (`linux/inet_diag.h`): the mark, and the class, which is the socket's
/// priority where no control group has set one. Asking for the v6 mark brings the class.
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_TOS: u16 = 5;
const INET_DIAG_TCLASS: u16 = 6;
const INET_DIAG_CLASS_ID: u16 = 17;
/// The lengths of a netlink header, and of a socket's facts before their attributes.
const HEADER: usize = 16;
const FACTS: usize = 72;
/// Where `struct tcp_info` has `tcpi_notsent_bytes` (`linux/tcp.h`).
const NOT_SENT: usize = 144;
/// The kernel answers at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How a socket's packets are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The type of service of every packet, or its traffic class (IPv6): the code point is above
    /// its two lowest bits.
    pub tos: u8,
    /// `SO_PRIORITY`.
    pub priority: u32,
}

/// The marks of the socket at `local` whose other end is `remote`, in whatever process.
///
/// # Errors
/// There is no such socket, or the kernel does not tell.
pub fn marks(local: SocketAddr, remote: SocketAddr) -> io::Result<Marks> {
    told(local, remote).map(|(marks, _)| marks)
}

/// Bytes that the socket was given and has not sent even once.
///
/// # Errors
/// As [`marks`].
pub fn unsent(local: SocketAddr, remote: SocketAddr) -> io::Result<u32> {
    told(local, remote).map(|(_, unsent)| unsent)
}

fn told(local: SocketAddr, remote: SocketAddr) -> io::Result<(Marks, u32)> {
    let protocol = Some(Protocol::from(NETLINK_SOCK_DIAG));
    let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, protocol)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.send(&question(local, remote))?;
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer)?;
    read(&answer[..length], local.is_ipv6())
        .ok_or_else(|| io::Error::other(format!("no marks of {local} to {remote}")))
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv6() { AF_INET6 } else { AF_INET };
    let wanted = [INET_DIAG_INFO, INET_DIAG_TOS, INET_DIAG_TCLASS];
    let wanted = wanted.iter().fold(0, |bits, kind| bits | 1 << (kind - 1));
    let mut body = vec![family, IPPROTO_TCP, wanted, 0];
    let every_state = u32::MAX;
    body.extend(every_state.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        match end.ip() {
            IpAddr::V4(ip) => {
                body.extend(ip.octets());
                body.extend([0; 12]);
            }
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
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
fn read(answer: &[u8], v6: bool) -> Option<(Marks, u32)> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind == NLMSG_ERROR {
        return None;
    }
    let mut rest = answer.get(HEADER + FACTS..)?;
    let mark = if v6 { INET_DIAG_TCLASS } else { INET_DIAG_TOS };
    let (mut tos, mut priority, mut unsent) = (None, None, None);
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([k0, k1]) {
            kind if kind == mark => tos = value.first().copied(),
            INET_DIAG_INFO => {
                let bytes = value.get(NOT_SENT..NOT_SENT + 4)?;
                unsent = Some(u32::from_ne_bytes(bytes.try_into().ok()?));
            }
            INET_DIAG_CLASS_ID => priority = Some(u32::from_ne_bytes(value.try_into().ok()?)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let marks = Marks {
        tos: tos?,
        priority: priority?,
    };
    Some((marks, unsent?))
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
    #[ignore = "needs IPv6 on loopback"]
    fn so_are_those_of_ipv6_and_what_is_not_sent() {
        let listener = TcpListener::bind("[::1]:0").expect("IPv6 on loopback");
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        socket.set_tclass_v6(0x20).unwrap();
        socket.set_priority(2).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let expected = Marks {
            tos: 0x20,
            priority: 2,
        };
        assert_eq!(marks(local, remote).unwrap(), expected);
        assert_eq!(unsent(local, remote).unwrap(), 0);
        // Nobody reads: what the reader's window does not hold stays here.
        stream.set_nonblocking(true).unwrap();
        while io::Write::write(&mut &stream, &[0; 65_536]).is_ok() {}
        assert!(unsent(local, remote).unwrap() > 0);
    }

    #[test]
    fn a_socket_that_is_not_there_is_told() {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let error = marks(nobody, nobody).unwrap_err();
        assert_eq!(error.to_string(), "no marks of 127.0.0.1:1 to 127.0.0.1:1");
    }
}
