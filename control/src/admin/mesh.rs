//! `sidelane.admin.v1.Mesh`: nodes, services, rules, and the wait for a revision.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sidelane_process::clock::unix_ms;
use sidelane_proto::model::pushed::RULES_BYTES_LIMIT;
use sidelane_proto::model::snapshot::UPDATE_BYTES_LIMIT;
use sidelane_proto::model::{Network, ServiceName};
use sidelane_proto::wire::DESCRIPTORS;
use sidelane_proto::wire::admin::v1 as wire;
use sidelane_proto::wire::admin::v1::mesh_server;
use sidelane_proto::wire::control::v1::ServiceState;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tonic_reflection::server::v1;

use super::{View, identity, rules};
use crate::push::{self, Laggard, Listed, RefusedUpdate};
use crate::registry::{NodeKey, NodeRecord, Origin};

/// The longest wait for a revision; longer ones are cut to it.
pub const WAIT_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Waits at once. Each of them looks at all sessions when one of them answers.
pub const WAITERS_LIMIT: usize = 64;

/// The largest request that is read, in bytes: all rules that may be applied, and as many that are
/// taken back. tonic has one limit for all methods of a service.
pub const REQUEST_LIMIT: usize = RULES_BYTES_LIMIT + (8 << 20);
/// The largest request to reflection, in bytes: it holds a name.
const REFLECTION_LIMIT: usize = 64 << 10;

/// The service as tonic wants it: shared by all connections.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    view: Arc<View>,
    waiters: Arc<Semaphore>,
}

impl Served {
    fn new(view: Arc<View>) -> Self {
        Self {
            view,
            waiters: Arc::new(Semaphore::new(WAITERS_LIMIT)),
        }
    }
}

/// The service, ready to be served.
pub(crate) fn service(view: &Arc<View>) -> mesh_server::MeshServer<Served> {
    mesh_server::MeshServer::new(Served::new(Arc::clone(view)))
        .max_decoding_message_size(REQUEST_LIMIT)
        .max_encoding_message_size(UPDATE_BYTES_LIMIT)
}

/// What reflection serves: the mesh's own descriptors, and those of health.
pub(crate) fn reflection()
-> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, tonic_reflection::server::Error> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map(|server| server.max_decoding_message_size(REFLECTION_LIMIT))
}

