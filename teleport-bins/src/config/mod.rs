//! The configuration file and the settings that follow from it and from the command line.

mod addresses;
mod audit;
mod auth;
mod duration;
pub mod file;
mod https;
mod loopback;
mod node;
mod proxy;
mod proxy_protocol;
mod sample;
mod settings;
mod size;
pub(crate) mod yaml;

pub(crate) use self::addresses::{with_port, without_port};
pub use self::audit::{AuditSettings, ForwardTo};
pub use self::auth::{AuthSettings, RecordingPlace};
pub use self::duration::{format_duration, parse_duration};
pub use self::file::{ConfigError, FileConfig, load, parse};
pub use self::https::Https;
pub use self::node::{NodeSettings, THIS_PROGRAM};
pub use self::proxy::ProxySettings;
pub use self::sample::sample;
pub use self::settings::{Overrides, Settings, default_data_dir};
pub(crate) use self::settings::{host_name, read_secret};
pub use self::size::Size;
