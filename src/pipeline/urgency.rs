//! Who goes first: what someone waits for, then what holds the cut, then small and old, then bulk.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

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

/// How urgent a job is. It rides with the job through all stages; whoever joins a job may raise it wherever it is, and
/// with it what that job waits for.
#[derive(Clone, Debug)]
pub struct Urgency(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    class: AtomicU8,
    waits_for: Mutex<Vec<Weak<Inner>>>,
}

impl Inner {
    fn raise(&self, class: Class) -> bool {
        if self.class.fetch_min(class as u8, Ordering::Relaxed) <= class as u8 {
            // Whatever it waits for is as urgent already: so this ends, even where two wait for each other's parts.
            return false;
        }
        let waits_for: Vec<_> = self.waits_for.lock().iter().filter_map(Weak::upgrade).collect();
        waits_for.iter().for_each(|other| _ = other.raise(class));
        true
    }
}

impl Urgency {
    pub fn new(class: Class) -> Urgency {
        Urgency(Arc::new(Inner { class: AtomicU8::new(class as u8), waits_for: Mutex::default() }))
    }

    pub fn class(&self) -> Class {
        Class::ALL[usize::from(self.0.class.load(Ordering::Relaxed))]
    }

    /// At least as urgent as `class` from now on. True if it was less: the stages where the job may be should look
    /// again ([`super::Stage::look_again`]).
    pub fn raise(&self, class: Class) -> bool {
        self.0.raise(class)
    }

    /// This job cannot end before another, which is at least as urgent from now on. True if it was less.
    pub fn waits_for(&self, other: &Urgency) -> bool {
        if Arc::ptr_eq(&self.0, &other.0) {
            return false;
        }
        let mut waits_for = self.0.waits_for.lock();
        if waits_for.last().is_none_or(|last| last.as_ptr() != Arc::as_ptr(&other.0)) {
            waits_for.push(Arc::downgrade(&other.0));
        }
        drop(waits_for);
        other.raise(self.class())
    }
}

/// The place of the most urgent of those that wait.
pub(super) fn first<'a>(waiting: impl Iterator<Item = (&'a Urgency, u64)>) -> Option<usize> {
    waiting.enumerate().min_by_key(|(_, (urgency, number))| (urgency.class(), *number)).map(|(place, _)| place)
}
