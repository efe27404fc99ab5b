//! Prints the table of comparisons.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use teleport_benches::{
    Scale, bulk, certificates, events, files, forwards, guessing, memory, nodes, reissue, report, sessions,
    start, storage, stores, tunnels,
};

#[derive(Debug, Parser)]
#[command(about = "Measured comparisons against OpenSSH and raw primitives")]
struct Cli {
    /// What to measure
    #[arg(value_enum, default_values = ["all"])]
    benches: Vec<Bench>,
    /// Seconds only, to show that everything runs; the figures mean nothing
    #[arg(long)]
    smoke: bool,
    /// How many nodes, for `nodes` and `tunnels`
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    nodes: Vec<usize>,
    /// Where the state is, for `nodes`
    #[arg(long, value_enum, value_delimiter = ',', default_value = "redb")]
    stores: Vec<nodes::Store>,
    /// How many seconds the steady state of `nodes` is looked at
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    window: u64,
    /// What a process with tunnels is told
    #[arg(long, num_args = 5, hide = true)]
    fleet: Vec<String>,
    /// What a process with nodes is told
    #[arg(long, num_args = 5, hide = true)]
    group: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Bench {
    /// Everything
    All,
    /// User certificates in process
    Certificates,
    /// User certificates over the API
    Reissue,
    /// Sessions a second
    Sessions,
    /// One session at a time with the stock client and with `tsh`, and keystrokes
    Latency,
    /// Ten thousand bad logins a minute
    Guessing,
    /// Bytes a second
    Bulk,
    /// Files a second, and bytes of large ones
    Files,
    /// Forwarded connections, many at a time and one as fast as it goes
    Forwards,
    /// Resident memory
    Memory,
    /// Many nodes at one auth service
    Nodes,
    /// Start to ready
    Start,
    /// The size of the program
    Size,
    /// What recordings cost
    Storage,
    /// Drivers of storage beside what they are made of
    Stores,
    /// What the index of the audit log costs, and searches in it
    Events,
    /// Nodes behind tunnels beside those that listen
    Tunnels,
}

async fn run(bench: Bench, cli: &Cli) -> Result<Vec<report::Row>> {
    let scale = Scale { smoke: cli.smoke };
    match bench {
        Bench::All => Ok(Vec::new()),
        Bench::Bulk => bulk::run(scale).await,
        Bench::Certificates => certificates::run(scale).await,
        Bench::Events => events::run(scale).await,
        Bench::Files => files::run(scale).await,
        Bench::Forwards => forwards::run(scale).await,
        Bench::Guessing => guessing::run(scale).await,
        Bench::Latency => sessions::latency(scale).await,
        Bench::Memory => memory::run(scale).await,
        Bench::Nodes => {
            nodes::run(scale, &cli.nodes, &cli.stores, std::time::Duration::from_secs(cli.window)).await
        }
        Bench::Reissue => reissue::run(scale).await,
        Bench::Sessions => sessions::rates(scale).await,
        Bench::Size => start::size(),
        Bench::Start => start::run(scale),
        Bench::Storage => storage::run(scale).await,
        Bench::Stores => stores::run(scale).await,
        Bench::Tunnels => tunnels::run(scale, &cli.nodes).await,
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // For all servers and clients that are started here as well.
    teleport_ssh::sys::limits::raise_nofile_limit()?;
    let cli = Cli::parse();
    if !cli.fleet.is_empty() {
        tunnels::live(tunnels::Order::parse(&cli.fleet)?).await?;
    }
    if !cli.group.is_empty() {
        nodes::obey(nodes::Order::parse(&cli.group)?).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let all = cli.benches.contains(&Bench::All);
    let chosen = |bench: &Bench| *bench != Bench::All && (all || cli.benches.contains(bench));
    println!("{}", report::head());
    let mut failed = false;
    for bench in Bench::value_variants().iter().copied().filter(chosen) {
        match run(bench, &cli).await {
            Ok(rows) => rows.iter().for_each(|row| println!("{row}")),
            Err(error) => {
                eprintln!("{bench:?}: {error:#}");
                failed = true;
            }
        }
    }
    // A goal that is not met is told in the table and is no failure of the benches.
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
