//! Encryption at rest under the suite, with the stock `age` as its judge.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use teleport_backend::conformance;
use teleport_backend::recordings::age::{
    AgeError, AgeIdentity, AgeKeys, AgeRecipient, EncryptedRecordingStore, MAX_RECIPIENTS, decrypt,
};
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_core::audit::chain::Digest;
use teleport_core::clock::Timestamp;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::UserName;
use teleport_core::recording::{
    Completion, ContentDigest, Encoding, Form, Listing, MAX_PART_LEN, RecordingError, RecordingMeta,
    RecordingStore,
};
use teleport_core::secret::SecretString;
use teleport_core::testing::{KnownKeySealer, MemoryRecordings};

use crate::recordings::{meta, tree};

/// A key pair by `age-keygen`: the file, and the public key in it.
struct Pair(String);

impl Pair {
    fn new() -> Self {
        let output = Command::new("age-keygen").output().expect("age is not installed; .ci/test installs it");
        Self(String::from_utf8(output.stdout).unwrap())
    }

    fn recipient(&self) -> AgeRecipient {
        let line = self.0.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
        line.parse().unwrap()
    }

    fn identities(&self) -> Vec<AgeIdentity> {
        AgeIdentity::parse_file(&SecretString::new(self.0.clone())).unwrap()
    }
}

/// Encrypts for `to` and reads with `with`.
fn over(store: &Arc<dyn RecordingStore>, to: &[&Pair], with: &[&Pair]) -> EncryptedRecordingStore {
    let keys = AgeKeys {
        recipients: to.iter().map(|pair| pair.recipient()).collect(),
        identities: with.iter().flat_map(|pair| pair.identities()).collect(),
    };
    let entropy = Arc::new(SystemEntropy::new());
    EncryptedRecordingStore::new(Arc::clone(store), keys, Arc::new(KnownKeySealer), entropy).unwrap()
}

fn no_key<T: std::fmt::Debug>(result: Result<T, RecordingError>) {
    assert!(matches!(result, Err(RecordingError::Encrypted)), "{result:?}");
}

