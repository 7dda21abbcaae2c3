//! Attributes: what stat tells, and what chmod, chown, utimens and truncate change; statfs.
//!
//! Owns how an inode record, a contents head and an entry's unwritten bytes become one `stat`. Does not own sizes
//! (`file.rs` truncates) nor who may change what (the kernel checks permissions: default_permissions).
//!
//! Invariants: mode and owner are namespace-lane changes and barriers (L2) unless the file has only grown; times of a
//! regular file are content-lane changes, made after all its dirty bytes were captured (L1). An entry's lock comes
//! before history's, so the cache is asked first; the stored head is then at least as new as what the cache said.

use super::records::{self, Source, damaged, kind};
use super::{Attributes, Caller, Fs, FsError, SetAttributes, SetTime, SpaceUse};
use crate::base::{Ino, Timestamp};
use crate::cache::Live;
use crate::format::key::Key;
use crate::format::record::{Head, Inode, Record};
use crate::history::Transaction;
use crate::journal::Purpose;

/// What statfs tells to be free, in bytes. Object storage has no end, but tools look for a number: large enough for
/// every copy to begin, small enough that no tool's arithmetic in bytes overflows.
const FREE_BYTES: u64 = 1 << 50;

/// How many map records one stat adds up. Files with more pieces are taken to have no holes after these, or a stat
/// of a file written at random would hold the history's lock for milliseconds.
const BLOCKS_SCAN: usize = 1024;

/// What a contents head tells stat.
struct Contents {
    size: u64,
    blocks: u64,
    atime: Timestamp,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl Fs {
    pub async fn getattr(&self, ino: Ino) -> Result<Attributes, FsError> {
        self.stat(ino)
    }

    pub async fn setattr(&self, ino: Ino, set: SetAttributes, caller: Caller) -> Result<Attributes, FsError> {
        self.check_writable()?;
        let mut set = set;
        let kind = self.kind_of(ino)?;
        if let Some(size) = set.size {
            match kind {
                // What the mode is now, the answer tells.
                libc::S_IFREG => _ = self.truncate(ino, size, caller.uid != 0).await?,
                libc::S_IFDIR => return Err(FsError::IsDirectory),
                _ => return Err(FsError::Invalid),
            }
            // ftruncate asks for it; truncate has just done it.
            set.mtime = set.mtime.filter(|time| *time != SetTime::Now);
        }
        let times = set.atime.is_some() || set.mtime.is_some();
        let names = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if !times && !names {
            return self.stat(ino);
        }
        let regular = kind == libc::S_IFREG;
        if names || !regular {
            self.set_inode(ino, &set, regular).await?;
        }
        if regular && times {
            self.room(Purpose::Add).await?;
            let set = |now, atime: &mut _, mtime: &mut _| set_times(&set, now, atime, mtime);
            self.cache.set_times(ino, set).await.map_err(|error| self.blame(ino, error))?;
        }
        self.stat(ino)
    }

    /// The part of setattr that the inode record holds: all but a regular file's times.
    async fn set_inode(&self, ino: Ino, set: &SetAttributes, regular: bool) -> Result<(), FsError> {
        let barrier = regular && !self.cache.only_grown(ino);
        if barrier {
            self.settle(&[ino]).await?;
        }
        self.change(|tx| {
            let mut inode = records::inode(tx, ino)?;
            let now = tx.now();
            if !regular {
                set_times(set, now, &mut inode.atime, &mut inode.mtime);
            }
            self.change_owner_and_mode(tx, ino, &mut inode, set)?;
            inode.ctime = now;
            // An unlinked file is in no commit that could wait for it (L4).
            if barrier && inode.nlink > 0 {
                tx.barrier(ino);
            }
            tx.put(Key::inode(ino), Record::Inode(inode));
            Ok(())
        })
        .await
    }

    pub async fn statfs(&self) -> Result<SpaceUse, FsError> {
        let (used_bytes, inodes) = self.history.usage();
        Ok(SpaceUse { used_bytes, free_bytes: FREE_BYTES, inodes })
    }

    /// What stat tells of an inode now.
    pub(super) fn stat(&self, ino: Ino) -> Result<Attributes, FsError> {
        let live = self.cache.live(ino);
        let view = self.history.view();
        match (stat_in(&view, ino, live), view.last_version(ino)) {
            // Deleted elsewhere while it is open here: it has no name any more.
            (Err(FsError::Stale), Some(at)) => Ok(Attributes { nlink: 0, ..stat_in(&at, ino, None)? }),
            (attributes, _) => attributes,
        }
    }

    fn kind_of(&self, ino: Ino) -> Result<u32, FsError> {
        records::inode(&self.history.view(), ino).map(|inode| kind(inode.mode))
    }

    /// A change of owner takes set-user-ID, set-group-ID and file capabilities from all but directories, whoever asks,
    /// as the kernel does for a local disk. (Without group execution, set-group-ID is no right to execute: it stays.)
    fn change_owner_and_mode(
        &self,
        tx: &mut Transaction<'_>,
        ino: Ino,
        inode: &mut Inode,
        set: &SetAttributes,
    ) -> Result<(), FsError> {
        if set.uid.is_some() || set.gid.is_some() {
            inode.uid = set.uid.unwrap_or(inode.uid);
            inode.gid = set.gid.unwrap_or(inode.gid);
            if kind(inode.mode) != libc::S_IFDIR {
                inode.mode = without_privileges(inode.mode);
                self.drop_capability(tx, ino)?;
            }
        }
        if let Some(mode) = set.mode {
            inode.mode = kind(inode.mode) | (mode & 0o7777);
        }
        Ok(())
    }
}

/// A mode without what a change of owner or contents takes away.
pub(super) fn without_privileges(mode: u32) -> u32 {
    let group = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & !(libc::S_ISUID | group)
}

fn set_times(set: &SetAttributes, now: Timestamp, atime: &mut Timestamp, mtime: &mut Timestamp) {
    let at = |time| match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    };
    *atime = set.atime.map_or(*atime, at);
    *mtime = set.mtime.map_or(*mtime, at);
}

