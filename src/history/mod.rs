//! History: the order of changes, and the state that they make.
//!
//! Owns the position counter's use, the overlay (every record, in memory: it alone serves as index for now), the
//! records of unlinked open files (L4), and the fold of what no commit holds yet. An operation is one transaction:
//! check, then one change, appended to the journal's buffer and visible in the overlay at once (J1).
//! Does not own: the journal's bytes, rounds, anything that waits.
//!
//! One mutex, held for microseconds, never over I/O or await.

use std::sync::Arc;

use crate::base::{ExtentId, Ino, Position};
use crate::format::key::Key;
use crate::format::record::Record;
use crate::journal::SealedExtent;

/// Read access to records: the state as it is now, orphans included. Holds the lock in shared mode.
pub struct View<'a> {
    _p: std::marker::PhantomData<&'a ()>,
}

impl View<'_> {
    pub fn get(&self, _key: &Key) -> Option<&Arc<Record>> {
        todo!()
    }

    /// Records from `from` to `to`, both inclusive, in key order.
    pub fn range(&self, _from: Key, _to: Key) -> impl Iterator<Item = (&Key, &Arc<Record>)> {
        std::iter::empty()
    }
}

/// One operation: reads see its own writes; nothing is visible outside before it ends with `Ok`.
pub struct Transaction<'a> {
    _p: std::marker::PhantomData<&'a ()>,
}

impl Transaction<'_> {
    pub fn get(&self, _key: &Key) -> Option<Arc<Record>> {
        todo!()
    }

    /// Records from `from` to `to`, both inclusive, in key order, this transaction's own writes included; `visit`
    /// returns false to stop.
    pub fn scan(&self, _from: Key, _to: Key, _visit: impl FnMut(&Key, &Arc<Record>) -> bool) {
        todo!()
    }

    pub fn put(&mut self, _key: Key, _record: Record) {
        todo!()
    }

    pub fn delete(&mut self, _key: Key) {
        todo!()
    }

    /// This operation is a barrier for the file (L2, J7).
    pub fn barrier(&mut self, _ino: Ino) {
        todo!()
    }

    /// The records under this inode (but its xattrs) leave the state and live on outside every commit, with nlink 0,
    /// until `History::forget` (L4). Call it instead of deleting `Key::inode` and what belongs to the contents.
    pub fn orphan(&mut self, _ino: Ino) {
        todo!()
    }

    pub fn new_inode(&mut self) -> Ino {
        todo!()
    }

    pub fn new_extent(&mut self, _owner: Ino) -> ExtentId {
        todo!()
    }

    /// Extents that come with this change.
    pub fn bring(&mut self, _extent: SealedExtent) {
        todo!()
    }

    pub fn now(&self) -> crate::base::Timestamp {
        todo!()
    }
}

pub struct History {}

impl History {
    pub fn view(&self) -> View<'_> {
        todo!()
    }

    /// Runs one operation. On `Ok` its change is appended and visible, and its position returned (the position of the
    /// last change before it, if it wrote nothing). On `Err` nothing happened.
    pub fn transact<T, E>(
        &self,
        _operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<(T, Position), E> {
        todo!()
    }

    /// The kernel forgot this inode: if it is an orphan, its records and bytes go.
    pub fn forget(&self, _ino: Ino) {
        todo!()
    }
}
