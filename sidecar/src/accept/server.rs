//! Serves one HTTP/2 connection: settings, calls, PINGs and the two-step end. Every limit is set
//! here, because the defaults below us are either absent or far too strict.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use http::Request;
use sidelane_identity::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::call::{Peer, User};
use crate::drain::{Draining, Phase};
use crate::edge;
use crate::edge::calm::Flood;
use crate::edge::leaving::Leaving;
use crate::http2;
use crate::lane::{
    APP_PENDING_RESETS, ERROR_RESETS, LaneSettings, PENDING_RESETS, REMEMBER_RESETS,
    REMEMBERED_RESETS,
};
use crate::onward::Origin;
use crate::telemetry::LaneCounters;
use crate::trust::DISTRUSTED_LIMIT;
use crate::turns::{Intake, give_way};

/// The longest wait for a connection's first bytes and its HTTP/2 preface: h2 has no limit.
pub(super) const PREFACE_LIMIT: Duration = Duration::from_secs(10);

/// Calls that are taken from one connection before those that were taken have their turn. Whoever gives
/// up its calls as fast as it makes them has no more of them here at once.
const CALLS_A_TURN: usize = 256;

/// How long a connection that is ended for its own doing may take to be told so.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// The other end of a connection.
#[derive(Clone)]
pub enum Connected {
    /// The app beside this sidecar; where it meant somebody else, with whom.
    Local(Option<Arc<Origin>>),
    /// A peer that said Hello, by a link that is counted there.
    Peer(Arc<Peer>, Arc<LaneCounters>),
    /// Somebody outside the mesh, by a connection whose calls these are.
    User(User, Arc<Leaving>),
}

/// A call on its way. It is boxed where it is made, because a task moves what it is given about a
/// dozen times before it runs, and this is several kilobytes.
pub type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes calls.
pub trait Handle: Clone + Send + Sync + 'static {
    /// Answers one call. It ends by itself when the connection does.
    fn handle(
        &self,
        from: Connected,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Answering;
}

/// Why a connection ended that should have gone on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// No preface in time.
    #[error("no HTTP/2 preface within {} s", PREFACE_LIMIT.as_secs())]
    TooSlow,
    /// HTTP/2 went wrong.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// The socket broke.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// A PING was not answered.
    #[error("no answer to a PING within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The other end is not believed any more.
    #[error("the other end is not believed any more: {0}")]
    Distrusted(Refusal),
    /// A peer said no Hello in time.
    #[error("no Hello within {} s", .0.as_secs())]
    NoHello(Duration),
    /// A peer said no Hello while others wanted its place.
    #[error("it was silent while others wanted its place")]
    LetGo,
    /// A user made no request in time.
    #[error("no request within {} s", .0.as_secs())]
    NoRequest(Duration),
    /// A user was told to go, and nothing was open any more.
    #[error("it was told to go, and nothing is open on it")]
    Left,
    /// A user asks for work and for nothing else.
    #[error("{0}")]
    Flood(Flood),
}

impl ServeError {
    /// What the other side is told of it, where it is told anything.
    fn farewell(&self) -> Option<h2::Reason> {
        match self {
            Self::NoRequest(_) => Some(h2::Reason::NO_ERROR),
            Self::Flood(_) => Some(h2::Reason::ENHANCE_YOUR_CALM),
            _ => None,
        }
    }
}

/// How many streams of a connection may be reset by one side or the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resets {
    /// By the other side, before they were looked at.
    pub(super) pending: usize,
    /// By us, for the other side's errors, over the connection's life.
    pub(super) errors: usize,
}

impl Resets {
    /// Of local apps, which are trusted furthest.
    pub(super) const APPS: Self = Self {
        pending: APP_PENDING_RESETS,
        errors: ERROR_RESETS,
    };
    /// Of peers.
    pub(super) const PEERS: Self = Self {
        pending: PENDING_RESETS,
        errors: ERROR_RESETS,
    };
    /// Of users.
    pub(super) const USERS: Self = Self {
        pending: edge::PENDING_RESETS,
        errors: edge::ERROR_RESETS,
    };
}

/// The settings of a server connection in this lane that takes so many bytes of headers.
pub(super) fn builder(settings: &LaneSettings, headers: u32, resets: Resets) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.frame_size)
        .max_header_list_size(headers)
        .max_concurrent_streams(settings.max_streams)
        .max_send_buffer_size(settings.send_buffer)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_pending_accept_reset_streams(resets.pending)
        .max_local_error_reset_streams(Some(resets.errors));
    builder
}

