//! What stands in the way of a start: ports that are taken, and data that another process has.
//! The process says which setting to change, and ends with 1.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::TcpListener;
use std::path::Path;

use sidelane_tests::ask::who;
use sidelane_tests::run::{Ended, Run};
use sidelane_tests::{Cluster, Upstream, cluster, services};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
const FAILURE: Option<i32> = Some(1);

/// A sidecar that takes any free port for whatever is not said.
fn sidecar(data: &Path, taken: &[(&str, &str)]) -> Run {
    let any = "127.0.0.1:0";
    let data = data.display().to_string();
    let mut flags = vec![("--node", "second"), ("--data", &data)];
    flags.push(("--trust", "disabled"));
    for flag in ["--outbound", "--internal", "--admin"] {
        flags.push((flag, any));
    }
    started("sidecar", &flags, taken)
}

fn control(data: &Path, taken: &[(&str, &str)]) -> Run {
    let any = "127.0.0.1:0";
    let data = data.display().to_string();
    let flags = [
        ("--listen", any),
        ("--admin", any),
        ("--data", &*data),
        ("--trust", "disabled"),
    ];
    started("control", &flags, taken)
}

fn started(subcommand: &str, flags: &[(&str, &str)], taken: &[(&str, &str)]) -> Run {
    let mut run = Run::of(PROGRAM).with([subcommand]);
    let others = flags
        .iter()
        .filter(|(flag, _)| taken.iter().all(|(own, _)| own != flag));
    for (flag, value) in others.chain(taken) {
        run = run.with([*flag, *value]);
    }
    run
}

/// The line with which a process ended that could not start; log lines may stand before it.
fn last_words(ended: &Ended) -> &str {
    assert_eq!(ended.code, FAILURE, "{ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    ended.stderr.lines().last().unwrap_or_default()
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_flag() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let refusal = |program: &str, flag: &str| {
        format!(
            "{program}: cannot listen on {address}, as --{flag} says: another process listens \
             there; choose another with --{flag}, or port 0 for any free one"
        )
    };
    for flag in ["outbound", "internal", "external", "admin"] {
        let taken = [(&*format!("--{flag}"), &*address)];
        let ended = sidecar(folder.path(), &taken).to_its_end().await;
        assert_eq!(last_words(&ended), refusal("sidelane-sidecar", flag));
    }
    for flag in ["listen", "admin"] {
        let taken = [(&*format!("--{flag}"), &*address)];
        let ended = control(folder.path(), &taken).to_its_end().await;
        assert_eq!(last_words(&ended), refusal("sidelane-control", flag));
    }
}

#[tokio::test]
async fn a_unix_socket_in_use_is_named_and_a_file_in_its_place_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("taken.sock");
    let _holder = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let address = format!("unix:{}", socket.display());
    let ended = sidecar(&folder.path().join("data"), &[("--outbound", &address)]);
    let ended = ended.to_its_end().await;
    assert_eq!(
        last_words(&ended),
        format!(
            "sidelane-sidecar: cannot listen on {address}, as --outbound says: another process \
             answers on this socket; choose another path with --outbound"
        )
    );

    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "keep me").unwrap();
    let address = format!("unix:{}", file.display());
    let ended = sidecar(&folder.path().join("data"), &[("--outbound", &address)]);
    let ended = ended.to_its_end().await;
    assert_eq!(
        last_words(&ended),
        format!(
            "sidelane-sidecar: cannot listen on {address}, as --outbound says: there is a file \
             that is not a socket; move it away, or choose another path"
        )
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep me");
}

#[tokio::test]
async fn a_misspelt_variable_is_warned_about_before_anything_else() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let ended = sidecar(folder.path(), &[("--outbound", &address)])
        .variable("SIDELANE_OUTBONDS", "127.0.0.1:1")
        .to_its_end()
        .await;
    let warning = "SIDELANE_OUTBONDS is set, but sidelane-sidecar does not read it; did you mean \
                   SIDELANE_OUTBOUND?";
    let first = ended.stderr.lines().next().unwrap_or_default();
    assert!(first.contains(warning), "{ended:?}");
}

#[tokio::test]
async fn one_store_is_for_one_control_and_one_data_folder_for_one_sidecar() {
    let upstream = Upstream::named("callee").start().await;
    let mesh: Cluster = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;

    let store = mesh.folder().join("control.data");
    let ended = control(&store, &[]).to_its_end().await;
    let file = store.join("control.redb");
    assert_eq!(
        last_words(&ended),
        format!(
            "sidelane-control: the store {} is in use by another control plane (process {}); stop \
             that one, or give this one a folder of its own with --data",
            file.display(),
            mesh.control().id()
        )
    );

    let data = mesh.folder().join("callee.data");
    let ended = sidecar(&data, &[]).to_its_end().await;
    assert_eq!(
        last_words(&ended),
        format!(
            "sidelane-sidecar: the data folder `{}` is in use by another sidecar (process {}); \
             give each its own --data",
            data.display(),
            mesh.node("callee").id()
        )
    );

    // Those who were there first have not noticed.
    mesh.control().ready().await;
    mesh.node("callee").ready().await;
    assert_eq!(who(mesh.node("caller")).await.unwrap(), "callee");
}
