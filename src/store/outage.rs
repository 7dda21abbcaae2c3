//! Is the store answering? One log line when it stops, one when it goes on, however many requests fail meanwhile.
//!
//! Reads may work where writes do not (a read-only directory, a full disk), so an outage that a write met ends with
//! the next write that succeeds, one that a read met with the next answer of any kind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::StoreError;

#[derive(Default)]
pub(super) struct Outage {
    since: Mutex<Option<Since>>,
    /// A store that never did is not yet anybody's: whoever asks says what went wrong.
    has_answered: AtomicBool,
}

struct Since {
    began: Instant,
    why: String,
    writing: bool,
    failures: u64,
}

impl Outage {
    pub(super) fn failed(&self, writing: bool, url: &str, error: &StoreError) {
        let mut since = self.since.lock();
        match since.as_mut() {
            None => {
                let has_answered = self.has_answered.load(Ordering::Relaxed);
                let level = if has_answered { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "{url}: outage: {error}");
                *since = Some(Since { began: Instant::now(), why: error.to_string(), writing, failures: 1 });
            }
            Some(since) => {
                since.why = error.to_string();
                since.writing |= writing;
                since.failures += 1;
            }
        }
    }

    pub(super) fn answered(&self, writing: bool, url: &str) {
        self.has_answered.store(true, Ordering::Relaxed);
        let mut since = self.since.lock();
        if let Some(Since { began, failures, .. }) = since.take_if(|since| writing || !since.writing) {
            log::info!("{url}: answers again after {:.1} s and {failures} failures", began.elapsed().as_secs_f64());
        }
    }

    pub(super) fn now(&self) -> Option<(Duration, String)> {
        self.since.lock().as_ref().map(|since| (since.began.elapsed(), since.why.clone()))
    }
}
