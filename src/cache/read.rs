//! Reading: from dirty and frozen bytes, then clean frames, then the download pipeline.
//!
//! All that a read lacks is asked for at once ([`super::plan`] says what), so it costs one round trip however many extents
//! it touches. Behind it comes what the reader will ask for next ([`super::ahead`]); nobody waits for that.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::entry::{Entry, Inner};
use super::plan::{self, Answer, Plan, Stretch};
use super::{Cache, CacheError};
use crate::base::{ExtentId, Ino};
use crate::download::starter::Asked;
use crate::download::{self, DownloadError, Sink};
use crate::format::extent::{self, Frame};
use crate::format::key::Key;
use crate::format::record::Piece;
use crate::history::map::Contents;
use crate::history::versions::VersionId;
use crate::pipeline::Class;

/// What is read ahead comes in pieces: enough of them at once to fill the window, none larger than this.
const PIECE_MAX: u32 = 2 * 1024 * 1024;
/// ... nor smaller, where there is so much.
const PIECE_MIN: u32 = 512 * 1024;
/// Into so many pieces a window is cut.
const PIECES: u64 = 4;

/// How often a read looks again when an extent died under it. Each time the file was rewritten meanwhile.
const LOOKS: usize = 64;

/// Frames that nobody needs are brought along where they lie between others, up to so many bytes: a fetch of its own costs
/// more.
const GAP: u32 = 32 * 1024;

impl Cache {
    /// Reads up to `len` bytes at `offset`; fewer only at the file's end.
    pub async fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Bytes, CacheError> {
        self.read_of(ino, None, Class::Waited, offset, len).await
    }

