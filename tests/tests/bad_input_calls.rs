//! Calls that the caller's own sidecar refuses, each with its status, its reason, its message and
//! its details: no gRPC at all, unknown to the mesh, or not allowed there. Nothing is sent, so all
//! of them are safe to make again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use http::StatusCode;
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::{Cluster, Upstream, cluster, routes, services};
use tonic::Code;

async fn mesh(upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, upstream)
        .serving(services::BEAT, upstream)
        .serving(services::VAULT, upstream)
        .start()
        .await
}

#[tokio::test]
async fn a_path_that_is_no_grpc_path_is_refused_by_what_is_wrong_with_it() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let form = "the path does not have the form `/package.Service/Method`";
    let characters = "the path has characters that no protobuf name has (letters, digits, `_` and \
                      `.`)";
    let encoded = "the path is percent-encoded, a gRPC path never is";
    let long = format!("/sidelane.test.v1.Echo/{}", "a".repeat(600));
    let cases = [
        ("/", form),
        ("/sidelane.test.v1.Echo", form),
        ("/sidelane.test.v1.Echo/", form),
        ("//Unary", form),
        ("/sidelane.test.v1.Echo/Unary/", form),
        ("/sidelane.test.v1.Echo//Unary", form),
        ("/sidelane..Echo/Unary", form),
        ("/sidelane.test.v1.Echo/Un-ary", characters),
        ("/sidelane.test.v1.Echo/Unary?x=1", characters),
        ("/sidelane%2Etest.v1.Echo/Unary", encoded),
        (&long, "the path is longer than 512 bytes"),
    ];
    for (path, text) in cases {
        let refusal = Refusal::of(&ask_over(&client, path, &[]).await);
        let expected = Refusal::new("NOT_GRPC", Code::InvalidArgument, text);
        assert_eq!(refusal, expected, "{path}");
    }
    let metrics = mesh.node("caller").metrics().await;
    let refused = metrics.sum("sidelane_refused_total", &[("reason", "NOT_GRPC")]);
    assert_eq!(refused, 11.0);
}

#[tokio::test]
async fn an_unknown_service_is_refused_with_those_that_are_known() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let answer = ask(mesh.node("caller"), "/shop.v1.Orders/Get", &[]).await;
    let expected = Refusal::new(
        "UNKNOWN_SERVICE",
        Code::Unimplemented,
        "shop.v1.Orders: no rule names it and no node ever offered it; known are \
         sidelane.test.v1.Beat, sidelane.test.v1.Echo, sidelane.test.v1.Vault; start a sidecar \
         with `--serve shop.v1.Orders=ADDRESS`, or look at `sidelane services`",
    );
    assert_eq!(Refusal::of(&answer), expected);
    assert!(answer.only_headers, "{answer:?}");

    // A rule names it, and nobody offers it: known, and not to be had.
    let answer = ask(mesh.node("caller"), "/sidelane.test.v1.Front/Visit", &[]).await;
    let expected = Refusal::new(
        "NO_ENDPOINT",
        Code::Unavailable,
        "sidelane.test.v1.Front: no node offers the service now; start one that serves it, or see \
         `sidelane nodes`",
    );
    assert_eq!(Refusal::of(&answer), expected);
}

/// An answer in plain HTTP: its status, its reason and its text.
fn plain(answer: &RawAnswer) -> (StatusCode, &str, &str, &str) {
    let header = |name: &str| answer.headers[name].to_str().unwrap();
    let text = std::str::from_utf8(&answer.data).unwrap();
    let kind = header("content-type");
    (answer.status, header("sidelane-error"), kind, text)
}

#[tokio::test]
async fn plain_http_is_refused_in_plain_http() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");
    let text = "text/plain; charset=utf-8";
    for (content_type, shown) in [
        ("application/json", "`application/json`"),
        ("application/grpc-web", "`application/grpc-web`"),
        ("", "``"),
    ] {
        let answer = ask(node, ECHO_UNARY, &[("content-type", content_type)]).await;
        let why = format!("the content type is {shown}, a gRPC call's is `application/grpc`\n");
        let expected = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "NOT_GRPC", text, &*why);
        assert_eq!(plain(&answer), expected);
        assert!(answer.headers.get("grpc-status").is_none(), "{answer:?}");
    }
    for method in ["GET", "PUT", "OPTIONS"] {
        let answer = with_method(node.outbound(), method).await;
        let why = format!("the method is {method}, a gRPC call is a POST\n");
        let expected = (StatusCode::NOT_IMPLEMENTED, "NOT_GRPC", text, &*why);
        assert_eq!(plain(&answer), expected);
    }
}

