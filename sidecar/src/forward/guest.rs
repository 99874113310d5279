//! A user's request on its way: what it may send, how much of it may be held, and how long nothing may
//! move. Calls of the mesh have none of this.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::error::ForwardError;
use super::messages::Messages;
use crate::edge::room::Brought;

/// What is followed of a user's call.
#[derive(Debug)]
pub(super) struct Guest {
    messages: Messages,
    request: Arc<Brought>,
    quiet: Duration,
    /// When something moved last.
    moved: Instant,
    clock: Pin<Box<Sleep>>,
}

impl Guest {
    pub(super) fn new(message: u32, quiet: Duration, request: Arc<Brought>) -> Self {
        Self {
            messages: Messages::up_to(message),
            request,
            quiet,
            moved: Instant::now(),
            clock: Box::pin(sleep(quiet)),
        }
    }

    /// These bytes of the request have come.
    pub(super) fn reads(&mut self, data: &[u8]) -> Result<(), ForwardError> {
        self.moved();
        self.messages.read(data).map_err(ForwardError::TooLarge)
    }

    /// So many bytes of the request are held here.
    pub(super) fn holds(&self, bytes: usize) -> Result<(), ForwardError> {
        self.request.holds(bytes).map_err(ForwardError::NoRoom)
    }

    /// Something moved, one way or the other.
    pub(super) fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Ready when nothing has moved for as long as that may be.
    pub(super) fn poll_quiet(&mut self, context: &mut Context<'_>) -> Poll<ForwardError> {
        loop {
            ready!(self.clock.as_mut().poll(context));
            let until = self.moved + self.quiet;
            if until <= Instant::now() {
                return Poll::Ready(ForwardError::Quiet(self.quiet));
            }
            // Set anew only when it rings: most calls are over long before.
            self.clock.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::IpAddr;

    use super::*;
    use crate::call::User;
    use crate::edge::Limits;
    use crate::edge::room::Room;
    use crate::telemetry::Full;

    const QUIET: Duration = Duration::from_secs(10);

    fn guest(room: &Room) -> Guest {
        let user = User::at(IpAddr::from([10, 0, 0, 1]));
        Guest::new(8, QUIET, room.enter(user, 0).unwrap().request())
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_is_counted_from_what_moved_last() {
        let mut guest = guest(&Room::new(&Limits::default()));
        let begun = Instant::now();
        for _ in 0..3 {
            let over = poll_fn(|context| guest.poll_quiet(context));
            let over = tokio::time::timeout(QUIET * 9 / 10, over).await;
            assert!(over.is_err(), "it moves now and then");
            guest.reads(&[0, 0, 0, 0, 0]).unwrap();
        }
        let over = poll_fn(|context| guest.poll_quiet(context)).await;
        assert_eq!(over, ForwardError::Quiet(QUIET));
        let took = begun.elapsed();
        let expected = QUIET * 27 / 10 + QUIET;
        assert!(took >= expected && took < expected + QUIET / 10, "{took:?}");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_refused() {
        let room = Room::new(&Limits {
            memory: 128 * 1024,
            ..Limits::default()
        });
        let guest = guest(&room);
        // The call's own 16 KiB went with its stay.
        assert_eq!(guest.holds(32 * 1024), Ok(()));
        assert_eq!(
            guest.holds(32 * 1024 + 1),
            Err(ForwardError::NoRoom(Full::AddressBytes))
        );
        assert_eq!(room.held(), 32 * 1024);
        drop(guest);
        assert_eq!(room.held(), 0);
    }
}
