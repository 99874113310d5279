//! Connections onward: to where a call or a whole connection was meant to go before it came to
//! this sidecar. Whatever would lead back to it is refused here, since a loop eats the machine:
//! a destination that is one of its own listeners, and a connection that it has opened itself.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidelane_proto::model::PeerAddress;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial::{self, SOCKET_MARK};

/// The longest time for a destination to be resolved and to answer.
pub const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// The longest time for one address of several to answer: one that swallows all must not keep the
/// next from being tried.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// A destination that says nothing is asked after so long if it is still there, and then as often.
/// Unlike a peer it need not speak HTTP/2, so TCP asks.
const ASK_AFTER: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(10);
/// As often as this without an answer, and the connection is given up.
const ASK_TIMES: u32 = 3;

/// Where a local app's connection was meant to go: what a tunnel's target says, or the system of a
/// connection that was redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The destination.
    pub destination: PeerAddress,
    /// Why nothing may go there.
    pub looped: Option<Loop>,
}

/// How a way leads back to this sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loop {
    /// The destination is one of its listeners.
    #[error(
        "that is a listener of this sidecar itself; dial it without a tunnel, and let the path \
         name the service"
    )]
    Listener,
    /// It opened the connection itself.
    #[error(
        "this sidecar has opened the connection itself, and it was redirected back to it; exempt \
         its sockets from redirection, by their mark ({SOCKET_MARK:#x}) or by its user"
    )]
    OwnSocket,
}

/// Why there is no connection onward.
#[derive(Debug, thiserror::Error)]
pub enum OnwardError {
    /// It would lead back here.
    #[error("{address}: {source}")]
    Loop {
        /// What was dialled.
        address: String,
        /// How.
        source: Loop,
    },
    /// The name has no address.
    #[error("the name in {address} has no address: {source}")]
    Resolve {
        /// What was dialled.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The socket was refused.
    #[error("{address} does not answer: {source}")]
    Refused {
        /// What was dialled.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing came back.
    #[error("{address} did not answer within {} s", DIAL_LIMIT.as_secs())]
    TooSlow {
        /// What was dialled.
        address: String,
    },
}

impl OnwardError {
    /// Does it lead back here?
    #[must_use]
    pub fn is_loop(&self) -> bool {
        matches!(self, Self::Loop { .. })
    }
}

/// A connection by its ends, ours first. A local port alone names none: the system gives it again
/// for another destination.
type Ends = (SocketAddr, SocketAddr);

/// The connections that are open.
type Connections = Arc<Mutex<HashSet<Ends>>>;

/// Opens connections onward, and knows what leads back.
#[derive(Debug, Default)]
pub struct Onward {
    listeners: Vec<SocketAddr>,
    open: Connections,
}

/// A connection that is open. It counts as this sidecar's own until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Open {
    ends: Ends,
    open: Connections,
}

impl Onward {
    /// For a sidecar that listens there.
    #[must_use]
    pub fn new(listeners: Vec<SocketAddr>) -> Self {
        Self {
            listeners,
            open: Connections::default(),
        }
    }

    /// Is this one of the listeners? Unspecified ones listen on every address of this machine, and
    /// who dials an unspecified address dials this machine.
    #[must_use]
    pub fn is_listener(&self, address: SocketAddr) -> bool {
        let to = match address.ip().to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let of_port = |listener: &&SocketAddr| listener.port() == address.port();
        self.listeners.iter().filter(of_port).any(|listener| {
            let at = listener.ip().to_canonical();
            at == to || (at.is_unspecified() && is_of_this_machine(to))
        })
    }

    /// The same for a destination as it was written: names are looked up only when they are
    /// dialled, apart from `localhost`.
    #[must_use]
    pub fn names_listener(&self, destination: &PeerAddress) -> bool {
        let text = destination.as_str();
        if let Ok(address) = text.parse() {
            return self.is_listener(address);
        }
        let port = text
            .rsplit_once(':')
            .filter(|(host, _)| host.eq_ignore_ascii_case("localhost"))
            .and_then(|(_, port)| port.parse().ok());
        port.is_some_and(|port: u16| {
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            loopback
                .iter()
                .any(|ip| self.is_listener(SocketAddr::new(*ip, port)))
        })
    }

    /// Did this sidecar open the connection that comes from there and meant `to`? Only of use once
    /// it has said something: who opens a connection hears of it no sooner than who accepts it.
    #[must_use]
    pub fn has_opened(&self, from: SocketAddr, to: SocketAddr) -> bool {
        lock(&self.open).contains(&(canonical(from), canonical(to)))
    }

    /// Connects to a destination.
    ///
    /// # Errors
    /// It leads back here, or does not answer.
    pub async fn dial(&self, destination: &PeerAddress) -> Result<(TcpStream, Open), OnwardError> {
        let dialled = timeout(DIAL_LIMIT, self.dial_any(destination.as_str())).await;
        let address = || destination.to_string();
        dialled.unwrap_or_else(|_| Err(OnwardError::TooSlow { address: address() }))
    }

