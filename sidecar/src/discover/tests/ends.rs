//! How streams end and fail, and whether the sidecar comes back.

use sidelane_proto::wire::control::v1::{self as wire, sync_response::Message as Heard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::control::{FakeControl, welcome};
use super::*;

fn refusal(reason: &str, retry: bool) -> Heard {
    Heard::Refusal(wire::Refusal {
        reason: reason.into(),
        text: "for people".into(),
        retry,
        highest_generation: 0,
    })
}

fn stale(highest_generation: u64) -> Heard {
    Heard::Refusal(wire::Refusal {
        reason: "STALE_GENERATION".into(),
        text: "too old".into(),
        retry: false,
        highest_generation,
    })
}

/// Long past every pause of [`quick`]: whoever has not come back by then does not.
async fn long_enough() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_superseded_node_never_comes_back() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    let (mut stream, _) = control.welcomed().await;
    let superseded = wire::Superseded {
        generation: 2_000,
        text: "shop-1 runs elsewhere".into(),
    };
    stream.say(Heard::Superseded(superseded)).await;
    let expected = State::Superseded {
        generation: 2_000,
        text: "shop-1 runs elsewhere".into(),
    };
    running.until(|status| status.state == expected).await;
    assert_eq!(stream.next().await, None);
    long_enough().await;
    assert!(control.is_alone());
    let status = running.status.clone();
    running.finish().await;
    assert_eq!(status.borrow().state, expected);
}

#[tokio::test]
async fn a_refusal_for_good_is_told_and_not_tried_again() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    let mut stream = control.stream().await;
    stream.hello().await;
    stream.say(refusal("VERSION", false)).await;
    let expected = State::Refused {
        reason: "VERSION".into(),
        text: "for people".into(),
    };
    running.until(|status| status.state == expected).await;
    long_enough().await;
    assert!(control.is_alone());
    running.finish().await;
}

#[tokio::test]
async fn a_refusal_for_now_is_tried_again() {
    let mut control = FakeControl::start().await;
    let address = control.address.clone();
    let mut running = Running::start(parameters(&[&address]), None);
    let mut stream = control.stream().await;
    stream.hello().await;
    stream.say(refusal("ALREADY_EXISTS", true)).await;
    assert_eq!(
        running.until_lost().await,
        format!("control at {address} refused this node: ALREADY_EXISTS: for people")
    );
    let (_stream, said) = control.welcomed().await;
    assert_eq!(said.generation, 1_000);
    running
        .until(|status| matches!(status.state, State::Connected { .. }))
        .await;
    running.finish().await;
}

#[tokio::test]
async fn a_stale_generation_is_raised_once_and_kept_before_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let folder = Arc::new(DataFolder::open(directory.path()).unwrap());
    let mut control = FakeControl::start().await;
    let mut parameters = parameters(&[&control.address]);
    parameters.data = Some(folder);
    let mut running = Running::start(parameters, None);
    let mut stream = control.stream().await;
    assert_eq!(stream.hello().await.generation, 1_000);
    stream.say(stale(1_700)).await;

    let mut stream = control.stream().await;
    let kept = std::fs::read_to_string(directory.path().join("generation")).unwrap();
    assert_eq!(kept, "1701");
    assert_eq!(stream.hello().await.generation, 1_701);
    assert_eq!(running.status.borrow().generation.number(), 1_701);
    stream.say(stale(1_800)).await;
    let expected = State::Refused {
        reason: "STALE_GENERATION".into(),
        text: "too old".into(),
    };
    running.until(|status| status.state == expected).await;
    running.finish().await;
}

#[tokio::test]
async fn a_generation_that_was_welcomed_is_not_raised() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    let (stream, _) = control.welcomed().await;
    drop(stream);
    let mut stream = control.stream().await;
    assert_eq!(stream.hello().await.generation, 1_000);
    stream.say(stale(2_000)).await;
    running
        .until(|status| matches!(status.state, State::Refused { .. }))
        .await;
    running.finish().await;
}

#[tokio::test]
async fn silent_control_is_left_when_its_lease_is_over() {
    let mut control = FakeControl::start().await;
    let address = control.address.clone();
    let mut running = Running::start(parameters(&[&address]), None);
    let mut stream = control.stream().await;
    stream.hello().await;
    let impatient = wire::Welcome {
        lease_ms: 50,
        ..welcome()
    };
    stream.say(Heard::Welcome(impatient)).await;
    assert_eq!(
        running.until_lost().await,
        format!("control at {address} said nothing for 50ms, its lease")
    );
    // The silent stream is not kept open beside the next one.
    let (_stream, _) = control.welcomed().await;
    assert_eq!(stream.next().await, None);
    running.finish().await;
}

#[tokio::test]
async fn a_heartbeat_from_control_keeps_the_stream() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    let mut stream = control.stream().await;
    stream.hello().await;
    let impatient = wire::Welcome {
        lease_ms: 400,
        heartbeat_ms: 20,
        ..welcome()
    };
    stream.say(Heard::Welcome(impatient)).await;
    // Together far longer than the lease, each answer within it.
    for _ in 0..40 {
        stream.heartbeat().await;
        let beat = wire::Heartbeat::default();
        stream.say(Heard::Heartbeat(beat)).await;
    }
    assert!(control.is_alone());
    assert_eq!(running.discovery.counters().connected, 1);
    running.finish().await;
}

