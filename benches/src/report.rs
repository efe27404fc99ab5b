//! The table.

use std::fmt;

/// What a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "two directions")]
pub enum Goal {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
    /// None: it stands there for comparison.
    Free,
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) => Some(value <= most),
            Self::Free => None,
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "every bench builds it")]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The unit of both figures.
    pub unit: &'static str,
    /// Our figure.
    pub ours: f64,
    /// Whose figure stands beside it, and that figure.
    pub baseline: Option<(&'static str, f64)>,
    /// Of the ratio ours / baseline if there is a baseline, else of our figure.
    pub goal: Goal,
}

impl Row {
    /// A line without a baseline.
    pub fn alone(what: impl Into<String>, unit: &'static str, ours: f64, goal: Goal) -> Self {
        Self { what: what.into(), unit, ours, baseline: None, goal }
    }

    /// A line with a baseline; the goal is of the ratio.
    pub fn against(
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        baseline: (&'static str, f64),
        goal: Goal,
    ) -> Self {
        Self { what: what.into(), unit, ours, baseline: Some(baseline), goal }
    }

    fn judged(&self) -> f64 {
        self.baseline.map_or(self.ours, |(_, baseline)| self.ours / baseline)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let baseline = self.baseline.map(|(name, value)| format!("{} {name}", number(value)));
        let ratio = self.baseline.map(|_| number(self.judged()));
        let times = if self.baseline.is_some() { " x" } else { "" };
        let goal = match self.goal {
            Goal::AtLeast(least) => format!(">= {}{times}", number(least)),
            Goal::AtMost(most) => format!("<= {}{times}", number(most)),
            Goal::Free => String::new(),
        };
        let met = match self.goal.is_met(self.judged()) {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        write!(
            f,
            "{:<52} {:>10} {:<8} {:>22} {:>7}  {:<10} {met}",
            self.what,
            number(self.ours),
            self.unit,
            baseline.unwrap_or_default(),
            ratio.unwrap_or_default(),
            goal,
        )
    }
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:<52} {:>10} {:<8} {:>22} {:>7}  {:<10} met",
        "what", "ours", "unit", "baseline", "ratio", "goal"
    )
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        huge if huge >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of some figures; not a number without any.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_of_the_ratio_if_there_is_one() {
        let row = Row::against("a", "ms", 2.0, ("sshd", 40.0), Goal::AtMost(0.1));
        assert!(row.to_string().contains("40.0 sshd") && row.to_string().ends_with("yes"), "{row}");
        let row = Row::alone("a", "MB", 21.0, Goal::AtMost(20.0));
        assert!(row.to_string().ends_with("NO"), "{row}");
        assert!(median(vec![3.0, 1.0, 2.0]) == 2.0 && median(Vec::new()).is_nan());
    }
}
