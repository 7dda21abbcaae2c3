//! Extents: sealing and opening a run of one file's bytes.
//!
//! Owns: frames, compression, which bytes lie where. Does not own: the record's encoding ([`super::record`]), the
//! nonce of a frame ([`crate::crypto::aead`]), where an extent lies.
//!
//! Invariants: a frame is authenticated before it is decompressed, and never grows beyond its plaintext length as the
//! record tells it. A record is checked before any arithmetic on it. Plaintext that is handed out is wiped when
//! dropped.

use std::ops::Range;
use std::sync::LazyLock;

use zeroize::Zeroize;
use zstd::bulk::{Compressor, Decompressor};

use super::FormatError;
use super::keys::Keys;
use super::record::{Extent, Place};
use crate::base::Random;
use crate::base::sizes::EXTENT_MAX;
use crate::crypto::aead::{FrameKey, TAG_LEN};
use crate::crypto::secret::SecretBytes;

/// One frame of plaintext.
pub type Frame = SecretBytes;

const WHAT: &str = "extent";
const TAG: u32 = TAG_LEN as u32;
/// 16 KiB: a random read of 4 KiB opens little more than it needs, and tags are a thousandth.
const FRAME_LOG2: u8 = 14;
/// 128 KiB: small frames compress badly.
const COMPRESSED_FRAME_LOG2: u8 = 17;
const LEVEL: i32 = 1;
/// What zstd wants to find free behind its output: a block, what is literal of one, and its margins.
const DECOMPRESSION_ROOM: usize = 2 * (1 << COMPRESSED_FRAME_LOG2) + 256;
/// How much of an extent is tried before all of it is compressed.
const SAMPLE: usize = 16 * 1024;
const SAMPLES: usize = 4;
/// How much is glanced at before anything is tried.
const GLANCE: usize = 512;

/// Compression pays if it saves an eighth.
fn pays(compressed: usize, plain: usize) -> bool {
    compressed < plain - plain / 8
}

/// Seals `plaintext` (1 byte to 4 MiB) under the file key that `key_id` names. The record's place is `Place::Local`.
pub fn seal(keys: &Keys, random: &Random, key_id: [u8; 16], plaintext: &[u8], compress: bool) -> (Extent, Vec<u8>) {
    assert!((1..=EXTENT_MAX).contains(&plaintext.len()), "an extent holds 1 byte to 4 MiB");
    let nonce = random.bytes();
    let key = FrameKey::new(&keys.file_key(&key_id), &nonce);
    let sealed = if compress { seal_compressed(&key, plaintext) } else { None };
    let (frame_log2, frames, bytes) = match sealed {
        Some((frames, bytes)) => (COMPRESSED_FRAME_LOG2, frames, bytes),
        None => (FRAME_LOG2, Vec::new(), seal_raw(&key, plaintext)),
    };
    let extent = Extent {
        key_id,
        nonce,
        frame_log2,
        len: plaintext.len() as u32,
        stored: bytes.len() as u32,
        frames,
        place: Place::Local,
        extra: None,
    };
    (extent, bytes)
}

fn seal_raw(key: &FrameKey, plaintext: &[u8]) -> Vec<u8> {
    let count = plaintext.len().div_ceil(1 << FRAME_LOG2);
    let mut out = Vec::with_capacity(plaintext.len() + count * TAG_LEN);
    for (frame, plain) in (0u32..).zip(plaintext.chunks(1 << FRAME_LOG2)) {
        let from = out.len();
        out.extend_from_slice(plain);
        let tag = key.seal_frame(frame, frame as usize + 1 == count, &mut out[from..]);
        out.extend_from_slice(&tag);
    }
    out
}

/// The sealed lengths of the frames, and the sealed bytes; `None` if compression does not pay.
fn seal_compressed(key: &FrameKey, plaintext: &[u8]) -> Option<(Vec<u32>, Vec<u8>)> {
    if looks_random(plaintext) {
        return None;
    }
    // A compressor cannot be made only where memory is short: then uncompressed is best.
    let mut compressor = Compressor::new(LEVEL).ok()?;
    let sealed = seal_frames(key, &mut compressor, plaintext);
    overwrite(&mut compressor, plaintext.len().min(1 << COMPRESSED_FRAME_LOG2));
    sealed
}

