//! Characters to tokens.

use super::Mistake;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    And,
    BracketClose,
    BracketOpen,
    /// `}}`
    Close,
    Comma,
    Dot,
    End,
    Equal,
    Not,
    NotEqual,
    Or,
    ParenClose,
    ParenOpen,
    Text(String),
    Word(String),
}

impl Token {
    /// For messages.
    pub(super) fn describe(&self) -> String {
        let text = match self {
            Self::And => "`&&`",
            Self::BracketClose => "`]`",
            Self::BracketOpen => "`[`",
            Self::Close => "`}}`",
            Self::Comma => "`,`",
            Self::Dot => "`.`",
            Self::End => "the end",
            Self::Equal => "`==`",
            Self::Not => "`!`",
            Self::NotEqual => "`!=`",
            Self::Or => "`||`",
            Self::ParenClose => "`)`",
            Self::ParenOpen => "`(`",
            Self::Text(text) => return format!("the text {text:?}"),
            Self::Word(word) => return format!("`{word}`"),
        };
        text.to_owned()
    }
}

/// Cuts a text into tokens, one at a time.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(source: &'a str, at: usize) -> Self {
        Self { source, at }
    }

    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token), Mistake> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        let at = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((at, Token::End)) };
        for (symbol, token) in [
            ("&&", Token::And),
            ("||", Token::Or),
            ("==", Token::Equal),
            ("!=", Token::NotEqual),
            ("}}", Token::Close),
            ("!", Token::Not),
            ("(", Token::ParenOpen),
            (")", Token::ParenClose),
            ("[", Token::BracketOpen),
            ("]", Token::BracketClose),
            (",", Token::Comma),
            (".", Token::Dot),
        ] {
            if rest.starts_with(symbol) {
                self.at += symbol.len();
                return Ok((at, token));
            }
        }
        if first == '"' || first == '`' {
            return self.text(at, first).map(|text| (at, Token::Text(text)));
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let part_of_word =
                |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
            let word = rest.split(|letter: char| !part_of_word(letter)).next().unwrap_or_default();
            self.at += word.len();
            return Ok((at, Token::Word(word.to_owned())));
        }
        let mistake = Mistake::new(at, format!("{first:?} has no meaning here"));
        Err(match first {
            '&' => mistake.hint("and is written `&&`"),
            '|' => mistake.hint("or is written `||`"),
            '=' => mistake.hint("equality is written `==`"),
            '\'' | '“' | '”' | '‘' | '’' => mistake.hint("texts stand in double quotes: \"…\""),
            '0'..='9' => mistake.hint("values are texts, in double quotes"),
            '<' | '>' => mistake.hint("there are only `==` and `!=`"),
            _ => mistake,
        })
    }

    fn text(&mut self, at: usize, quote: char) -> Result<String, Mistake> {
        let mut text = String::new();
        let mut letters = self.rest().char_indices().skip(1);
        while let Some((index, letter)) = letters.next() {
            if letter == quote {
                self.at += index + 1;
                return Ok(text);
            }
            if letter != '\\' || quote == '`' {
                text.push(letter);
                continue;
            }
            match letters.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                Some((_, 'n')) => text.push('\n'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, 't')) => text.push('\t'),
                Some((_, other)) => {
                    let mistake = Mistake::new(at + index, format!("`\\{other}` is no escape"));
                    return Err(mistake.hint("write `\\\\` for a backslash, or quote with ` instead of \""));
                }
                None => break,
            }
        }
        Err(Mistake::new(at, "the text has no end").hint(format!("add the closing {quote}")))
    }
}
