//! From an operation's future to the kernel's answer.
//!
//! Owns: the one poll in the kernel's thread, the move to the runtime of what has to wait, the deadline, and the watch
//! over replies that other threads give ([`Overdue`]). Does not own what an operation does, nor what its answer looks
//! like.
//!
//! Invariants: every request is answered exactly once, whatever happens: result, panic or deadline (fuser answers EIO
//! when an unanswered reply is dropped; everything here leans on that). A kernel thread never waits. What was answered
//! with an error does nothing afterwards: the kernel would go on believing what was before. Nothing here knows a file's
//! name, so nothing here can log one.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::Errno;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::errno::errno;
use crate::fs::FsError;

/// How long a caller waits at most. fuser answers FUSE_INTERRUPT with ENOSYS, so a process that waits for direct I/O
/// cannot even be killed until it is answered. Longer than any wait that the rooms below bound themselves (a slow
/// remote, a full journal), so that their better error comes first; short enough for a person to sit out.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// An operation's name (for the log) and the terms on which it may wait.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    name: &'static str,
    deadline: Option<Duration>,
}

impl Terms {
    /// Dropped when it is late. `Fs` changes nothing before it has done all its waiting.
    pub const fn bounded(name: &'static str) -> Terms {
        Terms { name, deadline: Some(DEADLINE) }
    }

    /// fsync: how long it may take depends on the level of durability and on how much there is, so `Fs` bounds it.
    pub const fn unbounded(name: &'static str) -> Terms {
        Terms { name, deadline: None }
    }
}

/// A reply to the kernel that can carry an error. Dropped unanswered, it is EIO.
pub trait Reply: Send + 'static {
    fn error(self, errno: Errno);
}

macro_rules! replies {
    ($($name:ident)*) => {
        $(impl Reply for fuser::$name {
            fn error(self, errno: Errno) {
                fuser::$name::error(self, errno)
            }
        })*
    };
}

replies!(ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyLseek ReplyOpen);
replies!(ReplyStatfs ReplyWrite ReplyXattr);

/// A reply that the operation itself fills, entry by entry. Whoever answers takes it; the other then finds nothing.
pub struct Slot<R>(Arc<Mutex<Option<R>>>);

impl<R> Slot<R> {
    pub fn new(reply: R) -> Slot<R> {
        Slot(Arc::new(Mutex::new(Some(reply))))
    }

    /// `None` if the caller was answered already.
    pub fn with<T>(&self, fill: impl FnOnce(&mut R) -> T) -> Option<T> {
        self.0.lock().as_mut().map(fill)
    }

    fn is_answered(&self) -> bool {
        self.0.lock().is_none()
    }

    pub fn send(self, send: impl FnOnce(R)) {
        let reply = self.0.lock().take();
        if let Some(reply) = reply {
            send(reply);
        }
    }
}

impl<R> Clone for Slot<R> {
    fn clone(&self) -> Self {
        Slot(self.0.clone())
    }
}

impl<R: Reply> Reply for Slot<R> {
    fn error(self, errno: Errno) {
        self.send(|reply| reply.error(errno));
    }
}

/// Replies that are given where a blocked thread may keep every timer from running (fsync, by the journal's own): here
/// is who answers in its place when it is too late.
pub struct Overdue<R> {
    waiting: Mutex<Waiting<R>>,
    more: Notify,
}

struct Waiting<R> {
    /// In the order of their deadlines. One that was answered goes when it comes to the front.
    slots: VecDeque<(Instant, Slot<R>)>,
    /// Whoever watches has no deadline to sleep to.
    idle: bool,
}

/// A reply that is watched. Dropped, it is EIO at once.
pub struct Promised<R: Reply>(Slot<R>);

impl<R: Reply> Promised<R> {
    pub fn send(self, send: impl FnOnce(R)) {
        self.0.clone().send(send);
    }
}

impl<R: Reply> Drop for Promised<R> {
    fn drop(&mut self) {
        // Nothing, if it was answered.
        self.0.clone().error(Errno::EIO);
    }
}

