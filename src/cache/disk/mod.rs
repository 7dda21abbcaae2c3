//! The disk cache: sealed blocks of the store's objects on this machine's disk, so that what was read once is not fetched
//! again, after a remount neither.
//!
//! Blocks lie in slots of a few equal files (`slab`), are overwritten in place, and are found by an index in memory,
//! made at mount from the files' tables: 8 KiB read for 16 MiB, 64 files for a GiB. So the bound is exact, the block
//! that was not used for longest goes alone, nothing is ever moved, and space returns in whole files.
//!
//! Owns the directory `cache` of the state directory. Holds ciphertext only, as the store has it: object names are
//! random, nothing tells of files. Does not own whether bytes are right: who opens them tells ([`SealedCache`]).
//!
//! Invariants
//! - Nobody who reads from the drive waits for a write here: one thread writes, what it has no time for is not kept.
//! - An error of this disk turns the cache off and is told once; nothing else depends on it. So does a full disk, which
//!   gets all of it back.
//! - It grows only while a reserve stays free on the disk, and gives files back when the reserve is used.
//! - A slot that is being written is in no index, so who reads a block reads that block, or notices.

mod slab;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::base::ObjectId;
use crate::base::disk::{self, Disk};
use crate::base::sizes::READ_GRID;
use crate::download::sealed_cache::SealedCache;
use slab::{Line, SLAB_BYTES, SLOTS, Slab};

/// In the state directory.
pub const DIR: &str = "cache";
/// The least that is of use: two files.
pub const LEAST: u64 = 2 * SLAB_BYTES;
/// Blocks that wait to be written, at most: 8 MiB.
const WAITING: usize = 128;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What it may take of the disk.
    pub bytes: u64,
    /// What it leaves free on the disk for others.
    pub reserve: u64,
    /// Writing has a thread of its own; else it is done where it is asked for.
    pub thread: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Sealed bytes that are kept.
    pub bytes: u64,
    /// Blocks found, and not found.
    pub hits: u64,
    pub misses: u64,
}

pub struct DiskCache {
    shared: Arc<Shared>,
    /// Dropped, it ends the thread. `None` where there is none.
    jobs: Option<SyncSender<Job>>,
}

enum Job {
    Put(Name, Vec<u8>),
    /// Tells when all before it is done.
    Finish(SyncSender<()>),
}

type Name = (ObjectId, u32);

#[derive(Clone, Copy)]
struct Place {
    slab: u32,
    slot: u16,
    len: u32,
    stamp: u64,
    /// Somebody was given it.
    given: bool,
}

struct Shared {
    disk: Arc<dyn Disk>,
    settings: Settings,
    state: Mutex<State>,
    /// Held by whoever writes: one at a time.
    writing: Mutex<()>,
    off: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Default)]
struct State {
    slabs: BTreeMap<u32, Slab>,
    index: Index,
    free: BTreeSet<(u32, u16)>,
    bytes: u64,
    stamp: u64,
}

/// Last used first.
struct Index(LruCache<Name, Place>);

impl Default for Index {
    fn default() -> Index {
        Index(LruCache::unbounded())
    }
}

impl DiskCache {
    /// Opens what a mount before has left. `None` if it is not wanted, or cannot be had: the log tells why.
    pub fn open(disk: Arc<dyn Disk>, settings: Settings) -> Option<Arc<DiskCache>> {
        let opened = match settings.bytes < LEAST {
            true => remove_all(&*disk).map(|()| None),
            false => load(&*disk, settings).map(Some),
        };
        let state = match opened {
            Ok(state) => state?,
            Err(error) => {
                log::warn!("there is no disk cache on this mount: {error}");
                return None;
            }
        };
        let shared = Arc::new(Shared {
            disk,
            settings,
            state: Mutex::new(state),
            writing: Mutex::new(()),
            off: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        });
        let jobs = if settings.thread { start(shared.clone()) } else { None };
        if settings.thread && jobs.is_none() {
            return None;
        }
        Some(Arc::new(DiskCache { shared, jobs }))
    }

    pub fn counts(&self) -> Counts {
        Counts {
            bytes: self.shared.state.lock().bytes,
            hits: self.shared.hits.load(Ordering::Relaxed),
            misses: self.shared.misses.load(Ordering::Relaxed),
        }
    }

    /// Gives space back while the disk is short of it. `all`: whoever matters more found it full.
    pub fn make_room(&self, all: bool) {
        let shared = &*self.shared;
        if shared.off.load(Ordering::Relaxed) {
            return;
        }
        while !shared.state.lock().slabs.is_empty() {
            let short = all || shared.disk.free(DIR).is_ok_and(|free| free < shared.settings.reserve);
            if !short {
                return;
            }
            if let Err(error) = shared.shrink() {
                return shared.turn_off(&error);
            }
        }
    }

