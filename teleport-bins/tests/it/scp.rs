//! `tsh scp` at our node, through the proxy; and stock `scp -O` there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use teleport_core::audit::EventKind;
use tempfile::TempDir;

use crate::support::cluster::{CLUSTER, Home, TestCluster};
use crate::support::program::{Output, own, run, run_with};
use crate::support::small_disk::SmallDisk;
use crate::support::{bytes_of, own_login, wait_for};

fn scp(home: &Home, arguments: &[&OsStr]) -> Output {
    let mut tsh = home.tsh();
    tsh.arg("scp").args(arguments);
    run(tsh)
}

/// With text for arguments.
fn copy(home: &Home, arguments: &[&str]) -> Output {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    scp(home, &arguments)
}

fn remote(path: &Path) -> String {
    format!("{}@node:{}", own_login(), path.display())
}

/// What is below a directory: by name, the permissions and the content; of directories none.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in next.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.metadata().unwrap();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            let content = if metadata.is_dir() {
                dirs.push(path.clone());
                None
            } else {
                Some(std::fs::read(&path).unwrap())
            };
            found.insert(name, (metadata.mode() & 0o7777, content));
        }
    }
    found
}

fn set(path: &Path, mode: u32, modified: u64) {
    let file = std::fs::File::open(path).unwrap();
    file.set_permissions(PermissionsExt::from_mode(mode)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(modified)).unwrap();
}

/// Two empty directories, for this side and for the node's.
fn places() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&there).unwrap();
    (dir, here, there)
}