fn seal_frames(key: &FrameKey, compressor: &mut Compressor<'_>, plaintext: &[u8]) -> Option<(Vec<u32>, Vec<u8>)> {
    // Of little the samples would be all of it.
    if plaintext.len() > SAMPLES * SAMPLE && !sample_pays(compressor, plaintext) {
        return None;
    }
    let chunks = plaintext.chunks(1 << COMPRESSED_FRAME_LOG2);
    let (count, mut frames) = (chunks.len(), Vec::with_capacity(chunks.len()));
    // Room for every frame as it is: one that does not shrink is stored so.
    let mut out = vec![0; plaintext.len() + count * TAG_LEN];
    let mut end = 0;
    for (frame, plain) in (0u32..).zip(chunks) {
        let room = &mut out[end..end + plain.len() + TAG_LEN];
        let len = compress_into(compressor, plain, &mut room[..plain.len()]).unwrap_or_else(|| {
            room[..plain.len()].copy_from_slice(plain);
            plain.len()
        });
        let tag = key.seal_frame(frame, frame as usize + 1 == count, &mut room[..len]);
        room[len..len + TAG_LEN].copy_from_slice(&tag);
        frames.push(len as u32 + TAG);
        end += len + TAG_LEN;
    }
    if !pays(end, plaintext.len()) {
        out.zeroize();
        return None;
    }
    // What zstd scribbled beyond the end is plaintext, compressed.
    out[end..].zeroize();
    out.truncate(end);
    Some((frames, out))
}

/// The compressed length, `None` unless it is less than the plaintext's.
fn compress_into(compressor: &mut Compressor<'_>, plain: &[u8], out: &mut [u8]) -> Option<usize> {
    compressor.compress_to_buffer(plain, out).ok().filter(|&len| len < plain.len())
}

/// A glance at the beginning and the middle, which costs less than a compressor's making: what is compressed already, or
/// encrypted, has nearly as many different bytes in a stretch as chance has.
fn looks_random(plaintext: &[u8]) -> bool {
    let middle = &plaintext[plaintext.len() / 2..];
    [plaintext, middle].iter().all(|part| {
        let part = &part[..part.len().min(GLANCE)];
        let mut seen = [false; 256];
        part.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        let different = seen.iter().filter(|seen| **seen).count();
        // Of n random bytes 256 (1 - e^(-n/256)) are different, give or take a fortieth.
        different as f64 > 0.9 * 256.0 * (1.0 - (-(part.len() as f64) / 256.0).exp())
    })
}

/// zstd keeps what it could not shorten of a block in memory of its own, and gives that back unwiped. What does not
/// shorten at all takes the place of what was there; of the length of the longest block it overwrites all of it.
fn overwrite(compressor: &mut Compressor<'_>, len: usize) {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut noise = vec![0; 1 << COMPRESSED_FRAME_LOG2];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    });
    let mut out = vec![0; len + len / 128 + 64];
    // Nobody wants the result; that it does not fit is no matter either.
    let _ = compressor.compress_to_buffer(&NOISE[..len], &mut out[..]);
}

/// Tries a few samples, spread over the extent.
fn sample_pays(compressor: &mut Compressor<'_>, plaintext: &[u8]) -> bool {
    let mut out = SecretBytes::from(vec![0; SAMPLE]);
    let step = (plaintext.len() / SAMPLES).max(SAMPLE);
    let (mut plain, mut compressed) = (0, 0);
    for chunk in plaintext.chunks(step).take(SAMPLES) {
        let sample = &chunk[..chunk.len().min(SAMPLE)];
        plain += sample.len();
        compressed += compress_into(compressor, sample, &mut out).unwrap_or(sample.len());
    }
    // For what is longer the compressor takes other memory, and gives this back.
    overwrite(compressor, SAMPLE);
    pays(compressed, plain)
}

/// The record of the same extent under a key id and a nonce of its own: what [`seal_anew`] makes. Its frames stay as they
/// are, so all that is kept by frame number stays true.
pub fn renew(random: &Random, extent: &Extent) -> Extent {
    Extent { key_id: random.bytes(), nonce: random.bytes(), place: Place::Local, ..extent.clone() }
}

