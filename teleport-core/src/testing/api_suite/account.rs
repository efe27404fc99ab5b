//! What users do about their own password and second factors, and administrators about users.

use std::time::Duration;

use super::users::{create, login, signed_up};
use super::{ApiFixture, PASSWORD, admin, as_user, code, fresh_name, member, public, refused, user};
use crate::api::{
    AddMfaDevice, ApiErrorKind, ChangePassword, RemoveMfaDevice, ResetUser, TokenPurpose, UpdateUser,
};
use crate::id::{DeviceName, OsLogin, RoleName};
use crate::secret::SecretString;

const NEW_PASSWORD: &str = "an entirely different sentence";

/// The user changes the own password: the old one and a code are needed, and gone afterwards.
pub async fn a_user_changes_the_password(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "erin");
    let secret = signed_up(fixture, &name).await;
    let api = as_user(fixture, user(fixture, name.as_str(), &["access"], &["root"]));
    let change = |password: &str, code: SecretString, new: &str| ChangePassword {
        password: SecretString::new(password),
        code,
        new_password: SecretString::new(new),
    };
    let next = || code(fixture, &secret, 30);
    for bad in ["short", "password1234", PASSWORD, name.as_str(), &"x y z ".repeat(30)] {
        refused(api.change_password(change(PASSWORD, next(), bad)).await, ApiErrorKind::Invalid);
    }
    let far = code(fixture, &secret, 86_400);
    let wrong = api.change_password(change("wrong password", next(), NEW_PASSWORD)).await;
    let wrong = refused(wrong, ApiErrorKind::Denied);
    let code_wrong =
        refused(api.change_password(change(PASSWORD, far, NEW_PASSWORD)).await, ApiErrorKind::Denied);
    assert_eq!(wrong.message(), code_wrong.message());
    api.change_password(change(PASSWORD, next(), NEW_PASSWORD)).await.unwrap();
    // The code is used up, here and at the login.
    refused(api.change_password(change(NEW_PASSWORD, next(), PASSWORD)).await, ApiErrorKind::Denied);
    let public = public(fixture);
    refused(public.login(login(fixture, name.as_str(), NEW_PASSWORD, next())).await, ApiErrorKind::Denied);
    refused(
        admin(fixture).change_password(change(PASSWORD, next(), NEW_PASSWORD)).await,
        ApiErrorKind::Denied,
    );
    admin(fixture).delete_user(name).await.unwrap();
    refused(api.change_password(change(NEW_PASSWORD, next(), PASSWORD)).await, ApiErrorKind::Denied);
    refused(api.mfa_devices().await, ApiErrorKind::Denied);
}

