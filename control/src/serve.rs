//! The gRPC port: accepts connections and serves HTTP/2 on them, with every limit set by us. It
//! knows nothing of what is called. hyper is used directly, because `tonic::transport::Server`
//! passes some of these limits on as "none" (0.14.9), and has no bound on connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sidelane_identity::Refusal;
use sidelane_process::seldom::Seldom;
use sidelane_process::settings::Trust;
use sidelane_process::strangers::{STRANGERS_LIMIT, Stranger, Strangers};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tower_service::Service;

use crate::certificates::Gate;
use crate::drain::Draining;
use crate::peer::{Peer, Shown};

/// Connections at once: four times the sidecars that one mesh is built for, with at most
/// [`STRANGERS_LIMIT`] that have proved nothing: no certificate where one is asked for, and else no call.
/// Further ones are closed at once, and counted.
pub const CONNECTION_LIMIT: usize = 4_096;
/// Streams at once on a connection. A sidecar needs one; tools some more.
pub const STREAM_LIMIT: u32 = 100;
/// Streams that a client has reset before they were served (CVE-2023-44487). A client that gives
/// up on a call now and then stays far below.
pub const PENDING_RESET_LIMIT: usize = 32;
/// Streams that were reset here for a mistake of the client, over a connection's whole life
/// (h2#856). Streams here live as long as their connection, so there are hardly any.
pub const LOCAL_RESET_LIMIT: usize = 256;
/// The size of a request's headers, in bytes.
pub const HEADER_LIMIT: u32 = 16 * 1024;
/// What a client may send on one stream before it is read, in bytes. A Hello with a hundred offers
/// fits; larger ones take some round trips more.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for a whole connection: slow streams can fill at most a quarter of it each (h2#573).
pub const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// What waits to be sent on one stream, in bytes, beyond the message that is being written.
pub const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame that is read, in bytes: the protocol's own default and minimum.
pub const FRAME_LIMIT: u32 = 16 * 1024;
/// A silent connection is asked whether it is alive after this time, and closed if it does not
/// answer within the second. Without it a half-open connection lasts for a quarter of an hour.
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// See [`PING_AFTER`].
pub const PING_LIMIT: Duration = Duration::from_secs(3);
/// A connection on which no call has begun after this time is closed: whoever opens one and says
/// nothing, or speaks something else, does not keep it (hyper#4172).
pub const FIRST_CALL_LIMIT: Duration = Duration::from_secs(10);
/// TLS is agreed on within this time, or the connection is closed.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// The first byte of TLS: a record of the handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// The pause after a failed accept: the usual cause, too many open files, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Figures of the gRPC port.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    open: AtomicUsize,
    refused: AtomicU64,
    handshakes: AtomicU64,
    failed_handshakes: AtomicU64,
    /// The same, by reason.
    distrusted: [AtomicU64; Refusal::LABELS.len()],
    plain: AtomicU64,
    /// What strangers can have written in the log.
    lines: Seldom,
}

/// How connections are secured.
#[derive(Clone)]
pub struct Security {
    /// `None` in trust mode `disabled`.
    pub tls: Option<Arc<ServerConfig>>,
    /// Connections without TLS are taken, too.
    pub plain: bool,
    /// Who may call what.
    pub gate: Gate,
}

impl Security {
    /// Everything in the clear.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            tls: None,
            plain: true,
            gate: Gate::new(Trust::Disabled, None),
        }
    }
}

