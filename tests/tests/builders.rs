//! What the tests' own builders promise.

use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Upstream, client};

#[tokio::test]
#[should_panic(expected = "upstream `odd` panicked in 1 calls, first: nobody expects this")]
async fn a_panicking_server_fails_its_test() {
    let upstream = Upstream::named("odd")
        .answering_unary(async |_| panic!("nobody expects this"))
        .start()
        .await;
    let channel = client::channel(upstream.address()).await.unwrap();
    let answered = EchoClient::new(channel)
        .unary(UnaryRequest::default())
        .await;
    assert!(answered.is_err());
}

#[tokio::test]
async fn an_aborted_server_is_gone_and_its_ledger_stays() {
    let mut upstream = Upstream::named("short").start().await;
    let channel = client::channel(upstream.address()).await.unwrap();
    let mut echo = EchoClient::new(channel);
    echo.unary(UnaryRequest::default()).await.unwrap();
    assert_eq!(upstream.connections(), 1);
    upstream.abort();
    assert!(echo.unary(UnaryRequest::default()).await.is_err());
    // Its listener is a task of its own, and ends when that is next looked at.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while client::channel(upstream.address()).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still listens");
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.ledger().visits("").len(), 1);
}
