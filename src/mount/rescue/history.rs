//! One history as it was when it was set aside: its index, with its journal replayed over it, in memory.
//!
//! Owns which files its changes touched that the vault lacks, and reading their bytes. Changes nothing of what it reads.
//!
//! Invariants: records are joined by inode number only up to the epoch that both histories share; bytes come from this
//! history's journal, or from the objects that its own records name, and are authenticated, or they are missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::INDEX;
use crate::base::disk::RealDisk;
use crate::base::{Clock, Epoch, ExtentId, Ino, Position, Random};
use crate::crypto::secret::SecretBytes;
use crate::download::DownloadError;
use crate::download::remote_storage::RemoteStorage;
use crate::format::extent;
use crate::format::key::{Key, Part};
use crate::format::keys::Keys;
use crate::format::record::{Extent, Head, Inode, Piece, Place, Record, Xattr};
use crate::history::transaction::epoch_of;
use crate::history::{History, Replay};
use crate::index::{Ground, Index, IndexError, Mark, SledTables};
use crate::journal::{ExtentPlace, Journal, Recovered};
use crate::mount::indexer;
use crate::pipeline::{Class, Memory, Settings, Urgency};
use crate::store::Store;
use crate::vault::VaultError;
use crate::vault::aside::About;
use crate::vault::pin::Pin;
use crate::vault::walk;

/// A directory tree is no deeper.
const DEPTH_MAX: usize = 4096;

pub struct OldHistory {
    pub based_on_vault: bool,
    history: History,
    keys: Arc<Keys>,
    remote: RemoteStorage,
    recovered: Recovered,
    local: HashMap<ExtentId, ExtentPlace>,
    /// Files and links that a change touched, and directories that were named by one.
    pub touched: BTreeSet<Ino>,
    named_directories: BTreeSet<Ino>,
    /// What the changes of this history removed themselves.
    removed: BTreeSet<Ino>,
    /// Files that the changes made, or whose contents they changed; and the pieces that they put.
    made: BTreeSet<Ino>,
    edited: BTreeSet<Ino>,
    put: BTreeSet<Key>,
    /// Where the base is the vault: files edited here whose contents another machine has changed, too.
    base_changed: BTreeSet<Ino>,
    /// Names that were removed, and nothing tells any more what they were.
    pub names_unknown: u64,
    /// Names that changes touched, as they were before: path, and what it named.
    before: BTreeMap<Key, (PathBuf, Ino)>,
}

/// Why bytes are left out that a base from the vault has.
pub const BASE_CHANGED: &str = "another machine has changed the file since";

/// Why a piece cannot be read.
pub enum Unread {
    /// It is nowhere any more.
    Lost(String),
    /// It may be there: ask again later.
    Failed(VaultError),
}

impl OldHistory {
    /// `root` holds journal and index; `scratch` is for an index where that one is not usable: then the vault must be none
    /// that is older than `pin`, or another.
    pub async fn open(
        store: &Store,
        keys: &Arc<Keys>,
        pin: Option<&Pin>,
        root: &Path,
        about: &About,
        scratch: &Path,
    ) -> Result<OldHistory, VaultError> {
        let disk = Arc::new(RealDisk::new(root.to_owned()));
        let recovered = Journal::recover(disk, super::super::drive::JOURNAL_DIR, keys.clone(), Position(0))?;
        let known = about.known();
        let (index, mark, over, replay_cut, based_on_vault) = match own_index(keys, root, &recovered) {
            Ok((index, mark, over, at)) => (index, mark, over, at, false),
            Err(why) => {
                log::warn!("{}: {why}: what it had not changed itself is taken from the vault", root.display());
                let (index, mark) = vault_index(store, keys, pin, Epoch(about.shared_epoch), scratch).await?;
                (index, mark, Replay::Foreign, known.0, true)
            }
        };
        let history = History::new(index, &mark, None, Clock::System, Epoch(0));
        let settings = Settings::default();
        let memory = Memory::new(settings.inflight_bytes);
        let mut old = OldHistory {
            based_on_vault,
            history,
            keys: keys.clone(),
            remote: RemoteStorage::new(store.clone(), keys.clone(), None, settings.get, memory),
            local: recovered.extent_places(),
            recovered,
            touched: BTreeSet::new(),
            named_directories: BTreeSet::new(),
            removed: BTreeSet::new(),
            made: BTreeSet::new(),
            edited: BTreeSet::new(),
            put: BTreeSet::new(),
            base_changed: BTreeSet::new(),
            names_unknown: 0,
            before: BTreeMap::new(),
        };
        old.note_changes(known)?;
        if based_on_vault {
            old.note_base(known)?;
        }
        old.history.replay(&old.recovered.changes, (replay_cut, known.1.min(replay_cut)), over)?;
        Ok(old)
    }

