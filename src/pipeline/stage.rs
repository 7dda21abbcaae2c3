//! A stage with demand, in the spirit of GenStage: it asks its producers for work up to its max demand, and again when
//! what it asked for and has not ended falls to its min demand. What someone waits for is taken whenever there is room.
//!
//! Owns the queue between producer and workers, and the workers. Workers are tasks that begin when there is work and end
//! when there is none, so nothing needs to be shut down. Does not own what a job is.
//!
//! Invariants
//! - Jobs that were given and have not ended are at most `max`, their bytes at most `bytes` (or it is one job).
//! - The most urgent goes first, both of the producers and of the queue; `kept` workers take only what is waited for.
//! - A worker that panics is replaced, and its job given to the next one. After [`TRIES`] tries a job is given up and
//!   its producer told why; meanwhile the others go on.
//! - A job is told of exactly once. Its permit comes back when the job is dropped.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::metrics::Rate;
use super::urgency::{Lines, Urgent};
use super::{Class, Demand, StageStatus, Urgency};

/// How often a job is tried.
pub const TRIES: u32 = 3;

/// What is done in a stage.
pub trait Job: Send + Sync + 'static {
    type Done: Send + 'static;
    type Error: std::fmt::Display + From<Lost> + Send + 'static;

    /// One try.
    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<Self::Done, Self::Error>>;

    /// Might the next try do better?
    fn may_pass(_: &Self::Error) -> bool {
        false
    }
}

/// The job has no answer of its own: each worker that had it panicked, or the runtime ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the job was lost")]
pub struct Lost;

/// A handle: clones are the same stage.
pub struct Stage<J: Job>(Arc<Shared<J>>);

impl<J: Job> Clone for Stage<J> {
    fn clone(&self) -> Self {
        Stage(self.0.clone())
    }
}

struct Shared<J: Job> {
    name: &'static str,
    demand: Demand,
    /// Where its workers run: where its first job came from.
    runtime: OnceLock<Handle>,
    state: Mutex<State<J>>,
}

struct State<J: Job> {
    waiting: Lines<Waiting<J>>,
    queued: Lines<Queued<J>>,
    /// Asked for and not given yet.
    asked: usize,
    /// Given and not ended.
    held: usize,
    bytes: usize,
    running: usize,
    number: u64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    done: u64,
    done_bytes: u64,
    restarts: u64,
    failures: u64,
    waited: Duration,
    worked: Duration,
    rate: Option<Rate>,
    /// When the log heard of it last.
    told: Option<Instant>,
}

/// A producer.
struct Waiting<J: Job> {
    urgency: Urgency,
    bytes: usize,
    since: Instant,
    tell: oneshot::Sender<Asked<J>>,
}

impl<J: Job> Urgent for Waiting<J> {
    fn urgency(&self) -> &Urgency {
        &self.urgency
    }
}

/// A job that was given.
struct Queued<J: Job> {
    job: Arc<J>,
    tries: u32,
    tell: oneshot::Sender<Result<J::Done, J::Error>>,
    permit: Asked<J>,
}

impl<J: Job> Urgent for Queued<J> {
    fn urgency(&self) -> &Urgency {
        &self.permit.urgency
    }
}

/// The stage asks for one job. Given with the job or dropped without one, it comes back to the stage in the end.
pub struct Asked<J: Job> {
    shared: Arc<Shared<J>>,
    urgency: Urgency,
    bytes: usize,
    since: Instant,
}

impl<J: Job> Drop for Asked<J> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.held -= 1;
        state.bytes -= self.bytes;
        self.shared.settle(state);
    }
}

/// The answer to come.
pub struct Told<J: Job>(oneshot::Receiver<Result<J::Done, J::Error>>);

impl<J: Job> Future for Told<J> {
    type Output = Result<J::Done, J::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context).map(|told| told.unwrap_or_else(|_| Err(Lost.into())))
    }
}

