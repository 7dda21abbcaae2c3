//! The fold: what durable changes since the last commit come to, one entry a key; and what of it the next commit takes
//! (C2).
//!
//! Two kinds of lanes. The *namespace lane* (names, links, modes, owners, xattrs) is in every commit up to its cut. The
//! *content lane* of a file (head, map, the extents that they name) is in a commit whole, as it is at the cut, or not at
//! all: then it is *deferred*, its entries stay here, the file's contents in the vault stay what they were, and later
//! changes fold into it. For each file whose contents no commit holds there is a lane:
//!
//! | what | why |
//! |---|---|
//! | `first` | its oldest change that no commit holds: journal files from there on stay (J5), a replay begins there (C5) |
//! | `barrier` | the newest barrier on the file; one at or after `first` forces the lane into the commit |
//! | `made` | the empty head that the file's create made, while no commit has a head of it: a commit that defers the lane but has the file's names takes this one |
//! | `emptied` | since when a truncation to nothing keeps it back (L3) |
//! | `before` | what it was before a truncation to nothing, where a barrier forces that: a commit that defers the lane takes this |
//! | `forced` | it was replayed, and may be of a file that no commit knows: there would be nothing to leave in the vault |
//!
//! What [`Fold::take`] takes at a cut: the namespace; every lane whose file is gone (the namespace wins), that a
//! barrier forces, or that was replayed and may be of a file that no commit knows; of the others, oldest first, those
//! whose bytes to be sent fit a budget, while somebody waits only those that are old. When the journal is nearly full,
//! the oldest is taken however large it is, for it holds the low-water mark. A barrier that lies before a truncation to
//! nothing forces what the file was until then: that is set apart as the truncation is folded, and the next round takes
//! it, alone or with what came after. Its extents, dead in the state, are still in the journal: they are released after
//! the first round that knew of their death.
//!
//! Owns the changes that are appended but not known durable (in order), and the folded rest. A record that was made
//! and deleted between two commits leaves no trace. Memory is bounded by the number of keys touched.
//! Does not own: which extents were sent ahead (it is told), the journal, what a commit is.
//!
//! Invariants
//! - A lane is here if and only if a content key of its file is; all its entries leave at once, but for those set apart.
//! - `fresh` entries are those under keys that the state of the last commit lacks. A deferred lane's stay fresh.
//! - Positions at or below [`Fold::low`] are in a commit, or came to nothing.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::overlay::{local_extent, whole};
use super::transaction::pieces;
use crate::base::{ExtentId, Ino, Position, plants};
use crate::format::change::Change;
use crate::format::key::{Key, Part};
use crate::format::record::{Extent, Record};

/// What a key comes to.
pub struct Entry {
    pub record: Option<Arc<Record>>,
    /// The state that the last commit stands for had no such key.
    fresh: bool,
}

pub type Folded = BTreeMap<Key, Entry>;

struct Waiting {
    position: Position,
    change: Arc<Change>,
    /// For each record: was the key there before?
    existed: Box<[bool]>,
    usage: Option<Usage>,
    at: Instant,
    /// It was replayed over a vault that has names up to here.
    replayed: Option<Position>,
    /// It truncated this file to nothing.
    emptied: Option<Ino>,
    /// The last writer of this file closed it, with all that is here before.
    closed: Option<Ino>,
}

/// Inodes, and bytes that files hold, after a change.
pub type Usage = (u64, u64);

/// A file whose contents no commit holds as they are.
struct Lane {
    first: Position,
    since: Instant,
    barrier: Position,
    made: Option<Arc<Record>>,
    emptied: Option<Instant>,
    forced: bool,
    before: Option<Before>,
    /// Sealed bytes of extents that were brought, dead ones among them, and less those that were sent ahead.
    bytes: u64,
}

/// What a lane was when its file was truncated to nothing, and had to be in the next commit.
struct Before {
    entries: Folded,
    /// The truncation.
    until: (Position, Instant),
    bytes: u64,
}

