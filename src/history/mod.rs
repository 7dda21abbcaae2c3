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
//! - A batch's cut is a durable end (C1, J2); its records are those of the state at the cut.
//! - The index is given only what is durable (J2), in journal order, whole changes.
//! - An extent that only the journal holds is released after the round that was under way when it died: a round may
//!   still send it (C1: what the state at the cut names is pinned).

pub mod fold;
pub mod follow;
pub mod map;
pub mod overlay;
mod spill;
pub mod transaction;
pub mod versions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

use crate::base::{Clock, Epoch, ExtentId, Ino, ObjectId, Position, plants};
use crate::format::change::{Change, Note};
use crate::format::commit::{BlockRef, ChainLink};
use crate::format::key::{Key, Lane, Part};
use crate::format::record::{Extent, Place, Record};
use crate::index::{Index, IndexError, Mark};
use crate::journal::Journal;
use fold::{Fold, Folded, Usage};
use overlay::{Orphan, Overlay, Unindexed};
use transaction::Effects;
pub use transaction::Transaction;
use versions::Versions;

/// With so many records in the overlay, the durable end is hurried along: only what is durable may leave for the index.
const OVERLAY_HURRY: usize = 16 * 1024;
/// How many durable changes an operation folds on its way.
const FOLD_STEP: usize = 16;
/// How many pieces of a map are looked at under one lock.
const SCAN_STEP: usize = 4096;

/// The highest epoch that gave a number in these changes.
pub fn highest_epoch(changes: &[(Position, Arc<Change>)]) -> Epoch {
    let keys = changes.iter().flat_map(|(_, change)| &change.records).map(|(key, _)| key);
    let numbers = keys.flat_map(|key| match key.part {
        Part::Extent { number } => [key.ino.0, number],
        _ => [key.ino.0, 0],
    });
    numbers.map(transaction::epoch_of).max().unwrap_or(Epoch(0))
}

