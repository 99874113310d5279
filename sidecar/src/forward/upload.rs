//! The request's way: from the caller's stream to the callee's. What was read is kept up to
//! [`REPLAY_LIMIT`] until the answer begins, and a second attempt begins with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::FRAMES_A_POLL;
use super::error::ForwardError;
use super::guest::Guest;
use super::messages::Messages;
use super::replay::Replay;
use crate::call::strip_if_any;
use crate::edge::STREAM_WINDOW;
use crate::edge::room::Brought;
use crate::telemetry::{Carried, LaneCounters, Stall, Traffic};
use crate::turns::give_way;

/// Bytes of a request that are kept for another attempt.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// Pieces of a request that are kept for another attempt: each takes more room than its bytes.
const REPLAY_PIECES: usize = 1_024;
/// A piece of a user's request that is shorter is kept as a copy: as it came it would hold on to what
/// came beside it, padding included.
const PIECE_SHARED: usize = 512;

/// Bytes of a request that go to a connection before it has given the stream any room, so that head
/// and body leave in one write, and a call waits once less. They are kept for another attempt all the
/// same, so they take no memory of their own.
const AHEAD_LIMIT: usize = 16 * 1024;

/// A request on its way.
#[derive(Debug)]
pub struct Upload {
    from: RecvStream,
    /// What was read and may be needed again, or is not sent yet.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// What `kept` takes at the moment, in bytes.
    held: usize,
    /// How many of `kept` this attempt has sent.
    sent: usize,
    /// The chunk being sent.
    chunk: Bytes,
    /// How much of the chunk still counts against the caller's window.
    unreleased: usize,
    /// The whole request was read, with these trailers.
    read: Option<Option<HeaderMap>>,
    /// The request may be needed again.
    keeping: bool,
    /// Not all of what was read is kept.
    lost: bool,
    /// The end was sent on this attempt.
    finished: bool,
    /// Bytes that this attempt may still send before it is given room.
    ahead: usize,
    /// Whether this attempt waits for room, for its lane's figures.
    stall: Stall,
    /// What a user is allowed, where it is one's; in a box, since few are.
    guest: Option<Box<Guest>>,
    /// Where the caller is in its messages.
    messages: Messages,
    /// What the answer has carried: whoever looks at a call's request looks at both.
    answered: Carried,
}

/// Where an upload broke.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The caller's side: it reset its stream, or its connection ended.
    Caller,
    /// The callee's side: it takes no more. Its answer says why.
    Callee,
    /// The caller asks for more than it may.
    Refused(ForwardError),
}

impl Upload {
    /// The request on this stream.
    #[must_use]
    pub fn new(from: RecvStream) -> Self {
        let read = from.is_end_stream().then_some(None);
        Self {
            from,
            kept: VecDeque::new(),
            kept_bytes: 0,
            held: 0,
            sent: 0,
            chunk: Bytes::new(),
            unreleased: 0,
            read,
            keeping: true,
            lost: false,
            finished: false,
            ahead: AHEAD_LIMIT,
            stall: Stall::default(),
            guest: None,
            messages: Messages::default(),
            answered: Carried::default(),
        }
    }

    /// It is a user's: no message of more than `message` bytes is taken, no trailers go on, what is
    /// held of it counts in `request`, and it ends when nothing moves for `quiet`.
    pub fn of_user(&mut self, message: u32, quiet: Duration, request: Arc<Brought>) {
        self.guest = Some(Box::new(Guest::new(message, quiet, request)));
    }

    /// So much of the answer has come.
    pub(super) fn answered(&mut self, carried: Carried) {
        self.answered = carried;
    }

