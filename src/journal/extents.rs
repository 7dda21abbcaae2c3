//! The table of local extents: where the sealed bytes of each one lie that the vault lacks, and what each journal file
//! still holds for it (J5), its staged files included; also what the side file holds.
//!
//! Owns whether a staged file may travel as it lies (J8). Does not own: the files' contents, or when an extent may go (the
//! caller releases it).
//!
//! Invariants
//! - A file's `live` counts exactly the table's entries that lie in it or in its staged files.
//! - What lies in a staged file goes to the vault with it or out of it, never both: equal ciphertext in two objects would
//!   tell where it begins and ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, BlockExtent, Where};
use super::side;
use super::staged::{self, Whole};
use crate::base::disk::File;
use crate::base::{ExtentId, ObjectId, Position};

/// Where an extent's bytes are.
#[derive(Clone)]
pub enum Local {
    /// Not durable yet (J2).
    Memory(Bytes),
    File(InFile),
    /// In the side file.
    Side {
        offset: u64,
        len: u32,
    },
}

/// A place in a journal file, or in a staged file that belongs to it.
#[derive(Clone, Copy)]
pub struct InFile {
    pub generation: u64,
    pub staged: Option<ObjectId>,
    pub offset: u64,
    pub len: u32,
}

impl InFile {
    pub fn new(generation: u64, place: Where, len: u32) -> InFile {
        match place {
            Where::Here(offset) => InFile { generation, staged: None, offset, len },
            Where::Staged(at) => InFile { generation, staged: Some(at.file), offset: at.offset.into(), len },
        }
    }
}

/// A staged file, of a journal file that has its name. Not held open: there may be thousands.
pub struct StagedFile {
    bytes: u64,
    /// Of those, what extents are.
    content: u64,
    /// Padded and durable.
    closed: bool,
    /// It never travels as it lies: it has, or an extent travelled out of it, or may have in an earlier mount, or the disk
    /// failed under it.
    spoiled: bool,
    /// Extents in it that are not durable yet.
    unsettled: usize,
    held: BTreeMap<ExtentId, (u32, u32)>,
}

impl StagedFile {
    /// One that an earlier mount left.
    pub fn found(bytes: u64) -> StagedFile {
        StagedFile { bytes, content: bytes, closed: true, spoiled: true, unsettled: 0, held: BTreeMap::new() }
    }

    /// Does it hold nothing that is wanted but these extents, and mostly them?
    fn may_travel(&self, ids: &HashSet<ExtentId>) -> bool {
        let live: u64 = self.held.values().map(|(_, len)| u64::from(*len)).sum();
        self.closed
            && !self.spoiled
            && self.unsettled == 0
            && live >= self.content / 4 * 3
            && self.held.keys().all(|id| ids.contains(id))
    }
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
    /// They go with it.
    pub staged: Vec<ObjectId>,
}