/// The sealed bytes of `new`, made by [`renew`], from all those of `old`.
pub fn seal_anew(keys: &Keys, old: &Extent, new: &Extent, stored: &[u8]) -> Result<Vec<u8>, FormatError> {
    old.check()?;
    if stored.len() != old.stored as usize
        || stored_range(old, 0..old.frame_count()) != stored_range(new, 0..new.frame_count())
    {
        return Err(FormatError::Malformed { what: WHAT, why: "there are more or fewer bytes than its frames have" });
    }
    let [from, to] = [old, new].map(|extent| FrameKey::new(&keys.file_key(&extent.key_id), &extent.nonce));
    // Plaintext lies in it on the way: wiped unless all of it was sealed again.
    let mut bytes = SecretBytes::from(stored.to_vec());
    for frame in 0..old.frame_count() {
        let (range, last) = (stored_range(old, frame..frame + 1), frame + 1 == old.frame_count());
        let sealed = &mut bytes[range.start as usize..range.end as usize];
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(FormatError::Unauthentic(WHAT))?;
        from.open_frame(frame, last, text, tag).map_err(|_| FormatError::Unauthentic(WHAT))?;
        *tag = to.seal_frame(frame, last, text);
    }
    Ok(bytes.to_vec())
}

/// Are these the sealed bytes of the extent, all of them, as they were made?
pub fn check_sealed(keys: &Keys, extent: &Extent, stored: &[u8]) -> Result<(), FormatError> {
    extent.check()?;
    if stored.len() != extent.stored as usize || stored.len() != stored_range(extent, 0..extent.frame_count()).len() {
        return Err(FormatError::Malformed { what: WHAT, why: "there are more or fewer bytes than its frames have" });
    }
    let key = FrameKey::new(&keys.file_key(&extent.key_id), &extent.nonce);
    for frame in 0..extent.frame_count() {
        let (range, last) = (stored_range(extent, frame..frame + 1), frame + 1 == extent.frame_count());
        let sealed = &stored[range.start as usize..range.end as usize];
        let (bytes, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(FormatError::Unauthentic(WHAT))?;
        let mut plain = SecretBytes::from(bytes.to_vec());
        key.open_frame(frame, last, &mut plain, tag).map_err(|_| FormatError::Unauthentic(WHAT))?;
    }
    Ok(())
}

/// Which frames hold these plaintext bytes.
pub fn frames_of(extent: &Extent, bytes: Range<u32>) -> Range<u32> {
    let end = bytes.end.min(extent.len);
    if bytes.start >= end {
        return 0..0;
    }
    bytes.start >> extent.frame_log2..end.div_ceil(1 << extent.frame_log2)
}

/// Which plaintext bytes these frames hold.
pub fn plain_range(extent: &Extent, frames: Range<u32>) -> Range<u32> {
    let start = |frame: u32| (frame << extent.frame_log2).min(extent.len);
    start(frames.start)..start(frames.end)
}

/// Which sealed bytes of the extent these frames are.
pub fn stored_range(extent: &Extent, frames: Range<u32>) -> Range<u32> {
    let start = |frame: u32| match &extent.frames[..] {
        [] => ((frame << extent.frame_log2) + frame * TAG).min(extent.stored),
        frames => frames.iter().take(frame as usize).sum(),
    };
    start(frames.start)..start(frames.end)
}

/// Opens frames from exactly the bytes of `stored_range`.
pub fn open(keys: &Keys, extent: &Extent, frames: Range<u32>, stored: &[u8]) -> Result<Vec<Frame>, FormatError> {
    extent.check()?;
    if frames.start > frames.end || frames.end > extent.frame_count() {
        return Err(FormatError::Malformed { what: WHAT, why: "it has no such frame" });
    }
    if stored.len() != stored_range(extent, frames.clone()).len() {
        return Err(FormatError::Malformed { what: WHAT, why: "there are more or fewer bytes than its frames have" });
    }
    let key = FrameKey::new(&keys.file_key(&extent.key_id), &extent.nonce);
    let mut rest = stored;
    frames
        .map(|frame| {
            let len = stored_range(extent, frame..frame + 1).len();
            let (sealed, after) = rest.split_at(len);
            rest = after;
            open_frame(&key, extent, frame, sealed)
        })
        .collect()
}

fn open_frame(key: &FrameKey, extent: &Extent, frame: u32, sealed: &[u8]) -> Result<Frame, FormatError> {
    let (bytes, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(FormatError::Unauthentic(WHAT))?;
    let mut plain = Frame::from(bytes.to_vec());
    let last = frame + 1 == extent.frame_count();
    key.open_frame(frame, last, &mut plain, tag).map_err(|_| FormatError::Unauthentic(WHAT))?;
    let len = extent.frame_len(frame) as usize;
    if plain.len() == len { Ok(plain) } else { decompress(&plain, len) }
}

fn decompress(compressed: &[u8], len: usize) -> Result<Frame, FormatError> {
    let malformed = FormatError::Malformed { what: WHAT, why: "a frame does not decompress to its length" };
    // Where it finds room behind the output, zstd puts parts of it there, and not into memory that it gives back unwiped.
    let mut room = Frame::from(vec![0; len + DECOMPRESSION_ROOM]);
    let done = Decompressor::new().and_then(|mut zstd| zstd.decompress_to_buffer(compressed, &mut room[..]));
    if done.is_ok_and(|done| done == len) { Ok(Frame::from(room[..len].to_vec())) } else { Err(malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::secret::Key as SecretKey;

    fn keys() -> Keys {
        Keys::from_master(&SecretKey::from_bytes([1; 32]))
    }

    fn text(len: usize) -> Vec<u8> {
        b"All work and no play makes Jack a dull boy.\n".iter().copied().cycle().take(len).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        Random::Kernel.fill(&mut out);
        out
    }

    fn open_all(keys: &Keys, extent: &Extent, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
        let frames = open(keys, extent, 0..extent.frame_count(), bytes)?;
        Ok(frames.iter().flat_map(|frame| frame.iter().copied()).collect())
    }

    #[test]
    fn every_length_around_frames_comes_back() {
        let keys = keys();
        for len in [1, 2, 4095, 16383, 16384, 16385, 32768, 131_072, 131_073, 300_000, EXTENT_MAX] {
            for compress in [false, true] {
                for plain in [text(len), noise(len)] {
                    let (extent, bytes) = seal(&keys, &Random::Kernel, [2; 16], &plain, compress);
                    assert_eq!(extent.stored as usize, bytes.len());
                    assert_eq!(extent.check(), Ok(()));
                    assert_eq!(open_all(&keys, &extent, &bytes), Ok(plain), "{len} {compress}");
                }
            }
        }
    }

    #[test]
    fn noise_is_seen_at_a_glance_and_text_is_not_taken_for_it() {
        for len in [64, 200, 512, 4096, EXTENT_MAX] {
            assert!((0..20).filter(|_| looks_random(&noise(len))).count() >= 14, "{len}");
            assert!(!looks_random(&text(len)), "{len}");
            let half = [noise(len), text(len)].concat();
            assert!(!looks_random(&half), "{len}: half of it is text");
        }
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let pages: Vec<_> = program.chunks_exact(4096).step_by(64).collect();
        let random = pages.iter().filter(|page| looks_random(page)).count();
        assert!(random * 10 < pages.len(), "{random} pages of {}", pages.len());
    }

    #[test]
    fn what_compresses_is_compressed_and_what_does_not_is_not() {
        let (keys, random) = (keys(), Random::Kernel);
        let (extent, bytes) = seal(&keys, &random, [2; 16], &text(1 << 20), true);
        assert!(bytes.len() < 1 << 17);
        assert_eq!((extent.frame_log2, extent.frames.len()), (17, 8));
        let (extent, bytes) = seal(&keys, &random, [2; 16], &noise(1 << 20), true);
        assert_eq!((extent.frame_log2, extent.frames.len(), bytes.len()), (14, 0, (1 << 20) + 64 * 16));
        let (extent, _) = seal(&keys, &random, [2; 16], &text(1 << 20), false);
        assert_eq!((extent.frame_log2, extent.frames.len()), (14, 0));
    }

    #[test]
    fn a_frame_that_does_not_shrink_is_stored_as_it_is() {
        let keys = keys();
        let mut plain = text(1 << 20);
        plain[1 << 18..3 << 17].copy_from_slice(&noise(1 << 17));
        let (extent, bytes) = seal(&keys, &Random::Kernel, [2; 16], &plain, true);
        assert_eq!(extent.frames[2], (1 << 17) + 16);
        assert!(extent.frames[1] < 1 << 15);
        assert_eq!(open_all(&keys, &extent, &bytes), Ok(plain));
    }

    #[test]
    fn what_is_sealed_anew_has_the_same_frames_and_other_bytes() {
        let (keys, random) = (keys(), Random::Kernel);
        for (len, compress) in [(1, false), (16_385, false), (300_000, true)] {
            let plain = text(len);
            let (old, bytes) = seal(&keys, &random, [2; 16], &plain, compress);
            let new = renew(&random, &old);
            let anew = seal_anew(&keys, &old, &new, &bytes).unwrap();
            assert_eq!(open_all(&keys, &new, &anew), Ok(plain));
            assert!(open_all(&keys, &old, &anew).is_err());
            assert!(new.key_id != old.key_id && new.nonce != old.nonce);
            assert_eq!(Extent { key_id: old.key_id, nonce: old.nonce, ..new.clone() }, old);
            let shared = bytes.windows(16).filter(|window| anew.windows(16).any(|other| other == *window)).count();
            assert_eq!(if len < 20_000 { shared } else { 0 }, 0);
            let mut bad = bytes.clone();
            bad[0] ^= 1;
            assert_eq!(seal_anew(&keys, &old, &new, &bad), Err(FormatError::Unauthentic(WHAT)));
            assert!(seal_anew(&keys, &old, &new, &bytes[1..]).is_err());
        }
    }

    #[test]
    fn frames_moved_cut_repeated_or_of_another_extent_do_not_open() {
        let (keys, random) = (keys(), Random::Kernel);
        let plain = text(50_000);
        let (extent, bytes) = seal(&keys, &random, [2; 16], &plain, false);
        let unauthentic = Err(FormatError::Unauthentic(WHAT));
        let sealed = |frame: u32| {
            let range = stored_range(&extent, frame..frame + 1);
            bytes[range.start as usize..range.end as usize].to_vec()
        };
        assert_eq!(open(&keys, &extent, 0..2, &[sealed(1), sealed(0)].concat()), unauthentic, "swapped");
        assert_eq!(open(&keys, &extent, 1..2, &sealed(0)), unauthentic, "moved");
        let mut flipped = sealed(0);
        flipped[100] ^= 1;
        assert_eq!(open(&keys, &extent, 0..1, &flipped), unauthentic, "flipped");
        let cut = Extent { len: 32_768, stored: 2 * 16_400, ..extent.clone() };
        assert_eq!(open(&keys, &cut, 0..2, &bytes[..2 * 16_400]), unauthentic, "cut at a frame's end");
        let other = Extent { nonce: [9; 16], ..extent.clone() };
        assert_eq!(open(&keys, &other, 0..1, &sealed(0)), unauthentic, "another extent");
        let other = Extent { key_id: [9; 16], ..extent.clone() };
        assert_eq!(open(&keys, &other, 0..1, &sealed(0)), unauthentic, "another file");
        assert!(matches!(open(&keys, &extent, 0..1, &bytes), Err(FormatError::Malformed { .. })), "too many bytes");
        assert!(matches!(open(&keys, &extent, 3..5, &[]), Err(FormatError::Malformed { .. })), "no such frame");
        assert!(matches!(
            open(&keys, &Extent { stored: 1, ..extent.clone() }, 0..1, &sealed(0)),
            Err(FormatError::Malformed { .. })
        ));
    }

    #[test]
    fn a_frame_expands_to_its_length_and_no_further() {
        let keys = keys();
        let (good, _) = seal(&keys, &Random::Kernel, [2; 16], &text(1 << 17), true);
        let key = FrameKey::new(&keys.file_key(&good.key_id), &good.nonce);
        for (len, fits) in [((1 << 17) - 1, false), (1 << 17, true), ((1 << 17) + 1, false), (1 << 24, false)] {
            let mut bytes = zstd::bulk::compress(&vec![0; len], 1).unwrap();
            let tag = key.seal_frame(0, true, &mut bytes);
            bytes.extend_from_slice(&tag);
            let extent = Extent { stored: bytes.len() as u32, frames: vec![bytes.len() as u32], ..good.clone() };
            assert_eq!(open(&keys, &extent, 0..1, &bytes).is_ok(), fits, "{len}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_range_is_read_through_its_frames(
            len in 1..200_000usize, from in 0..200_000u32, count in 0..50_000u32, compress: bool,
        ) {
            let keys = keys();
            let plain = text(len);
            let (extent, bytes) = seal(&keys, &Random::Kernel, [2; 16], &plain, compress);
            let from = from.min(len as u32);
            let to = (from + count).min(len as u32);
            let frames = frames_of(&extent, from..to);
            let stored = stored_range(&extent, frames.clone());
            let held = plain_range(&extent, frames.clone());
            let opened = open(&keys, &extent, frames, &bytes[stored.start as usize..stored.end as usize]).unwrap();
            let opened: Vec<u8> = opened.iter().flat_map(|frame| frame.iter().copied()).collect();
            prop_assert_eq!(held.len(), opened.len());
            prop_assert!(from == to || (held.start <= from && to <= held.end));
            prop_assert_eq!(&opened[..], &plain[held.start as usize..held.end as usize]);
        }
    }
}
