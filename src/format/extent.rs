//! Extents: sealing and opening a run of one file's bytes.

use std::ops::Range;

use zeroize::Zeroizing;

use super::FormatError;
use super::keys::Keys;
use super::record::Extent;
use crate::base::Random;

/// One frame of plaintext.
pub type Frame = Zeroizing<Box<[u8]>>;

/// Seals `plaintext` (1 byte to 4 MiB) under the file key that `key_id` names. The record's place is `Place::Local`.
pub fn seal(
    _keys: &Keys,
    _random: &Random,
    _key_id: [u8; 16],
    _plaintext: &[u8],
    _compress: bool,
) -> (Extent, Vec<u8>) {
    todo!()
}

/// Which frames hold these plaintext bytes.
pub fn frames_of(_extent: &Extent, _bytes: Range<u32>) -> Range<u32> {
    todo!()
}

/// Which plaintext bytes these frames hold.
pub fn plain_range(_extent: &Extent, _frames: Range<u32>) -> Range<u32> {
    todo!()
}

/// Which sealed bytes of the extent these frames are.
pub fn stored_range(_extent: &Extent, _frames: Range<u32>) -> Range<u32> {
    todo!()
}

/// Opens frames from exactly the bytes of `stored_range`.
pub fn open(_keys: &Keys, _extent: &Extent, _frames: Range<u32>, _stored: &[u8]) -> Result<Vec<Frame>, FormatError> {
    todo!()
}
