//! Rules of services.

use sidelane_proto::model::error::Problem;
use sidelane_proto::model::{FieldError, Rule, Validation};

use super::{Case, SHOP, hold, try_build, try_with};

const RULE: &[Case] = &[
    (
        "lane: \"general\"",
        "lane: \"general\"  split { parts { value: \"v1\"  percent: 90 } }",
        "proto/shop.proto:10:30: split.parts is out of bounds: their percentages are 90 together; they must be 100",
        "lane: \"general\"  split { parts { value: \"v1\"  percent: 100 } }",
    ),
    (
        "lane: \"general\"",
        "lane: \"general\"  split { parts { value: \"v1\"  percent: 101 } }",
        "proto/shop.proto:10:51: split.parts[0].percent is out of bounds: 101 percent; it is 0 to 100",
        "lane: \"general\"  split { parts { value: \"v1\"  percent: 100 } }",
    ),
    (
        "lane: \"general\"",
        "lane: \"general\"  limits { requests_per_second: 5 } limits { requests_per_second: 0 }",
        "proto/shop.proto:10:65: limits[1].requests_per_second is 1 to 1000000",
        "lane: \"general\"  limits { requests_per_second: 5  per: CALLER }",
    ),
    (
        "lane: \"general\"",
        "lane: \"general\"  concurrency { max_in_flight: 8  queue: 4097 }",
        "proto/shop.proto:10:54: concurrency.queue is at most 4096",
        "lane: \"general\"  concurrency { max_in_flight: 8  queue: 4 }",
    ),
    (
        "lane: \"general\"",
        "lane: \"general\"  fault { abort_percent: 101  abort_status: \"ABORTED\" }",
        "proto/shop.proto:10:30: fault.abort_percent is 1 to 100",
        "lane: \"general\"  fault { abort_percent: 1  abort_status: \"ABORTED\" }",
    ),
    (
        "lane: \"general\"",
        "lane: \"gosip\"",
        "proto/shop.proto:10:5: lane `gosip` is not a known lane; did you mean `gossip`? (known are \
         general, gossip, bifrost_data, ingress_data)",
        "lane: \"gossip\"",
    ),
    (
        "lane: \"general\"",
        "lane: \"ingress_data\"",
        "proto/shop.proto:10:5: Internal and lane `ingress_data` do not go together; Internal \
         allows general, gossip, bifrost_data",
        "lane: \"bifrost_data\"",
    ),
    (
        "connection: INTERNAL\n    lane: \"general\"",
        "lane: \"gossip\"\n    connection: EXTERNAL",
        "proto/shop.proto:9:5: External and lane `gossip` do not go together; External allows \
         general, ingress_data",
        "lane: \"ingress_data\"\n    connection: EXTERNAL",
    ),
    (
        "    lane: \"general\"\n",
        "",
        "proto/shop.proto:7:3: lane is missing: it is one of general, gossip, bifrost_data, \
         ingress_data",
        "    lane: \"gos\" \"sip\"\n",
    ),
    (
        "    connection: INTERNAL\n",
        "",
        "proto/shop.proto:7:3: connection is missing: it is INTERNAL or EXTERNAL, or \
         `connection_custom` names a class of one's own",
        "    connection: EXTERNAL\n",
    ),
    (
        "connection: INTERNAL",
        "connection_custom: \"partners\"",
        "proto/shop.proto:9:5: connection_custom `partners` is not a known connection class of \
         one's own (none is known)",
        "connection: 1",
    ),
    (
        "connection: INTERNAL",
        "connection: 9",
        "proto/shop.proto:9:5: connection 9 is not a known connection class",
        "connection: 2",
    ),
    (
        "load_balancing: CONSISTENT_HASH",
        "load_balancing: CONSISTENT  load_balancing_custom: \"nearest\"",
        "proto/shop.proto:12:21: `CONSISTENT` is no value of sidelane.routing.v1.LoadBalancing; did \
         you mean `CONSISTENT_HASH`? (known are ROUND_ROBIN, LEAST_CONNECTIONS, CONSISTENT_HASH, \
         RANDOM, NONE, PEAK_EWMA)",
        "load_balancing: NONE",
    ),
    (
        "load_balancing: CONSISTENT_HASH",
        "load_balancing: RANDOM  load_balancing_custom: \"nearest\"",
        "proto/shop.proto:12:29: load_balancing_custom contradicts another field: \
         load_balancing and load_balancing_custom are both given",
        "load_balancing_custom: \"nearest\"",
    ),
    (
        "load_balancing: CONSISTENT_HASH",
        "load_balancing_custom: \"The Nearest\"",
        "proto/shop.proto:12:5: load_balancing_custom `The Nearest` is not a name of lower-case \
         letters, digits and `_`",
        "load_balancing_custom: \"the_nearest\"",
    ),
    (
        "max_timeout: \"10s\"",
        "timeout: \"5 minutes\"",
        "proto/shop.proto:13:5: timeout `5 minutes` is not a time limit: a whole number and a unit, \
         such as 800ms, 30s, 5m or 1h",
        "timeout: \"5m\"",
    ),
    (
        "max_timeout: \"10s\"",
        "timeout: \"0s\"",
        "proto/shop.proto:13:5: timeout `0s` is not a time limit above zero and of at most 24 hours",
        "timeout: \"1ms\"",
    ),
    (
        "max_timeout: \"10s\"",
        "max_timeout: \"25h\"",
        "proto/shop.proto:13:5: max_timeout `25h` is not a time limit above zero and of at most 24 \
         hours",
        "max_timeout: \"24h\"",
    ),
    (
        "max_timeout: \"10s\"",
        "max_timeout: \"10s\" timeout: \"11s\"",
        "proto/shop.proto:13:24: timeout is out of bounds: 11s is above the service's ceiling, \
         max_timeout 10s",
        "max_timeout: \"10s\" timeout: \"10s\"",
    ),
    (
        "max_timeout: \"10s\"",
        "hash_header: \"X-User\"",
        "proto/shop.proto:13:5: hash_header is no name of a header that an app sends: lower-case \
         letters, digits, `-`, `_` and `.`, at most 64, and not `sidelane-` or `grpc-` first",
        "hash_header: \"x-user\"",
    ),
    (
        "max_timeout: \"10s\"",
        "slow_start: \"2h\"",
        "proto/shop.proto:13:5: slow_start is no time above zero and of at most 1 hour",
        "slow_start: \"1h\"",
    ),
    (
        "max_timeout: \"10s\"",
        "retry { attempts: 6 }",
        "proto/shop.proto:13:13: retry.attempts is out of bounds: 6 attempts; it is 2 to 5, the \
         first included",
        "max_timeout: \"800ms\"",
    ),
    (
        "max_timeout: \"10s\"",
        "retry { attempts: 2 on: [\"ABORTED\", \"UNAVAILABEL\"] }",
        "proto/shop.proto:13:41: retry.on[1] `UNAVAILABEL` is not a known gRPC status; did you mean \
         `UNAVAILABLE`? (known are CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, \
         NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, \
         ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED)",
        "retry { attempts: 2 on: [\"ABORTED\", \"UNAVAILABLE\"] }",
    ),
    (
        "secure: true",
        "secured: true",
        "proto/shop.proto:11:5: `secured` is no field of sidelane.routing.v1.ServiceRule; did you \
         mean `secure`? (known are category, connection, lane, secure, persistent, load_balancing, \
         timeout, load_balancing_custom, connection_custom, retry, max_timeout, hash_header, \
         locality, slow_start, breaker, outlier, limits, concurrency, fault, split, authorization)",
        "secure: false",
    ),
    (
        "secure: true",
        "secure: yes",
        "proto/shop.proto:11:13: `secure` is true or false, and `yes` is not",
        "secure: 1",
    ),
    (
        "secure: true",
        "lane: \"gossip\"",
        "proto/shop.proto:11:5: `lane` is given twice",
        "",
    ),
    (
        "lane: \"general\"",
        "lane: general",
        "proto/shop.proto:10:11: `lane` is a text in quotes, and `general` is not",
        "lane: 'general'",
    ),
    (
        "max_timeout: \"10s\"",
        "retry: 3",
        "proto/shop.proto:13:12: `retry` is fields in braces, and `3` is not",
        "retry: {attempts: 3}",
    ),
];

