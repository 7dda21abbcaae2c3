//! A crowd: a hundred files read at once, cold, and sixteen written at once. Prints throughput, how fair it was, and the
//! memory in flight beside its budget; a figure is no assertion.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::Vault;
use crate::{long, mounted, noise, number, status, sync};

const MIB: usize = 1 << 20;
const READERS: usize = 100;
const WRITERS: usize = 16;

/// Runs all of them at once; how long each took.
fn at_once(count: usize, work: impl Fn(usize) + Sync) -> (Duration, Vec<Duration>) {
    let began = Instant::now();
    let took = std::thread::scope(|scope| {
        let run = |k| {
            let work = &work;
            scope.spawn(move || {
                work(k);
                began.elapsed()
            })
        };
        let running: Vec<_> = (0..count).map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("all of it")).collect()
    });
    (began.elapsed(), took)
}

fn tell(what: &str, bytes: usize, (all, mut took): (Duration, Vec<Duration>), vault: &Vault) {
    took.sort();
    let (status, last) = (status(vault), took.len() - 1);
    let [peak, limit] = ["peak", "limit"].map(|name| number(&status, &format!("/pipelines/inflight_{name}")));
    println!(
        "{what}: {:.0} MiB/s; the first was through after {:.2} s, the median after {:.2} s, the last after {:.2} s; in flight \
         at most {:.1} of {:.1} MiB",
        bytes as f64 / MIB as f64 / all.as_secs_f64(),
        took[0].as_secs_f64(),
        took[last / 2].as_secs_f64(),
        took[last].as_secs_f64(),
        peak as f64 / MIB as f64,
        limit as f64 / MIB as f64
    );
    assert!(peak <= limit, "more in flight than the budget allows: {peak} of {limit}");
}

/// Nothing of the vault is in the kernel's memory, where that can be had.
fn forget_pages() {
    if let Err(why) = fs::write("/proc/sys/vm/drop_caches", "3") {
        println!("the vault's own pages stay in memory: {why}");
    }
}

#[test]
fn a_hundred_readers_and_sixteen_writers_at_once_stay_within_the_budget_of_memory() {
    let Some(mut vault) = mounted() else { return };
    let (each, written) = if long() { (8 * MIB, 64 * MIB) } else { (MIB / 2, 4 * MIB) };
    let bytes = noise(each + READERS);
    let name = |dir: &Path, what: &str, k: usize| dir.join(format!("{what}{k}"));
    let dir = vault.mountpoint();
    for k in 0..READERS {
        fs::write(name(&dir, "read", k), &bytes[k..][..each]).expect("a write");
    }
    sync(&vault);
    vault.umount();
    forget_pages();
    vault.mount_again(&[]);
    let read = at_once(READERS, |k| {
        assert!(fs::read(name(&dir, "read", k)).expect("a read") == bytes[k..][..each], "file {k}");
    });
    tell("100 readers", READERS * each, read, &vault);
    let bytes = noise(written + WRITERS);
    let wrote = at_once(WRITERS, |k| {
        let mut file = fs::File::create(name(&dir, "written", k)).expect("a file");
        bytes[k..][..written].chunks(MIB).for_each(|chunk| file.write_all(chunk).expect("a write"));
        file.sync_all().expect("fsync");
    });
    tell("16 writers, with fsync", WRITERS * written, wrote, &vault);
    sync(&vault);
    vault.umount();
    forget_pages();
    vault.mount_again(&[]);
    for k in 0..WRITERS {
        assert!(fs::read(name(&dir, "written", k)).expect("a read") == bytes[k..][..written], "file {k}");
    }
    vault.umount();
}
