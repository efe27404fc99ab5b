//! Which recording is tried when: pure, but for randomness.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use teleport_core::entropy::Entropy;
use teleport_core::id::{SessionId, UserName};
use tokio::time::Instant;

use super::file::{PART, Source};
use crate::view::jitter;

/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(90));

/// A recording that is being delivered.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) source: Source,
    name: String,
    /// Whose it is, if that is known.
    pub(super) user: Option<UserName>,
    /// Whether somebody was told that it is too old.
    pub(super) told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    pause: Duration,
}

impl Wait {
    /// After one more failure.
    fn after(before: Option<&Self>, now: Instant, entropy: &dyn Entropy) -> Self {
        let pause = before.map_or(BACKOFF.0, |before| (before.pause * 2).min(BACKOFF.1));
        Self { until: now + jitter(pause, entropy), pause }
    }
}

/// What is known of the attempts so far.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// What was seen at the last look and was not yet considered, in its order.
    seen: VecDeque<Source>,
    running: HashSet<String>,
    waits: HashMap<String, Wait>,
    /// Of whom nothing is taken for now; `None` is everybody.
    held: HashMap<Option<UserName>, Wait>,
    /// How many parts of recordings that are being made were delivered.
    parts: HashMap<SessionId, u64>,
    told: HashSet<String>,
    /// Whether nothing waits.
    done: bool,
}

