//! Making a vault from the machine's side: is one known here, where does the recovery key go, then `vault::init`.
//!
//! Invariants: a place that can take the recovery key is held before there is a vault; where a known vault has
//! vanished none is made.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{MountError, state_dir};
use crate::base::{Clock, Random, VaultId};
use crate::crypto::secret::Passphrase;
use crate::format::header::Cost;
use crate::store::{Store, StoreError};
use crate::vault;

/// What became of the recovery key.
pub enum Recovery {
    /// To be shown, once.
    Shown(Zeroizing<String>),
    /// It is in the file that was asked for.
    Written,
}

/// Is there a vault, or what is left of one?
pub async fn stands(store: &Store) -> Result<bool, StoreError> {
    Ok(!store.list("header/", 1).await?.is_empty())
}

/// Makes a vault, with its directory if it lies in one.
pub async fn make(
    store: &Store,
    state: &Path,
    passphrase: &Passphrase,
    cost: Cost,
    recovery_file: Option<&Path>,
) -> Result<(VaultId, Recovery), MountError> {
    if !stands(store).await? {
        state_dir::refuse_if_known(state, store.url())?;
    }
    let file = recovery_file.map(|path| create(path).map(|file| (path, file))).transpose()?;
    let result = make_with(store, passphrase, cost, file.as_ref().map(|(path, file)| (*path, file))).await;
    if let (Err(_), Some((path, _))) = (&result, &file) {
        // It is empty or belongs to no vault that was reported.
        let _ = std::fs::remove_file(path);
    }
    result
}

async fn make_with(
    store: &Store,
    passphrase: &Passphrase,
    cost: Cost,
    file: Option<(&Path, &File)>,
) -> Result<(VaultId, Recovery), MountError> {
    store.make_root().await?;
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (id, key) = vault::init::init(store, passphrase, cost, owner, &Random::Kernel, &Clock::System).await?;
    // Room from the start, so that growing leaves no copies behind.
    let mut text = Zeroizing::new(String::with_capacity(256));
    write!(text, "{key}").expect("memory takes all");
    let Some((path, mut file)) = file else { return Ok((id, Recovery::Shown(text))) };
    match file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all()) {
        Ok(()) => Ok((id, Recovery::Written)),
        Err(e) => {
            // The vault stands now, and this is the only moment to have the key.
            log::error!("the recovery key could not be written to {}: {e}", path.display());
            Ok((id, Recovery::Shown(text)))
        }
    }
}

fn create(path: &Path) -> Result<File, MountError> {
    let fails = |why: io::Error| MountError::RecoveryFile { path: path.to_owned(), why };
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fails)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::VaultError;

    #[tokio::test]
    async fn nothing_is_made_where_a_known_vault_vanished_or_the_key_has_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let vault = dir.path().join("vault");
        let store = crate::store::open(vault.to_str().unwrap()).unwrap();
        let passphrase = Passphrase::new(b"x".to_vec());
        let taken = dir.path().join("taken");
        std::fs::write(&taken, b"").unwrap();
        let result = make(&store, dir.path(), &passphrase, Cost::FLOOR, Some(&taken)).await;
        assert!(matches!(result, Err(MountError::RecoveryFile { .. })));
        std::fs::write(dir.path().join("pin"), b"").unwrap();
        let result = make(&store, dir.path(), &passphrase, Cost::FLOOR, None).await;
        assert!(matches!(result, Err(MountError::Vault(VaultError::Tampered(_)))));
        assert!(!vault.exists());
    }
}
