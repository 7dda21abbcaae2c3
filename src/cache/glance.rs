//! Reading a file without using it: what a search does.
//!
//! A [`Glance`] is a file's contents at one instant: a snapshot of what is dirty, and the pieces of what is stored. Extents
//! never change, so whatever is written afterwards, all that is read through a glance belongs to that instant; where an
//! extent is gone meanwhile, the reader is told ([`CacheError::Stale`]) and takes another.
//!
//! Owns nothing that outlives a glance. Renews no timer and no place in an LRU, counts no hit, keeps no plaintext beyond
//! the last few frames, and asks the store for nothing, unless told to ([`Cache::bring`]).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dirty::Runs;
use super::plan::{holds, subtract};
use super::{Cache, CacheError};
use crate::base::{ExtentId, Ino, Position};
use crate::download::DownloadError;
use crate::format::extent::{self, Frame};
use crate::format::key::Key;
use crate::format::record::{Extent, Head, Piece, Record};
use crate::history::map;

/// So much of a map is read under history's lock at a time.
const STRETCH: u64 = 64 << 20;
/// More pieces are not looked at: the rest of such a file counts as not being here.
const PIECES_MAX: usize = 256 * 1024;
/// How often a map is read anew that changes meanwhile.
const LOOKS: usize = 64;

/// Which contents a file has. Two that are equal are of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ContentsVersion {
    stored: Position,
    /// The last write that is not stored yet.
    written: u64,
}

/// A file's contents at one instant.
pub struct Glance {
    pub ino: Ino,
    pub version: ContentsVersion,
    pub size: u64,
    /// Newer ones behind older ones.
    dirty: Vec<Runs>,
    pieces: Vec<Piece>,
    /// What was opened or brought last.
    opened: Vec<(ExtentId, u32, Arc<Frame>)>,
    record: Option<(ExtentId, Arc<Record>)>,
}

impl Cache {
    /// A number that moves with every write into memory. (What is stored moves history's positions.)
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    /// A number that moves whenever somebody asks for a file to be let go of.
    pub fn drops(&self) -> u64 {
        self.drops.load(Ordering::Relaxed)
    }

    /// A number that moves whenever clean plaintext comes into memory.
    pub fn arrivals(&self) -> u64 {
        self.frames.arrivals()
    }

    /// Which contents a file has now.
    pub fn contents_version(&self, ino: Ino) -> Result<ContentsVersion, CacheError> {
        let entry = self.entries.peek(ino);
        let inner = entry.as_ref().map(|entry| entry.lock());
        let written = inner.as_deref().filter(|inner| !inner.is_clean()).map_or(0, |inner| inner.written);
        match self.history.view().get(&Key::head(ino))?.as_deref() {
            Some(Record::Head(head)) => Ok(ContentsVersion { stored: head.position, written }),
            _ => Err(CacheError::NotFound),
        }
    }

    /// The contents of a file as they are now.
    pub fn glance(&self, ino: Ino) -> Result<Glance, CacheError> {
        for _ in 0..LOOKS {
            let mut glance = self.first_look(ino)?;
            if self.look_on(&mut glance)? {
                return Ok(glance);
            }
        }
        Err(CacheError::Io("the file is rewritten faster than it can be looked at".to_owned()))
    }

    /// Memory, and the first stretch of the map.
    fn first_look(&self, ino: Ino) -> Result<Glance, CacheError> {
        let entry = self.entries.peek(ino);
        // Held over both looks, memory and stored: see the entry's invariants.
        let inner = entry.as_ref().map(|entry| entry.lock());
        let (mut live, mut written, mut dirty) = (None, 0, Vec::new());
        if let Some(inner) = inner.as_deref().filter(|inner| !inner.is_clean()) {
            (live, written, dirty) = (inner.live, inner.written, inner.snapshot());
        }
        let view = self.history.view();
        let head = view.get(&Key::head(ino))?;
        let Some(Record::Head(head)) = head.as_deref() else { return Err(CacheError::NotFound) };
        let size = live.map_or(head.size, |live| live.size);
        let pieces = map::pieces(&view, ino, head, 0..head.size.min(STRETCH))?;
        let version = ContentsVersion { stored: head.position, written };
        Ok(Glance { ino, version, size, dirty, pieces, opened: Vec::new(), record: None })
    }

    /// The rest of the map. False if it has changed meanwhile.
    fn look_on(&self, glance: &mut Glance) -> Result<bool, CacheError> {
        let mut at = STRETCH;
        while at < glance.size && glance.pieces.len() <= PIECES_MAX {
            let view = self.history.view();
            let head = view.get(&Key::head(glance.ino))?;
            let Some(Record::Head(head)) = head.as_deref() else { return Err(CacheError::NotFound) };
            if head.position != glance.version.stored {
                return Ok(false);
            }
            at = self.stretch(&view, head, glance, at)?;
        }
        Ok(true)
    }

