//! The call matrix with tonic on both sides.

use sidelane_tests::cases::{Ground, Way, run_all};
use sidelane_tests::languages::Language;
use sidelane_tests::{Upstream, cluster, services};
use tokio::sync::Mutex;

/// Cases measure time, so only one test of this file runs at a time.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn directly() {
    let _turn = TURN.lock().await;
    let upstream = Upstream::named("echo").start().await;
    let ground = Ground {
        target: upstream.address(),
        server: upstream.address(),
        way: Way::Direct,
        server_kind: Language::Rust,
    };
    run_all(&ground).await;
}

#[tokio::test]
async fn through_two_sidecars() {
    let _turn = TURN.lock().await;
    let upstream = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let ground = Ground {
        target: mesh.node("caller").outbound(),
        server: upstream.address(),
        way: Way::Mesh {
            caller: "caller".to_owned(),
        },
        server_kind: Language::Rust,
    };
    run_all(&ground).await;
}
