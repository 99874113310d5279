//! Calls by types through real sidecars: where they arrive, what the sidecar is told, and what it
//! refuses rather than send another way than the caller's rule says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prost::Message;
use sidelane::routing::{
    General, Gossip, Internal, MethodRule, RoutingFactory, define_service_routing,
};
use sidelane::sender::{
    HashKey, LocalSidecar, NetworkSenderExt, NodeId, Recipient, RpcRequest, TypedNetworkSender,
};
use sidelane_tests::admin::Answer;
use sidelane_tests::ask::until_answered;
use sidelane_tests::cluster::Node;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{
    Behaviour, ExpandRequest, OpenRequest, OpenResponse, PingRequest, PingResponse, UnaryRequest,
    UnaryResponse,
};
use sidelane_tests::{Cluster, RawUpstream, Upstream, cluster, services, unruled};
use tonic::{Code, Status};

const STRATEGIES: &str = env!("CARGO_BIN_EXE_strategies-under-test");

/// Services as a caller's build knows them; those of one name as different builds do.
macro_rules! services {
    ($($name:ident: $service:expr, $lane:ident, $secure:literal, $by:ident;)+) => {$(
        define_service_routing!(
            $name,
            service = $service,
            category = Worker,
            connection = Internal,
            swimlane = $lane,
            secure = $secure,
            persistent = false,
            load_balancing = $by,
            methods = [
                MethodRule::unary("Unary").with_timeout(LIMIT),
                MethodRule::unary("Ping"),
                MethodRule::unary("Open"),
                MethodRule::streaming("Expand", false, true),
            ],
        );

        impl RpcRequest<$name> for UnaryRequest {
            type Response = UnaryResponse;
            const METHOD: &'static str = "Unary";

            fn hash_key(&self) -> Option<HashKey> {
                HashKey::of(&self.payload)
            }
        }
    )+};
}

/// What the rules here say of `Unary`, and those of the sidecars do not.
const LIMIT: Duration = Duration::from_secs(1);

services! {
    Echo: services::ECHO, General, false, RoundRobin;
    EchoInGossip: services::ECHO, Gossip, false, RoundRobin;
    EchoSecure: services::ECHO, General, true, RoundRobin;
    EchoByKey: services::ECHO, Gossip, false, ConsistentHash;
    Beat: services::BEAT, Gossip, false, RoundRobin;
    Vault: services::VAULT, General, true, RoundRobin;
    Hashed: sidelane_tests::strategies::CONSISTENT_HASH, General, false, ConsistentHash;
    Single: sidelane_tests::strategies::NONE, General, false, None;
}

impl RpcRequest<Beat> for PingRequest {
    type Response = PingResponse;
    const METHOD: &'static str = "Ping";
}

impl RpcRequest<Vault> for OpenRequest {
    type Response = OpenResponse;
    const METHOD: &'static str = "Open";
}

