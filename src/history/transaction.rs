//! One operation: reads see its own writes; nothing is visible outside before it ends well.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::State;
use super::overlay::{Orphan, layered, local_extent, whole};
use crate::base::{Epoch, ExtentId, Ino, Position, Timestamp};
use crate::format::key::{Key, Part};
use crate::format::record::{Piece, Record};
use crate::index::IndexError;
use crate::journal::SealedExtent;

pub struct Transaction<'a> {
    pub(super) state: &'a mut State,
    pub(super) writes: BTreeMap<Key, Option<Arc<Record>>>,
    pub(super) barriers: Vec<Ino>,
    pub(super) orphans: Vec<Orphan>,
    pub(super) extents: Vec<SealedExtent>,
    pub(super) now: Timestamp,
    pub(super) position: Position,
}

/// What a change does beside its records; found before it is appended, so that nothing can fail after.
pub(super) struct Effects {
    /// What stood under each key that the change writes, in its order.
    pub old: Vec<Option<Arc<Record>>>,
    /// Extents that are known to be named by nothing any more: their records go too.
    pub dead: Vec<Key>,
    /// Those of them that only the journal holds.
    pub dying: Vec<ExtentId>,
}

/// Bits of an inode or extent number that count within an epoch (E1).
const COUNTER_BITS: u32 = 40;

/// The first number of an epoch. Epoch 0 is `init`'s.
pub(super) fn first_number(epoch: Epoch) -> u64 {
    // The next bit would be taken for another kind of inode.
    assert!(epoch <= Epoch::MAX, "vault::epoch gives no number above the last");
    (u64::from(epoch.0) << COUNTER_BITS) + 1
}

/// The epoch that gave this number.
pub fn epoch_of(number: u64) -> Epoch {
    Epoch((number >> COUNTER_BITS) as u32 & Epoch::MAX.0)
}

impl Transaction<'_> {
    pub fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.state.overlay.get(key),
        }
    }

    /// Records from `from` to `to`, both inclusive, in key order, this transaction's own writes included; `visit`
    /// returns false to stop.
    pub fn scan(
        &self,
        from: Key,
        to: Key,
        mut visit: impl FnMut(&Key, &Arc<Record>) -> bool,
    ) -> Result<(), IndexError> {
        if from > to {
            return Ok(());
        }
        let written = self.writes.range(from..=to).map(|(key, record)| (key, record.as_ref()));
        layered(written, |older| self.state.overlay.scan(from, to, older), &mut visit)
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
    pub fn orphan(&mut self, ino: Ino) -> Result<(), IndexError> {
        let mut records = Vec::new();
        let (from, to) = whole(ino).into_inner();
        self.state.overlay.scan(from, to, &mut |key, record| {
            // Links and entries are deleted by the caller, if at all.
            if !matches!(key.part, Part::Link { .. } | Part::Dentry { .. }) {
                records.push((*key, record.clone()));
            }
            true
        })?;
        // Commits drop no extents; those that the orphan names go with it.
        for (key, _) in records.iter().filter(|(key, _)| !matches!(key.part, Part::Extent { .. })) {
            self.writes.insert(*key, None);
        }
        self.orphans.push((ino, records));
        Ok(())
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

    /// What the change will do. Extents whose last piece it takes away are dead, unless they go with an orphan.
    pub(super) fn effects(&self) -> Result<Effects, IndexError> {
        let mut effects = Effects { old: Vec::with_capacity(self.writes.len()), dead: Vec::new(), dying: Vec::new() };
        let mut loose: HashSet<ExtentId> = HashSet::new();
        for key in self.writes.keys() {
            let old = self.state.overlay.get(key)?;
            if let Some(old) = &old
                && !self.orphans.iter().any(|(ino, _)| *ino == key.ino)
            {
                loose.extend(pieces(old).iter().map(|piece| piece.extent));
            }
            effects.old.push(old);
        }
        for id in loose {
            if self.may_be_named(id)? {
                continue;
            }
            let key = Key::extent(id);
            if let Some(record) = self.get(&key)? {
                effects.dying.extend(local_extent(&key, &record));
                effects.dead.push(key);
            }
        }
        effects.dead.sort_unstable();
        effects.dying.sort_unstable_by_key(|id| (id.owner, id.number));
        Ok(effects)
    }

    /// May a piece of the owner's map still name this extent? Of a map in records of its own nobody knows without
    /// reading all of it: an extent has pieces anywhere. What dies there is found when a round takes it, or swept when
    /// the index is merged.
    fn may_be_named(&self, id: ExtentId) -> Result<bool, IndexError> {
        Ok(match self.get(&Key::head(id.owner))?.as_deref() {
            Some(Record::Head(head)) => head.spilled || head.pieces.iter().any(|piece| piece.extent == id),
            _ => false,
        })
    }
}

/// The pieces that a record holds.
pub(super) fn pieces(record: &Record) -> &[Piece] {
    match record {
        Record::Head(head) => &head.pieces,
        Record::Map(piece) => std::slice::from_ref(piece),
        _ => &[],
    }
}
