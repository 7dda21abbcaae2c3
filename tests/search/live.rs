//! Answers are never stale, and never of a state that was not.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::{ask, mounted, search};

/// 200 lines a second, for a few seconds.
const LINES: usize = 600;

#[test]
fn a_file_that_grows_is_found_as_it_was_at_one_moment() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    let (log, done) = (dir.join("log"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("a file");
            let begun = Instant::now();
            for n in 0..LINES {
                let due = Duration::from_millis(5) * n as u32;
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                file.write_all(format!("line {n} of what is appended\n").as_bytes()).expect("an append");
            }
            done.store(true, Ordering::SeqCst);
        });
        let (mut before, mut asked) = (0, 0);
        while !done.load(Ordering::SeqCst) {
            let least = fs::metadata(&log).map_or(0, |meta| meta.size()) as usize;
            let found = ask(&dir, "^line [0-9]+ of");
            let expected: String =
                (0..found.lines().count()).map(|n| format!("log:{}:line {n} of what is appended\n", n + 1)).collect();
            assert_eq!(found, expected, "all lines up to one of them, each whole");
            assert!(found.lines().count() >= before, "no answer is older than one before it");
            let length: usize = found.lines().map(|line| line.len() - line.find(":line").unwrap()).sum();
            assert!(length >= least, "nothing is missing that was written before: {length} of {least} bytes");
            before = found.lines().count();
            asked += 1;
            // A process of its own asks, too; it meets the answers of this one, and they are as good.
            let (code, found, err) = search(&vault, &dir, &["^line [0-9]+ of"]);
            assert!(code == Some(0) || (code == Some(1) && before == 0), "{code:?} {err}");
            assert!(err.is_empty() && found.lines().count() >= before, "{err}");
            before = found.lines().count();
        }
        assert!(asked > 10, "{asked} searches");
    });
    assert_eq!(ask(&dir, "of what is").lines().count(), LINES);
}

#[test]
fn what_is_rewritten_is_found_old_or_new_and_never_mixed() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    // Larger than one look of the scanner, in place: every line bears the number of its write.
    let write = |n: usize| {
        let text = format!("{n:08} state\n").repeat(60_000);
        (dir.join("a"), text)
    };
    let done = AtomicBool::new(false);
    let (path, text) = write(0);
    fs::write(&path, text).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..20 {
                let (path, text) = write(n);
                // Renamed over it: the whole at once.
                fs::write(dir.join("new"), text).unwrap();
                fs::rename(dir.join("new"), path).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            let found = ask(&dir, "-g=a:state");
            let states: std::collections::BTreeSet<&str> =
                found.lines().filter_map(|line| line.rsplit(':').next()).collect();
            assert!(states.len() <= 1, "{states:?}");
            assert!(found.is_empty() || found.lines().count() == 60_000);
        }
    });
    assert!(ask(&dir, "-g=a:00000019").starts_with("a:1:00000019 state\n"));
}

#[test]
fn no_answer_is_stale_after_any_change() {
    let Some(vault) = mounted("") else { return };
    let dir = vault.mountpoint();
    fs::create_dir(dir.join("d")).unwrap();
    let path = dir.join("d/f");
    fs::write(&path, "needle\n").unwrap();
    assert_eq!(ask(&dir, "needle"), "d/f:1:needle\n");
    // Written, in memory alone.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"needle two\n").unwrap();
    assert_eq!(ask(&dir, "needle"), "d/f:1:needle\nd/f:2:needle two\n");
    file.sync_all().unwrap();
    assert_eq!(ask(&dir, "needle"), "d/f:1:needle\nd/f:2:needle two\n");
    file.set_len(7).unwrap();
    assert_eq!(ask(&dir, "needle"), "d/f:1:needle\n");
    fs::rename(dir.join("d"), dir.join("e")).unwrap();
    assert_eq!(ask(&dir, "needle"), "e/f:1:needle\n");
    // Through a memory map.
    let file = OpenOptions::new().read(true).write(true).open(dir.join("e/f")).unwrap();
    // SAFETY: 7 bytes of a file of 7, synced and unmapped before it closes.
    unsafe {
        let (len, fd) = (7, std::os::fd::AsRawFd::as_raw_fd(&file));
        let map = libc::mmap(std::ptr::null_mut(), len, libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
        assert_ne!(map, libc::MAP_FAILED);
        map.cast::<u8>().write(b'N');
        assert_eq!(libc::msync(map, len, libc::MS_SYNC), 0);
        libc::munmap(map, len);
    }
    assert_eq!((ask(&dir, "needle"), ask(&dir, "Needle")), (String::new(), "e/f:1:Needle\n".to_owned()));
    fs::remove_file(dir.join("e/f")).unwrap();
    assert_eq!(ask(&dir, "-i:needle"), "");
}

#[test]
fn results_are_kept_in_memory_on_the_disk_or_nowhere_and_change_nothing() {
    for keep in ["memory", "disk", "nowhere"] {
        let Some(vault) = mounted(&format!("search_keep={keep},cache_ttl=1")) else { return };
        let dir = vault.mountpoint();
        for n in 0..50 {
            fs::write(dir.join(format!("{n}")), format!("secret needle {n}\n").repeat(n)).unwrap();
        }
        let first = ask(&dir, "needle");
        assert_eq!(first.lines().count(), 49 * 50 / 2);
        let sealed = fs::read_dir(vault.state()).unwrap().flatten().map(|vault| vault.path().join("search"));
        let sealed: Vec<_> = sealed.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().collect();
        assert_eq!(sealed.is_empty(), keep != "disk", "{keep}");
        for file in &sealed {
            let bytes = fs::read(file.path()).unwrap();
            assert!(bytes.len() > 10_000 && !bytes.windows(6).any(|part| part == b"needle" || part == b"secret"));
        }
        // Something changes, so that each file is asked for again.
        File::create(dir.join("new")).unwrap();
        assert_eq!(ask(&dir, "needle"), first);
        crate::common::wait_until("they are swept", || sealed.iter().all(|file| !file.path().exists()));
        assert_eq!(ask(&dir, "needle"), first);
    }
}
