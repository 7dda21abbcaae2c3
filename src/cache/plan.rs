//! What a read needs of what is stored: which stretches of the file, and, extent by extent, which frames.
//!
//! A synchronous core, without locks of its own: [`super::read`] looks under the entry's and history's.
//!
//! The pieces of a file that was rewritten here and there lie in few extents, but neighbours in the file are seldom
//! neighbours in an extent. So what is needed is gathered by extent first ([`runs`]), and side by side there it is asked
//! for together, whatever lies between in the file.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::CacheError;
use super::entry::Inner;
use crate::base::{ExtentId, Ino};
use crate::format::extent;
use crate::format::key::Key;
use crate::format::record::{Extent, Head, Piece, Record};
use crate::history::map::{self, Contents};

/// A stored stretch that a read needs.
pub(super) struct Wanted {
    pub piece: Piece,
    pub record: Arc<Record>,
}

impl Wanted {
    pub fn extent(&self) -> Option<&Extent> {
        match &*self.record {
            Record::Extent(extent) => Some(extent),
            _ => None,
        }
    }
}

/// What one look at a file's state found: memory's bytes are copied, the rest is named.
pub(super) struct Plan {
    pub out: Answer,
    /// Stretches of `out` that memory filled, in order of their copying.
    pub filled: Vec<Range<usize>>,
    pub wanted: Vec<Wanted>,
}

/// Plaintext on its way to the kernel. Wiped when it was sent: at the speed of memory, since each read pays for it.
pub(super) struct Answer(pub Vec<u8>);

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.fill(0);
        zeroize::optimization_barrier(&self.0[..]);
    }
}

/// Bytes of an extent, and where in the file they are.
pub(super) struct Stretch<'a> {
    pub id: ExtentId,
    pub extent: &'a Extent,
    pub bytes: Range<u32>,
    pub at: u64,
}

impl Plan {
    /// What is to be copied from extents, in the file's order; `offset` is where the answer begins.
    pub fn stretches(&self, offset: u64) -> impl Iterator<Item = Stretch<'_>> {
        self.wanted.iter().filter_map(|wanted| Some((wanted.piece, wanted.extent()?))).flat_map(
            move |(piece, extent)| {
                let from = (piece.offset - offset) as usize;
                let left = subtract(from..from + piece.len as usize, &self.filled);
                left.into_iter().map(move |left| {
                    let start = piece.start + (left.start - from) as u32;
                    Stretch {
                        id: piece.extent,
                        extent,
                        bytes: start..start + left.len() as u32,
                        at: offset + left.start as u64,
                    }
                })
            },
        )
    }
}

/// Frames of one extent, side by side.
pub(super) struct Run<'a> {
    pub id: ExtentId,
    pub extent: &'a Extent,
    pub frames: Range<u32>,
    /// Where in the file something of them is needed first.
    pub at: u64,
}

/// The frames in which these stretches lie, each once, in the order of extents and frames. Runs with at most `gap` bytes
/// between them are one; none is longer than `most` bytes, or it is one frame.
pub(super) fn runs<'a>(stretches: impl Iterator<Item = Stretch<'a>>, gap: u32, most: u32) -> Vec<Run<'a>> {
    let mut all: Vec<Stretch<'a>> = stretches.collect();
    // Mostly they are few, or in order already.
    all.sort_by_key(|stretch| (stretch.id, stretch.bytes.start));
    let mut runs: Vec<Run<'a>> = Vec::new();
    for Stretch { id, extent, bytes, at } in all {
        let (gap, most) = (gap >> extent.frame_log2, (most >> extent.frame_log2).max(1));
        let mut frames = extent::frames_of(extent, bytes.clone());
        while !frames.is_empty() {
            let at = at + u64::from(extent::plain_range(extent, frames.clone()).start.saturating_sub(bytes.start));
            // Of two stretches that share a frame the later one in the extent may be the first in the file.
            let shared = runs.iter_mut().rev().take_while(|run| run.id == id && run.frames.end > frames.start);
            if let Some(shared) = shared.last() {
                shared.at = shared.at.min(at);
                frames.start = shared.frames.end.min(frames.end);
                continue;
            }
            match runs.last_mut().filter(|last| last.id == id) {
                Some(last) if frames.start - last.frames.end <= gap && frames.start + 1 - last.frames.start <= most => {
                    last.frames.end = frames.end.min(last.frames.start + most);
                    last.at = last.at.min(at);
                    frames.start = last.frames.end;
                }
                _ => {
                    let end = frames.end.min(frames.start + most);
                    runs.push(Run { id, extent, frames: frames.start..end, at });
                    frames.start = end;
                }
            }
        }
    }
    runs
}

