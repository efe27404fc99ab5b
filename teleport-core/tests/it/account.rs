//! Passwords, second factors and lockout beyond what every implementation shows: with time, storage and the audit log in hand.

use teleport_core::api::{
    AcceptInvite, AccountApi, AddMfaDevice, AdminApi, ApiError, ApiErrorKind, ApiResult, ChangePassword,
    CreateUser, MfaDevice, PublicApi, RemoveMfaDevice, ResetUser, TokenPurpose, UpdateUser,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::{AuthHandle, AuthService, Caller, SecondFactor};
use teleport_core::id::{DeviceName, HostRole};
use teleport_core::resource::{Role, RoleSpec};
use teleport_core::secret::SecretString;
use teleport_core::storage::{BackendExt, Repo};

use crate::cluster::{Cluster, PASSWORD, at_once};

const NEW_PASSWORD: &str = "an entirely different sentence";

fn secret(text: &str) -> SecretString {
    SecretString::new(text)
}

fn device(name: &str) -> DeviceName {
    DeviceName::new(name).unwrap()
}

fn as_alice(cluster: &Cluster) -> AuthHandle {
    cluster.as_user(&cluster.user("alice", &["access"], &["root"]))
}

fn change(password: &str, code: SecretString) -> ChangePassword {
    ChangePassword { password: secret(password), code, new_password: secret(NEW_PASSWORD) }
}

async fn login(cluster: &Cluster, password: &str, code: SecretString) -> ApiResult<()> {
    cluster.web().login(cluster.login("alice", password, code)).await.map(drop)
}

fn reason(cluster: &Cluster) -> String {
    cluster.audit.last(EventKind::UserLoginFailure).unwrap().error.unwrap()
}

/// Adds a device with a code of the device that has this secret; returns the new one's secret.
pub(crate) async fn add(
    cluster: &Cluster,
    name: &str,
    by: &SecretString,
) -> Result<(MfaDevice, SecretString), ApiError> {
    let api = as_alice(cluster);
    let begun = api.begin_mfa_device(device(name)).await?;
    let request = AddMfaDevice {
        ticket: begun.ticket,
        new_code: cluster.code(&begun.secret),
        password: secret(PASSWORD),
        code: cluster.code(by),
    };
    Ok((api.add_mfa_device(request).await?, begun.secret))
}

#[tokio::test]
async fn a_password_is_changed_and_the_log_says_by_whom() {
    let cluster = Cluster::new().await;
    let seed = cluster.sign_up("alice").await;
    cluster.next_step();
    as_alice(&cluster).change_password(change(PASSWORD, cluster.code(&seed))).await.unwrap();
    let event = cluster.audit.last(EventKind::UserPasswordChange).unwrap();
    assert_eq!((event.user.as_deref(), event.success), (Some("alice"), Some(true)));
    cluster.next_step();
    login(&cluster, PASSWORD, cluster.code(&seed)).await.unwrap_err();
    assert_eq!(reason(&cluster), "the password is wrong");
    login(&cluster, NEW_PASSWORD, cluster.code(&seed)).await.unwrap();
}

/// Guessing at the old password with a stolen certificate is guessing: it locks logins, and the reverse.
#[tokio::test]
async fn changing_and_logging_in_share_the_lockout() {
    let cluster = Cluster::new().await;
    let seed = cluster.sign_up("alice").await;
    cluster.next_step();
    let alice = as_alice(&cluster);
    for _ in 0..3 {
        let guess = alice.change_password(change("wrong password", cluster.code(&seed))).await;
        assert_eq!(guess.unwrap_err().kind(), ApiErrorKind::Denied);
    }
    let event = cluster.audit.last(EventKind::UserLoginFailure).unwrap();
    assert_eq!(event.fields["operation"], "change_password");
    assert_eq!(
        (event.user.as_deref(), event.error.as_deref()),
        (Some("alice"), Some("the password is wrong"))
    );
    let remove = |code| RemoveMfaDevice { name: device("otp"), password: secret("wrong password"), code };
    let (_, other) = {
        // Two devices, so that the removal is looked at.
        let added = add(&cluster, "phone", &seed).await.unwrap();
        cluster.next_step();
        for _ in 0..3 {
            login(&cluster, "wrong password", cluster.code(&seed)).await.unwrap_err();
        }
        added
    };
    for _ in 0..2 {
        let guess = alice.remove_mfa_device(remove(cluster.code(&other))).await;
        assert_eq!(guess.unwrap_err().kind(), ApiErrorKind::Denied);
    }
    // Five in all: now nothing is looked at, in the same words.
    let locked = alice.change_password(change(PASSWORD, cluster.code(&seed))).await.unwrap_err();
    assert_eq!(
        (locked.message(), reason(&cluster).as_str()),
        ("access denied", "locked after too many failures")
    );
    login(&cluster, PASSWORD, cluster.code(&seed)).await.unwrap_err();
    assert_eq!(reason(&cluster), "locked after too many failures");
    // An administrator ends it, and the log says who.
    let users = cluster.admin().users().await.unwrap();
    assert!(users[0].locked_until.is_some());
    cluster.admin().unlock_user("alice".parse().unwrap()).await.unwrap();
    let event = cluster.audit.last(EventKind::UserUnlock).unwrap();
    assert_eq!((event.user.as_deref(), &event.fields["name"]), (Some("local-admin"), &"alice".into()));
    login(&cluster, PASSWORD, cluster.code(&seed)).await.unwrap();
}

/// E1: one code is worth one act, whichever acts are tried at the same moment and on whichever auth server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e1_one_code_is_worth_one_act() {
    let cluster = Cluster::with(|config| {
        config.lockout.failures = 1000;
        config.password.queue = 1000;
    })
    .await;
    let seed = cluster.sign_up("alice").await;
    let second = cluster.second();
    cluster.next_step();
    let code = cluster.code(&seed);
    let person = cluster.user("alice", &["access"], &["root"]);
    let attempts = (0..60).map(|number| {
        let service: AuthService = if number % 2 == 0 { cluster.auth.clone() } else { second.clone() };
        let by = Caller::Identity(teleport_core::cert::Identity::User(person.clone()), None);
        let login = cluster.login("alice", PASSWORD, code.clone());
        let change = change(PASSWORD, code.clone());
        let web = cluster.web_caller();
        async move {
            match number % 3 {
                0 => service.acting_as(web).login(login).await.is_ok(),
                _ => service.acting_as(by).change_password(change).await.is_ok(),
            }
        }
    });
    let succeeded = at_once(attempts).await.into_iter().filter(|done| *done).count();
    assert_eq!(succeeded, 1);
}

