//! Open files of a follower: whole from open to close (E5).
//!
//! What is read through an open file is what the file held when it was opened, whatever other machines commit since;
//! its attributes, and what is read past open files (memory maps), follow the newest commit. Owns nothing: versions are
//! history's, bytes the cache's.
//!
//! On a writing mount there are no versions: files change under those who have them open, as on a local disk.

use bytes::Bytes;

use super::{Fs, FsError, Seek};
use crate::base::Ino;
use crate::cache::edit::SeekFor;
use crate::history::versions::VersionId;

impl Fs {
    /// Opens a file's contents as they are now; `None` on a writing mount. [`Fs::let_go`] must follow.
    pub fn hold(&self, ino: Ino) -> Result<Option<VersionId>, FsError> {
        if !self.history.is_follower() {
            return Ok(None);
        }
        self.history.open_version(ino)?.map(Some).ok_or(FsError::Stale)
    }

    /// The file is closed.
    pub fn let_go(&self, version: VersionId) {
        self.history.close_version(version);
    }

    /// Records that are kept for open files alone, of states that are over.
    pub fn kept_records(&self) -> usize {
        self.history.kept_records()
    }

    /// Reads up to `size` bytes; fewer only at the end that the file had when it was opened.
    pub async fn read_version(&self, ino: Ino, version: VersionId, offset: u64, size: u32) -> Result<Bytes, FsError> {
        self.cache.read_version(ino, version, offset, size as usize).await.map_err(|error| self.blame(ino, error))
    }

    /// SEEK_DATA and SEEK_HOLE.
    pub fn lseek_version(&self, ino: Ino, version: VersionId, offset: u64, what: Seek) -> Result<u64, FsError> {
        let what = match what {
            Seek::Data => SeekFor::Data,
            Seek::Hole => SeekFor::Hole,
        };
        let found = self.cache.seek_version(ino, version, offset, what).map_err(|error| self.blame(ino, error))?;
        found.ok_or(FsError::NoDataThere)
    }
}
