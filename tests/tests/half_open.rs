//! A link whose packets are lost: both ends think that it stands, and control sees both. It is
//! noticed by its own PINGs and routed around. The test runs once more in a network namespace of
//! its own, where nobody else's packets are lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::process::Command;
use std::time::Duration;

use sidelane_tests::cluster;
use sidelane_tests::executions::Executions;
use sidelane_tests::hub::{fit, of};
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::netns::Namespace;
use sidelane_tests::three::{NEWS, NODES, Three};

/// Set for the run inside.
const INSIDE: &str = "HALF_OPEN_TEST_INSIDE";
const SECOND: Duration = Duration::from_secs(1);
/// A PING after 5 s of the lane General, and 3 s for its answer.
const NOTICED: Duration = Duration::from_secs(10);
/// A call without a time limit of its own gets one of 5 s.
const LONGEST: Duration = Duration::from_secs(8);

#[test]
#[ignore = "needs root and iptables: it makes a network namespace, in which packets are lost"]
fn a_link_that_loses_all_packets_is_routed_around_within_ten_seconds() {
    const NAME: &str = "a_link_that_loses_all_packets_is_routed_around_within_ten_seconds";
    if std::env::var_os(INSIDE).is_some() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(routed_around());
    }
    let machine = Namespace::new("half-open").unwrap_or_else(|error| panic!("{error}"));
    let mut again = machine.command(std::env::current_exe().unwrap());
    let flags = ["--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let output = again
        .arg(NAME)
        .args(flags)
        .env(INSIDE, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    // A name that no test has would run nothing, and pass.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "in the namespace: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Loses every packet from and to a port, or no longer.
fn lose(what: &str, port: u16) {
    for side in ["--dport", "--sport"] {
        let port = port.to_string();
        let rule = ["-A", "INPUT", "-p", "tcp", side, &port, "-j", "DROP"];
        let mut rule = rule.to_vec();
        rule[0] = what;
        let done = Command::new("iptables").args(&rule).status().unwrap();
        assert!(done.success(), "iptables {rule:?}: {done}");
    }
}

async fn routed_around() {
    let three = Three::with(cluster!().control().node("caller"), &[]).await;
    let mesh = &three.mesh;
    let hub = three.hub("caller").await;
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::HALF).await;
    load.run_for(SECOND).await;

    let port = mesh.node("b").internal().port();
    let lost = load.mark("all packets between the caller and b are lost");
    lose("-A", port);
    let unfit = |held: &[_]| of(held, "b").is_none_or(|b| !b.unfit.is_empty());
    let left = hub.sees("b gets no calls", NEWS, unfit).await;
    load.mark("the caller has noticed");
    // Control thinks that it is well all the time: nobody told anybody.
    assert_eq!(of(&left.endpoints, "b").unwrap().health, "healthy");
    load.run_for(2 * SECOND).await;

    load.mark("packets arrive again");
    lose("-D", port);
    let all = |held: &[_]| fit(held) == NODES.len();
    hub.sees("all three take calls again", NEWS, all).await;
    let back = load.mark("b takes calls again");
    load.run_for(2 * SECOND).await;
    let report = load.stop().await;
    let noticed = left.at.duration_since(lost);
    println!("a link loses all packets; the caller noticed after {noticed:?}\n{report}");

    assert!(noticed < NOTICED, "{noticed:?}");
    for (call, failed) in report.failed() {
        assert!(
            call.sent >= lost - LONGEST && call.sent <= left.at,
            "{call:#?}\n{report}"
        );
        let named = failed.reason == "PEER_RESET" || failed.reason == "DEADLINE";
        assert!(
            named && failed.error == failed.reason,
            "{call:#?}\n{report}"
        );
        let took = call.ended.duration_since(call.sent);
        assert!(took < LONGEST, "{call:#?} took {took:?}\n{report}");
    }
    report.nothing_failed_between(left.at, report.stopped());
    Executions::of(&three.upstreams).agree_with(&report);
    report.has_its_share("b", back, report.stopped());
}
