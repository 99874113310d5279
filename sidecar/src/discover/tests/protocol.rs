//! The protocol of one stream, without a stream.

use sidelane_proto::wire::control::v1::{
    self as wire, sync_request::Message as Said, sync_response::Message as Heard,
};

use super::control::welcome;
use super::session::{End, Session, Step, request};
use super::*;

fn stock() -> ServiceName {
    service("shop.v1.Stock")
}

fn heard(message: Heard) -> wire::SyncResponse {
    wire::SyncResponse {
        message: Some(message),
    }
}

fn opened(wanted: &[ServiceName], held: &mut Held) -> Session {
    let mut session = Session::new(hello().protocol, wanted.to_vec(), held);
    let welcomed = session.take(heard(Heard::Welcome(welcome())), held, &everything());
    assert!(matches!(welcomed, Ok(Step::Welcomed(_))));
    session
}

fn answered(session: &mut Session, held: &mut Held, message: Heard) -> Vec<ServiceName> {
    match session.take(heard(message), held, &everything()) {
        Ok(Step::Updated { answered, .. } | Step::Alive { answered }) => answered,
        other => panic!("{other:?}"),
    }
}

fn holding_orders() -> Held {
    let mut held = Held::default();
    let states = vec![state(&orders(), vec![endpoint(&orders(), "a", 1)])];
    held.apply(full(10, states)).unwrap();
    held
}

#[test]
fn welcome_settles_the_terms_and_fills_in_what_it_leaves_out() {
    let mut held = Held::default();
    let mut terms = |lease_ms, heartbeat_ms| {
        let mut session = Session::new(hello().protocol, [], &held);
        let message = Heard::Welcome(wire::Welcome {
            lease_ms,
            heartbeat_ms,
            ..welcome()
        });
        match session.take(heard(message), &mut held, &everything()) {
            Ok(Step::Welcomed(terms)) => (terms.lease.as_millis(), terms.heartbeat.as_millis()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(terms(7_000, 2_000), (7_000, 2_000));
    assert_eq!(terms(0, 0), (10_000, 3_000));
    assert_eq!(terms(1_000, 1), (1_000, 10));
}

#[test]
fn what_the_protocol_does_not_allow_ends_the_stream() {
    let mut held = Held::default();
    let mut first = |message| {
        let mut session = Session::new(hello().protocol, [], &held);
        session
            .take(heard(message), &mut held, &everything())
            .unwrap_err()
    };
    let early = first(Heard::Update((&update(1)).into()));
    assert_eq!(
        early,
        End::Protocol("its first word was not Welcome".into())
    );
    let newer = first(Heard::Welcome(wire::Welcome {
        protocol: 2,
        ..welcome()
    }));
    let text = "it speaks version 2 of the protocol, this sidecar 1 to 1";
    assert_eq!(newer, End::Protocol(text.into()));

    let mut session = opened(&[], &mut held);
    let second = session.take(heard(Heard::Welcome(welcome())), &mut held, &everything());
    assert_eq!(second, Err(End::Protocol("a second Welcome came".into())));
}

#[test]
fn a_word_from_the_future_is_passed_over() {
    let mut held = Held::default();
    let mut session = opened(&[], &mut held);
    let unknown = wire::SyncResponse { message: None };
    let answered = Vec::new();
    assert_eq!(
        session.take(unknown, &mut held, &everything()),
        Ok(Step::Alive { answered })
    );
}

#[test]
fn hello_names_what_is_held_and_the_rest_is_asked_for_after_welcome() {
    let mut held = holding_orders();
    let wanted = [orders(), stock()];
    let mut session = opened(&wanted, &mut held);
    assert_eq!(session.subscription().add, [orders()]);
    let (message, subscription) = session.subscribe([]).unwrap();
    assert_eq!(subscription.add, [stock()]);
    assert_eq!(message, request(Said::Subscribe((&subscription).into())));
    assert_eq!(session.subscribe([]), None);

    // With nothing held, control begins with everything that Hello names.
    let mut session = opened(&wanted, &mut Held::default());
    assert_eq!(session.subscription().add, wanted);
    assert_eq!(session.subscribe([]), None);
}

#[test]
fn a_wish_taken_back_before_it_was_said_is_not_said() {
    let mut held = holding_orders();
    let mut session = opened(&[orders(), stock()], &mut held);
    assert_eq!(session.subscribe([(stock(), false)]), None);
    assert_eq!(session.subscribe([(orders(), true)]), None);
}

#[test]
fn what_was_resumed_is_known_to_be_fresh_once_control_has_spoken() {
    let heartbeat = || Heard::Heartbeat(wire::Heartbeat::default());
    let mut held = holding_orders();
    let mut session = opened(&[orders(), stock()], &mut held);
    assert_eq!(answered(&mut session, &mut held, heartbeat()), [orders()]);
    assert_eq!(answered(&mut session, &mut held, heartbeat()), []);

    // A full update that leaves it out says that it is not held any more.
    let mut session = opened(&[orders()], &mut held);
    let message = Heard::Update((&full(11, vec![])).into());
    assert_eq!(answered(&mut session, &mut held, message), []);
}

#[test]
fn changes_to_a_service_that_was_asked_for_again_wait_for_its_whole_state() {
    let mut held = holding_orders();
    let mut session = opened(&[orders()], &mut held);
    session.subscribe([(orders(), false)]).unwrap();
    held.forget([&orders()]);
    session.subscribe([(orders(), true)]).unwrap();

    // Said by control before it read the new subscription.
    let late = Update {
        upserts: vec![endpoint(&orders(), "b", 1)],
        ..update(11)
    };
    assert_eq!(
        answered(&mut session, &mut held, Heard::Update((&late).into())),
        []
    );
    assert_eq!(held.service(&orders()), None);

    let both = vec![endpoint(&orders(), "a", 1), endpoint(&orders(), "b", 1)];
    let whole = Update {
        services: vec![state(&orders(), both.clone())],
        ..update(11)
    };
    let message = Heard::Update((&whole).into());
    assert_eq!(answered(&mut session, &mut held, message), [orders()]);
    assert_eq!(held.service(&orders()).unwrap().endpoints, both);

    // From here on changes count.
    let gone = Update {
        removals: vec![removal(&orders(), "a", 1)],
        ..update(12)
    };
    answered(&mut session, &mut held, Heard::Update((&gone).into()));
    assert_eq!(held.service(&orders()).unwrap().endpoints.len(), 1);
}

#[test]
fn a_service_that_nobody_wants_is_not_held() {
    let mut held = Held::default();
    let mut session = opened(&[orders()], &mut held);
    let message = Heard::Update((&full(1, vec![state(&stock(), vec![])])).into());
    assert_eq!(answered(&mut session, &mut held, message), []);
    assert_eq!(held.services().len(), 0);
}
