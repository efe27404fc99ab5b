#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, HostRole, NodeName};
use crate::label::Labels;
use crate::secret::SecretString;
use crate::testing::{NoEntropy, RepeatableEntropy};

const OWN: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn cluster() -> ClusterName {
    ClusterName::new("example.com").unwrap()
}

fn token() -> TokenRecord {
    TokenRecord {
        id: "0123456789abcdef".to_owned(),
        hash: TokenHash::of(&SecretString::new("0123456789abcdef")),
        roles: vec![HostRole::Node],
        expires: Some(Timestamp::from_unix_secs(NOW.unix_secs() + 60)),
        uses_left: Some(1),
        labels: "env=prod".parse().unwrap(),
        is_static: false,
    }
}

fn join(token: &TokenRecord, role: HostRole, addresses: &[&str]) -> Result<Admission, JoinDenied> {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let name = NodeName::new("web-1").unwrap();
    let cluster = cluster();
    let claim = JoinClaim {
        again: false,
        host_id: OWN.parse().unwrap(),
        name: &name,
        role,
        addresses: &addresses,
        cluster: &cluster,
    };
    admit(token, &claim, NOW)
}

#[test]
fn a_use_is_taken_and_labels_are_handed_on() {
    let admission = join(&token(), HostRole::Node, &["192.0.2.7", "web-1.internal"]).unwrap();
    assert_eq!(admission.token_after.as_ref().unwrap().uses_left, Some(0));
    assert_eq!(admission.labels.get("env"), Some("prod"));
    let grant = admission.into_grant(std::time::Duration::from_secs(60));
    assert_eq!(grant.addresses, ["192.0.2.7", "web-1.internal"]);
    assert_eq!(grant.role, HostRole::Node);

    let unlimited = TokenRecord { uses_left: None, ..token() };
    assert_eq!(join(&unlimited, HostRole::Node, &[]).unwrap().token_after, None);
}

#[test]
fn each_wrong_token_is_refused() {
    let over = TokenRecord { expires: Some(NOW), ..token() };
    assert_eq!(join(&over, HostRole::Node, &[]), Err(JoinDenied::Expired { at: NOW }));
    let used = TokenRecord { uses_left: Some(0), ..token() };
    assert_eq!(join(&used, HostRole::Node, &[]), Err(JoinDenied::UsedUp));
    assert_eq!(join(&token(), HostRole::Proxy, &[]), Err(JoinDenied::Role { asked: HostRole::Proxy }));
    assert!(!over.is_usable(NOW) && !used.is_usable(NOW) && token().is_usable(NOW));
}

#[test]
fn a10_a_host_cannot_claim_names_of_others() {
    for bad in [
        "",
        "*",
        "a b",
        "a,b",
        "-a",
        "a..b",
        "a\n",
        "0.0.0.0",
        "::",
        "[::1]",
        "192.0.2.7:22",
        "1.2.3",
        "224.0.0.1",
        "example.com",
        "proxy.example.com",
        "PROXY.Example.Com",
        OTHER,
    ] {
        assert!(
            matches!(join(&token(), HostRole::Node, &[bad]), Err(JoinDenied::Address { .. })),
            "{bad:?} was accepted"
        );
    }
    for good in [OWN, "web-1", "192.0.2.7", "2001:db8::7", "web_1.internal", "notexample.com", "localhost"] {
        assert!(join(&token(), HostRole::Node, &[good]).is_ok(), "{good:?} was refused");
    }
    let many = vec!["a"; MAX_ADDRESSES + 1];
    assert!(join(&token(), HostRole::Node, &many).is_err());
}

#[test]
fn d5_secrets_have_128_bits_and_no_pattern() {
    let entropy = RepeatableEntropy::new(1);
    let mut seen = std::collections::HashSet::new();
    let mut ones = 0;
    for _ in 0..1000 {
        let secret = random_secret(&entropy).unwrap();
        assert_eq!(secret.len(), 32);
        assert!(check_secret(&secret).is_ok());
        let number = u128::from_str_radix(secret.expose(), 16).unwrap();
        ones += number.count_ones();
        assert!(seen.insert(number), "a secret came twice");
    }
    // 128,000 fair coins: mean 64,000, standard deviation 179.
    assert!((62_900..65_100).contains(&ones), "{ones} bits of 128000 are set");
    assert!(random_secret(&NoEntropy).is_err(), "no secret without randomness");
}

