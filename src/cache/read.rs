//! Reading: from dirty and frozen bytes, then clean frames, then the download pipeline.
//!
//! All that a read lacks is asked for at once, so it costs one round trip however many extents it touches. Behind it
//! comes what the reader will ask for next ([`super::ahead`]); nobody waits for that.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::entry::{Entry, Inner};
use super::{Cache, CacheError};
use crate::base::{ExtentId, Ino};
use crate::download::starter::Asked;
use crate::download::{self, DownloadError, Sink};
use crate::format::extent::{self, Frame};
use crate::format::key::Key;
use crate::format::record::{Extent, Head, Piece, Record};
use crate::history::map::{self, Contents};
use crate::history::versions::VersionId;

/// What is read ahead comes in pieces: enough of them at once to fill the window, none larger than this.
const PIECE_MAX: u32 = 2 * 1024 * 1024;
/// ... nor smaller, where there is so much.
const PIECE_MIN: u32 = 512 * 1024;
/// Into so many pieces a window is cut.
const PIECES: u64 = 4;

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
        // Held until the end: the entry does not die meanwhile.
        let entry = self.entry(ino);
        entry.pages.store(true, Ordering::Relaxed);
        let mut ahead = self.ahead.lock().read(ino, offset..offset.saturating_add(len as u64));
        let mut lookout = self.lookout.get();
        for _ in 0..LOOKS {
            let Some(mut plan) = self.plan(ino, version, offset, len)? else { return Ok(Bytes::new()) };
            let asked = self.ask(&entry, &plan, offset);
            if let Some(range) = ahead.take() {
                self.bring_ahead(ino, version, range);
            }
            match self.fill(&entry, &mut plan, offset, asked).await {
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
        self.look(ino, version, |contents, inner| plan_of(contents, inner, ino, offset, len))
    }

    /// One look at a file's state, memory and stored.
    fn look<T>(
        &self,
        ino: Ino,
        version: Option<VersionId>,
        see: impl Fn(&dyn Contents, Option<&mut Inner>) -> Result<T, CacheError>,
    ) -> Result<T, CacheError> {
        let entry = self.existing(ino);
        // The entry's lock is held over both looks, memory and stored: see its invariants.
        let mut inner = entry.as_ref().map(|entry| entry.lock());
        let view = self.history.view();
        if let Some(version) = version {
            let at = view.version(version).ok_or(CacheError::Stale)?;
            return see(&at, None);
        }
        match see(&view, inner.as_deref_mut()) {
            // Deleted elsewhere, and still mapped into memory: its last contents.
            Err(CacheError::NotFound) => match view.last_version(ino) {
                Some(at) => see(&at, None),
                None => Err(CacheError::NotFound),
            },
            seen => seen,
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

    /// Takes what memory has of a plan's frames, and asks for all the others: runs of them, in order.
    fn ask(&self, entry: &Entry, plan: &Plan, offset: u64) -> Vec<Run> {
        if !plan.filled.is_empty() {
            entry.hit();
            self.frames.hit();
        }
        let mut runs = Vec::new();
        for (wanted, record, start, stretch) in plan.stretches(offset) {
            let id = wanted.piece.extent;
            let mut frames = extent::frames_of(record, start..start + stretch.len() as u32);
            while !frames.is_empty() {
                let here: Vec<_> = frames.clone().map_while(|number| self.frames.get(entry, id, number)).collect();
                if !here.is_empty() {
                    let first = frames.start;
                    frames.start += here.len() as u32;
                    runs.push(Run { id, first, frames: Found::Here(here) });
                    continue;
                }
                let absent = self.absent(entry.ino, id, frames.clone());
                self.frames.missed(absent.len() as u64);
                frames.start = absent.end;
                let first = absent.start;
                let asked = self.downloads.ask(entry.ino, id, record, absent);
                runs.push(Run { id, first, frames: Found::Asked(asked) });
            }
        }
        runs
    }

    async fn fill(&self, entry: &Entry, plan: &mut Plan, offset: u64, asked: Vec<Run>) -> Result<(), DownloadError> {
        // In the order in which they were asked for; each frame stays in memory until it is copied.
        let mut runs = VecDeque::new();
        for Run { id, first, frames } in asked {
            let frames = match frames {
                Found::Here(here) => here,
                Found::Asked(asked) => self.keep(entry, id, first, asked.wait().await?),
            };
            runs.push_back((first, frames));
        }
        if plan.wanted.iter().any(|wanted| !matches!(&*wanted.record, Record::Extent(_))) {
            return Err(DownloadError::Gone);
        }
        let mut out = std::mem::replace(&mut plan.out, Answer(Vec::new()));
        for (_, record, start, stretch) in plan.stretches(offset) {
            let end = start + stretch.len() as u32;
            let mut at = start;
            while at < end {
                let (first, frames) = runs.pop_front().ok_or(DownloadError::Opening)?;
                for (number, frame) in (first..).zip(&frames) {
                    let plain = extent::plain_range(record, number..number + 1);
                    let (from, to) = (at.max(plain.start), end.min(plain.end));
                    let place = stretch.start + (from - start) as usize;
                    let bytes = frame.get((from - plain.start) as usize..(to - plain.start) as usize);
                    out.0[place..place + (to - from) as usize].copy_from_slice(bytes.ok_or(DownloadError::Opening)?);
                    at = to;
                }
            }
        }
        plan.out = out;
        Ok(())
    }

    /// A fetch that another file's reader began, which shares the extent, filled only that one's entry.
    fn keep(&self, entry: &Entry, id: ExtentId, first: u32, frames: download::Frames) -> Vec<Arc<Frame>> {
        for (number, frame) in (first..).zip(frames.iter()) {
            if !self.frames.has(entry.ino, id, number) {
                self.frames.put(entry, id, number, frame.clone());
            }
        }
        frames.to_vec()
    }

    /// The leading frames of a run that are not in memory (the first one is not).
    pub(super) fn absent(&self, ino: Ino, id: ExtentId, frames: Range<u32>) -> Range<u32> {
        let known = (frames.start + 1..frames.end).find(|number| self.frames.has(ino, id, *number));
        frames.start..known.unwrap_or(frames.end)
    }

    /// Begins to bring what a reader will ask for. Nobody waits for it, so whatever is wrong with it will be told when
    /// somebody does.
    fn bring_ahead(&self, ino: Ino, version: Option<VersionId>, range: Range<u64>) {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let most = ((range.end - range.start) / PIECES).clamp(PIECE_MIN.into(), PIECE_MAX.into()) as u32;
        let wanted = match self.look(ino, version, |contents, inner| wanted_of(contents, inner, ino, range.start, len))
        {
            Ok(Some((_, wanted))) => wanted,
            Ok(None) => return,
            Err(error) => return log::debug!("{ino}: nothing is read ahead: {error}"),
        };
        for Wanted { piece, record } in wanted {
            let Record::Extent(record) = &*record else { continue };
            let mut frames = extent::frames_of(record, piece.start..piece.start + piece.len);
            let step = (most >> record.frame_log2).max(1);
            while !frames.is_empty() {
                if self.frames.has(ino, piece.extent, frames.start) {
                    frames.start += 1;
                    continue;
                }
                let run = frames.start..frames.end.min(frames.start + step);
                let run = self.absent(ino, piece.extent, run);
                if !self.downloads.ahead(ino, piece.extent, record, run.clone()) {
                    let within = extent::plain_range(record, run).start.saturating_sub(piece.start);
                    self.ahead.lock().refused(ino, piece.offset + u64::from(within));
                    return;
                }
                frames.start = run.end;
            }
        }
    }
}

impl Sink for Cache {
    /// Nothing is kept for a file whose entry died meanwhile.
    fn fill(&self, reader: Ino, id: ExtentId, first: u32, frames: &download::Frames) {
        let Some(entry) = self.entries.peek(reader) else { return };
        for (number, frame) in (first..).zip(frames.iter()) {
            self.frames.put(&entry, id, number, frame.clone());
        }
    }
}

/// Frames of one extent that a read needs, from the first on.
struct Run {
    id: ExtentId,
    first: u32,
    frames: Found,
}

enum Found {
    Here(Vec<Arc<Frame>>),
    Asked(Asked),
}

impl Plan {
    /// What is to be copied from extents: from which byte of the extent on, to which bytes of the answer.
    fn stretches(&self, offset: u64) -> impl Iterator<Item = (&Wanted, &Extent, u32, Range<usize>)> {
        self.wanted.iter().flat_map(move |wanted| {
            let from = (wanted.piece.offset - offset) as usize;
            let stretches = match &*wanted.record {
                Record::Extent(_) => subtract(from..from + wanted.piece.len as usize, &self.filled),
                _ => Vec::new(),
            };
            stretches.into_iter().filter_map(move |stretch| match &*wanted.record {
                Record::Extent(record) => {
                    Some((wanted, record, wanted.piece.start + (stretch.start - from) as u32, stretch))
                }
                _ => None,
            })
        })
    }
}

/// One look at contents, and at what memory holds of them.
fn plan_of(
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
type Stretches = (Range<u64>, Vec<Wanted>);

/// What there is of these bytes.
fn wanted_of(
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
    let mut wanted = Vec::new();
    for piece in pieces_of(contents, inner, ino, head, &range)? {
        match contents.get(&Key::extent(piece.extent))? {
            Some(record) if holds(&record, &piece) => wanted.push(Wanted { piece, record }),
            Some(_) => return Err(CacheError::Io(format!("{ino}: the map names bytes that its extent has not"))),
            None => return Err(CacheError::Io(format!("{ino}: the map names an extent that is not there"))),
        }
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
