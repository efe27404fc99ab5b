//! SSH certificates made to measure, signed with keys that the fuzzer has, and a model that says which of them are good.
//!
//! The model knows nothing of the code it judges: it looks at what went into a certificate, not at its bytes.

use arbitrary::Arbitrary;

use crate::fixture::{CLUSTER, NOW, key, public_wire, string};

/// The key in a place of the certificate.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A user certificate in the place of a plain key.
    Certificate,
    /// The authority of hosts.
    HostCa,
    /// An Ed25519 key that nobody trusts.
    Stranger,
    /// The authority of users.
    UserCa,
}

impl Key {
    /// The number of the key that signs for it. A certificate's holder is the stranger.
    const fn seed(self) -> u8 {
        match self {
            Self::Certificate | Self::Stranger => 3,
            Self::HostCa => 2,
            Self::UserCa => 1,
        }
    }

    fn wire(self) -> Vec<u8> {
        match self {
            Self::Certificate => Spec::good_user().encode(),
            _ => public_wire(self.seed()),
        }
    }
}

/// The key that a certificate is about.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Of the certificate's algorithm.
    Ed25519,
    /// Of the certificate's algorithm.
    P256,
    /// Of the certificate's algorithm.
    P384,
    /// An algorithm that is never accepted.
    Security,
}

/// A number of seconds.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Time {
    /// Anything.
    Any(u64),
    /// Around now.
    Near(i32),
    /// Around the beginning of a certificate of the longest life.
    Limit(i8),
}

impl Time {
    /// Seconds since the epoch.
    pub fn seconds(self, longest: u64) -> u64 {
        match self {
            Self::Any(seconds) => seconds,
            Self::Near(offset) => NOW.saturating_add_signed(offset.into()),
            Self::Limit(offset) => (NOW + longest).saturating_add_signed(offset.into()),
        }
    }
}

/// A text that may be right.
#[derive(Arbitrary, Clone, Debug)]
pub enum Text {
    /// Anything.
    Any(String),
    /// The expected one.
    Right,
    /// The expected one and a bit more.
    Nearly(char),
}

impl Text {
    /// The text, if `right` is the expected one.
    pub fn of(&self, right: &str) -> String {
        match self {
            Self::Any(text) => text.clone(),
            Self::Right => right.to_owned(),
            Self::Nearly(more) => format!("{right}{more}"),
        }
    }
}

/// A critical option or an extension.
#[derive(Arbitrary, Clone, Debug)]
pub enum Entry {
    /// Any name and value.
    Any(String, String),
    /// `cluster@teleport-rs`
    Cluster(Text),
    /// `force-command`
    ForceCommand(Text),
    /// `host-role@teleport-rs`
    HostRole(Text),
    /// `permit-pty`
    PermitPty,
    /// `roles@teleport-rs`
    Roles(Vec<Text>),
    /// `source-address`
    SourceAddress(Vec<Text>),
}

impl Entry {
    fn pair(&self) -> (String, String) {
        let (name, value) = match self {
            Self::Any(name, value) => (name.as_str(), value.clone()),
            Self::Cluster(text) => ("cluster@teleport-rs", text.of(CLUSTER)),
            Self::ForceCommand(text) => ("force-command", text.of("id")),
            Self::HostRole(text) => ("host-role@teleport-rs", text.of("node")),
            Self::PermitPty => ("permit-pty", String::new()),
            Self::Roles(roles) => {
                let roles: Vec<String> = roles.iter().map(|role| role.of("access")).collect();
                ("roles@teleport-rs", serde_json::to_string(&roles).expect("texts are JSON"))
            }
            Self::SourceAddress(networks) => {
                let networks: Vec<String> = networks.iter().map(|network| network.of("10.0.0.0/8")).collect();
                ("source-address", networks.join(","))
            }
        };
        (name.to_owned(), value)
    }
}

/// What happens to the bytes after they were signed.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Damage {
    /// More bytes.
    Appended(u8),
    /// A bit is another.
    Flipped(u16, u8),
    /// Nothing.
    None,
    /// The end is missing.
    Truncated(u16),
}

/// All that goes into a certificate.
#[derive(Arbitrary, Clone, Debug)]
pub struct Spec {
    /// Whose signature authority it names.
    pub authority: Key,
    /// Who really signs.
    pub signer: Key,
    /// What it is about.
    pub subject: Subject,
    /// Its number.
    pub serial: u64,
    /// 1 is a user, 2 a host.
    pub kind: u8,
    /// `alice`, or a host's id and name.
    pub key_id: Text,
    /// Logins or names.
    pub principals: Vec<Text>,
    /// From when on.
    pub valid_after: Time,
    /// Until when.
    pub valid_before: Time,
    /// What whoever does not know must refuse.
    pub critical: Vec<Entry>,
    /// What may be ignored.
    pub extensions: Vec<Entry>,
    /// Whether options are in their order, each once.
    pub in_order: bool,
    /// Bytes in the reserved field.
    pub reserved: u8,
    /// After signing.
    pub damage: Damage,
}

