//! The marks of each lane, as the kernel has them for the sockets of both sidecars: the code point
//! of every packet and the priority in this machine's queues. A mark holds for one direction only,
//! so both ends must have it. Linux only, as the question is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]
#![cfg(target_os = "linux")]

use std::net::SocketAddr;

use serde_json::Value;
use sidelane_proto::model::Lane;
use sidelane_tests::ask::ask_over;
use sidelane_tests::client::RawClient;
use sidelane_tests::lanes::LaneFacts;
use sidelane_tests::ports::free_port;
use sidelane_tests::sockets::{Marks, marks, unsent};
use sidelane_tests::upstream::MESSAGE_LIMIT;
use sidelane_tests::wire::v1::bulk_client::BulkClient;
use sidelane_tests::wire::v1::{PullRequest, PushRequest};
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tonic::Code;

/// A call in each lane.
const PATHS: [&str; 4] = [
    "/sidelane.test.v1.Echo/Unary",
    "/sidelane.test.v1.Beat/Ping",
    "/sidelane.test.v1.Bulk/Pull",
    "/sidelane.test.v1.Front/Visit",
];

#[tokio::test]
async fn both_ends_of_a_link_are_marked_as_its_lane_asks() {
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!().control().node("caller").node("callee");
    for service in [
        services::ECHO,
        services::BEAT,
        services::BULK,
        services::FRONT,
    ] {
        mesh = mesh.serving(service, &upstream);
    }
    let mesh = mesh.start().await;
    let caller = mesh.node("caller");
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    for path in PATHS {
        let answer = ask_over(&client, path, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
    }

    let config = caller.config().await;
    let links = config["links"].as_array().unwrap();
    let mut seen = Vec::new();
    for lane in Lane::BUILT_IN {
        let mut of_lane = links.iter().filter(|link| link["lane"] == lane.name());
        let link = of_lane
            .next()
            .unwrap_or_else(|| panic!("no link in {lane}"));
        let (local, remote) = (end(link, "local"), end(link, "remote"));
        let facts = LaneFacts::of(&config, lane);
        let expected = Marks {
            tos: facts.dscp << 2,
            priority: facts.priority,
        };
        assert_eq!(marks(local, remote).unwrap(), expected, "{lane}, dialled");
        assert_eq!(marks(remote, local).unwrap(), expected, "{lane}, accepted");
        seen.push((facts.dscp, facts.priority));
    }
    // Default, expedited forwarding, the lowest class, and assured forwarding 21 (RFC 4594).
    assert_eq!(seen, [(0, 0), (46, 6), (8, 2), (18, 0)]);
}

#[tokio::test]
#[ignore = "needs IPv6 on loopback"]
async fn so_are_links_over_ipv6() {
    std::net::TcpListener::bind("[::1]:0").expect("IPv6 on loopback");
    let upstream = Upstream::named("callee").start().await;
    let internal = format!("[::1]:{}", free_port());
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .with("--internal", &internal)
        .serving(services::BEAT, &upstream)
        .serving(services::BULK, &upstream)
        .start()
        .await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    for (path, lane) in [(PATHS[1], Lane::GOSSIP), (PATHS[2], Lane::BIFROST_DATA)] {
        let answer = ask_over(&client, path, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
        let config = mesh.node("caller").config().await;
        let link = link(&config, lane);
        let (local, remote) = (end(&link, "local"), end(&link, "remote"));
        assert!(local.is_ipv6() && remote.is_ipv6(), "{link}");
        let facts = LaneFacts::of(&config, lane);
        let expected = Marks {
            tos: facts.dscp << 2,
            priority: facts.priority,
        };
        assert_eq!(marks(local, remote).unwrap(), expected, "{lane}, dialled");
        assert_eq!(marks(remote, local).unwrap(), expected, "{lane}, accepted");
    }
}

#[tokio::test]
async fn the_kernel_holds_little_of_bulk_that_cannot_leave() {
    let upstream = Upstream::named("callee").start().await;
    let mesh: Cluster = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::BULK, &upstream)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let mut bulk = BulkClient::new(caller.channel().await).max_decoding_message_size(MESSAGE_LIMIT);
    let first = PullRequest {
        messages: 1,
        bytes: 1,
    };
    let mut answers = bulk.pull(first).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let config = caller.config().await;
    let link = link(&config, Lane::BIFROST_DATA);
    let (local, remote) = (end(&link, "local"), end(&link, "remote"));
    let lanes = config["lanes"].as_array().unwrap();
    let lane = lanes
        .iter()
        .find(|lane| lane["lane"] == "bifrost_data")
        .unwrap();
    let bound = u32::try_from(lane["unsent"].as_u64().unwrap()).unwrap();
    let frame = u32::try_from(lane["frame_size"].as_u64().unwrap()).unwrap();

    // The peer reads no more, so its window fills, and then this socket.
    callee.freeze().await;
    let messages = (0..32).map(|_| PushRequest {
        payload: vec![0; 1024 * 1024].into(),
        pause_ms: 0,
    });
    let pushing =
        tokio::spawn(async move { bulk.push(futures_util::stream::iter(messages)).await });
    let filled = async {
        while unsent(local, remote).unwrap() < bound {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, filled)
        .await
        .expect("bulk fills the socket");
    // It was full for a moment at least: more is not taken.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let held = unsent(local, remote).unwrap();
    callee.thaw();
    assert!(
        held >= bound && held <= bound + 2 * frame,
        "{held} of {bound}"
    );
    assert!(pushing.await.unwrap().is_ok());
}

/// The one link in this lane, as `/config` has it.
fn link(config: &Value, lane: Lane) -> Value {
    let links = config["links"].as_array().unwrap();
    let mut peers = links.iter().filter(|link| link["kind"] == "peer");
    let found = peers.find(|link| link["lane"] == lane.name());
    found.unwrap_or_else(|| panic!("no link in {lane}")).clone()
}

fn end(link: &Value, which: &str) -> SocketAddr {
    let text = link[which].as_str().unwrap_or_default();
    text.parse()
        .unwrap_or_else(|error| panic!("{which} of {link}: {error}"))
}
