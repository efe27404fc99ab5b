//! Tables that people read and tests compare.

use std::fmt::Write as _;
use std::path::Path;

/// A table of texts: a heading and rows.
pub(crate) struct Table {
    text: String,
    width: usize,
    columns: Vec<usize>,
}

impl Table {
    /// `legend` stands above the table, a line each.
    pub(crate) fn new(legend: &[&str], corner: &str, width: usize, columns: &[&str]) -> Self {
        let text = legend.iter().map(|line| format!("# {line}\n")).collect();
        let mut table = Self { text, width, columns: columns.iter().map(|name| name.len().max(8)).collect() };
        table.row(corner, columns);
        table
    }

    pub(crate) fn row<T: AsRef<str>>(&mut self, name: &str, cells: &[T]) {
        assert_eq!(cells.len(), self.columns.len(), "{name}");
        write!(self.text, "{name:<width$}", width = self.width).unwrap();
        for (cell, width) in cells.iter().zip(&self.columns) {
            write!(self.text, " {:<width$}", cell.as_ref()).unwrap();
        }
        self.text.truncate(self.text.trim_end().len());
        self.text.push('\n');
    }

    /// A change of the table must be seen. To accept one: `UPDATE_GOLDEN=1 cargo test matrix`.
    pub(crate) fn is_golden(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &self.text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        for (is, was) in self.text.lines().zip(golden.lines()) {
            assert_eq!(is, was, "{}", path.display());
        }
        assert_eq!(self.text, golden, "{}", path.display());
    }
}
