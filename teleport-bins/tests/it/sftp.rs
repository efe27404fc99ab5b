//! Files over SSH: stock `sftp` and `scp` at a node, and clients that do not keep to the protocol at the server itself.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use teleport_core::audit::EventKind;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run, run_with};
use crate::support::{bytes, own_login};

fn node() -> String {
    format!("{}@node.{CLUSTER}", own_login())
}

/// Stock `sftp` with these commands.
fn sftp(home: &Home, commands: &str) -> Output {
    let mut sftp = Command::new("sftp");
    sftp.arg("-q").arg("-F").arg(&home.ssh_config).args(["-b", "-"]).arg(node()).env_remove("SSH_AUTH_SOCK");
    run_with(sftp, commands.as_bytes())
}

fn scp(home: &Home, arguments: &[&str]) -> Output {
    let mut scp = Command::new("scp");
    scp.arg("-q").arg("-F").arg(&home.ssh_config).args(arguments).env_remove("SSH_AUTH_SOCK");
    run(scp)
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

#[test]
fn stock_sftp_does_at_a_node_what_it_does_at_sshd() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&there).unwrap();
    let content = bytes(3 << 20);
    std::fs::write(here.join("file"), &content).unwrap();
    std::fs::set_permissions(here.join("file"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::write(here.join("empty"), "").unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff name");
    std::fs::write(there.join(odd), "odd").unwrap();

    let done = sftp(
        &home,
        &format!(
            "cd {there}\nlcd {here}\nput -p file\nput empty\nmkdir dir\nchmod 700 dir\nrename file dir/renamed\n\
             ln dir/renamed hard\nln -s dir/renamed soft\ncp dir/renamed copy\nchmod 4711 copy\nget hard back\nget empty nothing\n\
             df\nls -la\nls -1 odd*\nget odd* odd\nrm empty\nmkdir gone\nrmdir gone\npwd\n",
            there = there.display(),
            here = here.display(),
        ),
    );
    assert_eq!(done.code(), 0, "{done:?}");
    assert_eq!(std::fs::read(there.join("dir/renamed")).unwrap(), content);
    assert_eq!(std::fs::read(there.join("copy")).unwrap(), content);
    assert_eq!(std::fs::read(here.join("back")).unwrap(), content);
    assert_eq!(std::fs::read(here.join("nothing")).unwrap(), b"");
    assert_eq!(std::fs::read(here.join("odd")).unwrap(), b"odd");
    assert_eq!((mode(&there.join("hard")), mode(&there.join("dir"))), (0o640, 0o700));
    assert_eq!(mode(&there.join("copy")), 0o4711);
    assert_eq!(there.join("soft").read_link().unwrap(), Path::new("dir/renamed"));
    assert_eq!(there.join("hard").metadata().unwrap().nlink(), 2);
    assert!(!there.join("empty").exists() && !there.join("gone").exists());
    let listed = String::from_utf8_lossy(&done.stdout).into_owned();
    for shown in [" hard\n", " soft\n", " ..\n", "drwx------ ", "-rws--x--x ", "lrwxrwxrwx "] {
        assert!(listed.contains(shown), "{shown:?} in {listed}");
    }
    // Times are kept where that is asked for.
    let (sent, kept) = (here.join("file").metadata().unwrap(), there.join("hard").metadata().unwrap());
    assert_eq!(sent.mtime(), kept.mtime());

    // What was cut short is resumed.
    std::fs::write(there.join("part"), &content[..1_000_000]).unwrap();
    std::fs::write(here.join("part"), &content[..2_000_000]).unwrap();
    let resumed = sftp(
        &home,
        &format!("reput {0}/file {1}/part\nreget {1}/hard {0}/part\n", here.display(), there.display()),
    );
    assert_eq!(resumed.code(), 0, "{resumed:?}");
    assert_eq!(std::fs::read(there.join("part")).unwrap(), content);
    assert_eq!(std::fs::read(here.join("part")).unwrap(), content);

    // What fails says why, and leaves everything as it was.
    for (command, says) in [
        (format!("get {}/none {}", there.display(), here.display()), "not found"),
        (format!("mkdir {}/dir", there.display()), "Failure"),
        (format!("rmdir {}/dir", there.display()), "Failure"),
        (format!("ln {0}/none {0}/other", there.display()), "No such file"),
        (format!("rename -l {0}/hard {0}/copy", there.display()), "Failure"),
        ("get /proc/self/no-such".to_owned(), "not found"),
    ] {
        let failed = sftp(&home, &format!("{command}\n"));
        assert_eq!(failed.code(), 1, "{command}: {failed:?}");
        assert!(failed.stderr.contains(says), "{command}: {failed:?}");
    }
    assert_eq!(std::fs::read(there.join("copy")).unwrap(), content);
}

#[test]
fn stock_scp_copies_trees_both_ways() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for number in 0..20 {
        let deep = tree.join(format!("dir {number}/deeper"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), bytes(number * 10_007)).unwrap();
    }
    std::fs::set_permissions(tree.join("dir 3"), PermissionsExt::from_mode(0o711)).unwrap();
    let remote = |path: &Path| format!("{}:{}", node(), path.display());
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    scp(&home, &["-rp", tree.to_str().unwrap(), &remote(&there)]).clean();
    scp(&home, &["-rp", &remote(&there), back.to_str().unwrap()]).clean();
    let mut compare = Command::new("diff");
    compare.arg("-r").arg(&tree).arg(&back);
    run(compare).clean();
    assert_eq!(mode(&back.join("dir 3")), 0o711);
    // Each file was opened at the node, there and back; what was carried is told in the end.
    let opened = |write: bool| {
        let is = |event: &teleport_core::audit::AuditEvent| {
            event.code == EventKind::SftpOpen && event.fields["write"] == write
        };
        cluster.events(is).len()
    };
    let all: usize = (0..20).map(|number| number * 10_007).sum();
    cluster.event(EventKind::SftpSummary, |event| {
        event.fields["bytes_read"] == all && event.fields["files"] == 20
    });
    cluster.event(EventKind::SftpSummary, |event| event.fields["bytes_written"] == all);
    assert_eq!((opened(true), opened(false)), (20, 20));
}

