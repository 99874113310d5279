//! Protos in several crates: one's messages, lanes and classes are used by another's, and a program
//! joins their tables. The crates are a workspace of their own, as a user's is.
#![allow(
    clippy::unwrap_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The profile is the workspace's, so that what was built for it is used.
const WORKSPACE: &str = r#"[workspace]
resolver = "3"
members = ["audit-protos", "shop-protos"]

[profile.dev]
opt-level = 1
debug = "line-tables-only"
[profile.dev.package."*"]
opt-level = 2
debug = false
[profile.dev.build-override]
opt-level = 0
"#;

const AUDIT: &str = r#"syntax = "proto3";
package audit.v1;
import "sidelane/routing/v1/routing.proto";

option (sidelane.routing.v1.class) = { number: 16  name: "partners"  lanes: "general" };
option (sidelane.routing.v1.lane) = {
  id: 20  name: "telemetry"  connections: INTERNAL  connections_custom: "partners"
  window: 65536  max_streams: 32
};

service Audit {
  option (sidelane.routing.v1.service) = { connection_custom: "partners"  lane: "general" };
  rpc Look(Entry) returns (stream Entry);
}
message Entry {
  string id = 1;
  message Inner {}
  Inner inner = 2;
}
"#;

const SHOP: &str = r#"syntax = "proto3";
package shop.v1;
import "audit/v1/audit.proto";
import "google/protobuf/empty.proto";
import "sidelane/routing/v1/routing.proto";

service Orders {
  option (sidelane.routing.v1.service) = { connection: INTERNAL  lane: "telemetry" };
  rpc Get(audit.v1.Entry) returns (audit.v1.Entry.Inner) {
    option (sidelane.routing.v1.method) = { hash_on: "id" };
  }
  rpc Ping(google.protobuf.Empty) returns (google.protobuf.Empty);
}
"#;

const MAIN: &str = r#"#![deny(warnings)]
sidelane::include_protos!();

use sidelane::routing::{RouteTable, ServiceRouting};

static ALL: RouteTable = RouteTable::join(&[audit_protos::ROUTES, ROUTES]);

fn main() {
    for rule in ALL.rules().take(2) {
        println!("{} {} {} {}", rule.service, rule.class, rule.lane, rule.origin);
    }
    println!("{:?} {:?}", ALL.lanes(), ALL.classes());
    let entry = audit_protos::audit::v1::Entry { id: "a 1".to_owned(), inner: None };
    let key = shop::v1::OrdersServiceRouting::get_key(&entry);
    println!("{} {}", shop::v1::OrdersServiceRouting::NAME, key.unwrap().as_str());
}
"#;

fn put(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn member(folder: &Path, name: &str, dependency: &str, build: &str) {
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         {dependency}prost = \"0.14\"\nsidelane = {{ path = \"{REPOSITORY}/sdk\" }}\n\
         tonic = {{ version = \"0.14\", default-features = false, features = [\"codegen\"] }}\n\
         tonic-prost = \"0.14\"\n\n[build-dependencies]\n\
         sidelane-build = {{ path = \"{REPOSITORY}/sdk/build\" }}\n"
    );
    put(folder, &format!("{name}/Cargo.toml"), &manifest);
    let script = format!(
        "fn main() -> Result<(), sidelane_build::Errors> {{\n    \
         sidelane_build::configure().protos(&[\"proto\"]){build}.compile()\n}}\n"
    );
    put(folder, &format!("{name}/build.rs"), &script);
}

#[test]
#[ignore = "compiles crates of its own"]
fn protos_of_several_crates_use_each_other_and_make_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    put(folder, "Cargo.toml", WORKSPACE);
    // The same versions of everything below.
    fs::copy(
        format!("{REPOSITORY}/Cargo.lock"),
        folder.join("Cargo.lock"),
    )
    .unwrap();

    member(folder, "audit-protos", "", "");
    put(folder, "audit-protos/proto/audit/v1/audit.proto", AUDIT);
    let library = "#![deny(warnings)]\nsidelane::include_protos!();\n";
    put(folder, "audit-protos/src/lib.rs", library);

    let elsewhere = ".include(\"../audit-protos/proto\")\
                     .extern_path(\".audit.v1\", \"::audit_protos::audit::v1\")";
    let dependency = "audit-protos = { path = \"../audit-protos\" }\n";
    member(folder, "shop-protos", dependency, elsewhere);
    put(folder, "shop-protos/proto/shop/v1/shop.proto", SHOP);
    put(folder, "shop-protos/src/main.rs", MAIN);

    // target/debug/deps/crates-…
    let own = std::env::current_exe().unwrap();
    let ran = Command::new(env!("CARGO"))
        .current_dir(folder)
        .args(["run", "--quiet", "--package", "shop-protos", "--target-dir"])
        .arg(own.ancestors().nth(3).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let expected = "\
audit.v1.Audit partners general audit/v1/audit.proto:12
shop.v1.Orders Internal telemetry shop/v1/shop.proto:8
[telemetry] [Own(partners)]
shop.v1.Orders a%201
";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&ran.stderr));
}
