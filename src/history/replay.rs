//! Replay: what a journal kept comes over what the vault, or the index, has (C5, I1).
//!
//! Owns which change counts, and what of the journal is kept in vain. Does not own the journal's bytes, nor what the vault
//! has (it is told).
//!
//! Invariants
//! - Over the vault, a namespace change counts beyond the cut, a content change beyond the position in its file's head.
//! - An index does not tell what the vault has of a file: then a content change is sent again if it lies beyond the
//!   position up to which the vault is known to hold all contents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fold::is_held;
use super::{History, State, Waits, overlay, transaction};
use crate::base::{Epoch, ExtentId, Ino, Position, plants};
use crate::format::change::{Change, Run};
use crate::format::key::{Key, Part};
use crate::index::IndexError;

/// The highest epoch that gave a number in these changes.
pub fn highest_epoch(changes: &[(Position, Arc<Change>)]) -> Epoch {
    let keys = changes.iter().flat_map(|(_, change)| &change.records).map(|(key, _)| key);
    let numbers = keys.flat_map(|key| match key.part {
        Part::Extent { number } => [key.ino.0, number],
        _ => [key.ino.0, 0],
    });
    numbers.map(transaction::epoch_of).max().unwrap_or(Epoch(0))
}

/// Where a journal is replayed over.
#[derive(Clone, Copy, Debug)]
pub enum Replay {
    /// The vault's state: what its commits hold is there, nothing else (C5).
    Vault,
    /// An index that holds every change up to this position, and none after it (I1).
    Index(Position),
    /// Another history's state: what the vault is not known to have of this one, by positions alone.
    Foreign,
}

impl Replay {
    /// Up to where the journal is not needed for what it is replayed over; `cut` is that of the vault's state.
    pub fn position(&self, cut: Position) -> Position {
        match self {
            Replay::Vault | Replay::Foreign => cut,
            Replay::Index(position) => *position,
        }
    }
}

impl History {
    /// Numbers that this epoch gave in these changes, or up to `highest`, are not given again: an earlier mount had the
    /// same epoch (E1).
    pub fn go_on_counting(&self, changes: &[(Position, Arc<Change>)], highest: Ino) {
        let mut state = self.state.write();
        let epoch = transaction::epoch_of(state.next_inode);
        let (mut inode, mut extent) = (state.next_inode, state.next_extent);
        let after = |next: &mut u64, number: u64| {
            if transaction::epoch_of(number) == epoch {
                *next = (*next).max(number + 1);
            }
        };
        after(&mut inode, highest.0);
        for (key, _) in changes.iter().flat_map(|(_, change)| &change.records) {
            after(&mut inode, key.ino.0);
            if let Part::Extent { number } = key.part {
                after(&mut extent, number);
            }
        }
        (state.next_inode, state.next_extent) = (inode, extent);
    }

    /// Applies what the journal kept (it is already there) over what `over` names. The newest commit has names up to
    /// `cut`, and all contents up to `low`. What it lacks waits for the next, and so do barriers.
    pub fn replay(
        &self,
        changes: &[(Position, Arc<Change>)],
        (cut, low): (Position, Position),
        over: Replay,
    ) -> Result<(), IndexError> {
        let mut state = self.state.write();
        let now = self.clock.now();
        for (position, change) in changes.iter().filter(|(_, change)| !change.orphan) {
            let records: Vec<_> = match over {
                Replay::Index(at) if *position <= at => {
                    state.lacks(*position, change, (cut, low));
                    continue;
                }
                Replay::Index(_) => change.records.clone(),
                Replay::Foreign => lacking(*position, change, (cut, low)),
                Replay::Vault => {
                    let mut counted = Vec::with_capacity(change.records.len());
                    for (key, record) in &change.records {
                        if state.counts(key, *position, cut)? {
                            counted.push((*key, record.clone()));
                        }
                    }
                    counted
                }
            };
            if records.is_empty() && change.barrier.is_empty() {
                continue;
            }
            let mut transaction = state.begin(*position, now);
            transaction.writes = records.iter().cloned().collect();
            let effects = transaction.effects()?;
            let change = Arc::new(Change { records, barrier: change.barrier.clone(), ..Change::default() });
            let waits = match matches!(over, Replay::Vault) || *position > cut {
                true => Waits::Yes { replayed: Some(cut) },
                false => Waits::No,
            };
            state.perform(*position, &change, Vec::new(), effects, waits);
            if let Waits::No = waits {
                // The index lacks what the vault may have, or may have deferred.
                state.lacks(*position, &change, (cut, low));
            }
        }
        state.dying.clear();
        Ok(())
    }

