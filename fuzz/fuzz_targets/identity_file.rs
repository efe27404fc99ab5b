//! Identity files: what is read is written as it was meant, and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_ssh::client::IdentityFile;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(identity) = IdentityFile::parse(text) else { return };
    let written = identity.to_text();
    let again = IdentityFile::parse(&written).expect("what was read can be written");
    assert_eq!(*again.to_text(), *written);
    assert_eq!((again.user, again.roles, again.logins), (identity.user, identity.roles, identity.logins));
    assert_eq!(
        (again.certificates, again.trust, again.proxy),
        (identity.certificates, identity.trust, identity.proxy)
    );
});
