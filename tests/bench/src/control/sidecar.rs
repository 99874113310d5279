//! A simulated sidecar: the real protocol on a real connection, and no calls. It holds what it is
//! told, acknowledges it at once, says heartbeats, and comes back with the version it holds after
//! pauses that are those of a real sidecar.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;
use sidelane_proto::wire::control::v1::membership_client::MembershipClient;
use sidelane_proto::wire::control::v1::{
    Ack, Addresses, Endpoint, Goodbye, Health, Heartbeat, Hello, Offer, OffersChanged, Subscribe,
    SyncRequest, SyncResponse, Update, Version, VersionRange, sync_request::Message as Said,
    sync_response::Message as Told,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::watch::{UNMARKED, Watch};

/// The longest pause before the first attempt to come back, and before any: a sidecar's own.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// To connect, and from Hello to Welcome: a sidecar's own.
const OPEN_LIMIT: Duration = Duration::from_secs(3);
/// The largest message that is taken, in bytes: a sidecar's own.
const MESSAGE_LIMIT: usize = 64 << 20;
/// Things to say that wait for the connection.
const SAYINGS_LIMIT: usize = 16;

/// Who a simulated sidecar is.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The node's name.
    pub(super) node: String,
    /// Of its first start.
    pub(super) generation: u64,
    /// What it offers.
    pub(super) offers: Vec<String>,
    /// What it wants to know.
    pub(super) calls: Vec<String>,
    /// How many endpoints that makes once everybody is there.
    pub(super) whole: usize,
}

/// What a simulated sidecar is told to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Its first offer gets this weight, and is as healthy as said.
    Offer { mark: u64, health: Health },
    /// Takes its leave.
    Down,
    /// Comes back with this weight in all offers.
    Up { mark: u64 },
}

/// A simulated sidecar.
pub(super) struct Sidecar {
    control: SocketAddr,
    watch: Arc<Watch>,
    orders: mpsc::UnboundedReceiver<Order>,
    part: Part,
    offers: Vec<Offer>,
    generation: u64,
    held: HashMap<(String, String), Held>,
    healthy: usize,
    version: Option<Version>,
    settled: bool,
    open: bool,
    /// Since when it waits for changes. What was before, it reads of when it comes.
    since: Instant,
}

#[derive(Clone, Copy)]
struct Held {
    generation: u64,
    weight: u64,
    healthy: bool,
}

/// An open stream.
struct Stream {
    said: mpsc::Sender<SyncRequest>,
    heard: Streaming<SyncResponse>,
    heartbeat: Duration,
    /// No update came yet.
    fresh: bool,
}

/// How a stream ended.
enum End {
    Lost,
    /// By an order; the sidecar waits for the next.
    Down,
    /// The benchmark needs it no more.
    Over,
}

impl Sidecar {
    pub(super) fn new(
        control: SocketAddr,
        part: Part,
        watch: Arc<Watch>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        let offers = part.offers.iter().map(|service| Offer {
            service: service.clone(),
            health: Health::Healthy.into(),
            ..Offer::default()
        });
        Self {
            control,
            watch,
            orders,
            offers: offers.collect(),
            generation: part.generation,
            part,
            held: HashMap::new(),
            healthy: 0,
            version: None,
            settled: false,
            open: false,
            since: Instant::now(),
        }
    }

