//! The vault's key slots: what they are, and a new header with others.
//!
//! A new header counts once a log object names it. That object is the epoch record of a writing mount, opened for nothing
//! else: create-if-absent decides between two who change keys, or write, at a time, and fences whoever wrote before. A
//! crash before it stands leaves a header that counts for nothing; after it, the header before counts no more.
//!
//! Owns that order. Does not own what a successor is made of ([`change`]), nor how a drive is opened (`super::opening`).
//! Invariant: the header before is deleted only once the log names another, and this machine's pin too.

use std::sync::Arc;

use super::opening::real_world;
use super::{Closed, Drive, DriveOptions};
use crate::base::Random;
use crate::base::disk::RealDisk;
use crate::crypto::secret::Passphrase;
use crate::format::header::change::{Change, ChangeError, Draft, SlotView};
use crate::format::header::{Header, UnlockError, header_name};
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::pin::PinFile;
use crate::vault::unlock::{self, Unlocked};

/// How often the header that counts may be another one than was looked at.
const TRIES: u32 = 3;

/// The slots of the header that opens.
pub async fn slots(store: &Store, passphrase: Passphrase, options: &DriveOptions) -> Result<Vec<SlotView>, VaultError> {
    let pins = PinFile::open(Arc::new(RealDisk::new(options.state.clone())))?;
    let unlocked = unlock::unlock_here(store, &passphrase, &pins, None).await?;
    let header = Header::parse(unlocked.header.0, &unlocked.object)?;
    let url = store.url().to_owned();
    let seen = tokio::task::spawn_blocking(move || header.slots(&passphrase)).await;
    seen.map_err(|_| out_of_memory())?.map_err(|error| explained(&url, error.into()))
}

/// Changes the slots. What this machine's journal holds is sent on the way, as by any mount. `Closed::Pending`: the keys are
/// changed, and something else stays in the journal.
pub async fn change(
    store: &Store,
    passphrase: Passphrase,
    options: &DriveOptions,
    change: Change,
) -> Result<Closed, VaultError> {
    let change = Arc::new(change);
    let mut named = None;
    for _ in 0..TRIES {
        let pins = PinFile::open(Arc::new(RealDisk::new(options.state.clone())))?;
        let unlocked = unlock::unlock_here(store, &passphrase, &pins, named).await?;
        store.probe_again().await?;
        let before = unlocked.header.0;
        let draft = draft(store, &unlocked, passphrase.clone(), change.clone()).await?;
        let world = real_world(store.clone(), options)?;
        let drive = match Drive::open_changing(world, unlocked, pins, options.clone(), Some(&draft)).await {
            Err(VaultError::OtherHeader { named: other, .. }) => {
                named = Some(other);
                continue;
            }
            drive => drive?,
        };
        let closed = drive.close(|_| ()).await?;
        drop_old(store, before).await;
        return Ok(closed);
    }
    Err(VaultError::KeyChange("others change the keys right now: try again".to_owned()))
}

async fn draft(
    store: &Store,
    unlocked: &Unlocked,
    passphrase: Passphrase,
    change: Arc<Change>,
) -> Result<Draft, VaultError> {
    let header = Header::parse(unlocked.header.0, &unlocked.object)?;
    let url = store.url().to_owned();
    let made = tokio::task::spawn_blocking(move || header.change(&Random::Kernel, &passphrase, &change)).await;
    made.map_err(|_| out_of_memory())?.map_err(|error| explained(&url, error))
}

fn explained(url: &str, error: ChangeError) -> VaultError {
    match error {
        error @ ChangeError::Unlock(UnlockError::Kdf(_)) => VaultError::KeyChange(error.to_string()),
        ChangeError::Unlock(error) => unlock::refused(url, error),
        error => VaultError::KeyChange(error.to_string()),
    }
}

fn out_of_memory() -> VaultError {
    VaultError::KeyChange("the passphrase could not be worked on (out of memory?)".to_owned())
}

/// What opens no more need not lie there. A provider may keep it all the same.
async fn drop_old(store: &Store, number: u64) {
    match store.delete(&header_name(number)).await {
        Ok(()) => {}
        Err(error @ StoreError::Refused { .. }) => {
            log::warn!("the header before stays in the store, which refuses to delete it: {error}");
        }
        Err(error) => log::warn!("the header before stays in the store: {error}"),
    }
}
