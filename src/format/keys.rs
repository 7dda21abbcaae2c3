//! The sub-keys of an unlocked vault, one a purpose, each derived from the master key under its own label.

use crate::base::VaultId;
use crate::crypto::secret::Key as SecretKey;

pub struct Keys {
    pub vault: VaultId,
    /// Seals log objects, commit parts, runs and manifests.
    pub log: SecretKey,
    /// From this and an extent's key id comes the file key.
    pub content: SecretKey,
    /// Hashes names of entries and xattrs.
    pub names: SecretKey,
    /// Seals journal blocks.
    pub journal: SecretKey,
    /// Authenticates headers.
    pub header: SecretKey,
}

impl Keys {
    pub fn from_master(_master: &SecretKey) -> Keys {
        todo!()
    }

    /// 63 bits of a keyed hash of parent and name, never below 16 (readdir cookies below that are taken).
    pub fn dentry_hash(&self, _parent: crate::base::Ino, _name: &[u8]) -> u64 {
        todo!()
    }

    /// The same for an xattr's name.
    pub fn xattr_hash(&self, _name: &[u8]) -> u64 {
        todo!()
    }
}
