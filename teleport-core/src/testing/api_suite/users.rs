//! Users: invite, login, exchange of certificates.

use std::time::Duration;

use super::{ApiFixture, PASSWORD, admin, anonymous, as_user, code, fresh_name, host, public, refused, user};
use crate::api::{AcceptInvite, ApiErrorKind, CreateUser, LoginRequest, ReissueRequest, ResetUser};
use crate::id::{HostRole, OsLogin, RoleName, UserName};
use crate::secret::SecretString;

pub(super) fn create(name: &UserName) -> CreateUser {
    CreateUser {
        name: name.clone(),
        roles: vec![RoleName::new("access").unwrap()],
        logins: vec![OsLogin::new("root").unwrap(), OsLogin::new("alice").unwrap()],
        ttl: None,
    }
}

pub(super) fn login(
    fixture: &dyn ApiFixture,
    user: &str,
    password: &str,
    code: SecretString,
) -> LoginRequest {
    LoginRequest {
        user: user.to_owned(),
        password: SecretString::new(password),
        code,
        keys: fixture.keys(),
        ttl: None,
        client_ip: None,
    }
}

/// Makes a user with password and second factor; returns the factor's secret.
pub(super) async fn signed_up(fixture: &dyn ApiFixture, name: &UserName) -> SecretString {
    let invite = admin(fixture).create_user(create(name)).await.unwrap();
    let info = public(fixture).invite(invite.token.clone()).await.unwrap();
    let accept = AcceptInvite {
        token: invite.token,
        password: SecretString::new(PASSWORD),
        code: code(fixture, &info.secret, 0),
        client_ip: None,
    };
    public(fixture).accept_invite(accept).await.unwrap();
    info.secret
}

/// Invite, acceptance, login, reset, deletion.
pub async fn a_user_comes_logs_in_and_goes(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "alice");
    let (admin, public) = (admin(fixture), public(fixture));
    assert_eq!(public.ping().await.unwrap().cluster_name, fixture.cluster());

    let invite = admin.create_user(create(&name)).await.unwrap();
    refused(admin.create_user(create(&name)).await, ApiErrorKind::Conflict);
    let unknown_role = CreateUser { roles: vec![RoleName::new("nonesuch").unwrap()], ..create(&name) };
    refused(admin.create_user(unknown_role).await, ApiErrorKind::Invalid);

    let info = public.invite(invite.token.clone()).await.unwrap();
    let again = public.invite(invite.token.clone()).await.unwrap();
    assert_eq!((&info.user, &info.secret), (&name, &again.secret), "asking again gives the same");
    assert_eq!(info.otpauth_url, again.otpauth_url);
    assert!(info.otpauth_url.expose().contains(info.secret.expose()));

    let accept = |password: &str, code: SecretString| AcceptInvite {
        token: invite.token.clone(),
        password: SecretString::new(password),
        code,
        client_ip: None,
    };
    let right = || code(fixture, &info.secret, 0);
    refused(public.accept_invite(accept("short", right())).await, ApiErrorKind::Invalid);
    let long_ago = code(fixture, &info.secret, 86_400);
    refused(public.accept_invite(accept(PASSWORD, long_ago)).await, ApiErrorKind::Invalid);
    public.accept_invite(accept(PASSWORD, right())).await.unwrap();
    refused(public.accept_invite(accept(PASSWORD, right())).await, ApiErrorKind::NotFound);
    refused(public.invite(invite.token.clone()).await, ApiErrorKind::NotFound);

    // The code that was shown for the invite is used up; the next one is not.
    refused(public.login(login(fixture, name.as_str(), PASSWORD, right())).await, ApiErrorKind::Denied);
    let next = code(fixture, &info.secret, 30);
    let response = public.login(login(fixture, name.as_str(), PASSWORD, next.clone())).await.unwrap();
    assert_eq!(response.user, name);
    assert_eq!(response.roles.iter().map(RoleName::as_str).collect::<Vec<_>>(), ["access"]);
    assert_eq!(response.logins.iter().map(OsLogin::as_str).collect::<Vec<_>>(), ["alice", "root"]);
    assert_eq!(response.trust, public.trust().await.unwrap());
    let life = response.certificates.valid_before.saturating_since(fixture.now());
    assert!(life <= Duration::from_secs(12 * 3600) && life > Duration::from_secs(11 * 3600), "{life:?}");
    refused(public.login(login(fixture, name.as_str(), PASSWORD, next)).await, ApiErrorKind::Denied);

    let listed = admin.users().await.unwrap();
    let info = listed.iter().find(|user| user.name == name).expect("the user is listed");
    assert_eq!(info.logins.len(), 2);

    let renewed = admin.reset_user(name.clone(), ResetUser::default()).await.unwrap();
    assert_ne!(renewed.token, invite.token);
    public.invite(renewed.token.clone()).await.unwrap();
    admin.delete_user(name.clone()).await.unwrap();
    refused(public.invite(renewed.token).await, ApiErrorKind::NotFound);
    refused(admin.delete_user(name.clone()).await, ApiErrorKind::NotFound);
    refused(admin.reset_user(name, ResetUser::default()).await, ApiErrorKind::NotFound);
}

