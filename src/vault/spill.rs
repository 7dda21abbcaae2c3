//! Spilling: what unlinked open files have in the journal goes to segments of its own when that is short of room (L4).
//!
//! Beside the rounds, one task. No commit names such a segment: it goes when its file ends, or is an orphan that the next
//! mount's sweep finds (D2). Owns when to spill, and the end of such segments. Does not own which extents may go
//! ([`History::orphan_extents`]), nor what holds them against the sweep ([`History::held_segments`]).
//!
//! Invariants
//! - A segment's id is in the journal, durably, before its PUT (J5).
//! - The journal lets go of an extent only when the segment stands and reads find it there.
//! - A fenced mount sends and deletes nothing.
//!
//! [`History::orphan_extents`]: crate::history::History::orphan_extents
//! [`History::held_segments`]: crate::history::History::held_segments

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::VaultError;
use super::round::{RoundError, Rounds};
use crate::base::ObjectId;
use crate::base::sizes::SEGMENT_TARGET;
use crate::format::change::Note;
use crate::format::commit::segment_name;
use crate::pipeline::Class;
use crate::upload::remote_storage::{Outgoing, SendError, pack, places};

/// So much is sent at a time: what several requests in flight can hold.
const BATCH: u64 = 4 * SEGMENT_TARGET as u64;
/// Unless somebody waits for room already, less than this part of a journal that is half full is not worth a request.
const WORTH: u64 = 16;
/// After a failure, the next try.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// So many failures in a row may come of files that end.
const EXPECTED: u32 = 3;

/// Runs until `stop`, or until rounds end.
pub async fn run(rounds: Arc<Rounds>, stop: CancellationToken) {
    let spill = Spill { rounds: rounds.clone() };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = rounds.notifier.over() => {}
        () = spill.run() => {}
    }
}

struct Spill {
    rounds: Arc<Rounds>,
}

impl Spill {
    async fn run(&self) {
        let mut failures = 0u32;
        loop {
            let done = tokio::select! {
                biased;
                () = self.rounds.history.orphan_ended() => Ok(()),
                () = self.pressed() => self.batch().await,
            };
            match done.and(self.delete_ended().await) {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = PAUSE.saturating_mul(failures).min(PAUSE_MAX);
                    // A file may have ended meanwhile, and its bytes with it.
                    let expected = matches!(error, RoundError::Send(SendError::Journal(_))) && failures < EXPECTED;
                    let level = if expected { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "unlinked files do not leave the journal: {error}; try {failures} in {pause:?}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Returns when the journal is short of room and something can spill.
    async fn pressed(&self) {
        let Rounds { journal, history, settings, .. } = &*self.rounds;
        loop {
            let starved = journal.starved();
            tokio::pin!(starved);
            starved.as_mut().enable();
            let durable = journal.durable().0;
            let bytes = history.orphan_bytes();
            let least = if settings.spill_above.is_some() { 1 } else { journal.disk_bytes() / WORTH };
            if bytes > 0
                && journal.is_crowded(settings.spill_above)
                && (bytes >= least || journal.is_short())
                && !history.orphan_extents(1).is_empty()
            {
                return;
            }
            tokio::select! {
                biased;
                () = journal.durable_end_after(durable) => {}
                () = starved => {}
            }
        }
    }

    async fn batch(&self) -> Result<(), RoundError> {
        let rounds = self.rounds.clone();
        let extents = rounds.history.orphan_extents(BATCH);
        let mut outgoing: Vec<Outgoing> =
            extents.into_iter().map(|(id, record)| Outgoing { id, record, sent: None, bytes: None }).collect();
        rounds.renew(&mut outgoing);
        let segments = pack(outgoing, &rounds.random);
        let ids: Vec<ObjectId> = segments.iter().map(|segment| segment.id).collect();
        let bytes: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
        rounds.history.spills(ids.iter().copied());
        rounds.spilled.lock().extend(&ids);
        let sent = async {
            rounds.note(Note::Sent(ids.clone()), false).await?;
            Ok::<_, RoundError>(rounds.remote.send(&segments, &Mutex::new(bytes), Class::Holding).await?)
        };
        let sent = sent.await;
        let placed: Vec<_> = match sent {
            Ok(_) => segments.iter().flat_map(places).collect(),
            Err(_) => Vec::new(),
        };
        rounds.history.spilled(&ids, &placed).map_err(VaultError::from)?;
        let released: Vec<_> = placed.iter().map(|(id, _)| *id).collect();
        rounds.forget_found(&released);
        rounds.journal.release(&released);
        sent?;
        log::debug!("{} extents of unlinked files left the journal: {bytes} bytes", released.len());
        Ok(())
    }

    /// Segments of which no open file holds anything any more. No commit ever named them, and nothing else will: they go
    /// at once.
    async fn delete_ended(&self) -> Result<(), RoundError> {
        let sent: Vec<ObjectId> = self.rounds.spilled.lock().iter().copied().collect();
        if sent.is_empty() {
            return Ok(());
        }
        // Asked after: what was sent is held from before.
        let held = self.rounds.history.held_segments();
        for id in sent.into_iter().filter(|id| !held.contains(id)) {
            self.rounds.remote.delete(&segment_name(id)).await?;
            self.rounds.spilled.lock().remove(&id);
        }
        Ok(())
    }
}
