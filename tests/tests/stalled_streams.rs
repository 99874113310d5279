//! Streams whose answers nobody reads: their windows are full, and calls beside them on the same
//! connections go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::Duration;

use bytes::Bytes;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{ExpandRequest, UnaryRequest};
use sidelane_tests::{Upstream, cluster, services};
use tokio::time::timeout;
use tonic::transport::Endpoint;

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
    let caller = mesh.node("caller");
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
    for size in [0, 128, 64 * 1024] {
        let request = UnaryRequest {
            payload: Bytes::from(vec![7; size]),
            ..UnaryRequest::default()
        };
        let answer = timeout(Duration::from_secs(5), client.unary(request)).await;
        let answer = answer.unwrap_or_else(|_| panic!("a call of {size} bytes waits for them"));
        assert_eq!(answer.unwrap().into_inner().payload.len(), size);
    }
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
