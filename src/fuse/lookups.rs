//! How often the kernel was told of each inode, less what it has forgotten (the lookup count of the FUSE protocol).
//!
//! An inode is forgotten when its count is zero and not before: requests are served by several threads, so a FORGET
//! may be taken up after the LOOKUP that the kernel sent behind it. What follows from the forgetting is done under the
//! same lock: an inode that is told of again meanwhile may be opened and unlinked, and would lose what it then is.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::Ino;

#[derive(Default)]
pub(super) struct Lookups(Mutex<HashMap<Ino, u64>>);

impl Lookups {
    /// A reply is about to tell the kernel of this inode.
    pub fn told(&self, ino: Ino) {
        *self.0.lock().entry(ino).or_default() += 1;
    }

    /// Does the kernel know this inode?
    pub fn knows(&self, ino: Ino) -> bool {
        self.0.lock().contains_key(&ino)
    }

    /// All inodes that the kernel knows.
    pub fn all(&self) -> Vec<Ino> {
        self.0.lock().keys().copied().collect()
    }

    /// The kernel forgot `count` of what it was told. If it knows nothing of the inode any more, `last` is run, and
    /// nobody is told of the inode before it returns. This lock comes before those of the rooms below.
    pub fn forgotten(&self, ino: Ino, count: u64, last: impl FnOnce()) {
        let mut counts = self.0.lock();
        if let Some(known) = counts.get_mut(&ino) {
            *known = known.saturating_sub(count);
            if *known > 0 {
                return;
            }
            counts.remove(&ino);
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
