//! The server: accepts, bounds, finds the page, answers.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::body::{AnswerBody, Going, STALL_LIMIT, STREAM_AGE};
use super::page::{AdminRequest, AdminResponse, AdminStream, Answered, Found, Pages};
use super::query;

/// Connections at once; further ones wait in the kernel's backlog. Probes, a scraper and some
/// people fit many times.
pub const CONNECTION_LIMIT: usize = 64;
/// How long a client may take for its headers, and then for its body; also how long a connection
/// may be idle. Keeps slow clients from holding connections.
pub const READ_TIME: Duration = Duration::from_secs(5);
/// The size of a request's headers, in bytes.
pub const HEADER_LIMIT: usize = 16 * 1024;
/// The size of a request's body, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// How long a connection may last. Keeps clients that never read their answers from holding
/// connections.
pub const CONNECTION_AGE: Duration = Duration::from_secs(60);
/// How long the answer that is under way may take when the server or the connection ends.
pub const LAST_ANSWER_TIME: Duration = Duration::from_secs(2);
/// The pause after a failed accept: the usual cause, too many open files, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The times, so that tests need not wait for the real ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) read: Duration,
    pub(super) age: Duration,
    pub(super) last_answer: Duration,
    pub(super) stream: Duration,
    pub(super) stall: Duration,
}

impl Times {
    /// Those of every server.
    pub(super) const REAL: Self = Self {
        read: READ_TIME,
        age: CONNECTION_AGE,
        last_answer: LAST_ANSWER_TIME,
        stream: STREAM_AGE,
        stall: STALL_LIMIT,
    };
}

/// Serves `pages` until `shutdown` resolves. Then it accepts no more, lets answers under way
/// finish for [`LAST_ANSWER_TIME`], and returns.
pub async fn serve(listener: TcpListener, pages: Pages, shutdown: impl Future<Output = ()>) {
    serve_within(Times::REAL, listener, pages, shutdown).await;
}

