//! What no rule may say of who may call.

use sidelane_proto::wire::routing::v1 as wire;

use super::{Bad, bad};

/// An entry that is not there yet, of who may call.
fn allow(rule: &mut wire::Rule) -> &mut wire::Allow {
    let entries = &mut rule.authorization.get_or_insert_default().allow;
    if entries.last().is_none_or(|last| last.anyone) {
        entries.push(wire::Allow::default());
    }
    entries.last_mut().unwrap()
}

pub(super) const TABLE: &[Bad] = &[
    bad(
        "authorization: {@allow: []}",
        "authorization.allow",
        "names nobody, so that nobody could call",
        |rule| rule.authorization = Some(wire::Authorization::default()),
    ),
    bad(
        "authorization: {allow: [{@identity: \"orders\"}]}",
        "authorization.allow[0].identity",
        "is no SPIFFE id such as",
        |rule| "orders".clone_into(&mut allow(rule).identity),
    ),
    bad(
        "authorization: {allow: [{anyone: true}, {@identity: \"spiffe://mesh.example\"}]}",
        "authorization.allow[1].identity",
        "names a whole trust domain",
        |rule| {
            allow(rule).anyone = true;
            "spiffe://mesh.example".clone_into(&mut allow(rule).identity);
        },
    ),
    bad(
        "authorization: {allow: [{@prefix: \"spiffe://mesh.exam\"}]}",
        "authorization.allow[0].prefix",
        "ends within the trust domain",
        |rule| "spiffe://mesh.exam".clone_into(&mut allow(rule).prefix),
    ),
    bad(
        "authorization: {allow: [{@prefix: \"spiffe://mesh.example/ns/sh\"}]}",
        "authorization.allow[0].prefix",
        "ends within a namespace",
        |rule| "spiffe://mesh.example/ns/sh".clone_into(&mut allow(rule).prefix),
    ),
    bad(
        "authorization: {allow: [{@namespace: \"shop/*\"}]}",
        "authorization.allow[0].namespace",
        "is no namespace",
        |rule| "shop/*".clone_into(&mut allow(rule).namespace),
    ),
    bad(
        "authorization: {allow: [{@trust_domain: \"Mesh\"}]}",
        "authorization.allow[0].trust_domain",
        "is no trust domain",
        |rule| "Mesh".clone_into(&mut allow(rule).trust_domain),
    ),
    bad(
        "authorization: {allow: [{namespace: \"shop\", @anyone: true}]}",
        "authorization.allow[0].anyone",
        "is said beside who may call",
        |rule| {
            let allow = allow(rule);
            (allow.anyone, allow.namespace) = (true, "shop".to_owned());
        },
    ),
    bad(
        "authorization: {allow: [{@lane: \"genral\"}]}",
        "authorization.allow[0].lane",
        "`genral` is not a known lane; did you mean `general`?",
        |rule| "genral".clone_into(&mut allow(rule).lane),
    ),
    bad(
        "authorization: {allow: [{@connection_custom: \"partnr\"}]}",
        "authorization.allow[0].connection_custom",
        "`partnr` is not a known connection class of one's own",
        |rule| "partnr".clone_into(&mut allow(rule).connection_custom),
    ),
    bad(
        "authorization: {allow: [{@prefix: \"spiffe:\"}]}",
        "methods[1].authorization.allow[0].prefix",
        "is no beginning of a SPIFFE id",
        |rule| {
            let prefix = "spiffe:".to_owned();
            let allow = vec![wire::Allow {
                prefix,
                ..wire::Allow::default()
            }];
            let dry_run = false;
            rule.methods[1].authorization = Some(wire::Authorization { allow, dry_run });
        },
    ),
];
