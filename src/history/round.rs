//! What rounds ask of history: a batch at a cut, and what becomes of it; extents that are sent ahead of any commit (C2).
//!
//! Owns what a round has under way. Does not own which files a batch takes ([`super::fold`]), nor the sending (vault).
//!
//! Invariants
//! - An extent is sent once: what is sent ahead of a commit is of files that no round has under way, one file at a time,
//!   and a round that takes that file waits until it has landed.
//! - What was sent ahead of a file is taken by the round that takes the file, all of it: named, or dead.
//! - What is being sent ahead is not released before it has landed.

use std::collections::HashSet;
use std::time::Duration;

use super::History;
use super::fold::{Folded, Limits, Taken, Usage};
use crate::base::{Epoch, ExtentId, Ino, Position, plants};
use crate::format::commit::{BlockRef, ChainLink};
use crate::format::key::{Key, Part};
use crate::format::record::Extent;
use crate::index::IndexError;

/// What a round sends: the state at the cut, less what the vault has.
pub struct Batch {
    pub cut: Position,
    pub block: BlockRef,
    pub records: Folded,
    /// Up to where commits hold everything, once this one stands (J5).
    pub low: Position,
    /// Inodes and bytes in files as the commit has them, where that is known.
    pub usage: Option<Usage>,
    /// What was being sent ahead when it began, if it is of a file that it takes.
    pub awaits: Option<u64>,
}

/// Extents of one file that are about to be sent ahead of any commit.
pub struct Ahead {
    pub extents: Vec<(ExtentId, Extent)>,
}

/// The same while they are on their way.
pub(super) struct UnderWay {
    number: u64,
    ino: Ino,
    extents: HashSet<ExtentId>,
}

impl History {
    /// A round begins: the durable end is its cut. `None` if no change waits for the vault there, or all are deferred.
    pub fn begin_round(&self, limits: &Limits) -> Option<Batch> {
        let journal = self.journal.as_ref()?;
        // Folding a long backlog is done in steps, so that operations go on beside it.
        loop {
            let mut state = self.state.write();
            // Read under the lock: operations fold too, and what they folded must not lie beyond the cut.
            let (durable, block) = journal.durable();
            let block = block?;
            let cut = if plants::on("C1-cut-past-durable") { journal.end() } else { durable };
            if state.fold.advance(cut, 4096) {
                continue;
            }
            let Taken { records, defers, largest } = state.fold.take(limits);
            if records.is_empty() {
                return None;
            }
            let since = state.fold.oldest_taken();
            state.sending_since = since;
            state.sending = records.keys().map(|key| key.ino).collect();
            let contents = records.keys().filter(|key| matches!(key.part, Part::Head | Part::Map { .. }));
            state.sending_contents = contents.map(|key| key.ino).collect();
            state.holding = largest;
            let dead = state.dying.extract_if(.., |(at, _)| *at <= cut).collect::<Vec<_>>();
            state.dying_before.extend(dead.into_iter().map(|(_, id)| id));
            let usage = state.fold.usage().filter(|_| !defers);
            let low = state.fold.low(cut);
            let takes = |ahead: &&UnderWay| {
                let is_in = |id: &ExtentId| records.contains_key(&Key::extent(*id));
                !state.fold.has_lane(ahead.ino) || ahead.extents.iter().any(is_in)
            };
            let awaits = state.ahead.as_ref().filter(takes).map(|ahead| ahead.number);
            return Some(Batch { cut, block, records, low, usage, awaits });
        }
    }

    /// Up to where commits hold everything, if the newest has this cut and nothing was taken since.
    pub fn low(&self, cut: Position) -> Position {
        self.state.read().fold.low_of_all(cut)
    }

