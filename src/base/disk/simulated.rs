//! A disk for tests: it knows what was synced, and forgets, tears and reorders the rest when its power is cut.
//!
//! Owns one in-memory tree of files, durable and current state side by side, and the faults that a test injects.
//! Pessimistic where POSIX leaves room: without `sync_data` any part of any write may be lost (each block of the disk by
//! itself, also where the file has grown already: zeros then), and writes may reach the platter in any order; without `sync_dir` each create, rename and remove is kept or lost by itself. Directories
//! themselves are durable at once (as `Disk::create_dir` promises). After a failed `sync_data`, what it should have
//! covered is never made durable by a later one: the kernel has dropped the error and marked the pages clean.
//! Everything follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, File};
use crate::base::random::Source;

/// A small seeded generator (splitmix64). For simulations only.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.throw() % bound }
    }

    /// True in `percent` of a hundred throws.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for k in (1..items.len()).rev() {
            items.swap(k, self.below(k as u64 + 1) as usize);
        }
    }
}

/// A seeded source for [`Random::Simulated`](crate::base::Random).
pub struct SeededBytes(Mutex<Dice>);

impl SeededBytes {
    pub fn new(seed: u64) -> SeededBytes {
        SeededBytes(Mutex::new(Dice::new(seed)))
    }
}

impl Source for SeededBytes {
    fn fill(&self, out: &mut [u8]) {
        let mut dice = self.0.lock();
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&dice.throw().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// What a disk writes as one.
const BLOCK: usize = 512;

/// A write that no successful `sync_data` has covered.
struct Write {
    offset: usize,
    /// A new length instead of bytes.
    cut: bool,
    bytes: Vec<u8>,
    /// A failed `sync_data` went over it: no later one makes it durable.
    lossy: bool,
}

#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.current, offset, bytes);
        self.unsynced.push(Write { offset, cut: false, bytes: bytes.to_vec(), lossy: false });
    }

    fn set_len(&mut self, len: usize) {
        self.current.resize(len, 0);
        self.unsynced.push(Write { offset: len, cut: true, bytes: Vec::new(), lossy: false });
    }

    fn sync(&mut self) {
        for write in self.unsynced.extract_if(.., |write| !write.lossy) {
            match write.cut {
                true => self.durable.resize(write.offset, 0),
                false => put(&mut self.durable, write.offset, &write.bytes),
            }
        }
    }

    /// Of a write each block of the disk arrives, or does not. The file may have grown all the same.
    fn tear(&mut self, write: &Write, dice: &mut Dice) {
        let end = write.offset + write.bytes.len();
        if dice.chance(50) && self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        let percent = [10, 50, 90][dice.below(3) as usize];
        let mut from = write.offset;
        while from < end {
            let to = (from / BLOCK * BLOCK + BLOCK).min(end);
            if dice.chance(percent) {
                put(&mut self.durable, from, &write.bytes[from - write.offset..to - write.offset]);
            }
            from = to;
        }
    }

    fn cut(&mut self, dice: &mut Dice) {
        if self.unsynced.is_empty() {
            return;
        }
        let mut writes = std::mem::take(&mut self.unsynced);
        dice.shuffle(&mut writes);
        for write in writes {
            if write.cut {
                if dice.chance(50) {
                    self.durable.resize(write.offset, 0);
                }
                continue;
            }
            let len = write.bytes.len() as u64;
            let (from, to) = match dice.below(8) {
                0..2 => continue,
                2..5 => (0, len),
                // Torn: a run of its bytes, often one that begins at its start.
                5 | 6 => {
                    let from = if dice.chance(50) { 0 } else { dice.below(len + 1) };
                    (from, from + dice.below(len - from + 1))
                }
                _ => {
                    self.tear(&write, dice);
                    continue;
                }
            };
            put(&mut self.durable, write.offset + from as usize, &write.bytes[from as usize..to as usize]);
        }
        self.current = self.durable.clone();
    }
}

type Names = BTreeMap<String, usize>;

