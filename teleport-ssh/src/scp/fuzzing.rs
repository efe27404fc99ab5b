//! Ways in for fuzzers. No part of the API.

use super::ScpCommand;
use super::record::Record;

/// Reads a command line and a line of the protocol, and checks that nothing comes of either that was not in it.
pub fn read(text: &[u8]) {
    if let Some(command) = ScpCommand::parse(text) {
        assert_eq!(command.line(), text);
        let asked: usize = command.paths.iter().map(Vec::len).sum();
        assert!(asked <= 2 * text.len() + 2 * command.paths.len(), "paths are what was sent");
    }
    if let Ok(record) = Record::parse(text)
        && !matches!(record, Record::Warning | Record::Fatal)
    {
        let line = record.line();
        assert_eq!(line.iter().filter(|byte| byte.is_ascii_control()).count(), 1, "one line");
        let again = Record::parse(line.strip_suffix(b"\n").unwrap_or_default());
        assert_eq!(again, Ok(record), "what is written is read again");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn command_lines_are_read_or_left(line in r#"(scp|/usr/bin/scp) -[tfrpdqv]{1,4} [a-z~*?\[\]'"\\ $`;|#{}\xff-]{0,24}"#) {
            super::read(line.as_bytes());
        }

        #[test]
        fn lines_of_the_protocol_are_read_or_refused(line in "[CDTE][0-7]{0,4} [0-9]{0,20} [a-z./ \x00-\x1f\u{9b}]{0,12}") {
            super::read(line.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            super::read(&bytes);
        }
    }
}
