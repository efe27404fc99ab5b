//! Whether and how a session is recorded: what the cluster, the node's labels and the user's roles say, made into one answer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::label::{LabelMatcher, Labels};
use crate::resource::RecordingMode;

/// The most rules of a cluster.
pub const MAX_RECORDING_RULES: usize = 256;

/// Where recordings of sessions are made, as configurations name it. In the order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecordAt {
    /// Nowhere. The start and the end of sessions are in the audit log all the same.
    Off,
    /// At the node, on its disk, and delivered in the background.
    #[default]
    Node,
    /// At the node, and the auth service has what is shown before it is shown.
    NodeSync,
}

impl RecordAt {
    /// The name, as in configurations and audit events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Node => "node",
            Self::NodeSync => "node-sync",
        }
    }
}

impl fmt::Display for RecordAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not a way to record sessions that is known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownRecordAt {
    /// One that comes with a later version.
    #[error(
        "{0:?} comes with a later version: sessions are recorded by the node that runs them; write node, node-sync or off"
    )]
    Later(&'static str),
    /// No such word.
    #[error("{0:?} is no way to record sessions; write node, node-sync or off")]
    Word(String),
}

impl FromStr for RecordAt {
    type Err = UnknownRecordAt;

    fn from_str(text: &str) -> Result<Self, UnknownRecordAt> {
        match text {
            "node" => Ok(Self::Node),
            "node-sync" => Ok(Self::NodeSync),
            "off" => Ok(Self::Off),
            "proxy" => Err(UnknownRecordAt::Later("proxy")),
            "proxy-sync" => Err(UnknownRecordAt::Later("proxy-sync")),
            other => Err(UnknownRecordAt::Word(other.to_owned())),
        }
    }
}

impl Serialize for RecordAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// `off` is a boolean to some readers of YAML.
impl<'de> Deserialize<'de> for RecordAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = RecordAt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("node, node-sync or off")
            }
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<RecordAt, E> {
                if on { Err(E::custom(UnknownRecordAt::Word("on".to_owned()))) } else { Ok(RecordAt::Off) }
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RecordAt, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// How sessions on some nodes are recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "configurations build it")]
pub struct RecordingRule {
    /// On which nodes.
    pub node_labels: LabelMatcher,
    /// How.
    pub mode: RecordAt,
}

/// How the cluster records sessions: a mode for all nodes, and rules for those with certain labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "configurations build it")]
pub struct ClusterRecording {
    /// For nodes that no rule is about.
    pub mode: RecordAt,
    /// For nodes with certain labels; the strictest of those that match counts.
    pub rules: Vec<RecordingRule>,
}

/// How one session is recorded, and what happens when that cannot be done. In the order of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SessionRecording {
    /// It is not.
    Off,
    /// At the node. What cannot be kept is a gap in the recording.
    BestEffort,
    /// At the node, without gaps: programs wait for the disk, and a session whose recording cannot be kept ends.
    Strict,
    /// As [`Strict`](Self::Strict), and nothing is shown that the auth service has not acknowledged.
    Sync,
}

impl SessionRecording {
    /// Where it is recorded.
    pub const fn at(self) -> RecordAt {
        match self {
            Self::Off => RecordAt::Off,
            Self::BestEffort | Self::Strict => RecordAt::Node,
            Self::Sync => RecordAt::NodeSync,
        }
    }

    /// Whether the session ends when its recording cannot be kept.
    pub const fn is_strict(self) -> bool {
        matches!(self, Self::Strict | Self::Sync)
    }
}

/// The rules cannot be decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecordingRules {
    /// A rule without labels.
    #[error("rule {0}: node_labels is empty and matches no node; write {{\"*\": \"*\"}} for every node")]
    MatchesNothing(usize),
    /// A rule that asks for a user.
    #[error("rule {0}: node_labels has a template, and rules for nodes know no user")]
    Template(usize),
    /// More than [`MAX_RECORDING_RULES`].
    #[error("there are more than {MAX_RECORDING_RULES} rules")]
    TooMany,
}

impl ClusterRecording {
    /// A mode and rules that can be decided by.
    ///
    /// # Errors
    /// [`InvalidRecordingRules`]: rules that never match would be obeyed by nobody.
    pub fn new(mode: RecordAt, rules: Vec<RecordingRule>) -> Result<Self, InvalidRecordingRules> {
        if rules.len() > MAX_RECORDING_RULES {
            return Err(InvalidRecordingRules::TooMany);
        }
        for (number, rule) in (1..).zip(&rules) {
            if rule.node_labels.is_empty() {
                return Err(InvalidRecordingRules::MatchesNothing(number));
            }
            if rule.node_labels.source().values().flatten().any(|value| value.contains("{{")) {
                return Err(InvalidRecordingRules::Template(number));
            }
        }
        Ok(Self { mode, rules })
    }