/// Waits until the other end is not believed any more.
pub(super) type Distrusted = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// Waits until the connection has been there for long enough.
pub(super) type Leaves = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a connection's end waits for besides the other side.
pub(super) struct Terms<'a, Limit> {
    pub(super) settings: &'a LaneSettings,
    /// The largest list of headers that is taken, in bytes.
    pub(super) headers: u32,
    pub(super) resets: Resets,
    /// PINGs are sent: to peers and users; idle local apps answer `too_many_pings`.
    pub(super) pings: bool,
    pub(super) draining: Draining,
    /// When this phase comes, the connection takes no new calls.
    pub(super) ends_at: Phase,
    /// Ends the connection when it is ready.
    pub(super) limit: Limit,
    /// When it is ready, the connection takes no new calls, and those on it get a short time.
    pub(super) distrusted: Option<Distrusted>,
    /// When it is ready, the connection takes no new calls; those on it take their time.
    pub(super) leaves: Option<Leaves>,
    /// What its reader is told: see [`Turns::bringing`](crate::turns::Turns::bringing).
    pub(super) intake: Arc<Intake>,
}

/// The next call of a connection. After so many of them the calls that were taken have their turn, and
/// when there are none left its reader may bring more.
async fn next<Stream>(
    connection: &mut Connection<Stream, Bytes>,
    intake: &Intake,
    taken: &mut usize,
) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|context| {
        if *taken >= CALLS_A_TURN {
            *taken = 0;
            give_way(context);
            return Poll::Pending;
        }
        let accepted = connection.poll_accept(context);
        if accepted.is_pending() {
            *taken = 0;
            if intake.emptied() {
                give_way(context);
            }
        } else {
            *taken += 1;
        }
        accepted
    })
    .await
}

/// Serves a connection to its end. `take` starts each call.
pub(super) async fn serve<Stream, Limit>(
    stream: Stream,
    mut terms: Terms<'_, Limit>,
    mut take: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
) -> Result<(), ServeError>
where
    Stream: AsyncRead + AsyncWrite + Unpin,
    Limit: Future<Output = ServeError>,
{
    let handshake = builder(terms.settings, terms.headers, terms.resets).handshake(stream);
    let mut limit = std::pin::pin!(terms.limit);
    let mut connection = tokio::select! {
        biased;
        shaken = timeout(PREFACE_LIMIT, handshake) => shaken.map_err(|_| ServeError::TooSlow)??,
        error = &mut limit => return Err(error),
        refusal = ready(terms.distrusted.as_mut()) => return Err(ServeError::Distrusted(refusal)),
    };
    let pings = connection.ping_pong().filter(|_| terms.pings);
    let settings = terms.settings;
    let mut silence = std::pin::pin!(async move {
        let Some(mut pings) = pings else {
            return std::future::pending().await;
        };
        http2::silent(&mut pings, settings).await
    });
    let mut forced = terms.draining.clone();
    let mut ending = false;
    let mut cut = false;
    let (intake, mut taken) = (terms.intake, 0);
    loop {
        tokio::select! {
            biased;
            accepted = next(&mut connection, &intake, &mut taken) => match accepted {
                Some(Ok((request, respond))) => take(request, respond),
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            () = terms.draining.reached(terms.ends_at), if !ending => {
                // GOAWAY(2^31-1) now, and the real last id after a round trip.
                connection.graceful_shutdown();
                ending = true;
            }
            () = forced.reached(Phase::Forced) => return Ok(()),
            error = &mut limit => {
                if let Some(reason) = error.farewell() {
                    connection.abrupt_shutdown(reason);
                    let last = async {
                        while next(&mut connection, &intake, &mut taken).await.is_some() {}
                    };
                    let _ = timeout(FAREWELL_LIMIT, last).await;
                }
                return Err(error);
            }
            () = ready(terms.leaves.as_mut()), if terms.leaves.is_some() => {
                connection.graceful_shutdown();
                (ending, terms.leaves) = (true, None);
            }
            refusal = ready(terms.distrusted.as_mut()), if terms.distrusted.is_some() => {
                if cut {
                    return Err(ServeError::Distrusted(refusal));
                }
                connection.graceful_shutdown();
                (ending, cut) = (true, true);
                terms.distrusted = Some(Box::pin(async move {
                    tokio::time::sleep(DISTRUSTED_LIMIT).await;
                    refusal
                }));
            }
            waited = &mut silence => return Err(ServeError::Silent(waited)),
        }
    }
}

/// Waits for something that may not be there, and then for ever.
pub(super) async fn ready<Awaited: Future>(awaited: Option<Awaited>) -> Awaited::Output {
    match awaited {
        Some(awaited) => awaited.await,
        None => std::future::pending().await,
    }
}

/// For connections without a limit of their own.
pub(super) async fn no_limit() -> ServeError {
    match std::future::pending::<Infallible>().await {}
}
