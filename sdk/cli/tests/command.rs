//! The command as people and scripts meet it: what it prints, where, and with which exit code.
//! Nothing of a mesh runs here; what answers is made up, or is not there.

#![allow(
    clippy::unwrap_used,
    reason = "what surrounds a test may fail it like the test itself"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

/// Runs `sidelane` without the variables of a sidecar that may run beside the tests.
fn sidelane(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane"));
    command.args(arguments);
    for name in ["SIDELANE_CONTROL", "SIDELANE_SIDECAR", "SIDELANE_TARGET"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

/// The exit code, and what was written to standard output and to standard error.
fn outcome(arguments: &[&str]) -> (i32, String, String) {
    let output = sidelane(arguments);
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A failure: nothing on standard output, and this on standard error.
#[track_caller]
fn refused(arguments: &[&str], code: i32, message: &str) {
    let found = outcome(arguments);
    assert_eq!(found, (code, String::new(), format!("{message}\n")));
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// What the operating system says of such an address.
fn why_nobody(address: SocketAddr) -> String {
    format!("({})", TcpStream::connect(address).unwrap_err())
}

/// Answers every HTTP request with this status line and body, and hands back the requests' first
/// lines with each answer's end.
fn answering(status: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            let line = String::from_utf8_lossy(&request[..read]);
            let line = line.lines().next().unwrap_or_default().to_owned();
            let body = body.replace("REQUEST", &line);
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn help_names_every_command() {
    let (code, text, errors) = outcome(&["help"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for command in [
        "control", "sidecar", "nodes", "services", "routes", "lanes", "top", "tap", "apply",
        "rules", "check", "explain", "wait", "redirect", "pause", "demo", "version", "help",
    ] {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(command));
        assert!(line.is_some(), "{command} is not in\n{text}");
    }
    // Hidden commands are for the demo's own processes.
    assert!(!text.contains("demo-"), "{text}");
    for same in [&["--help"][..], &["-h"], &[]] {
        assert_eq!(outcome(same).1, text);
    }
}

#[test]
fn help_of_a_command_is_its_own_help() {
    for command in [
        "nodes", "services", "routes", "lanes", "top", "tap", "version", "apply", "rules", "check",
        "explain", "wait", "redirect", "pause", "demo",
    ] {
        let (code, text, _) = outcome(&["help", command]);
        assert_eq!(code, 0);
        assert!(
            text.contains(&format!("Usage: sidelane {command}")),
            "{text}"
        );
        assert_eq!(outcome(&[command, "--help"]).1, text);
    }
}

#[test]
fn the_version_is_one_line() {
    let expected = format!("sidelane {}\n", env!("CARGO_PKG_VERSION"));
    for spelling in ["version", "--version"] {
        assert_eq!(outcome(&[spelling]), (0, expected.clone(), String::new()));
    }
}

#[test]
fn the_version_is_told_whoever_does_not_answer() {
    let nobody = nobody().to_string();
    let (code, text, errors) = outcome(&["version", "--control", &nobody]);
    assert_eq!(code, 1);
    assert_eq!(text, format!("sidelane {}\n", env!("CARGO_PKG_VERSION")));
    assert!(errors.contains("no control plane answers"), "{errors}");
    let (code, text, _) = outcome(&["version", "--sidecar", &nobody, "-o", "json"]);
    assert_eq!(code, 1);
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told["sidecars"], serde_json::json!([]));
}

#[test]
fn an_unknown_command_names_the_nearest() {
    refused(
        &["serivces"],
        2,
        "sidelane: there is no command \"serivces\"; the nearest known one is `services` \
         (`sidelane help` lists all)",
    );
    refused(
        &["help", "nodse"],
        2,
        "sidelane: there is no command \"nodse\"; the nearest known one is `nodes` (`sidelane \
         help` lists all)",
    );
}

#[test]
fn an_unknown_flag_names_the_nearest() {
    refused(
        &["nodes", "--contol", "127.0.0.1:15010"],
        2,
        "sidelane nodes: unknown flag --contol; the nearest known flag is --control (--help lists \
         all)",
    );
    refused(
        &["demo", "--kep"],
        2,
        "sidelane demo: unknown flag --kep; the nearest known flag is --keep (--help lists all)",
    );
}

#[test]
fn values_are_checked_before_anybody_is_asked() {
    refused(
        &["services", "-o", "jsno"],
        2,
        "sidelane services: --output \"jsno\" (command line): must be one of table, json; the \
         nearest is json",
    );
    refused(
        &["nodes", "--control", "127.0.0.1"],
        2,
        "sidelane nodes: --control \"127.0.0.1\" (command line): has no port; write 127.0.0.1:PORT",
    );
    refused(
        &["nodes", "--control", "auto"],
        2,
        "sidelane nodes: --control \"auto\" (command line): control is not looked for in the \
         network here; write its HOST:PORT",
    );
    refused(
        &["wait", "--timeout", "5"],
        2,
        "sidelane wait: --timeout \"5\" (command line): has no unit; write 5s for seconds or 5ms \
         for milliseconds",
    );
    refused(
        &["wait", "--for", "outbond"],
        2,
        "sidelane wait: --for \"outbond\" (command line): must be one of outbound, inbound, all; \
         the nearest is outbound",
    );
    refused(
        &["explain"],
        2,
        "sidelane explain: the path of a call is missing: sidelane explain /shop.v1.Orders/Get",
    );
}

#[test]
fn a_wait_is_for_one_thing() {
    refused(
        &["wait", "--revision", "3", "--for", "all"],
        2,
        "sidelane wait: --for is of no use here: with --revision control is asked, about all \
         sidecars",
    );
    refused(
        &["wait", "--control", "127.0.0.1:1"],
        2,
        "sidelane wait: --control is of no use here: without --revision a sidecar is waited for, \
         and control is not asked",
    );
}

#[test]
fn ports_that_would_lead_nowhere_are_refused_before_a_rule_is_made() {
    refused(
        &["redirect"],
        2,
        "sidelane redirect: which ports to redirect is missing: sidelane redirect --ports \
         50051,50052 (or --remove)",
    );
    refused(
        &["redirect", "--ports", "50051,0"],
        2,
        "sidelane redirect: --ports \"0\" (command line): is no port; write a number from 1 to 65535",
    );
    refused(
        &["redirect", "--ports", "15006"],
        2,
        "sidelane redirect: --ports \"15006\" (command line): is a port of sidecars or control, \
         whose own connections it would take; if theirs are others here, say so with --own-ports",
    );
    refused(
        &["redirect", "--remove", "--ports", "50051"],
        2,
        "sidelane redirect: --ports is of no use here: --remove takes out whatever was installed",
    );
}

#[test]
fn rules_are_shown_without_a_right_and_without_iptables() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane"));
    let arguments = ["redirect", "--ports", "50051", "--to", "7001", "--dry-run"];
    // Nothing is run: there is nowhere to find it.
    let output = command.args(arguments).env("PATH", "").output().unwrap();
    let rules = |program: &str, loopback: &str| {
        format!(
            "# {program} --noflush\n*nat\n:SIDELANE_REDIRECT - [0:0]\n\
             -A SIDELANE_REDIRECT -m mark --mark 0x51de -j RETURN\n\
             -A SIDELANE_REDIRECT -d {loopback} -j RETURN\n\
             -A SIDELANE_REDIRECT -p tcp -m tcp --dport 50051 -j REDIRECT --to-ports 7001\n\
             -I OUTPUT 1 -p tcp -j SIDELANE_REDIRECT\nCOMMIT\n"
        )
    };
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        rules("iptables-restore", "127.0.0.0/8") + &rules("ip6tables-restore", "::1/128")
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane"));
    let command = command.args(arguments).args(["-o", "json"]);
    let output = command.env("PATH", "").output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let families = told["families"].as_array().unwrap();
    assert_eq!(families.len(), 2, "{told:#}");
    for (family, (name, program, loopback)) in families.iter().zip([
        ("IPv4", "iptables-restore", "127.0.0.0/8"),
        ("IPv6", "ip6tables-restore", "::1/128"),
    ]) {
        assert_eq!(family["family"], name);
        let [argument] = family["arguments"].as_array().unwrap().as_slice() else {
            panic!("{told:#}");
        };
        let (program_told, argument) = (&family["program"], argument.as_str().unwrap());
        assert_eq!(program_told, program);
        let text = family["rules"].as_str().unwrap();
        assert_eq!(
            format!("# {program} {argument}\n{text}"),
            rules(program, loopback)
        );
    }
}

#[test]
fn an_unreachable_control_is_told_with_how_to_start_one() {
    let (first, second) = (nobody(), nobody());
    let why = why_nobody(first);
    for command in ["nodes", "services", "rules", "check"] {
        refused(
            &[command, "--control", &first.to_string()],
            1,
            &format!(
                "sidelane {command}: no control plane answers at {first} {why}; start one with \
                 `sidelane control --listen {first}`, or say where it is with --control HOST:PORT"
            ),
        );
    }
    refused(
        &[
            "wait",
            "--revision",
            "0",
            "--control",
            &format!("{first},{second}"),
        ],
        1,
        &format!(
            "sidelane wait: no control plane answers at {first} {why}, nor at {second} {why}; \
             start one with `sidelane control --listen {first}`, or say where it is with \
             --control HOST:PORT"
        ),
    );
}

#[test]
fn an_unreachable_sidecar_is_told_with_how_to_start_one() {
    let address = nobody();
    let why = why_nobody(address);
    // A scheme is not needed.
    for sidecar in [format!("http://{address}"), address.to_string()] {
        refused(
            &["explain", "/a.B/C", "--sidecar", &sidecar],
            1,
            &format!(
                "sidelane explain: no sidecar answers at http://{address} {why}; start one with \
                 `sidelane sidecar --admin {address}`, or say where it is with --sidecar URL"
            ),
        );
    }
    let sidecar = format!("http://{address}/");
    refused(
        &["wait", "--timeout", "50ms", "--sidecar", &sidecar],
        1,
        &format!(
            "sidelane wait: http://{address}/readyz was not ready within 50 ms: no sidecar answers \
             at http://{address} {why}; start one with `sidelane sidecar --admin {address}`, or \
             say where it is with --sidecar URL"
        ),
    );
}

#[test]
fn a_page_that_explains_nothing_is_told() {
    let address = answering("404 Not Found", "no such page");
    refused(
        &["explain", "/a.B/C", "--sidecar", &address.to_string()],
        1,
        &format!(
            "sidelane explain: http://{address}/explain?path=/a.B/C answered 404 Not Found, which \
             is no explanation: no such page; is this a sidecar's --admin address?"
        ),
    );
}

#[test]
fn explain_asks_with_the_headers_that_a_call_would_have() {
    let body = r#"{"path": "REQUEST", "pick": "n-1", "error": ""}"#;
    let address = answering("200 OK", body).to_string();
    let arguments = [
        "explain", "/a.B/C", "--node", "n 1", "--lane", "gossip", "--hash", "k&k",
    ];
    let asked = "GET /explain?path=/a.B/C&node=n%201&lane=gossip&hash=k%26k HTTP/1.1";
    let (code, text, _) = outcome(&[&arguments[..], &["--sidecar", &address]].concat());
    assert_eq!((code, text.lines().next()), (0, Some(asked)));
    let (_, json, _) = outcome(&[&arguments[..], &["--sidecar", &address, "-o", "json"]].concat());
    assert!(json.contains(r#""pick": "n-1""#), "{json}");
}

#[test]
fn a_call_that_would_be_refused_is_exit_code_1() {
    let body = r#"{"path": "/a.B/C", "error": "NO_ENDPOINT", "message": "nobody is healthy"}"#;
    let address = answering("200 OK", body).to_string();
    let (code, text, _) = outcome(&["explain", "/a.B/C", "--sidecar", &address]);
    assert_eq!(code, 1);
    assert!(
        text.ends_with("refused     NO_ENDPOINT: nobody is healthy\n"),
        "{text}"
    );
}

#[test]
fn wait_says_the_last_reason_or_that_all_is_well() {
    let address = answering("503 Service Unavailable", "outbound: no snapshot yet\n");
    refused(
        &[
            "wait",
            "--for",
            "outbound",
            "--timeout",
            "50ms",
            "--sidecar",
            &address.to_string(),
        ],
        1,
        &format!(
            "sidelane wait: http://{address}/readyz?for=outbound was not ready within 50 ms: it \
             answered 503 Service Unavailable: outbound: no snapshot yet"
        ),
    );
    let address = answering("200 OK", "ready\n");
    let (code, text, errors) = outcome(&["wait", "--sidecar", &address.to_string()]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let said = format!("http://{address}/readyz is ready after ");
    assert!(text.starts_with(&said), "{text}");
}
