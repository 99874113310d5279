//! The commands about rules against a real control plane and real sidecars, each started by the same
//! binary.

#![allow(
    clippy::unwrap_used,
    reason = "what surrounds a test may fail it like the test itself"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use sidelane_proto::wire::control::v1 as wire;
use sidelane_proto::wire::control::v1::membership_client::MembershipClient;
use sidelane_proto::wire::routing::v1 as routing;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = sidelane(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sidelane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane"));
    for (name, _) in std::env::vars() {
        if name.starts_with("SIDELANE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Exit code, standard output and standard error.
fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// An address where nobody listens yet.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A control plane in a folder, and commands that ask it. They run in that folder, so that files
/// have short names.
struct Mesh {
    folder: tempfile::TempDir,
    control: String,
    _running: Running,
}

impl Mesh {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = free().to_string();
        let running = control_at(folder.path(), &control);
        let mesh = Self {
            folder,
            control,
            _running: running,
        };
        mesh.until_control_answers();
        mesh
    }

    /// Kills control as a crash would, and starts it again.
    fn crash(self) -> Self {
        let Self {
            folder,
            control,
            _running: running,
        } = self;
        drop(running);
        let running = control_at(folder.path(), &control);
        let mesh = Self {
            folder,
            control,
            _running: running,
        };
        mesh.until_control_answers();
        mesh
    }

    fn until_control_answers(&self) {
        let began = std::time::Instant::now();
        while self.run(&["nodes"]).0 != 0 {
            assert!(began.elapsed().as_secs() < 20, "control does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = sidelane(arguments);
        command
            .current_dir(self.folder.path())
            .env("SIDELANE_CONTROL", &self.control);
        outcome(&mut command)
    }

    /// What a command prints when it does what it is for.
    #[track_caller]
    fn answer(&self, arguments: &[&str]) -> String {
        let (code, text, errors) = self.run(arguments);
        assert_eq!((code, errors.as_str()), (0, ""), "{arguments:?}");
        text
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.answer(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// What a command says when it does not.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let (code, text, errors) = self.run(arguments);
        assert_eq!((code, text.as_str()), (1, ""), "{errors}");
        errors
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A sidecar beside something that accepts connections.
    fn sidecar(&self, node: &str, service: &str) -> (Running, TcpListener, String) {
        let app = TcpListener::bind("127.0.0.1:0").unwrap();
        let serve = format!("{service}={}", app.local_addr().unwrap());
        let [outbound, internal, admin] = [(); 3].map(|()| free().to_string());
        let data = self.folder.path().join(node);
        let running = Running::start(&[
            "sidecar",
            "--trust",
            "disabled",
            "--node",
            node,
            "--control",
            &self.control,
            "--serve",
            &serve,
            "--outbound",
            &outbound,
            "--internal",
            &internal,
            "--admin",
            &admin,
            "--data",
            data.to_str().unwrap(),
        ]);
        let url = format!("http://{admin}");
        self.answer(&["wait", "--sidecar", &url]);
        (running, app, url)
    }
}

fn control_at(folder: &Path, listen: &str) -> Running {
    let data = folder.join("control");
    let data = data.to_str().unwrap();
    let admin = free().to_string();
    Running::start(&[
        "control", "--trust", "disabled", "--listen", listen, "--admin", &admin, "--data", data,
    ])
}

/// The words of each line.
fn rows(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

const RULES: &str = "\
lanes:
  - { id: 20, name: telemetry, connections: [INTERNAL], window: 65536, max_streams: 64 }
rules:
  - service: shop.v1.Orders
    connection: INTERNAL
    lane: telemetry
    timeout: 2s
  - service: shop.v1.Billing
    load_balancing: RANDOM
";

#[test]
fn rules_are_applied_listed_tuned_and_taken_back_and_survive_a_crash() {
    let mesh = Mesh::start();
    let (_running, _app, sidecar) = mesh.sidecar("orders-1", "shop.v1.Orders");
    mesh.write("rules.yaml", RULES);

    let dry = mesh.answer(&["apply", "-f", "rules.yaml", "--dry-run"]);
    assert_eq!(
        rows(&dry),
        [
            "this could be applied to network default: 2 added",
            "SERVICE CHANGE WHERE",
            "shop.v1.Orders added rules.yaml:4",
            "shop.v1.Billing added rules.yaml:8",
        ]
    );
    assert!(mesh.answer(&["rules"]).contains("no rule is applied"));

    let applied = rows(&mesh.answer(&["apply", "-f", "rules.yaml"]));
    let revision = mesh.json(&["rules"])["rules"][0]["revision"]
        .as_u64()
        .unwrap();
    assert_eq!(
        applied[0],
        format!("applied to network default as revision {revision}: 2 added")
    );
    assert_eq!(applied[4], "every connected sidecar has taken it");
    assert_eq!(
        rows(&mesh.answer(&["rules"])),
        [
            "SERVICE REVISION SAYS WHERE".to_owned(),
            format!("shop.v1.Billing {revision} RANDOM rules.yaml:8"),
            format!("shop.v1.Orders {revision} Internal telemetry, timeout 2s rules.yaml:4"),
        ]
    );
    let explained = mesh.answer(&["explain", "/shop.v1.Orders/Get", "--sidecar", &sidecar]);
    assert!(explained.contains("rules.yaml:4"), "{explained}");
    assert!(explained.contains("telemetry"), "{explained}");

    let again = rows(&mesh.answer(&["apply", "-f", "rules.yaml"]));
    assert_eq!(
        again[0],
        format!("applied to network default as revision {revision}: 2 unchanged")
    );
    mesh.write(
        "more.yml",
        "rules: [{service: shop.v1.Orders, timeout: 3s}]\n",
    );
    let changed = mesh.json(&["apply", "-f", "more.yml", "--remove", "shop.v1.Billing"]);
    assert_eq!(changed["applied"], true);
    assert_eq!(changed["rules"][0]["change"], "changed");
    assert_eq!(changed["rules"][1]["change"], "removed");
    assert_eq!(changed["waited"]["reached"], true);
    let next = changed["revision"].as_u64().unwrap();
    assert!(next > revision);

    let mesh = mesh.crash();
    let rules = mesh.json(&["rules", "shop.v1.Orders"]);
    let rule = &rules["rules"][0];
    assert_eq!(rule["origin"], "more.yml:1");
    // What had not reached the disk of the counter yet is counted anew, and never backwards.
    let held = rule["revision"].as_u64().unwrap();
    assert!(held >= next, "{held} < {next}");
    assert_eq!(
        (&rule["tuning_only"], &rule["timeout_ms"]),
        (&true.into(), &3_000.into())
    );
    assert_eq!(mesh.json(&["rules"])["rules"].as_array().unwrap().len(), 1);
    assert_eq!(
        mesh.refused(&["rules", "shop.v1.Order"]),
        "sidelane rules: no rule is applied to `shop.v1.Order`; did you mean `shop.v1.Orders`? \
         (`sidelane rules` lists all)\n"
    );
    mesh.answer(&["wait", "--sidecar", &sidecar]);
    mesh.answer(&["apply", "--remove", "shop.v1.Orders", "--wait", "20s"]);
    assert!(mesh.answer(&["rules"]).contains("no rule is applied"));
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_line() {
    let mesh = Mesh::start();
    // One node is compiled with a rule of what it offers: every sidecar is with the predefined ones.
    let (_running, _app, _) = mesh.sidecar("worker-1", "sidelane.predefined.v1.Worker");
    mesh.write("good.yaml", RULES);
    mesh.answer(&["apply", "-f", "good.yaml"]);
    let before = mesh.json(&["rules"])["rules"].clone();
    let apply = |text: &str| {
        mesh.write("rules.yaml", text);
        let error = mesh.refused(&["apply", "-f", "rules.yaml"]);
        assert_eq!(
            mesh.json(&["rules"])["rules"],
            before,
            "the last good ones stay"
        );
        error
    };
    let whole = |service: &str, lane: &str| {
        format!(
            "rules:\n  - service: a.A\n    timeout: 1s\n  - service: {service}\n    connection: \
             INTERNAL\n    lane: {lane}\n"
        )
    };
    // Found here.
    let error = apply(&whole("shop.v1.Cart", "telemetri"));
    assert!(
        error.starts_with(
            "sidelane apply: the rules cannot be taken as they are:\nrules.yaml:6:11: rules[1].lane \
             `telemetri` is not a known lane; did you mean `telemetry`?"
        ),
        "{error}"
    );
    let error = apply("rules:\n  - service: a.A\n    timeuot: 1s\n");
    let expected = "rules.yaml:3:5: `timeuot` is not a key here; did you mean `timeout`?";
    assert!(error.contains(expected), "{error}");
    // Found by control.
    let error = apply(&whole("sidelane.predefined.v1.Worker", "gossip"));
    assert!(
        error.starts_with(
            "sidelane apply: nothing was applied:\nrules.yaml:6:11: rules[1].lane is compiled in as \
             general ("
        ),
        "{error}"
    );
    assert!(error.ends_with("(node `default/worker-1`)\n"), "{error}");
    let error = apply(&whole("a.A", "general"));
    let expected = "rules.yaml:4:14: rules[1].service `a.A` is named twice\n";
    assert!(error.ends_with(expected), "{error}");
    let error = apply(
        "lanes:\n  - { id: 20, name: other, connections: [INTERNAL], window: 65536, max_streams: 1 \
         }\nrules:\n  - { service: b.B, connection: INTERNAL, lane: other }\n",
    );
    assert!(
        error.contains("20 is taken by lane `telemetry` of the applied rule of `shop.v1.Orders`"),
        "{error}"
    );
    // A lane that only the mesh knows is found there.
    mesh.write("mesh.yaml", &whole("shop.v1.Cart", "telemetry"));
    let applied = mesh.json(&["apply", "-f", "mesh.yaml", "--dry-run"]);
    assert_eq!(applied["rules"][1]["change"], "added");
    assert_eq!(applied["applied"], false);

    let error = mesh.refused(&["apply", "--remove", "shop.v1.Ordres"]);
    assert!(
        error.contains(
            "--remove[0] `shop.v1.Ordres` has no applied rule in network `default`; did \
                        you mean `shop.v1.Orders`?"
        ),
        "{error}"
    );
    let (code, text, _) = mesh.run(&["apply", "--remove", "shop.v1.Ordres", "-o", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &json["refused"][0]["field"]),
        (1, &"remove[0]".into())
    );
    assert_eq!(json["applied"], false);
}

#[test]
fn a_sidecar_that_refuses_a_rule_is_named_and_the_exit_code_says_so() {
    let mesh = Mesh::start();
    let (_running, _app, _) = mesh.sidecar("orders-1", "shop.v1.Orders");
    // Which strategies a sidecar was built with, control does not know.
    let text = "rules:\n  - service: shop.v1.Orders\n    load_balancing_custom: nearest\n";
    mesh.write("rules.yaml", text);
    let (code, text, errors) = mesh.run(&["apply", "-f", "rules.yaml"]);
    assert_eq!(code, 1);
    assert!(
        text.starts_with("applied to network default as revision "),
        "{text}"
    );
    let revision = mesh.json(&["rules"])["rules"][0]["revision"].clone();
    let expected = format!(
        "sidelane apply: the rules are applied, but not everywhere:\n  orders-1 does not follow the \
         rule of shop.v1.Orders of revision {revision}: load_balancing_custom `nearest` is not a \
         known strategy of this sidecar"
    );
    assert!(errors.starts_with(&expected), "{errors}");

    let nodes = mesh.json(&["nodes"]);
    let refused = nodes["nodes"][0]["refused"].as_str().unwrap();
    let expected = format!("the rule of shop.v1.Orders, version {revision}: ");
    assert!(refused.starts_with(&expected), "{refused}");
    assert_eq!(
        nodes["nodes"][0]["refused_rules"][0]["service"],
        "shop.v1.Orders"
    );
    let table = mesh.answer(&["nodes"]);
    assert!(
        table.contains("orders-1 refuses the rule of shop.v1.Orders"),
        "{table}"
    );

    // What somebody else applies is not held up by that.
    mesh.write(
        "other.yaml",
        "rules: [{service: shop.v1.Billing, timeout: 1s}]\n",
    );
    mesh.answer(&["apply", "-f", "other.yaml"]);
    mesh.write(
        "rules.yaml",
        "rules: [{service: shop.v1.Orders, timeout: 1s}]\n",
    );
    mesh.answer(&["apply", "-f", "rules.yaml"]);
    assert_eq!(mesh.json(&["nodes"])["nodes"][0]["refused"], "");
}

#[test]
fn what_the_command_line_lacks_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| outcome(sidelane(arguments).current_dir(folder.path()));
    let says = |arguments: &[&str], code: i32, expected: &str| {
        let (found, text, errors) = run(arguments);
        assert_eq!(
            (found, text.as_str()),
            (code, ""),
            "{arguments:?}: {errors}"
        );
        assert!(errors.starts_with(expected), "{errors}\nwanted: {expected}");
    };
    says(
        &["apply"],
        2,
        "sidelane apply: what to apply is missing: sidelane apply --file rules.yaml\n",
    );
    says(
        &["apply", "-f", "none.yaml"],
        1,
        "sidelane apply: cannot read none.yaml: there is no such file",
    );
    std::fs::write(folder.path().join("rules.txt"), "").unwrap();
    says(
        &["apply", "-f", "rules.txt"],
        1,
        "sidelane apply: rules.txt is neither .yaml (or .yml), rules that are written by hand, nor \
         .binpb",
    );
    std::fs::write(folder.path().join("empty.yaml"), "# nothing\n").unwrap();
    says(
        &["apply", "-f", "empty.yaml"],
        1,
        "sidelane apply: there is no rule in empty.yaml; this is how they look:\n\nclasses:",
    );
    std::fs::write(folder.path().join("rules.binpb"), "no descriptors").unwrap();
    says(
        &["apply", "-f", "rules.binpb"],
        1,
        "sidelane apply: the rules cannot be taken as they are:\nrules.binpb: this is no complete \
         descriptor set",
    );
    says(
        &["check", "new.binpb"],
        2,
        "sidelane check: what to compare it with is missing: sidelane check --against OLD.binpb \
         NEW.binpb",
    );
    says(
        &["check", "--against", "old.binpb"],
        2,
        "sidelane check: what is new is missing",
    );
    says(
        &[
            "check",
            "--against",
            "a.binpb",
            "b.binpb",
            "--control",
            "127.0.0.1:1",
        ],
        2,
        "sidelane check: --control is of no use here: with --against two files are compared",
    );
}

/// Compiles a file of protos as `buf build -o` does.
fn descriptors(folder: &Path, name: &str, body: &str) -> PathBuf {
    let protos = folder.join(format!("{name}-protos"));
    std::fs::create_dir_all(protos.join("sidelane/routing/v1")).unwrap();
    let routing = sidelane_proto::ROUTING_PROTO;
    std::fs::write(protos.join("sidelane/routing/v1/routing.proto"), routing).unwrap();
    let head = "syntax = \"proto3\";\npackage shop.v1;\nimport \
                \"sidelane/routing/v1/routing.proto\";\nmessage M { string id = 1; }\n";
    std::fs::write(protos.join("shop.proto"), format!("{head}{body}")).unwrap();
    let mut compiler = protox::Compiler::new([&protos]).unwrap();
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file("shop.proto").unwrap();
    let path = folder.join(format!("{name}.binpb"));
    std::fs::write(&path, compiler.encode_file_descriptor_set()).unwrap();
    path
}

const ORDERS: &str = r#"
service Orders {
  option (sidelane.routing.v1.service) = { connection: INTERNAL lane: "general" };
  rpc Get(M) returns (M) { option (sidelane.routing.v1.method) = { idempotent: true }; }
  rpc Put(M) returns (M);
}
service Plain { rpc Get(M) returns (M); }
"#;

#[test]
fn rules_of_a_descriptor_set_are_applied_with_the_line_of_the_proto() {
    let mesh = Mesh::start();
    let folder = mesh.folder.path();
    descriptors(folder, "rules", ORDERS);
    mesh.answer(&["apply", "-f", "rules.binpb"]);
    let rules = mesh.json(&["rules"]);
    let rule = &rules["rules"][0];
    assert_eq!(rules["rules"].as_array().unwrap().len(), 1);
    assert_eq!(rule["service"], "shop.v1.Orders");
    assert_eq!(rule["methods"][0]["idempotent"], true);
    assert_eq!(rule["methods"].as_array().unwrap().len(), 2);
    let origin = rule["origin"].as_str().unwrap().to_owned();
    assert!(origin.starts_with("shop.proto:"), "{origin}");

    let again = mesh.json(&["apply", "-f", "rules.binpb"]);
    assert_eq!(again["rules"][0]["change"], "unchanged");

    mesh.write("lanes.yaml", RULES);
    mesh.answer(&["apply", "-f", "lanes.yaml"]);
    let lane = "option (sidelane.routing.v1.lane) = { id: 20 name: \"bulk\" connections: INTERNAL \
                window: 65536 max_streams: 8 };\nservice Cart { option \
                (sidelane.routing.v1.service) = { connection: INTERNAL lane: \"bulk\" };\n  rpc \
                Get(M) returns (M); }\n";
    descriptors(folder, "lane", lane);
    assert_eq!(
        mesh.refused(&["apply", "-f", "lane.binpb"]),
        "sidelane apply: nothing was applied:\nshop.proto:6: shop.v1.Cart: lane_definition.id 20 is \
         taken by lane `telemetry` of the applied rule of `shop.v1.Orders`; take another id\n"
    );
}

#[test]
fn changes_that_break_are_told_with_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let old = descriptors(folder, "old", ORDERS);
    let check = |new: &Path| {
        let [old, new] = [&old, new].map(|path| path.file_name().unwrap().to_str().unwrap());
        outcome(sidelane(&["check", "--against", old, new]).current_dir(folder))
    };
    let better = ORDERS.replace(
        "rpc Put(M) returns (M);",
        "rpc Put(M) returns (M); rpc New(M) returns (M);",
    );
    let (code, text, errors) = check(&descriptors(folder, "better", &better));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(
        text,
        "better.binpb breaks nothing of old.binpb: 2 services compared\n"
    );

    let broken = |name: &str, change: fn(&str) -> String, expected: &[&str]| {
        let (code, text, errors) = check(&descriptors(folder, name, &change(ORDERS)));
        assert_eq!((code, text.as_str()), (1, ""), "{errors}");
        let lines: Vec<&str> = errors.lines().collect();
        assert!(lines[0].starts_with("sidelane check: "), "{errors}");
        assert!(
            lines[0].ends_with(" would break a mesh that runs by old.binpb:"),
            "{errors}"
        );
        assert_eq!(lines.len(), 1 + expected.len(), "{errors}");
        for (line, expected) in lines[1..].iter().zip(expected) {
            assert!(line.contains(expected), "{line}\nwanted: {expected}");
            let here = line.starts_with("shop.proto:") || line.starts_with(name);
            assert!(here && line.contains("(before: shop.proto:"), "{line}");
            assert!(line.ends_with(" in old.binpb)"), "{line}");
        }
    };
    broken(
        "lane",
        |text| text.replace("\"general\"", "\"gossip\""),
        &["shop.v1.Orders moves from lane general to gossip"],
    );
    broken(
        "class",
        |text| text.replace("INTERNAL", "EXTERNAL"),
        &["shop.v1.Orders moves from class Internal to External"],
    );
    broken(
        "secure",
        |text| text.replace("lane: \"general\"", "lane: \"general\" secure: true"),
        &["shop.v1.Orders becomes secure"],
    );
    broken(
        "idempotent",
        |text| text.replace("idempotent: true", "timeout: \"1s\""),
        &["shop.v1.Orders has `Get` no more as idempotent"],
    );
    broken(
        "method",
        |text| text.replace("rpc Put(M) returns (M);", ""),
        &["shop.v1.Orders has no method `Put` any more"],
    );
    broken(
        "gone",
        |text| text.replace("service Plain { rpc Get(M) returns (M); }", ""),
        &["shop.v1.Plain is gone"],
    );
    broken(
        "bare",
        |_| "service Orders { rpc Get(M) returns (M); rpc Put(M) returns (M); }".to_owned(),
        &[
            "shop.v1.Orders has no rule any more",
            "shop.v1.Plain is gone",
        ],
    );
    let lanes = |window: u32| {
        format!(
            "option (sidelane.routing.v1.lane) = {{ id: 20 name: \"bulk\" connections: INTERNAL \
             window: {window} max_streams: 8 }};\n{ORDERS}"
        )
    };
    let old = descriptors(folder, "lanes", &lanes(65_536));
    let new = descriptors(folder, "wider", &lanes(131_072));
    let (code, text, _) = outcome(&mut sidelane(&[
        "check",
        "--against",
        old.to_str().unwrap(),
        new.to_str().unwrap(),
        "-o",
        "json",
    ]));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, json["breaks"].as_array().unwrap().len()), (1, 1));
    let found = &json["breaks"][0];
    assert_eq!(
        (&found["subject"], &found["kind"]),
        (&"bulk".into(), &"LANE_REDEFINED".into())
    );
    assert_eq!(
        (&found["old"], &found["new"]),
        (&"shop.proto:5".into(), &"shop.proto:5".into())
    );
}

#[test]
fn a_mesh_whose_nodes_agree_is_said_to() {
    let mesh = Mesh::start();
    let (_running, _app, _) = mesh.sidecar("worker-1", "sidelane.predefined.v1.Worker");
    let said = mesh.answer(&["check"]);
    assert_eq!(
        said,
        "nothing is broken (looked at: nodes 1, services 1, sidecars 0)\n"
    );
    for list in ["disagreements", "findings"] {
        assert_eq!(mesh.json(&["check"])[list], Value::Array(Vec::new()));
    }
}

/// Two nodes as two builds would say hello.
#[tokio::test]
async fn nodes_that_disagree_are_told_with_node_and_origin() {
    let mesh = Mesh::start();
    let mut streams = Vec::new();
    for (node, secure, origin) in [
        ("orders-1", false, "old.proto:3"),
        ("orders-2", true, "new.proto:5"),
    ] {
        let rule = routing::Rule {
            service: "shop.v1.Orders".to_owned(),
            connection: routing::Connection::Internal.into(),
            lane: "general".to_owned(),
            secure,
            origin: origin.to_owned(),
            ..routing::Rule::default()
        };
        let hello = wire::Hello {
            node_id: node.to_owned(),
            generation: 1,
            instance_id: node.to_owned(),
            protocol: Some(wire::VersionRange {
                oldest: 1,
                newest: 1,
            }),
            network: "default".to_owned(),
            addresses: Some(wire::Addresses {
                internal: format!("127.0.0.1:{}", streams.len() + 1),
                ..wire::Addresses::default()
            }),
            offers: vec![wire::Offer {
                service: rule.service.clone(),
                health: wire::Health::Healthy.into(),
                rule: Some(rule),
                ..wire::Offer::default()
            }],
            ..wire::Hello::default()
        };
        let hello = wire::SyncRequest {
            message: Some(wire::sync_request::Message::Hello(hello)),
        };
        let said = tokio_stream::iter([hello]).chain(tokio_stream::pending());
        let channel = Channel::from_shared(format!("http://{}", mesh.control)).unwrap();
        let mut client = MembershipClient::new(channel.connect().await.unwrap());
        let mut heard = client.sync(said).await.unwrap().into_inner();
        let welcome = heard.message().await.unwrap().unwrap().message.unwrap();
        assert!(
            matches!(welcome, wire::sync_response::Message::Welcome(_)),
            "{welcome:?}"
        );
        streams.push(heard);
    }
    // These two acknowledge nothing, and so they are found to be behind, too.
    let said = mesh.refused(&["check"]);
    assert_eq!(
        said.lines().last().unwrap(),
        "shop.v1.Orders: nodes were compiled with rules that differ, and \
         refuse each other's calls with RULES_MISMATCH: Internal general not secure (old.proto:3) on \
         orders-1; Internal general secure (new.proto:5) on orders-2: build all from the same .proto, or \
         push one rule for all with `sidelane apply`"
    );
    let (code, text, _) = mesh.run(&["check", "-o", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &json["disagreements"][0]["sides"][1]["nodes"][0]),
        (1, &"orders-2".into())
    );
    drop(streams);
}
