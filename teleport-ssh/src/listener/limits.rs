//! How many strangers may knock at once, and who must wait before knocking again: pure, given the time and the dice.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Failed authentications after which a connection is ended.
pub const MAX_AUTH_FAILURES: u32 = 6;
/// Keys that a client may ask about without proving that it holds them.
pub const MAX_AUTH_PROBES: u32 = 20;
/// How long a client has to authenticate.
pub const LOGIN_GRACE: Duration = Duration::from_secs(60);

/// The limits of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "configuration; see `Default`")]
pub struct Limits {
    /// From so many unauthenticated connections on, new ones are refused with a growing probability.
    pub startup_begin: u32,
    /// The probability at [`Limits::startup_begin`], in percent.
    pub startup_rate: u32,
    /// With so many unauthenticated connections every new one is refused.
    pub startup_full: u32,
    /// Unauthenticated connections of one source: an IPv4 address, or an IPv6 network of 64 bits.
    pub per_source: u32,
    /// All connections together.
    pub connections: u32,
    /// How long a client has to authenticate.
    pub login_grace: Duration,
    /// Addresses, each of one machine, that are neither refused at random nor penalised, nor do they fill the room of the others: the
    /// proxies. Behind one of them are many users, and it has let them in.
    pub exempt: Vec<IpAddr>,
    /// Unauthenticated connections of one exempt address.
    pub per_exempt: u32,
    /// Whether sources that misbehave must wait.
    pub penalties: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            startup_begin: 200,
            startup_rate: 30,
            startup_full: 1000,
            per_source: 20,
            connections: 15_000,
            login_grace: LOGIN_GRACE,
            exempt: Vec::new(),
            per_exempt: 2048,
            penalties: true,
        }
    }
}

/// How a connection's beginning went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The client authenticated.
    Authenticated,
    /// It made the server fail; a defect.
    Crashed,
    /// It tried to authenticate and did not succeed.
    Failed,
    /// It took longer than the grace time.
    GraceExceeded,
    /// It left, or was cut, without an attempt.
    NoAttempt,
    /// It ended for a reason that is not the client's.
    Unblamed,
}

impl Outcome {
    /// What it costs the source.
    const fn penalty(self) -> Duration {
        Duration::from_secs(match self {
            Self::Authenticated | Self::Unblamed => 0,
            Self::Crashed => 90,
            Self::Failed => 5,
            Self::GraceExceeded => 10,
            Self::NoAttempt => 1,
        })
    }
}

/// Why a connection is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// Too many connections.
    Full,
    /// The source must wait.
    Penalty,
    /// Too many unauthenticated connections of this source.
    Source,
    /// Too many unauthenticated connections.
    Startups,
}

/// Who shares limits and penalties: an IPv4 address, or an IPv6 network of 64 bits, as one customer of a provider has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IpAddr::V4(Ipv4Addr::from_bits(address.to_bits()))),
            IpAddr::V6(address) => Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))),
        }
    }

    /// One address alone, whatever network it is in.
    fn alone(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

/// A connection that counts until it is authenticated or over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Startup {
    source: Source,
    exempt: bool,
    counted: bool,
}

impl Startup {
    pub(crate) const fn is_exempt(&self) -> bool {
        self.exempt
    }
}

