//! Bandwidth limits: a bucket of bytes that fills at a steady rate.
//!
//! Who takes more than is in it waits until the debt is paid; they are served in the order in which they came, piece by
//! piece, so a small object is not held up by the whole of a large one before it. Does not own what is counted:
//! sealed bytes of objects, not headers.

use std::num::NonZeroU64;
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
    rate: NonZeroU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Below zero: a debt.
    bytes: f64,
    at: Instant,
}

impl Limiter {
    pub(super) fn new(rate: NonZeroU64) -> Limiter {
        let mut limiter = Limiter { rate, state: Mutex::new(State { bytes: 0.0, at: Instant::now() }) };
        limiter.state.get_mut().bytes = limiter.most();
        limiter
    }

    /// The pieces in which bytes should be taken: several a second.
    pub(super) fn piece(&self) -> usize {
        (self.rate.get() / 8).clamp(PIECE_MIN, PIECE_MAX) as usize
    }

    /// Returns when so many bytes may go.
    pub(super) async fn take(&self, bytes: u64) {
        // Held while waiting: the next one's turn comes after.
        let mut state = self.state.lock().await;
        let (now, rate) = (Instant::now(), self.rate.get() as f64);
        let filled = state.bytes + now.duration_since(state.at).as_secs_f64() * rate;
        *state = State { bytes: filled.min(self.most()) - bytes as f64, at: now };
        if state.bytes < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-state.bytes / rate)).await;
        }
    }

    fn most(&self) -> f64 {
        (self.rate.get() as f64 * BURST).max(PIECE_MIN as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limiter(rate: u64) -> Arc<Limiter> {
        Arc::new(Limiter::new(NonZeroU64::new(rate).unwrap()))
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
                    limiter.take(limiter.piece() as u64).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        limiter.take(64 << 10).await;
        assert!(began.elapsed() < Duration::from_millis(1_300), "{:?}", began.elapsed());
        assert!(!large.is_finished());
        large.await.unwrap();
    }
}
