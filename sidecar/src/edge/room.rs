//! What users take of this sidecar: calls that are open, and the bytes that it holds for them. Both
//! have a bound for one address, so that nobody fills a lane or the memory alone, and bytes have one
//! in all. A call is asked for before anything is done for it; what it holds is asked for as it grows,
//! and what finds no room waits, or ends. Decisions are pure, and nothing here knows a socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Limits;
use crate::call::User;
use crate::telemetry::Full;

/// What a call counts for before it moves anything, in bytes: its task, its stream, and HTTP/2's own
/// state of it. Its headers count beside.
pub const CALL_BYTES: usize = 16 * 1024;
/// The part that one address may have of the bytes that others leave: one in so many. Of the whole, four
/// would fill all of it; like this, twenty-four addresses that fill their parts leave a thousandth. Once a
/// part of what is left has no room for a call, who is new is refused.
pub const PART_OF_ADDRESS: usize = 4;

/// The room of one listener, shared by its clones.
#[derive(Clone)]
pub struct Room(Arc<Inside>);

struct Inside {
    calls_of_address: usize,
    bytes_in_all: usize,
    held: AtomicUsize,
    /// Addresses with a call open.
    accounts: Mutex<HashMap<User, Arc<Account>>>,
}

#[derive(Default)]
struct Account {
    calls: AtomicUsize,
    held: AtomicUsize,
}

/// An open call. Its place is given back when this is dropped.
pub struct Stay {
    room: Room,
    user: User,
    account: Arc<Account>,
    /// What it came with, and counts for as long as it stays.
    _base: Share,
    request: Arc<Brought>,
    answer: Arc<Mutex<Share>>,
}

/// What a call's request holds: while its call looks for a way, what has come and nobody has read;
/// after that, what whoever sends it on says.
#[derive(Debug)]
pub struct Brought(Mutex<Request>);

#[derive(Debug)]
struct Request {
    share: Share,
    sent_on: bool,
}

/// Bytes that are held for a call. They are given back when this is dropped.
pub struct Share {
    inside: Arc<Inside>,
    account: Arc<Account>,
    bytes: usize,
}

impl Room {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Inside {
            calls_of_address: limits.calls_of_address as usize,
            bytes_in_all: limits.memory as usize,
            held: AtomicUsize::new(0),
            accounts: Mutex::default(),
        }))
    }

    /// Lets a call of this user in whose headers have so many bytes, or says what is full.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn enter(&self, user: User, headers: usize) -> Result<Stay, Full> {
        let accounts = self.0.accounts.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(user).or_default();
        let account = Arc::clone(account);
        let entered = self.entered(&account, headers);
        match entered {
            Ok(base) => Ok(Stay {
                answer: Arc::new(Mutex::new(self.nothing(&account))),
                request: Arc::new(Brought(Mutex::new(Request {
                    share: self.nothing(&account),
                    sent_on: false,
                }))),
                room: self.clone(),
                user,
                account,
                _base: base,
            }),
            Err(full) => {
                if account.calls.load(Ordering::Relaxed) == 0 {
                    accounts.remove(&user);
                }
                Err(full)
            }
        }
    }

    fn entered(&self, account: &Arc<Account>, headers: usize) -> Result<Share, Full> {
        if account.calls.load(Ordering::Relaxed) >= self.0.calls_of_address {
            return Err(Full::Calls);
        }
        let mut base = self.nothing(account);
        base.grow(CALL_BYTES + headers)?;
        account.calls.fetch_add(1, Ordering::Relaxed);
        Ok(base)
    }

    fn nothing(&self, account: &Arc<Account>) -> Share {
        Share {
            inside: Arc::clone(&self.0),
            account: Arc::clone(account),
            bytes: 0,
        }
    }

    /// Bytes that are held for all users at the moment.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }
}

impl Stay {
    /// What is held of its request.
    #[must_use]
    pub fn request(&self) -> Arc<Brought> {
        Arc::clone(&self.request)
    }

    /// What is held of its answer. It counts for as long as the stay does: who has answered a call has
    /// not sent the answer yet.
    #[must_use]
    pub fn answer(&self) -> Arc<Mutex<Share>> {
        Arc::clone(&self.answer)
    }
}

impl Brought {
    /// So many bytes have come and wait. False once the request is sent on, since then it is known
    /// better.
    ///
    /// # Errors
    /// There is no room for as many.
    pub fn waits(&self, bytes: usize) -> Result<bool, Full> {
        let mut request = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if request.sent_on {
            return Ok(false);
        }
        request.share.hold(bytes).map(|()| true)
    }

    /// The request is sent on, and so many bytes of it are held.
    ///
    /// # Errors
    /// There is no room for as many.
    pub fn holds(&self, bytes: usize) -> Result<(), Full> {
        let mut request = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        request.sent_on = true;
        request.share.hold(bytes)
    }
}

impl Share {
    /// Holds so many bytes from now on, or goes on with what it had. Less is always held.
    ///
    /// # Errors
    /// There is no room for as many.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        let less = self.bytes - bytes;
        self.account.held.fetch_sub(less, Ordering::Relaxed);
        self.inside.held.fetch_sub(less, Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }

