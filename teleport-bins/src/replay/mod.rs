//! Replay of recordings: in the terminal with the timing of the session, or as text, JSON or asciicast.

pub mod source;
mod terminal;
mod text;

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use teleport_core::recording::{Asciicast, Pace, RecordedEvent};

pub use self::source::Source;
use self::text::Plain;

/// How a recording is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlayFormat {
    /// asciicast version 2, for the tools of asciinema
    Cast,
    /// A line of JSON for each event
    Json,
    /// As it was, with its timing
    #[default]
    Pty,
    /// The output as plain text, without escape sequences
    Text,
}

/// What to do with a recording.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "command lines build it")]
pub struct Options {
    /// How to show it.
    pub format: PlayFormat,
    /// How fast.
    pub pace: Pace,
}

/// Plays a recording to stdout.
///
/// # Errors
/// When it cannot be read, or is damaged: after what is sound was shown.
pub async fn play(source: Source, options: Options) -> Result<()> {
    match options.format {
        PlayFormat::Pty => terminal::play(source, options.pace).await,
        format => print_to(source, format, &mut std::io::stdout()).await,
    }
}

/// Writes a recording without its timing.
///
/// # Errors
/// When it cannot be read, or is damaged: after what is sound was written; those of `out`.
pub async fn print_to(mut source: Source, format: PlayFormat, out: &mut impl Write) -> Result<()> {
    let (mut cast, mut plain, mut begun) = (Asciicast::new(), Plain::new(), false);
    while let Some(event) = source.next().await? {
        match format {
            PlayFormat::Cast => {
                if let Some(meta) = source.meta().filter(|_| !begun) {
                    out.write_all(Asciicast::header(meta).as_bytes())?;
                    begun = true;
                }
                if let Some(line) = cast.line(&event) {
                    out.write_all(line.as_bytes())?;
                }
            }
            PlayFormat::Json => writeln!(out, "{}", text::json(&event))?,
            PlayFormat::Pty | PlayFormat::Text => {
                if let RecordedEvent::Output { data, .. } = &event {
                    out.write_all(&plain.strip(data))?;
                }
            }
        }
    }
    Ok(out.flush()?)
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Parses `2`, `2x` or `0.5x`: 0.1 to 16 times.
///
/// # Errors
/// A sentence for the user.
pub fn parse_speed(text: &str) -> Result<f64> {
    match text.strip_suffix('x').unwrap_or(text).parse::<f64>() {
        Ok(speed) if (0.1..=16.0).contains(&speed) => Ok(speed),
        _ => bail!("the speed is a number from 0.1x to 16x, not {text:?}"),
    }
}

/// The longest silence when idle time is skipped.
pub const SKIPPED_IDLE: Duration = Duration::from_millis(500);
