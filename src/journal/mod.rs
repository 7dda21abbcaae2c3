//! The journal: append-only local files of sealed changes and small extents; the only local truth (J1 to J8).
//!
//! | file | what it holds |
//! |---|---|
//! | `block` | a block's bytes: encode, seal, open |
//! | `file` | a file's name and header, and how one is made |
//! | `extents` | the table of extents that the vault lacks, and what each file holds of them |
//! | `staged` | bulk extents, in files that the vault gets as they lie (J8) |
//! | `reserve` | room on the disk for what frees space (J6) |
//! | `side` | bytes that no replay needs, out of the way of files that may go (J6, L4) |
//! | `replay` | reading a directory back: one stream of blocks, damage or torn tail; resume |
//! | `writer` | the task that seals, writes, fdatasyncs, begins files and drops them |
//!
//! This file is the door: what appenders, readers and waiters call. An append assigns a position and fills a queue,
//! under a lock of its own that is never held over I/O; everything else is the writer's. Bytes stay in memory until the
//! durable end covers them (J2).
//!
//! Room (J6, promise 6) is what the settings allow and what the disk still has, whichever is less. Whoever adds
//! something waits for it before the append; what frees space may go beyond, into the reserve.
//!
//! Does not own: what changes mean, when an extent is dead or in the vault (the caller releases it), rounds.

mod block;
mod extents;
mod file;
mod replay;
mod reserve;
mod side;
mod staged;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::base::disk::{self, Disk, File};
use crate::base::{ExtentId, Position, Random, plants, watch};
use crate::format::change::{Change, Note};
use crate::format::commit::{BlockRef, ChainLink, Hash};
use crate::format::keys::Keys;
use crate::format::record::{Extent, Record};
use block::Block;
use extents::{InFile, Local, Table};
pub use replay::ExtentPlace;
use reserve::Reserve;
pub use staged::Whole;
use writer::Writer;

/// So many ends of durable blocks are remembered.
const ENDS: usize = 8 * 1024;
/// How long anybody waits for a disk that refuses, or for room. Long enough for an outage that a person mends at once
/// (a full disk), short enough that no application hangs for ever (promise 5): then EIO, and the data stays queued.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// Where nothing has come free for that long, the next to ask wait only so long.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// How often those who wait for room look whether somebody else made some on the disk.
const LOOK: Duration = Duration::from_millis(250);
/// How old a look at the disk's free space may be; and with how much left, whatever is written meanwhile.
const FREE_AGE: Duration = Duration::from_millis(100);
const AMPLE: u64 = 1 << 30;
/// What a record counts for before it is encoded, beside names and values; only bounds depend on it.
const RECORD_WEIGHT: u64 = 96;
/// On a disk with little room files are smaller, but not smaller than this.
const FILE_LEAST: u64 = 1 << 20;
/// What a piece of a file's map in its head counts for.
const PIECE_WEIGHT: u64 = 32;

#[derive(Debug, Error, Clone)]
pub enum JournalError {
    /// Bytes below the durable end do not authenticate, or are missing (J3).
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    #[error("journal {file}: {kind}: {why}")]
    Io { file: String, kind: io::ErrorKind, why: String },
    /// The writer ended; nothing more will become durable.
    #[error("the journal is closed")]
    Closed,
}

/// An extent on its way into the journal.
#[derive(Clone, Debug)]
pub struct SealedExtent {
    pub id: ExtentId,
    /// With `Place::Local`.
    pub record: Extent,
    /// The sealed bytes, `record.stored` of them.
    pub bytes: Bytes,
    /// BLAKE3 of `bytes`.
    pub hash: Hash,
}

/// Bounds and times of a journal.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Begin a new file above this many bytes.
    pub file_bytes: u64,
    /// The durable end moves at least this often (J2).
    pub sync_interval: std::time::Duration,
    /// ... and after this many bytes (J2).
    pub sync_bytes: u64,
    /// What may wait in memory for the durable end; `reserve` waits above it.
    pub memory_bytes: u64,
    /// What all files may hold; `reserve` waits above it, less `reserve_bytes`.
    pub disk_bytes: u64,
    /// Set apart for what frees space, within `disk_bytes` and on the disk itself.
    pub reserve_bytes: u64,
    /// Extents of so many sealed bytes are staged (J8).
    pub stage_least: usize,
}

