//! Making a vault from the machine's side: is one known here, where does the recovery key go, then `vault::init`.
//!
//! Invariants: a recovery key that goes to a file is durable there before there is a vault, and stays there if there
//! may be one; where a known vault has
//! vanished none is made.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{MountError, state_dir};
use crate::base::{Clock, Random, VaultId, disk};
use crate::crypto::secret::Passphrase;
use crate::format::header::{Cost, header_name};
use crate::store::{Store, StoreError};
use crate::vault::{init, unlock};

/// What became of the recovery key.
pub enum Recovery {
    /// To be shown, once.
    Shown(Zeroizing<String>),
    /// It is in the file that was asked for.
    Written,
}

/// Is there a vault, or what is left of one?
pub async fn stands(store: &Store) -> Result<bool, StoreError> {
    if !store.can_list() {
        return Ok(store.get(&header_name(unlock::hinted_header(store).await?)).await?.is_some());
    }
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
    if let (Err(error), Some((path, _))) = (&result, &file)
        && !matches!(error, MountError::Unclear { .. })
    {
        // It is empty, or its key opens nothing.
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
    let vault = init::prepare(store, passphrase, cost, owner, &Random::Kernel, &Clock::System).await?;
    // Room from the start, so that growing leaves no copies behind.
    let mut text = Zeroizing::new(String::with_capacity(256));
    write!(text, "{}", vault.recovery).expect("memory takes all");
    if let Some((path, file)) = file {
        write(path, file, &text).map_err(|why| MountError::RecoveryFile { path: path.to_owned(), why })?;
    }
    match vault.make(store).await {
        Ok(()) => Ok((vault.vault, if file.is_some() { Recovery::Written } else { Recovery::Shown(text) })),
        Err(failed) if failed.may_stand => {
            let advice = match file {
                Some((path, _)) => format!(
                    "Look again when the store answers: if there is a vault, its recovery key is in {}; if not, remove \
                     that file and what was left in the store, and make one anew",
                    path.display()
                ),
                None => "Look again when the store answers: if there is a vault, the passphrase opens it, but nobody \
                         has its recovery key; to have one, remove what is there and make it anew"
                    .to_owned(),
            };
            Err(MountError::Unclear { why: failed.error, advice })
        }
        Err(failed) => Err(failed.error.into()),
    }
}

/// Writes a recovery key to a file that does not exist yet, durably.
pub fn keep_recovery(path: &Path, text: &str) -> Result<(), MountError> {
    let file = create(path)?;
    write(path, &file, text).map_err(|why| MountError::RecoveryFile { path: path.to_owned(), why })
}

/// Durable, name and all, when this returns.
fn write(path: &Path, mut file: &File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    disk::sync_path(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
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

    #[tokio::test(start_paused = true)]
    async fn the_recovery_key_is_safe_before_there_is_a_vault_and_kept_while_there_may_be_one() {
        use crate::store::faulty::{Fault, Faulty};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let passphrase = Passphrase::new(b"x".to_vec());
        // Puts before the header's: the probe's two, the checkpoint, the commit. Three tries of each.
        for (fault, fine, kept) in
            [(Fault::Down, 4, true), (Fault::LoseAnswer, 4, true), (Fault::Refuse, 4, false), (Fault::Down, 3, false)]
        {
            let faulty = Faulty::new(fault, 9);
            faulty.spare(fine);
            let store = Store::over(faulty.clone(), "memory:///");
            let result = make(&store, dir.path(), &passphrase, Cost::FLOOR, Some(&path)).await;
            let text = std::fs::read_to_string(&path);
            assert_eq!(text.is_ok(), kept, "{fault:?} {fine}");
            if fault == Fault::LoseAnswer {
                assert!(matches!(result, Ok((_, Recovery::Written))));
            } else {
                assert_eq!(matches!(result, Err(MountError::Unclear { .. })), kept);
            }
            if kept {
                assert!(text.unwrap().starts_with("dripfs-recovery-1-"));
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_overwrites_by_now_is_mounted_by_readers_only() {
        use crate::mount::drive::{Drive, DriveOptions, Durability};
        use crate::store::faulty::{Fault, Faulty};
        let faulty = Faulty::new(Fault::Overwrite, 0);
        let store = Store::over(faulty.clone(), "memory:///");
        let dir = tempfile::tempdir().unwrap();
        let passphrase = Passphrase::new(b"x".to_vec());
        make(&store, dir.path(), &passphrase, Cost::FLOOR, None).await.unwrap();
        let before = store.list("", 9).await.unwrap();
        faulty.strike(u32::MAX);
        let options = DriveOptions {
            state: dir.path().to_owned(),
            read_only: false,
            durability: Durability::Local,
            takeover: false,
            accept_rollback: false,
            compress: false,
            cache_bytes: 1 << 20,
            caching: Default::default(),
            dirty_bytes: 1 << 20,
            journal_bytes: 1 << 24,
            checkpoint: Default::default(),
            follow_seconds: 5,
            pipelines: Default::default(),
            gc: Default::default(),
            rounds: Default::default(),
        };
        let result = Drive::open(store.clone(), passphrase.clone(), options.clone()).await.map(|_| ());
        assert!(matches!(&result, Err(VaultError::Store(StoreError::NoConditionalCreate(_)))), "{result:?}");
        assert_eq!(store.list("", 9).await.unwrap(), before, "nothing was written but the probe, and it is gone");
        Drive::open(store, passphrase, DriveOptions { read_only: true, ..options }).await.unwrap();
    }
}
