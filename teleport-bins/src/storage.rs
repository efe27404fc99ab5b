//! The storage of the auth service: the drivers and the network that those for servers need.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use teleport_backend::network::{BoxedStream, Network, Remote, TlsOptions};
use teleport_backend::{OpenError, open_remote};
use teleport_core::storage::Backend;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::daemon::Os;

/// Longer files are no certificates.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Opens the storage that a URL names.
///
/// # Errors
/// [`OpenError`], which does not show a password that is in the URL.
pub async fn open(url: &str, os: &Os) -> Result<Arc<dyn Backend>, OpenError> {
    open_remote(url, Arc::clone(&os.clock), Remote::new(Arc::new(Sockets), Arc::clone(&os.entropy))).await
}

/// TCP, and TLS by rustls.
#[derive(Clone, Copy, Debug)]
struct Sockets;

#[async_trait]
impl Network for Sockets {
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn secure(&self, stream: BoxedStream, host: &str, tls: &TlsOptions) -> io::Result<BoxedStream> {
        let config = config(tls)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        if let Some(protocol) = tls.protocol
            && stream.get_ref().1.alpn_protocol() != Some(protocol.as_bytes())
        {
            return Err(io::Error::other(format!("the server does not speak {protocol}")));
        }
        Ok(Box::new(stream))
    }
}

fn config(tls: &TlsOptions) -> io::Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| in_file(path, error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "some of the system's certificates cannot be read");
            }
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| in_file(key, error))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|error| in_file(certificate, error))?
        }
    };
    config.alpn_protocols.extend(tls.protocol.map(|protocol| protocol.as_bytes().to_vec()));
    Ok(config)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| in_file(path, error))?;
    if found.is_empty() { Err(in_file(path, "there is no certificate in it")) } else { Ok(found) }
}

fn read(path: &Path) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    use std::io::Read;
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path).map_err(|error| in_file(path, error))?;
    file.take(MAX_FILE_LEN).read_to_end(&mut bytes).map_err(|error| in_file(path, error))?;
    Ok(bytes)
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
