//! A sweep for orphans, decided (D2): list, then begin an own commit and see it stand, then delete only what the list
//! held and what nothing names.
//!
//! In this order it is safe against everybody: what was listed was sent before our commit began, so by us or by a writer
//! who was overtaken before it, and no commit of such a one can come any more.

use std::collections::HashSet;

use tokio::time::Instant;

use crate::base::ObjectId;

/// Names a listing brings at once.
pub const PAGE: usize = 20_000;
/// Names that one sweep holds: 16 MiB of them. The rest waits for a later one: a vault has as many
/// segments at 8 TiB.
const MOST: usize = 1 << 20;

const SEGMENTS: &str = "segments/";
const CHECKPOINTS: &str = "checkpoint/";

#[derive(Default)]
pub struct Sweep {
    segments: Vec<ObjectId>,
    checkpoints: Vec<ObjectId>,
    /// The last name listed, of which prefix.
    last: Option<String>,
    phase: Phase,
    /// When an own commit that began after the listing was seen to stand.
    since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Segments,
    Checkpoints,
    Listed,
}

/// What may go.
#[derive(PartialEq, Eq, Debug)]
pub struct Orphans {
    pub since: Instant,
    pub segments: Vec<ObjectId>,
    pub checkpoints: Vec<ObjectId>,
}

impl Sweep {
    /// What to list next: a prefix, and the name after which it goes on. `None` when all is listed.
    pub fn page(&self) -> Option<(&'static str, String)> {
        let after = self.last.clone().unwrap_or_default();
        match self.phase {
            Phase::Segments => Some((SEGMENTS, after)),
            Phase::Checkpoints => Some((CHECKPOINTS, after)),
            Phase::Listed => None,
        }
    }

    /// The answer: the first [`PAGE`] names, or all that are left.
    pub fn listed(&mut self, names: &[String]) {
        // What is named otherwise is not ours.
        let ids = names.iter().filter_map(|name| name.rsplit('/').next()?.parse::<ObjectId>().ok());
        match self.phase {
            Phase::Segments => self.segments.extend(ids),
            Phase::Checkpoints => self.checkpoints.extend(ids),
            Phase::Listed => return,
        }
        self.last = names.last().cloned();
        if names.len() < PAGE || self.segments.len() + self.checkpoints.len() >= MOST {
            self.last = None;
            self.phase = if self.phase == Phase::Segments { Phase::Checkpoints } else { Phase::Listed };
        }
    }

    /// An own commit that began after the listing stands.
    pub fn stands(&mut self, time: Instant) {
        if self.phase == Phase::Listed {
            self.since.get_or_insert(time);
        }
    }

    /// What may go, after a grace that begins at `since`; nothing without a commit that stands. `named`: all that the
    /// vault's state names, or soon may, at a moment after the commit. What dies later is not among it: its own commit
    /// lists it, and its own grace begins then.
    pub fn orphans(self, named: &HashSet<ObjectId>) -> Option<Orphans> {
        let since = self.since?;
        let left = |ids: Vec<ObjectId>| ids.into_iter().filter(|id| !named.contains(id)).collect();
        Some(Orphans { since, segments: left(self.segments), checkpoints: left(self.checkpoints) })
    }
}
