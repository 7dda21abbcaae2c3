//! XChaCha20-Poly1305: whole messages, and the frames of an extent under one HChaCha20 subkey.
//!
//! Owns: the nonce of a frame, and by which of two constructions the bytes are made (`Cipher`). Does not own: where
//! nonces of whole messages come from, or what the associated data is.
//!
//! XChaCha20 takes the first 16 bytes of its nonce for HChaCha20 alone: that makes a subkey, and the rest is
//! ChaCha20-Poly1305 under it with the last 8 bytes. So everything here is a subkey and then ChaCha20-Poly1305, for which
//! aws-lc's assembly takes half the time of the portable code, and a quarter where the message is short
//! (tests/bench/aead.rs).
//!
//! Invariants
//! - Both constructions make the same bytes, those of XChaCha20-Poly1305; the crate of that name is the test.
//! - A frame is what XChaCha20-Poly1305 makes under the file key, without associated data, with the 24-byte nonce
//!   ```text
//!   16 random bytes of the extent || frame number, 7 bytes little-endian || 1 if it is the last frame, else 0
//!   ```
//!   so that the subkey is derived once an extent.
//! - Nothing that does not authenticate is handed out, or left behind where it was to be opened.
//! - A subkey lives as long as its `Cipher`. aws-lc holds it in one allocation, which it wipes before it frees it, and
//!   wipes its own copies on the stack; the portable code wipes its own. Neither wipes the registers and stack that the
//!   rounds themselves went through.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::cipher::StreamCipher;
use xchacha20poly1305::aead::array::Array;
use xchacha20poly1305::aead::inout::InOutBuf;
use xchacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use zeroize::Zeroize;

use super::secret::Key;
use crate::base::Random;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;
/// Bytes of the nonce of a whole message.
pub const NONCE_LEN: usize = 24;
/// Bytes of a nonce that go into the subkey.
const SUBKEY_NONCE_LEN: usize = 16;

/// The tag does not fit: other bytes, another nonce, other associated data or another key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it does not authenticate")]
pub struct Unauthentic;

const TOO_LONG: &str = "a message is far below the 256 GiB that ChaCha20 takes";

/// Seals `plaintext`: ciphertext of the same length, then the tag.
pub fn seal(key: &Key, nonce: &[u8; NONCE_LEN], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plaintext.len() + TAG_LEN);
    out.extend_from_slice(plaintext);
    let tag = seal_in_place(key, nonce, aad, &mut out);
    out.extend_from_slice(&tag);
    out
}

/// Turns plaintext into ciphertext where it lies; returns the tag.
pub fn seal_in_place(key: &Key, nonce: &[u8; NONCE_LEN], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
    let (cipher, rest) = of_message(key, nonce);
    cipher.seal(rest, aad, bytes)
}

/// Opens ciphertext followed by its tag.
pub fn open(key: &Key, nonce: &[u8; NONCE_LEN], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unauthentic> {
    let (bytes, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Unauthentic)?;
    let (cipher, rest) = of_message(key, nonce);
    let mut out = bytes.to_vec();
    cipher.open(rest, aad, &mut out, tag)?;
    Ok(out)
}

/// What seals a whole message, and the nonce that is left for it.
fn of_message(key: &Key, nonce: &[u8; NONCE_LEN]) -> (Cipher, [u8; 12]) {
    let (subkey_nonce, rest) = nonce.split_first_chunk::<SUBKEY_NONCE_LEN>().expect("24 bytes are more than 16");
    let mut short = [0; 12];
    short[4..].copy_from_slice(rest);
    (Cipher::new(key, subkey_nonce), short)
}

/// The subkey of one extent: seals and opens its frames.
pub struct FrameKey(Cipher);

impl FrameKey {
    /// Derives the subkey from the file key and the extent's random bytes.
    pub fn new(file_key: &Key, nonce: &[u8; SUBKEY_NONCE_LEN]) -> FrameKey {
        FrameKey(Cipher::new(file_key, nonce))
    }

    /// Turns frame `number` into ciphertext where it lies; returns the tag.
    pub fn seal_frame(&self, number: u32, last: bool, bytes: &mut [u8]) -> [u8; TAG_LEN] {
        self.0.seal(frame_nonce(number, last), &[], bytes)
    }

    /// Turns frame `number` into plaintext where it lies; if the tag does not fit, what lies there is of no use.
    pub fn open_frame(
        &self,
        number: u32,
        last: bool,
        bytes: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        self.0.open(frame_nonce(number, last), &[], bytes, tag)
    }
}

/// What XChaCha20 gives to ChaCha20 as nonce: four zeros, then the last eight bytes of its own.
fn frame_nonce(number: u32, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..8].copy_from_slice(&number.to_le_bytes());
    nonce[11] = last.into();
    nonce
}

