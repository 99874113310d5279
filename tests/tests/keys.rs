//! The key that keeps calls together, as generated clients find it in their requests.
#![allow(
    clippy::unwrap_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use prost::Message;
use sidelane::Target;
use sidelane::routing::ServiceRouting;
use sidelane::sender::{HashKey, RpcRequest};
use sidelane_tests::admin::Answer;
use sidelane_tests::cluster;
use sidelane_tests::upstream::raw::{RawRequest, RawUpstream};
use sidelane_tests::wire::keys::v1 as keys;
use sidelane_tests::wire::keys::v1::KeysServiceRouting;
use sidelane_tests::wire::keys::v1::keys_client::KeysClient;
use tonic::body::Body;

fn text(key: Option<HashKey>) -> Option<String> {
    key.map(|key| key.as_str().to_owned())
}

fn order(id: u64, parent: Option<keys::Order>) -> keys::Order {
    let parent = parent.map(Box::new);
    keys::Order { id, parent }
}

#[test]
fn every_kind_of_field_is_found() {
    type Rule = KeysServiceRouting;
    let by_text = keys::ByTextRequest {
        r#type: "a b".to_owned(),
    };
    let by_field = |order| Rule::by_field_key(&keys::ByFieldRequest { order });
    let by_choice = |how| Rule::by_choice_key(&keys::ByChoiceRequest { how });
    let mail = |mail: &str| Some(keys::by_choice_request::How::Mail(mail.to_owned()));
    let whole = keys::by_choice_request::How::Whole(order(1, None));
    let by_chosen = |how| Rule::by_chosen_field_key(&keys::ByChosenFieldRequest { how: Some(how) });
    let chosen = |order| by_chosen(keys::by_chosen_field_request::How::Whole(order));
    let by_option = |region| Rule::by_option_key(&keys::ByOptionRequest { region });
    let by_wrapper = |name| Rule::by_wrapper_key(&keys::ByWrapperRequest { name });
    let at = prost_types::Timestamp {
        seconds: -5,
        nanos: 0,
    };
    let kind = keys::Kind::Said.into();
    let raw = bytes::Bytes::from_static(&[0, 65]);
    for (name, found, expected) in [
        ("text", Rule::by_text_key(&by_text), Some("a%20b")),
        ("field", by_field(Some(order(7, None))), Some("7")),
        ("no field", by_field(None), None),
        ("choice", by_choice(mail("x")), Some("x")),
        ("other choice", by_choice(Some(whole)), None),
        ("no choice", by_choice(None), None),
        (
            "field of a choice",
            chosen(order(1, Some(order(2, None)))),
            Some("2"),
        ),
        ("no field of a choice", chosen(order(1, None)), None),
        ("option", by_option(Some("eu".to_owned())), Some("eu")),
        ("no option", by_option(None), None),
        ("wrapper", by_wrapper(Some("n".to_owned())), Some("n")),
        ("no wrapper", by_wrapper(None), None),
        (
            "time",
            Rule::by_time_key(&keys::ByTimeRequest { at: Some(at) }),
            Some("-5"),
        ),
        (
            "enum",
            Rule::by_kind_key(&keys::ByKindRequest { kind }),
            Some("7"),
        ),
        (
            "bytes",
            Rule::by_bytes_key(&keys::ByBytesRequest { raw }),
            Some("%00A"),
        ),
        (
            "flag",
            Rule::by_flag_key(&keys::ByFlagRequest { flag: true }),
            Some("true"),
        ),
        (
            "stream",
            Rule::follow_key(&keys::FollowRequest { id: -1 }),
            Some("-1"),
        ),
    ] {
        assert_eq!(text(found).as_deref(), expected, "{name}");
    }
}

#[test]
fn typed_calls_find_it_too() {
    let request = keys::ByFlagRequest { flag: false };
    let method = <keys::ByFlagRequest as RpcRequest<KeysServiceRouting>>::METHOD;
    assert_eq!(method, "ByFlag");
    let key = RpcRequest::<KeysServiceRouting>::hash_key(&request);
    assert_eq!(text(key).as_deref(), Some("false"));
    let none = RpcRequest::<KeysServiceRouting>::hash_key(&keys::ConnectRequest {});
    assert_eq!(none, None);
}

/// What a client sends, over a channel that answers nothing.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<Call>>>);

/// A path and a key.
type Call = (String, Option<String>);