impl ConnectionCounters {
    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Handshakes of TLS that ended well.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// How many of them failed, for each reason.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.distrusted.iter().map(|it| it.load(Ordering::Relaxed));
        Refusal::LABELS.into_iter().zip(counts)
    }

    /// One is closed, since there are so many.
    fn full(&self, peer: SocketAddr, limit: usize) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(omitted) = self.lines.line("full", Instant::now()) {
            tracing::warn!(%peer, limit, omitted, "too many connections, one is closed");
        }
    }

    fn distrusted(&self, refusal: &Refusal) {
        self.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        let known = Refusal::LABELS
            .iter()
            .zip(&self.distrusted)
            .find(|(label, _)| **label == refusal.label());
        if let Some((_, counter)) = known {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Handshakes of TLS that failed, and connections in the clear where none may be.
    #[must_use]
    pub fn failed_handshakes(&self) -> u64 {
        self.failed_handshakes.load(Ordering::Relaxed)
    }

    /// Connections in the clear that were taken in trust mode `permissive`.
    #[must_use]
    pub fn plain(&self) -> u64 {
        self.plain.load(Ordering::Relaxed)
    }

    /// Connections that were closed because there were too many: at once, or before they had proved
    /// anything.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Serves until the end begins and every connection has closed. Whoever cannot wait drops this:
/// then they are cut.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    security: Security,
    counters: Arc<ConnectionCounters>,
    mut draining: Draining,
) {
    let mut connections = JoinSet::new();
    let strangers = Strangers::new(STRANGERS_LIMIT);
    loop {
        let accepted = tokio::select! {
            () = draining.begun() => break,
            Some(ended) = connections.join_next() => {
                counters.open.store(connections.len(), Ordering::Relaxed);
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if connections.len() >= CONNECTION_LIMIT => {
                counters.full(peer, CONNECTION_LIMIT);
            }
            Ok((stream, peer)) => {
                let Some(stranger) = strangers.enter(peer.ip(), Instant::now()) else {
                    counters.full(peer, STRANGERS_LIMIT);
                    continue;
                };
                connections.spawn(accepted_one(
                    (stream, peer),
                    stranger,
                    routes.clone(),
                    security.clone(),
                    Arc::clone(&counters),
                    draining.clone(),
                ));
                counters.open.store(connections.len(), Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(%error, "the gRPC listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        counters.open.store(connections.len(), Ordering::Relaxed);
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection failed");
    }
}

/// A connection that has proved nothing keeps its stranger's place, and ends with it.
async fn accepted_one(
    accepted: (TcpStream, SocketAddr),
    mut stranger: Stranger,
    routes: Routes,
    security: Security,
    counters: Arc<ConnectionCounters>,
    draining: Draining,
) {
    let address = accepted.1;
    let proved = Arc::new(Notify::new());
    let serving = known_one(
        accepted,
        Arc::clone(&proved),
        routes,
        security,
        Arc::clone(&counters),
        draining,
    );
    let mut serving = pin!(serving);
    tokio::select! {
        biased;
        () = serving.as_mut() => return,
        () = proved.notified() => drop(stranger),
        () = stranger.let_go() => return counters.full(address, STRANGERS_LIMIT),
    }
    serving.await;
}

async fn known_one(
    (stream, address): (TcpStream, SocketAddr),
    proved: Arc<Notify>,
    routes: Routes,
    security: Security,
    counters: Arc<ConnectionCounters>,
    mut draining: Draining,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer = %address, %error, "connection lost before it began");
        return;
    }
    let mut peer = Peer::plain(address, stream.local_addr().ok());
    let Some(tls) = security.tls else {
        return connection(stream, peer, Some(proved), routes, security.gate, draining).await;
    };
    let shaken = tokio::select! {
        shaken = timeout(HANDSHAKE_LIMIT, shake(stream, tls, security.plain)) => shaken,
        () = draining.begun() => return,
    };
    match shaken.unwrap_or(Err(Refusal::TooSlow)) {
        Ok(Shaken::Tls(stream, shown)) => {
            counters.handshakes.fetch_add(1, Ordering::Relaxed);
            peer.secure = true;
            peer.shown = shown;
            if peer.shown.is_some() {
                proved.notify_one();
            }
            Box::pin(connection(
                *stream,
                peer,
                None,
                routes,
                security.gate,
                draining,
            ))
            .await;
        }
        Ok(Shaken::Plain(stream)) => {
            counters.plain.fetch_add(1, Ordering::Relaxed);
            connection(stream, peer, Some(proved), routes, security.gate, draining).await;
        }
        Err(refusal) => {
            counters.distrusted(&refusal);
            let reason = refusal.label();
            if let Some(omitted) = counters.lines.line(reason, Instant::now()) {
                tracing::warn!(peer = %address, reason, omitted, "refused: {refusal}");
            }
        }
    }
}

enum Shaken {
    Tls(Box<TlsStream<TcpStream>>, Option<Shown>),
    Plain(TcpStream),
}

async fn shake(stream: TcpStream, tls: Arc<ServerConfig>, plain: bool) -> Result<Shaken, Refusal> {
    let mut first = [0];
    let seen = stream.peek(&mut first).await;
    match seen.map_err(|error| Refusal::of_io(&error))? {
        0 => return Err(Refusal::Ended),
        _ if first[0] == TLS_HANDSHAKE => {}
        _ if plain => return Ok(Shaken::Plain(stream)),
        _ => return Err(Refusal::NotTls),
    }
    let stream = TlsAcceptor::from(tls).accept(stream).await;
    let stream = stream.map_err(|error| Refusal::of_io(&error))?;
    let (_, session) = stream.get_ref();
    let leaf = sidelane_identity::tls::peer(session)?;
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let shown = leaf
        .zip(certificate)
        .and_then(|(leaf, certificate)| Shown::of(&leaf, certificate));
    Ok(Shaken::Tls(Box::new(stream), shown))
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    peer: Peer,
    proved: Option<Arc<Notify>>,
    routes: Routes,
    gate: Gate,
    mut draining: Draining,
) {
    let address = peer.address;
    let called = Arc::new(Notify::new());
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        called.notify_one();
        let admitted = gate.admit(
            &peer,
            request.uri().path(),
            request.headers(),
            SystemTime::now(),
        );
        // Where nobody is asked for a certificate, a call is all that there is to go by.
        if let (Ok(()), Some(proved)) = (&admitted, &proved) {
            proved.notify_one();
        }
        request.extensions_mut().insert(peer.clone());
        let answer = admitted.map(|()| routes.clone().call(request));
        async move {
            Ok::<_, Infallible>(match answer {
                Ok(answer) => answer.await.unwrap_or_else(|never| match never {}),
                Err(status) => status.into_http(),
            })
        }
    });
    let connection = builder().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut first_call = pin!(tokio::time::timeout(FIRST_CALL_LIMIT, called.notified()));
    let mut waiting = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %address, %error, "connection ended");
                }
                return;
            }
            began = first_call.as_mut(), if waiting => {
                waiting = false;
                if began.is_err() {
                    tracing::debug!(peer = %address, "connection closed: no call began in time");
                    return;
                }
            }
            () = draining.begun() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    if let Err(error) = connection.await {
        tracing::debug!(peer = %address, %error, "connection ended");
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAM_LIMIT)
        .max_pending_accept_reset_streams(PENDING_RESET_LIMIT)
        .max_local_error_reset_streams(LOCAL_RESET_LIMIT)
        .max_header_list_size(HEADER_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_frame_size(FRAME_LIMIT)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT)
        .auto_date_header(false);
    builder
}

#[cfg(test)]
mod tests;
