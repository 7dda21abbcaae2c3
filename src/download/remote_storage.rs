//! RemoteStorage: brings sealed bytes, from the journal while it holds them, else from the store.
//!
//! Ranges are widened to a 64 KiB grid (A24), and what lies side by side is one GET; but of a directory on this machine's
//! own disk, where no provider sees what is read, bytes of a larger extent are read as they are. Several GETs are in flight; a block
//! that is on its way already is waited for, whoever asked for it. A small memory of sealed grid blocks
//! ([`super::blocks`]) serves what lies side by side, such as small files packed together; before the store
//! the sealed cache is asked, if there is one, and given what the store brought. Both hold ciphertext only.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::DownloadError;
use super::blocks::{self, Blocks, Coming, Run, SmallFile, Source};
use super::sealed_cache::SealedCache;
use crate::base::sizes::READ_GRID;
use crate::base::{ExtentId, ObjectId, Sequence, watch};
use crate::format::commit::{Body, LogObject, log_name, segment_name};
use crate::format::keys::Keys;
use crate::format::record::{Extent, Place};
use crate::journal::Journal;
use crate::pipeline::{Demand, Job, Memory, Stage, StageStatus, Urgency};
use crate::store::{Store, StoreError};

/// How long a GET may wait for its turn while the store does not answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many blocks from the disk are worth being kept in memory too: small files share them.
const FEW: usize = 2;
/// Commits whose inline bytes are kept.
const INLINE_COMMITS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

pub struct RemoteStorage {
    store: Store,
    keys: Arc<Keys>,
    /// `None` on a read-only mount.
    journal: Option<Arc<Journal>>,
    gets: Stage<Get>,
    memory: Memory,
    blocks: Arc<Mutex<Blocks>>,
    /// `None` where nothing is kept on this machine's disk.
    sealed: Option<Arc<dyn SealedCache>>,
    inline: Mutex<Inline>,
}

struct Inline {
    kept: LruCache<Sequence, Bytes>,
    coming: Vec<(Sequence, watch::Receiver<blocks::Got>)>,
}

/// One GET: a range of an object, or all of it.
pub struct Get {
    store: Store,
    name: String,
    range: Option<Range<u64>>,
    asked: Instant,
}

impl Job for Get {
    type Done = Bytes;
    type Error = DownloadError;

    fn run(self: Arc<Self>) -> BoxFuture<'static, Result<Bytes, DownloadError>> {
        async move {
            if self.asked.elapsed() > PATIENCE
                && let Some((_, why)) = self.store.outage()
            {
                // Those before it have waited for their deadlines: whoever waits for it must not wait for one more.
                return Err(StoreError::Unavailable { name: self.name.clone(), why }.into());
            }
            let got = match &self.range {
                Some(range) => self.store.get_range(&self.name, range.clone()).await,
                None => self.store.get(&self.name).await,
            };
            got?.ok_or_else(|| DownloadError::Missing(self.name.clone()))
        }
        .boxed()
    }
}

/// How much of something is on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Here {
    Nothing,
    Part,
    All,
}

impl RemoteStorage {
    pub fn new(
        store: Store,
        keys: Arc<Keys>,
        journal: Option<Arc<Journal>>,
        get: Demand,
        memory: Memory,
    ) -> RemoteStorage {
        RemoteStorage {
            store,
            keys,
            journal,
            gets: Stage::new("download/get", get),
            memory,
            blocks: Arc::default(),
            sealed: None,
            inline: Mutex::new(Inline { kept: LruCache::new(INLINE_COMMITS), coming: Vec::new() }),
        }
    }

    pub fn status(&self) -> StageStatus {
        self.gets.status()
    }

    /// Some fetch's urgency was raised.
    pub fn look_again(&self) {
        self.gets.look_again();
    }

    /// With a sealed cache before the store.
    pub fn keeping(self, sealed: Option<Arc<dyn SealedCache>>) -> RemoteStorage {
        RemoteStorage { sealed, ..self }
    }

    /// How much of some sealed bytes is on this machine: in the journal or in the sealed cache.
    pub fn here(&self, id: ExtentId, extent: &Extent, stored: Range<u32>) -> Here {
        match extent.place {
            Place::Local => match self.journal.as_ref().is_some_and(|journal| journal.holds(id)) {
                true => Here::All,
                false => Here::Nothing,
            },
            Place::Segment { id, offset } => {
                let wanted = grid(&(offset + stored.start..offset + stored.end));
                let count = wanted.len();
                let held = |n: &u32| self.sealed.as_ref().is_some_and(|sealed| sealed.holds(id, *n));
                match wanted.filter(held).count() {
                    0 => Here::Nothing,
                    held if held == count => Here::All,
                    _ => Here::Part,
                }
            }
            Place::Inline { sequence, .. } => match self.inline.lock().kept.contains(&sequence) {
                true => Here::All,
                false => Here::Nothing,
            },
        }
    }