fn forged<T: std::fmt::Debug>(result: Result<T, RecordingError>) {
    match result {
        Err(RecordingError::Unavailable { source }) => {
            assert!(source.to_string().contains("by somebody else"), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

/// One of some, with its first part.
async fn begun(store: &dyn RecordingStore, number: u8) -> RecordingMeta {
    let session = format!("000000{number:02x}-0000-4000-8000-00000000abcd").parse().unwrap();
    let meta = RecordingMeta { session, ..meta() };
    store.create(&meta, &Form::PLAIN).await.unwrap();
    store.put_part(meta.session, 0, Bytes::from_static(b"shown")).await.unwrap();
    meta
}

async fn recorded(store: &dyn RecordingStore, parts: &[&[u8]]) -> RecordingMeta {
    let meta = meta();
    store.create(&meta, &Form::PLAIN).await.unwrap();
    for (number, part) in (0..).zip(parts) {
        store.put_part(meta.session, number, Bytes::copy_from_slice(part)).await.unwrap();
    }
    store.complete(meta.session, &Completion::new(parts.len() as u32, meta.started)).await.unwrap();
    meta
}

async fn whole(store: &dyn RecordingStore, meta: &RecordingMeta) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match store.read(meta.session, bytes.len() as u64, usize::MAX).await.unwrap() {
            end if end.is_empty() => return bytes,
            piece => bytes.extend_from_slice(&piece),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let pair = Pair::new();
    for encrypts in [true, false] {
        let factory = async || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let store = FsRecordingStore::open(directory.path().join(number.to_string())).await.unwrap();
            let to: &[&Pair] = if encrypts { &[&pair] } else { &[] };
            Arc::new(over(&(Arc::new(store) as _), to, &[&pair])) as Arc<dyn RecordingStore>
        };
        conformance::recordings::run_all(&factory).await;
    }
}

/// What the manual tells people to type.
fn manual_commands(number: usize) -> &'static str {
    let chapter = include_str!("../../../teleport-core/src/manual/storing_recordings.md");
    chapter.split("```sh\n").nth(number + 1).unwrap().split("```").next().unwrap()
}

/// The commands of the manual, on the files of the directory store.
#[tokio::test(flavor = "multi_thread")]
async fn the_stock_tool_decrypts_what_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let fs: Arc<dyn RecordingStore> = Arc::new(FsRecordingStore::open(directory.path()).await.unwrap());
    let (one, two) = (Pair::new(), Pair::new());
    let store = over(&fs, &[&one, &two], &[]);
    // Around the ends of the chunks, and nothing at all.
    let long = vec![7_u8; MAX_PART_LEN];
    let parts: Vec<&[u8]> = [1, 65_535, 65_536, 65_537, 0, MAX_PART_LEN].map(|len| &long[..len]).to_vec();
    let meta = recorded(&store, &parts).await;
    for pair in [&one, &two] {
        let mut key = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        key.write_all(pair.0.as_bytes()).unwrap();
        let session = directory.path().join("sessions").join(meta.session.to_string());
        let commands = manual_commands(0).replace("KEYS", &key.path().display().to_string());
        let status =
            Command::new("bash").args(["-eu", "-c", &commands]).current_dir(&session).status().unwrap();
        assert!(status.success());
        let decrypted = std::fs::read(session.join("recording.tprec")).unwrap();
        std::fs::remove_file(session.join("recording.tprec")).unwrap();
        assert!(decrypted == parts.concat(), "{} bytes", decrypted.len());
    }
    let stored = tree(directory.path());
    assert!(stored.values().all(|(_, content)| !content.windows(16).any(|bytes| bytes == [7; 16])));
    // Without identities everything but reading is possible.
    no_key(store.read(meta.session, 0, 9).await);
    assert_eq!(store.lengths(meta.session).await.unwrap().len(), 6);
    store.put_part(meta.session, 1, Bytes::copy_from_slice(parts[1])).await.expect("the same part again");
    let other = store.put_part(meta.session, 1, Bytes::from(vec![8; 65_535])).await;
    assert!(matches!(other, Err(RecordingError::Conflict { .. })), "{other:?}");
}

/// New recipients for new recordings; the old ones are read by the old identity until they are rewrapped, then by the new one
/// only.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn RecordingStore>; 2] = [
        Arc::new(MemoryRecordings::new()),
        Arc::new(FsRecordingStore::open(directory.path()).await.unwrap()),
    ];
    for base in stores {
        let (old, new) = (Pair::new(), Pair::new());
        let parts: [&[u8]; 3] = [b"one ", &[b'x'; 100_000], b"two"];
        let meta = recorded(&over(&base, &[&old], &[]), &parts).await;
        let both = over(&base, &[&new], &[&old, &new]);
        assert_eq!(whole(&both, &meta).await, parts.concat());
        no_key(over(&base, &[&new], &[&new]).rewrap(meta.session).await);
        no_key(over(&base, &[], &[&old]).rewrap(meta.session).await);
        let before = base.lengths(meta.session).await.unwrap();
        assert!(both.rewrap(meta.session).await.unwrap());
        assert!(!both.rewrap(meta.session).await.unwrap(), "there is nothing to do any more");
        assert_eq!(base.lengths(meta.session).await.unwrap(), before);
        assert_eq!(whole(&over(&base, &[&new], &[&new]), &meta).await, parts.concat());
        no_key(over(&base, &[&new], &[&old]).read(meta.session, 0, 9).await);
        // Another recipient beside it, and a recording of which only a part was rewrapped before a crash.
        let three = Pair::new();
        let more = over(&base, &[&new, &three], &[&new]);
        let last = base.part(meta.session, 2).await.unwrap().unwrap();
        assert!(more.rewrap(meta.session).await.unwrap());
        base.rewrite(
            meta.session,
            Arc::new(move |number, part| Ok(if number == 2 { last.clone() } else { part })),
        )
        .await
        .unwrap();
        assert!(more.rewrap(meta.session).await.unwrap());
        assert_eq!(whole(&over(&base, &[], &[&three]), &meta).await, parts.concat());
        base.delete(meta.session).await.unwrap();
    }
}

