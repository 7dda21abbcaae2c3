//! When a writing mount makes checkpoints, and which one its next log object names.
//!
//! A synchronous core: rounds tell it of each commit that stands and ask it what to name; whoever it tells to make a
//! checkpoint does so beside the rounds, one at a time. A failed one is tried again when the log has grown by as much
//! again, so a store that refuses is not asked without end.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Made, Merge};
use crate::base::ObjectId;
use crate::format::checkpoint::Manifest;
use crate::format::commit::{ChainLink, Hash};

/// How far the log may grow before the next checkpoint: bytes of log objects and their parts, and their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct When {
    pub bytes: u64,
    pub commits: u64,
}

impl Default for When {
    fn default() -> When {
        When { bytes: 64 << 20, commits: 1000 }
    }
}

pub struct Keeper {
    when: When,
    state: Mutex<State>,
}

struct State {
    /// The one that counts: the newest commit names it.
    id: (ObjectId, Hash),
    manifest: Manifest,
    /// What the log has grown by since it, or since the last try.
    bytes: u64,
    commits: u64,
    making: bool,
    /// Lies in the vault; the next commit names it.
    made: Option<Made>,
}

/// What is to be made.
pub struct Order {
    pub base: Manifest,
    /// Up to this log object.
    pub to: ChainLink,
    pub merge: Merge,
}

impl Keeper {
    pub fn new(when: When, id: (ObjectId, Hash), manifest: Manifest, bytes: u64, commits: u64) -> Keeper {
        Keeper { when, state: Mutex::new(State { id, manifest, bytes, commits, making: false, made: None }) }
    }

    /// What the next log object names, and the segments that are dead then.
    pub fn next(&self) -> ((ObjectId, Hash), Vec<ObjectId>) {
        let state = self.state.lock();
        match &state.made {
            Some(made) => (made.checkpoint, made.dead.clone()),
            None => (state.id, Vec::new()),
        }
    }

    /// The one that counts.
    pub fn counting(&self) -> ObjectId {
        self.state.lock().id.0
    }

    /// A commit stands that named `id`, and took so many bytes.
    pub fn stands(&self, id: (ObjectId, Hash), bytes: u64) {
        let mut state = self.state.lock();
        state.bytes += bytes;
        state.commits += 1;
        if let Some(made) = state.made.take_if(|made| made.checkpoint == id) {
            log::info!(
                "checkpoint {} counts: it covers the log up to {} in {} levels",
                id.0,
                made.manifest.sequence,
                made.manifest.levels.len()
            );
            (state.id, state.manifest) = (id, made.manifest);
        }
    }

    /// Is one to be made now, up to `newest`? Then whoever asked makes it, and says [`Keeper::ended`].
    pub fn order(&self, newest: ChainLink) -> Option<Order> {
        let mut state = self.state.lock();
        let due = state.bytes >= self.when.bytes || state.commits >= self.when.commits;
        if !due || state.making || state.made.is_some() {
            return None;
        }
        state.making = true;
        (state.bytes, state.commits) = (0, 0);
        Some(Order { base: state.manifest.clone(), to: newest, merge: Merge::BySize })
    }

    pub fn ended(&self, made: Option<Made>) {
        let mut state = self.state.lock();
        state.making = false;
        state.made = made;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Sequence;

    fn link(sequence: u64) -> ChainLink {
        ChainLink { sequence: Sequence(sequence), hash: [0; 32] }
    }

    fn made(id: u8) -> Made {
        let checkpoint = (ObjectId([id; 16]), [id; 32]);
        let manifest = Manifest { sequence: Sequence(id.into()), ..Manifest::default() };
        Made { checkpoint, manifest, dead: vec![ObjectId([9; 16])], sweep: None, counters: Default::default() }
    }

    #[test]
    fn one_is_made_at_a_time_and_counts_when_a_commit_that_names_it_stands() {
        let first = (ObjectId([0; 16]), [0; 32]);
        let keeper = Keeper::new(When { bytes: 100, commits: 3 }, first, Manifest::default(), 0, 0);
        keeper.stands(first, 10);
        assert!(keeper.order(link(1)).is_none());
        keeper.stands(first, 90);
        assert_eq!(keeper.order(link(2)).unwrap().to, link(2));
        keeper.stands(first, 1000);
        assert!(keeper.order(link(3)).is_none(), "one is being made");
        keeper.ended(Some(made(2)));
        assert!(keeper.order(link(3)).is_none(), "it is not named yet");
        let (named, dead) = keeper.next();
        assert_eq!((named, dead.len(), keeper.counting()), (made(2).checkpoint, 1, first.0));
        keeper.stands(first, 0);
        assert_eq!(keeper.counting(), first.0, "an older commit that stands late does not make it count");
        keeper.stands(named, 0);
        assert_eq!((keeper.counting(), keeper.next()), (named.0, (named, Vec::new())));
        assert_eq!(keeper.order(link(5)).unwrap().base.sequence, Sequence(2));
        keeper.ended(None);
        assert!(keeper.order(link(6)).is_none(), "after a failure the log must grow first");
    }
}
