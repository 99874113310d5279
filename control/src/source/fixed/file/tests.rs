//! What a fixed file may say, and what is said about one that is wrong.

use super::*;

fn parsed(text: &str) -> Vec<NodeRecord> {
    parse(Path::new("fixed.yaml"), text).unwrap()
}

fn refused(text: &str) -> String {
    parse(Path::new("fixed.yaml"), text)
        .unwrap_err()
        .to_string()
}

#[test]
fn the_example_says_all_that_can_be_said() {
    let nodes = parsed(EXAMPLE);
    assert_eq!(nodes.len(), 1);
    let node = &nodes[0];
    assert_eq!(node.key.to_string(), "default/billing-1");
    assert_eq!(
        node.identity.as_ref().unwrap().as_str(),
        "spiffe://example.org/ns/shop/sa/billing"
    );
    assert_eq!(&*node.locality.zone, "eu-central-1a");
    assert_eq!(
        node.addresses.external.as_ref().unwrap().as_str(),
        "billing.example.org:15443"
    );
    let offer = &node.offers[0];
    assert_eq!(offer.service.as_str(), "shop.v1.Billing");
    assert_eq!((offer.weight, &*offer.version), (100, "v2"));
    assert_eq!(offer.labels["stage"], "canary");
    assert_eq!(offer.health, Health::Healthy);
}

#[test]
fn what_may_be_left_out_may_be_left_out() {
    let nodes = parsed(
        "nodes:\n- node: n\n  internal: 10.0.0.7:15006\n  services:\n  - service: a.A\n    version: 2\n",
    );
    assert_eq!(nodes[0].key.network.as_str(), DEFAULT_NETWORK);
    let offer = &nodes[0].offers[0];
    assert_eq!((offer.weight, &*offer.version), (100, "2"));
    let weighed = "nodes:\n- node: n\n  internal: 10.0.0.7:15006\n  services:\n  - service: a.A\n    weight: 7\n";
    assert_eq!(parsed(weighed)[0].offers[0].weight, 7);
    assert!(parsed("nodes: []").is_empty());
}

#[test]
fn each_mistake_is_named_with_its_line() {
    let node = "nodes:\n  - node: n\n    internal: 10.0.0.7:15006\n";
    let with = |rest: &str| format!("{node}{rest}");
    let cases = [
        (
            "knots: []".to_owned(),
            "line 1: `knots` is not a key here; the keys are nodes; the nearest is `nodes`",
        ),
        (
            with("    adress: x\n    services: []\n"),
            "line 4: `adress` is not a key here; the keys are node, network, identity, region, \
             zone, internal, external, services; the nearest is `node`",
        ),
        (
            with("    services:\n      - service: a.A\n        wieght: 5\n"),
            "line 6: `wieght` is not a key here; the keys are service, weight, version, labels, \
             health; the nearest is `weight`",
        ),
        (with(""), "line 3: the key `services` is missing"),
        (
            with("    services:\n      - service: a.A\n        health: helthy\n"),
            "line 6: `helthy` is not a health; there are healthy, unhealthy, draining; the nearest \
             is `healthy`",
        ),
        (
            with("    services:\n      - service: 9.A\n"),
            "line 5: service `9.A` is not a gRPC service name such as `shop.v1.Orders`",
        ),
        (
            with("    services:\n      - service: a.A\n        weight: 10001\n"),
            "line 5: weight `10001` is not a weight of at most 10000",
        ),
        (
            with("    services:\n      - service: a.A\n      - service: a.A\n"),
            "line 6: service `a.A` is named twice in one node",
        ),
        (
            with("    services: []\n  - node: n\n    external: x:1\n    services: []\n"),
            "line 5: node `default/n` is named twice, first in line 2",
        ),
        (
            with("    internal: 10.0.0.8:1\n    services: []\n"),
            "line 4: `internal` is there twice",
        ),
        (
            "nodes:\n  - node: n\n    services: []\n".to_owned(),
            "line 2: node `n` has no address: write `internal: HOST:PORT`, `external: HOST:PORT`, \
             or both",
        ),
        (
            "nodes:\n  - node: n\n    internal: nowhere\n    services: []\n".to_owned(),
            "line 3: internal `nowhere` is not a host and port such as `10.0.0.7:15006`",
        ),
        (
            "nodes:\n  - node: a b\n    internal: x:1\n    services: []\n".to_owned(),
            "line 2: node_id `a b` is not a node id (letters, digits, `.`, `_`, `-`)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(
            refused(&text),
            format!("the fixed file fixed.yaml, {expected}"),
            "for {text}"
        );
    }
}

#[test]
fn what_is_no_yaml_is_named_with_its_line() {
    for text in [
        "nodes:\n  - [\n",
        "nodes: 5\n",
        "- a\n",
        "",
        "nodes:\n\t- x\n",
    ] {
        let error = refused(text);
        assert!(
            error.starts_with("the fixed file fixed.yaml, line "),
            "{text:?}: {error}"
        );
    }
}
