//! Certificates of public authorities by ACME (RFC 8555), for the web port of a proxy.
//!
//! ```text
//!  Acme::run ── due? (plan) ── order ──► directory of the authority
//!      │                         │           │ does the name lead there?
//!      │ shows the certificate   │ proofs    ▼
//!      └──► WebCertificates ◄────┴── web port: TLS-ALPN-01 (RFC 8737), or a port for HTTP-01
//! ```
//!
//! Names are those of the configuration, never one that a client asks for. The key of the account, the certificate with its key, and how the
//! last attempt went are in a directory of their own, files that only their owner can read: a restart orders nothing that is there or was
//! just refused. Each process orders for itself.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use teleport_core::clock::SystemClock;
//! use teleport_core::entropy::SystemEntropy;
//! use teleport_core::task::Shutdown;
//! use teleport_ssh::acme::{Acme, AcmeConfig};
//! use teleport_ssh::proxy_web::{BoundWeb, ProxyWebBuilder, WebCertificates};
//!
//! /// `roots` are the certificates (DER) of the authorities that vouch for the directory.
//! async fn serve(
//!     proxy: ProxyWebBuilder,
//!     roots: Vec<Vec<u8>>,
//!     shutdown: Shutdown,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let config = AcmeConfig::new(["proxy.example.com"])?.email("admin@example.com")?.roots(roots);
//!     let certificates = WebCertificates::default();
//!     let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
//!     let acme = Acme::open(config, Path::new("/var/lib/proxy/acme"), certificates.clone(), clock, entropy)?;
//!     let web: BoundWeb = proxy.certificates(certificates).bind().await?;
//!     tokio::join!(web.serve(shutdown.clone()), acme.run(shutdown));
//!     Ok(())
//! }
//! ```

mod config;
mod error;
mod http;
mod order;
mod plan;
mod proofs;
mod store;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyExt as _};
use teleport_core::task::Shutdown;

pub use self::config::{AcmeConfig, AcmeConfigError, LETS_ENCRYPT};
pub use self::error::AcmeError;
use self::proofs::{ProofPort, Proofs};
use self::store::{Attempts, Kept, Store};
use crate::identity::renew_at;
use crate::listener::BindError;
use crate::proxy_web::{WebCertificate, WebCertificates};
use crate::view::jitter;

/// The protocol (ALPN) by which an authority asks for a proof at the web port.
pub(crate) const TLS_ALPN: &[u8] = b"acme-tls/1";
/// How often the clock is looked at while nothing is due: it may have been set.
const LOOK: Duration = Duration::from_secs(600);
/// The longest that one order may take.
const ORDER: Duration = Duration::from_secs(600);

/// Keeps a certificate of an authority. Made by [`Acme::open`].
pub struct Acme {
    config: AcmeConfig,
    store: Store,
    certificates: WebCertificates,
    shown: Option<(String, WebCertificate)>,
    attempts: Attempts,
    port: Option<ProofPort>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Acme {
    /// Reads what is kept in `dir`, which is made if it is not there, and shows the certificate if there is one.
    ///
    /// # Errors
    /// [`AcmeError::Files`] if `dir` or what is in it cannot be used, or others could read it.
    pub fn open(
        config: AcmeConfig,
        dir: &Path,
        certificates: WebCertificates,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, AcmeError> {
        let store = Store::open(dir)?;
        let shown = store.certificate()?.and_then(|kept| {
            let certificate = kept.read().inspect_err(|error| {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "the kept certificate cannot be used; another one is ordered"
                );
            });
            Some((kept.directory.clone(), certificate.ok()?))
        });
        let attempts = store.attempts(&config)?;
        if let Some((_, certificate)) = &shown {
            certificates.show([certificate.clone()]);
        }
        Ok(Self { config, store, certificates, shown, attempts, port: None, clock, entropy })
    }

    /// Proves names by HTTP-01, on a port that is opened here, instead of TLS-ALPN-01 at the web port. The authority asks at port 80 of each
    /// name. Only what it asks for is answered there.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn prove_by_http(mut self, address: SocketAddr) -> Result<Self, BindError> {
        self.port = Some(ProofPort::open(address, Arc::clone(&self.entropy))?);
        Ok(self)
    }

