//! What was written a moment ago and is stored by now: its plaintext, for searches.
//!
//! The kernel keeps pages of what was written and answers reads from them, so no read brings these bytes into the frames.
//! Without them here a search would find what was written as long as it is dirty, or in the journal, and then no more.
//!
//! Owns runs of plaintext by file and extent, as they were captured: nothing is copied. Extents never change, so none is
//! ever stale. Bounded in bytes, the oldest go first; and all that is of a file goes with its entry, so it has the
//! entry's time. Its bytes count among those of the frames.

use std::collections::BTreeSet;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::dirty::{Plain, RUN_COST};
use crate::base::{ExtentId, Ino};

/// What an extent takes beside its runs.
const COST: usize = 256;

type Key = (Ino, ExtentId);

pub struct Fresh {
    inner: Mutex<Inner>,
    most: usize,
}

struct Inner {
    /// In the order in which they came.
    kept: LruCache<Key, Arc<Extent>>,
    /// The same by file.
    order: BTreeSet<Key>,
    /// What it takes, and of that the plaintext.
    cost: usize,
    bytes: usize,
}

/// The bytes of an extent, run by run, and where in it each run ends.
struct Extent(Vec<(usize, Arc<Plain>)>);

impl Extent {
    fn new(runs: Vec<Arc<Plain>>) -> Extent {
        let mut end = 0;
        let ends = runs.into_iter().map(|run| {
            end += run.len();
            (end, run)
        });
        Extent(ends.collect())
    }

    fn bytes(&self) -> usize {
        self.0.last().map_or(0, |(end, _)| *end)
    }

    fn cost(&self) -> usize {
        COST + self.bytes() + self.0.len() * RUN_COST
    }

    /// Copies bytes from `start` on. Returns how many there were.
    fn copy(&self, start: usize, out: &mut [u8]) -> usize {
        let first = self.0.partition_point(|(end, _)| *end <= start);
        let mut at = 0;
        for (end, run) in &self.0[first..] {
            let part = &run[(start + at) - (end - run.len())..];
            let n = part.len().min(out.len() - at);
            out[at..at + n].copy_from_slice(&part[..n]);
            at += n;
            if at == out.len() {
                break;
            }
        }
        at
    }
}

impl Fresh {
    pub fn new(most: usize) -> Fresh {
        let inner = Inner { kept: LruCache::unbounded(), order: BTreeSet::new(), cost: 0, bytes: 0 };
        Fresh { inner: Mutex::new(inner), most }
    }

    /// The bytes of an extent, run by run.
    pub fn put(&self, ino: Ino, id: ExtentId, runs: Vec<Arc<Plain>>) {
        let extent = Extent::new(runs);
        if extent.cost() > self.most {
            return;
        }
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            gone.extend(inner.take(&(ino, id)));
            inner.cost += extent.cost();
            inner.bytes += extent.bytes();
            inner.order.insert((ino, id));
            inner.kept.push((ino, id), Arc::new(extent));
            while inner.cost > self.most
                && let Some((oldest, _)) = inner.kept.peek_lru()
            {
                let oldest = *oldest;
                gone.extend(inner.take(&oldest));
            }
        }
        // Wiped here, outside the lock.
        drop(gone);
    }

    /// Copies bytes of an extent from `start` on, if they are here: all of `out`, or nothing.
    pub fn copy(&self, ino: Ino, id: ExtentId, start: u32, out: &mut [u8]) -> bool {
        let Some(extent) = self.inner.lock().kept.peek(&(ino, id)).cloned() else { return false };
        extent.copy(start as usize, out) == out.len()
    }

    pub fn has(&self, ino: Ino, id: ExtentId) -> bool {
        self.inner.lock().order.contains(&(ino, id))
    }

    /// All that is of one file.
    pub fn wipe(&self, ino: Ino) {
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            let extent = |owner, number| ExtentId { owner, number };
            let all = (ino, extent(Ino(0), 0))..=(ino, extent(Ino(u64::MAX), u64::MAX));
            let keys: Vec<Key> = inner.order.range(all).copied().collect();
            keys.iter().for_each(|key| gone.extend(inner.take(key)));
        }
        drop(gone);
    }

    /// What it takes now.
    pub fn cost(&self) -> usize {
        self.inner.lock().cost
    }

    /// Bytes of plaintext.
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

impl Inner {
    fn take(&mut self, key: &Key) -> Option<Arc<Extent>> {
        let extent = self.kept.pop(key)?;
        self.order.remove(key);
        self.cost -= extent.cost();
        self.bytes -= extent.bytes();
        Some(extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Arc<Plain> {
        Arc::new(Plain::from(text.as_bytes().to_vec()))
    }

    fn id(number: u64) -> ExtentId {
        ExtentId { owner: Ino(5), number }
    }

    #[test]
    fn bytes_are_copied_across_runs_or_not_at_all() {
        let fresh = Fresh::new(10_000);
        fresh.put(Ino(5), id(1), vec![run("abc"), run("de"), run("fghi")]);
        for (start, len) in [(0, 9), (0, 1), (2, 2), (3, 6), (4, 3), (8, 1), (9, 0)] {
            let mut out = vec![0; len];
            assert!(fresh.copy(Ino(5), id(1), start, &mut out), "{start} {len}");
            assert_eq!(out, b"abcdefghi"[start as usize..start as usize + len]);
        }
        assert!(!fresh.copy(Ino(5), id(1), 5, &mut [0; 5]));
        assert!(!fresh.copy(Ino(5), id(2), 0, &mut [0; 1]) && !fresh.copy(Ino(6), id(1), 0, &mut [0; 1]));
    }

    #[test]
    fn it_is_bounded_and_a_files_bytes_go_with_it() {
        let fresh = Fresh::new(4000);
        for number in 0..100 {
            fresh.put(Ino(number % 2), id(number), vec![run(&"x".repeat(100))]);
            assert!(fresh.cost() <= 4000);
        }
        assert!(fresh.has(Ino(0), id(98)) && !fresh.has(Ino(0), id(0)));
        assert!(fresh.copy(Ino(1), id(99), 0, &mut [0; 100]));
        assert_eq!(fresh.bytes() % 100, 0);
        fresh.wipe(Ino(1));
        assert!(fresh.has(Ino(0), id(98)) && !fresh.has(Ino(1), id(99)));
        fresh.wipe(Ino(0));
        assert_eq!((fresh.cost(), fresh.bytes()), (0, 0));
    }
}
