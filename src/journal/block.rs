//! A block: the unit in which the journal is sealed (J1, J3). Bytes in, values out, no I/O.
//!
//! ```text
//! file id 16 | sealed length u32 | extents length u64 | position u64 | tag of the block before 16 | nonce 24
//! sealed: version, first position, durable end, aliases, changes, table of extents; then its tag 16
//! the extents' sealed bytes, one after the other, but for those that lie in staged files (J8)
//! ```
//!
//! All numbers are little-endian. Everything before the nonce is associated data, with the vault's id: so a block opens
//! only in its vault, its file and its place. The file id also marks where a block may begin: behind damage, a replay
//! finds the next intact block by it. Extents are bound by their hashes in the table. What lies in the prefix tells a
//! thief of the disk nothing that the file's length does not.
//!
//! Does not own: where blocks lie, and which of them count (that is `replay`).

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{ExtentId, FileId, Ino, ObjectId, Position, Random};
use crate::crypto::aead;
use crate::format::FormatError;
use crate::format::change::Change;
use crate::format::commit::{BlockRef, Hash};
use crate::format::keys::Keys;

/// Bytes of the prefix, nonce included.
pub const PREFIX_LEN: usize = BOUND_LEN + aead::NONCE_LEN;
/// The part of the prefix that is associated data.
const BOUND_LEN: usize = 16 + 4 + 8 + 8 + 16;
const VERSION: u8 = 2;
/// Before there were staged files.
const VERSION_1: u8 = 1;
const WHAT: &str = "a journal block";

/// A block in memory: changes, with the bytes of the extents that they bring, until the durable end covers them (J2).
pub struct Block {
    pub first: Position,
    pub changes: Vec<Arc<Change>>,
    pub extents: Vec<BlockExtent>,
    /// Where the block stands, newest place first; the others are its aliases (J4). Empty while it stands nowhere.
    pub keys: Vec<BlockRef>,
    /// Where its extents' bytes begin in the newest place's file.
    pub body_at: u64,
    /// What it counts for against the bound of memory.
    pub weight: u64,
}

impl Block {
    /// The position of its last change.
    pub fn position(&self) -> Position {
        Position(self.first.0 + self.changes.len() as u64 - 1)
    }

    /// The bytes of extents that lie in the block's own file, in order.
    pub fn body(&self) -> impl Iterator<Item = &Bytes> {
        self.extents.iter().filter(|extent| extent.staged.is_none()).map(|extent| &extent.bytes)
    }

    /// Each extent and where it lies.
    pub fn places(&self) -> impl Iterator<Item = (&BlockExtent, Where)> {
        places(&self.extents, self.body_at, |extent| (extent.bytes.len() as u32, extent.staged))
    }
}

/// An extent that a block brings.
pub struct BlockExtent {
    pub id: ExtentId,
    pub bytes: Bytes,
    pub hash: Hash,
    /// `None`: it lies in the block's own file.
    pub staged: Option<Staged>,
}

/// A place in a staged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    pub file: ObjectId,
    pub offset: u32,
}

/// Where an extent's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In the block's own file, from there on.
    Here(u64),
    Staged(Staged),
}

/// The prefix of a block: not to be believed before the block was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub file: FileId,
    pub sealed_len: u32,
    pub extents_len: u64,
    pub position: Position,
    pub previous: [u8; 16],
    pub nonce: [u8; aead::NONCE_LEN],
}

impl Prefix {
    pub fn parse(bytes: &[u8; PREFIX_LEN]) -> Prefix {
        let mut rest = Reader(bytes);
        // The length is fixed, so nothing here can be missing.
        Prefix {
            file: FileId(rest.array().unwrap_or_default()),
            sealed_len: u32::from_le_bytes(rest.array().unwrap_or_default()),
            extents_len: u64::from_le_bytes(rest.array().unwrap_or_default()),
            position: Position(u64::from_le_bytes(rest.array().unwrap_or_default())),
            previous: rest.array().unwrap_or_default(),
            nonce: rest.array().unwrap_or_default(),
        }
    }

