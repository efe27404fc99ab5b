//! User certificates in process, beside bare signatures and beside `ssh-keygen`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ring::signature::Ed25519KeyPair;
use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::Sealer;
use teleport_core::cert::danger::unchecked_user_grant;
use teleport_core::cert::{PublicKey, UserGrant};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, EntropyExt, SystemEntropy};
use teleport_core::id::{ClusterName, OsLogin, RoleName, UserName};
use teleport_core::secret::SecretBytes;
use teleport_ssh::keys::SshKeyPair;
use tokio::time::Instant;

use crate::Scale;
use crate::report::{Goal, Row, median};

/// An authority with its keys sealed in memory, and a grant and a key to sign.
///
/// # Errors
/// Without randomness.
pub async fn authority() -> Result<(CertificateAuthority, UserGrant, PublicKey)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let sealer = Arc::new(Sealer::new(&SecretBytes::new(entropy.bytes::<32>()?), Arc::clone(&entropy))?);
    let storage = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
    let cluster = ClusterName::new("example.com")?;
    let key = SshKeyPair::generate(&*entropy)?.public();
    let ca = CertificateAuthority::open_or_create(cluster, storage, sealer, clock, entropy).await?;
    let mut grant = unchecked_user_grant(UserName::new("alice")?, Duration::from_secs(12 * 3600));
    grant.logins = vec![OsLogin::new("root")?, OsLogin::new("alice")?];
    grant.roles = vec![RoleName::new("access")?];
    grant.permits.pty = true;
    Ok((ca, grant, key))
}

/// How often in a second `work` can be done, by this thread alone.
async fn each_second(rounds: usize, mut work: impl AsyncFnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..rounds {
        work().await?;
    }
    Ok(rounds as f64 / started.elapsed().as_secs_f64())
}

/// The rates, on one core.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let (ca, grant, key) = authority().await?;
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
        .map_err(|_| anyhow::anyhow!("no randomness"))?;
    let raw = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| anyhow::anyhow!("no key"))?;
    let message = vec![7; ca.sign_user_ssh(&grant, &key).await?.openssh.len() / 4 * 3];
    let (mut ours, mut bare, mut tool) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.of(5, 1) {
        let rounds = scale.of(20_000, 100);
        bare.push(
            each_second(rounds, async || {
                std::hint::black_box(raw.sign(std::hint::black_box(&message)));
                Ok(())
            })
            .await?,
        );
        ours.push(
            each_second(rounds, async || {
                std::hint::black_box(ca.sign_user_ssh(&grant, &key).await?);
                Ok(())
            })
            .await?,
        );
        tool.push(ssh_keygen(scale.of(200, 5))?);
    }
    let ours = median(ours);
    Ok(vec![
        Row::against(
            "user certificates, in process, one core",
            "/s",
            ours,
            ("ring", median(bare)),
            Goal::AtLeast(0.6),
        ),
        Row::against(
            "  beside ssh-keygen -s, one call for all",
            "/s",
            ours,
            ("keygen", median(tool)),
            Goal::Free,
        ),
    ])
}

/// Certificates a second of one call of `ssh-keygen -s` for `count` keys.
fn ssh_keygen(count: usize) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let make = |path: &Path| -> Result<()> {
        let status =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status()?;
        ensure!(status.success(), "ssh-keygen made no key");
        Ok(())
    };
    let (ca, key) = (dir.path().join("ca"), dir.path().join("key"));
    make(&ca)?;
    make(&key)?;
    let public = std::fs::read(key.with_extension("pub"))?;
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-q", "-I", "alice", "-n", "root,alice", "-V", "+12h", "-s"]).arg(&ca);
    for index in 0..count {
        let path = dir.path().join(format!("{index}.pub"));
        std::fs::write(&path, &public)?;
        sign.arg(path);
    }
    let started = Instant::now();
    let status = sign.stderr(std::process::Stdio::null()).status().context("is openssh-client installed?")?;
    ensure!(status.success(), "ssh-keygen did not sign");
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