/// Recordings from before encryption stay readable, and an upload that goes on while it is turned on or off stays what it was.
#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_turned_on_and_off() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let pair = Pair::new();
    let (off, on) = (over(&base, &[], &[&pair]), over(&base, &[&pair], &[&pair]));
    let meta = meta();
    off.create(&meta, &Form::PLAIN).await.unwrap();
    off.put_part(meta.session, 0, Bytes::from_static(b"clear ")).await.unwrap();
    on.create(&meta, &Form::PLAIN).await.unwrap();
    on.put_part(meta.session, 1, Bytes::from_static(b"clear too")).await.unwrap();
    assert_eq!(whole(&on, &meta).await, b"clear clear too");
    assert_eq!(on.info(meta.session).await.unwrap().encoding, Encoding::Plain);
    on.delete(meta.session).await.unwrap();

    on.create(&meta, &Form::PLAIN).await.unwrap();
    on.put_part(meta.session, 0, Bytes::from_static(b"secret ")).await.unwrap();
    off.create(&meta, &Form::PLAIN).await.unwrap();
    no_key(off.put_part(meta.session, 1, Bytes::from_static(b"not stored in clear")).await);
    on.put_part(meta.session, 1, Bytes::from_static(b"too")).await.unwrap();
    assert_eq!(whole(&off, &meta).await, b"secret too");
    assert_eq!(off.info(meta.session).await.unwrap().encoding, Encoding::Age);
}

/// Whoever writes to the store without the keys of the cluster changes no recording, though the recipients are public.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_into_the_store_is_not_played() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let pair = Pair::new();
    let store = over(&base, &[&pair], &[&pair]);
    let parts: [&[u8]; 2] = [b"one", b"two"];
    let meta = recorded(&store, &parts).await;
    let stored = [0, 1].map(|number| {
        let base = Arc::clone(&base);
        async move { base.part(meta.session, number).await.unwrap().unwrap() }
    });
    let [first, second] = stored;
    let (first, second) = (first.await, second.await);
    let swap = {
        let (first, second) = (first.clone(), second.clone());
        move |number: u32, _: Bytes| Ok(if number == 0 { second.clone() } else { first.clone() })
    };
    base.rewrite(meta.session, Arc::new(swap)).await.unwrap();
    forged(store.read(meta.session, 0, 9).await);
    // Another content for the same recipient, in a file without fault, with the seal of the right one.
    for content in [b"ONE", b"one"] {
        let made = Bytes::from(with_the_seal_of(&first, content, &pair));
        assert_eq!(made.len(), first.len());
        assert_eq!(decrypt(&made, &pair.identities()).unwrap(), content, "a file as good as any");
        base.rewrite(
            meta.session,
            Arc::new(move |number, part| Ok(if number == 0 { made.clone() } else { part })),
        )
        .await
        .unwrap();
        match content {
            b"ONE" => forged(store.part(meta.session, 0).await),
            // So it is the content alone that is refused.
            _ => assert_eq!(store.part(meta.session, 0).await.unwrap().unwrap(), "one"),
        }
    }
    // Every byte counts.
    for at in (0..first.len()).step_by(7) {
        let mut changed = first.to_vec();
        changed[at] ^= 1;
        let changed = Bytes::from(changed);
        base.rewrite(
            meta.session,
            Arc::new(move |number, part| Ok(if number == 0 { changed.clone() } else { part })),
        )
        .await
        .unwrap();
        let read = store.read(meta.session, 0, 9).await;
        assert!(read.is_err(), "byte {at}: {read:?}");
    }
}

