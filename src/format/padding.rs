//! Padding to classes of 65 KiB x 2^k, so that an object's length tells next to nothing.

use crate::base::Random;
use crate::base::sizes::{CLASS_MAX, CLASS_MIN};
use crate::crypto::aead;

/// The classes of simulations: a history makes thousands of objects, and most of its time would go into padding.
#[cfg(feature = "plants")]
mod fine {
    use std::cell::Cell;

    pub const GRID: usize = 1024;

    thread_local! {
        static FINE: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on objects of this thread are as long as a multiple of a KiB.
    pub fn pad_finely() {
        FINE.set(true);
    }

    pub fn is_fine() -> bool {
        FINE.get()
    }
}

#[cfg(feature = "plants")]
pub use fine::pad_finely;

/// The smallest class that holds `len` bytes; `None` above the largest.
pub fn class(len: usize) -> Option<usize> {
    #[cfg(feature = "plants")]
    if fine::is_fine() {
        return (len <= CLASS_MAX).then(|| len.div_ceil(fine::GRID).max(1) * fine::GRID);
    }
    (len <= CLASS_MAX).then(|| len.div_ceil(CLASS_MIN).max(1).next_power_of_two() * CLASS_MIN)
}

/// Appends random-looking bytes up to the class. `None` (and nothing appended) above the largest.
pub fn pad(object: &mut Vec<u8>, random: &Random) -> Option<()> {
    let from = object.len();
    object.resize(class(from)?, 0);
    aead::fill_padding(random, &mut object[from..]);
    Some(())
}

/// Whether an object of this length can be one of a vault's.
pub fn is_class(len: usize) -> bool {
    len != 0 && class(len) == Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eight_classes_and_the_smallest_that_fits_is_taken() {
        assert_eq!(class(0), Some(66_560));
        assert_eq!(class(66_560), Some(66_560));
        assert_eq!(class(66_561), Some(133_120));
        assert_eq!(class(3 * 66_560), Some(4 * 66_560));
        assert_eq!(class(8_519_680), Some(8_519_680));
        assert_eq!(class(8_519_681), None);
        assert_eq!(class(usize::MAX), None);
        assert_eq!((0..=128).filter(|k| is_class(k * CLASS_MIN)).count(), 8);
    }

    #[test]
    fn padding_reaches_the_class_and_hides_where_the_bytes_end() {
        let mut object = vec![1; 1000];
        pad(&mut object, &Random::Kernel).unwrap();
        assert_eq!(object.len(), CLASS_MIN);
        let zeros = object[1000..].iter().filter(|&&b| b == 0).count();
        assert!((150..400).contains(&zeros), "{zeros} zeros among 65,560 bytes are not random");
        let mut large = vec![0; CLASS_MAX + 1];
        assert_eq!(pad(&mut large, &Random::Kernel), None);
        assert_eq!(large.len(), CLASS_MAX + 1);
    }
}
