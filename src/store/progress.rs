//! How long a request over a network may take: as long as it moves.
//!
//! A transfer that moves goes on, however slow the link; one that stands still for the deadline is given up. What was
//! handed to the kernel may lie in its buffers for long on a slow link, and nobody can see it leave: so a transfer may
//! stand still for the deadline *and* for the time that those bytes need at the rate that this store has shown
//! ([`Pace`]). Waiting for one's turn under a bandwidth limit is no standstill.
//!
//! Owns: what has moved, and when to give up. Does not own who is told.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Rates that are believed, bytes per second: slower links get no more patience, faster ones no less.
const SLOWEST: u64 = 4 * 1024;
const FASTEST: u64 = 64 * 1024;
/// What is so much slower than what was seen has stopped.
const SLACK: u64 = 8;
/// Before anything was seen.
const UNKNOWN: u64 = 128 * 1024;
/// What a kernel buffers for a connection, at most.
const BUFFERED: u64 = 4 << 20;
/// Less than this says nothing about a rate.
const TELLING: u64 = 32 * 1024;

tokio::task_local! {
    /// Of the request that the current task works on: the transport finds it here.
    pub(super) static TRANSFER: Arc<Progress>;
}

/// What has moved of one request.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Instant,
    sent: u64,
    received: u64,
    /// Waits for its turn.
    held: u32,
    /// ... and did so for so long in all.
    waited: Duration,
}

impl Progress {
    pub(super) fn new() -> Arc<Progress> {
        Arc::new(Progress(Mutex::new(State {
            last: Instant::now(),
            sent: 0,
            received: 0,
            held: 0,
            waited: Duration::ZERO,
        })))
    }

    pub(super) fn sent(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.sent += bytes;
        state.last = Instant::now();
    }

    /// An answer, or more of it: what was sent has arrived.
    pub(super) fn received(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.sent = 0;
        state.received += bytes;
        state.last = Instant::now();
    }

    /// Does something for which the other side is not to blame.
    pub(super) async fn held<T>(&self, work: impl Future<Output = T>) -> T {
        let held = Held::new(self);
        let done = work.await;
        drop(held);
        done
    }

    fn patience(&self, quiet: Duration, pace: &Pace) -> Patience {
        let state = self.0.lock();
        if state.held > 0 {
            return Patience::Held;
        }
        let buffered = state.sent.min(BUFFERED);
        Patience::Until(state.last + quiet + Duration::from_secs_f64(buffered as f64 / pace.rate() as f64))
    }
}

/// Ends the hold also where the work is dropped.
struct Held<'a> {
    progress: &'a Progress,
    since: Instant,
}

impl Held<'_> {
    fn new(progress: &Progress) -> Held<'_> {
        progress.0.lock().held += 1;
        Held { progress, since: Instant::now() }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.progress.0.lock();
        state.held -= 1;
        state.last = Instant::now();
        state.waited += self.since.elapsed();
    }
}

enum Patience {
    Held,
    Until(Instant),
}

/// How fast this store was seen to take bytes.
#[derive(Debug)]
pub(super) struct Pace(AtomicU64);

impl Default for Pace {
    fn default() -> Pace {
        Pace(AtomicU64::new(UNKNOWN))
    }
}

impl Pace {
    fn rate(&self) -> u64 {
        (self.0.load(Ordering::Relaxed) / SLACK).clamp(SLOWEST, FASTEST)
    }

    /// So many bytes were sent, and answered.
    pub(super) fn arrived(&self, bytes: u64, took: Duration) {
        if bytes >= TELLING {
            let seen = (bytes as f64 / took.as_secs_f64().max(1e-3)) as u64;
            let known = self.0.load(Ordering::Relaxed);
            self.0.store(seen.min(known.saturating_mul(2)).max(SLOWEST), Ordering::Relaxed);
        }
    }

    /// A transfer with bytes on their way was given up: perhaps they were only slow.
    fn gave_up(&self) {
        let known = self.0.load(Ordering::Relaxed).min(UNKNOWN);
        self.0.store((known / 4).max(SLOWEST), Ordering::Relaxed);
    }
}

