//! Files of `age`, ours and others, and the keys as people write them.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use teleport_backend::recordings::age::{AgeIdentity, AgeRecipient, decrypt};
use teleport_core::secret::SecretString;

/// The identity of the files in the corpus, and of nothing else.
const KEY: &str = "AGE-SECRET-KEY-1NEPRZP7GYWZDMF22QLXELL96F6V3QKW39CHHCGLGRGRCYASXDVMSF940SZ";
static KEYS: LazyLock<Vec<AgeIdentity>> =
    LazyLock::new(|| AgeIdentity::parse_file(&SecretString::new(KEY)).expect("a key"));

fuzz_target!(|data: &[u8]| {
    if let Ok(plain) = decrypt(data, &KEYS) {
        // What was encrypted is shorter than the file, and whoever has no key reads nothing of it.
        assert!(plain.len() < data.len());
        decrypt(data, &[]).expect_err("no key, no content");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(recipient) = text.parse::<AgeRecipient>() {
        assert_eq!(recipient.to_string(), text.to_ascii_lowercase());
    }
    for identity in AgeIdentity::parse_file(&SecretString::new(text)).unwrap_or_default() {
        let recipient = identity.recipient();
        assert_eq!(recipient.to_string().parse(), Ok(recipient));
    }
});
