//! Rules of methods.

use super::{Case, SHOP, hold, try_build};

const METHOD: &str = "{ idempotent: true  timeout: \"800ms\"  hash_on: \"id\" }";

const RULE: &[Case] = &[
    (
        METHOD,
        "{ hash_on: \"order_id\" }",
        "proto/shop.proto:16:45: hash_on `order_id`: `order_id` is no field of shop.v1.GetRequest; \
         did you mean `order`? (it has id, order, tags, labels, price, key, region, mail, whole)",
        "{ hash_on: \"order.id\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"order.name\" }",
        "proto/shop.proto:16:45: hash_on `order.name`: `name` is no field of shop.v1.Order (it has \
         id, parts)",
        "{ hash_on: \"region\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"order\" }",
        "proto/shop.proto:16:45: hash_on `order` cannot keep calls together: `order` of \
         shop.v1.GetRequest is a message; name one string, bytes, bool, enum or integer field",
        "{ hash_on: \"key\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"tags\" }",
        "proto/shop.proto:16:45: hash_on `tags` cannot keep calls together: `tags` of \
         shop.v1.GetRequest is repeated; name one string, bytes, bool, enum or integer field",
        "{ hash_on: \"mail\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"labels\" }",
        "proto/shop.proto:16:45: hash_on `labels` cannot keep calls together: `labels` of \
         shop.v1.GetRequest is a map; name one string, bytes, bool, enum or integer field",
        "{ hash_on: \"id\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"price\" }",
        "proto/shop.proto:16:45: hash_on `price` cannot keep calls together: `price` of \
         shop.v1.GetRequest is a floating-point number, of which one value has many texts; name \
         one string, bytes, bool, enum or integer field",
        "{ hash_on: \"id\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"order.parts.id\" }",
        "proto/shop.proto:16:45: hash_on `order.parts.id` cannot keep calls together: `parts` of \
         shop.v1.Order is repeated; name one string, bytes, bool, enum or integer field",
        "{ hash_on: \"whole.id\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"id.high\" }",
        "proto/shop.proto:16:45: hash_on `id.high` cannot keep calls together: `id` of \
         shop.v1.GetRequest is no message and has no fields; name one string, bytes, bool, enum or \
         integer field",
        "{ hash_on: \"id\" }",
    ),
    (
        METHOD,
        "{ hash_on: \"order id\" }",
        "proto/shop.proto:16:45: hash_on `order id` is not a field of the request",
        "{ hash_on: \"id\" }",
    ),
    (
        METHOD,
        "{ timeout: \"11s\" }",
        "proto/shop.proto:16:45: timeout is out of bounds: 11s is above the service's ceiling, \
         max_timeout 10s",
        "{ timeout: \"10000ms\" }",
    ),
    (
        METHOD,
        "{ timeout: \"1.5s\" }",
        "proto/shop.proto:16:45: timeout `1.5s` is not a time limit: a whole number and a unit, \
         such as 800ms, 30s, 5m or 1h",
        "{ timeout: \"1500ms\" }",
    ),
    (
        METHOD,
        "{ timeout: \"0ms\" }",
        "proto/shop.proto:16:45: timeout `0ms` is not a time limit above zero and of at most 24 \
         hours",
        "{ timeout: \"1ms\" }",
    ),
    (
        METHOD,
        "{ retry { attempts: 2 } }",
        "proto/shop.proto:16:45: retry `Get` is not idempotent: a second attempt could do its work \
         twice; say `idempotent: true` if that does no harm, or leave `retry` out",
        "{ idempotent: true retry { attempts: 2 } }",
    ),
    (
        METHOD,
        "{ idempotent: true retry { attempts: 1 } }",
        "proto/shop.proto:16:70: retry.attempts is out of bounds: 1 attempts; it is 2 to 5, the \
         first included",
        "{ idempotent: true retry { attempts: 5 on: \"INTERNAL\" } }",
    ),
    (
        METHOD,
        "{ hedge { after: \"20ms\" } }",
        "proto/shop.proto:16:45: hedge is of a method that is not idempotent: two attempts at once \
         could do its work twice; say `idempotent: true` if that does no harm, or leave `hedge` out",
        "{ idempotent: true hedge { after: \"20ms\" } }",
    ),
    (
        METHOD,
        "{ idempotent: true hedge { after: \"20ms\" max_attempts: 6 } }",
        "proto/shop.proto:16:84: hedge.max_attempts is 2 to 5, the first included",
        "{ idempotent: true hedge { after: \"20ms\" max_attempts: 5 } }",
    ),
    (
        METHOD,
        "{ idempotent: true hedge { max_attempts: 2 } }",
        "proto/shop.proto:16:62: hedge.after is missing",
        "{ idempotent: true hedge { after: \"1m\" } }",
    ),
    (
        METHOD,
        "{ idempotent: true retries { attempts: 2 } }",
        "proto/shop.proto:16:62: `retries` is no field of sidelane.routing.v1.MethodRule; did you \
         mean `retry`? (known are idempotent, timeout, hash_on, retry, limits, fault, hedge, \
         authorization)",
        "{ idempotent: true retry { attempts: 2 } }",
    ),
    (
        "rpc Import(stream GetRequest) returns (GetResponse);",
        "rpc Import(stream GetRequest) returns (GetResponse) {\n    option \
         (sidelane.routing.v1.method) = { hash_on: \"id\" };\n  }",
        "proto/shop.proto:20:45: hash_on `Import` takes a stream, and a call goes to its endpoint \
         before the first message: the field is not known then; leave `hash_on` out",
        "rpc Import(GetRequest) returns (stream GetResponse) {\n    option \
         (sidelane.routing.v1.method) = { hash_on: \"id\" };\n  }",
    ),
    (
        "rpc Import(stream GetRequest) returns (GetResponse);",
        "rpc Import(stream GetRequest) returns (GetResponse) {\n    option \
         (sidelane.routing.v1.method) = { idempotent: true retry { attempts: 2 } };\n  }",
        "proto/shop.proto:20:45: idempotent `Import` takes a stream, which cannot be sent twice; \
         leave `idempotent` out, or give `retry` to the other methods alone",
        "rpc Import(stream GetRequest) returns (GetResponse) {\n    option \
         (sidelane.routing.v1.method) = { idempotent: true };\n  }",
    ),
];

