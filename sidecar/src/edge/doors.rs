//! Who is let in: so many connections at once and in a second, in all and from one address, so that
//! one user cannot take all there is. Asked before anything is read, since a handshake is what costs
//! most. Decisions are pure; the time is told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Limits;
use crate::call::User;
use crate::telemetry::Turned;

/// Addresses that are remembered. Those without a connection are forgotten when there is no room;
/// if all have one, a newcomer is turned away.
pub const ADDRESSES_LIMIT: usize = 65_536;

/// Connections at once that found no place, and may still show that they are peers', whom users must
/// not shut out: in all, and from one address.
pub const WAITING: usize = 64;
/// See [`WAITING`].
pub const WAITING_OF_ADDRESS: usize = 8;

/// The doors of one listener.
#[derive(Clone)]
pub struct Doors(Arc<Mutex<Inside>>);

struct Inside {
    connections: usize,
    per_address: usize,
    rate: u32,
    open: usize,
    all: Tokens,
    addresses: HashMap<User, Address>,
    /// Who waits before them, and how often.
    waiting: HashMap<User, usize>,
}

struct Address {
    open: usize,
    tokens: Tokens,
}

/// A second's worth of tokens at most; none is lost between.
struct Tokens {
    left: f64,
    at: Option<Instant>,
}

/// A place inside. It is given back when it is dropped.
pub struct Place {
    doors: Doors,
    user: User,
}

/// A place before the doors. It is given back when it is dropped.
pub struct Waiting {
    doors: Doors,
    user: User,
}

impl Doors {
    /// Nobody is inside yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Inside {
            connections: limits.connections,
            per_address: limits.per_address,
            rate: limits.accept_rate,
            open: 0,
            all: Tokens::full(limits.accept_rate),
            addresses: HashMap::new(),
            waiting: HashMap::new(),
        })))
    }

    /// Lets a connection from this address in, or says why not.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn enter(&self, address: IpAddr, now: Instant) -> Result<Place, Turned> {
        let user = User::at(address);
        self.inside().enter(user, now)?;
        let doors = self.clone();
        Ok(Place { doors, user })
    }

    /// Lets a connection that found no place wait before the doors, until it has said whether it is a
    /// peer's; `None` where too many do.
    #[must_use]
    pub fn wait(&self, address: IpAddr) -> Option<Waiting> {
        let user = User::at(address);
        let mut inside = self.inside();
        let all: usize = inside.waiting.values().sum();
        let own = inside.waiting.entry(user).or_insert(0);
        if all >= WAITING || *own >= WAITING_OF_ADDRESS {
            if *own == 0 {
                inside.waiting.remove(&user);
            }
            return None;
        }
        *own += 1;
        drop(inside);
        let doors = self.clone();
        Some(Waiting { doors, user })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn enter(&mut self, user: User, now: Instant) -> Result<(), Turned> {
        if self.open >= self.connections {
            return Err(Turned::Connections);
        }
        if self.addresses.len() >= ADDRESSES_LIMIT && !self.addresses.contains_key(&user) {
            self.addresses.retain(|_, address| address.open > 0);
            if self.addresses.len() >= ADDRESSES_LIMIT {
                return Err(Turned::Connections);
            }
        }
        let each = of_one_address(self.rate);
        let address = self.addresses.entry(user).or_insert_with(|| Address {
            open: 0,
            tokens: Tokens::full(each),
        });
        if address.open >= self.per_address {
            return Err(Turned::Address);
        }
        // Its own first: who comes too often takes nothing of what is for all.
        if !address.tokens.take(each, now) {
            return Err(Turned::AddressRate);
        }
        if !self.all.take(self.rate, now) {
            return Err(Turned::Rate);
        }
        address.open += 1;
        self.open += 1;
        Ok(())
    }
}

impl Tokens {
    fn full(rate: u32) -> Self {
        Self {
            left: f64::from(rate),
            at: None,
        }
    }

    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let rate = f64::from(rate);
        let passed = self.at.map(|at| now.saturating_duration_since(at));
        let gained = passed.unwrap_or_default().as_secs_f64() * rate;
        self.left = (self.left + gained).min(rate);
        self.at = Some(now);
        let there = self.left >= 1.0;
        if there {
            self.left -= 1.0;
        }
        there
    }
}

