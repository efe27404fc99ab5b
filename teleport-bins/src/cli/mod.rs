//! The command lines of the three programs, and what they have in common.

mod common;
mod node_list;
mod out;
mod output;
pub mod tctl;
pub mod teleport;
pub mod tsh;
mod user;

use std::process::ExitCode;

pub use self::output::{Format, fit, json_text, print_json, print_text, sanitize, table};

/// The version that all programs show.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The name by which this program was called, without its directory.
pub fn called_as() -> Option<String> {
    let name = std::env::args_os().next()?;
    Some(std::path::Path::new(&name).file_name()?.to_str()?.to_owned())
}

/// Reads the command line. What is wrong with it becomes one line on stderr and status 1; help and versions go to stdout.
///
/// # Errors
/// The status to exit with.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return ExitCode::FAILURE;
        }
        eprintln!("ERROR: {}; see --help", usage(&error.to_string()));
        ExitCode::FAILURE
    })
}

/// The first paragraph of clap's message in one line, with its tips.
fn usage(text: &str) -> String {
    let message = text.strip_prefix("error: ").unwrap_or(text);
    let lines = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    sanitize(&lines.collect::<Vec<_>>().join(" "))
}

/// A path that may be empty: an empty `TELEPORT_CONFIG_FILE` means no file at all.
fn any_path() -> impl clap::builder::TypedValueParser<Value = std::path::PathBuf> {
    use clap::builder::{OsStringValueParser, TypedValueParser};
    OsStringValueParser::new().map(Into::into)
}

/// Ends a program: an error becomes one line on stderr and status 1.
pub fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ERROR: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole chain of causes in one line, without saying anything twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace(['\n', '\r'], " ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    sanitize(&line)
}

/// Writes lines of the log to stderr. `RUST_LOG` has the last word.
///
/// # Errors
/// For a filter that cannot be parsed.
pub fn start_logging(level: &str, json: bool) -> anyhow::Result<()> {
    use std::io::IsTerminal;

    use tracing_subscriber::EnvFilter;
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter)?,
        // The engine's own lines speak of packets; ours say what an operator needs.
        _ => EnvFilter::try_new(format!("{level},russh=warn,h2=warn,rustls=warn"))?,
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}

/// A runtime for a program: one thread is enough for a client, and quickest to start.
///
/// # Errors
/// Those of the operating system.
pub fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_flag_is_one_line() {
        use clap::Parser;
        let error = tctl::Cli::try_parse_from(["tctl", "tokens", "add", "--tipe=node"]).map(drop);
        let line = error.map_err(|error| usage(&error.to_string())).err().unwrap_or_default();
        assert!(line.contains("--tipe") && line.contains("--type") && !line.contains('\n'), "{line}");
        let error = tctl::Cli::try_parse_from(["tctl", "tokens", "add", "--type=kube"]).map(drop);
        let line = error.map_err(|error| usage(&error.to_string())).err().unwrap_or_default();
        assert!(line.contains("not part of this product"), "{line}");
    }

    #[test]
    fn an_error_is_one_line() {
        let error = anyhow::anyhow!("inner\nwith \u{1b}[31m").context("outer");
        assert_eq!(one_line(&error), "outer: inner with [31m");
        let twice = anyhow::anyhow!("same").context("it is the same");
        assert_eq!(one_line(&twice), "it is the same");
    }
}
