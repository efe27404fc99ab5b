//! Where proxies take tunnels: at their web ports, or where they say.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use teleport_core::clock::Clock;
use tokio::net::TcpStream;

use super::agent::{self, Dialled};
use crate::identity::HostMaterial;
use crate::proxy_web::{WebClient, WebTrust};
use crate::rpc::dial;

/// The addresses of proxies that a node was given, in turns, and what is known of them.
#[derive(Debug)]
pub(super) struct Places {
    web: Vec<String>,
    next: usize,
    /// Where tunnels of those are taken that do not take them at their web ports.
    elsewhere: HashMap<String, String>,
}

impl Places {
    pub(super) fn new(web: Vec<String>) -> Self {
        Self { web, next: 0, elsewhere: HashMap::new() }
    }

    /// Begins with the address after the one of this number.
    pub(super) fn beginning_at(mut self, number: usize) -> Self {
        self.next = number;
        self
    }

    /// A tunnel to whoever is reached by the next address; of those that do not answer the next but one, and so on. A proxy that takes no
    /// tunnels at its web port is asked where it does: nothing is asked as long as all is well.
    pub(super) async fn dial(
        &mut self,
        material: &HostMaterial,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<Dialled> {
        let (web, stream) = self.connect().await?;
        let error = match agent::connect(stream, material, Arc::clone(clock)).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => error,
        };
        if self.elsewhere.remove(&web).is_some() || !takes_none(&error) {
            return Err(error);
        }
        let client = WebClient::new(&web, WebTrust::bundle(material.trust.clone()), Arc::clone(clock));
        let ping = client.ping().await.map_err(io::Error::other)?;
        let Some(address) = ping.proxy_tunnel_address else { return Err(error) };
        let stream = dial(&address).await.map_err(|error| named(&address, &error))?;
        let dialled = agent::connect(stream, material, Arc::clone(clock)).await?;
        tracing::info!(proxy = web, address, "the proxy takes tunnels at another port");
        self.elsewhere.insert(web, address);
        Ok(dialled)
    }

    async fn connect(&mut self) -> io::Result<(String, TcpStream)> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no address is known");
        for _ in 0..self.web.len() {
            self.next = self.next.wrapping_add(1);
            let Some(web) = self.next.checked_rem(self.web.len()).and_then(|at| self.web.get(at)) else {
                break;
            };
            let address = self.elsewhere.get(web).unwrap_or(web);
            match dial(address).await {
                Ok(stream) => return Ok((web.clone(), stream)),
                Err(error) => {
                    failure = named(address, &error);
                    self.elsewhere.remove(web);
                }
            }
        }
        Err(failure)
    }
}

fn named(address: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

/// Whether the other side is a server of TLS that does not know the protocol of tunnels.
fn takes_none(error: &io::Error) -> bool {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(of_tls, Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)))
        || error.kind() == io::ErrorKind::Unsupported
}
