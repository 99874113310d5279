//! What becomes of a service whose news were refused: its last good state stays, the complaint
//! stays, and nothing is resumed from, until control has said something good of it.

use sidelane_proto::wire::control::v1::{
    self as wire, sync_request::Message as Said, sync_response::Message as Heard,
};

use super::blame::Named;
use super::control::{FakeControl, FakeStream, ack, welcome};
use super::session::{Session, Step};
use super::*;

fn stock() -> ServiceName {
    service("shop.v1.Stock")
}

fn whole(service: &ServiceName, node: &str) -> ServiceState {
    state(service, vec![endpoint(service, node, 1)])
}

/// Orders and Stock, both at node `a`.
fn both(counter: u64) -> Update {
    full(counter, vec![whole(&orders(), "a"), whole(&stock(), "a")])
}

fn holding_both() -> Held {
    let mut held = Held::default();
    held.apply(both(10)).unwrap();
    held
}

/// As control would say it, with an endpoint of the second service that nobody can dial.
fn spoiled(update: &Update) -> wire::Update {
    let mut bad = wire::Update::from(update);
    let addresses = &mut bad.services[1].endpoints[0].addresses;
    addresses.as_mut().unwrap().internal = "nowhere".into();
    bad
}

fn names<'a>(services: impl IntoIterator<Item = &'a ServiceName>) -> Vec<String> {
    services.into_iter().map(ToString::to_string).collect()
}

#[test]
fn a_refusal_is_about_the_service_of_its_field_or_about_all() {
    let named = |name: &str| wire::ServiceState {
        service: name.to_owned(),
        ..wire::ServiceState::default()
    };
    let named = Named::of(&wire::Update {
        services: vec![named("s.A"), named("not a name")],
        upserts: vec![wire::Endpoint {
            service: "s.B".into(),
            ..wire::Endpoint::default()
        }],
        removals: vec![wire::Removal {
            service: "s.C".into(),
            ..wire::Removal::default()
        }],
        ..wire::Update::default()
    });
    let blamed = |field: &str| names(&named.blamed(field));
    assert_eq!(blamed("services[0].endpoints[3].weight"), ["s.A"]);
    assert_eq!(blamed("upserts[0].addresses.internal"), ["s.B"]);
    assert_eq!(blamed("removals[0].generation"), ["s.C"]);
    let all = ["s.A", "s.B", "s.C"];
    for field in [
        "version.counter",
        "upserts",
        "upserts[1].weight",
        "upserts[x].weight",
        "services[1].service",
        "others[0]",
    ] {
        assert_eq!(blamed(field), all, "{field}");
    }
}

#[test]
fn a_full_update_does_not_drop_what_was_refused_until_it_is_told_anew() {
    let mut held = holding_both();
    held.refuse([stock()]);
    for counter in [11, 12] {
        let change = held.apply(full(counter, vec![])).unwrap();
        assert!(!change.dropped.contains(&stock()), "{counter}");
        assert_eq!(**held.service(&stock()).unwrap(), whole(&stock(), "a"));
        assert!(held.service(&orders()).is_none());
    }
    // A good state of it, in an update of any kind, and it is as any other.
    let told = Update {
        services: vec![whole(&stock(), "b")],
        ..update(13)
    };
    held.apply(told).unwrap();
    assert_eq!(held.refused().len(), 0);
    let change = held.apply(full(14, vec![])).unwrap();
    assert_eq!(change.dropped, [stock()]);
}

#[test]
fn only_good_news_of_the_service_itself_end_its_refusal() {
    let mut held = holding_both();
    held.refuse([stock(), orders()]);
    let others = Update {
        upserts: vec![endpoint(&orders(), "b", 1)],
        removals: vec![removal(&stock(), "a", 9)],
        ..update(11)
    };
    held.apply(others).unwrap();
    assert_eq!(names(held.refused()), ["shop.v1.Stock"]);
    // A state that is not taken, because nobody wants it, is no news.
    let mut unwanted = held.clone();
    unwanted
        .apply_taking(full(12, vec![whole(&stock(), "b")]), |_, _| false, |_| true)
        .unwrap();
    assert_eq!(names(unwanted.refused()), ["shop.v1.Stock"]);
    // Wanted no more, it is neither held nor refused.
    assert_eq!(held.forget([&stock()]).unwrap().dropped, [stock()]);
    assert_eq!(held.refused().len(), 0);
}

