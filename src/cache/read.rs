//! Reading: from dirty and frozen bytes, then clean frames, then the download pipeline.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::entry::Inner;
use super::{Cache, CacheError};
use crate::base::{ExtentId, Ino};
use crate::download::DownloadError;
use crate::format::extent;
use crate::format::key::Key;
use crate::format::record::{Extent, Head, Piece, Record};
use crate::history::map::{self, Contents};
use crate::history::versions::VersionId;

/// What a sequential reader fetches at once beyond what it asked for: eight kernel requests.
const SEQUENTIAL_BYTES: u32 = 1024 * 1024;

/// How often a read looks again when an extent died under it. Each time the file was rewritten meanwhile.
const LOOKS: usize = 64;

/// A stored stretch that a read needs.
struct Wanted {
    piece: Piece,
    record: Arc<Record>,
}

/// What one look at a file's state found: memory's bytes are copied, the rest is named.
struct Plan {
    out: Answer,
    /// Stretches of `out` that memory filled, in order of their copying.
    filled: Vec<Range<usize>>,
    wanted: Vec<Wanted>,
}

/// Plaintext on its way to the kernel. Wiped when it was sent: at the speed of memory, since each read pays for it.
struct Answer(Vec<u8>);

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

impl Cache {
    /// Reads up to `len` bytes at `offset`; fewer only at the file's end.
    pub async fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Bytes, CacheError> {
        self.read_of(ino, None, offset, len).await
    }

