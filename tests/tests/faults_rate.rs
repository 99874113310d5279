//! Faults at 2,000 calls a second: idempotent calls survive the death of a node, and a deploy that
//! restarts everything costs no call. The load takes most of a small machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use sidelane_proto::model::Lane;
use sidelane_tests::app::App;
use sidelane_tests::applied::{applied, idempotent, retry, rule, with};
use sidelane_tests::client::{RawAnswer, RawClient, mesh_reason};
use sidelane_tests::cluster::ClusterBuilder;
use sidelane_tests::hub::{HubWatch, fit, of};
use sidelane_tests::load::{Call, Load, Plan, Report};
use sidelane_tests::services::ECHO;
use sidelane_tests::three::{NEWS, NODES};
use sidelane_tests::wire::v1::{Behaviour, ChatRequest};
use sidelane_tests::{Cluster, app, cluster, exclusive, unruled};
use tokio::task::JoinHandle;
use tonic::Code;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
const SECOND: Duration = Duration::from_secs(1);
/// How long a node may take to end. Its grace is three seconds.
const DRAINED: Duration = Duration::from_secs(20);
const PLAN: Plan = Plan {
    rate: 2_000,
    longest_ms: 20,
};

/// A caller, and three nodes with an app of its own process each, all of this program.
async fn mesh(mesh: ClusterBuilder, program: &str) -> (Cluster, Vec<App>) {
    let mut mesh = mesh.control().node("caller").running(program);
    let mut apps = Vec::new();
    for node in NODES {
        let app = app!(node).await;
        let node = mesh.node(node).running(program);
        mesh = node.with("--grace", "3s").serving(ECHO, &app);
        apps.push(app);
    }
    let mesh = mesh.each_ready().await;
    (mesh, apps)
}

async fn whole(hub: &HubWatch) {
    let all = |held: &[_]| fit(held) == NODES.len();
    hub.sees("all three take calls", NEWS, all).await;
}

/// How often each server began with each call of the load.
fn executed(apps: &[App], report: &Report) -> Vec<HashMap<String, usize>> {
    let keys: std::collections::HashSet<&str> =
        report.calls.iter().map(|call| call.key.as_str()).collect();
    apps.iter()
        .map(|app| {
            let mut executed = app.executed();
            executed.retain(|key, _| keys.contains(key.as_str()));
            executed
        })
        .collect()
}

/// How often this call ran on each server.
fn runs(executed: &[HashMap<String, usize>], call: &Call) -> Vec<usize> {
    let of = |by: &HashMap<String, usize>| by.get(&call.key).copied().unwrap_or_default();
    executed.iter().map(of).collect()
}

#[tokio::test]
#[ignore = "2,000 calls a second need a machine that is quiet"]
async fn no_idempotent_call_fails_when_one_of_three_is_killed() {
    let _turn = exclusive().await;
    // Compiled without rules, so that what is applied may say what is idempotent.
    let (mesh, apps) = mesh(cluster!(), unruled!()).await;
    let caller = mesh.node("caller");
    let tried = with(rule(ECHO, Lane::GENERAL), |rule| {
        let mut unary = idempotent("Unary");
        unary.retry = retry(3, &[]);
        rule.methods = vec![unary];
    });
    // It follows the service, and so hears of its rule, once it was asked about it.
    let hub = HubWatch::start(caller.admin());
    whole(&hub).await;
    applied(mesh.control(), &[caller], tried).await;
    let mut load = Load::start(caller.outbound(), PLAN).await;
    load.run_for(2 * SECOND).await;
    load.mark("sidecar and server of b are killed");
    tokio::join!(mesh.node("b").kill(), apps[1].kill());
    load.run_for(3 * SECOND).await;
    load.mark("both start again");
    apps[1].start_again().await;
    apps[1].listens().await;
    mesh.node("b").start_again().await;
    whole(&hub).await;
    let back = load.mark("b takes calls again");
    load.run_for(2 * SECOND).await;
    let report = load.stop().await;
    println!("one of three is killed at 2,000 calls a second\n{report}");
    report.nothing_failed();

    // A call is executed twice only where its first attempt was on b, and may have got lost there.
    let executed = executed(&apps, &report);
    let mut again = 0;
    for call in &report.calls {
        let counts = runs(&executed, call);
        assert!(counts[0] + counts[2] <= 1, "{counts:?}: {call:?}\n{report}");
        assert!(counts.iter().sum::<usize>() >= 1, "{counts:?}: {call:?}");
        assert!(counts[1] <= 1, "{counts:?}: {call:?}");
        again += usize::from(counts.iter().sum::<usize>() > 1);
    }
    println!("  {again} calls ran on b and on another, none twice on one");
    report.has_its_share("b", back, report.stopped());
    report.pace_was_reached();
}

