//! The YAML of `sidelane apply`: what it takes, control and the sidecars take.

use sidelane_proto::model::PushedRule;
use sidelane_proto::wire::routing::v1 as wire;

use crate::{Target, rules};

pub(crate) const TARGET: Target = Target {
    name: "yaml",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for rule in sidelane_cli::read_yaml(text).unwrap_or_default() {
        let own = rule
            .rule
            .as_ref()
            .is_some_and(|rule| rule.lane_definition.is_some() || rule.class_definition.is_some());
        match PushedRule::try_from(rule) {
            Ok(pushed) => rules::holds(&pushed),
            // A lane or class of this file may contradict one of a file that was read before.
            Err(error) => assert!(own, "{error}\n{text}"),
        }
    }
}

/// Real rules, as control is told them.
pub(crate) fn rules() -> Vec<wire::PushedRule> {
    let texts = [EVERY, SMALL];
    let read = |text| sidelane_cli::read_yaml(text).expect("these are right");
    texts.into_iter().flat_map(read).collect()
}

/// A rule of each kind, and every policy.
const EVERY: &str = r#"
rules:
  - service: shop.v1.Orders
    connection: INTERNAL
    lane: general
    secure: true
    persistent: true
    load_balancing: PEAK_EWMA
    timeout: 2s
    max_timeout: 30s
    retry: { attempts: 3, on: [UNAVAILABLE], pause: 10ms, max_pause: 200ms, budget_percent: 20, budget_per_second: 10 }
    breaker: { consecutive_failures: 5, success_percent: 50, min_calls: 20, interval: 10s }
    outlier: { below_mean: 25, min_calls: 20, max_percent: 50 }
    limits:
      - { requests_per_second: 100, burst: 50, per: [CALLER] }
    concurrency: { max_in_flight: 100, queue: 10, longest_wait: 50ms }
    fault: { abort_percent: 5, abort_status: UNAVAILABLE, header: x-test, header_value: drill }
    split:
      label: version
      parts:
        - { value: v1, percent: 90 }
        - { value: v2, percent: 10, header: x-canary, header_value: "yes" }
    authorization:
      allow:
        - { identity: "spiffe://mesh.example/ns/shop/sa/cart" }
        - { namespace: billing, trust_domain: mesh.example }
        - { prefix: "spiffe://mesh.example/ns/shop/sa/worker-", connection: INTERNAL, lane: general }
      dry_run: true
    methods:
      - name: Get
        idempotent: true
        timeout: 800ms
        hash_on: order_id
        hedge: { after: 50ms, max_attempts: 2 }
      - name: Watch
        server_streaming: true
"#;

/// One that only tunes, and one of the edge.
const SMALL: &str = r#"
rules:
  - service: shop.v1.Billing
    timeout: 5s
    hash_header: x-user-id
    locality: IGNORE
    slow_start: 10s
    concurrency:
      adaptive: { min: 1, max: 1000, tolerance_percent: 25, remeasure: 10s }
  - service: shop.v1.Front
    connection: EXTERNAL
    lane: ingress_data
"#;

fn seeds() -> Vec<Vec<u8>> {
    let lanes = "classes:\n  - { number: 16, name: partners, lanes: [general] }\nlanes:\n  - { id: 20, name: telemetry, connections: [INTERNAL], window: 65536, max_streams: 32 }\nrules:\n  - { service: a.B, connection: INTERNAL, lane: telemetry }\n";
    let mut seeds = [
        EVERY,
        SMALL,
        lanes,
        "rules: []",
        "rules:\n  - service: [",
        "a: &x [*x]",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    seeds.push(b"rules:\n  - { service: shop.v1.A, timeout: 1h }\n".to_vec());
    seeds
}
