//! One session, from Hello to its end. It hears the sidecar, passes on what that says of its node,
//! and tells it the newest state of what it wants to know. It never waits for the sidecar to read:
//! what is to be said is worked out when there is room to say it.

mod ending;
mod opening;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sidelane_proto::model::node::offers_from_wire;
use sidelane_proto::model::{FieldError, Offer, ServiceName, Subscription, Version};
use sidelane_proto::wire::control::v1::{
    DrainConfirmed, Heartbeat, Refusal, RuleRefusal, SyncRequest, sync_request::Message as Said,
    sync_response::Message as Told,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::{Status, Streaming};

use super::ack::RefusedRule;
use super::directory::Entry;
use super::outgoing::Outgoing;
use super::server::Membership;
use crate::ca::Trust;
use crate::claim::{ClaimEnd, ClaimEvent, StreamId, Word};
use crate::drain::Draining;
use crate::peer::{Peer, Shown};

use ending::{End, close};
pub use opening::HELLO_LIMIT;
use opening::{Opened, Unopened, open, service_names};

/// How long a node that drains waits for the others to acknowledge that, at most: a sidecar that
/// hangs must not keep a node from leaving.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Services that one session may ask for by name. Whoever needs more asks for all.
pub const SUBSCRIPTIONS_LIMIT: usize = sidelane_proto::model::snapshot::SUBSCRIBE_LIMIT;
/// A clock that is set does not wake a task that sleeps, so the clock is looked at this often.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);
/// A sidecar that sends many messages is reported as heard of at most this often.
const HEARD_PAUSE: Duration = Duration::from_millis(250);

/// To the connection, which takes a message when it can send one.
type Connection = mpsc::Sender<Outgoing>;

/// Runs a session to its end.
pub(super) async fn run(
    membership: Arc<Membership>,
    stream: StreamId,
    peer: Option<Peer>,
    mut requests: Streaming<SyncRequest>,
    outgoing: Connection,
    mut draining: Draining,
) {
    let opened = open(
        &membership,
        stream,
        peer.as_ref(),
        &mut requests,
        &mut draining,
    )
    .await;
    let Opened {
        entry,
        welcome,
        offered,
        ended,
    } = match opened {
        Ok(opened) => opened,
        Err(Unopened::Refused(refusal)) => return refuse(&membership, &outgoing, refusal).await,
        Err(Unopened::Gone) => return,
    };
    tracing::debug!(node = %entry.session.key, "session opened");
    // There is room: nothing was sent before.
    let greeted = outgoing.send(Outgoing::told(Told::Welcome(welcome))).await;
    let key = entry.session.key.clone();
    let mut session = Session::new(&membership, entry, offered, outgoing, peer);
    let end = match greeted {
        Ok(()) => session.run(&mut requests, ended, &mut draining).await,
        Err(_) => End::Lost,
    };
    let outgoing = session.outgoing.clone();
    // Out of the directory first: nobody waits any longer for what it acknowledges.
    drop(session);
    close(&membership, end, stream, key, &outgoing).await;
}

async fn refuse(membership: &Membership, outgoing: &Connection, refused: opening::Refusing) {
    membership.counters.refusal(refused.reason);
    tracing::info!(
        reason = refused.reason.name(),
        text = refused.text,
        "a stream was refused"
    );
    let refusal = Refusal {
        reason: refused.reason.name().to_owned(),
        text: refused.text,
        retry: refused.reason.retry(),
        highest_generation: refused.highest_generation,
    };
    // Nothing can be done for a stream that has gone meanwhile.
    let _ = outgoing.send(Outgoing::told(Told::Refusal(refusal))).await;
}

/// Resolves with the drain's version and the number of sessions that did not acknowledge it.
type Confirmation = Pin<Box<dyn Future<Output = Option<(u64, usize)>> + Send>>;

struct Session<'a> {
    membership: &'a Arc<Membership>,
    entry: Entry,
    /// The services that the node offers: who listens to one of them is waited for in a drain.
    offered: Vec<ServiceName>,
    outgoing: Connection,
    heartbeats: Interval,
    heard: Option<Instant>,
    /// When the update was made that is on its way.
    sent: Option<Instant>,
    /// There may be something to tell.
    news: bool,
    /// A heartbeat is due.
    heartbeat: bool,
    confirming: Option<Confirmation>,
    confirmed: Option<DrainConfirmed>,
    /// What the sidecar is told of trust.
    trust: Option<watch::Receiver<Arc<Trust>>>,
    /// There is something to tell of it.
    distrusted: bool,
    /// The certificate that the sidecar came with.
    shown: Option<Shown>,
}

