//! Resident memory: idle, and of sessions in which nothing happens.

use std::time::Duration;

use anyhow::Result;

use crate::Scale;
use crate::cluster::Cluster;
use crate::load::{Client, Connection, Held, Way};
use crate::process::{Server, share_of};
use crate::report::{Goal, Row};
use crate::sshd::Sshd;

const MB: f64 = 1e6;
const KB: f64 = 1e3;

/// All roles and a node alone, idle; then open sessions, without the memory of what runs in them.
///
/// # Errors
/// What fails.
pub async fn run(scale: Scale) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let cluster = Cluster::start(dir.path())?;
    let calm = Duration::from_secs(scale.of(3, 0));
    tokio::time::sleep(calm).await;
    let all_roles = cluster.server.resident()?;
    let alone_dir = tempfile::tempdir()?;
    let (node, address) = cluster.join_node(alone_dir.path()).await?;
    tokio::time::sleep(calm).await;
    let alone = node.resident()?;
    let user = cluster.user().await?;
    let client = Client::new(&user)?;
    let count = scale.of(200, 4);

    // The first sessions make what all of them share.
    drop(open(&client, &Way::direct(address), scale.of(20, 2)).await?);
    tokio::time::sleep(calm).await;
    let before = node.resident()?;
    let sessions = open(&client, &Way::direct(address), count).await?;
    tokio::time::sleep(calm).await;
    let each = (node.resident()? - before) / count as f64;
    drop(sessions);

    let sshd = Sshd::start(&dir.path().join("sshd"), &user.trust)?;
    let before = sshd_share(&sshd.server)?;
    let few = scale.of(50, 4);
    let sessions = open(&client, &Way::direct(sshd.address), few).await?;
    tokio::time::sleep(calm).await;
    let sshd_each = (sshd_share(&sshd.server)? - before) / few as f64;
    drop(sessions);

    Ok(vec![
        Row::alone("resident memory, all roles, idle", "MB", all_roles / MB, Goal::AtMost(30.0)),
        Row::alone("resident memory, a node alone, idle", "MB", alone / MB, Goal::AtMost(12.0)),
        Row::alone("resident memory of an idle session", "KB", each / KB, Goal::AtMost(200.0)),
        Row::against(
            "  beside the share of sshd's processes",
            "KB",
            each / KB,
            ("sshd", sshd_each / KB),
            Goal::Free,
        ),
    ])
}

/// The memory of `sshd`'s own processes: not of the commands that run in them.
fn sshd_share(server: &Server) -> Result<f64> {
    let is_sshd = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("sshd"))
    };
    let children = server.descendants();
    let shares = children.iter().filter(|pid| is_sshd(pid)).map(|pid| share_of(*pid).unwrap_or(0.0));
    Ok(share_of(server.pid())? + shares.sum::<f64>())
}

/// Connections with a session each whose command does nothing.
async fn open(client: &Client, way: &Way, count: usize) -> Result<Vec<(Connection, Held)>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let connection = client.connect(way).await?;
        let held = connection.hold("exec sleep 600").await?;
        all.push((connection, held));
    }
    Ok(all)
}
