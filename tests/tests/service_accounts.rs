//! Sidecars that join by a Kubernetes service account's token, at a control that asks a cluster whose
//! it is: real processes, and an API server that answers as a cluster's does.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::path::{Path, PathBuf};

use sidelane_tests::admin::Answer;
use sidelane_tests::api_server::ApiServer;
use sidelane_tests::ask::until_answered;
use sidelane_tests::cluster::Node;
use sidelane_tests::{Cluster, Upstream, certificates, cluster, exclusive, services};

const ORDERS: &str = "spiffe://sidelane.internal/ns/shop/sa/orders";
const FIRST: &str = "first.token.of-orders-in-its-pod";
const SECOND: &str = "second.token.of-orders-in-its-pod";
const THIRD: &str = "third.token.of-orders-in-another-pod";

/// A mesh whose control asks this cluster, with a callee of control's own user.
async fn mesh(cluster: &ApiServer, upstream: &Upstream, flags: &[(&str, &str)]) -> Cluster {
    let mut mesh = cluster!().enrolled().control();
    for (flag, value) in cluster.flags() {
        mesh = mesh.with(flag, &value);
    }
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    mesh.node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

/// What control's roots are now, in a file, as a pod is given them.
async fn roots(mesh: &Cluster) -> PathBuf {
    let path = mesh.folder().join("roots.pem");
    std::fs::write(&path, mesh.done(&["root", "show"]).await).unwrap();
    path
}

/// One more node, in a pod: no join file is there.
async fn pod<'a>(mesh: &'a mut Cluster, name: &str, token: &Path, roots: &Path) -> &'a Node {
    let text = |path: &Path| path.display().to_string();
    let (token, roots) = (text(token), text(roots));
    let elsewhere = mesh.elsewhere();
    let flags = [
        "--service-account-token",
        token.as_str(),
        "--control-roots",
        roots.as_str(),
        "--log",
        "debug",
    ];
    let variables = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    mesh.add(name, &flags, &variables).await
}

async fn until_told(node: &Node, part: &str) {
    let told = |answer: &Answer| answer.status == 503 && answer.body.contains(part);
    node.answers("/readyz", told).await;
}

#[tokio::test]
async fn a_pod_joins_by_its_accounts_token_and_waits_where_the_cluster_does_not_vouch_for_it() {
    let cluster = ApiServer::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = mesh(&cluster, &upstream, &[]).await;
    let roots = roots(&mesh).await;
    let token = cluster.mounted("orders-1", FIRST);

    // Nobody's yet: it says so, and goes on asking, each time with what the file says then.
    let orders = pod(&mut mesh, "orders-1", &token, &roots).await;
    until_told(orders, "KUBERNETES_REFUSED").await;
    cluster.vouch(SECOND, "shop:orders", "orders-1");
    let _ = cluster.mounted("orders-1", SECOND);
    orders.ready().await;
    assert_eq!(orders.config().await["certificate"]["identity"], ORDERS);
    assert_eq!(until_answered(orders).await, "callee");

    // Another pod's token is good for that pod alone.
    let other = pod(&mut mesh, "orders-2", &token, &roots).await;
    until_told(other, "OTHER_NODE").await;
    until_told(other, "--node orders-1").await;

    // Who answers there is not the control that the roots are of: nothing is shown to it.
    let strangers = mesh.folder().join("strangers.pem");
    let others = certificates::domain_root("sidelane.internal");
    std::fs::write(&strangers, others).unwrap();
    let lost = pod(&mut mesh, "orders-3", &token, &strangers).await;
    until_told(lost, "--control-roots may name").await;

    // While another root comes, the old one is enough.
    mesh.done(&["root", "rotate"]).await;
    let both = mesh.done(&["root", "show"]).await;
    assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2, "{both}");
    cluster.vouch(THIRD, "shop:orders", "orders-4");
    let token = cluster.mounted("orders-4", THIRD);
    let late = pod(&mut mesh, "orders-4", &token, &roots).await;
    late.ready().await;
    assert_eq!(until_answered(late).await, "callee");

    for node in mesh.nodes() {
        for said in [
            node.log(),
            node.get("/config").await.body,
            node.get("/metrics").await.body,
            node.get("/readyz").await.body,
            mesh.control().log(),
        ] {
            for token in [FIRST, SECOND, THIRD] {
                assert!(!said.contains(token), "a token is in {said}");
            }
        }
    }
}

#[tokio::test]
async fn what_no_certificate_leads_back_from_the_token_of_that_moment_does() {
    let _turn = exclusive().await;
    let cluster = ApiServer::start().await;
    let upstream = Upstream::named("callee").start().await;
    let flags = [("--leaf-life", "3s"), ("--renewal-grace", "0s")];
    let mut mesh = mesh(&cluster, &upstream, &flags).await;
    let roots = roots(&mesh).await;
    cluster.vouch(FIRST, "shop:orders", "orders-1");
    let token = cluster.mounted("orders-1", FIRST);
    pod(&mut mesh, "orders-1", &token, &roots)
        .await
        .ready()
        .await;
    mesh.control().kill().await;
    let orders = mesh.node("orders-1");
    // A handshake knows the time to the second.
    let ended = |it: &Answer| {
        it.body.contains("the certificate ended") && !it.body.contains("ended 0 s ago")
    };
    orders.answers("/readyz", ended).await;
    // Meanwhile the cluster has replaced the token, and the one before is nobody's.
    cluster.forget(FIRST);
    cluster.vouch(SECOND, "shop:orders", "orders-1");
    let _ = cluster.mounted("orders-1", SECOND);
    mesh.control().start_again().await;
    mesh.control().ready().await;
    orders.ready().await;
    assert_eq!(orders.config().await["certificate"]["identity"], ORDERS);
    assert_eq!(until_answered(orders).await, "callee");
}
