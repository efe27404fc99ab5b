//! The configuration file, and what a daemon would do with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_bins::config::{Overrides, Settings, parse, parse_duration};

fuzz_target!(|text: &str| {
    if let Ok(duration) = parse_duration(text) {
        assert!(duration.as_secs() <= 36_500 * 86_400);
    }
    match parse(text) {
        Ok(file) => {
            // A token that is the path of a file would be read.
            let names_a_file = file.teleport.auth_token.as_ref().is_some_and(|token| token.starts_with('/'));
            if names_a_file {
                return;
            }
            let flags = Overrides { data_dir: Some("/nonexistent".into()), ..Overrides::default() };
            match Settings::resolve(file, flags) {
                Ok(settings) => assert!(settings.auth.is_some() || !settings.auth_servers.is_empty()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        Err(message) => {
            assert!(!message.is_empty() && !message.contains('\n'), "one line: {message:?}");
        }
    }
});