#[test]
fn of_services() {
    hold("shop.proto", SHOP, RULE);
}

/// Options may be written one by one.
const DOTTED: &str = r#"syntax = "proto3";
package shop.v1;
import "sidelane/routing/v1/routing.proto";

service Orders {
  option (sidelane.routing.v1.service).connection = INTERNAL;
  option (sidelane.routing.v1.service).lane = "general";
  option (sidelane.routing.v1.service).retry.attempts = 2;
  option (sidelane.routing.v1.service).retry.on = "ABORTED";
  option (sidelane.routing.v1.service).retry.on = "UNAVAILABLE";
  rpc Get(Nothing) returns (Nothing) {
    option (sidelane.routing.v1.method).idempotent = true;
    option (sidelane.routing.v1.method).timeout = "1s";
  }
}
message Nothing {}
"#;

#[test]
fn of_services_in_single_options() {
    let cases: &[Case] = &[
        (
            "\"general\"",
            "\"generall\"",
            "proto/shop.proto:7:3: lane `generall` is not a known lane; did you mean `general`? \
             (known are general, gossip, bifrost_data, ingress_data)",
            "\"gossip\"",
        ),
        (
            "attempts = 2",
            "attempts = 1",
            "proto/shop.proto:8:3: retry.attempts is out of bounds: 1 attempts; it is 2 to 5, the \
             first included",
            "attempts = 5",
        ),
        (
            "\"UNAVAILABLE\"",
            "\"GONE\"",
            "proto/shop.proto:10:3: retry.on[1] `GONE` is not a known gRPC status (known are \
             CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, \
             PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, \
             UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED)",
            "\"INTERNAL\"",
        ),
        (
            "\"1s\"",
            "\"1sec\"",
            "proto/shop.proto:13:5: timeout `1sec` is not a time limit: a whole number and a unit, \
             such as 800ms, 30s, 5m or 1h",
            "\"1h\"",
        ),
        (
            "(sidelane.routing.v1.service).lane",
            "(sidelane.routing.v1.service).lain",
            "proto/shop.proto:7:3: option field '(sidelane.routing.v1.service).lain' is not \
             defined; did you mean `lane`? (known are category, connection, lane, secure, \
             persistent, load_balancing, timeout, load_balancing_custom, connection_custom, retry, \
             max_timeout, hash_header, locality, slow_start, breaker, outlier, limits, concurrency, \
             fault, split, authorization)",
            "(.sidelane.routing.v1.service).lane",
        ),
        (
            "= INTERNAL",
            "= INTERN",
            "proto/shop.proto:6:3: expected a value of type 'sidelane.routing.v1.Connection' for \
             option '(sidelane.routing.v1.service).connection', but found 'INTERN'; did you mean \
             `INTERNAL`? (known are INTERNAL, EXTERNAL)",
            "= EXTERNAL",
        ),
        (
            "service).connection",
            "servise).connection",
            "proto/shop.proto:6:3: 'sidelane.routing.v1.servise' resolves to \
             'sidelane.routing.v1.servise', which is not defined; did you mean \
             `sidelane.routing.v1.service`?",
            "service).connection",
        ),
    ];
    hold("shop.proto", DOTTED, cases);
}

