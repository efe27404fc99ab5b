//! A process with some of the nodes: each of them is a file that it has open, of which it may have so many.
//!
//! It is told what to do by a line, and answers with one.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use teleport_core::cert::CaPin;
use teleport_core::id::HostId;

use super::node::{Fleet, join_proxy};

/// What such a process is told at first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Order {
    /// The auth services, which the nodes divide among themselves.
    pub auths: Vec<SocketAddr>,
    /// Whom to trust at first.
    pub pin: CaPin,
    /// How many nodes.
    pub count: usize,
    /// The number of the first.
    pub first: usize,
    /// How many such processes there are.
    pub groups: usize,
}

impl Order {
    /// From the words of the command line, in the order of the fields.
    ///
    /// # Errors
    /// When they are others.
    pub fn parse(words: &[String]) -> Result<Self> {
        let [auths, pin, count, first, groups] = words else { bail!("five words") };
        Ok(Self {
            auths: auths.split(',').map(str::parse).collect::<Result<_, _>>()?,
            pin: pin.parse()?,
            count: count.parse()?,
            first: first.parse()?,
            groups: groups.parse()?,
        })
    }

    fn words(&self) -> [String; 5] {
        let Self { auths, pin, count, first, groups } = self;
        let auths = auths.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        [auths, pin.to_string(), count.to_string(), first.to_string(), groups.to_string()]
    }
}

/// Such a process, from outside. It ends with the value.
pub(super) struct Group {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Group {
    /// Starts it. Its nodes become members.
    pub(super) fn start(order: &Order) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--group").args(order.words()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a process with nodes")?;
        let orders = child.stdin.take().context("stdin is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        Ok(Self { child, orders, answers })
    }

    /// What the process answers.
    pub(super) fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => bail!("a process with nodes has ended"),
        }
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}")?;
        self.hear()
    }

    /// The nodes begin.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.ask("begin").map(drop)
    }

    /// How long each sign of life took since the last time that it was asked for, in seconds.
    pub(super) fn latencies(&mut self) -> Result<Vec<f64>> {
        self.ask("latencies")?.split_ascii_whitespace().map(|word| Ok(word.parse()?)).collect()
    }

    /// Remembers what the nodes of the first auth service know now. How many those are.
    pub(super) fn remember(&mut self) -> Result<usize> {
        Ok(self.ask("remember")?.parse()?)
    }

    /// How many of them have been told again since then, and are followed.
    pub(super) fn told(&mut self) -> Result<usize> {
        Ok(self.ask("told")?.parse()?)
    }

    /// A node says something new of itself: a version that is `number`.
    pub(super) fn rename(&mut self, number: usize) -> Result<HostId> {
        Ok(self.ask(&format!("rename {number}"))?.parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what it is told until nobody tells it anything more.
///
/// # Errors
/// What fails.
pub async fn obey(order: Order) -> Result<()> {
    let Order { auths, pin, count, first, groups } = order;
    let entrance = auths.first().context("an auth service")?;
    let (api, ..) = join_proxy(*entrance, pin).await?;
    let fleet = Fleet::join(count, first, &api).await?;
    drop(api);
    answer("joined");
    let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // Nobody may want it any more.
            let _ = sender.send(line);
        }
    });
    orders.recv().await.context("an order")?;
    let mut nodes = fleet.begin(&auths, first, groups);
    answer("begun");
    let mut known = Vec::new();
    while let Some(order) = orders.recv().await {
        answer(&match order.split_once(' ').unwrap_or((&order, "")) {
            ("latencies", _) => nodes.latencies().iter().map(|took| format!("{took:.6} ")).collect(),
            ("remember", _) => {
                known = nodes.known(auths.len());
                known.len().to_string()
            }
            ("told", _) => nodes.told_since(&known, auths.len()).to_string(),
            ("rename", number) => nodes.rename(number.parse()?)?.to_string(),
            _ => bail!("an order that is not known: {order}"),
        });
    }
    Ok(())
}

fn answer(line: &str) {
    println!("{line}");
}
