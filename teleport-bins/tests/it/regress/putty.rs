//! PuTTY's programs, which know OpenSSH's certificates since 0.78: the user's for the login, and the host's for who the node is.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{World, bytes};
use crate::support::cluster::CLUSTER;
use crate::support::daemon::fixed_port;
use crate::support::program::{Output, own, run, run_with};
use crate::support::{LIMIT, own_login, wait_for};

/// How it connects.
#[derive(Clone, Copy, Debug)]
enum By {
    /// To the node itself.
    Node,
    /// Through the proxy, by `tsh proxy ssh`.
    Proxy,
}

const WAYS: [By; 2] = [By::Node, By::Proxy];

/// A home of PuTTY's: the key with its certificate, and the authority of the cluster's hosts.
struct Putty {
    dir: PathBuf,
    world: World,
}

impl Putty {
    fn start() -> Self {
        let world = World::start();
        let dir = world.cluster.dir().join("putty");
        std::fs::create_dir_all(dir.join("sshhostcas")).unwrap();
        std::fs::create_dir(dir.join("sessions")).unwrap();
        let current = std::fs::read_to_string(world.home.dir.join("current")).unwrap();
        let login = world.home.dir.join(current.trim());
        let mut puttygen = Command::new("puttygen");
        puttygen.arg(login.join("key")).arg("--certificate").arg(login.join("key-cert.pub"));
        puttygen.arg("-o").arg(dir.join("key.ppk"));
        assert_eq!(run(puttygen).code(), 0);
        let known = std::fs::read_to_string(login.join("known_hosts")).unwrap();
        let authority = known.split_whitespace().nth(3).unwrap();
        let authority = format!("PublicKey={authority}\nValidity=*.{CLUSTER}\n");
        std::fs::write(dir.join("sshhostcas/cluster"), authority).unwrap();
        Self { dir, world }
    }

    /// One of its programs, with settings of a saved session. The node must prove to be `name`.
    fn program(&self, program: &str, by: By, name: &str, settings: &str) -> Command {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let session = format!("saved{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let at = match by {
            By::Node => {
                let node = self.world.node;
                format!("HostName={}\nPortNumber={}\nLogHost={name}", node.ip(), node.port())
            }
            By::Proxy => format!("HostName={name}\nPortNumber=3022"),
        };
        let saved = format!("{at}\nProtocol=ssh\nUserName={}\n{settings}\n", own_login());
        std::fs::write(self.dir.join("sessions").join(&session), saved).unwrap();
        let mut command = Command::new(program);
        command.args(["-load", &session, "-batch", "-i"]).arg(self.dir.join("key.ppk"));
        if let By::Proxy = by {
            let (home, tsh) = (self.world.home.dir.display(), own("tsh"));
            let tsh = tsh.get_program().display();
            let way = format!("env TELEPORT_HOME={home} {tsh} proxy ssh node.{CLUSTER}:%port");
            command.args(["-proxycmd", &way]);
        }
        command.env("PUTTYDIR", &self.dir).env("HOME", &self.dir).env_remove("SSH_AUTH_SOCK");
        command
    }

    fn plink(&self, by: By, settings: &str, command: &str, input: &[u8]) -> Output {
        let mut plink = self.program("plink", by, &format!("node.{CLUSTER}"), settings);
        plink.arg("-v").arg(command);
        run_with(plink, input)
    }
}

#[test]
fn putty_logs_in_by_certificate_and_knows_the_node_by_its_own() {
    let putty = Putty::start();
    for by in WAYS {
        let output = putty.plink(by, "", "cat; echo err >&2; exit 7", b"in\n");
        assert_eq!((output.code(), output.out()), (7, "in\n"), "{}", output.stderr);
        let said = &output.stderr;
        assert!(said.contains("Certification authority matches 'cluster'"), "{said}");
        assert!(said.contains("err\n") && said.contains("Enabling strict key exchange"), "{said}");
        for code in [0, 1, 255] {
            assert_eq!(putty.plink(by, "", &format!("exit {code}"), b"").code(), code);
        }
        // What a signal ends has no status; this one has a number of its own for that.
        let killed = putty.plink(by, "", "kill -TERM $$", b"");
        assert!(killed.code() != 0 && killed.stderr.contains("TERM"), "{}", killed.stderr);
        let mut terminal =
            putty.program("plink", by, &format!("node.{CLUSTER}"), "TermWidth=91\nTermHeight=17");
        terminal.args(["-t", "tty; stty size"]);
        let shown = run(terminal);
        assert!(shown.out().starts_with("/dev/pts/"), "{shown:?}");
        // Another name is not believed.
        let mut wrong = putty.program("plink", by, &format!("other.{CLUSTER}"), "");
        wrong.arg("echo reached");
        let wrong = run(wrong);
        assert_eq!((wrong.code(), wrong.out()), (1, ""), "{}", wrong.stderr);
        // Nor is anybody let in with the key alone.
        let bare = putty.dir.join("bare.ppk");
        let mut puttygen = Command::new("puttygen");
        puttygen.arg(putty.dir.join("key.ppk")).args(["--remove-certificate", "-o"]).arg(&bare);
        assert_eq!(run(puttygen).code(), 0);
        let mut plain = putty.program("plink", by, &format!("node.{CLUSTER}"), "");
        plain.arg("-i").arg(&bare).arg("echo reached");
        let plain = run(plain);
        assert_eq!((plain.code(), plain.out()), (1, ""), "{}", plain.stderr);
        assert!(plain.stderr.contains("No supported authentication methods available"), "{}", plain.stderr);
    }
}

