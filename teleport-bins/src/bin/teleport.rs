//! The daemon. Called by the name `tsh` or `tctl` it is that program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use teleport_bins::cli;

fn main() -> ExitCode {
    match cli::called_as().as_deref() {
        Some("tsh") => cli::finish(cli::tsh::run(cli::tsh::Cli::parse())),
        Some("tctl") => cli::finish(cli::tctl::run(cli::tctl::Cli::parse())),
        _ => cli::finish(cli::teleport::run(cli::teleport::Cli::parse())),
    }
}
