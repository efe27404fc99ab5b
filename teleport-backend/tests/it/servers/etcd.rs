//! A cluster of etcd with one member.

use std::process::{Command, Output};

use super::{Authority, Process, answers, free_port, mortal};

#[derive(Debug)]
pub(crate) struct Etcd {
    process: Option<Process>,
    directory: tempfile::TempDir,
    pub(crate) port: u16,
    listens: &'static str,
    options: Vec<String>,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        Self::start_with("127.0.0.1", Vec::new()).await
    }

    /// For whoever reaches this host.
    pub(crate) async fn start_for_all() -> Self {
        Self::start_with("0.0.0.0", Vec::new()).await
    }

    /// With TLS, for clients with a certificate.
    pub(crate) async fn start_tls(authority: &Authority) -> Self {
        let option = |name: &str, file: &str| format!("--{name}={}", authority.path(file).display());
        let files = [option("cert-file", "server.pem"), option("key-file", "server.key")];
        let clients = ["--client-cert-auth".to_owned(), option("trusted-ca-file", "ca.pem")];
        Self::start_with("127.0.0.1", files.into_iter().chain(clients).collect()).await
    }

    async fn start_with(listens: &'static str, options: Vec<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut etcd = Self { process: None, directory, port: 0, listens, options };
        // The port is free now; should another program take it meanwhile, the server says so and another one is tried.
        for _ in 0..5 {
            etcd.port = free_port();
            if etcd.run().await {
                return etcd;
            }
        }
        panic!("etcd does not start");
    }

    async fn run(&mut self) -> bool {
        let mut command = mortal("etcd", "KILL");
        let scheme = if self.options.is_empty() { "http" } else { "https" };
        let client = format!("{scheme}://127.0.0.1:{}", self.port);
        let listens = format!("{scheme}://{}:{}", self.listens, self.port);
        let peer = format!("http://127.0.0.1:{}", free_port());
        command.arg("--data-dir").arg(self.directory.path().join("data"));
        command.args(["--name", "test", "--log-level", "error"]);
        command.args(["--listen-client-urls", &listens, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer]).args(&self.options);
        command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"));
        let mut process = Process::start(&mut command, "etcd-server");
        let port = self.port;
        let is_up = process.until(async || answers(port).await).await;
        self.process = is_up.then_some(process);
        is_up
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// On the same data and the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        for _ in 0..50 {
            if self.run().await {
                return;
            }
        }
        panic!("etcd does not start again on port {}", self.port);
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("127.0.0.1:{}", self.port)])
            .args(arguments)
            .output()
            .expect("etcdctl: install etcd-client, or run .ci/test, which does");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }
}