/// What a round may take beside what it must.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes to be sent of lanes that nothing forces, ...
    pub budget: u64,
    /// ... and that are at least so old.
    pub age: Duration,
    /// The journal is nearly full.
    pub pressed: bool,
    /// How long a truncation to nothing keeps its file back (L3).
    pub hold: Duration,
    /// Nothing is deferred.
    pub all: bool,
}

impl Limits {
    pub const ALL: Limits =
        Limits { budget: u64::MAX, age: Duration::ZERO, pressed: true, hold: Duration::ZERO, all: true };
}

/// Which lanes stay, since when the oldest is there that the next round may take, and the largest that must be taken.
struct Choice {
    deferred: Vec<Ino>,
    due: Option<Instant>,
    largest: Option<(Ino, u64)>,
}

/// What a round takes.
pub struct Taken {
    pub records: Folded,
    /// Whether lanes stay.
    pub defers: bool,
    /// Of the files that had to be taken, the one with most to send, and how much that is.
    pub largest: Option<(Ino, u64)>,
}

#[derive(Default)]
pub struct Fold {
    waiting: VecDeque<Waiting>,
    folded: Folded,
    /// Keys that were folded since the last take.
    came: usize,
    lanes: BTreeMap<Ino, Lane>,
    /// Extents of lanes that lie in the vault already, in a segment that no commit names yet.
    ahead: HashMap<ExtentId, Extent>,
    /// After the last change folded, where that is known.
    usage: Option<Usage>,
    /// When the oldest change was made that the next round may take; at the last look, if there was none.
    oldest: Option<Instant>,
    /// Files that were truncated to nothing and not closed since.
    emptied: HashSet<Ino>,
    /// The same of what was taken last.
    oldest_taken: Option<Instant>,
}

fn owner(key: &Key) -> Option<Ino> {
    match key.part {
        Part::Head | Part::Map { .. } | Part::Extent { .. } => Some(key.ino),
        _ => None,
    }
}

fn is_empty_head(record: &Record) -> bool {
    matches!(record, Record::Head(head) if head.size == 0 && head.pieces.is_empty() && !head.spilled)
}

/// A change of a key comes over what is here.
fn fold(folded: &mut Folded, key: Key, record: Option<Arc<Record>>, existed: bool) {
    match folded.entry(key) {
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            if record.is_none() && entry.get().fresh {
                entry.remove();
            } else {
                entry.get_mut().record = record;
            }
        }
        std::collections::btree_map::Entry::Vacant(entry) => {
            if record.is_some() || existed {
                entry.insert(Entry { record, fresh: !existed });
            }
        }
    }
}

/// The file that this change, of records that were as in `old`, truncates to nothing.
pub(super) fn emptied(change: &Change, old: &[Option<Arc<Record>>]) -> Option<Ino> {
    let heads = change.records.iter().zip(old).filter(|((key, _), _)| key.part == Part::Head);
    let is_empty = |record: &Option<Arc<Record>>| record.as_deref().map(is_empty_head);
    let mut emptied = heads.filter(|((_, record), old)| (is_empty(old), is_empty(record)) == (Some(false), Some(true)));
    emptied.next().map(|((key, _), _)| key.ino)
}

impl Fold {
    /// `replayed`: up to where the vault has names. `emptied`: the file that it truncates to nothing.
    pub fn push(
        &mut self,
        position: Position,
        change: Arc<Change>,
        existed: Box<[bool]>,
        usage: Option<Usage>,
        replayed: Option<Position>,
        emptied: Option<Ino>,
    ) {
        // A barrier alone says something only of what is here.
        if change.orphan || (change.records.is_empty() && (change.barrier.is_empty() || self.is_empty())) {
            return;
        }
        let at = Instant::now();
        if !change.records.is_empty() {
            self.oldest.get_or_insert(at);
        }
        self.emptied.extend(emptied);
        self.waiting.push_back(Waiting { position, change, existed, usage, at, replayed, emptied, closed: None });
    }