    /// What the changes touch that the vault lacks; asked before they are replayed.
    fn note_changes(&mut self, (cut, low): (Position, Position)) -> Result<(), VaultError> {
        let changes: Vec<_> = self.recovered.changes.iter().filter(|(_, change)| !change.orphan).cloned().collect();
        let records =
            changes.iter().flat_map(|(at, change)| change.records.iter().map(|(key, record)| (*at, key, record)));
        // The index may be ahead of the vault: the journal tells better what stood under a name.
        let (mut stood, mut seen) = (HashMap::new(), BTreeSet::new());
        for (at, key, record) in records {
            if let Part::Dentry { .. } = key.part {
                if at > cut && seen.insert(*key) {
                    self.note_name(key, stood.get(key), record.is_none())?;
                }
                stood.insert(*key, record.clone());
                continue;
            }
            match key.part {
                _ if at <= beyond(key, (cut, low)) => {}
                Part::Link { .. } if record.is_some() => {
                    self.touched.insert(key.ino);
                    self.named_directories.insert(key.ino);
                }
                Part::Segment { .. } | Part::Other { .. } => {}
                _ => {
                    self.touched.insert(key.ino);
                }
            }
        }
        Ok(())
    }

    /// Where the base is the vault: what the changes beyond `cut` did themselves, and which of the files that they edited
    /// another machine has changed, too: its positions lie above `cut` (J3). Asked before they are replayed.
    fn note_base(&mut self, (cut, low): (Position, Position)) -> Result<(), VaultError> {
        for (at, change) in self.recovered.changes.iter().filter(|(_, change)| !change.orphan) {
            let has = |key: Key| change.records.iter().any(|(k, record)| *k == key && record.is_some());
            for (key, record) in &change.records {
                match (key.part, record) {
                    (Part::Inode, None) => _ = self.removed.insert(key.ino),
                    (Part::Inode, Some(_)) => _ = self.removed.remove(&key.ino),
                    _ if *at <= beyond(key, (cut, low)) => {}
                    (Part::Link { .. }, Some(_)) if has(Key::inode(key.ino)) && has(Key::head(key.ino)) => {
                        self.made.insert(key.ino);
                    }
                    (Part::Head, Some(_)) => _ = self.edited.insert(key.ino),
                    (Part::Map { .. }, Some(_)) => _ = self.put.insert(*key),
                    (Part::Map { .. }, None) => _ = self.put.remove(key),
                    _ => {}
                }
            }
        }
        for ino in self.edited.difference(&self.made) {
            if self.head(*ino)?.is_none_or(|head| head.position > cut) {
                self.base_changed.insert(*ino);
            }
        }
        Ok(())
    }

    /// Is what this history had not changed of the file gone from the base? Then only pieces of its own are told.
    pub fn is_base_changed(&self, ino: Ino) -> bool {
        self.base_changed.contains(&ino)
    }

    /// Did this history remove it itself? (Where it has an index of its own, what is not there was removed.)
    pub fn was_removed(&self, ino: Ino) -> bool {
        !self.based_on_vault || self.removed.contains(&ino)
    }

    /// The first change of a name that the vault lacks: remembers what it was before.
    fn note_name(&mut self, key: &Key, stood: Option<&Option<Arc<Record>>>, removes: bool) -> Result<(), VaultError> {
        let known = match stood {
            Some(known) => known.clone(),
            None if removes => {
                let known = self.get(key)?;
                self.names_unknown += u64::from(known.is_none());
                known
            }
            None => None,
        };
        if let Some(Record::Dentry(dentry)) = known.as_deref()
            && let Some(path) = self.below(key.ino, &dentry.name)?
        {
            self.before.insert(*key, (path, dentry.ino));
        }
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        self.history.view().get(key)
    }

    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>, VaultError> {
        Ok(match self.get(&Key::inode(ino))?.as_deref() {
            Some(Record::Inode(inode)) => Some(inode.clone()),
            _ => None,
        })
    }