/// One look at contents, and at what memory holds of them.
pub(super) fn plan_of(
    contents: &dyn Contents,
    mut inner: Option<&mut Inner>,
    ino: Ino,
    offset: u64,
    len: usize,
) -> Result<Option<Plan>, CacheError> {
    let Some((range, wanted)) = wanted_of(contents, inner.as_deref_mut(), ino, offset, len)? else { return Ok(None) };
    // Holes are zeros because no piece covers them, and only then.
    let mut out = Answer(vec![0; (range.end - range.start) as usize]);
    let mut filled = Vec::new();
    if let Some(inner) = inner {
        inner.visit(&range, |at, bytes| {
            let from = (at - offset) as usize;
            out.0[from..from + bytes.len()].copy_from_slice(bytes);
            filled.push(from..from + bytes.len());
        });
    }
    Ok(Some(Plan { out, filled, wanted }))
}

/// Bytes of a file, and the stored stretches in which they lie.
pub(super) type Stretches = (Range<u64>, Vec<Wanted>);

/// What there is of these bytes.
pub(super) fn wanted_of(
    contents: &dyn Contents,
    inner: Option<&mut Inner>,
    ino: Ino,
    offset: u64,
    len: usize,
) -> Result<Option<Stretches>, CacheError> {
    let Some(record) = contents.get(&Key::head(ino))? else { return Err(CacheError::NotFound) };
    let Record::Head(head) = &*record else { return Err(CacheError::NotFound) };
    let size = inner.as_ref().and_then(|inner| inner.live).map_or(head.size, |live| live.size);
    let end = size.min(offset.saturating_add(len as u64));
    if offset >= end {
        return Ok(None);
    }
    let range = offset..end;
    let pieces = pieces_of(contents, inner, ino, head, &range)?;
    let mut wanted = Vec::with_capacity(pieces.len());
    // Many pieces lie in few extents: each is looked up once.
    let mut known: HashMap<ExtentId, Arc<Record>> = HashMap::new();
    let several = pieces.len() > 1;
    for piece in pieces {
        let record = match known.get(&piece.extent) {
            Some(record) => record.clone(),
            None => match contents.get(&Key::extent(piece.extent))? {
                Some(record) => record,
                None => return Err(CacheError::Io(format!("{ino}: the map names an extent that is not there"))),
            },
        };
        if !holds(&record, &piece) {
            return Err(CacheError::Io(format!("{ino}: the map names bytes that its extent has not")));
        }
        if several {
            known.entry(piece.extent).or_insert_with(|| record.clone());
        }
        wanted.push(Wanted { piece, record });
    }
    Ok(Some((range, wanted)))
}

/// The pieces that reach into `range`. A reader that goes on within one piece of a long map finds it remembered: looking
/// for it costs more than the copy of a page.
fn pieces_of(
    contents: &dyn Contents,
    inner: Option<&mut Inner>,
    ino: Ino,
    head: &Head,
    range: &Range<u64>,
) -> Result<Vec<Piece>, CacheError> {
    let Some(inner) = inner.filter(|_| head.spilled) else {
        return Ok(map::pieces(contents, ino, head, range.clone())?);
    };
    if let Some((position, piece)) = inner.last_piece
        && position == head.position
        && piece.offset <= range.start
        && range.end <= piece.end()
    {
        return Ok(piece.within(range).into_iter().collect());
    }
    let found = map::pieces_whole(contents, ino, range)?;
    inner.last_piece = found.last().map(|piece| (head.position, *piece));
    Ok(found.iter().filter_map(|piece| piece.within(range)).collect())
}

