//! A certificate authority inside a program of your own: prints a line for `authorized_keys`-style trust and a
//! certificate that `ssh` can use. Run it with `cargo run --example embed_ca`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::{MASTER_KEY_LEN, Sealer};
use teleport_core::cert::danger::unchecked_user_grant;
use teleport_core::clock::SystemClock;
use teleport_core::entropy::{EntropyExt, SystemEntropy};
use teleport_core::id::{ClusterName, OsLogin, UserName};
use teleport_core::secret::SecretBytes;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
    // A program that is to be started twice keeps the master key in a safe place and uses a storage that lasts.
    let master_key = SecretBytes::new(entropy.bytes::<MASTER_KEY_LEN>()?);
    let sealer = Arc::new(Sealer::new(&master_key, entropy.clone())?);
    let storage = Arc::new(MemoryBackend::new(clock.clone()));
    let cluster = ClusterName::new("example.com")?;
    let ca = CertificateAuthority::open_or_create(cluster, storage, sealer, clock, entropy).await?;

    // Servers trust this key: `TrustedUserCAKeys` of sshd_config.
    for key in ca.trust_bundle().user_ca {
        println!("{key}");
    }

    // Your own rules decide who may have a certificate; the name of the function is there to remind you.
    let mut grant = unchecked_user_grant(UserName::new("alice")?, Duration::from_secs(8 * 3600));
    grant.logins = vec![OsLogin::new("root")?, OsLogin::new("alice")?];
    grant.permits.pty = true;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl".parse()?;
    let certificate = ca.sign_user_ssh(&grant, &key).await?;
    println!("{}", certificate.openssh);
    println!("{}", teleport_ca::inspect::describe(&certificate.openssh)?);
    Ok(())
}
