//! An entry: one file's plaintext that the journal does not hold yet.
//!
//! Owns the active dirty runs, at most one frozen set (L1: a capture takes all dirty bytes at one instant; one in
//! flight a file), and the attributes that belong to them. Reads look active, frozen, stored.
//!
//! The runs of a capture, in the file's order, lie side by side in as few extents as hold them, however far they are from
//! each other in the file. So an extent may have many pieces, which die one by one: it lives as long as one of them.
//!
//! Invariants
//! - `live` is set while anything is active or frozen; then it is what stat tells.
//! - What a truncation to nothing threw away is looked at by nobody: active bytes go at once, a frozen set stays only
//!   until its capture ends, which then appends nothing.
//! - Captures are numbered; capture n is appended before capture n+1 begins, so lane order is capture order.
//! - The entry's lock is taken before the history mutex, and held over the append: between the change that stores
//!   frozen bytes and their leaving memory there is no instant at which a read sees neither.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Live;
use super::budget::Budget;
use super::dirty::{Dirty, Runs};
use super::fresh::Fresh;
use crate::base::sizes::EXTENT_MAX;
use crate::base::{ExtentId, Ino, Position};
use crate::format::key::Key;
use crate::format::record::{Head, Piece, Place, Record};
use crate::history::{History, Transaction, map};
use crate::journal::SealedExtent;
use crate::upload::{Capture, Sealed, Source, UploadError};

pub struct Entry {
    pub ino: Ino,
    history: Arc<History>,
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
    /// A capture ended, well or not.
    pub settled: Notify,
    /// Files with dirty bytes: this one joins them here.
    dirty: Arc<DirtyFiles>,
    /// Where what was dirty goes once it is stored.
    fresh: Arc<Fresh>,
    /// What of it memory has answered: frames, and reads of dirty bytes.
    hits: AtomicU64,
    /// Bytes of it went to the kernel or came from there, so the kernel may have pages of them.
    pub pages: AtomicBool,
}

/// There is one for each file that was used lately: what few of them have lies apart.
pub struct Inner {
    pub active: Dirty,
    pub frozen: Option<Box<Frozen>>,
    pub live: Option<Live>,
    /// The number of the last write.
    pub written: u64,
    /// Captures begun, and ended well.
    pub started: u64,
    pub finished: u64,
    /// Captures that ended badly, and how the last one did.
    pub failures: u64,
    pub failure: Option<Box<UploadError>>,
    /// When the oldest active byte was written.
    pub dirty_since: Option<Instant>,
    /// Made by this mount, nothing overwritten since (L2).
    pub only_grown: bool,
    /// The piece of a long map that the last read was in, and the contents (by their head's position) that it is of.
    pub last_piece: Option<(Position, Piece)>,
    /// Its last writer closed it, and history was not told yet (L3).
    pub closed: bool,
}

/// Which files have dirty bytes: all that do, and some that did. Its lock is the last of all.
#[derive(Default)]
pub struct DirtyFiles(Mutex<BTreeSet<Ino>>);

impl DirtyFiles {
    pub fn joins(&self, ino: Ino) {
        self.0.lock().insert(ino);
    }

    /// Only who holds the entry's lock, or has taken the entry out of the table, knows that it has none.
    pub fn leaves(&self, ino: Ino) {
        self.0.lock().remove(&ino);
    }

    /// In order, so that a simulation can repeat what goes over all of them.
    pub fn all(&self) -> Vec<Ino> {
        self.0.lock().iter().copied().collect()
    }
}

pub struct Frozen {
    pub runs: Runs,
    /// For each extent of the capture: places and lengths in the file.
    layout: Vec<Vec<(u64, u32)>>,
    live: Live,
    /// The file was truncated to nothing since: these bytes are not in it any more.
    abandoned: bool,
}

