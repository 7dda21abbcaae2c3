//! What unlinked open files keep in the journal, and how it leaves that (L4): their extents spill into segments that no
//! commit names.
//!
//! Owns which extents may go, and which segments are on their way. Does not own when, nor the sending (vault).
//!
//! Invariants
//! - An extent goes only when every later cut knows that its file is gone, and no round under way may send it: nothing is
//!   sent twice.
//! - From before its creation until nothing of it is read any more a segment is among [`History::held_segments`].

use super::History;
use crate::base::{ExtentId, ObjectId, Position};
use crate::format::record::Extent;
use crate::index::IndexError;

impl History {
    /// Sealed bytes of unlinked open files that only the journal holds.
    pub fn orphan_bytes(&self) -> u64 {
        self.state.read().overlay.orphan_bytes()
    }

    /// Extents of unlinked open files that may spill, about `most` bytes.
    pub fn orphan_extents(&self, most: u64) -> Vec<(ExtentId, Extent)> {
        let durable = self.journal.as_ref().map_or(Position(0), |journal| journal.durable().0);
        while self.state.write().fold.advance(durable, 4096) {}
        let state = self.state.read();
        // What was sent ahead of a file is known when a round has taken what is left of it.
        let may = |ino| !state.sending.contains(&ino) && !state.fold.has_lane(ino);
        state.overlay.orphan_extents(durable, may, most)
    }

    /// These segments are about to be sent.
    pub fn spills(&self, segments: impl IntoIterator<Item = ObjectId>) {
        self.state.write().spilling.extend(segments);
    }

    /// They lie in the vault, and their extents there; or they do not, and `placed` is empty.
    pub fn spilled(&self, segments: &[ObjectId], placed: &[(ExtentId, Extent)]) -> Result<(), IndexError> {
        let mut state = self.state.write();
        let end = self.journal.as_ref().map_or(Position(0), |journal| journal.end());
        state.overlay.place(end, placed)?;
        for segment in segments {
            state.spilling.remove(segment);
        }
        Ok(())
    }

    /// These extents, which no commit will name, lie in the vault: so unlinked open files have them there.
    pub fn orphans_have(&self, placed: &[(ExtentId, Extent)]) -> Result<(), IndexError> {
        let mut state = self.state.write();
        let end = self.journal.as_ref().map_or(Position(0), |journal| journal.end());
        let theirs: Vec<_> = placed.iter().filter(|(id, _)| state.overlay.is_orphan(id.owner)).cloned().collect();
        if !theirs.is_empty() {
            state.overlay.place(end, &theirs)?;
        }
        Ok(())
    }

    /// Makes [`History::orphan_ended`] return.
    pub fn look_at_spilled(&self) {
        self.orphan_ended.notify_one();
    }

    /// Returns when an unlinked open file has ended since the last call.
    pub async fn orphan_ended(&self) {
        self.orphan_ended.notified().await;
    }
}
