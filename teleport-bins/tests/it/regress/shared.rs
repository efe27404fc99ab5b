//! Many programs over one connection of `ssh`.

use std::process::Stdio;

use super::{World, bytes, host};
use crate::support::program::{run, run_with};

#[test]
fn programs_of_every_kind_share_a_connection() {
    let world = World::start();
    let dir = world.cluster.dir();
    let content = bytes(1_000_000);
    let file = dir.join("content");
    std::fs::write(&file, &content).unwrap();
    for (number, way) in world.ways().iter().enumerate() {
        let socket = dir.join(format!("mux-{number}"));
        let control = format!("-oControlPath={}", socket.display());
        let mut master = way.program("ssh", &[&control, "-oControlMaster=yes", "-oSendEnv=LC_TEST", "-fN"]);
        master.arg(host()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(master.status().unwrap().success());
        let told = |what: &str| {
            let mut ssh = way.program("ssh", &[&control, "-O", what]);
            ssh.arg(host());
            run(ssh)
        };
        assert_eq!(told("check").code(), 0);
        // Without the socket there would be no way at all.
        let shared = [control.as_str(), "-oControlMaster=no", "-oProxyCommand=false"];
        let output = way.run_with(&shared, "cat; echo err >&2; exit 5", &content);
        assert_eq!((output.code(), output.stderr.as_str()), (5, "err\n"));
        assert!(output.stdout == content);
        let mut language = way.ssh(&[&shared[..], &["-oSendEnv=LC_TEST"]].concat(), "echo $LC_TEST");
        language.env("LC_TEST", "shared");
        assert_eq!(run(language).out(), "shared\n");
        let terminal = way.run(&[&shared[..], &["-tt"]].concat(), "tty");
        assert!(terminal.out().starts_with("/dev/pts/"), "{terminal:?}");
        let (there, back) = (dir.join("there"), dir.join("back"));
        let mut sftp = way.program("sftp", &[&shared[..], &["-q", "-b", "-"]].concat());
        sftp.arg(host());
        let commands = format!("put {0} {1}\nget {1} {2}\n", file.display(), there.display(), back.display());
        assert_eq!(run_with(sftp, commands.as_bytes()).code(), 0);
        assert!(std::fs::read(&back).unwrap() == content);
        for older in ["-O", "-s"] {
            let mut scp = way.program("scp", &[&shared[..], &["-q", older]].concat());
            scp.arg(format!("{}:{}", host(), there.display())).arg(&back);
            run(scp).clean();
            assert!(std::fs::read(&back).unwrap() == content);
        }
        // No one more; those that are there go on.
        let mut last = way.ssh(&shared, "echo up; cat; exit 6");
        last.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut last = last.spawn().unwrap();
        let mut up = [0; 3];
        std::io::Read::read_exact(last.stdout.as_mut().unwrap(), &mut up).unwrap();
        assert_eq!(told("stop").code(), 0);
        assert_eq!(way.run(&shared, "echo reached").out(), "");
        drop(last.stdin.take());
        assert_eq!(last.wait().unwrap().code(), Some(6));
    }
}