/// What stat tells, from the records of `source` and what the cache said just before.
pub(super) fn stat_in(source: &impl Source, ino: Ino, live: Option<Live>) -> Result<Attributes, FsError> {
    let inode = records::inode(source, ino)?;
    if kind(inode.mode) != libc::S_IFREG {
        return Ok(compose(ino, &inode, None));
    }
    let stored = match source.get(&Key::head(ino))?.as_deref() {
        Some(Record::Head(head)) => contents(source, ino, head, live.is_some())?,
        _ => return Err(damaged(ino, "a regular file has no contents head")),
    };
    Ok(compose(ino, &inode, Some(overridden(stored, live))))
}

/// The attributes of a file that was made at this moment.
pub(super) fn fresh(ino: Ino, inode: &Inode) -> Attributes {
    let Inode { atime, mtime, ctime, .. } = *inode;
    let empty = Contents { size: 0, blocks: 0, atime, mtime, ctime };
    compose(ino, inode, (kind(inode.mode) == libc::S_IFREG).then_some(empty))
}

fn compose(ino: Ino, inode: &Inode, contents: Option<Contents>) -> Attributes {
    let contents = contents.unwrap_or(Contents {
        size: inode.target.as_ref().map_or(0, |target| target.len() as u64),
        blocks: 0,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
    });
    Attributes {
        ino,
        mode: inode.mode,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        size: contents.size,
        blocks: contents.blocks,
        atime: contents.atime,
        mtime: contents.mtime,
        ctime: contents.ctime.max(inode.ctime),
        btime: inode.btime,
    }
}

/// Bytes that wait in memory are counted without holes: tools take a file with too few blocks for one big hole.
fn overridden(stored: Contents, live: Option<Live>) -> Contents {
    match live {
        None => stored,
        Some(Live { size, mtime, ctime }) => {
            Contents { size, blocks: size.div_ceil(512), mtime, ctime, atime: stored.atime }
        }
    }
}

fn contents(source: &impl Source, ino: Ino, head: &Head, blocks_known: bool) -> Result<Contents, FsError> {
    let bytes = match (blocks_known, head.spilled) {
        (true, _) => 0,
        (false, false) => head.pieces.iter().map(|piece| u64::from(piece.len)).sum(),
        (false, true) => mapped_bytes(source, ino, head.size)?,
    };
    let blocks = bytes.div_ceil(512);
    Ok(Contents { size: head.size, blocks, atime: head.atime, mtime: head.mtime, ctime: head.ctime })
}

/// Bytes of a spilled map that are not holes; what lies after the first [`BLOCKS_SCAN`] pieces counts whole.
fn mapped_bytes(source: &impl Source, ino: Ino, size: u64) -> Result<u64, FsError> {
    let (mut bytes, mut pieces) = (0, 0);
    source.each(Key::map(ino, 0), Key::map(ino, u64::MAX), |_, record| {
        let Record::Map(piece) = record else { return true };
        pieces += 1;
        if pieces > BLOCKS_SCAN {
            bytes += size.saturating_sub(piece.offset);
            return false;
        }
        bytes += u64::from(piece.len);
        true
    })?;
    Ok(bytes)
}
