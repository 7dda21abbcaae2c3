//! Who goes first: what someone waits for, then what holds the cut, then small and old, then bulk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Classes of work, the most urgent first. Within one class what came first goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Class {
    /// Somebody waits for it: an fsync, a barrier, a read.
    Waited = 0,
    /// The round in the making cannot end without it.
    Holding = 1,
    /// Little, and dirty for long enough.
    Small = 2,
    /// All else: a big file's bytes on their way out, and those that are read ahead.
    Bulk = 3,
}

impl Class {
    const ALL: [Class; 4] = [Class::Waited, Class::Holding, Class::Small, Class::Bulk];
}

/// How urgent a job is. It rides with the job through all stages; whoever joins a job may raise it wherever it is.
#[derive(Clone, Debug)]
pub struct Urgency(Arc<AtomicU8>);

impl Urgency {
    pub fn new(class: Class) -> Urgency {
        Urgency(Arc::new(AtomicU8::new(class as u8)))
    }

    pub fn class(&self) -> Class {
        Class::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// At least as urgent as `class` from now on. True if it was less: the stages where the job may be should look
    /// again ([`super::Stage::look_again`]).
    pub fn raise(&self, class: Class) -> bool {
        self.0.fetch_min(class as u8, Ordering::Relaxed) > class as u8
    }
}

/// The place of the most urgent of those that wait.
pub(super) fn first<'a>(waiting: impl Iterator<Item = (&'a Urgency, u64)>) -> Option<usize> {
    waiting.enumerate().min_by_key(|(_, (urgency, number))| (urgency.class(), *number)).map(|(place, _)| place)
}
