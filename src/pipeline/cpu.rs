//! The fixed pool of processor threads that seals and opens.
//!
//! Owns its threads. Does not own what runs on them. In a simulation there are no threads: work runs where it is
//! asked for. Work is bounded by the workers of the stages that bring it, not here.

use std::sync::Arc;
use std::thread;

use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// Below this many bytes sealing or opening takes less than handing it to another thread and back (some 20 us).
pub const INLINE_BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub struct Cpu {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    threads: usize,
}

impl Cpu {
    /// Everything runs where it is asked for.
    pub fn inline() -> Cpu {
        Cpu { jobs: None, threads: 1 }
    }

    /// `threads` threads; they end when the last clone is dropped.
    pub fn threads(threads: usize) -> std::io::Result<Cpu> {
        let (sender, receiver) = mpsc::unbounded_channel::<Job>();
        let receiver = Arc::new(parking_lot::Mutex::new(receiver));
        for number in 0..threads {
            let receiver = receiver.clone();
            thread::Builder::new().name(format!("dripfs-cpu-{number}")).spawn(move || {
                loop {
                    let job = receiver.lock().blocking_recv();
                    match job {
                        Some(job) => job(),
                        None => return,
                    }
                }
            })?;
        }
        Ok(Cpu { jobs: Some(sender), threads })
    }

    /// How much can run at once.
    pub fn count(&self) -> usize {
        self.threads
    }

    /// As [`Cpu::run`]; a panic of `work` goes on in the caller, whose stage knows what to do about it.
    pub async fn run_or_panic<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.run(bytes, work).await {
            Some(done) => done,
            None => std::panic::resume_unwind(Box::new("its work panicked")),
        }
    }

    /// Runs `work`, which handles `bytes`, and returns what it returned; `None` if it panicked.
    pub async fn run<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let guarded = move || std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok();
        let Some(jobs) = self.jobs.as_ref().filter(|_| bytes > INLINE_BYTES) else {
            return guarded();
        };
        let (sender, receiver) = oneshot::channel();
        // Whoever asked may have gone; then nobody misses the answer.
        let job: Job = Box::new(move || drop(sender.send(guarded())));
        jobs.send(job).ok()?;
        receiver.await.ok()?
    }
}
