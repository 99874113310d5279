//! What this sidecar wants of control, as opposed to what it has been told: services to hear
//! about, what it offers, whether it leaves. The control stream reads it and says what changed, so
//! a hundred wishes while it is away cost one message when it is back. It holds the newest wish
//! only, never a queue of them.

use std::collections::HashSet;

use sidelane_proto::model::snapshot::SUBSCRIBE_LIMIT;
use sidelane_proto::model::{Addresses, Offer, ServiceName};

/// The most services that are wanted at once: what one subscription request may name.
pub const WANTED_LIMIT: usize = SUBSCRIBE_LIMIT;

/// Too many services are wanted already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{service}` cannot be looked up: this sidecar follows {WANTED_LIMIT} services already, the \
     most it can; those that nobody calls are dropped after a while"
)]
pub struct TooManyWanted {
    /// The service that was asked for.
    pub service: ServiceName,
}

/// The newest wishes.
#[derive(Debug, Default)]
pub(super) struct Intent {
    wanted: HashSet<ServiceName>,
    /// Wanted or forgotten since the stream looked last.
    changed: HashSet<ServiceName>,
    offers: Vec<Offer>,
    offers_changed: bool,
    /// Set by hand; otherwise the hello asks for them at each connect.
    addresses: Option<Addresses>,
    /// Something changed that can only be said in a Hello.
    hello_again: bool,
    draining: bool,
    drain_asked: bool,
    farewell: Option<String>,
}

/// All wishes, for a Hello.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) wanted: HashSet<ServiceName>,
    pub(super) offers: Vec<Offer>,
    pub(super) addresses: Option<Addresses>,
    pub(super) draining: bool,
}

/// The wishes that changed since the stream looked last.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Services, and whether they are wanted now.
    pub(super) services: Vec<(ServiceName, bool)>,
    pub(super) offers: Option<Vec<Offer>>,
    /// A new stream is needed.
    pub(super) hello_again: bool,
    pub(super) drain: bool,
    pub(super) farewell: Option<String>,
}

impl Intent {
    pub(super) fn new(offers: Vec<Offer>) -> Self {
        Self {
            offers,
            ..Self::default()
        }
    }

    /// True if that was news.
    pub(super) fn want(&mut self, service: &ServiceName) -> Result<bool, TooManyWanted> {
        if self.wanted.contains(service) {
            return Ok(false);
        }
        if self.wanted.len() >= WANTED_LIMIT {
            let service = service.clone();
            return Err(TooManyWanted { service });
        }
        self.wanted.insert(service.clone());
        self.note(service);
        Ok(true)
    }

    /// True if that was news.
    pub(super) fn forget(&mut self, service: &ServiceName) -> bool {
        let was_wanted = self.wanted.remove(service);
        if was_wanted {
            self.note(service);
        }
        was_wanted
    }

    pub(super) fn wanted(&self) -> impl Iterator<Item = &ServiceName> {
        self.wanted.iter()
    }

    /// True if that was news.
    pub(super) fn set_offers(&mut self, offers: Vec<Offer>) -> bool {
        let changed = self.offers != offers;
        self.offers_changed |= changed;
        self.offers = offers;
        changed
    }

    /// True if that was news.
    pub(super) fn set_addresses(&mut self, addresses: Addresses) -> bool {
        let changed = self.addresses.as_ref() != Some(&addresses);
        self.hello_again |= changed;
        self.addresses = Some(addresses);
        changed
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
        self.drain_asked = true;
    }

    pub(super) fn drains(&self) -> bool {
        self.draining
    }

    pub(super) fn leave(&mut self, reason: &str) {
        self.farewell = Some(reason.to_owned());
    }

    pub(super) fn leaves(&self) -> bool {
        self.farewell.is_some()
    }

    /// A stream begins: all of it will be said, so nothing of it is news.
    pub(super) fn open(&mut self) -> Opening {
        self.changed.clear();
        self.offers_changed = false;
        self.hello_again = false;
        self.drain_asked = false;
        Opening {
            wanted: self.wanted.clone(),
            offers: self.offers.clone(),
            addresses: self.addresses.clone(),
            draining: self.draining,
        }
    }

    /// What an open stream has to say.
    pub(super) fn news(&mut self) -> News {
        let wanted = &self.wanted;
        let current = |service: ServiceName| {
            let is_wanted = wanted.contains(&service);
            (service, is_wanted)
        };
        News {
            services: self.changed.drain().map(current).collect(),
            offers: std::mem::take(&mut self.offers_changed).then(|| self.offers.clone()),
            hello_again: std::mem::take(&mut self.hello_again),
            drain: std::mem::take(&mut self.drain_asked),
            farewell: self.farewell.clone(),
        }
    }

    fn note(&mut self, service: &ServiceName) {
        // While no stream is open nobody drains this set, and names come and go. What does not
        // fit is said by the next Hello, which names all that is wanted.
        if self.changed.len() < WANTED_LIMIT {
            self.changed.insert(service.clone());
        } else {
            self.hello_again = true;
        }
    }
}
