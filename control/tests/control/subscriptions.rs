//! What a session is told, and when.

use sidelane_process::fetch;
use sidelane_proto::wire::control::v1::{Health, Hello, Subscribe, Version};

use crate::sidecar::{Control, PATIENCE, hello, of, offer, watcher};

#[tokio::test]
async fn what_is_asked_for_is_answered_at_once_also_if_there_is_nothing() {
    let control = Control::start().await;
    let node = control.join(hello("n", 1, &["a.A", "b.B"])).await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    let first = watching.take().await;
    assert!(first.full);
    assert_eq!(first.services.len(), 1);
    assert!(first.services[0].ever_seen);
    let mut changed = offer("a.A");
    changed.weight = 7;
    node.offer(vec![changed]).await;
    assert_eq!(watching.take().await.upserts[0].weight, 7);
    watching.subscribe(&["c.C"]).await;
    let unknown = watching.take().await;
    assert!(!unknown.full);
    assert_eq!(unknown.services[0].service, "c.C");
    assert!(!unknown.services[0].ever_seen && unknown.services[0].endpoints.is_empty());
    watching.subscribe(&["b.B"]).await;
    let left = watching.take().await;
    assert_eq!(left.services[0].service, "b.B");
    assert!(left.services[0].ever_seen && left.services[0].endpoints.is_empty());
}

#[tokio::test]
async fn changes_arrive_as_deltas() {
    let control = Control::start().await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    let seen = watching.take().await;
    assert!(seen.services[0].ever_seen, "now it is known");
    let mut sick = offer("a.A");
    sick.health = Health::Unhealthy.into();
    sick.weight = 7;
    node.offer(vec![sick]).await;
    let changed = watching.take().await;
    assert!(changed.services.is_empty());
    assert_eq!(changed.upserts.len(), 1);
    assert_eq!(changed.upserts[0].health(), Health::Unhealthy);
    assert_eq!(changed.upserts[0].weight, 7);
    node.offer(vec![]).await;
    let gone = watching.take().await;
    assert_eq!(gone.removals.len(), 1);
    assert!(watching.held.is_empty());
}

#[tokio::test]
async fn a_change_that_does_not_concern_it_is_not_told() {
    let control = Control::with_lease(std::time::Duration::from_secs(1)).await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    let first = watching.take().await.version.unwrap();
    let _other = control.join(hello("n", 1, &["b.B"])).await;
    let counter = loop {
        watching.heartbeat().await;
        // Panics if anything else is said.
        let version = watching.hear_heartbeat().await;
        assert_eq!(version.store_id, first.store_id);
        if version.counter > first.counter {
            break version.counter;
        }
    };
    let _node = control.join(hello("m", 1, &["a.A"])).await;
    assert!(watching.take().await.version.unwrap().counter > counter);
}

#[tokio::test]
async fn a_session_that_wants_all_is_told_all() {
    let control = Control::start().await;
    let _node = control.join(hello("n", 1, &["a.A"])).await;
    let all = Hello {
        subscribe: Some(Subscribe {
            all: true,
            ..Subscribe::default()
        }),
        ..hello("tool", 1, &[])
    };
    let mut tool = control.join(all).await;
    tool.take().await;
    assert_eq!(tool.held.len(), 1);
    let _new = control.join(hello("m", 1, &["b.B"])).await;
    tool.take_until(|held| of(held, "b.B").len() == 1).await;
}

