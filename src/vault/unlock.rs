//! Opening a vault's header with a passphrase or recovery key.

use bytes::Bytes;

use super::VaultError;
use super::init::FIRST_HEADER;
use super::pin::Pin;
use crate::base::VaultId;
use crate::crypto::secret::Passphrase;
use crate::format::commit::Hash;
use crate::format::header::{Header, UnlockError, header_name};
use crate::format::hint::{HINT_NAME, Hint};
use crate::format::keys::Keys;
use crate::store::{Store, StoreError};

/// How many headers are listed. Numbers may have gaps.
const HEADERS: usize = 1024;

/// An opened header.
pub struct Unlocked {
    pub keys: Keys,
    /// Its number and hash.
    pub header: (u64, Hash),
    /// The header itself, sealed as it is in the store; empty where nobody kept it.
    pub object: Bytes,
}

/// Opens the header that this machine kept (E4). `object` is what the pin vouches for.
pub async fn unlock_kept(
    url: &str,
    object: Vec<u8>,
    passphrase: &Passphrase,
    pin: &Pin,
) -> Result<Unlocked, VaultError> {
    let unlocked = open_object(url, pin.header, object.into(), passphrase.clone()).await?;
    check_id(url, Some(pin), unlocked.keys.vault)?;
    Ok(unlocked)
}

/// Opens the newest header, or the one that the pin names: two are tried at most. Which one counts, the log says.
pub async fn unlock(store: &Store, passphrase: &Passphrase, pin: Option<&Pin>) -> Result<Unlocked, VaultError> {
    let mut numbers: Vec<u64> = match store.can_list() {
        true => store.list("header/", HEADERS).await?.iter().filter_map(|n| number(n)).collect(),
        false => vec![hinted_header(store).await?],
    };
    numbers.sort_unstable();
    let Some(newest) = numbers.last().copied() else {
        return Err(match pin {
            Some(_) => vanished(store),
            None => VaultError::NotFound { url: store.url().to_owned() },
        });
    };
    let mut tries = vec![newest];
    tries.extend(pin.map(|pin| pin.header).filter(|n| *n != newest));
    let mut first_error = None;
    for number in tries {
        match open(store, number, passphrase.clone()).await {
            Ok(unlocked) => {
                check_id(store.url(), pin, unlocked.keys.vault)?;
                return Ok(unlocked);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| vanished(store)))
}

/// The header to try where nothing can be listed.
pub async fn hinted_header(store: &Store) -> Result<u64, StoreError> {
    let hint = store.get(HINT_NAME).await?;
    Ok(hint.and_then(|hint| Hint::header_number(&hint)).unwrap_or(FIRST_HEADER))
}

async fn open(store: &Store, number: u64, passphrase: Passphrase) -> Result<Unlocked, VaultError> {
    let Some(object) = store.get(&header_name(number)).await? else {
        return Err(match store.can_list() {
            true => vanished(store),
            false => VaultError::NotFound { url: store.url().to_owned() },
        });
    };
    open_object(store.url(), number, object, passphrase).await
}

async fn open_object(url: &str, number: u64, object: Bytes, passphrase: Passphrase) -> Result<Unlocked, VaultError> {
    let header = Header::parse(number, &object)?;
    let hash = header.hash;
    // Argon2id takes half a second of a processor: not on a thread that serves others.
    let opened = tokio::task::spawn_blocking(move || header.unlock(&passphrase)).await;
    let url = url.to_owned();
    match opened {
        Ok(Ok(master)) => Ok(Unlocked { keys: Keys::from_master(&master), header: (number, hash), object }),
        Ok(Err(UnlockError::WrongPassphrase)) => Err(VaultError::WrongPassphrase { url }),
        Ok(Err(UnlockError::Tampered)) => {
            Err(VaultError::Tampered(format!("the header of {url} was changed by somebody without the key")))
        }
        Ok(Err(UnlockError::Format(error))) => Err(error.into()),
        Ok(Err(error @ UnlockError::Kdf(_))) => Err(VaultError::State { path: url, why: error.to_string() }),
        Err(_) => Err(VaultError::State { path: url, why: "unlocking failed (out of memory?)".to_owned() }),
    }
}

fn check_id(url: &str, pin: Option<&Pin>, vault: VaultId) -> Result<(), VaultError> {
    match pin {
        Some(pin) if pin.vault != vault => Err(VaultError::Tampered(format!(
            "the vault at {url} is another one than the one that this machine knows there (it knows {}, this is {vault}); \
             if you put another vault there yourself, use another --state directory",
            pin.vault
        ))),
        _ => Ok(()),
    }
}

/// A known vault has vanished.
pub fn vanished(store: &Store) -> VaultError {
    VaultError::Tampered(format!(
        "the vault that this machine knows at {} has vanished: nothing there opens any more; bring it back, or if it \
         was deleted on purpose, use another --state directory",
        store.url()
    ))
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("header/")?;
    if header_name(digits.parse().ok()?) == name { digits.parse().ok() } else { None }
}