/// The id of the host in good certificates.
pub const HOST_ID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

impl Spec {
    /// A certificate that lets alice in as root.
    pub fn good_user() -> Self {
        Self {
            authority: Key::UserCa,
            signer: Key::UserCa,
            subject: Subject::Ed25519,
            serial: 7,
            kind: 1,
            key_id: Text::Right,
            principals: vec![Text::Right],
            valid_after: Time::Near(-60),
            valid_before: Time::Near(3600),
            critical: Vec::new(),
            extensions: vec![Entry::PermitPty, Entry::Roles(vec![Text::Right])],
            in_order: true,
            reserved: 0,
            damage: Damage::None,
        }
    }

    /// A certificate of the node web-1.
    pub fn good_host() -> Self {
        Self {
            authority: Key::HostCa,
            signer: Key::HostCa,
            kind: 2,
            extensions: vec![Entry::Cluster(Text::Right), Entry::HostRole(Text::Right)],
            ..Self::good_user()
        }
    }

    const fn is_host(&self) -> bool {
        self.kind == 2
    }

    /// The longest life: 30 hours for users, 30 days for hosts, and a minute of grace on each side.
    const fn longest(&self) -> u64 {
        120 + if self.is_host() { 30 * 24 * 3600 } else { 30 * 3600 }
    }

    /// The key id.
    pub fn key_id(&self) -> String {
        if self.is_host() { self.key_id.of(&format!("{HOST_ID} web-1")) } else { self.key_id.of("alice") }
    }

    /// The principals.
    pub fn principals(&self) -> Vec<String> {
        let right = if self.is_host() { "web-1" } else { "root" };
        self.principals.iter().map(|text| text.of(right)).collect()
    }

    fn options(&self, entries: &[Entry]) -> Vec<(String, String)> {
        let mut pairs: Vec<_> = entries.iter().map(Entry::pair).collect();
        if self.in_order {
            pairs.sort_by(|one, other| one.0.cmp(&other.0));
            pairs.dedup_by(|one, other| one.0 == other.0);
        }
        pairs
    }

    /// The bytes of the certificate.
    pub fn encode(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        let (name, point): (&str, Vec<u8>) = match self.subject {
            Subject::Ed25519 => ("ssh-ed25519", vec![0x42; 32]),
            Subject::P256 => ("ecdsa-sha2-nistp256", vec![4; 65]),
            Subject::P384 => ("ecdsa-sha2-nistp384", vec![4; 97]),
            Subject::Security => ("sk-ssh-ed25519@openssh.com", vec![0x42; 32]),
        };
        let certificate_name = match self.subject {
            Subject::Security => "sk-ssh-ed25519-cert-v01@openssh.com".to_owned(),
            _ => format!("{name}-cert-v01@openssh.com"),
        };
        string(&mut wire, certificate_name.as_bytes());
        string(&mut wire, &[7; 32]);
        if let Some(curve) = name.strip_prefix("ecdsa-sha2-") {
            string(&mut wire, curve.as_bytes());
        }
        string(&mut wire, &point);
        if self.subject == Subject::Security {
            string(&mut wire, b"ssh:");
        }
        wire.extend(self.serial.to_be_bytes());
        wire.extend(u32::from(self.kind).to_be_bytes());
        string(&mut wire, self.key_id().as_bytes());
        let mut list = Vec::new();
        self.principals().iter().for_each(|principal| string(&mut list, principal.as_bytes()));
        string(&mut wire, &list);
        wire.extend(self.valid_after.seconds(self.longest()).to_be_bytes());
        wire.extend(self.valid_before.seconds(self.longest()).to_be_bytes());
        for entries in [&self.critical, &self.extensions] {
            let mut list = Vec::new();
            for (name, value) in self.options(entries) {
                string(&mut list, name.as_bytes());
                let mut data = Vec::new();
                if !value.is_empty() {
                    string(&mut data, value.as_bytes());
                }
                string(&mut list, &data);
            }
            string(&mut wire, &list);
        }
        string(&mut wire, &vec![0; self.reserved.into()]);
        string(&mut wire, &self.authority.wire());
        let mut signature = Vec::new();
        string(&mut signature, b"ssh-ed25519");
        string(&mut signature, key(self.signer.seed()).sign(&wire).as_ref());
        string(&mut wire, &signature);
        match self.damage {
            Damage::None => {}
            Damage::Appended(byte) => wire.push(byte),
            Damage::Flipped(at, bit) => {
                let at = usize::from(at) % wire.len();
                wire[at] ^= 1 << (bit % 8);
            }
            Damage::Truncated(by) => wire.truncate(wire.len() - 1 - usize::from(by) % wire.len()),
        }
        wire
    }

