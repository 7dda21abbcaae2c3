//! History: the order of changes, and the state that they make.
//!
//! An operation is one transaction: check, then one change, appended to the journal's buffer and visible in the
//! overlay at once (J1). Owns the overlay above the index, the records of unlinked open files (L4), and the fold of
//! what no commit holds yet.
//! Does not own: the journal's bytes, rounds (it hands them a batch and takes back places), the index's disk (it hands
//! an applier what is durable, and lets go of it afterwards), anything that waits.
//!
//! Invariants
//! - Overlay order is journal order: both happen under one lock, held for microseconds, never over an await. Reads of
//!   the local index happen under it too: they are what a page cache is for.
//! - Nothing can fail between the append of a change and its becoming visible: what it does is found out before.
//! - A batch's cut is a durable end (C1, J2); its records are those of the state at the cut, but for files that are
//!   deferred (C2, see [`fold`]).
//! - The index is given only what is durable (J2), in journal order, whole changes.
//! - An extent that only the journal holds is released after the first round at whose cut it is dead: until then a round
//!   may send it (C1: what the state at the cut names is pinned; L3: so is what a file was before it was emptied).

pub mod fold;
pub mod follow;
pub mod map;
pub mod overlay;
mod replay;
mod round;
mod spill;
pub mod transaction;
pub mod versions;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

use crate::base::{Clock, Epoch, ExtentId, Ino, ObjectId, Position};
use crate::format::change::{Change, Note};
use crate::format::commit::BlockRef;
use crate::format::key::{Key, Part};
use crate::format::record::{Place, Record};
use crate::index::{Index, IndexError, Mark};
use crate::journal::Journal;
use fold::Fold;
pub use fold::Limits;
use overlay::{Orphan, Overlay, Unindexed};
pub use replay::{Replay, count_lacking, highest_epoch};
use round::UnderWay;
pub use round::{Ahead, Batch};
use transaction::Effects;
pub use transaction::Transaction;
use versions::Versions;

/// With so many records in the overlay, the durable end is hurried along: only what is durable may leave for the index.
const OVERLAY_HURRY: usize = 16 * 1024;
/// How many durable changes an operation folds on its way.
const FOLD_STEP: usize = 16;
/// How many pieces of a map are looked at under one lock.
const SCAN_STEP: usize = 4096;

pub struct State {
    overlay: Overlay,
    fold: Fold,
    next_inode: u64,
    next_extent: u64,
    /// Extents that are dead from these positions on, beyond the cut of the last round, and those that died before and
    /// wait for its end.
    dying: Vec<(Position, ExtentId)>,
    dying_before: Vec<ExtentId>,
    /// When the oldest change of the round under way was made, the inodes that it changes, and those of them whose
    /// contents it takes.
    sending_since: Option<tokio::time::Instant>,
    sending: HashSet<Ino>,
    sending_contents: HashSet<Ino>,
    /// Of the files that the round under way had to take, the one with most to send, and how much.
    holding: Option<(Ino, u64)>,
    /// What is being sent ahead of any commit.
    ahead: Option<UnderWay>,
    ahead_number: u64,
    /// Segments on their way to which extents of unlinked open files spill (L4).
    spilling: HashSet<ObjectId>,
    /// A follower's open files, and how many commits it has made visible.
    versions: Versions,
    followed: Position,
}

pub struct History {
    state: RwLock<State>,
    /// `None` on a read-only mount.
    journal: Option<Arc<Journal>>,
    clock: Clock,
    read_only: AtomicBool,
    /// Something waits for the vault now.
    changed: Notify,
    /// An unlinked open file ended.
    orphan_ended: Notify,
    /// What was sent ahead has landed, or will not.
    landed: Notify,
    /// Who is told when a commit of another machine changes contents.
    listener: OnceLock<follow::Listener>,
}

/// Read access to records: the state as it is now, orphans included. Holds the lock in shared mode: look, do not wait.
pub struct View<'a>(RwLockReadGuard<'a, State>);

