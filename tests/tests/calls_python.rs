//! The call matrix with grpcio from `PyPI`, unchanged, as client, as server, and as both.

use sidelane_tests::cases::{Ground, ServerKind, Way, run_all};
use sidelane_tests::cluster::{Cluster, LocalService};
use sidelane_tests::python::Python;
use sidelane_tests::{Upstream, cluster, services};
use tokio::sync::Mutex;

/// Cases measure time, so only one test of this file runs at a time.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
#[ignore = "needs grpcio: SIDELANE_TEST_PYTHON"]
async fn python_to_rust_directly() {
    let _turn = TURN.lock().await;
    let python = Python::with_grpcio().await;
    let upstream = Upstream::named("echo").start().await;
    let ground = Ground {
        target: upstream.address(),
        server: upstream.address(),
        way: Way::Direct,
        server_kind: ServerKind::Rust,
    };
    python.run_all(&ground).await;
}

#[tokio::test]
#[ignore = "needs grpcio: SIDELANE_TEST_PYTHON"]
async fn rust_to_python_directly() {
    let _turn = TURN.lock().await;
    let server = Python::with_grpcio().await.serve("echo").await;
    let ground = Ground {
        target: server.address(),
        server: server.address(),
        way: Way::Direct,
        server_kind: ServerKind::Python,
    };
    run_all(&ground).await;
}

#[tokio::test]
#[ignore = "needs grpcio: SIDELANE_TEST_PYTHON"]
async fn python_to_python_directly() {
    let _turn = TURN.lock().await;
    let python = Python::with_grpcio().await;
    let server = python.serve("echo").await;
    let ground = Ground {
        target: server.address(),
        server: server.address(),
        way: Way::Direct,
        server_kind: ServerKind::Python,
    };
    python.run_all(&ground).await;
}

#[tokio::test]
#[ignore = "needs grpcio: SIDELANE_TEST_PYTHON"]
async fn python_to_rust_through_two_sidecars() {
    let _turn = TURN.lock().await;
    let python = Python::with_grpcio().await;
    let upstream = Upstream::named("echo").start().await;
    let mesh = two_sidecars(&upstream).await;
    let ground = Ground {
        target: mesh.node("caller").outbound(),
        server: upstream.address(),
        way: from_caller(),
        server_kind: ServerKind::Rust,
    };
    python.run_all(&ground).await;
}

#[tokio::test]
#[ignore = "needs grpcio: SIDELANE_TEST_PYTHON"]
async fn rust_to_python_through_two_sidecars() {
    let _turn = TURN.lock().await;
    let python = Python::with_grpcio().await;
    let server = python.serve("echo").await;
    let mesh = two_sidecars(&server).await;
    let ground = Ground {
        target: mesh.node("caller").outbound(),
        server: server.address(),
        way: from_caller(),
        server_kind: ServerKind::Python,
    };
    run_all(&ground).await;
}

#[tokio::test]
#[ignore = "needs grpcio: SIDELANE_TEST_PYTHON"]
async fn python_to_python_through_two_sidecars() {
    let _turn = TURN.lock().await;
    let python = Python::with_grpcio().await;
    let server = python.serve("echo").await;
    let mesh = two_sidecars(&server).await;
    let ground = Ground {
        target: mesh.node("caller").outbound(),
        server: server.address(),
        way: from_caller(),
        server_kind: ServerKind::Python,
    };
    python.run_all(&ground).await;
}

async fn two_sidecars(echo: &impl LocalService) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, echo)
        .start()
        .await
}

fn from_caller() -> Way {
    Way::Mesh {
        caller: "caller".to_owned(),
    }
}
