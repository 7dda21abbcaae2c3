//! Clean frames of plaintext, least recently used last, bounded in bytes. Extents never change, so a frame is never
//! stale; it is wiped when it goes.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::base::ExtentId;
use crate::format::extent::Frame;

pub struct Frames {
    inner: Mutex<Inner>,
    most: usize,
}

struct Inner {
    frames: LruCache<(ExtentId, u32), Arc<Frame>>,
    bytes: usize,
}

impl Frames {
    pub fn new(most: usize) -> Frames {
        Frames { inner: Mutex::new(Inner { frames: LruCache::unbounded(), bytes: 0 }), most }
    }

    pub fn get(&self, id: ExtentId, frame: u32) -> Option<Arc<Frame>> {
        self.inner.lock().frames.get(&(id, frame)).cloned()
    }

    pub fn put(&self, id: ExtentId, frame: u32, plain: Arc<Frame>) {
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            inner.bytes += plain.len();
            if let Some((_, old)) = inner.frames.push((id, frame), plain) {
                inner.bytes -= old.len();
                gone.push(old);
            }
            while inner.bytes > self.most {
                let Some((_, old)) = inner.frames.pop_lru() else { break };
                inner.bytes -= old.len();
                gone.push(old);
            }
        }
        // Wiped here, outside the lock.
        drop(gone);
    }

    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}
