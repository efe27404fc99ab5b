//! Reading figures in the text form of OpenMetrics: as much of it as our daemon writes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// The figures of one moment.
#[derive(Debug)]
pub(super) struct Page(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    /// Reads a page.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let figures = lines.map(|line| figure(line).with_context(|| format!("the line {line:?}")));
        let page = Self(figures.collect::<Result<_>>()?);
        ensure!(page.label("teleport_build_info", "version").is_some(), "it does not say its version");
        Ok(page)
    }

    /// All figures of this name with this label: its value and the figure.
    pub(super) fn by<'a>(&'a self, name: &'a str, label: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let named = self.0.iter().filter(move |figure| figure.name == name);
        named.filter_map(move |figure| Some((figure.labels.get(label)?.as_str(), figure.value)))
    }

    /// The sum of all figures of this name; `None` if there is none.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let mut named = self.0.iter().filter(|figure| figure.name == name).map(|figure| figure.value);
        let first = named.next()?;
        Some(first + named.sum::<f64>())
    }

    /// The sum of those figures of this name that have all of these labels.
    pub(super) fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |figure: &&Figure| {
            labels.iter().all(|(label, value)| figure.labels.get(*label).is_some_and(|own| own == value))
        };
        self.0.iter().filter(|figure| figure.name == name).filter(has).map(|figure| figure.value).sum()
    }

    /// A label of the first figure of this name.
    pub(super) fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.0.iter().find(|figure| figure.name == name)?.labels.get(label).map(String::as_str)
    }
}

/// `name{label="value",…} 1.5`
fn figure(line: &str) -> Result<Figure> {
    let end = line.find(['{', ' ']).context("there is no value")?;
    let (name, rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    let value = match rest.strip_prefix('{') {
        None => rest,
        Some(mut rest) => {
            while !rest.starts_with('}') {
                let (label, behind) = rest.split_once("=\"").context("a label has no value")?;
                let (value, behind) = quoted(behind)?;
                labels.insert(label.to_owned(), value);
                rest = behind.strip_prefix(',').unwrap_or(behind);
            }
            rest.strip_prefix('}').unwrap_or(rest)
        }
    };
    let value = value.split_ascii_whitespace().next().context("there is no value")?;
    Ok(Figure { name: name.to_owned(), labels, value: value.parse().context("the value is no number")? })
}

/// A value up to its closing quote, and what is behind it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            letter => value.push(letter),
        }
    }
    anyhow::bail!("a value does not end")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn figures_are_read() {
        let page = Page::parse(
            "# HELP a b.\nteleport_build_info{version=\"1.2\"} 1\nx{a=\"1,}\\\"\\n\",b=\"2\"} 2.5\nx{a=\"2\"} 1\n\
             y_bucket{le=\"+Inf\"} 7\n# EOF\n",
        )
        .unwrap();
        assert_eq!(page.label("teleport_build_info", "version"), Some("1.2"));
        assert_eq!(page.by("x", "a").collect::<Vec<_>>(), [("1,}\"\n", 2.5), ("2", 1.0)]);
        assert_eq!((page.sum("x"), page.sum("z")), (Some(3.5), None));
        assert!(page.of("x", &[("b", "2")]) == 2.5 && page.of("y_bucket", &[("le", "+Inf")]) == 7.0);
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in ["x", "x{", "x{a=\"1\" 2", "x{a} 1", "x{a=\"1\"} y", "<html>", "x 1"] {
            assert!(Page::parse(bad).is_err(), "{bad}");
        }
    }
}
