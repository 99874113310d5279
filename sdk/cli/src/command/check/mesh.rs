//! What is wrong by what control knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sidelane_proto::wire::admin::v1::{ListNodesResponse, Node};
use sidelane_proto::wire::control::v1::{Health, ServiceState};

use super::agreement::Disagreement;
use super::finding::Finding;
use super::look::Listed;

/// Nobody answers for control, and a sidecar was asked all the same.
pub(super) fn unreachable(why: &str) -> Finding {
    let what = format!("it cannot be asked ({why})");
    let advice =
        "sidecars work on by their last picture; start it again, and see its log if it ends";
    Finding::problem("control_unreachable", "control", what, advice)
}

/// It is there, as a sidecar says, and does not answer us: where it is strict, its own user alone.
pub(super) fn not_asked(why: &str) -> Finding {
    let what = format!("it was not looked at, and is there, as its sidecars say ({why})");
    let advice =
        "to have nodes and services looked at, too, run this where control runs, as its user";
    Finding::problem("control_not_asked", "control", what, advice).only_warns()
}

/// Nodes that refuse each other.
pub(super) fn disagree(found: &Disagreement) -> Finding {
    let what = format!(
        "nodes were compiled with rules that differ, and refuse each other's calls with \
         RULES_MISMATCH: {}",
        found.text()
    );
    let advice = "build all from the same .proto, or push one rule for all with `sidelane apply`";
    Finding::problem("rules_differ", found.service(), what, advice)
}

/// All that is wrong with what control tells.
pub(super) fn findings(listed: &Listed) -> Vec<Finding> {
    let nodes = &listed.nodes.nodes;
    let newest = listed.nodes.version.as_ref().map_or(0, |it| it.counter);
    let mut found = Vec::new();
    found.extend(listed.clock.and_then(|clock| clock.finding("control")));
    if nodes.is_empty() {
        let what = "it knows no node";
        let advice =
            "start one with `sidelane sidecar --node NAME --control HOST:PORT`, and see its log";
        found.push(Finding::problem("no_nodes", "control", what, advice).only_warns());
    }
    for node in nodes {
        found.extend(of_node(node, newest));
    }
    found.extend(versions(&listed.nodes));
    found.extend(addresses(nodes));
    found.extend(identities(nodes));
    found.extend(listed.services.services.iter().filter_map(unserved));
    found
}

fn of_node(node: &Node, newest: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut push = |kind, what: String, advice: &str| {
        found.push(Finding::problem(kind, node.node_id.as_str(), what, advice));
    };
    if !node.connected && node.source == "registration" {
        let seconds = node.silent_ms / 1_000;
        push(
            "node_away",
            format!("it has not been heard of for {seconds} s"),
            "start its sidecar again, or see in its log why it does not reach control",
        );
        return found;
    }
    if node.health() == Health::Unhealthy {
        push(
            "unhealthy",
            format!(
                "of what it offers, not all is well: {}",
                node.services.join(" ")
            ),
            "see /readyz of its sidecar, and the log of the service beside it",
        );
    }
    if node.refused_rules_count > 0 {
        push(
            "rules_refused",
            format!("it does not take applied rules: {}", node.refused),
            "apply what it can follow, or take the rule back with `sidelane apply --remove SERVICE`",
        );
    } else if !node.refused.is_empty() {
        push(
            "update_refused",
            format!("it does not take control's news: {}", node.refused),
            "bring its sidecar to control's version",
        );
    } else if node.connected && node.acknowledged < newest {
        let behind = newest - node.acknowledged;
        push(
            "behind",
            format!("it is {behind} revisions behind control, and comes no nearer"),
            "see whether its machine or the way to it is too busy",
        );
    }
    found
}

/// Programs of more than one version, control among them. One that is older does not say its own.
fn versions(listed: &ListNodesResponse) -> Option<Finding> {
    let mut builds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    if !listed.build.is_empty() {
        builds.entry(&listed.build).or_default().push("control");
    }
    for node in listed
        .nodes
        .iter()
        .filter(|it| it.connected && !it.build.is_empty())
    {
        builds.entry(&node.build).or_default().push(&node.node_id);
    }
    if builds.len() < 2 {
        return None;
    }
    let each = builds
        .iter()
        .map(|(build, nodes)| format!("{build} ({})", some(nodes)));
    let what = format!(
        "programs of different versions run: {}",
        each.collect::<Vec<_>>().join(", ")
    );
    let advice = "finish the upgrade, or take it back; see the changelog for what differs";
    Some(Finding::problem("versions_differ", "mesh", what, advice).only_warns())
}

