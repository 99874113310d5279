//! A server in another language: a process that says where it listens.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::START_LIMIT;
use crate::cluster::LocalService;
use crate::process::Process;

/// A running server. It ends with this value.
#[derive(Debug)]
pub struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    pub(super) async fn listening(process: Process) -> Self {
        let mut lines = BufReader::new(process.take_output().await).lines();
        let first = tokio::time::timeout(START_LIMIT, lines.next_line()).await;
        let port = first
            .ok()
            .and_then(|line| line.ok()?)
            .and_then(|line| line.trim().parse::<u16>().ok());
        let port = port.unwrap_or_else(|| {
            let name = process.name();
            panic!("the {name} does not listen:\n{}", process.end_of_log())
        });
        Self {
            process,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl LocalService for Server {
    fn address(&self) -> String {
        self.address.to_string()
    }
}
