//! A slab: one file of the disk cache, a table and 255 slots of 64 KiB behind it.
//!
//! Owns where things lie in it. Bytes are never fsynced: after a crash a slot may hold other bytes than the table says, or
//! a part of them, and the table itself may be torn. Then the block does not open, and is dropped.
//!
//! The table says nothing that the store's provider does not know: names of objects, numbers of blocks, lengths; and in
//! which order they were used.

use std::io;
use std::sync::Arc;

use crate::base::ObjectId;
use crate::base::disk::File;
use crate::base::sizes::READ_GRID;

const MAGIC: [u8; 32] = *b"dripfs sealed blocks, version 1\n";
/// Bytes of one line of the table: object, number, length, stamp.
const LINE: usize = 32;
pub const SLOTS: u16 = 255;
/// The magic, and a line a slot.
const TABLE: usize = LINE * (1 + SLOTS as usize);
/// What a slab takes on the disk when it is full.
pub const SLAB_BYTES: u64 = (TABLE + SLOTS as usize * READ_GRID) as u64;

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    pub object: ObjectId,
    pub block: u32,
    pub len: u32,
    /// Higher was used later.
    pub stamp: u64,
}

impl Line {
    fn encode(self) -> [u8; LINE] {
        let mut line = [0; LINE];
        line[..16].copy_from_slice(&self.object.0);
        line[16..20].copy_from_slice(&self.block.to_le_bytes());
        line[20..24].copy_from_slice(&self.len.to_le_bytes());
        line[24..].copy_from_slice(&self.stamp.to_le_bytes());
        line
    }

    /// `None` for a slot without a block, and for what is no line.
    fn decode(line: &[u8; LINE]) -> Option<Line> {
        let (object, rest) = line.split_first_chunk::<16>()?;
        let (block, rest) = rest.split_first_chunk::<4>()?;
        let (len, stamp) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        (1..=READ_GRID as u32).contains(&len).then_some(Line {
            object: ObjectId(*object),
            block: u32::from_le_bytes(*block),
            len,
            stamp: u64::from_le_bytes(*stamp.first_chunk()?),
        })
    }
}

/// What slots hold.
pub type Held = Vec<(u16, Line)>;

#[derive(Clone)]
pub struct Slab(Arc<dyn File>);

impl Slab {
    /// A new one, in an empty file.
    pub fn make(file: Arc<dyn File>) -> io::Result<Slab> {
        let mut table = vec![0; TABLE];
        table[..LINE].copy_from_slice(&MAGIC);
        file.write_at(&table, 0)?;
        Ok(Slab(file))
    }

    /// One that stands, and what it holds, by slot. `None` if it is none of ours.
    pub fn open(file: Arc<dyn File>) -> io::Result<Option<(Slab, Held)>> {
        if file.len()? < TABLE as u64 {
            return Ok(None);
        }
        let mut table = vec![0; TABLE];
        file.read_at(&mut table, 0)?;
        let (lines, _) = table.as_chunks::<LINE>();
        if lines[0] != MAGIC {
            return Ok(None);
        }
        let held = (0..).zip(&lines[1..]).filter_map(|(slot, line)| Some((slot, Line::decode(line)?)));
        Ok(Some((Slab(file), held.collect())))
    }

    pub fn read(&self, slot: u16, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_at(&mut bytes, place(slot))?;
        Ok(bytes)
    }

    pub fn write(&self, slot: u16, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(bytes, place(slot))
    }

    pub fn write_line(&self, slot: u16, line: Option<Line>) -> io::Result<()> {
        let line = line.map_or([0; LINE], Line::encode);
        self.0.write_at(&line, (LINE * (1 + slot as usize)) as u64)
    }
}

fn place(slot: u16) -> u64 {
    (TABLE + slot as usize * READ_GRID) as u64
}
