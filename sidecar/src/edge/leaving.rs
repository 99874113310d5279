//! Calls of one user's connection whose answers have not left whole. Who has answered a call has given
//! its answer to the connection, which holds what the user does not read; so a call keeps its place, and
//! what is held for it, until its stream's last frame was written or the stream was reset.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::room::Stay;

/// The calls of one connection.
#[derive(Default)]
pub struct Leaving(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    over: bool,
    /// By stream; with what is kept of a call that was answered.
    calls: HashMap<u32, Option<Arc<Stay>>>,
}

/// A call's stay. When this is dropped, what it holds is kept until its answer has left.
pub struct Staying {
    stay: Arc<Stay>,
    leaving: Arc<Leaving>,
    stream: u32,
}

impl Leaving {
    /// A call has come on this stream.
    pub fn begun(&self, stream: u32) {
        self.inside().calls.insert(stream, None);
    }

    /// A call of this stream was let in.
    #[must_use]
    pub fn stays(self: &Arc<Self>, stream: u32, stay: Stay) -> Staying {
        Staying {
            stay: Arc::new(stay),
            leaving: Arc::clone(self),
            stream,
        }
    }

    /// The last of this stream was written, or it was reset.
    pub fn left(&self, stream: u32) {
        let kept = self.inside().calls.remove(&stream);
        drop(kept);
    }

    /// The connection is over, and with it all that it held.
    pub fn over(&self) {
        let calls = {
            let mut inside = self.inside();
            inside.over = true;
            std::mem::take(&mut inside.calls)
        };
        drop(calls);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Staying {
    type Target = Stay;

    fn deref(&self) -> &Stay {
        &self.stay
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        // Its request is read by nobody any more; less is always held.
        let _ = self.stay.request().holds(0);
        let mut inside = self.leaving.inside();
        if inside.over {
            return;
        }
        if let Some(kept) = inside.calls.get_mut(&self.stream) {
            *kept = Some(Arc::clone(&self.stay));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::call::User;
    use crate::edge::Limits;
    use crate::edge::room::{CALL_BYTES, Room};

    #[test]
    fn a_call_counts_until_its_answer_has_left() {
        let room = Room::new(&Limits::default());
        let leaving = Arc::new(Leaving::default());
        let begun = |stream: u32| {
            leaving.begun(stream);
            let user = User::at(IpAddr::from([10, 0, 0, 1]));
            leaving.stays(stream, room.enter(user, 0).unwrap())
        };
        let calls = || room.held() / CALL_BYTES;
        // Answered first, and left then.
        drop(begun(1));
        assert_eq!(calls(), 1);
        leaving.left(1);
        assert_eq!(calls(), 0);
        // Reset before its end is known here.
        let reset = begun(3);
        leaving.left(3);
        assert_eq!(calls(), 1);
        drop(reset);
        assert_eq!(calls(), 0);
        // With the connection goes all that it held, and what ends after it keeps nothing.
        let late = begun(5);
        drop(begun(7));
        assert_eq!(calls(), 2);
        leaving.over();
        assert_eq!(calls(), 1);
        drop(late);
        assert_eq!(calls(), 0);
    }
}
