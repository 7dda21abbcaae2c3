//! Sending ahead: what a round deferred is uploaded beside the rounds, before any commit names it (C2).
//!
//! So a file with much to send is in a commit soon after a round takes it, and until then holds up nobody. Owns when to
//! send, and the ledger of what lies in the vault unnamed. Does not own which extents ([`crate::history::fold`]), nor
//! which commit names them (rounds).
//!
//! Invariants
//! - A segment's id is in the journal, durably, before its PUT (J5), and with the keeper, which no sweep passes over (D2),
//!   until a commit names it or none will.
//! - One file a segment: a round takes it as a whole, so that no segment is named in part and dead in part.
//! - What may have been sent and did not land is sealed anew when it is sent again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::round::{ROUND_AGE, RoundError, Rounds};
use crate::base::sizes::SEGMENT_TARGET;
use crate::base::{ExtentId, ObjectId};
use crate::format::change::Note;
use crate::format::record::Extent;
use crate::history::Ahead;
use crate::pipeline::Class;
use crate::upload::remote_storage::{Outgoing, places};

/// So much is sent at a time: what several requests in flight can hold. A round that takes the file waits for it.
const BATCH: u64 = 4 * SEGMENT_TARGET as u64;
/// After a failure, the next try.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Runs until `stop`, or until rounds end.
pub async fn run(rounds: Arc<Rounds>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = rounds.notifier.over() => {}
        () = go(&rounds) => {}
    }
}

async fn go(rounds: &Rounds) {
    let mut failures = 0u32;
    loop {
        rounds.deferred.notified().await;
        while let Some(ahead) = rounds.history.send_ahead(ROUND_AGE, rounds.settings.ahead_least, BATCH) {
            match send(rounds, ahead).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = PAUSE.saturating_mul(failures).min(PAUSE_MAX);
                    // What is sent may die meanwhile, and its bytes with it.
                    log::debug!("not sent ahead: {error}; try {failures} in {pause:?}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Says what landed, also when nothing did.
struct Landing<'a> {
    rounds: &'a Rounds,
    ids: Vec<ExtentId>,
    placed: Vec<(ExtentId, Extent)>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if self.placed.is_empty() {
            self.rounds.found.lock().extend(&self.ids);
        }
        self.rounds.history.landed(std::mem::take(&mut self.placed));
    }
}

async fn send(rounds: &Rounds, ahead: Ahead) -> Result<(), RoundError> {
    let ids = ahead.extents.iter().map(|(id, _)| *id).collect();
    let mut landing = Landing { rounds, ids, placed: Vec::new() };
    let mut outgoing: Vec<Outgoing> =
        ahead.extents.into_iter().map(|(id, record)| Outgoing { id, record, sent: None, bytes: None }).collect();
    rounds.renew(&mut outgoing);
    let segments = rounds.remote.pack(outgoing).await;
    let ids: Vec<ObjectId> = segments.iter().map(|segment| segment.id).collect();
    rounds.keeper.sends_ahead(ids.iter().copied());
    let sent = async {
        rounds.note(Note::Sent(ids.clone()), false).await?;
        let bytes = Mutex::new(segments.iter().map(|segment| u64::from(segment.len)).sum());
        Ok::<_, RoundError>(rounds.remote.send(&segments, &bytes, Class::Bulk).await?)
    };
    match sent.await {
        Ok(sent) => {
            let mut ledger = rounds.ahead.lock();
            for (id, len) in sent {
                let live = segments.iter().find(|segment| segment.id == id).map_or(0, |segment| segment.len);
                ledger.insert(id, (len, live));
            }
            drop(ledger);
            landing.placed = segments.iter().flat_map(places).collect();
            log::debug!("{} segments were sent ahead of a commit", segments.len());
            Ok(())
        }
        Err(error) => {
            // What was sent of it are orphans now.
            ids.iter().for_each(|id| rounds.keeper.names(*id, None));
            Err(error)
        }
    }
}
