//! A user who attacks the processes that are being started for him.

use std::path::Path;

use teleport_ssh::sys::host;
use teleport_ssh::sys::spawn::{Command, SpawnError};
use tokio::io::AsyncReadExt;
use tokio::time::{Duration, Instant};

use super::support::*;

/// The kernel must hold the memory that a child borrows for closed from the moment the child has the user's
/// ids. It does so by a flag of the memory itself, and so of this process.
#[tokio::test]
async fn borrowed_memory_is_closed_to_the_user() {
    if !is_alone("sys::adversary::borrowed_memory_is_closed_to_the_user") || !host::is_root() {
        return;
    }
    if std::fs::read_to_string("/proc/sys/fs/suid_dumpable").unwrap().trim() == "1" {
        return;
    }
    nix::sys::prctl::set_dumpable(true).unwrap();
    run(&account(), "true").await.clean();
    assert!(!nix::sys::prctl::get_dumpable().unwrap(), "the flag was set while the memory was shared");

    nix::sys::prctl::set_dumpable(true).unwrap();
    let command = shell_command(&account(), "true").copying_memory();
    finish(command.spawn_piped().await.unwrap(), b"").await.clean();
    assert!(nix::sys::prctl::get_dumpable().unwrap(), "a copy is another memory");
}

/// Whatever the user sends to processes half-way: this process lives, every attempt ends, nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_of_the_user_harm_nobody_else() {
    if !host::is_root() || !is_alone("sys::adversary::signals_of_the_user_harm_nobody_else") {
        return;
    }
    let user = Throwaway::new();
    let account = user.account();
    let root = teleport_ssh::sys::accounts::Account::lookup("root").unwrap();
    let hammer = "$| = 1; $SIG{CONT} = 'IGNORE'; print qq(ready\\n); kill $ARGV[0], -1 while 1";
    for signal in ["STOP", "SEGV", "ABRT", "XCPU", "KILL"] {
        let program = Path::new("/usr/bin/perl");
        let arguments = ["perl", "-e", hammer, signal];
        let mut attacker = Command::program(&account, environment(&account), program, arguments)
            .unwrap()
            .spawn_piped()
            .await
            .unwrap();
        let mut ready = [0; 6];
        attacker.stdout.read_exact(&mut ready).await.unwrap();

        let (mut started, mut ended, mut stalled) = (0, 0, 0);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(400) {
            let arguments = ["sleep", "1000"];
            let command =
                Command::program(&account, environment(&account), Path::new("/bin/sleep"), arguments)
                    .unwrap();
            let attempt = command.start_limit(Duration::from_millis(50)).spawn_piped();
            match tokio::time::timeout(LIMIT, attempt).await.expect("every attempt ends") {
                Ok(piped) => {
                    started += 1;
                    drop(piped);
                }
                Err(SpawnError::Killed { .. }) => ended += 1,
                Err(SpawnError::Failed { source, .. }) => panic!("{source}"),
                Err(SpawnError::Stalled) => stalled += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        println!("{signal}: {started} started, {ended} killed half-way, {stalled} stopped half-way");
        assert!(started + ended + stalled > 0);
        // Others are served all the while.
        assert_eq!(run(&root, "echo served").await.clean(), "served\n");
        drop(attacker);
    }
}
