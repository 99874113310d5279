//! Which endpoints can take a call, and why the others cannot. There is one set of functions for
//! it, used by the pick and by what explains a pick, so that the two cannot disagree. Nothing here
//! changes anything.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane_proto::model::{ConnectionClass, Endpoint, Health, Lane, NodeId};

use super::circuit::Cause;
use super::near::Nearness;
use super::strategy::Strategy;
use crate::parts::{Course, NO_PART};

/// What two nodes must agree on before one calls the other: class, lane and secure.
pub type Agreement = (ConnectionClass, Lane, bool);

/// What a call demands of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Standard mode: exactly this node, never another one.
    pub node: Option<&'a str>,
    /// The class in which the endpoint will be dialled; it needs an address for it.
    pub class: ConnectionClass,
    /// The caller's own rule, where it has one. An endpoint that was compiled with another is
    /// not called: the call would travel in a lane or class that one of the two does not expect.
    pub agreement: Option<Agreement>,
    /// Nodes that this call has already tried; a few at most. They bind load-balancer mode only:
    /// with a named node there is no other to go to, and whether to try it again is for the
    /// caller to say.
    pub exclude: &'a [NodeId],
    /// Which parts of the service's split it may go to. It binds load-balancer mode only.
    pub course: Course,
    /// How to pick for this call, where its caller says so; the hub's own way otherwise.
    pub strategy: Option<Strategy>,
    /// The hash of the key that the call brings.
    pub key: Option<u64>,
    /// Who calls. Where a pick goes by a key and the call brings none, its name is the key.
    pub caller: &'a str,
}

/// An endpoint as a call sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Why the call cannot go there; `None` if it can.
    pub unfit: Option<Unfit>,
    /// Calls in flight on this generation.
    pub in_flight: u64,
    /// How long it takes to answer, as a moving average; `None` until it has answered once.
    pub latency: Option<Duration>,
    /// The weight that its node asks for.
    pub weight: u32,
    /// How much of its share it gets while it is new, in percent.
    pub warmth: u8,
    /// How near it is.
    pub nearness: Nearness,
    /// When this generation came up.
    pub up_since: Instant,
    /// When its channel turned out closed, unless it is ready again.
    pub closed_since: Option<Instant>,
    /// When it was last picked, in either mode.
    pub last_picked: Option<Instant>,
}

/// Why a call cannot go to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unfit {
    /// Another node was named.
    NotNamed,
    /// The strategy is NONE, there are several endpoints, and no node was named.
    MustBeNamed,
    /// It was compiled with another rule for this service.
    OtherRule,
    /// It is in another part of the service's split, or in none.
    OtherPart,
    /// It has no address for the call's class.
    NoAddress,
    /// It is about to leave.
    Draining,
    /// It says so itself.
    Unhealthy,
    /// This call has tried it already.
    Tried,
    /// Suspect, while enough others are healthy.
    Suspect,
    /// Its channel is closed, while others are ready.
    NotReady,
    /// Nearer ones can take the call.
    Farther,
    /// Its breaker is open.
    BreakerOpen(Option<Tripped>),
    /// Its breaker is open and only steers, while others can take the call.
    Avoided(Option<Tripped>),
}

/// What an endpoint's breaker does to the calls that might go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barrier {
    /// Nothing.
    Lifted,
    /// Others are preferred: no rule asks for more.
    Steers,
    /// It lets none in.
    Refuses,
}

/// How an endpoint's breaker stands that lets no call in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tripped {
    /// What opened it.
    pub cause: Cause,
    /// For how long yet; `None` where it is half-open, and as many probes as may be are under way.
    pub left: Option<Duration>,
}

/// How good an endpoint is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// Healthy, and its channel is not known to be closed.
    Healthy,
    /// Not heard of, but its lease runs; its channel is not known to be closed.
    Suspect,
    /// Its breaker is open and only steers; its channel is not known to be closed.
    Avoided,
    /// A ghost: healthy or suspect for control, but we have seen its channel closed.
    NotReady,
    /// Its breaker lets no call in.
    Tripped,
    Draining,
    Unhealthy,
}

