//! What a command reads and writes, and how it ends.

use std::io::Read;
use std::process::Stdio;

use super::{World, bytes, runs};
use crate::support::program::{run, shell};
use crate::support::wait_for;

#[test]
fn the_status_arrives_whatever_became_of_the_streams() {
    let world = World::start();
    for way in world.ways() {
        for code in [0, 4, 44, 255] {
            assert_eq!(way.run(&[], &format!("exit {code}")).code(), code, "{way:?}");
            // Both outputs have ended long before.
            let closed = way.run(&[], &format!("exec >&- 2>&-; sleep 0.2; exit {code}"));
            assert_eq!((closed.code(), closed.out()), (code, ""), "{way:?}");
        }
        // Ended by a signal; the output before it is all there.
        let killed = way.run(&["-v"], "echo said; kill -9 $$");
        assert_eq!((killed.code(), killed.out()), (255, "said\n"), "{way:?}");
        assert!(killed.stderr.contains("rtype exit-signal"), "{}", killed.stderr);
        // The client closes its own side at once, and hears of the end all the same.
        let silent = way.run(&["-n"], "cat; sleep 0.2; echo late; exit 7");
        assert_eq!((silent.code(), silent.out()), (7, "late\n"), "{way:?}");
    }
}

#[test]
fn the_second_output_is_whole_also_after_the_end_of_the_first() {
    const LENGTH: usize = 3_000_000;
    let world = World::start();
    let much = format!("head -c {LENGTH} /dev/zero | tr '\\0' 'e' >&2");
    for way in world.ways() {
        for (before, shown) in
            [("", ""), ("echo out; ", "out\n"), ("echo out; exec >&-; ", "out\n"), ("exec >&-; ", "")]
        {
            let output = way.run(&[], &format!("{before}{much}; exit 3"));
            assert_eq!((output.code(), output.out()), (3, shown), "{before:?} {way:?}");
            assert_eq!(output.stderr.len(), LENGTH, "{before:?} {way:?}");
            assert!(output.stderr.bytes().all(|byte| byte == b'e'));
        }
    }
}

/// Who reads at the client's side has heard enough. Stock `ssh` says so to servers that are called OpenSSH, and to no other: of ours it reads
/// on until the command ends, or it is ended itself.
#[test]
fn whoever_has_heard_enough_ends_what_speaks() {
    let world = World::start();
    for (number, way) in world.ways().iter().enumerate() {
        assert_eq!(way.run(&[], "yes | head -n 2000").out().lines().count(), 2000);
        for round in 0..4 {
            let gone = run(shell(&format!("{} 'echo {round}; seq 100000' | true", way.line("-n"))));
            assert_eq!(gone.code(), 0, "{gone:?}");
        }
        // The client ends, and so does what spoke to it.
        let word = format!("endless-{number}-{}", std::process::id());
        let mut endless = way.ssh(&["-n"], &format!("yes {word}"));
        let mut endless = endless.stdout(Stdio::piped()).spawn().unwrap();
        let mut heard = vec![0; 1 << 20];
        endless.stdout.take().unwrap().read_exact(&mut heard).unwrap();
        assert!(runs(&word));
        endless.kill().unwrap();
        endless.wait().unwrap();
        wait_for("the end of what spoke", || (!runs(&word)).then_some(()));
    }
}

/// What is written in pieces of every size arrives as it was.
#[test]
fn pieces_of_every_size_are_put_together() {
    const SIZES: &str = "10 100 1k 32k 64k 128k 256k 1000003";
    let world = World::start();
    let content = bytes(300_001);
    let file = world.cluster.dir().join("content");
    std::fs::write(&file, &content).unwrap();
    let pieces = format!("for size in {SIZES}; do dd if={} obs=$size status=none; done", file.display());
    let all = content.repeat(SIZES.split(' ').count());
    for way in world.ways() {
        let output = way.run(&[], &pieces);
        assert!(output.stdout == all, "{} of {} bytes: {way:?}", output.stdout.len(), all.len());
        let copy = world.cluster.dir().join("copy");
        let sent = run(shell(&format!("({pieces}) | {} 'cat > {}'", way.line(""), copy.display())));
        assert_eq!((sent.code(), sent.stderr.as_str()), (0, ""));
        assert!(std::fs::read(&copy).unwrap() == all, "{way:?}");
        std::fs::remove_file(&copy).unwrap();
    }
}
