//! Reading a sealed run of records one by one, so that a merge of many levels holds bytes and not records.

use std::sync::Arc;

use super::super::FormatError;
use super::super::cbor::Reader;
use super::super::commit::{is_local, segment_name};
use super::super::key::{KEY_MAX, Key};
use super::super::keys::Keys;
use super::super::object::{self, Kind, Opened};
use super::super::record::Record;
use crate::base::ObjectId;

const WHAT: &str = "checkpoint run";

/// A record, or a delete (`None`).
pub type Entry = (Key, Option<Arc<Record>>);

/// An opened run, and how far it has been read. Its bytes are wiped when it is dropped.
pub struct Run {
    opened: Opened,
    at: usize,
    left: usize,
    last: Option<Key>,
}

impl Run {
    /// Opens what lies under `segment_name(id)`.
    pub fn open(keys: &Keys, id: ObjectId, object: &[u8]) -> Result<Run, FormatError> {
        let opened = object::open(keys, Kind::Part, &segment_name(id), WHAT, 0, object)?;
        let mut r = Reader::new(WHAT, opened.content());
        let len = r.array(usize::MAX)?;
        if len == 0 || len % 2 != 0 {
            return Err(r.malformed("a run of records is empty, or ends with a key"));
        }
        let at = opened.content().len() - r.rest();
        Ok(Run { opened, at, left: len / 2, last: None })
    }

    /// The next record, or delete (`None`); nothing after the last.
    pub fn read(&mut self) -> Result<Option<Entry>, FormatError> {
        let content = self.opened.content();
        let mut r = Reader::new(WHAT, &content[self.at..]);
        if self.left == 0 {
            return r.end().map(|()| None);
        }
        let key = Key::decode(r.bytes(KEY_MAX)?)?;
        if self.last.is_some_and(|last| last >= key) {
            return Err(r.malformed("the keys of a run are not in rising order"));
        }
        let record = if r.take_null() { None } else { Some(Arc::new(Record::read(&key, &mut r)?)) };
        if is_local(&record) {
            return Err(r.malformed("an extent has no place in the vault"));
        }
        self.at = content.len() - r.rest();
        self.left -= 1;
        self.last = Some(key);
        Ok(Some((key, record)))
    }
}
