//! Durations in documents: texts such as `8h0m0s`, `30h`, `1m30s`, or a number of seconds.

use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// The longest duration, about 292 years: what the original can express.
pub const MAX_SPAN: Duration = Duration::from_secs(9_223_372_036);

const UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// A text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write it like 30h, 1h30m, 90s or 8h0m0s")]
#[non_exhaustive]
pub struct InvalidSpan {
    /// The text.
    pub text: String,
}

/// Reads `8h0m0s`: numbers, which may have a fraction, each with one of the units `ns`, `us`, `ms`, `s`, `m`, `h`, `d`; `0`
/// needs none. No signs, no spaces, at most [`MAX_SPAN`].
///
/// # Errors
/// [`InvalidSpan`].
pub fn parse_span(text: &str) -> Result<Duration, InvalidSpan> {
    let read = || {
        if text == "0" {
            return Some(Duration::ZERO);
        }
        let mut rest = text;
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
            let (number, tail) = rest.split_at(end);
            let unit_end =
                tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
            nanos = nanos.checked_add(scaled(number, u128::from(*size))?)?;
            rest = tail;
        }
        let secs = u64::try_from(nanos / 1_000_000_000).ok()?;
        let span = Duration::new(secs, u32::try_from(nanos % 1_000_000_000).ok()?);
        (!text.is_empty() && span <= MAX_SPAN).then_some(span)
    };
    read().ok_or_else(|| InvalidSpan { text: text.chars().take(64).collect() })
}

/// `number` times `size`, rounded down.
fn scaled(number: &str, size: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { u128::from(whole.parse::<u64>().ok()?) };
    let mut total = whole.checked_mul(size)?;
    let mut place = size;
    for digit in fraction.chars() {
        place /= 10;
        total = total.checked_add(place.checked_mul(u128::from(digit.to_digit(10)?))?)?;
    }
    Some(total)
}

/// Writes a duration as the original does: `8h0m0s`, `1m30s`, `1.5s`, `0s`.
pub fn format_span(span: Duration) -> String {
    let secs = span.as_secs();
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    let mut text = String::new();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    text.push_str(&secs.to_string());
    if span.subsec_nanos() > 0 {
        text.push('.');
        text.push_str(format!("{:09}", span.subsec_nanos()).trim_end_matches('0'));
    }
    text.push('s');
    text
}

/// For `#[serde(with)]`.
pub(crate) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_span(*span))
}

/// For `#[serde(with)]`. Numbers are seconds: stored roles have them.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Span;

    impl Visitor<'_> for Span {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration such as 8h or 90m, or a number of seconds")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_span(text).map_err(E::custom)
        }

        fn visit_u64<E: serde::de::Error>(self, secs: u64) -> Result<Duration, E> {
            Ok(Duration::from_secs(secs).min(MAX_SPAN))
        }

        fn visit_i64<E: serde::de::Error>(self, secs: i64) -> Result<Duration, E> {
            let positive =
                u64::try_from(secs).map_err(|_| E::invalid_value(Unexpected::Signed(secs), &self))?;
            self.visit_u64(positive)
        }
    }

    let span = deserializer.deserialize_any(Span)?;
    if span > MAX_SPAN { Err(D::Error::custom("the duration is too long")) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_original_writes() {
        for (text, millis) in [
            ("8h0m0s", 28_800_000),
            ("30h", 108_000_000),
            ("1h30m", 5_400_000),
            ("90s", 90_000),
            ("0", 0),
            ("0s", 0),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("2d", 172_800_000),
            ("1500ms", 1_500),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "5",
            "m",
            "5x",
            "-5m",
            "+5m",
            "5 m",
            "1.2.3s",
            ".s",
            "99999999999999999999s",
            "9999999h",
            "5mm",
        ] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn writes_as_the_original_does() {
        for (millis, text) in
            [(28_800_000, "8h0m0s"), (90_000, "1m30s"), (1_500, "1.5s"), (0, "0s"), (60_000, "1m0s")]
        {
            assert_eq!(format_span(Duration::from_millis(millis)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(secs in 0..=MAX_SPAN.as_secs() - 1, nanos in 0_u32..1_000_000_000) {
            let span = Duration::new(secs, nanos);
            prop_assert_eq!(parse_span(&format_span(span)), Ok(span));
        }
    }
}
