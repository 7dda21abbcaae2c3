//! The pin: what this machine remembers of a vault's newest state, and the epoch numbers that it has used.
//!
//! Lies in the state directory as one small file, replaced whole; durable before what it covers is shown or
//! acknowledged. Holds nothing secret: a vault id, numbers, hashes. Beside it lies the vault's header, sealed as it is in
//! the store, so that a drive can be unlocked while the store does not answer (E4).

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::VaultError;
use crate::base::disk::{self, Disk};
use crate::base::{Epoch, Sequence, VaultId};
use crate::crypto::kdf;
use crate::format::commit::{ChainLink, Hash};

/// Its name in the state directory.
pub const PIN_FILE: &str = "pin";
/// The vault's header, as it is in the store.
const HEADER_FILE: &str = "header";
/// No header is larger.
const HEADER_MAX: u64 = 1 << 20;

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

/// What a mount without the store must know beside the pin (E4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The hash of the header that the pin names, which lies beside it.
    pub header: Option<Hash>,
    /// The epoch number of offline mounts, as long as the vault has no record of it (E1).
    pub reserved: Option<Epoch>,
    /// A reader has seen something newer than what the writer's index was made for.
    pub read_ahead: bool,
    /// When the newest commit was made that was known at the last mount with the store: seconds since 1970, for display.
    pub committed: i64,
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
    #[serde(default)]
    header_hash: Option<String>,
    #[serde(default)]
    reserved: Option<u32>,
    #[serde(default)]
    read_ahead: bool,
    #[serde(default)]
    committed: i64,
}

/// The pin file of one state directory.
pub struct PinFile {
    disk: Arc<dyn Disk>,
    /// What the file holds. Never locked over I/O: status reads it.
    pin: Mutex<Option<Pin>>,
    standing: Mutex<Standing>,
    /// Held by whoever writes the file.
    writing: Mutex<()>,
}

impl PinFile {
    pub fn open(disk: Arc<dyn Disk>) -> Result<PinFile, VaultError> {
        let bytes = disk::read(&*disk, PIN_FILE, 4096).map_err(unreadable)?;
        let read = bytes.map(|bytes| parse(&bytes)).transpose()?;
        let (pin, standing) = read.map_or((None, Standing::default()), |(pin, standing)| (Some(pin), standing));
        Ok(PinFile { disk, pin: Mutex::new(pin), standing: Mutex::new(standing), writing: Mutex::new(()) })
    }

    pub fn get(&self) -> Option<Pin> {
        *self.pin.lock()
    }

    pub fn standing(&self) -> Standing {
        *self.standing.lock()
    }

    /// Remembers a newer state, which a writer stands on; durable when this returns.
    pub fn set(&self, pin: Pin) -> Result<(), VaultError> {
        self.write(|_, standing| Some((pin, Standing { reserved: None, read_ahead: false, ..standing })))
    }

    /// Remembers a newer state that a reader has seen: the writer's index does not hold it.
    pub fn see(&self, pin: Pin) -> Result<(), VaultError> {
        self.write(|known, standing| {
            let ahead = standing.read_ahead || known.is_none_or(|known| known.link != pin.link);
            Some((pin, Standing { read_ahead: ahead, ..standing }))
        })
    }

    /// Remembers that this epoch number is used, and has no record in the vault yet.
    pub fn reserve(&self, pin: Pin, epoch: Epoch) -> Result<(), VaultError> {
        self.write(|_, standing| Some((Pin { epoch, ..pin }, Standing { reserved: Some(epoch), ..standing })))
    }

    /// Keeps the header that opened the vault, and when its newest commit was made. The pin names it already.
    pub fn keep_header(&self, object: &[u8], committed: i64) -> Result<(), VaultError> {
        let hash = kdf::hash(object);
        if self.standing().header != Some(hash) || self.header().is_err() {
            disk::replace(&*self.disk, HEADER_FILE, object)
                .map_err(|e| VaultError::State { path: HEADER_FILE.to_owned(), why: e.to_string() })?;
        }
        // Rounds may have moved the pin meanwhile.
        self.write(|pin, standing| Some((pin?, Standing { header: Some(hash), committed, ..standing })))
    }

