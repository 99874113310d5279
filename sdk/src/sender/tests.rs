use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::*;
use crate::define_service_routing;
use crate::routing::{
    BifrostServiceRouting, General, Gossip, GossipServiceRouting, IngressServiceRouting, Internal,
    MethodRule, RoutingFactory,
};

define_service_routing!(
    Orders,
    service = "shop.v1.Orders",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = ConsistentHash,
    methods = [
        MethodRule::unary("Get").with_timeout(Duration::from_millis(800)),
        MethodRule::unary("Put"),
        MethodRule::streaming("Watch", false, true),
    ],
);

#[derive(Clone, PartialEq, prost::Message)]
struct Get {
    #[prost(string, tag = "1")]
    order: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Order {
    #[prost(string, tag = "1")]
    order: String,
}

impl RpcRequest<Orders> for Get {
    type Response = Order;
    const METHOD: &'static str = "Get";

    fn hash_key(&self) -> Option<HashKey> {
        HashKey::of(&self.order)
    }
}

impl RpcRequest<GossipServiceRouting> for Get {
    type Response = Order;
    const METHOD: &'static str = "Beat";
}

/// Answers each call with its own message, and keeps what it was told.
#[derive(Clone, Default)]
struct Echo {
    seen: Arc<Mutex<Vec<Seen>>>,
    apart: Arc<AtomicU64>,
    generation: Arc<AtomicU64>,
}

/// A call as the sidecar is told.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    path: String,
    headers: Vec<String>,
    timeout: Option<Duration>,
    connection: u64,
}

impl NetworkSender for Echo {
    fn send(&self, call: NetworkCall) -> Answering {
        self.answer(call, 0)
    }

    fn apart(&self, _: &ConnectionKey) -> Option<Arc<dyn NetworkSender>> {
        let number = self.apart.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Arc::new(Apart(self.clone(), number)))
    }

    fn generation(&self, _: &NodeId) -> Option<Generation> {
        Generation::new(self.generation.load(Ordering::Relaxed))
    }
}

struct Apart(Echo, u64);

impl NetworkSender for Apart {
    fn send(&self, call: NetworkCall) -> Answering {
        self.0.answer(call, self.1)
    }
}

impl Echo {
    fn answer(&self, call: NetworkCall, connection: u64) -> Answering {
        let (path, timeout) = (call.path().to_owned(), call.timeout());
        let request = call.into_request();
        let mut headers: Vec<String> = request
            .headers()
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("sidelane-"))
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort_unstable();
        self.seen.lock().unwrap().push(Seen {
            path,
            headers,
            timeout,
            connection,
        });
        Box::pin(async move {
            let rule = Arc::new(network::CallRule::new(spoken()));
            let call = NetworkCall::new(Recipient::Any, rule, request);
            Ok(answer(&call.message().await?))
        })
    }

    fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().unwrap().clone()
    }
}

