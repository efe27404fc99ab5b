//! What a client says of its display, as a node reads it and hands it to `xauth`: what is taken is words of one line. And what the variable
//! `DISPLAY` says, as a client reads it. The first six bytes are the numbers of the screen and of the display.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::client::forward::{Destination, Display};
use teleport_ssh::session::{X11Auth, X11Display};

fuzz_target!(|data: &[u8]| {
    let Some(([a, b, c, d, e, f], rest)) = data.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (protocol, cookie) = text.split_once('\0').unwrap_or((text, "00"));
    if let Ok(auth) = X11Auth::new(protocol, cookie, u32::from_be_bytes([*a, *b, *c, *d])) {
        assert_eq!((auth.protocol(), auth.cookie().expose()), (protocol, cookie), "as it came");
        assert!(cookie.len() % 2 == 0 && cookie.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let display = X11Display::new(u16::from_be_bytes([*e, *f]), auth);
        for word in [protocol, &display.name(), &display.local_name()] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
            assert!(!word.is_empty() && word.len() <= 64 && word.bytes().all(plain), "{word:?}");
        }
    }
    if let Ok(display) = Display::parse(text)
        && let Destination::Tcp { host, port } = display.at
    {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        assert!(!host.starts_with('-') && host.bytes().all(plain) && port >= 6000, "{host:?}");
    }
});
