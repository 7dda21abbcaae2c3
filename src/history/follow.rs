//! The state of a follower: moved on by commits of another machine, each visible as a whole or not at all (E5).
//!
//! Owns how a commit becomes visible, and what open files keep of the state before it ([`super::versions`]).
//! Does not own which commits there are, nor whether they may be shown (vault, mount).
//!
//! Invariants
//! - One caller moves the state; it is the only one that changes it.
//! - Whoever is told of a change ([`History::on_change`]) is told after it is visible, and under no lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::History;
use super::versions::{self, Taken, VersionId};
use crate::base::{Epoch, Ino, Position};
use crate::format::commit::ChainLink;
use crate::format::key::{Key, Part};
use crate::format::record::Record;
use crate::index::{Folded, IndexError, Mark};

/// Keys looked up at a time: operations go on between.
const STEP: usize = 512;

/// Of which files somebody may remember contents that are not the newest any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    These(BTreeSet<Ino>),
    /// The state was replaced as a whole.
    Any,
}

pub type Listener = Box<dyn Fn(Changed) + Send + Sync>;

impl History {
    /// Is this a mount that only reads, and follows what others write?
    pub fn is_follower(&self) -> bool {
        self.journal.is_none()
    }

    /// Who is told when contents change. One listener, set once.
    pub fn on_change(&self, listener: Listener) {
        let _ = self.listener.set(listener);
    }

    /// Opens a file: what is read by the version is what the file holds now. `None` if there is no such file.
    pub fn open_version(&self, ino: Ino) -> Result<Option<VersionId>, IndexError> {
        let mut state = self.state.write();
        if state.overlay.get(&Key::head(ino))?.is_none() {
            return Ok(None);
        }
        Ok(Some(state.versions.open(ino)))
    }

    pub fn close_version(&self, id: VersionId) {
        self.state.write().versions.close(id);
    }

    /// Records that open files keep, of states that are over.
    pub fn kept_records(&self) -> usize {
        self.state.read().versions.kept()
    }

    /// The state becomes that of the commit `link`, which changes these records: at once for all who look.
    pub fn follow(&self, records: Folded, link: ChainLink) -> Result<(), IndexError> {
        let writes: Vec<(Key, Option<Arc<Record>>)> = records.into_iter().collect();
        let mut old = Vec::with_capacity(writes.len());
        for part in writes.chunks(STEP) {
            let state = self.state.read();
            for (key, _) in part {
                old.push(state.overlay.get(key)?);
            }
        }
        let mut changed = BTreeSet::new();
        for ((key, record), old) in writes.iter().zip(&old) {
            if matches!(key.part, Part::Head | Part::Map { .. }) && record != old {
                changed.insert(key.ino);
            }
        }
        let mut taken: HashMap<Ino, Taken> = HashMap::new();
        loop {
            // Found before the lock is taken: it may be much.
            let missing: BTreeSet<Ino> = {
                let state = self.state.read();
                let open = |(key, _): &&(Key, _)| state.versions.is_open(key.ino) && !taken.contains_key(&key.ino);
                writes.iter().filter(open).map(|(key, _)| key.ino).collect()
            };
            self.take(&writes, &old, missing, &mut taken)?;
            let mut state = self.state.write();
            if writes.iter().any(|(key, _)| state.versions.is_open(key.ino) && !taken.contains_key(&key.ino)) {
                continue;
            }
            for (ino, taken) in &taken {
                state.versions.keep(*ino, taken);
            }
            state.followed = Position(state.followed.0 + 1);
            let position = state.followed;
            if !writes.is_empty() {
                state.overlay.apply(position, writes, old.into_iter());
            }
            // Who follows gives no numbers: which epoch it is does not matter.
            state.overlay.stands(position, link, Epoch(0));
            break;
        }
        if !changed.is_empty() {
            self.tell(Changed::These(changed));
        }
        Ok(())
    }

    /// What these files, which are open, lose by the writes.
    fn take(
        &self,
        writes: &[(Key, Option<Arc<Record>>)],
        old: &[Option<Arc<Record>>],
        files: BTreeSet<Ino>,
        taken: &mut HashMap<Ino, Taken>,
    ) -> Result<(), IndexError> {
        for ino in files {
            let first = writes.partition_point(|(key, _)| key.ino < ino);
            let mut lost = Taken::new();
            let mut extents = BTreeSet::new();
            for ((key, record), old) in writes.iter().zip(old).skip(first).take_while(|((key, _), _)| key.ino == ino) {
                // Attributes follow the newest commit, and an extent's place too: only what goes is kept.
                let goes = record.is_none() || matches!(key.part, Part::Head | Part::Map { .. });
                if versions::is_contents(key) && goes && record != old {
                    extents.extend(old.iter().flat_map(|old| versions::names(old)));
                    lost.insert(*key, old.clone());
                }
            }
            let extents: Vec<Key> = extents.into_iter().collect();
            for part in extents.chunks(STEP) {
                let state = self.state.read();
                for key in part {
                    if let Some(record) = state.overlay.get(key)? {
                        lost.insert(*key, Some(record));
                    }
                }
            }
            taken.insert(ino, lost);
        }
        Ok(())
    }

    /// The state is replaced as a whole: `swap` puts another one, which `mark` describes, under the overlay. All that
    /// was followed before must be in the index ([`History::take_unindexed`] gave it, [`History::indexed`] was told).
    pub fn replace(&self, mark: &Mark, swap: impl FnOnce()) {
        let mut state = self.state.write();
        let mut versions = std::mem::take(&mut state.versions);
        versions.keep_all(|ino, kept, most| {
            versions::whole(&state, ino, kept, most).unwrap_or_else(|error| {
                log::warn!("{ino}: open files cannot be kept: {error}");
                None
            })
        });
        state.versions = versions;
        swap();
        state.overlay.begin(mark);
        drop(state);
        self.tell(Changed::Any);
    }

    fn tell(&self, changed: Changed) {
        if let Some(listener) = self.listener.get() {
            listener(changed);
        }
    }
}
