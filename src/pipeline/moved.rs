//! What has come and gone, for whoever wants to watch. Nobody watching costs nothing.
//!
//! Plain values; a watcher that is slow misses some, and is told how many.

use std::time::Duration;

use tokio::sync::broadcast;

use crate::base::Ino;

/// So many are kept for a watcher that is slow.
const KEPT: usize = 1024;

/// Bytes of one file that are where they were to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    pub ino: Ino,
    /// Sealed.
    pub bytes: u64,
    pub took: Duration,
}

/// Where it is told.
pub struct Moves(broadcast::Sender<Moved>);

impl Default for Moves {
    fn default() -> Moves {
        Moves(broadcast::Sender::new(KEPT))
    }
}

impl Moves {
    pub fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub fn tell(&self, moved: Moved) {
        // Nobody is there any more: then nobody misses it.
        let _ = self.0.send(moved);
    }

    pub fn watch(&self) -> broadcast::Receiver<Moved> {
        self.0.subscribe()
    }
}
