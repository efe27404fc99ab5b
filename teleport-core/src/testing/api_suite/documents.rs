//! Resources as documents: revisions, refusals, nothing unreadable stored.

use super::{ApiFixture, admin, as_user, fresh_name, member, refused};
use crate::api::{ApiErrorKind, CreateToken};
use crate::id::{HostRole, LockName, RoleName};
use crate::label::Labels;
use crate::resource::{Lock, LockSpec, LockTarget, Role, RoleSpec, User, UserSpec};

/// A role comes, changes and goes; a stale document changes nothing; what cannot be decided by is not stored.
pub async fn roles_are_written_under_their_revision(fixture: &dyn ApiFixture) {
    let admin = admin(fixture);
    let name = RoleName::new(fresh_name(fixture, "ops").as_str()).unwrap();
    let mut role = Role::new(name.as_str(), RoleSpec::default());
    role.spec.allow.logins = vec!["deploy".to_owned()];
    refused(admin.replace_role(role.clone()).await, ApiErrorKind::NotFound);
    let first = admin.create_role(role.clone()).await.unwrap();
    refused(admin.create_role(role.clone()).await, ApiErrorKind::Conflict);
    let read = admin.role(name.clone()).await.unwrap();
    assert_eq!(read.metadata.revision, Some(first));
    assert_eq!(read.spec, role.spec);

    let mut changed = read.clone();
    changed.spec.allow.logins.push("root".to_owned());
    let second = admin.replace_role(changed.clone()).await.unwrap();
    assert!(second > first);
    let stale = refused(admin.replace_role(changed.clone()).await, ApiErrorKind::Conflict);
    assert!(stale.message().contains("metadata.revision") && stale.message().contains(&first.to_string()));
    assert_eq!(admin.role(name.clone()).await.unwrap().metadata.revision, Some(second));
    changed.metadata.revision = None;
    admin.replace_role(changed.clone()).await.unwrap();

    // Wrong when it is written, not when somebody connects.
    let stored = admin.role(name.clone()).await.unwrap();
    for (part, spoil) in [
        (
            "node_labels_expression",
            (|role| role.spec.allow.node_labels_expression = Some("labels[".to_owned())) as fn(&mut Role),
        ),
        ("spec.allow.logins", |role| role.spec.allow.logins = vec!["{{internal.".to_owned()]),
        ("no name/", |role| role.metadata.name = "no name/".to_owned()),
        ("v9", |role| role.version = "v9".to_owned()),
        ("metadata.expires", |role| role.metadata.expires = Some(crate::clock::Timestamp::EPOCH)),
    ] {
        let mut wrong = stored.clone();
        spoil(&mut wrong);
        let error = refused(admin.replace_role(wrong.clone()).await, ApiErrorKind::Invalid);
        let named = error.message().contains(part) || part == "no name/" && error.message().contains("name");
        assert!(named && !error.message().contains('\n'), "{part}: {error}");
        refused(admin.create_role(wrong).await, ApiErrorKind::Invalid);
    }
    assert_eq!(admin.role(name.clone()).await.unwrap(), stored);

    // Who holds it keeps it.
    let holder = member(fixture, "holder", &[name.as_str()]).await.user;
    let held = refused(admin.delete_role(name.clone()).await, ApiErrorKind::Conflict);
    assert!(held.message().contains(holder.as_str()), "{held}");
    admin.delete_user(holder).await.unwrap();
    admin.delete_role(name.clone()).await.unwrap();
    refused(admin.delete_role(name.clone()).await, ApiErrorKind::NotFound);
    refused(admin.role(name).await, ApiErrorKind::NotFound);
    let builtin = refused(admin.delete_role(RoleName::new("editor").unwrap()).await, ApiErrorKind::Invalid);
    assert!(builtin.message().contains("built in"));
}

