//! What goes out and comes in, file by file, for `dripfs events`.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{self, error::RecvError};

use super::Drive;
use crate::pipeline::Moved;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Bytes of a file are in the vault; they were on the way for so long.
    Upload(File),
    /// Bytes of a file came from the store.
    Download(File),
    /// The watcher was too slow for so many.
    Missed { events: u64 },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct File {
    /// From the root of the drive; none if it has no name any more.
    pub path: Option<String>,
    /// Sealed.
    pub bytes: u64,
    pub milliseconds: u64,
}

/// From the moment that it is made.
pub struct Events {
    up: Option<broadcast::Receiver<Moved>>,
    down: broadcast::Receiver<Moved>,
}

impl Drive {
    pub fn events(&self) -> Events {
        let up = self.writer.as_ref().map(|writer| writer.notifier.moves().watch());
        Events { up, down: self.pipelines.downloads.moves().watch() }
    }

    /// The next one; `None` when there will be none.
    pub async fn next_event(&self, events: &mut Events) -> Option<Event> {
        let up = async {
            match &mut events.up {
                Some(up) => up.recv().await,
                None => std::future::pending().await,
            }
        };
        let (moved, is_up) = tokio::select! {
            moved = up => (moved, true),
            moved = events.down.recv() => (moved, false),
        };
        match moved {
            Ok(moved) => {
                let file = File {
                    path: self.fs.path_of(moved.ino),
                    bytes: moved.bytes,
                    milliseconds: moved.took.as_millis() as u64,
                };
                Some(if is_up { Event::Upload(file) } else { Event::Download(file) })
            }
            Err(RecvError::Lagged(events)) => Some(Event::Missed { events }),
            Err(RecvError::Closed) => None,
        }
    }
}
