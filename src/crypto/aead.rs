//! XChaCha20-Poly1305: whole messages, and the frames of an extent under one HChaCha20 subkey.
//!
//! Owns: the nonce of a frame. Does not own: where nonces of whole messages come from, or what the associated data is.
//!
//! Invariants: a frame is byte for byte what XChaCha20-Poly1305 makes under the file key with the 24-byte nonce
//!
//! ```text
//! 16 random bytes of the extent || frame number, 7 bytes little-endian || 1 if it is the last frame, else 0
//! ```
//!
//! and no associated data. XChaCha20 takes the first 16 bytes of a nonce for HChaCha20 only, so that the subkey is
//! derived once an extent and each frame costs no more than ChaCha20-Poly1305. Nothing is decrypted before its tag
//! was checked.

use chacha20::cipher::StreamCipher;
use xchacha20poly1305::aead::array::Array;
use xchacha20poly1305::aead::inout::InOutBuf;
use xchacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use zeroize::Zeroize;

use super::secret::Key;
use crate::base::Random;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;
/// Bytes of the nonce of a whole message.
pub const NONCE_LEN: usize = 24;

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
    let cipher = XChaCha20Poly1305::new(&Array(*key.as_bytes()));
    cipher.encrypt_inout_detached(&Array(*nonce), aad, InOutBuf::from(bytes)).expect(TOO_LONG).0
}

/// Opens ciphertext followed by its tag.
pub fn open(key: &Key, nonce: &[u8; NONCE_LEN], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unauthentic> {
    let (bytes, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Unauthentic)?;
    let mut out = bytes.to_vec();
    open_in_place(key, nonce, aad, &mut out, tag)?;
    Ok(out)
}

/// Turns ciphertext into plaintext where it lies; leaves it as it is if the tag does not fit.
pub fn open_in_place(
    key: &Key,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    bytes: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Unauthentic> {
    let cipher = XChaCha20Poly1305::new(&Array(*key.as_bytes()));
    cipher.decrypt_inout_detached(&Array(*nonce), aad, InOutBuf::from(bytes), &Array(*tag)).map_err(|_| Unauthentic)
}

/// The subkey of one extent: seals and opens its frames.
pub struct FrameKey(ChaCha20Poly1305);

impl FrameKey {
    /// Derives the subkey from the file key and the extent's random bytes.
    pub fn new(file_key: &Key, nonce: &[u8; 16]) -> FrameKey {
        let mut subkey = chacha20::hchacha::<chacha20::R20>(&Array(*file_key.as_bytes()), &Array(*nonce));
        let cipher = ChaCha20Poly1305::new(&subkey);
        subkey.as_mut_slice().zeroize();
        FrameKey(cipher)
    }

    /// Turns frame `number` into ciphertext where it lies; returns the tag.
    pub fn seal_frame(&self, number: u32, last: bool, bytes: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = Array(frame_nonce(number, last));
        self.0.encrypt_inout_detached(&nonce, &[], InOutBuf::from(bytes)).expect(TOO_LONG).0
    }

    /// Turns frame `number` into plaintext where it lies; leaves it as it is if the tag does not fit.
    pub fn open_frame(
        &self,
        number: u32,
        last: bool,
        bytes: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        let nonce = Array(frame_nonce(number, last));
        self.0.decrypt_inout_detached(&nonce, &[], InOutBuf::from(bytes), &Array(*tag)).map_err(|_| Unauthentic)
    }
}

/// What XChaCha20 gives to ChaCha20 as nonce: four zeros, then the last eight bytes of its own.
fn frame_nonce(number: u32, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..8].copy_from_slice(&number.to_le_bytes());
    nonce[11] = last.into();
    nonce
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
    use xchacha20poly1305::aead::{Aead, Payload};

    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_frame_is_byte_for_byte_xchacha20poly1305(
            file_key: [u8; 32], random: [u8; 16], number: u32, last: bool,
            plaintext in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut nonce = [0; 24];
            nonce[..16].copy_from_slice(&random);
            nonce[16..20].copy_from_slice(&number.to_le_bytes());
            nonce[23] = last.into();
            let reference = XChaCha20Poly1305::new(&Array(file_key))
                .encrypt(&Array(nonce), Payload { msg: &plaintext, aad: &[] })
                .unwrap();
            let mut frame = plaintext.clone();
            let frame_key = FrameKey::new(&Key::from_bytes(file_key), &random);
            let tag = frame_key.seal_frame(number, last, &mut frame);
            prop_assert_eq!(&reference[..plaintext.len()], &frame[..]);
            prop_assert_eq!(&reference[plaintext.len()..], &tag[..]);
            prop_assert_eq!(frame_key.open_frame(number, !last, &mut frame, &tag), Err(Unauthentic));
            prop_assert_eq!(frame_key.open_frame(number ^ 1, last, &mut frame, &tag), Err(Unauthentic));
            frame_key.open_frame(number, last, &mut frame, &tag).unwrap();
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