/// What the server says to these bytes, and how it ends.
fn served(input: &[u8]) -> (Vec<u8>, std::process::ExitStatus) {
    let mut server = own("teleport");
    server.arg("sftp-server").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = server.spawn().unwrap();
    let mut stdin = server.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may end before it has read everything.
        let _ = stdin.write_all(&input);
    });
    let mut answers = Vec::new();
    server.stdout.take().unwrap().read_to_end(&mut answers).unwrap();
    writer.join().unwrap();
    let mut error = String::new();
    server.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(!error.contains("panicked"), "{error}");
    (answers, server.wait().unwrap())
}

fn packet(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    packet(&[text])
}

/// Kinds and numbers of the answers, and the code of a status.
fn answers(mut bytes: &[u8]) -> Vec<(u8, u32, Option<u32>)> {
    let mut told = Vec::new();
    while !bytes.is_empty() {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let length = number(0) as usize;
        told.push((bytes[4], number(5), (bytes[4] == 101).then(|| number(9))));
        bytes = &bytes[4 + length..];
    }
    told
}

const INIT: [u8; 9] = [0, 0, 0, 5, 1, 0, 0, 0, 3];

#[test]
fn who_does_not_speak_the_protocol_is_left() {
    for input in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 0],
        &[0xff; 64],
        // A request before the protocol has begun.
        &packet(&[&[17], &1_u32.to_be_bytes(), &string(b"/")]),
        // Longer than any packet, after a good beginning.
        &[&INIT[..], &[0, 4, 0, 1], &[0; 1000]].concat(),
    ] {
        let (said, status) = served(input);
        assert_eq!(status.code(), Some(1), "{input:?}");
        assert!(answers(&said).len() <= 1, "{input:?}: {said:?}");
    }
}

#[test]
fn what_is_no_request_is_answered_and_ends_nothing() {
    let id = 7_u32.to_be_bytes();
    let good = packet(&[&[16], &id, &string(b"/")]);
    let bad: [(Vec<u8>, u32); 12] = [
        (packet(&[&[99], &id]), 8),
        (packet(&[&[200], &id, &string(b"no-such@example.com"), b"more"]), 8),
        // Fields that are not there, or longer than the packet.
        (packet(&[&[3], &id]), 5),
        (packet(&[&[3], &id, &[0xff; 4], b"path"]), 5),
        (packet(&[&[17], &id, &[0, 0, 0, 9], b"path"]), 5),
        // Handles that nobody was given.
        (packet(&[&[4], &id, &string(b"")]), 4),
        (packet(&[&[5], &id, &string(&[0; 8]), &[0; 12]]), 4),
        (packet(&[&[12], &id, &string(&[0xff; 8])]), 4),
        (packet(&[&[6], &id, &string(&[9; 200]), &[0; 8], &string(b"data")]), 4),
        // Names with a zero, names without an end.
        (packet(&[&[13], &id, &string(b"/tmp/a\0b")]), 5),
        (packet(&[&[17], &id, &string(&[b'x'; 10_000])]), 5),
        (packet(&[&[13], &id, &string(&[b'x'; 100_000])]), 5),
    ];
    let mut input = INIT.to_vec();
    for (request, _) in &bad {
        input.extend_from_slice(request);
        input.extend_from_slice(&good);
    }
    let (said, status) = served(&input);
    assert!(status.success());
    let said = answers(&said);
    assert_eq!(said[0], (2, 3, None));
    for (pair, (request, code)) in said[1..].chunks(2).zip(&bad) {
        assert_eq!(pair, [(101, 7, Some(*code)), (104, 7, None)], "{request:?}");
    }
    assert_eq!(said.len(), 1 + 2 * bad.len());
}

#[test]
fn a_handle_is_nobodys_after_it_was_closed_and_they_are_bounded() {
    let id = 1_u32.to_be_bytes();
    let open = packet(&[&[3], &id, &string(b"/dev/null"), &1_u32.to_be_bytes(), &[0; 4]]);
    let first = 0_u64.to_be_bytes();
    let close = packet(&[&[4], &id, &string(&first)]);
    let stat = packet(&[&[8], &id, &string(&first)]);
    let (said, _) = served(&[&INIT[..], &open, &close, &open, &stat, &close].concat());
    let codes: Vec<_> = answers(&said)[1..].iter().map(|(kind, _, code)| (*kind, *code)).collect();
    assert_eq!(codes, [(102, None), (101, Some(0)), (102, None), (101, Some(4)), (101, Some(4))]);
    let (said, _) = served(&[&INIT[..], &open.repeat(2000)].concat());
    let said = answers(&said);
    assert_eq!(said.iter().filter(|(kind, ..)| *kind == 102).count(), 1000);
    assert_eq!(said.iter().filter(|(.., code)| *code == Some(4)).count(), 1000);
}