    /// What the call has carried so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            request: self.messages.carried(),
            response: self.answered,
        }
    }

    /// Something moved on the call, one way or the other.
    pub(super) fn moved(&mut self) {
        if let Some(guest) = &mut self.guest {
            guest.moved();
        }
    }

    /// Ready when nothing has moved for as long as that may be.
    pub(super) fn poll_quiet(&mut self, context: &mut Context<'_>) -> Poll<ForwardError> {
        match &mut self.guest {
            Some(guest) => guest.poll_quiet(context),
            None => Poll::Pending,
        }
    }

    /// What is held of a user's request; as much as there may be at once where its callee takes
    /// nothing, since what comes then is not seen here.
    fn count(&mut self, stuck: bool) -> Result<(), UploadError> {
        let Some(guest) = &mut self.guest else {
            return Ok(());
        };
        let received = self.from.flow_control().used_capacity();
        let waiting = if stuck {
            STREAM_WINDOW as usize
        } else {
            received
        };
        guest
            .holds(self.held + waiting)
            .map_err(UploadError::Refused)
    }

    /// Goes out in this lane, where it goes to a peer.
    pub fn in_lane(&mut self, lane: Option<&Arc<LaneCounters>>) {
        self.stall = Stall::of_new(lane);
    }

    /// The request has no body at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.lost && matches!(self.read, Some(None))
    }

    /// Can the whole request be sent once more?
    #[must_use]
    pub fn replayable(&self) -> bool {
        self.keeping && !self.lost
    }

    /// Begins anew, for another attempt. Only where it is replayable.
    pub fn rewind(&mut self) {
        self.release();
        self.chunk = Bytes::new();
        self.sent = 0;
        self.finished = false;
        self.ahead = AHEAD_LIMIT;
    }

    /// The request once more, for an attempt beside this one; `None` unless it was read whole and can
    /// be sent twice.
    #[must_use]
    pub fn replay(&self) -> Option<Replay> {
        let trailers = self.read.as_ref().filter(|_| self.replayable())?;
        let kept = self.kept.iter().cloned().collect();
        Some(Replay::new(kept, trailers.clone()))
    }

    /// Goes on from where another attempt is: that one counts.
    pub(super) fn adopt(&mut self, replay: Replay) {
        self.release();
        self.chunk = replay.chunk;
        self.sent = replay.sent;
        self.finished = replay.finished;
        self.ahead = 0;
    }

    /// The answer has begun: nothing needs to be kept any longer.
    pub(super) fn commit(&mut self) {
        self.keeping = false;
        let gone: usize = self.kept.drain(..self.sent).map(|it| taken_by(&it)).sum();
        self.held -= gone;
        self.sent = 0;
    }

    /// Sends what can be sent. Ready when the whole request has left.
    pub(super) fn poll(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        let polled = self.poll_on(to, context);
        if self.guest.is_some() {
            let unread = matches!(polled, Poll::Ready(Err(UploadError::Callee)));
            let stuck = self.read.is_none() && (unread || !self.chunk.is_empty());
            if let Err(refused) = self.count(stuck) {
                return Poll::Ready(Err(refused));
            }
        }
        polled
    }

    fn poll_on(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        for _ in 0..FRAMES_A_POLL {
            if self.finished {
                return Poll::Ready(Ok(()));
            }
            if !self.chunk.is_empty() {
                ready!(self.poll_send_chunk(to, context))?;
            } else if self.sent < self.kept.len() {
                self.next_kept();
            } else if let Some(trailers) = &self.read {
                let end = match trailers {
                    Some(trailers) => to.send_trailers(trailers.clone()),
                    None => to.send_data(Bytes::new(), true),
                };
                end.map_err(|_| UploadError::Callee)?;
                self.finished = true;
            } else {
                ready!(self.poll_read(context))?;
            }
        }
        // Others on this thread want to run, too.
        give_way(context);
        Poll::Pending
    }

    fn next_kept(&mut self) {
        if self.keeping {
            self.chunk = self.kept[self.sent].clone();
            self.sent += 1;
        } else {
            let next = self.kept.pop_front();
            self.held -= next.as_ref().map_or(0, taken_by);
            self.chunk = next.unwrap_or_default();
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        match ready!(self.from.poll_data(context)) {
            Some(Ok(data)) => {
                if let Some(guest) = &mut self.guest {
                    // Before anything of this is kept or sent.
                    guest.reads(&data).map_err(UploadError::Refused)?;
                }
                // Of any size: those that have a bound are held to it above.
                let _ = self.messages.read(&data);
                if self.from.is_end_stream() {
                    self.read = Some(None);
                }
                self.take_in(data);
                Poll::Ready(Ok(()))
            }
            Some(Err(_)) => Poll::Ready(Err(UploadError::Caller)),
            None => {
                let trailers = ready!(self.from.poll_trailers(context));
                let trailers = trailers.map_err(|_| UploadError::Caller)?;
                self.read = Some(trailers.and_then(|trailers| self.passed(trailers)));
                Poll::Ready(Ok(()))
            }
        }
    }

    /// What may go on of a request's trailers: as of its headers, nothing that is the mesh's own.
    /// gRPC requests have none, so a user's are not needed, and apps read them as headers.
    fn passed(&self, mut trailers: HeaderMap) -> Option<HeaderMap> {
        if self.guest.is_some() {
            return None;
        }
        strip_if_any(&mut trailers);
        Some(trailers)
    }

    fn take_in(&mut self, mut data: Bytes) {
        self.unreleased += data.len();
        let room = self.kept_bytes + data.len() <= REPLAY_LIMIT && self.kept.len() < REPLAY_PIECES;
        if self.keeping && room && !self.lost {
            // Kept within its own bound, so it need not hold the caller's window.
            self.release();
            if self.guest.is_some() && data.len() < PIECE_SHARED {
                data = Bytes::copy_from_slice(&data);
            }
            self.kept_bytes += data.len();
            self.held += taken_by(&data);
            self.kept.push_back(data.clone());
            self.sent = self.kept.len();
        } else if self.keeping && !self.lost {
            self.lost = true;
            self.kept.clear();
            self.held = 0;
            self.sent = 0;
        }
        self.chunk = data;
    }

    fn poll_send_chunk(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        let wanted = self.chunk.len();
        let room = if wanted <= self.ahead {
            self.ahead -= wanted;
            wanted
        } else {
            self.ahead = 0;
            ready!(self.poll_room(to, context))?
        };
        let part = self.chunk.split_to(room.min(wanted));
        let left = self.chunk.len();
        let end = left == 0 && self.sent == self.kept.len() && matches!(self.read, Some(None));
        // An empty part can only come from a capacity of nothing; it is no end.
        if !part.is_empty() {
            to.send_data(part, end).map_err(|_| UploadError::Callee)?;
            self.finished = end;
        }
        if self.unreleased > left {
            let _ = self
                .from
                .flow_control()
                .release_capacity(self.unreleased - left);
            self.unreleased = left;
        }
        Poll::Ready(Ok(()))
    }

    /// How much of the chunk the connection has room for.
    fn poll_room(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, UploadError>> {
        to.reserve_capacity(self.chunk.len());
        let mut room = to.capacity();
        if room == 0 {
            room = match to.poll_capacity(context) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(_)) | None) => {
                    return Poll::Ready(Err(UploadError::Callee));
                }
                Poll::Pending => {
                    self.stall.begins();
                    return Poll::Pending;
                }
            };
        }
        self.stall.ends();
        Poll::Ready(Ok(room))
    }

    /// Gives the caller its window back. It fails only where the stream is over.
    fn release(&mut self) {
        if self.unreleased > 0 {
            let _ = self.from.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
    }
}