/// A user comes, changes and goes; nobody is given more by who may not give it.
pub async fn users_are_written_under_their_revision(fixture: &dyn ApiFixture) {
    let admin = admin(fixture);
    let name = fresh_name(fixture, "dana");
    let mut user = User::new(name.as_str(), UserSpec::default());
    user.spec.roles = vec![RoleName::new("access").unwrap()];
    user.spec.traits.insert("logins".to_owned(), vec!["root".to_owned()]);
    refused(admin.replace_user(user.clone()).await, ApiErrorKind::NotFound);
    let first = admin.add_user(user.clone()).await.unwrap();
    refused(admin.add_user(user.clone()).await, ApiErrorKind::Conflict);
    let mut read = admin.user(name.clone()).await.unwrap();
    assert_eq!((read.metadata.revision, &read.spec), (Some(first), &user.spec));
    assert!(admin.user_documents().await.unwrap().contains(&read));
    read.spec.traits.insert("team".to_owned(), vec!["web".to_owned()]);
    admin.replace_user(read.clone()).await.unwrap();
    refused(admin.replace_user(read).await, ApiErrorKind::Conflict);

    for spoil in [
        (|user: &mut User| user.spec.roles = vec![RoleName::new("nonesuch").unwrap()]) as fn(&mut User),
        |user| drop(user.spec.traits.insert("logins".to_owned(), vec!["a b".to_owned()])),
        |user| drop(user.spec.traits.insert("long".to_owned(), vec!["x".repeat(10_000)])),
        // What no certificate could hold.
        |user| drop(user.spec.traits.insert("team".to_owned(), vec!["a\nb".to_owned()])),
        |user| drop(user.spec.traits.insert("a\tb".to_owned(), vec!["a".to_owned()])),
        |user| user.spec.roles = (0..129).map(|n| RoleName::new(&format!("role-{n}")).unwrap()).collect(),
        |user| user.metadata.name = "local-admin".to_owned(),
        |user| user.metadata.name = "No Name".to_owned(),
        |user| user.kind = "role".to_owned(),
    ] {
        let mut wrong = user.clone();
        spoil(&mut wrong);
        refused(admin.replace_user(wrong.clone()).await, ApiErrorKind::Invalid);
        refused(admin.add_user(wrong).await, ApiErrorKind::Invalid);
    }

    // The user may look at nothing and write nothing, neither the own roles nor the own record.
    let identity = super::user(fixture, name.as_str(), &["access"], &["root"]);
    let own = as_user(fixture, identity);
    let mut raised = admin.user(name.clone()).await.unwrap();
    raised.spec.roles.push(RoleName::new("editor").unwrap());
    refused(own.replace_user(raised).await, ApiErrorKind::Denied);
    let mut wider = admin.role(RoleName::new("access").unwrap()).await.unwrap();
    wider.spec.allow.rules = admin.role(RoleName::new("editor").unwrap()).await.unwrap().spec.allow.rules;
    refused(own.replace_role(wider.clone()).await, ApiErrorKind::Denied);
    wider.metadata.name = fresh_name(fixture, "wider").to_string();
    refused(own.create_role(wider).await, ApiErrorKind::Denied);
    refused(own.delete_role(RoleName::new("access").unwrap()).await, ApiErrorKind::Denied);
    refused(own.user(name.clone()).await, ApiErrorKind::Denied);
    refused(own.secrets().await, ApiErrorKind::Denied);
    admin.delete_user(name.clone()).await.unwrap();
    refused(admin.user(name).await, ApiErrorKind::NotFound);
}

