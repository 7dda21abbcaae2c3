//! Names: lookup, everything that makes or removes one, hard links; what the kernel forgets.
//!
//! Owns the rules of POSIX for directory entries, link counts and the times that a change of names moves. Does not
//! own rename (`rename.rs`), listings (`readdir.rs`), nor how an entry is found (`records.rs`).
//!
//! Invariants: one operation is one transaction. A directory's link count is 2 and one for each directory in it; any
//! other inode's is the number of entries that name it. An inode whose last name goes becomes an orphan (L4), which
//! ends when the kernel forgets it. A new name for a regular file is a barrier (L2). Entries are never made in a
//! directory that was removed.

use super::attributes::{fresh, stat_in};
use super::records::{self, Named, Slot, Source, check_name, damaged, directory, find, find_named, kind};
use super::{Attributes, Caller, Fs, FsError};
use crate::base::sizes::TARGET_MAX;
use crate::base::{Ino, Position, Timestamp};
use crate::format::key::Key;
use crate::format::record::{Dentry, Head, Inode, Link, Record};
use crate::history::Transaction;
use crate::journal::Purpose;

/// The most names of one file: what ext4 allows, so every tool that makes many links knows to expect EMLINK there.
/// It bounds the walk up from a file to the directories that hold it.
pub(super) const FILE_LINKS_MAX: u32 = 65_000;

/// The most links of a directory: its subdirectories have no other bound, and tools keep st_nlink in an int.
const DIRECTORY_LINKS_MAX: u32 = i32::MAX as u32;

/// What a new inode is made with, beside owner and times.
struct New<'a> {
    mode: u32,
    rdev: u32,
    target: Option<&'a [u8]>,
}