/// Lies the piece within its extent? Nothing else may be computed with.
pub(super) fn holds(record: &Record, piece: &Piece) -> bool {
    matches!(record, Record::Extent(extent) if u64::from(piece.start) + u64::from(piece.len) <= u64::from(extent.len))
}

/// What is left of `range` without `filled`.
pub(super) fn subtract(range: Range<usize>, filled: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut left = vec![range];
    for gone in filled {
        left = left
            .into_iter()
            .flat_map(|r| [r.start..r.end.min(gone.start), r.start.max(gone.end)..r.end])
            .filter(|r| r.start < r.end)
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Place;
    use proptest::prelude::*;

    fn extent(frame_log2: u8, len: u32) -> Extent {
        let (key_id, nonce, place) = ([0; 16], [0; 16], Place::Local);
        Extent { key_id, nonce, frame_log2, len, stored: 0, frames: Vec::new(), place, extra: None }
    }

    proptest! {
        #[test]
        fn subtraction_leaves_what_is_not_filled(filled in prop::collection::vec((0usize..60, 0usize..20), 0..8)) {
            let filled: Vec<_> = filled.into_iter().map(|(at, len)| at..at + len).collect();
            let mut expected = [false; 100];
            expected[10..50].fill(true);
            filled.iter().for_each(|r| expected[r.clone()].fill(false));
            let mut seen = [false; 100];
            subtract(10..50, &filled).into_iter().for_each(|r| seen[r].fill(true));
            prop_assert_eq!(expected, seen);
        }

        /// Every frame that is needed is in one run, none is in two, and none begins later than where it is needed.
        #[test]
        fn what_is_needed_is_asked_for_once(
            pieces in prop::collection::vec((0u64..3, 0u32..200_000, 1u32..60_000), 1..40),
            gap in prop::sample::select(vec![0u32, 4096, 40_000]),
            most in prop::sample::select(vec![1u32, 16_384, 70_000, u32::MAX]),
        ) {
            let extents = [12, 14, 17].map(|log2| extent(log2, 260_000));
            let mut needed = std::collections::BTreeMap::new();
            let mut at = 1 << 40;
            let mut stretches = Vec::new();
            for (which, start, len) in pieces {
                let extent = &extents[which as usize];
                let id = ExtentId { owner: Ino(2), number: which };
                let bytes = start..start + len;
                for frame in extent::frames_of(extent, bytes.clone()) {
                    let place = at + u64::from((frame << extent.frame_log2).saturating_sub(start));
                    needed.entry((id, frame)).and_modify(|first: &mut u64| *first = place.min(*first)).or_insert(place);
                }
                stretches.push(Stretch { id, extent, bytes, at });
                at += u64::from(len);
            }
            // The last in the file may be the first in its extent.
            stretches.reverse();
            let runs = runs(stretches.into_iter(), gap, most);
            let mut seen = std::collections::BTreeMap::new();
            for run in &runs {
                let log2 = run.extent.frame_log2;
                prop_assert!(!run.frames.is_empty() && run.frames.len() as u32 <= (most >> log2).max(1));
                let inside = run.frames.clone().filter_map(|frame| needed.get(&(run.id, frame)));
                prop_assert_eq!(inside.min(), Some(&run.at));
                for frame in run.frames.clone() {
                    prop_assert!(seen.insert((run.id, frame), ()).is_none());
                }
                let empty = run.frames.clone().filter(|frame| !needed.contains_key(&(run.id, *frame))).count();
                prop_assert!(gap >> log2 > 0 || empty == 0);
            }
            prop_assert!(needed.keys().all(|key| seen.contains_key(key)));
            prop_assert!(runs.is_sorted_by_key(|run| (run.id, run.frames.start)));
        }
    }
}