    pub fn head(&self, ino: Ino) -> Result<Option<Head>, VaultError> {
        Ok(match self.get(&Key::head(ino))?.as_deref() {
            Some(Record::Head(head)) => Some(head.clone()),
            _ => None,
        })
    }

    /// Was this directory made or moved by a change that the vault lacks?
    pub fn is_named_anew(&self, ino: Ino) -> bool {
        self.named_directories.contains(&ino)
    }

    /// All pieces of a file, in order.
    pub fn pieces(&self, ino: Ino) -> Result<Vec<Piece>, VaultError> {
        let (mut pieces, all) = (Vec::new(), !self.is_base_changed(ino));
        self.history.view().scan(Key::head(ino), Key::map(ino, u64::MAX), |key, record| {
            match &**record {
                Record::Head(head) => pieces.extend(head.pieces.iter().copied()),
                Record::Map(piece) if all || self.put.contains(key) => pieces.push(*piece),
                _ => {}
            }
            true
        })?;
        pieces.sort_by_key(|piece| piece.offset);
        Ok(pieces)
    }

    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, VaultError> {
        let mut found = Vec::new();
        self.history.view().scan(Key::xattr(ino, 0, 0), Key::xattr(ino, u64::MAX, u16::MAX), |_, record| {
            if let Record::Xattr(xattr) = &**record {
                found.push(xattr.clone());
            }
            true
        })?;
        Ok(found)
    }

