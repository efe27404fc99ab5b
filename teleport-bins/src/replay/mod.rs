//! Replay of recordings: in the terminal with the timing of the session, or as text, JSON, YAML or asciicast.

mod keys;
mod screen;
pub mod source;
mod terminal;
mod text;

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use teleport_core::recording::{
    Asciicast, CastVersion, Ending, Missing, Pace, RecordedEvent, TerminalFilter, Utf8,
};

use self::source::Item;
pub use self::source::Source;
use crate::cli::json_text;
use crate::config::parse_duration;

/// How a recording is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlayFormat {
    /// asciicast version 2, for the tools of asciinema
    Cast,
    /// asciicast version 3, which has the exit status, for asciinema 3
    Cast3,
    /// A line of JSON for each event
    Json,
    /// As it was, with its timing
    #[default]
    Pty,
    /// The output as plain text, without escape sequences
    Text,
    /// A document of YAML for each event
    Yaml,
}

/// What to do with a recording.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "command lines build it")]
pub struct Options {
    /// How to show it.
    pub format: PlayFormat,
    /// How fast.
    pub pace: Pace,
    /// From which time of the session on.
    pub from: Duration,
}

/// Plays a recording to stdout. Returns the status for the shell: that of the signal that ended it, or 0.
///
/// # Errors
/// When it cannot be read, is damaged or ends before the session did: after what there is was shown.
pub async fn play(source: Source, options: Options) -> Result<u8> {
    let played = match options.format {
        PlayFormat::Pty => terminal::play(source, options).await,
        _ => print(source, options, &mut BufWriter::new(io::stdout())).await.map(|()| 0),
    };
    match played {
        // `tsh play ... | head` is not an error.
        Err(error) if is_broken_pipe(&error) => Ok(0),
        played => played,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What is wrong with a recording, for after it was shown.
#[derive(Debug, Default)]
struct Faults {
    missing: usize,
}

impl Faults {
    /// Takes note of a part that cannot be read, and says for people what is missing.
    fn note(&mut self, missing: &Missing) -> String {
        self.missing += 1;
        let to = missing.to.map_or_else(|| "the end".to_owned(), clock);
        format!(
            "what was shown from {} to {to} is damaged in the recording and missing here",
            clock(missing.from)
        )
    }

    /// Fails if something is missing.
    fn judge(&self, ending: Ending, running: bool) -> Result<()> {
        if self.missing > 0 {
            bail!("the recording is damaged: {} of its parts could not be read", self.missing);
        }
        if ending == Ending::Complete {
            return Ok(());
        }
        if running {
            eprintln!(
                "The session still runs, or its recording is on its way: this is what has arrived until now."
            );
            return Ok(());
        }
        bail!("the recording ends in the middle: the node or the upload was interrupted here")
    }
}

/// A time of the session, as `m:ss` or `h:mm:ss`.
fn clock(at: Duration) -> String {
    let seconds = at.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Writes all of it at once, without its timing.
///
/// # Errors
/// When it cannot be read, is damaged or ends before the session did: after what there is was written; those of `out`.
pub async fn print(mut source: Source, options: Options, out: &mut impl Write) -> Result<()> {
    let mut writer = Writer::new(options.format);
    let mut faults = Faults::default();
    if !options.from.is_zero() {
        if matches!(options.format, PlayFormat::Cast | PlayFormat::Cast3) {
            bail!("an asciicast has the whole session; --from is for the other formats");
        }
        source.seek(options.from, 0);
    }
    let ending = loop {
        let item = source.next().await?;
        if let Some(meta) = source.meta() {
            writer.begin(meta, out)?;
        }
        match item {
            Item::End(ending) => break ending,
            Item::Event(event) if event.at() < options.from => {}
            Item::Event(event) => writer.event(&event, out)?,
            Item::Jump => {}
            Item::Missing(missing) => {
                eprintln!("{}", faults.note(&missing));
                writer.missing(&missing, out)?;
            }
        }
    };
    out.flush()?;
    faults.judge(ending, source.is_running())
}

/// Writes what a format makes of events.
enum Writer {
    Cast(CastVersion, Option<Asciicast>),
    Json(Utf8),
    Text(Box<TerminalFilter>),
    Yaml(Utf8),
}

impl Writer {
    fn new(format: PlayFormat) -> Self {
        match format {
            PlayFormat::Cast => Self::Cast(CastVersion::V2, None),
            PlayFormat::Cast3 => Self::Cast(CastVersion::V3, None),
            PlayFormat::Json => Self::Json(Utf8::new()),
            PlayFormat::Yaml => Self::Yaml(Utf8::new()),
            PlayFormat::Pty | PlayFormat::Text => Self::Text(Box::new(TerminalFilter::text())),
        }
    }

    fn begin(&mut self, meta: &teleport_core::recording::RecordingMeta, out: &mut impl Write) -> Result<()> {
        if let Self::Cast(version, cast @ None) = self {
            let (begun, header) = Asciicast::begin(*version, meta);
            *cast = Some(begun);
            out.write_all(header.as_bytes())?;
        }
        Ok(())
    }

    fn event(&mut self, event: &RecordedEvent, out: &mut impl Write) -> Result<()> {
        let text = match self {
            Self::Cast(_, cast) => cast.as_mut().and_then(|cast| cast.line(event)).unwrap_or_default(),
            Self::Json(utf8) => json_line(&text::event(event, utf8)),
            Self::Text(filter) => match event {
                RecordedEvent::Output { data, .. } => filter.pass(data),
                _ => String::new(),
            },
            Self::Yaml(utf8) => yaml(&text::event(event, utf8)),
        };
        Ok(out.write_all(text.as_bytes())?)
    }

    fn missing(&mut self, missing: &Missing, out: &mut impl Write) -> Result<()> {
        let text = match self {
            Self::Cast(_, cast) => cast.as_mut().map(|cast| cast.missing(missing)).unwrap_or_default(),
            Self::Json(_) => json_line(&text::missing(missing)),
            Self::Text(_) => String::new(),
            Self::Yaml(_) => yaml(&text::missing(missing)),
        };
        Ok(out.write_all(text.as_bytes())?)
    }
}

fn json_line(value: &serde_json::Value) -> String {
    format!("{}\n", json_text(&value.to_string()))
}

/// Text in quotes is written in YAML as in JSON.
fn yaml(value: &serde_json::Value) -> String {
    let fields = value.as_object().into_iter().flatten();
    let lines = fields.map(|(name, value)| format!("{name}: {}\n", json_text(&value.to_string())));
    std::iter::once("---\n".to_owned()).chain(lines).collect()
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

/// Parses a time of a session: `1:30`, `1:02:03`, `90s`, `1m30s`.
///
/// # Errors
/// A sentence for the user.
pub fn parse_time(text: &str) -> Result<Duration> {
    let wrong = || anyhow::anyhow!("{text:?} is not a time of a session; write it like 1:30, 1:02:03 or 90s");
    if !text.contains(':') {
        return parse_duration(text).map_err(|_| wrong());
    }
    let mut seconds = 0_u64;
    for (place, part) in text.split(':').enumerate() {
        let number =
            part.parse::<u64>().ok().filter(|number| place == 0 || *number < 60).ok_or_else(wrong)?;
        seconds = seconds.checked_mul(60).and_then(|sum| sum.checked_add(number)).ok_or_else(wrong)?;
        if place > 2 || part.is_empty() {
            return Err(wrong());
        }
    }
    Ok(Duration::from_secs(seconds))
}

/// The longest silence when idle time is skipped.
pub const SKIPPED_IDLE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        for (text, seconds) in
            [("90s", 90), ("1m30s", 90), ("1:30", 90), ("0:05", 5), ("100:00", 6000), ("1:02:03", 3723)]
        {
            assert_eq!(parse_time(text).ok(), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "x", "1", "1:60", "1:", ":1", "1:2:3:4", "-1:00", "99999999999999999999:00"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        let shown = [0, 59, 61, 3600, 36_061].map(|seconds| clock(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0:00", "0:59", "1:01", "1:00:00", "10:01:01"]);
    }

    #[test]
    fn speeds_have_limits() {
        assert_eq!(["2", "2x", "0.5x"].map(|text| parse_speed(text).ok()), [Some(2.0), Some(2.0), Some(0.5)]);
        assert!(["0", "17x", "x", "-1", "NaN"].iter().all(|text| parse_speed(text).is_err()));
    }

    #[test]
    fn f4_documents_have_no_control_characters() {
        let value = serde_json::json!({"data": "a\u{1b}[6n\u{9b}6n\u{7f}\r\nb: é", "ms": 3});
        let (json, yaml) = (json_line(&value), yaml(&value));
        for text in [&json, &yaml] {
            assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
        }
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).ok(), Some(value.clone()));
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&yaml).ok(), Some(value));
    }
}