/// A change of names that its directories' `sync_dir` has not covered yet.
struct NameChange {
    /// Directories that must still be synced.
    dirs: Vec<String>,
    kind: NameKind,
}

enum NameKind {
    Create(String, usize),
    Rename(String, String, usize),
    /// From, to, and the inodes that lay below then: what is made under the old name afterwards lies in another directory.
    RenameDir(String, String, BTreeSet<usize>),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match &self.kind {
            NameKind::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameKind::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            NameKind::RenameDir(from, to, inodes) => rename_below(names, from, to, inodes),
            NameKind::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

fn rename_below(names: &mut Names, from: &str, to: &str, inodes: &BTreeSet<usize>) {
    let moves = |(path, inode): &(&String, &usize)| inside(path, from) && inodes.contains(inode);
    let below: Vec<String> = names.iter().filter(moves).map(|(path, _)| path.clone()).collect();
    for path in below {
        if let Some(inode) = names.remove(&path) {
            names.insert(format!("{to}{}", &path[from.len()..]), inode);
        }
    }
}

/// Does `path` lie below directory `dir`?
fn inside(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_owned())
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<String>,
    /// How often the machine has stopped; handles of an earlier life fail.
    life: u64,
    /// Calls until the power fails by itself.
    calls_left: Option<u64>,
    calls: u64,
    failing_syncs: u32,
    failing_dir_syncs: u32,
    failing_writes: u32,
    capacity: Option<u64>,
    dice: Option<Dice>,
}

impl State {
    /// Every call passes here first: handles of an earlier life, and calls after the power failed, get nowhere.
    fn enter(&mut self, life: u64) -> io::Result<()> {
        self.calls += 1;
        if life != self.life {
            return Err(io::Error::other("this handle belongs to a process that has ended"));
        }
        match &mut self.calls_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Bytes that a file may still grow by.
    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |most| most.saturating_sub(self.used()))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].current.len() as u64).sum()
    }

    fn rename_names(&mut self, kind: NameKind, dirs: Vec<String>) {
        let change = NameChange { dirs, kind };
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn stop(&mut self) {
        self.life += 1;
        self.calls_left = None;
        self.failing_syncs = 0;
        self.failing_dir_syncs = 0;
        self.failing_writes = 0;
    }
}

fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// The disk as one life of the machine sees it.
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl SimulatedDisk {
    /// An empty disk. `seed` decides where injected short writes end.
    pub fn new(seed: u64) -> Arc<SimulatedDisk> {
        let mut state = State { dice: Some(Dice::new(seed)), ..State::default() };
        state.dirs.insert(String::new());
        Arc::new(SimulatedDisk { state: Arc::new(Mutex::new(state)), life: 0 })
    }

    /// The power fails. Keeps what was synced; of the rest a random part, torn and reordered. Every handle from
    /// before fails from now on; the disk that is returned is the one that the next life finds.
    #[must_use = "this is the disk after the power cut; the old one is dead"]
    pub fn power_cut(&self, dice: &mut Dice) -> Arc<SimulatedDisk> {
        let mut state = self.state.lock();
        for inode in &mut state.inodes {
            inode.cut(dice);
        }
        let changes = std::mem::take(&mut state.unsynced_names);
        let mut names = std::mem::take(&mut state.durable_names);
        for change in changes {
            if dice.chance(50) {
                change.apply(&mut names);
            }
        }
        let named: BTreeSet<usize> = names.values().copied().collect();
        for (_, inode) in state.inodes.iter_mut().enumerate().filter(|(number, _)| !named.contains(number)) {
            *inode = Inode::default();
        }
        state.durable_names = names.clone();
        state.names = names;
        self.reborn(&mut state)
    }

    /// The process is killed: everything written stays (and stays unsynced), every handle from before fails.
    #[must_use = "this is the disk that the next process sees; the old one is dead"]
    pub fn kill(&self) -> Arc<SimulatedDisk> {
        self.reborn(&mut self.state.lock())
    }

    fn reborn(&self, state: &mut State) -> Arc<SimulatedDisk> {
        state.stop();
        Arc::new(SimulatedDisk { state: self.state.clone(), life: state.life })
    }

    /// The next `count` calls succeed, all later ones fail, as if the power had gone right there. Follow it with
    /// [`power_cut`](Self::power_cut) or [`kill`](Self::kill).
    pub fn stop_after(&self, count: u64) {
        self.state.lock().calls_left = Some(count);
    }

    /// How many calls were made in all.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The next `count` calls of `sync_data` fail with EIO, and what they should have covered is lossy for good.
    pub fn fail_sync_data(&self, count: u32) {
        self.state.lock().failing_syncs = count;
    }

    /// The next `count` calls of `sync_dir` fail with EIO.
    pub fn fail_sync_dir(&self, count: u32) {
        self.state.lock().failing_dir_syncs = count;
    }

    /// The next `count` calls of `write_at` write some of the bytes and fail with EIO.
    pub fn fail_writes(&self, count: u32) {
        self.state.lock().failing_writes = count;
    }

    /// All files together may hold so many bytes; a write beyond writes what fits and fails with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Changes bytes where they lie, current and durable: what a bad disk does.
    pub fn corrupt(&self, path: &str, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state.lock();
        let inode = state.names[path];
        let inode = &mut state.inodes[inode];
        inode.sync();
        change(&mut inode.current[offset..]);
        inode.durable = inode.current.clone();
    }

    /// Cuts a file off at `len`, current and durable.
    pub fn truncate(&self, path: &str, len: usize) {
        let mut state = self.state.lock();
        let inode = state.names[path];
        let inode = &mut state.inodes[inode];
        inode.sync();
        inode.current.truncate(len);
        inode.durable = inode.current.clone();
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// The files in directory `dir` become those of `backup` (the file `dir`, if it is one), durably: what somebody does
    /// who restores it. Nothing may be open.
    pub fn restore(&self, backup: &SimulatedDisk, dir: &str) {
        let theirs = backup.copy();
        let mut theirs = theirs.state.lock();
        let mut state = self.state.lock();
        let is_in = |path: &String| path == dir || inside(path, dir);
        let mut names = std::mem::take(&mut state.names);
        names.retain(|path, _| !is_in(path));
        for (path, inode) in theirs.names.clone().into_iter().filter(|(path, _)| is_in(path)) {
            names.insert(path, state.inodes.len());
            let inode = std::mem::take(&mut theirs.inodes[inode]);
            state.inodes.push(inode);
        }
        state.names = names.clone();
        state.durable_names = names;
        state.unsynced_names.clear();
        state.dirs.extend(theirs.dirs.iter().cloned());
    }

    /// A copy of everything, current state taken as durable, for a test that tries many ends of one history.
    pub fn copy(&self) -> Arc<SimulatedDisk> {
        let state = self.state.lock();
        let inodes = state.names.values().map(|inode| {
            let bytes = &state.inodes[*inode].current;
            Inode { current: bytes.clone(), durable: bytes.clone(), unsynced: Vec::new() }
        });
        let names: Names = state.names.keys().cloned().zip(0..).collect();
        let copy = State {
            inodes: inodes.collect(),
            names: names.clone(),
            durable_names: names,
            dirs: state.dirs.clone(),
            dice: state.dice.clone(),
            ..State::default()
        };
        Arc::new(SimulatedDisk { state: Arc::new(Mutex::new(copy)), life: 0 })
    }
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    life: u64,
    inode: usize,
}

impl File for SimulatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let len = bytes.len() as u64;
        let grows = (offset + len).saturating_sub(state.inodes[self.inode].current.len() as u64);
        let room = state.room();
        let (fits, result) = if take(&mut state.failing_writes) {
            (state.dice.as_mut().map_or(0, |dice| dice.below(len + 1)), Err(eio()))
        } else if grows > room {
            (len - (grows - room).min(len), Err(io::Error::from_raw_os_error(libc::ENOSPC)))
        } else {
            (len, Ok(()))
        };
        if fits > 0 {
            state.inodes[self.inode].write(offset as usize, &bytes[..fits as usize]);
        }
        result
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let data = &state.inodes[self.inode].current;
        let found = data.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        if take(&mut state.failing_syncs) {
            state.inodes[self.inode].unsynced.iter_mut().for_each(|write| write.lossy = true);
            return Err(eio());
        }
        state.inodes[self.inode].sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        Ok(state.inodes[self.inode].current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let grows = len.saturating_sub(state.inodes[self.inode].current.len() as u64);
        if grows > state.room() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        state.inodes[self.inode].set_len(len as usize);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len <= self.len()? { Ok(()) } else { self.set_len(len) }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let inode = &mut state.inodes[self.inode];
        let end = (offset + len).min(inode.current.len() as u64);
        if offset < end {
            inode.write(offset as usize, &vec![0; (end - offset) as usize]);
        }
        Ok(())
    }
}

