//! A node that stands still under load: its sockets are open and nobody answers. Others take over
//! before its lease is over, and it comes back as the node that it was.

use std::time::Duration;

use sidelane_tests::executions::Executions;
use sidelane_tests::hub::{fit, of};
use sidelane_tests::load::{Failed, Load, Plan};
use sidelane_tests::three::{NEWS, NODES, Three};
use sidelane_tests::{cluster, exclusive, mesh_view};
use tonic::Code;

const SECOND: Duration = Duration::from_secs(1);
/// What control gives a node that it does not hear of.
const LEASE: Duration = Duration::from_secs(10);
/// A call without a time limit of its own gets one of 5 s; nothing is open for longer, but for
/// what a busy machine adds.
const LONGEST: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_node_that_stands_still_is_left_within_its_lease_and_comes_back_once() {
    let _turn = exclusive().await;
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let control = mesh.control().listen();
    let hub = three.hub("caller").await;
    let before = hub.looks().pop().unwrap();
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::THOUSAND).await;
    load.run_for(SECOND).await;

    let frozen = load.mark("the sidecar of b stands still");
    mesh.node("b").freeze().await;
    let unfit = |held: &[_]| of(held, "b").is_none_or(|b| !b.unfit.is_empty());
    let left = hub.sees("b gets no calls", LEASE + NEWS, unfit).await.at;
    load.mark("the caller has noticed");
    mesh_view::says(control, "b", LEASE + NEWS, <[_]>::is_empty).await;
    let gone = |held: &[_]| of(held, "b").is_none();
    hub.sees("b is not in the hub", NEWS, gone).await;
    load.mark("its lease has ended");
    load.run_for(SECOND).await;

    load.mark("it goes on");
    mesh.node("b").thaw();
    let once = |nodes: &[sidelane_tests::mesh_view::Node]| nodes.len() == 1 && nodes[0].connected;
    mesh_view::says(control, "b", NEWS, once).await;
    let all = |held: &[_]| fit(held) == NODES.len();
    let after = hub.sees("all three take calls again", NEWS, all).await;
    let back = load.mark("it takes calls again");
    load.run_for(2 * SECOND).await;
    let report = load.stop().await;
    println!(
        "one of three nodes stands still; the caller noticed after {:.1} s\n{report}",
        left.duration_since(frozen).as_secs_f64()
    );

    // What it had taken fails with a reason; everybody who calls later is answered by others.
    for (call, failed) in report.failed() {
        assert!(is_excused(failed), "{call:#?}\n{report}");
        let took = call.ended.duration_since(call.sent);
        assert!(took < LONGEST, "{call:#?} took {took:?}\n{report}");
    }
    report.nothing_failed_between(left, report.stopped());
    // What waits for it waits alone: calls to the others share the callers' connection with it.
    let median = report.median_of_answered(frozen, left);
    assert!(
        median < SECOND,
        "the others' calls took {median:?}\n{report}"
    );
    report.nothing_failed_between(frozen + LEASE + SECOND, report.stopped());
    let ran = Executions::of(&three.upstreams).agree_with(&report);
    let failed = report.failed().count();
    println!("  of {failed} calls that failed, {ran} had reached the server, none of them twice");

    hub.shows_nobody_twice();
    assert_eq!(
        of(&after.endpoints, "b").unwrap().generation,
        of(&before.endpoints, "b").unwrap().generation,
        "the same process"
    );
    mesh_view::says(control, "b", Duration::ZERO, once).await;
    report.has_its_share("b", back, report.stopped());
    report.pace_was_kept();
}

fn is_excused(failed: &Failed) -> bool {
    let late = failed.is(Code::DeadlineExceeded) && failed.reason == "DEADLINE";
    let named = failed.error == failed.reason && !failed.processed.is_empty();
    let lost = failed.is(Code::Unavailable) && failed.may_have_run("PEER_RESET");
    (late && named) || lost
}
