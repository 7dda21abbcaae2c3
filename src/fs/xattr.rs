//! Extended attributes: user, trusted and security, kept as the bytes that they are.
//!
//! Owns names, sizes and flags of xattrs. Does not own who may read or set them (the kernel checks), nor ACLs: all of
//! `system.*` is unsupported, so that nobody takes an ACL that nothing enforces for one that counts.
//!
//! Invariants: an xattr's record key is (inode, keyed hash of its name, suffix), the suffix as in a directory entry's.
//! All names of one inode fit one listxattr reply.

use super::records::{self, Source};
use super::{Fs, FsError};
use crate::base::Ino;
use crate::base::sizes::{KIB, NAME_MAX};
use crate::format::key::{Key, Part};
use crate::format::record::{Record, Xattr};
use crate::history::{Reach, Transaction};

/// The longest value, and the longest list of names: Linux hands over no more.
const VALUE_MAX: usize = 64 * KIB;
const LIST_MAX: usize = 64 * KIB;

const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Names that tell of the drive itself. They are never stored, and never listed: a copy would take them along.
const RESERVED: &[u8] = b"user.dripfs.";
/// How safe a file is.
const STATE: &[u8] = b"user.dripfs.state";
/// Where a file's bytes are.
const CACHED: &[u8] = b"user.dripfs.cached";
/// File capabilities: a right that ends with a change of owner.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

impl Fs {
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        check_name(name)?;
        if name == STATE {
            return Ok(self.state(ino)?.as_bytes().to_vec());
        }
        if name == CACHED {
            return Ok(self.cached(ino)?.as_bytes().to_vec());
        }
        let view = self.history.view();
        let (key, found) = self.find_xattr(&view, ino, name)?;
        if !found {
            return Err(FsError::NoAttribute);
        }
        match view.get(&key)?.as_deref() {
            Some(Record::Xattr(xattr)) => Ok(xattr.value.to_vec()),
            _ => Err(FsError::NoAttribute),
        }
    }

    /// Where the newest state of a file is safe: nowhere yet, in the journal, on its way, in the vault.
    fn state(&self, ino: Ino) -> Result<&'static str, FsError> {
        // Asked first: what leaves the cache meanwhile is found in history then.
        let dirty = self.cache.dirty_files().contains(&ino);
        let inode = records::inode(&self.history.view(), ino)?;
        // An unlinked file ends with its last user, whatever happens.
        if dirty || inode.nlink == 0 {
            return Ok("dirty");
        }
        // Changes are folded some time after they are durable: looked at again.
        self.history.fold_durable();
        Ok(match self.history.reach(ino) {
            Reach::Memory => "dirty",
            Reach::Journal => "local",
            Reach::Sending => "uploading",
            Reach::Vault => "remote",
        })
    }

    /// From where a file's bytes would be read. Only files have any.
    fn cached(&self, ino: Ino) -> Result<&'static str, FsError> {
        match records::kind(records::inode(&self.history.view(), ino)?.mode) {
            libc::S_IFREG => Ok(self.cache.whereabouts(ino)?.name()),
            _ => Err(FsError::NoAttribute),
        }
    }

    /// `create`: it must not be there yet; `replace`: it must be there.
    pub async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        check_name(name)?;
        if name.starts_with(RESERVED) {
            return Err(FsError::NotPermitted);
        }
        if value.len() > VALUE_MAX {
            return Err(FsError::ValueTooLarge);
        }
        self.change(|tx| {
            let (key, found) = self.find_xattr(tx, ino, name)?;
            match found {
                true if create => return Err(FsError::Exists),
                false if replace => return Err(FsError::NoAttribute),
                false if list(tx, ino, true)?.len() + name.len() + 1 > LIST_MAX => return Err(FsError::NoSpace),
                _ => {}
            }
            touch(tx, ino)?;
            tx.put(key, Record::Xattr(Xattr { name: name.into(), value: value.into(), extra: None }));
            Ok(())
        })
        .await
    }

    /// The names, each with a zero after it. `trusted` names are shown to the privileged alone (xattr(7)).
    pub async fn listxattr(&self, ino: Ino, trusted: bool) -> Result<Vec<u8>, FsError> {
        list(&self.history.view(), ino, trusted)
    }

    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        check_name(name)?;
        if name.starts_with(RESERVED) {
            return Err(FsError::NotPermitted);
        }
        self.change_and_free(|tx| {
            let (key, found) = self.find_xattr(tx, ino, name)?;
            if !found {
                return Err(FsError::NoAttribute);
            }
            touch(tx, ino)?;
            tx.delete(key);
            Ok(())
        })
        .await
    }

    /// Does a file have capabilities? Asked at each write: one look-up.
    pub(super) fn has_capability(&self, ino: Ino) -> Result<bool, FsError> {
        // Another suffix would take another name with the same 63 bits of hash.
        Ok(self.history.view().get(&Key::xattr(ino, self.capability, 0))?.is_some())
    }

    /// Takes a file's capabilities away, if it has any.
    pub(super) fn drop_capability(&self, tx: &mut Transaction<'_>, ino: Ino) -> Result<(), FsError> {
        if let (key, true) = self.find_xattr(tx, ino, CAPABILITY)? {
            tx.delete(key);
        }
        Ok(())
    }

    /// The key of this xattr's record and true, or a free key for it and false.
    fn find_xattr(&self, source: &impl Source, ino: Ino, name: &[u8]) -> Result<(Key, bool), FsError> {
        let hash = self.keys.xattr_hash(name);
        let mut found = None;
        let mut free: u32 = 0;
        source.each(Key::xattr(ino, hash, 0), Key::xattr(ino, hash, u16::MAX), |key, record| {
            let Part::Xattr { suffix, .. } = key.part else {
                return true;
            };
            match record {
                Record::Xattr(xattr) if *xattr.name == *name => found = Some(*key),
                _ if u32::from(suffix) == free => free += 1,
                _ => {}
            }
            found.is_none()
        })?;
        match found {
            Some(key) => Ok((key, true)),
            None => {
                let suffix = u16::try_from(free).map_err(|_| FsError::NoSpace)?;
                Ok((Key::xattr(ino, hash, suffix), false))
            }
        }
    }
}

/// The errors are those that Linux gives: ERANGE for a length, EINVAL for a bare prefix.
fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(FsError::BufferTooSmall);
    }
    let Some(prefix) = NAMESPACES.iter().find(|prefix| name.starts_with(prefix)) else {
        return Err(FsError::Unsupported);
    };
    if name.len() == prefix.len() || name.contains(&0) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// A changed xattr is a changed inode.
fn touch(tx: &mut Transaction<'_>, ino: Ino) -> Result<(), FsError> {
    let mut inode = records::inode(tx, ino)?;
    inode.ctime = tx.now();
    tx.put(Key::inode(ino), Record::Inode(inode));
    Ok(())
}

fn list(source: &impl Source, ino: Ino, trusted: bool) -> Result<Vec<u8>, FsError> {
    let mut names = Vec::new();
    source.each(Key::xattr(ino, 0, 0), Key::xattr(ino, u64::MAX, u16::MAX), |_, record| {
        if let Record::Xattr(xattr) = record
            && (trusted || !xattr.name.starts_with(b"trusted."))
        {
            names.extend_from_slice(&xattr.name);
            names.push(0);
        }
        true
    })?;
    Ok(names)
}