#[tokio::test]
async fn control_that_never_says_welcome_is_left() {
    let mut control = FakeControl::start().await;
    let address = control.address.clone();
    let mut parameters = parameters(&[&address]);
    parameters.timing.welcome = Duration::from_millis(50);
    let mut running = Running::start(parameters, None);
    let mut stream = control.stream().await;
    stream.hello().await;
    assert_eq!(
        running.until_lost().await,
        format!("control at {address} did not answer Hello within 50ms")
    );
    control.welcomed().await;
    running.finish().await;
}

#[tokio::test]
async fn each_way_to_fail_has_its_text() {
    let mut control = FakeControl::start().await;
    let address = control.address.clone();
    let mut running = Running::start(parameters(&[&address]), None);

    let mut stream = control.stream().await;
    stream.hello().await;
    let status = tonic::Status::unauthenticated("who are you?");
    stream.fail(status).await;
    let error = running.until_lost().await;
    let expected = format!("control at {address} failed the stream: Unauthenticated: who are you?");
    assert_eq!(error, expected);

    let mut stream = control.stream().await;
    stream.hello().await;
    drop(stream);
    let last_error = Some(format!("control at {address} ended the stream"));
    running
        .until(|status| {
            status.state
                == State::Connecting {
                    last_error: last_error.clone(),
                }
        })
        .await;

    let mut stream = control.stream().await;
    stream.hello().await;
    stream.update(&update(1)).await;
    let last_error = Some(format!(
        "control at {address} broke the protocol: its first word was not Welcome"
    ));
    running
        .until(|status| {
            status.state
                == State::Connecting {
                    last_error: last_error.clone(),
                }
        })
        .await;
    running.finish().await;
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_told_and_the_next_one_tried() {
    let mut running = Running::start(parameters(&[]), None);
    assert_eq!(
        running.until_lost().await,
        "no control plane is configured; give --control HOST:PORT"
    );
    running.finish().await;

    let mut running = Running::start(parameters(&["not an address"]), None);
    assert_eq!(
        running.until_lost().await,
        "`not an address` is not the address of a control plane; give --control HOST:PORT"
    );
    running.finish().await;

    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = unused.local_addr().unwrap().to_string();
    drop(unused);
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&closed, &control.address]), None);
    assert_eq!(
        running.until_lost().await,
        format!("control at {closed} cannot be reached: Connection refused (os error 111)")
    );
    let (_stream, _) = control.welcomed().await;
    running.finish().await;
}

#[tokio::test]
async fn something_else_behind_the_address_is_no_control() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut running = Running::start(parameters(&[&address]), None);
    let error = running.until_lost().await;
    let expected = format!("control at {address} failed the stream: ");
    assert!(error.starts_with(&expected), "{error}");
    running.finish().await;
    server.abort();
}

/// Carries bytes both ways until it is told to freeze: then connections stay open and nothing
/// moves, as when a cable is pulled.
struct Wire {
    address: String,
    frozen: watch::Sender<bool>,
    accepted: mpsc::Receiver<()>,
    _carriers: JoinSet<()>,
}

impl Wire {
    async fn to(control: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (frozen, freeze) = watch::channel(false);
        let (counter, accepted) = mpsc::channel(16);
        let mut carriers = JoinSet::new();
        carriers.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&control).await.unwrap();
                let _ = counter.send(()).await;
                connections.spawn(carry(near, far, freeze.clone()));
            }
        });
        Self {
            address,
            frozen,
            accepted,
            _carriers: carriers,
        }
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, mut freeze: watch::Receiver<bool>) {
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
        _ = freeze.wait_for(|frozen| *frozen) => {}
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_half_open_connection_is_found_by_ping() {
    let mut control = FakeControl::start().await;
    let mut wire = Wire::to(control.address.clone()).await;
    let mut parameters = parameters(&[&wire.address]);
    parameters.timing.keepalive = Duration::from_millis(50);
    parameters.timing.keepalive_answer = Duration::from_millis(50);
    let mut running = Running::start(parameters, None);
    // The lease is 10 s, so it is not what finds it.
    let (_stream, _) = control.welcomed().await;
    running
        .until(|status| matches!(status.state, State::Connected { .. }))
        .await;
    wire.accepted.recv().await.unwrap();
    wire.frozen.send_replace(true);
    let error = running.until_lost().await;
    assert!(error.contains("failed the stream"), "{error}");
    wire.frozen.send_replace(false);
    timeout(PATIENCE, wire.accepted.recv()).await.unwrap();
    running.finish().await;
}

#[tokio::test]
async fn control_that_does_not_read_is_left() {
    let mut control = FakeControl::start().await;
    let address = control.address.clone();
    let mut running = Running::start(parameters(&[&address]), None);
    let (stream, _) = control.welcomed().await;
    // Each update wants an ACK, and nobody reads them.
    let flood = tokio::spawn(async move {
        let mut counter = 1;
        while stream
            .try_say(Heard::Update((&full(counter, vec![])).into()))
            .await
        {
            counter += 1;
        }
    });
    assert_eq!(
        running.until_lost().await,
        format!("control at {address} does not read what it is told")
    );
    flood.await.unwrap();
    running.finish().await;
}
