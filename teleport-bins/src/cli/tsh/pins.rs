//! How proxies are recognised: pins that came with an invite or were given at a login, kept in the file `pins`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use teleport_core::cert::CaPin;
use teleport_ssh::client::openssh::ProxyAddress;

fn file(home: &Path) -> PathBuf {
    home.join("pins")
}

/// The pins of a proxy.
pub(super) fn load(home: &Path, proxy: &ProxyAddress) -> Vec<CaPin> {
    let text = fs::read_to_string(file(home)).unwrap_or_default();
    let name = proxy.to_authority();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(proxy, _)| *proxy == name)
        .flat_map(|(_, pins)| pins.split(' ').filter_map(|pin| pin.parse().ok()))
        .collect()
}

/// Remembers the pins of a proxy; earlier ones are replaced.
pub(super) fn save(home: &Path, proxy: &ProxyAddress, pins: &[CaPin]) -> Result<()> {
    let what = || format!("cannot remember the proxy in {}", home.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home).with_context(what)?;
    let name = proxy.to_authority();
    let text = fs::read_to_string(file(home)).unwrap_or_default();
    let others = text.lines().filter(|line| line.split_once(' ').is_none_or(|(proxy, _)| proxy != name));
    let pins: Vec<String> = pins.iter().map(CaPin::to_string).collect();
    let mut lines: Vec<String> = others.map(str::to_owned).collect();
    lines.push(format!("{name} {}", pins.join(" ")));
    let unfinished = home.join("pins.new");
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .with_context(what)?;
    out.write_all(format!("{}\n", lines.join("\n")).as_bytes()).with_context(what)?;
    fs::rename(unfinished, file(home)).with_context(what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn pins_are_kept_by_proxy() {
        let home = tempfile::tempdir().unwrap();
        let proxy = |text| ProxyAddress::parse(text).unwrap();
        let pin = CaPin::of_spki;
        assert!(load(home.path(), &proxy("a:1")).is_empty());
        save(home.path(), &proxy("a:1"), &[pin(b"x")]).unwrap();
        save(home.path(), &proxy("b:1"), &[pin(b"y")]).unwrap();
        save(home.path(), &proxy("a:1"), &[pin(b"z"), pin(b"w")]).unwrap();
        assert_eq!(load(home.path(), &proxy("a:1")), [pin(b"z"), pin(b"w")]);
        assert_eq!(load(home.path(), &proxy("b:1")), [pin(b"y")]);
    }
}
