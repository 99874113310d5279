//! The commands against a real control plane and a real sidecar, each started by the same binary.

#![allow(
    clippy::unwrap_used,
    reason = "what surrounds a test may fail it like the test itself"
)]

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

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
    // Where control leaves its join file, and everybody else looks for it.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    sidelane(arguments).output().unwrap()
}

/// What a command prints when it does what it is for.
#[track_caller]
fn answer(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let text = answer(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap()
}

/// An address where nobody listens yet.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Who cannot show control's join file looks at sidecars alone, and is told that this is so: it says
/// nothing bad of a mesh that works.
#[track_caller]
fn control_answers_to_its_user_alone(control: &str, sidecar: &str, elsewhere: &Path) {
    let check = |sidecar: &str, more: &[&str]| {
        let mut command = sidelane(&["check", "--control", control, "--sidecar", sidecar]);
        let command = command.args(more).env("XDG_RUNTIME_DIR", elsewhere);
        command.output().unwrap()
    };
    let looked = check(sidecar, &[]);
    let said = String::from_utf8_lossy(&looked.stdout);
    assert_eq!(looked.status.code(), Some(0), "{said}");
    assert!(
        said.starts_with(
            "warning: control: it was not looked at, and is there, as its sidecars say"
        ),
        "{said}"
    );
    assert!(said.contains("run this where control runs"), "{said}");
    let told: Value = serde_json::from_slice(&check(sidecar, &["-o", "json"]).stdout).unwrap();
    let finding = &told["findings"][0];
    assert_eq!(finding["kind"], "control_not_asked", "{told:#}");
    assert_eq!(finding["weight"], "warning");
    // Where no sidecar says that it is there, that is what is wrong.
    let nobody = check(&free().to_string(), &["-o", "json"]);
    assert_eq!(nobody.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&nobody.stdout).unwrap();
    let kinds = told["findings"].as_array().unwrap().iter();
    let kinds: Vec<_> = kinds.map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["control_unreachable", "sidecar_unreachable"]);
}

