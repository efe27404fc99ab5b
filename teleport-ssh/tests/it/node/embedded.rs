//! The example's console, its code as it is, asked by the stock client.

#[path = "../../../examples/embed_node/cluster.rs"]
mod cluster;
#[path = "../../../examples/embed_node/console.rs"]
mod console;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;

use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::node::NodeServer;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::support::{PATIENCE, lenient, run, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_example_works_with_stock_ssh() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let cluster = cluster::SmallCluster::new(Arc::clone(&clock), Arc::clone(&entropy)).await.unwrap();
    let console = Arc::new(console::Console::default());
    let node = NodeServer::builder(cluster.identity.clone(), cluster.access(), console, clock, entropy)
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .limits(lenient())
        .bind()
        .await
        .unwrap();
    let temp = tempfile::tempdir().unwrap();
    let line =
        cluster.write_client_files(&temp.path().join("client"), node.local_addr().unwrap()).await.unwrap();
    let (scope, status) = (TaskScope::new(), node.status());
    scope.spawn(node.serve(Shutdown::new()));
    status.view().ready().await;
    let ssh = || {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]).args(words);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    };
    let output = run(ssh().arg("add 40")).await;
    assert_eq!(text(&output.stdout), "40\n", "{}", text(&output.stderr));
    let output = run(ssh().arg("whoami")).await;
    assert_eq!(text(&output.stdout), "alice as operator, by role access\n");

    let mut child = ssh().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"add 2\nnonsense\nexit\n").await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(text(&output.stdout), "42\nnonsense: no such command; try help\n");

    let mut child = ssh().arg("-tt").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"cout\x7f\x7funt\rexit\r").await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let shown = text(&output.stdout);
    assert!(shown.starts_with("console> ") && shown.contains("\r\n42\r\nconsole> "), "{shown:?}");
}
