//! Where the bytes of a file are: in memory, sealed on this machine, or in the store alone; and moving them on request.
//!
//! Owns nothing. Looking renews no timer.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entry::Entry;
use super::{Cache, CacheError};
use crate::base::{ExtentId, Ino};
use crate::download::remote_storage::Here;
use crate::format::extent;
use crate::format::key::Key;
use crate::format::record::{Extent, Record};
use crate::history::map;

/// So much of a file is looked at under history's lock at a time.
const STRETCH: u64 = 64 << 20;
/// What one read of a file that is fetched on request asks for.
const STEP: usize = 1 << 20;

/// How much of a file can be read without the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// All of it is decrypted.
    Memory,
    /// All of it is here, decrypted or sealed.
    Disk,
    Remote,
    Partly,
}

impl Whereabouts {
    pub fn name(self) -> &'static str {
        match self {
            Whereabouts::Memory => "memory",
            Whereabouts::Disk => "disk",
            Whereabouts::Remote => "remote",
            Whereabouts::Partly => "partly",
        }
    }
}

/// A file of which memory holds something.
#[derive(Clone, Debug)]
pub struct Listed {
    pub ino: Ino,
    /// Clean plaintext.
    pub bytes: u64,
    pub dirty_bytes: u64,
    pub hits: u64,
    /// How long ago it was used.
    pub unused: Duration,
}

/// A part of an extent that a file shows: which frames.
type Shown = BTreeMap<ExtentId, (Extent, std::ops::Range<u32>)>;

impl Cache {
    pub fn whereabouts(&self, ino: Ino) -> Result<Whereabouts, CacheError> {
        let (mut memory, mut here, mut away) = (true, false, false);
        let mut at = 0;
        while let Some((shown, next)) = self.shown(ino, at)? {
            for (id, (extent, frames)) in shown {
                if self.frames.of_extent(ino, id, frames.clone()) == frames.len() {
                    here = true;
                    continue;
                }
                memory = false;
                match self.downloads.here(id, &extent, frames) {
                    Here::All => here = true,
                    Here::Part => (here, away) = (true, true),
                    Here::Nothing => away = true,
                }
            }
            if here && away {
                return Ok(Whereabouts::Partly);
            }
            at = next;
        }
        let dirty = self.entries.peek(ino).is_some_and(|entry| entry.lock().bytes() > 0);
        Ok(match (away, here || dirty) {
            (true, true) => Whereabouts::Partly,
            (true, false) => Whereabouts::Remote,
            (false, _) if memory => Whereabouts::Memory,
            (false, _) => Whereabouts::Disk,
        })
    }

    /// The stored frames that a stretch of a file shows, and where the next stretch begins. `None` past the end.
    fn shown(&self, ino: Ino, at: u64) -> Result<Option<(Shown, u64)>, CacheError> {
        let view = self.history.view();
        let Some(record) = view.get(&Key::head(ino))? else { return Err(CacheError::NotFound) };
        let Record::Head(head) = &*record else { return Err(CacheError::NotFound) };
        if at >= head.size {
            return Ok(None);
        }
        let next = at.saturating_add(STRETCH).min(head.size);
        let mut shown = Shown::new();
        for piece in map::pieces(&view, ino, head, at..next)? {
            let record = view.get(&Key::extent(piece.extent))?;
            let Some(Record::Extent(extent)) = record.as_deref() else { continue };
            let frames = extent::frames_of(extent, piece.start..piece.start.saturating_add(piece.len));
            let (_, known) = shown.entry(piece.extent).or_insert_with(|| (extent.clone(), frames.clone()));
            *known = known.start.min(frames.start)..known.end.max(frames.end);
        }
        // A hole of exabytes is one step.
        let next = match shown.is_empty() {
            true => map::pieces(&view, ino, head, next..head.size)?.first().map_or(head.size, |piece| piece.offset),
            false => next,
        };
        Ok(Some((shown, next)))
    }

    /// Fetches a file, stretch by stretch, into memory and whatever keeps sealed bytes. `told` hears how much came.
    pub async fn fetch(&self, ino: Ino, mut told: impl FnMut(u64)) -> Result<(), CacheError> {
        let mut at = 0;
        loop {
            // Dirty bytes are here; what is fetched is what is stored.
            let next = match self.shown(ino, at)? {
                None => return Ok(()),
                Some((shown, next)) if shown.is_empty() => {
                    at = next;
                    continue;
                }
                Some((_, next)) => next,
            };
            while at < next {
                let len = STEP.min((next - at) as usize);
                let came = self.read_in_background(ino, at, len).await?.len() as u64;
                told(came);
                at += len as u64;
            }
        }
    }

    /// Lets go of what is kept of a file for convenience: its entry, the kernel's pages, sealed bytes on the disk. Dirty
    /// bytes stay. Returns the plaintext bytes that went.
    pub fn let_go(&self, ino: Ino) -> Result<u64, CacheError> {
        let bytes = self.frames.held(ino).bytes;
        self.drops.fetch_add(1, Ordering::Relaxed);
        match self.entries.take(ino, Entry::is_safe) {
            Some(entry) => self.bury(vec![entry]),
            // In use, or dirty, or without an entry.
            None => {
                self.frames.wipe(ino);
                self.fresh.wipe(ino);
                if let (Some(_), Some(tell)) = (self.entries.peek(ino), self.undertaker.get()) {
                    tell([ino].into());
                }
            }
        }
        let mut at = 0;
        while let Some((shown, next)) = self.shown(ino, at)? {
            shown.values().for_each(|(extent, _)| self.downloads.drop_kept(extent));
            at = next;
        }
        Ok(bytes)
    }

    /// Files of which memory holds something, in the order of their numbers.
    pub fn list(&self) -> Vec<Listed> {
        let mut all: Vec<Listed> =
            self.entries.all().iter().map(|(entry, unused)| self.listed(entry, *unused)).collect();
        all.retain(|listed| listed.bytes + listed.dirty_bytes > 0);
        all.sort_by_key(|listed| listed.ino);
        all
    }

    fn listed(&self, entry: &Entry, unused: Duration) -> Listed {
        let dirty_bytes = entry.lock().bytes() as u64;
        Listed { ino: entry.ino, bytes: self.frames.held(entry.ino).bytes, dirty_bytes, hits: entry.hits(), unused }
    }
}
