//! Where calls go, by the strategy that their service's rule names: seen at real servers, behind
//! real sidecars. And where `explain` says that they would go.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sidelane_tests::ask::{ask_over, values};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::run::Run;
use sidelane_tests::strategies::{
    ALL, CONSISTENT_HASH, LEAST_CONNECTIONS, NONE, OWN, RANDOM, ROUND_ROBIN, UNSAID,
};
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{Cluster, RawUpstream};
use tokio::sync::Semaphore;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strategies-under-test");
const NODES: [&str; 3] = ["one", "two", "three"];

/// How a server answers.
#[derive(Clone, Default)]
struct Manner {
    /// So late.
    delay: Duration,
    /// With this status.
    status: u8,
    /// Calls that say `x-wait` wait for a permit of it.
    gate: Option<Arc<Semaphore>>,
}

/// A server that answers every path, and says its name.
async fn server(name: &'static str, manner: Manner) -> RawUpstream {
    RawUpstream::start(move |mut request: RawRequest| {
        let manner = manner.clone();
        async move {
            request.read_all().await;
            if let Some(gate) = &manner.gate
                && request.head.headers().contains_key("x-wait")
            {
                gate.acquire().await.unwrap().forget();
            }
            tokio::time::sleep(manner.delay).await;
            let status = manner.status.to_string();
            let headers = [("grpc-status", status.as_str()), ("x-server", name)];
            let answer = request.answer;
            answer.only_headers(http::StatusCode::OK, &headers, None);
        }
    })
    .await
}

/// A mesh, and the servers in it, which end with it.
struct Mesh {
    cluster: Cluster,
    _servers: Vec<RawUpstream>,
}