/// ChaCha20-Poly1305 under one subkey.
enum Cipher {
    /// aws-lc's.
    Assembly(LessSafeKey),
    Portable(ChaCha20Poly1305),
}

impl Cipher {
    /// By the faster construction that this processor has.
    fn new(key: &Key, nonce: &[u8; SUBKEY_NONCE_LEN]) -> Cipher {
        let mut subkey = chacha20::hchacha::<chacha20::R20>(key.as_bytes().into(), nonce.into());
        let assembly = if has_assembly() { Cipher::assembly(subkey.as_slice()) } else { None };
        let cipher = assembly.unwrap_or_else(|| Cipher::Portable(ChaCha20Poly1305::new(&subkey)));
        subkey.as_mut_slice().zeroize();
        cipher
    }

    /// `None` if aws-lc has no memory.
    fn assembly(subkey: &[u8]) -> Option<Cipher> {
        UnboundKey::new(&CHACHA20_POLY1305, subkey).ok().map(|key| Cipher::Assembly(LessSafeKey::new(key)))
    }

    fn seal(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        match self {
            Cipher::Assembly(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), bytes).expect(TOO_LONG);
                tag.as_ref().try_into().expect("a tag has 16 bytes")
            }
            Cipher::Portable(cipher) => {
                cipher.encrypt_inout_detached(&Array(nonce), aad, InOutBuf::from(bytes)).expect(TOO_LONG).0
            }
        }
    }

    /// If the tag does not fit, `bytes` are zeros or the ciphertext.
    fn open(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Unauthentic> {
        match self {
            Cipher::Assembly(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, bytes).map(drop).map_err(|_| Unauthentic)
            }
            Cipher::Portable(cipher) => cipher
                .decrypt_inout_detached(&Array(nonce), aad, InOutBuf::from(bytes), &Array(*tag))
                .map_err(|_| Unauthentic),
        }
    }
}

