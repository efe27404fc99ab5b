//! The commands that every program has.

use std::process::ExitCode;

use clap::{CommandFactory, Subcommand};

/// The commands of a program: its own and the common ones. A program's own are matched without the common ones among them.
#[derive(Debug, Subcommand)]
pub(super) enum Commands<Own: Subcommand> {
    #[command(flatten)]
    Own(Own),
    #[command(flatten)]
    Common(Common),
}

/// What every program can do, without a configuration or a cluster.
#[derive(Debug, Subcommand)]
pub(super) enum Common {
    /// Print completions for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

impl Common {
    /// Does it for the program whose command line is `Cli`.
    pub(super) fn run<Cli: CommandFactory>(self) -> ExitCode {
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        match self {
            Self::Completion { shell } => {
                clap_complete::generate(shell, &mut command, name, &mut std::io::stdout());
            }
            Self::Version => println!("{name} {}", super::VERSION),
        }
        ExitCode::SUCCESS
    }
}
