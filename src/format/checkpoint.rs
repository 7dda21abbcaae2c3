//! The manifest of a checkpoint: which sorted runs hold the whole record set, and what a mount must know to go on
//! from there.
//!
//! Owns: the manifest's fields; how its runs ([`run`]), the hashes of the log below it and the counts of segments
//! ([`table`]) lie in bytes. Does not own: the envelope ([`super::object`]), making and reading checkpoints (vault).
//!
//! Invariants: what a manifest says of the log fits together, or it does not open: its chain runs hold the hashes of
//! the log objects from the first to `sequence`, without a gap; a level's runs are in key order and do not overlap.

pub mod run;
pub mod table;

use super::FormatError;
use super::cbor::{Reader, Sink, Writer};
use super::change::read_list;
use super::commit::{ChainLink, CommitPart, Hash, checkpoint_name, read_part, write_part};
use super::key::{KEY_MAX, Key};
use super::keys::Keys;
use super::object::{self, Kind};
use super::record::read_ino;
use crate::base::sizes::CLASS_MAX;
use crate::base::{Epoch, Ino, ObjectId, Position, Random, Sequence};
use table::CHAIN_MAX;

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

/// A sealed run of hashes of log objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainRun {
    pub object: CommitPart,
    /// The log object that the first hash belongs to.
    pub first: Sequence,
    pub count: u32,
}

impl ChainRun {
    /// The log object that the last hash belongs to.
    pub fn last(&self) -> Sequence {
        Sequence(self.first.0 + u64::from(self.count) - 1)
    }
}

/// What a mount would otherwise have to read the whole record set for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Totals {
    pub inodes: u64,
    /// The sum of the files' sizes, modulo 2^64 (sparse files may hold more).
    pub bytes: u64,
    /// The highest inode number that was ever in the vault.
    pub highest: Ino,
}

impl Default for Totals {
    fn default() -> Totals {
        Totals { inodes: 0, bytes: 0, highest: Ino::NONE }
    }
}

/// What the last full merge found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Swept {
    /// The log object whose state it counted.
    pub sequence: Sequence,
    /// How much of each segment lived then: sealed tables, ids rising through all of them.
    pub counts: Vec<CommitPart>,
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
    /// The cut of the newest commit that it covers.
    pub cut: Position,
    /// The newest commit that it covers; `None` in the empty one.
    pub commit: Option<ChainLink>,
    /// The epoch to which the log object `sequence` belongs.
    pub epoch: Epoch,
    pub totals: Totals,
    /// Oldest first: hashes of all log objects up to `sequence`.
    pub chain: Vec<ChainRun>,
    /// `None` until the first full merge.
    pub swept: Option<Swept>,
}

const WHAT: &str = "checkpoint manifest";
/// More levels than merging ever leaves.
pub const LEVELS_MAX: usize = 64;

mod field {
    pub const SEQUENCE: u32 = 1;
    pub const HASH: u32 = 2;
    pub const LEVELS: u32 = 3;
    pub const CUT: u32 = 4;
    pub const COMMIT: u32 = 5;
    pub const EPOCH: u32 = 6;
    pub const TOTALS: u32 = 7;
    pub const CHAIN: u32 = 8;
    pub const SWEPT: u32 = 9;
}

impl Manifest {
    /// Encodes, seals and pads. `None` if it does not fit the largest class.
    pub fn seal(&self, keys: &Keys, random: &Random, id: ObjectId) -> Option<Vec<u8>> {
        object::seal(keys, random, Kind::Manifest, &checkpoint_name(id), &[], |out| self.write(&mut Writer::new(out)))
    }

