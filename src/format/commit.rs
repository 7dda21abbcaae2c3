//! Log objects: commits and epoch records, one hash chain (C3, C4, E1).
//!
//! Owns: their fields, names of objects, commit parts. Does not own: the envelope ([`super::object`]), what is
//! committed when (vault).
//!
//! Invariants: what seals here opens here. A log object is opened under the number that it was sealed for, or not at
//! all. No record in it has a place that is only local.

use std::sync::Arc;

use bytes::Bytes;

use super::FormatError;
use super::cbor::{Reader, Sink, Writer};
use super::change::{Order, Run, read_list, read_run, run_len, write_entry, write_run};
use super::key::Key;
use super::keys::Keys;
use super::object::{self, Kind};
use super::padding::class;
use super::record::{Place, Record, read_time, write_time};
use crate::base::sizes::CLASS_MAX;
use crate::base::{Epoch, FileId, ObjectId, Position, Random, Sequence, Timestamp};
use crate::crypto::aead::TAG_LEN;
use crate::crypto::kdf;

/// BLAKE3 of a whole object as it lies in the store.
pub type Hash = [u8; 32];

/// A log object by number and hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainLink {
    pub sequence: Sequence,
    pub hash: Hash,
}

/// A journal block as other things name it (C4, I1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockRef {
    pub file: FileId,
    /// The position of the block's last change.
    pub position: Position,
    /// The block's AEAD tag.
    pub tag: [u8; 16],
}

#[derive(Clone, PartialEq, Debug)]
pub struct LogObject {
    pub sequence: Sequence,
    /// Hash of the log object before; zeros for the first.
    pub previous: Hash,
    pub epoch: Epoch,
    /// Number and hash of the header that counts.
    pub header: (u64, Hash),
    /// Id and manifest hash of the checkpoint that counts.
    pub checkpoint: (ObjectId, Hash),
    /// The durable journal block that the writer was at; `None` only in the commit that `init` makes.
    pub block: Option<BlockRef>,
    /// For display only.
    pub host: String,
    /// For display only.
    pub time: Timestamp,
    pub body: Body,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    Epoch {
        /// A random id of the writing mount.
        writer: [u8; 16],
    },
    Commit(Commit),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Commit {
    /// The position up to which this commit takes the history.
    pub cut: Position,
    /// The writer unmounted: nobody writes.
    pub idle: bool,
    /// Changes since the commit before, in key order, one entry a key. What lies in `parts` comes after these.
    pub records: Run,
    /// Sealed parts that carry more records (C3), in key order.
    pub parts: Vec<CommitPart>,
    /// Sealed bytes of inline extents.
    pub inline: Bytes,
    /// Segments that are dead from here on (D1).
    pub dead: Vec<ObjectId>,
}

/// A segment object that holds a sealed run of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitPart {
    pub id: ObjectId,
    /// The object's length, padding included.
    pub len: u32,
    pub hash: Hash,
}

/// `log/<20 digits>`.
pub fn log_name(sequence: Sequence) -> String {
    format!("log/{:020}", sequence.0)
}

/// `segments/<aa>/<id>`.
pub fn segment_name(id: ObjectId) -> String {
    let id = id.to_string();
    format!("segments/{}/{id}", &id[..2])
}

/// `checkpoint/<id>`.
pub fn checkpoint_name(id: ObjectId) -> String {
    format!("checkpoint/{id}")
}

/// The hash of an object as it lies in the store.
pub fn hash(object: &[u8]) -> Hash {
    kdf::hash(object)
}

/// The longest host name that is kept; what is longer is cut.
const HOST_MAX: usize = 255;
const WHAT: &str = "log object";
const PART: &str = "commit part";

