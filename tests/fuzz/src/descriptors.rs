//! Descriptor sets with routing options: a rule that is read obeys the one check, and a set that is
//! compared with itself breaks nothing.

use std::panic;

use protox::file::{File, FileResolver, GoogleFileResolver};
use protox::{Compiler, Error};
use sidelane_build::rules::from_descriptor_set;
use sidelane_proto::ROUTING_PROTO;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "descriptors",
    run,
    seeds,
};

fn run(data: &[u8]) {
    // libFuzzer ends at the first panic, also at one that is caught as this reader catches those of the
    // library below it.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let read = panic::catch_unwind(|| from_descriptor_set(data));
    panic::set_hook(hook);
    let Ok(set) = read.expect("a panic that nobody caught") else {
        return;
    };
    for rule in &set.rules {
        rule.check().expect("it was checked");
        let of = set.services.iter().find(|known| known.name == rule.service);
        let of = of.expect("a rule is of a service");
        for method in rule.methods.iter() {
            assert!(of.methods.iter().any(|known| *known == method.name));
        }
        assert_eq!(
            set.rule(&of.name).map(|rule| &rule.service),
            Some(&rule.service)
        );
    }
}

/// Files by name: this one, what it imports of Sidelane's, and Google's.
struct Files;

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        match name {
            "shop.proto" => File::from_source(name, SHOP),
            "sidelane/routing/v1/routing.proto" => File::from_source(name, ROUTING_PROTO),
            _ => GoogleFileResolver::new().open_file(name),
        }
    }
}

const SHOP: &str = r#"syntax = "proto3";
package shop.v1;
import "sidelane/routing/v1/routing.proto";

option (sidelane.routing.v1.class) = { number: 16  name: "partners"  lanes: "general" };
option (sidelane.routing.v1.lane) = {
  id: 20  name: "telemetry"  connections: INTERNAL  window: 65536  max_streams: 32
};

service Orders {
  option (sidelane.routing.v1.service) = { connection: INTERNAL  lane: "telemetry"  timeout: "2s" };
  rpc Get(Order) returns (Order) {
    option (sidelane.routing.v1.method) = { hash_on: "id"  idempotent: true };
  }
  rpc Watch(Order) returns (stream Order);
}
message Order {
  string id = 1;
}
"#;

fn seeds() -> Vec<Vec<u8>> {
    let mut compiler = Compiler::with_file_resolver(Files);
    let compiled = compiler.include_imports(true).open_file("shop.proto");
    vec![compiled.expect("it is right").encode_file_descriptor_set()]
}
