//! Plaintext does not outlive its use (promise 7): a search of the process's memory finds it while it is used, and not
//! once its time is over. And what was read once from the store is there after a remount, sealed.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Vault, is_root, run, skip, succeed, wait_until};
use crate::{mounted_with, noise, number, status, sync};

/// How often a word lies in the readable memory of a process.
fn times_in_memory(pid: i32, word: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).expect("root may");
    let mut times = 0;
    for line in maps.lines().filter(|line| line.contains(" r") && !line.contains("[v")) {
        let (from, to) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).expect("hexadecimal"));
        let mut bytes = vec![0; (to - from) as usize];
        // What is mapped and cannot be read (a guard, the end of a file) holds nothing.
        if memory.seek(SeekFrom::Start(from)).and_then(|_| memory.read_exact(&mut bytes)).is_ok() {
            times += count(&bytes, word);
        }
    }
    times
}

fn count(mut bytes: &[u8], word: &[u8]) -> usize {
    let mut times = 0;
    loop {
        // memmem by glibc: a plain scan in an unoptimised test would take longer than an entry lives.
        // SAFETY: both are valid for their lengths, and only read.
        let hit = unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), word.as_ptr().cast(), word.len()) };
        if hit.is_null() {
            return times;
        }
        times += 1;
        bytes = &bytes[hit.addr() - bytes.as_ptr().addr() + word.len()..];
    }
}

fn word() -> String {
    format!("Xyzzy{:016x}{:016x}", getrandom::u64().expect("random"), getrandom::u64().expect("random"))
}

