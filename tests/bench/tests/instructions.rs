//! What a call may cost a sidecar, in instructions: a bound that a busy machine cannot move. One
//! call at a time, because with more how many share a wake-up and a write is a matter of luck.
//! `tests/bench/callgrind.sh` says how to see which functions they go to.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Of the caller's sidecar for a call of 128 bytes each way. It was 69,800 when this was written,
/// and differs by one percent from run to run: a heartbeat falls into one and not the other.
const OUTBOUND: u64 = 73_000;
/// Of the callee's sidecar. It was 67,700.
const INBOUND: u64 = 71_000;

/// Both sidecars for a call whose rule turns every policy on, in percent of one without a rule.
const POLICIES_PERCENT: u64 = 110;

/// Calls of the shorter run: what is done once is over by then.
const FEW: u64 = 500;
/// Calls of the longer run.
const MANY: u64 = 2_500;

fn succeed(command: &mut Command) -> Result<Output> {
    let output = command.output();
    let output = output.with_context(|| format!("{command:?} did not start"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {told}",
        output.status
    );
    Ok(output)
}

/// Builds `sidelane` in release mode; the benchmark with it, as who measures does.
fn sidelane() -> Result<PathBuf> {
    let output = succeed(Command::new(env!("CARGO")).args([
        "build",
        "--release",
        "--locked",
        "--package=sidelane-cli",
        "--package=sidelane-bench",
        "--bin=sidelane",
        "--bin=sidelane-bench",
        "--message-format=json",
    ]))?;
    let text = String::from_utf8(output.stdout)?;
    let mut executables = text.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = PathBuf::from(message["executable"].as_str()?);
        path.ends_with("sidelane").then_some(path)
    });
    executables.next().context("cargo names no executable")
}

/// All instructions of the caller's and of the callee's sidecar in a run of so many calls of this
/// pair of the benchmark.
fn count(program: &Path, pair: &str, calls: u64) -> Result<[u64; 2]> {
    let folder = tempfile::tempdir()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/callgrind.sh");
    succeed(
        Command::new(env!("CARGO_BIN_EXE_sidelane-bench"))
            .args(["--only", pair, "--sidelane", script, "--json"])
            .args(["--rounds", "1", "--connections", "1", "--in-flight", "1"])
            .args(["--single-calls", "1", "--calls", &calls.to_string()])
            .args(["--open-seconds", "0", "--large-calls", "0"])
            .args(["--stream-messages", "0"])
            .env("PROGRAM", program)
            .env("COUNTS", folder.path()),
    )?;
    let of = |role: &str| -> Result<u64> {
        let file = folder.path().join(format!("{role}.out"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {role}.out"))?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        Ok(total.context("callgrind tells no total")?.trim().parse()?)
    };
    Ok([of("caller")?, of("callee")?])
}

/// Instructions of the caller's and of the callee's sidecar for one call of this pair.
fn for_a_call(program: &Path, pair: &str) -> Result<[u64; 2]> {
    let (few, many) = (count(program, pair, FEW)?, count(program, pair, MANY)?);
    let mut each = [0; 2];
    for (each, (few, many)) in each.iter_mut().zip(few.into_iter().zip(many)) {
        let more = many.checked_sub(few).context("more calls took less")?;
        *each = more / (MANY - FEW);
    }
    let [outbound, inbound] = each;
    println!("{pair}: instructions for a call: caller's sidecar {outbound}, callee's {inbound}");
    ensure!(outbound > 0 && inbound > 0, "nothing was counted");
    Ok(each)
}

#[test]
#[ignore = "needs valgrind, and builds in release mode"]
fn a_call_costs_each_sidecar_no_more_instructions_than_it_did() -> Result<()> {
    let program = sidelane()?;
    let [outbound, inbound] = for_a_call(&program, "sidelane")?;
    assert!(outbound <= OUTBOUND, "{outbound} for a call going out");
    assert!(inbound <= INBOUND, "{inbound} for a call coming in");
    let with: u64 = for_a_call(&program, "policies")?.iter().sum();
    let without = outbound + inbound;
    let percent = with * 100 / without;
    println!("all policies: {percent} % of none");
    // A rule that did not arrive would cost nothing.
    assert!(
        with > without,
        "{with} with all policies, {without} with none"
    );
    assert!(
        with * 100 <= without * POLICIES_PERCENT,
        "{with} for both sidecars with all policies, {without} with none: {percent} %"
    );
    Ok(())
}
