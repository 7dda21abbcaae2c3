//! A base: an immutable sorted file of records.
//!
//! Blocks of about 16 KiB of entries in key order, each sealed and bound to the file's random id and its number; then
//! a sealed footer with each block's place and first key and, for each group of blocks, a Bloom filter of its keys; then
//! where the footer lies. Footers stay in memory (some 3 bytes a record), blocks in an LRU.
//!
//! Invariant: what a base in the making takes in memory beside its footer is a write's worth of blocks, and what the
//! filter of one group is made of.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::seal::Seal;
use super::{Ground, IndexError, damaged};
use crate::base::disk::File;
use crate::crypto::kdf;

/// Plaintext of a block, about: the unit of a read, and of decryption.
const BLOCK: usize = 16 * 1024;
/// Blocks kept opened.
const BLOCKS: usize = 512;
/// Sealed bytes written at a time.
const WRITE: usize = 1 << 20;
const TRAILER: usize = 12;
const FOOTER: &[u8] = b"footer";
/// A footer of more than this is none of ours: two hundred million records have less.
const FOOTER_MAX: u32 = 1 << 30;
/// Blocks that have a filter together.
const GROUP: usize = 64;
/// Bits of a filter for each key, and how many of them a key sets: one key in a hundred passes in vain.
const FILTER_BITS: usize = 10;
const FILTER_HASHES: u32 = 7;

type Id = [u8; 16];

/// Opened blocks, least recently used first.
pub struct Blocks(Mutex<LruCache<(Id, u32), Block>>);

type Block = Arc<Vec<u8>>;

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks(Mutex::new(LruCache::new(NonZeroUsize::new(BLOCKS).expect("not zero"))))
    }
}

struct BlockPlace {
    offset: u64,
    len: u32,
    first: Box<[u8]>,
}

pub struct Base {
    pub id: Id,
    file: Arc<dyn File>,
    seal: Seal,
    places: Vec<BlockPlace>,
    /// One for each [`GROUP`] of blocks, in order.
    filters: Vec<Filter>,
    records: u64,
}

fn name(id: &Id) -> String {
    let mut name = String::from("base-");
    id.iter().for_each(|byte| name.push_str(&format!("{byte:02x}")));
    name
}

impl Base {
    pub fn open(ground: &Ground, id: Id) -> Result<Base, IndexError> {
        let file = ground.disk.open(&ground.path(&name(&id)))?;
        let seal = Seal::of(&ground.keys, ground.random.clone(), b"base", &id);
        let cut = || damaged("a base is cut");
        let len = file.len()?;
        let mut trailer = [0; TRAILER];
        file.read_at(&mut trailer, len.checked_sub(TRAILER as u64).ok_or_else(cut)?)?;
        let mut rest = &trailer[..];
        let (offset, footer_len) = (take_u64(&mut rest).ok_or_else(cut)?, take_u32(&mut rest).ok_or_else(cut)?);
        if footer_len > FOOTER_MAX || offset.checked_add(footer_len.into()).is_none_or(|end| end > len) {
            return Err(cut());
        }
        let mut sealed = vec![0; footer_len as usize];
        file.read_at(&mut sealed, offset)?;
        let footer = seal.open(FOOTER, &sealed)?;
        let (records, places, filters) = parse_footer(&footer).ok_or_else(cut)?;
        Ok(Base { id, file, seal, places, filters, records })
    }

    pub fn name(&self) -> String {
        name(&self.id)
    }

    /// How many records it holds, deletions included.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The value under a key, which has this hash: empty for a deletion.
    pub fn get(&self, key: &[u8], hash: KeyHash, blocks: &Blocks) -> Result<Option<Vec<u8>>, IndexError> {
        let Some(group) = self.group(key).filter(|group| self.filters[*group].may_hold(hash)) else {
            return Ok(None);
        };
        let first = group * GROUP;
        let places = &self.places[first..self.places.len().min(first + GROUP)];
        // The group's first key is not above this one.
        let number = first + places.partition_point(|place| *place.first <= *key) - 1;
        let block = self.block(number as u32, Some(blocks))?;
        let mut at = 0;
        while let Some(entry) = entry(&block, at)? {
            if block[entry.key.clone()] == *key {
                return Ok(Some(block[entry.value].to_vec()));
            }
            at = entry.value.end;
        }
        Ok(None)
    }

