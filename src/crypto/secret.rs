//! Secrets: wiped when dropped, never printed, never compared in variable time.
//!
//! Owns: the types of keys and passphrases. Does not own: how one comes from the other ([`super::kdf`]).

use std::fmt;
use std::ops::{Deref, DerefMut};

use zeroize::Zeroizing;

use crate::base::Random;

/// A 256-bit key.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    pub fn from_bytes(bytes: [u8; 32]) -> Key {
        Key(Zeroizing::new(bytes))
    }

    pub fn random(random: &Random) -> Key {
        let mut key = Zeroizing::new([0; 32]);
        random.fill(&mut key[..]);
        Key(key)
    }

    /// The bytes themselves: for wrapping this key, and for nothing that is shown.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Compares in constant time.
pub fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    // The comparison of blake3::Hash is documented to be constant-time.
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

/// What somebody typed, or a file held: bytes, wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    pub fn new(bytes: Vec<u8>) -> Passphrase {
        Passphrase(Zeroizing::new(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Plaintext in bulk: wiped when dropped, at the speed of memset (`Zeroizing` writes byte by byte, which costs half as
/// much as decryption). Compared as any bytes are: keys have a type of their own.
#[derive(PartialEq, Eq)]
pub struct SecretBytes(Box<[u8]>);

impl From<Vec<u8>> for SecretBytes {
    /// Copies, and leaves the old memory unwiped, unless the vector is full: give one that was made at its length.
    fn from(bytes: Vec<u8>) -> SecretBytes {
        SecretBytes(bytes.into_boxed_slice())
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Without it the compiler may see that nobody reads the zeros, and leave them out.
    zeroize::optimization_barrier(bytes);
}

/// Plaintext that grows at its end: wiped when dropped, and where it lay when it grows out of that.
#[derive(Default, PartialEq, Eq)]
pub struct SecretVec(Vec<u8>);

impl SecretVec {
    pub fn with_capacity(capacity: usize) -> SecretVec {
        SecretVec(Vec::with_capacity(capacity))
    }

    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// What outgrows its room takes twice that, so that each byte is moved a few times at most; whoever knows how much
    /// will come asks for it before.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        let len = self.0.len() + more.len();
        if len > self.0.capacity() {
            self.grow_to(len.max(2 * self.0.capacity()));
        }
        self.0.extend_from_slice(more);
    }

    /// Takes room for `capacity` bytes in all. (`Vec` would leave the old bytes behind.)
    pub fn grow_to(&mut self, capacity: usize) {
        let mut larger = Vec::with_capacity(capacity.max(self.0.len()));
        larger.extend_from_slice(&self.0);
        *self = SecretVec(larger);
    }
}

impl From<Vec<u8>> for SecretVec {
    fn from(bytes: Vec<u8>) -> SecretVec {
        SecretVec(bytes)
    }
}

impl Deref for SecretVec {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for SecretVec {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for SecretVec {
    fn drop(&mut self) {
        // It never shrinks: nothing was ever written beyond its length.
        wipe(&mut self.0);
    }
}

impl fmt::Debug for SecretVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretVec({} bytes)", self.0.len())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_nothing_of_themselves() {
        assert_eq!(format!("{:?}", Key::from_bytes([0x41; 32])), "Key(..)");
        assert_eq!(format!("{:?}", Passphrase::new(b"AAAA".to_vec())), "Passphrase(..)");
        assert_eq!(format!("{:?}", SecretBytes::from(b"AAAA".to_vec())), "SecretBytes(4 bytes)");
        assert_eq!(format!("{:?}", SecretVec::from(b"AAAA".to_vec())), "SecretVec(4 bytes)");
    }

    #[test]
    fn keys_are_equal_only_if_every_byte_is() {
        let key = Key::from_bytes([7; 32]);
        assert_eq!(key, key.clone());
        for at in 0..32 {
            let mut other = [7; 32];
            other[at] ^= 0x80;
            assert_ne!(key, Key::from_bytes(other));
        }
    }

    #[test]
    fn a_growing_secret_keeps_its_bytes() {
        let mut secret = SecretVec::with_capacity(3);
        for part in [&b"ab"[..], b"c", b"defgh", b""] {
            secret.extend_from_slice(part);
        }
        secret.grow_to(2);
        secret.grow_to(100);
        assert_eq!((&secret[..], secret.capacity()), (&b"abcdefgh"[..], 100));
    }

    #[test]
    fn random_keys_differ() {
        assert_ne!(Key::random(&Random::Kernel), Key::random(&Random::Kernel));
    }
}