#[test]
fn of_services_that_are_too_long() {
    let long = "O".repeat(255);
    let name = |name: &str| SHOP.replace("service Orders", &format!("service {name}"));
    let error = try_build(&[("shop.proto", &name(&long))]).unwrap_err();
    assert_eq!(
        error,
        "proto/shop.proto:6:9: service has 263 bytes, at most 255 are allowed"
    );
    try_build(&[("shop.proto", &name(&long[..247]))]).unwrap();
}

#[test]
fn of_services_without_methods() {
    let text = "syntax = \"proto3\";\npackage a;\nimport \"sidelane/routing/v1/routing.proto\";\n\
                service B {\n  option (sidelane.routing.v1.service) = {connection: INTERNAL lane: \
                \"general\"};\n  METHOD}\nmessage C {}\n";
    let error = try_build(&[("a.proto", &text.replace("METHOD", ""))]).unwrap_err();
    let expected = "proto/a.proto:5:3: a.B has a rule and no method, so no call can ever follow it; \
                    give it an rpc, or leave the option out";
    assert_eq!(error, expected);
    let good = text.replace("METHOD", "rpc Do(C) returns (C);");
    assert_eq!(
        try_build(&[("a.proto", &good)]).unwrap().rules.rules.len(),
        1
    );
}