#[test]
fn the_commands_tell_what_a_mesh_knows() {
    let folder = tempfile::tempdir().unwrap();
    let data = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [control, control_admin, outbound, internal, admin] = [(); 5].map(|()| free().to_string());
    // Something that accepts connections is all that the sidecar looks for beside it.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let serve = format!("test.v1.Thing={}", service.local_addr().unwrap());

    let _sidecar = Running::start(&[
        "sidecar",
        "--node",
        "thing-1",
        "--control",
        &control,
        "--serve",
        &serve,
        "--outbound",
        &outbound,
        "--internal",
        &internal,
        "--admin",
        &admin,
        "--data",
        &data("thing-1"),
    ]);
    // Without control there is no certificate, and the sidecar says what it waits for.
    let sidecar = format!("http://{admin}");
    let waited = run(&["wait", "--timeout", "2s", "--sidecar", &sidecar]);
    assert_eq!(waited.status.code(), Some(1));
    let why = String::from_utf8(waited.stderr).unwrap();
    assert!(
        why.contains("/readyz was not ready within 2 s: it answered 503"),
        "{why}"
    );
    let waited = run(&[
        "wait",
        "--timeout",
        "200ms",
        "--sidecar",
        &sidecar,
        "-o",
        "json",
    ]);
    assert_eq!(waited.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&waited.stdout).unwrap();
    let page = format!("{sidecar}/readyz");
    assert_eq!(
        (&told["ready"], &told["url"]),
        (&false.into(), &(*page).into())
    );
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.starts_with("it answered 503"), "{reason}");

    let _control = Running::start(&[
        "control",
        "--listen",
        &control,
        "--admin",
        &control_admin,
        "--data",
        &data("control"),
    ]);
    let ready = answer(&["wait", "--sidecar", &sidecar]);
    assert!(
        ready.starts_with(&format!("{sidecar}/readyz is ready")),
        "{ready}"
    );
    let revision = answer(&["wait", "--revision", "0", "--control", &control]);
    assert!(
        revision.starts_with("every connected sidecar has revision "),
        "{revision}"
    );

    let told = json(&["wait", "--sidecar", &sidecar]);
    assert_eq!(
        (&told["ready"], &told["url"]),
        (&true.into(), &(*page).into())
    );
    assert!(told["waited_ms"].as_u64().unwrap() < 30_000, "{told:#}");
    let told = json(&["wait", "--revision", "0", "--control", &control]);
    assert_eq!(
        (&told["reached"], &told["laggards"]),
        (&true.into(), &Vec::<Value>::new().into())
    );
    let newest = told["revision"].as_u64().unwrap();
    assert!(newest > 0, "{told:#}");

    control_answers_to_its_user_alone(&control, &sidecar, folder.path());

    let nodes = json(&["nodes", "--control", &control]);
    let node = &nodes["nodes"][0];
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "{nodes:#}");
    assert_eq!(
        (&node["node_id"], &node["health"]),
        (&"thing-1".into(), &"HEALTHY".into())
    );
    assert_eq!(node["addresses"]["internal"], *internal);
    assert_eq!(node["services"][0], "test.v1.Thing");
    let table = answer(&["nodes", "--control", &control]);
    assert!(
        table.contains("thing-1") && table.contains("open"),
        "{table}"
    );

    let services = json(&["services", "--control", &control]);
    let endpoint = &services["services"][0]["endpoints"][0];
    assert_eq!(
        services["services"][0]["service"], "test.v1.Thing",
        "{services:#}"
    );
    assert_eq!(endpoint["addresses"]["internal"], *internal);
    let other = json(&["services", "--control", &control, "--network", "elsewhere"]);
    assert_eq!(other["services"].as_array().unwrap().len(), 0, "{other:#}");

    let path = "/test.v1.Thing/Get";
    let explained = json(&["explain", path, "--sidecar", &sidecar]);
    assert_eq!(explained["pick"], "thing-1", "{explained:#}");
    let refused = run(&["explain", "/test.v1.Nothing/Get", "--sidecar", &sidecar]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(
        text.contains("\nrefused     UNKNOWN_SERVICE: test.v1.Nothing"),
        "{text}"
    );
    let elsewhere = run(&["explain", path, "--node", "thing-2", "--sidecar", &sidecar]);
    let text = String::from_utf8(elsewhere.stdout).unwrap();
    assert!(text.contains("\nrefused     UNKNOWN_NODE: "), "{text}");

    let never = "999999999999";
    let behind = run(&[
        "wait",
        "--revision",
        never,
        "--control",
        &control,
        "--timeout",
        "100ms",
        "-o",
        "json",
    ]);
    let told: Value = serde_json::from_slice(&behind.stdout).unwrap();
    assert_eq!(
        (&told["reached"], &told["revision"]),
        (&false.into(), &999_999_999_999_u64.into())
    );
    assert!(told["newest"].as_u64().unwrap() >= newest, "{told:#}");
    assert_eq!(behind.status.code(), Some(1));
    let why = String::from_utf8(behind.stderr).unwrap();
    let said = "sidelane wait: control did not come to revision 999999999999 within 100 ms: its \
                newest is ";
    assert!(why.starts_with(said), "{why}");
}