impl<R: Reply> Overdue<R> {
    pub fn new() -> Overdue<R> {
        Overdue { waiting: Mutex::new(Waiting { slots: VecDeque::new(), idle: false }), more: Notify::new() }
    }

    /// This one shall be answered within [`DEADLINE`], by whoever holds what is returned, or else with an error.
    pub fn watch(&self, reply: R) -> Promised<R> {
        let slot = Slot::new(reply);
        let mut waiting = self.waiting.lock();
        waiting.forget_answered();
        waiting.slots.push_back((Instant::now() + DEADLINE, slot.clone()));
        if std::mem::take(&mut waiting.idle) {
            self.more.notify_one();
        }
        Promised(slot)
    }

    /// Watches, until it is dropped.
    pub async fn run(&self) {
        loop {
            match self.next() {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => self.more.notified().await,
            }
            while let Some(slot) = self.late() {
                log::error!("fsync was not done after {} s: its caller gets an I/O error", DEADLINE.as_secs());
                slot.error(Errno::EIO);
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        let mut waiting = self.waiting.lock();
        waiting.forget_answered();
        let next = waiting.slots.front().map(|(deadline, _)| *deadline);
        waiting.idle = next.is_none();
        next
    }

    fn late(&self) -> Option<Slot<R>> {
        let mut waiting = self.waiting.lock();
        waiting.forget_answered();
        match waiting.slots.front() {
            Some((deadline, _)) if *deadline <= Instant::now() => waiting.slots.pop_front().map(|(_, slot)| slot),
            _ => None,
        }
    }
}

impl<R> Waiting<R> {
    fn forget_answered(&mut self) {
        while self.slots.front().is_some_and(|(_, slot)| slot.is_answered()) {
            self.slots.pop_front();
        }
    }
}

/// Answers `reply` with what `operation` comes to: at once if it is ready at its first poll, else from the runtime.
pub fn answer<R, T, F, S>(runtime: &Handle, terms: Terms, reply: R, operation: F, send: S)
where
    R: Reply,
    T: Send + 'static,
    F: Future<Output = Result<T, FsError>> + Send + 'static,
    S: FnOnce(R, T) + Send + 'static,
{
    guarded(terms.name, || {
        // Operations start tasks and timers.
        let _inside = runtime.enter();
        let mut operation = Box::pin(operation);
        match operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => finish(reply, result, send),
            Poll::Pending => drop(runtime.spawn(wait(terms, reply, operation, send))),
        }
    });
}

/// Runs a handler so that its panic ends this request and not the kernel thread, which would end without a word.
pub fn guarded(name: &'static str, handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        log::error!("{name} panicked: its caller gets an I/O error; this is a bug, please report it");
    }
}

fn finish<R: Reply, T>(reply: R, result: Result<T, FsError>, send: impl FnOnce(R, T)) {
    match result {
        Ok(value) => send(reply, value),
        Err(error) => reply.error(errno(&error)),
    }
}