    fn grow(&mut self, more: usize) -> Result<(), Full> {
        let all = self.inside.bytes_in_all;
        take(&self.inside.held, more, all).map_err(|_| Full::Bytes)?;
        // With what was taken just now, which is its own.
        let held = self.inside.held.load(Ordering::Relaxed) - more;
        let own = self.account.held.load(Ordering::Relaxed);
        let left = all.saturating_sub(held.saturating_sub(own));
        if let Err(own) = take(&self.account.held, more, left / PART_OF_ADDRESS) {
            self.inside.held.fetch_sub(more, Ordering::Relaxed);
            // Others keep from it what it could have without them.
            let alone = own.saturating_add(more) <= all / PART_OF_ADDRESS;
            return Err(if alone {
                Full::Bytes
            } else {
                Full::AddressBytes
            });
        }
        self.bytes += more;
        Ok(())
    }
}

/// Adds to a sum that has a bound, or says what it is.
fn take(sum: &AtomicUsize, more: usize, bound: usize) -> Result<(), usize> {
    let within = |before: usize| before.checked_add(more).filter(|sum| *sum <= bound);
    let taken = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
    taken.map(drop)
}

impl Drop for Share {
    fn drop(&mut self) {
        // Less is always held.
        let _ = self.hold(0);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let accounts = self.room.0.accounts.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        if self.account.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            accounts.remove(&self.user);
        }
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Share").field(&self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024;

    fn room(calls: u32, memory: u32) -> Room {
        Room::new(&Limits {
            calls_of_address: calls,
            memory,
            ..Limits::default()
        })
    }

    fn user(last: u8) -> User {
        User::at(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn an_address_has_so_many_calls_and_others_have_theirs() {
        let room = room(2, 1 << 30);
        let first = room.enter(user(1), 0).unwrap();
        let _second = room.enter(user(1), 0).unwrap();
        assert_eq!(room.enter(user(1), 0).err(), Some(Full::Calls));
        assert!(room.enter(user(2), 0).is_ok());
        drop(first);
        assert!(room.enter(user(1), 0).is_ok());
    }

    #[test]
    fn an_address_has_a_quarter_of_what_others_leave() {
        let room = room(100, 256 * 1024);
        // Four calls of 16 KiB are a quarter of all, three of the 192 KiB that are left, and so on.
        let mut kept = Vec::new();
        for (last, calls) in [(1, 4), (2, 3), (3, 2), (4, 1), (5, 1), (6, 1), (7, 1)] {
            for _ in 0..calls {
                kept.push(room.enter(user(last), 0).unwrap());
            }
            let refused = room.enter(user(last), 0).err();
            let expected = if last == 1 {
                Full::AddressBytes
            } else {
                Full::Bytes
            };
            assert_eq!(refused, Some(expected), "{last}");
        }
        // The last of it: a quarter of it holds no call.
        assert_eq!(room.held(), 13 * 16 * KIB);
        assert_eq!(room.enter(user(8), 0).err(), Some(Full::Bytes));
        let mut share = room.nothing(&kept[4].account);
        assert_eq!(share.hold(16 * KIB), Err(Full::Bytes));
        assert_eq!(share.hold(48 * KIB), Err(Full::AddressBytes));
        // What is given back others have, and what has left of an answer as well.
        drop(kept.drain(..4));
        let answer = kept[8].answer();
        answer.lock().unwrap().hold(KIB).unwrap();
        assert_eq!(room.held(), 9 * 16 * KIB + KIB);
        assert!(room.enter(user(8), 0).is_ok());
        drop((share, kept));
        assert_eq!(room.held(), KIB);
        drop(answer);
        assert_eq!(room.held(), 0);
        assert!(room.0.accounts.lock().unwrap().is_empty());
    }

    #[test]
    fn what_waits_counts_until_it_is_sent_on() {
        let room = room(100, 256 * 1024);
        let stay = room.enter(user(1), 0).unwrap();
        let request = stay.request();
        assert_eq!(request.waits(40 * KIB), Ok(true));
        assert_eq!(request.waits(49 * KIB), Err(Full::AddressBytes));
        assert_eq!(room.held(), 56 * KIB);
        assert_eq!(request.holds(10 * KIB), Ok(()));
        assert_eq!(request.waits(40 * KIB), Ok(false));
        assert_eq!(room.held(), 26 * KIB);
    }

    proptest! {
        #[test]
        fn no_bound_is_passed_and_all_comes_back(
            steps in prop::collection::vec((0_u8..4, 0_u8..3, 0_usize..64), 1..300),
        ) {
            let room = room(3, 256 * 1024);
            let mut open: Vec<(Stay, Share)> = Vec::new();
            for (last, what, size) in steps {
                match what {
                    0 => if let Ok(stay) = room.enter(user(last), size) {
                        let share = room.nothing(&stay.account);
                        open.push((stay, share));
                    },
                    1 => if let Some((_, share)) = open.last_mut() {
                        let before = share.bytes;
                        let held = share.hold(size * KIB);
                        prop_assert_eq!(share.bytes, if held.is_ok() { size * KIB } else { before });
                    },
                    _ => if !open.is_empty() {
                        open.swap_remove(size % open.len());
                    },
                }
                prop_assert!(room.held() <= 256 * KIB);
                for account in room.0.accounts.lock().unwrap().values() {
                    prop_assert!(account.held.load(Ordering::Relaxed) <= 64 * KIB);
                    prop_assert!((1..=3).contains(&account.calls.load(Ordering::Relaxed)));
                }
            }
            open.clear();
            prop_assert_eq!(room.held(), 0);
            prop_assert!(room.0.accounts.lock().unwrap().is_empty());
        }
    }
}