#[test]
fn trees_go_both_ways_and_from_node_to_node() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (dir, here, there) = places();
    let source = here.join("tree");
    std::fs::create_dir_all(source.join("sub/deeper")).unwrap();
    std::fs::create_dir(source.join("empty dir")).unwrap();
    std::fs::write(source.join("large"), bytes_of(1, (5 << 20) + 7)).unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    for name in [&b"odd \xff\xfe name"[..], b"-rf", b"$(id)", b"a'b\"c", b"*", "\u{e4}\u{20ac}".as_bytes()] {
        std::fs::write(source.join("sub").join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::fs::write(source.join("sub/deeper/file"), bytes_of(2, 100_000)).unwrap();
    set(&source.join("large"), 0o4751, 1_000_000_000);
    set(&source.join("sub/deeper"), 0o711, 1_100_000_000);
    std::os::unix::fs::symlink("../large", source.join("sub/link")).unwrap();

    let text = source.to_str().unwrap();
    copy(&home, &["-rp", text, &remote(&there)]).clean();
    copy(&home, &["-rp", &remote(&there.join("tree")), &remote(&there.join("again"))]).clean();
    let back = here.join("back");
    copy(&home, &["-rp", &remote(&there.join("again")), back.to_str().unwrap()]).clean();
    let mut expected = tree(&source);
    // Links are followed, set-id bits stay behind.
    for large in ["large", "sub/link"] {
        expected.get_mut(Path::new(large)).unwrap().0 = 0o751;
    }
    assert_eq!(expected.len(), 13);
    for copied in [&there.join("tree"), &there.join("again"), &back] {
        assert!(tree(copied) == expected, "{}", copied.display());
        assert!(!copied.join("sub/link").is_symlink());
        let modified = |name: &str| copied.join(name).metadata().unwrap().mtime();
        assert_eq!((modified("large"), modified("sub/deeper")), (1_000_000_000, 1_100_000_000));
    }
    // Without -p both are new, but for what the permissions were.
    copy(&home, &[&remote(&there.join("tree/large")), dir.path().to_str().unwrap()]).clean();
    let plain = dir.path().join("large").metadata().unwrap();
    assert!(plain.mode() & 0o7022 == 0 && plain.mtime() > 1_000_000_000, "{plain:?}");

    // Each file was opened at the node: once as target of the first copy, once each way in the second, once read in the third.
    let opened = |write: bool| {
        let of = |event: &teleport_core::audit::AuditEvent| {
            event.code == EventKind::SftpOpen
                && event.fields["write"] == write
                && event.fields["path"].as_str().unwrap().ends_with("/sub/deeper/file")
        };
        cluster.events(of).len()
    };
    cluster
        .event(EventKind::SftpOpen, |event| event.fields["path"].as_str().unwrap().contains("/tree/large"));
    assert_eq!((opened(true), opened(false)), (2, 2));
}

#[test]
fn sources_and_targets_are_understood_as_by_scp() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (_dir, here, there) = places();
    for name in ["a.txt", "b.txt", "c.log", ".hidden.txt", "[x].txt"] {
        std::fs::write(there.join(name), name).unwrap();
    }
    std::fs::create_dir(there.join("d1")).unwrap();
    std::fs::create_dir(there.join("d2")).unwrap();
    std::fs::write(there.join("d1/f"), "1").unwrap();
    let here_text = here.to_str().unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let fresh = || {
        std::fs::remove_dir_all(&here).unwrap();
        std::fs::create_dir(&here).unwrap();
    };
    for (pattern, expected) in [
        ("*.txt", &["[x].txt", "a.txt", "b.txt"][..]),
        ("[ab].txt", &["a.txt", "b.txt"]),
        ("[!a].txt", &["b.txt"]),
        ("?.*", &["a.txt", "b.txt", "c.log"]),
        (".*.txt", &[".hidden.txt"]),
        ("\\[x\\].txt", &["[x].txt"]),
        // No file matches it as a pattern, but one is called like that.
        ("[x].txt", &["[x].txt"]),
        ("d*/f", &["f"]),
    ] {
        fresh();
        copy(&home, &[&remote(&there.join(pattern)), here_text]).clean();
        assert_eq!(names(&here), expected, "{pattern}");
    }
    // Several sources need a directory; a file may get another name.
    fresh();
    let (a, b) = (remote(&there.join("a.txt")), remote(&there.join("b.txt")));
    copy(&home, &[&a, &b, here_text]).clean();
    copy(&home, &[&a, here.join("c.txt").to_str().unwrap()]).clean();
    assert_eq!(names(&here), ["a.txt", "b.txt", "c.txt"]);
    assert_eq!(std::fs::read(here.join("c.txt")).unwrap(), b"a.txt");
    // The contents of a directory, into one that is there.
    fresh();
    copy(&home, &["-r", &remote(&there.join("d1/.")), here_text]).clean();
    assert_eq!(names(&here), ["f"]);
    // The login's home directory, which is where relative paths begin.
    let name = there.file_name().unwrap().to_str().unwrap();
    let in_home = format!("tsh-scp-{}-{name}", std::process::id());
    let at_home = PathBuf::from(std::env::var_os("HOME").unwrap()).join(&in_home);
    let login = own_login();
    let c = here.join("f");
    let upload = copy(&home, &[c.to_str().unwrap(), &format!("{login}@node:{in_home}")]);
    let downloads: Vec<_> = [format!("~/{in_home}"), format!("~{login}/{in_home}"), format!("./{in_home}")]
        .map(|path| copy(&home, &[&format!("{login}@node:{path}"), here.join("home").to_str().unwrap()]))
        .into();
    std::fs::remove_file(&at_home).unwrap();
    upload.clean();
    downloads.into_iter().for_each(|download| drop(download.clean()));
    assert_eq!(std::fs::read(here.join("home")).unwrap(), b"1");

    for (arguments, says) in [
        (vec![a.as_str(), &b, here.join("f").to_str().unwrap()], "is not a directory"),
        (vec![&a, &b, here.join("none").to_str().unwrap()], "No such file"),
        (vec![&a, here.join("none/").to_str().unwrap()], "No such file"),
        (vec![c.to_str().unwrap(), here_text], "that is for cp"),
        (vec![&a, ""], "an empty path"),
        (vec![":x", here_text], "no node before the colon"),
        (vec!["x@y@node:a", here_text], "the login before the @"),
        (vec!["-oProxyCommand=id:x", here_text], "-o"),
        (vec!["$(id):x", here_text], "the host must be"),
        (vec!["-P", "1", "-c", "none", &a, here_text], "aes256-ctr"),
    ] {
        let refused = copy(&home, &arguments);
        assert!(refused.code() != 0 && refused.stderr.contains(says), "{arguments:?}: {refused:?}");
        assert!(refused.stderr.trim_end().lines().count() == 1, "{refused:?}");
    }
    copy(&home, &["-c", "aes128-gcm@openssh.com", "-q", &a, here_text]).clean();
}

