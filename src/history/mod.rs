//! History: the order of changes, and the state that they make.
//!
//! An operation is one transaction: check, then one change, appended to the journal's buffer and visible in the
//! overlay at once (J1). Owns the overlay (every record in memory: it alone serves as index for now), the records of
//! unlinked open files (L4), and the fold of what no commit holds yet.
//! Does not own: the journal's bytes, rounds (it hands them a batch and takes back places), anything that waits.
//!
//! Invariants
//! - Overlay order is journal order: both happen under one lock, held for microseconds, never over I/O or await.
//! - A batch's cut is a durable end (C1, J2); its records are those of the state at the cut.
//! - An extent that only the journal holds is released after the round that was under way when it died: a round may
//!   still send it (C1: what the state at the cut names is pinned).

pub mod fold;
pub mod map;
pub mod overlay;
pub mod transaction;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

use crate::base::{Clock, Epoch, ExtentId, Ino, Position, plants};
use crate::format::change::{Change, Note};
use crate::format::commit::BlockRef;
use crate::format::key::{Key, Lane, Part};
use crate::format::record::{Extent, Place, Record};
use crate::journal::Journal;
use fold::{Fold, Folded};
use overlay::{Effects, Overlay};
pub use transaction::Transaction;

/// How many durable changes an operation folds on its way.
const FOLD_STEP: usize = 16;

pub struct State {
    overlay: Overlay,
    fold: Fold,
    next_inode: u64,
    next_extent: u64,
    /// Extents that died since the last round began, and those that died before and wait for its end.
    dying: Vec<ExtentId>,
    dying_before: Vec<ExtentId>,
    /// When the oldest change of the round under way was made.
    sending_since: Option<tokio::time::Instant>,
}

pub struct History {
    state: RwLock<State>,
    /// `None` on a read-only mount.
    journal: Option<Arc<Journal>>,
    clock: Clock,
    read_only: AtomicBool,
    /// Something waits for the vault now.
    changed: Notify,
}

/// Read access to records: the state as it is now, orphans included. Holds the lock in shared mode: look, do not wait.
pub struct View<'a>(RwLockReadGuard<'a, State>);

impl View<'_> {
    pub fn get(&self, key: &Key) -> Option<&Arc<Record>> {
        self.0.overlay.get(key)
    }

    /// Records from `from` to `to`, both inclusive, in key order.
    pub fn range(&self, from: Key, to: Key) -> impl Iterator<Item = (&Key, &Arc<Record>)> {
        self.0.overlay.range(from..=to)
    }

    /// Is this an unlinked file that somebody still holds?
    pub fn is_orphan(&self, ino: Ino) -> bool {
        self.0.overlay.is_orphan(ino)
    }
}

/// What a round sends: the state at the cut, less what the vault has.
pub struct Batch {
    pub cut: Position,
    pub block: BlockRef,
    pub records: Folded,
}

/// What waits for the vault: files whose contents changed, and sealed bytes.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    pub files: HashSet<Ino>,
    pub bytes: u64,
}

