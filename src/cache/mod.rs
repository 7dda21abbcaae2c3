//! The cache: one entry a file, with its plaintext: dirty bytes, frozen bytes, clean frames.
//!
//! | file | what it holds |
//! |---|---|
//! | `entries` | the table of entries and their timers: who was not used for a minute dies |
//! | `entry` | one file's dirty and frozen bytes |
//! | `frames` | clean plaintext of all entries, least recently used first to go |
//! | `budget`, `dirty` | memory for written bytes |
//! | `fresh` | what was written a moment ago, for searches |
//! | `read`, `plan`, `edit` | what is asked of contents |
//! | `glance` | reading a file without using it: what a search does |
//! | `whereabouts` | where a file's bytes are; fetching and dropping them on request |
//! | `disk` | sealed blocks on this machine's disk, below the download pipeline |
//!
//! Owns all plaintext of files that this process holds, and its bounds: dirty bytes (writers wait above it), clean
//! frames and what the entries themselves take (least recently used go), and time (promise 7). A read that memory
//! answers short-cuts the download pipeline; dirty bytes leave by the upload pipeline when somebody asks, when a file has
//! a whole extent of them, when they are a few seconds old, or when memory runs short.
//! Does not own: sealed bytes, names, what the vault holds.
//!
//! Invariants
//! - Clean plaintext belongs to an entry: when that dies, all of it is wiped, and the kernel is told to drop its pages.
//! - An entry with dirty bytes, or with a request under way, does not die.
//! - Frames are found by extent, and an extent's bytes never change: no entry, however old, answers for a new version.
//! - Locks: the table of entries, then an entry, then history; frames and the dirty files last. Whoever hears of deaths
//!   is told under none.

mod ahead;
pub mod budget;
pub mod dirty;
pub mod disk;
pub mod edit;
mod entries;
pub mod entry;
pub mod frames;
mod fresh;
pub mod glance;
#[cfg(test)]
mod glance_tests;
mod plan;
mod read;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod tests;
pub mod whereabouts;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use thiserror::Error;

use crate::base::disk::is_full;
use crate::base::sizes::{EXTENT_MAX, FILE_MAX};
use crate::base::{Clock, Ino, Timestamp};
use crate::download;
use crate::format::key::Key;
use crate::format::record::Record;
use crate::history::History;
use crate::index::IndexError;
use crate::journal::JournalError;
use crate::pipeline::Class;
use crate::upload::UploadError;
use crate::upload::starter::{Started, Starter};
use ahead::Ahead;
use budget::Budget;
use entries::{ENTRY_COST, Entries};
use entry::{DirtyFiles, Entry};
use frames::Frames;
use fresh::Fresh;

/// How old dirty bytes may be before they are sent on without anybody's asking (promise 4: "within seconds").
pub const DIRTY_AGE: Duration = Duration::from_secs(3);

/// How long a write waits for room: longer than the journal does for what it is asked to take, shorter than the kernel's
/// request may take.
const ROOM_LIMIT: Duration = Duration::from_secs(45);

/// Why bytes could not be kept or had.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CacheError {
    #[error("no such file")]
    NotFound,
    /// An open file's contents, of a state that is over, are not to be had any more.
    #[error("the file was changed or deleted elsewhere since it was opened, and its old contents are gone")]
    Stale,
    #[error("file too large")]
    TooLarge,
    #[error("no space left for the journal")]
    NoSpace,
    #[error("the mount was fenced or its journal failed: it is read-only now")]
    ReadOnly,
    /// Says what is wrong.
    #[error("{0}")]
    Io(String),
}

impl From<IndexError> for CacheError {
    fn from(error: IndexError) -> CacheError {
        CacheError::Io(error.to_string())
    }
}

impl From<&UploadError> for CacheError {
    fn from(error: &UploadError) -> CacheError {
        match error {
            UploadError::ReadOnly => CacheError::ReadOnly,
            UploadError::Journal(JournalError::Io { kind, .. }) if is_full(*kind) => CacheError::NoSpace,
            UploadError::Journal(_) | UploadError::Index(_) | UploadError::Sealing => CacheError::Io(error.to_string()),
        }
    }
}

/// What an entry with dirty or frozen bytes knows better than the stored head.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Memory for clean plaintext and for entries, bytes.
    pub clean_bytes: usize,
    /// Memory for dirty plaintext, bytes.
    pub dirty_bytes: usize,
    /// How long an entry lives after its last use.
    pub ttl: Duration,
    /// The most that is read ahead for one reader, bytes; 0: nothing.
    pub readahead_bytes: usize,
}