/// All of an endpoint that decides if it can take a call. Endpoints of one kind are eligible
/// together or not at all, except for those already tried, so a pick looks at kinds first. There
/// can be many of them; a real hub has two or three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) tier: Tier,
    pub(super) near: Nearness,
    classes: Classes,
    agreement: Option<Agreement>,
    /// Of the service's split.
    pub(super) part: u8,
}

/// For which classes an endpoint has an address: a bit for each number of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Classes([u64; 4]);

/// Down to which tier a call may go, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) tier: Tier,
    pub(super) near: Nearness,
}

/// How many endpoints that suit a call are in each tier that can take calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) healthy: usize,
    pub(super) suspect: usize,
    pub(super) avoided: usize,
    pub(super) not_ready: usize,
}

impl<'a> Wanted<'a> {
    /// A call in load-balancer mode that has no rule of its own and has tried nobody yet.
    #[must_use]
    pub const fn any(class: ConnectionClass) -> Self {
        Self {
            node: None,
            class,
            agreement: None,
            exclude: &[],
            course: Course::ANY,
            strategy: None,
            key: None,
            caller: "",
        }
    }

    /// The same call in standard mode.
    #[must_use]
    pub const fn at(mut self, node: &'a str) -> Self {
        self.node = Some(node);
        self
    }
}

impl Classes {
    fn of(endpoint: &Endpoint) -> Self {
        let addresses = &endpoint.addresses;
        let mut classes = Self::default();
        for class in ConnectionClass::BUILT_IN {
            if addresses.of(class).is_some() {
                classes.add(class);
            }
        }
        for (class, _) in &addresses.own {
            classes.add(ConnectionClass::Own(*class));
        }
        classes
    }

    fn add(&mut self, class: ConnectionClass) {
        let (word, bit) = Self::place(class);
        self.0[word] |= bit;
    }

    fn contains(&self, class: ConnectionClass) -> bool {
        let (word, bit) = Self::place(class);
        self.0[word] & bit != 0
    }

    fn place(class: ConnectionClass) -> (usize, u64) {
        let number = class.number();
        (usize::from(number / 64), 1 << (number % 64))
    }
}

impl Kind {
    pub(super) fn of(endpoint: &Endpoint, ready: bool, barrier: Barrier) -> Self {
        let tier = match (endpoint.offer.health, ready) {
            (Health::Healthy | Health::Suspect, _) if barrier == Barrier::Refuses => Tier::Tripped,
            (Health::Healthy | Health::Suspect, false) => Tier::NotReady,
            (Health::Healthy | Health::Suspect, true) if barrier == Barrier::Steers => {
                Tier::Avoided
            }
            (Health::Healthy, true) => Tier::Healthy,
            (Health::Suspect, true) => Tier::Suspect,
            (Health::Draining, _) => Tier::Draining,
            (Health::Unhealthy, _) => Tier::Unhealthy,
        };
        Self {
            tier,
            near: Nearness::Elsewhere,
            classes: Classes::of(endpoint),
            agreement: endpoint.offer.rule.as_ref().map(|rule| rule.agreement()),
            part: NO_PART,
        }
    }

    /// The same kind in this part of the service's split.
    pub(super) const fn in_part(mut self, part: u8) -> Self {
        self.part = part;
        self
    }

    /// Would calls go there, as far as it knows itself and we do?
    pub(super) fn takes_calls(&self) -> bool {
        matches!(self.tier, Tier::Healthy | Tier::Suspect)
    }

    /// The same kind so near.
    pub(super) fn at(self, near: Nearness) -> Self {
        Self { near, ..self }
    }

    /// Are they picked from, as a rule, when one of the other kind is?
    pub(super) fn is_fellow(&self, other: &Self) -> bool {
        self.tier == other.tier && self.part == other.part && self.near <= other.near
    }

