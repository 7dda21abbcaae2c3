//! Headers: vault id, key slots. Read before anything is trusted, so everything in them is bounded (A10, A26).

use super::FormatError;
use super::commit::Hash;
use crate::base::{Random, VaultId};
use crate::crypto::secret::{Key as SecretKey, Passphrase};

/// `header/<20 digits>`.
pub fn header_name(number: u64) -> String {
    format!("header/{number:020}")
}

/// A header that parsed; nothing in it is trusted before [`Header::unlock`].
pub struct Header {
    pub number: u64,
    pub vault: VaultId,
    pub hash: Hash,
}

/// Cost of the passphrase KDF. Floor and ceiling are compiled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Cost {
    /// 256 MiB, 3 passes, 1 lane (about half a second).
    pub const DEFAULT: Cost = Cost { memory_kib: 256 * 1024, passes: 3, lanes: 1 };
    /// The least that is accepted. Tests use it.
    pub const FLOOR: Cost = Cost { memory_kib: 64 * 1024, passes: 1, lanes: 1 };
}

/// A recovery key as it is shown once: text that a person can write down, checked by itself.
pub struct RecoveryKey(/* secret */);

#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// No slot opens with it.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// A slot opened, but the header was changed by somebody without the key.
    #[error("the vault's header was tampered with")]
    Tampered,
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl Header {
    /// Makes header 1 of a new vault with a passphrase slot and a recovery slot: object bytes, and the master key.
    pub fn create(_random: &Random, _passphrase: &Passphrase, _cost: Cost) -> (Vec<u8>, SecretKey, RecoveryKey) {
        todo!()
    }

    pub fn parse(_number: u64, _object: &[u8]) -> Result<Header, FormatError> {
        todo!()
    }

    /// Tries each slot; a recovery key is accepted where a passphrase is.
    pub fn unlock(&self, _passphrase: &Passphrase) -> Result<SecretKey, UnlockError> {
        todo!()
    }
}
