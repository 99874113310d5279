//! All nodes are restarted one by one under the load of two callers: each is told to end, drains,
//! and starts again with its folder. No unary call fails, and streams that outlive the grace end
//! with a status.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::Duration;

use anyhow::Result;
use sidelane_tests::client::{RawAnswer, RawClient, mesh_reason};
use sidelane_tests::executions::Executions;
use sidelane_tests::hub::{HubWatch, fit, of};
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::services::ECHO;
use sidelane_tests::three::{NEWS, NODES, Three};
use sidelane_tests::wire::v1::{Behaviour, ChatRequest, Moment, UnaryRequest, UnaryResponse};
use sidelane_tests::{Upstream, cluster, exclusive};
use tokio::task::JoinHandle;
use tonic::Code;

const SECOND: Duration = Duration::from_secs(1);
/// How long a node may take to end. Its grace is three seconds.
const DRAINED: Duration = Duration::from_secs(20);

#[tokio::test]
async fn all_nodes_are_restarted_one_by_one_and_no_call_fails() {
    let _turn = exclusive().await;
    let callers = cluster!().control().node("caller-1").node("caller-2");
    let three = Three::with(callers, &[("--grace", "3s")]).await;
    let mesh = &three.mesh;
    let hubs = [three.hub("caller-1").await, three.hub("caller-2").await];
    let mut loads = [
        Load::start(mesh.node("caller-1").outbound(), Plan::HALF).await,
        Load::start(mesh.node("caller-2").outbound(), Plan::HALF).await,
    ];
    tokio::time::sleep(SECOND).await;

    for (name, upstream) in NODES.into_iter().zip(&three.upstreams) {
        let node = mesh.node(name);
        let before = generations(&hubs, name);
        // One ends in time, the other does not.
        let slow = open_unary(&three, name).await;
        let stream = open_stream(&three, name).await;
        arrived(upstream, name).await;

        mark(&mut loads, &format!("{name} is told to end"));
        node.stop(DRAINED).await;
        mark(&mut loads, &format!("{name} has ended"));
        let slow = slow.await.unwrap().unwrap();
        assert_eq!(slow.message::<UnaryResponse>().unwrap().node, name);
        let stream = stream.await.unwrap().unwrap();
        assert_eq!(stream.reset, None, "a reset is no answer: {stream:?}");
        let status = stream.grpc_status().unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(mesh_reason(&status).as_deref(), Some("PEER_RESET"));
        assert!(node.log().contains("1 calls were cut"), "{}", node.log());

        node.start_again().await;
        node.ready().await;
        mark(&mut loads, &format!("{name} is ready"));
        for (hub, before) in hubs.iter().zip(before) {
            let newer = |held: &[_]| {
                let node = of(held, name);
                fit(held) == NODES.len() && node.is_some_and(|node| node.generation > before)
            };
            hub.sees("it takes calls again, newer than before", NEWS, newer)
                .await;
        }
        mark(&mut loads, &format!("{name} takes calls again"));
    }
    tokio::time::sleep(SECOND).await;

    let [one, other] = loads.map(Load::stop);
    let (one, other) = tokio::join!(one, other);
    println!("three nodes are restarted one by one\n{one}\n{other}");
    for upstream in &three.upstreams {
        let twice = upstream.ledger().executed_more_than_once();
        assert!(twice.is_empty(), "executed twice: {twice:?}");
    }
    let executions = Executions::of(&three.upstreams);
    for (report, hub) in [one, other].iter().zip(&hubs) {
        report.nothing_failed();
        hub.shows_nobody_twice();
        executions.agree_with(report);
        report.pace_was_kept();
    }
}

fn mark(loads: &mut [Load], what: &str) {
    for load in loads {
        load.mark(what);
    }
}

fn generations(hubs: &[HubWatch], node: &str) -> Vec<u64> {
    let newest = |hub: &HubWatch| {
        let look = hub.looks().pop().unwrap();
        of(&look.endpoints, node).unwrap().generation
    };
    hubs.iter().map(newest).collect()
}

/// A unary call to this node that takes a second.
async fn open_unary(three: &Three, node: &str) -> JoinHandle<Result<RawAnswer>> {
    let client = RawClient::connect(three.mesh.node("caller-1").outbound()).await;
    let (client, node) = (client.unwrap(), node.to_owned());
    tokio::spawn(async move {
        let request = UnaryRequest {
            behaviour: Some(Behaviour {
                ledger_key: slow_key(&node),
                delay_ms: 1_000,
                ..Behaviour::default()
            }),
            ..UnaryRequest::default()
        };
        let path = format!("/{ECHO}/Unary");
        client
            .unary(&path, &[("sidelane-node", &node)], &request)
            .await
    })
}

/// A conversation with this node that goes on for ever.
async fn open_stream(three: &Three, node: &str) -> JoinHandle<Result<RawAnswer>> {
    let client = RawClient::connect(three.mesh.node("caller-2").outbound()).await;
    let (client, node) = (client.unwrap(), node.to_owned());
    tokio::spawn(async move {
        let path = format!("/{ECHO}/Chat");
        let mut call = client.begin(&path, &[("sidelane-node", &node)]).await?;
        call.send(&ChatRequest {
            behaviour: Some(Behaviour {
                ledger_key: stream_key(&node),
                ..Behaviour::default()
            }),
            ..ChatRequest::default()
        })?;
        call.answer().await
    })
}

/// Waits until both are open on it.
async fn arrived(upstream: &Upstream, node: &str) {
    for key in [slow_key(node), stream_key(node)] {
        let ledger = upstream.ledger();
        let arrived = ledger.reached(&key, Moment::Arrived, 1, NEWS).await;
        assert!(arrived.is_some(), "{key} does not arrive");
    }
}

fn slow_key(node: &str) -> String {
    format!("slow-{node}")
}

fn stream_key(node: &str) -> String {
    format!("stream-{node}")
}