#[test]
fn after_a_refusal_there_is_nothing_to_resume_from_until_nothing_can_be_missing() {
    let mut held = holding_both();
    held.refuse([stock()]);
    assert_eq!(held.whole_since(), None);
    let tell = |held: &mut Held, update: Update| {
        held.apply(update).unwrap();
        held.whole_since().cloned()
    };
    assert_eq!(tell(&mut held, update(11)), None);
    assert_eq!(held.version(), Some(&version(11)));
    // All but the service that is held back.
    let rest = full(12, vec![whole(&orders(), "b")]);
    let mut waiting = held.clone();
    assert_eq!(tell(&mut waiting, rest), None);
    let mut stated = waiting.clone();
    let state_of_it = Update {
        services: vec![whole(&stock(), "b")],
        ..update(13)
    };
    assert_eq!(tell(&mut stated, state_of_it.clone()), Some(version(13)));
    // One endpoint of it is good news, and not all that was refused.
    let one = Update {
        upserts: vec![endpoint(&stock(), "b", 1)],
        ..update(13)
    };
    assert_eq!(tell(&mut waiting, one), None);
    assert_eq!(waiting.refused().len(), 0);
    assert_eq!(tell(&mut waiting, both(14)), Some(version(14)));
    // Without a full picture since, its state alone does not close the gap, nor does a new stream.
    assert_eq!(tell(&mut held, state_of_it), None);
    held.resume([]);
    assert_eq!(tell(&mut held, update(14)), None);
    assert_eq!(tell(&mut held, both(15)), Some(version(15)));
}

#[test]
fn with_nothing_to_resume_from_a_heartbeat_answers_for_nothing() {
    let mut held = holding_both();
    held.refuse([stock()]);
    held.resume([]);
    let mut session = Session::new(hello().protocol, [orders(), stock()], &held);
    // Everything is to be told anew, so that there is nothing to ask for later.
    assert_eq!(session.subscription().add, [orders(), stock()]);
    assert_eq!(session.subscribe([]), None);
    let mut take = |message: Heard| {
        let message = Some(message);
        match session.take(wire::SyncResponse { message }, &mut held, &everything()) {
            Ok(Step::Updated { answered, .. } | Step::Alive { answered }) => answered,
            Ok(Step::Welcomed(_)) => Vec::new(),
            other => panic!("{other:?}"),
        }
    };
    take(Heard::Welcome(welcome()));
    assert_eq!(take(Heard::Heartbeat(wire::Heartbeat::default())), []);
    let answered = take(Heard::Update((&both(9)).into()));
    assert!(answered.contains(&orders()) && answered.contains(&stock()));
    assert_eq!(held.whole_since(), Some(&version(9)));
}

/// A sidecar that wants Orders and Stock, and has both.
async fn following(control: &mut FakeControl, parameters: Parameters) -> (Running, FakeStream) {
    let running = Running::start(parameters, None);
    for service in [orders(), stock()] {
        running.discovery.want(&service).unwrap();
    }
    let (mut stream, _) = control.welcomed().await;
    stream.update_acked(&both(10)).await;
    (running, stream)
}

