//! What gc asks of rounds: a commit that begins after the question, and inline extents that move with it. What it tells
//! of itself.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::upload::remote_storage::Outgoing;

#[derive(Default)]
pub struct Requests {
    state: Mutex<State>,
    asked: Notify,
    done: Notify,
    removed: Mutex<Removed>,
}

/// What this mount has removed from the vault, and what it moved for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Commits that a checkpoint covers.
    pub commits: u64,
    /// Manifests of checkpoints.
    pub checkpoints: u64,
    /// Objects below `segments/`.
    pub segments: u64,
    /// Sealed bytes that moved from commits to segments.
    pub moved_bytes: u64,
    /// Deletions that the store refused.
    #[serde(default)]
    pub refused: u64,
}

#[derive(Default)]
struct State {
    /// Questions so far; those that a round took, and those whose commit stands.
    asked: u64,
    begun: u64,
    done: u64,
    moves: Vec<Outgoing>,
}

/// What a round took.
pub struct Asked {
    pub number: u64,
    pub moves: Vec<Outgoing>,
}

impl Requests {
    /// Returns when a commit that began after this call stands; with it these extents, in a segment. Never returns when
    /// rounds have ended. What an abandoned call asked for may still happen.
    pub async fn commit(&self, moves: Vec<Outgoing>) {
        let number = {
            let mut state = self.state.lock();
            state.moves.extend(moves);
            state.asked += 1;
            state.asked
        };
        self.asked.notify_one();
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if self.state.lock().done >= number {
                return;
            }
            done.await;
        }
    }

    /// Returns when something is asked for.
    pub async fn asked(&self) {
        loop {
            let asked = self.asked.notified();
            {
                let state = self.state.lock();
                if state.asked > state.begun {
                    return;
                }
            }
            asked.await;
        }
    }

    /// A round begins: takes what is asked for.
    pub fn begin(&self) -> Option<Asked> {
        let mut state = self.state.lock();
        if state.asked == state.begun {
            return None;
        }
        state.begun = state.asked;
        Some(Asked { number: state.begun, moves: std::mem::take(&mut state.moves) })
    }

    pub fn removed(&self) -> Removed {
        *self.removed.lock()
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Removed)) {
        count(&mut self.removed.lock());
    }

    /// Its commit stands.
    pub fn done(&self, number: u64) {
        self.state.lock().done = number;
        self.done.notify_waiters();
    }
}