#[tokio::test]
async fn a_slow_session_gets_the_newest_state_and_no_backlog() {
    let control = Control::start().await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    let mut slow = control.join(watcher("slow", &["a.A"])).await;
    let mut quick = control.join(watcher("quick", &["a.A"])).await;
    let first = slow.update().await;
    quick.take().await;
    for weight in 1..=50 {
        let mut changed = offer("a.A");
        changed.weight = weight;
        node.offer(vec![changed]).await;
        let update = quick.take().await;
        assert_eq!(update.upserts[0].weight, weight);
    }
    slow.ack(&first).await;
    let newest = slow.take().await;
    assert_eq!(newest.upserts.len(), 1);
    assert_eq!(newest.upserts[0].weight, 50);
    let url = format!("http://{}/metrics", control.app.admin());
    let page = fetch::get(&url, PATIENCE).await.unwrap().text();
    let figure = |name: &str| -> f64 {
        let value = page.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap().parse().unwrap()
    };
    let coalesced = figure("sidelane_control_coalesced_total ");
    // Also the node itself, which has not answered either.
    assert!((1.0..=100.0).contains(&coalesced), "{coalesced}");
    // All answers of the quick one, and the first of the slow one, which took as long as all those.
    assert!(figure("sidelane_control_update_seconds_count ") >= 52.0);
    assert!(figure("sidelane_control_update_seconds_sum ") > 0.0);
    // The next thing it hears is the next change, not one of the forty-nine others.
    node.offer(vec![]).await;
    assert_eq!(slow.take().await.removals.len(), 1);
}

#[tokio::test]
async fn a_refused_update_is_not_sent_again_until_something_changes() {
    let control = Control::start().await;
    let node = control.join(hello("n", 1, &["a.A"])).await;
    let mut picky = control.join(watcher("picky", &["a.A", "b.B"])).await;
    picky.take().await;
    let mut changed = offer("a.A");
    changed.weight = 1;
    node.offer(vec![changed]).await;
    let refused = picky.update().await;
    picky
        .nack(&refused, "upserts[0].weight", "is too small")
        .await;
    // Another service is still told, and without what was refused.
    let _other = control.join(hello("m", 1, &["b.B"])).await;
    let other = picky.take().await;
    assert!(other.upserts.is_empty());
    assert_eq!(other.services.len(), 1);
    assert_eq!(other.services[0].service, "b.B");
    let mut changed = offer("a.A");
    changed.weight = 2;
    node.offer(vec![changed]).await;
    let whole = picky.take().await;
    assert_eq!(whole.services[0].service, "a.A");
    assert_eq!(whole.services[0].endpoints[0].weight, 2);
}

#[tokio::test]
async fn a_session_that_comes_back_gets_what_changed_since() {
    let control = Control::start().await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    let _n = control.join(hello("n", 1, &["a.A"])).await;
    watching.take_until(|held| held.len() == 1).await;
    let held = watching.taken();
    drop(watching);
    let _m = control.join(hello("m", 1, &["a.A"])).await;
    let again = |held: Option<Version>| Hello {
        held,
        ..watcher("w", &["a.A"])
    };
    let mut resumed = control.join(again(Some(held.clone()))).await;
    let delta = resumed.take().await;
    assert!(!delta.full && delta.services.is_empty());
    assert_eq!(delta.upserts.len(), 1);
    assert_eq!(delta.upserts[0].node_id, "m");
    let current = delta.version.clone();
    drop(resumed);
    let mut current = control.join(again(current)).await;
    let nothing = current.take().await;
    assert!(!nothing.full && nothing.upserts.is_empty() && nothing.services.is_empty());
    drop(current);
    let foreign = Version {
        store_id: "another".to_owned(),
        ..held
    };
    let mut foreign = control.join(again(Some(foreign))).await;
    let full = foreign.take().await;
    assert!(full.full);
    assert_eq!(full.services[0].endpoints.len(), 2);
}

#[tokio::test]
async fn what_is_unsubscribed_is_told_no_more() {
    let control = Control::start().await;
    let mut watching = control.join(watcher("w", &["a.A", "b.B"])).await;
    watching.take().await;
    let unsubscribe = Subscribe {
        unsubscribe: vec!["a.A".to_owned()],
        ..Subscribe::default()
    };
    watching
        .say(sidelane_proto::wire::control::v1::sync_request::Message::Subscribe(unsubscribe))
        .await;
    // Answered in order: after this, the first is known to be heard.
    watching.subscribe(&["c.C"]).await;
    watching.take().await;
    let _n = control.join(hello("n", 1, &["a.A", "b.B"])).await;
    let update = watching.take().await;
    assert_eq!(update.services.len(), 1);
    assert_eq!(update.services[0].service, "b.B");
}
