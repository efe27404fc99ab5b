//! An authority that speaks ACME: the real `pebble`, with a DNS of its own in which every name leads to loopback.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::daemon::fixed_port;
use super::program::run;
use super::wait_for;
use crate::servers::mortal;

/// Where it is, and where it looks whether names lead there.
pub(crate) struct Plan {
    pub(crate) port: u16,
    /// For TLS-ALPN-01.
    pub(crate) tls_port: u16,
    /// For HTTP-01.
    pub(crate) http_port: u16,
    /// The id and the key of an account that each of ACME must belong to.
    pub(crate) external: Option<(&'static str, &'static str)>,
}

impl Plan {
    pub(crate) fn new() -> Self {
        let [port, tls_port, http_port] = [(); 3].map(|()| fixed_port());
        Self { port, tls_port, http_port, external: None }
    }
}

/// An authority that runs. It is ended with the value, and then it has forgotten everything.
pub(crate) struct Pebble {
    programs: Vec<Child>,
    management: u16,
    port: u16,
    dir: TempDir,
}

impl Pebble {
    pub(crate) fn start(plan: &Plan) -> Self {
        Self::start_with(plan, &[])
    }

    /// With variables of its environment.
    pub(crate) fn start_with(plan: &Plan, variables: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("pebble-").unwrap();
        let path = |name: &str| dir.path().join(name);
        self_signed(&path("key.pem"), &path("ca.pem"), "IP:127.0.0.1");
        let [management, dns, dns_management] = [(); 3].map(|()| fixed_port());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", plan.port),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("ca.pem"),
            "privateKey": path("key.pem"),
            "httpPort": plan.http_port,
            "tlsPort": plan.tls_port,
            // As public ones have it: ninety days.
            "certificateValidityPeriod": 90 * 24 * 3600,
            "externalAccountBindingRequired": plan.external.is_some(),
            "externalAccountMACKeys": plan.external.into_iter().collect::<BTreeMap<_, _>>(),
        }});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let log = File::create(path("log")).unwrap();
        let spawn = |command: &mut Command| {
            let child = command
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log.try_clone().unwrap());
            child.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; .ci/test installs it"))
        };
        let mut names = mortal("pebble-challtestsrv", "KILL");
        names.args(["-http01=", "-https01=", "-tlsalpn01=", "-defaultIPv6="]);
        names.args([format!("-dns01=127.0.0.1:{dns}"), format!("-management=127.0.0.1:{dns_management}")]);
        let mut pebble = mortal("pebble", "KILL");
        pebble.arg("-config").arg(path("pebble.json")).arg(format!("-dnsserver=127.0.0.1:{dns}"));
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0").env("PEBBLE_AUTHZREUSE", "0");
        pebble.envs(variables.iter().copied());
        let programs = vec![spawn(&mut names), spawn(&mut pebble)];
        let pebble = Self { programs, management, port: plan.port, dir };
        for port in [dns, plan.port, management] {
            wait_for("pebble", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        }
        pebble
    }

    /// Who vouches for its directory.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// How many orders it was given.
    pub(crate) fn orders(&self) -> usize {
        self.log().matches("Added order \"").count()
    }

    /// Whom its certificates lead to, in a file.
    pub(crate) fn root(&self) -> PathBuf {
        let script = "import ssl, sys, urllib.request\n\
                      context = ssl._create_unverified_context()\n\
                      sys.stdout.write(urllib.request.urlopen(sys.argv[1], context=context).read().decode())\n";
        let mut command = Command::new("python3");
        command.args(["-c", script, &format!("https://127.0.0.1:{}/roots/0", self.management)]);
        let path = self.dir.path().join("root.pem");
        std::fs::write(&path, run(command).clean()).unwrap();
        path
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
        if std::thread::panicking() {
            eprintln!("pebble:\n{}", self.log());
        }
    }
}

/// A certificate that vouches for itself, for twenty years.
pub(crate) fn self_signed(key: &Path, certificate: &Path, names: &str) {
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "7300",
    ]);
    command.args(["-subj", "/CN=test", "-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-addext").arg(format!("subjectAltName={names}"));
    command.arg("-keyout").arg(key).arg("-out").arg(certificate);
    let output = run(command);
    assert_eq!(output.code(), 0, "{output:?}");
}

/// What `openssl` is shown at a port of loopback when it asks for `name`: the certificate, or nothing.
pub(crate) fn shown(port: u16, name: &str, more: &[&str]) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", name]).args(more);
    let output = run(command);
    let text = output.out();
    let begin = text.find("-----BEGIN CERTIFICATE-----")?;
    let end = text.find("-----END CERTIFICATE-----")?;
    text.get(begin..end).map(str::to_owned)
}

/// Whether what is shown for `name` is a certificate for it by this authority, as `openssl` sees it.
pub(crate) fn verified(port: u16, name: &str, root: &Path) -> bool {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", name]);
    command.args(["-verify_return_error", "-verify_hostname", name, "-CAfile"]).arg(root);
    run(command).out().contains("Verification: OK")
}
