//! The download pipeline: bytes come in.
//!
//! ```text
//!  cache (miss) -> Starter -> RemoteStorage -> Encryption -> Notifier -> cache
//!                                 |  local sealed bytes first: journal, then sealed cache
//! ```
//!
//! [`starter`] joins fetches of the same frames, [`remote_storage`] brings sealed bytes (from the journal, else from the
//! [`sealed_cache`], else by ranged GETs on a 64 KiB grid), [`encryption`] opens them, [`notifier`] answers all who asked.
//! Mirrors [`crate::upload`] file by file. Knows extents, not files.
//!
//! Invariants
//! - Bytes that do not authenticate, or are missing, are an error, never zeros and never other bytes; they are not kept.
//! - A fetch that began runs to its end, whoever asked for it has gone or not.

pub mod encryption;
pub mod notifier;
pub mod remote_storage;
pub mod sealed_cache;
pub mod starter;

use std::sync::Arc;

use thiserror::Error;

use crate::format::FormatError;
use crate::format::extent::Frame;
use crate::journal::JournalError;
use crate::store::StoreError;

/// Opened frames of an extent, in order.
pub type Frames = Arc<Vec<Arc<Frame>>>;

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

impl From<StoreError> for DownloadError {
    fn from(error: StoreError) -> DownloadError {
        match error {
            StoreError::TooLarge { .. } => DownloadError::Foreign(error),
            error => DownloadError::Store(error),
        }
    }
}