/// How long an entry lives after its last use, if nobody says otherwise.
pub const TTL: Duration = Duration::from_secs(60);
/// Entries may take so much of the memory for what is clean; above it those that were not used for longest die early.
const ENTRIES_SHARE: usize = 4;
/// ... and what was written a moment ago so much.
const FRESH_SHARE: usize = 4;

/// What status tells of the cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    pub dirty_files: u64,
    pub entries: u64,
    pub hits: u64,
    pub misses: u64,
}

/// Knows whether the vault has gone on: who misses an object asks before saying that it is gone (D3).
pub trait Lookout: Send + Sync {
    /// Returns when the newest state was looked for, after this call, and is visible; or could not be had.
    fn look(&self) -> BoxFuture<'_, ()>;
}

pub struct Cache {
    history: Arc<History>,
    /// `None` on a read-only mount.
    uploads: Option<Starter>,
    downloads: Arc<download::starter::Starter>,
    entries: Entries,
    dirty: Arc<DirtyFiles>,
    budget: Arc<Budget>,
    frames: Frames,
    fresh: Arc<Fresh>,
    ahead: Mutex<Ahead>,
    /// Writes so far: each has a number, by which what an entry holds is told from what it held.
    writes: AtomicU64,
    /// Files that were let go of on request.
    drops: AtomicU64,
    clock: Clock,
    lookout: OnceLock<Arc<dyn Lookout>>,
    undertaker: OnceLock<Undertaker>,
}

/// Is told of files whose entries died, and of which the kernel may have pages. Must not wait.
pub type Undertaker = Box<dyn Fn(BTreeSet<Ino>) + Send + Sync>;

impl Cache {
    pub fn new(
        history: Arc<History>,
        uploads: Option<Starter>,
        downloads: Arc<download::starter::Starter>,
        bounds: Bounds,
        clock: Clock,
    ) -> Arc<Cache> {
        // What is brought before it is asked for must still be there when it is.
        let ahead = Ahead::new(bounds.readahead_bytes as u64, bounds.clean_bytes as u64 / 2);
        let cache = Arc::new(Cache {
            history,
            uploads,
            downloads,
            entries: Entries::new(bounds.ttl, bounds.clean_bytes / ENTRIES_SHARE / ENTRY_COST),
            dirty: Arc::default(),
            budget: Arc::new(Budget::new(bounds.dirty_bytes)),
            frames: Frames::new(bounds.clean_bytes),
            fresh: Arc::new(Fresh::new(bounds.clean_bytes / FRESH_SHARE)),
            ahead: Mutex::new(ahead),
            writes: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            clock,
            lookout: OnceLock::new(),
            undertaker: OnceLock::new(),
        });
        let sink: Weak<dyn download::Sink> = Arc::<Cache>::downgrade(&cache);
        cache.downloads.fill_into(sink);
        cache
    }

    /// Whom to ask when an object is missing. Set once.
    pub fn look_out(&self, lookout: Arc<dyn Lookout>) {
        let _ = self.lookout.set(lookout);
    }

    /// Whom to tell of deaths. Set once.
    pub fn on_death(&self, undertaker: Undertaker) {
        let _ = self.undertaker.set(undertaker);
    }

    fn existing(&self, ino: Ino) -> Option<Arc<Entry>> {
        self.entries.existing(ino)
    }

    fn entry(&self, ino: Ino) -> Arc<Entry> {
        let make = || {
            let (history, budget, dirty) = (self.history.clone(), self.budget.clone(), self.dirty.clone());
            Entry::new(ino, history, budget, dirty, self.fresh.clone())
        };
        let (entry, made) = self.entries.entry(ino, make, Entry::is_safe);
        if let Some(dead) = made {
            self.bury(dead);
        }
        entry
    }

    /// A use of the file that needs nothing of its entry.
    pub fn used(&self, ino: Ino) {
        drop(self.existing(ino));
    }

    /// Lets those die whose time is over, and those that the kernel forgot.
    pub fn expire(&self) {
        let left = self.entries.left(|entry| self.may_leave(entry), Entry::is_safe);
        self.bury(left);
        self.entries.expire(Entry::is_safe, |dead| self.bury(dead));
    }

