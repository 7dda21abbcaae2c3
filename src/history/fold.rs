//! The fold: what durable changes since the last commit come to, one entry a key.
//!
//! Owns the changes that are appended but not known durable (in order), and the folded rest. A record that was made
//! and deleted between two commits leaves no trace. Memory is bounded by the number of keys touched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::overlay::{local_extent, whole};
use crate::base::{Ino, Position};
use crate::format::change::Change;
use crate::format::key::Key;
use crate::format::record::Record;

/// What a key comes to.
pub struct Entry {
    pub record: Option<Arc<Record>>,
    /// The state that the last commit stands for had no such key.
    fresh: bool,
}

pub type Folded = BTreeMap<Key, Entry>;

struct Waiting {
    position: Position,
    change: Arc<Change>,
    /// For each record: was the key there before?
    existed: Box<[bool]>,
    usage: Option<Usage>,
}

/// Inodes, and bytes that files hold, after a change.
pub type Usage = (u64, u64);

#[derive(Default)]
pub struct Fold {
    waiting: VecDeque<Waiting>,
    folded: Folded,
    /// After the last change folded, where that is known.
    usage: Option<Usage>,
    /// When the oldest change that no commit holds was made.
    oldest: Option<tokio::time::Instant>,
}

impl Fold {
    pub fn push(&mut self, position: Position, change: Arc<Change>, existed: Box<[bool]>, usage: Option<Usage>) {
        if change.orphan || change.records.is_empty() {
            return;
        }
        self.oldest.get_or_insert_with(tokio::time::Instant::now);
        self.waiting.push_back(Waiting { position, change, existed, usage });
    }

    /// Folds at most `most` changes up to `durable`; returns whether there may be more.
    pub fn advance(&mut self, durable: Position, most: usize) -> bool {
        for _ in 0..most {
            match self.waiting.front() {
                Some(first) if first.position <= durable => {}
                _ => {
                    // What was made and deleted again leaves nothing that could be late.
                    if self.is_empty() {
                        self.oldest = None;
                    }
                    return false;
                }
            }
            let waiting = self.waiting.pop_front().expect("looked at above");
            self.usage = waiting.usage;
            for ((key, record), existed) in waiting.change.records.iter().zip(waiting.existed) {
                self.fold(*key, record.clone(), existed);
            }
        }
        true
    }

    fn fold(&mut self, key: Key, record: Option<Arc<Record>>, existed: bool) {
        match self.folded.entry(key) {
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                if record.is_none() && entry.get().fresh {
                    entry.remove();
                } else {
                    entry.get_mut().record = record;
                }
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                if record.is_some() || existed {
                    entry.insert(Entry { record, fresh: !existed });
                }
            }
        }
    }

    /// The vault may hold any of this already: whatever is deleted later, it must be told.
    pub fn presume_committed(&mut self) {
        for waiting in &mut self.waiting {
            waiting.existed.fill(true);
        }
        for entry in self.folded.values_mut() {
            entry.fresh = false;
        }
    }

    /// Puts what `known` has in the place of the folded extents that only the journal holds.
    pub fn replace_extents<E>(
        &mut self,
        mut known: impl FnMut(&Key) -> Result<Option<Arc<Record>>, E>,
    ) -> Result<(), E> {
        for (key, entry) in &mut self.folded {
            if entry.record.as_deref().is_some_and(|record| local_extent(key, record).is_some())
                && let Some(record) = known(key)?
            {
                entry.record = Some(record);
            }
        }
        Ok(())
    }

    /// Takes what is folded: a round begins. What still waits is newer.
    pub fn take(&mut self) -> Folded {
        self.oldest = self.waiting.front().map(|_| tokio::time::Instant::now());
        std::mem::take(&mut self.folded)
    }

    /// What was folded last left so much, where that is known.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Is a change of this inode appended and not folded, or folded?
    pub fn touches(&self, ino: Ino) -> (bool, bool) {
        let waiting = self.waiting.iter().any(|w| w.change.records.iter().any(|(key, _)| key.ino == ino));
        (waiting, self.folded.range(whole(ino)).next().is_some())
    }

    /// Is there anything at or before `durable`?
    pub fn reaches(&self, durable: Position) -> bool {
        !self.folded.is_empty() || self.waiting.front().is_some_and(|first| first.position <= durable)
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.folded.is_empty()
    }

    pub fn oldest(&self) -> Option<tokio::time::Instant> {
        self.oldest
    }

    pub fn folded(&self) -> &Folded {
        &self.folded
    }

    /// Changes that are appended and not folded yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Change> {
        self.waiting.iter().map(|w| &*w.change)
    }
}
