//! The budget of bytes in flight in this process: what is between the cache on the one side and journal or store on
//! the other. Each use has a share of its own, so that nothing of one use ever waits for another: a full system slows
//! writers and read-ahead, never a reader, and the round that empties the journal is never kept waiting by what fills
//! it.
//!
//! Owns the counts. Does not own the memory itself, nor plaintext that the cache keeps (it has bounds of its own).
//!
//! Invariant: a share is exceeded only by one job that alone is larger, while nothing else of that use is in flight, or
//! by what a capture grew between its asking and its turn.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Class;
use super::urgency::{Urgency, first};

/// What bytes are in flight for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A read that somebody waits for.
    Read = 0,
    /// What is read before it is asked for.
    ReadAhead = 1,
    /// Captured bytes on their way into the journal.
    Capture = 2,
    /// Objects on their way into the store.
    Put = 3,
}

/// Eighths of the budget: a put is a whole segment.
const SHARES: [(Use, usize); 4] = [(Use::Read, 2), (Use::ReadAhead, 2), (Use::Capture, 1), (Use::Put, 3)];

/// A handle: clones share the counts.
#[derive(Clone)]
pub struct Memory(Arc<[Mutex<Share>; 4]>);

struct Share {
    most: usize,
    used: usize,
    peak: usize,
    number: u64,
    waiting: Vec<Waiting>,
}

struct Waiting {
    urgency: Urgency,
    number: u64,
    bytes: usize,
    tell: oneshot::Sender<Permit>,
}

/// Bytes of the budget, until it is dropped.
pub struct Permit {
    memory: Memory,
    of: Use,
    bytes: usize,
}

impl Permit {
    /// The job turned out to be larger. Overshoots the share by no more than that.
    pub fn grow_to(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        let mut share = self.memory.share(self.of).lock();
        share.used += more;
        share.peak = share.peak.max(share.used);
        self.bytes += more;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let given = {
            let mut share = self.memory.share(self.of).lock();
            share.used -= self.bytes;
            share.give(&self.memory, self.of)
        };
        for (tell, permit) in given {
            // Whoever waited may have gone: then it comes back here.
            drop(tell.send(permit));
        }
    }
}

impl Share {
    fn fits(&self, bytes: usize) -> bool {
        self.used == 0 || self.used + bytes <= self.most
    }

    fn take(&mut self, memory: &Memory, of: Use, bytes: usize) -> Permit {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        Permit { memory: memory.clone(), of, bytes }
    }

    /// Serves those who wait, the most urgent first; one that is too large holds back the others, or it would wait for ever.
    fn give(&mut self, memory: &Memory, of: Use) -> Vec<(oneshot::Sender<Permit>, Permit)> {
        let mut given = Vec::new();
        while let Some(place) = first(self.waiting.iter().map(|w| (&w.urgency, w.number))) {
            if !self.waiting[place].tell.is_closed() && !self.fits(self.waiting[place].bytes) {
                break;
            }
            let waiting = self.waiting.remove(place);
            if !waiting.tell.is_closed() {
                given.push((waiting.tell, self.take(memory, of, waiting.bytes)));
            }
        }
        given
    }
}

impl Memory {
    pub fn new(bytes: usize) -> Memory {
        Memory(Arc::new(SHARES.map(|(_, eighths)| {
            Mutex::new(Share { most: bytes / 8 * eighths, used: 0, peak: 0, number: 0, waiting: Vec::new() })
        })))
    }

    fn share(&self, of: Use) -> &Mutex<Share> {
        &self.0[of as usize]
    }

    /// Waits for room.
    pub async fn take(&self, of: Use, urgency: &Urgency, bytes: usize) -> Permit {
        let answer = {
            let mut share = self.share(of).lock();
            let overtakes = share.waiting.iter().all(|w| w.tell.is_closed() || w.urgency.class() > urgency.class());
            if overtakes && share.fits(bytes) {
                return share.take(self, of, bytes);
            }
            let (tell, answer) = oneshot::channel();
            share.number += 1;
            let number = share.number;
            share.waiting.push(Waiting { urgency: urgency.clone(), number, bytes, tell });
            answer
        };
        answer.await.expect("a share answers or lives on: this handle keeps it alive")
    }

    /// `None` where there is no room now.
    pub fn try_take(&self, of: Use, bytes: usize) -> Option<Permit> {
        let mut share = self.share(of).lock();
        (share.waiting.is_empty() && share.fits(bytes)).then(|| share.take(self, of, bytes))
    }

    /// Is there nothing that a job of this class would wait for?
    pub fn has_room(&self, of: Use, class: Class, bytes: usize) -> bool {
        let share = self.share(of).lock();
        share.waiting.iter().all(|w| w.urgency.class() > class) && share.fits(bytes)
    }

    /// The most that a use may have in flight.
    pub fn most(&self, of: Use) -> usize {
        self.share(of).lock().most
    }

    pub fn used(&self) -> usize {
        self.0.iter().map(|share| share.lock().used).sum()
    }

    pub fn budget(&self) -> usize {
        self.0.iter().map(|share| share.lock().most).sum()
    }

    /// The most that there was of each use, summed: never less than the most that there was at once.
    pub fn peak(&self) -> usize {
        self.0.iter().map(|share| share.lock().peak).sum()
    }
}
