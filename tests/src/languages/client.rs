//! A client in another language, run once: told where everything is, and read line by line, so
//! that a case that hangs is named. What is wrong with the client itself is a failure of the
//! report, and never the end of the test: other clients are still to run.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;

use super::{Kit, Proxy, START_LIMIT};
use crate::cases::{CASE_LIMIT, CASES, Ground, Report, Way};
use crate::process::Process;

/// The failure of a run, beside those of its cases.
const CLIENT: &str = "(the client itself)";

pub(super) async fn run(
    kit: &Kit,
    ground: &Ground,
    proxy: Option<&Proxy>,
    cases: &[&str],
) -> Report {
    let variables = proxy.map_or_else(Vec::new, |proxy| (kit.proxy)(proxy.address));
    let name = format!("{}-client", kit.language);
    let flags = flags(ground, proxy, cases);
    let process = kit.start(&name, &kit.client, &flags, &variables).await;
    let mut lines = BufReader::new(process.take_output().await).lines();
    let mut report = Report::default();
    let mut ran = Vec::new();
    let result = loop {
        match run_one(&mut lines, &mut report).await {
            Ok(Some(name)) => ran.push(name),
            Ok(None) => break ended(&process, &ran, cases).await,
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = result {
        let error = format!("{error}\n{}", process.end_of_log());
        report.add(CLIENT, Duration::ZERO, Err(error));
    }
    report
}

fn flags<'a>(ground: &Ground, proxy: Option<&Proxy>, cases: &[&str]) -> Vec<(&'a str, String)> {
    let target = proxy.map_or_else(|| ground.target.to_string(), |proxy| proxy.target.clone());
    let mut flags = vec![
        ("--target", target),
        ("--server", ground.server.to_string()),
        ("--server-kind", ground.server_kind.to_string()),
    ];
    if cases.len() < CASES.len() {
        flags.push(("--cases", cases.join(",")));
    }
    if let Way::Mesh { caller } = &ground.way {
        flags.push(("--caller", caller.clone()));
    }
    flags
}

/// Reads the two lines of one case; `None` after the last.
async fn run_one(
    lines: &mut Lines<BufReader<ChildStdout>>,
    report: &mut Report,
) -> Result<Option<String>, String> {
    let Some(begin) = line(lines, START_LIMIT, "the next case").await? else {
        return Ok(None);
    };
    let name = begin["begin"].as_str();
    let name = name.ok_or_else(|| format!("no case begins with {begin}"))?;
    let end = line(lines, CASE_LIMIT, name).await?;
    let end = end.ok_or_else(|| format!("it ended in {name}"))?;
    if end["case"] != begin["begin"] {
        return Err(format!("{name} has begun, and then came {end}"));
    }
    let took = end["took_ms"].as_u64();
    let took = took.ok_or_else(|| format!("no milliseconds in {end}"))?;
    let result = match &end["error"] {
        Value::Null => Ok(()),
        Value::String(error) => Err(error.clone()),
        other => Err(other.to_string()),
    };
    report.add(name, Duration::from_millis(took), result);
    Ok(Some(name.to_owned()))
}

async fn line(
    lines: &mut Lines<BufReader<ChildStdout>>,
    limit: Duration,
    what: &str,
) -> Result<Option<Value>, String> {
    let line = tokio::time::timeout(limit, lines.next_line()).await;
    let line = line.map_err(|_| format!("it is not done with {what} after {limit:?}"))?;
    let line = line.map_err(|error| format!("it writes no text: {error}"))?;
    let parsed = line.map(|line| {
        serde_json::from_str(&line).map_err(|error| format!("no JSON ({error}): {line}"))
    });
    parsed.transpose()
}

/// Are these the cases that were wanted, and does the client say that it got to its end?
async fn ended(process: &Process, ran: &[String], cases: &[&str]) -> Result<(), String> {
    let status = process.exited(START_LIMIT).await;
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    if ran != cases {
        return Err(format!(
            "it ran {ran:?}, and what it was to run is {cases:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use super::*;
    use crate::languages::{Language, Launch, Missing};

    const WANTED: [&str; 2] = ["half_close", "early_answer"];

    /// A language whose client is a shell script.
    fn kit(script: &str) -> Kit {
        let launch = Launch {
            program: PathBuf::from("/bin/sh"),
            arguments: ["-c", script, "sh"].map(str::to_owned).to_vec(),
        };
        Kit {
            language: Language::Go,
            client: launch.clone(),
            server: launch.clone(),
            version: launch,
            proxy: |address| vec![("proxy_of_test".to_owned(), address.to_string())],
            missing: &[Missing {
                case: "unary_of_4_mib",
                reason: "a script has no megabytes",
            }],
            alone: &[],
            variables: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    async fn run(script: &str, proxy: Option<&Proxy>, cases: &[&str]) -> Report {
        let ground = Ground {
            target: address("127.0.0.1:1"),
            server: address("127.0.0.1:2"),
            way: Way::Direct,
            server_kind: Language::Rust,
        };
        kit(script).run(&ground, proxy, cases).await
    }

    const BOTH: &str = r#"for case in half_close early_answer; do
        echo "{\"begin\": \"$case\"}"
        echo "{\"case\": \"$case\", \"took_ms\": 1, \"error\": null}"
    done"#;

    #[tokio::test]
    async fn the_cases_that_ran_are_those_that_were_wanted() {
        let report = run(BOTH, None, &WANTED).await;
        assert_eq!((report.passed(), report.failures().as_str()), (2, ""));

        let more = ["half_close", "early_answer", "every_status"];
        let report = run(BOTH, None, &more).await;
        assert!(report.failures().contains("it ran"), "{report:?}");
        let report = run(BOTH, None, &WANTED[..1]).await;
        assert!(report.failures().contains("it ran"), "{report:?}");
    }

    #[tokio::test]
    async fn a_missing_case_is_not_asked_for() {
        let report = run(
            BOTH,
            None,
            &["unary_of_4_mib", "half_close", "early_answer"],
        )
        .await;
        assert_eq!((report.passed(), report.failures().as_str()), (2, ""));
    }

    #[tokio::test]
    async fn a_client_that_breaks_is_reported_with_the_case_and_its_log() {
        let script = r#"echo '{"begin": "half_close"}'; echo "no memory" >&2; exit 3"#;
        let report = run(script, None, &WANTED).await;
        assert!(
            report.failures().contains("it ended in half_close")
                && report.failures().contains("no memory"),
            "{report:?}"
        );

        let report = run(&format!("{BOTH}\nexit 3"), None, &WANTED).await;
        assert!(report.failures().contains("exit status: 3"), "{report:?}");
        let report = run("echo hello", None, &WANTED).await;
        assert!(report.failures().contains("no JSON"), "{report:?}");
    }

    #[tokio::test]
    async fn a_client_is_told_of_a_proxy_by_nothing_but_variables() {
        // What it is told comes back as the failure of a case.
        let script = r#"echo '{"begin": "half_close"}'
            echo "{\"case\": \"half_close\", \"took_ms\": 1, \"error\": \"$proxy_of_test; $*\"}""#;
        let proxy = Proxy {
            address: address("127.0.0.1:3"),
            target: "echo.test:4".to_owned(),
        };
        let flags = "--server 127.0.0.1:2 --server-kind Rust --cases half_close";
        let report = run(script, Some(&proxy), &WANTED[..1]).await;
        let told = format!("127.0.0.1:3; --target echo.test:4 {flags}");
        assert!(report.failures().contains(&told), "{report:?}");
        let report = run(script, None, &WANTED[..1]).await;
        let told = format!(": ; --target 127.0.0.1:1 {flags}");
        assert!(report.failures().contains(&told), "{report:?}");
    }
}