fn spoken() -> SpokenRule {
    "Internal/general/secure=false/persistent=false"
        .parse()
        .unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn get(order: &str) -> Get {
    Get {
        order: order.to_owned(),
    }
}

#[tokio::test]
async fn a_typed_call_says_the_rule_of_its_service() {
    let echo = Echo::default();
    let sender = echo.clone().typed();
    let answer: Order = sender
        .call_rpc_with_service_routing::<_, Orders, _>(Recipient::Any, get("a 7"), None, None)
        .await
        .unwrap();
    assert_eq!(answer.order, "a 7");
    let seen = echo.last();
    assert_eq!(
        (seen.path.as_str(), seen.timeout),
        ("/shop.v1.Orders/Get", None)
    );
    assert_eq!(
        seen.headers,
        [
            "sidelane-hash: a%207",
            "sidelane-lane: general",
            "sidelane-rule: Internal/general/secure=true/balancing=CONSISTENT_HASH/persistent=true/timeout=800ms",
        ]
    );

    let limit = Some(Duration::from_secs(2));
    sender
        .call_rpc_with_service_routing::<_, GossipServiceRouting, _>(
            node("n-1"),
            get("x"),
            Some(9),
            limit,
        )
        .await
        .unwrap();
    let seen = echo.last();
    assert_eq!(seen.path, "/sidelane.predefined.v1.Gossip/Beat");
    assert_eq!(seen.timeout, limit);
    assert_eq!(
        seen.headers,
        [
            "sidelane-hash: 9",
            "sidelane-lane: gossip",
            "sidelane-node: n-1",
            "sidelane-rule: Internal/gossip/secure=false/balancing=RANDOM/persistent=false",
        ]
    );
}

/// What a build writes for a service whose rule says nothing of balancing and of time.
struct Stock;

impl crate::routing::ServiceRouting for Stock {
    const NAME: &'static str = "shop.v1.Stock";
    const SERVICE_CATEGORY: crate::routing::Category = crate::routing::Category::Worker;
    type Connection = Internal;
    type Lane = General;
    const REQUIRES_SECURE_TRANSPORT: bool = false;
    const REQUIRES_PERSISTENT_CONNECTION: bool = false;
    const METHODS: &'static [MethodRule] = &[MethodRule::unary("Count")];
}

impl RpcRequest<Stock> for Get {
    type Response = Order;
    const METHOD: &'static str = "Count";
}

#[tokio::test]
async fn what_a_rule_leaves_open_its_callers_leave_open() {
    let echo = Echo::default();
    let sender = echo.clone().typed();
    let answer: Result<Order, _> = sender
        .call_rpc_with_service_routing::<_, Stock, _>(Recipient::Any, get("x"), None, None)
        .await;
    answer.unwrap();
    assert_eq!(
        echo.last().headers,
        [
            "sidelane-lane: general",
            "sidelane-rule: Internal/general/secure=false/persistent=false/unary=true",
        ]
    );
}

#[tokio::test]
async fn a_bound_client_says_what_holds_for_each_method_and_calls_no_other_service() {
    let echo = Echo::default();
    let bound = Bound::<Orders>::over(echo.clone()).to(node("n-2"));
    let call = async |path: &'static str| {
        let mut client = tonic::client::Grpc::new(bound.clone());
        let mut request = Request::new(get("x"));
        // An app that makes these up is not heard.
        for name in ["sidelane-rule", "sidelane-lane", "sidelane-node"] {
            request
                .metadata_mut()
                .insert(name, "made-up".parse().unwrap());
        }
        client.ready().await?;
        let codec = ProstCodec::<Get, Order>::default();
        client.unary(request, path.parse().unwrap(), codec).await
    };
    for (path, timeout) in [
        ("/shop.v1.Orders/Put", "/unary=true"),
        ("/shop.v1.Orders/Watch", ""),
        ("/shop.v1.Orders/New", ""),
    ] {
        call(path).await.unwrap();
        let rule = "Internal/general/secure=true/balancing=CONSISTENT_HASH/persistent=true";
        assert_eq!(
            echo.last().headers,
            [
                "sidelane-lane: general".to_owned(),
                "sidelane-node: n-2".to_owned(),
                format!("sidelane-rule: {rule}{timeout}"),
            ]
        );
    }
    let status = call("/shop.v1.Payments/Put").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "/shop.v1.Payments/Put is not of shop.v1.Orders, to whose rule this client is bound"
    );
    assert_eq!(echo.seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn each_way_has_a_connection_of_its_own_and_keeps_it() {
    let echo = Echo::default();
    let sender = echo.clone().typed();
    let heartbeats = sender.get_typed_connection(node("n-1"), RoutingFactory::internal_gossip());
    let same = sender.get_typed_connection(node("n-1"), RoutingFactory::internal_gossip());
    assert_eq!((same.key(), sender.pooled()), (heartbeats.key(), 1));
    assert_eq!(echo.apart.load(Ordering::Relaxed), 1);
    let others = [
        sender
            .bind::<GossipServiceRouting>(node("n-2"))
            .recipient()
            .clone(),
        sender
            .bind::<GossipServiceRouting>(None)
            .recipient()
            .clone(),
        sender
            .bind::<BifrostServiceRouting>(node("n-1"))
            .recipient()
            .clone(),
        sender
            .bind::<IngressServiceRouting>(node("n-1"))
            .recipient()
            .clone(),
    ];
    assert_eq!(others[1], Recipient::Any);
    assert_eq!(sender.pooled(), 5);

    for connection in [&heartbeats, &same] {
        connection
            .call::<_, GossipServiceRouting>(get("x"), None, None)
            .await
            .unwrap();
        assert_eq!(echo.last().connection, 1);
    }
    assert_eq!((heartbeats.class(), heartbeats.lane()), {
        let config = RoutingFactory::internal_gossip();
        (config.class(), config.lane())
    });
}

#[test]
fn a_node_that_was_replaced_is_reached_by_a_new_connection() {
    let echo = Echo::default();
    let sender = echo.clone().typed();
    let routing = RoutingFactory::internal_general();
    let ask = |generation| {
        echo.generation.store(generation, Ordering::Relaxed);
        let connection = sender.get_typed_connection(node("n-1"), routing);
        (
            connection.key().generation,
            echo.apart.load(Ordering::Relaxed),
            sender.pooled(),
        )
    };
    let of = Generation::new;
    assert_eq!(ask(0), (None, 1, 1));
    // Known by now: what was made without it is older.
    assert_eq!(ask(7), (of(7), 2, 1));
    assert_eq!(ask(7), (of(7), 2, 1));
    assert_eq!(ask(8), (of(8), 3, 1));
    drop(sender.bind::<GossipServiceRouting>(None));
    assert_eq!(ask(9), (of(9), 5, 2));
}

#[test]
fn past_the_limit_the_connection_unused_for_the_longest_time_goes() {
    let echo = Echo::default();
    let sender = echo.clone().typed();
    let ask = |number: usize| {
        let routing = RoutingFactory::internal_general();
        drop(sender.get_typed_connection(node(&format!("n-{number}")), routing));
        echo.apart.load(Ordering::Relaxed)
    };
    for number in 0..POOL_LIMIT {
        ask(number);
    }
    let most = u64::try_from(POOL_LIMIT).unwrap();
    assert_eq!((sender.pooled(), ask(0)), (POOL_LIMIT, most));
    assert_eq!(ask(POOL_LIMIT), most + 1);
    assert_eq!(sender.pooled(), POOL_LIMIT);
    // The first was asked for again, so the second went.
    assert_eq!(ask(0), most + 1);
    assert_eq!(ask(1), most + 2);
}

#[tokio::test]
async fn a_sender_without_streams_takes_exactly_one_message() {
    let message = async |body: &'static [u8]| {
        let body = tonic::body::Body::new(http_body_util::Full::from(body));
        let rule = Arc::new(network::CallRule::new(spoken()));
        NetworkCall::new(Recipient::Any, rule, http::Request::new(body))
            .message()
            .await
            .map_err(|status| status.message().to_owned())
    };
    assert_eq!(message(b"\0\0\0\0\x02ab").await.unwrap(), "ab");
    assert_eq!(message(b"\0\0\0\0\0").await.unwrap(), "");
    for (body, says) in [
        (&b""[..], "the call has no message"),
        (b"\0\0\0\0", "the call has no message"),
        (b"\x01\0\0\0\x01a", "the call's message is compressed"),
        (b"\0\0\0\0\x02a", "the call has not exactly one message"),
        (
            b"\0\0\0\0\0\0\0\0\0\0",
            "the call has not exactly one message",
        ),
    ] {
        assert_eq!(message(body).await.unwrap_err(), says);
    }
}

#[test]
fn a_call_says_what_was_asked_for() {
    let rule = Arc::new(network::CallRule::new(spoken()));
    let request = http::Request::post("/a.B/C")
        .header("grpc-timeout", "250m")
        .header("sidelane-hash", "k")
        .body(tonic::body::Body::empty())
        .unwrap();
    let call = NetworkCall::new(node("n-1").into(), rule, request);
    assert_eq!(
        (call.path(), call.recipient().node()),
        ("/a.B/C", Some(&node("n-1")))
    );
    assert_eq!(call.timeout(), Some(Duration::from_millis(250)));
    assert_eq!(call.hash_key(), Some(&b"k"[..]));
    assert_eq!(call.rule(), &spoken());
    assert_eq!(call.headers().len(), 2);
}

/// Only that it compiles: what travels in its class and lane is carried.
#[allow(dead_code)]
fn carried(
    general: &TypedConnection<Internal, General>,
    gossip: &TypedConnection<Internal, Gossip>,
) {
    drop(general.bind::<Orders>());
    drop(gossip.bind::<GossipServiceRouting>());
}
