//! Who a host is: its keys and certificates, kept on disk, shared by its services, renewed in time.
//!
//! [`HostMaterial`] is one consistent set. [`HostIdentityHandle`] is what servers and clients hold: it always gives the newest set, and each
//! new connection uses it. [`IdentityStore`] keeps sets across restarts. [`renew`] replaces them at two thirds of their life.

pub(crate) mod file;
mod material;
mod renew;
mod store;

pub use self::material::{
    HostIdentityHandle, HostMaterial, HostName, IdentityChanges, MaterialError, NotValidNow,
};
pub use self::renew::{Renewal, renew, renew_at};
pub use self::store::{IdentityStore, StoreError};
