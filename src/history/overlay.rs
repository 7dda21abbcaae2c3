//! The overlay: records in memory that the index does not hold yet, and what is derived from records while they change.
//!
//! Owns the recent records (deletions included) above the index, the records of unlinked open files (L4), which never
//! reach it, and the steps by which the index will follow. Derived: how many inodes there are, how many bytes files
//! hold. Does not own: the order of changes, durability, what a commit holds.
//!
//! Invariants
//! - An inode's records are either the state's or, all of them, an orphan's.
//! - A recent record goes only when the index holds that one or a newer one, so reads look here first.
//! - An extent lives as long as a piece of its owner's map names it: there is no other count. A dead one's record may
//!   stay for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::{Epoch, ExtentId, Ino, Position};
use crate::format::commit::ChainLink;
use crate::format::key::{Key, Part};
use crate::format::record::{Extent, Place, Record};
use crate::index::{Folded, Index, IndexError, Mark};

/// An unlinked file's inode, and its records.
pub type Orphan = (Ino, Vec<(Key, Arc<Record>)>);

/// What one key comes to.
struct Recent {
    position: Position,
    record: Option<Arc<Record>>,
}

/// What the index is to follow: the records of one change, or the places that a commit gave to extents.
struct Step {
    position: Position,
    writes: Vec<(Key, Option<Arc<Record>>)>,
    /// The log object that the places come from, and its epoch; few steps have one.
    link: Option<Box<(ChainLink, Epoch)>>,
    inodes: u64,
    bytes: u64,
}

pub struct Overlay {
    index: Arc<Index>,
    recent: BTreeMap<Key, Recent>,
    orphans: BTreeMap<Key, Arc<Record>>,
    /// With the position of the change that took the last name.
    orphan_inodes: HashMap<Ino, Position>,
    /// Sealed bytes of orphans that only the journal holds.
    orphan_bytes: u64,
    steps: VecDeque<Step>,
    /// Of all that is here and in the index, but the link: that of the steps that were given.
    mark: Mark,
}

/// What the index is given at a time.
pub struct Unindexed {
    steps: Vec<Vec<(Key, Option<Arc<Record>>)>>,
    records: usize,
    /// The last position among them.
    pub position: Position,
    pub mark: Mark,
}

impl Unindexed {
    pub fn new(mark: Mark) -> Unindexed {
        Unindexed { steps: Vec::new(), records: 0, position: Position(0), mark }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many there are; a key counts as often as it was written.
    pub fn records(&self) -> usize {
        self.records
    }

    /// One record a key.
    pub fn fold(&mut self) -> Folded {
        std::mem::take(&mut self.steps).into_iter().flatten().collect()
    }
}

impl Overlay {
    pub fn new(index: Arc<Index>, mark: &Mark) -> Overlay {
        Overlay {
            index,
            recent: BTreeMap::new(),
            orphans: BTreeMap::new(),
            orphan_inodes: HashMap::new(),
            orphan_bytes: 0,
            steps: VecDeque::new(),
            mark: Mark { block: None, clean: false, ..mark.clone() },
        }
    }

    pub fn is_orphan(&self, ino: Ino) -> bool {
        !self.orphan_inodes.is_empty() && self.orphan_inodes.contains_key(&ino)
    }

    pub fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        if self.is_orphan(key.ino) {
            return Ok(self.orphans.get(key).cloned());
        }
        match self.recent.get(key) {
            Some(recent) => Ok(recent.record.clone()),
            None => self.index.get(key),
        }
    }

    /// Records from `from` to `to`, both inclusive, in key order; `visit` returns false to stop.
    pub fn scan(
        &self,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(&Key, &Arc<Record>) -> bool,
    ) -> Result<(), IndexError> {
        if from > to {
            return Ok(());
        }
        if from.ino == to.ino && self.is_orphan(from.ino) {
            for (key, record) in self.orphans.range(from..=to) {
                if !visit(key, record) {
                    break;
                }
            }
            return Ok(());
        }
        let recent = self.recent.range(from..=to).map(|(key, recent)| (key, recent.record.as_ref()));
        layered(recent, |older| self.index.scan(from, to, |key, record| older(key, &record)), visit)
    }

