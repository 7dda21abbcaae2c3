//! How fast this machine seals and opens: what [`dripfs::crypto::aead`] took for it, beside the portable reference.
//!
//! ```text
//! cargo run --release --example aead
//! ```
//!
//! prints, for messages of each size, the best of several rounds in GB/s (small ones in microseconds a message), and
//! the ratio to the reference. Both take turns within a round, so that a slow moment falls on both.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dripfs::crypto::aead::{self, FrameKey};
use dripfs::crypto::secret::Key;
use xchacha20poly1305::aead::inout::InOutBuf;
use xchacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};

const ROUNDS: usize = 15;
/// Bytes of one round of one candidate, and messages of it at most.
const ROUND: usize = 16 << 20;
const MESSAGES: usize = 20_000;

fn main() {
    println!("{:>22} {:>12} {:>12} {:>7}", "", "taken", "reference", "ratio");
    for size in [72, 512, 4 << 10, 16 << 10, 64 << 10, 1 << 20] {
        message(size);
    }
    for size in [4 << 10, 16 << 10, 128 << 10] {
        frame(size);
    }
}

/// A whole message, the subkey's derivation included.
fn message(size: usize) {
    let raw = [7; 32];
    let key = Key::from_bytes(raw);
    let mut bytes = vec![3; size];
    let mut other = bytes.clone();
    let taken = |nonce: u64| {
        black_box(aead::seal_in_place(&key, &wide(nonce), b"associated", &mut bytes));
    };
    let reference = |nonce: u64| {
        let cipher = XChaCha20Poly1305::new((&raw).into());
        let sealed =
            cipher.encrypt_inout_detached((&wide(nonce)).into(), b"associated", InOutBuf::from(&mut other[..]));
        black_box(sealed.expect("short"));
    };
    report("seal a message", size, taken, reference);
}

/// A frame under an extent's subkey: opened and sealed again, as a read and a write would.
fn frame(size: usize) {
    let key = FrameKey::new(&Key::from_bytes([7; 32]), &[1; 16]);
    let reference_key = XChaCha20Poly1305::new((&[7; 32]).into());
    let mut bytes = vec![3; size];
    let mut other = bytes.clone();
    let taken = |_| {
        let tag = key.seal_frame(1, false, &mut bytes);
        key.open_frame(1, false, &mut bytes, black_box(&tag)).expect("authentic");
    };
    let reference = |nonce: u64| {
        let nonce = wide(nonce);
        let sealed = reference_key.encrypt_inout_detached((&nonce).into(), &[], InOutBuf::from(&mut other[..]));
        let tag = black_box(sealed.expect("short"));
        let opened = reference_key.decrypt_inout_detached((&nonce).into(), &[], InOutBuf::from(&mut other[..]), &tag);
        opened.expect("authentic");
    };
    report("seal and open a frame", size, taken, reference);
}

fn wide(number: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce
}

fn report(what: &str, size: usize, mut taken: impl FnMut(u64), mut reference: impl FnMut(u64)) {
    let messages = (ROUND / size).clamp(1, MESSAGES);
    let (mut fast, mut slow) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        fast = fast.min(time(messages, &mut taken));
        slow = slow.min(time(messages, &mut reference));
    }
    let show = |time: Duration| match size {
        ..1024 => format!("{:.2} us", time.as_secs_f64() * 1e6 / messages as f64),
        _ => format!("{:.2} GB/s", (size * messages) as f64 / time.as_secs_f64() / 1e9),
    };
    let ratio = slow.as_secs_f64() / fast.as_secs_f64();
    println!("{:>22} {:>12} {:>12} {ratio:>7.2}", format!("{what}, {size}"), show(fast), show(slow));
}

fn time(messages: usize, work: &mut impl FnMut(u64)) -> Duration {
    let begun = Instant::now();
    (0..messages as u64).for_each(work);
    begun.elapsed()
}
