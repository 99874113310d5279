//! What finding a rule may cost. Figures of a build without optimisation say nothing, so these
//! tests build the program in release mode and run that; `.ci/run` does so beforehand, and runs
//! them with those that need other programs.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// A look-up of a rule's method among those of 1,000 services, on the machines that CI has.
const LOOK_UP_NS: f64 = 25.0;
/// From a path to class, lane, method and target, in one thread, among 1,000 services.
const CLASSIFICATIONS_PER_SECOND: f64 = 30e6;
/// A machine that is not quiet is held to what it does at the moment, by the standard library's `HashMap`
/// of the same paths, in which a look-up takes more than twice as long: a look-up, and a whole classification,
/// to one in that.
const LOOK_UP_TO_HASH_MAP: f64 = 0.9;
const CLASSIFICATION_TO_HASH_MAP: f64 = 2.0;
/// The index of 10,000 services with 10 methods each.
const BUILD_MS: f64 = 100.0;
/// A look-up, among 1,000 services with 10 methods each. It was 151 when this was written: three
/// multiplications for each 16 bytes of the path, and one compare.
const LOOK_UP_INSTRUCTIONS: u64 = 180;
/// A busy machine is slower and never faster, so one good run is proof.
const RUNS: usize = 5;

/// One at a time: each would be the other's noise.
static ALONE: Mutex<()> = Mutex::new(());

fn succeed(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} did not start"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {told}",
        output.status
    );
    Ok(output)
}

/// The program, built in release mode.
fn program() -> Result<PathBuf> {
    let output = succeed(Command::new(env!("CARGO")).args([
        "build",
        "--release",
        "--locked",
        "--package=sidelane-bench",
        "--bin=sidelane-bench-routing",
        "--message-format=json",
    ]))?;
    let text = String::from_utf8(output.stdout)?;
    let messages = text.lines().map(serde_json::from_str::<Value>);
    let mut executables = messages.filter_map(|message| {
        let message = message.ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next().context("cargo names no executable")
}

fn figures(program: &PathBuf) -> Result<Vec<Value>> {
    let output = succeed(Command::new(program).arg("--json"))?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What is not as it should be.
fn wrong(figures: &[Value]) -> Result<Vec<String>> {
    let figure = |services: u64, name: &str| {
        let of = |one: &&Value| one["services"] == services;
        let number = figures.iter().find(of).and_then(|one| one[name].as_f64());
        number.with_context(|| format!("no {name} for {services} services"))
    };
    let look_up = figure(1_000, "known_ns")?;
    let classifications = figure(1_000, "classifications_per_second")?;
    let build = figure(10_000, "build_ms")?;
    let map = figure(1_000, "hash_map_ns")?;
    let mut wrong = Vec::new();
    if look_up > LOOK_UP_NS && look_up > LOOK_UP_TO_HASH_MAP * map {
        wrong.push(format!(
            "a look-up takes {look_up:.1} ns, above {LOOK_UP_NS}, and a HashMap's {map:.1}"
        ));
    }
    if classifications < CLASSIFICATIONS_PER_SECOND
        && 1e9 / classifications > CLASSIFICATION_TO_HASH_MAP * map
    {
        wrong.push(format!(
            "{classifications:.0} classifications/s, below {CLASSIFICATIONS_PER_SECOND}, while a \
             look-up in a HashMap takes {map:.1} ns"
        ));
    }
    if build > BUILD_MS {
        wrong.push(format!("an index takes {build:.1} ms, above {BUILD_MS}"));
    }
    Ok(wrong)
}

#[test]
#[ignore = "builds in release mode"]
fn look_ups_and_classifications_are_as_quick_as_promised() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let program = program()?;
    let mut last = Vec::new();
    for _ in 0..RUNS {
        let figures = figures(&program)?;
        println!("{}", serde_json::to_string_pretty(&figures)?);
        last = wrong(&figures)?;
        if last.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!(
        "in each of {RUNS} runs, in the last one: {}",
        last.join("; ")
    )
}

/// Instructions that one pass of a way takes. The start of the program is in both counts.
fn instructions(program: &PathBuf, way: &str) -> Result<u64> {
    const FEW: u64 = 10_000;
    const MANY: u64 = 30_000;
    let folder = tempfile::tempdir()?;
    let count = |times: u64| -> Result<u64> {
        let file = folder.path().join(times.to_string());
        let mut valgrind = Command::new("valgrind");
        valgrind
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(program)
            .args([
                OsStr::new("repeat"),
                OsStr::new(way),
                OsStr::new(&times.to_string()),
            ]);
        succeed(&mut valgrind)?;
        let text = std::fs::read_to_string(&file)?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        Ok(total.context("callgrind tells no total")?.trim().parse()?)
    };
    let (few, many) = (count(FEW)?, count(MANY)?);
    let more = many.checked_sub(few).context("more passes took less")?;
    // Rounded: what the start takes differs by a few instructions from run to run.
    Ok((more + (MANY - FEW) / 2) / (MANY - FEW))
}

#[test]
#[ignore = "needs valgrind, and builds in release mode"]
fn a_services_type_costs_what_a_constant_costs() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let program = program()?;
    let count = |way: &str| instructions(&program, way);
    let (typed, constant) = (count("typed")?, count("constant")?);
    let (by_match, look_up) = (count("match")?, count("look-up")?);
    println!(
        "instructions: by type {typed}, by constants {constant}, by a match of paths {by_match}, \
         by a look-up among 1,000 services {look_up}"
    );
    assert_eq!(typed, constant, "the type of a service is not free");
    assert!(
        typed < by_match && by_match < look_up,
        "something was not measured"
    );
    assert!(look_up <= LOOK_UP_INSTRUCTIONS, "{look_up} for a look-up");
    Ok(())
}
