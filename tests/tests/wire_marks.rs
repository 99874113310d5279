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
use sidelane_tests::sockets::{Marks, marks};
use sidelane_tests::{Upstream, cluster, services};
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

fn end(link: &Value, which: &str) -> SocketAddr {
    let text = link[which].as_str().unwrap_or_default();
    text.parse()
        .unwrap_or_else(|error| panic!("{which} of {link}: {error}"))
}