impl<J: Job> Asked<J> {
    /// Gives the job.
    pub fn give(self, job: J) -> Told<J> {
        let (tell, told) = oneshot::channel();
        let shared = self.shared.clone();
        let _ = shared.runtime.get_or_init(Handle::current);
        let mut state = shared.state.lock();
        let number = state.next_number();
        state.queued.push(number, Queued { job: Arc::new(job), tries: 0, tell, permit: self });
        shared.settle(state);
        Told(told)
    }
}

impl<J: Job> Stage<J> {
    pub fn new(name: &'static str, demand: Demand) -> Stage<J> {
        let demand = demand.sound();
        let state = State {
            waiting: Lines::new(),
            queued: Lines::new(),
            asked: demand.max,
            held: 0,
            bytes: 0,
            running: 0,
            number: 0,
            counts: Counts::default(),
        };
        Stage(Arc::new(Shared { name, demand, runtime: OnceLock::new(), state: Mutex::new(state) }))
    }

    /// Offers a job of so many bytes; returns when the stage asks for it.
    pub async fn offer(&self, urgency: &Urgency, bytes: usize) -> Asked<J> {
        let answer = {
            let mut state = self.0.state.lock();
            let (tell, answer) = oneshot::channel();
            let (urgency, number, since) = (urgency.clone(), state.next_number(), Instant::now());
            state.waiting.push(number, Waiting { urgency, bytes, since, tell });
            self.0.settle(state);
            answer
        };
        answer.await.expect("a stage asks, or lives on: this handle keeps it alive")
    }

    /// Offers a job, gives it, and returns what came of it.
    pub async fn process(&self, urgency: &Urgency, bytes: usize, job: J) -> Result<J::Done, J::Error> {
        self.offer(urgency, bytes).await.give(job).await
    }

    /// Some job's urgency was raised.
    pub fn look_again(&self) {
        let mut state = self.0.state.lock();
        state.waiting.look_again();
        state.queued.look_again();
        self.0.settle(state);
    }

    pub fn status(&self) -> StageStatus {
        let mut state = self.0.state.lock();
        let rate = state.counts.rate.as_mut().map_or(0.0, |rate| rate.per_second(Instant::now()));
        let counts = &state.counts;
        StageStatus {
            name: self.0.name.to_owned(),
            waiting: state.waiting.len() as u64,
            queued: state.queued.len() as u64,
            in_flight: state.running as u64,
            workers: self.0.demand.workers as u64,
            bytes: state.bytes as u64,
            done: counts.done,
            done_bytes: counts.done_bytes,
            rate,
            restarts: counts.restarts,
            failures: counts.failures,
            waited_seconds: counts.waited.as_secs_f64(),
            worked_seconds: counts.worked.as_secs_f64(),
        }
    }
}

impl<J: Job> State<J> {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Asks the most urgent producer. One whose job is too large holds back the others, or it would wait for ever.
    fn ask(&mut self, shared: &Arc<Shared<J>>) -> Option<(oneshot::Sender<Asked<J>>, Asked<J>)> {
        let demand = &shared.demand;
        loop {
            if self.asked + self.held <= demand.min {
                self.asked = demand.max - self.held;
            }
            let waiting = self.waiting.first()?;
            if waiting.tell.is_closed() {
                self.waiting.pop();
                continue;
            }
            // What is waited for needs no demand, only room; of that the others leave it some.
            let (room, count, bytes) = match waiting.urgency.class() {
                Class::Waited => (true, demand.max, demand.bytes),
                _ => (self.asked > 0, demand.max - demand.kept, demand.bytes - demand.bytes / 4),
            };
            if !room || self.held >= count || (self.held > 0 && self.bytes + waiting.bytes > bytes) {
                return None;
            }
            let Waiting { urgency, bytes, since, tell } = self.waiting.pop()?;
            self.asked = self.asked.saturating_sub(1);
            self.held += 1;
            self.bytes += bytes;
            return Some((tell, Asked { shared: shared.clone(), urgency, bytes, since }));
        }
    }