pub struct State {
    overlay: Overlay,
    fold: Fold,
    next_inode: u64,
    next_extent: u64,
    /// Extents that died since the last round began, and those that died before and wait for its end.
    dying: Vec<ExtentId>,
    dying_before: Vec<ExtentId>,
    /// When the oldest change of the round under way was made, and the inodes that it changes.
    sending_since: Option<tokio::time::Instant>,
    sending: HashSet<Ino>,
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

/// Where a journal is replayed over.
#[derive(Clone, Copy, Debug)]
pub enum Replay {
    /// The vault's state: what its commits hold is there, nothing else (C5).
    Vault,
    /// An index that holds every change up to this position, and none after it (I1).
    Index(Position),
}

impl Replay {
    /// Up to where the journal is not needed for what it is replayed over; `cut` is that of the vault's state.
    pub fn position(&self, cut: Position) -> Position {
        match self {
            Replay::Vault => cut,
            Replay::Index(position) => *position,
        }
    }
}

/// What a round sends: the state at the cut, less what the vault has.
pub struct Batch {
    pub cut: Position,
    pub block: BlockRef,
    pub records: Folded,
    /// Inodes and bytes in files at the cut, where that is known.
    pub usage: Option<Usage>,
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
            listener: OnceLock::new(),
        }
    }

    /// Numbers that this epoch gave in these changes, or up to `highest`, are not given again: an earlier mount had the
    /// same epoch (E1).
    pub fn go_on_counting(&self, changes: &[(Position, Arc<Change>)], highest: Ino) {
        let mut state = self.state.write();
        let epoch = transaction::epoch_of(state.next_inode);
        let (mut inode, mut extent) = (state.next_inode, state.next_extent);
        let after = |next: &mut u64, number: u64| {
            if transaction::epoch_of(number) == epoch {
                *next = (*next).max(number + 1);
            }
        };
        after(&mut inode, highest.0);
        for (key, _) in changes.iter().flat_map(|(_, change)| &change.records) {
            after(&mut inode, key.ino.0);
            if let Part::Extent { number } = key.part {
                after(&mut extent, number);
            }
        }
        (state.next_inode, state.next_extent) = (inode, extent);
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
        state.perform(position, &change, orphans, effects, true);
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

    /// Applies what the journal kept (it is already there) over what `over` names; `cut` is that of the newest commit.
    /// What lies beyond it waits for the next one.
    pub fn replay(&self, changes: &[(Position, Arc<Change>)], cut: Position, over: Replay) -> Result<(), IndexError> {
        let mut state = self.state.write();
        let now = self.clock.now();
        for (position, change) in changes.iter().filter(|(_, change)| !change.orphan) {
            let records: Vec<_> = match over {
                Replay::Index(at) if *position <= at => {
                    if *position > cut {
                        // Whether the vault has a key is not known any more: it may be told of a deletion in vain.
                        let existed = vec![true; change.records.len()].into_boxed_slice();
                        state.fold.push(*position, change.clone(), existed, None);
                    }
                    continue;
                }
                Replay::Index(_) => change.records.clone(),
                Replay::Vault => {
                    let mut counted = Vec::with_capacity(change.records.len());
                    for (key, record) in &change.records {
                        if state.counts(key, *position, cut)? {
                            counted.push((*key, record.clone()));
                        }
                    }
                    counted
                }
            };
            if records.is_empty() {
                continue;
            }
            let mut transaction = state.begin(*position, now);
            transaction.writes = records.iter().cloned().collect();
            let effects = transaction.effects()?;
            let change = Arc::new(Change { records, ..Change::default() });
            let waits = matches!(over, Replay::Vault) || *position > cut;
            state.perform(*position, &change, Vec::new(), effects, waits);
        }
        state.dying.clear();
        Ok(())
    }

    /// After a replay: the extents that the journal keeps in vain, dead or in the vault. Those that nothing names leave
    /// the state.
    pub fn vain(&self, changes: &[(Position, Arc<Change>)]) -> Result<Vec<ExtentId>, IndexError> {
        let mut brought: HashMap<Ino, Vec<u64>> = HashMap::new();
        for (key, _) in changes.iter().flat_map(|(_, change)| &change.records) {
            if let Part::Extent { number } = key.part {
                brought.entry(key.ino).or_default().push(number);
            }
        }
        let mut state = self.state.write();
        let mut vain = Vec::new();
        for (owner, numbers) in brought {
            let mut named = HashSet::new();
            state.overlay.scan(Key::head(owner), Key::map(owner, u64::MAX), &mut |_, record| {
                named.extend(transaction::pieces(record).iter().map(|piece| piece.extent));
                true
            })?;
            for number in numbers {
                let id = ExtentId { owner, number };
                let key = Key::extent(id);
                let old = state.overlay.get(&key)?;
                let is_local = old.as_deref().is_some_and(|record| overlay::local_extent(&key, record).is_some());
                if is_local && named.contains(&id) {
                    continue;
                }
                vain.push(id);
                if is_local {
                    let end = self.journal.as_ref().map_or(Position(0), |journal| journal.end());
                    state.overlay.apply(end, vec![(key, None)], std::iter::once(old));
                }
            }
        }
        Ok(vain)
    }

    /// After a replay of what the vault may have taken without this machine's hearing of it.
    pub fn presume_committed(&self) {
        self.state.write().fold.presume_committed();
    }

    /// Extents that wait for the vault although it has them, as the state knows, are sent no more: their records travel as
    /// the vault has them. Returns those of `ids` whose bytes the journal need not keep for that.
    pub fn settle(&self, ids: &[ExtentId]) -> Result<Vec<ExtentId>, IndexError> {
        let durable = self.journal.as_ref().map_or(Position(u64::MAX), |journal| journal.durable().0);
        while self.state.write().fold.advance(durable, 4096) {}
        let mut state = self.state.write();
        let State { overlay, fold, .. } = &mut *state;
        fold.replace_extents(|key| {
            let known = overlay.get(key)?;
            Ok::<_, IndexError>(known.filter(|record| overlay::local_extent(key, record).is_none()))
        })?;
        let mut settled = Vec::new();
        for id in ids {
            let key = Key::extent(*id);
            if overlay.get(&key)?.is_some_and(|record| overlay::local_extent(&key, &record).is_none()) {
                settled.push(*id);
            }
        }
        Ok(settled)
    }

    /// The kernel forgot this inode: if it is an orphan, its records and bytes go.
    pub fn forget(&self, ino: Ino) {
        if !self.state.read().overlay.is_orphan(ino) {
            return;
        }
        let mut state = self.state.write();
        let dead = state.overlay.forget(ino);
        state.dying.extend(dead);
        drop(state);
        self.orphan_ended.notify_one();
    }

    /// A round begins: the durable end is its cut. `None` if no change waits for the vault there.
    pub fn begin_round(&self) -> Option<Batch> {
        let journal = self.journal.as_ref()?;
        // Folding a long backlog is done in steps, so that operations go on beside it.
        loop {
            let mut state = self.state.write();
            // Read under the lock: operations fold too, and what they folded must not lie beyond the cut.
            let (durable, block) = journal.durable();
            let block = block?;
            let cut = if plants::on("C1-cut-past-durable") { journal.end() } else { durable };
            if state.fold.advance(cut, 4096) {
                continue;
            }
            if state.fold.folded().is_empty() {
                return None;
            }
            state.sending_since = state.fold.oldest();
            let records = state.fold.take();
            state.sending = records.keys().map(|key| key.ino).collect();
            let dying = std::mem::take(&mut state.dying);
            state.dying_before.extend(dying);
            let usage = state.fold.usage();
            return Some(Batch { cut, block, records, usage });
        }
    }

    /// The round's commit `link` stands: these extents lie in the vault, and `dead` ones were so at its cut. Returns what
    /// the journal need not keep any more.
    pub fn end_round(
        &self,
        placed: &[(ExtentId, Extent)],
        dead: &[ExtentId],
        (link, epoch): (ChainLink, Epoch),
    ) -> Result<Vec<ExtentId>, IndexError> {
        self.place(placed, (link, epoch))?;
        let mut released: Vec<ExtentId> = placed.iter().map(|(id, _)| *id).collect();
        for part in dead.chunks(1024) {
            self.bury(part, &mut released)?;
        }
        let mut state = self.state.write();
        state.sending_since = None;
        state.sending = HashSet::new();
        released.append(&mut state.dying_before);
        Ok(released)
    }

    /// Forgets extents that no map names, but those that an unlinked open file holds.
    fn bury(&self, dead: &[ExtentId], released: &mut Vec<ExtentId>) -> Result<(), IndexError> {
        let mut state = self.state.write();
        let end = self.journal.as_ref().map_or(Position(0), |journal| journal.end());
        let mut writes = Vec::new();
        for id in dead.iter().filter(|id| !state.overlay.is_orphan(id.owner)) {
            let key = Key::extent(*id);
            if state.overlay.get(&key)?.is_some() {
                writes.push((key, None));
                released.push(*id);
            }
        }
        if !writes.is_empty() {
            state.overlay.apply(end, writes, std::iter::repeat(None));
        }
        Ok(())
    }

    /// The commit `link` of this history, of that epoch, gave these places. In steps, so that operations go on beside it.
    pub fn place(&self, placed: &[(ExtentId, Extent)], (link, epoch): (ChainLink, Epoch)) -> Result<(), IndexError> {
        let end = || self.journal.as_ref().map_or(Position(0), |journal| journal.end());
        for part in placed.chunks(1024) {
            let mut state = self.state.write();
            state.overlay.place(end(), part)?;
        }
        let mut state = self.state.write();
        state.overlay.stands(end(), link, epoch);
        Ok(())
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

    /// Extents that died though nothing waits for the vault, as those of unlinked files do: the journal need not keep
    /// them. None while a round is under way (it may still send them), or while a death may not be durable (J2: the
    /// state that a crash leaves may still name them).
    pub fn release_dead(&self) -> Vec<ExtentId> {
        let mut state = self.state.write();
        if state.sending_since.is_some() || !state.fold.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut state.dying)
    }

    /// Would [`History::release_dead`] release any?
    pub fn has_dead(&self) -> bool {
        let state = self.state.read();
        state.sending_since.is_none() && state.fold.is_empty() && !state.dying.is_empty()
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

    /// When the oldest change that the vault lacks was made, also if a round has it under way.
    pub fn oldest_pending(&self) -> Option<tokio::time::Instant> {
        let state = self.state.read();
        state.sending_since.or(state.fold.oldest())
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
            (_, Some(Record::Extent(extent))) => waiting.bytes += u64::from(extent.stored),
            _ => {}
        };
        state.fold.folded().iter().for_each(|(key, entry)| count(key, entry.record.as_deref()));
        for change in state.fold.waiting() {
            change.records.iter().for_each(|(key, record)| count(key, record.as_deref()));
        }
        waiting
    }
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

    /// Makes a change visible; with `waits`, the next commit takes it.
    fn perform(
        &mut self,
        position: Position,
        change: &Arc<Change>,
        orphans: Vec<Orphan>,
        effects: Effects,
        waits: bool,
    ) {
        let Effects { old, dead, dying } = effects;
        let existed: Box<[bool]> = old.iter().map(Option::is_some).collect();
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
        self.dying.extend(dying);
        if waits {
            let (bytes, inodes) = self.overlay.usage();
            self.fold.push(position, change.clone(), existed, Some((inodes, bytes)));
        }
    }

    /// C5.
    fn counts(&self, key: &Key, position: Position, cut: Position) -> Result<bool, IndexError> {
        if plants::on("C5-replay-all") {
            return Ok(true);
        }
        Ok(match key.lane() {
            Lane::Namespace => position > cut,
            Lane::Content(ino) => match self.overlay.get(&Key::head(ino))?.as_deref() {
                // A head's own pieces travel in the same change: they are judged by the position before it.
                Some(Record::Head(head)) => position > head.position || (position == head.position && position > cut),
                _ => position > cut,
            },
            Lane::None => position > cut,
        })
    }
}
