//! The call matrix with tonic on both sides.

use sidelane_tests::Upstream;
use sidelane_tests::cases::{Ground, ServerKind, Way, run_all};

#[tokio::test]
async fn directly() {
    let upstream = Upstream::named("echo").start().await;
    let ground = Ground {
        target: upstream.address(),
        server: upstream.address(),
        way: Way::Direct,
        server_kind: ServerKind::Rust,
    };
    run_all(&ground).await;
}