/// An fdatasync more for each group commit with a staged extent is little beside writing so many bytes twice.
pub const STAGE_LEAST: usize = 1 << 20;

/// What room is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// More will be kept.
    Add,
    /// Less will be kept (unlink, truncate): it may use the reserve.
    Free,
}

/// What there is too little of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lack {
    /// Of memory, until the durable end moves.
    Memory,
    /// Of what the settings allow.
    Journal,
    Disk,
}

/// What keeps writers waiting, with what the system said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    DiskFull(String),
    DiskFails(String),
    /// What the settings allow is used up.
    JournalFull,
}

/// Room that was waited for, set apart until this is dropped (after the append).
pub struct Room<'a> {
    journal: &'a Journal,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.journal.queue.lock().promised -= self.bytes;
        self.journal.room.notify_waiters();
    }
}

/// What lies in a state directory, read back (J3, J4).
pub struct Recovered {
    /// Every intact change in order, the torn tail cut off.
    pub changes: Vec<(Position, Arc<Change>)>,
    /// Every block that counts, aliases included, and those that a file header continues: what C4 asks for.
    pub blocks: HashSet<BlockRef>,
    /// The newest log object that a `Note::Took` names.
    pub took: Option<(ChainLink, Option<Position>)>,
    /// Up to where the vault held all contents by then.
    pub low: Position,
    /// The last position, 0 if the journal is empty.
    pub end: Position,
    /// The last block; where no block is left, the one that the newest file continues.
    pub last: Option<BlockRef>,
    /// Nothing at or below this position is in the journal any more: it was dropped. 0 if nothing was.
    pub begins: Position,
    /// Every extent whose bytes the journal holds. `resume` makes all of them readable; release those that are dead or
    /// in the vault.
    pub extents: Vec<ExtentId>,
    resume: replay::Resume,
}

/// What the writer has reached.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The durable end.
    pub position: Position,
    /// The block that ends there.
    pub block: Option<BlockRef>,
    /// The disk refuses, and this is what it says.
    pub failing: Option<JournalError>,
    /// The writer ended.
    pub closed: bool,
}

/// A change on its way to the writer.
struct Queued {
    position: Position,
    change: Arc<Change>,
    extents: Vec<SealedExtent>,
    change_weight: u64,
    extent_weight: u64,
}

/// What appenders and waiters leave for the writer.
struct Queue {
    end: Position,
    changes: Vec<Queued>,
    /// When the oldest of `changes` was appended.
    since: Instant,
    change_weight: u64,
    extent_weight: u64,
    /// Weight of all that is not durable, queued or written.
    held: u64,
    /// Weight of what the writer has taken and not written.
    behind: u64,
    /// Room that was given out, for appends that come.
    promised: u64,
    /// Somebody waits for this position.
    wanted: Position,
    /// The low-water mark.
    cut: Position,
    /// Up to where the index is safe (J5).
    indexed: Position,
    /// Extents that go once the index is safe up to there, in the order of these positions.
    leaving: VecDeque<(Position, Vec<ExtentId>)>,
    /// Files may be droppable that were not.
    cut_moved: bool,
    closing: bool,
    /// Somebody waits for a new file.
    begin: Option<oneshot::Sender<()>>,
    /// Somebody waits until what is staged may travel.
    close: Vec<oneshot::Sender<()>>,
    /// Durable blocks behind those that the index has been given, oldest first.
    ends: VecDeque<BlockRef>,
    /// `Note::Took` of commits that are not durable yet: where they stand, and their cuts.
    took: Vec<(Position, Position)>,
    /// The highest cut that a durable `Note::Took` names.
    took_cut: Position,
}

/// What the writer takes from the queue.
struct Taken {
    changes: Vec<Queued>,
    wanted: Position,
    closing: bool,
    begin: Option<oneshot::Sender<()>>,
    close: Vec<oneshot::Sender<()>>,
}

impl Queue {
    /// Up to where files may go: both the vault and the index have what lies before.
    fn droppable(&self) -> Position {
        self.cut.min(self.indexed)
    }