#[test]
fn what_commands_of_trust_have_done_is_told_to_programs() {
    let folder = tempfile::tempdir().unwrap();
    let (_control, control) = control_in(folder.path());
    let json = |arguments: &[&str]| json(&[arguments, &["--control", &control]].concat());

    let made = json(&["token", "--node", "orders-1", "--ttl", "5m"]);
    let token = &made["tokens"][0];
    assert_eq!(made["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(token["node_id"], "orders-1");
    let identity = token["identity"].as_str().unwrap();
    assert!(
        identity.starts_with("spiffe://") && identity.ends_with("/sa/orders-1"),
        "{identity}"
    );
    let ends = UNIX_EPOCH + Duration::from_secs(token["expires_unix_s"].as_u64().unwrap());
    let left = ends.duration_since(SystemTime::now()).unwrap();
    assert!(
        left < Duration::from_secs(302) && left > Duration::from_secs(200),
        "{left:?}"
    );
    assert!(token["token"].as_str().unwrap().len() > 20 && token.get("file").is_none());
    // What goes into files is told by where it is alone.
    let into = folder.path().join("tokens");
    let path = into.to_str().unwrap();
    let made = json(&["token", "--node", "orders-2,orders-3", "--into", path]);
    for (place, node) in ["orders-2", "orders-3"].iter().enumerate() {
        let token = &made["tokens"][place];
        assert_eq!(token["node_id"], **node);
        let file = into.join(format!("{node}.token"));
        assert_eq!(token["file"], file.to_str().unwrap());
        assert!(file.metadata().unwrap().len() > 20 && token.get("token").is_none());
    }

    let revoked = json(&["revoke", "--node", "orders-1"]);
    assert_eq!(
        (&revoked["node_id"], &revoked["revoked"]),
        (&"orders-1".into(), &true.into())
    );
    let back = json(&["revoke", "--node", "orders-1", "--undo"]);
    assert_eq!(
        (&back["node_id"], &back["revoked"]),
        (&"orders-1".into(), &false.into())
    );
    let revision = |told: &Value| told["revision"].as_u64().unwrap();
    assert!(revision(&back) > revision(&revoked));
    let revoked = json(&["revoke", "--identity", identity]);
    assert_eq!(revoked["identity"], identity);
    let serial = "0a1b".repeat(8);
    let revoked = json(&["revoke", "--serial", &serial]);
    assert_eq!(revoked["serial"], *serial);

    let before = json(&["root", "show"]);
    let pem = |told: &Value| {
        let roots = told["roots"].as_array().unwrap().iter();
        roots
            .map(|root| root["pem"].as_str().unwrap())
            .collect::<String>()
    };
    assert_eq!(
        pem(&before),
        answer(&["root", "show", "--control", &control])
    );
    let rotated = json(&["root", "rotate"]);
    assert_eq!(rotated["fingerprint"].as_str().unwrap().len(), 64);
    assert!(revision(&rotated) > 0, "{rotated:#}");
    let after = json(&["root", "show"]);
    let roots = |told: &Value| told["roots"].as_array().unwrap().len();
    assert_eq!((roots(&before), roots(&after)), (1, 2));
    assert!(pem(&after).contains(&pem(&before)), "{after:#}");
}

#[test]
fn the_programs_get_their_arguments_untouched() {
    let output = run(&["sidecar", "--outbond", "127.0.0.1:1"]);
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        why.contains("unknown flag --outbond; the nearest known flag is --outbound"),
        "{why}"
    );
    let output = run(&["control", "--lisen", "127.0.0.1:1"]);
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        why.contains("unknown flag --lisen; the nearest known flag is --listen"),
        "{why}"
    );
    for program in ["sidecar", "control"] {
        let help = answer(&["help", program]);
        assert!(help.contains(&format!("sidelane-{program}")), "{help}");
    }
}

/// A control plane that answers, with its data in `folder`.
fn control_in(folder: &std::path::Path) -> (Running, String) {
    let [address, admin] = [(); 2].map(|()| free().to_string());
    let data = folder.join("control").display().to_string();
    let control = Running::start(&[
        "control", "--listen", &address, "--admin", &admin, "--data", &data,
    ]);
    until("control answers", || {
        run(&["nodes", "--control", &address]).status.success()
    });
    (control, address)
}