/// Numbers of a log object's fields.
mod field {
    pub const SEQUENCE: u32 = 1;
    pub const PREVIOUS: u32 = 2;
    pub const EPOCH: u32 = 3;
    pub const HEADER: u32 = 4;
    pub const CHECKPOINT: u32 = 5;
    pub const BLOCK: u32 = 6;
    pub const HOST: u32 = 7;
    pub const TIME: u32 = 8;
    /// Stands in epoch records only.
    pub const WRITER: u32 = 9;
    /// Stands in commits only, as do those after it.
    pub const CUT: u32 = 10;
    pub const IDLE: u32 = 11;
    pub const RECORDS: u32 = 12;
    pub const PARTS: u32 = 13;
    pub const INLINE: u32 = 14;
    pub const DEAD: u32 = 15;
}

impl LogObject {
    /// Encodes, seals and pads. `None` if it does not fit the largest class: move records to parts, or extents to
    /// segments.
    pub fn seal(&self, keys: &Keys, random: &Random) -> Option<Vec<u8>> {
        if let Body::Commit(commit) = &self.body {
            assert_placed(&commit.records);
        }
        object::seal(keys, random, Kind::Log, &log_name(self.sequence), &[], |out| self.write(&mut Writer::new(out)))
    }

    /// Opens what lies under `log_name(sequence)`.
    pub fn open(keys: &Keys, sequence: Sequence, object: &[u8]) -> Result<LogObject, FormatError> {
        let opened = object::open(keys, Kind::Log, &log_name(sequence), WHAT, 0, object)?;
        let mut r = Reader::new(WHAT, opened.content());
        let log = LogObject::read(&mut r)?;
        r.end()?;
        if log.sequence != sequence {
            return Err(r.malformed("its number is not that of its name"));
        }
        Ok(log)
    }

    /// Is this what comes next in the log, after an object with the hash `previous`, while `reign` is the newest epoch?
    /// Only an epoch record begins another. The error says why not.
    pub fn check_next(&self, previous: &Hash, reign: Epoch) -> Result<(), &'static str> {
        if self.previous != *previous {
            return Err("does not continue the log: two histories were mixed");
        }
        let in_order = match self.body {
            Body::Epoch { .. } => self.epoch > reign,
            Body::Commit(_) => self.epoch == reign,
        };
        if in_order { Ok(()) } else { Err("belongs to an epoch that was over") }
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        let body = match &self.body {
            Body::Epoch { .. } => 1,
            Body::Commit(commit) => 1 + commit.optional().iter().filter(|&&is| is).count(),
        };
        w.map(7 + usize::from(self.block.is_some()) + body);
        w.uint(field::SEQUENCE.into()).uint(self.sequence.0);
        w.uint(field::PREVIOUS.into()).bytes(&self.previous);
        w.uint(field::EPOCH.into()).uint(self.epoch.0.into());
        w.uint(field::HEADER.into()).array(2).uint(self.header.0).bytes(&self.header.1);
        w.uint(field::CHECKPOINT.into()).array(2).bytes(&self.checkpoint.0.0).bytes(&self.checkpoint.1);
        if let Some(block) = &self.block {
            w.uint(field::BLOCK.into()).array(3).bytes(&block.file.0).uint(block.position.0).bytes(&block.tag);
        }
        w.uint(field::HOST.into()).text(&self.host[..self.host.floor_char_boundary(HOST_MAX)]);
        w.uint(field::TIME.into());
        write_time(w, self.time);
        match &self.body {
            Body::Epoch { writer } => _ = w.uint(field::WRITER.into()).bytes(writer),
            Body::Commit(commit) => commit.write(w),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<LogObject, FormatError> {
        let (mut sequence, mut previous, mut epoch, mut header, mut checkpoint) = (None, None, None, None, None);
        let (mut block, mut host, mut time, mut writer, mut cut) = (None, None, None, None, None);
        let (mut commit, mut of_commit) = (Commit::default(), false);
        let mut fields = r.fields()?;
        while let Some(number) = r.next_field(&mut fields)? {
            of_commit |= (field::CUT..=field::DEAD).contains(&number);
            match number {
                field::SEQUENCE => sequence = Some(Sequence(r.uint()?)),
                field::PREVIOUS => previous = Some(r.fixed()?),
                field::EPOCH => epoch = Some(Epoch(r.u32()?)),
                field::HEADER => header = Some(read_header(r)?),
                field::CHECKPOINT => checkpoint = Some(read_checkpoint(r)?),
                field::BLOCK => block = Some(read_block(r)?),
                field::HOST => host = Some(r.text(HOST_MAX)?.to_owned()),
                field::TIME => time = Some(read_time(r)?),
                field::WRITER => writer = Some(r.fixed()?),
                field::CUT => cut = Some(Position(r.uint()?)),
                field::IDLE => commit.idle = r.yes()?,
                field::RECORDS => commit.records = read_placed(r)?,
                field::PARTS => commit.parts = read_list(r, read_part)?,
                field::INLINE => commit.inline = read_inline(r)?,
                field::DEAD => commit.dead = read_list(r, |r| r.fixed().map(ObjectId))?,
                _ => r.skip_unknown(number)?,
            }
        }
        let missing = r.malformed("a field is missing");
        let body = match (writer, cut) {
            (Some(writer), None) if !of_commit => Body::Epoch { writer },
            (None, Some(cut)) => Body::Commit(Commit { cut, ..commit }),
            (None, None) => return Err(missing),
            _ => return Err(r.malformed("it is both an epoch record and a commit")),
        };
        let log = (|| {
            Some(LogObject {
                sequence: sequence?,
                previous: previous?,
                epoch: epoch?,
                header: header?,
                checkpoint: checkpoint?,
                block,
                host: host?,
                time: time?,
                body,
            })
        })();
        log.ok_or(missing)
    }
}

impl Commit {
    /// Which of the fields that are left out at their default stand.
    fn optional(&self) -> [bool; 5] {
        [self.idle, !self.records.is_empty(), !self.parts.is_empty(), !self.inline.is_empty(), !self.dead.is_empty()]
    }

