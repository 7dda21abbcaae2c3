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
use crate::format::record::{Place, Record};

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
    /// Extents whose last piece went. Another record of the same change may name them again.
    unnamed: Vec<ExtentId>,
    /// Extents that nothing names any more and that only the journal holds.
    pub dead: Vec<ExtentId>,
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

    /// Puts or deletes one record; [`Overlay::settle`] ends the change that it belongs to. Returns whether there was one under that key.
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

    /// Ends a change: extents that nothing names after all of its records are gone. Not before: a map that moves out of
    /// its head, or a piece that is cut in front, takes a name away in one record and gives it back in a later one.
    pub fn settle(&mut self, effects: &mut Effects) {
        for id in std::mem::take(&mut effects.unnamed) {
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

    /// The vault holds this extent now.
    pub fn place(&mut self, id: ExtentId, place: Place) {
        let key = Key::extent(id);
        let map = if self.is_orphan(id.owner) { &mut self.orphans } else { &mut self.records };
        if let Some(record) = map.get_mut(&key)
            && let Record::Extent(extent) = &**record
        {
            let mut extent = extent.clone();
            extent.place = place;
            *record = Arc::new(Record::Extent(extent));
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
        effects.unnamed.push(id);
    }
}

/// All keys of one inode.
pub fn whole(ino: Ino) -> RangeInclusive<Key> {
    Key::inode(ino)..=Key { ino, part: Part::Other { kind: u8::MAX, len: 32, rest: [u8::MAX; 32] } }
}

fn step(value: u64, by: u64, comes: bool) -> u64 {
    if comes { value + by } else { value - by }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Position, Timestamp};
    use crate::format::record::{Extent, Extra, Head, Piece};

    const INO: Ino = Ino(7);

    fn extent(number: u64) -> (Key, Option<Arc<Record>>) {
        let (key_id, nonce, frames, extra) = ([0; 16], [0; 16], Vec::new(), Extra::default());
        let record = Extent { key_id, nonce, frame_log2: 12, len: 10, stored: 26, frames, place: Place::Local, extra };
        (Key::extent(ExtentId { owner: INO, number }), Some(Arc::new(Record::Extent(record))))
    }

    fn piece(offset: u64, number: u64) -> Piece {
        Piece { offset, len: 10, extent: ExtentId { owner: INO, number }, start: 0 }
    }

    fn head(pieces: Vec<Piece>) -> (Key, Option<Arc<Record>>) {
        let spilled = pieces.is_empty();
        let never = Timestamp::default();
        let (position, extra) = (Position(1), Extra::default());
        let head = Head { size: 100, atime: never, mtime: never, ctime: never, position, pieces, spilled, extra };
        (Key::head(INO), Some(Arc::new(Record::Head(head))))
    }

    fn mapped(at: u64, piece: Piece) -> (Key, Option<Arc<Record>>) {
        (Key::map(INO, at), Some(Arc::new(Record::Map(piece))))
    }

    /// One change, in key order as history applies it. Returns what died.
    fn change(overlay: &mut Overlay, mut records: Vec<(Key, Option<Arc<Record>>)>) -> Vec<ExtentId> {
        records.sort_by_key(|(key, _)| *key);
        let mut effects = Effects::default();
        for (key, record) in records {
            overlay.apply(key, record, &mut effects);
        }
        overlay.settle(&mut effects);
        effects.dead
    }

    #[test]
    fn a_map_that_moves_out_of_its_head_keeps_its_extents() {
        let mut overlay = Overlay::default();
        change(&mut overlay, vec![extent(1), extent(2), head(vec![piece(0, 1), piece(10, 2)])]);
        let dead = change(&mut overlay, vec![head(vec![]), mapped(0, piece(0, 1)), mapped(10, piece(10, 2))]);
        assert_eq!(dead, []);
        assert!(overlay.get(&extent(1).0).is_some() && overlay.get(&extent(2).0).is_some());
    }

    #[test]
    fn a_piece_that_is_cut_in_front_keeps_its_extent() {
        let mut overlay = Overlay::default();
        change(&mut overlay, vec![extent(1), head(vec![]), mapped(0, piece(0, 1))]);
        let dead = change(&mut overlay, vec![(Key::map(INO, 0), None), mapped(4, piece(4, 1))]);
        assert_eq!(dead, []);
        assert!(overlay.get(&extent(1).0).is_some());
    }

    #[test]
    fn an_extent_that_nothing_names_is_dead() {
        let mut overlay = Overlay::default();
        change(&mut overlay, vec![extent(1), extent(2), head(vec![piece(0, 1), piece(10, 2)])]);
        let dead = change(&mut overlay, vec![head(vec![piece(10, 2)])]);
        assert_eq!(dead, [ExtentId { owner: INO, number: 1 }]);
        assert!(overlay.get(&extent(1).0).is_none() && overlay.get(&extent(2).0).is_some());
    }
}