impl<'a> Session<'a> {
    fn new(
        membership: &'a Arc<Membership>,
        entry: Entry,
        offered: Vec<ServiceName>,
        outgoing: Connection,
        peer: Option<Peer>,
    ) -> Self {
        let period = membership.terms.heartbeat();
        let mut heartbeats = tokio::time::interval_at(Instant::now() + period, period);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            membership,
            entry,
            offered,
            outgoing,
            heartbeats,
            heard: None,
            sent: None,
            news: true,
            heartbeat: false,
            confirming: None,
            confirmed: None,
            trust: membership.trust.clone(),
            distrusted: membership.trust.is_some(),
            shown: peer.and_then(|peer| peer.shown),
        }
    }

    async fn run(
        &mut self,
        requests: &mut Streaming<SyncRequest>,
        mut ended: oneshot::Receiver<ClaimEnd>,
        draining: &mut Draining,
    ) -> End {
        let mut outdated = pin!(end_of(self.shown.clone()));
        loop {
            let has_something =
                self.distrusted || self.news || self.heartbeat || self.confirmed.is_some();
            tokio::select! {
                biased;
                () = draining.begun() => return End::Stopping,
                end = &mut ended => return end.map_or(End::Closed, End::Claim),
                room = self.outgoing.clone().reserve_owned(), if has_something => match room {
                    Ok(room) => if let Some(message) = self.next_message() {
                        room.send(message);
                    },
                    Err(_) => return End::Lost,
                },
                request = requests.message() => match request {
                    Ok(Some(SyncRequest { message })) => {
                        if let Err(end) = self.hear(message).await {
                            return end;
                        }
                    }
                    Ok(None) | Err(_) => return End::Lost,
                },
                confirmation = wait(&mut self.confirming) => self.confirm(confirmation),
                () = &mut outdated => return End::Outdated,
                () = changed(&mut self.trust) => {
                    self.distrusted = true;
                    if let Err(end) = self.still_believed() {
                        return end;
                    }
                }
                () = self.entry.session.wake.notified() => self.news = true,
                _ = self.heartbeats.tick() => self.heartbeat = true,
            }
        }
    }

    /// What is to be said now. Asked only when there is room, so that it is the newest.
    fn next_message(&mut self) -> Option<Outgoing> {
        if let Some(confirmed) = self.confirmed.take() {
            return Some(Outgoing::told(Told::DrainConfirmed(confirmed)));
        }
        if std::mem::take(&mut self.distrusted)
            && let Some(trust) = &mut self.trust
        {
            let trust = Arc::clone(&trust.borrow_and_update());
            return Some(Outgoing::told(Told::Trust((&*trust).into())));
        }
        let snapshot = self.membership.registry.snapshot();
        if std::mem::take(&mut self.heartbeat) {
            let version = Some((&snapshot.version()).into());
            return Some(Outgoing::told(Told::Heartbeat(Heartbeat { version })));
        }
        self.news = false;
        let mut progress = self.entry.session.progress();
        let Some(news) = progress.next(&snapshot) else {
            if progress.waits() {
                self.membership.counters.coalesced();
            }
            return None;
        };
        drop(progress);
        self.membership.counters.update();
        self.sent = Some(Instant::now());
        Some(Outgoing::News(Box::new(news)))
    }

    /// Was the certificate that the sidecar came with revoked since?
    fn still_believed(&self) -> Result<(), End> {
        let (Some(trust), Some(shown)) = (&self.trust, &self.shown) else {
            return Ok(());
        };
        match shown.revoked(&trust.borrow().revoked) {
            Some(found) => {
                let text = format!("{} was revoked", found.subject);
                Err(End::Wrong(Status::permission_denied(text)))
            }
            None => Ok(()),
        }
    }

    async fn hear(&mut self, message: Option<Said>) -> Result<(), End> {
        match message {
            Some(Said::Hello(_)) => {
                let text = "hello was said already: a stream has one, as its first message";
                return Err(End::Wrong(Status::invalid_argument(text)));
            }
            Some(Said::Subscribe(subscribe)) => {
                self.subscribe(&Subscription::try_from(subscribe).map_err(wrong("subscribe"))?)?;
            }
            Some(Said::Ack(ack)) => {
                let version = version(ack.version, "ack.version")?;
                self.taken(&version, ack.refused);
            }
            Some(Said::Nack(nack)) => {
                let version = version(nack.version, "nack.version")?;
                self.refused(&version, &nack.field, &nack.problem);
            }
            Some(Said::OffersChanged(changed)) => {
                let offers = offers_from_wire(changed.offers).map_err(wrong("offers_changed"))?;
                return self.offer(offers).await;
            }
            Some(Said::TrustAck(acknowledged)) => {
                let trust = &self.entry.session.trust;
                trust.store(acknowledged.revision, Ordering::Relaxed);
            }
            Some(Said::Draining(_)) => return self.drain().await,
            Some(Said::Goodbye(goodbye)) => {
                tracing::debug!(reason = goodbye.reason, "goodbye");
                return Err(End::Goodbye);
            }
            // A message of a later protocol is a sign of life, and nothing more.
            Some(Said::Heartbeat(_)) | None => {}
        }
        let heard = self.heard.replace(Instant::now());
        if heard.is_some_and(|heard| heard.elapsed() < HEARD_PAUSE) {
            self.heard = heard;
            return Ok(());
        }
        self.say(Word::Heard).await
    }

    async fn offer(&mut self, offers: Vec<Offer>) -> Result<(), End> {
        let offered = service_names(&offers);
        let (reply, taken) = oneshot::channel();
        self.say(Word::Offers(offers, reply)).await?;
        match taken.await {
            Ok(Ok(())) => {
                self.entry.offer(&offered);
                self.offered = offered;
                self.news = true;
            }
            Ok(Err(refused)) => {
                return Err(End::Wrong(Status::resource_exhausted(refused.to_string())));
            }
            // The claim is over meanwhile, which its end says.
            Err(_) => {}
        }
        Ok(())
    }

    fn subscribe(&mut self, subscription: &Subscription) -> Result<(), End> {
        let before = self.entry.session.progress().services().len();
        if before + subscription.add.len() > SUBSCRIPTIONS_LIMIT + subscription.remove.len() {
            let text = format!(
                "{before} services are subscribed, {} more are asked for, and no more than \
                 {SUBSCRIPTIONS_LIMIT} may be: unsubscribe from some, or ask for all",
                subscription.add.len()
            );
            return Err(End::Wrong(Status::resource_exhausted(text)));
        }
        self.entry
            .subscribe(subscription, &self.membership.registry);
        self.news = true;
        Ok(())
    }

    fn taken(&mut self, version: &Version, refused: Vec<RuleRefusal>) {
        let node = &self.entry.session.key;
        let read = |refusal: RuleRefusal| {
            // A name that is none was in no update.
            let service = ServiceName::new(&refusal.service).ok()?;
            let RuleRefusal { version, field, .. } = refusal;
            Some(RefusedRule {
                service,
                version,
                field,
                problem: refusal.problem,
            })
        };
        let refused: Vec<RefusedRule> = refused.into_iter().filter_map(read).collect();
        let first = refused.first().cloned();
        let mut progress = self.entry.session.progress();
        let Some(count) = progress.ack(version, refused) else {
            return;
        };
        self.news |= progress.has_more();
        drop(progress);
        let sent = self.sent.take();
        let waited = sent.map(|sent| sent.elapsed());
        self.membership.counters.ack(waited.unwrap_or_default());
        self.membership.counters.rules_refused(count);
        if let Some(RefusedRule {
            service,
            version,
            field,
            problem,
        }) = first
        {
            tracing::warn!(%node, count, %service, version, field, problem, "rules were refused");
        }
        self.entry.answered();
    }

    fn refused(&mut self, version: &Version, field: &str, problem: &str) {
        if self.entry.session.progress().nack(version, field, problem) {
            self.membership.counters.nack();
            tracing::warn!(
                node = %self.entry.session.key,
                version = version.counter,
                field,
                problem,
                "an update was refused"
            );
            self.entry.answered();
            self.news = true;
        }
    }

    async fn drain(&mut self) -> Result<(), End> {
        let (published, publication) = oneshot::channel();
        self.say(Word::Draining(published)).await?;
        let membership = Arc::clone(self.membership);
        let key = self.entry.session.key.clone();
        let services = self.offered.clone();
        self.confirming = Some(Box::pin(async move {
            let until = Instant::now() + DRAIN_LIMIT;
            let version = publication.await.ok()?;
            let registry = &membership.registry;
            let behind = membership
                .directory
                .wait_for_subscribers(registry, version, until, &key, &services)
                .await;
            Some((version, behind.len()))
        }));
        Ok(())
    }

    /// `None`: the registry has ended, and nobody can confirm anything.
    fn confirm(&mut self, confirmation: Option<(u64, usize)>) {
        self.confirmed = confirmation.map(|(counter, unacknowledged)| {
            let store_id = self.membership.registry.snapshot().store().to_string();
            let version = sidelane_proto::wire::control::v1::Version { store_id, counter };
            DrainConfirmed {
                version: Some(version),
                unacknowledged: u32::try_from(unacknowledged).unwrap_or(u32::MAX),
            }
        });
    }

    async fn say(&mut self, word: Word) -> Result<(), End> {
        let event = ClaimEvent::Said {
            stream: self.entry.session.stream,
            key: self.entry.session.key.clone(),
            word,
        };
        let said = self.membership.claims.send(event).await;
        said.map_err(|_| End::Closed)
    }
}