    /// The kept header; the error says why there is none that may be used.
    pub fn header(&self) -> Result<Vec<u8>, String> {
        let Some(hash) = self.standing().header else { return Err("no header of it is kept here".to_owned()) };
        match disk::read(&*self.disk, HEADER_FILE, HEADER_MAX) {
            Ok(Some(object)) if kdf::hash(&object) == hash => Ok(object),
            Ok(Some(_)) => Err("the header that is kept here is not the one that the pin names".to_owned()),
            Ok(None) => Err("the header that was kept here is missing".to_owned()),
            Err(error) => Err(format!("the header that is kept here cannot be read: {error}")),
        }
    }

    /// `change` sees what the file holds, and nobody else writes meanwhile; with `None` it stays so.
    fn write(&self, change: impl FnOnce(Option<Pin>, Standing) -> Option<(Pin, Standing)>) -> Result<(), VaultError> {
        let _writing = self.writing.lock();
        let known = self.get();
        let Some((pin, mut standing)) = change(known, self.standing()) else { return Ok(()) };
        if known.is_some_and(|known| known.header != pin.header) {
            // What lies there is the header before.
            standing.header = None;
        }
        let stored = Stored {
            version: 1,
            vault: pin.vault.to_string(),
            sequence: pin.link.sequence.0,
            hash: VaultId(pin.link.hash).to_string(),
            header: pin.header,
            epoch: pin.epoch.0,
            header_hash: standing.header.map(|hash| VaultId(hash).to_string()),
            reserved: standing.reserved.map(|epoch| epoch.0),
            read_ahead: standing.read_ahead,
            committed: standing.committed,
        };
        let bytes = serde_json::to_vec(&stored).expect("a pin is plain data");
        disk::replace(&*self.disk, PIN_FILE, &bytes).map_err(unreadable)?;
        *self.pin.lock() = Some(pin);
        *self.standing.lock() = standing;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<(Pin, Standing), VaultError> {
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
    let header: Option<VaultId> = stored.header_hash.map(|hash| hash.parse().map_err(|()| damaged())).transpose()?;
    let standing = Standing {
        header: header.map(|hash| hash.0),
        reserved: stored.reserved.map(Epoch),
        read_ahead: stored.read_ahead,
        committed: stored.committed,
    };
    Ok((Pin { vault, link, header: stored.header, epoch: Epoch(stored.epoch) }, standing))
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
    #[test]
    fn e4_the_header_is_kept_beside_the_pin_and_only_believed_if_the_pin_vouches_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || PinFile::open(Arc::new(RealDisk::new(dir.path().to_owned()))).unwrap();
        let pins = open();
        pins.keep_header(b"sealed", 5).unwrap();
        assert!(open().header().is_err() && open().get().is_none(), "nothing is kept of a vault that nobody pinned");
        pins.set(pin(7)).unwrap();
        pins.keep_header(b"sealed", 5).unwrap();
        pins.set(pin(8)).unwrap();
        assert_eq!(open().get(), Some(pin(8)));
        assert_eq!(open().header().unwrap(), b"sealed");
        assert_eq!(open().standing().committed, 5);
        std::fs::write(dir.path().join(HEADER_FILE), b"another").unwrap();
        assert!(open().header().unwrap_err().contains("not the one"));
        open().keep_header(b"sealed", 6).unwrap();
        assert_eq!(open().header().unwrap(), b"sealed", "and it is written again");
        assert_eq!(open().get(), Some(pin(8)));
    }

    #[test]
    fn a_header_that_was_kept_is_none_of_a_pin_that_names_another() {
        let dir = tempfile::tempdir().unwrap();
        let open = || PinFile::open(Arc::new(RealDisk::new(dir.path().to_owned()))).unwrap();
        open().set(pin(7)).unwrap();
        open().keep_header(b"first", 5).unwrap();
        open().see(Pin { header: 2, ..pin(8) }).unwrap();
        assert!(open().standing().header.is_none() && open().header().is_err());
        open().keep_header(b"second", 5).unwrap();
        assert_eq!(open().header().unwrap(), b"second");
    }

    #[test]
    fn e4_what_only_a_reader_has_seen_is_told_from_what_the_writer_stands_on() {
        let dir = tempfile::tempdir().unwrap();
        let open = || PinFile::open(Arc::new(RealDisk::new(dir.path().to_owned()))).unwrap();
        open().set(pin(7)).unwrap();
        open().see(pin(7)).unwrap();
        assert!(!open().standing().read_ahead);
        open().see(pin(8)).unwrap();
        open().see(pin(8)).unwrap();
        assert!(open().standing().read_ahead);
        open().set(pin(9)).unwrap();
        assert!(!open().standing().read_ahead);
    }
}