    fn bound(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREFIX_LEN);
        out.extend_from_slice(&self.file.0);
        out.extend_from_slice(&self.sealed_len.to_le_bytes());
        out.extend_from_slice(&self.extents_len.to_le_bytes());
        out.extend_from_slice(&self.position.0.to_le_bytes());
        out.extend_from_slice(&self.previous);
        out
    }
}

/// An extent as a block's table tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    pub id: ExtentId,
    pub len: u32,
    pub hash: Hash,
    pub staged: Option<Staged>,
}

/// What an intact block holds.
#[derive(Debug)]
pub struct Opened {
    pub first: Position,
    /// The durable end that was known when the block was written.
    pub durable: Position,
    pub aliases: Vec<BlockRef>,
    pub changes: Vec<Arc<Change>>,
    pub extents: Vec<TableEntry>,
    pub tag: [u8; 16],
}

impl Opened {
    /// Bytes of extents that follow the block.
    pub fn body_len(&self) -> u64 {
        self.extents.iter().filter(|extent| extent.staged.is_none()).map(|extent| u64::from(extent.len)).sum()
    }

    /// Each extent and where it lies, in a file in which the block's own begin at `body_at`.
    pub fn places(&self, body_at: u64) -> impl Iterator<Item = (&TableEntry, Where)> {
        places(&self.extents, body_at, |extent| (extent.len, extent.staged))
    }
}

/// Each extent and where it lies: those that are not staged one after the other from `body_at` on.
fn places<T>(
    extents: &[T],
    body_at: u64,
    look: impl Fn(&T) -> (u32, Option<Staged>),
) -> impl Iterator<Item = (&T, Where)> {
    extents.iter().scan(body_at, move |at, extent| {
        let place = match look(extent) {
            (_, Some(staged)) => Where::Staged(staged),
            (len, None) => {
                *at += u64::from(len);
                Where::Here(*at - u64::from(len))
            }
        };
        Some((extent, place))
    })
}

fn associated(keys: &Keys, bound: &[u8]) -> Vec<u8> {
    [b"dripfs journal block", keys.vault.0.as_slice(), bound].concat()
}

fn put_key(out: &mut Vec<u8>, key: &BlockRef) {
    out.extend_from_slice(&key.file.0);
    out.extend_from_slice(&key.position.0.to_le_bytes());
    out.extend_from_slice(&key.tag);
}

fn count(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("a block is bounded far below 4 GiB").to_le_bytes()
}

fn encode(block: &Block, durable: Position, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&block.first.0.to_le_bytes());
    out.extend_from_slice(&durable.0.to_le_bytes());
    out.extend_from_slice(&count(block.keys.len()));
    block.keys.iter().for_each(|key| put_key(out, key));
    out.extend_from_slice(&count(block.changes.len()));
    for change in &block.changes {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        change.encode(out);
        let len = count(out.len() - at - 4);
        out[at..at + 4].copy_from_slice(&len);
    }
    out.extend_from_slice(&count(block.extents.len()));
    for BlockExtent { id, bytes, hash, staged } in &block.extents {
        out.extend_from_slice(&id.owner.0.to_le_bytes());
        out.extend_from_slice(&id.number.to_le_bytes());
        out.extend_from_slice(&count(bytes.len()));
        out.extend_from_slice(hash);
        out.push(staged.is_some().into());
        if let Some(Staged { file, offset }) = staged {
            out.extend_from_slice(&file.0);
            out.extend_from_slice(&offset.to_le_bytes());
        }
    }
}

/// Seals `block` for its place behind the block with tag `previous` in `file`. Appends prefix and sealed part to `out`
/// (the extents' bytes follow it in the file); returns what names the block from now on.
pub fn seal(
    keys: &Keys,
    random: &Random,
    block: &Block,
    file: FileId,
    previous: [u8; 16],
    durable: Position,
    out: &mut Vec<u8>,
) -> BlockRef {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_LEN]);
    encode(block, durable, out);
    let sealed = out.len() - start - PREFIX_LEN + aead::TAG_LEN;
    let prefix = Prefix {
        file,
        sealed_len: u32::from_le_bytes(count(sealed)),
        extents_len: block.body().map(|bytes| bytes.len() as u64).sum(),
        position: block.position(),
        previous,
        nonce: random.bytes(),
    };
    let bound = prefix.bound();
    out[start..start + BOUND_LEN].copy_from_slice(&bound);
    out[start + BOUND_LEN..start + PREFIX_LEN].copy_from_slice(&prefix.nonce);
    let tag =
        aead::seal_in_place(&keys.journal, &prefix.nonce, &associated(keys, &bound), &mut out[start + PREFIX_LEN..]);
    out.extend_from_slice(&tag);
    BlockRef { file, position: prefix.position, tag }
}

