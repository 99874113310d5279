//! Settings that a program cannot follow: it says which, where they were given, what is known
//! and what is nearest, and does not start.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use sidelane_tests::run::Run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
/// The exit code for settings that cannot be followed.
const USAGE: Option<i32> = Some(2);

/// Runs one program with these arguments, and gives all that it said when it refused them.
async fn refused(run: Run) -> String {
    let ended = run.to_its_end().await;
    assert_eq!(ended.code, USAGE, "{ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    ended.stderr
}

fn sidecar() -> Run {
    Run::of(PROGRAM).with(["sidecar"])
}

fn control() -> Run {
    Run::of(PROGRAM).with(["control"])
}

#[tokio::test]
async fn an_unknown_flag_is_refused_with_the_nearest_one() {
    let said = refused(sidecar().with(["--outbond", "127.0.0.1:1"])).await;
    assert_eq!(
        said,
        "sidelane-sidecar: unknown flag --outbond; the nearest known flag is --outbound (--help \
         lists all)\n"
    );
    let said = refused(control().with(["--leese=3s"])).await;
    assert_eq!(
        said,
        "sidelane-control: unknown flag --leese; the nearest known flag is --lease (--help lists \
         all)\n"
    );
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    std::fs::write(
        &path,
        "log: info\n# where apps call\noutbond: 127.0.0.1:1\n",
    )
    .unwrap();
    let path = path.display().to_string();
    let said = refused(sidecar().with(["--config", &path])).await;
    assert_eq!(
        said,
        format!(
            "sidelane-sidecar: {path}:3: unknown key `outbond`; the nearest known key is \
             `outbound`\n"
        )
    );
    std::fs::write(&path, "leese: 3s\n").unwrap();
    let said = refused(control().variable("SIDELANE_CONFIG", &path)).await;
    assert_eq!(
        said,
        format!(
            "sidelane-control: {path}:1: unknown key `leese`; the nearest known key is `lease`\n"
        )
    );
}

#[tokio::test]
async fn an_unknown_word_is_refused_from_flag_variable_and_file() {
    let wanted = "must be one of refuse, passthrough; the nearest is refuse\n";
    let said = refused(sidecar().with(["--unknown", "refuze"])).await;
    let expected = format!("sidelane-sidecar: --unknown \"refuze\" (command line): {wanted}");
    assert_eq!(said, expected);

    let said = refused(sidecar().variable("SIDELANE_UNKNOWN", "refuze")).await;
    let expected = format!("sidelane-sidecar: --unknown \"refuze\" (SIDELANE_UNKNOWN): {wanted}");
    assert_eq!(said, expected);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    std::fs::write(&path, "log: info\nunknown: refuze\n").unwrap();
    let path = path.display().to_string();
    let said = refused(sidecar().with(["--config", &path])).await;
    let expected = format!("sidelane-sidecar: --unknown \"refuze\" ({path}:2): {wanted}");
    assert_eq!(said, expected);

    let wanted = "must be one of strict, permissive, disabled; the nearest is disabled\n";
    let said = refused(control().variable("SIDELANE_TRUST", "disabeld")).await;
    let expected = format!("sidelane-control: --trust \"disabeld\" (SIDELANE_TRUST): {wanted}");
    assert_eq!(said, expected);

    let said = refused(control().with(["--log", "inof"])).await;
    assert_eq!(
        said,
        "sidelane-control: --log \"inof\" (command line): \"inof\" is not a log level; the levels \
         are off, error, warn, info, debug, trace; the nearest is info\n"
    );
}

#[tokio::test]
async fn the_flag_beats_the_variable_and_the_variable_beats_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    std::fs::write(&path, "grace: file\n").unwrap();
    let path = path.display().to_string();
    let unlike = "not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h\n";

    let file = sidecar().with(["--config", &path]);
    let expected = format!("sidelane-sidecar: --grace \"file\" ({path}:1): {unlike}");
    assert_eq!(refused(file.clone()).await, expected);

    let variable = file.variable("SIDELANE_GRACE", "variable");
    let expected = format!("sidelane-sidecar: --grace \"variable\" (SIDELANE_GRACE): {unlike}");
    assert_eq!(refused(variable.clone()).await, expected);

    let flag = variable.with(["--grace", "flag"]);
    let expected = format!("sidelane-sidecar: --grace \"flag\" (command line): {unlike}");
    assert_eq!(refused(flag).await, expected);
}

#[tokio::test]
async fn what_is_not_built_yet_or_not_to_be_read_is_refused_and_never_ignored() {
    let cases = [
        (
            "--control",
            "auto",
            "not built yet: name the addresses of control, HOST:PORT,…",
        ),
        (
            "--identity",
            "orders",
            "\"orders\" is no SPIFFE id: it must begin with spiffe://, as \
             spiffe://mesh.example/ns/shop/sa/orders does",
        ),
        (
            "--otlp",
            "127.0.0.1:4317",
            "write http://HOST:PORT of a collector that takes OTLP over gRPC, such as \
             http://127.0.0.1:4317",
        ),
        (
            "--sampling",
            "0.1",
            "no traces leave this program: say where to, by --otlp URL",
        ),
    ];
    for (flag, value, reason) in cases {
        let said = refused(sidecar().with([flag, value])).await;
        let expected = format!("sidelane-sidecar: {flag} {value:?} (command line): {reason}\n");
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_both_named() {
    let twice = sidecar().with([
        "--serve",
        "a.B=127.0.0.1:1",
        "--serve",
        "a.C,a.B=127.0.0.1:2",
    ]);
    assert_eq!(
        refused(twice).await,
        "sidelane-sidecar: --serve \"a.C,a.B=127.0.0.1:2\" (command line): a.B is served by \
         --serve \"a.B=127.0.0.1:1\" (command line) already\n"
    );
    let round = ["--outbound", "127.0.0.1:9", "--serve", "a.B=localhost:9"];
    assert_eq!(
        refused(sidecar().with(round)).await,
        "sidelane-sidecar: --serve \"a.B=localhost:9\" (command line): leads back to this sidecar: \
         --outbound \"127.0.0.1:9\" (command line) listens there\n"
    );
    let same = ["--listen", "127.0.0.1:9", "--admin", "127.0.0.1:9"];
    assert_eq!(
        refused(control().with(same)).await,
        "sidelane-control: --admin \"127.0.0.1:9\" (command line): --listen \"127.0.0.1:9\" \
         (command line) listens there, too; give each its own\n"
    );
}

#[tokio::test]
async fn more_users_than_files_are_refused_by_what_the_start_can_raise_the_limit_to() {
    let start = |limits: &str| {
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        let users = [
            "--external",
            "127.0.0.1:9",
            "--external-connections",
            "1024",
        ];
        // What follows is refused after it, so that no sidecar starts here.
        let run = Run::of("/bin/sh").with(["-c", &script, PROGRAM, "sidecar"]);
        run.with(users).with(["--tls-cert", "alone"])
    };
    let said = refused(start("ulimit -n 1535")).await;
    let expected = "sidelane-sidecar: --external-connections \"1024\" (command line): this process \
                    may open 1535 files, and 1536 are needed for 1024 connections of users and all \
                    else: raise its hard limit (ulimit -Hn 1536, LimitNOFILE=1536), or allow fewer \
                    connections\n";
    assert_eq!(said, expected);
    let said = refused(start("ulimit -n 1536; ulimit -Sn 600")).await;
    assert!(
        said.contains("--tls-cert and --tls-key come together"),
        "{said}"
    );
}
