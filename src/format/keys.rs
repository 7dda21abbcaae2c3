//! The sub-keys of an unlocked vault, one a purpose, each derived from the master key under its own label.
//!
//! Owns: the labels of these keys, the hashes of names. Does not own: the master key's slots ([`super::header`]).

use crate::base::{Ino, VaultId};
use crate::crypto::kdf;
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
    /// Seals the index on the local disk.
    pub index: SecretKey,
    /// Authenticates headers.
    pub header: SecretKey,
}

/// Hashes below this are taken: readdir's cookies of "." and "..", and some to spare.
const HASH_MIN: u64 = 16;
/// What a hashed name belongs to, so that an entry and an xattr never hash the same bytes.
const DENTRY: u8 = 1;
const XATTR: u8 = 2;

impl Keys {
    pub fn from_master(master: &SecretKey) -> Keys {
        Keys {
            vault: vault_id(master),
            log: kdf::derive("dripfs 2026 log", master),
            content: kdf::derive("dripfs 2026 content", master),
            names: kdf::derive("dripfs 2026 names", master),
            journal: kdf::derive("dripfs 2026 journal", master),
            index: kdf::derive("dripfs 2026 index", master),
            header: kdf::derive("dripfs 2026 header", master),
        }
    }

    /// 63 bits of a keyed hash of parent and name, never below 16 (readdir cookies below that are taken).
    pub fn dentry_hash(&self, parent: Ino, name: &[u8]) -> u64 {
        self.name_hash(&[&[DENTRY], &parent.0.to_be_bytes(), name])
    }

    /// The same for an xattr's name.
    pub fn xattr_hash(&self, name: &[u8]) -> u64 {
        self.name_hash(&[&[XATTR], name])
    }

    fn name_hash(&self, parts: &[&[u8]]) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = kdf::keyed_hash(&self.names, parts);
        let hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        if hash < HASH_MIN { hash + HASH_MIN } else { hash }
    }

    /// The key that seals the extents with this key id.
    pub fn file_key(&self, key_id: &[u8; 16]) -> SecretKey {
        SecretKey::from_bytes(kdf::keyed_hash(&self.content, &[key_id]))
    }
}

/// A hash of a key derived from the master key, so that another master key is another vault.
fn vault_id(master: &SecretKey) -> VaultId {
    VaultId(kdf::hash(kdf::derive("dripfs 2026 vault id", master).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_and_every_master_key_has_its_own() {
        let a = Keys::from_master(&SecretKey::from_bytes([1; 32]));
        let b = Keys::from_master(&SecretKey::from_bytes([2; 32]));
        let all = [&a.log, &a.content, &a.names, &a.journal, &a.index, &a.header, &b.log, &b.content, &b.names];
        for (k, one) in all.iter().enumerate() {
            assert!(all[..k].iter().all(|other| one != other));
        }
        assert_ne!(a.vault, b.vault);
        assert_ne!(a.file_key(&[0; 16]), a.file_key(&[1; 16]));
    }

    #[test]
    fn hashes_depend_on_vault_parent_name_and_kind_and_leave_low_cookies_free() {
        let a = Keys::from_master(&SecretKey::from_bytes([1; 32]));
        let b = Keys::from_master(&SecretKey::from_bytes([2; 32]));
        let hash = a.dentry_hash(Ino(1), b"name");
        assert_eq!(hash, a.dentry_hash(Ino(1), b"name"));
        assert_ne!(hash, a.dentry_hash(Ino(2), b"name"));
        assert_ne!(hash, a.dentry_hash(Ino(1), b"names"));
        assert_ne!(hash, b.dentry_hash(Ino(1), b"name"));
        assert_ne!(a.xattr_hash(b"user.a"), a.xattr_hash(b"user.b"));
        assert_ne!(a.xattr_hash(&[0, 0, 0, 0, 0, 0, 0, 1, b'x']), a.dentry_hash(Ino(1), b"x"));
        for k in 0..1000u32 {
            let hash = a.dentry_hash(Ino(1), &k.to_be_bytes());
            assert!((HASH_MIN..1 << 63).contains(&hash));
        }
    }
}