    fn write<W: Sink>(&self, w: &mut Writer<W>) {
        w.uint(field::CUT.into()).uint(self.cut.0);
        if self.idle {
            w.uint(field::IDLE.into()).yes();
        }
        if !self.records.is_empty() {
            w.uint(field::RECORDS.into());
            write_run(w, &self.records);
        }
        if !self.parts.is_empty() {
            w.uint(field::PARTS.into()).array(self.parts.len());
            self.parts.iter().for_each(|part| write_part(w, part));
        }
        if !self.inline.is_empty() {
            w.uint(field::INLINE.into()).bytes(&self.inline);
        }
        if !self.dead.is_empty() {
            w.uint(field::DEAD.into()).array(self.dead.len());
            self.dead.iter().for_each(|id| _ = w.bytes(&id.0));
        }
    }
}

fn read_header(r: &mut Reader<'_>) -> Result<(u64, Hash), FormatError> {
    r.array_of(2)?;
    Ok((r.uint()?, r.fixed()?))
}

fn read_checkpoint(r: &mut Reader<'_>) -> Result<(ObjectId, Hash), FormatError> {
    r.array_of(2)?;
    Ok((ObjectId(r.fixed()?), r.fixed()?))
}

fn read_block(r: &mut Reader<'_>) -> Result<BlockRef, FormatError> {
    r.array_of(3)?;
    Ok(BlockRef { file: FileId(r.fixed()?), position: Position(r.uint()?), tag: r.fixed()? })
}

pub(super) fn write_part<W: Sink>(w: &mut Writer<W>, part: &CommitPart) {
    w.array(3).bytes(&part.id.0).uint(part.len.into()).bytes(&part.hash);
}

pub(super) fn read_part(r: &mut Reader<'_>) -> Result<CommitPart, FormatError> {
    r.array_of(3)?;
    Ok(CommitPart { id: ObjectId(r.fixed()?), len: r.uint_to(CLASS_MAX as u64)? as u32, hash: r.fixed()? })
}

fn read_inline(r: &mut Reader<'_>) -> Result<Bytes, FormatError> {
    match r.bytes(CLASS_MAX)? {
        [] => Err(r.malformed("a field at its default is left out")),
        bytes => Ok(Bytes::copy_from_slice(bytes)),
    }
}

pub(super) fn is_local(record: &Option<Arc<Record>>) -> bool {
    matches!(record.as_deref(), Some(Record::Extent(extent)) if extent.place == Place::Local)
}

/// A commit that named bytes which only this machine has would be worse than none.
fn assert_placed(records: &[(Key, Option<Arc<Record>>)]) {
    assert!(!records.iter().any(|(_, record)| is_local(record)), "an extent in a commit has no place in the vault");
}

fn read_placed(r: &mut Reader<'_>) -> Result<Run, FormatError> {
    let run = read_run(r, Order::Rising)?;
    if run.iter().any(|(_, record)| is_local(record)) {
        return Err(r.malformed("an extent has no place in the vault"));
    }
    Ok(run)
}

/// An upper bound of what these records take in a commit, in bytes.
pub fn records_len(records: &[(Key, Option<Arc<Record>>)]) -> usize {
    // The head of an array is longer when more records join it later.
    run_len(records) + 8
}

/// Seals a run of records (in key order) as an object of its own, padded: a commit part.
pub fn seal_part(
    keys: &Keys,
    random: &Random,
    id: ObjectId,
    records: &[(Key, Option<Arc<Record>>)],
) -> Option<Vec<u8>> {
    assert_placed(records);
    object::seal(keys, random, Kind::Part, &segment_name(id), &[], |out| write_run(&mut Writer::new(out), records))
}

/// A run of records in the making, encoded as they come: it takes their bytes and no more, and becomes the object where it
/// lies.
pub struct PartWriter {
    /// Room for what lies before the content and for the head of the array, then keys and records.
    object: Vec<u8>,
    records: usize,
}

/// What a part takes beside keys and records: nonce, length, the head of the array, tag.
const PART_OVERHEAD: usize = object::CONTENT + HEAD_MAX + TAG_LEN;
/// The longest head of an array.
const HEAD_MAX: usize = 9;

impl PartWriter {
    /// `most`: what its records are going to take.
    pub fn new(most: usize) -> PartWriter {
        let mut object = Vec::with_capacity(class(most + PART_OVERHEAD).unwrap_or(CLASS_MAX));
        object.resize(object::CONTENT + HEAD_MAX, 0);
        PartWriter { object, records: 0 }
    }

