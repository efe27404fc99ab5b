//! A stock `sshd` becomes a node: its host certificate, the authority it trusts, and the lines in its configuration that say so.

mod conditions;
mod files;
mod include;
mod sshd;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use teleport_ssh::identity::HostMaterial;

pub(crate) use self::files::Alone;
use self::files::Change;
pub(crate) use self::sshd::Reloaded;
use self::sshd::{Effective, Sshd, keeps_out};

/// Where everything of one `sshd` is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The server's configuration.
    pub(crate) config: PathBuf,
    /// The directory of what is ours.
    pub(crate) dir: PathBuf,
}

impl Place {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn include(&self) -> PathBuf {
        self.file("sshd.conf")
    }

    fn key(&self) -> PathBuf {
        self.file("ssh_host_ed25519_key")
    }

    fn certificate(&self) -> PathBuf {
        self.file("ssh_host_ed25519_key-cert.pub")
    }

    fn authority(&self) -> PathBuf {
        self.file("openssh_ca.pub")
    }

    fn ours(&self) -> [PathBuf; 4] {
        [self.include(), self.key(), self.certificate(), self.authority()]
    }

    /// What was said when it was installed.
    pub(crate) fn registration(&self) -> PathBuf {
        self.file("registration.json")
    }

    fn read_config(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.config).with_context(|| format!("cannot read {}", self.config.display()))
    }

    /// What counts without what is ours: what somebody has taken out of the configuration must not live on in our file.
    fn without_ours(&self, sshd: &Sshd) -> Result<Effective> {
        let Some(without) = include::removed(&self.read_config()?, &self.include())? else {
            return sshd.effective(&self.config);
        };
        let mut file = tempfile::Builder::new().prefix(".teleport-").tempfile_in(&self.dir)?;
        std::io::Write::write_all(&mut file, &without)?;
        sshd.effective(file.path())
    }

    /// Looks at the server before anything is changed. Returns what the administrator should know of: words that count for some
    /// connections, by which nobody comes in through the cluster.
    ///
    /// # Errors
    /// One line that says what is in the way.
    pub(crate) fn check(&self) -> Result<Vec<String>> {
        let sshd = Sshd::find()?;
        sshd.test(&self.config)
            .context("the configuration of sshd is not good as it is; nothing was changed")?;
        let (config, ours) = (self.config.display(), self.authority());
        let known = self.without_ours(&sshd)?;
        if let Some(other) = known.trusted_user_ca.filter(|file| Path::new(file) != ours) {
            bail!(
                "{config} has TrustedUserCAKeys {other} already, which would not count any more, and users let in by it would come past \
                 all roles: remove that line first"
            );
        }
        if let [first, ..] = &known.in_the_way[..] {
            bail!(
                "{config} says {first:?}, so that nobody would be let in by certificates of the cluster: remove that first"
            );
        }
        let mut warnings = Vec::new();
        if known.penalises {
            warnings.push(
                "this sshd makes addresses wait that fail to log in (PerSourcePenalties), and all users come from the proxy's: exempt it by \
                 `PerSourcePenaltyExemptList <addresses of the proxies>`, or one user can keep out the others"
                    .to_owned(),
            );
        }
        for word in conditions::conditional(&self.config)? {
            let place = format!("{}:{}", word.file.display(), word.line);
            if word.keyword == "trustedusercakeys" && !word.value.eq_ignore_ascii_case("none") {
                bail!(
                    "{place} has TrustedUserCAKeys in a Match block, where it takes the place of the cluster's, and users let in by it \
                     would come past all roles: remove that line first"
                );
            }
            if word.keyword == "trustedusercakeys" || keeps_out(&word.keyword, &word.value) {
                warnings.push(format!(
                    "{place} says {:?} in a Match block: where that matches, nobody is let in through the cluster",
                    format!("{} {}", word.keyword, word.value)
                ));
            }
        }
        Ok(warnings)
    }

    /// Writes what the server needs, has it look at the result, and takes everything back if it does not like it. `registration` is
    /// kept with it, or not at all.
    ///
    /// # Errors
    /// One line; then everything is as it was.
    pub(crate) fn install(&self, material: &HostMaterial, registration: &[u8]) -> Result<()> {
        let sshd = Sshd::find()?;
        let (key, certificate) = (self.key(), self.certificate());
        let mut host_keys = self.without_ours(&sshd)?.host_keys;
        // Where there is a HostKey, those that count by default do not; and plain clients know the first of a kind.
        host_keys.retain(|known| Path::new(known) != key && Path::new(known).exists());
        let authorities: String =
            material.trust.openssh_ca.iter().map(|authority| format!("{authority}\n")).collect();
        if authorities.is_empty() {
            bail!("the cluster has no authority for SSH servers; is its auth service up to date?");
        }
        let config = self.read_config()?;
        let mut change = Change::default();
        let done = (|| {
            change.write(&self.registration(), registration, 0o600)?;
            change.write(&key, material.ssh.to_openssh().expose().as_bytes(), 0o600)?;
            change.write(&certificate, format!("{}\n", material.ssh_certificate).as_bytes(), 0o644)?;
            change.write(&self.authority(), authorities.as_bytes(), 0o644)?;
            let include = include::ours(&host_keys, &key, &certificate, &self.authority())?;
            change.write(&self.include(), include.as_bytes(), 0o644)?;
            if let Some(with) = include::added(&config, &self.include())? {
                files::keep_copy(&self.config)?;
                change.replace(&self.config, &with)?;
            }
            sshd.test(&self.config).context("sshd does not accept the new configuration")
        })();
        undo_unless(done, change)
    }

    /// Takes our lines out of the server's configuration, and removes our files.
    ///
    /// # Errors
    /// One line; then everything is as it was.
    pub(crate) fn uninstall(&self) -> Result<()> {
        let sshd = Sshd::find()?;
        let config = self.read_config()?;
        let mut change = Change::default();
        let done = (|| {
            if let Some(without) = include::removed(&config, &self.include())? {
                change.replace(&self.config, &without)?;
            }
            for file in self.ours() {
                change.remove(&file)?;
            }
            sshd.test(&self.config).context("sshd does not accept its configuration without ours")
        })();
        undo_unless(done, change)
    }

    /// Has the server read its configuration anew.
    ///
    /// # Errors
    /// One line.
    pub(crate) fn reload(&self) -> Result<Reloaded> {
        Sshd::find()?.reload(&self.config)
    }
}

fn undo_unless(done: Result<()>, change: Change) -> Result<()> {
    let Err(error) = done else { return Ok(()) };
    match change.undo() {
        Ok(()) => Err(error.context("everything is as it was")),
        Err(undone) => Err(error.context(format!("AND NOT ALL OF IT COULD BE TAKEN BACK ({undone:#})"))),
    }
}
