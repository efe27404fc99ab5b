//! Whether the other end of a tunnel is there.
//!
//! A network that is cut says nothing. Whoever asks and is not answered soon makes another tunnel; but the old one is kept for a while,
//! because a busy machine looks the same, and sessions run there.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::watch;

/// How often a node asks.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take before the tunnel is not relied on any more.
pub(super) const SOON: Duration = Duration::from_secs(3);
/// How long it may take before the tunnel is given up.
const AT_ALL: Duration = Duration::from_secs(60);

/// What is known of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The other side answers.
    Good,
    /// It did not answer soon.
    Doubtful,
}

/// Asks again and again, and tells what it learns. Resolves when the tunnel is to be given up. Cancel safe.
pub(super) async fn watch(mut pings: PingPong, health: &watch::Sender<Health>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let mut pong = std::pin::pin!(pings.ping(Ping::opaque()));
        let mut answer = tokio::time::timeout(SOON, &mut pong).await;
        if answer.is_err() {
            health.send_replace(Health::Doubtful);
            answer = tokio::time::timeout(AT_ALL, &mut pong).await;
        }
        match answer {
            Ok(Ok(_)) => health.send_if_modified(|was| std::mem::replace(was, Health::Good) != Health::Good),
            Ok(Err(_)) | Err(_) => return,
        };
    }
}