/// An `age` file as whoever knows the recipient makes it, with a stanza that was copied from another one.
fn with_the_seal_of(sealed: &[u8], content: &[u8], pair: &Pair) -> Vec<u8> {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use ring::{hkdf, hmac};

    let derive = |secret: &[u8], salt: &[u8], info: &[u8]| {
        let mut key = [0; 32];
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
        secret.expand(&[info], hkdf::HKDF_SHA256).unwrap().fill(&mut key).unwrap();
        key
    };
    let seal = |key: [u8; 32], nonce: [u8; 12], plain: &[u8]| {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
        let mut bytes = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes).unwrap();
        bytes
    };
    let text = pair.recipient().to_string();
    let recipient: Vec<u8> = bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(&text)
        .unwrap()
        .byte_iter()
        .collect();
    let recipient: [u8; 32] = recipient.try_into().unwrap();
    let (file_key, nonce) = ([3; 16], [4; 16]);
    let ours = x25519_dalek::StaticSecret::from([5; 32]);
    let share = x25519_dalek::PublicKey::from(&ours).to_bytes();
    let shared = ours.diffie_hellman(&recipient.into());
    let wrap = derive(shared.as_bytes(), &[share, recipient].concat(), b"age-encryption.org/v1/X25519");
    let base64 = |bytes: &[u8]| data_encoding::BASE64_NOPAD.encode(bytes);
    // Everything from our own stanza up to the checksum is as it was.
    let copied = sealed.windows(3).position(|bytes| bytes == b"-> ").unwrap() + 3;
    let copied = copied + sealed[copied..].windows(3).position(|bytes| bytes == b"-> ").unwrap();
    let checksum = copied + sealed[copied..].windows(4).position(|bytes| bytes == b"\n---").unwrap() + 4;
    let mut file = format!(
        "age-encryption.org/v1\n-> X25519 {}\n{}\n",
        base64(&share),
        base64(&seal(wrap, [0; 12], &file_key))
    )
    .into_bytes();
    file.extend_from_slice(&sealed[copied..checksum]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(&file_key, &[], b"header"));
    let signed = hmac::sign(&key, &file);
    file.extend_from_slice(format!(" {}\n", base64(signed.as_ref())).as_bytes());
    file.extend_from_slice(&nonce);
    let last = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    file.extend(seal(derive(&file_key, &nonce, b"payload"), last, content));
    file
}

/// Everything that is asked of a recording that others have put there or changed.
async fn is_refused(store: &dyn RecordingStore, meta: &RecordingMeta) {
    forged(store.info(meta.session).await);
    forged(store.read(meta.session, 0, 9).await);
    forged(store.lengths(meta.session).await);
    forged(store.part(meta.session, 0).await);
    forged(store.part_digests(meta.session).await);
    forged(store.put_part(meta.session, 0, Bytes::from_static(b"a secret")).await);
    forged(store.complete(meta.session, &Completion::new(1, meta.started)).await);
    forged(store.rewrite(meta.session, Arc::new(|_, part| Ok(part))).await);
    forged(store.rewrap(meta.session).await);
}

/// A recording in clear with markers of its own, made by whoever writes to the store, is neither played nor listed. What is behind
/// it in the list is.
#[tokio::test(flavor = "multi_thread")]
async fn recordings_that_others_put_into_the_store_are_none() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let pair = Pair::new();
    let store = over(&base, &[&pair], &[&pair]);
    let ours = recorded(&store, &[b"ours"]).await;
    let of_ours = base.info(ours.session).await.unwrap();
    // Without a seal, with one that is none, and with that of another session.
    let seals = [None, Some("AAAA".to_owned()), of_ours.seal.clone()];
    for (number, seal) in (2..).zip(seals) {
        for encoding in [Encoding::Plain, Encoding::Age] {
            let meta = RecordingMeta {
                session: format!(
                    "0000000{number}-0000-4000-8000-00000000000{}",
                    u8::from(encoding == Encoding::Age)
                )
                .parse()
                .unwrap(),
                started: ours.started.saturating_add(std::time::Duration::from_secs(number)),
                ..ours.clone()
            };
            base.create(&meta, &Form { encoding, seal: seal.clone() }).await.unwrap();
            base.put_part(meta.session, 0, Bytes::from_static(b"theirs")).await.unwrap();
            base.complete(meta.session, &Completion::new(1, meta.started)).await.unwrap();
            is_refused(&store, &meta).await;
        }
    }
    for limit in [1, 2, 6, 7, 8] {
        let all = Listing::span(Timestamp::EPOCH, Timestamp::MAX, limit);
        let listed = store.list(&all).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|info| info.meta).collect();
        assert_eq!(listed, std::slice::from_ref(&ours), "with room for {limit}");
    }
    assert_eq!(whole(&store, &ours).await, b"ours");
    // Where nothing is encrypted, nobody was told that others cannot write there; what is said to be encrypted stays refused.
    let off = over(&base, &[], &[&pair]);
    let theirs = off.list(&Listing::span(Timestamp::EPOCH, Timestamp::MAX, 9)).await.unwrap();
    assert_eq!(theirs.len(), 1 + 3, "{theirs:?}");
}

