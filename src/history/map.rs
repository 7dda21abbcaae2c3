//! Edits of a file's map: which run of its bytes lies in which extent.
//!
//! A map of at most [`INLINE_PIECES`] pieces stands in the head itself; a longer one in records of its own, keyed by
//! offset. Pieces never overlap, and none reaches beyond the head's size; what none covers is a hole. A piece is at most
//! one extent long, so what reaches into a range begins at most [`EXTENT_MAX`] before it.

use std::ops::Range;
use std::sync::Arc;

use super::View;
use super::transaction::Transaction;
use crate::base::Ino;
use crate::base::sizes::EXTENT_MAX;
use crate::format::key::{Key, Part};
use crate::format::record::{Head, INLINE_PIECES, Piece, Record};
use crate::index::IndexError;

/// Where a file's records are read: the state as it is now, or as it was when the file was opened.
pub trait Contents {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError>;

    /// Records from `from` to `to`, both inclusive, in key order; `visit` returns false to stop.
    fn scan(&self, from: Key, to: Key, visit: &mut dyn FnMut(&Key, &Arc<Record>) -> bool) -> Result<(), IndexError>;
}

impl Contents for View<'_> {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        View::get(self, key)
    }

    fn scan(&self, from: Key, to: Key, visit: &mut dyn FnMut(&Key, &Arc<Record>) -> bool) -> Result<(), IndexError> {
        View::scan(self, from, to, visit)
    }
}

impl Piece {
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// The part of this piece that lies in `range`; `None` if none does.
    pub fn within(&self, range: &Range<u64>) -> Option<Piece> {
        let (from, to) = (self.offset.max(range.start), self.end().min(range.end));
        (from < to).then(|| Piece {
            offset: from,
            len: (to - from) as u32,
            extent: self.extent,
            start: self.start + (from - self.offset) as u32,
        })
    }
}

/// How far back a piece is looked for that begins before a range and reaches into it: in steps, for most are short, and
/// each record that lies between is read.
const BACK: [u64; 3] = [16 << 10, 256 << 10, EXTENT_MAX as u64];

/// Spilled pieces that reach into `range`, in order, whole. `scan` tells those with offsets from the first to the second
/// number, both inclusive.
fn spilled(
    range: &Range<u64>,
    mut scan: impl FnMut(u64, u64, &mut dyn FnMut(Piece)) -> Result<(), IndexError>,
) -> Result<Vec<Piece>, IndexError> {
    let mut pieces = Vec::new();
    // Pieces never overlap: of those that begin before, only the last can reach into it.
    let mut end = range.start;
    for back in BACK {
        let from = range.start.saturating_sub(back);
        let mut last = None;
        if from < end {
            scan(from, end - 1, &mut |piece| last = Some(piece))?;
        }
        if let Some(last) = last {
            pieces.extend(Some(last).filter(|last| last.end() > range.start));
            break;
        }
        end = from;
    }
    scan(range.start, range.end - 1, &mut |piece| pieces.push(piece))?;
    Ok(pieces)
}

/// Pieces that reach into `range`, in order, cut to it.
pub fn pieces(
    contents: &(impl Contents + ?Sized),
    ino: Ino,
    head: &Head,
    range: Range<u64>,
) -> Result<Vec<Piece>, IndexError> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    if !head.spilled {
        return Ok(head.pieces.iter().filter_map(|piece| piece.within(&range)).collect());
    }
    Ok(pieces_whole(contents, ino, &range)?.iter().filter_map(|piece| piece.within(&range)).collect())
}

/// Pieces that reach into `range`, which is not empty, of a map in records of its own; in order, whole.
pub fn pieces_whole(
    contents: &(impl Contents + ?Sized),
    ino: Ino,
    range: &Range<u64>,
) -> Result<Vec<Piece>, IndexError> {
    spilled(range, |from, to, found| {
        contents.scan(Key::map(ino, from), Key::map(ino, to), &mut |_, record| {
            if let Record::Map(piece) = &**record {
                found(*piece);
            }
            true
        })
    })
}

/// Where the first piece begins at or after `from`, of a file that has some; `None` if none does.
pub fn next_piece(
    contents: &(impl Contents + ?Sized),
    ino: Ino,
    head: &Head,
    from: u64,
) -> Result<Option<u64>, IndexError> {
    if !head.spilled {
        return Ok(head.pieces.iter().map(|piece| piece.offset).find(|offset| *offset >= from));
    }
    let mut found = None;
    contents.scan(Key::map(ino, from), Key::map(ino, u64::MAX), &mut |key, record| {
        if let (Part::Map { offset }, Record::Map(_)) = (key.part, &**record) {
            found = Some(offset);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Cuts `range` out of the map: a hole.
pub fn cut(tx: &mut Transaction<'_>, ino: Ino, head: &mut Head, range: Range<u64>) -> Result<(), IndexError> {
    if range.is_empty() {
        return Ok(());
    }
    let outside = |piece: &Piece| [piece.within(&(0..range.start)), piece.within(&(range.end..u64::MAX))];
    if !head.spilled {
        head.pieces = head.pieces.iter().flat_map(outside).flatten().collect();
        spill(tx, ino, head);
        return Ok(());
    }
    let hit = spilled(&range, |from, to, found| {
        tx.scan(Key::map(ino, from), Key::map(ino, to), |_, record| {
            if let Record::Map(piece) = &**record {
                found(*piece);
            }
            true
        })
    })?;
    for piece in hit {
        tx.delete(Key::map(ino, piece.offset));
        for rest in outside(&piece).into_iter().flatten() {
            tx.put(Key::map(ino, rest.offset), Record::Map(rest));
        }
    }
    Ok(())
}

/// Puts pieces in place of whatever is there. They are in order and do not overlap. `head` has the size from before.
pub fn replace(tx: &mut Transaction<'_>, ino: Ino, head: &mut Head, new: &[Piece]) -> Result<(), IndexError> {
    // Beyond the size there is nothing to cut: whoever appends looks for nothing.
    let size = head.size;
    for piece in new.iter().filter(|piece| piece.offset < size) {
        cut(tx, ino, head, piece.offset..piece.end())?;
    }
    if head.spilled {
        for piece in new {
            tx.put(Key::map(ino, piece.offset), Record::Map(*piece));
        }
        return Ok(());
    }
    head.pieces.extend_from_slice(new);
    head.pieces.sort_unstable_by_key(|piece| piece.offset);
    spill(tx, ino, head);
    Ok(())
}

/// Cuts everything from `size` on. A map that becomes empty stands in the head again.
pub fn truncate(tx: &mut Transaction<'_>, ino: Ino, head: &mut Head, size: u64) -> Result<(), IndexError> {
    cut(tx, ino, head, size..u64::MAX)?;
    if size == 0 {
        head.spilled = false;
    }
    Ok(())
}

fn spill(tx: &mut Transaction<'_>, ino: Ino, head: &mut Head) {
    if head.pieces.len() <= INLINE_PIECES {
        return;
    }
    for piece in std::mem::take(&mut head.pieces) {
        tx.put(Key::map(ino, piece.offset), Record::Map(piece));
    }
    head.spilled = true;
}
