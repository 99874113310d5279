//! What survives a restart.

use std::time::Duration;

use sidelane_proto::wire::control::v1::{Health, Hello};

use crate::sidecar::{Control, Held, hello, of, watcher};

#[tokio::test]
async fn a_restart_shows_suspects_and_never_an_empty_hub() {
    let control = Control::start().await;
    let node = control.join(hello("n", 5, &["a.A"])).await;
    let gone = control.join(hello("gone", 9, &["b.B"])).await;
    gone.goodbye().await;
    let mut watching = control.join(watcher("w", &["a.A", "b.B"])).await;
    watching.take().await;
    watching.take_until(|held| of(held, "b.B").is_empty()).await;
    let before = watching.taken();
    let control = control.restart().await;
    drop((node, gone, watching));

    let resumed = Hello {
        held: Some(before.clone()),
        ..watcher("w", &["a.A", "b.B"])
    };
    let mut watching = control.join(resumed).await;
    assert_eq!(watching.welcome.store_id, before.store_id);
    let first = watching.take().await;
    let version = first.version.clone().unwrap();
    assert_eq!(version.store_id, before.store_id);
    assert!(version.counter > before.counter);
    assert!(!first.full, "it is the same store");
    assert_eq!(of(&watching.held, "a.A"), [("n", 5, Health::Suspect)]);
    let b = first.services.iter().find(|state| state.service == "b.B");
    assert!(b.unwrap().ever_seen, "that it was seen survives");
    assert_eq!(
        control
            .refusal(hello("gone", 8, &[]))
            .await
            .highest_generation,
        9,
        "so does the highest generation of who left"
    );

    let _back = control.join(hello("n", 5, &["a.A"])).await;
    watching
        .take_until(|held| of(held, "a.A") == [("n", 5, Health::Healthy)])
        .await;
}

#[tokio::test]
async fn who_does_not_come_back_is_removed_when_the_lease_ends() {
    let control = Control::with_lease(Duration::from_secs(1)).await;
    let node = control.join(hello("n", 5, &["a.A"])).await;
    let control = control.restart().await;
    drop(node);
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    assert_eq!(of(&watching.held, "a.A"), [("n", 5, Health::Suspect)]);
    watching.take_until(Held::is_empty).await;
    let control = control.restart().await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    assert!(watching.held.is_empty(), "gone is gone");
}

#[tokio::test]
async fn what_left_while_control_was_away_is_not_held_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.yaml");
    let node = |name: &str| {
        format!("  - node: {name}\n    internal: x:1\n    services: [{{service: a.A}}]\n")
    };
    std::fs::write(&path, format!("nodes:\n{}{}", node("m"), node("n"))).unwrap();
    let control = Control::with(
        sidelane_control::registry::Terms::default(),
        Some(path.clone()),
    );
    let control = control.await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take_until(|held| held.len() == 2).await;
    let held = watching.taken();
    std::fs::write(&path, format!("nodes:\n{}", node("m"))).unwrap();
    let control = control.restart().await;
    let resumed = Hello {
        held: Some(held),
        ..watcher("w", &["a.A"])
    };
    let mut watching = control.join(resumed).await;
    let first = watching.take().await;
    assert_eq!(first.services.len(), 1, "a whole state, not a delta");
    let names: Vec<&str> = of(&watching.held, "a.A").iter().map(|(n, ..)| *n).collect();
    assert_eq!(names, ["m"]);
}
