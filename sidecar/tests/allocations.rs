//! What a call's way must not do: allocate to find out what the call is for. A program of its own,
//! because it counts by the allocator that the whole program uses.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use allocation_counter::{AllocationInfo, measure};
use http::{HeaderMap, HeaderValue, Uri};
use sidelane::routing::{ConnectionClass, Found, Lane, MethodRule, RouteTable, Rule, rule};
use sidelane_proto::model::{FieldError, NodeId, ServiceName, ServiceState};
use sidelane_sidecar::classify::{self, Policy};
use sidelane_sidecar::mesh::{Mesh, View};
use sidelane_sidecar::telemetry::Metrics;
use sidelane_sidecar::telemetry::trace::{
    By, Collector, Facts, Kind, Ratio, Reached, Resource, Sent, Tracing,
};

const SERVICES: usize = 1_000;
const METHODS: &[MethodRule] = &[
    MethodRule::unary("Get"),
    MethodRule::unary("List"),
    MethodRule::streaming("Watch", false, true),
];
/// What others began and do not record.
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const INTERNAL: ConnectionClass = ConnectionClass::Internal;

/// A thousand compiled services, and one that some node offers and no rule names.
fn mesh() -> Result<Mesh, FieldError> {
    let rules = (0..SERVICES).map(|index| Rule {
        service: Cow::Owned(format!("shop.v1.Service{index}")),
        ..rule("", INTERNAL, Lane::GENERAL, METHODS, "here")
    });
    let routes = RouteTable::new(Vec::leak(rules.collect()));
    let mesh = Mesh::new(routes, Vec::new(), Arc::new(Metrics::default()));
    let offered = ServiceState {
        service: ServiceName::new("other.v1.Seen")?,
        ever_seen: true,
        endpoints: Vec::new(),
    };
    mesh.replace([&offered], &[], Instant::now());
    Ok(mesh)
}

fn paths(method: &str) -> Vec<String> {
    let path = |index| format!("/shop.v1.Service{index}/{method}");
    (0..SERVICES).map(path).collect()
}

/// Decides a local app's call, as the stack does it.
fn decided(view: &View, path: &str, lane: Option<Lane>) -> bool {
    let Ok(found) = view.find(path) else {
        return false;
    };
    let classified = classify::outbound(view, path, found, lane, Policy::default());
    classified.is_ok_and(|classified| classified.lane == Lane::GENERAL)
}

fn nothing(what: &str, counted: &AllocationInfo) {
    assert_eq!(counted.count_total, 0, "{what}: {counted:?}");
}

