//! What stands between the journal and the store: sealed blocks of the store's objects that this machine keeps.

use bytes::Bytes;

use crate::base::ObjectId;

/// Keeps blocks of the 64 KiB grid, as they are in the store. Nobody vouches for what it gives: the AEAD tells, and then
/// [`SealedCache::forget`] is called. Names are never used again, so what is kept under one is never old.
pub trait SealedCache: Send + Sync {
    /// A block, if it is kept. May read this machine's disk.
    fn get(&self, object: ObjectId, block: u32) -> Option<Bytes>;
    /// As [`SealedCache::get`], without counting as a use of it.
    fn peek(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        self.get(object, block)
    }
    /// Keeps a block, perhaps. Never waits.
    fn put(&self, object: ObjectId, block: u32, bytes: &[u8]);
    /// Is it kept? Asked without using it.
    fn holds(&self, object: ObjectId, block: u32) -> bool;
    /// Drops a block. True if it was here and had been given to somebody.
    fn forget(&self, object: ObjectId, block: u32) -> bool;
}
