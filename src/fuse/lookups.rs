//! How often the kernel was told of each inode, less what it has forgotten (the lookup count of the FUSE protocol).
//!
//! An inode is forgotten when its count is zero and not before: requests are served by several threads, so a FORGET
//! may be taken up after the LOOKUP that the kernel sent behind it.

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

    /// A reply that would have told of it did not.
    pub fn not_told(&self, ino: Ino) {
        self.forgotten(ino, 1);
    }

    /// The kernel forgot `count` of what it was told; true if it knows nothing of the inode any more.
    pub fn forgotten(&self, ino: Ino, count: u64) -> bool {
        let mut counts = self.0.lock();
        let Some(known) = counts.get_mut(&ino) else { return true };
        *known = known.saturating_sub(count);
        let done = *known == 0;
        if done {
            counts.remove(&ino);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_forgotten_when_all_that_was_told_is() {
        let lookups = Lookups::default();
        (0..3).for_each(|_| lookups.told(Ino(7)));
        assert!(!lookups.forgotten(Ino(7), 2));
        lookups.told(Ino(7));
        assert!(!lookups.forgotten(Ino(7), 1));
        lookups.not_told(Ino(8));
        assert!(lookups.forgotten(Ino(7), 1));
    }
}