#[test]
fn what_cannot_be_copied_is_told_and_everything_else_goes_on() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (dir, here, there) = places();
    let source = there.join("tree");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("good"), "good").unwrap();
    std::fs::write(source.join("sub/good"), "good").unwrap();
    std::fs::write(source.join("esc\x1b[2J"), "bad").unwrap();
    std::os::unix::fs::symlink("nowhere", source.join("dangling")).unwrap();
    nix::unistd::mkfifo(&source.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let copied = copy(&home, &["-r", &remote(&source), here.to_str().unwrap()]);
    assert_eq!(copied.code(), 1);
    assert_eq!(std::fs::read(here.join("tree/good")).unwrap(), b"good");
    assert_eq!(std::fs::read(here.join("tree/sub/good")).unwrap(), b"good");
    assert!(!copied.stderr.contains('\x1b'), "{:?}", copied.stderr);
    for says in [
        "tree/dangling: no such file or directory",
        "tree/pipe: it is not a regular file",
        "esc?[2J: its name has a control character",
    ] {
        assert!(
            copied.stderr.lines().any(|line| line.starts_with("ERROR: node:") && line.contains(says)),
            "{says}: {copied:?}"
        );
    }
    // The same from here.
    let target = dir.path().join("up");
    let copied = copy(&home, &["-r", source.to_str().unwrap(), &remote(&target)]);
    assert_eq!((copied.code(), copied.stderr.lines().count()), (1, 2), "{copied:?}");
    assert!(target.join("sub/good").exists() && target.join("esc\x1b[2J").exists());

    let empty = here.to_str().unwrap();
    for (arguments, says) in [
        (vec![remote(&source), empty.to_owned()], "it is a directory; say -r"),
        (vec![remote(&there.join("none")), empty.to_owned()], "none: no such file or directory"),
        (vec![remote(&there.join("none*")), empty.to_owned()], "none*: no such file or directory"),
        (vec![remote(&source.join("pipe")), empty.to_owned()], "it is not a regular file"),
        (vec![remote(Path::new("/dev/zero")), empty.to_owned()], "it is not a regular file"),
        (vec![here.join("none").display().to_string(), remote(&there)], "none: No such file"),
        (vec![here.join("tree/good").display().to_string(), remote(&there.join("a/b"))], "no such file"),
        (vec!["node:~nobody-of-that-name/x".to_owned(), empty.to_owned()], "no such file"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let refusal = copy(&home, &arguments).refusal();
        assert!(refusal.contains(says), "{arguments:?}: {refusal}");
    }
    // Files that say that they are empty, and are not.
    copy(&home, &[&remote(Path::new("/proc/self/status")), empty]).clean();
    assert!(std::fs::read_to_string(here.join("status")).unwrap().contains("Pid:"));
}

#[test]
fn what_was_interrupted_is_continued() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (_dir, here, there) = places();
    let whole = bytes_of(3, (3 << 20) + 11);
    std::fs::write(there.join("f"), &whole).unwrap();
    let (local, far) = (here.join("f"), remote(&there.join("f")));
    let up = remote(&there.join("up"));
    let written = |events: &str| {
        let all = cluster.events(|event| event.code == EventKind::SftpSummary);
        all.iter().map(|event| event.fields[events].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let mut expected = 0;
    for (there_already, from) in [
        // Nothing, a part, all of it.
        (Vec::new(), 0),
        (whole[..1 << 20].to_vec(), 1 << 20),
        (whole[..17].to_vec(), 17),
        (whole.clone(), whole.len()),
        // What is no beginning of it, or longer.
        ([&whole[..(1 << 20) - 1], b"!"].concat(), 0),
        (bytes_of(4, whole.len()), 0),
        ([&whole[..], b"more"].concat(), 0),
    ] {
        std::fs::write(&local, &there_already).unwrap();
        copy(&home, &["--resume", &far, local.to_str().unwrap()]).clean();
        assert!(std::fs::read(&local).unwrap() == whole, "{} bytes were there", there_already.len());
        std::fs::write(there.join("up"), &there_already).unwrap();
        copy(&home, &["--resume", local.to_str().unwrap(), &up]).clean();
        assert!(
            std::fs::read(there.join("up")).unwrap() == whole,
            "{} bytes were there",
            there_already.len()
        );
        // What was there is not sent again, but for the end that is compared.
        expected += 2;
        wait_for("the end of both sessions", || (written("files").len() == expected).then_some(()));
        let sent = written("bytes_written")
            .into_iter()
            .filter(|bytes| *bytes == (whole.len() - from) as u64)
            .count();
        assert!(sent >= 1, "{} bytes were there: {:?}", there_already.len(), written("bytes_written"));
    }
    // Without it the file is written anew, whatever was there.
    std::fs::write(&local, &whole[..100]).unwrap();
    copy(&home, &[&far, local.to_str().unwrap()]).clean();
    assert!(std::fs::read(&local).unwrap() == whole);
}

#[test]
fn an_interrupt_leaves_the_beginning_which_is_continued() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (_dir, here, there) = places();
    // So long that it cannot be there before the signal is.
    let file = std::fs::File::create(there.join("f")).unwrap();
    file.set_len(64 << 30).unwrap();
    let local = here.join("f");
    let mut tsh = home.tsh();
    tsh.args(["scp", &remote(&there.join("f")), local.to_str().unwrap()]);
    let mut child = tsh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("some of the file", || (local.metadata().ok()?.len() > 1 << 20).then_some(()));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let came = local.metadata().unwrap().len();
    assert!(came > 1 << 20 && came < 64 << 30);
    // Where the file ends is where the rest begins.
    file.set_len(came + 5).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"tail!", came).unwrap();
    copy(&home, &["--resume", &remote(&there.join("f")), local.to_str().unwrap()]).clean();
    let mut tail = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::open(&local).unwrap(), &mut tail, came - 1)
        .unwrap();
    assert_eq!((&tail, local.metadata().unwrap().len()), (b"\0tail!", came + 5));
}

