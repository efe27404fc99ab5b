//! The user's client.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use teleport_bins::cli;

fn main() -> ExitCode {
    cli::parse().map_or_else(|code| code, |parsed| cli::finish(cli::tsh::run(parsed)))
}
