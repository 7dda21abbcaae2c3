//! The table of local extents: where the sealed bytes of each one lie that the vault lacks, and what each journal file
//! still holds for it (J5).
//!
//! Does not own: the files' contents, or when an extent may go (the caller releases it).
//! Invariant: a file's `live` counts exactly the table's entries that lie in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::block::Block;
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

#[derive(Default)]
pub struct Table {
    extents: HashMap<ExtentId, Local>,
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

    /// Bytes of all files.
    pub fn disk_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
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
            _ => false,
        }
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