#[test]
fn ten_thousand_files_and_a_full_disk() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (dir, here, there) = places();
    let source = here.join("many");
    for number in 0..100 {
        let sub = source.join(number.to_string());
        std::fs::create_dir_all(&sub).unwrap();
        for number in 0..100_u32 {
            std::fs::write(sub.join(number.to_string()), number.to_be_bytes()).unwrap();
        }
    }
    copy(&home, &["-r", source.to_str().unwrap(), &remote(&there)]).clean();
    let back = dir.path().join("back");
    copy(&home, &["-r", &remote(&there.join("many")), back.to_str().unwrap()]).clean();
    let expected = tree(&source);
    assert_eq!(expected.len(), 10_100);
    assert!(tree(&back) == expected);

    let small = dir.path().join("small");
    let disk = SmallDisk::at(&small);
    std::fs::write(here.join("large"), bytes_of(5, 8 << 20)).unwrap();
    disk.fill();
    let full = small.join(".full").metadata().unwrap().len() > 0;
    if full {
        // At the node, and here.
        let refusal = copy(&home, &[here.join("large").to_str().unwrap(), &remote(&small)]).refusal();
        assert!(refusal.contains("node:") && refusal.contains("No space left"), "{refusal}");
        let refusal = copy(&home, &[&remote(&there.join("many/1/1")), small.to_str().unwrap()]).refusal();
        assert!(refusal.contains("No space left"), "{refusal}");
    }
}

/// What a copy shows on a terminal.
fn shown(home: &Home, arguments: &[&str]) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut tsh = home.tsh();
    tsh.arg("scp").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(pty.slave);
    let mut child = tsh.spawn().unwrap();
    // Its end is seen when nobody has the other side open any more.
    drop(tsh);
    let mut shown = Vec::new();
    // Which is an error, after everything was read.
    let _ = std::io::Read::read_to_end(&mut std::fs::File::from(pty.master), &mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (_dir, here, there) = places();
    std::fs::write(here.join("a name"), bytes_of(8, 3 << 20)).unwrap();
    let (from, to) = (here.join("a name"), remote(&there));
    let line = shown(&home, &[from.to_str().unwrap(), &to]);
    let last = line.trim_end().rsplit("\r\x1b[K").next().unwrap();
    for part in ["a name ", "100%", "3.0 MiB", "/s", "00:0"] {
        assert!(last.contains(part), "{part}: {line:?}");
    }
    assert!(line.ends_with('\n') && !last.contains("ETA"), "{line:?}");
    assert_eq!(shown(&home, &["-q", from.to_str().unwrap(), &to]), "");
}

/// Stock `scp` by the older protocol.
fn old_scp(home: &Home, arguments: &[&str]) -> Output {
    let mut scp = Command::new("scp");
    scp.args(["-O", "-q", "-F"]).arg(&home.ssh_config).args(arguments).env_remove("SSH_AUTH_SOCK");
    run(scp)
}