impl Entry {
    pub fn new(
        ino: Ino,
        history: Arc<History>,
        budget: Arc<Budget>,
        dirty: Arc<DirtyFiles>,
        fresh: Arc<Fresh>,
    ) -> Entry {
        let inner = Inner {
            active: Dirty::default(),
            frozen: None,
            live: None,
            written: 0,
            started: 0,
            finished: 0,
            failures: 0,
            failure: None,
            dirty_since: None,
            only_grown: false,
            last_piece: None,
            closed: false,
        };
        Entry {
            ino,
            history,
            budget,
            inner: Mutex::new(inner),
            settled: Notify::new(),
            dirty,
            fresh,
            hits: AtomicU64::new(0),
            pages: AtomicBool::new(false),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Memory answered so often.
    pub fn hit(&self, times: u64) {
        self.hits.fetch_add(times, Ordering::Relaxed);
    }

    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Bytes were written into it: it is dirty, if it was not yet. The entry is locked.
    pub fn dirtied(&self, inner: &mut Inner) {
        if inner.dirty_since.is_none() {
            inner.dirty_since = Some(Instant::now());
            self.dirty.joins(self.ino);
        }
    }

    /// Is all of it in the journal, and nothing under way? Then it is none of the dirty files any more.
    pub fn is_safe(&self) -> bool {
        let inner = self.lock();
        let safe = inner.active.is_empty() && inner.frozen.is_none();
        if safe {
            self.dirty.leaves(self.ino);
        }
        safe
    }
}

impl Inner {
    pub fn is_clean(&self) -> bool {
        self.active.is_empty() && self.frozen.as_ref().is_none_or(|frozen| frozen.abandoned)
    }

    /// Throws away all that is dirty: the file is empty now. Returns what was active.
    pub fn abandon(&mut self) -> Runs {
        if let Some(frozen) = &mut self.frozen {
            frozen.abandoned = true;
        }
        self.live = None;
        self.dirty_since = None;
        self.active.take()
    }

    /// Bytes that the journal does not hold yet.
    pub fn bytes(&self) -> usize {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.runs.bytes())
    }

    /// All that memory holds, as it is now; what comes later is newer.
    pub fn snapshot(&self) -> Vec<Runs> {
        let frozen = self.frozen.as_ref().filter(|frozen| !frozen.abandoned).map(|frozen| frozen.runs.clone());
        frozen.into_iter().chain([self.active.snapshot()]).collect()
    }

    /// Calls `copy` for each stretch of `range` that memory holds; what comes later is newer.
    pub fn visit(&self, range: &Range<u64>, mut copy: impl FnMut(u64, &[u8])) {
        if let Some(frozen) = self.frozen.as_ref().filter(|frozen| !frozen.abandoned) {
            frozen.runs.visit(range, &mut copy);
        }
        self.active.visit(range, &mut copy);
    }
}

impl Source for Entry {
    fn owner(&self) -> Ino {
        self.ino
    }

    fn dirty(&self) -> usize {
        self.lock().active.bytes()
    }

    fn out_of_line(&self) {
        self.settled.notify_waiters();
    }

    fn capture(&self) -> Option<Capture> {
        let mut inner = self.lock();
        if inner.active.is_empty() || inner.frozen.is_some() {
            return None;
        }
        let runs = inner.active.take();
        let (mut parts, mut layout) = (Vec::new(), Vec::new());
        let mut filled = EXTENT_MAX;
        for (offset, run) in &runs.runs {
            if filled + run.len() > EXTENT_MAX {
                parts.push(Vec::new());
                layout.push(Vec::new());
                filled = 0;
            }
            if let (Some(part), Some(places)) = (parts.last_mut(), layout.last_mut()) {
                part.push(run.clone());
                places.push((*offset, run.len() as u32));
                filled += run.len();
            }
        }
        let live = inner.live.expect("set while anything is active");
        inner.frozen = Some(Box::new(Frozen { runs, layout, live, abandoned: false }));
        inner.started += 1;
        inner.dirty_since = None;
        Some(Capture { owner: self.ino, parts })
    }

