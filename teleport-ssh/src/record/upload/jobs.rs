//! Which recording is tried when: pure, but for randomness.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use teleport_core::entropy::Entropy;
use teleport_core::id::{SessionId, UserName};
use tokio::time::Instant;

use super::file::{PART, Source, meta_of};
use crate::view::jitter;

/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(90));

/// A recording that is being delivered.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) source: Source,
    name: String,
    /// Whose it is, if that can be read.
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
    /// At most `most` of those that wait and are due. They count as running until their outcome is told. One that is closed and held
    /// waits until it is not.
    pub(super) fn due(
        &mut self,
        waiting: Vec<Source>,
        is_held: impl Fn(&str) -> bool,
        now: Instant,
        most: usize,
    ) -> Vec<Job> {
        let names: HashSet<String> = waiting.iter().map(name).collect();
        self.waits.retain(|name, _| names.contains(name));
        self.told.retain(|name| names.contains(name));
        let sessions = |name: &SessionId| names.contains(&name.to_string());
        self.parts.retain(|session, _| sessions(session));
        self.done = !waiting.iter().any(|source| matches!(source, Source::Closed(_)));
        let mut due = Vec::new();
        for source in waiting {
            if due.len() >= most || self.is_held(&None, now) {
                break;
            }
            let name = name(&source);
            let waits = self.waits.get(&name).is_some_and(|wait| now < wait.until);
            let held = matches!(source, Source::Closed(_)) && is_held(&name);
            if waits || held || self.running.contains(&name) || self.is_delivered(&source) {
                continue;
            }
            let user = match &source {
                Source::Closed(path) => meta_of(path).map(|meta| meta.user),
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
            due.push(Job { source, name, user, told });
        }
        due
    }

    fn is_held(&self, user: &Option<UserName>, now: Instant) -> bool {
        self.held.get(user).is_some_and(|wait| now < wait.until)
    }

    fn is_delivered(&self, source: &Source) -> bool {
        match source {
            Source::Closed(_) => false,
            Source::Live(live) => {
                let delivered = self.parts.get(&live.meta.session).copied().unwrap_or_default();
                live.now().synced / PART <= delivered
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
