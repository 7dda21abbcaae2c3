//! The writer: takes queued changes, seals them as blocks, writes and fdatasyncs (J1, J2), begins new files (J4), drops
//! old ones (J5). One task, which the mount gives a thread of its own: its disk calls block.
//!
//! Owns the current file, and every block that the durable end does not cover yet. Does not own the queue (appenders
//! fill it) nor the table of extents (readers use it); it holds their locks for moments only, never over I/O.
//!
//! Invariant: what a failed write or fdatasync may have touched is written again in a new file, never synced again in
//! the old one. The durable end is told only after the fdatasync that covers it.
//!
//! On a full disk (J6) it gives back what it can before it tries again: the reserve, what it wrote behind the durable
//! end, old files; and it goes on with as many blocks as fit, for the first of them may be what frees the next file.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use super::block::{Block, BlockExtent};
use super::extents::FileState;
use super::file::{self, Header, NotMade, Place, Put, Tail};
use super::side::Side;
use super::staged::{self, Staging};
use super::{Journal, Queue, Queued, SealedExtent, io_error};
use crate::base::disk;
use crate::base::{FileId, ObjectId, Position, plants};
use crate::format::commit::BlockRef;

/// How long a change waits in the queue for others to share its block (J1).
const GATHER_TIME: Duration = Duration::from_millis(10);
/// Changes of so many bytes (by estimate) fill a block (J1).
const BLOCK_CHANGES: u64 = 64 * 1024;
/// Extents of so many bytes fill a block: one torn block then costs no more than that.
const BLOCK_EXTENTS: u64 = 8 * 1024 * 1024;
/// Extents of so many bytes wake the writer at once.
const QUEUE_EXTENTS: u64 = 4 * 1024 * 1024;
/// Back-off while the disk refuses: doubles from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest back-off on a full disk: somebody is freeing space.
const FULL_BACK_OFF: Duration = Duration::from_secs(1);
/// On a disk that is nearly full, what a new file may need beside its blocks.
const FILE_OVERHEAD: u64 = 64 * 1024;
/// One in so many failures is logged.
const LOG_EVERY: u64 = 12;
/// At close, how long the disk may refuse before the rest is given up: as long as anybody waits for it.
const CLOSING_TIME: Duration = super::WAIT_LIMIT;

pub(super) struct Writer {
    place: Place,
    tail: Tail,
    /// Written in the current file, not durable. After a failed write they are there in part, or not at all.
    unsynced: Vec<Block>,
    /// To be written after those: taken from the queue, or only in a file that failed.
    unwritten: VecDeque<Block>,
    side: Side,
    staging: Staging,
    /// Staged files of journal files that were dropped.
    staged_gone: Vec<ObjectId>,
    /// Extent bytes in `unsynced`, and an estimate of its changes.
    unsynced_weight: u64,
    /// When the oldest of `unsynced` was written.
    unsynced_since: Instant,
    durable: Position,
    durable_block: Option<BlockRef>,
    /// A removal that no fsync of the directory has covered (J5).
    dir_unsynced: bool,
}

/// What wakes the writer.
enum Due {
    At(Instant),
    Now,
    /// Nothing is to be done before somebody calls.
    Never,
}

impl Writer {
    pub fn new(place: Place, tail: Tail, durable: Position, durable_block: Option<BlockRef>) -> Writer {
        Writer {
            place,
            tail,
            unsynced: Vec::new(),
            unwritten: VecDeque::new(),
            side: Side::default(),
            staging: Staging::default(),
            staged_gone: Vec::new(),
            unsynced_weight: 0,
            unsynced_since: Instant::now(),
            durable,
            durable_block,
            dir_unsynced: false,
        }
    }

