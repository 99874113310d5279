//! Free ports for processes that must find the same port again when they are started again.

use std::fs::File;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below the range from which systems take the ports of outgoing connections (32768 and up on
/// Linux, 49152 and up elsewhere), so that no connection sits on a port while its owner is being
/// restarted.
const RANGE: std::ops::Range<u16> = 18_000..32_000;
/// A test process takes so many at once: few need more, and seventy can run at the same time.
const BLOCK: u16 = 200;

static BLOCKS: LazyLock<Mutex<Blocks>> = LazyLock::new(Mutex::default);

/// The ports of this test process.
#[derive(Debug, Default)]
struct Blocks {
    /// Those of the newest block that were not given yet.
    left: std::ops::Range<u16>,
    /// Each says to other test processes that a block is taken, for as long as it is open.
    locks: Vec<File>,
}

/// A port on 127.0.0.1 that nobody listens on, and that no test process on this machine is given
/// while this one lives.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = blocks.left.find(|port| is_free(*port)) {
            return port;
        }
        blocks.take_another();
    }
}

impl Blocks {
    fn take_another(&mut self) {
        let user = rustix::process::getuid().as_raw();
        let folder = std::env::temp_dir().join(format!("sidelane-test-ports-{user}"));
        std::fs::create_dir_all(&folder).expect("a folder for the locks of ports");
        for start in RANGE.step_by(usize::from(BLOCK)) {
            let lock = File::create(folder.join(start.to_string()));
            let lock = lock.expect("a file to lock a block of ports with");
            if lock.try_lock().is_ok() {
                self.locks.push(lock);
                self.left = start..start + BLOCK;
                return;
            }
        }
        panic!("every block of ports in {} is taken", folder.display());
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
