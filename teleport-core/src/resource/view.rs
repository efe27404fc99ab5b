//! What is shown as a document and written by nobody: nodes describe themselves, authorities are made by the cluster.

use serde::Serialize;

use super::{Metadata, Node, NodeKind, Resource};
use crate::cert::{PublicKey, TrustBundle, X509Authority};
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, NodeName};

/// What is shown of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeView {
    /// What serves SSH there.
    pub sub_kind: NodeKind,
    /// Its display name.
    pub hostname: NodeName,
    /// Where its SSH server is reached.
    pub addr: String,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// The proxies that have its tunnels and that others ask for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proxy_ids: Vec<HostId>,
    /// The version of its software.
    pub version: String,
}

/// A node as a document. The resource's name is its id.
pub fn node_view(node: &Node) -> Resource<NodeView> {
    let record = &node.record;
    Resource {
        kind: "node".to_owned(),
        version: "v1".to_owned(),
        metadata: Metadata {
            name: record.host_id.to_string(),
            labels: record.labels.as_map().clone(),
            ..Metadata::default()
        },
        spec: NodeView {
            hostname: record.name.clone(),
            addr: record.address.clone(),
            last_seen: node.last_seen,
            sub_kind: record.sub_kind,
            proxy_ids: record.proxy_ids.clone(),
            version: record.version.clone(),
        },
    }
}

/// What is shown of an authority: its public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuthorityView {
    /// Whose it is.
    pub cluster: ClusterName,
    /// Keys that sign SSH certificates.
    pub ssh: Vec<PublicKey>,
    /// Certificates of X.509 authorities, DER in base64.
    pub tls: Vec<X509Authority>,
}

/// The authorities of a cluster as documents: `host`, `openssh` and `user`.
pub fn authority_views(trust: &TrustBundle) -> Vec<Resource<AuthorityView>> {
    let view = |name: &str, ssh: &[PublicKey], tls: &[X509Authority]| Resource {
        kind: "cert_authority".to_owned(),
        version: "v1".to_owned(),
        metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
        spec: AuthorityView { cluster: trust.cluster.clone(), ssh: ssh.to_vec(), tls: tls.to_vec() },
    };
    vec![
        view("host", &trust.host_ca, &trust.host_tls_ca),
        view("openssh", &trust.openssh_ca, &[]),
        view("user", &trust.user_ca, &trust.user_tls_ca),
    ]
}
