//! Snapshot files that cannot be used: each is named in the log, ignored, and replaced; the
//! sidecar starts all the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use sidelane_proto::wire::control::v1::{Health, Update};
use sidelane_tests::ask::who;
use sidelane_tests::cluster::Node;
use sidelane_tests::{Upstream, cluster, services};
use tempfile::TempDir;

/// How a snapshot of this build begins: its magic, and format 1.
const BEGINNING: &[u8] = b"SLNSNAP\n\x00\x01";
/// Where its length stands and where its body begins, for the network `default`.
const LENGTH: usize = 8 + 2 + 2 + 7;
const BODY: usize = LENGTH + 8 + 32;
/// It is written at most once a second.
const SAVE_LIMIT: Duration = Duration::from_secs(10);

/// A data folder with this snapshot in it.
fn kept(folder: &TempDir, name: &str, snapshot: &[u8]) -> PathBuf {
    let data = folder.path().join(name);
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("snapshot"), snapshot).unwrap();
    data
}

/// What the sidecar's log says of its stored picture.
fn complaint(node: &Node) -> Option<String> {
    node.log().lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let said = line["message"] == "the stored picture of the mesh is ignored";
        said.then(|| line["error"].as_str().unwrap_or_default().to_owned())
    })
}

/// Waits until the file is a snapshot of this build in which the callee takes calls.
async fn replaced(file: &Path) -> Vec<u8> {
    let good = async {
        loop {
            let bytes = std::fs::read(file).unwrap_or_default();
            if bytes.starts_with(BEGINNING) && offers_a_healthy_endpoint(&bytes) {
                break bytes;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let replaced = tokio::time::timeout(SAVE_LIMIT, good).await;
    replaced.unwrap_or_else(|_| panic!("{} was not replaced", file.display()))
}

fn offers_a_healthy_endpoint(snapshot: &[u8]) -> bool {
    let Some(Ok(update)) = snapshot.get(BODY..).map(Update::decode) else {
        return false;
    };
    let mut endpoints = update.services.iter().flat_map(|state| &state.endpoints);
    endpoints.any(|endpoint| endpoint.health() == Health::Healthy)
}

#[tokio::test]
async fn torn_foreign_and_newer_files_are_named_ignored_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let newer = [b"SLNSNAP\n\x00\x02".as_slice(), &[7; 100]].concat();
    let cases = [
        (
            "torn",
            kept(&folder, "torn", BEGINNING),
            "is torn: it ends within its header; it is ignored, and replaced at the next save",
        ),
        (
            "foreign",
            kept(&folder, "foreign", b"{\"nodes\": []}\n"),
            "is not a snapshot of Sidelane; it is ignored, and replaced at the next save",
        ),
        (
            "newer",
            kept(&folder, "newer", &newer),
            "has format 2, this build reads up to 1; it is ignored, and replaced at the next save",
        ),
        (
            "empty",
            kept(&folder, "empty", b""),
            "is not a snapshot of Sidelane; it is ignored, and replaced at the next save",
        ),
    ];
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream);
    for (name, data, _) in &cases {
        mesh = mesh.node(name).with("--data", &data.display().to_string());
    }
    let mesh = mesh.start().await;
    for (name, data, expected) in &cases {
        let file = data.join("snapshot");
        let expected = format!("`{}` {expected}", file.display());
        assert_eq!(complaint(mesh.node(name)), Some(expected));
        replaced(&file).await;
    }
    assert_eq!(complaint(mesh.node("callee")), None);
}

#[tokio::test]
async fn a_cut_file_and_one_of_another_mesh_leave_a_start_without_control_empty() {
    let upstream = Upstream::named("callee").start().await;
    let first = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream)
        .node("caller")
        .start()
        .await;
    let file = first.folder().join("caller.data/snapshot");
    let whole = replaced(&file).await;

    let folder = tempfile::tempdir().unwrap();
    let cut = kept(&folder, "cut", &whole[..whole.len() - 10]);
    let mut spoilt = whole.clone();
    *spoilt.last_mut().unwrap() ^= 1;
    let spoilt = kept(&folder, "spoilt", &spoilt);
    let other = kept(&folder, "other", &whole);
    let good = kept(&folder, "good", &whole);
    let second = cluster!()
        .node("cut")
        .with("--data", &cut.display().to_string())
        .node("spoilt")
        .with("--data", &spoilt.display().to_string())
        .node("other")
        .with("--data", &other.display().to_string())
        .with("--network", "elsewhere")
        .node("good")
        .with("--data", &good.display().to_string())
        .launch()
        .await;

    let body = u64::from_be_bytes(whole[LENGTH..LENGTH + 8].try_into().unwrap());
    let ignored = "it is ignored, and replaced at the next save";
    let cases = [
        (
            "cut",
            cut,
            format!(
                "is torn: its body has {} bytes, {body} were written; {ignored}",
                body - 10
            ),
        ),
        (
            "spoilt",
            spoilt,
            format!("is torn: its checksum does not match; {ignored}"),
        ),
        (
            "other",
            other,
            format!(
                "is a snapshot of network `default`, this sidecar is in `elsewhere`; {ignored}"
            ),
        ),
    ];
    for (name, data, expected) in cases {
        let node = second.node(name);
        let left = std::fs::read(data.join("snapshot")).unwrap();
        let answer = node
            .answers("/readyz?for=outbound", |answer| {
                answer.body.contains("away")
            })
            .await;
        assert_eq!(answer.status, 503, "{answer:?}");
        let empty = "outbound: not ready: no picture of the mesh yet: control is away: ";
        assert!(answer.body.starts_with(empty), "{answer:?}");
        let expected = format!("`{}` {expected}", data.join("snapshot").display());
        assert_eq!(complaint(node), Some(expected));
        // What cannot be used is not touched before there is something better.
        assert_eq!(std::fs::read(data.join("snapshot")).unwrap(), left);
    }

    // The same file, whole and of this mesh, is believed.
    let node = second.node("good");
    node.answers("/readyz?for=outbound", |answer| answer.status == 200)
        .await;
    assert_eq!(complaint(node), None);
    assert_eq!(who(node).await.unwrap(), "callee");
}
