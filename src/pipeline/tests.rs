//! Bounds, order, second tries, and that every permit comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::sleep;

use super::*;

#[derive(Debug, PartialEq, Eq)]
enum Failed {
    Lost,
    Refused,
}

impl From<Lost> for Failed {
    fn from(_: Lost) -> Failed {
        Failed::Lost
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Takes a second for each try; what becomes of the tries is written down.
struct Sample {
    number: usize,
    bytes: usize,
    tries: AtomicUsize,
    ends: fn(usize) -> Result<(), Failed>,
    seen: Arc<Seen>,
    rides: Option<Permit>,
}

#[derive(Default)]
struct Seen {
    running: AtomicUsize,
    most: AtomicUsize,
    bytes: AtomicUsize,
    most_bytes: AtomicUsize,
    begun: Mutex<Vec<usize>>,
}

/// Lowered however the try ends.
struct Running(Arc<Seen>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.seen.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Job for Sample {
    type Done = usize;
    type Error = Failed;

    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<usize, Failed>> {
        async move {
            let seen = self.seen.clone();
            seen.most.fetch_max(seen.running.fetch_add(1, Relaxed) + 1, Relaxed);
            let _running = Running(seen.clone());
            seen.begun.lock().push(self.number);
            sleep(Duration::from_secs(1)).await;
            (self.ends)(self.tries.fetch_add(1, Relaxed)).map(|()| self.number)
        }
        .boxed()
    }

    fn may_pass(error: &Failed) -> bool {
        *error == Failed::Lost
    }
}

fn sample(seen: &Arc<Seen>, number: usize, bytes: usize, ends: fn(usize) -> Result<(), Failed>) -> Sample {
    seen.most_bytes.fetch_max(seen.bytes.fetch_add(bytes, Relaxed) + bytes, Relaxed);
    Sample { number, bytes, tries: AtomicUsize::new(0), ends, seen: seen.clone(), rides: None }
}

fn well(_: usize) -> Result<(), Failed> {
    Ok(())
}

fn demand(workers: usize, min: usize, max: usize) -> Demand {
    Demand { workers, min, max, bytes: 1000, kept: 0 }
}

fn offer(
    stage: &Stage<Sample>,
    seen: &Arc<Seen>,
    number: usize,
    class: Class,
) -> tokio::task::JoinHandle<Result<usize, Failed>> {
    let (stage, seen) = (stage.clone(), seen.clone());
    tokio::spawn(async move {
        let asked = stage.offer(&Urgency::new(class), 1).await;
        asked.give(sample(&seen, number, 1, well)).await
    })
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_asks_up_to_max_and_again_at_min() {
    let (stage, seen) = (Stage::new("test", demand(1, 1, 4)), Arc::new(Seen::default()));
    let mut jobs: Vec<_> = (0..10).map(|n| offer(&stage, &seen, n, Class::Bulk)).collect();
    let mut taken = Vec::new();
    for _ in 0..8 {
        settle().await;
        let status = stage.status();
        taken.push(status.queued + status.in_flight);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(taken, [4, 3, 2, 4, 3, 2, 4, 3], "four are asked for; three more when one is left");
    for (n, job) in jobs.drain(..).enumerate() {
        assert_eq!(job.await.unwrap(), Ok(n));
    }
    assert_eq!(seen.most.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_most_urgent_goes_first_and_what_is_raised_with_it() {
    let (stage, seen) = (Stage::new("test", demand(1, 0, 1)), Arc::new(Seen::default()));
    let mut jobs = vec![offer(&stage, &seen, 0, Class::Bulk)];
    settle().await;
    for (number, class) in [(1, Class::Bulk), (2, Class::Small), (3, Class::Holding), (4, Class::Waited)] {
        jobs.push(offer(&stage, &seen, number, class));
    }
    let (raised, urgency) = (stage.clone(), Urgency::new(Class::Bulk));
    let (riding, job) = (urgency.clone(), sample(&seen, 5, 1, well));
    jobs.push(tokio::spawn(async move { raised.process(&riding, 1, job).await }));
    settle().await;
    assert!(urgency.raise(Class::Waited) && !urgency.raise(Class::Bulk));
    stage.look_again();
    for job in jobs {
        job.await.unwrap().unwrap();
    }
    assert_eq!(*seen.begun.lock(), [0, 4, 5, 3, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn kept_workers_and_room_are_for_what_is_waited_for() {
    let stage = Stage::new("test", Demand { workers: 3, min: 2, max: 6, bytes: 1000, kept: 1 });
    let seen = Arc::new(Seen::default());
    let bulk: Vec<_> = (0..20).map(|n| offer(&stage, &seen, n, Class::Bulk)).collect();
    settle().await;
    assert_eq!((stage.status().in_flight, stage.status().queued), (2, 3));
    let waited = offer(&stage, &seen, 99, Class::Waited);
    settle().await;
    assert_eq!(seen.begun.lock().last(), Some(&99), "at once, though twenty came before");
    assert_eq!(waited.await.unwrap(), Ok(99));
    for job in bulk {
        job.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_a_worker_and_its_job_is_done_by_the_next() {
    let (stage, seen) = (Stage::new("test", demand(1, 0, 4)), Arc::new(Seen::default()));
    let once = |tries| if tries == 0 { panic!("planted") } else { Ok(()) };
    let job = sample(&seen, 7, 1, once);
    assert_eq!(stage.process(&Urgency::new(Class::Bulk), 1, job).await, Ok(7));
    let status = stage.status();
    assert_eq!((status.restarts, status.failures, status.done), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_fails_each_time_is_told_of_and_keeps_nobody_up() {
    let (stage, seen) = (Stage::new("test", demand(1, 0, 4)), Arc::new(Seen::default()));
    let bad = [|_| panic!("planted"), |_| Err(Failed::Lost), |_| Err(Failed::Refused)];
    let bad = bad.map(|ends| {
        let (stage, job) = (stage.clone(), sample(&seen, 1, 1, ends));
        tokio::spawn(async move { stage.process(&Urgency::new(Class::Bulk), 1, job).await })
    });
    settle().await;
    let good = offer(&stage, &seen, 2, Class::Bulk);
    assert_eq!(good.await.unwrap(), Ok(2));
    assert!(!bad[0].is_finished() && !bad[1].is_finished(), "the second tries come behind it");
    let mut ends = Vec::new();
    for bad in bad {
        ends.push(bad.await.unwrap());
    }
    assert_eq!(ends, [Err(Failed::Lost), Err(Failed::Lost), Err(Failed::Refused)]);
    assert_eq!(seen.begun.lock().iter().filter(|n| **n == 1).count(), 7, "three tries, three, and one");
    assert_eq!((stage.status().restarts, stage.status().failures), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn memory_is_given_to_the_most_urgent_and_each_use_has_its_own() {
    let memory = Memory::new(800);
    assert_eq!((memory.most(Use::Read), memory.most(Use::Put), memory.budget()), (200, 300, 800));
    let (bulk, waited) = (Urgency::new(Class::Bulk), Urgency::new(Class::Waited));
    let all = memory.take(Use::Capture, &bulk, 100).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = [(1, bulk.clone(), 90), (2, bulk, 5), (3, waited, 20)]
        .into_iter()
        .map(|(number, urgency, bytes)| {
            let (memory, order) = (memory.clone(), order.clone());
            tokio::spawn(async move {
                let _permit = memory.take(Use::Capture, &urgency, bytes).await;
                order.lock().push(number);
                sleep(Duration::from_secs(1)).await;
            })
        })
        .collect();
    settle().await;
    assert!(memory.try_take(Use::Capture, 1).is_none());
    assert!(memory.try_take(Use::ReadAhead, 200).is_some(), "what fills one share is nothing to another");
    let huge = memory.take(Use::Read, &Urgency::new(Class::Waited), 5000).await;
    assert!(memory.try_take(Use::Read, 1).is_none());
    drop((all, huge));
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((&order.lock()[..], memory.used()), (&[3, 1, 2][..], 0));
}

/// What a producer does with its job.
#[derive(Clone, Debug)]
struct Plan {
    class: Class,
    bytes: usize,
    /// Seconds until it goes away, answered or not.
    patience: u64,
    ends: fn(usize) -> Result<(), Failed>,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let class = prop::sample::select(vec![Class::Waited, Class::Holding, Class::Small, Class::Bulk]);
    let ends = prop::sample::select(vec![
        well as fn(usize) -> Result<(), Failed>,
        |_| Err(Failed::Refused),
        |_| Err(Failed::Lost),
        |tries| if tries < 2 { panic!("planted") } else { Ok(()) },
    ]);
    let plan = (class, 0..600usize, 0..40u64, ends);
    prop::collection::vec(plan.prop_map(|(class, bytes, patience, ends)| Plan { class, bytes, patience, ends }), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bounds_hold_and_every_permit_comes_back(
        plans in plans(), workers in 1..4usize, min in 0..6usize, max in 1..6usize, kept in 0..3usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = Demand { workers, min, max, bytes: 500, kept };
            let stage = Stage::new("test", limits);
            let (seen, memory) = (Arc::new(Seen::default()), Memory::new(8000));
            let tasks: Vec<_> = plans.into_iter().enumerate().map(|(number, plan)| {
                let (stage, seen, memory) = (stage.clone(), seen.clone(), memory.clone());
                tokio::spawn(async move {
                    let urgency = Urgency::new(plan.class);
                    let work = async {
                        let rides = memory.take(Use::Capture, &urgency, plan.bytes).await;
                        let asked = stage.offer(&urgency, plan.bytes).await;
                        let mut job = sample(&seen, number, plan.bytes, plan.ends);
                        job.rides = Some(rides);
                        let _ = asked.give(job).await;
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(plan.patience), work).await;
                })
            }).collect();
            for task in tasks {
                task.await.unwrap();
            }
            sleep(Duration::from_secs(500)).await;
            let limits = limits.sound();
            assert!(seen.most.load(Relaxed) <= limits.workers);
            assert!(seen.most_bytes.load(Relaxed) <= 600.max(limits.bytes));
            let status = stage.status();
            assert_eq!((status.waiting, status.queued, status.in_flight, status.bytes), (0, 0, 0, 0));
            assert_eq!((seen.bytes.load(Relaxed), seen.running.load(Relaxed), memory.used()), (0, 0, 0));
            // It still asks.
            assert_eq!(offer(&stage, &seen, 7, Class::Bulk).await.unwrap(), Ok(7));
        });
    }
}
