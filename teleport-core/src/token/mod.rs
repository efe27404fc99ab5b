//! Join tokens: their secrets, of which only hashes are kept, and the decision whether a host may join.
//!
//! Everything here is pure. Tokens for hosts and invites for users are distinct types in distinct keyspaces: the secret of
//! one is nothing to the other, even if somebody sets both to the same text.

mod admit;
mod configured;
mod hash;
mod record;
mod secret;
#[cfg(test)]
mod tests;

pub use self::admit::{Admission, JoinClaim, JoinDenied, MAX_ADDRESSES, admit, is_address};
pub use self::configured::{InvalidStaticToken, StaticToken, StaticTokenSource, StaticTokenSpec};
pub use self::hash::{ForInvite, ForJoin, TokenHash, TokenUse};
pub use self::record::{TOKEN_MEMORY, TokenRecord};
#[cfg(feature = "auth")]
pub(crate) use self::secret::random_id;
pub use self::secret::{InvalidSecret, MAX_SECRET_LEN, MIN_SECRET_LEN, check_secret, random_secret};
