//! Secrets: wiped when dropped, never printed, never compared in variable time.

use zeroize::Zeroizing;

/// A 256-bit key.
#[derive(Clone)]
pub struct Key(pub(super) Zeroizing<[u8; 32]>);

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
