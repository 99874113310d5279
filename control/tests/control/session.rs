//! Who is taken in, who is not, and with which words.

use std::time::Instant;

use sidelane_proto::wire::control::v1::{
    Hello, VersionRange, sync_request::Message as Said, sync_response::Message as Told,
};

use crate::sidecar::{Control, Sidecar, hello, of, offer, services, watcher};

#[tokio::test]
async fn a_welcome_says_what_a_sidecar_must_know() {
    let control = Control::start().await;
    let sidecar = control.join(hello("n", 5, &["a.A"])).await;
    let welcome = &sidecar.welcome;
    assert_eq!(welcome.protocol, 1);
    assert_eq!(welcome.highest_generation, 5);
    assert_eq!((welcome.lease_ms, welcome.heartbeat_ms), (10_000, 3_000));
    assert_eq!(welcome.build, env!("CARGO_PKG_VERSION"));
    assert_eq!(welcome.store_id.len(), 32);
}

#[tokio::test]
async fn a_node_can_be_seen_before_it_is_welcomed() {
    let control = Control::start().await;
    for n in 0..20 {
        let service = format!("a.A{n}");
        let _node = control.join(hello(&format!("n-{n}"), 1, &[&service])).await;
        let mut other = control.join(watcher(&format!("w-{n}"), &[&service])).await;
        let first = other.take().await;
        assert!(first.full);
        assert_eq!(of(&other.held, &service).len(), 1, "{first:?}");
    }
}

#[tokio::test]
async fn silence_is_refused_after_three_seconds() {
    let control = Control::start().await;
    let began = Instant::now();
    let mut silent = Sidecar::open(control.channel().await).await;
    let Some(Told::Refusal(refusal)) = silent.hear().await.unwrap() else {
        panic!("it was not refused");
    };
    let waited = began.elapsed().as_millis();
    assert!((2_900..5_000).contains(&waited), "{waited} ms");
    assert_eq!(refusal.reason, "NO_HELLO");
    assert_eq!(
        refusal.text,
        "nothing was said; the first message of a stream is a hello, within 3 s"
    );
    assert!(refusal.retry);
}

#[tokio::test]
async fn anything_before_a_hello_is_refused() {
    let control = Control::start().await;
    let mut hasty = Sidecar::open(control.channel().await).await;
    hasty.subscribe(&["a.A"]).await;
    let Some(Told::Refusal(refusal)) = hasty.hear().await.unwrap() else {
        panic!("it was not refused");
    };
    assert_eq!(refusal.reason, "NO_HELLO");
    assert!(refusal.text.starts_with("something else was said first;"));
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let control = Control::start().await;
    let wrong = Hello {
        offers: vec![offer("a.A"), offer("9.A")],
        ..hello("n", 1, &[])
    };
    let refusal = control.refusal(wrong).await;
    assert_eq!(refusal.reason, "INVALID_HELLO");
    assert_eq!(
        refusal.text,
        "hello.offers[1].service `9.A` is not a gRPC service name such as `shop.v1.Orders`"
    );
    assert!(!refusal.retry);
}

#[tokio::test]
async fn versions_that_do_not_meet_are_both_named() {
    let control = Control::start().await;
    let newer = Hello {
        protocol: Some(VersionRange {
            oldest: 2,
            newest: 4,
        }),
        ..hello("n", 1, &[])
    };
    let refusal = control.refusal(newer).await;
    assert_eq!(refusal.reason, "PROTOCOL_MISMATCH");
    assert_eq!(
        refusal.text,
        "the sidecar speaks versions 2 to 4 of the membership protocol, this control plane 1 to 1; \
         use builds whose ranges meet"
    );
    let both = Hello {
        protocol: Some(VersionRange {
            oldest: 1,
            newest: 9,
        }),
        ..hello("n", 1, &[])
    };
    assert_eq!(control.join(both).await.welcome.protocol, 1);
}

#[tokio::test]
async fn an_older_generation_is_refused_with_the_highest() {
    let control = Control::start().await;
    let _alive = control.join(hello("n", 6, &[])).await;
    let refusal = control.refusal(hello("n", 5, &[])).await;
    assert_eq!(refusal.reason, "STALE_GENERATION");
    assert_eq!(refusal.highest_generation, 6);
    assert!(!refusal.retry);
    assert!(
        refusal
            .text
            .starts_with("node `default/n` came with generation 5, but generation 6 was seen"),
        "{}",
        refusal.text
    );
    // Raised above it once, as a process may that was just started.
    let raised = control.join(hello("n", 7, &[])).await;
    assert_eq!(raised.welcome.highest_generation, 7);
}

