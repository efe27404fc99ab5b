//! Many processes: nothing is left of them, and they are cheap.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use teleport_ssh::sys::child::Exit;
use teleport_ssh::sys::modes::TerminalModes;
use teleport_ssh::sys::pty::{Pty, WindowSize};
use teleport_ssh::sys::spawn::Command;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::support::*;

/// Every child of this process, with its state.
fn children() -> Vec<(i32, char)> {
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let rest: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        if rest[1] == me {
            found.push((pid, rest[0].chars().next().unwrap()));
        }
    }
    found
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: {:?}", children());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_processes_leave_nothing_behind() {
    if !is_alone("sys::quantity::a_thousand_processes_leave_nothing_behind") {
        return;
    }
    let account = account();
    run(&account, "true").await.clean();
    let before = descriptors();
    let usage = |who| {
        let usage = getrusage(who).unwrap();
        let (user, system) = (usage.user_time(), usage.system_time());
        (user.tv_sec() + system.tv_sec()) as f64 * 1e3 + (user.tv_usec() + system.tv_usec()) as f64 / 1e3
    };
    for kind in ["pipes", "terminal", "pipes, memory copied"] {
        let (start, own, theirs) =
            (Instant::now(), usage(UsageWho::RUSAGE_SELF), usage(UsageWho::RUSAGE_CHILDREN));
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let (account, environment) = (account.clone(), environment(&account));
            tasks.spawn(async move {
                for _ in 0..63 {
                    let program = "/bin/true".as_ref();
                    let command = Command::program(&account, environment.clone(), program, ["true"]).unwrap();
                    let exit = if kind != "terminal" {
                        let command = if kind == "pipes" { command } else { command.copying_memory() };
                        command.spawn_piped().await.unwrap().child.wait().await.unwrap()
                    } else {
                        let pty =
                            Pty::open(&account, WindowSize::default(), &TerminalModes::default()).unwrap();
                        let (mut child, _master) = command.spawn_pty(pty).await.unwrap();
                        child.wait().await.unwrap()
                    };
                    assert_eq!(exit, Exit::Code(0));
                }
            });
        }
        tasks.join_all().await;
        let (count, seconds) = (16.0 * 63.0, start.elapsed().as_secs_f64());
        println!(
            "{kind}: {:.0} processes per second; CPU per process: {:.3} ms daemon, {:.3} ms program",
            count / seconds,
            (usage(UsageWho::RUSAGE_SELF) - own) / count,
            (usage(UsageWho::RUSAGE_CHILDREN) - theirs) / count,
        );
    }
    assert_eq!(children(), []);
    until("descriptors", || descriptors() == before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_nobody_waits_for_are_ended_and_reaped() {
    if !is_alone("sys::quantity::processes_nobody_waits_for_are_ended_and_reaped") {
        return;
    }
    let account = account();
    run(&account, "true").await.clean();
    let before = descriptors();
    for _ in 0..100 {
        let piped =
            shell_command(&account, "trap '' HUP; sleep 1000 & sleep 1000").spawn_piped().await.unwrap();
        drop(piped);
    }
    // The attempt itself is dropped half-way.
    for _ in 0..100 {
        let attempt = shell_command(&account, "exec sleep 1000").spawn_piped();
        let _ = tokio::time::timeout(Duration::from_micros(300), attempt).await;
    }
    // The reaper keeps two descriptors of its own.
    until("children", || children().is_empty()).await;
    until("descriptors", || descriptors() <= before + 2).await;
    for _ in 0..50 {
        drop(shell_command(&account, "exec sleep 1000").spawn_piped().await.unwrap());
    }
    until("children again", || children().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_programs_leave_nothing_behind() {
    if !is_alone("sys::quantity::refused_programs_leave_nothing_behind") {
        return;
    }
    let mut account = account();
    run(&account, "true").await.clean();
    account.shell = "/nonexistent".into();
    let before = descriptors();
    for _ in 0..200 {
        assert!(shell_command(&account, "true").spawn_piped().await.is_err());
        let pty = Pty::open(&account, WindowSize::default(), &TerminalModes::default()).unwrap();
        assert!(shell_command(&account, "true").spawn_pty(pty).await.is_err());
    }
    assert_eq!(children(), []);
    assert_eq!(descriptors(), before);
}
