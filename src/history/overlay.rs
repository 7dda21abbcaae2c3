//! The overlay: records in memory under their one key order, and what is derived from them while they change.
//!
//! Owns two maps: records that travel, and records of unlinked open files (L4), which never do. Derived: how many
//! pieces name each extent, how many inodes there are, how many bytes files hold. A record is in one map only; the
//! inode of its key decides in which.
//! Does not own: the order of changes, durability, what a commit holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::{ExtentId, Ino};
use crate::format::key::{Key, Part};
use crate::format::record::{Extent, Place, Record};

type Records = BTreeMap<Key, Arc<Record>>;

#[derive(Default)]
pub struct Overlay {
    records: Records,
    orphans: Records,
    orphan_inodes: HashSet<Ino>,
    /// Pieces that name an extent; an extent that none names is dead and is not in here.
    references: HashMap<ExtentId, u32>,
    inodes: u64,
    bytes: u64,
}

/// What a record's going or coming did.
#[derive(Default)]
pub struct Effects {
    /// Extents that nothing names any more and that only the journal holds.
    pub dead: Vec<ExtentId>,
    /// Extents that lost their last name on the way; another record of the same change may name them again.
    loose: Vec<ExtentId>,
}

impl Overlay {
    pub fn get(&self, key: &Key) -> Option<&Arc<Record>> {
        self.records.get(key).or_else(|| if self.orphans.is_empty() { None } else { self.orphans.get(key) })
    }

    /// Records in key order. One inode's records are in one map, so a range within one inode needs no merge; a range
    /// that spans inodes sees what travels.
    pub fn range(&self, range: RangeInclusive<Key>) -> impl Iterator<Item = (&Key, &Arc<Record>)> {
        let orphan = range.start().ino == range.end().ino && self.is_orphan(range.start().ino);
        if orphan { self.orphans.range(range) } else { self.records.range(range) }
    }

    pub fn is_orphan(&self, ino: Ino) -> bool {
        !self.orphan_inodes.is_empty() && self.orphan_inodes.contains(&ino)
    }

    /// Everything that travels, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Record>)> {
        self.records.iter()
    }

    /// Puts or deletes one record. Returns whether there was one under that key. Once all records of a change (or
    /// commit) are applied, [`Overlay::settle`] must follow: within one, the piece that names an extent may move from
    /// one record to another.
    pub fn apply(&mut self, key: Key, record: Option<Arc<Record>>, effects: &mut Effects) -> bool {
        let orphan = self.is_orphan(key.ino);
        if let Some(record) = &record {
            self.count(key, record, orphan, true);
        }
        let map = if orphan { &mut self.orphans } else { &mut self.records };
        let old = match record {
            Some(record) => map.insert(key, record),
            None => map.remove(&key),
        };
        if let Some(old) = &old {
            self.count(key, old, orphan, false);
            self.dereference(old, effects);
        }
        old.is_some()
    }

    /// A change is applied as a whole: extents that nothing names now are dead.
    pub fn settle(&mut self, effects: &mut Effects) {
        for id in std::mem::take(&mut effects.loose) {
            if self.references.contains_key(&id) {
                continue;
            }
            let map = if self.is_orphan(id.owner) { &mut self.orphans } else { &mut self.records };
            if let Some(record) = map.remove(&Key::extent(id))
                && let Record::Extent(extent) = &*record
                && extent.place == Place::Local
            {
                effects.dead.push(id);
            }
        }
    }

    /// Moves what is left of an inode out of what travels (L4). Its records keep their extents alive.
    pub fn orphan(&mut self, ino: Ino, keys: &[Key]) {
        self.orphan_inodes.insert(ino);
        for key in keys {
            if let Some(record) = self.records.remove(key) {
                self.leave(&record);
                let record = match &*record {
                    Record::Inode(inode) => {
                        let mut inode = inode.clone();
                        inode.nlink = 0;
                        Arc::new(Record::Inode(inode))
                    }
                    _ => record,
                };
                self.orphans.insert(*key, record);
            }
        }
    }

    /// Drops an orphan for good.
    pub fn forget(&mut self, ino: Ino) -> Effects {
        let mut effects = Effects::default();
        if !self.orphan_inodes.contains(&ino) {
            return effects;
        }
        let keys: Vec<Key> = self.orphans.range(whole(ino)).map(|(key, _)| *key).collect();
        // Extents last: what names them decides whether they are dead.
        for key in keys.iter().filter(|k| !matches!(k.part, Part::Extent { .. })) {
            if let Some(old) = self.orphans.remove(key) {
                self.dereference(&old, &mut effects);
            }
        }
        self.settle(&mut effects);
        for key in keys {
            self.orphans.remove(&key);
        }
        self.orphan_inodes.remove(&ino);
        effects
    }

    /// The vault holds this extent now, as told here.
    pub fn place(&mut self, id: ExtentId, extent: &Extent) {
        let key = Key::extent(id);
        let map = if self.is_orphan(id.owner) { &mut self.orphans } else { &mut self.records };
        if let Some(record) = map.get_mut(&key)
            && let Record::Extent(_) = &**record
        {
            *record = Arc::new(Record::Extent(extent.clone()));
        }
    }

    /// Forgets extents that nothing names: after loading a vault, whose log keeps them.
    pub fn drop_dead_extents(&mut self) -> Vec<ExtentId> {
        let dead: Vec<ExtentId> = self
            .records
            .keys()
            .filter_map(|key| match key.part {
                Part::Extent { number } => Some(ExtentId { owner: key.ino, number }),
                _ => None,
            })
            .filter(|id| !self.references.contains_key(id))
            .collect();
        for id in &dead {
            self.records.remove(&Key::extent(*id));
        }
        dead
    }

    /// Bytes that files hold, and inodes.
    pub fn usage(&self) -> (u64, u64) {
        (self.bytes, self.inodes)
    }

    pub fn orphan_count(&self) -> usize {
        self.orphan_inodes.len()
    }

    fn count(&mut self, _key: Key, record: &Record, orphan: bool, comes: bool) {
        match record {
            Record::Inode(_) if !orphan => self.inodes = step(self.inodes, 1, comes),
            Record::Head(head) => {
                if !orphan {
                    self.bytes = step(self.bytes, head.size, comes);
                }
                if comes {
                    for piece in &head.pieces {
                        *self.references.entry(piece.extent).or_default() += 1;
                    }
                }
            }
            Record::Map(piece) if comes => *self.references.entry(piece.extent).or_default() += 1,
            _ => {}
        }
    }

    /// A record leaves what travels but lives on as an orphan's.
    fn leave(&mut self, record: &Record) {
        match record {
            Record::Inode(_) => self.inodes -= 1,
            Record::Head(head) => self.bytes -= head.size,
            _ => {}
        }
    }

    fn dereference(&mut self, old: &Record, effects: &mut Effects) {
        match old {
            Record::Head(head) => head.pieces.iter().for_each(|piece| self.release(piece.extent, effects)),
            Record::Map(piece) => self.release(piece.extent, effects),
            _ => {}
        }
    }

    fn release(&mut self, id: ExtentId, effects: &mut Effects) {
        let Some(count) = self.references.get_mut(&id) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.references.remove(&id);
        effects.loose.push(id);
    }
}

/// All keys of one inode.
pub fn whole(ino: Ino) -> RangeInclusive<Key> {
    Key::inode(ino)..=Key { ino, part: Part::Other { kind: u8::MAX, len: 32, rest: [u8::MAX; 32] } }
}

fn step(value: u64, by: u64, comes: bool) -> u64 {
    if comes { value + by } else { value - by }
}
