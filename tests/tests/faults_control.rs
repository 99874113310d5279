//! Control is killed, or stands still, under load: calls go on with what is known, and when
//! control is back nobody ever sees an empty hub.

use std::time::{Duration, Instant};

use sidelane_tests::admin::Answer;
use sidelane_tests::cluster::Node;
use sidelane_tests::executions::Executions;
use sidelane_tests::hub::{Held, fit, of};
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::three::{NEWS, NODES, Three};
use sidelane_tests::{cluster, exclusive, mesh_view};

const SECOND: Duration = Duration::from_secs(1);
/// What control gives a node that it does not hear of.
const LEASE: Duration = Duration::from_secs(10);
/// A sidecar drains for so long when control does not answer, and then some.
const DRAINED: Duration = Duration::from_secs(20);

#[tokio::test]
async fn control_is_dead_for_15_seconds_and_nobody_notices() {
    let _turn = exclusive().await;
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let hub = three.hub("caller").await;
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::THOUSAND).await;
    load.run_for(SECOND).await;

    let killed = load.mark("control is dead");
    mesh.control().kill().await;
    load.run_for(15 * SECOND).await;
    let ready = mesh.node("caller").get("/readyz").await;
    assert!(ready.body.contains("control is away"), "{}", ready.body);

    load.mark("control is started again");
    mesh.control().start_again().await;
    for node in mesh.nodes() {
        node.ready().await;
    }
    load.mark("all are connected again");
    // What control had kept as suspect would be gone after a lease, had nobody come back.
    load.run_for(LEASE + SECOND).await;
    let report = load.stop().await;
    println!("control is dead for 15 s\n{report}");

    report.nothing_failed();
    Executions::of(&three.upstreams).agree_with(&report);
    let fewest = hub.fewest_fit_since(killed);
    println!("  never fewer than {fewest} of 3 nodes took calls");
    assert!(fewest > 0);
    let now = hub.looks().pop().unwrap();
    assert_eq!(now.count_fit(), NODES.len(), "{now:#?}");
    report.pace_was_kept();
}

#[tokio::test]
async fn control_stands_still_for_12_seconds_and_nobody_notices() {
    let _turn = exclusive().await;
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let hub = three.hub("caller").await;
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::THOUSAND).await;
    load.run_for(SECOND).await;

    let frozen = load.mark("control stands still");
    mesh.control().freeze().await;
    load.run_for(12 * SECOND).await;
    let ready = mesh.node("caller").get("/readyz").await;
    assert!(ready.body.contains("control is away"), "{}", ready.body);

    load.mark("control goes on");
    mesh.control().thaw();
    for node in mesh.nodes() {
        node.ready().await;
    }
    load.mark("all are connected again");
    hub.sees("all take calls", NEWS, |held| fit(held) == NODES.len())
        .await;
    load.run_for(2 * SECOND).await;
    let report = load.stop().await;
    println!("control stands still for 12 s\n{report}");

    report.nothing_failed();
    Executions::of(&three.upstreams).agree_with(&report);
    let fewest = hub.fewest_fit_since(frozen);
    println!("  never fewer than {fewest} of 3 nodes took calls");
    assert!(fewest > 0);
    // It heard nobody for longer than a lease, and that was its own fault.
    let log = mesh.control().log();
    assert!(!log.contains("lease has ended"), "{log}");
    hub.shows_nobody_twice();
    for node in NODES {
        let entries = mesh_view::entries(mesh.control().listen(), node).await;
        assert_eq!(entries.unwrap().len(), 1, "control lists {node} once");
    }
    report.pace_was_kept();
}

#[tokio::test]
async fn a_caller_started_again_without_control_serves_from_its_disk() {
    let _turn = exclusive().await;
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let caller = mesh.node("caller");
    let hub = three.hub("caller").await;
    let config = caller.config().await;
    assert_eq!(config["picture_from"], "control", "{config:#}");
    mesh.control().kill().await;

    caller.stop(DRAINED).await;
    serves_from_disk(caller).await;
    // Nobody who is killed writes anything any more: what is on the disk was there before.
    caller.kill().await;
    serves_from_disk(caller).await;
    hub.sees("all three are back", NEWS, |held| fit(held) == NODES.len())
        .await;
    let load = Load::start(caller.outbound(), Plan::THOUSAND).await;
    load.run_for(2 * SECOND).await;
    let report = load.stop().await;
    println!("a caller is started again without control\n{report}");
    report.nothing_failed();
    Executions::of(&three.upstreams).agree_with(&report);
    report.pace_was_kept();
}

/// Starts a sidecar without control, which is ready for its app at once, and says why.
async fn serves_from_disk(sidecar: &Node) {
    let begun = Instant::now();
    sidecar.start_again().await;
    let outbound = |answer: &Answer| answer.status == 200;
    let ready = sidecar.answers("/readyz?for=outbound", outbound).await;
    println!("ready after {:?}: {}", begun.elapsed(), ready.body.trim());
    let config = sidecar.config().await;
    assert_eq!(config["picture_from"], "disk", "{config:#}");
    assert!(config["version"].is_string(), "{config:#}");
    let away = |answer: &Answer| answer.status == 200 && answer.body.contains("control is away");
    let whole = sidecar.answers("/readyz", away).await;
    assert!(whole.body.contains("kept on disk"), "{}", whole.body);
}

#[tokio::test]
async fn a_callee_started_again_without_control_is_found_again() {
    let _turn = exclusive().await;
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let hub = three.hub("caller").await;
    let generation = |look: &[Held]| of(look, "b").map(|b| b.generation);
    let before = generation(&hub.looks().pop().unwrap().endpoints);
    mesh.control().kill().await;
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::THOUSAND).await;
    load.run_for(SECOND).await;

    load.mark("b is told to end, and nobody can be told");
    mesh.node("b").stop(DRAINED).await;
    load.mark("b starts again");
    mesh.node("b").start_again().await;
    hub.sees("b takes calls, newer than before", NEWS, |held| {
        fit(held) == NODES.len() && generation(held) > before
    })
    .await;
    let back = load.mark("b takes calls again");
    load.run_for(SECOND).await;
    let report = load.stop().await;
    println!("a callee is started again without control\n{report}");
    report.nothing_failed();
    report.has_its_share("b", back, report.stopped());
    Executions::of(&three.upstreams).agree_with(&report);
    hub.shows_nobody_twice();
    report.pace_was_kept();
}
