//! Where the mesh stands: on this machine's loopback, or in two network namespaces with a slow link
//! between them, as two machines have. The link is `tbf` with `pfifo_fast` below it: the queue that
//! Linux has by default, which sends by `SO_PRIORITY`.

use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use crate::netns::{Link, LinkEnd, Namespace};

/// What the link sends at once. Less than the kernel hands over in one piece (up to 64 KiB), so that
/// those are cut into packets: a real link is free for the next packet after each.
const BURST: &str = "8kb";
/// How long the queue before the link may get.
const QUEUE: &str = "50ms";

/// Which of the two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The caller's, and control's.
    Caller,
    /// The callee's.
    Callee,
}

/// Two machines, or one.
pub(super) enum Ground {
    /// Both sides on 127.0.0.1.
    Loopback,
    /// Two namespaces. They end with this value.
    Link {
        caller: Namespace,
        callee: Namespace,
        link: Link,
    },
}

impl Ground {
    /// Two namespaces and a link that carries so much each way.
    pub(super) fn link(rate: &str) -> Result<Self> {
        let make = || {
            let (caller, callee) = (Namespace::new("caller")?, Namespace::new("callee")?);
            let link = Link::between(&caller, &callee)?;
            for (namespace, end) in [(&caller, link.left()), (&callee, link.right())] {
                shape(namespace, end, rate)?;
            }
            Ok(Self::Link {
                caller,
                callee,
                link,
            })
        };
        make().map_err(|error: crate::netns::NetnsError| {
            anyhow::anyhow!(
                "cannot make a slow link: {error}. It needs root and iproute2; without them, \
                 --places loopback measures what can be measured"
            )
        })
    }

    /// A command that will run on this side.
    pub(super) fn command(&self, side: Side, program: &Path) -> Command {
        match (self, side) {
            (Self::Loopback, _) => Command::new(program),
            (Self::Link { caller, .. }, Side::Caller) => caller.command(program),
            (Self::Link { callee, .. }, Side::Callee) => callee.command(program),
        }
    }

    /// Where the other side reaches this one.
    pub(super) fn address(&self, side: Side) -> Ipv4Addr {
        match (self, side) {
            (Self::Loopback, _) => Ipv4Addr::LOCALHOST,
            (Self::Link { link, .. }, Side::Caller) => link.left().v4,
            (Self::Link { link, .. }, Side::Callee) => link.right().v4,
        }
    }
}

fn shape(namespace: &Namespace, end: &LinkEnd, rate: &str) -> Result<(), crate::netns::NetnsError> {
    let add = |rest: &str| {
        let command = format!("qdisc add dev {} {rest}", end.interface);
        let words: Vec<&str> = command.split(' ').collect();
        namespace.run("tc", &words).map(drop)
    };
    add(&format!(
        "root handle 1: tbf rate {rate} burst {BURST} latency {QUEUE}"
    ))?;
    add("parent 1:1 handle 10: pfifo_fast")
}

/// Ports that were free a moment ago, all different. In a namespace of our own they stay so.
pub(super) fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let mut ports = [0; COUNT];
    let mut held = Vec::new();
    for port in &mut ports {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).context("no free loopback port")?;
        *port = listener.local_addr().context("no address")?.port();
        held.push(listener);
    }
    Ok(ports)
}