/// What one address may have of this rate.
#[must_use]
pub fn of_one_address(rate: u32) -> u32 {
    (rate / 4).max(1)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.doors.inside();
        inside.open = inside.open.saturating_sub(1);
        if let Some(address) = inside.addresses.get_mut(&self.user) {
            address.open = address.open.saturating_sub(1);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inside = self.doors.inside();
        let Some(own) = inside.waiting.get_mut(&self.user) else {
            return;
        };
        *own -= 1;
        if *own == 0 {
            inside.waiting.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn limits(connections: usize, per_address: usize, accept_rate: u32) -> Limits {
        Limits {
            connections,
            per_address,
            accept_rate,
            ..Limits::default()
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_address_has_its_share_and_others_have_theirs() {
        let doors = Doors::new(&limits(3, 2, 100));
        let now = Instant::now();
        let enter = |last| doors.enter(address(last), now);
        let first = enter(1).ok().unwrap();
        let _second = enter(1).ok().unwrap();
        assert_eq!(enter(1).err(), Some(Turned::Address));
        let _other = enter(2).ok().unwrap();
        assert_eq!(enter(3).err(), Some(Turned::Connections));
        drop(first);
        assert!(enter(1).is_ok());
    }

    #[test]
    fn who_comes_too_often_leaves_the_others_room() {
        let doors = Doors::new(&limits(10_000, 10_000, 40));
        let now = Instant::now();
        let come = |last, times, now| {
            let come = (0..times).map(|_| doors.enter(address(last), now).err());
            come.flatten().collect::<Vec<_>>()
        };
        assert_eq!(come(1, 15, now), [Turned::AddressRate; 5]);
        assert_eq!(come(2, 10, now), []);
        assert_eq!(come(3, 10, now), []);
        assert_eq!(come(4, 10, now), []);
        assert_eq!(come(5, 1, now), [Turned::Rate]);
        let later = now + Duration::from_millis(500);
        assert_eq!(come(1, 6, later), [Turned::AddressRate]);
        assert_eq!(come(5, 5, later), []);
    }

    #[test]
    fn few_wait_before_the_doors_and_no_address_takes_all_of_that() {
        let doors = Doors::new(&limits(1, 1, 1));
        let of = |last, count: usize| -> Vec<Waiting> {
            let wait = |_| doors.wait(address(last));
            (0..count).filter_map(wait).collect()
        };
        let first = of(1, 20);
        assert_eq!(first.len(), WAITING_OF_ADDRESS);
        let others: Vec<Waiting> = (2..30).flat_map(|last| of(last, 20)).collect();
        assert_eq!(others.len(), WAITING - WAITING_OF_ADDRESS);
        drop(first);
        assert_eq!(of(99, 20).len(), WAITING_OF_ADDRESS);
        drop(others);
        assert!(doors.inside().waiting.is_empty());
    }

    #[test]
    fn addresses_are_remembered_up_to_a_bound() {
        let doors = Doors::new(&limits(10, 10, u32::MAX));
        let now = Instant::now();
        for number in 0..=ADDRESSES_LIMIT {
            let [.., a, b, c] = number.to_be_bytes();
            assert!(doors.enter(IpAddr::from([10, a, b, c]), now).is_ok());
        }
        assert!(doors.inside().addresses.len() <= ADDRESSES_LIMIT);
    }

    proptest! {
        #[test]
        fn no_bound_is_ever_passed_and_every_place_comes_back(
            comes in prop::collection::vec((0_u8..4, any::<bool>(), 0_u64..50), 1..200),
        ) {
            let doors = Doors::new(&limits(6, 3, 20));
            let mut now = Instant::now();
            let mut inside: Vec<(u8, Place)> = Vec::new();
            for (last, leaves, passed) in comes {
                now += Duration::from_millis(passed);
                if leaves {
                    inside.pop();
                } else if let Ok(place) = doors.enter(address(last), now) {
                    inside.push((last, place));
                }
                prop_assert!(inside.len() <= 6);
                prop_assert_eq!(doors.inside().open, inside.len());
                for last in 0..4 {
                    let of_one = inside.iter().filter(|(it, _)| *it == last).count();
                    prop_assert!(of_one <= 3);
                }
            }
            inside.clear();
            prop_assert_eq!(doors.inside().open, 0);
        }
    }
}
