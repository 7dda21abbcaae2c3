//! Grid blocks of segments, sealed: which are kept, which are on their way, and which more are worth bringing.
//!
//! Owns the decision what is asked of the store. Does not ask. Holds ciphertext only.
//!
//! Small files that were made together lie side by side in one segment. When whole small extents of *different* files of
//! one segment are missed one after the other, a directory is being read: each further miss brings a larger run around it
//! (1, 4, 16, then 32 blocks), so that a segment of two thousand files costs a handful of requests, in whatever order they
//! are read. Reads in one file never bring a neighbour; but where many small extents of it are read ahead, whoever does so
//! says which blocks they lie in first, and those that lie side by side come together ([`Blocks::announce`]).

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use tokio::time::Instant;

use super::DownloadError;
use crate::base::sizes::{CLASS_MAX, READ_GRID};
use crate::base::{Ino, ObjectId, watch};
use crate::pipeline::{Class, Memory, Permit, Urgency, Use};

/// Blocks kept: 32 MiB, four whole segments.
const KEPT: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
/// Segments of which it is remembered that small files were missed.
const WATCHED: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Misses further apart than this have nothing to do with each other.
const TOGETHER: Duration = Duration::from_secs(10);
/// How much larger each run is, and the largest: 2 MiB, so that who waits for a small file does so for little more than a
/// round trip on a slow line, too.
const GROWTH: u32 = 4;
const RUN_MAX: u32 = 32;
/// A segment has no more.
const OBJECT_BLOCKS: u32 = CLASS_MAX.div_ceil(READ_GRID) as u32;
/// Runs of at most so many blocks are kept, as are those that bring neighbours; of larger ones only the blocks at both
/// ends, which others share: bulk would push out what is read again.
const SMALL_RUN: u32 = 4;
/// Two missing runs with no more blocks between them that are here already are one GET.
const GAP: u32 = 2;

pub type Got = Option<Result<Bytes, DownloadError>>;

/// One GET on its way: so many blocks from the first.
#[derive(Clone)]
pub struct Coming {
    pub blocks: Range<u32>,
    pub urgency: Urgency,
    pub answer: watch::Receiver<Got>,
}

/// A GET to be made.
pub struct Run {
    pub object: ObjectId,
    pub blocks: Range<u32>,
    /// Memory for neighbours that nobody asked for, which are kept; `None` if there are none.
    pub neighbours: Option<Permit>,
    pub urgency: Urgency,
    pub tell: watch::Sender<Got>,
}

/// Where the bytes of some blocks are.
#[derive(Clone)]
pub enum Source {
    Kept(Bytes),
    Coming(Coming),
}

/// Who asks for bytes that are a whole small extent.
#[derive(Clone, Copy)]
pub struct SmallFile(pub Ino);

struct Misses {
    last: Ino,
    files: u32,
    at: Instant,
}

pub struct Blocks {
    kept: LruCache<(ObjectId, u32), Bytes>,
    coming: BTreeMap<(ObjectId, u32), Coming>,
    misses: LruCache<ObjectId, Misses>,
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks { kept: LruCache::new(KEPT), coming: BTreeMap::new(), misses: LruCache::new(WATCHED) }
    }
}

impl Blocks {
    /// The blocks, if all of them are kept.
    pub fn all_kept(&mut self, object: ObjectId, blocks: Range<u32>) -> Option<Vec<Bytes>> {
        blocks.map(|n| self.kept.get(&(object, n)).cloned()).collect()
    }

    /// As [`Blocks::all_kept`], without counting as a use of them.
    pub fn peek(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        self.kept.peek(&(object, block)).cloned()
    }

    /// Where each of these blocks comes from, in order, and the GETs that are to be made for it. `memory` is asked for room
    /// for neighbours.
    pub fn find(
        &mut self,
        object: ObjectId,
        blocks: Range<u32>,
        small: Option<SmallFile>,
        urgency: &Urgency,
        memory: &Memory,
    ) -> (Vec<Source>, Vec<Run>) {
        let mut runs = self.missing(object, blocks.clone(), u32::MAX);
        let mut neighbours = None;
        if let (Some(SmallFile(ino)), Some(first)) = (small, runs.first().cloned()) {
            let run = self.widen(object, first.clone(), ino);
            neighbours = memory.try_take(Use::ReadAhead, (run.len() - first.len()) * READ_GRID);
            if neighbours.is_some() {
                runs[0] = run;
            }
        }
        let begun = runs.into_iter().map(|run| self.begin(object, run, neighbours.take(), urgency)).collect();
        let sources = blocks.filter_map(|n| self.source(object, n)).collect();
        (sources, begun)
    }

    /// The GETs that are to be made for blocks of which many will be asked for one by one, in rising order: those that lie
    /// side by side come together. They are few enough to be kept until then; a block alone is left to who asks for it.
    pub fn announce(&mut self, object: ObjectId, blocks: impl Iterator<Item = u32>) -> Vec<Run> {
        let runs = self.missing(object, blocks, SMALL_RUN);
        let several = runs.into_iter().filter(|run| run.len() > 1);
        several.map(|run| self.begin(object, run, None, &Urgency::new(Class::Bulk))).collect()
    }

