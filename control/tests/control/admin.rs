//! What people and tools are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sidelane_control::app::{App, IdentityParameters};
use sidelane_control::registry::Terms;
use sidelane_control::rules::Validations;
use sidelane_control::store::{Embedded, Store, StoreError, Writes};
use sidelane_process::fetch;
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use sidelane_proto::wire::admin::v1::{
    ListNodesRequest, ListServicesRequest, Node, WaitRevisionRequest,
};
use sidelane_proto::wire::control::v1::Health;
use tokio::net::TcpListener;

use crate::sidecar::{Control, PATIENCE, Sidecar, channel, hello, watcher};

async fn nodes(control: &Control) -> Vec<Node> {
    let mut client = MeshClient::new(control.channel().await);
    let request = ListNodesRequest::default();
    client.list_nodes(request).await.unwrap().into_inner().nodes
}

pub(crate) async fn page(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let url = format!("http://{address}{path}");
    let page = fetch::get(&url, PATIENCE).await.unwrap();
    (page.status.as_u16(), page.text())
}

#[tokio::test]
async fn nodes_are_listed_with_all_that_is_known() {
    let control = Control::start().await;
    let mut taking = control.join(watcher("taking", &["a.A"])).await;
    let mut picky = control.join(watcher("picky", &["a.A"])).await;
    taking.take().await;
    picky.take().await;
    let lost = control.join(hello("lost", 5, &["a.A"])).await;
    taking.take().await;
    let refused = picky.update().await;
    picky.nack(&refused, "services[0].x", "is missing").await;
    drop(lost);
    taking.take().await;
    // Answers are counted in the order in which they arrive; wait for the last.
    let listed = loop {
        let listed = nodes(&control).await;
        let version = taking.taken().counter;
        let known = |name: &str| listed.iter().find(|node| node.node_id == name).unwrap();
        if known("taking").acknowledged == version && !known("picky").refused.is_empty() {
            break listed;
        }
        tokio::task::yield_now().await;
    };
    let names: Vec<&str> = listed.iter().map(|node| node.node_id.as_str()).collect();
    assert_eq!(names, ["lost", "picky", "taking"]);
    let (lost, picky) = (&listed[0], &listed[1]);
    assert_eq!(lost.source, "registration");
    assert_eq!(lost.network, "default");
    assert_eq!(lost.generation, 5);
    assert!(!lost.connected);
    assert_eq!(lost.health(), Health::Suspect);
    assert_eq!(lost.services, ["a.A"]);
    assert_eq!(lost.build, "0.1.0");
    assert_eq!(lost.addresses.as_ref().unwrap().internal, "127.0.0.1:15006");
    assert!(picky.connected);
    let version = refused.version.unwrap().counter;
    assert_eq!(
        picky.refused,
        format!("version {version}: services[0].x is missing")
    );
    assert!(picky.acknowledged < version);
}

#[tokio::test]
async fn services_are_listed_and_one_network_can_be_asked_for() {
    let control = Control::start().await;
    let _n = control.join(hello("n", 1, &["b.B", "a.A"])).await;
    let mut other = hello("n", 1, &["c.C"]);
    other.network = "other".to_owned();
    let _other = control.join(other).await;
    let mut client = MeshClient::new(control.channel().await);
    let mut list = async |network: &str| {
        let network = network.to_owned();
        let request = ListServicesRequest { network };
        let listed = client.list_services(request).await?.into_inner();
        let names = listed.services.into_iter().map(|state| state.service);
        Ok::<_, tonic::Status>(names.collect::<Vec<_>>())
    };
    assert_eq!(list("").await.unwrap(), ["a.A", "b.B", "c.C"]);
    assert_eq!(list("other").await.unwrap(), ["c.C"]);
    assert!(list("nobody").await.unwrap().is_empty());
    let status = list("a b").await.unwrap_err();
    assert_eq!(
        status.message(),
        "network `a b` is not a network name (letters, digits, `.`, `_`, `-`)"
    );
}

