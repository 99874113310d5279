//! `sidelane-bench`: calls direct, through two bare hyper proxies and through two Sidelane
//! sidecars, in one run and in turn, with what each costs. One program is all of the benchmark's
//! own processes; each runs on one thread, and none may be left behind when the first one ends.

mod accounting;
mod admin;
mod args;
mod body;
mod call;
mod echo;
mod http2;
mod load;
mod mesh;
mod message;
mod pair;
mod parent;
mod process;
mod proxy;
mod report;
mod rounds;
mod statistics;
mod table;

use anyhow::{Context as _, Result};
use args::{Args, PartOfPair, Run};
use clap::Parser as _;
use std::io::Write as _;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args = Args::parse();
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sidelane-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("cannot make a runtime")?.block_on(async {
        match args.part {
            None => benchmark(&args.run).await,
            Some(part) => serve(part).await,
        }
    })
}

async fn serve(part: PartOfPair) -> Result<ExitCode> {
    let listener = parent::listen().await.context("cannot listen")?;
    let serving = async {
        match part {
            PartOfPair::Echo => echo::serve(listener).await,
            PartOfPair::Bare { upstream } => proxy::serve(listener, upstream).await,
        }
    };
    tokio::select! {
        failed = serving => failed.context("cannot accept connections")?,
        gone = parent::gone() => gone.context("standard input must be a pipe of the benchmark")?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn benchmark(run: &Run) -> Result<ExitCode> {
    let mut pairs = Vec::new();
    let interrupted = interrupted()?;
    let ended = tokio::select! {
        report = rounds::run(run, &mut pairs) => Ok(report),
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
    let text = if run.json {
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

/// Ends with the exit code that shells give to the signal that came.
fn interrupted() -> Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => 128 + 2,
            _ = terminate.recv() => 128 + 15,
            _ = hang_up.recv() => 128 + 1,
        }
    })
}