    /// All that waited is written, and in which order blocks were used: for the next mount. Blocks its thread for a moment.
    pub fn finish(&self) {
        match &self.jobs {
            None => self.shared.save_order(),
            Some(jobs) => {
                let (tell, told) = sync_channel(1);
                // An error means that the thread is gone: then there is nothing to wait for.
                if jobs.send(Job::Finish(tell)).is_ok() {
                    let _ = told.recv();
                }
            }
        }
    }
}

impl SealedCache for DiskCache {
    fn get(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        let found = self.shared.get(&(object, block), true);
        let count = if found.is_some() { &self.shared.hits } else { &self.shared.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn peek(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        self.shared.get(&(object, block), false)
    }

    fn put(&self, object: ObjectId, block: u32, bytes: &[u8]) {
        if bytes.is_empty() || bytes.len() > READ_GRID || self.holds(object, block) {
            return;
        }
        match &self.jobs {
            None => self.shared.put((object, block), bytes),
            // Full: it is not kept this time.
            Some(jobs) => _ = jobs.try_send(Job::Put((object, block), bytes.to_vec())),
        }
    }

    fn holds(&self, object: ObjectId, block: u32) -> bool {
        self.shared.state.lock().index.0.contains(&(object, block))
    }

    fn forget(&self, object: ObjectId, block: u32) -> bool {
        self.shared.forget(&(object, block))
    }
}

/// The thread that writes. It ends when the cache is dropped.
fn start(shared: Arc<Shared>) -> Option<SyncSender<Job>> {
    let (sender, jobs) = sync_channel(WAITING);
    let work = move || {
        for job in jobs {
            match job {
                Job::Put(name, bytes) => shared.put(name, &bytes),
                Job::Finish(tell) => {
                    shared.save_order();
                    let _ = tell.send(());
                }
            }
        }
    };
    match std::thread::Builder::new().name("dripfs-blocks".to_owned()).spawn(work) {
        Ok(_) => Some(sender),
        Err(error) => {
            log::warn!("there is no disk cache on this mount: no thread for it: {error}");
            None
        }
    }
}

fn name_of(slab: u32) -> String {
    format!("{DIR}/{slab:06}")
}

fn remove_all(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list(DIR)? {
        disk.remove(&format!("{DIR}/{name}"))?;
    }
    Ok(())
}

/// What the files say that there is. Files that are none of ours, or too many, are removed.
fn load(disk: &dyn Disk, settings: Settings) -> io::Result<State> {
    disk.create_dir(DIR)?;
    let mut state = State::default();
    let mut lines: Vec<(u32, u16, Line)> = Vec::new();
    for name in disk.list(DIR)? {
        let path = format!("{DIR}/{name}");
        let number = name.parse::<u32>().ok().filter(|number| name_of(*number) == path);
        let wanted = number.filter(|_| (state.slabs.len() as u64 + 1) * SLAB_BYTES <= settings.bytes);
        let opened = match wanted {
            Some(number) => Slab::open(disk.open(&path)?)?.map(|opened| (number, opened)),
            None => None,
        };
        let Some((number, (slab, held))) = opened else {
            disk.remove(&path)?;
            continue;
        };
        state.slabs.insert(number, slab);
        state.free.extend((0..SLOTS).map(|slot| (number, slot)));
        lines.extend(held.into_iter().map(|(slot, line)| (number, slot, line)));
    }
    lines.sort_by_key(|(slab, slot, line)| (line.stamp, *slab, *slot));
    for (slab, slot, Line { object, block, len, stamp }) in lines {
        state.free.remove(&(slab, slot));
        state.insert((object, block), Place { slab, slot, len, stamp, given: false });
    }
    Ok(state)
}

impl State {
    fn insert(&mut self, name: Name, place: Place) {
        self.remove(&name);
        self.bytes += u64::from(place.len);
        self.stamp = self.stamp.max(place.stamp);
        self.index.0.put(name, place);
    }

    fn remove(&mut self, name: &Name) -> Option<Place> {
        let place = self.index.0.pop(name)?;
        self.bytes -= u64::from(place.len);
        self.free.insert((place.slab, place.slot));
        Some(place)
    }

    /// A slot that nothing points to any more.
    fn take_slot(&mut self) -> Option<(u32, u16)> {
        if self.free.is_empty() {
            let (name, _) = self.index.0.peek_lru()?;
            let name = *name;
            self.remove(&name);
        }
        self.free.pop_first()
    }
}

impl Shared {
    /// `uses`: whoever asks uses it, so it goes later.
    fn get(&self, name: &Name, uses: bool) -> Option<Bytes> {
        let (place, slab) = {
            let mut state = self.state.lock();
            let place = if uses { *state.index.0.get(name)? } else { *state.index.0.peek(name)? };
            (place, state.slabs.get(&place.slab)?.clone())
        };
        let read = slab.read(place.slot, place.len as usize);
        let mut state = self.state.lock();
        // The slot may have been given to another block meanwhile.
        let still = state.index.0.peek_mut(name).filter(|now| now.stamp == place.stamp)?;
        match read {
            Ok(bytes) => {
                still.given = true;
                Some(bytes.into())
            }
            Err(error) => {
                drop(state);
                // Cut short by a crash: that block alone is lost.
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => _ = self.forget(name),
                    _ => self.turn_off(&error),
                }
                None
            }
        }
    }

    fn put(&self, name: Name, bytes: &[u8]) {
        let _alone = self.writing.lock();
        if self.off.load(Ordering::Relaxed) || self.state.lock().index.0.contains(&name) {
            return;
        }
        if let Err(error) = self.write(name, bytes) {
            self.turn_off(&error);
        }
    }

    fn write(&self, name: Name, bytes: &[u8]) -> io::Result<()> {
        self.grow()?;
        let (slab, slot, stamp) = {
            let mut state = self.state.lock();
            let Some((number, slot)) = state.take_slot() else { return Ok(()) };
            state.stamp += 1;
            match state.slabs.get(&number) {
                Some(slab) => ((number, slab.clone()), slot, state.stamp),
                None => return Ok(()),
            }
        };
        let len = bytes.len() as u32;
        slab.1.write(slot, bytes)?;
        slab.1.write_line(slot, Some(Line { object: name.0, block: name.1, len, stamp }))?;
        let mut state = self.state.lock();
        // Removed meanwhile, the slab takes the block along.
        if state.slabs.contains_key(&slab.0) {
            state.insert(name, Place { slab: slab.0, slot, len, stamp, given: false });
            state.free.remove(&(slab.0, slot));
        }
        Ok(())
    }

    /// Another file, if there is no slot left and both bounds allow it.
    fn grow(&self) -> io::Result<()> {
        let number = {
            let state = self.state.lock();
            let full = (state.slabs.len() as u64 + 1) * SLAB_BYTES > self.settings.bytes;
            if !state.free.is_empty() || full {
                return Ok(());
            }
            (0..).find(|number| !state.slabs.contains_key(number)).unwrap_or_default()
        };
        if self.disk.free(DIR)? < self.settings.reserve + SLAB_BYTES {
            return Ok(());
        }
        let slab = Slab::make(self.disk.create(&name_of(number))?)?;
        let mut state = self.state.lock();
        state.slabs.insert(number, slab);
        state.free.extend((0..SLOTS).map(|slot| (number, slot)));
        Ok(())
    }

    /// Removes the last file, and what is in it from the index.
    fn shrink(&self) -> io::Result<()> {
        let _alone = self.writing.lock();
        let mut state = self.state.lock();
        let Some((number, _)) = state.slabs.pop_last() else { return Ok(()) };
        let gone: Vec<Name> =
            state.index.0.iter().filter(|(_, place)| place.slab == number).map(|(name, _)| *name).collect();
        gone.iter().for_each(|name| _ = state.remove(name));
        state.free.retain(|(slab, _)| *slab != number);
        drop(state);
        self.disk.remove(&name_of(number))
    }

    fn forget(&self, name: &Name) -> bool {
        let _alone = self.writing.lock();
        let (place, slab) = {
            let mut state = self.state.lock();
            let Some(place) = state.remove(name) else { return false };
            (place, state.slabs.get(&place.slab).cloned())
        };
        if let Some(slab) = slab
            && let Err(error) = slab.write_line(place.slot, None)
        {
            self.turn_off(&error);
        }
        place.given
    }

    /// Writes into the tables when each block was used last.
    fn save_order(&self) {
        let _alone = self.writing.lock();
        let lines: Vec<(Slab, u16, Line)> = {
            let state = self.state.lock();
            let places = state.index.0.iter().rev().zip(1..);
            let line = |((object, block), place): (&Name, &Place), stamp| {
                let slab = state.slabs.get(&place.slab)?.clone();
                Some((slab, place.slot, Line { object: *object, block: *block, len: place.len, stamp }))
            };
            places.filter_map(|(held, stamp)| line(held, stamp)).collect()
        };
        for (slab, slot, line) in lines {
            if let Err(error) = slab.write_line(slot, Some(line)) {
                return self.turn_off(&error);
            }
        }
    }

    /// This disk is in no state to keep anything for convenience.
    fn turn_off(&self, error: &io::Error) {
        if self.off.swap(true, Ordering::Relaxed) {
            return;
        }
        log::warn!("the disk cache is off until the next mount: {error}");
        let slabs = {
            let mut state = self.state.lock();
            let empty = State { stamp: state.stamp, ..State::default() };
            std::mem::replace(&mut *state, empty).slabs
        };
        if disk::is_full(error.kind()) {
            for number in slabs.keys() {
                if let Err(error) = self.disk.remove(&name_of(*number)) {
                    log::debug!("a file of the disk cache stays: {error}");
                }
            }
        }
    }
}
