//! Who agrees on keys, and what they prove.

use proptest::prelude::*;
use teleport_core::testing::{NoEntropy, RepeatableEntropy};

use super::super::keys::{Half, Keys, Said};
use super::super::wire::{Accepted, Again, Challenge, Hello, MAGIC, Opening, ResumeId};

const ID: ResumeId = ResumeId([4; 16]);

fn half(seed: u64) -> Half {
    Half::new(&RepeatableEntropy::new(seed)).unwrap()
}

fn both(client: u64, node: u64, id: ResumeId) -> (Keys, Keys) {
    let (client, node) = (half(client), half(node));
    let (to_node, to_client) = (client.public(), node.public());
    (client.of_client(to_client, id).unwrap(), node.of_node(to_node, id).unwrap())
}

fn said() -> Said {
    Said { client_nonce: [1; 16], node_nonce: [2; 16], client_received: 3, node_received: 4 }
}

#[test]
fn both_sides_prove_that_they_are_those_who_agreed() {
    let (client, node) = both(1, 2, ID);
    let said = said();
    assert!(node.check_client(&said, &client.prove_client(&said)).is_some());
    assert!(client.check_node(&said, &node.prove_node(&said)));
    // Nothing can be sent back to who said it.
    assert!(node.check_client(&said, &node.prove_node(&said)).is_none());
    assert!(!client.check_node(&said, &client.prove_client(&said)));
}

#[test]
fn no_proof_is_good_for_anything_else() {
    let (client, node) = both(1, 2, ID);
    let said = said();
    let (proof, answer) = (client.prove_client(&said), node.prove_node(&said));
    for other in [
        Said { client_nonce: [9; 16], ..said },
        Said { node_nonce: [9; 16], ..said },
        Said { client_received: 9, ..said },
        Said { node_received: 9, ..said },
        // The same bytes in another place.
        Said { client_nonce: said.node_nonce, node_nonce: said.client_nonce, ..said },
    ] {
        assert!(node.check_client(&other, &proof).is_none(), "{other:?}");
        assert!(!client.check_node(&other, &answer), "{other:?}");
    }
    for (client, node, id) in [(3, 2, ID), (1, 3, ID), (1, 2, ResumeId([5; 16]))] {
        let (_, other) = both(client, node, id);
        assert!(other.check_client(&said, &proof).is_none());
    }
    for bit in 0..256 {
        let mut changed = proof;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(node.check_client(&said, &changed).is_none());
    }
}

/// With these everybody agrees on zero (RFC 7748 section 6.1).
#[test]
fn keys_of_small_order_are_no_keys() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    for weak in [[0; 32], one, minus_one] {
        assert!(half(1).of_node(weak, ID).is_none());
        assert!(half(1).of_client(weak, ID).is_none());
    }
}

#[test]
fn nothing_is_agreed_without_randomness() {
    assert!(Half::new(&NoEntropy).is_err());
}

#[test]
fn keys_are_not_shown() {
    let (keys, _) = both(1, 2, ID);
    assert_eq!(format!("{keys:?}"), format!("Keys {{ id: {}, .. }}", "04".repeat(16)));
}

#[test]
fn messages_are_read_as_they_were_written() {
    let again = Hello::Again(Again { id: ID, nonce: [5; 16], received: 1 << 40 });
    for hello in [Hello::New { key: [3; 32] }, again] {
        let bytes = hello.to_bytes();
        for end in 0..bytes.len() {
            assert_eq!(Hello::read(&bytes[..end]), Opening::Partial, "{end}");
        }
        assert_eq!(Hello::read(&bytes), Opening::Hello(hello, bytes.len()));
        let more = [&bytes[..], b"SSH-2.0-x"].concat();
        assert_eq!(Hello::read(&more), Opening::Hello(hello, bytes.len()));
    }
    for other in [
        &b"SSH-2.0-OpenSSH_9.2"[..],
        b"x",
        b"SSH-0.0-teleport-resume-v2\n",
        &[MAGIC, &[0]].concat(),
        &[MAGIC, &[3]].concat(),
    ] {
        assert_eq!(Hello::read(other), Opening::Other, "{other:?}");
    }
    let accepted = Accepted { key: [1; 32], id: ID, keeps: 600 };
    assert_eq!(accepted.to_bytes().first_chunk().and_then(Accepted::read), Some(accepted));
    let challenge = Challenge { nonce: [1; 16], received: 7, proof: [2; 32] };
    assert_eq!(challenge.to_bytes().first_chunk().and_then(Challenge::read), Some(challenge));
}

proptest! {
    #[test]
    fn whatever_comes_first_is_read(bytes in prop::collection::vec(any::<u8>(), 0..120), ours in any::<bool>()) {
        let bytes = if ours { [MAGIC, &bytes[..]].concat() } else { bytes };
        super::super::fuzzing::hello(&bytes);
    }

    #[test]
    fn whatever_comes_after_it_is_read(
        frames in prop::collection::vec((0_u8..6, any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        piece in 1_usize..50,
    ) {
        let mut bytes = Vec::new();
        for (kind, number, data) in frames {
            bytes.push(kind);
            match kind {
                0 => {
                    let len = if number % 7 == 0 { u32::from(number) } else { data.len() as u32 };
                    bytes.extend(len.to_be_bytes());
                    bytes.extend(data);
                }
                1 => bytes.extend(u64::from(number % 40).to_be_bytes()),
                _ => {}
            }
        }
        super::super::fuzzing::frames(&bytes, piece, b"said before");
    }
}
