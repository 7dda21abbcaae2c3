//! What a follower's open files show: the contents that each had when it was opened (E5), while commits move the state.
//!
//! Owns the records that open files need and that the state does not hold any more. A version begins as the state
//! itself and costs nothing; before a commit changes its file, the records that go are kept here. Opens between the
//! same two commits share a version. Does not own the state, nor when it moves ([`super::follow`]).
//!
//! Invariants
//! - A version reads one state: the record kept under a key, else that of the state, which has not changed since.
//! - An extent's bytes never change, but its place may: where the state still has its record, that one tells.
//! - What all versions keep is bounded. One for which there is no room is lost: its reads fail, and never mix.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::map::Contents;
use super::overlay::layered;
use super::transaction::pieces;
use super::{State, View};
use crate::base::Ino;
use crate::format::key::{Key, Part};
use crate::format::record::Record;
use crate::index::IndexError;

/// Records that all versions together may keep: some 300 bytes each.
const KEPT_MAX: usize = 256 * 1024;

/// An open file's contents, until it is closed. Never 0, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VersionId(pub u64);

enum Kept {
    /// The state, but under these keys: what stood there when the file was opened.
    But(BTreeMap<Key, Option<Arc<Record>>>),
    /// All of it: the state was replaced as a whole since.
    Whole(BTreeMap<Key, Arc<Record>>),
    /// There was no room.
    Lost,
}

struct Version {
    ino: Ino,
    opens: u64,
    kept: Kept,
}

impl Version {
    fn records(&self) -> usize {
        match &self.kept {
            Kept::But(kept) => kept.len(),
            Kept::Whole(kept) => kept.len(),
            Kept::Lost => 0,
        }
    }

    fn is_current(&self) -> bool {
        matches!(&self.kept, Kept::But(kept) if kept.is_empty())
    }
}

pub struct Versions {
    last: u64,
    versions: BTreeMap<VersionId, Version>,
    /// Those of a file, oldest first.
    of: HashMap<Ino, Vec<VersionId>>,
    kept: usize,
    most: usize,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions { last: 0, versions: BTreeMap::new(), of: HashMap::new(), kept: 0, most: KEPT_MAX }
    }
}

/// What a commit takes from the files that are open: records as they stood before it, extents that it leaves without a
/// name among them.
pub type Taken = BTreeMap<Key, Option<Arc<Record>>>;

impl Versions {
    pub fn is_open(&self, ino: Ino) -> bool {
        self.of.contains_key(&ino)
    }

    pub fn open(&mut self, ino: Ino) -> VersionId {
        let of = self.of.entry(ino).or_default();
        if let Some(id) = of.last()
            && let Some(version) = self.versions.get_mut(id).filter(|version| version.is_current())
        {
            version.opens += 1;
            return *id;
        }
        self.last += 1;
        let id = VersionId(self.last);
        of.push(id);
        self.versions.insert(id, Version { ino, opens: 1, kept: Kept::But(BTreeMap::new()) });
        id
    }

    pub fn close(&mut self, id: VersionId) {
        let Some(version) = self.versions.get_mut(&id) else { return };
        version.opens -= 1;
        if version.opens > 0 {
            return;
        }
        self.kept -= version.records();
        let ino = version.ino;
        self.versions.remove(&id);
        if let Some(of) = self.of.get_mut(&ino) {
            of.retain(|other| *other != id);
            if of.is_empty() {
                self.of.remove(&ino);
            }
        }
    }

    /// The state is about to change: `taken` is what stood before under the keys of `ino` that change.
    pub fn keep(&mut self, ino: Ino, taken: &Taken) {
        for id in self.of.get(&ino).into_iter().flatten() {
            let version = self.versions.get_mut(id).expect("both maps have it");
            let Kept::But(kept) = &mut version.kept else { continue };
            for (key, record) in taken {
                if let std::collections::btree_map::Entry::Vacant(entry) = kept.entry(*key) {
                    entry.insert(record.clone());
                    self.kept += 1;
                }
            }
            if self.kept > self.most {
                self.kept -= version.records();
                lose(version);
            }
        }
    }

    /// The state is about to be replaced as a whole: versions that lean on it get all that they need. `read` tells the
    /// records of a version, of at most so many; `None` if there are more.
    pub fn keep_all(
        &mut self,
        mut read: impl FnMut(Ino, &BTreeMap<Key, Option<Arc<Record>>>, usize) -> Option<BTreeMap<Key, Arc<Record>>>,
    ) {
        for version in self.versions.values_mut() {
            let Kept::But(kept) = &version.kept else { continue };
            self.kept -= kept.len();
            match read(version.ino, kept, self.most.saturating_sub(self.kept)) {
                Some(whole) => {
                    self.kept += whole.len();
                    version.kept = Kept::Whole(whole);
                }
                None => lose(version),
            }
        }
    }