    /// The next job for a worker, if there is one for it.
    fn next(&mut self, demand: &Demand) -> Option<Queued<J>> {
        let urgent = self.queued.first()?.permit.urgency.class() == Class::Waited;
        let most = if urgent { demand.workers } else { demand.workers - demand.kept };
        if self.running >= most {
            return None;
        }
        self.running += 1;
        self.queued.pop()
    }
}

impl<J: Job> Shared<J> {
    /// Asks producers and begins jobs, as far as demand and workers go.
    fn settle(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, State<J>>) {
        let (mut asked, mut begun) = (Vec::new(), Vec::new());
        while let Some(one) = state.ask(self) {
            asked.push(one);
        }
        while let Some(job) = state.next(&self.demand) {
            state.counts.waited += job.permit.since.elapsed();
            begun.push(job);
        }
        drop(state);
        for job in begun {
            let runtime = self.runtime.get().expect("set when a job is given");
            runtime.spawn(self.clone().work(job));
        }
        for (tell, one) in asked {
            // A producer that has gone meanwhile leaves the demand to another.
            drop(tell.send(one));
        }
    }

    /// A worker: one job. The next one begins when this one's permit comes back.
    async fn work(self: Arc<Self>, mut queued: Queued<J>) {
        let began = Instant::now();
        // `run` itself may panic, before there is a future.
        let job = queued.job.clone();
        let outcome = AssertUnwindSafe(async move { job.run().await }).catch_unwind().await;
        queued.tries += 1;
        let again = queued.tries < TRIES && !queued.tell.is_closed();
        let panicked = outcome.is_err();
        let result = outcome.unwrap_or_else(|_| Err(Lost.into()));
        let mut state = self.state.lock();
        state.running -= 1;
        let now = Instant::now();
        state.counts.worked += now - began;
        if panicked {
            state.counts.restarts += 1;
            log::error!("{}: a worker panicked and is replaced (try {}); this is a bug", self.name, queued.tries);
        }
        match result {
            Err(error) if again && (panicked || J::may_pass(&error)) => {
                log::debug!("{}: {error} (try {}): tried again", self.name, queued.tries);
                // Behind those of its class that came meanwhile: they are not to wait for it.
                let number = state.next_number();
                state.queued.push(number, queued);
                self.settle(state);
            }
            result => {
                state.counts.count(self.name, now, queued.permit.bytes, &result);
                drop(state);
                let Queued { job, tell, permit, .. } = queued;
                // The job first: what rides in it is free before anybody goes on.
                drop(job);
                drop(permit);
                // Whoever asked may have gone.
                drop(tell.send(result));
            }
        }
    }
}

/// How often a busy stage tells the log of itself.
const TELL: Duration = Duration::from_secs(10);

impl Counts {
    fn count<T, E: std::fmt::Display>(&mut self, name: &str, now: Instant, bytes: usize, result: &Result<T, E>) {
        match result {
            Ok(_) => {
                self.done += 1;
                self.done_bytes += bytes as u64;
                self.rate.get_or_insert_with(|| Rate::new(now)).add(now, bytes as u64);
            }
            Err(error) => {
                self.failures += 1;
                log::debug!("{name}: a job failed: {error}");
            }
        }
        if log::log_enabled!(log::Level::Debug) && self.told.is_none_or(|told| now - told >= TELL) {
            self.told = Some(now);
            let rate = self.rate.as_mut().map_or(0.0, |rate| rate.per_second(now));
            log::debug!(
                "stage {name}: {} done, {} bytes, {rate:.0} bytes/s, {} restarts, {} failures; waited {:.3} s, worked {:.3} s",
                self.done,
                self.done_bytes,
                self.restarts,
                self.failures,
                self.waited.as_secs_f64(),
                self.worked.as_secs_f64()
            );
        }
    }
}
