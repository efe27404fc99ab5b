//! Templates in roles: `{{internal.logins}}` stands for the values of a trait.

use super::expr::{Expr, ExprKind, InvalidExpression, Mistake, parse_braced};
use super::transform::{TRANSFORMS, Transform};
use crate::cert::Traits;
use crate::suggest::did_you_mean;

/// The longest template, in bytes.
pub const MAX_TEMPLATE_LEN: usize = 1024;

/// An entry of a role: a text that stands for itself, or `prefix{{expression}}suffix`, which stands for one text per value
/// of the expression.
///
/// | expression | values |
/// | --- | --- |
/// | `internal.name`, `internal["name"]` | those of the user's trait `name` |
/// | `external.name`, `external["name"]` | the same: a user's traits are one set, wherever they came from |
/// | `email.local(x)` | the part before the `@`; what is no address is left out |
/// | `regexp.replace(x, "expression", "replacement")` | with every match replaced, `$1` standing for the first group; what does not match is left out |
/// | `strings.lower(x)`, `strings.upper(x)` | in that case |
///
/// A trait that the user does not have has no values: that entry disappears, others stay. Empty values are left out, and so are those
/// that functions make longer than 8 KiB.
///
/// ```
/// use teleport_core::access::Template;
/// use teleport_core::cert::Traits;
///
/// let traits = Traits::from([("email".to_owned(), vec!["alice@example.com".to_owned()])]);
/// let template = Template::new("dev-{{email.local(external.email)}}")?;
/// assert_eq!(template.expand(&traits), ["dev-alice"]);
///
/// let error = Template::new("{{external.email").unwrap_err();
/// assert_eq!(error.to_string(), "column 17: `{{` is not closed; add `}}`");
/// # Ok::<(), teleport_core::access::InvalidExpression>(())
/// ```
#[derive(Clone, Debug)]
pub struct Template {
    prefix: String,
    /// The trait and what is done to its values, in order; `None` if `prefix` is the whole text.
    value: Option<Value>,
    suffix: String,
}

#[derive(Clone, Debug)]
struct Value {
    of: String,
    transforms: Vec<Transform>,
}

impl Template {
    /// Compiles an entry.
    ///
    /// # Errors
    /// [`InvalidExpression`].
    pub fn new(text: &str) -> Result<Self, InvalidExpression> {
        Self::parse(text).map_err(|mistake| mistake.in_source(text))
    }

    fn parse(text: &str) -> Result<Self, Mistake> {
        if text.len() > MAX_TEMPLATE_LEN {
            return Err(Mistake::new(0, format!("longer than {MAX_TEMPLATE_LEN} bytes")));
        }
        let Some(open) = text.find("{{") else {
            return match text.find("}}") {
                Some(at) => Err(Mistake::new(at, "`}}` without `{{`")),
                None => Ok(Self { prefix: text.to_owned(), value: None, suffix: String::new() }),
            };
        };
        let prefix = text.get(..open).unwrap_or_default();
        if let Some(at) = prefix.find("}}") {
            return Err(Mistake::new(at, "`}}` without `{{`"));
        }
        let (expr, end) = parse_braced(text, open + 2)?;
        let suffix = text.get(end..).unwrap_or_default();
        if let Some(at) = suffix.find("{{").or_else(|| suffix.find("}}")) {
            let mistake = Mistake::new(end + at, "an entry has one pair of braces");
            return Err(mistake.hint("write several entries"));
        }
        let value = Value::compile(&expr)?;
        Ok(Self { prefix: prefix.to_owned(), value: Some(value), suffix: suffix.to_owned() })
    }

    /// The text, if it stands for itself.
    pub fn as_literal(&self) -> Option<&str> {
        self.value.is_none().then_some(self.prefix.as_str())
    }

    /// What it stands for, for a user with these traits.
    pub fn expand(&self, traits: &Traits) -> Vec<String> {
        let Some(value) = &self.value else { return vec![self.prefix.clone()] };
        let values = traits.get(&value.of).map(Vec::as_slice).unwrap_or_default();
        let transformed = values.iter().filter_map(|text| {
            // What is too long is nobody's login, and no label has it.
            let apply = |text: String, transform: &Transform| transform.apply(&text).ok().flatten();
            value.transforms.iter().try_fold(text.clone(), apply)
        });
        let full = transformed.filter(|text| !text.is_empty());
        full.map(|text| format!("{}{text}{}", self.prefix, self.suffix)).collect()
    }
}

