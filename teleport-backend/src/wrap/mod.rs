//! Backends around other backends.

mod fault;
mod metrics;
mod prefix;

pub use self::fault::{FaultBackend, Faults, InjectedFault};
pub use self::metrics::{BUCKETS, BackendStats, LATENCY_BOUNDS, MetricsBackend, OperationStats};
pub use self::prefix::{KeyTooLong, PrefixBackend};
