//! Load balancers that say where clients are.

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};
use teleport_ssh::mux::{HeaderMode, ProxyProtocol};

use super::file::OneOrMany;

/// `proxy_protocol`: whether connections begin with a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderModeName(pub HeaderMode);

impl<'de> Deserialize<'de> for HeaderModeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// `on` and `off` are words of YAML.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Word {
            Switch(bool),
            Text(String),
        }
        let known = match Word::deserialize(deserializer)? {
            Word::Switch(true) => Some(HeaderMode::On),
            Word::Switch(false) => Some(HeaderMode::Off),
            Word::Text(text) => match text.to_ascii_lowercase().as_str() {
                "on" => Some(HeaderMode::On),
                "off" => Some(HeaderMode::Off),
                "required" => Some(HeaderMode::Required),
                _ => None,
            },
        };
        known.map(Self).ok_or_else(|| serde::de::Error::custom("write off, on or required"))
    }
}

/// What a section says of them.
pub(super) fn resolve(
    mode: Option<HeaderModeName>,
    sources: Option<OneOrMany>,
    section: &str,
) -> Result<ProxyProtocol> {
    let HeaderModeName(mode) = mode.unwrap_or_default();
    let sources = sources.map(OneOrMany::into_vec).unwrap_or_default();
    ProxyProtocol::new(mode, sources).with_context(|| {
        format!("{section}.proxy_protocol_sources: write the addresses of the load balancers")
    })
}

/// The lines of a file that say the same.
pub(super) fn lines(protocol: &ProxyProtocol) -> String {
    let mode = match protocol.mode() {
        HeaderMode::Off => "off",
        HeaderMode::On => "on",
        HeaderMode::Required => "required",
    };
    let sources: Vec<String> = protocol.sources().collect();
    let (example, sources) = match sources.is_empty() {
        true => ("# ", "10.0.0.0/24".to_owned()),
        false => ("", sources.iter().map(|source| format!("{source:?}")).collect::<Vec<_>>().join(", ")),
    };
    format!(
        "  # Whether connections begin with a header of the PROXY protocol, which says where a client is: off; on, those of these sources\n  \
         # may; required, all connections do and come from these.\n  \
         proxy_protocol: {mode}\n  {example}proxy_protocol_sources: [{sources}]\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::config::{Overrides, Settings, parse, sample};

    fn settings(text: &str) -> Result<Settings> {
        Settings::resolve(parse(text).map_err(anyhow::Error::msg)?, Overrides::default())
    }

    #[test]
    fn balancers_come_from_the_file_and_go_back_into_it() {
        for (text, mode) in [
            ("", HeaderMode::Off),
            ("proxy_protocol: off", HeaderMode::Off),
            ("proxy_protocol: on, proxy_protocol_sources: 10.0.0.7", HeaderMode::On),
            (
                "proxy_protocol: \"on\", proxy_protocol_sources: [10.0.0.0/24, \"2001:db8::/64\"]",
                HeaderMode::On,
            ),
            ("proxy_protocol: required, proxy_protocol_sources: [10.0.0.0/24]", HeaderMode::Required),
        ] {
            let read = settings(&format!("proxy_service: {{{text}}}\nauth_service: {{{text}}}\n")).unwrap();
            let again = settings(&sample(&read)).unwrap();
            for settings in [&read, &again] {
                assert_eq!(settings.proxy.as_ref().unwrap().protocol.mode(), mode, "{text}");
                assert_eq!(settings.auth.as_ref().unwrap().protocol.mode(), mode, "{text}");
            }
            assert_eq!(again.proxy.unwrap().protocol, read.proxy.unwrap().protocol);
        }
        for (text, says) in [
            ("proxy_protocol: perhaps", "off, on or required"),
            ("proxy_protocol: on", "nobody is named"),
            ("proxy_protocol: required", "proxy_service.proxy_protocol_sources"),
            ("proxy_protocol: on, proxy_protocol_sources: [balancer]", "neither an address nor a network"),
        ] {
            let error = format!("{:#}", settings(&format!("proxy_service: {{{text}}}\n")).unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn ports_that_are_shared_are_opened_once() {
        let proxy = |text: &str, one_port| {
            let file = parse(&format!("proxy_service: {{{text}}}\n")).map_err(anyhow::Error::msg)?;
            let flags = Overrides { one_port, ..Overrides::default() };
            Ok::<_, anyhow::Error>(Settings::resolve(file, flags)?.proxy.unwrap())
        };
        let at = |text: &str| Some(text.parse().unwrap());
        for (text, one_port, ssh, tunnels) in [
            ("", false, at("0.0.0.0:3023"), None),
            ("", true, None, None),
            ("listen_addr: 0.0.0.0:3080", false, None, None),
            ("ssh_listen_addr: 0.0.0.0:3080", false, None, None),
            (
                "web_listen_addr: 0.0.0.0:443, listen_addr: 0.0.0.0:443, tunnel_listen_addr: 0.0.0.0:443",
                false,
                None,
                None,
            ),
            ("tunnel_listen_addr: 0.0.0.0", false, at("0.0.0.0:3023"), at("0.0.0.0:3024")),
            ("tunnel_listen_addr: 0.0.0.0:3024, listen_addr: 0.0.0.0:22", true, None, None),
            // Free ports, each another one.
            ("web_listen_addr: 127.0.0.1:0, listen_addr: 127.0.0.1:0", false, at("127.0.0.1:0"), None),
        ] {
            let found = proxy(text, one_port).unwrap();
            assert_eq!((found.ssh_listen, found.tunnel_listen), (ssh, tunnels), "{text}");
        }
        let error = proxy("tunnel_listen_addr: 0.0.0.0:3023", false).unwrap_err().to_string();
        assert!(error.contains("proxy_service.tunnel_listen_addr"), "{error}");
        let flags = Overrides { one_port: true, ..Overrides::default() };
        let one = Settings::resolve(parse("").unwrap(), flags).unwrap();
        assert_eq!(settings(&sample(&one)).unwrap().proxy.unwrap().ssh_listen, None);
    }
}
