//! Padding to classes of 65 KiB x 2^k, so that an object's length tells next to nothing.

use crate::base::Random;

/// The smallest class that holds `len` bytes; `None` above the largest.
pub fn class(_len: usize) -> Option<usize> {
    todo!()
}

/// Appends random-looking bytes up to the class. `None` (and nothing appended) above the largest.
pub fn pad(_object: &mut Vec<u8>, _random: &Random) -> Option<()> {
    todo!()
}
