//! What the operations of this room read of a vault's records, and the errors for what does not fit together.
//!
//! Owns: finding a directory entry by name, the way up by link records, reading one inode. Owns no state, changes
//! nothing. Works on a [`View`] and, inside an operation, on the [`Transaction`], which sees its own writes.
//!
//! Invariants: a directory entry's record key is (parent, keyed hash of parent and name, suffix); a suffix tells equal
//! hashes apart, is the lowest that was free when the entry was made, and stays. Every inode but the root and unlinked
//! ones has one link record for each entry that names it, with the same hash and suffix as that entry's key.

use std::collections::HashSet;
use std::sync::Arc;

use super::FsError;
use crate::base::Ino;
use crate::base::sizes::NAME_MAX;
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::{Inode, Record};
use crate::history::map::Contents;
use crate::history::versions::At;
use crate::history::{Transaction, View};

/// Where records are read: the state as it stands, or as an operation in progress sees it.
pub(super) trait Source {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, FsError>;

    /// Records from `from` to `to`, both inclusive, in key order; `visit` returns false to stop.
    fn each(&self, from: Key, to: Key, visit: impl FnMut(&Key, &Record) -> bool) -> Result<(), FsError>;
}

impl Source for View<'_> {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, FsError> {
        Ok(View::get(self, key)?)
    }

    fn each(&self, from: Key, to: Key, mut visit: impl FnMut(&Key, &Record) -> bool) -> Result<(), FsError> {
        Ok(self.scan(from, to, |key, record| visit(key, record))?)
    }
}

impl Source for At<'_> {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, FsError> {
        Ok(Contents::get(self, key)?)
    }

    fn each(&self, from: Key, to: Key, mut visit: impl FnMut(&Key, &Record) -> bool) -> Result<(), FsError> {
        Ok(Contents::scan(self, from, to, &mut |key, record| visit(key, record))?)
    }
}

impl Source for Transaction<'_> {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, FsError> {
        Ok(Transaction::get(self, key)?)
    }

    fn each(&self, from: Key, to: Key, mut visit: impl FnMut(&Key, &Record) -> bool) -> Result<(), FsError> {
        Ok(self.scan(from, to, |key, record| visit(key, record))?)
    }
}

/// EIO for records that contradict each other: authentic, so a program wrote them wrong.
pub(super) fn damaged(ino: Ino, what: &str) -> FsError {
    let text = format!("{ino}: {what}: the vault's records contradict each other; please report this as a bug");
    log::error!("{text}");
    FsError::Io(text)
}

/// The file type bits of a mode.
pub(super) fn kind(mode: u32) -> u32 {
    mode & libc::S_IFMT
}

/// An inode's namespace attributes. An inode that the kernel still names but that is gone is stale.
pub(super) fn inode(source: &impl Source, ino: Ino) -> Result<Inode, FsError> {
    match source.get(&Key::inode(ino))?.as_deref() {
        Some(Record::Inode(inode)) => Ok(inode.clone()),
        None => Err(FsError::Stale),
        Some(_) => Err(damaged(ino, "its attributes are a record of another kind")),
    }
}

/// The inode of a directory in which names are about to change: one that was removed takes no new ones.
pub(super) fn directory(source: &impl Source, ino: Ino) -> Result<Inode, FsError> {
    let inode = inode(source, ino)?;
    if kind(inode.mode) != libc::S_IFDIR {
        return Err(FsError::NotDirectory);
    }
    if inode.nlink == 0 {
        return Err(FsError::NotFound);
    }
    Ok(inode)
}

/// Refuses what can be no entry's name. "." and ".." are resolved by whoever walks the path.
pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// What a directory entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub ino: Ino,
    /// `S_IFMT` bits.
    pub kind: u32,
}

impl Named {
    pub fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }
}

/// The place of a name in its directory: where its entry stands, or where one may be put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub parent: Ino,
    pub hash: u64,
    pub suffix: u16,
    /// What stands there, if anything does.
    pub named: Option<Named>,
}

impl Slot {
    pub fn dentry(&self) -> Key {
        Key::dentry(self.parent, self.hash, self.suffix)
    }

    /// The way up from `ino` to this entry.
    pub fn link(&self, ino: Ino) -> Key {
        Key::link(ino, self.parent, self.hash, self.suffix)
    }
}

