//! What an fsync costs at each level, beside an fdatasync of the disk below. Prints figures, demands none of them.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{long, mounted_with, noise, status};

/// Writes 4 KiB to each of many new files and makes it safe; how long the last step took, sorted.
fn latencies(dir: &Path, number: usize, sync: impl Fn(&File)) -> Vec<Duration> {
    let bytes = noise(4096);
    let mut times: Vec<Duration> = (0..number)
        .map(|n| {
            let mut file = File::create(dir.join(format!("f{n}"))).expect("a file");
            file.write_all(&bytes).expect("a write");
            let began = Instant::now();
            sync(&file);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn tell(what: &str, times: &[Duration]) {
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("fsync, {what}: p50 {:?}, p99 {:?} of {}", at(50), at(99), times.len());
}

#[test]
fn what_an_fsync_costs_at_each_level() {
    let number = if long() { 1000 } else { 50 };
    for level in ["local", "remote", "async"] {
        let Some(mut vault) = mounted_with(&["--durability", level]) else { return };
        let number = if level == "remote" { number / 5 } else { number };
        let before = status(&vault)["sequence"].as_u64();
        let times = latencies(&vault.mountpoint(), number, |file| file.sync_all().expect("fsync"));
        tell(level, &times);
        if level == "remote" {
            assert!(status(&vault)["sequence"].as_u64() > before, "an fsync returned, and no commit was made for it");
        }
        if level == "local" {
            let below = vault.root().join("below");
            fs::create_dir(&below).expect("a directory");
            let appended = File::create(below.join("log")).expect("a file");
            let bytes = noise(4096);
            let alone = latencies(&below, number, |_| {
                (&appended).write_all(&bytes).and_then(|()| appended.sync_data()).expect("fdatasync");
            });
            tell("an append to one file and fdatasync, on the disk below", &alone);
        }
        vault.umount();
    }
}
