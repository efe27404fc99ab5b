//! What may be asked of a running daemon: whether it lives, whether it serves, and its figures.
//!
//! The answers come from what the services keep anyway, when somebody asks: being watched costs nothing in between.

mod auth_figures;
mod figures;
mod server;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use teleport_backend::wrap::MetricsBackend;
use teleport_core::clock::Timestamp;
use teleport_core::id::HostId;
use teleport_core::storage::{Backend, Key};
use teleport_core::task::Shutdown;
use teleport_ssh::identity::HostIdentityHandle;
use teleport_ssh::listener::Door;
use teleport_ssh::proxy::NodeView;
use teleport_ssh::proxy_web::WebCertificates;
use teleport_ssh::rpc::ApiFigures;
use teleport_ssh::session::SessionRegistry;
use teleport_ssh::tunnel::Tunnels;
use teleport_ssh::view::AccessCache;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use self::figures::page;
pub(super) use self::server::Server;
use super::Os;

/// How long an answer of the storage holds: nobody has to log in to ask, so asking is not to cost more than this.
const STORAGE_PACE: Duration = Duration::from_secs(1);
/// How long the storage may take to be there.
const STORAGE_LIMIT: Duration = Duration::from_secs(2);
/// What is looked for in it; whether it is there does not matter.
const PROBE: &str = "diagnostics/probe";

/// The services of this process, as far as they have started. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Diagnostics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    os: Os,
    started: Timestamp,
    front: Shutdown,
    state: Mutex<State>,
    /// When the storage was asked, and why it could not be read.
    storage: AsyncMutex<Option<(Instant, Option<String>)>>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether all that is to start has started.
    complete: bool,
    services: Vec<Service>,
}

/// A port of a service that runs.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// As it is called in answers, such as `proxy-ssh`.
    pub(super) name: &'static str,
    pub(super) door: Door,
    pub(super) identity: HostIdentityHandle,
    pub(super) needs: Needs,
    /// The sessions of users, where they end here.
    pub(super) sessions: Option<SessionRegistry>,
    /// The nodes that it leads to.
    pub(super) nodes: Option<NodeView>,
    /// What the auth service counts.
    pub(super) auth: Option<AuthFigures>,
    /// What browsers are shown here.
    pub(super) shown: Option<WebCertificates>,
    /// The tunnels that end here.
    pub(super) tunnels: Option<Tunnels>,
}

/// What the auth service counts as it works.
#[derive(Clone, Debug)]
pub(super) struct AuthFigures {
    pub(super) calls: ApiFigures,
    pub(super) storage: Arc<MetricsBackend>,
}

/// Without what a service is not ready.
#[derive(Clone, Debug)]
pub(super) enum Needs {
    Storage(Arc<dyn Backend>),
    /// What it knows of whom to trust.
    View(AccessCache),
}

/// Whether all services are ready.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Readiness {
    status: Status,
    services: Vec<ServiceReadiness>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ready,
    /// Some service cannot do its work.
    Unready,
    /// Not everything runs yet.
    Starting,
    /// Nobody new is let in.
    Draining,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ServiceReadiness {
    name: &'static str,
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// For how many seconds nobody has told it of changes of trust and roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    silence: Option<u64>,
}

impl Diagnostics {
    /// Of a process that begins. `front` drains when nobody new is to be let in.
    pub(super) fn new(os: Os, front: Shutdown) -> Self {
        let started = os.clock.now();
        let (state, storage) = Default::default();
        Self(Arc::new(Shared { os, started, front, state, storage }))
    }

    /// A port serves.
    pub(super) fn add(&self, service: Service) {
        self.state(|state| state.services.push(service));
    }

    /// A service has ended, for it was removed from the cluster, and the others go on.
    pub(super) fn remove(&self, host: HostId) {
        self.state(|state| state.services.retain(|service| service.identity.current().host_id != host));
    }

    /// A port of a service has been closed, and the service goes on.
    pub(super) fn remove_port(&self, host: HostId, name: &str) {
        let is_it = |service: &Service| service.name == name && service.identity.current().host_id == host;
        self.state(|state| state.services.retain(|service| !is_it(service)));
    }

    /// All services that are to run do.
    pub(super) fn complete(&self) {
        self.state(|state| state.complete = true);
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn services(&self) -> Vec<Service> {
        self.state(|state| state.services.clone())
    }

    /// Whether each service can do its work now.
    pub(super) async fn readiness(&self) -> Readiness {
        let mut services = Vec::new();
        for service in self.services() {
            services.push(self.of(&service).await);
        }
        let status = if self.0.front.is_draining() {
            Status::Draining
        } else if !self.state(|state| state.complete) {
            Status::Starting
        } else if services.iter().all(|service| service.ready) {
            Status::Ready
        } else {
            Status::Unready
        };
        Readiness { status, services }
    }

    async fn of(&self, service: &Service) -> ServiceReadiness {
        let (reason, silence) = match &service.needs {
            Needs::Storage(backend) => (self.unreadable(backend.as_ref()).await, None),
            Needs::View(view) => {
                (view.usable().err().map(|error| error.to_string()), Some(view.age().as_secs()))
            }
        };
        // Nobody talks to a service whose certificate is not valid, so that is the reason of the others.
        let now = self.0.os.clock.now();
        let reason =
            service.identity.current().check_valid_at(now).err().map(|error| error.to_string()).or(reason);
        ServiceReadiness { name: service.name, ready: reason.is_none(), reason, silence }
    }

    /// Asks once for all who want to know; the log has changes only.
    async fn unreadable(&self, backend: &dyn Backend) -> Option<String> {
        let mut known = self.0.storage.lock().await;
        if let Some((at, reason)) = &*known
            && at.elapsed() < STORAGE_PACE
        {
            return reason.clone();
        }
        let reason = unreadable(backend).await;
        let was_readable = known.as_ref().is_none_or(|(_, reason)| reason.is_none());
        match &reason {
            Some(reason) if was_readable => tracing::warn!(reason, "the auth service is not ready"),
            None if !was_readable => tracing::info!("the storage can be read again"),
            _ => {}
        }
        *known = Some((Instant::now(), reason.clone()));
        reason
    }

    /// The figures, in the text form of OpenMetrics.
    pub(super) fn figures(&self) -> String {
        page(&self.services(), self.0.started, self.0.os.clock.now())
    }
}

impl Readiness {
    /// Whether somebody who looks for a daemon should come here.
    pub(super) fn is_ready(&self) -> bool {
        self.status == Status::Ready
    }
}

/// Why the storage cannot be read, if that is so. What exactly stands in the log: whoever may ask need not know where it is.
async fn unreadable(backend: &dyn Backend) -> Option<String> {
    let Ok(key) = Key::new(PROBE) else { return Some("the storage cannot be asked".to_owned()) };
    match tokio::time::timeout(STORAGE_LIMIT, backend.get(&key)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the storage cannot be read");
            Some("the storage cannot be read".to_owned())
        }
        Err(_) => Some(format!("the storage has not answered for {} s", STORAGE_LIMIT.as_secs())),
    }
}
