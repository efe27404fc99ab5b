//! Who was let in to the proxy, and how long that holds.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use teleport_core::access::Unwelcome;
use teleport_core::cert::{PublicKey, UserIdentity};
use teleport_core::resource::NodeRecord;

use super::server::Shared;

/// How long a node has to tell the user why the session ends, in its own words and through the proxy.
const NODES_WORDS: Duration = Duration::from_millis(500);

/// A user who was let in, and the authority whose word that was.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) identity: UserIdentity,
    pub(super) authority: PublicKey,
}

impl Shared {
    /// Resolves when the visitor would not be let in any more, or not led to `node`. Cancel safe.
    pub(super) async fn unwelcome(&self, visitor: &Visitor, node: Option<&NodeRecord>) -> Unwelcome {
        let Visitor { identity, authority } = visitor;
        let mut changes = self.access.changes();
        loop {
            // Without a view what was begun goes on.
            if let Ok(view) = self.access.usable() {
                let now = self.clock.now();
                let kept = match node {
                    Some(node) => view.keep_at(identity, authority, node, now),
                    None => view.keep(identity, authority, now),
                };
                if let Err(why) = kept {
                    return why;
                }
            }
            changes.next().await;
        }
    }

    /// Passes bytes between a visitor and a node until `splice` ends, or until the visitor may not be there any more.
    ///
    /// # Errors
    /// Why the visitor may not be there; the node had its time to end it.
    pub(super) async fn while_welcome<T>(
        &self,
        visitor: &Visitor,
        node: &NodeRecord,
        splice: impl Future<Output = T>,
    ) -> Result<T, Unwelcome> {
        let mut splice = pin!(splice);
        let why = tokio::select! {
            ended = &mut splice => return Ok(ended),
            why = self.unwelcome(visitor, Some(node)) => why,
        };
        tokio::time::timeout(NODES_WORDS, splice).await.map_err(|_| why)
    }
}