impl View<'_> {
    pub fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        self.0.overlay.get(key)
    }

    /// Records from `from` to `to`, both inclusive, in key order; `visit` returns false to stop.
    pub fn scan(
        &self,
        from: Key,
        to: Key,
        mut visit: impl FnMut(&Key, &Arc<Record>) -> bool,
    ) -> Result<(), IndexError> {
        self.0.overlay.scan(from, to, &mut visit)
    }

    /// Is this an unlinked file that somebody still holds?
    pub fn is_orphan(&self, ino: Ino) -> bool {
        self.0.overlay.is_orphan(ino)
    }
}

/// How far the last change of an inode has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Appended; perhaps not durable yet.
    Memory,
    /// Durable in the journal.
    Journal,
    /// A round has it under way.
    Sending,
    /// No change of this mount waits for the vault.
    Vault,
}

/// What waits for the vault: files whose contents changed, and sealed bytes.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    pub files: HashSet<Ino>,
    pub bytes: u64,
}

impl History {
    /// `index` is as `mark` says; changes that a journal kept are replayed by [`History::replay`] before anything else.
    /// `journal` is `None` on a read-only mount.
    pub fn new(index: Arc<Index>, mark: &Mark, journal: Option<Arc<Journal>>, clock: Clock, epoch: Epoch) -> History {
        let number = transaction::first_number(epoch);
        let read_only = journal.is_none();
        let state = State {
            overlay: Overlay::new(index, mark),
            fold: Fold::default(),
            next_inode: number,
            next_extent: number,
            dying: Vec::new(),
            dying_before: Vec::new(),
            sending_since: None,
            sending: HashSet::new(),
            sending_contents: HashSet::new(),
            holding: None,
            ahead: None,
            ahead_number: 0,
            spilling: HashSet::new(),
            versions: Versions::default(),
            followed: Position(0),
        };
        History {
            state: RwLock::new(state),
            journal,
            clock,
            read_only: AtomicBool::new(read_only),
            changed: Notify::new(),
            orphan_ended: Notify::new(),
            landed: Notify::new(),
            listener: OnceLock::new(),
        }
    }

