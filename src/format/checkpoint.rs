//! The manifest of a checkpoint: which sorted runs hold the whole record set.
//!
//! Owns: the manifest's fields. Does not own: the envelope ([`super::object`]), making or reading runs (vault). A run
//! is a commit part as far as bytes go.

use super::FormatError;
use super::cbor::{Reader, Sink, Writer};
use super::commit::{Hash, checkpoint_name};
use super::key::{KEY_MAX, Key};
use super::keys::Keys;
use super::object::{self, Kind};
use crate::base::sizes::CLASS_MAX;
use crate::base::{ObjectId, Random, Sequence};

/// A sealed run of records, as a manifest names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunRef {
    pub id: ObjectId,
    /// The object's length, padding included.
    pub len: u32,
    pub hash: Hash,
    pub first: Key,
    pub last: Key,
}

/// What a checkpoint holds: the state after the log object `sequence`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// The last log object that it covers; 0 in the empty one that `init` makes.
    pub sequence: Sequence,
    /// Hash of that log object; zeros if there is none.
    pub hash: Hash,
    /// Newest first; a level hides those after it. The runs of a level are in key order and do not overlap.
    pub levels: Vec<Vec<RunRef>>,
}

const WHAT: &str = "checkpoint manifest";
const LEVELS_MAX: usize = 64;
const SEQUENCE: u32 = 1;
const HASH: u32 = 2;
const LEVELS: u32 = 3;

impl Manifest {
    /// Encodes, seals and pads. `None` if it does not fit the largest class.
    pub fn seal(&self, keys: &Keys, random: &Random, id: ObjectId) -> Option<Vec<u8>> {
        object::seal(keys, random, Kind::Manifest, &checkpoint_name(id), &[], |out| self.write(&mut Writer::new(out)))
    }

    /// Opens what lies under `checkpoint_name(id)`.
    pub fn open(keys: &Keys, id: ObjectId, object: &[u8]) -> Result<Manifest, FormatError> {
        let opened = object::open(keys, Kind::Manifest, &checkpoint_name(id), WHAT, 0, object)?;
        let mut r = Reader::new(WHAT, opened.content());
        let (mut sequence, mut hash, mut levels) = (None, None, Vec::new());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                SEQUENCE => sequence = Some(Sequence(r.uint()?)),
                HASH => hash = Some(r.fixed()?),
                LEVELS => levels = read_levels(&mut r)?,
                _ => r.skip_unknown(number)?,
            }
        }
        r.end()?;
        match (sequence, hash) {
            (Some(sequence), Some(hash)) => Ok(Manifest { sequence, hash, levels }),
            _ => Err(r.malformed("a field is missing")),
        }
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        w.map(2 + usize::from(!self.levels.is_empty()));
        w.uint(SEQUENCE.into()).uint(self.sequence.0).uint(HASH.into()).bytes(&self.hash);
        if self.levels.is_empty() {
            return;
        }
        w.uint(LEVELS.into()).array(self.levels.len());
        for level in &self.levels {
            w.array(level.len());
            for run in level {
                w.array(5).bytes(&run.id.0).uint(run.len.into()).bytes(&run.hash);
                w.bytes(&run.first.to_bytes()).bytes(&run.last.to_bytes());
            }
        }
    }
}

fn read_levels(r: &mut Reader<'_>) -> Result<Vec<Vec<RunRef>>, FormatError> {
    match r.array(LEVELS_MAX)? {
        0 => Err(r.malformed("a field at its default is left out")),
        len => (0..len).map(|_| read_level(r)).collect(),
    }
}

fn read_level(r: &mut Reader<'_>) -> Result<Vec<RunRef>, FormatError> {
    let mut level: Vec<RunRef> = Vec::new();
    for _ in 0..r.array(usize::MAX)? {
        let run = read_run_ref(r)?;
        if run.first > run.last || level.last().is_some_and(|before| before.last >= run.first) {
            return Err(r.malformed("the runs of a level overlap, or are not in rising order"));
        }
        level.push(run);
    }
    if level.is_empty() { Err(r.malformed("a level is empty")) } else { Ok(level) }
}

fn read_run_ref(r: &mut Reader<'_>) -> Result<RunRef, FormatError> {
    r.array_of(5)?;
    Ok(RunRef {
        id: ObjectId(r.fixed()?),
        len: r.uint_to(CLASS_MAX as u64)? as u32,
        hash: r.fixed()?,
        first: Key::decode(r.bytes(KEY_MAX)?)?,
        last: Key::decode(r.bytes(KEY_MAX)?)?,
    })
}
