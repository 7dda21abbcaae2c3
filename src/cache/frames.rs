//! Clean frames of plaintext, bounded in bytes. Extents never change, so a frame is never stale; it is wiped when it goes.
//!
//! A frame belongs to the file through which it was read, not to its extent: when that file's entry dies its plaintext
//! goes, whoever else may read the same extent, and a file that shares an extent has its own copy, for its own time.
//!
//! Over the bound the frame goes that was not used for longest, whatever file it is of: a large file that is read
//! through gives back its own first frames one by one, and the entries of small files stay whole while they are used.
//! What entries themselves cost counts too ([`Frames::charge`]).

use std::collections::{BTreeSet, HashMap};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::entry::Entry;
use crate::base::{ExtentId, Ino};
use crate::format::extent::Frame;

/// What a frame takes beside its bytes: its places in the tables, and what the allocator keeps for it.
pub const FRAME_COST: usize = 256;

type Key = (Ino, ExtentId, u32);

pub struct Frames {
    inner: Mutex<Inner>,
    most: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Frames that were ever put here.
    arrivals: AtomicU64,
}

struct Inner {
    frames: LruCache<Key, Arc<Frame>>,
    /// The same in order, to find what is of one file.
    order: BTreeSet<Key>,
    /// Of each file that has any.
    held: HashMap<Ino, Held>,
    bytes: usize,
    /// What all entries cost.
    charged: usize,
}

/// What memory holds of one file, clean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    pub bytes: u64,
    pub frames: u64,
}

impl Frames {
    pub fn new(most: usize) -> Frames {
        let inner =
            Inner { frames: LruCache::unbounded(), order: BTreeSet::new(), held: HashMap::new(), bytes: 0, charged: 0 };
        Frames {
            inner: Mutex::new(inner),
            most,
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            arrivals: AtomicU64::default(),
        }
    }

    /// The leading ones of these frames, which a read of this entry needs, as far as they are here. Those are counted.
    pub fn leading(&self, entry: &Entry, id: ExtentId, frames: Range<u32>) -> Vec<Arc<Frame>> {
        let mut found = Vec::new();
        {
            let mut inner = self.inner.lock();
            for frame in frames {
                let Some(plain) = inner.frames.get(&(entry.ino, id, frame)) else { break };
                found.push(plain.clone());
            }
        }
        entry.hit(found.len() as u64);
        self.hits.fetch_add(found.len() as u64, Ordering::Relaxed);
        found
    }

    /// Counts frames that a read needs and that are not here.
    pub fn missed(&self, frames: u64) {
        self.misses.fetch_add(frames, Ordering::Relaxed);
    }

    /// Counts a read that memory answered without a frame.
    pub fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame, without a use of it or of its file.
    pub fn peek(&self, ino: Ino, id: ExtentId, frame: u32) -> Option<Arc<Frame>> {
        self.inner.lock().frames.peek(&(ino, id, frame)).cloned()
    }

    pub fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Relaxed)
    }

    /// Asked without using it.
    pub fn has(&self, ino: Ino, id: ExtentId, frame: u32) -> bool {
        self.inner.lock().order.contains(&(ino, id, frame))
    }

    /// How many of these frames of an extent are here for this file.
    pub fn of_extent(&self, ino: Ino, id: ExtentId, frames: Range<u32>) -> usize {
        self.inner.lock().order.range((ino, id, frames.start)..(ino, id, frames.end)).count()
    }

    /// The leading ones of these frames that are not here; the first one is not.
    pub fn absent(&self, ino: Ino, id: ExtentId, frames: Range<u32>) -> Range<u32> {
        let (from, to) = ((ino, id, frames.start + 1), (ino, id, frames.end));
        let known = if from < to { self.inner.lock().order.range(from..to).next().map(|(_, _, n)| *n) } else { None };
        frames.start..known.unwrap_or(frames.end)
    }

    /// Puts frames here, from the first on. Who holds the entry keeps it from dying meanwhile: no frame is left without one.
    pub fn put(&self, entry: &Entry, id: ExtentId, first: u32, frames: &[Arc<Frame>]) {
        self.put_some(entry, id, first, frames, |_, _| true);
    }

    /// As [`Frames::put`], of those that are not here.
    pub fn keep(&self, entry: &Entry, id: ExtentId, first: u32, frames: &[Arc<Frame>]) {
        self.put_some(entry, id, first, frames, |inner, key| !inner.order.contains(key));
    }

    fn put_some(
        &self,
        entry: &Entry,
        id: ExtentId,
        first: u32,
        frames: &[Arc<Frame>],
        is_put: impl Fn(&Inner, &Key) -> bool,
    ) {
        let (mut gone, mut came) = (Vec::new(), 0);
        {
            let mut inner = self.inner.lock();
            for (number, plain) in (first..).zip(frames) {
                let key = (entry.ino, id, number);
                if !is_put(&inner, &key) {
                    continue;
                }
                inner.take(&key, &mut gone);
                inner.bytes += plain.len();
                let held = inner.held.entry(entry.ino).or_default();
                held.bytes += plain.len() as u64;
                held.frames += 1;
                inner.frames.push(key, plain.clone());
                inner.order.insert(key);
                inner.shrink(self.most, &mut gone);
                came += 1;
            }
        }
        self.arrivals.fetch_add(came, Ordering::Relaxed);
        // Wiped here, outside the lock.
        drop(gone);
    }

    /// All that is of one file.
    pub fn wipe(&self, ino: Ino) {
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            if !inner.held.contains_key(&ino) {
                return;
            }
            let keys: Vec<Key> = inner.order.range(whole(ino)).copied().collect();
            keys.iter().for_each(|key| inner.take(key, &mut gone));
        }
        drop(gone);
    }

    /// What the entries cost now.
    pub fn charge(&self, cost: usize) {
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            inner.charged = cost;
            inner.shrink(self.most, &mut gone);
        }
        drop(gone);
    }

    pub fn held(&self, ino: Ino) -> Held {
        self.inner.lock().held.get(&ino).copied().unwrap_or_default()
    }

    /// Bytes of plaintext.
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// Frames found, and not found.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

impl Inner {
    fn take(&mut self, key: &Key, gone: &mut Vec<Arc<Frame>>) {
        let Some(frame) = self.frames.pop(key) else { return };
        self.forget(key, &frame);
        gone.push(frame);
    }

    fn forget(&mut self, key: &Key, frame: &Frame) {
        self.order.remove(key);
        self.bytes -= frame.len();
        if let Some(held) = self.held.get_mut(&key.0) {
            held.bytes -= frame.len() as u64;
            held.frames -= 1;
            if held.frames == 0 {
                self.held.remove(&key.0);
            }
        }
    }

    fn shrink(&mut self, most: usize, gone: &mut Vec<Arc<Frame>>) {
        while self.bytes + self.frames.len() * FRAME_COST + self.charged > most {
            let Some((key, frame)) = self.frames.pop_lru() else { break };
            self.forget(&key, &frame);
            gone.push(frame);
        }
    }
}

fn whole(ino: Ino) -> RangeInclusive<Key> {
    let extent = |owner, number| ExtentId { owner, number };
    (ino, extent(Ino(0), 0), 0)..=(ino, extent(Ino(u64::MAX), u64::MAX), u32::MAX)
}
