//! The program's side of the pipe by which the sidecar reaches services of the same process: an
//! HTTP/2 server for tonic services. It runs on the program's runtime, because the services may
//! need it, and ends when the sidecar has dropped the last way to it. Who may call, in which lane
//! and for how long was decided before a call comes here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use sidelane_proto::model::{CallPath, Lane};
use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tracing::debug;

use crate::http2;
use crate::lane::{
    APP_PENDING_RESETS, ERROR_RESETS, PEER_HEADER_LIST_LIMIT, REMEMBER_RESETS, REMEMBERED_RESETS,
    settings,
};
use crate::pipe::Acceptor;

/// A service of this program.
pub(super) type LocalService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Calls open at once on one pipe. The pool opens no more than the lane allows, and has one pipe or
/// a few for each lane: this is only above the largest lane that can be defined.
const CALLS_LIMIT: u32 = 64 * 1024;
/// The largest list of headers that is taken, in bytes: what the sidecar adds for the app must not
/// break a call that it took.
const HEADERS_LIMIT: u32 = PEER_HEADER_LIST_LIMIT + 4 * 1024;

/// All services of this program, by name.
pub(super) type Services = Arc<HashMap<String, LocalService>>;

/// Serves until nobody can open a pipe any more, and then until the last one is closed.
pub(super) async fn run(mut acceptor: Acceptor, services: Services) {
    let mut pipes = JoinSet::new();
    loop {
        tokio::select! {
            pipe = acceptor.accept() => match pipe {
                Some(pipe) => drop(pipes.spawn(connection(pipe, Arc::clone(&services)))),
                None => break,
            },
            Some(_) = pipes.join_next(), if !pipes.is_empty() => {}
        }
    }
    while pipes.join_next().await.is_some() {}
}

async fn connection(pipe: DuplexStream, services: Services) {
    // A pipe serves one lane and does not know which; windows only bound what waits in memory.
    let lane = settings(Lane::GENERAL);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(lane.stream_window)
        .initial_connection_window_size(lane.connection_window)
        .max_frame_size(lane.frame_size)
        .max_header_list_size(HEADERS_LIMIT)
        .max_concurrent_streams(CALLS_LIMIT)
        .max_send_buffer_size(lane.send_buffer)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_pending_accept_reset_streams(APP_PENDING_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS));
    let mut connection = match builder.handshake(pipe).await {
        Ok(connection) => connection,
        Err(error) => return debug!(%error, "a pipe of this process broke"),
    };
    // Dropped with the connection: then nobody waits for their answers.
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    calls.spawn(answer(Arc::clone(&services), request, respond));
                }
                Some(Err(error)) => return debug!(%error, "a pipe of this process ended"),
                None => return,
            },
            Some(_) = calls.join_next(), if !calls.is_empty() => {}
        }
    }
}

async fn answer(
    services: Services,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, body) = request.into_parts();
    let path = CallPath::parse(parts.uri.path());
    let service = path.ok().and_then(|path| services.get(path.service));
    let Some(service) = service.cloned() else {
        let text = format!("{}: this process serves no such service", parts.uri.path());
        let (head, ()) = Status::unimplemented(text).into_http::<()>().into_parts();
        let mut response = Response::from_parts(head, ());
        *response.version_mut() = http::Version::HTTP_2;
        // A caller that is gone needs no answer.
        let _ = respond.send_response(response, true);
        return;
    };
    let ready_first = tower::service_fn(move |request| service.clone().oneshot(request));
    if let Err(error) = http2::serve(ready_first, parts, body, respond).await {
        debug!(%error, "an answer of this process did not arrive");
    }
}
