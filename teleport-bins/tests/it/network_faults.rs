//! Recordings while the network to the auth service is cut, stands still, or loses the answers. Goals G-19 and G-23.

use std::collections::BTreeMap;
use std::time::Duration;

use teleport_core::entropy::{Entropy, SystemEntropy};

use crate::processes::{Networks, Plan, Three};
use crate::recording_faults::{recorded, spooled};
use crate::support::daemon::Machine;
use crate::support::program::{Output, own, run, run_with};
use crate::support::relay::{FAULTS, Fault, Relay};
use crate::support::wait_for;

/// Tells its id first, then echoes lines; of `big` it makes output that takes several parts.
pub(crate) const SESSION: &str = "echo $SSH_SESSION_ID; while read -r line; do case $line in \
    big) head -c 1500000 /dev/urandom | base64;; *) echo \"$line\";; esac; done; exit 5";

/// Numbers that look random, and are the same again for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    /// `TELEPORT_SEED` for those of a run that failed.
    pub(crate) fn thrown() -> Self {
        let seed = std::env::var("TELEPORT_SEED").map_or_else(
            |_| {
                let mut bytes = [0; 8];
                SystemEntropy::new().fill(&mut bytes).unwrap();
                u64::from_le_bytes(bytes) | 1
            },
            |seed| seed.parse().unwrap(),
        );
        eprintln!("TELEPORT_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What became of a session, as its client saw it.
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) output: String,
    pub(crate) code: i32,
}

/// A session that talks for about a second, and nothing else.
pub(crate) fn session(three: &Three, point: u64, big: bool) -> Output {
    let mut input = String::new();
    for line in 0..40 {
        input.push_str(&format!("point {point} line {line}\n"));
        if big && line % 20 == 10 {
            input.push_str("big\n");
        }
    }
    run_with(three.ssh(SESSION), input.as_bytes())
}

pub(crate) fn seen(output: &Output) -> Option<Seen> {
    let id = output.out().lines().next()?.to_owned();
    Some(Seen { id, output: output.out().to_owned(), code: output.code() })
}

/// What the audit log has of a session.
#[derive(Debug, Default)]
struct Told {
    begun: usize,
    /// Whether the node said that nothing came of it.
    rejected: bool,
    ended: usize,
    /// Whether a node that was interrupted told of the end.
    recovered: bool,
    digests: Vec<String>,
}

impl Told {
    fn add(&mut self, event: &serde_json::Value) {
        match event["code"].as_str() {
            Some("T2000I") => self.begun += 1,
            Some("T1006W") => self.rejected = true,
            Some("T2004I") => {
                self.ended += 1;
                self.recovered |= event["recovered"] == true;
            }
            Some("T2005I") => self.digests.extend(event["sha256"].as_str().map(str::to_owned)),
            _ => {}
        }
    }

    /// Whether nothing more is to come.
    fn is_whole(&self) -> bool {
        let is_over = self.rejected || self.ended > 0;
        is_over && (!self.digests.is_empty() || self.begun == 0)
    }
}

/// Every session that began has one beginning, one end and one recording in the audit log. One that was refused has no end; of one
/// that the node did not live to announce there is only that.
#[track_caller]
pub(crate) fn each_happened_once(machine: &Machine) -> BTreeMap<String, String> {
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("an end and a digest of each session", || {
            told.clear();
            for event in machine.events("auth") {
                let Some(sid) = event["sid"].as_str() else { continue };
                told.entry(sid.to_owned()).or_default().add(&event);
            }
            told.values().all(Told::is_whole).then_some(())
        });
    }));
    told.retain(|_, told| whole.is_ok() || !told.is_whole());
    assert!(whole.is_ok(), "{told:#?}");
    let mut digests = BTreeMap::new();
    for (sid, told) in told {
        let once = match &told {
            Told { rejected: true, begun, ended, digests, .. } => {
                *begun <= 1 && *ended == 0 && digests.len() <= 1
            }
            Told { recovered: true, begun: 0, ended, digests, .. } => *ended == 1 && digests.len() == 1,
            Told { begun, ended, digests, .. } => (*begun, *ended, digests.len()) == (1, 1, 1),
        };
        assert!(once, "{sid}: {told:?}");
        digests.extend(told.digests.into_iter().map(|digest| (sid.clone(), digest)));
    }
    digests
}

/// The log is whole, and each recording is what it says.
#[track_caller]
pub(crate) fn everything_is_verified(machine: &Machine) {
    // Where the log is says the configuration.
    let mut tctl = own("tctl");
    tctl.arg("-c").arg(machine.path("auth.yaml")).args(["audit", "verify", "--recordings"]);
    let verified = run(tctl);
    assert_eq!(verified.code(), 0, "{verified:?}");
    assert!(!verified.out().contains("not stored"), "{verified:?}");
}

