//! RemoteStorage: brings sealed bytes, from the journal while it holds them, else from the store.
//!
//! Ranges are widened to a 64 KiB grid (A24). A small memory of sealed grid blocks serves what lies side by side, such
//! as small files packed together; before the store the sealed cache is asked, if there is one, and given what the store
//! brought. Both hold ciphertext only.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lru::LruCache;
use parking_lot::Mutex;

use super::DownloadError;
use super::sealed_cache::SealedCache;
use crate::base::sizes::READ_GRID;
use crate::base::{ExtentId, ObjectId, Sequence};
use crate::format::commit::{Body, LogObject, log_name, segment_name};
use crate::format::keys::Keys;
use crate::format::record::{Extent, Place};
use crate::journal::Journal;
use crate::store::Store;

/// Sealed grid blocks kept: 16 MiB.
const BLOCKS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Commits whose inline bytes are kept.
const INLINE_COMMITS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

pub struct RemoteStorage {
    store: Store,
    keys: Arc<Keys>,
    /// `None` on a read-only mount.
    journal: Option<Arc<Journal>>,
    blocks: Mutex<LruCache<(ObjectId, u32), Bytes>>,
    /// `None` where nothing is kept on this machine's disk.
    kept: Option<Arc<dyn SealedCache>>,
    inline: Mutex<LruCache<Sequence, Bytes>>,
}

impl RemoteStorage {
    pub fn new(store: Store, keys: Arc<Keys>, journal: Option<Arc<Journal>>) -> RemoteStorage {
        RemoteStorage {
            store,
            keys,
            journal,
            blocks: Mutex::new(LruCache::new(BLOCKS)),
            kept: None,
            inline: Mutex::new(LruCache::new(INLINE_COMMITS)),
        }
    }

    /// With a sealed cache before the store.
    pub fn keeping(self, kept: Option<Arc<dyn SealedCache>>) -> RemoteStorage {
        RemoteStorage { kept, ..self }
    }

