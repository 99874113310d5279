//! Holds the sources of the whole workspace to ARCHITECTURE.md's "who may import whom", and shows
//! with made-up sources that each rule sees what it forbids.

use std::path::Path;

use sidelane_tests::imports::RuleName::{
    Control, Crates, Length, Pure, Stages, Telemetry, Unsafe, Wire,
};
use sidelane_tests::imports::{Exception, RuleName, Source, check, check_with, workspace};

/// What may break a rule, with the reason. Empty, and meant to stay so.
const EXCEPTIONS: &[Exception] = &[];

#[test]
fn the_workspace_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sources = workspace(root);
    for known in [
        "sidecar/src/stack.rs",
        "control/src/push/mod.rs",
        "proto/Cargo.toml",
    ] {
        let found = sources.iter().any(|source| source.path == known);
        assert!(
            found,
            "{known} is not among the {} files that were read",
            sources.len()
        );
    }
    let violations = check_with(&sources, EXCEPTIONS);
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} imports are forbidden:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

#[test]
fn sidecar_and_control_do_not_import_each_other_nor_the_tests() {
    broken(
        Crates,
        "sidecar/src/app.rs",
        "use sidelane_control::registry::Registry;",
    );
    broken(
        Crates,
        "control/src/app.rs",
        "let x = sidelane_sidecar::builder();",
    );
    broken(
        Crates,
        "sdk/cli/src/lib.rs",
        "use ::sidelane_tests::Cluster;",
    );
    broken(
        Crates,
        "sidecar/Cargo.toml",
        "[dependencies]\nsidelane-control.workspace = true",
    );
    broken(
        Crates,
        "control/Cargo.toml",
        "sidelane-sidecar = { path = \"../sidecar\" }",
    );
    broken(
        Crates,
        "proto/Cargo.toml",
        "[dev-dependencies.sidelane-tests]\n\"sidelane-tests\" = \"*\"",
    );
    kept(
        "sdk/cli/src/lib.rs",
        "use sidelane_control::run; use sidelane_sidecar::run;",
    );
    kept("sdk/cli/Cargo.toml", "sidelane-control.workspace = true");
    kept("tests/src/lib.rs", "use sidelane_tests::Cluster;");
    kept(
        "sidecar/src/app.rs",
        "// unlike sidelane_control\nlet x = \"sidelane_control\";",
    );
}

#[test]
fn a_stage_imports_no_sibling_and_nothing_above() {
    for text in [
        "use crate::pool::Link;",
        "use crate::{call::Call, pool::{Link, Pool}};",
        "use super::super::pool::Link;",
        "fn f(link: &crate::pool::Link) {}",
        "mod inner { use super::super::super::pool::Link; }",
        "use crate::stack::Stack;",
        "use crate::app;",
        "use crate::config::Config;",
        "vec![crate::balance::Strategy::None]",
    ] {
        broken(Stages, "sidecar/src/accept/inbound.rs", text);
    }
    broken(
        Stages,
        "sidecar/src/classify.rs",
        "use super::accept::Listener;",
    );
    for text in [
        "use crate::accept::sniff; use super::hello::Hello; use self::deep::Er;",
        "use crate::call::Call; use crate::mesh::Mesh; use crate::telemetry::Guard;",
        "#[cfg(test)] mod tests { use crate::pool::Link; }",
        "/// Like [`crate::pool::Link`].\nlet pool = x.pool; pool::f();",
    ] {
        kept("sidecar/src/accept/inbound.rs", text);
    }
    kept(
        "sidecar/src/stack.rs",
        "use crate::pool::Link; use crate::accept::Listener;",
    );
    kept(
        "sidecar/src/app.rs",
        "use crate::config::Config; use crate::stack::Stack;",
    );
}

#[test]
fn a_stage_does_not_reach_a_sibling_by_way_of_others() {
    let way = [
        ("sidecar/src/forward/mod.rs", "use crate::first::f;"),
        ("sidecar/src/first.rs", "use crate::second::g;"),
        ("sidecar/src/second/mod.rs", "pub use crate::pool::Link;"),
    ];
    let violations = check(&sources(&way));
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0].path, "sidecar/src/forward/mod.rs");
    let told = violations[0].to_string();
    assert!(
        told.contains("forward -> first -> second -> pool"),
        "{told}"
    );

    let picture = [
        ("sidecar/src/classify.rs", "use crate::mesh::Mesh;"),
        ("sidecar/src/mesh.rs", "use crate::balance::Hub;"),
    ];
    assert_eq!(check(&sources(&picture)), []);
    let through_the_picture = [
        ("sidecar/src/classify.rs", "use crate::mesh::Mesh;"),
        ("sidecar/src/mesh.rs", "use crate::discover::Snapshot;"),
    ];
    assert_eq!(rules(&through_the_picture), [Stages]);
}

