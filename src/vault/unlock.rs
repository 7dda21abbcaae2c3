//! Opening a vault's header with a passphrase or recovery key.

use bytes::Bytes;

use super::VaultError;
use super::init::FIRST_HEADER;
use super::pin::{Pin, PinFile};
use crate::base::{Random, VaultId};
use crate::crypto::kdf;
use crate::crypto::secret::Passphrase;
use crate::format::commit::Hash;
use crate::format::header::change::Draft;
use crate::format::header::{Header, UnlockError, header_name};
use crate::format::hint::{HINT_NAME, Hint};
use crate::format::keys::Keys;
use crate::store::{Created, Store, StoreError};

/// How many headers are listed. Numbers may have gaps.
const HEADERS: usize = 1024;
/// How many numbers in a row may be taken by others at the same time.
const SUCCESSOR_TRIES: u32 = 8;

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

/// Opens a header for the machine that keeps these pins: as [`unlock`]; or the one that the log was found to name.
pub async fn unlock_here(
    store: &Store,
    passphrase: &Passphrase,
    pins: &PinFile,
    named: Option<(u64, Hash)>,
) -> Result<Unlocked, VaultError> {
    let pin = pins.get();
    match named {
        Some(named) => unlock_named(store, passphrase, pin.as_ref(), named).await,
        None => unlock_with(store, passphrase, pin.as_ref(), pins.standing().header).await,
    }
}

/// Opens the newest header, or the one that the pin (without one: the hint) names: two are tried at most. Which one
/// counts, the log says.
pub async fn unlock(store: &Store, passphrase: &Passphrase, pin: Option<&Pin>) -> Result<Unlocked, VaultError> {
    unlock_with(store, passphrase, pin, None).await
}

/// As [`unlock`]; `kept` is the hash of the header that the pin names, if this machine knows it (A10).
async fn unlock_with(
    store: &Store,
    passphrase: &Passphrase,
    pin: Option<&Pin>,
    kept: Option<Hash>,
) -> Result<Unlocked, VaultError> {
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
    if let Some(pin) = pin.filter(|pin| newest < pin.header && store.can_list()) {
        return Err(VaultError::Tampered(format!(
            "{}: the vault's header (number {}) is gone, and an older one (number {newest}) stands in its place: keys that \
             were changed or removed since are not accepted again",
            store.url(),
            pin.header
        )));
    }
    let mut tries = vec![newest];
    let mut changed = None;
    match pin {
        // Removed, as it is once another machine has changed the keys.
        Some(pin) if store.can_list() && !numbers.contains(&pin.header) => changed = Some(pin.header),
        Some(pin) => tries.push(pin.header),
        // A change of keys that did not come to its end leaves a newer one that does not count.
        None if numbers.len() > 1 => tries.push(hinted_header(store).await?),
        None => {}
    }
    tries.dedup();
    let mut first_error = None;
    for number in tries {
        let kept = kept.filter(|_| pin.is_some_and(|pin| pin.header == number));
        match open(store, number, passphrase.clone(), kept).await {
            Ok(unlocked) => {
                check_id(store.url(), pin, unlocked.keys.vault)?;
                return Ok(unlocked);
            }
            Err(error @ VaultError::Tampered(_)) if kept.is_some() => {
                // Perhaps all of the vault is another one.
                if let Ok(unlocked) = open(store, number, passphrase.clone(), None).await {
                    check_id(store.url(), pin, unlocked.keys.vault)?;
                }
                return Err(error);
            }
            Err(VaultError::WrongPassphrase { url }) if changed.is_some() => {
                let known = changed.unwrap_or_default();
                return Err(VaultError::ChangedPassphrase { url, known, newest });
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| vanished(store)))
}

/// Opens the header that the log names, and no other: exit 12 if the passphrase does not open it, 13 if it is not that one.
async fn unlock_named(
    store: &Store,
    passphrase: &Passphrase,
    pin: Option<&Pin>,
    named: (u64, Hash),
) -> Result<Unlocked, VaultError> {
    log::info!("{}: header {} is the one that counts", store.url(), named.0);
    let unlocked = open(store, named.0, passphrase.clone(), Some(named.1)).await?;
    check_id(store.url(), pin, unlocked.keys.vault)?;
    Ok(unlocked)
}

/// The header to try where nothing can be listed.
pub async fn hinted_header(store: &Store) -> Result<u64, StoreError> {
    let hint = store.get(HINT_NAME).await?;
    Ok(hint.and_then(|hint| Hint::header_number(&hint)).unwrap_or(FIRST_HEADER))
}

async fn open(store: &Store, number: u64, passphrase: Passphrase, known: Option<Hash>) -> Result<Unlocked, VaultError> {
    let Some(object) = store.get(&header_name(number)).await? else {
        return Err(match store.can_list() {
            true => vanished(store),
            false => VaultError::NotFound { url: store.url().to_owned() },
        });
    };
    if known.is_some_and(|hash| hash != kdf::hash(&object)) {
        return Err(VaultError::Tampered(format!(
            "{}: another header stands in the place of the vault's (number {number}): an older one was put back, or it was \
             changed by somebody without the key",
            store.url()
        )));
    }
    open_object(store.url(), number, object, passphrase).await
}

/// Puts the successor of the header that counts, under the next number that is free; it counts once a log object names it.
pub async fn put_successor(
    store: &Store,
    random: &Random,
    counts: u64,
    draft: &Draft,
) -> Result<(u64, Bytes), VaultError> {
    let taken = store.list("header/", HEADERS).await?;
    let mut next = taken.iter().filter_map(|name| number(name)).fold(counts, u64::max);
    for _ in 0..SUCCESSOR_TRIES {
        next = next.checked_add(1).ok_or_else(|| VaultError::KeyChange("no number is left for a header".to_owned()))?;
        let object = Bytes::from(draft.seal(random, next));
        match store.create(&header_name(next), object.clone()).await {
            Ok(Created::New) => return Ok((next, object)),
            // Another's; or this one, of which an answer was lost, and then it stays there and counts for nothing.
            Ok(Created::Exists) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VaultError::KeyChange("others change the keys right now: try again".to_owned()))
}

async fn open_object(url: &str, number: u64, object: Bytes, passphrase: Passphrase) -> Result<Unlocked, VaultError> {
    let header = Header::parse(number, &object)?;
    let hash = header.hash;
    // Argon2id takes half a second of a processor: not on a thread that serves others.
    let opened = tokio::task::spawn_blocking(move || header.unlock(&passphrase)).await;
    match opened {
        Ok(Ok(master)) => Ok(Unlocked { keys: Keys::from_master(&master), header: (number, hash), object }),
        Ok(Err(error)) => Err(refused(url, error)),
        Err(_) => Err(VaultError::State { path: url.to_owned(), why: "unlocking failed (out of memory?)".to_owned() }),
    }
}

/// Why the header of the vault there does not open.
pub fn refused(url: &str, error: UnlockError) -> VaultError {
    match error {
        UnlockError::WrongPassphrase => VaultError::WrongPassphrase { url: url.to_owned() },
        UnlockError::Tampered => {
            VaultError::Tampered(format!("the header of {url} was changed by somebody without the key"))
        }
        UnlockError::Format(error) => error.into(),
        UnlockError::Kdf(_) => VaultError::State { path: url.to_owned(), why: error.to_string() },
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