#[tokio::test]
async fn a_wait_for_a_revision_ends_when_all_have_it_or_names_those_who_have_not() {
    let control = Control::start().await;
    let mut quick = control.join(watcher("quick", &["a.A"])).await;
    let mut slow = control.join(watcher("slow", &["a.A"])).await;
    let mut stranger = control.join(watcher("stranger", &["c.C"])).await;
    for sidecar in [&mut quick, &mut slow, &mut stranger] {
        sidecar.take().await;
    }
    let node = control.join(hello("n", 1, &["a.A"])).await;
    let revision = quick.take().await.version.unwrap().counter;
    let behind = slow.update().await;
    let mut client = MeshClient::new(control.channel().await);
    let mut wait = async |revision, timeout_ms| {
        let request = WaitRevisionRequest {
            revision,
            timeout_ms,
        };
        client.wait_revision(request).await.unwrap().into_inner()
    };
    let late = wait(revision, 300).await;
    assert!(!late.reached);
    let names: Vec<&str> = late.laggards.iter().map(|l| l.node_id.as_str()).collect();
    // `n` has not answered its first update.
    assert_eq!(names, ["n", "slow"]);
    node.goodbye().await;
    let gone = quick.take().await.version.unwrap().counter;
    assert!(gone > revision);
    let began = Instant::now();
    let ((), reached) = tokio::join!(
        async {
            slow.ack(&behind).await;
            slow.take().await;
        },
        wait(0, 10_000)
    );
    assert!(reached.reached, "{reached:?}");
    assert_eq!(reached.revision, gone);
    assert!(began.elapsed() < Duration::from_secs(5));
    let future = wait(gone + 1_000, 100).await;
    assert!(!future.reached && future.laggards.is_empty());
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let control = Control::start().await;
    let mut health = HealthClient::new(control.channel().await);
    for service in [
        "",
        "sidelane.control.v1.Membership",
        "sidelane.admin.v1.Mesh",
    ] {
        let service = service.to_owned();
        let request = HealthCheckRequest { service };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "SERVING");
    }
    let mut reflection = ServerReflectionClient::new(control.channel().await);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let requests = tokio_stream::once(request);
    let answers = reflection.server_reflection_info(requests).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("no list");
    };
    let names: Vec<&str> = listed.service.iter().map(|s| s.name.as_str()).collect();
    for name in [
        "sidelane.control.v1.Membership",
        "sidelane.admin.v1.Mesh",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[tokio::test]
async fn the_pages_tell_how_it_is() {
    let control = Control::start().await;
    let admin = control.app.admin();
    assert_eq!(page(admin, "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(page(admin, "/readyz").await, (200, "ready\n".to_owned()));
    let mut sidecar = control.join(hello("n", 5, &["a.A"])).await;
    sidecar.take().await;
    control.refusal(hello("n", 4, &[])).await;
    let (_, text) = page(admin, "/metrics").await;
    for line in [
        "sidelane_control_nodes{source=\"registration\",health=\"healthy\"} 1",
        "sidelane_control_sessions 1",
        "sidelane_control_services 1",
        "sidelane_control_updates_total 1",
        "sidelane_control_nacks_total 0",
        "sidelane_control_refusals_total{reason=\"STALE_GENERATION\"} 1",
        "sidelane_control_refusals_total{reason=\"ALREADY_EXISTS\"} 0",
        "sidelane_control_store_healthy 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    for line in text.lines() {
        let known = ["# ", "sidelane_control_", "process_", "sidelane_runtime_"];
        assert!(known.iter().any(|start| line.starts_with(start)), "{line}");
    }
}

/// A store whose disk is full while the flag is set.
struct Full(Embedded, Arc<AtomicBool>);

impl Store for Full {
    fn commit(&mut self, writes: &Writes) -> Result<(), StoreError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(StoreError::Write {
                path: "control.redb".into(),
                reason: "No space left on device".to_owned(),
            });
        }
        self.0.commit(writes)
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_control_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, loaded) = Embedded::open(folder.path()).unwrap();
    let full = Arc::new(AtomicBool::new(true));
    let store = Box::new(Full(store, Arc::clone(&full)));
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pages = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = App::with_store(
        grpc,
        pages,
        store,
        loaded,
        None,
        Terms::default(),
        Validations::default(),
        IdentityParameters::disabled(),
    );
    let app = app.await.unwrap();
    let _node = Sidecar::join(channel(app.listen()).await, hello("n", 1, &["a.A"])).await;
    let said = async |wanted: &str| {
        let began = Instant::now();
        loop {
            let (status, text) = page(app.admin(), "/readyz").await;
            assert_eq!(status, 200);
            if text == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    said(
        "ready, with trouble:\n- store: the store control.redb cannot be written: No space left on \
         device; what is pushed now is not known after a restart\n",
    )
    .await;
    let (_, text) = page(app.admin(), "/metrics").await;
    assert!(text.contains("sidelane_control_store_healthy 0"), "{text}");
    let mut watching = Sidecar::join(channel(app.listen()).await, watcher("w", &["a.A"])).await;
    watching.take().await;
    assert_eq!(watching.held.len(), 1);
    full.store(false, Ordering::Relaxed);
    said("ready\n").await;
    assert!(app.stop(Duration::from_secs(5)).await.stored);
    let (_, loaded) = Embedded::open(folder.path()).unwrap();
    assert_eq!(loaded.nodes.len(), 2, "nothing was lost");
}