    fn take(&mut self) -> Taken {
        self.behind += self.change_weight + self.extent_weight;
        self.change_weight = 0;
        self.extent_weight = 0;
        self.cut_moved = false;
        let (changes, close) = (std::mem::take(&mut self.changes), std::mem::take(&mut self.close));
        Taken { changes, wanted: self.wanted, closing: self.closing, begin: self.begin.take(), close }
    }
}

fn io_error(file: &str, why: &io::Error) -> JournalError {
    JournalError::Io { file: file.to_owned(), kind: why.kind(), why: why.to_string() }
}

/// What a change takes, by estimate.
fn weight(change: &Change) -> u64 {
    let names: usize = change.records.iter().filter_map(|(_, record)| record.as_deref()).map(variable).sum();
    names as u64 + RECORD_WEIGHT * (change.records.len() + change.barrier.len() + 1) as u64
}

/// Bytes of a record that have no bound of their own.
fn variable(record: &Record) -> usize {
    match record {
        Record::Inode(inode) => inode.target.as_ref().map_or(0, |target| target.len()),
        Record::Dentry(dentry) => dentry.name.len(),
        Record::Xattr(xattr) => xattr.name.len() + xattr.value.len(),
        Record::Head(head) => PIECE_WEIGHT as usize * head.pieces.len(),
        Record::Extent(extent) => size_of_val(&extent.frames[..]),
        _ => 0,
    }
}

pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: String,
    settings: Settings,
    reserve: Reserve,
    /// What the disk had free, and when; `None` once that may have changed.
    free: Mutex<Option<(Instant, u64)>>,
    /// Since when nobody who would add anything has found room, and what for.
    full_since: Mutex<Option<(Instant, u64)>>,
    /// Somebody begins to wait for room.
    starved: Notify,
    queue: Mutex<Queue>,
    table: Mutex<Table>,
    /// Calls the writer.
    wake: Notify,
    /// There is more room in memory or on disk.
    room: Notify,
    progress: watch::Sender<Progress>,
    writer: Mutex<Option<Writer>>,
    /// Where the writer runs.
    runtime: OnceLock<Handle>,
    generation: AtomicU64,
    failures: AtomicU64,
}

/// Tells those who wait that the writer ended, also when it panicked.
struct Ended<'a>(&'a Journal);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.progress.send_modify(|progress| progress.closed = true);
        self.0.room.notify_waiters();
    }
}

impl Journal {
    /// Reads what `dir` holds; changes nothing. `named` is the durable end that own log objects name (J3).
    pub fn recover(
        disk: Arc<dyn Disk>,
        dir: &str,
        keys: Arc<Keys>,
        named: Position,
    ) -> Result<Recovered, JournalError> {
        replay::recover(disk, dir, keys, named)
    }

    /// Goes on after what was recovered: fdatasyncs it, begins a new file, writes again what is above the durable end
    /// (J4). Positions start above `above` (J3). After an error nothing is lost: recover and resume again.
    pub fn resume(
        recovered: Recovered,
        random: Random,
        settings: Settings,
        above: Position,
    ) -> Result<Arc<Journal>, JournalError> {
        replay::resume(recovered, random, settings, above)
    }

    /// Moves everything in `dir` to `aside`, which must not exist, in one step (a foreign writer took over); returns
    /// whether there was anything.
    pub fn set_aside(disk: &dyn Disk, dir: &str, aside: &str) -> Result<bool, JournalError> {
        let named = |e: io::Error| io_error(dir, &e);
        reserve::remove(disk, dir);
        if disk.list(dir).map_err(named)?.is_empty() {
            return Ok(false);
        }
        let parent = |path: &str| path.rsplit_once('/').map_or(String::new(), |(parent, _)| parent.to_owned());
        disk.create_dir(&parent(aside)).map_err(named)?;
        disk.rename(dir, aside).map_err(named)?;
        disk.sync_dir(&parent(aside)).map_err(named)?;
        disk.sync_dir(&parent(dir)).map_err(named)?;
        Ok(true)
    }

