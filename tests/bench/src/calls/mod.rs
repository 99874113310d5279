//! `sidelane-bench calls`: calls direct, through two bare hyper proxies, two Envoys and two
//! Sidelane sidecars, in one run and in turn, with what each costs: as many as go through, at fixed
//! rates, large ones and streams.

mod aims;
mod args;
mod course;
mod phases;
pub(crate) mod report;
mod rounds;
mod table;

pub(crate) use args::Args;

use anyhow::{Context as _, Result};
use std::io::Write as _;
use std::process::ExitCode;

use crate::interrupt;

/// Measures, tells, and leaves nothing behind.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut pairs = Vec::new();
    let interrupted = interrupt::interrupted()?;
    let ended = tokio::select! {
        report = rounds::run(&args, &mut pairs) => Ok(report),
        code = interrupted => Err(code),
    };
    for pair in pairs {
        pair.stop().await;
    }
    let report = match ended {
        Ok(report) => report?,
        Err(code) => {
            eprintln!("sidelane-bench: interrupted; its processes have been ended");
            return Ok(ExitCode::from(code));
        }
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("cannot write JSON")? + "\n"
    } else {
        table::render(&report)
    };
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write")?;
    Ok(if report.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