    /// All names of an inode, relative to the root of the drive.
    pub fn paths(&self, ino: Ino) -> Result<Vec<PathBuf>, VaultError> {
        let mut names = Vec::new();
        let (from, to) = (Key::link(ino, Ino(0), 0, 0), Key::link(ino, Ino(u64::MAX), u64::MAX, u16::MAX));
        self.history.view().scan(from, to, |key, _| {
            if let Part::Link { parent, hash, suffix } = key.part {
                names.push(Key::dentry(parent, hash, suffix));
            }
            true
        })?;
        let mut paths = Vec::new();
        for key in names {
            if let Some(Record::Dentry(dentry)) = self.get(&key)?.as_deref()
                && dentry.ino == ino
                && let Some(path) = self.below(key.ino, &dentry.name)?
            {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The path of a name in a directory; `None` if that has none itself.
    fn below(&self, directory: Ino, name: &[u8]) -> Result<Option<PathBuf>, VaultError> {
        let mut names = vec![OsString::from_vec(name.to_vec())];
        let mut at = directory;
        while at != Ino::ROOT {
            let mut link = None;
            let (from, to) = (Key::link(at, Ino(0), 0, 0), Key::link(at, Ino(u64::MAX), u64::MAX, u16::MAX));
            self.history.view().scan(from, to, |key, _| {
                link = Some(key.part);
                false
            })?;
            let Some(Part::Link { parent, hash, suffix }) = link else { return Ok(None) };
            let record = self.get(&Key::dentry(parent, hash, suffix))?;
            let Some(Record::Dentry(dentry)) = record.as_deref() else { return Ok(None) };
            names.push(OsString::from_vec(dentry.name.to_vec()));
            at = parent;
            if names.len() > DEPTH_MAX {
                return Ok(None);
            }
        }
        Ok(Some(names.iter().rev().collect()))
    }

    /// Names that stood before and do not any more: path, and where what it named is now.
    pub fn names_lost(&self) -> Result<Vec<(PathBuf, Option<PathBuf>)>, VaultError> {
        let mut lost = Vec::new();
        for (key, (path, ino)) in &self.before {
            let stands = match self.get(key)?.as_deref() {
                Some(Record::Dentry(dentry)) => dentry.ino == *ino,
                _ => false,
            };
            let now = self.paths(*ino)?;
            if !stands && !now.contains(path) {
                lost.push((path.clone(), now.into_iter().next()));
            }
        }
        lost.sort();
        Ok(lost)
    }

    /// The bytes of a piece.
    pub async fn read(&self, piece: &Piece) -> Result<SecretBytes, Unread> {
        let lost = |why: &dyn std::fmt::Display| Unread::Lost(why.to_string());
        let record = self.get(&Key::extent(piece.extent)).map_err(|e| Unread::Failed(e.into()))?;
        let Some(Record::Extent(extent)) = record.as_deref() else { return Err(lost(&"nothing tells where it lies")) };
        let end = piece.start.checked_add(piece.len).filter(|end| *end <= extent.len);
        let Some(end) = end else { return Err(lost(&"its extent is shorter")) };
        let frames = extent::frames_of(extent, piece.start..end);
        let sealed = self.sealed(piece.extent, extent, extent::stored_range(extent, frames.clone())).await?;
        let opened = extent::open(&self.keys, extent, frames.clone(), &sealed).map_err(|e| lost(&e))?;
        let mut plain = SecretBytes::from(vec![0; piece.len as usize]);
        let from = extent::plain_range(extent, frames).start;
        let (mut skip, mut filled) = ((piece.start - from) as usize, 0);
        for frame in &opened {
            let frame = &frame[skip.min(frame.len())..];
            skip = 0;
            let take = frame.len().min(plain.len() - filled);
            plain[filled..filled + take].copy_from_slice(&frame[..take]);
            filled += take;
        }
        if filled < plain.len() { Err(lost(&"its frames are shorter")) } else { Ok(plain) }
    }

    async fn sealed(
        &self,
        id: ExtentId,
        extent: &Extent,
        stored: std::ops::Range<u32>,
    ) -> Result<bytes::Bytes, Unread> {
        if extent.place == Place::Local {
            let place = self.local.get(&id).ok_or_else(|| Unread::Lost("the journal does not hold it".to_owned()))?;
            let bytes = self.recovered.read_extent(place).map_err(|e| Unread::Failed(e.into()))?;
            let range = stored.start as usize..stored.end as usize;
            return match bytes.len() == extent.stored as usize {
                true => Ok(bytes.slice(range)),
                false => Err(Unread::Lost("the journal holds another".to_owned())),
            };
        }
        match self.remote.sealed_bytes(id, extent, stored, &Urgency::new(Class::Waited)).await {
            Ok((bytes, _)) => Ok(bytes),
            Err(DownloadError::Store(error)) => Err(Unread::Failed(error.into())),
            Err(error) => Err(Unread::Lost(error.to_string())),
        }
    }
}

/// Up to where the vault had what this key says.
fn beyond(key: &Key, (cut, low): (Position, Position)) -> Position {
    match key.part {
        Part::Head | Part::Map { .. } | Part::Extent { .. } => low,
        _ => cut,
    }
}

fn own_index(
    keys: &Arc<Keys>,
    root: &Path,
    recovered: &Recovered,
) -> Result<(Arc<Index>, Mark, Replay, Position), String> {
    let found = Index::open(ground(keys, root)).map_err(|error| error.to_string())?;
    let (index, mark) = found.ok_or("it has no index")?;
    let (over, cut) = indexer::base_of(&mark, recovered)?;
    Ok((Arc::new(index), mark, over, cut))
}

/// The vault's newest state, of inodes that both histories know under these numbers.
async fn vault_index(
    store: &Store,
    keys: &Arc<Keys>,
    pin: Option<&Pin>,
    shared: Epoch,
    scratch: &Path,
) -> Result<(Arc<Index>, Mark), VaultError> {
    let failed = |e: std::io::Error| VaultError::State { path: scratch.display().to_string(), why: e.to_string() };
    std::fs::create_dir_all(scratch).map_err(failed)?;
    let walked = walk::walk(store, keys, pin, None).await?;
    let keep = |key: &Key| key.ino == Ino::NONE || epoch_of(key.ino.0) <= shared;
    let ready = indexer::make(ground(keys, scratch), store, keys, walked, keep).await?;
    Ok((ready.index, ready.mark))
}

fn ground(keys: &Arc<Keys>, root: &Path) -> Ground {
    Ground {
        dir: INDEX,
        disk: Arc::new(RealDisk::new(root.to_owned())),
        tables: Arc::new(SledTables::new(root.join(INDEX))),
        keys: keys.clone(),
        random: Random::Kernel,
    }
}