    /// Where it proves names by HTTP-01, if it does.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.port.as_ref()?.local_addr().ok()
    }

    /// Orders a certificate when there is none or it is time to renew it: at two thirds of its life, or a little earlier. What fails is
    /// logged and tried again, less and less often. Until `shutdown` drains.
    ///
    /// Cancel safe: an order that was begun is gone on with by the next [`Acme::open`] of the same directory.
    pub async fn run(mut self, shutdown: Shutdown) {
        let port = self.port.take();
        let proofs = Proofs::new(self.certificates.clone(), port.as_ref().map(ProofPort::tokens));
        let answering = async {
            match port {
                Some(port) => port.serve(shutdown.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.keep(&proofs) => {}
            () = answering => {}
            () = shutdown.draining() => {}
        }
    }

    async fn keep(&mut self, proofs: &Proofs) {
        loop {
            self.wait_until_due().await;
            let attempt = order::Attempt {
                config: &self.config,
                store: &self.store,
                proofs,
                clock: &self.clock,
                entropy: &*self.entropy,
            };
            let result = match tokio::time::timeout(ORDER, attempt.run(&mut self.attempts)).await {
                Ok(result) => result,
                Err(_) => Err(AcmeError::TooSlow { directory: self.config.directory.clone() }),
            };
            proofs.clear();
            if let Err(error) = result.and_then(|kept| self.take(&kept)) {
                self.failed(&error);
            }
        }
    }

    /// Keeps a new certificate and shows it.
    fn take(&mut self, kept: &Kept) -> Result<(), AcmeError> {
        let certificate = kept.read()?;
        let life = certificate.valid_before().saturating_since(certificate.valid_after());
        self.attempts.succeeded(self.clock.now().saturating_add(plan::rest(life)));
        // What cannot be kept is shown all the same: it was issued.
        let stored =
            self.store.keep_certificate(kept).and_then(|()| self.store.keep_attempts(&self.attempts));
        if let Err(error) = stored {
            tracing::warn!(error = &error as &dyn std::error::Error, "a restart would order again at once");
        }
        let (names, ends) = (certificate.names().join(", "), certificate.valid_before());
        tracing::info!(names, %ends, "there is a certificate for browsers");
        self.certificates.show([certificate.clone()]);
        self.shown = Some((kept.directory.clone(), certificate));
        Ok(())
    }

    fn failed(&mut self, error: &AcmeError) {
        if matches!(error, AcmeError::Certificate(_)) {
            // The order is finished, and would lead to the same one again.
            self.attempts.order = None;
        }
        let now = self.clock.now();
        let pause = plan::pause(error.class(), self.attempts.failures);
        let again = now.saturating_add(jitter(pause, &*self.entropy));
        self.attempts.failed(again);
        let shown = match &self.shown {
            Some((_, shown)) if shown.valid_before() > now => "the one that is there stays",
            Some(_) => "the one that is there has ended",
            None => "until then browsers see the cluster's own",
        };
        tracing::warn!(
            error = error as &dyn std::error::Error,
            names = self.config.names.join(", "),
            %again,
            "there is no new certificate for browsers; {shown}"
        );
        if let Err(error) = self.store.keep_attempts(&self.attempts) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a restart would order again at once");
        }
    }

    async fn wait_until_due(&self) {
        let early = self.entropy.bytes().map_or(0, u16::from_be_bytes);
        loop {
            let left = self.due(early).saturating_since(self.clock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// When the next attempt is to begin.
    fn due(&self, early: u16) -> Timestamp {
        let wanted = match &self.shown {
            Some((directory, shown))
                if *directory == self.config.directory && self.config.covered_by(shown) =>
            {
                renew_at(shown.valid_after(), shown.valid_before(), early)
            }
            _ => Timestamp::EPOCH,
        };
        let life = |shown: &WebCertificate| shown.valid_before().saturating_since(shown.valid_after());
        let rest = self.shown.as_ref().map_or(Duration::ZERO, |(_, shown)| plan::rest(life(shown)));
        wanted.max(plan::not_before(self.attempts.not_before, self.clock.now(), rest))
    }
}