    /// The last writer of a file closed it, and all that it wrote lies at or before `position`.
    pub fn closed(&mut self, position: Position, ino: Ino) {
        if !self.emptied.remove(&ino) || self.is_empty() {
            return;
        }
        let (change, existed, at) = (Arc::default(), Box::default(), Instant::now());
        let usage = self.waiting.back().map_or(self.usage, |waiting| waiting.usage);
        let closed = Some(ino);
        self.waiting.push_back(Waiting { position, change, existed, usage, at, replayed: None, emptied: None, closed });
    }

    /// Folds at most `most` changes up to `durable`; returns whether there may be more.
    pub fn advance(&mut self, durable: Position, most: usize) -> bool {
        for _ in 0..most {
            match self.waiting.front() {
                Some(first) if first.position <= durable => {}
                _ => {
                    // What was made and deleted again leaves nothing that could be late.
                    if self.is_empty() {
                        self.oldest = None;
                        self.lanes.clear();
                    }
                    return false;
                }
            }
            let waiting = self.waiting.pop_front().expect("looked at above");
            self.usage = waiting.usage;
            if let Some(ino) = waiting.emptied {
                self.set_apart(ino, (waiting.position, waiting.at));
            }
            let before = self.folded.len();
            for ((key, record), existed) in waiting.change.records.iter().zip(&waiting.existed) {
                if let Some(ino) = owner(key) {
                    self.note(ino, key, record.as_deref(), *existed, &waiting);
                }
                fold(&mut self.folded, *key, record.clone(), *existed);
            }
            self.came += self.folded.len().saturating_sub(before);
            for ino in &waiting.change.barrier {
                if let Some(lane) = self.lanes.get_mut(ino) {
                    lane.barrier = waiting.position;
                }
            }
            if let Some(lane) = waiting.closed.and_then(|ino| self.lanes.get_mut(&ino)) {
                lane.emptied = None;
            }
        }
        true
    }

    /// A content key changes.
    fn note(&mut self, ino: Ino, key: &Key, record: Option<&Record>, existed: bool, waiting: &Waiting) {
        let lane = self.lanes.entry(ino).or_insert_with(|| Lane {
            first: waiting.position,
            since: waiting.at,
            barrier: Position(0),
            made: None,
            emptied: None,
            forced: waiting.replayed.is_some_and(|cut| waiting.position > cut),
            before: None,
            bytes: 0,
        });
        match record {
            Some(Record::Extent(extent)) => lane.bytes += u64::from(extent.stored),
            Some(head @ Record::Head(_)) if !existed && !self.folded.contains_key(key) => {
                lane.made = is_empty_head(head).then(|| Arc::new(head.clone()));
                // A file that begins otherwise has no older contents that could stay.
                lane.forced |= lane.made.is_none();
            }
            _ => {}
        }
        if waiting.emptied == Some(ino) && !plants::on("L3-truncation-at-once") {
            lane.emptied.get_or_insert(waiting.at);
        }
    }

    /// A file is about to be truncated to nothing: what the next commit must hold of it stays as it is.
    fn set_apart(&mut self, ino: Ino, until: (Position, Instant)) {
        if !self.lanes.get(&ino).is_some_and(|lane| self.is_forced(lane)) {
            return;
        }
        let entries = self.whole_lane(ino);
        let Some(lane) = self.lanes.get_mut(&ino) else { return };
        let bytes = lane.bytes + lane.before.take().map_or(0, |before| before.bytes);
        lane.before = Some(Before { entries, until, bytes });
        (lane.barrier, lane.made, lane.emptied, lane.forced, lane.bytes) = (Position(0), None, None, false, 0);
    }

    /// Takes out what is here of a file's contents, what was set apart included.
    fn whole_lane(&mut self, ino: Ino) -> Folded {
        let newer = self.take_out(ino);
        let before = self.lanes.get_mut(&ino).and_then(|lane| lane.before.as_mut());
        let Some(before) = before else { return newer };
        let mut entries = std::mem::take(&mut before.entries);
        for (key, Entry { record, fresh }) in newer {
            fold(&mut entries, key, record, !fresh);
        }
        entries
    }

