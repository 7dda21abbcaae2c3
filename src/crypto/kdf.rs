//! Argon2id for passphrases; BLAKE3 for sub-keys, keyed hashes and the chain.
//!
//! Owns: the bounds of Argon2's cost, checked before it runs (threat A10, A26). Does not own: labels and what is
//! hashed (that is `format`).

use std::ops::RangeInclusive;

use zeroize::Zeroize;

use super::secret::Key;

/// Argon2's memory, in KiB: floor and ceiling.
pub const MEMORY_KIB: RangeInclusive<u32> = 64 * 1024..=1024 * 1024;
/// Argon2's passes: floor and ceiling.
pub const PASSES: RangeInclusive<u32> = 1..=16;
/// Argon2's lanes: floor and ceiling.
pub const LANES: RangeInclusive<u32> = 1..=4;

/// Why a passphrase was not stretched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KdfError {
    #[error("the cost of the passphrase's key derivation is below the floor")]
    BelowFloor,
    #[error("the cost of the passphrase's key derivation is above the ceiling")]
    AboveCeiling,
    #[error("there is not enough memory for the passphrase's key derivation")]
    OutOfMemory,
    #[error("the passphrase is longer than 4 GiB")]
    TooLong,
}

/// Checks a cost against floor and ceiling.
pub fn check_cost(memory_kib: u32, passes: u32, lanes: u32) -> Result<(), KdfError> {
    let bounded = [(memory_kib, MEMORY_KIB), (passes, PASSES), (lanes, LANES)];
    if bounded.iter().any(|(value, bounds)| value < bounds.start()) {
        return Err(KdfError::BelowFloor);
    }
    if bounded.iter().any(|(value, bounds)| value > bounds.end()) {
        return Err(KdfError::AboveCeiling);
    }
    Ok(())
}

/// Argon2id (version 0x13) of a passphrase; its memory is wiped.
pub fn argon2id(passphrase: &[u8], salt: &[u8; 32], memory_kib: u32, passes: u32, lanes: u32) -> Result<Key, KdfError> {
    check_cost(memory_kib, passes, lanes)?;
    if u32::try_from(passphrase.len()).is_err() {
        return Err(KdfError::TooLong);
    }
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(32)).expect("the cost is within Argon2's bounds");
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).map_err(|_| KdfError::OutOfMemory)?;
    blocks.resize(params.block_count(), argon2::Block::new());
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut out = [0; 32];
    argon2
        .hash_password_into_with_memory(passphrase, salt, &mut out, &mut blocks[..])
        .expect("lengths of passphrase, salt and key are within Argon2's bounds");
    blocks.iter_mut().for_each(Zeroize::zeroize);
    let key = Key::from_bytes(out);
    out.zeroize();
    Ok(key)
}

/// A sub-key for one purpose: BLAKE3's key derivation with `label` as context.
pub fn derive(label: &str, key: &Key) -> Key {
    Key::from_bytes(blake3::derive_key(label, key.as_bytes()))
}

/// BLAKE3 of the concatenated parts under a key: a hash that nobody else can compute, a MAC, or a key.
pub fn keyed_hash(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    let out = *hasher.finalize().as_bytes();
    hasher.zeroize();
    out
}

/// BLAKE3, for what is no secret.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_below_the_floor_or_above_the_ceiling_never_runs() {
        let run = |m, t, p| argon2id(b"x", &[0; 32], m, t, p).err();
        assert_eq!(run(64 * 1024 - 1, 1, 1), Some(KdfError::BelowFloor));
        assert_eq!(run(64 * 1024, 0, 1), Some(KdfError::BelowFloor));
        assert_eq!(run(64 * 1024, 1, 0), Some(KdfError::BelowFloor));
        assert_eq!(run(1024 * 1024 + 1, 1, 1), Some(KdfError::AboveCeiling));
        assert_eq!(run(u32::MAX, u32::MAX, u32::MAX), Some(KdfError::AboveCeiling));
        assert_eq!(run(64 * 1024, 17, 1), Some(KdfError::AboveCeiling));
        assert_eq!(run(64 * 1024, 1, 5), Some(KdfError::AboveCeiling));
    }

    #[test]
    fn argon2_depends_on_passphrase_salt_and_cost() {
        let key = argon2id(b"x", &[0; 32], 64 * 1024, 1, 1).unwrap();
        assert_eq!(key, argon2id(b"x", &[0; 32], 64 * 1024, 1, 1).unwrap());
        assert_ne!(key, argon2id(b"y", &[0; 32], 64 * 1024, 1, 1).unwrap());
        assert_ne!(key, argon2id(b"x", &[1; 32], 64 * 1024, 1, 1).unwrap());
        assert_ne!(key, argon2id(b"x", &[0; 32], 64 * 1024, 2, 1).unwrap());
    }

    #[test]
    fn labels_and_keys_separate() {
        let (a, b) = (Key::from_bytes([1; 32]), Key::from_bytes([2; 32]));
        assert_ne!(derive("one", &a), derive("two", &a));
        assert_ne!(derive("one", &a), derive("one", &b));
        assert_ne!(keyed_hash(&a, &[b"x"]), keyed_hash(&b, &[b"x"]));
        assert_eq!(keyed_hash(&a, &[b"xy", b"z"]), keyed_hash(&a, &[b"x", b"yz"]));
    }
}
