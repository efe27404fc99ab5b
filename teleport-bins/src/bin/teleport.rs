//! The daemon. Called by the name `tsh` or `tctl` it is that program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use teleport_bins::cli;

fn main() -> ExitCode {
    match cli::called_as().as_deref() {
        Some("tsh") => cli::parse().map_or_else(|code| code, |parsed| cli::finish(cli::tsh::run(parsed))),
        Some("tctl") => cli::parse().map_or_else(|code| code, |parsed| cli::finish(cli::tctl::run(parsed))),
        _ => cli::parse().map_or_else(|code| code, |parsed| cli::finish(cli::teleport::run(parsed))),
    }
}