    async fn dial_any(&self, address: &str) -> Result<(TcpStream, Open), OnwardError> {
        let shown = || address.to_owned();
        let found = tokio::net::lookup_host(address).await;
        let found = found.map_err(|source| OnwardError::Resolve {
            address: shown(),
            source,
        })?;
        let mut candidates = found.peekable();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        while let Some(candidate) = candidates.next() {
            if self.is_listener(candidate) {
                return Err(OnwardError::Loop {
                    address: shown(),
                    source: Loop::Listener,
                });
            }
            let dialled = self.dial_one(candidate);
            let dialled = match candidates.peek() {
                None => Ok(dialled.await),
                Some(_) => timeout(ADDRESS_LIMIT, dialled).await,
            };
            last = match dialled {
                Ok(Ok(dialled)) => return Ok(dialled),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
        }
        Err(OnwardError::Refused {
            address: shown(),
            source: last,
        })
    }

    async fn dial_one(&self, address: SocketAddr) -> io::Result<(TcpStream, Open)> {
        let stream = dial::tcp(address).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(ASK_AFTER)
            .with_interval(ASK_EVERY)
            .with_retries(ASK_TIMES);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&keepalive)?;
        // What was sent and is not acknowledged asks by itself, but for a quarter of an hour.
        socket.set_tcp_user_timeout(Some(ASK_AFTER + ASK_EVERY * ASK_TIMES))?;
        let open = self.opened(stream.local_addr()?, stream.peer_addr()?);
        Ok((stream, open))
    }

    /// Takes note of a connection that this sidecar has opened, before anything is said on it.
    pub fn opened(&self, local: SocketAddr, remote: SocketAddr) -> Open {
        let ends = (canonical(local), canonical(remote));
        lock(&self.open).insert(ends);
        Open {
            ends,
            open: Arc::clone(&self.open),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.open).remove(&self.ends);
    }
}

/// The same address whether a socket of IPv4 or one of both families says it.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket can be bound to an address of this machine, and to no other.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

fn lock(connections: &Connections) -> std::sync::MutexGuard<'_, HashSet<Ends>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(addresses: &[&str]) -> Onward {
        Onward::new(addresses.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_listener_is_known_by_each_of_its_addresses() {
        let onward = listening(&["127.0.0.1:15001", "0.0.0.0:15006", "[::]:15443"]);
        let cases = [
            ("127.0.0.1:15001", true),
            ("0.0.0.0:15001", true),
            ("[::ffff:127.0.0.1]:15001", true),
            ("127.0.0.2:15001", false),
            ("127.0.0.1:15002", false),
            ("127.0.0.2:15006", true),
            // TEST-NET-1 (RFC 5737): nobody's.
            ("192.0.2.1:15006", false),
            ("127.0.0.1:15443", true),
            ("192.0.2.1:15443", false),
        ];
        for (address, expected) in cases {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(onward.is_listener(address), expected, "{address}");
            let written = PeerAddress::new(&address.to_string()).unwrap();
            assert_eq!(onward.names_listener(&written), expected, "{address}");
        }
        let named = |text: &str| onward.names_listener(&PeerAddress::new(text).unwrap());
        assert!(named("localhost:15001"));
        assert!(named("LOCALHOST:15006"));
        assert!(!named("localhost:15002"));
        assert!(!named("orders:15001"));
    }

    #[tokio::test]
    async fn a_connection_is_the_sidecars_own_for_as_long_as_it_is_open() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let onward = listening(&["127.0.0.1:1"]);
        let (stream, open) = onward
            .dial(&PeerAddress::new(&at.to_string()).unwrap())
            .await
            .unwrap();
        let (_, from) = server.accept().await.unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
        assert!(onward.has_opened(from, at));
        assert!(!onward.has_opened(from, "127.0.0.1:2".parse().unwrap()));
        drop(open);
        assert!(!onward.has_opened(from, at));
    }

    #[tokio::test]
    async fn what_leads_back_is_not_dialled() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let onward = Onward::new(vec![at]);
        let written = PeerAddress::new(&format!("localhost:{}", at.port())).unwrap();
        // `localhost` may be ::1 first, where nobody listens.
        let error = onward.dial(&written).await.unwrap_err();
        assert!(error.is_loop(), "{error}");
        let closed = PeerAddress::new("127.0.0.1:1").unwrap();
        let error = onward.dial(&closed).await.unwrap_err();
        assert!(matches!(error, OnwardError::Refused { .. }), "{error}");
        // No part of a name has more than 63 bytes, so no resolver is asked for this one.
        let unknown = PeerAddress::new(&format!("{}:1", "x".repeat(64))).unwrap();
        let error = onward.dial(&unknown).await.unwrap_err();
        assert!(matches!(error, OnwardError::Resolve { .. }), "{error}");
    }
}