#[test]
fn d6_no_secret_in_debug_or_stored_form() {
    let secret = SecretString::new("canary-canary-canary");
    let fixed = StaticToken::new(vec![HostRole::Node], &secret).unwrap();
    let spec: StaticTokenSpec = "node:canary-canary-canary".parse().unwrap();
    let stored = serde_json::to_string(fixed.record()).unwrap();
    for text in [format!("{fixed:?}"), format!("{spec:?}"), stored.clone()] {
        assert!(!text.contains("canary"), "{text}");
    }
    assert_eq!(&serde_json::from_str::<TokenRecord>(&stored).unwrap(), fixed.record());
    // Nor a part of its hash where people look: weak secrets can be found by it.
    let digits = fixed.record().hash.to_hex()[..8].to_owned();
    for text in [format!("{fixed:?}"), format!("{:?}", fixed.record().info())] {
        assert!(!text.contains(&digits), "{text}");
    }
}

#[test]
fn chosen_secrets_are_long_and_harmless() {
    for bad in
        ["", "short", "fifteen-letters", "with space in here", "quote'quote'quote'", "$(id)$(id)$(id)$(id)"]
    {
        assert!(check_secret(&SecretString::new(bad)).is_err(), "{bad}");
    }
    assert!(check_secret(&SecretString::new("x".repeat(MAX_SECRET_LEN + 1))).is_err());
    assert!(check_secret(&SecretString::new("sixteen-letters_")).is_ok());
}

#[test]
fn static_tokens_are_read_as_the_configuration_writes_them() {
    let spec: StaticTokenSpec = "proxy, Node,node:0123456789abcdef".parse().unwrap();
    assert_eq!(spec.roles, [HostRole::Node, HostRole::Proxy]);
    let StaticTokenSource::Value(secret) = &spec.source else { panic!("{spec:?}") };
    let token = StaticToken::new(spec.roles.clone(), secret).unwrap();
    assert!(!token.is_weak() && token.record().expires.is_none());
    assert!(StaticToken::new(spec.roles, &SecretString::new("abc")).unwrap().is_weak());

    let file: StaticTokenSpec = "node:/var/lib/token".parse().unwrap();
    assert_eq!(file.source, StaticTokenSource::File("/var/lib/token".into()));

    for bad in ["", "node", "node:", ":secret", "node:two words", "nodes:secret"] {
        assert!(bad.parse::<StaticTokenSpec>().is_err(), "{bad}");
    }
    let later = "node,kube:secret".parse::<StaticTokenSpec>().unwrap_err();
    let InvalidStaticToken::Role { source } = later else { panic!("{later:?}") };
    assert!(source.to_string().contains("not part of this product"), "{source}");
}

proptest! {
    /// Whatever the token, nobody is admitted after its end, without uses, or to another role; and a limited token always
    /// loses exactly one use.
    #[test]
    fn admission_never_exceeds_the_token(
        expires in proptest::option::of(0_u64..200),
        uses in proptest::option::of(0_u32..3),
        now in 0_u64..200,
        roles in proptest::collection::vec(0_usize..3, 0..3),
        asked in 0_usize..3,
    ) {
        let role = |index: usize| HostRole::ALL.get(index).copied().unwrap();
        let token = TokenRecord {
            roles: roles.iter().map(|index| role(*index)).collect(),
            expires: expires.map(Timestamp::from_unix_secs),
            uses_left: uses,
            labels: Labels::default(),
            ..token()
        };
        let name = NodeName::new("n").unwrap();
        let cluster = cluster();
        let claim = JoinClaim {
            again: false,
            host_id: OWN.parse::<HostId>().unwrap(),
            name: &name,
            role: role(asked),
            addresses: &[],
            cluster: &cluster,
        };
        let allowed = expires.is_none_or(|at| now < at) && uses != Some(0) && roles.contains(&asked);
        let outcome = admit(&token, &claim, Timestamp::from_unix_secs(now));
        prop_assert_eq!(outcome.is_ok(), allowed);
        if let Ok(admission) = outcome {
            prop_assert_eq!(admission.token_after.and_then(|after| after.uses_left), uses.map(|uses| uses - 1));
        }
    }

    #[test]
    fn reading_a_static_token_never_panics(text in "\\PC{0,80}") {
        let _ = text.parse::<StaticTokenSpec>();
    }
}
