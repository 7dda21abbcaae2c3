//! Names, attributes, listings and xattrs over a history in memory, without kernel and network.
//!
//! Every call must be ready at its first poll: what little is written here is sealed where it is asked for.

mod attributes;
mod barriers;
mod files;
mod listings;
mod model;
mod names;
mod renames;
mod room;
mod xattrs;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::*;
use crate::base::disk::simulated::{SeededBytes, SimulatedDisk};
use crate::base::{Clock, Epoch, Random};
use crate::cache::Bounds;
use crate::crypto::secret::Key as SecretKey;
use crate::format::key::Key;
use crate::format::record::{Inode, Record};
use crate::journal::Settings;
use crate::pipeline::Cpu;
use crate::{download, pipeline, store, upload};

pub(super) const USER: Caller = Caller { uid: 1000, gid: 100, pid: 1 };
pub(super) const SUPERUSER: Caller = Caller { uid: 0, gid: 0, pid: 1 };

/// Runs what must not wait.
pub(crate) fn now<T>(operation: impl Future<Output = T>) -> T {
    operation.now_or_never().expect("an operation on names waited although all it needs is in memory")
}

/// An empty filesystem.
pub(crate) fn empty() -> Fs {
    with_clock(Clock::System)
}

/// Over a journal that nobody writes down: appending needs memory only.
pub(super) fn with_clock(clock: Clock) -> Fs {
    over(SimulatedDisk::new(7), SETTINGS, clock).0
}

/// With the journal's writer yet to be started.
pub(crate) fn over(disk: Arc<SimulatedDisk>, settings: Settings, clock: Clock) -> (Fs, Arc<Journal>) {
    let keys = Arc::new(Keys::from_master(&SecretKey::from_bytes([7; 32])));
    let random = Random::Simulated(Arc::new(SeededBytes::new(7)));
    let recovered = Journal::recover(disk, "journal", keys.clone(), Position(0)).expect("recover");
    let journal = Journal::resume(recovered, random.clone(), settings, Position(0)).expect("resume");
    let root = Record::Inode(Inode::root((0, 0), clock.now()));
    let (index, mark) = crate::index::tests::holding(&keys, &[(Key::inode(Ino::ROOT), root)]);
    let history = Arc::new(History::new(index, &mark, Some(journal.clone()), clock.clone(), Epoch(1)));
    let store = store::open("memory:///").expect("a store in memory");
    let (demand, memory) = (pipeline::Settings::default(), pipeline::Memory::new(64 << 20));
    let remote = download::remote_storage::RemoteStorage::new(
        store,
        keys.clone(),
        Some(journal.clone()),
        demand.get,
        memory.clone(),
    );
    let opening = download::encryption::Encryption::new(keys.clone(), Cpu::inline(), demand.open);
    let downloads = download::starter::Starter::new(remote, opening, memory.clone());
    let sealing = upload::encryption::Encryption::new(keys.clone(), random, false, Cpu::inline(), demand.seal);
    let stage = upload::journal::JournalStage::new(journal.clone(), demand.append);
    let uploads = upload::starter::Starter::new(sealing, stage, memory);
    let cache = Cache::new(history.clone(), Some(uploads), downloads, BOUNDS, clock);
    (Fs::new(history, keys, cache, Safety::Async(journal.clone())), journal)
}

pub(crate) const BOUNDS: Bounds =
    Bounds { clean_bytes: 1 << 20, dirty_bytes: 1 << 20, ttl: crate::cache::TTL, readahead_bytes: 1 << 20 };

pub(crate) const SETTINGS: Settings = Settings {
    file_bytes: 1 << 30,
    sync_interval: Duration::from_secs(5),
    sync_bytes: 1 << 30,
    memory_bytes: 1 << 30,
    disk_bytes: 1 << 30,
    reserve_bytes: 0,
    stage_least: crate::journal::STAGE_LEAST,
};

/// Shorthands, each of which must succeed.
impl Fs {
    pub(crate) fn mk(&self, parent: Ino, name: &str) -> Ino {
        now(self.create(parent, name.as_bytes(), 0o644, USER)).expect("create").ino
    }

    pub(crate) fn put(&self, ino: Ino, text: &str) {
        self.try_write(ino, 0, text.as_bytes(), false).expect("there is room").expect("write");
    }

    /// Is this file's last byte in the journal?
    pub(crate) fn is_settled(&self, ino: Ino) -> bool {
        !self.cache.dirty_files().contains(&ino)
    }

    pub(super) fn mkd(&self, parent: Ino, name: &str) -> Ino {
        now(self.mkdir(parent, name.as_bytes(), 0o755, USER)).expect("mkdir").ino
    }

    pub(super) fn at(&self, ino: Ino) -> Attributes {
        now(self.getattr(ino)).expect("getattr")
    }

    pub(super) fn find(&self, parent: Ino, name: &str) -> Result<Ino, FsError> {
        now(self.lookup(parent, name.as_bytes())).map(|attributes| attributes.ino)
    }

    pub(super) fn mv(&self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Result<(), FsError> {
        now(self.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode))
    }

    pub(crate) fn rm(&self, parent: Ino, name: &str) -> Result<(), FsError> {
        now(self.unlink(parent, name.as_bytes()))
    }

    pub(super) fn rmd(&self, parent: Ino, name: &str) -> Result<(), FsError> {
        now(self.rmdir(parent, name.as_bytes()))
    }

    pub(super) fn ln(&self, ino: Ino, parent: Ino, name: &str) -> Result<Attributes, FsError> {
        now(self.link(ino, parent, name.as_bytes()))
    }

    /// The whole listing, a few entries at a time.
    pub(super) fn ls(&self, directory: Ino, most: usize) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let cookie = all.last().map_or(0, |entry| entry.cookie);
            let part = now(self.readdir(directory, cookie, false, most)).expect("readdir");
            if part.is_empty() {
                return all;
            }
            assert!(part.len() <= most);
            all.extend(part);
        }
    }
}
