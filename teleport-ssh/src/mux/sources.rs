//! Whose word is taken for where a client is.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "configuration must know all of them")]
pub enum HeaderMode {
    /// No connection does. One that does all the same is refused.
    #[default]
    Off,
    /// Those of the trusted sources may, and nobody else's.
    On,
    /// All do, and all come from the trusted sources.
    Required,
}

/// Which connections to a port begin with a header of the PROXY protocol (version 1 or 2), by which a load balancer says whose connection it
/// carries. By default none.
///
/// What a header says is where the client is, for limits, certificates that are bound to an address (`pin_source_ip`) and the audit log.
/// So it is taken from the load balancers that are named, and from nobody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    mode: HeaderMode,
    sources: Vec<IpNet>,
}

/// What trusts nobody, or says what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It is neither an address nor a network.
    #[error("{0:?} is neither an address nor a network like 192.0.2.0/24")]
    Invalid(String),
    /// Headers are to be taken, and from nobody.
    #[error("nobody is named whose headers are taken")]
    Nobody,
}

/// What is to be done with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It begins with a header or without one.
    Either,
    /// It begins with a header.
    Header,
    /// It begins without a header.
    None,
    /// It is from nobody who may connect.
    Refuse,
}

impl ProxyProtocol {
    /// Takes headers as `mode` says from `sources`, each an address or a network (`192.0.2.0/24`).
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn new<S: AsRef<str>>(
        mode: HeaderMode,
        sources: impl IntoIterator<Item = S>,
    ) -> Result<Self, SourceError> {
        let parse = |text: &str| {
            let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
            let parsed = text.parse::<IpNet>().ok().or_else(one);
            parsed.ok_or_else(|| SourceError::Invalid(text.to_owned()))
        };
        let sources: Vec<_> =
            sources.into_iter().map(|text| parse(text.as_ref().trim())).collect::<Result<_, _>>()?;
        if sources.is_empty() && mode != HeaderMode::Off {
            return Err(SourceError::Nobody);
        }
        Ok(Self { mode, sources })
    }

    /// Which connections begin with headers.
    pub const fn mode(&self) -> HeaderMode {
        self.mode
    }

    /// Whose headers are taken, as text.
    pub fn sources(&self) -> impl Iterator<Item = String> {
        self.sources.iter().map(ToString::to_string)
    }

    /// What is expected of a connection from `peer`.
    pub(crate) fn expect(&self, peer: IpAddr) -> Expect {
        let peer = peer.to_canonical();
        let trusted = self.sources.iter().any(|known| known.contains(&peer));
        match (self.mode, trusted) {
            (HeaderMode::Off, _) | (HeaderMode::On, false) => Expect::None,
            (HeaderMode::On, true) => Expect::Either,
            (HeaderMode::Required, true) => Expect::Header,
            (HeaderMode::Required, false) => Expect::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn headers_are_expected_of_those_who_are_named() {
        let sources = ["10.1.0.0/16", "192.0.2.7", "2001:db8::/64"];
        let expect =
            |mode, peer: &str| ProxyProtocol::new(mode, sources).unwrap().expect(peer.parse().unwrap());
        for (peer, trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::9", true),
            ("2001:db8:0:1::9", false),
        ] {
            assert_eq!(expect(HeaderMode::Off, peer), Expect::None, "{peer}");
            let on = if trusted { Expect::Either } else { Expect::None };
            assert_eq!(expect(HeaderMode::On, peer), on, "{peer}");
            let required = if trusted { Expect::Header } else { Expect::Refuse };
            assert_eq!(expect(HeaderMode::Required, peer), required, "{peer}");
        }
    }

    #[test]
    fn somebody_is_to_be_named_and_rightly() {
        assert_eq!(ProxyProtocol::new(HeaderMode::On, [""; 0]), Err(SourceError::Nobody));
        assert!(ProxyProtocol::new(HeaderMode::Off, [""; 0]).is_ok());
        for wrong in ["", "balancer", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0"] {
            assert!(ProxyProtocol::new(HeaderMode::On, [wrong]).is_err(), "{wrong}");
        }
        let kept = ProxyProtocol::new(HeaderMode::Required, [" 10.0.0.1/8 "]).unwrap();
        assert_eq!(kept.sources().collect::<Vec<_>>(), ["10.0.0.1/8"]);
    }
}
