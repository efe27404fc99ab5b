use super::super::wire::Packet;
use super::*;

fn request(kind: u8, id: u32, fill: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    fill(&mut Packet::answer(&mut bytes, kind, id));
    bytes
}

fn open(id: u32, path: &str, flags: u32) -> Vec<u8> {
    request(kind::OPEN, id, |packet| {
        packet.string(path).u32(flags).attributes(&Attributes::default());
    })
}

fn status(id: u32, code: Code, text: &str) -> Vec<u8> {
    request(kind::STATUS, id, |packet| {
        packet.u32(code as u32).string(text).string("");
    })
}

fn opened(id: u32, handle: &str) -> Vec<u8> {
    request(kind::HANDLE, id, |packet| {
        packet.string(handle);
    })
}

fn of(action: FileAction, path: &str, target: Option<&str>, error: Option<&str>) -> FileOperation {
    FileOperation {
        action,
        path: path.to_owned(),
        target: target.map(str::to_owned),
        error: error.map(str::to_owned),
    }
}

/// Feeds a conversation in pieces of a length, which must not matter.
fn watch(conversation: &[(bool, Vec<u8>)], piece: usize) -> (Vec<FileOperation>, Totals) {
    let mut watch = Watch::default();
    let mut told = Vec::new();
    for (client, bytes) in conversation {
        for piece in bytes.chunks(piece) {
            if *client {
                watch.client(piece)
            } else {
                watch.server(piece)
            }
            told.extend(watch.done());
        }
    }
    let (rest, totals) = watch.finish();
    told.extend(rest);
    (told, totals)
}

#[test]
fn what_is_done_is_told_with_its_outcome_however_the_bytes_come() {
    let none = Attributes::default();
    let mode = Attributes { mode: Some(0o100_755), ..none };
    let conversation = [
        (true, request(kind::INIT, 3, |_| {})),
        (false, request(kind::VERSION, 3, |_| {})),
        (true, open(1, "/etc/passwd", OpenFlags::READ)),
        (false, opened(1, "one")),
        (
            true,
            request(kind::READ, 2, |packet| {
                packet.string("one").u64(0).u32(1000);
            }),
        ),
        (
            false,
            request(kind::DATA, 2, |packet| {
                packet.string([7; 1000]);
            }),
        ),
        (true, open(3, "new", OpenFlags::WRITE | OpenFlags::CREATE)),
        (false, opened(3, "two")),
        (
            true,
            request(kind::WRITE, 4, |packet| {
                packet.string("two").u64(0).string(vec![9; 100_000]);
            }),
        ),
        (false, status(4, Code::Ok, "")),
        (
            true,
            request(kind::FSETSTAT, 5, |packet| {
                packet.string("two").attributes(&mode);
            }),
        ),
        (false, status(5, Code::Ok, "")),
        (
            true,
            request(kind::CLOSE, 6, |packet| {
                packet.string("two");
            }),
        ),
        (true, open(7, "/root/secret", OpenFlags::READ)),
        (
            true,
            request(kind::LSTAT, 8, |packet| {
                packet.string("looked at");
            }),
        ),
        (false, status(8, Code::NoSuchFile, "none")),
        (false, status(7, Code::PermissionDenied, "Permission denied")),
        (
            true,
            request(kind::RENAME, 9, |packet| {
                packet.string("a").string("b");
            }),
        ),
        (
            true,
            request(kind::SYMLINK, 10, |packet| {
                packet.string("target").string("link");
            }),
        ),
        (
            true,
            request(kind::EXTENDED, 11, |packet| {
                packet.string("hardlink@openssh.com").string("old").string("new");
            }),
        ),
        (
            true,
            request(kind::REMOVE, 12, |packet| {
                packet.string([0xff, b'x']);
            }),
        ),
        (false, status(12, Code::Ok, "")),
        (false, status(11, Code::Ok, "")),
        (false, status(10, Code::Ok, "")),
        (false, status(9, Code::Failure, "")),
        (
            true,
            request(kind::MKDIR, 13, |packet| {
                packet.string("dir").attributes(&none);
            }),
        ),
    ];
    let expected = [
        of(FileAction::Open { read: true, write: false }, "/etc/passwd", None, None),
        of(FileAction::Open { read: false, write: true }, "new", None, None),
        of(FileAction::SetAttributes { mode: Some(0o755), owner: None, size: None }, "new", None, None),
        of(FileAction::Open { read: true, write: false }, "/root/secret", None, Some("Permission denied")),
        of(FileAction::Remove, "\u{fffd}x", None, None),
        of(FileAction::Link, "new", Some("old"), None),
        of(FileAction::SymLink, "link", Some("target"), None),
        of(FileAction::Rename, "a", Some("b"), Some("it failed")),
        of(FileAction::MakeDir, "dir", None, Some("the outcome is not known")),
    ];
    for piece in [1, 3, 7, 1000, usize::MAX] {
        let (told, totals) = watch(&conversation, piece);
        assert_eq!(told, expected, "in pieces of {piece}");
        assert_eq!(totals, Totals { files: 2, read: 1000, written: 100_000 });
    }
}

#[test]
fn nobody_is_confused_by_numbers_that_are_used_again() {
    let conversation = [
        (true, open(1, "first", OpenFlags::READ)),
        (true, open(1, "second", OpenFlags::READ)),
        (false, opened(1, "x")),
        (false, opened(1, "y")),
    ];
    let (told, _) = watch(&conversation, 5);
    let paths: Vec<_> = told.iter().map(|told| (told.path.as_str(), told.error.is_some())).collect();
    assert_eq!(paths, [("first", true), ("second", false)]);
}

#[test]
fn memory_is_bounded() {
    let mut watch = Watch::default();
    for id in 0..10_000 {
        watch.client(&open(id, &"x".repeat(1000), OpenFlags::READ));
        assert!(watch.pending.len() <= MAX_PENDING);
        watch.done.clear();
    }
    let mut watch = Watch::default();
    let mut packet = vec![0, 4, 0, 0, kind::REMOVE];
    packet.resize(4 + (256 << 10), b'x');
    for piece in packet.chunks(1000) {
        watch.client(piece);
        assert!(watch.requests.kept.len() <= MAX_REQUEST);
    }
    // What is no packet is not followed any more.
    watch.client(&[0xff; 10_000]);
    assert!(watch.requests.broken);
    assert_eq!(watch.finish(), (Vec::new(), Totals::default()));
}
