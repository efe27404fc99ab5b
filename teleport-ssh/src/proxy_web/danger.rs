//! Trust without a reason.

use super::WebTrust;
use super::client::Reason;

/// Believes that any server is the cluster's, as long as it is consistent in itself. **Whoever controls the network can be that server**
/// and reads passwords, codes and tokens. For first steps on one machine.
pub const fn unverified() -> WebTrust {
    WebTrust(Reason::Unverified)
}
