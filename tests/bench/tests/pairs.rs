//! The benchmark as a user runs it, with few calls: real processes, real calls, and nothing left
//! behind. The Sidelane pair is left out, because it needs the `sidelane` program; its start is
//! tested where its arguments are made.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

/// A busy machine's ample bound for anything that happens here.
const LIMIT: Duration = Duration::from_secs(60);

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane-bench"));
    command
        .args(arguments)
        .env_remove("SIDELANE")
        .kill_on_drop(true);
    command
}

async fn run(arguments: &[&str]) -> Result<Output> {
    let output = tokio::time::timeout(LIMIT, bench(arguments).output()).await;
    output
        .context("it did not end")?
        .context("it did not start")
}

#[tokio::test]
async fn direct_and_bare_are_measured_in_turn() -> Result<()> {
    let output = run(&[
        "--only",
        "bare,direct",
        "--calls",
        "600",
        "--single-calls",
        "30",
        "--rounds",
        "2",
        "--rates",
        "200",
        "--open-seconds",
        "0.1",
        "--large-calls",
        "20",
        "--stream-messages",
        "3000",
        "--json",
    ])
    .await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    // Each round begins with another pair.
    for rounds in ["round", "bulk"] {
        let lines = told.lines().filter(|line| line.starts_with(rounds));
        let order: Vec<&str> = lines.collect();
        assert_eq!(order.len(), 4, "{told}");
        for (line, pair) in order.iter().zip(["direct", "bare", "bare", "direct"]) {
            assert!(line.contains(pair), "{told}");
        }
    }

    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report["failed"], 0);
    assert_eq!(report["sidelane_to_bare"], Value::Null);
    let pairs = report["pairs"].as_array().context("pairs")?;
    assert_eq!(pairs.len(), 2);
    assert_eq!(
        (&pairs[0]["pair"], &pairs[1]["pair"]),
        (&"direct".into(), &"bare".into())
    );
    for pair in pairs {
        let rounds = pair["rounds"].as_array().context("rounds")?;
        for round in rounds {
            let open = round["open"].as_array().context("open")?;
            assert_eq!(open.len(), 2, "{round}");
            assert_eq!(
                (&open[0]["rate"], &open[0]["fixed"]),
                (&200.0.into(), &true.into())
            );
            let capacity = round["calls_per_second"].as_f64().context("capacity")?;
            let rate = open[1]["rate"].as_f64().context("rate")?;
            assert!((rate - 0.7 * capacity).abs() < 1.0, "{round}");
            // 8 calls to warm up for each of the 64 in flight, then 600, then 30 one by one, then
            // what is due in a tenth of a second.
            let known = f64::from(8 * 64 + 600 + 30 + 20);
            let due = round["answered"].as_f64().context("answered")? - known;
            assert!((due - rate * 0.1).abs() <= 1.0, "{round}");
        }
        // 20 calls twice, and three streams of 1,000 messages twice, of both kinds.
        for round in pair["bulk_rounds"].as_array().context("bulk rounds")? {
            assert_eq!(round["answered"], 2 * 20 + 2 * 2 * 3, "{round}");
        }
        for part in ["large", "expand", "chat"] {
            let through = &pair["bulk"][part]["per_second"];
            assert!(through.as_f64() > Some(0.0), "{part}: {pair}");
        }
        for process in pair["processes"].as_array().context("processes")? {
            assert_eq!(process["threads"], 1, "{process}");
            assert!(
                process["memory"]["idle_kib"].as_u64() > Some(0),
                "{process}"
            );
            assert!(
                process["memory"]["peak_kib"].as_u64() > Some(0),
                "{process}"
            );
        }
        let figures = &pair["median"];
        assert!(
            figures["calls_per_second"].as_f64() > Some(0.0),
            "{figures}"
        );
        assert!(
            figures["single"]["mean_us"].as_f64() > Some(0.0),
            "{figures}"
        );
    }
    let none = &pairs[0]["median"]["proxies_cpu_us_per_call"];
    assert_eq!(none.to_string(), "0.0", "direct has no proxies");
    assert_eq!(report["added"][0]["pair"], "bare", "{report}");
    assert_eq!(
        report["aims"],
        serde_json::json!([]),
        "they are those of Sidelane's pair"
    );
    assert!(pairs[1]["median"]["proxies_cpu_us_per_call"].as_f64() > Some(0.0));
    Ok(())
}