    fn stretch(
        &self,
        view: &crate::history::View<'_>,
        head: &Head,
        glance: &mut Glance,
        at: u64,
    ) -> Result<u64, CacheError> {
        let next = at.saturating_add(STRETCH).min(head.size.max(at));
        let found = map::pieces(view, glance.ino, head, at..next)?;
        // A hole of exabytes is one step.
        if found.is_empty() {
            return Ok(match next < head.size {
                true => map::next_piece(view, glance.ino, head, next)?.unwrap_or(u64::MAX),
                false => u64::MAX,
            });
        }
        glance.pieces.extend(found);
        Ok(if next < head.size { next } else { u64::MAX })
    }

    /// Fills `out` with the bytes from `at` on, as far as they are on this machine. Returns how many: fewer than `out`
    /// holds at the file's end, or where bytes are not here.
    pub fn see(&self, glance: &mut Glance, at: u64, out: &mut [u8]) -> Result<usize, CacheError> {
        let end = glance.size.min(at.saturating_add(out.len() as u64));
        if at >= end {
            return Ok(0);
        }
        let range = at..end;
        let out = &mut out[..(end - at) as usize];
        let filled = glance.dirty_in(&range);
        // Holes are zeros because no piece covers them, and only then.
        let (mut here, mut cursor) = (out.len(), 0);
        for piece in glance.pieces_in(&range) {
            let place = (piece.offset - at) as usize;
            out[cursor..place].fill(0);
            cursor = place + piece.len as usize;
            for part in subtract(place..cursor, &filled) {
                let start = piece.start + (part.start - place) as u32;
                let copied = self.copy(glance, &piece, start, &mut out[part.clone()])?;
                if copied < part.len() {
                    here = part.start + copied;
                    break;
                }
            }
            if here < out.len() {
                break;
            }
        }
        if here == out.len() {
            out[cursor..].fill(0);
        }
        if glance.pieces.len() > PIECES_MAX {
            let known = glance.pieces[PIECES_MAX].offset;
            here = here.min(usize::try_from(known.saturating_sub(at)).unwrap_or(usize::MAX));
        }
        glance.visit(&range, |at, bytes| out[at..at + bytes.len()].copy_from_slice(bytes));
        Ok(here)
    }

    /// Bytes of an extent from `start` on, as far as they are here. Returns how many.
    fn copy(&self, glance: &mut Glance, piece: &Piece, start: u32, out: &mut [u8]) -> Result<usize, CacheError> {
        if self.fresh.copy(glance.ino, piece.extent, start, out) {
            return Ok(out.len());
        }
        let record = self.record(glance, piece)?;
        let Record::Extent(mut known) = (*record).clone() else { return Err(CacheError::Stale) };
        let end = start + out.len() as u32;
        let mut at = start;
        while at < end {
            let frames = extent::frames_of(&known, at..end);
            let frame = match self.frame(glance, piece.extent, &known, frames.clone())? {
                Some(frame) => frame,
                // A round may have placed it meanwhile, and the journal let go of it.
                None => match self.placed_anew(glance, piece, &known)? {
                    Some(anew) => {
                        known = anew;
                        continue;
                    }
                    None => return Ok((at - start) as usize),
                },
            };
            let plain = extent::plain_range(&known, frames.start..frames.start + 1);
            let (from, to) = (at, end.min(plain.end));
            let bytes = frame.get((from - plain.start) as usize..(to - plain.start) as usize);
            let bytes = bytes.ok_or_else(|| CacheError::Io("a frame is shorter than its record says".to_owned()))?;
            out[(from - start) as usize..(to - start) as usize].copy_from_slice(bytes);
            at = to;
        }
        Ok(out.len())
    }

    /// The first of these frames: out of memory, or opened with as many of its neighbours as are here too.
    fn frame(
        &self,
        glance: &mut Glance,
        id: ExtentId,
        extent: &Extent,
        frames: Range<u32>,
    ) -> Result<Option<Arc<Frame>>, CacheError> {
        let number = frames.start;
        if let Some(frame) = self.frames.peek(glance.ino, id, number) {
            return Ok(Some(frame));
        }
        if let Some(frame) = glance.opened(id, number) {
            return Ok(Some(frame));
        }
        let absent = self.frames.absent(glance.ino, id, frames).end;
        let several = self.downloads.peek(id, extent, number..absent);
        let opened = match several {
            None if absent > number + 1 => self.downloads.peek(id, extent, number..number + 1),
            several => several,
        };
        let Some(opened) = opened else { return Ok(None) };
        let opened = opened.map_err(|error| CacheError::Io(error.to_string()))?;
        glance.opened = (number..).zip(opened.iter()).map(|(n, frame)| (id, n, frame.clone())).collect();
        Ok(opened.first().cloned())
    }

