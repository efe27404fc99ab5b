//! The audit log's lines, checkpoints and keys, as a verifier meets them: bytes that somebody may have changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::audit::chain::{
    Chain, ChainHead, Checkpoint, CheckpointKey, CheckpointSigner, Digest, Entry, Verifier,
};
use teleport_core::audit::syslog_message;
use teleport_core::testing::KnownKeySigner;

fuzz_target!(|data: &[u8]| {
    let key = CheckpointSigner::key(&KnownKeySigner::new(1));
    // As a file: nothing that nobody signed is proven.
    let mut verifier = Verifier::new([key]);
    verifier.begin_anywhere();
    verifier.file("fuzz");
    let mut accepted = 0;
    let mut whole = true;
    let mut lines = data.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_none() {
            verifier.foreign(line);
            break;
        }
        match verifier.line(line) {
            Ok(Some(entry)) => {
                assert_eq!(Entry::parse(entry.line()), Some(entry));
                accepted += 1;
            }
            Ok(None) => {}
            Err(finding) => {
                assert!(!finding.to_string().contains('\n'));
                whole = false;
                break;
            }
        }
        if let Some(entry) = Entry::parse(line) {
            let signed = Checkpoint::is_signed_by(&entry, &key);
            assert!(!signed, "nobody has the key");
            let _ = Checkpoint::parse(&entry);
        }
        let _ = syslog_message(line, "host", 1);
    }
    if whole && let Ok(proven) = verifier.finish() {
        assert_eq!((accepted, proven.entries), (0, 0), "unsigned entries were taken as proven");
    }
    // As events: whatever is an object becomes an entry, and that entry is read again.
    let (mut chain, mut line) = (Chain::new(), Vec::new());
    if chain.append(data, &mut line).is_ok() {
        assert_eq!(line.pop(), Some(b'\n'));
        let entry = Entry::parse(&line).expect("what was written is an entry");
        assert!(entry.follows(&Digest::ZERO) && Some(entry.head()) == chain.head());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(head) = text.parse::<ChainHead>() {
            assert_eq!(head.to_string(), text);
        }
        if let Ok(key) = text.parse::<CheckpointKey>() {
            assert_eq!(key.to_string(), text);
        }
        let _ = CheckpointKey::all(text);
    }
});
