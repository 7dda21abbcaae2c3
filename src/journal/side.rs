//! The side file: sealed bytes of extents that somebody still reads though no replay needs them (L4: unlinked open
//! files), moved out of journal files that may go but for them (J6).
//!
//! It has no name: it ends with the process, as those extents do, and is never fdatasynced. Room returns by holes, or
//! at once when nothing in it is wanted any more.
//!
//! Owns the file and its length. Does not own which of its extents live (the table does).

use std::io;
use std::sync::Arc;

use super::file::Place;
use crate::base::disk::File;

/// Extents begin at multiples of this, so that the hole that one leaves is made of whole blocks of the disk.
const GRID: u64 = 4096;

#[derive(Default)]
pub struct Side {
    file: Option<Arc<dyn File>>,
    len: u64,
    /// This disk makes no holes.
    solid: bool,
}

/// What an extent takes in the side file.
pub fn taken(len: u32) -> u64 {
    u64::from(len).next_multiple_of(GRID)
}

impl Side {
    /// Writes an extent; returns where it lies.
    pub fn put(&mut self, place: &Place, bytes: &[u8]) -> io::Result<(Arc<dyn File>, u64)> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => {
                let path = format!("{}/side", place.dir);
                // Left by a process that ended right between these calls.
                place.disk.remove(&path).ok();
                let file = place.disk.create(&path)?;
                place.disk.remove(&path)?;
                self.file.insert(file).clone()
            }
        };
        let at = self.len;
        file.write_at(bytes, at)?;
        self.len += taken(bytes.len() as u32);
        Ok((file, at))
    }

    /// These extents are not wanted any more. Returns how many bytes went back to the disk.
    pub fn free(&mut self, holes: &[(u64, u32)]) -> u64 {
        let Some(file) = &self.file else { return 0 };
        let mut freed = 0;
        for (offset, len) in holes.iter().filter(|_| !self.solid) {
            match file.punch(*offset, taken(*len)) {
                Ok(()) => freed += taken(*len),
                Err(why) => {
                    log::debug!("no holes in the side file: {why}");
                    self.solid = true;
                    break;
                }
            }
        }
        freed
    }

    /// Nothing in it is wanted any more.
    pub fn clear(&mut self) {
        self.file = None;
        self.len = 0;
    }
}
