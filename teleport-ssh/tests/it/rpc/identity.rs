//! Identities on disk.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use teleport_ssh::identity::{IdentityStore, StoreError};

use super::world::World;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn what_is_kept_comes_back() {
    let world = World::start().await;
    let material = world.host(HostRole::Node, "web-1").await;
    let dir = tempfile::tempdir().unwrap();
    let store = IdentityStore::open(dir.path().join("a/b")).unwrap();
    assert!(store.load(HostRole::Node).unwrap().is_none());
    store.save(&material).unwrap();
    let again = IdentityStore::open(store.dir()).unwrap().load(HostRole::Node).unwrap().unwrap();
    assert_eq!(again.public_keys(), material.public_keys());
    assert_eq!(again.tls_certificate, material.tls_certificate);
    assert_eq!(again.ssh_certificate, material.ssh_certificate);
    assert_eq!((again.trust, again.valid_before), (material.trust, material.valid_before));
    assert!(store.load(HostRole::Proxy).unwrap().is_none());
}

#[tokio::test]
async fn an_id_and_the_keys_to_join_with_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = IdentityStore::open(dir.path().join("node")).unwrap();
    let entropy = SystemEntropy::new();
    let id = store.host_id(&entropy).unwrap();
    assert_eq!(store.host_id(&entropy).unwrap(), id);
    let first = store.keys(&entropy).unwrap();
    let second = store.keys(&entropy).unwrap();
    assert_eq!((first.0.public(), first.1.public()), (second.0.public(), second.1.public()));
    // Once there is an identity, they have done their duty.
    let world = World::start().await;
    store.save(&world.host(HostRole::Node, "web-1").await).unwrap();
    assert_ne!(store.keys(&entropy).unwrap().0.public(), first.0.public());
}

/// The umask belongs to the process, so this runs in one of its own: the test calls itself again.
#[tokio::test]
async fn nobody_else_can_read_them_whatever_the_umask() {
    const DIR: &str = "TELEPORT_TEST_IDENTITY_DIR";
    if let Some(dir) = std::env::var_os(DIR) {
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let store = IdentityStore::open(Path::new(&dir).join("node")).unwrap();
        store.host_id(&SystemEntropy::new()).unwrap();
        store.keys(&SystemEntropy::new()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rpc::identity::nobody_else_can_read_them_whatever_the_umask"])
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(status.success());
    let store = dir.path().join("node");
    assert_eq!(mode(&store), 0o700);
    let files: Vec<_> = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn files_that_others_could_have_read_or_changed_are_refused() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = IdentityStore::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700, "an open directory of ours is closed");
    store.save(&world.host(HostRole::Node, "web-1").await).unwrap();
    let file = path.join("node.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(store.load(HostRole::Node), Err(StoreError::Io { .. })));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(store.load(HostRole::Node).unwrap().is_some());
    // A link leads somewhere else, and that somebody else may have made it.
    let moved = dir.path().join("moved.json");
    std::fs::rename(&file, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &file).unwrap();
    assert!(matches!(store.load(HostRole::Node), Err(StoreError::Io { .. })));
}

#[tokio::test]
async fn damage_is_said_and_not_repaired_by_guessing() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = IdentityStore::open(dir.path().join("node")).unwrap();
    store.save(&world.host(HostRole::Node, "web-1").await).unwrap();
    let file = store.dir().join("node.json");
    let whole = std::fs::read(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"", b"{}"] {
        std::fs::write(&file, damaged).unwrap();
        assert!(matches!(store.load(HostRole::Node), Err(StoreError::Damaged { .. })));
    }
    // A node's identity is not a proxy's, under whatever name it lies.
    std::fs::write(&file, &whole).unwrap();
    std::fs::rename(&file, store.dir().join("proxy.json")).unwrap();
    assert!(matches!(store.load(HostRole::Proxy), Err(StoreError::Damaged { .. })));
    std::fs::write(store.dir().join("host_uuid"), "not-an-id\n").unwrap();
    let denied = store.host_id(&SystemEntropy::new());
    // Made by the test with its own umask: either reason is a refusal.
    assert!(matches!(denied, Err(StoreError::Damaged { .. } | StoreError::Io { .. })));
}