    /// Sealed bytes that the journal holds; `None` if it does not hold the extent. One that is placed in the vault may have
    /// been sealed anew for it, and the journal have other bytes for a moment yet.
    pub fn local(&self, id: ExtentId, extent: &Extent, stored: Range<u32>) -> Option<Result<Bytes, DownloadError>> {
        if extent.place != Place::Local {
            return None;
        }
        Some(self.journal.as_ref()?.read(id, stored)?.map_err(DownloadError::from))
    }

    /// Sealed bytes that came along with others, and the object's name; `None` if they are not all here.
    pub fn kept(&self, extent: &Extent, stored: Range<u32>) -> Option<(Bytes, String)> {
        match extent.place {
            Place::Local => None,
            Place::Segment { id, offset } => {
                let range = offset + stored.start..offset + stored.end;
                let kept = self.blocks.lock().all_kept(id, grid(&range))?;
                Some((join(&kept, &range)?, segment_name(id)))
            }
            Place::Inline { sequence, offset } => {
                let inline = self.inline.lock().kept.get(&sequence)?.clone();
                Some((cut(&inline, offset, &stored)?, log_name(sequence)))
            }
        }
    }

    /// Sealed bytes that are on this machine, wherever; `None` if not all of them are. Looking is no use of them.
    pub fn peek(&self, id: ExtentId, extent: &Extent, stored: Range<u32>) -> Option<Result<Bytes, DownloadError>> {
        match extent.place {
            Place::Local => self.local(id, extent, stored),
            Place::Segment { id, offset } => {
                let range = offset + stored.start..offset + stored.end;
                let mut found = Vec::new();
                for n in grid(&range) {
                    let kept = self.blocks.lock().peek(id, n);
                    found.push(kept.or_else(|| self.sealed.as_ref()?.peek(id, n))?);
                }
                join(&found, &range).map(Ok)
            }
            Place::Inline { sequence, offset } => {
                let inline = self.inline.lock().kept.peek(&sequence)?.clone();
                cut(&inline, offset, &stored).map(Ok)
            }
        }
    }

    /// Sealed bytes that a store on this machine's disk has in memory, and the object's name. Where a cache on the disk is
    /// wanted all the same, everything goes through that.
    pub fn at_hand(&self, extent: &Extent, stored: Range<u32>) -> Option<(Bytes, String)> {
        let Place::Segment { id, offset } = extent.place else { return None };
        if self.sealed.is_some() {
            return None;
        }
        let name = segment_name(id);
        let range = u64::from(offset + stored.start)..u64::from(offset + stored.end);
        Some((self.store.at_hand(&name, range)?, name))
    }

    /// Sealed bytes of an extent, and the object's name for messages.
    pub async fn sealed_bytes(
        &self,
        id: ExtentId,
        extent: &Extent,
        stored: Range<u32>,
        urgency: &Urgency,
    ) -> Result<(Bytes, String), DownloadError> {
        if let Some(local) = self.local(id, extent, stored.clone()) {
            return Ok((local?, "journal".to_owned()));
        }
        match extent.place {
            // It died, or a round placed it, after the caller looked.
            Place::Local => Err(DownloadError::Gone),
            Place::Segment { id: object, offset } => {
                let name = segment_name(object);
                let is_small = extent.stored as usize <= READ_GRID && stored.len() == extent.stored as usize;
                let small = is_small.then_some(SmallFile(id.owner));
                let range = offset + stored.start..offset + stored.end;
                Ok((self.segment_bytes(object, &name, range, small, urgency).await?, name))
            }
            Place::Inline { sequence, offset } => {
                let name = log_name(sequence);
                let inline = self.inline(sequence, &name, urgency).await?;
                match cut(&inline, offset, &stored) {
                    Some(bytes) => Ok((bytes, name)),
                    None => Err(DownloadError::Missing(name)),
                }
            }
        }
    }

    /// Forgets what is kept of these bytes: they did not open, or did not suffice. Nothing vouches for a grid block before
    /// a frame in it opens, and other frames in it may be wrong even then. Returns whether the store may be asked again.
    pub fn forget(&self, extent: &Extent, stored: Range<u32>) -> bool {
        let Place::Segment { id, offset } = extent.place else { return false };
        let wanted = grid(&(offset + stored.start..offset + stored.end));
        self.blocks.lock().forget(id, wanted.clone());
        if let Some(sealed) = &self.sealed {
            let given = wanted.filter(|n| sealed.forget(id, *n)).count();
            if given > 0 {
                log::warn!("{given} blocks of the disk cache that did not open were dropped; they are fetched again");
            }
        }
        true
    }

