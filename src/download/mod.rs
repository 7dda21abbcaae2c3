//! The download pipeline: bytes come in.
//!
//! ```text
//!                 foreground before read-ahead; each stage asks for more when it has little left
//!
//!  cache (miss) --> Starter --------> RemoteStorage ------> Encryption --> Notifier --> cache
//!  cache (ahead) -/   | one fetch       | journal, cache on   | workers:     | fills the cache,
//!                     | a frame         | disk, else ranged   | the          | answers all
//!                     | memory in       | GETs on a 64 KiB    | processors   | who asked
//!                     | flight          | grid, many in flight|              |
//!                                       blocks: what is kept of neighbours
//! ```
//!
//! [`starter`] joins fetches of the same frames, [`remote_storage`] brings sealed bytes (from the journal, else from the
//! [`sealed_cache`], else by ranged GETs on a 64 KiB grid, each block once: [`blocks`]), [`encryption`] opens them, [`notifier`] fills the cache and
//! answers all who asked. Mirrors [`crate::upload`] file by file. Knows extents, not files.
//!
//! Invariants
//! - Bytes that do not authenticate, or are missing, are an error, never zeros and never other bytes; they are not kept.
//! - A fetch that began runs to its end, whoever asked for it has gone or not.
//! - What is in flight is bounded: by the memory of its use, and by count and bytes in each stage. What someone waits for
//!   has memory and workers of its own.

pub mod blocks;
pub mod encryption;
pub mod notifier;
#[cfg(test)]
pub(crate) mod recorder;
pub mod remote_storage;
pub mod sealed_cache;
pub mod starter;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use thiserror::Error;

use crate::base::{ExtentId, Ino};
use crate::format::FormatError;
use crate::format::extent::Frame;
use crate::journal::JournalError;
use crate::pipeline::Lost;
use crate::store::StoreError;

/// Opened frames of an extent, in order.
pub type Frames = Arc<Vec<Arc<Frame>>>;

/// Where opened frames go besides to who asked for them: the cache.
pub trait Sink: Send + Sync {
    /// Frames of an extent from the first on, fetched for a reader of this file.
    fn fill(&self, reader: Ino, id: ExtentId, first: u32, frames: &Frames);
}

/// Why bytes could not be had. Names the object, not the file: whoever knows the file adds it.
#[derive(Debug, Error, Clone)]
pub enum DownloadError {
    #[error(transparent)]
    Store(StoreError),
    /// Under the object's name lies what no vault has.
    #[error(transparent)]
    Foreign(StoreError),
    #[error("object {0} is missing, or shorter than it must be")]
    Missing(String),
    #[error("object {name}: {why}")]
    Format { name: String, why: FormatError },
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The extent is neither here nor placed: it died while it was asked for. Look again.
    #[error("the extent is gone")]
    Gone,
    #[error("opening failed")]
    Opening,
}

impl DownloadError {
    /// The store answered, with other bytes than were put there, or too few.
    pub fn is_of_the_bytes(&self) -> bool {
        matches!(self, DownloadError::Missing(_) | DownloadError::Format { why: FormatError::Unauthentic(_), .. })
    }
}

impl From<Lost> for DownloadError {
    fn from(_: Lost) -> DownloadError {
        DownloadError::Opening
    }
}

impl From<StoreError> for DownloadError {
    fn from(error: StoreError) -> DownloadError {
        match error {
            StoreError::TooLarge { .. } => DownloadError::Foreign(error),
            error => DownloadError::Store(error),
        }
    }
}
