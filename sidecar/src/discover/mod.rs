//! Discovery: turns the control stream into a validated picture of the mesh, and keeps the last
//! good one on disk. It stands beside a call's way, never in it: calls read what the sink was
//! given, and a call waits for control only where nothing was ever known. It must never hand on
//! half an update, and never let a lost control plane take the picture away.
//!
//! `held` merges, `rules` those of control's, `session` is the protocol of one stream, `blame` says whom a refusal is
//! about, `stream` runs one stream, `client` sees to it that there is one, `saver` and `disk` keep
//! the file, `identity` says who this process is, `certificate` proves it; [`Discovery`] is the handle.

mod backoff;
mod blame;
pub mod certificate;
mod client;
mod connect;
pub mod disk;
pub mod folder;
pub mod handle;
pub mod held;
pub mod identity;
pub mod intent;
mod rules;
mod saver;
mod session;
pub mod status;
mod stream;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sidelane_identity::Source as Certificate;
use sidelane_proto::model::{Addresses, NodeHello};
use tokio::sync::watch;
use tracing::Instrument;

pub use certificate::Holder;
pub use folder::DataFolder;
pub use handle::{Discovery, DrainOutcome};
pub use held::{Change, Held};
pub use identity::NodeIdentity;
pub use intent::TooManyWanted;
pub use rules::{Judge, RULES_LIMIT};
pub use status::{Counters, RefusedUpdate, Source, State, Status};

/// Says what peers dial, given the local address of the connection to control.
pub type Advertise = Box<dyn Fn(IpAddr) -> Addresses + Send + Sync>;

/// Takes the picture in. Called before an update is acknowledged, in order, never concurrently;
/// on the runtime, so it must not block.
pub trait Sink: Send + Sync + 'static {
    /// Replaces the states that changed, drops those that are no longer held.
    fn replace(&self, change: &Change);
}

/// What discovery needs to know.
pub struct Parameters {
    /// Where control listens, `host:port`, in the order in which they are tried.
    pub control: Vec<String>,
    /// Who this node is and what it offers. What it holds, what it subscribes to and its addresses
    /// are filled in at each connect.
    pub hello: NodeHello,
    /// Asked at each connect, unless addresses were set by hand.
    pub advertise: Advertise,
    /// Asked about each pushed rule, also about those that were kept.
    pub judge: Judge,
    /// The certificate by which control knows this node; `None` goes in the clear.
    pub certificate: Option<Certificate>,
    /// Where what control says of trust goes, where control signs.
    pub holder: Option<Arc<Holder>>,
    /// Where the picture and the generation are kept; `None` keeps nothing.
    pub data: Option<Arc<DataFolder>>,
    /// How long things may take.
    pub timing: Timing,
}

/// How long things may take. The defaults are the product's; others are for tests.
#[derive(Debug, Clone)]
pub struct Timing {
    /// To connect.
    pub connect: Duration,
    /// From Hello to Welcome.
    pub welcome: Duration,
    /// For control to sign a certificate: it writes to its disk before it does.
    pub sign: Duration,
    /// Between two HTTP/2 PINGs, also while idle: finds a half-open connection.
    pub keepalive: Duration,
    /// For the answer to a PING.
    pub keepalive_answer: Duration,
    /// The longest first pause before the next attempt.
    pub backoff_first: Duration,
    /// The longest pause there is. However long control was away, a thousand sidecars come back
    /// within this time, and are to hold everything again 5 s after control's return.
    pub backoff_ceiling: Duration,
    /// A stream that was open for so long was a success: the pauses begin anew.
    pub lasted: Duration,
    /// For control to end the stream after goodbye.
    pub goodbye: Duration,
    /// At least so long between two writes of the picture.
    pub save_interval: Duration,
    /// After a write that failed, if nothing changes meanwhile.
    pub save_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            welcome: Duration::from_secs(3),
            sign: Duration::from_secs(10),
            keepalive: Duration::from_secs(5),
            keepalive_answer: Duration::from_secs(3),
            backoff_first: Duration::from_millis(100),
            backoff_ceiling: Duration::from_secs(4),
            lasted: Duration::from_secs(5),
            goodbye: Duration::from_secs(1),
            save_interval: Duration::from_secs(1),
            save_retry: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Parameters")
            .field("control", &self.control)
            .field("hello", &self.hello)
            .field("data", &self.data)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// Starts with the picture that was kept, if any, which the sink is given before this returns. The
/// future keeps the control stream open; its owner spawns it and joins it: it ends after
/// [`Discovery::goodbye`], when the newest picture is on disk, and not before.
pub fn start(
    parameters: Parameters,
    sink: Arc<dyn Sink>,
    initial: Option<Held>,
) -> (Discovery, impl Future<Output = ()> + Send + 'static) {
    let mut held = initial.unwrap_or_default();
    for (pushed, error) in held.recheck_rules(&parameters.judge) {
        let (service, version) = (&pushed.rule.service, pushed.version);
        tracing::warn!(%service, version, %error, "a rule that was kept on disk does not hold here");
    }
    if let Some(change) = held.as_change() {
        sink.replace(&change);
    }
    let hello = &parameters.hello;
    let shared = handle::Shared::new(hello.offers.clone(), held, hello.generation);
    let shared = Arc::new(shared);
    let discovery = Discovery {
        shared: Arc::clone(&shared),
        goodbye: parameters.timing.goodbye,
    };
    let (saves, changed) = watch::channel(());
    let saver = parameters.data.clone().map(|folder| {
        let network = hello.network.clone();
        let timing = parameters.timing.clone();
        saver::keep(folder, network, Arc::clone(&shared), timing, changed)
    });
    let outlet = stream::Outlet {
        shared,
        sink,
        judge: Arc::clone(&parameters.judge),
        holder: parameters.holder.clone(),
        saves,
    };
    let client = client::Client::new(parameters, outlet);
    let run = async move {
        let save = async {
            if let Some(saver) = saver {
                saver.await;
            }
        };
        tokio::join!(client.run(), save);
    };
    (discovery, run.instrument(tracing::info_span!("discover")))
}