/// What a piece takes that is kept, in bytes.
fn taken_by(piece: &Bytes) -> usize {
    piece.len() + size_of::<Bytes>()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use h2::{client, server};
    use http::Request;
    use tokio::io::duplex;
    use tokio::task::yield_now;

    use super::*;

    fn post() -> Request<()> {
        Request::post("http://callee/a.B/C").body(()).unwrap()
    }

    /// An upload of a request with this body, whose caller's connection is driven.
    async fn upload(body: Bytes) -> Upload {
        let (near, far) = duplex(1024 * 1024);
        let (sender, connection) = client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let mut connection = server::handshake(far).await.unwrap();
        let (_response, mut to) = sender
            .ready()
            .await
            .unwrap()
            .send_request(post(), false)
            .unwrap();
        to.send_data(body, true).unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move {
            let _held = (respond, _response);
            while connection.accept().await.is_some() {}
        });
        Upload::new(request.into_body())
    }

    /// Sends it on a connection that stands still, then lets that go on. Returns whether all of it was
    /// given to the connection before, and what arrived.
    async fn sent(upload: &mut Upload) -> (bool, Vec<u8>) {
        let (near, far) = duplex(1024 * 1024);
        let (sender, connection) = client::handshake(near).await.unwrap();
        let (_response, mut to) = sender
            .ready()
            .await
            .unwrap()
            .send_request(post(), false)
            .unwrap();
        let before = loop {
            match poll_fn(|context| Poll::Ready(upload.poll(&mut to, context))).await {
                Poll::Ready(sent) => break sent.is_ok(),
                // It has read what it may not send yet.
                Poll::Pending if upload.ahead == 0 && !upload.chunk.is_empty() => break false,
                Poll::Pending => yield_now().await,
            }
        };
        tokio::spawn(connection);
        let callee = tokio::spawn(async move {
            let mut connection = server::handshake(far).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let (mut body, mut all) = (request.into_body(), Vec::new());
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                all.extend_from_slice(&data);
            }
            drop(respond);
            all
        });
        if !before {
            poll_fn(|context| upload.poll(&mut to, context))
                .await
                .unwrap();
        }
        (before, callee.await.unwrap())
    }

    fn bytes(length: usize) -> Bytes {
        (0..=u8::MAX).cycle().take(length).collect()
    }

    #[tokio::test]
    async fn a_small_request_leaves_with_its_head_and_so_it_does_once_more() {
        let body = bytes(AHEAD_LIMIT);
        let mut upload = upload(body.clone()).await;
        assert_eq!(sent(&mut upload).await, (true, body.to_vec()));
        assert!(upload.replayable());
        upload.rewind();
        assert_eq!(sent(&mut upload).await, (true, body.to_vec()));
    }

    #[tokio::test]
    async fn what_is_longer_waits_for_room_and_arrives_whole() {
        let body = bytes(AHEAD_LIMIT + 1);
        let mut upload = upload(body.clone()).await;
        assert_eq!(sent(&mut upload).await, (false, body.to_vec()));
    }

    #[tokio::test]
    async fn what_comes_in_too_many_pieces_is_not_kept() {
        for (pieces, kept) in [(REPLAY_PIECES, true), (REPLAY_PIECES + 1, false)] {
            let mut upload = upload(Bytes::new()).await;
            for _ in 0..pieces {
                upload.take_in(Bytes::from_static(b"x"));
            }
            assert_eq!(upload.replayable(), kept, "{pieces}");
            let each = 1 + size_of::<Bytes>();
            assert_eq!(upload.held, if kept { pieces * each } else { 0 });
            upload.commit();
            assert_eq!(upload.held, 0);
        }
    }
}
