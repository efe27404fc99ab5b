//! Certificates for a user over the API: mutual TLS, HTTP/2, policy, signature, audit.

use std::sync::Arc;

use anyhow::{Context, Result};
use teleport_core::api::{IdentityApi, ReissueRequest};
use teleport_ssh::rpc::ClientIdentity;

use crate::Scale;
use crate::cluster::Cluster;
use crate::load::rate;
use crate::report::{Goal, Row, median};

const PARALLEL: usize = 16;

/// Certificates a second at 16 parallel, each client with a connection of its own.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let cluster = Cluster::start(dir.path())?;
    let user = cluster.user().await?;
    let client = |_| Arc::new(cluster.client(ClientIdentity::User(user.credentials.clone())));
    let clients: Arc<Vec<_>> = Arc::new((0..PARALLEL).map(client).collect());
    let request = ReissueRequest { keys: user.keys.clone(), ttl: Some(3600) };
    let reissue = move |worker: usize| {
        let (clients, request) = (Arc::clone(&clients), request.clone());
        async move {
            let client = clients.get(worker).context("a client for each worker")?;
            client.reissue_user(request).await?;
            Ok(())
        }
    };
    rate(PARALLEL, PARALLEL, reissue.clone()).await?;
    let count = scale.of(10_000, 64);
    let before = cluster.server.cpu()?;
    let mut rates = Vec::new();
    for _ in 0..scale.of(3, 1) {
        rates.push(rate(PARALLEL, count, reissue.clone()).await?);
    }
    let used = cluster.server.cpu()?.since(before).all * 1e6 / (count * rates.len()) as f64;
    Ok(vec![
        Row::alone("certificates reissued, 16 parallel, audited", "/s", median(rates), Goal::AtLeast(4000.0)),
        Row::alone("  server CPU a certificate pair", "us", used, Goal::Free),
    ])
}
