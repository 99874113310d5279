//! `sidelane redirect`, with real rules in the kernel. Each test runs once more in a network
//! namespace of its own, a whole machine as far as the network goes, so that nobody else's
//! connections are touched.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::future::Future;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use sidelane_sidecar::SOCKET_MARK;
use sidelane_tests::ask::ask_over;
use sidelane_tests::client::{self, RawAnswer, RawClient, mesh_reason};
use sidelane_tests::netns::Namespace;
use sidelane_tests::run::{Ended, Run};
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tokio::task::spawn_blocking;
use tonic::Code;

/// Set for the run inside.
const INSIDE: &str = "REDIRECT_TEST_INSIDE";
/// What takes longer than this has gone wrong.
const TEST_LIMIT: Duration = Duration::from_secs(90);
/// The same for one connection.
const LIMIT: Duration = Duration::from_secs(10);

const SIDECAR_PORT: u16 = 15_001;
/// The port that services have here.
const PORT: u16 = 50_051;
/// Where a service is, and where nobody is.
const SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd51, 0xde, 0x88, 0, 0, 0, 0, 2)),
];
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
/// A user of no name.
const APP_USER: u32 = 13_370;

/// Runs `body` in a namespace of its own, with the services' addresses. `test` is the test's name.
fn alone<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(async { tokio::time::timeout(TEST_LIMIT, body()).await });
        return ended.expect("the test takes too long");
    }
    let machine = Namespace::new("redirect").unwrap_or_else(|error| panic!("{error}"));
    for address in SERVICE {
        machine.add_address(address).unwrap();
    }
    let mut again = machine.command(std::env::current_exe().unwrap());
    let flags = ["--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let again = again.arg(test).args(flags).env(INSIDE, "yes");
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // A name that no test has would run nothing, and pass.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "in the namespace: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const SIDELANE: &str = env!("CARGO_BIN_EXE_sidelane-under-test");

async fn redirect(arguments: &[&str]) -> Ended {
    let run = Run::of(SIDELANE).with(["redirect"]);
    run.with(arguments.iter().copied()).to_its_end().await
}

async fn redirected(arguments: &[&str]) -> String {
    let ended = redirect(arguments).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// All rules of both families, with neither counters nor times.
fn rules() -> Vec<String> {
    let mut all = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let output = Command::new(program).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let uncounted = |line: &str| line.split(" [").next().unwrap().to_owned();
        all.extend(lines.map(|line| format!("{program}: {}", uncounted(line))));
    }
    all
}

/// Rules as others have them.
fn rules_of_others() {
    for program in ["iptables", "ip6tables"] {
        let rule = "-t nat -A OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 5353";
        let mut command = Command::new(program);
        assert!(command.args(rule.split(' ')).status().unwrap().success());
    }
}

/// Greets everybody who connects there with `word`, and then sends back what it hears.
fn greet(address: SocketAddr, word: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                // Whoever has heard enough hangs up.
                let _ = stream.write_all(word.as_bytes());
                let mut heard = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut heard, &mut stream);
            });
        }
    });
}

/// Who greets at this address, for a socket with this mark.
fn greeted(address: SocketAddr, mark: Option<u32>) -> String {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if let Some(mark) = mark {
        socket.set_mark(mark).unwrap();
    }
    socket.connect_timeout(&address.into(), LIMIT).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut word = [0; 7];
    (&socket).read_exact(&mut word).unwrap();
    String::from_utf8(word.to_vec()).unwrap()
}