#[tokio::test]
async fn devices_come_and_go_and_the_log_names_them() {
    let cluster = Cluster::new().await;
    let first = cluster.sign_up("alice").await;
    cluster.next_step();
    let (added, phone) = add(&cluster, "phone", &first).await.unwrap();
    let event = cluster.audit.last(EventKind::MfaAdd).unwrap();
    assert_eq!((event.user.as_deref(), &event.fields["mfa_device_name"]), (Some("alice"), &"phone".into()));
    assert_eq!(event.fields["mfa_device_uuid"], added.id.to_string());
    cluster.next_step();
    login(&cluster, PASSWORD, cluster.code(&phone)).await.unwrap();
    assert_eq!(cluster.audit.last(EventKind::UserLogin).unwrap().fields["mfa_device_name"], "phone");
    // The step is used up on the phone alone.
    login(&cluster, PASSWORD, cluster.code(&phone)).await.unwrap_err();
    assert_eq!(reason(&cluster), "the one-time code was used before");
    login(&cluster, PASSWORD, cluster.code(&first)).await.unwrap();

    // The lost device is removed by a code of the other one, and is worth nothing then.
    cluster.next_step();
    let remove = |name: &str, code| RemoveMfaDevice { name: device(name), password: secret(PASSWORD), code };
    let alice = as_alice(&cluster);
    alice.remove_mfa_device(remove("otp", cluster.code(&phone))).await.unwrap();
    let event = cluster.audit.last(EventKind::MfaDelete).unwrap();
    assert_eq!((event.code.code(), &event.fields["mfa_device_name"]), ("T1007I", &"otp".into()));
    cluster.next_step();
    login(&cluster, PASSWORD, cluster.code(&first)).await.unwrap_err();
    assert_eq!(reason(&cluster), "the one-time code is wrong");
    let last = alice.remove_mfa_device(remove("phone", cluster.code(&phone))).await.unwrap_err();
    assert_eq!(last.kind(), ApiErrorKind::Conflict);
    login(&cluster, PASSWORD, cluster.code(&phone)).await.unwrap();

    // There is an end to it.
    for number in 1..8 {
        cluster.next_step();
        add(&cluster, &format!("more-{number}"), &phone).await.unwrap();
    }
    cluster.next_step();
    let full = add(&cluster, "one-too-many", &phone).await.unwrap_err();
    assert_eq!(full.kind(), ApiErrorKind::Conflict);
    // A reset leaves one device.
    let invite = cluster.admin().reset_user("alice".parse().unwrap(), ResetUser::default()).await.unwrap();
    assert!(alice.mfa_devices().await.unwrap().is_empty());
    let info = cluster.web().invite(invite.token.clone()).await.unwrap();
    let accept = AcceptInvite {
        token: invite.token,
        password: secret(PASSWORD),
        code: cluster.code(&info.secret),
        client_ip: None,
    };
    cluster.web().accept_invite(accept).await.unwrap();
    assert_eq!(alice.mfa_devices().await.unwrap().len(), 1);
}

