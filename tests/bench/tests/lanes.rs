//! What lanes promise, held over a slow link between two network namespaces: heartbeats beside bulk
//! that fills the link stay near what they are alone. Figures of a build without optimisation say
//! nothing, so this builds the programs in release mode and runs those; `.ci/run` does so
//! beforehand.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// Loaded to idle, for half of the calls and for all but one of a hundred, by the ways that bulk
/// goes. Where it goes both ways, small calls wait for a packet of it on each of theirs.
const BOUNDS: [(&str, f64, f64); 2] = [("one-way", 2.0, 6.0), ("both-ways", 3.0, 6.0)];
/// Bulk must fill the link, or nothing was shown: MB a second of 25.
const BULK: f64 = 15.0;
/// A busy machine is slower and never faster, so one good run is proof.
const RUNS: usize = 3;

/// The folder with both programs, built in release mode.
fn programs() -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--message-format=json"])
        .args(["--package=sidelane-cli", "--package=sidelane-bench"])
        .args(["--bin=sidelane-bench", "--bin=sidelane"])
        .output()
        .context("cargo did not start")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let messages = text.lines().map(serde_json::from_str::<Value>);
    let mut executables = messages.filter_map(|message| {
        let message = message.ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    let program = executables.next().context("cargo names no executable")?;
    let folder = program.parent().context("a program is in a folder")?;
    Ok(folder.to_owned())
}

#[test]
#[ignore = "needs root and iproute2, and builds in release mode"]
fn heartbeats_beside_bulk_stay_near_what_they_are_alone() -> Result<()> {
    let folder = programs()?;
    let mut told = Vec::new();
    for _ in 0..RUNS {
        let output = Command::new(folder.join("sidelane-bench"))
            .args(["lanes", "--places", "link", "--ways", "lanes", "--json"])
            .args(["--rounds", "3", "--seconds", "2"])
            .env_remove("SIDELANE")
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {said}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let mut good = true;
        for (flow, p50, p99) in BOUNDS {
            let mut rows = report["rows"].as_array().context("no rows")?.iter();
            let row = rows.find(|row| row["flow"] == flow);
            let median = &row.with_context(|| format!("nothing of {flow}"))?["median"];
            let figure = |name: &str| median[name].as_f64().with_context(|| format!("no {name}"));
            let bulk = figure("bulk_megabytes_per_second")?;
            good &= figure("p50_ratio")? <= p50 && figure("p99_ratio")? <= p99 && bulk >= BULK;
        }
        if good {
            return Ok(());
        }
        told.push(said);
    }
    anyhow::bail!("no run of {RUNS} was good:\n{}", told.join("\n"))
}

#[test]
fn without_a_program_it_ends_before_anything_starts() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_sidelane-bench"))
        .args(["lanes", "--sidelane", "/nowhere/sidelane"])
        .output()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        told.contains("no sidelane program at /nowhere/sidelane"),
        "{told}"
    );
    Ok(())
}