    /// How a session on a node with these labels is recorded, by grace of roles that together say `roles`.
    ///
    /// | first that applies | then |
    /// | --- | --- |
    /// | rules match the node | the strictest of them |
    /// | every role of the user says `off` | off |
    /// | | the cluster's mode |
    ///
    /// A role that says `strict` makes it strict at least, whatever the rest says.
    pub fn decide(&self, node: &Labels, roles: RecordingMode) -> SessionRecording {
        let matching = self.rules.iter().filter(|rule| rule.node_labels.matches(node));
        let at = match matching.map(|rule| rule.mode).max() {
            Some(mode) => mode,
            None if roles == RecordingMode::Off => RecordAt::Off,
            None => self.mode,
        };
        let by_place = match at {
            RecordAt::Off => SessionRecording::Off,
            RecordAt::Node => SessionRecording::BestEffort,
            RecordAt::NodeSync => SessionRecording::Sync,
        };
        match roles {
            RecordingMode::Strict => by_place.max(SessionRecording::Strict),
            RecordingMode::BestEffort | RecordingMode::Off => by_place,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn cluster(mode: &str, rules: &[(&str, &str)]) -> ClusterRecording {
        let rule = |(labels, mode): &(&str, &str)| RecordingRule {
            node_labels: serde_json::from_str(labels).unwrap(),
            mode: mode.parse().unwrap(),
        };
        ClusterRecording { mode: mode.parse().unwrap(), rules: rules.iter().map(rule).collect() }
    }

    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], [SessionRecording; 3]);

    #[test]
    fn the_strictest_wins_and_a_rule_is_nearer_than_a_role_that_says_off() {
        use RecordingMode as Role;
        use SessionRecording::{BestEffort, Off, Strict, Sync};
        // Role:                                     off,   best,       strict
        let rows: [Row<'_>; 12] = [
            ("off", &[], [Off, Off, Strict]),
            ("node", &[], [Off, BestEffort, Strict]),
            ("node-sync", &[], [Off, Sync, Sync]),
            ("off", &[(r#"{"env":"prod"}"#, "node")], [BestEffort, BestEffort, Strict]),
            ("node", &[(r#"{"env":"prod"}"#, "node")], [BestEffort, BestEffort, Strict]),
            ("node", &[(r#"{"env":"prod"}"#, "node-sync")], [Sync, Sync, Sync]),
            ("node-sync", &[(r#"{"env":"prod"}"#, "node")], [BestEffort, BestEffort, Strict]),
            ("node-sync", &[(r#"{"env":"prod"}"#, "off")], [Off, Off, Strict]),
            // Of several that match the strictest, in any order.
            (
                "off",
                &[(r#"{"env":"prod"}"#, "off"), (r#"{"*":"*"}"#, "node")],
                [BestEffort, BestEffort, Strict],
            ),
            ("off", &[(r#"{"*":"*"}"#, "node-sync"), (r#"{"env":"prod"}"#, "off")], [Sync, Sync, Sync]),
            // Those for other nodes are nothing.
            ("node", &[(r#"{"env":"test"}"#, "off")], [Off, BestEffort, Strict]),
            ("node", &[("{}", "node-sync")], [Off, BestEffort, Strict]),
        ];
        let labels: Labels = "env=prod".parse().unwrap();
        for (mode, rules, expected) in rows {
            let cluster = cluster(mode, rules);
            let decided =
                [Role::Off, Role::BestEffort, Role::Strict].map(|role| cluster.decide(&labels, role));
            assert_eq!(decided, expected, "{mode} {rules:?}");
        }
    }

    #[test]
    fn rules_that_match_nothing_are_refused() {
        let rule = |labels: &str| RecordingRule {
            node_labels: serde_json::from_str(labels).unwrap(),
            mode: RecordAt::Off,
        };
        let new =
            |labels: &str| ClusterRecording::new(RecordAt::Node, vec![rule(r#"{"a":"b"}"#), rule(labels)]);
        assert_eq!(new("{}"), Err(InvalidRecordingRules::MatchesNothing(2)));
        assert_eq!(new(r#"{"a":"{{internal.b}}"}"#), Err(InvalidRecordingRules::Template(2)));
        assert!(new(r#"{"a":["b*", "^c{2}$"]}"#).is_ok());
        let many = vec![rule(r#"{"a":"b"}"#); MAX_RECORDING_RULES + 1];
        assert_eq!(ClusterRecording::new(RecordAt::Node, many), Err(InvalidRecordingRules::TooMany));
    }

    #[test]
    fn modes_of_later_versions_are_named_and_others_refused() {
        for mode in [RecordAt::Off, RecordAt::Node, RecordAt::NodeSync] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            let json = serde_json::to_string(&mode).unwrap();
            assert_eq!(serde_json::from_str::<RecordAt>(&json).unwrap(), mode);
        }
        assert_eq!(serde_json::from_str::<RecordAt>("false").unwrap(), RecordAt::Off);
        for later in ["proxy", "proxy-sync"] {
            let error = later.parse::<RecordAt>().unwrap_err().to_string();
            assert!(error.contains("later version") && error.contains("node-sync"), "{error}");
        }
        for bad in ["\"\"", "\"on\"", "true", "\"Node\"", "1"] {
            assert!(serde_json::from_str::<RecordAt>(bad).is_err(), "{bad}");
        }
    }
}
