//! Bandwidth limits: a bucket of bytes that fills at a steady rate.
//!
//! Who takes more than is in it waits until the debt is paid; they are served in the order in which they came, piece by
//! piece, so a small object is not held up by the whole of a large one before it. Does not own what is counted:
//! sealed bytes of objects, not headers.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Bytes per second; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    pub upload: Option<NonZeroU64>,
    pub download: Option<NonZeroU64>,
}

/// What may be taken at once after a pause: so much time's bytes, but at least the least piece.
const BURST: f64 = 0.25;
const PIECE_MIN: u64 = 4 * 1024;
const PIECE_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Limiter {
    /// Bytes a second; 0 is no limit. May change while others wait: they pay what they owe at the old rate.
    rate: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Below zero: a debt.
    bytes: f64,
    at: Instant,
}

impl Limiter {
    pub(super) fn new(rate: Option<NonZeroU64>) -> Limiter {
        let rate = rate.map_or(0, NonZeroU64::get);
        let state = State { bytes: most(rate), at: Instant::now() };
        Limiter { rate: AtomicU64::new(rate), state: Mutex::new(state) }
    }

    /// From now on.
    pub(super) fn set(&self, rate: Option<NonZeroU64>) {
        self.rate.store(rate.map_or(0, NonZeroU64::get), Relaxed);
    }

    pub(super) fn is_limited(&self) -> bool {
        self.rate.load(Relaxed) != 0
    }

    /// The pieces in which bytes should be taken: several a second. `None` where it does not matter.
    pub(super) fn piece(&self) -> Option<usize> {
        match self.rate.load(Relaxed) {
            0 => None,
            rate => Some((rate / 8).clamp(PIECE_MIN, PIECE_MAX) as usize),
        }
    }

    /// Returns when so many bytes may go.
    pub(super) async fn take(&self, bytes: u64) {
        if !self.is_limited() {
            return;
        }
        // Held while waiting: the next one's turn comes after.
        let mut state = self.state.lock().await;
        let (now, rate) = (Instant::now(), self.rate.load(Relaxed));
        if rate == 0 {
            return;
        }
        let filled = state.bytes + now.duration_since(state.at).as_secs_f64() * rate as f64;
        *state = State { bytes: filled.min(most(rate)) - bytes as f64, at: now };
        if state.bytes < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-state.bytes / rate as f64)).await;
        }
    }
}

/// What may be taken at once.
fn most(rate: u64) -> f64 {
    (rate as f64 * BURST).max(PIECE_MIN as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limiter(rate: u64) -> Arc<Limiter> {
        Arc::new(Limiter::new(NonZeroU64::new(rate)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_pieces_of_any_size_and_a_pause_is_not_made_up_for() {
        for pieces in [[1 << 20; 8].as_slice(), &[4096; 2048], &[8 << 20]] {
            let (limiter, began) = (limiter(1 << 20), Instant::now());
            for piece in pieces {
                limiter.take(*piece).await;
            }
            let took = began.elapsed().as_secs_f64();
            assert!((7.7..=8.1).contains(&took), "8 MiB at 1 MiB/s took {took} s");
            tokio::time::sleep(Duration::from_secs(100)).await;
            let again = Instant::now();
            limiter.take(2 << 20).await;
            assert!(again.elapsed() >= Duration::from_millis(1_700), "only a quarter of a second's bytes were kept");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_object_does_not_wait_for_the_whole_of_a_large_one() {
        let (limiter, began) = (limiter(1 << 20), Instant::now());
        let large = tokio::spawn({
            let limiter = limiter.clone();
            async move {
                for _ in 0..128 {
                    limiter.take(limiter.piece().unwrap() as u64).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        limiter.take(64 << 10).await;
        assert!(began.elapsed() < Duration::from_millis(1_300), "{:?}", began.elapsed());
        assert!(!large.is_finished());
        large.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_may_come_change_and_go_while_it_is_used() {
        let (limiter, began) = (limiter(0), Instant::now());
        limiter.take(1 << 30).await;
        assert!(began.elapsed().is_zero() && limiter.piece().is_none(), "no limit");
        limiter.set(NonZeroU64::new(1 << 20));
        limiter.take(4 << 20).await;
        let slow = began.elapsed();
        assert!(slow >= Duration::from_secs(3), "{slow:?}");
        limiter.set(NonZeroU64::new(1 << 30));
        limiter.take(4 << 20).await;
        assert!(began.elapsed() - slow < Duration::from_secs(1));
        limiter.set(None);
        limiter.take(1 << 40).await;
        assert!(began.elapsed() - slow < Duration::from_secs(1));
    }
}