/// A token is described without its secret, and changed without it.
pub async fn tokens_are_changed_without_their_secret(fixture: &dyn ApiFixture) {
    let admin = admin(fixture);
    let request = |role| CreateToken {
        roles: vec![role],
        ttl: Some(600),
        uses: Some(2),
        labels: Labels::default(),
        value: None,
    };
    let created = admin.create_token(request(HostRole::Node)).await.unwrap();
    let find = async |id: &str| {
        let all = admin.token_documents().await.unwrap();
        all.into_iter().find(|token| token.metadata.name == id).expect("it is there")
    };
    let read = find(&created.info.id).await;
    let text = serde_json::to_string(&read).unwrap();
    assert!(!text.contains(created.token.expose()), "{text}");
    assert_eq!((read.metadata.expires, read.spec.uses), (created.info.expires, Some(2)));
    let mut changed = read.clone();
    changed.spec.uses = Some(5);
    changed.spec.labels = "env=prod".parse().unwrap();
    admin.replace_token(changed.clone()).await.unwrap();
    refused(admin.replace_token(changed.clone()).await, ApiErrorKind::Conflict);
    let read = find(&created.info.id).await;
    assert_eq!((read.spec.uses, &read.spec.labels), (Some(5), &changed.spec.labels));

    let mut other = read.clone();
    other.spec.secret = Some(crate::secret::SecretString::new("another-secret-of-mine"));
    refused(admin.replace_token(other).await, ApiErrorKind::Invalid);
    let mut endless = read.clone();
    endless.metadata.expires = None;
    refused(admin.replace_token(endless).await, ApiErrorKind::Invalid);
    let mut unknown = read.clone();
    unknown.metadata.name = "0000000000000000".to_owned();
    refused(admin.replace_token(unknown).await, ApiErrorKind::NotFound);

    // As with new ones: the right to make tokens is no way to become the auth host.
    let editor = as_user(fixture, member(fixture, "tina", &["editor"]).await);
    let mut raised = read;
    raised.spec.roles = vec![HostRole::Auth];
    refused(editor.replace_token(raised).await, ApiErrorKind::Denied);
    admin.delete_token(created.token).await.unwrap();
}

/// A lock comes, changes and goes. Whoever it targets may do nothing meanwhile, is told why, and cannot end it.
pub async fn locks_are_written_under_their_revision(fixture: &dyn ApiFixture) {
    let admin = admin(fixture);
    let editor = member(fixture, "lucy", &["editor"]).await;
    let own = as_user(fixture, editor.clone());
    let name = LockName::new(fresh_name(fixture, "lock").as_str()).unwrap();
    let target = LockTarget { user: Some(editor.user.clone()), ..LockTarget::default() };
    let lock = Lock::new(name.as_str(), LockSpec { target, message: "Go home".to_owned() });
    refused(own.replace_lock(lock.clone()).await, ApiErrorKind::NotFound);
    refused(own.delete_lock(name.clone()).await, ApiErrorKind::NotFound);

    let first = admin.create_lock(lock.clone()).await.unwrap();
    refused(admin.create_lock(lock.clone()).await, ApiErrorKind::Conflict);
    let text = format!("lock targeting user:\"{}\" is in force: Go home", editor.user);
    for outcome in [own.delete_lock(name.clone()).await, own.nodes().await.map(drop)] {
        assert_eq!(refused(outcome, ApiErrorKind::Denied).message(), text);
    }
    let read = admin.lock(name.clone()).await.unwrap();
    assert_eq!((read.metadata.revision, &read.spec), (Some(first), &lock.spec));
    assert!(admin.locks().await.unwrap().contains(&read));

    let mut changed = read.clone();
    changed.spec.message = String::new();
    let second = admin.replace_lock(changed.clone()).await.unwrap();
    assert!(second > first);
    refused(admin.replace_lock(changed).await, ApiErrorKind::Conflict);
    assert_eq!(admin.lock(name.clone()).await.unwrap().metadata.revision, Some(second));
    for spoil in [
        (|lock: &mut Lock| lock.spec.target = LockTarget::default()) as fn(&mut Lock),
        |lock| lock.spec.message = "\u{7}".to_owned(),
        |lock| lock.metadata.expires = Some(crate::clock::Timestamp::EPOCH),
        |lock| lock.metadata.name = "no name/".to_owned(),
        |lock| lock.version = "v9".to_owned(),
    ] {
        let mut wrong = lock.clone();
        spoil(&mut wrong);
        refused(admin.replace_lock(wrong.clone()).await, ApiErrorKind::Invalid);
        refused(admin.create_lock(wrong).await, ApiErrorKind::Invalid);
    }

    admin.delete_lock(name.clone()).await.unwrap();
    refused(admin.delete_lock(name.clone()).await, ApiErrorKind::NotFound);
    refused(admin.lock(name.clone()).await, ApiErrorKind::NotFound);
    own.nodes().await.unwrap();

    // Whoever may not administer locks may not make one either, not even for oneself.
    let plain = as_user(fixture, member(fixture, "petra", &["access", "auditor"]).await);
    refused(plain.create_lock(lock).await, ApiErrorKind::Denied);
    refused(plain.locks().await, ApiErrorKind::Denied);
    admin.delete_user(editor.user).await.unwrap();
}
