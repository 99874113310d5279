//! Who holds which node id, and for how long. Pure: claims, words and the time go in, changes for
//! the registry come out. It must never let two processes be one node, nor let the late word of a
//! replaced one do anything.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use sidelane_proto::model::{Generation, Identity, InstanceId, NodeHello, Offer};

use crate::claim::{ClaimEnd, Refused, StreamId};
use crate::registry::{
    Change, Lease, NodeKey, NodeRecord, Origin, Presence, Stamp, Standing, Terms,
};

/// Nodes that may be registered at once: sixteen times what one mesh is built for.
pub const NODES_LIMIT: usize = 16_384;
/// Offers of all registered nodes together: so that one update that tells of all of them still
/// fits into a message (`sidelane_proto::model::snapshot::UPDATE_BYTES_LIMIT`).
pub const ENDPOINTS_LIMIT: usize = 65_536;
/// Nodes whose highest generation is remembered, those that left included. Past it the lowest of
/// those that left are forgotten first: they started longest ago.
pub const GENERATIONS_LIMIT: usize = 65_536;

/// Everybody who holds a node id.
#[derive(Debug)]
pub(super) struct Holders {
    terms: Terms,
    nodes: HashMap<NodeKey, Holder>,
    generations: HashMap<NodeKey, Generation>,
    /// When each node's standing changes next if it stays silent, soonest first.
    deadlines: BTreeSet<(Instant, NodeKey)>,
    endpoints: usize,
    revision: u64,
}

#[derive(Debug)]
struct Holder {
    record: Arc<NodeRecord>,
    lease: Lease,
    stream: Option<StreamId>,
    deadline: Instant,
}

/// What is to be done: tell the registry, and perhaps tell a stream that its claim is over.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) change: Change,
    pub(super) ended: Option<(StreamId, ClaimEnd)>,
}

/// A claim that is taken in.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) step: Step,
    pub(super) highest: Generation,
}

