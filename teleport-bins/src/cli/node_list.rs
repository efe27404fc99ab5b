//! Lists of nodes: how `tsh ls` and `tctl nodes ls` narrow them, and how nodes with the same name are shown.

use anyhow::{Result, anyhow};
use clap::Args;
use teleport_core::access::NodeSearch;
use teleport_core::label::Labels;
use teleport_core::resource::Node;

/// Which nodes are listed.
#[derive(Debug, Args)]
pub(super) struct NodeFilter {
    /// Only nodes with all of these labels: key=value,key=value
    labels: Vec<Labels>,
    /// Only nodes whose name, address or labels contain all of these words
    #[arg(long, value_delimiter = ',', value_name = "WORDS")]
    search: Vec<String>,
    /// Only nodes for which a condition holds, such as 'labels["env"] == "prod" && has_prefix(name, "web-")'
    #[arg(long, value_name = "CONDITION")]
    query: Option<String>,
}

impl NodeFilter {
    /// The nodes that are looked for, by their names.
    pub(super) fn select(&self, mut nodes: Vec<Node>) -> Result<Vec<Node>> {
        let mut wanted = Vec::new();
        for labels in &self.labels {
            for (key, value) in labels.iter() {
                if wanted.iter().any(|(known, other)| known == key && other != value) {
                    return Err(anyhow!(
                        "no node has two values of the label {key}; say one, or use --query"
                    ));
                }
                wanted.push((key.to_owned(), value.to_owned()));
            }
        }
        let query = self.query.as_deref();
        let search = NodeSearch::new(Labels::new(wanted)?, &self.search, query)
            .map_err(|error| anyhow!("--query: {error}"))?;
        nodes.retain(|node| search.matches(&node.record));
        let name = |node: &Node| (node.record.name.to_string(), node.record.host_id);
        nodes.sort_by_cached_key(name);
        Ok(nodes)
    }
}
