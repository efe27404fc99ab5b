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
pub async fn play(mut source: Source, options: Options) -> Result<()> {
    match options.format {
        PlayFormat::Pty => terminal::play(source, options.pace).await?,
        PlayFormat::Text => {
            let mut plain = Plain::new();
            while let Some(event) = source.next().await? {
                if let RecordedEvent::Output { data, .. } = &event {
                    write(&plain.strip(data))?;
                }
            }
        }
        PlayFormat::Json => {
            while let Some(event) = source.next().await? {
                write(format!("{}\n", text::json(&event)).as_bytes())?;
            }
        }
        PlayFormat::Cast => {
            let mut cast = Asciicast::new();
            let mut begun = false;
            while let Some(event) = source.next().await? {
                if let Some(meta) = source.meta().filter(|_| !begun) {
                    write(Asciicast::header(meta).as_bytes())?;
                    begun = true;
                }
                if let Some(line) = cast.line(&event) {
                    write(line.as_bytes())?;
                }
            }
        }
    }
    Ok(())
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
