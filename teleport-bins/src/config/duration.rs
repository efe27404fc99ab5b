//! Durations as operators write them: `90s`, `5m`, `1h30m`, `7d`.

use std::time::Duration;

/// The longest duration, in seconds: a hundred years.
const MAX: u64 = 36_500 * 86_400;

/// Parses `1h30m`: whole numbers with the units `s`, `m`, `h`, `d`, without spaces; a hundred years at most.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it like 90s, 5m, 1h30m or 7d");
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let mut letters = tail.chars();
        let unit: u64 = match letters.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = letters.as_str();
    }
    match total {
        _ if text.is_empty() => Err(wrong()),
        0..=MAX => Ok(Duration::from_secs(total)),
        _ => Err(format!("{text:?} is longer than 36500d")),
    }
}

/// Writes a duration the way [`parse_duration`] reads it, with its two largest units.
pub fn format_duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let mut rest = secs;
    let mut parts = Vec::new();
    for (unit, letter) in units {
        let count = rest / unit;
        rest %= unit;
        if count > 0 {
            parts.push(format!("{count}{letter}"));
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, secs) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)));
        }
        for bad in ["", "5", "m", "5x", "-5m", "5 m", "99999999999999999999s", "9999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("36500d"), Ok(Duration::from_secs(MAX)));
        for long in ["36500d1s", "4444444444444444h"] {
            assert!(parse_duration(long).is_err_and(|error| error.contains("longer")), "{long}");
        }
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
        assert_eq!(format_duration(Duration::from_secs(59)), "59s");
    }
}
