//! `sidelane-bench`: one benchmark a subcommand, `calls` by itself. One program is all of the
//! benchmark's own processes; each runs on one thread, and none may be left behind when the first
//! one ends.

mod accounting;
mod admin;
mod args;
mod body;
mod call;
mod calls;
mod control;
mod echo;
mod envoy;
mod handshakes;
mod http2;
mod interrupt;
mod lanes;
mod load;
mod mesh;
mod message;
#[path = "../../src/netns.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "the tests' own, which use all of it"
)]
mod netns;
mod open;
mod pair;
mod parent;
mod process;
mod proxy;
mod statistics;
mod tls;

use anyhow::{Context as _, Result};
use args::{Command, CommandLine};
use clap::Parser as _;
use std::net::SocketAddr;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = CommandLine::parse();
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sidelane-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: CommandLine) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("cannot make a runtime")?.block_on(async {
        match args.command {
            None => calls::run(args.calls).await,
            Some(Command::Calls(args)) => calls::run(args).await,
            Some(Command::Lanes(args)) => lanes::run(args).await,
            Some(Command::LanesPart { part }) => lanes::part(part).await,
            Some(Command::Control(args)) => Box::pin(control::run(args)).await,
            Some(Command::Echo) => serve(None).await,
            Some(Command::Bare {
                upstream,
                accept_tls,
                dial_tls,
            }) => {
                let ends = proxy::Ends::new(accept_tls.as_deref(), dial_tls.as_deref())?;
                serve(Some((upstream, ends))).await
            }
        }
    })
}

/// A process of a pair: the echo server, or the bare proxy before `upstream`.
async fn serve(upstream: Option<(SocketAddr, proxy::Ends)>) -> Result<ExitCode> {
    let listener = parent::listen().await.context("cannot listen")?;
    let serving = async {
        match upstream {
            None => echo::serve(listener).await,
            Some((upstream, ends)) => proxy::serve(listener, upstream, ends).await,
        }
    };
    tokio::select! {
        failed = serving => failed.context("cannot accept connections")?,
        gone = parent::gone() => gone.context("standard input must be a pipe of the benchmark")?,
    }
    Ok(ExitCode::SUCCESS)
}