    pub fn view(&self) -> View<'_> {
        View(self.state.read())
    }

    /// No operation may change anything: mounted read-only, or fenced, or the journal failed.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    pub fn make_read_only(&self) {
        self.read_only.store(true, Ordering::Relaxed);
    }

    /// A number that moves with every change of the state, of this mount or, on a follower, of others.
    pub fn moment(&self) -> Position {
        match &self.journal {
            Some(journal) => journal.end(),
            None => self.state.read().followed,
        }
    }

    /// Bytes that files hold, and how many inodes there are.
    pub fn usage(&self) -> (u64, u64) {
        self.state.read().overlay.usage()
    }

    /// Runs one operation. On `Ok` its change is appended and visible, and its position returned (the last position,
    /// if it wrote nothing). On `Err` nothing happened.
    pub fn transact<T, E: From<IndexError>>(
        &self,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<(T, Position), E> {
        let now = self.clock.now();
        let mut state = self.state.write();
        let journal = self.journal.as_ref().expect("a read-only mount runs no transaction");
        let mut transaction = state.begin(Position(journal.end().0 + 1), now);
        let result = operation(&mut transaction)?;
        if transaction.writes.is_empty() && transaction.barriers.is_empty() {
            return Ok((result, journal.end()));
        }
        let effects = transaction.effects()?;
        let Transaction { writes, barriers, orphans, extents, .. } = transaction;
        let orphan = !writes.is_empty() && writes.keys().all(|key| state.overlay.is_orphan(key.ino));
        let records = writes.into_iter().collect();
        let change = Arc::new(Change { records, barrier: barriers, orphan, note: None });
        let position = journal.append(change.clone(), extents);
        let first = state.fold.is_empty();
        state.perform(position, &change, orphans, effects, Waits::Yes { replayed: None });
        state.fold.advance(journal.durable().0, FOLD_STEP);
        // What the index may take is what is durable: the overlay is bounded by moving the durable end.
        let hurries = state.overlay.recent_len() > OVERLAY_HURRY && state.overlay.recent_len().is_multiple_of(1024);
        drop(state);
        if hurries {
            journal.hurry();
        }
        if first {
            self.changed.notify_one();
        }
        Ok((result, position))
    }

    /// Notes something in the journal that changes no record.
    pub fn note(&self, note: Note) -> Position {
        let state = self.state.write();
        let journal = self.journal.as_ref().expect("a read-only mount notes nothing");
        let position = journal.append(Arc::new(Change { note: Some(note), ..Change::default() }), Vec::new());
        drop(state);
        position
    }

    /// The kernel forgot this inode: if it is an orphan, its records and bytes go.
    pub fn forget(&self, ino: Ino) {
        if !self.state.read().overlay.is_orphan(ino) {
            return;
        }
        let mut state = self.state.write();
        let dead = state.overlay.forget(ino);
        state.dying.extend(dead.into_iter().map(|id| (Position(0), id)));
        drop(state);
        self.orphan_ended.notify_one();
    }

    /// Segments in which extents of unlinked open files lie: they are in no commit, and are read all the same (L4, D2).
    pub fn held_segments(&self) -> HashSet<ObjectId> {
        let state = self.state.read();
        let segment = |place| if let Place::Segment { id, .. } = place { Some(id) } else { None };
        state.overlay.orphan_places().filter_map(segment).chain(state.spilling.iter().copied()).collect()
    }

    /// Which of these extents of one file does the state have as they lie in the vault there, named or not?
    pub fn placed(&self, owner: Ino, extents: &[(u64, Place)]) -> Result<Vec<u64>, IndexError> {
        let view = self.view();
        let mut there = Vec::new();
        for (number, place) in extents {
            match view.get(&Key::extent(ExtentId { owner, number: *number }))?.as_deref() {
                Some(Record::Extent(extent)) if extent.place == *place => there.push(*number),
                _ => {}
            }
        }
        Ok(there)
    }

    /// Visits the records of the state from a key on, a bounded number of them; returns where to go on.
    pub fn visit_some(&self, from: Key, mut visit: impl FnMut(&Key, &Arc<Record>)) -> Result<Option<Key>, IndexError> {
        let (mut seen, mut next) = (0, None);
        let last = Key { ino: Ino(u64::MAX), part: Part::LAST };
        self.view().scan(from, last, |key, record| {
            if seen == SCAN_STEP {
                next = Some(*key);
                return false;
            }
            seen += 1;
            visit(key, record);
            true
        })?;
        Ok(next)
    }

    /// Which of these extents of one file, as they lie in the vault, does the file itself name as they are there? (The
    /// state as it is now, unlinked open files included.) What is dead or moved now is so in every commit whose cut is
    /// not before [`Journal::end`] as it is then.
    pub fn in_use(&self, owner: Ino, extents: &[(u64, Place)]) -> Result<Vec<u64>, IndexError> {
        let mut there = self.placed(owner, extents)?;
        if there.is_empty() {
            return Ok(there);
        }
        let mut named = HashSet::new();
        let mut from = Some(Key::head(owner));
        let to = Key::map(owner, u64::MAX);
        // In steps, so that operations go on beside it: an edit never moves a piece down, so none is passed over.
        while let Some(first) = from.take() {
            let mut seen = 0;
            self.view().scan(first, to, |key, record| {
                if seen == SCAN_STEP {
                    from = Some(*key);
                    return false;
                }
                seen += 1;
                named.extend(transaction::pieces(record).iter().map(|piece| piece.extent));
                true
            })?;
        }
        there.retain(|&number| named.contains(&ExtentId { owner, number }));
        Ok(there)
    }

    /// What the index, which has all up to `given`, lacks and may take: whole changes, up to the end of a durable block
    /// (J2, I1). No more blocks are added once there are `most` records; whether there is more is told too. `None` if
    /// there is nothing. Whoever takes it applies it, and says so with [`History::indexed`], before taking more.
    pub fn take_unindexed(&self, given: Position, most: usize) -> Option<(Unindexed, bool)> {
        let mut ends: Vec<(Position, Option<BlockRef>)> = Vec::new();
        if let Some(journal) = &self.journal {
            let (durable, block) = journal.durable();
            let blocks = journal.ends_after(given).into_iter().filter(|block| block.position < durable);
            ends.extend(blocks.map(|block| (block.position, Some(block))));
            ends.push((durable, block));
        } else {
            ends.push((Position(u64::MAX), None));
        }
        let mut taken = Unindexed::new(self.state.read().overlay.mark());
        for (position, block) in ends {
            if taken.records() >= most {
                return Some((taken, true));
            }
            taken.mark.block = block;
            // In steps, so that operations go on beside it.
            while self.state.write().overlay.take_steps(position, 1024, &mut taken) {}
        }
        let state = self.state.read();
        let nothing_waits = state.fold.is_empty() && state.sending_since.is_none();
        taken.mark.clean = nothing_waits && state.overlay.is_given();
        (!taken.is_empty()).then_some((taken, false))
    }

    /// How many records the index lacks.
    pub fn unindexed(&self) -> usize {
        self.state.read().overlay.recent_len()
    }

    /// The index holds this, up to `position`, now.
    pub fn indexed(&self, index: &Index, batch: &crate::index::Folded, position: Position) {
        let records: Vec<_> = batch.iter().collect();
        // In steps, so that operations go on beside it.
        for part in records.chunks(64) {
            let mut state = self.state.write();
            index.remember(part.iter().copied());
            state.overlay.let_go(part.iter().map(|(key, _)| *key), position);
        }
    }

    /// Folds what is durable, a bounded part of it.
    pub fn fold_durable(&self) {
        if let Some(journal) = &self.journal {
            self.state.write().fold.advance(journal.durable().0, 4096);
        }
    }

    /// How far an inode's last change has come. A file's names are its parents' as well as its own.
    pub fn reach(&self, ino: Ino) -> Reach {
        let state = self.state.read();
        match (state.fold.touches(ino), state.sending.contains(&ino)) {
            ((true, _), _) => Reach::Memory,
            ((false, true), _) => Reach::Journal,
            ((false, false), true) => Reach::Sending,
            ((false, false), false) => Reach::Vault,
        }
    }

    /// When the oldest change that no round has taken was made; `None` if there is none.
    pub fn oldest_uncommitted(&self) -> Option<tokio::time::Instant> {
        self.state.read().fold.oldest()
    }

    /// How many records became durable since the last round began.
    pub fn uncommitted_records(&self) -> usize {
        self.state.read().fold.came()
    }

    /// When the oldest change that the vault lacks was made, also if a round has it under way.
    pub fn oldest_pending(&self) -> Option<tokio::time::Instant> {
        let state = self.state.read();
        state.sending_since.into_iter().chain(state.fold.oldest_pending()).min()
    }

    /// Files whose contents, as they are now, no commit holds. (What a round has under way may have been deferred until
    /// then: it is not there once the vault has come to the position where it stands.)
    pub fn uncommitted_files(&self) -> HashSet<Ino> {
        let state = self.state.read();
        state.fold.files().chain(state.sending_contents.iter().copied()).collect()
    }

    /// Is there anything that a round has left, or has not seen?
    pub fn has_deferred(&self) -> bool {
        self.state.read().fold.has_lanes()
    }

    /// A position from which on commits hold the contents of these files as they are now, but of those that are returned
    /// too: contents of theirs are deferred, and have more than `most` to send, or are kept back.
    pub fn barrier_on(&self, files: &BTreeSet<Ino>, most: u64) -> (Position, BTreeSet<Ino>) {
        let mut state = self.state.write();
        let journal = self.journal.as_ref().expect("a read-only mount has no rounds");
        let sending = state.sending_contents.iter().copied();
        let uncommitted: BTreeSet<Ino> = state.fold.files().chain(sending).filter(|ino| files.contains(ino)).collect();
        let (light, heavy): (BTreeSet<_>, _) = uncommitted.into_iter().partition(|ino| state.fold.is_light(*ino, most));
        if light.is_empty() {
            return (journal.end(), heavy);
        }
        let change = Arc::new(Change { barrier: light.into_iter().collect(), ..Change::default() });
        let position = journal.append(change.clone(), Vec::new());
        let (bytes, inodes) = state.overlay.usage();
        state.fold.push(position, change, Box::default(), Some((inodes, bytes)), None, None);
        (position, heavy)
    }

    /// A file's last writer closed it, and its bytes are in the journal: a truncation to nothing keeps it back no more
    /// (L3).
    pub fn closed(&self, ino: Ino) {
        if !self.state.read().fold.may_be_held(ino) {
            return;
        }
        if let Some(journal) = &self.journal {
            let mut state = self.state.write();
            state.fold.closed(journal.end(), ino);
        }
    }

    /// Would a round with its cut there have anything to send?
    pub fn is_committable(&self, durable: Position) -> bool {
        self.state.read().fold.reaches(durable)
    }

    /// Returns when something waits for the vault that did not before.
    pub async fn changed(&self) {
        let changed = self.changed.notified();
        if self.oldest_uncommitted().is_none() {
            changed.await;
        }
    }

    /// What no round has taken: for status. Walks through it.
    pub fn waiting(&self) -> Waiting {
        let state = self.state.read();
        let mut waiting = Waiting::default();
        let mut count = |key: &Key, record: Option<&Record>| match (key.part, record) {
            (Part::Head, Some(_)) => _ = waiting.files.insert(key.ino),
            (Part::Extent { number }, Some(Record::Extent(extent)))
                if !state.fold.is_ahead(&ExtentId { owner: key.ino, number }) =>
            {
                waiting.bytes += u64::from(extent.stored);
            }
            _ => {}
        };
        state.fold.folded().for_each(|(key, entry)| count(key, entry.record.as_deref()));
        for change in state.fold.waiting() {
            change.records.iter().for_each(|(key, record)| count(key, record.as_deref()));
        }
        waiting
    }
}

