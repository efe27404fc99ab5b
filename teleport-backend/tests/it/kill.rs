//! `kill -9` at random moments: what was acknowledged is there, and no batch is torn.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use teleport_backend::redb::RedbBackend;
use teleport_core::clock::SystemClock;
use teleport_core::storage::{Backend, BackendExt, Prefix, Revision};
use tokio::time::Instant;

use crate::child::{self, CYCLE, PARTS};

/// How many processes are killed; more at night, by the variable.
const CYCLES: usize = 300;

/// Cycles on one file before it is replaced, so that a new file is killed in its creation too.
const CYCLES_PER_FILE: usize = 25;

/// How long a writer may take to get as far as it should.
const PATIENCE: Duration = Duration::from_secs(20);

/// When the child is killed, whichever comes first.
struct Moment {
    acknowledged: usize,
    after: Duration,
}

/// Spread evenly, and the same in every run.
struct Moments(u64);

impl Moments {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn next(&mut self) -> Moment {
        match self.below(4) {
            // While it starts, creates, opens or repairs the file.
            0 => Moment { acknowledged: 0, after: Duration::from_micros(self.below(40_000)) },
            // As soon as it has opened it or has written little.
            1 => Moment { acknowledged: self.below(4) as usize, after: PATIENCE },
            _ => Moment { acknowledged: self.below(60) as usize, after: PATIENCE },
        }
    }
}

/// Runs a writer, kills it and returns whether it had opened the database, and the numbers that it acknowledged.
fn cycle(path: &Path, cycle: usize, moment: &Moment) -> (bool, Vec<usize>) {
    let mut writer = child::command("write_until_killed", path).with(CYCLE, &cycle.to_string()).spawn();
    let output = writer.stdout.take().unwrap();
    let (lines, read) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let (mut opened, mut acknowledged) = (false, Vec::new());
    let mut take = |line: &str| {
        opened |= line == "OPENED";
        acknowledged.extend(line.strip_prefix("ACK ").and_then(|number| number.parse::<usize>().ok()));
        (opened, acknowledged.len())
    };
    let by_time = moment.after < PATIENCE;
    let deadline = Instant::now() + moment.after;
    loop {
        match read.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let (opened, count) = take(&line);
                if !by_time && opened && count >= moment.acknowledged {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) if by_time => break,
            Err(error) => {
                writer.kill().unwrap();
                let output = writer.wait_with_output().unwrap();
                panic!("the writer failed ({error}): {}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
    // SIGKILL. What is in the pipe by then was acknowledged; the rest of it is read to the end.
    writer.kill().unwrap();
    writer.wait().unwrap();
    reader.join().unwrap();
    read.try_iter().for_each(|line| {
        take(&line);
    });
    (opened, acknowledged)
}

async fn verify(path: &Path, acknowledged: &BTreeMap<usize, Vec<usize>>) -> usize {
    let backend = RedbBackend::open(path, Arc::new(SystemClock::new())).await.unwrap();
    let mut batches: BTreeMap<(usize, usize), Vec<(usize, Revision)>> = BTreeMap::new();
    for item in backend.list(&Prefix::new("cycle").unwrap()).await.unwrap() {
        let numbers: Vec<usize> =
            item.key.as_str().split('/').skip(1).map(|number| number.parse().unwrap()).collect();
        let [cycle, number, part] = numbers[..] else { panic!("a key that nobody wrote: {}", item.key) };
        assert_eq!(item.value.len(), (number * 997) % 6000, "{}", item.key);
        assert!(item.value.iter().all(|byte| *byte == b'v'), "{}", item.key);
        batches.entry((cycle, number)).or_default().push((part, item.revision));
    }
    let mut revisions = BTreeSet::new();
    for ((cycle, number), parts) in &batches {
        let whole = parts.iter().map(|(part, _)| *part).eq(0..PARTS);
        assert!(whole, "batch {number} of cycle {cycle} is torn: {parts:?}");
        let revision = parts[0].1;
        assert!(parts.iter().all(|(_, other)| *other == revision), "one batch, one revision");
        assert!(revisions.insert(revision), "a revision was used twice");
    }
    for (cycle, numbers) in acknowledged {
        for number in numbers {
            assert!(batches.contains_key(&(*cycle, *number)), "batch {number} of cycle {cycle} is lost");
        }
    }
    // The counter was in every batch: it names the one with the greatest revision.
    if let Some(counter) = backend.get(&"counter".parse().unwrap()).await.unwrap() {
        let newest = batches.iter().find(|(_, parts)| parts[0].1 == counter.revision);
        let ((cycle, number), _) = newest.expect("the counter belongs to a batch");
        assert_eq!(counter.value, format!("{cycle}/{number}"));
        assert_eq!(revisions.last(), Some(&counter.revision));
    }
    backend.close().await;
    batches.len()
}

#[tokio::test]
async fn i1_acknowledged_batches_survive_sigkill() {
    let cycles = std::env::var("TELEPORT_KILL_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(CYCLES);
    let directory = tempfile::tempdir().unwrap();
    let mut moments = Moments(2026);
    let mut acknowledged: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let (mut total, mut survivors, mut early) = (0, 0, 0);
    for number in 0..cycles {
        let path = directory.path().join(format!("{}.redb", number / CYCLES_PER_FILE));
        if number % CYCLES_PER_FILE == 0 {
            acknowledged.clear();
        }
        let moment = moments.next();
        let (opened, numbers) = cycle(&path, number, &moment);
        early += usize::from(!opened);
        total += numbers.len();
        acknowledged.insert(number, numbers);
        // Not after each cycle: the next process has to repair the file then, and may be killed at that.
        let last = number % CYCLES_PER_FILE == CYCLES_PER_FILE - 1 || number + 1 == cycles;
        if last || moments.below(3) == 0 {
            let found = verify(&path, &acknowledged).await;
            survivors += if last { found } else { 0 };
        }
    }
    println!(
        "{cycles} processes killed, {early} of them before they had opened the file; {total} batches acknowledged, {survivors} found"
    );
    assert!(total > cycles, "the writers got something done");
    assert!(early > cycles / 50, "some were killed while they opened the file");
    assert!(survivors >= total);
}
