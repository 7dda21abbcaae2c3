//! The reserve: room on the disk that is taken before anybody is short of it (J6, promise 6). What frees space needs
//! some first: a change that unlinks, the record of what the vault took, the pin.
//!
//! Owns one preallocated file beside the journal's, and whether it is there. Does not own who may use what it gives
//! back. Nothing is read from it, and a replay does not know it.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::disk::Disk;

const NAME: &str = "reserve";

pub struct Reserve {
    disk: Arc<dyn Disk>,
    path: String,
    dir: String,
    bytes: u64,
    /// Held over I/O: who else wants it wants the same.
    held: Mutex<bool>,
}

impl Reserve {
    /// Takes over what an earlier mount left, or makes it if there is room.
    pub fn new(disk: Arc<dyn Disk>, dir: &str, bytes: u64) -> Reserve {
        let path = path(dir);
        let left = disk.open(&path).and_then(|file| file.len()).ok();
        let held = bytes > 0 && left == Some(bytes);
        if !held && left.is_some() {
            // One that stays is in nobody's way; making it anew will tell.
            disk.remove(&path).ok();
        }
        let reserve = Reserve { disk, path, dir: dir.to_owned(), bytes, held: Mutex::new(held) };
        reserve.make();
        reserve
    }

    /// What the file takes while it is there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_held(&self) -> bool {
        *self.held.lock()
    }

    /// Room that nobody but the reserve should take, beside its own: for small files of the state directory.
    pub fn slack(&self) -> u64 {
        self.bytes / 4
    }

    /// Makes the file if it is missing and there is room for it.
    pub fn make(&self) {
        let mut held = self.held.lock();
        let room = || self.disk.free(&self.dir).is_ok_and(|free| free >= self.bytes + self.slack());
        if self.bytes == 0 || *held || !room() {
            return;
        }
        let made = self.disk.create(&self.path).and_then(|file| file.allocate(self.bytes));
        if let Err(why) = &made {
            log::debug!("{}: not made: {why}", self.path);
            self.disk.remove(&self.path).ok();
        }
        *held = made.is_ok();
    }

    /// Gives the room back to the disk. True if there was any.
    pub fn give_back(&self) -> bool {
        let mut held = self.held.lock();
        if !*held {
            return false;
        }
        match self.disk.remove(&self.path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                log::warn!("{}: not removed: {why}", self.path);
                false
            }
            _ => {
                *held = false;
                true
            }
        }
    }
}

fn path(dir: &str) -> String {
    format!("{dir}/{NAME}")
}

/// Removes the file from a journal that is not used any more.
pub fn remove(disk: &dyn Disk, dir: &str) {
    disk.remove(&path(dir)).ok();
}
