//! A service's lane is moved in its proto, and one side only is built anew. The two must not call
//! each other for that service, and everything else between them goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, until_answered, who};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::cluster::{Cluster, Node};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::run::Run;
use sidelane_tests::wire::v1::Moment;
use sidelane_tests::{Upstream, cluster, moved, services, unruled, wire};
use tonic::Code;

const BEAT: &str = "/sidelane.test.v1.Beat/Ping";
const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
const CALLS: usize = 20;

fn good(answer: &RawAnswer) -> bool {
    answer.grpc_status().unwrap().code() == Code::Ok
}

/// Everybody has a picture of the mesh; that some of it cannot be called is the point here.
async fn all_ready(mesh: &Cluster) {
    mesh.control().ready().await;
    for node in mesh.nodes() {
        node.ready().await;
    }
}

async fn until_reached(node: &Node, path: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answer = ask(node, path, &[]).await;
        if good(&answer) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Every call of Echo is refused, every call of Beat on the same node is answered, all over one
/// connection.
async fn only_echo_is_refused(caller: &Node, parts: &[&str]) {
    until_reached(caller, BEAT).await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    for _ in 0..CALLS {
        let refused = Refusal::of(&ask_over(&client, ECHO_UNARY, &[]).await);
        assert_eq!(refused.reason, "RULES_MISMATCH", "{refused:?}");
        assert_eq!(refused.code, Code::FailedPrecondition);
        assert_eq!(refused.processed, "no");
        for part in parts {
            assert!(refused.text.contains(part), "{part} is not in {refused:?}");
        }
        assert!(good(&ask_over(&client, BEAT, &[]).await));
    }
}

#[tokio::test]
async fn the_moved_service_alone_is_refused_whichever_side_was_built_anew() {
    for caller_is_new in [true, false] {
        let app = Upstream::named("server").start().await;
        let (new, old) = (moved!(), PROGRAM);
        let (caller, callee) = match caller_is_new {
            true => (new, old),
            false => (old, new),
        };
        let mesh = cluster!()
            .control()
            .node("server")
            .running(callee)
            .serving(services::ECHO, &app)
            .serving(services::BEAT, &app)
            .node("caller")
            .running(caller)
            .node("stranger")
            .running(unruled!())
            .launch()
            .await;
        all_ready(&mesh).await;
        let parts = ["lane `gossip`", "lane `general`", "echo.proto:"];
        only_echo_is_refused(mesh.node("caller"), &parts).await;
        // Not one stray call.
        assert_eq!(app.ledger().count("", Moment::Arrived), 0);

        // Without a rule of its own a caller follows the offer, whichever it is.
        assert_eq!(until_answered(mesh.node("stranger")).await, "server");

        let control = mesh.control().listen().to_string();
        let checked = Run::of(PROGRAM).with(["check", "--control", control.as_str()]);
        let checked = checked.to_its_end().await;
        // The only node that serves it agrees with itself; the caller offers nothing.
        assert_eq!(checked.code, Some(0), "{checked:?}");
    }
}

#[tokio::test]
async fn where_both_builds_serve_each_caller_goes_to_its_own_and_check_names_both() {
    let old = Upstream::named("old").start().await;
    let new = Upstream::named("new").start().await;
    let mesh = cluster!()
        .control()
        .node("old")
        .serving(services::ECHO, &old)
        .node("new")
        .running(moved!())
        .serving(services::ECHO, &new)
        .node("caller")
        .node("new-caller")
        .running(moved!())
        .launch()
        .await;
    all_ready(&mesh).await;
    for (caller, server) in [("caller", "old"), ("new-caller", "new")] {
        let caller = mesh.node(caller);
        assert_eq!(until_answered(caller).await, server);
        for _ in 0..CALLS {
            assert_eq!(who(caller).await.unwrap(), server);
        }
    }
    let control = mesh.control().listen().to_string();
    let checked = Run::of(PROGRAM)
        .with(["check", "--control", control.as_str()])
        .to_its_end()
        .await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for part in [services::ECHO, "general", "gossip", "old", "new"] {
        assert!(checked.stderr.contains(part), "{part}: {checked:?}");
    }
}

#[tokio::test]
async fn a_check_beforehand_would_have_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("old.binpb"), wire::DESCRIPTORS).unwrap();
    std::fs::write(path("new.binpb"), moved::DESCRIPTORS).unwrap();
    let check = |old: &str, new: &str| {
        Run::of(PROGRAM).with(["check", "--against", &path(old), &path(new)])
    };
    let same = check("old.binpb", "old.binpb").to_its_end().await;
    assert_eq!(same.code, Some(0), "{same:?}");
    let broken = check("old.binpb", "new.binpb").to_its_end().await;
    assert_eq!(broken.code, Some(1), "{broken:?}");
    for part in [services::ECHO, "general", "gossip", "echo.proto:12"] {
        assert!(broken.stderr.contains(part), "{part}: {broken:?}");
    }
    assert!(!broken.stderr.contains(services::BEAT), "{broken:?}");
}
