//! The table of entries, and when each dies.
//!
//! All entries live equally long after their last use, so the order of last use is the order of death: one list in that
//! order is both the timers of all of them and the LRU. A use moves an entry to the front; who looks for the dead takes
//! from the back until one is found that still lives. That is constant work for each use and each death, where a timer a
//! file would be a task and a wheel's slot for each of a million of them.
//!
//! Owns the table. Does not own what an entry holds, nor what its death brings about (the cache).
//!
//! Invariants
//! - An entry is taken out under the table's lock, and only if nobody else holds it: who holds one (a read or a write
//!   under way, a capture) may still put bytes into it.
//! - The table's lock is taken before an entry's own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::entry::Entry;
use crate::base::Ino;

/// What an entry takes while it holds nothing: itself, and its places in the tables.
pub const ENTRY_COST: usize = 512;
/// So many that must not die are passed over when one has to make room.
const PASSED_OVER: usize = 8;
/// So many die at once; others may use the table before the next.
const BATCH: usize = 1024;

pub struct Entries {
    table: Mutex<Table>,
    ttl: Duration,
    /// More than so many are too many.
    most: usize,
}

struct Table {
    /// Latest use first.
    slots: LruCache<Ino, Slot>,
    /// Those that the kernel forgot, and nobody asked for since, but that hold something.
    leaving: BTreeSet<Ino>,
}

struct Slot {
    entry: Arc<Entry>,
    used: Instant,
}

impl Entries {
    pub fn new(ttl: Duration, most: usize) -> Entries {
        let table = Table { slots: LruCache::unbounded(), leaving: BTreeSet::new() };
        Entries { table: Mutex::new(table), ttl, most }
    }

    /// The entry, if there is one. Its time begins anew.
    pub fn existing(&self, ino: Ino) -> Option<Arc<Entry>> {
        let mut table = self.table.lock();
        let slot = table.slots.get_mut(&ino)?;
        slot.used = Instant::now();
        Some(slot.entry.clone())
    }

    /// The entry, if there is one, without a use of it.
    pub fn peek(&self, ino: Ino) -> Option<Arc<Entry>> {
        self.table.lock().slots.peek(&ino).map(|slot| slot.entry.clone())
    }

    /// The entry, made if there is none. `None` if it stood; else those that had to make room for it and that `may_die`.
    pub fn entry(
        &self,
        ino: Ino,
        make: impl FnOnce() -> Entry,
        may_die: impl Fn(&Entry) -> bool,
    ) -> (Arc<Entry>, Option<Vec<Arc<Entry>>>) {
        let now = Instant::now();
        let mut table = self.table.lock();
        if !table.leaving.is_empty() {
            table.leaving.remove(&ino);
        }
        if let Some(slot) = table.slots.get_mut(&ino) {
            slot.used = now;
            return (slot.entry.clone(), None);
        }
        let entry = Arc::new(make());
        table.slots.put(ino, Slot { entry: entry.clone(), used: now });
        let mut dead = Vec::new();
        for _ in 0..PASSED_OVER {
            if table.slots.len() <= self.most {
                break;
            }
            dead.extend(table.take_last(now, &may_die));
        }
        (entry, Some(dead))
    }

    /// Those whose time is over, a batch at a time; `each` is given them under no lock.
    pub fn expire(&self, may_die: impl Fn(&Entry) -> bool, mut each: impl FnMut(Vec<Arc<Entry>>)) {
        let now = Instant::now();
        loop {
            let (mut dead, mut looked) = (Vec::new(), 0);
            {
                let mut table = self.table.lock();
                while looked < BATCH
                    && let Some((_, slot)) = table.slots.peek_lru()
                    && now.duration_since(slot.used) >= self.ttl
                {
                    dead.extend(table.take_last(now, &may_die));
                    looked += 1;
                }
            }
            each(dead);
            if looked < BATCH {
                return;
            }
        }
    }

    /// The kernel forgot this one. It goes now if `may_leave`; else [`Entries::left`] looks again.
    pub fn leave(&self, ino: Ino, may_leave: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let mut table = self.table.lock();
        if !table.slots.contains(&ino) {
            return None;
        }
        table.leaving.insert(ino);
        table.take_if(ino, may_leave)
    }

    /// Those that the kernel forgot and that may go by now. Those that are `done` stay for the rest of their time.
    pub fn left(&self, may_leave: impl Fn(&Entry) -> bool, done: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
        let mut table = self.table.lock();
        let leaving: Vec<Ino> = table.leaving.iter().copied().collect();
        let mut gone = Vec::new();
        for ino in leaving {
            gone.extend(table.take_if(ino, &may_leave));
            if table.slots.peek(&ino).is_none_or(|slot| done(&slot.entry)) {
                table.leaving.remove(&ino);
            }
        }
        gone
    }

    /// Takes one out, if nobody uses it and it may die.
    pub fn take(&self, ino: Ino, may_die: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        self.table.lock().take_if(ino, may_die)
    }

    /// All of them and how long ago each was used, the one used last first.
    pub fn all(&self) -> Vec<(Arc<Entry>, Duration)> {
        let now = Instant::now();
        let table = self.table.lock();
        table.slots.iter().map(|(_, slot)| (slot.entry.clone(), now.duration_since(slot.used))).collect()
    }

    pub fn len(&self) -> usize {
        self.table.lock().slots.len()
    }
}

impl Table {
    /// The one that was not used for longest; where it must not die yet, it counts as used: what is dirty, or under way,
    /// is in use.
    fn take_last(&mut self, now: Instant, may_die: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let (ino, _) = self.slots.peek_lru()?;
        let ino = *ino;
        let taken = self.take_if(ino, may_die);
        if taken.is_none()
            && let Some(slot) = self.slots.get_mut(&ino)
        {
            slot.used = now;
        }
        taken
    }

    fn take_if(&mut self, ino: Ino, may_die: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        let slot = self.slots.peek(&ino)?;
        if Arc::strong_count(&slot.entry) > 1 || !may_die(&slot.entry) {
            return None;
        }
        self.leaving.remove(&ino);
        self.slots.pop(&ino).map(|slot| slot.entry)
    }
}
