//! Patterns of file names: `*`, `?`, `[a-z]`, `[!a]`, and `\` before what is meant as it is.
//!
//! They are matched here: a server that is asked for `*.txt` lists what it likes, and gets in only what the user asked for.

/// One name's pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Any number of bytes.
    Any,
    /// One character.
    One,
    Byte(u8),
    Set {
        except: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Pattern {
    /// Reads the pattern of one name. A bracket that is not closed means itself.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            let token = match first {
                b'*' => Token::Any,
                b'?' => Token::One,
                b'[' => match set(after) {
                    Some((token, after)) => {
                        rest = after;
                        token
                    }
                    None => Token::Byte(b'['),
                },
                b'\\' => match after.split_first() {
                    Some((escaped, after)) => {
                        rest = after;
                        Token::Byte(*escaped)
                    }
                    None => Token::Byte(b'\\'),
                },
                byte => Token::Byte(*byte),
            };
            // Several stars are one; more would only take time.
            if token != Token::Any || tokens.last() != Some(&Token::Any) {
                tokens.push(token);
            }
        }
        Self { tokens }
    }

    /// The name that is meant if only one can be.
    pub(crate) fn literal(&self) -> Option<Vec<u8>> {
        self.tokens
            .iter()
            .map(|token| if let Token::Byte(byte) = token { Some(*byte) } else { None })
            .collect()
    }

    /// Whether a name is meant. Hidden ones are only if the pattern says the dot.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        if name.first() == Some(&b'.') && self.tokens.first() != Some(&Token::Byte(b'.')) {
            return false;
        }
        // Where to go on when what follows the last star does not fit: one byte further. Time is the product of both lengths at most.
        let (mut token, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match (self.tokens.get(token), name.get(at..).unwrap_or_default()) {
                (None, []) => return true,
                (Some(Token::Any), _) => {
                    star = Some((token, at));
                    token += 1;
                    continue;
                }
                (Some(wanted), rest) => wanted.takes(rest),
                (None, _) => None,
            };
            match (step, star) {
                (Some(bytes), _) => (token, at) = (token + 1, at + bytes),
                (None, Some((back, from))) if from < name.len() => {
                    star = Some((back, from + 1));
                    (token, at) = (back + 1, from + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    /// How many bytes of the front it takes, if it fits there.
    fn takes(&self, rest: &[u8]) -> Option<usize> {
        let first = *rest.first()?;
        match self {
            Self::Any => None,
            Self::Byte(byte) => (*byte == first).then_some(1),
            Self::One => Some(character(rest)),
            Self::Set { except, ranges } => {
                let within = ranges.iter().any(|(from, to)| (*from..=*to).contains(&first));
                let length = if *except { character(rest) } else { 1 };
                (within != *except).then_some(length)
            }
        }
    }
}

/// The bytes of the first character; of what is no UTF-8, one.
fn character(text: &[u8]) -> usize {
    let length = match text.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    match text.get(..length) {
        Some(character) if std::str::from_utf8(character).is_ok() => length,
        _ => 1,
    }
}

/// What stands behind an opening bracket, up to the closing one, which may be the first of the set.
fn set(text: &[u8]) -> Option<(Token, &[u8])> {
    let except = matches!(text.first(), Some(b'!' | b'^'));
    let mut rest = if except { text.get(1..)? } else { text };
    let mut ranges = Vec::new();
    loop {
        let (mut from, after) = rest.split_first()?;
        rest = after;
        match from {
            b']' if !ranges.is_empty() => return Some((Token::Set { except, ranges }, rest)),
            b'\\' => (from, rest) = rest.split_first()?,
            _ => {}
        }
        match rest {
            [b'-', to, after @ ..] if *to != b']' => {
                ranges.push((*from, *to));
                rest = after;
            }
            _ => ranges.push((*from, *from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_shells() {
        for (pattern, name, fits) in [
            ("*", "a", true),
            ("*", "", true),
            ("*", ".a", false),
            (".*", ".a", true),
            ("?a", ".a", false),
            ("[.]a", ".a", false),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.sh", false),
            ("*.txt", "../x.txt", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("a**c", "ac", true),
            ("?", "", false),
            ("?", "\u{e4}", true),
            ("??", "\u{e4}", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[^a]x", "ax", false),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("a[b", "a[b", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[\\]]", "]", true),
            ("a\\", "a\\", true),
            ("a", "b", false),
        ] {
            assert_eq!(Pattern::parse(pattern.as_bytes()).matches(name.as_bytes()), fits, "{pattern} {name}");
        }
        assert!(Pattern::parse(b"\xff*").matches(b"\xff\xfe"));
    }

    #[test]
    fn what_has_no_magic_is_a_name() {
        for (pattern, literal) in
            [("a", Some("a")), ("a\\*b", Some("a*b")), ("[", Some("[")), ("a*", None), ("[a]", None)]
        {
            let parsed = Pattern::parse(pattern.as_bytes()).literal();
            assert_eq!(parsed.as_deref(), literal.map(str::as_bytes), "{pattern}");
        }
    }

    #[test]
    fn stars_take_no_time() {
        let pattern = "a*".repeat(60) + "b";
        assert!(!Pattern::parse(pattern.as_bytes()).matches(&[b'a'; 255]));
    }
}