/// A request with another method, over a connection of its own.
async fn with_method(address: std::net::SocketAddr, method: &str) -> RawAnswer {
    let client = RawClient::connect(address).await.unwrap();
    let call = client.begin_with(method, ECHO_UNARY, &[]).await.unwrap();
    call.answer().await.unwrap()
}

#[tokio::test]
async fn headers_that_cannot_be_followed_are_refused_with_what_they_say() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let invalid = Code::InvalidArgument;
    let lanes = "lanes are general, gossip, bifrost_data, ingress_data";
    let echo = services::ECHO;
    let rule = format!("its rule ({}) allows general", routes::origin(echo));
    let cases = [
        (
            ("grpc-timeout", "soon"),
            "NOT_GRPC",
            "`grpc-timeout: soon` is not up to 8 digits and one of H, M, S, m, u, n".to_owned(),
        ),
        (
            ("grpc-timeout", "123456789S"),
            "NOT_GRPC",
            "`grpc-timeout: 123456789S` is not up to 8 digits and one of H, M, S, m, u, n"
                .to_owned(),
        ),
        (
            ("grpc-timeout", "-1S"),
            "NOT_GRPC",
            "`grpc-timeout: -1S` is not up to 8 digits and one of H, M, S, m, u, n".to_owned(),
        ),
        (
            ("sidelane-node", "two words"),
            "NOT_GRPC",
            "`sidelane-node: two words` is no node id (letters, digits, `.`, `_`, `-`)".to_owned(),
        ),
        (
            ("sidelane-node", ""),
            "NOT_GRPC",
            "`sidelane-node: ` is no node id (letters, digits, `.`, `_`, `-`)".to_owned(),
        ),
        (
            ("sidelane-lane", "fast"),
            "LANE_REFUSED",
            format!("`sidelane-lane: fast` is no lane; {lanes}"),
        ),
        (
            ("sidelane-lane", "gossip"),
            "LANE_REFUSED",
            format!("{echo}: lane `gossip` was asked for, {rule}"),
        ),
        (
            ("sidelane-lane", "ingress_data"),
            "LANE_REFUSED",
            format!("{echo}: lane `ingress_data` was asked for, {rule}"),
        ),
    ];
    for (header, reason, text) in cases {
        let refusal = Refusal::of(&ask_over(&client, ECHO_UNARY, &[header]).await);
        assert_eq!(refusal, Refusal::new(reason, invalid, text), "{header:?}");
    }
    // The lane that the rule says anyway may be asked for.
    let answer = ask_over(&client, ECHO_UNARY, &[("sidelane-lane", "general")]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
}

#[tokio::test]
async fn a_secure_rule_is_refused_in_a_mesh_in_the_clear() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let answer = ask(mesh.node("caller"), "/sidelane.test.v1.Vault/Open", &[]).await;
    let expected = Refusal::new(
        "NOT_SECURE",
        Code::FailedPrecondition,
        format!(
            "sidelane.test.v1.Vault: its rule ({}) says secure, and this way is in the clear \
             (--trust strict makes every way secure); the call did not go on",
            routes::origin(services::VAULT)
        ),
    );
    assert_eq!(Refusal::of(&answer), expected);
    // Nor from the sidecar to the app beside it.
    let answer = ask(mesh.node("callee"), "/sidelane.test.v1.Vault/Open", &[]).await;
    assert_eq!(Refusal::of(&answer), expected);
    assert_eq!(
        mesh.node("callee").config().await["links"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn a_deadline_that_is_over_on_arrival_is_refused_unsent() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");
    let answer = ask(node, ECHO_UNARY, &[("grpc-timeout", "0m")]).await;
    let expected = Refusal::new(
        "DEADLINE",
        Code::DeadlineExceeded,
        "/sidelane.test.v1.Echo/Unary: the call's time was over after 0 ms; give it more, or see \
         /metrics of both sidecars for where the time goes",
    );
    assert_eq!(Refusal::of(&answer), expected);
    let attempts = node.metrics().await.sum("sidelane_attempts_total", &[]);
    assert_eq!(attempts, 0.0);
}
