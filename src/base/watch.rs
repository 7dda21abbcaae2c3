//! A value that many watch. What tokio's `watch` does, but for one thing: that one wakes its watchers in an order drawn
//! at random, so no simulation could repeat a history; this one wakes them in the order in which they began to wait.
//!
//! Owns the value and its version. Invariants: whoever holds a look may look again; a change that comes after a watcher last looked is never slept through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

struct Shared<T> {
    value: RwLock<T>,
    /// Counts changes; moves while `value` is locked for writing.
    version: AtomicU64,
    /// The sender is gone.
    closed: AtomicBool,
    changed: Notify,
}

/// Holds the value. When it is dropped, whoever waits for a change hears that none will come.
pub struct Sender<T>(Arc<Shared<T>>);

/// Watches the value.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// No change will come any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nobody changes this any more")]
pub struct Closed;

/// A value, and one who watches it.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Sender<T> {
        Sender(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        }))
    }

    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.version.load(Ordering::Acquire);
        Receiver { shared: self.0.clone(), seen }
    }

    /// The value. Look, do not wait: while this is held nobody can change it.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read_recursive()
    }

    pub fn send_replace(&self, value: T) {
        self.send_modify(|old| *old = value);
    }

    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// `change` says whether it changed anything.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut value = self.0.value.write();
        if !change(&mut value) {
            return;
        }
        self.0.version.fetch_add(1, Ordering::Release);
        drop(value);
        self.0.changed.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Receiver<T> {
    /// The value. Look, do not wait: while this is held nobody can change it.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read_recursive()
    }

    /// The value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read_recursive();
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }

    /// Waits for a change that was not seen.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let version = self.shared.version.load(Ordering::Acquire);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Waits until the value is as `wanted` says; at once if it is.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<RwLockReadGuard<'_, T>, Closed> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // Asked before the look: the sender's last change comes before its end.
            let closed = self.shared.closed.load(Ordering::Acquire);
            {
                let value = self.shared.value.read_recursive();
                self.seen = self.shared.version.load(Ordering::Acquire);
                if wanted(&value) {
                    return Ok(value);
                }
            }
            if closed {
                return Err(Closed);
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn watchers_wake_in_the_order_in_which_they_began_to_wait() {
        let sender = Sender::new(0);
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for k in 0..32 {
            let (mut receiver, order) = (sender.subscribe(), order.clone());
            tasks.push(tokio::spawn(async move {
                let reached = *receiver.wait_for(|value| *value >= 2).await.unwrap();
                order.lock().push(k);
                reached
            }));
            tokio::task::yield_now().await;
        }
        sender.send_replace(1);
        sender.send_if_modified(|_| false);
        sender.send_modify(|value| *value += 1);
        for task in tasks {
            assert_eq!(task.await.unwrap(), 2);
        }
        assert_eq!(*order.lock(), (0..32).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_is_told() {
        let (sender, mut receiver) = channel(1);
        sender.send_replace(2);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow(), 2);
        sender.send_replace(3);
        assert_eq!(*receiver.borrow_and_update(), 3);
        sender.send_replace(4);
        drop(sender);
        assert_eq!(receiver.wait_for(|value| *value == 4).await.map(|value| *value), Ok(4), "the last value counts");
        assert_eq!(receiver.changed().await, Err(Closed));
        assert!(receiver.wait_for(|value| *value == 5).await.is_err());
    }
}