#[test]
fn a_stage_says_where_a_name_is_from() {
    // Names at the crate's root may come from anywhere.
    broken(Stages, "sidecar/src/pool/mod.rs", "use crate::Stack;");
    broken(Stages, "sidecar/src/pool/mod.rs", "use crate::*;");
    broken(Stages, "sidecar/src/pool/mod.rs", "use crate as root;");
    broken(Stages, "sidecar/src/pool/mod.rs", "use super::*;");
}

#[test]
fn what_decides_is_pure() {
    for text in [
        "use tokio::net::TcpStream;",
        "use std::net::{IpAddr, TcpStream};",
        "let x = socket2::Socket::new();",
        "use hyper::body::Incoming;",
        "use tonic::transport::Channel;",
        "use tonic::{Status, transport};",
        "use sidelane_proto::wire::control::v1::Endpoint;",
    ] {
        for path in ["sidecar/src/classify.rs", "sidecar/src/balance/hub.rs"] {
            assert!(rules(&[(path, text)]).contains(&Pure), "{path}: {text}");
        }
        assert!(
            rules(&[("sidecar/src/policy/retry.rs", text)]).contains(&Pure),
            "{text}"
        );
    }
    assert!(rules(&[("sidecar/src/balance/hub.rs", "use crate::pool::Key;")]).contains(&Pure));
    broken(
        Pure,
        "sidecar/src/balance/hub.rs",
        "let now = std::time::Instant::now();",
    );
    broken(
        Pure,
        "sidecar/src/classify.rs",
        "let now = SystemTime::now();",
    );
    broken(
        Pure,
        "sidecar/src/policy/deadline.rs",
        "let now = Instant::now();",
    );
    let text = "use std::net::SocketAddr; use std::time::Instant; use tonic::Status; \
                fn f(now: Instant) {} #[cfg(test)] mod tests { fn f() { Instant::now(); } }";
    kept("sidecar/src/balance/hub.rs", text);
    kept("sidecar/src/pool/connect.rs", "use tokio::net::TcpStream;");
}

#[test]
fn wire_types_stay_at_the_wire() {
    let text = "use sidelane_proto::wire::control::v1::Endpoint;";
    for path in [
        "sidecar/src/pool/connect.rs",
        "sidecar/src/accept/hello.rs",
        "sidecar/src/stack.rs",
        "sidecar/src/admin.rs",
        "control/src/registry/merge.rs",
        "control/src/store/mod.rs",
        "sdk/src/routing/table.rs",
    ] {
        broken(Wire, path, text);
    }
    broken(
        Wire,
        "sidecar/src/stack.rs",
        "fn f(x: sidelane_proto::wire::peer::v1::HelloRequest) {}",
    );
    broken(Wire, "sidecar/src/stack.rs", "use sidelane_proto as proto;");
    broken(Wire, "sidecar/src/stack.rs", "use sidelane_proto::*;");
    kept("sidecar/src/discover/stream.rs", text);
    kept("control/src/push/session.rs", text);
    kept("control/src/admin/mesh.rs", text);
    kept("sdk/cli/src/command/nodes.rs", text);
    kept(
        "sidecar/src/pool/connect.rs",
        "use sidelane_proto::wire::peer::v1::HelloRequest;",
    );
    kept(
        "sidecar/src/explain.rs",
        "use sidelane_proto::wire::admin::v1::ExplainResponse;",
    );
    kept(
        "sidecar/src/stack.rs",
        "use sidelane_proto::model::Endpoint;",
    );
}

