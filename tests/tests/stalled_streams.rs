//! Streams that nobody reads, answers and requests: their windows are full, and calls beside them on
//! the same connection go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::Duration;

use bytes::Bytes;
use sidelane_tests::admin::Metrics;
use sidelane_tests::cluster::Node;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{Behaviour, CollectRequest, ExpandRequest, UnaryRequest};
use sidelane_tests::{Upstream, cluster, services};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// As many as the reader stalls: all but one of those that a connection has room for.
const STALLED: usize = 47;
/// More than all windows on the way hold of one stream.
const MESSAGES: u32 = 96;
const BYTES: u32 = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn streams_with_full_windows_stop_no_other_call_on_their_connection() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    // The app's own connection has room for all of them: it is the mesh that is looked at.
    let channel = Endpoint::from_shared(format!("http://{}", caller.outbound()))
        .unwrap()
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(64 * 1024 * 1024)
        .connect()
        .await
        .unwrap();
    let mut client = EchoClient::new(channel);
    let mut streams = Vec::new();
    for _ in 0..STALLED {
        let request = ExpandRequest {
            messages: MESSAGES,
            bytes: BYTES,
            ..ExpandRequest::default()
        };
        streams.push(client.expand(request).await.unwrap().into_inner());
    }
    // Until each of them has filled what it can on the way.
    let full = async {
        loop {
            let metrics = caller.metrics().await;
            let labels = [("lane", "general"), ("direction", "received")];
            let before = metrics.sum("sidelane_lane_bytes_total", &labels);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let metrics = caller.metrics().await;
            let after = metrics.sum("sidelane_lane_bytes_total", &labels);
            if after > 0.0 && before == after {
                return after;
            }
        }
    };
    let held = timeout(LIMIT, full).await.unwrap();
    println!("{STALLED} streams that nobody reads hold {held} bytes");
    all_wait_on_one_link(callee, "accepted").await;
    calls_go_on(&mut client).await;
    // And they are whole once somebody reads them.
    for mut stream in streams {
        let whole = async {
            let mut next = 0;
            while let Some(message) = stream.message().await.unwrap() {
                assert_eq!(message.index, next);
                assert_eq!(message.payload.len(), BYTES as usize);
                next += 1;
            }
            next
        };
        assert_eq!(timeout(LIMIT, whole).await.unwrap(), MESSAGES);
    }
}

#[tokio::test]
async fn requests_that_nobody_reads_stop_no_other_call_on_their_connection() {
    // The app's own connection has room for all of them: it is the mesh that is looked at.
    let upstream = Upstream::named("callee").with_connection_window(64 * 1024 * 1024);
    let upstream = upstream.start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let caller = mesh.node("caller");
    let mut client = EchoClient::new(caller.channel().await);
    let mut streams = Vec::new();
    for _ in 0..STALLED {
        let (send, requests) = mpsc::channel(1);
        // The server reads one message, and answers when the test is over.
        let first = CollectRequest {
            behaviour: Some(Behaviour {
                early: true,
                after_messages: 1,
                delay_ms: 60_000,
                ..Behaviour::default()
            }),
            ..CollectRequest::default()
        };
        send.send(first).await.unwrap();
        let mut client = client.clone();
        let answer =
            tokio::spawn(async move { client.collect(ReceiverStream::new(requests)).await });
        let sending = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                let message = CollectRequest {
                    payload: vec![7; BYTES as usize].into(),
                    ..CollectRequest::default()
                };
                if send.send(message).await.is_err() {
                    return;
                }
            }
        });
        streams.push((answer, sending));
    }
    all_wait_on_one_link(caller, "dialled").await;
    calls_go_on(&mut client).await;
    for (answer, sending) in streams {
        answer.abort();
        sending.abort();
    }
    // And nothing is left of them.
    let link = [("lane", "general"), ("side", "dialled")];
    caller
        .answers("/metrics", |answer| {
            let metrics = Metrics::parse(&answer.body);
            metrics.sum("sidelane_lane_calls_in_flight", &link) == 0.0
                && metrics.sum("sidelane_lane_streams_stalled", &link) == 0.0
        })
        .await;
}

/// Waits until every one of them waits for room, at this side of the one link that there is.
async fn all_wait_on_one_link(node: &Node, side: &str) {
    let link = [("lane", "general"), ("side", side)];
    node.answers("/metrics", |answer| {
        let metrics = Metrics::parse(&answer.body);
        let stalled = metrics.sum("sidelane_lane_streams_stalled", &link);
        stalled == f64::from(u32::try_from(STALLED).unwrap())
    })
    .await;
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_lane_connections", &link), 1.0);
}

async fn calls_go_on(client: &mut EchoClient<Channel>) {
    for size in [0, 128, 64 * 1024] {
        let request = UnaryRequest {
            payload: Bytes::from(vec![7; size]),
            ..UnaryRequest::default()
        };
        let answer = timeout(Duration::from_secs(5), client.unary(request)).await;
        let answer = answer.unwrap_or_else(|_| panic!("a call of {size} bytes waits for them"));
        assert_eq!(answer.unwrap().into_inner().payload.len(), size);
    }
}