impl Sent {
    fn client(
        &self,
    ) -> KeysClient<
        impl tonic::client::GrpcService<Body, ResponseBody = Body, Error = tonic::Status, Future: Send>
        + use<>,
    > {
        let sent = Arc::clone(&self.0);
        KeysClient::new(tower::service_fn(move |request: http::Request<Body>| {
            let key = request.headers().get("sidelane-hash");
            let key = key.map(|key| key.to_str().unwrap().to_owned());
            let path = request.uri().path().to_owned();
            sent.lock().unwrap().push((path, key));
            async { Err::<http::Response<Body>, _>(tonic::Status::cancelled("looked at")) }
        }))
    }

    fn one(&self) -> Call {
        let mut sent = self.0.lock().unwrap();
        let one = sent.pop().unwrap();
        assert!(sent.is_empty(), "{sent:?}");
        one
    }
}

#[tokio::test]
async fn ordinary_stub_code_sends_it() {
    let sent = Sent::default();
    let mut client = sent.client();
    let path = |method: &str| format!("/sidelane.test.keys.v1.Keys/{method}");
    let key = |key: &str| Some(key.to_owned());

    let flag = keys::ByFlagRequest { flag: true };
    client.by_flag(flag).await.unwrap_err();
    assert_eq!(sent.one(), (path("ByFlag"), key("true")));

    client
        .follow(keys::FollowRequest { id: 8 })
        .await
        .unwrap_err();
    assert_eq!(sent.one(), (path("Follow"), key("8")));

    // What the caller says itself stands.
    let mut request = tonic::Request::new(flag);
    HashKey::of("mine").unwrap().put(&mut request);
    client.by_flag(request).await.unwrap_err();
    assert_eq!(sent.one(), (path("ByFlag"), key("mine")));

    let absent = keys::ByOptionRequest { region: None };
    client.by_option(absent).await.unwrap_err();
    assert_eq!(sent.one(), (path("ByOption"), None));

    client.connect(keys::ConnectRequest {}).await.unwrap_err();
    assert_eq!(sent.one(), (path("Connect"), None));
}

/// A server that answers every call with its name.
async fn named(name: &'static str) -> RawUpstream {
    RawUpstream::start(move |mut request: RawRequest| async move {
        request.read_all().await;
        let node = name.to_owned();
        let mut body = request.answer.begin(http::StatusCode::OK, &[]);
        body.message(&keys::ByFieldResponse { node }.encode_to_vec());
        body.trailers(&[("grpc-status", "0")], None);
    })
    .await
}

#[tokio::test]
async fn ordinary_stub_code_keeps_calls_of_one_key_together() {
    const NODES: [&str; 3] = ["one", "two", "three"];
    let mut mesh = cluster!().control().node("caller");
    let mut servers = Vec::new();
    for name in NODES {
        servers.push(named(name).await);
    }
    for (name, server) in NODES.into_iter().zip(&servers) {
        mesh = mesh.node(name).serving(KeysServiceRouting::NAME, server);
    }
    let mesh = mesh.start().await;
    let caller = mesh.node("caller");
    let question = "/explain?path=/sidelane.test.keys.v1.Keys/ByField";
    let all = |answer: &Answer| {
        let explained: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let candidates = explained["candidates"].as_array().into_iter().flatten();
        candidates.filter(|it| it["eligible"] == true).count() == NODES.len()
    };
    caller.answers(question, all).await;

    let target: Target = format!("http://{}", caller.outbound()).parse().unwrap();
    let mut client = KeysClient::connect_to(&target).await.unwrap();
    let mut seen = BTreeSet::new();
    for id in 0..30 {
        let mut nodes = BTreeSet::new();
        for _ in 0..3 {
            let request = keys::ByFieldRequest {
                order: Some(order(id, None)),
            };
            nodes.insert(client.by_field(request).await.unwrap().into_inner().node);
        }
        assert_eq!(nodes.len(), 1, "calls of key {id} went to {nodes:?}");
        seen.extend(nodes);
    }
    assert_eq!(seen.len(), NODES.len(), "{seen:?}");
}

/// A method named `Connect` keeps its name; the other constructors are there.
#[tokio::test]
async fn clients_are_made_over_the_local_sidecar() {
    let target: Target = "http://127.0.0.1:9".parse().unwrap();
    let error = KeysClient::connect_to(&target)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("no sidecar answers at http://127.0.0.1:9"),
        "{error}"
    );
}
