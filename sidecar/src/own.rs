//! What the sidecar itself answers on the outbound port, because no path can route it: the mesh's
//! health (grpc.health.v1), and `explain`. Whoever means one node's own health names the node.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use sidelane_proto::model::Health as EndpointHealth;
use sidelane_proto::wire::admin::v1 as wire;
use sidelane_proto::wire::admin::v1::sidecar_server::{Sidecar, SidecarServer};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tracing::debug;

use crate::explain::{self, Question};
use crate::http2;
use crate::stack::Stack;

const HEALTH: &str = "grpc.health.v1.Health";
const EXPLAIN: &str = "sidelane.admin.v1.Sidecar";
const REFLECTION: &str = "grpc.reflection.";
/// A watched health is looked at this often.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Is this service answered by the sidecar itself?
#[must_use]
pub fn answered(service: &str) -> bool {
    service == HEALTH || service == EXPLAIN
}

/// Every app may serve these beside its own services, so their path says nothing about where they
/// are meant to go.
#[must_use]
pub fn every_node_serves(service: &str) -> bool {
    service == HEALTH || service.starts_with(REFLECTION)
}

/// Answers a call to one of the sidecar's own services.
pub async fn serve(
    stack: &Arc<Stack>,
    head: Parts,
    body: RecvStream,
    respond: SendResponse<Bytes>,
) {
    let own = Own(Arc::clone(stack));
    let health = head
        .uri
        .path()
        .get(1..)
        .is_some_and(|path| path.starts_with(HEALTH));
    let served = if health {
        http2::serve(HealthServer::new(own), head, body, respond).await
    } else {
        http2::serve(SidecarServer::new(own), head, body, respond).await
    };
    if let Err(error) = served {
        debug!(%error, "an answer of the sidecar's own did not arrive");
    }
}

struct Own(Arc<Stack>);

#[tonic::async_trait]
impl Sidecar for Own {
    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let request = request.into_inner();
        let some = |text: String| (!text.is_empty()).then_some(text);
        let question = Question {
            path: request.path,
            node: some(request.node),
            lane: some(request.lane),
            hash: some(request.hash),
            rule: some(request.rule),
            header: some(request.header),
            as_identity: some(request.as_identity),
        };
        let explanation = explain::explain(&self.0, &question).await;
        Ok(Response::new(explanation.to_wire()))
    }
}

#[tonic::async_trait]
impl Health for Own {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match serving(&self.0, service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!(
                "`{service}` is not known to this sidecar; see `sidelane services`"
            ))),
            status => Ok(Response::new(HealthCheckResponse {
                status: status.into(),
            })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let start = (Arc::clone(&self.0), service, None);
        let changes = stream::unfold(start, |(stack, service, told)| async move {
            let status = loop {
                let now = serving(&stack, &service);
                if told != Some(now) {
                    break now;
                }
                tokio::time::sleep(WATCH_EVERY).await;
            };
            let news = HealthCheckResponse {
                status: status.into(),
            };
            Some((Ok(news), (stack, service, Some(status))))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// The mesh's health is that this sidecar has a picture of it; a service's, that somebody offers
/// it and says that it is well.
fn serving(stack: &Stack, service: &str) -> ServingStatus {
    let well = if service.is_empty() {
        stack.discovery.status().borrow().version.is_some()
    } else {
        match stack.mesh.view().target(service) {
            None => return ServingStatus::ServiceUnknown,
            Some(target) => target
                .hub()
                .iter()
                .any(|endpoint| endpoint.offer.health == EndpointHealth::Healthy),
        }
    };
    if well {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