    /// As [`Cache::read`], of what the file held when it was opened.
    pub async fn read_version(
        &self,
        ino: Ino,
        version: VersionId,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, CacheError> {
        self.read_of(ino, Some(version), offset, len).await
    }

    async fn read_of(
        &self,
        ino: Ino,
        version: Option<VersionId>,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, CacheError> {
        let entry = self.entry(ino);
        entry.hit();
        let sequential = entry.read_end.swap(offset.saturating_add(len as u64), Ordering::Relaxed) == offset;
        let mut lookout = self.lookout.get();
        for _ in 0..LOOKS {
            let Some(mut plan) = self.plan(ino, version, offset, len)? else { return Ok(Bytes::new()) };
            match self.fill(&mut plan, offset, sequential).await {
                Ok(()) => return Ok(Bytes::from_owner(plan.out)),
                Err(DownloadError::Gone) => {}
                Err(error) if error.is_of_the_bytes() && lookout.is_some() => {
                    log::debug!("{ino}: bytes from {offset}: {error}; looking whether the vault has gone on");
                    if let Some(lookout) = lookout.take() {
                        lookout.look().await;
                    }
                }
                Err(error) if error.is_of_the_bytes() && version.is_some_and(|id| !self.is_current(id)) => {
                    log::info!("{ino}: bytes of a state that is over: {error}");
                    return Err(CacheError::Stale);
                }
                Err(DownloadError::Missing(_)) if version.is_none() && self.is_late(&plan)? => {}
                Err(error) => {
                    // An outage has its own line; one for each read would bury it.
                    let level = match error {
                        DownloadError::Store(_) => log::Level::Debug,
                        _ => log::Level::Error,
                    };
                    log::log!(level, "{ino}: bytes from {offset}: {error}");
                    return Err(CacheError::Io(error.to_string()));
                }
            }
        }
        Err(CacheError::Io("the file is rewritten faster than it can be read".to_owned()))
    }

    fn is_current(&self, version: VersionId) -> bool {
        self.history.view().is_current(version)
    }

    /// `None` at or past the end.
    fn plan(&self, ino: Ino, version: Option<VersionId>, offset: u64, len: usize) -> Result<Option<Plan>, CacheError> {
        let entry = self.existing(ino);
        // The entry's lock is held over both looks, memory and stored: see its invariants.
        let mut inner = entry.as_ref().map(|entry| entry.lock());
        let view = self.history.view();
        if let Some(version) = version {
            let at = view.version(version).ok_or(CacheError::Stale)?;
            return plan_of(&at, None, ino, offset, len);
        }
        match plan_of(&view, inner.as_deref_mut(), ino, offset, len) {
            // Deleted elsewhere, and still mapped into memory: its last contents.
            Err(CacheError::NotFound) => match view.last_version(ino) {
                Some(at) => plan_of(&at, None, ino, offset, len),
                None => Err(CacheError::NotFound),
            },
            plan => plan,
        }
    }

    /// An object is missing: are the bytes elsewhere by now, or gone with the file's old contents (D3)? A writer's own
    /// state is the newest that there is.
    fn is_late(&self, plan: &Plan) -> Result<bool, CacheError> {
        let view = self.history.view();
        for wanted in &plan.wanted {
            if view.get(&Key::extent(wanted.piece.extent))?.as_deref() != Some(&*wanted.record) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn fill(&self, plan: &mut Plan, offset: u64, sequential: bool) -> Result<(), DownloadError> {
        let Plan { out, filled, wanted } = plan;
        for wanted in wanted.iter() {
            let Record::Extent(record) = &*wanted.record else { return Err(DownloadError::Gone) };
            let from = (wanted.piece.offset - offset) as usize;
            for stretch in subtract(from..from + wanted.piece.len as usize, filled) {
                let start = wanted.piece.start + (stretch.start - from) as u32;
                self.copy(wanted.piece.extent, record, start, &mut out.0[stretch], sequential).await?;
            }
        }
        Ok(())
    }

    /// Copies plaintext of an extent from `start` on, by frames.
    async fn copy(
        &self,
        id: ExtentId,
        record: &Extent,
        start: u32,
        out: &mut [u8],
        sequential: bool,
    ) -> Result<(), DownloadError> {
        let end = start + out.len() as u32;
        let mut at = start;
        while at < end {
            let frames = extent::frames_of(record, at..end);
            let number = frames.start;
            let frame = match self.frames.get(id, number) {
                Some(frame) => {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    frame
                }
                None => {
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    let until = if sequential { end.max(at + SEQUENTIAL_BYTES) } else { end }.min(record.len);
                    let wanted = self.absent(id, extent::frames_of(record, at..until));
                    let fetched = self.downloads.fetch(id, record, wanted.clone()).await?;
                    for (k, frame) in fetched.iter().enumerate() {
                        self.frames.put(id, wanted.start + k as u32, frame.clone());
                    }
                    fetched.first().cloned().ok_or(DownloadError::Opening)?
                }
            };
            let plain = extent::plain_range(record, number..number + 1);
            let (from, to) = ((at - plain.start) as usize, (end.min(plain.end) - plain.start) as usize);
            let place = (at - start) as usize;
            out[place..place + (to - from)].copy_from_slice(&frame[from..to]);
            at = plain.end.min(end);
        }
        Ok(())
    }

    /// The leading frames of a run that are not in memory (the first one is not).
    fn absent(&self, id: ExtentId, frames: Range<u32>) -> Range<u32> {
        let known = (frames.start + 1..frames.end).find(|number| self.frames.get(id, *number).is_some());
        frames.start..known.unwrap_or(frames.end)
    }
}

/// One look at contents, and at what memory holds of them.
fn plan_of(
    contents: &impl Contents,
    mut inner: Option<&mut Inner>,
    ino: Ino,
    offset: u64,
    len: usize,
) -> Result<Option<Plan>, CacheError> {
    let Some(record) = contents.get(&Key::head(ino))? else { return Err(CacheError::NotFound) };
    let Record::Head(head) = &*record else { return Err(CacheError::NotFound) };
    let size = inner.as_ref().and_then(|inner| inner.live).map_or(head.size, |live| live.size);
    let end = size.min(offset.saturating_add(len as u64));
    if offset >= end {
        return Ok(None);
    }
    let range = offset..end;
    let mut wanted = Vec::new();
    for piece in pieces_of(contents, inner.as_deref_mut(), ino, head, &range)? {
        match contents.get(&Key::extent(piece.extent))? {
            Some(record) if holds(&record, &piece) => wanted.push(Wanted { piece, record }),
            Some(_) => return Err(CacheError::Io(format!("{ino}: the map names bytes that its extent has not"))),
            None => return Err(CacheError::Io(format!("{ino}: the map names an extent that is not there"))),
        }
    }
    // Holes are zeros because no piece covers them, and only then.
    let mut out = Answer(vec![0; (end - offset) as usize]);
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

/// The pieces that reach into `range`. A reader that goes on within one piece of a long map finds it remembered: looking
/// for it costs more than the copy of a page.
fn pieces_of(
    contents: &impl Contents,
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
fn holds(record: &Record, piece: &Piece) -> bool {
    matches!(record, Record::Extent(extent) if u64::from(piece.start) + u64::from(piece.len) <= u64::from(extent.len))
}

/// What is left of `range` without `filled`.
fn subtract(range: Range<usize>, filled: &[Range<usize>]) -> Vec<Range<usize>> {
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
    use proptest::prelude::*;

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
    }
}
