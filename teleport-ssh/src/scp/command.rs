//! The command line that a client of the older protocol sends.

/// A command line that copies files by the older protocol of `scp`, and does nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScpCommand {
    line: Vec<u8>,
    pub(super) direction: Direction,
    pub(super) recursive: bool,
    pub(super) preserve: bool,
    /// The target has to be a directory.
    pub(super) into_dir: bool,
    /// Of the sink, the target as it stands; of the source, patterns.
    pub(super) paths: Vec<Vec<u8>>,
}

/// Who sends files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The client (`-t`).
    Sink,
    /// The node (`-f`).
    Source,
}

/// One character of a word, and whether it was quoted.
type Character = (u8, bool);

impl ScpCommand {
    /// Reads a command line. `None` if it is anything that a shell has to understand, or not what clients send.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let words = words(line)?;
        let (program, words) = words.split_first()?;
        if !matches!(plain(program).as_slice(), b"scp" | b"/usr/bin/scp") {
            return None;
        }
        let (mut recursive, mut preserve, mut into_dir) = (false, false, false);
        let (mut sink, mut source) = (false, false);
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            let text = plain(word);
            let Some(flags) = text.strip_prefix(b"-").filter(|flags| !flags.is_empty()) else { break };
            rest = after;
            if flags == b"-" {
                break;
            }
            for flag in flags {
                match flag {
                    b'd' => into_dir = true,
                    b'f' => source = true,
                    b'p' => preserve = true,
                    b'q' | b'v' => {}
                    b'r' => recursive = true,
                    b't' => sink = true,
                    _ => return None,
                }
            }
        }
        let direction = match (sink, source) {
            (true, false) => Direction::Sink,
            (false, true) => Direction::Source,
            _ => return None,
        };
        let paths: Option<Vec<Vec<u8>>> = match (direction, rest) {
            (Direction::Sink, [target]) => Some(vec![literal(target)?]),
            (Direction::Source, [_, ..]) => Some(rest.iter().map(|word| pattern(word)).collect()),
            _ => None,
        };
        Some(Self { line: line.to_vec(), direction, recursive, preserve, into_dir, paths: paths? })
    }

    /// As it was sent.
    pub fn line(&self) -> &[u8] {
        &self.line
    }
}

/// Cuts a line into words as a shell does, unless there is something in it that a shell would do.
fn words(line: &[u8]) -> Option<Vec<Vec<Character>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<Character>> = None;
    let mut rest = line.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        b'\'' => break,
                        quoted => word.push((quoted, true)),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        b'"' => break,
                        b'$' | b'`' => return None,
                        b'\\' => match rest.next()? {
                            escaped @ (b'"' | b'\\' | b'$' | b'`') => word.push((escaped, true)),
                            b'\n' => return None,
                            other => word.extend([(b'\\', true), (other, true)]),
                        },
                        quoted => word.push((quoted, true)),
                    }
                }
            }
            b'\\' => match rest.next()? {
                b'\n' => return None,
                escaped => word.get_or_insert_default().push((escaped, true)),
            },
            b'$' | b'`' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' | b'{' | b'}' | b'\n' | b'\r'
            | 0 => return None,
            b'#' | b'!' if word.is_none() => return None,
            plain => word.get_or_insert_default().push((plain, false)),
        }
    }
    words.extend(word);
    Some(words)
}

fn plain(word: &[Character]) -> Vec<u8> {
    word.iter().map(|(byte, _)| *byte).collect()
}

fn is_magic(byte: u8) -> bool {
    matches!(byte, b'*' | b'?' | b'[')
}

/// A path as it stands, unless a shell would make something else of it.
fn literal(word: &[Character]) -> Option<Vec<u8>> {
    if word.iter().any(|(byte, quoted)| is_magic(*byte) && !quoted) {
        return None;
    }
    Some(home(word, plain(word)))
}

/// A path in which patterns are those that were not quoted.
fn pattern(word: &[Character]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(word.len());
    for (byte, quoted) in word {
        if *byte == b'\\' || (*quoted && is_magic(*byte)) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    home(word, pattern)
}

/// A tilde that was quoted is no home directory.
fn home(word: &[Character], path: Vec<u8>) -> Vec<u8> {
    if word.first() == Some(&(b'~', true)) { [&b"./"[..], &path].concat() } else { path }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_clients_send_is_understood() {
        for (line, direction, flags, paths) in [
            ("scp -t .", Direction::Sink, "", &["."][..]),
            ("scp -v -r -p -d -t -- /tmp/x", Direction::Sink, "rpd", &["/tmp/x"]),
            ("scp -rpt 'a b'", Direction::Sink, "rp", &["a b"]),
            ("/usr/bin/scp -q -f x y", Direction::Source, "", &["x", "y"]),
            ("scp -f a\\ b", Direction::Source, "", &["a b"]),
            ("scp -f *.txt", Direction::Source, "", &["*.txt"]),
            ("scp -f '*.txt' \"[a]\"", Direction::Source, "", &["\\*.txt", "\\[a]"]),
            ("scp -f ~/x ~you/y '~/z' \\~", Direction::Source, "", &["~/x", "~you/y", "./~/z", "./~"]),
            ("scp -f \"a\\\"b\\c\"", Direction::Source, "", &["a\"b\\\\c"]),
            ("scp -f -- -x", Direction::Source, "", &["-x"]),
            ("scp -f ''", Direction::Source, "", &[""]),
            ("scp -f a#b x!y", Direction::Source, "", &["a#b", "x!y"]),
            ("scp -t '$(id)'", Direction::Sink, "", &["$(id)"]),
            ("scp -t \"*\"", Direction::Sink, "", &["*"]),
        ] {
            let parsed = ScpCommand::parse(line.as_bytes()).unwrap();
            let has = |flag| flags.contains(flag);
            assert_eq!(parsed.direction, direction, "{line}");
            assert_eq!(
                (parsed.recursive, parsed.preserve, parsed.into_dir),
                (has('r'), has('p'), has('d')),
                "{line}"
            );
            assert_eq!(parsed.paths, paths.iter().map(|path| path.as_bytes()).collect::<Vec<_>>(), "{line}");
            assert_eq!(parsed.line(), line.as_bytes());
        }
        assert_eq!(ScpCommand::parse(b"scp -t \xff").unwrap().paths, [b"\xff"]);
    }

    #[test]
    fn what_a_shell_has_to_understand_is_an_ordinary_command() {
        for line in [
            "",
            "scp",
            "scp x y",
            "scp -t",
            "scp -f",
            "scp -t a b",
            "scp -t -f x",
            "scp -S id -t x",
            "scp -t x; id",
            "scp -t x & id",
            "scp -t x | id",
            "scp -t $(id)",
            "scp -t `id`",
            "scp -t $HOME",
            "scp -t \"$HOME\"",
            "scp -t \"`id`\"",
            "scp -t x > y",
            "scp -t x\nid",
            "scp -t {a,b}",
            "scp -t *",
            "scp -t 'a",
            "scp -t \"a",
            "scp -t a\\",
            "scp -f x #y",
            "exec scp -t x",
            "LANG=C scp -t x",
            "./scp -t x",
            "/home/me/scp -t x",
            "sudo scp -t x",
            "scp -t x\0",
        ] {
            assert_eq!(ScpCommand::parse(line.as_bytes()), None, "{line:?}");
        }
    }
}
