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
    /// Print the manual page, or write those of all commands into a directory
    #[command(hide = true)]
    Man {
        /// Where to
        #[arg(value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
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
            Self::Man { dir } => {
                let made = match dir {
                    Some(dir) => clap_mangen::generate_to(command, dir),
                    None => clap_mangen::Man::new(command).render(&mut std::io::stdout()),
                };
                if let Err(error) = made {
                    return super::finish(Err(anyhow::anyhow!(
                        "the manual pages cannot be written: {error}"
                    )));
                }
            }
            Self::Version => println!("{name} {}", super::VERSION),
        }
        ExitCode::SUCCESS
    }
}
