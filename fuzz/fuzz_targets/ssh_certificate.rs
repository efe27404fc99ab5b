//! SSH certificates from the wire. Nobody can make one without the authority's key, so what is accepted is, byte for byte, one
//! of those that the authorities of the corpus have signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ca::inspect;
use teleport_core::cert::{HostCheck, UserCheck, verify_user};
use teleport_core::id::HostRole;
use teleport_fuzz::fixture::{now, trust};
use teleport_ssh::authn::{fields_from_bytes, host_from_bytes, user_from_bytes};

const USER: &[u8] = include_bytes!("../corpus/ssh_certificate/user");
const HOST: &[u8] = include_bytes!("../corpus/ssh_certificate/host");

fuzz_target!(|data: &[u8]| {
    let trust = trust();
    let check = UserCheck { login: None, peer: None, now: now() };
    let user = user_from_bytes(data, &trust, check);
    let host = host_from_bytes(data, &trust, HostCheck { name: "web-1", role: HostRole::Node, now: now() });
    assert_eq!(user.is_ok(), data == USER, "{user:?}");
    assert_eq!(host.is_ok(), data == HOST, "{host:?}");
    if user.is_ok() || host.is_ok() {
        assert!(fields_from_bytes(data).is_ok());
    }
    // The auth service reads them by another hand, before it signs logins on registered servers: it believes nothing else.
    if let Ok(fields) = inspect::fields_from_bytes(data)
        && verify_user(&fields, &trust, check).is_ok()
    {
        assert_eq!(Ok(fields), fields_from_bytes(USER));
    }
});
