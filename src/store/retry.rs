//! Trying again: for background writers, which have time. Foreground readers fail at their deadline instead.
//!
//! Does not log: the store itself says once that an outage began and once that it ended.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use crate::base::Random;

/// The first wait, doubled at each failure up to the longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait after the `failures`th failure (from 1): between half of the step and the whole, so that writers that
    /// failed together do not come back together.
    fn wait(&self, failures: u32, random: &Random) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let step = doubled.min(self.longest);
        let share = f64::from(u32::from_le_bytes(random.bytes())) / f64::from(u32::MAX);
        step.mul_f64(0.5 + share / 2.0)
    }
}

/// Why no more tries are made.
#[derive(Debug, Error, Clone)]
pub enum Stopped {
    #[error("cancelled")]
    Cancelled,
    /// An error that waiting does not cure.
    #[error(transparent)]
    Failed(#[from] StoreError),
}

/// Calls `attempt` until it succeeds, fails for good or `cancel` is cancelled. `attempt` gets its number, from 0: a
/// create that is tried again may meet its own object. A cancelled attempt may still take effect.
pub async fn retrying<T, F>(
    cancel: &CancellationToken,
    backoff: Backoff,
    random: &Random,
    mut attempt: impl FnMut(u32) -> F,
) -> Result<T, Stopped>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0_u32;
    loop {
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Stopped::Cancelled),
            result = attempt(failures) => result,
        };
        match result {
            Ok(value) => return Ok(value),
            // Permissions and credentials may be mended while the journal keeps what waits.
            Err(StoreError::Unavailable { .. } | StoreError::Refused { .. }) => failures = failures.saturating_add(1),
            Err(error @ (StoreError::BadUrl(_) | StoreError::NoConditionalCreate(_) | StoreError::TooLarge { .. })) => {
                return Err(error.into());
            }
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Stopped::Cancelled),
            () = tokio::time::sleep(backoff.wait(failures, random)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn down() -> StoreError {
        StoreError::Unavailable { name: "x".into(), why: "down".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_the_longest_and_an_answer_ends_them() {
        let began = Instant::now();
        let mut tries = Vec::new();
        let cancel = CancellationToken::new();
        let got = retrying(&cancel, Backoff::default(), &Random::Kernel, |k| {
            tries.push(began.elapsed());
            async move { if k < 12 { Err(down()) } else { Ok(k) } }
        })
        .await;
        assert_eq!(got.unwrap(), 12);
        let waits: Vec<Duration> = tries.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(102), "{waits:?}");
        assert!(waits[11] >= Duration::from_millis(7_500) && waits[11] <= Duration::from_millis(15_002), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_ends_the_wait_at_once() {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(3_333)).await;
            stop.cancel();
        });
        let began = Instant::now();
        let got = retrying(&cancel, Backoff::default(), &Random::Kernel, |_| async { Err::<(), _>(down()) }).await;
        assert!(matches!(got, Err(Stopped::Cancelled)));
        assert!(began.elapsed() < Duration::from_millis(3_340));
    }

    #[tokio::test]
    async fn what_waiting_does_not_cure_ends_the_tries() {
        let cancel = CancellationToken::new();
        let mut tries = 0;
        let got = retrying(&cancel, Backoff::default(), &Random::Kernel, |_| {
            tries += 1;
            async { Err::<(), _>(StoreError::NoConditionalCreate("no".into())) }
        })
        .await;
        assert!(matches!(got, Err(Stopped::Failed(StoreError::NoConditionalCreate(_)))));
        assert_eq!(tries, 1);
    }
}
