//! From start to ready, and the size of the program.

use anyhow::Result;
use tokio::time::Instant;

use crate::Scale;
use crate::cluster::{Cluster, program};
use crate::report::{Goal, Row, median};

/// Start to ready of all roles, first and later.
///
/// # Errors
/// What fails.
pub fn run(scale: Scale) -> Result<Vec<Row>> {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..scale.of(5, 1) {
        let dir = tempfile::tempdir()?;
        for times in [&mut first, &mut later] {
            let started = Instant::now();
            let cluster = Cluster::start(dir.path())?;
            times.push(started.elapsed().as_secs_f64() * 1000.0);
            drop(cluster);
        }
    }
    Ok(vec![
        Row::alone("start to ready, first start", "ms", median(first), Goal::AtMost(1000.0)),
        Row::alone("start to ready, existing data directory", "ms", median(later), Goal::AtMost(300.0)),
    ])
}

/// The size of `teleport` as it is: a release build is stripped.
///
/// # Errors
/// When it is not there.
pub fn size() -> Result<Vec<Row>> {
    let bytes = std::fs::metadata(program()?)?.len() as f64;
    Ok(vec![Row::alone("size of the program teleport", "MB", bytes / 1e6, Goal::AtMost(20.0))])
}
