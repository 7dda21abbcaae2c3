//! Sealed objects: what log objects, commit parts, manifests and the hint have in common.
//!
//! Owns: the envelope and its associated data. Does not own: what lies inside.
//!
//! ```text
//! nonce, 24 random bytes || XChaCha20-Poly1305(length, 4 bytes big-endian || content || zeros) with its tag
//! ```
//!
//! as long as a padding class; the hint alone has 8 bytes in clear before the nonce, and is as long as a class with
//! them. Invariants: nothing but the nonce lies in clear, so the whole object looks random; the
//! associated data (vault id, kind, full name) lets no object stand for another.

use super::FormatError;
use super::keys::Keys;
use super::padding;
use crate::base::{Random, VaultId};
use crate::crypto::aead::{self, NONCE_LEN, TAG_LEN};
use crate::crypto::secret::SecretBytes;

/// What an object or a slot is, as its associated data says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Log = 1,
    Part = 2,
    Manifest = 3,
    Hint = 4,
    Slot = 5,
    Chain = 6,
    Counts = 7,
}

/// Vault id, kind, full name.
pub fn associated_data(vault: &VaultId, kind: Kind, name: &str) -> Vec<u8> {
    [&vault.0[..], &[kind as u8], name.as_bytes()].concat()
}

const LEN_LEN: usize = 4;
/// What lies before an object's content.
pub(super) const CONTENT: usize = NONCE_LEN + LEN_LEN;

/// Seals what `encode` appends, padded to its class, after bytes in clear (none but in the hint). `None` if it does not fit the largest.
pub(super) fn seal(
    keys: &Keys,
    random: &Random,
    kind: Kind,
    name: &str,
    clear: &[u8],
    encode: impl FnOnce(&mut Vec<u8>),
) -> Option<Vec<u8>> {
    let mut object = vec![0; clear.len() + CONTENT];
    encode(&mut object);
    seal_made(keys, random, kind, name, clear, object)
}

/// As [`seal`], of an object that has its content already, behind room for what lies before it. It stays where it is if
/// its capacity is that of its class.
pub(super) fn seal_made(
    keys: &Keys,
    random: &Random,
    kind: Kind,
    name: &str,
    clear: &[u8],
    mut object: Vec<u8>,
) -> Option<Vec<u8>> {
    let (from, to) = (clear.len() + NONCE_LEN, clear.len() + CONTENT);
    let class = padding::class(object.len() + TAG_LEN)?;
    let nonce: [u8; NONCE_LEN] = random.bytes();
    let len = (object.len() - to) as u32;
    object[..clear.len()].copy_from_slice(clear);
    object[clear.len()..from].copy_from_slice(&nonce);
    object[from..to].copy_from_slice(&len.to_be_bytes());
    object.reserve_exact(class - object.len());
    object.resize(class - TAG_LEN, 0);
    let aad = associated_data(&keys.vault, kind, name);
    let tag = aead::seal_in_place(&keys.log, &nonce, &aad, &mut object[from..]);
    object.extend_from_slice(&tag);
    Some(object)
}

/// The content of a sealed object, wiped when dropped.
pub(super) struct Opened(SecretBytes, usize);

impl Opened {
    pub fn content(&self) -> &[u8] {
        &self.0[LEN_LEN..][..self.1]
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Opens an object of this kind and name, of which `clear` bytes lie in clear; `what` names it in errors.
pub(super) fn open(
    keys: &Keys,
    kind: Kind,
    name: &str,
    what: &'static str,
    clear: usize,
    object: &[u8],
) -> Result<Opened, FormatError> {
    let malformed = |why| FormatError::Malformed { what, why };
    if !padding::is_class(object.len()) {
        return Err(malformed("its length is none that an object of a vault can have"));
    }
    let (nonce, sealed) = object[clear..].split_first_chunk::<NONCE_LEN>().ok_or(malformed("it is too short"))?;
    let aad = associated_data(&keys.vault, kind, name);
    let opened = aead::open(&keys.log, nonce, &aad, sealed).map_err(|_| FormatError::Unauthentic(what))?;
    let opened = SecretBytes::from(opened);
    let (len, rest) = opened.split_first_chunk::<LEN_LEN>().ok_or(malformed("it is too short"))?;
    let len = u32::from_be_bytes(*len) as usize;
    let padding = rest.get(len..).ok_or(malformed("its content is longer than the object"))?;
    if !is_zeros(padding) {
        return Err(malformed("its padding is not zeros"));
    }
    if padding::class(clear + CONTENT + len + TAG_LEN) != Some(object.len()) {
        return Err(malformed("it is padded to a larger class than it needs"));
    }
    Ok(Opened(opened, len))
}
