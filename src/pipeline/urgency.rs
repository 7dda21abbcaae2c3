//! Who goes first: what someone waits for, then what holds the cut, then small and old, then bulk.

use std::collections::VecDeque;
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

/// Those that wait, in a line for each class, and each line in the order of numbers: who goes first is found without
/// looking at the others. Who is raised while waiting changes lines when somebody says so ([`Lines::look_again`]).
pub(super) struct Lines<T>([VecDeque<(u64, T)>; Class::ALL.len()]);

/// What has an urgency.
pub(super) trait Urgent {
    fn urgency(&self) -> &Urgency;
}

impl<T: Urgent> Lines<T> {
    pub fn new() -> Lines<T> {
        Lines(Class::ALL.map(|_| VecDeque::new()))
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }

    /// Numbers are unique; mostly the newest is the highest.
    pub fn push(&mut self, number: u64, one: T) {
        let line = &mut self.0[one.urgency().class() as usize];
        let place = match line.back() {
            Some((last, _)) if *last > number => line.partition_point(|(other, _)| *other < number),
            _ => line.len(),
        };
        line.insert(place, (number, one));
    }

    /// The most urgent, and of those the one with the lowest number.
    pub fn first(&self) -> Option<&T> {
        self.0.iter().find_map(VecDeque::front).map(|(_, one)| one)
    }

    /// Takes that one out.
    pub fn pop(&mut self) -> Option<T> {
        self.0.iter_mut().find_map(VecDeque::pop_front).map(|(_, one)| one)
    }

    /// Somebody was raised.
    pub fn look_again(&mut self) {
        for class in Class::ALL {
            let line = &mut self.0[class as usize];
            if line.iter().all(|(_, one)| one.urgency().class() == class) {
                continue;
            }
            for (number, one) in std::mem::take(line) {
                self.push(number, one);
            }
        }
    }
}

/// The place of the most urgent of those that wait.
pub(super) fn first<'a>(waiting: impl Iterator<Item = (&'a Urgency, u64)>) -> Option<usize> {
    waiting.enumerate().min_by_key(|(_, (urgency, number))| (urgency.class(), *number)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct One(u64, Urgency);

    impl Urgent for One {
        fn urgency(&self) -> &Urgency {
            &self.1
        }
    }

    proptest! {
        /// The lines give what a look at all that wait gives.
        #[test]
        fn lines_keep_the_order_of_class_and_number(
            steps in prop::collection::vec((0..4usize, 0..4usize, 0..8usize), 1..80),
        ) {
            let (mut lines, mut all) = (Lines::new(), Vec::<(u64, Urgency)>::new());
            for (number, (what, class, which)) in steps.into_iter().enumerate() {
                let class = Class::ALL[class];
                match what {
                    // Also one that comes back with an old number.
                    0 | 1 => {
                        let number = if what == 0 { 1000 + number as u64 } else { 1000 - number as u64 };
                        let urgency = Urgency::new(class);
                        all.push((number, urgency.clone()));
                        lines.push(number, One(number, urgency));
                    }
                    2 if !all.is_empty() => {
                        let which = which % all.len();
                        all[which].1.raise(class);
                        lines.look_again();
                    }
                    _ => {
                        let place = first(all.iter().map(|(number, urgency)| (urgency, *number)));
                        prop_assert_eq!(lines.first().map(|one| one.0), place.map(|place| all[place].0));
                        prop_assert_eq!(lines.pop().map(|one| one.0), place.map(|place| all.remove(place).0));
                    }
                }
                prop_assert_eq!(lines.len(), all.len());
            }
        }
    }
}
