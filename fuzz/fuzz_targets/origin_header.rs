//! What a connection to a node begins with. Nobody can say where a client is without the key of a proxy, so what is believed is, byte for
//! byte, what the proxy of the corpus has said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::origin::{Beginning, Header, MAGIC, MAX_HEADER_LEN, OriginCheck, Seen, beginning};
use teleport_fuzz::fixture::{now, trust};
use teleport_fuzz::origin::audience;
use teleport_ssh::authn::statement_from_bytes;

const IPV4: &[u8] = include_bytes!("../corpus/origin_header/ipv4");
const IPV6: &[u8] = include_bytes!("../corpus/origin_header/ipv6");

fuzz_target!(|data: &[u8]| {
    match beginning(data) {
        Ok(Beginning::Header(len)) => {
            assert!(data.starts_with(MAGIC) && len <= data.len().min(MAX_HEADER_LEN));
            assert_eq!(beginning(&data[..len]), Ok(Beginning::Header(len)));
            assert_eq!(beginning(&data[..len - 1]), Ok(Beginning::Partial));
        }
        Ok(Beginning::Partial) => assert!(data.len() < MAX_HEADER_LEN),
        Ok(Beginning::Other) => assert!(!data.starts_with(MAGIC) && !MAGIC.starts_with(data)),
        Err(_) => assert!(data.starts_with(MAGIC)),
    }
    if let Ok(header) = Header::parse(data) {
        // There is one way to say it.
        let again = header.statement.unsigned(header.certificate);
        assert_eq!(again.as_deref(), Ok(header.signed));
    }
    let trust = trust();
    let check = OriginCheck { trust: &trust, audience: audience(), now: now() };
    let mut seen = Seen::default();
    let believed = statement_from_bytes(data)
        .is_ok_and(|(fields, statement)| seen.accept(&fields, &statement, check).is_ok());
    assert_eq!(believed, data == IPV4 || data == IPV6);
});
