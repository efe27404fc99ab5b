//! Much data through the proxy, whole and in order, both ways at once.

use std::process::{Command, Stdio};

use super::{CLUSTER, PROXY, World, os_user, run, text};

const SIZE: usize = 100 << 20;

fn digest(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Bytes that no length, order or repetition could be mistaken in.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(SIZE / 8).flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_each_way_arrive_unchanged() {
    let world = World::start().await;
    world.sshd("web").await;
    let user = world.user("alice").await;
    let data = pattern();
    let expected = digest(&data);
    let file = world.dir.path().join("data");
    std::fs::write(&file, &data).unwrap();
    let options = world.options(&user).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let through = |remote: &str| -> Command {
        let mut ssh = world.ssh(&user);
        let jump = format!("ssh {options} -o {PROXY} -W [%h]:%p -p {} x@127.0.0.1", world.proxy.port());
        ssh.arg("-o").arg(format!("ProxyCommand={jump}"));
        ssh.arg(format!("{}@web.{CLUSTER}", os_user())).arg(remote);
        ssh
    };
    let mut up = through("sha256sum");
    up.stdin(std::fs::File::open(&file).unwrap());
    let output = run(up).await;
    assert!(text(&output.stdout).starts_with(&expected), "{}", text(&output.stderr));

    let down = through(&format!("cat {}", file.display()));
    assert_eq!(digest(&run(down).await.stdout), expected);

    // Both at once: what one direction waits for is what the other brings.
    let mut both = through("cat");
    both.stdin(std::fs::File::open(&file).unwrap()).stdout(Stdio::piped());
    assert_eq!(digest(&run(both).await.stdout), expected);
    world.stop().await;
}
