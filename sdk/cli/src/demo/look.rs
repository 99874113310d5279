//! How to look around in a demo that was left running: commands that can be copied as they stand.

use super::cluster::{Cluster, STOREFRONT};
use super::message::Kind;

/// A node that the storefront calls; each call is seen there a second time.
const CALLED: &str = "orders-1";

/// One line each.
pub(super) fn lines(cluster: &mut Cluster) -> Vec<String> {
    // As the user called this program, so that the commands work where they are typed.
    let name = std::env::args_os().next();
    let sidelane = name.map_or_else(
        || "sidelane".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    let control = cluster.control_text();
    let storefront = cluster.node(STOREFRONT);
    let (admin, outbound) = (storefront.admin, storefront.outbound);
    let orders = cluster.node(CALLED).admin;
    let unary = Kind::Unary.path();
    let bulk = Kind::Bulk.path();
    let mut lines = vec![
        "it goes on, with its load; look around from another terminal:".to_owned(),
        format!("  {sidelane} nodes --control {control}"),
        format!("  {sidelane} services --control {control}"),
        format!("  {sidelane} explain {unary} --sidecar http://{admin}"),
        format!("  {sidelane} explain {bulk} --sidecar http://{admin}"),
        format!("  {sidelane} check --control {control} --sidecar http://{admin},http://{orders}"),
        format!("  {sidelane} top --sidecar http://{admin},http://{orders}"),
        format!("  {sidelane} lanes --sidecar http://{admin}"),
        format!(
            "  {sidelane} tap --sidecar http://{admin},http://{orders} --above 1ms --limit 20 --for 10s"
        ),
        format!("  curl http://{admin}/metrics"),
        format!("  curl http://{admin}/config"),
        format!("  curl http://{}/readyz", cluster.control_admin()),
        format!("  SIDELANE_TARGET=http://{outbound} is where a program of yours would call"),
    ];
    let folder = cluster.folder().path().display();
    lines.push(format!("  data and logs: {folder}"));
    lines.push("Ctrl-C ends all of it".to_owned());
    lines
}
