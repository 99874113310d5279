//! Which nodes disagree. What breaks is tested beside the comparison, and both as a command.

use sidelane_proto::wire::control::v1::Endpoint;
use sidelane_proto::wire::routing::v1 as wire;

use super::*;

fn endpoint(node: &str, rule: Option<wire::Rule>) -> Endpoint {
    Endpoint {
        service: "a.A".to_owned(),
        node_id: node.to_owned(),
        rule,
        ..Endpoint::default()
    }
}

fn rule(origin: &str, secure: bool) -> Option<wire::Rule> {
    Some(wire::Rule {
        service: "a.A".to_owned(),
        connection: wire::Connection::Internal.into(),
        lane: "general".to_owned(),
        secure,
        origin: origin.to_owned(),
        ..wire::Rule::default()
    })
}

fn listed(endpoints: Vec<Endpoint>) -> ListServicesResponse {
    ListServicesResponse {
        services: vec![ServiceState {
            service: "a.A".to_owned(),
            ever_seen: true,
            endpoints,
        }],
        version: None,
    }
}

#[test]
fn nodes_that_disagree_are_told_with_where_they_have_it_from() {
    let listed = listed(vec![
        endpoint("n-1", rule("old.proto:3", false)),
        endpoint("n-2", rule("new.proto:5", true)),
        endpoint("n-3", rule("old.proto:3", false)),
        endpoint("n-4", None),
    ]);
    let found = disagreements(&listed);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].text(),
        "Internal general not secure (old.proto:3) on n-1 n-3; Internal general secure (new.proto:5) \
         on n-2"
    );
    let json = found[0].json();
    assert_eq!(json["sides"][1]["nodes"][0], "n-2");
    assert_eq!(json["sides"][0]["origins"][0], "old.proto:3");
}

#[test]
fn tuning_that_differs_and_nodes_without_a_rule_are_no_disagreement() {
    let mut tuned = rule("new.proto:5", false);
    tuned.as_mut().unwrap().persistent = true;
    let listed = listed(vec![
        endpoint("n-1", rule("old.proto:3", false)),
        endpoint("n-2", tuned),
        endpoint("n-3", None),
    ]);
    assert!(disagreements(&listed).is_empty());
}
