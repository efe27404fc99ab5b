//! Tokens to expressions, by recursive descent within a bounded depth.

use super::lexer::{Lexer, Token};
use super::{Expr, ExprKind, MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_LEN, Mistake};

/// Parses a whole text.
pub(in crate::access) fn parse(source: &str) -> Result<Expr, Mistake> {
    let mut parser = Parser::new(source, 0)?;
    let parsed = parser.or()?;
    match &parser.token {
        Token::End => Ok(parsed),
        _ => Err(parser.unexpected("the end, `&&` or `||`")),
    }
}

/// Parses what begins at the offset `at` and ends with `}}`; also returns the offset behind the braces.
pub(in crate::access) fn parse_braced(source: &str, at: usize) -> Result<(Expr, usize), Mistake> {
    let mut parser = Parser::new(source, at)?;
    let parsed = parser.or()?;
    match &parser.token {
        Token::Close => Ok((parsed, parser.at + 2)),
        Token::End => Err(Mistake::new(parser.at, "`{{` is not closed").hint("add `}}`")),
        _ => Err(parser.unexpected("`}}`")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that comes next, and where it begins.
    token: Token,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, at: usize) -> Result<Self, Mistake> {
        if source.len() > MAX_EXPRESSION_LEN {
            return Err(Mistake::new(0, format!("longer than {MAX_EXPRESSION_LEN} bytes")));
        }
        let mut lexer = Lexer::new(source, at);
        let (at, token) = lexer.next()?;
        Ok(Self { lexer, token, at, depth: 0 })
    }

    /// Goes on to the next token; returns the one that was.
    fn advance(&mut self) -> Result<Token, Mistake> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn unexpected(&self, wanted: &str) -> Mistake {
        let mistake = Mistake::new(self.at, format!("expected {wanted}, found {}", self.token.describe()));
        match &self.token {
            Token::Word(word) if word.eq_ignore_ascii_case("and") => mistake.hint("and is written `&&`"),
            Token::Word(word) if word.eq_ignore_ascii_case("or") => mistake.hint("or is written `||`"),
            Token::Word(word) if word.eq_ignore_ascii_case("in") => {
                mistake.hint("membership is written contains(list, item)")
            }
            Token::Equal | Token::NotEqual => {
                mistake.hint("comparisons are not chained; join them with `&&`")
            }
            _ => mistake,
        }
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), Mistake> {
        if self.token == *wanted {
            return self.advance().map(drop);
        }
        Err(self.unexpected(&wanted.describe()))
    }

    fn nested(&mut self, parse: fn(&mut Self) -> Result<Expr, Mistake>) -> Result<Expr, Mistake> {
        self.depth += 1;
        if self.depth > MAX_EXPRESSION_DEPTH {
            return Err(Mistake::new(self.at, format!("nested more than {MAX_EXPRESSION_DEPTH} deep")));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// `part (symbol part)*`; a list, so that a long chain is not deep.
    fn chain(
        &mut self,
        symbol: &Token,
        part: fn(&mut Self) -> Result<Expr, Mistake>,
        join: fn(Vec<Expr>) -> ExprKind,
    ) -> Result<Expr, Mistake> {
        let first = part(self)?;
        if self.token != *symbol {
            return Ok(first);
        }
        let at = first.at;
        let mut parts = vec![first];
        while self.token == *symbol {
            self.advance()?;
            parts.push(part(self)?);
        }
        Ok(Expr { at, kind: join(parts) })
    }

    fn or(&mut self) -> Result<Expr, Mistake> {
        self.chain(&Token::Or, Self::and, ExprKind::Or)
    }

    fn and(&mut self) -> Result<Expr, Mistake> {
        self.chain(&Token::And, Self::unary, ExprKind::And)
    }

    fn unary(&mut self) -> Result<Expr, Mistake> {
        let at = self.at;
        if self.token == Token::Not {
            self.advance()?;
            let inner = self.nested(Self::unary)?;
            return Ok(Expr { at, kind: ExprKind::Not(Box::new(inner)) });
        }
        let left = self.primary()?;
        let negated = self.token == Token::NotEqual;
        if !negated && self.token != Token::Equal {
            return Ok(left);
        }
        self.advance()?;
        let right = self.primary()?;
        Ok(Expr { at, kind: ExprKind::Equal { left: Box::new(left), right: Box::new(right), negated } })
    }

    fn primary(&mut self) -> Result<Expr, Mistake> {
        let at = self.at;
        match &self.token {
            Token::ParenOpen => {
                self.advance()?;
                let inner = self.nested(Self::or)?;
                self.expect(&Token::ParenClose)?;
                Ok(inner)
            }
            Token::Text(_) => match self.advance()? {
                Token::Text(text) => Ok(Expr { at, kind: ExprKind::Text(text) }),
                _ => Err(self.unexpected("a text")),
            },
            Token::Word(word) if word == "true" || word == "false" => {
                let value = word == "true";
                self.advance()?;
                Ok(Expr { at, kind: ExprKind::Bool(value) })
            }
            Token::Word(word) if word.eq_ignore_ascii_case("not") => {
                Err(self.unexpected("a condition").hint("not is written `!`"))
            }
            Token::Word(_) => self.path(),
            _ => Err(self.unexpected("a name, a text or `(`")),
        }
    }

    fn path(&mut self) -> Result<Expr, Mistake> {
        let at = self.at;
        let mut steps = Vec::new();
        loop {
            match &self.token {
                Token::Word(word) => {
                    steps.push(word.clone());
                    self.advance()?;
                }
                _ => return Err(self.unexpected("a name")),
            }
            while self.token == Token::BracketOpen {
                self.advance()?;
                match &self.token {
                    Token::Text(key) => steps.push(key.clone()),
                    Token::Word(word) => {
                        let hint = format!("write [\"{word}\"]");
                        return Err(self.unexpected("a text in double quotes").hint(hint));
                    }
                    _ => return Err(self.unexpected("a text in double quotes")),
                }
                self.advance()?;
                self.expect(&Token::BracketClose)?;
            }
            if self.token != Token::Dot {
                break;
            }
            self.advance()?;
        }
        if self.token != Token::ParenOpen {
            return Ok(Expr { at, kind: ExprKind::Path(steps) });
        }
        self.advance()?;
        let mut args = Vec::new();
        while self.token != Token::ParenClose {
            if !args.is_empty() {
                if self.token != Token::Comma {
                    return Err(self.unexpected("`,` or `)`"));
                }
                self.advance()?;
            }
            args.push(self.nested(Self::or)?);
        }
        self.advance()?;
        Ok(Expr { at, kind: ExprKind::Call { name: steps.join("."), args } })
    }
}