    /// Runs until its orders end.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.stream().await {
                Ok(End::Over) => return self.forget(),
                Ok(End::Down) => {
                    self.forget();
                    match self.orders.recv().await {
                        Some(order) => self.obey_alone(order),
                        None => return,
                    }
                    pause = FIRST_PAUSE;
                    continue;
                }
                Ok(End::Lost) => pause = FIRST_PAUSE,
                Err(error) => {
                    let mut seen = self.watch.seen();
                    seen.pushed.failed_attempts += 1;
                    let refused = error.downcast_ref::<Refused>();
                    if let Some(Refused(text)) = refused {
                        seen.failure.get_or_insert_with(|| text.clone());
                    }
                }
            }
            self.opened(false);
            let jittered = pause.mul_f64(fastrand::f64());
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            tokio::time::sleep(jittered).await;
        }
    }

    async fn stream(&mut self) -> Result<End> {
        let mut stream = tokio::time::timeout(OPEN_LIMIT * 2, self.open())
            .await
            .context("no welcome in time")??;
        self.opened(true);
        let mut heartbeats = tokio::time::interval(stream.heartbeat);
        heartbeats.reset();
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    None => return Ok(End::Over),
                    Some(order) => if self.obey(order, &stream).await {
                        // Control ends the stream once it has taken note.
                        let ended = async { while let Ok(Some(_)) = stream.heard.message().await {} };
                        let _ = tokio::time::timeout(OPEN_LIMIT, ended).await;
                        return Ok(End::Down);
                    },
                },
                heard = stream.heard.message() => match heard {
                    Ok(Some(SyncResponse { message: Some(Told::Update(update)) })) => {
                        self.take(&update, &mut stream.fresh);
                        let ack = Ack { version: update.version, refused: Vec::new() };
                        say(&stream.said, Said::Ack(ack)).await;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Ok(End::Lost),
                },
                _ = heartbeats.tick() => {
                    let version = self.version.clone();
                    say(&stream.said, Said::Heartbeat(Heartbeat { version })).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<Stream> {
        let channel = Channel::from_shared(format!("http://{}", self.control))?
            .connect_timeout(OPEN_LIMIT)
            .tcp_nodelay(true);
        let mut client = MembershipClient::new(channel.connect().await?)
            .max_decoding_message_size(MESSAGE_LIMIT);
        let (said, outgoing) = mpsc::channel(SAYINGS_LIMIT);
        say(&said, Said::Hello(self.hello())).await;
        let mut heard = client
            .sync(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let first = heard.message().await?.and_then(|first| first.message);
        match first {
            Some(Told::Welcome(welcome)) => Ok(Stream {
                said,
                heard,
                heartbeat: Duration::from_millis(u64::from(welcome.heartbeat_ms).max(100)),
                fresh: true,
            }),
            Some(Told::Refusal(refusal)) if !refusal.retry => bail!(Refused(refusal.text)),
            other => bail!("{other:?} came instead of a welcome"),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            node_id: self.part.node.clone(),
            generation: self.generation,
            instance_id: format!("{}-{}", self.part.node, self.generation),
            protocol: Some(VersionRange {
                oldest: 1,
                newest: 1,
            }),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            network: "default".to_owned(),
            addresses: Some(Addresses {
                internal: "127.0.0.1:15006".to_owned(),
                ..Addresses::default()
            }),
            offers: self.offers.clone(),
            held: self.version.clone(),
            subscribe: Some(Subscribe {
                services: self.part.calls.clone(),
                ..Subscribe::default()
            }),
            ..Hello::default()
        }
    }

    /// True: it has taken its leave.
    async fn obey(&mut self, order: Order, stream: &Stream) -> bool {
        match order {
            Order::Offer { .. } => {
                self.obey_alone(order);
                let offers = self.offers.clone();
                say(&stream.said, Said::OffersChanged(OffersChanged { offers })).await;
                false
            }
            Order::Down => {
                self.watch.seen().make(self.generation);
                let reason = "the benchmark says so".to_owned();
                say(&stream.said, Said::Goodbye(Goodbye { reason })).await;
                true
            }
            Order::Up { .. } => false,
        }
    }

    /// What an order changes in the sidecar itself.
    fn obey_alone(&mut self, order: Order) {
        match order {
            Order::Offer { mark, health } => {
                if let Some(offer) = self.offers.first_mut() {
                    offer.weight = weight(mark);
                    offer.health = health.into();
                }
                self.watch.seen().make(mark);
            }
            Order::Up { mark } => {
                for offer in &mut self.offers {
                    offer.weight = weight(mark);
                }
                self.generation += 1;
                self.since = Instant::now();
                self.watch.seen().make(mark);
            }
            Order::Down => {}
        }
    }

    fn take(&mut self, update: &Update, fresh: &mut bool) {
        let now = Instant::now();
        let mut marks = BTreeSet::new();
        if update.full {
            self.held.clear();
            self.healthy = 0;
        }
        for removal in &update.removals {
            if self.remove(&(removal.service.clone(), removal.node_id.clone())) {
                marks.insert(removal.generation);
            }
        }
        for state in &update.services {
            let gone: Vec<_> = self
                .held
                .keys()
                .filter(|(service, _)| *service == state.service)
                .filter(|(_, node)| !state.endpoints.iter().any(|e| e.node_id == *node))
                .cloned()
                .collect();
            for key in gone {
                self.remove(&key);
            }
            marks.extend(state.endpoints.iter().filter_map(|e| self.put(e)));
        }
        marks.extend(update.upserts.iter().filter_map(|e| self.put(e)));
        self.version.clone_from(&update.version);
        let mut seen = self.watch.seen();
        seen.pushed.updates += 1;
        seen.pushed.bytes += update.encoded_len() as u64;
        if std::mem::take(fresh) {
            let first = match update.full {
                true => &mut seen.pushed.whole,
                false => &mut seen.pushed.resumed,
            };
            *first += 1;
        }
        for mark in marks {
            seen.sight(mark, self.since, now);
        }
        drop(seen);
        self.review();
    }

    /// The mark, if that is new.
    fn put(&mut self, endpoint: &Endpoint) -> Option<u64> {
        let key = (endpoint.service.clone(), endpoint.node_id.clone());
        let now = Held {
            generation: endpoint.generation,
            weight: endpoint.weight.into(),
            healthy: endpoint.health() == Health::Healthy,
        };
        let before = self.held.insert(key, now);
        self.healthy += usize::from(now.healthy);
        self.healthy -= usize::from(before.is_some_and(|before| before.healthy));
        let same = before.is_some_and(|before| before.weight == now.weight);
        (now.weight > UNMARKED && !same).then_some(now.weight)
    }

    fn remove(&mut self, key: &(String, String)) -> bool {
        let Some(before) = self.held.remove(key) else {
            return false;
        };
        self.healthy -= usize::from(before.healthy);
        before.generation > 0
    }

    fn opened(&mut self, open: bool) {
        self.open = open;
        self.review();
    }

    /// Holds nothing any more, as a new process would.
    fn forget(&mut self) {
        self.held.clear();
        self.healthy = 0;
        self.version = None;
        self.opened(false);
    }

    fn review(&mut self) {
        let settled =
            self.open && self.held.len() == self.part.whole && self.healthy == self.part.whole;
        if settled != std::mem::replace(&mut self.settled, settled) {
            self.watch.seen().settle(settled);
        }
    }
}

/// Control does not take this node in, and coming again does not help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

async fn say(said: &mpsc::Sender<SyncRequest>, message: Said) {
    let message = Some(message);
    // A stream that is lost says so when it is read.
    let _ = said.send(SyncRequest { message }).await;
}

fn weight(mark: u64) -> u32 {
    u32::try_from(mark).unwrap_or(u32::MAX)
}
