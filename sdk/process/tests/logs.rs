//! The log as another process sees it: this test starts itself again, with its stderr in a pipe.

use std::process::Command;

use sidelane_process::logs::{self, LogError};

const CHILD: &str = "SIDELANE_LOG_TEST_CHILD";

#[test]
fn a_pipe_gets_json_lines_of_the_levels_asked_for() {
    if std::env::var_os(CHILD).is_some() {
        logs::init("warn,wanted=debug").unwrap();
        assert_eq!(logs::init("info"), Err(LogError::Already));
        tracing::info!(target: "other", "hidden");
        tracing::debug!(target: "wanted::inside", node = "orders-1", "shown");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_pipe_gets_json_lines_of_the_levels_asked_for",
            "--nocapture",
        ])
        .env(CHILD, "yes")
        .output()
        .unwrap();
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<serde_json::Value> = stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert_eq!(lines[0]["message"], "shown");
    assert_eq!(lines[0]["node"], "orders-1");
    assert_eq!(lines[0]["level"], "DEBUG");
    assert!(lines[0]["timestamp"].is_string());
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        !stdout.contains("shown"),
        "stdout belongs to what a command prints"
    );
}
