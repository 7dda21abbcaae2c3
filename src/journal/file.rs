//! A journal file: its name, its header, and how one is made (J4). Blocks follow the header.
//!
//! Invariant: a file takes its name by rename only once its header and everything that it rewrites are fdatasynced, so
//! a file under its own name always has a sound header, or is damaged. While it is being made its name ends in `.new`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{self, Block, Reader};
use crate::base::disk::{Disk, File};
use crate::base::{FileId, Position, Random};
use crate::crypto::aead;
use crate::format::FormatError;
use crate::format::commit::BlockRef;
use crate::format::keys::Keys;

const MAGIC: &[u8; 8] = b"dripfs-j";
const VERSION: u8 = 1;
const PLAIN_LEN: usize = 1 + 8 + 1 + 16 + 8 + 16 + 8 + 8;
/// Bytes of a header: magic, nonce, sealed contents.
pub const HEADER_LEN: usize = MAGIC.len() + aead::NONCE_LEN + PLAIN_LEN + aead::TAG_LEN;
const WHAT: &str = "the header of a journal file";

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub generation: u64,
    pub id: FileId,
    /// The block that this file continues, and after which it supersedes all older files; `None` if it begins a journal.
    pub base: Option<BlockRef>,
    /// The position of the last block that it rewrote, or the base's: durable since before the file had its name.
    pub rewritten: Position,
    /// Positions of what follows the rewritten blocks are above this (J3: resumed after foreign commits).
    pub floor: Position,
}

impl Header {
    pub fn base_position(&self) -> Position {
        self.base.map_or(Position(0), |base| base.position)
    }

    pub fn base_tag(&self) -> [u8; 16] {
        self.base.map_or([0; 16], |base| base.tag)
    }

    fn encode(&self) -> Vec<u8> {
        let base = self.base.unwrap_or(BlockRef { file: FileId([0; 16]), position: Position(0), tag: [0; 16] });
        let mut out = Vec::with_capacity(PLAIN_LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.push(self.base.is_some().into());
        out.extend_from_slice(&base.file.0);
        out.extend_from_slice(&base.position.0.to_le_bytes());
        out.extend_from_slice(&base.tag);
        out.extend_from_slice(&self.rewritten.0.to_le_bytes());
        out.extend_from_slice(&self.floor.0.to_le_bytes());
        out
    }

    fn seal(&self, keys: &Keys, random: &Random) -> Vec<u8> {
        let nonce = random.bytes();
        let sealed = aead::seal(&keys.journal, &nonce, &associated(keys, self.id), &self.encode());
        [MAGIC.as_slice(), &nonce, &sealed].concat()
    }

    /// Opens the header of the file that `name` names.
    pub fn open(keys: &Keys, name: Name, bytes: &[u8; HEADER_LEN]) -> Result<Header, FormatError> {
        let mut rest = Reader(bytes);
        if rest.array()? != *MAGIC {
            return Err(FormatError::Unauthentic(WHAT));
        }
        let nonce = rest.array()?;
        let plain = aead::open(&keys.journal, &nonce, &associated(keys, name.id), rest.0)
            .map_err(|_| FormatError::Unauthentic(WHAT))?;
        let mut rest = Reader(&plain);
        match rest.array()? {
            [VERSION] => {}
            [version] => return Err(FormatError::Newer { what: WHAT, version: version.into() }),
        }
        let generation = rest.u64()?;
        let [has_base] = rest.array()?;
        let base = BlockRef { file: FileId(rest.array()?), position: Position(rest.u64()?), tag: rest.array()? };
        let (rewritten, floor) = (Position(rest.u64()?), Position(rest.u64()?));
        if generation != name.generation {
            return Err(FormatError::Malformed { what: WHAT, why: "it bears another generation than the file's name" });
        }
        Ok(Header { generation, id: name.id, base: (has_base == 1).then_some(base), rewritten, floor })
    }
}

fn associated(keys: &Keys, id: FileId) -> Vec<u8> {
    [b"dripfs journal header", keys.vault.0.as_slice(), &id.0].concat()
}

/// A file's name: generation and id. The order of generations is the order of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub generation: u64,
    pub id: FileId,
}

/// What a file in a journal's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Journal(Name),
    /// One that was being made; it does not count.
    Unfinished(Name),
}

impl Name {
    pub fn path(&self, dir: &str) -> String {
        format!("{dir}/{:020}-{}", self.generation, self.id)
    }

    fn unfinished_path(&self, dir: &str) -> String {
        format!("{}.new", self.path(dir))
    }

