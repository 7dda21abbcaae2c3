//! POSIX over history and cache: names, files, attributes, extended attributes. No FUSE, no network.
//!
//! Every operation is an `async fn` that is ready at its first poll when all it needs is in memory; whoever calls
//! polls once and moves what is not ready to the runtime. Locks: a file's entry, then the history mutex; never over
//! an await.
//!
//! Invariant: an operation does all its waiting before it changes anything, so it can be dropped while it waits, and
//! nothing has happened. (setattr changes size, mode and owner, times, one after the other, each in this way.)

pub mod attributes;
pub mod error;
pub mod file;
pub mod namespace;
mod readdir;
mod records;
mod rename;
#[cfg(test)]
pub(crate) mod tests;
pub mod versions;
pub mod xattr;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub use error::FsError;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::base::{Ino, Position, Timestamp};
use crate::cache::{Cache, CacheError};
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::Record;
use crate::history::History;
use crate::journal::Journal;
use crate::store::Store;
use crate::upload::notifier::Notifier;

/// How long fsync at level remote waits for a vault that comes no nearer because the store does not answer.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// How often it looks.
const OUTAGE_LOOK: Duration = Duration::from_secs(1);

/// The filesystem of one mounted vault.
pub struct Fs {
    pub(crate) history: Arc<History>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) safety: Safety,
    /// Hash of the name security.capability.
    capability: u64,
    /// Files of which bytes could not be had: what status names.
    pub(crate) damaged: Mutex<BTreeSet<Ino>>,
    /// How many opens of a file write (L3).
    writers: Mutex<HashMap<Ino, usize>>,
}

/// What fsync waits for.
pub(crate) enum Safety {
    /// A read-only mount has nothing to wait for.
    Nothing,
    /// The journal on this disk.
    Local(Arc<Journal>),
    /// The vault, after the journal.
    Remote(Arc<Journal>, Arc<Notifier>, Store),
    /// Nothing; the journal is hurried along.
    Async(Arc<Journal>),
}

impl Safety {
    /// `None` on a read-only mount.
    fn journal(&self) -> Option<&Journal> {
        match self {
            Safety::Nothing => None,
            Safety::Local(journal) | Safety::Remote(journal, ..) | Safety::Async(journal) => Some(journal),
        }
    }

    /// Waits until what stands at `position` is safe. The error says what is wrong.
    async fn wait(&self, position: Position) -> Result<(), String> {
        match self {
            Safety::Nothing => Ok(()),
            Safety::Local(journal) => journal.wait_durable(position).await.map_err(|e| e.to_string()),
            Safety::Remote(journal, vault, store) => {
                journal.wait_durable(position).await.map_err(|e| e.to_string())?;
                wait_for_vault(vault, position, || store.outage()).await
            }
            Safety::Async(journal) => {
                journal.hurry();
                Ok(())
            }
        }
    }
}

/// Waits as long as the vault comes nearer. In an outage nothing does, and nobody can interrupt who waits: after
/// [`OUTAGE_MAX`] without a commit an error takes the place of what may never come.
async fn wait_for_vault(
    vault: &Notifier,
    position: Position,
    outage: impl Fn() -> Option<(Duration, String)>,
) -> Result<(), String> {
    let done = vault.wait(position);
    tokio::pin!(done);
    let (mut reached, mut since) = (vault.position(), Instant::now());
    loop {
        tokio::select! {
            biased;
            result = &mut done => return result,
            () = tokio::time::sleep(OUTAGE_LOOK) => {}
        }
        let now = vault.position();
        if now != reached {
            (reached, since) = (now, Instant::now());
        }
        if let Some((lasted, why)) = outage()
            && lasted.min(since.elapsed()) >= OUTAGE_MAX
        {
            let why = format!(
                "not in the vault after {} s of outage ({why}); it is safe in the journal on this machine, and will be \
                 sent once the store answers",
                OUTAGE_MAX.as_secs()
            );
            log::warn!("fsync: {why}");
            return Err(why);
        }
    }
}

impl Fs {
    pub(crate) fn new(history: Arc<History>, keys: Arc<Keys>, cache: Arc<Cache>, safety: Safety) -> Fs {
        let capability = keys.xattr_hash(xattr::CAPABILITY);
        let (damaged, writers) = Default::default();
        Fs { history, keys, cache, safety, capability, damaged, writers }
    }

    /// Every operation that would change anything is `FsError::ReadOnly`.
    pub fn is_read_only(&self) -> bool {
        self.history.is_read_only()
    }

    /// A file's bytes could not be had or kept: remembers which, for status.
    fn blame(&self, ino: Ino, error: CacheError) -> FsError {
        if matches!(error, CacheError::Io(_)) {
            self.damaged.lock().insert(ino);
            // Not its path: a log may be a file, and names are sealed on this disk. Status tells the path.
            log::debug!("{ino}: {error}");
        }
        error.into()
    }

    /// Paths (from the root of the drive) of files of which bytes could not be had since the mount began.
    pub fn damaged_files(&self) -> Vec<String> {
        let damaged: Vec<Ino> = self.damaged.lock().iter().copied().collect();
        damaged.into_iter().map(|ino| self.path_of(ino).unwrap_or_else(|| format!("{ino} (unlinked)"))).collect()
    }

    /// One path of an inode; `None` if it has no name (any more).
    pub fn path_of(&self, ino: Ino) -> Option<String> {
        let view = self.history.view();
        let mut names: Vec<String> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            // A directory tree is no deeper than it has inodes; a loop would be damage.
            if names.len() > 4096 {
                return None;
            }
            let (from, to) = (Key::link(at, Ino(0), 0, 0), Key::link(at, Ino(u64::MAX), u64::MAX, u16::MAX));
            let mut link = None;
            view.scan(from, to, |key, _| {
                link = Some(key.part);
                false
            })
            .ok()?;
            let Part::Link { parent, hash, suffix } = link? else { return None };
            let record = view.get(&Key::dentry(parent, hash, suffix)).ok()??;
            let Record::Dentry(dentry) = &*record else { return None };
            names.push(String::from_utf8_lossy(&dentry.name).into_owned());
            at = parent;
        }
        names.reverse();
        Some(format!("/{}", names.join("/")))
    }
}

/// Who asks. Permission bits are checked by the kernel (default_permissions); this is for ownership and for the rules
/// that the kernel leaves to the filesystem.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// What a change of contents did to a file's set-user-ID and set-group-ID bits. Whoever remembers the mode (the
/// kernel) must be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privileges {
    Kept,
    Cleared,
}

/// What stat(2) tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub ino: Ino,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that are not holes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

/// What setattr changes; `None` leaves a thing as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits (the low 12 bits of `st_mode`).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// One entry of a directory listing.
#[derive(Clone, Debug)]
pub struct Entry {
    pub ino: Ino,
    /// `S_IFMT` bits.
    pub kind: u32,
    pub name: Box<[u8]>,
    /// Where the next listing goes on after this entry: "." is 1, ".." is 2, then the name's hash.
    pub cookie: u64,
    /// With attributes, if the listing was asked for them and they could be had (not for "." and "..").
    pub attributes: Option<Attributes>,
}

impl Entry {
    pub fn is_dots(&self) -> bool {
        matches!(&*self.name, b"." | b"..")
    }
}

/// What rename(2) was asked for beside the names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// SEEK_DATA and SEEK_HOLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    Data,
    Hole,
}

/// What statfs tells: bytes and inodes. Never touches the network.
#[derive(Clone, Copy, Debug)]
pub struct SpaceUse {
    pub used_bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
}
