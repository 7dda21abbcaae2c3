//! Mark and sweep, when all levels become one: what nothing names is dropped, and each segment is weighed.
//!
//! The merged records are read twice. Most extents are named by the inode that they were written for, whose records
//! lie before them; the first pass finds those that others share (copies), which must be known before. In the second
//! an extent that nobody names is left out. Records of segments come first in key order and can be judged last, so they
//! are kept aside, and become the level's first runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::merge::Merged;
use super::write::{Sender, Writer};
use super::{Fetch, Upload};
use crate::base::{ExtentId, Ino, ObjectId, Sequence};
use crate::format::checkpoint::RunRef;
use crate::format::checkpoint::table::SegmentCount;
use crate::format::key::{Key, Part};
use crate::format::record::{Place, Record, Reference};

/// What is named other than by the records of its own inode before it: by other inodes (copies), and by kinds and fields
/// that this program does not know.
#[derive(Default)]
pub struct Marks {
    pub extents: HashSet<ExtentId>,
    segments: HashSet<ObjectId>,
    pub logs: HashSet<Sequence>,
}

impl Marks {
    pub fn visit(&mut self, key: &Key, record: &Record) {
        references(record, |reference| match reference {
            Reference::Extent(id) if id.owner == key.ino && is_before_extents(key) => {}
            Reference::Extent(id) => _ = self.extents.insert(id),
            reference if is_place(record, reference) => {}
            Reference::Segment(id) => _ = self.segments.insert(id),
            Reference::Log(sequence) => _ = self.logs.insert(sequence),
        });
    }
}

/// What a sweep found.
#[derive(Default)]
pub struct Found {
    pub level: Vec<RunRef>,
    /// Segments in which no extent lives that the state names, in order of their ids.
    pub dead: Vec<ObjectId>,
    /// All others, ids rising.
    pub counts: Vec<SegmentCount>,
    /// Log objects with inline extents that live, and how many bytes.
    pub inline: BTreeMap<Sequence, u64>,
    pub dropped: u64,
}

/// Visits what a record names; a record that holds nothing which this program does not know tells by itself.
fn references(record: &Record, mut visit: impl FnMut(Reference)) {
    match record {
        Record::Head(head) if head.extra.is_none() => {
            head.pieces.iter().for_each(|piece| visit(Reference::Extent(piece.extent)));
        }
        Record::Map(piece) => visit(Reference::Extent(piece.extent)),
        Record::Inode(inode) if inode.extra.is_none() => {}
        Record::Dentry(dentry) if dentry.extra.is_none() => {}
        Record::Link(link) if link.extra.is_none() => {}
        Record::Xattr(xattr) if xattr.extra.is_none() => {}
        Record::Segment(segment) if segment.extra.is_none() => {}
        Record::Extent(extent) if extent.extra.is_none() => {}
        _ => record.references(visit),
    }
}

/// Is this what an extent's record names by having its place there? That alone keeps nothing alive.
fn is_place(record: &Record, reference: Reference) -> bool {
    let Record::Extent(extent) = record else { return false };
    match (extent.place, reference) {
        (Place::Segment { id, .. }, Reference::Segment(named)) => id == named,
        (Place::Inline { sequence, .. }, Reference::Log(named)) => sequence == named,
        _ => false,
    }
}

/// Does this record stand before the extents of its inode?
fn is_before_extents(key: &Key) -> bool {
    !matches!(key.part, Part::Extent { .. } | Part::Segment { .. } | Part::Other { .. })
}

/// The first pass.
pub async fn mark<F: Fetch>(mut merged: Merged<'_, F>) -> Result<Marks, F::Error> {
    let mut marks = Marks::default();
    while let Some((key, record)) = merged.next().await? {
        if let Some(record) = record {
            marks.visit(&key, &record);
        }
    }
    Ok(marks)
}

/// The second pass: writes what is left.
pub async fn sweep<U: Upload>(
    sender: &mut Sender<'_, U>,
    mut merged: Merged<'_, U>,
    marks: &Marks,
) -> Result<Found, U::Error> {
    let mut sweeper =
        Sweeper { marks, own: HashSet::new(), ino: Ino::NONE, live: HashMap::new(), found: Found::default() };
    let (mut writer, mut aside) = (Writer::default(), BTreeMap::new());
    while let Some((key, record)) = merged.next().await? {
        let Some(record) = record.filter(|record| sweeper.lives(&key, record)) else { continue };
        if key.ino == Ino::NONE {
            aside.insert(key, record);
        } else {
            writer.push(sender, (key, Some(record))).await?;
        }
    }
    let rest = writer.finish(sender).await?;
    sweeper.weigh(&mut aside);
    let mut writer = Writer::default();
    for (key, record) in aside {
        writer.push(sender, (key, Some(record))).await?;
    }
    let mut found = sweeper.found;
    found.level = writer.finish(sender).await?;
    found.level.extend(rest);
    Ok(found)
}

struct Sweeper<'a> {
    marks: &'a Marks,
    /// What the records of the current inode name of its own.
    own: HashSet<ExtentId>,
    ino: Ino,
    /// Bytes that live, for each segment in which an extent lies or lay.
    live: HashMap<ObjectId, u64>,
    found: Found,
}

impl Sweeper<'_> {
    /// Does this record stay? Those of segments are judged when all is counted.
    fn lives(&mut self, key: &Key, record: &Record) -> bool {
        if key.ino != self.ino {
            self.ino = key.ino;
            self.own.clear();
        }
        let (Part::Extent { number }, Record::Extent(extent)) = (key.part, record) else {
            references(record, |reference| match reference {
                Reference::Extent(id) if id.owner == key.ino => _ = self.own.insert(id),
                _ => {}
            });
            return true;
        };
        let id = ExtentId { owner: key.ino, number };
        let lives = self.own.contains(&id) || self.marks.extents.contains(&id);
        let bytes = if lives { u64::from(extent.stored) } else { 0 };
        self.found.dropped += u64::from(!lives);
        match extent.place {
            Place::Segment { id, .. } => *self.live.entry(id).or_default() += bytes,
            Place::Inline { sequence, .. } if lives => *self.found.inline.entry(sequence).or_default() += bytes,
            _ => {}
        }
        lives
    }

    /// Sorts out the segments: the dead lose their records.
    fn weigh(&mut self, records: &mut BTreeMap<Key, Arc<Record>>) {
        let mut all: BTreeMap<ObjectId, SegmentCount> = BTreeMap::new();
        for (key, record) in records.iter() {
            if let (Part::Segment { id }, Record::Segment(segment)) = (key.part, &**record) {
                all.insert(id, SegmentCount { id, live: 0, total: segment.len });
            }
        }
        for (&id, &live) in &self.live {
            all.entry(id).or_insert(SegmentCount { id, live: 0, total: 0 }).live = live;
        }
        for (id, count) in all {
            if count.live == 0 && !self.marks.segments.contains(&id) {
                records.remove(&Key::segment(id));
                self.found.dead.push(id);
            } else {
                self.found.counts.push(count);
            }
        }
        for sequence in &self.marks.logs {
            self.found.inline.entry(*sequence).or_default();
        }
    }
}