/// Several second factors: each is good for a login, each code once, and one stays.
pub async fn a_user_has_several_devices(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "frank");
    let first = signed_up(fixture, &name).await;
    let api = as_user(fixture, user(fixture, name.as_str(), &["access"], &["root"]));
    let public = public(fixture);
    let device = |name: &str| DeviceName::new(name).unwrap();
    let listed = api.mfa_devices().await.unwrap();
    assert_eq!(listed.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["otp"]);

    let begun = api.begin_mfa_device(device("phone")).await.unwrap();
    assert!(begun.otpauth_url.expose().contains(begun.secret.expose()));
    assert!(begun.expires > fixture.now());
    refused(api.begin_mfa_device(device("otp")).await, ApiErrorKind::Conflict);
    // Begun is not added: its codes are worth nothing yet.
    let early = login(fixture, name.as_str(), PASSWORD, code(fixture, &begun.secret, 0));
    refused(public.login(early).await, ApiErrorKind::Denied);

    let add = |password: &str, old: SecretString, new: SecretString| AddMfaDevice {
        ticket: begun.ticket.clone(),
        new_code: new,
        password: SecretString::new(password),
        code: old,
    };
    let (old, new) = (|ahead| code(fixture, &first, ahead), |ahead| code(fixture, &begun.secret, ahead));
    refused(api.add_mfa_device(add(PASSWORD, old(30), new(86_400))).await, ApiErrorKind::Invalid);
    let forged = AddMfaDevice { ticket: SecretString::new("phone:AAAA"), ..add(PASSWORD, old(30), new(0)) };
    refused(api.add_mfa_device(forged).await, ApiErrorKind::Invalid);
    // A code of the new device proves nothing, and neither does the password alone or a code alone.
    refused(api.add_mfa_device(add(PASSWORD, new(30), new(0))).await, ApiErrorKind::Denied);
    refused(api.add_mfa_device(add("wrong password", old(30), new(0))).await, ApiErrorKind::Denied);
    let other = member(fixture, "grace", &["access"]).await;
    let stolen = as_user(fixture, other.clone()).add_mfa_device(add(PASSWORD, old(30), new(0))).await;
    refused(stolen, ApiErrorKind::Invalid);
    let added = api.add_mfa_device(add(PASSWORD, old(30), new(0))).await.unwrap();
    assert_eq!(added.name, device("phone"));
    refused(api.add_mfa_device(add(PASSWORD, old(30), new(0))).await, ApiErrorKind::Conflict);
    assert_eq!(api.mfa_devices().await.unwrap().len(), 2);
    let users = admin(fixture).users().await.unwrap();
    assert_eq!(users.iter().find(|user| user.name == name).unwrap().mfa_devices, 2);

    // The code that was shown when it was added is used up, the next one is not; once.
    let by = |code| public.login(login(fixture, name.as_str(), PASSWORD, code));
    refused(by(new(0)).await, ApiErrorKind::Denied);
    by(new(30)).await.unwrap();
    refused(by(new(30)).await, ApiErrorKind::Denied);
    let used = api.mfa_devices().await.unwrap();
    assert!(used.iter().all(|device| device.last_used.is_some()), "{used:?}");

    // Both steps that are good now are used up on both devices, so nothing can be removed by them.
    let remove = |name: &str, code: SecretString| RemoveMfaDevice {
        name: device(name),
        password: SecretString::new(PASSWORD),
        code,
    };
    refused(api.remove_mfa_device(remove("nonesuch", new(30))).await, ApiErrorKind::NotFound);
    refused(api.remove_mfa_device(remove("phone", new(30))).await, ApiErrorKind::Denied);
    assert_eq!(api.mfa_devices().await.unwrap().len(), 2);
    for name in [name, other.user] {
        admin(fixture).delete_user(name).await.unwrap();
    }
}

/// The last second factor stays.
pub async fn the_last_device_is_not_removed(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "heidi");
    let secret = signed_up(fixture, &name).await;
    let api = as_user(fixture, user(fixture, name.as_str(), &["access"], &["root"]));
    let remove = RemoveMfaDevice {
        name: DeviceName::new("otp").unwrap(),
        password: SecretString::new(PASSWORD),
        code: code(fixture, &secret, 30),
    };
    let error = refused(api.remove_mfa_device(remove).await, ApiErrorKind::Conflict);
    assert!(error.message().contains("last"), "{error}");
    // No code was spent for that.
    let next = login(fixture, name.as_str(), PASSWORD, code(fixture, &secret, 30));
    public(fixture).login(next).await.unwrap();
    admin(fixture).delete_user(name).await.unwrap();
}

/// Roles, logins and traits of a user change, and nothing else does.
pub async fn users_are_updated(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "ivan");
    let admin = admin(fixture);
    let secret = signed_up(fixture, &name).await;
    let update = |roles: Option<&[&str]>, logins: Option<&[&str]>, traits: &[(&str, &[&str])]| UpdateUser {
        roles: roles.map(|roles| roles.iter().map(|role| RoleName::new(role).unwrap()).collect()),
        logins: logins.map(|logins| logins.iter().map(|login| OsLogin::new(login).unwrap()).collect()),
        traits: traits
            .iter()
            .map(|(name, values)| {
                ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
            })
            .collect(),
    };
    let long = "x".repeat(9000);
    for bad in [
        update(None, None, &[]),
        update(Some(&["nonesuch"]), None, &[]),
        update(None, None, &[("logins", &["root"])]),
        update(None, None, &[("a b", &["x"])]),
        update(None, None, &[("team", &[""])]),
        update(None, None, &[("team", &["a\nb"])]),
        update(None, None, &[("team", &[long.as_str()])]),
    ] {
        refused(admin.update_user(name.clone(), bad).await, ApiErrorKind::Invalid);
    }
    let info = async || {
        let users = admin.users().await.unwrap();
        users.into_iter().find(|user| user.name == name).expect("the user is listed")
    };
    let before = info().await;
    admin
        .update_user(name.clone(), update(None, Some(&["daemon"]), &[("team", &["db", "web"])]))
        .await
        .unwrap();
    let after = info().await;
    assert_eq!(after.roles, before.roles);
    assert_eq!(after.logins.iter().map(OsLogin::as_str).collect::<Vec<_>>(), ["daemon"]);
    assert_eq!(after.traits["team"], ["db", "web"]);
    admin.update_user(name.clone(), update(Some(&["auditor"]), None, &[("team", &[])])).await.unwrap();
    let after = info().await;
    assert_eq!(after.roles.iter().map(RoleName::as_str).collect::<Vec<_>>(), ["auditor"]);
    assert!(after.traits.is_empty() && after.logins.len() == 1, "{after:?}");
    // The next certificate says it; password and second factor are as before.
    let next = login(fixture, name.as_str(), PASSWORD, code(fixture, &secret, 30));
    let response = public(fixture).login(next).await.unwrap();
    assert_eq!(response.roles, after.roles);

    let reader = member(fixture, "judy", &["access"]).await;
    let denied = as_user(fixture, reader.clone());
    refused(denied.update_user(name.clone(), update(Some(&[]), None, &[])).await, ApiErrorKind::Denied);
    refused(denied.unlock_user(name.clone()).await, ApiErrorKind::Denied);
    admin.delete_user(name.clone()).await.unwrap();
    admin.delete_user(reader.user).await.unwrap();
    refused(admin.update_user(name.clone(), update(Some(&[]), None, &[])).await, ApiErrorKind::NotFound);
    refused(admin.unlock_user(name).await, ApiErrorKind::NotFound);
}

