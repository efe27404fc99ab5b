//! The operating system below an SSH node: accounts, environments, pseudo-terminals, processes.
//!
//! This is the only place of the project with `unsafe` code. Everything here is mechanism: whether a user
//! may log in as `root` was decided before anything in this module is called.
//!
//! ```text
//! accounts::resolve(login)      -> Account      ids, groups, home, shell: plain data, read before any fork
//! environment::Environment      <- Account + what the client may set
//! Pty::open(&account, request)  -> Pty          owned by the account, mode 0620
//! Command::login_shell(..).spawn_pty(pty)       -> (Child, PtyMaster)
//! Command::shell_command(..).spawn_piped()      -> Piped { child, stdin, stdout, stderr }
//! Child::wait / signal_group / terminate        -> Exit
//! ```
//!
//! Linux 5.9 or newer is needed to start processes (`close_range`, pidfds); the parts that only compute
//! ([`environment`], [`modes`], [`signal`]) work everywhere.
#![allow(
    unsafe_code,
    reason = "system calls that neither std nor nix offer; each block says why it is sound"
)]

#[cfg(target_os = "linux")]
pub mod accounts;
#[cfg(target_os = "linux")]
pub mod child;
pub mod environment;
pub mod host;
#[cfg(target_os = "linux")]
pub(crate) mod ids;
pub mod limits;
#[cfg(target_os = "linux")]
pub mod login_records;
pub mod modes;
#[cfg(target_os = "linux")]
pub(crate) mod owner;
#[cfg(target_os = "linux")]
pub(crate) mod pam;
#[cfg(target_os = "linux")]
pub(crate) mod pass;
#[cfg(target_os = "linux")]
pub mod pty;
#[cfg(target_os = "linux")]
mod reaper;
pub mod signal;
#[cfg(target_os = "linux")]
pub mod spawn;
pub(crate) mod time;
