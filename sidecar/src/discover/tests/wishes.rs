//! What the rest of the sidecar asks for: subscriptions, offers, addresses, drain, goodbye.

use sidelane_proto::wire::control::v1::{
    self as wire, sync_request::Message as Said, sync_response::Message as Heard,
};
use tokio::task::JoinSet;

use super::control::FakeControl;
use super::*;

fn one_order(counter: u64) -> Update {
    Update {
        services: vec![state(&orders(), vec![endpoint(&orders(), "a", 1)])],
        ..update(counter)
    }
}

#[tokio::test]
async fn first_uses_at_once_share_one_round_trip() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    let (mut stream, _) = control.welcomed().await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let discovery = running.discovery.clone();
        callers.spawn(async move {
            discovery.want(&orders()).unwrap();
            discovery.answered(&orders(), PATIENCE).await
        });
    }
    stream.subscribed(&[&orders()]).await;
    stream.update_acked(&one_order(1)).await;
    assert_eq!(callers.join_all().await, [true; 50]);
    // Known already: no more is said, so the next word is about something else.
    running.discovery.want(&orders()).unwrap();
    assert!(running.discovery.answered(&orders(), PATIENCE).await);
    let stock = service("shop.v1.Stock");
    running.discovery.want(&stock).unwrap();
    stream.subscribed(&[&stock]).await;
    running.finish().await;
}

#[tokio::test]
async fn an_answer_may_be_that_nobody_has_ever_seen_the_service() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    let unknown = ServiceState {
        ever_seen: false,
        ..state(&orders(), vec![])
    };
    stream.update_acked(&full(1, vec![unknown])).await;
    assert!(running.discovery.answered(&orders(), PATIENCE).await);
    assert!(!running.sink.picture.lock().unwrap()[&orders()].ever_seen);
    running.finish().await;
}

#[tokio::test]
async fn nobody_waits_for_control_that_is_away() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    // Connected and silent: the wait is bounded.
    let (stream, _) = control.welcomed().await;
    let wait = Duration::from_millis(20);
    assert!(!running.discovery.answered(&orders(), wait).await);
    // A waiter is told when control goes.
    let orders = orders();
    let waiter = running.discovery.answered(&orders, PATIENCE * 2);
    drop((stream, control));
    let answered = timeout(PATIENCE, waiter).await.expect("it waited");
    assert!(!answered);
    // And with control away there is no wait at all.
    running.until_lost().await;
    let waiter = running.discovery.answered(&orders, PATIENCE * 2);
    assert!(!timeout(PATIENCE, waiter).await.expect("it waited"));
    running.finish().await;
}

#[tokio::test]
async fn a_forgotten_service_leaves_the_picture() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(1)).await;
    running.discovery.forget(&orders());
    running.discovery.forget(&orders());
    let expected = wire::Subscribe {
        unsubscribe: vec!["shop.v1.Orders".into()],
        ..wire::Subscribe::default()
    };
    assert_eq!(stream.next().await, Some(Said::Subscribe(expected)));
    // Said by control before it read that.
    let late = Update {
        upserts: vec![endpoint(&orders(), "b", 1)],
        ..update(2)
    };
    stream.update_acked(&late).await;
    assert_eq!(running.sink.nodes(&orders()), None);
    let short = Duration::from_millis(20);
    assert!(!running.discovery.answered(&orders(), short).await);
    running.finish().await;
}

#[tokio::test]
async fn what_is_forgotten_while_control_is_away_leaves_when_it_is_back() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(1)).await;
    let address = control.address.clone();
    drop((stream, control));
    running.until_lost().await;
    running.discovery.forget(&orders());
    assert!(running.sink.nodes(&orders()).is_some());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let mut control = FakeControl::on(listener);
    let (_stream, said) = control.welcomed().await;
    assert_eq!(said.subscribe.unwrap().services, [""; 0]);
    assert_eq!(running.sink.nodes(&orders()), None);
    running.finish().await;
}

#[tokio::test]
async fn there_is_a_bound_on_what_is_wanted() {
    let running = Running::start(parameters(&[]), None);
    for number in 0..intent::WANTED_LIMIT {
        let service = service(&format!("s.S{number}"));
        running.discovery.want(&service).unwrap();
    }
    let error = running.discovery.want(&orders()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`shop.v1.Orders` cannot be looked up: this sidecar follows 16384 services already, the \
         most it can; those that nobody calls are dropped after a while"
    );
    assert_eq!(running.discovery.counters().refused_subscriptions, 1);
    // What is wanted already still is, and room can be made.
    running.discovery.want(&service("s.S7")).unwrap();
    running.discovery.forget(&service("s.S7"));
    running.discovery.want(&orders()).unwrap();
    running.finish().await;
}