#[test]
fn of_services_without_a_rule() {
    let start = SHOP.find("  option (sidelane.routing.v1.service)").unwrap();
    let end = SHOP.find("  rpc Get").unwrap();
    let without = [&SHOP[..start], &SHOP[end..]].concat();
    let error = try_build(&[("shop.proto", &without)]).unwrap_err();
    let expected = "proto/shop.proto:8:5: `Get` has a rule, and its service shop.v1.Orders has \
                    none; say `option (sidelane.routing.v1.service) = { connection: INTERNAL lane: \
                    \"general\" };` in the service";
    assert_eq!(error, expected);
    // No rule at all is the default rule.
    let start = without.find("  rpc Get").unwrap();
    let end = without.find("  rpc Put").unwrap();
    let none = [&without[..start], &without[end..]].concat();
    let built = try_build(&[("shop.proto", &none)]).unwrap();
    assert!(built.rules.rules.is_empty());
    assert_eq!(built.rules.services.len(), 1);
}

#[test]
fn of_services_that_have_one_already() {
    let metadata = SHOP
        .replace("shop.v1", "sidelane.predefined.v1")
        .replace("service Orders", "service Metadata");
    let error = try_build(&[("metadata.proto", &metadata)]).unwrap_err();
    let expected = "proto/metadata.proto:7:3: sidelane.predefined.v1.Metadata is one of Sidelane's \
                    own services and has its rule already; leave the option out";
    assert_eq!(error, expected);
    let other = SHOP.replace("shop.v1", "sidelane.own.v1");
    try_build(&[("metadata.proto", &other)]).unwrap();
}

#[test]
fn of_two_services_of_one_name() {
    let second = "syntax = \"proto3\";\npackage shop.v1;\nservice Orders {}\n";
    let error = try_build(&[("shop.proto", SHOP), ("tail.proto", second)]).unwrap_err();
    let expected = "proto/tail.proto:3:9: name 'shop.v1.Orders' is already defined in file \
                    'shop.proto'; give one of them another name";
    assert_eq!(error, expected);
    let good = second.replace("Orders", "Returns");
    try_build(&[("shop.proto", SHOP), ("tail.proto", &good)]).unwrap();
}

/// Everything of ours is encrypted.
struct Encrypted;

impl Validation for Encrypted {
    fn name(&self) -> &'static str {
        "encrypted"
    }

    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        if rule.secure {
            return Ok(());
        }
        let text = "has to be true here".to_owned();
        Err(FieldError::new("secure", Problem::Refused(text)))
    }
}

/// Nothing of ours is retried.
struct Once;

impl Validation for Once {
    fn name(&self) -> &'static str {
        "once"
    }

    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        let Some(index) = rule
            .methods
            .iter()
            .position(|method| method.retry.is_some())
        else {
            return Ok(());
        };
        let text = "is not for us".to_owned();
        Err(FieldError::new(
            format!("methods[{index}].retry"),
            Problem::Refused(text),
        ))
    }
}

#[test]
fn of_services_that_break_a_rule_of_ones_own() {
    let bad = SHOP
        .replace("secure: true", "secure: false")
        .replace("hash_on: \"id\"", "retry {attempts: 2}");
    let validated = |text: &str| {
        try_with(&[("shop.proto", text)], |builder| {
            builder.validation(Encrypted).validation(Once)
        })
    };
    let expected = "proto/shop.proto:11:5: secure has to be true here (validation `encrypted`)\n\
                    proto/shop.proto:16:81: retry is not for us (validation `once`)";
    assert_eq!(validated(&bad).unwrap_err(), expected);
    validated(SHOP).unwrap();
}
