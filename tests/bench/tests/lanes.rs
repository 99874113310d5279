//! What lanes promise, held over a slow link between two network namespaces: heartbeats beside bulk
//! that fills the link stay near what they are alone. A machine that is short of its processor makes
//! them late by itself, whatever the link does: there, what lanes are for is held against one connection
//! for both, measured in turn with them. Figures of a build without optimisation say nothing, so this
//! builds the programs in release mode and runs those; `.ci/run` does so beforehand.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Loaded to idle, for half of the calls and for all but one of a hundred, by the ways that bulk
/// goes. Where it goes both ways, small calls wait for a packet of it on each of theirs.
const BOUNDS: [(&str, f64, f64); 2] = [("one-way", 2.0, 6.0), ("both-ways", 3.0, 6.0)];
/// Bulk must fill the link, or nothing was shown: MB a second of 25.
const BULK: f64 = 15.0;
/// A busy machine is slower and never faster, so one good run is proof.
const RUNS: usize = 2;
/// On a machine that was never quiet: one connection to lanes, beside the same bulk, for half of the
/// calls and for all but one of a hundred. On a quiet one it is 40 and more.
const BETTER: [(&str, f64); 2] = [("loaded_p50_us", 5.0), ("loaded_p99_us", 2.5)];

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

/// What the benchmark says of these ways, and what it told meanwhile.
fn measured(folder: &Path, ways: &str) -> Result<(Value, String)> {
    let output = Command::new(folder.join("sidelane-bench"))
        .args(["lanes", "--places", "link", "--ways", ways, "--json"])
        .args(["--rounds", "3", "--seconds", "2"])
        .env_remove("SIDELANE")
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {told}", output.status);
    Ok((serde_json::from_slice(&output.stdout)?, told))
}

/// The median of the rounds.
fn figure(report: &Value, (way, flow): (&str, &str), name: &str) -> Result<f64> {
    let mut rows = report["rows"].as_array().context("no rows")?.iter();
    let row = rows.find(|row| row["flow"] == flow && row["way"] == way);
    let row = row.with_context(|| format!("nothing of {way}, {flow}"))?;
    let figure = row["median"][name].as_f64();
    figure.with_context(|| format!("no {name}"))
}

/// Are heartbeats in lanes near what they are alone?
fn is_near(report: &Value) -> Result<bool> {
    let mut near = true;
    for (flow, p50, p99) in BOUNDS {
        let of = |name: &str| figure(report, ("lanes", flow), name);
        let bulk = of("bulk_megabytes_per_second")?;
        near &= of("p50_ratio")? <= p50 && of("p99_ratio")? <= p99 && bulk >= BULK;
    }
    Ok(near)
}

/// Are they far from what they are on the connection of bulk?
fn is_better(report: &Value) -> Result<bool> {
    let mut better = true;
    for (flow, ..) in BOUNDS {
        better &= figure(report, ("lanes", flow), "bulk_megabytes_per_second")? >= BULK;
        for (name, times) in BETTER {
            let shared = figure(report, ("shared", flow), name)?;
            better &= shared >= times * figure(report, ("lanes", flow), name)?;
        }
    }
    Ok(better)
}

#[test]
#[ignore = "needs root and iproute2, and builds in release mode"]
fn heartbeats_beside_bulk_stay_near_what_they_are_alone() -> Result<()> {
    let folder = programs()?;
    let mut all = Vec::new();
    for _ in 0..RUNS {
        let (report, told) = measured(&folder, "lanes")?;
        if is_near(&report)? {
            return Ok(());
        }
        all.push(told);
    }
    let (report, told) = measured(&folder, "lanes,shared")?;
    println!(
        "this machine was too busy for its own bounds:\n{}\n{told}",
        all.join("\n")
    );
    if is_near(&report)? || is_better(&report)? {
        return Ok(());
    }
    all.push(told);
    anyhow::bail!("no run was good:\n{}", all.join("\n"))
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
