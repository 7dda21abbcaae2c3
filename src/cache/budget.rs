//! The budget of memory for dirty bytes: who writes waits while it is spent. What is taken is what bytes cost, not
//! their number: a byte here and one there cost a hundred times their length.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

pub struct Budget {
    used: AtomicUsize,
    most: usize,
    freed: Notify,
}

impl Budget {
    pub fn new(most: usize) -> Budget {
        Budget { used: AtomicUsize::new(0), most, freed: Notify::new() }
    }

    /// Is there room for one more write? Writers may overshoot by what they write at once (1 MiB each).
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.most
    }

    /// Half is spent: time to send things on.
    pub fn is_pressed(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.most / 2
    }

    pub fn take(&self, cost: usize) {
        self.used.fetch_add(cost, Ordering::Relaxed);
    }

    pub fn give_back(&self, cost: usize) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Waits until there is room.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }
}