pub(super) async fn serve_within(
    times: Times,
    listener: TcpListener,
    pages: Pages,
    shutdown: impl Future<Output = ()>,
) {
    let pages = Arc::new(pages);
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept(), if connections.len() < CONNECTION_LIMIT => match accepted {
                Ok((stream, peer)) => {
                    let pages = Arc::clone(&pages);
                    connections.spawn(connection(times, stream, peer, pages, stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "admin listener cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an admin page failed");
    }
}

/// Is it on the machine itself? Nothing here asks who somebody is, so whoever is elsewhere may look and
/// change nothing. No packet from elsewhere has an address of loopback or of the machine itself.
fn is_near(peer: SocketAddr, own: Option<SocketAddr>) -> bool {
    let address = |socket: SocketAddr| socket.ip().to_canonical();
    address(peer).is_loopback() || own.map(address) == Some(address(peer))
}

pub(super) async fn connection(
    times: Times,
    stream: TcpStream,
    peer: SocketAddr,
    pages: Arc<Pages>,
    mut stopped: watch::Receiver<bool>,
) {
    let near = is_near(peer, stream.local_addr().ok());
    let going = Going::over(&stream);
    let service = service_fn(|request| {
        let (pages, going) = (Arc::clone(&pages), &going);
        async move {
            let answer = answer(times, (&pages, going), (peer, near), request);
            Ok::<_, Infallible>(answer.await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.read)
        .max_header_size(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
        () = over(times, &going) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            going.end();
            connection.as_mut().graceful_shutdown();
            timeout(times.last_answer, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "admin connection ended"),
        Err(_) => tracing::debug!(%peer, "admin connection cut: its answer was not read in time"),
    }
}

/// Comes when a connection has lasted long enough: what an answer of pieces may take longer, it takes
/// only while its reader reads.
async fn over(times: Times, going: &Going) {
    let began = Instant::now();
    loop {
        let look = times.stall.min(times.age) / 4;
        sleep(look).await;
        let limit = match going.stalled(times.stall) {
            None => times.age,
            Some(true) => return,
            Some(false) => times.stream,
        };
        if began.elapsed() >= limit {
            return;
        }
    }
}

async fn answer(
    times: Times,
    (pages, going): (&Pages, &Going),
    (peer, near): (SocketAddr, bool),
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let head_only = request.method() == Method::HEAD;
    let method = match request.method() {
        &Method::HEAD => Method::GET,
        other => other.clone(),
    };
    let handler = match pages.find(&method, request.uri().path()) {
        Found::Page(handler) => handler,
        Found::OtherMethods(methods) => {
            let text = format!("{method} is not for this page; use {methods}\n");
            let mut response = written(refusal(StatusCode::METHOD_NOT_ALLOWED, text));
            if let Ok(methods) = HeaderValue::try_from(methods) {
                response.headers_mut().insert(header::ALLOW, methods);
            }
            return response;
        }
        Found::Nothing => {
            let text = format!("no such page; there are {}\n", pages.known());
            return written(refusal(StatusCode::NOT_FOUND, text));
        }
    };
    // What is granted to this machine alone, and what is told for as long as somebody listens, is for
    // who asks for it by this server's address: a web page may have any name lead here.
    let guarded = handler.is_stream() || near && method != Method::GET;
    let request = if guarded && let Some(refusal) = led_here(&request, &method) {
        tracing::warn!(%peer, %method, path = request.uri().path(), "refused: it is not asked by an address");
        Err(refusal)
    } else if method == Method::GET || near {
        let near = near && is_by_address(request.headers());
        read(times, method, (peer, near), request).await
    } else {
        tracing::warn!(%peer, %method, path = request.uri().path(), "refused: it is not on this machine");
        let text = "this page changes something, and is for this machine alone: ask it from here, by \
                    the address that --admin names or by loopback\n";
        Err(refusal(StatusCode::FORBIDDEN, text))
    };
    match request {
        Ok(request) => match handler.answer(request).await {
            Answered::Whole(page) => written(page),
            // Nobody would read it.
            Answered::Stream(AdminStream { content_type, .. }) if head_only => {
                headed(StatusCode::OK, content_type, Bytes::new().into())
            }
            Answered::Stream(AdminStream {
                content_type,
                pieces,
            }) => headed(
                StatusCode::OK,
                content_type,
                going.begin(pieces, times.stall),
            ),
        },
        Err(refusal) => {
            // Part of the request may still be on its way, and must not be taken for the next one.
            let mut response = written(refusal);
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

/// Reads a request whole, or says why not.
async fn read(
    times: Times,
    method: Method,
    (peer, near): (SocketAddr, bool),
    request: Request<Incoming>,
) -> Result<AdminRequest, AdminResponse> {
    if method != Method::GET && is_cross_origin(&request) {
        return Err(refusal(
            StatusCode::FORBIDDEN,
            "a web page of another origin cannot use this page\n",
        ));
    }
    let Some(query) = query::pairs(request.uri().query().unwrap_or_default()) else {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "the query has a broken percent-escape, or is not UTF-8\n",
        ));
    };
    let path = request.uri().path().to_owned();
    let accept = request.headers().get_all(header::ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|it| it.to_str().ok()).collect();
    let accept = accept.join(",");
    let body = body(times, request.into_body()).await?;
    Ok(AdminRequest {
        method,
        path,
        query,
        body,
        accept,
        peer,
        near,
    })
}

async fn body(times: Times, body: Incoming) -> Result<Bytes, AdminResponse> {
    let too_large = || {
        let text = format!("the body is larger than {BODY_LIMIT} bytes\n");
        refusal(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(too_large());
    }
    match timeout(times.read, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(refusal(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be read: {error}\n"),
        )),
        Err(_) => Err(refusal(
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long\n",
        )),
    }
}

/// Why a web page may have led somebody here, if one may.
fn led_here(request: &Request<Incoming>, method: &Method) -> Option<AdminResponse> {
    let headers = request.headers();
    if !is_by_address(headers) {
        let text = "ask for this page by an address or as localhost, and not by another name: any web \
                    page may have a name that leads here\n";
        return Some(refusal(StatusCode::FORBIDDEN, text));
    }
    // A form or a script of this server's own pages says so, and that it is theirs is looked at later.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let foreign = !matches!(site, None | Some(b"same-origin" | b"none"));
    let origin = *method == Method::GET && headers.contains_key(header::ORIGIN);
    (foreign || origin).then(|| {
        refusal(
            StatusCode::FORBIDDEN,
            "a web page of another origin cannot use this page\n",
        )
    })
}

/// Does it name this server by an address, or as the machine itself? Names of others may be made to lead
/// here. Clients that are no browsers may name nothing.
fn is_by_address(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let is_literal = |host: &HeaderValue| {
        let authority: Option<Authority> = host.to_str().ok().and_then(|it| it.parse().ok());
        authority.is_some_and(|authority| {
            let host = authority.host();
            let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<Ipv4Addr>().is_ok()
                || bare.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
        })
    };
    hosts.next().is_none_or(is_literal) && hosts.next().is_none()
}

/// Browsers name the origin of the page that makes them post; other clients name none.
fn is_cross_origin(request: &Request<Incoming>) -> bool {
    let text = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => false,
        (Some(origin), Some(host)) => origin.strip_prefix(b"http://") != Some(host),
        (Some(_), None) => true,
    }
}

fn refusal(status: StatusCode, text: impl Into<Bytes>) -> AdminResponse {
    AdminResponse::text(text).with_status(status)
}

fn written(page: AdminResponse) -> Response<AnswerBody> {
    headed(page.status, page.content_type, page.body.into())
}

fn headed(
    status: StatusCode,
    content_type: &'static str,
    body: AnswerBody,
) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_no_name() {
        for (host, expected) in [
            (None, true),
            (Some("127.0.0.1"), true),
            (Some("127.0.0.1:15000"), true),
            (Some("10.0.0.5:80"), true),
            (Some("[::1]"), true),
            (Some("[::1]:15000"), true),
            (Some("localhost"), true),
            (Some("LocalHost:15000"), true),
            (Some("evil.example"), false),
            (Some("evil.example:15000"), false),
            (Some("localhost.evil.example"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some("127.1"), false),
            (Some("localhost."), false),
            (Some("evil@127.0.0.1"), true),
            (Some(""), false),
        ] {
            let host = host.map(|host| (header::HOST, HeaderValue::from_static(host)));
            assert_eq!(
                is_by_address(&host.clone().into_iter().collect()),
                expected,
                "{host:?}"
            );
        }
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("127.0.0.1"));
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_by_address(&two));
    }

    #[test]
    fn who_is_near_has_an_address_of_this_machine() {
        let own = Some("10.0.0.5:15000".parse().unwrap());
        for (peer, expected) in [
            ("127.0.0.1:9", true),
            ("127.8.8.8:9", true),
            ("[::1]:9", true),
            ("[::ffff:127.0.0.1]:9", true),
            ("10.0.0.5:9", true),
            ("[::ffff:10.0.0.5]:9", true),
            ("10.0.0.6:9", false),
            ("[fe80::1]:9", false),
        ] {
            assert_eq!(is_near(peer.parse().unwrap(), own), expected, "{peer}");
        }
        assert!(!is_near("10.0.0.5:9".parse().unwrap(), None));
    }
}
