//! Free ports on loopback, noted before the processes that will bind them are started, because a
//! restarted control plane must be found where it was.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

/// Below what operating systems hand out to outgoing connections (Linux: from 32768, others from
/// 49152): a port from there could be taken between the look and the bind by anybody's connection.
const RANGE: Range<u16> = 20_000..30_000;
/// Enough to find a free one even if nine of ten are taken.
const ATTEMPTS: usize = 200;

/// Hands out ports, none twice.
#[derive(Default)]
pub(super) struct Ports {
    given: HashSet<u16>,
}

impl Ports {
    /// A loopback address whose port nobody listens on now.
    ///
    /// # Errors
    /// No port of the range could be bound.
    pub(super) fn free(&mut self) -> io::Result<SocketAddr> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let port = fastrand::u16(RANGE);
            if self.given.contains(&port) {
                continue;
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match TcpListener::bind(address) {
                Ok(_listener) => {
                    self.given.insert(port);
                    return Ok(address);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("all ports of the demo's range are given out")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_differ() {
        let mut ports = Ports::default();
        let addresses: HashSet<_> = (0..50).map(|_| ports.free().unwrap()).collect();
        assert_eq!(addresses.len(), 50);
        for address in addresses {
            assert!(RANGE.contains(&address.port()), "{address}");
        }
    }
}