/// Breaks `network` after some time and mends it after more; what happens meanwhile is the outcome.
fn while_broken<T>(
    network: &Relay,
    fault: Fault,
    after: Duration,
    holds: Duration,
    what: impl FnOnce() -> T,
) -> T {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(after);
            network.fail(fault);
            std::thread::sleep(holds);
            network.heal();
        });
        what()
    })
}

/// `TELEPORT_CUTS=100` for the long run. Where the cut comes is left to chance: at the beginning, in the middle, at the end of a
/// session, or in its upload.
fn cuts(mode: &str, by_proxy: bool) {
    let cuts: u64 = std::env::var("TELEPORT_CUTS").map_or(4, |cuts| cuts.parse().unwrap());
    let mut dice = Dice::thrown();
    let three = Three::start_with(Machine::new(), Plan { mode, by_proxy, networks: true, ..Plan::default() });
    three.works();
    let Networks { proxy, node } = three.networks.as_ref().unwrap();
    let mut all = Vec::new();
    for point in 0..cuts {
        let fault = FAULTS[usize::try_from((point + dice.below(2)) % 3).unwrap()];
        let network = if dice.below(4) == 0 { proxy } else { node };
        let after = Duration::from_millis(dice.below(2000));
        // Less than streamed sessions wait.
        let holds = Duration::from_millis(50 + dice.below(3000));
        let big = dice.below(2) == 0;
        let output = while_broken(network, fault, after, holds, || session(&three, point, big));
        let told = format!("{point}: {fault:?} after {after:?} for {holds:?}, {}", output.stderr);
        match seen(&output) {
            Some(seen) => {
                assert_eq!(seen.code, 5, "a cut of seconds ends no session: {told}");
                assert!(seen.output.ends_with(&format!("point {point} line 39\n")), "{told}");
                all.push(seen);
            }
            // One that cannot be written down does not begin, and its client reads why.
            None => assert!(output.code() >= 254 && !output.stderr.is_empty(), "{told}"),
        }
    }
    three.works();
    assert!(!all.is_empty(), "cuts of seconds refuse not everything");
    let node = three.machine.path("node");
    wait_for("an empty spool", || (spooled(&node) == 0).then_some(()));
    let known = each_happened_once(&three.machine);
    for seen in all {
        assert!(known.contains_key(&seen.id), "{}", seen.id);
        let text = recorded(&three.machine.path("auth"), &seen.id);
        assert_eq!(text.len(), seen.output.len(), "{}", seen.id);
        assert!(text == seen.output, "the recording of {} is what its user saw", seen.id);
    }
    everything_is_verified(&three.machine);
}

#[test]
fn g19_cuts_of_the_network_lose_nothing_of_a_recording() {
    cuts("node", false);
}

#[test]
fn g19_cuts_of_the_network_lose_nothing_of_a_streamed_recording() {
    cuts("node-sync", false);
}

#[test]
fn g19_cuts_behind_the_proxy_lose_nothing_of_a_recording() {
    cuts("node-sync", true);
}

/// A network that stays silent ends streamed sessions, and begins none; what was shown before is kept, and it says so.
#[test]
fn g19_a_long_silence_of_the_network_ends_streamed_sessions() {
    let three =
        Three::start_with(Machine::new(), Plan { mode: "node-sync", networks: true, ..Plan::default() });
    three.works();
    let network = &three.networks.as_ref().unwrap().node;
    for fault in FAULTS {
        let mut talk = crate::recording_faults::Talk::run(&three, SESSION);
        let id = talk.hear().unwrap();
        talk.say("before").unwrap();
        network.fail(fault);
        let unheard = talk.say("never shown");
        assert!(unheard.is_none(), "{fault:?}");
        let (all, status) = talk.end();
        assert_eq!((all, status), (format!("{id}before\n"), Some(255)), "{fault:?}");
        let refused = run(three.ssh("echo in"));
        assert!(refused.out().is_empty() && refused.code() >= 254, "{fault:?} {refused:?}");
        assert!(refused.stderr.contains("cannot be recorded"), "{fault:?} {refused:?}");
        network.heal();
        three.works();
        let auth = three.machine.path("auth");
        let id = id.trim();
        wait_for("the recording", || {
            let text = recorded(&auth, id);
            // The end of what nobody saw may have arrived as well.
            (text == format!("{id}\nbefore\n") || text == format!("{id}\nbefore\nnever shown\n"))
                .then_some(())
        });
    }
    let node = three.machine.path("node");
    wait_for("an empty spool", || (spooled(&node) == 0).then_some(()));
    each_happened_once(&three.machine);
    everything_is_verified(&three.machine);
}