    /// Puts or deletes the records of one change. `old` is what stood under each key.
    pub fn apply(
        &mut self,
        position: Position,
        writes: Vec<(Key, Option<Arc<Record>>)>,
        old: impl Iterator<Item = Option<Arc<Record>>>,
    ) {
        for ((key, record), old) in writes.iter().zip(old) {
            if let Some(old) = old {
                self.mark.count(*key, &old, false);
            }
            if let Some(record) = record {
                self.mark.count(*key, record, true);
            }
            self.recent.insert(*key, Recent { position, record: record.clone() });
        }
        self.push(position, writes, None);
    }

    fn push(&mut self, position: Position, writes: Vec<(Key, Option<Arc<Record>>)>, link: Option<(ChainLink, Epoch)>) {
        let link = link.map(Box::new);
        let Mark { inodes, bytes, .. } = self.mark;
        self.steps.push_back(Step { position, writes, link, inodes, bytes });
    }

    /// Puts or deletes a record of an orphan.
    pub fn apply_orphan(&mut self, key: Key, record: Option<Arc<Record>>) {
        self.orphan_bytes += record.as_deref().map_or(0, |record| local_bytes(&key, record));
        let old = match record {
            Some(record) => self.orphans.insert(key, record),
            None => self.orphans.remove(&key),
        };
        self.orphan_bytes -= old.map_or(0, |record| local_bytes(&key, &record));
    }

    /// The change at `position` makes an inode an orphan with these records (L4). Their deletion from the state is
    /// applied by the caller.
    pub fn orphan(&mut self, position: Position, ino: Ino, records: Vec<(Key, Arc<Record>)>) {
        self.orphan_inodes.insert(ino, position);
        for (key, record) in records {
            let record = match &*record {
                Record::Inode(inode) => {
                    let mut inode = inode.clone();
                    inode.nlink = 0;
                    Arc::new(Record::Inode(inode))
                }
                _ => record,
            };
            self.apply_orphan(key, Some(record));
        }
    }

    /// Sealed bytes of orphans that only the journal holds.
    pub fn orphan_bytes(&self) -> u64 {
        self.orphan_bytes
    }