    #[cfg(test)]
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.group(key).is_some_and(|group| self.filters[group].may_hold(hash(key)))
    }

    /// The group of blocks that would hold a key; `None` if it comes before all of them.
    fn group(&self, key: &[u8]) -> Option<usize> {
        let (mut below, mut beyond) = (0, self.filters.len());
        while below < beyond {
            let middle = below.midpoint(beyond);
            match *self.places[middle * GROUP].first <= *key {
                true => below = middle + 1,
                false => beyond = middle,
            }
        }
        below.checked_sub(1)
    }

    /// From `from` to `to`, both inclusive.
    pub fn range<'a>(&'a self, from: &[u8], to: &[u8], blocks: &'a Blocks) -> Cursor<'a> {
        let number = self.places.partition_point(|place| *place.first <= *from).saturating_sub(1) as u32;
        Cursor { base: self, blocks: Some(blocks), number, from: from.to_vec(), to: Some(to.to_vec()), now: None }
    }

    /// All of it, past the LRU.
    pub fn all(&self) -> Cursor<'_> {
        Cursor { base: self, blocks: None, number: 0, from: Vec::new(), to: None, now: None }
    }

    fn block(&self, number: u32, blocks: Option<&Blocks>) -> Result<Arc<Vec<u8>>, IndexError> {
        if let Some(block) = blocks.and_then(|blocks| blocks.0.lock().get(&(self.id, number)).cloned()) {
            return Ok(block);
        }
        let place = &self.places[number as usize];
        let mut sealed = vec![0; place.len as usize];
        self.file.read_at(&mut sealed, place.offset)?;
        let block = Arc::new(self.seal.open(&number.to_be_bytes(), &sealed)?);
        if let Some(blocks) = blocks {
            blocks.0.lock().put((self.id, number), block.clone());
        }
        Ok(block)
    }
}

struct Entry {
    key: Range<usize>,
    value: Range<usize>,
}

/// The entry at `at`; `None` at the block's end.
fn entry(block: &[u8], at: usize) -> Result<Option<Entry>, IndexError> {
    let Some(&len) = block.get(at) else { return Ok(None) };
    let key = at + 1..at + 1 + usize::from(len);
    let begin = key.end + 4;
    let parsed = block.get(key.end..begin).map(|len| u32::from_be_bytes(len.try_into().expect("four bytes")));
    match parsed {
        Some(len) if block.len() >= begin + len as usize => Ok(Some(Entry { key, value: begin..begin + len as usize })),
        _ => Err(damaged("a block is malformed")),
    }
}

/// Walks through a base. Call [`Cursor::start`] first.
pub struct Cursor<'a> {
    base: &'a Base,
    blocks: Option<&'a Blocks>,
    number: u32,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    now: Option<(Arc<Vec<u8>>, Entry)>,
}

impl Cursor<'_> {
    pub fn start(&mut self) -> Result<(), IndexError> {
        self.load(self.number)?;
        while self.peek().is_some_and(|(key, _)| *key < self.from[..]) {
            self.next()?;
        }
        self.stop_beyond();
        Ok(())
    }

    pub fn peek(&self) -> Option<(&[u8], &[u8])> {
        self.now.as_ref().map(|(block, entry)| (&block[entry.key.clone()], &block[entry.value.clone()]))
    }

    pub fn next(&mut self) -> Result<(), IndexError> {
        let Some((block, now)) = self.now.take() else { return Ok(()) };
        match entry(&block, now.value.end)? {
            Some(entry) => self.now = Some((block, entry)),
            None => self.load(self.number + 1)?,
        }
        self.stop_beyond();
        Ok(())
    }

    fn load(&mut self, number: u32) -> Result<(), IndexError> {
        self.number = number;
        self.now = None;
        if (number as usize) < self.base.places.len() {
            let block = self.base.block(number, self.blocks)?;
            self.now = entry(&block, 0)?.map(|entry| (block, entry));
        }
        Ok(())
    }

    fn stop_beyond(&mut self) {
        if let Some(to) = &self.to
            && self.peek().is_some_and(|(key, _)| *key > to[..])
        {
            self.now = None;
        }
    }
}

/// Writes a base. What is not finished is a file that nothing names.
pub struct BaseWriter {
    id: Id,
    file: Arc<dyn File>,
    ground: Ground,
    seal: Seal,
    block: Vec<u8>,
    first: Box<[u8]>,
    places: Vec<BlockPlace>,
    /// Of the group that is being written.
    hashes: Vec<KeyHash>,
    filters: Vec<Filter>,
    records: u64,
    out: Vec<u8>,
    written: u64,
}

impl BaseWriter {
    pub fn create(ground: &Ground) -> Result<BaseWriter, IndexError> {
        let id: Id = ground.random.bytes();
        Ok(BaseWriter {
            id,
            file: ground.disk.create(&ground.path(&name(&id)))?,
            ground: ground.clone(),
            seal: Seal::of(&ground.keys, ground.random.clone(), b"base", &id),
            block: Vec::with_capacity(BLOCK + 1024),
            first: Box::default(),
            places: Vec::new(),
            hashes: Vec::new(),
            filters: Vec::new(),
            records: 0,
            out: Vec::with_capacity(WRITE + 2 * BLOCK),
            written: 0,
        })
    }