/// Each of its ciphers and exchanges of keys that we have too is used; with none in common it is left.
#[test]
fn putty_exchanges_keys_in_every_way_that_is_common() {
    let putty = Putty::start();
    let content = bytes(1 << 20);
    for by in WAYS {
        for (cipher, said) in [("aes", "AES-256 SDCTR"), ("chacha20", "ChaCha20"), ("aesgcm", "GCM")] {
            // New keys each hundred thousand bytes, on its own wish.
            let settings = format!("Cipher={cipher},WARN\nKEX=ecdh,WARN\nRekeyBytes=100K");
            let output = putty.plink(by, &settings, "cat; exit 5", &content);
            assert_eq!(output.code(), 5, "{cipher}: {}", output.stderr);
            assert!(output.stdout == content, "{cipher}");
            let exchanges = output.stderr.matches("Initiating key re-exchange").count();
            assert!(exchanges >= 3 && output.stderr.contains(said), "{cipher}: {}", output.stderr);
        }
        // What is behind `WARN` is taken by nobody who cannot be asked.
        let others = "dh-group14-sha1,dh-gex-sha1,dh-group1-sha1,rsa,ntru-curve25519";
        for settings in ["Cipher=blowfish,WARN", &format!("KEX={others},WARN,ecdh")] {
            let output = putty.plink(by, settings, "echo reached", b"");
            assert_eq!((output.code(), output.out()), (1, ""), "{settings}: {}", output.stderr);
        }
        // Its keepalives are small talk: the session goes on.
        let awake = putty.plink(by, "PingInterval=0\nPingIntervalSecs=1", "sleep 3; echo awake; exit 6", b"");
        assert_eq!((awake.code(), awake.out()), (6, "awake\n"), "{}", awake.stderr);
    }
}

#[test]
fn putty_copies_files_both_ways() {
    let putty = Putty::start();
    let name = format!("node.{CLUSTER}");
    let dir = putty.world.cluster.dir();
    let content = bytes(10 << 20);
    let (file, there, back) = (dir.join("file"), dir.join("there"), dir.join("back"));
    std::fs::write(&file, &content).unwrap();
    let fresh = || {
        for path in [&there, &back] {
            let _ = std::fs::remove_file(path);
        }
    };
    for by in WAYS {
        for protocol in ["-sftp", "-scp"] {
            fresh();
            // The name of the saved session gives way to the one in here.
            let host = if matches!(by, By::Node) { "127.0.0.1" } else { &name };
            let remote = format!("{}@{host}:{}", own_login(), there.display());
            for (from, to) in [(file.to_str().unwrap(), remote.as_str()), (&remote, back.to_str().unwrap())] {
                let mut pscp = putty.program("pscp", by, &name, "");
                pscp.args([protocol, "-q", from, to]);
                let done = run(pscp);
                assert_eq!(done.code(), 0, "{by:?} {protocol} {done:?}");
            }
            assert!(std::fs::read(&back).unwrap() == content, "{by:?} {protocol}");
        }
        fresh();
        let commands = dir.join("commands");
        let list = format!(
            "put {0} {1}\nmkdir {2}/made\nmv {1} {2}/made/moved\nls {2}/made\nchmod 640 {2}/made/moved\nget {2}/made/moved {3}\n\
             rm {2}/made/moved\nrmdir {2}/made\nquit\n",
            file.display(),
            there.display(),
            dir.display(),
            back.display()
        );
        std::fs::write(&commands, list).unwrap();
        let mut psftp = putty.program("psftp", by, &name, "");
        psftp.arg("-b").arg(&commands);
        let done = run(psftp);
        assert!(done.code() == 0 && done.out().contains(" moved"), "{done:?}");
        assert!(std::fs::read(&back).unwrap() == content && !dir.join("made").exists());
    }
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn putty_forwards_ports_both_ways() {
    let putty = Putty::start();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap();
    for by in WAYS {
        let (here, there) = (fixed_port(), fixed_port());
        let mut plink = putty.program("plink", by, &format!("node.{CLUSTER}"), "");
        plink.args(["-N", "-L", &format!("{here}:{target}"), "-R", &format!("{there}:{target}")]);
        plink.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let _plink = Running(plink.spawn().unwrap());
        for port in [here, there] {
            for _ in 0..3 {
                // Ours listens before the other end does.
                let mut near = wait_for("the port", || TcpStream::connect(("127.0.0.1", port)).ok());
                let mut far = server.accept().unwrap().0;
                for stream in [&near, &far] {
                    stream.set_read_timeout(Some(LIMIT)).unwrap();
                }
                near.write_all(b"hello").unwrap();
                let mut word = [0; 5];
                far.read_exact(&mut word).unwrap();
                far.write_all(&word).unwrap();
                drop(far);
                let mut rest = Vec::new();
                near.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"hello");
            }
        }
    }
}