async fn refused(stream: &mut FakeStream, update: wire::Update) {
    let expected = update.version.clone();
    stream.say(Heard::Update(update)).await;
    match stream.next().await {
        Some(Said::Nack(nack)) => assert_eq!(nack.version, expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_control_holds_back_after_a_refusal_stays_and_so_does_the_complaint() {
    let mut control = FakeControl::start().await;
    let parameters = parameters(&[&control.address]);
    let (mut running, mut stream) = following(&mut control, parameters).await;
    refused(&mut stream, spoiled(&both(11))).await;
    // The rest again, as control says it: full, and without the service of the field.
    let rest = full(12, vec![whole(&orders(), "b")]);
    stream.update_acked(&rest).await;
    let at = |node: &str| Some(vec![(node.to_owned(), 1)]);
    assert_eq!(running.sink.nodes(&orders()), at("b"));
    assert_eq!(running.sink.nodes(&stock()), at("a"));
    let status = running.until(|status| status.answers == 2).await;
    assert_eq!(status.version, Some(version(12)));
    let complaint = status.refused_update.unwrap();
    assert_eq!(complaint.version, Some(version(11)));
    let field = "services[1].endpoints[0].addresses.internal";
    assert_eq!(complaint.error.path, field);

    // Changed, and good again.
    let mended = Update {
        services: vec![whole(&stock(), "c")],
        ..update(13)
    };
    stream.update_acked(&mended).await;
    assert_eq!(running.sink.nodes(&stock()), at("c"));
    let over = |status: &Status| status.refused_update.is_none();
    running.until(over).await;
    drop(stream);
    let (_stream, said) = control.welcomed().await;
    assert_eq!(said.held, Some((&version(13)).into()));
    running.finish().await;
}

#[tokio::test]
async fn the_next_hello_asks_for_everything_and_its_picture_ends_the_complaint() {
    let mut control = FakeControl::start().await;
    let parameters = parameters(&[&control.address]);
    let (mut running, mut stream) = following(&mut control, parameters).await;
    refused(&mut stream, spoiled(&both(11))).await;
    // A node that comes, is taken, and leaves while the stream is down: no delta names it.
    let passing = Update {
        upserts: vec![endpoint(&orders(), "passing", 1)],
        ..update(12)
    };
    stream.update_acked(&passing).await;
    assert_eq!(running.sink.nodes(&orders()).unwrap().len(), 2);
    drop(stream);

    let (mut stream, said) = control.welcomed().await;
    assert_eq!(said.held, None);
    let mut subscribed = said.subscribe.unwrap().services;
    subscribed.sort();
    assert_eq!(subscribed, names(&[orders(), stock()]));
    assert!(running.status.borrow().refused_update.is_some());
    stream.update_acked(&both(13)).await;
    let over = |status: &Status| status.refused_update.is_none();
    running.until(over).await;
    assert_eq!(running.sink.nodes(&orders()).unwrap().len(), 1);
    drop(stream);
    let (_stream, said) = control.welcomed().await;
    assert_eq!(said.held, Some((&version(13)).into()));
    running.finish().await;
}

#[tokio::test]
async fn a_service_that_nobody_wants_any_more_takes_its_complaint_along() {
    let mut control = FakeControl::start().await;
    let parameters = parameters(&[&control.address]);
    let (mut running, mut stream) = following(&mut control, parameters).await;
    refused(&mut stream, spoiled(&both(11))).await;
    let complains = |status: &Status| status.refused_update.is_some();
    running.until(complains).await;
    running.discovery.forget(&stock());
    running.until(|status| !complains(status)).await;
    running.finish().await;
}

#[tokio::test]
async fn a_picture_with_a_gap_is_kept_on_disk_and_never_resumed_from() {
    let directory = tempfile::tempdir().unwrap();
    let folder = Arc::new(DataFolder::open(directory.path()).unwrap());
    let mut control = FakeControl::start().await;
    let mut parameters = parameters(&[&control.address]);
    parameters.data = Some(Arc::clone(&folder));
    parameters.timing.save_interval = Duration::from_millis(1);
    let (running, mut stream) = following(&mut control, parameters).await;
    refused(&mut stream, spoiled(&both(11))).await;
    let rest = full(12, vec![whole(&orders(), "b")]);
    stream.say(Heard::Update((&rest).into())).await;
    assert_eq!(stream.next().await, Some(ack(12)));
    running.finish().await;

    let kept = disk::load(&folder, &network()).unwrap().unwrap();
    assert_eq!(kept.version(), Some(&version(12)));
    assert_eq!(kept.whole_since(), None);
    let nodes = |service| kept.service(service).unwrap().endpoints[0].node.to_string();
    assert_eq!(
        (nodes(&orders()), nodes(&stock())),
        ("b".into(), "a".into())
    );
}