#[tokio::test]
#[ignore = "2,000 calls a second need a machine that is quiet"]
async fn a_deploy_that_restarts_everything_fails_no_call() {
    let _turn = exclusive().await;
    // As users run it: with certificates of control's.
    let (mesh, apps) = mesh(cluster!().enrolled(), PROGRAM).await;
    let caller = mesh.node("caller");
    let hub = HubWatch::start(caller.admin());
    whole(&hub).await;
    let mut load = Load::start(caller.outbound(), PLAN).await;
    load.run_for(SECOND).await;
    for (name, app) in NODES.iter().zip(&apps) {
        let node = mesh.node(name);
        let before = generation(&hub, name);
        let stream = open_stream(&mesh, name).await;
        // It is open by then, or the log below says that none was cut.
        load.run_for(SECOND / 10).await;
        load.mark(&format!("{name} is told to end"));
        node.stop(DRAINED).await;
        let ended = stream.await.unwrap().unwrap();
        assert_eq!(ended.reset, None, "a reset is no answer: {ended:?}");
        let status = ended.grpc_status().unwrap();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(mesh_reason(&status).as_deref(), Some("PEER_RESET"));
        assert!(node.log().contains("1 calls were cut"), "{}", node.log());
        app.kill().await;
        app.start_again().await;
        app.listens().await;
        node.start_again().await;
        node.ready().await;
        let newer = |held: &[_]| {
            fit(held) == NODES.len() && of(held, name).is_some_and(|it| it.generation > before)
        };
        hub.sees("it takes calls again", NEWS, newer).await;
        load.mark(&format!("{name} takes calls again"));
        load.run_for(SECOND / 2).await;
    }
    load.mark("control is restarted");
    mesh.control().restart(DRAINED).await;
    for node in mesh.nodes() {
        node.answers("/config", |answer| answer.body.contains("connected to"))
            .await;
    }
    load.mark("all have found it again");
    load.run_for(SECOND).await;
    let report = load.stop().await;
    println!("everything is restarted at 2,000 calls a second\n{report}");
    report.nothing_failed();
    let executed = executed(&apps, &report);
    for call in &report.calls {
        let count: usize = runs(&executed, call).iter().sum();
        assert_eq!(count, 1, "{call:?}\n{report}");
    }
    hub.shows_nobody_twice();
    report.pace_was_reached();
}

#[tokio::test]
#[ignore = "2,000 calls a second need a machine that is quiet"]
async fn no_call_that_may_run_once_runs_twice_when_one_of_three_is_killed() {
    let _turn = exclusive().await;
    // Compiled with the rule, by which nothing is idempotent.
    // As users run it: with certificates of control's.
    let (mesh, apps) = mesh(cluster!().enrolled(), PROGRAM).await;
    let caller = mesh.node("caller");
    let hub = HubWatch::start(caller.admin());
    whole(&hub).await;
    let mut load = Load::start(caller.outbound(), PLAN).await;
    load.run_for(2 * SECOND).await;
    let killed = load.mark("sidecar and server of b are killed");
    tokio::join!(mesh.node("b").kill(), apps[1].kill());
    load.run_for(3 * SECOND).await;
    let report = load.stop().await;
    println!("one of three is killed at 2,000 calls a second, nothing is idempotent\n{report}");
    let executed = executed(&apps, &report);
    for call in &report.calls {
        let count: usize = runs(&executed, call).iter().sum();
        match &call.result {
            Ok(_) => assert_eq!(count, 1, "{call:?}\n{report}"),
            // It was on b, and may have run there.
            Err(_) => assert!(count <= 1, "{call:?}\n{report}"),
        }
    }
    // What failed was under way when b went: 20 ms of a third of the calls, and what came until
    // the caller knew.
    let failed = report.failed().count();
    assert!(failed < 200, "{failed}\n{report}");
    report.nothing_failed_between(killed + SECOND, report.stopped());
    report.pace_was_reached();
}

fn generation(hub: &HubWatch, node: &str) -> u64 {
    let look = hub.looks().pop().unwrap();
    of(&look.endpoints, node).unwrap().generation
}

/// A conversation with this node that goes on for ever.
async fn open_stream(mesh: &Cluster, node: &str) -> JoinHandle<Result<RawAnswer>> {
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let (client, node) = (client.unwrap(), node.to_owned());
    let (begun, open) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let path = format!("/{ECHO}/Chat");
        let mut call = client.begin(&path, &[("sidelane-node", &node)]).await?;
        call.send(&ChatRequest {
            behaviour: Some(Behaviour::default()),
            ..ChatRequest::default()
        })?;
        let _ = begun.send(());
        call.answer().await
    });
    open.await.unwrap();
    task
}
