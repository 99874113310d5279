//! Who a sidecar is and whom it listens to: its kept name and generation, the control planes that
//! it tries, its settings file, its log; and the control plane's own settings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sidelane_tests::admin;
use sidelane_tests::ask::{until_answered, who};
use sidelane_tests::ports::free_port;
use sidelane_tests::process::{Output, Process};
use sidelane_tests::run::Run;
use sidelane_tests::{Cluster, Upstream, cluster, services};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
const LIMIT: Duration = Duration::from_secs(10);

/// What the admin port says at this path, once it says anything.
async fn config(admin: std::net::SocketAddr) -> Value {
    let asking = async {
        loop {
            if let Ok(answer) = admin::get(admin, "/config").await {
                break serde_json::from_str(&answer.body).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.unwrap()
}

#[tokio::test]
async fn a_node_without_a_name_makes_one_and_keeps_it_and_its_generation_grows() {
    let folder = tempfile::tempdir().unwrap();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let data = folder.path().join("data").display().to_string();
    let any = "127.0.0.1:0";
    let mut arguments = vec!["sidecar".to_owned()];
    for (flag, value) in [
        ("--trust", "disabled"),
        ("--outbound", any),
        ("--internal", any),
        ("--admin", &*admin.to_string()),
        ("--control", &*format!("127.0.0.1:{}", free_port())),
        ("--data", &*data),
    ] {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    let path = PathBuf::from(PROGRAM);
    let process = Process::start("anonymous", &path, arguments, folder.path(), Output::Logged);
    let process = process.await;
    let first = config(admin).await;
    process.kill().await;
    process.start_again().await;
    let second = config(admin).await;
    assert_eq!(first["node"], second["node"]);
    assert!(!first["node"].as_str().unwrap().is_empty());
    let generation = |config: &Value| config["generation"].as_u64().unwrap();
    assert!(generation(&second) > generation(&first), "{second}");
    let kept = std::fs::read_to_string(Path::new(&data).join("node")).unwrap();
    assert_eq!(second["node"], kept);
}

#[tokio::test]
async fn several_control_planes_are_tried_in_turn() {
    let upstream = Upstream::named("callee").start().await;
    let (nobody, control) = (free_port(), free_port());
    let both = format!("127.0.0.1:{nobody},127.0.0.1:{control}");
    let mesh = cluster!()
        .control()
        .with("--listen", &format!("127.0.0.1:{control}"))
        .node("caller")
        .with("--control", &both)
        .node("callee")
        .with("--control", &both)
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
    let connected = mesh.node("caller").config().await["control"].clone();
    let expected = format!("connected to 127.0.0.1:{control} (");
    assert!(
        connected.as_str().unwrap().starts_with(&expected),
        "{connected}"
    );
}

#[tokio::test]
async fn a_settings_file_is_followed_below_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.yaml");
    let upstream = Upstream::named("callee").start().await;
    let text = format!(
        "locality: eu/eu-1\ngrace: 7s\nserve:\n  {}: {}\n",
        services::ECHO,
        upstream.address()
    );
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let mesh = cluster!()
        .control()
        .node("callee")
        .with("--config", &file)
        .with("--grace", "9s")
        .start()
        .await;
    assert_eq!(who(mesh.node("callee")).await.unwrap(), "callee");
    let settings = mesh.node("callee").config().await["settings"].clone();
    let setting = |value: Value, origin: &str| json!({ "value": value, "origin": origin });
    let expected = setting(json!("eu/eu-1"), &format!("{file}:1"));
    assert_eq!(settings["locality"], expected);
    assert_eq!(settings["grace"], setting(json!("9s"), "command line"));
    assert_eq!(
        settings["unknown"],
        setting(json!("passthrough"), "default")
    );
}

#[tokio::test]
async fn the_log_has_what_was_asked_for() {
    let mesh = cluster!()
        .control()
        .node("off")
        .with("--log", "off")
        .node("errors")
        .with("--log", "error")
        .node("some")
        .with(
            "--log",
            "error,sidelane_sidecar::app=info,sidelane_sidecar::present=warn",
        )
        .node("all")
        .with("--log", "debug")
        .start()
        .await;
    // A word of this level is written at the start already.
    let levels = |name: &str| -> Vec<String> {
        let log = mesh.node(name).log();
        let mut levels: Vec<String> = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["level"].as_str().unwrap_or_default().to_owned())
            .collect();
        levels.sort_unstable();
        levels.dedup();
        levels
    };
    assert_eq!(levels("off"), [""; 0]);
    assert_eq!(levels("errors"), [""; 0]);
    assert_eq!(levels("some"), ["INFO", "WARN"]);
    assert!(levels("all").contains(&"DEBUG".to_owned()));
    let some = mesh.node("some").log();
    assert!(!some.contains("sidelane_sidecar::discover"), "{some}");
}

async fn nodes(mesh: &Cluster) -> Vec<Value> {
    let control = mesh.control().listen().to_string();
    let ended = Run::of(PROGRAM)
        .with(["nodes", "-o", "json", "--control", &control])
        .to_its_end()
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let listed: Value = serde_json::from_str(&ended.stdout).unwrap();
    listed["nodes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_node_that_died_is_forgotten_after_the_lease() {
    let mesh = cluster!()
        .control()
        .with("--lease", "3s")
        .node("stays")
        .node("dies")
        .start()
        .await;
    assert_eq!(nodes(&mesh).await.len(), 2);
    let died = std::time::Instant::now();
    mesh.node("dies").kill().await;
    let gone = async {
        let dead = |it: &Value| it["node_id"] == "dies";
        while nodes(&mesh).await.iter().any(dead) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    let lasted = died.elapsed();
    assert!(lasted >= Duration::from_millis(2_700), "{lasted:?}");
    assert!(lasted < Duration::from_secs(8), "{lasted:?}");
    let left = nodes(&mesh).await;
    assert!(left.iter().all(|it| it["node_id"] == "stays"), "{left:?}");
}

#[tokio::test]
async fn a_fixed_node_is_called_though_it_never_registered_here() {
    let upstream = Upstream::named("elsewhere").start().await;
    let elsewhere = cluster!()
        .control()
        .node("fixed")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    // Written after the node has started: whose generation is newer must not matter.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fixed.yaml");
    let text = format!(
        "nodes:\n  - node: fixed\n    internal: {}\n    services:\n      - service: {}\n",
        elsewhere.node("fixed").internal(),
        services::ECHO
    );
    std::fs::write(&file, text).unwrap();
    let mesh = cluster!()
        .control()
        .with("--fixed", &file.display().to_string())
        .node("caller")
        .start()
        .await;
    let all = nodes(&mesh).await;
    let fixed = all.iter().find(|node| node["node_id"] == "fixed").unwrap();
    assert_eq!(fixed["source"], "fixed");
    assert_eq!(until_answered(mesh.node("caller")).await, "elsewhere");
}