    /// The round's commit `link` stands: these extents lie in the vault, and `dead` ones were so at its cut. Returns what
    /// the journal need not keep any more.
    pub fn end_round(
        &self,
        placed: &[(ExtentId, Extent)],
        dead: &[ExtentId],
        (link, epoch): (ChainLink, Epoch),
    ) -> Result<Vec<ExtentId>, IndexError> {
        self.place(placed, (link, epoch))?;
        let mut released: Vec<ExtentId> = placed.iter().map(|(id, _)| *id).collect();
        for part in dead.chunks(1024) {
            self.bury(part, &mut released)?;
        }
        let mut state = self.state.write();
        state.sending_since = None;
        state.sending = HashSet::new();
        state.sending_contents = HashSet::new();
        state.holding = None;
        released.append(&mut state.dying_before);
        let is_free = |id: &ExtentId| !state.ahead.as_ref().is_some_and(|ahead| ahead.extents.contains(id));
        let (released, later): (_, Vec<_>) = released.into_iter().partition(is_free);
        state.dying.extend(later.into_iter().map(|id| (Position(0), id)));
        Ok(released)
    }

    /// Forgets extents that no map names, but those that an unlinked open file holds.
    fn bury(&self, dead: &[ExtentId], released: &mut Vec<ExtentId>) -> Result<(), IndexError> {
        let mut state = self.state.write();
        let end = self.journal.as_ref().map_or(Position(0), |journal| journal.end());
        let mut writes = Vec::new();
        for id in dead.iter().filter(|id| !state.overlay.is_orphan(id.owner)) {
            let key = Key::extent(*id);
            if state.overlay.get(&key)?.is_some() {
                writes.push((key, None));
                released.push(*id);
            }
        }
        if !writes.is_empty() {
            state.overlay.apply(end, writes, std::iter::repeat(None));
        }
        Ok(())
    }

    /// The commit `link` of this history, of that epoch, gave these places. In steps, so that operations go on beside it.
    pub fn place(&self, placed: &[(ExtentId, Extent)], (link, epoch): (ChainLink, Epoch)) -> Result<(), IndexError> {
        let end = || self.journal.as_ref().map_or(Position(0), |journal| journal.end());
        for part in placed.chunks(1024) {
            let mut state = self.state.write();
            state.overlay.place(end(), part)?;
        }
        let mut state = self.state.write();
        state.overlay.stands(end(), link, epoch);
        Ok(())
    }

    /// Extents that died though nothing waits for the vault, as those of unlinked files do: the journal need not keep
    /// them. None while a round is under way (it may still send them), or while a death may not be durable (J2: the
    /// state that a crash leaves may still name them).
    pub fn release_dead(&self) -> Vec<ExtentId> {
        let mut state = self.state.write();
        if state.sending_since.is_some() || !state.fold.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut state.dying).into_iter().map(|(_, id)| id).collect()
    }

    /// Would [`History::release_dead`] release any?
    pub fn has_dead(&self) -> bool {
        let state = self.state.read();
        state.sending_since.is_none() && state.fold.is_empty() && !state.dying.is_empty()
    }

    /// Of a file that has waited for so long, and has so much to send: what is to be sent next, about `most` bytes. Ends
    /// with [`History::landed`].
    pub fn send_ahead(&self, age: Duration, least: u64, most: u64) -> Option<Ahead> {
        let mut state = self.state.write();
        let (ino, extents) = state.fold.send_ahead(age, least, most)?;
        state.ahead_number += 1;
        let ids = extents.iter().map(|(id, _)| *id).collect();
        state.ahead = Some(UnderWay { number: state.ahead_number, ino, extents: ids });
        Some(Ahead { extents })
    }

    /// What was to be sent ahead lies there; or, if `placed` is empty, will not.
    pub fn landed(&self, placed: Vec<(ExtentId, Extent)>) {
        let mut state = self.state.write();
        state.fold.sent_ahead(placed);
        state.ahead = None;
        drop(state);
        self.landed.notify_waiters();
    }

    /// Returns when what has this number has landed.
    pub async fn await_landing(&self, number: u64) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if self.state.read().ahead.as_ref().is_none_or(|ahead| ahead.number != number) {
                return;
            }
            landed.await;
        }
    }

    /// What was sent ahead of these extents.
    pub fn take_ahead(&self, ids: impl IntoIterator<Item = ExtentId>) -> Vec<(ExtentId, Extent)> {
        self.state.write().fold.take_ahead(ids)
    }

    /// The file with most to send of those that the round under way could not leave, and how much it has.
    pub fn holding(&self) -> Option<(Ino, u64)> {
        self.state.read().holding
    }
}