/// Addresses that lead to somebody else, or nowhere.
fn addresses(nodes: &[Node]) -> Vec<Finding> {
    let dialled: Vec<(&Node, SocketAddr)> = nodes
        .iter()
        .filter(|node| node.connected)
        .filter_map(|node| Some((node, node.addresses.as_ref()?.internal.parse().ok()?)))
        .collect();
    let elsewhere = dialled.iter().any(|(_, at)| !is_own(at.ip()));
    let mut found = Vec::new();
    for (index, (node, at)) in dialled.iter().enumerate() {
        let advice = "give it an address of its own that the others reach: --advertise HOST:PORT";
        let same = dialled[..index]
            .iter()
            .find(|(other, there)| there == at && other.network == node.network);
        if let Some((other, _)) = same {
            let what = format!(
                "peers are told to dial {at}, as they are for {}",
                other.node_id
            );
            found.push(Finding::problem(
                "address_taken",
                node.node_id.as_str(),
                what,
                advice,
            ));
        } else if at.ip().is_unspecified() || elsewhere && at.ip().is_loopback() {
            let what = format!("peers are told to dial {at}, which is themselves");
            found.push(Finding::problem(
                "address_own",
                node.node_id.as_str(),
                what,
                advice,
            ));
        }
    }
    found
}

/// Whoever dials it finds itself.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Nodes with a certificate beside nodes without one do not speak to each other.
fn identities(nodes: &[Node]) -> Option<Finding> {
    let connected = || nodes.iter().filter(|node| node.connected);
    let with = connected().filter(|node| !node.identity.is_empty()).count();
    let bare: Vec<&str> = connected()
        .filter(|node| node.identity.is_empty())
        .map(|node| node.node_id.as_str())
        .collect();
    if with == 0 || bare.is_empty() {
        return None;
    }
    let what = format!("some sidecars show no certificate: {}", some(&bare));
    let advice = "start all with --trust strict; --trust permissive lets both be while you do";
    Some(Finding::problem("trust_differs", "mesh", what, advice))
}

fn unserved(state: &ServiceState) -> Option<Finding> {
    let healthy = |it: &Health| matches!(it, Health::Healthy);
    if state.endpoints.iter().any(|it| healthy(&it.health())) {
        return None;
    }
    let what = match state.endpoints.len() {
        0 => "nobody offers it any more".to_owned(),
        some => format!("none of its endpoints is healthy ({some} known)"),
    };
    let advice =
        "calls to it fail with UNAVAILABLE; start it, or see the log of those that offer it";
    Some(Finding::problem(
        "no_endpoint",
        state.service.as_str(),
        what,
        advice,
    ))
}

