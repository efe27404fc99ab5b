//! How much the roles of a cluster may be: every node and proxy holds all of them, and gets all of them in one piece.

use serde_json::Value;

use crate::pattern;
use crate::resource::Role;

/// The most bytes of all roles of a cluster, as JSON. A view of them is one line, of which its readers take 64 MiB.
pub const MAX_ROLES_LEN: usize = 16 << 20;
/// The most memory of all regular expressions of all roles, in bytes, as far as it can be known: each counts as the next of 8, 32, 128
/// and 256 KiB. Without templates most take less than 8 KiB; `\w` and repetitions such as `{1,99}` take much.
pub const MAX_EXPRESSIONS_MEMORY: usize = 64 << 20;

/// How many of the largest roles are named.
const NAMED: usize = 3;

/// All roles together are more than servers should hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of all roles together would take {taken} KiB{place}, and the most is {most} KiB; most of it is in {}", .largest.join(", "))]
pub struct NoRoom {
    what: &'static str,
    place: &'static str,
    taken: usize,
    most: usize,
    largest: Vec<String>,
}

/// Checks that there is room for all these roles.
///
/// # Errors
/// [`NoRoom`].
pub fn check_room<'r>(roles: impl Iterator<Item = &'r Role>) -> Result<(), NoRoom> {
    let sizes = roles.map(|role| {
        let document = serde_json::to_value(role).unwrap_or_default();
        (role.metadata.name.as_str(), document.to_string().len(), memory(&document))
    });
    let sizes: Vec<(&str, usize, usize)> = sizes.collect();
    let of = |size: fn(&(&str, usize, usize)) -> usize, what, place, most: usize| {
        let taken: usize = sizes.iter().map(size).sum();
        if taken <= most {
            return Ok(());
        }
        let mut largest: Vec<_> = sizes.iter().collect();
        largest.sort_by_key(|sizes| std::cmp::Reverse(size(sizes)));
        let name = |sizes: &&(&str, usize, usize)| format!("{} ({} KiB)", sizes.0, size(sizes) >> 10);
        let largest = largest.iter().take(NAMED).map(name).collect();
        Err(NoRoom { what, place, taken: taken.div_ceil(1 << 10), most: most >> 10, largest })
    };
    of(|sizes| sizes.1, "the documents", "", MAX_ROLES_LEN)?;
    of(|sizes| sizes.2, "the regular expressions", " of memory at every node", MAX_EXPRESSIONS_MEMORY)
}

/// What the regular expressions of a document take, in bytes. Rather too much than too little.
fn memory(document: &Value) -> usize {
    match document {
        Value::Array(values) => values.iter().map(memory).sum(),
        Value::Object(values) => values.values().map(memory).sum(),
        Value::String(text) => {
            // A value, a command, or a destination with its port.
            if text.starts_with('^') {
                let end = text.rfind('$').map_or(text.len(), |end| end + 1);
                return pattern::memory(text.get(..end).unwrap_or(text));
            }
            let all = text.contains("regexp.replace");
            literals(text)
                .iter()
                .filter(|text| all || text.starts_with('^'))
                .map(|text| pattern::memory(text))
                .sum()
        }
        _ => 0,
    }
}

/// The texts in quotes in a condition or template.
fn literals(source: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut letters = source.chars();
    while letters.any(|letter| letter == '"') {
        let mut literal = String::new();
        while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
            if letter == '\\' {
                match letters.next() {
                    Some(escaped @ ('"' | '\\')) => literal.push(escaped),
                    other => {
                        literal.push('\\');
                        literal.extend(other);
                    }
                }
            } else {
                literal.push(letter);
            }
        }
        literals.push(literal);
    }
    literals
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;
    use crate::resource::{RoleConditions, RoleSpec};

    #[test]
    fn expressions_are_found_wherever_they_stand() {
        let long = r"^(é|a){60}$";
        let one = memory(&json!(long));
        assert!(one >= 8 << 10, "{one}");
        for (document, times) in [
            (json!({"env": [long, "prod", "p*"], "x": {"y": [long]}}), 2),
            (json!(format!("{long}:22")), 1),
            (json!(format!(r#"regexp.match(labels["env"], "{long}") && labels["x"] == "y""#)), 1),
            (json!("{{regexp.replace(external.x, \"(é|a){60}\", \"\")}}"), 1),
            (json!("{{internal.logins}}"), 0),
            (json!("(unclosed"), 0),
        ] {
            let found = memory(&document);
            assert!(found >= times * one && found <= times * one + (16 << 10), "{document}: {found} {one}");
        }
        assert!(memory(&json!(r"^\w+$")) > memory(&json!("^a$")));
        assert_eq!(literals(r#"f("a\"b", "\d\\d") + "open"#), [r#"a"b"#, r"\d\d", "open"]);
    }

    #[test]
    fn what_is_too_much_names_the_largest() {
        let with = |name: &str, value: &str, times: usize| {
            let matcher = serde_json::from_value(json!({"env": vec![value; times]})).unwrap();
            let allow = RoleConditions { node_labels: matcher, ..RoleConditions::default() };
            Role::new(name, RoleSpec { allow, ..RoleSpec::default() })
        };
        let (small, large) = (with("small", "^a$", 1), with("large", "^[a-zé]{1500}$", 64));
        let many = |count| std::iter::repeat_n(&large, count).chain([&small]);
        check_room(many(3)).unwrap();
        let error = check_room(many(4)).unwrap_err().to_string();
        assert!(error.contains("65544 KiB of memory at every node, and the most is 65536 KiB"), "{error}");
        assert!(
            error.ends_with("most of it is in large (16384 KiB), large (16384 KiB), large (16384 KiB)"),
            "{error}"
        );
        let long = with("long", &"x".repeat(1 << 20), 1);
        check_room(std::iter::repeat_n(&long, 15)).unwrap();
        let error = check_room(std::iter::repeat_n(&long, 16)).unwrap_err().to_string();
        assert!(error.starts_with("the documents of all roles together would take 16389 KiB"), "{error}");
    }
}