/// What the kernel has of it goes, so that the next read asks the drive.
fn forget_pages(path: &Path) {
    let file = fs::File::open(path).expect("the file");
    // SAFETY: a descriptor of our own; whether the advice is taken shows.
    unsafe { libc::posix_fadvise(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

fn getfattr(path: &Path) -> String {
    let output = succeed(Command::new("getfattr").args(["--only-values", "-n", "user.dripfs.cached"]).arg(path));
    String::from_utf8(output.stdout).expect("a word")
}

#[test]
fn memory_holds_what_is_read_for_its_time_and_no_longer() {
    if !is_root() {
        return skip("only root may look into the memory of a process that is not dumpable");
    }
    let Some(mut vault) = mounted_with(&["-o", "cache_ttl=6"]) else { return };
    let daemons = vault.daemons();
    let [pid] = daemons[..] else { panic!("one daemon, not {daemons:?}") };
    // One that compresses and one that does not: they take different ways. The word alone stands in no search of ours.
    let (text, dense) = (word(), word());
    let path = |name: &str| vault.mountpoint().join(name);
    fs::write(path("text"), format!("{text} ").repeat(3000)).expect("a write");
    let mut bytes = noise(200_000);
    bytes[100_000..100_000 + dense.len()].copy_from_slice(dense.as_bytes());
    fs::write(path("dense"), &bytes).expect("a write");
    sync(&vault);
    for name in ["text", "dense"] {
        forget_pages(&path(name));
        fs::read(path(name)).expect("a read");
    }
    for word in [&text, &dense] {
        assert!(times_in_memory(pid, word.as_bytes()) > 0, "what was just read is in memory");
    }
    assert_eq!((getfattr(&path("text")), getfattr(&path("dense"))), ("memory".into(), "memory".into()));
    let listed = succeed(vault.dripfs(["cache", "list"]).arg(vault.mountpoint()));
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert!(listed.contains("/dense") && listed.contains("195.3 KiB"), "{listed}");
    wait_until("nothing is used any more", || number(&status(&vault), "/cache/entries") == 0);
    assert_eq!(number(&status(&vault), "/cache/bytes"), 0);
    wait_until("the plaintext is gone from memory", || {
        [&text, &dense].iter().all(|word| times_in_memory(pid, word.as_bytes()) == 0)
    });
    println!("plaintext: in the memory of the process while used, in none of it 6 s later");
    // Reading brings it back, over the kernel's pages, which are gone too.
    let misses = number(&status(&vault), "/cache/misses");
    assert_eq!(fs::read(path("dense")).expect("a read"), bytes);
    assert!(number(&status(&vault), "/cache/misses") > misses, "the kernel had no pages of it any more");
    vault.umount();
}

/// Reads at random places, past the kernel's pages.
fn read_some(path: &Path, len: u64) {
    forget_pages(path);
    let file = fs::File::open(path).expect("the file");
    let mut block = [0; 4096];
    for _ in 0..50 {
        file.read_exact_at(&mut block, crate::between(0, len / 4096) * 4096).expect("a read");
    }
}

#[test]
fn warming_dropping_and_listing_move_what_is_kept() {
    let Some(mut vault) = mounted_with(&["-o", "cache_ttl=2,disk_cache=64M"]) else { return };
    let dir = vault.mountpoint().join("d");
    fs::create_dir(&dir).expect("a directory");
    let contents = noise(3 << 20);
    for name in ["a", "b"] {
        fs::write(dir.join(name), &contents).expect("a write");
    }
    vault.umount();
    vault.mount_with(&["-o", "cache_ttl=2,disk_cache=64M"]);
    let a = dir.join("a");
    assert_eq!(getfattr(&a), "remote");
    let cache = |command: &str, path: &Path| succeed(vault.dripfs(["cache", command]).arg(path));
    let told = String::from_utf8(cache("warm", &dir).stdout).expect("text");
    assert!(told.contains("fetched 6.0 MiB of 2 files"), "{told}");
    wait_until("memory lets go", || number(&status(&vault), "/cache/entries") == 0);
    assert_eq!(getfattr(&a), "disk");
    let requests = number(&status(&vault), "/remote/requests");
    read_some(&a, contents.len() as u64);
    assert!(fs::read(dir.join("b")).expect("a read") == contents);
    assert_eq!(number(&status(&vault), "/remote/requests"), requests, "nothing was asked of the store");
    // After a remount too.
    vault.umount();
    vault.mount_with(&["-o", "cache_ttl=2,disk_cache=64M"]);
    let before = status(&vault);
    assert!(number(&before, "/cache/disk_bytes") > 6 << 20);
    assert!(fs::read(&a).expect("a read") == contents);
    let after = status(&vault);
    assert_eq!(number(&after, "/remote/requests"), number(&before, "/remote/requests"), "{after}");
    assert!(number(&after, "/cache/disk_hits") > 40, "{after}");
    let cache = |command: &str, path: &Path| succeed(vault.dripfs(["cache", command]).arg(path));
    cache("drop", &dir);
    assert_eq!(getfattr(&a), "remote");
    assert_eq!(number(&status(&vault), "/cache/bytes"), 0);
    // A part of it.
    read_some(&a, 4096);
    // Memory lets go after two seconds, and the disk is written to beside the read.
    wait_until("a part of it is here", || getfattr(&a) == "partly");
    let listing = run(Command::new("getfattr").args(["-d", "-m", "-"]).arg(&a));
    assert!(!String::from_utf8_lossy(&listing.stdout).contains("dripfs"), "it is read by name and never listed");
    let missing = run(vault.dripfs(["cache", "warm"]).arg(dir.join("missing")));
    assert_eq!(missing.status.code(), Some(1));
    vault.umount();
}

/// Open descriptors, and resident memory in MiB, of the daemon.
pub fn descriptors_and_memory(vault: &Vault) -> (usize, u64) {
    let daemons = vault.daemons();
    let [pid] = daemons[..] else { panic!("one daemon, not {daemons:?}") };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    let memory = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024;
    (fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count(), memory)
}

#[test]
fn descriptors_and_memory_are_flat_while_entries_come_and_go() {
    let Some(mut vault) = mounted_with(&["-o", "cache_ttl=1,cache=16M,disk_cache=64M"]) else { return };
    let mut seen = Vec::new();
    for turn in 0..4 {
        let dir = vault.mountpoint().join(format!("{turn}"));
        fs::create_dir(&dir).expect("a directory");
        let contents = noise(16 << 10);
        for k in 0..500 {
            fs::write(dir.join(k.to_string()), &contents).expect("a write");
        }
        for k in 0..500 {
            let path = dir.join(k.to_string());
            forget_pages(&path);
            assert!(fs::read(&path).expect("a read") == contents);
        }
        fs::remove_dir_all(&dir).expect("our own");
        sync(&vault);
        std::thread::sleep(Duration::from_secs(2));
        seen.push(descriptors_and_memory(&vault));
    }
    println!("flat: descriptors and MiB of memory after each of 4 turns: {seen:?}");
    let ((first, memory), (last, now)) = (seen[1], seen[3]);
    assert!(last <= first + 4, "{seen:?}");
    assert!(now <= memory + 16, "{seen:?}");
    vault.umount();
}
