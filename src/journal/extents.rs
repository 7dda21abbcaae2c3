//! The table of local extents: where the sealed bytes of each one lie that the vault lacks, and what each journal file
//! still holds for it (J5); also what the side file holds.
//!
//! Does not own: the files' contents, or when an extent may go (the caller releases it).
//! Invariant: a file's `live` counts exactly the table's entries that lie in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::block::Block;
use super::side;
use crate::base::disk::File;
use crate::base::{ExtentId, Position};

/// Where an extent's bytes are.
#[derive(Clone)]
pub enum Local {
    /// Not durable yet (J2).
    Memory(Bytes),
    File {
        generation: u64,
        offset: u64,
        len: u32,
    },
    /// In the side file.
    Side {
        offset: u64,
        len: u32,
    },
}

/// A journal file that has its name.
pub struct FileState {
    pub generation: u64,
    pub path: String,
    pub file: Arc<dyn File>,
    pub bytes: u64,
    /// Position of the block that it continues: what older files hold that counts lies at or below it.
    pub base: Position,
    pub live: u64,
}

/// An extent in a file, with its offset and length there.
pub type Held = (ExtentId, u64, u32);

/// The side file as readers see it.
pub struct SideState {
    pub file: Arc<dyn File>,
    /// What it takes on the disk.
    pub bytes: u64,
    live: u64,
    /// Extents in it that are not wanted any more, whose room was not given back yet.
    holes: Vec<(u64, u32)>,
}

#[derive(Default)]
pub struct Table {
    extents: HashMap<ExtentId, Local>,
    /// `None` while it holds nothing.
    side: Option<SideState>,
    /// Oldest first; the last is the current one.
    files: VecDeque<FileState>,
}

impl Table {
    pub fn add_file(&mut self, state: FileState) {
        self.files.push_back(state);
    }

    fn file_mut(&mut self, generation: u64) -> Option<&mut FileState> {
        self.files.iter_mut().rev().find(|f| f.generation == generation)
    }

    pub fn file(&self, generation: u64) -> Option<&FileState> {
        self.files.iter().rev().find(|f| f.generation == generation)
    }

    pub fn set_len(&mut self, generation: u64, bytes: u64) {
        if let Some(file) = self.file_mut(generation) {
            file.bytes = bytes;
        }
    }

    /// Bytes of all files, and of the side file.
    pub fn disk_bytes(&self) -> (u64, u64) {
        (self.files.iter().map(|f| f.bytes).sum(), self.side.as_ref().map_or(0, |side| side.bytes))
    }

    pub fn side(&self) -> Option<&SideState> {
        self.side.as_ref()
    }

    pub fn get(&self, id: ExtentId) -> Option<&Local> {
        self.extents.get(&id)
    }

    pub fn insert_memory(&mut self, id: ExtentId, bytes: Bytes) {
        self.extents.insert(id, Local::Memory(bytes));
    }

    pub fn insert_file(&mut self, id: ExtentId, generation: u64, offset: u64, len: u32) {
        self.remove(id);
        if let Some(file) = self.file_mut(generation) {
            file.live += 1;
            self.extents.insert(id, Local::File { generation, offset, len });
        }
    }

    /// A block is durable in this file: those of its extents that are still wanted need no memory any more.
    pub fn settle(&mut self, block: &Block, generation: u64) {
        let mut offset = block.body_at;
        for (id, bytes) in &block.extents {
            if self.extents.contains_key(id) {
                self.insert_file(*id, generation, offset, bytes.len() as u32);
            }
            offset += bytes.len() as u64;
        }
    }

    /// Returns whether a file holds nothing live any more because of it.
    pub fn remove(&mut self, id: ExtentId) -> bool {
        match self.extents.remove(&id) {
            Some(Local::File { generation, .. }) => self.file_mut(generation).is_some_and(|file| {
                file.live -= 1;
                file.live == 0
            }),
            Some(Local::Side { offset, len }) => {
                if let Some(side) = &mut self.side {
                    side.live -= 1;
                    side.holes.push((offset, len));
                }
                true
            }
            _ => false,
        }
    }

    /// What the oldest file still holds, in the order in which it lies there, if nothing else keeps it from being
    /// dropped (J5). Nothing of it is needed by a replay: what lies below `cut` and lives is in the vault, but for
    /// unlinked open files (L4) and for what has just died.
    pub fn held_by_oldest(&self, cut: Position) -> Option<(&FileState, Vec<Held>)> {
        let (oldest, next) = (self.files.front()?, self.files.get(1)?);
        if next.base > cut || oldest.live == 0 {
            return None;
        }
        let mut held: Vec<Held> = self
            .extents
            .iter()
            .filter_map(|(id, local)| match local {
                Local::File { generation, offset, len } if *generation == oldest.generation => {
                    Some((*id, *offset, *len))
                }
                _ => None,
            })
            .collect();
        held.sort_unstable_by_key(|(_, offset, _)| *offset);
        Some((oldest, held))
    }

    /// An extent's bytes were copied to the side file. If it is not wanted any more, they are a hole there.
    pub fn move_to_side(&mut self, id: ExtentId, file: Arc<dyn File>, offset: u64, len: u32) {
        let wanted = matches!(self.extents.get(&id), Some(Local::File { .. }));
        if wanted {
            self.remove(id);
            self.extents.insert(id, Local::Side { offset, len });
        }
        let side = self.side.get_or_insert_with(|| SideState { file, bytes: 0, live: 0, holes: Vec::new() });
        side.bytes += side::taken(len);
        match wanted {
            true => side.live += 1,
            false => side.holes.push((offset, len)),
        }
    }

    /// Holes that the side file may get; `None` if it holds nothing any more, and was forgotten.
    pub fn take_side_holes(&mut self) -> Option<Vec<(u64, u32)>> {
        match &mut self.side {
            Some(side) if side.live > 0 => Some(std::mem::take(&mut side.holes)),
            _ => {
                self.side = None;
                None
            }
        }
    }

    pub fn side_freed(&mut self, bytes: u64) {
        if let Some(side) = &mut self.side {
            side.bytes = side.bytes.saturating_sub(bytes);
        }
    }

    /// Does the oldest file stay only because the low-water mark has not passed it, though the durable end has?
    pub fn waits_for_cut(&self, cut: Position, durable: Position) -> bool {
        self.files.get(1).is_some_and(|next| next.base > cut && next.base <= durable)
    }

    /// The oldest file, if it may be dropped (J5): it is not the current one, all that counts in it is at or below
    /// `cut`, and it holds no extent that is still wanted.
    pub fn droppable(&self, cut: Position) -> Option<&FileState> {
        let oldest = self.files.front()?;
        let next = self.files.get(1)?;
        (next.base <= cut && oldest.live == 0).then_some(oldest)
    }

    pub fn drop_oldest(&mut self) {
        self.files.pop_front();
    }
}
