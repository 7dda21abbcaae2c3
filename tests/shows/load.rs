//! An hour of everything at once, through a cache of 256 MiB and one of 1 GiB: memory, disk and descriptors are bounded,
//! and flat at the end. The long form alone: DRIPFS_LONG=1, and DRIPFS_LOAD_MINUTES for another length than 60.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::Vault;
use crate::plaintext::descriptors_and_memory;
use crate::{between, files, long, mounted_with, noise, number, status};

const MIB: u64 = 1 << 20;

/// Between two steps: a load that goes on, not as much as the machine can do.
const SMALL_PAUSE: Duration = Duration::from_millis(2);
const LARGE_PAUSE: Duration = Duration::from_secs(6);

struct Load {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Load {
    fn each(&self, pause: Duration, mut step: impl FnMut(u64)) {
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            step(n);
            n += 1;
            self.done.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(pause);
        }
    }

    /// Small files come, are read, and go.
    fn small(&self, dir: &Path) {
        let bytes = noise(64 << 10);
        let path = |n: u64| dir.join(format!("{}/{n}", n % 50));
        (0..50).for_each(|k| fs::create_dir_all(dir.join(k.to_string())).expect("a directory"));
        self.each(SMALL_PAUSE, |n| {
            fs::write(path(n), &bytes[..between(0, 32 << 10) as usize]).expect("a write");
            if n >= 5_000 {
                fs::read(path(n - between(1, 5_000))).expect("a read");
                fs::remove_file(path(n - 5_000)).expect("ours");
            }
        });
    }

    /// Large files are written, and read from end to end.
    fn large(&self, dir: &Path) {
        let bytes = noise(MIB as usize);
        self.each(LARGE_PAUSE, |n| {
            let path = dir.join(format!("large{}", n % 4));
            let mut file = fs::File::create(&path).expect("a file");
            (0..256).for_each(|_| file.write_all(&bytes).expect("a write"));
            drop(file);
            assert_eq!(
                fs::read(dir.join(format!("large{}", between(0, 4.min(n + 1))))).expect("a read").len() as u64 % MIB,
                0
            );
        });
    }

    /// One file is read and written at random places.
    fn random(&self, dir: &Path) {
        let file =
            fs::File::options().read(true).write(true).create_new(true).open(dir.join("random")).expect("a file");
        let (bytes, mut read) = (noise(128 << 10), vec![0; 128 << 10]);
        file.set_len(512 * MIB).expect("a size");
        self.each(SMALL_PAUSE, |n| {
            let (at, len) = (between(0, 512 * MIB - (128 << 10)), between(1, 128 << 10) as usize);
            match n % 4 {
                0 => file.write_all_at(&bytes[..len], at).expect("a write"),
                _ => file.read_exact_at(&mut read[..len], at).expect("a read"),
            }
            if n % 500 == 0 {
                file.sync_data().expect("fsync");
            }
        });
    }
}

fn look(vault: &Vault, minute: u64, load: &Load) -> (usize, u64, u64) {
    let (descriptors, memory) = descriptors_and_memory(vault);
    let disk = files(vault.state()).iter().map(|(_, len)| len).sum::<u64>() / MIB;
    let told = status(vault);
    println!(
        "load: minute {minute}: {memory} MiB resident, {disk} MiB in the state directory, {descriptors} descriptors; \
         cache {} MiB in {} entries, {} MiB on the disk, {} MiB pending; {} steps",
        number(&told, "/cache/bytes") / MIB,
        number(&told, "/cache/entries"),
        number(&told, "/cache/disk_bytes") / MIB,
        number(&told, "/pending_bytes") / MIB,
        load.done.load(Ordering::Relaxed)
    );
    (descriptors, memory, disk)
}

fn run(cache: u64, minutes: u64) {
    let options = format!("cache={cache}M,disk_cache={cache}M,journal=2G");
    let Some(mut vault) = mounted_with(&["-o", &options]) else { return };
    let load = Load { stop: AtomicBool::new(false), done: AtomicU64::new(0) };
    let mut seen = Vec::new();
    let load = &load;
    std::thread::scope(|scope| {
        let work: [fn(&Load, &Path); 3] = [Load::small, Load::large, Load::random];
        let threads = work.map(|work| {
            let dir = vault.mountpoint();
            scope.spawn(move || work(load, &dir))
        });
        let began = Instant::now();
        for minute in 1..=minutes {
            std::thread::sleep((Duration::from_secs(60 * minute)).saturating_sub(began.elapsed()));
            assert!(threads.iter().all(|thread| !thread.is_finished()), "a load ended by an error");
            seen.push(look(&vault, minute, load));
        }
        load.stop.store(true, Ordering::Relaxed);
    });
    // The second quarter beside the last: what grows shows.
    let part = |from: u64, to: u64| &seen[(from * minutes / 4) as usize..(to * minutes / 4) as usize];
    let most =
        |part: &[(usize, u64, u64)]| part.iter().fold((0, 0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1), a.2.max(b.2)));
    if minutes >= 8 {
        let (early, late) = (most(part(1, 2)), most(part(3, 4)));
        println!("load: cache={cache}M: descriptors, MiB of memory, MiB of disk: {early:?} early, {late:?} late");
        assert!(late.0 <= early.0 + 16 && late.1 <= early.1 + early.1 / 5 + 64, "{early:?} then {late:?}");
    }
    vault.umount();
}

fn an_hour(cache: u64) {
    if !long() {
        return;
    }
    let minutes = std::env::var("DRIPFS_LOAD_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    run(cache, minutes);
}

#[test]
fn an_hour_of_mixed_load_is_flat_with_256_mib() {
    an_hour(256);
}

#[test]
fn an_hour_of_mixed_load_is_flat_with_1_gib() {
    an_hour(1024);
}