    fn take_out(&mut self, ino: Ino) -> Folded {
        let keys: Vec<Key> =
            self.folded.range(whole(ino)).map(|(key, _)| *key).filter(|key| owner(key).is_some()).collect();
        keys.into_iter().filter_map(|key| Some((key, self.folded.remove(&key)?))).collect()
    }

    /// The vault may hold any of this already: whatever is deleted later, it must be told.
    pub fn presume_committed(&mut self) {
        for waiting in &mut self.waiting {
            waiting.existed.fill(true);
        }
        let apart = self.lanes.values_mut().filter_map(|lane| lane.before.as_mut());
        for entry in self.folded.values_mut().chain(apart.flat_map(|before| before.entries.values_mut())) {
            entry.fresh = false;
        }
    }

    /// Puts what `known` has in the place of the folded extents that only the journal holds.
    pub fn replace_extents<E>(
        &mut self,
        mut known: impl FnMut(&Key) -> Result<Option<Arc<Record>>, E>,
    ) -> Result<(), E> {
        let apart = self.lanes.values_mut().filter_map(|lane| lane.before.as_mut());
        for (key, entry) in self.folded.iter_mut().chain(apart.flat_map(|before| &mut before.entries)) {
            if entry.record.as_deref().is_some_and(|record| local_extent(key, record).is_some())
                && let Some(record) = known(key)?
            {
                entry.record = Some(record);
            }
        }
        Ok(())
    }

    /// Takes of what is folded what a commit at this cut must hold, and what it may (C2). What still waits is newer.
    pub fn take(&mut self, limits: &Limits) -> Taken {
        let Choice { deferred, due, largest } = self.choose(limits);
        self.oldest_taken = self.oldest_pending();
        self.came = 0;
        let defers = !deferred.is_empty();
        self.oldest = due.or((defers || !self.waiting.is_empty()).then(Instant::now));
        if self.waiting.is_empty() && !defers {
            self.emptied.clear();
        }
        let mut kept = Folded::new();
        let mut lanes = BTreeMap::new();
        for ino in deferred {
            let mut lane = self.lanes.remove(&ino).expect("it was found among them");
            let mut entries = self.take_out(ino);
            let head = Key::head(ino);
            if let Some(before) = lane.before.take() {
                (lane.first, lane.since) = before.until;
                self.folded.extend(before.entries);
            } else if let Some(made) = lane.made.take()
                && let Some(entry) = entries.get_mut(&head)
            {
                if let Record::Head(head) = &*made {
                    lane.first = Position(head.position.0 + 1);
                }
                self.folded.insert(head, Entry { record: Some(made), fresh: true });
                entry.fresh = false;
            }
            kept.extend(entries);
            lanes.insert(ino, lane);
        }
        let apart = self.lanes.iter().filter(|(_, lane)| lane.before.is_some());
        for ino in apart.map(|(ino, _)| *ino).collect::<Vec<_>>() {
            let entries = self.whole_lane(ino);
            self.folded.extend(entries);
        }
        self.lanes = lanes;
        Taken { records: std::mem::replace(&mut self.folded, kept), defers, largest }
    }

    fn choose(&self, limits: &Limits) -> Choice {
        let (mut optional, mut held, mut largest) = (Vec::new(), Vec::new(), None);
        let now = Instant::now();
        for (ino, lane) in &self.lanes {
            if limits.all || self.is_gone(*ino) {
                continue;
            }
            let is_forced = self.is_forced(lane);
            let must =
                lane.before.as_ref().map(|before| before.bytes).into_iter().chain(is_forced.then_some(lane.bytes));
            if let Some(bytes) = must.reduce(|sum, bytes| sum + bytes)
                && largest.is_none_or(|(_, most)| most < bytes)
            {
                largest = Some((*ino, bytes));
            }
            if is_forced {
                continue;
            }
            match lane.emptied.is_some_and(|at| now - at < limits.hold) {
                true => held.push((lane.first, *ino)),
                false => optional.push((lane.first, *ino)),
            }
        }
        if limits.pressed {
            optional.append(&mut held);
        }
        optional.sort_unstable();
        let mut budget = limits.budget;
        let (mut deferred, mut due): (Vec<Ino>, Option<Instant>) =
            (held.into_iter().map(|(_, ino)| ino).collect(), None);
        for (k, (_, ino)) in optional.into_iter().enumerate() {
            let lane = &self.lanes[&ino];
            // Most files have little, and need not be looked at closely.
            let missing = match lane.bytes <= budget {
                true => lane.bytes,
                false => self.missing(ino).map(|(_, extent)| u64::from(extent.stored)).sum(),
            };
            if limits.pressed && k == 0 {
                budget = budget.saturating_sub(missing);
            } else if missing <= budget && now - lane.since >= limits.age {
                budget -= missing;
            } else {
                deferred.push(ino);
                // It waits only for those before it, or to grow old.
                if missing <= limits.budget {
                    due = due.into_iter().chain([lane.since]).min();
                }
            }
        }
        Choice { deferred, due, largest }
    }

