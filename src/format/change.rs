//! A change: the record upserts and deletes of one operation; the journal's unit (J1).

use std::sync::Arc;

use super::commit::ChainLink;
use super::key::Key;
use super::record::Record;
use crate::base::{Ino, ObjectId, Position};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Change {
    /// Upserts, and deletes (`None`). At most one entry a key.
    pub records: Vec<(Key, Option<Arc<Record>>)>,
    /// Files for which this change is a barrier (J7), also when nothing of them was dirty.
    pub barrier: Vec<Ino>,
    /// The records belong to unlinked open files (L4): they are in no commit, and a replay skips them.
    pub orphan: bool,
    pub note: Option<Note>,
}

/// What a journal remembers of the vault (J5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// A mount began here; nothing else is said.
    Mount,
    /// These object ids are about to be sent.
    Sent(Vec<ObjectId>),
    /// The vault took this log object; the commit's cut, if it is a commit.
    Took { link: ChainLink, cut: Option<Position> },
}

impl Change {
    pub fn put(&mut self, key: Key, record: Record) {
        self.records.push((key, Some(Arc::new(record))));
    }
}
