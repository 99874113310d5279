//! Nodes that cannot be meant: named and unknown, named and gone, not named where one must be,
//! compiled with another rule; and two processes that want to be one node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use sidelane_proto::wire::control::v1::membership_client::MembershipClient;
use sidelane_proto::wire::control::v1::sync_request::Message as Said;
use sidelane_proto::wire::control::v1::sync_response::Message as Heard;
use sidelane_proto::wire::control::v1::{
    Endpoint, Health, Hello, Refusal as Refused, SyncRequest, Update, VersionRange,
};
use sidelane_proto::wire::routing::v1::{Connection, LoadBalancing, Rule};
use sidelane_tests::ask::{ECHO_UNARY, ask, until_answered};
use sidelane_tests::fake_control::{FakeControl, Session, endpoint, full, state, upserts};
use sidelane_tests::fake_peer::FakePeer;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::{Cluster, Upstream, client, cluster, services};
use tonic::Code;

/// How long a sidecar that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Asks for one node by name, and gives the refusal.
async fn refused(mesh: &Cluster, node: &str) -> Refusal {
    let named = [("sidelane-node", node)];
    Refusal::of(&ask(mesh.node("caller"), ECHO_UNARY, &named).await)
}

#[tokio::test]
async fn a_named_node_is_that_node_or_a_refusal() {
    let one = Upstream::named("one").start().await;
    let two = Upstream::named("two").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("one")
        .serving(services::ECHO, &one)
        .node("two")
        .serving(services::ECHO, &two)
        .start()
        .await;
    assert!(["one", "two"].contains(&&*until_answered(mesh.node("caller")).await));

    let text = |node: &str| {
        format!("sidelane.test.v1.Echo: node `{node}` does not offer the service; known: ")
    };
    for node in ["three", "caller"] {
        let refusal = refused(&mesh, node).await;
        let known = refusal.text.strip_prefix(&*text(node));
        let mut known: Vec<&str> = known.unwrap_or(&refusal.text).split(", ").collect();
        known.sort_unstable();
        assert_eq!(known, ["one", "two"]);
        let expected = Refusal::new("UNKNOWN_NODE", Code::NotFound, refusal.text.clone());
        assert_eq!(refusal, expected);
    }

    let generation = mesh.node("two").config().await["generation"].clone();
    mesh.node("two").stop(END_LIMIT).await;
    mesh.node("caller")
        .answers("/config", |answer| {
            let config: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let services = config["services"].as_array().unwrap();
            let echo = services
                .iter()
                .find(|service| service["service"] == services::ECHO);
            echo.is_some_and(|echo| echo["endpoints"] == 1)
        })
        .await;
    let text = format!(
        "sidelane.test.v1.Echo: node `two` (generation {generation}) is gone: control's newest \
         whole state does not name it; name another, or none"
    );
    let expected = Refusal::new("NODE_GONE", Code::Unavailable, text);
    assert_eq!(refused(&mesh, "two").await, expected);
}

/// A caller that knows what this control plane says, and nothing else.
async fn caller(news: Update) -> (Cluster, FakeControl, Session) {
    let (control, mesh, mut session) = FakeControl::of(cluster!().node("caller")).await;
    session.update(news).await.unwrap();
    mesh.node("caller").ready().await;
    (mesh, control, session)
}

/// An endpoint that was compiled with this rule.
fn ruled(node: &str, address: SocketAddr, rule: &Rule) -> Endpoint {
    Endpoint {
        rule: Some(rule.clone()),
        ..endpoint(&rule.service, node, 7, address)
    }
}