    fn is_forced(&self, lane: &Lane) -> bool {
        lane.forced || (lane.barrier >= lane.first && !plants::on("C2-barrier-ignored"))
    }

    /// The file is deleted, or what is here of it is what it left behind.
    fn is_gone(&self, ino: Ino) -> bool {
        self.folded.get(&Key::head(ino)).is_none_or(|entry| entry.record.is_none())
    }

    /// Extents of a lane that its head or map names and only the journal has.
    fn missing(&self, ino: Ino) -> impl Iterator<Item = (ExtentId, &Extent)> {
        let mut named = HashSet::new();
        let entries = self.folded.range(Key::head(ino)..=Key::map(ino, u64::MAX));
        for record in entries.filter_map(|(_, entry)| entry.record.as_deref()) {
            named.extend(pieces(record).iter().map(|piece| piece.extent));
        }
        self.folded.range(whole(ino)).filter_map(move |(key, entry)| {
            let record = entry.record.as_deref()?;
            let id = local_extent(key, record)?;
            let Record::Extent(extent) = record else { return None };
            (named.contains(&id) && !self.ahead.contains_key(&id)).then_some((id, extent))
        })
    }

    /// Of a file that was deferred and has so much to send: extents that may be sent ahead of any commit, about `most`
    /// bytes.
    pub fn send_ahead(&self, age: Duration, least: u64, most: u64) -> Option<(Ino, Vec<(ExtentId, Extent)>)> {
        let is_due = |lane: &Lane| lane.bytes >= least && lane.since.elapsed() >= age;
        let mut lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| is_due(lane)).collect();
        lanes.sort_unstable_by_key(|(_, lane)| lane.first);
        for (ino, _) in lanes.into_iter().filter(|(ino, _)| !self.is_gone(**ino)) {
            let missing: Vec<_> = self.missing(*ino).map(|(id, extent)| (id, extent.clone())).collect();
            let bytes: u64 = missing.iter().map(|(_, extent)| u64::from(extent.stored)).sum();
            if bytes < least {
                continue;
            }
            let mut sum = 0;
            let part = missing.into_iter().take_while(|(_, extent)| {
                let before = sum;
                sum += u64::from(extent.stored);
                before < most
            });
            return Some((*ino, part.collect()));
        }
        None
    }

    /// These extents lie in the vault now, and no commit names them yet.
    pub fn sent_ahead(&mut self, placed: impl IntoIterator<Item = (ExtentId, Extent)>) {
        for (id, extent) in placed {
            if let Some(lane) = self.lanes.get_mut(&id.owner) {
                let apart = lane.before.as_mut().filter(|before| before.entries.contains_key(&Key::extent(id)));
                let bytes = apart.map_or(&mut lane.bytes, |before| &mut before.bytes);
                *bytes = bytes.saturating_sub(extent.stored.into());
            }
            self.ahead.insert(id, extent);
        }
    }

    /// What was sent ahead of these extents: it is a commit's now.
    pub fn take_ahead(&mut self, ids: impl IntoIterator<Item = ExtentId>) -> Vec<(ExtentId, Extent)> {
        ids.into_iter().filter_map(|id| Some((id, self.ahead.remove(&id)?))).collect()
    }

    /// Up to where commits hold everything once one with this cut stands that takes what was taken; without what waits.
    pub fn low(&self, cut: Position) -> Position {
        let lanes = self.lanes.values().map(|lane| Position(lane.first.0.saturating_sub(1)));
        lanes.fold(cut, Position::min)
    }

    /// As [`Fold::low`], also of replayed changes that wait to be folded.
    pub fn low_of_all(&self, cut: Position) -> Position {
        let contents = |waiting: &&Waiting| waiting.change.records.iter().any(|(key, _)| owner(key).is_some());
        let first = self.waiting.iter().find(contents).map(|waiting| Position(waiting.position.0 - 1));
        self.low(first.map_or(cut, |first| first.min(cut)))
    }

    /// Has a lane little to send, and nothing that keeps it back, so that a barrier on it holds up nobody?
    pub fn is_light(&self, ino: Ino, most: u64) -> bool {
        let is_light = |lane: &Lane| lane.bytes <= most && lane.emptied.is_none();
        self.lanes.get(&ino).is_none_or(is_light) && !self.emptied.contains(&ino)
    }

    /// Was this extent sent ahead, and is named by no commit?
    pub fn is_ahead(&self, id: &ExtentId) -> bool {
        self.ahead.contains_key(id)
    }

    /// Files whose contents no commit holds as they are, but for those that a round has under way.
    pub fn files(&self) -> impl Iterator<Item = Ino> {
        let waiting = self.waiting.iter().flat_map(|waiting| &waiting.change.records);
        self.lanes.keys().copied().chain(waiting.filter(|(key, _)| key.part == Part::Head).map(|(key, _)| key.ino))
    }

    /// Are there contents of any file here, but for what waits?
    pub fn has_lanes(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// Are there contents of this file here, but for what waits?
    pub fn has_lane(&self, ino: Ino) -> bool {
        self.lanes.contains_key(&ino)
    }

    /// Is the file kept back because it was truncated to nothing (L3), or about to be?
    pub fn may_be_held(&self, ino: Ino) -> bool {
        self.emptied.contains(&ino)
    }

    /// What was folded last left so much, where that is known.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Is a change of this inode appended and not folded, or folded?
    pub fn touches(&self, ino: Ino) -> (bool, bool) {
        let waiting = self.waiting.iter().any(|w| w.change.records.iter().any(|(key, _)| key.ino == ino));
        (waiting, self.folded.range(whole(ino)).next().is_some())
    }

    /// How many keys are durable that the last round could not take.
    pub fn came(&self) -> usize {
        self.came
    }

    /// Is there anything at or before `durable`?
    pub fn reaches(&self, durable: Position) -> bool {
        match self.waiting.front() {
            // What is folded may be there only because it is deferred.
            Some(first) => first.position <= durable || (self.lanes.is_empty() && !self.folded.is_empty()),
            None => !self.folded.is_empty(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.folded.is_empty()
    }

    /// When the oldest change was made that the next round may take, or the last look at what it deferred.
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// When the oldest change was made that no commit holds.
    pub fn oldest_pending(&self) -> Option<Instant> {
        self.lanes.values().map(|lane| lane.since).chain(self.oldest).min()
    }

    pub fn oldest_taken(&self) -> Option<Instant> {
        self.oldest_taken
    }

    /// What is folded; under a key that comes twice, the older comes later.
    pub fn folded(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        let apart = self.lanes.values().filter_map(|lane| lane.before.as_ref());
        self.folded.iter().chain(apart.flat_map(|before| &before.entries))
    }

    /// Changes that are appended and not folded yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Change> {
        self.waiting.iter().map(|w| &*w.change)
    }
}

/// Is what this record says in the vault's state, which has `head` for its file (C5)? `cut` is that of the state.
pub(super) fn is_held(key: &Key, position: Position, cut: Position, head: Option<&Record>) -> bool {
    match (owner(key), head) {
        (Some(_), Some(Record::Head(head))) => {
            position <= head.position || (plants::on("C5-deferred-lost") && position <= cut)
        }
        _ => position <= cut,
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