fn name(source: &Source) -> String {
    match source {
        Source::Closed(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        Source::Live(live) => live.meta.session.to_string(),
    }
}

impl Jobs {
    /// What waits now, all of it.
    pub(super) fn see(&mut self, waiting: Vec<Source>) {
        let names: HashSet<String> = waiting.iter().map(name).collect();
        self.waits.retain(|name, _| names.contains(name));
        self.told.retain(|name| names.contains(name));
        let sessions = |name: &SessionId| names.contains(&name.to_string());
        self.parts.retain(|session, _| sessions(session));
        self.done = !waiting.iter().any(|source| matches!(source, Source::Closed(_)));
        // What is under way may be gone when its turn comes, and is seen again if it is not.
        self.seen = waiting.into_iter().filter(|source| !self.running.contains(&name(source))).collect();
    }

    /// The next of those that were seen and are due. It counts as running until its outcome is told. One that is closed and held waits
    /// until it is not, and is seen again then, as all are that are not due: where there is none, nothing is left of what was seen.
    pub(super) fn due(
        &mut self,
        is_held: impl Fn(&str) -> bool,
        owner: impl Fn(&str) -> Option<UserName>,
        now: Instant,
    ) -> Option<Job> {
        if self.is_held(&None, now) {
            self.seen.clear();
        }
        while let Some(source) = self.seen.pop_front() {
            let name = name(&source);
            let waits = self.waits.get(&name).is_some_and(|wait| now < wait.until);
            let held = matches!(source, Source::Closed(_)) && is_held(&name);
            if waits || held || self.is_delivered(&source) {
                continue;
            }
            let user = match &source {
                Source::Closed(_) => owner(&name),
                Source::Live(live) => Some(live.meta.user.clone()),
            };
            if user.is_some() && self.is_held(&user, now) {
                continue;
            }
            // Whoever was held is asked for with one recording, not with all at once.
            if let Some(wait) = self.held.get_mut(&user).filter(|_| user.is_some()) {
                wait.until = now + wait.pause;
            }
            self.running.insert(name.clone());
            let told = self.told.contains(&name);
            return Some(Job { source, name, user, told });
        }
        None
    }

    fn is_held(&self, user: &Option<UserName>, now: Instant) -> bool {
        self.held.get(user).is_some_and(|wait| now < wait.until)
    }

    fn is_delivered(&self, source: &Source) -> bool {
        match source {
            Source::Closed(_) => false,
            Source::Live(live) => {
                let delivered = self.parts.get(&live.meta.session).copied().unwrap_or_default();
                let now = live.now();
                // One that has ended since is seen as closed.
                now.ended || now.synced / PART <= delivered
            }
        }
    }

    /// Whether nothing that is closed waits, as of the last look.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// When something is due that waits now.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let waits = self.waits.values().chain(self.held.values()).map(|wait| wait.until);
        waits.filter(|until| now < *until).min()
    }

    /// It was delivered, or is not tried again.
    pub(super) fn done(&mut self, job: &Job) {
        self.running.remove(&job.name);
        self.waits.remove(&job.name);
        self.told.remove(&job.name);
        self.held.remove(&job.user);
        self.held.remove(&None);
    }

    /// So many parts of a recording that is being made were delivered.
    pub(super) fn came_to(&mut self, job: &Job, parts: u64) {
        self.done(job);
        if let Source::Live(live) = &job.source {
            self.parts.insert(live.meta.session, parts);
        }
    }

    /// It is tried again later.
    pub(super) fn failed(&mut self, job: &Job, now: Instant, entropy: &dyn Entropy) {
        self.running.remove(&job.name);
        let wait = Wait::after(self.waits.get(&job.name), now, entropy);
        self.waits.insert(job.name.clone(), wait);
    }

    /// Nothing of this user, or of anybody, is taken for now.
    pub(super) fn hold(&mut self, user: Option<UserName>, now: Instant, entropy: &dyn Entropy) {
        let wait = Wait::after(self.held.get(&user), now, entropy);
        self.held.insert(user, wait);
    }

    /// Somebody was told that it is too old.
    pub(super) fn told(&mut self, job: &Job) {
        self.told.insert(job.name.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::path::PathBuf;
    use std::sync::Arc;

    use teleport_core::access::SessionRecording;
    use teleport_core::testing::NoEntropy;

    use super::*;
    use crate::record::live::Live;

    fn closed(names: &[&str]) -> Vec<Source> {
        names.iter().map(|name| Source::Closed(PathBuf::from(format!("/spool/{name}.tprec")))).collect()
    }

    fn next(jobs: &mut Jobs, now: Instant) -> Option<Job> {
        jobs.due(|_| false, |_| "alice".parse().ok(), now)
    }

    fn names(jobs: &mut Jobs, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| next(jobs, now)).map(|job| job.name).collect()
    }

    /// What was under way when it was seen may be gone when its turn comes; one that failed is seen again.
    #[test]
    fn what_is_under_way_has_no_turn_but_after_a_failure() {
        let (mut jobs, now) = (Jobs::default(), Instant::now());
        jobs.see(closed(&["b", "c"]));
        let (delivered, failed) = (next(&mut jobs, now).unwrap(), next(&mut jobs, now).unwrap());
        jobs.see(closed(&["a", "b", "c", "d"]));
        jobs.done(&delivered);
        jobs.failed(&failed, now, &NoEntropy);
        assert_eq!(names(&mut jobs, now), ["a", "d"]);
        let until = jobs.next(now).unwrap();
        jobs.see(closed(&["c"]));
        assert!(!jobs.is_done() && names(&mut jobs, now).is_empty(), "it waits");
        jobs.see(closed(&["c"]));
        assert_eq!(names(&mut jobs, until), ["c"]);
    }

    /// What was seen before everything was held is looked at anew: more may wait by then.
    #[test]
    fn nothing_stays_of_what_was_seen_while_everything_is_held() {
        let (mut jobs, now) = (Jobs::default(), Instant::now());
        jobs.see(closed(&["a", "b"]));
        let first = next(&mut jobs, now).unwrap();
        jobs.hold(None, now, &NoEntropy);
        jobs.failed(&first, now, &NoEntropy);
        let until = jobs.next(now).unwrap();
        assert!(next(&mut jobs, now).is_none());
        assert!(next(&mut jobs, until + BACKOFF.1).is_none(), "until the next look");
        jobs.see(closed(&["a", "b"]));
        assert_eq!(names(&mut jobs, until + BACKOFF.1), ["a", "b"]);
    }

    /// Its file has another name by then, under which it is seen.
    #[test]
    fn one_that_has_ended_since_it_was_seen_is_not_tried() {
        for ended in [false, true] {
            let mut jobs = Jobs::default();
            let live = Live::new(teleport_core::testing::recording_meta(), SessionRecording::BestEffort);
            live.advance(|progress| progress.synced = PART);
            jobs.see(vec![Source::Live(Arc::clone(&live))]);
            live.advance(|progress| progress.ended = ended);
            assert_eq!(next(&mut jobs, Instant::now()).is_none(), ended);
        }
    }
}
