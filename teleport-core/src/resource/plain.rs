//! What is wrong with a value, in the words of whoever wrote it: the library that reads values speaks of its own types.

/// A message of serde in plain words: what is wanted, and what is there.
pub fn plain_words(message: &str) -> String {
    let mismatch = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((there, wanted)) = mismatch.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("{} is wanted here, not {}", want(wanted), value(there));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ")
        && let Some((there, known)) = rest.split_once(", expected ")
    {
        let known = known.strip_prefix("one of ").unwrap_or(known);
        return format!("{} is not known here; write {}", there.replace('`', "\""), known.replace('`', ""));
    }
    message.to_owned()
}

fn want(wanted: &str) -> String {
    match wanted {
        "a boolean" => "true or false".to_owned(),
        "a map" => "a map of keys and values".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a string" | "a borrowed string" => "a text".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        other if other.starts_with("struct ") => "a map of keys and values".to_owned(),
        other => other.to_owned(),
    }
}

fn value(there: &str) -> String {
    match there {
        "map" => "a map".to_owned(),
        "null" | "Option value" | "unit value" => "nothing".to_owned(),
        "sequence" => "a list".to_owned(),
        other => {
            let kinds = ["boolean ", "byte ", "character ", "floating point ", "integer ", "string "];
            let text = kinds.iter().find_map(|kind| other.strip_prefix(kind)).unwrap_or(other);
            text.trim_matches('`').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    enum Mode {
        Off,
        Strict,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Inner {
        mode: Mode,
    }

    fn says<T: std::fmt::Debug + for<'de> Deserialize<'de>>(value: serde_json::Value) -> String {
        serde_json::from_value::<T>(value)
            .map_or_else(|error| plain_words(&error.to_string()), |_| String::new())
    }

    #[test]
    fn values_that_do_not_fit_are_told_in_plain_words() {
        for (said, expected) in [
            (says::<u64>(json!("many")), "a whole number is wanted here, not \"many\""),
            (says::<u64>(json!(-1)), "a whole number is wanted here, not -1"),
            (says::<bool>(json!("perhaps")), "true or false is wanted here, not \"perhaps\""),
            (says::<String>(json!(5)), "a text is wanted here, not 5"),
            (says::<String>(json!(null)), "a text is wanted here, not nothing"),
            (says::<Vec<String>>(json!("a, expected b")), "a list is wanted here, not \"a, expected b\""),
            (says::<Vec<String>>(json!({})), "a list is wanted here, not a map"),
            (says::<Inner>(json!(5)), "a map of keys and values is wanted here, not 5"),
            (says::<Inner>(json!({"mode": "of"})), "\"of\" is not known here; write Off or Strict"),
            (plain_words("the name is too long"), "the name is too long"),
        ] {
            assert_eq!(said, expected);
        }
    }
}
