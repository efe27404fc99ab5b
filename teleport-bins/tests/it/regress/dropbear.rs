//! A client that knows no certificates: it is turned away at both doors, without a prompt, and harms nobody.

use std::process::Command;

use super::World;
use crate::support::own_login;
use crate::support::program::run;
use teleport_core::audit::EventKind;

#[test]
fn dropbear_is_turned_away_in_good_order() {
    let world = World::start();
    let dir = world.cluster.dir();
    let current = std::fs::read_to_string(world.home.dir.join("current")).unwrap();
    // The key of the login, without the certificate; and a key of nobody.
    let (ours, other) = (dir.join("ours"), dir.join("other"));
    let mut convert = Command::new("dropbearconvert");
    convert.args(["openssh", "dropbear"]).arg(world.home.dir.join(current.trim()).join("key")).arg(&ours);
    assert_eq!(run(convert).code(), 0);
    let mut make = Command::new("dropbearkey");
    make.args(["-t", "ed25519", "-f"]).arg(&other);
    assert_eq!(run(make).code(), 0);
    for address in [world.node, world.cluster.ssh()] {
        for key in [&ours, &other] {
            // Its codes and ciphers, as far as they are ours too.
            for suite in [["-c", "chacha20-poly1305@openssh.com"], ["-c", "aes256-ctr,aes128-ctr"]] {
                let mut client = Command::new("dbclient");
                client.args(suite).arg("-y").arg("-i").arg(key).args(["-p", &address.port().to_string()]);
                client.arg(format!("{}@127.0.0.1", own_login())).arg("echo reached").env("HOME", dir);
                let output = run(client);
                assert_eq!((output.code(), output.out()), (1, ""), "{output:?}");
                // With CTR its only authentication code beside SHA-1 is one that we do not take.
                let why = if suite[1].contains("ctr") {
                    "No matching algo mac"
                } else {
                    "No auth methods could be used"
                };
                assert!(output.stderr.contains(why), "{output:?}");
            }
        }
    }
    // Each attempt with a key is in the audit log, and none of a login.
    let refused = world.cluster.event(EventKind::AuthFailure, |event| event.error.is_some());
    assert!(refused.user.is_none(), "{refused:?}");
    assert!(world.cluster.events(|event| event.code == EventKind::SessionStart).is_empty());
    assert_eq!(world.through().run(&[], "echo healthy").out(), "healthy\n");
}
