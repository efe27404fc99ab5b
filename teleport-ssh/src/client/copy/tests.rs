//! Servers that want something else than what they are asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::sftp::client::tests::{Said, client_of};
use crate::sftp::request::{Extension, Request};
use crate::sftp::wire::Code;

const FILE: u32 = 0o100_644;
const DIR: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

/// What was told of failures.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl CopyObserver for Told {
    fn failed(&self, failure: &CopyFailure) {
        self.0.lock().unwrap().push(failure.to_string());
    }
}

/// Copies `path` of a server into an empty directory. What was told, in its order, at last what ended everything; and the directory.
async fn copied(
    path: &str,
    options: CopyOptions,
    act: impl FnMut(u32, Request<'_>) -> Vec<Said> + Send + 'static,
) -> (Vec<String>, TempDir) {
    let (sftp, _scope) = client_of(act).await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let source = Source { side: Side::remote(sftp.unwrap(), "node"), path: path.into() };
    let told = Told::default();
    let target = target.as_os_str().as_bytes();
    let ended = copy(vec![source], &Side::local(), target, options, &told).await;
    let mut told = told.0.into_inner().unwrap();
    match ended {
        Ok(failures) => assert_eq!(failures, told.len()),
        Err(failure) => told.push(failure.to_string()),
    }
    (told, dir)
}

const TREE: CopyOptions = CopyOptions { recursive: true, preserve: true, resume: false };

/// A server with one directory; every file has four bytes.
fn listing(entries: &[(&'static [u8], u32)]) -> impl FnMut(u32, Request<'_>) -> Vec<Said> + Send + use<> {
    let entries = entries.to_vec();
    let mut listed = false;
    move |id, request| {
        vec![match request {
            Request::Stat { path: b"dir" } => Said::attributes(id, DIR, 0),
            Request::Stat { .. } => Said::attributes(id, FILE, 4),
            Request::OpenDir { .. } | Request::Open { .. } => Said::handle(id, b"h"),
            Request::ReadDir { .. } if !listed => {
                listed = true;
                Said::names(id, &entries)
            }
            Request::ReadDir { .. } => Said::status(id, Code::Eof),
            Request::Read { length, .. } => {
                assert_eq!(length, 4);
                Said::data(id, b"evil")
            }
            _ => Said::status(id, Code::Ok),
        }]
    }
}

/// All names below, sorted.
fn below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in dir.read_dir().unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.extend(below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn g5_names_that_lead_elsewhere_or_move_the_cursor_are_not_written() {
    let bad: [&[u8]; 7] =
        [b"../up", b"/tmp/teleport-g5-absolute", b"a/b", b"", b"\x1b]0;title\x07", b"new\nline", b"nul\0"];
    let entries: Vec<(&[u8], u32)> = bad
        .iter()
        .flat_map(|name| [(*name, FILE), (*name, DIR)])
        .chain([(&b".."[..], DIR), (b".", DIR), (b"good", FILE)])
        .collect();
    let (told, dir) = copied("dir", TREE, listing(&entries)).await;
    assert_eq!(below(dir.path()), ["target", "target/dir", "target/dir/good"]);
    assert!(!Path::new("/tmp/teleport-g5-absolute").exists());
    assert_eq!(told.len(), 2 * bad.len(), "{told:?}");
    assert!(told.iter().all(|line| !line.chars().any(char::is_control)), "{told:?}");
}

#[tokio::test]
async fn g5_links_are_not_made_so_nothing_is_written_through_them() {
    // A link, and then something through it or in its place.
    let entries: [(&[u8], u32); 5] =
        [(b"link", LINK), (b"link", DIR), (b"again", FILE), (b"again", DIR), (b"last", LINK)];
    let (told, dir) = copied("dir", TREE, listing(&entries)).await;
    let target = dir.path().join("target/dir");
    assert_eq!(below(&target), ["again", "last", "link"]);
    for name in ["again", "last", "link"] {
        assert!(target.join(name).symlink_metadata().unwrap().is_file());
    }
    assert_eq!(told.len(), 2, "{told:?}");
}

#[tokio::test]
async fn g5_set_id_bits_stay_behind() {
    for options in [TREE, CopyOptions { preserve: false, ..TREE }] {
        let (told, dir) = copied("dir", options, listing(&[(b"tool", 0o106_755), (b"all", 0o107_777)])).await;
        assert!(told.is_empty(), "{told:?}");
        for name in ["tool", "all"] {
            let mode = dir.path().join("target/dir").join(name).metadata().unwrap().mode();
            assert_eq!(mode & 0o7000, 0, "{name} {mode:o}");
        }
    }
}

#[tokio::test]
async fn g5_a_pattern_means_what_it_says_whatever_is_listed() {
    let entries: [(&[u8], u32); 6] = [
        (b"asked.txt", FILE),
        (b".bashrc", FILE),
        (b"other.sh", FILE),
        (b".hidden.txt", FILE),
        (b"../up.txt", FILE),
        (b"\x1b.txt", FILE),
    ];
    let (told, dir) = copied("*.txt", CopyOptions::default(), listing(&entries)).await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(below(dir.path()), ["target", "target/asked.txt"]);
}

#[tokio::test]
async fn g5_a_file_ends_where_the_server_said_or_is_cut_off() {
    let endless = |size: u64| {
        move |id: u32, request: Request<'_>| {
            vec![match request {
                Request::Stat { .. } => Said::attributes(id, FILE, size),
                Request::Open { .. } => Said::handle(id, b"h"),
                Request::Read { length, .. } => Said::data(id, &vec![b'x'; length as usize]),
                _ => Said::status(id, Code::Ok),
            }]
        }
    };
    let (told, dir) = copied("file", CopyOptions::default(), endless(100_001)).await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(dir.path().join("target/file").metadata().unwrap().len(), 100_001);
    let (told, dir) = copied("file", CopyOptions::default(), endless(0)).await;
    assert_eq!(told, ["node:file: it has no length and does not end"]);
    assert!(dir.path().join("target/file").metadata().unwrap().len() <= 64 << 20);
    // One that has an absurd length, and ends.
    let short = |id: u32, request: Request<'_>| {
        vec![match request {
            Request::Stat { .. } => Said::attributes(id, FILE, u64::MAX),
            Request::Open { .. } => Said::handle(id, b"h"),
            Request::Read { offset: 0, .. } => Said::data(id, b"four"),
            Request::Read { .. } => Said::status(id, Code::Eof),
            _ => Said::status(id, Code::Ok),
        }]
    };
    let (told, _dir) = copied("file", CopyOptions::default(), short).await;
    assert_eq!(told, [format!("node:file: it ended after 4 of {} bytes", u64::MAX)]);
}

#[tokio::test]
async fn g5_directories_that_do_not_end_are_left() {
    // Ever more entries.
    let many = |id: u32, request: Request<'_>| {
        vec![match request {
            Request::Stat { .. } => Said::attributes(id, DIR, 0),
            Request::OpenDir { .. } => Said::handle(id, b"h"),
            Request::ReadDir { .. } => Said::names(id, &[(&b"."[..], DIR); 8000]),
            _ => Said::status(id, Code::Ok),
        }]
    };
    let (told, _dir) = copied("dir", TREE, many).await;
    assert_eq!(told, ["node:dir: the directory has too many entries"]);
    // One within the other.
    let mut listed = false;
    let deep = move |id: u32, request: Request<'_>| {
        vec![match request {
            Request::Stat { .. } => Said::attributes(id, DIR, 0),
            Request::OpenDir { .. } => {
                listed = false;
                Said::handle(id, b"h")
            }
            Request::ReadDir { .. } if !listed => {
                listed = true;
                Said::names(id, &[(b"d", DIR)])
            }
            Request::ReadDir { .. } => Said::status(id, Code::Eof),
            _ => Said::status(id, Code::Ok),
        }]
    };
    let (told, dir) = copied("dir", TREE, deep).await;
    assert_eq!((told.len(), below(dir.path()).len()), (1, 2 + 64), "{told:?}");
    assert!(told.iter().all(|line| line.contains("nested too deeply")));
}

