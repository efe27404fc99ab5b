//! The server itself: what it makes of its configuration, and how it is told of a new one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Whether the server has read its configuration anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// It was told to.
    Yes,
    /// It does not run, as far as is known.
    NotRunning,
}

/// The program.
pub(super) struct Sshd(PathBuf);

/// What counts, of what we touch.
#[derive(Debug, Default)]
pub(super) struct Effective {
    pub(super) host_keys: Vec<String>,
    pub(super) trusted_user_ca: Option<String>,
    /// Words by which nobody would be let in by a certificate of ours, as the server says them.
    pub(super) in_the_way: Vec<String>,
    /// Whether the server punishes addresses for what comes from them, and none is exempt.
    pub(super) penalises: bool,
    pid_file: Option<String>,
}

/// Whether a word, with its value, keeps out who is let in by a certificate that names the login.
pub(super) fn keeps_out(name: &str, value: &str) -> bool {
    match name {
        // Then it is a file or a program that says which names are good for a login.
        "authorizedprincipalsfile" | "authorizedprincipalscommand" => !value.eq_ignore_ascii_case("none"),
        "pubkeyauthentication" => value.eq_ignore_ascii_case("no"),
        // Each list is a way in.
        "authenticationmethods" => !value.split_whitespace().any(|way| way == "any" || way == "publickey"),
        // A list that begins so changes the default.
        "casignaturealgorithms" => !value.starts_with(['+', '-', '^']) && !lists(value, "ssh-ed25519"),
        "pubkeyacceptedalgorithms" | "hostkeyalgorithms" => {
            !value.starts_with(['+', '-', '^']) && !lists(value, "ssh-ed25519-cert-v01@openssh.com")
        }
        _ => false,
    }
}

fn lists(value: &str, name: &str) -> bool {
    value.split(',').any(|listed| listed == name)
}

impl Effective {
    /// From what `sshd -T` says.
    fn read(text: &str) -> Self {
        let (mut effective, mut punishes, mut exempt) = (Self::default(), false, false);
        for line in text.lines() {
            let Some((name, text)) = line.split_once(' ') else { continue };
            let value = || (text != "none").then(|| text.to_owned());
            match name {
                "hostkey" => effective.host_keys.extend(value()),
                "trustedusercakeys" => effective.trusted_user_ca = value(),
                "pidfile" => effective.pid_file = value(),
                "persourcepenalties" => punishes = text != "no",
                "persourcepenaltyexemptlist" => exempt = value().is_some(),
                name if keeps_out(name, text) => effective.in_the_way.push(line.to_owned()),
                _ => {}
            }
        }
        effective.penalises = punishes && !exempt;
        effective
    }
}

impl Sshd {
    pub(super) fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        dirs.map(|dir| dir.join("sshd"))
            .find(|file| file.is_absolute() && file.is_file())
            .map(Self)
            .context("there is no sshd on this machine (openssh-server)")
    }

    fn run(&self, mode: &str, config: &Path) -> Result<String> {
        let output = Command::new(&self.0).arg(mode).arg("-f").arg(config).output();
        let output = output.with_context(|| format!("cannot run {}", self.0.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        bail!("`sshd {mode} -f {}` says: {}", config.display(), crate::cli::sanitize(&said.join("; ")))
    }

    /// Has it look at a configuration.
    pub(super) fn test(&self, config: &Path) -> Result<()> {
        self.run("-t", config).map(drop)
    }

    /// What it makes of one.
    pub(super) fn effective(&self, config: &Path) -> Result<Effective> {
        Ok(Effective::read(&self.run("-T", config)?))
    }

    /// Has the one that runs read it anew, as `systemctl reload ssh` does.
    pub(super) fn reload(&self, config: &Path) -> Result<Reloaded> {
        let Some(file) = self.effective(config)?.pid_file else { return Ok(Reloaded::NotRunning) };
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(Reloaded::NotRunning) };
        let pid: i32 = text.trim().parse().with_context(|| format!("{file} is not a process id"))?;
        // The file may be older than the machine's last start.
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if pid <= 1 || name.trim() != "sshd" {
            return Ok(Reloaded::NotRunning);
        }
        kill(Pid::from_raw(pid), Signal::SIGHUP).context("sshd cannot be told to read its configuration")?;
        Ok(Reloaded::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_punish_addresses_are_known() {
        // As OpenSSH 9.9 says it.
        let stock = "persourcepenalties crash:90 authfail:5 noauth:1 grace-exceeded:10 refuseconnection:10 max:600 min:15 \
                     max-sources4:65536 max-sources6:65536 overflow:permissive overflow6:permissive\n";
        let none = "persourcepenaltyexemptlist none\n";
        for (text, expected) in [
            (format!("{stock}{none}"), true),
            (format!("{none}{stock}"), true),
            (format!("{stock}persourcepenaltyexemptlist 192.0.2.1\n"), false),
            (format!("persourcepenalties no\n{none}"), false),
            // Older ones have nothing of the kind.
            ("maxstartups 10:30:100\n".to_owned(), false),
        ] {
            assert_eq!(Effective::read(&text).penalises, expected, "{text}");
        }
    }

    #[test]
    fn words_that_keep_certificates_out() {
        for (line, expected) in [
            ("authorizedprincipalsfile none", false),
            ("authorizedprincipalsfile /etc/ssh/principals/%u", true),
            ("authorizedprincipalscommand /bin/p", true),
            ("pubkeyauthentication yes", false),
            ("pubkeyauthentication no", true),
            ("pubkeyauthentication No", true),
            ("authorizedprincipalsfile None", false),
            ("authenticationmethods any", false),
            ("authenticationmethods publickey,password publickey", false),
            ("authenticationmethods publickey,password", true),
            ("casignaturealgorithms ssh-ed25519,ecdsa-sha2-nistp256", false),
            ("casignaturealgorithms ecdsa-sha2-nistp256", true),
            ("casignaturealgorithms -ecdsa-sha2-nistp256", false),
            ("hostkeyalgorithms ssh-ed25519", true),
            ("pubkeyacceptedalgorithms ssh-ed25519-cert-v01@openssh.com", false),
            ("permittty no", false),
        ] {
            let (name, value) = line.split_once(' ').unwrap_or_default();
            assert_eq!(keeps_out(name, value), expected, "{line}");
        }
    }
}
