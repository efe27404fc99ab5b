//! Settings of clusters that live on one machine, on ports of loopback that the system chooses: for trials and tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use teleport_core::cert::CaPin;
use teleport_core::id::{ClusterName, NodeName};
use teleport_core::label::Labels;
use teleport_core::secret::SecretString;
use teleport_ssh::node::{GatewayPorts, MAX_FORWARDED, RESUME_FOR};

use super::{AuthSettings, NodeSettings, ProxySettings, RecordingPlace, Settings, THIS_PROGRAM};

/// Any free port of loopback.
fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

impl Settings {
    /// A daemon without services, which joins with a pin or not at all.
    fn without_services(data_dir: &Path, nodename: NodeName) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            nodename,
            advertise: None,
            auth: None,
            proxy: None,
            node: None,
            auth_servers: Vec::new(),
            token: None,
            ca_pins: Vec::new(),
            require_ca_pin: true,
            diag_addr: None,
        }
    }

    /// The auth service and the proxy of a cluster on loopback.
    pub fn cluster_on_loopback(data_dir: &Path, nodename: NodeName, cluster: ClusterName) -> Self {
        Self {
            auth: Some(AuthSettings {
                listen: free(),
                cluster_name: Some(cluster),
                public_addresses: Vec::new(),
                protocol: Default::default(),
                static_tokens: Vec::new(),
                storage: format!("redb:{}", data_dir.join("backend.redb").display()).into(),
                audit: Default::default(),
                session_recording: Default::default(),
                recordings: Default::default(),
                recording_store: RecordingPlace::Directory(data_dir.join("recordings")),
                retention: Default::default(),
                recording_keys: Default::default(),
                second_factor: Default::default(),
                lock_mode: Default::default(),
                tunnel_strategy: Default::default(),
                password: Default::default(),
                bootstrap: None,
            }),
            proxy: Some(ProxySettings {
                web_listen: free(),
                ssh_listen: Some(free()),
                tunnel_listen: None,
                protocol: Default::default(),
                peer_listen: free(),
                peer_public: None,
                public_addresses: Vec::new(),
                public_port: None,
                https: super::Https::Own,
                // There is nowhere else.
                local_addresses: true,
            }),
            ..Self::without_services(data_dir, nodename)
        }
    }

    /// A node on loopback that joins the cluster whose auth service listens at `auth`.
    pub fn node_on_loopback(
        data_dir: &Path,
        nodename: NodeName,
        labels: Labels,
        auth: SocketAddr,
        token: SecretString,
        ca_pins: Vec<CaPin>,
    ) -> Self {
        Self {
            node: Some(NodeSettings {
                tunnels: false,
                listen: free(),
                public_addresses: Vec::new(),
                labels,
                recordings: Default::default(),
                resume_for: RESUME_FOR,
                max_forwarded: MAX_FORWARDED,
                gateway_ports: GatewayPorts::No,
                x11: None,
                pam: None,
                program: THIS_PROGRAM.into(),
            }),
            auth_servers: vec![auth.to_string()],
            token: Some(token),
            ca_pins,
            ..Self::without_services(data_dir, nodename)
        }
    }
}
