//! What a lane holds at most, by going past it: the call too many is refused at once and told when
//! to come again, and the other lanes to the same peer notice nothing. The figures of each lane say
//! so meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream;
use sidelane_tests::admin::Metrics;
use sidelane_tests::ask::ask_over;
use sidelane_tests::client::{RawAnswer, RawCall, RawClient, framed, mesh_reason};
use sidelane_tests::cluster::Node;
use sidelane_tests::fake_control::{FakeControl, endpoint, full, state};
use sidelane_tests::fake_peer::FakePeer;
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::upstream::MESSAGE_LIMIT;
use sidelane_tests::wire::v1::bulk_client::BulkClient;
use sidelane_tests::wire::v1::{PullRequest, PushRequest};
use sidelane_tests::{RawUpstream, Upstream, cluster, services};
use tokio::sync::watch;
use tonic::Code;

const ECHO: &str = "/sidelane.test.v1.Echo/Unary";
const BEAT: &str = "/sidelane.test.v1.Beat/Ping";
const BULK: &str = "/sidelane.test.v1.Bulk/Pull";
const FRONT: &str = "/sidelane.test.v1.Front/Visit";
/// Longer than the test, so that no call ends before it is let go.
const LONG: (&str, &str) = ("grpc-timeout", "60S");
const MIB: u32 = 1024 * 1024;

/// What `/config` says of a bound of lane gossip.
async fn bound(node: &Node, name: &str) -> usize {
    bound_of(node, "gossip", name).await
}

/// The same of any lane.
async fn bound_of(node: &Node, lane: &str, name: &str) -> usize {
    let config = node.config().await;
    let lanes = config["lanes"].as_array().unwrap();
    let lane = lanes.iter().find(|it| it["lane"] == lane).unwrap();
    usize::try_from(lane[name].as_u64().unwrap()).unwrap()
}

/// Begins so many calls, and leaves them open.
async fn begun(client: &RawClient, path: &str, count: usize) -> Vec<RawCall> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let mut call = client.begin(path, &[LONG]).await.unwrap();
        call.request.send_data(framed(&[]), true).unwrap();
        calls.push(call);
    }
    calls
}

fn figure(metrics: &Metrics, name: &str, lane: &str, side: &str) -> f64 {
    let labels = [("connection", "Internal"), ("lane", lane), ("side", side)];
    metrics.sum(&format!("sidelane_lane_{name}"), &labels)
}

/// Waits until a figure of a lane is as wanted.
async fn until(node: &Node, (name, lane, side): (&str, &str, &str), wanted: impl Fn(f64) -> bool) {
    let wanted = |metrics: &Metrics| wanted(figure(metrics, name, lane, side));
    node.answers("/metrics", |answer| wanted(&Metrics::parse(&answer.body)))
        .await;
}

fn assert_full(answer: &RawAnswer) {
    assert_full_lane(answer, "gossip");
}

fn assert_full_lane(answer: &RawAnswer, lane: &str) {
    let status = answer.grpc_status().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(mesh_reason(&status).as_deref(), Some("LANE_FULL"));
    assert_eq!(answer.headers["sidelane-error"], "LANE_FULL");
    let pushback = answer.headers["grpc-retry-pushback-ms"].to_str().unwrap();
    assert!(pushback.parse::<u32>().unwrap() > 0);
    let named = format!("lane {lane}");
    assert!(status.message().contains(&named), "{status:?}");
}

/// A server that answers nothing until its gate is opened, and then everything.
async fn gated() -> (watch::Sender<bool>, RawUpstream) {
    let (open, gate) = watch::channel(false);
    let server = RawUpstream::start(move |request| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            let mut body = request.answer.begin(http::StatusCode::OK, &[]);
            body.message(&[]);
            body.trailers(&[("grpc-status", "0")], None);
        }
    });
    (open, server.await)
}

/// How long calls of lane gossip take.
#[derive(Debug, Clone, Copy)]
struct Took {
    p50: Duration,
    p99: Duration,
}

impl Took {
    /// Within what lanes promise of an idle mesh. Below a millisecond the machine is what is measured.
    fn is_as(self, idle: Self) -> bool {
        let least = Duration::from_millis(1);
        self.p50 <= 2 * idle.p50.max(least) && self.p99 <= 6 * idle.p99.max(least)
    }
}

/// A hundred of them, none of which may fail.
async fn beats(client: &RawClient) -> Took {
    let mut took = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        let answer = ask_over(client, BEAT, &[]).await;
        took.push(start.elapsed());
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    took.sort();
    Took {
        p50: took[50],
        p99: took[98],
    }
}