/// Two removals at the same moment cannot leave nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_removals_at_once_leave_a_device() {
    let cluster = Cluster::new().await;
    let first = cluster.sign_up("alice").await;
    cluster.next_step();
    let (_, phone) = add(&cluster, "phone", &first).await.unwrap();
    cluster.next_step();
    let (by_first, by_phone) = (cluster.code(&first), cluster.code(&phone));
    let attempts = [("phone", by_first), ("otp", by_phone)].map(|(name, code)| {
        let alice = as_alice(&cluster);
        let request = RemoveMfaDevice { name: device(name), password: secret(PASSWORD), code };
        async move { alice.remove_mfa_device(request).await }
    });
    let outcomes = at_once(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(as_alice(&cluster).mfa_devices().await.unwrap().len(), 1);
}

/// What version 0.1.0 stored for a user with one second factor.
#[tokio::test]
async fn a_record_of_before_is_a_device() {
    let cluster = Cluster::new().await;
    let seed = cluster.sign_up("alice").await;
    let key = "totp/alice".parse().unwrap();
    let item = cluster.backend.get(&key).await.unwrap().unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&item.value).unwrap();
    let one = &stored["devices"][0];
    let old = serde_json::json!({
        "user": "alice", "sealed_seed": one["sealed_seed"], "last_step": one["last_step"],
    });
    cluster.backend.put(&key, old.to_string().into(), None).await.unwrap();
    let listed = as_alice(&cluster).mfa_devices().await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].added), (1, "otp", None));
    // The step of before is still used up.
    login(&cluster, PASSWORD, cluster.code(&seed)).await.unwrap_err();
    assert_eq!(reason(&cluster), "the one-time code was used before");
    cluster.next_step();
    login(&cluster, PASSWORD, cluster.code(&seed)).await.unwrap();
    let after = as_alice(&cluster).mfa_devices().await.unwrap();
    assert_eq!((after[0].id, after.len()), (listed[0].id, 1), "it keeps its id");
    let item = cluster.backend.get(&key).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&item.value).contains(r#""devices":[{"#), "written in the new form");
}

/// A changed cost holds from the next login on, and only for who knows the password.
#[tokio::test]
async fn a_login_renews_the_hash_at_the_configured_cost() {
    let cluster = Cluster::new().await;
    let seed = cluster.sign_up("alice").await;
    let mut config = cluster.auth.config().clone();
    config.password.memory = 64;
    config.password.passes = 2;
    let dearer = AuthService::new(cluster.ports.clone(), config);
    let cost = async || {
        let item = cluster.backend.get(&"passwords/alice".parse().unwrap()).await.unwrap().unwrap();
        let stored: serde_json::Value = serde_json::from_slice(&item.value).unwrap();
        (stored["memory"].as_u64().unwrap(), stored["passes"].as_u64().unwrap())
    };
    let by_dearer = async |password: &str, code: SecretString| {
        let request = cluster.login("alice", password, code);
        dearer.acting_as(cluster.web_caller()).login(request).await
    };
    cluster.next_step();
    by_dearer("wrong password", cluster.code(&seed)).await.unwrap_err();
    by_dearer(PASSWORD, secret("000000")).await.unwrap_err();
    assert_eq!(cost().await, (32, 1), "a failure changes nothing");
    by_dearer(PASSWORD, cluster.code(&seed)).await.unwrap();
    assert_eq!(cost().await, (64, 2));
    cluster.next_step();
    by_dearer(PASSWORD, cluster.code(&seed)).await.unwrap();
    by_dearer("wrong password", cluster.code(&seed)).await.unwrap_err();
}

/// E4: while hashes of an older cost are stored, a stranger's attempt takes as long as theirs, from the first one on.
/// The costs are three orders of magnitude apart, so that no load of the machine hides or feigns the difference.
#[tokio::test]
async fn e4_hashes_of_before_do_not_tell_their_users() {
    let cluster = Cluster::with(|config| config.password.memory = 65_536).await;
    cluster.sign_up("alice").await;
    let mut config = cluster.auth.config().clone();
    config.password.memory = 8;
    config.lockout.failures = u32::MAX;
    let cheaper = AuthService::new(cluster.ports.clone(), config);
    let public = cheaper.acting_as(cluster.web_caller());
    let mut fastest = [std::time::Duration::MAX; 2];
    for _ in 0..5 {
        for (user, fastest) in ["nobody", "alice"].into_iter().zip(&mut fastest) {
            let start = tokio::time::Instant::now();
            public.login(cluster.login(user, "wrong password", secret("000000"))).await.unwrap_err();
            *fastest = (*fastest).min(start.elapsed());
        }
    }
    let [nobody, alice] = fastest;
    assert!(nobody * 10 > alice, "nobody {nobody:?}, alice {alice:?}");
}

