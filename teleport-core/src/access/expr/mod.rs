//! Expressions: the common syntax of templates and predicates, without meaning.
//!
//! ```text
//! or      := and ( "||" and )*
//! and     := unary ( "&&" unary )*
//! unary   := "!" unary | compare
//! compare := primary ( ( "==" | "!=" ) primary )?
//! primary := "(" or ")" | text | "true" | "false" | path ( "(" [ or ( "," or )* ] ")" )?
//! path    := word ( "." word | "[" text "]" )*
//! text    := "…" with \" \\ \n \r \t, or `…` as it is
//! ```

mod lexer;
mod parser;
#[cfg(test)]
mod tests;

pub(super) use self::parser::{parse, parse_braced};

/// The longest expression, in bytes.
pub const MAX_EXPRESSION_LEN: usize = 4096;
/// How deep parentheses, negations and calls may be nested.
pub const MAX_EXPRESSION_DEPTH: usize = 32;

/// A predicate or a template is malformed: where, why, and what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}column {column}: {message}{}", line_prefix(*line), hint_suffix(hint.as_deref()))]
#[non_exhaustive]
pub struct InvalidExpression {
    /// The line, from 1. Displayed if it is not the first.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

fn line_prefix(line: usize) -> String {
    if line > 1 { format!("line {line}, ") } else { String::new() }
}

fn hint_suffix(hint: Option<&str>) -> String {
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

impl InvalidExpression {
    /// The line of `source` that is wrong, and under it a mark at the column.
    pub fn diagram(&self, source: &str) -> String {
        let line = source.lines().nth(self.line - 1).unwrap_or_default();
        format!("{line}\n{}^", " ".repeat(self.column - 1))
    }
}

/// A mistake at a byte offset; becomes an [`InvalidExpression`] where the whole text is known.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Mistake {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn in_source(self, source: &str) -> InvalidExpression {
        // The offset is that of a character; should it not be, the mark is somewhat off.
        let before = source.get(..self.at).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |feed| feed + 1);
        InvalidExpression {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message: self.message,
            hint: self.hint,
        }
    }
}

/// An expression and where it begins.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) kind: ExprKind,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    And(Vec<Expr>),
    Bool(bool),
    Call {
        name: String,
        args: Vec<Expr>,
    },
    /// `==`, or `!=` if negated.
    Equal {
        left: Box<Expr>,
        right: Box<Expr>,
        negated: bool,
    },
    Not(Box<Expr>),
    Or(Vec<Expr>),
    Path(Vec<String>),
    Text(String),
}
