//! Templates in roles: `{{internal.logins}}` stands for the values of a trait.

use crate::cert::Traits;

/// Expands one entry of a role: text without braces stands for itself; `prefix{{internal.name}}suffix` (or
/// `external.name`) for one text per value of the user's trait `name`. An unset trait, or an expression that is not
/// understood, gives nothing.
pub fn expand(template: &str, traits: &Traits) -> Vec<String> {
    let Some((prefix, rest)) = template.split_once("{{") else {
        return if template.contains("}}") { Vec::new() } else { vec![template.to_owned()] };
    };
    let Some((expression, suffix)) = rest.split_once("}}") else { return Vec::new() };
    if suffix.contains("{{") || suffix.contains("}}") {
        return Vec::new();
    }
    let expression = expression.trim();
    let name = expression.strip_prefix("internal.").or_else(|| expression.strip_prefix("external."));
    let values = name.and_then(|name| traits.get(name)).map(Vec::as_slice).unwrap_or_default();
    values.iter().map(|value| format!("{prefix}{value}{suffix}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_traits() {
        let traits = Traits::from([("logins".to_owned(), vec!["root".to_owned(), "alice".to_owned()])]);
        assert_eq!(expand("ubuntu", &traits), ["ubuntu"]);
        assert_eq!(expand("{{internal.logins}}", &traits), ["root", "alice"]);
        assert_eq!(expand("x-{{ external.logins }}-y", &traits), ["x-root-y", "x-alice-y"]);
        for nothing in
            ["{{internal.other}}", "{{logins}}", "{{internal.logins", "internal.logins}}", "{{a}}{{b}}"]
        {
            assert!(expand(nothing, &traits).is_empty(), "{nothing}");
        }
    }
}
