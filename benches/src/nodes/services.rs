//! The processes that the nodes speak to.

use anyhow::{Result, ensure};

use super::Store;
use crate::cluster::AuthOnly;
use crate::process::Cpu;
use crate::servers::StoreServer;

/// As many auth services as it takes, and the server of their store if there is one. They end with the value.
pub(super) struct Services {
    pub(super) auths: Vec<AuthOnly>,
    store: Option<StoreServer>,
    _directories: Vec<tempfile::TempDir>,
}

impl Services {
    pub(super) async fn start(count: usize, of_each: usize, store: Store) -> Result<Self> {
        let (recordings, server) = (tempfile::tempdir()?, store.start().await?);
        let storage = match &server {
            Some(server) => format!(
                "  storage:\n    type: {}\n    url: {}\n    audit_sessions_uri: file://{}\n",
                store.name(),
                server.url,
                recordings.path().display(),
            ),
            None => {
                ensure!(count <= of_each, "one auth service may have {of_each} connections (ulimit -Hn)");
                String::new()
            }
        };
        let mut directories = vec![recordings];
        let mut auths: Vec<AuthOnly> = Vec::new();
        for number in 0..count.div_ceil(of_each) {
            let directory = tempfile::tempdir()?;
            auths.push(match auths.first() {
                None => AuthOnly::start(directory.path(), &storage)?,
                Some(first) => {
                    first.start_another(directory.path(), &format!("bench-auth-{number}"), &storage)?
                }
            });
            directories.push(directory);
        }
        Ok(Self { auths, store: server, _directories: directories })
    }

    /// Of all auth services, and of the store.
    pub(super) fn cpu(&self) -> Result<(Cpu, Cpu)> {
        let auths = self.auths.iter().map(|auth| auth.server.cpu());
        let auths = auths.collect::<Result<Vec<_>>>()?.into_iter().fold(Cpu::default(), Cpu::and);
        let store = self.store.as_ref().map_or_else(|| Ok(Cpu::default()), |store| store.server.cpu())?;
        Ok((auths, store))
    }

    pub(super) fn resident(&self) -> Result<f64> {
        self.auths.iter().map(|auth| auth.server.resident()).sum()
    }
}