/// Said by others of a recording that it is stored in clear, or that it is somebody else's: nothing of it is shown, and what comes of
/// it is not stored in clear.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_recording_is_cannot_be_changed_in_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let base: Arc<dyn RecordingStore> = Arc::new(FsRecordingStore::open(directory.path()).await.unwrap());
    let pair = Pair::new();
    let store = over(&base, &[&pair], &[&pair]);
    let meta = meta();
    let file = directory.path().join("sessions").join(meta.session.to_string()).join("meta.json");
    store.create(&meta, &Form::PLAIN).await.unwrap();
    store.put_part(meta.session, 0, Bytes::from_static(b"secret ")).await.unwrap();
    let said = std::fs::read_to_string(&file).unwrap();
    for (from, to) in [("\"age\"", "\"plain\""), ("\"alice\"", "\"mallory\""), ("\"root\"", "\"nobody\"")] {
        let changed = said.replace(from, to);
        assert_ne!(changed, said);
        std::fs::write(&file, changed).unwrap();
        // After a restart, or by another service.
        let fresh = over(&base, &[&pair], &[&pair]);
        is_refused(&fresh, &meta).await;
        forged(fresh.put_part(meta.session, 1, Bytes::from_static(b"not in clear")).await);
        assert!(base.part(meta.session, 1).await.unwrap().is_none());
    }
    std::fs::write(&file, &said).unwrap();
    let fresh = over(&base, &[&pair], &[&pair]);
    fresh.put_part(meta.session, 1, Bytes::from_static(b"too")).await.unwrap();
    fresh.complete(meta.session, &Completion::new(2, meta.started)).await.unwrap();
    assert_eq!(whole(&fresh, &meta).await, b"secret too");
    std::fs::write(&file, said.replace("\"age\"", "\"plain\"")).unwrap();
    std::fs::write(file.with_file_name("data"), vec![b'x'; 2048]).unwrap();
    is_refused(&over(&base, &[&pair], &[&pair]), &meta).await;
}

/// Whoever writes to the store does not give himself the right to see what was encrypted.
#[tokio::test]
async fn who_took_part_is_not_said_by_the_store() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let pair = Pair::new();
    let store = over(&base, &[&pair], &[&pair]);
    let names =
        |names: &[&str]| -> Vec<UserName> { names.iter().map(|name| name.parse().unwrap()).collect() };
    let completion = |participants: &[&str]| Completion {
        participants: names(participants),
        ..Completion::new(1, Timestamp::from_unix_secs(1_800_000_000))
    };
    let own = begun(&store, 1).await;
    store.complete(own.session, &completion(&["bob"])).await.unwrap();
    assert_eq!(store.info(own.session).await.unwrap().participants, names(&["bob"]));
    // Without a seal, with one of another recording, and with one of other words.
    let copied = base.info(own.session).await.unwrap().completion_seal;
    assert!(copied.is_some());
    for (number, participants, seal) in
        [(2, &["mallory"][..], None), (3, &["bob"], copied.clone()), (4, &["mallory"], copied.clone())]
    {
        let meta = begun(&store, number).await;
        let forged = Completion { seal, ..completion(participants) };
        base.complete(meta.session, &forged).await.unwrap();
        let info = store.info(meta.session).await.unwrap();
        assert_eq!(info.participants, names(&[]), "{forged:?}");
        let listed = store.list(&Listing::span(Timestamp::EPOCH, Timestamp::MAX, 10)).await.unwrap();
        assert!(listed.contains(&info));
    }
}

#[test]
fn recipients_have_a_limit() {
    let pairs: Vec<Pair> = (0..=MAX_RECIPIENTS).map(|_| Pair::new()).collect();
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    over(&base, &pairs.iter().skip(1).collect::<Vec<_>>(), &[]);
    let keys = AgeKeys { recipients: pairs.iter().map(Pair::recipient).collect(), identities: Vec::new() };
    let entropy = Arc::new(SystemEntropy::new());
    let error = EncryptedRecordingStore::new(base, keys, Arc::new(KnownKeySealer), entropy).unwrap_err();
    assert!(error.to_string().contains("at most 8"), "{error}");
}

