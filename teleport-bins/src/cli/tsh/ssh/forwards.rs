//! The forwards of a `tsh ssh`: makes them, says what they are, and runs them beside the session.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use teleport_core::task::TaskScope;
use teleport_ssh::client::NodeConnection;
use teleport_ssh::client::forward::{BoundForward, ForwardedAgent, ForwardedDisplay, ListenOptions};

use super::options::Way;

/// Forwards that stand.
#[derive(Debug)]
pub(super) struct Forwards {
    lines: Vec<String>,
    listening: TaskScope,
    /// What goes through them.
    pub(super) connections: TaskScope,
}

/// Those of this machine: before the connection is dialled, since a port that somebody has is the usual mistake.
pub(super) async fn bind(
    ways: Vec<Way>,
    options: ListenOptions,
    exit_on_failure: bool,
) -> Result<(Vec<BoundForward>, Vec<Way>)> {
    let (mut bound, mut remote) = (Vec::new(), Vec::new());
    for way in ways {
        match way {
            Way::Local(forward) => match BoundForward::bind(forward, options).await {
                Ok(forward) => bound.push(forward),
                Err(error) if exit_on_failure => return Err(error.into()),
                Err(error) => warn(&anyhow::Error::from(error)),
            },
            remotely => remote.push(remotely),
        }
    }
    Ok((bound, remote))
}

fn warn(error: &anyhow::Error) {
    eprintln!("WARNING: {}", crate::cli::one_line(error));
}

impl Forwards {
    /// Starts those of this machine, and asks the node for its own.
    pub(super) async fn start(
        node: &Arc<NodeConnection>,
        bound: Vec<BoundForward>,
        remote: Vec<Way>,
        exit_on_failure: bool,
    ) -> Result<Self> {
        let (listening, connections) = (TaskScope::new(), TaskScope::new());
        let mut this = Self { lines: Vec::new(), listening, connections };
        for forward in bound {
            this.lines.push(format!("{} here", forward.forward()));
            this.listening.spawn(forward.serve(Arc::clone(node), this.connections.clone()));
        }
        for way in remote {
            let Way::Remote(forward) = way else { continue };
            match node.forward_remote(forward).await {
                Ok(forward) => {
                    let asked = matches!(
                        forward.forward().listen,
                        teleport_ssh::client::forward::Listen::Tcp { port: 0, .. }
                    );
                    if asked {
                        // As ssh says it: programs read this line.
                        eprintln!(
                            "Allocated port {} for remote forward to {}",
                            forward.port(),
                            to(forward.forward())
                        );
                    }
                    this.lines.push(format!("{} at the node", forward.forward()));
                    this.listening.spawn(forward.serve(this.connections.clone()));
                }
                Err(error) if exit_on_failure => return Err(error.into()),
                Err(error) => warn(&anyhow::Error::from(error)),
            }
        }
        Ok(this)
    }

    /// Lets programs on the node ask this agent.
    pub(super) fn agent(&self, node: &NodeConnection, agent: ForwardedAgent) -> Result<()> {
        let serving = node.forward_agent(agent, self.connections.clone()).context("the agent")?;
        self.listening.spawn(serving);
        Ok(())
    }

    /// Lets programs on the node use this display.
    pub(super) fn display(&self, node: &NodeConnection, display: Arc<ForwardedDisplay>) -> Result<()> {
        let serving = node.forward_x11(display, self.connections.clone()).context("the display")?;
        self.listening.spawn(serving);
        Ok(())
    }

    /// For whoever asks by `~#`.
    pub(super) fn list(&self) -> String {
        let mut list = String::new();
        for line in &self.lines {
            let _ = write!(list, "\r\n  {line}");
        }
        let count = self.connections.len();
        format!(
            "\r\nForwarded, with {count} open connections:{}\r\n",
            if list.is_empty() { " nothing" } else { &list }
        )
    }

    /// Nothing new; waits for what is open.
    pub(super) async fn finish(&self, quiet: bool) {
        self.listening.abort().await;
        if !quiet && !self.connections.is_empty() {
            eprintln!("Waiting for forwarded connections to end; Ctrl-C ends them");
        }
        self.connections.join().await;
    }
}

fn to(forward: &teleport_ssh::client::forward::Forward) -> String {
    match &forward.to {
        teleport_ssh::client::forward::Target::To(to) => to.to_string(),
        teleport_ssh::client::forward::Target::Dynamic => "wherever a SOCKS client wants".to_owned(),
    }
}
