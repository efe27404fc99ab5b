//! What OpenSSH asks of an SSH server in its own regression tests, asked of our node by stock programs: directly, and through the proxy.
//!
//! Written by behaviour, one test for what several scripts of theirs ask, and none where a test beside this folder asks it already.
//! `node::` and `hop::` are modules of the tests of `teleport-ssh`.
//!
//! | script of theirs | here |
//! | --- | --- |
//! | cert-userkey | `node::certificates`: every broken and every good certificate at a live node |
//! | cert-hostkey | `openssh::a_node_that_is_not_who_it_should_be_is_refused`, `hop::impostors` |
//! | keytype | `node::certificates`: the kinds of keys that certificates are about; hosts have Ed25519 alone |
//! | exit-status, exit-status-signal | [`streams`], `openssh::exit_codes_and_signals_are_those_of_the_command` |
//! | stderr-data, stderr-after-eof, broken-pipe, yes-head, transfer | [`streams`] |
//! | rekey, integrity, try-ciphers | [`transport`] |
//! | proto-version, proto-mismatch, banner | [`transport`]: of what stands before a greeting, and of what is no greeting of ours; no banner is sent before a login, for nobody asks who is coming; the messages of the day are in `node::greeting` |
//! | login-timeout | `node::hostile::a_stalled_handshake_is_cut` |
//! | connection-timeout, channel-timeout | `node::lifetimes`: roles set one time for the connection, in which sessions count together |
//! | penalty | `node::hostile::a_source_that_fails_again_and_again_must_wait` |
//! | multiplex | [`shared`], `openssh::one_connection_carries_several_sessions`, `foreign::a_hundred_channels_share_one_connection` |
//! | forwarding, forward-control | `forwards`, `node::forwards` (rows C1, C7), `matrix` |
//! | dynamic-forward, proxyjump | [`ways`], `node::forwards::stock_ssh_forwards_from_sockets_and_by_socks`, `openssh::every_way_through_the_proxy_is_quiet_and_exact` |
//! | sftp, sftp-cmds, sftp-batch, sftp-resume, sftp-perm | `sftp`, [`files`] |
//! | sftp-glob, sftp-uri, scp, scp-uri, scp3 | [`files`], `scp`, `sftp::stock_scp_copies_trees_both_ways` |
//! | sftp-badcmds | it is about what the client makes of nonsense that is typed |
//! | sftp-chroot | nodes lock nobody into a directory |
//! | envpass | [`children::g3_what_a_client_sets_reaches_only_what_runs_as_the_login`], `node::sessions::only_harmless_variables_of_the_client_arrive` |
//! | forcecommand | `node::logins::a_forced_command_is_all_that_runs`, `node::commands` |
//! | agent-restrict | our agent has no identities that could be bound to hosts: `a12_nothing_but_logins_is_signed_and_nothing_is_changed` |
//! | ssh-tty | `openssh::a_terminal_has_the_size_of_the_users_and_follows_it`, [`hostile::sizes_of_terminals_that_no_terminal_has`] |
//! | reconfigure | a daemon reads its configuration once; that SIGHUP harms nobody is in `wire::b7_storms_harm_nobody` |
//! | putty-kex, putty-ciphers, putty-transfer | [`putty`] |
//! | dropbear-kex, dropbear-ciphers | [`dropbear`]: it knows no certificates, so it is turned away, and that is what is tested |
//!
//! Beside them: clients that break the rules ([`hostile`]), rows of the list of threats ([`floods`], [`children`]), and what thousands of sessions leave
//! behind ([`leaks`]).

mod children;
mod dropbear;
mod files;
mod floods;
mod hostile;
mod leaks;
mod putty;
mod shared;
mod streams;
mod transport;
mod ways;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, run, run_with};
use crate::support::{bytes, own_login};

/// A cluster with one node, and somebody who may log in there.
pub(crate) struct World {
    pub(crate) home: Home,
    /// Where the node listens.
    pub(crate) node: SocketAddr,
    pub(crate) cluster: TestCluster,
}

impl World {
    fn start() -> Self {
        let cluster = TestCluster::start();
        let node = cluster.add_node("node", "env=test");
        let home = cluster.alice();
        Self { home, node, cluster }
    }

    /// Both ways to the node.
    fn ways(&self) -> [Way; 2] {
        [Way { options: Vec::new(), ..self.direct() }, self.direct()]
    }

    fn through(&self) -> Way {
        let [through, _] = self.ways();
        through
    }

    fn direct(&self) -> Way {
        self.at(self.node)
    }

    /// Directly, where this address leads to the node.
    fn at(&self, node: SocketAddr) -> Way {
        let options = [
            "ProxyJump=none".to_owned(),
            format!("HostName={}", node.ip()),
            format!("Port={}", node.port()),
            format!("HostKeyAlias=node.{CLUSTER}"),
        ];
        Way { config: self.home.ssh_config.clone(), options: options.to_vec() }
    }
}

/// How stock programs reach the node.
#[derive(Debug)]
pub(crate) struct Way {
    config: PathBuf,
    options: Vec<String>,
}

/// The node, as stock programs call it.
fn host() -> String {
    format!("{}@node.{CLUSTER}", own_login())
}

impl Way {
    /// `ssh`, `sftp` or `scp`, as far as its options.
    fn program(&self, name: &str, options: &[&str]) -> Command {
        let mut program = Command::new(name);
        program.arg("-F").arg(&self.config).env_remove("SSH_AUTH_SOCK");
        for option in &self.options {
            program.arg("-o").arg(option);
        }
        program.args(options);
        program
    }

    fn ssh(&self, options: &[&str], command: &str) -> Command {
        let mut ssh = self.program("ssh", options);
        ssh.arg(host()).arg(command);
        ssh
    }

    #[track_caller]
    fn run(&self, options: &[&str], command: &str) -> Output {
        run(self.ssh(options, command))
    }

    #[track_caller]
    fn run_with(&self, options: &[&str], command: &str, input: &[u8]) -> Output {
        run_with(self.ssh(options, command), input)
    }

    /// As a shell starts it, with options; quoted by whoever puts it into a line.
    fn line(&self, options: &str) -> String {
        let own: Vec<String> = self.options.iter().map(|option| format!("-o {option}")).collect();
        format!("ssh -F {} {} {options} {}", self.config.display(), own.join(" "), host())
    }
}

/// Whether a process runs that was started with this among its arguments.
fn runs(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes.filter_map(|process| std::fs::read(process.ok()?.path().join("cmdline")).ok()).any(|line| {
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        arguments.len() > 1 && arguments.contains(&argument.as_bytes())
    })
}
