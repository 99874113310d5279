//! What control says of the mesh, asked as `sidelane nodes` asks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sidelane_proto::wire::admin::v1::ListNodesRequest;
pub use sidelane_proto::wire::admin::v1::Node;
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;

use crate::client;

/// How often control is asked.
const INTERVAL: Duration = Duration::from_millis(20);

/// All nodes that control knows.
///
/// # Errors
/// Control is not there.
pub async fn nodes(control: SocketAddr) -> Result<Vec<Node>> {
    let mut mesh = MeshClient::new(client::channel(control).await?);
    let listed = mesh.list_nodes(ListNodesRequest::default()).await;
    Ok(listed.context("control lists no nodes")?.into_inner().nodes)
}

/// What control says of one node, each time that it names it.
///
/// # Errors
/// Control is not there.
pub async fn entries(control: SocketAddr, node: &str) -> Result<Vec<Node>> {
    let mut nodes = nodes(control).await?;
    nodes.retain(|listed| listed.node_id == node);
    Ok(nodes)
}

/// Waits until what control says of a node is as wanted, and returns it.
///
/// # Panics
/// If it is not within this time: with the last answer.
pub async fn says(
    control: SocketAddr,
    node: &str,
    within: Duration,
    wanted: impl Fn(&[Node]) -> bool,
) -> Vec<Node> {
    let begun = Instant::now();
    loop {
        let last = entries(control, node).await;
        if let Ok(entries) = &last
            && wanted(entries)
        {
            return entries.clone();
        }
        assert!(
            begun.elapsed() < within,
            "control does not say of {node} what was waited for within {within:?}: {last:#?}"
        );
        tokio::time::sleep(INTERVAL).await;
    }
}
