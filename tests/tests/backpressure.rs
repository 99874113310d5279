//! A stream of 1 GiB into a reader that is slower than the writer: what does not fit into the
//! windows waits at the writer, and never in a sidecar.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use sidelane_tests::cluster::{Cluster, Node};
use sidelane_tests::upstream::MESSAGE_LIMIT;
use sidelane_tests::wire::v1::bulk_client::BulkClient;
use sidelane_tests::wire::v1::{PullRequest, PushRequest};
use sidelane_tests::{Upstream, cluster, services};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tonic::transport::Channel;

const MIB: u64 = 1024 * 1024;
const MESSAGES: u32 = 1024;
const STREAM: u64 = MIB * MESSAGES as u64;
/// What a sidecar may grow by, over what it holds when idle.
const ALLOWED: u64 = 32 * MIB;
/// At first the reader does nothing, so that every buffer on the way fills up.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Then it takes 1 MiB in no less than this time, which is far slower than the way to it.
const PER_MESSAGE: Duration = Duration::from_millis(8);
const SAMPLE_EVERY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(120);

/// Memory is measured, so only one test of this file runs at a time.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_slow_reader_of_a_server_stream_fills_no_sidecar() {
    let _turn = TURN.lock().await;
    let upstream = Upstream::named("bulk").start().await;
    let mesh = two_sidecars(&upstream).await;
    let mut bulk = warm_client(&mesh).await;
    let reading = async {
        let request = PullRequest {
            messages: MESSAGES,
            bytes: u32::try_from(MIB).unwrap(),
        };
        let mut answers = bulk.pull(request).await.unwrap().into_inner();
        tokio::time::sleep(STANDSTILL).await;
        let mut received = 0;
        let mut next = Instant::now();
        while let Some(answer) = answers.message().await.unwrap() {
            received += answer.payload.len() as u64;
            next += PER_MESSAGE;
            tokio::time::sleep_until(next.into()).await;
        }
        received
    };
    assert_eq!(measured(&mesh, reading).await, STREAM);
}

#[tokio::test]
async fn a_slow_reader_of_a_client_stream_fills_no_sidecar() {
    let _turn = TURN.lock().await;
    let upstream = Upstream::named("bulk").start().await;
    let mesh = two_sidecars(&upstream).await;
    let mut bulk = warm_client(&mesh).await;
    let payload = Bytes::from(vec![0; usize::try_from(MIB).unwrap()]);
    let messages = (0..MESSAGES).map(move |index| {
        let pause = if index == 0 { STANDSTILL } else { PER_MESSAGE };
        PushRequest {
            payload: payload.clone(),
            pause_ms: u32::try_from(pause.as_millis()).unwrap(),
        }
    });
    let writing = async {
        bulk.push(stream::iter(messages))
            .await
            .unwrap()
            .into_inner()
            .bytes
    };
    assert_eq!(measured(&mesh, writing).await, STREAM);
}

async fn two_sidecars(bulk: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::BULK, bulk)
        .start()
        .await
}

/// Its first call has opened the link, whose own memory is no part of a stream.
async fn warm_client(mesh: &Cluster) -> BulkClient<Channel> {
    let mut bulk = BulkClient::new(mesh.node("caller").channel().await)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let request = PullRequest {
        messages: 1,
        bytes: 1,
    };
    let mut answers = bulk.pull(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    bulk
}

/// Runs a transfer and watches the memory of both sidecars meanwhile.
async fn measured(mesh: &Cluster, transfer: impl Future<Output = u64>) -> u64 {
    let nodes = [mesh.node("caller"), mesh.node("callee")];
    let idle = nodes.map(|node| node.resident_memory());
    let (over, running) = watch::channel(());
    let start = Instant::now();
    let moving = async {
        let moved = timeout(LIMIT, transfer).await;
        drop(over);
        moved.unwrap_or_else(|_| panic!("1 GiB was not through after {LIMIT:?}"))
    };
    let (moved, peaks) = tokio::join!(moving, peaks(nodes, running));
    for ((node, idle), peak) in nodes.iter().zip(idle).zip(peaks) {
        let grown = peak.saturating_sub(idle);
        println!(
            "{}: idle {} KiB, at most {} KiB more, {:?}",
            node.name(),
            idle / 1024,
            grown / 1024,
            start.elapsed()
        );
        assert!(
            grown <= ALLOWED,
            "{} grew by {} KiB over its idle {} KiB; allowed are {} KiB",
            node.name(),
            grown / 1024,
            idle / 1024,
            ALLOWED / 1024
        );
    }
    moved
}

async fn peaks(nodes: [&Node; 2], mut running: watch::Receiver<()>) -> [u64; 2] {
    let mut peaks = [0; 2];
    loop {
        for (peak, node) in peaks.iter_mut().zip(nodes) {
            *peak = node.resident_memory().max(*peak);
        }
        // The other end is dropped when the transfer is over.
        if timeout(SAMPLE_EVERY, running.changed()).await.is_ok() {
            return peaks;
        }
    }
}
