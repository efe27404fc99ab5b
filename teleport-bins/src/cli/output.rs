//! Tables for people, JSON and YAML for programs.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use serde::Serialize;

/// How a list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON.
    Json,
    /// A table.
    #[default]
    Text,
    /// YAML.
    Yaml,
}

impl Format {
    /// Writes `value` as JSON or YAML to stdout, or calls `text`.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn print<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self {
            Self::Json => print_json(value),
            Self::Yaml => print_text(&serde_saphyr::to_string(value)?),
            Self::Text => print_text(&text()),
        }
    }
}

/// Writes indented JSON to stdout.
///
/// # Errors
/// Those of stdout.
pub fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print_text(&json_text(&serde_json::to_string_pretty(value)?))
}

/// Writes text to stdout, with one line feed at its end.
///
/// # Errors
/// Those of stdout.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // `tsh ls | head -1` is not an error.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A table: a row of headings, a row of dashes, the rows; columns are left-aligned, one space apart.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    let style = TableStyle::new()
        .header_lines(ContentLineStyle::none())
        .header_separator(LineStyle::none().fill('-'))
        .content_lines(ContentLineStyle::none());
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| sanitize(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A table whose lines fit the terminal, if there is one: what is too long ends with an ellipsis. Not for programs that read.
pub fn fit(table: &str) -> String {
    use std::io::IsTerminal;
    let columns = std::io::stdout().is_terminal().then(crossterm::terminal::size);
    match columns {
        Some(Ok((columns, _))) => cut(table, columns.into()),
        _ => table.to_owned(),
    }
}

fn cut(table: &str, columns: usize) -> String {
    let line = |line: &str| {
        if columns == 0 || line.chars().count() <= columns {
            return line.to_owned();
        }
        let rest: String = line.chars().take(columns.saturating_sub(1)).collect();
        format!("{rest}…")
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// JSON in which every control character is escaped: it need not be above U+007E, and some terminals act on those.
pub fn json_text(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => text.push(letter),
        }
    }
    text
}

/// Text from elsewhere without control characters: what a node calls itself must not drive this terminal.
pub fn sanitize(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain() {
        let text = table(
            ["Node Name", "Labels"],
            [["web-1".to_owned(), "a=1".to_owned()], ["x".to_owned(), String::new()]],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["Node Name Labels", "-----------------", "web-1     a=1", "x"]);
    }

    #[test]
    fn long_lines_end_with_an_ellipsis() {
        assert_eq!(cut("Name\nabcdé=1", 6), "Name\nabcdé…");
        assert_eq!(cut("abcdef\nabc", 6), "abcdef\nabc");
        assert_eq!(cut("abc", 0), "abc");
    }

    #[test]
    fn f4_json_has_no_control_characters() {
        let value = "a\u{1b}\u{7f}\u{9b}6né";
        let text = json_text(&serde_json::Value::from(value).to_string());
        assert_eq!(text, r#""a\u001b\u007f\u009b6né""#);
        assert_eq!(serde_json::from_str::<String>(&text).ok().as_deref(), Some(value));
    }

    #[test]
    fn f4_escapes_are_removed() {
        assert_eq!(sanitize("a\u{1b}[2Jb\r\n\u{9b}c"), "a[2Jbc");
    }
}
