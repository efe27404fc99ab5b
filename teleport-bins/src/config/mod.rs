//! The configuration file and the settings that follow from it and from the command line.

mod audit;
mod duration;
pub mod file;
mod https;
mod loopback;
mod proxy;
mod proxy_protocol;
mod sample;
mod settings;
mod size;
pub(crate) mod yaml;

pub use self::audit::{AuditSettings, ForwardTo};
pub use self::duration::{format_duration, parse_duration};
pub use self::file::{ConfigError, FileConfig, load, parse};
pub use self::https::Https;
pub use self::proxy::ProxySettings;
pub use self::sample::sample;
pub use self::settings::{
    AuthSettings, NodeSettings, Overrides, RecordingPlace, Settings, THIS_PROGRAM, default_data_dir,
};
pub(crate) use self::settings::{host_name, read_secret, with_port, without_port};
pub use self::size::Size;