#[test]
fn sources_registry_and_push_know_only_what_they_must() {
    let two = |text| {
        [
            ("control/src/source/fixed/mod.rs", text),
            ("control/src/source/dns.rs", ""),
            ("control/src/push/mod.rs", ""),
            ("control/src/registry/mod.rs", ""),
        ]
    };
    for text in [
        "use super::dns::Resolver;",
        "use super::super::dns::Resolver;",
        "use crate::source::dns;",
        "use crate::push::Session;",
        "use tonic::Status;",
    ] {
        // `super` is `source` for a file that is the source's root module.
        assert_eq!(
            rules(&two(text)).is_empty(),
            text.starts_with("use super::super"),
            "{text}"
        );
    }
    assert_eq!(
        rules(&two("use crate::registry::Change; use self::file::File;")),
        []
    );
    broken(
        Control,
        "control/src/registry/merge.rs",
        "use tonic::Status;",
    );
    broken(
        Control,
        "control/src/registry/merge.rs",
        "use kube::Client;",
    );
    let registry = [
        ("control/src/registry/mod.rs", "use crate::source::Source;"),
        ("control/src/source/mod.rs", ""),
    ];
    assert_eq!(rules(&registry), [Control]);
    let push = [
        ("control/src/push/mod.rs", "use crate::between::x;"),
        ("control/src/between.rs", "use crate::source::Source;"),
        ("control/src/source/mod.rs", ""),
    ];
    assert_eq!(rules(&push), [Control]);
    kept(
        "control/src/source/etcd.rs",
        "use tonic::transport::Channel;",
    );
    kept("control/src/push/server.rs", "use tonic::Status;");
}

#[test]
fn telemetry_imports_no_stage() {
    let text = [
        ("sidecar/src/telemetry/mod.rs", "use crate::pool::Key;"),
        ("sidecar/src/pool/mod.rs", ""),
    ];
    assert_eq!(rules(&text), [Telemetry]);
    kept("sidecar/src/telemetry/mod.rs", "use crate::reason::Reason;");
}

#[test]
fn files_end_and_nothing_is_unsafe() {
    broken(Length, "sdk/src/lib.rs", &"\n".repeat(801));
    kept("sdk/src/lib.rs", &"\n".repeat(800));
    broken(Unsafe, "sdk/src/lib.rs", "fn f() { unsafe { g() } }");
    broken(
        Unsafe,
        "tests/src/lib.rs",
        "#[cfg(test)] mod tests { unsafe fn f() {} }",
    );
    kept(
        "sdk/src/lib.rs",
        "#![forbid(unsafe_code)] // unsafe\nlet x = \"unsafe\";",
    );
}

#[test]
fn an_exception_excepts_its_own_file_and_rule_only() {
    let exception = Exception {
        rule: Unsafe,
        path: "sdk/src/lib.rs",
        why: "to show it",
    };
    let text = "unsafe fn f() {}";
    let sources = sources(&[("sdk/src/lib.rs", text), ("sdk/src/other.rs", text)]);
    let left = check_with(&sources, &[exception]);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].path, "sdk/src/other.rs");
}

#[test]
#[should_panic(expected = "excepts nothing")]
fn an_exception_that_is_not_needed_must_go() {
    let exception = Exception {
        rule: Unsafe,
        path: "sdk/src/lib.rs",
        why: "to show it",
    };
    let _ = check_with(&sources(&[("sdk/src/lib.rs", "fn f() {}")]), &[exception]);
}

/// A file with this text breaks this rule and no other.
fn broken(rule: RuleName, path: &str, text: &str) {
    assert_eq!(rules(&[(path, text)]), [rule], "{path}: {text}");
}

/// A file with this text breaks none.
fn kept(path: &str, text: &str) {
    assert_eq!(rules(&[(path, text)]), [], "{path}: {text}");
}

/// The rules that these files break, beside files that are just there.
fn rules(files: &[(&str, &str)]) -> Vec<RuleName> {
    let mut rules: Vec<RuleName> = check(&sources(files)).iter().map(|it| it.rule).collect();
    rules.dedup();
    rules
}

fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    let modules = [
        "accept", "classify", "policy", "balance", "pool", "forward", "discover",
    ]
    .into_iter()
    .chain([
        "admin",
        "drain",
        "stack",
        "app",
        "config",
        "call",
        "mesh",
        "telemetry",
        "reason",
    ]);
    let mut sources: Vec<Source> = modules
        .map(|it| source(&format!("sidecar/src/{it}/mod.rs"), ""))
        .collect();
    for (path, text) in files {
        sources.retain(|source| source.path != *path);
        sources.push(source(path, text));
    }
    sources
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}