/// E4, G-7: whatever is wrong, the answer is the same.
pub async fn refused_logins_look_alike(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "bob");
    let secret = signed_up(fixture, &name).await;
    let nobody = fresh_name(fixture, "nobody");
    let public = public(fixture);
    let next = || code(fixture, &secret, 30);
    let mut texts = Vec::new();
    for (user, password, code) in [
        (nobody.as_str(), PASSWORD, next()),
        ("no user name", PASSWORD, next()),
        (name.as_str(), "wrong password", next()),
        (name.as_str(), PASSWORD, code(fixture, &secret, 86_400)),
        (name.as_str(), PASSWORD, code(fixture, &secret, 0)),
        (name.as_str(), "wrong password", next()),
        (name.as_str(), "wrong password", next()),
        // Five failures: now even what is right is refused.
        (name.as_str(), PASSWORD, next()),
    ] {
        let error = refused(public.login(login(fixture, user, password, code)).await, ApiErrorKind::Denied);
        texts.push(error.to_string());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "the texts differ: {texts:?}");
    let locked = admin(fixture).users().await.unwrap();
    let info = locked.iter().find(|user| user.name == name).expect("the user is listed");
    assert!(info.locked_until.is_some_and(|until| until > fixture.now()));

    for bad in ["", "12345", "1234567", " 12345", "+12345", "１２３４５６"] {
        let malformed = login(fixture, name.as_str(), PASSWORD, SecretString::new(bad));
        refused(public.login(malformed).await, ApiErrorKind::Invalid);
    }
    let huge = login(fixture, name.as_str(), &"x".repeat(129), SecretString::new("123456"));
    refused(public.login(huge).await, ApiErrorKind::Invalid);
    admin(fixture).delete_user(name).await.unwrap();
}

/// A9: exchange of a certificate for another one.
pub async fn a_derived_certificate_is_never_wider(fixture: &dyn ApiFixture) {
    let name = fresh_name(fixture, "carol");
    signed_up(fixture, &name).await;
    // The user may be root and alice; the certificate says root and an alien role and login.
    let identity = user(fixture, name.as_str(), &["access", "editor"], &["root", "daemon"]);
    let api = as_user(fixture, identity.clone());
    for ttl in [None, Some(300), Some(1_000_000)] {
        let request = ReissueRequest { keys: fixture.keys(), ttl };
        let response = api.reissue_user(request).await.unwrap();
        assert_eq!(response.user, name);
        assert_eq!(response.roles.iter().map(RoleName::as_str).collect::<Vec<_>>(), ["access"]);
        assert_eq!(response.logins.iter().map(OsLogin::as_str).collect::<Vec<_>>(), ["root"]);
        assert!(response.certificates.valid_before <= identity.expires);
        if let Some(ttl) = ttl {
            let life = response.certificates.valid_before.saturating_since(fixture.now());
            assert!(life <= Duration::from_secs(ttl));
        }
    }
    let request = || ReissueRequest { keys: fixture.keys(), ttl: None };
    refused(anonymous(fixture).reissue_user(request()).await, ApiErrorKind::Denied);
    let node = super::as_host(fixture, &host(fixture, "web-1", HostRole::Node));
    refused(node.reissue_user(request()).await, ApiErrorKind::Denied);

    admin(fixture).delete_user(name).await.unwrap();
    refused(api.reissue_user(request()).await, ApiErrorKind::Denied);
}