    /// Keys rise.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        if self.block.is_empty() {
            self.first = key.into();
        }
        self.block.push(key.len() as u8);
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(&(value.len() as u32).to_be_bytes());
        self.block.extend_from_slice(value);
        self.hashes.push(hash(key));
        self.records += 1;
        if self.block.len() >= BLOCK { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), IndexError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let number = self.places.len() as u32;
        let sealed = self.seal.seal(&number.to_be_bytes(), &self.block);
        self.block.clear();
        let offset = self.written + self.out.len() as u64;
        self.places.push(BlockPlace { offset, len: sealed.len() as u32, first: std::mem::take(&mut self.first) });
        self.out.extend_from_slice(&sealed);
        if self.places.len().is_multiple_of(GROUP) {
            self.end_group();
        }
        if self.out.len() >= WRITE { self.write() } else { Ok(()) }
    }

    fn end_group(&mut self) {
        if !self.hashes.is_empty() {
            self.filters.push(Filter::of(&self.hashes));
            self.hashes.clear();
        }
    }

    fn write(&mut self) -> Result<(), IndexError> {
        self.file.write_at(&self.out, self.written)?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Durable when this returns. `None` (and no file) if nothing was pushed.
    pub fn finish(mut self) -> Result<Option<Base>, IndexError> {
        self.end_block()?;
        self.end_group();
        if self.places.is_empty() {
            self.ground.disk.remove(&self.ground.path(&name(&self.id)))?;
            return Ok(None);
        }
        self.write()?;
        let footer = self.seal.seal(FOOTER, &write_footer(self.records, &self.places, &self.filters));
        self.file.write_at(&footer, self.written)?;
        let trailer = [&self.written.to_be_bytes()[..], &(footer.len() as u32).to_be_bytes()].concat();
        self.file.write_at(&trailer, self.written + footer.len() as u64)?;
        drop(footer);
        self.file.sync_data()?;
        self.ground.disk.sync_dir(self.ground.dir)?;
        let BaseWriter { id, file, seal, places, filters, records, .. } = self;
        Ok(Some(Base { id, file, seal, places, filters, records }))
    }
}

/// A Bloom filter (Bloom 1970; double hashing as in Kirsch and Mitzenmacher 2006).
struct Filter(Box<[u8]>);

/// Two halves of a key's hash.
pub type KeyHash = (u32, u32);

impl Filter {
    fn of(hashes: &[KeyHash]) -> Filter {
        let mut filter = Filter(vec![0; (hashes.len() * FILTER_BITS).div_ceil(8).max(8)].into());
        for hash in hashes {
            for bit in filter.bits(*hash) {
                filter.0[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    fn may_hold(&self, hash: KeyHash) -> bool {
        self.bits(hash).all(|bit| self.0[bit / 8] & 1 << (bit % 8) != 0)
    }

    fn bits(&self, (a, b): KeyHash) -> impl Iterator<Item = usize> + use<> {
        let len = self.0.len() as u64 * 8;
        (0..u64::from(FILTER_HASHES)).map(move |k| ((u64::from(a) + k * u64::from(b)) % len) as usize)
    }
}

pub fn hash(key: &[u8]) -> KeyHash {
    let [a, b, c, d, e, f, g, h, ..] = kdf::hash(key);
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) | 1)
}

fn write_footer(records: u64, places: &[BlockPlace], filters: &[Filter]) -> Vec<u8> {
    let keys: usize = places.iter().map(|place| 13 + place.first.len()).sum();
    let bits: usize = filters.iter().map(|filter| 4 + filter.0.len()).sum();
    let mut out = Vec::with_capacity(12 + keys + bits);
    out.extend_from_slice(&records.to_be_bytes());
    out.extend_from_slice(&(places.len() as u32).to_be_bytes());
    for place in places {
        out.extend_from_slice(&place.offset.to_be_bytes());
        out.extend_from_slice(&place.len.to_be_bytes());
        out.push(place.first.len() as u8);
        out.extend_from_slice(&place.first);
    }
    for filter in filters {
        out.extend_from_slice(&(filter.0.len() as u32).to_be_bytes());
        out.extend_from_slice(&filter.0);
    }
    out
}

fn parse_footer(bytes: &[u8]) -> Option<(u64, Vec<BlockPlace>, Vec<Filter>)> {
    let mut rest = bytes;
    let records = take_u64(&mut rest)?;
    let count = take_u32(&mut rest)?;
    let mut places = Vec::with_capacity((count as usize).min(rest.len()));
    for _ in 0..count {
        let (offset, len) = (take_u64(&mut rest)?, take_u32(&mut rest)?);
        let key_len = usize::from(*rest.split_off_first()?);
        places.push(BlockPlace { offset, len, first: rest.split_off(..key_len)?.into() });
    }
    let mut filters = Vec::with_capacity(places.len().div_ceil(GROUP));
    while !rest.is_empty() {
        let len = take_u32(&mut rest)? as usize;
        filters.push(Filter(rest.split_off(..len).filter(|bits| !bits.is_empty())?.into()));
    }
    (filters.len() == places.len().div_ceil(GROUP)).then_some((records, places, filters))
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_be_bytes(*first))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*first))
}
