//! Join tokens: as configured, as typed, and as stored.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::clock::Timestamp;
use teleport_core::secret::SecretString;
use teleport_core::token::{StaticToken, StaticTokenSource, StaticTokenSpec, TokenRecord, check_secret};
use teleport_fuzz::json::round_trip;

fuzz_target!(|data: &[u8]| {
    if let Some(record) = round_trip::<TokenRecord>(data) {
        let info = record.info();
        assert_eq!(info.id, record.id);
        assert!(!(record.uses_left == Some(0) && record.is_usable(Timestamp::EPOCH)));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let secret = SecretString::new(text);
    if check_secret(&secret).is_ok() {
        assert!(text.is_ascii() && (16..=64).contains(&text.len()));
        assert!(StaticToken::new(Vec::new(), &secret).is_ok(), "what is good for one is good for the other");
    }
    let Ok(spec) = text.parse::<StaticTokenSpec>() else { return };
    assert!(spec.roles.is_sorted());
    match &spec.source {
        StaticTokenSource::File(path) => assert!(path.is_absolute()),
        StaticTokenSource::Value(secret) => {
            // A path may say anything, and is printed.
            assert!(!format!("{spec:?}").contains("secret-0123456789"), "the corpus's secret is not printed");
            let token = StaticToken::new(spec.roles.clone(), secret).expect("the parser checked it");
            assert_eq!(token.record().roles, spec.roles);
            assert_eq!(token.is_weak(), secret.len() < 16);
        }
        _ => {}
    }
});