    /// Drops sealed bytes of an extent that are kept here for convenience.
    pub fn drop_kept(&self, extent: &Extent) {
        let Place::Segment { id, offset } = extent.place else { return };
        let wanted = grid(&(offset..offset + extent.stored));
        self.blocks.lock().forget(id, wanted.clone());
        if let Some(sealed) = &self.sealed {
            wanted.for_each(|n| _ = sealed.forget(id, n));
        }
    }

    async fn segment_bytes(
        &self,
        id: ObjectId,
        name: &str,
        range: Range<u32>,
        small: Option<SmallFile>,
        urgency: &Urgency,
    ) -> Result<Bytes, DownloadError> {
        let wanted = grid(&range);
        if let Some(all) = self.look_up(id, wanted.clone()) {
            return join(&all, &range).ok_or_else(|| DownloadError::Missing(name.to_owned()));
        }
        if small.is_none() && self.sealed.is_none() && self.store.is_near() {
            return self.exactly(name, range, urgency).await;
        }
        let (sources, runs) = self.blocks.lock().find(id, wanted.clone(), small, urgency, &self.memory);
        for run in runs {
            self.begin(name, run);
        }
        self.raise(&sources, urgency);
        let missing = || DownloadError::Missing(name.to_owned());
        // One GET for all of it: its bytes need not be copied.
        if let Some(Source::Coming(coming)) = sources.first()
            && coming.blocks.start <= wanted.start
            && coming.blocks.end >= wanted.end
        {
            let bytes = arrived(coming).await?;
            let start = (range.start - coming.blocks.start * READ_GRID as u32) as usize;
            return bytes
                .get(start..start + range.len())
                .map(|_| bytes.slice(start..start + range.len()))
                .ok_or_else(missing);
        }
        let mut kept = Vec::with_capacity(sources.len());
        for (source, n) in sources.iter().zip(wanted) {
            kept.push(match source {
                Source::Kept(block) => block.clone(),
                Source::Coming(coming) => blocks::block(&arrived(coming).await?, (n - coming.blocks.start) as usize),
            });
        }
        join(&kept, &range).ok_or_else(missing)
    }

    /// Bytes of an object on this machine's disk: no more than these, and nothing of it is kept, for the kernel keeps it.
    async fn exactly(&self, name: &str, range: Range<u32>, urgency: &Urgency) -> Result<Bytes, DownloadError> {
        let wanted = Some(range.start.into()..range.end.into());
        let get = Get { store: self.store.clone(), name: name.to_owned(), range: wanted, asked: Instant::now() };
        let got = self.gets.process(urgency, range.len(), get).await?;
        if got.len() == range.len() { Ok(got) } else { Err(DownloadError::Missing(name.to_owned())) }
    }

    /// All of these blocks, if this machine has them. Where it has only some on its disk they are kept in memory, so that
    /// nobody asks the store for them; what comes in bulk goes past it.
    fn look_up(&self, id: ObjectId, wanted: Range<u32>) -> Option<Vec<Bytes>> {
        let sealed = self.sealed.as_ref()?;
        let found: Vec<Option<Bytes>> = {
            let mut blocks = self.blocks.lock();
            wanted.clone().map(|n| blocks.kept(id, n)).collect()
        };
        let found: Vec<Option<Bytes>> =
            found.into_iter().zip(wanted.clone()).map(|(block, n)| block.or_else(|| sealed.get(id, n))).collect();
        let all: Option<Vec<Bytes>> = found.iter().cloned().collect();
        if all.is_none() || wanted.len() <= FEW {
            let mut blocks = self.blocks.lock();
            found.into_iter().zip(wanted).for_each(|(block, n)| _ = block.map(|block| blocks.keep(id, n, block)));
        }
        all
    }