/// An administrator ends a lockout; password and second factor stay.
pub async fn a_locked_user_is_unlocked(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "kate");
    let secret = signed_up(fixture, &name).await;
    let public = public(fixture);
    let attempt =
        |password: &str| public.login(login(fixture, name.as_str(), password, code(fixture, &secret, 30)));
    for _ in 0..5 {
        refused(attempt("wrong password").await, ApiErrorKind::Denied);
    }
    refused(attempt(PASSWORD).await, ApiErrorKind::Denied);
    admin(fixture).unlock_user(name.clone()).await.unwrap();
    let listed = admin(fixture).users().await.unwrap();
    assert_eq!(listed.iter().find(|user| user.name == name).unwrap().locked_until, None);
    attempt(PASSWORD).await.unwrap();
    admin(fixture).delete_user(name).await.unwrap();
}

/// Invites and resets stand beside the join tokens, for those who may know the users.
pub async fn invites_are_in_the_list_of_tokens(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "leo");
    let (admin, public) = (admin(fixture), public(fixture));
    let invite = admin.create_user(create(&name)).await.unwrap();
    let mine = |purpose: TokenPurpose| {
        let admin = admin.clone();
        async move { admin.tokens().await.unwrap().into_iter().find(|token| token.purpose == purpose) }
    };
    let listed = mine(TokenPurpose::Invite(name.clone())).await.expect("the invite is listed");
    assert_eq!((listed.uses_left, listed.expires, listed.roles.len()), (Some(1), Some(invite.expires), 0));
    assert!(!serde_json::to_string(&listed).unwrap().contains(invite.token.expose()));

    let reset = admin.reset_user(name.clone(), ResetUser::default()).await.unwrap();
    let life = reset.expires.saturating_since(fixture.now());
    assert!(life <= Duration::from_secs(8 * 3600) && life > Duration::from_secs(8 * 3600 - 60), "{life:?}");
    for bad in [0, 24 * 3600 + 1] {
        let too_long = admin.reset_user(name.clone(), ResetUser { ttl: Some(bad) }).await;
        refused(too_long, ApiErrorKind::Invalid);
    }
    assert_eq!(mine(TokenPurpose::Invite(name.clone())).await, None, "the reset took its place");
    let listed = mine(TokenPurpose::Reset(name.clone())).await.expect("the reset is listed");
    // By its id or by its secret, and then it is worth nothing.
    admin.delete_token(SecretString::new(listed.id.as_str())).await.unwrap();
    refused(public.invite(reset.token.clone()).await, ApiErrorKind::NotFound);
    refused(admin.delete_token(SecretString::new(listed.id)).await, ApiErrorKind::NotFound);
    let again = admin.reset_user(name.clone(), ResetUser { ttl: Some(60) }).await.unwrap();
    admin.delete_token(again.token.clone()).await.unwrap();
    refused(public.invite(again.token).await, ApiErrorKind::NotFound);
    admin.delete_user(name).await.unwrap();
}
