//! The registration source: nodes that tell of themselves over their streams. This file is the
//! loop, with the timers and the channels; who may be which node, and for how long, is decided in
//! `holders`, which knows no time of its own.

mod holders;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sidelane_proto::model::Generation;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::claim::{Admitted, ClaimEnd, ClaimEvent, StreamId, Word};
use crate::drain::Draining;
use crate::registry::{Closed, NodeKey, NodeRecord, Registry, Terms};

pub use holders::{ENDPOINTS_LIMIT, GENERATIONS_LIMIT, NODES_LIMIT};
use holders::{Holders, Step};

/// A loop that comes so late to a deadline has stood still: frozen, swapped out, or without a
/// processor. A loop that is merely busy is late by milliseconds; the shortest step of a lease of
/// 10 s is 2.5 s, so nobody outlives a lease by much.
const STANDSTILL: Duration = Duration::from_secs(1);

/// The registration source, before its loop runs.
#[derive(Debug)]
pub struct Registration {
    holders: Holders,
    registry: Registry,
    /// Of each stream that holds a node: to be told when its claim is over.
    streams: HashMap<StreamId, oneshot::Sender<ClaimEnd>>,
}

impl Registration {
    /// A source that knows nobody yet.
    #[must_use]
    pub fn new(terms: Terms, registry: Registry) -> Self {
        Self {
            holders: Holders::new(terms),
            registry,
            streams: HashMap::new(),
        }
    }

    /// Takes in what was known before a restart: each node as suspect for one whole lease from
    /// now. Returns when the registry has published them, so that nobody ever sees an empty hub.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn restore(
        &mut self,
        generations: impl IntoIterator<Item = (NodeKey, Generation)>,
        nodes: impl IntoIterator<Item = Arc<NodeRecord>>,
    ) -> Result<(), Closed> {
        self.holders.restore_generations(generations);
        let now = Instant::now().into_std();
        let mut last = None;
        for record in nodes {
            let (published, publication) = oneshot::channel();
            let change = self.holders.restore(now, &record);
            self.registry.apply(change, Some(published)).await?;
            last = Some(publication);
        }
        match last {
            Some(publication) => publication.await.map(drop).map_err(|_| Closed),
            None => Ok(()),
        }
    }

    /// Runs the source until every stream's end of the channel is dropped, or the registry ends.
    /// Once the control plane drains, no lease ends any more: nobody can renew one then, and what
    /// is stored last must not be an empty mesh.
    #[must_use]
    pub fn spawn(self, events: mpsc::Receiver<ClaimEvent>, draining: Draining) -> JoinHandle<()> {
        tokio::spawn(async move {
            if self.run(events, draining).await == Err(Closed) {
                tracing::error!("the registry ended before the registration source");
            }
        })
    }

    async fn run(
        mut self,
        mut events: mpsc::Receiver<ClaimEvent>,
        draining: Draining,
    ) -> Result<(), Closed> {
        // Given up when the drain begins, which would wait for it otherwise.
        let mut draining = Some(draining);
        loop {
            let due = self.holders.next_deadline().map(Instant::from_std);
            let due = due.filter(|_| draining.is_some());
            let event = tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => Some(event),
                    None => return Ok(()),
                },
                () = begun(&mut draining) => continue,
                () = until(due) => None,
            };
            let stopping = draining.is_none();
            if !stopping {
                self.forgive_standstill();
            }
            if let Some(event) = event {
                self.hear(event).await?;
            }
            // Also after a word: a stream that talks without end must not keep others' leases.
            if !stopping {
                self.end_leases().await?;
            }
        }
    }

    /// Words that came while this process stood still are still in its sockets. To end leases
    /// before they are heard would empty the hubs of the whole mesh, although everybody is there.
    fn forgive_standstill(&mut self) {
        let now = Instant::now().into_std();
        let due = self.holders.next_deadline();
        let late = due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late > STANDSTILL {
            tracing::warn!(?late, "this process stood still; all leases begin anew");
            self.holders.begin_anew(now);
        }
    }

    async fn hear(&mut self, event: ClaimEvent) -> Result<(), Closed> {
        let now = Instant::now().into_std();
        match event {
            ClaimEvent::Hello {
                stream,
                hello,
                ended,
                reply,
            } => match self.holders.hello(now, stream, *hello) {
                Ok(admission) => {
                    let stamp = admission.step.change.stamp;
                    tracing::info!(node = %admission.step.change.key, generation = %stamp.generation, "node registered");
                    self.streams.insert(stream, ended);
                    let (published, publication) = oneshot::channel();
                    self.carry_out(admission.step, Some(published)).await?;
                    let admitted = Admitted {
                        highest: admission.highest,
                        published: publication,
                    };
                    // A stream that gave up while it waited says so with `Lost`.
                    let _ = reply.send(Ok(admitted));
                }
                Err(refused) => {
                    tracing::info!(%refused, "a claim was refused");
                    let _ = reply.send(Err(refused));
                }
            },
            ClaimEvent::Said { stream, key, word } => self.said(now, stream, &key, word).await?,
            ClaimEvent::Silences(reply) => {
                let _ = reply.send(self.holders.silences(now));
            }
        }
        Ok(())
    }

    async fn said(
        &mut self,
        now: std::time::Instant,
        stream: StreamId,
        key: &NodeKey,
        word: Word,
    ) -> Result<(), Closed> {
        if !self.holders.holds(stream, key) {
            // A late word of a stream whose claim is over changes nothing.
            return Ok(());
        }
        let mut published = None;
        let change = match word {
            Word::Heard => self.holders.heard(now, key),
            Word::Offers(offers, reply) => match self.holders.offers(now, key, offers) {
                Ok(change) => {
                    // The stream waits for this, unless it has just broken.
                    let _ = reply.send(Ok(()));
                    change
                }
                Err(refused) => {
                    let _ = reply.send(Err(refused));
                    None
                }
            },
            Word::Draining(sender) => {
                tracing::info!(node = %key, "node drains");
                published = Some(sender);
                self.holders.draining(now, key)
            }
            Word::Goodbye => {
                tracing::info!(node = %key, "node said goodbye");
                self.streams.remove(&stream);
                self.holders.goodbye(key)
            }
            Word::Lost => {
                tracing::info!(node = %key, "node's stream broke, its lease runs");
                self.streams.remove(&stream);
                self.holders.lost(now, key)
            }
        };
        match change {
            Some(change) => self.registry.apply(change, published).await,
            None => Ok(()),
        }
    }

    async fn end_leases(&mut self) -> Result<(), Closed> {
        let now = Instant::now().into_std();
        for step in self.holders.pass(now) {
            match step.change.record {
                Some(_) => tracing::info!(node = %step.change.key, "node is silent"),
                None => tracing::info!(node = %step.change.key, "node's lease has ended"),
            }
            self.carry_out(step, None).await?;
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        step: Step,
        published: Option<oneshot::Sender<u64>>,
    ) -> Result<(), Closed> {
        if let Some((stream, end)) = step.ended
            && let Some(ended) = self.streams.remove(&stream)
        {
            tracing::info!(node = %step.change.key, ?end, "a stream's claim is over");
            // A stream that has gone meanwhile need not be told.
            let _ = ended.send(end);
        }
        self.registry.apply(step.change, published).await
    }
}

/// Waits for the drain to begin, once.
async fn begun(draining: &mut Option<Draining>) {
    match draining {
        Some(watch) => {
            watch.begun().await;
            *draining = None;
        }
        None => std::future::pending().await,
    }
}

/// Waits for ever where nothing is due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
