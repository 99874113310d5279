//! A node that drains, and a control plane that does.

use std::time::{Duration, Instant};

use sidelane_proto::wire::control::v1::{
    DrainConfirmed, Health, Hello, sync_response::Message as Told,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sidecar::{Control, Sidecar, hello, of, watcher};

async fn confirmation(node: &mut Sidecar) -> DrainConfirmed {
    loop {
        match node.hear().await.unwrap() {
            Some(Told::DrainConfirmed(confirmed)) => return confirmed,
            Some(Told::Update(_)) => {}
            other => panic!("not a confirmation: {other:?}"),
        }
    }
}

#[tokio::test]
async fn it_is_confirmed_when_all_who_listen_have_acknowledged_it() {
    let control = Control::start().await;
    let mut node = control.join(hello("n", 1, &["a.A", "b.B"])).await;
    let mut watching = control.join(watcher("w", &["b.B"])).await;
    let mut stranger = control.join(watcher("stranger", &["c.C"])).await;
    watching.take().await;
    stranger.update().await;
    node.drain().await;
    let told = watching.update().await;
    assert_eq!(told.upserts[0].health(), Health::Draining);
    // Not yet: one who listens has not answered.
    let early = tokio::time::timeout(Duration::from_millis(200), confirmation(&mut node)).await;
    assert!(early.is_err(), "{early:?}");
    watching.ack(&told).await;
    let began = Instant::now();
    let confirmed = confirmation(&mut node).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(confirmed.unacknowledged, 0);
    assert_eq!(confirmed.version, told.version);
}

#[tokio::test]
async fn it_is_confirmed_after_two_seconds_at_the_latest() {
    let control = Control::start().await;
    let mut node = control.join(hello("n", 1, &["a.A"])).await;
    let mut hung = control.join(watcher("hung", &["a.A"])).await;
    let mut gone = control.join(watcher("gone", &["a.A"])).await;
    hung.take().await;
    gone.update().await;
    let began = Instant::now();
    node.drain().await;
    drop(gone);
    hung.update().await;
    let confirmed = confirmation(&mut node).await;
    let waited = began.elapsed().as_millis();
    assert!((1_900..4_000).contains(&waited), "{waited} ms");
    assert_eq!(
        confirmed.unacknowledged, 1,
        "who has gone is not waited for"
    );
}

#[tokio::test]
async fn where_nobody_listens_it_is_confirmed_at_once() {
    let control = Control::start().await;
    let mut node = control.join(hello("n", 1, &[])).await;
    let began = Instant::now();
    node.drain().await;
    assert_eq!(confirmation(&mut node).await.unacknowledged, 0);
    node.drain().await;
    assert_eq!(
        confirmation(&mut node).await.unacknowledged,
        0,
        "as often as asked"
    );
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_node_that_comes_back_while_draining_drains() {
    let control = Control::start().await;
    let draining = Hello {
        draining: true,
        ..hello("n", 1, &["a.A"])
    };
    let _node = control.join(draining).await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    assert_eq!(of(&watching.held, "a.A"), [("n", 1, Health::Draining)]);
}

#[tokio::test]
async fn a_control_plane_that_stops_ends_its_streams_and_tells_nobody_that_others_are_suspect() {
    let control = Control::start().await;
    let mut sidecars = Vec::new();
    for n in 0..10 {
        let watching = Hello {
            subscribe: Some(crate::sidecar::services(&["a.A"])),
            ..hello(&format!("n-{n}"), 1, &["a.A"])
        };
        sidecars.push(control.join(watching).await);
    }
    for sidecar in &mut sidecars {
        sidecar.take_until(|held| held.len() == 10).await;
    }
    let began = Instant::now();
    let ended = control.app.stop(Duration::from_secs(5)).await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert!(ended.stored);
    assert_eq!(ended.cut, 0);
    for mut sidecar in sidecars {
        assert_eq!(sidecar.hear().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_connection_that_hangs_is_cut_and_costs_nobody_its_place() {
    let control = Control::with_lease(Duration::from_secs(1)).await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    let mut hung = tokio::net::TcpStream::connect(control.app.listen())
        .await
        .unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    hung.write_all(preface).await.unwrap();
    // Its SETTINGS, so that it is known to be taken in. It never answers them.
    hung.read_exact(&mut [0; 9]).await.unwrap();
    let began = Instant::now();
    let control = control.restart_within(Duration::from_secs(3)).await;
    assert!(began.elapsed() >= Duration::from_secs(3), "three leases");
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    drop(node);
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    assert_eq!(of(&watching.held, "a.A"), [("n", 1, Health::Suspect)]);
}