impl Holders {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            nodes: HashMap::new(),
            generations: HashMap::new(),
            deadlines: BTreeSet::new(),
            endpoints: 0,
            revision: 0,
        }
    }

    pub(super) fn restore_generations(
        &mut self,
        generations: impl IntoIterator<Item = (NodeKey, Generation)>,
    ) {
        self.generations.extend(generations);
    }

    /// Takes in a node that was there before a restart: suspect, with a whole lease to come back.
    pub(super) fn restore(&mut self, now: Instant, record: &NodeRecord) -> Change {
        let record = NodeRecord {
            presence: Presence::Suspect,
            ..record.clone()
        };
        let lease = Lease {
            heard: now,
            connected: false,
        };
        self.remember(&record.key, record.generation);
        self.place(now, record, lease, None)
    }

    /// Somebody claims to be a node.
    pub(super) fn hello(
        &mut self,
        now: Instant,
        stream: StreamId,
        hello: NodeHello,
    ) -> Result<Admission, Refused> {
        let key = NodeKey {
            network: hello.network.clone(),
            node: hello.node.clone(),
        };
        self.check(now, &key, &hello)?;
        self.check_room(&key, hello.offers.len())?;
        let ended = self.nodes.get(&key).and_then(|holder| {
            let end = match holder.record.generation < hello.generation {
                true => ClaimEnd::Superseded(hello.generation),
                false => ClaimEnd::Resumed,
            };
            Some((holder.stream?, end))
        });
        let generation = hello.generation;
        self.remember(&key, generation);
        let lease = Lease {
            heard: now,
            connected: true,
        };
        let change = self.place(now, record_of(key, hello), lease, Some(stream));
        Ok(Admission {
            step: Step { change, ended },
            highest: generation,
        })
    }

    /// Does this stream hold this node?
    pub(super) fn holds(&self, stream: StreamId, key: &NodeKey) -> bool {
        self.nodes
            .get(key)
            .is_some_and(|holder| holder.stream == Some(stream))
    }

    /// A node was heard of.
    pub(super) fn heard(&mut self, now: Instant, key: &NodeKey) -> Option<Change> {
        let holder = self.nodes.get_mut(key)?;
        if holder.record.presence == Presence::Suspect {
            return self.update(now, key, |_| {});
        }
        holder.lease.heard = now;
        self.set_deadline(now, key);
        None
    }

    /// A node's offers have changed.
    pub(super) fn offers(
        &mut self,
        now: Instant,
        key: &NodeKey,
        offers: Vec<Offer>,
    ) -> Result<Option<Change>, Refused> {
        self.check_room(key, offers.len())?;
        Ok(self.update(now, key, |record| record.offers = offers))
    }

    /// A node takes no new calls. Said again, it is told again: somebody waits for the answer.
    pub(super) fn draining(&mut self, now: Instant, key: &NodeKey) -> Option<Change> {
        let changed = self.update(now, key, |record| record.draining = true);
        changed.or_else(|| {
            let record = Arc::clone(&self.nodes.get(key)?.record);
            Some(self.change(record))
        })
    }

    /// A node is gone.
    pub(super) fn goodbye(&mut self, key: &NodeKey) -> Option<Change> {
        self.remove(key).map(|(change, _)| change)
    }

    /// A node's stream broke.
    pub(super) fn lost(&mut self, now: Instant, key: &NodeKey) -> Option<Change> {
        let holder = self.nodes.get_mut(key)?;
        holder.stream = None;
        holder.lease.connected = false;
        self.review(now, key).map(|step| step.change)
    }

    /// Acts on every lease that is due.
    pub(super) fn pass(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((due, key)) = self.deadlines.first()
            && *due <= now
        {
            let key = key.clone();
            steps.extend(self.review(now, &key));
        }
        steps
    }

    /// Gives everybody a whole lease from now, as after a restart: this process could not hear
    /// anybody for a while, so that silence means nothing.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        let keys: Vec<NodeKey> = self.nodes.keys().cloned().collect();
        for key in &keys {
            if let Some(holder) = self.nodes.get_mut(key) {
                holder.lease.heard = now;
            }
            self.set_deadline(now, key);
        }
    }

    /// When [`Holders::pass`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// How long each node has been silent, in milliseconds.
    pub(super) fn silences(&self, now: Instant) -> Vec<(NodeKey, u64)> {
        let silent = |holder: &Holder| {
            let silent = now.saturating_duration_since(holder.lease.heard);
            u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)
        };
        let nodes = self.nodes.iter();
        nodes
            .map(|(key, holder)| (key.clone(), silent(holder)))
            .collect()
    }

    fn check(&self, now: Instant, key: &NodeKey, hello: &NodeHello) -> Result<(), Refused> {
        let holder = self.nodes.get(key).filter(|holder| {
            let standing = holder.lease.standing(now, self.terms);
            standing != Standing::Ended
        });
        if let Some(Holder { record, .. }) = holder {
            let same_process = record.instance.as_ref() == Some(&hello.instance);
            let clash = record.generation == hello.generation && !same_process;
            if record.identity != hello.identity || clash {
                let instance = record.instance.as_ref();
                return Err(Refused::AlreadyExists {
                    key: key.clone(),
                    holder: party(record.identity.as_ref(), record.generation, instance),
                    claimant: party(
                        hello.identity.as_ref(),
                        hello.generation,
                        Some(&hello.instance),
                    ),
                });
            }
        }
        match self.generations.get(key) {
            Some(highest) if hello.generation < *highest => Err(Refused::StaleGeneration {
                key: key.clone(),
                given: hello.generation,
                highest: *highest,
            }),
            _ => Ok(()),
        }
    }

    /// Is there room for so many offers of this node?
    fn check_room(&self, key: &NodeKey, offers: usize) -> Result<(), Refused> {
        let known = self.nodes.get(key);
        let full = |what, count, limit| Err(Refused::Full { what, count, limit });
        if known.is_none() && self.nodes.len() >= NODES_LIMIT {
            return full("nodes", self.nodes.len() + 1, NODES_LIMIT);
        }
        let replaced = known.map_or(0, |holder| holder.record.offers.len());
        let endpoints = self.endpoints - replaced + offers;
        if endpoints > ENDPOINTS_LIMIT && offers > replaced {
            return full("endpoints", endpoints, ENDPOINTS_LIMIT);
        }
        Ok(())
    }

    /// Remembers a generation. The lowest of those that left are forgotten an eighth at once, so
    /// that looking for them is done once for many nodes.
    fn remember(&mut self, key: &NodeKey, generation: Generation) {
        self.generations.insert(key.clone(), generation);
        if self.generations.len() <= GENERATIONS_LIMIT {
            return;
        }
        let gone = |key: &NodeKey| !self.nodes.contains_key(key);
        let left = self.generations.iter().filter(|(known, _)| gone(known));
        let mut left: Vec<Generation> = left.map(|(_, generation)| *generation).collect();
        let count = (GENERATIONS_LIMIT / 8).min(left.len());
        if count == 0 {
            return;
        }
        let (_, cut, _) = left.select_nth_unstable(count - 1);
        let cut = *cut;
        let nodes = &self.nodes;
        self.generations.retain(|known, generation| {
            nodes.contains_key(known) || *generation > cut || known == key
        });
    }

    /// Puts a node in the place of whatever held its key.
    fn place(
        &mut self,
        now: Instant,
        record: NodeRecord,
        lease: Lease,
        stream: Option<StreamId>,
    ) -> Change {
        let deadline = lease.next_change(now, self.terms);
        let key = record.key.clone();
        let record = Arc::new(record);
        self.endpoints += record.offers.len();
        let holder = Holder {
            record: Arc::clone(&record),
            lease,
            stream,
            deadline,
        };
        if let Some(before) = self.nodes.insert(key.clone(), holder) {
            self.deadlines.remove(&(before.deadline, key.clone()));
            self.endpoints -= before.record.offers.len();
        }
        self.deadlines.insert((deadline, key));
        self.change(record)
    }

    /// A node was heard of, and something about it may have changed.
    fn update(
        &mut self,
        now: Instant,
        key: &NodeKey,
        edit: impl FnOnce(&mut NodeRecord),
    ) -> Option<Change> {
        let holder = self.nodes.get_mut(key)?;
        let mut record = NodeRecord::clone(&holder.record);
        edit(&mut record);
        record.presence = Presence::Present;
        let lease = Lease {
            heard: now,
            ..holder.lease
        };
        if record == *holder.record {
            holder.lease = lease;
            self.set_deadline(now, key);
            return None;
        }
        let stream = holder.stream;
        Some(self.place(now, record, lease, stream))
    }

    /// Brings what is held of a node in line with its lease.
    fn review(&mut self, now: Instant, key: &NodeKey) -> Option<Step> {
        let holder = self.nodes.get(key)?;
        match holder.lease.standing(now, self.terms) {
            Standing::Ended => {
                let (change, stream) = self.remove(key)?;
                let ended = stream.map(|stream| (stream, ClaimEnd::LeaseEnded));
                Some(Step { change, ended })
            }
            Standing::Suspect if holder.record.presence == Presence::Present => {
                let (lease, stream) = (holder.lease, holder.stream);
                let record = NodeRecord {
                    presence: Presence::Suspect,
                    ..NodeRecord::clone(&holder.record)
                };
                let change = self.place(now, record, lease, stream);
                Some(Step {
                    change,
                    ended: None,
                })
            }
            Standing::Suspect | Standing::Present => {
                self.set_deadline(now, key);
                None
            }
        }
    }

    fn set_deadline(&mut self, now: Instant, key: &NodeKey) {
        if let Some(holder) = self.nodes.get_mut(key) {
            let deadline = holder.lease.next_change(now, self.terms);
            if deadline != holder.deadline {
                self.deadlines.remove(&(holder.deadline, key.clone()));
                self.deadlines.insert((deadline, key.clone()));
                holder.deadline = deadline;
            }
        }
    }

    fn remove(&mut self, key: &NodeKey) -> Option<(Change, Option<StreamId>)> {
        let holder = self.nodes.remove(key)?;
        self.deadlines.remove(&(holder.deadline, key.clone()));
        self.endpoints -= holder.record.offers.len();
        let change = Change {
            record: None,
            ..self.change(holder.record)
        };
        Some((change, holder.stream))
    }

    fn change(&mut self, record: Arc<NodeRecord>) -> Change {
        self.revision += 1;
        Change {
            origin: Origin::Registration,
            key: record.key.clone(),
            stamp: Stamp {
                generation: record.generation,
                revision: self.revision,
            },
            record: Some(record),
        }
    }
}

fn record_of(key: NodeKey, hello: NodeHello) -> NodeRecord {
    NodeRecord {
        key,
        generation: hello.generation,
        instance: Some(hello.instance),
        identity: hello.identity,
        build: hello.build.into(),
        rules_digest: hello.rules_digest.into(),
        locality: hello.locality,
        addresses: hello.addresses,
        offers: hello.offers,
        draining: hello.draining,
        presence: Presence::Present,
    }
}

fn party(
    identity: Option<&Identity>,
    generation: Generation,
    instance: Option<&InstanceId>,
) -> String {
    let identity = identity.map_or("no identity".to_owned(), |id| format!("identity {id}"));
    let instance = instance.map_or("unknown", InstanceId::as_str);
    format!("generation {generation}, instance {instance} with {identity}")
}

#[cfg(test)]
mod tests;
