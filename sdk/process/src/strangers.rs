//! Places for connections that have not proved who they are. There are so many, apart from those of
//! whoever has, and when all are taken one is let go: of the address that has the most, the one that came
//! first. It goes at once where its address has more than a fair share, and otherwise once it has had time.
//! So whoever opens thousands from some addresses and says nothing fills its own places; it takes
//! [`FAIR_PARTS`] addresses and [`STRANGERS_LIMIT`] connections in each half second to keep others from
//! entering. Decisions are pure; the time is told.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Connections at once that have proved nothing. A handshake takes some milliseconds, so that the
/// thousand sidecars of one mesh may well begin theirs at once.
pub const STRANGERS_LIMIT: usize = 2_048;
/// A fair share is one part of so many.
pub const FAIR_PARTS: usize = 64;
/// The time that one is left alone for, where no address has more than a fair share, or than the newcomer's.
pub const LEFT_ALONE: Duration = Duration::from_millis(500);

/// The places of one listener, shared by its clones.
#[derive(Debug, Clone)]
pub struct Strangers(Arc<Mutex<Inside>>);

#[derive(Debug)]
struct Inside {
    limit: usize,
    next: u64,
    all: usize,
    addresses: HashMap<IpAddr, Vec<Place>>,
}

/// In the order in which they came.
#[derive(Debug)]
struct Place {
    number: u64,
    since: Instant,
    /// Dropped when its owner is let go.
    _stays: oneshot::Sender<()>,
}

/// A connection's place. It is given back when this is dropped.
#[derive(Debug)]
pub struct Stranger {
    strangers: Strangers,
    network: IpAddr,
    number: u64,
    stays: oneshot::Receiver<()>,
}

impl Strangers {
    /// So many places, all free.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Inside {
            limit,
            next: 0,
            all: 0,
            addresses: HashMap::new(),
        })))
    }

    /// A place for a connection from there; `None` if all are taken and nobody is to be let go for it.
    #[must_use]
    pub fn enter(&self, from: IpAddr, now: Instant) -> Option<Stranger> {
        let network = network(from);
        let (stays, owner) = oneshot::channel();
        let mut inside = self.inside();
        if inside.all >= inside.limit && !inside.let_one_go(network, now) {
            return None;
        }
        let number = inside.next;
        inside.next += 1;
        inside.all += 1;
        inside.addresses.entry(network).or_default().push(Place {
            number,
            since: now,
            _stays: stays,
        });
        drop(inside);
        Some(Stranger {
            strangers: self.clone(),
            network,
            number,
            stays: owner,
        })
    }

    /// Places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.inside().all
    }

    /// Nothing that this guards is left half-changed by a panic.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Makes room for one more of this network.
    fn let_one_go(&mut self, newcomer: IpAddr, now: Instant) -> bool {
        let own = self.addresses.get(&newcomer).map_or(0, Vec::len);
        // With the number of its first, so that of two that have as many the older goes.
        let most = self.addresses.iter().filter_map(|(network, places)| {
            let first = places.first()?;
            Some((places.len(), u64::MAX - first.number, *network))
        });
        let Some((count, _, network)) = most.max() else {
            return false;
        };
        let Some(places) = self.addresses.get_mut(&network) else {
            return false;
        };
        let Some(first) = places.first() else {
            return false;
        };
        // It has had no time yet, and a newcomer who has as many is not worth more.
        let fair = (own + 1).max(self.limit / FAIR_PARTS);
        if count <= fair && now.saturating_duration_since(first.since) < LEFT_ALONE {
            return false;
        }
        places.remove(0);
        if places.is_empty() {
            self.addresses.remove(&network);
        }
        self.all -= 1;
        true
    }
}