    /// Could a call go to endpoints of this kind, if there were nothing better? Both modes ask
    /// this. An endpoint that brings no rule agrees with every caller.
    pub(super) fn suits(&self, wanted: &Wanted<'_>) -> Result<(), Unfit> {
        if let (Some(ours), Some(theirs)) = (wanted.agreement, self.agreement)
            && ours != theirs
        {
            return Err(Unfit::OtherRule);
        }
        if wanted.node.is_none() && !wanted.course.first.contains(self.part) {
            return Err(Unfit::OtherPart);
        }
        let address = self.classes.contains(wanted.class);
        match self.tier {
            _ if !address => Err(Unfit::NoAddress),
            Tier::Draining => Err(Unfit::Draining),
            Tier::Unhealthy => Err(Unfit::Unhealthy),
            // Standard mode goes there all the same: who names a node decides how often to ask it.
            Tier::Tripped if wanted.node.is_none() => Err(Unfit::BreakerOpen(None)),
            Tier::Healthy | Tier::Suspect | Tier::Avoided | Tier::NotReady | Tier::Tripped => {
                Ok(())
            }
        }
    }

    /// Is this kind among those from which load-balancer mode picks?
    pub(super) fn open(&self, wanted: &Wanted<'_>, reach: Reach) -> Result<(), Unfit> {
        self.suits(wanted)?;
        match self.tier {
            Tier::Suspect if reach.tier < Tier::Suspect => Err(Unfit::Suspect),
            Tier::Avoided if reach.tier < Tier::Avoided => Err(Unfit::Avoided(None)),
            Tier::NotReady if reach.tier < Tier::NotReady => Err(Unfit::NotReady),
            _ if self.near > reach.near => Err(Unfit::Farther),
            _ => Ok(()),
        }
    }
}

impl Tally {
    pub(super) fn add(&mut self, tier: Tier, count: usize) {
        match tier {
            Tier::Healthy => self.healthy += count,
            Tier::Suspect => self.suspect += count,
            Tier::Avoided => self.avoided += count,
            Tier::NotReady => self.not_ready += count,
            Tier::Tripped | Tier::Draining | Tier::Unhealthy => {}
        }
    }

    pub(super) const fn total(self) -> usize {
        self.healthy + self.suspect + self.avoided + self.not_ready
    }

    /// Down to which tier a call may go; `None` if it has tried all. `self` are all that suit it,
    /// `tried` those of them that it has tried.
    ///
    /// Suspects count when nobody healthy is left, and also when the healthy are fewer than half
    /// (the panic threshold): after a restart of control everybody is suspect for a moment, and
    /// the first to be heard of again must not take the load of all. Those whose channel we have
    /// seen closed ourselves are no help against load: they are the last resort, once no ready
    /// endpoint is left to try. Shortly before them come those that fail too often.
    pub(super) fn reach(self, tried: Self) -> Option<Reach> {
        let down_to = |tier| {
            let near = Nearness::Elsewhere;
            Some(Reach { tier, near })
        };
        // Who fails says nothing of how well control is heard.
        let panic = self.healthy * 2 < self.total() - self.avoided;
        if self.healthy > tried.healthy && !panic {
            down_to(Tier::Healthy)
        } else if self.healthy + self.suspect > tried.healthy + tried.suspect {
            down_to(Tier::Suspect)
        } else if self.avoided > tried.avoided {
            down_to(Tier::Avoided)
        } else if self.not_ready > tried.not_ready {
            down_to(Tier::NotReady)
        } else {
            None
        }
    }
}

impl fmt::Display for Tripped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.left {
            Some(left) => {
                let seconds = left.as_secs_f64();
                write!(
                    formatter,
                    "its breaker is open for another {seconds:.1} s: "
                )?;
            }
            None => formatter.write_str("its breaker is half-open and a probe is under way: ")?,
        }
        self.cause.fmt(formatter)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::BreakerOpen(Some(tripped)) = self {
            return tripped.fmt(formatter);
        }
        if let Self::Avoided(Some(tripped)) = self {
            return write!(formatter, "{tripped}; others are preferred");
        }
        formatter.write_str(match self {
            Self::BreakerOpen(_) => "its breaker is open",
            Self::Avoided(_) => "its breaker is open, and others are preferred",
            Self::NotNamed => "another node was named",
            Self::MustBeNamed => "strategy NONE: the call must name a node",
            Self::OtherRule => "compiled with another rule",
            Self::OtherPart => "not of the part of the split that the call falls to",
            Self::NoAddress => "no address for this class",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Tried => "already tried by this call",
            Self::Suspect => "suspect, and enough others are healthy",
            Self::NotReady => "its channel is closed, and others are ready",
            Self::Farther => "farther away, and nearer ones can take the call",
        })
    }
}