/// The state of a listener's limits.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    startups: u32,
    connections: u32,
    by_source: HashMap<Source, u32>,
    penalties: Penalties,
    proxies: HashSet<IpAddr>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        let penalties = Penalties::default();
        Self {
            limits,
            startups: 0,
            connections: 0,
            by_source: HashMap::new(),
            penalties,
            proxies: HashSet::new(),
        }
    }

    /// These addresses, and those of [`Limits::exempt`], are exempt from now on.
    pub(crate) fn exempt(&mut self, proxies: &[IpAddr]) {
        self.proxies = proxies.iter().map(IpAddr::to_canonical).collect();
    }

    /// Decides about a new connection; `dice` is any random number.
    pub(crate) fn admit(&mut self, address: IpAddr, now: Instant, dice: u32) -> Result<Startup, Refused> {
        if self.connections >= self.limits.connections {
            return Err(Refused::Full);
        }
        let canonical = address.to_canonical();
        let exempt = self.proxies.contains(&canonical)
            || self.limits.exempt.iter().any(|known| known.to_canonical() == canonical);
        let (source, most) = match exempt {
            true => (Source::alone(address), self.limits.per_exempt),
            false => (Source::of(address), self.limits.per_source),
        };
        if !exempt {
            if dice % 100 < self.refusal() {
                return Err(Refused::Startups);
            }
            if self.limits.penalties && self.penalties.must_wait(source, now) {
                return Err(Refused::Penalty);
            }
        }
        if self.by_source.get(&source).copied().unwrap_or_default() >= most {
            return Err(Refused::Source);
        }
        *self.by_source.entry(source).or_default() += 1;
        self.startups += u32::from(!exempt);
        self.connections += 1;
        Ok(Startup { source, exempt, counted: true })
    }

    /// The probability of a refusal now, in percent.
    fn refusal(&self) -> u32 {
        let Limits { startup_begin: begin, startup_rate: rate, startup_full: full, .. } = self.limits;
        if self.startups >= full {
            100
        } else if self.startups < begin {
            0
        } else {
            let span = u64::from(full - begin).max(1);
            let growth = u64::from(100_u32.saturating_sub(rate)) * u64::from(self.startups - begin) / span;
            rate.saturating_add(u32::try_from(growth).unwrap_or(100))
        }
    }

    /// The connection's beginning is over, well or not. Later calls for the same connection change nothing.
    pub(crate) fn started(&mut self, startup: &mut Startup, outcome: Outcome, now: Instant) {
        if !std::mem::take(&mut startup.counted) {
            return;
        }
        self.startups = self.startups.saturating_sub(u32::from(!startup.exempt));
        if let Some(count) = self.by_source.get_mut(&startup.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&startup.source);
            }
        }
        self.penalise(startup, outcome, now);
    }

    fn penalise(&mut self, startup: &Startup, outcome: Outcome, now: Instant) {
        if self.limits.penalties && !startup.exempt {
            self.penalties.add(startup.source, outcome.penalty(), now);
        }
    }

    /// The connection is over.
    pub(crate) fn ended(&mut self, mut startup: Startup, outcome: Outcome, now: Instant) {
        let started = !startup.counted;
        self.started(&mut startup, outcome, now);
        self.connections = self.connections.saturating_sub(1);
        if started && outcome == Outcome::Crashed {
            self.penalise(&startup, outcome, now);
        }
    }

    /// How many connections are not authenticated yet, without those of exempt addresses.
    pub(crate) fn startups(&self) -> u32 {
        self.startups
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }
}

/// Sources that must wait, as OpenSSH's `PerSourcePenalties`: small offences add up, below the minimum nothing happens.
#[derive(Debug, Default)]
struct Penalties {
    by_source: HashMap<Source, (Instant, bool)>,
    by_end: BTreeSet<(Instant, Source)>,
}

impl Penalties {
    /// A source waits only once its penalties have added up to this.
    const MIN: Duration = Duration::from_secs(15);
    /// Nobody waits longer.
    const MAX: Duration = Duration::from_secs(600);
    /// Sources that are remembered; then the one that is nearest to its end is forgiven.
    const SOURCES: usize = 65_536;

    fn must_wait(&mut self, source: Source, now: Instant) -> bool {
        self.forgive(now);
        self.by_source.get(&source).is_some_and(|(_, active)| *active)
    }

    fn add(&mut self, source: Source, penalty: Duration, now: Instant) {
        if penalty.is_zero() {
            return;
        }
        self.forgive(now);
        let (before, was_active) = self.by_source.get(&source).copied().unwrap_or((now, false));
        let end = (before + penalty).min(now + Self::MAX);
        let active = was_active || end.duration_since(now) >= Self::MIN;
        self.by_end.remove(&(before, source));
        self.by_end.insert((end, source));
        self.by_source.insert(source, (end, active));
        if self.by_source.len() > Self::SOURCES
            && let Some((_, nearest)) = self.by_end.pop_first()
        {
            self.by_source.remove(&nearest);
        }
    }

    fn forgive(&mut self, now: Instant) {
        while let Some((end, source)) = self.by_end.first().copied()
            && end <= now
        {
            self.by_end.pop_first();
            self.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests;
