//! The drive's operations, with the rooms: each goes to the drive, unless it is about something in a room. Those that would
//! change something there are refused (EROFS), also under the room's own name where no entry of the drive has it.

use bytes::Bytes;

use super::tree::{Tree, is_virtual};
use crate::base::{Ino, Position};
use crate::fs::{Attributes, Caller, Entry, FsError, Privileges, RenameMode, Seek, SetAttributes, SpaceUse};
use crate::history::versions::VersionId;

/// Of a directory: what its room is called. Of an answer: what it says of itself, in JSON.
const XATTR: &[u8] = b"user.dripfs.search";

impl Tree {
    pub async fn lookup(&self, parent: Ino, name: &[u8], caller: Caller) -> Result<Attributes, FsError> {
        match self.look_up(parent, name, caller).await {
            Some(found) => found,
            None => self.fs.lookup(parent, name).await,
        }
    }

    pub fn forget(&self, ino: Ino) {
        match is_virtual(ino) {
            true => self.forgotten(ino),
            false => self.fs.forget(ino),
        }
    }

    pub async fn getattr(&self, ino: Ino) -> Result<Attributes, FsError> {
        match is_virtual(ino) {
            true => self.attributes(ino),
            false => self.fs.getattr(ino).await,
        }
    }

    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match is_virtual(ino) {
            true => self.target(ino),
            false => self.fs.readlink(ino).await,
        }
    }

    pub async fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        with_attributes: bool,
        most: usize,
        caller: Caller,
    ) -> Result<Vec<Entry>, FsError> {
        if is_virtual(ino) {
            return self.list(ino, cookie, most, caller).await;
        }
        let mut entries = self.fs.readdir(ino, cookie, with_attributes, most).await?;
        if entries.is_empty()
            && let Some(room) = self.entry(ino, cookie)
            && self.has_no_own(ino).await
        {
            entries.push(room);
        }
        Ok(entries)
    }

    pub async fn open(&self, ino: Ino, truncate: bool, write: bool, caller: Caller) -> Result<Privileges, FsError> {
        if !is_virtual(ino) {
            return self.fs.open(ino, truncate, write, caller).await;
        }
        if truncate || write {
            return Err(FsError::ReadOnly);
        }
        self.open_answer(ino).map(|()| Privileges::Kept)
    }

    /// A version to read; `None` where there are none. [`Tree::let_go`] must follow.
    pub fn hold(&self, ino: Ino) -> Result<Option<VersionId>, FsError> {
        match is_virtual(ino) {
            true => Ok(None),
            false => self.fs.hold(ino),
        }
    }

    pub fn let_go(&self, version: VersionId) {
        self.fs.let_go(version);
    }

    pub async fn read(&self, ino: Ino, offset: u64, size: u32) -> Result<Bytes, FsError> {
        match is_virtual(ino) {
            true => self.read_answer(ino, offset, size as usize),
            false => self.fs.read(ino, offset, size).await,
        }
    }

    pub async fn flush(&self, ino: Ino) -> Result<(), FsError> {
        match is_virtual(ino) {
            true => Ok(()),
            false => self.fs.flush(ino).await,
        }
    }

    pub async fn release(&self, ino: Ino, write: bool) -> Result<(), FsError> {
        if !is_virtual(ino) {
            return self.fs.release(ino, write).await;
        }
        self.close_answer(ino);
        Ok(())
    }

    pub async fn lseek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, FsError> {
        if !is_virtual(ino) {
            return self.fs.lseek(ino, offset, what).await;
        }
        let size = self.size_of_answer(ino)?;
        match what {
            _ if offset >= size => Err(FsError::NoDataThere),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        match (is_virtual(ino), name == XATTR) {
            (true, true) => self.summary(ino).await,
            (true, false) => Err(FsError::NoAttribute),
            (false, true) => match self.name() {
                Some(name) if self.fs.getattr(ino).await?.mode & libc::S_IFMT == libc::S_IFDIR => Ok(name.to_vec()),
                _ => Err(FsError::NoAttribute),
            },
            (false, false) => self.fs.getxattr(ino, name).await,
        }
    }

    pub async fn listxattr(&self, ino: Ino, trusted: bool) -> Result<Vec<u8>, FsError> {
        match is_virtual(ino) {
            true => Ok(Vec::new()),
            false => self.fs.listxattr(ino, trusted).await,
        }
    }

    pub async fn read_version(&self, ino: Ino, version: VersionId, offset: u64, size: u32) -> Result<Bytes, FsError> {
        self.fs.read_version(ino, version, offset, size).await
    }

    pub fn lseek_version(&self, ino: Ino, version: VersionId, offset: u64, what: Seek) -> Result<u64, FsError> {
        self.fs.lseek_version(ino, version, offset, what)
    }

    pub async fn statfs(&self) -> Result<SpaceUse, FsError> {
        self.fs.statfs().await
    }

    pub async fn fsync_barrier(&self, ino: Ino) -> Result<Option<Position>, FsError> {
        match is_virtual(ino) {
            true => Ok(None),
            false => self.fs.fsync_barrier(ino).await,
        }
    }

    pub fn fsync_dir_barrier(&self, ino: Ino) -> Result<Option<Position>, FsError> {
        match is_virtual(ino) {
            true => Ok(None),
            false => self.fs.fsync_dir_barrier(ino),
        }
    }

    pub fn once_safe(&self, position: Position, done: impl FnOnce(Result<(), FsError>) + Send + 'static) {
        self.fs.once_safe(position, done);
    }

    // What changes something.

    fn refuse(&self, ino: Ino) -> Result<(), FsError> {
        if is_virtual(ino) { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// A name that is about to be made or taken away.
    async fn refuse_name(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.refuse(parent)?;
        match self.name() == Some(name) && self.has_no_own(parent).await {
            true => Err(FsError::ReadOnly),
            false => Ok(()),
        }
    }

    /// Has the directory no entry of its own under the room's name?
    async fn has_no_own(&self, dir: Ino) -> bool {
        let Some(name) = self.name() else { return true };
        self.fs.lookup(dir, name).await == Err(FsError::NotFound)
    }

    /// As [`crate::fs::Fs::opened_for_writing`], of a file of the drive.
    pub fn opened_for_writing(&self, ino: Ino) {
        self.fs.opened_for_writing(ino);
    }

    pub async fn create(&self, parent: Ino, name: &[u8], mode: u32, caller: Caller) -> Result<Attributes, FsError> {
        self.refuse_name(parent, name).await?;
        self.fs.create(parent, name, mode, caller).await
    }

    pub async fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Attributes, FsError> {
        self.refuse_name(parent, name).await?;
        self.fs.mknod(parent, name, mode, rdev, caller).await
    }

    pub async fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: Caller) -> Result<Attributes, FsError> {
        self.refuse_name(parent, name).await?;
        self.fs.mkdir(parent, name, mode, caller).await
    }

    pub async fn symlink(
        &self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Result<Attributes, FsError> {
        self.refuse_name(parent, name).await?;
        self.fs.symlink(parent, name, target, caller).await
    }

    pub async fn link(&self, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attributes, FsError> {
        self.refuse(ino)?;
        self.refuse_name(new_parent, new_name).await?;
        self.fs.link(ino, new_parent, new_name).await
    }

    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.refuse_name(parent, name).await?;
        self.fs.unlink(parent, name).await
    }

    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.refuse_name(parent, name).await?;
        self.fs.rmdir(parent, name).await
    }

    pub async fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.refuse_name(parent, name).await?;
        self.refuse_name(new_parent, new_name).await?;
        self.fs.rename(parent, name, new_parent, new_name, mode).await
    }

    pub fn try_write(&self, ino: Ino, offset: u64, data: &[u8], kill: bool) -> Option<Result<Privileges, FsError>> {
        match self.refuse(ino) {
            Ok(()) => self.fs.try_write(ino, offset, data, kill),
            Err(refused) => Some(Err(refused)),
        }
    }

    pub async fn write(&self, ino: Ino, offset: u64, data: Vec<u8>, kill: bool) -> Result<Privileges, FsError> {
        self.refuse(ino)?;
        self.fs.write(ino, offset, data, kill).await
    }

    pub async fn fallocate(
        &self,
        ino: Ino,
        mode: i32,
        offset: u64,
        len: u64,
        kill: bool,
    ) -> Result<Privileges, FsError> {
        self.refuse(ino)?;
        self.fs.fallocate(ino, mode, offset, len, kill).await
    }

    pub async fn setattr(&self, ino: Ino, set: SetAttributes, caller: Caller) -> Result<Attributes, FsError> {
        self.refuse(ino)?;
        self.fs.setattr(ino, set, caller).await
    }

    pub async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<(), FsError> {
        self.refuse(ino)?;
        self.fs.setxattr(ino, name, value, create, replace).await
    }

    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.refuse(ino)?;
        self.fs.removexattr(ino, name).await
    }
}
