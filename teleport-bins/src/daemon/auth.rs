//! The auth service of this process.

use std::sync::Arc;

use anyhow::{Context, Result};
use teleport_backend::audit::file::{Checkpoints, FileAuditLog, Service};
use teleport_backend::audit::index::IndexedAuditLog;
use teleport_backend::wrap::MetricsBackend;
use teleport_ca::key::KeyError;
use teleport_ca::{AuditKey, CaError, CertificateAuthority};
use teleport_core::api::{AdminApi, CreateToken, HostCredentials, JoinRequest, PublicApi};
use teleport_core::audit::AuditLog;
use teleport_core::audit::chain::CheckpointSigner;
use teleport_core::auth::{
    AuthConfig, AuthService, Caller, Participant, Ports, RestoreError, RestorePorts, SWEEP_EVERY,
    TAKE_PART_EVERY, restore, unfinished_restore,
};
use teleport_core::cert::{CaPin, SubjectKeys};
use teleport_core::id::{ClusterName, HostRole};
use teleport_core::storage::Backend;
use teleport_core::task::Shutdown;
use teleport_core::token::{StaticToken, StaticTokenSource, StaticTokenSpec};
use teleport_ssh::identity::{HostMaterial, HostName, IdentityStore};

use super::data_dir::DataDir;
use super::forward::Forwarder;
use super::wall_clock::WallClock;
use super::{Os, read_secret_file, recordings};
use crate::config::AuthSettings;

/// An auth service over the data directory. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct LocalAuth {
    pub(super) service: AuthService,
    pub(super) cluster: ClusterName,
    pub(super) ca_pins: Vec<CaPin>,
    pub(super) backend: Arc<dyn Backend>,
    /// What that counts.
    pub(super) metrics: Arc<MetricsBackend>,
    audit: Arc<IndexedAuditLog>,
}

impl LocalAuth {
    pub(super) async fn open(
        settings: &AuthSettings,
        own: &Service,
        data_dir: &DataDir,
        os: &Os,
    ) -> Result<Self> {
        let default_name = own.owner.name.as_str();
        let static_tokens = static_tokens(&settings.static_tokens)?;
        let sealer =
            teleport_ca::seal::Sealer::new(&data_dir.master_key(&*os.entropy)?, Arc::clone(&os.entropy))
                .context("the master key cannot be used")?;
        let sealer: Arc<dyn teleport_core::secret::Sealer> = Arc::new(sealer);
        let metrics = crate::storage::open(settings.storage.expose(), os).await?;
        let metrics = Arc::new(MetricsBackend::new(metrics));
        let backend = Arc::clone(&metrics) as Arc<dyn Backend>;
        let directory = settings.audit.directory.clone().unwrap_or_else(|| data_dir.join("audit"));
        let log = || {
            FileAuditLog::builder(&directory, Arc::clone(&os.clock), Arc::clone(&os.entropy))
                .config(settings.audit.files)
        };
        let asked = match &settings.cluster_name {
            Some(name) => name.clone(),
            None => ClusterName::new(default_name)
                .context("the host's name is no cluster name; say --cluster-name")?,
        };
        if let Some(backup) = &settings.bootstrap {
            // The key of its checkpoints is in the backup: until then nothing is signed.
            let audit: Arc<dyn AuditLog> = Arc::new(log().open().await?);
            let ports = RestorePorts {
                backend: Arc::clone(&backend),
                sealer: Arc::clone(&sealer),
                audit,
                clock: Arc::clone(&os.clock),
                entropy: Arc::clone(&os.entropy),
            };
            // Before the authority is opened: the backup may hold it.
            let done = restore(&ports, &asked, backup).await.context("--bootstrap")?;
            tracing::info!(
                roles = done.roles,
                users = done.users,
                locks = done.locks,
                secrets = done.secrets,
                left_out = done.left_out,
                "the cluster was restored from a backup"
            );
        } else {
            check_whole(&*backend).await?;
        }
        let open = |cluster: ClusterName| {
            CertificateAuthority::open_or_create(
                cluster,
                Arc::clone(&backend),
                Arc::clone(&sealer),
                Arc::clone(&os.clock),
                Arc::clone(&os.entropy),
            )
        };
        let (authority, cluster) = match open(asked.clone()).await {
            Err(CaError::OtherCluster { stored, .. }) => {
                if settings.cluster_name.is_some() {
                    // Another cluster has its state there: one member of each would do what the other one asks.
                    anyhow::ensure!(
                        !teleport_backend::is_remote(settings.storage.expose()),
                        "the storage is that of the cluster {stored}, and this one is to be {asked}: name another place for \
                         it in storage.url, or set cluster_name to {stored} if it is the same cluster"
                    );
                    tracing::warn!(%stored, %asked, "the cluster keeps the name of its first start");
                }
                let authority = open(stored.clone()).await;
                (authority.map_err(|error| other_key(error, &*backend, data_dir))?, stored)
            }
            authority => (authority.map_err(|error| other_key(error, &*backend, data_dir))?, asked),
        };
        let ca_pins = authority.ca_pins();
        let key =
            AuditKey::open_or_create(Arc::clone(&backend), Arc::clone(&sealer), Arc::clone(&os.entropy))
                .await?;
        let audit_keys = vec![key.key()];
        let mut log = log().checkpoints(Checkpoints {
            cluster: cluster.clone(),
            signer: Arc::new(key),
            storage: Arc::clone(&backend),
            service: Some(own.clone()),
        });
        for to in &settings.audit.forward {
            log = log.forwarder(Forwarder::start(to.clone(), default_name.to_owned())?);
        }
        let audit = Arc::new(IndexedAuditLog::start(
            Arc::new(log.open().await?),
            Arc::clone(&backend),
            Arc::clone(&sealer),
            Arc::clone(&os.clock),
        ));
        let mut config = AuthConfig::new(cluster.clone());
        config.static_tokens = static_tokens;
        config.audit_keys = audit_keys;
        config.session_recording = settings.session_recording.clone();
        config.recordings = settings.recordings;
        config.retention = settings.retention;
        config.second_factor = settings.second_factor;
        config.lock_mode = settings.lock_mode;
        config.tunnel_strategy = settings.tunnel_strategy;
        config.password = settings.password;
        let recordings = recordings::open(settings, &sealer, os).await?;
        let ports = Ports {
            backend: Arc::clone(&backend),
            issuer: Arc::new(authority),
            sealer,
            recordings,
            audit: Arc::clone(&audit) as Arc<dyn AuditLog>,
            clock: Arc::clone(&os.clock),
            entropy: Arc::clone(&os.entropy),
        };
        let service = AuthService::new(ports, config);
        service.bootstrap().await?;
        Ok(Self { service, cluster, ca_pins, backend, metrics, audit })
    }