/// Waits until the certificate has ended; for ever where none was shown.
async fn end_of(shown: Option<Shown>) {
    let Some(shown) = shown else {
        return std::future::pending().await;
    };
    while let Ok(left) = shown.until.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK_AT_CLOCK)).await;
    }
}

/// Waits for ever where there is no trust to change.
async fn changed(trust: &mut Option<watch::Receiver<Arc<Trust>>>) {
    let changed = match trust {
        Some(trust) => trust.changed().await.is_ok(),
        None => false,
    };
    // An authority that has ended changes nothing more.
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// Waits for ever where nothing is being confirmed.
async fn wait(confirming: &mut Option<Confirmation>) -> Option<(u64, usize)> {
    match confirming {
        Some(confirmation) => {
            let confirmed = confirmation.await;
            *confirming = None;
            confirmed
        }
        None => std::future::pending().await,
    }
}

fn version(
    version: Option<sidelane_proto::wire::control::v1::Version>,
    path: &'static str,
) -> Result<Version, End> {
    let missing = || FieldError::new(path, sidelane_proto::model::Problem::Missing);
    let version = version.ok_or_else(missing);
    let read = version.and_then(|version| {
        Version::try_from(version).map_err(|error: FieldError| error.within(path))
    });
    read.map_err(|error| End::Wrong(Status::invalid_argument(error.to_string())))
}

fn wrong(path: &'static str) -> impl Fn(FieldError) -> End {
    move |error| End::Wrong(Status::invalid_argument(error.within(path).to_string()))
}
