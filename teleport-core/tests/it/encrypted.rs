//! An auth service that keeps recordings and cannot read them: only recipients are configured, no identity.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::recordings::age::{AgeIdentity, AgeKeys, AgeRecipient, EncryptedRecordingStore};
use teleport_core::api::{AdminApi, ApiErrorKind, PresenceApi, RecordingApi, RetentionApi};
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::Digest;
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::recording::RecordingStore;
use teleport_core::resource::NodeRecord;
use teleport_core::secret::SecretString;
use teleport_core::testing::{KnownKeySealer, ManualClock, MemoryRecordings, RepeatableEntropy};

use crate::cluster::Cluster;

/// By `age-keygen`, for nothing but this.
const KEY: &str = "AGE-SECRET-KEY-1NEPRZP7GYWZDMF22QLXELL96F6V3QKW39CHHCGLGRGRCYASXDVMSF940SZ";

/// The public key of a pair that nobody has.
const OTHER: &str = "age1s88l2v5mwmpsqrn9qqlxqg6ztlxvf59z5uaygdymlxl2wcxasyzsghhjg7";

fn keys() -> Vec<AgeIdentity> {
    AgeIdentity::parse_file(&SecretString::new(KEY)).unwrap()
}

fn over(base: &Arc<dyn RecordingStore>, keys: AgeKeys) -> EncryptedRecordingStore {
    let entropy = Arc::new(RepeatableEntropy::new(7));
    EncryptedRecordingStore::new(Arc::clone(base), keys, Arc::new(KnownKeySealer), entropy).unwrap()
}

async fn cluster(store: EncryptedRecordingStore) -> Cluster {
    let clock = Arc::new(ManualClock::default());
    let backend = Arc::new(MemoryBackend::new(clock.clone()));
    Cluster::storing(backend, clock, Arc::new(store), |_| {}).await
}

/// What nobody can decrypt here is completed, by its node and without it, and bound into the log by the digest of its content.
#[tokio::test]
async fn what_cannot_be_read_is_completed_and_bound_into_the_log() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let recipients = vec![keys()[0].recipient()];
    let cluster = cluster(over(&base, AgeKeys { recipients, identities: Vec::new() })).await;
    let host = cluster.host("web-1", HostRole::Node);
    let node = cluster.as_host(&host);
    let record = NodeRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    node.announce_node(record).await.unwrap();
    let parts: [&[u8]; 2] = [b"what was shown ", b"on a terminal"];
    let expected =
        Digest::of(&parts.map(|part| *Digest::of(&[part]).as_bytes()).each_ref().map(|digest| &digest[..]));
    let said = || {
        let event = cluster.audit.last(EventKind::SessionUpload).unwrap();
        assert!(!event.fields.contains_key("sha256"), "{event:?}");
        (event.sid, event.fields.get("parts_sha256").map(ToString::to_string))
    };

    let (whole, lost) = (cluster.recording(&host), cluster.recording(&host));
    node.create_recording(whole.clone()).await.unwrap();
    for (number, part) in (0..).zip(parts) {
        node.put_recording_part(whole.session, number, Bytes::from_static(part)).await.unwrap();
    }
    node.complete_recording(whole.session, 2).await.unwrap();
    assert_eq!(said(), (Some(whole.session), Some(format!("\"{expected}\""))));
    node.complete_recording(whole.session, 2).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), 1, "asked again: once");

    // Its node is removed before it comes to the end.
    node.create_recording(lost.clone()).await.unwrap();
    for (offset, part) in [(0, parts[0]), (parts[0].len() as u64, parts[1])] {
        node.stream_recording(lost.session, offset, Bytes::from_static(part)).await.unwrap();
    }
    let uploads = cluster.auth.lost_uploads();
    cluster.clock.advance(Duration::from_secs(10));
    uploads.sweep().await.unwrap();
    cluster.admin().delete_node(host.host_id).await.unwrap();
    for _ in 0..3 {
        cluster.clock.advance(Duration::from_secs(10));
        uploads.sweep().await.unwrap();
    }
    let info = cluster.ports.recordings.info(lost.session).await.unwrap();
    assert!(info.completed.is_some() && info.abandoned, "{info:?}");
    let all = parts.concat();
    let expected = Digest::of(&[Digest::of(&[&all]).as_bytes()]);
    assert_eq!(said(), (Some(lost.session), Some(format!("\"{expected}\""))));

    // Nobody reads either of them here; whoever has the key does, and it is what the log says.
    let admin = cluster.admin();
    let error = admin.read_recording(lost.session, 0).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Conflict);
    assert!(error.to_string().contains("session_recording_encryption"), "{error}");
    let seeing = over(&base, AgeKeys { recipients: Vec::new(), identities: keys() });
    for session in [whole.session, lost.session] {
        let digests = seeing.part_digests(session).await.unwrap().unwrap();
        assert!(digests.decrypted);
        assert!(all.starts_with(&seeing.read(session, 0, 999).await.unwrap()));
        admin.delete_recording(session, None).await.unwrap();
    }
}

