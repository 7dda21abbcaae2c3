//! Tables that a manifest names: hashes of log objects, and how much of each segment lives.
//!
//! Both lie where segments lie and look like them. They are kept apart from the manifest because they grow with the
//! vault's age and size, and most mounts never read them.

use super::super::FormatError;
use super::super::cbor::{Reader, Writer};
use super::super::commit::{Hash, segment_name};
use super::super::keys::Keys;
use super::super::object::{self, Kind};
use crate::base::{ObjectId, Random, Sequence};

/// The most hashes of one chain run: what fits the largest class, as a power of two.
pub const CHAIN_MAX: usize = 1 << 18;
/// The most segments of one table of counts.
pub const COUNTS_MAX: usize = 1 << 18;

const CHAIN: &str = "chain run";
const COUNTS: &str = "table of segments";
const HASH_LEN: usize = size_of::<Hash>();

/// How much of a segment lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentCount {
    pub id: ObjectId,
    /// Sealed bytes of extents that the state names.
    pub live: u64,
    /// The object's length, padding included; 0 where no record tells it.
    pub total: u32,
}

/// Seals the hashes of the log objects from `first` on: 1 to [`CHAIN_MAX`] of them.
pub fn seal_chain(keys: &Keys, random: &Random, id: ObjectId, first: Sequence, hashes: &[Hash]) -> Option<Vec<u8>> {
    assert!((1..=CHAIN_MAX).contains(&hashes.len()), "a chain run holds 1 to CHAIN_MAX hashes");
    object::seal(keys, random, Kind::Chain, &segment_name(id), &[], |out| {
        Writer::new(out).array(2).uint(first.0).bytes(hashes.as_flattened());
    })
}

/// The first log object's number, and the hashes from there on.
pub fn open_chain(keys: &Keys, id: ObjectId, object: &[u8]) -> Result<(Sequence, Vec<Hash>), FormatError> {
    let opened = object::open(keys, Kind::Chain, &segment_name(id), CHAIN, 0, object)?;
    let mut r = Reader::new(CHAIN, opened.content());
    r.array_of(2)?;
    let first = Sequence(r.uint()?);
    let (hashes, rest) = r.bytes(CHAIN_MAX * HASH_LEN)?.as_chunks::<HASH_LEN>();
    if hashes.is_empty() || !rest.is_empty() {
        return Err(r.malformed("it holds no whole number of hashes"));
    }
    r.end()?;
    Ok((first, hashes.to_vec()))
}

/// Seals counts, ids rising: 1 to [`COUNTS_MAX`] of them.
pub fn seal_counts(keys: &Keys, random: &Random, id: ObjectId, counts: &[SegmentCount]) -> Option<Vec<u8>> {
    assert!((1..=COUNTS_MAX).contains(&counts.len()), "a table holds 1 to COUNTS_MAX counts");
    object::seal(keys, random, Kind::Counts, &segment_name(id), &[], |out| {
        let mut w = Writer::new(out);
        w.array(3 * counts.len());
        for count in counts {
            w.bytes(&count.id.0).uint(count.live).uint(count.total.into());
        }
    })
}

pub fn open_counts(keys: &Keys, id: ObjectId, object: &[u8]) -> Result<Vec<SegmentCount>, FormatError> {
    let opened = object::open(keys, Kind::Counts, &segment_name(id), COUNTS, 0, object)?;
    let mut r = Reader::new(COUNTS, opened.content());
    let len = r.array(3 * COUNTS_MAX)?;
    if len == 0 || len % 3 != 0 {
        return Err(r.malformed("it is empty, or ends within an entry"));
    }
    let mut counts: Vec<SegmentCount> = Vec::with_capacity(len / 3);
    for _ in 0..len / 3 {
        let count = SegmentCount { id: ObjectId(r.fixed()?), live: r.uint()?, total: r.u32()? };
        if counts.last().is_some_and(|last| last.id >= count.id) {
            return Err(r.malformed("its ids are not in rising order"));
        }
        counts.push(count);
    }
    r.end()?;
    Ok(counts)
}
