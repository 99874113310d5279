//! What stands around a sidecar: a process of its own, which ends with a signal, or a program that
//! has it linked in, which ends it itself, serves in the same process and calls by a pipe. `app`
//! runs both alike and asks here for what differs.

use std::sync::Arc;

use serde_json::Value;
use sidelane_process::signals::{Signals, Stop};
use sidelane_proto::model::ServiceName;
use tokio::sync::{oneshot, watch};
use tracing::info;

use crate::drain::Draining;
use crate::pipe::{Acceptor, Opener};
use crate::stack::Stack;

/// What stands around a sidecar.
pub(crate) struct Host {
    pub(crate) stops: Stops,
    /// Services of the same process, and how each is reached.
    pub(crate) services: Vec<(ServiceName, Opener)>,
    /// How the same process calls.
    pub(crate) calls: Option<Acceptor>,
    /// Is told once everything stands.
    pub(crate) started: Option<oneshot::Sender<Started>>,
}

/// What a program that has a sidecar linked in works with.
pub(crate) struct Started {
    pub(crate) stack: Arc<Stack>,
    pub(crate) draining: Draining,
    /// The addresses that were bound, as `/config` shows them.
    pub(crate) bound: Value,
}

/// What a program asks of the sidecar that it has linked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    Run,
    Drain,
    Force,
}

/// What ends a sidecar.
pub(crate) enum Stops {
    Signals(Signals),
    /// Its sender gone means that nobody has the mesh any more: as [`Wish::Force`].
    Program(watch::Receiver<Wish>),
}

impl Host {
    /// A process of its own.
    pub(crate) fn process(signals: Signals) -> Self {
        Self {
            stops: Stops::Signals(signals),
            services: Vec::new(),
            calls: None,
            started: None,
        }
    }
}

impl Stops {
    /// Waits until it should end, calls in flight first.
    pub(crate) async fn drain(&mut self) {
        match self {
            Self::Signals(signals) => {
                let stop = signals.next().await;
                info!(?stop, "ending");
            }
            Self::Program(wish) => {
                let _ = wish.wait_for(|wish| *wish >= Wish::Drain).await;
                info!("ending: the program asked for it");
            }
        }
    }

    /// Waits until it should end at once.
    pub(crate) async fn force(&mut self) {
        match self {
            Self::Signals(signals) => while !matches!(signals.next().await, Stop::Force(_)) {},
            Self::Program(wish) => {
                let _ = wish.wait_for(|wish| *wish >= Wish::Force).await;
            }
        }
    }
}