/// A service that cannot add to a recording is no reason for its node to give it up.
#[tokio::test]
async fn what_cannot_be_encrypted_now_may_come_again() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let recipients = || vec![keys()[0].recipient()];
    let sealing = cluster(over(&base, AgeKeys { recipients: recipients(), identities: Vec::new() })).await;
    let host = sealing.host("web-1", HostRole::Node);
    let meta = sealing.recording(&host);
    let part = || Bytes::from_static(b"shown");
    sealing.as_host(&host).create_recording(meta.clone()).await.unwrap();
    sealing.as_host(&host).put_recording_part(meta.session, 0, part()).await.unwrap();
    let without = cluster(over(&base, AgeKeys { recipients: Vec::new(), identities: Vec::new() })).await;
    let node = without.as_host(&host);
    let error = node.put_recording_part(meta.session, 1, part()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable, "{error}");
    assert_eq!(without.audit.count(EventKind::SessionUploadFailure), 0);
    sealing.as_host(&host).put_recording_part(meta.session, 1, part()).await.unwrap();
}

#[tokio::test]
async fn new_recipients_are_audited() {
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let known = || keys()[0].recipient();
    let before = cluster(over(&base, AgeKeys { recipients: vec![known()], identities: Vec::new() })).await;
    let host = before.host("web-1", HostRole::Node);
    let node = before.as_host(&host);
    let meta = before.recording(&host);
    node.create_recording(meta.clone()).await.unwrap();
    node.put_recording_part(meta.session, 0, Bytes::from_static(b"shown")).await.unwrap();
    node.complete_recording(meta.session, 1).await.unwrap();
    let refused = before.admin().rewrap_recording(meta.session).await;
    assert!(!refused.unwrap(), "these are its recipients");
    assert_eq!(before.audit.count(EventKind::RecordingRewrap), 0);

    let other: AgeRecipient = OTHER.parse().unwrap();
    let blind = cluster(over(&base, AgeKeys { recipients: vec![other], identities: Vec::new() })).await;
    let error = blind.admin().rewrap_recording(meta.session).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Conflict, "who cannot read it cannot give it to others");
    assert_eq!(blind.audit.count(EventKind::RecordingRewrap), 0);
    let after = cluster(over(&base, AgeKeys { recipients: vec![other], identities: keys() })).await;
    assert!(after.admin().rewrap_recording(meta.session).await.unwrap());
    let event = after.audit.last(EventKind::RecordingRewrap).unwrap();
    assert_eq!((event.sid, &event.fields["session_user"]), (Some(meta.session), &"alice".into()));
    let error = after.admin().read_recording(meta.session, 0).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Conflict, "it is for the others now");
    assert!(!after.admin().rewrap_recording(meta.session).await.unwrap());
    assert_eq!(after.audit.count(EventKind::RecordingRewrap), 1);
}