/// An extent and where it lies.
pub type Held = (ExtentId, InFile);

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
    staged: HashMap<ObjectId, StagedFile>,
    /// Bytes of all staged files: whoever looks for room asks often.
    staged_bytes: u64,
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
        let files: u64 = self.files.iter().map(|f| f.bytes).sum();
        (files + self.staged_bytes, self.side.as_ref().map_or(0, |side| side.bytes))
    }

    /// Bytes of the staged files that belong to this journal file.
    pub fn staged_bytes_of(&self, generation: u64) -> u64 {
        let ids = self.file(generation).map_or(&[][..], |file| &file.staged);
        ids.iter().filter_map(|id| self.staged.get(id)).map(|file| file.bytes).sum()
    }

    /// A staged file of this journal file was begun.
    pub fn staging(&mut self, generation: u64, id: ObjectId) {
        let state = StagedFile { closed: false, spoiled: false, ..StagedFile::found(0) };
        self.add_staged(generation, id, state);
    }

    pub fn add_staged(&mut self, generation: u64, id: ObjectId, state: StagedFile) {
        if let Some(file) = self.file_mut(generation) {
            file.staged.push(id);
            self.staged_bytes += state.bytes;
            self.staged.insert(id, state);
        }
    }

    pub fn has_staged(&self, id: ObjectId) -> bool {
        self.staged.contains_key(&id)
    }

    /// An extent of so many bytes was written to the open staged file.
    pub fn staged_more(&mut self, id: ObjectId, bytes: u64) {
        self.resize_staged(id, |file| {
            file.bytes += bytes;
            file.content += bytes;
            file.unsettled += 1;
        });
    }

    /// A staged file is padded to so many bytes, and durable.
    pub fn staged_closed(&mut self, id: ObjectId, bytes: u32) {
        self.resize_staged(id, |file| (file.bytes, file.closed) = (bytes.into(), true));
    }

    /// The disk failed under a staged file.
    pub fn staged_left(&mut self, id: ObjectId, bytes: u32) {
        self.resize_staged(id, |file| (file.bytes, file.spoiled) = (bytes.into(), true));
    }

    fn resize_staged(&mut self, id: ObjectId, change: impl FnOnce(&mut StagedFile)) {
        if let Some(file) = self.staged.get_mut(&id) {
            self.staged_bytes -= file.bytes;
            change(file);
            self.staged_bytes += file.bytes;
        }
    }

    /// An extent travels by itself: the staged file in which it lies does not any more.
    pub fn travels_alone(&mut self, id: ExtentId) {
        if let Some(Local::File(InFile { staged: Some(file), .. })) = self.extents.get(&id)
            && let Some(file) = self.staged.get_mut(file)
        {
            file.spoiled = true;
        }
    }

    fn staged_of(&self, ids: &HashSet<ExtentId>) -> BTreeSet<ObjectId> {
        let file = |id| match self.extents.get(id) {
            Some(Local::File(place)) => place.staged,
            _ => None,
        };
        ids.iter().filter_map(file).collect()
    }

    /// Does one of these extents lie in the open staged file, which might travel once it is closed?
    pub fn wants_closing(&self, ids: &HashSet<ExtentId>) -> bool {
        let open = |id| self.staged.get(id).is_some_and(|file| !file.closed && !file.spoiled);
        self.staged_of(ids).iter().any(open)
    }

    /// The staged files that may travel as they lie with these extents. Of the others that hold some of them none ever will.
    pub fn take_whole(&mut self, dir: &str, ids: &HashSet<ExtentId>) -> Vec<Whole> {
        let mut whole = Vec::new();
        for id in self.staged_of(ids) {
            let Some(state) = self.staged.get_mut(&id) else { continue };
            if state.may_travel(ids) {
                let mut extents: Vec<_> = state.held.iter().map(|(id, (offset, _))| (*id, *offset)).collect();
                extents.sort_unstable_by_key(|(_, offset)| *offset);
                whole.push(Whole { id, path: staged::path(dir, id), len: state.bytes as u32, extents });
            }
            state.spoiled = true;
        }
        whole
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

    pub fn insert_file(&mut self, id: ExtentId, place: InFile) {
        self.remove(id);
        if let Some(file) = self.file_mut(place.generation) {
            file.live += 1;
            self.extents.insert(id, Local::File(place));
        }
        if let Some(staged) = place.staged.and_then(|id| self.staged.get_mut(&id)) {
            staged.held.insert(id, (place.offset as u32, place.len));
        }
    }

    /// A block is durable in this file: those of its extents that are still wanted need no memory any more.
    pub fn settle(&mut self, block: &Block, generation: u64) {
        for (BlockExtent { id, bytes, .. }, place) in block.places() {
            let place = InFile::new(generation, place, bytes.len() as u32);
            if let Some(staged) = place.staged.and_then(|id| self.staged.get_mut(&id)) {
                staged.unsettled = staged.unsettled.saturating_sub(1);
            }
            if self.extents.contains_key(id) {
                self.insert_file(*id, place);
            }
        }
    }

    /// Returns whether a file holds nothing live any more because of it.
    pub fn remove(&mut self, id: ExtentId) -> bool {
        match self.extents.remove(&id) {
            Some(Local::File(InFile { generation, staged, .. })) => {
                if let Some(staged) = staged.and_then(|id| self.staged.get_mut(&id)) {
                    staged.held.remove(&id);
                }
                self.file_mut(generation).is_some_and(|file| {
                    file.live -= 1;
                    file.live == 0
                })
            }
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
    pub fn held_by_oldest(&self, cut: Position) -> Option<Vec<Held>> {
        let (oldest, next) = (self.files.front()?, self.files.get(1)?);
        if next.base > cut || oldest.live == 0 {
            return None;
        }
        let mut held: Vec<Held> = self
            .extents
            .iter()
            .filter_map(|(id, local)| match local {
                Local::File(place) if place.generation == oldest.generation => Some((*id, *place)),
                _ => None,
            })
            .collect();
        held.sort_unstable_by_key(|(_, place)| (place.staged, place.offset));
        Some(held)
    }

    /// An extent's bytes were copied to the side file. If it is not wanted any more, they are a hole there.
    pub fn move_to_side(&mut self, id: ExtentId, file: Arc<dyn File>, offset: u64, len: u32) {
        let wanted = matches!(self.extents.get(&id), Some(Local::File(_)));
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

    /// Returns its staged files, which may go after it.
    pub fn drop_oldest(&mut self) -> Vec<ObjectId> {
        let staged = self.files.pop_front().map(|file| file.staged).unwrap_or_default();
        let gone = staged.iter().filter_map(|id| self.staged.remove(id)).map(|file| file.bytes).sum::<u64>();
        self.staged_bytes -= gone;
        staged
    }
}
