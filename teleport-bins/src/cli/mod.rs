//! The command lines of the three programs, and what they have in common.

mod backup;
mod common;
mod join;
mod node_list;
mod out;
mod output;
mod recordings;
mod session_list;
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
    let line = lines.collect::<Vec<_>>().join(" ");
    // Of the standard library's parsers.
    let line = line
        .replace("invalid digit found in string", "write a whole number")
        .replace("cannot parse integer from empty string", "write a whole number")
        .replace("number too large to fit in target type", "the number is too large");
    sanitize(&line)
}

/// A duration on a command line: with units, or a plain number of minutes.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let minutes: Option<u64> = text.parse().ok();
        let seconds = minutes.and_then(|minutes| minutes.checked_mul(60));
        return seconds
            .map(std::time::Duration::from_secs)
            .ok_or_else(|| format!("{text} minutes are too many"));
    }
    crate::config::parse_duration(text).map_err(|error| format!("{error}; a plain number is minutes"))
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

/// What collects spans, beside the lines of the log.
pub type SpanLayer = Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>;

/// Writes lines of the log to stderr, and gives spans to `spans`. `RUST_LOG` has the last word on lines.
///
/// # Errors
/// For a filter that cannot be parsed.
pub fn start_logging(level: &str, json: bool, spans: Option<SpanLayer>) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(filter)?,
        // The engine's own lines speak of packets; ours say what an operator needs.
        _ => EnvFilter::try_new(format!("{level},russh=warn,h2=warn,rustls=warn"))?,
    };
    subscriber(filter, json, spans).init();
    Ok(())
}

fn subscriber(
    filter: tracing_subscriber::EnvFilter,
    json: bool,
    spans: Option<SpanLayer>,
) -> tracing::Dispatch {
    use std::io::IsTerminal;

    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
    use tracing_subscriber::layer::SubscriberExt;

    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines =
        if json { lines.json().boxed() } else { lines.with_ansi(std::io::stderr().is_terminal()).boxed() };
    // A line says by itself what it is about; where nobody collects spans they are not made.
    let events = filter_fn(|about| about.is_event()).with_max_level_hint(LevelFilter::TRACE);
    let lines = lines.with_filter(filter.and(events));
    // Each of them has a filter. A layer without one, such as `None`, would have the spans of all libraries made, those of each frame of
    // HTTP/2 among them.
    let layers: Vec<SpanLayer> = spans.into_iter().chain([lines.boxed()]).collect();
    tracing_subscriber::registry().with(layers).into()
}

/// A runtime for a program: one thread is enough for a client, and quickest to start.
///
/// # Errors
/// Those of the operating system.
pub fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A runtime for a program that carries much: two threads, for one encrypts within what the other encrypts.
///
/// # Errors
/// Those of the operating system.
pub fn transfer_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn without_a_collector_no_spans_are_made() {
        use tracing_subscriber::Layer;
        use tracing_subscriber::filter::filter_fn;
        use tracing_subscriber::layer::Identity;
        let filter = |text: &str| tracing_subscriber::EnvFilter::try_new(text).unwrap();
        tracing::dispatcher::with_default(&subscriber(filter("warn"), false, None), || {
            assert!(tracing::event_enabled!(target: "teleport_ssh", tracing::Level::WARN));
            assert!(!tracing::event_enabled!(target: "h2", tracing::Level::TRACE));
            assert!(!tracing::span_enabled!(target: "h2", tracing::Level::TRACE));
            assert!(!tracing::span_enabled!(target: "teleport_ssh", tracing::Level::ERROR));
        });
        tracing::dispatcher::with_default(&subscriber(filter("trace"), false, None), || {
            assert!(tracing::event_enabled!(target: "h2", tracing::Level::TRACE));
            assert!(!tracing::span_enabled!(target: "h2", tracing::Level::TRACE));
        });
        let ours = filter_fn(|about| about.target().starts_with("teleport_"));
        let spans = Identity::new().with_filter(ours).boxed();
        tracing::dispatcher::with_default(&subscriber(filter("warn"), false, Some(spans)), || {
            assert!(tracing::span_enabled!(target: "teleport_ssh", tracing::Level::INFO));
            assert!(!tracing::span_enabled!(target: "h2", tracing::Level::INFO));
        });
    }

    #[test]
    fn plain_numbers_of_durations_are_minutes() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        assert_eq!((seconds("90"), seconds("90s"), seconds("1h30m")), (Ok(5400), Ok(90), Ok(5400)));
        for bad in ["", "x", "1.5h", "-1", "99999999999999999999", "9999999999999999999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(seconds("1y").is_err_and(|error| error.contains("a plain number is minutes")));
    }

    #[test]
    fn a_number_that_is_none_is_told_in_plain_words() {
        use clap::Parser;
        let line = |arguments: &[&str]| {
            let error = tctl::Cli::try_parse_from(arguments).map(drop);
            error.map_err(|error| usage(&error.to_string())).err().unwrap_or_default()
        };
        let serial = line(&["tctl", "lock", "--serial=abc"]);
        assert!(serial.contains("--serial") && serial.contains("write a whole number"), "{serial}");
        let limit = line(&["tctl", "events", "search", "--limit=99999999999999999999999"]);
        assert!(limit.contains("the number is too large"), "{limit}");
    }

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