#[tokio::test]
async fn g5_a_server_that_breaks_the_protocol_ends_the_copy() {
    let breaks = |id: u32, request: Request<'_>| {
        vec![match request {
            Request::Stat { .. } => Said::attributes(id, FILE, 4),
            Request::Open { .. } => Said::handle(id, b"h"),
            _ => Said::data(id + 77, b"evil"),
        }]
    };
    let (told, _dir) = copied("file", CopyOptions::default(), breaks).await;
    assert!(told.len() == 1 && told.iter().all(|line| line.contains("breaks the protocol")), "{told:?}");
}

/// Where a home directory is, the server says; what its copy is called here is not up to it.
#[tokio::test]
async fn g5_a_home_directory_is_called_like_its_user() {
    for path in ["~bob", "~bob/"] {
        let mut tree = listing(&[(b"good", FILE)]);
        let (told, dir) = copied(path, TREE, move |id, request| match request {
            Request::Extended(Extension::ExpandPath { .. }) => vec![Said::names(id, &[(b"/x/.ssh", DIR)])],
            Request::Stat { path: b"/x/.ssh" | b"/x/.ssh/" } => vec![Said::attributes(id, DIR, 0)],
            other => tree(id, other),
        })
        .await;
        assert_eq!(below(dir.path()), ["target", "target/bob", "target/bob/good"], "{told:?}");
    }
}
