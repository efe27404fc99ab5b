//! Processes, terminals and accounts: real ones.

mod adversary;
mod oracle;
mod process;
mod quantity;
mod support;
mod terminal;
