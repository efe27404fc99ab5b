//! The text of the configuration: what is ours, and the line that includes it. Pure.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Stands above our line.
const MARK: &str = "# Added by `teleport join openssh`; taken out by `teleport join openssh --uninstall`. Has to be the first line.";

/// A path as the configuration has it.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().context("the path is not text")?;
    if text.chars().any(|c| c.is_control() || matches!(c, '"' | '*' | '?' | '[' | '\\' | '%')) {
        bail!("{text:?} cannot stand in the configuration of sshd; say another --data-dir");
    }
    Ok(if text.contains([' ', '#', '\'']) { format!("\"{text}\"") } else { text.to_owned() })
}

/// The file that is included.
pub(super) fn ours(host_keys: &[String], key: &Path, certificate: &Path, authority: &Path) -> Result<String> {
    let mut text = "# Written by `teleport join openssh`, which writes it anew each time.\n".to_owned();
    for known in host_keys {
        text.push_str(&format!("HostKey {}\n", quoted(Path::new(known))?));
    }
    text.push_str(&format!("HostKey {}\n", quoted(key)?));
    text.push_str(&format!("HostCertificate {}\n", quoted(certificate)?));
    text.push_str(&format!("TrustedUserCAKeys {}\n", quoted(authority)?));
    Ok(text)
}

fn line(include: &Path) -> Result<String> {
    Ok(format!("Include {}", quoted(include)?))
}

/// The configuration with our line in front, where the first word on a subject counts; `None` if it is there. Of what stands in it
/// nothing is changed, whatever its encoding.
pub(super) fn added(config: &[u8], include: &Path) -> Result<Option<Vec<u8>>> {
    let line = line(include)?;
    let mut lines = config.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    if lines.find(|line| !line.is_empty() && !line.starts_with(b"#")) == Some(line.as_bytes()) {
        return Ok(None);
    }
    let rest = removed(config, include)?;
    let mut with = format!("{MARK}\n{line}\n").into_bytes();
    with.extend_from_slice(rest.as_deref().unwrap_or(config));
    Ok(Some(with))
}

/// The configuration without our line; `None` if it is not there.
pub(super) fn removed(config: &[u8], include: &Path) -> Result<Option<Vec<u8>>> {
    let line = line(include)?;
    let is_ours = |text: &[u8]| [line.as_bytes(), MARK.as_bytes()].contains(&text.trim_ascii());
    let lines = config.split_inclusive(|byte| *byte == b'\n');
    let without: Vec<u8> = lines.filter(|text| !is_ours(text)).flatten().copied().collect();
    Ok((without.len() != config.len()).then_some(without))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    // Not all of it is UTF-8, which sshd does not mind.
    const STOCK: &[u8] =
        b"# stock, \xfcberall\n\nInclude /etc/ssh/sshd_config.d/*.conf\nMatch User git\n  PermitTTY no\n";

    #[test]
    fn the_line_is_put_in_front_once_and_taken_out_whole() {
        let include = Path::new("/var/lib/teleport/openssh/sshd.conf");
        let with = added(STOCK, include).unwrap().unwrap();
        let line = "Include /var/lib/teleport/openssh/sshd.conf";
        assert_eq!(with, [format!("{MARK}\n{line}\n").as_bytes(), STOCK].concat());
        assert_eq!(added(&with, include).unwrap(), None, "it is there");
        assert_eq!(removed(&with, include).unwrap().as_deref(), Some(STOCK));
        assert_eq!(removed(STOCK, include).unwrap(), None);
        // Somewhere else it would count for a part only, or not at all.
        let below = [STOCK, b"  Include /var/lib/teleport/openssh/sshd.conf\n"].concat();
        assert_eq!(added(&below, include).unwrap().unwrap(), with);
        assert!(added(b"", include).unwrap().unwrap().starts_with(MARK.as_bytes()));
    }

    #[test]
    fn paths_that_would_mean_something_else_are_refused() {
        let quoted = |text: &str| quoted(Path::new(text));
        assert_eq!(quoted("/a/b").unwrap(), "/a/b");
        assert_eq!(quoted("/a b").unwrap(), "\"/a b\"");
        for bad in ["/a*", "/a\nb", "/a\"b", "/a%h", "/a?", "/[a]", "/a\\b"] {
            assert!(quoted(bad).is_err(), "{bad}");
        }
    }
}
