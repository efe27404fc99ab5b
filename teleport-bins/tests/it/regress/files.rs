//! Files by stock programs, where theirs ask for more than ours beside this folder do: sizes of requests, names, addresses.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use super::{Way, World, bytes, host};
use crate::support::program::{Output, run, run_with};

fn sftp(way: &Way, options: &[&str], commands: &str) -> Output {
    let mut sftp = way.program("sftp", &[&["-q", "-b", "-"], options].concat());
    sftp.arg(host());
    run_with(sftp, commands.as_bytes())
}

#[test]
fn requests_of_every_size_and_number_give_the_same_file() {
    let world = World::start();
    let dir = world.cluster.dir();
    let (file, there, back) = (dir.join("file"), dir.join("there"), dir.join("back"));
    for way in world.ways() {
        for (length, size, number) in [
            (601, 5, 1),
            (601, 5, 64),
            (100_001, 1000, 1),
            (300_001, 32_000, 2),
            (3_000_001, 64_000, 64),
            (3_000_001, 200_000, 99),
        ] {
            let content = bytes(length);
            std::fs::write(&file, &content).unwrap();
            let commands =
                format!("put {0} {1}\nget {1} {2}\n", file.display(), there.display(), back.display());
            let done = sftp(&way, &["-B", &size.to_string(), "-R", &number.to_string()], &commands);
            assert_eq!(done.code(), 0, "{size} {number} {done:?}");
            assert!(std::fs::read(&there).unwrap() == content, "put by {size} {number}");
            assert!(std::fs::read(&back).unwrap() == content, "get by {size} {number}");
        }
    }
}

/// Names that mean something to a shell or a pattern are names, and patterns find what they should.
#[test]
fn odd_names_are_names_and_patterns_find_them() {
    let world = World::start();
    let dir = world.cluster.dir();
    let (there, here) = (dir.join("there"), dir.join("here"));
    let names: [&[u8]; 12] = [
        b"g-one",
        b"g-two words",
        b"g-'quoted'",
        b"g-\"double\"",
        b"g-back\\slash",
        b"g-star*",
        b"g-ask?",
        b"g-[ab]",
        b"g-$HOME",
        b"g-`id`",
        b"g-new\nline",
        b"g-\xff\xfe",
    ];
    std::fs::create_dir(&there).unwrap();
    for name in names {
        std::fs::write(there.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    std::fs::write(there.join("other"), "other").unwrap();
    let all: BTreeSet<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    let arrived = || -> BTreeSet<Vec<u8>> {
        let files = std::fs::read_dir(&here).unwrap().map(Result::unwrap);
        files
            .map(|file| {
                let content = std::fs::read(file.path()).unwrap();
                assert_eq!(file.file_name().as_bytes(), content, "each has its own content");
                content
            })
            .collect()
    };
    let afresh = || {
        let _ = std::fs::remove_dir_all(&here);
        std::fs::create_dir(&here).unwrap();
    };
    for way in world.ways() {
        afresh();
        assert_eq!(
            sftp(&way, &[], &format!("lcd {}\nget {}/g-*\n", here.display(), there.display())).code(),
            0
        );
        assert_eq!(arrived(), all);
        afresh();
        let one = format!(
            "lcd {}\ncd {}\nget g-\\*tar\\*\nget g-\\[ab\\]\nget \"g-two words\"\nget g-sta[qrs]?\n",
            here.display(),
            there.display()
        );
        let done = sftp(&way, &[], &one.replace("g-\\*tar\\*\n", "g-star\\*\n"));
        assert_eq!(done.code(), 0, "{done:?}");
        let wanted: [&[u8]; 3] = [b"g-star*", b"g-[ab]", b"g-two words"];
        assert_eq!(arrived(), wanted.iter().map(|name| name.to_vec()).collect());
        // By `scp`, in both of its protocols.
        for older in ["-O", "-s"] {
            afresh();
            let mut scp = way.program("scp", &["-q", older]);
            scp.arg(format!("{}:{}/g-*", host(), there.display())).arg(&here);
            let done = run(scp);
            // Its older protocol has no way to say a name with a line's end: that one is left, and said.
            let mut most = all.clone();
            if older == "-O" {
                most.remove(&b"g-new\nline"[..]);
            }
            assert!(arrived().is_superset(&most), "{older} {done:?}");
        }
    }
}

#[test]
fn addresses_of_files_are_understood() {
    let world = World::start();
    let dir = world.cluster.dir();
    let (file, back) = (dir.join("file"), dir.join("back"));
    std::fs::write(&file, "by address").unwrap();
    for way in world.ways() {
        for scheme in ["sftp", "scp"] {
            let _ = std::fs::remove_file(&back);
            let mut program = way.program(scheme, &["-q"]);
            program.arg(format!("{scheme}://{}/{}", host(), file.display())).arg(&back);
            let done = run(program);
            assert_eq!(done.code(), 0, "{scheme} {done:?}");
            assert_eq!(std::fs::read(&back).unwrap(), b"by address");
        }
        // From the node to itself, by way of here and directly.
        let _ = std::fs::remove_file(&back);
        let mut scp = way.program("scp", &["-q", "-3"]);
        scp.arg(format!("scp://{}/{}", host(), file.display())).arg(format!(
            "scp://{}/{}",
            host(),
            back.display()
        ));
        run(scp).clean();
        assert_eq!(std::fs::read(&back).unwrap(), b"by address");
    }
}
