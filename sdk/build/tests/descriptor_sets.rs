//! Rules out of descriptor sets, as `sidelane apply` and `sidelane check` read them: without the
//! text of the files, and without code generation.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without ends it"
)]

use std::fs;

use prost_reflect::prost_types;
use sidelane_build::rules::from_descriptor_set;
use sidelane_build::{Errors, RuleSet};
use sidelane_proto::model::{ConnectionClass, Lane, Retry};

const SHOP: &str = r#"syntax = "proto3";
package shop.v1;
import "sidelane/routing/v1/routing.proto";
import "shop/v1/lanes.proto";

service Orders {
  option (sidelane.routing.v1.service) = {
    category: WORKER
    connection: INTERNAL
    lane: "telemetry"
    secure: true
    persistent: true
    load_balancing: CONSISTENT_HASH
    timeout: "2s"
    retry { attempts: 3 }
  };
  rpc Get(GetRequest) returns (GetResponse) {
    option (sidelane.routing.v1.method) = {idempotent: true hash_on: "order.id" timeout: "800ms"};
  }
  rpc Import(stream GetRequest) returns (GetResponse);
}

// Nobody wrote a rule for it.
service Audit {
  rpc Look(GetRequest) returns (stream GetResponse);
}

message GetRequest {
  Order order = 1;
}
message Order {
  uint64 id = 1;
}
message GetResponse {}
"#;

const LANES: &str = r#"syntax = "proto3";
package shop.v1;
import "sidelane/routing/v1/routing.proto";

option (sidelane.routing.v1.class) = {number: 16 name: "partners" lanes: "general"};
option (sidelane.routing.v1.lane) = {
  id: 20
  name: "telemetry"
  connections: INTERNAL
  connections_custom: "partners"
  window: 65536
  max_streams: 32
};
"#;

fn set(files: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let mut compiler = protox::Compiler::new([folder.path(), own.as_ref()]).unwrap();
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files.iter().map(|(name, _)| name))
        .unwrap();
    compiler.encode_file_descriptor_set()
}

fn read(files: &[(&str, &str)]) -> Result<RuleSet, Errors> {
    from_descriptor_set(&set(files))
}

const FILES: [(&str, &str); 2] = [("shop/v1/shop.proto", SHOP), ("shop/v1/lanes.proto", LANES)];

#[test]
fn rules_lanes_and_services_are_read_with_their_places() {
    let set = read(&FILES).unwrap();
    let [orders] = set.rules.as_slice() else {
        panic!("{:?}", set.rules);
    };
    assert_eq!(orders.service, "shop.v1.Orders");
    assert_eq!(orders.origin, "shop/v1/shop.proto:7");
    assert_eq!(orders.class, ConnectionClass::Internal);
    assert_eq!((orders.lane.id(), orders.lane.name()), (20, "telemetry"));
    assert!(orders.secure && orders.persistent);
    let retry = Retry::DEFAULT;
    assert_eq!(orders.retry, Some(retry));
    let get = orders.method("Get").unwrap();
    assert_eq!(get.hash_on.as_deref(), Some("order.id"));
    assert_eq!(get.timeout.unwrap().as_millis(), 800);
    assert!(orders.method("Import").unwrap().client_streaming);

    let [lane] = set.lanes.as_slice() else {
        panic!("{:?}", set.lanes);
    };
    assert_eq!(lane.what, orders.lane);
    assert_eq!(lane.origin, "shop/v1/lanes.proto:6");
    assert_eq!(set.classes[0].what.definition().name, "partners");
    assert_eq!(set.classes[0].origin, "shop/v1/lanes.proto:5");

    let services: Vec<_> = set
        .services
        .iter()
        .map(|service| (service.name.as_str(), service.origin.as_str()))
        .collect();
    let expected = [
        ("shop.v1.Orders", "shop/v1/shop.proto:6"),
        ("shop.v1.Audit", "shop/v1/shop.proto:24"),
    ];
    assert_eq!(services, expected);
    assert!(set.rule("shop.v1.Audit").is_none());
    assert_eq!(set.services[0].methods, ["Get", "Import"]);
}

