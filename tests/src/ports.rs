//! Free ports for processes that must find the same port again when they are started again.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below the range from which systems take the ports of outgoing connections (32768 and up on
/// Linux, 49152 and up elsewhere), so that no connection sits on a port while its owner is being
/// restarted.
const RANGE: std::ops::Range<u16> = 18_000..32_000;

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port on 127.0.0.1 that nobody listens on, and that is given only once in this process.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Several test processes may search at the same time, so each begins somewhere else.
    let span = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(2_654_435_761) % span;
    (0..span)
        .filter_map(|step| u16::try_from((start + step) % span).ok())
        .map(|offset| RANGE.start + offset)
        .find(|port| !given.contains(port) && is_free(*port) && given.insert(*port))
        .expect("no free port between 18000 and 32000 on 127.0.0.1")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_can_be_bound() {
        let ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        let different: HashSet<u16> = ports.iter().copied().collect();
        assert_eq!(different.len(), ports.len());
        for port in ports {
            assert!(RANGE.contains(&port));
            TcpListener::bind(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