#[test]
fn of_methods() {
    hold("shop.proto", SHOP, RULE);
}

#[test]
fn of_a_service_none_of_whose_methods_may_run_twice() {
    let bad = SHOP
        .replace("max_timeout: \"10s\"", "retry { attempts: 2 }")
        .replace("idempotent: true", "");
    let error = try_build(&[("shop.proto", &bad)]).unwrap_err();
    let expected = "proto/shop.proto:13:5: retry is for idempotent methods, and none of this \
                    service is; mark those that may run twice `idempotent: true`, or leave it out";
    assert_eq!(error, expected);
}

#[test]
fn of_methods_that_are_too_long() {
    let name = |length: usize| SHOP.replace("rpc Put", &format!("rpc {}", "P".repeat(length)));
    let error = try_build(&[("shop.proto", &name(256))]).unwrap_err();
    assert_eq!(
        error,
        "proto/shop.proto:18:7: name has 256 bytes, at most 255 are allowed"
    );
    try_build(&[("shop.proto", &name(255))]).unwrap();
}

/// Editors count characters, not bytes.
#[test]
fn of_methods_behind_letters_of_several_bytes() {
    let bad = SHOP.replace(METHOD, "/* für Größe */ { timeout: \"x\" }");
    let error = try_build(&[("shop.proto", &bad)]).unwrap_err();
    assert!(
        error.starts_with("proto/shop.proto:16:61: timeout `x`"),
        "{error}"
    );
}
