//! A stream over real sockets: what is said, in which order, and what becomes of updates.

use sidelane_proto::wire::control::v1::{
    self as wire, sync_request::Message as Said, sync_response::Message as Heard,
};

use super::control::{FakeControl, ack, welcome};
use super::*;

fn one_order(counter: u64, node: &str) -> Update {
    full(
        counter,
        vec![state(&orders(), vec![endpoint(&orders(), node, 1)])],
    )
}

#[tokio::test]
async fn hello_comes_first_with_all_that_control_needs() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (_stream, said) = control.welcomed().await;
    let mut expected = wire::Hello::from(&hello());
    expected.subscribe.as_mut().unwrap().services = vec!["shop.v1.Orders".into()];
    // What the hook made of the connection's local address.
    expected.addresses.as_mut().unwrap().internal = "127.0.0.1:15006".into();
    assert_eq!(said, expected);
    let local = running.discovery.local_address();
    assert_eq!(*local.borrow(), Some(IpAddr::from([127, 0, 0, 1])));
    running.finish().await;
}

#[tokio::test]
async fn an_update_reaches_the_sink_before_it_is_acknowledged() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(10, "a")).await;
    let nodes = running.sink.nodes(&orders()).unwrap();
    assert_eq!(nodes, [("a".to_owned(), 1)]);
    let status = running.until(|status| status.answers == 1).await;
    assert_eq!(status.version, Some(version(10)));
    assert_eq!(status.source, Source::Control);
    assert_eq!(status.highest_generation, Generation::new(1_000));
    let State::Connected { address, build, .. } = status.state else {
        panic!("{:?}", status.state);
    };
    assert_eq!((address, build.as_str()), (control.address.clone(), "fake"));

    let more = Update {
        upserts: vec![endpoint(&orders(), "b", 1)],
        removals: vec![removal(&orders(), "a", 1)],
        ..update(11)
    };
    stream.update_acked(&more).await;
    let nodes = running.sink.nodes(&orders()).unwrap();
    assert_eq!(nodes, [("b".to_owned(), 1)]);
    assert_eq!(running.discovery.counters().updates, 2);
    running.finish().await;
}

#[tokio::test]
async fn a_bad_update_is_refused_with_its_field_and_the_last_good_one_stays() {
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(10, "a")).await;

    // Wrong on the wire: the second endpoint has an address that cannot be dialled.
    let mut bad = wire::Update::from(&Update {
        upserts: vec![endpoint(&orders(), "b", 1), endpoint(&orders(), "c", 1)],
        ..update(11)
    });
    bad.upserts[1].addresses.as_mut().unwrap().internal = "nowhere".into();
    stream.say(Heard::Update(bad)).await;
    let nack = |counter, field: &str, problem: &str| {
        Some(Said::Nack(wire::Nack {
            version: Some((&version(counter)).into()),
            field: field.into(),
            problem: problem.into(),
        }))
    };
    let problem = "`nowhere` is not a host and port such as `10.0.0.7:15006`";
    assert_eq!(
        stream.next().await,
        nack(11, "upserts[1].addresses.internal", problem)
    );
    let status = running
        .until(|status| status.refused_update.is_some())
        .await;
    let refused = status.refused_update.unwrap();
    assert_eq!(refused.version, Some(version(11)));
    assert_eq!(
        refused.error.to_string(),
        format!("upserts[1].addresses.internal {problem}")
    );
    assert_eq!(status.version, Some(version(10)));

    // Well-formed, and wrong in view of what is held.
    stream.update(&update(9)).await;
    let problem = "contradicts another field: 9 is older than 10, which is held";
    assert_eq!(stream.next().await, nack(9, "version.counter", problem));

    let nodes = running.sink.nodes(&orders()).unwrap();
    assert_eq!(nodes, [("a".to_owned(), 1)]);
    assert_eq!(running.sink.changes.lock().unwrap().len(), 1);
    assert_eq!(running.discovery.counters().refused_updates, 2);

    // The refusal is remembered until something good comes of the service that was refused.
    stream.update_acked(&update(12)).await;
    running
        .until(|status| status.version == Some(version(12)))
        .await;
    assert!(running.status.borrow().refused_update.is_some());
    stream.update_acked(&one_order(13, "b")).await;
    running
        .until(|status| status.refused_update.is_none())
        .await;
    running.finish().await;
}