    /// Opens what lies under `checkpoint_name(id)`.
    pub fn open(keys: &Keys, id: ObjectId, object: &[u8]) -> Result<Manifest, FormatError> {
        let opened = object::open(keys, Kind::Manifest, &checkpoint_name(id), WHAT, 0, object)?;
        let mut r = Reader::new(WHAT, opened.content());
        let (mut sequence, mut hash, mut manifest) = (None, None, Manifest::default());
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            match number {
                field::SEQUENCE => sequence = Some(Sequence(r.uint()?)),
                field::HASH => hash = Some(r.fixed()?),
                field::LEVELS => manifest.levels = read_levels(&mut r)?,
                field::CUT => manifest.cut = Position(not_zero(&mut r)?),
                field::COMMIT => manifest.commit = Some(read_link(&mut r)?),
                field::EPOCH => manifest.epoch = Epoch(read_epoch(&mut r)?),
                field::TOTALS => manifest.totals = read_totals(&mut r)?,
                field::CHAIN => manifest.chain = read_list(&mut r, read_chain_run)?,
                field::SWEPT => manifest.swept = Some(read_swept(&mut r)?),
                _ => r.skip_unknown(number)?,
            }
        }
        r.end()?;
        let (Some(sequence), Some(hash)) = (sequence, hash) else {
            return Err(r.malformed("a field is missing"));
        };
        let manifest = Manifest { sequence, hash, ..manifest };
        manifest.check().map_err(|why| r.malformed(why))?;
        Ok(manifest)
    }

    /// Bytes of all runs of its levels.
    pub fn runs_len(&self) -> u64 {
        self.levels.iter().flatten().map(|run| u64::from(run.len)).sum()
    }

    /// Every object under `segments/` that it names.
    pub fn segments(&self) -> impl Iterator<Item = CommitPart> + '_ {
        let runs = self.levels.iter().flatten().map(|run| CommitPart { id: run.id, len: run.len, hash: run.hash });
        let counts = self.swept.iter().flat_map(|swept| swept.counts.iter().copied());
        runs.chain(self.chain.iter().map(|run| run.object)).chain(counts)
    }

    /// The link of the log object that it covers last.
    pub fn link(&self) -> ChainLink {
        ChainLink { sequence: self.sequence, hash: self.hash }
    }

    /// What it says of the log must fit together.
    fn check(&self) -> Result<(), &'static str> {
        let mut next = 1;
        for run in &self.chain {
            if run.first.0 != next {
                return Err("its hashes of the log have a gap");
            }
            next += u64::from(run.count);
        }
        if next - 1 != self.sequence.0 {
            return Err("its hashes of the log do not end where it does");
        }
        if self.commit.is_some_and(|commit| commit.sequence > self.sequence || commit.sequence.0 == 0)
            || self.swept.as_ref().is_some_and(|swept| swept.sequence > self.sequence)
            || (self.commit.is_none() && self.cut != Position(0))
        {
            return Err("it tells of more than it covers");
        }
        Ok(())
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        let optional = [
            !self.levels.is_empty(),
            self.cut != Position(0),
            self.commit.is_some(),
            self.epoch != Epoch(0),
            self.totals != Totals::default(),
            !self.chain.is_empty(),
            self.swept.is_some(),
        ];
        w.map(2 + optional.iter().filter(|&&is| is).count());
        w.uint(field::SEQUENCE.into()).uint(self.sequence.0).uint(field::HASH.into()).bytes(&self.hash);
        if !self.levels.is_empty() {
            w.uint(field::LEVELS.into()).array(self.levels.len());
            self.levels.iter().for_each(|level| write_level(w, level));
        }
        if self.cut != Position(0) {
            w.uint(field::CUT.into()).uint(self.cut.0);
        }
        if let Some(commit) = &self.commit {
            w.uint(field::COMMIT.into()).array(2).uint(commit.sequence.0).bytes(&commit.hash);
        }
        if self.epoch != Epoch(0) {
            w.uint(field::EPOCH.into()).uint(self.epoch.0.into());
        }
        if self.totals != Totals::default() {
            w.uint(field::TOTALS.into()).array(3);
            w.uint(self.totals.inodes).uint(self.totals.bytes).uint(self.totals.highest.0);
        }
        if !self.chain.is_empty() {
            w.uint(field::CHAIN.into()).array(self.chain.len());
            for run in &self.chain {
                w.array(3).uint(run.first.0).uint(run.count.into());
                write_part(w, &run.object);
            }
        }
        if let Some(swept) = &self.swept {
            w.uint(field::SWEPT.into()).array(2).uint(swept.sequence.0).array(swept.counts.len());
            swept.counts.iter().for_each(|table| write_part(w, table));
        }
    }
}

fn write_level<W: Sink>(w: &mut Writer<W>, level: &[RunRef]) {
    w.array(level.len());
    for run in level {
        w.array(5).bytes(&run.id.0).uint(run.len.into()).bytes(&run.hash);
        w.bytes(&run.first.to_bytes()).bytes(&run.last.to_bytes());
    }
}

fn read_levels(r: &mut Reader<'_>) -> Result<Vec<Vec<RunRef>>, FormatError> {
    match r.array(LEVELS_MAX)? {
        0 => Err(default_stands(r)),
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

fn default_stands(r: &Reader<'_>) -> FormatError {
    r.malformed("a field at its default is left out")
}

fn not_zero(r: &mut Reader<'_>) -> Result<u64, FormatError> {
    match r.uint()? {
        0 => Err(default_stands(r)),
        value => Ok(value),
    }
}

fn read_epoch(r: &mut Reader<'_>) -> Result<u32, FormatError> {
    match r.u32()? {
        0 => Err(default_stands(r)),
        value => Ok(value),
    }
}

fn read_link(r: &mut Reader<'_>) -> Result<ChainLink, FormatError> {
    r.array_of(2)?;
    Ok(ChainLink { sequence: Sequence(r.uint()?), hash: r.fixed()? })
}

fn read_totals(r: &mut Reader<'_>) -> Result<Totals, FormatError> {
    r.array_of(3)?;
    let totals = Totals { inodes: r.uint()?, bytes: r.uint()?, highest: read_ino(r)? };
    if totals == Totals::default() { Err(default_stands(r)) } else { Ok(totals) }
}

fn read_chain_run(r: &mut Reader<'_>) -> Result<ChainRun, FormatError> {
    r.array_of(3)?;
    let (first, count) = (r.uint()?, r.uint_to(CHAIN_MAX as u64)? as u32);
    if count == 0 || first > u64::MAX - u64::from(count) {
        return Err(r.malformed("a run of hashes is empty, or too long"));
    }
    Ok(ChainRun { first: Sequence(first), count, object: read_part(r)? })
}

fn read_swept(r: &mut Reader<'_>) -> Result<Swept, FormatError> {
    r.array_of(2)?;
    let sequence = Sequence(r.uint()?);
    let counts = (0..r.array(usize::MAX)?).map(|_| read_part(r)).collect::<Result<_, _>>()?;
    Ok(Swept { sequence, counts })
}

#[cfg(test)]
mod tests;
