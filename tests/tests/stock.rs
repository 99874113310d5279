//! The stock programs are compiled with the rules of the folders that `SIDELANE_PROTOS` names, or
//! not at all.
#![allow(
    clippy::unwrap_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sidelane_tests::Cluster;

const SHOP: &str = r#"syntax = "proto3";
package stock.v1;
import "sidelane/routing/v1/routing.proto";

option (sidelane.routing.v1.lane) = {
  id: 90  name: "stock_lane"  connections: INTERNAL  window: 65536  max_streams: 16
};

service Orders {
  option (sidelane.routing.v1.service) = {
    connection: INTERNAL  lane: "stock_lane"  timeout: "700ms"
  };
  rpc Get(GetRequest) returns (GetResponse);
}
message GetRequest {}
message GetResponse {}
"#;

/// Where cargo builds what this test is a part of.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // target/debug/deps/stock-…
    own.ancestors().nth(3).unwrap().to_owned()
}

fn build(protos: &Path) -> Output {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args([
            "build",
            "--quiet",
            "--package",
            "sidelane-cli",
            "--bin",
            "sidelane",
        ])
        .arg("--target-dir")
        .arg(target())
        .env("SIDELANE_PROTOS", protos);
    cargo.output().unwrap()
}

#[tokio::test]
#[ignore = "compiles the stock program with other rules"]
async fn the_stock_program_has_the_rules_of_the_folders_that_were_named() {
    let folder = tempfile::tempdir().unwrap();
    let protos = folder.path().join("proto");
    fs::create_dir(&protos).unwrap();
    let file = protos.join("shop.proto");

    fs::write(
        &file,
        SHOP.replace("lane: \"stock_lane\"", "lane: \"stok_lane\""),
    )
    .unwrap();
    let refused = build(&protos);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let expected = format!(
        "{}:11:27: lane `stok_lane` is not a known lane; did you mean `stock_lane`?",
        file.display()
    );
    assert!(
        !refused.status.success() && said.contains(&expected),
        "{said}"
    );

    fs::write(&file, SHOP).unwrap();
    let built = build(&protos);
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    // Whoever builds next puts another program there.
    let program = folder.path().join("sidelane");
    fs::copy(target().join("debug/sidelane"), &program).unwrap();
    let mesh = Cluster::of(&program).control().node("caller").start().await;
    let explained = mesh.node("caller").explain("/stock.v1.Orders/Get").await;
    for part in ["shop.proto:10", "stock_lane", "700"] {
        assert!(explained.body.contains(part), "{part}: {}", explained.body);
    }
}