/// Who greets whoever runs as this user.
fn greeted_user(address: SocketAddr, user: u32) -> String {
    let script = "import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
print(peer.recv(7).decode(), end='')";
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut command = Command::new("python3");
    let command = command.args(["-c", script, &ip, &port]).uid(user);
    let output = command.current_dir("/").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn rules_are_installed_once_replaced_and_removed_without_a_trace() {
    alone(
        "rules_are_installed_once_replaced_and_removed_without_a_trace",
        async || {
            rules_of_others();
            let before = rules();
            let said = redirected(&["--ports", "50051,50052", "--exempt-uid", "7"]).await;
            assert!(
                said.starts_with(
                    "IPv4: connections to ports 50051, 50052 go to 127.0.0.1:15001, where the \
                     sidecar must listen; those with mark 0x51de or user 7 and those to loopback \
                     do not\nIPv6: connections to ports 50051, 50052 go to [::1]:15001, "
                ),
                "{said}"
            );
            let installed = rules();
            let ours = installed.iter().filter(|it| it.contains("SIDELANE"));
            // The chain, the way into it, and five rules, for each family.
            assert_eq!(ours.count(), 14, "{installed:#?}");
            redirected(&["--ports", "50051,50052", "--exempt-uid", "7"]).await;
            assert_eq!(rules(), installed);

            redirected(&["--ports", "50053", "--to", "15101"]).await;
            let replaced = rules();
            let to = replaced.iter().filter(|it| it.contains("--to-ports 15101"));
            assert_eq!(to.count(), 2, "{replaced:#?}");
            assert!(!replaced.iter().any(|it| it.contains("50051")));

            assert_eq!(
                redirected(&["--remove"]).await,
                "IPv4: no port is redirected any more; 1 was\n\
                 IPv6: no port is redirected any more; 1 was\n"
            );
            assert_eq!(rules(), before);
            assert_eq!(
                redirected(&["--remove"]).await,
                "IPv4: nothing was redirected\nIPv6: nothing was redirected\n"
            );
            assert_eq!(rules(), before);

            let json = async |arguments: &[&str]| {
                let said = redirected(&[arguments, &["-o", "json"]].concat()).await;
                serde_json::from_str::<serde_json::Value>(&said).unwrap()
            };
            let told = json(&["--ports", "50051,50052", "--exempt-uid", "7"]).await;
            assert_eq!(rules(), installed);
            let expected = |name: &str, to: &str| {
                serde_json::json!({
                    "family": name, "redirected": [50051, 50052], "to": to,
                    "exempt_mark": SOCKET_MARK, "exempt_uid": 7,
                })
            };
            let both = [
                expected("IPv4", "127.0.0.1:15001"),
                expected("IPv6", "[::1]:15001"),
            ];
            assert_eq!(told["families"], serde_json::json!(both));
            let told = json(&["--remove"]).await;
            let removed = |name: &str| serde_json::json!({ "family": name, "removed": 2 });
            let both = ["IPv4", "IPv6"].map(removed);
            assert_eq!(told["families"], serde_json::json!(both));
            assert_eq!(rules(), before);
        },
    );
}

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn only_declared_ports_of_others_are_redirected_and_only_for_apps() {
    alone(
        "only_declared_ports_of_others_are_redirected_and_only_for_apps",
        async || {
            let ways = SERVICE.into_iter().zip(LOOPBACK);
            for (service, loopback) in ways.clone() {
                greet((loopback, SIDECAR_PORT).into(), "sidecar");
                greet((loopback, PORT).into(), "at home");
                greet((service, PORT).into(), "service");
                greet((service, PORT + 1).into(), "service");
            }
            let user = APP_USER.to_string();
            redirected(&["--ports", "50051", "--exempt-uid", &user]).await;
            for (service, loopback) in ways.clone() {
                let declared = SocketAddr::from((service, PORT));
                assert_eq!(greeted(declared, None), "sidecar");
                assert_eq!(greeted(declared, Some(1)), "sidecar");
                assert_eq!(greeted_user(declared, APP_USER + 1), "sidecar");
                // What is exempt: the sidecar, by mark and by user, other ports, and this machine.
                assert_eq!(greeted(declared, Some(SOCKET_MARK)), "service");
                assert_eq!(greeted_user(declared, APP_USER), "service");
                assert_eq!(greeted((service, PORT + 1).into(), None), "service");
                assert_eq!(greeted((loopback, PORT).into(), None), "at home");
            }
            // The user is exempt only while the rules say so.
            redirected(&["--ports", "50051"]).await;
            let declared = SocketAddr::from((SERVICE[0], PORT));
            assert_eq!(greeted_user(declared, APP_USER), "sidecar");
            redirected(&["--remove", "--ipv4-only"]).await;
            assert_eq!(greeted(declared, None), "service");
            assert_eq!(greeted((SERVICE[1], PORT).into(), None), "sidecar");
            redirected(&["--remove"]).await;
            assert_eq!(greeted((SERVICE[1], PORT).into(), None), "service");
            redirected(&["--ports", "50051"]).await;
            redirected(&["--ports", "50051", "--ipv4-only"]).await;
            assert_eq!(greeted(declared, None), "sidecar");
            assert_eq!(greeted((SERVICE[1], PORT).into(), None), "service");
            redirected(&["--remove"]).await;
        },
    );
}

/// A program in a folder of its own.
fn program(name: &str, script: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, path)
}

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn an_install_that_fails_half_way_leaves_what_was_there() {
    alone(
        "an_install_that_fails_half_way_leaves_what_was_there",
        async || {
            rules_of_others();
            let (folder, _program) = program("ip6tables-restore", "echo line 2 failed >&2; exit 1");
            let path = std::env::var("PATH").unwrap();
            let path = format!("{}:{path}", folder.path().display());
            let failing = async || {
                let run = Run::of(SIDELANE).with(["redirect", "--ports", "50052"]);
                let ended = run.variable("PATH", &path).to_its_end().await;
                assert_eq!(ended.code, Some(1), "{ended:?}");
                assert_eq!(
                    ended.stderr,
                    "sidelane redirect: ip6tables-restore refused the rules: line 2 failed\n"
                );
            };
            let nothing = rules();
            failing().await;
            assert_eq!(rules(), nothing);
            redirected(&["--ports", "50051"]).await;
            let installed = rules();
            failing().await;
            assert_eq!(rules(), installed);
        },
    );
}