    /// Adds a record, whose key is above those before it; `false`, and nothing added, if all would take more than `most`.
    pub fn push(&mut self, key: &Key, record: &Option<Arc<Record>>, most: usize) -> bool {
        assert!(!is_local(record), "an extent in a commit has no place in the vault");
        let before = self.object.len();
        write_entry(&mut Writer::new(&mut self.object), key, record);
        let fits = self.object.len() - object::CONTENT <= most;
        match fits {
            true => self.records += 1,
            false => self.object.truncate(before),
        }
        fits
    }

    /// As [`seal_part`].
    pub fn seal(mut self, keys: &Keys, random: &Random, id: ObjectId) -> Option<Vec<u8>> {
        let mut head = Vec::with_capacity(HEAD_MAX);
        Writer::new(&mut head).array(2 * self.records);
        let end = object::CONTENT + head.len();
        self.object.copy_within(object::CONTENT + HEAD_MAX.., end);
        self.object.truncate(self.object.len() - (HEAD_MAX - head.len()));
        self.object[object::CONTENT..end].copy_from_slice(&head);
        object::seal_made(keys, random, Kind::Part, &segment_name(id), &[], self.object)
    }
}

pub fn open_part(keys: &Keys, id: ObjectId, object: &[u8]) -> Result<Run, FormatError> {
    let opened = object::open(keys, Kind::Part, &segment_name(id), PART, 0, object)?;
    let mut r = Reader::new(PART, opened.content());
    let run = read_placed(&mut r)?;
    r.end()?;
    Ok(run)
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
