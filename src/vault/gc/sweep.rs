//! A sweep for orphans, decided (D2): list, then begin an own commit and see it stand, then delete only what the list
//! held and what nothing names.
//!
//! In this order it is safe against everybody: what was listed was sent before our commit began, so by us or by a writer
//! who was overtaken before it, and no commit of such a one can come any more.

use std::collections::{BTreeSet, HashSet};

use tokio::time::Instant;

use crate::base::ObjectId;

/// Names a listing brings at once.
pub const PAGE: usize = 20_000;
/// Names that one sweep holds: 16 MiB of them. The rest waits for a later one, which begins elsewhere: a vault has as
/// many segments at 8 TiB.
const MOST: usize = 1 << 20;
/// With so many names below the first of [`PLACES`] prefixes, or fewer, one listing brings all there are.
const FEW: usize = 8;
/// Segments lie under the first two hexadecimal digits of their ids.
const PLACES: usize = 256;

const SEGMENTS: &str = "segments/";
const CHECKPOINTS: &str = "checkpoint/";

/// What is listed is asked for by place, for a store may walk through all that lies below a prefix to bring a part of it:
/// in few requests where there is little, and each of bounded length where there is much.
pub struct Sweep {
    segments: Vec<ObjectId>,
    checkpoints: Vec<ObjectId>,
    /// The last name listed, of which prefix.
    last: Option<String>,
    /// The place where it begins.
    first: u8,
    phase: Phase,
    /// When an own commit that began after the listing was seen to stand.
    since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The place that tells how many there are.
    Sample,
    /// All segments at once: they are few.
    Whole,
    /// The place that comes so far after the first.
    Place(usize),
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
    /// Begins at that place, which is drawn at random.
    pub fn new(first: u8) -> Sweep {
        let phase = Phase::Sample;
        Sweep { segments: Vec::new(), checkpoints: Vec::new(), last: None, first, phase, since: None }
    }

    /// What to list next: a prefix, and the name after which it goes on. `None` when all is listed.
    pub fn page(&self) -> Option<(String, String)> {
        let after = self.last.clone().unwrap_or_default();
        let place = |k: usize| format!("{SEGMENTS}{:02x}/", (usize::from(self.first) + k) % PLACES);
        let prefix = match self.phase {
            Phase::Sample => place(0),
            Phase::Whole => SEGMENTS.to_owned(),
            Phase::Place(k) => place(k),
            Phase::Checkpoints => CHECKPOINTS.to_owned(),
            Phase::Listed => return None,
        };
        Some((prefix, after))
    }

    /// The answer: the first [`PAGE`] names, or all that are left.
    pub fn listed(&mut self, names: &[String]) {
        // What is named otherwise is not ours.
        let ids = names.iter().filter_map(|name| name.rsplit('/').next()?.parse::<ObjectId>().ok());
        match self.phase {
            Phase::Checkpoints => self.checkpoints.extend(ids),
            Phase::Listed => return,
            _ => self.segments.extend(ids),
        }
        let is_whole = names.len() < PAGE;
        let is_full = self.segments.len() + self.checkpoints.len() >= MOST;
        self.last = names.last().filter(|_| !is_whole && !is_full && self.phase != Phase::Whole).cloned();
        if self.last.is_some() {
            return;
        }
        self.phase = match self.phase {
            Phase::Sample if names.len() <= FEW => Phase::Whole,
            Phase::Whole if is_whole => Phase::Checkpoints,
            // There were more than it seemed.
            Phase::Whole => Phase::Place(0),
            Phase::Sample if !is_full => Phase::Place(1),
            Phase::Place(k) if !is_full && k + 1 < PLACES => Phase::Place(k + 1),
            Phase::Sample | Phase::Place(_) => Phase::Checkpoints,
            Phase::Checkpoints | Phase::Listed => Phase::Listed,
        };
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
        // Some were listed twice.
        let left = |ids: Vec<ObjectId>| {
            let left: BTreeSet<ObjectId> = ids.into_iter().filter(|id| !named.contains(id)).collect();
            left.into_iter().collect()
        };
        Some(Orphans { since, segments: left(self.segments), checkpoints: left(self.checkpoints) })
    }
}