/// Begins a command that runs as root without the rights to change the network and to mark sockets.
/// Since Linux 5.17 the latter comes with `NET_RAW`, too.
const WITHOUT_RIGHT: &str =
    "exec setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw";

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn without_the_right_or_without_ipv6_nothing_is_done_and_the_reason_told() {
    alone(
        "without_the_right_or_without_ipv6_nothing_is_done_and_the_reason_told",
        async || {
            rules_of_others();
            let before = rules();
            let (_folder, unable) =
                program("unable", &format!("{WITHOUT_RIGHT} {SIDELANE} \"$@\""));
            for arguments in [&["--ports", "50051"][..], &["--remove"]] {
                let run = Run::of(&unable).with(["redirect"]);
                let ended = run.with(arguments.iter().copied()).to_its_end().await;
                assert_eq!(ended.code, Some(1), "{ended:?}");
                let said = ended.stderr;
                assert!(said.contains("no right to change the kernel's"), "{said}");
                assert!(said.contains("the capability NET_ADMIN"), "{said}");
            }
            let disabled = Path::new("/proc/sys/net/ipv6/conf/all/disable_ipv6");
            std::fs::write(disabled, "1").unwrap();
            let ended = redirect(&["--ports", "50051"]).await;
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(ended.stderr.contains("IPv6 is off here"), "{ended:?}");
            assert_eq!(rules(), before);
            redirected(&["--ports", "50051", "--ipv4-only"]).await;
            let installed = rules();
            let six = |rule: &&String| rule.starts_with("ip6tables");
            assert!(before.iter().filter(six).eq(installed.iter().filter(six)));
            assert!(installed.iter().any(|it| it.contains("--dport 50051")));
        },
    );
}

/// The mesh of a test: nobody serves what is called, but through it.
async fn mesh(upstream: &Upstream, caller: &Path) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .with("--outbound", "127.0.0.1:15001,[::1]:15001")
        .running(caller)
        .node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

/// Calls `Echo.Unary` as an app does that knows of no mesh, and returns the headers that the server
/// saw.
async fn echo(address: SocketAddr) -> Vec<String> {
    let channel = client::channel(address).await.unwrap();
    let mut client = EchoClient::new(channel);
    let answer = client.unary(UnaryRequest::default()).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.node, "echo");
    answer.metadata
}

fn by_the_mesh(headers: &[String]) -> bool {
    headers
        .iter()
        .any(|it| it == "sidelane-source-node: caller")
}