impl Fs {
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attributes, FsError> {
        match name {
            b"." => return self.stat(parent),
            b".." => {
                let above = records::parent_of(&self.history.view(), parent)?;
                return self.stat(above);
            }
            _ => check_name(name)?,
        }
        loop {
            let named = {
                let view = self.history.view();
                let named = self.find_in(&view, parent, name)?;
                if named.kind != libc::S_IFREG {
                    return stat_in(&view, named.ino, None).map_err(|error| unnamed(named.ino, error));
                }
                named
            };
            // The cache is asked without history's lock; the name may lead elsewhere afterwards.
            let live = self.cache.live(named.ino);
            let view = self.history.view();
            match stat_in(&view, named.ino, live) {
                Ok(attributes) if attributes.nlink > 0 => return Ok(attributes),
                Ok(_) | Err(FsError::Stale) => {
                    if self.find_in(&view, parent, name)? == named {
                        return Err(unnamed(named.ino, FsError::Stale));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let inode = records::inode(&self.history.view(), ino)?;
        match inode.target {
            Some(target) if kind(inode.mode) == libc::S_IFLNK => Ok(target.into_vec()),
            _ => Err(FsError::Invalid),
        }
    }

    /// A regular file.
    pub async fn create(&self, parent: Ino, name: &[u8], mode: u32, caller: Caller) -> Result<Attributes, FsError> {
        self.make(parent, name, New { mode: libc::S_IFREG | (mode & 0o7777), rdev: 0, target: None }, caller).await
    }

    /// Anything but a directory or a symlink; no type in `mode` means a regular file.
    pub async fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Attributes, FsError> {
        let (kind, rdev) = match kind(mode) {
            0 | libc::S_IFREG => (libc::S_IFREG, 0),
            libc::S_IFIFO => (libc::S_IFIFO, 0),
            libc::S_IFSOCK => (libc::S_IFSOCK, 0),
            device @ (libc::S_IFCHR | libc::S_IFBLK) => (device, rdev),
            libc::S_IFDIR => return Err(FsError::NotPermitted),
            _ => return Err(FsError::Invalid),
        };
        self.make(parent, name, New { mode: kind | (mode & 0o7777), rdev, target: None }, caller).await
    }

    pub async fn mkdir(&self, parent: Ino, name: &[u8], mode: u32, caller: Caller) -> Result<Attributes, FsError> {
        self.make(parent, name, New { mode: libc::S_IFDIR | (mode & 0o7777), rdev: 0, target: None }, caller).await
    }

    pub async fn symlink(
        &self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Result<Attributes, FsError> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong);
        }
        if target.contains(&0) {
            return Err(FsError::Invalid);
        }
        self.make(parent, name, New { mode: libc::S_IFLNK | 0o777, rdev: 0, target: Some(target) }, caller).await
    }

    /// Another name for an inode that is no directory.
    pub async fn link(&self, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attributes, FsError> {
        self.check_writable()?;
        check_name(new_name)?;
        let kind = kind(records::inode(&self.history.view(), ino)?.mode);
        let regular = kind == libc::S_IFREG;
        if regular {
            self.settle(&[ino]).await?;
        }
        self.change(|tx| {
            let parent = directory(tx, new_parent)?;
            let slot = find(tx, &self.keys, new_parent, new_name)?;
            if slot.named.is_some() {
                return Err(FsError::Exists);
            }
            let mut inode = records::inode(tx, ino)?;
            check_linkable(&inode)?;
            let now = tx.now();
            inode.nlink += 1;
            inode.ctime = now;
            tx.put(Key::inode(ino), Record::Inode(inode));
            put_name(tx, &slot, new_name, Named { ino, kind });
            touch_directory(tx, new_parent, parent, now);
            if regular {
                tx.barrier(ino);
            }
            Ok(())
        })
        .await?;
        self.stat(ino)
    }

    pub async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        check_name(name)?;
        self.change_and_free(|tx| {
            let above = directory(tx, parent)?;
            let (slot, named) = find_named(tx, &self.keys, parent, name)?;
            if named.is_directory() {
                return Err(FsError::IsDirectory);
            }
            let now = tx.now();
            tx.delete(slot.dentry());
            tx.delete(slot.link(named.ino));
            lose_name(tx, named, now)?;
            touch_directory(tx, parent, above, now);
            Ok(())
        })
        .await
    }

    pub async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        match name {
            b".." => return Err(FsError::NotEmpty),
            _ => check_name(name)?,
        }
        self.change_and_free(|tx| {
            let mut above = directory(tx, parent)?;
            let (slot, named) = find_named(tx, &self.keys, parent, name)?;
            if !named.is_directory() {
                return Err(FsError::NotDirectory);
            }
            if !records::is_empty(tx, named.ino)? {
                return Err(FsError::NotEmpty);
            }
            let now = tx.now();
            tx.delete(slot.dentry());
            tx.delete(slot.link(named.ino));
            lose_name(tx, named, now)?;
            above.nlink = above.nlink.saturating_sub(1);
            touch_directory(tx, parent, above, now);
            Ok(())
        })
        .await
    }

    /// The kernel holds nothing of this inode any more. An orphan ends here.
    pub fn forget(&self, ino: Ino) {
        self.history.forget(ino);
        self.cache.forget(ino);
    }

    pub(super) fn check_writable(&self) -> Result<(), FsError> {
        if self.is_read_only() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// Waits until what is dirty of these files is in the journal (L2).
    pub(super) async fn settle(&self, inos: &[Ino]) -> Result<(), FsError> {
        // All at once; then the slowest is what is waited for.
        inos.iter().for_each(|ino| self.cache.flush(*ino));
        for ino in inos {
            self.cache.barrier(&[*ino]).await.map_err(|error| self.blame(*ino, error))?;
        }
        Ok(())
    }

    /// Runs one operation that changes something. Waits for room in the journal before it begins (promise 6).
    pub(super) async fn change<T>(
        &self,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.room(Purpose::Add).await?;
        self.history.transact(operation).map(|(done, _)| done)
    }

    /// As [`Fs::change`], for an operation that frees space: it may use what is kept for that.
    pub(super) async fn change_and_free<T>(
        &self,
        operation: impl FnOnce(&mut Transaction<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.room(Purpose::Free).await?;
        self.history.transact(operation).map(|(done, _)| done)
    }

    /// Waits until a change has room in the journal.
    pub(super) async fn room(&self, purpose: Purpose) -> Result<(), FsError> {
        match self.safety.journal() {
            Some(journal) => Ok(journal.room_for_change(purpose).await?),
            None => Ok(()),
        }
    }

    /// As `find_named`; says whether what is looked in is a directory at all.
    fn find_in(&self, source: &impl Source, parent: Ino, name: &[u8]) -> Result<Named, FsError> {
        match find_named(source, &self.keys, parent, name) {
            Ok((_, named)) => Ok(named),
            Err(FsError::NotFound) => match records::inode(source, parent)?.mode {
                mode if kind(mode) == libc::S_IFDIR => Err(FsError::NotFound),
                _ => Err(FsError::NotDirectory),
            },
            Err(error) => Err(error),
        }
    }

    async fn make(&self, parent: Ino, name: &[u8], new: New<'_>, caller: Caller) -> Result<Attributes, FsError> {
        self.check_writable()?;
        check_name(name)?;
        let attributes = self
            .change(|tx| {
                let mut above = directory(tx, parent)?;
                let slot = find(tx, &self.keys, parent, name)?;
                if slot.named.is_some() {
                    return Err(FsError::Exists);
                }
                let is_directory = kind(new.mode) == libc::S_IFDIR;
                if is_directory {
                    gain_subdirectory(&mut above)?;
                }
                let now = tx.now();
                let ino = tx.new_inode();
                let inode = new_inode(&new, caller, &above, now);
                let attributes = fresh(ino, &inode);
                put_name(tx, &slot, name, Named { ino, kind: kind(new.mode) });
                tx.put(Key::inode(ino), Record::Inode(inode));
                if kind(new.mode) == libc::S_IFREG {
                    tx.put(Key::head(ino), Record::Head(empty_head(now, tx.position())));
                }
                touch_directory(tx, parent, above, now);
                Ok(attributes)
            })
            .await?;
        if kind(attributes.mode) == libc::S_IFREG {
            self.cache.created(attributes.ino);
        }
        Ok(attributes)
    }
}

/// In a directory with set-group-ID the group is the directory's, and a directory made there has the bit too.
fn new_inode(new: &New<'_>, caller: Caller, above: &Inode, now: Timestamp) -> Inode {
    let inherits = above.mode & libc::S_ISGID != 0;
    let is_directory = kind(new.mode) == libc::S_IFDIR;
    Inode {
        mode: if inherits && is_directory { new.mode | libc::S_ISGID } else { new.mode },
        uid: caller.uid,
        gid: if inherits { above.gid } else { caller.gid },
        rdev: new.rdev,
        nlink: if is_directory { 2 } else { 1 },
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        target: new.target.map(Into::into),
        extra: None,
    }
}

fn empty_head(now: Timestamp, position: Position) -> Head {
    Head { size: 0, atime: now, mtime: now, ctime: now, position, pieces: Vec::new(), spilled: false, extra: None }
}

fn check_linkable(inode: &Inode) -> Result<(), FsError> {
    if kind(inode.mode) == libc::S_IFDIR {
        return Err(FsError::NotPermitted);
    }
    match inode.nlink {
        0 => Err(FsError::NotFound),
        FILE_LINKS_MAX.. => Err(FsError::TooManyLinks),
        _ => Ok(()),
    }
}

/// An entry that leads to no inode.
fn unnamed(ino: Ino, error: FsError) -> FsError {
    match error {
        FsError::Stale => damaged(ino, "a directory names it, but it has no attributes"),
        other => other,
    }
}

/// Puts an entry and the way up to it.
pub(super) fn put_name(tx: &mut Transaction<'_>, slot: &Slot, name: &[u8], named: Named) {
    let Named { ino, kind } = named;
    tx.put(slot.dentry(), Record::Dentry(Dentry { name: name.into(), ino, kind, extra: None }));
    tx.put(slot.link(ino), Record::Link(Link::default()));
}

/// An inode loses a name, whose entry and link are gone already; without the last one it becomes an orphan. (Its
/// ctime moves only if names are left: POSIX asks for no more, and an orphan's records are in no commit.)
pub(super) fn lose_name(tx: &mut Transaction<'_>, named: Named, now: Timestamp) -> Result<(), FsError> {
    let Named { ino, .. } = named;
    let mut inode = records::inode(tx, ino).map_err(|error| unnamed(ino, error))?;
    if named.is_directory() || inode.nlink <= 1 {
        return Ok(tx.orphan(ino)?);
    }
    inode.nlink -= 1;
    inode.ctime = now;
    tx.put(Key::inode(ino), Record::Inode(inode));
    Ok(())
}

/// A directory comes into this one.
pub(super) fn gain_subdirectory(above: &mut Inode) -> Result<(), FsError> {
    if above.nlink >= DIRECTORY_LINKS_MAX {
        return Err(FsError::TooManyLinks);
    }
    above.nlink += 1;
    Ok(())
}

/// A directory whose entries change.
pub(super) fn touch_directory(tx: &mut Transaction<'_>, ino: Ino, inode: Inode, now: Timestamp) {
    tx.put(Key::inode(ino), Record::Inode(Inode { mtime: now, ctime: now, ..inode }));
}