    /// Sealed bytes that will be asked for one by one: what lies side by side in an object is on its way then, together.
    /// A store that has no disk cache before it is near, and asked as it is.
    pub fn announce<'a>(&self, wanted: impl Iterator<Item = (&'a Extent, Range<u32>)>) {
        let Some(sealed) = &self.sealed else { return };
        let mut objects: BTreeMap<ObjectId, BTreeSet<u32>> = BTreeMap::new();
        for (extent, stored) in wanted {
            if let Place::Segment { id, offset } = extent.place {
                objects.entry(id).or_default().extend(grid(&(offset + stored.start..offset + stored.end)));
            }
        }
        for (id, wanted) in objects {
            let absent = wanted.into_iter().filter(|n| !sealed.holds(id, *n));
            let runs = self.blocks.lock().announce(id, absent);
            let name = segment_name(id);
            runs.into_iter().for_each(|run| self.begin(&name, run));
        }
    }

    /// Whoever joins what is on its way for somebody less urgent makes it more so.
    fn raise(&self, sources: &[Source], urgency: &Urgency) {
        let mut raised = false;
        for source in sources {
            if let Source::Coming(coming) = source {
                raised |= urgency.waits_for(&coming.urgency);
            }
        }
        if raised {
            self.gets.look_again();
        }
    }

    /// Makes a GET, which runs to its end, whoever waits for it.
    fn begin(&self, name: &str, run: Run) {
        let range = u64::from(run.blocks.start) * READ_GRID as u64..u64::from(run.blocks.end) * READ_GRID as u64;
        let (bytes, get) = (
            range.end - range.start,
            Get { store: self.store.clone(), name: name.to_owned(), range: Some(range), asked: Instant::now() },
        );
        let (gets, blocks, sealed) = (self.gets.clone(), self.blocks.clone(), self.sealed.clone());
        tokio::spawn(async move {
            let got = gets.process(&run.urgency, bytes as usize, get).await;
            blocks.lock().came(&run, &got);
            if let (Some(sealed), Ok(bytes)) = (sealed, &got) {
                blocks::sound(&run, bytes).for_each(|(n, block)| sealed.put(run.object, n, &block));
            }
            run.tell.send_replace(Some(got));
        });
    }

    /// The bytes that a commit carries.
    async fn inline(&self, sequence: Sequence, name: &str, urgency: &Urgency) -> Result<Bytes, DownloadError> {
        let (tell, answer) = watch::channel(None);
        let coming = {
            let mut inline = self.inline.lock();
            if let Some(kept) = inline.kept.get(&sequence) {
                return Ok(kept.clone());
            }
            let coming = inline.coming.iter().find(|(other, _)| *other == sequence).map(|(_, answer)| answer.clone());
            if coming.is_none() {
                inline.coming.push((sequence, answer));
            }
            coming
        };
        if let Some(mut coming) = coming {
            let told = told(&mut coming).await;
            if matches!(told, Err(DownloadError::Opening)) {
                // Whoever brought it ended without a word: the next one asks anew.
                self.inline.lock().coming.retain(|(other, _)| *other != sequence);
            }
            return told;
        }
        let brought = self.bring_inline(sequence, name, urgency).await;
        let mut inline = self.inline.lock();
        inline.coming.retain(|(other, _)| *other != sequence);
        if let Ok(bytes) = &brought {
            inline.kept.put(sequence, bytes.clone());
        }
        drop(inline);
        tell.send_replace(Some(brought.clone()));
        brought
    }

    async fn bring_inline(&self, sequence: Sequence, name: &str, urgency: &Urgency) -> Result<Bytes, DownloadError> {
        let get = Get { store: self.store.clone(), name: name.to_owned(), range: None, asked: Instant::now() };
        let object = self.gets.process(urgency, READ_GRID, get).await?;
        let opened = LogObject::open(&self.keys, sequence, &object)
            .map_err(|why| DownloadError::Format { name: name.to_owned(), why })?;
        let Body::Commit(commit) = opened.body else { return Err(DownloadError::Missing(name.to_owned())) };
        Ok(commit.inline)
    }
}

/// Stored bytes of an extent that begins at `offset` of what a commit carries; `None` if that falls short.
fn cut(inline: &Bytes, offset: u32, stored: &Range<u32>) -> Option<Bytes> {
    let range = (offset + stored.start) as usize..(offset + stored.end) as usize;
    (range.end <= inline.len()).then(|| inline.slice(range))
}

/// What a GET brought that is on its way.
async fn arrived(coming: &Coming) -> Result<Bytes, DownloadError> {
    told(&mut coming.answer.clone()).await
}

async fn told(answer: &mut watch::Receiver<blocks::Got>) -> Result<Bytes, DownloadError> {
    match answer.wait_for(Option::is_some).await {
        Ok(got) => got.clone().unwrap_or(Err(DownloadError::Opening)),
        // Whoever brought it ended without a word.
        Err(_) => Err(DownloadError::Opening),
    }
}

/// These bytes of an object, from the grid blocks in which they lie; `None` if those fall short.
fn join(blocks: &[Bytes], range: &Range<u32>) -> Option<Bytes> {
    // Short in the middle, it would shift what comes after it.
    if blocks.iter().rev().skip(1).any(|block| block.len() != READ_GRID) {
        return None;
    }
    let start = range.start as usize % READ_GRID;
    let end = start + range.len();
    if let [one] = blocks {
        return one.get(start..end).map(|_| one.slice(start..end));
    }
    let mut joined = BytesMut::with_capacity(blocks.len() * READ_GRID);
    blocks.iter().for_each(|block| joined.extend_from_slice(block));
    (joined.len() >= end).then(|| joined.freeze().slice(start..end))
}

/// The grid blocks in which these bytes of an object lie.
fn grid(bytes: &Range<u32>) -> Range<u32> {
    bytes.start / READ_GRID as u32..bytes.end.div_ceil(READ_GRID as u32)
}
