#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;

/// The expression in a form without precedence.
fn shape(expr: &Expr) -> String {
    let all = |exprs: &[Expr], with: &str| exprs.iter().map(shape).collect::<Vec<_>>().join(with);
    match &expr.kind {
        ExprKind::And(parts) => format!("({})", all(parts, " & ")),
        ExprKind::Bool(value) => value.to_string(),
        ExprKind::Call { name, args } => format!("{name}({})", all(args, ", ")),
        ExprKind::Equal { left, right, negated } => {
            format!("({} {} {})", shape(left), if *negated { "!=" } else { "==" }, shape(right))
        }
        ExprKind::Not(inner) => format!("!{}", shape(inner)),
        ExprKind::Or(parts) => format!("({})", all(parts, " | ")),
        ExprKind::Path(steps) => steps.join("/"),
        ExprKind::Text(text) => format!("{text:?}"),
    }
}

#[test]
fn binds_as_users_expect() {
    for (source, expected) in [
        ("a", "a"),
        ("a.b", "a/b"),
        (r#"labels["env"]"#, "labels/env"),
        (r#"a.b["c.d"].e"#, "a/b/c.d/e"),
        ("a || b && c", "(a | (b & c))"),
        ("(a || b) && c", "((a | b) & c)"),
        ("!a && b", "(!a & b)"),
        ("!(a && b)", "!(a & b)"),
        ("!!a", "!!a"),
        (r#"a == "x" && b != "y""#, r#"((a == "x") & (b != "y"))"#),
        (r#"!a == "x""#, r#"!(a == "x")"#),
        ("f()", "f()"),
        (r#"regexp.match(a.b, "x", g(h))"#, r#"regexp.match(a/b, "x", g(h))"#),
        (r#""a\"\\\n""#, r#""a\"\\\n""#),
        (r"`a\d`", r#""a\\d""#),
        ("true || false", "(true | false)"),
        ("labels.team-name", "labels/team-name"),
    ] {
        assert_eq!(shape(&parse(source).unwrap()), expected, "{source}");
    }
}

#[test]
fn mistakes_show_where_and_what_was_meant() {
    for (source, column, says) in [
        ("", 1, "found the end"),
        ("a = \"x\"", 3, "equality is written `==`"),
        ("a == 'x'", 6, "texts stand in double quotes"),
        ("a and b", 3, "and is written `&&`"),
        ("a OR b", 3, "or is written `||`"),
        ("a & b", 3, "and is written `&&`"),
        ("not a", 1, "not is written `!`"),
        ("a in b", 3, "contains(list, item)"),
        ("labels[env]", 8, "write [\"env\"]"),
        ("f(a", 4, "expected `,` or `)`, found the end"),
        ("f(a b)", 5, "expected `,` or `)`"),
        ("(a", 3, "expected `)`"),
        ("a)", 2, "found `)`"),
        ("\"abc", 1, "the text has no end"),
        (r#"regexp.match(a, "\d")"#, 18, r"write `\\` for a backslash"),
        ("a == b == c", 8, "not chained"),
        ("a < b", 3, "only `==` and `!=`"),
        ("a == 1", 6, "in double quotes"),
        ("é == a", 1, "no meaning"),
        ("a.", 3, "expected a name"),
    ] {
        let error = parse(source).unwrap_err().in_source(source);
        assert_eq!(error.column, column, "{source}: {error}");
        assert!(error.to_string().contains(says), "{source}: {error}");
        assert_eq!(error.line, 1);
    }
}

#[test]
fn a_diagram_marks_the_place_in_its_line() {
    let source = "a ||\n  é = b";
    let error = parse(source).unwrap_err().in_source(source);
    assert_eq!(error.to_string(), "line 2, column 3: 'é' has no meaning here");
    assert_eq!(error.diagram(source), "  é = b\n  ^");
}

#[test]
fn depth_and_length_are_bounded_and_long_chains_are_not_deep() {
    let deep = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    assert!(parse(&deep(MAX_EXPRESSION_DEPTH)).is_ok());
    for open in ["(", "!", "f("] {
        let error = parse(&open.repeat(1000)).unwrap_err();
        assert!(error.message.contains("nested"), "{open}: {}", error.message);
    }
    assert!(parse(&vec!["a"; 800].join("||")).is_ok());
    assert!(parse(&"a".repeat(MAX_EXPRESSION_LEN + 1)).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(source in r#"[a-c.()\[\]!&|="`\\ ,\n{}é]{0,40}"#) {
        if let Err(mistake) = parse(&source) {
            let error = mistake.in_source(&source);
            prop_assert!(error.column >= 1 && error.line >= 1);
            error.diagram(&source);
        }
        let _ = parse_braced(&source, 0);
    }
}