#[test]
fn the_counter_counts() {
    let counted = measure(|| drop(std::hint::black_box(Box::new(7))));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn a_look_up_allocates_nothing_whatever_is_looked_up() {
    let mesh = mesh().unwrap();
    let view = mesh.view();
    let mut known = 0;
    for (method, expected) in [("Watch", Some(2)), ("Unheard", None)] {
        let paths = paths(method);
        let counted = measure(|| {
            for path in &paths {
                let found = view.find(path).unwrap();
                known += usize::from(found.service.is_some() && found.method == expected);
            }
        });
        nothing(method, &counted);
    }
    assert_eq!(known, 2 * SERVICES);
    let strange = [
        "/never.v1.Heard/Get",
        "",
        "/",
        "no/slash",
        "/a.B//C",
        "/a.B/%41",
    ];
    let long = format!("/a.B/{}", "C".repeat(60_000));
    let counted = measure(|| {
        for path in strange.into_iter().chain([long.as_str()]) {
            let found = view.find(path);
            assert!(found.is_ok_and(|found| found.service.is_none()) == (path == strange[0]));
        }
    });
    nothing("strange paths", &counted);
}

#[test]
fn a_call_that_may_go_is_decided_without_allocating() {
    let mesh = mesh().unwrap();
    let mut paths = paths("Get");
    paths.push("/other.v1.Seen/Get".to_owned());
    let mut may_go = 0;
    let counted = measure(|| {
        for path in &paths {
            for lane in [None, Some(Lane::GENERAL)] {
                may_go += usize::from(mesh.look(|view| decided(view, path, lane)));
            }
        }
    });
    nothing("outbound", &counted);
    assert_eq!(may_go, 2 * paths.len());
}

#[test]
fn a_peers_call_that_may_come_in_is_decided_without_allocating() {
    let rule = rule("shop.v1.Orders", INTERNAL, Lane::GENERAL, METHODS, "here");
    let counted = measure(|| {
        for path in ["/shop.v1.Orders/Get", "/shop.v1.Orders/Unheard"] {
            let found = Found::<()>::unknown(path).unwrap();
            let service = found.split(path).service;
            for rule in [Some(&rule), None] {
                assert_eq!(
                    classify::inbound(service, rule, (INTERNAL, Lane::GENERAL), false),
                    Ok(())
                );
            }
        }
    });
    nothing("inbound", &counted);
}

#[tokio::test]
async fn a_call_that_is_not_recorded_allocates_its_header_and_nothing_else() {
    let resource = Resource {
        service: "here",
        node: "here",
        network: "default",
    };
    // Nobody listens there, and nothing is sent.
    let collector = Collector::start("http://127.0.0.1:1", resource, Arc::default()).unwrap();
    let tracing = Tracing::to(&collector, Ratio::new(0.0).unwrap(), false);
    let begun = |headers: &HeaderMap| {
        let facts = || unreachable!("it is not recorded");
        tracing.begin(headers, Instant::now(), By::App, facts)
    };
    let mut theirs = HeaderMap::with_capacity(16);
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("traceparent", UNSAMPLED),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("baggage", "userId=alice,serverNode=DF%2028"),
    ] {
        theirs.insert(name, HeaderValue::from_static(value));
    }
    let mut own = theirs.clone();
    own.remove("traceparent");
    own.remove("tracestate");
    own.reserve(8);
    // The first number is the thread's own generator's.
    drop(begun(&own));
    let before = theirs.clone();
    let counted = measure(|| begun(&theirs).onward(&mut theirs, true, || false));
    nothing("others have decided", &counted);
    assert_eq!(theirs, before);
    let counted = measure(|| begun(&own).onward(&mut own, true, || false));
    nothing("the next sidecar makes up its id", &counted);
    own.remove("traceparent");
    let counted = measure(|| begun(&own).onward(&mut own, false, || false));
    assert_eq!(counted.count_total, 1, "{counted:?}");
    assert!(own["traceparent"].to_str().unwrap().ends_with("-00"));
}

/// Under `--sample-errors` each call is followed in case that it fails: a piece for its span, and the
/// header in whose name it goes on.
#[tokio::test]
async fn a_call_that_goes_well_is_followed_in_case_it_fails_with_one_piece_of_memory() {
    let resource = Resource {
        service: "here",
        node: "here",
        network: "default",
    };
    let collector = Collector::start("http://127.0.0.1:1", resource, Arc::default()).unwrap();
    let tracing = Tracing::to(&collector, Ratio::new(0.0).unwrap(), true);
    let rule = Arc::new(rule(
        "shop.v1.Orders",
        INTERNAL,
        Lane::GENERAL,
        METHODS,
        "here",
    ));
    let (uri, node) = (
        Uri::from_static("/shop.v1.Orders/Get"),
        NodeId::new("orders-1").unwrap(),
    );
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("traceparent", HeaderValue::from_static(UNSAMPLED));
    headers.insert("tracestate", HeaderValue::from_static("a=1"));
    let followed = |headers: &mut HeaderMap| {
        let span = tracing.begin(headers, Instant::now(), By::App, || Facts {
            kind: Kind::Client,
            uri: &uri,
            named: true,
            way: Some((INTERNAL, Lane::GENERAL)),
            rule: Some(&rule),
            node: None,
            destination: None,
        });
        span.sent(Sent {
            to: Reached {
                node: Some(&node),
                remote: None,
            },
            hedge: false,
        });
        span.onward(headers, true, || false);
        span
    };
    // The first number is the thread's own generator's.
    drop(followed(&mut headers.clone()));
    let counted = measure(|| drop(followed(&mut headers)));
    assert_eq!(counted.count_total, 2, "{counted:?}");
    assert!(counted.bytes_total < 1_024, "{counted:?}");
}
