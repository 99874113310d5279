//! One control stream from Hello to its end, as a pure state machine: what is said by control goes
//! in, what is to be done comes out. The loop in `client` does the doing. Nothing here reads a
//! clock or a socket.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use sidelane_proto::model::{
    FieldError, Generation, ProtocolRange, RefusedRule, ServiceName, Subscription, Update, Version,
};
use sidelane_proto::wire::control::v1::{
    self as wire, sync_request::Message as Said, sync_response::Message as Heard,
};

use super::blame::Named;
use super::held::{Change, Held};
use super::rules::Judge;
use super::status::RefusedUpdate;

/// The lease and the heartbeat where Welcome names none.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(3);
/// Heartbeats are never closer than this: a Welcome gone wrong must not make a busy loop.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Session {
    protocol: ProtocolRange,
    welcomed: bool,
    /// What control has been asked to tell on this stream.
    told: HashSet<ServiceName>,
    /// Asked for after Hello, and no whole state has come yet. Deltas of these are skipped: they
    /// may stem from an earlier subscription on this stream, and would make a partial state.
    awaited: HashSet<ServiceName>,
    /// Named in Hello. What is held of it is up to date as soon as control has said anything after
    /// Welcome; where Hello had nothing to resume from, as soon as an update came.
    resumed: Vec<ServiceName>,
    /// Wanted but not held: asked for after Welcome, because control can only tell what changed
    /// since the held version, and of these nothing was held.
    later: Vec<ServiceName>,
}

/// What Welcome settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) lease: Duration,
    pub(super) heartbeat: Duration,
    pub(super) highest_generation: Option<Generation>,
    pub(super) build: String,
}

/// What is to be done about something that control said.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// The stream is open.
    Welcomed(Terms),
    /// An update was merged: hand the change on, then send the reply.
    Updated {
        change: Change,
        /// Rules in it that were refused.
        refused: Vec<RefusedRule>,
        /// Only these are answered, all others are no longer.
        full: bool,
        answered: Vec<ServiceName>,
        reply: wire::SyncRequest,
    },
    /// An update was refused and nothing changed: send the reply.
    Refused {
        update: RefusedUpdate,
        reply: wire::SyncRequest,
    },
    /// Everybody who listens knows that this node drains.
    DrainConfirmed { unacknowledged: u32 },
    /// What is trusted from now on: take it, then acknowledge it.
    Trusted(wire::Trust),
    /// Control is there. The services named are known to be up to date.
    Alive { answered: Vec<ServiceName> },
}

/// Why control ended the stream, or why we must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Control does not take this node in.
    Refusal(wire::Refusal),
    /// A newer generation of this node is alive.
    Superseded { generation: u64, text: String },
    /// Control said what the protocol does not allow.
    Protocol(String),
}

impl Session {
    /// A stream on which Hello is about to be sent.
    pub(super) fn new(
        protocol: ProtocolRange,
        wanted: impl IntoIterator<Item = ServiceName>,
        held: &Held,
    ) -> Self {
        let (resumed, later): (Vec<_>, Vec<_>) = match held.whole_since() {
            Some(_) => wanted
                .into_iter()
                .partition(|service| held.service(service).is_some()),
            // With nothing to resume from, control begins with a full update of all that Hello
            // names.
            None => (wanted.into_iter().collect(), Vec::new()),
        };
        Self {
            protocol,
            welcomed: false,
            told: resumed.iter().cloned().collect(),
            awaited: HashSet::new(),
            resumed,
            later,
        }
    }

    /// What Hello subscribes to.
    pub(super) fn subscription(&self) -> Subscription {
        Subscription {
            add: self.resumed.clone(),
            ..Subscription::default()
        }
    }

    /// The request that brings control's idea of what is wanted up to date: the services that
    /// Hello could not name, and those whose wish changed. `None` if control knows already.
    pub(super) fn subscribe(
        &mut self,
        changed: impl IntoIterator<Item = (ServiceName, bool)>,
    ) -> Option<(wire::SyncRequest, Subscription)> {
        // The later wish counts, where Hello's was changed before it could be sent.
        let mut wishes: BTreeMap<ServiceName, bool> = std::mem::take(&mut self.later)
            .into_iter()
            .map(|service| (service, true))
            .collect();
        wishes.extend(changed);
        let mut subscription = Subscription::default();
        for (service, wanted) in wishes {
            if wanted && self.told.insert(service.clone()) {
                self.awaited.insert(service.clone());
                subscription.add.push(service);
            } else if !wanted && self.told.remove(&service) {
                self.awaited.remove(&service);
                subscription.remove.push(service);
            }
        }
        if subscription == Subscription::default() {
            return None;
        }
        Some((
            request(Said::Subscribe((&subscription).into())),
            subscription,
        ))
    }

