//! What a stage tells of itself: plain values.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One stage, as `dripfs status --json` shows it. Counts are since the mount began.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StageStatus {
    pub name: String,
    /// Producers that have work and were not asked for it yet.
    pub waiting: u64,
    /// Jobs that were asked for and wait for a worker.
    pub queued: u64,
    /// Jobs that run.
    pub in_flight: u64,
    pub workers: u64,
    /// Bytes of what is queued and in flight.
    pub bytes: u64,
    pub done: u64,
    pub done_bytes: u64,
    /// Bytes a second, over the last ten seconds or so.
    pub rate: f64,
    /// Workers that panicked and were started again.
    pub restarts: u64,
    /// Jobs that were given up, or refused by what they met.
    pub failures: u64,
    /// Sums over all jobs: from the producer's offer to a worker, and in the worker's hands.
    pub waited_seconds: f64,
    pub worked_seconds: f64,
}

const WINDOW: Duration = Duration::from_secs(10);

/// Bytes in this window of time, and in the one before.
pub(super) struct Rate {
    begun: Instant,
    bytes: u64,
    before: u64,
}

impl Rate {
    pub fn new(now: Instant) -> Rate {
        Rate { begun: now, bytes: 0, before: 0 }
    }

    pub fn add(&mut self, now: Instant, bytes: u64) {
        self.turn(now);
        self.bytes += bytes;
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.begun);
        if passed >= WINDOW {
            self.before = if passed < 2 * WINDOW { self.bytes } else { 0 };
            (self.begun, self.bytes) = (now, 0);
        }
    }

    /// Of the window before as much counts as is not older than a window.
    pub fn per_second(&mut self, now: Instant) -> f64 {
        self.turn(now);
        let share = now.saturating_duration_since(self.begun).as_secs_f64() / WINDOW.as_secs_f64();
        (self.bytes as f64 + self.before as f64 * (1.0 - share)) / WINDOW.as_secs_f64()
    }
}