/// Calls what no rule and no node knows.
async fn unknown(address: SocketAddr) -> RawAnswer {
    let client = RawClient::connect(address).await.unwrap();
    ask_over(&client, "/other.v1.Thing/Do", &[]).await
}

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn an_app_that_dials_a_services_own_address_is_carried_by_the_mesh() {
    alone(
        "an_app_that_dials_a_services_own_address_is_carried_by_the_mesh",
        async || {
            let own = SocketAddr::from((SERVICE[0], PORT));
            let upstream = Upstream::named("echo").listening_on(own).start().await;
            let mesh = mesh(&upstream, Path::new(SIDELANE)).await;
            assert!(!by_the_mesh(&echo(own).await));
            redirected(&["--ports", "50051"]).await;
            assert!(by_the_mesh(&echo(own).await));
            // Nobody listens at the other one: the path names the service.
            assert!(by_the_mesh(&echo((SERVICE[1], PORT).into()).await));

            // The rules outlive every process: meanwhile nobody answers.
            mesh.node("caller").kill().await;
            assert!(client::channel(own).await.is_err());
            mesh.node("caller").start_again().await;
            mesh.node("caller").ready().await;
            mesh.settled().await;
            redirected(&["--ports", "50051"]).await;
            assert!(by_the_mesh(&echo(own).await));
            mesh.node("caller").kill().await;
            redirected(&["--remove"]).await;
            assert!(!by_the_mesh(&echo(own).await));
        },
    );
}

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn what_is_not_for_the_mesh_reaches_its_destination_as_it_is() {
    alone(
        "what_is_not_for_the_mesh_reaches_its_destination_as_it_is",
        async || {
            let upstream = Upstream::named("echo").start().await;
            let mesh = mesh(&upstream, Path::new(SIDELANE)).await;
            let other = PORT + 1;
            redirected(&["--ports", "50051,50052"]).await;
            for service in SERVICE {
                let own = SocketAddr::from((service, PORT));
                let elsewhere = Upstream::named("elsewhere").listening_on(own);
                let elsewhere = elsewhere.start().await;
                let answer = unknown(own).await;
                let status = answer.grpc_status().unwrap();
                assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
                assert_eq!(mesh_reason(&status), None, "{status:?}");
                assert_eq!(elsewhere.connections(), 1);

                let own = SocketAddr::from((service, other));
                greet(own, "service");
                // A server that speaks first, to a client that says nothing.
                assert_eq!(greeted(own, None), "service");
                for request in [
                    &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
                    b"GET / HTTP/1.1\r\nhost: service\r\n\r\n",
                    b"any text at all",
                ] {
                    let exchanged = spawn_blocking(move || exchange(own, request));
                    let expected = [b"service", request].concat();
                    assert_eq!(exchanged.await.unwrap(), expected);
                }
            }
            let metrics = mesh.node("caller").metrics().await;
            assert_eq!(metrics.sum("sidelane_splices_total", &[]), 8.0);
            assert_eq!(metrics.sum("sidelane_splices_failed_total", &[]), 0.0);
        },
    );
}

/// Sends this, ends its half, and returns all that comes back.
fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request).unwrap();
    match stream.shutdown(Shutdown::Write) {
        // One that was refused may be closed by now.
        Err(error) if error.kind() == ErrorKind::NotConnected => {}
        done => done.unwrap(),
    }
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        // So is a connection closed that was refused.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        read => drop(read.unwrap()),
    }
    all
}

#[test]
#[ignore = "needs root, iproute2 and iptables"]
fn a_sidecar_that_cannot_mark_is_exempt_by_user_or_refuses_the_loop() {
    alone(
        "a_sidecar_that_cannot_mark_is_exempt_by_user_or_refuses_the_loop",
        async || {
            let upstream = Upstream::named("echo").start().await;
            let (_folder, unable) =
                program("unable", &format!("{WITHOUT_RIGHT} {SIDELANE} \"$@\""));
            let mesh = mesh(&upstream, &unable).await;
            let node = mesh.node("caller");
            for service in SERVICE {
                greet((service, PORT).into(), "service");
            }
            redirected(&["--ports", "50051"]).await;
            for service in SERVICE {
                let own = SocketAddr::from((service, PORT));
                let status = unknown(own).await.grpc_status().unwrap();
                assert_eq!(mesh_reason(&status).as_deref(), Some("LOOP"), "{status:?}");
                let exchanged = spawn_blocking(move || exchange(own, b"any text"));
                assert_eq!(exchanged.await.unwrap(), b"");
            }
            let refused = "this sidecar has opened the connection itself";
            assert!(node.log().contains(refused), "{}", node.end_of_log());

            // It runs as root here, and the apps do not.
            let user = APP_USER.to_string();
            let exempt = ["--ports", "50051", "--exempt-uid", "0", "--app-uid", &user];
            redirected(&exempt).await;
            let before = node.metrics().await.sum("sidelane_splices_total", &[]);
            for service in SERVICE {
                assert_eq!(greeted_user((service, PORT).into(), APP_USER), "service");
            }
            let after = node.metrics().await.sum("sidelane_splices_total", &[]);
            assert_eq!(after - before, 2.0);
        },
    );
}