async fn wait<R, T, F, S>(terms: Terms, reply: R, operation: Pin<Box<F>>, send: S)
where
    R: Reply,
    F: Future<Output = Result<T, FsError>> + Send,
    S: FnOnce(R, T),
{
    let operation = AssertUnwindSafe(operation).catch_unwind();
    let outcome = match terms.deadline {
        None => operation.await,
        Some(limit) => match tokio::time::timeout(limit, operation).await {
            Ok(outcome) => outcome,
            Err(_) => {
                log::error!("{} was not done after {} s: its caller gets an I/O error", terms.name, limit.as_secs());
                return reply.error(Errno::EIO);
            }
        },
    };
    guarded(terms.name, || match outcome {
        Ok(result) => finish(reply, result, send),
        Err(panic) => std::panic::resume_unwind(panic),
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// What a caller got: `Ok` is a value, `Err` an errno. Like fuser's replies it answers EIO when it is dropped.
    struct Recorder(Option<Answers>);

    impl Recorder {
        fn new() -> (Recorder, Answers) {
            let answers = Arc::new(Mutex::new(Vec::new()));
            (Recorder(Some(answers.clone())), answers)
        }

        fn put(&mut self, answer: Result<u32, i32>) {
            self.0.take().expect("answered once").lock().push(answer);
        }
    }

    impl Reply for Recorder {
        fn error(mut self, errno: Errno) {
            self.put(Err(errno.into()));
        }
    }

    impl Drop for Recorder {
        fn drop(&mut self) {
            if self.0.is_some() {
                self.put(Err(libc::EIO));
            }
        }
    }

    fn ask(terms: Terms, operation: impl Future<Output = Result<u32, FsError>> + Send + 'static) -> Answers {
        let (reply, answers) = Recorder::new();
        answer(&Handle::current(), terms, reply, operation, |mut reply: Recorder, value| reply.put(Ok(value)));
        answers
    }

    type Answers = Arc<Mutex<Vec<Result<u32, i32>>>>;

    const BOUNDED: Terms = Terms::bounded("test");

    #[tokio::test]
    async fn what_is_ready_is_answered_before_the_handler_returns() {
        assert_eq!(*ask(BOUNDED, async { Ok(7) }).lock(), [Ok(7)]);
        assert_eq!(*ask(BOUNDED, async { Err(FsError::NotEmpty) }).lock(), [Err(libc::ENOTEMPTY)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_answered_by_the_runtime() {
        let answers = ask(BOUNDED, async {
            tokio::time::sleep(DEADLINE / 2).await;
            Ok(7)
        });
        assert!(answers.lock().is_empty());
        tokio::time::sleep(DEADLINE).await;
        assert_eq!(*answers.lock(), [Ok(7)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_is_answered_with_an_error_and_does_nothing_afterwards() {
        let ended = Arc::new(AtomicBool::new(false));
        let mark = ended.clone();
        let answers = ask(BOUNDED, async move {
            tokio::time::sleep(DEADLINE * 2).await;
            mark.store(true, Ordering::Relaxed);
            Ok(7)
        });
        tokio::time::sleep(DEADLINE * 3).await;
        assert_eq!(*answers.lock(), [Err(libc::EIO)]);
        assert!(!ended.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_nobody_gives_is_an_io_error_when_it_is_late_and_not_before() {
        let overdue = Arc::new(Overdue::new());
        let watcher = overdue.clone();
        let watching = tokio::spawn(async move { watcher.run().await });
        for _ in 0..2 {
            let mut all = Vec::new();
            for _ in 0..3 {
                let (reply, answers) = Recorder::new();
                all.push((overdue.watch(reply), answers));
                tokio::time::sleep(DEADLINE / 4).await;
            }
            let (given, told) = all.remove(1);
            given.send(|mut reply| reply.put(Ok(7)));
            tokio::time::sleep(DEADLINE / 8).await;
            assert!(all.iter().all(|(_, answers)| answers.lock().is_empty()));
            tokio::time::sleep(DEADLINE / 4).await;
            assert_eq!(*all[0].1.lock(), [Err(libc::EIO)]);
            assert!(all[1].1.lock().is_empty());
            tokio::time::sleep(DEADLINE).await;
            assert_eq!(*all[1].1.lock(), [Err(libc::EIO)]);
            assert_eq!(*told.lock(), [Ok(7)]);
        }
        let (reply, answers) = Recorder::new();
        drop(overdue.watch(reply));
        assert_eq!(*answers.lock(), [Err(libc::EIO)], "nobody is left who could give it");
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_unbounded_operation_outlives_the_deadline() {
        let answers = ask(Terms::unbounded("test"), async {
            tokio::time::sleep(DEADLINE * 10).await;
            Ok(7)
        });
        tokio::time::sleep(DEADLINE * 9).await;
        assert!(answers.lock().is_empty());
        tokio::time::sleep(DEADLINE * 2).await;
        assert_eq!(*answers.lock(), [Ok(7)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_io_error_at_once_or_later() {
        assert_eq!(*ask(BOUNDED, async { panic!("planted") }).lock(), [Err(libc::EIO)]);
        let answers = ask(BOUNDED, async {
            tokio::time::sleep(DEADLINE / 2).await;
            panic!("planted")
        });
        tokio::time::sleep(DEADLINE).await;
        assert_eq!(*answers.lock(), [Err(libc::EIO)]);
    }
}
