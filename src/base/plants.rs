//! Planted bugs, by name, for the self-test of the simulation: a harness that finds none of them tests nothing.
//!
//! Only with the feature `plants`; without it `on` is a constant `false` and costs nothing. Plants are set for one
//! thread (a simulation runs in one), so that tests which run beside it are left alone.

#[cfg(feature = "plants")]
mod planted {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static PLANTS: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Plants the bug of that name, in this thread.
    pub fn set(name: &'static str) {
        PLANTS.with_borrow_mut(|plants| plants.insert(name));
    }

    /// Takes all bugs out again.
    pub fn clear() {
        PLANTS.with_borrow_mut(BTreeSet::clear);
    }

    /// Is the bug of that name planted?
    pub fn on(name: &'static str) -> bool {
        PLANTS.with_borrow(|plants| plants.contains(name))
    }
}

#[cfg(feature = "plants")]
pub use planted::{clear, on, set};

/// No bug is planted in a program built without the feature.
#[cfg(not(feature = "plants"))]
#[inline(always)]
pub const fn on(_name: &'static str) -> bool {
    false
}