    /// As [`Cache::read`], of what the file held when it was opened.
    pub async fn read_version(
        &self,
        ino: Ino,
        version: VersionId,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, CacheError> {
        self.read_of(ino, Some(version), Class::Waited, offset, len).await
    }

    /// As [`Cache::read`], behind all that others wait for.
    pub async fn read_in_background(&self, ino: Ino, offset: u64, len: usize) -> Result<Bytes, CacheError> {
        self.read_of(ino, None, Class::Bulk, offset, len).await
    }

    async fn read_of(
        &self,
        ino: Ino,
        version: Option<VersionId>,
        class: Class,
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
            let asked = self.ask(&entry, &plan, class, offset);
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
        self.look(ino, version, |contents, inner| plan::plan_of(contents, inner, ino, offset, len))
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

    /// Takes what memory has of a plan's frames, and asks for all the others: runs of them, in the order of extents and
    /// frames.
    fn ask(&self, entry: &Entry, plan: &Plan, class: Class, offset: u64) -> Vec<Needed> {
        if !plan.filled.is_empty() {
            entry.hit(1);
            self.frames.hit();
        }
        let mut needed = Vec::new();
        for plan::Run { id, extent, mut frames, .. } in plan::runs(plan.stretches(offset), 0, u32::MAX) {
            while !frames.is_empty() {
                let first = frames.start;
                let here = self.frames.leading(entry, id, frames.clone());
                if !here.is_empty() {
                    frames.start += here.len() as u32;
                    needed.push(Needed { id, first, frames: Found::Here(here) });
                    continue;
                }
                let absent = self.frames.absent(entry.ino, id, frames.clone());
                self.frames.missed(absent.len() as u64);
                frames.start = absent.end;
                let asked = match class {
                    Class::Waited => self.downloads.ask(entry.ino, id, extent, absent),
                    _ => self.downloads.ask_in_background(entry.ino, id, extent, absent),
                };
                needed.push(Needed { id, first, frames: Found::Asked(asked) });
            }
        }
        needed
    }

    async fn fill(
        &self,
        entry: &Entry,
        plan: &mut Plan,
        offset: u64,
        needed: Vec<Needed>,
    ) -> Result<(), DownloadError> {
        // Each frame stays in memory until it is copied.
        let mut found = Vec::with_capacity(needed.len());
        for Needed { id, first, frames } in needed {
            let frames = match frames {
                Found::Here(here) => here,
                Found::Asked(asked) => {
                    let frames = asked.wait().await?;
                    // A fetch that another file's reader began, which shares the extent, filled only that one's entry.
                    self.frames.keep(entry, id, first, &frames);
                    frames.to_vec()
                }
            };
            found.push((id, first, frames));
        }
        if plan.wanted.iter().any(|wanted| wanted.extent().is_none()) {
            return Err(DownloadError::Gone);
        }
        let mut out = std::mem::replace(&mut plan.out, Answer(Vec::new()));
        for Stretch { id, extent, bytes, at } in plan.stretches(offset) {
            for number in extent::frames_of(extent, bytes.clone()) {
                let run = found.partition_point(|(of, first, _)| (*of, *first) <= (id, number)).checked_sub(1);
                let (of, first, frames) = &found[run.ok_or(DownloadError::Opening)?];
                let frame = frames.get((number - first) as usize).filter(|_| *of == id);
                let frame = frame.ok_or(DownloadError::Opening)?;
                let plain = extent::plain_range(extent, number..number + 1);
                let (from, to) = (bytes.start.max(plain.start), bytes.end.min(plain.end));
                let place = (at - offset) as usize + (from - bytes.start) as usize;
                let bytes = frame.get((from - plain.start) as usize..(to - plain.start) as usize);
                out.0[place..place + (to - from) as usize].copy_from_slice(bytes.ok_or(DownloadError::Opening)?);
            }
        }
        plan.out = out;
        Ok(())
    }

    /// Begins to bring what a reader will ask for, what is needed first before the rest. Nobody waits for it, so whatever
    /// is wrong with it will be told when somebody does.
    fn bring_ahead(&self, ino: Ino, version: Option<VersionId>, range: Range<u64>) {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let most = ((range.end - range.start) / PIECES).clamp(PIECE_MIN.into(), PIECE_MAX.into()) as u32;
        let wanted =
            match self.look(ino, version, |contents, inner| plan::wanted_of(contents, inner, ino, range.start, len)) {
                Ok(Some((_, wanted))) => wanted,
                Ok(None) => return,
                Err(error) => return log::debug!("{ino}: nothing is read ahead: {error}"),
            };
        let stretches = wanted.iter().filter_map(|wanted| {
            let Piece { offset: at, extent: id, start, len } = wanted.piece;
            Some(Stretch { id, extent: wanted.extent()?, bytes: start..start + len, at })
        });
        let mut runs = plan::runs(stretches, GAP, most);
        runs.sort_by_key(|run| run.at);
        if runs.len() > 1 {
            let absent = runs.iter().filter(|run| !self.frames.has(ino, run.id, run.frames.start));
            self.downloads.announce(absent.map(|run| (run.extent, run.frames.clone())));
        }
        for plan::Run { id, extent, mut frames, at } in runs {
            while !frames.is_empty() {
                if self.frames.has(ino, id, frames.start) {
                    frames.start += 1;
                    continue;
                }
                let absent = self.frames.absent(ino, id, frames.clone());
                if !self.downloads.ahead(ino, id, extent, absent.clone()) {
                    // All that is needed before was asked for.
                    self.ahead.lock().refused(ino, at);
                    return;
                }
                frames.start = absent.end;
            }
        }
    }
}

impl Sink for Cache {
    /// Nothing is kept for a file whose entry died meanwhile.
    fn fill(&self, reader: Ino, id: ExtentId, first: u32, frames: &download::Frames) {
        let Some(entry) = self.entries.peek(reader) else { return };
        self.frames.put(&entry, id, first, frames);
    }
}

/// Frames of one extent that a read needs, from the first on.
struct Needed {
    id: ExtentId,
    first: u32,
    frames: Found,
}

enum Found {
    Here(Vec<Arc<Frame>>),
    Asked(Asked),
}