    /// What follows from deaths. They are in the table no more, and under no lock.
    fn bury(&self, dead: Vec<Arc<Entry>>) {
        self.frames.charge(self.entries.len() * ENTRY_COST + self.fresh.cost());
        let mut pages = BTreeSet::new();
        for entry in dead {
            self.frames.wipe(entry.ino);
            self.fresh.wipe(entry.ino);
            self.discard(&entry);
            if entry.pages.load(Ordering::Relaxed) {
                pages.insert(entry.ino);
            }
        }
        if !pages.is_empty()
            && let Some(tell) = self.undertaker.get()
        {
            tell(pages);
        }
    }

    /// What a file's attributes are while bytes of it are not in the journal; `None` if its stored head tells all.
    pub fn live(&self, ino: Ino) -> Option<Live> {
        self.entries.peek(ino)?.lock().live
    }

    /// A file was created by this mount just now (it has only grown so far).
    pub fn created(&self, ino: Ino) {
        self.entry(ino).lock().only_grown = true;
    }

    /// Made by this mount, and nothing of it overwritten since (L2, change of mode)? Forgotten with the entry: then the
    /// answer is no, and costs a barrier that might have been spared.
    pub fn only_grown(&self, ino: Ino) -> bool {
        self.existing(ino).is_some_and(|entry| entry.lock().only_grown)
    }

    /// Files with bytes that the journal does not hold yet.
    pub fn dirty_files(&self) -> Vec<Ino> {
        self.dirty_entries().iter().filter(|entry| !entry.lock().is_clean()).map(|entry| entry.ino).collect()
    }

    /// Those with dirty bytes, in order; and those that lost them a moment ago.
    fn dirty_entries(&self) -> Vec<Arc<Entry>> {
        let entries = self.dirty.all().into_iter().filter_map(|ino| self.entries.peek(ino));
        entries.filter(|entry| !entry.is_safe()).collect()
    }

    /// The kernel forgot the file, and has no pages of it any more. A dirty entry stays until its bytes are safe, one
    /// that holds clean bytes for the rest of its time.
    pub fn forget(&self, ino: Ino) {
        let gone = self.entries.leave(ino, |entry| self.may_leave(entry));
        if let Some(entry) = gone {
            entry.pages.store(false, Ordering::Relaxed);
            self.bury(vec![entry]);
        }
    }

    /// May this entry, which the kernel forgot and which nobody else holds, go at once? An unlinked file's dirty bytes
    /// die with it.
    fn may_leave(&self, entry: &Entry) -> bool {
        if !self.has_head(entry.ino) {
            self.dirty.leaves(entry.ino);
            return true;
        }
        entry.is_safe() && self.frames.held(entry.ino).frames == 0
    }

    /// Dirty bytes of a file that is no more.
    fn discard(&self, entry: &Entry) {
        let mut inner = entry.lock();
        if inner.active.is_empty() {
            return;
        }
        let runs = inner.active.take();
        if inner.frozen.is_none() {
            inner.live = None;
        }
        inner.dirty_since = None;
        drop(inner);
        self.budget.give_back(runs.cost());
        entry.settled.notify_waiters();
    }

    fn has_head(&self, ino: Ino) -> bool {
        // What cannot be read may be there.
        self.history.view().get(&Key::head(ino)).map_or(true, |head| head.is_some())
    }

    /// Is there room for one more write now? If not: [`Cache::room`].
    pub fn has_room(&self) -> bool {
        self.budget.has_room()
    }

