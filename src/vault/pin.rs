//! The pin: what this machine remembers of a vault's newest state, and the epoch numbers that it has used.
//!
//! Lies in the state directory as one small file, replaced whole; durable before what it covers is shown or
//! acknowledged. Holds nothing secret: a vault id, numbers, a hash.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::VaultError;
use crate::base::disk::{self, Disk};
use crate::base::{Epoch, Sequence, VaultId};
use crate::format::commit::ChainLink;

/// Its name in the state directory.
pub const PIN_FILE: &str = "pin";

/// The newest state that this machine has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    pub vault: VaultId,
    pub link: ChainLink,
    /// The number of the header that opened it.
    pub header: u64,
    /// The highest epoch number used by this machine or seen in the vault (E1).
    pub epoch: Epoch,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.vault, self.link.sequence)?;
        self.link.hash.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The file's form. Versioned, so that an older program refuses what it does not know.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    vault: String,
    sequence: u64,
    hash: String,
    header: u64,
    epoch: u32,
}

/// The pin file of one state directory.
pub struct PinFile {
    disk: Arc<dyn Disk>,
    pin: Mutex<Option<Pin>>,
}

impl PinFile {
    pub fn open(disk: Arc<dyn Disk>) -> Result<PinFile, VaultError> {
        let bytes = disk::read(&*disk, PIN_FILE, 4096).map_err(unreadable)?;
        let pin = bytes.map(|bytes| parse(&bytes)).transpose()?;
        Ok(PinFile { disk, pin: Mutex::new(pin) })
    }

    pub fn get(&self) -> Option<Pin> {
        *self.pin.lock()
    }

    /// Remembers a newer state; durable when this returns.
    pub fn set(&self, pin: Pin) -> Result<(), VaultError> {
        let stored = Stored {
            version: 1,
            vault: pin.vault.to_string(),
            sequence: pin.link.sequence.0,
            hash: VaultId(pin.link.hash).to_string(),
            header: pin.header,
            epoch: pin.epoch.0,
        };
        let bytes = serde_json::to_vec(&stored).expect("a pin is plain data");
        let mut kept = self.pin.lock();
        disk::replace(&*self.disk, PIN_FILE, &bytes).map_err(unreadable)?;
        *kept = Some(pin);
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<Pin, VaultError> {
    let damaged = || VaultError::State {
        path: PIN_FILE.to_owned(),
        why: "the pin is damaged; if the disk lost it, remove the file by hand: the vault's newest state is then \
              believed as a new machine believes it"
            .to_owned(),
    };
    let stored: Stored = serde_json::from_slice(bytes).map_err(|_| damaged())?;
    if stored.version != 1 {
        return Err(VaultError::State {
            path: PIN_FILE.to_owned(),
            why: "the pin was made by a newer dripfs: use that one".to_owned(),
        });
    }
    let vault: VaultId = stored.vault.parse().map_err(|()| damaged())?;
    let hash: VaultId = stored.hash.parse().map_err(|()| damaged())?;
    let link = ChainLink { sequence: Sequence(stored.sequence), hash: hash.0 };
    Ok(Pin { vault, link, header: stored.header, epoch: Epoch(stored.epoch) })
}

fn unreadable(error: std::io::Error) -> VaultError {
    VaultError::State { path: PIN_FILE.to_owned(), why: error.to_string() }
}