    /// Of orphans whose last name went at or before `durable`, and whose inode `may` go: extents that only the journal
    /// holds, in key order, until they are `most` bytes.
    pub fn orphan_extents(&self, durable: Position, may: impl Fn(Ino) -> bool, most: u64) -> Vec<(ExtentId, Extent)> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut inodes: Vec<Ino> =
            self.orphan_inodes.iter().filter(|(_, at)| **at <= durable).map(|(ino, _)| *ino).collect();
        inodes.sort_unstable();
        for (key, record) in inodes.into_iter().filter(|ino| may(*ino)).flat_map(|ino| self.orphans.range(whole(ino))) {
            if let (Some(id), Record::Extent(extent)) = (local_extent(key, record), &**record) {
                bytes += u64::from(extent.stored);
                found.push((id, extent.clone()));
                if bytes >= most {
                    break;
                }
            }
        }
        found
    }

    /// The places in the vault of what unlinked open files hold.
    pub fn orphan_places(&self) -> impl Iterator<Item = Place> {
        self.orphans.values().filter_map(|record| match &**record {
            Record::Extent(extent) => Some(extent.place),
            _ => None,
        })
    }

    /// Drops an orphan for good; returns its extents that only the journal holds.
    pub fn forget(&mut self, ino: Ino) -> Vec<ExtentId> {
        let mut dead = Vec::new();
        if self.orphan_inodes.remove(&ino).is_none() {
            return dead;
        }
        let keys: Vec<Key> = self.orphans.range(whole(ino)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(record) = self.orphans.remove(&key)
                && let Some(id) = local_extent(&key, &record)
            {
                self.orphan_bytes -= local_bytes(&key, &record);
                dead.push(id);
            }
        }
        dead
    }

    /// The vault holds these extents now, as told here. [`Overlay::stands`] follows.
    pub fn place(&mut self, position: Position, placed: &[(ExtentId, Extent)]) -> Result<(), IndexError> {
        let mut writes = Vec::new();
        for (id, extent) in placed {
            let key = Key::extent(*id);
            if self.get(&key)?.is_none() {
                continue;
            }
            let record = Arc::new(Record::Extent(extent.clone()));
            match self.is_orphan(id.owner) {
                true => self.apply_orphan(key, Some(record)),
                false => {
                    self.recent.insert(key, Recent { position, record: Some(record.clone()) });
                    writes.push((key, Some(record)));
                }
            }
        }
        self.push(position, writes, None);
        Ok(())
    }

    /// All places that the commit `link` gave are known.
    pub fn stands(&mut self, position: Position, link: ChainLink, epoch: Epoch) {
        self.push(position, Vec::new(), Some((link, epoch)));
    }

    /// Takes steps at or before `durable` into `taken`, `most` at a time; returns whether there are more.
    pub fn take_steps(&mut self, durable: Position, most: usize, taken: &mut Unindexed) -> bool {
        for _ in 0..most {
            match self.steps.front() {
                Some(first) if first.position <= durable => {}
                _ => return false,
            }
            let step = self.steps.pop_front().expect("looked at above");
            if let Some((link, epoch)) = step.link.map(|link| *link) {
                (self.mark.link, self.mark.epoch) = (link, self.mark.epoch.max(epoch));
            }
            taken.position = step.position;
            let (inodes, bytes) = (step.inodes, step.bytes);
            taken.mark = Mark { block: taken.mark.block, inodes, bytes, ..self.mark.clone() };
            taken.records += step.writes.len();
            taken.steps.push(step.writes);
        }
        true
    }

    /// The index holds another state now, which `mark` describes, and nothing lies above it.
    pub fn begin(&mut self, mark: &Mark) {
        self.recent.clear();
        self.steps.clear();
        self.mark = Mark { block: None, clean: false, ..mark.clone() };
    }

    /// Is there nothing that the index has not been given?
    pub fn is_given(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// The index holds what these keys came to up to `position`.
    pub fn let_go<'a>(&mut self, keys: impl Iterator<Item = &'a Key>, position: Position) {
        for key in keys {
            if self.recent.get(key).is_some_and(|recent| recent.position <= position) {
                self.recent.remove(key);
            }
        }
    }

    /// Records that the index lacks.
    pub fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Bytes that files hold, and inodes.
    pub fn usage(&self) -> (u64, u64) {
        (self.mark.bytes, self.mark.inodes)
    }
}

/// Visits records of two sources in key order, `newer` hiding what `older` has under the same key (`None`: it is
/// deleted). `visit` returns false to stop.
pub(super) fn layered<'a>(
    newer: impl Iterator<Item = (&'a Key, Option<&'a Arc<Record>>)>,
    older: impl FnOnce(&mut dyn FnMut(&Key, &Arc<Record>) -> bool) -> Result<(), IndexError>,
    visit: &mut dyn FnMut(&Key, &Arc<Record>) -> bool,
) -> Result<(), IndexError> {
    let mut newer = newer.peekable();
    let mut more = true;
    older(&mut |key, record| {
        while more && let Some((before, record)) = newer.next_if(|(k, _)| *k < key) {
            more = record.is_none_or(|record| visit(before, record));
        }
        if more {
            more = match newer.next_if(|(k, _)| *k == key) {
                Some((_, hiding)) => hiding.is_none_or(|record| visit(key, record)),
                None => visit(key, record),
            };
        }
        more
    })?;
    while more && let Some((key, record)) = newer.next() {
        more = record.is_none_or(|record| visit(key, record));
    }
    Ok(())
}

/// The extent that this record is, if only the journal holds it.
pub fn local_extent(key: &Key, record: &Record) -> Option<ExtentId> {
    match (key.part, record) {
        (Part::Extent { number }, Record::Extent(extent)) if extent.place == Place::Local => {
            Some(ExtentId { owner: key.ino, number })
        }
        _ => None,
    }
}

fn local_bytes(key: &Key, record: &Record) -> u64 {
    match (local_extent(key, record), record) {
        (Some(_), Record::Extent(extent)) => u64::from(extent.stored),
        _ => 0,
    }
}

/// All keys of one inode.
pub fn whole(ino: Ino) -> RangeInclusive<Key> {
    Key::inode(ino)..=Key { ino, part: Part::Other { kind: u8::MAX, len: 32, rest: [u8::MAX; 32] } }
}
