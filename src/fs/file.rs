//! Files: open, read, write, truncate, fallocate, seek, fsync.
//!
//! close never waits (promise 2); fsync waits as the mount's durability says.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::attributes::without_privileges;
use super::records::{self, kind};
use super::{Caller, Fs, FsError, Privileges, Safety, Seek};
use crate::base::sizes::FILE_MAX;
use crate::base::{Ino, Position, plants};
use crate::cache::dirty::Plain;
use crate::cache::edit::SeekFor;
use crate::format::key::Key;
use crate::format::record::Record;
use crate::journal::Purpose;

/// fallocate(2)'s modes (linux/falloc.h).
mod mode {
    pub const KEEP_SIZE: i32 = 0x01;
    pub const PUNCH_HOLE: i32 = 0x02;
    pub const ZERO_RANGE: i32 = 0x10;
}

impl Fs {
    /// Opens a file; with `truncate` as O_TRUNC does.
    pub async fn open(&self, ino: Ino, truncate: bool, write: bool, caller: Caller) -> Result<Privileges, FsError> {
        if write || truncate {
            self.check_writable()?;
        }
        records::inode(&self.history.view(), ino)?;
        self.cache.used(ino);
        let privileges = match truncate {
            true => self.truncate(ino, 0, caller.uid != 0).await?,
            false => Privileges::Kept,
        };
        if write {
            self.opened_for_writing(ino);
        }
        Ok(privileges)
    }

    /// One more open of the file writes, until [`Fs::release`].
    pub fn opened_for_writing(&self, ino: Ino) {
        *self.writers.lock().entry(ino).or_default() += 1;
    }

    /// Reads up to `size` bytes; fewer only at the end of the file.
    pub async fn read(&self, ino: Ino, offset: u64, size: u32) -> Result<Bytes, FsError> {
        self.cache.read(ino, offset, size as usize).await.map_err(|e| self.blame(ino, e))
    }

    /// Writes into memory, all of `data`; `None`, and nothing is done, if there is no room now. `kill` clears
    /// set-user-ID, set-group-ID and capabilities.
    pub fn try_write(&self, ino: Ino, offset: u64, data: &[u8], kill: bool) -> Option<Result<Privileges, FsError>> {
        // A mount that became read-only must not wait for room.
        if !self.is_read_only() && !self.cache.has_room() {
            return None;
        }
        Some(self.write_now(ino, offset, data, kill))
    }

    fn write_now(&self, ino: Ino, offset: u64, data: &[u8], kill: bool) -> Result<Privileges, FsError> {
        self.check_writable()?;
        let privileges = match kill || self.has_capability(ino)? {
            true => self.kill_privileges(ino, kill)?,
            false => Privileges::Kept,
        };
        self.cache.write(ino, offset, data).map_err(|e| self.blame(ino, e))?;
        Ok(privileges)
    }

    /// Writes into memory, waiting for room; wipes its copy of the data.
    pub async fn write(&self, ino: Ino, offset: u64, data: Vec<u8>, kill: bool) -> Result<Privileges, FsError> {
        let data = Plain::from(data);
        loop {
            if let Some(result) = self.try_write(ino, offset, &data, kill) {
                return result;
            }
            self.cache.room().await.map_err(|e| self.blame(ino, e))?;
        }
    }

    /// A descriptor is closed: what it wrote is hurried along.
    pub async fn flush(&self, ino: Ino) -> Result<(), FsError> {
        self.cache.flush(ino);
        Ok(())
    }

    /// The last descriptor of an open is gone, of one that writes or not.
    pub async fn release(&self, ino: Ino, write: bool) -> Result<(), FsError> {
        self.flush(ino).await?;
        if write && self.was_last_writer(ino) {
            self.cache.closed(ino);
        }
        Ok(())
    }

    fn was_last_writer(&self, ino: Ino) -> bool {
        let mut writers = self.writers.lock();
        if let Some(others) = writers.get_mut(&ino).filter(|count| **count > 1) {
            *others -= 1;
            return false;
        }
        writers.remove(&ino);
        true
    }

    /// Sets a file's size. `kill` as for write.
    pub async fn truncate(&self, ino: Ino, size: u64, kill: bool) -> Result<Privileges, FsError> {
        self.check_writable()?;
        self.regular(ino)?;
        self.room(Purpose::Free).await?;
        self.cache.truncate(ino, size).await.map_err(|e| self.blame(ino, e))?;
        self.kill_privileges(ino, kill)
    }

    /// fallocate(2): plain, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE. Space is promised by nobody: extents are made when bytes
    /// come. `kill` as for write, in every mode: a local disk clears before it looks what there is to do.
    pub async fn fallocate(
        &self,
        ino: Ino,
        mode: i32,
        offset: u64,
        len: u64,
        kill: bool,
    ) -> Result<Privileges, FsError> {
        self.check_writable()?;
        self.regular(ino)?;
        let end = offset.checked_add(len).filter(|end| *end <= FILE_MAX).ok_or(FsError::TooLarge)?;
        let change = match mode {
            0 => Some((0..0, Some(end))),
            mode::KEEP_SIZE => None,
            m if m == mode::PUNCH_HOLE | mode::KEEP_SIZE => Some((offset..end, None)),
            mode::ZERO_RANGE => Some((offset..end, Some(end))),
            m if m == mode::ZERO_RANGE | mode::KEEP_SIZE => Some((offset..end, None)),
            _ => return Err(FsError::Unsupported),
        };
        if let Some((cut, grow)) = change {
            self.room(if cut.is_empty() { Purpose::Add } else { Purpose::Free }).await?;
            self.cache.punch(ino, cut, grow).await.map_err(|e| self.blame(ino, e))?;
        }
        self.kill_privileges(ino, kill)
    }