fn old(path: &str) -> String {
    format!("{}@node.{CLUSTER}:{path}", own_login())
}

#[test]
fn the_older_protocol_is_served_and_told() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (_dir, here, there) = places();
    let source = here.join("tree");
    std::fs::create_dir_all(source.join("sub/deeper")).unwrap();
    std::fs::write(source.join("large"), bytes_of(6, (2 << 20) + 3)).unwrap();
    std::fs::write(source.join("empty"), "").unwrap();
    std::fs::write(source.join("sub").join(OsStr::from_bytes(b"odd \xff name")), "odd").unwrap();
    std::fs::write(source.join("sub/deeper/file"), bytes_of(7, 10_007)).unwrap();
    set(&source.join("large"), 0o640, 1_000_000_000);
    set(&source.join("sub"), 0o711, 1_100_000_000);
    let back = here.join("back");
    old_scp(&home, &["-rp", source.to_str().unwrap(), &old(there.to_str().unwrap())]).clean();
    old_scp(&home, &["-rp", &old(there.join("tree").to_str().unwrap()), back.to_str().unwrap()]).clean();
    let expected = tree(&source);
    for copied in [&there.join("tree"), &back] {
        assert!(tree(copied) == expected, "{}", copied.display());
        let modified = |name: &str| copied.join(name).metadata().unwrap().mtime();
        assert_eq!((modified("large"), modified("sub")), (1_000_000_000, 1_100_000_000));
    }
    // As a shell would have read it, without one.
    std::fs::write(there.join("a b.txt"), "1").unwrap();
    std::fs::write(there.join("c.txt"), "2").unwrap();
    let base = there.to_str().unwrap();
    let into = here.join("into");
    std::fs::create_dir(&into).unwrap();
    old_scp(&home, &["-T", &old(&format!("{base}/*.txt")), into.to_str().unwrap()]).clean();
    old_scp(&home, &["-T", &old(&format!("'{base}/a b.txt'")), into.join("again").to_str().unwrap()]).clean();
    assert_eq!(tree(&into).len(), 3);
    for (kind, path, size) in [
        (EventKind::ScpUpload, "/there/tree/large", (2 << 20) + 3),
        (EventKind::ScpUpload, "/there/tree/sub/odd \u{fffd} name", 3),
        (EventKind::ScpDownload, "/there/tree/large", (2 << 20) + 3),
        (EventKind::ScpDownload, "/there/a b.txt", 1),
    ] {
        let is = |event: &teleport_core::audit::AuditEvent| {
            event.fields["path"].as_str().unwrap().ends_with(path) && event.fields["bytes"] == size
        };
        let event = cluster.event(kind, is);
        assert!(event.success == Some(true), "{event:?}");
    }
    cluster
        .event(EventKind::SftpMakeDir, |event| event.fields["path"].as_str().unwrap().ends_with("/tree/sub"));
    cluster.event(EventKind::Exec, |event| event.fields["command"].as_str().unwrap().starts_with("scp "));

    // What fails says why.
    for (arguments, says) in [
        (vec![old(&format!("{base}/none")), here.display().to_string()], "none: no such file"),
        (vec![old(&format!("{base}/*.none")), here.display().to_string()], "none: no such file"),
        (vec![old(base), here.display().to_string()], "not a regular file"),
        (vec![source.join("large").display().to_string(), old(&format!("{base}/no/dir"))], "no such file"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let failed = old_scp(&home, &arguments);
        assert!(failed.code() == 1 && failed.stderr.contains(says), "{arguments:?}: {failed:?}");
    }
    cluster.event(EventKind::ScpUploadFailure, |event| {
        event.error.as_deref() == Some("no such file or directory")
    });
    // A line that a shell has to understand is the shell's.
    let mut ssh = home.ssh();
    ssh.arg(format!("{}@node.{CLUSTER}", own_login())).arg("echo $((6*7)) # scp -f x");
    assert_eq!(run(ssh).clean(), "42\n");
}

/// What the node says to a client that speaks the older protocol like this.
fn old_client(home: &Home, command: &str, input: &[u8]) -> Output {
    let mut ssh = home.ssh();
    ssh.arg(format!("{}@node.{CLUSTER}", own_login())).arg(command);
    run_with(ssh, input)
}

