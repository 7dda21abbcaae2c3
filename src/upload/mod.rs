//! The upload pipeline: bytes go out.
//!
//! ```text
//!                  waited for, holding the cut, small and old, bulk; each stage asks for more when it has little left
//!
//!  cache (dirty) --> Starter -------> Encryption -------> Journal .......... the file is safe on this machine
//!                      | sources in     | workers:          | waits for
//!                      | line; memory   | the processors;   | room, appends
//!                      | in flight      | a job an extent   | one change
//!                                                              |
//!  vault round: plan ----------------------------------> RemoteStorage --> Notifier . the file is in the vault
//!                                                              | a job a         | settles
//!                                                              | segment         | who waits
//! ```
//!
//! [`starter`] freezes what is dirty at one instant (L1) once [`encryption`] asks for it, which seals it, [`journal`]
//! appends extents and change, [`remote_storage`] packs extents of a round into segments and puts them, [`notifier`]
//! settles who waits. Mirrors [`crate::download`] file by file. Blind to files: it knows a [`Source`], not an inode's
//! meaning.
//!
//! Invariants
//! - A capture that began runs to its end, whoever asked for it has gone or not: frozen bytes are never stuck.
//! - What is in flight is bounded: one capture a file, the memory for captures, count and bytes in each stage.

pub mod encryption;
pub mod journal;
pub mod notifier;
pub mod remote_storage;
pub mod starter;

use std::sync::Arc;

use thiserror::Error;

use crate::base::{Ino, Position};
use crate::crypto::secret::SecretVec;
use crate::format::commit::Hash;
use crate::format::record::Extent;
use crate::journal::JournalError;
use crate::pipeline::Lost;

/// Why captured bytes could not be kept. They stay dirty.
#[derive(Debug, Error, Clone)]
pub enum UploadError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    #[error("sealing failed")]
    Sealing,
    #[error("the mount is read-only now")]
    ReadOnly,
}

impl From<Lost> for UploadError {
    fn from(_: Lost) -> UploadError {
        UploadError::Sealing
    }
}

/// Where dirty bytes come from: the cache's entry of a file.
pub trait Source: Send + Sync + 'static {
    fn owner(&self) -> Ino;
    /// What a capture would take now, bytes.
    fn dirty(&self) -> usize;
    /// Freezes all dirty bytes at one instant. `None` if there are none, or a capture is in flight.
    fn capture(&self) -> Option<Capture>;
    /// The captured bytes are sealed: append extents and change to the journal, in the order of the capture's parts.
    fn append(&self, sealed: Vec<Sealed>) -> Result<Position, UploadError>;
    /// They could not be kept: they are dirty again.
    fn give_back(&self, error: &UploadError);
    /// It is no longer in line: whoever needs another capture may start it from now on.
    fn out_of_line(&self);
}

/// Frozen bytes of one file, cut to extents. What they are in the file, the source knows.
pub struct Capture {
    pub owner: Ino,
    pub parts: Vec<Part>,
}

/// The plaintext of one extent: runs of bytes that are sealed one after the other.
pub type Part = Vec<Arc<SecretVec>>;

/// One sealed extent.
pub struct Sealed {
    pub record: Extent,
    pub bytes: Vec<u8>,
    /// BLAKE3 of `bytes`, for the journal: taken here, where there are several threads.
    pub hash: Hash,
}

impl Capture {
    pub fn bytes(&self) -> usize {
        self.parts.iter().flatten().map(|run| run.len()).sum()
    }
}
