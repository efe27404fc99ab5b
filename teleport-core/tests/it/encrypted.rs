//! An auth service that keeps recordings and cannot read them: only recipients are configured, no identity.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::recordings::age::{AgeIdentity, AgeKeys, EncryptedRecordingStore};
use teleport_core::api::{AdminApi, ApiErrorKind, PresenceApi, RecordingApi, RetentionApi};
use teleport_core::audit::EventKind;
use teleport_core::audit::chain::Digest;
use teleport_core::id::{HostRole, SessionId};
use teleport_core::label::Labels;
use teleport_core::recording::{RecordingMeta, RecordingStore};
use teleport_core::resource::NodeRecord;
use teleport_core::secret::SecretString;
use teleport_core::testing::{KnownKeySealer, ManualClock, MemoryRecordings, RepeatableEntropy};

use crate::cluster::Cluster;

/// By `age-keygen`, for nothing but this.
const KEY: &str = "AGE-SECRET-KEY-1NEPRZP7GYWZDMF22QLXELL96F6V3QKW39CHHCGLGRGRCYASXDVMSF940SZ";

fn keys() -> Vec<AgeIdentity> {
    AgeIdentity::parse_file(&SecretString::new(KEY)).unwrap()
}

/// What nobody can decrypt here is completed, by its node and without it, and bound into the log by the digest of its content.
#[tokio::test]
async fn what_cannot_be_read_is_completed_and_bound_into_the_log() {
    let clock = Arc::new(ManualClock::default());
    let base: Arc<dyn RecordingStore> = Arc::new(MemoryRecordings::new());
    let over = |keys: AgeKeys| {
        let entropy = Arc::new(RepeatableEntropy::new(7));
        EncryptedRecordingStore::new(Arc::clone(&base), keys, Arc::new(KnownKeySealer), entropy).unwrap()
    };
    let recipients = vec![keys()[0].recipient()];
    let blind = Arc::new(over(AgeKeys { recipients, identities: Vec::new() }));
    let backend = Arc::new(MemoryBackend::new(clock.clone()));
    let cluster = Cluster::storing(backend, clock, blind, |_| {}).await;
    let host = cluster.host("web-1", HostRole::Node);
    let node = cluster.as_host(&host);
    let record = NodeRecord {
        host_id: host.host_id,
        name: host.name.clone(),
        address: "192.0.2.7:3022".to_owned(),
        labels: Labels::default(),
        version: "1".to_owned(),
    };
    node.announce_node(record).await.unwrap();
    let began = |number: u128| RecordingMeta {
        session: SessionId::from_uuid(uuid::Uuid::from_u128(
            0x1234_5678_0000_4000_8000_0000_0000_0000 + number,
        )),
        cluster: host.cluster.clone(),
        host_id: host.host_id,
        host_name: host.name.clone(),
        user: "alice".parse().unwrap(),
        login: "root".parse().unwrap(),
        started: cluster.now(),
        command: None,
        terminal: None,
    };
    let parts: [&[u8]; 2] = [b"what was shown ", b"on a terminal"];
    let expected =
        Digest::of(&parts.map(|part| *Digest::of(&[part]).as_bytes()).each_ref().map(|digest| &digest[..]));
    let said = || {
        let event = cluster.audit.last(EventKind::SessionUpload).unwrap();
        assert!(!event.fields.contains_key("sha256"), "{event:?}");
        (event.sid, event.fields.get("parts_sha256").map(ToString::to_string))
    };

    let (whole, lost) = (began(1), began(2));
    node.create_recording(whole.clone()).await.unwrap();
    for (number, part) in (0..).zip(parts) {
        node.put_recording_part(whole.session, number, Bytes::from_static(part)).await.unwrap();
    }
    node.complete_recording(whole.session, 2).await.unwrap();
    let bound = |session| (Some(session), Some(format!("\"{expected}\"")));
    assert_eq!(said(), bound(whole.session));
    node.complete_recording(whole.session, 2).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::SessionUpload), 1, "asked again: once");

    // Its node is removed before it comes to the end.
    node.create_recording(lost.clone()).await.unwrap();
    node.put_recording_part(lost.session, 0, Bytes::from_static(parts[0])).await.unwrap();
    node.stream_recording(lost.session, parts[0].len() as u64, Bytes::from_static(parts[1])).await.unwrap();
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
    assert_eq!(said(), bound(lost.session));

    // Nobody reads either of them here; whoever has the key does, and it is what the log says.
    let admin = cluster.admin();
    let error = admin.read_recording(lost.session, 0).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Conflict);
    assert!(error.to_string().contains("session_recording_encryption"), "{error}");
    let seeing = over(AgeKeys { recipients: Vec::new(), identities: keys() });
    for session in [whole.session, lost.session] {
        let digests = seeing.part_digests(session).await.unwrap().unwrap();
        assert!(digests.decrypted);
        assert_eq!(seeing.read(session, 0, 999).await.unwrap(), parts[0]);
        admin.delete_recording(session, None).await.unwrap();
    }
}
