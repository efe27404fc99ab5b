//! What a client that forwards reads from others: SOCKS requests, messages to its agent, and the texts of forwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::client::agent::{Request, read_request};
use teleport_ssh::client::forward::{Destination, Forward, MAX_REQUEST, SocksEvent, next_event};

fn plain(destination: &Destination) {
    if let Destination::Tcp { host, port } = destination {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        assert!(!host.is_empty() && !host.starts_with('-') && host.bytes().all(plain) && *port != 0, "{host:?}");
    }
}

fn socks(data: &[u8]) {
    for greeted in [false, true] {
        match next_event(data, greeted) {
            Ok(Some((taken, event))) => {
                assert!(taken <= data.len());
                // What comes behind changes nothing, and nothing less is enough.
                assert_eq!(next_event(&data[..taken], greeted), Ok(Some((taken, event.clone()))));
                assert_eq!(next_event(&data[..taken - 1], greeted), Ok(None));
                if let SocksEvent::Connect(_, to) = event {
                    plain(&to);
                }
            }
            Ok(None) => assert!(data.len() < MAX_REQUEST),
            Err(_) => {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    socks(data);
    if let Some(Request::Sign { key, login }) = read_request(data) {
        assert!(login.len() > key.len() && login.windows(key.len().max(1)).any(|part| part == key || key.is_empty()));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for read in [Forward::local, Forward::remote, Forward::dynamic] {
        if let Ok(forward) = read(text) {
            assert_eq!(read(&forward.to_string()).as_ref(), Ok(&forward), "{forward}");
        }
    }
    if let Ok(to) = text.parse::<Destination>() {
        plain(&to);
    }
});
