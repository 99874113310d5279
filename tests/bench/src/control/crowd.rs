//! All simulated sidecars of one mesh, and the changes that they are told to make.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sidelane_proto::wire::control::v1::Health;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::layout::{Callers, Layout, SHARED, service};
use super::sidecar::{Order, Part, Sidecar};
use super::watch::{Reached, UNMARKED, Watch};

/// Everybody is there within this time, or something is wrong.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at who is settled.
const LOOK: Duration = Duration::from_millis(5);
/// Generations begin here: far above weights, so that both can be marks.
const FIRST_GENERATION: u64 = 1_000_000;

/// The sidecars of a mesh.
pub(super) struct Crowd {
    layout: Layout,
    callers: Callers,
    /// How many sidecars offer each service.
    offerers: Vec<usize>,
    control: SocketAddr,
    pub(super) watch: Arc<Watch>,
    members: Vec<mpsc::UnboundedSender<Order>>,
    extra: Vec<mpsc::UnboundedSender<Order>>,
    tasks: JoinSet<()>,
    mark: u64,
}

impl Crowd {
    /// Nobody is there yet.
    pub(super) fn new(layout: Layout, control: SocketAddr) -> Self {
        Self {
            layout,
            callers: layout.callers(),
            offerers: layout.offerers(),
            control,
            watch: Arc::default(),
            members: Vec::new(),
            extra: Vec::new(),
            tasks: JoinSet::new(),
            mark: UNMARKED,
        }
    }

    /// All sidecars come at once. Returns how long it took until each held everything.
    pub(super) async fn join(&mut self) -> Result<Duration> {
        let began = Instant::now();
        for number in 0..self.layout.sidecars {
            let mut offers = self.names(&self.layout.offered(number));
            if number == 0 {
                // First, because that is the one whose weight is changed.
                offers.insert(0, SHARED.to_owned());
            }
            let part = self.part(format!("n-{number}"), number, offers);
            let member = self.spawn(part);
            self.members.push(member);
        }
        self.settled(began).await
    }

    /// So many more come, which call what members call and offer nothing.
    pub(super) async fn listen(&mut self, count: usize) -> Result<Duration> {
        let began = Instant::now();
        for number in 0..count {
            let part = self.part(format!("listener-{number}"), number, Vec::new());
            let listener = self.spawn(part);
            self.extra.push(listener);
        }
        self.settled(began).await
    }

    /// Waits until every sidecar is settled. Returns the time from `began` until the last one was.
    pub(super) async fn settled(&self, began: Instant) -> Result<Duration> {
        let wanted = self.members.len() + self.extra.len();
        loop {
            let (settled, last) = self.watch.settled()?;
            if settled == wanted {
                let last = last.unwrap_or(began);
                return Ok(last.saturating_duration_since(began));
            }
            if began.elapsed() > SETTLE_LIMIT {
                bail!("only {settled} of {wanted} sidecars hold everything after {SETTLE_LIMIT:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Changes one endpoint after the other, `pause` apart: in turn its weight, its health, and the
    /// presence of its whole node.
    pub(super) async fn paced(&mut self, changes: usize, pause: Duration) -> Result<Reached> {
        let mut expected = 0;
        let mut pace = pace(pause);
        for change in 0..changes {
            pace.tick().await;
            // Each sidecar is told two things in turn, so that all are as before in the end.
            let member = 1 + change / 2 % (self.members.len() - 1);
            let offered = self.layout.offered(member);
            let first_half = change % 2 == 0;
            let (order, concerned) = match (change / 2 % 4, first_half) {
                (2, true) => (self.offer(Health::Unhealthy), &offered[..1]),
                (0..=2, _) => (self.offer(Health::Healthy), &offered[..1]),
                (_, true) => (Order::Down, &offered[..]),
                (_, false) => (self.up(), &offered[..]),
            };
            expected += self.hearers(member, concerned, order);
            self.tell(member, order)?;
        }
        let reached = self.watch.reached(expected).await?;
        self.settled(Instant::now()).await?;
        Ok(reached)
    }

    /// Changes weights only, `pause` apart: of services that some sidecars call, or of the one that
    /// all call.
    pub(super) async fn weights(
        &mut self,
        changes: usize,
        pause: Duration,
        shared: bool,
    ) -> Result<Reached> {
        let mut expected = 0;
        let mut pace = pace(pause);
        for change in 0..changes {
            pace.tick().await;
            let member = match shared {
                true => 0,
                false => 1 + change % (self.members.len() - 1),
            };
            let order = self.offer(Health::Healthy);
            expected += match shared {
                true => self.members.len(),
                false => self.callers.of(&self.layout.offered(member)[..1]),
            };
            self.tell(member, order)?;
        }
        self.watch.reached(expected).await
    }

    /// Every sidecar changes the weight of its first endpoint, at once.
    pub(super) async fn burst(&mut self) -> Result<Reached> {
        let mut expected = 0;
        for member in 1..self.members.len() {
            let order = self.offer(Health::Healthy);
            expected += self.callers.of(&self.layout.offered(member)[..1]);
            self.tell(member, order)?;
        }
        self.watch.reached(expected).await
    }

    /// Listeners leave.
    pub(super) async fn dismiss_listeners(&mut self) -> Result<()> {
        self.extra.clear();
        self.settled(Instant::now()).await.map(drop)
    }

    /// How many sidecars see what an order does.
    fn hearers(&self, member: usize, concerned: &[usize], order: Order) -> usize {
        let listeners = self.callers.of(concerned);
        // Who is away hears nothing of itself.
        let itself = matches!(order, Order::Down)
            && self
                .layout
                .called(member)
                .iter()
                .any(|s| concerned.contains(s));
        listeners - usize::from(itself)
    }

    fn offer(&mut self, health: Health) -> Order {
        let mark = self.next_mark();
        Order::Offer { mark, health }
    }

    fn up(&mut self) -> Order {
        let mark = self.next_mark();
        Order::Up { mark }
    }

    fn next_mark(&mut self) -> u64 {
        self.mark += 1;
        self.mark
    }

    fn tell(&self, member: usize, order: Order) -> Result<()> {
        if self.members[member].send(order).is_err() {
            bail!("the simulated sidecar n-{member} has ended");
        }
        Ok(())
    }

    fn names(&self, services: &[usize]) -> Vec<String> {
        services.iter().map(|number| service(*number)).collect()
    }

    fn part(&self, node: String, number: usize, offers: Vec<String>) -> Part {
        let called = self.layout.called(number);
        let whole: usize = called.iter().map(|service| self.offerers[*service]).sum();
        let mut calls = self.names(&called);
        calls.push(SHARED.to_owned());
        Part {
            node,
            generation: FIRST_GENERATION * (number as u64 + 1),
            offers,
            calls,
            whole: whole + 1,
        }
    }

    fn spawn(&mut self, part: Part) -> mpsc::UnboundedSender<Order> {
        let (orders, receiver) = mpsc::unbounded_channel();
        let sidecar = Sidecar::new(self.control, part, Arc::clone(&self.watch), receiver);
        self.tasks.spawn(sidecar.run());
        orders
    }
}

/// On a machine that is late, changes stay apart: two at once of one sidecar would be told as one.
fn pace(pause: Duration) -> Interval {
    let mut pace = interval(pause);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
