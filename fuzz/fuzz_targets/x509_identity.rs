//! X.509 identities: the form of a certificate after its chain was verified, and what is said in it of its holder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::cert::{Identity, TlsAuthority, TlsFields, verify_tls};
use teleport_fuzz::fixture::{NOW, now, trust};
use teleport_ssh::rpc::fuzzing;

fuzz_target!(|data: &[u8]| {
    drop(fuzzing::authority_key(data));
    let trust = trust();
    if let Some(identity) = fuzzing::identity(data, TlsAuthority::User, &trust, now()) {
        assert!(matches!(identity, Identity::User(_)));
        assert!(fuzzing::identity(data, TlsAuthority::Host, &trust, now()).is_none());
    }
    // The same statement without the certificate around it.
    let (name, subject) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let subject = subject.strip_prefix(b"\n").unwrap_or(subject);
    let Ok(common_name) = std::str::from_utf8(name) else { return };
    for authority in [TlsAuthority::Host, TlsAuthority::User] {
        let fields =
            TlsFields { authority, common_name, subject, serial: 1, not_before: NOW, not_after: NOW + 60 };
        match (authority, verify_tls(&fields, &trust, None, now())) {
            (TlsAuthority::Host, Ok(Identity::Host(host))) => {
                assert_eq!((host.host_id.to_string().as_str(), &host.cluster), (common_name, &trust.cluster));
            }
            (TlsAuthority::User, Ok(Identity::User(user))) => {
                assert_eq!((user.user.as_str(), &user.cluster), (common_name, &trust.cluster));
                assert!(user.source_addresses.is_empty(), "nobody is at no address");
            }
            (_, Ok(identity)) => panic!("{authority:?} vouches for {identity:?}"),
            (_, Err(_)) => {}
        }
        let ended = TlsFields { not_after: NOW, ..fields };
        assert!(verify_tls(&ended, &trust, None, now()).is_err());
    }
});
