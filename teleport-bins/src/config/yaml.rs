//! YAML (and JSON, which is YAML) as operators write it: what is wrong with it is one line with its place.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};
use teleport_core::resource::{DocumentProblem, LoadedDocument, load_document, plain_words};

/// How many mistakes of one document are told at once.
const TOLD: usize = 5;

/// One line for an error of the parser: the place and, for an unknown key, the key that was probably meant.
pub(crate) fn explain(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default();
    let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
    let suggestion = unknown_key(message).map(|meant| format!("; did you mean `{meant}`?"));
    // The library may say the place itself; once is enough.
    let message = match message.find(" at line ") {
        Some(at) => &message[..at],
        None => message,
    };
    let message = plain_words(message);
    format!("{}{message}{}", place.unwrap_or_default(), suggestion.unwrap_or_default())
}

/// The key that was probably meant by the one that serde complains of.
fn unknown_key(message: &str) -> Option<&str> {
    let rest = message.split_once("unknown field `")?.1;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split_once("expected ")?.1;
    let known = known.strip_prefix("one of ").unwrap_or(known);
    known
        .split(',')
        .map(|known| known.trim().trim_matches('`'))
        .map(|known| (strsim::damerau_levenshtein(key, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

/// A resource as it was written, and where its parts are.
#[derive(Debug)]
pub(crate) struct Located {
    value: Value,
    /// By the path, as problems name it.
    places: BTreeMap<String, Location>,
}

/// A resource that was read.
#[derive(Debug)]
pub(crate) struct LocatedDocument {
    /// What it describes, and what of it is ignored, with the line.
    pub(crate) loaded: LoadedDocument,
    /// Where it begins.
    pub(crate) line: u64,
}

/// Reads all resources of a text: documents of YAML, or lists of them, or JSON.
///
/// # Errors
/// One line with the place.
pub(crate) fn resources(text: &str) -> Result<Vec<LocatedDocument>, String> {
    parse(text)?.iter().map(Located::load).collect()
}

/// Splits a text into resources, which are not looked at yet.
fn parse(text: &str) -> Result<Vec<Located>, String> {
    let mut options = serde_saphyr::Options::default();
    // `no` is a country and a login.
    options.strict_booleans = true;
    // A backup has no natural bound; aliases keep theirs.
    options.budget = None;
    options.with_snippet = false;
    let documents: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| explain(&error))?;
    let mut all = Vec::new();
    for document in documents {
        match document.value {
            Node::List(items) => all.extend(items),
            _ => all.push(document),
        }
    }
    Ok(all.into_iter().map(Located::new).collect())
}

impl Located {
    fn new(document: Spanned<Node>) -> Self {
        let mut places = BTreeMap::from([(String::new(), document.referenced)]);
        let value = document.value.flatten("", &mut places);
        Self { value, places }
    }

    fn load(&self) -> Result<LocatedDocument, String> {
        let mut loaded = load_document(&self.value).map_err(|error| {
            let mut told: Vec<String> =
                error.problems.iter().take(TOLD).map(|problem| self.tell(problem)).collect();
            if let Some(more) = error.problems.len().checked_sub(TOLD).filter(|more| *more > 0) {
                told.push(format!("and {more} more"));
            }
            told.join("; ")
        })?;
        for line in &mut loaded.ignored {
            let path = line.split(": ").next().unwrap_or_default();
            *line = format!("{}: {line}", self.place(path));
        }
        let line = self.places.get("").map_or(0, Location::line);
        Ok(LocatedDocument { loaded, line })
    }

    fn tell(&self, problem: &DocumentProblem) -> String {
        format!("{}: {problem}", self.place(&problem.path))
    }

    /// The place of the innermost part of the path that was written.
    fn place(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some(at) = self.places.get(path) {
                return format!("line {}, column {}", at.line(), at.column());
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }
}

/// A value with the places of its parts.
#[derive(Debug)]
enum Node {
    Leaf(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn flatten(self, path: &str, places: &mut BTreeMap<String, Location>) -> Value {
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => {
                let items = items.into_iter().enumerate().map(|(index, item)| {
                    let path = format!("{path}[{index}]");
                    places.insert(path.clone(), item.referenced);
                    item.value.flatten(&path, places)
                });
                Value::Array(items.collect())
            }
            Self::Map(entries) => {
                let entries = entries.into_iter().map(|(key, value)| {
                    let path =
                        if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                    places.insert(path.clone(), key.referenced);
                    (key.value, value.flatten(&path, places))
                });
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
                let number = Number::from_f64(value).ok_or_else(|| E::custom("not a number"))?;
                Ok(Node::Leaf(number.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries: Vec<(Spanned<String>, Node)> = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use teleport_core::resource::Document;

    use super::*;

    const ROLE: &str =
        "kind: role\nversion: v1\nmetadata:\n  name: ops\nspec:\n  allow:\n    logins: [deploy, no]\n";

    #[test]
    fn documents_lists_and_json_are_the_same() {
        let json = r#"[{"kind":"role","version":"v1","metadata":{"name":"ops"},
            "spec":{"allow":{"logins":["deploy","no"]}}}]"#;
        let yaml = format!("# a comment\n---\n{ROLE}");
        for text in [ROLE, json, &yaml] {
            let read = resources(text).unwrap();
            let [LocatedDocument { loaded, .. }] = read.as_slice() else { unreachable!("{read:?}") };
            let Document::Role(role) = &loaded.document else { unreachable!("{loaded:?}") };
            assert_eq!(role.spec.allow.logins, ["deploy", "no"], "no is a word here");
        }
        let two = resources(&format!("{ROLE}---\n{ROLE}")).unwrap();
        assert_eq!(two.iter().map(|document| document.line).collect::<Vec<_>>(), [1, 9]);
        assert!(resources("").unwrap().is_empty());
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (from, to, parts) in [
            ("    logins", "    logisn", ["line 7, column 5: spec.allow.logisn", "did you mean \"logins\"?"]),
            ("kind: role", "kind: roel", ["line 1, column 1: kind", "did you mean \"role\"?"]),
            ("version: v1", "version: v9", ["line 2, column 1: version", "v1"]),
            ("[deploy, no]", "[\"{{x\"]", ["line 7, column 14: spec.allow.logins[0]", ""]),
            ("spec:", "spec: [", ["line ", ""]),
            ("  name: ops", "  name: ops\n  name: two", ["line 5", "name"]),
        ] {
            let error = resources(&ROLE.replace(from, to)).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{to}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let second = format!("{ROLE}---\n{}", ROLE.replace("spec:", "spac:"));
        assert!(resources(&second).unwrap_err().contains("line 13"));
    }

    #[test]
    fn what_is_ignored_is_told_with_its_line() {
        let text = ROLE
            .replace("v1", "v7")
            .replace("spec:\n", "spec:\n  options:\n    device_trust_mode: required\n");
        let read = resources(&text).unwrap();
        assert_eq!(read[0].loaded.ignored.len(), 1);
        assert!(read[0].loaded.ignored[0].starts_with("line 7, column 5: spec.options.device_trust_mode"));
    }

    /// Whatever a text is, it is read as it was printed: a backup must not make a number or nothing of a name.
    #[test]
    fn what_is_printed_is_read_again() {
        let nasty = [
            "",
            " ",
            "a ",
            " a",
            "no",
            "yes",
            "on",
            "off",
            "y",
            "n",
            "~",
            "null",
            "Null",
            "true",
            "False",
            "0",
            "-0",
            "+1",
            "012",
            "0o7",
            "0x1F",
            "1e3",
            "1.",
            ".5",
            ".inf",
            "-.INF",
            ".nan",
            "NaN",
            "inf",
            "1_000",
            "12:30:45",
            "2026-01-01",
            "2026-01-01T00:00:00Z",
            "=",
            "<<",
            "-",
            "--",
            "---",
            "...",
            "- a",
            "a: b",
            "a:",
            ":a",
            "a #b",
            "#a",
            "?",
            "? a",
            "!a",
            "&a",
            "*a",
            "|",
            ">",
            "%a",
            "@a",
            "`a`",
            "'",
            "''",
            "\"",
            "\\",
            "'a'",
            "\"a\"",
            "{a}",
            "[a]",
            "{",
            "}",
            "[",
            "]",
            ",",
            "a,b",
            "a\nb",
            "\n",
            "a\n",
            "\na",
            "a\n\nb\n",
            "a\tb",
            "\t",
            "a\r\nb",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            "\u{a0}",
            "\u{2028}",
            "\u{feff}",
            "é",
            "日本",
            "{{internal.logins}}",
            "^a.*$",
            "18446744073709551616",
            "9007199254740993",
            "1e400",
            "  indented\n less",
            "trailing \n space",
        ];
        let (long, lines) = ("a long text of words ".repeat(40), "a line: of many\n".repeat(40));
        for text in nasty.into_iter().chain([long.as_str(), lines.as_str()]) {
            let value = serde_json::json!({ "kind": "node", "metadata": { "name": text, text: [text, [text], { "a": text }] } });
            let printed = serde_saphyr::to_string(&value).unwrap();
            let read = parse(&printed).unwrap_or_else(|error| unreachable!("{text:?}: {error}: {printed}"));
            assert_eq!(read.len(), 1, "{text:?}: {printed}");
            assert_eq!(read[0].value, value, "{printed}");
        }
    }
}