#[track_caller]
fn until(wanted: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "not within 30 s: {wanted}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn tokens_go_into_files_of_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_control, control) = control_in(folder.path());
    let into = folder.path().join("tokens");
    let (nodes, path) = ("orders-1,orders-2", into.to_str().unwrap());

    let made = run(&[
        "token",
        "--node",
        nodes,
        "--into",
        path,
        "--control",
        &control,
    ]);
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(made.status.success() && made.stdout.is_empty(), "{said}");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&into), 0o700);
    let tokens = ["orders-1", "orders-2"].map(|node| {
        assert!(said.contains(&format!("node {node} becomes")), "{said}");
        let file = into.join(format!("{node}.token"));
        assert_eq!(mode(&file), 0o600);
        std::fs::read_to_string(file).unwrap()
    });
    assert_ne!(tokens[0], tokens[1]);
    assert!(tokens.iter().all(|token| !said.contains(token.trim())));

    // Each is of use: a token for one node alone, on standard output, is as long.
    let one = answer(&["token", "--node", "orders-3", "--control", &control]);
    assert_eq!(one.lines().count(), 1);

    // Several have no place but a folder, which others may not read.
    let nowhere = run(&["token", "--node", nodes, "--control", &control]);
    assert_eq!(nowhere.status.code(), Some(2));
    let why = String::from_utf8(nowhere.stderr).unwrap();
    assert!(why.contains("where several tokens go, --into,"), "{why}");
    std::fs::set_permissions(&into, std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = run(&[
        "token",
        "--node",
        nodes,
        "--into",
        path,
        "--control",
        &control,
    ]);
    assert_eq!(open.status.code(), Some(1));
    let why = String::from_utf8(open.stderr).unwrap();
    assert!(why.contains("is not this user's alone"), "{why}");
}

#[test]
fn apps_of_the_shop_run_alone_and_visit_each_other_through_the_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let (_control, control) = control_in(folder.path());
    let [app, outbound, internal, admin] = [(); 4].map(|()| free().to_string());
    let _app = Running::start(&["demo", "app", "--node", "shop-1", "--listen", &app]);
    let serve = format!("shop.v1.Orders,shop.v1.Inventory,shop.v1.OrderLog={app}");
    let data = folder.path().join("shop-1").display().to_string();
    let _sidecar = Running::start(&[
        "sidecar",
        "--node",
        "shop-1",
        "--control",
        &control,
        "--serve",
        &serve,
        "--outbound",
        &outbound,
        "--internal",
        &internal,
        "--admin",
        &admin,
        "--data",
        &data,
    ]);
    answer(&["wait", "--sidecar", &format!("http://{admin}")]);

    let log = folder.path().join("storefront.log");
    let mut storefront = sidelane(&["demo", "app", "--node", "storefront", "--calls", "50"])
        .env("SIDELANE_TARGET", format!("http://{outbound}"))
        .stderr(File::create(&log).unwrap())
        .spawn()
        .map(Running)
        .unwrap();
    let top = || {
        let rows = json(&[
            "top",
            "--sidecar",
            &format!("http://{admin}"),
            "--interval",
            "1s",
        ]);
        rows.to_string()
    };
    until("each service is visited", || {
        let seen = top();
        ["shop.v1.Orders", "shop.v1.Inventory", "shop.v1.OrderLog"]
            .iter()
            .all(|service| seen.contains(service))
    });
    let id = rustix::process::Pid::from_child(&storefront.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(storefront.0.wait().unwrap().success());
    let log = std::fs::read_to_string(log).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["message"], "the storefront is closed", "{log}");
    assert!(last["held"].as_u64().unwrap() > 0, "{log}");
    assert_eq!(last["failed"], 0, "{log}");
}

#[test]
fn an_app_that_is_told_nothing_or_too_much_is_not_started() {
    for (arguments, why) in [
        (
            &[][..],
            "what the app does, --listen or --calls, is missing",
        ),
        (
            &["--listen", "127.0.0.1:0", "--calls", "1"],
            "--listen is of no use here: an app with --calls serves nothing",
        ),
        (
            &["--calls", "0"],
            "a number of calls a second from 1 to 1000",
        ),
        (&["--calls", "1", "--otlp", "nowhere"], "--otlp"),
    ] {
        let ended = run(&[&["demo", "app", "--node", "a"], arguments].concat());
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
