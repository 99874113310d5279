//! A node that is killed under load: its calls fail with a reason, nobody else's do, and it comes
//! back.

use std::time::{Duration, Instant};

use sidelane_tests::executions::Executions;
use sidelane_tests::hub::{HubWatch, fit, of};
use sidelane_tests::load::{Failed, Load, Plan};
use sidelane_tests::three::{NEWS, NODES};
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{Behaviour, UnaryRequest};
use sidelane_tests::{Upstream, app, cluster, exclusive, services};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_killed_node_costs_nothing_but_the_calls_that_it_had() {
    let _turn = exclusive().await;
    let a = Upstream::named("a").start().await;
    let c = Upstream::named("c").start().await;
    let doomed = app!("b").await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("a")
        .serving(services::ECHO, &a)
        .node("b")
        .serving(services::ECHO, &doomed)
        .node("c")
        .serving(services::ECHO, &c)
        .start()
        .await;
    let hub = HubWatch::start(mesh.node("caller").admin());
    let all = |held: &[_]| fit(held) == NODES.len();
    let before = hub.sees("all three take calls", NEWS, all).await;
    let mut load = Load::start(mesh.node("caller").outbound(), Plan::THOUSAND).await;
    load.run_for(2 * SECOND).await;

    // These are surely open on it when it dies.
    let channel = mesh.node("caller").channel().await;
    let held: Vec<_> = (0..5)
        .map(|number| tokio::spawn(hold(EchoClient::new(channel.clone()), number)))
        .collect();
    while (0..5).any(|number| !doomed.executed().contains_key(&held_key(number))) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    load.mark("sidecar and server of b are killed");
    tokio::join!(mesh.node("b").kill(), doomed.kill());
    let noticed = hub.sees("b takes no calls", NEWS, |held| {
        of(held, "b").is_none_or(|b| !b.unfit.is_empty())
    });
    let noticed = noticed.await.at;
    load.run_for(3 * SECOND).await;

    load.mark("both start again");
    doomed.start_again().await;
    doomed.listens().await;
    mesh.node("b").start_again().await;
    hub.sees("all three take calls again", NEWS, all).await;
    let back = load.mark("b takes calls again");
    load.run_for(2 * SECOND).await;
    let report = load.stop().await;
    println!("one of three nodes is killed\n{report}");

    // A call that was not sent to it goes elsewhere, and one that was says that it may have run.
    for (call, failed) in report.failed() {
        let excused = failed.is(Code::Unavailable) && failed.may_have_run("PEER_RESET");
        assert!(excused, "{call:#?}\n{report}");
    }
    report.nothing_failed_between(noticed, report.stopped());
    for held in held {
        let status = held.await.unwrap().unwrap_err();
        let failed = Failed::from(&status);
        assert!(
            failed.is(Code::Unavailable) && failed.may_have_run("PEER_RESET"),
            "{failed:#?}"
        );
    }
    let executions = Executions::of([&a, &c]).and(&doomed);
    let ran = executions.agree_with(&report);
    for number in 0..5 {
        assert_eq!(doomed.executed()[&held_key(number)], 1);
    }
    let failed = report.failed().count();
    println!("  of {failed} calls that failed, {ran} had reached the server, none of them twice");

    let after = hub.looks().pop().unwrap();
    let generation =
        |look: &sidelane_tests::hub::Look| of(&look.endpoints, "b").unwrap().generation;
    assert!(generation(&after) > generation(&before), "{after:#?}");
    hub.shows_nobody_twice();
    report.has_its_share("b", back, report.stopped());
    report.pace_was_kept();
}

fn held_key(number: u32) -> String {
    format!("held-{number}")
}

/// A call to node b that lasts longer than b does.
async fn hold(
    mut client: EchoClient<tonic::transport::Channel>,
    number: u32,
) -> Result<Instant, Status> {
    let mut request = Request::new(UnaryRequest {
        behaviour: Some(Behaviour {
            ledger_key: held_key(number),
            delay_ms: 60_000,
            ..Behaviour::default()
        }),
        ..UnaryRequest::default()
    });
    let node = MetadataValue::from_static("b");
    request.metadata_mut().insert("sidelane-node", node);
    request.set_timeout(Duration::from_secs(60));
    client.unary(request).await.map(|_| Instant::now())
}
