//! Lanes as a sidecar dials them, read back from the wire: a connection of its own for each, its
//! first bytes, its HTTP/2 settings, and its Hello. The peer that is dialled, and the control plane
//! that says where it is, are the test's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use sidelane_proto::model::{ConnectionClass, Lane, Rule};
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_tests::ask::{ask_over, values};
use sidelane_tests::client::RawClient;
use sidelane_tests::fake_control::{FakeControl, Session, endpoint, full, state};
use sidelane_tests::fake_peer::{FakePeer, Taken};
use sidelane_tests::frames::Opening;
use sidelane_tests::lanes::{CALLS, LaneFacts, assert_each_lane_has_its_own};
use sidelane_tests::routes::ROUTES;
use sidelane_tests::{Cluster, cluster};
use tonic::Code;

/// The node that the peer is.
const PEER: &str = "peer";
const GENERATION: u64 = 7;

/// A sidecar that knows the peer as the one endpoint of every service.
async fn mesh(peer: &FakePeer) -> (Cluster, FakeControl, Session) {
    let (control, mesh, mut session) = FakeControl::of(cluster!().node("caller")).await;
    let known = CALLS
        .iter()
        .map(|(service, ..)| state(vec![endpoint(service, PEER, GENERATION, peer.address())]));
    session.update(full(1, known.collect())).await.unwrap();
    mesh.node("caller").ready().await;
    (mesh, control, session)
}

/// Calls every service twice.
async fn call_all(mesh: &Cluster) {
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    for _ in 0..2 {
        for (service, method, ..) in CALLS {
            let path = format!("/{service}/{method}");
            let answer = ask_over(&client, &path, &[]).await;
            assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
        }
    }
}

/// The one link that was opened with this lane's preamble.
fn link_of(links: &[Taken], class: ConnectionClass, lane: Lane) -> &Taken {
    let preamble = sidelane_tests::link::preamble(class, lane);
    let mut of_lane = links.iter().filter(|link| link.preamble == preamble);
    let link = of_lane.next();
    assert!(of_lane.next().is_none(), "two links in lane {lane}");
    link.unwrap_or_else(|| panic!("no link in lane {lane}"))
}

#[tokio::test]
async fn each_lane_has_a_connection_of_its_own_and_opens_with_its_preamble() {
    let peer = FakePeer::welcoming().await;
    let (mesh, _control, _session) = mesh(&peer).await;
    call_all(&mesh).await;
    let links = peer.links();
    assert_eq!(links.len(), CALLS.len(), "a connection for each lane");
    let mut preambles: Vec<[u8; 8]> = links.iter().map(|link| link.preamble).collect();
    preambles.sort_unstable();
    assert_eq!(
        preambles,
        [
            *b"SLN1\0\0\x01\0",
            *b"SLN1\0\x01\x01\0",
            *b"SLN1\0\x02\x01\0",
            *b"SLN1\0\x03\x02\0",
        ]
    );
    let mut ports: Vec<u16> = links.iter().map(|link| link.from.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), CALLS.len());
    // No call strays into another's lane.
    for (service, method, class, lane) in CALLS {
        let link = link_of(&links, class, lane);
        let paths: Vec<&str> = link.calls.iter().map(|(path, _)| path.as_str()).collect();
        let path = format!("/{service}/{method}");
        assert_eq!(paths, [&path, &path]);
    }
}

#[tokio::test]
async fn each_lane_is_dialled_with_its_own_settings() {
    let peer = FakePeer::welcoming().await;
    let (mesh, _control, _session) = mesh(&peer).await;
    call_all(&mesh).await;
    let config = mesh.node("caller").config().await;
    let mut windows = Vec::new();
    for (_, _, class, lane) in CALLS {
        let facts = LaneFacts::of(&config, lane);
        let opening = link_of(&peer.links(), class, lane).opening().await.unwrap();
        let expected = Opening {
            enable_push: Some(0),
            // The dialler takes no calls.
            max_concurrent_streams: None,
            initial_window_size: Some(facts.stream_window),
            max_frame_size: Some(facts.frame_size),
            max_header_list_size: Some(64 * 1024),
            connection_window: facts.connection_window,
        };
        assert_eq!(opening, expected, "lane {lane}");
        windows.push((lane, opening));
    }
    assert_each_lane_has_its_own(&windows);
}

#[tokio::test]
async fn a_link_says_hello_once_and_first_and_its_calls_bring_no_word_of_the_meshs() {
    let peer = FakePeer::welcoming().await;
    let (mesh, _control, _session) = mesh(&peer).await;
    call_all(&mesh).await;
    let own = mesh.node("caller").config().await["generation"]
        .as_u64()
        .unwrap();
    for (_, _, class, lane) in CALLS {
        let link = link_of(&peer.links(), class, lane).clone();
        let [hello] = &link.hellos[..] else {
            panic!("{:?}", link.hellos);
        };
        let HelloRequest {
            protocol, build, ..
        } = hello;
        let expected = HelloRequest {
            node_id: "caller".to_owned(),
            generation: own,
            expected_node_id: PEER.to_owned(),
            expected_generation: GENERATION,
            connection: class.spoken().0,
            class: class.spoken().1.to_owned(),
            lane_id: lane.id().into(),
            lane: lane.name().to_owned(),
            protocol: *protocol,
            build: build.clone(),
            rules_digest: Rule::digest(ROUTES.rules()).to_vec(),
            unmarked_is_unrecorded: false,
        };
        assert_eq!(*hello, expected);
        assert!(!build.is_empty() && protocol.is_some(), "{hello:?}");
        for (path, headers) in &link.calls {
            let mut of_mesh = headers.keys().map(http::HeaderName::as_str);
            let stray = of_mesh.find(|name| name.starts_with("sidelane-"));
            assert_eq!(stray, None, "{path}: {headers:?}");
            assert_eq!(values(headers, "te"), ["trailers"]);
        }
    }
}
