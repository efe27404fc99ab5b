#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use super::*;
use crate::audit::{AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::testing::KnownKeySigner;

fn event(user: &str) -> Vec<u8> {
    let mut event = AuditEvent::new(EventKind::UserLogin).user(user);
    event.time = Timestamp::from_unix_millis(1_795_228_845_123);
    serde_json::to_vec(&event).unwrap()
}

/// The lines are a format that others verify: they change only with a new version of it. The digests were computed by
/// `sha256sum` from the manual's description.
#[test]
fn a_line_is_what_the_manual_says() {
    let mut chain = Chain::new();
    let mut out = Vec::new();
    chain.append(br#"{"event":"a"}"#, &mut out).unwrap();
    chain.append(br#"{"event":"b"}"#, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let first = "3615ef51376c025bea775b340f4df48d18149b707aca1cb3fbd26931c2adb787";
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].split("\"chain\"").next().unwrap(), r#"{"index":0,"event":"a","#);
    let digest = |before: &[u8], body: &str| Digest::of(&[before, body.as_bytes()]).to_string();
    let one = digest(&[0; 32], r#"{"index":0,"event":"a""#);
    let two = digest(one.parse::<Digest>().unwrap().as_bytes(), r#"{"index":1,"event":"b""#);
    assert_eq!(
        lines,
        [
            format!(r#"{{"index":0,"event":"a","chain":"{one}"}}"#),
            format!(r#"{{"index":1,"event":"b","chain":"{two}"}}"#),
        ]
    );
    assert_eq!(one, first, "by sha256sum");
    assert_eq!(chain.head().unwrap().to_string(), format!("1:{two}"));
    assert_eq!(chain.head().unwrap().to_string().parse(), Ok(chain.head().unwrap()));
}

#[test]
fn only_lines_of_the_form_are_entries() {
    let mut chain = Chain::new();
    let mut line = Vec::new();
    chain.append(&event("alice"), &mut line).unwrap();
    line.pop();
    let entry = Entry::parse(&line).unwrap();
    assert!(entry.follows(&Digest::ZERO) && !entry.follows(&entry.head().digest));
    let text = String::from_utf8(line.clone()).unwrap();
    for other in [
        text.replace("{\"index\":0,", "{\"index\":00,"),
        text.replace("{\"index\":0,", "{\"index\":,"),
        text.replace("{\"index\":0,", "{\"index\":-1,"),
        text.replace("{\"index\":0,", "{\"index\":18446744073709551616,"),
        text.replace("{\"index\":0,", " {\"index\":0,"),
        text.replace("\"chain\"", "\"Chain\""),
        format!("{text} "),
        text[..text.len() - 1].to_owned(),
        text.to_uppercase(),
        String::new(),
        "\"}".to_owned(),
        format!("{{\"index\":0,\"chain\":\"{}\"}}", "0".repeat(64)),
    ] {
        assert_eq!(Entry::parse(other.as_bytes()), None, "{other}");
    }
    let mut chain = Chain::new();
    for bad in ["", "{", "{}", "[1]", "null", "{\"a\":\n1}"] {
        assert_eq!(chain.append(bad.as_bytes(), &mut Vec::new()), Err(NotAnEntry), "{bad}");
    }
    assert_eq!(chain, Chain::new());
}

#[test]
fn a_checkpoint_is_signed_as_a_whole() {
    let signer = KnownKeySigner::new(1);
    let key = CheckpointSigner::key(&signer);
    let mut chain = Chain::new();
    chain.append(&event("alice"), &mut Vec::new()).unwrap();
    let log = uuid::Uuid::from_u128(7);
    let said = CheckpointDraft::event(&chain, log, &key, CheckpointReason::Start);
    let draft = CheckpointDraft::new(&chain, &said).unwrap();
    assert!(draft.message().starts_with(b"teleport-audit-checkpoint-v1\n{\"index\":1,"));
    let message = draft.message().to_vec();
    let signature = futures_util::FutureExt::now_or_never(signer.sign(&message)).unwrap().unwrap();
    let (mut line, after) = draft.finish(&signature).unwrap();
    line.pop();
    let entry = Entry::parse(&line).unwrap();
    assert_eq!(after.head(), Some(entry.head()));
    let checkpoint = Checkpoint::parse(&entry).unwrap();
    assert_eq!((checkpoint.log, checkpoint.before, checkpoint.head.index), (log, chain.digest(), 1));
    assert!(Checkpoint::is_signed_by(&entry, &key));
    assert!(!Checkpoint::is_signed_by(&entry, &CheckpointSigner::key(&KnownKeySigner::new(2))));
    for at in 0..line.len() {
        let mut changed = line.clone();
        changed[at] ^= 1;
        let accepted = Entry::parse(&changed)
            .is_some_and(|entry| entry.follows(&chain.digest()) && Checkpoint::is_signed_by(&entry, &key));
        assert!(!accepted, "byte {at}");
    }
    let draft = CheckpointDraft::new(&chain, &said).unwrap();
    assert!(draft.finish(&[0; 63]).is_none());
    // An event with the fields of one is none.
    let mut forged = Vec::new();
    let mut end = chain;
    let event = said.field("signature", "00");
    end.append(&serde_json::to_vec(&event).unwrap(), &mut forged).unwrap();
    forged.pop();
    assert_eq!(Checkpoint::parse(&Entry::parse(&forged).unwrap()), None);
}

#[test]
fn keys_are_read_as_they_are_printed() {
    let (one, two) = (KnownKeySigner::new(1), KnownKeySigner::new(2));
    let (one, two) = (CheckpointSigner::key(&one), CheckpointSigner::key(&two));
    assert_eq!(one.to_string().parse(), Ok(one));
    assert_eq!(CheckpointKey::all(&one.to_string()), Ok(vec![one]));
    let both = format!("comment\n{}{}", one.to_pem(), two.to_pem().replace('\n', "\r\n"));
    assert_eq!(CheckpointKey::all(&both), Ok(vec![one, two]));
    for bad in [
        "",
        "x",
        "-----BEGIN PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ] {
        assert_eq!(CheckpointKey::all(bad), Err(InvalidCheckpointKey), "{bad:?}");
    }
    assert!(one.id().to_string().starts_with("sha256:") && one.id() != two.id());
}
