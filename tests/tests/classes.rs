//! Calls of a connection class of a project's own: they take its listener, and no other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;

use http::StatusCode;
use sidelane_tests::admin::Answer;
use sidelane_tests::ask::ask;
use sidelane_tests::cluster::Node;
use sidelane_tests::ports::free_port;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::strategies::SETTLEMENT;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::{Cluster, RawUpstream};
use tonic::Code;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strategies-under-test");
const PATH: &str = "/strategies.v1.Settlement/Get";

async fn server() -> RawUpstream {
    RawUpstream::start(|mut request: RawRequest| async move {
        request.read_all().await;
        let headers = [("grpc-status", "0"), ("x-server", "callee")];
        request.answer.only_headers(StatusCode::OK, &headers, None);
    })
    .await
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Waits until the caller knows of the callee, and returns what `explain` says.
async fn known(caller: &Node) -> String {
    let question = format!("/explain?path={PATH}");
    let knows = |answer: &Answer| answer.body.contains("\"callee\"");
    caller.answers(&question, knows).await.body
}

#[tokio::test]
async fn a_call_takes_the_listener_of_its_own_class() {
    let (server, listens) = (server().await, address());
    let mesh = Cluster::of(PROGRAM)
        .control()
        .node("caller")
        .node("callee")
        .with("--listen", &format!("partners={listens}"))
        .serving(SETTLEMENT, &server)
        .start()
        .await;
    let caller = mesh.node("caller");
    let explained = known(caller).await;
    assert!(explained.contains("\"partners\""), "{explained}");

    let answer = ask(caller, PATH, &[]).await;
    assert_eq!(answer.headers["x-server"], "callee", "{answer:?}");
    let labels = [("service", SETTLEMENT), ("connection", "partners")];
    for (node, direction) in [("caller", "outbound"), ("callee", "inbound")] {
        let metrics = mesh.node(node).metrics().await;
        let labels = [labels.as_slice(), &[("direction", direction)]].concat();
        let calls = metrics.sum("sidelane_requests_total", &labels);
        assert_eq!(calls, 1.0, "{node}");
    }
}

#[tokio::test]
async fn a_node_without_its_listener_is_asked_for_it_by_name() {
    let server = server().await;
    let mesh = Cluster::of(PROGRAM)
        .control()
        .node("caller")
        .node("callee")
        .serving(SETTLEMENT, &server)
        .start()
        .await;
    let caller = mesh.node("caller");
    known(caller).await;
    let text = "strategies.v1.Settlement: the only endpoint in question was without an address of \
                class partners; start the sidecar there with `--listen partners=ADDRESS`";
    let expected = Refusal::new("NO_ENDPOINT", Code::Unavailable, text);
    assert_eq!(Refusal::of(&ask(caller, PATH, &[]).await), expected);
}