    pub async fn run(mut self, journal: &Journal) {
        loop {
            self.wait_for_work(journal).await;
            let queued = journal.queue.lock().take();
            self.unwritten.extend(into_blocks(queued.changes));
            let mut result = self.write(journal);
            let stopping = queued.closing;
            let overdue = !self.unsynced.is_empty() && self.unsynced_since.elapsed() >= journal.settings.sync_interval;
            let waited_for = queued.wanted > self.durable || stopping;
            if result.is_ok()
                && (waited_for || overdue || self.unsynced_weight >= journal.settings.sync_bytes)
                && !self.unsynced.is_empty()
            {
                result = self.sync(journal);
            }
            if result.is_ok() && !queued.close.is_empty() {
                result = self.sync(journal).and_then(|()| self.close_staged(journal));
            }
            if result.is_ok() && (queued.begin.is_some() || self.file_len(journal) >= journal.file_bytes()) {
                result = self
                    .sync(journal)
                    .and_then(|()| self.close_staged(journal))
                    .and_then(|()| self.begin_file(journal));
            }
            // Nobody may wait any more.
            queued.begin.into_iter().chain(queued.close).for_each(|tell| _ = tell.send(()));
            if let Err(why) = result
                && !self.start_over(journal, why).await
            {
                return;
            }
            self.make_room(journal);
            journal.reserve.make();
            if stopping && journal.queue.lock().changes.is_empty() {
                return;
            }
        }
    }

    async fn wait_for_work(&self, journal: &Journal) {
        loop {
            let woken = journal.wake.notified();
            match self.due(journal) {
                Due::Now => return,
                Due::Never => woken.await,
                Due::At(when) if when <= Instant::now() => return,
                Due::At(when) => {
                    tokio::select! {
                        biased;
                        () = woken => {}
                        () = tokio::time::sleep_until(when) => return,
                    }
                }
            }
        }
    }

    fn due(&self, journal: &Journal) -> Due {
        let queue = journal.queue.lock();
        let asked = queue.closing || queue.begin.is_some() || !queue.close.is_empty();
        if asked || queue.wanted > self.durable || queue.cut_moved || full(&queue) {
            return Due::Now;
        }
        let gather = (!queue.changes.is_empty()).then(|| queue.since + GATHER_TIME);
        let sync = (!self.unsynced.is_empty()).then(|| self.unsynced_since + journal.settings.sync_interval);
        match gather.into_iter().chain(sync).min() {
            Some(when) => Due::At(when),
            None => Due::Never,
        }
    }

