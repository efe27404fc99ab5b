//! The user's client.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use teleport_bins::cli;

fn main() -> ExitCode {
    cli::finish(cli::tsh::run(cli::tsh::Cli::parse()))
}