    /// Appends one change, with the extents that it brings; returns its position. Memory only, microseconds: the
    /// caller holds the history mutex.
    pub fn append(&self, change: Arc<Change>, extents: Vec<SealedExtent>) -> Position {
        let extent_weight = extents.iter().map(|extent| extent.bytes.len() as u64).sum();
        let change_weight = weight(&change) + RECORD_WEIGHT * extents.len() as u64;
        if !extents.is_empty() {
            let mut table = self.table.lock();
            extents.iter().for_each(|extent| table.insert_memory(extent.id, extent.bytes.clone()));
        }
        let mut queue = self.queue.lock();
        queue.end.0 += 1;
        let position = queue.end;
        if let Some(Note::Took { cut: Some(cut), .. }) = change.note {
            queue.took.push((position, cut));
        }
        let first = queue.changes.is_empty();
        if first {
            queue.since = Instant::now();
        }
        queue.change_weight += change_weight;
        queue.extent_weight += extent_weight;
        queue.held += change_weight + extent_weight;
        queue.changes.push(Queued { position, change, extents, change_weight, extent_weight });
        let wake = first || writer::full(&queue);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        position
    }

    /// Waits until there is room for `bytes` of extents in memory and on disk, and sets it apart.
    pub async fn reserve(&self, bytes: u64) -> Result<Room<'_>, JournalError> {
        self.room(bytes, Purpose::Add).await
    }

    /// Waits until there is room for a change. Call it before the operation begins.
    pub async fn room_for_change(&self, purpose: Purpose) -> Result<(), JournalError> {
        match self.lack(0, purpose) {
            None => Ok(()),
            Some(_) => self.room(0, purpose).await.map(drop),
        }
    }

    async fn room(&self, bytes: u64, purpose: Purpose) -> Result<Room<'_>, JournalError> {
        let mut deadline = None;
        loop {
            let more = self.room.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if self.progress.borrow().closed {
                return Err(JournalError::Closed);
            }
            let Some(lack) = self.lack(bytes, purpose) else {
                self.queue.lock().promised += bytes;
                return Ok(Room { journal: self, bytes });
            };
            let now = Instant::now();
            let deadline = *deadline.get_or_insert_with(|| self.deadline(now));
            if now >= deadline {
                return Err(self.failing().unwrap_or_else(|| self.lacking(lack)));
            }
            // Woken, or not: it looks again.
            let _ = tokio::time::timeout_at(deadline.min(now + LOOK), more).await;
        }
    }

    /// How long to wait for room: where there has been none for long, waiting long again helps nobody.
    fn deadline(&self, now: Instant) -> Instant {
        let since = self.full_since.lock().map_or(now, |(since, _)| since);
        (since + WAIT_LIMIT).max(now + SHORT_WAIT)
    }

    /// Is there room for this many bytes of extents, in memory and on disk, now?
    pub fn has_room(&self, bytes: u64) -> bool {
        self.lack(bytes, Purpose::Add).is_none()
    }

    fn lack(&self, bytes: u64, purpose: Purpose) -> Option<Lack> {
        let lack = self.look_for_room(bytes, purpose);
        let mut full_since = self.full_since.lock();
        match lack {
            None if purpose == Purpose::Add => *full_since = None,
            Some(Lack::Journal | Lack::Disk) if full_since.is_none() => {
                *full_since = Some((Instant::now(), bytes));
                self.starved.notify_waiters();
            }
            _ => {}
        }
        lack
    }

    fn look_for_room(&self, bytes: u64, purpose: Purpose) -> Option<Lack> {
        let (Settings { memory_bytes, disk_bytes, .. }, reserve) = (&self.settings, self.settings.reserve_bytes);
        let (memory, journal, disk) = match purpose {
            Purpose::Add => (*memory_bytes, disk_bytes - reserve, reserve + self.reserve.slack()),
            Purpose::Free => (memory_bytes + reserve, *disk_bytes, 0),
        };
        let on_disk = self.disk_bytes();
        let room = self.disk_room();
        let mut queue = self.queue.lock();
        let bytes = bytes + queue.promised;
        if queue.held + queue.promised > 0 && queue.held + bytes > memory {
            if queue.wanted < queue.end {
                // Memory is freed by the durable end alone.
                queue.wanted = queue.end;
                self.wake.notify_one();
            }
            return Some(Lack::Memory);
        }
        let bytes = bytes + queue.change_weight + queue.extent_weight + queue.behind;
        if on_disk + bytes > journal {
            return Some(Lack::Journal);
        }
        (bytes.saturating_add(disk) > room).then_some(Lack::Disk)
    }

    /// What the disk still takes, the reserve included.
    fn disk_room(&self) -> u64 {
        self.free_bytes().saturating_add(if self.reserve.is_held() { self.reserve.bytes() } else { 0 })
    }

    /// What the disk has free.
    fn free_bytes(&self) -> u64 {
        let mut seen = self.free.lock();
        match *seen {
            Some((at, free)) if at.elapsed() < FREE_AGE => free,
            _ => {
                // A disk that cannot say is asked by writing.
                let free = self.disk.free(&self.dir).unwrap_or(u64::MAX);
                *seen = Some((Instant::now(), free));
                free
            }
        }
    }

    /// Something was written, or room was given back.
    fn disk_changed(&self) {
        let mut seen = self.free.lock();
        if seen.is_some_and(|(_, free)| free < AMPLE) {
            *seen = None;
        }
    }

    fn lacking(&self, lack: Lack) -> JournalError {
        let (kind, why) = match lack {
            Lack::Memory => (io::ErrorKind::TimedOut, "the disk takes nothing, and memory for what waits is used up"),
            Lack::Journal => (
                io::ErrorKind::StorageFull,
                "the journal is full, and the vault takes nothing off it; is the store reachable?",
            ),
            Lack::Disk => (io::ErrorKind::StorageFull, "the disk is full; free space on it"),
        };
        JournalError::Io { file: self.dir.clone(), kind, why: why.into() }
    }

    /// More than half of the journal's room on disk is taken, or somebody waits for room: the next round should hurry.
    pub fn pressed(&self) -> bool {
        let (files, side) = self.table.lock().disk_bytes();
        // No round makes room in the side file, and none on a disk that others have filled.
        let room = self.settings.disk_bytes.saturating_sub(side).min(files.saturating_add(self.disk_room()));
        files > room / 2 || self.shortage().is_some()
    }

    /// Somebody waits for room, or will soon: three quarters of it are taken. Now room is worth more than anybody's time.
    pub fn is_nearly_full(&self) -> bool {
        let (files, side) = self.table.lock().disk_bytes();
        let room = self.settings.disk_bytes.saturating_sub(side).min(files.saturating_add(self.disk_room()));
        files > room / 4 * 3 || self.shortage().is_some()
    }

    /// The journal and its side file take more than `most` (by default half of the room there is), or somebody waits for
    /// room: what no round takes should leave it too.
    pub fn is_crowded(&self, most: Option<u64>) -> bool {
        let taken = self.disk_bytes();
        let room = || self.settings.disk_bytes.min(taken.saturating_add(self.disk_room()));
        taken > most.unwrap_or_else(|| room() / 2) || self.shortage().is_some()
    }

    /// Does somebody wait for room?
    pub fn is_short(&self) -> bool {
        self.shortage().is_some()
    }

    /// What those lack who last asked for room in vain.
    fn shortage(&self) -> Option<Lack> {
        let (_, bytes) = (*self.full_since.lock())?;
        self.look_for_room(bytes, Purpose::Add)
    }

    /// Would a commit free journal files now, though nothing in them has to travel any more?
    pub fn waits_for_cut(&self) -> bool {
        let (durable, cut) = (self.durable().0, self.queue.lock().cut);
        self.pressed() && self.table.lock().waits_for_cut(cut, durable)
    }

    /// Returns when somebody begins to wait for room, or a file holds nothing any more, after this call.
    pub fn starved(&self) -> Notified<'_> {
        self.starved.notified()
    }

    /// The disk is full, and something that frees space must get through: gives the reserve back to the disk.
    pub fn use_reserve(&self) {
        if self.reserve.give_back() {
            log::debug!("the journal's reserve is given back to the disk");
            self.disk_changed();
        }
    }

    /// Why writers wait, or are refused; `None` while all is well.
    pub fn trouble(&self) -> Option<Trouble> {
        match self.failing() {
            Some(JournalError::Io { kind, why, .. }) if disk::is_full(kind) => return Some(Trouble::DiskFull(why)),
            Some(error) => return Some(Trouble::DiskFails(error.to_string())),
            None => {}
        }
        match self.shortage()? {
            Lack::Disk => Some(Trouble::DiskFull("the journal stops before the last of it is taken".into())),
            Lack::Journal => Some(Trouble::JournalFull),
            // It is only slow; if it fails, that is told above.
            Lack::Memory => None,
        }
    }

    /// The last position appended.
    pub fn end(&self) -> Position {
        self.queue.lock().end
    }

    /// The durable end, and the block that ends there (`None` before the first).
    pub fn durable(&self) -> (Position, Option<BlockRef>) {
        let progress = self.progress.borrow();
        (progress.position, progress.block)
    }

    /// Changes when the durable end moves, the disk begins or ceases to refuse, or the writer ends.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn failing(&self) -> Option<JournalError> {
        self.progress.borrow().failing.clone()
    }

    /// Asks for a group commit and waits until `position` is durable; if the disk refuses for too long, an error, and
    /// the data stays queued.
    pub async fn wait_durable(&self, position: Position) -> Result<(), JournalError> {
        if plants::on("J2-ack-before-sync") && self.durable().1.is_some() {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        if progress.borrow_and_update().position >= position {
            return Ok(());
        }
        {
            let mut queue = self.queue.lock();
            // Never beyond the end: the writer would look for it without pause.
            queue.wanted = queue.wanted.max(position.min(queue.end));
        }
        self.wake.notify_one();
        let reached = progress.wait_for(|progress| progress.position >= position || progress.closed);
        match tokio::time::timeout(WAIT_LIMIT, reached).await {
            Ok(Ok(progress)) if progress.position >= position => Ok(()),
            Ok(_) => Err(self.failing().unwrap_or(JournalError::Closed)),
            Err(_) => Err(self.failing().unwrap_or_else(|| JournalError::Io {
                file: self.dir.clone(),
                kind: io::ErrorKind::TimedOut,
                why: format!("nothing became durable for {} s; the data is kept and tried on", WAIT_LIMIT.as_secs()),
            })),
        }
    }

    /// Sealed bytes of an extent that this journal still holds (memory or file); `None` if it does not hold it.
    pub fn read(&self, id: ExtentId, range: Range<u32>) -> Option<Result<Bytes, JournalError>> {
        let local = self.table.lock().get(id)?.clone();
        let (path, file, offset, len) = match &local {
            Local::Memory(bytes) => {
                let found = bytes.get(range.start as usize..range.end as usize).map(|part| bytes.slice_ref(part));
                return Some(found.ok_or_else(|| self.beyond_end()));
            }
            Local::File(place) => {
                let (path, file) = self.file_of(place)?;
                (path, file, place.offset, place.len)
            }
            Local::Side { offset, len } => {
                (format!("{}/side", self.dir), Ok(self.table.lock().side()?.file.clone()), *offset, *len)
            }
        };
        if range.start > range.end || range.end > len {
            return Some(Err(self.beyond_end()));
        }
        let mut out = vec![0; (range.end - range.start) as usize];
        let read = file.and_then(|file| file.read_at(&mut out, offset + u64::from(range.start)));
        let moved = match self.table.lock().get(id) {
            // Where an extent was that died meanwhile, there may be a hole, or no file any more.
            None => return None,
            // Out of a file that was dropped.
            Some(Local::Side { .. }) => matches!(local, Local::File(_)),
            Some(_) => false,
        };
        match read {
            Err(_) if moved => self.read(id, range),
            read => Some(read.map(|()| out.into()).map_err(|e| io_error(&path, &e))),
        }
    }

    /// Does this journal still hold an extent?
    pub fn holds(&self, id: ExtentId) -> bool {
        self.table.lock().get(id).is_some()
    }

    /// The path of the file in which an extent lies, and the file; `None` if it was dropped.
    fn file_of(&self, place: &InFile) -> Option<(String, io::Result<Arc<dyn File>>)> {
        match place.staged {
            Some(id) => {
                let path = staged::path(&self.dir, id);
                let file = self.disk.open_to_read(&path);
                Some((path, file))
            }
            None => self.table.lock().file(place.generation).map(|file| (file.path.clone(), Ok(file.file.clone()))),
        }
    }

    fn beyond_end(&self) -> JournalError {
        JournalError::Io {
            file: self.dir.clone(),
            kind: io::ErrorKind::InvalidInput,
            why: "an extent was read beyond its end".into(),
        }
    }

    /// Of the extents that are about to be sent, and that are durable: the staged files that may travel as they lie, with
    /// which of them (J8). Each is told of once: what does not travel so now travels out of it.
    pub async fn take_whole(&self, ids: &HashSet<ExtentId>) -> Vec<Whole> {
        if self.table.lock().wants_closing(ids) {
            let (tell, closed) = oneshot::channel();
            self.queue.lock().close.push(tell);
            self.wake.notify_one();
            self.unless_it_fails(closed).await;
        }
        self.table.lock().take_whole(&self.dir, ids)
    }

    /// An extent is about to be sent by itself.
    pub fn travels_alone(&self, id: ExtentId) {
        self.table.lock().travels_alone(id);
    }

    /// What a staged file holds, padding included.
    pub fn read_whole(&self, whole: &Whole) -> Result<Bytes, JournalError> {
        let mut out = vec![0; whole.len as usize];
        let read = self.disk.open_to_read(&whole.path).and_then(|file| file.read_at(&mut out, 0));
        read.map_err(|e| io_error(&whole.path, &e))?;
        Ok(out.into())
    }

    /// Where a staged file lies in the machine's file system; `None` if it does not.
    pub fn path_of(&self, whole: &Whole) -> Option<PathBuf> {
        self.disk.real_path(&whole.path)
    }

    /// These extents are dead or in the vault: the journal need not keep their bytes.
    pub fn release(&self, ids: &[ExtentId]) {
        let mut table = self.table.lock();
        let mut emptied = false;
        for id in ids {
            emptied |= table.remove(*id);
        }
        drop(table);
        if emptied {
            self.look_at_files(None);
            // Who waits for a cut that lets files go looks again.
            self.starved.notify_waiters();
        }
    }

    /// These extents are dead or in the vault, and an index that is safe up to `position` knows: the journal need not keep
    /// their bytes once it is. (Without the store nothing else tells a mount where they are: E4.)
    pub fn release_at(&self, position: Position, ids: Vec<ExtentId>) {
        if ids.is_empty() {
            return;
        }
        {
            let mut queue = self.queue.lock();
            if queue.indexed < position {
                queue.leaving.push_back((position, ids));
                return;
            }
        }
        self.release(&ids);
    }

    /// The low-water mark moved to `cut`: files that lie below it and hold no unreleased extent are dropped, oldest
    /// first (J5). Append `Note::Took` of the commit that has this cut, and wait until it is durable, before.
    pub fn committed(&self, cut: Position) {
        let durable = self.durable().0;
        let told = {
            let mut queue = self.queue.lock();
            let told = queue.took.iter().filter(|(at, _)| *at <= durable).map(|(_, cut)| *cut).max();
            queue.took.retain(|(at, _)| *at > durable);
            queue.took_cut = queue.took_cut.max(told.unwrap_or_default());
            queue.took_cut
        };
        assert!(cut <= told, "J5: no durable record says that the vault took the history up to {cut}, only {told}");
        self.look_at_files(Some(cut));
    }

    /// The index is safe up to this position, or needs the journal no more: files before it may go (J5).
    pub fn indexed(&self, position: Position) {
        let mut leaving = Vec::new();
        {
            let mut queue = self.queue.lock();
            queue.indexed = position;
            while queue.leaving.front().is_some_and(|(at, _)| *at <= position) {
                leaving.extend(queue.leaving.pop_front().into_iter().flat_map(|(_, ids)| ids));
            }
        }
        self.release(&leaving);
        self.look_at_files(None);
    }

    fn look_at_files(&self, cut: Option<Position>) {
        let mut queue = self.queue.lock();
        queue.cut = queue.cut.max(cut.unwrap_or_default());
        queue.cut_moved = true;
        drop(queue);
        self.wake.notify_one();
    }

    /// Asks for a group commit without waiting for it.
    pub fn hurry(&self) {
        let mut queue = self.queue.lock();
        queue.wanted = queue.end;
        drop(queue);
        self.wake.notify_one();
    }

    /// Returns when the durable end is beyond `position`; never, once the journal is closed.
    pub async fn durable_end_after(&self, position: Position) {
        let mut progress = self.progress.subscribe();
        if progress.wait_for(|progress| progress.position > position).await.is_err() {
            std::future::pending().await
        }
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        let (files, side) = self.table.lock().disk_bytes();
        files + side
    }

    /// The writer: seals blocks, writes, fdatasyncs. Runs until `close`; the mount gives it a thread of its own.
    pub async fn run(self: Arc<Self>) {
        let writer = self.writer.lock().take().expect("a journal has one writer, run once");
        // Run once, so set once.
        let _ = self.runtime.set(Handle::current());
        let _ended = Ended(&self);
        writer.run(&self).await;
    }

    /// Runs what follows on the durable end where the writer runs: between the fdatasync and who waited for it, no other
    /// thread has to wake. It does not wait for anything else, and nothing of it runs while the disk blocks the writer.
    /// Dropped when the journal is closed.
    pub fn follow(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.runtime.get() {
            Some(runtime) => drop(runtime.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// Makes everything durable and begins a new file, so that those before it can go as soon as vault and index have
    /// what they hold. Returns when that is done; on a disk that refuses, nothing comes of it.
    pub async fn begin_file(&self) {
        let (begun, done) = oneshot::channel();
        self.queue.lock().begin = Some(begun);
        self.wake.notify_one();
        self.unless_it_fails(done).await;
    }

    /// Waits for the writer; not for one whose disk refuses, or that ended.
    async fn unless_it_fails(&self, done: oneshot::Receiver<()>) {
        let mut progress = self.progress.subscribe();
        tokio::select! {
            biased;
            _ = done => {}
            _ = progress.wait_for(|progress| progress.closed || progress.failing.is_some()) => {}
        }
    }

    /// Ends the writer after a last group commit. An error says that not everything became durable.
    pub async fn close(&self) -> Result<(), JournalError> {
        let end = {
            let mut queue = self.queue.lock();
            queue.closing = true;
            queue.end
        };
        self.wake.notify_one();
        let mut progress = self.progress.subscribe();
        let closed = progress.wait_for(|progress| progress.closed).await;
        match closed {
            Ok(progress) if progress.position >= end => Ok(()),
            _ => Err(self.failing().unwrap_or(JournalError::Closed)),
        }
    }

    /// A new file begins above this many bytes: early enough that the journal's room is never all in one file, which
    /// is dropped as a whole.
    fn file_bytes(&self) -> u64 {
        let most = self.settings.file_bytes.min(self.settings.disk_bytes / 4);
        most.min((self.disk_bytes().saturating_add(self.disk_room()) / 8).max(FILE_LEAST))
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Where durable blocks end, from the first one behind `position` on. Those before it are forgotten.
    pub fn ends_after(&self, position: Position) -> Vec<BlockRef> {
        let mut queue = self.queue.lock();
        while queue.ends.front().is_some_and(|end| end.position <= position) {
            queue.ends.pop_front();
        }
        queue.ends.iter().copied().collect()
    }

    /// The writer tells that the durable end moved: to the last of these, if any. Memory of this weight is free.
    fn tell_durable(&self, position: Position, block: Option<BlockRef>, blocks: &[Block]) {
        {
            let mut queue = self.queue.lock();
            queue.held = queue.held.saturating_sub(blocks.iter().map(|block| block.weight).sum());
            let ends = blocks.iter().filter_map(|block| block.keys.first().copied());
            queue.ends.extend(ends);
            // Where nobody asks for them: the newest ones will do.
            let surplus = queue.ends.len().saturating_sub(ENDS);
            queue.ends.drain(..surplus);
        }
        self.progress.send_modify(|progress| {
            progress.position = progress.position.max(position);
            progress.block = block;
        });
        self.room.notify_waiters();
    }

    fn note_failure(&self, why: JournalError) -> u64 {
        self.progress.send_modify(|progress| progress.failing = Some(why));
        self.failures.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn clear_failure(&self) {
        self.progress.send_modify(|progress| progress.failing = None);
    }

    /// How often the disk refused a write, an fdatasync or a new file since the mount.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}