/// Does this processor have what aws-lc's assembly needs? Elsewhere aws-lc has plain C, which is no faster than ours.
fn has_assembly() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sse4.1");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("neon");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Fills `out` with bytes that nobody can tell from random ones: the ChaCha20 stream of a key that the kernel gave
/// for this one call. Padding only; nonces and keys come from the kernel directly.
pub fn fill_padding(random: &Random, out: &mut [u8]) {
    use chacha20::KeyIvInit;
    let key = Key::random(random);
    out.fill(0);
    chacha20::ChaCha20::new(&Array(*key.as_bytes()), &Array([0; 12])).apply_keystream(out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xchacha20poly1305::XChaCha20Poly1305;
    use xchacha20poly1305::aead::{Aead, Payload};

    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    /// Both constructions, whichever this processor takes.
    fn both(key: &Key, nonce: &[u8; SUBKEY_NONCE_LEN]) -> [Cipher; 2] {
        let subkey = chacha20::hchacha::<chacha20::R20>(key.as_bytes().into(), nonce.into());
        [Cipher::assembly(&subkey).expect("memory"), Cipher::Portable(ChaCha20Poly1305::new(&subkey))]
    }

    fn reference(key: &[u8; 32], nonce: &[u8; NONCE_LEN], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: plaintext, aad };
        XChaCha20Poly1305::new(&Array(*key)).encrypt(&Array(*nonce), payload).expect("short")
    }

    /// The vector of draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn a_message_is_sealed_as_the_draft_of_xchacha_says() {
        let plaintext: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                                 future, sunscreen would be it.";
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let key = Key::from_bytes(std::array::from_fn(|k| 0x80 + k as u8));
        let nonce = std::array::from_fn(|k| 0x40 + k as u8);
        let sealed = seal(&key, &nonce, &aad, plaintext);
        assert_eq!(sealed[..8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        assert_eq!(sealed[plaintext.len()..][..8], [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79]);
        assert_eq!(open(&key, &nonce, &aad, &sealed).as_deref(), Ok(plaintext));
    }

    /// Around the block sizes of every vector path, and beyond the largest.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..700),
            (0usize..20_000, any::<u8>()).prop_map(|(len, seed)| (0..len).map(|k| (k as u8) ^ seed).collect()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn both_constructions_make_the_bytes_of_xchacha20poly1305(
            raw: [u8; 32], nonce: [u8; 24], aad in prop::collection::vec(any::<u8>(), 0..100), plaintext in bytes(),
        ) {
            let sealed = reference(&raw, &nonce, &aad, &plaintext);
            let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().expect("a tag");
            let key = Key::from_bytes(raw);
            prop_assert_eq!(&seal(&key, &nonce, &aad, &plaintext), &sealed);
            prop_assert_eq!(open(&key, &nonce, &aad, &sealed), Ok(plaintext.clone()));
            let (_, rest) = of_message(&key, &nonce);
            for cipher in both(&key, nonce.first_chunk().expect("24 bytes are more than 16")) {
                let mut bytes = plaintext.clone();
                prop_assert_eq!(&cipher.seal(rest, &aad, &mut bytes), tag);
                prop_assert_eq!(&bytes[..], text);
                prop_assert_eq!(cipher.open(rest, &aad, &mut bytes, tag), Ok(()));
                prop_assert_eq!(&bytes, &plaintext);
            }
        }

        #[test]
        fn what_does_not_authenticate_leaves_no_plaintext_behind(
            raw: [u8; 32], nonce: [u8; 16], bit in 0usize..128, plaintext in bytes(),
        ) {
            for cipher in both(&Key::from_bytes(raw), &nonce) {
                let mut sealed = plaintext.clone();
                let mut tag = cipher.seal([7; 12], b"aad", &mut sealed);
                tag[bit / 8] ^= 1 << (bit % 8);
                let mut bytes = sealed.clone();
                prop_assert_eq!(cipher.open([7; 12], b"aad", &mut bytes, &tag), Err(Unauthentic));
                prop_assert!(bytes == sealed || bytes.iter().all(|byte| *byte == 0));
            }
        }

        #[test]
        fn a_frame_is_byte_for_byte_xchacha20poly1305(
            file_key: [u8; 32], random: [u8; 16], number: u32, last: bool, plaintext in bytes(),
        ) {
            let mut nonce = [0; 24];
            nonce[..16].copy_from_slice(&random);
            nonce[16..20].copy_from_slice(&number.to_le_bytes());
            nonce[23] = last.into();
            let reference = reference(&file_key, &nonce, &[], &plaintext);
            let mut frame = plaintext.clone();
            let frame_key = FrameKey::new(&Key::from_bytes(file_key), &random);
            let tag = frame_key.seal_frame(number, last, &mut frame);
            prop_assert_eq!(&reference[..plaintext.len()], &frame[..]);
            prop_assert_eq!(&reference[plaintext.len()..], &tag[..]);
            for (other, ending) in [(number, !last), (number ^ 1, last)] {
                prop_assert_eq!(frame_key.open_frame(other, ending, &mut frame.clone(), &tag), Err(Unauthentic));
            }
            prop_assert_eq!(frame_key.open_frame(number, last, &mut frame, &tag), Ok(()));
            prop_assert_eq!(frame, plaintext);
        }
    }

    #[test]
    fn any_change_of_key_nonce_aad_or_bytes_is_refused() {
        let sealed = seal(&key(1), &[2; 24], b"here", b"hello");
        assert_eq!(open(&key(1), &[2; 24], b"here", &sealed).as_deref(), Ok(b"hello".as_slice()));
        assert_eq!(open(&key(2), &[2; 24], b"here", &sealed), Err(Unauthentic));
        assert_eq!(open(&key(1), &[3; 24], b"here", &sealed), Err(Unauthentic));
        assert_eq!(open(&key(1), &[2; 24], b"there", &sealed), Err(Unauthentic));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&key(1), &[2; 24], b"here", &changed), Err(Unauthentic));
            assert_eq!(open(&key(1), &[2; 24], b"here", &sealed[..at]), Err(Unauthentic));
        }
    }

    #[test]
    fn padding_is_neither_zeros_nor_the_same_twice() {
        let (mut a, mut b) = ([0; 64], [0; 64]);
        fill_padding(&Random::Kernel, &mut a);
        fill_padding(&Random::Kernel, &mut b);
        assert_ne!(a, [0; 64]);
        assert_ne!(a, b);
    }
}