fn internal(service: &str) -> Rule {
    Rule {
        service: service.to_owned(),
        connection: Connection::Internal.into(),
        lane: "general".to_owned(),
        origin: "peer.proto:12".to_owned(),
        ..Rule::default()
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

#[tokio::test]
async fn where_one_endpoint_is_meant_the_call_must_name_it() {
    let peer = FakePeer::welcoming().await;
    let single = Rule {
        load_balancing: LoadBalancing::None.into(),
        ..internal("log.v1.Log")
    };
    let offered = vec![
        ruled("log-1", peer.address(), &single),
        ruled("log-2", nowhere(), &single),
    ];
    let (mesh, _control, mut session) = caller(full(1, Vec::new())).await;
    let node = mesh.node("caller");
    // A service without a rule of its own is asked for on first use, and waited for.
    let telling = async {
        let asked = loop {
            if let Said::Subscribe(asked) = session.next().await {
                break asked.services;
            }
        };
        assert_eq!(asked, ["log.v1.Log"]);
        let told = Update {
            services: vec![state(offered)],
            ..upserts(2, Vec::new())
        };
        session.update(told).await.unwrap();
    };
    let read = "/log.v1.Log/Read";
    let (answer, ()) = tokio::join!(ask(node, read, &[]), telling);
    let text = "log.v1.Log: 2 endpoints and strategy NONE: the call must name its node in \
                `sidelane-node`, such as log-1, log-2";
    let expected = Refusal::new("UNKNOWN_NODE", Code::NotFound, text);
    assert_eq!(Refusal::of(&answer), expected);

    let answer = ask(node, read, &[("sidelane-node", "log-1")]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    let links = peer.links();
    assert_eq!(links[0].hellos[0].expected_node_id, "log-1");
    assert_eq!(links[0].calls[0].0, read);
}

#[tokio::test]
async fn endpoints_that_were_compiled_with_another_rule_are_not_called() {
    let peer = FakePeer::welcoming().await;
    let other = Rule {
        lane_id: 1,
        lane: "gossip".to_owned(),
        ..internal(services::ECHO)
    };
    let news = full(1, vec![state(vec![ruled("old", peer.address(), &other)])]);
    let (mesh, _control, _session) = caller(news).await;
    let text = "sidelane.test.v1.Echo: the only endpoint in question was compiled with another \
                rule, such as `old` with class Internal, lane `gossip`, not secure \
                (peer.proto:12), here it is class Internal, lane `general`, not secure; build \
                both sides from the same .proto";
    let expected = Refusal::new("RULES_MISMATCH", Code::FailedPrecondition, text);
    let answer = ask(mesh.node("caller"), ECHO_UNARY, &[]).await;
    assert_eq!(Refusal::of(&answer), expected);
    // Nor by name.
    assert_eq!(refused(&mesh, "old").await, expected);
    assert!(peer.links().is_empty());
}

#[tokio::test]
async fn endpoints_without_an_address_or_in_no_health_are_told() {
    let mut unreachable = endpoint(services::FRONT, "front", 7, nowhere());
    unreachable.addresses = None;
    let mut sick = endpoint(services::ECHO, "sick", 7, nowhere());
    sick.health = Health::Unhealthy.into();
    let mut leaving = endpoint(services::ECHO, "leaving", 7, nowhere());
    leaving.health = Health::Draining.into();
    let news = full(
        1,
        vec![state(vec![unreachable]), state(vec![sick, leaving])],
    );
    let (mesh, _control, _session) = caller(news).await;
    let node = mesh.node("caller");

    let text = "sidelane.test.v1.Front: the only endpoint in question was without an address of \
                class External; start the sidecar there with `--external`";
    let expected = Refusal::new("NO_ENDPOINT", Code::Unavailable, text);
    let answer = ask(node, "/sidelane.test.v1.Front/Visit", &[]).await;
    assert_eq!(Refusal::of(&answer), expected);

    let text = "sidelane.test.v1.Echo: no endpoint takes new calls (1 draining, 1 unhealthy); see \
                `sidelane nodes`";
    let expected = Refusal::new("NO_ENDPOINT", Code::Unavailable, text);
    assert_eq!(Refusal::of(&ask(node, ECHO_UNARY, &[]).await), expected);

    let text = "sidelane.test.v1.Echo: node `sick` takes no new calls (1 unhealthy); wait for it, \
                or leave the node unnamed";
    let expected = Refusal::new("NO_ENDPOINT", Code::Unavailable, text);
    assert_eq!(refused(&mesh, "sick").await, expected);

    let text = "sidelane.test.v1.Echo: node `leaving` (generation 7) is gone: it is draining and \
                takes no new calls; name another, or none";
    let expected = Refusal::new("NODE_GONE", Code::Unavailable, text);
    assert_eq!(refused(&mesh, "leaving").await, expected);
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_is_told_as_not_processed() {
    let gone = SocketAddr::from(([127, 0, 0, 1], sidelane_tests::ports::free_port()));
    let news = full(
        1,
        vec![state(vec![endpoint(services::ECHO, "gone", 7, gone)])],
    );
    let (mesh, _control, _session) = caller(news).await;
    let text = format!(
        "sidelane.test.v1.Echo on gone (Internal, lane general): {gone} does not answer: \
         Connection refused (os error 111)"
    );
    let expected = Refusal::new("CONNECT_FAILED", Code::Unavailable, text);
    let mut refusal = Refusal::of(&ask(mesh.node("caller"), ECHO_UNARY, &[]).await);
    // A dial that failed just now is not made again at once.
    let end = refusal.text.find(" (next dial in ");
    refusal.text.truncate(end.unwrap_or(usize::MAX));
    assert_eq!(refusal, expected);
}

#[tokio::test]
async fn a_newer_process_of_a_node_replaces_the_older_one() {
    let first = Upstream::named("first").start().await;
    let second = Upstream::named("second").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("twin")
        .serving(services::ECHO, &first)
        .start()
        .await;
    assert_eq!(until_answered(mesh.node("caller")).await, "first");

    let control = mesh.control().listen().to_string();
    let newer = cluster!()
        .node("twin")
        .with("--control", &control)
        .serving(services::ECHO, &second)
        .start()
        .await;
    let generation = newer.node("twin").config().await["generation"].clone();
    let told = format!(
        "outbound: ready\ninbound: not ready: NODE_REPLACED: generation {generation} of node \
         `default/twin` is alive; this process has been replaced and must not come back\n"
    );
    let answer = mesh
        .node("twin")
        .answers("/readyz", |answer| answer.status == 503)
        .await;
    assert_eq!(answer.body, told);
    assert_eq!(until_answered(mesh.node("caller")).await, "second");

    // Nothing is left of the older one: calls that name the node come to the newer one.
    let named = [("sidelane-node", "twin")];
    let answer = ask(mesh.node("caller"), ECHO_UNARY, &named).await;
    let seen: sidelane_tests::wire::v1::UnaryResponse = answer.message().unwrap();
    assert_eq!(seen.node, "second");
    // Its end, which it says late, takes nothing away.
    mesh.node("twin").stop(END_LIMIT).await;
    assert_eq!(until_answered(mesh.node("caller")).await, "second");
    newer.node("twin").ready().await;
}

#[tokio::test]
async fn a_process_whose_clock_is_behind_raises_its_generation_once() {
    let folder = tempfile::tempdir().unwrap();
    let ahead = folder.path().join("ahead");
    std::fs::create_dir(&ahead).unwrap();
    std::fs::write(ahead.join("generation"), "9000000000000").unwrap();
    let mesh = cluster!()
        .control()
        .node("twin")
        .with("--data", &ahead.display().to_string())
        .start()
        .await;
    let first = mesh.node("twin").config().await["generation"].as_u64();
    assert_eq!(first, Some(9_000_000_000_001));

    let control = mesh.control().listen().to_string();
    let newer = cluster!()
        .node("twin")
        .with("--control", &control)
        .start()
        .await;
    let second = newer.node("twin").config().await["generation"].as_u64();
    assert_eq!(second, Some(9_000_000_000_002));
    let answer = mesh
        .node("twin")
        .answers("/readyz", |answer| answer.status == 503)
        .await;
    assert!(answer.body.contains("NODE_REPLACED"), "{answer:?}");
    // It is kept, so that the next start needs no raise.
    let kept = std::fs::read_to_string(newer.folder().join("twin.data/generation"));
    assert_eq!(kept.unwrap(), "9000000000002");
}

/// What the control plane says to this Hello.
async fn hello(control: SocketAddr, hello: Hello) -> Heard {
    let channel = client::channel(control).await.unwrap();
    let message = Some(Said::Hello(hello));
    let requests = tokio_stream::iter([SyncRequest { message }]);
    let answer = MembershipClient::new(channel).sync(requests).await.unwrap();
    let first = answer.into_inner().message().await.unwrap();
    first.and_then(|response| response.message).unwrap()
}

#[tokio::test]
async fn a_node_id_that_another_identity_holds_cannot_be_had() {
    let mesh = cluster!().control().node("held").start().await;
    let generation = mesh.node("held").config().await["generation"]
        .as_u64()
        .unwrap();
    let claim = Hello {
        node_id: "held".to_owned(),
        generation: generation + 1,
        instance_id: "claimant".to_owned(),
        identity: "spiffe://mesh/ns/other/sa/other".to_owned(),
        protocol: Some(VersionRange {
            oldest: 1,
            newest: 1,
        }),
        network: "default".to_owned(),
        ..Hello::default()
    };
    let said = hello(mesh.control().listen(), claim).await;
    let Heard::Refusal(Refused {
        reason,
        text,
        retry,
        highest_generation,
    }) = said
    else {
        panic!("it was not refused: {said:?}");
    };
    assert_eq!((&*reason, highest_generation), ("ALREADY_EXISTS", 0));
    assert!(retry, "the other one may end");
    let (held, wanted) = text.split_once(", which is alive; ").unwrap();
    let holder = format!("node id `default/held` is held by generation {generation}, instance ");
    assert!(held.starts_with(&holder), "{text}");
    assert!(held.ends_with(" with no identity"), "{text}");
    assert_eq!(
        wanted,
        format!(
            "generation {}, instance claimant with identity spiffe://mesh/ns/other/sa/other cannot \
             have it: choose another --node, or stop the other one",
            generation + 1
        )
    );
    mesh.node("held").ready().await;
}