impl SimulatedDisk {
    fn file(&self, inode: usize) -> Arc<dyn File> {
        Arc::new(SimulatedFile { state: self.state.clone(), life: self.life, inode })
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        if !state.dirs.contains(&parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) || state.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.rename_names(NameKind::Create(path.to_owned(), inode), vec![parent(path)]);
        Ok(self.file(inode))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        if !state.dirs.contains(&parent(to)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut dirs = vec![parent(from)];
        if parent(to) != dirs[0] {
            dirs.push(parent(to));
        }
        if let Some(inode) = state.names.get(from).copied() {
            if state.dirs.contains(to) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            state.rename_names(NameKind::Rename(from.to_owned(), to.to_owned(), inode), dirs);
            return Ok(());
        }
        if from.is_empty() || !state.dirs.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.keys().any(|path| path == to || inside(path, to)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let below: Vec<String> = state.dirs.iter().filter(|dir| *dir == from || inside(dir, from)).cloned().collect();
        for dir in below {
            // The old directories stay as well: which of the two a power cut leaves is open.
            state.dirs.insert(format!("{to}{}", &dir[from.len()..]));
        }
        let below = state.names.iter().filter(|(path, _)| inside(path, from)).map(|(_, inode)| *inode).collect();
        state.rename_names(NameKind::RenameDir(from.to_owned(), to.to_owned(), below), dirs);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename_names(NameKind::Remove(path.to_owned()), vec![parent(path)]);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let mut dir = path.to_owned();
        while state.dirs.insert(dir.clone()) {
            dir = parent(&dir);
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let names = state.names.keys().filter_map(|path| path.strip_prefix(&prefix));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(self.life)?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if take(&mut state.failing_dir_syncs) {
            return Err(eio());
        }
        let State { unsynced_names, durable_names, .. } = &mut *state;
        for change in unsynced_names.iter_mut() {
            change.dirs.retain(|waits| waits != dir);
        }
        for change in unsynced_names.extract_if(.., |change| change.dirs.is_empty()) {
            change.apply(durable_names);
        }
        Ok(())
    }

    fn free(&self, _: &str) -> io::Result<u64> {
        Ok(self.state.lock().room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_some_of_the_rest() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..300 {
            let disk = SimulatedDisk::new(seed);
            disk.create_dir("d").unwrap();
            let file = disk.create("d/f").unwrap();
            disk.sync_dir("d").unwrap();
            file.write_at(b"safe", 0).unwrap();
            file.sync_data().unwrap();
            file.write_at(b"unsafe", 4).unwrap();
            let after = disk.power_cut(&mut Dice::new(seed));
            assert!(file.sync_data().is_err() && disk.open("d/f").is_err(), "old handles are dead");
            let bytes = super::super::read(&*after, "d/f", 100).unwrap().unwrap();
            assert_eq!(&bytes[..4], b"safe");
            match &bytes[4..] {
                b"" => lost += 1,
                b"unsafe" => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 30 && kept > 30 && torn > 30, "{lost} lost, {kept} kept, {torn} torn");
    }

    #[test]
    fn blocks_of_one_write_are_lost_each_by_itself() {
        let (mut holes, mut zeros) = (0, 0);
        for seed in 0..400 {
            let disk = SimulatedDisk::new(seed);
            let file = disk.create("f").unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(&[1; 4 * BLOCK], 100).unwrap();
            let bytes = super::super::read(&*disk.power_cut(&mut Dice::new(seed)), "f", 1 << 20).unwrap().unwrap();
            let blocks: Vec<bool> = bytes.iter().skip(100).step_by(BLOCK).map(|byte| *byte == 1).collect();
            holes += usize::from(blocks.windows(3).any(|blocks| blocks == [true, false, true]));
            zeros += usize::from(blocks.last() == Some(&false));
        }
        assert!(holes > 5 && zeros > 5, "{holes} with a hole, {zeros} that end in zeros");
    }

    #[test]
    fn what_is_restored_is_as_it_was_and_the_rest_stays() {
        let disk = SimulatedDisk::new(1);
        for dir in ["a", "b"] {
            disk.create_dir(dir).unwrap();
            disk.create(&format!("{dir}/old")).unwrap().write_at(b"1", 0).unwrap();
        }
        let backup = disk.copy();
        for dir in ["a", "b"] {
            disk.create(&format!("{dir}/new")).unwrap();
            disk.open(&format!("{dir}/old")).unwrap().write_at(b"2", 0).unwrap();
        }
        let disk = disk.kill();
        disk.restore(&backup, "a");
        let disk = disk.power_cut(&mut Dice::new(3));
        assert_eq!(disk.list("a").unwrap(), ["old"]);
        assert_eq!(super::super::read(&*disk, "a/old", 10).unwrap().unwrap(), b"1");
        assert!(!disk.paths().contains(&"a/new".to_owned()));
    }

    #[test]
    fn unsynced_names_are_kept_or_lost_each_by_itself() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let disk = SimulatedDisk::new(seed);
            disk.create("a").unwrap();
            disk.create("b").unwrap();
            disk.sync_dir("").unwrap();
            disk.rename("a", "c").unwrap();
            disk.remove("b").unwrap();
            seen.insert(disk.power_cut(&mut Dice::new(seed)).list("").unwrap().concat());
        }
        assert_eq!(seen, BTreeSet::from(["ab", "a", "bc", "c"].map(str::to_owned)));
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let mut lost = 0;
        for seed in 0..100 {
            let disk = SimulatedDisk::new(seed);
            let file = disk.create("f").unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(b"x", 0).unwrap();
            disk.fail_sync_data(1);
            assert!(file.sync_data().is_err());
            file.sync_data().unwrap();
            let after = disk.power_cut(&mut Dice::new(seed));
            lost += usize::from(after.open("f").unwrap().len().unwrap() == 0);
        }
        assert!(lost > 20);
    }

    #[test]
    fn a_full_disk_and_a_failing_one_write_a_part() {
        let disk = SimulatedDisk::new(1);
        let file = disk.create("f").unwrap();
        disk.set_capacity(Some(10));
        file.write_at(b"12345678", 0).unwrap();
        assert_eq!(file.write_at(b"9abcd", 8).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 10);
        assert_eq!(disk.free("").unwrap(), 0);
        file.set_len(6).unwrap();
        assert_eq!(disk.free("").unwrap(), 4);
        assert_eq!(file.allocate(11).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.allocate(10).unwrap();
        file.punch(2, 100).unwrap();
        let mut bytes = [0; 10];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"12\0\0\0\0\0\0\0\0");
        disk.set_capacity(None);
        disk.fail_writes(1);
        assert!(file.write_at(b"zzzz", 10).is_err());
        disk.stop_after(1);
        assert!(file.len().is_ok());
        assert!(file.len().is_err());
        assert!(disk.kill().open("f").is_ok());
    }
}
