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
    /// What the file holds. Never locked over I/O: status reads it.
    pin: Mutex<Option<Pin>>,
    /// Held by whoever writes the file.
    writing: Mutex<()>,
}

impl PinFile {
    pub fn open(disk: Arc<dyn Disk>) -> Result<PinFile, VaultError> {
        let bytes = disk::read(&*disk, PIN_FILE, 4096).map_err(unreadable)?;
        let pin = bytes.map(|bytes| parse(&bytes)).transpose()?;
        Ok(PinFile { disk, pin: Mutex::new(pin), writing: Mutex::new(()) })
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
        let _writing = self.writing.lock();
        disk::replace(&*self.disk, PIN_FILE, &bytes).map_err(unreadable)?;
        *self.pin.lock() = Some(pin);
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;
    use crate::base::disk::{File, RealDisk};

    /// A disk that says when it is asked to sync a directory, and waits.
    struct Slow {
        inner: RealDisk,
        asked: mpsc::SyncSender<()>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Disk for Slow {
        fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
            self.inner.create(path)
        }
        fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
            self.inner.open(path)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.inner.rename(from, to)
        }
        fn remove(&self, path: &str) -> io::Result<()> {
            self.inner.remove(path)
        }
        fn create_dir(&self, path: &str) -> io::Result<()> {
            self.inner.create_dir(path)
        }
        fn list(&self, dir: &str) -> io::Result<Vec<String>> {
            self.inner.list(dir)
        }
        fn sync_dir(&self, dir: &str) -> io::Result<()> {
            self.asked.send(()).map_err(io::Error::other)?;
            self.go_on.lock().recv().map_err(io::Error::other)?;
            self.inner.sync_dir(dir)
        }
        fn free(&self, dir: &str) -> io::Result<u64> {
            self.inner.free(dir)
        }
    }

    fn pin(sequence: u64) -> Pin {
        let link = ChainLink { sequence: Sequence(sequence), hash: [3; 32] };
        Pin { vault: VaultId([1; 32]), link, header: 1, epoch: Epoch(2) }
    }

    #[test]
    fn a_slow_disk_holds_up_nobody_who_only_looks() {
        let dir = tempfile::tempdir().unwrap();
        let (asked, is_asked) = mpsc::sync_channel(0);
        let (let_go, go_on) = mpsc::sync_channel(1);
        let disk = Slow { inner: RealDisk::new(dir.path().to_owned()), asked, go_on: Mutex::new(go_on) };
        let pins = PinFile::open(Arc::new(disk)).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| pins.set(pin(7)));
            is_asked.recv().unwrap();
            let seen = pins.pin.try_lock().map(|pin| *pin);
            let_go.send(()).unwrap();
            assert_eq!(seen, Some(None), "it is not durable yet, and the lock is free");
            writer.join().unwrap().unwrap();
        });
        assert_eq!(pins.get(), Some(pin(7)));
        let again = PinFile::open(Arc::new(RealDisk::new(dir.path().to_owned()))).unwrap();
        assert_eq!(again.get(), Some(pin(7)));
    }
}
