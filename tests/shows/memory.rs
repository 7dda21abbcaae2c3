//! Memory stays within what was asked for, however much is written and read.

use std::fs::{self, File};
use std::io::{Read, Write};

use crate::common::Vault;
use crate::{long, mounted_with, sync};

const MIB: u64 = 1 << 20;

/// The bound, in MiB: what the settings allow, and 150 for everything else.
///
/// `cache` decrypted and `dirty` written bytes as set; 128 of appended journal bytes until fdatasync covers them;
/// then in 150: Argon2's 64 at mount (given back afterwards, but the peak counts it), four segments of 8 on their way
/// twice over (gathered, and in the store's hands), frames being sealed and opened on each processor, the overlay, the
/// program itself.
fn bound(cache: u64, dirty: u64) -> u64 {
    cache + dirty + 128 + 150
}

/// The most memory that the daemon ever had resident, in MiB.
fn peak(vault: &Vault) -> u64 {
    let daemons = vault.daemons();
    let [pid] = daemons[..] else { panic!("one daemon, not {daemons:?}") };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// Block `n` of a file: nothing in it compresses, and no two are equal.
fn block(n: u64, noise: &[u8], out: &mut [u8]) {
    out.copy_from_slice(noise);
    for (page, chunk) in out.chunks_exact_mut(4096).enumerate() {
        chunk[..8].copy_from_slice(&n.to_le_bytes());
        chunk[8..16].copy_from_slice(&(page as u64).to_le_bytes());
    }
}

#[test]
fn writing_and_reading_much_stays_within_the_memory_bound() {
    let (mib, cache, dirty) = if long() { (10 * 1024, 256, 128) } else { (1024, 32, 32) };
    let options = format!("cache={cache}M,dirty={dirty}M");
    let Some(mut vault) = mounted_with(&["-o", &options]) else { return };
    let path = vault.mountpoint().join("large");
    let noise = crate::noise(4 * MIB as usize);
    let (mut expected, mut read) = (vec![0; noise.len()], vec![0; noise.len()]);
    let mut file = File::create(&path).expect("a file");
    for n in 0..mib / 4 {
        block(n, &noise, &mut expected);
        file.write_all(&expected).expect("a write");
    }
    drop(file);
    sync(&vault);
    let written = peak(&vault);
    let mut file = File::open(&path).expect("the file");
    for n in 0..mib / 4 {
        block(n, &noise, &mut expected);
        file.read_exact(&mut read).expect("a read");
        assert!(read == expected, "block {n}");
    }
    drop(file);
    let both = peak(&vault);
    println!(
        "memory: {mib} MiB written and read, cache={cache}M, dirty={dirty}M: peak {written} MiB after writing, {both} MiB \
         after reading; bound {} MiB",
        bound(cache, dirty)
    );
    assert!(both <= bound(cache, dirty), "{both} MiB");
    vault.umount();
}
