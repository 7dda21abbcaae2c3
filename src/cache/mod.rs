//! The cache: one entry a file, with its plaintext: dirty bytes, frozen bytes, clean frames.

use crate::base::{Ino, Timestamp};
use thiserror::Error;

/// Why bytes could not be kept or had.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CacheError {
    #[error("no space left for the journal")]
    NoSpace,
    #[error("the mount was fenced or its journal failed: it is read-only now")]
    ReadOnly,
    /// Says which file, and what is wrong.
    #[error("{0}")]
    Io(String),
}

/// What an entry with dirty or frozen bytes knows better than the stored head.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

pub struct Cache {}

impl Cache {
    /// What a file's attributes are while bytes of it are not in the journal; `None` if its stored head tells all.
    pub fn live(&self, _ino: Ino) -> Option<Live> {
        todo!()
    }

    /// Returns when all bytes of these files that were dirty at the call are in the journal (L2: by a capture begun
    /// after the call). Ready at once for files without dirty bytes.
    pub async fn barrier(&self, _inos: &[Ino]) -> Result<(), CacheError> {
        todo!()
    }

    /// Files with bytes that the journal does not hold yet.
    pub fn dirty_files(&self) -> Vec<Ino> {
        todo!()
    }

    /// Is this file fresh: made by this mount, and nothing of it overwritten since (L2, change of mode)?
    pub fn only_grown(&self, _ino: Ino) -> bool {
        todo!()
    }

    /// A file was created by this mount just now (it has only grown so far).
    pub fn created(&self, _ino: Ino) {
        todo!()
    }
}