    /// After a replay: the extents that the journal keeps in vain, dead or in the vault. Those that nothing names leave
    /// the state.
    pub fn vain(&self, changes: &[(Position, Arc<Change>)]) -> Result<Vec<ExtentId>, IndexError> {
        let mut brought: HashMap<Ino, Vec<u64>> = HashMap::new();
        for (key, _) in changes.iter().flat_map(|(_, change)| &change.records) {
            if let Part::Extent { number } = key.part {
                brought.entry(key.ino).or_default().push(number);
            }
        }
        let mut state = self.state.write();
        let mut vain = Vec::new();
        for (owner, numbers) in brought {
            let mut named = HashSet::new();
            state.overlay.scan(Key::head(owner), Key::map(owner, u64::MAX), &mut |_, record| {
                named.extend(transaction::pieces(record).iter().map(|piece| piece.extent));
                true
            })?;
            for number in numbers {
                let id = ExtentId { owner, number };
                let key = Key::extent(id);
                let old = state.overlay.get(&key)?;
                let is_local = old.as_deref().is_some_and(|record| overlay::local_extent(&key, record).is_some());
                if is_local && named.contains(&id) {
                    continue;
                }
                vain.push(id);
                if is_local {
                    let end = self.journal.as_ref().map_or(Position(0), |journal| journal.end());
                    state.overlay.apply(end, vec![(key, None)], std::iter::once(old));
                }
            }
        }
        Ok(vain)
    }

    /// After a replay of what the vault may have taken without this machine's hearing of it.
    pub fn presume_committed(&self) {
        self.state.write().fold.presume_committed();
    }

    /// Extents that wait for the vault although it has them, as the state knows, are sent no more: their records travel as
    /// the vault has them. Returns those of `ids` whose bytes the journal need not keep for that.
    pub fn settle(&self, ids: &[ExtentId]) -> Result<Vec<ExtentId>, IndexError> {
        let durable = self.journal.as_ref().map_or(Position(u64::MAX), |journal| journal.durable().0);
        while self.state.write().fold.advance(durable, 4096) {}
        let mut state = self.state.write();
        let State { overlay, fold, .. } = &mut *state;
        fold.replace_extents(|key| {
            let known = overlay.get(key)?;
            Ok::<_, IndexError>(known.filter(|record| overlay::local_extent(key, record).is_none()))
        })?;
        let mut settled = Vec::new();
        for id in ids {
            let key = Key::extent(*id);
            if overlay.get(&key)?.is_some_and(|record| overlay::local_extent(&key, &record).is_none()) {
                settled.push(*id);
            }
        }
        Ok(settled)
    }
}

impl State {
    /// C5.
    fn counts(&self, key: &Key, position: Position, cut: Position) -> Result<bool, IndexError> {
        if plants::on("C5-replay-all") {
            return Ok(true);
        }
        let head = match key.part {
            Part::Head | Part::Map { .. } | Part::Extent { .. } => self.overlay.get(&Key::head(key.ino))?,
            _ => None,
        };
        Ok(!is_held(key, position, cut, head.as_deref()))
    }

    /// The index has this change; what the vault may lack of it waits.
    fn lacks(&mut self, position: Position, change: &Arc<Change>, (cut, low): (Position, Position)) {
        let records = lacking(position, change, (cut, low));
        let change = Arc::new(Change { records, barrier: change.barrier.clone(), ..Change::default() });
        // Whether the vault has a key is not known any more: it may be told of a deletion in vain.
        let existed = vec![true; change.records.len()].into_boxed_slice();
        self.fold.push(position, change, existed, None, Some(cut), None);
    }
}

/// What of a change a vault lacks that has names up to `cut` and all contents up to `low`.
fn lacking(position: Position, change: &Change, (cut, low): (Position, Position)) -> Run {
    let is_contents = |key: &Key| matches!(key.part, Part::Head | Part::Map { .. } | Part::Extent { .. });
    match position > cut {
        true => change.records.clone(),
        false if position > low && !plants::on("C5-deferred-lost") => {
            change.records.iter().filter(|(key, _)| is_contents(key)).cloned().collect()
        }
        false => Run::new(),
    }
}

/// How many changes of files such a vault lacks.
pub fn count_lacking(changes: &[(Position, Arc<Change>)], known: (Position, Position)) -> u64 {
    let lacks = |(at, change): &&(Position, Arc<Change>)| !change.orphan && !lacking(*at, change, known).is_empty();
    changes.iter().filter(lacks).count() as u64
}
