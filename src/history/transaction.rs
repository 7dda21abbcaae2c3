//! One operation: reads see its own writes; nothing is visible outside before it ends well.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use super::overlay::whole;
use crate::base::{Epoch, ExtentId, Ino, Position, Timestamp};
use crate::format::key::{Key, Part};
use crate::format::record::Record;
use crate::journal::SealedExtent;

pub struct Transaction<'a> {
    pub(super) state: &'a mut State,
    pub(super) writes: BTreeMap<Key, Option<Arc<Record>>>,
    pub(super) barriers: Vec<Ino>,
    pub(super) orphans: Vec<(Ino, Vec<Key>)>,
    pub(super) extents: Vec<SealedExtent>,
    pub(super) now: Timestamp,
    pub(super) position: Position,
}

/// Bits of an inode or extent number that count within an epoch (E1).
const COUNTER_BITS: u32 = 40;

/// The first number of an epoch. Epoch 0 is `init`'s.
pub(super) fn first_number(epoch: Epoch) -> u64 {
    // The next bit would be taken for another kind of inode.
    assert!(epoch <= Epoch::MAX, "vault::epoch gives no number above the last");
    (u64::from(epoch.0) << COUNTER_BITS) + 1
}

impl Transaction<'_> {
    pub fn get(&self, key: &Key) -> Option<Arc<Record>> {
        match self.writes.get(key) {
            Some(written) => written.clone(),
            None => self.state.overlay.get(key).cloned(),
        }
    }

    /// Records from `from` to `to`, both inclusive, in key order, this transaction's own writes included; `visit`
    /// returns false to stop.
    pub fn scan(&self, from: Key, to: Key, mut visit: impl FnMut(&Key, &Arc<Record>) -> bool) {
        let mut stored = self.state.overlay.range(from..=to).peekable();
        let mut written = self.writes.range(from..=to).peekable();
        loop {
            let take_written = match (stored.peek(), written.peek()) {
                (None, None) => return,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((a, _)), Some((b, _))) => {
                    if a == b {
                        stored.next();
                        continue;
                    }
                    b < a
                }
            };
            if take_written {
                if let Some((key, Some(record))) = written.next()
                    && !visit(key, record)
                {
                    return;
                }
            } else if let Some((key, record)) = stored.next()
                && !visit(key, record)
            {
                return;
            }
        }
    }

    pub fn put(&mut self, key: Key, record: Record) {
        self.writes.insert(key, Some(Arc::new(record)));
    }

    pub fn delete(&mut self, key: Key) {
        self.writes.insert(key, None);
    }

    /// This operation is a barrier for the file (L2, J7).
    pub fn barrier(&mut self, ino: Ino) {
        self.barriers.push(ino);
    }

    /// The inode's last name goes: its records leave the state and live on outside every commit, with nlink 0, until
    /// [`super::History::forget`] (L4). Call it instead of deleting `Key::inode` and what belongs to the contents;
    /// entry and link records are the caller's to delete.
    pub fn orphan(&mut self, ino: Ino) {
        let mut keys = Vec::new();
        for (key, _) in self.state.overlay.range(whole(ino)) {
            match key.part {
                // Deleted by the caller, if at all.
                Part::Link { .. } | Part::Dentry { .. } => {}
                // Commits drop no extents; what the orphan names goes with it.
                Part::Extent { .. } => keys.push(*key),
                _ => {
                    keys.push(*key);
                    self.writes.insert(*key, None);
                }
            }
        }
        self.orphans.push((ino, keys));
    }

    pub fn new_inode(&mut self) -> Ino {
        let ino = Ino(self.state.next_inode);
        self.state.next_inode += 1;
        ino
    }

    pub fn new_extent(&mut self, owner: Ino) -> ExtentId {
        let number = self.state.next_extent;
        self.state.next_extent += 1;
        ExtentId { owner, number }
    }

    /// An extent that comes with this change; its record is written too.
    pub fn bring(&mut self, extent: SealedExtent) {
        self.put(Key::extent(extent.id), Record::Extent(extent.record.clone()));
        self.extents.push(extent);
    }

    /// Where this operation's change will stand in the journal.
    pub fn position(&self) -> Position {
        self.position
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }
}