    /// `None` for a name that is not the journal's.
    pub fn parse(name: &str) -> Option<Kind> {
        let (whole, unfinished) = name.strip_suffix(".new").map_or((name, false), |whole| (whole, true));
        let (generation, id) = whole.split_once('-')?;
        if generation.len() != 20 || !generation.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let name = Name { generation: generation.parse().ok()?, id: id.parse().ok()? };
        Some(if unfinished { Kind::Unfinished(name) } else { Kind::Journal(name) })
    }
}

/// What sealing and writing need, the same for all files of a journal.
pub struct Place {
    pub disk: Arc<dyn Disk>,
    pub dir: String,
    pub keys: Arc<Keys>,
    pub random: Random,
}

/// A file that is open for appending.
pub struct Tail {
    pub name: Name,
    pub path: String,
    pub file: Arc<dyn File>,
    pub len: u64,
    /// So much of it an fdatasync has covered.
    pub durable_len: u64,
    /// The tag that the next block names.
    pub tag: [u8; 16],
}

/// Where a block was put: its name from now on, and where its extents begin.
pub type Put = (BlockRef, u64);

/// Extents from here on are written from where they lie; smaller ones are gathered first, to spare calls.
const DIRECT: usize = 64 * 1024;
/// How much is gathered for one write.
const GATHER: usize = 1024 * 1024;

impl Tail {
    /// Appends blocks. After an error nothing of the file behind its last good `sync_data` may be believed.
    pub fn append<'a>(
        &mut self,
        place: &Place,
        durable: Position,
        blocks: impl Iterator<Item = &'a Block>,
    ) -> io::Result<Vec<Put>> {
        let mut puts = Vec::new();
        let mut gathered = Vec::new();
        for block in blocks {
            let key = block::seal(&place.keys, &place.random, block, self.name.id, self.tag, durable, &mut gathered);
            self.tag = key.tag;
            puts.push((key, self.len + gathered.len() as u64));
            for bytes in block.body() {
                self.put_extent(&mut gathered, bytes)?;
            }
            if gathered.len() >= GATHER {
                self.write_out(&mut gathered)?;
            }
        }
        self.write_out(&mut gathered)?;
        Ok(puts)
    }

    fn put_extent(&mut self, gathered: &mut Vec<u8>, bytes: &Bytes) -> io::Result<()> {
        if bytes.len() < DIRECT {
            gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_out(gathered)?;
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn write_out(&mut self, gathered: &mut Vec<u8>) -> io::Result<()> {
        if !gathered.is_empty() {
            self.file.write_at(gathered, self.len)?;
            self.len += gathered.len() as u64;
            gathered.clear();
        }
        Ok(())
    }
}

/// A file that could not be made.
pub struct NotMade {
    pub why: io::Error,
    pub generation: u64,
    pub path: String,
    /// The file may stand under its name, and could not be removed: it must be reckoned with.
    pub stands: bool,
}

/// Makes a file with `header`, writes `blocks` again in it, and gives it its name once all of that is fdatasynced;
/// then the directory is fsynced.
pub fn make(place: &Place, header: &Header, blocks: &[Block]) -> Result<(Tail, Vec<Put>), NotMade> {
    let name = Name { generation: header.generation, id: header.id };
    let path = name.path(&place.dir);
    let unfinished = name.unfinished_path(&place.dir);
    let failed = |why, stands| NotMade { why, generation: header.generation, path: path.clone(), stands };
    let made = fill(place, header, name, &unfinished, blocks).map_err(|why| {
        // Best effort: what stays is ignored by a replay and removed by the next mount.
        place.disk.remove(&unfinished).ok();
        failed(why, false)
    })?;
    let named = place.disk.rename(&unfinished, &path).and_then(|()| place.disk.sync_dir(&place.dir));
    named.map_err(|why| {
        place.disk.remove(&unfinished).ok();
        let gone = match place.disk.remove(&path) {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        failed(why, !gone)
    })?;
    Ok(made)
}

fn fill(
    place: &Place,
    header: &Header,
    name: Name,
    unfinished: &str,
    blocks: &[Block],
) -> io::Result<(Tail, Vec<Put>)> {
    let file = place.disk.create(unfinished)?;
    file.write_at(&header.seal(&place.keys, &place.random), 0)?;
    let path = name.path(&place.dir);
    let len = HEADER_LEN as u64;
    let mut tail = Tail { name, path, file, len, durable_len: 0, tag: header.base_tag() };
    let puts = tail.append(place, header.base_position(), blocks.iter())?;
    tail.file.sync_data()?;
    tail.durable_len = tail.len;
    Ok((tail, puts))
}
