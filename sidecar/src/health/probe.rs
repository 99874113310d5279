//! One look at what listens at a local address: does it take a connection, and what does its health
//! service (`grpc.health.v1`) say of each service that it should serve? Each look is a connection of
//! its own, outside pool and lanes, and is over within its limit: it is no call of the mesh, and
//! whether the app still accepts is half of the question. `Watch` is not asked, since an open stream
//! would keep apps that end in good order from ending.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::client::SendRequest;
use sidelane_proto::model::ServiceName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::standing::{CheckBy, Outcome};
use crate::dial;
use crate::http2::Transport;
use crate::onward::Onward;
use crate::pool::Address;

/// Services of one address that are asked about at once.
const ASKED_AT_ONCE: usize = 16;
/// The largest answer that is read. A health is two bytes.
const ANSWER_LIMIT: usize = 1_024;
/// The largest list of headers that is read.
const HEADER_LIST_LIMIT: u32 = 16 * 1024;
/// How long the connection's own goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_millis(100);
/// The longest text that is kept of what an app said, in characters.
const WHY_LIMIT: usize = 200;
/// Who asks, in the app's own log.
const USER_AGENT: &str = concat!("sidelane-sidecar/", env!("CARGO_PKG_VERSION"));

/// What a look found, and in words why that is no good answer; empty if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) outcome: Outcome,
    pub(super) why: String,
}

impl Finding {
    pub(super) fn new(outcome: Outcome, why: &str) -> Self {
        let why = why.chars().take(WHY_LIMIT).collect();
        Self { outcome, why }
    }
}

/// Looks once, for at most `limit`. One finding for each service, in their order.
pub(super) async fn look(
    address: &Address,
    services: &[ServiceName],
    (by, limit): (CheckBy, Duration),
    onward: &Onward,
) -> Vec<Finding> {
    let end = Instant::now() + limit;
    let all = |outcome, why: &str| vec![Finding::new(outcome, why); services.len()];
    let late = format!("no answer within {} ms", limit.as_millis());
    match address {
        Address::Tcp(address) | Address::Peer(address, _) => {
            match timeout_at(end, dial::named(address.as_str())).await {
                Ok(Ok(stream)) => {
                    // Should it be redirected back here, it is known by this.
                    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
                    let _open = ends.map(|(local, remote)| onward.opened(local, remote));
                    ask(stream, services, by, (limit, end)).await
                }
                Ok(Err(error)) => all(Outcome::Refused, &error.to_string()),
                Err(_) => all(Outcome::Silent, &late),
            }
        }
        Address::Unix(path) => match timeout_at(end, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => ask(stream, services, by, (limit, end)).await,
            Ok(Err(error)) => all(Outcome::Refused, &error.to_string()),
            Err(_) => all(Outcome::Silent, &late),
        },
        // A service of this very program: there is nothing between it and us that could fail.
        Address::Pipe(opener) if opener.is_open() => all(Outcome::Connects, ""),
        Address::Pipe(_) => all(Outcome::Refused, "its server has ended"),
    }
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    services: &[ServiceName],
    by: CheckBy,
    (limit, end): (Duration, Instant),
) -> Vec<Finding> {
    let late = format!("no answer within {} ms", limit.as_millis());
    let mut found = vec![Finding::new(Outcome::Silent, &late); services.len()];
    if by == CheckBy::Tcp {
        found.fill(Finding::new(Outcome::Connects, ""));
        return found;
    }
    let _ = timeout_at(end, ask_all(stream, services, limit, &mut found)).await;
    found
}

/// Writes down what it finds as it finds it: what comes too late leaves the rest as it is.
async fn ask_all(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    services: &[ServiceName],
    limit: Duration,
    found: &mut [Finding],
) {
    let mut builder = h2::client::Builder::new();
    builder
        .max_header_list_size(HEADER_LIST_LIMIT)
        .enable_push(false);
    let (sender, driver) = match builder.handshake::<_, Bytes>(stream).await {
        Ok(halves) => halves,
        Err(error) => return found.fill(Finding::new(Outcome::Silent, &error.to_string())),
    };
    let mut driver = std::pin::pin!(driver);
    let asking = async {
        let mut left = services.iter().enumerate();
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < ASKED_AT_ONCE
                && let Some((index, service)) = left.next()
            {
                asked.push(health_of(sender.clone(), index, service.as_str(), limit));
            }
            let Some((index, finding)) = asked.next().await else {
                break;
            };
            found[index] = finding;
        }
    };
    tokio::select! {
        biased;
        () = asking => {
            drop(sender);
            let _ = timeout(GOODBYE_LIMIT, driver).await;
        }
        // The calls on it hear of it too, but nobody would tell their answers to be late.
        ended = &mut driver => {
            let why = match ended {
                Ok(()) => "the connection ended before the answer".to_owned(),
                Err(error) => format!("the connection ended before the answer: {error}"),
            };
            for finding in found.iter_mut().filter(|it| it.outcome == Outcome::Silent) {
                *finding = Finding::new(Outcome::Silent, &why);
            }
        }
    }
}

/// A service by its name; one that the health service does not know, by the server's own health.
async fn health_of(
    sender: SendRequest<Bytes>,
    index: usize,
    service: &str,
    limit: Duration,
) -> (usize, Finding) {
    let client = HealthClient::new(Transport::new(sender)).max_decoding_message_size(ANSWER_LIMIT);
    let mut answer = check(client.clone(), service, limit).await;
    if is_unknown(&answer) {
        answer = check(client, "", limit).await;
        if is_unknown(&answer) {
            return (index, Finding::new(Outcome::Connects, ""));
        }
    }
    let finding = match answer {
        Ok(ServingStatus::Serving) => Finding::new(Outcome::Serving, ""),
        Ok(status) => Finding::new(
            Outcome::NotServing,
            &format!("its health service says {}", status.as_str_name()),
        ),
        Err(status) => match status.code() {
            // It has no health service, or none that is for us: what is left is that it listens.
            Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
                Finding::new(Outcome::Connects, "")
            }
            code => Finding::new(
                Outcome::Silent,
                &format!("its health service answers {code:?}: {}", status.message()),
            ),
        },
    };
    (index, finding)
}

async fn check(
    mut client: HealthClient<Transport>,
    service: &str,
    limit: Duration,
) -> Result<ServingStatus, Status> {
    let mut request = Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    request.set_timeout(limit);
    let agent = tonic::metadata::MetadataValue::from_static(USER_AGENT);
    request.metadata_mut().insert("user-agent", agent);
    let answer = client.check(request).await?.into_inner();
    Ok(answer.status())
}

fn is_unknown(answer: &Result<ServingStatus, Status>) -> bool {
    match answer {
        Ok(status) => *status == ServingStatus::ServiceUnknown,
        Err(status) => status.code() == Code::NotFound,
    }
}
