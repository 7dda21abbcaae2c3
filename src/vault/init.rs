//! Making a vault: header, empty checkpoint, first commit.

use super::VaultError;
use crate::base::{Clock, Random, VaultId};
use crate::crypto::secret::Passphrase;
use crate::format::header::{Cost, RecoveryKey};
use crate::store::Store;

/// Makes a vault where there is none. The root directory belongs to `uid` and `gid`, mode 0755.
pub async fn init(
    _store: &Store,
    _passphrase: &Passphrase,
    _cost: Cost,
    _owner: (u32, u32),
    _random: &Random,
    _clock: &Clock,
) -> Result<(VaultId, RecoveryKey), VaultError> {
    todo!()
}
