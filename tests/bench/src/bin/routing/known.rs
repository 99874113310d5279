//! The ways to a rule, each to be repeated alone. Where the service is known when the program is
//! compiled, its type should cost what a constant costs that somebody wrote by hand.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use sidelane::define_service_routing;
use sidelane::routing::{
    ConnectionClass, General, Internal, Lane, MethodRule, PathIndex, ServiceRouting,
};
use sidelane_proto::model::ServiceName;
use sidelane_sidecar::telemetry::{Carried, Direction, Metrics, Outcome, Side, Traffic};

use crate::table;

const SERVICES: usize = 1_000;
const PATH: &str = "/shop.v1.Orders/GetOrder";

define_service_routing!(
    Orders,
    service = "shop.v1.Orders",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = ConsistentHash,
    timeout = Duration::from_secs(30),
    methods = [MethodRule::unary("GetOrder").idempotent()],
);

/// A way to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// By the service's type.
    Typed,
    /// Constants that were written by hand.
    Constant,
    /// A `match` of paths that was written by hand.
    Match,
    /// The look-up in a table of 1,000 services, by a path that is in it.
    LookUp,
    /// No way to a rule: what is counted of a call, and how long it took, as a sidecar does it.
    Counted,
}

/// What a caller wants to know of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    class: ConnectionClass,
    lane: Lane,
    secure: bool,
    persistent: bool,
    timeout: Option<Duration>,
}

/// Goes one way so often.
pub(crate) fn repeat(way: Way, times: u64) {
    match way {
        Way::Typed => again(times, typed::<Orders>),
        Way::Constant => again(times, by_hand),
        Way::Match => again(times, || by_match(black_box(PATH))),
        Way::LookUp => {
            let rules = table::rules(SERVICES);
            let services = rules.iter().map(|rule| (&*rule.service, &*rule.methods));
            let index = PathIndex::new(services);
            let paths = table::paths(rules);
            let mut paths = paths.iter().cycle();
            again(times, || {
                paths.next().map(|path| index.find(black_box(path)))
            });
        }
        Way::Counted => counted(times),
    }
}

/// Counts so many calls of one method.
fn counted(times: u64) {
    let metrics = Arc::new(Metrics::default());
    let rule = Arc::new(Orders::RULE.clone());
    #[allow(clippy::expect_used, reason = "a constant, which the test below reads")]
    let name = ServiceName::new(Orders::NAME).expect("a name of a service");
    let counters = metrics.service(&name, Direction::Outbound, &rule);
    let peer = metrics.peer("orders-1", rule.class, rule.lane);
    let lane = metrics.lane(rule.class, rule.lane, Side::Dialled);
    let carried = Carried {
        bytes: 133,
        messages: 1,
    };
    let traffic = Traffic {
        request: carried,
        response: carried,
    };
    // A sidecar takes that for other reasons, too.
    let arrived = Instant::now();
    again(times, || {
        peer.came();
        let on_link = lane.call();
        lane.sent(black_box(256));
        lane.received(black_box(192));
        let guard = metrics.call(counters.of(black_box(Some(0))), black_box(arrived));
        guard.carried(black_box(traffic));
        guard.attempted();
        guard.ended(black_box(Outcome::Answered(0)));
        drop(on_link);
    });
}

fn again<T>(times: u64, mut what: impl FnMut() -> T) {
    for _ in 0..times {
        black_box(what());
    }
}

fn typed<S: ServiceRouting>() -> Facts {
    // One for the whole program. Without the reference it is a copy, made and dropped each time.
    let rule = const { &S::RULE };
    Facts {
        class: rule.class,
        lane: rule.lane,
        secure: rule.secure,
        persistent: rule.persistent,
        timeout: rule.timeout,
    }
}

/// As somebody writes it who knows the service: the same form as above, and the values in place.
fn by_hand() -> Facts {
    Facts {
        class: ConnectionClass::Internal,
        lane: Lane::GENERAL,
        secure: true,
        persistent: true,
        timeout: Some(Duration::from_secs(30)),
    }
}

fn by_match(path: &str) -> Option<Facts> {
    match path {
        "/shop.v1.Orders/GetOrder" | "/shop.v1.Orders/PutOrder" => Some(by_hand()),
        "/shop.v1.Log/Append" => Some(Facts {
            lane: Lane::BIFROST_DATA,
            ..by_hand()
        }),
        "/shop.v1.Front/Show" => Some(Facts {
            class: ConnectionClass::External,
            lane: Lane::INGRESS_DATA,
            ..by_hand()
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_leads_to_the_same_facts() {
        assert_eq!(typed::<Orders>(), by_hand());
        assert_eq!(by_match(PATH), Some(by_hand()));
        assert_eq!(by_match("/shop.v1.Orders/Get"), None);
        repeat(Way::Counted, 2);
        let methods = <Orders as ServiceRouting>::METHODS;
        let index = PathIndex::new([(Orders::NAME, methods)]);
        let found = index.find(PATH).unwrap();
        assert_eq!((found.service, found.method), (Some(0), Some(0)));
    }
}