#[tonic::async_trait]
impl mesh_server::Mesh for Served {
    async fn list_nodes(
        &self,
        request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        let network = network(&request.into_inner().network)?;
        let view = &self.view;
        let nodes = view.registry.nodes().await.map_err(stopping)?;
        let silences = view.claims.silences().await.map_err(stopping)?;
        let silences: HashMap<NodeKey, u64> = silences.into_iter().collect();
        let snapshot = view.registry.snapshot();
        let sessions = view.directory.sessions(&snapshot);
        let nodes = nodes
            .iter()
            .filter(|(_, record)| {
                let wanted = network.as_ref();
                wanted.is_none_or(|network| record.key.network == *network)
            })
            .map(|(origin, record)| {
                let session = sessions.get(&record.key);
                let session = session.filter(|listed| listed.generation == record.generation);
                node(*origin, record, session, silences.get(&record.key))
            })
            .collect();
        Ok(Response::new(wire::ListNodesResponse {
            nodes,
            version: Some((&snapshot.version()).into()),
            unix_ms: unix_ms(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn list_services(
        &self,
        request: Request<wire::ListServicesRequest>,
    ) -> Result<Response<wire::ListServicesResponse>, Status> {
        let network = network(&request.into_inner().network)?;
        let snapshot = self.view.registry.snapshot();
        let mut networks: Vec<&Network> = match &network {
            Some(network) => vec![network],
            None => snapshot.networks().collect(),
        };
        networks.sort();
        let mut services = Vec::new();
        for network in networks {
            let mut known: Vec<_> = snapshot.services(network).collect();
            known.sort_by_key(|(name, _)| *name);
            services.extend(known.into_iter().map(|(name, view)| {
                ServiceState {
                    service: name.as_str().to_owned(),
                    ever_seen: true,
                    endpoints: view
                        .endpoints()
                        .map(|endpoint| (&**endpoint).into())
                        .collect(),
                }
            }));
        }
        Ok(Response::new(wire::ListServicesResponse {
            services,
            version: Some((&snapshot.version()).into()),
        }))
    }

    async fn wait_revision(
        &self,
        request: Request<wire::WaitRevisionRequest>,
    ) -> Result<Response<wire::WaitRevisionResponse>, Status> {
        let request = request.into_inner();
        let Ok(_waiter) = self.waiters.try_acquire() else {
            let text = format!("{WAITERS_LIMIT} others wait for a revision; try again later");
            return Err(Status::resource_exhausted(text));
        };
        let timeout = Duration::from_millis(request.timeout_ms.into()).min(WAIT_LIMIT);
        let view = &self.view;
        let revision = match request.revision {
            0 => view.registry.snapshot().counter(),
            revision => revision,
        };
        let until = Instant::now() + timeout;
        let waited = view.directory.wait(&view.registry, revision, until).await;
        let reached = waited.as_ref().is_some_and(Vec::is_empty);
        let (refused, refused_count) = rules::refusals(view);
        Ok(Response::new(wire::WaitRevisionResponse {
            reached,
            revision,
            laggards: waited.unwrap_or_default().iter().map(laggard).collect(),
            refused,
            refused_count,
        }))
    }

    async fn apply_rules(
        &self,
        request: Request<wire::ApplyRulesRequest>,
    ) -> Result<Response<wire::ApplyRulesResponse>, Status> {
        let applied = rules::apply(&self.view, request.into_inner()).await;
        applied.map(Response::new)
    }

    async fn list_rules(
        &self,
        request: Request<wire::ListRulesRequest>,
    ) -> Result<Response<wire::ListRulesResponse>, Status> {
        let request = request.into_inner();
        let network = network(&request.network)?;
        let service = match request.service.as_str() {
            "" => None,
            name => Some(
                ServiceName::new(name)
                    .map_err(|error| Status::invalid_argument(error.to_string()))?,
            ),
        };
        let snapshot = self.view.registry.snapshot();
        let listed = rules::list(&snapshot, network.as_ref(), service.as_ref());
        Ok(Response::new(listed))
    }

    async fn issue_token(
        &self,
        request: Request<wire::IssueTokenRequest>,
    ) -> Result<Response<wire::IssueTokenResponse>, Status> {
        let issued = identity::issue_token(&self.view, request.into_inner()).await;
        issued.map(Response::new)
    }

    async fn revoke(
        &self,
        request: Request<wire::RevokeRequest>,
    ) -> Result<Response<wire::RevokeResponse>, Status> {
        let revoked = identity::revoke(&self.view, request.into_inner()).await;
        revoked.map(Response::new)
    }

    async fn list_roots(
        &self,
        _: Request<wire::ListRootsRequest>,
    ) -> Result<Response<wire::ListRootsResponse>, Status> {
        identity::roots(&self.view).map(Response::new)
    }

    async fn rotate_root(
        &self,
        _: Request<wire::RotateRootRequest>,
    ) -> Result<Response<wire::RotateRootResponse>, Status> {
        identity::rotate(&self.view).await.map(Response::new)
    }
}

fn node(
    origin: Origin,
    record: &NodeRecord,
    session: Option<&Listed>,
    silent: Option<&u64>,
) -> wire::Node {
    let refused_rules = session.map(|listed| &listed.refused_rules);
    wire::Node {
        node_id: record.key.node.as_str().to_owned(),
        generation: record.generation.number(),
        source: origin.name().to_owned(),
        connected: session.is_some(),
        health: record.worst_health().to_wire().into(),
        addresses: Some((&record.addresses).into()),
        locality: Some((&record.locality).into()),
        services: record
            .offers
            .iter()
            .map(|offer| offer.service.as_str().to_owned())
            .collect(),
        acknowledged: session.map_or(0, |listed| listed.acknowledged),
        refused: all_refused(session),
        build: record.build.to_string(),
        silent_ms: silent.copied().unwrap_or_default(),
        identity: record
            .identity
            .as_ref()
            .map(|identity| identity.as_str().to_owned())
            .unwrap_or_default(),
        network: record.key.network.as_str().to_owned(),
        refused_rules: refused_rules
            .iter()
            .flat_map(|(refused, _)| refused.iter().cloned())
            .map(rules::refusal)
            .collect(),
        refused_rules_count: refused_rules.map_or(0, |(_, all)| rules::count(*all)),
    }
}

/// What a session refuses, for people: an update, or rules, of which the first is named.
fn all_refused(session: Option<&Listed>) -> String {
    let Some(listed) = session else {
        return String::new();
    };
    let update = refused(listed.refused.as_ref());
    let (rules, all) = &listed.refused_rules;
    let Some(first) = rules.first() else {
        return update;
    };
    let more = match all - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let push::RefusedRule {
        service,
        version,
        field,
        problem,
    } = first;
    let separator = if update.is_empty() { "" } else { "; " };
    format!("{update}{separator}the rule of {service}, version {version}: {field} {problem}{more}")
}

fn laggard(laggard: &Laggard) -> wire::Laggard {
    wire::Laggard {
        node_id: laggard.key.node.as_str().to_owned(),
        acknowledged: laggard.acknowledged,
        refused: refused(laggard.refused.as_ref()),
    }
}

fn refused(refused: Option<&RefusedUpdate>) -> String {
    refused.map_or_else(String::new, |refused| {
        let RefusedUpdate {
            version,
            field,
            problem,
        } = refused;
        format!("version {version}: {field} {problem}")
    })
}

fn network(name: &str) -> Result<Option<Network>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let network = Network::new(name);
    network
        .map(Some)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn stopping(closed: crate::registry::Closed) -> Status {
    Status::unavailable(format!("{closed}: control is stopping"))
}
