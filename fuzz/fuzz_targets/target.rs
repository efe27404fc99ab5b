//! Destinations: of `tsh ssh`, of `ssh -J`, and of the proxy's subsystem.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::id::ClusterName;
use teleport_core::target::{DialTarget, LoginTarget};

/// It may stand in a command line, a log or a configuration file as it is.
fn harmless(text: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+=,[]$".contains(&byte);
    assert!(!text.is_empty() && !text.starts_with('-') && text.bytes().all(plain), "{text:?}");
}

fn check(target: &DialTarget) {
    let text = target.to_string();
    harmless(&text);
    assert_ne!(target.port, Some(0));
    assert_eq!(text.parse().as_ref(), Ok(target), "{text}");
    assert_eq!(DialTarget::from_subsystem(&target.to_subsystem()).as_ref(), Ok(target), "{text}");
    if let Some(inside) = target.host.inside(&ClusterName::new("example.com").unwrap()) {
        harmless(&inside.to_string());
    }
}

fuzz_target!(|text: &str| {
    if let Ok(target) = text.parse::<DialTarget>() {
        check(&target);
    }
    if let Ok(login) = text.parse::<LoginTarget>() {
        check(&login.target);
        if let Some(login) = login.login {
            harmless(login.as_str());
        }
    }
    if let Ok(target) = DialTarget::from_subsystem(text) {
        assert!(text.starts_with("proxy:"));
        check(&target);
    }
    let (host, port) = text.rsplit_once(' ').unwrap_or((text, "22"));
    if let Ok(target) = DialTarget::from_host_port(host, port.parse().unwrap_or(u32::MAX)) {
        check(&target);
    }
});
