//! Keys and pins, as text and in their wire forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::cert::{CaPin, PublicKey, TlsPublicKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PublicKey::from_wire(data) {
        assert_eq!(key.as_wire(), data, "a key has one wire form");
        assert_eq!(key.to_string().parse::<PublicKey>().as_ref(), Ok(&key));
        assert!(data.starts_with(&[0, 0, 0, u8::try_from(key.algorithm().as_str().len()).unwrap()]));
        assert!(!String::from_utf8_lossy(data).contains("-cert-v01"), "a certificate is no key");
    }
    if let Ok(key) = TlsPublicKey::from_spki(data) {
        assert_eq!(key.as_spki(), data);
        assert_eq!(key.point().len(), 65);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(PublicKey::from_wire(key.as_wire()), Ok(key));
    }
    if let Ok(pin) = text.parse::<CaPin>() {
        assert_eq!(pin.to_string(), text, "a pin has one spelling");
    }
});
