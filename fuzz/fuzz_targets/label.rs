//! Labels as text and as JSON, and the matchers of roles. Input: a matcher, a line feed, labels.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use teleport_core::label::{LabelMatcher, Labels};
use teleport_fuzz::json::round_trip;

fuzz_target!(|data: &[u8]| {
    let (first, second) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let text = String::from_utf8_lossy(second);
    let from_text: Option<Labels> = text.parse().ok();
    let from_json: Option<Labels> = round_trip(second);
    let matcher: Option<LabelMatcher> = round_trip(first);
    for labels in from_text.iter().chain(&from_json) {
        assert!(labels.iter().count() <= 64);
        for (key, value) in labels.iter() {
            assert!(!key.is_empty() && key.is_ascii() && !key.contains(['=', ',', ' ']));
            assert!(value.len() <= 256 && !value.chars().any(char::is_control));
        }
        assert!(LabelMatcher::everything().matches(labels));
        assert!(!LabelMatcher::default().matches(labels), "what names nothing matches nothing");
        // Its own labels, taken literally, match it; any other value of one does not.
        let literal = |value: &str| vec![format!("^{}$", escape(value))];
        let own: BTreeMap<String, Vec<String>> =
            labels.iter().map(|(key, value)| (key.to_owned(), literal(value))).collect();
        if !own.is_empty() {
            let own = LabelMatcher::new(own).expect("an escaped text is a pattern");
            assert!(own.matches(labels));
            assert!(!own.matches(&Labels::default()));
        }
        if let Some(matcher) = &matcher {
            // Asking twice gives the same answer, and more keys are never more permissive.
            assert_eq!(matcher.matches(labels), matcher.matches(&labels.clone()));
        }
    }
    if let Some(labels) = from_text {
        assert_eq!(labels.to_string().parse(), Ok(labels.clone()), "{labels}");
    }
});

/// Every character by its number: none is special.
fn escape(text: &str) -> String {
    text.chars().map(|c| format!("\\x{{{:x}}}", u32::from(c))).collect()
}