    /// Seals and writes what was taken. On an error it is all in `unsynced` none the less.
    fn write(&mut self, journal: &Journal) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        if self.unsynced.is_empty() {
            self.unsynced_since = Instant::now();
        }
        let weight = self.unwritten.iter().map(|block| block.weight).sum::<u64>();
        if weight > journal.free_bytes() {
            // Better now than by failing.
            journal.use_reserve();
        }
        self.unsynced_weight += weight;
        let from = self.unsynced.len();
        self.unsynced.extend(self.unwritten.drain(..));
        self.stage(journal, from)?;
        let puts = self.tail.append(&self.place, self.durable, self.unsynced[from..].iter())?;
        put_all(&mut self.unsynced[from..], puts);
        self.tell_written(journal);
        Ok(())
    }

    /// Writes the bulk extents of these blocks to staged files.
    fn stage(&mut self, journal: &Journal, from: usize) -> io::Result<()> {
        let bulk = |extent: &&mut BlockExtent| extent.bytes.len() >= journal.settings.stage_least;
        for extent in self.unsynced[from..].iter_mut().flat_map(|block| &mut block.extents).filter(bulk) {
            if let Some(begun) = self.staging.begin(&self.place, extent.bytes.len())? {
                journal.table.lock().staging(self.tail.name.generation, begun);
            }
            let staged = self.staging.put(&extent.bytes)?;
            journal.table.lock().staged_more(staged.file, extent.bytes.len() as u64);
            extent.staged = Some(staged);
        }
        Ok(())
    }

    /// The open staged file is one that may travel from now on.
    fn close_staged(&mut self, journal: &Journal) -> io::Result<()> {
        match self.staging.close(&self.place) {
            // Its extents travel by themselves, then. All of them are durable: whoever closes it has synced before.
            Err(why) if disk::is_full(why.kind()) => self.leave_staged(journal, true),
            closed => closed?,
        }
        self.sync_staged(journal)
    }

    fn leave_staged(&mut self, journal: &Journal, full: bool) {
        let left = self.staging.leave(full);
        let mut table = journal.table.lock();
        left.into_iter().for_each(|(id, len)| table.staged_left(id, len));
    }

    fn sync_staged(&mut self, journal: &Journal) -> io::Result<()> {
        let closed = self.staging.sync(&self.place)?;
        let mut table = journal.table.lock();
        closed.into_iter().for_each(|(id, len)| table.staged_closed(id, len));
        Ok(())
    }

    /// The current file's bytes, those of its staged files included.
    fn file_len(&self, journal: &Journal) -> u64 {
        self.tail.len + journal.table.lock().staged_bytes_of(self.tail.name.generation)
    }

    /// How long the current file is, and what waits to be written.
    fn tell_written(&self, journal: &Journal) {
        journal.table.lock().set_len(self.tail.name.generation, self.tail.len);
        journal.queue.lock().behind = self.unwritten.iter().map(|block| block.weight).sum();
        journal.disk_changed();
    }

    fn sync(&mut self, journal: &Journal) -> io::Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        self.sync_staged(journal)?;
        if let Err(why) = self.tail.file.sync_data() {
            if !plants::on("J4-retry-fdatasync") {
                return Err(why);
            }
            self.tail.file.sync_data()?;
        }
        self.tail.durable_len = self.tail.len;
        self.settle(journal);
        Ok(())
    }

    /// Everything in `unsynced` is durable in the current file.
    fn settle(&mut self, journal: &Journal) {
        let blocks = mem::take(&mut self.unsynced);
        self.unsynced_weight = 0;
        if let Some(last) = blocks.last() {
            self.durable = last.position();
            self.durable_block = last.keys.first().copied();
        }
        {
            let mut table = journal.table.lock();
            blocks.iter().for_each(|block| table.settle(block, self.tail.name.generation));
        }
        journal.tell_durable(self.durable, self.durable_block, &blocks);
    }

    /// A new file that continues the durable end and holds again what lies above it.
    fn begin_file(&mut self, journal: &Journal) -> io::Result<()> {
        let header = Header {
            generation: journal.next_generation(),
            id: FileId(self.place.random.bytes()),
            base: self.durable_block,
            rewritten: self.unsynced.last().map_or(self.base_position(), Block::position),
            floor: self.unsynced.last().map_or(self.durable, Block::position),
        };
        let (tail, puts) = file::make(&self.place, &header, &self.unsynced).map_err(|e| self.not_made(journal, e))?;
        put_all(&mut self.unsynced, puts);
        journal.table.lock().add_file(file_state(&tail, &header));
        self.tail = tail;
        self.dir_unsynced = false;
        self.tell_written(journal);
        self.settle(journal);
        Ok(())
    }

    /// As [`Writer::begin_file`], with as many of the blocks that are to be written as fit the disk, but at least one.
    fn begin_file_again(&mut self, journal: &Journal, full: bool) -> io::Result<()> {
        let room = if full { journal.free_bytes().saturating_sub(FILE_OVERHEAD) } else { u64::MAX };
        let weights = self.unwritten.iter().scan(0, |sum: &mut u64, block| {
            *sum += block.weight;
            Some(*sum)
        });
        let fit = weights.take_while(|sum| *sum <= room).count().max(1).min(self.unwritten.len());
        self.unsynced = self.unwritten.drain(..fit).collect();
        let result = self.begin_file(journal);
        if result.is_err() {
            self.take_back();
        }
        result
    }

    /// Nothing that is not durable is believed to be written any more.
    fn take_back(&mut self) {
        for mut block in self.unsynced.drain(..).rev() {
            block.extents.iter_mut().for_each(|extent| extent.staged = None);
            self.unwritten.push_front(block);
        }
        self.unsynced_weight = 0;
    }

    fn base_position(&self) -> Position {
        self.durable_block.map_or(Position(0), |block| block.position)
    }

    /// A file that stands though it was not finished is dropped in its turn like the others; nothing is read from it.
    fn not_made(&self, journal: &Journal, failed: NotMade) -> io::Error {
        if failed.stands
            && let Ok(file) = self.place.disk.open(&failed.path)
        {
            let bytes = file.len().unwrap_or(0);
            let (generation, path, base) = (failed.generation, failed.path, self.base_position());
            let staged = Vec::new();
            journal.table.lock().add_file(FileState { generation, path, file, bytes, base, live: 0, staged });
        }
        failed.why
    }

    /// J4: the disk failed. Tries new files, with back-off, until they have taken everything above the durable end.
    /// False if the journal is being closed and the disk refused for too long.
    async fn start_over(&mut self, journal: &Journal, mut why: io::Error) -> bool {
        let mut closing: Option<Instant> = None;
        let mut back_off = BACK_OFF.0;
        loop {
            let full = disk::is_full(why.kind());
            self.take_back();
            self.leave_tail(journal, full);
            let failures = journal.note_failure(io_error(&self.tail.path, &why));
            if failures % LOG_EVERY == 1 {
                log::error!(
                    "the journal's disk failed ({why}; {failures} failures so far): what is not durable is kept in \
                     memory and written again in a new file; free space or check the disk"
                );
            }
            why = match self.begin_file_again(journal, full) {
                Ok(()) => {
                    back_off = BACK_OFF.0;
                    match self.write(journal).and_then(|()| self.sync(journal)) {
                        Ok(()) => {
                            log::info!("the journal goes on in a new file");
                            journal.clear_failure();
                            return true;
                        }
                        Err(why) => why,
                    }
                }
                Err(why) => why,
            };
            if journal.queue.lock().closing && closing.get_or_insert_with(Instant::now).elapsed() >= CLOSING_TIME {
                return false;
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(if disk::is_full(why.kind()) { FULL_BACK_OFF } else { BACK_OFF.1 });
        }
    }

    /// The current file failed. What it holds behind the durable end is in memory, nobody was told that it is safe, and
    /// a new file will supersede it (J4): on a full disk it is cut off. Else its room is reckoned with until it goes.
    fn leave_tail(&mut self, journal: &Journal, full: bool) {
        let cut = full && self.tail.file.set_len(self.tail.durable_len).is_ok();
        if let Some(len) = if cut { Some(self.tail.durable_len) } else { self.tail.file.len().ok() } {
            self.tail.len = len;
        }
        self.leave_staged(journal, full);
        self.tell_written(journal);
        if full {
            journal.use_reserve();
            self.make_room(journal);
        }
    }

    /// Lets go of what the journal need not keep on the disk (J5, J6).
    fn make_room(&mut self, journal: &Journal) {
        let cut = journal.queue.lock().droppable();
        self.drop_files(journal, cut);
        while journal.pressed() {
            match self.empty_oldest(journal, cut) {
                Ok(true) => self.drop_files(journal, cut),
                Ok(false) => break,
                Err(why) => {
                    log::debug!("a journal file that unlinked files hold stays for now: {why}");
                    break;
                }
            }
        }
        self.punch_side(journal);
    }

    /// Moves what alone keeps the oldest file from being dropped out of it. False if nothing does, or something else.
    fn empty_oldest(&mut self, journal: &Journal, cut: Position) -> io::Result<bool> {
        let Some(held) = journal.table.lock().held_by_oldest(cut) else { return Ok(false) };
        let mut bytes = Vec::new();
        for (id, place) in held {
            let Some((_, file)) = journal.file_of(&place) else { continue };
            bytes.resize(place.len as usize, 0);
            file?.read_at(&mut bytes, place.offset)?;
            let (side, at) = self.side.put(&self.place, &bytes)?;
            journal.table.lock().move_to_side(id, side, at, place.len);
        }
        journal.disk_changed();
        Ok(true)
    }

    fn punch_side(&mut self, journal: &Journal) {
        let mut table = journal.table.lock();
        if table.side().is_none() {
            return;
        }
        let Some(holes) = table.take_side_holes() else {
            self.side.clear();
            drop(table);
            journal.disk_changed();
            journal.room.notify_waiters();
            return;
        };
        drop(table);
        let freed = self.side.free(&holes);
        if freed > 0 {
            journal.table.lock().side_freed(freed);
            journal.disk_changed();
            journal.room.notify_waiters();
        }
    }

    /// J5: oldest first, the directory fsynced before the next one goes, so that what a power cut brings back is always
    /// the newest of them.
    fn drop_files(&mut self, journal: &Journal, cut: Position) {
        if !self.staged_gone.is_empty() && self.sync_dir().is_ok() {
            self.remove_staged(journal);
        }
        loop {
            let Some(path) = journal.table.lock().droppable(cut).map(|file| file.path.clone()) else { return };
            if let Err(why) = self.drop_file(journal, &path) {
                log::warn!("a journal file that is no longer needed stays for now: {why}");
                return;
            }
        }
    }

    fn drop_file(&mut self, journal: &Journal, path: &str) -> io::Result<()> {
        if self.dir_unsynced {
            self.sync_dir()?;
        }
        match self.place.disk.remove(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => self.dir_unsynced = true,
        }
        self.staged_gone.extend(journal.table.lock().drop_oldest());
        journal.disk_changed();
        journal.room.notify_waiters();
        self.sync_dir()?;
        self.remove_staged(journal);
        Ok(())
    }

    /// The journal files to which they belong are gone for good.
    fn remove_staged(&mut self, journal: &Journal) {
        for id in self.staged_gone.drain(..) {
            let path = staged::path(&self.place.dir, id);
            match self.place.disk.remove(&path) {
                // The next mount removes it.
                Err(why) if why.kind() != io::ErrorKind::NotFound => log::warn!("{path}: stays for now: {why}"),
                _ => {}
            }
        }
        journal.disk_changed();
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        if plants::on("J5-drop-without-dir-sync") {
            return Ok(());
        }
        self.place.disk.sync_dir(&self.place.dir)?;
        self.dir_unsynced = false;
        Ok(())
    }
}