    /// Writes `data` at `offset` into memory, whether there is room or not: who writes asks first.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), CacheError> {
        if self.history.is_read_only() {
            return Err(CacheError::ReadOnly);
        }
        let Some(end) = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_MAX) else {
            return Err(CacheError::TooLarge);
        };
        if data.is_empty() {
            return Ok(());
        }
        let entry = self.entry(ino);
        entry.pages.store(true, Ordering::Relaxed);
        let mut inner = entry.lock();
        let now = self.clock.now();
        let mut live = match inner.live {
            Some(live) => live,
            None => match self.stored_live(ino) {
                Ok(Some(live)) => live,
                Ok(None) => return Err(CacheError::NotFound),
                Err(error) => return Err(error.into()),
            },
        };
        inner.only_grown &= offset >= live.size;
        live = Live { size: live.size.max(end), mtime: now, ctime: now };
        inner.live = Some(live);
        let grown = inner.active.write(offset, data);
        inner.written = self.writes.fetch_add(1, Ordering::Release) + 1;
        self.budget.take(grown);
        entry.dirtied(&mut inner);
        let full = inner.active.bytes() >= EXTENT_MAX && inner.frozen.is_none();
        drop(inner);
        if full {
            self.kick(&entry, Class::Bulk);
        }
        Ok(())
    }

    /// Waits until a write has room; sends on what is dirty meanwhile. If there is none for long, the journal takes
    /// nothing: it is full.
    pub async fn room(&self) -> Result<(), CacheError> {
        self.send_on(Duration::ZERO);
        tokio::time::timeout(ROOM_LIMIT, self.budget.room()).await.map_err(|_| CacheError::NoSpace)
    }

    fn stored_live(&self, ino: Ino) -> Result<Option<Live>, IndexError> {
        Ok(match self.history.view().get(&Key::head(ino))?.as_deref() {
            Some(Record::Head(head)) => Some(Live { size: head.size, mtime: head.mtime, ctime: head.ctime }),
            _ => None,
        })
    }

    /// Begins a capture, if one can begin.
    fn kick(&self, entry: &Arc<Entry>, class: Class) {
        let Some(uploads) = &self.uploads else { return };
        if let Err(error) = uploads.start(entry.clone(), class) {
            log::debug!("{}: dirty bytes stay in memory: {error}", entry.ino);
        }
    }

    /// Begins to bring a file's dirty bytes to the journal; does not wait.
    pub fn flush(&self, ino: Ino) {
        if let Some(entry) = self.existing(ino)
            && entry.lock().dirty_since.is_some()
        {
            self.kick(&entry, Class::Bulk);
        }
    }

    /// The last writer of a file closed it: once its bytes are in the journal, that is told (L3).
    pub fn closed(&self, ino: Ino) {
        if let Some(entry) = self.existing(ino) {
            let mut inner = entry.lock();
            if !inner.is_clean() {
                inner.closed = true;
                return;
            }
        }
        self.history.closed(ino);
    }

    /// Begins captures of all files whose dirty bytes are at least this old.
    pub fn send_on(&self, age: Duration) {
        let pressed = self.budget.is_pressed();
        for entry in self.dirty_entries() {
            let due = {
                let inner = entry.lock();
                inner.frozen.is_none() && inner.dirty_since.is_some_and(|since| pressed || since.elapsed() >= age)
            };
            if due {
                self.kick(&entry, Class::Bulk);
            }
        }
    }

    /// Returns when all bytes of these files that were dirty at the call are in the journal (L2: by a capture begun
    /// after the call). Ready at once for files without dirty bytes. One that fails keeps none of the others back; its
    /// error is told in the end.
    pub async fn barrier(&self, inos: &[Ino]) -> Result<(), CacheError> {
        let mut result = Ok(());
        for ino in inos {
            if let Some(entry) = self.existing(*ino) {
                result = result.and(self.settle(&entry).await);
            }
        }
        result
    }

    async fn settle(&self, entry: &Arc<Entry>) -> Result<(), CacheError> {
        let Some(uploads) = &self.uploads else { return Ok(()) };
        let (needed, failures) = {
            let inner = entry.lock();
            if inner.is_clean() {
                return Ok(());
            }
            // Only what is frozen is dirty: that capture holds all of it. Else one that begins after this call.
            let needed = if inner.active.is_empty() { inner.started } else { inner.started + 1 };
            (needed, inner.failures)
        };
        loop {
            let settled = entry.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let begin = {
                let inner = entry.lock();
                if inner.failures > failures {
                    let why = inner.failure.as_deref().map(CacheError::from);
                    return Err(why.unwrap_or_else(|| CacheError::Io("writing failed".to_owned())));
                }
                if inner.finished >= needed || inner.is_clean() {
                    return Ok(());
                }
                inner.frozen.is_none()
            };
            if begin {
                match uploads.start(entry.clone(), Class::Waited) {
                    Ok(Started::Done(_)) => continue,
                    Ok(Started::Running | Started::Nothing) => {}
                    Err(error) => return Err(CacheError::from(&error)),
                }
            } else {
                // What is under way is waited for from now on, too.
                uploads.hurry(entry.ino, Class::Waited);
            }
            settled.await;
        }
    }

    pub fn counts(&self) -> Counts {
        let dirty: Vec<u64> =
            self.dirty_entries().iter().map(|entry| entry.lock().bytes() as u64).filter(|bytes| *bytes > 0).collect();
        let (hits, misses) = self.frames.counts();
        Counts {
            clean_bytes: (self.frames.bytes() + self.fresh.bytes()) as u64,
            dirty_bytes: dirty.iter().sum(),
            dirty_files: dirty.len() as u64,
            entries: self.entries.len() as u64,
            hits,
            misses,
        }
    }
}