/// Finds a name's entry, or the lowest free suffix for one. Deletions leave gaps, so all equal hashes are looked at.
pub(super) fn find(source: &impl Source, keys: &Keys, parent: Ino, name: &[u8]) -> Result<Slot, FsError> {
    let hash = keys.dentry_hash(parent, name);
    // Nearly every entry stands here, and one record is found faster than a range.
    if let Some(Record::Dentry(dentry)) = source.get(&Key::dentry(parent, hash, 0))?.as_deref()
        && *dentry.name == *name
    {
        let named = Some(Named { ino: dentry.ino, kind: dentry.kind });
        return Ok(Slot { parent, hash, suffix: 0, named });
    }
    let mut named = None;
    let mut found = 0;
    let mut free: u32 = 0;
    source.each(Key::dentry(parent, hash, 0), Key::dentry(parent, hash, u16::MAX), |key, record| {
        let Part::Dentry { suffix, .. } = key.part else {
            return true;
        };
        match record {
            Record::Dentry(dentry) if *dentry.name == *name => {
                named = Some(Named { ino: dentry.ino, kind: dentry.kind });
                found = suffix;
            }
            _ if u32::from(suffix) == free => free += 1,
            _ => {}
        }
        named.is_none()
    })?;
    let suffix = match named {
        Some(_) => found,
        None => u16::try_from(free).map_err(|_| FsError::NoSpace)?,
    };
    Ok(Slot { parent, hash, suffix, named })
}

/// As [`find`], for a name that must be there.
pub(super) fn find_named(
    source: &impl Source,
    keys: &Keys,
    parent: Ino,
    name: &[u8],
) -> Result<(Slot, Named), FsError> {
    let slot = find(source, keys, parent, name)?;
    slot.named.map(|named| (slot, named)).ok_or(FsError::NotFound)
}

/// Is there any entry in this directory?
pub(super) fn is_empty(source: &impl Source, directory: Ino) -> Result<bool, FsError> {
    let mut empty = true;
    source.each(Key::dentry(directory, 0, 0), Key::dentry(directory, u64::MAX, u16::MAX), |_, _| {
        empty = false;
        false
    })?;
    Ok(empty)
}

/// The directories that hold a name of this inode, once for each name; none for the root and for what is unlinked.
pub(super) fn each_parent(source: &impl Source, ino: Ino, mut visit: impl FnMut(Ino) -> bool) -> Result<(), FsError> {
    let to = Key::link(ino, Ino(u64::MAX), u64::MAX, u16::MAX);
    source.each(Key::link(ino, Ino(0), 0, 0), to, |key, _| match key.part {
        Part::Link { parent, .. } => visit(parent),
        _ => true,
    })
}

/// The directory above a directory; the root, and one that was removed, are their own.
pub(super) fn parent_of(source: &impl Source, directory: Ino) -> Result<Ino, FsError> {
    let mut above = directory;
    each_parent(source, directory, |parent| {
        above = parent;
        false
    })?;
    Ok(above)
}

/// Whether inodes lie below one directory, found by walking up from them. What was once found to lie elsewhere is
/// remembered, so that many files of one tree cost about one walk.
pub(super) struct Below<'a, S> {
    source: &'a S,
    directory: Ino,
    elsewhere: HashSet<Ino>,
}

impl<'a, S: Source> Below<'a, S> {
    pub fn new(source: &'a S, directory: Ino) -> Below<'a, S> {
        Below { source, directory, elsewhere: HashSet::new() }
    }

    /// Is `ino` in this directory, or in one below it, by any of its names? (The directory itself is not.)
    pub fn holds(&mut self, ino: Ino) -> Result<bool, FsError> {
        let mut seen = HashSet::new();
        let mut todo = vec![ino];
        let mut inside = false;
        while let Some(next) = todo.pop()
            && !inside
        {
            each_parent(self.source, next, |parent| {
                inside |= parent == self.directory;
                if !self.elsewhere.contains(&parent) && seen.insert(parent) {
                    todo.push(parent);
                }
                !inside
            })?;
        }
        if !inside {
            self.elsewhere.extend(seen);
        }
        Ok(inside)
    }
}
