//! The fixed file, through the whole.

use std::time::Duration;

use sidelane_control::registry::Terms;
use sidelane_process::fetch;
use sidelane_proto::wire::control::v1::Health;

use crate::sidecar::{Control, PATIENCE, hello, of, watcher};

fn node(name: &str, health: &str) -> String {
    format!(
        "  - node: {name}\n    internal: 10.0.0.7:15006\n    services:\n      - service: a.A\n        \
         health: {health}\n"
    )
}

async fn readiness(control: &Control) -> (u16, String) {
    let url = format!("http://{}/readyz", control.app.admin());
    let page = fetch::get(&url, PATIENCE).await.unwrap();
    (page.status.as_u16(), page.text())
}

#[tokio::test]
async fn an_edit_reaches_the_sidecars_and_a_broken_one_takes_nothing_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.yaml");
    std::fs::write(&path, format!("nodes:\n{}", node("m", "healthy"))).unwrap();
    let control = Control::with(Terms::default(), Some(path.clone())).await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    assert_eq!(of(&watching.held, "a.A").len(), 1, "there from the start");

    std::fs::write(
        &path,
        format!("nodes:\n{}{}", node("m", "unhealthy"), node("n", "healthy")),
    )
    .unwrap();
    watching
        .take_until(|held| {
            let held = of(held, "a.A");
            held.len() == 2 && held[0].2 == Health::Unhealthy
        })
        .await;
    assert_eq!(readiness(&control).await, (200, "ready\n".to_owned()));

    std::fs::write(&path, "nodes:\n  - nod: m\n").unwrap();
    let text = loop {
        let (status, text) = readiness(&control).await;
        assert_eq!(status, 200, "it serves all the same");
        if text != "ready\n" {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        text,
        format!(
            "ready, with trouble:\n- fixed: the fixed file {}, line 2: `nod` is not a key here; \
             the keys are node, network, identity, region, zone, internal, external, services; the \
             nearest is `node`; what was known stays\n",
            path.display()
        )
    );
    let mut other = control.join(watcher("other", &["a.A"])).await;
    other.take().await;
    assert_eq!(of(&other.held, "a.A").len(), 2);
}

#[tokio::test]
async fn a_registered_node_is_believed_over_a_fixed_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.yaml");
    std::fs::write(&path, format!("nodes:\n{}", node("n", "unhealthy"))).unwrap();
    let control = Control::with(Terms::default(), Some(path)).await;
    let mut watching = control.join(watcher("w", &["a.A"])).await;
    watching.take().await;
    let fixed = of(&watching.held, "a.A")[0].1;
    let registered = control.join(hello("n", 5, &["a.A"])).await;
    watching
        .take_until(|held| of(held, "a.A") == [("n", 5, Health::Healthy)])
        .await;
    registered.goodbye().await;
    watching
        .take_until(|held| of(held, "a.A") == [("n", fixed, Health::Unhealthy)])
        .await;
}