async fn sender(node: &Node) -> TypedNetworkSender {
    let target = format!("http://{}", node.outbound()).parse().unwrap();
    LocalSidecar::connect_to(&target).await.unwrap().typed()
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn unary(payload: &str) -> UnaryRequest {
    UnaryRequest {
        payload: payload.to_owned().into(),
        behaviour: None,
    }
}

fn slow(by: Duration) -> UnaryRequest {
    let behaviour = Behaviour {
        delay_ms: u32::try_from(by.as_millis()).unwrap(),
        ..Behaviour::default()
    };
    UnaryRequest {
        behaviour: Some(behaviour),
        ..UnaryRequest::default()
    }
}

/// Does `/explain` know so many endpoints?
fn all_of(nodes: usize) -> impl Fn(&Answer) -> bool {
    move |answer| {
        let explained: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
        explained["candidates"].as_array().map(Vec::len) == Some(nodes)
    }
}

/// A server that answers every unary call with its name.
async fn named(name: &'static str) -> RawUpstream {
    RawUpstream::start(move |mut request: RawRequest| async move {
        request.read_all().await;
        let answer = UnaryResponse {
            node: name.to_owned(),
            ..UnaryResponse::default()
        };
        let mut body = request.answer.begin(http::StatusCode::OK, &[]);
        body.message(&answer.encode_to_vec());
        body.trailers(&[("grpc-status", "0")], None);
    })
    .await
}

#[tokio::test]
async fn a_typed_call_goes_where_its_types_and_its_caller_say() {
    let servers = [
        Upstream::named("one").start().await,
        Upstream::named("two").start().await,
    ];
    let mut mesh = cluster!().control().node("caller");
    for (name, server) in ["one", "two"].into_iter().zip(&servers) {
        mesh = mesh
            .node(name)
            .serving(services::ECHO, server)
            .serving(services::BEAT, server);
    }
    let mesh = mesh.start().await;
    let sender = sender(mesh.node("caller")).await;

    // The rule's strategy picks, or the caller names the node.
    let mut seen = BTreeSet::new();
    for number in 0..4 {
        let request = unary(&number.to_string());
        let answer = sender
            .call_rpc_with_service_routing::<_, Echo, _>(
                Recipient::Any,
                request.clone(),
                None,
                None,
            )
            .await
            .unwrap();
        assert_eq!(answer.payload, request.payload);
        seen.insert(answer.node);
        let answer = sender
            .call_rpc_with_service_routing::<_, Echo, _>(node("two"), request, None, None)
            .await
            .unwrap();
        assert_eq!(answer.node, "two");
    }
    assert_eq!(seen.len(), 2);
    let refused = sender
        .call_rpc_with_service_routing::<_, Echo, _>(node("three"), unary(""), None, None)
        .await
        .unwrap_err();
    assert_eq!(Refusal::of_status(&refused).reason, "UNKNOWN_NODE");

    // A heartbeat over a connection for heartbeats, in its lane.
    let heartbeats = sender.get_typed_connection(node("one"), RoutingFactory::internal_gossip());
    heartbeats
        .call::<_, Beat>(PingRequest::default(), None, None)
        .await
        .unwrap();
    let metrics = mesh.node("caller").metrics().await;
    let in_lane = |lane| metrics.sum("sidelane_requests_total", &[("lane", lane)]);
    assert_eq!((in_lane("gossip"), in_lane("general")), (1.0, 9.0));
    // One that was made to see who is there, one for each of three recipients of Echo, one for
    // heartbeats to one node: no two share a connection.
    assert_eq!(sender.pooled(), 4);
    assert_eq!(metrics.sum("sidelane_connections_total", &[]), 5.0);
}

#[tokio::test]
async fn a_generated_client_is_bound_to_the_rule_of_its_service() {
    let server = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &server)
        .start()
        .await;
    let sender = sender(mesh.node("caller")).await;
    let mut echo = EchoClient::new(sender.bind::<Echo>(None));
    let answer = echo.unary(unary("a")).await.unwrap().into_inner();
    assert_eq!(
        (answer.node.as_str(), &*answer.payload),
        ("echo", &b"a"[..])
    );
    let request = ExpandRequest {
        messages: 3,
        bytes: 10,
        behaviour: None,
    };
    let mut stream = echo.expand(request).await.unwrap().into_inner();
    let mut messages = 0;
    while stream.message().await.unwrap().is_some() {
        messages += 1;
    }
    assert_eq!(messages, 3);
    // Another service's client over it is refused before anything is sent.
    let mut astray = EchoClient::new(sender.bind::<Beat>(None));
    let refused = astray.unary(unary("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let calls = mesh.node("caller").metrics().await;
    assert_eq!(calls.sum("sidelane_requests_total", &[]), 2.0);
}

#[tokio::test]
async fn time_limits_end_calls_with_the_status_that_says_so() {
    let server = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &server)
        .start()
        .await;
    let sender = sender(mesh.node("caller")).await;
    let asked = Instant::now();
    let refused = sender
        .call_rpc_with_service_routing::<_, Echo, UnaryResponse>(
            None,
            slow(Duration::from_secs(5)),
            None,
            Some(Duration::from_millis(200)),
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    // The sidecar's own rule says 5 s, and it is the sidecar's to tune.
    let late = slow(LIMIT * 2);
    sender
        .call_rpc_with_service_routing::<_, Echo, UnaryResponse>(None, late, None, None)
        .await
        .unwrap();
}

/// The reason of a refusal before delivery, and its text.
fn reason<T: std::fmt::Debug>(refused: Result<T, Status>) -> (String, String) {
    let refusal = Refusal::of_status(&refused.unwrap_err());
    assert_eq!(refusal.processed, "no");
    (refusal.reason, refusal.text)
}

#[tokio::test]
async fn what_the_sidecar_would_send_another_way_is_refused() {
    let server = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &server)
        .serving(services::VAULT, &server)
        .start()
        .await;
    let sender = sender(mesh.node("caller")).await;
    let secure = sender
        .call_rpc_with_service_routing::<_, Vault, OpenResponse>(
            None,
            OpenRequest::default(),
            None,
            None,
        )
        .await;
    assert_eq!(reason(secure).0, "NOT_SECURE");
    // Builds that have the service in another lane than the sidecar's, and that want it secure.
    let elsewhere = sender
        .call_rpc_with_service_routing::<_, EchoInGossip, UnaryResponse>(
            None,
            unary(""),
            None,
            None,
        )
        .await;
    let (refused, text) = reason(elsewhere);
    assert_eq!(refused, "RULES_MISMATCH");
    assert!(
        text.contains("gossip") && text.contains("general"),
        "{text}"
    );
    let secure = sender
        .call_rpc_with_service_routing::<_, EchoSecure, UnaryResponse>(None, unary(""), None, None)
        .await;
    assert_eq!(reason(secure).0, "RULES_MISMATCH");
    let metrics = mesh.node("caller").metrics().await;
    assert_eq!(metrics.sum("sidelane_attempts_total", &[]), 0.0);
    // One that agrees is not held up by them.
    sender
        .call_rpc_with_service_routing::<_, Echo, UnaryResponse>(None, unary(""), None, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_sidecar_without_a_rule_obeys_its_callers() {
    const NODES: [&str; 3] = ["one", "two", "three"];
    let mut servers = Vec::new();
    for name in NODES {
        servers.push(Upstream::named(name).start().await);
    }
    let mut mesh = cluster!().control().node("caller").running(unruled!());
    for (name, server) in NODES.into_iter().zip(&servers) {
        mesh = mesh
            .node(name)
            .running(unruled!())
            .serving(services::ECHO, server);
    }
    let mesh = mesh.each_ready().await;
    let caller = mesh.node("caller");
    let question = format!("/explain?path=/{}/Unary", services::ECHO);
    // A service without a rule is looked for once somebody calls it.
    until_answered(caller).await;
    caller.answers(&question, all_of(NODES.len())).await;

    let sender = sender(caller).await;
    let mut seen = BTreeSet::new();
    for key in 0..30 {
        let call = async || {
            let answer = sender
                .call_rpc_with_service_routing::<_, EchoByKey, UnaryResponse>(
                    None,
                    unary(""),
                    Some(key),
                    None,
                )
                .await
                .unwrap();
            // In the caller's lane, and not in that of the default rule.
            let lane = "sidelane-lane: gossip".to_owned();
            assert!(answer.metadata.contains(&lane), "{answer:?}");
            answer.node
        };
        let first = call().await;
        assert_eq!(call().await, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    // The caller's rule has a time limit for the method, the default rule has none.
    let asked = Instant::now();
    let late = sender
        .call_rpc_with_service_routing::<_, EchoByKey, UnaryResponse>(
            None,
            slow(Duration::from_secs(5)),
            None,
            None,
        )
        .await
        .unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    assert!(asked.elapsed() < Duration::from_secs(2));
    let secure = sender
        .call_rpc_with_service_routing::<_, EchoSecure, UnaryResponse>(None, unary(""), None, None)
        .await;
    assert_eq!(reason(secure).0, "NOT_SECURE");
}

#[tokio::test]
async fn keys_keep_calls_together_and_one_endpoint_must_be_named() {
    const NODES: [&str; 3] = ["one", "two", "three"];
    let mut mesh = Cluster::of(STRATEGIES).control().node("caller");
    let mut servers = Vec::new();
    for name in NODES {
        servers.push(named(name).await);
    }
    for (name, server) in NODES.into_iter().zip(&servers) {
        mesh = mesh.node(name);
        for service in [
            sidelane_tests::strategies::CONSISTENT_HASH,
            sidelane_tests::strategies::NONE,
        ] {
            mesh = mesh.serving(service, server);
        }
    }
    let mesh = mesh.start().await;
    let sender = sender(mesh.node("caller")).await;
    for service in [
        sidelane_tests::strategies::CONSISTENT_HASH,
        sidelane_tests::strategies::NONE,
    ] {
        let question = format!("/explain?path=/{service}/Unary");
        let caller = mesh.node("caller");
        caller.answers(&question, all_of(NODES.len())).await;
    }

    let whom = async |request: UnaryRequest, key: Option<u64>| {
        sender
            .call_rpc_with_service_routing::<_, Hashed, _>(None, request, key, None)
            .await
            .unwrap()
            .node
    };
    let mut seen = BTreeSet::new();
    for key in 0..30 {
        // A sort key, and the same text as the request's own.
        let first = whom(unary("x"), Some(key)).await;
        assert_eq!(whom(unary("y"), Some(key)).await, first);
        assert_eq!(whom(unary(&key.to_string()), None).await, first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");

    let refused = sender
        .call_rpc_with_service_routing::<_, Single, UnaryResponse>(None, unary(""), None, None)
        .await
        .unwrap_err();
    assert_eq!(Refusal::of_status(&refused).processed, "no", "{refused:?}");
    let answer = sender
        .call_rpc_with_service_routing::<_, Single, UnaryResponse>(
            node("two"),
            unary(""),
            None,
            None,
        )
        .await
        .unwrap();
    assert_eq!(answer.node, "two");
}