/// Does a change wait for a commit? One that was replayed does so over a vault that has names up to there.
#[derive(Clone, Copy)]
enum Waits {
    No,
    Yes { replayed: Option<Position> },
}

impl State {
    fn begin(&mut self, position: Position, now: crate::base::Timestamp) -> Transaction<'_> {
        Transaction {
            state: self,
            position,
            writes: BTreeMap::new(),
            barriers: Vec::new(),
            orphans: Vec::new(),
            extents: Vec::new(),
            now,
        }
    }

    /// Makes a change visible; the next commit takes it as `waits` says, if at all.
    fn perform(
        &mut self,
        position: Position,
        change: &Arc<Change>,
        orphans: Vec<Orphan>,
        effects: Effects,
        waits: Waits,
    ) {
        let Effects { old, dead, dying } = effects;
        let existed: Box<[bool]> = old.iter().map(Option::is_some).collect();
        let emptied = fold::emptied(change, &old);
        let (mut writes, mut before) = (Vec::with_capacity(change.records.len()), Vec::new());
        for ((key, record), old) in change.records.iter().zip(old) {
            if self.overlay.is_orphan(key.ino) {
                self.overlay.apply_orphan(*key, record.clone());
            } else {
                writes.push((*key, record.clone()));
                before.push(old);
            }
        }
        for key in dead {
            match self.overlay.is_orphan(key.ino) {
                true => self.overlay.apply_orphan(key, None),
                false => writes.push((key, None)),
            }
        }
        for (_, records) in &orphans {
            let extents = records.iter().filter(|(key, _)| matches!(key.part, Part::Extent { .. }));
            writes.extend(extents.map(|(key, _)| (*key, None)));
        }
        before.resize(writes.len(), None);
        if !writes.is_empty() {
            self.overlay.apply(position, writes, before.into_iter());
        }
        for (ino, records) in orphans {
            self.overlay.orphan(position, ino, records);
        }
        self.dying.extend(dying.into_iter().map(|id| (position, id)));
        if let Waits::Yes { replayed } = waits {
            // Who had emptied it is gone, and so is what the journal kept of what it was.
            let emptied = emptied.filter(|_| replayed.is_none());
            let (bytes, inodes) = self.overlay.usage();
            self.fold.push(position, change.clone(), existed, Some((inodes, bytes)), replayed, emptied);
        }
    }
}