    fn record(&self, glance: &mut Glance, piece: &Piece) -> Result<Arc<Record>, CacheError> {
        if let Some((id, record)) = &glance.record
            && *id == piece.extent
        {
            return Ok(record.clone());
        }
        // Without a record it died, and its bytes may be gone at any moment.
        let record = self.history.view().get(&Key::extent(piece.extent))?.ok_or(CacheError::Stale)?;
        if !holds(&record, piece) {
            return Err(CacheError::Io(format!("{}: the map names bytes that its extent has not", glance.ino)));
        }
        glance.record = Some((piece.extent, record.clone()));
        Ok(record)
    }

    /// The extent's record, if it is another one by now.
    fn placed_anew(&self, glance: &mut Glance, piece: &Piece, known: &Extent) -> Result<Option<Extent>, CacheError> {
        glance.record = None;
        match &*self.record(glance, piece)? {
            Record::Extent(extent) if extent.place != known.place => Ok(Some(extent.clone())),
            _ => Ok(None),
        }
    }

    /// Brings what is not here of these bytes, behind all that others wait for; [`Cache::see`] then finds it.
    pub async fn bring(&self, glance: &mut Glance, range: Range<u64>) -> Result<(), CacheError> {
        let range = range.start..range.end.min(glance.size);
        let filled = glance.dirty_in(&range);
        let (mut asked, mut found) = (Vec::new(), Vec::new());
        for piece in glance.pieces_in(&range) {
            if self.fresh.has(glance.ino, piece.extent) {
                continue;
            }
            let place = (piece.offset - range.start) as usize;
            for part in subtract(place..place + piece.len as usize, &filled) {
                let start = piece.start + (part.start - place) as u32;
                let record = self.record(glance, &piece)?;
                let Record::Extent(known) = &*record else { return Err(CacheError::Stale) };
                let mut frames = extent::frames_of(known, start..start + part.len() as u32);
                while !frames.is_empty() {
                    if let Some(frame) = self.frame(glance, piece.extent, known, frames.clone())? {
                        found.push((piece.extent, frames.start, frame));
                        frames.start += 1;
                        continue;
                    }
                    let run = self.frames.absent(glance.ino, piece.extent, frames.clone());
                    frames.start = run.end;
                    let id = piece.extent;
                    asked.push((id, run.start, self.downloads.ask_in_background(glance.ino, id, known, run)));
                }
            }
        }
        for (id, first, asked) in asked {
            let frames = match asked.wait().await {
                Ok(frames) => frames,
                Err(error) => return Err(self.not_brought(id, error).await),
            };
            found.extend((first..).zip(frames.iter()).map(|(n, frame)| (id, n, frame.clone())));
        }
        glance.opened = found;
        Ok(())
    }

    /// Why bytes did not come. Where an object is missing, or wrong, the vault may have gone on (D3).
    async fn not_brought(&self, id: ExtentId, error: DownloadError) -> CacheError {
        if let (true, Some(lookout)) = (error.is_of_the_bytes(), self.lookout.get()) {
            let record = || self.history.view().get(&Key::extent(id)).ok().flatten();
            let known = record();
            lookout.look().await;
            if record() != known {
                return CacheError::Stale;
            }
        }
        match error {
            DownloadError::Gone => CacheError::Stale,
            error => CacheError::Io(error.to_string()),
        }
    }
}

impl Glance {
    /// Stretches of `range` that are dirty, counted from its start.
    fn dirty_in(&self, range: &Range<u64>) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        self.visit(range, |at, bytes| parts.push(at..at + bytes.len()));
        parts
    }

    /// Calls `each` for what is dirty of `range`: where it stands, counted from its start, and the bytes.
    fn visit(&self, range: &Range<u64>, mut each: impl FnMut(usize, &[u8])) {
        for runs in &self.dirty {
            runs.visit(range, |at, bytes| each((at - range.start) as usize, bytes));
        }
    }

    /// Pieces that reach into `range`, in order, cut to it.
    fn pieces_in(&self, range: &Range<u64>) -> Vec<Piece> {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        let reach = self.pieces[first..].iter().take_while(|piece| piece.offset < range.end);
        reach.filter_map(|piece| piece.within(range)).collect()
    }

    fn opened(&self, id: ExtentId, number: u32) -> Option<Arc<Frame>> {
        self.opened.iter().find(|(of, n, _)| *of == id && *n == number).map(|(_, _, frame)| frame.clone())
    }
}
