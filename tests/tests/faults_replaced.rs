//! A second process takes a node's id while the first one lives: the newer one is the node. The
//! old one is told so, never comes back, and gets no calls any more.

use std::time::Duration;

use sidelane_tests::executions::Executions;
use sidelane_tests::hub::{fit, of};
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::three::{NEWS, NODES, Three};
use sidelane_tests::{Upstream, cluster, exclusive, mesh_view, services};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than the longest pause before a sidecar tries to reach control again, which is 5 s.
const NO_RETURN: Duration = Duration::from_secs(6);
/// A process that nobody calls any more ends in no time.
const DRAINED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_newer_process_is_the_node_and_the_older_one_never_comes_back() {
    let _turn = exclusive().await;
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let control = mesh.control().listen();
    let hub = three.hub("caller").await;
    let old = mesh.node("b");
    let before = of(&hub.looks().pop().unwrap().endpoints, "b")
        .unwrap()
        .generation;
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::THOUSAND).await;
    load.run_for(SECOND).await;

    load.mark("another process says that it is b");
    let upstream = Upstream::named("b, the newer one").start().await;
    let newer = cluster!()
        .node("b-newer")
        .with("--node", "b")
        .with("--control", &control.to_string())
        .serving(services::ECHO, &upstream)
        .launch()
        .await;
    newer.node("b-newer").ready().await;
    let replaced = |held: &[_]| {
        let b = of(held, "b");
        fit(held) == NODES.len() && b.is_some_and(|b| b.generation > before)
    };
    hub.sees("the newer b takes calls", NEWS, replaced).await;
    let known = load.mark("the caller knows it");
    let told = old
        .answers("/readyz", |answer| answer.body.contains("NODE_REPLACED"))
        .await;
    assert_eq!(told.status, 503, "{}", told.body);
    let streams = old
        .metrics()
        .await
        .sum("sidelane_control_streams_total", &[]);
    load.run_for(NO_RETURN).await;

    let told = old.get("/readyz").await;
    assert_eq!(told.status, 503, "{}", told.body);
    assert!(told.body.contains("NODE_REPLACED"), "{}", told.body);
    let metrics = old.metrics().await;
    let since = metrics.sum("sidelane_control_streams_total", &[]) - streams;
    assert!(since.abs() < f64::EPSILON, "it came back {since} times");
    let connected = metrics.sum("sidelane_control_connected", &[]);
    assert!(connected.abs() < f64::EPSILON, "it is connected to control");
    let entries = mesh_view::entries(control, "b").await.unwrap();
    assert_eq!(entries.len(), 1, "{entries:#?}");
    assert!(entries[0].generation > before, "{entries:#?}");

    let report = load.stop().await;
    println!("a newer process takes a node's id\n{report}");
    report.nothing_failed();
    let shares = report.shares(known, report.stopped());
    assert_eq!(shares.get("b"), None, "the old one got calls: {shares:?}");
    report.has_its_share("b, the newer one", known, report.stopped());
    let upstreams = three.upstreams.iter().chain([&upstream]);
    Executions::of(upstreams).agree_with(&report);
    hub.shows_nobody_twice();
    report.pace_was_kept();
    old.stop(DRAINED).await;
    newer.node("b-newer").stop(DRAINED).await;
    // It said goodbye: sooner than its lease ends.
    mesh_view::says(control, "b", Duration::from_secs(5), <[_]>::is_empty).await;
}
