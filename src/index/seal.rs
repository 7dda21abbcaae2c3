//! Sealing of what the index keeps on the disk: XChaCha20-Poly1305 under the vault's index key, a random nonce each,
//! bound to vault, table (or base) and place.

use super::{IndexError, damaged};
use crate::base::Random;
use crate::crypto::aead::{self, NONCE_LEN};
use crate::crypto::secret::Key as SecretKey;
use crate::format::keys::Keys;

pub struct Seal {
    key: SecretKey,
    random: Random,
    /// Vault and table: what comes before the place in the associated data.
    owner: Vec<u8>,
}

impl Seal {
    /// Of a table.
    pub fn new(keys: &Keys, random: Random, number: u64) -> Seal {
        Seal::of(keys, random, b"table", &number.to_be_bytes())
    }

    pub fn of(keys: &Keys, random: Random, kind: &[u8], id: &[u8]) -> Seal {
        let owner = [&keys.vault.0[..], kind, id].concat();
        Seal { key: SecretKey::from_bytes(*keys.index.as_bytes()), random, owner }
    }

    pub fn seal(&self, place: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = self.random.bytes();
        let mut out = Vec::with_capacity(NONCE_LEN + plaintext.len() + aead::TAG_LEN);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plaintext);
        let tag = aead::seal_in_place(&self.key, &nonce, &self.bound(place), &mut out[NONCE_LEN..]);
        out.extend_from_slice(&tag);
        out
    }

    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, IndexError> {
        let opened = sealed
            .split_first_chunk::<NONCE_LEN>()
            .and_then(|(nonce, rest)| aead::open(&self.key, nonce, &self.bound(place), rest).ok());
        opened.ok_or_else(|| damaged("a record does not authenticate"))
    }

    fn bound(&self, place: &[u8]) -> Vec<u8> {
        [&self.owner[..], place].concat()
    }
}