    pub fn kept(&self) -> usize {
        self.kept
    }

    #[cfg(test)]
    pub fn bound(&mut self, most: usize) {
        self.most = most;
    }
}

fn lose(version: &mut Version) {
    log::warn!("{}: too much of it changed while it was open: who has it open must open it again", version.ino);
    version.kept = Kept::Lost;
}

/// A version as it is read.
pub struct At<'a> {
    state: &'a State,
    kept: &'a Kept,
}

/// Is this a record that [`Versions`] keeps? Names and extended attributes follow the newest commit.
pub fn is_contents(key: &Key) -> bool {
    matches!(key.part, Part::Inode | Part::Head | Part::Map { .. } | Part::Extent { .. })
}

/// What must be kept of a record that goes, or is replaced, beside itself: the extents that it names.
pub fn names(record: &Record) -> impl Iterator<Item = Key> {
    pieces(record).iter().map(|piece| Key::extent(piece.extent))
}

impl View<'_> {
    /// What an open file shows; `None` if it was lost, or closed.
    pub fn version(&self, id: VersionId) -> Option<At<'_>> {
        let version = self.0.versions.versions.get(&id)?;
        match &version.kept {
            Kept::Lost => None,
            kept => Some(At { state: &self.0, kept }),
        }
    }

    /// Has nothing of its contents changed since it was opened?
    pub fn is_current(&self, id: VersionId) -> bool {
        self.0.versions.versions.get(&id).is_some_and(Version::is_current)
    }

    /// The newest version that is open of a file; of one that is deleted, its last contents, or older ones.
    pub fn last_version(&self, ino: Ino) -> Option<At<'_>> {
        self.version(*self.0.versions.of.get(&ino)?.last()?)
    }
}

impl Contents for At<'_> {
    fn get(&self, key: &Key) -> Result<Option<Arc<Record>>, IndexError> {
        if matches!(key.part, Part::Extent { .. })
            && let Some(newest) = self.state.overlay.get(key)?
        {
            return Ok(Some(newest));
        }
        match self.kept {
            Kept::But(kept) => match kept.get(key) {
                Some(record) => Ok(record.clone()),
                None => self.state.overlay.get(key),
            },
            Kept::Whole(kept) => Ok(kept.get(key).cloned()),
            Kept::Lost => Ok(None),
        }
    }

    fn scan(&self, from: Key, to: Key, visit: &mut dyn FnMut(&Key, &Arc<Record>) -> bool) -> Result<(), IndexError> {
        match self.kept {
            Kept::But(kept) => but(self.state, kept, from, to, visit),
            Kept::Whole(kept) => {
                for (key, record) in kept.range(from..=to) {
                    if !visit(key, record) {
                        break;
                    }
                }
                Ok(())
            }
            Kept::Lost => Ok(()),
        }
    }
}

fn but(
    state: &State,
    kept: &BTreeMap<Key, Option<Arc<Record>>>,
    from: Key,
    to: Key,
    visit: &mut dyn FnMut(&Key, &Arc<Record>) -> bool,
) -> Result<(), IndexError> {
    if from > to {
        return Ok(());
    }
    let newer = kept.range(from..=to).map(|(key, record)| (key, record.as_ref()));
    layered(newer, |older| state.overlay.scan(from, to, older), visit)
}

/// All that a version shows, read from the state and what is kept; `None` if it is more than `most` records.
pub(super) fn whole(
    state: &State,
    ino: Ino,
    kept: &BTreeMap<Key, Option<Arc<Record>>>,
    most: usize,
) -> Result<Option<BTreeMap<Key, Arc<Record>>>, IndexError> {
    let mut all = BTreeMap::new();
    let mut extents = HashSet::new();
    let mut take = |key: &Key, record: &Arc<Record>| {
        extents.extend(names(record));
        all.insert(*key, record.clone());
        all.len() + extents.len() <= most
    };
    let one = Key::inode(ino);
    but(state, kept, one, one, &mut take)?;
    but(state, kept, Key::head(ino), Key::map(ino, u64::MAX), &mut take)?;
    if all.len() + extents.len() > most {
        return Ok(None);
    }
    for key in extents {
        let record = match state.overlay.get(&key)? {
            Some(record) => Some(record),
            None => kept.get(&key).cloned().flatten(),
        };
        all.extend(record.map(|record| (key, record)));
    }
    Ok(Some(all))
}
