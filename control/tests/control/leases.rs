//! What happens to a node that is not heard of. The lease is one second here; all its times
//! shrink with it.

use std::time::{Duration, Instant};

use sidelane_proto::wire::control::v1::Health;

use crate::sidecar::{Control, Held, Sidecar, hello, of, watcher};

const LEASE: Duration = Duration::from_secs(2);

/// Follows a service while keeping its own lease, until what is held is as wanted.
async fn follow(watching: &mut Sidecar, wanted: impl Fn(&Held) -> bool) {
    while !wanted(&watching.held) {
        let beat = tokio::time::timeout(Duration::from_millis(200), watching.take()).await;
        if beat.is_err() {
            watching.heartbeat().await;
        }
    }
}

fn health(held: &Held, node: &str) -> Option<Health> {
    let held = of(held, "a.A");
    let found = held.into_iter().find(|(known, ..)| *known == node);
    found.map(|(_, _, health)| health)
}

async fn watch(control: &Control) -> Sidecar {
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    watching
}

#[tokio::test]
async fn a_broken_stream_is_suspect_at_once_and_gone_with_its_lease() {
    let control = Control::with_lease(LEASE).await;
    let mut watching = watch(&control).await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Healthy)
    })
    .await;
    let began = Instant::now();
    drop(node);
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Suspect)
    })
    .await;
    assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
    follow(&mut watching, |held| health(held, "n").is_none()).await;
    assert!(began.elapsed() > LEASE / 2, "{:?}", began.elapsed());
    assert!(began.elapsed() < LEASE * 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_open_stream_that_is_silent_is_suspect_and_then_ended() {
    let control = Control::with_lease(LEASE).await;
    let mut watching = watch(&control).await;
    let mut frozen = control.join(hello("n", 1, &["a.A"])).await;
    let began = Instant::now();
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Suspect)
    })
    .await;
    assert!(began.elapsed() > LEASE / 2, "{:?}", began.elapsed());
    follow(&mut watching, |held| health(held, "n").is_none()).await;
    frozen.update().await;
    let status = frozen.hear().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(
        status.message(),
        "nothing was heard for a whole lease; connect again"
    );
    // The same process, thawed: once, and healthy.
    let _thawed = control.join(hello("n", 1, &["a.A"])).await;
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Healthy)
    })
    .await;
    assert_eq!(of(&watching.held, "a.A").len(), 1);
}

#[tokio::test]
async fn a_node_that_speaks_again_is_healthy_again() {
    let control = Control::with_lease(LEASE).await;
    let mut watching = watch(&control).await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Suspect)
    })
    .await;
    node.heartbeat().await;
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Healthy)
    })
    .await;
}

#[tokio::test]
async fn the_same_process_that_comes_back_is_healthy_and_no_duplicate() {
    let control = Control::with_lease(LEASE).await;
    let mut watching = watch(&control).await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Healthy)
    })
    .await;
    drop(node);
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Suspect)
    })
    .await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    follow(&mut watching, |held| {
        health(held, "n") == Some(Health::Healthy)
    })
    .await;
    assert_eq!(of(&watching.held, "a.A"), [("n", 1, Health::Healthy)]);
    // The lease of the broken stream must not take it away.
    let until = Instant::now() + LEASE * 2;
    while Instant::now() < until {
        node.heartbeat().await;
        watching.heartbeat().await;
        let quiet = tokio::time::timeout(LEASE / 5, watching.update()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}

#[tokio::test]
async fn a_goodbye_is_told_at_once() {
    let control = Control::start().await;
    let mut watching = watch(&control).await;
    let mut node = control.join(hello("n", 1, &["a.A"])).await;
    watching.take().await;
    node.update().await;
    let began = Instant::now();
    node.goodbye().await;
    let gone = watching.take().await;
    assert_eq!(gone.removals.len(), 1);
    assert_eq!(gone.removals[0].generation, 1);
    assert!(began.elapsed() < LEASE);
    assert!(node.hear().await.unwrap().is_none(), "the stream ends");
}

#[tokio::test]
async fn a_second_stream_of_one_process_ends_the_first() {
    let control = Control::start().await;
    let mut watching = watch(&control).await;
    let mut first = control.join(hello("n", 1, &["a.A"])).await;
    first.update().await;
    let _second = control.join(hello("n", 1, &["a.A"])).await;
    let status = first.hear().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Aborted);
    watching.take().await;
    assert_eq!(of(&watching.held, "a.A"), [("n", 1, Health::Healthy)]);
}
