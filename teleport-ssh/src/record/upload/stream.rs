//! A recording that the auth service has while the session runs: nothing is shown before it is acknowledged.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Uploader;
use super::file::{PART, UploadError, read};
use crate::record::live::Live;
use crate::view::jitter;

/// The most bytes of one call: they are kept apart until their part is whole.
const MAX_PIECE: u64 = 256 << 10;
/// How long the auth service may be away before the session ends. Less than what the session waits for itself.
const LIMIT: Duration = Duration::from_secs(10);
/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Streams a recording until its file is closed, or until the auth service takes no more of it: then the session is told to end, and
/// the rest is delivered like that of any other recording.
pub(super) async fn run(uploader: &Uploader, live: Arc<Live>) {
    tokio::select! {
        // First: what was told in the last moment is delivered with the end.
        biased;
        () = ended(&live) => {}
        outcome = stream(uploader, &live) => if let Err(error) = outcome {
            tracing::warn!(session = %live.meta.session, error = &error as &dyn std::error::Error, "a session is not streamed any longer");
            live.fail("the auth service does not take it");
        },
    }
}

async fn ended(live: &Live) {
    // The sender is in `live`, so that waiting does not fail.
    let _ = live.progress().wait_for(|progress| progress.ended).await;
}

async fn stream(uploader: &Uploader, live: &Live) -> Result<(), UploadError> {
    let session = live.meta.session;
    let file = File::open(uploader.spool.open_file(session)).map_err(UploadError::Read)?;
    patiently(uploader, || uploader.taken(uploader.store.create_recording(live.meta.clone()))).await?;
    let mut progress = live.progress();
    let mut acked = 0;
    loop {
        let now = *progress.borrow_and_update();
        while acked < now.len {
            let begin = acked / PART * PART;
            let (part, end) = (u32::try_from(acked / PART).unwrap_or(u32::MAX), begin + PART);
            if now.len >= end {
                // Whole: what was streamed of it before is replaced.
                patiently(uploader, || uploader.put(&file, session, part, end)).await?;
                acked = end;
            } else {
                let to = now.len.min(acked + MAX_PIECE);
                let piece = read(&file, acked, to).map_err(UploadError::Read)?;
                let call = || uploader.taken(uploader.store.stream_recording(session, acked, piece.clone()));
                patiently(uploader, call).await?;
                acked = to;
            }
        }
        live.advance(|progress| progress.acked = Some(now.written));
        if progress.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Calls until it is taken, for as long as a session can wait.
async fn patiently<F: Future<Output = Result<(), UploadError>>>(
    uploader: &Uploader,
    call: impl Fn() -> F,
) -> Result<(), UploadError> {
    let until = Instant::now() + LIMIT;
    let mut pause = BACKOFF.0;
    loop {
        let failure = match tokio::time::timeout_at(until, call()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.is_final() || error.is_lasting() => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => UploadError::Late,
        };
        let again = Instant::now() + jitter(pause, &*uploader.entropy);
        if again >= until {
            return Err(failure);
        }
        tokio::time::sleep_until(again).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}
