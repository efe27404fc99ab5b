//! What a proxy says of its client, made with the keys of the corpus.

use ring::signature::KeyPair as _;
use teleport_core::clock::Timestamp;
use teleport_core::id::HostId;
use teleport_core::origin::{Audience, Nonce, Statement};

use crate::certificate::HOST_ID;
use crate::fixture::{CLUSTER, NOW, key, string};

/// The number of the proxy's key.
const PROXY: u8 = 5;

/// The node that is spoken to.
pub fn audience() -> Audience {
    let id: HostId = HOST_ID.parse().expect("an id");
    Audience::Node(id)
}

/// The host certificate of a proxy.
pub fn certificate() -> Vec<u8> {
    let list = |entries: &[(&str, &str)]| {
        let mut list = Vec::new();
        for (name, value) in entries {
            string(&mut list, name.as_bytes());
            let mut data = Vec::new();
            string(&mut data, value.as_bytes());
            string(&mut list, &data);
        }
        list
    };
    let mut wire = Vec::new();
    string(&mut wire, b"ssh-ed25519-cert-v01@openssh.com");
    string(&mut wire, &[7; 32]);
    string(&mut wire, key(PROXY).public_key().as_ref());
    wire.extend(7_u64.to_be_bytes());
    wire.extend(2_u32.to_be_bytes());
    string(&mut wire, format!("{HOST_ID} gate").as_bytes());
    let mut principals = Vec::new();
    string(&mut principals, format!("teleport-proxy.{CLUSTER}").as_bytes());
    string(&mut wire, &principals);
    wire.extend((NOW - 60).to_be_bytes());
    wire.extend((NOW + 3600).to_be_bytes());
    string(&mut wire, b"");
    string(&mut wire, &list(&[("cluster@teleport-rs", CLUSTER), ("host-role@teleport-rs", "proxy")]));
    string(&mut wire, b"");
    string(&mut wire, &crate::fixture::public_wire(2));
    let mut signature = Vec::new();
    string(&mut signature, b"ssh-ed25519");
    string(&mut signature, key(2).sign(&wire).as_ref());
    string(&mut wire, &signature);
    wire
}

/// A statement that is believed at the moment of the corpus.
pub fn header(client: &str) -> Vec<u8> {
    let issued = Timestamp::from_unix_secs(NOW);
    let client = client.parse().expect("an address");
    let statement = Statement::new(client, audience(), issued, Nonce::new([7; 16]));
    let mut header = statement.unsigned(&certificate()).expect("a short certificate");
    let signature = key(PROXY).sign(&header);
    header.extend(signature.as_ref());
    header
}