/// The first of many names.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(" "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use sidelane_proto::wire::admin::v1::ListServicesResponse;
    use sidelane_proto::wire::control::v1::{Addresses, Endpoint, Version};

    use super::super::finding::Weight;
    use super::*;

    fn node(name: &str, internal: &str) -> Node {
        Node {
            node_id: name.to_owned(),
            source: "registration".to_owned(),
            connected: true,
            health: Health::Healthy.into(),
            addresses: Some(Addresses {
                internal: internal.to_owned(),
                ..Addresses::default()
            }),
            services: vec!["shop.v1.Orders".to_owned()],
            acknowledged: 12,
            build: "0.1.0".to_owned(),
            identity: format!("spiffe://mesh/ns/default/sa/{name}"),
            network: "default".to_owned(),
            ..Node::default()
        }
    }

    fn service(health: &[Health]) -> ServiceState {
        let endpoint = |health: &Health| Endpoint {
            health: (*health).into(),
            ..Endpoint::default()
        };
        ServiceState {
            service: "shop.v1.Orders".to_owned(),
            ever_seen: true,
            endpoints: health.iter().map(endpoint).collect(),
        }
    }

    fn listed(nodes: Vec<Node>, service: ServiceState) -> Listed {
        Listed {
            nodes: ListNodesResponse {
                nodes,
                build: "0.1.0".to_owned(),
                version: Some(Version {
                    store_id: "s".to_owned(),
                    counter: 12,
                }),
                ..ListNodesResponse::default()
            },
            services: ListServicesResponse {
                services: vec![service],
                version: None,
            },
            clock: None,
        }
    }

    /// What is found when one thing is broken in a mesh that is whole.
    fn broken(breaks: impl FnOnce(&mut Node)) -> Vec<(&'static str, Weight, String)> {
        let mut nodes = vec![
            node("orders-1", "10.0.0.1:15006"),
            node("orders-2", "10.0.0.2:15006"),
        ];
        breaks(&mut nodes[1]);
        let listed = listed(nodes, service(&[Health::Healthy, Health::Unhealthy]));
        let found = findings(&listed).into_iter();
        found.map(|it| (it.kind, it.weight, it.text())).collect()
    }

    #[test]
    fn a_mesh_that_is_whole_has_no_findings() {
        assert_eq!(broken(|_| {}), []);
        // Fixed nodes have no stream, and are not to have one.
        let fixed = |node: &mut Node| {
            (node.source, node.connected) = ("fixed".to_owned(), false);
        };
        assert_eq!(broken(fixed), []);
    }

    #[test]
    fn controls_own_version_is_compared_with_the_sidecars() {
        let nodes = vec![
            node("orders-1", "10.0.0.1:15006"),
            node("orders-2", "10.0.0.2:15006"),
        ];
        let mut listed = listed(nodes, service(&[Health::Healthy]));
        "0.2.0".clone_into(&mut listed.nodes.build);
        let found = findings(&listed);
        assert_eq!(found.len(), 1);
        assert!(found[0].text().starts_with(
            "mesh: programs of different versions run: 0.1.0 (orders-1 orders-2), 0.2.0 (control): "
        ));
        // One that is older says nothing of it.
        listed.nodes.build.clear();
        assert!(findings(&listed).is_empty());
    }

    #[test]
    fn each_thing_that_is_broken_has_a_line_that_says_what_to_do() {
        type Breaks = fn(&mut Node);
        let cases: [(Breaks, &str, Weight, &str); 9] = [
            (
                |node| (node.connected, node.silent_ms) = (false, 45_200),
                "node_away",
                Weight::Problem,
                "orders-2: it has not been heard of for 45 s: start its sidecar again",
            ),
            (
                |node| node.health = Health::Unhealthy.into(),
                "unhealthy",
                Weight::Problem,
                "orders-2: of what it offers, not all is well: shop.v1.Orders: see /readyz",
            ),
            (
                |node| {
                    node.refused = "shop.v1.Orders: no lane is called bulk".to_owned();
                    node.refused_rules_count = 1;
                },
                "rules_refused",
                Weight::Problem,
                "no lane is called bulk: apply what it can follow",
            ),
            (
                |node| node.refused = "upserts[0].addresses: none".to_owned(),
                "update_refused",
                Weight::Problem,
                "upserts[0].addresses: none: bring its sidecar to control's version",
            ),
            (
                |node| node.acknowledged = 10,
                "behind",
                Weight::Problem,
                "orders-2: it is 2 revisions behind control",
            ),
            (
                |node| node.build = "0.2.0".to_owned(),
                "versions_differ",
                Weight::Warning,
                "mesh: programs of different versions run: 0.1.0 (control orders-1), 0.2.0 (orders-2): finish",
            ),
            (
                |node| node.addresses = self::node("", "10.0.0.1:15006").addresses,
                "address_taken",
                Weight::Problem,
                "orders-2: peers are told to dial 10.0.0.1:15006, as they are for orders-1: give it",
            ),
            (
                |node| node.addresses = self::node("", "127.0.0.1:15006").addresses,
                "address_own",
                Weight::Problem,
                "orders-2: peers are told to dial 127.0.0.1:15006, which is themselves: give it",
            ),
            (
                |node| node.identity.clear(),
                "trust_differs",
                Weight::Problem,
                "mesh: some sidecars show no certificate: orders-2: start all with --trust strict",
            ),
        ];
        for (breaks, kind, weight, text) in cases {
            let found = broken(breaks);
            assert_eq!(found.len(), 1, "{kind}: {found:?}");
            assert_eq!((found[0].0, found[0].1), (kind, weight));
            assert!(found[0].2.contains(text), "{found:?}");
        }
    }

    #[test]
    fn all_on_one_machine_may_be_on_loopback() {
        let nodes = vec![node("a", "127.0.0.1:1"), node("b", "127.0.0.1:2")];
        assert_eq!(addresses(&nodes), []);
        let nodes = vec![node("a", "0.0.0.0:1"), node("b", "127.0.0.1:2")];
        assert_eq!(addresses(&nodes)[0].kind, "address_own");
    }

    #[test]
    fn a_service_that_nobody_serves_is_told_and_so_is_an_empty_mesh() {
        let unserved = |health: &[Health]| unserved(&service(health)).map(|it| it.what);
        assert_eq!(unserved(&[Health::Unhealthy, Health::Healthy]), None);
        assert_eq!(
            unserved(&[Health::Unhealthy, Health::Draining]).as_deref(),
            Some("none of its endpoints is healthy (2 known)")
        );
        assert_eq!(unserved(&[]).as_deref(), Some("nobody offers it any more"));
        let empty = findings(&listed(Vec::new(), service(&[Health::Healthy])));
        assert_eq!((empty.len(), empty[0].kind), (1, "no_nodes"));
    }
}