    /// Ends the audit log and its index, then the storage that remembers how they ended.
    pub(super) async fn close(&self) {
        self.audit.close().await;
        self.backend.close().await;
    }

    /// Makes a service of this process a member: it keeps its keys over restarts and gets certificates for the addresses of
    /// today.
    pub(super) async fn admit(
        &self,
        store: &IdentityStore,
        host: HostName,
        addresses: Vec<String>,
        os: &Os,
    ) -> Result<HostMaterial> {
        let keys = match store.load(host.role)? {
            Some(known) => (known.ssh, known.tls),
            None => store.keys(&*os.entropy)?,
        };
        let credentials =
            self.join(&host, SubjectKeys { ssh: keys.0.public(), tls: keys.1.public() }, addresses).await?;
        let material = HostMaterial::from_credentials(host, keys, credentials)?;
        store.save(&material)?;
        Ok(material)
    }

    async fn join(
        &self,
        host: &HostName,
        keys: SubjectKeys,
        addresses: Vec<String>,
    ) -> Result<HostCredentials> {
        let admin = self.service.acting_as(Caller::LocalAdmin);
        let token = CreateToken {
            roles: vec![host.role],
            ttl: Some(60),
            uses: Some(1),
            labels: Default::default(),
            value: None,
        };
        let token = admin.create_token(token).await?.token;
        let request = JoinRequest {
            token,
            host_id: host.host_id,
            name: host.name.clone(),
            role: host.role,
            keys,
            addresses,
            client_ip: None,
        };
        let role: HostRole = host.role;
        admin
            .join(request)
            .await
            .with_context(|| format!("the {role} service of this process cannot become a member"))
    }
}

/// Says what to do if the cluster's secrets were sealed with another master key than that of this data directory: that is so when a
/// second auth service is started for the first time.
fn other_key(error: CaError, backend: &dyn Backend, data_dir: &DataDir) -> anyhow::Error {
    let CaError::Key { source: KeyError::Unreadable { .. } } = &error else { return error.into() };
    let path = data_dir.join(DataDir::MASTER_KEY);
    tracing::debug!(error = &error as &dyn std::error::Error, "the authority cannot be opened");
    anyhow::anyhow!(
        "the master key {path} is not that of the cluster in {backend}: its secrets do not open. Every auth service of a cluster has the \
         same one; copy it from one that runs, `scp root@<its host>:{path} {path}`, keep it at mode 0600, and start again",
        path = path.display(),
    )
}

/// Refuses storage that was filled by half, before anything is written there.
async fn check_whole(backend: &dyn Backend) -> Result<()> {
    match backend.get(&unfinished_restore()?).await? {
        None => Ok(()),
        Some(_) => Err(RestoreError::Unfinished.into()),
    }
}

/// Says to the others that this service runs, until it stops.
pub(super) async fn take_part(service: AuthService, me: Participant, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TAKE_PART_EVERY) => {}
            () = shutdown.draining() => break,
        }
        if let Err(error) = service.take_part(&me).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "other auth services do not hear of this one"
            );
        }
    }
    if let Err(error) = service.leave(&me).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "other auth services believe for a while that this one runs"
        );
    }
}

/// Deals with recordings whose node is lost, until the service stops.
pub(super) async fn look_after_uploads(service: AuthService, clock: WallClock, shutdown: Shutdown) {
    let lost = service.lost_uploads();
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = shutdown.draining() => return,
        }
        // By a clock that has jumped ahead all nodes have been silent for long.
        if !clock.is_believed() {
            continue;
        }
        if let Err(error) = lost.sweep().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "recordings whose node is lost cannot be looked for now"
            );
        }
    }
}

/// Reads the tokens of the configuration, those in files included.
fn static_tokens(specs: &[String]) -> Result<Vec<StaticToken>> {
    specs
        .iter()
        .map(|text| {
            let spec: StaticTokenSpec = text.parse().context("auth_service.tokens")?;
            let secret = match &spec.source {
                StaticTokenSource::Value(secret) => secret.clone(),
                StaticTokenSource::File(path) => read_secret_file(path)?,
                _ => anyhow::bail!("auth_service.tokens: this kind of token is not known"),
            };
            let token = StaticToken::new(spec.roles, &secret).context("auth_service.tokens")?;
            if token.is_weak() {
                tracing::warn!(
                    "a static token is short enough to be guessed; make it at least 16 random characters"
                );
            }
            Ok(token)
        })
        .collect()
}