/// Opens the sealed part of a block. `Unauthentic` means a torn or damaged block; anything else, one that is whole and
/// that this program cannot read.
pub fn open(keys: &Keys, prefix: &Prefix, sealed: &[u8]) -> Result<Opened, FormatError> {
    let unauthentic = FormatError::Unauthentic(WHAT);
    let (_, tag) = sealed.split_last_chunk::<{ aead::TAG_LEN }>().ok_or(unauthentic.clone())?;
    let plain = aead::open(&keys.journal, &prefix.nonce, &associated(keys, &prefix.bound()), sealed)
        .map_err(|_| unauthentic)?;
    let opened = decode(&plain, *tag)?;
    let extents = opened.body_len();
    let last = opened.first.0.checked_add(opened.changes.len() as u64);
    if opened.changes.is_empty() || last != prefix.position.0.checked_add(1) || extents != prefix.extents_len {
        return Err(malformed("its prefix and its contents differ"));
    }
    Ok(opened)
}

fn malformed(why: &'static str) -> FormatError {
    FormatError::Malformed { what: WHAT, why }
}

fn decode(plain: &[u8], tag: [u8; 16]) -> Result<Opened, FormatError> {
    let mut rest = Reader(plain);
    let [version] = rest.array()?;
    if !matches!(version, VERSION_1 | VERSION) {
        return Err(FormatError::Newer { what: WHAT, version: version.into() });
    }
    let first = Position(rest.u64()?);
    let durable = Position(rest.u64()?);
    let mut opened = Opened { first, durable, aliases: vec![], changes: vec![], extents: vec![], tag };
    for _ in 0..rest.u32()? {
        opened.aliases.push(BlockRef {
            file: FileId(rest.array()?),
            position: Position(rest.u64()?),
            tag: rest.array()?,
        });
    }
    for _ in 0..rest.u32()? {
        let len = rest.u32()? as usize;
        opened.changes.push(Arc::new(Change::decode(rest.take(len)?)?));
    }
    for _ in 0..rest.u32()? {
        let id = ExtentId { owner: Ino(rest.u64()?), number: rest.u64()? };
        let (len, hash) = (rest.u32()?, rest.array()?);
        let is_staged = version != VERSION_1 && rest.array::<1>()? != [0];
        let staged = if is_staged { Some(Staged { file: ObjectId(rest.array()?), offset: rest.u32()? }) } else { None };
        opened.extents.push(TableEntry { id, len, hash, staged });
    }
    if !rest.0.is_empty() {
        return Err(malformed("bytes are left over"));
    }
    Ok(opened)
}

/// Takes values off the front of a slice.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(malformed("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_version_1_has_an_extent_in_its_own_file() {
        let bytes = Bytes::from_static(b"sealed bytes");
        let id = ExtentId { owner: Ino(7), number: 9 };
        let extents = vec![BlockExtent { id, bytes, hash: [3; 32], staged: None }];
        let changes = vec![Arc::new(Change { barrier: vec![Ino(7)], ..Change::default() })];
        let block = Block { first: Position(5), changes, extents, keys: vec![], body_at: 0, weight: 0 };
        let mut plain = Vec::new();
        encode(&block, Position(4), &mut plain);
        let now = decode(&plain, [1; 16]).unwrap();
        // It said nothing of staged files.
        assert_eq!(plain.pop(), Some(0));
        plain[0] = VERSION_1;
        let then = decode(&plain, [1; 16]).unwrap();
        assert_eq!(then.extents, now.extents);
        assert_eq!(then.extents, [TableEntry { id, len: 12, hash: [3; 32], staged: None }]);
        assert_eq!((then.first, then.durable, then.changes.len()), (Position(5), Position(4), 1));
        plain[0] = VERSION + 1;
        assert!(matches!(decode(&plain, [1; 16]), Err(FormatError::Newer { .. })));
    }
}