    /// Takes in one thing that control said, merging updates into `held`.
    pub(super) fn take(
        &mut self,
        response: wire::SyncResponse,
        held: &mut Held,
        judge: &Judge,
    ) -> Result<Step, End> {
        let before_welcome = !self.welcomed;
        match response.message {
            Some(Heard::Refusal(refusal)) => Err(End::Refusal(refusal)),
            Some(Heard::Superseded(superseded)) => Err(End::Superseded {
                generation: superseded.generation,
                text: superseded.text,
            }),
            Some(Heard::Welcome(welcome)) if before_welcome => self.welcome(welcome),
            Some(Heard::Welcome(_)) => Err(End::Protocol("a second Welcome came".into())),
            _ if before_welcome => Err(End::Protocol("its first word was not Welcome".into())),
            Some(Heard::Update(update)) => Ok(self.update(update, held, judge)),
            Some(Heard::DrainConfirmed(confirmed)) => Ok(Step::DrainConfirmed {
                unacknowledged: confirmed.unacknowledged,
            }),
            Some(Heard::Heartbeat(_)) => Ok(Step::Alive {
                answered: self.take_resumed(held),
            }),
            Some(Heard::Trust(trust)) => Ok(Step::Trusted(trust)),
            // An empty message is one that a newer control knows and we do not.
            None => Ok(Step::Alive {
                answered: Vec::new(),
            }),
        }
    }

    fn welcome(&mut self, welcome: wire::Welcome) -> Result<Step, End> {
        let spoken = self.protocol;
        if !(spoken.oldest..=spoken.newest).contains(&welcome.protocol) {
            let given = welcome.protocol;
            let text = format!("it speaks version {given} of the protocol, this sidecar {spoken}");
            return Err(End::Protocol(text));
        }
        self.welcomed = true;
        let lease = or_default(welcome.lease_ms, DEFAULT_LEASE);
        Ok(Step::Welcomed(Terms {
            lease,
            heartbeat: or_default(welcome.heartbeat_ms, DEFAULT_HEARTBEAT).max(SHORTEST_HEARTBEAT),
            highest_generation: Generation::new(welcome.highest_generation),
            build: welcome.build,
        }))
    }

    fn update(&mut self, update: wire::Update, held: &mut Held, judge: &Judge) -> Step {
        let version = update.version.clone();
        let full = update.full;
        let named = Named::of(&update);
        let begins = held.begins();
        match self.merge(update, held, judge) {
            Ok((change, refused, mut answered)) => {
                for service in &answered {
                    self.awaited.remove(service);
                }
                answered.extend(self.take_resumed(held));
                let told: Vec<wire::RuleRefusal> = if begins {
                    // Control may have started anew since it heard of the older ones.
                    held.refused_rules().map(Into::into).collect()
                } else {
                    refused.iter().map(Into::into).collect()
                };
                Step::Updated {
                    reply: request(Said::Ack(wire::Ack {
                        version: Some((&change.version).into()),
                        refused: told,
                    })),
                    change,
                    refused,
                    full,
                    answered,
                }
            }
            Err(error) => {
                // What is not told to us any more would stay refused for ever.
                let blamed = named.blamed(&error.path).into_iter();
                held.refuse(blamed.filter(|service| self.told.contains(service)));
                refuse(version, error)
            }
        }
    }

    /// Merges an update in. Returns what changed, the rules that were refused, and the services
    /// whose whole state came.
    fn merge(
        &self,
        update: wire::Update,
        held: &mut Held,
        judge: &Judge,
    ) -> Result<(Change, Vec<RefusedRule>, Vec<ServiceName>), FieldError> {
        let mut update = Update::try_from(update)?;
        let stated = update.services.iter().map(|state| state.service.clone());
        let stated = stated
            .filter(|service| self.told.contains(service))
            .collect();
        let offered: HashSet<ServiceName> = held.offered().cloned().collect();
        let ours = |service: &str| self.told.contains(service) || offered.contains(service);
        held.judge_rules(&mut update, ours, &**judge);
        let refused = update.refused.clone();
        let change = held.apply_taking(
            update,
            |service, whole| {
                self.told.contains(service) && (whole || !self.awaited.contains(service))
            },
            ours,
        )?;
        Ok((change, refused, stated))
    }

    /// What Hello named and what is (still) held: known to be up to date from now on.
    fn take_resumed(&mut self, held: &Held) -> Vec<ServiceName> {
        if held.awaits_whole() {
            return Vec::new();
        }
        let resumed = std::mem::take(&mut self.resumed).into_iter();
        resumed
            .filter(|service| held.service(service).is_some())
            .collect()
    }
}

/// Wraps one thing to say.
pub(super) const fn request(message: Said) -> wire::SyncRequest {
    wire::SyncRequest {
        message: Some(message),
    }
}

fn refuse(version: Option<wire::Version>, error: FieldError) -> Step {
    let nack = wire::Nack {
        version: version.clone(),
        field: error.path.clone(),
        problem: error.problem.to_string(),
    };
    Step::Refused {
        update: RefusedUpdate {
            version: version.and_then(|version| Version::try_from(version).ok()),
            error,
        },
        reply: request(Said::Nack(nack)),
    }
}

fn or_default(milliseconds: u32, default: Duration) -> Duration {
    match milliseconds {
        0 => default,
        given => Duration::from_millis(given.into()),
    }
}