impl Value {
    fn compile(expr: &Expr) -> Result<Self, Mistake> {
        match &expr.kind {
            ExprKind::Path(steps) => match steps.as_slice() {
                [space, name] if space == "internal" || space == "external" => {
                    Ok(Self { of: name.clone(), transforms: Vec::new() })
                }
                [space] if space == "internal" || space == "external" => {
                    Err(Mistake::new(expr.at, "which trait?").hint(format!("write {space}.name")))
                }
                [space, ..] => {
                    let near = did_you_mean(space, ["internal", "external"]);
                    let mistake = Mistake::new(expr.at, format!("{:?} is no trait{near}", steps.join(".")));
                    Err(mistake.hint(format!(
                        "traits are written internal.name or external.name, like internal.{space}"
                    )))
                }
                [] => Err(Mistake::new(expr.at, "which trait?")),
            },
            ExprKind::Call { name, args } => match Transform::from_call(expr, name, args)? {
                Some((transform, of)) => {
                    let mut value = Self::compile(of)?;
                    value.transforms.push(transform);
                    Ok(value)
                }
                None => {
                    let near = did_you_mean(name, TRANSFORMS);
                    let mistake = Mistake::new(expr.at, format!("there is no function {name:?}{near}"));
                    Err(mistake.hint(format!("templates know {}", TRANSFORMS.join(", "))))
                }
            },
            ExprKind::Text(text) => {
                let mistake = Mistake::new(expr.at, "a template is about a trait");
                Err(mistake.hint(format!("write {text} without braces, if that is what you mean")))
            }
            _ => Err(Mistake::new(expr.at, "a template is about a trait, not a condition")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn expand(text: &str) -> Vec<String> {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let traits = Traits::from([
            ("logins".to_owned(), values(&["root", "alice"])),
            ("email".to_owned(), values(&["Alice@Example.com", "bob", "Carol <carol@x.org>", "@x", "y@"])),
            ("groups".to_owned(), values(&["team-dev", "team-ops", "other", "team-"])),
            ("odd key".to_owned(), values(&["odd"])),
            ("empty".to_owned(), values(&[""])),
        ]);
        Template::new(text).unwrap().expand(&traits)
    }

    #[test]
    fn expands_traits() {
        let nothing: [&str; 0] = [];
        assert_eq!(expand("ubuntu"), ["ubuntu"]);
        assert_eq!(expand("{{internal.logins}}"), ["root", "alice"]);
        assert_eq!(expand("x-{{ external.logins }}-y"), ["x-root-y", "x-alice-y"]);
        assert_eq!(expand(r#"{{external["odd key"]}}"#), ["odd"]);
        assert_eq!(expand("{{internal.other}}"), nothing);
        assert_eq!(expand("{{internal.empty}}"), nothing);
        assert_eq!(expand("{{email.local(external.email)}}"), ["Alice", "carol"]);
        assert_eq!(expand("{{strings.lower(email.local(external.email))}}"), ["alice", "carol"]);
        assert_eq!(expand(r#"{{regexp.replace(external.groups, "^team-(.*)$", "$1")}}"#), ["dev", "ops"]);
        assert_eq!(expand(r#"{{regexp.replace(external.groups, "m-(d)ev", "${1}}}")}}!"#), ["tead}}!"]);
        assert_eq!(expand(""), [""]);
    }

    #[test]
    fn bad_templates_are_refused_with_a_column_and_a_reason() {
        for (text, column, says) in [
            ("{{internal.logins", 18, "not closed"),
            ("internal.logins}}", 16, "without"),
            ("a}}{{internal.logins}}", 2, "without"),
            ("{{internal.a}}{{internal.b}}", 15, "one pair"),
            ("{{logins}}", 3, "internal.logins"),
            ("{{internl.logins}}", 3, "did you mean \"internal\""),
            ("{{internal}}", 3, "which trait"),
            ("{{internal.a.b}}", 3, "is no trait"),
            ("{{}}", 3, "found `}}`"),
            ("x{{email.locl(internal.a)}}", 4, "did you mean \"email.local\""),
            ("{{email.local()}}", 3, "email.local(value)"),
            (r#"{{regexp.replace(internal.a, "(", "")}}"#, 30, "unclosed group"),
            (r#"{{regexp.replace(internal.a, "a")}}"#, 3, "replacement"),
            (r#"{{regexp.replace(internal.a, internal.b, "")}}"#, 30, "must be a text"),
            (r#"{{"root"}}"#, 3, "without braces"),
            ("{{!internal.a}}", 3, "not a condition"),
        ] {
            let error = Template::new(text).unwrap_err();
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
        assert!(Template::new(&"a".repeat(MAX_TEMPLATE_LEN + 1)).is_err());
    }

    /// Thirty replacements that double a text are a short template and a result of a gigabyte.
    #[test]
    fn results_do_not_grow_without_end() {
        let mut text = "internal.logins".to_owned();
        for _ in 0..30 {
            text = format!(r#"regexp.replace({text},".","$0$0")"#);
        }
        assert!(text.len() < MAX_TEMPLATE_LEN);
        let traits = Traits::from([("logins".to_owned(), vec!["root".to_owned()])]);
        let nothing: [&str; 0] = [];
        assert_eq!(Template::new(&format!("{{{{{text}}}}}")).unwrap().expand(&traits), nothing);
        let twice = r#"{{regexp.replace(internal.logins,".","$0$0")}}"#;
        assert_eq!(Template::new(twice).unwrap().expand(&traits), ["rroooott"]);
    }
}
