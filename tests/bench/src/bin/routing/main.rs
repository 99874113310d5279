//! `sidelane-bench-routing`: what it costs to find the rule of a call. Look-ups and whole
//! classifications are timed in tables of several sizes; single ways to a rule can be repeated
//! alone, so that a tool that counts instructions sees nothing else.

mod known;
mod table;
mod timed;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use known::Way;
use timed::Figures;

/// Times look-ups of rules by path, and calls decided by them. Build it with `--release`.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    /// Services in the table, each with 10 methods
    #[arg(long, value_delimiter = ',', default_values = ["10", "1000", "10000"],
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    services: Vec<u16>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Repeats one way to a rule, to be counted.
    #[command(hide = true)]
    Repeat {
        /// Which way.
        way: Way,
        /// How often.
        times: u64,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(What::Repeat { way, times }) = args.what {
        known::repeat(way, times);
        return ExitCode::SUCCESS;
    }
    let figures: Vec<Figures> = args
        .services
        .iter()
        .map(|count| timed::measure(usize::from(*count)))
        .collect();
    if args.json {
        match serde_json::to_string_pretty(&figures) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("sidelane-bench-routing: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        println!("{}", render(&figures));
    }
    ExitCode::SUCCESS
}

fn render(figures: &[Figures]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header([
        "services",
        "paths",
        "known path, ns",
        "in a HashMap, ns",
        "unknown method, ns",
        "unknown service, ns",
        "million classifications/s",
        "index built, ms",
    ]);
    for one in figures {
        table.add_row([
            one.services.to_string(),
            one.paths.to_string(),
            format!("{:.1}", one.known_ns),
            format!("{:.1}", one.hash_map_ns),
            format!("{:.1}", one.unknown_method_ns),
            format!("{:.1}", one.unknown_service_ns),
            format!("{:.1}", one.classifications_per_second / 1e6),
            format!("{:.1}", one.build_ms),
        ]);
    }
    table
}
