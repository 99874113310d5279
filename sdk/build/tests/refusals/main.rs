//! Every rule that cannot work stops the build, at the place where it is written, in words that
//! say what to do; and beside each stands the nearest one that builds.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without ends it"
)]

mod definitions;
mod files;
mod methods;
mod services;

use std::fs;
use std::path::Path;

use sidelane_build::{Builder, Built, configure};

/// Everything that a rule can say, in a file that builds.
const SHOP: &str = r#"syntax = "proto3";
package shop.v1;

import "sidelane/routing/v1/routing.proto";

service Orders {
  option (sidelane.routing.v1.service) = {
    category: WORKER
    connection: INTERNAL
    lane: "general"
    secure: true  persistent: true
    load_balancing: CONSISTENT_HASH
    max_timeout: "10s"
  };
  rpc Get(GetRequest) returns (GetResponse) {
    option (sidelane.routing.v1.method) = { idempotent: true  timeout: "800ms"  hash_on: "id" };
  }
  rpc Put(GetRequest) returns (GetResponse);
  rpc Import(stream GetRequest) returns (GetResponse);
}

message GetRequest {
  uint64 id = 1;
  Order order = 2;
  repeated string tags = 3;
  map<string, string> labels = 4;
  double price = 5;
  bytes key = 6;
  optional string region = 7;
  oneof how { string mail = 8; Order whole = 9; }
}
message Order {
  string id = 1;
  repeated Order parts = 2;
}
message GetResponse {}
"#;

/// A text, what it is replaced by so that the build is refused, the refusal, and what it is
/// replaced by so that the build is not.
type Case = (&'static str, &'static str, &'static str, &'static str);

/// Builds these files, which stand in a folder `proto`.
fn try_with(
    files: &[(&str, &str)],
    change: impl FnOnce(Builder) -> Builder,
) -> Result<Built, String> {
    let folder = tempfile::tempdir().unwrap();
    let protos = folder.path().join("proto");
    fs::create_dir(&protos).unwrap();
    for (name, text) in files {
        let path = protos.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let builder = configure().protos(&[&protos]).stubs(false);
    let built = change(builder).out_dir(folder.path().join("out")).build();
    built.map_err(|errors| without(&errors.to_string(), folder.path()))
}

fn try_build(files: &[(&str, &str)]) -> Result<Built, String> {
    try_with(files, |builder| builder)
}

/// The paths as they were from the folder of a project.
fn without(errors: &str, folder: &Path) -> String {
    errors.replace(&format!("{}/", folder.display()), "")
}

#[track_caller]
fn hold(name: &str, base: &str, cases: &[Case]) {
    if let Err(error) = try_build(&[(name, base)]) {
        panic!("the base is refused: {error}");
    }
    let mut wrong = String::new();
    for (from, bad, expected, good) in cases {
        assert_eq!(base.matches(from).count(), 1, "`{from}` is there once");
        match try_build(&[(name, &base.replace(from, bad))]) {
            Err(error) if error == *expected => {}
            Err(error) => wrong += &format!("{bad}\n  says   {error}\n  wanted {expected}\n"),
            Ok(_) => wrong += &format!("{bad}\n  builds\n  wanted {expected}\n"),
        }
        if let Err(error) = try_build(&[(name, &base.replace(from, good))]) {
            wrong += &format!("{good}\n  is refused: {error}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_in_the_order_of_the_files() {
    let one = SHOP
        .replace("\"general\"", "\"genral\"")
        .replace("\"800ms\"", "\"800\"")
        .replace("\"id\" }", "\"ids\" }");
    let other = "syntax = \"proto3\"; pakage b;";
    let third = SHOP
        .replace("package shop.v1", "package third.v1")
        .replace("INTERNAL", "EXTERN");
    let files = [
        ("c/shop.proto", &*one),
        ("b.proto", other),
        ("a.proto", &*third),
    ];
    let expected = "\
proto/a.proto:9:17: `EXTERN` is no value of sidelane.routing.v1.Connection; did you mean \
`EXTERNAL`? (known are INTERNAL, EXTERNAL)
proto/b.proto:1:20: expected 'enum', 'extend', 'import', 'message', 'option', 'service', \
'package' or ';', but found 'pakage'
proto/c/shop.proto:10:5: lane `genral` is not a known lane; did you mean `general`? (known are \
general, gossip, bifrost_data, ingress_data)
proto/c/shop.proto:16:63: timeout `800` is not a time limit: a whole number and a unit, such as \
800ms, 30s, 5m or 1h
proto/c/shop.proto:16:79: hash_on `ids`: `ids` is no field of shop.v1.GetRequest; did you mean \
`id`? (it has id, order, tags, labels, price, key, region, mail, whole)";
    assert_eq!(try_build(&files).unwrap_err(), expected);
}

#[test]
fn people_read_the_same_when_a_build_script_returns_it() {
    let folder = tempfile::tempdir().unwrap();
    let errors = configure()
        .protos(&[folder.path()])
        .out_dir(folder.path())
        .build()
        .unwrap_err();
    let expected = "the routing rules cannot be built\nhere: this folder has no .proto file";
    let shown = format!("{errors:?}").replace(&folder.path().display().to_string(), "here");
    assert_eq!(shown, expected);
}