/// What the stock tool says of a file: its content, or that it is none.
fn stock(file: &[u8], key: &std::path::Path) -> Option<Vec<u8>> {
    let mut age = Command::new("age");
    age.arg("-d").arg("-i").arg(key).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut age = age.spawn().unwrap();
    let (mut stdin, file) = (age.stdin.take().unwrap(), file.to_vec());
    // It may end before it has read all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&file)));
    let output = age.wait_with_output().unwrap();
    writer.join().unwrap();
    output.status.success().then_some(output.stdout)
}

/// A file by the stock tool.
fn by_stock(plain: &[u8], arguments: &[&str]) -> Vec<u8> {
    let mut age = Command::new("age");
    age.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut age = age.spawn().unwrap();
    let (mut stdin, plain) = (age.stdin.take().unwrap(), plain.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&plain).unwrap());
    let output = age.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// What the stock tool has encrypted we decrypt, whatever else is in the header; with other keys neither of the two does.
#[test]
fn what_the_stock_tool_wrote_is_read() {
    let (one, two) = (Pair::new(), Pair::new());
    let (to_one, to_two) = (one.recipient().to_string(), two.recipient().to_string());
    let host = tempfile::tempdir().unwrap();
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(host.path().join("id"))
        .status();
    assert!(status.unwrap().success());
    let ssh = host.path().join("id.pub").display().to_string();
    for len in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let plain: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        for to in [vec!["-r", &to_one], vec!["-r", &to_two, "-r", &to_one], vec!["-R", &ssh, "-r", &to_one]] {
            let file = by_stock(&plain, &to);
            assert!(decrypt(&file, &one.identities()).unwrap() == plain, "{len} bytes, {to:?}");
            let nobody = decrypt(&file, &Pair::new().identities());
            assert_eq!(nobody, Err(AgeError::NoIdentity), "{len} bytes, {to:?}");
        }
    }
    let for_ssh = by_stock(b"plain", &["-R", &ssh]);
    assert_eq!(decrypt(&for_ssh, &one.identities()), Err(AgeError::NoIdentity));
    let armored = by_stock(b"plain", &["-a", "-r", &to_one]);
    assert_eq!(decrypt(&armored, &one.identities()), Err(AgeError::Damaged));
}

/// A passphrase is asked for on a terminal, which no service has. The stock tool takes none from elsewhere, so this is written
/// out; the header's form is what is looked at.
#[test]
fn passphrases_are_told_from_damage() {
    let (salt, key, mac) = ("A".repeat(22), "A".repeat(43), "A".repeat(43));
    let file = format!("age-encryption.org/v1\n-> scrypt {salt} 18\n{key}\n--- {mac}\n");
    let error = decrypt(file.as_bytes(), &Pair::new().identities()).unwrap_err();
    assert_eq!(error, AgeError::Passphrase);
    assert!(error.to_string().contains("age -d"), "{error}");
}

/// Two readers of one format agree on what is no file of it: whatever is cut off, put in, or changed.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_stock_tool_refuses_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    let key = directory.path().join("key");
    std::fs::write(&key, &pair.0).unwrap();
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let long = vec![7_u8; 70_000];
    let meta = recorded(&over(&base, &[&pair], &[]), &[&long]).await;
    let ours = base.part(meta.session, 0).await.unwrap().unwrap().to_vec();
    let theirs = by_stock(&long, &["-r", &pair.recipient().to_string()]);
    let chunk = (64 << 10) + 16;
    let (mut refused, mut taken) = (0, 0);
    for file in [ours, theirs] {
        let body = file.windows(5).position(|bytes| bytes == b"\n--- ").unwrap() + 1 + 4 + 43 + 1;
        let mut cases =
            vec![file.clone(), Vec::new(), [&file[..], b"x"].concat(), [b"x", &file[..]].concat()];
        // Cut off at each place that means something, and beside it.
        for end in [21, 22, 23, 100, body - 1, body, body + 15, body + 16, body + 16 + chunk, file.len()] {
            cases.extend([end - 1, end].map(|end| file[..end].to_vec()));
        }
        // The last chunk left out, doubled; the two exchanged.
        let (first, last) = file[body + 16..].split_at(chunk);
        let head = &file[..body + 16];
        cases.extend([
            [head, first, last, last].concat(),
            [head, last, first].concat(),
            [head, last].concat(),
        ]);
        // Every byte of the header's lines, and some behind them.
        for at in (0..body.min(400)).step_by(5).chain([
            body - 45,
            body - 2,
            body - 1,
            body,
            body + 16,
            file.len() - 1,
        ]) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            cases.push(changed);
        }
        // Other writings of the same.
        let text = |from: &str, to: &str| {
            let head = String::from_utf8(file[..body].to_vec()).unwrap().replacen(from, to, 1);
            [head.as_bytes(), &file[body..]].concat()
        };
        cases.extend([
            text("\n", "\r\n"),
            text("/v1", "/v2"),
            text("-> X25519 ", "-> X25519  "),
            text("-> X25519 ", "-> X25519 x "),
            text("-> X25519 ", "-> x25519 "),
            text("-> X25519 ", "->X25519 "),
            text("--- ", "---"),
            text("--- ", "---  "),
            text("-> X25519 ", "-> \n\n-> X25519 "),
            text("-> X25519 ", "-> other\n\n-> X25519 "),
            text("-> X25519 ", "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 18\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-> X25519 "),
        ]);
        for (number, case) in cases.iter().enumerate() {
            let theirs = stock(case, &key);
            let ours = decrypt(case, &pair.identities()).ok();
            assert!(ours == theirs, "case {number}: we {:?}, age {:?}", ours.is_some(), theirs.is_some());
            if theirs.is_some() { taken += 1 } else { refused += 1 }
        }
    }
    assert!(refused > 100 && taken >= 4, "{refused} refused, {taken} taken");
}