#[tokio::test]
async fn a_lane_without_a_seat_refuses_and_the_others_go_on() {
    let (open, beat) = gated().await;
    let others = Upstream::named("others").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::BEAT, &beat)
        .serving(services::ECHO, &others)
        .serving(services::BULK, &others)
        .serving(services::FRONT, &others)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let room = bound(caller, "max_streams").await * bound(caller, "max_connections").await;
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let all = room as f64;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let in_flight = "calls_in_flight";
    // One opens the link: while it is dialled, fewer may wait than have room on it.
    let mut calls = begun(&client, BEAT, 1).await;
    until(caller, (in_flight, "gossip", "dialled"), |it| it == 1.0).await;
    calls.extend(begun(&client, BEAT, room - 1).await);
    until(caller, (in_flight, "gossip", "dialled"), |it| it == all).await;
    until(callee, (in_flight, "gossip", "accepted"), |it| it == all).await;

    let mut before = 0.0;
    for _ in 0..3 {
        assert_full(&ask_over(&client, BEAT, &[]).await);
        for path in [ECHO, BULK, FRONT] {
            let answer = ask_over(&client, path, &[]).await;
            assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{path}");
        }
        let metrics = caller.metrics().await;
        let refused = figure(&metrics, "full_total", "gossip", "dialled");
        assert!(refused > before, "{refused}");
        before = refused;
        for (lane, used) in [("gossip", all), ("general", 0.0), ("bifrost_data", 0.0)] {
            assert_eq!(figure(&metrics, in_flight, lane, "dialled"), used, "{lane}");
            assert_eq!(figure(&metrics, "connections", lane, "dialled"), 1.0);
        }
        let class = [("connection", "External"), ("lane", "ingress_data")];
        assert_eq!(metrics.sum("sidelane_lane_connections", &class), 1.0);
    }

    open.send_replace(true);
    for call in calls {
        let answer = call.answer().await.unwrap();
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
    until(caller, (in_flight, "gossip", "dialled"), |it| it == 0.0).await;
    until(callee, (in_flight, "gossip", "accepted"), |it| it == 0.0).await;
    let answer = ask_over(&client, BEAT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn bulk_without_room_waits_in_a_short_line_and_the_others_go_on() {
    let (open, bulk) = gated().await;
    let others = Upstream::named("others").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::BULK, &bulk)
        .serving(services::ECHO, &others)
        .serving(services::BEAT, &others)
        .start()
        .await;
    let caller = mesh.node("caller");
    let of_lane = |name| bound_of(caller, "bifrost_data", name);
    let room = of_lane("max_streams").await * of_lane("max_connections").await;
    let (queue, wait) = (of_lane("queue").await, of_lane("longest_wait_ms").await);
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let all = room as f64;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    // The first dials the link.
    beats(&client).await;
    let idle = beats(&client).await;
    // One opens the first link: while it is dialled, fewer may wait than have room.
    let mut calls = begun(&client, BULK, 1).await;
    let in_flight = ("calls_in_flight", "bifrost_data", "dialled");
    until(caller, in_flight, |it| it == 1.0).await;
    calls.extend(begun(&client, BULK, room - 1).await);
    until(caller, in_flight, |it| it == all).await;

    let plan = Plan {
        rate: 200,
        longest_ms: 5,
    };
    let load = Load::start(caller.outbound(), plan).await;
    // Who names the node waits as who may go nowhere else.
    let named = Instant::now();
    let answer = ask_over(&client, BULK, &[("sidelane-node", "callee")]).await;
    assert_full_lane(&answer, "bifrost_data");
    let longest = Duration::from_millis(wait.try_into().unwrap());
    assert!(named.elapsed() >= longest, "{:?}", named.elapsed());
    let more = || {
        (0..2 * queue).map(|_| async {
            let start = Instant::now();
            assert_full_lane(&ask_over(&client, BULK, &[]).await, "bifrost_data");
            start.elapsed()
        })
    };
    let mut times = 0;
    // Once more where the machine was busy just then, and with others who wait.
    let refused = loop {
        times += 1;
        let (full, refused) = tokio::join!(beats(&client), join_all(more()));
        println!("gossip beside a full lane: {full:?}, idle: {idle:?}");
        if full.is_as(idle) {
            break refused;
        }
        assert!(times < 4, "{full:?}, idle: {idle:?}");
    };
    // Some waited as long as they may; that no more do than fit into the line is the pool's test.
    let waited = refused.iter().filter(|it| **it >= longest).count();
    assert!(waited >= 1, "{refused:?}");
    let report = load.stop().await;
    let failed: Vec<_> = report
        .calls
        .iter()
        .filter(|it| it.result.is_err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let metrics = caller.metrics().await;
    let waiting = figure(&metrics, "calls_waiting", "bifrost_data", "dialled");
    assert_eq!(waiting, 0.0);
    #[allow(clippy::cast_precision_loss, reason = "a few dozen")]
    let expected = 1.0 + f64::from(times) * 2.0 * queue as f64;
    let full = figure(&metrics, "full_total", "bifrost_data", "dialled");
    assert_eq!(full, expected);

    // What is given back is for whoever comes next.
    open.send_replace(true);
    for call in calls {
        let answer = call.answer().await.unwrap();
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
    let answer = ask_over(&client, BULK, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn those_who_wait_for_a_link_have_a_bound_and_the_other_lanes_do_not_wait() {
    // It takes links and never answers their Hello: the dial stays under way for seconds.
    let silent = RawUpstream::connections(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let peer = FakePeer::welcoming().await;
    let (_control, mesh, mut session) = FakeControl::of(cluster!().node("caller")).await;
    let known = vec![
        state(vec![endpoint(
            services::BEAT,
            "silent",
            7,
            silent.address(),
        )]),
        state(vec![endpoint(services::ECHO, "peer", 7, peer.address())]),
    ];
    session.update(full(1, known)).await.unwrap();
    let caller = mesh.node("caller");
    caller.ready().await;
    let room = bound(caller, "max_waiting").await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let waiting = begun(&client, BEAT, room).await;
    #[allow(clippy::cast_precision_loss, reason = "a few dozen")]
    let all = room as f64;
    until(caller, ("calls_waiting", "gossip", "dialled"), |it| {
        it == all
    })
    .await;
    assert_full(&ask_over(&client, BEAT, &[]).await);
    let answer = ask_over(&client, ECHO, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    for call in waiting {
        let status = call.answer().await.unwrap().grpc_status().unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(mesh_reason(&status).as_deref(), Some("CONNECT_FAILED"));
    }
    until(caller, ("calls_waiting", "gossip", "dialled"), |it| {
        it == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_room_is_seen_where_it_waits_and_bytes_are_counted() {
    let upstream = Upstream::named("bulk").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::BULK, &upstream)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let mut bulk = BulkClient::new(caller.channel().await)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let stalled = |side| ("streams_stalled", "bifrost_data", side);

    // Nobody reads: what the windows hold comes, and the rest waits at the callee's sidecar.
    let request = PullRequest {
        messages: 64,
        bytes: MIB,
    };
    let mut answers = bulk.pull(request).await.unwrap().into_inner();
    until(callee, stalled("accepted"), |it| it == 1.0).await;
    while answers.message().await.unwrap().is_some() {}
    until(callee, stalled("accepted"), |it| it == 0.0).await;
    let whole = f64::from(64 * MIB);
    for (node, direction, side) in [
        (callee, "sent", "accepted"),
        (caller, "received", "dialled"),
    ] {
        let metrics = node.metrics().await;
        let labels = [
            ("lane", "bifrost_data"),
            ("side", side),
            ("direction", direction),
        ];
        let bytes = metrics.sum("sidelane_lane_bytes_total", &labels);
        assert!(
            (whole..whole * 1.01).contains(&bytes),
            "{direction}: {bytes}"
        );
    }
    assert!(
        figure(
            &callee.metrics().await,
            "stalls_total",
            "bifrost_data",
            "accepted"
        ) >= 1.0
    );
    assert_eq!(
        figure(
            &caller.metrics().await,
            "stalls_total",
            "bifrost_data",
            "dialled"
        ),
        0.0
    );

    // The other way round: the app takes its time before it reads on.
    let pause = Duration::from_secs(2);
    let messages = (0..64).map(move |index| PushRequest {
        payload: vec![0; MIB as usize].into(),
        pause_ms: if index == 0 {
            pause.as_millis().try_into().unwrap()
        } else {
            0
        },
    });
    let pushing = tokio::spawn(async move { bulk.push(stream::iter(messages)).await });
    until(caller, stalled("dialled"), |it| it == 1.0).await;
    let pushed = pushing.await.unwrap().unwrap().into_inner().bytes;
    assert_eq!(pushed, u64::from(64 * MIB));
    until(caller, stalled("dialled"), |it| it == 0.0).await;
}
