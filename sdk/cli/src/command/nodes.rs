//! `sidelane nodes`: every node that control knows, and how it stands with it.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_process::settings::Program;
use sidelane_proto::wire::admin::v1::{ListNodesResponse, Node};

use super::arguments::{self, CONTROL, Format, NETWORK, OUTPUT, Usage, plain};
use super::output::Table;
use super::{Failure, block_on, control, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane nodes",
        version: env!("CARGO_PKG_VERSION"),
        about: "Lists the nodes that control knows",
        flags: &[CONTROL, NETWORK, OUTPUT],
    },
    operand: None,
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let addresses = control::addresses(&arguments.settings)?;
    let network = arguments.settings.optional(&NETWORK, plain)?;
    let listed = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.list_nodes(&network.unwrap_or_default()).await
    })??;
    match format {
        Format::Json => output::json(&json(&listed))?,
        Format::Table => output::text(&table(&listed))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(listed: &ListNodesResponse) -> String {
    if listed.nodes.is_empty() {
        return "control knows no node; start one with `sidelane sidecar --control …`\n".to_owned();
    }
    let newest = listed.version.as_ref().map_or(0, |version| version.counter);
    let mut table = Table::new(&[
        "node",
        "health",
        "stream",
        "revision",
        "generation",
        "internal",
        "external",
        "source",
        "services",
    ]);
    for node in &listed.nodes {
        let addresses = node.addresses.clone().unwrap_or_default();
        table.row([
            node.node_id.clone(),
            health(node),
            stream(node),
            revision(node, newest),
            node.generation.to_string(),
            or_dash(&addresses.internal),
            or_dash(&addresses.external),
            or_dash(&node.source),
            or_dash(&node.services.join(" ")),
        ]);
    }
    let refusals = listed.nodes.iter().filter(|node| !node.refused.is_empty());
    let refusals = refusals.map(|node| {
        let what = match node.refused_rules_count {
            0 => "refused an update:",
            _ => "refuses",
        };
        format!("  {} {what} {}\n", node.node_id, node.refused)
    });
    table.text() + &refusals.collect::<String>()
}

/// A node that offers nothing has no health.
fn health(node: &Node) -> String {
    if node.services.is_empty() {
        return "-".to_owned();
    }
    node.health().as_str_name().to_lowercase()
}

fn stream(node: &Node) -> String {
    if node.connected {
        return "open".to_owned();
    }
    let seconds = node.silent_ms / 1_000;
    format!("closed, {seconds} s silent")
}

/// What a node that is away had acknowledged says nothing of what it holds when it comes back.
fn revision(node: &Node, newest: u64) -> String {
    if !node.connected {
        return "-".to_owned();
    }
    match newest.saturating_sub(node.acknowledged) {
        0 => node.acknowledged.to_string(),
        behind => format!("{} ({behind} behind)", node.acknowledged),
    }
}

fn or_dash(text: &str) -> String {
    let text = if text.is_empty() { "-" } else { text };
    text.to_owned()
}

fn json(listed: &ListNodesResponse) -> Value {
    let node = |node: &Node| {
        let addresses = node.addresses.clone().unwrap_or_default();
        let locality = node.locality.clone().unwrap_or_default();
        json!({
            "node_id": node.node_id,
            "generation": node.generation,
            "source": node.source,
            "connected": node.connected,
            "health": node.health().as_str_name(),
            "addresses": { "internal": addresses.internal, "external": addresses.external },
            "locality": { "region": locality.region, "zone": locality.zone },
            "services": node.services,
            "acknowledged": node.acknowledged,
            "refused": node.refused,
            "build": node.build,
            "silent_ms": node.silent_ms,
            "identity": node.identity,
            "network": node.network,
            "refused_rules": node.refused_rules.iter().map(|refused| json!({
                "service": refused.service,
                "revision": refused.version,
                "field": refused.field,
                "problem": refused.problem,
            })).collect::<Vec<_>>(),
            "refused_rules_count": node.refused_rules_count,
        })
    };
    let version = listed.version.clone().unwrap_or_default();
    json!({
        "nodes": listed.nodes.iter().map(node).collect::<Vec<_>>(),
        "version": { "store_id": version.store_id, "counter": version.counter },
        "unix_ms": listed.unix_ms,
        "build": listed.build,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_proto::wire::control::v1::{Addresses, Health, Version};

    fn listed() -> ListNodesResponse {
        let orders = Node {
            node_id: "orders-1".to_owned(),
            generation: 7,
            source: "registration".to_owned(),
            connected: true,
            health: Health::Healthy.into(),
            addresses: Some(Addresses {
                internal: "127.0.0.1:15006".to_owned(),
                external: String::new(),
                own: Vec::new(),
            }),
            services: vec!["shop.v1.Orders".to_owned()],
            acknowledged: 12,
            ..Node::default()
        };
        let late = Node {
            node_id: "orders-2".to_owned(),
            connected: true,
            acknowledged: 10,
            ..orders.clone()
        };
        let storefront = Node {
            node_id: "storefront".to_owned(),
            generation: 8,
            network: "other".to_owned(),
            silent_ms: 4_200,
            refused: "upserts[0].addresses: none".to_owned(),
            ..Node::default()
        };
        ListNodesResponse {
            nodes: vec![orders, late, storefront],
            version: Some(Version {
                store_id: "s".to_owned(),
                counter: 12,
            }),
            ..ListNodesResponse::default()
        }
    }

    #[test]
    fn people_see_who_is_behind_and_who_refused() {
        let text = table(&listed());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows[1].join(" "),
            "orders-1 healthy open 12 7 127.0.0.1:15006 - registration shop.v1.Orders"
        );
        assert!(
            rows[2]
                .join(" ")
                .starts_with("orders-2 healthy open 10 (2 behind) 7 ")
        );
        assert_eq!(
            rows[3].join(" "),
            "storefront - closed, 4 s silent - 8 - - - -"
        );
        assert_eq!(
            rows[4].join(" "),
            "storefront refused an update: upserts[0].addresses: none"
        );
    }

    #[test]
    fn an_empty_mesh_says_how_to_fill_it() {
        assert_eq!(
            table(&ListNodesResponse::default()),
            "control knows no node; start one with `sidelane sidecar --control …`\n"
        );
    }

    #[test]
    fn programs_see_every_field() {
        let json = json(&listed());
        assert_eq!(json["version"]["counter"], 12);
        assert_eq!(json["nodes"][0]["health"], "HEALTHY");
        assert_eq!(json["nodes"][0]["addresses"]["internal"], "127.0.0.1:15006");
        assert_eq!(json["nodes"][2]["silent_ms"], 4_200);
        assert_eq!(json["nodes"][0].as_object().unwrap().len(), 16);
    }
}