#[tokio::test]
async fn a_bare_pair_in_mtls_is_measured_with_its_new_connections() -> Result<()> {
    let output = run(&[
        "--only",
        "bare,bare-tls",
        "--calls",
        "300",
        "--single-calls",
        "10",
        "--rounds",
        "2",
        "--open-seconds",
        "0",
        "--large-calls",
        "20",
        "--stream-messages",
        "0",
        "--handshakes",
        "30",
        "--json",
    ])
    .await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report["failed"], 0);
    let [clear, secured] = [&report["pairs"][0], &report["pairs"][1]];
    assert_eq!(
        (&clear["pair"], &secured["pair"]),
        (&"bare".into(), &"bare-tls".into())
    );
    assert_eq!(
        clear["handshakes"],
        Value::Null,
        "nobody is dialled in mTLS"
    );
    let rounds = secured["handshake_rounds"].as_array().context("rounds")?;
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        // 8 to warm up, then 30.
        assert_eq!(
            (&round["answered"], &round["failed"]),
            (&38.into(), &0.into())
        );
    }
    let cost = secured["handshakes"]["callee_cpu_us"].as_f64();
    assert!(cost > Some(0.0), "{secured}");
    Ok(())
}

#[tokio::test]
async fn large_payloads_come_back_whole() -> Result<()> {
    let output = run(&[
        "--only",
        "bare",
        "--payload",
        "65536",
        "--calls",
        "100",
        "--single-calls",
        "10",
        "--rounds",
        "1",
        "--in-flight",
        "32",
        "--open-seconds",
        "0",
        "--large-calls",
        "0",
        "--stream-messages",
        "0",
    ])
    .await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let table = String::from_utf8(output.stdout)?;
    let row = table
        .lines()
        .find(|line| line.starts_with("| bare"))
        .context("no row")?;
    assert!(row.trim_end().ends_with(" 0 |"), "no call failed: {table}");
    assert!(
        table.contains("callee's proxy") && table.contains("caller's proxy"),
        "{table}"
    );
    Ok(())
}

#[tokio::test]
async fn an_unknown_flag_is_refused() -> Result<()> {
    let output = run(&["--cals", "7"]).await?;
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("unexpected argument '--cals'") && told.contains("--calls"),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn a_missing_sidelane_ends_it_before_anything_starts() -> Result<()> {
    let output = run(&["--sidelane", "/nowhere/sidelane"]).await?;
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("no sidelane program at /nowhere/sidelane"),
        "{told}"
    );
    assert!(!told.contains("starting"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_sidelane_that_ends_at_once_is_told_with_its_log() -> Result<()> {
    // Any program that refuses these arguments will do: this one does, with a text to find again.
    let program = env!("CARGO_BIN_EXE_sidelane-bench");
    let output = run(&["--only", "sidelane", "--sidelane", program]).await?;
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("cannot start sidelane: control has ended (exit status: 2)"),
        "{told}"
    );
    assert!(told.contains("unexpected argument '--listen'"), "{told}");
    Ok(())
}

#[tokio::test]
async fn nothing_outlives_a_benchmark_that_was_killed() -> Result<()> {
    let mut child = bench(&["--only", "direct,bare", "--rounds", "1000", "--quick"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut told = BufReader::new(child.stderr.take().context("no pipe")?);
    tokio::time::timeout(LIMIT, async {
        // Once a round has been measured, all of its processes are there.
        let mut line = String::new();
        while !line.starts_with("round 1 ") {
            line.clear();
            ensure!(told.read_line(&mut line).await? > 0, "it ended by itself");
        }
        child.kill().await?;
        // They have inherited this pipe: it ends when the last of them has gone.
        told.read_to_end(&mut Vec::new()).await?;
        Ok(())
    })
    .await
    .context("something still holds the pipe")?
}
