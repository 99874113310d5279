//! What the control plane says about the demo's mesh, asked the way `sidelane nodes` asks.

use sidelane_proto::wire::control::v1::Health;

use crate::command::control::{self, ControlError};

/// A node as control lists it.
pub(super) use sidelane_proto::wire::admin::v1::Node as Listed;

/// All nodes that the control plane at `address` knows.
pub(super) async fn list(address: &str) -> Result<Vec<Listed>, ControlError> {
    let mut control = control::connect(&[address.to_owned()]).await?;
    Ok(control.list_nodes("").await?.nodes)
}

/// Finds a node that is connected and healthy, with all these services.
pub(super) fn healthy<'a>(
    nodes: &'a [Listed],
    id: &str,
    services: &[&str],
) -> Result<&'a Listed, String> {
    let Some(node) = nodes.iter().find(|node| node.node_id == id) else {
        let known: Vec<_> = nodes.iter().map(|node| node.node_id.as_str()).collect();
        return Err(format!("control does not know {id}, only {known:?}"));
    };
    if !node.connected {
        return Err(format!("{id} is not connected to control"));
    }
    if let Some(missing) = services
        .iter()
        .find(|wanted| !node.services.iter().any(|service| service == *wanted))
    {
        return Err(format!(
            "{id} does not offer {missing}, only {:?}",
            node.services
        ));
    }
    // A node that offers nothing has no health of its own.
    if !services.is_empty() && node.health() != Health::Healthy {
        return Err(format!("{id} is {}", node.health().as_str_name()));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, health: Health, services: &[&str]) -> Listed {
        Listed {
            node_id: id.to_owned(),
            connected: true,
            health: health.into(),
            services: services
                .iter()
                .map(|service| (*service).to_owned())
                .collect(),
            ..Listed::default()
        }
    }

    #[test]
    fn a_node_that_is_not_right_is_told_with_what_is_wrong() {
        let mut nodes = vec![node("orders-1", Health::Draining, &["shop.v1.Orders"])];
        let wrong = |nodes: &[Listed], id, services: &[&str]| healthy(nodes, id, services).err();
        assert_eq!(
            wrong(&nodes, "orders-2", &[]).unwrap(),
            "control does not know orders-2, only [\"orders-1\"]"
        );
        assert_eq!(
            wrong(&nodes, "orders-1", &["shop.v1.Orders"]).unwrap(),
            "orders-1 is DRAINING"
        );
        assert_eq!(
            wrong(&nodes, "orders-1", &["shop.v1.OrderLog"]).unwrap(),
            "orders-1 does not offer shop.v1.OrderLog, only [\"shop.v1.Orders\"]"
        );
        nodes[0].health = Health::Healthy.into();
        assert_eq!(wrong(&nodes, "orders-1", &["shop.v1.Orders"]), None);
        nodes[0].connected = false;
        assert_eq!(
            wrong(&nodes, "orders-1", &[]).unwrap(),
            "orders-1 is not connected to control"
        );
        // The storefront offers nothing, so it has no health.
        nodes[0] = node("storefront", Health::Unspecified, &[]);
        assert_eq!(wrong(&nodes, "storefront", &[]), None);
    }
}