impl std::ops::Deref for Mesh {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// One caller, and three nodes with a server each, in these manners.
async fn mesh(manners: [Manner; 3]) -> Mesh {
    let mut mesh = Cluster::of(PROGRAM).control().node("caller");
    let mut servers = Vec::new();
    for (name, manner) in NODES.into_iter().zip(manners) {
        let server = server(name, manner).await;
        mesh = mesh.node(name);
        for service in ALL {
            mesh = mesh.serving(service, &server);
        }
        servers.push(server);
    }
    let mesh = mesh.start().await;
    for service in ALL {
        let question = format!("/explain?path=/{service}/Get");
        let knows_all = |answer: &sidelane_tests::admin::Answer| {
            let explanation: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let candidates = explanation["candidates"].as_array().map(Vec::len);
            candidates == Some(NODES.len())
        };
        mesh.node("caller").answers(&question, knows_all).await;
    }
    Mesh {
        cluster: mesh,
        _servers: servers,
    }
}

async fn client(mesh: &Cluster) -> RawClient {
    let outbound = mesh.node("caller").outbound();
    RawClient::connect(outbound).await.unwrap()
}

fn path(service: &str) -> String {
    format!("/{service}/Get")
}

/// The server that a call goes to.
async fn whom(client: &RawClient, service: &str, headers: &[(&str, &str)]) -> String {
    let answer = ask_over(client, &path(service), headers).await;
    match values(&answer.headers, "x-server")[..] {
        [server] => server.to_owned(),
        _ => panic!("{answer:?}"),
    }
}

async fn shares(client: &RawClient, service: &str, calls: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..calls {
        *shares.entry(whom(client, service, &[]).await).or_default() += 1;
    }
    shares
}

async fn explained(caller: &Node, service: &str) -> Value {
    let answer = caller.explain(&path(service)).await;
    serde_json::from_str(&answer.body).unwrap()
}

fn steps(explanation: &Value) -> Vec<&str> {
    let steps = explanation["steps"].as_array().unwrap().iter();
    steps.map(|step| step.as_str().unwrap()).collect()
}

#[tokio::test]
async fn explain_names_the_endpoint_that_each_of_1_000_calls_goes_to() {
    let mesh = mesh(Default::default()).await;
    let (caller, client) = (mesh.node("caller"), client(&mesh).await);
    let certain = [ROUND_ROBIN, LEAST_CONNECTIONS, CONSISTENT_HASH, OWN];
    for service in certain {
        for number in 0..250 {
            let pick = explained(caller, service).await["pick"].clone();
            let server = whom(&client, service, &[]).await;
            assert_eq!(pick, *server, "{service}, call {number}");
        }
    }
}

#[tokio::test]
async fn what_is_left_to_chance_goes_to_those_that_explain_names() {
    let mesh = mesh(Default::default()).await;
    let (caller, client) = (mesh.node("caller"), client(&mesh).await);
    let random = shares(&client, RANDOM, 300).await;
    assert_eq!(random.len(), 3, "{random:?}");
    // Each gets 100 on the average; one in a million runs is further off than 45.
    assert!(
        random.values().all(|count| (55..=145).contains(count)),
        "{random:?}"
    );
    let mut picks = BTreeSet::new();
    for _ in 0..60 {
        let explanation = explained(caller, RANDOM).await;
        picks.insert(explanation["pick"].as_str().unwrap().to_owned());
    }
    assert_eq!(picks, NODES.map(str::to_owned).into());
}

#[tokio::test]
async fn round_robin_takes_turns_and_none_demands_a_name() {
    let mesh = mesh(Default::default()).await;
    let client = client(&mesh).await;
    let shares = shares(&client, ROUND_ROBIN, 30).await;
    assert!(shares.values().all(|count| *count == 10), "{shares:?}");
    let refusal = Refusal::of(&ask_over(&client, &path(NONE), &[]).await);
    assert_eq!(refusal.reason, "UNKNOWN_NODE", "{refusal:?}");
    let named = [("sidelane-node", "two")];
    assert_eq!(whom(&client, NONE, &named).await, "two");
}

#[tokio::test]
async fn calls_of_one_key_go_to_one_endpoint_and_keys_are_spread() {
    let mesh = mesh(Default::default()).await;
    let (caller, client) = (mesh.node("caller"), client(&mesh).await);
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    let mut homes = BTreeMap::new();
    for number in 0..60 {
        let key = format!("order-{number}");
        let keyed = [("sidelane-hash", key.as_str())];
        let home = whom(&client, CONSISTENT_HASH, &keyed).await;
        for _ in 0..3 {
            assert_eq!(whom(&client, CONSISTENT_HASH, &keyed).await, home);
        }
        *used.entry(home.clone()).or_default() += 1;
        homes.insert(key, home);
    }
    assert_eq!(used.len(), 3, "{used:?}");
    // Without a key the caller's node is one, and explain says so.
    let without = shares(&client, CONSISTENT_HASH, 20).await;
    assert_eq!(without.len(), 1, "{without:?}");
    let explanation = explained(caller, CONSISTENT_HASH).await;
    let steps = steps(&explanation);
    assert!(
        steps.contains(&"key: the caller's node, caller"),
        "{steps:?}"
    );
    // Who leaves takes only its own keys along.
    mesh.node("two").stop(Duration::from_secs(10)).await;
    for (key, home) in homes {
        let now = whom(&client, CONSISTENT_HASH, &[("sidelane-hash", &key)]).await;
        assert!(now == home || home == "two", "{key}: {home}, then {now}");
        assert_ne!(now, "two");
    }
}

#[tokio::test]
async fn calls_go_round_an_endpoint_that_is_busy() {
    let gate = Arc::new(Semaphore::new(0));
    let busy = Manner {
        gate: Some(Arc::clone(&gate)),
        ..Manner::default()
    };
    let mesh = mesh([busy, Manner::default(), Manner::default()]).await;
    let (caller, client) = (mesh.node("caller"), client(&mesh).await);
    let waiting = [("sidelane-node", "one"), ("x-wait", "yes")];
    let mut held = Vec::new();
    for _ in 0..5 {
        let path = path(LEAST_CONNECTIONS);
        let mut call = client.begin(&path, &waiting).await.unwrap();
        call.send(&UnaryRequest::default()).unwrap();
        call.end_request().unwrap();
        held.push(call);
    }
    let in_flight = |answer: &sidelane_tests::admin::Answer| {
        let explanation: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let mut candidates = explanation["candidates"].as_array().unwrap().iter();
        candidates.any(|it| it["node_id"] == "one" && it["in_flight"] == 5)
    };
    let question = format!("/explain?path={}", path(LEAST_CONNECTIONS));
    caller.answers(&question, in_flight).await;
    let around = shares(&client, LEAST_CONNECTIONS, 20).await;
    let expected = [("three".to_owned(), 10), ("two".to_owned(), 10)];
    assert_eq!(around, expected.into());
    gate.add_permits(5);
    for call in held {
        let answer = call.answer().await.unwrap();
        assert_eq!(values(&answer.headers, "x-server"), ["one"]);
    }
    let again = shares(&client, LEAST_CONNECTIONS, 30).await;
    assert!(again.values().all(|count| *count == 10), "{again:?}");
}

#[tokio::test]
async fn where_nothing_is_said_the_quicker_endpoints_get_the_calls() {
    let slow = Manner {
        delay: Duration::from_millis(150),
        ..Manner::default()
    };
    let failing = Manner {
        status: 14,
        ..Manner::default()
    };
    let mesh = mesh([slow, failing, Manner::default()]).await;
    let (caller, client) = (mesh.node("caller"), client(&mesh).await);
    let explanation = explained(caller, UNSAID).await;
    assert_eq!(explanation["rule"]["load_balancing"], "PEAK_EWMA");
    let shares = shares(&client, UNSAID, 100).await;
    // One call tells that an endpoint fails or is slow. The pair without the quick one is a third
    // of all, and there the slow one is better than the one that fails.
    let calls = |node: &str| shares.get(node).copied().unwrap_or_default();
    assert!(
        calls("two") <= 3,
        "a failure is no quick answer: {shares:?}"
    );
    assert!(calls("three") >= 45, "{shares:?}");
    assert!(calls("one") >= 10, "{shares:?}");
}

#[tokio::test]
async fn a_strategy_of_ones_own_is_asked_and_must_be_there() {
    let mesh = mesh(Default::default()).await;
    let (caller, client) = (mesh.node("caller"), client(&mesh).await);
    let last = shares(&client, OWN, 10).await;
    assert_eq!(last, [("two".to_owned(), 10)].into());
    let keyed = [("sidelane-hash", "any")];
    assert_eq!(whom(&client, OWN, &keyed).await, "one");
    let explanation = explained(caller, OWN).await;
    assert_eq!(explanation["rule"]["load_balancing"], "last");
    let steps = steps(&explanation);
    assert!(steps.contains(&"load-balancer mode: last"), "{steps:?}");

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let ended = Run::of(PROGRAM)
        .with(["sidecar-without", "--node", "lonely", "--trust", "disabled"])
        .with(["--control", "127.0.0.1:1", "--data", &data])
        .to_its_end()
        .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let expected = "sidelane-sidecar: strategies.v1.Own (sidelane_tests::strategies): \
                    load_balancing_custom `last` is not a known strategy of this sidecar, which \
                    was built with none of its own";
    assert!(ended.stderr.contains(expected), "{ended:?}");
}