#[tokio::test]
async fn changed_offers_are_said_on_the_open_stream_and_in_the_next_hello() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    let (mut stream, said) = control.welcomed().await;
    assert_eq!(said.offers.len(), 1);
    let ill = Offer {
        health: Health::Unhealthy,
        ..offer(&service("shop.v1.Front"))
    };
    running.discovery.set_offers(vec![ill.clone()]);
    let offers = vec![(&ill).into()];
    let expected = wire::OffersChanged {
        offers: offers.clone(),
    };
    assert_eq!(stream.next().await, Some(Said::OffersChanged(expected)));
    // The same again is no news.
    running.discovery.set_offers(vec![ill]);
    running.discovery.want(&orders()).unwrap();
    stream.subscribed(&[&orders()]).await;
    drop(stream);
    let (_stream, said) = control.welcomed().await;
    assert_eq!(said.offers, offers);
    running.finish().await;
}

#[tokio::test]
async fn changed_addresses_need_a_new_hello() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    let (mut stream, _) = control.welcomed().await;
    let addresses = Addresses {
        internal: None,
        external: PeerAddress::new("shop.example:15443").ok(),
        own: Vec::new(),
    };
    running.discovery.set_addresses(addresses.clone());
    let (_second, said) = control.welcomed().await;
    assert_eq!(said.addresses, Some((&addresses).into()));
    assert_eq!(stream.next().await, None);
    running.finish().await;
}

#[tokio::test]
async fn a_drain_is_confirmed_and_every_later_hello_says_so() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    let (mut stream, said) = control.welcomed().await;
    assert!(!said.draining);
    running
        .until(|status| matches!(status.state, State::Connected { .. }))
        .await;
    let drain = tokio::spawn({
        let discovery = running.discovery.clone();
        async move { discovery.drain(PATIENCE).await }
    });
    assert_eq!(stream.next().await, Some(Said::Draining(wire::Draining {})));
    let confirmed = wire::DrainConfirmed {
        version: Some((&version(3)).into()),
        unacknowledged: 2,
    };
    stream.say(Heard::DrainConfirmed(confirmed)).await;
    let unacknowledged = 2;
    assert_eq!(
        drain.await.unwrap(),
        DrainOutcome::Confirmed { unacknowledged }
    );
    drop(stream);
    let (_stream, said) = control.welcomed().await;
    assert!(said.draining);
    running.finish().await;
}

#[tokio::test]
async fn a_drain_that_nobody_confirms_says_why() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    let (mut stream, _) = control.welcomed().await;
    running
        .until(|status| matches!(status.state, State::Connected { .. }))
        .await;
    let short = Duration::from_millis(20);
    let DrainOutcome::Unconfirmed { why } = running.discovery.drain(short).await else {
        panic!("nobody confirmed");
    };
    assert_eq!(why, "control did not confirm within 20ms");
    assert_eq!(stream.next().await, Some(Said::Draining(wire::Draining {})));

    // Control goes while it is waited for, and is away after that.
    let drain = tokio::spawn({
        let discovery = running.discovery.clone();
        async move { discovery.drain(PATIENCE * 2).await }
    });
    assert_eq!(stream.next().await, Some(Said::Draining(wire::Draining {})));
    let address = control.address.clone();
    drop((stream, control));
    let lost = timeout(PATIENCE, drain).await.expect("it waited").unwrap();
    assert!(matches!(lost, DrainOutcome::Unconfirmed { .. }), "{lost:?}");
    let refused =
        format!("control at {address} cannot be reached: Connection refused (os error 111)");
    running
        .until(|status| {
            let last_error = Some(refused.clone());
            status.state == State::Connecting { last_error }
        })
        .await;
    let away = running.discovery.drain(PATIENCE * 2);
    let away = timeout(PATIENCE, away).await.expect("it waited");
    assert_eq!(away, DrainOutcome::Unconfirmed { why: refused });
    running.finish().await;
}

#[tokio::test]
async fn goodbye_is_said_before_the_stream_ends() {
    let mut control = FakeControl::start().await;
    let mut parameters = parameters(&[&control.address]);
    parameters.timing.goodbye = PATIENCE;
    let running = Running::start(parameters, None);
    let (mut stream, _) = control.welcomed().await;
    let discovery = running.discovery.clone();
    let leaving = tokio::spawn(async move { discovery.goodbye("drained").await });
    let reason = "drained".into();
    assert_eq!(
        stream.next().await,
        Some(Said::Goodbye(wire::Goodbye { reason }))
    );
    // The sidecar has ended its half, and waits for control to end the other.
    assert_eq!(stream.next().await, None);
    assert!(!running.task.is_finished());
    drop(stream);
    leaving.await.unwrap();
    timeout(PATIENCE, running.task).await.unwrap().unwrap();
    assert_eq!(running.status.borrow().state, State::Left);
}

#[tokio::test]
async fn goodbye_does_not_wait_for_control_that_is_away_or_does_not_answer() {
    let mut running = Running::start(parameters(&["127.0.0.1:1"]), None);
    running.until_lost().await;
    running.finish().await;

    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    let (_stream, _) = control.welcomed().await;
    running.finish().await;
}
