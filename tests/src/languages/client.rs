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