#[tokio::test]
async fn the_second_factor_is_off_only_where_it_is_said() {
    let cluster = Cluster::with(|config| config.second_factor = SecondFactor::Off).await;
    let public = cluster.web();
    assert_eq!(public.ping().await.unwrap().second_factor, "off");
    let user = CreateUser {
        name: "alice".parse().unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: vec!["root".parse().unwrap()],
        ttl: None,
    };
    let invite = cluster.admin().create_user(user).await.unwrap();
    let accept = |code: &str| AcceptInvite {
        token: invite.token.clone(),
        password: secret(PASSWORD),
        code: secret(code),
        client_ip: None,
    };
    // Who presents a code means it.
    assert_eq!(public.accept_invite(accept("123456")).await.unwrap_err().kind(), ApiErrorKind::Invalid);
    public.accept_invite(accept("")).await.unwrap();
    assert_eq!(cluster.audit.count(EventKind::MfaAdd), 0);
    login(&cluster, PASSWORD, secret("")).await.unwrap();
    login(&cluster, "wrong password", secret("")).await.unwrap_err();
    as_alice(&cluster).change_password(change(PASSWORD, secret(""))).await.unwrap();
    login(&cluster, NEW_PASSWORD, secret("")).await.unwrap();

    // Switched on again, a password alone is nothing.
    let mut config = cluster.auth.config().clone();
    config.second_factor = SecondFactor::default();
    let strict = AuthService::new(cluster.ports.clone(), config);
    let strict = strict.acting_as(cluster.web_caller());
    assert_eq!(strict.ping().await.unwrap().second_factor, "otp");
    let bare = strict.login(cluster.login("alice", NEW_PASSWORD, secret(""))).await.unwrap_err();
    assert_eq!(bare.kind(), ApiErrorKind::Invalid);
    let guessed = strict.login(cluster.login("alice", NEW_PASSWORD, secret("000000"))).await.unwrap_err();
    assert_eq!(guessed.kind(), ApiErrorKind::Denied);
    assert_eq!(reason(&cluster), "the user has no password or second factor yet");
}

/// Invites tell who the users are: the right to tokens is not enough to see or delete them.
#[tokio::test]
async fn invites_are_for_those_who_may_know_users() {
    let cluster = Cluster::new().await;
    let rules = serde_json::json!({"allow": {"rules": [{"resources": ["token"], "verbs": ["*"]}]}});
    let spec: RoleSpec = serde_json::from_value(rules).unwrap();
    Repo::<Role>::new(cluster.backend.clone()).create(&Role::new("tokens", spec)).await.unwrap();
    let clerk = cluster.as_user(&cluster.member("clerk", &["tokens"]).await);
    let editor = cluster.as_user(&cluster.member("boss", &["editor"]).await);
    let is_invite = |purpose: &TokenPurpose| *purpose != TokenPurpose::Join;
    assert!(clerk.tokens().await.unwrap().is_empty());
    let seen = editor.tokens().await.unwrap();
    assert_eq!(seen.iter().filter(|token| is_invite(&token.purpose)).count(), 2);
    let id = secret(&seen[0].id);
    assert_eq!(clerk.delete_token(id.clone()).await.unwrap_err().kind(), ApiErrorKind::NotFound);
    assert_eq!(editor.tokens().await.unwrap().len(), 2);
    editor.delete_token(id).await.unwrap();
    let event = cluster.audit.last(EventKind::ResetTokenDelete).unwrap();
    assert_eq!((event.user.as_deref(), event.code.code()), (Some("boss"), "T6003I"));
    assert_eq!(editor.tokens().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_update_is_in_the_log_and_ends_rights_at_once() {
    let cluster = Cluster::new().await;
    let editor = cluster.as_user(&cluster.member("boss", &["editor"]).await);
    let update = UpdateUser {
        roles: Some(vec!["access".parse().unwrap()]),
        logins: None,
        traits: [("team".to_owned(), vec!["db".to_owned()])].into(),
    };
    cluster.admin().update_user("boss".parse().unwrap(), update).await.unwrap();
    let event = cluster.audit.last(EventKind::UserUpdate).unwrap();
    assert_eq!((event.code.code(), &event.fields["name"]), ("T1003I", &"boss".into()));
    assert_eq!((&event.fields["roles"][0], &event.fields["traits"][0]), (&"access".into(), &"team".into()));
    assert_eq!(editor.users().await.unwrap_err().kind(), ApiErrorKind::Denied);
    let node = cluster.as_host(&cluster.host("web-1", HostRole::Node));
    assert_eq!(node.mfa_devices().await.unwrap_err().kind(), ApiErrorKind::Denied);
}
