//! Epochs: the reign of one writing mount (E1). Its record is its first object in the log and fences all writers before.

use bytes::Bytes;

use super::VaultError;
use super::pin::{PIN_FILE, Pin, PinFile};
use super::walk::{Newest, NewestCommit};
use crate::base::{Clock, Epoch, ObjectId, Random, Sequence, plants};
use crate::crypto::kdf;
use crate::format::commit::{BlockRef, Body, ChainLink, Hash, LogObject, log_name};
use crate::format::keys::Keys;
use crate::store::retry::Backoff;
use crate::store::{Created, Store};

/// What every log object of one mount repeats.
#[derive(Clone, Debug)]
pub struct Reign {
    pub epoch: Epoch,
    pub header: (u64, Hash),
    pub checkpoint: (ObjectId, Hash),
    pub host: String,
}

/// The number that the next writing mount takes: above all that pin and vault (both in `pin`) and the journal know.
/// Durable before it is used.
pub fn next(pins: &PinFile, pin: Pin, journal: Epoch) -> Result<Epoch, VaultError> {
    let epoch = above(pin, journal)?;
    pins.set(Pin { epoch, ..pin })?;
    Ok(epoch)
}

/// The number of a mount without the store: as [`next`], but the one that is reserved already as long as its record does
/// not exist (E1). That of an older pin may: the highest epoch that the log is known to have is `known`.
pub fn reserve(pins: &PinFile, pin: Pin, known: Epoch, journal: Epoch) -> Result<Epoch, VaultError> {
    match pins.standing().reserved {
        Some(epoch) if epoch >= pin.epoch.max(journal) && epoch > known => Ok(epoch),
        _ => {
            let epoch = above(pin, journal.max(known))?;
            pins.reserve(pin, epoch)?;
            Ok(epoch)
        }
    }
}

/// The number that the record of such a mount bears, after a log object of the epoch `newest`: the reserved one, unless the
/// record of an earlier mount with that number arrived without its hearing of it. That epoch is over then, and a second
/// record with its number would be no part of any log. Durable before it is used.
pub fn of_record(pins: &PinFile, pin: Pin, newest: Epoch) -> Result<Epoch, VaultError> {
    match pins.standing().reserved {
        Some(epoch) if epoch > newest || plants::on("E4-offline-number-again") => Ok(epoch),
        _ => {
            let epoch = above(pin, newest)?;
            pins.reserve(pin, epoch)?;
            Ok(epoch)
        }
    }
}

fn above(pin: Pin, journal: Epoch) -> Result<Epoch, VaultError> {
    let highest = pin.epoch.max(journal);
    if highest >= Epoch::MAX {
        return Err(VaultError::State {
            path: PIN_FILE.to_owned(),
            why: format!(
                "the vault or this pin names epoch {}, and there are {} at most: no numbers are left for new files. The \
                 vault can be mounted with --read-only and copied into a new one",
                highest,
                Epoch::MAX
            ),
        });
    }
    Ok(Epoch(highest.0 + 1))
}

/// Creates the epoch record after `newest`. Nothing is uploaded or deleted before it stands.
pub async fn open(
    store: &Store,
    keys: &Keys,
    random: &Random,
    clock: &Clock,
    reign: &Reign,
    newest: &Newest,
    block: BlockRef,
) -> Result<ChainLink, VaultError> {
    let sequence = Sequence(newest.link.sequence.0 + 1);
    let record = LogObject {
        sequence,
        previous: newest.link.hash,
        epoch: reign.epoch,
        header: reign.header,
        checkpoint: reign.checkpoint,
        block: Some(block),
        host: reign.host.clone(),
        time: clock.now(),
        body: Body::Epoch { writer: random.bytes() },
    };
    let object = Bytes::from(record.seal(keys, random).expect("an epoch record is small"));
    let name = log_name(sequence);
    // Mounting waits a bounded time for a store that does not answer: three tries.
    let mut tries = 0;
    loop {
        tries += 1;
        match store.create(&name, object.clone()).await {
            Ok(Created::New) => break,
            Ok(Created::Exists) => match store.get(&name).await? {
                Some(standing) if standing == object || plants::on("C4-own-by-name") => break,
                _ => {
                    return Err(VaultError::in_use_now(store.url(), "mounts it"));
                }
            },
            Err(_) if plants::on("E1-record-not-awaited") => break,
            Err(error) if tries >= 3 => return Err(error.into()),
            Err(error) => {
                log::warn!("{name}: try {tries} failed: {error}");
                tokio::time::sleep(Backoff::default().first * tries).await;
            }
        }
    }
    Ok(ChainLink { sequence, hash: kdf::hash(&object) })
}

/// The record stands; but is it in the log? Its number may have been that of a commit which is covered and removed by now
/// (C6). Nothing is uploaded, deleted or freed before this went well.
pub async fn check(store: &Store, commit: &NewestCommit) -> Result<(), VaultError> {
    match commit.stands(store).await? {
        true => Ok(()),
        false => Err(VaultError::in_use_now(store.url(), "writes to it")),
    }
}

/// This machine's name, for display.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::VaultId;
    use crate::base::disk::RealDisk;

    #[test]
    fn the_last_epoch_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let pins = PinFile::open(Arc::new(RealDisk::new(dir.path().to_owned()))).unwrap();
        let link = ChainLink { sequence: Sequence(1), hash: [0; 32] };
        let pin = |epoch| Pin { vault: VaultId([1; 32]), link, header: 1, epoch: Epoch(epoch) };
        assert_eq!(next(&pins, pin(Epoch::MAX.0 - 1), Epoch(0)).unwrap(), Epoch::MAX);
        for epoch in [Epoch::MAX.0, u32::MAX] {
            let error = next(&pins, pin(epoch), Epoch(0)).unwrap_err();
            assert!(matches!(&error, VaultError::State { why, .. } if why.contains("8388607 at most")), "{error}");
        }
        assert_eq!(pins.get().unwrap().epoch, Epoch::MAX, "a number that is refused is not remembered as used");
    }
    #[test]
    fn e1_offline_mounts_keep_one_number_until_its_record_exists() {
        let dir = tempfile::tempdir().unwrap();
        let open = || PinFile::open(Arc::new(RealDisk::new(dir.path().to_owned()))).unwrap();
        let link = ChainLink { sequence: Sequence(4), hash: [4; 32] };
        let known = Pin { vault: VaultId([1; 32]), link, header: 1, epoch: Epoch(5) };
        open().set(known).unwrap();
        assert_eq!(reserve(&open(), known, Epoch(5), Epoch(0)).unwrap(), Epoch(6));
        let known = open().get().unwrap();
        assert_eq!((known.epoch, known.link), (Epoch(6), link), "durable, and the link is as it was");
        assert_eq!(reserve(&open(), known, Epoch(5), Epoch(6)).unwrap(), Epoch(6), "the next mount goes on with it");
        assert_eq!(reserve(&open(), known, Epoch(5), Epoch(9)).unwrap(), Epoch(10), "the journal has used higher ones");
        // Its record stands, as the index knows, though the pin (an older copy) does not.
        let older = open().get().unwrap();
        assert_eq!(reserve(&open(), older, Epoch(10), Epoch(10)).unwrap(), Epoch(11));
        // Its record stands.
        let pins = open();
        pins.set(Pin { epoch: Epoch(10), ..known }).unwrap();
        assert_eq!(reserve(&open(), pins.get().unwrap(), Epoch(5), Epoch(10)).unwrap(), Epoch(11));
        assert_eq!(next(&open(), open().get().unwrap(), Epoch(12)).unwrap(), Epoch(13));
    }
}