/// When a request is given up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// In any case.
    After(Duration),
    /// When it stands still for `quiet`; or when it has taken `most`, waiting for its turn apart: what trickles only to
    /// be waited for is given up too.
    Standstill { quiet: Duration, most: Duration },
}

/// Does `work` within its time; else the error is how long it stood still, or took.
pub(super) async fn within<T>(
    rule: Rule,
    progress: &Arc<Progress>,
    pace: &Pace,
    work: impl Future<Output = T>,
) -> Result<T, Duration> {
    let work = TRANSFER.scope(progress.clone(), work);
    let (quiet, most) = match rule {
        Rule::After(time) => return tokio::time::timeout(time, work).await.map_err(|_| time),
        Rule::Standstill { quiet, most } => (quiet, most),
    };
    let began = Instant::now();
    let end = || began + most + progress.0.lock().waited;
    tokio::pin!(work);
    loop {
        let until = match progress.patience(quiet, pace) {
            Patience::Held => Instant::now() + quiet,
            Patience::Until(until) => until.min(end()),
        };
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep_until(until) => {}
        }
        // In this order: what was waited for until now counts.
        let (patience, end) = (progress.patience(quiet, pace), end());
        if let Patience::Until(until) = patience
            && until.min(end) <= Instant::now()
        {
            let state = progress.0.lock();
            if until > end {
                return Err(most);
            }
            if state.sent > 0 {
                pace.gave_up();
            }
            return Err(state.last.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(10);
    const MOST: Duration = Duration::from_secs(1_000);

    async fn run(pace: &Pace, work: impl AsyncFnOnce(&Progress)) -> (Result<(), Duration>, f64) {
        let (progress, began) = (Progress::new(), Instant::now());
        let result = within(Rule::Standstill { quiet: QUIET, most: MOST }, &progress, pace, work(&progress)).await;
        (result, began.elapsed().as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_goes_on_and_what_stands_still_is_given_up() {
        let pace = Pace::default();
        let (result, took) = run(&pace, async |progress| {
            for _ in 0..800 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                progress.received(10 << 10);
            }
        })
        .await;
        assert!(result.is_ok() && took >= 800.0, "8 MiB at 10 KiB/s: {took}");
        let (result, took) = run(&pace, async |progress| {
            progress.received(10);
            std::future::pending().await
        })
        .await;
        assert!(result.is_err() && (10.0..10.1).contains(&took), "{took}");
        let (result, took) = run(&pace, async |progress| {
            progress.sent(65 << 10);
            std::future::pending().await
        })
        .await;
        assert!(result.is_err() && (14.0..14.2).contains(&took), "what lies in buffers has some time more: {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_trickles_ends_too() {
        let (result, took) = run(&Pace::default(), async |progress| {
            loop {
                tokio::time::sleep(Duration::from_secs(9)).await;
                progress.received(1);
            }
        })
        .await;
        assert!(result.is_err() && (1_000.0..1_001.0).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_turn_is_no_standstill() {
        let (result, took) = run(&Pace::default(), async |progress| {
            progress.held(tokio::time::sleep(Duration::from_secs(2_000))).await;
            tokio::time::sleep(Duration::from_secs(9)).await;
        })
        .await;
        assert!(result.is_ok() && took >= 2_009.0, "{took}");
    }

    /// A link at 10 KiB/s behind a kernel that swallows two megabytes at once.
    #[tokio::test(start_paused = true)]
    async fn a_slow_link_behind_large_buffers_is_learned() {
        let pace = Pace::default();
        let mut tries = 0;
        loop {
            tries += 1;
            let (result, took) = run(&pace, async |progress| {
                progress.sent(2 << 20);
                tokio::time::sleep(Duration::from_secs(200)).await;
            })
            .await;
            if result.is_ok() {
                pace.arrived(2 << 20, Duration::from_secs_f64(took));
                break;
            }
        }
        assert!(tries <= 3, "{tries}");
        let (result, _) = run(&pace, async |progress| {
            progress.sent(2 << 20);
            tokio::time::sleep(Duration::from_secs(200)).await;
        })
        .await;
        assert!(result.is_ok(), "what was learned is kept");
        for _ in 0..8 {
            pace.arrived(1 << 20, Duration::from_millis(10));
        }
        assert_eq!(pace.rate(), FASTEST, "and a link that is fast again is believed");
    }
}