impl History {
    /// `loaded` is the vault's state; changes that a journal kept are replayed by [`History::replay`] before anything
    /// else. `journal` is `None` on a read-only mount.
    pub fn new(loaded: Overlay, journal: Option<Arc<Journal>>, clock: Clock, epoch: Epoch) -> History {
        let number = transaction::first_number(epoch);
        let read_only = journal.is_none();
        let state = State {
            overlay: loaded,
            fold: Fold::default(),
            next_inode: number,
            next_extent: number,
            dying: Vec::new(),
            dying_before: Vec::new(),
            sending_since: None,
        };
        History {
            state: RwLock::new(state),
            journal,
            clock,
            read_only: AtomicBool::new(read_only),
            changed: Notify::new(),
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

    /// Bytes that files hold, and how many inodes there are.
    pub fn usage(&self) -> (u64, u64) {
        self.state.read().overlay.usage()
    }

    /// Runs one operation. On `Ok` its change is appended and visible, and its position returned (the last position,
    /// if it wrote nothing). On `Err` nothing happened.
    pub fn transact<T, E>(
        &self,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<(T, Position), E> {
        let now = self.clock.now();
        let mut state = self.state.write();
        let journal = self.journal.as_ref().expect("a read-only mount runs no transaction");
        let mut transaction = Transaction {
            state: &mut state,
            position: Position(journal.end().0 + 1),
            writes: BTreeMap::new(),
            barriers: Vec::new(),
            orphans: Vec::new(),
            extents: Vec::new(),
            now,
        };
        let result = operation(&mut transaction)?;
        let Transaction { writes, barriers, orphans, extents, .. } = transaction;
        if writes.is_empty() && barriers.is_empty() {
            return Ok((result, journal.end()));
        }
        let orphan = !writes.is_empty() && writes.keys().all(|key| state.overlay.is_orphan(key.ino));
        let records = writes.into_iter().collect();
        let change = Arc::new(Change { records, barrier: barriers, orphan, note: None });
        let position = journal.append(change.clone(), extents);
        let first = state.fold.is_empty();
        state.perform(position, change, &orphans);
        state.fold.advance(journal.durable().0, FOLD_STEP);
        drop(state);
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

    /// Applies what the journal kept, over the vault's state at `cut` (C5): namespace changes beyond the cut, content
    /// changes beyond the position in the file's head. They are already in the journal. Returns the extents that the
    /// journal keeps in vain: dead, or in the vault.
    pub fn replay(&self, changes: &[(Position, Arc<Change>)], cut: Position) -> Vec<ExtentId> {
        let mut state = self.state.write();
        let mut brought = Vec::new();
        for (position, change) in changes {
            for (key, _) in &change.records {
                if let Part::Extent { number } = key.part {
                    brought.push(ExtentId { owner: key.ino, number });
                }
            }
            if change.orphan {
                continue;
            }
            let records: Vec<_> =
                change.records.iter().filter(|(key, _)| state.counts(key, *position, cut)).cloned().collect();
            if !records.is_empty() {
                let change = Arc::new(Change { records, ..Change::default() });
                state.perform(*position, change, &[]);
            }
        }
        state.dying.clear();
        state.overlay.drop_dead_extents();
        brought.retain(|id| match state.overlay.get(&Key::extent(*id)).map(|r| &**r) {
            Some(Record::Extent(extent)) => extent.place != Place::Local,
            _ => true,
        });
        brought
    }

    /// The kernel forgot this inode: if it is an orphan, its records and bytes go.
    pub fn forget(&self, ino: Ino) {
        if !self.state.read().overlay.is_orphan(ino) {
            return;
        }
        let mut state = self.state.write();
        let effects = state.overlay.forget(ino);
        state.dying.extend(effects.dead);
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
            let dying = std::mem::take(&mut state.dying);
            state.dying_before.extend(dying);
            return Some(Batch { cut, block, records });
        }
    }

    /// The round's commit stands: the vault has these extents, as told here. Returns what the journal need not keep any more.
    pub fn end_round(&self, placed: &[(ExtentId, Extent)]) -> Vec<ExtentId> {
        let mut released = {
            let mut state = self.state.write();
            state.sending_since = None;
            std::mem::take(&mut state.dying_before)
        };
        for part in placed.chunks(1024) {
            let mut state = self.state.write();
            for (id, extent) in part {
                state.overlay.place(*id, extent);
            }
        }
        released.extend(placed.iter().map(|(id, _)| *id));
        released
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
    fn perform(&mut self, position: Position, change: Arc<Change>, orphans: &[(Ino, Vec<Key>)]) {
        let mut effects = Effects::default();
        let mut existed = vec![false; change.records.len()].into_boxed_slice();
        for (k, (key, record)) in change.records.iter().enumerate() {
            // What moves to the orphans is deleted from the state, not from memory.
            let moves = orphans.iter().any(|(ino, keys)| *ino == key.ino && keys.binary_search(key).is_ok());
            existed[k] = (moves && record.is_none()) || self.overlay.apply(*key, record.clone(), &mut effects);
        }
        self.overlay.settle(&mut effects);
        // Last: once an inode is an orphan, its links could not be deleted from the state any more.
        for (ino, keys) in orphans {
            self.overlay.orphan(*ino, keys);
        }
        self.overlay.settle(&mut effects);
        self.dying.extend(effects.dead);
        self.fold.push(position, change, existed);
    }

    /// C5.
    fn counts(&self, key: &Key, position: Position, cut: Position) -> bool {
        if plants::on("C5-replay-all") {
            return true;
        }
        match key.lane() {
            Lane::Namespace => position > cut,
            Lane::Content(ino) => match self.overlay.get(&Key::head(ino)).map(|r| &**r) {
                // A head's own pieces travel in the same change: they are judged by the position before it.
                Some(Record::Head(head)) => position > head.position || (position == head.position && position > cut),
                _ => position > cut,
            },
            Lane::None => position > cut,
        }
    }
}