#[tokio::test]
async fn after_a_loss_the_next_control_is_told_what_is_held() {
    let mut first = FakeControl::start().await;
    let mut second = FakeControl::start().await;
    let addresses = [first.address.clone(), second.address.clone()];
    let mut running = Running::start(parameters(&[&addresses[0], &addresses[1]]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, said) = first.welcomed().await;
    assert_eq!(said.held, None);
    stream.update_acked(&one_order(10, "a")).await;
    drop((stream, first));

    // While control is away: one more wish, and what is known stays.
    running.until_lost().await;
    let stock = service("shop.v1.Stock");
    running.discovery.want(&stock).unwrap();
    let (mut stream, said) = second.welcomed().await;
    assert_eq!(said.held, Some((&version(10)).into()));
    assert_eq!(said.instance_id, hello().instance.as_str());
    let subscribed = said.subscribe.unwrap().services;
    // Control tells what changed since 10 of what was held at 10. Of the rest, everything.
    if !subscribed.contains(&stock.to_string()) {
        assert_eq!(subscribed, ["shop.v1.Orders"]);
        stream.subscribed(&[&stock]).await;
    }
    assert_eq!(running.sink.nodes(&orders()).unwrap().len(), 1);
    let delta = Update {
        upserts: vec![endpoint(&orders(), "b", 1)],
        ..update(11)
    };
    stream.update_acked(&delta).await;
    assert_eq!(running.sink.nodes(&orders()).unwrap().len(), 2);
    running.finish().await;
}

#[tokio::test]
async fn a_refused_update_is_asked_for_again_on_the_next_stream() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(10, "a")).await;
    let mut bad = wire::Update::from(&update(11));
    bad.upserts = vec![wire::Endpoint::default()];
    stream.say(Heard::Update(bad)).await;
    assert!(matches!(stream.next().await, Some(Said::Nack(_))));
    stream.update_acked(&update(12)).await;
    drop(stream);

    // Even where the refused service could not be told from its name: everything is asked for.
    let (mut stream, said) = control.welcomed().await;
    assert_eq!(said.held, None);
    stream.update_acked(&one_order(12, "a")).await;
    drop(stream);

    let (_stream, said) = control.welcomed().await;
    assert_eq!(said.held, Some((&version(12)).into()));
    running.finish().await;
}

#[tokio::test]
async fn heartbeats_name_the_version_held() {
    let mut control = FakeControl::start().await;
    let running = Running::start(parameters(&[&control.address]), None);
    running.discovery.want(&orders()).unwrap();
    let mut stream = control.stream().await;
    stream.hello().await;
    let quick = wire::Welcome {
        heartbeat_ms: 10,
        ..welcome()
    };
    stream.say(Heard::Welcome(quick)).await;
    assert_eq!(stream.heartbeat().await.version, None);
    stream.update(&one_order(10, "a")).await;
    assert_eq!(stream.next().await, Some(ack(10)));
    let beat = stream.heartbeat().await;
    assert_eq!(beat.version, Some((&version(10)).into()));
    running.finish().await;
}

#[tokio::test]
async fn a_picture_from_disk_is_there_at_once_and_resumed() {
    let mut held = Held::default();
    held.offer([service("shop.v1.Front")]);
    held.apply(one_order(10, "a")).unwrap();
    let mut control = FakeControl::start().await;
    let mut running = Running::start(parameters(&[&control.address]), Some(held));
    assert_eq!(running.sink.nodes(&orders()).unwrap().len(), 1);
    assert_eq!(running.status.borrow().source, Source::Disk);
    // What was followed before is followed again, without anybody asking.
    assert_eq!(running.discovery.wanted(), [orders()]);
    let (mut stream, said) = control.welcomed().await;
    assert_eq!(said.held, Some((&version(10)).into()));
    assert_eq!(said.subscribe.unwrap().services, ["shop.v1.Orders"]);
    stream.update_acked(&update(11)).await;
    running
        .until(|status| status.source == Source::Control)
        .await;
    running.finish().await;
}

#[tokio::test]
async fn the_picture_is_kept_on_disk_the_newest_only_and_not_too_often() {
    let directory = tempfile::tempdir().unwrap();
    let folder = Arc::new(DataFolder::open(directory.path()).unwrap());
    let mut control = FakeControl::start().await;
    let mut parameters = parameters(&[&control.address]);
    parameters.data = Some(Arc::clone(&folder));
    // So long that whatever is written later was written at the end.
    parameters.timing.save_interval = Duration::from_secs(3600);
    let mut running = Running::start(parameters, None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(10, "a")).await;
    running
        .until(|status| status.saved == Some(version(10)))
        .await;
    for (counter, node) in [(11, "b"), (12, "c"), (13, "d")] {
        stream.update_acked(&one_order(counter, node)).await;
    }
    assert_eq!(running.discovery.counters().saved, 1);

    let discovery = running.discovery.clone();
    running.finish().await;
    assert_eq!(discovery.counters().saved, 2);
    let kept = disk::load(&folder, &network()).unwrap().unwrap();
    assert_eq!(kept.version(), Some(&version(13)));
    let state = kept.service(&orders()).unwrap();
    assert_eq!(state.endpoints[0].node.as_str(), "d");
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let folder = Arc::new(DataFolder::open(directory.path()).unwrap());
    // Nothing can be written over a folder.
    let obstacle = directory.path().join("snapshot.new");
    std::fs::create_dir(&obstacle).unwrap();
    let mut control = FakeControl::start().await;
    let mut parameters = parameters(&[&control.address]);
    parameters.data = Some(Arc::clone(&folder));
    parameters.timing.save_interval = Duration::from_millis(1);
    parameters.timing.save_retry = Duration::from_millis(10);
    let mut running = Running::start(parameters, None);
    running.discovery.want(&orders()).unwrap();
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&one_order(10, "a")).await;
    let status = running.until(|status| status.disk_error.is_some()).await;
    assert_eq!(
        status.disk_error.unwrap(),
        format!(
            "`{}` cannot be written: Is a directory (os error 21)",
            directory.path().join("snapshot").display()
        )
    );
    assert!(running.discovery.counters().save_failures >= 1);

    std::fs::remove_dir(&obstacle).unwrap();
    let status = running.until(|status| status.saved.is_some()).await;
    assert_eq!(status.disk_error, None);
    assert!(disk::load(&folder, &network()).unwrap().is_some());
    running.finish().await;
}
