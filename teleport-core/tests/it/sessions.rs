//! Recordings of others, as far as rules with `where` say: what is listed is what may be read, one by one.

use teleport_core::api::{AdminApi, ApiErrorKind, RecordingApi, RecordingQuery, ResourceApi, UpdateUser};
use teleport_core::clock::Timestamp;
use teleport_core::entropy::EntropyExt;
use teleport_core::id::{HostRole, SessionId, UserName};
use teleport_core::recording::{Completion, Form, RecordingMeta};
use teleport_core::resource::{Role, RoleConditions, RoleSpec, Rule, Verb};
use teleport_core::testing::RepeatableEntropy;

use crate::cluster::Cluster;

/// A condition as administrators write it, and what it means for a recording and the user who asks.
type Condition = (Option<&'static str>, fn(&RecordingMeta, &UserName) -> bool);

const CONDITIONS: [Condition; 8] = [
    (None, |_, _| true),
    (Some("contains(session.participants, user.metadata.name)"), |meta, user| meta.user == *user),
    (Some("!contains(session.participants, user.metadata.name)"), |meta, user| meta.user != *user),
    (Some(r#"contains(session.participants, "bob")"#), |meta, _| meta.user.as_str() == "bob"),
    (Some(r#"session.login == "root""#), |meta, _| meta.login.as_str() == "root"),
    (Some(r#"has_prefix(session.server_hostname, "web-")"#), |meta, _| {
        meta.host_name.as_str().starts_with("web-")
    }),
    (Some(r#"session.login == "root" && !has_prefix(session.server_hostname, "web-")"#), |meta, _| {
        meta.login.as_str() == "root" && !meta.host_name.as_str().starts_with("web-")
    }),
    (Some(r#"user.metadata.name == "nobody""#), |_, _| false),
];
const VERBS: [&[Verb]; 4] = [&[Verb::List, Verb::Read], &[Verb::List], &[Verb::Read], &[Verb::Any]];

/// One rule of a role: whether it denies, what, and under which condition.
struct Said {
    denies: bool,
    verbs: &'static [Verb],
    condition: Condition,
}

/// The model: looking at one recording by itself.
fn sees(said: &[Said], user: &UserName, verb: Verb, meta: &RecordingMeta) -> bool {
    let concerns = |said: &&Said| {
        let named = said.verbs.contains(&verb) || said.verbs.contains(&Verb::Any);
        named && (said.condition.1)(meta, user)
    };
    let denied = said.iter().filter(|said| said.denies).any(|said| concerns(&said));
    let allowed = said.iter().filter(|said| !said.denies).any(|said| concerns(&said));
    !denied && (allowed || meta.user == *user)
}

fn recording(cluster: &Cluster, number: u64, user: &str) -> RecordingMeta {
    let host = cluster.host(["web-1", "web-2", "db-1"][number as usize % 3], HostRole::Node);
    RecordingMeta {
        session: SessionId::from_uuid(RepeatableEntropy::new(number).uuid().unwrap()),
        user: user.parse().unwrap(),
        login: ["root", "deploy"][number as usize / 3 % 2].parse().unwrap(),
        started: cluster.now().saturating_add(std::time::Duration::from_millis(number)),
        ..cluster.recording(&host)
    }
}

async fn put(cluster: &Cluster, meta: &RecordingMeta) {
    cluster.ports.recordings.create(meta, &Form::PLAIN).await.unwrap();
}

fn everything(limit: usize) -> RecordingQuery {
    RecordingQuery { from: Some(Timestamp::EPOCH), limit, ..RecordingQuery::default() }
}

fn role(name: &str, said: &[Said]) -> Role {
    let half = |denies: bool| RoleConditions {
        rules: said
            .iter()
            .filter(|said| said.denies == denies)
            .map(|said| Rule {
                resources: vec!["session".to_owned()],
                verbs: said.verbs.to_vec(),
                condition: said.condition.0.map(str::to_owned),
            })
            .collect(),
        ..RoleConditions::default()
    };
    Role::new(name, RoleSpec { allow: half(false), deny: half(true), ..RoleSpec::default() })
}

#[tokio::test]
async fn what_is_listed_is_what_may_be_read_one_by_one() {
    let cluster = Cluster::new().await;
    let mut all = Vec::new();
    for number in 0..36 {
        let meta = recording(&cluster, number, ["bob", "carol"][number as usize / 6 % 2]);
        put(&cluster, &meta).await;
        all.push(meta);
    }
    let dice = RepeatableEntropy::new(7);
    let roll = |sides: usize| usize::from(dice.bytes::<1>().unwrap()[0]) % sides;
    let (mut narrowed, mut denied_own) = (0, 0);
    for round in 0..60_u64 {
        let name = format!("user-{round}");
        for number in 0..6 {
            let meta = recording(&cluster, 1000 + round * 10 + number, &name);
            put(&cluster, &meta).await;
            all.push(meta);
        }
        let mut said = Vec::new();
        let mut roles = Vec::new();
        for index in 0..=roll(2) {
            let of_role: Vec<Said> = (0..=roll(3))
                .map(|_| Said {
                    denies: roll(3) == 0,
                    verbs: VERBS[if round % 2 == 0 { 0 } else { roll(VERBS.len()) }],
                    condition: CONDITIONS[roll(CONDITIONS.len())],
                })
                .collect();
            let role = role(&format!("role-{round}-{index}"), &of_role);
            cluster.admin().create_role(role.clone()).await.unwrap();
            roles.push(role.metadata.name);
            said.extend(of_role);
        }
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        let identity = cluster.member(&name, &roles).await;
        let api = cluster.as_user(&identity);
        let mut listed: Vec<SessionId> =
            api.recordings(everything(1000)).await.unwrap().iter().map(|info| info.meta.session).collect();
        let mut first = listed.clone();
        let mut readable = Vec::new();
        for meta in all.iter().rev() {
            match api.read_recording(meta.session, 0).await {
                Ok(_) => readable.push(meta.session),
                Err(error) => assert_eq!(error.kind(), ApiErrorKind::NotFound),
            }
        }
        let model = |verb| -> Vec<SessionId> {
            let seen = all.iter().rev().filter(|meta| sees(&said, &identity.user, verb, meta));
            seen.map(|meta| meta.session).collect()
        };
        first.truncate(5);
        let few = api.recordings(everything(5)).await.unwrap();
        assert_eq!(few.iter().map(|info| info.meta.session).collect::<Vec<_>>(), first);
        for set in [&mut listed, &mut readable] {
            set.sort_unstable();
        }
        let sorted = |mut set: Vec<SessionId>| {
            set.sort_unstable();
            set
        };
        assert_eq!(listed, sorted(model(Verb::List)), "round {round}");
        assert_eq!(readable, sorted(model(Verb::Read)), "round {round}");
        if round % 2 == 0 {
            assert_eq!(listed, readable, "round {round}");
        }
        narrowed += usize::from(listed.len() > 6 && listed.len() < all.len());
        denied_own += usize::from(
            !all.iter().filter(|meta| meta.user == identity.user).all(|meta| listed.contains(&meta.session)),
        );
    }
    assert!(narrowed > 5 && denied_own > 5, "the rounds say something: {narrowed} {denied_own}");
}

/// Whoever took part in somebody else's session reads its recording; pages make the list that was asked for at once, whatever is
/// filtered out on the way.
#[tokio::test]
async fn c6_participants_read_and_pages_make_the_list() {
    let cluster = Cluster::new().await;
    let bob = cluster.member("bob", &["access"]).await;
    let of_bob = Said { denies: false, verbs: VERBS[0], condition: CONDITIONS[1] };
    cluster.admin().create_role(role("participant", &[of_bob])).await.unwrap();
    let eve = cluster.member("eve", &["participant"]).await;
    let mut shared = Vec::new();
    for number in 0..60 {
        let meta = recording(&cluster, number, "carol");
        put(&cluster, &meta).await;
        let participants = match number % 3 {
            0 => vec![bob.user.clone(), eve.user.clone()],
            _ => Vec::new(),
        };
        shared.extend((number % 3 == 0).then_some(meta.session));
        let completion = Completion { participants, ..Completion::new(0, meta.started) };
        cluster.ports.recordings.complete(meta.session, &completion).await.unwrap();
    }
    shared.reverse();
    for user in [&bob, &eve] {
        let api = cluster.as_user(user);
        for session in &shared {
            api.read_recording(*session, 0).await.unwrap();
        }
        let not_mine = recording(&cluster, 1, "carol").session;
        assert_eq!(api.read_recording(not_mine, 0).await.unwrap_err().kind(), ApiErrorKind::NotFound);
        let (mut paged, mut query) = (Vec::new(), everything(7));
        loop {
            let page = api.recordings(query.clone()).await.unwrap();
            let Some(last) = page.last() else { break };
            query.after = Some(last.place());
            paged.extend(page.iter().map(|info| info.meta.session));
        }
        assert_eq!(paged, shared, "{}", user.user);
    }
    let carols = RecordingQuery { user: Some("carol".parse().unwrap()), ..everything(1000) };
    assert_eq!(cluster.admin().recordings(carols.clone()).await.unwrap().len(), 60);
    assert_eq!(cluster.as_user(&bob).recordings(carols).await.unwrap().len(), 20, "and no others of carol");
    let query = RecordingQuery {
        node: Some("db-1".to_owned()),
        login: Some("root".parse().unwrap()),
        ..everything(1000)
    };
    let listed = cluster.admin().recordings(query).await.unwrap();
    let right = |meta: &RecordingMeta| meta.host_name.as_str() == "db-1" && meta.login.as_str() == "root";
    assert!(!listed.is_empty() && listed.iter().all(|info| right(&info.meta)));
}

/// A condition counts by the certificate and by what the user is now, and who asks for too much is told so.
#[tokio::test]
async fn rights_that_were_taken_are_gone_and_long_searches_end() {
    let cluster = Cluster::new().await;
    let bobs = recording(&cluster, 1, "bob");
    put(&cluster, &bobs).await;
    let of_bob = Said { denies: false, verbs: VERBS[0], condition: CONDITIONS[3] };
    cluster.admin().create_role(role("of-bob", &[of_bob])).await.unwrap();
    let eve = cluster.member("eve", &["of-bob"]).await;
    let api = cluster.as_user(&eve);
    assert_eq!(api.recordings(everything(10)).await.unwrap().len(), 1);
    assert!(api.read_recording(bobs.session, 0).await.is_ok());
    for number in 2..20_050 {
        put(&cluster, &recording(&cluster, number, "carol")).await;
    }
    let error = api.recordings(everything(10)).await.unwrap_err();
    assert!(error.kind() == ApiErrorKind::Invalid && error.to_string().contains("shorter time"), "{error}");
    let to = Some(bobs.started.saturating_add(std::time::Duration::from_millis(1)));
    assert_eq!(api.recordings(RecordingQuery { to, ..everything(10) }).await.unwrap().len(), 1);

    let roles = Some(vec!["access".parse().unwrap()]);
    let request = UpdateUser { roles, ..UpdateUser::default() };
    cluster.admin().update_user(eve.user.clone(), request).await.unwrap();
    assert!(api.recordings(everything(10)).await.unwrap().is_empty());
    assert_eq!(api.read_recording(bobs.session, 0).await.unwrap_err().kind(), ApiErrorKind::NotFound);
    cluster.admin().delete_user(eve.user.clone()).await.unwrap();
    assert_eq!(api.recordings(everything(10)).await.unwrap_err().kind(), ApiErrorKind::Denied);
}