    /// SEEK_DATA and SEEK_HOLE.
    pub async fn lseek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, FsError> {
        let what = match what {
            Seek::Data => SeekFor::Data,
            Seek::Hole => SeekFor::Hole,
        };
        let found = self.cache.seek(ino, offset, what).await.map_err(|e| self.blame(ino, e))?;
        found.ok_or(FsError::NoDataThere)
    }

    /// fsync(2) and fdatasync(2): a barrier (L2), safe as the mount's durability says when it returns.
    pub async fn fsync(&self, ino: Ino, _data_only: bool) -> Result<(), FsError> {
        match self.fsync_barrier(ino).await? {
            Some(position) => self.safe(position).await,
            None => Ok(()),
        }
    }

    /// fsync of a directory: the names in it are safe.
    pub async fn fsync_dir(&self, ino: Ino) -> Result<(), FsError> {
        match self.fsync_dir_barrier(ino)? {
            Some(position) => self.safe(position).await,
            None => Ok(()),
        }
    }

    /// The first half of fsync: what has to be safe for it, for [`Fs::once_safe`]. `None` if nothing has, or is already.
    pub async fn fsync_barrier(&self, ino: Ino) -> Result<Option<Position>, FsError> {
        if self.nothing_to_keep()? {
            return Ok(None);
        }
        if plants::on("J7-no-barrier-if-clean") && !self.cache.dirty_files().contains(&ino) {
            return Ok(None);
        }
        self.cache.barrier(&[ino]).await.map_err(|e| self.blame(ino, e))?;
        let position = self.barrier_record(ino)?;
        // An unlinked file is in no commit: its fsync is local (L4).
        if let Safety::Remote(journal, ..) = &self.safety
            && self.history.view().is_orphan(ino)
        {
            journal.wait_durable(position).await.map_err(|e| FsError::Io(e.to_string()))?;
            return Ok(None);
        }
        Ok(Some(position))
    }

    /// As [`Fs::fsync_barrier`], of a directory.
    pub fn fsync_dir_barrier(&self, ino: Ino) -> Result<Option<Position>, FsError> {
        if self.nothing_to_keep()? {
            return Ok(None);
        }
        self.barrier_record(ino).map(Some)
    }

    fn barrier_record(&self, ino: Ino) -> Result<Position, FsError> {
        let ((), position) = self.history.transact(|tx| {
            tx.barrier(ino);
            Ok::<(), FsError>(())
        })?;
        Ok(position)
    }

    /// Calls `done` once what stands at `position` is safe, as the mount's durability says, or is known not to be; in the
    /// thread that learns of it, so that no other one has to wake between the disk and who waits.
    pub fn once_safe(self: &Arc<Self>, position: Position, done: impl FnOnce(Result<(), FsError>) + Send + 'static) {
        let this = self.clone();
        let waiting = async move { done(this.safe(position).await) };
        match &self.safety {
            Safety::Local(journal) => journal.follow(waiting),
            Safety::Nothing | Safety::Remote(..) | Safety::Async(_) => drop(tokio::spawn(waiting)),
        }
    }

    /// syncfs: everything written before the call.
    pub async fn sync_all(&self) -> Result<Position, FsError> {
        if matches!(self.safety, Safety::Nothing) {
            return Ok(Position(0));
        }
        let dirty = self.cache.dirty_files();
        self.cache.barrier(&dirty).await?;
        let files = self.unsent_files(dirty);
        let ((), position) = self.history.transact(|tx| {
            files.iter().for_each(|ino| tx.barrier(*ino));
            Ok::<(), FsError>(())
        })?;
        Ok(position)
    }

    /// These files, which are or were dirty, and those that are in the journal and in no commit: those may be deferred.
    pub(super) fn unsent_files(&self, dirty: Vec<Ino>) -> BTreeSet<Ino> {
        dirty.into_iter().chain(self.history.uncommitted_files()).collect()
    }

    /// A mount that was read-only from the start has nothing that fsync could keep. One that became so (fenced, or its
    /// journal failed) has, and cannot: fsync must not say otherwise.
    fn nothing_to_keep(&self) -> Result<bool, FsError> {
        match self.safety {
            Safety::Nothing => Ok(true),
            _ if self.is_read_only() => Err(FsError::ReadOnly),
            _ => Ok(false),
        }
    }

    async fn safe(&self, position: Position) -> Result<(), FsError> {
        self.safety.wait(position).await.map_err(FsError::Io)
    }

    /// Clears set-user-ID, set-group-ID (where the group may execute) and file capabilities, as a write or truncate by
    /// an unprivileged process must; capabilities go whoever writes.
    fn kill_privileges(&self, ino: Ino, unprivileged: bool) -> Result<Privileges, FsError> {
        let inode = records::inode(&self.history.view(), ino)?;
        let clears = unprivileged && without_privileges(inode.mode) != inode.mode;
        if !clears && !self.has_capability(ino)? {
            return Ok(Privileges::Kept);
        }
        let (privileges, _) = self.history.transact(|tx| {
            let mut inode = records::inode(tx, ino)?;
            let before = inode.mode;
            if unprivileged {
                inode.mode = without_privileges(before);
            }
            let cleared = inode.mode != before;
            inode.ctime = tx.now();
            tx.put(Key::inode(ino), Record::Inode(inode));
            self.drop_capability(tx, ino)?;
            Ok::<_, FsError>(if cleared { Privileges::Cleared } else { Privileges::Kept })
        })?;
        Ok(privileges)
    }

    fn regular(&self, ino: Ino) -> Result<(), FsError> {
        match kind(records::inode(&self.history.view(), ino)?.mode) {
            libc::S_IFREG => Ok(()),
            libc::S_IFDIR => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }
}