    /// Whether it lets somebody in as `root` from 10.1.2.3.
    pub fn lets_a_user_in(&self) -> bool {
        let principals = self.principals();
        let critical = self.options(&self.critical);
        self.is_sound(1, Key::UserCa)
            && is_user(&self.key_id())
            && (1..=32).contains(&principals.len())
            && principals.iter().all(|name| is_login(name) || name == "-teleport-nologin")
            && principals.iter().any(|name| name == "root")
            && critical.iter().all(|(name, value)| match name.as_str() {
                "force-command" => !value.is_empty(),
                "source-address" => {
                    let networks: Vec<_> = value.split(',').map(network).collect();
                    let us = |(address, bits): &(u32, u32)| same_network(*address, 0x0a01_0203, *bits);
                    networks.iter().all(Option::is_some)
                        && networks.iter().flatten().any(|net| net.as_ref().is_some_and(us))
                }
                _ => false,
            })
            && self.options(&self.extensions).iter().all(|(name, value)| match name.as_str() {
                "roles@teleport-rs" => serde_json::from_str::<Vec<String>>(value)
                    .is_ok_and(|roles| roles.iter().all(|role| is_word(role, 64))),
                "traits@teleport-rs" => {
                    serde_json::from_str::<std::collections::BTreeMap<String, Vec<String>>>(value).is_ok()
                }
                "login-ip@teleport-rs" => value.parse::<std::net::IpAddr>().is_ok(),
                "mfa-device@teleport-rs" => is_uuid(value),
                _ => true,
            })
    }

    /// Whether it shows the node `web-1`.
    pub fn shows_the_host(&self) -> bool {
        let principals = self.principals();
        let extension = |wanted: &str| {
            self.options(&self.extensions)
                .into_iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value)
        };
        let named = self.key_id().split_once(' ').is_some_and(|(id, name)| {
            let digits = |at: usize, byte: u8| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            };
            id.len() == 36 && id.bytes().enumerate().all(|(at, byte)| digits(at, byte)) && is_word(name, 253)
        });
        self.is_sound(2, Key::HostCa)
            && named
            && principals.len() <= 64
            && principals.iter().any(|name| name == "web-1")
            && self.critical.is_empty()
            && extension("cluster@teleport-rs").is_some_and(|cluster| cluster == CLUSTER)
            && extension("host-role@teleport-rs").is_some_and(|role| role.eq_ignore_ascii_case("node"))
    }

    /// What holds for every good certificate.
    fn is_sound(&self, kind: u8, authority: Key) -> bool {
        let (after, before) =
            (self.valid_after.seconds(self.longest()), self.valid_before.seconds(self.longest()));
        let clean = |text: &str| !text.chars().any(char::is_control);
        let lists = [self.options(&self.critical), self.options(&self.extensions)];
        matches!(self.damage, Damage::None)
            && self.kind == kind
            && self.authority == authority
            && self.signer == authority
            && self.subject != Subject::Security
            && after < before
            && before - after <= self.longest()
            && after <= NOW + 60
            && NOW < before
            && clean(&self.key_id())
            && lists.iter().all(|list| {
                list.windows(2).all(|pair| pair[0].0 < pair[1].0)
                    && list.iter().all(|(name, value)| clean(name) && clean(value))
            })
            && self.encode().len() <= 16 * 1024
    }
}

fn is_word(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Lower case with hyphens: one spelling of each.
fn is_uuid(text: &str) -> bool {
    let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => hyphen(at),
            byte => !hyphen(at) && (byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        })
}

fn is_login(text: &str) -> bool {
    let plain = text.strip_suffix('$').unwrap_or(text);
    // `_` stands for any letter at the beginning, so that the rule for words applies.
    is_word(&plain.replacen('_', if plain.starts_with('_') { "x" } else { "_" }, 1), 63)
}

fn is_user(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-@".contains(&byte))
}

/// A network: `Some(None)` is one of IPv6, where our peer is not.
#[expect(clippy::option_option, reason = "no network, a network without us, a network that may have us")]
fn network(text: &str) -> Option<Option<(u32, u32)>> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    // As digits only, without a sign or leading zeros.
    let number = |bits: &str| {
        let plain = bits.bytes().all(|byte| byte.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
        plain.then(|| bits.parse::<u32>().ok()).flatten()
    };
    match address.parse::<std::net::IpAddr>().ok()? {
        std::net::IpAddr::V4(address) => {
            let bits = bits.map_or(Some(32), number).filter(|bits| *bits <= 32)?;
            Some(Some((address.to_bits(), bits)))
        }
        std::net::IpAddr::V6(_) => {
            bits.map_or(Some(128), number).filter(|bits| *bits <= 128)?;
            Some(None)
        }
    }
}

const fn same_network(one: u32, other: u32, bits: u32) -> bool {
    bits == 0 || (one ^ other) >> (32 - bits) == 0
}