    /// How much of some sealed bytes is on this machine: in the journal or in the sealed cache.
    pub fn here(&self, id: ExtentId, extent: &Extent, stored: Range<u32>) -> Here {
        match extent.place {
            Place::Local => match self.journal.as_ref().is_some_and(|journal| journal.read(id, 0..0).is_some()) {
                true => Here::All,
                false => Here::Nothing,
            },
            Place::Segment { id, offset } => {
                let wanted = grid(&(offset + stored.start..offset + stored.end));
                let count = wanted.len();
                let held = |n: &u32| self.kept.as_ref().is_some_and(|kept| kept.holds(id, *n));
                match wanted.filter(held).count() {
                    0 => Here::Nothing,
                    held if held == count => Here::All,
                    _ => Here::Part,
                }
            }
            Place::Inline { sequence, .. } => match self.inline.lock().contains(&sequence) {
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

    /// Sealed bytes of an extent, and the object's name for messages.
    pub async fn sealed_bytes(
        &self,
        id: ExtentId,
        extent: &Extent,
        stored: Range<u32>,
    ) -> Result<(Bytes, String), DownloadError> {
        if let Some(local) = self.local(id, extent, stored.clone()) {
            return Ok((local?, "journal".to_owned()));
        }
        match extent.place {
            // It died, or a round placed it, after the caller looked.
            Place::Local => Err(DownloadError::Gone),
            Place::Segment { id, offset } => {
                let name = segment_name(id);
                Ok((self.segment_bytes(id, &name, offset + stored.start..offset + stored.end).await?, name))
            }
            Place::Inline { sequence, offset } => {
                let name = log_name(sequence);
                let inline = self.inline(sequence, &name).await?;
                let range = (offset + stored.start) as usize..(offset + stored.end) as usize;
                if range.end > inline.len() {
                    return Err(DownloadError::Missing(name));
                }
                Ok((inline.slice(range), name))
            }
        }
    }

    /// Forgets what is kept of these bytes: they did not open, or did not suffice. Nothing vouches for a grid block before
    /// a frame in it opens, and other frames in it may be wrong even then. Returns whether the store may be asked again.
    pub fn forget(&self, extent: &Extent, stored: Range<u32>) -> bool {
        let Place::Segment { id, offset } = extent.place else { return false };
        let wanted = grid(&(offset + stored.start..offset + stored.end));
        {
            let mut blocks = self.blocks.lock();
            wanted.clone().for_each(|n| _ = blocks.pop(&(id, n)));
        }
        if let Some(kept) = &self.kept {
            let given = wanted.filter(|n| kept.forget(id, *n)).count();
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
        let mut blocks = self.blocks.lock();
        wanted.clone().for_each(|n| _ = blocks.pop(&(id, n)));
        drop(blocks);
        if let Some(kept) = &self.kept {
            wanted.for_each(|n| _ = kept.forget(id, n));
        }
    }

    /// Grid blocks that are kept, and one GET from the first that is not to the last that is not.
    async fn segment_bytes(&self, id: ObjectId, name: &str, range: Range<u32>) -> Result<Bytes, DownloadError> {
        let wanted = grid(&range);
        let first = wanted.start;
        let mut kept: Vec<Option<Bytes>> = {
            let mut blocks = self.blocks.lock();
            wanted.clone().map(|n| blocks.get(&(id, n)).cloned()).collect()
        };
        self.look_up(id, wanted, &mut kept);
        let missing = |kept: &[Option<Bytes>]| -> Option<(usize, usize)> {
            Some((kept.iter().position(Option::is_none)?, kept.iter().rposition(Option::is_none)? + 1))
        };
        if let Some((from, to)) = missing(&kept) {
            let wanted =
                u64::from(first + from as u32) * READ_GRID as u64..u64::from(first + to as u32) * READ_GRID as u64;
            let got = self.get(name, wanted).await?;
            let mut blocks = self.blocks.lock();
            for (k, slot) in kept[from..to].iter_mut().enumerate() {
                let begin = (k * READ_GRID).min(got.len());
                let block = got.slice(begin..(begin + READ_GRID).min(got.len()));
                // Only an object's last block is short; bulk reads would only push out what is read again.
                let whole = block.len() == READ_GRID || (from + k + 1 == to && !block.is_empty());
                if whole && to - from <= 2 {
                    blocks.put((id, first + (from + k) as u32), Bytes::copy_from_slice(&block));
                }
                if whole && let Some(cache) = &self.kept {
                    cache.put(id, first + (from + k) as u32, &block);
                }
                *slot = Some(block);
            }
        }
        // Short in the middle, it would shift what comes after it.
        if kept.iter().rev().skip(1).flatten().any(|block| block.len() != READ_GRID) {
            return Err(DownloadError::Missing(name.to_owned()));
        }
        let start = (range.start - first * READ_GRID as u32) as usize;
        let want = range.len();
        let out = if let [Some(one)] = &kept[..] {
            one.get(start..start + want).map(|_| one.slice(start..start + want))
        } else {
            let mut joined = BytesMut::with_capacity(kept.len() * READ_GRID);
            kept.iter().flatten().for_each(|block| joined.extend_from_slice(block));
            (joined.len() >= start + want).then(|| joined.freeze().slice(start..start + want))
        };
        out.ok_or_else(|| DownloadError::Missing(name.to_owned()))
    }

    /// What the sealed cache has of the blocks that are not here yet.
    fn look_up(&self, id: ObjectId, wanted: Range<u32>, kept: &mut [Option<Bytes>]) {
        let Some(cache) = &self.kept else { return };
        let few = wanted.len() <= 2;
        for (n, slot) in wanted.zip(kept).filter(|(_, slot)| slot.is_none()) {
            *slot = cache.get(id, n);
            if few && let Some(block) = slot {
                self.blocks.lock().put((id, n), block.clone());
            }
        }
    }

    /// The bytes of a grid range; the object may end inside its last block.
    async fn get(&self, name: &str, range: Range<u64>) -> Result<Bytes, DownloadError> {
        self.store.get_range(name, range).await?.ok_or_else(|| DownloadError::Missing(name.to_owned()))
    }

    async fn inline(&self, sequence: Sequence, name: &str) -> Result<Bytes, DownloadError> {
        if let Some(inline) = self.inline.lock().get(&sequence) {
            return Ok(inline.clone());
        }
        let object = self.store.get(name).await?.ok_or_else(|| DownloadError::Missing(name.to_owned()))?;
        let opened = LogObject::open(&self.keys, sequence, &object)
            .map_err(|why| DownloadError::Format { name: name.to_owned(), why })?;
        let Body::Commit(commit) = opened.body else { return Err(DownloadError::Missing(name.to_owned())) };
        self.inline.lock().put(sequence, commit.inline.clone());
        Ok(commit.inline)
    }
}

/// How much of some sealed bytes is on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Here {
    All,
    Part,
    Nothing,
}

/// The grid blocks in which these bytes of an object lie.
fn grid(bytes: &Range<u32>) -> Range<u32> {
    bytes.start / READ_GRID as u32..bytes.end.div_ceil(READ_GRID as u32)
}