/// The digest for the audit log is that of the content, whether it can be read here or not, and whoever reads it.
#[tokio::test(flavor = "multi_thread")]
async fn the_content_has_a_digest_without_any_key() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let (one, two) = (Pair::new(), Pair::new());
    let blind = over(&base, &[&one], &[]);
    let parts: [&[u8]; 3] = [b"zero", &[1; 100_000], b""];
    let meta = recorded(&blind, &parts).await;
    let expected = Digest::of(&[parts.map(|part| *Digest::of(&[part]).as_bytes()).concat().as_slice()]);
    let of = async |store: &EncryptedRecordingStore| match ContentDigest::of(store, meta.session).await {
        Ok(ContentDigest::Parts { digest, decrypted }) => (digest, decrypted),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(&blind).await, (expected, false));
    assert_eq!(of(&over(&base, &[], &[&one])).await, (expected, true));
    // Somebody else's identity is none.
    assert_eq!(of(&over(&base, &[], &[&two])).await, (expected, false));
    assert!(over(&base, &[&two], &[&one]).rewrap(meta.session).await.unwrap());
    assert_eq!(of(&blind).await, (expected, false));
    assert_eq!(of(&over(&base, &[], &[&two])).await, (expected, true));
    // By hand, as the manual says.
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, &two.0).unwrap();
    for number in 0..3 {
        let part = base.part(meta.session, number).await.unwrap().unwrap();
        std::fs::write(directory.path().join(format!("part-{number:08}")), part).unwrap();
    }
    let commands = manual_commands(1).replace("KEYS", &key.display().to_string());
    let output = Command::new("bash").args(["-eu", "-c", &commands]).current_dir(directory.path()).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(output.split_whitespace().next(), Some(expected.to_string().as_str()));
    // A changed header is found by everybody, changed content by whoever can read.
    for (at, everybody) in [(HEADER_END - 100, true), (HEADER_END + 40, false), (SEAL_AT, true)] {
        let before = base.part(meta.session, 1).await.unwrap().unwrap();
        let changed = {
            let mut changed = before.to_vec();
            changed[at] ^= 1;
            Bytes::from(changed)
        };
        let put = async |content: Bytes| {
            let change = move |number, part| Ok(if number == 1 { content.clone() } else { part });
            base.rewrite(meta.session, Arc::new(change)).await.unwrap();
        };
        put(changed).await;
        forged(over(&base, &[], &[&two]).part_digests(meta.session).await);
        assert_eq!(blind.part_digests(meta.session).await.is_err(), everybody, "byte {at}");
        put(before).await;
    }
    assert_eq!(of(&blind).await, (expected, false));
}

/// The length of our headers, and where the seal stands in those for one recipient.
const HEADER_END: usize = 1024;
const SEAL_AT: usize = 200;