impl Stranger {
    /// Waits until its place is somebody else's.
    pub async fn let_go(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.stays).await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut inside = self.strangers.inside();
        let Some(places) = inside.addresses.get_mut(&self.network) else {
            return;
        };
        // Whoever was let go has none any more.
        let Ok(at) = places.binary_search_by_key(&self.number, |place| place.number) else {
            return;
        };
        places.remove(at);
        if places.is_empty() {
            inside.addresses.remove(&self.network);
        }
        inside.all -= 1;
    }
}

/// What counts as one address: of an IPv6 address the first 64 bits, since whoever has one usually has
/// all of those behind it.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_let_go(stranger: &mut Stranger) -> bool {
        stranger.stays.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn who_has_the_most_lets_its_first_go_for_others_at_once() {
        let strangers = Strangers::new(4);
        let now = Instant::now();
        let enter = |last| strangers.enter(at(last), now);
        let mut many: Vec<_> = (0..4).map(|_| enter(1).unwrap()).collect();
        let mut other = enter(2).unwrap();
        assert!(is_let_go(&mut many[0]));
        assert!(!is_let_go(&mut many[1]));
        assert_eq!(strangers.taken(), 4);
        // One who was let go gives nothing back.
        drop(many.remove(0));
        assert_eq!(strangers.taken(), 4);
        let mut third = enter(3).unwrap();
        assert!(is_let_go(&mut many[0]));
        // Two of the first, one of each other; nobody has more than the next would have.
        assert!(enter(2).is_none());
        assert!(enter(4).is_some(), "two are more than one");
        assert!(!is_let_go(&mut other) && !is_let_go(&mut third));
        drop((many, other, third));
        assert_eq!(strangers.taken(), 0);
        assert!(strangers.inside().addresses.is_empty());
    }

    #[test]
    fn who_has_a_fair_share_has_its_time_whoever_comes() {
        let strangers = Strangers::new(4 * FAIR_PARTS);
        let now = Instant::now();
        let enter = |last| strangers.enter(at(last), now);
        // Four of a host that dials four lanes, and a crowd of one each.
        let mut host: Vec<_> = (0..4).map(|_| enter(1).unwrap()).collect();
        let others = 2..=u8::MAX;
        let crowd: Vec<_> = others.filter_map(enter).collect();
        assert_eq!(strangers.taken(), 4 + crowd.len());
        for last in 2..4 {
            let _ = enter(last);
        }
        assert!(enter(0).is_none());
        assert!(host.iter_mut().all(|one| !is_let_go(one)));
        let later = strangers.enter(at(0), now + LEFT_ALONE);
        assert!(later.is_some() && is_let_go(&mut host[0]));
    }

    #[test]
    fn who_has_had_time_is_let_go_for_anybody() {
        let strangers = Strangers::new(2);
        let start = Instant::now();
        let mut first = strangers.enter(at(1), start).unwrap();
        let _second = strangers.enter(at(1), start + LEFT_ALONE).unwrap();
        let late = start + LEFT_ALONE;
        assert!(
            strangers
                .enter(at(1), late - Duration::from_millis(1))
                .is_none()
        );
        let third = strangers.enter(at(1), late);
        assert!(third.is_some() && is_let_go(&mut first));
        assert!(strangers.enter(at(1), late).is_none());
        drop(third);
        assert!(strangers.enter(at(1), late).is_some());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let strangers = Strangers::new(2);
        let now = Instant::now();
        let [one, two, other] = ["2001:db8::1", "2001:db8::2", "2001:db9::1"];
        let enter = |from: &str| strangers.enter(from.parse().unwrap(), now);
        let mut first = enter(one).unwrap();
        let _second = enter(two).unwrap();
        let _third = enter(other).unwrap();
        assert!(is_let_go(&mut first));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), at(1));
    }

    #[tokio::test]
    async fn who_is_let_go_hears_of_it() {
        let strangers = Strangers::new(1);
        let now = Instant::now();
        let mut first = strangers.enter(at(1), now).unwrap();
        let _second = strangers.enter(at(1), now + LEFT_ALONE).unwrap();
        first.let_go().await;
    }
}
