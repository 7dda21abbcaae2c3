//! How often the kernel was told of each inode, less what it has forgotten (the lookup count of the FUSE protocol).
//!
//! An inode is forgotten when its count is zero and not before: requests are served by several threads, so a FORGET
//! may be taken up after the LOOKUP that the kernel sent behind it. What follows from the forgetting is done under the
//! same lock: an inode that is told of again meanwhile may be opened and unlinked, and would lose what it then is.
//!
//! The kernel may know millions of inodes. Their numbers are given out in order, so counts of neighbours lie together:
//! some 10 bytes each, and no table that doubles at once.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::base::Ino;

/// Inodes whose counts lie together.
const NEIGHBOURS: u64 = 16;

/// A count that has come to the highest number stays there: such an inode is never forgotten.
type Counts = [u32; NEIGHBOURS as usize];

#[derive(Default)]
pub(super) struct Lookups(Mutex<BTreeMap<u64, Counts>>);

fn place(ino: Ino) -> (u64, usize) {
    (ino.0 / NEIGHBOURS, (ino.0 % NEIGHBOURS) as usize)
}

impl Lookups {
    /// A reply is about to tell the kernel of this inode.
    pub fn told(&self, ino: Ino) {
        let (group, at) = place(ino);
        let mut counts = self.0.lock();
        let count = &mut counts.entry(group).or_default()[at];
        *count = count.saturating_add(1);
    }

    /// Does the kernel know this inode?
    pub fn knows(&self, ino: Ino) -> bool {
        let (group, at) = place(ino);
        self.0.lock().get(&group).is_some_and(|counts| counts[at] > 0)
    }

    /// All inodes that the kernel knows.
    pub fn all(&self) -> Vec<Ino> {
        let counts = self.0.lock();
        let known = |(group, counts): (&u64, &Counts)| {
            let first = group * NEIGHBOURS;
            let known = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            known.map(|(at, _)| Ino(first + at as u64)).collect::<Vec<_>>()
        };
        counts.iter().flat_map(known).collect()
    }

    /// The kernel forgot `count` of what it was told. If it knows nothing of the inode any more, `last` is run, and
    /// nobody is told of the inode before it returns. This lock comes before those of the rooms below.
    pub fn forgotten(&self, ino: Ino, count: u64, last: impl FnOnce()) {
        let mut counts = self.0.lock();
        let (group, at) = place(ino);
        if let Some(group_counts) = counts.get_mut(&group) {
            let known = &mut group_counts[at];
            if *known < u32::MAX {
                *known = known.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            }
            if *known > 0 {
                return;
            }
            if group_counts.iter().all(|count| *count == 0) {
                counts.remove(&group);
            }
        }
        last();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    fn forget(lookups: &Lookups, ino: Ino, count: u64) -> bool {
        let mut last = false;
        lookups.forgotten(ino, count, || last = true);
        last
    }

    #[test]
    fn an_inode_is_forgotten_when_all_that_was_told_is() {
        let lookups = Lookups::default();
        (0..3).for_each(|_| lookups.told(Ino(7)));
        assert!(!forget(&lookups, Ino(7), 2));
        lookups.told(Ino(7));
        assert!(!forget(&lookups, Ino(7), 1));
        assert!(forget(&lookups, Ino(7), 1));
        assert!(forget(&lookups, Ino(8), 1));
    }

    #[test]
    fn neighbours_are_counted_each_by_itself_and_leave_nothing_behind() {
        let lookups = Lookups::default();
        let known: Vec<Ino> = [1, 15, 16, 31, 32, 1 << 40, u64::MAX].map(Ino).into();
        known.iter().for_each(|ino| lookups.told(*ino));
        lookups.told(Ino(16));
        assert_eq!(lookups.all(), known);
        assert!(!lookups.knows(Ino(2)) && !lookups.knows(Ino(33)));
        for ino in &known {
            assert_eq!(forget(&lookups, *ino, 1), *ino != Ino(16), "{ino}");
        }
        assert_eq!(lookups.all(), [Ino(16)]);
        assert!(forget(&lookups, Ino(16), 1));
        assert!(lookups.0.lock().is_empty());
    }

    #[test]
    fn a_count_that_ran_out_of_numbers_is_never_forgotten() {
        let lookups = Lookups::default();
        lookups.told(Ino(7));
        lookups.0.lock().values_mut().for_each(|counts| counts[7] = u32::MAX - 1);
        lookups.told(Ino(7));
        lookups.told(Ino(7));
        assert!(!forget(&lookups, Ino(7), u64::MAX));
        assert!(lookups.knows(Ino(7)));
    }

    #[test]
    fn a_million_inodes_take_ten_bytes_each() {
        let lookups = Lookups::default();
        (1..=1_000_000).for_each(|ino| lookups.told(Ino(ino)));
        let groups = lookups.0.lock().len();
        // A node of the map is at least half full.
        assert!(2 * groups * size_of::<(u64, Counts)>() < 10_000_000, "{groups} groups");
    }

    #[test]
    fn nobody_is_told_of_an_inode_while_it_is_being_forgotten() {
        let lookups = Arc::new(Lookups::default());
        lookups.told(Ino(7));
        let told = Arc::new(AtomicBool::new(false));
        let (mut teller, mut told_meanwhile) = (None, true);
        lookups.forgotten(Ino(7), 1, || {
            let (lookups, mark) = (lookups.clone(), told.clone());
            teller = Some(std::thread::spawn(move || {
                lookups.told(Ino(7));
                mark.store(true, Ordering::SeqCst);
            }));
            // Time enough for one who need not wait.
            std::thread::sleep(Duration::from_millis(50));
            told_meanwhile = told.load(Ordering::SeqCst);
        });
        teller.expect("the last count was forgotten").join().expect("told");
        assert!(!told_meanwhile);
        assert!(forget(&lookups, Ino(7), 1), "what was told afterwards counts by itself");
    }
}