    /// Runs of at most so many blocks that bring what is neither kept nor on its way.
    fn missing(&mut self, object: ObjectId, blocks: impl Iterator<Item = u32>, most: u32) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for n in blocks {
            if !self.is_missing(object, n) {
                continue;
            }
            match runs.last_mut() {
                Some(run)
                    if n - run.end <= GAP
                        && n - run.start < most
                        && (run.end..n).all(|k| !self.coming.contains_key(&(object, k))) =>
                {
                    run.end = n + 1;
                }
                _ => runs.push(n..n + 1),
            }
        }
        runs
    }

    fn is_missing(&mut self, object: ObjectId, n: u32) -> bool {
        self.kept.get(&(object, n)).is_none() && !self.coming.contains_key(&(object, n))
    }

    fn source(&mut self, object: ObjectId, n: u32) -> Option<Source> {
        // What is on its way comes first: a block that is kept may go before it is looked at.
        match self.coming.get(&(object, n)) {
            Some(coming) => Some(Source::Coming(coming.clone())),
            None => self.kept.get(&(object, n)).cloned().map(Source::Kept),
        }
    }

    fn begin(&mut self, object: ObjectId, blocks: Range<u32>, neighbours: Option<Permit>, urgency: &Urgency) -> Run {
        let (tell, answer) = watch::channel(None);
        // Its own: who waits for a block of it need not wait for all that the fetch which began it does.
        let urgency = Urgency::new(urgency.class());
        let coming = Coming { blocks: blocks.clone(), urgency: urgency.clone(), answer };
        for n in blocks.clone() {
            self.coming.insert((object, n), coming.clone());
        }
        Run { object, blocks, neighbours, urgency, tell }
    }

    /// How many blocks a miss of a small file is worth.
    fn neighbours(&mut self, object: ObjectId, ino: Ino) -> u32 {
        let now = Instant::now();
        let fresh = |misses: &&mut Misses| now - misses.at < TOGETHER;
        match self.misses.get_mut(&object).filter(fresh) {
            None => {
                self.misses.put(object, Misses { last: ino, files: 1, at: now });
                1
            }
            Some(misses) => {
                misses.at = now;
                if misses.last == ino {
                    return 1;
                }
                misses.last = ino;
                misses.files += 1;
                GROWTH.saturating_pow(misses.files - 1).min(RUN_MAX)
            }
        }
    }

    /// The missing blocks around a small file's run that are one stretch with it, as many as this miss is worth.
    fn widen(&mut self, object: ObjectId, run: Range<u32>, ino: Ino) -> Range<u32> {
        let wanted = self.neighbours(object, ino);
        let bounds = run.start / wanted * wanted..(run.end.div_ceil(wanted) * wanted).min(OBJECT_BLOCKS);
        let from = self.reach(object, (bounds.start..run.start).rev()).unwrap_or(run.start);
        let to = self.reach(object, run.end..bounds.end).map_or(run.end, |last| last + 1);
        from..to
    }

    /// The last missing block of those that are one stretch. A few that are kept are no reason to ask twice.
    fn reach(&mut self, object: ObjectId, blocks: impl Iterator<Item = u32>) -> Option<u32> {
        let (mut last, mut gap) = (None, 0);
        for n in blocks {
            if self.is_missing(object, n) {
                (last, gap) = (Some(n), 0);
            } else {
                gap += 1;
            }
            if gap > GAP * GROWTH || self.coming.contains_key(&(object, n)) {
                break;
            }
        }
        last
    }

    /// A GET ended. What it brought is kept as far as that is worth it.
    pub fn came(&mut self, run: &Run, got: &Result<Bytes, DownloadError>) {
        for n in run.blocks.clone() {
            self.coming.remove(&(run.object, n));
        }
        let Ok(bytes) = got else { return };
        let all = run.neighbours.is_some() || run.blocks.len() <= SMALL_RUN as usize;
        for (n, block) in sound(run, bytes) {
            let is_end = n == run.blocks.start || n + 1 == run.blocks.end;
            if all || is_end {
                self.kept.put((run.object, n), Bytes::copy_from_slice(&block));
            }
        }
    }

    /// A block, if it is kept.
    pub fn kept(&mut self, object: ObjectId, block: u32) -> Option<Bytes> {
        self.kept.get(&(object, block)).cloned()
    }

    /// Keeps a block that came from elsewhere.
    pub fn keep(&mut self, object: ObjectId, block: u32, bytes: Bytes) {
        self.kept.put((object, block), bytes);
    }

    pub fn forget(&mut self, object: ObjectId, blocks: Range<u32>) {
        for n in blocks {
            self.kept.pop(&(object, n));
        }
    }
}

/// The blocks that a run's bytes hold whole. Only an object's last block is short, and nothing comes behind it.
pub fn sound<'a>(run: &'a Run, bytes: &'a Bytes) -> impl Iterator<Item = (u32, Bytes)> + 'a {
    let blocks = run.blocks.clone().enumerate().map(|(k, n)| (k, n, block(bytes, k)));
    blocks
        .filter(|(k, _, block)| block.len() == READ_GRID || (!block.is_empty() && (k + 1) * READ_GRID > bytes.len()))
        .map(|(_, n, block)| (n, block))
}

/// The `k`th block of a run's bytes; short or empty where they end.
pub fn block(bytes: &Bytes, k: usize) -> Bytes {
    let begin = (k * READ_GRID).min(bytes.len());
    bytes.slice(begin..(begin + READ_GRID).min(bytes.len()))
}
