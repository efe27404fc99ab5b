//! Networks of the kernel that break: a place outside, one behind a router that translates addresses, and rules that lose packets.
//!
//! ```text
//!  outside, 10.99.0.1 ── router: 10.99.0.2, NAT; 10.98.0.1:3080 leads to the proxies in turns ── inside, 10.98.0.2
//! ```
//!
//! Each is a network namespace, which is gone with the last process, thread and file that holds it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

use super::program::run;

/// Where the proxies are for whoever is inside.
pub(crate) const BALANCER: &str = "10.98.0.1:3080";

/// What is outside, for whoever is inside.
pub(crate) const OUTSIDE: &str = "10.99.0.1";

struct Namespace(File);

/// The way in, for threads that stay there.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<File>);

impl Door {
    /// From now on this thread is inside.
    pub(crate) fn enter(&self) -> std::io::Result<()> {
        Ok(setns(&*self.0, CloneFlags::CLONE_NEWNET)?)
    }
}

impl Namespace {
    /// A new one, in which this thread is from now on.
    fn enter_new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let new = Self(File::open("/proc/thread-self/ns/net").unwrap());
        ip("link set lo up");
        new
    }

    fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// The three places. The thread that holds it is outside, and so is what it starts.
pub(crate) struct Networks {
    outside: Namespace,
    router: Namespace,
    inside: Namespace,
    moves: u8,
}

/// How a network fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Nothing passes.
    All,
    /// One packet in five is lost, either way.
    Fifth,
    /// What is sent to the inside is lost, and what comes from there passes.
    Replies,
}

/// Runs `test` outside, in a thread of its own: where a thread is, its test stays. For users who are not root, and where the kernel gives no
/// networks, as in some containers, there is no test; a program that is missing is a failure.
pub(crate) fn with_networks(test: impl FnOnce(Networks) + Send + 'static) {
    let may = |arguments: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.arg("-n").args(arguments);
        run(unshare).code() == 0
    };
    let has_programs = ["nft", "ip"].iter().all(|name| may(&[name, "-V"]));
    if !nix::unistd::geteuid().is_root()
        || !may(&["true"])
        || has_programs && !may(&["nft", "list", "ruleset"])
    {
        eprintln!("not tested: networks of the kernel are root's, and here there are none");
        return;
    }
    assert!(has_programs, "a program is missing, nft or ip; .ci/test installs them");
    if let Err(panic) = std::thread::spawn(|| test(Networks::new())).join() {
        std::panic::resume_unwind(panic);
    }
}

impl Networks {
    fn new() -> Self {
        let [inside, router, outside] = [(); 3].map(|()| Namespace::enter_new());
        let networks = Self { outside, router, inside, moves: 0 };
        ip(&format!("link add outer type veth peer name r0 netns {}", networks.router.path()));
        ip("address add 10.99.0.1/24 dev outer");
        ip("link set outer up");
        networks.router.enter();
        ip(&format!("link add r1 type veth peer name inner netns {}", networks.inside.path()));
        for (link, address) in [("r0", "10.99.0.2/24"), ("r1", "10.98.0.1/24")] {
            ip(&format!("address add {address} dev {link}"));
            ip(&format!("link set {link} up"));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        networks.inside.enter();
        ip("address add 10.98.0.2/24 dev inner");
        ip("link set inner up");
        ip("route add default via 10.98.0.1");
        networks.outside.enter();
        networks
    }

    /// What runs in there, and what it starts.
    pub(crate) fn inside<T>(&self, run: impl FnOnce() -> T) -> T {
        self.within(&self.inside, run)
    }

    /// The way there for threads of others.
    pub(crate) fn door(&self) -> Door {
        Door(Arc::new(self.inside.0.try_clone().unwrap()))
    }

    fn within<T>(&self, place: &Namespace, run: impl FnOnce() -> T) -> T {
        place.enter();
        let done = run();
        self.outside.enter();
        done
    }

    fn nft(&self, rules: &str) {
        self.within(&self.router, || {
            let mut nft = Command::new("nft");
            nft.arg(rules);
            run(nft).clean();
        });
    }

    /// Those inside are seen as the router.
    pub(crate) fn translate(&self) {
        self.nft(
            "add table ip nat; \
             add chain ip nat post { type nat hook postrouting priority 100 ; }; \
             add rule ip nat post oifname \"r0\" masquerade",
        );
    }

    /// Each connection to [`BALANCER`] goes to the next of these ports outside.
    pub(crate) fn balance(&self, to: [u16; 2]) {
        self.translate();
        self.nft(&format!(
            "add chain ip nat pre {{ type nat hook prerouting priority -100 ; }}; \
             add rule ip nat pre tcp dport 3080 dnat to {OUTSIDE} : numgen inc mod 2 map {{ 0 : {}, 1 : {} }}",
            to[0], to[1]
        ));
    }

    pub(crate) fn lose(&self, loss: Loss) {
        let rule = match loss {
            Loss::All => "drop",
            Loss::Fifth => "numgen random mod 100 < 20 drop",
            Loss::Replies => "iifname \"r0\" drop",
        };
        self.nft(&format!(
            "add table inet faults; \
             add chain inet faults passing {{ type filter hook forward priority 0 ; policy accept ; }}; \
             add rule inet faults passing {rule}"
        ));
    }

    pub(crate) fn heal(&self) {
        self.nft("delete table inet faults");
    }

    /// The inside gets another address, and the router another one outside: nothing that stood is known any more.
    pub(crate) fn move_house(&mut self) {
        let (old, new) = (2 + self.moves, 3 + self.moves);
        self.moves += 1;
        self.inside(|| {
            ip(&format!("address del 10.98.0.{old}/24 dev inner"));
            ip(&format!("address add 10.98.0.{new}/24 dev inner"));
            // It went with the last address of its network.
            ip("route replace default via 10.98.0.1");
        });
        self.within(&self.router, || {
            ip(&format!("address del 10.99.0.{old}/24 dev r0"));
            ip(&format!("address add 10.99.0.{new}/24 dev r0"));
        });
    }
}

#[track_caller]
fn ip(arguments: &str) {
    let mut ip = Command::new("ip");
    ip.args(arguments.split(' '));
    run(ip).clean();
}
