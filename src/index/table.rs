//! What the index asks of an ordered table, and how records and marks lie in one.

use std::sync::Arc;

use super::{IndexError, Mark, damaged};
use crate::base::{Epoch, FileId, Ino, Position, Sequence};
use crate::format::commit::{BlockRef, ChainLink};
use crate::format::key::Key;
use crate::format::record::Record;

pub type Batch = Vec<(Vec<u8>, Vec<u8>)>;

/// An ordered table of bytes.
pub trait Table: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;
    /// From `from` to `to`, both inclusive, in order; `visit` returns false to stop.
    fn range(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), IndexError>;
    /// Puts all of them or none, also across a crash.
    fn apply(&self, batch: Batch) -> Result<(), IndexError>;
    /// What was applied survives a power cut.
    fn sync(&self) -> Result<(), IndexError>;
}

/// Where tables are made, by number.
pub trait Tables: Send + Sync {
    fn create(&self, number: u64) -> Result<Box<dyn Table>, IndexError>;
    fn open(&self, number: u64) -> Result<Box<dyn Table>, IndexError>;
    /// Removes all others, as far as that succeeds.
    fn keep_only(&self, number: u64);
    /// The highest number that any table there has; 0 if there is none.
    fn newest(&self) -> u64;
}

/// A value is the encoded record; a deletion is empty (no record encodes to nothing).
pub fn write_value(record: Option<&Record>, out: &mut Vec<u8>) {
    if let Some(record) = record {
        record.encode(out);
    }
}

pub fn read_value(key: &Key, value: &[u8]) -> Result<Option<Arc<Record>>, IndexError> {
    match value {
        [] => Ok(None),
        bytes => Ok(Some(Arc::new(Record::decode(key, bytes).map_err(|e| damaged(e.to_string()))?))),
    }
}

/// Version, then fields of fixed length; local to this machine, so that another version is simply another index.
const VERSION: u8 = 3;

pub fn write_mark(mark: &Mark, bases: impl Iterator<Item = [u8; 16]>) -> Vec<u8> {
    let mut out = vec![VERSION, mark.clean.into(), mark.block.is_some().into()];
    out.extend_from_slice(&mark.link.sequence.0.to_be_bytes());
    out.extend_from_slice(&mark.link.hash);
    for number in [mark.inodes, mark.bytes, mark.highest.0, mark.epoch.0.into()] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    if let Some(block) = &mark.block {
        out.extend_from_slice(&block.file.0);
        out.extend_from_slice(&block.position.0.to_be_bytes());
        out.extend_from_slice(&block.tag);
    }
    bases.for_each(|id| out.extend_from_slice(&id));
    out
}

pub fn read_mark(bytes: &[u8]) -> Result<(Mark, Vec<[u8; 16]>), IndexError> {
    let mut rest = Rest(bytes);
    parse_mark(&mut rest).ok_or_else(|| damaged("its mark was made by another version"))
}

fn parse_mark(rest: &mut Rest<'_>) -> Option<(Mark, Vec<[u8; 16]>)> {
    let [VERSION, clean, has_block] = rest.take()? else { return None };
    let link = ChainLink { sequence: Sequence(rest.u64()?), hash: rest.take()? };
    let (inodes, bytes, highest) = (rest.u64()?, rest.u64()?, Ino(rest.u64()?));
    let epoch = Epoch(rest.u64()?.try_into().ok()?);
    let block = match has_block {
        0 => None,
        _ => Some(BlockRef { file: FileId(rest.take()?), position: Position(rest.u64()?), tag: rest.take()? }),
    };
    let mut bases = Vec::new();
    while !rest.0.is_empty() {
        bases.push(rest.take()?);
    }
    Some((Mark { link, block, clean: clean != 0, inodes, bytes, highest, epoch }, bases))
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}
