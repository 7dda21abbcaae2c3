//! Saves by write-and-rename while rounds run and the process is killed at random; rewriting without pause.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::Vault;
use crate::{Onlooker, between, long, mounted, mounted_with, noise, number, status};

/// A document of one version: its number at the front and at the end, and between them what follows from it.
fn document(version: u64) -> Vec<u8> {
    let words = 16 + (version * 7919) % 40_000;
    let mut text = Vec::with_capacity(8 * (words as usize + 2));
    text.extend(version.to_le_bytes());
    for n in 0..words {
        text.extend((version.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n * n)).to_le_bytes());
    }
    text.extend(version.to_le_bytes());
    text
}

/// Which version this is; anything but one whole version fails the test.
fn version_of(bytes: &[u8], whose: &str) -> u64 {
    let front = bytes.first_chunk().map(|front| u64::from_le_bytes(*front));
    let Some(version) = front else { panic!("{whose}: {} bytes are left of the document", bytes.len()) };
    assert!(bytes == document(version), "{whose}: half of version {version}, {} bytes", bytes.len());
    version
}

/// What the loop has done so far.
#[derive(Clone, Copy, Default, Debug)]
struct Done {
    /// The newest version that was begun.
    begun: u64,
    /// The newest that was renamed into place and fsynced.
    fsynced: u64,
}

/// Saves new versions until an error: the drive was killed. Or until it is `over`: between two operations the drive may
/// go unnoticed, and what lies under it takes all that is saved.
fn save_until_killed(dir: &Path, done: &Mutex<Done>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let version = {
            let mut done = done.lock().expect("no panic with it held");
            done.begun += 1;
            done.begun
        };
        if save(dir, version).is_err() {
            return;
        }
        if version % 3 == 0 && File::open(dir.join("doc")).and_then(|file| file.sync_all()).is_ok() {
            done.lock().expect("no panic with it held").fsynced = version;
        }
    }
}

/// As careless programs save: no fsync, only the rename.
fn save(dir: &Path, version: u64) -> io::Result<()> {
    let new = dir.join("doc.new");
    let mut file = File::create(&new)?;
    for part in document(version).chunks(50_000) {
        file.write_all(part)?;
    }
    drop(file);
    fs::rename(&new, dir.join("doc"))
}

/// One life: saves, rounds one after the other, and a kill after a while.
fn live_and_die(vault: &mut Vault, done: &Mutex<Done>, life: Duration) {
    let (dir, over) = (vault.mountpoint(), AtomicBool::new(false));
    let mut sync = vault.dripfs(["sync"]);
    sync.arg(&dir).stderr(std::process::Stdio::null());
    std::thread::scope(|scope| {
        scope.spawn(|| save_until_killed(&dir, done, &over));
        // Each sync makes a round; without them there would be one in five seconds.
        scope.spawn(|| {
            loop {
                if over.load(Ordering::Relaxed) || !sync.status().is_ok_and(|status| status.success()) {
                    break;
                }
            }
        });
        std::thread::sleep(life);
        over.store(true, Ordering::Relaxed);
        vault.kill();
    });
}

#[test]
fn killed_at_random_a_saved_file_is_old_or_new_and_goes_forward() {
    let Some(mut vault) = mounted() else { return };
    let Some(mut onlooker) = Onlooker::new() else { return };
    let kills = if long() { 50 } else { 8 };
    let (done, mut seen, mut steps) = (Mutex::new(Done::default()), 0, 0);
    for kill in 1..=kills {
        live_and_die(&mut vault, &done, Duration::from_millis(between(30, 900)));
        let Done { begun, fsynced } = *done.lock().expect("no panic with it held");
        let elsewhere = onlooker.look(&vault, |dir| fs::read(dir.join("doc")).ok());
        // None at all is right only while none has reached the vault.
        let elsewhere = elsewhere.map_or(0, |bytes| version_of(&bytes, "elsewhere"));
        assert!((seen..=begun).contains(&elsewhere), "kill {kill}: {elsewhere} after {seen}, of {begun}");
        steps += u32::from(elsewhere > seen);
        seen = elsewhere;

        vault.mount_with(&[]);
        let here = fs::read(vault.mountpoint().join("doc")).map_or(0, |bytes| version_of(&bytes, "here"));
        assert!(here >= fsynced, "kill {kill}: {here} is here, {fsynced} was fsynced");
        assert!((seen..=begun).contains(&here), "kill {kill}: {here} here, {seen} in the vault, of {begun}");
    }
    let Done { begun, fsynced } = *done.lock().expect("no panic with it held");
    println!(
        "write-and-rename: {kills} kills, {begun} versions, {fsynced} fsynced, {seen} seen elsewhere in {steps} steps forward"
    );
    assert!(steps * 2 >= kills, "the vault hardly went forward: {steps} steps in {kills} lives");
    vault.umount();
    let last = onlooker.look(&vault, |dir| fs::read(dir.join("doc")).expect("a document"));
    assert!(version_of(&last, "in the end") >= fsynced);
}

#[test]
fn a_file_rewritten_and_fsynced_without_pause_is_committed_and_the_journal_stays_bounded() {
    const JOURNAL: u64 = 64 << 20;
    // A journal file may be begun before the oldest is dropped, and one extent may be on its way.
    const SLACK: u64 = 16 << 20;
    let Some(mut vault) = mounted_with(&["-o", "journal=64M"]) else { return };
    let time = Duration::from_secs(if long() { 60 } else { 20 });
    let (over, written) = (AtomicBool::new(false), Mutex::new(0u64));
    let path = vault.mountpoint().join("doc");
    let samples = std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = noise(1 << 20);
            // At least twice what the journal holds, however slow the machine.
            while !over.load(Ordering::Relaxed) || *written.lock().expect("no panic") < 2 * JOURNAL {
                let mut file = File::create(&path).expect("the drive is there");
                file.write_all(&bytes).and_then(|()| file.sync_all()).expect("a write and an fsync");
                *written.lock().expect("no panic") += bytes.len() as u64;
            }
        });
        let (begun, mut samples) = (Instant::now(), Vec::new());
        while begun.elapsed() < time || *written.lock().expect("no panic") < 2 * JOURNAL {
            let now = status(&vault);
            samples.push((number(&now, "/sequence"), number(&now, "/journal_bytes")));
            std::thread::sleep(Duration::from_millis(500));
        }
        over.store(true, Ordering::Relaxed);
        samples
    });
    let most = samples.iter().map(|(_, bytes)| *bytes).max().expect("samples");
    let commits: Vec<u64> = samples.iter().map(|(sequence, _)| *sequence).collect();
    let (first, middle, last) = (commits[0], commits[commits.len() / 2], commits[commits.len() - 1]);
    println!(
        "rewriting: {} MiB fsynced, commits {first} to {last}, journal at most {} MiB of {} MiB",
        *written.lock().expect("no panic") >> 20,
        most >> 20,
        JOURNAL >> 20
    );
    assert!(first < middle && middle < last, "commits stopped coming: {commits:?}");
    assert!(most <= JOURNAL + SLACK, "the journal grew to {most}");
    vault.umount();
}