    fn append(&self, sealed: Vec<Sealed>) -> Result<Position, UploadError> {
        // Also on a mount that was fenced meanwhile: these bytes were acknowledged, and in the journal, which is set
        // aside whole, they can be rescued.
        let mut inner = self.lock();
        let frozen = inner.frozen.as_ref().expect("a capture is in flight");
        let cost = frozen.runs.cost();
        let (ids, position) = self.history.transact(|tx| match frozen.abandoned {
            true => Ok(Vec::new()),
            false => store(tx, self.ino, frozen, sealed),
        })?;
        let frozen = inner.frozen.take();
        inner.finished = inner.started;
        if inner.active.is_empty() {
            inner.live = None;
            if std::mem::take(&mut inner.closed) {
                self.history.closed(self.ino);
            }
        }
        drop(inner);
        if let Some(frozen) = frozen {
            self.keep(*frozen, &ids);
        }
        self.budget.give_back(cost);
        self.settled.notify_waiters();
        Ok(position)
    }

    fn give_back(&self, error: &UploadError) {
        let mut inner = self.lock();
        if let Some(frozen) = inner.frozen.take_if(|frozen| frozen.abandoned) {
            // Nobody misses it.
            inner.finished = inner.started;
            drop(inner);
            self.budget.give_back(frozen.runs.cost());
            self.settled.notify_waiters();
            return;
        }
        if let Some(frozen) = inner.frozen.take() {
            // What was written since is newer: it goes on top of what comes back.
            let newer = inner.active.take();
            for (offset, run) in frozen.runs.runs.iter().chain(&newer.runs) {
                self.budget.take(inner.active.write(*offset, run));
            }
            self.budget.give_back(frozen.runs.cost() + newer.cost());
            // It never ceased to be one of the dirty files.
            inner.dirty_since.get_or_insert_with(Instant::now);
        }
        inner.failures += 1;
        inner.failure = Some(Box::new(error.clone()));
        drop(inner);
        self.settled.notify_waiters();
    }
}

impl Entry {
    /// What was frozen is stored, in these extents.
    fn keep(&self, frozen: Frozen, ids: &[ExtentId]) {
        let mut runs = frozen.runs.runs.into_iter().map(|(_, run)| run);
        for (places, id) in frozen.layout.iter().zip(ids) {
            self.fresh.put(self.ino, *id, runs.by_ref().take(places.len()).collect());
        }
    }
}

/// The change that a capture makes: extents, pieces, size and times. Returns the extents, in order.
fn store(
    tx: &mut Transaction<'_>,
    ino: Ino,
    frozen: &Frozen,
    sealed: Vec<Sealed>,
) -> Result<Vec<ExtentId>, UploadError> {
    // The kernel forgot an unlinked file while its bytes were under way: nobody can ever read them.
    let Some(record) = tx.get(&Key::head(ino))? else { return Ok(Vec::new()) };
    let Record::Head(head) = &*record else { return Ok(Vec::new()) };
    let mut head: Head = head.clone();
    let (mut pieces, mut ids) = (Vec::new(), Vec::new());
    for (places, sealed) in frozen.layout.iter().zip(sealed) {
        let id = tx.new_extent(ino);
        ids.push(id);
        let mut start = 0;
        for (offset, len) in places {
            pieces.push(Piece { offset: *offset, len: *len, extent: id, start });
            start += len;
        }
        debug_assert_eq!(sealed.record.place, Place::Local);
        tx.bring(SealedExtent { id, record: sealed.record, bytes: sealed.bytes.into(), hash: sealed.hash });
    }
    map::replace(tx, ino, &mut head, &pieces)?;
    head.size = frozen.live.size;
    head.mtime = frozen.live.mtime;
    head.ctime = frozen.live.ctime;
    head.position = tx.position();
    tx.put(Key::head(ino), Record::Head(head));
    Ok(ids)
}
