//! Log objects: commits and epoch records, one hash chain (C3, C4, E1).

use std::sync::Arc;

use bytes::Bytes;

use super::FormatError;
use super::key::Key;
use super::keys::Keys;
use super::record::Record;
use crate::base::{Epoch, FileId, ObjectId, Position, Random, Sequence, Timestamp};

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
    pub records: Vec<(Key, Option<Arc<Record>>)>,
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

impl LogObject {
    /// Encodes, seals and pads. `None` if it does not fit the largest class: move records to parts, or extents to
    /// segments.
    pub fn seal(&self, _keys: &Keys, _random: &Random) -> Option<Vec<u8>> {
        todo!()
    }

    /// Opens what lies under `log_name(sequence)`.
    pub fn open(_keys: &Keys, _sequence: Sequence, _object: &[u8]) -> Result<LogObject, FormatError> {
        todo!()
    }
}

/// An upper bound of what these records take in a commit, in bytes.
pub fn records_len(_records: &[(Key, Option<Arc<Record>>)]) -> usize {
    todo!()
}

/// Seals a run of records (in key order) as an object of its own, padded: a commit part.
pub fn seal_part(
    _keys: &Keys,
    _random: &Random,
    _id: ObjectId,
    _records: &[(Key, Option<Arc<Record>>)],
) -> Option<Vec<u8>> {
    todo!()
}

pub fn open_part(_keys: &Keys, _id: ObjectId, _object: &[u8]) -> Result<Vec<(Key, Option<Arc<Record>>)>, FormatError> {
    todo!()
}