/// Enough is queued to be written at once.
pub(super) fn full(queue: &Queue) -> bool {
    queue.change_weight >= BLOCK_CHANGES || queue.extent_weight >= QUEUE_EXTENTS
}

pub(super) fn file_state(tail: &Tail, header: &Header) -> FileState {
    FileState {
        generation: tail.name.generation,
        path: tail.path.clone(),
        file: tail.file.clone(),
        bytes: tail.len,
        base: header.base_position(),
        live: 0,
        staged: Vec::new(),
    }
}

/// The blocks stand in a new place; where they stood before becomes an alias.
pub(super) fn put_all(blocks: &mut [Block], puts: Vec<Put>) {
    for (block, (key, body_at)) in blocks.iter_mut().zip(puts) {
        block.keys.insert(0, key);
        block.body_at = body_at;
    }
}

fn into_blocks(queued: Vec<Queued>) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut changes, mut extents) = (BLOCK_CHANGES, BLOCK_EXTENTS);
    for Queued { position, change, extents: brought, change_weight, extent_weight } in queued {
        if changes >= BLOCK_CHANGES || extents >= BLOCK_EXTENTS || blocks.is_empty() {
            (changes, extents) = (0, 0);
            let block =
                Block { first: position, changes: vec![], extents: vec![], keys: vec![], body_at: 0, weight: 0 };
            blocks.push(block);
        }
        let block = blocks.last_mut().expect("one was pushed before the first change");
        changes += change_weight;
        extents += extent_weight;
        block.weight += change_weight + extent_weight;
        block.changes.push(change);
        let brought = brought.into_iter();
        block.extents.extend(brought.map(|SealedExtent { id, bytes, hash, .. }| BlockExtent {
            id,
            bytes,
            hash,
            staged: None,
        }));
    }
    blocks
}
