//! What an operation fails with: one variant an errno; fuse/errno.rs maps them without a wildcard.

use thiserror::Error;

use crate::base::disk;
use crate::cache::CacheError;
use crate::index::IndexError;
use crate::journal::JournalError;

#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("file name too long")]
    NameTooLong,
    #[error("invalid argument")]
    Invalid,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// EACCES.
    #[error("permission denied")]
    AccessDenied,
    #[error("read-only: this mount writes nothing")]
    ReadOnly,
    #[error("no space left for the journal")]
    NoSpace,
    /// EFBIG.
    #[error("file too large")]
    TooLarge,
    /// E2BIG: an xattr value above the limit.
    #[error("value too large")]
    ValueTooLarge,
    /// ERANGE: the caller's buffer is too small.
    #[error("buffer too small")]
    BufferTooSmall,
    /// ENODATA: no such xattr.
    #[error("no such attribute")]
    NoAttribute,
    /// ENXIO: SEEK_DATA or SEEK_HOLE past the end.
    #[error("no data there")]
    NoDataThere,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    #[error("stale file handle")]
    Stale,
    #[error("operation not supported")]
    Unsupported,
    /// EIO; says which file and what to do. Logged where it is made.
    #[error("{0}")]
    Io(String),
}

impl From<IndexError> for FsError {
    fn from(error: IndexError) -> FsError {
        FsError::Io(error.to_string())
    }
}

impl From<JournalError> for FsError {
    fn from(error: JournalError) -> FsError {
        match error {
            JournalError::Io { kind, .. } if disk::is_full(kind) => FsError::NoSpace,
            error => FsError::Io(error.to_string()),
        }
    }
}

impl From<CacheError> for FsError {
    fn from(error: CacheError) -> FsError {
        match error {
            // The cache is asked for inodes, never for names.
            CacheError::NotFound | CacheError::Stale => FsError::Stale,
            CacheError::TooLarge => FsError::TooLarge,
            CacheError::NoSpace => FsError::NoSpace,
            CacheError::ReadOnly => FsError::ReadOnly,
            CacheError::Io(why) => FsError::Io(why),
        }
    }
}
