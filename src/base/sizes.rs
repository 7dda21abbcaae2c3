//! Sizes and bounds that more than one room relies on. Bytes unless the name says otherwise.

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// The most plaintext that one extent holds.
pub const EXTENT_MAX: usize = 4 * MIB;
/// What a segment aims at.
pub const SEGMENT_TARGET: usize = 8 * MIB;
/// The smallest padding class; the others are this times a power of two.
pub const CLASS_MIN: usize = 65 * KIB;
/// The largest padding class: 65 KiB x 2^7.
pub const CLASS_MAX: usize = CLASS_MIN << 7;
/// Ranged reads of the remote are widened to this grid.
pub const READ_GRID: usize = 64 * KIB;
/// The longest file name.
pub const NAME_MAX: usize = 255;
/// The longest symlink target, without the terminating zero.
pub const TARGET_MAX: usize = 4095;
/// The largest file, 8 EiB less one byte.
pub const FILE_MAX: u64 = i64::MAX as u64;