#[tokio::test]
async fn a_node_id_that_somebody_else_holds_is_refused() {
    let control = Control::start().await;
    let identity = |text: &str, generation| Hello {
        identity: text.to_owned(),
        ..hello("orders-1", generation, &[])
    };
    let holder = "spiffe://example.org/ns/shop/sa/orders";
    let mut alive = control.join(identity(holder, 5)).await;
    let stranger = "spiffe://example.org/ns/shop/sa/stranger";
    let refusal = control.refusal(identity(stranger, 6)).await;
    assert_eq!(refusal.reason, "ALREADY_EXISTS");
    assert_eq!(
        refusal.text,
        format!(
            "node id `default/orders-1` is held by generation 5, instance orders-1-5 with identity \
             {holder}, which is alive; generation 6, instance orders-1-6 with identity {stranger} \
             cannot have it: choose another --node, or stop the other one"
        )
    );
    assert!(refusal.retry);
    assert_eq!(
        control.refusal(identity("", 6)).await.reason,
        "ALREADY_EXISTS"
    );
    // Without identities, another process of the same generation.
    let _plain = control.join(hello("n", 5, &[])).await;
    let copy = Hello {
        instance_id: "a copy of its data folder".to_owned(),
        ..hello("n", 5, &[])
    };
    assert_eq!(control.refusal(copy).await.reason, "ALREADY_EXISTS");
    assert!(alive.take().await.full, "the holder has noticed nothing");
}

#[tokio::test]
async fn networks_do_not_see_each_other() {
    let control = Control::start().await;
    let other = |hello: Hello| Hello {
        network: "other".to_owned(),
        ..hello
    };
    let _here = control.join(hello("n", 1, &["a.A"])).await;
    let _there = control.join(other(hello("n", 9, &["a.A"]))).await;
    let mut here = control.join(watcher("w", &["a.A"])).await;
    let mut there = control.join(other(watcher("w", &["a.A"]))).await;
    here.take().await;
    there.take().await;
    assert_eq!(of(&here.held, "a.A")[0].1, 1);
    assert_eq!(of(&there.held, "a.A")[0].1, 9);
    assert_eq!((here.held.len(), there.held.len()), (1, 1));
}

#[tokio::test]
async fn a_newer_generation_supersedes_and_the_old_goodbye_changes_nothing() {
    let control = Control::start().await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    let mut old = control.join(hello("n", 5, &["a.A"])).await;
    old.take().await;
    let _new = control.join(hello("n", 6, &["a.A"])).await;
    // Said before it can have heard: it must not take the new one away.
    old.goodbye().await;
    let Some(Told::Superseded(superseded)) = old.hear().await.unwrap() else {
        panic!("it was not told");
    };
    assert_eq!(superseded.generation, 6);
    assert_eq!(
        superseded.text,
        "generation 6 of node `default/n` is alive; this process has been replaced and must not \
         come back"
    );
    assert!(old.hear().await.unwrap().is_none());
    drop(old);
    watching
        .take_until(|held| {
            of(held, "a.A")
                .iter()
                .any(|(_, generation, _)| *generation == 6)
        })
        .await;
    // Whatever follows, the new one stays.
    let _more = control.join(hello("m", 1, &["a.A"])).await;
    watching.take_until(|held| of(held, "a.A").len() == 2).await;
    assert_eq!(
        control.refusal(hello("n", 5, &[])).await.reason,
        "STALE_GENERATION"
    );
}

#[tokio::test]
async fn words_that_cannot_be_end_the_stream_with_the_field() {
    let control = Control::start().await;
    let wrong = [
        (
            Said::Hello(hello("n", 1, &[])),
            "hello was said already: a stream has one, as its first message",
        ),
        (
            Said::Subscribe(services(&["a b"])),
            "subscribe.services[0] `a b` is not a gRPC service name such as `shop.v1.Orders`",
        ),
        (
            Said::OffersChanged(sidelane_proto::wire::control::v1::OffersChanged {
                offers: vec![offer("a.A"), offer("a.A")],
            }),
            "offers_changed.offers[1].service `a.A` is named twice",
        ),
        (
            Said::Ack(sidelane_proto::wire::control::v1::Ack::default()),
            "ack.version is missing",
        ),
    ];
    for (n, (word, text)) in wrong.into_iter().enumerate() {
        let mut sidecar = control.join(hello(&format!("n-{n}"), 1, &[])).await;
        sidecar.update().await;
        sidecar.say(word).await;
        let status = sidecar.hear().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), text);
    }
}
