//! Administration.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use teleport_bins::cli;

fn main() -> ExitCode {
    cli::finish(cli::tctl::run(cli::tctl::Cli::parse()))
}
