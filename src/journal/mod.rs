//! The journal: append-only local files of sealed changes and small extents; the only local truth (J1 to J5, J7).

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::base::disk::Disk;
use crate::base::{ExtentId, Position, Random};
use crate::format::change::Change;
use crate::format::commit::{BlockRef, ChainLink};
use crate::format::keys::Keys;
use crate::format::record::Extent;

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
    /// What all files may hold; `reserve` waits above it.
    pub disk_bytes: u64,
}

/// What lies in a state directory, read back (J3, J4).
pub struct Recovered {
    /// Every intact change in order, the torn tail cut off.
    pub changes: Vec<(Position, Arc<Change>)>,
    /// Every block that counts, aliases included, and those that a file header continues: what C4 asks for.
    pub blocks: HashSet<BlockRef>,
    /// The newest log object that a `Note::Took` names.
    pub took: Option<(ChainLink, Option<Position>)>,
    /// The last position, 0 if the journal is empty.
    pub end: Position,
    /// The last block, if any.
    pub last: Option<BlockRef>,
    // ... and what `Journal::resume` needs, private.
}

pub struct Journal {}

impl Journal {
    /// Reads what `dir` holds. `named` is the durable end that own log objects name (J3).
    pub fn recover(
        _disk: Arc<dyn Disk>,
        _dir: &str,
        _keys: Arc<Keys>,
        _named: Position,
    ) -> Result<Recovered, JournalError> {
        todo!()
    }

    /// Goes on after what was recovered: fdatasyncs it, begins a new file, writes again what is above the durable end
    /// (J4). Positions start above `above` (J3).
    pub fn resume(
        _recovered: Recovered,
        _random: Random,
        _settings: Settings,
        _above: Position,
    ) -> Result<Arc<Journal>, JournalError> {
        todo!()
    }

    /// Moves everything in `dir` to `aside` (a foreign writer took over); returns whether there was anything.
    pub fn set_aside(_disk: &dyn Disk, _dir: &str, _aside: &str) -> Result<bool, JournalError> {
        todo!()
    }

    /// Appends one change, with the extents that it brings; returns its position. Memory only, microseconds: the
    /// caller holds the history mutex.
    pub fn append(&self, _change: Arc<Change>, _extents: Vec<SealedExtent>) -> Position {
        todo!()
    }

    /// Waits until there is room for `bytes` of extents in memory and on disk.
    pub async fn reserve(&self, _bytes: u64) -> Result<(), JournalError> {
        todo!()
    }

    /// The last position appended.
    pub fn end(&self) -> Position {
        todo!()
    }

    /// The durable end, and the block that ends there (`None` before the first).
    pub fn durable(&self) -> (Position, Option<BlockRef>) {
        todo!()
    }

    /// Asks for a group commit and waits until `position` is durable.
    pub async fn wait_durable(&self, _position: Position) -> Result<(), JournalError> {
        todo!()
    }

    /// Sealed bytes of an extent that this journal still holds (memory or file); `None` if it does not hold it.
    pub fn read(&self, _id: ExtentId, _range: Range<u32>) -> Option<Result<Bytes, JournalError>> {
        todo!()
    }

    /// These extents are dead or in the vault: the journal need not keep their bytes.
    pub fn release(&self, _ids: &[ExtentId]) {
        todo!()
    }

    /// The low-water mark moved to `cut`: files that lie below it and hold no unreleased extent are dropped, oldest
    /// first (J5).
    pub fn committed(&self, _cut: Position) {
        todo!()
    }

    /// Is there room for this many bytes now?
    pub fn has_room(&self, _bytes: u64) -> bool {
        todo!()
    }

    /// Asks for a group commit without waiting for it.
    pub fn hurry(&self) {
        todo!()
    }

    /// Above half of what it may hold on disk.
    pub fn pressed(&self) -> bool {
        todo!()
    }

    /// Returns when the durable end is beyond `position`.
    pub async fn durable_end_after(&self, _position: Position) {
        todo!()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        todo!()
    }

    /// The writer: seals blocks, writes, fdatasyncs. Runs until `close`; the mount gives it a thread of its own.
    pub async fn run(self: Arc<Self>) {
        todo!()
    }

    /// Ends the writer after a last group commit.
    pub async fn close(&self) -> Result<(), JournalError> {
        todo!()
    }
}
