//! Reaching nodes in the ways that need no rule and no registration: the others of a service that
//! one serves oneself, one node's own health, and nodes that only a file names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::Duration;

use sidelane_tests::ask::{ECHO_UNARY, ask, until_answered};
use sidelane_tests::client::RawAnswer;
use sidelane_tests::{Upstream, cluster, services};

/// No rule names it, and the servers of these tests answer UNIMPLEMENTED for it.
const UNRULED: &str = "other.v1.Thing";
const UNRULED_CALL: &str = "/other.v1.Thing/Do";
const UNIMPLEMENTED: i32 = 12;

/// The app itself answered, not the mesh.
fn by_the_app(answer: &RawAnswer) -> bool {
    let status = answer.grpc_status().unwrap();
    let mesh = sidelane_tests::client::mesh_reason(&status);
    mesh.is_none() && status.code() as i32 == UNIMPLEMENTED
}

#[tokio::test]
async fn whoever_serves_a_service_reaches_the_others_that_do() {
    let mut one = Upstream::named("one").start().await;
    let two = Upstream::named("two").start().await;
    let mesh = cluster!()
        .control()
        .node("one")
        .serving(UNRULED, &one)
        .node("two")
        .serving(UNRULED, &two)
        .start()
        .await;

    // By name, although its own is beside it.
    let answer = ask(mesh.node("one"), UNRULED_CALL, &[("sidelane-node", "two")]).await;
    assert!(by_the_app(&answer), "{answer:?}");
    assert!(two.connections() > 0);

    // And without, once its own is gone.
    one.abort();
    let answer = ask(mesh.node("one"), UNRULED_CALL, &[]).await;
    assert!(by_the_app(&answer), "{answer:?}");
}

#[tokio::test]
async fn a_named_nodes_own_health_is_its_apps() {
    let one = Upstream::named("one").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("one")
        .serving(services::ECHO, &one)
        .start()
        .await;
    until_answered(mesh.node("caller")).await;
    let check = "/grpc.health.v1.Health/Check";
    // The app has no health service, and says so itself.
    let answer = ask(mesh.node("caller"), check, &[("sidelane-node", "one")]).await;
    assert!(by_the_app(&answer), "{answer:?}");
    // Without a name, the sidecar answers for the mesh.
    let answer = ask(mesh.node("caller"), check, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code() as i32, 0, "{answer:?}");
    let answer = ask(mesh.node("caller"), check, &[("sidelane-node", "two")]).await;
    assert_eq!(answer.grpc_status().unwrap().code() as i32, 5, "{answer:?}");
}

#[tokio::test]
async fn a_node_that_only_a_file_names_is_called_also_after_an_edit() {
    let one = Upstream::named("one").start().await;
    let two = Upstream::named("two").start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fixed.yaml");
    std::fs::write(&file, "nodes: []\n").unwrap();
    let mesh = cluster!()
        .control()
        .with("--fixed", file.to_str().unwrap())
        .node("caller")
        // They register in another network: the caller's knows them from the file alone.
        .node("one")
        .with("--network", "elsewhere")
        .serving(services::ECHO, &one)
        .node("two")
        .with("--network", "elsewhere")
        .serving(services::ECHO, &two)
        .launch()
        .await;
    for node in mesh.nodes() {
        node.ready().await;
    }
    let text = |node: &str| {
        let address = mesh.node(node).internal();
        let echo = services::ECHO;
        format!(
            "nodes:\n  - node: {node}\n    internal: {address}\n    services:\n      - service: {echo}\n"
        )
    };
    std::fs::write(&file, text("one")).unwrap();
    assert_eq!(until_answered(mesh.node("caller")).await, "one");

    std::fs::write(&file, text("two")).unwrap();
    let again = async {
        while sidelane_tests::ask::who(mesh.node("caller"))
            .await
            .ok()
            .as_deref()
            != Some("two")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .expect("an edit of the file reaches the caller");
    let answer = ask(mesh.node("caller"), ECHO_UNARY, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code() as i32, 0);
}