#[test]
fn g5_who_lies_in_the_older_protocol_gets_nowhere() {
    let cluster = TestCluster::with_node();
    let home = cluster.alice();
    let (_dir, _, there) = places();
    let sink = format!("scp -r -t {}", there.display());
    for (input, says) in [
        (&b"C0644 4 ../up\nevil\0"[..], "unexpected filename"),
        (b"C0644 4 /tmp/teleport-g5-old\nevil\0", "unexpected filename"),
        (b"D0755 0 ..\n", "unexpected filename"),
        (b"C0644 4 \x1b[2J\nevil\0", "unexpected filename"),
        (b"C0644 -4 x\nevil\0", "protocol error"),
        (b"C0644 99999999999999999999 x\n", "protocol error"),
        (b"E\n", "protocol error"),
        (b"hello\n", "protocol error"),
    ] {
        let refused = old_client(&home, &sink, input);
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(
            refused.stdout.starts_with(b"\0\x01scp: ") && refused.out().contains(says),
            "{input:?}: {refused:?}"
        );
    }
    // A line without an end, and a file that ends early.
    assert_eq!(old_client(&home, &sink, &vec![b'C'; 100_000]).code(), 1);
    assert_eq!(old_client(&home, &sink, b"C0644 1000 part\nonly this").code(), 1);
    assert_eq!(std::fs::read(there.join("part")).unwrap(), b"only this");
    assert_eq!(tree(&there).len(), 1);
    assert!(!Path::new("/tmp/teleport-g5-old").exists());
    cluster.event(EventKind::ScpUploadFailure, |event| {
        event.fields["bytes"] == 9 && event.error.as_deref() == Some("the client ended early")
    });
    // A client that is gone at once.
    let mut ssh = home.ssh();
    ssh.arg(format!("{}@node.{CLUSTER}", own_login())).arg(&sink).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut ssh = ssh.spawn().unwrap();
    std::io::Write::write_all(&mut ssh.stdin.as_ref().unwrap(), b"C0644 1000 gone\nsome of it").unwrap();
    wait_for("the file", || there.join("gone").exists().then_some(()));
    ssh.kill().unwrap();
    ssh.wait().unwrap();
    cluster.event(EventKind::ScpUploadFailure, |event| {
        event.fields["path"].as_str().unwrap().ends_with("/gone")
    });
    std::fs::remove_file(there.join("gone")).unwrap();
    // Set-id bits come only with -p, from whoever owns the file anyway.
    old_client(&home, &sink, b"C4755 4 tool\ntool\0");
    assert_eq!(there.join("tool").metadata().unwrap().mode() & 0o7000, 0);
    // Nothing is sent before it is asked for.
    assert_eq!(old_client(&home, &format!("scp -f {}/part", there.display()), b"").stdout, b"");
}

#[test]
fn roles_that_permit_no_copying_permit_none_of_it() {
    let cluster = TestCluster::with_node();
    let login = own_login();
    let role = format!(
        "kind: role\nversion: v1\nmetadata: {{name: no-copy}}\nspec:\n  allow:\n    logins: [{login}]\n    \
         node_labels: {{'*': '*'}}\n  options: {{ssh_file_copy: false}}\n"
    );
    let mut tctl = own("tctl");
    tctl.arg("--data-dir").arg(cluster.dir().join("cluster")).args(["create", "--force"]);
    run_with(tctl, role.as_bytes());
    let home = cluster.user("bob", &["no-copy"], &[]);
    let (_dir, here, there) = places();
    std::fs::write(there.join("f"), "secret").unwrap();
    let refusal = copy(&home, &[&remote(&there.join("f")), here.to_str().unwrap()]).refusal();
    assert!(refusal.contains("your roles do not permit copying files on this node"), "{refusal}");
    cluster.event(EventKind::SftpDisallowed, |event| event.user.as_deref() == Some("bob"));
    let refused = old_scp(&home, &[&old(there.join("f").to_str().unwrap()), here.to_str().unwrap()]);
    assert!(refused.stderr.contains("your roles do not permit copying files on this node"), "{refused:?}");
    let refused = old_scp(&home, &[there.join("f").to_str().unwrap(), &old(here.to_str().unwrap())]);
    assert!(refused.code() != 0 && tree(&here).is_empty(), "{refused:?}");
    cluster.event(EventKind::ScpDisallowed, |event| event.fields["command"].as_str().unwrap().contains("-t"));
}