/// An old and a new set may say different things of one name.
#[test]
fn two_sets_are_read_in_one_process_and_nothing_is_learnt() {
    let old = read(&FILES).unwrap();
    let changed = LANES.replace("id: 20", "id: 21").replace("65536", "131072");
    let new = read(&[FILES[0], ("shop/v1/lanes.proto", &changed)]).unwrap();
    assert_eq!(old.rules[0].lane.id(), 20);
    assert_eq!(new.rules[0].lane.id(), 21);
    assert_eq!(new.lanes[0].what.bounds().unwrap().window, 131_072);
    assert_eq!(Lane::from_name("telemetry"), None);
}

/// Places are those of the options: the set does not have the text.
#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let wrong = SHOP
        .replace("telemetry", "telemetri")
        .replace("\"2s\"", "\"2 s\"")
        .replace("order.id", "order.ids");
    let error = read(&[("shop/v1/shop.proto", &wrong), FILES[1]]).unwrap_err();
    let expected = "\
shop/v1/shop.proto:7:3: lane `telemetri` is not a known lane; did you mean `telemetry`? (known are \
general, gossip, bifrost_data, ingress_data, telemetry)
shop/v1/shop.proto:7:3: timeout `2 s` is not a time limit: a whole number and a unit, such as \
800ms, 30s, 5m or 1h
shop/v1/shop.proto:18:5: hash_on `order.ids`: `ids` is no field of shop.v1.Order; did you mean \
`id`? (it has id)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_set_without_rules_is_empty_and_other_bytes_are_none() {
    let plain = "syntax = \"proto3\"; package a; service B {}";
    let set = read(&[("a.proto", plain)]).unwrap();
    assert!(set.rules.is_empty());
    assert_eq!(set.services[0].name, "a.B");
    let error = from_descriptor_set(b"rules: []").unwrap_err().to_string();
    assert!(
        error.starts_with("this is no complete descriptor set: "),
        "{error}"
    );
}

#[test]
fn a_set_without_its_imports_says_how_to_make_one() {
    let whole = set(&FILES);
    let mut decoded = <prost_types::FileDescriptorSet as prost::Message>::decode(&*whole).unwrap();
    decoded
        .file
        .retain(|file| file.name() == "shop/v1/shop.proto");
    let error = from_descriptor_set(&prost::Message::encode_to_vec(&decoded)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("sidelane/routing/v1/routing.proto"),
        "{error}"
    );
    assert!(
        error.ends_with("or with protoc's --include_imports"),
        "{error}"
    );
}

/// Without source info a file is all that is known.
#[test]
fn a_set_without_source_info_names_files() {
    let whole = set(&FILES);
    let mut pool = prost_reflect::DescriptorPool::new();
    pool.decode_file_descriptor_set(&*whole).unwrap();
    let without = prost_reflect::DescriptorPool::decode(&*strip(&whole)).unwrap();
    assert_eq!(without.files().len(), pool.files().len());
    let set = from_descriptor_set(&strip(&whole)).unwrap();
    assert_eq!(set.rules[0].origin, "shop/v1/shop.proto");
}

fn strip(set: &[u8]) -> Vec<u8> {
    use prost_reflect::{DynamicMessage, ReflectMessage, Value};
    let descriptor = prost_types::FileDescriptorSet::default().descriptor();
    let mut message = DynamicMessage::decode(descriptor, set).unwrap();
    let Value::List(files) = message.get_field_by_name_mut("file").unwrap() else {
        panic!("file is a list");
    };
    for file in files {
        let Value::Message(file) = file else {
            panic!("a file is a message");
        };
        file.clear_field_by_name("source_code_info");
    }
    prost::Message::encode_to_vec(&message)
}
